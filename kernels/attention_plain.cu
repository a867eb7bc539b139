// Attention for every dtype, head size up to 256 and any layout: f32, and what the tensor cores cannot take (attention_fwd.cu,
// attention_bwd.cu). Also the row sums of do o that both kinds of backward pass start from.
//
// A warp owns R rows (queries, or keys in the pass for dk and dv) and meets tiles of 32 rows of the other side: lane l takes row l
// for dot products, and columns l, l + 32, ... for weighted sums. Everything in shared memory is f32.
#include "attention.cuh"

constexpr int WARPS = 8;
constexpr int THREADS = WARPS * 32;
constexpr int KEYS = 32;

// Rows of a warp: fewer where they are wide, so that a block's tiles fit into 99 KiB.
template <int D> constexpr int ROWS_OF = D <= 128 ? 4 : 2;
// Floats between rows of which every lane reads its own: an odd number of 16-byte units.
template <int D> constexpr int PITCH = D + 4;

// Copies `count` rows of `size` elements to rows `pitch` apart, a warp a row; columns up to the next multiple of 32 become zero.
// `offset(r)` is where row r starts, negative for a row of zeros.
template <class T, class Offset> DEVICE void load_rows(float* dst, int pitch, int count, const T* src, int size, Offset offset) {
#pragma unroll 1
    for (int r = threadIdx.x / 32; r < count; r += WARPS) {
        i64 from = offset(r);
        for (int c = threadIdx.x % 32; c < size + 31 - (size + 31) % 32; c += 32) {
            dst[r * pitch + c] = from >= 0 && c < size ? to_f32(src[from + c]) : 0.0f;
        }
    }
}

// dots[i] = rows[i] . lane_row, for R rows `D` apart.
template <int D, int R> DEVICE void dot_rows(float (&dots)[R], const float* rows, const float* lane_row, int size) {
#pragma unroll
    for (int i = 0; i < R; i++) dots[i] = 0.0f;
#pragma unroll 2
    for (int c = 0; c < size; c += 4) {
        float4 b = *reinterpret_cast<const float4*>(lane_row + c);
#pragma unroll
        for (int i = 0; i < R; i++) {
            float4 a = *reinterpret_cast<const float4*>(rows + i * D + c);
            dots[i] = fmaf(a.x, b.x, dots[i]), dots[i] = fmaf(a.y, b.y, dots[i]);
            dots[i] = fmaf(a.z, b.z, dots[i]), dots[i] = fmaf(a.w, b.w, dots[i]);
        }
    }
}

// sums[i][n] += weights[i] . column lane + 32 n of the tile of 32 rows. `line` is the warp's [R, 32] of shared memory, through which
// the lanes' weights go.
template <int D, int R>
DEVICE void add_weighted(float (&sums)[R][D / 32], const float (&weights)[R], const float* tile, float* line, int size) {
    int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < R; i++) line[i * 32 + lane] = weights[i];
    __syncwarp();
#pragma unroll 1
    for (int j = 0; j < 32; j += 4) {
        float4 w[R];
#pragma unroll
        for (int i = 0; i < R; i++) w[i] = *reinterpret_cast<const float4*>(line + i * 32 + j);
#pragma unroll
        for (int n = 0; n < D / 32; n++) {
            if (n * 32 >= size) break;
            const float* x = tile + j * PITCH<D> + n * 32 + lane;
#pragma unroll
            for (int i = 0; i < R; i++) {
                sums[i][n] = fmaf(w[i].x, x[0], sums[i][n]), sums[i][n] = fmaf(w[i].y, x[PITCH<D>], sums[i][n]);
                sums[i][n] = fmaf(w[i].z, x[2 * PITCH<D>], sums[i][n]), sums[i][n] = fmaf(w[i].w, x[3 * PITCH<D>], sums[i][n]);
            }
        }
    }
}

