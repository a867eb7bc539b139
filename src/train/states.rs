//! What is kept of every parameter between steps beside its weight, and the update that reads and writes it.
//!
//! A [`Method`] says what there is: f32 master values or their 16-bit remainders, AdamW's two moments in f32 or bf16,
//! Adafactor's means of rows and columns. All of it lies in the arena. Values go in and out as f32, whatever the form.

use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::model::{Config, Named, Params};
use crate::ops::optim::{self, Adafactor, AdamState, FactorState, Master, NUMBERS, Second};
use crate::ops::{AdamW, Device};
use crate::tensor::{DType, Tensor};
use crate::weights::convert_bytes;
use serde::{Deserialize, Serialize};

/// The rule of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Two moments a parameter, decoupled weight decay.
    #[default]
    AdamW,
    /// Second moments from means over rows and columns.
    Adafactor,
}

/// What 16-bit weights are rounded from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MasterValues {
    /// f32 values beside the weights.
    #[default]
    F32,
    /// The same values, of which 16 bits lie beside bf16 weights.
    Remainder,
    /// Nothing: bf16 weights are rounded up or down by chance.
    None,
}

/// Storage of AdamW's moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moments {
    /// f32.
    #[default]
    F32,
    /// bf16, rounded up or down by chance.
    Bf16,
}

/// Storage of gradients of parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gradients {
    /// f32.
    #[default]
    F32,
    /// That of the weights.
    Storage,
}

/// How weights are updated and what is kept for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Method {
    /// The rule.
    pub optimizer: Optimizer,
    /// Whether Adafactor's rate is a fraction of the size of a parameter's weights.
    pub relative: bool,
    /// What 16-bit weights are rounded from.
    pub master: MasterValues,
    /// Storage of AdamW's moments.
    pub moments: Moments,
    /// Storage of gradients.
    pub gradients: Gradients,
}

impl MasterValues {
    /// Refuses what weights of `dtype` cannot have.
    pub fn check(self, dtype: DType) -> Result<()> {
        let name = match self {
            Self::F32 => return Ok(()),
            _ if dtype == DType::BF16 => return Ok(()),
            Self::Remainder => "remainder",
            Self::None => "none",
        };
        let message =
            format!("train.master = \"{name}\" is for bf16 weights, model.dtype is {}", dtype.name());
        Err(Error::usage(message).fix("use --dtype bf16, or train.master = \"f32\""))
    }
}

impl Method {
    /// The dtype of gradients of weights of `dtype`.
    pub fn gradients(&self, dtype: DType) -> DType {
        match self.gradients {
            Gradients::F32 => DType::F32,
            Gradients::Storage => dtype,
        }
    }

    /// The dtype that holds every value of weights of `dtype`, as in checkpoints.
    pub fn values(&self, dtype: DType) -> DType {
        match self.master {
            MasterValues::None => dtype,
            _ => DType::F32,
        }
    }

    fn moments(&self) -> DType {
        match self.moments {
            Moments::F32 => DType::F32,
            Moments::Bf16 => DType::BF16,
        }
    }

    /// Bytes that a checkpoint of `parameters` parameters with weights of `dtype` takes, about.
    pub fn checkpoint_bytes(&self, parameters: u64, dtype: DType) -> u64 {
        let moments = match self.optimizer {
            Optimizer::AdamW => 2 * self.moments().size(),
            Optimizer::Adafactor => 0, // rows and columns: a thousandth of the weights
        };
        let bytes = (self.values(dtype).size() + moments) as u64 * parameters;
        bytes + bytes / 256 + (1 << 16)
    }
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub enum Update {
    /// Of AdamW.
    AdamW(AdamW),
    /// Of Adafactor.
    Adafactor(Adafactor),
}

impl Update {
    /// The learning rate.
    pub fn lr(&self) -> f32 {
        match self {
            Self::AdamW(how) => how.lr,
            Self::Adafactor(how) => how.lr,
        }
    }

