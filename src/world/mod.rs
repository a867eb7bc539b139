//! A small closed world that writes its own text: the material of the embedded base model and of the micro-world's datasets.
//!
//! One set of tables feeds both the running text for pretraining ([`document`]) and the labelled rows of 25 datasets in the
//! paper's 12 clusters ([`rows`]), so a label is right by construction. Everything is a pure function of its arguments. All text is our
//! own. What the datasets ask is in `tasks/micro_world/`. Not here: files, tokens, templates, training; and no claim beyond this world, where
//! "unseen task" means an unseen form of question over words and facts that the pretraining text contains.
//!
//! A sentence of a dev or test row stands in no training row of any dataset and in no document ([`Split`]).

mod prose;
mod rows;
mod scenes;
mod words;

pub use prose::{document, primer};
pub use rows::{DATASETS, Maker, Row, Split, rows, sentences};

use crate::rng::Rng;

/// FNV-1a over bytes: names a stream of draws, and sorts sentences into splits by what they say.
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

    /// `K` different numbers below `n`, in random order.
    fn places<const K: usize>(&mut self, n: usize) -> [usize; K] {
        self.distinct(&(0..n).collect::<Vec<_>>())
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
