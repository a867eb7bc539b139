//! The key/value cache: what attention reads of tokens that earlier passes computed.
//!
//! Every layer has a tensor of rotated keys and one of values, both `[rows, g k]`. Which tokens' keys lie at which rows is
//! the caller's: a batch names the rows of its own tokens and of all that they see ([`Batch::push_at`], [`Batch::cached`]).
//! Attention reads keys by their place on the path, so a token's result is the same bits with a cache and without.
//!
//! [`Batch::push_at`]: crate::ops::Batch::push_at
//! [`Batch::cached`]: crate::ops::Batch::cached

use super::config::Config;
use crate::arena::Arena;
use crate::ops::Profile;
use crate::tensor::{DType, Tensor};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Room for the keys and values of so many tokens.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Keys and values by layer, `[rows + fill, g k]` each: what a batch is filled up with has the last rows.
    layers: Vec<(Tensor, Tensor)>,
    /// For the two places of batches: the cache rows of a batch's tokens, `[1, t]` u32.
    slots: [Tensor; 2],
    rows: usize,
    /// Tells this cache from all others of this process.
    pub(super) id: u64,
}

impl Cache {
    /// Takes room for `rows` tokens from `arena`, in the `dtype` of the activations, for batches of at most `tokens`.
    pub fn carve(
        c: &Config,
        arena: &mut Arena,
        dtype: DType,
        rows: usize,
        tokens: usize,
        profile: Profile,
    ) -> Self {
        let (all, cols) = (rows + Self::fill(profile), c.kv_heads * c.head_size);
        let mut take = || arena.take("keys and values", dtype, all, cols);
        let layers = (0..c.layers).map(|_| (take(), take())).collect();
        let tokens = tokens.next_multiple_of(profile.multiple);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self {
            layers,
            slots: [(); 2].map(|()| arena.take("batch", DType::U32, 1, tokens)),
            rows,
            id: COUNT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Bytes of a row, in all layers together.
    pub fn row_bytes(c: &Config, dtype: DType) -> usize {
        2 * c.layers * c.kv_heads * c.head_size * dtype.size()
    }

    /// How many tokens it has room for.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows that batches are filled up with.
    fn fill(profile: Profile) -> usize {
        profile.multiple - 1
    }

    /// Keys and values of layer `l`.
    pub(super) fn layer(&self, l: usize) -> (Tensor, Tensor) {
        self.layers[l]
    }

    /// Where the rows of the tokens of a batch at place `slot` are listed.
    pub(super) fn slots(&self, slot: usize) -> Tensor {
        self.slots[slot]
    }
}

/// Who has which rows of a cache: ranges without gaps, so that a sequence's keys lie behind one another.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Free ranges, ascending, none touching the next.
    free: Vec<Range<u32>>,
}

impl Rows {
    /// `rows` free rows.
    pub fn new(rows: usize) -> Self {
        Self { free: (rows > 0).then_some(0..rows as u32).into_iter().collect() }
    }

    /// The first `len` free rows behind one another, if there are so many.
    pub fn take(&mut self, len: usize) -> Option<Range<u32>> {
        if len == 0 {
            return Some(0..0);
        }
        let i = self.free.iter().position(|r| r.len() >= len)?;
        let start = self.free[i].start;
        self.free[i].start += len as u32;
        if self.free[i].is_empty() {
            self.free.remove(i);
        }
        Some(start..start + len as u32)
    }

    /// Gives back rows that were taken.
    pub fn give(&mut self, rows: Range<u32>) {
        if rows.is_empty() {
            return;
        }
        let i = self.free.partition_point(|r| r.start < rows.start);
        self.free.insert(i, rows);
        for i in [i + 1, i] {
            if i > 0 && i < self.free.len() && self.free[i - 1].end >= self.free[i].start {
                assert!(self.free[i - 1].end == self.free[i].start, "rows given back twice");
                self.free[i - 1].end = self.free.remove(i).end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn rows_are_handed_out_once_and_come_back_whole() {
        let mut rows = Rows::new(10);
        let [a, b, c] = [4, 3, 3].map(|n| rows.take(n).unwrap());
        assert_eq!([&a, &b, &c], [&(0..4), &(4..7), &(7..10)]);
        assert_eq!((rows.take(1), rows.take(0)), (None, Some(0..0)));
        rows.give(a);
        rows.give(c);
        assert_eq!(rows.take(5), None, "seven are free, but not behind one another");
        rows.give(b);
        assert_eq!(rows.take(10), Some(0..10));

        let rng = Rng::new(3, 0);
        let (mut rows, mut taken): (_, Vec<Range<u32>>) = (Rows::new(100), Vec::new());
        for i in 0..2000 {
            match rows.take(1 + rng.below(3 * i, 20) as usize) {
                Some(new) => {
                    assert!(taken.iter().all(|t| t.end <= new.start || new.end <= t.start));
                    taken.push(new);
                }
                None => rows.give(taken.swap_remove(rng.below(3 * i + 1, taken.len() as u64) as usize)),
            }
        }
        taken.into_iter().for_each(|t| rows.give(t));
        assert_eq!(rows.take(100), Some(0..100));
    }
}
