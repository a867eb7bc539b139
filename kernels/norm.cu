// RMSNorm over groups of columns and LayerNorm over rows, forward and backward.
//
// A vector (one group of one row, n elements) belongs to a team of threads that holds it in registers, C chunks a thread:
//
//     tile   team          chunks        n up to, 16-bit   f32
//     half   half a warp   1 (RMS only)              128    64
//     warp   a warp        4                        1024   512
//     block  a block       4 (layer: 2)       8192, 4096   half of it
//     loop   a block       any: read again from the caches for every pass
//
// Tile and team depend on n and dtype alone, so a vector's sums have the same order in any batch. Uneven rows (rows.cuh) of
// the first three tiles pass through shared memory, where their chunks lie even: the arithmetic exists once.
#include <type_traits>

#include "rows.cuh"

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

// Sums K values over a team of TEAM threads, the same in all of them. `part`: K * WARPS floats, for teams of a block; the
// caller alternates between two such areas, as a slow warp may still read the last one.
template <int TEAM, int K> DEVICE void team_sum(float (&v)[K], float* part) {
    static_assert(TEAM <= 32 || TEAM == THREADS, "a team is within a warp or a block");
#pragma unroll
    for (int k = 0; k < K; k++) {
#pragma unroll
        for (int o = (TEAM < 32 ? TEAM : 32) / 2; o; o >>= 1) v[k] += __shfl_xor_sync(FULL_MASK, v[k], o);
    }
    if constexpr (TEAM > 32) {
#pragma unroll
        for (int k = 0; k < K; k++) {
            if (threadIdx.x % 32 == 0) part[k * WARPS + threadIdx.x / 32] = v[k];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < K; k++) {
            v[k] = part[k * WARPS];
#pragma unroll
            for (int w = 1; w < WARPS; w++) v[k] += part[k * WARPS + w];
        }
    }
}

// The shared memory of team_sum, twice, for two values.
constexpr int PART = 4 * WARPS;

// The operands of a norm. `mean` and `b` are LayerNorm's (b may be null); RMSNorm is the case of mean 0 and no b.
template <class T> struct Forward {
    T* y;
    i64 y_stride;
    float* mean;
    i64 mean_stride;
    float* rstd;
    i64 rstd_stride;
    const T* x;
    i64 x_stride;
    const T *w, *b;
    int rows, groups, n;
    float eps;
};
template <class T> struct Backward {
    T* dx;
    i64 dx_stride;
    float *dw, *db;  // partials, n a block
    const T* dy;
    i64 dy_stride;
    const T* x;
    i64 x_stride;
    const T* w;
    const float* mean;
    i64 mean_stride;
    const float* rstd;
    i64 rstd_stride;
    const T* plus;  // or null
    i64 plus_stride;
    int rows, groups, n, chunk;
};

// A team's way to the C chunks a thread holds of a vector of n elements.
template <class T, int TEAM, int C> struct Team {
    static constexpr int V = LANES<T>, TEAMS = THREADS / TEAM;
    using Bits = std::conditional_t<sizeof(T) == 4, u32, u16>;

    int lane, index, n;
    bool even;
    Bits* stage;

    DEVICE Team(int n, bool even, uint4* stages)
        : lane(TEAM < THREADS ? threadIdx.x % TEAM : threadIdx.x), index(TEAM < THREADS ? threadIdx.x / TEAM : 0), n(n), even(even),
          stage(reinterpret_cast<Bits*>(stages + index * TEAM * C)) {}

    // The first element of the thread's chunk c.
    DEVICE int at(int c) const { return (c * TEAM + lane) * V; }

    DEVICE void sync() const {
        if constexpr (TEAM > 32) __syncthreads();
        else __syncwarp();
    }

    // The chunks of the vector at `p`, 0 beyond its end and where it is not `present`. All threads of a block come here.
    DEVICE void load(uint4 (&raw)[C], const T* p, bool present) const {
        if (even) {
#pragma unroll
            for (int c = 0; c < C; c++) {
                raw[c] = present && at(c) < n ? *reinterpret_cast<const uint4*>(p + at(c)) : make_uint4(0, 0, 0, 0);
            }
            return;
        }
        sync();
        const Bits* from = reinterpret_cast<const Bits*>(p);
        for (int i = lane; i < TEAM * C * V; i += TEAM) stage[i] = present && i < n ? from[i] : 0;
        sync();
#pragma unroll
        for (int c = 0; c < C; c++) raw[c] = reinterpret_cast<const uint4*>(stage)[c * TEAM + lane];
    }
    DEVICE void store(T* p, const uint4 (&raw)[C], bool present) const {
        if (even) {
#pragma unroll
            for (int c = 0; c < C; c++) {
                if (present && at(c) < n) *reinterpret_cast<uint4*>(p + at(c)) = raw[c];
            }
            return;
        }
        sync();
#pragma unroll
        for (int c = 0; c < C; c++) reinterpret_cast<uint4*>(stage)[c * TEAM + lane] = raw[c];
        sync();
        for (int i = lane; i < n && present; i += TEAM) reinterpret_cast<Bits*>(p)[i] = stage[i];
    }
};

