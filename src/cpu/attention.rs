//! Attention on the forest batch. A task is a block of query rows (forward, dq) or of keys (dk, dv) of one key/value head.
//!
//! The query heads that share a key head are stacked as rows, so keys and values are packed once for all of them. Key tiles
//! are aligned to path positions: the sums of a query run in the same order however its path is cut into segments. Scores of
//! bf16 are products of bf16 pairs where the machine has them; probabilities and sums are f32.

use super::Cpu;
use super::gemm::{LINES, Left, MAX_MR, Micro, Right, Sum, pack_across, pack_cols, pack_lines};
use super::rows::{load, pairs_along, shape, slice_mut, store, with_buffers};
use super::simd::{self, exp, reduce, vectorized};
use crate::ops::attention::{Attention, Heads};
use crate::ops::forest::{Forest, Segment};
use crate::tensor::{DType, Tensor};

/// Keys of a tile.
const KEYS: usize = 64;
/// Stacked query rows of a task, about: forward, and backward. (The sums of dk and dv go from block to block of them: the
/// second is part of the definition of their bits.)
const ROWS: (usize, usize) = (192, 96);

/// Sizes that every task needs.
#[derive(Clone, Copy)]
struct Shape {
    heads: Heads,
    /// Query heads per key head.
    group: usize,
    /// Query tokens of a block.
    block: usize,
    /// The tile of scores, and how many of its inner indices a head has: pairs of bf16 values, or values.
    score: Micro,
    depth: usize,
    /// The tile of weighted sums. Both are of one size.
    micro: Micro,
    /// Head size and rows padded to the register tile.
    size_n: usize,
    keys_m: usize,
    keys_n: usize,
    rows_m: usize,
}

impl Shape {
    /// For keys and the like of `dtype`, blocks of about `rows` stacked rows.
    fn new(heads: Heads, dtype: DType, rows: usize) -> Self {
        assert!(heads.kv > 0 && heads.query.is_multiple_of(heads.kv), "{heads:?}");
        let group = heads.query / heads.kv;
        let block = rows.div_ceil(group);
        let micro = Micro::get();
        let pairs = Micro::pairs().filter(|_| dtype == DType::BF16 && heads.size.is_multiple_of(2));
        Self {
            heads,
            group,
            block,
            score: pairs.unwrap_or(micro),
            depth: if pairs.is_some() { heads.size / 2 } else { heads.size },
            micro,
            size_n: heads.size.next_multiple_of(micro.nr),
            keys_m: KEYS.next_multiple_of(micro.mr),
            keys_n: KEYS.next_multiple_of(micro.nr),
            rows_m: (block * group).next_multiple_of(micro.mr),
        }
    }

    /// Whether the key at path position `key` is seen from `query`.
    #[inline(always)]
    fn sees(&self, query: usize, key: usize) -> bool {
        key <= query && self.heads.window.is_none_or(|w| query - key < w)
    }

    /// The stacked rows of `q`, in whole register tiles, that see no key from position `first` on.
    fn blind(&self, q: Queries, first: usize) -> usize {
        let rows = first.saturating_sub(q.position) * self.group;
        rows / self.micro.mr * self.micro.mr
    }

    /// First key position that any query from `query` on can see.
    fn first_key(&self, query: usize) -> usize {
        self.heads.window.map_or(0, |w| (query + 1).saturating_sub(w))
    }
}

/// A block of query tokens of one segment.
#[derive(Clone, Copy)]
struct Queries {
    /// The segment's index.
    segment: usize,
    /// First row of queries, and its path position.
    row: usize,
    position: usize,
    count: usize,
}

/// Cuts the segments into query blocks.
fn query_blocks(segments: &[Segment], block: usize) -> Vec<Queries> {
    let mut out = Vec::new();
    for (segment, s) in segments.iter().enumerate() {
        let Some(queries) = s.queries else { continue };
        for first in (0..s.len as usize).step_by(block) {
            let count = block.min(s.len as usize - first);
            out.push(Queries {
                segment,
                row: queries as usize + first,
                position: s.position as usize + first,
                count,
            });
        }
    }
    out
}

/// The key rows of path positions `first..first + out.len()` of `segment`'s path.
fn path_rows(out: &mut [usize], segments: &[Segment], mut segment: usize, first: usize) {
    let mut end = out.len();
    while end > 0 {
        let s = segments[segment];
        let start = s.position as usize;
        let from = start.max(first);
        for p in from..(first + end).max(from) {
            out[p - first] = s.start as usize + p - start;
        }
        end = end.min(from - first);
        match s.parent {
            Some(p) => segment = p as usize,
            None => break,
        }
    }
}