    /// The device's numbers for what decays and for the rest.
    fn numbers(&self) -> [[f32; NUMBERS]; 2] {
        match *self {
            Self::AdamW(how) => [how.numbers(), AdamW { decay: 0.0, ..how }.numbers()],
            Self::Adafactor(how) => [how.numbers(), Adafactor { decay: 0.0, ..how }.numbers()],
        }
    }
}

/// A parameter as Adafactor sees it.
struct Factored {
    /// The elements before it in the flat range of all parameters.
    first: usize,
    rows: usize,
    cols: usize,
    second: Second,
}

/// The moments.
enum Held {
    /// First and second.
    AdamW(Box<[Params; 2]>),
    Adafactor(Vec<Factored>),
}

/// Everything an update needs beside weights and gradients.
pub(super) struct States {
    method: Method,
    weights: Params,
    /// Master values, or remainders; none where the weights are all there is.
    beside: Option<Params>,
    held: Held,
    /// `[3, NUMBERS]`: of what decays, of the rest, and one over the loss scale.
    numbers: Tensor,
    /// Norm and factor of the gradients.
    pub(super) clip: Tensor,
    scratch: Tensor,
}

impl States {
    /// Takes them from `arena` for `weights`.
    pub(super) fn carve(config: &Config, arena: &mut Arena, method: Method, weights: &Params) -> Self {
        let beside = match (weights.all.dtype(), method.master) {
            (DType::F32, _) | (_, MasterValues::None) => None,
            (_, MasterValues::F32) => Some(Params::carve(config, arena, "master weights", DType::F32)),
            (_, MasterValues::Remainder) => Some(Params::carve(config, arena, "master weights", DType::U16)),
        };
        let n = weights.all.cols();
        let mut scratch = optim::clip_scratch(n);
        let held = match method.optimizer {
            Optimizer::AdamW => {
                let mut moments = || Params::carve(config, arena, "moments", method.moments());
                Held::AdamW(Box::new([moments(), moments()]))
            }
            Optimizer::Adafactor => {
                let mut factors = Vec::new();
                for Named { tensor, .. } in weights.named(config) {
                    let (rows, cols) = (tensor.rows(), tensor.cols());
                    let mut take = |n| arena.take("moments", DType::F32, 1, n);
                    let second = match rows {
                        1 => Second::Full(take(cols)),
                        _ => Second::Factored { rows: take(rows), cols: take(cols) },
                    };
                    scratch = scratch.max(optim::factor_scratch(rows, cols));
                    factors.push(Factored { first: flat(weights, tensor), rows, cols, second });
                }
                Held::Adafactor(factors)
            }
        };
        let numbers = arena.take("clipping", DType::F32, 3, NUMBERS);
        let clip = arena.take("clipping", DType::F32, 1, 2);
        let scratch = arena.take("clipping", DType::F32, 1, scratch);
        Self { method, weights: weights.clone(), beside, held, numbers, clip, scratch }
    }

    /// Sends the numbers of the next update; `unscale` takes the loss scale out of the gradients.
    pub(super) fn prepare(&self, device: &dyn Device, how: &Update, unscale: f32) {
        let [decayed, plain] = how.numbers();
        let mut rest = [0.0; NUMBERS];
        rest[0] = unscale;
        device.write(self.numbers, bytemuck::cast_slice(&[decayed, plain, rest]));
    }

    /// Clips `grads` and updates the weights, with the numbers last sent: ops alone.
    pub(super) fn update(&self, device: &dyn Device, grads: &Params, max_norm: f32) {
        let row = |i| self.numbers.slice_rows(i..i + 1);
        device.clip(self.clip, grads.all, max_norm, row(2).slice_cols(0..1), self.scratch);
        let decayed = grads.decayed.cols();
        match &self.held {
            Held::AdamW(moments) => {
                let [m, v] = &**moments;
                for (range, numbers) in [(0..decayed, row(0)), (decayed..grads.all.cols(), row(1))] {
                    let part = |x: &Params| x.all.slice_cols(range.clone());
                    let (weights, master) = (part(&self.weights), self.master(part));
                    let state =
                        AdamState { weights, master, m: part(m), v: part(v), first: range.start as u64 };
                    device.adamw(&state, part(grads), self.clip, numbers);
                }
            }
            Held::Adafactor(factors) => {
                for &Factored { first, rows, cols, second } in factors {
                    let part = |x: &Params| x.all.slice_cols(first..first + rows * cols).reshape(rows, cols);
                    let (weights, master) = (part(&self.weights), self.master(part));
                    let state = FactorState { weights, master, second, first: first as u64 };
                    let numbers = row(usize::from(first >= decayed));
                    device.adafactor(
                        &state,
                        part(grads),
                        self.clip,
                        numbers,
                        self.method.relative,
                        self.scratch,
                    );
                }
            }
        }
    }

