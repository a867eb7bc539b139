//! A model asked the same rows in several kinds of prompts: what the run without arguments and the experiments compare.

use super::Global;
use super::device::Machine;
use super::evaluate::{Bare, Model};
use crate::error::{Error, Result};
use crate::experiment::{Asked, Marks};
use crate::flan::eval::{Baselines, EvalOptions, Rule, Sample, baselines, evaluate};
use crate::flan::{self, Catalog, DataDirs, Part, load_part};
use crate::flan::{Join, Metric, Mode, TaskRef, Truncate, Wording, Writer};
use crate::model::Config;
use crate::progress::{Mode as ProgressMode, Progress};
use crate::score::generate::GenerateOptions;
use crate::score::{Encode, Engine, ScoreOptions};
use crate::tensor::DType;
use crate::text::Tokenizer;
use crate::weights::Source;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

impl Asked {
    fn mode(self) -> (Mode, bool) {
        match self {
            Self::Flan => (Mode::Flan, true),
            Self::Plain => (Mode::Flan, false),
            Self::Continuation => (Mode::Continuation, false),
            Self::DatasetName => (Mode::DatasetName, true),
        }
    }
}

/// What is asked.
pub(super) struct Exam<'a> {
    pub(super) tasks: Vec<TaskRef<'a>>,
    pub(super) data: &'a DataDirs,
    /// Between prompt and answer.
    pub(super) join: Join,
    /// At most so many test rows of a task, each in one template.
    pub(super) limit: usize,
    /// Draws them.
    pub(super) seed: u64,
    pub(super) input_tokens: usize,
    pub(super) target_tokens: usize,
}

/// A model to be asked, and on what.
pub(super) struct Candidate<'a> {
    pub(super) source: &'a Source,
    pub(super) config: &'a Config,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) device: &'a Machine,
    pub(super) dtype: DType,
    /// Names the model in progress lines.
    pub(super) name: &'a str,
}

impl Exam<'_> {
    /// Asks `model` every task in each of `ways`, with `shots` solved examples in front.
    pub(super) fn sit(
        &self,
        model: &Candidate<'_>,
        ways: &[Asked],
        shots: usize,
        global: &Global,
        stop: &AtomicBool,
    ) -> Result<Vec<Marks>> {
        let file = model.source.checkpoint()?;
        let longest = (self.input_tokens + self.target_tokens).min(model.config.context);
        let (mut engine, _) = Engine::load(&**model.device, model.config, &file, model.dtype, longest)?;
        drop(file);
        let work = tempfile::tempdir().map_err(|e| Error::disk(format!("no temporary folder: {e}")))?;
        let mut all = Vec::new();
        let quiet = Global { progress: ProgressMode::None, ..global.clone() };
        let total = (ways.len() * self.tasks.len()) as u64;
        let mut progress = Progress::new(global.progress, &format!("score {}", model.name), total, "task");
        for &asked in ways {
            let (mode, block) = asked.mode();
            let wording = Wording {
                prompt: mode,
                join: self.join,
                input_tokens: self.input_tokens,
                target_tokens: self.target_tokens,
                truncate: Truncate::Field,
                shots,
                shot_tokens: self.input_tokens,
            };
            let writer = Writer::new(wording.within(model.config.context), model.tokenizer)?;
            let bare = Bare(model.tokenizer);
            let encode: &dyn Encode = if writer.format.prefix() { model.tokenizer } else { &bare };
            let eos = model.tokenizer.eos().is_some();
            let rule = if eos { Rule::SumEos } else { Rule::Sum };
            let options = EvalOptions {
                rule,
                limit: Some(self.limit),
                templates: None,
                rotate: true,
                block,
                dev: false,
                seed: self.seed,
            };
            let mut answers = Model {
                engine: &mut engine,
                tokenizer: model.tokenizer,
                encode,
                scoring: ScoreOptions { unconditional: None, eos, ..ScoreOptions::default() },
                generating: GenerateOptions {
                    max_new_tokens: writer.wording.target_tokens,
                    stop_ids: model.tokenizer.stop_ids().to_vec(),
                    stop: if mode == Mode::Continuation { vec!["\n".into()] } else { vec!["\n\n".into()] },
                    prefix: encode.prefix().to_vec(),
                    batch_size: None,
                    window: None,
                    unrolled: false,
                },
                work: work.path(),
                global: &quiet,
                stop,
            };
            for &task in &self.tasks {
                progress.set((all.len() as u64).min(total), &[]);
                let results = evaluate(task, self.data, &writer, &options, &mut answers)?;
                for result in results.unwrap_or_default() {
                    let metric = match task.dataset.is_choice() {
                        true => Metric::Accuracy,
                        false => task
                            .dataset
                            .metrics
                            .iter()
                            .find(|m| by_row(**m))
                            .copied()
                            .unwrap_or(Metric::Rouge1),
                    };
                    let mut samples = result.samples;
                    samples.sort_by_key(|s| s.doc);
                    let worth = samples.iter().map(|s| s.worth(metric, rule).unwrap_or(0.0)).collect();
                    all.push(Marks {
                        task: result.name,
                        cluster: result.cluster,
                        asked,
                        shots,
                        worth,
                        unbiased: unbiased(&samples),
                        chance: result.chance,
                    });
                }
            }
        }
        progress.finish();
        Ok(all)
    }
}

