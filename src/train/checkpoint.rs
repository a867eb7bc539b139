//! What a checkpoint holds: f32 master weights, both moments and where the run stands. Nothing else decides the steps that
//! follow, since data order and learning rate are functions of the step; so a resumed run is the uninterrupted one.

use super::trainer::{Scaling, Trainer};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::model::Params;
use crate::tensor::DType;
use crate::weights::{Checkpoint, Tensor, write_file};
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

/// Bytes that a checkpoint of `parameters` parameters takes on disk, about.
pub fn size(parameters: u64) -> u64 {
    12 * parameters + (1 << 16)
}

/// The parameters of `params` as tensors to write, names behind `prefix`.
pub fn tensors<'a>(trainer: &'a Trainer<'_>, params: &Params, prefix: &str) -> Vec<Tensor<'a>> {
    let named = params.named(&trainer.model.config);
    let lazy = named.into_iter().map(|n| {
        let device = trainer.device();
        Tensor::lazy(format!("{prefix}{}", n.name), n.shape, n.tensor.dtype(), move || {
            let mut bytes = vec![0; n.tensor.bytes()];
            device.read(&mut bytes, n.tensor);
            Ok(bytes)
        })
    });
    lazy.collect()
}

/// blake3 of names and bytes of the master weights, in checkpoint order: equal exactly where the models are.
pub fn weights_hash(trainer: &Trainer<'_>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::new();
    for n in trainer.master.named(&trainer.model.config) {
        bytes.resize(n.tensor.bytes(), 0);
        trainer.device().read(&mut bytes, n.tensor);
        hasher.update(n.name.as_bytes()).update(&bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// Fills the folder of a checkpoint.
pub fn save(trainer: &Trainer<'_>, state: &State, dir: &Path) -> Result<()> {
    write_file(&dir.join("model.safetensors"), tensors(trainer, &trainer.master, ""))?;
    let mut moments = tensors(trainer, &trainer.m, "m.");
    moments.extend(tensors(trainer, &trainer.v, "v."));
    write_file(&dir.join("optimizer.safetensors"), moments)?;
    let json = serde_json::to_vec_pretty(state).map_err(|e| Error::internal(e.to_string()))?;
    disk::write_atomic(&dir.join("state.json"), &json)
}

/// Reads the state of the checkpoint in `dir`.
pub fn state(dir: &Path) -> Result<State> {
    let path = dir.join("state.json");
    let bytes = std::fs::read(&path).map_err(|e| Error::io(Kind::Disk, "read", &path, &e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::disk(format!("{}: {e}", path.display())))
}

/// Fills `trainer` from the checkpoint in `dir` and publishes the weights.
pub fn load(trainer: &mut Trainer<'_>, dir: &Path) -> Result<State> {
    let state = state(dir)?;
    let weights = Checkpoint::open_file(&dir.join("model.safetensors"))?;
    let moments = Checkpoint::open_file(&dir.join("optimizer.safetensors"))?;
    for (file, params, prefix) in
        [(&weights, &trainer.master, ""), (&moments, &trainer.m, "m."), (&moments, &trainer.v, "v.")]
    {
        for n in params.named(&trainer.model.config) {
            let name = format!("{prefix}{}", n.name);
            let entry = file.get(&name)?.filter(|e| e.shape == n.shape && e.dtype == DType::F32);
            let entry = entry.ok_or_else(|| {
                Error::disk(format!("{}: {name} is missing or of another shape", dir.display()))
                    .fix("the checkpoint belongs to another model")
            })?;
            trainer.device().write(n.tensor, entry.bytes);
            file.release(&name);
        }
    }
    trainer.publish();
    trainer.scaling = state.scaling;
    Ok(state)
}
