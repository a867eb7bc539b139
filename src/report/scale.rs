//! Axes: values to places, the ticks between, and which of thousands of points can be seen.

/// Places of values on an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) log: bool,
    /// Where `low` and `high` are drawn.
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Span {
    /// Linear, over `values` and what is fixed; widened to whole ticks where nothing is.
    pub(super) fn linear(fixed: Option<(f64, f64)>, values: impl Iterator<Item = f64>, ticks: usize) -> Self {
        let unit = Self { low: 0.0, high: 1.0, log: false, from: 0.0, to: 1.0 };
        if let Some((a, b)) = fixed.filter(|(a, b)| sane(*a) && sane(*b) && a != b) {
            return Self { low: a.min(b), high: a.max(b), ..unit };
        }
        let Some((mut low, mut high)) = extent(values) else { return unit };
        if low == high {
            let margin = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            (low, high) = if low == 0.0 { (0.0, 1.0) } else { (low - margin, high + margin) };
        }
        let step = step(high - low, ticks);
        Self { low: (low / step + 1e-9).floor() * step, high: (high / step - 1e-9).ceil() * step, ..unit }
    }

    /// Logarithmic, over the positive values with a little room on both sides.
    pub(super) fn log(fixed: Option<(f64, f64)>, values: impl Iterator<Item = f64>) -> Self {
        let unit = Self { low: 1.0, high: 10.0, log: true, from: 0.0, to: 1.0 };
        if let Some((a, b)) = fixed.filter(|(a, b)| sane(*a) && sane(*b) && a != b && *a > TINY && *b > TINY)
        {
            return Self { low: a.min(b), high: a.max(b), ..unit };
        }
        let Some((low, high)) = extent(values.filter(|v| *v > TINY)) else { return unit };
        let room = 10f64.powf((high.log10() - low.log10()) * 0.04).max(1.05);
        Self { low: low / room, high: high * room, ..unit }
    }

    pub(super) fn drawn(self, from: f64, to: f64) -> Self {
        Self { from, to, ..self }
    }

    /// Where `value` is; at the nearer end if it is outside.
    pub(super) fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * self.share(value).clamp(0.0, 1.0)
    }

    /// Where `value` is, outside too, if not too far.
    pub(super) fn beyond(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * self.share(value).clamp(-20.0, 21.0)
    }

    fn share(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(TINY).log10() - self.low.log10()) / (self.high.log10() - self.low.log10())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        if share.is_nan() { 0.0 } else { share }
    }

    pub(super) fn holds(&self, value: f64) -> bool {
        let slack = if self.log { 0.0 } else { (self.high - self.low) * 1e-9 };
        value.is_finite() && value >= self.low - slack && value <= self.high + slack
    }

    /// About `n` round values, and how far apart they are.
    pub(super) fn ticks(&self, n: usize) -> (Vec<f64>, f64) {
        if self.log {
            return (self.log_ticks(n), 0.0);
        }
        let step = step(self.high - self.low, n);
        let first = (self.low / step - 1e-9).ceil();
        let ticks = (0..60).map(|i| (first + f64::from(i)) * step).take_while(|t| self.holds(*t));
        (ticks.collect(), step)
    }

    /// Powers of ten, with 2 and 5 (or 3) between them while those fit.
    fn log_ticks(&self, n: usize) -> Vec<f64> {
        let decades = (self.low.log10().floor() as i32)..=(self.high.log10().ceil() as i32);
        let all = |factors: &[f64], every: i32| -> Vec<f64> {
            let powers = decades.clone().filter(|d| d.rem_euclid(every) == 0);
            let values = powers.flat_map(|d| factors.iter().map(move |f| f * 10f64.powi(d)));
            values.filter(|v| self.holds(*v)).collect()
        };
        let sets =
            [all(&[1.0, 2.0, 5.0], 1), all(&[1.0, 3.0], 1), all(&[1.0], 1), all(&[1.0], 2), all(&[1.0], 5)];
        sets.into_iter().find(|t| t.len() <= n.max(2)).unwrap_or_else(|| all(&[1.0], 50))
    }
}

