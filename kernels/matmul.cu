// Matrix products: y = activation(a . b + bias) + plus.
//
//   matmul_{nt,nn,tn}_{tile}_{dtype}   tensor cores, both operands in 16 bits; the tiles differ in speed alone
//   matmul_split_sum_{dtype}           the end of a product whose inner dimension was divided among blocks
//   matmul_plain                       fused multiply-adds, any dtypes, strides and alignment
//
// `y`, `bias` and `plus` of a tensor-core product have the operands' dtype or are f32: of the two pointers one is null.
#include "gemm.cuh"

enum Activation { NONE, GELU, SILU };  // as in src/cuda/matmul.rs

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
DEVICE float activate(float x, int activation) {
    if (activation == SILU) return x * sigmoid(x);
    if (activation != GELU) return x;
    // (1 + tanh u) / 2 is the sigmoid of 2 u; u = sqrt(2 / pi) (x + 0.044715 x^3).
    return x * sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));
}

// ---- Tensor cores ----

// What happens to a sum, 8 columns at a time.
template <class T> struct Epilogue {
    T* y;
    float* y_f32;
    i64 y_stride;
    const T* bias;
    const float* bias_f32;
    const T* plus;
    const float* plus_f32;
    i64 plus_stride;
    int activation;

    template <class E>
    DEVICE void finish(E* y, const E* plus, i64 row, int column, float (&v)[8], int count) const {
        if (plus) {
            float p[8];
            load8(p, plus + row * plus_stride + column, count, aligned16(plus, plus_stride));
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] += p[i];
        }
        store8(y + row * y_stride + column, v, count, aligned16(y, y_stride));
    }
    DEVICE void operator()(i64 row, int column, float (&v)[8], int count) const {
        if (bias || bias_f32) {
            float p[8];
            if (bias) load8(p, bias + column, count, aligned16(bias, 0));
            else load8(p, bias_f32 + column, count, aligned16(bias_f32, 0));
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] += p[i];
        }
        if (activation != NONE) {
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = activate(v[i], activation);
        }
        if (y) finish(y, plus, row, column, v, count);
        else finish(y_f32, plus_f32, row, column, v, count);
    }
};
#define OUTPUTS(T) \
    T *y, float *y_f32, i64 y_stride, const T *bias, const float *bias_f32, const T *plus, const float *plus_f32, \
        i64 plus_stride, int activation
#define EPILOGUE {y, y_f32, y_stride, bias, bias_f32, plus, plus_f32, plus_stride, activation}

// Grid [tiles, parts of k]: part p sums `k_part` inner elements and, where there is more than one, writes [m, n] f32 number p
// of `y_f32`.
template <class T, Form FORM, class TILE>
DEVICE void matmul_tile(Epilogue<T> end, const T* a, i64 a_stride, const T* b, i64 b_stride, int m, int n, int k, int k_part) {
    FLANRT_DYN_SMEM(unsigned char, ring);
    const TileAt tile(blockIdx.x, ceil_div(m, TILE::BM), ceil_div(n, TILE::BN));
    const int row0 = tile.down * TILE::BM, column0 = tile.across * TILE::BN, k0 = blockIdx.y * k_part;
    const int inner = min(k - k0, k_part);
    constexpr bool A_ALONG_K = FORM != Form::TN, B_ALONG_K = FORM == Form::NT;
    Feed<T, TILE::BM, TILE::BK, A_ALONG_K, TILE::THREADS> feed_a(
        A_ALONG_K ? a + row0 * a_stride + k0 : a + k0 * a_stride + row0, a_stride, m - row0, inner);
    Feed<T, TILE::BN, TILE::BK, B_ALONG_K, TILE::THREADS> feed_b(
        B_ALONG_K ? b + column0 * b_stride + k0 : b + k0 * b_stride + column0, b_stride, n - column0, inner);
    Accumulators<TILE> acc;
    product<T, FORM, TILE>(acc, ptx::smem_u32(ring), feed_a, feed_b, ceil_div(inner, TILE::BK));
    if (gridDim.y > 1) end.y_f32 += static_cast<i64>(blockIdx.y) * m * n;
    each8<TILE>(acc, reinterpret_cast<float*>(ring), [&](int row, int column, float(&v)[8]) {
        if (row0 + row < m && column0 + column < n)
            end(row0 + row, column0 + column, v, min(8, n - column0 - column));
    });
}

