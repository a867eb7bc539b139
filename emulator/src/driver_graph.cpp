// Stream capture and graphs. A captured operation keeps its arguments by value, and which operations it comes after; a
// launch runs the operations in an order that these allow: as captured, last possible first with EMU_REVERSE, or at random
// with EMU_SEED.
#include "driver.h"

#include <algorithm>

namespace driver {

Result run_graph(const Graph& graph) {
    std::vector<int> missing(graph.size()), ready;
    std::vector<std::vector<int>> followers(graph.size());
    for (size_t n = 0; n < graph.size(); n++) {
        missing[n] = int(graph[n].after.size());
        for (int before : graph[n].after) followers[before].push_back(int(n));
        if (!missing[n]) ready.push_back(int(n));
    }
    while (!ready.empty()) {
        auto pick = std::min_element(ready.begin(), ready.end());
        if (emu::options.reverse) pick = std::max_element(ready.begin(), ready.end());
        if (emu::options.seed) pick = ready.begin() + next_random() % ready.size();
        int node = *pick;
        ready.erase(pick);
        if (Result result = graph[node].work()) return result;
        for (int next : followers[node])
            if (!--missing[next]) ready.push_back(next);
    }
    return SUCCESS;
}

// Every node leads to the end of the stream that began the capture.
static bool joined(const Graph& graph, const std::vector<int>& tail) {
    std::vector<bool> reached(graph.size());
    for (int node : tail) reached[node] = true;
    for (size_t n = graph.size(); n-- > 0;)
        if (reached[n])
            for (int before : graph[n].after) reached[before] = true;
    return std::find(reached.begin(), reached.end(), false) == reached.end();
}

static void end_capture(const std::shared_ptr<Capture>& capture) {
    capture->ended = true;
    for (auto& [handle, stream] : state().streams) {
        if (stream->capture != capture) continue;
        stream->capture = nullptr;
        stream->tail.clear();
    }
    auto& all = state().captures;
    all.erase(std::remove(all.begin(), all.end(), capture), all.end());
}

static Result no_stream(void* handle) { return refuse(INVALID_HANDLE, "%p is not a stream that lives", handle); }

static Result find_exec(void* handle, GraphExec** exec) {
    auto found = state().execs.find(handle);
    if (found == state().execs.end()) return refuse(INVALID_HANDLE, "%p is not an executable graph that lives", handle);
    *exec = found->second.get();
    return SUCCESS;
}

}  // namespace driver

using namespace driver;

// ---- capture ----

CU_API cuStreamBeginCapture_v2(void* handle, int mode) {
    ENTER();
    auto stream = find_stream(handle);
    if (!stream) return no_stream(handle);
    if (stream == state().legacy) return refuse(CAPTURE_UNSUPPORTED, "the default stream cannot capture; create a stream");
    if (stream->capture) return refuse(INVALID_VALUE, "the stream captures already");
    if (mode < 0 || mode > 2) return refuse(INVALID_VALUE, "mode %d; 0 (global), 1 (thread) and 2 (relaxed) exist", mode);
    static uint64_t captures = 0;
    auto capture = std::make_shared<Capture>();
    capture->origin = stream.get();
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->id = ++captures;
    stream->capture = capture;
    stream->tail.clear();
    state().captures.push_back(capture);
    return SUCCESS;
}

CU_API cuStreamEndCapture(void* handle, void** graph) {
    ENTER();
    REQUIRE(graph);
    *graph = nullptr;
    auto stream = find_stream(handle);
    if (!stream) return no_stream(handle);
    auto capture = stream->capture;
    if (!capture) return refuse(INVALID_VALUE, "the stream does not capture");
    if (capture->origin != stream.get()) return refuse(CAPTURE_UNMATCHED, "the capture began in another stream");
    if (capture->mode != 2 && capture->thread != std::this_thread::get_id())
        return refuse(CAPTURE_WRONG_THREAD, "the capture began in another thread");
    bool complete = joined(capture->nodes, stream->tail);
    end_capture(capture);
    if (capture->invalid) return refuse(CAPTURE_INVALIDATED, "the capture was lost by an earlier error");
    if (!complete) return refuse(CAPTURE_UNJOINED, "a stream that joined the capture was not waited for at its end");
    auto made = std::make_shared<Graph>(std::move(capture->nodes));
    *graph = made.get();
    state().graphs[*graph] = made;
    return SUCCESS;
}

// CUstreamCaptureStatus
static int status(const Stream& stream) {
    enum { NONE, ACTIVE, INVALIDATED };
    return !stream.capture ? NONE : stream.capture->invalid ? INVALIDATED : ACTIVE;
}

CU_API cuStreamIsCapturing(void* handle, int* result) {
    ENTER();
    REQUIRE(result);
    auto stream = find_stream(handle);
    if (!stream) return no_stream(handle);
    *result = status(*stream);
    return SUCCESS;
}

CU_API cuStreamGetCaptureInfo(void* handle, int* result, uint64_t* id) {
    ENTER();
    REQUIRE(result);
    auto stream = find_stream(handle);
    if (!stream) return no_stream(handle);
    *result = status(*stream);
    if (id && stream->capture) *id = stream->capture->id;
    return SUCCESS;
}

// ---- graphs ----

CU_API cuGraphInstantiateWithFlags(void** handle, void* graph, uint64_t) {
    ENTER();
    REQUIRE(handle);
    auto found = state().graphs.find(graph);
    if (found == state().graphs.end()) return refuse(INVALID_HANDLE, "%p is not a graph that lives", graph);
    auto exec = std::make_unique<GraphExec>();
    exec->graph = found->second;
    *handle = exec.get();
    state().execs[*handle] = std::move(exec);
    return SUCCESS;
}

CU_API cuGraphUpload(void* handle, void* stream) {
    ENTER();
    GraphExec* exec = nullptr;
    if (Result result = find_exec(handle, &exec)) return result;
    return find_stream(stream) ? SUCCESS : no_stream(stream);
}

CU_API cuGraphLaunch(void* handle, void* stream) {
    ENTER();
    GraphExec* exec = nullptr;
    if (Result result = find_exec(handle, &exec)) return result;
    auto found = find_stream(stream);
    if (!found) return no_stream(stream);
    if (found->capture) return refuse(NOT_SUPPORTED, "graphs inside graphs are not emulated");
    state().counts.graph_launches++;
    if (Result result = enqueue(stream, [graph = exec->graph] { return run_graph(*graph); }, {exec->last})) return result;
    exec->last = {found, found->issued};
    return SUCCESS;
}

CU_API cuGraphExecDestroy(void* handle) {
    ENTER();
    GraphExec* exec = nullptr;
    if (Result result = find_exec(handle, &exec)) return result;
    state().execs.erase(handle);
    return SUCCESS;
}

CU_API cuGraphDestroy(void* graph) {
    ENTER();
    return state().graphs.erase(graph) ? SUCCESS : refuse(INVALID_HANDLE, "%p is not a graph that lives", graph);
}
