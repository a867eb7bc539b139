// The vocabulary product with cross-entropy or log-probabilities.
//
// 16-bit operands: `vocabulary_fwd` multiplies on tensor cores and keeps, of the logits of each row, per 64 columns the
// largest, where it is if that is asked, and the sum of exp(logit - largest); and the target's logit. All of these come
// from the f32 accumulators. For the gradient it also stores exp(logit - largest of its 64): a number in [0, 1] that loses
// one rounding to 16 bits wherever the probability lies. `cross_entropy_bwd` makes of these, in place, the gradient of the
// logits; `logprob_groups` the scores.
// Other operands: a plain product has left f32 logits, which `cross_entropy_plain` and `logprob_plain` take.
#include "gemm.cuh"

constexpr u32 NO_TARGET = 0xffffffffu;  // as in src/ops/loss.rs
constexpr u32 NOWHERE = 0xffffffffu;
constexpr int GROUP = 64;  // columns of a statistic: those of one warp

// exp(x) for x <= 0. Near 1 the error is about 1e-7; relative to smaller results it grows, in absolute terms it does not.
DEVICE float exp_below(float x) { return ptx::exp2_approx(x * 1.4426950408889634f); }

// Reductions over blocks of 256 threads, once a kernel.
DEVICE float block_max(float x) {
    FLANRT_SHARED(float, part, 8);
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < 8; w++) x = fmaxf(x, part[w]);
    return x;
}
DEVICE u32 block_min(u32 x) {
    FLANRT_SHARED(u32, part, 8);
#pragma unroll
    for (int o = 16; o; o >>= 1) x = min(x, __shfl_xor_sync(FULL_MASK, x, o));
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < 8; w++) x = min(x, part[w]);
    return x;
}

// What softmax needs of a row: its largest logit and the sum of exp(logit - largest).
struct Partition {
    float top;
    double sum;
    DEVICE float logprob(float logit) const { return static_cast<float>(logit - top - log(sum)); }
    DEVICE float loss(float logit) const { return static_cast<float>(top - logit + log(sum)); }
};

// ---- 16-bit operands ----

using Vocabulary = Tile<128, 256, 32, 64, GROUP, 4>;

// Over the four lanes that share the rows of an mma block.
DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL_MASK, x, 2));
}
DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(FULL_MASK, x, 1);
    return x + __shfl_xor_sync(FULL_MASK, x, 2);
}
DEVICE u32 quad_min(u32 x) {
    x = min(x, __shfl_xor_sync(FULL_MASK, x, 1));
    return min(x, __shfl_xor_sync(FULL_MASK, x, 2));
}

