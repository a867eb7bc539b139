//! From a checkpoint into the parameters: every tensor of the file is accounted for before anything runs.

use super::convert::{convert_bytes, find_non_finite};
use super::read::{Checkpoint, Entry};
use crate::error::{Error, Result};
use crate::model::{Config, Named, Params};
use crate::ops::Device;
use crate::tensor::{DType, Tensor};

/// Bytes converted at a time: the only copy outside the arena.
const CHUNK: usize = 4 << 20;

/// What became of the checkpoint's tensors.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Account {
    /// Names copied into parameters.
    pub used: Vec<String>,
    /// Second names of a tied matrix.
    pub tied: Vec<String>,
    /// Names left out, with the reason.
    pub ignored: Vec<(String, String)>,
}

impl Account {
    /// One line for the screen.
    pub fn line(&self) -> String {
        let mut line = format!("every tensor used ({} used, {} tied", self.used.len(), self.tied.len());
        match self.ignored.len() {
            0 => line += ")",
            n => line += &format!(", {n} ignored: {})", self.ignored[0].1),
        }
        line
    }
}

const EMBED: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// The name under which the checkpoint holds a parameter.
fn stored_name(file: &Checkpoint, config: &Config, name: &str) -> Option<String> {
    let there = |n: &str| file.names().any(|x| x == n);
    if there(name) {
        return Some(name.to_string());
    }
    // Tied checkpoints may hold the one matrix under the head's name only.
    let other = file.alias(name).map(str::to_string);
    let other = other.or_else(|| (config.tied && name == EMBED).then(|| HEAD.to_string()));
    other.filter(|n| there(n))
}

/// Pairs every parameter with its stored tensor and every stored tensor with its use. Reads headers only.
fn plan<'a>(file: &'a Checkpoint, config: &Config, named: &'a [Named]) -> Result<(Vec<Entry<'a>>, Account)> {
    let (mut account, mut entries, mut missing) = (Account::default(), Vec::new(), Vec::new());
    for parameter in named {
        let Some(name) = stored_name(file, config, &parameter.name) else {
            missing.push(parameter.name.as_str());
            continue;
        };
        let entry = file.get(&name)?.ok_or_else(|| Error::internal(format!("{name} vanished")))?;
        if entry.shape != parameter.shape {
            return Err(Error::model(format!(
                "{name} has shape {:?}, but config.json asks for {:?}",
                entry.shape, parameter.shape
            ))
            .fix("config.json and the weights are of different models"));
        }
        account.used.push(name);
        entries.push(entry);
    }
    let mut unknown = Vec::new();
    for name in file.names().filter(|n| !account.used.iter().any(|u| u == n)) {
        if config.tied && name == HEAD {
            let (head, embed) = (file.get(HEAD)?, file.get(EMBED)?);
            let same = head.zip(embed).is_some_and(|(h, e)| h.bytes == e.bytes && h.dtype == e.dtype);
            if !same {
                return Err(Error::model(
                    "tie_word_embeddings is true, but lm_head.weight differs from the embedding",
                )
                .fix("set tie_word_embeddings to false in config.json, or remove lm_head.weight"));
            }
            account.tied.push(name.to_string());
        } else if name.ends_with("rotary_emb.inv_freq") {
            account.ignored.push((name.to_string(), "rotary frequencies are computed".into()));
        } else {
            unknown.push(name);
        }
    }
    let list = |names: &[&str]| match names.len() {
        n if n > 4 => format!("{} and {} more", names[..4].join(", "), n - 4),
        _ => names.join(", "),
    };
    if missing == [HEAD] {
        return Err(Error::model("lm_head.weight is missing and config.json says that it is not tied")
            .fix("if the head is the embedding, set tie_word_embeddings to true in config.json"));
    }
    if !missing.is_empty() {
        return Err(Error::model(format!("{} tensor(s) are missing: {}", missing.len(), list(&missing)))
            .fix("the files are incomplete, or of another model than config.json"));
    }
    if !unknown.is_empty() {
        return Err(Error::model(format!("{} tensor(s) have no place in {}: {}", unknown.len(), config.architecture, list(&unknown)))
            .fix("config.json and the weights are of different models (an adapter, a bias or norm that config.json does not mention?)"));
    }
    if config.tied && account.used.iter().any(|n| n == HEAD) {
        account.tied.push(EMBED.to_string());
    }
    Ok((entries, account))
}

/// Checks that every tensor of `file` fits `config`, by the headers alone.
pub fn check(file: &Checkpoint, config: &Config) -> Result<Account> {
    let params = Params::carve(config, &mut crate::arena::Arena::measure(), "weights", DType::F32);
    let named = params.named(config);
    Ok(plan(file, config, &named)?.1)
}

/// Copies the checkpoint into `params`, converting on the way.
pub fn load(file: &Checkpoint, config: &Config, device: &dyn Device, params: &Params) -> Result<Account> {
    load_with(file, config, params, params.all.dtype(), &mut |part, bytes| device.write(part, bytes))
}

/// Gives `put` the checkpoint part by part, converted to `dtype`: parts of `params` and their elements' bytes. Pages of the
/// file are given back as it goes.
pub fn load_with(
    file: &Checkpoint,
    config: &Config,
    params: &Params,
    dtype: DType,
    put: &mut dyn FnMut(Tensor, &[u8]),
) -> Result<Account> {
    let named = params.named(config);
    let (entries, account) = plan(file, config, &named)?;
    let mut buffer = Vec::new();
    for (parameter, entry) in named.iter().zip(&entries) {
        copy(parameter.tensor, entry, dtype, &mut buffer, put)?;
        file.release(entry.name);
    }
    Ok(account)
}

/// Refuses a tensor that holds a NaN or an infinity, naming the first.
pub fn check_finite(entry: &Entry<'_>) -> Result<()> {
    if let Some(i) = find_non_finite(entry.bytes, entry.dtype) {
        return Err(Error::model(format!("{} holds a value that is not finite (element {i})", entry.name))
            .fix("the checkpoint is damaged or its training diverged"));
    }
    Ok(())
}

/// One tensor, row block by row block.
fn copy(
    to: Tensor,
    entry: &Entry<'_>,
    dtype: DType,
    buffer: &mut Vec<u8>,
    put: &mut dyn FnMut(Tensor, &[u8]),
) -> Result<()> {
    check_finite(entry)?;
    let row = entry.bytes.len() / to.rows();
    let step = (CHUNK / row.max(1)).clamp(1, to.rows());
    for first in (0..to.rows()).step_by(step) {
        let part = to.slice_rows(first..to.rows().min(first + step));
        let bytes = &entry.bytes[first * row..][..part.rows() * row];
        if entry.dtype == dtype {
            put(part, bytes);
        } else {
            buffer.resize(part.len() * dtype.size(), 0);
            convert_bytes(bytes, entry.dtype, dtype, buffer);
            put(part, buffer);
        }
    }
    Ok(())
}
