// Collectives of warps and blocks, shared memory, atomics, and the sm_80 instructions that work on whole warps.
#include "block.h"
#include "checker.h"

#include <algorithm>

namespace emu {

// ---- What the checker learns of order ----

void release(const void* key) {
    if constexpr (CHECKING) check::release(key);
}
void flip(const void* key) {
    if constexpr (CHECKING) check::flip(key);
}
void acquire(const void* key) {
    if constexpr (CHECKING) check::acquire(key);
}

// ---- Shared memory ----

void* dynamic_shared() { return block->shared; }

void* static_shared(const void* key, size_t bytes, size_t align) {
    Block& b = *block;
    for (const SharedArray& a : b.arrays)
        if (a.key == key) return a.p;
    EMU_ENTER();
    b.shared_used += bytes;
    if (b.shared_used > options.shared_limit)
        fail("the block has %zu bytes of shared memory, %zu of them dynamic; the device has %zu", b.shared_used, b.dynamic_bytes,
             options.shared_limit);
    if (b.shared_used - b.dynamic_bytes > 48 << 10)
        fail("the kernel has %zu bytes of static shared memory, 49152 are allowed", b.shared_used - b.dynamic_bytes);
    const size_t at = (b.shared_top + SHARED_GAP + align - 1) / align * align;
    if (at + bytes > SHARED_BYTES) fail("too many shared arrays for the emulator's %zu bytes", SHARED_BYTES);
    char* p = b.shared + at;
    b.shared_top = at + bytes;
    b.arrays.push_back({key, p});
    memset(p, 0xff, bytes);
    if constexpr (CHECKING) check::shared_array(p, bytes);
    return p;
}

uint32_t shared_address(const void* p) {
    const ptrdiff_t at = static_cast<const char*>(p) - block->shared;
    if (at < 0 || at > ptrdiff_t(SHARED_BYTES)) {
        EMU_ENTER();
        fail("smem_u32: pointer %p is not into shared memory", p);
    }
    return uint32_t(at) + SHARED_BASE;
}

char* shared_pointer(uint32_t address, size_t bytes, const char* op) {
    Block& b = *block;
    const size_t at = size_t(address) - SHARED_BASE;
    if (address < SHARED_BASE || at + bytes > SHARED_BYTES) fail("%s: shared address %#x is outside shared memory", op, address);
    if (at < b.dynamic_bytes ? at + bytes > b.dynamic_bytes : at + bytes > b.shared_top || at < b.dynamic_bytes + SHARED_GAP)
        fail("%s: out-of-bounds: %zu bytes at offset %zu, the block has %zu bytes of dynamic shared memory", op, bytes, at,
             b.dynamic_bytes);
    return b.shared + at;
}

// ---- Barriers of the block ----

static void complete(NamedBarrier& n) {
    n.votes[int(Vote::COUNT)] = n.count;
    n.votes[int(Vote::AND)] = n.all;
    n.votes[int(Vote::OR)] = n.any;
    const bool whole = n.expected < 0;
    n.arrived = n.expected = n.count = n.any = 0;
    n.all = 1;
    if (!whole) flip(&n);
    if constexpr (CHECKING)
        if (whole) check::whole_block();
    wake(n.waiting);
    progress();
}

void finish_barrier_if_complete() {
    NamedBarrier& n = block->barriers[0];
    if (n.expected < 0 && n.arrived && n.arrived == block->live) complete(n);
}

// expected -1: all threads of the block that still run.
static void arrive(NamedBarrier& n, int id, int expected, bool wait, const char* op) {
    Fiber& me = current();
    block->stats.barriers++;
    if (n.expected && n.expected != expected)
        fail("%s: barrier %d is used with %d and with %d threads at a time", op, id, n.expected, expected);
    n.expected = expected;
    if (expected > 0) release(&n);
    n.arrived++;
    if (n.arrived == (expected < 0 ? block->live : expected)) {
        complete(n);
        preempt();
    } else if (wait) {
        n.waiting.add(me.index);
        park(op);
    }
    if (wait && expected > 0) acquire(&n);
}

void sync_threads() {
    EMU_ENTER();
    arrive(block->barriers[0], 0, -1, true, "__syncthreads");
}
int sync_threads_vote(Vote how, bool value) {
    EMU_ENTER();
    NamedBarrier& n = block->barriers[0];
    n.count += value, n.all &= value, n.any |= value;
    arrive(n, 0, -1, true, "__syncthreads");
    return n.votes[int(how)];
}

static void check_barrier(int id, int threads, const char* op) {
    if (id < 0 || id > 15) fail("%s: barrier %d, there are 0 to 15", op, id);
    const int all = int(block->threads.size());
    if (threads <= 0 || threads % WARP || threads > all)
        fail("%s: %d threads at barrier %d, expected a multiple of 32 up to the block's %d", op, threads, id, all);
}
void bar_sync(int id, int threads) {
    EMU_ENTER();
    check_barrier(id, threads, "bar.sync");
    const bool whole = id == 0 && threads == int(block->threads.size());
    arrive(block->barriers[id], id, whole ? -1 : threads, true, "bar.sync");
}
void bar_arrive(int id, int threads) {
    EMU_ENTER();
    check_barrier(id, threads, "bar.arrive");
    arrive(block->barriers[id], id, threads, false, "bar.arrive");
}

// ---- Warp collectives ----

Meeting& meeting(unsigned mask, const char* op) {
    Fiber& me = current();
    Warp& w = *me.warp;
    if (!(mask >> me.lane & 1)) fail("%s: lane %d is not in its own mask %08x", op, me.lane, mask);
    if (mask & ~w.live) {
        const int missing = __builtin_ctz(mask & ~w.live);
        fail("%s: mask %08x names lane %d, which has exited or does not exist", op, mask, missing);
    }
    int at = 0;
    while (at < 4 && w.masks[at] != mask) at++;
    if (at == 4) {
        at = 0;
        while (at < 4 && (w.meetings[at].arrived || w.meetings[at].inside)) at++;
        if (at == 4) fail("%s: the lanes of the warp wait under more than 4 masks", op);
        w.masks[at] = mask;
    }
    Meeting* m = &w.meetings[at];
    if (m->arrived && m->op != op && strcmp(m->op, op))
        fail("divergence: lane %d comes to %s while others wait in %s", me.lane, op, m->op);
    m->op = op;
    return *m;
}

uint64_t shuffle(Shuffle how, unsigned mask, uint64_t value, int operand, int width) {
    EMU_ENTER();
    static const char* const names[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
    const char* op = names[int(how)];
    const int lane = current().lane, first = lane & ~(width - 1);
    int source = lane;
    switch (how) {
        case Shuffle::INDEX: source = first | (operand & (width - 1)); break;
        case Shuffle::UP: source = lane - operand >= first ? lane - operand : lane; break;
        case Shuffle::DOWN: source = lane + operand < first + width ? lane + operand : lane; break;
        case Shuffle::XOR: source = (lane ^ operand) < first + width ? lane ^ operand : lane; break;
    }
    if (!(mask >> source & 1)) fail("%s: lane %d reads lane %d, which is not in the mask %08x", op, lane, source, mask);
    const auto* values = reinterpret_cast<const uint64_t*>(meet(
        mask, op, [=](unsigned char* b) { reinterpret_cast<uint64_t*>(b)[lane] = value; }, [](unsigned char*) {}));
    return values[source];
}

unsigned ballot(unsigned mask, bool value) {
    EMU_ENTER();
    const int lane = current().lane;
    const unsigned char* votes =
        meet(mask, "__ballot_sync", [=](unsigned char* b) { b[lane] = value; }, [](unsigned char*) {});
    unsigned result = 0;
    for (int l = 0; l < WARP; l++)
        if (mask >> l & 1 && votes[l]) result |= 1u << l;
    return result;
}

void sync_warp(unsigned mask) {
    EMU_ENTER();
    meet(mask, "__syncwarp", [](unsigned char*) {}, [](unsigned char*) {});
}

unsigned active_mask() { return current().warp->live; }

// ---- Matrix fragments ----

// A phase serves the eight 16-byte rows of one matrix; two different rows in the same four banks take a cycle each.
static void count_conflicts(const uint32_t* rows) {
    int most = 1, in_bank[8] = {};
    for (int i = 0; i < 8; i++) {
        bool again = false;
        for (int j = 0; j < i; j++) again |= rows[j] == rows[i];
        if (!again) most = std::max(most, ++in_bank[rows[i] / 16 % 8]);
    }
    block->stats.ldmatrix_phases++;
    block->stats.ldmatrix_conflicts += most - 1;
}

namespace {
// What lanes leave for ldmatrix and stmatrix: words [register][lane], so that a register of all lanes is an 8x8 matrix.
struct MatrixBuffer {
    uint32_t address[WARP];
    uint32_t reg[4][WARP];
};
static_assert(sizeof(MatrixBuffer) <= WARP * Meeting::LANE_BYTES);
}  // namespace

// Registers that hold an 8x8 matrix by rows become those that hold its transpose.
static void transpose(uint32_t (&reg)[WARP]) {
    uint16_t from[64], to[64];
    memcpy(from, reg, sizeof from);
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 8; c++) to[c * 8 + r] = from[r * 8 + c];
    memcpy(reg, to, sizeof to);
}

static char* matrix_row(uint32_t address, bool write, const char* op) {
    if (address % 16) fail("%s: address %#x is not 16-byte aligned", op, address);
    char* row = shared_pointer(address, 16, op);
    if constexpr (CHECKING) check::access(row, 16, write, current().caller);
    return row;
}

void ldmatrix_x4(uint32_t (&r)[4], uint32_t address, bool transposed) {
    EMU_ENTER();
    matrix_row(address, false, "ldmatrix");
    const int lane = current().lane;
    unsigned char* buffer = meet(
        FULL_MASK, transposed ? "ldmatrix.trans" : "ldmatrix",
        [=](unsigned char* b) { reinterpret_cast<MatrixBuffer*>(b)->address[lane] = address; },
        [=](unsigned char* b) {
            auto& m = *reinterpret_cast<MatrixBuffer*>(b);
            for (int q = 0; q < 4; q++) {
                count_conflicts(m.address + 8 * q);
                for (int i = 0; i < 8; i++) memcpy(&m.reg[q][4 * i], block->shared + (m.address[8 * q + i] - SHARED_BASE), 16);
                if (transposed) transpose(m.reg[q]);
            }
        });
    for (int q = 0; q < 4; q++) r[q] = reinterpret_cast<MatrixBuffer*>(buffer)->reg[q][lane];
}

void stmatrix_x4(uint32_t address, const uint32_t (&r)[4], bool transposed) {
    EMU_ENTER();
    char* row = matrix_row(address, true, "stmatrix");
    const int lane = current().lane;
    unsigned char* buffer = meet(
        FULL_MASK, transposed ? "stmatrix.trans" : "stmatrix",
        [&](unsigned char* b) {
            auto& m = *reinterpret_cast<MatrixBuffer*>(b);
            m.address[lane] = address;
            for (int q = 0; q < 4; q++) m.reg[q][lane] = r[q];
        },
        [=](unsigned char* b) {
            auto& m = *reinterpret_cast<MatrixBuffer*>(b);
            for (int q = 0; q < 4; q++) {
                count_conflicts(m.address + 8 * q);
                if (transposed) transpose(m.reg[q]);
            }
        });
    memcpy(row, &reinterpret_cast<MatrixBuffer*>(buffer)->reg[lane / 8][lane % 8 * 4], 16);
}

// ---- mma ----

namespace {
// [register][lane] again: a register of A over all lanes is an 8x8 quadrant by rows, one of B is 8x8 with rows of n, a pair of D
// is an 8x8 quadrant by rows.
struct MmaBuffer {
    uint32_t a[4][WARP], b[2][WARP];
    float d[2][WARP][2];
};
static_assert(sizeof(MmaBuffer) <= WARP * Meeting::LANE_BYTES);

template <float (*TO_FLOAT)(uint16_t)> void mma_all(MmaBuffer& m) {
    float a[16][16], b[16][8], d[16][8];
    for (int q = 0; q < 4; q++) {
        uint16_t raw[64];
        memcpy(raw, m.a[q], sizeof raw);
        for (int r = 0; r < 8; r++)
            for (int c = 0; c < 8; c++) a[(q & 1) * 8 + r][(q >> 1) * 8 + c] = TO_FLOAT(raw[8 * r + c]);
    }
    for (int q = 0; q < 2; q++) {
        uint16_t raw[64];
        float wide[64];
        memcpy(raw, m.b[q], sizeof raw);
        for (int i = 0; i < 64; i++) wide[i] = TO_FLOAT(raw[i]);
        for (int n = 0; n < 8; n++)
            for (int k = 0; k < 8; k++) b[q * 8 + k][n] = wide[8 * n + k];
    }
    memcpy(d, m.d, sizeof d);
    multiply_add(d[0], a[0], b[0], 16, 8, 16);
    memcpy(m.d, d, sizeof d);
}
float wide_bf16(uint16_t h) { return bf16_to_float(h); }
float wide_f16(uint16_t h) { return f16_to_float(h); }
}  // namespace

void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool half) {
    EMU_ENTER();
    const int lane = current().lane;
    const unsigned char* buffer = meet(
        FULL_MASK, half ? "mma (f16)" : "mma (bf16)",
        [&](unsigned char* p) {
            auto& m = *reinterpret_cast<MmaBuffer*>(p);
            for (int i = 0; i < 4; i++) m.a[i][lane] = a[i];
            for (int i = 0; i < 2; i++) m.b[i][lane] = b[i];
            for (int i = 0; i < 4; i++) m.d[i >> 1][lane][i & 1] = d[i];
        },
        [=](unsigned char* p) {
            auto& m = *reinterpret_cast<MmaBuffer*>(p);
            block->stats.mma++;
            half ? mma_all<wide_f16>(m) : mma_all<wide_bf16>(m);
        });
    const auto& m = *reinterpret_cast<const MmaBuffer*>(buffer);
    for (int i = 0; i < 4; i++) d[i] = m.d[i >> 1][lane][i & 1];
}

