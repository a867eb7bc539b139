// What the attention kernels share: the forest as the host plans it, packed query rows, and the tiles of the tensor-core kernels.
//
// A token sees the keys of its path, and keys are counted in path positions: tile j holds positions [j KEYS, (j + 1) KEYS) of
// the path, gathered across segment borders. Tiles come in descending order, from the query towards the root. A tile that a row
// does not see at all leaves the row's sums as they are, bit for bit: so a row's result depends on its path alone, not on the
// rows that share its block.
//
// The query heads of one key head are packed as rows beside one another: row r of a query tile is token r / group, head r % group.
#pragma once
#include "ptx.cuh"

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

// Tokens of a query tile and keys of a key tile in the host's lists.
constexpr int TILE = 64;

// Tokens of one segment: first row of q, path position of the first token, number of tokens, run of their keys.
struct QueryTile {
    int row, position, count;
    u32 run;
};

// Keys of one segment, and which query tiles see them: [seen_from, seen_to).
struct KeyTile {
    int row, position, count, seen_from, seen_to;
};

// The forest's table, words as src/cuda/attention.rs lays them out.
struct Forest {
    const u32* words;

    DEVICE int query_tiles() const { return words[0]; }
    DEVICE int key_tiles() const { return words[1]; }
    DEVICE uint4 quad(u32 offset, i64 i) const { return reinterpret_cast<const uint4*>(words + offset)[i]; }
    // In the order of a walk through the forest, so that the tiles below a segment follow its own.
    DEVICE QueryTile query_tile(int i) const {
        uint4 w = quad(8, i);
        return {static_cast<int>(w.x), static_cast<int>(w.y), static_cast<int>(w.z), w.w};
    }
    // The query tile of rank i, most keys first.
    DEVICE QueryTile ranked_query_tile(int i) const { return query_tile(words[words[2] + i]); }
    // The key tile of rank i, most queries first.
    DEVICE KeyTile ranked_key_tile(int i) const {
        uint4 a = quad(words[4], 2 * i), b = quad(words[4], 2 * i + 1);
        return {static_cast<int>(a.x), static_cast<int>(a.y), static_cast<int>(a.z), static_cast<int>(a.w), static_cast<int>(b.x)};
    }
    // A run: consecutive rows of keys at consecutive path positions. First position, row minus position, the run before it.
    DEVICE uint4 run(u32 i) const { return quad(words[3], i); }
};

// The rows of a path's keys, walked from its end to its root.
struct Path {
    Forest forest;
    int from, shift;
    u32 up;

    DEVICE void enter(u32 run) {
        uint4 w = forest.run(run);
        from = w.x, shift = w.y, up = w.z;
    }
    // Moves to the run that holds `position`.
    DEVICE void retreat(int position) {
        while (position < from) enter(up);
    }
    // The row of `position`, which is not behind the run; stays where it is.
    DEVICE i64 row(int position) const {
        Path p = *this;
        p.retreat(position);
        return position + p.shift;
    }
};

// The item of a block in a round: rounds take turns in direction, so that every block gets an equal share of a list that is
// sorted by cost. Items ascend with rounds.
DEVICE int item_of(int round) {
    int place = round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    return round * static_cast<int>(gridDim.x) + place;
}

// First path position that a query at `position` sees.
DEVICE int first_key(int position, int window) { return max(0, position - window + 1); }
DEVICE bool sees(int query, int key, int window) { return key <= query && query - key < window; }

// The number of query heads that share a key head, and division by it: exact for packed rows, of which a query tile has
// 64 size.
struct Group {
    int size;
    u32 inverse;

    DEVICE explicit Group(int size) : size(size), inverse((1u << 31) / size + 1) {}
    DEVICE int divide(int row) const { return static_cast<u64>(row) * inverse >> 31; }
};

// Up to some rows of a query tile, packed over the query heads of key head `kv`.
struct QueryRows {
    QueryTile tile;
    Group group;
    int kv, first, count;