template <int D, int R> DEVICE void clear(float (&sums)[R][D / 32]) {
#pragma unroll
    for (int i = 0; i < R; i++) {
#pragma unroll
        for (int n = 0; n < D / 32; n++) sums[i][n] = 0.0f;
    }
}

// Writes a warp's sums times `factor` to the row that starts at `dst`.
template <class T, int N> DEVICE void store_row(T* dst, const float (&sums)[N], float factor, int size) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        int c = threadIdx.x % 32 + n * 32;
        if (c < size) dst[c] = from_f32<T>(sums[n] * factor);
    }
}

// Copies one tile of a path's keys; positions behind `last` become zeros.
template <int D, class T> DEVICE void load_keys(float* dst, const T* src, i64 stride, int size, Path& path, int tile, int last) {
    path.retreat(min(tile * KEYS + KEYS - 1, last));
    load_rows(dst, PITCH<D>, KEYS, src, size, [&](int r) {
        int position = tile * KEYS + r;
        return position <= last ? path.row(position) * stride : i64(-1);
    });
}

template <class T, int D>
DEVICE void attention_fwd(T* o, i64 o_stride, float* lse, i64 lse_stride, const T* q, i64 q_stride, const T* k, i64 k_stride, const T* v,
                          i64 v_stride, const u32* table, int kv_heads, int group, int size, int window, float scale) {
    constexpr int R = ROWS_OF<D>, ROWS = R * WARPS, PARTS = TILE / ROWS;
    FLANRT_DYN_SMEM(float, smem);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float *queries = smem, *keys = queries + ROWS * D, *line = keys + KEYS * PITCH<D> + warp * R * 32;
    float scale_log2 = scale * LOG2E;

    Forest forest{table};
    Group heads(group);
    int subs = group * PARTS, items = forest.query_tiles() * kv_heads * subs;
    for (int round = 0, i; (i = item_of(round)) < items; round++) {
        QueryRows rows(forest.ranked_query_tile(i / subs / kv_heads), heads, i / subs % kv_heads, i % subs * ROWS, ROWS);
        if (rows.count <= 0) continue;
        int last = rows.last(), first_tile = first_key(rows.from(), window) / KEYS, head = rows.kv * size;
        Path path{forest};
        path.enter(rows.tile.run);
        load_rows(queries, D, ROWS, q, size, [&](int r) { return rows.at(r, q_stride, size); });

        float out[R][D / 32], top[R], total[R];
        int position[R];
        clear<D, R>(out);
#pragma unroll
        for (int r = 0; r < R; r++) {
            top[r] = -INFINITY, total[r] = 0.0f;
            position[r] = rows.position(warp * R + r);
        }
        for (int tile = last / KEYS; tile >= first_tile; tile--) {
            load_keys<D>(keys, k + head, k_stride, size, path, tile, last);
            __syncthreads();
            float s[R];
            dot_rows<D>(s, queries + warp * R * D, keys + lane * PITCH<D>, size);
            __syncthreads();
            load_keys<D>(keys, v + head, v_stride, size, path, tile, last);
#pragma unroll
            for (int r = 0; r < R; r++) {
                float score = sees(position[r], tile * KEYS + lane, window) ? s[r] : -INFINITY;
                float now = fmaxf(top[r], warp_max(score));
                // A row that has seen no key yet stays as it is: weights 2^-inf, and no shrinking.
                float shrink = ptx::exp2_approx(now == top[r] ? 0.0f : (top[r] - now) * scale_log2);
                s[r] = ptx::exp2_approx((score - (now == -INFINITY ? 0.0f : now)) * scale_log2);
                top[r] = now;
                total[r] = fmaf(total[r], shrink, s[r]);
#pragma unroll
                for (int n = 0; n < D / 32; n++) out[r][n] *= shrink;
            }
            __syncthreads();
            add_weighted<D>(out, s, keys, line, size);
            __syncthreads();
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            float sum = warp_sum(total[r]);
            if (warp * R + r < rows.count) {
                store_row(o + rows.at(warp * R + r, o_stride, size), out[r], 1.0f / sum, size);
                if (lane == 0) lse[rows.at(warp * R + r, lse_stride, 1)] = fmaf(top[r], scale, logf(sum));
            }
        }
        __syncthreads();
    }
}

