// Clipping, AdamW, Adafactor: the contract and its formulas are in src/ops/optim.rs.
//
// AdamW reads and writes everything once, so its speed is that of memory; a thread has 4 or 8 elements of each array under
// way at a time. Every step of an element's update rounds correctly, so it is the CPU's to the bit. Sums are taken in two
// stages, both in an order that only the shape decides. Whatever is rounded by chance draws from (key, index of the element),
// never from where it is computed.
#include "common.cuh"

// Places in a row of numbers, as AdamW::numbers and Adafactor::numbers fill it.
enum AdamNumber { KEEP, RATE, ROOT, FIRST, SECOND, SECOND_KEEP, EPS, KEY };
enum FactorNumber { F_KEEP, F_RATE, F_SECOND, F_SECOND_KEEP, F_EPS1, F_EPS2, F_THRESHOLD };

// Where the f32 values of weights are: in the weights; in f32 beside them; half in a remainder beside them; nowhere.
enum Form { WEIGHTS, PLAIN, REMAINDER, STOCHASTIC };
// Chances of an element: for its weight, its first and its second moment.
enum Chance { OF_WEIGHT, OF_FIRST, OF_SECOND };

DEVICE bool finite(float x) { return x - x == 0.0f; }

// ---- Rounding ----

DEVICE u32 mix(u32 x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// The random bits of an update: its key, and the index of the element that a group begins with.
struct Draw {
    u32 low, high;
    u64 index;

    DEVICE Draw(const float* numbers, u64 first) : index(first) {
        const float* key = numbers + KEY;
        low = static_cast<u32>(key[0]) | static_cast<u32>(key[1]) << 16;
        high = static_cast<u32>(key[2]) | static_cast<u32>(key[3]) << 16;
    }
    // The 32 bits of element `i` after the index.
    DEVICE u32 at(int i) const {
        u64 element = index + i;
        return mix(mix(static_cast<u32>(element) ^ low) ^ static_cast<u32>(element >> 32) ^ high);
    }
};

template <Chance CHANCE> DEVICE u32 chance_of(u32 random) {
    if (CHANCE == OF_WEIGHT) return random >> 16;
    if (CHANCE == OF_FIRST) return random & 0xffffu;
    return mix(random ^ 0x9e3779b9u) >> 16;
}

DEVICE u32 bits_of(float x) { return x != x ? 0x7fc00000u : __float_as_uint(x); }
// The bf16 nearest to a value of these bits, ties away from zero.
DEVICE u32 nearest(u32 bits) { return (bits + 0x8000u) >> 16; }
DEVICE u32 stochastic(float x, u32 chance) { return x != x ? 0x7fc0u : (__float_as_uint(x) + chance) >> 16; }
DEVICE float join(float weight, u32 remainder) {
    return __uint_as_float(__float_as_uint(weight) + static_cast<u32>(static_cast<int>(static_cast<short>(remainder))));
}

// ---- Groups of V neighbours: `vec` with one or two vector accesses, else the first `count` one by one. ----

template <int V, class T> DEVICE void get(float (&x)[V], const T* p, int count, bool vec) {
    if (vec) {
        if constexpr (sizeof(T) * V == 16) {
            load16(x, p);
        } else if constexpr (sizeof(T) == 4) {
#pragma unroll
            for (int i = 0; i < V; i += 4) {
                float4 v = *reinterpret_cast<const float4*>(p + i);
                x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
            }
        } else {
            uint2 v = *reinterpret_cast<const uint2*>(p);
            float2 a = unpack2<T>(v.x), b = unpack2<T>(v.y);
            x[0] = a.x, x[1] = a.y, x[2] = b.x, x[3] = b.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) x[i] = i < count ? to_f32(p[i]) : 0.0f;
    }
}

template <int V> DEVICE void get_bits(u32 (&x)[V], const u16* p, int count, bool vec) {
    if (vec) {
        u32 w[V / 2];
        if constexpr (V == 8) {
            uint4 v = *reinterpret_cast<const uint4*>(p);
            w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
        } else {
            uint2 v = *reinterpret_cast<const uint2*>(p);
            w[0] = v.x, w[1] = v.y;
        }
#pragma unroll
        for (int i = 0; i < V; i++) x[i] = i % 2 ? w[i / 2] >> 16 : w[i / 2] & 0xffffu;
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) x[i] = i < count ? p[i] : 0;
    }
}

