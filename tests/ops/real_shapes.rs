//! Every op at the sizes of real models, on a GPU: against f64 on sampled rows (products of whole numbers in full), twice with
//! the same bits, into memory that held NaN before.
//!
//! Ignored by `cargo test`: it is a step of `scripts/gpu.sh`, `ops --ignored real_shapes`. On the emulated GPU, shapes are small:
//! that tries the tests themselves.

use crate::harness::kinds;
use flanrt::arena::Arena;
use flanrt::ops::norm::bwd_scratch_rows;
use flanrt::ops::optim::{AdamState, Master, clip_scratch, join};
use flanrt::ops::{AdamW, Batch, Device, Epilogue, Forest, Form, Heads};
use flanrt::tensor::{DType, Tensor};
use rayon::prelude::*;
use std::cell::RefCell;
use std::sync::MutexGuard;

/// Elements written and read at a time.
const PIECE: usize = 1 << 22;

/// Error of a result in a 16-bit dtype against f64: rounding alone is 1.7e-3 in bf16.
const BF16_ERROR: f64 = 2.5e-3;

/// Numbers between -1 and 1 that are a function of their place.
#[derive(Clone, Copy)]
struct Numbers {
    seed: u32,
    /// Whole numbers from -8 to 8 instead.
    whole: bool,
    scale: f32,
}

impl Numbers {
    fn new(seed: u32, scale: f32) -> Self {
        Self { seed, whole: false, scale }
    }

    fn whole(seed: u32) -> Self {
        Self { seed, whole: true, scale: 1.0 }
    }

    /// The number at `i`, as stored in bf16 or, for `dtype` f32, whole.
    fn at(self, dtype: DType, i: usize) -> f32 {
        let mut x =
            (i as u32) ^ ((i >> 32) as u32).wrapping_mul(0x9e37_79b1) ^ self.seed.wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^= x >> 16;
        let value = match self.whole {
            true => (x % 17) as f32 - 8.0,
            false => self.scale * (x as i32 as f32 / 2f32.powi(31)),
        };
        if dtype == DType::BF16 { half::bf16::from_f32(value).to_f32() } else { value }
    }

    /// Row `r` of a matrix of `cols` columns of them.
    fn row(self, dtype: DType, r: usize, cols: usize) -> Vec<f64> {
        (0..cols).map(|c| f64::from(self.at(dtype, r * cols + c))).collect()
    }
}

/// A GPU, held for one test, and memory on it.
struct Gpu {
    device: &'static dyn Device,
    /// Whether it is emulated: shapes are small.
    small: bool,
    arenas: RefCell<Vec<Arena>>,
    _turn: MutexGuard<'static, ()>,
}

impl Gpu {
    /// `None`, with a line that says so, where there is neither a GPU nor the emulator.
    fn get() -> Option<Self> {
        let kind = kinds().iter().find(|kind| kind.devices[0].name().starts_with("cuda"));
        let Some(kind) = kind else {
            println!("skipped: no GPU and no emulator");
            return None;
        };
        let device = kind.devices[0].as_ref();
        let small = device.name().contains("Emulated");
        Some(Self { device, small, arenas: RefCell::default(), _turn: kind.turn() })
    }

    /// One of two sizes.
    fn size(&self, full: usize, small: usize) -> usize {
        if self.small { small } else { full }
    }

    /// NaN everywhere.
    fn blank(&self, dtype: DType, rows: usize, cols: usize) -> Tensor {
        let (arena, x) = Arena::carve(self.device, |a| a.take("x", dtype, rows, cols)).unwrap();
        self.arenas.borrow_mut().push(arena);
        self.spoil(x);
        x
    }

    fn spoil(&self, x: Tensor) {
        let bytes = vec![0xff; PIECE.min(x.len()) * x.dtype().size()];
        pieces(x).for_each(|part| self.device.write(part, &bytes[..part.bytes()]));
    }

