//! Rotary position embedding (Su et al., "RoFormer", 2021), half-split layout as in Hugging Face checkpoints.

use crate::tensor::Tensor;

/// Rotation of query and key heads.
pub trait Rope {
    /// Rotates every head of `x [t, heads * k]` in place: with `c, s` from row `positions[i]` of `table`,
    /// `(x1, x2) -> (x1 c - x2 s, x2 c + x1 s)` for the first and second half of a head; `inverse` negates `s`, which is
    /// the backward pass. `positions [1, t]` u32; `table [positions, k]` f32: `k/2` cosines, then `k/2` sines, already
    /// multiplied by the scaling's attention factor where there is one.
    fn rope(&self, x: Tensor, positions: Tensor, table: Tensor, inverse: bool);
}