template <int V> DEVICE void put_bits(void* to, const u32 (&x)[V], int count, bool vec) {
    u16* p = static_cast<u16*>(to);
    if (vec) {
        u32 w[V / 2];
#pragma unroll
        for (int i = 0; i < V / 2; i++) w[i] = (x[2 * i] & 0xffffu) | x[2 * i + 1] << 16;
        if constexpr (V == 8) {
            *reinterpret_cast<uint4*>(p) = make_uint4(w[0], w[1], w[2], w[3]);
        } else {
            *reinterpret_cast<uint2*>(p) = make_uint2(w[0], w[1]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            if (i < count) p[i] = static_cast<u16>(x[i]);
    }
}

// Rounded to nearest even.
template <int V, class T> DEVICE void put(T* p, const float (&x)[V], int count, bool vec) {
    if (vec) {
        if constexpr (sizeof(T) * V == 16) {
            store16(p, x);
        } else if constexpr (sizeof(T) == 4) {
#pragma unroll
            for (int i = 0; i < V; i += 4)
                *reinterpret_cast<float4*>(p + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
        } else {
            *reinterpret_cast<uint2*>(p) = make_uint2(pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]));
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            if (i < count) p[i] = from_f32<T>(x[i]);
    }
}

template <Chance CHANCE, int V> DEVICE void put_by_chance(void* p, const float (&x)[V], const Draw& draw, int count, bool vec) {
    u32 bits[V];
#pragma unroll
    for (int i = 0; i < V; i++) bits[i] = stochastic(x[i], chance_of<CHANCE>(draw.at(i)));
    put_bits(p, bits, count, vec);
}

// The f32 values of a group of weights.
template <Form FORM, int V, class W, class B>
DEVICE void get_values(float (&x)[V], const W* w, const B* beside, int count, bool vec) {
    if constexpr (FORM == PLAIN) {
        get(x, beside, count, vec);
    } else {
        get(x, w, count, vec);
    }
    if constexpr (FORM == REMAINDER) {
        u32 rest[V];
        get_bits(rest, beside, count, vec);
#pragma unroll
        for (int i = 0; i < V; i++) x[i] = join(x[i], rest[i]);
    }
}

template <Form FORM, int V, class W, class B>
DEVICE void put_values(W* w, B* beside, const float (&x)[V], const Draw& draw, int count, bool vec) {
    if constexpr (FORM == STOCHASTIC) {
        put_by_chance<OF_WEIGHT>(w, x, draw, count, vec);
        return;
    }
    if constexpr (FORM == PLAIN) put(beside, x, count, vec);
    if constexpr (__is_same(W, bf16)) {
        u32 high[V], low[V];
#pragma unroll
        for (int i = 0; i < V; i++) low[i] = bits_of(x[i]), high[i] = nearest(low[i]);
        put_bits(w, high, count, vec);
        if constexpr (FORM == REMAINDER) put_bits(beside, low, count, vec);
    } else {
        put(w, x, count, vec);
    }
}

template <class T> DEVICE bool aligned(const T* p) { return reinterpret_cast<u64>(p) % 16 == 0; }

// ---- The norm ----

// An f64 in two words, as what it lies in need not be aligned for it.
DEVICE void put_double(u32* p, double x) {
    u64 bits = static_cast<u64>(__double_as_longlong(x));
    p[0] = static_cast<u32>(bits), p[1] = static_cast<u32>(bits >> 32);
}
DEVICE double get_double(const u32* p) {
    return __longlong_as_double(static_cast<i64>(static_cast<u64>(p[1]) << 32 | p[0]));
}

constexpr int CLIP_CHUNK = 1 << 14;

// partials[b] = the sum of squares of chunk b. Thread t has V neighbours from V (t + 256 i), in four sums.
template <class T> DEVICE void clip_sums(u32* partials, const T* g, i64 n) {
    constexpr int V = LANES<T>;
    FLANRT_SHARED(double, part, 8);
    i64 start = static_cast<i64>(blockIdx.x) * CLIP_CHUNK;
    int size = static_cast<int>(n - start < CLIP_CHUNK ? n - start : CLIP_CHUNK);
    g += start;
    bool vec = aligned(g);
    double sums[4] = {};
#pragma unroll 4
    for (int i = threadIdx.x * V; i < size; i += 256 * V) {
        float x[V];
        get(x, g + i, size - i, vec && size - i >= V);
#pragma unroll
        for (int j = 0; j < V; j++) sums[j % 4] = fma(static_cast<double>(x[j]), static_cast<double>(x[j]), sums[j % 4]);
    }
    double sum = block_sum<8>(sums[0] + sums[1] + sums[2] + sums[3], part);
    if (threadIdx.x == 0) put_double(partials + 2 * static_cast<i64>(blockIdx.x), sum);
}

#define CLIP_SUMS(name, T) \
    FLANRT_KERNEL(80, clip_sums_##name, 256, (u32 * __restrict__ partials, const T* __restrict__ g, i64 n)) { \
        clip_sums(partials, g, n); \
    }
FOR_DTYPES(CLIP_SUMS)

// One block: out = norm and factor from the partials.
FLANRT_KERNEL(80, clip_factor, 1024, (float* __restrict__ out, const u32* __restrict__ partials, const float* __restrict__ unscale, int count, float max_norm)) {
    FLANRT_SHARED(double, part, 32);
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += 1024) sum += get_double(partials + 2 * static_cast<i64>(i));
    sum = block_sum<32>(sum, part);
    if (threadIdx.x == 0) {
        double scale = unscale[0], norm = sqrt(sum) * scale;
        double shrink = static_cast<double>(max_norm) / (norm + 1e-6);
        out[0] = static_cast<float>(norm);
        out[1] = norm - norm == 0 ? static_cast<float>(scale * (shrink < 1 ? shrink : 1)) : __uint_as_float(0x7fc00000u);
    }
}

// ---- AdamW ----

template <Form FORM, class W, class B, class S, class G>
DEVICE void adamw(W* w, B* beside, S* m, S* v, const G* g, const float* clip, const float* numbers, i64 n, u64 first) {
    constexpr bool SMALL = sizeof(W) == 2 && sizeof(S) == 2 && sizeof(G) == 2 && FORM != PLAIN;
    constexpr int V = SMALL ? 8 : 4;
    i64 i = (static_cast<i64>(blockIdx.x) * 256 + threadIdx.x) * V;
    float factor = clip[1];
    if (i >= n || !finite(factor)) return;
    int count = static_cast<int>(n - i < V ? n - i : V);
    bool vec = count == V && aligned(w) && aligned(beside) && aligned(m) && aligned(v) && aligned(g);
    float ws[V], ms[V], vs[V], gs[V];
    get(gs, g + i, count, vec);
    get(ms, m + i, count, vec);
    get(vs, v + i, count, vec);
    get_values<FORM>(ws, w + i, beside + i, count, vec);
    float keep = numbers[KEEP], rate = numbers[RATE], root = numbers[ROOT], eps = numbers[EPS];
    float towards = numbers[FIRST], second = numbers[SECOND], second_keep = numbers[SECOND_KEEP];
#pragma unroll
    for (int j = 0; j < V; j++) {
        float x = gs[j] * factor;
        ms[j] = fmaf(towards, x - ms[j], ms[j]);
        vs[j] = fmaf(second * x, x, second_keep * vs[j]);
        float denominator = sqrtf(vs[j]) / root + eps;
        ws[j] = fmaf(-rate, ms[j] / denominator, ws[j] * keep);
    }
    Draw draw(numbers, first + i);
    put_values<FORM>(w + i, beside + i, ws, draw, count, vec);
    if constexpr (sizeof(S) == 2) {
        put_by_chance<OF_FIRST>(m + i, ms, draw, count, vec);
        put_by_chance<OF_SECOND>(v + i, vs, draw, count, vec);
    } else {
        put(m + i, ms, count, vec);
        put(v + i, vs, count, vec);
    }
}

// X(form, FORM, weights, W, B, gradients, G) for every pair of dtypes that a form comes with.
#define FOR_FORMS(X) \
    X(weights, WEIGHTS, f32, float, float, f32, float) \
    X(plain, PLAIN, bf16, bf16, float, f32, float) \
    X(plain, PLAIN, bf16, bf16, float, bf16, bf16) \
    X(plain, PLAIN, f16, f16, float, f32, float) \
    X(plain, PLAIN, f16, f16, float, f16, f16) \
    X(remainder, REMAINDER, bf16, bf16, u16, f32, float) \
    X(remainder, REMAINDER, bf16, bf16, u16, bf16, bf16) \
    X(stochastic, STOCHASTIC, bf16, bf16, u16, f32, float) \
    X(stochastic, STOCHASTIC, bf16, bf16, u16, bf16, bf16)

#define ADAMW(form, FORM, weights, W, B, moments, S, grads, G) \
    FLANRT_KERNEL(80, adamw_##form##_##moments##_##weights##_##grads, 256, \
                  (W * __restrict__ w, B* __restrict__ beside, S* __restrict__ m, S* __restrict__ v, const G* __restrict__ g, \
                   const float* __restrict__ clip, const float* __restrict__ numbers, i64 n, u64 first)) { \
        adamw<FORM>(w, beside, m, v, g, clip, numbers, n, first); \
    }
#define ADAMW_BOTH(form, FORM, weights, W, B, grads, G) \
    ADAMW(form, FORM, weights, W, B, f32, float, grads, G) \
    ADAMW(form, FORM, weights, W, B, bf16, bf16, grads, G)
FOR_FORMS(ADAMW_BOTH)

// ---- Adafactor ----
//
// A matrix takes four kernels: sums of squares of each tile's rows and columns; the factors' moments from them; sums of
// squares of the moves (and of the weights); the update. Block b has tile b, row-major; a warp has 8 columns a lane and
// every eighth row. A block that finishes last does what needs all others.

constexpr int TILE_ROWS = 128, TILE_COLS = 256, V8 = 8;
// Places in the head of the scratch: two counts of finished blocks, the mean of the row moments, the rate.
enum Head { FACTORS_DONE, MOVES_DONE, MEAN, FINAL_RATE };

// The part of a tile that a lane has.
struct Tile {
    int rows, cols, first_row, col, across;
    DEVICE Tile(int rows_, int cols_) : rows(rows_), cols(cols_), across(ceil_div(cols_, TILE_COLS)) {
        first_row = static_cast<int>(blockIdx.x) / across * TILE_ROWS + static_cast<int>(threadIdx.x) / 32;
        col = static_cast<int>(blockIdx.x) % across * TILE_COLS + static_cast<int>(threadIdx.x) % 32 * V8;
    }
    // Columns of the lane; none where the matrix ends before it.
    DEVICE int count() const { return cols - col < 0 ? 0 : (cols - col < V8 ? cols - col : V8); }
    // Whether a lane's 8 columns of every row of `p` can be had at once.
    template <class T> DEVICE bool vec(const T* p) const { return count() == V8 && cols % V8 == 0 && aligned(p); }
    DEVICE i64 at(int row) const { return static_cast<i64>(row) * cols + col; }
};

// Whether this block is the last of the grid to get here; what the others wrote before is then seen. Every thread calls it.
DEVICE bool last_block(u32* done, u32* flag) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *flag = atomicAdd(done, 1u) == gridDim.x - 1;
    __syncthreads();
    __threadfence();
    return *flag;
}