// Leaves the chunks as they are without the compiler knowing, as `zero` is computed: it would keep the unpacked values of the
// first pass for the second, which takes more registers than there are.
template <int C> DEVICE void hide(uint4 (&raw)[C], u32 zero) {
#pragma unroll
    for (int c = 0; c < C; c++) raw[c].x ^= zero, raw[c].y ^= zero, raw[c].z ^= zero, raw[c].w ^= zero;
}

// ---- forward ----

template <class T, int TEAM, int C, int U, bool LAYER> DEVICE void forward_held(const Forward<T>& p, bool even, float* part, uint4* stages) {
    constexpr int V = LANES<T>, TEAMS = THREADS / TEAM;
    const Team<T, TEAM, C> team(p.n, even, stages);
    const u32 vectors = p.rows * p.groups;
    const float inverse_n = 1.0f / p.n;
    const u32 zero = static_cast<u32>(p.rows) >> 31;
    uint4 xs[U][C], ws[C], bs[C];
    float sum[U] = {}, mean[U] = {};
#pragma unroll
    for (int u = 0; u < U; u++) {
        const u32 v = (blockIdx.x * U + u) * TEAMS + team.index, row = v / p.groups;
        team.load(xs[u], p.x + row * p.x_stride + static_cast<i64>(v - row * p.groups) * p.n, v < vectors);
    }
    team.load(ws, p.w, true);
    if constexpr (LAYER) {
        team.load(bs, p.b, p.b != nullptr);
#pragma unroll
        for (int u = 0; u < U; u++) {
#pragma unroll
            for (int c = 0; c < C; c++) {
                float x[V];
                unpack<T>(x, xs[u][c]);
#pragma unroll
                for (int i = 0; i < V; i++) mean[u] += x[i];
            }
        }
        team_sum<TEAM>(mean, part);
#pragma unroll
        for (int u = 0; u < U; u++) mean[u] *= inverse_n;
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
#pragma unroll
        for (int c = 0; c < C; c++) {
            float x[V];
            unpack<T>(x, xs[u][c]);
#pragma unroll
            for (int i = 0; i < V; i++) {
                // Past the end x is 0: right for RMSNorm, not once the mean is taken off.
                const float d = LAYER ? (team.at(c) + i < p.n ? x[i] - mean[u] : 0.0f) : x[i];
                sum[u] = fmaf(d, d, sum[u]);
            }
        }
    }
    team_sum<TEAM>(sum, part + PART / 2);
#pragma unroll
    for (int u = 0; u < U; u++) {
        const u32 v = (blockIdx.x * U + u) * TEAMS + team.index, row = v / p.groups, group = v - row * p.groups;
        const float rstd = rsqrtf(fmaf(sum[u], inverse_n, p.eps));
        hide(xs[u], zero);
        if (v < vectors && team.lane == 0) {
            p.rstd[row * p.rstd_stride + group] = rstd;
            if constexpr (LAYER) p.mean[row * p.mean_stride + group] = mean[u];
        }
#pragma unroll
        for (int c = 0; c < C; c++) {
            float x[V], w[V], b[V] = {};
            unpack<T>(x, xs[u][c]);
            unpack<T>(w, ws[c]);
            if constexpr (LAYER) unpack<T>(b, bs[c]);
#pragma unroll
            for (int i = 0; i < V; i++) x[i] = LAYER ? fmaf((x[i] - mean[u]) * rstd, w[i], b[i]) : x[i] * rstd * w[i];
            xs[u][c] = pack<T>(x);
        }
        team.store(p.y + row * p.y_stride + static_cast<i64>(group) * p.n, xs[u], v < vectors);
    }
}

