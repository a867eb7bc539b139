//! `flanrt finetune` and `flanrt pretrain`: check everything that can be checked, then train, then save.

use super::demo::Demo;
use super::settings::{DataSettings, Loss, Resolved, Settings};
use super::{Global, TrainFlags};
use crate::cpu::Cpu;
use crate::data::{self, Examples, pack};
use crate::disk;
use crate::dist::Solo;
use crate::error::{Error, Kind, Result};
use crate::model::{Config, Params, Sizes};
use crate::ops::{Batch, Device, Memory};
use crate::progress::Progress;
use crate::rng::Rng;
use crate::tensor::DType;
use crate::text::Tokenizer;
use crate::train::Trainer;
use crate::train::checkpoint::{self, State};
use crate::train::run::{self, Job, parse_duration};
use crate::train::rundir::{Info, RunDir, Status};
use crate::weights::{self, MAX_SHARD_BYTES, Source, save_model};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Bytes of logits held at a time in training.
pub(super) const LOGITS: usize = 16 << 20;
/// Stream of the validation split.
const SPLIT: u64 = 0x5911;

/// `flanrt finetune`
#[derive(Args)]
pub(super) struct Finetune {
    /// Model folder in Hugging Face layout, or `builtin`
    model: Option<String>,
    /// Training files: .jsonl .json .csv .tsv .txt, plain, .gz or .zst; globs and folders
    data: Vec<String>,
    #[command(flatten)]
    train: TrainFlags,
    #[command(flatten)]
    go: Go,
}

/// `flanrt pretrain`
#[derive(Args)]
pub(super) struct Pretrain {
    /// Folder with config.json of the new model, and its tokenizer unless --vocab-size makes one
    model: String,
    /// Text files: one document a row of .jsonl, or paragraphs of .txt
    #[arg(required = true)]
    data: Vec<String>,
    /// Train a byte-level BPE of so many pieces on the text first
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,
    #[command(flatten)]
    train: TrainFlags,
    #[command(flatten)]
    go: Go,
}

/// Flags of a run that is started (not only planned).
#[derive(Args, Clone)]
pub(super) struct Go {
    /// Continue the run in this directory; its settings are read from there
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    resume: Option<PathBuf>,
    /// Stop with a checkpoint after this time, e.g. 3h30m (exit 75)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_time: Option<std::time::Duration>,
}

fn duration(text: &str) -> std::result::Result<std::time::Duration, String> {
    parse_duration(text).ok_or_else(|| "expected a time like 90s, 15m or 3h30m".into())
}

/// What a run starts from.
pub(super) enum Start {
    /// A checkpoint in Hugging Face layout.
    Weights(Source),
    /// Random weights for a configuration.
    Random,
}

/// What is trained, read and checked before anything is allocated.
pub(super) struct Prepared {
    pub(super) resolved: Resolved,
    pub(super) start: Start,
    pub(super) name: String,
    pub(super) config: Config,
    pub(super) generation: Option<Value>,
    pub(super) tokenizer: Tokenizer,
    pub(super) seq_len: usize,
    pub(super) demo: Option<Demo>,
}

impl Prepared {
    pub(super) fn settings(&self) -> &Settings {
        &self.resolved.settings
    }

    /// Settings, configuration, tokenizer and weights' headers of a fine-tuning run.
    /// `with_data`: it is an error to name none.
    pub(super) fn finetune(resolved: Resolved, with_data: bool) -> Result<Self> {
        let source = Source::find(&resolved.settings.model.path)?;
        let config = source.config()?;
        let tokenizer = Tokenizer::load(&source)?;
        weights::check(&source.checkpoint()?, &config)?;
        let demo = (source == Source::Builtin && resolved.settings.mix.is_empty()).then(Demo::new);
        if with_data && demo.is_none() && resolved.settings.mix.is_empty() {
            return Err(Error::usage("no training data")
                .fix("name files after the model (flanrt finetune MODEL DATA...), or [[mix]] in a configuration file"));
        }
        let name = source.name();
        let generation = generation(&source)?;
        Self::checked(resolved, Start::Weights(source), name, config, generation, tokenizer, demo)
    }