vectorized! {
    /// Scores of one query row to probabilities `exp(s - lse)`, keys outside `from..to` to 0.
    fn probabilities(s: &mut [f32], from: usize, to: usize, scale: f32, lse: f32) {
        s[..from].fill(0.0);
        s[to..].fill(0.0);
        for s in &mut s[from..to] {
            *s = exp(s.mul_add(scale, -lse));
        }
    }
}

vectorized! {
    /// `ds = p (dp - delta) scale`, written over `dp`.
    fn score_gradient(dp: &mut [f32], p: &[f32], delta: f32, scale: f32) {
        for (d, p) in dp.iter_mut().zip(p) {
            *d = p * (*d - delta) * scale;
        }
    }
}

vectorized! {
    /// Online softmax of a row over a tile: `s` to `exp(s - max)`; returns the new maximum and the tile's sum.
    fn tile_softmax(s: &mut [f32], from: usize, to: usize, scale: f32, max: f32) -> (f32, f32) {
        for x in &mut s[from..to] {
            *x *= scale;
        }
        let top = simd::max_of(&s[from..to], max);
        s[..from].fill(0.0);
        s[to..].fill(0.0);
        for x in &mut s[from..to] {
            *x = exp(*x - top);
        }
        // All keys of the tile take part, the hidden ones as zeros: lanes depend on path positions alone.
        let sum = reduce([s], |[x], acc| acc + x);
        (top, sum)
    }
}

impl Shape {
    /// The part of the key tile at `first` (of `keys` keys) that a query at `position` sees, as a range of tile columns.
    fn seen(&self, position: usize, first: usize, keys: usize) -> (usize, usize) {
        let from = self.first_key(position).saturating_sub(first).min(keys);
        let to = (position + 1).saturating_sub(first).min(keys);
        (from.min(to), to)
    }

    /// Loads `depth` inner indices of row `row` of head `head` of `x` for scores.
    #[inline]
    fn load_inner(&self, out: &mut [f32], x: Tensor, row: usize, head: usize) {
        let size = self.heads.size;
        if self.depth < size {
            pairs_along(out, x, row, head * size, size);
        } else {
            load(out, x, row, head * size);
        }
    }

    /// The row and query head of stacked row `i`.
    #[inline]
    fn stacked(&self, q: Queries, kv: usize, i: usize) -> (usize, usize) {
        (q.row + i / self.group, kv * self.group + i % self.group)
    }

    /// The stacked query-side rows of `x` (queries, or output gradients) from `skip` on, `[rows, depth]`.
    fn load_queries(&self, out: &mut [f32], x: Tensor, kv: usize, q: Queries, skip: usize) {
        for (i, out) in out.chunks_exact_mut(self.depth).take(q.count * self.group).enumerate().skip(skip) {
            let (row, head) = self.stacked(q, kv, i);
            self.load_inner(out, x, row, head);
        }
    }

    /// `out [rows, keys_n] = x [rows, depth] . keys`, keys packed across: scores, or gradients of probabilities.
    fn products(&self, out: &mut [f32], x: &[f32], keys: &[f32], (rows, n): (usize, usize)) {
        let left = Left { data: x, row: self.depth, inner: 1 };
        let right = Right::packed(keys, self.micro.nr, self.depth);
        self.score.block((rows, n, self.depth), left, right, out, self.keys_n, Sum::New);
    }

    /// `out [m, size_n] += weights [m, k] . x [k, size]`, `x` packed down: weighted sums of values, keys or queries.
    fn add_product(&self, out: &mut [f32], weights: Left, x: &[f32], (m, k): (usize, usize)) {
        let right = Right::packed(x, self.micro.nr, k);
        self.micro.block((m, self.heads.size, k), weights, right, out, self.size_n, Sum::More);
    }

    /// Packs keys as right operand `[depth, keys]`: for scores and for the gradient of probabilities.
    fn pack_keys_across(&self, out: &mut [f32], x: Tensor, kv: usize, rows: &[usize], line: &mut [f32]) {
        pack_lines(out, self.micro.nr, rows.len(), self.depth, line, |i, line| {
            self.load_inner(line, x, rows[i], kv);
        });
    }

