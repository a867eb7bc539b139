// Conformance: one kernel for each wrapper of kernels/ptx.cuh that every GPU has, and for the conversions, reductions and
// functions whose bits the emulator promises. A kernel does what its name says with what it is given and writes everything
// it got, so that emulator, hardware and plain arithmetic can be compared (tests/conformance/main.rs).
//
// All take `out` and `in` as 32-bit words; a comment says what is where.
#include "ptx.cuh"

// in: byte offset of the row that each of 32 lanes names, then 512 words of shared memory. out: four registers a lane.
template <bool TRANSPOSED> DEVICE void load_matrices(u32* out, const u32* in, u32* tile) {
    const int lane = threadIdx.x;
    for (int i = lane; i < 512; i += 32) tile[i] = in[32 + i];
    __syncthreads();
    const u32 row = ptx::smem_u32(tile) + in[lane];
    u32 r[4];
    if (TRANSPOSED)
        ptx::ldmatrix_x4_trans(r, row);
    else
        ptx::ldmatrix_x4(r, row);
    for (int i = 0; i < 4; i++) out[4 * lane + i] = r[i];
}
FLANRT_KERNEL(80, conform_ldmatrix, 32, (u32* out, const u32* in)) {
    FLANRT_SHARED(u32, tile, 512);
    load_matrices<false>(out, in, tile);
}
FLANRT_KERNEL(80, conform_ldmatrix_trans, 32, (u32* out, const u32* in)) {
    FLANRT_SHARED(u32, tile, 512);
    load_matrices<true>(out, in, tile);
}

// in: ten registers a lane, a[4], b[2], d[4]. out: d[4] a lane.
template <class T> DEVICE void multiply(u32* out, const u32* in) {
    const u32* mine = in + 10 * threadIdx.x;
    u32 a[4], b[2];
    float d[4];
    for (int i = 0; i < 4; i++) a[i] = mine[i], d[i] = __uint_as_float(mine[6 + i]);
    for (int i = 0; i < 2; i++) b[i] = mine[4 + i];
    ptx::mma_m16n8k16<T>(d, a, b);
    for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = __float_as_uint(d[i]);
}
FLANRT_KERNEL(80, conform_mma_bf16, 32, (u32* out, const u32* in)) { multiply<bf16>(out, in); }
FLANRT_KERNEL(80, conform_mma_f16, 32, (u32* out, const u32* in)) { multiply<f16>(out, in); }

