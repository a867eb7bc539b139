//! Sequences -> forest batches.
//!
//! The inputs that all options of a request share are a root, computed once; what follows of each option is a child. An
//! option's last token is never an input, so one-token options cost the context alone. The shape of a request's tree is a
//! function of the request only, also where a tree too large for one batch is split over several: that is why scores do
//! not depend on the batches. No model and no text here.

use super::Prediction;
use super::boundary::{Sequence, common};
use crate::error::{Error, Kind, Result};
use crate::ops::forest::Batch;

/// What one batch may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Trees (requests), at least 1.
    pub trees: usize,
    /// Tokens.
    pub tokens: usize,
    /// Asks, at least 1.
    pub asks: usize,
}

/// The sequences of one request: shared inputs and what each adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Inputs that every branch starts with; may be empty.
    root: Vec<u32>,
    branches: Vec<Branch>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Branch {
    owner: u32,
    /// Inputs after the root; may be empty.
    rest: Vec<u32>,
    /// Position of the row that predicts the first target.
    row: usize,
    targets: Vec<u32>,
}

impl Tree {
    /// The tree of `sequences`, owned by `owner`, `owner + 1`, ...; `None` if there is nothing to score in any of them.
    /// `unrolled` shares nothing: one root per sequence.
    pub fn grow(sequences: &[Sequence], owner: u32, unrolled: bool) -> Option<Self> {
        let scored = || (owner..).zip(sequences).filter(|(_, s)| !s.targets().is_empty());
        let (_, one) = scored().next()?;
        let lone = unrolled || scored().count() == 1;
        let shared = scored().map(|(_, s)| common(one.inputs(), s.inputs())).min().unwrap_or(0);
        let shared = if lone { 0 } else { shared };
        let branches = scored()
            .map(|(owner, s)| Branch {
                owner,
                rest: s.inputs()[shared..].to_vec(),
                row: s.first - 1,
                targets: s.targets().to_vec(),
            })
            .collect();
        Some(Self { root: one.inputs()[..shared].to_vec(), branches })
    }

    fn tokens(&self) -> usize {
        self.root.len() + self.branches.iter().map(|b| b.rest.len()).sum::<usize>()
    }

    fn asks(&self) -> usize {
        self.branches.iter().map(|b| b.targets.len()).sum()
    }
}

/// Fewest tokens that neighbouring trees share for them to be computed once.
const TRUNK: usize = 32;

/// How many tokens at the front of every tree's root are a trunk that it shares with its neighbours: solved examples in front of
/// all prompts, a passage that several questions are about.
fn trunks(trees: &[Tree]) -> Vec<usize> {
    let mut lengths = vec![0; trees.len()];
    let mut i = 0;
    while i + 1 < trees.len() {
        let root = &trees[i].root;
        let (mut shared, mut end) = (root.len(), i + 1);
        while end < trees.len() {
            let next = common(&root[..shared], &trees[end].root);
            // A neighbour that shares much less begins a group of its own.
            if next < TRUNK.max(shared / 2) && end > i + 1 || next < TRUNK {
                break;
            }
            (shared, end) = (next, end + 1);
        }
        if end > i + 1 {
            lengths[i..end].fill(shared);
        }
        i = end;
    }
    lengths
}

/// Packs `trees`, in order, into as few batches as that order allows. A batch's owners are those of the branches; an
/// owner's asks come in token order, within a batch and over batches. What neighbouring trees share at their front is there
/// once in a batch, unless `apart`.
///
/// # Errors
/// `Kind::Memory` if a single sequence exceeds `limits.tokens`.
pub fn batches(trees: &[Tree], limits: &Limits, apart: bool) -> Result<Vec<Batch>> {
    let lengths = if apart { vec![0; trees.len()] } else { trunks(trees) };
    let mut packer = Packer { limits, full: Vec::new(), batch: Batch::default(), trees: 0, trunk: None };
    for (tree, trunk) in trees.iter().zip(lengths) {
        packer.add(tree, trunk)?;
    }
    packer.flush();
    Ok(packer.full)
}

