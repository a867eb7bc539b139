// bf16 and f16 as CUDA names them, with exact conversions: stores round to nearest even, NaN becomes the canonical NaN.
//
// Arithmetic operators are deleted: CUDA rounds after every operation where a conversion to float would not, so kernels convert.
#pragma once
#include <cstdint>
#include <cstring>

namespace emu {

EMU_INLINE uint32_t float_bits(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    return u;
}
EMU_INLINE float bits_float(uint32_t u) {
    float x;
    std::memcpy(&x, &u, 4);
    return x;
}

EMU_INLINE float bf16_to_float(uint16_t h) { return bits_float(uint32_t(h) << 16); }
EMU_INLINE uint16_t float_to_bf16(float x) {
    const uint32_t u = float_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

// Without branches, so that loops over it vectorise: the exponent is moved by a multiplication, which is exact for subnormals too.
EMU_INLINE float f16_to_float(uint16_t h) {
    const uint32_t magnitude = uint32_t(h & 0x7fff) << 13;
    const float scaled = bits_float(magnitude) * bits_float(0x77800000);  // 2^112
    const uint32_t special = magnitude >= 0x0f800000 ? 0x7f800000 | magnitude : float_bits(scaled);
    return bits_float(special | uint32_t(h & 0x8000) << 16);
}
EMU_INLINE uint16_t float_to_f16(float x) {
    const uint32_t u = float_bits(x), magnitude = u & 0x7fffffff;
    const uint16_t sign = uint16_t(u >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and more
    if (magnitude < 0x38800000) {                       // below 2^-14: the addition rounds to a multiple of 2^-24
        const float rounded = bits_float(magnitude) + 0.5f;
        return sign | uint16_t(float_bits(rounded) - 0x3f000000);
    }
    return sign | uint16_t((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

}  // namespace emu

#define EMU_HALF(NAME, PAIR, TO_FLOAT, FROM_FLOAT)                         \
    struct NAME {                                                          \
        uint16_t bits;                                                     \
        NAME() = default;                                                  \
        EMU_INLINE NAME(float x) : bits(emu::FROM_FLOAT(x)) {}             \
        EMU_INLINE operator float() const { return emu::TO_FLOAT(bits); }  \
    };                                                                     \
    struct alignas(4) PAIR { NAME x, y; };                                 \
    NAME operator+(NAME, NAME) = delete;                                   \
    NAME operator-(NAME, NAME) = delete;                                   \
    NAME operator*(NAME, NAME) = delete;                                   \
    NAME operator/(NAME, NAME) = delete;
EMU_HALF(__nv_bfloat16, __nv_bfloat162, bf16_to_float, float_to_bf16)
EMU_HALF(__half, __half2, f16_to_float, float_to_f16)
#undef EMU_HALF

EMU_INLINE float __bfloat162float(__nv_bfloat16 x) { return x; }
EMU_INLINE __nv_bfloat16 __float2bfloat16(float x) { return x; }
EMU_INLINE __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
EMU_INLINE float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }
EMU_INLINE __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
EMU_INLINE __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {v.x, v.y}; }
EMU_INLINE __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
EMU_INLINE __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
EMU_INLINE __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
EMU_INLINE float __low2float(__nv_bfloat162 v) { return v.x; }
EMU_INLINE float __high2float(__nv_bfloat162 v) { return v.y; }
EMU_INLINE __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
EMU_INLINE __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }
EMU_INLINE unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
EMU_INLINE __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) {
    __nv_bfloat16 x;
    x.bits = u;
    return x;
}

EMU_INLINE float __half2float(__half x) { return x; }
EMU_INLINE __half __float2half(float x) { return x; }
EMU_INLINE __half __float2half_rn(float x) { return x; }
EMU_INLINE float2 __half22float2(__half2 v) { return {v.x, v.y}; }
EMU_INLINE __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
EMU_INLINE __half2 __float22half2_rn(float2 v) { return {v.x, v.y}; }
EMU_INLINE __half2 __halves2half2(__half x, __half y) { return {x, y}; }
EMU_INLINE __half2 make_half2(__half x, __half y) { return {x, y}; }
EMU_INLINE __half2 __half2half2(__half x) { return {x, x}; }
EMU_INLINE float __low2float(__half2 v) { return v.x; }
EMU_INLINE float __high2float(__half2 v) { return v.y; }
EMU_INLINE __half __low2half(__half2 v) { return v.x; }
EMU_INLINE __half __high2half(__half2 v) { return v.y; }
EMU_INLINE unsigned short __half_as_ushort(__half x) { return x.bits; }
EMU_INLINE __half __ushort_as_half(unsigned short u) {
    __half x;
    x.bits = u;
    return x;
}
