//! Evaluation: a task's rows in every forward template, scored or answered, and measured.
//!
//! Choices are ranked by log-probability, texts are generated greedily. One task at a time: its prompts are made, handed to the
//! model, judged, and dropped.

mod baselines;
mod files;
mod judge;
mod overlap;
mod report;

pub use baselines::{Baselines, baselines};
pub use files::{Saved, load_saved, save};
pub use judge::{Measure, Rule, judge};
pub use overlap::{Grams, Overlap};
pub use report::{Comparison, Report, compare, published, table};

use super::catalog::TaskRef;
use super::folder::{DataDirs, Found, Part, PartRows, load_part};
use super::metric::Metric;
use super::mixture::{Source, Writer, exemplars};
use super::prompt::Prompt;
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::score::log::Row as ScoredRow;
use crate::score::requests::{Ask, Id, Request, Requests};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Streams of the draws: rows of a limited evaluation, examples in front of prompts.
const LIMIT: u64 = 0xF1B0 << 32;
const SHOTS: u64 = 0xF1B1 << 32;

/// What is evaluated of every task.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// How an option is chosen for the headline.
    pub rule: Rule,
    /// At most so many test rows, drawn by the seed; none: all.
    pub limit: Option<usize>,
    /// At most so many forward templates; none: all.
    pub templates: Option<usize>,
    /// Every row in one template, in turn, instead of every row in all of them: more rows for as many prompts.
    pub rotate: bool,
    /// Whether prompts hold the OPTIONS block.
    pub block: bool,
    /// Whether the dev rows are scored too, to choose a template.
    pub dev: bool,
    /// Draws rows and examples.
    pub seed: u64,
}

/// A text to be continued.
#[derive(Clone, Debug)]
pub struct Question {
    /// Everything in front of the answer.
    pub context: String,
}

/// What evaluation needs of a model.
pub trait Answer {
    /// Log-probabilities of every option of `requests`, in order.
    fn rank(&mut self, name: &str, requests: &Requests) -> Result<Vec<ScoredRow>>;
    /// The text that follows each context.
    fn answer(&mut self, name: &str, questions: &[Question]) -> Result<Vec<String>>;
}

/// One row in one template, answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Number of the row in its part.
    pub doc: usize,
    /// Where the row came from.
    pub place: String,
    /// Number of the template in its dataset, from 0.
    pub template: usize,
    /// Which part.
    pub part: String,
    /// Everything in front of the answer.
    pub context: String,
    /// The options; empty for a text.
    pub options: Vec<String>,
    /// Which are right.
    pub gold: Vec<usize>,
    /// Accepted texts.
    pub golds: Vec<String>,
    /// Number to correlate with.
    pub value: Option<f64>,
    /// Rows graded together.
    pub group: Option<String>,
    /// Of every option: log-probability, the same with EOS, tokens, characters, bytes, whether it is the model's first choice.
    pub scores: Vec<OptionScore>,
    /// The answer of the model, where it is a text.
    pub prediction: Option<String>,
    /// How many solved examples stand in front.
    pub shots: usize,
    /// Something was cut to fit.
    pub cut: bool,
}

/// The score of an option.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptionScore {
    /// Sum of the log-probabilities.
    pub logprob: f64,
    /// The same with the EOS behind it.
    pub with_eos: Option<f64>,
    /// Tokens.
    pub tokens: usize,
    /// Characters.
    pub chars: usize,
    /// Bytes.
    pub bytes: usize,
    /// Whether every token is the model's first choice.
    pub greedy: bool,
    /// Whether the option is longer than the window, so that its first tokens are not scored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// A template's results on one part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TemplateScore {
    /// Number of the template in its dataset, from 0.
    pub template: usize,
    /// `dev` or `test`.
    pub part: String,
    /// Rows.
    pub rows: usize,
    /// By metric name; for choices also the accuracy by every rule.
    pub measures: BTreeMap<String, Measure>,
}

/// A task's results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskResult {
    /// The task, with the direction behind it for translation.
    pub name: String,
    /// Its dataset.
    pub dataset: String,
    /// Its cluster.
    pub cluster: String,
    /// The measure that is reported first.
    pub headline: Metric,
    /// Every template.
    pub scores: Vec<TemplateScore>,
    /// Share of right answers by chance, for choices.
    pub chance: Option<f64>,
    /// Most solved examples that any prompt had in front.
    pub shots: usize,
    /// Test rows.
    pub rows: usize,
    /// Rows that were left out, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Whether validation rows stand in for a test file that is not there.
    pub stand_in: bool,
    /// Prompts that were cut.
    pub cut: usize,
    /// Hash of the dataset's file.
    pub spec: String,
    /// Test rows (all templates) by whether they overlap with training text: headline means, where that was looked for.
    pub overlap: Option<Overlap>,
    /// The samples; not kept in the results file.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

/// The rows of a task that are evaluated.
struct Rows {
    dev: Vec<Found>,
    test: Vec<Found>,
    source: Option<PartRows>,
    dropped: BTreeMap<String, u64>,
    stand_in: bool,
}

