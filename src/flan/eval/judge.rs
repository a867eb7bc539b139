//! Answers measured: what every metric makes of a template's samples.

use super::{OptionScore, Sample};
use crate::flan::metric::Metric;
use crate::flan::spec::Dataset;
use crate::metrics::{bleu, classify, correlate, drop, edit, rouge, stats, text};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Resamples for standard errors of measures that are no means.
const RESAMPLES: usize = 200;

/// A measured value: shares, F1, ROUGE and correlations from 0 (or -1) to 1, BLEU to 100, edit distance in words.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The value.
    pub value: f64,
    /// Its standard error: of a mean, or by resampling the rows 200 times; none for a single row.
    pub stderr: Option<f64>,
}

/// How an option is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Sum of the log-probabilities, the EOS behind the option included (FLAN).
    #[default]
    SumEos,
    /// Sum of the log-probabilities.
    Sum,
    /// The same per token.
    PerToken,
    /// The same per character (the harness's normalised accuracy).
    PerChar,
    /// The same per byte.
    PerByte,
}

impl Rule {
    /// All rules, by the names of their accuracies.
    pub const ALL: [(&'static str, Rule); 5] = [
        ("acc_sum_eos", Rule::SumEos),
        ("acc_sum", Rule::Sum),
        ("acc_per_token", Rule::PerToken),
        ("acc_per_char", Rule::PerChar),
        ("acc_per_byte", Rule::PerByte),
    ];

    /// The option chosen, the first of equals; one without tokens ranks last.
    pub fn choose(self, scores: &[OptionScore]) -> Option<usize> {
        let of = |s: &OptionScore| {
            let per = |n: usize| if n == 0 { f64::NEG_INFINITY } else { s.logprob / n as f64 };
            match self {
                _ if s.tokens == 0 => f64::NEG_INFINITY,
                Self::SumEos => s.with_eos.unwrap_or(s.logprob),
                Self::Sum => s.logprob,
                Self::PerToken => per(s.tokens),
                Self::PerChar => per(s.chars),
                Self::PerByte => per(s.bytes),
            }
        };
        (0..scores.len()).reduce(|b, i| if of(&scores[i]) > of(&scores[b]) { i } else { b })
    }
}

fn mean(values: &[f64]) -> Measure {
    let m = stats::Mean::of(values);
    Measure { value: m.map_or(0.0, |m| m.value), stderr: m.and_then(|m| m.stderr) }
}

/// A statistic of the whole with its standard error over resampled rows.
fn whole(n: usize, statistic: impl Fn(&[usize]) -> f64) -> Measure {
    let all: Vec<usize> = (0..n).collect();
    let stderr = stats::bootstrap(n, RESAMPLES, 0, &statistic).map(|b| b.stderr);
    Measure { value: statistic(&all), stderr: stderr.filter(|_| n > 1) }
}

/// The measures of `samples`, all of one template and part: the dataset's metrics, and for choices the accuracy by every rule.
pub fn judge(d: &Dataset, samples: &[&Sample], rule: Rule) -> BTreeMap<String, Measure> {
    let mut out = BTreeMap::new();
    if d.is_choice() {
        for (name, rule) in Rule::ALL {
            if rule != Rule::SumEos || samples.iter().all(|s| s.scores.iter().all(|o| o.with_eos.is_some())) {
                let right: Vec<f64> = samples.iter().map(|s| f64::from(u8::from(s.right(rule)))).collect();
                out.insert(name.to_owned(), mean(&right));
            }
        }
    }
    for &metric in &d.metrics {
        out.insert(metric.name().to_owned(), measure(d, metric, samples, rule));
    }
    out
}

impl Sample {
    /// Whether the option chosen by `rule` is right.
    pub fn right(&self, rule: Rule) -> bool {
        rule.choose(&self.scores).is_some_and(|c| self.gold.contains(&c))
    }

