//! How sure a mean or a difference of means is.
//!
//! Random numbers are counter-based: the draw at a place is a function of (seed, place), so a result does not depend
//! on how the work is split, and 1,000 resamples begin with the 100 of the same seed. `None` means that there is
//! nothing to compute from: no values, lists of different lengths, or a number that is not finite.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) by index.
#[derive(Clone, Copy, Debug)]
struct Draws(u64);

impl Draws {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

    fn mix(mut z: u64) -> u64 {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Mixed, so that neighbouring seeds do not share a sequence.
    fn new(seed: u64) -> Self {
        Self(Self::mix(seed.wrapping_add(Self::STEP)))
    }

    fn bits(self, index: u64) -> u64 {
        Self::mix(self.0.wrapping_add(index.wrapping_add(1).wrapping_mul(Self::STEP)))
    }

    /// Uniform in 0..n (multiply-shift; bias below n / 2^64).
    fn below(self, index: u64, n: usize) -> usize {
        ((u128::from(self.bits(index)) * n as u128) >> 64) as usize
    }
}

/// A mean and its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Sample standard deviation (n - 1); none for a single value.
    pub stddev: Option<f64>,
    /// Standard error of the mean: the deviation over sqrt n.
    pub stderr: Option<f64>,
    /// How many values.
    pub of: usize,
}

impl Mean {
    /// The mean of `values`.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let value = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - value) * (v - value)).sum();
        let stddev = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        let stderr = stddev.map(|s| s / n.sqrt());
        value.is_finite().then_some(Self { value, stddev, stderr, of: values.len() })
    }
}

/// What a statistic does under resampling of its examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Mean over the resamples.
    pub mean: f64,
    /// Standard error: the sample standard deviation over the resamples; 0 for a single one.
    pub stderr: f64,
    /// The 2.5th percentile, between two values in proportion.
    pub low: f64,
    /// The 97.5th percentile.
    pub high: f64,
}

/// The percentile at `share` of sorted values, at least one: between two values in proportion.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Resamples `n` examples with replacement, `resamples` times, and asks `statistic` about each list of their indices
/// (Efron, "Bootstrap methods", Annals of Statistics 7, 1979). For BLEU:
/// `|rows| rows.iter().map(|&i| counts[i]).sum::<Counts>().bleu().score`.
pub fn bootstrap(
    n: usize,
    resamples: usize,
    seed: u64,
    statistic: impl Fn(&[usize]) -> f64,
) -> Option<Bootstrap> {
    if n == 0 {
        return None;
    }
    let draws = Draws::new(seed);
    let mut rows = vec![0; n];
    let mut values = Vec::with_capacity(resamples);
    for r in 0..resamples {
        for (i, row) in rows.iter_mut().enumerate() {
            *row = draws.below((r * n + i) as u64, n);
        }
        values.push(statistic(&rows));
    }
    let mean = Mean::of(&values)?;
    values.sort_by(f64::total_cmp);
    Some(Bootstrap {
        mean: mean.value,
        stderr: mean.stddev.unwrap_or(0.0),
        low: percentile(&values, 0.025),
        high: percentile(&values, 0.975),
    })
}

/// [`bootstrap`] of the mean.
pub fn bootstrap_mean(values: &[f64], resamples: usize, seed: u64) -> Option<Bootstrap> {
    let n = values.len() as f64;
    bootstrap(values.len(), resamples, seed, |rows| rows.iter().map(|&i| values[i]).sum::<f64>() / n)
}

/// Two systems on the same questions, where they disagree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct McNemar {
    /// Questions that only the first has right.
    pub only_a: usize,
    /// Questions that only the second has right.
    pub only_b: usize,
    /// Two-sided exact probability of disagreeing this unevenly if both were equally good.
    pub p: f64,
}

/// McNemar's test (Psychometrika 12, 1947) in its exact form: the smaller of both counts is binomial with chance 1/2.
pub fn mcnemar(a: &[bool], b: &[bool]) -> Option<McNemar> {
    if a.len() != b.len() {
        return None;
    }
    let only = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| **a && !**b).count();
    let (only_a, only_b) = (only(a, b), only(b, a));
    let (k, n) = (only_a.min(only_b), only_a + only_b);
    // C(n, k) / 2^n, halved whenever it passes 1, so that neither factor overflows.
    let (mut term, mut halvings) = (1.0, n);
    for i in 1..=k {
        term *= (n - k + i) as f64 / i as f64;
        while term > 1.0 && halvings > 0 {
            (term, halvings) = (term * 0.5, halvings - 1);
        }
    }
    term *= 0.5_f64.powi(i32::try_from(halvings).unwrap_or(i32::MAX));
    let mut tail = 0.0;
    for i in (0..=k).rev() {
        tail += term;
        term *= i as f64 / (n - i + 1) as f64;
    }
    Some(McNemar { only_a, only_b, p: (2.0 * tail).min(1.0) })
}

/// The differences a - b and their mean.
fn differences(a: &[f64], b: &[f64]) -> Option<(Vec<f64>, Mean)> {
    if a.len() != b.len() {
        return None;
    }
    let d: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let mean = Mean::of(&d)?;
    Some((d, mean))
}

/// A paired comparison of real values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// Mean of a - b.
    pub mean: f64,
    /// Standard error of that mean; 0 for a single pair.
    pub stderr: f64,
    /// Two-sided probability of a mean at least this far from 0 if neither were better.
    pub p: f64,
}

