//! Clipping, AdamW, Adafactor.

use super::Cpu;
use super::rows::{floats, load, shape, slice, slice_mut, store, view, with_buffers};
use super::simd::{LANES, reduce, vectorized};
use crate::ops::optim::{
    AdamState, CLIP_CHUNK, Chance, FACTOR_HEAD, FACTOR_TILE, FactorState, KEY, Master, Optim, Second,
    clip_scratch, join, random, split, stochastic,
};
use crate::tensor::{DType, Tensor};
use std::ops::Range;

/// Elements of a task of an update.
const CHUNK: usize = 1 << 14;

vectorized! {
    /// Sum of squares in f64: lane `i % 16` takes element `i`, lanes added in order.
    fn sum_squares(x: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let mut chunks = x.chunks_exact(LANES);
        for c in &mut chunks {
            for j in 0..LANES {
                let x = f64::from(c[j]);
                lanes[j] = x.mul_add(x, lanes[j]);
            }
        }
        for (j, x) in chunks.remainder().iter().enumerate() {
            lanes[j] = f64::from(*x).mul_add(f64::from(*x), lanes[j]);
        }
        lanes.iter().sum()
    }
}

/// `AdamW::numbers` as read back, with the factor on the gradients.
#[derive(Clone, Copy)]
struct Numbers {
    factor: f32,
    keep: f32,
    rate: f32,
    root: f32,
    first: f32,
    second: f32,
    second_keep: f32,
    eps: f32,
}

vectorized! {
    /// The update in PyTorch's order: decay, moments, `w -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps)`.
    fn update(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], x: Numbers) {
        let n = g.len();
        let (w, m, v) = (&mut w[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            let g = g[i] * x.factor;
            m[i] = x.first.mul_add(g - m[i], m[i]);
            v[i] = (x.second * g).mul_add(g, x.second_keep * v[i]);
            let denom = v[i].sqrt() / x.root + x.eps;
            w[i] = (-x.rate).mul_add(m[i] / denom, w[i] * x.keep);
        }
    }
}

vectorized! {
    fn join_all(x: &mut [f32], weights: &[u16], remainders: &[u16]) {
        for ((x, w), r) in x.iter_mut().zip(weights).zip(remainders) {
            *x = join(*w, *r);
        }
    }
}

vectorized! {
    fn split_all(weights: &mut [u16], remainders: &mut [u16], x: &[f32]) {
        for ((w, r), x) in weights.iter_mut().zip(remainders).zip(x) {
            (*w, *r) = split(*x);
        }
    }
}

vectorized! {
    fn nearest_all(weights: &mut [u16], x: &[f32]) {
        for (w, x) in weights.iter_mut().zip(x) {
            *w = split(*x).0;
        }
    }
}

vectorized! {
    /// Rounds the elements that are at `first` and on among all parameters.
    fn stochastic_all(out: &mut [u16], x: &[f32], key: u64, first: u64, chance: Chance) {
        for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
            *out = stochastic(*x, chance.of(random(key, first + i as u64)));
        }
    }
}

/// What rounding by chance in one update depends on.
#[derive(Clone, Copy)]
struct Draw {
    key: u64,
    first: u64,
}

impl Draw {
    fn new(numbers: &[f32], first: u64) -> Self {
        let key = (0..4).fold(0, |key, i| key | (numbers[KEY + i] as u64) << (16 * i));
        Self { key, first }
    }
    /// `x[c] = values`, rounded by chance; `x` is bf16.
    fn store(self, x: Tensor, c: &Range<usize>, values: &[f32], chance: Chance) {
        assert_eq!(x.dtype(), DType::BF16, "rounded by chance");
        // SAFETY: tasks own disjoint ranges.
        let out = unsafe { slice_mut::<u16>(x, 0, c.start, c.len()) };
        stochastic_all(out, values, self.key, self.first + c.start as u64, chance);
    }
}

