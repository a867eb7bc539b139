//! How good generated text is: the measures of the FLAN paper and of the benchmarks it uses.
//!
//! A measure is a pure function of texts or numbers. Where the measure of a set is the mean over its examples (exact
//! match, F1, ROUGE), the function gives one example's value; where it is not (BLEU, F1 of a class), one example's
//! counts, which add up: subsets and bootstrap samples need no second look at the text. All values are shares in
//! 0..=1, but BLEU, which is in 0..=100 everywhere. Sums run from first to last, so the same input gives the same
//! bits.
//!
//! Each file names the program it agrees with, quirks included: published scores were computed by that program.
//! `tests/fixtures/metrics/make.py` asks those programs, and `golden.rs` compares.

pub mod bleu;
pub mod classify;
pub mod correlate;
pub mod drop;
pub mod edit;
pub mod porter;
pub mod rouge;
pub mod stats;
pub mod text;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;
