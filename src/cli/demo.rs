//! The run without arguments: the embedded model, a mixture of the micro-world's tasks, scores before and after on tasks
//! that are tuned on and on clusters that are held out.

use crate::data::{self, Examples, Rendered};
use crate::error::{Error, Result};
use crate::ops::Batch;
use crate::score::{Hooks, Predict, Prediction, Requests, ScoreOptions, run as score};
use crate::text::Tokenizer;
use crate::train::Trainer;
use crate::train::rundir::RunDir;
use crate::world;
use serde_json::json;
use std::sync::atomic::AtomicBool;

/// Steps of the run.
pub(super) const STEPS: i64 = 300;
/// Its learning rate.
pub(super) const LR: f64 = 1e-3;
/// Rows of the mixture: enough that no row comes twice.
const ROWS: u64 = 12_000;
/// Test requests of a cluster and form.
const TESTS: u64 = 200;
/// Seed of the test requests: not the run's, so that every run is measured on the same ones.
const TEST_SEED: u64 = 20_211;

/// The embedded mixture and its tests.
pub(super) struct Demo {
    requests: Vec<(String, bool, Requests)>,
}

/// Accuracy and its standard error for each cluster: (name, held out, accuracy, error, chance).
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Line {
    cluster: String,
    held_out: bool,
    accuracy: f64,
    stderr: f64,
    chance: f64,
}

/// A trainer's current weights behind the scoring engine's face.
struct During<'a, 'd>(&'a Trainer<'d>);

impl Predict for During<'_, '_> {
    fn predict(&mut self, batch: &Batch) -> Result<Vec<Prediction>> {
        let values = self.0.predict(batch)?;
        Ok(values.into_iter().map(|(logprob, greedy)| Prediction { logprob, greedy }).collect())
    }
    fn context(&self) -> usize {
        self.0.model.config.context.min(self.capacity())
    }
    fn capacity(&self) -> usize {
        self.0.sizes().tokens
    }
    fn asks_capacity(&self) -> usize {
        self.0.sizes().asks
    }
}

impl Demo {
    /// Makes the test requests.
    pub(super) fn new() -> Self {
        let held = |c: &str| world::HELD_OUT.contains(&c);
        let requests = world::clusters().into_iter().map(|cluster| {
            let rows = [true, false]
                .map(|with_options| world::test_requests(cluster, TEST_SEED, TESTS, with_options));
            let lines: String = rows
                .into_iter()
                .flatten()
                .map(|r| {
                    json!({"id": r.id, "context": r.context, "options": r.options, "label": r.answer})
                        .to_string()
                        + "\n"
                })
                .collect();
            let parsed = Requests::parse(cluster, lines.as_bytes());
            (cluster.to_string(), held(cluster), parsed.expect("the micro-world makes valid requests"))
        });
        Self { requests: requests.collect() }
    }

    /// The tuning rows as examples.
    pub(super) fn examples(
        &self,
        tokenizer: &Tokenizer,
        options: &data::Options,
        seed: u64,
    ) -> Result<Examples> {
        let rows = world::train_rows(seed, ROWS, world::HELD_OUT).into_iter().map(|r| {
            let from = r.input.len() + options.joiner.len();
            let text = r.input + &options.joiner + &r.target;
            let span = from..text.len();
            Rendered { id: r.id, text, targets: vec![span], prefix: true, eos: true }
        });
        data::from_rendered(rows.collect(), "micro-world", tokenizer, options)
    }

    /// Accuracy of the sum rule on every cluster.
    pub(super) fn score(&self, trainer: &Trainer<'_>, tokenizer: &Tokenizer) -> Result<Vec<Line>> {
        let options = ScoreOptions { unconditional: None, ..ScoreOptions::default() };
        let never = AtomicBool::new(false);
        let mut lines = Vec::new();
        for (cluster, held_out, requests) in &self.requests {
            let mut hooks = Hooks { progress: &mut |_, _| {}, say: &mut |_| {}, interrupted: &never };
            let summary = score(requests, tokenizer, &mut During(trainer), &options, &mut hooks)?;
            let accuracy = summary
                .accuracy
                .as_ref()
                .map(|a| a.sum)
                .ok_or_else(|| Error::internal("labelled requests have an accuracy"))?;
            let options: f64 = requests.rows.iter().map(|r| 1.0 / r.texts().len() as f64).sum();
            lines.push(Line {
                cluster: cluster.clone(),
                held_out: *held_out,
                accuracy: accuracy.value,
                stderr: accuracy.stderr.unwrap_or(0.0),
                chance: options / requests.rows.len() as f64,
            });
        }
        Ok(lines)
    }

    /// Scores before the first step; a resumed run reads them back.
    pub(super) fn score_before(
        &self,
        trainer: &Trainer<'_>,
        tokenizer: &Tokenizer,
        dir: &mut RunDir,
    ) -> Result<Vec<Line>> {
        const KEY: &str = "scores_before";
        if let Some(lines) = dir.get(KEY).and_then(|v| serde_json::from_value(v.clone()).ok()) {
            return Ok(lines);
        }
        let lines = self.score(trainer, tokenizer)?;
        dir.set(KEY, json!(lines))?;
        Ok(lines)
    }

    /// The table of both, and what it says.
    pub(super) fn compare(&self, before: &[Line], after: &[Line]) -> String {
        let mut out =
            String::from("cluster         tuned on   chance   before            after             change\n");
        let mut gains = [Vec::new(), Vec::new()];
        for (b, a) in before.iter().zip(after) {
            let tuned = if b.held_out { "no" } else { "yes" };
            let percent = |l: &Line| format!("{:5.1}% +-{:.1}", 100.0 * l.accuracy, 100.0 * l.stderr);
            let gain = 100.0 * (a.accuracy - b.accuracy);
            gains[usize::from(b.held_out)].push(gain);
            out += &format!(
                "{:<15} {tuned:<10} {:5.1}%   {:<17} {:<17} {gain:+.1}\n",
                b.cluster,
                100.0 * b.chance,
                percent(b),
                percent(a)
            );
        }
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
        let held = mean(&gains[1]);
        let verdict = if held > 2.0 {
            "tuning on other kinds of tasks helped"
        } else {
            "no gain on kinds of tasks that were not tuned on"
        };
        out + &format!(
            "clusters tuned on {:+.1} points on average, held out {held:+.1}: {verdict}",
            mean(&gains[0])
        )
    }
}
