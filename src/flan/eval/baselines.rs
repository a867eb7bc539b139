//! Ways to answer choices without doing the task: what a score must be compared with before it means anything.

use crate::error::Result;
use crate::flan::{Found, Source};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Expected accuracies on test rows, ties broken by chance; a share of 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// One option of each row at random.
    pub chance: f64,
    /// The answer that is most frequent in training, where it is an option.
    pub majority: f64,
    /// The option that was most often right in training when it was shown.
    pub options: f64,
    /// The option with the most words in common with the row's inputs.
    pub overlap: f64,
    /// The longest option, or the shortest, whichever is better.
    pub length: f64,
}

impl Baselines {
    /// Means over several tasks.
    pub fn mean(all: &[Self]) -> Option<Self> {
        let n = all.len() as f64;
        let of = |f: fn(&Self) -> f64| all.iter().map(f).sum::<f64>() / n;
        (!all.is_empty()).then(|| Self {
            chance: of(|b| b.chance),
            majority: of(|b| b.majority),
            options: of(|b| b.options),
            overlap: of(|b| b.overlap),
            length: of(|b| b.length),
        })
    }
}

struct Item<'a> {
    options: &'a [String],
    gold: &'a [usize],
    text: String,
}

impl Item<'_> {
    /// The expected accuracy of taking the option of the highest `score`.
    fn accuracy(&self, score: impl Fn(&str) -> f64) -> f64 {
        let scores: Vec<f64> = self.options.iter().map(|o| score(o)).collect();
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let tied = scores.iter().filter(|&&s| s == best).count().max(1) as f64;
        self.gold.iter().filter(|&&g| scores.get(g) == Some(&best)).count() as f64 / tied
    }
}

fn words(text: &str) -> Vec<String> {
    let parts = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    parts.map(str::to_lowercase).collect()
}

/// The baselines of a task with choices on `test`, learnt from `train`; none for a task with texts or without rows.
pub fn baselines(train: &Source<'_>, test: &[Found]) -> Result<Option<Baselines>> {
    let inputs = &train.task.dataset.inputs;
    let mut answers: HashMap<String, f64> = HashMap::new();
    let mut rates: HashMap<String, (f64, f64)> = HashMap::new();
    for i in 0..train.len() {
        let row = train.row(i)?.1;
        if !row.options.is_empty() {
            *answers.entry(row.answer.clone()).or_default() += 1.0;
        }
        for (k, option) in row.options.iter().enumerate() {
            let rate = rates.entry(option.clone()).or_default();
            rate.0 += f64::from(u8::from(row.gold.contains(&k)));
            rate.1 += 1.0;
        }
    }
    let items: Vec<Item<'_>> = test
        .iter()
        .filter(|f| !f.row.options.is_empty())
        .map(|f| {
            let shown = inputs.iter().filter_map(|name| f.row.fields.get(name));
            let text = shown.map(super::super::row::plain).collect::<Vec<_>>().join(" ");
            Item { options: &f.row.options, gold: &f.row.gold, text }
        })
        .collect();
    if items.is_empty() {
        return Ok(None);
    }
    let n = items.len() as f64;
    let mean = |f: &dyn Fn(&Item<'_>) -> f64| items.iter().map(f).sum::<f64>() / n;
    let length = |sign: f64| mean(&|i| i.accuracy(|o| sign * o.chars().count() as f64));
    let overlap = |i: &Item<'_>| {
        let text = words(&i.text);
        i.accuracy(|o| {
            let option = words(o);
            text.iter().filter(|w| option.contains(w)).count() as f64
        })
    };
    Ok(Some(Baselines {
        chance: mean(&|i| i.gold.len() as f64 / i.options.len() as f64),
        majority: mean(&|i| i.accuracy(|o| answers.get(o).copied().unwrap_or(0.0))),
        options: mean(&|i| i.accuracy(|o| rates.get(o).map_or(0.0, |(right, shown)| right / shown))),
        overlap: mean(&overlap),
        length: length(1.0).max(length(-1.0)),
    }))
}
