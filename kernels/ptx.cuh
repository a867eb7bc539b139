// Every PTX instruction that the kernels use, one small function each; nothing else in kernels/ contains assembly.
// The emulator has a plain twin of each (emulator/include/ptx_emu.h). Shared addresses are 32-bit, as the instructions take them.
//
// A change here asks for the conformance run on hardware (scripts/gpu.sh): only there the strings meet a real machine.
#pragma once
#include "common.cuh"

// Defined where the instructions of the section "sm_90" are: bodies of Hopper kernels stand in #ifdef FLANRT_SM90, so that a
// file compiles for every architecture.
#if defined(FLANRT_EMULATE) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FLANRT_SM90
#endif

namespace ptx {

// A CUtensorMap. Kernels take it as `const __grid_constant__ ptx::TensorMap`.
struct alignas(64) TensorMap {
    u64 opaque[16];
};

// Shared-memory descriptors of wgmma operands in tiles as TMA writes them with the 128-byte swizzle: rows of 64 16-bit elements,
// tiles at multiples of 1024 bytes.
//
// K-major: a row holds 64 consecutive k of one m (or n), 8 rows are 1024 bytes. The next 16 k: `addr` + 32.
DEVICE u64 desc_k_major(u32 addr) { return static_cast<u64>((addr & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62; }
// MN-major: a row holds 64 consecutive m (or n) of one k; `next` bytes from there to the tile with the following 64 (8192 for
// tiles of 64 k). The next 16 k: `addr` + 2048.
DEVICE u64 desc_mn_major(u32 addr, u32 next) {
    return static_cast<u64>((addr & 0x3ffff) >> 4) | static_cast<u64>(next >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

}  // namespace ptx

#ifdef FLANRT_EMULATE
#include "ptx_emu.h"
#else
namespace ptx {

DEVICE u32 smem_u32(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

// ---- sm_80: matrix fragments ----

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8. Lane l gets elements
// 2 (l % 4), 2 (l % 4) + 1 of row l / 4 of each.
DEVICE void ldmatrix_x4(u32 (&r)[4], u32 addr) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(addr)
                 : "memory");
}
// The same, each matrix transposed.
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], u32 addr) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(addr)
                 : "memory");
}

// d += a . b with d [16, 8] f32, a [16, 16], b [16, 8]. Lane l, group g = l / 4, pair c = 2 (l % 4):
// a: rows g, g + 8, g, g + 8; columns c.., c.., c + 8.., c + 8..   b: rows c.., c + 8..; column g   d: rows g, g, g + 8, g + 8;
// columns c, c + 1, c, c + 1.
template <class T> DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
template <> DEVICE void mma_m16n8k16<bf16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> DEVICE void mma_m16n8k16<f16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- sm_80: asynchronous copies, global to shared ----

// 16 bytes, past L1; only the first `bytes` (0 to 16) are read, the rest becomes zero. Both sides 16-byte aligned.
DEVICE void cp_async16(u32 dst, const void* src, int bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(__cvta_generic_to_global(src)), "r"(bytes) : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N groups of this thread are still under way.
template <int N> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// ---- barriers and order between threads ----

// Named barrier 1 to 15 for `threads` threads; 0 is __syncthreads.
DEVICE void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void bar_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// A flag between blocks: what was written before the release is seen after an acquire that reads its value.
DEVICE u32 load_acquire(const u32* p) {
    u32 v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(__cvta_generic_to_global(p)) : "memory");
    return v;
}
DEVICE void store_release(u32* p, u32 v) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(p)), "r"(v) : "memory");
}

// ---- arithmetic ----

// 2^x, about two units in the last place; exactly 0 for -inf, exactly 1 for 0.
DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#ifdef FLANRT_SM90

// ---- sm_90: matrix fragments ----