/// Takes `limit` of `rows` in file order, drawn by `seed`: the first ones of a sorted file would be of one kind.
fn limited(rows: Vec<Found>, limit: Option<usize>, seed: u64) -> Vec<Found> {
    let Some(limit) = limit.filter(|l| *l < rows.len()) else { return rows };
    let mut chosen = Rng::new(seed, LIMIT).permutation(rows.len());
    chosen.truncate(limit);
    chosen.sort_unstable();
    let mut rows: Vec<Option<Found>> = rows.into_iter().map(Some).collect();
    chosen.into_iter().filter_map(|i| rows[i as usize].take()).collect()
}

fn rows(task: TaskRef<'_>, data: &DataDirs, shots: usize, o: &EvalOptions) -> Result<Option<Rows>> {
    let Some(place) = data.find(task.task) else { return Ok(None) };
    let Some(test) = load_part(task, &place, Part::Test, usize::MAX)? else { return Ok(None) };
    let dev = if o.dev { load_part(task, &place, Part::Dev, usize::MAX)? } else { None };
    let source = if shots > 0 { load_part(task, &place, Part::Train, 30_000)? } else { None };
    Ok(Some(Rows {
        dropped: test.dropped.iter().map(|(k, v)| (k.to_string(), *v)).collect(),
        stand_in: test.stand_in,
        test: limited(test.rows, o.limit, o.seed),
        dev: dev.map_or(Vec::new(), |d| limited(d.rows, o.limit, o.seed)),
        source,
    }))
}

/// A prompt on its way to the model.
struct Item<'a> {
    found: &'a Found,
    doc: usize,
    template: usize,
    part: Part,
    prompt: Prompt,
    context: String,
    shots: usize,
}

/// Evaluates `task`; `None` where there are no rows for it. For translation there is a result for each direction.
///
/// # Errors
/// Whatever files, templates or the model say.
pub fn evaluate(
    task: TaskRef<'_>,
    data: &DataDirs,
    writer: &Writer<'_>,
    o: &EvalOptions,
    model: &mut dyn Answer,
) -> Result<Option<Vec<TaskResult>>> {
    let d = task.dataset;
    let Some(rows) = rows(task, data, writer.wording.shots, o)? else { return Ok(None) };
    if rows.test.is_empty() {
        return Err(Error::data(format!("{}: not one test row is left", task.task.name))
            .fix(format!("what was dropped: {:?}", rows.dropped)));
    }
    let instructed = writer.wording.prompt == super::prompt::Mode::Flan;
    let mut directions: Vec<Option<String>> = d.forward().map(|(_, t)| t.direction.clone()).collect();
    directions.sort();
    directions.dedup();
    let source = rows.source.map(|part| Source::new(task, part)).transpose()?;
    let mut results = Vec::new();
    for direction in directions {
        let mut templates: Vec<usize> =
            d.forward().filter(|(_, t)| t.direction == direction).map(|(i, _)| i).collect();
        // Without instructions all templates of a side are the same prompt.
        templates.truncate(if instructed { o.templates.unwrap_or(usize::MAX) } else { 1 });
        let name = match &direction {
            Some(direction) => format!("{}:{direction}", task.task.name),
            None => task.task.name.clone(),
        };
        let mut items = Vec::new();
        for (turn, &template) in templates.iter().enumerate() {
            // The same solved examples in front of every row: computed once.
            let shots = match &source {
                Some(source) if !source.is_empty() => exemplars(
                    source,
                    usize::MAX,
                    writer,
                    (template, o.block),
                    Rng::new(o.seed, SHOTS),
                    template as u64,
                )?,
                _ => Vec::new(),
            };
            for (part, found) in [(Part::Dev, &rows.dev), (Part::Test, &rows.test)] {
                let made: Vec<Item> = found
                    .par_iter()
                    .enumerate()
                    .filter(|(doc, _)| !o.rotate || doc % templates.len() == turn)
                    .map(|(doc, found)| {
                        let prompt = writer.prompt(task, &found.row, template, o.block);
                        let worded = prompt.and_then(|p| writer.behind(p, &shots));
                        let worded =
                            worded.map_err(|e| e.at(format!("{} template {}", found.id, template + 1)))?;
                        let (context, shots) = (worded.context, worded.shots);
                        Ok(Item { found, doc, template, part, prompt: worded.prompt, context, shots })
                    })
                    .collect::<Result<_>>()?;
                items.extend(made);
            }
        }
        let samples = answered(&name, items, model)?;
        results.push(judged(task, &name, &templates, samples, &rows.dropped, rows.stand_in, o.rule));
    }
    Ok(Some(results))
}

