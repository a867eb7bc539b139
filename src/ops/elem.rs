//! Elementwise and row-wise moves.

use crate::tensor::Tensor;

/// Conversions, gathers, placements and column sums.
pub trait Elem {
    /// `y = x`, converted to `y`'s dtype (round to nearest even). Same shape.
    fn convert(&self, y: Tensor, x: Tensor);
    /// `y[i] = x[index[i]]`; `y [r, d]`, `x [t, d]`, `index [1, r]` u32.
    fn gather_rows(&self, y: Tensor, x: Tensor, index: Tensor);
    /// `y[index[i]] = x[i]`, the other rows of `y` as they were; `y [t, d]`, `x [r, d]`, `index [1, r]` u32, all different.
    fn put_rows(&self, y: Tensor, x: Tensor, index: Tensor);
    /// Backward of `gather_rows`: sets `dx [t, d]` to the sums of `dy [r, d]` by `index` (ascending), 0 elsewhere.
    fn scatter_rows(&self, dx: Tensor, dy: Tensor, index: Tensor);
    /// `db += sum over rows of dy`; `db [1, n]` f32, `dy [t, n]`.
    fn sum_rows(&self, db: Tensor, dy: Tensor);
}
