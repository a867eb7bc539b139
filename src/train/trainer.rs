//! One optimizer step: memory, forward and backward over the micro-batches, clipping, the update.
//!
//! The gradient of a step is divided once, by the number of target tokens of the whole step over all micro-batches and
//! ranks, so cutting a step differently changes only the order of sums.

use super::states::{Method, States, Update};
use crate::arena::Arena;
use crate::dist::Group;
use crate::error::{Error, Kind, Result};
use crate::model::{Acts, Config, Model, Named, Params, Sizes};
use crate::ops::{Batch, Device, Fetch};
use crate::tensor::{DType, Tensor};

/// First loss scale of f16 training; halved on overflow, doubled after [`GROWTH`] good steps.
const FIRST_SCALE: f32 = 65_536.0;
/// First part of the key of a recorded update.
const UPDATE: u64 = u64::MAX;
/// Good steps between two doublings of the loss scale.
const GROWTH: u32 = 1000;

/// Everything that training holds in memory, in one arena.
pub struct Trainer<'d> {
    device: &'d dyn Device,
    /// The model being trained.
    pub model: Model,
    /// How it is updated.
    pub method: Method,
    grads: Params,
    states: States,
    acts: Acts,
    /// f16's loss scale and the good steps since it last changed.
    pub scaling: Scaling,
    arena: Arena,
}

/// State of the loss scale; 1 and unused unless weights are f16.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Scaling {
    /// Factor on the loss before the backward pass.
    pub scale: f32,
    /// Steps since it last changed.
    pub good: u32,
}

/// What one step reports.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Sum of the target tokens' losses, nats.
    pub loss_sum: f64,
    /// Number of target tokens.
    pub targets: u64,
    /// Gradient norm before clipping.
    pub norm: f32,
    /// Whether the update was left out because f16 gradients overflowed.
    pub skipped: bool,
}

/// Waits for the losses of a micro-batch and adds them up in order.
fn sum_losses(losses: Fetch, batch: &Batch, id: &dyn Fn(u32) -> String) -> Result<f64> {
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(&losses.wait());
    if values.iter().all(|x| x.is_finite()) {
        return Ok(values.iter().map(|&x| f64::from(x)).sum());
    }
    let bad = values.iter().zip(&batch.owners).filter(|(x, _)| !x.is_finite());
    let mut ids: Vec<String> = bad.map(|(_, &owner)| id(owner)).collect();
    ids.dedup();
    let shown = ids.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    Err(Error::new(Kind::Diverged, format!("the loss is not finite in {} example(s): {shown}", ids.len()))
        .fix("lower train.lr, lengthen train.warmup, or look at these rows"))
}

/// The parts of the arena.
struct Parts {
    model: Model,
    grads: Params,
    states: States,
    acts: Acts,
}

fn layout(config: &Config, dtype: DType, sizes: Sizes, method: Method, arena: &mut Arena) -> Parts {
    let model = Model::carve(config, arena, dtype, sizes.tokens);
    let grads = Params::carve(config, arena, "gradients", method.gradients(dtype));
    let states = States::carve(config, arena, method, &model.params);
    let acts = Acts::carve(config, arena, dtype, sizes);
    Parts { model, grads, states, acts }
}

impl<'d> Trainer<'d> {
    /// The memory that training takes, by what it is for; nothing is allocated.
    pub fn measure(config: &Config, dtype: DType, sizes: Sizes, method: Method) -> Arena {
        let mut arena = Arena::measure();
        layout(config, dtype, sizes, method, &mut arena);
        arena
    }

    /// Allocates everything. Weights are zero until they are [set](Trainer::set).
    pub fn new(
        device: &'d dyn Device,
        config: &Config,
        dtype: DType,
        sizes: Sizes,
        method: Method,
    ) -> Result<Self> {
        assert!(sizes.train.is_some(), "training sizes");
        method.master.check(dtype)?;
        let (arena, p) = Arena::carve(device, |arena| layout(config, dtype, sizes, method, arena))?;
        p.model.prepare(device);
        let scale = if dtype == DType::F16 { FIRST_SCALE } else { 1.0 };
        Ok(Self {
            device,
            model: p.model,
            method,
            grads: p.grads,
            states: p.states,
            acts: p.acts,
            scaling: Scaling { scale, good: 0 },
            arena,
        })
    }

