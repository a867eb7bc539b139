//! Gradient clipping, AdamW and Adafactor, and how weights and moments of 16 bits are kept.
//!
//! Numbers that change from step to step (rates, corrections, the loss scale) are read from the device, so that a recorded
//! step can be replayed; they are computed on the host in f64 by [`AdamW::numbers`] and [`Adafactor::numbers`].
//!
//! Rounding that has a choice is decided by [`random`]: a pure function of (seed, step) as a key and the element's index in
//! the parameters, the same on every device.

use crate::tensor::{DType, Tensor};

/// f32 elements of a row of numbers.
pub const NUMBERS: usize = 16;
/// Where the key of [`random`] begins in a row of numbers: four numbers of 16 bits each, lowest first.
pub const KEY: usize = 7;

/// One AdamW update (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019).
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub decay: f32,
    /// Number of this update, from 1: for the bias corrections.
    pub step: u64,
    /// Decides all rounding of this update that has a choice.
    pub key: u64,
}

impl AdamW {
    /// What `adamw` reads: `keep, rate, root, first, second, second_keep, eps`, the key; each rounded to f32 once, as
    /// `1 - beta` of an f32 `beta` would be off by 1e-5.
    pub fn numbers(&self) -> [f32; NUMBERS] {
        let step = self.step as f64;
        let c1 = 1.0 - libm::pow(self.beta1, step);
        let c2 = 1.0 - libm::pow(self.beta2, step);
        let numbers = [
            (1.0 - f64::from(self.lr) * f64::from(self.decay)) as f32,
            (f64::from(self.lr) / c1) as f32,
            libm::sqrt(c2) as f32,
            (1.0 - self.beta1) as f32,
            (1.0 - self.beta2) as f32,
            self.beta2 as f32,
            self.eps,
        ];
        row(numbers, self.key)
    }
}

/// One Adafactor update without a first moment (Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear
/// Memory Cost", 2018).
#[derive(Clone, Copy, Debug)]
pub struct Adafactor {
    /// Learning rate of this step; with `relative` a fraction of the size of a parameter's weights.
    pub lr: f32,
    /// The second moment decays by `1 - step^-0.8`, and at most by this.
    pub most: f64,
    /// Decoupled weight decay.
    pub decay: f32,
    /// Number of this update, from 1.
    pub step: u64,
    /// Decides all rounding of this update that has a choice.
    pub key: u64,
}

impl Adafactor {
    /// What `adafactor` reads: `keep, rate, second, second_keep, eps1, eps2, threshold`, the key.
    pub fn numbers(&self) -> [f32; NUMBERS] {
        let kept = (1.0 - libm::pow(self.step as f64, -0.8)).min(self.most);
        let keep = (1.0 - f64::from(self.lr) * f64::from(self.decay)) as f32;
        row([keep, self.lr, (1.0 - kept) as f32, kept as f32, 1e-30, 1e-3, 1.0], self.key)
    }
}

fn row(numbers: [f32; KEY], key: u64) -> [f32; NUMBERS] {
    let mut row = [0.0; NUMBERS];
    row[..KEY].copy_from_slice(&numbers);
    // 16 bits at a time: every part is a whole number that f32 holds.
    (0..4).for_each(|i| row[KEY + i] = f32::from((key >> (16 * i)) as u16));
    row
}

/// The f32 values that updates add up in, where the weights are less.
#[derive(Clone, Copy, Debug)]
pub enum Master {
    /// The f32 weights themselves.
    Weights,
    /// f32 beside 16-bit weights, which are these rounded: bf16 to nearest with ties away from zero, as [`split`]; f16 to
    /// nearest even.
    Plain(Tensor),
    /// u16 beside bf16 weights: what [`split`] leaves of the f32 value.
    Remainder(Tensor),
    /// None: updated bf16 weights are rounded [up or down](stochastic) by chance, right on average.
    Stochastic,
}

