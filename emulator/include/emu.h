// What kernels/*.cu see instead of CUDA's headers when a host compiler builds them: the language's qualifiers and vector types,
// thread coordinates, the kernel macros, warp and block collectives, atomics, intrinsics and arithmetic functions.
//
// A CUDA thread is a fiber; a collective parks the fiber until its partners have come (emulator/src/scheduler.cpp).
// Arithmetic is the host's IEEE f32 without contraction (-ffp-contract=off), where nvcc fuses a * b + c unless told otherwise:
// kernels that must give the same bits on both write fmaf or __fmul_rn/__fadd_rn. Fast-math intrinsics are libm's functions.
#pragma once
#include "grid.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

// ---- Language ----

#define __host__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __grid_constant__
#define __launch_bounds__(...)
#define __constant__ static const

#define EMU_INLINE inline __attribute__((always_inline))
#define EMU_VECTOR(T, NAME)                                                                          \
    struct NAME##1 { T x; };                                                                         \
    struct alignas(2 * sizeof(T)) NAME##2 { T x, y; };                                               \
    struct NAME##3 { T x, y, z; };                                                                   \
    struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) NAME##4 { T x, y, z, w; };                    \
    EMU_INLINE NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                                   \
    EMU_INLINE NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }                           \
    EMU_INLINE NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTOR(float, float)
EMU_VECTOR(double, double)
EMU_VECTOR(int, int)
EMU_VECTOR(unsigned, uint)
EMU_VECTOR(short, short)
EMU_VECTOR(unsigned short, ushort)
EMU_VECTOR(signed char, char)
EMU_VECTOR(unsigned char, uchar)
EMU_VECTOR(long long, longlong)
EMU_VECTOR(unsigned long long, ulonglong)
#undef EMU_VECTOR

#include "half_types.h"

// ---- Threads ----

