// Device and pinned host memory, copies and fills.
//
// Device memory lies in one reserved range of addresses. Every allocation has its own pages, with pages of no access
// between them, and starts at an address that is a multiple of 256 and of nothing more. New memory reads as 0xFF (NaN in
// every float type): pages come from a file of such bytes and are copied when first written. What surrounds an allocation
// within its pages is checked after each kernel; beyond, a kernel faults, which the core makes its error.
#include "driver.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace driver {

constexpr size_t PAGE = 4096;
constexpr size_t ALIGNMENT = 256;
constexpr size_t POISON_FILE = size_t(2) << 20;
constexpr unsigned char POISON = 0xff;

static char* region;  // all device addresses
static size_t region_bytes;
static char* cursor;  // where the next allocation looks for room

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static void* map(void* at, size_t bytes, int protection, int flags, int file) {
    void* p = mmap(at, bytes, protection, flags, file, 0);
    if (p == MAP_FAILED) {
        perror("emulated CUDA driver: mmap");
        abort();
    }
    return p;
}

// A file of poison that new pages are private copies of.
static int poison_file() {
    static int file = [] {
        int f = memfd_create("flanrt-emulator-poison", MFD_CLOEXEC);
        if (f < 0 || ftruncate(f, POISON_FILE)) abort();
        void* p = map(nullptr, POISON_FILE, PROT_READ | PROT_WRITE, MAP_SHARED, f);
        memset(p, POISON, POISON_FILE);
        munmap(p, POISON_FILE);
        return f;
    }();
    return file;
}

static void map_poison(char* pages, size_t span) {
    for (size_t at = 0; at < span; at += POISON_FILE)
        map(pages + at, std::min(POISON_FILE, span - at), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, poison_file());
}

static void reserve_region() {
    if (region) return;
    // Freed addresses are not given out again for a long time, so that their use after free is seen.
    region_bytes = round_up(std::max(state().settings.memory, size_t(1) << 30), PAGE) * 16;
    region = static_cast<char*>(map(nullptr, region_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1));
    cursor = region + PAGE;
    emu::dev_region(region, region_bytes);
}

static bool is_device(const void* p) {
    auto* c = static_cast<const char*>(p);
    return region && c >= region && c < region + region_bytes;
}

// Room for `span` bytes and a page of no access behind them, after the cursor, else from the start.
static char* find_room(size_t span) {
    for (char* from : {cursor, region + PAGE}) {
        char* at = from;
        for (auto it = state().memory.lower_bound(from);; ++it) {
            bool last = it == state().memory.end();
            char* limit = last ? region + region_bytes : it->second.pages;
            if (limit >= at && size_t(limit - at) >= span + PAGE) return at;
            if (last) break;
            at = it->second.pages + it->second.span + PAGE;
        }
    }
    return nullptr;
}

const Allocation* find_allocation(const void* address) {
    auto* p = static_cast<char*>(const_cast<void*>(address));
    auto it = state().memory.upper_bound(p);
    if (it == state().memory.begin()) return nullptr;
    const Allocation& a = std::prev(it)->second;
    return p <= a.start + a.bytes ? &a : nullptr;
}

// Where an address lies, for messages.
std::string describe(const void* address) {
    char text[160];
    auto* p = static_cast<char*>(const_cast<void*>(address));
    auto it = state().memory.upper_bound(p);
    if (!is_device(p)) {
        snprintf(text, sizeof text, "%p is not a device address", address);
    } else if (it == state().memory.begin() || p >= std::prev(it)->second.pages + std::prev(it)->second.span + PAGE) {
        snprintf(text, sizeof text, "%p was freed or never allocated", address);
    } else {
        const Allocation& a = std::prev(it)->second;
        snprintf(text, sizeof text, "%p is byte %zd of an allocation of %zu bytes", address, p - a.start, a.bytes);
    }
    return text;
}