impl Master {
    /// Panics unless it goes with `weights`.
    fn check(self, weights: Tensor) {
        let dtype = weights.dtype();
        let (beside, fits) = match self {
            Self::Weights => (None, dtype == DType::F32),
            Self::Plain(x) => (Some(x), x.dtype() == DType::F32),
            Self::Remainder(x) => (Some(x), x.dtype() == DType::U16 && dtype == DType::BF16),
            Self::Stochastic => (None, dtype == DType::BF16),
        };
        assert!(fits, "{self:?} of {weights:?}");
        if let Some(x) = beside {
            assert!(
                (x.rows(), x.cols()) == (weights.rows(), weights.cols()) && x.is_dense(),
                "{x:?} of {weights:?}"
            );
        }
    }

    /// What lies beside the weights.
    pub fn beside(self) -> Option<Tensor> {
        match self {
            Self::Plain(x) | Self::Remainder(x) => Some(x),
            Self::Weights | Self::Stochastic => None,
        }
    }
}

/// Panics unless `clip` and `numbers` are what an update reads, and `grads` belong to `weights`.
fn check_update(weights: Tensor, grads: Tensor, clip: Tensor, numbers: Tensor) {
    let shape = |x: Tensor| (x.rows(), x.cols());
    assert!(shape(clip) == (1, 2) && clip.dtype() == DType::F32, "norm and factor: {clip:?}");
    assert!(shape(numbers) == (1, NUMBERS) && numbers.dtype() == DType::F32, "numbers: {numbers:?}");
    assert_eq!(shape(weights), shape(grads), "weights and gradients");
    assert!([DType::F32, weights.dtype()].contains(&grads.dtype()), "gradients {grads:?} of {weights:?}");
    assert!(weights.is_dense() && grads.is_dense(), "{weights:?} and {grads:?} are dense");
}

/// A range of parameters and their moments, for AdamW; all `[1, n]`.
#[derive(Clone, Copy, Debug)]
pub struct AdamState {
    /// The weights, in their storage dtype.
    pub weights: Tensor,
    /// Their f32 values.
    pub master: Master,
    /// First moments, f32, or bf16 rounded by chance.
    pub m: Tensor,
    /// Second moments, of the same dtype.
    pub v: Tensor,
    /// Index of the first element among all parameters, for [`random`].
    pub first: u64,
}

impl AdamState {
    /// Panics unless the arguments of an update fit each other.
    pub(crate) fn check(&self, grads: Tensor, clip: Tensor, numbers: Tensor) {
        check_update(self.weights, grads, clip, numbers);
        self.master.check(self.weights);
        assert_eq!(self.weights.rows(), 1, "a flat range: {:?}", self.weights);
        for x in [self.m, self.v] {
            assert_eq!((x.rows(), x.cols()), (1, self.weights.cols()), "moments");
            assert!(
                [DType::F32, DType::BF16].contains(&x.dtype()) && x.dtype() == self.m.dtype(),
                "moments {x:?}"
            );
        }
    }
}

/// Adafactor's second moments, f32.
#[derive(Clone, Copy, Debug)]
pub enum Second {
    /// Of a matrix `[n, m]`: means over each row's and each column's elements.
    Factored {
        /// `[1, n]`
        rows: Tensor,
        /// `[1, m]`
        cols: Tensor,
    },
    /// Of a vector `[1, m]`: every element's own.
    Full(Tensor),
}

/// A parameter and its second moments, for Adafactor.
#[derive(Clone, Copy, Debug)]
pub struct FactorState {
    /// The weights, dense `[n, m]`.
    pub weights: Tensor,
    /// Their f32 values, `[n, m]`.
    pub master: Master,
    /// Their second moments.
    pub second: Second,
    /// Index of the first element among all parameters, for [`random`].
    pub first: u64,
}