    /// Packs keys as right operand `[keys, size]`: for weighted sums of values or keys.
    fn pack_keys_down(&self, out: &mut [f32], x: Tensor, kv: usize, rows: &[usize], line: &mut [f32]) {
        let (size, nr) = (self.heads.size, self.micro.nr);
        // Most tiles lie in one segment.
        if rows.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            return pack_cols(out, nr, x, false, (kv * size, size), (rows[0], rows.len()), line);
        }
        pack_across(out, nr, size, rows.len(), line, |i, line| load(line, x, rows[i], kv * size));
    }

    /// `weights [rows, keys_n]` as left operand with keys as inner index.
    fn over_keys<'a>(&self, weights: &'a [f32]) -> Left<'a> {
        Left { data: weights, row: self.keys_n, inner: 1 }
    }

    /// `weights [rows, keys_n]` transposed: rows of keys, queries as inner index.
    fn over_queries<'a>(&self, weights: &'a [f32]) -> Left<'a> {
        Left { data: weights, row: 1, inner: self.keys_n }
    }

    fn forward(&self, q: Queries, kv: usize, o: Tensor, lse: Tensor, x: [Tensor; 3], segments: &[Segment]) {
        let (size, rows) = (self.heads.size, q.count * self.group);
        let [queries, keys, values] = x;
        let lens = [
            self.rows_m * self.depth,
            self.keys_n * self.depth,
            KEYS * self.size_n,
            self.rows_m * self.keys_n,
            self.rows_m * self.size_n,
            2 * rows,
            LINES.max(self.micro.nr * size),
        ];
        with_buffers(lens, |[pq, pk, pv, s, out, stats, line]| {
            self.load_queries(pq, queries, kv, q, 0);
            out.fill(0.0);
            let (top, total) = stats.split_at_mut(rows);
            top.fill(f32::NEG_INFINITY);
            total.fill(0.0);
            let end = q.position + q.count;
            let mut key_rows = [0; KEYS];
            let mut first = self.first_key(q.position) / KEYS * KEYS;
            while first < end {
                let n = KEYS.min(end - first);
                let key_rows = &mut key_rows[..n];
                path_rows(key_rows, segments, q.segment, first);
                self.pack_keys_across(pk, keys, kv, key_rows, line);
                self.pack_keys_down(pv, values, kv, key_rows, line);
                let skip = self.blind(q, first);
                self.products(&mut s[skip * self.keys_n..], &pq[skip * self.depth..], pk, (rows - skip, n));
                for i in skip..rows {
                    let row = &mut s[i * self.keys_n..][..KEYS];
                    let (from, to) = self.seen(q.position + i / self.group, first, n);
                    if from == to {
                        row.fill(0.0);
                        continue;
                    }
                    let (max, sum) = tile_softmax(row, from, to, self.heads.scale, top[i]);
                    if max > top[i] {
                        let shrink = exp(top[i] - max);
                        total[i] *= shrink;
                        simd::scale(&mut out[i * self.size_n..][..size], shrink);
                        top[i] = max;
                    }
                    total[i] += sum;
                }
                let weights = self.over_keys(&s[skip * self.keys_n..]);
                self.add_product(&mut out[skip * self.size_n..], weights, pv, (rows - skip, n));
                first += KEYS;
            }
            for i in 0..rows {
                let (row, head) = (q.row + i / self.group, kv * self.group + i % self.group);
                let out = &mut out[i * self.size_n..][..size];
                simd::scale(out, 1.0 / total[i]);
                store(o, row, head * size, out);
                store(lse, row, head, &[top[i] + libm::logf(total[i])]);
            }
        });
    }

    /// Probabilities and score gradients of a query block against one key tile, from the saved log-sum-exps.
    #[inline]
    fn scores(
        &self,
        s: &mut [f32],
        dp: &mut [f32],
        stats: &[f32],
        q: Queries,
        skip: usize,
        (first, n): (usize, usize),
    ) {
        for i in skip..q.count * self.group {
            let position = q.position + i / self.group;
            let (from, to) = self.seen(position, first, n);
            debug_assert!(from == to || self.sees(position, first + from));
            let row = &mut s[i * self.keys_n..][..self.keys_n];
            probabilities(row, from, to, self.heads.scale, stats[2 * i]);
            let dp = &mut dp[i * self.keys_n..][..self.keys_n];
            score_gradient(dp, row, stats[2 * i + 1], self.heads.scale);
        }
    }

    /// The saved log-sum-exp and `sum(do o)` of every stacked row, interleaved.
    fn load_stats(&self, stats: &mut [f32], q: Queries, kv: usize, lse: Tensor, delta: Tensor) {
        for i in 0..q.count * self.group {
            let (row, head) = (q.row + i / self.group, kv * self.group + i % self.group);
            load(&mut stats[2 * i..2 * i + 1], lse, row, head);
            load(&mut stats[2 * i + 1..2 * i + 2], delta, row, head);
        }
    }

    fn backward_queries(&self, q: Queries, kv: usize, dq: Tensor, x: [Tensor; 6], segments: &[Segment]) {
        let (size, rows) = (self.heads.size, q.count * self.group);
        let [do_, queries, keys, values, lse, delta] = x;
        let lens = [
            self.rows_m * self.depth,
            self.rows_m * self.depth,
            self.keys_n * self.depth,
            self.keys_n * self.depth,
            KEYS * self.size_n,
            self.rows_m * self.keys_n,
            self.rows_m * self.keys_n,
            self.rows_m * self.size_n,
            2 * rows,
            LINES.max(self.micro.nr * size),
        ];
        with_buffers(lens, |[pq, pdo, pk, pv, down, s, dp, out, stats, line]| {
            self.load_queries(pq, queries, kv, q, 0);
            self.load_queries(pdo, do_, kv, q, 0);
            self.load_stats(stats, q, kv, lse, delta);
            out.fill(0.0);
            let end = q.position + q.count;
            let mut key_rows = [0; KEYS];
            let mut first = self.first_key(q.position) / KEYS * KEYS;
            while first < end {
                let n = KEYS.min(end - first);
                let key_rows = &mut key_rows[..n];
                path_rows(key_rows, segments, q.segment, first);
                self.pack_keys_across(pk, keys, kv, key_rows, line);
                self.pack_keys_across(pv, values, kv, key_rows, line);
                self.pack_keys_down(down, keys, kv, key_rows, line);
                let skip = self.blind(q, first);
                let (inner, keys_n) = (skip * self.depth, skip * self.keys_n);
                self.products(&mut s[keys_n..], &pq[inner..], pk, (rows - skip, n));
                self.products(&mut dp[keys_n..], &pdo[inner..], pv, (rows - skip, n));
                self.scores(s, dp, stats, q, skip, (first, n));
                let weights = self.over_keys(&dp[keys_n..]);
                self.add_product(&mut out[skip * self.size_n..], weights, down, (rows - skip, n));
                first += KEYS;
            }
            for i in 0..rows {
                let column = (kv * self.group + i % self.group) * size;
                store(dq, q.row + i / self.group, column, &out[i * self.size_n..][..size]);
            }
        });
    }

    /// dk and dv of `n` keys from batch row `row` on (path position `position`), over all query blocks that see them.
    fn backward_keys(
        &self,
        (row, position, n): (usize, usize, usize),
        kv: usize,
        (dk, dv): (Tensor, Tensor),
        x: [Tensor; 6],
        seeing: impl Iterator<Item = Queries>,
    ) {
        let size = self.heads.size;
        let [do_, queries, keys, values, lse, delta] = x;
        let lens = [
            self.rows_m * self.depth,
            self.rows_m * self.depth,
            self.keys_n * self.depth,
            self.keys_n * self.depth,
            self.rows_m * self.size_n,
            // Rows of keys are read in whole register tiles: a little past the last key of the last query.
            self.rows_m * self.keys_n + MAX_MR,
            self.rows_m * self.keys_n + MAX_MR,
            self.keys_m * self.size_n,
            self.keys_m * self.size_n,
            2 * self.rows_m,
            LINES.max(self.micro.nr * size),
        ];
        let mut key_rows = [0; KEYS];
        let key_rows = &mut key_rows[..n];
        key_rows.iter_mut().enumerate().for_each(|(i, r)| *r = row + i);
        with_buffers(lens, |[pq, pdo, pk, pv, side, s, dp, sum_k, sum_v, stats, line]| {
            self.pack_keys_across(pk, keys, kv, key_rows, line);
            self.pack_keys_across(pv, values, kv, key_rows, line);
            sum_k.fill(0.0);
            sum_v.fill(0.0);
            for q in seeing {
                if self.first_key(q.position) >= position + n || q.position + q.count <= position {
                    continue;
                }
                let rows = q.count * self.group;
                let skip = self.blind(q, position);
                let (inner, keys_n) = (skip * self.depth, skip * self.keys_n);
                self.load_queries(pq, queries, kv, q, skip);
                self.load_queries(pdo, do_, kv, q, skip);
                self.load_stats(stats, q, kv, lse, delta);
                self.products(&mut s[keys_n..], &pq[inner..], pk, (rows - skip, n));
                self.products(&mut dp[keys_n..], &pdo[inner..], pv, (rows - skip, n));
                self.scores(s, dp, stats, q, skip, (position, n));
                // dv += p^T do and dk += ds^T q: the tile's columns become rows.
                for (weights, source, sum) in [(&*s, do_, &mut *sum_v), (&*dp, queries, &mut *sum_k)] {
                    pack_across(side, self.micro.nr, size, rows - skip, line, |i, line| {
                        let (row, head) = self.stacked(q, kv, skip + i);
                        load(line, source, row, head * size);
                    });
                    self.add_product(sum, self.over_queries(&weights[keys_n..]), side, (n, rows - skip));
                }
            }
            for i in 0..n {
                store(dk, row + i, kv * size, &sum_k[i * self.size_n..][..size]);
                store(dv, row + i, kv * size, &sum_v[i * self.size_n..][..size]);
            }
        });
    }
}

