// Conformance, compute capability 9.0: one kernel for each wrapper of kernels/ptx.cuh that only such GPUs have, and for every
// shape of the warpgroup products. As in portable.cu, a kernel does what its name says and writes everything it got.
//
// Kernels that move tiles take a tensor map of what lies behind the first 16 words of `in`, or of `out`; those words are
// coordinates.
#include "ptx.cuh"

// in: byte offset of the row that each of 32 lanes names, then four registers a lane. out: 512 words of shared memory.
template <bool TRANSPOSED> DEVICE void store_matrices(u32* out, const u32* in, u32* tile) {
#ifdef FLANRT_SM90
    const int lane = threadIdx.x;
    for (int i = lane; i < 512; i += 32) tile[i] = 0xabababab;
    __syncthreads();
    u32 r[4];
    for (int i = 0; i < 4; i++) r[i] = in[32 + 4 * lane + i];
    const u32 row = ptx::smem_u32(tile) + in[lane];
    if (TRANSPOSED)
        ptx::stmatrix_x4_trans(row, r);
    else
        ptx::stmatrix_x4(row, r);
    __syncthreads();
    for (int i = lane; i < 512; i += 32) out[i] = tile[i];
#endif
}
FLANRT_KERNEL(90, conform_stmatrix, 32, (u32* out, const u32* in)) {
    FLANRT_SHARED(u32, tile, 512);
    store_matrices<false>(out, in, tile);
}
FLANRT_KERNEL(90, conform_stmatrix_trans, 32, (u32* out, const u32* in)) {
    FLANRT_SHARED(u32, tile, 512);
    store_matrices<true>(out, in, tile);
}

// Two warps fill a ring of two slots, two warps empty it, six times around; the consumers are let in by `full`, the producers
// by `empty`, whose phase before the first passes at once. in, out: 6 x 64 words.
FLANRT_KERNEL(90, conform_mbarrier, 128, (u32* out, const u32* in)) {
#ifdef FLANRT_SM90
    FLANRT_SHARED(u64, bars, 4);
    FLANRT_SHARED(u32, ring, 128);
    const u32 full = ptx::smem_u32(bars), empty = full + 16;
    const int t = threadIdx.x % 64;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            ptx::mbarrier_init(full + 8 * i, 64);
            ptx::mbarrier_init(empty + 8 * i, 64);
        }
        ptx::fence_barrier_init();
    }
    __syncthreads();
    for (int i = 0; i < 6; i++) {
        const int slot = i % 2, phase = i / 2 % 2;
        if (threadIdx.x < 64) {
            ptx::mbarrier_wait(empty + 8 * slot, phase ^ 1);
            ring[64 * slot + t] = in[64 * i + t];
            ptx::mbarrier_arrive(full + 8 * slot);
        } else {
            ptx::mbarrier_wait(full + 8 * slot, phase);
            out[64 * i + t] = ring[64 * slot + 63 - t];
            ptx::mbarrier_arrive(empty + 8 * slot);
        }
    }
#endif
}

// Two tiles of 2048 bytes through one mbarrier, one after the other: at (x, y) or (x, y, z) of words 0 to 2 of `in`, and at
// those of words 3 to 5. out: both tiles as they lie in shared memory.
template <int RANK> DEVICE void load_tiles(u32* out, const u32* in, const ptx::TensorMap* map) {
#ifdef FLANRT_SM90
    FLANRT_DYN_SMEM(u32, tile);
    FLANRT_SHARED(u64, bars, 1);
    const u32 bar = ptx::smem_u32(bars), to = ptx::smem_u32(tile);
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(bar, 1);
        ptx::fence_barrier_init();
    }
    __syncthreads();
    for (int i = 0; i < 2; i++) {
        if (threadIdx.x == 0) {
            const int x = static_cast<int>(in[3 * i]), y = static_cast<int>(in[3 * i + 1]), z = static_cast<int>(in[3 * i + 2]);
            ptx::mbarrier_expect_tx(bar, 2048);
            if (RANK == 2)
                ptx::tma_load_2d(to + 2048 * i, map, x, y, bar);
            else
                ptx::tma_load_3d(to + 2048 * i, map, x, y, z, bar);
        }
        ptx::mbarrier_wait(bar, i);
        for (int j = threadIdx.x; j < 512; j += 32) out[512 * i + j] = tile[512 * i + j];
    }
#endif
}
FLANRT_KERNEL(90, conform_tma_load_2d, 32, (u32* out, const u32* in, const __grid_constant__ ptx::TensorMap map)) {
    load_tiles<2>(out, in, &map);
}
FLANRT_KERNEL(90, conform_tma_load_3d, 32, (u32* out, const u32* in, const __grid_constant__ ptx::TensorMap map)) {
    load_tiles<3>(out, in, &map);
}

// in: coordinates, then two tiles of 2048 bytes. out: what they were stored over, or added to.
template <bool ADD> DEVICE void store_tiles(const u32* in, const ptx::TensorMap* map) {
#ifdef FLANRT_SM90
    FLANRT_DYN_SMEM(u32, tile);
    for (int i = threadIdx.x; i < 1024; i += 32) tile[i] = in[16 + i];
    ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 0; i < 2; i++) {
        const int x = static_cast<int>(in[2 * i]), y = static_cast<int>(in[2 * i + 1]);
        if (ADD)
            ptx::tma_reduce_add_2d(map, ptx::smem_u32(tile) + 2048 * i, x, y);
        else
            ptx::tma_store_2d(map, ptx::smem_u32(tile) + 2048 * i, x, y);
        ptx::tma_store_commit();
    }
    ptx::tma_store_wait_read<1>();
    ptx::tma_store_wait<0>();