impl FactorState {
    /// Panics unless the arguments of an update fit each other.
    pub(crate) fn check(&self, grads: Tensor, clip: Tensor, numbers: Tensor, scratch: Tensor) {
        check_update(self.weights, grads, clip, numbers);
        self.master.check(self.weights);
        let (n, m) = (self.weights.rows(), self.weights.cols());
        let row = |x: Tensor, n: usize| {
            assert!((x.rows(), x.cols()) == (1, n) && x.dtype() == DType::F32, "moments {x:?} of [{n}]");
        };
        match self.second {
            Second::Factored { rows, cols } => {
                row(rows, n);
                row(cols, m);
            }
            Second::Full(v) => {
                assert_eq!(n, 1, "unfactored second moments are of vectors");
                row(v, m);
            }
        }
        assert!(scratch.len() >= factor_scratch(n, m), "scratch {scratch:?} for {:?}", self.weights);
    }
}

/// The optimizer.
pub trait Optim {
    /// `out [1, 2]` f32: the 2-norm of `unscale * grads`, and the factor to put on `grads`:
    /// `unscale * min(1, max_norm / (norm + 1e-6))`, as PyTorch's `clip_grad_norm_`; NaN where the norm is not finite.
    /// `grads [1, n]`, `unscale [1, 1]` f32. Two-stage f64 sum in fixed order. `scratch [1, clip_scratch(n)]` f32.
    fn clip(&self, out: Tensor, grads: Tensor, max_norm: f32, unscale: Tensor, scratch: Tensor);
    /// One AdamW step on `state` with `grads [1, n]` (f32 or the weights' dtype) times the factor `clip[1]`, in f32:
    /// `g = factor grads`; `m += first (g - m)`; `v = second g^2 + second_keep v`;
    /// `w = keep w - rate m / (sqrt(v) / root + eps)`. `numbers [1, NUMBERS]` is [`AdamW::numbers`]. Moments of 16 bits are
    /// rounded after their use. A factor that is not finite leaves everything as it was.
    fn adamw(&self, state: &AdamState, grads: Tensor, clip: Tensor, numbers: Tensor);
    /// One Adafactor step on `state` with `grads` (like the weights `[n, m]`, f32 or their dtype) times `clip[1]`, in f32:
    /// `g = factor grads`; `rows_i = second_keep rows_i + second (mean_j g_ij^2 + eps1)`, `cols` likewise over `i`;
    /// `u_ij = g_ij / sqrt(rows_i cols_j / mean(rows))`; `u /= max(1, rms(u) / threshold)`; `w = keep w - rate u`, with
    /// `relative`: `rate max(eps2, rms(weights before)) u`. A vector has `v = second_keep v + second (g^2 + eps1)` in place
    /// of the product. `numbers [1, NUMBERS]` is [`Adafactor::numbers`]. Sums in fixed order;
    /// `scratch [1, factor_scratch(n, m)]` f32. A factor that is not finite leaves everything as it was.
    fn adafactor(
        &self,
        state: &FactorState,
        grads: Tensor,
        clip: Tensor,
        numbers: Tensor,
        relative: bool,
        scratch: Tensor,
    );
}

/// Elements summed into one partial of the norm.
pub const CLIP_CHUNK: usize = 1 << 14;

/// f32 elements of scratch that `clip` wants for `n` gradients: an f64 partial a chunk.
pub const fn clip_scratch(n: usize) -> usize {
    2 * n.div_ceil(CLIP_CHUNK)
}

/// Rows and columns of the tiles whose sums Adafactor adds up.
pub const FACTOR_TILE: (usize, usize) = (128, 256);
/// f32 elements at the head of Adafactor's scratch: what its parts tell each other.
pub const FACTOR_HEAD: usize = 8;

/// f32 elements of scratch that `adafactor` wants for `[rows, cols]`: its head, then for every tile the sums of its rows, of
/// its columns, and two f64 sums over all.
pub const fn factor_scratch(rows: usize, cols: usize) -> usize {
    let (down, across) = (rows.div_ceil(FACTOR_TILE.0), cols.div_ceil(FACTOR_TILE.1));
    FACTOR_HEAD + rows * across + down * cols + 4 * down * across
}

