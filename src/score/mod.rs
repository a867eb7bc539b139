//! Scoring: requests -> forest batches -> log-probabilities -> choices -> metrics; and prompts -> texts.
//!
//! Three seams keep this layer free of models and files of models: [`Encode`] (with [`Decode`]) is what it needs of a tokenizer, [`Predict`]
//! one forward pass over a forest batch, [`Generate`] one that continues earlier ones. Everything a request's numbers depend on is a function of that request alone:
//! batches, their size and the order of the requests only decide what is computed together.

use crate::error::Result;
use crate::ops::forest::Batch;

pub mod boundary;
pub mod engine;
pub mod forest;
pub mod generate;
pub mod log;
pub mod metrics;
pub mod prompts;
pub mod requests;
pub mod run;
pub mod summary;
pub mod text;

pub use boundary::Boundary;
pub use engine::Engine;
pub use generate::{GenerateOptions, Output, Stopped, encode_prompt, generate};
pub use prompts::{Prompt, read_prompts};
pub use requests::Requests;
pub use run::{Hooks, ScoreOptions, run};
pub use summary::Summary;
pub use text::{TextOptions, TextScore, score_text};

/// What scoring needs of a tokenizer.
pub trait Encode: Sync {
    /// The ids that the post-processor puts in front of every text, such as BOS; may be empty.
    fn prefix(&self) -> &[u32];
    /// The ids of `text` as the post-processor makes them, the prefix included.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;
    /// The ids of `text` alone, without special tokens.
    fn encode_bare(&self, text: &str) -> Result<Vec<u32>>;
    /// The end-of-text id, where there is one.
    fn eos(&self) -> Option<u32>;
}

/// The answer to one ask of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Natural-log probability of the target.
    pub logprob: f32,
    /// Whether the target is the most probable token (the first one on a tie).
    pub greedy: bool,
}

/// One forward pass of a model that keeps nothing.
pub trait Predict {
    /// Answers every ask of `batch`, in the order of its asks.
    fn predict(&mut self, batch: &Batch) -> Result<Vec<Prediction>>;
    /// The longest sequence of inputs, in tokens.
    fn context(&self) -> usize;
    /// The most tokens that one batch may hold; at least [`Predict::context`].
    fn capacity(&self) -> usize;
    /// The most asks that one batch may hold; at least 1.
    fn asks_capacity(&self) -> usize;
}

/// What generation needs of a tokenizer, beside [`Encode`].
pub trait Decode: Sync {
    /// The text of `ids`, without special tokens.
    fn decode(&self, ids: &[u32]) -> Result<String>;
}

/// A model that can keep keys and values from pass to pass.
pub trait Generate: Predict {
    /// Makes room for the keys and values of `wanted` tokens, or of as many as memory allows, but of no fewer than `least`;
    /// returns of how many. What was kept is forgotten.
    fn reserve(&mut self, wanted: usize, least: usize) -> Result<usize>;
    /// One pass over the new tokens of `batch`, whose segments lie in that room, and the likeliest token (the first on a
    /// tie) after the row of each of its asks, in their order. Targets are any tokens.
    fn next(&mut self, batch: &Batch) -> Result<Vec<u32>>;
    /// How many sequences at a time keep it busy.
    fn sequences(&self) -> usize;
}

#[cfg(test)]
pub(crate) mod fake {
    //! A tokenizer with merges across word borders, and a model whose answer is a pure function of the token path.

    use super::{Decode, Encode, Generate, Predict, Prediction};
    use crate::error::{Error, Result};
    use crate::ops::forest::{Batch, Segment};

    /// One id per character (its code point), except that each string of `merges` is one id (1000 + its index).
    pub(crate) struct Words {
        pub(crate) prefix: Vec<u32>,
        pub(crate) eos: Option<u32>,
        pub(crate) merges: Vec<&'static str>,
    }

    impl Words {
        pub(crate) fn new(bos: bool, merges: &[&'static str]) -> Self {
            Self { prefix: if bos { vec![1] } else { vec![] }, eos: Some(2), merges: merges.to_vec() }
        }
    }

    impl Encode for Words {
        fn prefix(&self) -> &[u32] {
            &self.prefix
        }
        fn encode(&self, text: &str) -> Result<Vec<u32>> {
            Ok([self.prefix.clone(), self.encode_bare(text)?].concat())
        }
        fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
            let (mut ids, mut rest) = (Vec::new(), text);
            while let Some(c) = rest.chars().next() {
                let merge = self.merges.iter().position(|m| rest.starts_with(m));
                ids.push(merge.map_or(c as u32, |m| 1000 + m as u32));
                rest = &rest[merge.map_or(c.len_utf8(), |m| self.merges[m].len())..];
            }
            Ok(ids)
        }
        fn eos(&self) -> Option<u32> {
            self.eos
        }
    }