#endif
}
FLANRT_KERNEL(90, conform_tma_store_2d, 32, (u32* out, const u32* in, const __grid_constant__ ptx::TensorMap map)) {
    store_tiles<false>(in, &map);
}
FLANRT_KERNEL(90, conform_tma_reduce_add_2d, 32, (u32* out, const u32* in, const __grid_constant__ ptx::TensorMap map)) {
    store_tiles<true>(in, &map);
}

// Registers move from one warpgroup to two; everybody copies a word afterwards. in, out: 384 words.
FLANRT_KERNEL_MIN(90, conform_setmaxnreg, 384, 1, (u32* out, const u32* in)) {
#ifdef FLANRT_SM90
    if (threadIdx.x < 128) {
        ptx::setmaxnreg_dec<40>();
        out[threadIdx.x] = in[threadIdx.x];
    } else {
        ptx::setmaxnreg_inc<232>();
        out[threadIdx.x] = in[threadIdx.x];
    }
#endif
}

// d [64, N] = a [64, 64] . b [64, N] in four steps. in: the shared memory, a (8192 bytes) and b as their descriptors say. out:
// the registers of each thread.
template <int N, class T, bool A_MN, bool B_MN> DEVICE void multiply_shared(u32* out, const u32* in) {
#ifdef FLANRT_SM90
    FLANRT_DYN_SMEM(u32, tile);
    for (int i = threadIdx.x; i < 2048 + 32 * N; i += 128) tile[i] = in[i];
    ptx::fence_proxy_async();
    __syncthreads();
    const u32 a = ptx::smem_u32(tile), b = a + 8192;
    float d[N / 2];
    for (int i = 0; i < N / 2; i++) d[i] = 1e9f;
    ptx::wgmma_registers(d);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const u64 da = A_MN ? ptx::desc_mn_major(a + 2048 * k, 8192) : ptx::desc_k_major(a + 32 * k);
        const u64 db = B_MN ? ptx::desc_mn_major(b + 2048 * k, 8192) : ptx::desc_k_major(b + 32 * k);
        ptx::wgmma_ss<N, T, A_MN, B_MN>(d, da, db, k > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_registers(d);
    for (int i = 0; i < N / 2; i++) out[threadIdx.x * (N / 2) + i] = __float_as_uint(d[i]);
#endif
}
// The same with a in registers: in: four of each step and thread, [4, 128, 4], then b.
template <int N, class T, bool B_MN> DEVICE void multiply_registers(u32* out, const u32* in) {
#ifdef FLANRT_SM90
    FLANRT_DYN_SMEM(u32, tile);
    for (int i = threadIdx.x; i < 32 * N; i += 128) tile[i] = in[2048 + i];
    ptx::fence_proxy_async();
    __syncthreads();
    u32 a[4][4];
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 4; i++) a[k][i] = in[512 * k + 4 * threadIdx.x + i];
    const u32 b = ptx::smem_u32(tile);
    float d[N / 2];
    for (int i = 0; i < N / 2; i++) d[i] = 1e9f;
    ptx::wgmma_registers(d);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const u64 db = B_MN ? ptx::desc_mn_major(b + 2048 * k, 8192) : ptx::desc_k_major(b + 32 * k);
        ptx::wgmma_rs<N, T, B_MN>(d, a[k], db, k > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_registers(d);
    for (int i = 0; i < N / 2; i++) out[threadIdx.x * (N / 2) + i] = __float_as_uint(d[i]);
#endif
}

#define CONFORM_SHARED(N, T, majors, A_MN, B_MN) \
    FLANRT_KERNEL(90, conform_wgmma_ss_##N##_##T##_##majors, 128, (u32* out, const u32* in)) { multiply_shared<N, T, A_MN, B_MN>(out, in); }
#define CONFORM_REGISTERS(N, T, major, B_MN) \
    FLANRT_KERNEL(90, conform_wgmma_rs_##N##_##T##_##major, 128, (u32* out, const u32* in)) { multiply_registers<N, T, B_MN>(out, in); }
#define CONFORM_WIDTHS(X, ...) X(64, __VA_ARGS__) X(128, __VA_ARGS__) X(192, __VA_ARGS__) X(256, __VA_ARGS__)
CONFORM_WIDTHS(CONFORM_SHARED, bf16, kk, false, false)
CONFORM_WIDTHS(CONFORM_SHARED, bf16, km, false, true)
CONFORM_WIDTHS(CONFORM_SHARED, bf16, mm, true, true)
CONFORM_WIDTHS(CONFORM_SHARED, f16, kk, false, false)
CONFORM_WIDTHS(CONFORM_SHARED, f16, mm, true, true)
CONFORM_WIDTHS(CONFORM_REGISTERS, bf16, k, false)
CONFORM_WIDTHS(CONFORM_REGISTERS, bf16, m, true)
CONFORM_WIDTHS(CONFORM_REGISTERS, f16, k, false)