template <class G>
DEVICE void adafactor_sums(float* row_sums, float* col_sums, u32* head, const G* g, const float* clip, int rows, int cols) {
    FLANRT_SHARED(float, part, 8 * TILE_COLS);
    float factor = clip[1];
    if (!finite(factor)) return;
    if (blockIdx.x == 0 && threadIdx.x == 0) head[FACTORS_DONE] = 0, head[MOVES_DONE] = 0;
    Tile t(rows, cols);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, count = t.count();
    bool vec = t.vec(g);
    float sums[V8] = {};
    int end = t.first_row - warp + TILE_ROWS < rows ? t.first_row - warp + TILE_ROWS : rows;
    for (int row = t.first_row; row < end; row += 8) {
        float x[V8], sum = 0;
        get(x, g + t.at(row), count, vec);
#pragma unroll
        for (int j = 0; j < V8; j++) {
            float y = x[j] * factor;
            sum = fmaf(y, y, sum);
            sums[j] = fmaf(y, y, sums[j]);
        }
        sum = warp_sum(sum);
        if (lane == 0) row_sums[static_cast<i64>(t.col / TILE_COLS) * rows + row] = sum;
    }
    put(part + warp * TILE_COLS + lane * V8, sums, V8, true);
    __syncthreads();
    int col = t.col - lane * V8 + threadIdx.x;
    if (col < cols) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < 8; w++) sum += part[w * TILE_COLS + threadIdx.x];
        col_sums[static_cast<i64>(t.first_row / TILE_ROWS) * cols + col] = sum;
    }
}

