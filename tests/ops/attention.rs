//! Attention over the forest batch.

use crate::harness::{ARITH, Dense, Lay, Stand, Strided, close, derivative, dot, dtypes, everywhere};
use flanrt::ops::{Batch, Forest, Heads, Segment};
use flanrt::tensor::{DType, Tensor};

/// Scores have errors relative to their own size, up to 30 here, and the exponential makes them relative.
const ARITH_SCORES: f64 = 4.0 * ARITH;

/// Parent (-1: none) and length of every segment.
type Trees = &'static [(i32, usize)];

const ROOTS: Trees = &[(-1, 31), (-1, 1), (-1, 123), (-1, 33)];
const CHAIN: Trees = &[(-1, 70), (0, 1), (1, 60), (2, 33)];
const TREE: Trees = &[(-1, 100), (0, 31), (1, 1), (0, 33), (3, 65), (-1, 5), (3, 2), (0, 1)];
const LONG: Trees = &[(-1, 260)];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) forest: Trees,
    /// Query heads, key heads, head size.
    pub(crate) heads: (usize, usize, usize),
    pub(crate) window: Option<usize>,
    /// Scale of queries: 1 spreads the attention, 8 makes it nearly hard.
    pub(crate) sharp: f64,
}

const fn on(forest: Trees, heads: (usize, usize, usize), window: Option<usize>, sharp: f64) -> Case {
    Case { forest, heads, window, sharp }
}

pub(crate) const CASES: [Case; 17] = [
    on(&[], (2, 1, 8), None, 1.0),
    on(&[(-1, 1)], (1, 1, 8), None, 1.0),
    on(ROOTS, (4, 2, 10), None, 1.0),
    on(ROOTS, (4, 4, 8), Some(5), 1.0),
    on(CHAIN, (2, 2, 32), None, 1.0),
    on(CHAIN, (4, 1, 8), Some(1), 1.0),
    on(CHAIN, (4, 1, 8), Some(64), 8.0),
    on(CHAIN, (2, 1, 10), Some(100), 1.0),
    on(TREE, (4, 1, 10), None, 8.0),
    on(TREE, (4, 2, 64), None, 1.0),
    on(TREE, (3, 3, 80), Some(64), 1.0),
    on(TREE, (2, 2, 8), Some(5), 1.0),
    on(TREE, (2, 1, 32), Some(100), 1.0),
    on(LONG, (4, 2, 8), None, 8.0),
    on(LONG, (1, 1, 80), Some(100), 1.0),
    on(LONG, (4, 1, 32), Some(64), 1.0),
    on(LONG, (2, 1, 64), Some(1), 1.0),
];

impl Case {
    fn heads(&self) -> Heads {
        let (query, kv, size) = self.heads;
        Heads { query, kv, size, scale: 1.0 / (size as f32).sqrt(), window: self.window }
    }

    /// How o and its gradient lie. Tensor cores take rows at multiples of 16 bytes: heads that they could take get such
    /// rows, the others odd ones.
    fn lay(&self) -> Lay {
        if self.heads.2.is_multiple_of(8) { Dense } else { Strided }
    }

    /// Columns of a fused q, k, v row.
    fn width(&self) -> usize {
        (self.heads.0 + 2 * self.heads.1) * self.heads.2
    }
}

fn segments(forest: &[(i32, usize)]) -> Vec<Segment> {
    let mut batch = Batch::default();
    for &(parent, len) in forest {
        batch.push(u32::try_from(parent).ok(), &vec![0; len]);
    }
    batch.segments
}

/// For every row of the batch, the rows that it sees, from the root on.
fn seen(segments: &[Segment], window: Option<usize>) -> Vec<Vec<usize>> {
    let mut out: Vec<Vec<usize>> = Vec::new();
    for s in segments {
        let mut path: Vec<usize> = Vec::new();
        let mut up = s.parent;
        while let Some(p) = up {
            let p = &segments[p as usize];
            path.splice(0..0, p.start as usize..(p.start + p.len) as usize);
            up = p.parent;
        }
        for row in s.start as usize..(s.start + s.len) as usize {
            path.push(row);
            out.push(path[path.len().saturating_sub(window.unwrap_or(usize::MAX))..].to_vec());
        }
    }
    out
}

/// Fused rows of q, k, v in f64, and what is computed from them one pair at a time.
struct Reference<'a> {
    qkv: &'a [f64],
    case: Case,
    seen: &'a [Vec<usize>],
}