    /// The device it runs on.
    pub fn device(&self) -> &'d dyn Device {
        self.device
    }

    /// The memory table.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Sets a dense part of `model.params` to `values`, f32 bytes, in all forms in which it is kept.
    pub fn set(&self, part: Tensor, values: &[u8]) {
        self.states.set(self.device, part, values);
    }

    /// The values of a dense part of `model.params` that updates add up in: f32 bytes.
    pub fn get(&self, part: Tensor) -> Vec<u8> {
        self.states.get(self.device, part)
    }

    /// What is kept of the parameters beside their values, named as in checkpoints.
    pub fn moments(&self) -> Vec<Named> {
        self.states.moments(&self.model.config)
    }

    /// One step on `batches`. A loss or gradient that is not finite is an error that names `id(owner)`; the weights are
    /// then those before the step.
    pub fn step(
        &mut self,
        batches: &[Batch],
        group: &dyn Group,
        how: &Update,
        max_norm: f32,
        id: &dyn Fn(u32) -> String,
    ) -> Result<Outcome> {
        let mut sums = [batches.iter().map(|b| b.rows.len()).sum::<usize>() as f64, 0.0];
        group.sum_scalars(&mut sums[..1]);
        let targets = sums[0];
        let scale = f64::from(self.scaling.scale) / targets.max(1.0);
        self.device.zero(self.grads.all);
        // The losses are read after the last micro-batch is under way: the device never waits for the host in between.
        let mut losses_of = Vec::with_capacity(batches.len());
        for batch in batches.iter().filter(|b| !b.rows.is_empty()) {
            let input = self.model.upload(self.device, &self.acts, batch, scale as f32)?;
            let losses = self.model.train(self.device, &self.acts, &input, &self.grads);
            losses_of.push((self.device.fetch(losses), batch));
        }
        for (losses, batch) in losses_of {
            sums[1] += sum_losses(losses, batch, id)?;
        }
        group.sum(self.device, self.grads.all);
        group.sum_scalars(&mut sums[1..]);
        let max_norm = if max_norm > 0.0 { max_norm } else { f32::INFINITY };
        self.states.prepare(self.device, how, 1.0 / self.scaling.scale);
        let key = [UPDATE, self.states.clip.addr() as u64, u64::from(max_norm.to_bits())];
        self.device.replay(&key, &mut || self.states.update(self.device, &self.grads, max_norm));
        let mut norm = [0f32; 2];
        self.device.read(bytemuck::cast_slice_mut(&mut norm), self.states.clip);
        let skipped = self.rescale(norm[1].is_finite())?;
        Ok(Outcome { loss_sum: sums[1], targets: targets as u64, norm: norm[0], skipped })
    }

    /// Keeps the loss scale of f16; for other dtypes an overflow is an error. Returns whether the step was left out.
    fn rescale(&mut self, finite: bool) -> Result<bool> {
        if self.model.params.all.dtype() != DType::F16 {
            return match finite {
                true => Ok(false),
                false => Err(Error::new(Kind::Diverged, "the gradient norm is not finite")
                    .fix("lower train.lr, or lengthen train.warmup")),
            };
        }
        let s = &mut self.scaling;
        if !finite {
            *s = Scaling { scale: s.scale / 2.0, good: 0 };
            if s.scale < 1.0 {
                return Err(Error::new(Kind::Diverged, "f16 gradients overflow at every loss scale")
                    .fix("lower train.lr, or use --dtype bf16"));
            }
            return Ok(true);
        }
        s.good += 1;
        if s.good == GROWTH {
            *s = Scaling { scale: (s.scale * 2.0).min(1.6e7), good: 0 };
        }
        Ok(false)
    }

    /// Sum of the losses over the asks of `batch`, forward only.
    pub fn loss(&self, batch: &Batch) -> Result<f64> {
        let values = self.predict(batch)?;
        Ok(-values.iter().map(|(p, _)| f64::from(*p)).sum::<f64>())
    }

    /// Log-probability of every ask's target and whether it is the likeliest token, with the weights as they are now.
    pub fn predict(&self, batch: &Batch) -> Result<Vec<(f32, bool)>> {
        let input = self.model.upload(self.device, &self.acts, batch, 0.0)?;
        Ok(self.model.predict(self.device, &self.acts, &input))
    }

    /// The largest batch it has room for.
    pub fn sizes(&self) -> Sizes {
        self.acts.sizes()
    }
}
