//! Token embedding.

use crate::tensor::Tensor;

/// Lookup of token rows.
pub trait Embed {
    /// `x[i] = table[tokens[i]]`; `x [t, d]`, `table [v, d]`, `tokens [1, t]` u32.
    fn embed_fwd(&self, x: Tensor, table: Tensor, tokens: Tensor);
    /// `dtable[tokens[i]] += dx[i]`, in token order; `dtable [v, d]` f32.
    fn embed_bwd(&self, dtable: Tensor, dx: Tensor, tokens: Tensor);
}
