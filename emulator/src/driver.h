// What the parts of the emulated CUDA driver share: result codes, the state behind the handles, and how work is queued.
//
// The library exports the `cu*` functions that the runtime calls, under the names cudarc looks up. One mutex guards
// everything, kernels included. Streams are lazy: an operation is queued and runs only when something waits for it, so a
// missing event wait or synchronisation reads poison instead of working by luck. EMU_EAGER=1 runs everything at once, and
// EMU_SEED lets streams run ahead at random.
#pragma once
#include "grid.h"

#include <cstdarg>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace driver {

// CUresult, as far as this driver returns it.
enum Result : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    LAUNCH_FAILED = 719,
    NOT_PERMITTED = 800,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_MERGE = 902,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
};

using DevicePtr = unsigned long long;
using Work = std::function<Result()>;

struct Stream;

// The first `count` operations of a stream.
struct Point {
    std::shared_ptr<Stream> stream;
    uint64_t count = 0;
};

struct Node {
    Work work;
    std::vector<int> after;  // nodes that must have run
};
using Graph = std::vector<Node>;

struct Capture {
    Graph nodes;
    const Stream* origin = nullptr;
    int mode = 0;
    std::thread::id thread;
    uint64_t id = 0;
    bool invalid = false, ended = false;
};

struct Op {
    Work work;
    std::vector<Point> after;  // what other streams must have done before
};

struct Stream {
    uint64_t number = 0;  // in the order of creation; the legacy default stream is 0
    std::deque<Op> queue;
    uint64_t issued = 0, done = 0;
    bool blocking = true;  // ordered with the legacy default stream
    int priority = 0;
    std::shared_ptr<Capture> capture;
    std::vector<int> tail;  // nodes that the next captured operation comes after
};

struct Event {
    bool timed = true;
    Point recorded;
    std::shared_ptr<double> time;      // milliseconds, once the record has run
    std::shared_ptr<Capture> capture;  // set instead of `recorded` by a record in a capturing stream
    std::vector<int> nodes;
};

struct GraphExec {
    std::shared_ptr<const Graph> graph;
    Point last;  // launches of one executable graph follow each other
};

struct Module;
struct Function {
    const emu::Kernel* kernel;
    int dynamic_limit;  // bytes of dynamic shared memory that a launch may ask for
};
struct Module {
    std::vector<std::unique_ptr<Function>> functions;  // by name
};

struct Allocation {
    char* start;
    size_t bytes;
    char* pages;  // first page, and bytes of all pages; the rest around the allocation holds poison
    size_t span;
    bool stream_ordered;
};

struct Settings {
    size_t memory = size_t(1) << 30;  // EMU_MEM: bytes of device memory
    int capability = 90;              // EMU_CC: 90 or 9.0
    int multiprocessors = 4;          // EMU_SMS: few, so that persistent grids stay cheap
    bool eager = false;               // EMU_EAGER
};

// Counts since the library was loaded.
struct Counts {
    uint64_t launches = 0, graph_launches = 0, allocations = 0;
};

struct State {
    std::recursive_mutex mutex;
    bool initialised = false;
    int contexts = 0;  // references to the primary context
    Settings settings;
    Counts counts;
    Result failure = SUCCESS;  // sticky: what every call returns from then on
    std::string last_error;
    Result last_code = SUCCESS;
    uint64_t random = 1;
    bool in_callback = false;  // a host function of a stream runs

    std::shared_ptr<Stream> legacy = std::make_shared<Stream>();
    std::unordered_map<void*, std::shared_ptr<Stream>> streams;
    uint64_t streams_made = 0;
    std::vector<std::shared_ptr<Stream>> destroyed;  // streams whose work is still to run
    std::unordered_map<void*, std::unique_ptr<Event>> events;
    std::unordered_map<void*, std::shared_ptr<Graph>> graphs;
    std::unordered_map<void*, std::unique_ptr<GraphExec>> execs;
    std::unordered_map<void*, std::unique_ptr<Module>> modules;
    std::unordered_map<void*, Function*> functions;
    std::vector<std::shared_ptr<Capture>> captures;  // under way
    std::map<std::string, uint64_t> launched;        // launches of each kernel

    std::map<char*, Allocation> memory;   // by start
    std::map<char*, size_t> pinned;       // host memory of cuMemHostAlloc, by start
    size_t used = 0;
};
State& state();

// ---- errors (driver.cpp) ----

// Refuses a call: keeps and prints the reason, returns `code`. The driver stays usable.
Result refuse(Result code, const char* format, ...) __attribute__((format(printf, 2, 3)));
// An operation failed while it ran: like `refuse`, and from now on every call returns `code`.
Result broken(Result code, const char* format, ...) __attribute__((format(printf, 2, 3)));
const char* error_name(int code);
// The checks of every call that does work; `call` names it in messages.
Result enter(const char* call);
// The same for calls that only look something up: no context, no sticky failure.
Result enter_query(const char* call);

// ---- streams (driver_stream.cpp) ----

std::shared_ptr<Stream> find_stream(void* handle);  // null: no such stream
Result enqueue(void* handle, Work work, std::vector<Point> after = {});
Result reach(const Point& point);
Result drain(const std::shared_ptr<Stream>& stream);
Result drain_all();
uint64_t next_random();
// Refuses what is not allowed while this thread captures, and spoils the capture, as the real driver does.
Result unsafe_in_capture();
void invalidate(const std::shared_ptr<Capture>& capture);

// ---- memory (driver_memory.cpp) ----

const Allocation* find_allocation(const void* address);  // that holds the address or ends at it
std::string describe(const void* address);
Result check_guards(const char* kernel);  // nothing was written just outside an allocation
void release_memory();

// ---- graphs (driver_graph.cpp) ----

Result run_graph(const Graph& graph);

// ---- device (driver_device.cpp) ----

int dynamic_shared_limit();  // bytes a block may have when the function allows them
bool runs_on_device(const emu::Kernel& kernel);

}  // namespace driver

#define CU_API extern "C" __attribute__((visibility("default"))) int
#define ENTER() \
    std::lock_guard<std::recursive_mutex> lock(driver::state().mutex); \
    if (auto entered = driver::enter(__func__)) return entered
#define ENTER_QUERY() \
    std::lock_guard<std::recursive_mutex> lock(driver::state().mutex); \
    if (auto entered = driver::enter_query(__func__)) return entered
#define REQUIRE(pointer) \
    if (!(pointer)) return refuse(INVALID_VALUE, #pointer " is null")