template <class T, bool LAYER, bool EVEN> DEVICE void forward_loop(const Forward<T>& p, float* part) {
    constexpr int V = LANES<T>, STEP = THREADS * V;
    const u32 row = blockIdx.x / p.groups, group = blockIdx.x - row * p.groups;
    const T* x = p.x + row * p.x_stride + static_cast<i64>(group) * p.n;
    T* y = p.y + row * p.y_stride + static_cast<i64>(group) * p.n;
    const float inverse_n = 1.0f / p.n;
    float mean[1] = {}, sum[1] = {};
    if constexpr (LAYER) {
#pragma unroll 4
        for (int at = threadIdx.x * V; at < p.n; at += STEP) {
            float v[V];
            unpack<T>(v, load_chunk<EVEN>(x + at, p.n - at));
#pragma unroll
            for (int i = 0; i < V; i++) mean[0] += v[i];
        }
        team_sum<THREADS>(mean, part);
        mean[0] *= inverse_n;
    }
#pragma unroll 4
    for (int at = threadIdx.x * V; at < p.n; at += STEP) {
        float v[V];
        unpack<T>(v, load_chunk<EVEN>(x + at, p.n - at));
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float d = LAYER ? (at + i < p.n ? v[i] - mean[0] : 0.0f) : v[i];
            sum[0] = fmaf(d, d, sum[0]);
        }
    }
    team_sum<THREADS>(sum, part + PART / 2);
    const float rstd = rsqrtf(fmaf(sum[0], inverse_n, p.eps));
    if (threadIdx.x == 0) {
        p.rstd[row * p.rstd_stride + group] = rstd;
        if constexpr (LAYER) p.mean[row * p.mean_stride + group] = mean[0];
    }
#pragma unroll 2
    for (int at = threadIdx.x * V; at < p.n; at += STEP) {
        float v[V], w[V], b[V] = {};
        unpack<T>(v, load_chunk<EVEN>(x + at, p.n - at));
        unpack<T>(w, load_chunk<EVEN>(p.w + at, p.n - at));
        if constexpr (LAYER) {
            if (p.b) unpack<T>(b, load_chunk<EVEN>(p.b + at, p.n - at));
        }
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = LAYER ? fmaf((v[i] - mean[0]) * rstd, w[i], b[i]) : v[i] * rstd * w[i];
        store_chunk<EVEN>(y + at, pack<T>(v), p.n - at);
    }
}

// ---- backward ----
//
// With xhat = (x - mean) rstd and g = dy w: dx = plus + rstd (g - mean(g) - xhat mean(g xhat)), without mean(g) for RMSNorm;
// dw = sum of dy xhat, db = sum of dy. A block takes `chunk` rows: every team keeps the sums of its vectors in registers,
// the teams' sums are added in order, and the block's partials go to dw and db, to be summed by add_partials (elem.cu).

// One chunk of the K sums (RMSNorm needs one), and of what follows from their means. g is rounded and not fused into what
// follows: in a row that is all alike it must cancel against its mean, whatever rstd is.
template <int V, int K>
DEVICE void add_terms(float (&sum)[K], const float (&dy)[V], const float (&x)[V], const float (&w)[V], float mean, float rstd) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float g = __fmul_rn(dy[i], w[i]);
        sum[0] = fmaf(g, (K > 1 ? x[i] - mean : x[i]) * rstd, sum[0]);
        if constexpr (K > 1) sum[1] += g;
    }
}
template <int V, int K>
DEVICE void finish(float (&dx)[V], float (&dw)[V], float (&db)[V], const float (&dy)[V], const float (&x)[V], const float (&w)[V],
                   float mean, float rstd, const float (&means)[K]) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float xhat = (K > 1 ? x[i] - mean : x[i]) * rstd;
        float g = __fmul_rn(dy[i], w[i]);
        if constexpr (K > 1) g -= means[1];
        dx[i] = fmaf(rstd, fmaf(-xhat, means[0], g), dx[i]);
        dw[i] = fmaf(dy[i], xhat, dw[i]);
        if constexpr (K > 1) db[i] += dy[i];
    }
}

