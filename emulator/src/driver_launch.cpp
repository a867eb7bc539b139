// Modules, functions and kernel launches.
//
// An image is checked for its kind only: whatever it holds, the module has the kernels that this library was built with,
// under their names. A build without nvcc embeds the placeholder "FLANRT-EMU", which only this driver takes.
#include "driver.h"

#include <algorithm>
#include <cstring>

namespace driver {

// The kernels by name.
static const std::vector<const emu::Kernel*>& kernels() {
    static const auto* sorted = [] {
        auto* all = new std::vector<const emu::Kernel*>;
        for (const emu::Kernel* k = emu::kernels; k; k = k->next) all->push_back(k);
        std::sort(all->begin(), all->end(), [](auto* a, auto* b) { return strcmp(a->name, b->name) < 0; });
        return all;
    }();
    return *sorted;
}

static bool is_image(const void* image) {
    static const unsigned char FATBIN[] = {0x50, 0xed, 0x55, 0xba}, ELF[] = {0x7f, 'E', 'L', 'F'};
    auto* text = static_cast<const char*>(image);
    if (!memcmp(image, FATBIN, 4) || !memcmp(image, ELF, 4) || !strncmp(text, "FLANRT-EMU", 10)) return true;
    // PTX is text; its first directive is the version, after comments.
    return std::string(text, strnlen(text, 4096)).find(".version") != std::string::npos;
}

static Result find_function(void* handle, Function** function) {
    auto found = state().functions.find(handle);
    if (found == state().functions.end()) return refuse(INVALID_HANDLE, "%p is not a function of a loaded module", handle);
    *function = found->second;
    return SUCCESS;
}

static Result find_module(void* handle, Module** module) {
    auto found = state().modules.find(handle);
    if (found == state().modules.end()) return refuse(INVALID_HANDLE, "%p is not a loaded module", handle);
    *module = found->second.get();
    return SUCCESS;
}

// ---- launches ----

// A kernel's arguments, copied at the call, at the offsets the kernel has them.
class Arguments {
  public:
    Arguments(const emu::Kernel& kernel, void** values) {
        size_t bytes = 0;
        for (int i = 0; i < kernel.nparams; i++) bytes = kernel.offset[i] + kernel.size[i];
        storage_.resize(bytes / sizeof(Line) + 1);
        for (int i = 0; i < kernel.nparams; i++) {
            pointers_.push_back(reinterpret_cast<char*>(storage_.data()) + kernel.offset[i]);
            memcpy(pointers_[i], values[i], kernel.size[i]);
        }
    }
    void** get() { return pointers_.data(); }