// delta [t, h] = rowsum(do o): what the softmax subtracts. Eight threads a row and head, 16-byte units in turn.
template <class T>
DEVICE void attention_delta(float* delta, i64 delta_stride, const T* dout, i64 dout_stride, const T* o, i64 o_stride, int rows,
                            int heads, int size) {
    i64 at = blockIdx.x * i64(THREADS / 8) + threadIdx.x / 8;
    bool there = at < i64(rows) * heads;
    i64 row = at / heads;
    int head = at % heads;
    const T *a = dout + row * dout_stride + head * size, *b = o + row * o_stride + head * size;
    bool aligned = (reinterpret_cast<u64>(a) | reinterpret_cast<u64>(b)) % 16 == 0 && size % LANES<T> == 0;
    float sum = 0.0f;
    for (int c = threadIdx.x % 8 * LANES<T>; there && c < size; c += 8 * LANES<T>) {
        float x[LANES<T>], y[LANES<T>];
        if (aligned) {
            load16(x, a + c);
            load16(y, b + c);
        } else {
#pragma unroll
            for (int i = 0; i < LANES<T>; i++) {
                x[i] = c + i < size ? to_f32(a[c + i]) : 0.0f;
                y[i] = c + i < size ? to_f32(b[c + i]) : 0.0f;
            }
        }
#pragma unroll
        for (int i = 0; i < LANES<T>; i++) sum = fmaf(x[i], y[i], sum);
    }
#pragma unroll
    for (int o = 4; o; o /= 2) sum += __shfl_xor_sync(FULL_MASK, sum, o);
    if (there && threadIdx.x % 8 == 0) delta[row * delta_stride + head] = sum;
}

template <class T, int D>
DEVICE void attention_bwd_q(T* dq, i64 dq_stride, const T* dout, i64 dout_stride, const T* q, i64 q_stride, const T* k, i64 k_stride,
                            const T* v, i64 v_stride, const float* lse, i64 lse_stride, const float* delta, i64 delta_stride,
                            const u32* table, int kv_heads, int group, int size, int window, float scale) {
    constexpr int R = ROWS_OF<D>, ROWS = R * WARPS, PARTS = TILE / ROWS;
    FLANRT_DYN_SMEM(float, smem);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float *queries = smem, *douts = queries + ROWS * D, *keys = douts + ROWS * D, *line = keys + KEYS * PITCH<D> + warp * R * 32;
    float scale_log2 = scale * LOG2E;

    Forest forest{table};
    Group heads(group);
    int subs = group * PARTS, items = forest.query_tiles() * kv_heads * subs;
    for (int round = 0, i; (i = item_of(round)) < items; round++) {
        QueryRows rows(forest.ranked_query_tile(i / subs / kv_heads), heads, i / subs % kv_heads, i % subs * ROWS, ROWS);
        if (rows.count <= 0) continue;
        int last = rows.last(), first_tile = first_key(rows.from(), window) / KEYS, head = rows.kv * size;
        Path path{forest};
        path.enter(rows.tile.run);
        load_rows(queries, D, ROWS, q, size, [&](int r) { return rows.at(r, q_stride, size); });
        load_rows(douts, D, ROWS, dout, size, [&](int r) { return rows.at(r, dout_stride, size); });

        float sum[R][D / 32], row_lse[R], row_delta[R];
        int position[R];
        clear<D, R>(sum);
#pragma unroll
        for (int r = 0; r < R; r++) {
            bool there = warp * R + r < rows.count;
            position[r] = rows.position(warp * R + r);
            row_lse[r] = there ? lse[rows.at(warp * R + r, lse_stride, 1)] * LOG2E : 0.0f;
            row_delta[r] = there ? delta[rows.at(warp * R + r, delta_stride, 1)] : 0.0f;
        }
        for (int tile = last / KEYS; tile >= first_tile; tile--) {
            load_keys<D>(keys, v + head, v_stride, size, path, tile, last);
            __syncthreads();
            float dp[R], s[R];
            dot_rows<D>(dp, douts + warp * R * D, keys + lane * PITCH<D>, size);
            __syncthreads();
            load_keys<D>(keys, k + head, k_stride, size, path, tile, last);
            __syncthreads();
            dot_rows<D>(s, queries + warp * R * D, keys + lane * PITCH<D>, size);
#pragma unroll
            for (int r = 0; r < R; r++) {
                float p = ptx::exp2_approx(fmaf(s[r], scale_log2, -row_lse[r]));
                s[r] = sees(position[r], tile * KEYS + lane, window) ? p * (dp[r] - row_delta[r]) : 0.0f;
            }
            add_weighted<D>(sum, s, keys, line, size);
            __syncthreads();
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            if (warp * R + r < rows.count) store_row(dq + rows.at(warp * R + r, dq_stride, size), sum[r], scale, size);
        }
        __syncthreads();
    }
}