// `count` rows from ask `first` on: row i is row `rows[first + i]` of x (without a list, `first + i`) and its target
// `targets[first + i]`. Sets groups [count, ceil(v / 64)] (largest, sum), and where it is not null, best of the same shape
// (the column of the first largest) and exps [count, exps_stride], a multiple of 8 at or above v; target_logits [count].
template <class T>
DEVICE void vocabulary(T* exps, i64 exps_stride, float2* groups, u32* best, float* target_logits, const T* x, i64 x_stride,
                       const u32* rows, const T* w, i64 w_stride, const u32* targets, int first, int count, int v, int d) {
    using TILE = Vocabulary;
    FLANRT_DYN_SMEM(unsigned char, ring);
    const TileAt tile(blockIdx.x, ceil_div(count, TILE::BM), ceil_div(v, TILE::BN));
    const int row0 = tile.down * TILE::BM, column0 = tile.across * TILE::BN;
    GatherFeed<T, TILE::BM, TILE::BK, TILE::THREADS> feed_x(x, x_stride, rows, first + row0, count - row0, d);
    Feed<T, TILE::BN, TILE::BK, true, TILE::THREADS> feed_w(w + column0 * w_stride, w_stride, v - column0, d);
    Accumulators<TILE> acc;
    product<T, Form::NT, TILE>(acc, ptx::smem_u32(ring), feed_x, feed_w, ceil_div(d, TILE::BK));

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int column = column0 + warp % TILE::WARPS_N * GROUP, mine = lane % 4 * 2;  // of the group; of this lane in 8
    if (column < v) {
#pragma unroll
        for (int i = 0; i < TILE::MI; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = row0 + warp / TILE::WARPS_N * TILE::WM + i * 16 + half * 8 + lane / 4;
                const u32 target = row < count ? targets[first + row] - column : NOWHERE;
                float top = -INFINITY, sum = 0;
#pragma unroll
                for (int j = 0; j < TILE::NJ; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        float& logit = acc[i][j][half * 2 + e];
                        const int c = j * 8 + mine + e;
                        if (column + c >= v) logit = -INFINITY;
                        if (target == c) target_logits[row] = logit;
                        top = fmaxf(top, logit);
                    }
                top = quad_max(top);
                u32 where = NOWHERE;
#pragma unroll
                for (int j = 0; j < TILE::NJ; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        float& logit = acc[i][j][half * 2 + e];
                        if (logit == top) where = min(where, static_cast<u32>(column + j * 8 + mine + e));
                        logit = exp_below(logit - top);
                        sum += logit;
                    }
                sum = quad_sum(sum);
                where = quad_min(where);
                if (lane % 4 == 0 && row < count) {
                    const i64 at = row * static_cast<i64>(ceil_div(v, GROUP)) + column / GROUP;
                    groups[at] = make_float2(top, sum);
                    if (best) best[at] = where;
                }
            }
    }
    if (!exps) return;
    each8<TILE>(acc, reinterpret_cast<float*>(ring), [&](int row, int column, float(&e)[8]) {
        if (row0 + row < count && column0 + column < exps_stride)
            store16(exps + (row0 + row) * exps_stride + column0 + column, e);
    });
}

DEVICE Partition of_groups(const float2* groups, int n) {
    FLANRT_SHARED(double, sums, 8);
    float top = -INFINITY;
    for (int g = threadIdx.x; g < n; g += 256) top = fmaxf(top, groups[g].x);
    top = block_max(top);
    double sum = 0;
    for (int g = threadIdx.x; g < n; g += 256) sum += groups[g].y * exp_below(groups[g].x - top);
    return {top, block_sum<8>(sum, sums)};
}

// One block a row: its loss, and exps becomes scale * (probability - one at the target).
template <class T>
DEVICE void cross_entropy(T* exps, i64 exps_stride, float* loss, const float2* groups, const float* target_logits,
                          const u32* targets, const float* scale, int first, int v) {
    const i64 row = blockIdx.x;
    const u32 target = targets[first + row];
    exps += row * exps_stride, groups += row * ceil_div(v, GROUP);
    const int units = exps_stride / 8;
    if (target == NO_TARGET) {
        const float zeros[8] = {};
        for (int u = threadIdx.x; u < units; u += 256) store16(exps + u * 8, zeros);
        if (threadIdx.x == 0) loss[first + row] = 0;
        return;
    }
    const Partition all = of_groups(groups, ceil_div(v, GROUP));
    const float logit = target_logits[row];
    if (threadIdx.x == 0) loss[first + row] = all.loss(logit);
    const float share = static_cast<float>(*scale / all.sum), of_target = exp_below(logit - all.top) * share - *scale;
    for (int u = threadIdx.x; u < units; u += 256) {
        const float factor = exp_below(groups[u * 8 / GROUP].x - all.top) * share;
        float e[8];
        load16(e, exps + u * 8);
#pragma unroll
        for (int i = 0; i < 8; i++) e[i] = u * 8 + i == target ? of_target : e[i] * factor;
        store16(exps + u * 8, e);
    }
}

