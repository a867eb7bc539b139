// Planted bugs: of every mistake that the emulator is to find, a kernel with it (NAME_bug) and its correct twin (NAME_ok).
// tests/planted.rs has the launches and what each build is to say.
//
// All take y [n] f32 (out), x [n] f32 (in, small integers), flags [n] u32 (zero); the sm_90 ones also a map of x as bf16
// [2 n / 64, 64] (boxes [64, 64], 128-byte swizzle) and one of y as f32 [n / 32, 32] (boxes [64, 32], no swizzle). n is 4096.
#include "ptx.cuh"

#define PLANTED_WITH(KERNEL, name, threads)                                                                      \
    KERNEL(80, name##_ok, threads, (float* y, const float* x, u32* flags, int n)) { name<false>(y, x, flags, n); } \
    KERNEL(80, name##_bug, threads, (float* y, const float* x, u32* flags, int n)) { name<true>(y, x, flags, n); }
#define PLANTED(name, threads) PLANTED_WITH(FLANRT_KERNEL, name, threads)
#define PLANTED_ORDERED(name, threads) PLANTED_WITH(FLANRT_KERNEL_ORDERED, name, threads)
#define BUG_BODY(name) template <bool BUG> DEVICE void name([[maybe_unused]] float* y, [[maybe_unused]] const float* x, \
                                                            [[maybe_unused]] u32* flags, [[maybe_unused]] int n)

// ---- Barriers and shared memory ----

BUG_BODY(reduce_without_barrier) {
    FLANRT_SHARED(float, part, 32);
    const float s = warp_sum(x[threadIdx.x]);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
    if (!BUG) __syncthreads();
    float t = 0.0f;
    for (int w = 0; w < 8; w++) t += part[w];
    y[threadIdx.x] = t;
}
PLANTED(reduce_without_barrier, 256)

BUG_BODY(reduce_of_too_many) {
    FLANRT_SHARED(float, part, 32);
    const float s = warp_sum(x[threadIdx.x]);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
    __syncthreads();
    float t = 0.0f;
    for (int w = 0; w < (BUG ? 32 : 8); w++) t += part[w];
    y[threadIdx.x] = t;
}
PLANTED(reduce_of_too_many, 256)

// The next round overwrites what a slow thread still reads.
BUG_BODY(reuse_without_barrier) {
    FLANRT_SHARED(float, part, 8);
    for (int r = 0; r < 4; r++) {
        const float s = warp_sum(x[r * 256 + threadIdx.x]);
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
        __syncthreads();
        float t = 0.0f;
        for (int w = 0; w < 8; w++) t += part[w];
        y[r * 256 + threadIdx.x] = t;
        if (!BUG) __syncthreads();
    }
}
PLANTED(reuse_without_barrier, 256)

BUG_BODY(reuse_of_doubles) {
    FLANRT_SHARED(double, part, 64);
    part[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    const double other = part[threadIdx.x ^ 32];
    if (!BUG) __syncthreads();
    part[threadIdx.x] = other * 2;
    __syncthreads();
    y[threadIdx.x] = static_cast<float>(part[threadIdx.x ^ 1]);
}
PLANTED(reuse_of_doubles, 64)

// Lanes of a warp are not in step by themselves.
BUG_BODY(warp_without_sync) {
    FLANRT_SHARED(float, s, 32);
    s[threadIdx.x] = x[threadIdx.x];
    if (!BUG) __syncwarp();
    y[threadIdx.x] = s[threadIdx.x ^ 1];
}
PLANTED(warp_without_sync, 32)

BUG_BODY(shared_overrun) {
    FLANRT_SHARED(float, s, 64);
    FLANRT_SHARED(float, guard, 64);
    guard[threadIdx.x] = 0.0f;
    s[threadIdx.x + (BUG ? 1 : 0)] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x + (BUG ? 1 : 0)] + guard[threadIdx.x];
}
PLANTED(shared_overrun, 64)

BUG_BODY(dynamic_overrun) {
    FLANRT_DYN_SMEM(float, s);  // 256 bytes
    s[threadIdx.x + (BUG ? 1 : 0)] = x[threadIdx.x];
    y[threadIdx.x] = s[threadIdx.x + (BUG ? 1 : 0)];
}
PLANTED(dynamic_overrun, 64)

BUG_BODY(half_attended_barrier) {
    if (!BUG || threadIdx.x < 64) ptx::bar_sync(1, 128);
    y[threadIdx.x] = x[threadIdx.x];
}
PLANTED(half_attended_barrier, 128)

BUG_BODY(barrier_counts_differ) {
    ptx::bar_sync(1, BUG && threadIdx.x >= 64 ? 64 : 128);
    y[threadIdx.x] = x[threadIdx.x];
}
PLANTED(barrier_counts_differ, 128)

// Half the block makes data, the other half takes it; the makers only arrive.
BUG_BODY(arrive_too_early) {
    FLANRT_SHARED(float, s, 64);
    if (threadIdx.x < 64) {
        if (BUG) ptx::bar_arrive(1, 128);
        s[threadIdx.x] = x[threadIdx.x];
        if (!BUG) ptx::bar_arrive(1, 128);
    } else {
        ptx::bar_sync(1, 128);
        y[threadIdx.x] = s[threadIdx.x - 64];
    }
}
PLANTED(arrive_too_early, 128)

// ---- Warp collectives ----

BUG_BODY(divergent_shuffle) {
    float v = x[threadIdx.x];
    if (!BUG || threadIdx.x < 16) v += __shfl_xor_sync(FULL_MASK, v, 1);
    y[threadIdx.x] = v;
}
PLANTED(divergent_shuffle, 32)

BUG_BODY(divergent_collectives) {
    float v = x[threadIdx.x];
    if (BUG && threadIdx.x < 16)
        __syncwarp();
    else
        v += __shfl_xor_sync(FULL_MASK, v, 1);
    y[threadIdx.x] = v;
}
PLANTED(divergent_collectives, 32)

BUG_BODY(lane_not_in_mask) {
    float v = x[threadIdx.x];
    const u32 mask = BUG ? 0xffffu : FULL_MASK;
    v += __shfl_xor_sync(mask, v, 1);
    y[threadIdx.x] = v;
}
PLANTED(lane_not_in_mask, 32)

BUG_BODY(source_not_in_mask) {
    float v = x[threadIdx.x];
    if (threadIdx.x < 16) v += __shfl_xor_sync(0xffffu, v, BUG ? 16 : 8);
    y[threadIdx.x] = v;
}
PLANTED(source_not_in_mask, 32)

// ---- Device memory ----

BUG_BODY(read_past_the_end) {
    float t = 0.0f;
    for (int i = threadIdx.x; i < n + (BUG ? 1 : 0); i += blockDim.x) t += x[i];
    y[threadIdx.x] = t > 1e30f ? 1.0f : 0.0f;
}
PLANTED(read_past_the_end, 256)

BUG_BODY(write_past_the_end) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i + (BUG ? 1 : 0)] = x[i];
}
PLANTED(write_past_the_end, 256)

