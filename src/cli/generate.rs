//! `flanrt generate`: what a model writes after a prompt, or after every prompt of a file.

use super::Global;
use super::device::Machine;
use super::finetune::{say, stop_flag};
use super::prepare::{check_length, open_model};
use super::score::{check_out, dtype};
use crate::disk;
use crate::error::Result;
use crate::progress::Progress;
use crate::score::requests::Id;
use crate::score::{
    Engine, GenerateOptions, Hooks, Output, Prompt, Stopped, encode_prompt, generate, read_prompts,
};
use crate::tensor::DType;
use clap::Args;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// `flanrt generate`
#[derive(Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["prompt", "prompts"])))]
pub(super) struct Generate {
    /// Model folder in Hugging Face layout, or `builtin`
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    /// The same as MODEL
    #[arg(long = "model", value_name = "MODEL", conflicts_with = "model")]
    model_flag: Option<String>,
    /// The text to continue
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Rows {"id", "prompt"}; .gz and .zst are fine
    #[arg(long, value_name = "FILE.jsonl")]
    prompts: Option<PathBuf>,
    /// One row per prompt, in their order [default: standard output]
    #[arg(short, long, value_name = "FILE.jsonl", requires = "prompts")]
    out: Option<PathBuf>,
    /// Most tokens of an output
    #[arg(long, value_name = "N", default_value = "256")]
    max_new_tokens: usize,
    /// An output ends before this text (repeatable), and where the model ends it
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Sequences computed at a time [default: as many as keep the device busy]. Changes speed only
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Longest sequence, prompt and output together, in tokens [default: the model's]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Storage of weights, activations, keys and values: f32, bf16 or f16 (arithmetic is f32)
    #[arg(long, value_name = "DTYPE", default_value = "f32", value_parser = dtype)]
    dtype: DType,
    /// Go on where the model would end: for timing
    #[arg(long, hide = true)]
    endless: bool,
}

/// A row of the results.
fn row(id: &Id, output: &Output) -> Value {
    let mut row = json!({
        "id": id,
        "text": output.text,
        "tokens": output.ids.len(),
        "stopped": output.stopped,
    });
    if output.truncated {
        row["truncated"] = true.into();
    }
    row
}

pub(super) fn run(c: Generate, global: &Global) -> Result<()> {
    let (source, config, tokenizer) = open_model(c.model.as_deref(), c.model_flag.as_deref())?;
    let prompts = match (&c.prompts, &c.prompt) {
        (Some(path), _) => read_prompts(path)?,
        (None, prompt) => vec![Prompt { id: Id::Int(1), prompt: prompt.clone().unwrap_or_default() }],
    };
    if let (Some(out), Some(from)) = (&c.out, &c.prompts) {
        check_out(out, from, &["text"])?;
    }
    let stop = stop_flag()?;
    let device = Machine::open(global.device.as_deref().unwrap_or("auto"), global.threads.unwrap_or(0))?;
    check_length(c.max_length, &config)?;
    let ids = prompts
        .par_iter()
        .map(|p| encode_prompt(&tokenizer, &p.prompt).map_err(|e| e.at(format!("prompt {}", p.id))))
        .collect::<Result<Vec<_>>>()?;
    let longest = ids.iter().map(Vec::len).max().unwrap_or(0).saturating_add(c.max_new_tokens);
    let longest = longest.min(c.max_length.unwrap_or(usize::MAX));
    let file = source.checkpoint()?;
    let (mut engine, account) = Engine::load(&*device, &config, &file, c.dtype, longest)?;
    drop(file);
    if !global.json {
        say!("flanrt {}  {}", env!("CARGO_PKG_VERSION"), device.name());
        say!("model   {}  {}  {}  {}", source.name(), config.architecture, c.dtype.name(), account.line());
    }
    let options = GenerateOptions {
        max_new_tokens: c.max_new_tokens,
        stop_ids: if c.endless { Vec::new() } else { tokenizer.stop_ids().to_vec() },
        stop: c.stop.clone(),
        prefix: tokenizer.prefix().to_vec(),
        batch_size: c.batch_size,
        window: c.max_length,
        unrolled: false,
    };
    let mut progress = None;
    let mode = global.progress;
    let mut on_progress = |done: usize, total: usize| {
        let p = progress.get_or_insert_with(|| Progress::new(mode, "generate", total as u64, "prompt"));
        p.set(done as u64, &[]);
    };
    let mut note = |message: &str| say!("{message}");
    let mut hooks = Hooks { progress: &mut on_progress, say: &mut note, interrupted: &stop };
    let begun = Instant::now();
    let outputs = generate(&ids, &tokenizer, &mut engine, &options, &mut hooks)?;
    let seconds = begun.elapsed().as_secs_f64();
    if let Some(p) = progress.filter(|_| c.prompts.is_some()) {
        p.finish();
    }
    let read: usize = ids.iter().map(Vec::len).sum();
    let written: usize = outputs.iter().map(|o| o.ids.len()).sum();
    if !global.json {
        let rate = written as f64 / seconds.max(1e-9);
        say!("read {read} tokens, wrote {written} in {seconds:.2} s ({rate:.0} tokens/s)");
    }
    let rows: Vec<Value> = prompts.iter().zip(&outputs).map(|(p, o)| row(&p.id, o)).collect();
    if let Some(out) = &c.out {
        disk::write_atomic_with(out, |file| rows.iter().try_for_each(|row| writeln!(file, "{row}")))?;
    }
    let count = |stopped: Stopped| outputs.iter().filter(|o| o.stopped == stopped).count();
    let output = match (&c.prompts, &c.out, global.json) {
        (None, _, true) => rows[0].to_string(),
        (None, _, false) => outputs[0].text.clone(),
        (Some(_), _, true) => json!({
            "prompts": outputs.len(),
            "prompt_tokens": read,
            "tokens": written,
            "seconds": seconds,
            "stopped": {
                "stop_id": count(Stopped::StopId),
                "stop_text": count(Stopped::StopText),
                "length": count(Stopped::Length),
                "context": count(Stopped::Context),
            },
            "truncated": outputs.iter().filter(|o| o.truncated).count(),
        })
        .to_string(),
        (Some(_), None, false) => rows.iter().map(|row| format!("{row}\n")).collect(),
        (Some(_), Some(_), false) => format!(
            "prompts {}  ended by the model {}  by a stop text {}  by length {}  by the context {}",
            outputs.len(),
            count(Stopped::StopId),
            count(Stopped::StopText),
            count(Stopped::Length),
            count(Stopped::Context)
        ),
    };
    super::print(&output)
}