using Skinny = Tile<16, 64, 64, 16, 16, 6>;    // up to 16 rows: all about reading b
using Small = Tile<64, 64, 64, 32, 32, 3>;     // outputs that would leave processors idle
using Medium = Tile<128, 128, 32, 64, 64, 3>;  // 48 KB: two blocks share a multiprocessor everywhere
using Large = Tile<128, 256, 32, 64, 64, 4>;   // a quarter less traffic with L2 than two Medium

#define MATMUL(FORM, form, TILE, tile, dtype, T) \
    FLANRT_KERNEL_MIN(80, matmul_##form##_##tile##_##dtype, TILE::THREADS, TILE::BLOCKS, \
                  (OUTPUTS(T), const T* a, i64 a_stride, const T* b, i64 b_stride, int m, int n, int k, int k_part)) { \
        matmul_tile<T, Form::FORM, TILE>(EPILOGUE, a, a_stride, b, b_stride, m, n, k, k_part); \
    }
#define MATMULS(dtype, T) \
    MATMUL(NT, nt, Skinny, skinny, dtype, T) \
    MATMUL(NT, nt, Small, small, dtype, T) \
    MATMUL(NT, nt, Medium, medium, dtype, T) \
    MATMUL(NT, nt, Large, large, dtype, T) \
    MATMUL(NN, nn, Small, small, dtype, T) \
    MATMUL(NN, nn, Medium, medium, dtype, T) \
    MATMUL(NN, nn, Large, large, dtype, T) \
    MATMUL(TN, tn, Small, small, dtype, T) \
    MATMUL(TN, tn, Medium, medium, dtype, T) \
    MATMUL(TN, tn, Large, large, dtype, T)
FOR_HALVES(MATMULS)

// y from `parts` [m, n] f32 sums, added in ascending order. One thread for 8 columns of a row; grid.x covers m * ceil(n / 8).
template <class T> DEVICE void split_sum(Epilogue<T> end, const float* sums, int parts, int m, int n) {
    const int across = ceil_div(n, 8);
    const i64 unit = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x, row = unit / across;
    const int column = unit % across * 8, count = min(8, n - column);
    if (row >= m) return;
    const bool aligned = aligned16(sums, n);
    float v[8];
    load8(v, sums + row * n + column, count, aligned);
    for (int p = 1; p < parts; p++) {
        float w[8];
        load8(w, sums + (p * static_cast<i64>(m) + row) * n + column, count, aligned);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] += w[i];
    }
    end(row, column, v, count);
}
#define SPLIT_SUM(dtype, T) \
    FLANRT_KERNEL(80, matmul_split_sum_##dtype, 256, (OUTPUTS(T), const float* sums, int parts, int m, int n)) { \
        split_sum<T>(EPILOGUE, sums, parts, m, n); \
    }
FOR_HALVES(SPLIT_SUM)

// ---- Plain ----

enum Code { F32, BF16, F16 };  // as in src/cuda/matmul.rs

DEVICE float load_any(const u16* p, int dtype, i64 i) {
    if (dtype == F32) return reinterpret_cast<const float*>(p)[i];
    return dtype == BF16 ? to_f32(reinterpret_cast<const bf16*>(p)[i]) : to_f32(reinterpret_cast<const f16*>(p)[i]);
}
DEVICE void store_any(u16* p, int dtype, i64 i, float x) {
    if (dtype == F32) reinterpret_cast<float*>(p)[i] = x;
    else if (dtype == BF16) reinterpret_cast<bf16*>(p)[i] = from_f32<bf16>(x);
    else reinterpret_cast<f16*>(p)[i] = from_f32<f16>(x);
}

// One operand's 64 x 16 block: four elements a thread, taken along whatever is contiguous in memory.
struct PlainFeed {
    const u16* p;
    int dtype, mn, mn_end, k_end;
    i64 mn_stride, k_stride;
    bool along_k;