#define ADAFACTOR_SUMS(name, G) \
    FLANRT_KERNEL(80, adafactor_sums_##name, 256, \
                  (float* __restrict__ row_sums, float* __restrict__ col_sums, u32* __restrict__ head, const G* __restrict__ g, \
                   const float* __restrict__ clip, int rows, int cols)) { \
        adafactor_sums(row_sums, col_sums, head, g, clip, rows, cols); \
    }
FOR_DTYPES(ADAFACTOR_SUMS)

DEVICE float moved(float old, double mean, const float* numbers) {
    return fmaf(numbers[F_SECOND], static_cast<float>(mean) + numbers[F_EPS1], numbers[F_SECOND_KEEP] * old);
}

// Thread i has row i, or column i - rows.
FLANRT_KERNEL(80, adafactor_factors, 256, (float* row_moments, float* col_moments, float* head, const float* __restrict__ row_sums, const float* __restrict__ col_sums, const float* __restrict__ clip, const float* __restrict__ numbers, int rows, int cols)) {
    FLANRT_SHARED(double, part, 8);
    FLANRT_SHARED(u32, flag, 1);
    if (!finite(clip[1])) return;
    int i = blockIdx.x * 256 + threadIdx.x, across = ceil_div(cols, TILE_COLS), down = ceil_div(rows, TILE_ROWS);
    if (i < rows) {
        double sum = 0;
        for (int t = 0; t < across; t++) sum += row_sums[static_cast<i64>(t) * rows + i];
        row_moments[i] = moved(row_moments[i], sum / cols, numbers);
    } else if (i < rows + cols) {
        double sum = 0;
        int j = i - rows;
        for (int t = 0; t < down; t++) sum += col_sums[static_cast<i64>(t) * cols + j];
        col_moments[j] = moved(col_moments[j], sum / rows, numbers);
    }
    if (!last_block(reinterpret_cast<u32*>(head) + FACTORS_DONE, flag)) return;
    double sum = 0;
    for (int r = threadIdx.x; r < rows; r += 256) sum += row_moments[r];
    sum = block_sum<8>(sum, part);
    if (threadIdx.x == 0) head[MEAN] = static_cast<float>(sum / rows);
}

