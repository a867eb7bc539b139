//! Activations of the feed-forward block: SwiGLU (Shazeer, "GLU Variants Improve Transformer", 2020), `y = silu(gate) * up`
//! with `silu(x) = x / (1 + exp(-x))`, and GELU (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016) by its tanh
//! approximation, `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.

use crate::tensor::Tensor;

/// The unit of the feed-forward block, gated or not. `gate_up [t, 2 f]`: gates in the first `f` columns, ups in the rest.
pub trait Glu {
    /// `y = silu(gate) * up`; `y [t, f]`.
    fn swiglu_fwd(&self, y: Tensor, gate_up: Tensor);
    /// Sets `dgate_up [t, 2 f]` from `dy [t, f]`; `dgate_up` may be `gate_up`.
    fn swiglu_bwd(&self, dgate_up: Tensor, dy: Tensor, gate_up: Tensor);
    /// `y = gelu(x)`; `x`, `y [t, f]`.
    fn gelu_fwd(&self, y: Tensor, x: Tensor);
    /// Sets `dx = gelu'(x) dy`, all `[t, f]`; `dx` may be `dy` or `x`.
    fn gelu_bwd(&self, dx: Tensor, dy: Tensor, x: Tensor);
}
