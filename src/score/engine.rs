//! A model that only predicts: weights and activations that keep nothing, behind [`Predict`].

use super::{Decode, Encode, Generate, Predict, Prediction};
use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::model::{Acts, Cache, Config, Model, Sizes};
use crate::ops::{Batch, Device, Profile};
use crate::tensor::DType;
use crate::text::Tokenizer;
use crate::weights::{self, Account, Checkpoint};

/// Tokens of a batch, unless one sequence is longer.
pub const TOKENS: usize = 4096;
/// Sequences that are generated at a time, unless the device takes batches of more rows.
const SEQUENCES: usize = 64;

/// A loaded model.
pub struct Engine<'d> {
    device: &'d dyn Device,
    /// The model.
    pub model: Model,
    acts: Acts,
    arena: Arena,
    dtype: DType,
    /// Keys and values, once generation has asked for room.
    cache: Option<(Cache, Arena)>,
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
        Ok((Self { device, model, acts, arena, dtype, cache: None }, account))
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

impl Generate for Engine<'_> {
    fn reserve(&mut self, wanted: usize, least: usize) -> Result<usize> {
        if let Some((cache, _)) = self.cache.as_ref().filter(|(c, _)| c.rows() >= wanted) {
            return Ok(cache.rows());
        }
        self.cache = None;
        let (config, dtype, sizes) = (&self.model.config, self.dtype, self.acts.sizes());
        // Half of what is free: others need some, and on a CPU the files lie in it.
        let row = Cache::row_bytes(config, dtype) as u64;
        let room = self.device.free().map_or(u64::MAX, |free| free / 2 / row);
        let rows = wanted.min(usize::try_from(room).unwrap_or(usize::MAX)).max(least);
        let (arena, cache) = Arena::carve(self.device, |arena| {
            Cache::carve(config, arena, dtype, rows, sizes.tokens, sizes.profile)
        })
        .map_err(|e| e.fix("generate fewer tokens, from shorter prompts, or in a 16-bit --dtype"))?;
        self.cache = Some((cache, arena));
        Ok(rows)
    }
    fn next(&mut self, batch: &Batch) -> Result<Vec<u32>> {
        let Some((cache, _)) = &self.cache else {
            return Err(Error::internal("a pass over a cache that was not reserved"));
        };
        let input = self.model.upload_cached(self.device, &self.acts, cache, batch)?;
        let answers = self.model.answer(self.device, &self.acts, &input);
        if let Some((logprob, _)) = answers.iter().find(|(logprob, _)| !logprob.is_finite()) {
            return Err(Error::model(format!("the model gave a log-probability of {logprob}"))
                .fix("check the weights with `flanrt model verify`; with f16, try bf16 or f32"));
        }
        Ok(answers.into_iter().map(|(_, best)| best).collect())
    }
    fn sequences(&self) -> usize {
        SEQUENCES.max(self.acts.sizes().profile.multiple)
    }
}

impl Decode for Tokenizer {
    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode(ids, true)
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
