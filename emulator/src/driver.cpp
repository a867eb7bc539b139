// The emulated CUDA driver: start, errors, contexts, and the functions that only the emulator has.
//
// Environment, read at cuInit: EMU_MEM (bytes of device memory), EMU_CC (capability, 90 or 9.0), EMU_SMS (multiprocessors),
// EMU_EAGER=1 (streams run at once); those of the core are in grid.h.
#include "driver.h"

#include <algorithm>
#include <set>

namespace driver {

// Never destroyed: other threads may still call while the process exits.
State& state() {
    static State* all = new State;
    return *all;
}

static thread_local const char* current_call = "";
static thread_local void* current_context;
static char primary_context;  // its address is the handle

static void say(Result code, const char* format, va_list arguments) {
    char text[1024];
    int head = snprintf(text, sizeof text, "%s: ", current_call);
    vsnprintf(text + head, sizeof text - head, format, arguments);
    state().last_error = text;
    state().last_code = code;
    fprintf(stderr, "emulated CUDA driver: %s\n", text);
}

Result refuse(Result code, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(code, format, arguments);
    va_end(arguments);
    return code;
}

Result broken(Result code, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(code, format, arguments);
    va_end(arguments);
    return state().failure = code;
}

Result enter_query(const char* call) {
    current_call = call;
    if (!state().initialised) return refuse(NOT_INITIALIZED, "cuInit was not called");
    return SUCCESS;
}

Result enter(const char* call) {
    if (Result result = enter_query(call)) return result;
    if (state().in_callback) return refuse(NOT_PERMITTED, "a host function in a stream must not call CUDA");
    if (current_context != &primary_context)
        return refuse(INVALID_CONTEXT, "no context is current in this thread; call cuCtxSetCurrent first");
    if (!state().contexts) return refuse(INVALID_CONTEXT, "the primary context was released by all who retained it");
    return state().failure;
}

static size_t number(const char* name, size_t otherwise) {
    const char* text = getenv(name);
    if (!text || !*text) return otherwise;
    char* end;
    size_t value = strtoull(text, &end, 0);
    if (*end) {
        fprintf(stderr, "emulated CUDA driver: %s=%s is not a whole number\n", name, text);
        abort();
    }
    return value;
}

// 90, 9.0, 100, 10.0
static int capability() {
    std::string text = getenv("EMU_CC") ? getenv("EMU_CC") : "90";
    text.erase(std::remove(text.begin(), text.end(), '.'), text.end());
    int value = atoi(text.c_str());
    if (value >= 50) return value;
    fprintf(stderr, "emulated CUDA driver: EMU_CC=%s is not a compute capability such as 9.0\n", getenv("EMU_CC"));
    abort();
}

static void initialise() {
    State& s = state();
    s.initialised = true;
    s.settings.memory = number("EMU_MEM", s.settings.memory);
    s.settings.capability = capability();
    s.settings.multiprocessors = int(number("EMU_SMS", s.settings.multiprocessors));
    s.settings.eager = number("EMU_EAGER", 0) != 0;
    emu::options.shared_limit = size_t(dynamic_shared_limit());
    s.random = emu::options.seed | 1;
}

// The last reference to the primary context is gone, and with it everything that was made in it.
static void reset() {
    State& s = state();
    s.legacy = std::make_shared<Stream>();
    s.streams.clear();
    s.destroyed.clear();
    s.events.clear();
    s.execs.clear();
    s.graphs.clear();
    s.captures.clear();
    s.modules.clear();
    s.functions.clear();
    release_memory();
    s.failure = SUCCESS;
}

static const std::pair<int, const char*> NAMES[] = {
    {SUCCESS, "CUDA_SUCCESS"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
    {NOT_READY, "CUDA_ERROR_NOT_READY"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
    {NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
    {CAPTURE_MERGE, "CUDA_ERROR_STREAM_CAPTURE_MERGE"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED"},
    {CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"},
    {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD"},
};

const char* error_name(int code) {
    for (auto& [known, name] : NAMES)
        if (known == code) return name;
    return nullptr;
}

}  // namespace driver

using namespace driver;

// ---- start and versions ----

CU_API cuInit(unsigned flags) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    current_call = __func__;
    if (flags) return refuse(INVALID_VALUE, "flags must be 0, %u given", flags);
    if (!state().initialised) initialise();
    return SUCCESS;
}

CU_API cuDriverGetVersion(int* version) {
    REQUIRE(version);
    *version = 13000;
    return SUCCESS;
}

// Only loaders that resolve every function through this one need it; cudarc looks the symbols up.
CU_API cuGetProcAddress_v2(const char*, void** function, int, uint64_t, int* status) {
    if (function) *function = nullptr;
    if (status) *status = 1;
    return NOT_FOUND;
}

CU_API cuGetErrorName(int code, const char** name) {
    REQUIRE(name);
    *name = error_name(code);
    return *name ? SUCCESS : INVALID_VALUE;
}

// The real driver has a fixed sentence for each code; here the reason of the last failure takes its place.
CU_API cuGetErrorString(int code, const char** text) {
    REQUIRE(text);
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    static std::set<std::string> kept;  // callers may hold the pointer for ever
    *text = error_name(code);
    if (*text && code != SUCCESS && code == state().last_code) *text = kept.insert(state().last_error).first->c_str();
    return *text ? SUCCESS : INVALID_VALUE;
}

// ---- contexts ----

CU_API cuDevicePrimaryCtxRetain(void** context, int device) {
    ENTER_QUERY();
    REQUIRE(context);
    if (device) return refuse(INVALID_DEVICE, "device %d of 1", device);
    state().contexts++;
    *context = &primary_context;
    return SUCCESS;
}

CU_API cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER_QUERY();
    if (device) return refuse(INVALID_DEVICE, "device %d of 1", device);
    if (!state().contexts) return refuse(INVALID_CONTEXT, "the primary context was released more often than retained");
    if (--state().contexts == 0) {
        drain_all();
        reset();
    }
    return SUCCESS;
}

CU_API cuCtxSetCurrent(void* context) {
    ENTER_QUERY();
    if (context && (context != &primary_context || !state().contexts))
        return refuse(INVALID_CONTEXT, "%p is not a context that lives", context);
    current_context = context;
    return SUCCESS;
}

CU_API cuCtxGetCurrent(void** context) {
    ENTER_QUERY();
    REQUIRE(context);
    *context = current_context;
    return SUCCESS;
}

CU_API cuCtxGetDevice(int* device) {
    ENTER();
    REQUIRE(device);
    *device = 0;
    return SUCCESS;
}

CU_API cuCtxSetFlags(unsigned) {
    ENTER();
    return SUCCESS;
}

CU_API cuCtxSynchronize() {
    ENTER();
    if (Result result = unsafe_in_capture()) return result;
    return drain_all();
}

CU_API cuProfilerStart() { return SUCCESS; }
CU_API cuProfilerStop() { return SUCCESS; }

// ---- the emulator's own ----

#define EMU_API extern "C" __attribute__((visibility("default")))

// Copies the last error text, cut to `capacity` with its end mark; returns its whole length.
EMU_API size_t emuLastError(char* text, size_t capacity) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    snprintf(text, capacity, "%s", state().last_error.c_str());
    return state().last_error.size();
}

EMU_API void emuSetOptions(uint64_t seed, int early, int reverse) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    if (!state().initialised) initialise();
    emu::options.seed = seed;
    emu::options.early = early != 0;
    emu::options.reverse = reverse != 0;
    state().random = seed | 1;
}

// The layout is repeated in lib.rs.
struct EmuStats {
    uint64_t launches, graph_launches, blocks, switches, collectives, barriers, ldmatrix_phases, bank_conflicts;
    uint64_t mma, wgmma, allocations, live_allocations, live_bytes;
};

EMU_API void emuStats(EmuStats* stats) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    const State& s = state();
    emu::Stats core = emu::stats();
    *stats = {s.counts.launches, s.counts.graph_launches, core.blocks,          core.switches,
              core.collectives,  core.barriers,           core.ldmatrix_phases, core.ldmatrix_conflicts,
              core.mma,          core.wgmma,              s.counts.allocations, s.memory.size(),
              s.used};
}

// Launches of one kernel since the library was loaded.
EMU_API uint64_t emuLaunches(const char* name) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    auto found = state().launched.find(name);
    return found == state().launched.end() ? 0 : found->second;
}