    // Rows first..first + most of the tile; count <= 0: there are none.
    DEVICE QueryRows(QueryTile tile, Group group, int kv, int first, int most)
        : tile(tile), group(group), kv(kv), first(first), count(min(most, tile.count * group.size - first)) {}
    DEVICE int position(int r) const { return tile.position + group.divide(first + r); }
    // Path positions of the first and the last row.
    DEVICE int from() const { return position(0); }
    DEVICE int last() const { return position(count - 1); }
    // Where row r lies in a tensor of [t, heads, width], in elements; -1 if there is no such row.
    DEVICE i64 at(int r, i64 stride, int width) const {
        int token = group.divide(first + r), head = first + r - token * group.size;
        return r < count ? (tile.row + token) * stride + (kv * group.size + head) * width : -1;
    }
};

// ---- Tiles of 16-bit elements in shared memory, [rows, D] in 16-byte chunks, for ldmatrix. ----

// Byte offset of a chunk. The swizzle puts the same chunk of eight consecutive rows into different banks.
template <int D> DEVICE u32 chunk_at(int row, int chunk) {
    static_assert(D % 64 == 0, "rows of whole 128-byte groups");
    return (row * (D / 8) + (chunk ^ row % 8)) * 16;
}

// Starts copying ROWS rows of `size` elements; `offset(r)` is where row r starts in `src`, negative for a row of zeros. Columns
// from `size` on become zero.
template <int D, int ROWS, int THREADS, class T, class Offset> DEVICE void copy_tile(u32 dst, const T* src, int size, Offset offset) {
    constexpr int CHUNKS = D / 8;
    static_assert(ROWS * CHUNKS % THREADS == 0, "whole rounds of threads");
#pragma unroll 2
    for (int i = 0; i < ROWS * CHUNKS / THREADS; i++) {
        int at = threadIdx.x + i * THREADS, row = at / CHUNKS, chunk = at % CHUNKS;
        i64 from = offset(row);
        bool there = from >= 0 && chunk * 8 < size;
        ptx::cp_async16(dst + chunk_at<D>(row, chunk), there ? src + from + chunk * 8 : src, there ? 16 : 0);
    }
}

// The same for rows `stride` apart.
template <int D, int ROWS, int THREADS, class T> DEVICE void copy_dense_tile(u32 dst, const T* src, i64 stride, int size) {
    constexpr int CHUNKS = D / 8, STEP = THREADS / CHUNKS;
    static_assert(THREADS % CHUNKS == 0 && ROWS % STEP == 0, "whole rows and rounds");
    int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    bool there = chunk * 8 < size;
    const T* from = src + row * stride + (there ? chunk * 8 : 0);
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) ptx::cp_async16(dst + chunk_at<D>(row + i, chunk), from + i * stride, there ? 16 : 0);
}

// The same for the keys of a path at positions [KEYS tile, KEYS (tile + 1)); those behind `last` become zeros.
template <int D, int KEYS, int THREADS, class T>
DEVICE void copy_keys(u32 dst, const T* src, i64 stride, int size, Path& path, int tile, int last) {
    int first = tile * KEYS;
    path.retreat(min(first + KEYS - 1, last));
    if (first >= path.from && first + KEYS - 1 <= last) {
        copy_dense_tile<D, KEYS, THREADS>(dst, src + path.row(first) * stride, stride, size);
    } else {
        copy_tile<D, KEYS, THREADS>(dst, src, size, [&](int r) { return first + r <= last ? path.row(first + r) * stride : i64(-1); });
    }
    ptx::cp_async_commit();
}