  private:
    struct alignas(64) Line {
        char bytes[64];
    };
    std::vector<Line> storage_;
    std::vector<void*> pointers_;
};

static size_t element_size(const char* type) {
    const char* name = strrchr(type, ' ');
    static const std::pair<const char*, size_t> SIZES[] = {{"f64", 8}, {"i64", 8}, {"u64", 8}, {"f32", 4}, {"i32", 4},
                                                           {"u32", 4}, {"bf16", 2}, {"f16", 2}, {"u16", 2}};
    for (auto& [known, size] : SIZES)
        if (name && !strcmp(name + 1, known)) return size;
    return 1;
}

// What is wrong with the pointers among the arguments; empty: nothing.
static std::string pointer_problem(const emu::Kernel& kernel, void** values) {
    for (int i = 0; i < kernel.nparams; i++) {
        if (kernel.type[i][0] != '*') continue;
        char* p;
        memcpy(&p, values[i], sizeof p);
        if (!p) continue;  // an operand that the kernel does without
        bool live = find_allocation(p), aligned = reinterpret_cast<uintptr_t>(p) % element_size(kernel.type[i]) == 0;
        if (live && aligned) continue;
        return std::string(kernel.name) + ": argument " + std::to_string(i) + " (" + kernel.type[i] + ") is not " +
               (live ? "aligned to its elements: " : "a live device address: ") + describe(p);
    }
    return "";
}

struct Shape {
    unsigned grid[3], block[3], dynamic;
};

static Result check_shape(const Function& f, const Shape& s) {
    const emu::Kernel& k = *f.kernel;
    uint64_t threads = uint64_t(s.block[0]) * s.block[1] * s.block[2];
    if (!s.grid[0] || !s.grid[1] || !s.grid[2] || s.grid[0] > 0x7fffffffu || s.grid[1] > 65535 || s.grid[2] > 65535)
        return refuse(INVALID_VALUE, "%s: grid %u x %u x %u; 1 to 2147483647 x 65535 x 65535 blocks are possible", k.name,
                      s.grid[0], s.grid[1], s.grid[2]);
    if (!threads || s.block[0] > 1024 || s.block[1] > 1024 || s.block[2] > 64 || threads > 1024)
        return refuse(INVALID_VALUE, "%s: block %u x %u x %u; 1 to 1024 threads are possible", k.name, s.block[0], s.block[1],
                      s.block[2]);
    if (threads > uint64_t(k.max_threads))
        return refuse(LAUNCH_OUT_OF_RESOURCES, "%s: %llu threads in a block; its launch bounds say %d", k.name,
                      static_cast<unsigned long long>(threads), k.max_threads);
    if (s.dynamic > unsigned(f.dynamic_limit))
        return refuse(INVALID_VALUE,
                      "%s: %u bytes of dynamic shared memory; the function may have %d. Raise "
                      "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES (up to %d on this device)",
                      k.name, s.dynamic, f.dynamic_limit, dynamic_shared_limit());
    return SUCCESS;
}

static Result launch(void* handle, const Shape& s, void* stream, void** values, void** extra) {
    Function* f = nullptr;
    if (Result result = find_function(handle, &f)) return result;
    const emu::Kernel* k = f->kernel;
    if (Result result = check_shape(*f, s)) return result;
    if (extra) return refuse(NOT_SUPPORTED, "%s: packed arguments (extra) are not emulated; give kernelParams", k->name);
    if (k->nparams && !values) return refuse(INVALID_VALUE, "%s: no arguments; the kernel has %d", k->name, k->nparams);
    for (int i = 0; i < k->nparams; i++)
        if (!values[i]) return refuse(INVALID_VALUE, "%s: argument %d (%s) has no value", k->name, i, k->type[i]);
    std::string problem = pointer_problem(*k, values);
    if (!problem.empty()) return refuse(INVALID_VALUE, "%s", problem.c_str());
    auto arguments = std::make_shared<Arguments>(*k, values);
    return enqueue(stream, [=]() -> Result {
        // Memory that was alive at the call may have been freed since.
        std::string problem = pointer_problem(*k, arguments->get());
        if (!problem.empty()) return broken(ILLEGAL_ADDRESS, "%s", problem.c_str());
        state().counts.launches++;
        state().launched[k->name]++;
        std::string error = emu::run_grid(k, {s.grid[0], s.grid[1], s.grid[2]}, {s.block[0], s.block[1], s.block[2]}, s.dynamic,
                                          arguments->get());
        if (error.empty()) return check_guards(k->name);
        if (error.find("illegal") == std::string::npos) return broken(LAUNCH_FAILED, "%s", error.c_str());
        size_t number = error.find(" 0x");
        if (number == std::string::npos) return broken(ILLEGAL_ADDRESS, "%s", error.c_str());
        auto* address = reinterpret_cast<void*>(strtoull(error.c_str() + number, nullptr, 0));
        return broken(ILLEGAL_ADDRESS, "%s: %s", error.c_str(), describe(address).c_str());
    });
}

}  // namespace driver

using namespace driver;

// ---- modules ----

