//! What the instructions do, written down plainly: number formats, fragments, layouts.

use half::{bf16, f16};

/// The 16-bit float formats of the tensor cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Bf16,
    F16,
}

impl Half {
    pub(crate) const BOTH: [Self; 2] = [Self::Bf16, Self::F16];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Bits of the nearest value, ties to even; any NaN is 0x7fff.
    pub(crate) fn bits(self, x: f32) -> u16 {
        match self {
            _ if x.is_nan() => 0x7fff,
            Self::Bf16 => bf16::from_f32(x).to_bits(),
            Self::F16 => f16::from_f32(x).to_bits(),
        }
    }

    pub(crate) fn value(self, bits: u16) -> f32 {
        match self {
            Self::Bf16 => bf16::from_bits(bits).to_f32(),
            Self::F16 => f16::from_bits(bits).to_f32(),
        }
    }
}

/// Uniform 32-bit numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = (self.0 >> 32) as u32 ^ (self.0 >> 13) as u32;
        x.wrapping_mul(0x9e37_79b1) ^ x >> 15
    }

    pub(crate) fn words(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.word()).collect()
    }

    /// Between -1 and 1.
    pub(crate) fn signed(&mut self) -> f32 {
        self.word() as f32 / 2f32.powi(31) - 1.0
    }

    /// A whole number from -8 to 8.
    pub(crate) fn whole(&mut self) -> f32 {
        (self.word() % 17) as f32 - 8.0
    }
}

/// `d [m, n] = a [m, k] . b [k, n] + d`, in f64.
pub(crate) fn product(d: &mut [f64], a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) {
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let sum: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum();
        d[i * n + j] += sum;
    }
}

/// Where element (row, column) of a 16 x 8 (or 64 x 8: one warp after the other) accumulator lies: lane and register.
pub(crate) fn accumulator(row: usize, column: usize) -> (usize, usize) {
    (row % 8 * 4 + column / 2, row % 16 / 8 * 2 + column % 2)
}

/// Where element (row, column) of the 16 x 16 operand `a` of an mma lies: lane, register, half.
pub(crate) fn operand_a(row: usize, column: usize) -> (usize, usize, usize) {
    (row % 8 * 4 + column % 8 / 2, row / 8 + column / 8 * 2, column % 2)
}

/// Where element (row, column) of the 16 x 8 operand `b` of an mma lies: lane, register, half.
pub(crate) fn operand_b(row: usize, column: usize) -> (usize, usize, usize) {
    (column * 4 + row % 8 / 2, row / 8, row % 2)
}

/// Halves of a 32-bit word, the lower first.
pub(crate) fn halves(words: &[u32]) -> Vec<u16> {
    words.iter().flat_map(|&w| [w as u16, (w >> 16) as u16]).collect()
}

/// Words of pairs of halves, the lower first.
pub(crate) fn words(halves: &[u16]) -> Vec<u32> {
    halves.chunks_exact(2).map(|h| u32::from(h[0]) | u32::from(h[1]) << 16).collect()
}
