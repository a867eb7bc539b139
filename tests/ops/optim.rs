//! Gradient clipping, AdamW, Adafactor, and the forms in which weights and moments are kept.

use crate::harness::{ARITH, DTYPES, Dense, Stand, everywhere};
use flanrt::ops::optim::{
    AdamState, Chance, FactorState, Master, NUMBERS, Second, clip_scratch, factor_scratch, join, random,
    split, stochastic,
};
use flanrt::ops::{Adafactor, AdamW};
use flanrt::tensor::{DType, Tensor};
use std::cell::RefCell;

const SIZES: [usize; 6] = [0, 1, 31, 123, 16_384, 70_001];
const KEY: u64 = 0xfedc_ba98_7654_3210;
/// Indices that begin in the middle and pass a border of 32 bits.
const FIRST: u64 = (1 << 32) - 50;

fn clip(s: &Stand, grads: Tensor, max_norm: f32, unscale: f32) -> Tensor {
    let out = s.blank(Dense, DType::F32, 1, 2);
    let scratch = s.blank(Dense, DType::F32, 1, clip_scratch(grads.cols()));
    let unscale = s.put(Dense, DType::F32, 1, 1, &[f64::from(unscale)]);
    s.device.clip(out, grads, max_norm, unscale, scratch);
    out
}

fn row(s: &Stand, numbers: [f32; NUMBERS]) -> Tensor {
    s.put(Dense, DType::F32, 1, NUMBERS, &numbers.map(f64::from))
}

#[test]
fn clip_measures_the_norm() {
    for (n, dtype) in SIZES.into_iter().flat_map(|n| DTYPES.map(|dtype| (n, dtype))) {
        for (max_norm, unscale, size) in
            [(1.0, 1.0, 1e-4), (1.0, 0.125, 3.0), (0.5, 2.0, 1e15), (f32::INFINITY, 1.0, 1.0)]
        {
            if dtype == DType::F16 && size > 1e4 {
                continue;
            }
            everywhere("clip", |s| {
                let grads = s.normal(Dense, dtype, 1, n, size);
                let out = clip(s, grads, max_norm, unscale);
                let sum: f64 = s.get(grads).iter().map(|g| g * g).sum();
                let norm = sum.sqrt() * f64::from(unscale);
                let factor = f64::from(unscale) * (f64::from(max_norm) / (norm + 1e-6)).min(1.0);
                // The sum is f64: only the last rounding is left.
                let half_ulp = |x: f64| x * 0.5f64.powi(24) * 1.0001;
                let got = s.get(out);
                assert!(
                    (got[0] - norm).abs() <= half_ulp(norm) && (got[1] - factor).abs() <= half_ulp(factor),
                    "{n}: {got:?}, not {norm} and {factor}"
                );
                vec![out]
            });
        }
    }
}

/// How the weights of a test are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kept {
    /// f32 weights alone.
    Weights,
    /// An f32 master beside weights of this dtype.
    Plain(DType),
    /// bf16 with remainders.
    Remainder,
    /// bf16 alone.
    Stochastic,
}
use Kept::{Plain, Remainder, Stochastic, Weights};

const KINDS: [Kept; 5] = [Weights, Plain(DType::BF16), Plain(DType::F16), Remainder, Stochastic];

impl Kept {
    fn dtype(self) -> DType {
        match self {
            Weights => DType::F32,
            Plain(dtype) => dtype,
            Remainder | Stochastic => DType::BF16,
        }
    }
    /// Weights `[rows, cols]` of these values.
    fn make(self, s: &Stand, rows: usize, cols: usize, values: &[f64]) -> (Tensor, Master) {
        let weights = s.put(Dense, self.dtype(), rows, cols, values);
        let master = match self {
            Weights => Master::Weights,
            Plain(_) => Master::Plain(s.put(Dense, DType::F32, rows, cols, values)),
            Remainder => {
                let parts: Vec<_> = values.iter().map(|&x| split(x as f32)).collect();
                let halves = |x: &dyn Fn(&(u16, u16)) -> u16| -> Vec<u8> {
                    parts.iter().flat_map(|p| x(p).to_le_bytes()).collect()
                };
                let rest = s.blank(Dense, DType::U16, rows, cols);
                s.device.write(weights, &halves(&|p| p.0));
                s.device.write(rest, &halves(&|p| p.1));
                Master::Remainder(rest)
            }
            Stochastic => Master::Stochastic,
        };
        (weights, master)
    }
}

