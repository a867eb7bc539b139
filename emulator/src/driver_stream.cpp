// Streams and events: queues of work that run when they are waited for.
#include "driver.h"

#include <algorithm>
#include <chrono>

namespace driver {

// 0 and 1 are the legacy default stream.
std::shared_ptr<Stream> find_stream(void* handle) {
    if (reinterpret_cast<uintptr_t>(handle) <= 1) return state().legacy;
    auto found = state().streams.find(handle);
    return found == state().streams.end() ? nullptr : found->second;
}

static Result no_stream(void* handle) { return refuse(INVALID_HANDLE, "%p is not a stream that lives", handle); }

uint64_t next_random() {
    uint64_t& r = state().random;
    r ^= r << 13, r ^= r >> 7, r ^= r << 17;
    return r;
}

static std::vector<std::shared_ptr<Stream>> all_streams() {
    std::vector<std::shared_ptr<Stream>> all = state().destroyed;
    all.push_back(state().legacy);
    for (auto& [handle, stream] : state().streams) all.push_back(stream);
    // Not in the order of addresses, which differs from run to run.
    std::sort(all.begin(), all.end(), [](auto& a, auto& b) { return a->number < b->number; });
    return all;
}

static void run_next(Stream& stream) {
    Op op = std::move(stream.queue.front());
    stream.queue.pop_front();
    for (auto& point : op.after)
        if (reach(point)) return;
    if (Result result = op.work()) state().failure = result;
    stream.done++;
}

Result reach(const Point& point) {
    if (point.stream)
        while (!state().failure && point.stream->done < point.count) run_next(*point.stream);
    return state().failure;
}

Result drain(const std::shared_ptr<Stream>& stream) { return reach({stream, stream->issued}); }

Result drain_all() {
    auto streams = all_streams();
    // Any order of independent streams is a legal one.
    for (size_t i = streams.size(); emu::options.seed && i > 1; i--) std::swap(streams[i - 1], streams[next_random() % i]);
    for (auto& stream : streams) drain(stream);
    state().destroyed.clear();
    return state().failure;
}

// With a seed, a stream may run ahead whenever something is queued.
static void wander() {
    if (!emu::options.seed || next_random() % 4) return;
    auto streams = all_streams();
    auto& stream = streams[next_random() % streams.size()];
    if (!stream->queue.empty()) run_next(*stream);
}

void invalidate(const std::shared_ptr<Capture>& capture) { capture->invalid = true; }

Result unsafe_in_capture() {
    enum { GLOBAL, THREAD_LOCAL, RELAXED };
    for (auto& capture : state().captures) {
        bool own = capture->thread == std::this_thread::get_id();
        if (capture->mode == GLOBAL || (capture->mode == THREAD_LOCAL && own)) {
            invalidate(capture);
            return refuse(CAPTURE_UNSUPPORTED, "not allowed while a stream captures; the capture is lost");
        }
    }
    return SUCCESS;
}

Result enqueue(void* handle, Work work, std::vector<Point> after) {
    auto stream = find_stream(handle);
    if (!stream) return no_stream(handle);
    if (stream->capture) {
        if (stream->capture->invalid) return refuse(CAPTURE_INVALIDATED, "the capture was lost by an earlier error");
        stream->capture->nodes.push_back({std::move(work), stream->tail});
        stream->tail = {int(stream->capture->nodes.size()) - 1};
        return SUCCESS;
    }
    // The legacy default stream and the blocking streams wait for each other.
    if (stream == state().legacy) {
        for (auto& other : all_streams()) {
            if (other == stream || !other->blocking) continue;
            if (other->capture) {
                invalidate(other->capture);
                return refuse(CAPTURE_IMPLICIT, "work in the default stream would wait for a stream that captures");
            }
            if (other->done < other->issued) after.push_back({other, other->issued});
        }
    } else if (stream->blocking && state().legacy->done < state().legacy->issued) {
        after.push_back({state().legacy, state().legacy->issued});
    }
    stream->queue.push_back({std::move(work), std::move(after)});
    stream->issued++;
    if (state().settings.eager) return drain(stream);
    wander();
    return state().failure;
}

static double milliseconds() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static Event* find_event(void* handle) {
    auto found = state().events.find(handle);
    return found == state().events.end() ? nullptr : found->second.get();
}

static Result no_event(void* handle) { return refuse(INVALID_HANDLE, "%p is not an event that lives", handle); }

static Result not_while_capturing(const std::shared_ptr<Stream>& stream) {
    if (!stream->capture) return SUCCESS;
    invalidate(stream->capture);
    return refuse(CAPTURE_UNSUPPORTED, "the stream captures: its work has not run and cannot be waited for");
}

static Result create_stream(void** handle, unsigned flags, int priority) {
    REQUIRE(handle);
    if (flags > 1) return refuse(INVALID_VALUE, "flags %#x; 0 (blocking) and 1 (non-blocking) exist", flags);
    auto stream = std::make_shared<Stream>();
    stream->number = ++state().streams_made;
    stream->blocking = flags == 0;
    stream->priority = std::min(0, std::max(-5, priority));
    state().streams[stream.get()] = stream;
    *handle = stream.get();
    return SUCCESS;
}

}  // namespace driver

using namespace driver;

// ---- streams ----

CU_API cuStreamCreate(void** stream, unsigned flags) {
    ENTER();
    return create_stream(stream, flags, 0);
}

CU_API cuStreamCreateWithPriority(void** stream, unsigned flags, int priority) {
    ENTER();
    return create_stream(stream, flags, priority);
}

CU_API cuStreamGetPriority(void* handle, int* priority) {
    ENTER();
    REQUIRE(priority);
    auto stream = find_stream(handle);
    if (!stream) return no_stream(handle);
    *priority = stream->priority;
    return SUCCESS;
}