/// Student's paired t-test (Biometrika 6, 1908), of at least two pairs. If all differences are equal, p is 1 for 0
/// and 0 otherwise.
pub fn paired_t(a: &[f64], b: &[f64]) -> Option<Paired> {
    let (d, mean) = differences(a, b)?;
    let stderr = mean.stderr?;
    let p = if d.iter().all(|x| x == &d[0]) {
        f64::from(u8::from(d[0] == 0.0))
    } else {
        let (df, t2) = ((d.len() - 1) as f64, (mean.value / stderr).powi(2));
        beta_share(df / 2.0, 0.5, df / (df + t2), t2 / (df + t2))
    };
    Some(Paired { mean: mean.value, stderr, p })
}

/// The regularised incomplete beta function I_x(a, b), `y` being 1 - x: the continued fraction of DLMF 8.17.22 by
/// Lentz's method, on the side where it is quick. P(|T| >= t) of Student's T is I of x = df / (df + t^2), a = df / 2,
/// b = 1/2.
fn beta_share(a: f64, b: f64, x: f64, y: f64) -> f64 {
    if x <= 0.0 || y <= 0.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta_share(b, a, y, x);
    }
    let not_zero = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let (mut c, mut d) = (1.0, 1.0 / not_zero(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = fraction;
        for step in [even, odd] {
            d = 1.0 / not_zero(1.0 + step * d);
            c = not_zero(1.0 + step / c);
            fraction *= c * d;
        }
        if (fraction - before).abs() <= 1e-16 * fraction.abs() {
            break;
        }
    }
    let log_front =
        libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * libm::log(x) + b * libm::log(y);
    (libm::exp(log_front) * fraction / a).clamp(0.0, 1.0)
}

/// Fisher's sign-flip permutation test (The design of experiments, 1935, section 21): how often the mean is at least
/// as far from 0 when each difference has its sign drawn. All sign patterns are tried if there are at most `flips` of
/// them; else `flips` are drawn and the observed one is counted in, (1 + hits) / (1 + flips), so that p is never 0.
pub fn sign_flip(a: &[f64], b: &[f64], flips: usize, seed: u64) -> Option<Paired> {
    let (d, mean) = differences(a, b)?;
    // A difference of 0 has no sign. In units of the largest, sums cannot overflow.
    let largest = d.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    let d: Vec<f64> = d.iter().filter(|x| **x != 0.0).map(|x| x / largest).collect();
    let observed = d.iter().sum::<f64>().abs();
    // Equal sums of other signs round differently.
    let least = observed - 1e-12 * d.len() as f64;
    let reaches = |negative: &dyn Fn(usize) -> bool| {
        let sum: f64 = d.iter().enumerate().map(|(i, &x)| if negative(i) { -x } else { x }).sum();
        sum.abs() >= least
    };
    let patterns = u32::try_from(d.len()).ok().and_then(|n| 1_usize.checked_shl(n));
    let p = match patterns.filter(|&n| n <= flips) {
        Some(n) => (0..n).filter(|pattern| reaches(&|i| pattern >> i & 1 == 1)).count() as f64 / n as f64,
        None => {
            let draws = Draws::new(seed);
            let negative = |flip: usize, i: usize| draws.bits((flip * d.len() + i) as u64) >> 63 == 1;
            let hits = (0..flips).filter(|&flip| reaches(&|i| negative(flip, i))).count();
            (1 + hits) as f64 / (1 + flips) as f64
        }
    };
    Some(Paired { mean: mean.value, stderr: mean.stderr.unwrap_or(0.0), p })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Known answers of Vigna's splitmix64.c from state 1234567.
    #[test]
    fn known_answers() {
        let d = Draws(1234567);
        assert_eq!(
            [d.bits(0), d.bits(1), d.bits(2)],
            [6457827717110365317, 3203168211198807973, 9817491932198370423]
        );
    }

    #[test]
    fn nothing_from_nothing() {
        assert_eq!(Mean::of(&[]), None);
        assert_eq!(Mean::of(&[1.0, f64::NAN]), None);
        assert_eq!(Mean::of(&[3.0]).map(|m| (m.value, m.stderr)), Some((3.0, None)));
        assert_eq!(bootstrap_mean(&[], 10, 1), None);
        assert_eq!(bootstrap_mean(&[1.0], 0, 1), None);
        assert_eq!(mcnemar(&[true], &[]), None);
        assert_eq!(mcnemar(&[], &[]).map(|m| m.p), Some(1.0));
        assert_eq!(paired_t(&[1.0], &[2.0]), None);
        assert_eq!(sign_flip(&[], &[], 10, 1), None);
    }

    #[test]
    fn equal_differences() {
        assert_eq!(paired_t(&[1.0, 2.0], &[1.0, 2.0]).map(|t| t.p), Some(1.0));
        assert_eq!(paired_t(&[1.0, 2.0], &[0.0, 1.0]).map(|t| t.p), Some(0.0));
        assert_eq!(sign_flip(&[1.0, 2.0], &[1.0, 2.0], 0, 1).map(|t| t.p), Some(1.0));
        assert_eq!(sign_flip(&[1.0, 2.0], &[0.0, 1.0], 4, 1).map(|t| t.p), Some(0.5));
        // 2^-4999 is below the smallest f64.
        let (a, b) = (vec![true; 5000], vec![false; 5000]);
        assert_eq!(mcnemar(&a, &b).map(|m| (m.only_a, m.p)), Some((5000, 0.0)));
    }
}
