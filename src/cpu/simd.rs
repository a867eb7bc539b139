//! Vector code without intrinsics: plain loops compiled once for each vector width, chosen at run time.
//!
//! Rust never contracts or reorders float operations, and every multiply-add here is an explicit `mul_add`, so the
//! AVX-512, AVX2, NEON and scalar versions of a function return the same bits. (An x86-64 without FMA, before 2013, gets
//! those bits too, slowly.) The exponential is our own for the same reason.
//!
//! `FLANRT_SIMD=avx512|avx2|plain` in the environment, read once, lowers the level: for tests of that law and for measuring
//! what a width brings. A level that the machine lacks is never used.

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Vector width, narrow to wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// What the target guarantees.
    Base,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

/// The widest level that the environment allows.
pub(super) fn allowed() -> Result<Level> {
    match std::env::var_os("FLANRT_SIMD") {
        None => Ok(Level::Avx512),
        Some(value) => match value.to_str() {
            Some("avx512") => Ok(Level::Avx512),
            Some("avx2") => Ok(Level::Avx2),
            Some("plain") => Ok(Level::Base),
            _ => Err(Error::usage(format!("FLANRT_SIMD is {value:?}, expected avx512, avx2 or plain"))
                .fix("unset FLANRT_SIMD: the widest vectors of the machine are the default")),
        },
    }
}

/// The level in use: the machine's, or less where the environment says so. (A value that is none of the three is reported
/// by `Cpu::new`.)
#[inline(always)]
pub(super) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        use std::sync::atomic::{AtomicU8, Ordering};
        static FOUND: AtomicU8 = AtomicU8::new(0);
        match FOUND.load(Ordering::Relaxed) {
            3 => return Level::Avx512,
            2 => return Level::Avx2,
            1 => return Level::Base,
            _ => {}
        }
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi2");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let found = match (avx512, avx2) {
            (true, _) => Level::Avx512,
            (_, true) => Level::Avx2,
            _ => Level::Base,
        };
        let level = found.min(allowed().unwrap_or(Level::Avx512));
        FOUND.store(level as u8 + 1, Ordering::Relaxed);
        level
    }
    #[cfg(not(target_arch = "x86_64"))]
    Level::Base
}

/// Defines a function whose body is compiled for each [`Level`]; what it calls must be `#[inline(always)]`.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { plain($($arg),*) }
                #[target_feature(enable = "avx2,fma,f16c,bmi2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { plain($($arg),*) }
                match $crate::cpu::simd::level() {
                    // SAFETY: the level says that this machine has these features.
                    $crate::cpu::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::cpu::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::cpu::simd::Level::Base => {}
                }
            }
            plain($($arg),*)
        }
    };
}
pub(super) use vectorized;

/// Lanes of every reduction, whatever the vector width.
pub(super) const LANES: usize = 16;

/// `e^x`, at most 1.2 ulp off (tested over the whole range); 0 below -87.33, and for -inf.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = r.mul_add(p, 1.398_2e-3);
    p = r.mul_add(p, 8.333_452e-3);
    p = r.mul_add(p, 4.166_579_6e-2);
    p = r.mul_add(p, 1.666_666_5e-1);
    p = r.mul_add(p, 0.5);
    let y = (r * r).mul_add(p, r) + 1.0;
    // 2^n in two factors: n = 128 alone would overflow the exponent field.
    // The integer from the bits: a checked conversion is not a vector instruction.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let rest = n - half;
    let two = |e: i32| f32::from_bits(((e + 127) << 23) as u32);
    let y = y * two(half.clamp(-126, 127)) * two(rest.clamp(-126, 127));
    if x < -87.336_54 { 0.0 } else { y }
}

/// The bits of `x` in bf16, rounded to nearest even; NaN stays NaN.
#[inline(always)]
pub(super) fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { (bits >> 16) as u16 | 0x40 } else { rounded }
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `2 sqrt(2 / pi)`.
const TWICE_ROOT: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

/// `x / 2 (1 + tanh(u))` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, which is `x / (1 + e^(-2 u))`.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    // `exp` of 89 is infinite, of infinity it is not.
    x / (1.0 + exp((-TWICE_ROOT * x * (x * x).mul_add(CUBIC, 1.0)).min(89.0)))
}

/// The derivative of `gelu`, `s + x s (1 - s) 2 du/dx` with `s = 1 / (1 + e^(-2 u))`.
#[inline(always)]
pub(super) fn gelu_slope(x: f32) -> f32 {
    // Beyond 10 it is 0 or 1 in f32; within, the exponential and its products are finite.
    let x = x.clamp(-10.0, 10.0);
    let square = x * x;
    let e = exp(-TWICE_ROOT * x * square.mul_add(CUBIC, 1.0));
    let s = 1.0 / (1.0 + e);
    (x * s * (e * s)).mul_add(TWICE_ROOT * square.mul_add(3.0 * CUBIC, 1.0), s)
}