BUG_BODY(read_of_output) {
    y[threadIdx.x] = BUG ? y[threadIdx.x] + x[threadIdx.x] : x[threadIdx.x];
}
PLANTED(read_of_output, 256)

BUG_BODY(misaligned_vector) {
    const float4 v = *reinterpret_cast<const float4*>(x + 4 * threadIdx.x + (BUG ? 1 : 0));
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
PLANTED(misaligned_vector, 64)

BUG_BODY(null_pointer) {
    const float* p = BUG ? nullptr : x;
    y[threadIdx.x] = p[threadIdx.x];
}
PLANTED(null_pointer, 32)

BUG_BODY(blocks_write_one_place) { y[BUG ? threadIdx.x : blockIdx.x * 32 + threadIdx.x] = x[threadIdx.x]; }
PLANTED(blocks_write_one_place, 32)

// ---- Between blocks ----

// The last block to come adds up what all wrote.
BUG_BODY(last_block_without_atomic) {
    FLANRT_SHARED(u32, last, 1);
    float* part = y + 1024;
    part[blockIdx.x * 64 + threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last[0] = BUG ? blockIdx.x == gridDim.x - 1 : atomicAdd(flags, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last[0]) return;
    float t = 0.0f;
    for (u32 b = 0; b < gridDim.x; b++) t += part[b * 64 + threadIdx.x];
    y[threadIdx.x] = t;
}
PLANTED_ORDERED(last_block_without_atomic, 64)

// The counter is raised before all threads of the block have written.
BUG_BODY(last_block_without_barrier) {
    FLANRT_SHARED(u32, last, 1);
    float* part = y + 1024;
    part[blockIdx.x * 64 + threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    __threadfence();
    if (!BUG) __syncthreads();
    if (threadIdx.x == 0) last[0] = atomicAdd(flags, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last[0]) return;
    float t = 0.0f;
    for (u32 b = 0; b < gridDim.x; b++) t += part[b * 64 + threadIdx.x];
    y[threadIdx.x] = t;
}
PLANTED(last_block_without_barrier, 64)

// Nothing orders what was written before the counter.
BUG_BODY(last_block_without_fence) {
    FLANRT_SHARED(u32, last, 1);
    float* part = y + 1024;
    part[blockIdx.x * 64 + threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    if (!BUG) __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last[0] = atomicAdd(flags, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last[0]) return;
    __threadfence();
    float t = 0.0f;
    for (u32 b = 0; b < gridDim.x; b++) t += part[b * 64 + threadIdx.x];
    y[threadIdx.x] = t;
}
PLANTED(last_block_without_fence, 64)

// A running sum handed from block to block.
template <int BUG> DEVICE void turnstile(float* y, const float* x, u32* flags) {
    const float mine = x[blockIdx.x * 32 + threadIdx.x];
    float before = 0.0f;
    if (blockIdx.x > 0) {
        if (BUG == 2) {
            if (threadIdx.x == 0)
                while (!ptx::load_acquire(flags + blockIdx.x - 1)) {}
        } else if (BUG == 3) {
            while (!*static_cast<volatile u32*>(flags + blockIdx.x - 1)) {}
        } else {
            while (!ptx::load_acquire(flags + blockIdx.x - 1)) {}
        }
        before = y[(blockIdx.x - 1) * 32 + threadIdx.x];
    }
    y[blockIdx.x * 32 + threadIdx.x] = before + mine;
    __syncthreads();
    if (threadIdx.x == 0) {
        if (BUG == 1)
            flags[blockIdx.x] = 1;
        else
            ptx::store_release(flags + blockIdx.x, 1);
    }
}
BUG_BODY(acquire_without_release) { turnstile<BUG ? 1 : 0>(y, x, flags); }
PLANTED_ORDERED(acquire_without_release, 32)
BUG_BODY(acquire_by_one_thread) { turnstile<BUG ? 2 : 0>(y, x, flags); }
PLANTED_ORDERED(acquire_by_one_thread, 32)
BUG_BODY(release_without_acquire) { turnstile<BUG ? 3 : 0>(y, x, flags); }
PLANTED_ORDERED(release_without_acquire, 32)

BUG_BODY(wait_for_a_later_block) {
    if (threadIdx.x == 0) {
        ptx::store_release(flags + blockIdx.x, 1);
        const int other = BUG ? int(blockIdx.x) + 1 : int(blockIdx.x) - 1;
        if (other >= 0 && other < int(gridDim.x))
            while (!ptx::load_acquire(flags + other)) {}
    }
    y[blockIdx.x * 32 + threadIdx.x] = x[threadIdx.x];
}
PLANTED_ORDERED(wait_for_a_later_block, 32)

// ---- cp.async ----

// Row t of 128 threads x 16 bytes goes to stage t % 2.
DEVICE void fetch(float* smem, const float* x, int t) {
    ptx::cp_async16(ptx::smem_u32(smem + t % 2 * 512 + threadIdx.x * 4), x + t * 512 + threadIdx.x * 4);
    ptx::cp_async_commit();
}
// BUG 1: the last tile is not waited for; 2: no barrier after the wait; 3: no barrier before a stage is filled again.
template <int BUG> DEVICE void pipeline(float* y, const float* x) {
    FLANRT_SHARED(float, smem, 1024);
    float t = 0.0f;
    fetch(smem, x, 0);
    for (int i = 0; i < 8; i++) {
        if (i < 7) {
            fetch(smem, x, i + 1);
            ptx::cp_async_wait<1>();
        } else if (BUG == 1) {
            ptx::cp_async_wait<1>();
        } else {
            ptx::cp_async_wait<0>();
        }
        if (BUG != 2) __syncthreads();
        for (int j = 0; j < 4; j++) t += smem[i % 2 * 512 + (threadIdx.x * 4 + j * 129) % 512];
        if (BUG != 3) __syncthreads();
    }
    y[threadIdx.x] = t;
}
BUG_BODY(last_copy_not_waited) { pipeline<BUG ? 1 : 0>(y, x); }
PLANTED(last_copy_not_waited, 128)
BUG_BODY(copy_without_barrier) { pipeline<BUG ? 2 : 0>(y, x); }
PLANTED(copy_without_barrier, 128)
BUG_BODY(refill_without_barrier) { pipeline<BUG ? 3 : 0>(y, x); }
PLANTED(refill_without_barrier, 128)

BUG_BODY(copy_not_committed) {
    FLANRT_SHARED(float, s, 128);
    ptx::cp_async16(ptx::smem_u32(s + threadIdx.x * 4), x + threadIdx.x * 4);
    if (!BUG) ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    y[threadIdx.x] = s[threadIdx.x * 4];
}
PLANTED(copy_not_committed, 32)

BUG_BODY(copy_misaligned) {
    FLANRT_SHARED(float, s, 132);
    ptx::cp_async16(ptx::smem_u32(s + threadIdx.x * 4), x + threadIdx.x * 4 + (BUG ? 1 : 0));
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    y[threadIdx.x] = s[threadIdx.x * 4];
}
PLANTED(copy_misaligned, 32)

// ---- Fragments ----

// 16 rows of 16 16-bit elements, 32 bytes apart.
template <int BUG> DEVICE void fragments(float* y, const float* x) {
    FLANRT_SHARED(bf16, s, 16 * 16 + 8);
    for (int i = threadIdx.x; i < (BUG == 1 ? 15 : 16) * 16; i += 32) s[i] = from_f32<bf16>(x[i]);
    __syncwarp();
    u32 r[4];
    ptx::ldmatrix_x4(r, ptx::smem_u32(s + threadIdx.x % 16 * 16 + threadIdx.x / 16 * 8) + (BUG == 2 ? 4 : 0));
    float d[4] = {};
    const u32 b[2] = {r[0], r[2]};
    ptx::mma_m16n8k16<bf16>(d, r, b);
    y[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}
BUG_BODY(ldmatrix_uninitialised) { fragments<BUG ? 1 : 0>(y, x); }
PLANTED(ldmatrix_uninitialised, 32)
BUG_BODY(ldmatrix_misaligned) { fragments<BUG ? 2 : 0>(y, x); }
PLANTED(ldmatrix_misaligned, 32)

// A tile of 64-element rows: without a swizzle every phase meets eight rows in the same banks.
BUG_BODY(ldmatrix_conflicts) {
    FLANRT_SHARED(bf16, s, 16 * 64);
    for (int i = threadIdx.x; i < 16 * 64; i += 32) s[i] = from_f32<bf16>(x[i]);
    __syncwarp();
    u32 r[4];
    const int row = threadIdx.x % 16, chunk = threadIdx.x / 16;
    ptx::ldmatrix_x4(r, ptx::smem_u32(s + row * 64 + (BUG ? chunk : chunk ^ (row & 7)) * 8));
    y[threadIdx.x] = __uint_as_float(r[0]);
}
PLANTED(ldmatrix_conflicts, 32)

// ---- sm_90 ----

#ifdef FLANRT_SM90
#define HOPPER_CALL(name, BUG) name<BUG>(y, x, flags, n, x_map, y_map)
#else
#define HOPPER_CALL(name, BUG)
#endif
#define HOPPER_PARAMS                                                                                       \
    (float* y, const float* x, u32* flags, int n, const __grid_constant__ ptx::TensorMap x_map, \
     const __grid_constant__ ptx::TensorMap y_map)
#define PLANTED_HOPPER(name, threads)                                              \
    FLANRT_KERNEL(90, name##_ok, threads, HOPPER_PARAMS) { HOPPER_CALL(name, false); } \
    FLANRT_KERNEL(90, name##_bug, threads, HOPPER_PARAMS) { HOPPER_CALL(name, true); }
#define BUG_HOPPER(name)                                                                                                   \
    template <bool BUG>                                                                                                   \
    DEVICE void name([[maybe_unused]] float* y, [[maybe_unused]] const float* x, [[maybe_unused]] u32* flags,             \
                     [[maybe_unused]] int n, [[maybe_unused]] const ptx::TensorMap& x_map,                                \
                     [[maybe_unused]] const ptx::TensorMap& y_map)

#ifdef FLANRT_SM90
constexpr u32 TILE_BYTES = 64 * 128;

BUG_HOPPER(stmatrix_conflicts) {
    FLANRT_SHARED(bf16, s, 16 * 64);
    const int row = threadIdx.x % 16, chunk = threadIdx.x / 16;
    const u32 r[4] = {threadIdx.x, threadIdx.x + 1, threadIdx.x + 2, threadIdx.x + 3};
    const int at = row * 64 + (BUG ? chunk : chunk ^ (row & 7)) * 8;
    ptx::stmatrix_x4(ptx::smem_u32(s + at), r);
    __syncwarp();
    y[threadIdx.x] = to_f32(s[at]);
}

// Another thread wrote the row that this lane reads; part of the tile was written by no one.
BUG_HOPPER(stmatrix_uninitialised) {
    FLANRT_SHARED(bf16, s, 32 * 16);
    const u32 r[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
    ptx::stmatrix_x4(ptx::smem_u32(s + threadIdx.x % 16 * 16 + threadIdx.x / 16 * 8), r);
    __syncwarp();
    y[threadIdx.x] = to_f32(s[(BUG ? 8 : 0) + threadIdx.x * 16 % 256 + (BUG ? 256 : 0)]);
}

DEVICE void init_barriers(u32 bars, int count, u32 arrivals) {
    for (int i = 0; i < count; i++) ptx::mbarrier_init(bars + 8 * i, arrivals);
    ptx::fence_barrier_init();
}

// One tile by TMA, read by everyone. BUG 1: no wait; 2: the wrong parity; 3: more bytes expected than come; 4: no barrier after
// init; 5: no fence after init.
template <int BUG> DEVICE void load_tile(float* y, const ptx::TensorMap& x_map) {
    FLANRT_DYN_SMEM(u32, tile);
    FLANRT_SHARED(u64, bar, 1);
    const u32 b = ptx::smem_u32(bar);
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(b, 1);
        if (BUG != 5) ptx::fence_barrier_init();
        ptx::mbarrier_expect_tx(b, TILE_BYTES + (BUG == 3 ? 16 : 0));
        ptx::tma_load_2d(ptx::smem_u32(tile), &x_map, 0, 0, b);
    }
    if (BUG != 4) __syncthreads();
    if (BUG == 1) {
        if (threadIdx.x == 0) ptx::mbarrier_wait(b, 0);
    } else {
        ptx::mbarrier_wait(b, BUG == 2 ? 1 : 0);
    }
    y[threadIdx.x] = __uint_as_float(tile[threadIdx.x * 7]);
    if (BUG == 2) {
        __syncthreads();
        ptx::mbarrier_wait(b, 0);
    }
}
BUG_HOPPER(tile_not_waited) { load_tile<BUG ? 1 : 0>(y, x_map); }
BUG_HOPPER(wrong_parity) { load_tile<BUG ? 2 : 0>(y, x_map); }
BUG_HOPPER(too_many_bytes_expected) { load_tile<BUG ? 3 : 0>(y, x_map); }
BUG_HOPPER(mbarrier_without_barrier) { load_tile<BUG ? 4 : 0>(y, x_map); }
BUG_HOPPER(mbarrier_without_fence) { load_tile<BUG ? 5 : 0>(y, x_map); }

// Producer and consumers around two stages. BUG 1: the producer does not wait for empty stages; 2: consumers release a stage
// before they have read it; 3: they release it while wgmma reads it; 4: they read the accumulator before the wait; 5: no
// wgmma_fence; 6: they write the accumulator before the wait; 7: wgmmas not committed; 8: one warp stays away.
template <int BUG, bool WGMMA> DEVICE void stages(float* y, const ptx::TensorMap& x_map) {
    FLANRT_DYN_SMEM(unsigned char, tiles);
    FLANRT_SHARED(u64, bars, 4);
    const u32 full = ptx::smem_u32(bars), empty = full + 16, base = ptx::smem_u32(tiles);
    const int tid = threadIdx.x;
    constexpr int STEPS = 6;
    if (tid == 0) {
        init_barriers(full, 2, 1);
        init_barriers(empty, 2, 128);
    }
    __syncthreads();
    if (tid >= 128) {
        if (tid > 128) return;
        for (int t = 0; t < STEPS; t++) {
            const int s = t % 2;
            if (BUG != 1) ptx::mbarrier_wait(empty + 8 * s, (t / 2 & 1) ^ 1);
            ptx::mbarrier_expect_tx(full + 8 * s, TILE_BYTES);
            ptx::tma_load_2d(base + s * TILE_BYTES, &x_map, 0, t / 2 % 2 * 64, full + 8 * s);
        }
        return;
    }
    float d[32], sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 32; i++) d[i] = 0.0f;
    for (int t = 0; t < STEPS; t++) {
        const int s = t % 2;
        const u32 tile = base + s * TILE_BYTES;
        ptx::mbarrier_wait(full + 8 * s, t / 2 & 1);
        if (BUG == 2) ptx::mbarrier_arrive(empty + 8 * s);
        if constexpr (WGMMA) {
            if (BUG == 8 && tid < 32) continue;
            if (BUG != 5) ptx::wgmma_fence();
            for (int k = 0; k < 4; k++) {
                const u64 desc = ptx::desc_k_major(tile + 32 * k);
                ptx::wgmma_ss<64, bf16>(d, desc, desc, true);
            }
            if (BUG != 7) ptx::wgmma_commit();
            if (BUG == 3) ptx::mbarrier_arrive(empty + 8 * s);
            if (BUG == 4) sum += d[0];
            if (BUG == 6) d[5] = 0.0f;
            ptx::wgmma_wait<0>();
            ptx::wgmma_registers(d);
            if (BUG != 4) sum += d[0];
        } else {
            sum += reinterpret_cast<const float*>(tiles + s * TILE_BYTES)[tid * 7];
        }
        if (BUG != 2 && BUG != 3) ptx::mbarrier_arrive(empty + 8 * s);
    }
    y[tid] = sum;
}
BUG_HOPPER(producer_skips_empty) { stages<BUG ? 1 : 0, false>(y, x_map); }
BUG_HOPPER(stage_released_early) { stages<BUG ? 2 : 0, false>(y, x_map); }
BUG_HOPPER(stage_released_under_wgmma) { stages<BUG ? 3 : 0, true>(y, x_map); }
BUG_HOPPER(accumulator_read_early) { stages<BUG ? 4 : 0, true>(y, x_map); }
BUG_HOPPER(wgmma_without_fence) { stages<BUG ? 5 : 0, true>(y, x_map); }
BUG_HOPPER(accumulator_written_early) { stages<BUG ? 6 : 0, true>(y, x_map); }
BUG_HOPPER(wgmma_not_committed) { stages<BUG ? 7 : 0, true>(y, x_map); }
BUG_HOPPER(wgmma_without_a_warp) { stages<BUG ? 8 : 0, true>(y, x_map); }

// wgmma on a tile that threads wrote themselves.
BUG_HOPPER(wgmma_without_proxy_fence) {
    FLANRT_DYN_SMEM(unsigned char, tile);
    for (int i = threadIdx.x; i < 64 * 64; i += 128) {
        u32 at = i * 2;
        at ^= (at >> 7 & 7) << 4;
        *reinterpret_cast<bf16*>(tile + at) = from_f32<bf16>(x[i]);
    }
    if (!BUG) ptx::fence_proxy_async();
    __syncthreads();
    float d[32];
    ptx::wgmma_fence();
    for (int k = 0; k < 4; k++) {
        const u64 desc = ptx::desc_k_major(ptx::smem_u32(tile) + 32 * k);
        ptx::wgmma_ss<64, bf16>(d, desc, desc, k > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_registers(d);
    y[threadIdx.x] = d[0];
}

// A tile leaves by TMA. BUG 1: its source is written again before the wait; 2: no proxy fence; 3: no barrier; 4: not committed;
// 5: not waited for.
template <int BUG> DEVICE void store_tile_of(float* y, const float* x, const ptx::TensorMap& y_map) {
    FLANRT_DYN_SMEM(float, tile);
    for (int i = threadIdx.x; i < 2048; i += 128) tile[i] = x[i];
    if (BUG != 2) ptx::fence_proxy_async();
    if (BUG != 3) __syncthreads();
    if (threadIdx.x == 0) {
        ptx::tma_store_2d(&y_map, ptx::smem_u32(tile), 0, 0);
        if (BUG != 4) ptx::tma_store_commit();
        if (BUG == 1) tile[6] = 0.0f;
        if (BUG != 5) ptx::tma_store_wait_read<0>();
        if (BUG == 0) tile[6] = 0.0f;
    }
}
BUG_HOPPER(store_source_overwritten) { store_tile_of<BUG ? 1 : 0>(y, x, y_map); }
BUG_HOPPER(store_without_proxy_fence) { store_tile_of<BUG ? 2 : 0>(y, x, y_map); }
BUG_HOPPER(store_without_barrier) { store_tile_of<BUG ? 3 : 0>(y, x, y_map); }
BUG_HOPPER(store_not_committed) { store_tile_of<BUG ? 4 : 0>(y, x, y_map); }
BUG_HOPPER(store_not_waited) { store_tile_of<BUG ? 5 : 0>(y, x, y_map); }
#endif

PLANTED_HOPPER(stmatrix_conflicts, 32)
PLANTED_HOPPER(stmatrix_uninitialised, 32)
PLANTED_HOPPER(tile_not_waited, 128)
PLANTED_HOPPER(wrong_parity, 128)
PLANTED_HOPPER(too_many_bytes_expected, 128)
PLANTED_HOPPER(mbarrier_without_barrier, 128)
PLANTED_HOPPER(mbarrier_without_fence, 128)
PLANTED_HOPPER(producer_skips_empty, 160)
PLANTED_HOPPER(stage_released_early, 160)
PLANTED_HOPPER(stage_released_under_wgmma, 160)
PLANTED_HOPPER(accumulator_read_early, 160)
PLANTED_HOPPER(wgmma_without_fence, 160)
PLANTED_HOPPER(accumulator_written_early, 160)
PLANTED_HOPPER(wgmma_not_committed, 160)
PLANTED_HOPPER(wgmma_without_a_warp, 160)
PLANTED_HOPPER(wgmma_without_proxy_fence, 128)
PLANTED_HOPPER(store_source_overwritten, 128)
PLANTED_HOPPER(store_without_proxy_fence, 128)
PLANTED_HOPPER(store_without_barrier, 128)
PLANTED_HOPPER(store_not_committed, 128)
PLANTED_HOPPER(store_not_waited, 128)