// Addresses in shared memory count bytes. out: what 16-byte alignment leaves, the distance of five words.
FLANRT_KERNEL(80, conform_smem_u32, 32, (u32* out, const u32* in)) {
    FLANRT_SHARED(u32, tile, 32);
    tile[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    if (threadIdx.x) return;
    const u32 base = ptx::smem_u32(tile);
    out[0] = base % 16;
    out[1] = ptx::smem_u32(tile + 5) - base;
}

// in: bytes to read of each of 32 units of 16 bytes, then the units. out: the units, at places with bits 0 and 2 flipped.
FLANRT_KERNEL(80, conform_cp_async, 32, (u32* out, const u32* in)) {
    FLANRT_SHARED(u32, tile, 128);
    const int lane = threadIdx.x;
    for (int i = lane; i < 128; i += 32) tile[i] = 0xabababab;
    __syncthreads();
    ptx::cp_async16(ptx::smem_u32(tile) + 16 * (lane ^ 5), in + 32 + 4 * lane, static_cast<int>(in[lane]));
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    __syncthreads();
    for (int i = lane; i < 128; i += 32) out[i] = tile[i];
}

// in: three groups of 32 units of 16 bytes. out: the same; each group is read as soon as it is waited for.
FLANRT_KERNEL(80, conform_cp_async_groups, 32, (u32* out, const u32* in)) {
    FLANRT_SHARED(u32, tile, 384);
    const int lane = threadIdx.x;
    for (int g = 0; g < 3; g++) {
        ptx::cp_async16(ptx::smem_u32(tile) + 16 * (32 * g + lane), in + 4 * (32 * g + lane));
        ptx::cp_async_commit();
    }
    auto read = [&](int g) {
        for (int i = 0; i < 4; i++) out[4 * (32 * g + lane) + i] = tile[4 * (32 * g + lane) + i];
    };
    ptx::cp_async_wait<2>();
    read(0);
    ptx::cp_async_wait<1>();
    read(1);
    ptx::cp_async_wait<0>();
    read(2);
}

// 128 threads; the first half writes and arrives, the second waits and reads; then the halves change places at a barrier of
// another number, and each half reverses its words at one of its own. in, out: 128 words.
FLANRT_KERNEL(80, conform_named_barriers, 128, (u32* out, const u32* in)) {
    FLANRT_SHARED(u32, given, 64);
    FLANRT_SHARED(u32, returned, 64);
    FLANRT_SHARED(u32, turned, 128);
    const int t = threadIdx.x, half = t / 64, i = t % 64;
    u32 got;
    if (half == 0) {
        given[i] = in[i];
        ptx::bar_arrive(1, 128);
        ptx::bar_sync(2, 128);
        got = returned[63 - i];
    } else {
        ptx::bar_sync(1, 128);
        got = given[63 - i];
        returned[i] = in[64 + i];
        ptx::bar_arrive(2, 128);
    }
    turned[t] = got;
    if (half == 0)
        ptx::bar_sync(3, 64);
    else
        ptx::bar_sync(4, 64);
    out[t] = turned[64 * half + 63 - i];
}

// Two blocks; the first writes 32 words and raises a flag, the second waits for it and copies them. in: the words, the flag's
// value. out: the words, the flag, 31 words untouched, the copy.
FLANRT_KERNEL_ORDERED(80, conform_acquire_release, 32, (u32* out, const u32* in)) {
    const int lane = threadIdx.x;
    if (blockIdx.x == 0) {
        out[lane] = in[lane];
        __threadfence();
        __syncthreads();
        if (lane == 0) ptx::store_release(out + 32, in[32]);
        return;
    }
    while (ptx::load_acquire(out + 32) != in[32]) __nanosleep(100);
    out[64 + lane] = out[lane];
}

// in: one number a thread. out: 2^x.
FLANRT_KERNEL(80, conform_exp2_approx, 128, (u32* out, const u32* in)) {
    out[threadIdx.x] = __float_as_uint(ptx::exp2_approx(__uint_as_float(in[threadIdx.x])));
}

// in: two f32 a thread. out: the pair packed, [128]; rounded one by one, [256].
template <class T> DEVICE void narrow(u32* out, const u32* in) {
    const int t = threadIdx.x;
    const float x = __uint_as_float(in[2 * t]), y = __uint_as_float(in[2 * t + 1]);
    const T one[2] = {from_f32<T>(x), from_f32<T>(y)};
    out[t] = pack2<T>(x, y);
    for (int i = 0; i < 2; i++) out[128 + 2 * t + i] = *reinterpret_cast<const u16*>(&one[i]);
}
FLANRT_KERNEL(80, conform_narrow_bf16, 128, (u32* out, const u32* in)) { narrow<bf16>(out, in); }
FLANRT_KERNEL(80, conform_narrow_f16, 128, (u32* out, const u32* in)) { narrow<f16>(out, in); }

// in: a packed pair a thread. out: both in f32, [256].
template <class T> DEVICE void widen(u32* out, const u32* in) {
    const int t = threadIdx.x;
    const float2 both = unpack2<T>(in[t]);
    out[2 * t] = __float_as_uint(both.x);
    out[2 * t + 1] = __float_as_uint(both.y);
}
FLANRT_KERNEL(80, conform_widen_bf16, 128, (u32* out, const u32* in)) { widen<bf16>(out, in); }
FLANRT_KERNEL(80, conform_widen_f16, 128, (u32* out, const u32* in)) { widen<f16>(out, in); }

// in: an f32 a thread. out: sum over the warp, largest of the warp, sum over the block of four warps; then the sum over the
// warp in f64, two words a thread.
FLANRT_KERNEL(80, conform_reductions, 128, (u32* out, const u32* in)) {
    FLANRT_SHARED(float, part, 4);
    const int t = threadIdx.x;
    const float x = __uint_as_float(in[t]);
    out[t] = __float_as_uint(warp_sum(x));
    out[128 + t] = __float_as_uint(warp_max(x));
    out[256 + t] = __float_as_uint(block_sum<4>(x, part));
    const long long wide = __double_as_longlong(warp_sum(static_cast<double>(x)));
    out[384 + 2 * t] = static_cast<u32>(wide);
    out[384 + 2 * t + 1] = static_cast<u32>(static_cast<u64>(wide) >> 32);
}

// Functions of IEEE 754 that must be exact. in: x, y, z of each thread. out: x / y, sqrt(x), x y + z rounded once.
FLANRT_KERNEL(80, conform_ieee, 128, (u32* out, const u32* in)) {
    const int t = threadIdx.x;
    const float x = __uint_as_float(in[3 * t]), y = __uint_as_float(in[3 * t + 1]), z = __uint_as_float(in[3 * t + 2]);
    out[t] = __float_as_uint(x / y);
    out[128 + t] = __float_as_uint(sqrtf(x));
    out[256 + t] = __float_as_uint(fmaf(x, y, z));
}

// Functions that may differ in the last places. in: one number a thread. out: exp(x), log(|x|), 1 / sqrt(|x|).
FLANRT_KERNEL(80, conform_functions, 128, (u32* out, const u32* in)) {
    const int t = threadIdx.x;
    const float x = __uint_as_float(in[t]);
    out[t] = __float_as_uint(expf(x));
    out[128 + t] = __float_as_uint(logf(fabsf(x)));
    out[256 + t] = __float_as_uint(rsqrtf(fabsf(x)));
}
