//! Activations: what a pass needs room for, what training keeps for the backward pass, and the batch on the device.
//!
//! One arena sized for the largest batch; a batch of `t` tokens uses the first `t` rows of everything. What a block keeps for
//! its backward pass is set by [`Recompute`]; what it does not keep lies in one place for all blocks and is computed again, with
//! the same bits. There are two places for batches that take turns, so that one can be filled while the other is worked on.

use super::cache::Cache;
use super::config::Config;
use crate::arena::Arena;
use crate::ops::loss::NO_TARGET;
use crate::ops::norm::bwd_scratch_rows;
use crate::ops::{Batch, Device, Forest, Profile, Segment};
use crate::tensor::{DType, Tensor};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is computed again of a block in its backward pass, instead of kept: the more, the less memory and the more time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing.
    None,
    /// Norms and the product of gates and ups: no matrix products.
    Lean,
    /// Those, and gates and ups: a sixth of the products of a step.
    Ffn,
    /// Everything but the block's input: nearly a quarter of a step.
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
    /// What the device asks for.
    pub profile: Profile,
}

impl Sizes {
    /// As many rows of logits as fit `bytes`, at least 1 and at most `asks`.
    pub fn chunk_for(vocab: usize, asks: usize, bytes: usize) -> usize {
        (bytes / (4 * vocab)).clamp(1, asks.max(1))
    }

    /// Tokens and asks with what a batch is filled up with.
    fn filled(&self) -> (usize, usize) {
        let multiple = self.profile.multiple;
        (self.tokens.next_multiple_of(multiple), self.asks.next_multiple_of(multiple))
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
    /// A block's activations; what is computed again where block 0, `first`, has it.
    fn carve(
        c: &Config,
        arena: &mut Arena,
        dtype: DType,
        t: usize,
        recompute: Recompute,
        first: Option<&Self>,
    ) -> Self {
        let (d, k) = (c.hidden, c.head_size);
        let mut take = |again: Recompute, place: fn(&Self) -> Tensor, dtype, cols| match first {
            Some(first) if recompute >= again => place(first),
            _ => arena.take("activations", dtype, t, cols),
        };
        use Recompute::{Block, Ffn, Lean};
        Self {
            h1: take(Lean, |b| b.h1, dtype, d),
            rstd1: take(Lean, |b| b.rstd1, DType::F32, 1),
            qkv: take(Block, |b| b.qkv, dtype, c.qkv_cols()),
            qk: c.qk_norm.then(|| {
                (
                    take(Block, |b| b.qk.expect("as in block 0").0, dtype, (c.heads + c.kv_heads) * k),
                    take(Block, |b| b.qk.expect("as in block 0").1, DType::F32, c.heads),
                    take(Block, |b| b.qk.expect("as in block 0").2, DType::F32, c.kv_heads),
                )
            }),
            o: take(Block, |b| b.o, dtype, c.heads * k),
            lse: take(Block, |b| b.lse, DType::F32, c.heads),
            mid: take(Block, |b| b.mid, dtype, d),
            h2: take(Lean, |b| b.h2, dtype, d),
            rstd2: take(Lean, |b| b.rstd2, DType::F32, 1),
            gate_up: take(Ffn, |b| b.gate_up, dtype, 2 * c.ffn),
            act: take(Lean, |b| b.act, dtype, c.ffn),
        }
    }

    /// The first `t` rows.
    pub(super) fn rows(&self, t: usize) -> Self {
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
    /// Attention's scratch, `[t, h]` f32, or `[t, h + h k]`.
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
    places: [Place; 2],
    /// Which place the next batch takes.
    next: Cell<usize>,
    /// Tells these activations from all others of this process.
    id: u64,
}

/// Where a batch lies on the device.
#[derive(Clone, Copy, Debug)]
struct Place {
    tokens: Tensor,
    positions: Tensor,
    order: Tensor,
    table: Tensor,
    rows: Tensor,
    unique: Tensor,
    targets: Tensor,
    scale: Tensor,
    /// Positions of the predicting rows, and the table of their forest; nothing in training.
    picked: Tensor,
    picked_table: Tensor,
}

/// The rows that predict, as queries of the last block: nobody reads its other rows.
#[derive(Clone, Debug)]
pub(super) struct Picked {
    /// Their positions, `[1, u]` u32.
    pub(super) positions: Tensor,
    segments: Vec<Segment>,
    table: Tensor,
}

impl Picked {
    /// The forest whose queries they are.
    pub(super) fn forest(&self) -> Forest<'_> {
        Forest { segments: &self.segments, table: self.table }
    }
}

/// `segments` with queries of `rows` alone (ascending): cut where such rows begin and end. Query row `i` is `rows[i]`.
fn pick(segments: &[Segment], rows: &[u32]) -> Vec<Segment> {
    let mut out: Vec<Segment> = Vec::new();
    // Of every segment its last piece.
    let mut ends: Vec<u32> = Vec::with_capacity(segments.len());
    let mut next = 0;
    for s in segments {
        let (mut parent, mut done) = (s.parent.map(|p| ends[p as usize]), 0);
        while done < s.len {
            let first = s.queries.and_then(|q| rows.get(next).map(|r| r - q)).unwrap_or(s.len).min(s.len);
            let (queries, end) = if first > done {
                (None, first)
            } else {
                let run = (next..rows.len()).take_while(|&i| rows[i] - rows[next] == (i - next) as u32);
                let len = (run.count() as u32).min(s.len - done);
                next += len as usize;
                (Some(next as u32 - len), done + len)
            };
            let (start, position) = (s.start + done, s.position + done);
            out.push(Segment { parent, start, queries, len: end - done, position });
            parent = Some(out.len() as u32 - 1);
            done = end;
        }
        ends.push(out.len() as u32 - 1);
    }
    out
}

/// A batch on the device, good for one pass; the next upload may go beside that pass.
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
    /// The rows sorted by token, `[1, t]` u32.
    pub order: Tensor,
    /// Factor on the losses in training, `[1, 1]` f32.
    pub scale: Tensor,
    /// The forest, with what the batch was filled up with.
    pub segments: Vec<Segment>,
    /// What the attention ops keep of it.
    pub table: Tensor,
    /// The cache that the batch continues, and the rows of it that the batch's keys and values get, `[1, t]` u32.
    pub(super) cache: Option<(Cache, Tensor)>,
    /// What the last block is computed at, if not everywhere.
    pub(super) picked: Option<Picked>,
    /// How many of the predicting rows are the batch's own, without filling.
    pub(super) distinct: usize,
    /// The targets of the batch itself, without filling.
    pub wanted: Vec<u32>,
    /// What a recording of the passes over this input depends on.
    pub(super) key: [u64; 6],
}