CU_API cuModuleLoadData(void** handle, const void* image) {
    ENTER();
    REQUIRE(handle);
    REQUIRE(image);
    if (Result result = unsafe_in_capture()) return result;
    if (!is_image(image)) return refuse(INVALID_IMAGE, "neither a fat binary, a cubin, PTX nor the emulator's placeholder");
    auto module = std::make_unique<Module>();
    for (const emu::Kernel* k : kernels()) {
        module->functions.push_back(std::make_unique<Function>(Function{k, 48 * 1024}));
        state().functions[module->functions.back().get()] = module->functions.back().get();
    }
    *handle = module.get();
    state().modules[*handle] = std::move(module);
    return SUCCESS;
}
CU_API cuModuleLoadDataEx(void** handle, const void* image, unsigned, int*, void**) { return cuModuleLoadData(handle, image); }

CU_API cuModuleUnload(void* handle) {
    ENTER();
    Module* module = nullptr;
    if (Result result = find_module(handle, &module)) return result;
    for (auto& f : module->functions) state().functions.erase(f.get());
    state().modules.erase(handle);
    return SUCCESS;
}

CU_API cuModuleGetFunction(void** function, void* handle, const char* name) {
    ENTER();
    REQUIRE(function);
    REQUIRE(name);
    Module* module = nullptr;
    if (Result result = find_module(handle, &module)) return result;
    for (auto& f : module->functions) {
        if (strcmp(f->kernel->name, name)) continue;
        if (!runs_on_device(*f->kernel))
            return refuse(NO_BINARY_FOR_GPU, "%s is for capability %d; this device has %d", name, f->kernel->min_arch,
                          state().settings.capability);
        *function = f.get();
        return SUCCESS;
    }
    return refuse(NOT_FOUND, "no kernel named %s", name);
}

CU_API cuModuleGetFunctionCount(unsigned* count, void* handle) {
    ENTER();
    REQUIRE(count);
    Module* module = nullptr;
    if (Result result = find_module(handle, &module)) return result;
    *count = unsigned(module->functions.size());
    return SUCCESS;
}

CU_API cuModuleEnumerateFunctions(void** functions, unsigned count, void* handle) {
    ENTER();
    REQUIRE(functions);
    Module* module = nullptr;
    if (Result result = find_module(handle, &module)) return result;
    for (unsigned i = 0; i < count && i < module->functions.size(); i++) functions[i] = module->functions[i].get();
    return SUCCESS;
}

// ---- functions ----

CU_API cuFuncGetName(const char** name, void* handle) {
    ENTER();
    REQUIRE(name);
    Function* f = nullptr;
    if (Result result = find_function(handle, &f)) return result;
    *name = f->kernel->name;
    return SUCCESS;
}

// Asking for one parameter too many is how callers find the end, so that is no error worth a message.
CU_API cuFuncGetParamInfo(void* handle, size_t index, size_t* offset, size_t* size) {
    ENTER();
    REQUIRE(offset);
    Function* f = nullptr;
    if (Result result = find_function(handle, &f)) return result;
    if (index >= size_t(f->kernel->nparams)) return INVALID_VALUE;
    *offset = f->kernel->offset[index];
    if (size) *size = f->kernel->size[index];
    return SUCCESS;
}

// CUfunction_attribute
enum {
    MAX_THREADS,
    STATIC_SHARED,
    CONSTANT,
    LOCAL,
    REGISTERS,
    PTX_VERSION,
    BINARY_VERSION,
    CACHE_MODE,
    DYNAMIC_SHARED,
    CARVEOUT,
};

