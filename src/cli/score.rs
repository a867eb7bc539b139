//! `flanrt score`: requests, a text, or datasets through a model.

use super::Global;
use super::device::Machine;
use super::evaluate::{self, Evaluate};
use super::finetune::{say, stop_flag};
use super::prepare::{check_length, open_model};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::score::{
    Boundary, Engine, Hooks, Requests, ScoreOptions, TextOptions, run as score_requests, score_text, text,
};
use crate::tensor::DType;
use crate::weights::Checkpoint;
use clap::Args;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// `flanrt score`
#[derive(Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["requests", "text", "tasks"])))]
pub(super) struct Score {
    /// Model folder in Hugging Face layout, or `builtin`
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    /// The same as MODEL
    #[arg(long = "model", value_name = "MODEL", conflicts_with = "model")]
    model_flag: Option<String>,
    /// Rows {"id", "context", "options": [..], "label"?} or {"id", "context", "continuation"}; .gz and .zst are fine
    #[arg(long, value_name = "FILE.jsonl")]
    requests: Option<PathBuf>,
    /// Plain text: mean loss, perplexity and bits per byte
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// With --requests one row per request, with --tasks a folder; the same command continues where a killed one stopped
    #[arg(short, long, value_name = "PATH", conflicts_with = "text")]
    out: Option<PathBuf>,
    /// Where the option's tokens begin: joint (first id that leaves the context's own), lm-eval or separate
    #[arg(long, value_name = "RULE", default_value = "joint", value_parser = boundary)]
    boundary: Boundary,
    /// Requests (or windows of text) computed at a time [default: as many as fit]. Changes speed only
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Longest sequence in tokens [default: the model's]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// With --text: tokens by which the window moves [default: no overlap]
    #[arg(long, value_name = "TOKENS", requires = "text")]
    stride: Option<usize>,
    /// Context of the unconditional scores [default: empty]
    #[arg(long, value_name = "TEXT")]
    unconditional: Option<String>,
    /// Leave out the unconditional scores and the choice that needs them
    #[arg(long, conflicts_with = "unconditional")]
    no_unconditional: bool,
    /// Score the EOS behind every option, too, and choose by the sum with it
    #[arg(long)]
    eos: bool,
    /// Storage of weights and activations: f32, bf16 or f16 (arithmetic is f32)
    #[arg(long, value_name = "DTYPE", default_value = "f32", value_parser = dtype)]
    dtype: DType,
    /// Every option with its own copy of the context: for checking, slower
    #[arg(long, hide = true)]
    unrolled: bool,
    #[command(flatten)]
    evaluate: Evaluate,
}

fn boundary(text: &str) -> std::result::Result<Boundary, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected joint, lm-eval or separate".to_string())
}

pub(super) fn dtype(text: &str) -> std::result::Result<DType, String> {
    let parsed = serde_json::from_value(text.into()).ok().filter(|d| !matches!(d, DType::U32 | DType::U16));
    parsed.ok_or_else(|| "expected f32, bf16 or f16".to_string())
}