impl Reference<'_> {
    fn at(&self, row: usize, head: usize) -> usize {
        row * self.case.width() + head * self.case.heads.2
    }
    fn head(&self, row: usize, head: usize) -> &[f64] {
        &self.qkv[self.at(row, head)..][..self.case.heads.2]
    }
    /// Indices of the key and value head of query head `h` among the fused heads.
    fn kv(&self, h: usize) -> (usize, usize) {
        let (query, kv, _) = self.case.heads;
        (query + h / (query / kv), query + kv + h / (query / kv))
    }
    fn scores(&self, row: usize, h: usize) -> Vec<f64> {
        let scale = f64::from(self.case.heads().scale);
        let q = self.head(row, h);
        self.seen[row].iter().map(|&j| scale * dot(q, self.head(j, self.kv(h).0))).collect()
    }

    /// o and the log-sum-exps.
    fn forward(&self) -> (Vec<f64>, Vec<f64>) {
        let (query, _, size) = self.case.heads;
        let (mut o, mut lse) = (Vec::new(), Vec::new());
        for row in 0..self.seen.len() {
            for h in 0..query {
                let s = self.scores(row, h);
                let top = s.iter().copied().fold(f64::MIN, f64::max);
                let log_sum = top + s.iter().map(|s| (s - top).exp()).sum::<f64>().ln();
                let mut out = vec![0.0; size];
                for (s, &j) in s.iter().zip(&self.seen[row]) {
                    let v = self.head(j, self.kv(h).1);
                    out.iter_mut().zip(v).for_each(|(o, v)| *o += (s - log_sum).exp() * v);
                }
                o.extend(out);
                lse.push(log_sum);
            }
        }
        (o, lse)
    }

    /// Gradient of `sum(do o)` in fused rows, from the stored `o` and `lse` as the op has them.
    fn backward(&self, do_: &[f64], o: &[f64], lse: &[f64]) -> Vec<f64> {
        let (query, _, size) = self.case.heads;
        let scale = f64::from(self.case.heads().scale);
        let mut grad = vec![0.0; self.qkv.len()];
        for row in 0..self.seen.len() {
            for h in 0..query {
                let dout = &do_[(row * query + h) * size..][..size];
                let delta = dot(dout, &o[(row * query + h) * size..][..size]);
                for (s, &j) in self.scores(row, h).iter().zip(&self.seen[row]) {
                    let (key, value) = self.kv(h);
                    let p = (s - lse[row * query + h]).exp();
                    let ds = p * (dot(dout, self.head(j, value)) - delta) * scale;
                    for i in 0..size {
                        grad[self.at(row, h) + i] += ds * self.head(j, key)[i];
                        grad[self.at(j, key) + i] += ds * self.head(row, h)[i];
                        grad[self.at(j, value) + i] += p * dout[i];
                    }
                }
            }
        }
        grad
    }
}

#[test]
fn the_reference_backward_is_the_derivative() {
    const SMALL: Trees = &[(-1, 3), (0, 2), (1, 1), (0, 3), (-1, 2)];
    for window in [None, Some(1), Some(3)] {
        let case = on(SMALL, (4, 2, 3), window, 1.0);
        let seen = seen(&segments(SMALL), window);
        everywhere("reference", |s| {
            let (qkv, do_) = (s.normals(11 * case.width(), 1.0), s.normals(11 * 12, 1.0));
            let of = |qkv: &[f64]| Reference { qkv, case, seen: &seen }.forward();
            let (o, lse) = of(&qkv);
            let want = derivative(&qkv, |qkv| dot(&do_, &of(qkv).0));
            let got = Reference { qkv: &qkv, case, seen: &seen }.backward(&do_, &o, &lse);
            close("f64 gradient", DType::F32, 1e-8, &got, &want);
            vec![]
        });
    }
}

/// The op forward and backward on fused rows: o, lse, and the fused gradient.
fn run(s: &Stand, case: Case, segments: &[Segment], qkv: Tensor, do_: Tensor) -> [Tensor; 3] {
    let (query, kv, size) = case.heads;
    let (t, dtype, profile) = (qkv.rows(), qkv.dtype(), s.device.profile());
    let cut = |x: Tensor| {
        [0..query, query..query + kv, query + kv..query + 2 * kv]
            .map(|heads| x.slice_cols(heads.start * size..heads.end * size))
    };
    let o = s.blank(case.lay(), dtype, t, query * size);
    let lse = s.blank(Dense, DType::F32, t, query);
    let scratch = s.blank(Dense, DType::F32, t, query * if profile.dq_scratch { 1 + size } else { 1 });
    let table = s.blank(Dense, DType::U32, 1, profile.table_words(t));
    let forest = &Forest { segments, table };
    let grad = s.blank(Dense, dtype, t, case.width());
    let ([q, k, v], [dq, dk, dv]) = (cut(qkv), cut(grad));
    s.device.attention_plan(forest);
    s.device.attention_fwd(o, lse, q, k, v, forest, case.heads());
    s.device.attention_bwd(dq, dk, dv, do_, q, k, v, o, lse, forest, case.heads(), scratch);
    [o, lse, grad]
}