    /// How good the answer is by `metric`, where that is a matter of one row.
    pub fn worth(&self, metric: Metric, rule: Rule) -> Option<f64> {
        let said = self.prediction.as_deref().unwrap_or_default();
        let yes = |b: bool| f64::from(u8::from(b));
        let rouge = || rouge::best(said, &self.golds, rouge::Options { stem: false, stop_ends_line: true });
        Some(match metric {
            Metric::Accuracy => yes(self.right(rule)),
            Metric::ExactMatch => yes(text::exact_match(said, &self.golds, text::Normal::Trimmed)),
            Metric::SquadEm => text::squad(said, &self.golds).em,
            Metric::SquadF1 => text::squad(said, &self.golds).f1,
            Metric::TriviaEm => text::trivia_qa(said, &self.golds).em,
            Metric::TriviaF1 => text::trivia_qa(said, &self.golds).f1,
            Metric::DropEm | Metric::DropF1 => {
                let golds: Vec<Vec<&str>> = self.golds.iter().map(|g| vec![g.as_str()]).collect();
                let a = drop::best(&[said], &golds);
                if metric == Metric::DropEm { a.em } else { a.f1 }
            }
            Metric::Rouge1 => rouge().one.f,
            Metric::Rouge2 => rouge().two.f,
            Metric::RougeLsum => rouge().lsum.f,
            Metric::EditDistance => {
                let golds = self.golds.iter();
                let distances =
                    golds.map(|g| edit::edits(said, g, edit::Words::NonWord, true).distance as f64);
                distances.fold(f64::INFINITY, f64::min)
            }
            _ => return None,
        })
    }
}

fn measure(d: &Dataset, metric: Metric, samples: &[&Sample], rule: Rule) -> Measure {
    let n = samples.len();
    let chosen: Vec<Option<usize>> = samples.iter().map(|s| rule.choose(&s.scores)).collect();
    let gold: Vec<usize> = samples.iter().map(|s| s.gold.first().copied().unwrap_or(0)).collect();
    let option = |s: &Sample, i: usize| s.options.get(i).cloned().unwrap_or_default();
    match metric {
        Metric::F1 => {
            let positive = d.positive.as_deref().unwrap_or("yes").trim();
            let is = |s: &Sample, i: usize| option(s, i).trim() == positive;
            // Prompts of another mode have other words for the options: the place counts then.
            let place = samples.first().and_then(|s| s.options.iter().position(|o| o.trim() == positive));
            let place =
                place.unwrap_or_else(|| samples.first().map_or(0, |s| s.options.len().saturating_sub(1)));
            let yes = |s: &Sample, i: usize| is(s, i) || i == place;
            let said: Vec<Option<bool>> =
                samples.iter().zip(&chosen).map(|(s, c)| c.map(|c| yes(s, c))).collect();
            let truth: Vec<bool> = samples.iter().zip(&gold).map(|(s, &g)| yes(s, g)).collect();
            whole(n, |rows| {
                let said: Vec<_> = rows.iter().map(|&i| said[i]).collect();
                let truth: Vec<_> = rows.iter().map(|&i| truth[i]).collect();
                classify::binary_f1(&said, &truth).unwrap_or(0.0)
            })
        }
        Metric::F1Macro | Metric::Matthews => {
            let classes = samples.iter().map(|s| s.options.len()).max().unwrap_or(0);
            whole(n, |rows| {
                let said: Vec<_> = rows.iter().map(|&i| chosen[i]).collect();
                let truth: Vec<_> = rows.iter().map(|&i| gold[i]).collect();
                let value = match metric {
                    Metric::F1Macro => classify::macro_f1(&said, &truth, classes),
                    _ => classify::matthews(&said, &truth),
                };
                value.unwrap_or(0.0)
            })
        }
        Metric::Pearson | Metric::Spearman => {
            let number = |s: &Sample, c: Option<usize>| {
                let said = c.map(|c| option(s, c)).or_else(|| s.prediction.clone()).unwrap_or_default();
                text::parse_float(&said).unwrap_or(0.0)
            };
            let x: Vec<f64> = samples.iter().zip(&chosen).map(|(s, c)| number(s, *c)).collect();
            let y: Vec<f64> = samples.iter().map(|s| s.value.unwrap_or(0.0)).collect();
            whole(n, |rows| {
                let x: Vec<f64> = rows.iter().map(|&i| x[i]).collect();
                let y: Vec<f64> = rows.iter().map(|&i| y[i]).collect();
                let r = if metric == Metric::Pearson { correlate::pearson } else { correlate::spearman };
                // A model that always says the same correlates with nothing.
                r(&x, &y).unwrap_or(0.0)
            })
        }
        Metric::GroupExact => {
            let groups: Vec<&str> = samples.iter().map(|s| s.group.as_deref().unwrap_or(&s.place)).collect();
            let right: Vec<bool> = samples.iter().map(|s| s.right(rule)).collect();
            let right = classify::groups_right(&groups, &right).unwrap_or_default();
            mean(&right.into_iter().map(|r| f64::from(u8::from(r))).collect::<Vec<_>>())
        }
        Metric::Bleu => {
            let counts: Vec<bleu::Counts> = samples
                .iter()
                .map(|s| {
                    let said = s.prediction.as_deref().unwrap_or_default();
                    bleu::Counts::of(said, &s.golds, bleu::Tokenizer::Intl, false)
                })
                .collect();
            whole(n, |rows| rows.iter().map(|&i| counts[i]).sum::<bleu::Counts>().bleu().score)
        }
        _ => mean(&samples.iter().filter_map(|s| s.worth(metric, rule)).collect::<Vec<_>>()),
    }
}
