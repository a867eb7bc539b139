// The seam between the emulator's core and whoever launches kernels (the emulated driver, a test): which kernels there are,
// how to run a grid of one, and what the checker has to know about device memory.
//
// Core, driver and kernels are compiled twice from the same sources: plain, and with EMU_CHECK (the kernels then also with
// -fsanitize=thread, whose hooks the checker provides).
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emu {

#ifdef EMU_CHECK
constexpr bool CHECKING = true;
#else
constexpr bool CHECKING = false;
#endif

constexpr int MAX_PARAMS = 48;

// One kernel of the library. Every FLANRT_KERNEL registers one before main.
struct Kernel {
    const char* name;
    int max_threads;  // of a block, from the launch bounds
    int min_arch;     // lowest compute capability: 80, 90
    bool ordered;     // its blocks wait for blocks of a lower number: they run one after another, x fastest
    int nparams;
    size_t size[MAX_PARAMS], offset[MAX_PARAMS];  // of each parameter, bytes, as cuFuncGetParamInfo gives them
    const char* type[MAX_PARAMS];                 // as Rust writes it: "*mut bf16", "*const f32", "i32", "u64", "TensorMap"
    void (*invoke)(void** params);                // calls it in the current emulated thread
    int max_dynamic_smem = 48 * 1024;             // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES; the driver may raise it
    Kernel* next;
};
extern Kernel* kernels;  // a list
Kernel* find_kernel(const char* name);  // null: no kernel of this name

// How the emulator chooses among the schedules that the program allows.
struct Options {
    uint64_t seed = 0;     // EMU_SEED: not 0 = preempt at random, land asynchronous copies in random order
    bool early = false;    // EMU_EARLY=1: asynchronous work is done when issued; otherwise at the last legal moment
    bool reverse = false;  // EMU_REVERSE=1: highest thread (and block, where blocks are independent) first
    unsigned threads = 0;  // EMU_THREADS: OS threads for the blocks of a grid; 0 = as many as the machine has. The checker uses 1
    size_t shared_limit = 232448;  // bytes of shared memory that a block may have, static and dynamic together

    static Options from_env();
};
extern Options options;  // initially from_env()

// Counters since the start of the process.
struct Stats {
    uint64_t blocks = 0, switches = 0, collectives = 0, barriers = 0;
    uint64_t ldmatrix_phases = 0, ldmatrix_conflicts = 0;  // ldmatrix and stmatrix: extra shared-memory cycles over one a phase
    uint64_t mma = 0, wgmma = 0;
};
Stats stats();
void reset_stats();

// Runs every block of a grid. `params[i]` points at the value of parameter i. Returns "" or what went wrong, with kernel, block
// and thread: a kernel that fails leaves its outputs half written, as on hardware. The caller has checked the launch itself
// (sizes, bounds, dynamic shared memory). One grid runs at a time; calls from several threads queue up.
std::string run_grid(const Kernel* kernel, dim3 grid, dim3 block, size_t dynamic_smem, void** params);

// ---- Device memory, for the checker; without EMU_CHECK these do nothing. ----

void dev_region(void* base, size_t bytes);         // the address range from which all device memory is taken; once
void dev_range(void* p, size_t bytes, bool live);  // an allocation begins (uninitialised) or ends
void dev_init(const void* p, size_t bytes);        // written by the host: a copy or memset
void dev_copy(void* dst, const void* src, size_t bytes);  // a copy on the device: what was uninitialised stays so
// Whether every byte is in live allocations and initialised: "" or where it is not. For copies to the host.
std::string dev_check(const void* p, size_t bytes);

// ---- Tensor maps: what the 128 bytes of a CUtensorMap hold here. ----

enum class TensorType : uint8_t { U8, U16, F16, BF16, U32, F32 };  // element types that copies (all) and reductions (floats) know
constexpr uint64_t TENSOR_MAP_MAGIC = 0x70616d726f736e65;
struct TensorMapImage {
    uint64_t magic;       // TENSOR_MAP_MAGIC
    uint64_t base;        // device address, 16-byte aligned
    uint64_t stride[4];   // bytes from one element to the next in dimensions 1 to 4, multiples of 16
    uint32_t dim[5];      // elements, innermost first
    uint16_t box[5];      // elements of a tile, 1 to 256
    TensorType type;
    uint8_t rank;         // 1 to 5
    uint8_t swizzle;      // as CUtensorMapSwizzle: 0 none, 1 32 bytes, 2 64 bytes, 3 128 bytes
};
static_assert(sizeof(TensorMapImage) <= 128, "a CUtensorMap has 128 bytes");
size_t element_size(TensorType type);

}  // namespace emu