impl Input {
    /// The forest as the attention ops take it.
    pub fn forest(&self) -> Forest<'_> {
        Forest { segments: &self.segments, table: self.table }
    }
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
        let ((t, n), d, k) = (sizes.filled(), c.hidden, c.head_size);
        let streams = if sizes.train.is_some() { c.layers + 1 } else { 2 };
        let stream = (0..streams).map(|_| arena.take("residual stream", dtype, t, d)).collect();
        let recompute = sizes.train.unwrap_or(Recompute::Block);
        let mut blocks: Vec<BlockActs> = Vec::with_capacity(c.layers);
        for _ in 0..if recompute == Recompute::Block { 1 } else { c.layers } {
            blocks.push(BlockActs::carve(c, arena, dtype, t, recompute, blocks.first()));
        }
        let back = sizes.train.map(|_| {
            let mut take = |dtype, rows, cols| arena.take("backward", dtype, rows, cols);
            Back {
                dact: take(dtype, t, c.ffn),
                dh: take(dtype, t, d),
                dqkv: take(dtype, t, c.qkv_cols()),
                do_: take(dtype, t, c.heads * k),
                delta: take(DType::F32, t, c.heads * if sizes.profile.dq_scratch { 1 + k } else { 1 }),
                norm: take(DType::F32, bwd_scratch_rows(t), d),
                head_norm: take(DType::F32, bwd_scratch_rows(t), k),
            }
        });
        let dx = match sizes.train {
            Some(_) => arena.take("backward", dtype, t, d),
            None => arena.take("backward", dtype, 0, d),
        };
        let mut batch = |dtype, n: usize| arena.take("batch", dtype, 1, n);
        let picks = |n: usize| if sizes.train.is_some() { 0 } else { n };
        let places = [(); 2].map(|()| Place {
            tokens: batch(DType::U32, t),
            positions: batch(DType::U32, t),
            order: batch(DType::U32, t),
            table: batch(DType::U32, sizes.profile.table_words(t)),
            rows: batch(DType::U32, n),
            unique: batch(DType::U32, n),
            targets: batch(DType::U32, n),
            scale: batch(DType::F32, 1),
            picked: batch(DType::U32, picks(n)),
            picked_table: batch(DType::U32, picks(sizes.profile.table_words(t))),
        });
        let best = batch(DType::U32, n);
        static COUNT: AtomicU64 = AtomicU64::new(0);
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
            places,
            next: Cell::new(0),
            id: COUNT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The sizes it was carved for.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Puts `batch` at its place, filled up as the device asks: with tokens 0 in segments of their own, at most `longest`
    /// long, and predictions of nothing. Over a `cache` these tokens have rows of their own.
    pub(super) fn upload(
        &self,
        device: &dyn Device,
        batch: &Batch,
        cache: Option<&Cache>,
        scale: f32,
        longest: usize,
    ) -> Input {
        let (mut t, asks) = (batch.len(), batch.rows.len());
        assert!(
            t <= self.sizes.tokens && asks <= self.sizes.asks,
            "a batch of {t} tokens, {asks} asks in {:?}",
            self.sizes
        );
        let (mut tokens, mut positions) = (batch.tokens.clone(), batch.positions());
        let mut segments = batch.segments.clone();
        let mut slots = cache.map(|_| batch.slots());
        let multiple = self.sizes.profile.multiple;
        let filled = t.next_multiple_of(multiple);
        while t < filled {
            let len = longest.min(filled - t);
            let start = cache.map_or(t, |c| c.rows() + t - batch.len()) as u32;
            if let Some(slots) = &mut slots {
                slots.extend(start..start + len as u32);
            }
            segments.push(Segment {
                parent: None,
                start,
                queries: Some(t as u32),
                len: len as u32,
                position: 0,
            });
            tokens.resize(t + len, 0);
            positions.extend(0..len as u32);
            t += len;
        }
        let mut order: Vec<u32> = (0..t as u32).collect();
        order.sort_by_key(|&row| tokens[row as usize]);

        let mut unique = batch.rows.clone();
        unique.dedup();
        let distinct = unique.len();
        let mut at = 0;
        let mut rows: Vec<u32> = batch
            .rows
            .iter()
            .map(|r| {
                at += usize::from(unique[at] != *r);
                at as u32
            })
            .collect();
        let mut targets = batch.targets.clone();
        // Not where most rows predict: then there is little to save.
        let picked = self.sizes.train.is_none() && distinct > 0 && distinct <= t / 4 * 3;
        let pieces = if picked { pick(&segments, &unique) } else { Vec::new() };
        unique.resize(unique.len().next_multiple_of(multiple), (t as u32).saturating_sub(1));
        let last = (unique.len() as u32).saturating_sub(1);
        rows.resize(asks.next_multiple_of(multiple), last);
        targets.resize(rows.len(), NO_TARGET);

        let slot = self.next.get();
        let place = &self.places[slot];
        let put = |place: Tensor, values: &[u32]| {
            let place = place.slice_cols(0..values.len());
            device.write_ahead(place, bytemuck::cast_slice(values));
            place
        };
        device.write_ahead(place.scale, bytemuck::bytes_of(&scale));
        let picked = picked.then(|| {
            let at: Vec<u32> = unique.iter().map(|&row| positions[row as usize]).collect();
            Picked { positions: put(place.picked, &at), segments: pieces, table: place.picked_table }
        });
        let input = Input {
            tokens: put(place.tokens, &tokens),
            positions: put(place.positions, &positions),
            order: put(place.order, &order),
            unique: put(place.unique, &unique),
            rows: put(place.rows, &rows),
            targets: put(place.targets, &targets),
            scale: place.scale,
            segments,
            table: place.table,
            cache: cache.zip(slots).map(|(c, slots)| (c.clone(), put(c.slots(slot), &slots))),
            distinct,
            wanted: batch.targets.clone(),
            key: [self.id as usize, slot, t, unique.len(), rows.len(), usize::from(picked.is_some())]
                .map(|n| n as u64),
            picked,
        };
        device.attention_plan(&input.forest());
        if let Some(picked) = &input.picked {
            device.attention_plan(&picked.forest());
        }
        input
    }

    /// The next upload takes the other place: the device has work that reads this one.
    pub(super) fn turn(&self) {
        self.next.set(1 - self.next.get());
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