template <class T, int TEAM, int C, int U, bool LAYER>
DEVICE void backward_held(const Backward<T>& p, bool even, float* part, uint4* stages, uint4* weights) {
    constexpr int V = LANES<T>, TEAMS = THREADS / TEAM, K = LAYER ? 2 : 1;
    const Team<T, TEAM, C> team(p.n, even, stages);
    const u32 first = blockIdx.x * p.chunk * p.groups;
    const u32 end = min(static_cast<int>(blockIdx.x + 1) * p.chunk, p.rows) * p.groups;
    const float inverse_n = 1.0f / p.n;
    const u32 zero = static_cast<u32>(p.rows) >> 31;
    float dw[C][V] = {}, db[C][V] = {};
    // Weights in shared memory, for all teams: held in registers, they would cost the second block of a multiprocessor.
    using Bits = typename Team<T, TEAM, C>::Bits;
    for (int i = threadIdx.x; i < TEAM * C * V; i += THREADS) {
        reinterpret_cast<Bits*>(weights)[i] = i < p.n ? reinterpret_cast<const Bits*>(p.w)[i] : 0;
    }
    __syncthreads();
    // All threads of a block take as many turns: their sums meet.
    int turn = 0;
    for (u32 base = first; base < end; base += TEAMS * U, turn ^= 1) {
        uint4 xs[U][C], dys[U][C], pluses[U][C];
        float mean[U], rstd[U], sum[U][K], all[U * K];
#pragma unroll
        for (int u = 0; u < U; u++) {
            const u32 v = base + u * TEAMS + team.index, row = v / p.groups, group = v - row * p.groups;
            const i64 offset = static_cast<i64>(group) * p.n;
            rstd[u] = v < end ? p.rstd[row * p.rstd_stride + group] : 0.0f;
            mean[u] = LAYER && v < end ? p.mean[row * p.mean_stride + group] : 0.0f;
            team.load(xs[u], p.x + row * p.x_stride + offset, v < end);
            team.load(dys[u], p.dy + row * p.dy_stride + offset, v < end);
            team.load(pluses[u], p.plus + row * p.plus_stride + offset, v < end && p.plus);
        }
#pragma unroll
        for (int u = 0; u < U; u++) {
#pragma unroll
            for (int k = 0; k < K; k++) sum[u][k] = 0.0f;
#pragma unroll
            for (int c = 0; c < C; c++) {
                float x[V], dy[V], w[V];
                unpack<T>(x, xs[u][c]);
                unpack<T>(dy, dys[u][c]);
                unpack<T>(w, weights[c * TEAM + team.lane]);
                add_terms<V, K>(sum[u], dy, x, w, mean[u], rstd[u]);
            }
#pragma unroll
            for (int k = 0; k < K; k++) all[u * K + k] = sum[u][k];
        }
        team_sum<TEAM>(all, part + turn * (PART / 2));
#pragma unroll
        for (int u = 0; u < U; u++) {
            const u32 v = base + u * TEAMS + team.index, row = v / p.groups;
            hide(xs[u], zero);
            hide(dys[u], zero);
#pragma unroll
            for (int k = 0; k < K; k++) sum[u][k] = all[u * K + k] * inverse_n;
#pragma unroll
            for (int c = 0; c < C; c++) {
                float x[V], dy[V], w[V], dx[V];
                unpack<T>(x, xs[u][c]);
                unpack<T>(dy, dys[u][c]);
                unpack<T>(w, weights[c * TEAM + team.lane]);
                unpack<T>(dx, pluses[u][c]);
                // Absent vectors and elements past the end have dy = 0 and add nothing.
                finish<V, K>(dx, dw[c], db[c], dy, x, w, mean[u], rstd[u], sum[u]);
                pluses[u][c] = pack<T>(dx);
            }
            team.store(p.dx + row * p.dx_stride + static_cast<i64>(v - row * p.groups) * p.n, pluses[u], v < end);
        }
    }
    // The teams add their sums one after the other.
    float* total = reinterpret_cast<float*>(stages);
#pragma unroll
    for (int k = 0; k < K; k++) {
        float* out = (k ? p.db : p.dw) + static_cast<i64>(blockIdx.x) * p.n;
        for (int turn = 0; turn < TEAMS; turn++) {
            __syncthreads();
            if (turn != team.index) continue;
#pragma unroll
            for (int c = 0; c < C; c++) {
#pragma unroll
                for (int i = 0; i < V; i++) {
                    float& place = total[(c * V + i) * TEAM + team.lane];
                    const float sum = (turn ? place : 0.0f) + (k ? db[c][i] : dw[c][i]);
                    if (turn < TEAMS - 1) {
                        place = sum;
                    } else if (team.at(c) + i < p.n) {
                        out[team.at(c) + i] = sum;
                    }
                }
            }
        }
    }
}

