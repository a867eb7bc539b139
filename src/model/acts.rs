//! Activations: what a pass needs room for, what training keeps for the backward pass, and the batch on the device.
//!
//! One arena sized for the largest batch; a batch of `t` tokens uses the first `t` rows of everything. With
//! [`Recompute::Block`] only the residual stream between blocks is kept and each block runs forward again before its
//! backward pass; the numbers are the same bits.

use super::config::Config;
use crate::arena::Arena;
use crate::ops::norm::bwd_scratch_rows;
use crate::ops::{Batch, Device, Segment};
use crate::tensor::{DType, Tensor};

/// What is kept of a block for its backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Everything.
    None,
    /// Its input; the rest is computed again.
    Block,
}

/// The largest batch, and what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Most tokens of a batch.
    pub tokens: usize,
    /// Most predictions asked for in a batch.
    pub asks: usize,
    /// Rows of logits held at a time.
    pub chunk: usize,
    /// For training: what to keep. `None`: a pass that keeps nothing (scoring).
    pub train: Option<Recompute>,
}

impl Sizes {
    /// As many rows of logits as fit `bytes`, at least 1 and at most `asks`.
    pub fn chunk_for(vocab: usize, asks: usize, bytes: usize) -> usize {
        (bytes / (4 * vocab)).clamp(1, asks.max(1))
    }
}

/// What one block computes, all `[tokens, ..]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockActs {
    /// Normed input, `[t, d]`, and reciprocal deviations `[t, 1]` f32.
    pub(super) h1: Tensor,
    pub(super) rstd1: Tensor,
    /// Projections, `[t, (h + 2 g) k]`; rotated in place where there is no q/k norm.
    pub(super) qkv: Tensor,
    /// Normed and rotated queries and keys, `[t, (h + g) k]`, and deviations `[t, h]`, `[t, g]` f32.
    pub(super) qk: Option<(Tensor, Tensor, Tensor)>,
    /// Attention output, `[t, h k]`, and log-sum-exps, `[t, h]` f32.
    pub(super) o: Tensor,
    pub(super) lse: Tensor,
    /// Residual stream after attention, `[t, d]`.
    pub(super) mid: Tensor,
    /// Normed middle, `[t, d]`, and deviations.
    pub(super) h2: Tensor,
    pub(super) rstd2: Tensor,
    /// Gates and ups, `[t, 2 f]`.
    pub(super) gate_up: Tensor,
    /// Their product, `[t, f]`.
    pub(super) act: Tensor,
}

impl BlockActs {
    fn carve(c: &Config, arena: &mut Arena, dtype: DType, t: usize) -> Self {
        let (d, k) = (c.hidden, c.head_size);
        let mut take = |dtype, cols| arena.take("activations", dtype, t, cols);
        Self {
            h1: take(dtype, d),
            rstd1: take(DType::F32, 1),
            qkv: take(dtype, c.qkv_cols()),
            qk: c.qk_norm.then(|| {
                (
                    take(dtype, (c.heads + c.kv_heads) * k),
                    take(DType::F32, c.heads),
                    take(DType::F32, c.kv_heads),
                )
            }),
            o: take(dtype, c.heads * k),
            lse: take(DType::F32, c.heads),
            mid: take(dtype, d),
            h2: take(dtype, d),
            rstd2: take(DType::F32, 1),
            gate_up: take(dtype, 2 * c.ffn),
            act: take(dtype, c.ffn),
        }
    }

    fn rows(&self, t: usize) -> Self {
        let cut = |x: Tensor| x.slice_rows(0..t);
        Self {
            h1: cut(self.h1),
            rstd1: cut(self.rstd1),
            qkv: cut(self.qkv),
            qk: self.qk.map(|(a, b, c)| (cut(a), cut(b), cut(c))),
            o: cut(self.o),
            lse: cut(self.lse),
            mid: cut(self.mid),
            h2: cut(self.h2),
            rstd2: cut(self.rstd2),
            gate_up: cut(self.gate_up),
            act: cut(self.act),
        }
    }
}

/// Scratch of the backward pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Back {
    /// Gradient of the product of gates and ups, `[t, f]`.
    pub(super) dact: Tensor,
    /// Gradient of a normed input, `[t, d]`.
    pub(super) dh: Tensor,
    /// Gradient of the projections, `[t, (h + 2 g) k]`.
    pub(super) dqkv: Tensor,
    /// Gradient of the attention output, `[t, h k]`.
    pub(super) do_: Tensor,
    /// Attention's scratch, `[t, h]` f32.
    pub(super) delta: Tensor,
    /// Norm scratch for widths `d` and `k`.
    pub(super) norm: Tensor,
    pub(super) head_norm: Tensor,
}

/// Room for every intermediate of a pass and for the batch itself.
#[derive(Clone, Debug)]
pub struct Acts {
    sizes: Sizes,
    /// Residual stream: before block 0 and after each block, or two that take turns when nothing is kept.
    stream: Vec<Tensor>,
    blocks: Vec<BlockActs>,
    /// Gradient of the residual stream, `[t, d]`; no rows when only predicting.
    dx: Tensor,
    back: Option<Back>,
    /// Gathered rows, their norm and their gradient, `[asks, d]`.
    picked: Tensor,
    normed: Tensor,
    rstd: Tensor,
    logits: Tensor,
    values: Tensor,
    best: Tensor,
    tokens: Tensor,
    positions: Tensor,
    rows: Tensor,
    unique: Tensor,
    targets: Tensor,
}

