// cp.async: copies of one thread that land when it waits for their group, the last moment the program allows.
#include "block.h"
#include "checker.h"

namespace emu {

static void land(const CpAsync& c) {
    if constexpr (CHECKING) {
        const void* caller = current().caller;
        check::in_flight(c.dst, 16, false);
        if (c.bytes) check::access(c.src, c.bytes, false, caller);
        check::access(c.dst, 16, true, caller);
    }
    memcpy(c.dst, c.src, c.bytes);
    memset(c.dst + c.bytes, 0, 16 - c.bytes);
}

void cp_async16(uint32_t dst, const void* src, int bytes) {
    EMU_ENTER();
    preempt();
    if (bytes < 0 || bytes > 16) fail("cp.async of %d bytes, 0 to 16 are possible", bytes);
    if (dst % 16 || reinterpret_cast<uintptr_t>(src) % 16) fail("cp.async: %#x or %p is not 16-byte aligned", dst, src);
    const CpAsync c{shared_pointer(dst, 16, "cp.async"), static_cast<const char*>(src), bytes};
    if constexpr (CHECKING) {
        const void* caller = current().caller;
        if (bytes) check::access(src, bytes, false, caller);
        check::access(c.dst, 16, true, caller);
        check::in_flight(c.dst, 16, true);
    }
    if (options.early) {
        memcpy(c.dst, c.src, c.bytes);
        memset(c.dst + c.bytes, 0, 16 - c.bytes);
    } else {
        memset(c.dst, 0xff, 16);
    }
    current().copies.open.push_back(c);
}

void cp_async_commit() {
    EMU_ENTER();
    current().copies.commit();
}

void cp_async_wait(int keep) {
    EMU_ENTER();
    auto& groups = current().copies.committed;
    for (; int(groups.size()) > keep; groups.pop_front())
        for (const CpAsync& c : groups.front()) land(c);
    preempt();
}

void check_copies(Fiber& t) {
    if (!t.copies.open.empty()) fail("the thread ends with cp.async copies that were never committed");
    for (const auto& group : t.copies.committed)
        if (!group.empty()) fail("the thread ends with cp.async copies that it never waited for");
}

}  // namespace emu
