// Tensor-core matrix products of bf16 and f16 operands with f32 accumulation, for every architecture from sm_80 on.
//
// A block of threads makes one output tile. Both operands travel through a ring of stages in shared memory: cp.async fills
// them, ldmatrix reads fragments (transposing where the inner dimension is not the contiguous one), mma multiplies. A stage
// is kept in rows along whatever is contiguous in memory, its 16-byte units permuted so that neither side meets a bank twice.
//
// The order of a sum is part of the contract: every element is one chain of mma over the inner index in ascending steps of
// 16, whatever the tile, so the choice of a tile never shows in the result.
#pragma once
#include "ptx.cuh"

// As in src/ops/matmul.rs: which operand is transposed.
enum class Form { NT, NN, TN };

// An output tile of BM x BN, inner steps of BK, one warp for each WM x WN of it, STAGES in the ring.
template <int BM_, int BN_, int BK_, int WM_, int WN_, int STAGES_> struct Tile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, WM = WM_, WN = WN_, STAGES = STAGES_;
    static constexpr int WARPS_N = BN / WN, THREADS = BM / WM * WARPS_N * 32;
    static constexpr int BLOCKS = WM * WN > 2048 ? 1 : 4;  // a multiprocessor has registers for at least so many
    static constexpr int MI = WM / 16, NJ = WN / 8;        // mma blocks of a warp
    static constexpr int A_BYTES = BM * BK * 2, STAGE_BYTES = (BM + BN) * BK * 2;
    static constexpr int STAGING = WN + 8;                 // floats of a row in the epilogue; the 8 spread rows over banks
    static_assert(BK % 32 == 0 && WM % 16 == 0 && WN % 16 == 0 && STAGES >= 2, "fragments come in pairs");
    static_assert(THREADS / 32 * 16 * STAGING * 4 <= STAGES * STAGE_BYTES, "the epilogue borrows the ring");
};

// The stage of one operand: `MN` rows or columns of the output by `BK`. ALONG_K: the inner dimension is contiguous.
template <int MN, int BK, bool ALONG_K> struct Slab {
    static constexpr int ROWS = ALONG_K ? MN : BK;
    static constexpr int UNITS = (ALONG_K ? BK : MN) / 8;  // 16 bytes each, in a row
    static constexpr int ROW_BYTES = UNITS * 16;
    static_assert(UNITS == 4 || UNITS % 8 == 0, "rows of 64 bytes or whole multiples of 128");
    // Where unit `u` of row `r` lies, in bytes. Eight rows of one unit, and eight units of one row, are in different banks.
    DEVICE static u32 at(int r, int u) { return r * ROW_BYTES + (UNITS == 4 ? u ^ (r / 2 % 4) : u ^ (r % 8)) * 16; }
};

// What one thread copies of an operand: unit `t % UNITS` of every ROWS_AT_ONCE-th row.
template <class T, int MN, int BK, bool ALONG_K, int THREADS> struct Feed {
    using S = Slab<MN, BK, ALONG_K>;
    static constexpr int ROWS_AT_ONCE = THREADS / S::UNITS, COPIES = S::ROWS / ROWS_AT_ONCE;
    static_assert(ROWS_AT_ONCE % 8 == 0 && S::ROWS % ROWS_AT_ONCE == 0, "all copies of a thread share one permutation");

    const T* source;  // of the first copy
    i64 stride, step; // elements from row to row, and from stage to stage
    int row, column;  // of the first copy: along k counted from this stage on, along the output inside it
    u32 target;
    int limit, k;     // rows or columns of the output from the tile's origin on; inner elements left

    // `from` is the tile's origin in the operand, at the first inner element.
    DEVICE Feed(const T* from, i64 stride, int limit, int k) : stride(stride), limit(limit), k(k) {
        row = threadIdx.x / S::UNITS, column = threadIdx.x % S::UNITS * 8;
        source = from + row * stride + column;
        step = ALONG_K ? BK : BK * stride;
        target = S::at(row, column / 8);
    }
    // Elements of a unit that exist, in bytes. The rest of a unit, and what lies outside, becomes zero.
    DEVICE static int bytes(int left) { return 2 * min(max(left, 0), 8); }
    DEVICE void load(u32 slab) {
        int whole = bytes((ALONG_K ? k : limit) - column), rows = ALONG_K ? limit : k;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            int r = i * ROWS_AT_ONCE;
            ptx::cp_async16(slab + target + r * S::ROW_BYTES, source + r * stride, row + r < rows ? whole : 0);
        }
        source += step, k -= BK;
    }
};

