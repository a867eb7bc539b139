//! The vocabulary product fused with what is wanted of it; logits exist only for one chunk of rows.

use crate::tensor::Tensor;

/// The target of a row that predicts nothing: batches are filled up with such rows.
pub const NO_TARGET: u32 = u32::MAX;

/// Linear layer and cross-entropy in one op. `x [r, d]` are the normed rows that predict, `w [v, d]` the head, `targets
/// [1, n]` u32; `scratch [c, v]` f32 has room for the logits of `c` rows, which a device divides as it likes. A target of
/// [`NO_TARGET`] asks for nothing: its loss and gradient, or its log-probability, are 0.
pub trait Loss {
    /// `loss[i] = -log softmax(w x_i)[targets_i]`, `[1, r]` f32; sets `dx [r, d]` and adds to `dw [v, d]` f32 the gradient
    /// of `scale * sum(loss)`, `scale [1, 1]` f32. `dx` may be `x`. On its way the gradient of the logits may be rounded to a
    /// 16-bit storage dtype, as that of any activation.
    fn linear_cross_entropy(
        &self,
        loss: Tensor,
        dx: Tensor,
        dw: Tensor,
        x: Tensor,
        w: Tensor,
        targets: Tensor,
        scale: Tensor,
        scratch: Tensor,
    );
    /// `logprob[i] = log softmax(w x_j)[targets_i]`, `[1, n]` f32, and `best[i]`, `[1, n]` u32, the token of the largest
    /// logit (the first on a tie), with `j = rows[i]`; `rows [1, n]` u32 ascending, a row may repeat.
    fn linear_logprob(
        &self,
        logprob: Tensor,
        best: Tensor,
        x: Tensor,
        w: Tensor,
        rows: Tensor,
        targets: Tensor,
        scratch: Tensor,
    );
}