template <class T, int D>
DEVICE void attention_bwd_kv(T* dk, i64 dk_stride, T* dv, i64 dv_stride, const T* dout, i64 dout_stride, const T* q, i64 q_stride,
                             const T* k, i64 k_stride, const T* v, i64 v_stride, const float* lse, i64 lse_stride, const float* delta,
                             i64 delta_stride, const u32* table, int kv_heads, int group, int size, int window, float scale) {
    constexpr int R = ROWS_OF<D>, ROWS = R * WARPS, PARTS = TILE / ROWS;
    FLANRT_DYN_SMEM(float, smem);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float *keys = smem, *values = keys + ROWS * D, *queries = values + ROWS * D, *douts = queries + 32 * PITCH<D>;
    float* line = douts + 32 * PITCH<D> + warp * R * 32;
    float scale_log2 = scale * LOG2E;

    Forest forest{table};
    Group heads(group);
    int items = forest.key_tiles() * kv_heads * PARTS;
    for (int round = 0, i; (i = item_of(round)) < items; round++) {
        KeyTile tile = forest.ranked_key_tile(i / PARTS / kv_heads);
        int kv = i / PARTS % kv_heads, first = i % PARTS * ROWS, count = min(ROWS, tile.count - first);
        if (count <= 0) continue;
        int row = tile.row + first, position = tile.position + first;
        load_rows(keys, D, ROWS, k, size, [&](int r) { return r < count ? (row + r) * k_stride + kv * size : i64(-1); });
        load_rows(values, D, ROWS, v, size, [&](int r) { return r < count ? (row + r) * v_stride + kv * size : i64(-1); });
        float sum_k[R][D / 32], sum_v[R][D / 32];
        clear<D, R>(sum_k);
        clear<D, R>(sum_v);
        for (int t = tile.seen_from; t < tile.seen_to; t++) {
            QueryTile query_tile = forest.query_tile(t);
            for (int part = 0; part < query_tile.count * group; part += 32) {
                QueryRows rows(query_tile, heads, kv, part, 32);
                if (rows.last() < position || first_key(rows.from(), window) >= position + count) continue;
                load_rows(queries, PITCH<D>, 32, q, size, [&](int r) { return rows.at(r, q_stride, size); });
                load_rows(douts, PITCH<D>, 32, dout, size,
                          [&](int r) { return rows.at(r, dout_stride, size); });
                bool there = lane < rows.count;
                int query = rows.position(lane);
                float row_lse = there ? lse[rows.at(lane, lse_stride, 1)] * LOG2E : 0.0f;
                float row_delta = there ? delta[rows.at(lane, delta_stride, 1)] : 0.0f;
                __syncthreads();
                float p[R], dp[R];
                dot_rows<D>(p, keys + warp * R * D, queries + lane * PITCH<D>, size);
                dot_rows<D>(dp, values + warp * R * D, douts + lane * PITCH<D>, size);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    bool seen = there && sees(query, position + warp * R + r, window);
                    p[r] = seen ? ptx::exp2_approx(fmaf(p[r], scale_log2, -row_lse)) : 0.0f;
                    dp[r] = p[r] * (dp[r] - row_delta);
                }
                add_weighted<D>(sum_v, p, douts, line, size);
                add_weighted<D>(sum_k, dp, queries, line, size);
                __syncthreads();
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            if (warp * R + r >= count) continue;
            store_row(dk + (row + warp * R + r) * dk_stride + kv * size, sum_k[r], scale, size);
            store_row(dv + (row + warp * R + r) * dv_stride + kv * size, sum_v[r], 1.0f, size);
        }
        __syncthreads();
    }
}