static Result allocate(DevicePtr* address, size_t bytes, bool stream_ordered) {
    REQUIRE(address);
    if (!bytes) return refuse(INVALID_VALUE, "0 bytes; an allocation needs at least 1");
    reserve_region();
    State& s = state();
    // Frees that are queued give their memory back first, as the pools of the real driver do.
    if (bytes > s.settings.memory - s.used)
        if (Result result = drain_all()) return result;
    if (bytes > s.settings.memory - s.used) {
        s.last_code = OUT_OF_MEMORY;
        s.last_error = "out of device memory: " + std::to_string(bytes) + " bytes wanted, " +
                       std::to_string(s.settings.memory - s.used) + " of " + std::to_string(s.settings.memory) + " free";
        return OUT_OF_MEMORY;
    }
    // At least ALIGNMENT bytes of the pages remain on both sides of the allocation.
    size_t body = round_up(bytes, ALIGNMENT) + ALIGNMENT, span = round_up(body + ALIGNMENT, PAGE);
    char* pages = find_room(span);
    if (!pages) return refuse(OUT_OF_MEMORY, "no room for %zu bytes between the live allocations", bytes);
    map_poison(pages, span);
    Allocation a{pages + span - body, bytes, pages, span, stream_ordered};
    cursor = pages + span + PAGE;
    s.memory[a.start] = a;
    s.used += bytes;
    s.counts.allocations++;
    emu::dev_range(a.start, bytes, true);
    *address = reinterpret_cast<DevicePtr>(a.start);
    return SUCCESS;
}

static void unmap(const Allocation& a) {
    emu::dev_range(a.start, a.bytes, false);
    map(a.pages, a.span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1);
    state().used -= a.bytes;
}

static std::map<char*, Allocation>::iterator find_start(DevicePtr address) {
    return state().memory.find(reinterpret_cast<char*>(address));
}

static Result not_an_allocation(DevicePtr address) {
    return refuse(INVALID_VALUE, "not the start of a live allocation: %s", describe(reinterpret_cast<void*>(address)).c_str());
}

void release_memory() {
    for (auto& [start, a] : state().memory) unmap(a);
    state().memory.clear();
    for (auto& [start, bytes] : state().pinned) munmap(start, round_up(bytes, PAGE));
    state().pinned.clear();
}

Result check_guards(const char* kernel) {
    static const std::vector<unsigned char> clean(ALIGNMENT, POISON);
    for (auto& [start, a] : state().memory) {
        const char* end = a.start + a.bytes;
        if (memcmp(a.start - ALIGNMENT, clean.data(), ALIGNMENT))
            return broken(ILLEGAL_ADDRESS, "%s wrote before the start of an allocation of %zu bytes", kernel, a.bytes);
        if (memcmp(end, clean.data(), ALIGNMENT))
            return broken(ILLEGAL_ADDRESS, "%s wrote past the end of an allocation of %zu bytes", kernel, a.bytes);
    }
    return SUCCESS;
}

// ---- copies ----

// A place in memory: `rows` rows of `width` bytes, `pitch` apart.
struct Place {
    char* at;
    size_t width, rows, pitch;
    bool device;
    size_t bytes() const { return rows ? (rows - 1) * pitch + width : 0; }
};

static bool is_pinned(const void* p, size_t bytes) {
    auto* c = static_cast<char*>(const_cast<void*>(p));
    auto it = state().pinned.upper_bound(c);
    if (it == state().pinned.begin()) return false;
    --it;
    return c + bytes <= it->first + it->second;
}

// Why a place cannot be used; empty: it can.
static std::string problem(const Place& p, const char* role) {
    if (!p.device) return is_device(p.at) ? std::string(role) + " is given as host memory but is a device address" : "";
    const Allocation* a = find_allocation(p.at);
    if (a && p.at + p.bytes() <= a->start + a->bytes) return "";
    return std::string(role) + " of " + std::to_string(p.bytes()) + " bytes is not inside a live allocation: " + describe(p.at);
}

static Result check(const Place& p, const char* role, bool running) {
    std::string text = problem(p, role);
    if (text.empty()) return SUCCESS;
    return running ? broken(ILLEGAL_ADDRESS, "%s", text.c_str()) : refuse(INVALID_VALUE, "%s", text.c_str());
}

