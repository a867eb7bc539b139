// Activations of the feed-forward block: SwiGLU and GELU, forward and backward, elementwise over rows that may be strided.
//
// The exponential is expf (2 units in the last place): with it the kernels are still bound by memory.
#include "rows.cuh"

constexpr int THREADS = 256;
constexpr int U = 2;  // chunks of each operand a thread has in flight

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T, bool EVEN>
DEVICE void swiglu_forward(T* __restrict__ y, i64 y_stride, const T* __restrict__ x, i64 x_stride, int rows, int f) {
    constexpr int V = LANES<T>;
    Spot at[U];
    uint4 gates[U], ups[U];
#pragma unroll
    for (int u = 0; u < U; u++) {
        at[u] = spot<THREADS, U, V>(u, rows, f);
        if (at[u].left == 0) continue;
        const T* line = x + at[u].row * x_stride + at[u].col;
        gates[u] = load_chunk<EVEN>(line, at[u].left);
        ups[u] = load_chunk<EVEN>(line + f, at[u].left);
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
        if (at[u].left == 0) continue;
        float gate[V], up[V];
        unpack<T>(gate, gates[u]);
        unpack<T>(up, ups[u]);
#pragma unroll
        for (int i = 0; i < V; i++) gate[i] = gate[i] * sigmoid(gate[i]) * up[i];
        store_chunk<EVEN>(y + at[u].row * y_stride + at[u].col, pack<T>(gate), at[u].left);
    }
}

// With s = sigmoid(gate): dgate = dy up s (1 + gate (1 - s)), dup = dy gate s. `dx` may be `x`: a thread reads all it
// overwrites first.
template <class T, bool EVEN>
DEVICE void swiglu_backward(T* dx, i64 dx_stride, const T* __restrict__ dy, i64 dy_stride, const T* x, i64 x_stride, int rows, int f) {
    constexpr int V = LANES<T>;
    Spot at[U];
    uint4 gates[U], ups[U], dys[U];
#pragma unroll
    for (int u = 0; u < U; u++) {
        at[u] = spot<THREADS, U, V>(u, rows, f);
        if (at[u].left == 0) continue;
        const T* line = x + at[u].row * x_stride + at[u].col;
        gates[u] = load_chunk<EVEN>(line, at[u].left);
        ups[u] = load_chunk<EVEN>(line + f, at[u].left);
        dys[u] = load_chunk<EVEN>(dy + at[u].row * dy_stride + at[u].col, at[u].left);
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
        if (at[u].left == 0) continue;
        float gate[V], up[V], d[V];
        unpack<T>(gate, gates[u]);
        unpack<T>(up, ups[u]);
        unpack<T>(d, dys[u]);
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float s = sigmoid(gate[i]);
            const float dgate = d[i] * up[i] * s * fmaf(gate[i], 1.0f - s, 1.0f);
            up[i] = d[i] * gate[i] * s;
            gate[i] = dgate;
        }
        T* line = dx + at[u].row * dx_stride + at[u].col;
        store_chunk<EVEN>(line, pack<T>(gate), at[u].left);
        store_chunk<EVEN>(line + f, pack<T>(up), at[u].left);
    }
}

// GELU by its tanh approximation, as a sigmoid: x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3). So the negative
// tail keeps its relative precision.
constexpr float TWICE_ROOT = 1.5957691216057308f;
constexpr float CUBIC = 0.044715f;

DEVICE float gelu_exp(float x) { return expf(-TWICE_ROOT * x * fmaf(CUBIC * x, x, 1.0f)); }
DEVICE float gelu(float x) { return x * (1.0f / (1.0f + gelu_exp(x))); }
DEVICE float gelu_slope(float x) {
    // Beyond 10 the slope is 0 or 1 in f32; within, the exponential and its products are finite. NaN stays.
    const float z = x > 10.0f ? 10.0f : x < -10.0f ? -10.0f : x;
    const float e = gelu_exp(z), s = 1.0f / (1.0f + e);
    return fmaf(z * s * (e * s), TWICE_ROOT * fmaf(3.0f * CUBIC * z, z, 1.0f), s);
}