namespace emu {

// The part of a thread that kernels read; the scheduler's part is behind it.
struct Thread {
    dim3 tid;
    int index = 0;  // in the block
    int lane = 0;
};
struct Coordinates {
    dim3 block, block_dim, grid_dim;
};
extern thread_local Thread* self __attribute__((tls_model("initial-exec")));
extern thread_local Coordinates place __attribute__((tls_model("initial-exec")));

// Ends the grid with an error.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace emu

#define threadIdx (emu::self->tid)
#define blockIdx (emu::place.block)
#define blockDim (emu::place.block_dim)
#define gridDim (emu::place.grid_dim)
constexpr int warpSize = 32;

// ---- Kernels ----

namespace ptx {
struct TensorMap;
}
namespace emu {

template <class T> struct TypeName;
#define EMU_TYPE(T, NAME)                                                            \
    template <> struct TypeName<T> { static constexpr const char* text = NAME; };    \
    template <> struct TypeName<T*> { static constexpr const char* text = "*mut " NAME; }; \
    template <> struct TypeName<const T*> { static constexpr const char* text = "*const " NAME; };
EMU_TYPE(float, "f32")
EMU_TYPE(double, "f64")
EMU_TYPE(__nv_bfloat16, "bf16")
EMU_TYPE(__half, "f16")
EMU_TYPE(signed char, "i8")
EMU_TYPE(unsigned char, "u8")
EMU_TYPE(short, "i16")
EMU_TYPE(unsigned short, "u16")
EMU_TYPE(int, "i32")
EMU_TYPE(unsigned, "u32")
EMU_TYPE(long, "i64")
EMU_TYPE(long long, "i64")
EMU_TYPE(unsigned long, "u64")
EMU_TYPE(unsigned long long, "u64")
template <> struct TypeName<ptx::TensorMap> { static constexpr const char* text = "TensorMap"; };

// Describes a kernel function to the registry and calls it from an array of parameter addresses.
template <auto F> struct Invoker;
template <class... A, void (*F)(A...)> struct Invoker<F> {
    static_assert(sizeof...(A) <= MAX_PARAMS, "raise MAX_PARAMS in grid.h");
    template <size_t... I> static void expand(void** params, std::index_sequence<I...>) {
        F(*static_cast<std::remove_cv_t<A>*>(params[I])...);
    }
    static void call(void** params) { expand(params, std::index_sequence_for<A...>{}); }
    static void describe(Kernel& k) {
        const char* types[] = {TypeName<std::remove_cv_t<A>>::text..., nullptr};
        const size_t sizes[] = {sizeof(A)..., 0}, aligns[] = {alignof(A)..., 1};
        k.nparams = sizeof...(A);
        size_t at = 0;
        for (int i = 0; i < k.nparams; i++) {
            at = (at + aligns[i] - 1) / aligns[i] * aligns[i];
            k.type[i] = types[i], k.size[i] = sizes[i], k.offset[i] = at;
            at += sizes[i];
        }
    }
};
template <auto F> struct Register {
    Kernel kernel{};
    Register(const char* name, int arch, int threads, bool ordered) {
        kernel.name = name, kernel.min_arch = arch, kernel.max_threads = threads, kernel.ordered = ordered;
        kernel.invoke = Invoker<F>::call;
        Invoker<F>::describe(kernel);
        kernel.next = kernels;
        kernels = &kernel;
    }
};

void* dynamic_shared();
void* static_shared(const void* key, size_t bytes, size_t align);  // the block's array of this key

}  // namespace emu

#define EMU_KERNEL(arch, name, threads, ordered, params)                               \
    extern "C" void name params;                                                       \
    static emu::Register<name> emu_register_##name(#name, arch, threads, ordered);     \
    extern "C" void name params
#define FLANRT_KERNEL(arch, name, threads, params) EMU_KERNEL(arch, name, threads, false, params)
#define FLANRT_KERNEL_MIN(arch, name, threads, blocks, params) EMU_KERNEL(arch, name, threads, false, params)
#define FLANRT_KERNEL_ORDERED(arch, name, threads, params) EMU_KERNEL(arch, name, threads, true, params)
#define FLANRT_DYN_SMEM(T, name) T* name = static_cast<T*>(emu::dynamic_shared())
#define FLANRT_SHARED(T, name, n)      \
    static char emu_shared_##name;     \
    T(&name)[n] = *static_cast<T(*)[n]>(emu::static_shared(&emu_shared_##name, sizeof(T) * (n), alignof(T) < 16 ? 16 : alignof(T)))

// ---- Block and warp collectives ----

#define FULL_MASK 0xffffffffu

namespace emu {

enum class Vote { COUNT, AND, OR };
void sync_threads();
int sync_threads_vote(Vote how, bool value);
enum class Shuffle { INDEX, UP, DOWN, XOR };
uint64_t shuffle(Shuffle how, unsigned mask, uint64_t value, int operand, int width);
unsigned ballot(unsigned mask, bool value);
void sync_warp(unsigned mask);
unsigned active_mask();
void thread_fence();
void pause();  // somewhere to switch threads, inside a loop that waits

template <class T> EMU_INLINE T shuffle_any(Shuffle how, unsigned mask, T value, int operand, int width) {
    static_assert(sizeof(T) <= 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = shuffle(how, mask, bits, operand, width);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace emu

inline void __syncthreads() { emu::sync_threads(); }
inline int __syncthreads_count(int p) { return emu::sync_threads_vote(emu::Vote::COUNT, p != 0); }
inline int __syncthreads_and(int p) { return emu::sync_threads_vote(emu::Vote::AND, p != 0); }
inline int __syncthreads_or(int p) { return emu::sync_threads_vote(emu::Vote::OR, p != 0); }
inline void __syncwarp(unsigned mask = FULL_MASK) { emu::sync_warp(mask); }
inline unsigned __activemask() { return emu::active_mask(); }
inline unsigned __ballot_sync(unsigned mask, int p) { return emu::ballot(mask, p != 0); }
inline int __any_sync(unsigned mask, int p) { return emu::ballot(mask, p != 0) != 0; }
inline int __all_sync(unsigned mask, int p) { return emu::ballot(mask, p != 0) == mask; }
template <class T> EMU_INLINE T __shfl_sync(unsigned mask, T v, int lane, int width = 32) {
    return emu::shuffle_any(emu::Shuffle::INDEX, mask, v, lane, width);
}
template <class T> EMU_INLINE T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    return emu::shuffle_any(emu::Shuffle::UP, mask, v, int(delta), width);
}
template <class T> EMU_INLINE T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    return emu::shuffle_any(emu::Shuffle::DOWN, mask, v, int(delta), width);
}
template <class T> EMU_INLINE T __shfl_xor_sync(unsigned mask, T v, int lanes, int width = 32) {
    return emu::shuffle_any(emu::Shuffle::XOR, mask, v, lanes, width);
}
inline void __threadfence() { emu::thread_fence(); }
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { emu::pause(); }
[[noreturn]] inline void __trap() { emu::fail("__trap"); }
inline long long clock64() { return 0; }

// ---- Atomics ----

namespace emu {

void atomic_begin(const void* p, size_t bytes);
void atomic_end(const void* p, uint64_t old, bool changed);

// Out of the instrumented code: the checker learns of the whole operation, not of its loads and stores.
template <class T, class F> __attribute__((noinline, no_sanitize("thread"))) T atomic(T* p, F f) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics work on 4 or 8 bytes");
    atomic_begin(p, sizeof(T));
    T old, next;
    __atomic_load(p, &old, __ATOMIC_SEQ_CST);
    do next = f(old);
    while (!__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    uint64_t bits = 0;
    std::memcpy(&bits, &old, sizeof(T));
    atomic_end(p, bits, std::memcmp(&old, &next, sizeof(T)) != 0);
    return old;
}
template <class T> using Same = typename std::enable_if<true, T>::type;  // not deduced from this argument

}  // namespace emu

template <class T> T atomicAdd(T* p, emu::Same<T> v) { return emu::atomic(p, [v](T o) { return T(o + v); }); }
template <class T> T atomicSub(T* p, emu::Same<T> v) { return emu::atomic(p, [v](T o) { return T(o - v); }); }
template <class T> T atomicMax(T* p, emu::Same<T> v) { return emu::atomic(p, [v](T o) { return o < v ? v : o; }); }
template <class T> T atomicMin(T* p, emu::Same<T> v) { return emu::atomic(p, [v](T o) { return v < o ? v : o; }); }
template <class T> T atomicAnd(T* p, emu::Same<T> v) { return emu::atomic(p, [v](T o) { return T(o & v); }); }
template <class T> T atomicOr(T* p, emu::Same<T> v) { return emu::atomic(p, [v](T o) { return T(o | v); }); }
template <class T> T atomicXor(T* p, emu::Same<T> v) { return emu::atomic(p, [v](T o) { return T(o ^ v); }); }
template <class T> T atomicExch(T* p, emu::Same<T> v) { return emu::atomic(p, [v](T) { return v; }); }
template <class T> T atomicCAS(T* p, emu::Same<T> expected, emu::Same<T> v) {
    return emu::atomic(p, [expected, v](T o) { return o == expected ? v : o; });
}
inline unsigned atomicInc(unsigned* p, unsigned last) {
    return emu::atomic(p, [last](unsigned o) { return o >= last ? 0u : o + 1; });
}

// ---- Loads and stores with cache hints ----

template <class T> EMU_INLINE T __ldg(const T* p) { return *p; }
template <class T> EMU_INLINE T __ldca(const T* p) { return *p; }
template <class T> EMU_INLINE T __ldcg(const T* p) { return *p; }
template <class T> EMU_INLINE T __ldcs(const T* p) { return *p; }
template <class T> EMU_INLINE T __ldlu(const T* p) { return *p; }
template <class T> EMU_INLINE T __ldcv(const T* p) { return *p; }
template <class T> EMU_INLINE void __stwb(T* p, T v) { *p = v; }
template <class T> EMU_INLINE void __stcg(T* p, T v) { *p = v; }
template <class T> EMU_INLINE void __stcs(T* p, T v) { *p = v; }
template <class T> EMU_INLINE void __stwt(T* p, T v) { *p = v; }

// ---- Bits ----

template <class To, class From> EMU_INLINE To emu_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
EMU_INLINE float __uint_as_float(unsigned x) { return emu_bits<float>(x); }
EMU_INLINE unsigned __float_as_uint(float x) { return emu_bits<unsigned>(x); }
EMU_INLINE float __int_as_float(int x) { return emu_bits<float>(x); }
EMU_INLINE int __float_as_int(float x) { return emu_bits<int>(x); }
EMU_INLINE double __longlong_as_double(long long x) { return emu_bits<double>(x); }
EMU_INLINE long long __double_as_longlong(double x) { return emu_bits<long long>(x); }
EMU_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
EMU_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
EMU_INLINE int __ffs(int x) { return __builtin_ffs(x); }
EMU_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
EMU_INLINE int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
EMU_INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
    return r;
}
EMU_INLINE unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
EMU_INLINE int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
EMU_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
EMU_INLINE unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned s) {
    return unsigned((((unsigned long long)hi << 32 | lo) << (s & 31)) >> 32);
}
EMU_INLINE unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned s) {
    return unsigned(((unsigned long long)hi << 32 | lo) >> (s & 31));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned s = selector >> 4 * i & 15;
        unsigned b = unsigned(bytes >> 8 * (s & 7)) & 0xff;
        if (s & 8) b = b & 0x80 ? 0xff : 0;
        r |= b << 8 * i;
    }
    return r;
}