    fn put(&self, dtype: DType, rows: usize, cols: usize, numbers: Numbers) -> Tensor {
        let x = self.blank(dtype, rows, cols);
        for (i, part) in pieces(x).enumerate() {
            let place = |j: usize| numbers.at(dtype, i * PIECE + j);
            let bytes: Vec<u8> = match dtype {
                DType::BF16 => {
                    let values: Vec<u16> =
                        (0..part.len()).into_par_iter().map(|j| (place(j).to_bits() >> 16) as u16).collect();
                    bytemuck::cast_slice(&values).to_vec()
                }
                _ => {
                    let values: Vec<f32> = (0..part.len()).into_par_iter().map(place).collect();
                    bytemuck::cast_slice(&values).to_vec()
                }
            };
            self.device.write(part, &bytes);
        }
        x
    }

    fn index(&self, n: usize, value: impl Fn(usize) -> u32) -> Tensor {
        let x = self.blank(DType::U32, 1, n);
        let values: Vec<u32> = (0..n).map(value).collect();
        self.device.write(x, bytemuck::cast_slice(&values));
        x
    }

    fn floats(&self, values: &[f32]) -> Tensor {
        let x = self.blank(DType::F32, 1, values.len());
        self.device.write(x, bytemuck::cast_slice(values));
        x
    }

    fn zeros(&self, dtype: DType, rows: usize, cols: usize) -> Tensor {
        let x = self.blank(dtype, rows, cols);
        self.device.zero(x);
        x
    }

    /// The numbers of `x`, dense.
    fn get_all(&self, x: Tensor) -> Vec<f32> {
        let mut out = Vec::with_capacity(x.len());
        for part in pieces(x) {
            let mut bytes = vec![0; part.bytes()];
            self.device.read(&mut bytes, part);
            match x.dtype() {
                DType::BF16 => out
                    .extend(bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())),
                _ => out.extend(bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)),
            }
        }
        out
    }

    /// Row `r` of `x`.
    fn row(&self, x: Tensor, r: usize) -> Vec<f64> {
        self.get_all(x.slice_rows(r..r + 1)).into_iter().map(f64::from).collect()
    }

    /// A number that depends on every byte of `x`.
    fn digest(&self, x: Tensor) -> u64 {
        pieces(x).fold(0xcbf2_9ce4_8422_2325, |digest, part| {
            let mut bytes = vec![0; part.bytes()];
            self.device.read(&mut bytes, part);
            let words = bytes.chunks(8).map(|w| w.iter().fold(0u64, |x, &b| x << 8 | u64::from(b)));
            words.fold(digest, |d, w| (d ^ w).wrapping_mul(0x0100_0000_01b3).rotate_left(29))
        })
    }

    /// Runs `op` twice, with `outputs` spoiled before: the same bits, and no NaN left. Adds to what `added` held before are made
    /// from zero.
    fn twice(&self, what: &str, outputs: &[Tensor], added: &[Tensor], op: impl Fn()) {
        let run = || {
            outputs.iter().for_each(|&x| self.spoil(x));
            added.iter().for_each(|&x| self.device.zero(x));
            op();
            outputs.iter().chain(added).map(|&x| self.digest(x)).collect::<Vec<_>>()
        };
        assert_eq!(run(), run(), "{what}: other bits the second time");
    }
}

/// Dense parts of a dense tensor.
fn pieces(x: Tensor) -> impl Iterator<Item = Tensor> {
    let flat = x.reshape(1, x.len());
    (0..x.len()).step_by(PIECE).map(move |start| flat.slice_cols(start..x.len().min(start + PIECE)))
}

/// `count` of `n` rows: the ends, and others spread between.
fn sample(n: usize, count: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..count).map(|i| i * (n - 1) / (count - 1).max(1)).collect();
    rows.dedup();
    rows
}

/// Panics unless the 2-norm of the error is at most `most` of the result's, and no element is off by more than twenty times that
/// of the largest.
fn near(what: &str, most: f64, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(want).map(|(g, w)| g - w));
    let size = norm(&mut want.iter().copied());
    let largest = want.iter().fold(0f64, |m, w| m.max(w.abs()));
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0f64, f64::max);
    assert!(error <= most * size, "{what}: error {:.2e} of the result, at most {most:.1e}", error / size);
    assert!(worst <= 20.0 * most * largest, "{what}: an element is off by {worst:.2e} of {largest:.2e}");
    println!("{what}: error {:.1e}, worst element {:.1e}", error / size, worst / largest);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The three forms of a product `[m, n]` with inner size `k`: operand shapes, and how an element of either is found.
