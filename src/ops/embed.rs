//! Token embedding.

use crate::tensor::Tensor;

/// Lookup of token rows.
pub trait Embed {
    /// `x[i] = table[tokens[i]]`; `x [t, d]`, `table [v, d]`, `tokens [1, t]` u32.
    fn embed_fwd(&self, x: Tensor, table: Tensor, tokens: Tensor);
    /// `dtable[tokens[i]] += dx[i]`, ascending in `i`; `dtable [v, d]` f32 or the storage dtype. `order [1, t]` u32: the rows
    /// sorted by (token, row).
    fn embed_bwd(&self, dtable: Tensor, dx: Tensor, tokens: Tensor, order: Tensor);
}
