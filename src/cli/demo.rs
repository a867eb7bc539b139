//! The run without arguments: the embedded model tuned on the micro-world's tasks but for one cluster, and asked before and after.

use super::Global;
use super::device::Machine;
use super::exam::{Candidate, Exam, guards};
use super::prepare::Prepared;
use crate::error::Result;
use crate::experiment::{Asked, Marks, rows as collect};
use crate::flan::eval::Baselines;
use crate::flan::{BUILTIN, Catalog, Collection, DataDirs, Split};
use crate::metrics::stats::{Mean, sign_flip};
use crate::report::{Bars, Cell, Figure, Group, Section, Table, Tone, Unit, Value};
use crate::tensor::DType;
use crate::train::rundir::RunDir;
use crate::weights::Source;
use serde_json::{Value as Json, json};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Test rows of a task that was tuned on; held out ones have all of theirs.
const HELD_IN_ROWS: usize = 40;
/// Test rows of a task that is held out.
const HELD_OUT_ROWS: usize = 200;
/// Sign flips of the paired test.
const FLIPS: usize = 10_000;

/// Settings of the run without arguments.
pub(super) fn defaults() -> Vec<(&'static str, toml::Value)> {
    use toml::Value as V;
    let text = |t: &str| V::String(t.into());
    vec![
        ("mixture.name", text("flan")),
        ("mixture.data", V::Array(vec![text(BUILTIN)])),
        ("mixture.hold_out", V::Array(vec![text("sentiment")])),
        ("mixture.options", V::Float(0.5)),
        ("mixture.join", text("newline-space")),
        ("train.steps", V::Integer(300)),
        ("train.lr", V::Float(1e-3)),
        ("train.schedule", text("linear")),
    ]
}

/// Whether a run is measured on itself: the embedded model on the micro-world's tasks.
pub(super) fn applies(p: &Prepared) -> bool {
    p.settings().model.path == BUILTIN && p.settings().mixture.data == [BUILTIN]
}

/// What is asked before and after.
pub(super) struct Demo<'a> {
    p: &'a Prepared,
    device: &'a Machine,
    global: &'a Global,
    stop: &'a AtomicBool,
    catalog: Catalog,
    data: DataDirs,
}

impl<'a> Demo<'a> {
    pub(super) fn new(
        p: &'a Prepared,
        device: &'a Machine,
        global: &'a Global,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let catalog = Catalog::load(Collection::MicroWorld, None)?;
        let data = DataDirs::new(&[BUILTIN.to_owned()], &catalog)?;
        Ok(Self { p, device, global, stop, catalog, data })
    }

    fn split(&self) -> Result<Split<'_>> {
        super::mixture::split(&self.catalog, &self.p.settings().mixture)
    }

    fn ask(&self, source: &Source, dtype: DType, name: &str, ways: &[Asked]) -> Result<Vec<Marks>> {
        let (split, m) = (self.split()?, &self.p.settings().mixture);
        let model = Candidate {
            source,
            config: &self.p.config,
            tokenizer: &self.p.tokenizer,
            device: self.device,
            dtype,
            name,
        };
        let mut marks = Vec::new();
        for (tasks, limit) in [(split.test, HELD_OUT_ROWS), (split.train, HELD_IN_ROWS)] {
            let exam = Exam {
                tasks,
                data: &self.data,
                join: m.join,
                limit,
                // Not the run's: every run is measured on the same rows.
                seed: 0,
                input_tokens: m.input_tokens,
                target_tokens: m.target_tokens,
            };
            marks.extend(exam.sit(&model, ways, 0, self.global, self.stop)?);
        }
        Ok(marks)
    }

    /// Scores of the base model; a resumed run reads them back.
    pub(super) fn before(&self, source: &Source, dir: &mut RunDir) -> Result<Vec<Marks>> {
        const KEY: &str = "scores_before";
        if let Some(marks) = dir.get(KEY).and_then(|v| serde_json::from_value(v.clone()).ok()) {
            return Ok(marks);
        }
        let marks = self.ask(source, self.p.dtype(), "before", &Asked::BASE)?;
        dir.set(KEY, json!(marks))?;
        Ok(marks)
    }

    /// Scores of the tuned model in `saved`.
    pub(super) fn after(&self, saved: &Path, dir: &mut RunDir) -> Result<Vec<Marks>> {
        let source = Source::find(&saved.display().to_string())?;
        let marks = self.ask(&source, self.p.dtype(), "after", &[Asked::Flan, Asked::Plain])?;
        dir.set("scores_after", json!(marks))?;
        Ok(marks)
    }

    /// What both come to, by cluster, held out first.
    pub(super) fn compare(&self, before: &[Marks], after: &[Marks]) -> Result<Compared> {
        let split = self.split()?;
        let held = |cluster: &str| split.test.iter().any(|t| t.dataset.cluster == cluster);
        let mut lines: Vec<Line> = Vec::new();
        for cluster in &self.catalog.clusters {
            let base = Asked::BASE.map(|asked| (asked, collect(before, &cluster.name, asked, false)));
            let (best, base) = base
                .into_iter()
                .reduce(|a, b| if mean(&b.1) > mean(&a.1) { b } else { a })
                .unwrap_or((Asked::Flan, Vec::new()));
            let tuned = collect(after, &cluster.name, Asked::Flan, false);
            if tuned.is_empty() || base.len() != tuned.len() {
                continue;
            }
            lines.push(Line {
                title: cluster.title.clone(),
                held: held(&cluster.name),
                guards: guards(&self.catalog, &self.data, &cluster.name)?,
                flan: mean(&collect(before, &cluster.name, Asked::Flan, false)),
                best,
                p: sign_flip(&tuned, &base, FLIPS, 0).map(|s| s.p),
                base,
                tuned,
            });
        }
        lines.sort_by_key(|l| !l.held);
        Ok(Compared { lines })
    }
}