fn operands(form: Form, m: usize, n: usize, k: usize) -> [(usize, usize); 2] {
    match form {
        Form::NT => [(m, k), (n, k)],
        Form::NN => [(m, k), (k, n)],
        Form::TN => [(k, m), (k, n)],
    }
}

const FORMS: [Form; 3] = [Form::NT, Form::NN, Form::TN];

/// Whole numbers have exact sums in f32, so every element must be right: `y v = a (b v)` for a random vector `v`.
#[test]
#[ignore = "a step of scripts/gpu.sh"]
fn products_of_whole_numbers_are_exact() {
    let Some(gpu) = Gpu::get() else { return };
    let shapes = match gpu.small {
        true => vec![(256, 128, 192), (136, 264, 72)],
        false => vec![(4096, 4096, 4096), (8192, 6144, 4096), (4104, 4088, 4072), (1000, 28_672, 4096)],
    };
    for ((m, n, k), form) in shapes.into_iter().flat_map(|shape| FORMS.map(|form| (shape, form))) {
        let [(ra, ca), (rb, cb)] = operands(form, m, n, k);
        let (x, w) = (Numbers::whole(1), Numbers::whole(2));
        let (a, b) = (gpu.put(DType::BF16, ra, ca, x), gpu.put(DType::BF16, rb, cb, w));
        let y = gpu.blank(DType::F32, m, n);
        let what = format!("{form:?} {m}x{n}x{k}");
        gpu.twice(&what, &[y], &[], || gpu.device.matmul(y, a, b, form, Epilogue::NONE));
        let at =
            |numbers: Numbers, cols: usize, r: usize, c: usize| numbers.at(DType::BF16, r * cols + c) as i64;
        let v: Vec<i64> = (0..n).map(|j| (j * 7919 % 13) as i64 - 6).collect();
        let bv: Vec<i64> = (0..k)
            .into_par_iter()
            .map(|l| {
                (0..n).map(|j| v[j] * if form == Form::NT { at(w, cb, j, l) } else { at(w, cb, l, j) }).sum()
            })
            .collect();
        let got = gpu.get_all(y);
        (0..m).into_par_iter().for_each(|i| {
            let a = |l: usize| if form == Form::TN { at(x, ca, l, i) } else { at(x, ca, i, l) };
            let want: i64 = (0..k).map(|l| a(l) * bv[l]).sum();
            let row = &got[i * n..][..n];
            assert!(row.iter().all(|x| x.is_finite()), "{what}: row {i} is not finite");
            let sum: i64 = row.iter().zip(&v).map(|(&y, v)| y as i64 * v).sum();
            assert_eq!(sum, want, "{what}: row {i}");
        });
        println!("{what}: exact");
        gpu.arenas.borrow_mut().clear();
    }
}

#[test]
#[ignore = "a step of scripts/gpu.sh"]
fn products_of_random_numbers() {
    let Some(gpu) = Gpu::get() else { return };
    let (m, n, k) = if gpu.small { (192, 128, 256) } else { (8192, 4096, 14_336) };
    for form in FORMS {
        let [(ra, ca), (rb, cb)] = operands(form, m, n, k);
        let (x, w) = (Numbers::new(3, 1.0), Numbers::new(4, 0.05));
        let (a, b) = (gpu.put(DType::BF16, ra, ca, x), gpu.put(DType::BF16, rb, cb, w));
        let b_rows: Vec<f32> = gpu.get_all(b);
        for dtype in [DType::BF16, DType::F32] {
            let y = gpu.blank(dtype, m, n);
            let what = format!("{form:?} {m}x{n}x{k} {}", dtype.name());
            gpu.twice(&what, &[y], &[], || gpu.device.matmul(y, a, b, form, Epilogue::NONE));
            for i in sample(m, 6) {
                let a = |l: usize| {
                    f64::from(x.at(DType::BF16, if form == Form::TN { l * ca + i } else { i * ca + l }))
                };
                let a: Vec<f64> = (0..k).map(a).collect();
                let b = |l: usize, j: usize| {
                    f64::from(b_rows[if form == Form::NT { j * cb + l } else { l * cb + j }])
                };
                let want: Vec<f64> =
                    (0..n).into_par_iter().map(|j| (0..k).map(|l| a[l] * b(l, j)).sum()).collect();
                let most = if dtype == DType::F32 { 2e-5 } else { BF16_ERROR };
                near(&format!("{what} row {i}"), most, &gpu.row(y, i), &want);
            }
        }
        gpu.arenas.borrow_mut().clear();
    }
}