/// Fused rows of random q, k, v.
fn fused(s: &Stand, case: Case, t: usize) -> Vec<f64> {
    let (query, _, size) = case.heads;
    let mut values = s.normals(t * case.width(), 1.0);
    for row in values.chunks_mut(case.width()) {
        row[..query * size].iter_mut().for_each(|q| *q *= case.sharp);
    }
    values
}

pub(crate) fn check(s: &Stand, dtype: DType, case: Case) -> Vec<Tensor> {
    let (query, _, size) = case.heads;
    let segments = segments(case.forest);
    let t: usize = case.forest.iter().map(|s| s.1).sum();
    let qkv = s.put(Dense, dtype, t, case.width(), &fused(s, case, t));
    let do_ = s.normal(case.lay(), dtype, t, query * size, 1.0);
    let [o, lse, grad] = run(s, case, &segments, qkv, do_);
    let (qkvs, seen) = (s.get(qkv), seen(&segments, case.window));
    let reference = Reference { qkv: &qkvs, case, seen: &seen };
    let products = ARITH_SCORES + s.rounding(dtype);
    s.close("o", products, o, || reference.forward().0);
    s.close("lse", ARITH_SCORES, lse, || reference.forward().1);
    // The terms of these sums cancel: they are larger than the sums, and so are their errors.
    let cancelled = ARITH_SCORES + 2.0 * s.rounding(dtype);
    s.close("dq, dk, dv", cancelled, grad, || reference.backward(&s.get(do_), &s.get(o), &s.get(lse)));
    vec![o, lse, grad]
}

#[test]
fn attention_and_its_gradient() {
    for (i, case) in CASES.into_iter().enumerate() {
        for &dtype in dtypes() {
            everywhere(&format!("attention case {i}: {case:?} {dtype:?}"), |s| check(s, dtype, case));
        }
    }
}

/// Runs a batch whose row `i` has the values of row `rows[i]` of a common source (none: NaN); returns the bits of every row
/// of o, lse and the gradients of q, and of k and v.
fn rows_of(
    s: &Stand,
    dtype: DType,
    case: Case,
    forest: &[(i32, usize)],
    rows: &[Option<usize>],
) -> [Vec<Vec<u8>>; 4] {
    let source = Stand::new(s.device, false); // the same numbers at every call
    let (query, _, size) = case.heads;
    let (qkvs, dos) = (fused(&source, case, 400), source.normals(400 * query * size, 1.0));
    let pick = |values: &[f64], width: usize| -> Vec<f64> {
        let row =
            |r: &Option<usize>| r.map_or(vec![f64::NAN; width], |r| values[r * width..][..width].to_vec());
        rows.iter().flat_map(row).collect()
    };
    let t = rows.len();
    let qkv = s.put(Dense, dtype, t, case.width(), &pick(&qkvs, case.width()));
    let do_ = s.put(case.lay(), dtype, t, query * size, &pick(&dos, query * size));
    let [o, lse, grad] = run(s, case, &segments(forest), qkv, do_);
    let (dq, dkv) = (grad.slice_cols(0..query * size), grad.slice_cols(query * size..case.width()));
    [o, lse, dq, dkv].map(|x| (0..t).map(|r| s.bits(x.slice_rows(r..r + 1))).collect())
}

const HEADS: [((usize, usize, usize), Option<usize>); 4] =
    [((4, 2, 8), None), ((4, 1, 10), Some(5)), ((2, 2, 64), Some(70)), ((2, 1, 32), Some(100))];

#[test]
fn a_tree_is_the_same_alone_and_between_others() {
    for ((heads, window), dtype) in HEADS.into_iter().flat_map(|h| dtypes().iter().map(move |&d| (h, d))) {
        let case = on(TREE, heads, window, 2.0);
        everywhere("packed", |s| {
            let alone =
                rows_of(s, dtype, case, &[(-1, 77), (0, 40), (0, 3)], &Vec::from_iter((0..120).map(Some)));
            let packed = rows_of(
                s,
                dtype,
                case,
                &[(-1, 13), (-1, 77), (1, 40), (0, 9), (1, 3), (-1, 70)],
                &Vec::from_iter(
                    [None; 13]
                        .into_iter()
                        .chain((0..117).map(Some))
                        .chain([None; 9])
                        .chain((117..120).map(Some))
                        .chain([None; 70]),
                ),
            );
            let there = Vec::from_iter((13..130).chain(139..142));
            for (what, (alone, packed)) in ["o", "lse", "dq", "dkv"].iter().zip(alone.iter().zip(&packed)) {
                for (a, &p) in there.iter().enumerate() {
                    assert!(alone[a] == packed[p], "{what} of row {a}, {heads:?} {window:?} {dtype:?}");
                }
            }
            vec![]
        });
    }
}