static Result copy_now(const Place& to, const Place& from) {
    if (Result result = check(to, "destination", true)) return result;
    if (Result result = check(from, "source", true)) return result;
    for (size_t row = 0; row < to.rows; row++) {
        char* target = to.at + row * to.pitch;
        const char* source = from.at + row * from.pitch;
        memmove(target, source, to.width);
        if (to.device && from.device) emu::dev_copy(target, source, to.width);
        else if (to.device) emu::dev_init(target, to.width);
        else if (std::string text = emu::dev_check(source, to.width); !text.empty())
            return broken(LAUNCH_FAILED, "copy to the host: %s", text.c_str());
    }
    return SUCCESS;
}

// Queues a copy. Pinned host memory is read and written when the copy runs. Pageable memory is read at the call, and
// written before the call returns.
static Result copy(Place to, Place from, void* stream) {
    if (!to.bytes()) return SUCCESS;
    if (Result result = check(to, "destination", false)) return result;
    if (Result result = check(from, "source", false)) return result;
    auto found = find_stream(stream);
    bool pageable = (!to.device && !is_pinned(to.at, to.bytes())) || (!from.device && !is_pinned(from.at, from.bytes()));
    if (pageable && found && found->capture) {
        invalidate(found->capture);
        return refuse(CAPTURE_UNSUPPORTED, "a captured copy needs pinned host memory, which a graph uses at every launch");
    }
    if (!from.device && !is_pinned(from.at, from.bytes())) {
        auto staged = std::make_shared<std::vector<char>>(from.at, from.at + from.bytes());
        return enqueue(stream, [=] { return copy_now(to, Place{staged->data(), from.width, from.rows, from.pitch, false}); });
    }
    if (Result result = enqueue(stream, [=] { return copy_now(to, from); })) return result;
    return pageable ? drain(found) : SUCCESS;
}

// A copy that has happened when the call returns, in the order of the default stream.
static Result copy_blocking(Place to, Place from) {
    if (Result result = unsafe_in_capture()) return result;
    if (Result result = copy(to, from, nullptr)) return result;
    return drain(state().legacy);
}

static Place device(DevicePtr p, size_t n) { return {reinterpret_cast<char*>(p), n, 1, n, true}; }
static Place host(const void* p, size_t n) { return {static_cast<char*>(const_cast<void*>(p)), n, 1, n, false}; }

// Fills `rows` rows of `count` elements, `pitch` bytes apart.
template <class T> static Result fill(DevicePtr address, size_t pitch, T value, size_t count, size_t rows, void* stream) {
    size_t width = count * sizeof(T);
    if (!count || !rows) return SUCCESS;
    if (address % sizeof(T) || pitch % sizeof(T))
        return refuse(INVALID_VALUE, "address %#llx and pitch %zu are not both multiples of %zu", address, pitch, sizeof(T));
    if (pitch < width && rows > 1) return refuse(INVALID_VALUE, "rows of %zu bytes do not fit a pitch of %zu", width, pitch);
    Place to = {reinterpret_cast<char*>(address), width, rows, pitch, true};
    if (Result result = check(to, "destination", false)) return result;
    return enqueue(stream, [=]() -> Result {
        if (Result result = check(to, "destination", true)) return result;
        for (size_t row = 0; row < rows; row++) {
            std::fill_n(reinterpret_cast<T*>(to.at + row * pitch), count, value);
            emu::dev_init(to.at + row * pitch, width);
        }
        return SUCCESS;
    });
}

template <class T> static Result fill_blocking(DevicePtr address, T value, size_t count) {
    if (Result result = unsafe_in_capture()) return result;
    if (Result result = fill(address, 0, value, count, 1, nullptr)) return result;
    return drain(state().legacy);
}

}  // namespace driver

using namespace driver;

// ---- allocation ----

CU_API cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER();
    REQUIRE(free);
    REQUIRE(total);
    *total = state().settings.memory;
    *free = state().settings.memory - state().used;
    return SUCCESS;
}

CU_API cuMemAlloc_v2(DevicePtr* address, size_t bytes) {
    ENTER();
    if (Result result = unsafe_in_capture()) return result;
    return allocate(address, bytes, false);
}

