//! The forest batch: what every batch of tokens looks like to the model, in training and in scoring.
//!
//! A batch is a forest of *segments* laid end to end without padding. A token attends to its own segment causally and to
//! every ancestor segment in full; positions continue from the parent's end. A packed training batch is roots only; a
//! question with its options is a root with a child per option, the context computed once.

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// One node of the forest: `len` tokens with keys and values at rows `start..start + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of the parent segment, which stands earlier in the batch; `None` for a root.
    pub parent: Option<u32>,
    /// First row of its keys and values.
    pub start: u32,
    /// First row of its queries; `None` for keys that were computed before (a cache). In a batch of its own: `start`.
    pub queries: Option<u32>,
    /// Number of tokens, at least 1.
    pub len: u32,
    /// Position of the first token: the parent's `position + len`; 0 for a root.
    pub position: u32,
}

/// A forest as the attention ops take it.
#[derive(Clone, Copy, Debug)]
pub struct Forest<'a> {
    /// Its segments; parents come first.
    pub segments: &'a [Segment],
    /// `[1, n]` u32: what `attention_plan` of the device keeps of them, as many words as its profile asks for.
    pub table: Tensor,
}

/// Tokens of a forest and what is asked of them. `rows`, `targets` and `owners` run in parallel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[t]`.
    pub tokens: Vec<u32>,
    /// The segments, in row order; together they cover `0..t` exactly.
    pub segments: Vec<Segment>,
    /// For each prediction asked for, the row whose output predicts; ascending, a row may repeat with other targets.
    pub rows: Vec<u32>,
    /// For each prediction asked for, the token whose log-probability is wanted.
    pub targets: Vec<u32>,
    /// For each prediction asked for, whose it is: an example's or option's number, in the caller's own counting.
    pub owners: Vec<u32>,
}

impl Batch {
    /// Number of tokens, `t`.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Appends a segment of `tokens` under `parent` and returns its index.
    pub fn push(&mut self, parent: Option<u32>, tokens: &[u32]) -> u32 {
        self.push_at(parent, self.len() as u32, tokens)
    }

    /// Appends, in a batch over a cache, a segment of `len` tokens that were computed before: their keys and values lie at
    /// the cache rows `start..start + len`. Returns its index.
    pub fn cached(&mut self, parent: Option<u32>, start: u32, len: usize) -> u32 {
        self.behind(parent, start, None, len)
    }

    /// Appends, in a batch over a cache, a segment of new `tokens` whose keys and values get the cache rows from `start` on.
    /// Returns its index.
    pub fn push_at(&mut self, parent: Option<u32>, start: u32, tokens: &[u32]) -> u32 {
        let queries = Some(self.len() as u32);
        self.tokens.extend_from_slice(tokens);
        self.behind(parent, start, queries, tokens.len())
    }

    fn behind(&mut self, parent: Option<u32>, start: u32, queries: Option<u32>, len: usize) -> u32 {
        assert!(len > 0, "a segment holds at least one token");
        let position = parent.map_or(0, |p| {
            let p = self.segments[p as usize];
            p.position + p.len
        });
        self.segments.push(Segment { parent, start, queries, len: len as u32, position });
        self.segments.len() as u32 - 1
    }

    /// Asks for the log-probability of `target` after row `row`.
    pub fn ask(&mut self, row: u32, target: u32, owner: u32) {
        self.rows.push(row);
        self.targets.push(target);
        self.owners.push(owner);
    }

    /// Puts the predictions asked for in ascending row order (stable).
    pub fn sort_asks(&mut self) {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|&i| self.rows[i]);
        let by = |v: &[u32]| order.iter().map(|&i| v[i]).collect::<Vec<_>>();
        (self.rows, self.targets, self.owners) = (by(&self.rows), by(&self.targets), by(&self.owners));
    }

    /// The position of every token, `[t]`.
    pub fn positions(&self) -> Vec<u32> {
        self.new_segments().flat_map(|s| s.position..s.position + s.len).collect()
    }

    /// The row of keys and values of every token, `[t]`: in a cache, or in the batch itself.
    pub fn slots(&self) -> Vec<u32> {
        self.new_segments().flat_map(|s| s.start..s.start + s.len).collect()
    }

    /// The segments that have tokens in this batch.
    fn new_segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|s| s.queries.is_some())
    }

    /// Checks the laws of the forest against a model's `vocab` size and longest `context`.
    pub fn check(&self, vocab: usize, context: usize) -> Result<()> {
        self.laws(vocab, context, None)
    }

    /// The same for a batch over a cache of `rows` rows: segments of tokens lie in row order, their keys and values anywhere
    /// in the cache, but no two at one row.
    pub fn check_cached(&self, vocab: usize, context: usize, rows: usize) -> Result<()> {
        self.laws(vocab, context, Some(rows))?;
        let mut places: Vec<_> = self.new_segments().map(|s| s.start..s.start + s.len).collect();
        places.sort_by_key(|p| p.start);
        match places.windows(2).find(|w| w[0].end > w[1].start) {
            Some(w) => Err(Error::internal(format!("cache rows {:?} and {:?} overlap", w[0], w[1]))),
            None => Ok(()),
        }
    }

    fn laws(&self, vocab: usize, context: usize, cache: Option<usize>) -> Result<()> {
        let mut row = 0;
        for (i, s) in self.segments.iter().enumerate() {
            let position = match s.parent {
                None => 0,
                Some(p) if (p as usize) < i => {
                    let p = self.segments[p as usize];
                    p.position + p.len
                }
                Some(p) => {
                    return Err(Error::internal(format!(
                        "segment {i} has parent {p}, which is not before it"
                    )));
                }
            };
            let place = match cache {
                None => (s.start, s.queries) == (row, Some(row)),
                Some(rows) => s.queries.is_none_or(|q| q == row) && s.start as usize + s.len as usize <= rows,
            };
            if !place || s.len == 0 || s.position != position {
                return Err(Error::internal(format!("segment {i} breaks the forest's layout: {s:?}")));
            }
            if (s.position + s.len) as usize > context {
                return Err(Error::internal(format!(
                    "segment {i} ends at position {}, past the model's {context}",
                    s.position + s.len
                )));
            }
            row += if s.queries.is_some() { s.len } else { 0 };
        }
        let t = self.len();
        let asks = self.rows.len();
        let ordered = self.rows.windows(2).all(|w| w[0] <= w[1]);
        let inside = self.rows.last().is_none_or(|&r| (r as usize) < t);
        if row as usize != t || asks != self.targets.len() || asks != self.owners.len() || !ordered || !inside
        {
            return Err(Error::internal("a batch's rows, targets and tokens do not fit together"));
        }
        match self.tokens.iter().chain(&self.targets).find(|&&x| x as usize >= vocab) {
            Some(x) => {
                Err(Error::model(format!("token id {x} is outside the model's vocabulary of {vocab}"))
                    .fix("the tokenizer does not belong to these weights"))
            }
            None => Ok(()),
        }
    }
}