/// The elements `c` of the f32 row `x` in place, of another in `buffer`.
fn open<'a>(buffer: &'a mut [f32], x: Tensor, c: &Range<usize>) -> &'a mut [f32] {
    if x.dtype() == DType::F32 {
        // SAFETY: tasks own disjoint ranges.
        return unsafe { slice_mut(x, 0, c.start, c.len()) };
    }
    load(buffer, x, 0, c.start);
    buffer
}

/// The f32 values of `weights[c]`, in place where they are f32, else in `buffer`.
fn open_weights<'a>(
    buffer: &'a mut [f32],
    weights: Tensor,
    master: Master,
    c: &Range<usize>,
) -> &'a mut [f32] {
    match master {
        Master::Weights | Master::Stochastic => open(buffer, weights, c),
        Master::Plain(master) => open(buffer, master, c),
        Master::Remainder(rest) => {
            // SAFETY: tasks own disjoint ranges.
            let (w, r) = unsafe { (slice(weights, 0, c.start, c.len()), slice(rest, 0, c.start, c.len())) };
            join_all(buffer, w, r);
            buffer
        }
    }
}

/// Writes what `open_weights` gave back to where it came from, and rounded to the weights.
fn close_weights(values: &[f32], weights: Tensor, master: Master, c: &Range<usize>, draw: Draw) {
    // SAFETY: tasks own disjoint ranges.
    let halves = |x| unsafe { slice_mut::<u16>(x, 0, c.start, c.len()) };
    match (master, weights.dtype()) {
        (Master::Weights, _) => {}
        (Master::Plain(_), DType::BF16) => nearest_all(halves(weights), values),
        (Master::Plain(_), _) => store(weights, 0, c.start, values),
        (Master::Remainder(rest), _) => split_all(halves(weights), halves(rest), values),
        (Master::Stochastic, _) => draw.store(weights, c, values, Chance::Weight),
    }
}

vectorized! {
    /// `cols += (factor g)^2`; the sum of what was added is returned.
    fn add_squares(cols: &mut [f32], g: &[f32], factor: f32) -> f32 {
        for (c, g) in cols.iter_mut().zip(g) {
            let g = g * factor;
            *c = g.mul_add(g, *c);
        }
        reduce([g], |[g], s| (g * factor).mul_add(g * factor, s))
    }
}

vectorized! {
    /// `v = keep v + part ((factor g)^2 + eps)`
    fn own_moments(v: &mut [f32], g: &[f32], factor: f32, part: f32, keep: f32, eps: f32) {
        for (v, g) in v.iter_mut().zip(g) {
            let g = g * factor;
            *v = part.mul_add(g.mul_add(g, eps), keep * *v);
        }
    }
}

vectorized! {
    fn inverse_roots(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = 1.0 / x.sqrt();
        }
    }
}

vectorized! {
    /// The sum of `(factor g across)^2`.
    fn sum_moves(g: &[f32], across: &[f32], factor: f32) -> f32 {
        reduce([g, across], |[g, a], s| {
            let u = g * factor * a;
            u.mul_add(u, s)
        })
    }
}

vectorized! {
    /// `w = keep w - rate (factor g across)`
    fn move_by(w: &mut [f32], g: &[f32], across: &[f32], factor: f32, keep: f32, rate: f32) {
        for ((w, g), a) in w.iter_mut().zip(g).zip(across) {
            *w = (-rate).mul_add(g * factor * a, *w * keep);
        }
    }
}

/// An f64 in two f32 elements of scratch.
fn put(scratch: usize, i: usize, value: f64) {
    let bits = value.to_bits();
    // SAFETY: the caller's task owns elements i and i + 1 of a scratch that is long enough.
    unsafe {
        (scratch as *mut u32).add(i).cast::<[u32; 2]>().write_unaligned([bits as u32, (bits >> 32) as u32])
    };
}

/// The sum of the f64 values that `put` wrote one after the other.
fn total(partials: &[f32]) -> f64 {
    let value = |p: &[f32]| f64::from_bits(u64::from(p[0].to_bits()) | u64::from(p[1].to_bits()) << 32);
    partials.chunks_exact(2).map(value).sum()
}

