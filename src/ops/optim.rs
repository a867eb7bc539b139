//! Gradient clipping and AdamW over flat ranges of the arenas.

use crate::tensor::Tensor;

/// One AdamW update's numbers (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019).
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub decay: f32,
    /// Number of this update, from 1: for the bias corrections.
    pub step: u64,
}

/// The optimizer. All ranges are dense `[1, n]`.
pub trait Optim {
    /// `out [1, 2]` f32: the 2-norm of `unscale * grads`, and the factor to put on `grads`:
    /// `unscale * min(1, max_norm / (norm + 1e-6))`, as PyTorch's `clip_grad_norm_`; NaN where the norm is not finite.
    /// Two-stage f64 sum in fixed order. `scratch [1, clip_scratch(n)]` f32.
    fn clip(&self, out: Tensor, grads: Tensor, max_norm: f32, unscale: f32, scratch: Tensor);
    /// One AdamW step on `master, m, v` f32 with `grads` f32 times the factor `clip[1]`; then `weights` = `master` in the
    /// storage dtype (they may be the same tensor). A factor that is not finite leaves everything as it was.
    fn adamw(
        &self,
        weights: Tensor,
        master: Tensor,
        m: Tensor,
        v: Tensor,
        grads: Tensor,
        clip: Tensor,
        how: AdamW,
    );
}

/// Elements summed into one partial of the norm.
pub const CLIP_CHUNK: usize = 1 << 14;

/// f32 elements of scratch that `clip` wants for `n` gradients: an f64 partial a chunk.
pub const fn clip_scratch(n: usize) -> usize {
    2 * n.div_ceil(CLIP_CHUNK)
}
