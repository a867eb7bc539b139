// Small kernels for the tests of the emulated driver (tests/*.rs).
#include "common.cuh"

FLANRT_KERNEL(80, fill_f32, 256, (float* y, float value, int n)) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = value;
}

FLANRT_KERNEL(80, add_f32, 256, (float* y, const float* x, float value, int n)) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + value;
}

// y[r] = sum of row r of x [rows, cols].
FLANRT_KERNEL(80, row_sum_f32, 64, (float* y, const float* x, i64 x_stride, int cols)) {
    FLANRT_SHARED(float, part, 2);
    float sum = 0;
    for (int c = threadIdx.x; c < cols; c += 64) sum += x[blockIdx.x * x_stride + c];
    sum = block_sum<2>(sum, part);
    if (threadIdx.x == 0) y[blockIdx.x] = sum;
}

// y[i] = i, through `n` values of dynamic shared memory in the reverse order.
FLANRT_KERNEL(80, reverse_u32, 1024, (u32* y, int n)) {
    FLANRT_DYN_SMEM(u32, held);
    for (int i = threadIdx.x; i < n; i += blockDim.x) held[n - 1 - i] = i;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[n - 1 - i] = held[i];
}

// One write at any index: for what lies outside of an allocation.
FLANRT_KERNEL(80, write_u32, 32, (u32* y, i64 index)) {
    if (threadIdx.x == 0) y[index] = 7;
}

FLANRT_KERNEL(90, hopper_u32, 32, (u32* y)) {
    if (threadIdx.x == 0) y[0] = 90;
}