// The rate of an update whose moves have squares of this sum, of weights of that.
DEVICE float final_rate(double moves, double weights, double count, const float* numbers, int relative) {
    double smaller = sqrt(moves / count) / numbers[F_THRESHOLD], size = 1;
    if (relative) {
        size = sqrt(weights / count);
        if (size < numbers[F_EPS2]) size = numbers[F_EPS2];
    }
    return static_cast<float>(numbers[F_RATE] * size / (smaller > 1 ? smaller : 1));
}

DEVICE float inverse_root(float x) { return 1.0f / sqrtf(x); }

template <class W, class G>
DEVICE void adafactor_moves(float* head, u32* partials, const W* w, const G* g, const float* row_moments,
                            const float* col_moments, const float* clip, const float* numbers, int rows, int cols, int relative) {
    FLANRT_SHARED(double, part, 16);
    FLANRT_SHARED(u32, flag, 1);
    float factor = clip[1];
    if (!finite(factor)) return;
    Tile t(rows, cols);
    int warp = threadIdx.x / 32, count = t.count();
    bool vec = t.vec(g), vec_w = t.vec(w), vec_c = t.vec(col_moments);
    float mean = head[MEAN], across[V8];
    get(across, col_moments + t.col, count, vec_c);
#pragma unroll
    for (int j = 0; j < V8; j++) across[j] = j < count ? inverse_root(across[j]) : 0.0f;
    double moves = 0, weights = 0;
    int end = t.first_row - warp + TILE_ROWS < rows ? t.first_row - warp + TILE_ROWS : rows;
    for (int row = t.first_row; row < end; row += 8) {
        float x[V8], sum = 0, down = inverse_root(row_moments[row] / mean);
        get(x, g + t.at(row), count, vec);
#pragma unroll
        for (int j = 0; j < V8; j++) {
            float u = x[j] * factor * across[j] * down;
            sum = fmaf(u, u, sum);
        }
        moves += sum;
        if (relative) {
            get(x, w + t.at(row), count, vec_w);
#pragma unroll
            for (int j = 0; j < V8; j++) weights = fma(static_cast<double>(x[j]), static_cast<double>(x[j]), weights);
        }
    }
    moves = block_sum<8>(moves, part);
    weights = block_sum<8>(weights, part + 8);
    if (threadIdx.x == 0) {
        put_double(partials + 4 * static_cast<i64>(blockIdx.x), moves);
        put_double(partials + 4 * static_cast<i64>(blockIdx.x) + 2, weights);
    }
    if (!last_block(reinterpret_cast<u32*>(head) + MOVES_DONE, flag)) return;
    moves = 0, weights = 0;
    for (int i = threadIdx.x; i < static_cast<int>(gridDim.x); i += 256) {
        moves += get_double(partials + 4 * static_cast<i64>(i));
        weights += get_double(partials + 4 * static_cast<i64>(i) + 2);
    }
    moves = block_sum<8>(moves, part);
    weights = block_sum<8>(weights, part + 8);
    if (threadIdx.x == 0)
        head[FINAL_RATE] = final_rate(moves, weights, static_cast<double>(rows) * cols, numbers, relative);
}

