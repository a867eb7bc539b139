// What every kernel file shares: types, the kernel macros, conversions, 16-byte accesses, reductions.
//
// These files are read by two compilers. nvcc makes device code of them; a host C++ compiler (with FLANRT_EMULATE) makes
// the library that runs them on a CPU for tests (emulator/). So: no <<<>>>, no host code, no inline assembly outside
// ptx.cuh, no raw __shared__, and no waiting for a block of a higher number.
#pragma once

#ifdef FLANRT_EMULATE
#include "emu.h"
#else
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// A kernel: its lowest compute capability (80, 90), name, most threads of a block, parameters in parentheses.
#define FLANRT_KERNEL(arch, name, threads, params) extern "C" __global__ void __launch_bounds__(threads) name params
// The same, where a block waits for blocks of a lower number (the emulator runs them one after another, x fastest).
#define FLANRT_KERNEL_ORDERED(arch, name, threads, params) FLANRT_KERNEL(arch, name, threads, params)
// The same with a lower bound on the blocks that share a multiprocessor, which caps the registers.
#define FLANRT_KERNEL_MIN(arch, name, threads, blocks, params) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name params
// `T* name`: the dynamic shared memory of the launch, 1024-byte aligned.
#define FLANRT_DYN_SMEM(T, name) \
    extern __shared__ __align__(1024) unsigned char flanrt_dynamic_smem[]; \
    T* name = reinterpret_cast<T*>(flanrt_dynamic_smem)
// `T name[n]` in static shared memory. Only in kernels and functions that are instantiated once a kernel.
#define FLANRT_SHARED(T, name, n) __shared__ __align__(16) T name[n]
#define FULL_MASK 0xffffffffu
#endif

using bf16 = __nv_bfloat16;
using f16 = __half;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

#define DEVICE __device__ __forceinline__

// ---- Conversions: all arithmetic is f32; stores round to nearest even. ----

DEVICE float to_f32(float x) { return x; }
DEVICE float to_f32(bf16 x) { return __bfloat162float(x); }
DEVICE float to_f32(f16 x) { return __half2float(x); }

template <class T> DEVICE T from_f32(float x);
template <> DEVICE float from_f32<float>(float x) { return x; }
template <> DEVICE bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> DEVICE f16 from_f32<f16>(float x) { return __float2half_rn(x); }

// Two values as one 32-bit register: `lo` in the lower half, as the fragments of mma want them.
template <class T> DEVICE u32 pack2(float lo, float hi);
template <> DEVICE u32 pack2<bf16>(float lo, float hi) {
    __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<u32*>(&v);
}
template <> DEVICE u32 pack2<f16>(float lo, float hi) {
    __half2 v = __floats2half2_rn(lo, hi);
    return *reinterpret_cast<u32*>(&v);
}
template <class T> DEVICE float2 unpack2(u32 x);
template <> DEVICE float2 unpack2<bf16>(u32 x) { return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162*>(&x)); }
template <> DEVICE float2 unpack2<f16>(u32 x) { return __half22float2(*reinterpret_cast<__half2*>(&x)); }

// ---- 16-byte accesses: `LANES<T>` elements at once, as f32 in registers. ----

template <class T> constexpr int LANES = 16 / sizeof(T);

DEVICE void load16(float (&out)[4], const float* p) {
    float4 v = *reinterpret_cast<const float4*>(p);
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}
template <class T> DEVICE void load16(float (&out)[8], const T* p) {
    uint4 v = *reinterpret_cast<const uint4*>(p);
    u32 w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 f = unpack2<T>(w[i]);
        out[2 * i] = f.x, out[2 * i + 1] = f.y;
    }
}
DEVICE void store16(float* p, const float (&x)[4]) { *reinterpret_cast<float4*>(p) = make_float4(x[0], x[1], x[2], x[3]); }
template <class T> DEVICE void store16(T* p, const float (&x)[8]) {
    *reinterpret_cast<uint4*>(p) = make_uint4(pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]), pack2<T>(x[4], x[5]), pack2<T>(x[6], x[7]));
}

// ---- Reductions, always in the same order. ----

DEVICE float warp_sum(float x) {
#pragma unroll
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(FULL_MASK, x, o);
    return x;
}
DEVICE double warp_sum(double x) {
#pragma unroll
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(FULL_MASK, x, o);
    return x;
}
DEVICE float warp_max(float x) {
#pragma unroll
    for (int o = 16; o; o >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, o));
    return x;
}

// Sum over a block of WARPS warps, the same in every thread. `part` is shared memory for WARPS values and may be used again
// after the next barrier.
template <int WARPS, class F> DEVICE F block_sum(F x, F* part) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = part[0];
#pragma unroll
    for (int w = 1; w < WARPS; w++) x += part[w];
    return x;
}

DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// `FOR_DTYPES(X)`: X(suffix, type) for every storage dtype; `FOR_HALVES(X)` for the 16-bit ones.
#define FOR_HALVES(X) X(bf16, bf16) X(f16, f16)
#define FOR_DTYPES(X) X(f32, float) FOR_HALVES(X)
