//! Causal attention over the forest batch, flash style: no `[t, t]` matrix ever exists.
//!
//! Dao et al., "FlashAttention", 2022. Key tiles are counted in *path positions* (a token's place in its root-to-leaf
//! sequence), so a query's result is the same bits whether its prefix is shared, packed or alone.

use crate::ops::forest::Forest;
use crate::tensor::Tensor;

/// Geometry of the heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads, `h`.
    pub query: usize,
    /// Key/value heads, `g`; divides `h`. Query head `i` uses key head `i / (h / g)`.
    pub kv: usize,
    /// Head size, `k`.
    pub size: usize,
    /// Factor on the scores, usually `1 / sqrt(k)`.
    pub scale: f32,
    /// Sliding window: a query sees keys less than this many positions back. `None`: all.
    pub window: Option<usize>,
}

/// Attention forward and backward.
pub trait Attention {
    /// Writes what the other two ops want to know of a batch's forest to its `table`: once a batch, before them.
    fn attention_plan(&self, forest: &Forest<'_>);
    /// `o = softmax(scale . q k^T) v` over each token's path; `o, q [t, h k]`, `lse [t, h]` f32 (log of the softmax
    /// denominators, for the backward pass). `k, v [tk, g k]` hold the keys of all segments: those of this batch
    /// (`tk = t`), or a cache with rows of its own, which makes decoding the same op.
    fn attention_fwd(
        &self,
        o: Tensor,
        lse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        forest: &Forest<'_>,
        heads: Heads,
    );
    /// Sets `dq, dk, dv` from `do_` and what the forward pass kept. `scratch [t, h]` f32, or `[t, h + h k]` where the
    /// device's [`Profile`](super::Profile) has `dq_scratch`. Every segment has its queries here.
    fn attention_bwd(
        &self,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        do_: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        o: Tensor,
        lse: Tensor,
        forest: &Forest<'_>,
        heads: Heads,
        scratch: Tensor,
    );
}