// A Feed whose rows are picked: row `i` of the tile is row `rows[i]` of the operand, or `i` itself without a list.
template <class T, int MN, int BK, int THREADS> struct GatherFeed {
    using S = Slab<MN, BK, true>;
    static constexpr int ROWS_AT_ONCE = THREADS / S::UNITS, COPIES = S::ROWS / ROWS_AT_ONCE;
    static_assert(ROWS_AT_ONCE % 8 == 0 && S::ROWS % ROWS_AT_ONCE == 0, "all copies of a thread share one permutation");

    const T* source[COPIES];
    bool exists[COPIES];
    int column, k;
    u32 target;

    DEVICE GatherFeed(const T* from, i64 stride, const u32* rows, int first, int limit, int k) : k(k) {
        int row = threadIdx.x / S::UNITS;
        column = threadIdx.x % S::UNITS * 8;
        target = S::at(row, column / 8);
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            int r = row + i * ROWS_AT_ONCE;
            exists[i] = r < limit;
            i64 at = !exists[i] ? 0 : rows ? rows[first + r] : first + r;
            source[i] = from + at * stride + column;
        }
    }
    DEVICE void load(u32 slab) {
        int whole = 2 * min(max(k - column, 0), 8);
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            ptx::cp_async16(slab + target + i * ROWS_AT_ONCE * S::ROW_BYTES, source[i], exists[i] ? whole : 0);
            source[i] += BK;
        }
        k -= BK;
    }
};

// Where a lane's ldmatrix addresses lie in a slab: blocks of 16 along the output, steps of 16 along k.
template <int MN, int BK, bool ALONG_K> struct Fragments {
    using S = Slab<MN, BK, ALONG_K>;
    u32 base;
    // `warp`: the warp's origin along the output. `mn`, `k`: which 8 of a 16 x 16 block this lane's rows belong to.
    DEVICE Fragments(int warp, int mn, int k) {
        int r = threadIdx.x % 8;
        base = ALONG_K ? S::at(warp + r + 8 * mn, k) : S::at(r + 8 * k, warp / 8 + mn);
    }
    // A step of two units inside a row is an exclusive or, since permutations leave these bits to it.
    DEVICE void load(u32 (&f)[4], u32 slab, int block, int step) const {
        if constexpr (ALONG_K)
            ptx::ldmatrix_x4(f, slab + (base ^ step * 32) + block * 16 * S::ROW_BYTES);
        else
            ptx::ldmatrix_x4_trans(f, slab + (base ^ block * 32) + step * 16 * S::ROW_BYTES);
    }
};

template <class TILE> using Accumulators = float[TILE::MI][TILE::NJ][4];

// The product of what two feeds bring in `steps` stages. Afterwards the ring may be used for other things.
template <class T, Form FORM, class TILE, class FEED_A, class FEED_B>
DEVICE void product(Accumulators<TILE>& acc, u32 ring, FEED_A& feed_a, FEED_B& feed_b, int steps) {
    constexpr int MI = TILE::MI, NJ = TILE::NJ, STAGES = TILE::STAGES, INNER = TILE::BK / 16;
    constexpr u32 STAGE = TILE::STAGE_BYTES, END = STAGES * STAGE;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Fragments<TILE::BM, TILE::BK, FORM != Form::TN> slab_a(warp / TILE::WARPS_N * TILE::WM, lane / 8 % 2, lane / 16);
    const Fragments<TILE::BN, TILE::BK, FORM == Form::NT> slab_b(warp % TILE::WARPS_N * TILE::WN, lane / 16, lane / 8 % 2);
    u32 a[2][MI][4], b[2][NJ / 2][4];
    auto fetch = [&](int to, u32 stage, int inner) {
#pragma unroll
        for (int i = 0; i < MI; i++) slab_a.load(a[to][i], ring + stage, i, inner);
#pragma unroll
        for (int j = 0; j < NJ / 2; j++) slab_b.load(b[to][j], ring + stage + TILE::A_BYTES, j, inner);
    };
    auto fill = [&](u32 stage) {
        feed_a.load(ring + stage);
        feed_b.load(ring + stage + TILE::A_BYTES);
    };

#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[i][j][e] = 0;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) fill(s * STAGE);
        ptx::cp_async_commit();
    }
    ptx::cp_async_wait<STAGES - 2>();
    __syncthreads();
    u32 reads = 0, writes = (STAGES - 1) * STAGE;
    if (steps) fetch(0, reads, 0);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
