//! The model: one forward and one hand-written backward pass for the LLaMA family, over any [`Device`].
//!
//! Nothing here knows about files, text or a particular device. Parameters, gradients and optimizer moments are the same
//! type ([`Params`]) carved from different arenas.

mod acts;
mod block;
mod config;
mod head;
mod init;
mod params;
mod rope;

pub use acts::{Acts, Input, Recompute, Sizes};
pub use config::{Config, Scaling};
pub use params::{Named, Params};

use crate::arena::Arena;
use crate::error::Result;
use crate::ops::{Batch, Device};
use crate::tensor::{DType, Tensor};

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

    /// Runs the blocks; the residual stream after the last is in `acts`.
    pub fn forward(&self, device: &dyn Device, acts: &Acts, input: &Input) {
        let view = acts.view(input.tokens.cols());
        device.embed_fwd(view.stream(0), self.params.embed, input.tokens);
        for l in 0..self.config.layers {
            block::forward(device, self, l, &view, input);
        }
    }

    /// Per-token losses of a batch and the gradient of `scale * sum(losses)`, added to `grads`.
    /// The losses stay on the device: the result is their handle, `[1, asks]` f32, valid until the next pass.
    pub fn train(
        &self,
        device: &dyn Device,
        acts: &Acts,
        input: &Input,
        grads: &Params,
        scale: f32,
    ) -> Tensor {
        self.forward(device, acts, input);
        let view = acts.view(input.tokens.cols());
        let losses = head::loss(device, self, &view, input, grads, scale);
        for l in (0..self.config.layers).rev() {
            block::backward(device, self, l, &view, input, &grads.blocks[l]);
        }
        device.embed_bwd(grads.embed, view.dx, input.tokens);
        losses
    }

    /// For every ask of the batch the log-probability of its target and whether it is the likeliest token.
    pub fn predict(&self, device: &dyn Device, acts: &Acts, input: &Input) -> Vec<(f32, bool)> {
        self.forward(device, acts, input);
        head::predict(device, self, &acts.view(input.tokens.cols()), input)
    }

    /// The logits of the rows asked for, `[asks, v]` row by row: for generation and tests, not for scoring.
    pub fn logits(&self, device: &dyn Device, acts: &Acts, input: &Input) -> Vec<f32> {
        self.forward(device, acts, input);
        head::logits(device, self, &acts.view(input.tokens.cols()), input)
    }

    /// Checks `batch` and puts it at its fixed place on the device.
    pub fn upload(&self, device: &dyn Device, acts: &Acts, batch: &Batch) -> Result<Input> {
        batch.check(self.config.vocab, self.rope.rows())?;
        Ok(acts.upload(device, batch))
    }

    /// Writes random weights: normal with the configured deviation, norms one, biases zero (for pretraining).
    pub fn init(&self, device: &dyn Device, params: &Params, seed: u64) {
        init::fill(device, &self.config, params, seed);
    }
}