CU_API cuMemAllocAsync(DevicePtr* address, size_t bytes, void* stream) {
    ENTER();
    auto found = find_stream(stream);
    if (!found) return refuse(INVALID_HANDLE, "%p is not a stream", stream);
    if (found->capture) return refuse(NOT_SUPPORTED, "allocations inside graphs are not emulated; allocate before the capture");
    return allocate(address, bytes, true);
}

CU_API cuMemFree_v2(DevicePtr address) {
    ENTER();
    if (!address) return SUCCESS;
    if (Result result = unsafe_in_capture()) return result;
    auto found = find_start(address);
    if (found == state().memory.end()) return not_an_allocation(address);
    // Only memory of cuMemAlloc is waited for; with stream-ordered memory that is the caller's duty.
    if (!found->second.stream_ordered)
        if (Result result = drain_all()) return result;
    found = find_start(address);
    if (found == state().memory.end()) return not_an_allocation(address);
    unmap(found->second);
    state().memory.erase(found);
    return SUCCESS;
}

CU_API cuMemFreeAsync(DevicePtr address, void* stream) {
    ENTER();
    if (!address) return SUCCESS;
    if (find_start(address) == state().memory.end()) return not_an_allocation(address);
    auto stream_found = find_stream(stream);
    if (stream_found && stream_found->capture) return refuse(NOT_SUPPORTED, "frees inside graphs are not emulated");
    return enqueue(stream, [=]() -> Result {
        auto found = find_start(address);
        if (found == state().memory.end()) return broken(ILLEGAL_ADDRESS, "cuMemFreeAsync: freed twice: %#llx", address);
        unmap(found->second);
        state().memory.erase(found);
        return SUCCESS;
    });
}

CU_API cuMemHostAlloc(void** pointer, size_t bytes, unsigned flags) {
    ENTER();
    REQUIRE(pointer);
    if (flags & ~7u) return refuse(INVALID_VALUE, "flags %#x; portable 1, mapped 2 and write-combined 4 exist", flags);
    if (!bytes) return refuse(INVALID_VALUE, "0 bytes; an allocation needs at least 1");
    if (Result result = unsafe_in_capture()) return result;
    size_t span = round_up(bytes, PAGE);
    auto* pages = static_cast<char*>(map(nullptr, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1));
    map_poison(pages, span);
    state().pinned[pages] = bytes;
    *pointer = pages;
    return SUCCESS;
}

CU_API cuMemFreeHost(void* pointer) {
    ENTER();
    if (Result result = unsafe_in_capture()) return result;
    auto found = state().pinned.find(static_cast<char*>(pointer));
    if (found == state().pinned.end()) return refuse(INVALID_VALUE, "%p is not memory of cuMemHostAlloc", pointer);
    Result result = drain_all();
    munmap(found->first, round_up(found->second, PAGE));
    state().pinned.erase(found);
    return result;
}

// One pool, which keeps nothing: its settings change nothing.
static char default_pool;
CU_API cuDeviceGetDefaultMemPool(void** pool, int) {
    ENTER_QUERY();
    REQUIRE(pool);
    *pool = &default_pool;
    return SUCCESS;
}
CU_API cuDeviceGetMemPool(void** pool, int device) { return cuDeviceGetDefaultMemPool(pool, device); }
CU_API cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
CU_API cuMemPoolTrimTo(void*, size_t) { return SUCCESS; }

// ---- copies ----

CU_API cuMemcpyHtoDAsync_v2(DevicePtr to, const void* from, size_t bytes, void* stream) {
    ENTER();
    return copy(device(to, bytes), host(from, bytes), stream);
}
CU_API cuMemcpyDtoHAsync_v2(void* to, DevicePtr from, size_t bytes, void* stream) {
    ENTER();
    return copy(host(to, bytes), device(from, bytes), stream);
}
CU_API cuMemcpyDtoDAsync_v2(DevicePtr to, DevicePtr from, size_t bytes, void* stream) {
    ENTER();
    return copy(device(to, bytes), device(from, bytes), stream);
}
CU_API cuMemcpyHtoD_v2(DevicePtr to, const void* from, size_t bytes) {
    ENTER();
    return copy_blocking(device(to, bytes), host(from, bytes));
}
CU_API cuMemcpyDtoH_v2(void* to, DevicePtr from, size_t bytes) {
    ENTER();
    return copy_blocking(host(to, bytes), device(from, bytes));
}
CU_API cuMemcpyDtoD_v2(DevicePtr to, DevicePtr from, size_t bytes) {
    ENTER();
    return copy_blocking(device(to, bytes), device(from, bytes));
}