CU_API cuFuncGetAttribute(int* value, int attribute, void* handle) {
    ENTER();
    REQUIRE(value);
    Function* f = nullptr;
    if (Result result = find_function(handle, &f)) return result;
    switch (attribute) {
    case MAX_THREADS: *value = f->kernel->max_threads; break;
    case STATIC_SHARED:
    case CONSTANT:
    case LOCAL:
    case CACHE_MODE: *value = 0; break;
    case REGISTERS: *value = std::min(255, 65536 / f->kernel->max_threads / 8 * 8); break;
    case PTX_VERSION: *value = f->kernel->min_arch; break;
    case BINARY_VERSION: *value = state().settings.capability; break;
    case DYNAMIC_SHARED: *value = f->dynamic_limit; break;
    case CARVEOUT: *value = -1; break;
    default: return refuse(INVALID_VALUE, "function attribute %d is not one the emulator knows", attribute);
    }
    return SUCCESS;
}

CU_API cuFuncSetAttribute(void* handle, int attribute, int value) {
    ENTER();
    Function* f = nullptr;
    if (Result result = find_function(handle, &f)) return result;
    if (attribute == CARVEOUT) return SUCCESS;
    if (attribute != DYNAMIC_SHARED) return refuse(INVALID_VALUE, "function attribute %d cannot be set", attribute);
    if (value < 0 || value > dynamic_shared_limit())
        return refuse(INVALID_VALUE, "%s: %d bytes of dynamic shared memory; this device has %d", f->kernel->name, value,
                      dynamic_shared_limit());
    f->dynamic_limit = value;
    return SUCCESS;
}

CU_API cuFuncSetCacheConfig(void* handle, int) {
    ENTER();
    Function* f = nullptr;
    return find_function(handle, &f);
}

// ---- launches ----

CU_API cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned dynamic,
                      void* stream, void** values, void** extra) {
    ENTER();
    return launch(f, {{gx, gy, gz}, {bx, by, bz}, dynamic}, stream, values, extra);
}

struct LaunchAttribute {
    int id;
    char pad[4];
    union {
        char bytes[64];
        int number;
        unsigned cluster[3];
    };
};
struct LaunchConfig {
    Shape shape;
    void* stream;
    LaunchAttribute* attributes;
    unsigned count;
};

CU_API cuLaunchKernelEx(const LaunchConfig* c, void* f, void** values, void** extra) {
    ENTER();
    REQUIRE(c);
    enum { IGNORE = 0, ACCESS_POLICY = 1, COOPERATIVE = 2, CLUSTER = 4, PROGRAMMATIC_SERIALISATION = 6, PRIORITY = 8 };
    for (unsigned i = 0; i < c->count; i++) {
        const LaunchAttribute& a = c->attributes[i];
        // An overlap with the kernel before that is allowed but not made is a legal order.
        bool harmless = a.id == IGNORE || a.id == ACCESS_POLICY || a.id == PROGRAMMATIC_SERIALISATION || a.id == PRIORITY;
        bool single = a.id == CLUSTER && a.cluster[0] == 1 && a.cluster[1] == 1 && a.cluster[2] == 1;
        bool off = a.id == COOPERATIVE && !a.number;
        if (!harmless && !single && !off) return refuse(NOT_SUPPORTED, "launch attribute %d is not emulated", a.id);
    }
    return launch(f, c->shape, c->stream, values, extra);
}

// ---- the emulator's own ----

#define EMU_API extern "C" __attribute__((visibility("default")))

// The type of a parameter as Rust writes it ("*mut bf16", "*const f32", "i32", "struct"), null past the last.
EMU_API const char* emuParamType(void* handle, size_t index) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    auto found = state().functions.find(handle);
    if (found == state().functions.end() || index >= size_t(found->second->kernel->nparams)) return nullptr;
    return found->second->kernel->type[index];
}

EMU_API size_t emuKernelCount() { return kernels().size(); }

// Kernel `index` in the order of names. The layout is repeated in lib.rs.
struct EmuKernel {
    const char* name;
    int capability, max_threads;
    size_t params;
    const char* const* types;
    const size_t* sizes;
};
EMU_API void emuKernel(size_t index, EmuKernel* out) {
    const emu::Kernel& k = *kernels().at(index);
    *out = {k.name, k.min_arch, k.max_threads, size_t(k.nparams), k.type, k.size};
}
