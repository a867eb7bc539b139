//! Results for people: the table over datasets, cluster means, comparisons with another run and with published numbers.

use super::{Rule, TaskResult};
use crate::error::{Error, Result};
use crate::flan::catalog::Catalog;
use crate::flan::metric::Metric;
use crate::metrics::stats::{Mean, percentile, sign_flip};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Sign flips of the paired test.
const FLIPS: usize = 10_000;

/// Published numbers, shown beside ours and never mixed with them.
static PAPER: &str = include_str!("../../../tasks/paper.toml");

/// The published numbers of every task, by key.
///
/// # Errors
/// A bug in the file that is part of the program.
pub fn published() -> Result<BTreeMap<String, BTreeMap<String, f64>>> {
    toml::from_str(PAPER).map_err(|e| Error::internal(format!("tasks/paper.toml: {e}")))
}

/// What a run of `flanrt score --tasks` came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The model's folder name.
    pub model: String,
    /// Hash of weights and configuration.
    pub model_hash: String,
    /// Settings that decide numbers, by name.
    pub settings: BTreeMap<String, String>,
    /// Rule of the headline choices.
    pub rule: Rule,
    /// The tasks.
    pub tasks: Vec<TaskResult>,
    /// Tasks that were asked for and have no rows.
    pub missing: Vec<String>,
}

/// A task beside that of another run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The task.
    pub task: String,
    /// Headline mean over templates, here and there.
    pub here: f64,
    /// There.
    pub there: f64,
    /// Whether here is better.
    pub better: bool,
    /// Rows in both runs.
    pub rows: usize,
    /// Mean difference of a row's worth (its mean over templates), and the two-sided p-value of a paired sign-flip test; none where
    /// the headline is no mean over rows.
    pub paired: Option<(f64, f64)>,
}

/// What a value of a metric is multiplied by for people.
fn shown(metric: Metric) -> f64 {
    match metric {
        Metric::Bleu | Metric::EditDistance => 1.0,
        _ => 100.0,
    }
}

/// Compares every task that is in both runs; the other run's tasks need their samples.
pub fn compare(here: &Report, there: &Report) -> Vec<Comparison> {
    let mut out = Vec::new();
    for a in &here.tasks {
        let Some(b) = there.tasks.iter().find(|b| b.name == a.name) else { continue };
        let (Some((x, _)), Some((y, _))) = (a.mean(), b.mean()) else { continue };
        let worth = |t: &TaskResult, rule: Rule| {
            let mut by_row: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
            for s in t.samples.iter().filter(|s| s.part == "test") {
                if let Some(w) = s.worth(a.headline, rule) {
                    by_row.entry(&s.place).or_default().push(w);
                }
            }
            by_row
                .into_iter()
                .filter_map(|(k, v)| Some((k.to_owned(), Mean::of(&v)?.value)))
                .collect::<BTreeMap<_, _>>()
        };
        let (mine, theirs) = (worth(a, here.rule), worth(b, there.rule));
        let both: Vec<(f64, f64)> = mine.iter().filter_map(|(k, v)| Some((*v, *theirs.get(k)?))).collect();
        let (p, q): (Vec<f64>, Vec<f64>) = both.iter().copied().unzip();
        let paired = sign_flip(&p, &q, FLIPS, 0).map(|s| (s.mean, s.p));
        // Means of equal values may differ in their last bits.
        let better = if a.headline.lower_is_better() { x < y - 1e-9 } else { x > y + 1e-9 };
        out.push(Comparison { task: a.name.clone(), here: x, there: y, better, rows: both.len(), paired });
    }
    out
}

fn cell(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| format!("{v:.1}"))
}

