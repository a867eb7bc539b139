// Runs grids: fibers and their switching, the choice of the next thread, deadlocks, errors, blocks on OS threads.
#include "block.h"
#include "checker.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdarg>
#include <map>
#include <mutex>
#include <thread>

#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#if !defined(__x86_64__)
#error "the emulator switches fibers with x86-64 instructions; other hosts build without it"
#endif

// Saves the callee-saved registers on the current stack and its pointer in *save, and continues on the stack `to`.
extern "C" void emu_switch(void** save, void* to);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch, .-emu_switch
)");

namespace emu {

thread_local Thread* self;
thread_local Coordinates place;
thread_local Block* block;
Kernel* kernels;
Options options = Options::from_env();

static constexpr size_t PAGE = 4096, STACK_BYTES = 128 << 10;

Options Options::from_env() {
    auto number = [](const char* name) -> uint64_t {
        const char* text = getenv(name);
        return text ? strtoull(text, nullptr, 0) : 0;
    };
    Options o;
    o.seed = number("EMU_SEED");
    o.early = number("EMU_EARLY") != 0;
    o.reverse = number("EMU_REVERSE") != 0;
    o.threads = unsigned(number("EMU_THREADS"));
    return o;
}

Kernel* find_kernel(const char* name) {
    for (Kernel* k = kernels; k; k = k->next)
        if (!strcmp(k->name, name)) return k;
    return nullptr;
}

// ---- Errors ----

std::string where(const void* caller) {
    Dl_info info;
    if (!caller || !dladdr(caller, &info) || !info.dli_fname) return "";
    char command[600];
    snprintf(command, sizeof command, "addr2line -i -e '%s' %#lx 2>/dev/null", info.dli_fname,
             static_cast<unsigned long>(static_cast<const char*>(caller) - 1 - static_cast<const char*>(info.dli_fbase)));
    // Innermost frame first. The first one in a kernel file says most; headers come before it when they were inlined.
    std::string first, best;
    if (FILE* pipe = popen(command, "r")) {
        char line[600];
        while (fgets(line, sizeof line, pipe)) {
            std::string frame(line, strcspn(line, " \n"));
            frame = frame.substr(frame.rfind('/') + 1);
            if (frame.empty() || frame[0] == '?') continue;
            if (first.empty()) first = frame;
            if (best.empty() && frame.find(".cu:") != std::string::npos) best = frame;
        }
        pclose(pipe);
    }
    return best.empty() ? first : best;
}

[[noreturn]] static void leave() {
    void* abandoned;
    emu_switch(&abandoned, block->host_sp);
    __builtin_unreachable();
}

[[noreturn]] void fail(const char* format, ...) {
    char text[1500];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    Fiber& me = current();
    const std::string line = where(me.caller);
    block->error = std::string(block->kernel->name) + ": block (" + std::to_string(place.block.x) + "," +
                   std::to_string(place.block.y) + "," + std::to_string(place.block.z) + ") thread " + std::to_string(me.index) +
                   (line.empty() ? "" : " at " + line) + ": " + text;
    leave();
}

// A fault inside a kernel becomes the grid's error, as an illegal address does on hardware; any other goes to the old handler.
static thread_local void* fault_address;
static struct sigaction old_segv, old_bus;
[[noreturn]] static void report_fault() {
    for (const char* stack : block->stacks)
        if (fault_address >= stack && fault_address < stack + PAGE)
            fail("stack overflow: local arrays of the kernel are too large");
    const char* at = static_cast<const char*>(fault_address);
    if (at >= block->shared - PAGE && at < block->shared + SHARED_BYTES + PAGE) fail("illegal address: outside shared memory");
    fail("illegal or misaligned address %p", fault_address);
}
static void on_fault(int signal, siginfo_t* info, void* context) {
    if (!self || !block) {
        sigaction(signal, signal == SIGSEGV ? &old_segv : &old_bus, nullptr);
        return;  // the instruction runs again, under the old handler
    }
    fault_address = info->si_addr;
    // Continue in report_fault on the host's stack, far below what the host still uses.
    auto* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    registers[REG_RSP] = (reinterpret_cast<greg_t>(block->host_sp) - 8192) / 16 * 16 - 8;
    registers[REG_RIP] = reinterpret_cast<greg_t>(&report_fault);
}
static void catch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &old_segv);
        sigaction(SIGBUS, &action, &old_bus);
    });
    // The fault may be a fiber's stack overflow, so every OS thread needs a stack for the handler.
    static thread_local bool have_stack = false;
    if (have_stack) return;
    have_stack = true;
    stack_t stack{};
    if (!sigaltstack(nullptr, &stack) && !(stack.ss_flags & SS_DISABLE)) return;
    stack.ss_size = 64 << 10;
    stack.ss_sp = mmap(nullptr, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack.ss_flags = 0;
    sigaltstack(&stack, nullptr);
}

