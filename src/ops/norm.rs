//! Normalization of rows: RMSNorm (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019), `y = x rstd w` with
//! `rstd = 1 / sqrt(mean(x^2) + eps)`; LayerNorm (Ba, Kiros and Hinton, "Layer Normalization", 2016),
//! `y = (x - mean(x)) rstd w + b` with `rstd = 1 / sqrt(mean((x - mean(x))^2) + eps)`.

use crate::tensor::Tensor;

/// RMSNorm over groups of columns: `w [1, n]`, `x [t, groups * n]`. One group is the usual norm; the q/k norms of Qwen3 have
/// one group a head. LayerNorm over whole rows: `w [1, n]`, `x [t, n]`.
pub trait Norm {
    /// `y = norm(x)` and `rstd [t, groups]` f32, kept for the backward pass.
    fn rms_norm_fwd(&self, y: Tensor, rstd: Tensor, x: Tensor, w: Tensor, eps: f32);
    /// `dx = plus + d(norm)/dx . dy` (`plus`: a residual's gradient, or none), `dw += d(norm)/dw . dy`.
    /// `dx` may be `dy` or `plus`; `dw [1, n]` f32 or the storage dtype; `scratch [ceil(t / 64), n]` f32.
    fn rms_norm_bwd(
        &self,
        dx: Tensor,
        dw: Tensor,
        dy: Tensor,
        x: Tensor,
        w: Tensor,
        rstd: Tensor,
        plus: Option<Tensor>,
        scratch: Tensor,
    );
    /// `y = norm(x)`, and `mean`, `rstd [t, 1]` f32, kept for the backward pass. `b [1, n]`: a bias, or none.
    fn layer_norm_fwd(
        &self,
        y: Tensor,
        mean: Tensor,
        rstd: Tensor,
        x: Tensor,
        w: Tensor,
        b: Option<Tensor>,
        eps: f32,
    );
    /// `dx = plus + d(norm)/dx . dy` (`plus`: a residual's gradient, or none), `dw += d(norm)/dw . dy`, `db += sum of dy` where
    /// there is a bias. `dx` may be `dy` or `plus`; `dw`, `db [1, n]` f32 or the storage dtype;
    /// `scratch [2 ceil(t / 64), n]` f32.
    fn layer_norm_bwd(
        &self,
        dx: Tensor,
        dw: Tensor,
        db: Option<Tensor>,
        dy: Tensor,
        x: Tensor,
        w: Tensor,
        mean: Tensor,
        rstd: Tensor,
        plus: Option<Tensor>,
        scratch: Tensor,
    );
}

/// Rows of the scratch that `rms_norm_bwd` wants for `t` rows; `layer_norm_bwd` wants twice as many.
pub const fn bwd_scratch_rows(t: usize) -> usize {
    t.div_ceil(ROWS_PER_PARTIAL)
}

/// Rows summed into one partial of `dw` and `db`: fixed, so that sums do not depend on the number of threads.
pub const ROWS_PER_PARTIAL: usize = 64;
