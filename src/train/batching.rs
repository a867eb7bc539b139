//! Which examples make up a step: a function of the step's number.

use super::recipe::Recipe;
use crate::data::{Examples, Order};
use std::ops::Range;

/// Where steps begin and end among the positions of the order.
enum Cuts {
    /// So many examples each.
    Every(u64),
    /// Step `i` takes positions `at[i]..at[i + 1]`.
    At(Vec<u64>),
}

/// The steps of a run.
pub struct Batching {
    chosen: Vec<u32>,
    order: Order,
    cuts: Cuts,
    total: u64,
}

impl Batching {
    /// Steps over the examples `chosen` in `order`: of `batch_size` examples each, or of as many in a row as have
    /// `batch_tokens` tokens together (an example that is longer by itself makes a step).
    pub fn new(recipe: &Recipe, examples: &Examples, chosen: Vec<u32>, order: Order) -> Self {
        let n = chosen.len() as u64;
        let last = (recipe.epochs * n as f64).ceil() as u64;
        if recipe.batch_tokens == 0 {
            let size = recipe.batch_size as u64;
            let total = if recipe.steps == 0 { last.div_ceil(size).max(1) } else { recipe.steps };
            return Self { chosen, order, cuts: Cuts::Every(size), total };
        }
        let (mut at, mut tokens) = (vec![0], 0);
        for position in 0.. {
            let steps = at.len() as u64 - 1;
            let done = if recipe.steps == 0 { position == last } else { steps == recipe.steps };
            if done {
                break;
            }
            let len = examples.get(chosen[order.at(position)] as usize).tokens.len();
            if tokens > 0 && tokens + len > recipe.batch_tokens {
                at.push(position);
                tokens = 0;
            }
            tokens += len;
        }
        // The examples that are left over make a last step where there is no number of steps to reach.
        if recipe.steps == 0 && at.last() != Some(&last) {
            at.push(last);
        }
        let total = at.len() as u64 - 1;
        Self { chosen, order, cuts: Cuts::At(at), total }
    }

    /// Steps of the whole run.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Examples of the order's one pass.
    pub fn examples(&self) -> usize {
        self.chosen.len()
    }

    /// Positions of the step after `done` others.
    pub fn step(&self, done: u64) -> Range<u64> {
        match &self.cuts {
            Cuts::Every(size) => done * size..(done + 1) * size,
            Cuts::At(at) => at[done as usize]..at[done as usize + 1],
        }
    }

    /// The example at a position.
    pub fn example(&self, position: u64) -> u32 {
        self.chosen[self.order.at(position)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Options, Rendered, from_rendered};
    use crate::text::testing::letters;
    use serde_json::json;

    #[test]
    fn steps_of_so_many_tokens() {
        let tok = letters(json!({}), json!({})).unwrap();
        // Lengths with BOS and EOS: 5, 4, 9, 3, 6.
        let row = |n: usize| Rendered {
            id: n.to_string(),
            text: "a".repeat(n),
            targets: std::iter::once(0..n).collect(),
            prefix: true,
            eos: true,
        };
        let e = from_rendered([3, 2, 7, 1, 4].map(row).into(), "made", &tok, &Options::default()).unwrap();
        let base: Recipe = serde_json::from_value(json!({
            "steps": 0, "epochs": 1.0, "batch_size": 2, "batch_tokens": 9, "micro_batch": "auto", "lr": 1.0,
            "schedule": "constant", "warmup": 0.0, "final_lr": 0.0, "clip": 0.0, "weight_decay": 0.0,
            "optimizer": "adamw", "relative_lr": false, "master": "auto", "moments": "f32", "gradients": "auto",
            "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "recompute": "auto", "log_every": 1, "eval_every": 0, "seed": 0,
        }))
        .unwrap();
        let recipe = |steps, epochs| Recipe { steps, epochs, ..base.clone() };
        let chosen: Vec<u32> = (0..5).collect();
        let b = Batching::new(&recipe(0, 1.0), &e, chosen.clone(), Order::in_turn(5));
        let steps: Vec<_> = (0..b.total()).map(|s| b.step(s)).collect();
        assert_eq!(steps, [0..2, 2..3, 3..5]);
        let b = Batching::new(&recipe(4, 1.0), &e, chosen.clone(), Order::in_turn(5));
        let steps: Vec<_> = (0..b.total()).map(|s| b.step(s)).collect();
        assert_eq!(steps, [0..2, 2..3, 3..5, 5..7]);
        assert_eq!(b.example(5), 0);
        let b = Batching::new(&Recipe { batch_tokens: 0, ..recipe(0, 1.5) }, &e, chosen, Order::in_turn(5));
        assert_eq!((b.total(), b.step(3)), (4, 6..8));
    }
}