impl Attention for Cpu {
    fn attention_plan(&self, _: &Forest<'_>) {}

    fn attention_fwd(
        &self,
        o: Tensor,
        lse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        forest: &Forest<'_>,
        heads: Heads,
    ) {
        let segments = forest.segments;
        let (t, shape) = (q.rows(), Shape::new(heads, q.dtype(), ROWS.0));
        for x in [o, q] {
            shape!(x, t, heads.query * heads.size);
        }
        for x in [k, v] {
            shape!(x, k.rows(), heads.kv * heads.size);
        }
        shape!(lse, t, heads.query);
        let blocks = query_blocks(segments, shape.block);
        self.each(blocks.len() * heads.kv, |i| {
            shape.forward(blocks[i / heads.kv], i % heads.kv, o, lse, [q, k, v], segments);
        });
    }

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
    ) {
        let segments = forest.segments;
        assert!(segments.iter().all(|s| s.queries == Some(s.start)), "a backward pass has all queries");
        let (t, shape) = (q.rows(), Shape::new(heads, q.dtype(), ROWS.1));
        for x in [dq, do_, q, o] {
            shape!(x, t, heads.query * heads.size);
        }
        for x in [dk, dv, k, v] {
            shape!(x, t, heads.kv * heads.size);
        }
        shape!(lse, t, heads.query);
        let delta = scratch.slice_rows(0..t);
        shape!(delta, t, heads.query);
        assert_eq!(scratch.dtype(), DType::F32);
        self.blocks(t, 64, |rows| {
            with_buffers([heads.size, heads.size], |[a, b]| {
                for r in rows {
                    for h in 0..heads.query {
                        load(a, do_, r, h * heads.size);
                        load(b, o, r, h * heads.size);
                        // SAFETY: one task a row.
                        unsafe { slice_mut::<f32>(delta, r, h, 1)[0] = simd::dot(a, b) };
                    }
                }
            });
        });
        let x = [do_, q, k, v, lse, delta];
        let blocks = query_blocks(segments, shape.block);
        self.each(blocks.len() * heads.kv, |i| {
            shape.backward_queries(blocks[i / heads.kv], i % heads.kv, dq, x, segments);
        });
        let tiles: Vec<(usize, usize)> = (0..segments.len())
            .flat_map(|s| (0..segments[s].len as usize).step_by(KEYS).map(move |first| (s, first)))
            .collect();
        let below = descendants(segments);
        self.each(tiles.len() * heads.kv, |i| {
            let (s, first) = tiles[i / heads.kv];
            let segment = segments[s];
            let keys = (
                segment.start as usize + first,
                segment.position as usize + first,
                KEYS.min(segment.len as usize - first),
            );
            let seeing = std::iter::once(s as u32).chain(below[s].iter().copied());
            let seeing = seeing.flat_map(|s| query_blocks_of(&blocks, s as usize));
            shape.backward_keys(keys, i % heads.kv, (dk, dv), x, seeing);
        });
    }
}

/// The query blocks of one segment: `blocks` is in segment order.
fn query_blocks_of(blocks: &[Queries], segment: usize) -> impl Iterator<Item = Queries> + '_ {
    let first = blocks.partition_point(|q| q.segment < segment);
    blocks[first..].iter().take_while(move |q| q.segment == segment).copied()
}

/// For every segment the segments below it, ascending.
fn descendants(segments: &[Segment]) -> Vec<Vec<u32>> {
    let mut below = vec![Vec::new(); segments.len()];
    for (i, s) in segments.iter().enumerate() {
        let mut up = s.parent;
        while let Some(p) = up {
            below[p as usize].push(i as u32);
            up = segments[p as usize].parent;
        }
    }
    below
}
