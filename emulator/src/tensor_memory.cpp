// mbarriers and TMA: tiles between global and shared memory by tensor map, with swizzles, zero fill, clipping and addition.
//
// A load lands when a thread waits for its mbarrier and no thread can run, the last moment the program allows; a store reads its
// source and writes its destination when the thread waits for either.
#include "block.h"
#include "checker.h"

#include <algorithm>
#include <mutex>

namespace emu {

size_t element_size(TensorType type) {
    switch (type) {
        case TensorType::U8: return 1;
        case TensorType::U16:
        case TensorType::F16:
        case TensorType::BF16: return 2;
        default: return 4;
    }
}

// ---- mbarriers ----

// The state is kept beside the 8 bytes; these hold a pattern that ordinary stores would break.
static uint64_t pattern(uint32_t address) { return 0x6d62617272000000 | address; }

static MBarrier& mbarrier(uint32_t address, const char* op) {
    if (address % 8) fail("%s: address %#x is not 8-byte aligned", op, address);
    char* p = shared_pointer(address, 8, op);
    for (MBarrier& m : block->mbarriers) {
        if (m.address != address) continue;
        uint64_t bytes;
        memcpy(&bytes, p, 8);
        if (bytes != pattern(address)) fail("%s: the mbarrier at %#x was overwritten by ordinary stores", op, address);
        if constexpr (CHECKING) check::access(p, 8, false, current().caller);
        return m;
    }
    fail("%s: the mbarrier at %#x was never initialised", op, address);
}

static void complete_if_done(MBarrier& m) {
    if (m.pending || m.bytes) return;
    m.phase++;
    m.pending = m.count;
    flip(&m.address);
    wake(m.waiting);
    progress();
}

void mbarrier_init(uint32_t bar, uint32_t count) {
    EMU_ENTER();
    if (bar % 8) fail("mbarrier.init: address %#x is not 8-byte aligned", bar);
    if (!count || count >= 1u << 20) fail("mbarrier.init: count %u, expected 1 to 2^20 - 1", count);
    char* p = shared_pointer(bar, 8, "mbarrier.init");
    if constexpr (CHECKING) check::access(p, 8, true, current().caller);
    const uint64_t bytes = pattern(bar);
    memcpy(p, &bytes, 8);
    auto& all = block->mbarriers;
    if (all.capacity() < 512) all.reserve(512);  // their addresses are keys of the checker
    for (MBarrier& m : all)
        if (m.address == bar) {
            if (m.waiting.warps) fail("mbarrier.init: threads wait for the mbarrier at %#x", bar);
            m.count = m.pending = count, m.bytes = 0, m.phase = 0;
            return;
        }
    if (all.size() == 512) fail("mbarrier.init: more than 512 mbarriers in a block");
    MBarrier m{};
    m.address = bar;
    m.count = m.pending = count;
    all.push_back(m);
}

void mbarrier_arrive(uint32_t bar, uint32_t expect_bytes) {
    EMU_ENTER();
    preempt();
    MBarrier& m = mbarrier(bar, "mbarrier.arrive");
    if (!m.pending) fail("mbarrier.arrive: more arrivals at %#x than its count %u", bar, m.count);
    if (expect_bytes >= 1u << 20) fail("mbarrier.arrive: %u bytes expected, fewer than 2^20 are possible", expect_bytes);
    m.bytes += expect_bytes;
    release(&m.address);
    m.pending--;
    complete_if_done(m);
    progress();
}

void mbarrier_wait(uint32_t bar, uint32_t parity) {
    EMU_ENTER();
    preempt();
    MBarrier& m = mbarrier(bar, "mbarrier.try_wait");
    while ((m.phase & 1) == (parity & 1)) {
        m.waiting.add(current().index);
        park("mbarrier.try_wait");
    }
    acquire(&m.address);
}

void fence_proxy_async() {
    EMU_ENTER();
    if constexpr (CHECKING) check::fence_proxy_async();
}

// ---- Tiles ----

static TensorMapImage tensor_map(const void* map, int rank, const char* op) {
    TensorMapImage m;
    if (reinterpret_cast<uintptr_t>(map) % 64) fail("%s: the tensor map at %p is not 64-byte aligned", op, map);
    memcpy(&m, map, sizeof m);
    if (m.magic != TENSOR_MAP_MAGIC) fail("%s: this is no tensor map made by cuTensorMapEncodeTiled", op);
    if (m.rank != rank) fail("%s: the tensor map has %d dimensions, the instruction %d", op, m.rank, rank);
    const size_t row = m.box[0] * element_size(m.type);
    if (m.swizzle && row != size_t(16) << m.swizzle)
        fail("%s: the box is %zu bytes wide, the swizzle %d: make them equal", op, row, 16 << m.swizzle);
    return m;
}

static size_t row_bytes(const TensorMapImage& m) { return m.box[0] * element_size(m.type); }
static size_t tile_bytes(const TensorMapImage& m) {
    size_t n = row_bytes(m);
    for (int i = 1; i < m.rank; i++) n *= m.box[i];
    return n;
}

static char* tile_pointer(const TensorMapImage& m, uint32_t address, const char* op) {
    const uint32_t align = m.swizzle ? 128u << m.swizzle : 128;
    if (address % align) fail("%s: shared address %#x must be %u-byte aligned for this tensor map", op, address, align);
    return shared_pointer(address, tile_bytes(m), op);
}

// visit(row in the tile, first valid byte, end of the valid bytes, address of the tile's first column in global memory) for every
// row of the tile; a row outside the tensor has no valid bytes.
template <class Visit> static void for_rows(const TensorMapImage& m, const int* at, Visit visit) {
    const int64_t size = int64_t(element_size(m.type));
    const int64_t first = std::clamp<int64_t>(-int64_t(at[0]), 0, m.box[0]);
    const int64_t end = std::clamp<int64_t>(int64_t(m.dim[0]) - at[0], first, m.box[0]);
    size_t row = 0;
    for (int z = 0; z < (m.rank > 2 ? m.box[2] : 1); z++)
        for (int y = 0; y < (m.rank > 1 ? m.box[1] : 1); y++) {
            int64_t offset = at[0] * size;
            bool inside = true;
            const int position[] = {0, y, z};
            for (int i = 1; i < m.rank; i++) {
                const int64_t p = int64_t(at[i]) + position[i];
                inside &= p >= 0 && p < int64_t(m.dim[i]);
                offset += p * int64_t(m.stride[i - 1]);
            }
            const bool any = inside && first < end;
            visit(row++, any ? size_t(first * size) : 0, any ? size_t(end * size) : 0, reinterpret_cast<char*>(m.base + offset));
        }
}

// Copies between a row of the tile in shared memory, 16 bytes at a time through the swizzle, and a plain buffer.
template <bool TO_SHARED> static void move_row(const TensorMapImage& m, uint32_t tile, size_t row, char* plain) {
    const uint32_t at = uint32_t(tile + row * row_bytes(m));
    for (uint32_t i = 0; i < row_bytes(m); i += 16) {
        char* p = block->shared + (swizzle(at + i, m.swizzle) - SHARED_BASE);
        TO_SHARED ? memcpy(p, plain + i, 16) : memcpy(plain + i, p, 16);
    }
}

static void land(const BulkLoad& l) {
    for_rows(l.map, l.at, [&](size_t row, size_t first, size_t end, char* from) {
        char buffer[1024] = {};
        if (first < end) memcpy(buffer + first, from + first, end - first);
        move_row<true>(l.map, l.dst, row, buffer);
    });
    const size_t n = tile_bytes(l.map);
    MBarrier* bar = nullptr;
    for (MBarrier& m : block->mbarriers)
        if (m.address == l.bar) bar = &m;
    if constexpr (CHECKING) check::load_landed(block->shared + (l.dst - SHARED_BASE), n, &bar->address, l.ticket);
    bar->bytes -= int64_t(n);
    complete_if_done(*bar);
}

bool land_load(bool awaited) {
    auto& loads = block->loads;
    if (loads.empty()) return false;
    size_t start = options.seed ? random_bits() % loads.size() : 0;
    for (size_t k = 0; k < loads.size(); k++) {
        const size_t i = (start + k) % loads.size();
        bool wanted = !awaited;
        for (const MBarrier& m : block->mbarriers) wanted |= m.address == loads[i].bar && m.waiting.warps;
        if (!wanted) continue;
        const BulkLoad l = loads[i];
        loads.erase(loads.begin() + ptrdiff_t(i));
        land(l);
        return true;
    }
    return false;
}

void check_loads() {
    if (!block->loads.empty()) fail("the block ends while a TMA load into its shared memory is in flight: no one waited for it");
}

void tma_load(uint32_t dst, const void* map, int rank, const int* at, uint32_t bar) {
    EMU_ENTER();
    preempt();
    BulkLoad l{tensor_map(map, rank, "TMA load"), {}, dst, bar, 0};
    std::copy(at, at + rank, l.at);
    char* p = tile_pointer(l.map, dst, "TMA load");
    MBarrier& m = mbarrier(bar, "TMA load");
    const size_t n = tile_bytes(l.map);
    if constexpr (CHECKING) {
        const void* caller = current().caller;
        check::async_read(shared_pointer(bar, 8, "TMA load"), 8, "TMA's use of the mbarrier in");
        for_rows(l.map, l.at, [&](size_t, size_t first, size_t end, char* from) {
            if (first < end) check::access(from + first, end - first, false, caller);
        });
        check::access(p, n, true, caller);
        check::in_flight(p, n, true);
        release(&m.address);
        l.ticket = check::load_issued();
    }
    if (options.early) {
        land(l);
    } else {
        memset(p, 0xff, n);
        block->loads.push_back(l);
    }
}

// ---- Stores ----

static void read_source(BulkStore& s) {
    if (!s.data.empty()) return;
    const size_t n = tile_bytes(s.map), row = row_bytes(s.map);
    s.data.resize(n);
    const uint32_t tile = shared_address(s.src);
    for (size_t r = 0; r < n / row; r++) move_row<false>(s.map, tile, r, s.data.data() + r * row);
}

template <class T> static void add_row(char* to, const char* from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += sizeof(T)) {
        T a, b;
        memcpy(&a, to + i, sizeof a);
        memcpy(&b, from + i, sizeof b);
        a = T(float(a) + float(b));
        memcpy(to + i, &a, sizeof a);
    }
}