#define DELTA(suffix, T) \
    FLANRT_KERNEL(80, attention_delta_##suffix, THREADS, \
                  (float* delta, i64 delta_stride, const T* dout, i64 dout_stride, const T* o, i64 o_stride, int rows, int heads, \
                   int size)) { \
        attention_delta<T>(delta, delta_stride, dout, dout_stride, o, o_stride, rows, heads, size); \
    }
FOR_DTYPES(DELTA)

#define KERNEL(suffix, T, D) \
    FLANRT_KERNEL_MIN(80, attention_fwd_plain##D##_##suffix, THREADS, 2, \
                  (T * o, i64 o_stride, float* lse, i64 lse_stride, const T* q, i64 q_stride, const T* k, i64 k_stride, const T* v, \
                   i64 v_stride, const u32* table, int kv_heads, int group, int size, int window, float scale)) { \
        attention_fwd<T, D>(o, o_stride, lse, lse_stride, q, q_stride, k, k_stride, v, v_stride, table, kv_heads, group, size, window, \
                            scale); \
    } \
    FLANRT_KERNEL_MIN(80, attention_bwd_q_plain##D##_##suffix, THREADS, 2, \
                  (T * dq, i64 dq_stride, const T* dout, i64 dout_stride, const T* q, i64 q_stride, const T* k, i64 k_stride, \
                   const T* v, i64 v_stride, const float* lse, i64 lse_stride, const float* delta, i64 delta_stride, \
                   const u32* table, int kv_heads, int group, int size, int window, float scale)) { \
        attention_bwd_q<T, D>(dq, dq_stride, dout, dout_stride, q, q_stride, k, k_stride, v, v_stride, lse, lse_stride, delta, \
                              delta_stride, table, kv_heads, group, size, window, scale); \
    } \
    FLANRT_KERNEL_MIN(80, attention_bwd_kv_plain##D##_##suffix, THREADS, 2, \
                  (T * dk, i64 dk_stride, T* dv, i64 dv_stride, const T* dout, i64 dout_stride, const T* q, i64 q_stride, \
                   const T* k, i64 k_stride, const T* v, i64 v_stride, const float* lse, i64 lse_stride, const float* delta, \
                   i64 delta_stride, const u32* table, int kv_heads, int group, int size, int window, float scale)) { \
        attention_bwd_kv<T, D>(dk, dk_stride, dv, dv_stride, dout, dout_stride, q, q_stride, k, k_stride, v, v_stride, lse, \
                               lse_stride, delta, delta_stride, table, kv_heads, group, size, window, scale); \
    }
#define KERNELS(suffix, T) KERNEL(suffix, T, 64) KERNEL(suffix, T, 128) KERNEL(suffix, T, 256)
FOR_DTYPES(KERNELS)
