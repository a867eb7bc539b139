//! Contamination: does an evaluation row share a run of 13 words with text that was trained on?
//!
//! After Brown et al., "Language Models are Few-Shot Learners", 2020, appendix C: lower case, punctuation away, runs of 13 words; rows
//! with less than 13 are compared whole. A row with any such run in common is dirty.

use super::judge::Rule;
use super::{Sample, TaskResult};
use crate::metrics::stats::Mean;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Words of a run.
const N: usize = 13;

/// Hashes of the runs of a text.
fn grams(text: &str) -> Vec<u64> {
    let clean: String = text
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { ' ' })
        .flat_map(char::to_lowercase)
        .collect();
    let words: Vec<&str> = clean.split_whitespace().collect();
    let hash = |run: &[&str]| {
        let bytes = blake3::hash(run.join(" ").as_bytes());
        u64::from_le_bytes(std::array::from_fn(|i| bytes.as_bytes()[i]))
    };
    match words.len() {
        0 => Vec::new(),
        n if n < N => vec![hash(&words)],
        _ => words.windows(N).map(hash).collect(),
    }
}

/// Runs of the rows that are evaluated, and those of them that training text holds.
#[derive(Default)]
pub struct Grams {
    wanted: HashSet<u64>,
    found: HashSet<u64>,
}

impl Grams {
    /// Looks out for the runs of an evaluation row.
    pub fn want(&mut self, text: &str) {
        self.wanted.extend(grams(text));
    }

    /// Reads a piece of training text.
    pub fn read(&mut self, text: &str) {
        self.found.extend(grams(text).into_iter().filter(|g| self.wanted.contains(g)));
    }

    /// Whether an evaluation row shares a run with what was read.
    pub fn dirty(&self, text: &str) -> bool {
        grams(text).iter().any(|g| self.found.contains(g))
    }
}

/// Scores apart for clean and dirty rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overlap {
    /// Test rows without a run in common with training text.
    pub clean: usize,
    /// Test rows with one.
    pub dirty: usize,
    /// Mean worth of the answers (accuracy, F1, ...) over clean rows and templates.
    pub clean_score: Option<f64>,
    /// The same over dirty rows.
    pub dirty_score: Option<f64>,
}

impl Overlap {
    /// Splits the test samples of `result`; `dirty` says of a row's number whether it is.
    pub fn of(result: &TaskResult, rule: Rule, dirty: impl Fn(usize) -> bool) -> Self {
        let test = || result.samples.iter().filter(|s| s.part == "test");
        let score = |wanted: bool| {
            let values: Vec<f64> = test()
                .filter(|s| dirty(s.doc) == wanted)
                .filter_map(|s: &Sample| {
                    let metric = result.headline;
                    s.worth(metric, rule)
                        .or_else(|| (!s.options.is_empty()).then(|| f64::from(u8::from(s.right(rule)))))
                })
                .collect();
            Mean::of(&values).map(|m| m.value)
        };
        let mut docs: Vec<usize> = test().map(|s| s.doc).collect();
        docs.sort_unstable();
        docs.dedup();
        let all = docs.len();
        let bad = docs.iter().filter(|d| dirty(**d)).count();
        Self { clean: all - bad, dirty: bad, clean_score: score(false), dirty_score: score(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_thirteen_words() {
        let words = "one two three four five six seven eight nine ten eleven twelve thirteen";
        let mut g = Grams::default();
        g.want(words);
        g.want("Short text!");
        g.read(
            "Before it: One, two; three four five six seven eight nine ten eleven twelve thirteen. After.",
        );
        g.read("a short text");
        assert!(g.dirty(words) && !g.dirty("Short text!"));
        // One word less in common is clean; a short row counts only as a whole.
        g.want("zero two three four five six seven eight nine ten eleven twelve thirteen");
        assert!(!g.dirty("zero two three four five six seven eight nine ten eleven twelve thirteen"));
        g.read("short, TEXT");
        assert!(g.dirty("Short text!"));
    }
}
