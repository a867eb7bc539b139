// wgmma: asynchronous products of a warpgroup, executed when it waits for their group.
//
// Until then the accumulator's registers hold NaN, so that reading them too early shows, and they are looked at again when the
// result is put back, so that writing them too early is an error.
#include "block.h"
#include "checker.h"

#include <algorithm>

namespace emu {

static constexpr uint32_t POISON = 0x7fffdead;  // a NaN

// ---- Operands in shared memory ----

namespace {
// A shared-memory descriptor. Addresses and strides are in bytes.
struct Descriptor {
    uint32_t start, leading, stride;
    int mode;  // of the swizzle: 0 none, 1 32 bytes, 2 64 bytes, 3 128 bytes
    bool mn_major;

    Descriptor(uint64_t bits, bool mn_major) : mn_major(mn_major) {
        start = uint32_t(bits & 0x3fff) << 4;
        leading = uint32_t(bits >> 16 & 0x3fff) << 4;
        stride = uint32_t(bits >> 32 & 0x3fff) << 4;
        mode = (4 - int(bits >> 62)) & 3;
        if (bits >> 49 & 7)
            fail("wgmma: the descriptor's base offset is not 0: let tiles start at multiples of the swizzle's atom");
    }

    // Where 8 consecutive elements are: of row `i` (m or n) from column 8 c of k; MN-major: rows from 8 i of column c.
    uint32_t chunk(int i, int c) const {
        uint32_t at;
        if (!mn_major) {
            const uint32_t pitch = 16u << mode;
            at = i / 8 * stride + i % 8 * pitch + c * (mode ? 16 : leading);
        } else if (!mode) {
            at = i * stride + c / 8 * leading + c % 8 * 16;
        } else {
            const int atom = 1 << mode;  // 16-byte chunks of a row of the atom
            at = i / atom * leading + i % atom * 16 + c / 8 * stride + c % 8 * (16u << mode);
        }
        return swizzle(start + at, mode);
    }
    // visit(i, c, address) for every chunk of an operand of `rows` rows and 16 columns.
    template <class Visit> void for_chunks(int rows, Visit visit) const {
        const int is = mn_major ? rows / 8 : rows, cs = mn_major ? 16 : 2;
        for (int i = 0; i < is; i++)
            for (int c = 0; c < cs; c++) visit(i, c, chunk(i, c));
    }
};
}  // namespace

// store(row, k, value) for every element of the operand.
template <class Store> static void load_operand(uint64_t bits, bool mn_major, int rows, bool half, Store store) {
    const Descriptor d(bits, mn_major);
    d.for_chunks(rows, [&](int i, int c, uint32_t address) {
        uint16_t raw[8];
        memcpy(raw, shared_pointer(address, 16, "wgmma"), 16);
        float wide[8];
        for (int e = 0; e < 8; e++) wide[e] = half ? f16_to_float(raw[e]) : bf16_to_float(raw[e]);
        for (int e = 0; e < 8; e++) mn_major ? store(8 * i + e, c, wide[e]) : store(i, 8 * c + e, wide[e]);
    });
}

static void hold_operands(const Wgmma& op, int change) {
    auto hold = [&](uint64_t bits, bool mn_major, int rows) {
        Descriptor(bits, mn_major).for_chunks(rows, [&](int, int, uint32_t address) {
            check::hold(shared_pointer(address, 16, "wgmma"), 16, change);
        });
    };
    if (!op.a) hold(op.a_desc, op.a_mn_major, 64);
    hold(op.b_desc, op.b_mn_major, op.n);
}

// Each thread of the warpgroup answers for a share of the chunks: every one must have waited for the data.
static void check_operands(const Wgmma& op, int thread) {
    auto look = [&](uint64_t bits, bool mn_major, int rows) {
        const Descriptor d(bits, mn_major);
        const int columns = mn_major ? 16 : 2, chunks = rows * 2;
        for (int i = thread; i < chunks; i += WARPGROUP)
            check::async_read(shared_pointer(d.chunk(i / columns, i % columns), 16, "wgmma"), 16, "wgmma's read of");
    };
    if (!op.a) look(op.a_desc, op.a_mn_major, 64);
    look(op.b_desc, op.b_mn_major, op.n);
}

// ---- Execution ----

// Register i of thread t of the warpgroup: which row and column of the accumulator.
static int row_of(int t, int i) { return t / 32 * 16 + t % 32 / 4 + (i >> 1 & 1) * 8; }
static int column_of(int t, int i) { return i / 4 * 8 + t % 4 * 2 + (i & 1); }

static void execute(WgmmaTask& task) {
    const Wgmma& op = task.op;
    static thread_local float* a = new float[64 * 16];
    static thread_local float* b = new float[16 * 256];
    if (op.a) {
        for (int t = 0; t < WARPGROUP; t++)
            for (int i = 0; i < 8; i++) {
                const uint16_t raw = uint16_t(task.a[t][i / 2] >> (i & 1) * 16);
                const int row = t / 32 * 16 + t % 32 / 4 + (i / 2 & 1) * 8, k = t % 4 * 2 + (i & 1) + i / 4 * 8;
                a[row * 16 + k] = op.half ? f16_to_float(raw) : bf16_to_float(raw);
            }
    } else {
        load_operand(op.a_desc, op.a_mn_major, 64, op.half, [](int r, int k, float x) { a[r * 16 + k] = x; });
    }
    const int n = op.n;
    load_operand(op.b_desc, op.b_mn_major, n, op.half, [n](int c, int k, float x) { b[k * n + c] = x; });
    std::vector<float>& d = task.d->value;
    if (!op.accumulate) std::fill(d.begin(), d.end(), 0.0f);
    multiply_add(d.data(), a, b, 64, n, 16);
    block->stats.wgmma++;
}

static void put_back(Accumulator& acc) {
    for (int t = 0; t < WARPGROUP; t++)
        for (int i = 0; i < acc.n / 2; i++) {
            float& r = acc.registers[t][i];
            if (float_bits(r) != POISON && !options.early)
                fail("wgmma: accumulator register %d of thread %d of the warpgroup was written while a wgmma was under way",
                     i, t);
            r = acc.value[row_of(t, i) * acc.n + column_of(t, i)];
        }
}

// ---- The warpgroup ----

static Warpgroup& warpgroup(const char* op) {
    const int g = current().index / WARPGROUP;
    if ((g + 1) * WARPGROUP > int(block->threads.size())) fail("%s outside a complete warpgroup of 128 threads", op);
    return block->warpgroups[g];
}

// All 128 threads come: arrive() of each, complete() of the last. It says whether they go on; otherwise finish_wgmma wakes them.
// No order between them follows for other memory.
template <class Arrive, class Complete> static void gather(const char* op, Arrive arrive, Complete complete) {
    Warpgroup& g = warpgroup(op);
    if (g.arrived && strcmp(g.op, op))
        fail("divergence: thread %d comes to %s while others of the warpgroup wait in %s", current().index, op, g.op);
    g.op = op;
    arrive(g);
    block->stats.collectives++;
    const bool last = ++g.arrived == WARPGROUP;
    if (last) {
        g.arrived = 0;
        progress();
        if (complete(g)) {
            wake(g.waiting);
            preempt();
            return;
        }
    }
    g.waiting.add(current().index);
    park(op);
}

static bool same_operands(const Wgmma& x, const Wgmma& y) {
    return x.n == y.n && x.half == y.half && !x.a == !y.a && x.a_desc == y.a_desc && x.b_desc == y.b_desc &&
           x.a_mn_major == y.a_mn_major && x.b_mn_major == y.b_mn_major && x.accumulate == y.accumulate;
}

static void join(Warpgroup& g, float* d, const Wgmma& op) {
    const int t = current().index % WARPGROUP;
    if (!(g.fenced >> t / WARP & 1))
        fail("wgmma without wgmma.fence: since the last wait nothing orders the warp's registers before it");
    if (!g.building) {
        g.building = std::make_unique<WgmmaTask>();
        g.building->op = op;
        for (auto& acc : g.active)
            if (acc->registers[t] == d) g.building->d = acc;
        if (!g.building->d) {
            g.building->d = std::make_shared<Accumulator>();
            g.building->d->n = op.n;
            g.building->d->value.resize(64 * op.n);
        }
    }
    WgmmaTask& task = *g.building;
    Accumulator& acc = *task.d;
    if (!same_operands(op, task.op)) fail("wgmma: shape or descriptors differ across the warpgroup");
    if (acc.n != op.n) fail("wgmma: n is %d where the accumulator still has one of %d under way", op.n, acc.n);
    if (op.a) std::copy(op.a, op.a + 4, task.a[t].begin());
    if (acc.pending) {
        if (acc.registers[t] != d) fail("wgmma: accumulators differ across the warpgroup");
        return;
    }
    acc.registers[t] = d;
    for (int i = 0; i < acc.n / 2; i++) {
        acc.value[row_of(t, i) * acc.n + column_of(t, i)] = d[i];
        if (!options.early) d[i] = bits_float(POISON);
    }
}

void wgmma(float* d, const Wgmma& op) {
    EMU_ENTER();
    const int t = current().index % WARPGROUP;
    warpgroup("wgmma");
    if constexpr (CHECKING) check_operands(op, t);
    gather(
        "wgmma", [&](Warpgroup& g) { join(g, d, op); },
        [](Warpgroup& g) {
            WgmmaTask& task = *g.building;
            if (!task.d->pending++) g.active.push_back(task.d);
            if constexpr (CHECKING) hold_operands(task.op, 1);
            if (options.early) {
                execute(task);
                put_back(*task.d);
            }
            g.tasks.open.push_back(std::move(task));
            g.building.reset();
            return true;
        });
}

void wgmma_fence() {
    EMU_ENTER();
    warpgroup("wgmma.fence").fenced |= 1u << current().index % WARPGROUP / WARP;
}

void wgmma_commit() {
    EMU_ENTER();
    gather("wgmma.commit_group", [](Warpgroup&) {}, [](Warpgroup& g) {
        g.tasks.commit();
        return true;
    });
}

static void finish(Warpgroup& g) {
    for (; int(g.tasks.committed.size()) > g.keep; g.tasks.committed.pop_front())
        for (WgmmaTask& task : g.tasks.committed.front()) {
            if constexpr (CHECKING) hold_operands(task.op, -1);
            if (!options.early) execute(task);
            if (--task.d->pending) continue;
            if (!options.early) put_back(*task.d);
            g.active.erase(std::find(g.active.begin(), g.active.end(), task.d));
        }
    g.keep = -1;
}

bool finish_wgmma() {
    for (Warpgroup& g : block->warpgroups)
        if (g.keep >= 0) {
            finish(g);
            wake(g.waiting);
            return true;
        }
    return false;
}

// The products are done when no other thread of the block can run: whoever may already overwrite their operands has done so.
void wgmma_wait(int keep) {
    EMU_ENTER();
    warpgroup("wgmma.wait_group").fenced = 0;
    gather("wgmma.wait_group", [](Warpgroup&) {}, [=](Warpgroup& g) {
        g.keep = keep;
        if (options.early) finish(g);
        return options.early;
    });
}

void check_wgmma(Fiber& t) {
    Warpgroup& g = block->warpgroups[t.index / WARPGROUP];
    if (g.building) fail("divergence: thread %d ends while others of its warpgroup wait in wgmma", t.index);
    if (!g.tasks.open.empty()) fail("the thread ends with wgmmas that were never committed");
    if (!g.tasks.committed.empty()) fail("the thread ends with wgmmas that it never waited for");
}

}  // namespace emu
