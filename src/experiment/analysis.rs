//! What the marks of an experiment's cells come to.
//!
//! A gain is measured row by row: the mean over the seeds of what the tuned model makes of a row, less what the base model makes of it. Its
//! standard error has two parts that are added as variances: that of the rows, and that of the seeds.

use super::{Asked, Cell, Marks};
use crate::metrics::stats::{Mean, sign_flip};
use serde::Serialize;
use std::collections::BTreeMap;

/// Sign flips of a paired test.
const FLIPS: usize = 10_000;

/// A difference with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gain {
    /// The mean difference.
    pub value: f64,
    /// Its standard error, of rows and seeds together.
    pub stderr: f64,
    /// Two-sided p of a sign-flip test over rows.
    pub p: Option<f64>,
}

/// A mean over seeds with the standard error of rows and seeds together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The value varied.
    pub x: f64,
    /// The mean.
    pub y: f64,
    /// Its standard error.
    pub stderr: f64,
}

/// A cluster held out in turn.
#[derive(Clone, Debug, Serialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// By chance.
    pub chance: f64,
    /// The base model in each of its prompts.
    pub base: BTreeMap<Asked, f64>,
    /// The best of them.
    pub best: Asked,
    /// The tuned model asked by instruction, options listed: mean over seeds.
    pub tuned: Point,
    /// The same without the options.
    pub plain: f64,
    /// Both with the leaning to some labels taken off: base at its best, tuned.
    pub unbiased: (f64, f64),
    /// Tuned less base at its best.
    pub gain: Gain,
    /// Tuned less base, both asked as the tuned one is.
    pub same: Gain,
    /// Every seed's score.
    pub seeds: Vec<f64>,
    /// Rows.
    pub rows: usize,
}

/// The main experiment.
#[derive(Clone, Debug, Serialize)]
pub struct Holdout {
    /// Every cluster.
    pub clusters: Vec<Cluster>,
    /// Mean of their gains; the standard error is that of the clusters' own errors.
    pub gain: Gain,
    /// The standard error of the mean if the clusters themselves are a sample.
    pub between: f64,
    /// How many went up.
    pub up: usize,
}

/// Cells with what they came to.
pub(super) type Results<'a> = [(Cell, Vec<Marks>)];

fn mean(values: &[f64]) -> f64 {
    Mean::of(values).map_or(f64::NAN, |m| m.value)
}

fn stderr(values: &[f64]) -> f64 {
    Mean::of(values).and_then(|m| m.stderr).unwrap_or(0.0)
}

/// The worth of every row of `cluster`'s tasks, in order, asked in one way; with the leaning to some labels taken off if `unbiased`.
pub fn rows(marks: &[Marks], cluster: &str, asked: Asked, unbiased: bool) -> Vec<f64> {
    let of = marks.iter().filter(|m| m.cluster == cluster && m.asked == asked);
    of.flat_map(|m| if unbiased && !m.unbiased.is_empty() { &m.unbiased } else { &m.worth })
        .copied()
        .collect()
}

/// Row by row means of equally long lists.
fn average(lists: &[Vec<f64>]) -> Vec<f64> {
    let n = lists.iter().map(Vec::len).min().unwrap_or(0);
    (0..n).map(|i| lists.iter().map(|l| l[i]).sum::<f64>() / lists.len() as f64).collect()
}

/// The mean over `seeds` (lists of rows) less `base`.
pub fn gain(seeds: &[Vec<f64>], base: &[f64]) -> Gain {
    let tuned = average(seeds);
    let differences: Vec<f64> = tuned.iter().zip(base).map(|(a, b)| a - b).collect();
    let means: Vec<f64> = seeds.iter().map(|s| mean(s)).collect();
    Gain {
        value: mean(&differences),
        stderr: stderr(&differences).hypot(stderr(&means)),
        p: sign_flip(&tuned, base, FLIPS, 0).map(|s| s.p),
    }
}

