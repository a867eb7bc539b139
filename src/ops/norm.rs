//! RMSNorm (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019): `y = x * rstd * w`,
//! `rstd = 1 / sqrt(mean(x^2) + eps)`.

use crate::tensor::Tensor;

/// RMSNorm over groups of columns: `w [1, n]`, `x [t, groups * n]`. One group is the usual norm; the q/k norms of Qwen3 have
/// one group a head.
pub trait Norm {
    /// `y = norm(x)` and `rstd [t, groups]` f32, kept for the backward pass.
    fn rms_norm_fwd(&self, y: Tensor, rstd: Tensor, x: Tensor, w: Tensor, eps: f32);
    /// `dx = plus + d(norm)/dx . dy` (`plus`: a residual's gradient, or none), `dw += d(norm)/dw . dy`.
    /// `dx` may be `dy` or `plus`; `dw [1, n]` f32; `scratch [ceil(t / 64), n]` f32.
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
}

/// Rows of the scratch that `rms_norm_bwd` wants for `t` rows.
pub const fn bwd_scratch_rows(t: usize) -> usize {
    t.div_ceil(ROWS_PER_PARTIAL)
}

/// Rows summed into one partial of `dw`: fixed, so that sums do not depend on the number of threads.
pub const ROWS_PER_PARTIAL: usize = 64;