// Addresses of one lane for ldmatrix over a tile: 16 rows and 16 columns at a time.
template <int D> struct Fragments {
    u32 base, x;

    // Matrices in the order (rows 0-7, columns 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15): operand a as it is; with
    // transposition, operand b of two times 8 columns and the rows as inner index.
    DEVICE static Fragments rows_first(u32 tile, int row = 0) {
        int lane = threadIdx.x % 32;
        return Fragments(tile, row + lane % 16, lane / 16);
    }
    // (0-7, 0-7), (0-7, 8-15), (8-15, 0-7), (8-15, 8-15): operand b of two times 8 rows and the columns as inner index.
    DEVICE static Fragments columns_first(u32 tile) {
        int lane = threadIdx.x % 32;
        return Fragments(tile, lane % 8 + lane / 16 * 8, lane / 8 % 2);
    }
    DEVICE Fragments(u32 tile, int row, int chunk) : base(tile + row * (D * 2)), x((chunk ^ row % 8) * 16) {}
    // Address for 16-row block `i` and 16-column block `k`: the swizzle of a row is the same in every block.
    DEVICE u32 at(int i, int k) const { return base + i * (16 * D * 2) + (k * 32 ^ x); }
};

// acc[n] += a . tile^T: `a` has 16 columns k of the left operand, the tile's rows are the columns of `acc`.
template <class T, int D, int N> DEVICE void multiply_rows(float (&acc)[N][4], const u32 (&a)[4], const Fragments<D>& tile, int k) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        u32 b[4];
        ptx::ldmatrix_x4(b, tile.at(n / 2, k));
        ptx::mma_m16n8k16<T>(acc[n], a, {b[0], b[1]});
        ptx::mma_m16n8k16<T>(acc[n + 1], a, {b[2], b[3]});
    }
}

// acc[n] += w . tile: `w[2 i], w[2 i + 1]` are an accumulator of 16 columns, which are the tile's rows 16 i..; columns of the tile
// from 16 `column` on.
template <class T, int D, int N, int M>
DEVICE void multiply_columns(float (&acc)[N][4], const float (&w)[M][4], const Fragments<D>& tile, int column = 0) {
#pragma unroll
    for (int i = 0; i < M / 2; i++) {
        u32 a[4] = {pack2<T>(w[2 * i][0], w[2 * i][1]), pack2<T>(w[2 * i][2], w[2 * i][3]),
                    pack2<T>(w[2 * i + 1][0], w[2 * i + 1][1]), pack2<T>(w[2 * i + 1][2], w[2 * i + 1][3])};
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            u32 b[4];
            ptx::ldmatrix_x4_trans(b, tile.at(i, column + n / 2));
            ptx::mma_m16n8k16<T>(acc[n], a, {b[0], b[1]});
            ptx::mma_m16n8k16<T>(acc[n + 1], a, {b[2], b[3]});
        }
    }
}

template <int N> DEVICE void clear(float (&acc)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.0f;
}

// Writes a warp's 16 rows of an accumulator to its rows of a tile in shared memory: row block `row`, columns from `column` on.
template <class T, int D, int N>
DEVICE void stage(unsigned char* tile, const float (&acc)[N][4], float top, float bottom, int row, int column = 0) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n++) {
        u32 at = lane % 4 * 4;
        int r = row + lane / 4;
        *reinterpret_cast<u32*>(tile + chunk_at<D>(r, column / 8 + n) + at) = pack2<T>(acc[n][0] * top, acc[n][1] * top);
        *reinterpret_cast<u32*>(tile + chunk_at<D>(r + 8, column / 8 + n) + at) = pack2<T>(acc[n][2] * bottom, acc[n][3] * bottom);
    }
}

// Copies ROWS rows from a tile in shared memory to memory with LANES threads, of which this is number `lane`.
template <int D, int ROWS, int LANES, class T, class Offset>
DEVICE void store_tile(T* dst, const unsigned char* tile, int row, int lane, int size, Offset offset) {
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS / LANES; i++) {
        int at = lane + i * LANES, r = row + at / CHUNKS, chunk = at % CHUNKS;
        i64 to = offset(r);
        if (to >= 0 && chunk * 8 < size) {
            *reinterpret_cast<uint4*>(dst + to + chunk * 8) = *reinterpret_cast<const uint4*>(tile + chunk_at<D>(r, chunk));
        }
    }
}
