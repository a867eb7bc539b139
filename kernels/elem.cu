// Elementwise and row-wise moves: conversions, gathers, placements, scatters that add, sums over rows.
#include "rows.cuh"

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

// ---- convert: pieces of 8 elements, whatever the two dtypes ----

template <class D, class S, bool EVEN>
DEVICE void convert(D* __restrict__ y, i64 y_stride, const S* __restrict__ x, i64 x_stride, int rows, i64 cols) {
    constexpr int N = 8, U = sizeof(S) == 4 ? 2 : 4;
    Spot at[U];
    float v[U][N];
#pragma unroll
    for (int u = 0; u < U; u++) {
        at[u] = spot<THREADS, U, N>(u, rows, cols);
        if (at[u].left) load_some<EVEN>(v[u], x + at[u].row * x_stride + at[u].col, at[u].left);
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
        if (at[u].left) store_some<EVEN>(y + at[u].row * y_stride + at[u].col, v[u], at[u].left);
    }
}

// ---- gather: y[i] = x[index[i]]; put: y[index[i]] = x[i]; the bits as they are ----

template <class T, bool EVEN, bool PUT>
DEVICE void move_rows(T* __restrict__ y, i64 y_stride, const T* __restrict__ x, i64 x_stride, const u32* __restrict__ index, int rows,
                   int cols) {
    constexpr int U = 4;
    Spot at[U];
    u32 named[U];
    uint4 v[U];
#pragma unroll
    for (int u = 0; u < U; u++) {
        at[u] = spot<THREADS, U, LANES<T>>(u, rows, cols);
        if (at[u].left) named[u] = index[at[u].row];
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
        if (at[u].left) v[u] = load_chunk<EVEN>(x + (PUT ? at[u].row : named[u]) * x_stride + at[u].col, at[u].left);
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
        if (at[u].left) store_chunk<EVEN>(y + (PUT ? named[u] : at[u].row) * y_stride + at[u].col, v[u], at[u].left);
    }
}

// ---- scatter: dx[r] = sum of dy[i] over index[i] = r, in ascending i ----

// The first place of ascending `index` that is not below `r`, found by a warp's 32 probes at a time.
DEVICE int first_not_below(const u32* index, int n, u32 r) {
    int lo = 0, len = n;
    while (len > 0) {
        const int step = ceil_div(len, 32), probe = lo + (threadIdx.x % 32 + 1) * step - 1;
        const bool below = probe < lo + len && index[probe] < r;
        const int skip = __popc(__ballot_sync(FULL_MASK, below)) * step;
        // The next probe is not below, if there is one: what is left lies before it.
        len = min(step - 1, len - skip);
        lo += skip;
    }
    return lo;
}

// A warp sums C chunks a lane of one row.
template <class T> constexpr int SCATTER_CHUNKS = 4;
template <class T> constexpr int SCATTER_COLS = SCATTER_CHUNKS<T> * 32 * LANES<T>;

template <class T, bool EVEN>
DEVICE void scatter(T* __restrict__ dx, i64 dx_stride, const T* __restrict__ dy, i64 dy_stride, const u32* __restrict__ index, int rows,
                    int count, int cols) {
    constexpr int V = LANES<T>, C = SCATTER_CHUNKS<T>;
    const u32 parts = ceil_div(cols, SCATTER_COLS<T>);
    const u32 warp = blockIdx.x * WARPS + threadIdx.x / 32, row = warp / parts;
    if (row >= rows) return;
    const int col = (warp - row * parts) * SCATTER_COLS<T> + threadIdx.x % 32 * V;
    float sum[C][V] = {};
    for (int i = first_not_below(index, count, row); i < count && index[i] == row; i++) {
        uint4 raw[C];
#pragma unroll
        for (int c = 0; c < C; c++) {
            const int at = col + c * 32 * V;
            raw[c] = at < cols ? load_chunk<EVEN>(dy + i * dy_stride + at, cols - at) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int c = 0; c < C; c++) {
            float v[V];
            unpack<T>(v, raw[c]);
#pragma unroll
            for (int j = 0; j < V; j++) sum[c][j] += v[j];
        }
    }
#pragma unroll
    for (int c = 0; c < C; c++) {
        const int at = col + c * 32 * V;
        if (at < cols) store_chunk<EVEN>(dx + row * dx_stride + at, pack<T>(sum[c]), cols - at);
    }
}

// ---- sums over rows, in two steps: chunks of rows to f32 partials, then the partials in order ----