/// How Adafactor's second moments move: `x = keep x + part (mean of squares + eps)`.
#[derive(Clone, Copy)]
struct Decay {
    part: f32,
    keep: f32,
    eps: f32,
}

impl Cpu {
    /// Moves `rows` and `cols` towards the mean squares of `factor g`; the mean of `rows` is returned.
    fn factors(
        &self,
        [rows, cols]: [Tensor; 2],
        g: Tensor,
        factor: f32,
        decay: Decay,
        scratch: &mut [f32],
    ) -> f32 {
        let (n, m) = (g.rows(), g.cols());
        let (sums, partials) = scratch.split_at_mut(n);
        let (sums_at, partials_at) = (sums.as_mut_ptr() as usize, partials.as_mut_ptr() as usize);
        self.blocks(n, FACTOR_TILE.0, |range| {
            // SAFETY: one task a row and a partial, inside the scratch by the caller's assertion.
            let (sums, partial) = unsafe {
                let tile = (partials_at as *mut f32).add(range.start / FACTOR_TILE.0 * m);
                (
                    std::slice::from_raw_parts_mut((sums_at as *mut f32).add(range.start), range.len()),
                    std::slice::from_raw_parts_mut(tile, m),
                )
            };
            partial.fill(0.0);
            with_buffers([m], |[line]| {
                for (r, sum) in range.zip(sums) {
                    *sum = add_squares(partial, view(line, g, r, 0, m), factor);
                }
            });
        });
        let moved = |old: f32, mean: f64| decay.part.mul_add(mean as f32 + decay.eps, decay.keep * old);
        let rows = floats(rows);
        for (row, sum) in rows.iter_mut().zip(&*sums) {
            *row = moved(*row, f64::from(*sum) / m as f64);
        }
        let (down, partials) = (n.div_ceil(FACTOR_TILE.0), &*partials);
        for (j, col) in floats(cols).iter_mut().enumerate() {
            let sum: f64 = (0..down).map(|t| f64::from(partials[t * m + j])).sum();
            *col = moved(*col, sum / n as f64);
        }
        (rows.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64) as f32
    }
}

impl Optim for Cpu {
    fn clip(&self, out: Tensor, grads: Tensor, max_norm: f32, unscale: Tensor, scratch: Tensor) {
        shape!(out, 1, 2);
        shape!(unscale, 1, 1);
        let n = grads.cols();
        shape!(grads, 1, n);
        assert!(scratch.len() >= clip_scratch(n), "scratch {scratch:?} for {n} gradients");
        let unscale = f64::from(floats(unscale)[0]);
        let partials = floats(scratch);
        let at = partials.as_mut_ptr() as usize;
        self.blocks(n, CLIP_CHUNK, |c| {
            with_buffers([c.len()], |[line]| {
                let partial = sum_squares(view(line, grads, 0, c.start, c.len()));
                put(at, 2 * (c.start / CLIP_CHUNK), partial);
            });
        });
        let norm = total(&partials[..clip_scratch(n)]).sqrt() * unscale;
        let factor = unscale * (f64::from(max_norm) / (norm + 1e-6)).min(1.0);
        let out = floats(out);
        out[0] = norm as f32;
        out[1] = if norm.is_finite() { factor as f32 } else { f32::NAN };
    }

    fn adamw(&self, state: &AdamState, grads: Tensor, clip: Tensor, numbers: Tensor) {
        let AdamState { weights, master, m, v, first } = *state;
        state.check(grads, clip, numbers);
        let (n, factor) = (grads.cols(), floats(clip)[1]);
        if !factor.is_finite() {
            return;
        }
        let x = floats(numbers);
        let draw = Draw::new(x, first);
        let x = Numbers {
            factor,
            keep: x[0],
            rate: x[1],
            root: x[2],
            first: x[3],
            second: x[4],
            second_keep: x[5],
            eps: x[6],
        };
        self.blocks(n, CHUNK, |c| {
            with_buffers([c.len(); 4], |[ws, ms, vs, gs]| {
                let values = open_weights(ws, weights, master, &c);
                let (first, second) = (open(ms, m, &c), open(vs, v, &c));
                update(values, first, second, view(gs, grads, 0, c.start, c.len()), x);
                close_weights(values, weights, master, &c, draw);
                for (x, values, chance) in [(m, first, Chance::First), (v, second, Chance::Second)] {
                    if x.dtype() != DType::F32 {
                        draw.store(x, &c, values, chance);
                    }
                }
            });
        });
    }

