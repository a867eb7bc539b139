// The inside of the emulator: one block of threads as fibers on one OS thread, and what its collectives and engines keep.
#pragma once
#include "../include/ptx_emu.h"

#include <array>
#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace emu {

constexpr int WARP = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / WARP, WARPGROUP = 128;
constexpr size_t SHARED_BYTES = 256 << 10;  // address space of a block's shared memory; options.shared_limit is what it may use
constexpr size_t SHARED_GAP = 64;           // unused bytes between two arrays, where the checker sees an overrun

struct Block;
struct Warp;

// ---- Threads ----

// A set of threads of the block.
struct ThreadSet {
    uint32_t warps = 0;  // those with lanes
    uint32_t lanes[MAX_WARPS] = {};
    void add(int thread) {
        warps |= 1u << thread / WARP;
        lanes[thread / WARP] |= 1u << thread % WARP;
    }
};

struct CpAsync {
    char* dst;
    const char* src;
    int bytes;  // read from src; the rest of the 16 is zero
};
struct BulkStore {
    TensorMapImage map;
    int at[3];
    char* src;
    bool add;
    bool done = false;       // in memory
    std::vector<char> data;  // once the source has been read
};
// Asynchronous operations of one thread in commit groups, oldest first.
template <class Op> struct Groups {
    std::vector<Op> open;
    std::deque<std::vector<Op>> committed;
    void commit() {
        committed.push_back(std::move(open));
        open.clear();
    }
    bool empty() const { return open.empty() && committed.empty(); }
};

struct Fiber : Thread {
    Warp* warp = nullptr;
    void* sp = nullptr;
    int stack = -1;             // index into the block's stacks; -1: not started
    const char* waits = "";     // the operation it waits in, for the deadlock report
    const void* caller = nullptr;  // where the kernel called the emulator last
    const void* polled = nullptr;  // last flag looked at and what it was, to tell waiting from reading
    uint64_t polled_value = 0;
    Groups<CpAsync> copies;
    Groups<BulkStore> stores;
};

// Lanes that meet under one mask. Two buffers, used in turn: a lane can be one meeting ahead of one that still reads.
struct Meeting {
    static constexpr size_t LANE_BYTES = 48;
    unsigned waiting = 0;
    int arrived = 0, inside = 0;
    unsigned phase = 0;
    const char* op = "";
    alignas(64) unsigned char buffer[2][WARP * LANE_BYTES];
};
struct Warp {
    Fiber* lane[WARP];
    int index = 0, size = 0;
    unsigned live = 0, ready = 0;
    unsigned masks[4] = {};  // of the meetings; 0: free
    Meeting meetings[4];
};

// ---- Barriers ----

struct NamedBarrier {
    int arrived = 0, expected = 0;  // expected 0: no one is there; -1: all live threads (__syncthreads)
    int count = 0, all = 1, any = 0, votes[3] = {};  // __syncthreads_count/and/or: running and of the last phase
    ThreadSet waiting;
};
struct MBarrier {
    uint32_t address;
    uint32_t count = 0, pending = 0;
    int64_t bytes = 0;  // expected, less landed
    unsigned phase = 0;
    ThreadSet waiting;
};

// ---- Engines ----

struct BulkLoad {
    TensorMapImage map;
    int at[3];
    uint32_t dst, bar;
    uint32_t ticket;  // of the checker
};
// An accumulator [64, n] that wgmmas work on, out of the threads' registers until the last of them is done.
struct Accumulator {
    float* registers[WARPGROUP] = {};
    int n = 0, pending = 0;
    std::vector<float> value;
};
struct WgmmaTask {
    Wgmma op;
    std::shared_ptr<Accumulator> d;
    std::array<std::array<uint32_t, 4>, WARPGROUP> a;  // registers of A, where they hold it
};
struct Warpgroup {
    int arrived = 0;
    const char* op = "";
    ThreadSet waiting;
    std::unique_ptr<WgmmaTask> building;
    std::vector<std::shared_ptr<Accumulator>> active;
    Groups<WgmmaTask> tasks;
    int keep = -1;        // all threads wait until so many groups are left; -1: they do not
    unsigned fenced = 0;  // warps whose registers wgmma.fence has handed over since the last wait
};

