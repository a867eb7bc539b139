// Attention forward on tensor cores, bf16 and f16.
//
// A block takes 64 packed query rows and walks their path by tiles of 64 keys (32 where heads are wide), from the diagonal towards the root, with the
// online softmax of Dao et al., "FlashAttention-2", 2023. A warp owns 16 rows: scores, probabilities and outputs stay in its
// registers. V of a tile is copied under its scores, K of the next under its outputs.
#include "attention.cuh"

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * 32;
constexpr int ROWS = WARPS * 16;

// Keys of a tile: fewer where the output takes most of the registers.
template <int D> constexpr int KEYS_OF = D <= 128 ? 64 : 32;

// Scores of 16 rows and 8 N keys to weights `2^(s - max)`, in place, with the running maxima `top` and sums `total` of the lane's two
// rows; returns by what earlier sums of the rows shrink. `scale` is the factor on the scores times log2 e.
template <int N> DEVICE float2 online_softmax(float (&s)[N][4], float2& top, float2& total, float scale) {
    float2 now = top;
#pragma unroll
    for (int n = 0; n < N; n++) {
        now.x = fmaxf(now.x, fmaxf(s[n][0], s[n][1]));
        now.y = fmaxf(now.y, fmaxf(s[n][2], s[n][3]));
    }
#pragma unroll
    for (int o = 1; o < 4; o *= 2) {
        now.x = fmaxf(now.x, __shfl_xor_sync(FULL_MASK, now.x, o));
        now.y = fmaxf(now.y, __shfl_xor_sync(FULL_MASK, now.y, o));
    }
    // A row that has seen no key yet has -inf here; 0 instead keeps its weights at 2^-inf.
    float2 shift = make_float2(now.x == -INFINITY ? 0.0f : now.x * scale, now.y == -INFINITY ? 0.0f : now.y * scale);
    float2 shrink = make_float2(ptx::exp2_approx(now.x == top.x ? 0.0f : (top.x - now.x) * scale),
                                ptx::exp2_approx(now.y == top.y ? 0.0f : (top.y - now.y) * scale));
    top = now;
    total.x *= shrink.x, total.y *= shrink.y;
#pragma unroll
    for (int n = 0; n < N; n++) {
        s[n][0] = ptx::exp2_approx(fmaf(s[n][0], scale, -shift.x));
        s[n][1] = ptx::exp2_approx(fmaf(s[n][1], scale, -shift.x));
        s[n][2] = ptx::exp2_approx(fmaf(s[n][2], scale, -shift.y));
        s[n][3] = ptx::exp2_approx(fmaf(s[n][3], scale, -shift.y));
        total.x += s[n][0] + s[n][1];
        total.y += s[n][2] + s[n][3];
    }
    return shrink;
}