    /// The same for a new model: `dir` holds config.json and perhaps the tokenizer.
    pub(super) fn pretrain(resolved: Resolved, vocab_size: Option<usize>) -> Result<Self> {
        let source = Source::find(&resolved.settings.model.path)?;
        let mut config = source.config()?;
        let tokenizer = match vocab_size {
            None => Tokenizer::load(&source)?,
            Some(n) => {
                let files = Trained(new_tokenizer(&resolved.settings, n)?);
                let tokenizer = Tokenizer::load(&files)?;
                config.vocab = tokenizer.vocab_size();
                config.json["vocab_size"] = config.vocab.into();
                config.json["bos_token_id"] = tokenizer.bos().into();
                config.json["eos_token_id"] = tokenizer.eos().into();
                tokenizer
            }
        };
        let generation = generation(&source)?;
        let name = source.name();
        Self::checked(resolved, Start::Random, name, config, generation, tokenizer, None)
    }

    fn checked(
        resolved: Resolved,
        start: Start,
        name: String,
        config: Config,
        generation: Option<Value>,
        tokenizer: Tokenizer,
        demo: Option<Demo>,
    ) -> Result<Self> {
        if tokenizer.vocab_size() > config.vocab {
            return Err(Error::model(format!(
                "the tokenizer has ids up to {}, but the model's vocabulary has {} entries",
                tokenizer.vocab_size() - 1,
                config.vocab
            ))
            .fix("the tokenizer does not belong to these weights"));
        }
        let asked = resolved.settings.data.seq_len;
        if asked > config.context {
            return Err(Error::usage(format!(
                "--seq-len {asked} is longer than the model's context of {}",
                config.context
            )));
        }
        let seq_len = if asked == 0 { config.context.min(1024) } else { asked };
        if seq_len < 2 {
            return Err(Error::usage(format!("--seq-len {seq_len} leaves nothing to predict")));
        }
        Ok(Self { resolved, start, name, config, generation, tokenizer, seq_len, demo })
    }

    /// Room for the largest micro-batch.
    pub(super) fn sizes(&self) -> Sizes {
        let tokens = self.settings().train.micro_batch.max(self.seq_len);
        let chunk = Sizes::chunk_for(self.config.vocab, tokens, LOGITS);
        Sizes { tokens, asks: tokens, chunk, train: Some(self.settings().train.recompute) }
    }

    /// Reads and tokenises the data.
    pub(super) fn data(&self, global: &Global) -> Result<Data> {
        let settings = self.settings();
        let options = data_options(&settings.data, self.seq_len, settings.train.seed);
        let (train, val) = match &self.demo {
            Some(demo) => (demo.examples(&self.tokenizer, &options, settings.train.seed)?, None),
            None => {
                let train = load(&settings.mix, &self.tokenizer, &options, global)?;
                let val = match settings.data.val.as_slice() {
                    [] => None,
                    paths => {
                        let first = settings.mix[0].clone();
                        let source = data::Source {
                            name: "validation".into(),
                            paths: paths.to_vec(),
                            cap: None,
                            ..first
                        };
                        Some(load(&[source], &self.tokenizer, &options, global)?)
                    }
                };
                (train, val)
            }
        };
        let n = train.len();
        if n == 0 {
            return Err(Error::data("there is not one training example").fix("see the counts above"));
        }
        let kept = if val.is_some() { 0 } else { (settings.data.val_split * n as f64).round() as usize };
        let mut order = Rng::new(settings.train.seed, SPLIT).permutation(n);
        let mut held = order.split_off(n - kept.min(n - 1));
        held.sort_unstable();
        order.sort_unstable();
        let split: Vec<_> = match &val {
            Some(val) => (0..val.len()).map(|i| (i as u32, val.get(i))).collect(),
            None => held.iter().map(|&i| (i, train.get(i as usize))).collect(),
        };
        let mut validation = pack(&split, self.sizes().tokens);
        validation.retain(|b| !b.rows.is_empty());
        Ok(Data { hash: train.hash().to_string(), train, chosen: order, validation })
    }
}

/// The examples of a run.
pub(super) struct Data {
    pub(super) train: Examples,
    pub(super) chosen: Vec<u32>,
    pub(super) validation: Vec<Batch>,
    hash: String,
}

fn data_options(d: &DataSettings, seq_len: usize, seed: u64) -> data::Options {
    data::Options {
        seq_len,
        loss_all: d.loss == Loss::All,
        joiner: d.joiner.clone(),
        max_dropped: d.max_dropped,
        allow_double_bos: d.allow_double_bos,
        cache_dir: (!d.cache_dir.is_empty()).then(|| PathBuf::from(&d.cache_dir)),
        seed,
    }
}

