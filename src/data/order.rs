//! The order in which examples are trained: a stateless function of (seed, epoch, index).
//!
//! A run that is continued in the middle asks for the same positions and gets the same examples; nothing is carried.

use crate::rng::Rng;
use std::sync::{Arc, Mutex, PoisonError};

/// The random streams of the epochs begin here; other purposes have theirs elsewhere.
const STREAM: u64 = 1 << 40;

/// A new permutation of `n` examples for every epoch.
pub struct Order {
    /// None: in turn.
    seed: Option<u64>,
    n: usize,
    /// The permutation that was asked for last, with its epoch: a matter of speed alone.
    last: Mutex<Option<(u64, Arc<Vec<u32>>)>>,
}

impl Order {
    /// The order of `n` examples under the user's `seed`. There must be at least one example.
    pub fn new(seed: u64, n: usize) -> Self {
        assert!(n > 0 && u32::try_from(n).is_ok(), "an order of {n} examples");
        Self { seed: Some(seed), n, last: Mutex::new(None) }
    }

    /// `n` examples as they stand, over and over: for examples that were drawn in an order already.
    pub fn in_turn(n: usize) -> Self {
        Self { seed: None, ..Self::new(0, n) }
    }

    /// The index of the example at a global `position` = epoch * n + i.
    pub fn at(&self, position: u64) -> usize {
        let (epoch, i) = (position / self.n as u64, (position % self.n as u64) as usize);
        let Some(seed) = self.seed else { return i };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let permutation = match &*last {
            Some((e, p)) if *e == epoch => Arc::clone(p),
            _ => {
                let p = Arc::new(Rng::new(seed, STREAM + epoch).permutation(self.n));
                *last = Some((epoch, Arc::clone(&p)));
                p
            }
        };
        permutation[i] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_is_another_permutation_of_all() {
        let (n, order) = (101, Order::new(5, 101));
        let epochs: Vec<Vec<usize>> = (0..3).map(|e| (0..n).map(|i| order.at(e * n + i)).collect()).collect();
        for e in &epochs {
            let mut sorted = e.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..n as usize));
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
        assert_ne!(epochs[0], (0..n).map(|i| Order::new(6, 101).at(i)).collect::<Vec<_>>());
        // Nothing depends on what was asked before.
        assert_eq!(Order::new(5, 101).at(2 * n + 7), epochs[2][7]);
        assert_eq!(order.at(3), epochs[0][3]);
    }
}