// Rows of any width: the sums over rows live in the partials, which the caches hold; each element has one thread.
template <class T, bool LAYER, bool EVEN> DEVICE void backward_loop(const Backward<T>& p, float* part) {
    constexpr int V = LANES<T>, STEP = THREADS * V, K = LAYER ? 2 : 1;
    const u32 first = blockIdx.x * p.chunk * p.groups;
    const u32 end = min(static_cast<int>(blockIdx.x + 1) * p.chunk, p.rows) * p.groups;
    float* dws = p.dw + static_cast<i64>(blockIdx.x) * p.n;
    float* dbs = LAYER ? p.db + static_cast<i64>(blockIdx.x) * p.n : nullptr;
    const float inverse_n = 1.0f / p.n;
    int turn = 0;
    for (u32 v = first; v < end; v++, turn ^= 1) {
        const u32 row = v / p.groups, group = v - row * p.groups;
        const i64 offset = static_cast<i64>(group) * p.n;
        const float rstd = p.rstd[row * p.rstd_stride + group];
        const float mean = LAYER ? p.mean[row * p.mean_stride + group] : 0.0f;
        const T *xs = p.x + row * p.x_stride + offset, *dys = p.dy + row * p.dy_stride + offset;
        const T* pluses = p.plus ? p.plus + row * p.plus_stride + offset : nullptr;
        T* dxs = p.dx + row * p.dx_stride + offset;
        float sum[K] = {};
#pragma unroll 2
        for (int at = threadIdx.x * V; at < p.n; at += STEP) {
            float x[V], dy[V], w[V];
            unpack<T>(x, load_chunk<EVEN>(xs + at, p.n - at));
            unpack<T>(dy, load_chunk<EVEN>(dys + at, p.n - at));
            unpack<T>(w, load_chunk<EVEN>(p.w + at, p.n - at));
            add_terms<V, K>(sum, dy, x, w, mean, rstd);
        }
        team_sum<THREADS>(sum, part + turn * (PART / 2));
#pragma unroll
        for (int k = 0; k < K; k++) sum[k] *= inverse_n;
        for (int at = threadIdx.x * V; at < p.n; at += STEP) {
            const int left = p.n - at;
            float x[V], dy[V], w[V], dx[V] = {}, dw[V] = {}, db[V] = {};
            unpack<T>(x, load_chunk<EVEN>(xs + at, left));
            unpack<T>(dy, load_chunk<EVEN>(dys + at, left));
            unpack<T>(w, load_chunk<EVEN>(p.w + at, left));
            if (pluses) unpack<T>(dx, load_chunk<EVEN>(pluses + at, left));
            if (v > first) {
                load_some<EVEN>(dw, dws + at, left);
                if constexpr (LAYER) load_some<EVEN>(db, dbs + at, left);
            }
            finish<V, K>(dx, dw, db, dy, x, w, mean, rstd, sum);
            store_chunk<EVEN>(dxs + at, pack<T>(dx), left);
            store_some<EVEN>(dws + at, dw, left);
            if constexpr (LAYER) store_some<EVEN>(dbs + at, db, left);
        }
    }
}

// ---- kernels ----

template <class T, bool LAYER> DEVICE bool is_even(const Forward<T>& p) {
    return p.n % LANES<T> == 0 && even(p.y, p.y_stride) && even(p.x, p.x_stride) && even(p.w, 0) && (!LAYER || even(p.b, 0));
}
template <class T> DEVICE bool is_even(const Backward<T>& p) {
    return p.n % LANES<T> == 0 && even(p.dx, p.dx_stride) && even(p.dy, p.dy_stride) && even(p.x, p.x_stride) && even(p.w, 0) &&
           even(p.plus, p.plus ? p.plus_stride : 0) && even(p.dw, p.n) && even(p.db, p.n);
}

template <class T, int TEAM, int C, int U, bool LAYER> DEVICE void forward(const Forward<T>& p, float* part, uint4* stages) {
    const bool even = is_even<T, LAYER>(p);
    if constexpr (C > 0) {
        forward_held<T, TEAM, C, U, LAYER>(p, even, part, stages);
    } else if (even) {
        forward_loop<T, LAYER, true>(p, part);
    } else {
        forward_loop<T, LAYER, false>(p, part);
    }
}
template <class T, int TEAM, int C, int U, bool LAYER> DEVICE void backward(const Backward<T>& p, float* part, uint4* stages, uint4* weights) {
    const bool even = is_even(p);
    if constexpr (C > 0) {
        backward_held<T, TEAM, C, U, LAYER>(p, even, part, stages, weights);
    } else if (even) {
        backward_loop<T, LAYER, true>(p, part);
    } else {
        backward_loop<T, LAYER, false>(p, part);
    }
}

