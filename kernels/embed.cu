// Gradient of the token embedding (its forward pass is gather_rows in elem.cu).
//
// `order` lists the rows of dx by (token, row). The warps that stand at the first place of a run of equal tokens sum the run
// in row order, one chunk of columns a lane, and add it to the table once: no two warps share an element, so no atomics.
#include "rows.cuh"

constexpr int THREADS = 256;
constexpr int U = 8;  // rows of a run in flight

template <class D, class T, bool EVEN>
DEVICE void embed_backward(D* __restrict__ dtable, i64 dtable_stride, const T* __restrict__ dx, i64 dx_stride,
                           const u32* __restrict__ tokens, const u32* __restrict__ order, int count, int cols) {
    constexpr int V = LANES<T>;
    const u32 parts = ceil_div(cols, 32 * V);
    const u32 warp = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, place = warp / parts;
    if (place >= count) return;
    const u32 token = tokens[order[place]];
    if (place > 0 && tokens[order[place - 1]] == token) return;
    const int lane = threadIdx.x % 32, col = ((warp - place * parts) * 32 + lane) * V, left = cols - col;
    float sum[V] = {};
    for (int base = place, run = 32; run == 32; base += 32) {
        // 32 rows at a time: lane l looks at place base + l; a run is contiguous, so counting suffices.
        const u32 mine = base + lane < count ? order[base + lane] : 0;
        run = __popc(__ballot_sync(FULL_MASK, base + lane < count && tokens[mine] == token));
        for (int k = 0; k < run; k += U) {
            uint4 raw[U];
#pragma unroll
            for (int u = 0; u < U; u++) {
                const u32 row = __shfl_sync(FULL_MASK, mine, k + u);
                const bool in = k + u < run && left > 0;
                raw[u] = in ? load_chunk<EVEN>(dx + row * dx_stride + col, left) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (int u = 0; u < U; u++) {
                float v[V];
                unpack<T>(v, raw[u]);
#pragma unroll
                for (int j = 0; j < V; j++) sum[j] += v[j];
            }
        }
    }
    if (left <= 0) return;
    D* to = dtable + token * dtable_stride + col;
    float old[V];
    load_some<EVEN>(old, to, left);
#pragma unroll
    for (int j = 0; j < V; j++) sum[j] += old[j];
    store_some<EVEN>(to, sum, left);
}

#define EMBED_BWD(to, D, suffix, T) \
    FLANRT_KERNEL(80, embed_bwd_##to##_##suffix, THREADS, \
                  (D* __restrict__ dtable, i64 dtable_stride, const T* __restrict__ dx, i64 dx_stride, \
                   const u32* __restrict__ tokens, const u32* __restrict__ order, int count, int cols)) { \
        if (cols % LANES<T> == 0 && even(dtable, dtable_stride) && even(dx, dx_stride)) \
            embed_backward<D, T, true>(dtable, dtable_stride, dx, dx_stride, tokens, order, count, cols); \
        else \
            embed_backward<D, T, false>(dtable, dtable_stride, dx, dx_stride, tokens, order, count, cols); \
    }
#define TO_F32(suffix, T) EMBED_BWD(f32, float, suffix, T)
#define TO_OWN(suffix, T) EMBED_BWD(suffix, T, suffix, T)
FOR_DTYPES(TO_F32)
FOR_HALVES(TO_OWN)