fn load(
    sources: &[data::Source],
    tokenizer: &Tokenizer,
    options: &data::Options,
    global: &Global,
) -> Result<Examples> {
    let progress = std::sync::Mutex::new(None);
    let mode = global.progress;
    let report = |done: u64, total: u64| {
        if let Ok(mut p) = progress.lock() {
            p.get_or_insert_with(|| Progress::new(mode, "tokenise", total, "byte")).set(done, &[]);
        }
    };
    let examples = data::load(sources, tokenizer, options, &report)?;
    drop(progress);
    Ok(examples)
}

/// Files of a tokenizer that was just trained.
struct Trained(Vec<(String, Vec<u8>)>);

impl crate::text::Files for Trained {
    fn place(&self) -> String {
        "the new tokenizer".into()
    }
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.0.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes.clone()))
    }
}

/// Trains a tokenizer on the run's own text.
fn new_tokenizer(settings: &Settings, vocab: usize) -> Result<Vec<(String, Vec<u8>)>> {
    let texts = data::texts(&settings.mix)?;
    crate::text::train_bpe(&texts, vocab)
}

fn generation(source: &Source) -> Result<Option<Value>> {
    use crate::text::Files;
    let Some(bytes) = source.get("generation_config.json")? else { return Ok(None) };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|e| Error::model(format!("{}/generation_config.json: {e}", source.place())))
}

/// The backend that `--device` asks for.
pub(super) fn device(name: &str, threads: usize) -> Result<Cpu> {
    match name {
        "auto" | "cpu" => Cpu::new(threads),
        other => Err(Error::usage(format!("unknown device {other:?}")).fix("this build has: auto, cpu")),
    }
}

/// A flag that SIGINT and SIGTERM set; a second SIGINT ends the process at once.
pub(super) fn stop_flag() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    let failed = |e: std::io::Error| Error::internal(format!("cannot watch signals: {e}"));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(Kind::Interrupted as u8),
            flag.clone(),
        )
        .map_err(failed)?;
        signal_hook::flag::register(signal, flag.clone()).map_err(failed)?;
    }
    Ok(flag)
}

/// Defaults of the run without arguments: about a minute on two cores.
fn demo_defaults() -> Vec<(&'static str, toml::Value)> {
    use toml::Value as V;
    vec![
        ("train.steps", V::Integer(super::demo::STEPS)),
        ("train.lr", V::Float(super::demo::LR)),
        ("train.schedule", V::String("linear".into())),
    ]
}

/// Settings of a new run, or of the one that `--resume` names.
fn resolve(
    train: &TrainFlags,
    go: &Go,
    global: &Global,
    command: &[(&str, toml::Value)],
    model: Option<&str>,
    data: &[String],
) -> Result<Resolved> {
    let Some(dir) = &go.resume else { return train.resolve(command, global, model, data) };
    if model.is_some() || train.config.is_some() {
        return Err(Error::usage("--resume takes model, data and settings from the run directory")
            .fix("leave them out"));
    }
    let file = dir.join("config.toml");
    if !file.exists() {
        return Err(Error::disk(format!("{} is no run directory: it has no config.toml", dir.display()))
            .fix("give the directory of a run"));
    }
    let flags = TrainFlags { config: Some(file), out: Some(dir.display().to_string()), ..train.clone() };
    flags.resolve(&[], global, None, &[])
}

pub(super) fn finetune(c: Finetune, global: &Global) -> Result<()> {
    let demo =
        c.model.as_deref().is_none_or(|m| m == "builtin") && c.data.is_empty() && c.train.config.is_none();
    let command = if demo { demo_defaults() } else { Vec::new() };
    let resolved = resolve(&c.train, &c.go, global, &command, c.model.as_deref(), &c.data)?;
    execute(Prepared::finetune(resolved, true)?, &c.go, global)
}

pub(super) fn pretrain(c: Pretrain, global: &Global) -> Result<()> {
    use toml::Value as V;
    let command = [
        ("data.loss", V::String("all".into())),
        ("train.weight_decay", V::Float(0.1)),
        ("train.beta2", V::Float(0.95)),
        ("train.lr", V::Float(1e-3)),
    ];
    let (model, data) = match c.go.resume {
        Some(_) => (None, &[][..]),
        None => (Some(c.model.as_str()), &c.data[..]),
    };
    let resolved = resolve(&c.train, &c.go, global, &command, model, data)?;
    execute(Prepared::pretrain(resolved, c.vocab_size)?, &c.go, global)
}

/// What the screen says, on standard error unless results are wanted as JSON there.
macro_rules! say {
    ($($arg:tt)*) => { eprintln!($($arg)*) };
}
pub(super) use say;

