// What the core tells the checker (checker.cpp). Only called where CHECKING is true.
#pragma once
#include "block.h"

namespace emu::check {

void begin_grid(int threads);
void begin_block(size_t dynamic_bytes);
void shared_array(const void* p, size_t bytes);

// An access of the current thread, from the instruction at `caller`.
void access(const void* p, size_t bytes, bool write, const void* caller);
void atomic(const void* p, size_t bytes, bool write, const void* caller);

// Order. release: the current thread's past belongs to `key`; flip: the phase is complete; acquire: what was released in complete
// phases is past.
void release(const void* key);
void flip(const void* key);
void acquire(const void* key);
void whole_block();  // __syncthreads: all the past of the block is past for everyone
// Between blocks. An atomic operation releases what a __threadfence has published; store_release (`all`) all its past.
void release_atomic(const void* p, bool all);
void acquire_atomic(const void* p);
void thread_fence();

// Asynchronous copies into shared memory. A load by TMA is a write of its own, ordered by its mbarrier alone.
void in_flight(const void* p, size_t bytes, bool on);
uint32_t load_issued();
void load_landed(const void* p, size_t bytes, const void* mbarrier, uint32_t ticket);

// The async proxy reads shared memory: `what` names the reader. hold: bytes that it reads until released (+1, -1).
void async_read(const void* p, size_t bytes, const char* what);
void hold(const void* p, size_t bytes, int change);
void fence_proxy_async();

}  // namespace emu::check