struct Packer<'a> {
    limits: &'a Limits,
    full: Vec<Batch>,
    batch: Batch,
    trees: usize,
    /// The trunk in the current batch, by its tokens, and its segment.
    trunk: Option<(&'a [u32], u32)>,
}

impl<'a> Packer<'a> {
    fn flush(&mut self) {
        if !self.batch.is_empty() {
            let mut batch = std::mem::take(&mut self.batch);
            batch.sort_asks();
            self.full.push(batch);
        }
        self.trees = 0;
        self.trunk = None;
    }

    fn add(&mut self, tree: &'a Tree, trunk: usize) -> Result<()> {
        let fits = |tokens: usize, asks: usize| tokens <= self.limits.tokens && asks <= self.limits.asks;
        let (trunk, root_rest) = tree.root.split_at(trunk);
        let there = |p: &Self| p.trunk.filter(|(ids, _)| !trunk.is_empty() && *ids == trunk).map(|(_, s)| s);
        let known = if there(self).is_some() { trunk.len() } else { 0 };
        let whole = fits(tree.tokens(), tree.asks());
        let joins = fits(self.batch.len() + tree.tokens() - known, self.batch.rows.len() + tree.asks());
        if self.trees == self.limits.trees || (whole && !joins) {
            self.flush();
        }
        self.trees += 1;
        // Where the trunk, the root behind it and the branch lie in the current batch, once they are there. A tree that does
        // not fit goes on in the next batch with the same segments.
        let mut root: Option<Option<u32>> = None;
        for branch in &tree.branches {
            let mut done = 0;
            while done < branch.targets.len() {
                let new_root = match root {
                    Some(_) => 0,
                    None if there(self).is_some() => root_rest.len(),
                    None => tree.root.len(),
                };
                let room = self.limits.asks - self.batch.rows.len();
                if self.batch.len() + new_root + branch.rest.len() > self.limits.tokens || room == 0 {
                    if self.batch.is_empty() {
                        let need = new_root + branch.rest.len();
                        return Err(Error::new(
                            Kind::Memory,
                            format!(
                                "a sequence of {need} tokens does not fit a batch of {}",
                                self.limits.tokens
                            ),
                        )
                        .fix("give more memory, or score with a shorter window"));
                    }
                    self.flush();
                    self.trees = 1;
                    root = None;
                    continue;
                }
                let parent = *root.get_or_insert_with(|| {
                    let mut parent = there(self);
                    if parent.is_none() && !trunk.is_empty() {
                        let segment = self.batch.push(None, trunk);
                        self.trunk = Some((trunk, segment));
                        parent = Some(segment);
                    }
                    if root_rest.is_empty() { parent } else { Some(self.batch.push(parent, root_rest)) }
                });
                let rest_start = self.batch.len() as u32;
                if !branch.rest.is_empty() {
                    self.batch.push(parent, &branch.rest);
                }
                let take = room.min(branch.targets.len() - done);
                for i in done..done + take {
                    let at = branch.row + i;
                    let row = if at >= tree.root.len() {
                        rest_start + (at - tree.root.len()) as u32
                    } else {
                        self.row_in(parent, at as u32)
                    };
                    self.batch.ask(row, branch.targets[i], branch.owner);
                }
                done += take;
            }
        }
        Ok(())
    }

    /// The row of the token at path position `at` in `segment` or what it hangs on.
    fn row_in(&self, segment: Option<u32>, at: u32) -> u32 {
        let mut here = segment;
        while let Some(s) = here.map(|i| self.batch.segments[i as usize]) {
            if at >= s.position {
                return s.start + (at - s.position);
            }
            here = s.parent;
        }
        unreachable!("a position of the path lies in one of its segments")
    }
}