/// The main experiment's results; clusters without results are left out.
pub fn holdout(results: &Results<'_>, clusters: &[String]) -> Holdout {
    let base: Vec<Marks> =
        results.iter().filter(|(c, _)| c.set.is_none()).flat_map(|(_, m)| m.clone()).collect();
    let mut all = Vec::new();
    for name in clusters {
        let cells: Vec<&Vec<Marks>> = results
            .iter()
            .filter(|(c, _)| c.set.is_some() && c.ask.contains(name))
            .map(|(_, marks)| marks)
            .collect();
        let of = |asked, unbiased| -> Vec<Vec<f64>> {
            cells.iter().map(|m| rows(m, name, asked, unbiased)).collect()
        };
        let first = rows(&base, name, Asked::Flan, false);
        if cells.is_empty() || first.is_empty() {
            continue;
        }
        let scores: BTreeMap<Asked, f64> =
            Asked::BASE.into_iter().map(|a| (a, mean(&rows(&base, name, a, false)))).collect();
        let best =
            Asked::BASE.into_iter().fold(Asked::Flan, |b, a| if scores[&a] > scores[&b] { a } else { b });
        let (tuned, at_best) = (of(Asked::Flan, false), rows(&base, name, best, false));
        let seeds: Vec<f64> = tuned.iter().map(|t| mean(t)).collect();
        let chances: Vec<f64> = base
            .iter()
            .filter(|m| &m.cluster == name && m.asked == Asked::Flan)
            .filter_map(|m| m.chance)
            .collect();
        all.push(Cluster {
            name: name.clone(),
            chance: mean(&chances),
            base: scores,
            best,
            tuned: Point { x: 0.0, y: mean(&seeds), stderr: stderr(&average(&tuned)).hypot(stderr(&seeds)) },
            plain: mean(&of(Asked::Plain, false).iter().map(|r| mean(r)).collect::<Vec<_>>()),
            unbiased: (
                mean(&rows(&base, name, best, true)),
                mean(&of(Asked::Flan, true).iter().map(|r| mean(r)).collect::<Vec<_>>()),
            ),
            gain: gain(&tuned, &at_best),
            same: gain(&tuned, &first),
            seeds,
            rows: first.len(),
        });
    }
    let gains: Vec<f64> = all.iter().map(|c| c.gain.value).collect();
    let squares: f64 = all.iter().map(|c| c.gain.stderr * c.gain.stderr).sum();
    Holdout {
        gain: Gain { value: mean(&gains), stderr: squares.sqrt() / (all.len().max(1) as f64), p: None },
        between: stderr(&gains),
        up: gains.iter().filter(|g| **g > 0.0).count(),
        clusters: all,
    }
}

/// The mean over clusters of what the untuned model scores at the best of its prompts, for each cluster; of the cells at `x`, or of all.
pub fn base_at_best(results: &Results<'_>, x: Option<f64>) -> f64 {
    let of = results.iter().filter(|(c, _)| c.set.is_none() && x.is_none_or(|x| c.x == x));
    let base: Vec<&Marks> = of.flat_map(|(_, m)| m).collect();
    let mut scores: BTreeMap<&str, f64> = BTreeMap::new();
    for asked in Asked::BASE {
        let mut clusters: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for m in base.iter().filter(|m| m.asked == asked) {
            clusters.entry(&m.cluster).or_default().extend(&m.worth);
        }
        for (cluster, worth) in clusters {
            let score = scores.entry(cluster).or_insert(f64::NEG_INFINITY);
            *score = score.max(mean(&worth));
        }
    }
    mean(&scores.into_values().collect::<Vec<_>>())
}