// partials[p, c] = sum of dy over rows p * chunk to (p + 1) * chunk. A block takes 32 lanes' chunks of columns; each of its
// warps every 8th row, then the warps' sums are added in order.
template <class T, bool EVEN>
DEVICE void sum_chunk(float* __restrict__ partials, const T* __restrict__ dy, i64 dy_stride, int rows, int cols, int chunk,
                      float (*sums)[32 * 8]) {
    constexpr int V = LANES<T>, U = 8;
    const u32 parts = ceil_div(cols, 32 * V), p = blockIdx.x / parts;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first = (blockIdx.x - p * parts) * 32 * V, col = first + lane * V;
    const int end = min(rows, static_cast<int>(p + 1) * chunk);
    float sum[V] = {};
    for (int r = p * chunk + warp; r < end; r += U * WARPS) {
        uint4 raw[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            const int row = r + u * WARPS;
            const bool in = row < end && col < cols;
            raw[u] = in ? load_chunk<EVEN>(dy + row * dy_stride + col, cols - col) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int u = 0; u < U; u++) {
            float v[V];
            unpack<T>(v, raw[u]);
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += v[j];
        }
    }
#pragma unroll
    for (int j = 0; j < V; j++) sums[warp][lane * V + j] = sum[j];
    __syncthreads();
    for (int c = threadIdx.x; c < 32 * V && first + c < cols; c += THREADS) {
        float total = sums[0][c];
#pragma unroll
        for (int w = 1; w < WARPS; w++) total += sums[w][c];
        partials[static_cast<i64>(p) * cols + first + c] = total;
    }
}

// out[c] += sum of partials[p, c] over p: 32 columns a block, warp w takes every 16th partial from w on, then the warps' sums
// are added in order.
constexpr int ADD_WARPS = 16;

template <class T>
DEVICE void add_partials(T* __restrict__ out, const float* __restrict__ partials, int count, int cols, float (*sums)[32]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (c < cols) {
#pragma unroll 8
        for (int p = warp; p < count; p += ADD_WARPS) sum += partials[static_cast<i64>(p) * cols + c];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || c >= cols) return;
#pragma unroll
    for (int w = 1; w < ADD_WARPS; w++) sum += sums[w][lane];
    out[c] = from_f32<T>(to_f32(out[c]) + sum);
}

#define CONVERT(to, D, from, S) \
    FLANRT_KERNEL(80, convert_##to##_##from, THREADS, \
                  (D* __restrict__ y, i64 y_stride, const S* __restrict__ x, i64 x_stride, int rows, i64 cols)) { \
        if (cols % 8 == 0 && even(y, y_stride) && even(x, x_stride)) \
            convert<D, S, true>(y, y_stride, x, x_stride, rows, cols); \
        else \
            convert<D, S, false>(y, y_stride, x, x_stride, rows, cols); \
    }
#define CONVERT_FROM(from, S) CONVERT(f32, float, from, S) CONVERT(bf16, bf16, from, S) CONVERT(f16, f16, from, S)
FOR_DTYPES(CONVERT_FROM)

#define MOVES(suffix, T) \
    FLANRT_KERNEL(80, gather_rows_##suffix, THREADS, \
                  (T* __restrict__ y, i64 y_stride, const T* __restrict__ x, i64 x_stride, const u32* __restrict__ index, int rows, \
                   int cols)) { \
        if (cols % LANES<T> == 0 && even(y, y_stride) && even(x, x_stride)) \
            move_rows<T, true, false>(y, y_stride, x, x_stride, index, rows, cols); \
        else \
            move_rows<T, false, false>(y, y_stride, x, x_stride, index, rows, cols); \
    } \
    FLANRT_KERNEL(80, put_rows_##suffix, THREADS, \
                  (T* __restrict__ y, i64 y_stride, const T* __restrict__ x, i64 x_stride, const u32* __restrict__ index, int rows, \
                   int cols)) { \
        if (cols % LANES<T> == 0 && even(y, y_stride) && even(x, x_stride)) \
            move_rows<T, true, true>(y, y_stride, x, x_stride, index, rows, cols); \
        else \
            move_rows<T, false, true>(y, y_stride, x, x_stride, index, rows, cols); \
    } \
    FLANRT_KERNEL(80, scatter_rows_##suffix, THREADS, \
                  (T* __restrict__ dx, i64 dx_stride, const T* __restrict__ dy, i64 dy_stride, const u32* __restrict__ index, \
                   int rows, int count, int cols)) { \
        if (cols % LANES<T> == 0 && even(dx, dx_stride) && even(dy, dy_stride)) \
            scatter<T, true>(dx, dx_stride, dy, dy_stride, index, rows, count, cols); \
        else \
            scatter<T, false>(dx, dx_stride, dy, dy_stride, index, rows, count, cols); \
    } \
    FLANRT_KERNEL(80, sum_rows_##suffix, THREADS, \
                  (float* __restrict__ partials, const T* __restrict__ dy, i64 dy_stride, int rows, int cols, int chunk)) { \
        FLANRT_SHARED(float, sums, WARPS * 256); \
        float(*s)[256] = reinterpret_cast<float(*)[256]>(sums); \
        if (cols % LANES<T> == 0 && even(dy, dy_stride)) \
            sum_chunk<T, true>(partials, dy, dy_stride, rows, cols, chunk, s); \
        else \
            sum_chunk<T, false>(partials, dy, dy_stride, rows, cols, chunk, s); \
    } \
    FLANRT_KERNEL(80, add_partials_##suffix, ADD_WARPS * 32, \
                  (T* __restrict__ out, const float* __restrict__ partials, int count, int cols)) { \
        FLANRT_SHARED(float, sums, ADD_WARPS * 32); \
        add_partials<T>(out, partials, count, cols, reinterpret_cast<float(*)[32]>(sums)); \
    }
FOR_DTYPES(MOVES)