    /// The master values of the part of the weights that `part` picks.
    fn master(&self, part: impl Fn(&Params) -> Tensor) -> Master {
        match (&self.beside, self.method.master) {
            (Some(x), MasterValues::Remainder) => Master::Remainder(part(x)),
            (Some(x), _) => Master::Plain(part(x)),
            (None, _) if self.weights.all.dtype() == DType::F32 => Master::Weights,
            (None, _) => Master::Stochastic,
        }
    }

    /// Sets `part` of the weights, dense, to `values`: f32 bytes.
    pub(super) fn set(&self, device: &dyn Device, part: Tensor, values: &[u8]) {
        let mut weights = vec![0; part.bytes()];
        if part.dtype() == DType::BF16 && self.beside.is_some() {
            let mut rest = vec![0; part.bytes()];
            let halves = weights.chunks_exact_mut(2).zip(rest.chunks_exact_mut(2));
            for (x, (w, r)) in values.chunks_exact(4).zip(halves) {
                let (weight, remainder) = optim::split(f32::from_le_bytes([x[0], x[1], x[2], x[3]]));
                w.copy_from_slice(&weight.to_le_bytes());
                r.copy_from_slice(&remainder.to_le_bytes());
            }
            if self.method.master == MasterValues::Remainder {
                device.write(self.beside(part), &rest);
            }
        } else {
            convert_bytes(values, DType::F32, part.dtype(), &mut weights);
        }
        if self.method.master == MasterValues::F32 && self.beside.is_some() {
            device.write(self.beside(part), values);
        }
        device.write(part, &weights);
    }

    /// The values of `part` of the weights, dense: f32 bytes.
    pub(super) fn get(&self, device: &dyn Device, part: Tensor) -> Vec<u8> {
        let read = |x: Tensor| {
            let mut bytes = vec![0; x.bytes()];
            device.read(&mut bytes, x);
            bytes
        };
        let half = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
        match (&self.beside, self.method.master) {
            (Some(_), MasterValues::Remainder) => {
                let (weights, rest) = (read(part), read(self.beside(part)));
                let pairs = weights.chunks_exact(2).zip(rest.chunks_exact(2));
                pairs.flat_map(|(w, r)| optim::join(half(w), half(r)).to_le_bytes()).collect()
            }
            (Some(_), _) => read(self.beside(part)),
            (None, _) => {
                let mut values = vec![0; 4 * part.len()];
                convert_bytes(&read(part), part.dtype(), DType::F32, &mut values);
                values
            }
        }
    }

    /// What lies beside `part` of the weights.
    fn beside(&self, part: Tensor) -> Tensor {
        let all = self.beside.as_ref().expect("there is something").all;
        let first = flat(&self.weights, part);
        all.slice_cols(first..first + part.len()).reshape(part.rows(), part.cols())
    }

    /// Moments under the names of their parameters, with a prefix for what they are.
    pub(super) fn moments(&self, config: &Config) -> Vec<Named> {
        let under = |prefix: &str, mut n: Named| {
            n.name = format!("{prefix}.{}", n.name);
            n
        };
        match &self.held {
            Held::AdamW(moments) => {
                let [m, v] = &**moments;
                let of =
                    |params: &Params, prefix| params.named(config).into_iter().map(move |n| under(prefix, n));
                of(m, "m").chain(of(v, "v")).collect()
            }
            Held::Adafactor(factors) => {
                let mut list = Vec::new();
                for (n, factored) in self.weights.named(config).into_iter().zip(factors) {
                    let mut push = |prefix, tensor: Tensor| {
                        list.push(under(
                            prefix,
                            Named { name: n.name.clone(), tensor, shape: vec![tensor.cols()] },
                        ));
                    };
                    match factored.second {
                        Second::Factored { rows, cols } => {
                            push("rows", rows);
                            push("cols", cols);
                        }
                        Second::Full(v) => push("v", v),
                    }
                }
                list
            }
        }
    }
}

/// The elements before `part` in the flat range of `params`.
fn flat(params: &Params, part: Tensor) -> usize {
    (part.addr() - params.all.addr()) / part.dtype().size()
}