// ---- Arithmetic ----

template <class A, class B> EMU_INLINE std::common_type_t<A, B> min(A a, B b) {
    using C = std::common_type_t<A, B>;
    return C(b) < C(a) ? C(b) : C(a);
}
template <class A, class B> EMU_INLINE std::common_type_t<A, B> max(A a, B b) {
    using C = std::common_type_t<A, B>;
    return C(a) < C(b) ? C(b) : C(a);
}
EMU_INLINE float min(float a, float b) { return fminf(a, b); }
EMU_INLINE float max(float a, float b) { return fmaxf(a, b); }
EMU_INLINE double min(double a, double b) { return fmin(a, b); }
EMU_INLINE double max(double a, double b) { return fmax(a, b); }

EMU_INLINE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
EMU_INLINE double rsqrt(double x) { return 1.0 / ::sqrt(x); }
EMU_INLINE float __expf(float x) { return expf(x); }
EMU_INLINE float __exp2f(float x) { return exp2f(x); }
EMU_INLINE float __logf(float x) { return logf(x); }
EMU_INLINE float __log2f(float x) { return log2f(x); }
EMU_INLINE float __log10f(float x) { return log10f(x); }
EMU_INLINE float __powf(float x, float y) { return powf(x, y); }
EMU_INLINE float __sinf(float x) { return sinf(x); }
EMU_INLINE float __cosf(float x) { return cosf(x); }
EMU_INLINE void __sincosf(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
EMU_INLINE float __tanhf(float x) { return tanhf(x); }
EMU_INLINE float __fdividef(float a, float b) { return a / b; }
EMU_INLINE float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
EMU_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
EMU_INLINE float __fmul_rn(float a, float b) { return a * b; }
EMU_INLINE float __fadd_rn(float a, float b) { return a + b; }
EMU_INLINE float __fsub_rn(float a, float b) { return a - b; }
EMU_INLINE float __fdiv_rn(float a, float b) { return a / b; }
EMU_INLINE float __frcp_rn(float x) { return 1.0f / x; }
EMU_INLINE float __fsqrt_rn(float x) { return sqrtf(x); }
EMU_INLINE float __frsqrt_rn(float x) { return float(1.0 / ::sqrt(double(x))); }
EMU_INLINE double __fma_rn(double a, double b, double c) { return ::fma(a, b, c); }
EMU_INLINE double __dmul_rn(double a, double b) { return a * b; }
EMU_INLINE double __dadd_rn(double a, double b) { return a + b; }

// Conversions to integers saturate and turn NaN into 0, as the instruction does.
template <class I> inline I emu_to_integer(double x) {
    if (x != x) return 0;
    if (x <= double(std::numeric_limits<I>::min())) return std::numeric_limits<I>::min();
    if (x >= double(std::numeric_limits<I>::max())) return std::numeric_limits<I>::max();
    return I(x);
}
EMU_INLINE int __float2int_rn(float x) { return emu_to_integer<int>(rintf(x)); }
EMU_INLINE int __float2int_rz(float x) { return emu_to_integer<int>(truncf(x)); }
EMU_INLINE int __float2int_rd(float x) { return emu_to_integer<int>(floorf(x)); }
EMU_INLINE int __float2int_ru(float x) { return emu_to_integer<int>(ceilf(x)); }
EMU_INLINE unsigned __float2uint_rn(float x) { return emu_to_integer<unsigned>(rintf(x)); }
EMU_INLINE unsigned __float2uint_rz(float x) { return emu_to_integer<unsigned>(truncf(x)); }
EMU_INLINE float __int2float_rn(int x) { return float(x); }
EMU_INLINE float __uint2float_rn(unsigned x) { return float(x); }
EMU_INLINE float __ll2float_rn(long long x) { return float(x); }
EMU_INLINE float __ull2float_rn(unsigned long long x) { return float(x); }
EMU_INLINE float __double2float_rn(double x) { return float(x); }
EMU_INLINE double __int2double_rn(int x) { return double(x); }