/// The table for a terminal: datasets by cluster, cluster means, wins; `paper` puts the published columns beside it.
pub fn table(report: &Report, catalog: &Catalog, paper: bool, median: bool) -> Result<String> {
    let bold = console_bold();
    let published = if paper { published()? } else { BTreeMap::new() };
    let mut out = String::new();
    let _ = write!(
        out,
        "{:<26} {:<9} {:>6} {:>3}  {:>13} {:>8} {:>6}",
        "task",
        "metric",
        "rows",
        "t",
        if median { "median (iqr)" } else { "mean (sd)" },
        "best-dev",
        "chance"
    );
    out += if paper { "   | published: FLAN 0-shot  best-dev  GPT-3\n" } else { "\n" };
    let (mut wins, mut of) = ((0, 0), 0);
    for cluster in &catalog.clusters {
        let mine: Vec<&TaskResult> = report.tasks.iter().filter(|t| t.cluster == cluster.name).collect();
        if mine.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{}", bold(&cluster.title));
        let mut means = Vec::new();
        for t in &mine {
            let scale = shown(t.headline);
            let values: Vec<f64> = t.headlines("test").into_iter().map(|(_, v)| v * scale).collect();
            let (middle, spread) = match median {
                true => quartiles(&values),
                false => Mean::of(&values).map_or((None, None), |m| (Some(m.value), m.stddev)),
            };
            means.extend(middle);
            let both = match spread {
                Some(s) => format!("{} ({s:.1})", cell(middle)),
                None => cell(middle),
            };
            let _ = write!(
                out,
                "  {:<24} {:<9} {:>6} {:>3}  {both:>13} {:>8} {:>6}",
                t.name,
                t.headline.name(),
                t.rows,
                values.len(),
                cell(t.best_dev().map(|(_, v)| v * scale)),
                cell(t.chance.map(|c| c * 100.0)),
            );
            if paper {
                let row = published.get(&t.name);
                let get = |key: &str| row.and_then(|r| r.get(key)).copied();
                let sd = get("flan_sd").map_or(String::new(), |s| format!(" ({s:.1})"));
                let flan = get("flan").map_or("-".into(), |f| format!("{f:.1}{sd}"));
                let _ = write!(out, "   | {flan:>21} {:>9} {:>6}", cell(get("flan_best")), cell(get("gpt3")));
                if let (Some(g), Some(m)) = (get("gpt3"), middle) {
                    of += 1;
                    wins.0 += usize::from(m > g);
                    wins.1 += usize::from(t.best_dev().is_some_and(|(_, v)| v * scale > g));
                }
            }
            let notes = [
                (t.shots > 0).then(|| format!("{} shots", t.shots)),
                t.stand_in.then(|| "validation rows (no test file)".to_owned()),
                (!t.dropped.is_empty()).then(|| {
                    t.dropped.iter().map(|(k, n)| format!("{n} dropped: {k}")).collect::<Vec<_>>().join(", ")
                }),
            ];
            let notes: Vec<String> = notes.into_iter().flatten().collect();
            if !notes.is_empty() {
                let _ = write!(out, "  {}", notes.join("; "));
            }
            out.push('\n');
        }
        if mine.len() > 1 {
            let value = Mean::of(&means).map(|m| m.value);
            let _ = writeln!(out, "  {:<24} {:<9} {:>6} {:>3}  {:>13}", "mean", "", "", "", cell(value));
        }
    }
    let choices: Vec<&TaskResult> = report.tasks.iter().filter(|t| t.chance.is_some()).collect();
    if !choices.is_empty() {
        let _ = writeln!(out, "\naccuracy by rule, mean over templates");
        let _ = write!(out, "{:<26}", "task");
        for (name, _) in Rule::ALL {
            let _ = write!(out, " {:>12}", name.trim_start_matches("acc_"));
        }
        out.push('\n');
        for t in choices {
            let _ = write!(out, "  {:<24}", t.name);
            for (name, _) in Rule::ALL {
                let test = t.scores.iter().filter(|s| s.part == "test");
                let values: Vec<f64> =
                    test.filter_map(|s| Some(s.measures.get(name)?.value * 100.0)).collect();
                let _ = write!(out, " {:>12}", cell(Mean::of(&values).map(|m| m.value)));
            }
            out.push('\n');
        }
    }
    let overlaps: Vec<&TaskResult> = report.tasks.iter().filter(|t| t.overlap.is_some()).collect();
    if !overlaps.is_empty() {
        let _ = writeln!(
            out,
            "\n13-gram overlap with training text\n{:<26} {:>6} {:>6} {:>8} {:>8}",
            "task", "clean", "dirty", "on clean", "on dirty"
        );
        for t in overlaps {
            let Some(o) = &t.overlap else { continue };
            let scale = shown(t.headline);
            let _ = writeln!(
                out,
                "  {:<24} {:>6} {:>6} {:>8} {:>8}",
                t.name,
                o.clean,
                o.dirty,
                cell(o.clean_score.map(|s| s * scale)),
                cell(o.dirty_score.map(|s| s * scale))
            );
        }
    }
    if paper && of > 0 {
        let _ = writeln!(
            out,
            "\nabove the published zero-shot GPT-3 on {} of {of} tasks by the mean over templates, on {} by the best-dev template \
             (published columns are of other models on the full test sets: for orientation only)",
            wins.0, wins.1
        );
    }
    if !report.missing.is_empty() {
        let _ = writeln!(out, "\nno rows for: {}", report.missing.join(" "));
    }
    Ok(out)
}

/// Median and interquartile range.
fn quartiles(values: &[f64]) -> (Option<f64>, Option<f64>) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| (!sorted.is_empty()).then(|| percentile(&sorted, share));
    let spread = at(0.75).zip(at(0.25)).map(|(high, low)| high - low).filter(|_| sorted.len() > 1);
    (at(0.5), spread)
}

fn console_bold() -> impl Fn(&str) -> String {
    let bold = console::Style::new().bold();
    move |text| bold.apply_to(text).to_string()
}
