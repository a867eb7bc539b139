// The twins of ptx.cuh: what each wrapped instruction does, on a CPU. Same names, same arguments; the work is in emulator/src.
#pragma once
#include "emu.h"

namespace emu {

constexpr uint32_t SHARED_BASE = 0x400;  // shared addresses start here, so that 0 is never one

uint32_t shared_address(const void* p);
void ldmatrix_x4(uint32_t (&r)[4], uint32_t address, bool transposed);
void stmatrix_x4(uint32_t address, const uint32_t (&r)[4], bool transposed);
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool half);

void cp_async16(uint32_t dst, const void* src, int bytes);
void cp_async_commit();
void cp_async_wait(int keep);

void bar_sync(int id, int threads);
void bar_arrive(int id, int threads);
uint32_t load_acquire(const uint32_t* p);
void store_release(uint32_t* p, uint32_t v);
float exp2_approx(float x);

void mbarrier_init(uint32_t bar, uint32_t count);
void mbarrier_arrive(uint32_t bar, uint32_t expect_bytes);
void mbarrier_wait(uint32_t bar, uint32_t parity);
void fence_proxy_async();
void tma_load(uint32_t dst, const void* map, int rank, const int* at, uint32_t bar);
void tma_store(const void* map, uint32_t src, int rank, const int* at, bool add);
void tma_store_commit();
void tma_store_wait(int keep, bool read_only);

// One wgmma m64nNk16: `a` are the registers of A, or null where `a_desc` says where A is.
struct Wgmma {
    int n;
    bool half;
    const uint32_t* a;
    uint64_t a_desc, b_desc;
    bool a_mn_major, b_mn_major;
    bool accumulate;
};
void wgmma(float* d, const Wgmma& op);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int keep);

}  // namespace emu

namespace ptx {

inline uint32_t smem_u32(const void* p) { return emu::shared_address(p); }

// ---- sm_80 ----

inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t addr) { emu::ldmatrix_x4(r, addr, false); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t addr) { emu::ldmatrix_x4(r, addr, true); }
template <class T> void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emu::mma_m16n8k16(d, a, b, std::is_same_v<T, __half>);
}
inline void cp_async16(uint32_t dst, const void* src, int bytes = 16) { emu::cp_async16(dst, src, bytes); }
inline void cp_async_commit() { emu::cp_async_commit(); }
template <int N> void cp_async_wait() { emu::cp_async_wait(N); }
inline void bar_sync(int id, int threads) { emu::bar_sync(id, threads); }
inline void bar_arrive(int id, int threads) { emu::bar_arrive(id, threads); }
inline uint32_t load_acquire(const uint32_t* p) { return emu::load_acquire(p); }
inline void store_release(uint32_t* p, uint32_t v) { emu::store_release(p, v); }
inline float exp2_approx(float x) { return emu::exp2_approx(x); }

// ---- sm_90 ----

inline void stmatrix_x4(uint32_t addr, const uint32_t (&r)[4]) { emu::stmatrix_x4(addr, r, false); }
inline void stmatrix_x4_trans(uint32_t addr, const uint32_t (&r)[4]) { emu::stmatrix_x4(addr, r, true); }

inline void mbarrier_init(uint32_t bar, uint32_t count) { emu::mbarrier_init(bar, count); }
inline void mbarrier_expect_tx(uint32_t bar, uint32_t bytes) { emu::mbarrier_arrive(bar, bytes); }
inline void mbarrier_arrive(uint32_t bar) { emu::mbarrier_arrive(bar, 0); }
inline void mbarrier_wait(uint32_t bar, uint32_t parity) { emu::mbarrier_wait(bar, parity); }
inline void fence_barrier_init() { emu::fence_proxy_async(); }
inline void fence_proxy_async() { emu::fence_proxy_async(); }

inline void tma_load_2d(uint32_t dst, const TensorMap* map, int x, int y, uint32_t bar) {
    const int at[] = {x, y};
    emu::tma_load(dst, map, 2, at, bar);
}
inline void tma_load_3d(uint32_t dst, const TensorMap* map, int x, int y, int z, uint32_t bar) {
    const int at[] = {x, y, z};
    emu::tma_load(dst, map, 3, at, bar);
}
inline void tma_store_2d(const TensorMap* map, uint32_t src, int x, int y) {
    const int at[] = {x, y};
    emu::tma_store(map, src, 2, at, false);
}
inline void tma_reduce_add_2d(const TensorMap* map, uint32_t src, int x, int y) {
    const int at[] = {x, y};
    emu::tma_store(map, src, 2, at, true);
}
inline void tma_store_commit() { emu::tma_store_commit(); }
template <int N> void tma_store_wait_read() { emu::tma_store_wait(N, true); }
template <int N> void tma_store_wait() { emu::tma_store_wait(N, false); }

inline void wgmma_fence() { emu::wgmma_fence(); }
inline void wgmma_commit() { emu::wgmma_commit(); }
template <int N> void wgmma_wait() { emu::wgmma_wait(N); }
template <int N> void wgmma_registers(float (&)[N]) {}
template <int N, class T, bool A_MN = false, bool B_MN = false>
void wgmma_ss(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
    emu::wgmma(d, {N, std::is_same_v<T, __half>, nullptr, a, b, A_MN, B_MN, accumulate});
}
template <int N, class T, bool B_MN = false>
void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    emu::wgmma(d, {N, std::is_same_v<T, __half>, a, 0, b, false, B_MN, accumulate});
}
template <int REGISTERS> void setmaxnreg_inc() { static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256); }
template <int REGISTERS> void setmaxnreg_dec() { static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256); }

}  // namespace ptx
