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

/// A function on every element of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016).
    Gelu,
    /// `x / (1 + exp(-x))`.
    Silu,
}

/// What is done to a product before it is stored, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue {
    /// Added to every row, `[1, n]`.
    pub bias: Option<Tensor>,
    /// Applied to every element.
    pub activation: Option<Activation>,
    /// Added, `[m, n]`; it may be the output, which adds in place.
    pub plus: Option<Tensor>,
}

impl Epilogue {
    /// Nothing.
    pub const NONE: Self = Self { bias: None, activation: None, plus: None };

    /// `+ bias + plus`.
    pub const fn add(bias: Option<Tensor>, plus: Option<Tensor>) -> Self {
        Self { bias, activation: None, plus }
    }
}

/// Dense products, f32 accumulation in ascending order of the inner index (in blocks of fixed size): an element's bits
/// depend on its row of `a` and column of `b` alone. `TN` products, the gradients of weights, may be summed in parts
/// whose number follows from `m`, `n` and `k`, the same for every call of one shape.
pub trait Matmul {
    /// `y = activation(a . b + bias) + plus`, `y [m, n]`.
    fn matmul(&self, y: Tensor, a: Tensor, b: Tensor, form: Form, epilogue: Epilogue);
}
