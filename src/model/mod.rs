//! The model: one forward and one hand-written backward pass for the LLaMA family, over any [`Device`].
//!
//! Nothing here knows about files, text or a particular device. Parameters, gradients and optimizer moments are the same
//! type ([`Params`]) carved from different arenas.

mod acts;
mod block;
mod cache;
mod config;
mod head;
mod init;
mod params;
mod rope;

pub use acts::{Acts, Input, Recompute, Sizes};
pub use cache::{Cache, Rows};
pub use config::{Config, Scaling};
pub use init::Init;
pub use params::{Named, Params};

use crate::arena::Arena;
use crate::error::Result;
use crate::ops::{Batch, Device};
use crate::tensor::{DType, Tensor};

/// What is done with an input.
#[derive(Clone, Copy)]
enum Pass {
    Train,
    Predict,
    Continue,
}

/// A model on a device: the configuration, its weights and the rotary table.
pub struct Model {
    /// Shapes and variants.
    pub config: Config,
    /// The weights that the passes read.
    pub params: Params,
    rope: Tensor,
}

impl Model {
    /// Takes the weights' place from `arena` in `dtype`, for sequences of at most `longest` tokens.
    pub fn carve(config: &Config, arena: &mut Arena, dtype: DType, longest: usize) -> Self {
        let params = Params::carve(config, arena, "weights", dtype);
        let rope = arena.take("rope table", DType::F32, longest.min(config.context), config.head_size);
        Self { config: config.clone(), params, rope }
    }

    /// Fills the rotary table. To be called once, on a real arena.
    pub fn prepare(&self, device: &dyn Device) {
        rope::fill(device, &self.config, self.rope);
    }

    /// Runs the blocks; the residual stream after the last is in `acts`, of all rows or of those that predict.
    pub fn forward(&self, device: &dyn Device, acts: &Acts, input: &Input) {
        let view = acts.view(input.tokens.cols());
        device.embed_fwd(view.stream(0), self.params.embed, input.tokens);
        let last = self.config.layers - 1;
        for l in 0..last {
            block::forward(device, self, l, &view, input);
        }
        match &input.picked {
            None => block::forward(device, self, last, &view, input),
            Some(picked) => block::forward_picked(device, self, last, &view, input, picked),
        }
    }

    /// Per-token losses of a batch and the gradient of `scale * sum(losses)`, added to `grads`.
    /// The losses stay on the device: the result is their handle, `[1, asks]` f32, valid until the next pass.
    pub fn train(&self, device: &dyn Device, acts: &Acts, input: &Input, grads: &Params) -> Tensor {
        assert!(input.cache.is_none(), "a backward pass needs the whole sequence in its batch");
        let view = acts.view(input.tokens.cols());
        let place = grads.all.addr() as u64;
        self.replay(device, acts, Pass::Train, input, place, &mut || {
            self.forward(device, acts, input);
            head::loss(device, self, &view, input, grads);
            for l in (0..self.config.layers).rev() {
                block::backward(device, self, l, &view, input, &grads.blocks[l]);
            }
            device.embed_bwd(grads.embed, view.dx, input.tokens, input.order);
        });
        view.values.slice_cols(0..input.wanted.len())
    }

    /// Has the device record `work` for inputs of this size, and play it again. `place` stands for what `work` uses besides.
    fn replay(
        &self,
        device: &dyn Device,
        acts: &Acts,
        pass: Pass,
        input: &Input,
        place: u64,
        work: &mut dyn FnMut(),
    ) {
        let [id, slot, t, unique, asks, picked] = input.key;
        let weights = self.params.all.addr() as u64;
        device.replay(&[pass as u64, id, slot, t, unique, asks, picked, weights, place], work);
        acts.turn();
    }

    /// For every ask of the batch the log-probability of its target and whether it is the likeliest token.
    pub fn predict(&self, device: &dyn Device, acts: &Acts, input: &Input) -> Vec<(f32, bool)> {
        let answers = self.answer(device, acts, input);
        answers.into_iter().zip(&input.wanted).map(|((p, best), &wanted)| (p, best == wanted)).collect()
    }

    /// For every ask of the batch the log-probability of its target, and the likeliest token (the first on a tie).
    pub fn answer(&self, device: &dyn Device, acts: &Acts, input: &Input) -> Vec<(f32, u32)> {
        let n = input.wanted.len();
        if n == 0 && input.cache.is_none() {
            return Vec::new();
        }
        let view = acts.view(input.tokens.cols());
        let (pass, place) = match &input.cache {
            None => (Pass::Predict, 0),
            Some((cache, _)) => (Pass::Continue, cache.id),
        };
        self.replay(device, acts, pass, input, place, &mut || {
            self.forward(device, acts, input);
            if n > 0 {
                head::predict(device, self, &view, input);
            }
        });
        let (mut logprobs, mut likeliest) = (vec![0f32; n], vec![0u32; n]);
        device.read(bytemuck::cast_slice_mut(&mut logprobs), view.values.slice_cols(0..n));
        device.read(bytemuck::cast_slice_mut(&mut likeliest), view.best.slice_cols(0..n));
        logprobs.into_iter().zip(likeliest).collect()
    }

    /// The logits of the rows asked for, `[asks, v]` row by row: for generation and tests, not for scoring.
    pub fn logits(&self, device: &dyn Device, acts: &Acts, input: &Input) -> Vec<f32> {
        self.forward(device, acts, input);
        head::logits(device, self, &acts.view(input.tokens.cols()), input)
    }

    /// Checks `batch` and puts it at one of its two places on the device. `scale` is the factor on its losses in training.
    pub fn upload(&self, device: &dyn Device, acts: &Acts, batch: &Batch, scale: f32) -> Result<Input> {
        batch.check(self.config.vocab, self.rope.rows())?;
        Ok(acts.upload(device, batch, None, scale, self.rope.rows()))
    }

    /// The same for a batch that continues what `cache` holds, to be answered and not trained on: the passes over it put the
    /// keys and values of its tokens into the cache. Of what an earlier pass put there nothing is checked: it is the caller's
    /// to name rows that hold the path's own tokens.
    pub fn upload_cached(
        &self,
        device: &dyn Device,
        acts: &Acts,
        cache: &Cache,
        batch: &Batch,
    ) -> Result<Input> {
        batch.check_cached(self.config.vocab, self.rope.rows(), cache.rows())?;
        Ok(acts.upload(device, batch, Some(cache), 0.0, self.rope.rows()))
    }

    /// Gives `put` initial weights (for pretraining): every parameter and its values as f32 bytes. The model must be one that
    /// [`Init::check`] lets begin so.
    pub fn init(&self, seed: u64, how: Init, put: &mut dyn FnMut(Tensor, &[u8])) {
        init::fill(&self.config, &self.params, seed, how, put);
    }
}