/// Softmax of row `i` of a head over the keys up to it, and the log of its denominator.
fn probabilities(q: &[f64], keys: &[Vec<f64>], i: usize, scale: f64) -> (Vec<f64>, f64) {
    let scores: Vec<f64> = keys[..=i].iter().map(|k| scale * dot(q, k)).collect();
    let largest = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
    let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
    let lse = largest + sum.ln();
    (scores.iter().map(|s| (s - lse).exp()).collect(), lse)
}

/// Two sequences; the last one is looked at, with all query heads of one key head.
#[test]
#[ignore = "a step of scripts/gpu.sh"]
fn attention() {
    let Some(gpu) = Gpu::get() else { return };
    let (first, len) = (gpu.size(1000, 40), gpu.size(2048, 88));
    for (size, query, kv) in if gpu.small { vec![(64, 4, 2)] } else { vec![(64, 32, 8), (128, 32, 8)] } {
        let (t, group, head) = (first + len, query / kv, kv - 1);
        let mut batch = Batch::default();
        batch.push(None, &vec![0; first]);
        batch.push(None, &vec![0; len]);
        let scale = 1.0 / (size as f64).sqrt();
        let heads = Heads { query, kv, size, scale: scale as f32, window: None };
        let names = [5, 6, 7, 8].map(|seed| Numbers::new(seed, 2.0));
        let put = |numbers, heads: usize| gpu.put(DType::BF16, t, heads * size, numbers);
        let (q, k, v, dout) =
            (put(names[0], query), put(names[1], kv), put(names[2], kv), put(names[3], query));
        let blank = |heads: usize| gpu.blank(DType::BF16, t, heads * size);
        let (o, dq, dk, dv, lse) =
            (blank(query), blank(query), blank(kv), blank(kv), gpu.blank(DType::F32, t, query));
        let profile = gpu.device.profile();
        let scratch = gpu.blank(DType::F32, t, query * if profile.dq_scratch { 1 + size } else { 1 });
        let table = gpu.index(profile.table_words(t), |_| 0);
        let forest = Forest { segments: &batch.segments, table };
        gpu.device.attention_plan(&forest);
        let what = format!("attention hd{size} {query}/{kv}");
        gpu.twice(&what, &[o, lse], &[], || gpu.device.attention_fwd(o, lse, q, k, v, &forest, heads));
        gpu.twice(&what, &[dq, dk, dv], &[], || {
            gpu.device.attention_bwd(dq, dk, dv, dout, q, k, v, o, lse, &forest, heads, scratch);
        });
        // Everything of the second sequence: keys and values of the last key head, and its query heads.
        let part = |x: Tensor, h: usize| -> Vec<Vec<f64>> {
            let all = gpu.get_all(x.slice_rows(first..t));
            (0..len)
                .map(|i| all[i * x.cols() + h * size..][..size].iter().map(|&x| x.into()).collect())
                .collect()
        };
        let (keys, values) = (part(k, head), part(v, head));
        let (mut dk_want, mut dv_want) = (vec![vec![0.0; size]; 3], vec![vec![0.0; size]; 3]);
        let looked_at = [0, len / 3, len - 1];
        for h in head * group..(head + 1) * group {
            let [queries, outs, douts, dqs] = [q, o, dout, dq].map(|x| part(x, h));
            let lses = gpu.get_all(lse.slice_rows(first..t));
            let rows: Vec<_> = (0..len)
                .into_par_iter()
                .map(|i| {
                    let (p, lse) = probabilities(&queries[i], &keys, i, scale);
                    let out: Vec<f64> =
                        (0..size).map(|c| p.iter().zip(&values).map(|(p, v)| p * v[c]).sum()).collect();
                    let delta = dot(&out, &douts[i]);
                    let ds: Vec<f64> =
                        p.iter().zip(&values).map(|(p, v)| scale * p * (dot(&douts[i], v) - delta)).collect();
                    (p, lse, out, ds)
                })
                .collect();
            for i in sample(len, 5) {
                let (_, lse, out, ds) = &rows[i];
                near(&format!("{what} o, row {i}"), 4e-3, &outs[i], out);
                assert!((f64::from(lses[i * query + h]) - lse).abs() < 1e-3, "{what} lse, row {i}");
                let want: Vec<f64> =
                    (0..size).map(|c| ds.iter().zip(&keys).map(|(ds, k)| ds * k[c]).sum()).collect();
                if i > 0 {
                    near(&format!("{what} dq, row {i}"), 1e-2, &dqs[i], &want);
                }
            }
            for (place, &j) in looked_at.iter().enumerate() {
                for (i, (p, _, _, ds)) in rows.iter().enumerate().skip(j) {
                    for c in 0..size {
                        dk_want[place][c] += ds[j] * queries[i][c];
                        dv_want[place][c] += p[j] * douts[i][c];
                    }
                }
            }
        }
        let (dks, dvs) = (part(dk, head), part(dv, head));
        for (place, &j) in looked_at.iter().enumerate() {
            near(&format!("{what} dk, row {j}"), 1e-2, &dks[j], &dk_want[place]);
            near(&format!("{what} dv, row {j}"), 1e-2, &dvs[j], &dv_want[place]);
        }
        gpu.arenas.borrow_mut().clear();
    }
}

