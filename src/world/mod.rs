//! A small closed world that writes its own text: the material of the embedded default model and its task mixture.
//!
//! One set of tables feeds both the running text for pretraining ([`prose`](prose())) and the labelled tasks
//! ([`tasks`](tasks())), so a label is right by construction. Everything is a pure function of (seed, index). All text is our
//! own. Not here: files, tokens, training; and no claim beyond this world, where "unseen task" means an unseen form of
//! question over words and facts that the pretraining text contains.
//!
//! Ways to answer without doing the task, measured by a test over 2,000 rows of each (accuracy, ties at random): *options*
//! takes the option that was most often right in training; *overlap* the one with the most words, or four-letter stems, in
//! the prompt; *place* the first or the last one mentioned, whichever is better.
//!
//! | task (cluster) | chance | options | overlap | place |
//! |---|---|---|---|---|
//! | review, feeling (sentiment) | .50 | .51, .48 | .50, .50 | .50, .50 |
//! | animal_fact, job_fact (closed_book) | .33 | .33, .33 | .33, .33 | .33, .33 |
//! | effect (commonsense) | .50 | .51 | .50 | .50 |
//! | need (commonsense) | .33 | .33 | .33 | .33 |
//! | because, fit (coreference) | .50 | .50, .50 | .51, .50 | .50, .50 |
//! | size, kind (comparison) | .50 | .49, .49 | .50, .50 | .52, .51 |
//! | where_is, who_has (reading) | .50 | .50, .52 | .50, .50 | .53, .51 |
//! | follows, same_meaning (entailment) | .50 | .50, .48 | .50, .50 | .51, .51 |

mod makers;
mod prose;
mod rows;
mod scenes;
mod tasks;
mod words;

pub use prose::prose;
pub use rows::{Example, HELD_OUT, Prompt, Request, Split, clusters, instance, test_requests, train_rows};
pub use tasks::{Task, Template, tasks};

use crate::rng::Rng;

/// FNV-1a over bytes: names a stream of draws, and sorts rows into splits by what they say.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// A cursor over the draws of one (seed, stream): the n-th call sees draw n, so a text depends on nothing else.
pub(crate) struct Draw {
    rng: Rng,
    at: u64,
}

impl Draw {
    fn new(seed: u64, stream: &str) -> Self {
        Self { rng: Rng::new(seed, hash(stream)), at: 0 }
    }

    /// Uniform in 0..n; `n` must not be 0.
    fn below(&mut self, n: usize) -> usize {
        self.at += 1;
        self.rng.below(self.at - 1, n as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `K` members of `from` at different places, in random order.
    fn distinct<T: Copy, const K: usize>(&mut self, from: &[T]) -> [T; K] {
        let mut left: Vec<usize> = (0..from.len()).collect();
        std::array::from_fn(|_| from[left.swap_remove(self.below(left.len()))])
    }

    /// `K` members of `from` whose keys differ, in random order; `from` must hold that many keys.
    fn distinct_by<T: Copy, Q: PartialEq, const K: usize>(
        &mut self,
        from: &[T],
        key: impl Fn(&T) -> Q,
    ) -> [T; K] {
        loop {
            let taken: [T; K] = self.distinct(from);
            if (1..K).all(|i| (0..i).all(|j| key(&taken[i]) != key(&taken[j]))) {
                return taken;
            }
        }
    }
}

/// The noun with its indefinite article.
fn a(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// The noun without its article.
fn bare(noun: &str) -> &str {
    noun.strip_prefix("a ").or_else(|| noun.strip_prefix("an ")).unwrap_or(noun)
}

/// The text with its first letter in upper case.
fn cap(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