/// The sum of an owner's predictions so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Sum of the log-probabilities, in f64 and token order.
    pub logprob: f64,
    /// How many there were.
    pub tokens: usize,
    /// How many targets were not the most probable token.
    pub misses: usize,
    /// The same without the last of them: an EOS behind an option.
    pub before: (f64, usize),
}

impl Tally {
    /// Whether there were tokens and each was the most probable one.
    pub fn greedy(&self) -> bool {
        self.tokens > 0 && self.misses == 0
    }
}

/// Adds the predictions of `batch` to their owners' tallies.
///
/// # Errors
/// `Kind::Model` on a log-probability that is not finite.
pub fn add(batch: &Batch, predictions: &[Prediction], tallies: &mut [Tally]) -> Result<()> {
    if predictions.len() != batch.rows.len() {
        let (got, want) = (predictions.len(), batch.rows.len());
        return Err(Error::internal(format!("a forward pass answered {got} of {want} asks")));
    }
    for (&owner, p) in batch.owners.iter().zip(predictions) {
        if !p.logprob.is_finite() {
            return Err(Error::model(format!("the model gave a log-probability of {}", p.logprob))
                .fix("check the weights with `flanrt model verify`; with f16, try bf16 or f32"));
        }
        let tally = &mut tallies[owner as usize];
        tally.before = (tally.logprob, tally.misses);
        tally.logprob += f64::from(p.logprob);
        tally.tokens += 1;
        tally.misses += usize::from(!p.greedy);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Predict;
    use super::super::fake::{Model, answer};
    use super::*;

    fn seq(ids: &[u32], first: usize) -> Sequence {
        Sequence { ids: ids.to_vec(), first, ..Sequence::default() }
    }

    /// What the plain definition gives for one sequence.
    fn plain(s: &Sequence) -> Tally {
        let mut t = Tally::default();
        for i in s.first..s.ids.len() {
            let p = answer(&s.ids[..i], s.ids[i]);
            t.before = (t.logprob, t.misses);
            t.logprob += f64::from(p.logprob);
            t.tokens += 1;
            t.misses += usize::from(!p.greedy);
        }
        t
    }

    fn scores(requests: &[Vec<Sequence>], limits: Limits, unrolled: bool) -> (Vec<Tally>, Model) {
        let mut owner = 0;
        let trees: Vec<Tree> = requests
            .iter()
            .filter_map(|r| {
                let tree = Tree::grow(r, owner, unrolled);
                owner += r.len() as u32;
                tree
            })
            .collect();
        let mut model = Model::new(64, limits.tokens, limits.asks);
        let mut tallies = vec![Tally::default(); owner as usize];
        for b in batches(&trees, &limits, unrolled).unwrap() {
            assert!(b.segments.iter().filter(|s| s.parent.is_none()).count() > 0);
            add(&b, &model.predict(&b).unwrap(), &mut tallies).unwrap();
        }
        (tallies, model)
    }

    fn requests() -> Vec<Vec<Sequence>> {
        vec![
            // One-token options after a shared context.
            vec![seq(&[1, 5, 6, 7], 3), seq(&[1, 5, 6, 8], 3), seq(&[1, 5, 6, 9], 3)],
            // Options that share their first tokens, one the beginning of another.
            vec![seq(&[1, 5, 7, 7, 8], 2), seq(&[1, 5, 7, 7, 9, 10], 2), seq(&[1, 5, 7], 2)],
            // A moved border: scoring starts at different places.
            vec![seq(&[1, 5, 20], 2), seq(&[1, 5, 6, 21], 3)],
            // Nothing in common, nothing to score, a single sequence.
            vec![seq(&[3, 4, 5], 1), seq(&[9, 8, 7, 6], 1)],
            vec![seq(&[1, 5], 2), seq(&[], 1)],
            vec![seq(&[1, 5, 6, 7, 8, 9, 10, 11, 12], 4)],
        ]
    }

    #[test]
    fn forest_and_batches_change_nothing() {
        let requests = requests();
        let want: Vec<Tally> = requests.iter().flatten().map(plain).collect();
        for unrolled in [false, true] {
            for trees in [1, 2, 7, 32] {
                for tokens in [8, 9, 13, 1000] {
                    for asks in [1, 2, 5, 1000] {
                        let got = scores(&requests, Limits { trees, tokens, asks }, unrolled).0;
                        assert_eq!(got, want, "{unrolled} {trees} {tokens} {asks}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_context_is_computed_once() {
        let limits = Limits { trees: 9, tokens: 99, asks: 99 };
        let one = |r: usize| scores(&requests()[r..=r], limits, false).1.tokens;
        assert_eq!(one(0), 3); // the context alone
        assert_eq!(one(1), 2 + 2 + 3); // options share their root up to the shortest's last input
        assert_eq!(one(2), 2 + 1);
        assert_eq!(one(3), 2 + 3);
        assert_eq!(one(4), 0);
        assert_eq!(one(5), 8);
    }

    #[test]
    fn what_neighbours_share_is_computed_once() {
        let head: Vec<u32> = (100..140).collect();
        let with = |ids: &[u32], first: usize| seq(&[&head[..], ids].concat(), first + head.len());
        let requests = vec![
            vec![with(&[1, 2, 5, 6], 2), with(&[1, 2, 7], 2)],
            vec![with(&[3, 5, 6], 1), with(&[3, 7], 1)],
            // The shared part alone is the context.
            vec![with(&[8, 9], 0), with(&[9, 9], 0)],
            vec![seq(&[1, 5, 6, 7], 3), seq(&[1, 5, 6, 8], 3)],
            vec![with(&[4, 5], 1), with(&[4, 6], 1)],
            vec![with(&[2, 5, 5, 6], 1), with(&[2, 6, 7], 1)],
        ];
        let want: Vec<Tally> = requests.iter().flatten().map(plain).collect();
        for (trees, tokens, asks) in [(99, 64, 99), (99, 50, 99), (2, 60, 99), (99, 64, 2), (99, 44, 1)] {
            let (got, _) = scores(&requests, Limits { trees, tokens, asks }, false);
            assert_eq!(got, want, "{trees} {tokens} {asks}");
        }
        let (_, model) = scores(&requests, Limits { trees: 99, tokens: 1000, asks: 99 }, false);
        // Once the shared part, also behind the request that stands between, and what each adds.
        assert_eq!(model.tokens, 40 + 2 + 1 + 1 + 1 + 2 + 3 + 1 + 1 + 2 + 1);
    }

    #[test]
    fn a_split_tree_keeps_its_shape() {
        let r: Vec<Sequence> = (0..6).map(|i| seq(&[1, 2, 3, 4, 50 + i, 60, 61], 4)).collect();
        let tree = Tree::grow(&r, 0, false).unwrap();
        let split = batches(&[tree], &Limits { trees: 1, tokens: 8, asks: 100 }, false).unwrap();
        assert_eq!(split.len(), 3);
        for b in &split {
            assert_eq!(b.tokens[..4], [1, 2, 3, 4]);
            assert!(b.segments[1..].iter().all(|s| s.parent == Some(0) && s.len == 2));
        }
    }

    #[test]
    fn what_cannot_fit_is_an_error() {
        let tree = Tree::grow(&[seq(&[1, 2, 3, 4], 1)], 0, false).unwrap();
        let e = batches(&[tree], &Limits { trees: 1, tokens: 2, asks: 1 }, false).unwrap_err();
        assert_eq!(e.kind, Kind::Memory);
    }

    #[test]
    fn not_finite_is_an_error() {
        let mut b = Batch::default();
        b.push(None, &[1]);
        b.ask(0, 2, 0);
        let p = [Prediction { logprob: f32::NAN, greedy: false }];
        assert_eq!(add(&b, &p, &mut [Tally::default()]).unwrap_err().kind, Kind::Model);
        assert_eq!(add(&b, &[], &mut [Tally::default()]).unwrap_err().kind, Kind::Internal);
    }
}