template <class T, bool EVEN>
DEVICE void gelu_forward(T* __restrict__ y, i64 y_stride, const T* __restrict__ x, i64 x_stride, int rows, i64 cols) {
    constexpr int V = LANES<T>, W = 2 * U;
    Spot at[W];
    uint4 xs[W];
#pragma unroll
    for (int u = 0; u < W; u++) {
        at[u] = spot<THREADS, W, V>(u, rows, cols);
        if (at[u].left) xs[u] = load_chunk<EVEN>(x + at[u].row * x_stride + at[u].col, at[u].left);
    }
#pragma unroll
    for (int u = 0; u < W; u++) {
        if (at[u].left == 0) continue;
        float v[V];
        unpack<T>(v, xs[u]);
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = gelu(v[i]);
        store_chunk<EVEN>(y + at[u].row * y_stride + at[u].col, pack<T>(v), at[u].left);
    }
}

// `dx` may be `dy` or `x`.
template <class T, bool EVEN>
DEVICE void gelu_backward(T* dx, i64 dx_stride, const T* dy, i64 dy_stride, const T* x, i64 x_stride, int rows, i64 cols) {
    constexpr int V = LANES<T>;
    Spot at[U];
    uint4 dys[U], xs[U];
#pragma unroll
    for (int u = 0; u < U; u++) {
        at[u] = spot<THREADS, U, V>(u, rows, cols);
        if (at[u].left == 0) continue;
        dys[u] = load_chunk<EVEN>(dy + at[u].row * dy_stride + at[u].col, at[u].left);
        xs[u] = load_chunk<EVEN>(x + at[u].row * x_stride + at[u].col, at[u].left);
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
        if (at[u].left == 0) continue;
        float d[V], v[V];
        unpack<T>(d, dys[u]);
        unpack<T>(v, xs[u]);
#pragma unroll
        for (int i = 0; i < V; i++) d[i] *= gelu_slope(v[i]);
        store_chunk<EVEN>(dx + at[u].row * dx_stride + at[u].col, pack<T>(d), at[u].left);
    }
}

// `even` where a row is a whole number of chunks: then the second half of a row of gates and ups starts on one too.
#define GLU(suffix, T) \
    FLANRT_KERNEL(80, swiglu_fwd_##suffix, THREADS, \
                  (T* __restrict__ y, i64 y_stride, const T* __restrict__ gate_up, i64 gate_up_stride, int rows, int f)) { \
        if (f % LANES<T> == 0 && even(y, y_stride) && even(gate_up, gate_up_stride)) \
            swiglu_forward<T, true>(y, y_stride, gate_up, gate_up_stride, rows, f); \
        else \
            swiglu_forward<T, false>(y, y_stride, gate_up, gate_up_stride, rows, f); \
    } \
    FLANRT_KERNEL(80, swiglu_bwd_##suffix, THREADS, \
                  (T* dgate_up, i64 dgate_up_stride, const T* __restrict__ dy, i64 dy_stride, const T* gate_up, \
                   i64 gate_up_stride, int rows, int f)) { \
        if (f % LANES<T> == 0 && even(dgate_up, dgate_up_stride) && even(dy, dy_stride) && even(gate_up, gate_up_stride)) \
            swiglu_backward<T, true>(dgate_up, dgate_up_stride, dy, dy_stride, gate_up, gate_up_stride, rows, f); \
        else \
            swiglu_backward<T, false>(dgate_up, dgate_up_stride, dy, dy_stride, gate_up, gate_up_stride, rows, f); \
    } \
    FLANRT_KERNEL(80, gelu_fwd_##suffix, THREADS, \
                  (T* __restrict__ y, i64 y_stride, const T* __restrict__ x, i64 x_stride, int rows, i64 cols)) { \
        if (cols % LANES<T> == 0 && even(y, y_stride) && even(x, x_stride)) \
            gelu_forward<T, true>(y, y_stride, x, x_stride, rows, cols); \
        else \
            gelu_forward<T, false>(y, y_stride, x, x_stride, rows, cols); \
    } \
    FLANRT_KERNEL(80, gelu_bwd_##suffix, THREADS, \
                  (T* dx, i64 dx_stride, const T* dy, i64 dy_stride, const T* x, i64 x_stride, int rows, i64 cols)) { \
        if (cols % LANES<T> == 0 && even(dx, dx_stride) && even(dy, dy_stride) && even(x, x_stride)) \
            gelu_backward<T, true>(dx, dx_stride, dy, dy_stride, x, x_stride, rows, cols); \
        else \
            gelu_backward<T, false>(dx, dx_stride, dy, dy_stride, x, x_stride, rows, cols); \
    }
FOR_DTYPES(GLU)