struct SharedArray {
    const void* key;
    void* p;
};

struct Block {
    const Kernel* kernel = nullptr;
    void** params = nullptr;
    std::string error;
    Stats stats;

    std::vector<Fiber> threads;
    std::vector<Warp> warps;
    int live = 0;
    uint32_t ready_warps = 0;
    uint64_t rng = 1;
    uint64_t polls = 0;  // polls in a row that saw nothing new
    void* host_sp = nullptr;
    std::vector<char*> stacks;
    std::vector<int> free_stacks;

    char* shared = nullptr;
    size_t dynamic_bytes = 0, shared_used = 0, shared_top = 0;
    std::vector<SharedArray> arrays;

    NamedBarrier barriers[16];
    std::vector<MBarrier> mbarriers;
    std::vector<BulkLoad> loads;
    Warpgroup warpgroups[MAX_THREADS / WARPGROUP];
};

extern thread_local Block* block __attribute__((tls_model("initial-exec")));
inline Fiber& current() { return *static_cast<Fiber*>(self); }

// Notes where the kernel is. The first thing in every function that kernels call.
#define EMU_ENTER() (emu::current().caller = __builtin_return_address(0))

// ---- Scheduling ----

uint64_t random_bits();
void preempt();                 // with a seed: perhaps another thread first
void park(const char* waits);   // until woken
void wake(Warp& warp, unsigned lanes);
void wake(ThreadSet& set);      // and empties it
void run_others();              // each thread that is ready, once
void poll(const void* p, uint64_t value, const char* waits);  // a flag was looked at; the same again: others run first
inline void progress() { block->polls = 0; }
std::string where(const void* caller);  // "file.cu:12", as far as the debug information tells

// ---- Shared memory ----

char* shared_pointer(uint32_t address, size_t bytes, const char* op);  // checks the range
bool finish_wgmma();           // completes what a warpgroup waits for; false: none waits
bool land_load(bool awaited);  // completes a TMA load, one that a thread waits for or any; false: there is none

// A thread or block that ends must have waited for its asynchronous work.
void check_copies(Fiber& t);
void check_stores(Fiber& t);
void check_wgmma(Fiber& t);
void check_loads();

inline uint32_t swizzle(uint32_t address, int mode) {
    return mode ? address ^ ((address >> 7 & ((1u << mode) - 1)) << 4) : address;
}

Meeting& meeting(unsigned mask, const char* op);
// The current lane joins: deposit(buffer) leaves its part, the last lane to come runs combine(buffer). The buffer stays readable
// until the next collective.
void release(const void* key);
void flip(const void* key);
void acquire(const void* key);
template <class Deposit, class Combine>
inline unsigned char* meet(unsigned mask, const char* op, Deposit deposit, Combine combine) {
    Fiber& me = current();
    Meeting& m = meeting(mask, op);
    unsigned char* buffer = m.buffer[m.phase & 1];
    deposit(buffer);
    release(&m);
    block->stats.collectives++;
    m.inside++;
    if (++m.arrived == __builtin_popcount(mask)) {
        combine(buffer);
        m.arrived = 0;
        m.phase++;
        flip(&m);
        wake(*me.warp, m.waiting);
        m.waiting = 0;
        progress();
        preempt();
    } else {
        m.waiting |= 1u << me.lane;
        park(op);
    }
    m.inside--;
    acquire(&m);
    return buffer;
}

// d[m, n] += a[m, k] . b[k, n], k ascending for every element; rows of d and b are n long, n a multiple of 8.
void multiply_add(float* d, const float* a, const float* b, int m, int n, int k);

}  // namespace emu
