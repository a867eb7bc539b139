//! `flanrt model info` and `flanrt model verify`.

use super::Global;
use super::device::Machine;
use super::prepare::{count, millions};
use crate::disk;
use crate::error::{Error, Result};
use crate::ops::{Batch, Profile};
use crate::score::Engine;
use crate::tensor::DType;
use crate::text::Tokenizer;
use crate::weights::{self, Source};
use clap::Subcommand;
use serde_json::json;
use std::collections::BTreeMap;

/// `flanrt model`
#[derive(Subcommand)]
pub(super) enum Model {
    /// Shapes, sizes and tokenizer of a model, from the headers
    Info {
        /// Model folder, or `builtin`
        model: String,
    },
    /// Read every byte: all tensors accounted for, no NaN, hashes right where there is a manifest
    Verify {
        /// Model folder, or `builtin`
        model: String,
    },
    /// Print the logits after the last of some token ids as JSON, for comparing with other programs
    Logits {
        /// Model folder, or `builtin`
        model: String,
        /// Token ids of one sequence
        #[arg(long, value_name = "ID", required = true, value_delimiter = ' ', num_args = 1..)]
        ids: Vec<u32>,
    },
}

/// The logits of the last position, in f32, with the ids that led there.
fn logits(model: &str, ids: &[u32], global: &Global) -> Result<()> {
    let source = Source::find(model)?;
    let config = source.config()?;
    if ids.len() > config.context {
        return Err(Error::usage(format!(
            "{} ids are more than the context of {}",
            ids.len(),
            config.context
        )));
    }
    let device = Machine::open(global.device.as_deref().unwrap_or("auto"), global.threads.unwrap_or(0))?;
    let (engine, _) = Engine::load(&*device, &config, &source.checkpoint()?, DType::F32, ids.len())?;
    let mut batch = Batch::default();
    batch.push(None, ids);
    batch.ask(ids.len() as u32 - 1, 0, 0);
    super::print(&json!({"ids": ids, "last_logits": engine.logits(&batch)?}).to_string())
}

pub(super) fn run(c: Model, global: &Global) -> Result<()> {
    let model = match &c {
        Model::Logits { model, ids } => return logits(model, ids, global),
        Model::Info { model } | Model::Verify { model } => model,
    };
    let source = Source::find(model)?;
    let config = source.config()?;
    let file = source.checkpoint()?;
    let account = weights::check(&file, &config)?;
    let tokenizer = Tokenizer::load(&source)?;
    let mut stored: BTreeMap<&str, u64> = BTreeMap::new();
    for name in &account.used {
        if let Some(entry) = file.get(name)? {
            *stored.entry(entry.dtype.name()).or_default() += 1;
        }
    }
    if matches!(c, Model::Verify { .. }) {
        for name in &account.used {
            if let Some(entry) = file.get(name)? {
                weights::check_finite(&entry).map_err(|e| e.at(source.name()))?;
            }
            file.release(name);
        }
        if let Source::Dir(dir) = &source
            && dir.join(disk::MANIFEST).exists()
        {
            disk::verify_dir(dir)?;
        }
    }
    let c_ = &config;
    let memory = |dtype| Engine::measure(c_, dtype, Profile::PLAIN).used() as u64;
    if global.json {
        let info = json!({
            "name": source.name(), "architecture": c_.architecture, "parameters": count(c_), "hidden": c_.hidden,
            "layers": c_.layers, "heads": c_.heads, "kv_heads": c_.kv_heads, "head_size": c_.head_size, "ffn": c_.ffn,
            "vocab": c_.vocab, "context": c_.context, "tied": c_.tied, "stored": stored, "tensors": account,
            "tokenizer": {"ids": tokenizer.vocab_size(), "prefix": tokenizer.prefix(), "eos": tokenizer.eos(), "stop": tokenizer.stop_ids(), "chat_template": tokenizer.chat_template().is_some()},
            "scoring_memory": {"f32": memory(DType::F32), "bf16": memory(DType::BF16)},
        });
        return super::print(&info.to_string());
    }
    let dtypes = stored.iter().map(|(d, n)| format!("{n} {d}")).collect::<Vec<_>>().join(", ");
    let token = |id: Option<u32>| {
        id.map_or("none".into(), |id| {
            format!("{id} {:?}", tokenizer.decode(&[id], false).unwrap_or_default())
        })
    };
    let window =
        c_.windows.iter().flatten().next().map_or(String::new(), |w| format!("  sliding window {w}"));
    let out = format!(
        "{}  {}  {} parameters ({})\n\
         width {}  layers {}  heads {}/{} of {}  ffn {}  vocabulary {}  context {}{window}\n\
         rotary theta {} scaling {:?}  head {}\n\
         tensors  {dtypes}  {}\n\
         tokens   BOS {}  EOS {}  stop {:?}  in front {:?}  chat template {}\n\
         scoring  {} of memory in f32, {} in bf16",
        source.name(),
        c_.architecture,
        millions(count(c_)),
        count(c_),
        c_.hidden,
        c_.layers,
        c_.heads,
        c_.kv_heads,
        c_.head_size,
        c_.ffn,
        c_.vocab,
        c_.context,
        c_.rope_theta,
        c_.scaling,
        if c_.tied { "tied" } else { "untied" },
        account.line(),
        token(tokenizer.bos()),
        token(tokenizer.eos()),
        tokenizer.stop_ids(),
        tokenizer.prefix(),
        if tokenizer.chat_template().is_some() { "yes" } else { "no" },
        disk::human_bytes(memory(DType::F32)),
        disk::human_bytes(memory(DType::BF16)),
    );
    super::print(&out)?;
    if matches!(c, Model::Verify { .. }) {
        super::print("verified: every tensor read, accounted for and finite")
    } else {
        Ok(())
    }
}
