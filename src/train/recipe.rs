//! How a model is trained: the `[train]` section of the settings.

use super::schedule::{Schedule, Shape};
use super::states::{Gradients, MasterValues, Method, Moments, Optimizer, Update};
use crate::model::Recompute;
use crate::ops::{Adafactor, AdamW};
use crate::rng::Rng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value, or `"auto"`: decided from the device, and written down as decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    /// Not decided yet.
    Auto,
    /// Decided.
    Fixed(T),
}

impl<T: Copy> Auto<T> {
    /// The value, where it is decided.
    pub fn fixed(self) -> Option<T> {
        match self {
            Self::Fixed(value) => Some(value),
            Self::Auto => None,
        }
    }
}

impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => to.serialize_str("auto"),
            Self::Fixed(value) => value.serialize(to),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        match value.as_str() {
            Some("auto") => Ok(Self::Auto),
            _ => T::deserialize(value).map(Self::Fixed).map_err(serde::de::Error::custom),
        }
    }
}

/// Stream of the draws that rounding by chance depends on.
const ROUNDING: u64 = 0x0b17 << 32;

/// The numbers that decide a training run, given model and data.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Optimizer steps; 0: from `epochs`.
    pub steps: u64,
    /// Passes over the data, when `steps` is 0.
    pub epochs: f64,
    /// Examples of a step, where `batch_tokens` is 0.
    pub batch_size: usize,
    /// Tokens of a step: as many examples in a row as have no more; 0: by `batch_size`.
    pub batch_tokens: usize,
    /// Tokens of a micro-batch: decides memory, and the order of sums.
    pub micro_batch: Auto<usize>,
    /// Peak learning rate.
    pub lr: f64,
    /// Its shape.
    pub schedule: Shape,
    /// Warm-up: a fraction of the steps below 1, else a number of steps.
    pub warmup: f64,
    /// Learning rate at the end, as a fraction of the peak.
    pub final_lr: f64,
    /// Largest gradient norm; 0: no clipping.
    pub clip: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// The rule of an update.
    pub optimizer: Optimizer,
    /// Adafactor: `lr` is a fraction of the root mean square of a parameter's weights.
    pub relative_lr: bool,
    /// What 16-bit weights are rounded from.
    pub master: Auto<MasterValues>,
    /// Storage of AdamW's moments.
    pub moments: Moments,
    /// Storage of gradients.
    pub gradients: Auto<Gradients>,
    /// AdamW's first decay.
    pub beta1: f64,
    /// AdamW's second decay, and the most of Adafactor's.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// What is computed again in the backward pass.
    pub recompute: Auto<Recompute>,
    /// Steps between log lines.
    pub log_every: u64,
    /// Steps between validations; 0: at the start and the end only.
    pub eval_every: u64,
    /// Seed of data order and initial weights.
    pub seed: u64,
}

impl Recipe {
    /// The size of a step, in words.
    pub fn step_size(&self) -> String {
        match self.batch_tokens {
            0 => format!("{} examples", self.batch_size),
            n => format!("at most {n} tokens"),
        }
    }

    /// The learning rates of a run of `total` steps.
    pub fn schedule(&self, total: u64) -> Schedule {
        let warmup = if self.warmup < 1.0 { (self.warmup * total as f64).ceil() } else { self.warmup };
        Schedule {
            peak: self.lr,
            shape: self.schedule,
            warmup: (warmup as u64).min(total),
            total,
            last: self.final_lr,
        }
    }

    /// How weights are updated and what is kept for it, once that is decided.
    pub fn method(&self) -> Method {
        self.method_with(self.gradients.fixed().expect("decided for the device"))
    }

    /// The same, with `gradients` stored so.
    pub fn method_with(&self, gradients: Gradients) -> Method {
        Method {
            optimizer: self.optimizer,
            relative: self.relative_lr,
            master: self.master.fixed().expect("decided for the device"),
            moments: self.moments,
            gradients,
        }
    }

    /// The numbers of the update after `done` others.
    pub fn update(&self, schedule: &Schedule, done: u64) -> Update {
        let (lr, decay, step) = (schedule.at(done) as f32, self.weight_decay as f32, done + 1);
        let key = Rng::new(self.seed, ROUNDING).bits(step);
        match self.optimizer {
            Optimizer::AdamW => {
                let (beta1, beta2, eps) = (self.beta1, self.beta2, self.eps as f32);
                Update::AdamW(AdamW { lr, beta1, beta2, eps, decay, step, key })
            }
            Optimizer::Adafactor => Update::Adafactor(Adafactor { lr, most: self.beta2, decay, step, key }),
        }
    }
}