/// Keys of a cache, with rows of their own, and queries for the last tokens of each path only: the same as the whole at once.
#[test]
fn decoding_with_a_cache_is_the_same_op() {
    for ((heads, window), dtype) in HEADS.into_iter().flat_map(|h| dtypes().iter().map(move |&d| (h, d))) {
        let case = on(TREE, heads, window, 2.0);
        everywhere("cache", |s| {
            let (query, kv, size) = heads;
            // Two sequences of 90 and 3 tokens, one of them with a continuation of 40; in the cache with gaps between.
            let whole = segments(&[(-1, 90), (-1, 3), (0, 40)]);
            let t = 133;
            let place = |row: u32| row + if row < 90 { 5 } else { 20 };
            let qkv = fused(s, case, t);
            let column = |from: usize, to: usize, rows: &[usize]| -> Vec<f64> {
                rows.iter().flat_map(|r| qkv[r * case.width()..][from * size..to * size].to_vec()).collect()
            };
            let all = Vec::from_iter(0..t);
            let tensor =
                |rows: usize, heads: usize, values: &[f64]| s.put(Dense, dtype, rows, heads * size, values);
            let [k, v] = [query, query + kv].map(|h| column(h, h + kv, &all));
            let run = |segments: &[Segment], q: Tensor, k: Tensor, v: Tensor| {
                let words = s.device.profile().table_words(t);
                let forest = &Forest { segments, table: s.blank(Dense, DType::U32, 1, words) };
                let o = s.blank(Dense, dtype, q.rows(), query * size);
                let lse = s.blank(Dense, DType::F32, q.rows(), query);
                s.device.attention_plan(forest);
                s.device.attention_fwd(o, lse, q, k, v, forest, case.heads());
                [o, lse].map(|x| s.get(x))
            };
            let q = tensor(t, query, &column(0, query, &all));
            let want = run(&whole, q, tensor(t, kv, &k), tensor(t, kv, &v));
            // The cache: other rows are NaN and never seen.
            let cached = |values: &[f64]| {
                let mut cache = vec![f64::NAN; 160 * kv * size];
                for row in 0..t {
                    let at = place(row as u32) as usize * kv * size;
                    cache[at..][..kv * size].copy_from_slice(&values[row * kv * size..][..kv * size]);
                }
                tensor(160, kv, &cache)
            };
            let part = |parent, row: u32, queries, len, position| Segment {
                parent,
                start: place(row),
                queries,
                len,
                position,
            };
            let decode = [
                part(None, 0, None, 89, 0),
                part(Some(0), 89, Some(0), 1, 89),
                part(None, 90, None, 2, 0),
                part(Some(2), 92, Some(1), 1, 2),
                part(Some(1), 93, None, 30, 90),
                part(Some(4), 123, Some(2), 10, 120),
            ];
            let asked = Vec::from_iter([89, 92].into_iter().chain(123..133));
            let got = run(&decode, tensor(12, query, &column(0, query, &asked)), cached(&k), cached(&v));
            for (what, (got, want)) in ["o", "lse"].iter().zip(got.iter().zip(&want)) {
                let width = got.len() / asked.len();
                for (i, &row) in asked.iter().enumerate() {
                    let (got, want) = (&got[i * width..][..width], &want[row * width..][..width]);
                    assert_eq!(got, want, "{what} of row {row}, {heads:?} {window:?} {dtype:?}");
                }
            }
            vec![]
        });
    }
}

/// Options under a shared context against each option with its own copy of the context.
#[test]
fn a_shared_prefix_is_the_same_unrolled() {
    const SHARED: Trees = &[(-1, 90), (0, 41), (1, 1), (1, 30), (0, 70)];
    // Leaves: 90 + 41 + 1, 90 + 41 + 30 and 90 + 70 tokens, as rows of the shared batch.
    let leaves: [Vec<usize>; 3] =
        [(0..132).collect(), (0..131).chain(132..162).collect(), (0..90).chain(162..232).collect()];
    for ((heads, window), dtype) in HEADS.into_iter().flat_map(|h| dtypes().iter().map(move |&d| (h, d))) {
        let case = on(SHARED, heads, window, 2.0);
        everywhere("unrolled", |s| {
            let shared = rows_of(s, dtype, case, SHARED, &Vec::from_iter((0..232).map(Some)));
            let forest = leaves.clone().map(|rows| (-1, rows.len()));
            let rows = leaves.concat();
            let unrolled = rows_of(s, dtype, case, &forest, &Vec::from_iter(rows.iter().copied().map(Some)));
            for (what, (shared, unrolled)) in ["o", "lse", "dq"].iter().zip(shared.iter().zip(&unrolled)) {
                for (i, &r) in rows.iter().enumerate() {
                    assert!(shared[r] == unrolled[i], "{what} of row {r}, {heads:?} {window:?} {dtype:?}");
                }
            }
            vec![]
        });
    }
}
