// Matrix products that use the instructions as real kernels do: cp.async with ldmatrix and mma, TMA with wgmma from shared
// memory in both majors and from registers, stmatrix and TMA stores. The emulator's tests compare them with plain loops.
//
// c[m, n] f32 = a . b with m, n, k multiples of the tile where nothing else is said.
#include "ptx.cuh"

namespace {

// ---- sm_80: 128 threads, tile 64x64x32, two stages ----

constexpr int BM = 64, BN = 64, BK = 32, TILE = BM * BK;

// Element offset of a 16-byte chunk in a tile of 64-byte rows.
DEVICE int chunk_at(int row, int chunk) { return row * BK + ((chunk ^ (row >> 1 & 3)) << 3); }

template <class T> DEVICE void gemm_mma(float* c, const T* a, const T* b, int m, int n, int k) {
    FLANRT_DYN_SMEM(T, smem);
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN, wm = warp / 2 * 32, wn = warp % 2 * 32;
    auto load = [&](int stage, int k0) {
        T *at = smem + stage * 2 * TILE, *bt = at + TILE;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int piece = tid + i * 128, row = piece / 4, chunk = piece % 4;
            const int ra = m0 + row, rb = n0 + row;
            const T* ap = a + static_cast<i64>(ra < m ? ra : 0) * k + k0 + chunk * 8;
            const T* bp = b + static_cast<i64>(rb < n ? rb : 0) * k + k0 + chunk * 8;
            ptx::cp_async16(ptx::smem_u32(at + chunk_at(row, chunk)), ap, ra < m ? 16 : 0);
            ptx::cp_async16(ptx::smem_u32(bt + chunk_at(row, chunk)), bp, rb < n ? 16 : 0);
        }
        ptx::cp_async_commit();
    };
    float acc[2][4][4] = {};
    const int steps = k / BK;
    load(0, 0);
    for (int t = 0; t < steps; t++) {
        if (t + 1 < steps) {
            load((t + 1) & 1, (t + 1) * BK);
            ptx::cp_async_wait<1>();
        } else {
            ptx::cp_async_wait<0>();
        }
        __syncthreads();
        const T *at = smem + (t & 1) * 2 * TILE, *bt = at + TILE;
#pragma unroll
        for (int kk = 0; kk < BK / 16; kk++) {
            u32 af[2][4], bf[4][2];
#pragma unroll
            for (int i = 0; i < 2; i++)
                ptx::ldmatrix_x4(af[i], ptx::smem_u32(at + chunk_at(wm + i * 16 + lane % 16, kk * 2 + lane / 16)));
#pragma unroll
            for (int j = 0; j < 2; j++) {
                u32 r[4];
                ptx::ldmatrix_x4(r, ptx::smem_u32(bt + chunk_at(wn + j * 16 + lane % 8 + lane / 16 * 8, kk * 2 + lane / 8 % 2)));
                bf[2 * j][0] = r[0], bf[2 * j][1] = r[1], bf[2 * j + 1][0] = r[2], bf[2 * j + 1][1] = r[3];
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) ptx::mma_m16n8k16<T>(acc[i][j], af[i], bf[j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int row = m0 + wm + i * 16 + lane / 4 + h * 8, col = n0 + wn + j * 8 + lane % 4 * 2;
                const float2 pair = make_float2(acc[i][j][2 * h], acc[i][j][2 * h + 1]);
                if (row < m && col < n) *reinterpret_cast<float2*>(c + static_cast<i64>(row) * n + col) = pair;
            }
}

}  // namespace

// a [m, k], b [n, k]; m and n arbitrary (n even). Grid (n / 64, m / 64), 16384 bytes of dynamic shared memory.
#define GEMM_MMA(name, T) \
    FLANRT_KERNEL(80, gemm_mma_##name, 128, (float* c, const T* a, const T* b, int m, int n, int k)) { gemm_mma<T>(c, a, b, m, n, k); }
FOR_HALVES(GEMM_MMA)

// ---- sm_90: a producer warp and a consumer warpgroup, tile 64 x N x 64, three stages ----

#ifdef FLANRT_SM90
namespace {

constexpr int HM = 64, HK = 64, STAGES = 3;

// Where accumulator register i of thread t of the warpgroup belongs.
DEVICE int row_of(int t, int i) { return t / 32 * 16 + t % 32 / 4 + (i / 2 & 1) * 8; }
DEVICE int column_of(int t, int i) { return i / 4 * 8 + t % 4 * 2 + (i & 1); }

// A_MN, B_MN: the operand is [k, m] or [k, n]. A in registers (RS) is loaded with ldmatrix from the K-major tile.
template <int N, class T, bool A_MN, bool B_MN, bool RS>
DEVICE void gemm_wgmma(float* c, const ptx::TensorMap& a_map, const ptx::TensorMap& b_map, int m, int n, int k) {
    constexpr u32 A_BYTES = HM * HK * 2, B_BYTES = N * HK * 2, STAGE = A_BYTES + B_BYTES;
    FLANRT_DYN_SMEM(unsigned char, smem);
    const u32 base = ptx::smem_u32(smem), full = base + STAGES * STAGE, empty = full + 8 * STAGES;
    const int tid = threadIdx.x, steps = k / HK, m0 = blockIdx.y * HM, n0 = blockIdx.x * N;
    if (tid == 0) {
        for (int s = 0; s < STAGES; s++) {
            ptx::mbarrier_init(full + 8 * s, 1);
            ptx::mbarrier_init(empty + 8 * s, 128);
        }
        ptx::fence_barrier_init();
    }
    __syncthreads();
    if (tid >= 128) {
        if (tid != 128) return;
        for (int t = 0; t < steps; t++) {
            const int s = t % STAGES;
            const u32 at = base + s * STAGE, bt = at + A_BYTES, bar = full + 8 * s;
            ptx::mbarrier_wait(empty + 8 * s, (t / STAGES & 1) ^ 1);
            ptx::mbarrier_expect_tx(bar, STAGE);
            if (A_MN)
                ptx::tma_load_2d(at, &a_map, m0, t * HK, bar);
            else
                ptx::tma_load_2d(at, &a_map, t * HK, m0, bar);
            for (int j = 0; B_MN && j < N / 64; j++) ptx::tma_load_2d(bt + j * 8192, &b_map, n0 + j * 64, t * HK, bar);
            if (!B_MN) ptx::tma_load_2d(bt, &b_map, t * HK, n0, bar);
        }
        return;
    }
    float d[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) d[i] = 0.0f;
    for (int t = 0; t < steps; t++) {
        const int s = t % STAGES;
        const u32 at = base + s * STAGE, bt = at + A_BYTES;
        ptx::mbarrier_wait(full + 8 * s, t / STAGES & 1);
        u32 regs[HK / 16][4];
        if constexpr (RS) {
            const int lane = tid % 32, row = tid / 32 * 16 + lane % 16;
#pragma unroll
            for (int kk = 0; kk < HK / 16; kk++)
                ptx::ldmatrix_x4(regs[kk], at + row * 128 + ((kk * 2 + lane / 16) ^ (row & 7)) * 16);
        }
        ptx::wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < HK / 16; kk++) {
            const u64 bd = B_MN ? ptx::desc_mn_major(bt + kk * 2048, 8192) : ptx::desc_k_major(bt + kk * 32);
            if constexpr (RS) {
                ptx::wgmma_rs<N, T, B_MN>(d, regs[kk], bd, t + kk > 0);
            } else {
                const u64 ad = A_MN ? ptx::desc_mn_major(at + kk * 2048, 8192) : ptx::desc_k_major(at + kk * 32);
                ptx::wgmma_ss<N, T, A_MN, B_MN>(d, ad, bd, t + kk > 0);
            }
        }
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
        ptx::wgmma_registers(d);
        ptx::mbarrier_arrive(empty + 8 * s);
    }
#pragma unroll
    for (int i = 0; i < N / 2; i += 2) {
        const int row = m0 + row_of(tid, i), col = n0 + column_of(tid, i);
        if (row < m && col < n) *reinterpret_cast<float2*>(c + static_cast<i64>(row) * n + col) = make_float2(d[i], d[i + 1]);
    }
}

}  // namespace
#define GEMM_WGMMA_BODY(...) gemm_wgmma<__VA_ARGS__>(c, a, b, m, n, k)
#else
#define GEMM_WGMMA_BODY(...)
#endif

// Grid (n / N, m / 64), 160 threads, 3 (8192 + 128 N) + 48 bytes. Maps with the 128-byte swizzle and boxes [64, 64] of a; of b
// [N, 64] if K-major, else [64, 64].
#define MAP const __grid_constant__ ptx::TensorMap
#define GEMM_WGMMA(name, ...) \
    FLANRT_KERNEL(90, name, 160, (float* c, MAP a, MAP b, int m, int n, int k)) { GEMM_WGMMA_BODY(__VA_ARGS__); }
GEMM_WGMMA(gemm_ss64_bf16, 64, bf16, false, false, false)
GEMM_WGMMA(gemm_ss128_bf16, 128, bf16, false, false, false)
GEMM_WGMMA(gemm_ss192_f16, 192, f16, false, false, false)
GEMM_WGMMA(gemm_ss256_bf16, 256, bf16, false, false, false)
GEMM_WGMMA(gemm_ss128_bmn_bf16, 128, bf16, false, true, false)
GEMM_WGMMA(gemm_ss128_amn_bmn_f16, 128, f16, true, true, false)
GEMM_WGMMA(gemm_rs64_bf16, 64, bf16, false, false, true)
GEMM_WGMMA(gemm_rs128_f16, 128, f16, false, false, true)
GEMM_WGMMA(gemm_rs192_bmn_bf16, 192, bf16, false, true, true)
GEMM_WGMMA(gemm_rs256_bmn_bf16, 256, bf16, false, true, true)

// ---- sm_90: registers -> stmatrix -> TMA store ----

// y tile [64, 64] at (x0, y0) = x + 1 by a warpgroup: mma fragments are read, stored by stmatrix into a tile with the 128-byte
// swizzle, and leave by TMA. `add`: y += instead. TRANSPOSED: fragments of the transpose, stored with stmatrix.trans.
#ifdef FLANRT_SM90
namespace {
template <bool TRANSPOSED> DEVICE void store_tile(const ptx::TensorMap& y, const bf16* x, int x_stride, int x0, int y0, int add) {
    FLANRT_DYN_SMEM(unsigned char, smem);
    const u32 tile = ptx::smem_u32(smem);
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        // 16x16 at rows 16 warp, columns 16 j: quadrants (0, 0), (8, 0), (0, 8), (8, 8).
        u32 r[4];
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const int g = lane / 4, pair = lane % 4 * 2, row0 = y0 + warp * 16 + q % 2 * 8, col0 = x0 + j * 16 + q / 2 * 8;
            auto at = [&](int row, int col) { return to_f32(x[static_cast<i64>(row) * x_stride + col]) + 1.0f; };
            r[q] = TRANSPOSED ? pack2<bf16>(at(row0 + pair, col0 + g), at(row0 + pair + 1, col0 + g))
                              : pack2<bf16>(at(row0 + g, col0 + pair), at(row0 + g, col0 + pair + 1));
        }
        const int row = warp * 16 + lane % 16, chunk = j * 2 + lane / 16;
        const u32 address = tile + row * 128 + ((chunk ^ (row & 7)) << 4);
        if constexpr (TRANSPOSED)
            ptx::stmatrix_x4_trans(address, r);
        else
            ptx::stmatrix_x4(address, r);
    }
    ptx::fence_proxy_async();
    __syncthreads();
    if (tid == 0) {
        if (add)
            ptx::tma_reduce_add_2d(&y, tile, x0, y0);
        else
            ptx::tma_store_2d(&y, tile, x0, y0);
        ptx::tma_store_commit();
        ptx::tma_store_wait<0>();
    }
}
}  // namespace
#define STORE_TILE(TRANSPOSED) store_tile<TRANSPOSED>(y, x, x_stride, blockIdx.x * 64, blockIdx.y * 64, add)
#else
#define STORE_TILE(TRANSPOSED)
#endif
FLANRT_KERNEL(90, store_tile_bf16, 128, (MAP y, const bf16* x, int x_stride, int add)) { STORE_TILE(false); }
FLANRT_KERNEL(90, store_tile_trans_bf16, 128, (MAP y, const bf16* x, int x_stride, int add)) { STORE_TILE(true); }