/// Has the model answer every item.
fn answered(name: &str, items: Vec<Item<'_>>, model: &mut dyn Answer) -> Result<Vec<Sample>> {
    let choice = items.first().is_some_and(|i| !i.prompt.options.is_empty());
    let (mut ranked, mut texts) = (Vec::new(), Vec::new());
    if choice {
        let rows: Vec<Request> = items
            .iter()
            .map(|i| Request {
                id: Id::Text(format!("{} {} {}", i.template + 1, i.part.name(), i.doc)),
                context: i.context.clone(),
                ask: Ask::Choice { options: i.prompt.options.clone(), label: i.prompt.gold.first().copied() },
            })
            .collect();
        let mut hasher = blake3::Hasher::new();
        for r in &rows {
            hasher.update(format!("{}\n{}\n{:?}\n", r.id, r.context, r.texts()).as_bytes());
        }
        let requests = Requests { rows, hash: hasher.finalize().to_hex().to_string() };
        ranked = model.rank(name, &requests)?;
    } else {
        let questions: Vec<Question> =
            items.iter().map(|i| Question { context: i.context.clone() }).collect();
        texts = model.answer(name, &questions)?;
    }
    let count = if choice { ranked.len() } else { texts.len() };
    if count != items.len() {
        return Err(Error::internal(format!("{name}: {count} answers to {} prompts", items.len())));
    }
    let mut samples = Vec::with_capacity(items.len());
    for (n, i) in items.into_iter().enumerate() {
        let row = &i.found.row;
        let scores = match ranked.get(n) {
            Some(ScoredRow::Choice { options, .. }) => {
                let texts = i.prompt.options.iter();
                let scored = options.iter().zip(texts).map(|(s, text)| {
                    // The space between a prompt and its continuation is no part of the option.
                    let text = text.strip_prefix(' ').unwrap_or(text);
                    OptionScore {
                        logprob: s.logprob,
                        with_eos: s.with_eos,
                        tokens: s.tokens,
                        chars: text.chars().count(),
                        bytes: text.len(),
                        greedy: s.greedy,
                        cut: s.option_truncated,
                    }
                });
                scored.collect()
            }
            _ => Vec::new(),
        };
        samples.push(Sample {
            doc: i.doc,
            place: i.found.id.clone(),
            template: i.template,
            part: i.part.name().into(),
            context: i.context,
            gold: i.prompt.gold,
            // A text's own target is what its template asks for: a translation into either language.
            golds: if choice || row.golds.contains(&row.answer) && i.prompt.target == row.answer {
                row.golds.clone()
            } else {
                vec![i.prompt.target.clone()]
            },
            value: row.value,
            group: row.group.clone(),
            options: i.prompt.options,
            scores,
            prediction: texts.get(n).cloned(),
            shots: i.shots,
            cut: i.prompt.cut,
        });
    }
    Ok(samples)
}

fn judged(
    task: TaskRef<'_>,
    name: &str,
    templates: &[usize],
    samples: Vec<Sample>,
    dropped: &BTreeMap<String, u64>,
    stand_in: bool,
    rule: Rule,
) -> TaskResult {
    let d = task.dataset;
    let mut scores = Vec::new();
    for &template in templates {
        for part in [Part::Dev, Part::Test] {
            let of: Vec<&Sample> =
                samples.iter().filter(|s| s.template == template && s.part == part.name()).collect();
            if !of.is_empty() {
                let measures = judge(d, &of, rule);
                scores.push(TemplateScore { template, part: part.name().into(), rows: of.len(), measures });
            }
        }
    }
    let test: Vec<&Sample> =
        samples.iter().filter(|s| s.part == "test" && Some(&s.template) == templates.first()).collect();
    let chances: Vec<f64> = test
        .iter()
        .filter(|s| !s.options.is_empty())
        .map(|s| s.gold.len() as f64 / s.options.len() as f64)
        .collect();
    let chance = (!chances.is_empty()).then(|| chances.iter().sum::<f64>() / chances.len() as f64);
    TaskResult {
        name: name.into(),
        dataset: d.name.clone(),
        cluster: d.cluster.clone(),
        headline: d.metrics[0],
        scores,
        chance,
        shots: samples.iter().map(|s| s.shots).max().unwrap_or(0),
        rows: test.len(),
        dropped: dropped.clone(),
        stand_in,
        cut: samples.iter().filter(|s| s.cut).count(),
        spec: d.hash.clone(),
        overlap: None,
        samples,
    }
}

impl TaskResult {
    /// The headline of every template on `part`, in order.
    pub fn headlines(&self, part: &str) -> Vec<(usize, f64)> {
        let name = self.headline.name();
        let of = self.scores.iter().filter(|s| s.part == part);
        of.filter_map(|s| Some((s.template, s.measures.get(name)?.value))).collect()
    }

    /// Mean of the headline over templates on test, and its deviation over them (n - 1).
    pub fn mean(&self) -> Option<(f64, Option<f64>)> {
        let values: Vec<f64> = self.headlines("test").into_iter().map(|(_, v)| v).collect();
        let mean = crate::metrics::stats::Mean::of(&values)?;
        Some((mean.value, mean.stddev))
    }

    /// The test score of the template that is best on dev, and that template.
    pub fn best_dev(&self) -> Option<(usize, f64)> {
        let better = |a: f64, b: f64| if self.headline.lower_is_better() { a < b } else { a > b };
        let mut best: Option<(usize, f64)> = None;
        for (template, value) in self.headlines("dev") {
            if best.is_none_or(|(_, b)| better(value, b)) {
                best = Some((template, value));
            }
        }
        let (template, _) = best?;
        self.headlines("test").into_iter().find(|(t, _)| *t == template)
    }
}