#pragma unroll
        for (int inner = 0; inner < INNER; inner++) {
            // The fragments of the next mma, while this one's are being used. Past the barrier the next stage is there, and
            // nobody reads the previous one any more, which is therefore filled next.
            if (inner + 1 < INNER) {
                fetch((inner + 1) % 2, reads, inner + 1);
            } else {
                ptx::cp_async_wait<STAGES - 2>();
                __syncthreads();
                reads = reads + STAGE == END ? 0 : reads + STAGE;
                if (step + 1 < steps) fetch(0, reads, 0);
            }
            if (inner == 0) {
                if (step + STAGES - 1 < steps) fill(writes);
                ptx::cp_async_commit();
                writes = writes + STAGE == END ? 0 : writes + STAGE;
            }
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NJ; j++) {
                    const u32(&f)[4] = b[inner % 2][j / 2];
                    const u32 pair[2] = {f[j % 2 * 2], f[j % 2 * 2 + 1]};
                    ptx::mma_m16n8k16<T>(acc[i][j], a[inner % 2][i], pair);
                }
        }
    }
    ptx::cp_async_wait<0>();
}

// Calls `use(row, column, values)` for all of a warp's elements, 8 neighbours of a row at a time; positions inside the block's
// tile. `staging`: the ring, no longer used. (From the accumulators themselves, stores would be of 4 bytes.)
template <class TILE, class USE> DEVICE void each8(const Accumulators<TILE>& acc, float* staging, USE use) {
    constexpr int ACROSS = TILE::WN / 8, AT_ONCE = 32 / ACROSS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row0 = warp / TILE::WARPS_N * TILE::WM, column0 = warp % TILE::WARPS_N * TILE::WN;
    float* mine = staging + warp * 16 * TILE::STAGING;
#pragma unroll 1
    for (int i = 0; i < TILE::MI; i++) {
#pragma unroll
        for (int k = 0; k < TILE::MI; k++) { // registers have no addresses: the block of this round, picked by comparison
            if (k != i) continue;
#pragma unroll
            for (int j = 0; j < TILE::NJ; j++) {
                float* p = mine + lane / 4 * TILE::STAGING + j * 8 + lane % 4 * 2;
                *reinterpret_cast<float2*>(p) = make_float2(acc[k][j][0], acc[k][j][1]);
                *reinterpret_cast<float2*>(p + 8 * TILE::STAGING) = make_float2(acc[k][j][2], acc[k][j][3]);
            }
        }
        __syncwarp();
#pragma unroll 1
        for (int r = lane / ACROSS; r < 16; r += AT_ONCE) {
            const float* p = mine + r * TILE::STAGING + lane % ACROSS * 8;
            float4 lo = *reinterpret_cast<const float4*>(p), hi = *reinterpret_cast<const float4*>(p + 4);
            float v[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
            use(row0 + i * 16 + r, column0 + lane % ACROSS * 8, v);
        }
        __syncwarp();
    }
}

// ---- 8 neighbours in memory, of which `count` exist. ----

// Whether rows that start here and follow at this stride can be accessed in units of 16 bytes.
template <class E> DEVICE bool aligned16(const E* p, i64 stride) {
    return reinterpret_cast<u64>(p) % 16 == 0 && stride * sizeof(E) % 16 == 0;
}
template <class E> DEVICE void load8(float (&v)[8], const E* p, int count, bool aligned) {
    if (aligned && count == 8) {
        if constexpr (sizeof(E) == 4) {
            float4 lo = *reinterpret_cast<const float4*>(p), hi = *reinterpret_cast<const float4*>(p + 4);
            v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w, v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
        } else {
            load16(v, p);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = i < count ? to_f32(p[i]) : 0.0f;
    }
}
template <class E> DEVICE void store8(E* p, const float (&v)[8], int count, bool aligned) {
    if (aligned && count == 8) {
        if constexpr (sizeof(E) == 4) {
            *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
            *reinterpret_cast<float4*>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
        } else {
            store16(p, v);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < count) p[i] = from_f32<E>(v[i]);
    }
}

// Tile `id` of `down` x `across`: eight rows of tiles at a time, column by column, so that blocks which run together share
// operands in L2.
struct TileAt {
    int down, across;
    DEVICE TileAt(int id, int tiles_down, int tiles_across) {
        int band = 8 * tiles_across, first = id / band * 8, rows = min(8, tiles_down - first);
        down = first + id % band % rows;
        across = id % band / rows;
    }
};