/// Hash of everything that decides a run's numbers.
fn decided_by(p: &Prepared, data: &Data) -> String {
    let s = p.settings();
    let mut train = serde_json::to_value(&s.train).unwrap_or_default();
    for free in ["log_every", "eval_every"] {
        train.as_object_mut().map(|t| t.remove(free));
    }
    let text = json!({"train": train, "dtype": s.model.dtype, "config": p.config.json, "data": data.hash, "examples": data.chosen.len(), "seq_len": p.seq_len});
    blake3::hash(text.to_string().as_bytes()).to_hex()[..32].to_string()
}

fn execute(mut p: Prepared, go: &Go, global: &Global) -> Result<()> {
    let stop = stop_flag()?;
    let deadline = go.max_time.map(|t| Instant::now() + t);
    let s = p.settings().clone();
    let device = device(&s.run.device, s.run.threads)?;
    say!("flanrt {}  {}", env!("CARGO_PKG_VERSION"), device.name());
    say!(
        "model   {}  {}  {} parameters  {}",
        p.name,
        p.config.architecture,
        millions(count(&p.config)),
        s.model.dtype.name()
    );
    let data = p.data(global)?;
    report_data(&p, &data);
    let sizes = p.sizes();
    let arena = Trainer::measure(&p.config, s.model.dtype, sizes);
    let total = s.train.total_steps(data.chosen.len());
    let disk_needed = checkpoint::size(count(&p.config)) * (s.output.keep as u64 + 1) + 4 * count(&p.config);
    say!(
        "plan    {} of memory, up to {} on disk; {total} steps of {} examples",
        disk::human_bytes(arena.used() as u64),
        disk::human_bytes(disk_needed),
        s.train.batch_size
    );

    let out = match (&go.resume, s.output.dir.as_str()) {
        (Some(dir), _) => dir.clone(),
        (None, "") => RunDir::fresh_path(Path::new("runs"), &p.name),
        (None, dir) => PathBuf::from(dir),
    };
    disk::ensure_space(&out, disk_needed)?;
    let info = Info {
        argv: std::env::args().collect(),
        device: device.name(),
        threads: device.threads(),
        seed: s.train.seed,
    };
    let mut dir = match &go.resume {
        Some(_) => RunDir::resume(&out, &info)?,
        None => RunDir::create(&out, &info)?,
    };
    let result = train(&mut p, &data, &mut dir, &device, sizes, &stop, deadline, go.resume.is_some(), global);
    let (status, code, hash) = match &result {
        Ok(hash) => (Status::Finished, 0, Some(hash.as_str())),
        Err(e) if e.kind == Kind::Stopped => (Status::Stopped, e.exit_code(), None),
        Err(e) => (Status::Failed, e.exit_code(), None),
    };
    if let Err(e) = &result {
        dir.log("error", &e.message)?;
    }
    dir.finish(status, code, hash)?;
    result.map(|_| ())
}

fn report_data(p: &Prepared, data: &Data) {
    let report = data.train.report();
    for source in &report.sources {
        let place = source.files.first().map_or(String::new(), |f| format!("  {}", f.path));
        say!("data    {}  {}  {} rows{place}", source.name, source.shape, source.read);
    }
    let (tokens, targets) = (data.train.tokens(), data.train.target_tokens());
    say!(
        "        {} examples  {tokens} tokens  {:.1}% of them trained  {} rows dropped",
        data.train.len(),
        100.0 * targets as f64 / tokens.max(1) as f64,
        report.dropped_rows.len()
    );
    let first = data.train.get(data.chosen[0] as usize);
    let ids: Vec<String> = first.tokens.iter().take(8).map(u32::to_string).collect();
    let shown = p.tokenizer.decode(&first.tokens[..first.tokens.len().min(12)], false).unwrap_or_default();
    say!("first   {shown:?}...  ids [{}, ...]", ids.join(", "));
}

