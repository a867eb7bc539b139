//! Matrix products with fused epilogues.

use crate::tensor::Tensor;

/// Which operand is transposed. The product is always `[m, n]` with inner size `k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `a [m, k] . b [n, k]^T`: activations times a weight, forward.
    NT,
    /// `a [m, k] . b [k, n]`: output gradient times a weight, gradient of the input.
    NN,
    /// `a [k, m]^T . b [k, n]`: output gradient and input, gradient of a weight.
    TN,
}

/// Dense products, f32 accumulation in ascending order of the inner index (in blocks of fixed size): an element's bits
/// depend on its row of `a` and column of `b` alone.
pub trait Matmul {
    /// `y = a . b (+ bias) (+ plus)`; `y, plus [m, n]`, `bias [1, n]`. `plus` may be `y`, which adds in place.
    fn matmul(&self, y: Tensor, a: Tensor, b: Tensor, form: Form, bias: Option<Tensor>, plus: Option<Tensor>);
}
