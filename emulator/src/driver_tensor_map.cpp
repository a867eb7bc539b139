// Tensor maps: the descriptions of arrays that the tensor memory accelerator copies boxes of.
#include "driver.h"

#include <cstring>

namespace driver {

// Of a CUtensorMapDataType; what it adds up as does not matter for integers of a size.
static bool element_type(int type, emu::TensorType* out) {
    enum { U8, U16, U32, I32, U64, I64, F16, F32, F64, BF16 };
    switch (type) {
    case U8: *out = emu::TensorType::U8; return true;
    case U16: *out = emu::TensorType::U16; return true;
    case U32:
    case I32: *out = emu::TensorType::U32; return true;
    case F16: *out = emu::TensorType::F16; return true;
    case BF16: *out = emu::TensorType::BF16; return true;
    case F32: *out = emu::TensorType::F32; return true;
    default: return false;
    }
}

static unsigned long long show(uint64_t n) { return n; }

}  // namespace driver

using namespace driver;

// `strides` are bytes, of all dimensions but the first.
CU_API cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* address, const uint64_t* dims, const uint64_t* strides,
                              const unsigned* box, const unsigned* steps, int interleave, int swizzle, int, int fill) {
    ENTER_QUERY();
    emu::TensorMapImage image{};
    REQUIRE(map);
    REQUIRE(dims);
    REQUIRE(strides || rank == 1);
    REQUIRE(box);
    REQUIRE(steps);
    if (state().settings.capability < 90) return refuse(NOT_SUPPORTED, "capability 9.0 has tensor maps, this device is older");
    if (!element_type(type, &image.type)) return refuse(NOT_SUPPORTED, "data type %d is not emulated", type);
    if (rank < 1 || rank > 5) return refuse(INVALID_VALUE, "rank %u; 1 to 5 are possible", rank);
    if (interleave) return refuse(NOT_SUPPORTED, "interleave %d is not emulated", interleave);
    if (fill) return refuse(NOT_SUPPORTED, "filling with NaN is not emulated");
    if (swizzle < 0 || swizzle > 3)
        return refuse(NOT_SUPPORTED, "swizzle %d; none, 32, 64 and 128 bytes (0 to 3) are emulated", swizzle);
    if (reinterpret_cast<uintptr_t>(map) % 64) return refuse(INVALID_VALUE, "the map at %p is not 64-byte aligned", map);
    if (reinterpret_cast<uintptr_t>(address) % 16)
        return refuse(INVALID_VALUE, "the array at %p is not 16-byte aligned", address);
    uint64_t bytes = emu::element_size(image.type), extent = bytes, row = bytes;
    for (unsigned d = 0; d < rank; d++) {
        if (!dims[d] || dims[d] > 0xffffffff)
            return refuse(INVALID_VALUE, "dimension %u has %llu elements; 1 to 2^32 - 1 are emulated", d, show(dims[d]));
        if (!box[d] || box[d] > 256)
            return refuse(INVALID_VALUE, "the box has %u elements in dimension %u; 1 to 256 are possible", box[d], d);
        if (steps[d] != 1) return refuse(NOT_SUPPORTED, "element stride %u; only 1 is emulated", steps[d]);
        uint64_t stride = d ? strides[d - 1] : bytes;
        if (d && (stride % 16 || stride >= uint64_t(1) << 40))
            return refuse(INVALID_VALUE, "dimension %u has a stride of %llu bytes; multiples of 16 below 2^40 are possible", d,
                          show(stride));
        if (d == 1 && stride < row)
            return refuse(INVALID_VALUE, "rows of %llu bytes overlap: their stride is %llu", show(row), show(stride));
        if (!d) row = dims[0] * bytes;
        extent += (dims[d] - 1) * stride;
        image.dim[d] = uint32_t(dims[d]);
        image.box[d] = uint16_t(box[d]);
        if (d) image.stride[d - 1] = stride;
    }
    uint64_t inner = box[0] * bytes, span = swizzle ? 16u << swizzle : 0;
    if (inner % 16) return refuse(INVALID_VALUE, "a box row of %llu bytes; multiples of 16 are possible", show(inner));
    if (span && inner > span)
        return refuse(INVALID_VALUE, "a box row of %llu bytes does not fit the swizzle of %llu bytes", show(inner), show(span));
    const Allocation* a = find_allocation(address);
    if (!a || static_cast<char*>(address) + extent > a->start + a->bytes)
        return refuse(INVALID_VALUE, "the array of %llu bytes is not inside a live allocation: %s", show(extent),
                      describe(address).c_str());
    image.magic = emu::TENSOR_MAP_MAGIC;
    image.base = reinterpret_cast<uint64_t>(address);
    image.rank = uint8_t(rank);
    image.swizzle = uint8_t(swizzle);
    memset(map, 0, 128);
    memcpy(map, &image, sizeof image);
    return SUCCESS;
}