/// Trains in `dir`, saves the model, and returns the hash of its weights.
#[expect(clippy::too_many_arguments, reason = "one caller")]
fn train(
    p: &mut Prepared,
    data: &Data,
    dir: &mut RunDir,
    device: &dyn Device,
    sizes: Sizes,
    stop: &AtomicBool,
    deadline: Option<Instant>,
    resume: bool,
    global: &Global,
) -> Result<String> {
    let s = p.settings().clone();
    let decided_by = decided_by(p, data);
    let found = if resume { dir.latest_good()? } else { Default::default() };
    for warning in &found.warnings {
        say!("warning: {warning}");
    }
    if !resume {
        dir.write_config(&p.resolved.to_toml())?;
        dir.write_data_manifest(
            &serde_json::to_value(data.train.report()).map_err(|e| Error::internal(e.to_string()))?,
        )?;
        dir.write_dropped(data.train.report().dropped_rows.iter().map(|d| json!(d)))?;
    }
    let mut trainer = Trainer::new(device, &p.config, s.model.dtype, sizes)?;
    let state = match &found.found {
        Some((step, path)) => {
            let stored = checkpoint::state(path)?;
            if stored.decided_by != decided_by {
                return Err(Error::usage(format!(
                    "{}: settings or data differ from those of this run",
                    dir.path().display()
                ))
                .fix("resume with the same settings and files, or start a new run"));
            }
            dir.rewind(*step)?;
            say!("resume  from step {step}");
            checkpoint::load(&mut trainer, path)?
        }
        None => {
            dir.rewind(0)?;
            start_weights(p, &trainer)?;
            State { step: 0, decided_by: decided_by.clone(), scaling: trainer.scaling, tokens: 0, targets: 0 }
        }
    };
    let before = match &p.demo {
        Some(demo) => Some(demo.score_before(&trainer, &p.tokenizer, dir)?),
        None => None,
    };
    let job = Job {
        recipe: &s.train,
        examples: &data.train,
        chosen: &data.chosen,
        validation: &data.validation,
        group: &Solo,
        decided_by,
        save_every: s.output.save_every,
        keep: s.output.keep,
        stop,
        deadline,
        progress: global.progress,
    };
    let finish = run::run(&mut trainer, &job, dir, state)?;
    if finish.step < finish.total {
        return Err(Error::new(
            Kind::Stopped,
            format!("stopped after step {} of {}, checkpoint saved", finish.step, finish.total),
        )
        .fix(format!("continue with --resume {}", dir.path().display())));
    }
    let hash = checkpoint::weights_hash(&trainer);
    save(p, &trainer, &dir.path().join("model"), s.model.dtype)?;
    if let (Some(demo), Some(before)) = (&p.demo, &before) {
        say!("\n{}", demo.compare(before, &demo.score(&trainer, &p.tokenizer)?));
    }
    if let Some((first, last)) = finish.validation {
        say!("result  validation loss {first:.4} -> {last:.4}");
    }
    say!("speed   {:.0} tokens/s over {} steps", finish.speed, finish.total);
    say!("saved   {}", dir.path().join("model").display());
    say!("hash    {hash}");
    say!("next    flanrt score {} --requests FILE.jsonl", dir.path().join("model").display());
    if global.json {
        let result = json!({"run": dir.path(), "steps": finish.total, "loss": finish.loss, "validation_loss": finish.validation, "tokens": finish.tokens, "tokens_per_second": finish.speed, "weights_hash": hash});
        super::print(&result.to_string())?;
    }
    Ok(hash)
}

/// Puts the first weights in place.
fn start_weights(p: &Prepared, trainer: &Trainer<'_>) -> Result<()> {
    match &p.start {
        Start::Weights(source) => {
            let file = source.checkpoint()?;
            let account = weights::load(&file, &p.config, trainer.device(), &trainer.master)?;
            say!("weights {}", account.line());
        }
        Start::Random => trainer.model.init(trainer.device(), &trainer.master, p.settings().train.seed),
    }
    trainer.publish();
    Ok(())
}

/// Writes the trained model in Hugging Face layout, weights in `dtype`.
fn save(p: &Prepared, trainer: &Trainer<'_>, dir: &Path, dtype: DType) -> Result<()> {
    let mut config = p.config.json.clone();
    for key in ["torch_dtype", "dtype"] {
        if config.get(key).is_some() || key == "torch_dtype" {
            let name = match dtype {
                DType::BF16 => "bfloat16",
                DType::F16 => "float16",
                _ => "float32",
            };
            config[key] = name.into();
        }
    }
    let tensors = checkpoint::tensors(trainer, &trainer.model.params, "");
    save_model(dir, &config, p.generation.as_ref(), p.tokenizer.files(), tensors, MAX_SHARD_BYTES)
}

/// Number of parameters of a configuration.
pub(super) fn count(config: &Config) -> u64 {
    Params::carve(config, &mut crate::arena::Arena::measure(), "", DType::F32).count(config)
}

/// A count in millions, or thousands below one.
pub(super) fn millions(n: u64) -> String {
    if n >= 1_000_000 { format!("{:.1}M", n as f64 / 1e6) } else { format!("{:.0}K", n as f64 / 1e3) }
}