/// The f32 values of weights, by their bits.
fn values(s: &Stand, weights: Tensor, master: Master) -> Vec<f32> {
    let halves = |x| -> Vec<u16> {
        s.bits(x).chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect::<Vec<_>>()
    };
    match master {
        Master::Weights | Master::Stochastic => s.get(weights).iter().map(|&x| x as f32).collect(),
        Master::Plain(x) => s.get(x).iter().map(|&x| x as f32).collect(),
        Master::Remainder(x) => halves(weights).into_iter().zip(halves(x)).map(|(w, r)| join(w, r)).collect(),
    }
}

/// The weights are their master values rounded.
fn check_rounding(s: &Stand, weights: Tensor, master: Master) {
    let values = values(s, weights, master);
    let want: Vec<u8> = match (master, weights.dtype()) {
        (Master::Stochastic, _) | (_, DType::F32) => return,
        (_, DType::BF16) => values.iter().flat_map(|&x| split(x).0.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
    };
    assert!(s.bits(weights) == want, "weights are the rounded master");
}

/// A parameter group in f32 values: what the formulas say, in f64.
struct Group {
    w: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

impl Group {
    fn step(&mut self, g: &[f64], factor: f64, how: &AdamW) {
        let (b1, b2, lr) = (how.beta1, how.beta2, f64::from(how.lr));
        for (i, g) in g.iter().enumerate() {
            let g = g * factor;
            self.m[i] = b1 * self.m[i] + (1.0 - b1) * g;
            self.v[i] = b2 * self.v[i] + (1.0 - b2) * g * g;
            let step = how.step as i32;
            let (m_hat, v_hat) = (self.m[i] / (1.0 - b1.powi(step)), self.v[i] / (1.0 - b2.powi(step)));
            self.w[i] -= lr * f64::from(how.decay) * self.w[i];
            self.w[i] -= lr * m_hat / (v_hat.sqrt() + f64::from(how.eps));
        }
    }
}

fn adamw(step: u64) -> AdamW {
    AdamW { lr: 0.01 * step as f32, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, step, key: KEY ^ step }
}

/// Five steps of a parameter group: weights, what lies beside them, m, v.
pub(crate) fn steps(s: &Stand, kept: Kept, grads: DType, n: usize) -> Vec<Tensor> {
    let start = s.normals(n, 1.0);
    let (weights, master) = kept.make(s, 1, n, &start);
    let [m, v] = [0, 1].map(|_| s.put(Dense, DType::F32, 1, n, &vec![0.0; n]));
    let w = values(s, weights, master).iter().map(|&x| f64::from(x)).collect();
    let mut group = Group { w, m: vec![0.0; n], v: vec![0.0; n] };
    for step in 1..=5 {
        let grads = s.normal(Dense, grads, 1, n, 2.0);
        let clip = clip(s, grads, 3.0, 0.5);
        let factor = s.get(clip)[1];
        let how = adamw(step);
        s.device.adamw(
            &AdamState { weights, master, m, v, first: FIRST },
            grads,
            clip,
            row(s, how.numbers()),
        );
        group.step(&s.get(grads), factor, &how);
        check_rounding(s, weights, master);
    }
    if kept != Stochastic {
        let got = values(s, weights, master).iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        crate::harness::close("weights", DType::F32, ARITH, &got, &group.w);
    }
    s.close("m", ARITH, m, || group.m);
    s.close("v", ARITH, v, || group.v);
    [weights, m, v].into_iter().chain(master.beside()).collect()
}

#[test]
fn adamw_follows_the_formula() {
    for n in [0, 1, 31, 4099] {
        for kept in KINDS {
            for grads in [DType::F32, kept.dtype()] {
                everywhere("adamw", |s| steps(s, kept, grads, n));
            }
        }
    }
}

/// Every kind of device comes to the same bits: an element's update is its own, and every step of it rounds correctly.
#[test]
fn adamw_is_the_same_bits_on_every_device() {
    for (kept, moments) in KINDS.into_iter().flat_map(|kept| [DType::F32, DType::BF16].map(|m| (kept, m))) {
        let first: RefCell<Option<Vec<Vec<u8>>>> = RefCell::default();
        everywhere("adamw", |s| {
            let n = 5003;
            let (weights, master) = kept.make(s, 1, n, &s.normals(n, 1.0));
            let [m, v] = [0, 1].map(|_| s.put(Dense, moments, 1, n, &vec![0.0; n]));
            let clip = s.put(Dense, DType::F32, 1, 2, &[1.0, 0.37]);
            for step in 1..=3 {
                let grads = s.normal(Dense, kept.dtype(), 1, n, 0.1);
                let state = AdamState { weights, master, m, v, first: FIRST };
                s.device.adamw(&state, grads, clip, row(s, adamw(step).numbers()));
            }
            let out: Vec<_> = [weights, m, v].into_iter().chain(master.beside()).collect();
            let bits: Vec<_> = out.iter().map(|&x| s.bits(x)).collect();
            let mut first = first.borrow_mut();
            assert!(*first.get_or_insert_with(|| bits.clone()) == bits, "{kept:?} {moments:?}");
            out
        });
    }
}

#[test]
fn remainders_are_an_f32_master_bit_for_bit() {
    everywhere("remainder", |s| {
        let n = 20_001;
        // Values around ties and limits among the others: the update of a weight at rest keeps them.
        let mut start = s.normals(n, 1.0);
        for (x, low) in start.iter_mut().zip((0x7ff0..0x8010u32).cycle()).step_by(3) {
            *x = f64::from(f32::from_bits((*x as f32).to_bits() & 0xffff_0000 | low));
        }
        let kinds = [Remainder, Plain(DType::BF16)].map(|kept| kept.make(s, 1, n, &start));
        let moments = kinds.map(|_| [0, 1].map(|_| s.put(Dense, DType::F32, 1, n, &vec![0.0; n])));
        for step in 1..=5 {
            let mut g = s.normals(n, 1.0);
            g.iter_mut().step_by(3).for_each(|g| *g = 0.0);
            let grads = s.put(Dense, DType::BF16, 1, n, &g);
            let how = AdamW { decay: 0.0, ..adamw(step) };
            let (clip, numbers) = (clip(s, grads, 1.0, 1.0), row(s, how.numbers()));
            for ((weights, master), [m, v]) in kinds.into_iter().zip(moments) {
                s.device.adamw(&AdamState { weights, master, m, v, first: 0 }, grads, clip, numbers);
            }
            let [(wr, r), (wp, p)] = kinds;
            assert!(s.bits(wr) == s.bits(wp), "weights after step {step}");
            let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert!(bits(values(s, wr, r)) == bits(values(s, wp, p)), "master after step {step}");
        }
        vec![]
    });
}

/// What is rounded by chance is the f32 result, rounded by the documented draw of the element.
#[test]
fn chances_are_those_of_key_index_and_use() {
    everywhere("stochastic", |s| {
        let n = 10_001;
        let (weights, master) = Stochastic.make(s, 1, n, &s.normals(n, 1.0));
        let [m, v] = [0.1, 0.01].map(|size| {
            let values: Vec<f64> = s.normals(n, size).iter().map(|x| x.abs()).collect();
            s.put(Dense, DType::BF16, 1, n, &values)
        });
        let wide = [weights, m, v].map(|x| s.put(Dense, DType::F32, 1, n, &s.get(x)));
        let grads = s.normal(Dense, DType::BF16, 1, n, 0.1);
        let (clip, numbers) = (clip(s, grads, 1.0, 1.0), row(s, adamw(7).numbers()));
        s.device.adamw(&AdamState { weights, master, m, v, first: FIRST }, grads, clip, numbers);
        let [w, wide_m, wide_v] = wide;
        let state = AdamState { weights: w, master: Master::Weights, m: wide_m, v: wide_v, first: FIRST };
        let wide_grads = s.put(Dense, DType::F32, 1, n, &s.get(grads));
        s.device.adamw(&state, wide_grads, clip, numbers);
        for ((x, wide), chance) in
            [weights, m, v].into_iter().zip(wide).zip([Chance::Weight, Chance::First, Chance::Second])
        {
            let draw = |i| chance.of(random(KEY ^ 7, FIRST + i));
            let want =
                s.get(wide).into_iter().zip(0..).map(|(x, i)| stochastic(x as f32, draw(i)).to_le_bytes());
            assert!(s.bits(x) == want.flatten().collect::<Vec<_>>(), "{chance:?}");
        }
        vec![weights, m, v]
    });
}

/// A parameter as Shazeer and Stern's algorithms 4 and 5 have it, in f64. Vectors are matrices of one row that keep a
/// second moment an element.
struct Reference {
    shape: (usize, usize),
    w: Vec<f64>,
    rows: Vec<f64>,
    cols: Vec<f64>,
}

impl Reference {
    fn step(&mut self, g: &[f64], factor: f64, how: &Adafactor, size: f64) {
        let (n, m) = self.shape;
        let (eps1, eps2, threshold) = (1e-30, 1e-3, 1.0);
        let kept = (1.0 - (how.step as f64).powf(-0.8)).min(how.most);
        let g: Vec<f64> = g.iter().map(|g| g * factor).collect();
        let square = |i: usize, j: usize| g[i * m + j] * g[i * m + j] + eps1;
        for j in 0..m {
            let mean = (0..n).map(|i| square(i, j)).sum::<f64>() / n as f64;
            self.cols[j] = kept * self.cols[j] + (1.0 - kept) * mean;
        }
        for i in 0..self.rows.len() {
            let mean = (0..m).map(|j| square(i, j)).sum::<f64>() / m as f64;
            self.rows[i] = kept * self.rows[i] + (1.0 - kept) * mean;
        }
        let whole = self.rows.iter().sum::<f64>() / n as f64;
        let second = |i: usize, j: usize| match self.rows.get(i) {
            Some(row) => row * self.cols[j] / whole,
            None => self.cols[j],
        };
        let u: Vec<f64> = (0..n * m).map(|e| g[e] / second(e / m, e % m).sqrt()).collect();
        let rms = (u.iter().map(|u| u * u).sum::<f64>() / (n * m) as f64).sqrt();
        let rate = f64::from(how.lr) * size.max(eps2) / (rms / threshold).max(1.0);
        for (w, u) in self.w.iter_mut().zip(&u) {
            *w -= f64::from(how.lr) * f64::from(how.decay) * *w + rate * u;
        }
    }
}

const SHAPES: [(usize, usize); 8] =
    [(1, 1), (1, 33), (1, 3001), (2, 1), (7, 5), (33, 129), (260, 513), (130, 264)];

fn adafactor(step: u64, relative: bool) -> Adafactor {
    let lr = if relative { 0.02 } else { 0.01 };
    Adafactor { lr, most: 0.6, decay: 0.1, step, key: KEY ^ step }
}

fn second(s: &Stand, (rows, cols): (usize, usize)) -> Second {
    let zeros = |n| s.put(Dense, DType::F32, 1, n, &vec![0.0; n]);
    match rows {
        1 => Second::Full(zeros(cols)),
        _ => Second::Factored { rows: zeros(rows), cols: zeros(cols) },
    }
}

fn moments(second: Second) -> Vec<Tensor> {
    match second {
        Second::Factored { rows, cols } => vec![rows, cols],
        Second::Full(v) => vec![v],
    }
}

/// Six steps of a matrix or vector: weights, what lies beside them, second moments.
pub(crate) fn factored_steps(
    s: &Stand,
    kept: Kept,
    grads: DType,
    shape: (usize, usize),
    relative: bool,
) -> Vec<Tensor> {
    let (rows, cols) = shape;
    let (weights, master) = kept.make(s, rows, cols, &s.normals(rows * cols, 0.3));
    let second = second(s, shape);
    let scratch = s.blank(Dense, DType::F32, 1, factor_scratch(rows, cols));
    let mut want = Reference {
        shape,
        w: values(s, weights, master).iter().map(|&x| f64::from(x)).collect(),
        rows: vec![0.0; if rows == 1 { 0 } else { rows }],
        cols: vec![0.0; cols],
    };
    for step in 1..=6 {
        // Rows and columns of different sizes, the third step without a gradient at all, and large ones that are clipped.
        let size = [1.0, 0.3, 0.0, 2.0, 50.0, 1.0][step as usize - 1];
        let mut g = s.normals(rows * cols, size);
        g.iter_mut()
            .enumerate()
            .for_each(|(i, g)| *g *= (1 + i / cols % 5) as f64 / (1 + i % cols % 7) as f64);
        let grads = s.put(Dense, grads, rows, cols, &g);
        let clip = clip(s, grads.reshape(1, rows * cols), 3.0, 0.5);
        let factor = s.get(clip)[1];
        let stored = s.get(weights);
        let rms = (stored.iter().map(|w| w * w).sum::<f64>() / stored.len() as f64).sqrt();
        let how = adafactor(step, relative);
        let state = FactorState { weights, master, second, first: FIRST };
        s.device.adafactor(&state, grads, clip, row(s, how.numbers()), relative, scratch);
        want.step(&s.get(grads), factor, &how, if relative { rms } else { 1.0 });
        check_rounding(s, weights, master);
        if kept == Stochastic {
            want.w = s.get(weights);
        }
    }
    let got = values(s, weights, master).iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    crate::harness::close("weights", DType::F32, 2.0 * ARITH, &got, &want.w);
    match second {
        Second::Factored { rows, cols } => {
            s.close("rows", ARITH, rows, || want.rows);
            s.close("cols", ARITH, cols, || want.cols);
        }
        Second::Full(v) => s.close("v", ARITH, v, || want.cols),
    }
    [vec![weights], moments(second), master.beside().into_iter().collect()].concat()
}

#[test]
fn adafactor_follows_the_formula() {
    for shape in SHAPES {
        for kept in KINDS {
            for (grads, relative) in [(DType::F32, false), (kept.dtype(), true)] {
                everywhere("adafactor", |s| factored_steps(s, kept, grads, shape, relative));
            }
        }
    }
}

/// Twelve steps beside transformers' Adafactor, step by step (tests/fixtures/adafactor/make.py).
#[test]
fn adafactor_is_that_of_transformers() {
    let text = include_str!("../fixtures/adafactor/adafactor.json");
    let runs: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
    let list =
        |v: &serde_json::Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    for run in &runs {
        let (lr, relative) = (run["lr"].as_f64().unwrap() as f32, run["relative"].as_bool().unwrap());
        for case in run["cases"].as_array().unwrap() {
            let shape = list(&case["shape"]);
            let (rows, cols) = (shape[0] as usize, shape[1] as usize);
            everywhere("adafactor", |s| {
                let (weights, master) = Weights.make(s, rows, cols, &list(&case["start"]));
                let second = second(s, (rows, cols));
                let scratch = s.blank(Dense, DType::F32, 1, factor_scratch(rows, cols));
                let steps = case["grads"].as_array().unwrap().iter().zip(case["after"].as_array().unwrap());
                for ((g, after), step) in steps.zip(1..) {
                    let grads = s.put(Dense, DType::F32, rows, cols, &list(g));
                    let clip = clip(s, grads.reshape(1, rows * cols), f32::INFINITY, 1.0);
                    // Theirs decays by 1 - step^-0.8 without a limit.
                    let how = Adafactor { lr, most: 1.0, decay: 0.0, step, key: KEY };
                    let state = FactorState { weights, master, second, first: FIRST };
                    s.device.adafactor(&state, grads, clip, row(s, how.numbers()), relative, scratch);
                    let got = s.get(weights);
                    for (got, want) in got.iter().zip(list(after)) {
                        assert!((got - want).abs() < 2e-6, "step {step}: {got} and {want}");
                    }
                }
                vec![weights]
            });
        }
    }
}

/// With and without f32 values kept, Adafactor's step is the same before it is rounded.
#[test]
fn adafactor_rounds_as_adamw_does() {
    for shape in [(1, 1001), (130, 257)] {
        everywhere("adafactor", |s| {
            let (rows, cols) = shape;
            let n = rows * cols;
            let start = s.normals(n, 1.0);
            let rounded: Vec<f64> = start.iter().map(|&x| half::bf16::from_f64(x).to_f64()).collect();
            let kinds =
                [Plain(DType::BF16), Remainder, Stochastic].map(|kept| kept.make(s, rows, cols, &rounded));
            let scratch = s.blank(Dense, DType::F32, 1, factor_scratch(rows, cols));
            let grads = s.normal(Dense, DType::BF16, rows, cols, 0.1);
            let clip = clip(s, grads.reshape(1, n), 1.0, 1.0);
            let numbers = row(s, adafactor(3, true).numbers());
            for (weights, master) in kinds {
                let state = FactorState { weights, master, second: second(s, shape), first: FIRST };
                s.device.adafactor(&state, grads, clip, numbers, true, scratch);
            }
            let [(wp, p), (wr, r), (ws, _)] = kinds;
            assert!(s.bits(wp) == s.bits(wr) && values(s, wp, p) == values(s, wr, r));
            let draw = |i| Chance::Weight.of(random(KEY ^ 3, FIRST + i));
            let values = values(s, wp, p).into_iter().zip(0..);
            let want = values.flat_map(|(x, i)| stochastic(x, draw(i)).to_le_bytes());
            assert!(s.bits(ws) == want.collect::<Vec<_>>());
            vec![]
        });
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for (bad, kept) in
        [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].into_iter().flat_map(|b| KINDS.map(|k| (b, k)))
    {
        everywhere("NaN", |s| {
            let (rows, cols) = (100, 200);
            let n = rows * cols;
            let (weights, master) = kept.make(s, 1, n, &s.normals(n, 1.0));
            let moments = if kept == Stochastic { DType::BF16 } else { DType::F32 };
            let [m, v] = [0, 1].map(|_| s.normal(Dense, moments, 1, n, 1.0));
            let second = second(s, (rows, cols));
            let mut values = s.normals(n, 1.0);
            values[n - 3] = bad;
            let grads = s.put(Dense, DType::F32, 1, n, &values);
            let all =
                [vec![weights, m, v], self::moments(second), master.beside().into_iter().collect()].concat();
            let before: Vec<_> = all.iter().map(|&x| s.bits(x)).collect();
            let clip = clip(s, grads, 1.0, 1.0);
            assert!(s.get(clip)[1].is_nan());
            s.device.adamw(
                &AdamState { weights, master, m, v, first: 0 },
                grads,
                clip,
                row(s, adamw(3).numbers()),
            );
            let square = |x: Tensor| x.reshape(rows, cols);
            let master = match master {
                Master::Plain(x) => Master::Plain(square(x)),
                Master::Remainder(x) => Master::Remainder(square(x)),
                whole => whole,
            };
            let state = FactorState { weights: square(weights), master, second, first: 0 };
            let scratch = s.blank(Dense, DType::F32, 1, factor_scratch(rows, cols));
            let numbers = row(s, adafactor(3, true).numbers());
            s.device.adafactor(&state, square(grads), clip, numbers, true, scratch);
            assert!(before == all.iter().map(|&x| s.bits(x)).collect::<Vec<_>>());
            vec![]
        });
    }
}