// Product and sum are rounded one after the other on every machine; products of two 16-bit numbers are exact anyway. ROWS by
// COLUMNS vectors of sums stay in registers.
using Vector = float __attribute__((vector_size(32), aligned(4)));
template <int ROWS, int COLUMNS>
EMU_INLINE static void multiply_add_tiles(float* d, const float* a, const float* b, int m, int n, int k) {
    for (int i = 0; i < m; i += ROWS)
        for (int j = 0; j < n; j += 8 * COLUMNS) {
            Vector sum[ROWS][COLUMNS];
            for (int r = 0; r < ROWS; r++)
                for (int c = 0; c < COLUMNS; c++) sum[r][c] = *reinterpret_cast<Vector*>(d + (i + r) * n + j + 8 * c);
            for (int p = 0; p < k; p++)
                for (int r = 0; r < ROWS; r++) {
                    const float x = a[(i + r) * k + p];
                    for (int c = 0; c < COLUMNS; c++) sum[r][c] += x * *reinterpret_cast<const Vector*>(b + p * n + j + 8 * c);
                }
            for (int r = 0; r < ROWS; r++)
                for (int c = 0; c < COLUMNS; c++) *reinterpret_cast<Vector*>(d + (i + r) * n + j + 8 * c) = sum[r][c];
        }
}
__attribute__((target("avx2"))) static void multiply_add_avx2(float* d, const float* a, const float* b, int m, int n, int k) {
    n % 32 ? multiply_add_tiles<8, 1>(d, a, b, m, n, k) : multiply_add_tiles<2, 4>(d, a, b, m, n, k);
}
static void multiply_add_any(float* d, const float* a, const float* b, int m, int n, int k) {
    n % 16 ? multiply_add_tiles<4, 1>(d, a, b, m, n, k) : multiply_add_tiles<2, 2>(d, a, b, m, n, k);
}
void multiply_add(float* d, const float* a, const float* b, int m, int n, int k) {
    static const bool avx2 = __builtin_cpu_supports("avx2");
    avx2 ? multiply_add_avx2(d, a, b, m, n, k) : multiply_add_any(d, a, b, m, n, k);
}