/// A batch on the device, valid until the next upload.
#[derive(Clone, Debug)]
pub struct Input {
    /// Token ids, `[1, t]` u32.
    pub tokens: Tensor,
    /// Their positions, `[1, t]` u32.
    pub positions: Tensor,
    /// The distinct rows that predict, `[1, u]` u32, ascending.
    pub unique: Tensor,
    /// For each ask, its place in `unique`, `[1, asks]` u32.
    pub rows: Tensor,
    /// For each ask its target, `[1, asks]` u32.
    pub targets: Tensor,
    /// The forest.
    pub segments: Vec<Segment>,
}

/// The first `t` rows of everything, and the block activations by layer.
pub(super) struct View {
    stream: Vec<Tensor>,
    blocks: Vec<BlockActs>,
    pub(super) train: Option<Recompute>,
    pub(super) dx: Tensor,
    pub(super) back: Option<Back>,
    pub(super) picked: Tensor,
    pub(super) normed: Tensor,
    pub(super) rstd: Tensor,
    pub(super) logits: Tensor,
    pub(super) values: Tensor,
    pub(super) best: Tensor,
}

impl View {
    /// The residual stream before block `l`.
    pub(super) fn stream(&self, l: usize) -> Tensor {
        self.stream[l % self.stream.len()]
    }

    /// What block `l` computes.
    pub(super) fn block(&self, l: usize) -> &BlockActs {
        &self.blocks[l % self.blocks.len()]
    }
}

impl Acts {
    /// Takes room for batches of `sizes` from `arena`, activations in `dtype`.
    pub fn carve(c: &Config, arena: &mut Arena, dtype: DType, sizes: Sizes) -> Self {
        let (t, d, k) = (sizes.tokens, c.hidden, c.head_size);
        let streams = if sizes.train.is_some() { c.layers + 1 } else { 2 };
        let stream = (0..streams).map(|_| arena.take("residual stream", dtype, t, d)).collect();
        let blocks = if sizes.train == Some(Recompute::None) { c.layers } else { 1 };
        let blocks = (0..blocks).map(|_| BlockActs::carve(c, arena, dtype, t)).collect();
        let back = sizes.train.map(|_| {
            let mut take = |dtype, rows, cols| arena.take("backward", dtype, rows, cols);
            Back {
                dact: take(dtype, t, c.ffn),
                dh: take(dtype, t, d),
                dqkv: take(dtype, t, c.qkv_cols()),
                do_: take(dtype, t, c.heads * k),
                delta: take(DType::F32, t, c.heads),
                norm: take(DType::F32, bwd_scratch_rows(t), d),
                head_norm: take(DType::F32, bwd_scratch_rows(t), k),
            }
        });
        let dx = match sizes.train {
            Some(_) => arena.take("backward", dtype, t, d),
            None => arena.take("backward", dtype, 0, d),
        };
        let n = sizes.asks;
        let mut batch = |n: usize| arena.take("batch", DType::U32, 1, n);
        let (tokens, positions) = (batch(t), batch(t));
        let (rows, unique, targets, best) = (batch(n), batch(n), batch(n), batch(n));
        Self {
            sizes,
            stream,
            blocks,
            dx,
            back,
            picked: arena.take("head", dtype, n, d),
            normed: arena.take("head", dtype, n, d),
            rstd: arena.take("head", DType::F32, n, 1),
            logits: arena.take("logits chunk", DType::F32, sizes.chunk, c.vocab),
            values: arena.take("head", DType::F32, 1, n),
            best,
            tokens,
            positions,
            rows,
            unique,
            targets,
        }
    }

    /// The sizes it was carved for.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    pub(super) fn upload(&self, device: &dyn Device, batch: &Batch) -> Input {
        let (t, n) = (batch.len(), batch.rows.len());
        assert!(
            t <= self.sizes.tokens && n <= self.sizes.asks,
            "a batch of {t} tokens, {n} asks in {:?}",
            self.sizes
        );
        let put = |place: Tensor, values: &[u32]| {
            let place = place.slice_cols(0..values.len());
            device.write(place, bytemuck::cast_slice(values));
            place
        };
        let mut unique = batch.rows.clone();
        unique.dedup();
        let mut at = 0;
        let rows: Vec<u32> = batch
            .rows
            .iter()
            .map(|r| {
                at += usize::from(unique[at] != *r);
                at as u32
            })
            .collect();
        Input {
            tokens: put(self.tokens, &batch.tokens),
            positions: put(self.positions, &batch.positions()),
            unique: put(self.unique, &unique),
            rows: put(self.rows, &rows),
            targets: put(self.targets, &batch.targets),
            segments: batch.segments.clone(),
        }
    }

    pub(super) fn view(&self, t: usize) -> View {
        let cut = |x: &Tensor| x.slice_rows(0..t);
        View {
            stream: self.stream.iter().map(cut).collect(),
            blocks: self.blocks.iter().map(|b| b.rows(t)).collect(),
            train: self.sizes.train,
            dx: if self.back.is_some() { cut(&self.dx) } else { self.dx },
            back: self.back.map(|b| Back {
                dact: cut(&b.dact),
                dh: cut(&b.dh),
                dqkv: cut(&b.dqkv),
                do_: cut(&b.do_),
                delta: cut(&b.delta),
                ..b
            }),
            picked: self.picked,
            normed: self.normed,
            rstd: self.rstd,
            logits: self.logits,
            values: self.values,
            best: self.best,
        }
    }
}
