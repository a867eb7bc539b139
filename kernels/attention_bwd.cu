// Attention backward on tensor cores, bf16 and f16: dq in one kernel, dk and dv in another, each of which computes the
// probabilities again from the saved log-sum-exps. Two more products of seven than one kernel for all would need, and no sums
// between blocks: every output has one writer and one order.
#include "attention.cuh"

constexpr int ROWS = 64;

// p = 2^(s - lse), ds = p (dp - delta), over `s` and `dp`.
DEVICE void score_gradient(float& s, float& dp, float lse_log2, float delta, float scale_log2) {
    s = ptx::exp2_approx(fmaf(s, scale_log2, -lse_log2));
    dp = s * (dp - delta);
}

// ---- dq: 64 packed query rows a block, as the forward pass. A warp owns 16 rows. ----

// Keys of a tile: fewer where dq takes most of the registers.
template <int D> constexpr int KEYS_OF = D <= 128 ? 64 : 32;
constexpr int Q_THREADS = 128;

template <class T, int D>
DEVICE void attention_bwd_q(T* dq, i64 dq_stride, const T* dout, i64 dout_stride, const T* q, i64 q_stride, const T* k, i64 k_stride,
                            const T* v, i64 v_stride, const float* lse, i64 lse_stride, const float* delta, i64 delta_stride,
                            const u32* table, int kv_heads, int group, int size, int window, float scale) {
    constexpr int KEYS = KEYS_OF<D>;
    FLANRT_DYN_SMEM(unsigned char, smem);
    u32 q_tile = ptx::smem_u32(smem), dout_tile = q_tile + ROWS * D * 2, k_tile = dout_tile + ROWS * D * 2;
    u32 v_tile = k_tile + KEYS * D * 2;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    auto q_fragments = Fragments<D>::rows_first(q_tile, warp * 16), dout_fragments = Fragments<D>::rows_first(dout_tile, warp * 16);
    auto k_fragments = Fragments<D>::columns_first(k_tile), v_fragments = Fragments<D>::columns_first(v_tile);
    auto k_columns = Fragments<D>::rows_first(k_tile);
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
        copy_tile<D, ROWS, Q_THREADS>(q_tile, q, size, [&](int r) { return rows.at(r, q_stride, size); });
        copy_tile<D, ROWS, Q_THREADS>(dout_tile, dout, size,
                                      [&](int r) { return rows.at(r, dout_stride, size); });
        copy_keys<D, KEYS, Q_THREADS>(v_tile, v_head, v_stride, size, path, tile, last);
        copy_keys<D, KEYS, Q_THREADS>(k_tile, k_head, k_stride, size, path, tile, last);

        // The lane's two rows.
        int row = warp * 16 + lane / 4;
        int2 position = make_int2(rows.position(row), rows.position(row + 8));
        float2 row_lse = make_float2(0.0f, 0.0f), row_delta = row_lse;
        if (row < rows.count) {
            row_lse.x = lse[rows.at(row, lse_stride, 1)] * LOG2E;
            row_delta.x = delta[rows.at(row, delta_stride, 1)];
        }
        if (row + 8 < rows.count) {
            row_lse.y = lse[rows.at(row + 8, lse_stride, 1)] * LOG2E;
            row_delta.y = delta[rows.at(row + 8, delta_stride, 1)];
        }
        float sum[D / 8][4];
        clear(sum);

        // Values of the next tile are copied under scores and dq, keys under the product with values.
        for (bool more = true; more;) {
            int key = tile * KEYS;
            ptx::cp_async_wait<1>();
            __syncthreads();
            float s[KEYS / 8][4], dp[KEYS / 8][4];
            clear(dp);
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                u32 a[4];
                ptx::ldmatrix_x4(a, dout_fragments.at(0, k));
                multiply_rows<T>(dp, a, v_fragments, k);
            }
            ptx::cp_async_wait<0>();
            __syncthreads();
            more = tile-- > first_tile;
            if (more) copy_keys<D, KEYS, Q_THREADS>(v_tile, v_head, v_stride, size, path, tile, last);
            clear(s);
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                u32 a[4];
                ptx::ldmatrix_x4(a, q_fragments.at(0, k));
                multiply_rows<T>(s, a, k_fragments, k);
            }
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    score_gradient(s[n][j], dp[n][j], j < 2 ? row_lse.x : row_lse.y, j < 2 ? row_delta.x : row_delta.y, scale_log2);
                }
            }
            if (key + KEYS - 1 > rows.from() || key < first_key(last, window)) {
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        if (!sees(j < 2 ? position.x : position.y, key + n * 8 + lane % 4 * 2 + j % 2, window)) dp[n][j] = 0.0f;
                    }
                }
            }
            multiply_columns<T>(sum, dp, k_columns);
            __syncthreads();
            if (more) copy_keys<D, KEYS, Q_THREADS>(k_tile, k_head, k_stride, size, path, tile, last);
        }

        // A warp alone uses its rows of the queries' tile: dq goes out through it.
        stage<T, D>(smem, sum, scale, scale, warp * 16);
        __syncwarp();
        store_tile<D, 16, 32>(dq, smem, warp * 16, lane, size,
                              [&](int r) { return rows.at(r, dq_stride, size); });
        __syncthreads();
    }
}