#[test]
#[ignore = "a step of scripts/gpu.sh"]
fn loss_over_a_large_vocabulary() {
    let Some(gpu) = Gpu::get() else { return };
    let (r, v, d) = (gpu.size(1500, 70), gpu.size(128_256, 1000), gpu.size(4096, 64));
    let (xs, ws) = (Numbers::new(9, 1.0), Numbers::new(10, 0.05));
    let (x, w) = (gpu.put(DType::BF16, r, d, xs), gpu.put(DType::BF16, v, d, ws));
    let chunk = (gpu.device.profile().logits / (4 * v)).clamp(1, r);
    let scratch = gpu.blank(DType::F32, chunk, v);
    let target = |i: usize| i * 7919 % v;
    let targets = gpu.index(r, |i| target(i) as u32);
    let scale = 0.125;
    let scales = gpu.floats(&[scale]);
    let (losses, dx, dw) =
        (gpu.blank(DType::F32, 1, r), gpu.blank(DType::BF16, r, d), gpu.blank(DType::F32, v, d));
    gpu.twice("cross-entropy", &[losses, dx], &[dw], || {
        gpu.device.linear_cross_entropy(losses, dx, dw, x, w, targets, scales, scratch);
    });
    let (logprobs, best, rows) =
        (gpu.blank(DType::F32, 1, r), gpu.index(r, |_| 0), gpu.index(r, |i| i as u32));
    gpu.twice("log-probabilities", &[logprobs, best], &[], || {
        gpu.device.linear_logprob(logprobs, best, x, w, rows, targets, scratch);
    });
    let (losses, logprobs) = (gpu.get_all(losses), gpu.get_all(logprobs));
    let weights = gpu.get_all(w);
    let weight = |j: usize| weights[j * d..][..d].iter().map(|&x| f64::from(x));
    for i in sample(r, 4) {
        let row = xs.row(DType::BF16, i, d);
        let logits: Vec<f64> =
            (0..v).into_par_iter().map(|j| weight(j).zip(&row).map(|(w, x)| w * x).sum()).collect();
        let largest = logits.iter().fold(f64::NEG_INFINITY, |m, &l| m.max(l));
        let lse = largest + logits.iter().map(|l| (l - largest).exp()).sum::<f64>().ln();
        let want = lse - logits[target(i)];
        assert!((f64::from(losses[i]) - want).abs() < 2e-3, "loss {i} is {}, not {want}", losses[i]);
        assert!(
            (f64::from(logprobs[i]) + want).abs() < 1e-3,
            "log-probability {i} is {}, not -{want}",
            logprobs[i]
        );
        let mut p: Vec<f64> = logits.iter().map(|l| (l - lse).exp()).collect();
        p[target(i)] -= 1.0;
        let want: Vec<f64> = (0..d)
            .into_par_iter()
            .map(|c| f64::from(scale) * (0..v).map(|j| p[j] * f64::from(weights[j * d + c])).sum::<f64>())
            .collect();
        near(&format!("dx, row {i}"), 6e-3, &gpu.row(dx, i), &want);
    }
    // Gradients of weights of single tokens: their probabilities follow from the losses.
    for j in [0, target(3), v - 1] {
        let token: Vec<f64> = weight(j).collect();
        let p: Vec<f64> = (0..r)
            .into_par_iter()
            .map(|i| {
                let row = xs.row(DType::BF16, i, d);
                let own: f64 = weight(target(i)).zip(&row).map(|(w, x)| w * x).sum();
                let lse = f64::from(losses[i]) + own;
                (dot(&row, &token) - lse).exp() - if j == target(i) { 1.0 } else { 0.0 }
            })
            .collect();
        let want: Vec<f64> = (0..d)
            .map(|c| {
                f64::from(scale)
                    * (0..r).map(|i| p[i] * f64::from(xs.at(DType::BF16, i * d + c))).sum::<f64>()
            })
            .collect();
        near(&format!("dw, row {j}"), 6e-3, &gpu.row(dw, j), &want);
    }
}