    DEVICE void at(int i, int& row, int& inner) const {
        int e = threadIdx.x + 256 * i;
        row = along_k ? e / 16 : e % 64, inner = along_k ? e % 16 : e / 64;
    }
    template <class E> DEVICE void load_as(float (&v)[4], int k0) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row, inner;
            at(i, row, inner);
            row += mn, inner += k0;
            bool inside = row < mn_end && inner < k_end;
            v[i] = inside ? to_f32(reinterpret_cast<const E*>(p)[row * mn_stride + inner * k_stride]) : 0.0f;
        }
    }
    DEVICE void load(float (&v)[4], int k0) const {
        if (dtype == F32) load_as<float>(v, k0);
        else if (dtype == BF16) load_as<bf16>(v, k0);
        else load_as<f16>(v, k0);
    }
};

// y [m, n]; element (i, p) of a at `i * a_row + p * a_inner`, (p, j) of b at `p * b_inner + j * b_column`: one of the two is 1.
// Tiles of 64 x 64, 4 x 4 elements a thread, each one chain of fused multiply-adds with ascending inner index.
FLANRT_KERNEL_MIN(80, matmul_plain, 256, 2,
              (u16* y, int y_dtype, i64 y_stride, const u16* bias, int bias_dtype, const u16* plus, int plus_dtype,
               i64 plus_stride, int activation, const u16* a, int a_dtype, i64 a_row, i64 a_inner, const u16* b, int b_dtype,
               i64 b_inner, i64 b_column, int m, int n, int k)) {
    constexpr int PITCH = 64 + 4, SLAB = 16 * PITCH;  // four more spread the rows over banks and keep them 16-byte aligned
    FLANRT_SHARED(float, slabs, 2 * 2 * SLAB);
    const TileAt tile(blockIdx.x, ceil_div(m, 64), ceil_div(n, 64));
    const int row0 = tile.down * 64, column0 = tile.across * 64;
    const PlainFeed feed_a{a, a_dtype, row0, m, k, a_row, a_inner, a_inner == 1};
    const PlainFeed feed_b{b, b_dtype, column0, n, k, b_column, b_inner, b_inner == 1};
    auto put = [&](const PlainFeed& feed, const float(&v)[4], float* slab) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row, inner;
            feed.at(i, row, inner);
            slab[inner * PITCH + row] = v[i];
        }
    };
    const int r = threadIdx.x / 16 * 4, c = threadIdx.x % 16 * 4;
    float acc[4][4] = {}, next_a[4], next_b[4];
    feed_a.load(next_a, 0), feed_b.load(next_b, 0);
    for (int k0 = 0; k0 < k; k0 += 16) {
        float* slab = slabs + k0 / 16 % 2 * 2 * SLAB;
        put(feed_a, next_a, slab), put(feed_b, next_b, slab + SLAB);
        __syncthreads();  // one is enough: who writes a slab again has passed the barrier of the other one
        if (k0 + 16 < k) feed_a.load(next_a, k0 + 16), feed_b.load(next_b, k0 + 16);
#pragma unroll
        for (int p = 0; p < 16; p++) {
            const float4 x = *reinterpret_cast<float4*>(slab + p * PITCH + r);
            const float4 w = *reinterpret_cast<float4*>(slab + SLAB + p * PITCH + c);
            float xs[4] = {x.x, x.y, x.z, x.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) acc[i][j] = fmaf(xs[i], ws[j], acc[i][j]);
        }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; i++)
        *reinterpret_cast<float4*>(slabs + (r + i) * PITCH + c) = make_float4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
    __syncthreads();
#pragma unroll 1
    for (int e = threadIdx.x; e < 64 * 64; e += 256) {
        const i64 row = row0 + e / 64;
        const int column = column0 + e % 64;
        if (row >= m || column >= n) continue;
        float v = slabs[e / 64 * PITCH + e % 64];
        if (bias) v += load_any(bias, bias_dtype, column);
        v = activate(v, activation);
        if (plus) v += load_any(plus, plus_dtype, row * plus_stride + column);
        store_any(y, y_dtype, row * y_stride + column, v);
    }
}
