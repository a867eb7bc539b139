//! What a checkpoint holds: master weights, moments and where the run stands. Nothing else decides the steps that follow,
//! since data order, learning rate and rounding are functions of the step; so a resumed run is the uninterrupted one.
//!
//! Weights are saved as f32 wherever f32 values are kept, in whatever form; moments as they are.

use super::trainer::{Scaling, Trainer};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::model::Named;
use crate::tensor::DType;
use crate::weights::{Checkpoint, Tensor, convert_bytes, write_file};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// f16's loss scale.
    pub scaling: Scaling,
    /// Tokens seen so far.
    pub tokens: u64,
    /// Target tokens among them.
    pub targets: u64,
    /// Sums since the last log line, so that the next one is that of the uninterrupted run.
    #[serde(default)]
    pub window: Window,
}

/// Sums over the steps since the last log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Loss over all targets, nats.
    pub loss: f64,
    /// Targets.
    pub targets: u64,
    /// Updates left out because f16 gradients overflowed.
    pub skipped: u64,
}

/// `named` as tensors to write, as they are on the device.
pub fn tensors<'a>(trainer: &'a Trainer<'_>, named: Vec<Named>) -> Vec<Tensor<'a>> {
    let lazy = named.into_iter().map(|n| {
        let device = trainer.device();
        Tensor::lazy(n.name, n.shape, n.tensor.dtype(), move || {
            let mut bytes = vec![0; n.tensor.bytes()];
            device.read(&mut bytes, n.tensor);
            Ok(bytes)
        })
    });
    lazy.collect()
}

/// `named` as tensors to write, each number rounded to `dtype` once.
pub fn tensors_as<'a>(trainer: &'a Trainer<'_>, named: Vec<Named>, dtype: DType) -> Vec<Tensor<'a>> {
    let lazy = named.into_iter().map(move |n| {
        let device = trainer.device();
        Tensor::lazy(n.name, n.shape, dtype, move || {
            let from = n.tensor.dtype();
            let mut bytes = vec![0; n.tensor.bytes()];
            device.read(&mut bytes, n.tensor);
            if from == dtype {
                return Ok(bytes);
            }
            let mut converted = vec![0; bytes.len() / from.size() * dtype.size()];
            convert_bytes(&bytes, from, dtype, &mut converted);
            Ok(converted)
        })
    });
    lazy.collect()
}

/// The values that updates add up in, as tensors to write.
fn values<'a>(trainer: &'a Trainer<'_>) -> Vec<Tensor<'a>> {
    let named = trainer.model.params.named(&trainer.model.config);
    let dtype = trainer.method.values(trainer.model.params.all.dtype());
    if dtype != DType::F32 {
        return tensors(trainer, named);
    }
    let lazy =
        named.into_iter().map(|n| Tensor::lazy(n.name, n.shape, dtype, move || Ok(trainer.get(n.tensor))));
    lazy.collect()
}

/// blake3 of names and values of the weights as f32, in checkpoint order: equal exactly where the models are.
pub fn weights_hash(trainer: &Trainer<'_>) -> String {
    let mut hasher = blake3::Hasher::new();
    for n in trainer.model.params.named(&trainer.model.config) {
        hasher.update(n.name.as_bytes()).update(&trainer.get(n.tensor));
    }
    hasher.finalize().to_hex().to_string()
}

/// Fills the folder of a checkpoint.
pub fn save(trainer: &Trainer<'_>, state: &State, dir: &Path) -> Result<()> {
    write_file(&dir.join("model.safetensors"), values(trainer))?;
    write_file(&dir.join("optimizer.safetensors"), tensors(trainer, trainer.moments()))?;
    let json = serde_json::to_vec_pretty(state).map_err(|e| Error::internal(e.to_string()))?;
    disk::write_atomic(&dir.join("state.json"), &json)
}

/// Reads the state of the checkpoint in `dir`.
pub fn state(dir: &Path) -> Result<State> {
    let path = dir.join("state.json");
    let bytes = std::fs::read(&path).map_err(|e| Error::io(Kind::Disk, "read", &path, &e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::disk(format!("{}: {e}", path.display())))
}

/// The elements of `n` in a file of the checkpoint in `dir`.
fn stored<'a>(file: &'a Checkpoint, n: &Named, dtype: DType, dir: &Path) -> Result<&'a [u8]> {
    let entry = file.get(&n.name)?.filter(|e| e.shape == n.shape && e.dtype == dtype);
    entry.map(|e| e.bytes).ok_or_else(|| {
        let message = format!("{}: {} is missing, or of another shape or dtype", dir.display(), n.name);
        Error::disk(message).fix("the checkpoint belongs to another model")
    })
}

/// Fills `trainer` from the checkpoint in `dir`.
pub fn load(trainer: &mut Trainer<'_>, dir: &Path) -> Result<State> {
    let state = state(dir)?;
    let weights = Checkpoint::open_file(&dir.join("model.safetensors"))?;
    let moments = Checkpoint::open_file(&dir.join("optimizer.safetensors"))?;
    let dtype = trainer.method.values(trainer.model.params.all.dtype());
    for n in trainer.model.params.named(&trainer.model.config) {
        let bytes = stored(&weights, &n, dtype, dir)?;
        if dtype == DType::F32 {
            trainer.set(n.tensor, bytes);
        } else {
            trainer.device().write(n.tensor, bytes);
        }
        weights.release(&n.name);
    }
    for n in trainer.moments() {
        let bytes = stored(&moments, &n, n.tensor.dtype(), dir)?;
        trainer.device().write(n.tensor, bytes);
        moments.release(&n.name);
    }
    trainer.scaling = state.scaling;
    Ok(state)
}