static void write_destination(BulkStore& s) {
    if (s.done) return;
    s.done = true;
    // Additions of several blocks to one place must not lose any; their order is the kernel's problem.
    static std::mutex additions;
    std::unique_lock<std::mutex> hold(additions, std::defer_lock);
    if (s.add) hold.lock();
    for_rows(s.map, s.at, [&](size_t row, size_t first, size_t end, char* to) {
        if (first == end) return;
        const char* from = s.data.data() + row * row_bytes(s.map) + first;
        to += first;
        const size_t n = end - first;
        if (!s.add)
            memcpy(to, from, n);
        else if (s.map.type == TensorType::F32)
            add_row<float>(to, from, n);
        else if (s.map.type == TensorType::BF16)
            add_row<__nv_bfloat16>(to, from, n);
        else
            add_row<__half>(to, from, n);
    });
}

static void check_destination(const BulkStore& s) {
    if constexpr (CHECKING) {
        const void* caller = current().caller;
        for_rows(s.map, s.at, [&](size_t, size_t first, size_t end, char* to) {
            if (first == end) return;
            if (s.add) check::atomic(to + first, end - first, false, caller);
            if (s.add)
                check::atomic(to + first, end - first, true, caller);
            else
                check::access(to + first, end - first, true, caller);
        });
    }
}

