// Rotary position embedding in place, half-split: (x1, x2) -> (x1 c - x2 s, x2 c + x1 s) for the halves of every head.
//
// A thread rotates one chunk of pairs in four heads of a row, so cosines and sines are read once for the four and eight
// accesses are in flight.
#include "rows.cuh"

constexpr int THREADS = 256;
constexpr int HEADS = 4;

template <class T, bool EVEN>
DEVICE void rotate(T* x, i64 x_stride, const u32* __restrict__ positions, const float* __restrict__ table, i64 table_stride, int rows,
                   int heads, int k, float sign) {
    constexpr int V = LANES<T>;
    const int half = k / 2;
    const u32 chunks = ceil_div(half, V), groups = ceil_div(heads, HEADS);
    const u32 at = blockIdx.x * THREADS + threadIdx.x, line = at / chunks, row = line / groups;
    if (row >= rows) return;
    const int j = (at - line * chunks) * V, head = (line - row * groups) * HEADS, left = half - j;
    float cos[V], sin[V];
    const float* angles = table + positions[row] * table_stride + j;
    T* base = x + row * x_stride + static_cast<i64>(head) * k + j;
    uint4 first[HEADS], second[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (head + h >= heads) continue;
        first[h] = load_chunk<EVEN>(base + h * k, left);
        second[h] = load_chunk<EVEN>(base + h * k + half, left);
    }
    load_some<EVEN>(cos, angles, left);
    load_some<EVEN>(sin, angles + half, left);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (head + h >= heads) continue;
        float a[V], b[V];
        unpack<T>(a, first[h]);
        unpack<T>(b, second[h]);
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float s = sign * sin[i], x1 = fmaf(a[i], cos[i], -(b[i] * s));
            b[i] = fmaf(b[i], cos[i], a[i] * s);
            a[i] = x1;
        }
        store_chunk<EVEN>(base + h * k, pack<T>(a), left);
        store_chunk<EVEN>(base + h * k + half, pack<T>(b), left);
    }
}

#define ROPE(suffix, T) \
    FLANRT_KERNEL(80, rope_##suffix, THREADS, \
                  (T* x, i64 x_stride, const u32* __restrict__ positions, const float* __restrict__ table, i64 table_stride, int rows, \
                   int heads, int k, float sign)) { \
        if (k % (2 * LANES<T>) == 0 && even(x, x_stride) && even(table, table_stride)) \
            rotate<T, true>(x, x_stride, positions, table, table_stride, rows, heads, k, sign); \
        else \
            rotate<T, false>(x, x_stride, positions, table, table_stride, rows, heads, k, sign); \
    }
FOR_DTYPES(ROPE)
