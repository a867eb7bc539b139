// The memory and race checker. Kernels are compiled with -fsanitize=thread, but the hooks that the compiler calls are these: they
// know the live allocations, which bytes are initialised, and what orders threads in CUDA.
//
// Every two bytes of shared and device memory have a cell: who wrote last and when, two readers since, and flags. "When" is the
// thread's clock; each thread has a vector of how much of every other thread's past is in its own past, joined where barriers,
// collectives, mbarriers and atomics order them. An access is a race if a conflicting one is not in the thread's past.
#include "checker.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include <sys/mman.h>

namespace emu {

#ifndef EMU_CHECK

void dev_region(void*, size_t) {}
void dev_range(void*, size_t, bool) {}
void dev_init(const void*, size_t) {}
void dev_copy(void*, const void*, size_t) {}
std::string dev_check(const void*, size_t) { return ""; }

#else

namespace {

enum : uint8_t {
    VALID = 1,       // inside an array of shared memory (first byte, second byte: << 1)
    INIT = 4,        // written by anyone (first byte, second byte: << 1)
    IN_FLIGHT = 16,  // an asynchronous copy will write
    GENERIC = 32,    // last written by an ordinary store, which the async proxy sees only after a fence
    ATOMIC = 64,     // last written by an atomic operation
};
struct Cell {
    uint32_t write_clock, read_clock[2];
    uint32_t write_block, read_block;  // device memory only
    uint16_t writer, reader[2];
    uint8_t flags;
    uint8_t held;  // operations of the async proxy that still read
};

using Clocks = std::vector<uint32_t>;

// What a block had in its past when it released something to later blocks.
struct Snapshot {
    uint32_t block;
    Clocks clocks;
    std::vector<std::shared_ptr<Snapshot>> earlier;  // of other blocks, in its past
};
struct Acquired {
    std::shared_ptr<Snapshot> snapshot;
    int thread;  // who acquired it, and when
    uint32_t clock;
};
struct Sync {
    Clocks pending, complete;
};
struct Allocation {
    char* p;
    size_t bytes;
    Cell* cells;
};

// One grid runs at a time and its blocks one after another: plain globals.
int threads;              // of a block; also the index of the copy engine
char* shared;
size_t shared_high;       // end of the cells that the last block may have used
std::vector<Cell> shared_cells(SHARED_BYTES / 2);
uint32_t block_number, first_block;  // counting through all grids; first of this grid
std::vector<Clocks> past;            // of each thread
Clocks floor_clocks;                 // in everyone's past, from __syncthreads
Clocks fenced;                       // clock of each thread at its last fence.proxy.async
Clocks published;                    // of each thread: what a __threadfence of a thread that knew of it has published
std::unordered_map<const void*, Sync> syncs;
std::unordered_map<const void*, std::vector<std::shared_ptr<Snapshot>>> snapshots;
std::unordered_map<uint32_t, std::vector<Acquired>> acquired;  // by the block that released
char* region;
size_t region_bytes;
std::map<char*, Allocation> allocations;
Allocation* recent[4];
unsigned recent_at;

bool in_shared(const void* p) { return size_t(static_cast<const char*>(p) - shared) < SHARED_BYTES; }
Cell* shared_cell(const void* p) { return &shared_cells[(static_cast<const char*>(p) - shared) / 2]; }

Allocation* find(const char* p) {
    for (Allocation* a : recent)
        if (a && size_t(p - a->p) < a->bytes) return a;
    auto it = allocations.upper_bound(const_cast<char*>(p));
    if (it == allocations.begin() || size_t(p - (--it)->second.p) >= it->second.bytes) return nullptr;
    return recent[recent_at++ % 4] = &it->second;
}

[[noreturn]] void report(const char* what, const char* p, const void* caller, const std::string& more = "") {
    current().caller = caller;
    char at[160];
    if (in_shared(p)) {
        snprintf(at, sizeof at, "shared memory, offset %zu", size_t(p - shared));
    } else {
        auto it = allocations.upper_bound(const_cast<char*>(p));
        if (it == allocations.begin()) {
            snprintf(at, sizeof at, "device memory at %p, before every allocation", static_cast<const void*>(p));
        } else {
            --it;
            snprintf(at, sizeof at, "device memory, %zu bytes into a %zu-byte allocation", size_t(p - it->first),
                     it->second.bytes);
        }
    }
    fail("%s %s%s%s", what, at, more.empty() ? "" : ": ", more.c_str());
}

bool in_past(const Clocks& mine, uint32_t thread, uint32_t clock) {
    return clock <= floor_clocks[thread] || clock <= mine[thread];
}

// Whether what thread `thread` of block `other` did at `clock` is in the current thread's past.
bool block_in_past(const Clocks& mine, uint32_t other, uint32_t thread, uint32_t clock) {
    if (other < first_block) return true;
    auto it = acquired.find(other);
    if (it == acquired.end()) return false;
    for (const Acquired& a : it->second) {
        const Clocks& released = a.snapshot->clocks;
        if (in_past(mine, uint32_t(a.thread), a.clock) && thread < released.size() && clock <= released[thread]) return true;
    }
    return false;
}

std::string by(uint32_t thread, bool same_block) {
    if (int(thread) == threads) return "the TMA engine (wait for its mbarrier)";
    const std::string who = "thread " + std::to_string(thread);
    return who + (same_block ? "" : " of another block");
}

enum class How { READ, WRITE, ATOMIC_READ, ATOMIC_WRITE };

void check_cells(Cell* c, const char* p, size_t bytes, How how, bool device, const void* caller) {
    const bool write = how == How::WRITE || how == How::ATOMIC_WRITE, atomic = how >= How::ATOMIC_READ;
    const uint32_t me = uint32_t(current().index);
    Clocks& mine = past[me];
    const size_t odd = reinterpret_cast<uintptr_t>(p) & 1;
    const char* at = p - odd;
    Cell* end = c + (odd + bytes + 1) / 2;
    for (; c < end; c++, at += 2) {
        uint8_t need = 3;
        if (at < p) need &= 2;
        if (at + 1 >= p + bytes) need &= 1;
        if (!device && (c->flags & need) != need) report(write ? "out-of-bounds write to" : "out-of-bounds read of", at, caller);
        if (c->flags & IN_FLIGHT)
            report(write ? "write to" : "read of", at, caller, "an asynchronous copy into these bytes is still in flight");
        if (write && c->held) report("write to", at, caller, "a wgmma or TMA store still reads these bytes");
        if (!write && (c->flags & need * INIT) != need * INIT) report("read of uninitialised", at, caller);
        if (c->write_clock && !(atomic && c->flags & ATOMIC)) {
            const bool same = !device || c->write_block == block_number;
            if (same ? c->writer != me && !in_past(mine, c->writer, c->write_clock)
                     : !block_in_past(mine, c->write_block, c->writer, c->write_clock))
                report(write ? "write to" : "read of", at, caller, "race with a write by " + by(c->writer, same));
        }
        if (!write) {
            if (atomic) continue;
            if (device && c->read_block != block_number) c->read_clock[0] = c->read_clock[1] = 0, c->read_block = block_number;
            const bool first = !c->read_clock[0] || c->reader[0] == me || in_past(mine, c->reader[0], c->read_clock[0]);
            c->reader[!first] = uint16_t(me);
            c->read_clock[!first] = mine[me];
            continue;
        }
        for (int i = 0; i < 2; i++) {
            if (!c->read_clock[i]) continue;
            const bool same = !device || c->read_block == block_number;
            if (same ? c->reader[i] != me && !in_past(mine, c->reader[i], c->read_clock[i])
                     : !block_in_past(mine, c->read_block, c->reader[i], c->read_clock[i]))
                report("write to", at, caller, "race with a read by " + by(c->reader[i], same));
        }
        c->writer = uint16_t(me);
        c->write_clock = mine[me];
        c->write_block = block_number;
        c->read_clock[0] = c->read_clock[1] = 0;
        c->flags = uint8_t((c->flags & ~ATOMIC) | need * INIT | GENERIC | (atomic ? ATOMIC : 0));
    }
}

void access_as(const void* address, size_t bytes, How how, const void* caller) {
    const char* p = static_cast<const char*>(address);
    const bool write = how == How::WRITE || how == How::ATOMIC_WRITE;
    if (in_shared(p)) {
        check_cells(shared_cell(p), p, bytes, how, false, caller);
    } else if (size_t(p - region) < region_bytes) {
        Allocation* a = find(p);
        if (!a || p + bytes > a->p + a->bytes)
            report(write ? "out-of-bounds write to" : "out-of-bounds read of", a ? a->p + a->bytes : p, caller);
        check_cells(a->cells + (p - a->p) / 2, p, bytes, how, true, caller);
    }
}

__attribute__((target_clones("avx2", "default"))) void raise(uint32_t* to, const uint32_t* from, size_t n) {
    for (size_t i = 0; i < n; i++) to[i] = to[i] < from[i] ? from[i] : to[i];
}
void raise(Clocks& to, const Clocks& from) {
    if (to.size() < from.size()) to.resize(from.size());
    raise(to.data(), from.data(), from.size());
}

}  // namespace

namespace check {

void begin_grid(int count) {
    threads = count;
    first_block = block_number + 1;
    past.resize(count);
    snapshots.clear();
}

void begin_block(size_t dynamic_bytes) {
    block_number++;
    shared = block->shared;
    std::fill(shared_cells.begin(), shared_cells.begin() + ptrdiff_t(shared_high / 2), Cell{});
    shared_high = 0;
    shared_array(shared, dynamic_bytes);
    floor_clocks.assign(threads + 1, 0);
    fenced.assign(threads, 0);
    published.assign(threads + 1, 0);
    for (int t = 0; t < threads; t++) {
        past[t].assign(threads + 1, 0);
        past[t][t] = 1;
    }
    syncs.clear();
    acquired.clear();
}

void shared_array(const void* p, size_t bytes) {
    const size_t at = size_t(static_cast<const char*>(p) - shared);  // even
    for (size_t i = 0; i < bytes; i += 2) shared_cells[(at + i) / 2].flags |= i + 1 < bytes ? 3 * VALID : VALID;
    shared_high = std::max(shared_high, (at + bytes + 2) & ~size_t(1));
}

void access(const void* p, size_t bytes, bool write, const void* caller) {
    access_as(p, bytes, write ? How::WRITE : How::READ, caller);
}
void atomic(const void* p, size_t bytes, bool write, const void* caller) {
    access_as(p, bytes, write ? How::ATOMIC_WRITE : How::ATOMIC_READ, caller);
}

void release(const void* key) {
    const int me = current().index;
    raise(syncs[key].pending, past[me]);
    past[me][me]++;
}
void flip(const void* key) {
    Sync& s = syncs[key];
    raise(s.complete, s.pending);
    std::fill(s.pending.begin(), s.pending.end(), 0);
}
void acquire(const void* key) {
    auto it = syncs.find(key);
    if (it != syncs.end()) raise(past[current().index], it->second.complete);
}

void whole_block() {
    for (int t = 0; t < threads; t++) floor_clocks[t] = past[t][t]++;
}

// A fence publishes all that is in its thread's past. Any thread that then knows of it, through a barrier, may release it.
void thread_fence() {
    const int me = current().index;
    for (int t = 0; t < threads; t++) published[t] = std::max({published[t], past[me][t], floor_clocks[t]});
    past[me][me]++;
}

void release_atomic(const void* p, bool all) {
    const int me = current().index;
    auto& list = snapshots[p];
    if (list.empty() || list.back()->block != block_number) {
        list.push_back(std::make_shared<Snapshot>());
        list.back()->block = block_number;
    }
    Snapshot& s = *list.back();
    Clocks mine = past[me];
    raise(mine, floor_clocks);
    if (!all)
        for (int t = 0; t < threads; t++) mine[t] = std::min(mine[t], published[t]);
    raise(s.clocks, mine);
    for (const auto& [number, known] : acquired)
        for (const Acquired& a : known)
            if (in_past(past[me], uint32_t(a.thread), a.clock) &&
                std::find(s.earlier.begin(), s.earlier.end(), a.snapshot) == s.earlier.end())
                s.earlier.push_back(a.snapshot);
    release(p);
    flip(p);
}

void acquire_atomic(const void* p) {
    acquire(p);
    auto it = snapshots.find(p);
    if (it == snapshots.end()) return;
    const int me = current().index;
    auto learn = [&](const std::shared_ptr<Snapshot>& s) {
        if (s->block == block_number) return;
        auto& known = acquired[s->block];
        for (const Acquired& a : known)
            if (a.snapshot == s && a.thread == me) return;
        known.push_back({s, me, past[me][me]});
    };
    for (const auto& s : it->second) {
        learn(s);
        for (const auto& earlier : s->earlier) learn(earlier);
    }
}

void in_flight(const void* p, size_t bytes, bool on) {
    Cell* c = shared_cell(p);
    for (size_t i = 0; i < bytes / 2; i++) on ? c[i].flags |= IN_FLIGHT : c[i].flags &= uint8_t(~IN_FLIGHT);
}

// The engine's clock counts loads; a mbarrier that completes after a load carries its number.
uint32_t load_issued() {
    static uint32_t tickets = 0;
    return ++tickets;
}
void load_landed(const void* p, size_t bytes, const void* mbarrier, uint32_t ticket) {
    Cell* c = shared_cell(p);
    for (size_t i = 0; i < bytes / 2; i++) {
        if (c[i].held)
            report("TMA load into", static_cast<const char*>(p) + 2 * i, nullptr, "a wgmma or TMA store still reads these bytes");
        c[i].writer = uint16_t(threads);
        c[i].write_clock = ticket;
        c[i].read_clock[0] = c[i].read_clock[1] = 0;
        c[i].flags = VALID * 3 | INIT * 3;
    }
    Clocks& pending = syncs[mbarrier].pending;
    pending.resize(threads + 1);
    pending[threads] = std::max(pending[threads], ticket);
}

void fence_proxy_async() {
    const int me = current().index;
    fenced[me] = past[me][me]++;
}

void async_read(const void* p, size_t bytes, const char* what) {
    const void* caller = current().caller;
    const char* at = static_cast<const char*>(p);
    access(p, bytes, false, caller);
    Cell* c = shared_cell(p);
    for (size_t i = 0; i < bytes / 2; i++)
        if (c[i].flags & GENERIC && c[i].write_clock > fenced[c[i].writer])
            report(what, at + 2 * i, caller,
                   "thread " + std::to_string(c[i].writer) +
                       " wrote these bytes with ordinary stores and without a fence.proxy.async after");
}

void hold(const void* p, size_t bytes, int change) {
    Cell* c = shared_cell(p);
    for (size_t i = 0; i < bytes / 2; i++) c[i].held = uint8_t(c[i].held + change);
}

}  // namespace check

// ---- Device memory ----

void dev_region(void* base, size_t bytes) {
    region = static_cast<char*>(base);
    region_bytes = bytes;
}

static size_t cells_bytes(size_t bytes) { return (bytes + 1) / 2 * sizeof(Cell); }

void dev_range(void* p, size_t bytes, bool live) {
    char* at = static_cast<char*>(p);
    std::fill(std::begin(recent), std::end(recent), nullptr);
    if (auto it = allocations.find(at); it != allocations.end()) {
        munmap(it->second.cells, cells_bytes(it->second.bytes));
        allocations.erase(it);
    }
    if (!live || !bytes) return;
    // Untouched cells cost no memory.
    void* cells = mmap(nullptr, cells_bytes(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    allocations[at] = {at, bytes, static_cast<Cell*>(cells)};
}

// visit(cell, INIT bits of the cell's bytes that are in the range).
template <class Visit> static void for_cells(const void* p, size_t bytes, Visit visit) {
    const char* at = static_cast<const char*>(p);
    Allocation* a = find(at);
    if (!a) return;
    const size_t first = size_t(at - a->p), end = std::min(first + bytes, a->bytes);
    for (size_t i = first & ~size_t(1); i < end; i += 2)
        visit(a->cells[i / 2], uint8_t(((i >= first ? 1 : 0) | (i + 1 < end ? 2 : 0)) * INIT));
}

void dev_init(const void* p, size_t bytes) {
    for_cells(p, bytes, [](Cell& c, uint8_t init) {
        const uint8_t before = c.flags;
        c = {};
        c.flags = uint8_t((before & 3 * INIT) | init);
    });
}

void dev_copy(void* dst, const void* src, size_t bytes) {
    std::vector<bool> init(bytes);
    const char* from = static_cast<const char*>(src);
    if (Allocation* a = find(from))
        for (size_t i = 0; i < bytes && from + i < a->p + a->bytes; i++) {
            const size_t at = size_t(from - a->p) + i;
            init[i] = a->cells[at / 2].flags & INIT << (at & 1);
        }
    dev_init(dst, bytes);
    char* to = static_cast<char*>(dst);
    if (Allocation* a = find(to))
        for (size_t i = 0; i < bytes && to + i < a->p + a->bytes; i++) {
            const size_t at = size_t(to - a->p) + i;
            if (!init[i]) a->cells[at / 2].flags &= uint8_t(~(INIT << (at & 1)));
        }
}

std::string dev_check(const void* p, size_t bytes) {
    const char* at = static_cast<const char*>(p);
    if (!bytes) return "";
    Allocation* a = find(at);
    if (!a || at + bytes > a->p + a->bytes) return "the range is not inside one live allocation";
    for (size_t i = 0; i < bytes; i++) {
        const size_t o = size_t(at - a->p) + i;
        if (!(a->cells[o / 2].flags & INIT << (o & 1)))
            return "byte " + std::to_string(i) + " of " + std::to_string(bytes) + " was never written (" + std::to_string(o) +
                   " bytes into a " + std::to_string(a->bytes) + "-byte allocation)";
    }
    return "";
}

// ---- The compiler's hooks ----

// Vector types promise their alignment; hardware faults where x86 does not.
template <size_t N> static inline void hook(const void* p, bool write, const void* caller, bool aligned) {
    if (!self) return;
    const bool on_device = size_t(static_cast<const char*>(p) - region) < region_bytes;
    if (!on_device && !in_shared(p)) return;
    if (aligned && reinterpret_cast<uintptr_t>(p) % N) report("misaligned access to", static_cast<const char*>(p), caller);
    check::access(p, N, write, caller);
}

#endif

}  // namespace emu

#ifdef EMU_CHECK
#define EMU_HOOKS(N)                                                                                                           \
    void __tsan_read##N(void* p) { emu::hook<N>(p, false, __builtin_return_address(0), true); }                                \
    void __tsan_write##N(void* p) { emu::hook<N>(p, true, __builtin_return_address(0), true); }                                \
    void __tsan_unaligned_read##N(void* p) { emu::hook<N>(p, false, __builtin_return_address(0), false); }                     \
    void __tsan_unaligned_write##N(void* p) { emu::hook<N>(p, true, __builtin_return_address(0), false); }                     \
    void __tsan_volatile_read##N(void* p) { emu::hook<N>(p, false, __builtin_return_address(0), true); }                       \
    void __tsan_volatile_write##N(void* p) { emu::hook<N>(p, true, __builtin_return_address(0), true); }                       \
    void __tsan_unaligned_volatile_read##N(void* p) { emu::hook<N>(p, false, __builtin_return_address(0), false); }            \
    void __tsan_unaligned_volatile_write##N(void* p) { emu::hook<N>(p, true, __builtin_return_address(0), false); }
extern "C" {
EMU_HOOKS(1)
EMU_HOOKS(2)
EMU_HOOKS(4)
EMU_HOOKS(8)
EMU_HOOKS(16)
void __tsan_read_range(void* p, unsigned long n) {
    if (emu::self && n) emu::check::access(p, n, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, unsigned long n) {
    if (emu::self && n) emu::check::access(p, n, true, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
#endif