/// blake3 over names and bytes of all weights and the configuration.
pub(super) fn model_hash(file: &Checkpoint, config: &crate::model::Config) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(config.json.to_string().as_bytes());
    for name in file.names() {
        if let Some(entry) = file.get(name)? {
            hasher.update(name.as_bytes()).update(entry.bytes);
            file.release(name);
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}

/// Refuses to replace the file that is read, or one that holds something else than results: rows with an id and one of
/// `keys`.
pub(super) fn check_out(out: &Path, from: &Path, keys: &[&str]) -> Result<()> {
    if out.canonicalize().ok().is_some_and(|out| from.canonicalize().ok() == Some(out)) {
        let what = if keys.contains(&"options") { "requests" } else { "prompts" };
        return Err(
            Error::usage(format!("--out {} is the {what} file", out.display())).fix("name another file")
        );
    }
    let Some(file) = std::fs::File::open(out).ok().filter(|_| out.is_file()) else { return Ok(()) };
    let mut first = String::new();
    let read = std::io::BufReader::new(file).read_line(&mut first);
    let row = serde_json::from_str::<serde_json::Value>(&first).unwrap_or_default();
    if read.is_ok_and(|n| n == 0) || row.get("id").is_some() && keys.iter().any(|key| row.get(key).is_some())
    {
        return Ok(());
    }
    Err(Error::disk(format!("{} exists and does not hold results of flanrt", out.display()))
        .fix("name another --out"))
}

pub(super) fn run(c: Score, global: &Global) -> Result<()> {
    let (source, config, tokenizer) = open_model(c.model.as_deref(), c.model_flag.as_deref())?;
    let requests = c.requests.as_deref().map(Requests::read).transpose()?;
    let text = c.text.as_deref().map(text::read_text).transpose()?;
    let tasks = match c.evaluate.tasks.is_empty() {
        true => None,
        false => Some(c.evaluate.prepare(&source, config.context, c.max_length)?),
    };
    let stop = stop_flag()?;
    let device = Machine::open(global.device.as_deref().unwrap_or("auto"), global.threads.unwrap_or(0))?;
    check_length(c.max_length, &config)?;
    if let (Some(out), Some(from)) = (&c.out, &c.requests) {
        check_out(out, from, &["options", "logprob"])?;
    }
    // A token holds at least a byte, but for what the tokenizer puts in front.
    let bytes = match (&requests, &text) {
        _ if tasks.is_some() => tasks.as_ref().map_or(0, evaluate::Prepared::longest),
        (Some(requests), _) => requests.longest() + c.unconditional.as_ref().map_or(0, String::len),
        (None, text) => text.as_ref().map_or(0, String::len),
    };
    let longest = (bytes + 64).min(c.max_length.unwrap_or(usize::MAX));
    let file = source.checkpoint()?;
    let hash = if c.out.is_some() || tasks.is_some() { model_hash(&file, &config)? } else { String::new() };
    let (mut engine, account) = Engine::load(&*device, &config, &file, c.dtype, longest)?;
    drop(file);
    if !global.json {
        say!("flanrt {}  {}", env!("CARGO_PKG_VERSION"), device.name());
        say!("model   {}  {}  {}  {}", source.name(), config.architecture, c.dtype.name(), account.line());
    }
    let settings =
        [("dtype", c.dtype.name()), ("tokenizer", tokenizer.hash()), ("version", env!("CARGO_PKG_VERSION"))];
    let options = ScoreOptions {
        boundary: c.boundary,
        batch_size: c.batch_size,
        window: c.max_length,
        unconditional: (!c.no_unconditional).then(|| c.unconditional.clone().unwrap_or_default()),
        eos: c.eos,
        unrolled: c.unrolled,
        out: c.out.clone(),
        model: hash,
        settings: BTreeMap::from(settings.map(|(k, v)| (k.to_string(), v.to_string()))),
    };
    if let Some(tasks) = &tasks {
        let out = c.out.as_deref();
        return evaluate::run(
            &c.evaluate,
            tasks,
            &source,
            &mut engine,
            &tokenizer,
            options,
            out,
            global,
            &stop,
        );
    }
    let mut progress = None;
    let mode = global.progress;
    let unit = if text.is_some() { "window" } else { "request" };
    let mut on_progress = |done: usize, total: usize| {
        let p = progress.get_or_insert_with(|| Progress::new(mode, "score", total as u64, unit));
        p.set(done as u64, &[]);
    };
    let mut note = |message: &str| say!("{message}");
    let mut hooks = Hooks { progress: &mut on_progress, say: &mut note, interrupted: &stop };
    let start = Instant::now();
    let output = if let (Some(text), Some(path)) = (&text, &c.text) {
        let options = TextOptions { window: c.max_length, stride: c.stride, batch_size: c.batch_size };
        let result =
            score_text(&path.display().to_string(), text, &tokenizer, &mut engine, &options, &mut hooks)?;
        match global.json {
            true => timed(&result, start)?,
            false => format!(
                "tokens {}  scored {}  windows {}\nmean loss {:.6}  perplexity {:.4}  bits per byte {:.4}",
                result.tokens,
                result.scored,
                result.chunks,
                result.mean_loss,
                result.perplexity,
                result.bits_per_byte
            ),
        }
    } else {
        let requests = requests.ok_or_else(|| Error::internal("neither requests nor text"))?;
        let summary = score_requests(&requests, &tokenizer, &mut engine, &options, &mut hooks)?;
        match global.json {
            true => timed(&summary, start)?,
            false => summary.table(),
        }
    };
    if let Some(p) = progress {
        p.finish();
    }
    super::print(&output)
}

/// `result` as JSON, with the seconds since `start`: what scoring took without loading the model.
fn timed(result: &impl serde::Serialize, start: Instant) -> Result<String> {
    let mut value = serde_json::to_value(result).map_err(|e| Error::internal(e.to_string()))?;
    value["seconds"] = start.elapsed().as_secs_f64().into();
    Ok(value.to_string())
}
