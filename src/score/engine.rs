//! A model that only predicts: weights and activations that keep nothing, behind [`Predict`].

use super::{Encode, Predict, Prediction};
use crate::arena::Arena;
use crate::error::Result;
use crate::model::{Acts, Config, Model, Sizes};
use crate::ops::{Batch, Device, Profile};
use crate::tensor::DType;
use crate::text::Tokenizer;
use crate::weights::{self, Account, Checkpoint};

/// Tokens of a batch, unless one sequence is longer.
pub const TOKENS: usize = 4096;
/// A loaded model.
pub struct Engine<'d> {
    device: &'d dyn Device,
    /// The model.
    pub model: Model,
    acts: Acts,
    arena: Arena,
}

fn layout(
    config: &Config,
    dtype: DType,
    longest: usize,
    profile: Profile,
    arena: &mut Arena,
) -> (Model, Acts) {
    let tokens = TOKENS.max(config.context.min(longest));
    let chunk = Sizes::chunk_for(config.vocab, tokens, profile.logits);
    let model = Model::carve(config, arena, dtype, tokens);
    let acts = Acts::carve(config, arena, dtype, Sizes { tokens, asks: tokens, chunk, train: None, profile });
    (model, acts)
}

impl<'d> Engine<'d> {
    /// Loads `file` in `dtype`, with room for sequences of `longest` tokens (at most the model's context).
    pub fn load(
        device: &'d dyn Device,
        config: &Config,
        file: &Checkpoint,
        dtype: DType,
        longest: usize,
    ) -> Result<(Self, Account)> {
        let profile = device.profile();
        let (arena, (model, acts)) =
            Arena::carve(device, |arena| layout(config, dtype, longest, profile, arena))?;
        let account = weights::load(file, config, device, &model.params)?;
        model.prepare(device);
        Ok((Self { device, model, acts, arena }, account))
    }

    /// The memory that scoring sequences of up to [`TOKENS`] takes, by what it is for; nothing is allocated.
    pub fn measure(config: &Config, dtype: DType, profile: Profile) -> Arena {
        let mut arena = Arena::measure();
        layout(config, dtype, TOKENS, profile, &mut arena);
        arena
    }

    /// The memory table.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Logits of the rows that `batch` asks for, `[rows, v]`.
    pub fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        let input = self.model.upload(self.device, &self.acts, batch, 0.0)?;
        Ok(self.model.logits(self.device, &self.acts, &input))
    }
}

impl Predict for Engine<'_> {
    fn predict(&mut self, batch: &Batch) -> Result<Vec<Prediction>> {
        let input = self.model.upload(self.device, &self.acts, batch, 0.0)?;
        let values = self.model.predict(self.device, &self.acts, &input);
        Ok(values.into_iter().map(|(logprob, greedy)| Prediction { logprob, greedy }).collect())
    }
    fn context(&self) -> usize {
        self.model.config.context.min(self.capacity())
    }
    fn capacity(&self) -> usize {
        self.acts.sizes().tokens
    }
    fn asks_capacity(&self) -> usize {
        self.acts.sizes().asks
    }
}

impl Encode for Tokenizer {
    fn prefix(&self) -> &[u32] {
        self.prefix()
    }
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text)
    }
    fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_bare(text)
    }
    fn eos(&self) -> Option<u32> {
        self.eos()
    }
}