// The stream's work still runs.
CU_API cuStreamDestroy_v2(void* handle) {
    ENTER();
    auto found = state().streams.find(handle);
    if (found == state().streams.end()) return no_stream(handle);
    if (found->second->capture) invalidate(found->second->capture);
    if (found->second->done < found->second->issued) state().destroyed.push_back(found->second);
    state().streams.erase(found);
    return SUCCESS;
}

CU_API cuStreamSynchronize(void* handle) {
    ENTER();
    auto stream = find_stream(handle);
    if (!stream) return no_stream(handle);
    if (Result result = not_while_capturing(stream)) return result;
    // An empty operation collects what the default stream must wait for.
    if (Result result = enqueue(handle, [] { return SUCCESS; })) return result;
    return drain(stream);
}

// Asking makes progress, so that a loop that asks ends; the answer is the one from before.
CU_API cuStreamQuery(void* handle) {
    ENTER();
    auto stream = find_stream(handle);
    if (!stream) return no_stream(handle);
    if (Result result = not_while_capturing(stream)) return result;
    if (stream->done == stream->issued) return SUCCESS;
    Result result = drain(stream);
    return result ? result : NOT_READY;
}

CU_API cuStreamWaitEvent(void* handle, void* event_handle, unsigned flags) {
    ENTER();
    auto stream = find_stream(handle);
    if (!stream) return no_stream(handle);
    Event* event = find_event(event_handle);
    if (!event) return no_event(event_handle);
    if (flags) return refuse(NOT_SUPPORTED, "flags %#x; only 0 is emulated", flags);
    if (event->capture) {
        if (event->capture->ended) return refuse(CAPTURED_EVENT, "the event was recorded in a capture that has ended");
        if (stream->capture && stream->capture != event->capture) {
            invalidate(stream->capture);
            invalidate(event->capture);
            return refuse(CAPTURE_MERGE, "the event belongs to another capture");
        }
        if (!stream->capture && stream == state().legacy)
            return refuse(CAPTURE_IMPLICIT, "the default stream cannot join a capture");
        if (!stream->capture) stream->tail.clear();
        stream->capture = event->capture;
        for (int node : event->nodes)
            if (std::find(stream->tail.begin(), stream->tail.end(), node) == stream->tail.end()) stream->tail.push_back(node);
        return SUCCESS;
    }
    if (stream->capture) {
        invalidate(stream->capture);
        return refuse(CAPTURE_ISOLATION, "the stream captures and the event was recorded outside of that capture");
    }
    if (!event->recorded.stream) return SUCCESS;
    return enqueue(handle, [] { return SUCCESS; }, {event->recorded});
}

// `function(data)` runs in the stream, on whatever thread waits for it.
CU_API cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    ENTER();
    REQUIRE(function);
    return enqueue(stream, [=] {
        state().in_callback = true;
        function(data);
        state().in_callback = false;
        return SUCCESS;
    });
}

// ---- events ----

CU_API cuEventCreate(void** handle, unsigned flags) {
    ENTER();
    REQUIRE(handle);
    if (flags & ~3u) return refuse(NOT_SUPPORTED, "flags %#x; blocking 1 and untimed 2 are emulated", flags);
    auto event = std::make_unique<Event>();
    event->timed = !(flags & 2);
    *handle = event.get();
    state().events[*handle] = std::move(event);
    return SUCCESS;
}

CU_API cuEventDestroy_v2(void* handle) {
    ENTER();
    return state().events.erase(handle) ? SUCCESS : no_event(handle);
}

CU_API cuEventRecord(void* handle, void* stream_handle) {
    ENTER();
    Event* event = find_event(handle);
    if (!event) return no_event(handle);
    auto stream = find_stream(stream_handle);
    if (!stream) return no_stream(stream_handle);
    event->recorded = {};
    event->time = std::make_shared<double>(0);
    event->capture = stream->capture;
    event->nodes = stream->tail;
    if (stream->capture) return SUCCESS;
    if (Result result = enqueue(stream_handle, [time = event->time] {
            *time = milliseconds();
            return SUCCESS;
        }))
        return result;
    event->recorded = {stream, stream->issued};
    return SUCCESS;
}

static Result not_captured(const Event& event) {
    return event.capture ? refuse(CAPTURED_EVENT, "the event was recorded in a capture and never happens by itself") : SUCCESS;
}

CU_API cuEventSynchronize(void* handle) {
    ENTER();
    Event* event = find_event(handle);
    if (!event) return no_event(handle);
    if (Result result = not_captured(*event)) return result;
    return reach(event->recorded);
}

CU_API cuEventQuery(void* handle) {
    ENTER();
    Event* event = find_event(handle);
    if (!event) return no_event(handle);
    if (Result result = not_captured(*event)) return result;
    const Point& point = event->recorded;
    if (!point.stream || point.stream->done >= point.count) return SUCCESS;
    Result result = reach(point);
    return result ? result : NOT_READY;
}

CU_API cuEventElapsedTime(float* duration, void* first, void* second) {
    ENTER();
    REQUIRE(duration);
    Event* events[] = {find_event(first), find_event(second)};
    for (Event* event : events) {
        if (!event) return no_event(event == events[0] ? first : second);
        if (Result result = not_captured(*event)) return result;
        if (!event->timed) return refuse(INVALID_HANDLE, "an event was made without timing");
        if (!event->recorded.stream) return refuse(INVALID_HANDLE, "an event was never recorded");
        if (event->recorded.stream->done < event->recorded.count) return NOT_READY;
    }
    *duration = float(*events[1]->time - *events[0]->time);
    return SUCCESS;
}
CU_API cuEventElapsedTime_v2(float* duration, void* first, void* second) { return cuEventElapsedTime(duration, first, second); }