// CUDA_MEMCPY2D: each side is host (1) or device (2) memory.
struct Copy2D {
    size_t from_x, from_y;
    int from_type;
    const void* from_host;
    DevicePtr from_device;
    void* from_array;
    size_t from_pitch, to_x, to_y;
    int to_type;
    void* to_host;
    DevicePtr to_device;
    void* to_array;
    size_t to_pitch, width, height;
};

static Result places(const Copy2D* c, Place* to, Place* from) {
    REQUIRE(c);
    if (c->from_type < 1 || c->from_type > 2 || c->to_type < 1 || c->to_type > 2)
        return refuse(NOT_SUPPORTED, "memory types %d to %d; only host (1) and device (2) are emulated", c->from_type,
                      c->to_type);
    size_t from_pitch = c->from_pitch ? c->from_pitch : c->width, to_pitch = c->to_pitch ? c->to_pitch : c->width;
    if (from_pitch < c->width + c->from_x || to_pitch < c->width + c->to_x)
        return refuse(INVALID_VALUE, "rows of %zu bytes do not fit pitches of %zu and %zu", c->width, from_pitch, to_pitch);
    *from = c->from_type == 1 ? host(c->from_host, c->width) : device(c->from_device, c->width);
    *to = c->to_type == 1 ? host(c->to_host, c->width) : device(c->to_device, c->width);
    from->at += c->from_y * from_pitch + c->from_x, from->rows = c->height, from->pitch = from_pitch;
    to->at += c->to_y * to_pitch + c->to_x, to->rows = c->height, to->pitch = to_pitch;
    if (!c->width) from->rows = to->rows = 0;
    return SUCCESS;
}

CU_API cuMemcpy2DAsync_v2(const Copy2D* c, void* stream) {
    ENTER();
    Place to, from;
    if (Result result = places(c, &to, &from)) return result;
    return copy(to, from, stream);
}
CU_API cuMemcpy2D_v2(const Copy2D* c) {
    ENTER();
    Place to, from;
    if (Result result = places(c, &to, &from)) return result;
    return copy_blocking(to, from);
}

// ---- fills ----

CU_API cuMemsetD8Async(DevicePtr to, unsigned char value, size_t count, void* stream) {
    ENTER();
    return fill(to, 0, value, count, 1, stream);
}
CU_API cuMemsetD8_v2(DevicePtr to, unsigned char value, size_t count) {
    ENTER();
    return fill_blocking(to, value, count);
}
CU_API cuMemsetD2D8Async(DevicePtr to, size_t pitch, unsigned char value, size_t width, size_t height, void* stream) {
    ENTER();
    return fill(to, pitch, value, width, height, stream);
}

CU_API cuMemsetD16Async(DevicePtr to, unsigned short value, size_t count, void* stream) {
    ENTER();
    return fill(to, 0, value, count, 1, stream);
}
CU_API cuMemsetD16_v2(DevicePtr to, unsigned short value, size_t count) {
    ENTER();
    return fill_blocking(to, value, count);
}
CU_API cuMemsetD2D16Async(DevicePtr to, size_t pitch, unsigned short value, size_t width, size_t height, void* stream) {
    ENTER();
    return fill(to, pitch, value, width, height, stream);
}

CU_API cuMemsetD32Async(DevicePtr to, unsigned value, size_t count, void* stream) {
    ENTER();
    return fill(to, 0, value, count, 1, stream);
}
CU_API cuMemsetD32_v2(DevicePtr to, unsigned value, size_t count) {
    ENTER();
    return fill_blocking(to, value, count);
}
CU_API cuMemsetD2D32Async(DevicePtr to, size_t pitch, unsigned value, size_t width, size_t height, void* stream) {
    ENTER();
    return fill(to, pitch, value, width, height, stream);
}