// ---- dk, dv: 64 keys of a segment a block. A warp owns 16 keys, and with wide heads one of two halves of their columns. Query
// rows go by in parts of 32; scores are computed transposed, so that they are the left operands of dk and dv as they are. ----

constexpr int PART = 32;
template <int D> constexpr int HALVES = D <= 128 ? 1 : 2;
template <int D> constexpr int STAGES = D <= 128 ? 2 : 1;
template <int D> constexpr int KV_THREADS = 128 * HALVES<D>;

// Goes through the parts of the query tiles that see some of 64 keys.
struct Parts {
    Forest forest;
    KeyTile keys;
    Group group;
    int kv, window;
    int next_tile, next_row;
    QueryTile tile;

    DEVICE Parts(Forest forest, KeyTile keys, Group group, int kv, int window)
        : forest(forest), keys(keys), group(group), kv(kv), window(window), next_tile(keys.seen_from), next_row(0), tile{0, 0, 0, 0} {}
    // The next part; with no rows if there is none.
    DEVICE QueryRows next() {
        while (true) {
            if (next_row >= tile.count * group.size) {
                if (next_tile >= keys.seen_to) return QueryRows(tile, group, kv, tile.count * group.size, PART);
                tile = forest.query_tile(next_tile++);
                next_row = 0;
                // Tiles beyond the window are left out whole.
                if (first_key(tile.position, window) >= keys.position + keys.count) {
                    next_row = tile.count * group.size;
                    continue;
                }
            }
            QueryRows rows(tile, group, kv, next_row, PART);
            next_row += PART;
            if (rows.last() >= keys.position && first_key(rows.from(), window) < keys.position + keys.count) return rows;
        }
    }
};

// Numbers of 32 query rows: log-sum-exps in powers of two, delta, path positions (-1: no row).
struct RowNumbers {
    float lse[PART], delta[PART];
    int position[PART];
};