// The inverse of ldmatrix_x4: lane l gives the address of row l % 8 of matrix l / 8 and elements 2 (l % 4), 2 (l % 4) + 1 of row
// l / 4 of each.
DEVICE void stmatrix_x4(u32 addr, const u32 (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};"
                 :
                 : "r"(addr), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
DEVICE void stmatrix_x4_trans(u32 addr, const u32 (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};"
                 :
                 : "r"(addr), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

// ---- sm_90: mbarriers ----

// 8 bytes of shared memory; a phase is complete after `count` arrivals and when all bytes expected in it have landed.
DEVICE void mbarrier_init(u32 bar, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
// Arrives, and lets the phase wait for `bytes` of TMA loads (whole boxes, also what lies outside the tensor).
DEVICE void mbarrier_expect_tx(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
DEVICE void mbarrier_arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
// Waits until the phase of this parity is complete: 0 for the first. A fresh barrier lets a wait for parity 1 pass.
DEVICE void mbarrier_wait(u32 bar, u32 parity) {
    u32 complete;
    do {
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n"
                     "}"
                     : "=r"(complete)
                     : "r"(bar), "r"(parity)
                     : "memory");
    } while (!complete);
}
// After mbarrier_init, in the thread that did it and before the block's barrier: TMA sees the mbarriers.
DEVICE void fence_barrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// What this thread wrote to shared memory is seen by TMA and wgmma of those that meet it at a barrier afterwards.
DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- sm_90: TMA, one thread moves a tile ----

// Tile at element x of row y (of plane z) to shared memory; elements outside the tensor become zero. Completes bytes of `bar`.
DEVICE void tma_load_2d(u32 dst, const TensorMap* map, int x, int y, u32 bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 :
                 : "r"(dst), "l"(map), "r"(bar), "r"(x), "r"(y)
                 : "memory");
}
DEVICE void tma_load_3d(u32 dst, const TensorMap* map, int x, int y, int z, u32 bar) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
                 :
                 : "r"(dst), "l"(map), "r"(bar), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
// Tile from shared memory; what lies outside the tensor is not written. Before it, every thread that wrote the tile runs
// fence_proxy_async and meets this one at a barrier.
DEVICE void tma_store_2d(const TensorMap* map, u32 src, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];"
                 :
                 : "l"(map), "r"(src), "r"(x), "r"(y)
                 : "memory");
}
// The same, added to what is there (f32, bf16 or f16 as the tensor map says).
DEVICE void tma_reduce_add_2d(const TensorMap* map, u32 src, int x, int y) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];"
                 :
                 : "l"(map), "r"(src), "r"(x), "r"(y)
                 : "memory");
}
DEVICE void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until at most N groups of this thread still read their shared memory.
template <int N> DEVICE void tma_store_wait_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"); }
// Waits until at most N groups of this thread are not yet written.
template <int N> DEVICE void tma_store_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"); }

// ---- sm_90: warpgroup products ----

// Registers: between wgmma_fence and wgmma_wait they belong to the products. Before the first product after touching them.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N groups of this warpgroup are still under way.
template <int N> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// After the wait, and before the fence where the registers were touched: the compiler does not know that they change in between,
// and without this may move a use across.
template <int N> DEVICE void wgmma_registers(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// d (+)= a . b with d [64, N] f32, a [64, 16], b [16, N] of 16-bit T, asynchronously, by the 128 threads of a warpgroup. Thread
// t, warp w = t / 32, group g = t % 32 / 4: d[4 j + 2 h + c] is row 16 w + g + 8 h, column 8 j + 2 (t % 4) + c. `accumulate`
// false: d starts at zero. A_MN, B_MN: the operand's descriptor is MN-major.
template <class T> constexpr bool IS_F16 = false;
template <> constexpr bool IS_F16<f16> = true;
template <int N, class T, bool A_MN = false, bool B_MN = false>
DEVICE void wgmma_ss(float (&d)[N / 2], u64 a, u64 b, bool accumulate);
// The same with a in registers, of warp w rows 16 w and following in the layout of mma_m16n8k16.
template <int N, class T, bool B_MN = false> DEVICE void wgmma_rs(float (&d)[N / 2], const u32 (&a)[4], u64 b, bool accumulate);

// clang-format off
// Operands %p0 to %p9, and d[i] and following.
#define PTX_TEN(p) "%" #p "0,%" #p "1,%" #p "2,%" #p "3,%" #p "4,%" #p "5,%" #p "6,%" #p "7,%" #p "8,%" #p "9"
#define PTX_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PTX_D16(i) PTX_D4(i), PTX_D4(i + 4), PTX_D4(i + 8), PTX_D4(i + 12)
#define PTX_D32(i) PTX_D16(i), PTX_D16(i + 16)
#define PTX_TO_29 PTX_TEN() "," PTX_TEN(1) "," PTX_TEN(2)
#define PTX_TO_59 PTX_TO_29 "," PTX_TEN(3) "," PTX_TEN(4) "," PTX_TEN(5)
#define PTX_TO_89 PTX_TO_59 "," PTX_TEN(6) "," PTX_TEN(7) "," PTX_TEN(8)
#define PTX_TO_119 PTX_TO_89 "," PTX_TEN(9) "," PTX_TEN(10) "," PTX_TEN(11)
#define PTX_REGISTERS_64 PTX_TO_29 ",%30,%31"
#define PTX_REGISTERS_128 PTX_TO_59 ",%60,%61,%62,%63"
#define PTX_REGISTERS_192 PTX_TO_89 ",%90,%91,%92,%93,%94,%95"
#define PTX_REGISTERS_256 PTX_TO_119 ",%120,%121,%122,%123,%124,%125,%126,%127"
#define PTX_ACCUMULATOR_64 PTX_D32(0)
#define PTX_ACCUMULATOR_128 PTX_D32(0), PTX_D32(32)
#define PTX_ACCUMULATOR_192 PTX_D32(0), PTX_D32(32), PTX_D32(64)
#define PTX_ACCUMULATOR_256 PTX_D32(0), PTX_D32(32), PTX_D32(64), PTX_D32(96)
// Operands after the accumulator: for ss descriptor, descriptor, flag, majors; for rs four registers, descriptor, flag, major.
#define PTX_WGMMA_SS(N, TYPE, o0, o1, o2, o3, o4) \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #o2 ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" PTX_REGISTERS_##N "}, " \
                 "%" #o0 ", %" #o1 ", p, 1, 1, %" #o3 ", %" #o4 ";\n}" \
                 : PTX_ACCUMULATOR_##N \
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(int(A_MN)), "n"(int(B_MN)))
#define PTX_WGMMA_RS(N, TYPE, o0, o1, o2, o3, o4, o5, o6) \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #o5 ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" PTX_REGISTERS_##N "}, " \
                 "{%" #o0 ",%" #o1 ",%" #o2 ",%" #o3 "}, %" #o4 ", p, 1, 1, %" #o6 ";\n}" \
                 : PTX_ACCUMULATOR_##N \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), "n"(int(B_MN)))