// ---- Memory that blocks and threads share ----

void thread_fence() {
    EMU_ENTER();
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if constexpr (CHECKING) check::thread_fence();
}

void atomic_begin(const void* p, size_t bytes) {
    EMU_ENTER();
    preempt();
    if (reinterpret_cast<uintptr_t>(p) % bytes) fail("atomic operation on %zu bytes at the misaligned address %p", bytes, p);
    if constexpr (CHECKING) {
        check::atomic(p, bytes, false, current().caller);
        check::atomic(p, bytes, true, current().caller);
        check::acquire_atomic(p);
    }
}
void atomic_end(const void* p, uint64_t old, bool changed) {
    if constexpr (CHECKING) check::release_atomic(p, false);
    if (changed)
        progress();
    else
        poll(p, old, "a loop of atomic operations that change nothing");
}

uint32_t load_acquire(const uint32_t* p) {
    EMU_ENTER();
    if (!block->kernel->ordered)
        fail("load_acquire in a kernel that is not FLANRT_KERNEL_ORDERED: its blocks run in any order here");
    if constexpr (CHECKING) check::atomic(p, 4, false, current().caller);
    const uint32_t v = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    if constexpr (CHECKING) check::acquire_atomic(p);
    poll(p, v, "a loop of load_acquire");
    return v;
}
void store_release(uint32_t* p, uint32_t v) {
    EMU_ENTER();
    preempt();
    if constexpr (CHECKING) {
        check::atomic(p, 4, true, current().caller);
        check::release_atomic(p, true);
    }
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
    progress();
}

float exp2_approx(float x) {
    const float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;  // ftz
}

}  // namespace emu