#[test]
#[ignore = "a step of scripts/gpu.sh"]
fn norms() {
    let Some(gpu) = Gpu::get() else { return };
    let (t, d, eps) = (gpu.size(8192, 130), gpu.size(4096, 264), 1e-5f32);
    let [xs, ws, dys] = [11, 12, 13].map(|seed| Numbers::new(seed, 2.0));
    let (x, w, dy) =
        (gpu.put(DType::BF16, t, d, xs), gpu.put(DType::BF16, 1, d, ws), gpu.put(DType::BF16, t, d, dys));
    let (y, rstd, dx) =
        (gpu.blank(DType::BF16, t, d), gpu.blank(DType::F32, t, 1), gpu.blank(DType::BF16, t, d));
    let (dw, partials) = (gpu.blank(DType::F32, 1, d), gpu.blank(DType::F32, bwd_scratch_rows(t), d));
    gpu.twice("rms norm", &[y, rstd], &[], || gpu.device.rms_norm_fwd(y, rstd, x, w, eps));
    gpu.twice("rms norm, backward", &[dx], &[dw], || {
        gpu.device.rms_norm_bwd(dx, dw, dy, x, w, rstd, None, partials)
    });
    let w = ws.row(DType::BF16, 0, d);
    let r_of = |x: &[f64]| 1.0 / (dot(x, x) / d as f64 + f64::from(eps)).sqrt();
    for i in sample(t, 8) {
        let (x, dy) = (xs.row(DType::BF16, i, d), dys.row(DType::BF16, i, d));
        let r = r_of(&x);
        let want: Vec<f64> = (0..d).map(|c| x[c] * r * w[c]).collect();
        near(&format!("rms norm, row {i}"), BF16_ERROR, &gpu.row(y, i), &want);
        let mean: f64 = (0..d).map(|c| dy[c] * w[c] * x[c] * r).sum::<f64>() / d as f64;
        let want: Vec<f64> = (0..d).map(|c| r * (dy[c] * w[c] - x[c] * r * mean)).collect();
        near(&format!("rms norm, dx, row {i}"), BF16_ERROR, &gpu.row(dx, i), &want);
    }
    let sums = (0..t).into_par_iter().map(|i| {
        let (x, dy) = (xs.row(DType::BF16, i, d), dys.row(DType::BF16, i, d));
        let r = r_of(&x);
        (0..d).map(|c| dy[c] * x[c] * r).collect::<Vec<_>>()
    });
    let add = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).map(|(a, b)| a + b).collect();
    let want = sums.reduce(|| vec![0.0; d], add);
    near("rms norm, dw", 2e-5, &gpu.row(dw, 0), &want);
}