/// The bf16 nearest to `x` (the one away from zero of two that are equally near) and the low 16 bits of `x`, as bits. Every
/// such weight stands for exactly 2^16 values, so [`join`] gets each back; with ties to even it would be 2^16 + 1 for the
/// even weights, which no 16 bits can tell apart. A NaN loses its payload.
#[inline(always)]
pub const fn split(x: f32) -> (u16, u16) {
    let bits = if x.is_nan() { NAN << 16 } else { x.to_bits() };
    ((bits.wrapping_add(0x8000) >> 16) as u16, bits as u16)
}

/// The value that [`split`] took apart: the remainder is its signed distance from the weight.
#[inline(always)]
pub const fn join(weight: u16, remainder: u16) -> f32 {
    f32::from_bits(((weight as u32) << 16).wrapping_add(remainder as i16 as u32))
}

/// `x` rounded to bf16 bits: away from zero with probability (low 16 bits) / 2^16 for uniform `chance`, so right on average.
#[inline(always)]
pub const fn stochastic(x: f32, chance: u16) -> u16 {
    let rounded = (x.to_bits().wrapping_add(chance as u32) >> 16) as u16;
    if x.is_nan() { NAN as u16 } else { rounded }
}

/// bf16's NaN.
const NAN: u32 = 0x7fc0;

/// Which of an element's three independent chances decides what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chance {
    /// The upper half of [`random`].
    Weight,
    /// Its lower half.
    First,
    /// The upper half of its image under [`mix`] after flipping the bits of 0x9e3779b9.
    Second,
}

impl Chance {
    /// Its 16 bits of the element whose [`random`] bits are given.
    #[inline(always)]
    pub const fn of(self, random: u32) -> u16 {
        match self {
            Self::Weight => (random >> 16) as u16,
            Self::First => random as u16,
            Self::Second => (mix(random ^ 0x9e37_79b9) >> 16) as u16,
        }
    }
}

/// 32 random bits for the parameter at `index`: two rounds of [`mix`], each with one half of key and index.
#[inline(always)]
pub const fn random(key: u64, index: u64) -> u32 {
    mix(mix(index as u32 ^ key as u32) ^ (index >> 32) as u32 ^ (key >> 32) as u32)
}