/// What the tasks of a cluster give without being done, on the mean; none without rows or choices.
pub(super) fn guards(catalog: &Catalog, data: &DataDirs, cluster: &str) -> Result<Option<Baselines>> {
    let mut all = Vec::new();
    for t in catalog.tasks().filter(|t| t.dataset.cluster == cluster) {
        let Some(place) = data.find(t.task) else { continue };
        let part = |part, cap| load_part(t, &place, part, cap);
        if let (Some(train), Some(test)) = (part(Part::Train, 5000)?, part(Part::Test, usize::MAX)?) {
            all.extend(baselines(&flan::Source::new(t, train)?, &test.rows)?);
        }
    }
    Ok(Baselines::mean(&all))
}

/// Whether a metric of texts is a matter of one row.
fn by_row(metric: Metric) -> bool {
    metric != Metric::Bleu
}

/// Rows of one set of options below which a leaning cannot be told from the answers.
const ENOUGH: usize = 10;

/// Whether each row is right once the mean log-odds of every option text over the rows with the same options are taken off
/// (contextual calibration by the batch, after Zhao et al., "Calibrate Before Use", 2021). Rows whose options are their own stay as
/// they are. No label is looked at.
fn unbiased(samples: &[Sample]) -> Vec<f64> {
    let key = |s: &Sample| {
        let mut texts: Vec<&str> = s.options.iter().map(String::as_str).collect();
        texts.sort_unstable();
        texts.join("\n")
    };
    let odds = |s: &Sample| -> Vec<f64> {
        let values: Vec<f64> = s.scores.iter().map(|o| o.with_eos.unwrap_or(o.logprob)).collect();
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        values.into_iter().map(|v| v - mean).collect()
    };
    let mut groups: BTreeMap<String, (usize, BTreeMap<&str, f64>)> = BTreeMap::new();
    for s in samples.iter().filter(|s| !s.scores.is_empty()) {
        let group = groups.entry(key(s)).or_default();
        group.0 += 1;
        for (text, value) in s.options.iter().zip(odds(s)) {
            *group.1.entry(text).or_default() += value;
        }
    }
    let right = |s: &Sample| {
        let lean = groups.get(&key(s)).filter(|(n, _)| *n >= ENOUGH);
        let off = |text: &String| lean.map_or(0.0, |(n, sums)| sums[text.as_str()] / *n as f64);
        let values: Vec<f64> = s.options.iter().zip(odds(s)).map(|(t, v)| v - off(t)).collect();
        let best = (0..values.len()).reduce(|b, i| if values[i] > values[b] { i } else { b });
        f64::from(u8::from(best.is_some_and(|b| s.gold.contains(&b))))
    };
    samples.iter().filter(|s| !s.scores.is_empty()).map(right).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flan::eval::OptionScore;

    /// A row with the options' log-probabilities; `gold` is right.
    fn sample(options: [&str; 2], scores: [f64; 2], gold: usize) -> Sample {
        let score = |logprob| OptionScore {
            logprob,
            with_eos: Some(logprob),
            tokens: 1,
            chars: 2,
            bytes: 2,
            greedy: false,
            cut: false,
        };
        Sample {
            doc: 0,
            place: String::new(),
            template: 0,
            part: "test".into(),
            context: String::new(),
            options: options.map(String::from).into(),
            gold: vec![gold],
            golds: vec![],
            value: None,
            group: None,
            scores: scores.map(score).into(),
            prediction: None,
            shots: 0,
            cut: false,
        }
    }

    /// A model that leans to "no" by two nats and knows the answer by one: every "yes" is wrong until the leaning is taken off, in whatever order the
    /// options stand. A few rows of their own stay as they are.
    #[test]
    fn a_leaning_is_taken_off_where_there_are_rows_enough_to_see_it() {
        let row = |i: usize| {
            let gold = usize::from(i % 2 == 1); // yes, no, yes, no
            let knows = [0.5 - gold as f64, gold as f64 - 0.5];
            match i % 4 < 2 {
                true => sample(["yes", "no"], [knows[0], knows[1] + 2.0], gold),
                false => sample(["no", "yes"], [knows[1] + 2.0, knows[0]], 1 - gold),
            }
        };
        let mut samples: Vec<Sample> = (0..12).map(row).collect();
        let raw: f64 = samples.iter().map(|s| f64::from(u8::from(s.right(Rule::Sum)))).sum();
        assert_eq!((raw, unbiased(&samples)), (6.0, vec![1.0; 12]));
        samples.push(sample(["Ann", "Ben"], [0.0, 1.0], 0));
        assert_eq!(unbiased(&samples)[12], 0.0);
        // Too few of a kind to tell a leaning from the answers.
        assert_eq!(unbiased(&samples[..4]).iter().sum::<f64>(), 2.0);
    }
}