// ---- Stacks ----

static int take_stack() {
    Block& b = *block;
    if (b.free_stacks.empty()) {
        char* s = static_cast<char*>(
            mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        mprotect(s, PAGE, PROT_NONE);
        b.stacks.push_back(s);
        return int(b.stacks.size()) - 1;
    }
    const int s = b.free_stacks.back();
    b.free_stacks.pop_back();
    return s;
}

// ---- Choosing ----

uint64_t random_bits() {
    uint64_t& s = block->rng;
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    return s;
}

// The bit of `set` that comes after `at` in the direction of the run, wrapping around.
static int after(uint32_t set, int at) {
    if (options.reverse) {
        const uint32_t lower = set & ((1u << at) - 1);
        return 31 - __builtin_clz(lower ? lower : set);
    }
    const uint32_t higher = set & ~((2u << at) - 1);
    return __builtin_ctz(higher ? higher : set);
}

static Fiber* random_ready() {
    Block& b = *block;
    const int w = after(b.ready_warps, int(random_bits() % 32));
    Warp& warp = b.warps[w];
    return warp.lane[after(warp.ready, int(random_bits() % 32))];
}

// Stays in the warp while it has a thread to run: warp collectives then cost one switch a lane.
static Fiber* pick() {
    Block& b = *block;
    if (options.seed) {
        if (!b.loads.empty() && random_bits() % 8 == 0) land_load(false);
        if (b.ready_warps && random_bits() % 4 == 0) return random_ready();
    }
    while (!b.ready_warps)
        if (!land_load(true) && !finish_wgmma()) return nullptr;
    Fiber& me = current();
    if (me.warp->ready) return me.warp->lane[after(me.warp->ready, me.lane)];
    Warp& warp = b.warps[after(b.ready_warps, me.warp->index)];
    return warp.lane[after(warp.ready, options.reverse ? 0 : 31)];
}

[[noreturn]] static void deadlock() {
    struct Waiting {
        int threads = 0, first = 0;
        const void* caller = nullptr;
    };
    Block& b = *block;
    std::map<std::string, Waiting> reasons;
    for (Fiber& t : b.threads) {
        if (!(t.warp->live >> t.lane & 1)) continue;
        Waiting& w = reasons[t.waits];
        if (!w.threads++) w.first = t.index, w.caller = t.caller;
    }
    std::string text;
    for (auto& [op, w] : reasons) {
        const std::string line = where(w.caller);
        text += (text.empty() ? "" : "; ") + std::to_string(w.threads) + " of " + std::to_string(b.threads.size()) +
                " threads (first " + std::to_string(w.first) + ") wait in " + op + (line.empty() ? "" : " at " + line);
    }
    for (int i = 0; i < 16; i++) {
        const NamedBarrier& n = b.barriers[i];
        if (n.arrived)
            text += "; barrier " + std::to_string(i) + " has " + std::to_string(n.arrived) + " of " +
                    std::to_string(n.expected < 0 ? b.live : n.expected) + " arrivals";
    }
    for (const MBarrier& m : b.mbarriers)
        if (m.waiting.warps) {
            char line[160];
            snprintf(line, sizeof line, "; mbarrier %#x in phase %u lacks %u of %u arrivals and %lld bytes", m.address,
                     m.phase & 1, m.pending, m.count, static_cast<long long>(m.bytes));
            text += line;
        }
    fail("deadlock: %s", text.c_str());
}

void fiber_main();

// A stack on which the first switch to the thread enters fiber_main.
static void start(Fiber& t) {
    t.stack = take_stack();
    // Stacks begin at different cache sets: lanes run in step, at the same depth.
    void** top = reinterpret_cast<void**>(block->stacks[t.stack] + STACK_BYTES - 256 - t.stack % 64 * 320);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    t.sp = top;
}

static void continue_with(Fiber* next) {
    Fiber& me = current();
    if (next == &me) return;
    block->stats.switches++;
    if (next->stack < 0) start(*next);
    self = next;
    emu_switch(&me.sp, next->sp);
}

void park(const char* waits) {
    Fiber& me = current();
    me.waits = waits;
    if (!(me.warp->ready &= ~(1u << me.lane))) block->ready_warps &= ~(1u << me.warp->index);
    Fiber* next = pick();
    if (!next) deadlock();
    continue_with(next);
}

void wake(Warp& warp, unsigned lanes) {
    if (!lanes) return;
    warp.ready |= lanes;
    block->ready_warps |= 1u << warp.index;
}
void wake(ThreadSet& set) {
    for (; set.warps; set.warps &= set.warps - 1) {
        const int w = __builtin_ctz(set.warps);
        wake(block->warps[w], set.lanes[w]);
        set.lanes[w] = 0;
    }
}

void preempt() {
    if (options.seed && random_bits() % 8 == 0) continue_with(random_ready());
}

// Goes round all threads, so that a thread that polls does not starve the one it waits for.
void run_others() {
    Block& b = *block;
    Fiber& me = current();
    const uint32_t lanes = me.warp->ready & ~((2u << me.lane) - 1);
    if (lanes) return continue_with(me.warp->lane[__builtin_ctz(lanes)]);
    const uint32_t warps = b.ready_warps & ~((2u << me.warp->index) - 1);
    Warp& warp = b.warps[__builtin_ctz(warps ? warps : b.ready_warps)];
    continue_with(warp.lane[__builtin_ctz(warp.ready)]);
}

void poll(const void* p, uint64_t value, const char* waits) {
    constexpr uint64_t POLLS = 1 << 20;  // in a row, without a change anywhere in the block: no one is left to make one
    Block& b = *block;
    Fiber& me = current();
    const bool again = me.polled == p && me.polled_value == value;
    me.polled = p;
    me.polled_value = value;
    me.waits = waits;
    if (++b.polls > POLLS) {
        if (!land_load(false)) deadlock();
        b.polls = 0;
    }
    if (again) run_others();
}
void pause() {
    EMU_ENTER();
    run_others();
}

// ---- A thread's life ----

void finish_barrier_if_complete();

// Threads that end hand their stack to the next that starts: kernels without collectives run all on one.
void fiber_main() {
    Block& b = *block;
    for (;;) {
        b.kernel->invoke(b.params);
        Fiber& me = current();
        me.caller = nullptr;
        check_copies(me);
        check_stores(me);
        check_wgmma(me);
        me.warp->live &= ~(1u << me.lane);
        if (!(me.warp->ready &= ~(1u << me.lane))) b.ready_warps &= ~(1u << me.warp->index);
        b.live--;
        progress();
        if (!b.live) {
            check_loads();
            leave();
        }
        finish_barrier_if_complete();
        Fiber* next = pick();
        if (!next) deadlock();
        if (next->stack < 0) {
            next->stack = me.stack;
            self = next;
            continue;
        }
        b.free_stacks.push_back(me.stack);
        continue_with(next);
    }
}

// ---- A block's life ----

static void map_shared(Block& b) {
    const size_t bytes = SHARED_BYTES + 2 * PAGE;
    char* m = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(m, PAGE, PROT_NONE);
    mprotect(m + PAGE + SHARED_BYTES, PAGE, PROT_NONE);
    b.shared = m + PAGE;
}

static void set_up(Block& b, int count, size_t dynamic_bytes) {
    if (!b.shared) map_shared(b);
    const dim3 d = place.block_dim;
    b.error.clear();
    b.live = count;
    b.polls = 0;
    b.threads.resize(count);
    b.warps.resize((count + WARP - 1) / WARP);
    b.ready_warps = 0;
    for (int w = 0; w < int(b.warps.size()); w++) {
        Warp& warp = b.warps[w];
        warp.index = w;
        warp.size = std::min(WARP, count - w * WARP);
        warp.live = warp.ready = warp.size == WARP ? FULL_MASK : (1u << warp.size) - 1;
        b.ready_warps |= 1u << w;
        for (unsigned& mask : warp.masks) mask = 0;
        for (Meeting& m : warp.meetings) m.waiting = 0, m.arrived = m.inside = 0;
    }
    b.free_stacks.clear();
    for (int s = int(b.stacks.size()); s-- > 0;) b.free_stacks.push_back(s);
    for (int i = 0; i < count; i++) {
        Fiber& t = b.threads[i];
        t.index = i;
        t.tid = dim3(i % d.x, i / d.x % d.y, i / (d.x * d.y));
        t.lane = i % WARP;
        t.warp = &b.warps[i / WARP];
        t.warp->lane[t.lane] = &t;
        t.stack = -1;
        t.waits = "no collective";
        t.caller = nullptr;
        t.polled = nullptr;
        t.copies = {};
        t.stores = {};
    }
    b.dynamic_bytes = b.shared_used = dynamic_bytes;
    b.shared_top = dynamic_bytes;
    b.arrays.clear();
    memset(b.shared, 0xff, dynamic_bytes);  // NaN to every reader of what no one wrote
    for (NamedBarrier& n : b.barriers) n = {};
    b.mbarriers.clear();
    b.loads.clear();
    for (Warpgroup& g : b.warpgroups) g = {};
}

static void run_block(Block& b, dim3 index, int count, size_t dynamic_bytes, uint64_t number) {
    block = &b;
    place.block = index;
    b.rng = (options.seed + number) * 0x9e3779b97f4a7c15 | 1;
    set_up(b, count, dynamic_bytes);
    if constexpr (CHECKING) check::begin_block(dynamic_bytes);
    Warp& warp = options.reverse ? b.warps.back() : b.warps.front();
    Fiber* first = warp.lane[options.reverse ? warp.size - 1 : 0];
    start(*first);
    self = first;
    emu_switch(&b.host_sp, first->sp);  // fail() and the last thread come back here
    self = nullptr;
    b.stats.blocks++;
}

// ---- Grids ----

static std::mutex stats_lock;
static Stats total;
Stats stats() {
    std::lock_guard lock(stats_lock);
    return total;
}
void reset_stats() {
    std::lock_guard lock(stats_lock);
    total = {};
}
static void add_stats(Stats& s) {
    std::lock_guard lock(stats_lock);
    static_assert(sizeof(Stats) % sizeof(uint64_t) == 0);
    auto* to = reinterpret_cast<uint64_t*>(&total);
    auto* from = reinterpret_cast<uint64_t*>(&s);
    for (size_t i = 0; i < sizeof(Stats) / sizeof(uint64_t); i++) to[i] += from[i];
    s = {};
}

namespace {
struct Grid {
    const Kernel* kernel;
    dim3 grid, dim;
    size_t dynamic_bytes;
    void** params;
    bool in_order;
    uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    std::atomic<uint64_t> next{0}, failed{UINT64_MAX};  // failed: lowest block with an error
    std::mutex lock;
    std::string error;

    Grid(const Kernel* kernel, dim3 grid, dim3 dim, size_t dynamic_bytes, void** params)
        : kernel(kernel), grid(grid), dim(dim), dynamic_bytes(dynamic_bytes), params(params),
          in_order(kernel->ordered || CHECKING) {}
};
}  // namespace

// Takes blocks of the grid until none is left.
static void work_on(Grid& g) {
    static thread_local Block* mine = new Block;
    Block& b = *mine;
    catch_faults();
    b.kernel = g.kernel;
    b.params = g.params;
    place.block_dim = g.dim;
    place.grid_dim = g.grid;
    const int count = int(g.dim.x * g.dim.y * g.dim.z);
    for (uint64_t n; (n = g.next++) < g.blocks;) {
        if (n > g.failed) break;
        const uint64_t i = options.reverse && !g.kernel->ordered ? g.blocks - 1 - n : n;
        const uint64_t row = i / g.grid.x;
        run_block(b, dim3(unsigned(i % g.grid.x), unsigned(row % g.grid.y), unsigned(row / g.grid.y)), count, g.dynamic_bytes, i);
        if (b.error.empty()) continue;
        std::lock_guard lock(g.lock);
        if (n < g.failed) {
            g.failed = n;
            g.error = b.error;
        }
        break;
    }
    add_stats(b.stats);
}

namespace {
// OS threads that wait for grids. Never ended: they hold no resource that outlives the process.
struct Pool {
    std::mutex lock;
    std::condition_variable start, done;
    Grid* grid = nullptr;
    uint64_t generation = 0;
    unsigned size = 0, wanted = 0, busy = 0;

    void grow(unsigned n) {
        for (; size < n; size++)
            std::thread([this, id = size] {
                uint64_t seen = 0;
                std::unique_lock hold(lock);
                for (;;) {
                    start.wait(hold, [&] { return generation != seen; });
                    seen = generation;
                    if (id >= wanted) continue;
                    Grid* g = grid;
                    hold.unlock();
                    work_on(*g);
                    hold.lock();
                    if (!--busy) done.notify_one();
                }
            }).detach();
    }
    void run(Grid& g, unsigned helpers) {
        if (helpers) {
            std::lock_guard hold(lock);
            grid = &g;
            wanted = busy = helpers;
            generation++;
            grow(helpers);
            start.notify_all();
        }
        work_on(g);
        if (!helpers) return;
        std::unique_lock hold(lock);
        done.wait(hold, [&] { return !busy; });
    }
};
}  // namespace

std::string run_grid(const Kernel* kernel, dim3 grid, dim3 dim, size_t dynamic_smem, void** params) {
    static std::mutex one;
    static Pool* pool = new Pool;
    std::lock_guard hold(one);
    const uint64_t threads = uint64_t(dim.x) * dim.y * dim.z;
    const std::string name = kernel->name;
    if (!threads || threads > MAX_THREADS)
        return name + ": a block of " + std::to_string(threads) + " threads, 1 to 1024 are possible";
    if (dynamic_smem > options.shared_limit)
        return name + ": " + std::to_string(dynamic_smem) + " bytes of dynamic shared memory, the device has " +
               std::to_string(options.shared_limit);
    Grid g(kernel, grid, dim, dynamic_smem, params);
    const uint64_t limit = options.threads ? options.threads : std::max(1u, std::thread::hardware_concurrency());
    const uint64_t helpers = g.in_order ? 0 : std::min(limit, g.blocks) - 1;
    if constexpr (CHECKING) check::begin_grid(int(threads));
    pool->run(g, unsigned(helpers));
    return g.error;
}

}  // namespace emu