#define LOSS(dtype, T) \
    FLANRT_KERNEL(80, vocabulary_fwd_##dtype, Vocabulary::THREADS, \
                  (T* exps, i64 exps_stride, float* groups, u32* best, float* target_logits, const T* x, i64 x_stride, \
                   const u32* rows, const T* w, i64 w_stride, const u32* targets, int first, int count, int v, int d)) { \
        vocabulary<T>(exps, exps_stride, reinterpret_cast<float2*>(groups), best, target_logits, x, x_stride, rows, w, w_stride, \
                      targets, first, count, v, d); \
    } \
    FLANRT_KERNEL(80, cross_entropy_bwd_##dtype, 256, \
                  (T* exps, i64 exps_stride, float* loss, const float* groups, const float* target_logits, const u32* targets, \
                   const float* scale, int first, int v)) { \
        cross_entropy<T>(exps, exps_stride, loss, reinterpret_cast<const float2*>(groups), target_logits, targets, scale, first, \
                         v); \
    }
FOR_HALVES(LOSS)

// One block an ask: its log-probability and the first column with the row's largest logit.
FLANRT_KERNEL(80, logprob_groups, 256,
              (float* logprob, u32* best, const float* groups, const u32* group_best, const float* target_logits,
               const u32* targets, int first, int v)) {
    const i64 row = blockIdx.x;
    const int n = ceil_div(v, GROUP);
    const float2* mine = reinterpret_cast<const float2*>(groups) + row * n;
    const Partition all = of_groups(mine, n);
    u32 where = NOWHERE;
    for (int g = threadIdx.x; g < n; g += 256)
        if (mine[g].x == all.top) where = min(where, group_best[row * n + g]);
    where = block_min(where);
    if (threadIdx.x == 0) {
        logprob[first + row] = targets[first + row] == NO_TARGET ? 0.0f : all.logprob(target_logits[row]);
        best[first + row] = where == NOWHERE ? 0 : where;  // of a row without numbers there is no best
    }
}

// ---- Any operands: rows of f32 logits ----

// The sum is f32 over 16 columns, f64 over all.
DEVICE Partition of_logits(const float* logits, int v) {
    FLANRT_SHARED(double, sums, 8);
    float top = -INFINITY;
    for (int c = threadIdx.x; c < v; c += 256) top = fmaxf(top, logits[c]);
    top = block_max(top);
    double sum = 0;
    for (int c0 = threadIdx.x; c0 < v; c0 += 16 * 256) {
        float part = 0;
        for (int c = c0; c < min(v, c0 + 16 * 256); c += 256) part += expf(logits[c] - top);
        sum += part;
    }
    return {top, block_sum<8>(sum, sums)};
}

// One block a row: its loss, and logits becomes scale * (probability - one at the target).
FLANRT_KERNEL(80, cross_entropy_plain, 256,
              (float* logits, float* loss, const u32* targets, const float* scale, int first, int v)) {
    const i64 row = blockIdx.x;
    const u32 target = targets[first + row];
    logits += row * v;
    if (target == NO_TARGET) {
        for (int c = threadIdx.x; c < v; c += 256) logits[c] = 0;
        if (threadIdx.x == 0) loss[first + row] = 0;
        return;
    }
    const Partition all = of_logits(logits, v);
    if (threadIdx.x == 0) loss[first + row] = all.loss(logits[target]);
    const float share = static_cast<float>(*scale / all.sum);
    __syncthreads();  // the target's logit has been read
    for (int c = threadIdx.x; c < v; c += 256) logits[c] = expf(logits[c] - all.top) * share - (c == target ? *scale : 0.0f);
}

// One block an ask, of which those about rows `start` to `start + count` are answered: the ones with logits [count, v].
FLANRT_KERNEL(80, logprob_plain, 256,
              (float* logprob, u32* best, const float* logits, const u32* rows, const u32* targets, int start, int count,
               int v)) {
    const i64 ask = blockIdx.x;
    const u32 row = rows[ask] - start;
    if (row >= static_cast<u32>(count)) return;
    logits += static_cast<i64>(row) * v;
    const Partition all = of_logits(logits, v);
    u32 where = NOWHERE;
    for (int c = threadIdx.x; c < v; c += 256)
        if (logits[c] == all.top) where = min(where, static_cast<u32>(c));
    where = block_min(where);
    if (threadIdx.x == 0) {
        const u32 target = targets[ask];
        logprob[ask] = target == NO_TARGET ? 0.0f : all.logprob(logits[target]);
        best[ask] = where == NOWHERE ? 0 : where;
    }
}