#define ADAFACTOR_MOVES(weights, W, grads, G) \
    FLANRT_KERNEL(80, adafactor_moves_##weights##_##grads, 256, \
                  (float* head, u32* partials, const W* __restrict__ w, const G* __restrict__ g, \
                   const float* __restrict__ row_moments, const float* __restrict__ col_moments, const float* __restrict__ clip, \
                   const float* __restrict__ numbers, int rows, int cols, int relative)) { \
        adafactor_moves(head, partials, w, g, row_moments, col_moments, clip, numbers, rows, cols, relative); \
    }
ADAFACTOR_MOVES(f32, float, f32, float)
ADAFACTOR_MOVES(bf16, bf16, f32, float)
ADAFACTOR_MOVES(bf16, bf16, bf16, bf16)
ADAFACTOR_MOVES(f16, f16, f32, float)
ADAFACTOR_MOVES(f16, f16, f16, f16)

template <Form FORM, class W, class B, class G>
DEVICE void adafactor_update(W* w, B* beside, const G* g, const float* head, const float* row_moments, const float* col_moments,
                             const float* clip, const float* numbers, int rows, int cols, u64 first) {
    float factor = clip[1];
    if (!finite(factor)) return;
    Tile t(rows, cols);
    int warp = threadIdx.x / 32, count = t.count();
    if (count == 0) return;
    bool vec = t.vec(w) && t.vec(beside) && t.vec(g), vec_c = t.vec(col_moments);
    float mean = head[MEAN], rate = head[FINAL_RATE], keep = numbers[F_KEEP], across[V8];
    get(across, col_moments + t.col, count, vec_c);
#pragma unroll
    for (int j = 0; j < V8; j++) across[j] = j < count ? inverse_root(across[j]) : 0.0f;
    Draw draw(numbers, first);
    int end = t.first_row - warp + TILE_ROWS < rows ? t.first_row - warp + TILE_ROWS : rows;
    for (int row = t.first_row; row < end; row += 8) {
        float x[V8], ws[V8], step = -rate * inverse_root(row_moments[row] / mean);
        i64 at = t.at(row);
        get(x, g + at, count, vec);
        get_values<FORM>(ws, w + at, beside + at, count, vec);
#pragma unroll
        for (int j = 0; j < V8; j++) ws[j] = fmaf(step, x[j] * factor * across[j], ws[j] * keep);
        draw.index = first + at;
        put_values<FORM>(w + at, beside + at, ws, draw, count, vec);
    }
}

