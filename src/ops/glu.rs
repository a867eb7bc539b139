//! SwiGLU (Shazeer, "GLU Variants Improve Transformer", 2020): `y = silu(gate) * up`, `silu(x) = x / (1 + exp(-x))`.

use crate::tensor::Tensor;

/// The gated unit of the feed-forward block. `gate_up [t, 2 f]`: gates in the first `f` columns, ups in the rest.
pub trait Glu {
    /// `y = silu(gate) * up`; `y [t, f]`.
    fn swiglu_fwd(&self, y: Tensor, gate_up: Tensor);
    /// Sets `dgate_up [t, 2 f]` from `dy [t, f]`; `dgate_up` may be `gate_up`.
    fn swiglu_bwd(&self, dgate_up: Tensor, dy: Tensor, gate_up: Tensor);
}