// ---- sm_90: what a tile looks like in shared memory ----

// y = the bytes of the tile that TMA loads at (x, y, z) of a map of `rank` dimensions, as f32 words.
FLANRT_KERNEL(90, dump_tile_f32, 128, (float* y, MAP map, int rank, int bytes, int x0, int y0, int z0)) {
#ifdef FLANRT_SM90
    FLANRT_DYN_SMEM(float, smem);
    FLANRT_SHARED(u64, bar, 1);
    const u32 at = ptx::smem_u32(smem), b = ptx::smem_u32(bar);
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(b, 1);
        ptx::fence_barrier_init();
        ptx::mbarrier_expect_tx(b, bytes);
        if (rank == 3)
            ptx::tma_load_3d(at, &map, x0, y0, z0, b);
        else
            ptx::tma_load_2d(at, &map, x0, y0, b);
    }
    __syncthreads();
    ptx::mbarrier_wait(b, 0);
    for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) y[i] = smem[i];
#endif
}

// y [rows, cols] f32 += 1 where the map reaches, through a plain tile.
FLANRT_KERNEL(90, add_tile_f32, 128, (MAP y, int count)) {
#ifdef FLANRT_SM90
    FLANRT_DYN_SMEM(float, smem);
    for (int i = threadIdx.x; i < count; i += blockDim.x) smem[i] = 1.0f;
    ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        ptx::tma_reduce_add_2d(&y, ptx::smem_u32(smem), 0, 0);
        ptx::tma_store_commit();
        ptx::tma_store_wait_read<0>();
    }
#endif
}
