// The emulated device: names, sizes and limits. One device, of the capability EMU_CC.
#include "driver.h"

#include <algorithm>
#include <cstring>

namespace driver {

// Limits that differ between architectures.
struct Limits {
    int capability, shared_per_multiprocessor, threads_per_multiprocessor, blocks_per_multiprocessor;
};
static const Limits LIMITS[] = {
    {75, 65536, 1024, 16},    {80, 167936, 2048, 32},  {86, 102400, 1536, 16}, {89, 102400, 1536, 24},
    {90, 233472, 2048, 32},   {100, 233472, 2048, 32}, {120, 102400, 1536, 24},
};
constexpr int RESERVED_SHARED = 1024;  // of each block, for the system

static const Limits& limits() {
    const Limits* best = LIMITS;
    for (auto& l : LIMITS)
        if (l.capability <= state().settings.capability) best = &l;
    return *best;
}

int dynamic_shared_limit() {
    int all = limits().shared_per_multiprocessor;
    return limits().capability < 80 ? all : all - RESERVED_SHARED;
}

// Kernels of capability 90 are built for sm_90a, which no other architecture runs.
bool runs_on_device(const emu::Kernel& kernel) {
    int device = state().settings.capability;
    return kernel.min_arch == 90 ? device / 10 == 9 : kernel.min_arch <= device;
}

// CUdevice_attribute. -1: not one that this driver knows.
static int attribute(int which) {
    const Settings& set = state().settings;
    switch (which) {
    case 1: return 1024;                  // threads of a block
    case 2: return 1024;                  // block x
    case 3: return 1024;                  // block y
    case 4: return 64;                    // block z
    case 5: return 0x7fffffff;            // grid x
    case 6: return 65535;                 // grid y
    case 7: return 65535;                 // grid z
    case 8: return 49152;                 // shared memory of a block without asking for more
    case 9: return 65536;                 // constant memory
    case 10: return 32;                   // warp
    case 11: return 0x7fffffff;           // pitch
    case 12: return 65536;                // registers of a block
    case 13: return 1'980'000;            // clock, kHz
    case 15: return 1;                    // copies beside kernels
    case 16: return set.multiprocessors;
    case 17: return 0;                    // no time limit of kernels
    case 18: return 0;                    // not integrated
    case 19: return 1;                    // can map host memory
    case 20: return 0;                    // default compute mode
    case 31: return 1;                    // concurrent kernels
    case 32: return 1;                    // ECC
    case 33: return 1;                    // PCI bus
    case 34: return 0;                    // PCI device
    case 35: return 0;                    // not TCC
    case 36: return 2'619'000;            // memory clock, kHz
    case 37: return 5120;                 // memory bus, bits
    case 38: return 50 << 20;             // L2, bytes
    case 39: return limits().threads_per_multiprocessor;
    case 40: return 3;                    // copy engines
    case 41: return 1;                    // unified addressing
    case 50: return 0;                    // PCI domain
    case 75: return set.capability / 10;
    case 76: return set.capability % 10;
    case 78: return 1;                    // stream priorities
    case 81: return limits().shared_per_multiprocessor;
    case 82: return 65536;                // registers of a multiprocessor
    case 83: return 0;                    // no managed memory
    case 84: return 0;                    // one GPU on its board
    case 88: return 0;                    // no access to pageable memory
    case 95: return 0;                    // no cooperative launches
    case 97: return dynamic_shared_limit();
    case 102: return 0;                   // no virtual memory management
    case 106: return limits().blocks_per_multiprocessor;
    case 108: return 0;                   // no persisting L2
    case 111: return RESERVED_SHARED;
    case 115: return 1;                   // stream-ordered allocation
    default: return -1;
    }
}

static Result check_device(int device) {
    return device ? refuse(INVALID_DEVICE, "device %d of 1", device) : SUCCESS;
}

}  // namespace driver

using namespace driver;

CU_API cuDeviceGetCount(int* count) {
    ENTER_QUERY();
    REQUIRE(count);
    *count = 1;
    return SUCCESS;
}

CU_API cuDeviceGet(int* device, int ordinal) {
    ENTER_QUERY();
    REQUIRE(device);
    if (Result result = check_device(ordinal)) return result;
    *device = 0;
    return SUCCESS;
}

CU_API cuDeviceGetName(char* name, int length, int device) {
    ENTER_QUERY();
    REQUIRE(name);
    if (Result result = check_device(device)) return result;
    snprintf(name, size_t(length), "Emulated GPU");
    return SUCCESS;
}

CU_API cuDeviceTotalMem_v2(size_t* bytes, int device) {
    ENTER_QUERY();
    REQUIRE(bytes);
    if (Result result = check_device(device)) return result;
    *bytes = state().settings.memory;
    return SUCCESS;
}

CU_API cuDeviceGetUuid_v2(char* uuid, int device) {
    ENTER_QUERY();
    REQUIRE(uuid);
    if (Result result = check_device(device)) return result;
    memcpy(uuid, "emulated GPU 000", 16);
    return SUCCESS;
}
CU_API cuDeviceGetUuid(char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

CU_API cuDeviceGetAttribute(int* value, int which, int device) {
    ENTER_QUERY();
    REQUIRE(value);
    if (Result result = check_device(device)) return result;
    if (attribute(which) < 0) return refuse(INVALID_VALUE, "attribute %d is not one the emulator knows", which);
    *value = attribute(which);
    return SUCCESS;
}

CU_API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    ENTER();
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return SUCCESS;
}

// Threads, shared memory and block slots; registers are not modelled.
CU_API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads, size_t dynamic) {
    ENTER();
    REQUIRE(blocks);
    auto function = state().functions.find(handle);
    if (function == state().functions.end()) return refuse(INVALID_HANDLE, "%p is not a function", handle);
    if (threads < 1 || threads > 1024) return refuse(INVALID_VALUE, "%d threads in a block; 1 to 1024 are possible", threads);
    const Limits& l = limits();
    int by_threads = l.threads_per_multiprocessor / ((threads + 31) / 32 * 32);
    int by_memory = int(size_t(l.shared_per_multiprocessor) / (dynamic + RESERVED_SHARED));
    bool possible = threads <= function->second->kernel->max_threads && dynamic <= size_t(function->second->dynamic_limit);
    *blocks = possible ? std::min({by_threads, by_memory, l.blocks_per_multiprocessor}) : 0;
    return SUCCESS;
}
CU_API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* handle, int threads, size_t dynamic, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, handle, threads, dynamic);
}