#define ADAFACTOR_UPDATE(form, FORM, weights, W, B, grads, G) \
    FLANRT_KERNEL(80, adafactor_update_##form##_##weights##_##grads, 256, \
                  (W * __restrict__ w, B* __restrict__ beside, const G* __restrict__ g, const float* __restrict__ head, \
                   const float* __restrict__ row_moments, const float* __restrict__ col_moments, \
                   const float* __restrict__ clip, const float* __restrict__ numbers, int rows, int cols, u64 first)) { \
        adafactor_update<FORM>(w, beside, g, head, row_moments, col_moments, clip, numbers, rows, cols, first); \
    }
FOR_FORMS(ADAFACTOR_UPDATE)

// A vector, by one block: its moments and the sums of squares, then the update.
template <Form FORM, class W, class B, class G>
DEVICE void adafactor_vector(W* w, B* beside, float* moments, const G* g, const float* clip, const float* numbers, int n, u64 first, int relative) {
    FLANRT_SHARED(double, part, 64);
    float factor = clip[1];
    if (!finite(factor)) return;
    double moves = 0, weights = 0;
    for (int i = threadIdx.x; i < n; i += 1024) {
        float x = to_f32(g[i]) * factor;
        float v = fmaf(numbers[F_SECOND], fmaf(x, x, numbers[F_EPS1]), numbers[F_SECOND_KEEP] * moments[i]);
        moments[i] = v;
        double u = x * inverse_root(v), weight = to_f32(w[i]);
        moves = fma(u, u, moves);
        weights = fma(weight, weight, weights);
    }
    moves = block_sum<32>(moves, part);
    weights = block_sum<32>(weights, part + 32);
    float step = -final_rate(moves, weights, n, numbers, relative), keep = numbers[F_KEEP];
    Draw draw(numbers, first);
    for (int i = threadIdx.x; i < n; i += 1024) {
        float x[2], ws[2];
        get(x, g + i, 1, false);
        get_values<FORM>(ws, w + i, beside + i, 1, false);
        ws[0] = fmaf(step, x[0] * factor * inverse_root(moments[i]), ws[0] * keep);
        draw.index = first + i;
        put_values<FORM>(w + i, beside + i, ws, draw, 1, false);
    }
}

#define ADAFACTOR_VECTOR(form, FORM, weights, W, B, grads, G) \
    FLANRT_KERNEL(80, adafactor_vector_##form##_##weights##_##grads, 1024, \
                  (W * __restrict__ w, B* __restrict__ beside, float* __restrict__ moments, const G* __restrict__ g, \
                   const float* __restrict__ clip, const float* __restrict__ numbers, int n, u64 first, int relative)) { \
        adafactor_vector<FORM>(w, beside, moments, g, clip, numbers, n, first, relative); \
    }
FOR_FORMS(ADAFACTOR_VECTOR)