vectorized! {
    /// `x = silu(x)`.
    pub(super) fn silu_all(x: &mut [f32]) {
        for x in x {
            *x = silu(*x);
        }
    }
}

vectorized! {
    /// `x = gelu(x)`.
    pub(super) fn gelu_all(x: &mut [f32]) {
        for x in x {
            *x = gelu(*x);
        }
    }
}

/// Calls columns (first and count) of `rows` rows of `x` into the cache, as far as there are such rows and a way to ask.
#[inline]
pub(super) fn prefetch_rows(x: Tensor, row: usize, rows: usize, (col, cols): (usize, usize)) {
    #[cfg(target_arch = "x86_64")]
    for r in row..(row + rows).min(x.rows()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let from = x.addr() + (r * x.stride() + col) * x.dtype().size();
        for line in (from..from + cols * x.dtype().size()).step_by(64) {
            // SAFETY: a hint, of memory that is there.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line as *const i8) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, row, rows, col, cols);
}

/// The lanes put together, pairwise.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum over the elements of slices of one length: lane `i % 16` takes `term(x_i, sum)` in ascending order, then the lanes
/// are folded. Whole chunks are arrays, without bounds to check: a check in the inner loop would keep it scalar.
#[inline(always)]
pub(super) fn reduce<const N: usize>(x: [&[f32]; N], term: impl Fn([f32; N], f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let n = x[0].len();
    let whole = n / LANES;
    for i in 0..whole {
        let chunk: [&[f32; LANES]; N] = x.map(|x| &x.as_chunks().0[i]);
        for j in 0..LANES {
            lanes[j] = term(chunk.map(|x| x[j]), lanes[j]);
        }
    }
    for (j, i) in (whole * LANES..n).enumerate() {
        lanes[j] = term(x.map(|x| x[i]), lanes[j]);
    }
    fold(lanes, |a, b| a + b)
}

vectorized! {
    /// `sum a_i b_i`.
    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
        reduce([a, b], |[a, b], s| a.mul_add(b, s))
    }
}

vectorized! {
    /// `y += x`.
    pub(super) fn add(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x;
        }
    }
}

vectorized! {
    /// `y *= s`.
    pub(super) fn scale(y: &mut [f32], s: f32) {
        for y in y {
            *y *= s;
        }
    }
}

/// The largest of the elements and `least`. NaN elements are passed over.
#[inline(always)]
pub(super) fn max_of(x: &[f32], least: f32) -> f32 {
    let mut lanes = [least; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for c in chunks {
        for j in 0..LANES {
            lanes[j] = if c[j] > lanes[j] { c[j] } else { lanes[j] };
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = if x > lane { *x } else { *lane };
    }
    fold(lanes, |a, b| if b > a { b } else { a })
}

vectorized! {
    /// The largest element; -inf for none. NaN elements are passed over.
    pub(super) fn max(x: &[f32]) -> f32 {
        max_of(x, f32::NEG_INFINITY)
    }
}

vectorized! {
    /// `x = exp(x - shift)` in place and the sum of the results (f32 lanes, f64 over blocks of 1024).
    pub(super) fn exp_sum(x: &mut [f32], shift: f32) -> f64 {
        let mut total = 0f64;
        for block in x.chunks_mut(1024) {
            for x in block.iter_mut() {
                *x = exp(*x - shift);
            }
            total += f64::from(reduce([block], |[x], s| s + x));
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    vectorized! {
        fn exp_all(x: &mut [f32]) {
            for x in x {
                *x = exp(*x);
            }
        }
    }

    #[test]
    fn exp_is_close_to_f64_everywhere() {
        let mut worst = 0f64;
        let (lo, hi) = (-87.3f32, 88.7f32);
        let xs: Vec<f32> = (0..2_000_000).map(|i| lo + (hi - lo) * i as f32 / 2e6).collect();
        let mut ys = xs.clone();
        exp_all(&mut ys);
        for (x, y) in xs.iter().zip(&ys) {
            let want = f64::from(*x).exp();
            let ulp = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
            worst = worst.max((f64::from(*y) - want).abs() / ulp);
        }
        assert!(worst < 1.2, "worst error {worst} ulp");
        assert_eq!((exp(f32::NEG_INFINITY), exp(-200.0), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(89.0).is_infinite() && exp(f32::NAN).is_nan());
    }

    #[test]
    fn every_width_gives_the_same_bits() {
        let xs: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin() * 20.0).collect();
        let mut wide = xs.clone();
        exp_all(&mut wide);
        assert!(xs.iter().zip(&wide).all(|(x, y)| exp(*x).to_bits() == y.to_bits()));
        let plain = reduce([&xs, &wide], |[a, b], s| a.mul_add(b, s));
        assert_eq!(dot(&xs, &wide).to_bits(), plain.to_bits());
    }
}