/// Before and after.
pub(super) struct Compared {
    lines: Vec<Line>,
}

impl Compared {
    /// What it says.
    pub(super) fn verdict(&self) -> String {
        let held: Vec<&Line> = self.lines.iter().filter(|l| l.held).collect();
        let gain = mean(&held.iter().map(|l| mean(&l.tuned) - mean(&l.base)).collect::<Vec<_>>());
        let names = held.iter().map(|l| l.title.as_str()).collect::<Vec<_>>().join(", ");
        match held.iter().all(|l| l.p.is_some_and(|p| p < 0.05)) && gain > 0.0 {
            _ if held.is_empty() => "Nothing was held out.".to_owned(),
            true => format!(
                "{names} was never tuned on, and gains {:+.1} points against the base model at its best: instructions of a new kind start to work.",
                100.0 * gain
            ),
            false => format!(
                "{names} was never tuned on, and changes by {:+.1} points against the base model at its best: no sure gain.",
                100.0 * gain
            ),
        }
    }

    /// Table and chart.
    pub(super) fn section(&self) -> Section {
        let number = |v: f64| Cell::number(v, Unit::Percent);
        let text = |t: String| Cell { text: t, number: true, ..Default::default() };
        let row = |l: &Line| {
            let change: Vec<f64> = l.tuned.iter().zip(&l.base).map(|(a, b)| a - b).collect();
            let m = Mean::of(&change);
            let (value, error) = (m.map_or(0.0, |m| m.value), m.and_then(|m| m.stderr).unwrap_or(0.0));
            let tone = match l.p {
                Some(p) if p < 0.05 => {
                    if value > 0.0 {
                        Tone::Good
                    } else {
                        Tone::Bad
                    }
                }
                _ => Tone::Plain,
            };
            let guard =
                |f: fn(&Baselines) -> f64| l.guards.as_ref().map_or(Cell::from("-"), |b| number(f(b)));
            vec![
                Cell::from(l.title.as_str()).tone(if l.held { Tone::Strong } else { Tone::Plain }),
                Cell::from(if l.held { "no" } else { "yes" }),
                number(l.flan),
                number(mean(&l.base)),
                number(mean(&l.tuned)),
                text(format!("{:+.1} ±{:.1}", 100.0 * value, 100.0 * error)).tone(tone),
                text(l.p.map_or("-".into(), |p| format!("{p:.3}"))),
                guard(|b| b.chance),
                guard(|b| b.majority),
                guard(|b| b.options),
                guard(|b| b.overlap),
            ]
        };
        let table = Table {
            caption: "Right answers in percent, before and after".into(),
            head: [
                "cluster", "tuned on", "base*", "base", "tuned", "change", "p", "chance", "majority", "options", "overlap",
            ]
            .map(String::from)
            .into(),
            rows: self.lines.iter().map(row).collect(),
            note: Some(
                "base*: in the prompts that the tuned model gets; base: in the best of three kinds (these, the same without options, text that goes on). Change: against base, ± one standard error over rows; p: paired sign flips. Majority, options alone and word overlap: what answers without doing the task."
                    .into(),
            ),
        };
        let group = |l: &Line| {
            let bar = |values: &[f64]| {
                let m = Mean::of(values);
                Some(Value::with_error(m.map_or(0.0, |m| m.value), m.and_then(|m| m.stderr).unwrap_or(0.0)))
            };
            Group {
                label: l.title.clone(),
                note: l.held.then(|| "held out".into()),
                values: vec![bar(&l.base), bar(&l.tuned)],
                marks: vec![l.guards.as_ref().map(|b| b.chance)],
            }
        };
        Section {
            title: "Before and after".into(),
            figures: vec![Figure::Bars(Bars {
                title: "Right answers before and after tuning".into(),
                text: "The base model in the best of three kinds of prompts, the tuned one asked by instruction; one standard error over rows.".into(),
                axis: "right answers".into(),
                unit: Unit::Percent,
                range: Some((0.0, 1.0)),
                series: vec!["base, best of three prompts".into(), "tuned".into()],
                marks: vec!["chance".into()],
                groups: self.lines.iter().map(group).collect(),
            })],
            tables: vec![table],
            ..Default::default()
        }
    }

    pub(super) fn json(&self) -> Json {
        let line = |l: &Line| {
            json!({"cluster": l.title, "held_out": l.held, "base_flan": l.flan, "base_best": mean(&l.base), "base_best_prompt": l.best,
                "tuned": mean(&l.tuned), "rows": l.tuned.len(), "p": l.p, "baselines": l.guards})
        };
        self.lines.iter().map(line).collect()
    }
}

struct Line {
    title: String,
    held: bool,
    guards: Option<Baselines>,
    /// The base model asked as the tuned one is.
    flan: f64,
    best: Asked,
    base: Vec<f64>,
    tuned: Vec<f64>,
    p: Option<f64>,
}

fn mean(values: &[f64]) -> f64 {
    Mean::of(values).map_or(f64::NAN, |m| m.value)
}