template <class T, int D>
DEVICE void attention_bwd_kv(T* dk, i64 dk_stride, T* dv, i64 dv_stride, const T* dout, i64 dout_stride, const T* q, i64 q_stride,
                             const T* k, i64 k_stride, const T* v, i64 v_stride, const float* lse, i64 lse_stride, const float* delta,
                             i64 delta_stride, const u32* table, int kv_heads, int group, int size, int window, float scale) {
    constexpr int THREADS = KV_THREADS<D>, COLUMNS = D / HALVES<D>;
    constexpr u32 OWN = TILE * D * 2, OTHER = PART * D * 2;
    FLANRT_DYN_SMEM(unsigned char, smem);
    u32 k_tile = ptx::smem_u32(smem), v_tile = k_tile + OWN, q_tiles = v_tile + OWN, dout_tiles = q_tiles + STAGES<D> * OTHER;
    auto* numbers = reinterpret_cast<RowNumbers*>(smem + 2 * OWN + 2 * STAGES<D> * OTHER);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp % 4 * 16, column = warp / 4 * COLUMNS;
    auto k_fragments = Fragments<D>::rows_first(k_tile, own), v_fragments = Fragments<D>::rows_first(v_tile, own);
    float scale_log2 = scale * LOG2E;

    Forest forest{table};
    Group heads(group);
    int items = forest.key_tiles() * kv_heads;
    for (int round = 0, i; (i = item_of(round)) < items; round++) {
        KeyTile keys = forest.ranked_key_tile(i / kv_heads);
        int kv = i % kv_heads;
        Parts parts(forest, keys, heads, kv, window);

        // The first warp brings the numbers of the rows, loaded long before they are put down.
        float next_lse = 0.0f, next_delta = 0.0f;
        auto copy_rows = [&](const QueryRows& rows, int slot) {
            copy_tile<D, PART, THREADS>(q_tiles + slot * OTHER, q, size,
                                        [&](int r) { return rows.at(r, q_stride, size); });
            copy_tile<D, PART, THREADS>(dout_tiles + slot * OTHER, dout, size,
                                        [&](int r) { return rows.at(r, dout_stride, size); });
            ptx::cp_async_commit();
        };
        auto load_numbers = [&](const QueryRows& rows) {
            if (threadIdx.x < rows.count) {
                next_lse = lse[rows.at(threadIdx.x, lse_stride, 1)] * LOG2E;
                next_delta = delta[rows.at(threadIdx.x, delta_stride, 1)];
            }
        };
        auto put_numbers = [&](const QueryRows& rows, int slot) {
            int r = threadIdx.x;
            if (r < PART) {
                bool there = r < rows.count;
                numbers[slot].lse[r] = there ? next_lse : 0.0f;
                numbers[slot].delta[r] = there ? next_delta : 0.0f;
                numbers[slot].position[r] = there ? rows.position(r) : -1;
            }
        };

        copy_tile<D, TILE, THREADS>(k_tile, k + kv * size, size, [&](int r) { return r < keys.count ? (keys.row + r) * k_stride : i64(-1); });
        copy_tile<D, TILE, THREADS>(v_tile, v + kv * size, size, [&](int r) { return r < keys.count ? (keys.row + r) * v_stride : i64(-1); });
        QueryRows rows = parts.next();
        load_numbers(rows);
        copy_rows(rows, 0);
        put_numbers(rows, 0);

        float sum_k[COLUMNS / 8][4], sum_v[COLUMNS / 8][4];
        clear(sum_k);
        clear(sum_v);
        for (int slot = 0; rows.count > 0; slot = (slot + 1) % STAGES<D>) {
            QueryRows now = rows;
            rows = parts.next();
            int other = (slot + 1) % STAGES<D>;
            ptx::cp_async_wait<0>();
            __syncthreads();
            load_numbers(rows);
            if (STAGES<D> > 1 && rows.count > 0) copy_rows(rows, other);

            u32 q_tile = q_tiles + slot * OTHER, dout_tile = dout_tiles + slot * OTHER;
            auto q_rows = Fragments<D>::columns_first(q_tile), dout_rows = Fragments<D>::columns_first(dout_tile);
            float s[PART / 8][4], dp[PART / 8][4];
            clear(s);
            clear(dp);
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                u32 a[4];
                ptx::ldmatrix_x4(a, k_fragments.at(0, k));
                multiply_rows<T>(s, a, q_rows, k);
                ptx::ldmatrix_x4(a, v_fragments.at(0, k));
                multiply_rows<T>(dp, a, dout_rows, k);
            }
            bool masked = now.count < PART || keys.position + keys.count - 1 > now.from() ||
                          keys.position < first_key(now.last(), window);
#pragma unroll
            for (int n = 0; n < PART / 8; n++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    // Columns are query rows, rows are keys.
                    int r = n * 8 + lane % 4 * 2 + j % 2;
                    score_gradient(s[n][j], dp[n][j], numbers[slot].lse[r], numbers[slot].delta[r], scale_log2);
                    int key = keys.position + own + lane / 4 + j / 2 * 8;
                    if (masked && !sees(numbers[slot].position[r], key, window)) s[n][j] = dp[n][j] = 0.0f;
                }
            }
            multiply_columns<T>(sum_v, s, Fragments<D>::rows_first(dout_tile), column / 16);
            multiply_columns<T>(sum_k, dp, Fragments<D>::rows_first(q_tile), column / 16);
            if constexpr (STAGES<D> == 1) {
                __syncthreads();
                if (rows.count > 0) copy_rows(rows, other);
            }
            if (rows.count > 0) put_numbers(rows, other);
        }

        // Out through the tiles of K and V, of which warps still read the rows of their own keys.
        __syncthreads();
        stage<T, D>(smem, sum_k, scale, scale, own, column);
        stage<T, D>(smem + OWN, sum_v, 1.0f, 1.0f, own, column);
        __syncthreads();
        store_tile<D, TILE, THREADS>(dk + kv * size, smem, 0, threadIdx.x, size,
                                     [&](int r) { return r < keys.count ? (keys.row + r) * dk_stride : i64(-1); });
        store_tile<D, TILE, THREADS>(dv + kv * size, smem + OWN, 0, threadIdx.x, size,
                                     [&](int r) { return r < keys.count ? (keys.row + r) * dv_stride : i64(-1); });
        __syncthreads();
    }
}

#define KERNEL(suffix, T, D) \
    FLANRT_KERNEL(80, attention_bwd_q_mma##D##_##suffix, Q_THREADS, \
                  (T * dq, i64 dq_stride, const T* dout, i64 dout_stride, const T* q, i64 q_stride, const T* k, i64 k_stride, \
                   const T* v, i64 v_stride, const float* lse, i64 lse_stride, const float* delta, i64 delta_stride, \
                   const u32* table, int kv_heads, int group, int size, int window, float scale)) { \
        attention_bwd_q<T, D>(dq, dq_stride, dout, dout_stride, q, q_stride, k, k_stride, v, v_stride, lse, lse_stride, delta, \
                              delta_stride, table, kv_heads, group, size, window, scale); \
    } \
    FLANRT_KERNEL(80, attention_bwd_kv_mma##D##_##suffix, KV_THREADS<D>, \
                  (T * dk, i64 dk_stride, T* dv, i64 dv_stride, const T* dout, i64 dout_stride, const T* q, i64 q_stride, \
                   const T* k, i64 k_stride, const T* v, i64 v_stride, const float* lse, i64 lse_stride, const float* delta, \
                   i64 delta_stride, const u32* table, int kv_heads, int group, int size, int window, float scale)) { \
        attention_bwd_kv<T, D>(dk, dk_stride, dv, dv_stride, dout, dout_stride, q, q_stride, k, k_stride, v, v_stride, lse, \
                               lse_stride, delta, delta_stride, table, kv_heads, group, size, window, scale); \
    }
#define KERNELS(suffix, T) KERNEL(suffix, T, 64) KERNEL(suffix, T, 128) KERNEL(suffix, T, 256)
FOR_HALVES(KERNELS)