    fn adafactor(
        &self,
        state: &FactorState,
        grads: Tensor,
        clip: Tensor,
        numbers: Tensor,
        relative: bool,
        scratch: Tensor,
    ) {
        let FactorState { weights, master, second, first } = *state;
        state.check(grads, clip, numbers, scratch);
        let (n, m, factor) = (weights.rows(), weights.cols(), floats(clip)[1]);
        if !factor.is_finite() || weights.is_empty() {
            return;
        }
        let x = floats(numbers);
        let draw = Draw::new(x, first);
        let (keep, rate, eps2, threshold) = (x[0], x[1], f64::from(x[5]), f64::from(x[6]));
        let decay = Decay { part: x[2], keep: x[3], eps: x[4] };
        let scratch = floats(scratch);
        let mean = match second {
            Second::Factored { rows, cols } => {
                self.factors([rows, cols], grads, factor, decay, &mut scratch[FACTOR_HEAD..])
            }
            Second::Full(v) => {
                with_buffers([m], |[line]| {
                    let g = view(line, grads, 0, 0, m);
                    own_moments(floats(v), g, factor, decay.part, decay.keep, decay.eps);
                });
                1.0
            }
        };
        // One over the root of an element's second moment, as a factor of its row and one of its column.
        let (down, across) = match second {
            Second::Factored { rows, cols } => (Some(&*floats(rows)), &*floats(cols)),
            Second::Full(v) => (None, &*floats(v)),
        };
        let of_row = |r: usize| down.map_or(1.0, |rows| 1.0 / (rows[r] / mean).sqrt());
        let tiles = n.div_ceil(FACTOR_TILE.0);
        let at = scratch.as_mut_ptr() as usize;
        self.blocks(n, FACTOR_TILE.0, |range| {
            let (tile, mut sums) = (range.start / FACTOR_TILE.0, [0f64; 2]);
            with_buffers([m; 2], |[line, cols]| {
                inverse_roots(cols, across);
                for r in range {
                    let u = f64::from(sum_moves(view(line, grads, r, 0, m), cols, factor));
                    sums[0] = (f64::from(of_row(r)) * f64::from(of_row(r))).mul_add(u, sums[0]);
                    if relative {
                        sums[1] += sum_squares(view(line, weights, r, 0, m));
                    }
                }
            });
            put(at, 2 * tile, sums[0]);
            put(at, 2 * (tiles + tile), sums[1]);
        });
        let rms = |partials: &[f32]| (total(partials) / (n * m) as f64).sqrt();
        let smaller = (rms(&scratch[..2 * tiles]) / threshold).max(1.0);
        let size = if relative { rms(&scratch[2 * tiles..4 * tiles]).max(eps2) } else { 1.0 };
        let rate = (f64::from(rate) * size / smaller) as f32;
        let flat = |x: Tensor| x.reshape(1, n * m);
        let (weights, master) = match master {
            Master::Plain(x) => (flat(weights), Master::Plain(flat(x))),
            Master::Remainder(x) => (flat(weights), Master::Remainder(flat(x))),
            Master::Weights | Master::Stochastic => (flat(weights), master),
        };
        self.blocks(n, FACTOR_TILE.0, |range| {
            with_buffers([m; 3], |[ws, gs, cols]| {
                inverse_roots(cols, across);
                for r in range {
                    let c = r * m..(r + 1) * m;
                    let values = open_weights(ws, weights, master, &c);
                    move_by(values, view(gs, grads, r, 0, m), cols, factor, keep, rate * of_row(r));
                    close_weights(values, weights, master, &c, draw);
                }
            });
        });
    }
}
