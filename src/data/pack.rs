//! Packs examples into forest batches: roots only, end to end, without padding.
//!
//! An example never sees its neighbours (the forest keeps roots apart), so which batch it lands in changes nothing but
//! speed. Which examples form a step is `order`'s business; what a row's loss is divided by is the trainer's.

use super::examples::Example;
use crate::ops::forest::Batch;
use std::collections::BTreeSet;

/// Packs `examples`, each with its owner's number, into batches of at most `capacity` tokens by best-fit decreasing.
///
/// Each example becomes one root; each trained token is asked of the row before it, in the owner's name. The result
/// depends only on the examples and their owners, not on the order they come in. No example may be empty or longer
/// than `capacity`, and owners differ.
pub fn pack(examples: &[(u32, Example)], capacity: usize) -> Vec<Batch> {
    let mut order: Vec<&(u32, Example)> = examples.iter().collect();
    order.sort_by_key(|(owner, e)| (std::cmp::Reverse(e.tokens.len()), *owner));
    let mut bins: Vec<Vec<&(u32, Example)>> = Vec::new();
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new(); // (tokens free, bin)
    for item in order {
        let len = item.1.tokens.len();
        assert!((1..=capacity).contains(&len), "an example of {len} tokens for batches of {capacity}");
        let best = room.range((len, 0)..).next().copied();
        let (free, bin) = best.unwrap_or_else(|| {
            bins.push(Vec::new());
            (capacity, bins.len() - 1)
        });
        room.remove(&(free, bin));
        room.insert((free - len, bin));
        bins[bin].push(item);
    }
    bins.into_iter()
        .map(|mut bin| {
            bin.sort_by_key(|(owner, _)| *owner);
            let mut batch = Batch::default();
            for (owner, e) in bin {
                let start = batch.len();
                batch.push(None, e.tokens);
                for i in (1..e.tokens.len()).filter(|&i| e.targets[i] != 0) {
                    batch.ask((start + i - 1) as u32, e.tokens[i], *owner);
                }
            }
            batch
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (u32, Vec<u32>, Vec<u8>);

    fn borrowed(items: &[Owned]) -> Vec<(u32, Example<'_>)> {
        items.iter().map(|(o, t, m)| (*o, Example { id: "", tokens: t, targets: m })).collect()
    }

    proptest! {
        #[test]
        fn every_example_once_with_its_questions(
            lens in prop::collection::vec(1usize..40, 0..60), spare in 0usize..60, seed: u64,
        ) {
            let rng = crate::rng::Rng::new(seed, 0);
            let mut draw = 0;
            let mut next = |n: u64| { draw += 1; rng.below(draw, n) };
            let mut items: Vec<Owned> = lens.iter().enumerate().map(|(o, &n)| {
                // The first token tells whose it is, even where there is no other.
                let tokens = (0..n).map(|i| if i == 0 { o as u32 } else { next(1000) as u32 }).collect();
                (o as u32, tokens, (0..n).map(|_| next(2) as u8).collect())
            }).collect();
            let capacity = lens.iter().max().copied().unwrap_or(1) + spare;
            let batches = pack(&borrowed(&items), capacity);
            let mut seen = vec![false; items.len()];
            for b in &batches {
                prop_assert!(b.len() <= capacity && !b.is_empty());
                prop_assert!(b.check(1000, capacity).is_ok());
                let mut last = None;
                for s in &b.segments {
                    prop_assert_eq!((s.parent, s.position), (None, 0));
                    let rows = s.start as usize..(s.start + s.len) as usize;
                    // Every root has an ask in its owner's name or holds none; find the owner by its contents.
                    let here: Vec<usize> = (0..b.rows.len()).filter(|&i| rows.contains(&(b.rows[i] as usize))).collect();
                    let fits = |it: &Owned| {
                        let asks: Vec<_> = (1..it.1.len()).filter(|&i| it.2[i] == 1)
                            .map(|i| (s.start + i as u32 - 1, it.1[i], it.0)).collect();
                        it.1 == b.tokens[rows.clone()]
                            && asks == here.iter().map(|&i| (b.rows[i], b.targets[i], b.owners[i])).collect::<Vec<_>>()
                    };
                    let found = items.iter().position(|it| !seen[it.0 as usize] && last < Some(it.0) && fits(it));
                    prop_assert!(found.is_some(), "a root that is no example");
                    let owner = items[found.unwrap()].0;
                    seen[owner as usize] = true;
                    last = Some(owner);
                }
            }
            prop_assert!(seen.iter().all(|&s| s));
            // No two batches could have been one, and the order of arrival is of no account.
            for (i, a) in batches.iter().enumerate() {
                for b in &batches[..i] {
                    prop_assert!(a.len() + b.len() > capacity);
                }
            }
            items.reverse();
            prop_assert_eq!(batches, pack(&borrowed(&items), capacity));
        }
    }

    #[test]
    fn a_small_case_by_hand() {
        let items = [
            (7, vec![1, 2, 3], vec![0, 0, 1]),
            (2, vec![4, 5], vec![1, 1]),
            (9, vec![6, 7, 8, 9], vec![0; 4]),
        ];
        let b = pack(&borrowed(&items), 5);
        assert_eq!(b.len(), 2);
        assert_eq!((&b[0].tokens[..], b[0].rows.len()), (&[6, 7, 8, 9][..], 0));
        assert_eq!(b[1].tokens, [4, 5, 1, 2, 3]);
        assert_eq!(
            (&b[1].rows[..], &b[1].targets[..], &b[1].owners[..]),
            (&[0, 3][..], &[5, 3][..], &[2, 7][..])
        );
    }
}
