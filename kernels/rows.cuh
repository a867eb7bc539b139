// How row-wise and elementwise kernels touch memory: in chunks of 16 bytes, LANES<T> elements of one row.
//
// Where pointers, strides and widths are multiples of 16 bytes ("even"), a chunk is one access; elsewhere its elements are
// moved one by one. Both ways give a thread the same elements in the same order, so a view's place in memory never changes
// a bit of the result. Kernels pick the way once, at their top, so that the even way has no branch between its loads.
#pragma once
#include "common.cuh"

// Whether rows from `p`, `stride` elements apart, start on 16 bytes.
template <class T> DEVICE bool even(const T* p, i64 stride) {
    return (reinterpret_cast<u64>(p) | static_cast<u64>(stride) * sizeof(T)) % 16 == 0;
}

// The chunk at `p`, of which `left` > 0 elements (or more than it holds) are in the row; the others read as 0.
template <bool EVEN, class T> DEVICE uint4 load_chunk(const T* p, int left) {
    if constexpr (EVEN) {
        return *reinterpret_cast<const uint4*>(p);
    } else if constexpr (sizeof(T) == 4) {
        const u32* q = reinterpret_cast<const u32*>(p);
        return make_uint4(q[0], left > 1 ? q[1] : 0, left > 2 ? q[2] : 0, left > 3 ? q[3] : 0);
    } else {
        const u16* q = reinterpret_cast<const u16*>(p);
        u32 w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u32 lo = left > 2 * i ? q[2 * i] : 0, hi = left > 2 * i + 1 ? q[2 * i + 1] : 0;
            w[i] = lo | hi << 16;
        }
        return make_uint4(w[0], w[1], w[2], w[3]);
    }
}

// Writes the first `left` elements of a chunk.
template <bool EVEN, class T> DEVICE void store_chunk(T* p, uint4 v, int left) {
    if constexpr (EVEN) {
        *reinterpret_cast<uint4*>(p) = v;
    } else {
        const u32 w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < LANES<T>; i++) {
            if (i >= left) continue;
            if constexpr (sizeof(T) == 4) {
                reinterpret_cast<u32*>(p)[i] = w[i];
            } else {
                reinterpret_cast<u16*>(p)[i] = static_cast<u16>(w[i / 2] >> 16 * (i % 2));
            }
        }
    }
}

// A chunk's elements as f32, and back (round to nearest even).
template <class T> DEVICE void unpack(float (&out)[LANES<T>], uint4 v) {
    const u32 w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if constexpr (sizeof(T) == 4) {
            out[i] = __uint_as_float(w[i]);
        } else {
            const float2 f = unpack2<T>(w[i]);
            out[2 * i] = f.x, out[2 * i + 1] = f.y;
        }
    }
}
template <class T> DEVICE uint4 pack(const float (&x)[LANES<T>]) {
    if constexpr (sizeof(T) == 4) {
        return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3]));
    } else {
        return make_uint4(pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]), pack2<T>(x[4], x[5]), pack2<T>(x[6], x[7]));
    }
}

// N elements (whole chunks) as f32, of which `left` > 0 are in the row; and back.
template <bool EVEN, int N, class T> DEVICE void load_some(float (&out)[N], const T* p, int left) {
    constexpr int V = LANES<T>;
    static_assert(N % V == 0, "whole chunks");
    uint4 raw[N / V];
#pragma unroll
    for (int i = 0; i < N / V; i++) {
        raw[i] = EVEN || left > i * V ? load_chunk<EVEN>(p + i * V, left - i * V) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < N / V; i++) {
        float part[V];
        unpack<T>(part, raw[i]);
#pragma unroll
        for (int j = 0; j < V; j++) out[i * V + j] = part[j];
    }
}
template <bool EVEN, int N, class T> DEVICE void store_some(T* p, const float (&x)[N], int left) {
    constexpr int V = LANES<T>;
    static_assert(N % V == 0, "whole chunks");
#pragma unroll
    for (int i = 0; i < N / V; i++) {
        float part[V];
#pragma unroll
        for (int j = 0; j < V; j++) part[j] = x[i * V + j];
        store_chunk<EVEN>(p + i * V, pack<T>(part), left - i * V);
    }
}

// Elementwise kernels count the chunks of all rows in one line (fewer than 2^31 of them); a block of THREADS takes
// U * THREADS, a thread every THREADS-th. `spot` is the place of a thread's u-th chunk.
struct Spot {
    u32 row;
    int left;  // elements of the row from here on, as far as a chunk needs to know; 0: nothing to do
    i64 col;
};
template <int THREADS, int U, int V> DEVICE Spot spot(int u, int rows, i64 cols) {
    const u32 per_row = static_cast<u32>((cols + V - 1) / V);
    const u32 at = (blockIdx.x * U + u) * THREADS + threadIdx.x;
    const u32 row = at / per_row;
    const i64 col = static_cast<i64>(at - row * per_row) * V, left = cols - col;
    return {row, row >= static_cast<u32>(rows) ? 0 : left < 64 ? static_cast<int>(left) : 64, col};
}