#define SHARED(C) \
    FLANRT_SHARED(float, part, PART); \
    FLANRT_SHARED(uint4, stages, C ? THREADS * C : 1);
#define RMS(tile, TEAM, C, U, FWD, BWD, suffix, T) \
    FLANRT_KERNEL_MIN(80, rms_norm_fwd_##tile##_##suffix, THREADS, FWD, \
                  (T* __restrict__ y, i64 y_stride, float* __restrict__ rstd, i64 rstd_stride, const T* __restrict__ x, i64 x_stride, \
                   const T* __restrict__ w, int rows, int groups, int n, float eps)) { \
        SHARED(C) \
        forward<T, TEAM, C, U, false>({y, y_stride, nullptr, 0, rstd, rstd_stride, x, x_stride, w, nullptr, rows, groups, n, eps}, part, stages); \
    } \
    FLANRT_KERNEL_MIN(80, rms_norm_bwd_##tile##_##suffix, THREADS, BWD, \
                  (T* dx, i64 dx_stride, float* __restrict__ dw, const T* dy, i64 dy_stride, const T* __restrict__ x, i64 x_stride, \
                   const T* __restrict__ w, const float* __restrict__ rstd, i64 rstd_stride, const T* plus, i64 plus_stride, int rows, \
                   int groups, int n, int chunk)) { \
        SHARED(C) \
        FLANRT_SHARED(uint4, weights, C ? TEAM * C : 1); \
        backward<T, TEAM, C, U, false>({dx, dx_stride, dw, nullptr, dy, dy_stride, x, x_stride, w, nullptr, 0, rstd, rstd_stride, plus, \
                                        plus_stride, rows, groups, n, chunk}, part, stages, weights); \
    }
#define LAYER(tile, TEAM, C, U, FWD, BWD, suffix, T) \
    FLANRT_KERNEL_MIN(80, layer_norm_fwd_##tile##_##suffix, THREADS, FWD, \
                  (T* __restrict__ y, i64 y_stride, float* __restrict__ mean, i64 mean_stride, float* __restrict__ rstd, i64 rstd_stride, \
                   const T* __restrict__ x, i64 x_stride, const T* __restrict__ w, const T* __restrict__ b, int rows, int n, float eps)) { \
        SHARED(C) \
        forward<T, TEAM, C, U, true>({y, y_stride, mean, mean_stride, rstd, rstd_stride, x, x_stride, w, b, rows, 1, n, eps}, part, stages); \
    } \
    FLANRT_KERNEL_MIN(80, layer_norm_bwd_##tile##_##suffix, THREADS, BWD, \
                  (T* dx, i64 dx_stride, float* __restrict__ dw, float* __restrict__ db, const T* dy, i64 dy_stride, \
                   const T* __restrict__ x, i64 x_stride, const T* __restrict__ w, const float* __restrict__ mean, i64 mean_stride, \
                   const float* __restrict__ rstd, i64 rstd_stride, const T* plus, i64 plus_stride, int rows, int n, int chunk)) { \
        SHARED(C) \
        FLANRT_SHARED(uint4, weights, C ? TEAM * C : 1); \
        backward<T, TEAM, C, U, true>({dx, dx_stride, dw, db, dy, dy_stride, x, x_stride, w, mean, mean_stride, rstd, rstd_stride, plus, \
                                       plus_stride, rows, 1, n, chunk}, part, stages, weights); \
    }

// The two numbers before the dtype: blocks that share a multiprocessor, forward and backward.
#define NORMS(suffix, T) \
    RMS(half, 16, 1, 4, 2, 2, suffix, T) \
    RMS(warp, 32, 4, 1, 3, 2, suffix, T) \
    RMS(block, 256, 4, 1, 3, 2, suffix, T) \
    RMS(loop, 256, 0, 1, 4, 2, suffix, T) \
    LAYER(warp, 32, 4, 1, 2, 1, suffix, T) \
    LAYER(block, 256, 2, 1, 4, 2, suffix, T) \
    LAYER(loop, 256, 0, 1, 4, 2, suffix, T)
FOR_DTYPES(NORMS)
