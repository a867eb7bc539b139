//! Counter-based random numbers: every draw is a pure function of (seed, stream, index).
//!
//! Nothing is carried from draw to draw, so data order, initial weights and sampling can be continued from any point
//! and never depend on threads. Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// One Philox4x32-10 block: 128 counter bits and 64 key bits to 128 random bits.
pub fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
        }
        let p0 = u64::from(M0) * u64::from(c[0]);
        let p1 = u64::from(M1) * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
    }
    c
}

/// A source of draws for one purpose: `seed` is the user's, `stream` tells the purposes apart.
#[derive(Clone, Copy, Debug)]
pub struct Rng {
    key: [u32; 2],
    stream: u64,
}

impl Rng {
    /// The generator of (`seed`, `stream`).
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream }
    }

    fn block(&self, index: u64) -> [u32; 4] {
        philox([index as u32, (index >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32], self.key)
    }

    /// The 64 random bits at `index`.
    pub fn bits(&self, index: u64) -> u64 {
        let b = self.block(index);
        u64::from(b[0]) | u64::from(b[1]) << 32
    }

    /// The draw at `index`, uniform in [0, 1) with 53 bits.
    pub fn uniform(&self, index: u64) -> f64 {
        (self.bits(index) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The draw at `index`, uniform in 0..n (multiply-shift; bias below n / 2^64). `n` must not be 0.
    pub fn below(&self, index: u64, n: u64) -> u64 {
        assert!(n > 0, "a draw from an empty range");
        ((u128::from(self.bits(index)) * u128::from(n)) >> 64) as u64
    }

    /// The draw at `index` from the standard normal distribution (Box-Muller).
    pub fn normal(&self, index: u64) -> f64 {
        let b = self.block(index);
        let u = (f64::from(b[0]) + 1.0) / 4_294_967_296.0; // in (0, 1]: its logarithm is finite
        let v = (f64::from(b[1]) + f64::from(b[2]) / 4_294_967_296.0) / 4_294_967_296.0;
        libm::sqrt(-2.0 * libm::log(u)) * libm::cos(2.0 * std::f64::consts::PI * v)
    }

    /// A permutation of 0..n: the indices ordered by their random bits.
    pub fn permutation(&self, n: usize) -> Vec<u32> {
        let mut keyed: Vec<(u64, u32)> = (0..n as u32).map(|i| (self.bits(u64::from(i)), i)).collect();
        keyed.sort_unstable();
        keyed.into_iter().map(|(_, i)| i).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Known answers published with the authors' Random123 library (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn moments() {
        let r = Rng::new(7, 1);
        let n = 100_000;
        let (mut s, mut q, mut u) = (0.0, 0.0, 0.0);
        for i in 0..n {
            let x = r.normal(i);
            s += x;
            q += x * x;
            u += r.uniform(i);
        }
        let n = n as f64;
        assert!((s / n).abs() < 0.015 && (q / n - 1.0).abs() < 0.02 && (u / n - 0.5).abs() < 0.005);
    }

    #[test]
    fn permutations_are_permutations_and_differ() {
        let mut a = Rng::new(1, 0).permutation(1000);
        let b = Rng::new(1, 1).permutation(1000);
        assert_ne!(a, b);
        assert_eq!(a, Rng::new(1, 0).permutation(1000));
        a.sort_unstable();
        assert!(a.iter().enumerate().all(|(i, &x)| i as u32 == x));
    }
}