    impl Decode for Words {
        fn decode(&self, ids: &[u32]) -> Result<String> {
            let own = |&id: &u32| id >= 1000 || Some(id) != self.eos && !self.prefix.contains(&id);
            let text = |&id: &u32| match id.checked_sub(1000) {
                Some(merge) => self.merges[merge as usize].to_string(),
                None => char::from_u32(id).into_iter().collect(),
            };
            Ok(ids.iter().filter(|id| own(id)).map(text).collect())
        }
    }

    /// The fake's next token: a letter, by a hash of the path.
    pub(crate) fn letter(path: &[u32]) -> u32 {
        97 + (-answer(path, 0).logprob * 1_000_003.0) as u32 % 26
    }

    /// The fake's answer: a hash of the path and the target.
    pub(crate) fn answer(path: &[u32], target: u32) -> Prediction {
        let h = path.iter().chain([&target]).fold(0xcbf2_9ce4_8422_2325_u64, |h, &t| {
            (h ^ u64::from(t)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17)
        });
        Prediction { logprob: -((h >> 40) as f32) / 1_000_003.0, greedy: h % 3 != 0 }
    }

    pub(crate) struct Model {
        pub(crate) context: usize,
        pub(crate) capacity: usize,
        pub(crate) asks: usize,
        pub(crate) batches: usize,
        pub(crate) tokens: usize,
        /// Fails once this many batches have run.
        pub(crate) fails_after: usize,
        /// Rows of a cache that there is memory for, and the token whose keys lie at each.
        pub(crate) room: usize,
        pub(crate) cache: Vec<u32>,
    }

    impl Model {
        pub(crate) fn new(context: usize, capacity: usize, asks: usize) -> Self {
            Self {
                context,
                capacity,
                asks,
                batches: 0,
                tokens: 0,
                fails_after: usize::MAX,
                room: usize::MAX,
                cache: vec![],
            }
        }
    }

    impl Predict for Model {
        fn predict(&mut self, batch: &Batch) -> Result<Vec<Prediction>> {
            batch.check(usize::MAX, self.context)?;
            assert!(!batch.is_empty() && batch.len() <= self.capacity && batch.rows.len() <= self.asks);
            if self.batches == self.fails_after {
                return Err(Error::internal("the fake model fails"));
            }
            self.batches += 1;
            self.tokens += batch.len();
            let path = |row: u32| {
                let at = batch.segments.iter().position(|s| row < s.start + s.len).unwrap();
                let (mut parts, mut here) = (Vec::new(), Some(at as u32));
                while let Some(i) = here {
                    let s = batch.segments[i as usize];
                    let end = if i as usize == at { row + 1 } else { s.start + s.len };
                    parts.push(&batch.tokens[s.start as usize..end as usize]);
                    here = s.parent;
                }
                parts.reverse();
                parts.concat()
            };
            Ok(batch.rows.iter().zip(&batch.targets).map(|(&r, &t)| answer(&path(r), t)).collect())
        }
        fn context(&self) -> usize {
            self.context
        }
        fn capacity(&self) -> usize {
            self.capacity
        }
        fn asks_capacity(&self) -> usize {
            self.asks
        }
    }

    impl Generate for Model {
        fn reserve(&mut self, wanted: usize, least: usize) -> Result<usize> {
            self.cache = vec![u32::MAX; wanted.min(self.room).max(least)];
            Ok(self.cache.len())
        }
        fn next(&mut self, batch: &Batch) -> Result<Vec<u32>> {
            batch.check_cached(usize::MAX, self.context, self.cache.len())?;
            assert!(!batch.is_empty() && batch.len() <= self.capacity && batch.rows.len() <= self.asks);
            if self.batches == self.fails_after {
                return Err(Error::internal("the fake model fails"));
            }
            self.batches += 1;
            self.tokens += batch.len();
            batch.slots().into_iter().zip(&batch.tokens).for_each(|(at, &t)| self.cache[at as usize] = t);
            let path = |row: u32| {
                let own = |s: &Segment| s.queries.is_some_and(|q| (q..q + s.len).contains(&row));
                let at = batch.segments.iter().position(own).unwrap();
                let (mut parts, mut here) = (Vec::new(), Some(at as u32));
                while let Some(i) = here {
                    let s = batch.segments[i as usize];
                    let len = if i as usize == at { row + 1 - s.queries.unwrap() } else { s.len };
                    parts.push(&self.cache[s.start as usize..(s.start + len) as usize]);
                    here = s.parent;
                }
                parts.reverse();
                parts.concat()
            };
            Ok(batch.rows.iter().map(|&row| letter(&path(row))).collect())
        }
        fn sequences(&self) -> usize {
            8
        }
    }
}