// clang-format on

template <int N, class T, bool A_MN, bool B_MN> DEVICE void wgmma_ss(float (&d)[N / 2], u64 a, u64 b, bool accumulate) {
    static_assert(N == 64 || N == 128 || N == 192 || N == 256, "add the shape to ptx.cuh");
    if constexpr (N == 64 && !IS_F16<T>) PTX_WGMMA_SS(64, "bf16", 32, 33, 34, 35, 36);
    if constexpr (N == 128 && !IS_F16<T>) PTX_WGMMA_SS(128, "bf16", 64, 65, 66, 67, 68);
    if constexpr (N == 192 && !IS_F16<T>) PTX_WGMMA_SS(192, "bf16", 96, 97, 98, 99, 100);
    if constexpr (N == 256 && !IS_F16<T>) PTX_WGMMA_SS(256, "bf16", 128, 129, 130, 131, 132);
    if constexpr (N == 64 && IS_F16<T>) PTX_WGMMA_SS(64, "f16", 32, 33, 34, 35, 36);
    if constexpr (N == 128 && IS_F16<T>) PTX_WGMMA_SS(128, "f16", 64, 65, 66, 67, 68);
    if constexpr (N == 192 && IS_F16<T>) PTX_WGMMA_SS(192, "f16", 96, 97, 98, 99, 100);
    if constexpr (N == 256 && IS_F16<T>) PTX_WGMMA_SS(256, "f16", 128, 129, 130, 131, 132);
}
template <int N, class T, bool B_MN> DEVICE void wgmma_rs(float (&d)[N / 2], const u32 (&a)[4], u64 b, bool accumulate) {
    static_assert(N == 64 || N == 128 || N == 192 || N == 256, "add the shape to ptx.cuh");
    if constexpr (N == 64 && !IS_F16<T>) PTX_WGMMA_RS(64, "bf16", 32, 33, 34, 35, 36, 37, 38);
    if constexpr (N == 128 && !IS_F16<T>) PTX_WGMMA_RS(128, "bf16", 64, 65, 66, 67, 68, 69, 70);
    if constexpr (N == 192 && !IS_F16<T>) PTX_WGMMA_RS(192, "bf16", 96, 97, 98, 99, 100, 101, 102);
    if constexpr (N == 256 && !IS_F16<T>) PTX_WGMMA_RS(256, "bf16", 128, 129, 130, 131, 132, 133, 134);
    if constexpr (N == 64 && IS_F16<T>) PTX_WGMMA_RS(64, "f16", 32, 33, 34, 35, 36, 37, 38);
    if constexpr (N == 128 && IS_F16<T>) PTX_WGMMA_RS(128, "f16", 64, 65, 66, 67, 68, 69, 70);
    if constexpr (N == 192 && IS_F16<T>) PTX_WGMMA_RS(192, "f16", 96, 97, 98, 99, 100, 101, 102);
    if constexpr (N == 256 && IS_F16<T>) PTX_WGMMA_RS(256, "f16", 128, 129, 130, 131, 132, 133, 134);
}

// Registers a thread of this warp may use from here on; all warps of the warpgroup together. The block's sum stays within 65536.
template <int REGISTERS> DEVICE void setmaxnreg_inc() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
template <int REGISTERS> DEVICE void setmaxnreg_dec() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }

#endif  // FLANRT_SM90

}  // namespace ptx
#endif