/// For every value varied, the mean over clusters and seeds of the cells of `series` asked in `asked`.
pub fn curve(results: &Results<'_>, series: &str, asked: Asked) -> Vec<Point> {
    let mut at: Vec<(f64, Vec<Vec<f64>>)> = Vec::new();
    for (cell, marks) in results.iter().filter(|(c, _)| c.series == series) {
        // Every cluster counts alike, whatever its number of rows.
        let mut clusters: Vec<&String> = marks.iter().map(|m| &m.cluster).collect();
        clusters.dedup();
        let means: Vec<f64> = clusters.iter().map(|c| mean(&rows(marks, c, asked, false))).collect();
        if means.iter().any(|m| !m.is_nan()) {
            match at.iter_mut().find(|(x, _)| *x == cell.x) {
                Some((_, list)) => list.push(means),
                None => at.push((cell.x, vec![means])),
            }
        }
    }
    let point = |(x, cells): (f64, Vec<Vec<f64>>)| {
        let seeds: Vec<f64> = cells.iter().map(|m| mean(m)).collect();
        Point { x, y: mean(&seeds), stderr: stderr(&seeds) }
    };
    let mut points: Vec<Point> = at.into_iter().map(point).collect();
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Base;

    fn cell(set: bool, series: &str, x: f64, seed: u64) -> Cell {
        Cell {
            label: String::new(),
            base: Base::Given,
            set: set.then(Vec::new),
            ask: vec!["nli".into()],
            ways: vec![],
            shots: 0,
            series: series.into(),
            x,
            seed,
        }
    }

    fn marks(asked: Asked, worth: &[f64]) -> Marks {
        Marks {
            task: "t".into(),
            cluster: "nli".into(),
            asked,
            shots: 0,
            worth: worth.to_vec(),
            unbiased: vec![],
            chance: Some(0.5),
        }
    }

    #[test]
    fn the_base_has_its_best_prompt_and_errors_add_up() {
        let base = vec![
            marks(Asked::Flan, &[0.0, 0.0, 1.0, 0.0]),
            marks(Asked::Plain, &[0.0, 1.0, 1.0, 0.0]),
            marks(Asked::Continuation, &[0.0, 0.0, 0.0, 0.0]),
        ];
        let one = vec![marks(Asked::Flan, &[1.0, 1.0, 1.0, 0.0]), marks(Asked::Plain, &[1.0; 4])];
        let two = vec![marks(Asked::Flan, &[1.0, 1.0, 1.0, 1.0]), marks(Asked::Plain, &[0.0; 4])];
        let results = [
            (cell(false, "base", 0.0, 0), base),
            (cell(true, "tuned", 0.0, 1), one),
            (cell(true, "tuned", 0.0, 2), two),
        ];
        let h = holdout(&results, &["nli".into(), "absent".into()]);
        let c = &h.clusters[0];
        assert_eq!((h.clusters.len(), h.up, c.best, c.rows), (1, 1, Asked::Plain, 4));
        assert_eq!((c.tuned.y, c.plain, c.chance, &c.seeds[..]), (0.875, 0.5, 0.5, &[0.75, 1.0][..]));
        // Differences by row: 1, 0, 0, 0.5. By hand: mean 0.375, deviation 0.4787, error 0.2394; seeds' error 0.125.
        assert!((c.gain.value - 0.375).abs() < 1e-12 && (c.same.value - 0.625).abs() < 1e-12);
        assert!(
            (c.gain.stderr - (0.239_357f64.powi(2) + 0.125f64.powi(2)).sqrt()).abs() < 1e-4,
            "{:?}",
            c.gain
        );
    }

    #[test]
    fn curves_are_means_over_seeds() {
        let results = [
            (cell(true, "tuned", 2.0, 1), vec![marks(Asked::Flan, &[1.0, 0.0])]),
            (cell(true, "tuned", 1.0, 1), vec![marks(Asked::Flan, &[0.0, 0.0])]),
            (cell(true, "tuned", 2.0, 2), vec![marks(Asked::Flan, &[1.0, 1.0])]),
            (cell(true, "other", 2.0, 2), vec![marks(Asked::Flan, &[0.0, 0.0])]),
        ];
        let points = curve(&results, "tuned", Asked::Flan);
        assert_eq!(points.iter().map(|p| (p.x, p.y)).collect::<Vec<_>>(), [(1.0, 0.0), (2.0, 0.75)]);
        assert_eq!((points[0].stderr, points[1].stderr), (0.0, 0.25));
    }
}
