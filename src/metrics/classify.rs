//! Labels: accuracy, F1, Matthews correlation, and whole groups right.
//!
//! A prediction is `None` where the output was no label. It is wrong, and never counts as another label: in F1 it is
//! a missed positive or a false alarm, whichever the gold label makes of it (T5's `f1_score_with_invalid`, for MRPC,
//! QQP and MultiRC in FLAN). All else as scikit-learn, whose value for 0 / 0 is 0. `None` for an answer means that
//! there are no examples, or not as many predictions as gold labels.

use std::collections::HashMap;
use std::hash::Hash;
use std::iter::Sum;
use std::ops::Add;

fn paired<'a, P, G>(predictions: &'a [P], golds: &'a [G]) -> Option<impl Iterator<Item = (&'a P, &'a G)>> {
    (predictions.len() == golds.len() && !golds.is_empty()).then(|| predictions.iter().zip(golds))
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// Share of predictions that equal their gold label.
pub fn accuracy<T: PartialEq>(predictions: &[Option<T>], golds: &[T]) -> Option<f64> {
    let right = paired(predictions, golds)?.filter(|(p, g)| p.as_ref() == Some(g)).count();
    Some(ratio(right as u64, golds.len() as u64))
}

/// Outcomes of a yes-or-no task. They add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Positives found.
    pub hits: u64,
    /// Negatives taken for positive.
    pub false_alarms: u64,
    /// Positives not found.
    pub misses: u64,
    /// Negatives seen as such.
    pub rejections: u64,
}

impl Outcomes {
    /// The outcome of one example.
    pub fn of(prediction: Option<bool>, gold: bool) -> Self {
        let mut o = Self::default();
        *match (prediction.unwrap_or(!gold), gold) {
            (true, true) => &mut o.hits,
            (true, false) => &mut o.false_alarms,
            (false, true) => &mut o.misses,
            (false, false) => &mut o.rejections,
        } = 1;
        o
    }

    /// F1 of the positives: 2 tp / (2 tp + fp + fn).
    pub fn f1(&self) -> f64 {
        ratio(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses)
    }
}

impl Add for Outcomes {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        Self {
            hits: self.hits + o.hits,
            false_alarms: self.false_alarms + o.false_alarms,
            misses: self.misses + o.misses,
            rejections: self.rejections + o.rejections,
        }
    }
}

impl Sum for Outcomes {
    fn sum<I: Iterator<Item = Self>>(outcomes: I) -> Self {
        outcomes.fold(Self::default(), Add::add)
    }
}

/// F1 of the positives. Over all of MultiRC's answers it is that benchmark's F1a.
pub fn binary_f1(predictions: &[Option<bool>], golds: &[bool]) -> Option<f64> {
    Some(paired(predictions, golds)?.map(|(&p, &g)| Outcomes::of(p, g)).sum::<Outcomes>().f1())
}

/// Mean of the F1 of classes 0..`classes`, each alike (CB). A class that nobody gives or is given has F1 0.
pub fn macro_f1(predictions: &[Option<usize>], golds: &[usize], classes: usize) -> Option<f64> {
    if golds.is_empty() || predictions.len() != golds.len() || classes == 0 {
        return None;
    }
    let f1 = |class: usize| {
        // Not `Outcomes::of(None, ..)`: an invalid output is no false alarm of some class.
        let each =
            predictions.iter().zip(golds).map(|(&p, &g)| Outcomes::of(Some(p == Some(class)), g == class));
        each.sum::<Outcomes>().f1()
    };
    Some((0..classes).map(f1).sum::<f64>() / classes as f64)
}

/// The Matthews correlation of any number of classes (CoLA), in -1..=1: Gorodkin, "Comparing two K-category
/// assignments by a K-category correlation coefficient", Computational Biology and Chemistry 28, 2004. Invalid
/// predictions are a class of their own. If all predictions, or all gold labels, are alike it is 0.
pub fn matthews(predictions: &[Option<usize>], golds: &[usize]) -> Option<f64> {
    let n = golds.len() as f64;
    let mut counts: HashMap<Option<usize>, (f64, f64)> = HashMap::new();
    let mut right = 0.0;
    for (&p, &g) in paired(predictions, golds)? {
        counts.entry(p).or_default().0 += 1.0;
        counts.entry(Some(g)).or_default().1 += 1.0;
        right += f64::from(u8::from(p == Some(g)));
    }
    // Sums of products of counts: exact below 2^53, so the order of a hash map does not matter.
    let sum = |f: fn(&(f64, f64)) -> f64| counts.values().map(f).sum::<f64>();
    let covariance = right * n - sum(|c| c.0 * c.1);
    let (of_p, of_g) = (n * n - sum(|c| c.0 * c.0), n * n - sum(|c| c.1 * c.1));
    Some(if of_p * of_g == 0.0 { 0.0 } else { covariance / (of_p * of_g).sqrt() })
}

/// Whether all answers of a group are right, for each group in order of first appearance. Its mean over MultiRC's
/// questions is that benchmark's exact match. `None` unless there is one group per answer.
pub fn groups_right<K: Eq + Hash>(groups: &[K], right: &[bool]) -> Option<Vec<bool>> {
    if groups.len() != right.len() {
        return None;
    }
    let mut places = HashMap::new();
    let mut all = Vec::new();
    for (group, &right) in groups.iter().zip(right) {
        let place = *places.entry(group).or_insert(all.len());
        match all.get_mut(place) {
            Some(so_far) => *so_far &= right,
            None => all.push(right),
        }
    }
    Some(all)
}