/// What is less has no logarithm that matters, and a ratio to the largest that is a number.
const TINY: f64 = 1e-150;

/// What can be added and subtracted without leaving the numbers.
fn sane(value: f64) -> bool {
    value.is_finite() && value.abs() < 1e150
}

/// The smallest and the largest.
pub(super) fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| sane(*v)).fold(None, |e, v| match e {
        None => Some((v, v)),
        Some((low, high)) => Some((v.min(low), v.max(high))),
    })
}

/// A round step that cuts `length` into at most `n` parts or a few more.
fn step(length: f64, n: usize) -> f64 {
    let raw = (length / n.max(1) as f64).max(f64::MIN_POSITIVE * 1e10);
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|f| f * power).find(|s| *s >= raw * 0.999).unwrap_or(10.0 * power)
}

/// Which of `points` are seen when they share `columns`: of each column the first, the lowest, the highest and the last, so that
/// no extreme is lost. Gaps are left out; all are kept where they are few.
pub(super) fn thin(points: &[(f64, f64)], columns: usize) -> Vec<usize> {
    let seen: Vec<usize> =
        (0..points.len()).filter(|&i| points[i].0.is_finite() && points[i].1.is_finite()).collect();
    let Some((low, high)) = extent(seen.iter().map(|&i| points[i].0)) else { return seen };
    if seen.len() <= columns * 2 || low == high {
        return seen;
    }
    let column = |i: usize| ((points[i].0 - low) / (high - low) * columns as f64) as usize;
    let mut kept = Vec::new();
    for run in seen.chunk_by(|&a, &b| column(a) == column(b)) {
        let by = |a: &&usize, b: &&usize| points[**a].1.total_cmp(&points[**b].1);
        let mut ends =
            [run.first(), run.iter().min_by(by), run.iter().max_by(by), run.last()].map(|i| i.copied());
        ends.sort_unstable();
        kept.extend(ends.into_iter().flatten());
    }
    kept.dedup();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_hold_their_values_and_end_at_ticks() {
        let s = Span::linear(None, [0.0, 0.63].into_iter(), 5);
        assert!(s.low == 0.0 && (s.high - 0.8).abs() < 1e-9, "{s:?}");
        assert_eq!(s.ticks(5).0.len(), 5);
        for odd in [
            vec![],
            vec![f64::NAN],
            vec![5.0],
            vec![0.0],
            vec![-1e308, 1e308],
            vec![f64::INFINITY, -3.0],
            vec![5e-324, 0.5, 1e200, 1e149],
        ] {
            for s in [Span::linear(None, odd.iter().copied(), 5), Span::log(None, odd.iter().copied())] {
                let s = s.drawn(0.0, 100.0);
                assert!(s.low < s.high, "{odd:?} {s:?}");
                assert!(s.ticks(5).0.len() < 60);
                assert!((0.0..=100.0).contains(&s.at(3.0)), "{odd:?} {s:?}");
            }
        }
    }

    #[test]
    fn log_ticks_are_round_and_few() {
        let s = Span::log(None, [1e5, 8e6].into_iter());
        assert_eq!(s.ticks(6).0, [1e5, 2e5, 5e5, 1e6, 2e6, 5e6]);
        assert!(Span::log(None, [1e-30, 1e30].into_iter()).ticks(6).0.len() <= 6);
    }

    #[test]
    fn thinning_keeps_extremes_and_ends() {
        let mut points: Vec<(f64, f64)> =
            (0..3000).map(|i| (f64::from(i), f64::from((i * 37) % 101))).collect();
        points[1234].1 = 999.0;
        points[2345].1 = -999.0;
        points[77].1 = f64::NAN;
        let kept = thin(&points, 100);
        assert!(kept.len() <= 404 && kept.windows(2).all(|w| w[0] < w[1]), "{}", kept.len());
        for i in [0, 1234, 2345, 2999] {
            assert!(kept.contains(&i), "{i}");
        }
        assert!(!kept.contains(&77));
        assert_eq!(thin(&points[..50], 100).len(), 50);
        assert!(thin(&[], 10).is_empty());
    }
}