template <class T, int D>
DEVICE void attention_fwd(T* o, i64 o_stride, float* lse, i64 lse_stride, const T* q, i64 q_stride, const T* k, i64 k_stride, const T* v,
                          i64 v_stride, const u32* table, int kv_heads, int group, int size, int window, float scale) {
    constexpr int KEYS = KEYS_OF<D>;
    // Up to here the queries' fragments fit into registers.
    constexpr bool KEEP_Q = D <= 128;
    FLANRT_DYN_SMEM(unsigned char, smem);
    u32 q_tile = ptx::smem_u32(smem), k_tile = q_tile + ROWS * D * 2, v_tile = k_tile + KEYS * D * 2;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    auto q_fragments = Fragments<D>::rows_first(q_tile, warp * 16);
    auto k_fragments = Fragments<D>::columns_first(k_tile);
    auto v_fragments = Fragments<D>::rows_first(v_tile);
    float scale_log2 = scale * LOG2E;

    Forest forest{table};
    Group heads(group);
    int items = forest.query_tiles() * kv_heads * group;
    for (int round = 0, i; (i = item_of(round)) < items; round++) {
        QueryRows rows(forest.ranked_query_tile(i / group / kv_heads), heads, i / group % kv_heads, i % group * ROWS, ROWS);
        if (rows.count <= 0) continue;
        int last = rows.last(), tile = last / KEYS, first_tile = first_key(rows.from(), window) / KEYS;
        const T *k_head = k + rows.kv * size, *v_head = v + rows.kv * size;

        Path path{forest};
        path.enter(rows.tile.run);
        copy_tile<D, ROWS, THREADS>(q_tile, q, size, [&](int r) { return rows.at(r, q_stride, size); });
        copy_keys<D, KEYS, THREADS>(k_tile, k_head, k_stride, size, path, tile, last);

        // The lane's two rows.
        int row = warp * 16 + lane / 4;
        int2 position = make_int2(rows.position(row), rows.position(row + 8));
        u32 kept_q[KEEP_Q ? D / 16 : 1][4];
        float out[D / 8][4];
        clear(out);
        float2 top = make_float2(-INFINITY, -INFINITY), total = make_float2(0.0f, 0.0f);

        for (bool first = true;; first = false) {
            int key = tile * KEYS;
            ptx::cp_async_wait<0>();
            __syncthreads();
            copy_keys<D, KEYS, THREADS>(v_tile, v_head, v_stride, size, path, tile, last);
            if constexpr (KEEP_Q) {
                if (first) {
#pragma unroll
                    for (int k = 0; k < D / 16; k++) ptx::ldmatrix_x4(kept_q[k], q_fragments.at(0, k));
                }
            }
            float s[KEYS / 8][4];
            clear(s);
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                if constexpr (KEEP_Q) {
                    multiply_rows<T>(s, kept_q[k], k_fragments, k);
                } else {
                    u32 a[4];
                    ptx::ldmatrix_x4(a, q_fragments.at(0, k));
                    multiply_rows<T>(s, a, k_fragments, k);
                }
            }
            if (key + KEYS - 1 > rows.from() || key < first_key(last, window)) {
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        if (!sees(j < 2 ? position.x : position.y, key + n * 8 + lane % 4 * 2 + j % 2, window)) s[n][j] = -INFINITY;
                    }
                }
            }
            ptx::cp_async_wait<0>();
            __syncthreads();
            bool more = tile-- > first_tile;
            if (more) copy_keys<D, KEYS, THREADS>(k_tile, k_head, k_stride, size, path, tile, last);
            float2 shrink = online_softmax(s, top, total, scale_log2);
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                out[n][0] *= shrink.x, out[n][1] *= shrink.x;
                out[n][2] *= shrink.y, out[n][3] *= shrink.y;
            }
            multiply_columns<T>(out, s, v_fragments);
            if (!more) break;
        }

#pragma unroll
        for (int other = 1; other < 4; other *= 2) {
            total.x += __shfl_xor_sync(FULL_MASK, total.x, other);
            total.y += __shfl_xor_sync(FULL_MASK, total.y, other);
        }
        if (lane % 4 == 0) {
            if (row < rows.count) lse[rows.at(row, lse_stride, 1)] = top.x * scale + logf(total.x);
            if (row + 8 < rows.count) lse[rows.at(row + 8, lse_stride, 1)] = top.y * scale + logf(total.y);
        }
        // A warp alone uses its rows of the queries' tile: the output goes out through it.
        __syncwarp();
        stage<T, D>(smem, out, 1.0f / total.x, 1.0f / total.y, warp * 16);
        __syncwarp();
        store_tile<D, 16, 32>(o, smem, warp * 16, lane, size,
                              [&](int r) { return rows.at(r, o_stride, size); });
        __syncthreads();
    }
}

#define KERNEL(suffix, T, D) \
    FLANRT_KERNEL(80, attention_fwd_mma##D##_##suffix, THREADS, \
                  (T * o, i64 o_stride, float* lse, i64 lse_stride, const T* q, i64 q_stride, const T* k, i64 k_stride, const T* v, \
                   i64 v_stride, const u32* table, int kv_heads, int group, int size, int window, float scale)) { \
        attention_fwd<T, D>(o, o_stride, lse, lse_stride, q, q_stride, k, k_stride, v, v_stride, table, kv_heads, group, size, window, \
                            scale); \
    }
#define KERNELS(suffix, T) KERNEL(suffix, T, 64) KERNEL(suffix, T, 128) KERNEL(suffix, T, 256)
FOR_HALVES(KERNELS)