/// A permutation of the 32-bit numbers in which every bit depends on every other: shifts and odd multipliers, the constants
/// from C. Wellons' search for the least biased ("Prospecting for Hash Functions", 2018).
#[inline(always)]
pub const fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A spread over all bit patterns, and the neighbourhood of every tie and limit.
    fn patterns() -> impl Iterator<Item = u32> {
        let spread = (0..1u32 << 20).map(|i| i.wrapping_mul(0x9e37_79b1));
        let halves = [0, 1, 0x3f7f, 0x3f80, 0x3f81, 0x7f7e, 0x7f7f, 0x007f, 0x0080].map(|h| h << 16);
        let lows = [0, 1, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff];
        let edges = halves.into_iter().flat_map(move |h| lows.map(|l| h | l));
        spread.chain(edges.flat_map(|x| [x, x | 1 << 31])).chain([0x7f80_0000, 0xff80_0000])
    }

    #[test]
    fn split_and_join_are_exact_and_round_to_nearest() {
        for x in patterns().map(f32::from_bits).filter(|x| !x.is_nan()) {
            let (weight, remainder) = split(x);
            assert_eq!(join(weight, remainder).to_bits(), x.to_bits(), "{x:e}");
            let nearest_even = half::bf16::from_f32(x).to_bits();
            if x.to_bits() & 0xffff == 0x8000 {
                assert_eq!(weight, (x.to_bits() >> 16) as u16 + 1, "{x:e}: a tie goes away from zero");
            } else {
                assert_eq!(weight, nearest_even, "{x:e}");
            }
        }
        for weight in 0..=u16::MAX {
            let x = f32::from_bits(u32::from(weight) << 16);
            assert!(x.is_nan() || split(x) == (weight, 0), "{weight:#x} is itself");
        }
        for nan in [0x7fff_ffff, 0xffff_ffff, 0x7f80_0001].map(f32::from_bits) {
            let (weight, remainder) = split(nan);
            assert!(half::bf16::from_bits(weight).is_nan() && join(weight, remainder).is_nan());
            assert!(half::bf16::from_bits(stochastic(nan, 0xffff)).is_nan());
        }
    }

    #[test]
    fn rounding_by_chance_is_right_on_average() {
        const N: u64 = 1_000_000;
        for chance in [Chance::Weight, Chance::First, Chance::Second] {
            for (x, key) in [(1.003f32, 1u64), (-0.7731, u64::MAX), (3.1e-5, 0x1234_5678_9abc_def0)] {
                let step = 2f64.powi(f64::from(x.abs()).log2().floor() as i32 - 7);
                // Indices across the 2^32 border: both halves count.
                let start = u64::from(u32::MAX) - N / 2;
                let error = |i| {
                    let rounded = stochastic(x, chance.of(random(key, i)));
                    let error = half::bf16::from_bits(rounded).to_f64() - f64::from(x);
                    assert!(error.abs() < step);
                    error
                };
                let mean = (start..start + N).map(error).sum::<f64>() / N as f64;
                // Five deviations of the mean of a million draws, each at most half a step.
                assert!(mean.abs() < 5.0 * 0.5 * step / (N as f64).sqrt(), "{chance:?} {x}: {mean:e}");
            }
        }
        assert_eq!(stochastic(f32::INFINITY, 0xffff), 0x7f80);
        assert_eq!((stochastic(1.0, 0xffff), stochastic(-1.0, 0xffff)), (0x3f80, 0xbf80));
    }

    #[test]
    fn random_bits_depend_on_all_of_key_and_index() {
        let bit = |from: u32, to: u32| (from ^ to).count_ones();
        let mut flips = 0;
        const N: u64 = 4000;
        for i in 0..N {
            let (key, index) =
                (i.wrapping_mul(0x9e37_79b9_7f4a_7c15), i.wrapping_mul(0xd134_2543_de82_ef95) >> 20);
            let here = random(key, index);
            flips +=
                bit(here, random(key ^ 1 << (i % 64), index)) + bit(here, random(key, index ^ 1 << (i % 44)));
        }
        let mean = f64::from(flips) / (2 * N) as f64;
        assert!((mean - 16.0).abs() < 0.2, "{mean} of 32 bits change with one bit of the input");
        // Known answers: what the kernels compute too.
        assert_eq!((mix(1), random(0x1234_5678_9abc_def0, 0x1_0000_0007)), (0x6889_90c0, 0xe54f_7ea7));
    }

    #[test]
    fn numbers_of_an_update() {
        let how = AdamW {
            lr: 0.5,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            decay: 0.1,
            step: 1,
            key: 0x0004_0003_0002_ffff,
        };
        let x = how.numbers();
        assert_eq!(x[..KEY], [0.95, 5.0, 0.001f64.sqrt() as f32, 0.1, 0.001, 0.999, 1e-8]);
        assert_eq!(x[KEY..KEY + 4], [65_535.0, 2.0, 3.0, 4.0]);
        let how = |step| Adafactor { lr: 0.5, most: 0.99, decay: 0.0, step, key: 0 }.numbers();
        assert_eq!(how(1)[..KEY], [1.0, 0.5, 1.0, 0.0, 1e-30, 1e-3, 1.0]);
        assert_eq!(how(1_000_000)[2..4], [0.01, 0.99]);
    }
}