/// More elements than 32 bits count: offsets must be wider.
#[test]
#[ignore = "a step of scripts/gpu.sh"]
fn swiglu_over_more_than_two_to_the_31_elements() {
    let Some(gpu) = Gpu::get() else { return };
    let (t, f) = (gpu.size(76_000, 100), gpu.size(14_336, 520));
    let (gates, dys) = (Numbers::new(14, 3.0), Numbers::new(15, 1.0));
    let (gate_up, dy) = (gpu.put(DType::BF16, t, 2 * f, gates), gpu.put(DType::BF16, t, f, dys));
    let (y, dgate_up) = (gpu.blank(DType::BF16, t, f), gpu.blank(DType::BF16, t, 2 * f));
    gpu.device.swiglu_fwd(y, gate_up);
    gpu.device.swiglu_bwd(dgate_up, dy, gate_up);
    for i in sample(t, 6) {
        let (row, dy) = (gates.row(DType::BF16, i, 2 * f), dys.row(DType::BF16, i, f));
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let slope = |x: f64| (1.0 + x * (1.0 - 1.0 / (1.0 + (-x).exp()))) / (1.0 + (-x).exp());
        let want: Vec<f64> = (0..f).map(|c| silu(row[c]) * row[f + c]).collect();
        near(&format!("swiglu, row {i}"), BF16_ERROR, &gpu.row(y, i), &want);
        let gates = (0..f).map(|c| dy[c] * row[f + c] * slope(row[c]));
        let want: Vec<f64> = gates.chain((0..f).map(|c| dy[c] * silu(row[c]))).collect();
        near(&format!("swiglu, backward, row {i}"), BF16_ERROR, &gpu.row(dgate_up, i), &want);
    }
}

#[test]
#[ignore = "a step of scripts/gpu.sh"]
fn rope_and_embedding() {
    let Some(gpu) = Gpu::get() else { return };
    let (t, heads, size) = (gpu.size(8192, 100), gpu.size(32, 3), 128);
    let d = heads * size;
    let xs = Numbers::new(16, 1.0);
    let x = gpu.put(DType::BF16, t, d, xs);
    let angle = |i: usize, c: usize| i as f64 * 500_000f64.powf(-2.0 * c as f64 / size as f64);
    let half = size / 2;
    let table: Vec<f32> = (0..t)
        .flat_map(|i| {
            (0..half).map(move |c| angle(i, c).cos()).chain((0..half).map(move |c| angle(i, c).sin()))
        })
        .map(|x| x as f32)
        .collect();
    let table = gpu.floats(&table).reshape(t, size);
    let positions = gpu.index(t, |i| (t - 1 - i) as u32);
    gpu.device.rope(x, positions, table, false);
    for i in sample(t, 6) {
        let row = xs.row(DType::BF16, i, d);
        let want: Vec<f64> = (0..d)
            .map(|c| {
                let (a, other) =
                    (angle(t - 1 - i, c % half), if c % size < half { c + half } else { c - half });
                row[c] * a.cos() + row[other] * a.sin() * if c % size < half { -1.0 } else { 1.0 }
            })
            .collect();
        near(&format!("rope, row {i}"), BF16_ERROR, &gpu.row(x, i), &want);
    }
    let (v, token) = (gpu.size(128_256, 60), |i: usize| i * i % 97);
    let (embedding, dxs) = (Numbers::new(17, 1.0), Numbers::new(18, 1.0));
    let (weights, dx) = (gpu.put(DType::BF16, v, d, embedding), gpu.put(DType::BF16, t, d, dxs));
    let tokens = gpu.index(t, |i| (token(i) * (v / 97).max(1) % v) as u32);
    let token = |i: usize| token(i) * (v / 97).max(1) % v;
    let mut sorted: Vec<usize> = (0..t).collect();
    sorted.sort_by_key(|&i| token(i));
    let order = gpu.index(t, |i| sorted[i] as u32);
    let (y, dweights) = (gpu.blank(DType::BF16, t, d), gpu.blank(DType::F32, v, d));
    gpu.twice("embedding", &[y], &[], || gpu.device.embed_fwd(y, weights, tokens));
    gpu.twice("embedding, backward", &[], &[dweights], || gpu.device.embed_bwd(dweights, dx, tokens, order));
    for i in sample(t, 4) {
        assert_eq!(gpu.row(y, i), embedding.row(DType::BF16, token(i), d), "embedding of row {i}");
        let mut want = vec![0.0; d];
        for j in (0..t).filter(|&j| token(j) == token(i)) {
            want.iter_mut().zip(dxs.row(DType::BF16, j, d)).for_each(|(w, x)| *w += x);
        }
        near(&format!("gradient of the token of row {i}"), 2e-5, &gpu.row(dweights, token(i)), &want);
    }
}