void tma_store(const void* map, uint32_t src, int rank, const int* at, bool add) {
    EMU_ENTER();
    preempt();
    const char* op = add ? "TMA reduce-add" : "TMA store";
    BulkStore s{};
    s.map = tensor_map(map, rank, op);
    s.add = add;
    std::copy(at, at + rank, s.at);
    s.src = tile_pointer(s.map, src, op);
    if (add && s.map.type != TensorType::F32 && s.map.type != TensorType::BF16 && s.map.type != TensorType::F16)
        fail("TMA reduce-add: the tensor map's elements are integers, expected f32, bf16 or f16");
    if constexpr (CHECKING) {
        check::async_read(s.src, tile_bytes(s.map), add ? "TMA reduce-add's read of" : "TMA store's read of");
        check::hold(s.src, tile_bytes(s.map), 1);
    }
    check_destination(s);
    if (options.early) {
        read_source(s);
        write_destination(s);
    }
    current().stores.open.push_back(std::move(s));
}

void tma_store_commit() {
    EMU_ENTER();
    current().stores.commit();
}

void tma_store_wait(int keep, bool read_only) {
    EMU_ENTER();
    auto& groups = current().stores.committed;
    if (int(groups.size()) > keep && !options.early) run_others();
    for (int i = 0; i < int(groups.size()) - keep; i++)
        for (BulkStore& s : groups[i]) {
            read_source(s);
            if constexpr (CHECKING)
                if (s.src) check::hold(s.src, tile_bytes(s.map), -1);
            s.src = nullptr;
        }
    if (read_only) return;
    for (; int(groups.size()) > keep; groups.pop_front())
        for (BulkStore& s : groups.front()) {
            check_destination(s);
            write_destination(s);
        }
}

void check_stores(Fiber& t) {
    if (!t.stores.open.empty()) fail("the thread ends with TMA stores that were never committed");
    for (auto& group : t.stores.committed)
        for (BulkStore& s : group) {
            if (s.src) fail("the thread ends with a TMA store whose shared memory may still be read: it never waited for it");
            write_destination(s);
        }
}

}  // namespace emu