/// A hundred million parameters: exact masters from remainders, and the norm over all gradients.
#[test]
#[ignore = "a step of scripts/gpu.sh"]
fn updates_of_many_parameters() {
    let Some(gpu) = Gpu::get() else { return };
    let n = gpu.size(100_000_003, 40_003);
    let [ms, vs, gs] = [(19, 0.1), (20, 0.1), (21, 1.0)].map(|(seed, scale)| Numbers::new(seed, scale));
    let ws = Numbers::new(22, 1.0);
    let (weights, grads) = (gpu.put(DType::BF16, 1, n, ws), gpu.put(DType::BF16, 1, n, gs));
    let (m, rest) = (gpu.put(DType::F32, 1, n, ms), gpu.zeros(DType::U16, 1, n));
    let v = gpu.put(DType::F32, 1, n, vs);
    // Second moments are not negative.
    gpu.device.zero(v);
    let (out, scratch) = (gpu.blank(DType::F32, 1, 2), gpu.blank(DType::F32, 1, clip_scratch(n)));
    let unscale = gpu.floats(&[0.5]);
    gpu.twice("clip", &[out], &[], || gpu.device.clip(out, grads, 1.0, unscale, scratch));
    let norm =
        (0..n).into_par_iter().map(|i| f64::from(gs.at(DType::BF16, i)).powi(2)).sum::<f64>().sqrt() * 0.5;
    let clip = gpu.row(out, 0);
    near("norm of all gradients", 1e-6, &clip[..1], &[norm]);
    near("factor", 1e-6, &clip[1..], &[0.5 / (norm + 1e-6)]);
    let how = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.1, step: 1, key: 1 };
    let numbers = gpu.floats(&how.numbers());
    let state = AdamState { weights, master: Master::Remainder(rest), m, v, first: 0 };
    gpu.device.adamw(&state, grads, out, numbers);
    let read = |x: Tensor| {
        let mut bytes = vec![0; x.bytes()];
        gpu.device.read(&mut bytes, x);
        bytemuck::pod_collect_to_vec::<u8, u16>(&bytes)
    };
    let (got_m, got_v) = (gpu.get_all(m), gpu.get_all(v));
    let masters: Vec<f32> = read(weights).into_iter().zip(read(rest)).map(|(w, r)| join(w, r)).collect();
    let (lr, decay) = (f64::from(how.lr), f64::from(how.decay));
    let want: Vec<[f64; 3]> = (0..n)
        .into_par_iter()
        .map(|i| {
            let g = clip[1] * f64::from(gs.at(DType::BF16, i));
            let m = f64::from(ms.at(DType::F32, i));
            let m = m + 0.1 * (g - m);
            let v = 0.001 * g * g;
            let w = f64::from(ws.at(DType::BF16, i)) * (1.0 - lr * decay);
            [w - lr * (m / 0.1) / ((v / 0.001).sqrt() + f64::from(how.eps)), m, v]
        })
        .collect();
    let column = |c: usize| want.iter().map(|x| x[c]).collect::<Vec<_>>();
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    near("first moments", 1e-6, &wide(&got_m), &column(1));
    near("second moments", 1e-6, &wide(&got_v), &column(2));
    near("master values", 1e-6, &wide(&masters), &column(0));
}
