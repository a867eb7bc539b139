//! `flanrt finetune` and `flanrt pretrain`: check everything that can be checked, then train, then save.

use super::demo::{self, Demo};
use super::device::Machine;
use super::prepare::{Data, Prepared, Start, count, millions};
use super::run_report::{self, Outcome};
use super::settings::Resolved;
use super::{Global, TrainFlags, findings};
use crate::disk;
use crate::dist::Solo;
use crate::error::{self, Error, Kind, Result};
use crate::flan::{FORMAT_FILE, Format};
use crate::tensor::DType;
use crate::train::Trainer;
use crate::train::checkpoint::{self, State};
use crate::train::run::{self, Finish, Job, parse_duration};
use crate::train::rundir::{Found, Info, RunDir, Status};
use crate::weights::{self, MAX_SHARD_BYTES, save_model};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// `flanrt finetune`
#[derive(Args)]
pub(super) struct Finetune {
    /// Model folder in Hugging Face layout, or `builtin`
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    /// Training files: .jsonl .json .csv .tsv .txt .parquet, plain, .gz or .zst; globs and folders
    #[arg(value_name = "FILES")]
    data: Vec<String>,
    /// The same as MODEL; all other names are files then
    #[arg(long = "model", value_name = "MODEL")]
    model_flag: Option<String>,
    #[command(flatten)]
    train: TrainFlags,
    #[command(flatten)]
    go: Go,
}

/// `flanrt pretrain`
#[derive(Args)]
pub(super) struct Pretrain {
    /// Folder with config.json of the new model, and its tokenizer unless --vocab-size makes one
    model: Option<String>,
    /// Text files: a document is a row of .jsonl or a whole .txt
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
#[derive(Args, Clone, Default)]
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

pub(super) fn finetune(mut c: Finetune, global: &Global) -> Result<()> {
    if let Some(model) = c.model_flag.take() {
        c.data.splice(0..0, c.model.replace(model));
    }
    let no_arguments = c.model.as_deref().is_none_or(|m| m == "builtin")
        && c.data.is_empty()
        && c.train.config.is_none()
        && c.train.mixture.is_none();
    let command = if no_arguments { demo::defaults() } else { Vec::new() };
    let resolved = resolve(&c.train, &c.go, global, &command, c.model.as_deref(), &c.data)?;
    execute(Prepared::finetune(resolved, true)?, &c.go, global, &*stop_flag()?, true)
}

pub(super) fn pretrain(mut c: Pretrain, global: &Global) -> Result<()> {
    c.train.set.extend(c.vocab_size.map(|n| format!("model.vocab_size={n}")));
    let resolved =
        resolve(&c.train, &c.go, global, &super::prepare::pretrain_defaults(), c.model.as_deref(), &c.data)?;
    if resolved.settings.mix.is_empty() {
        return Err(Error::usage("no text to train on").fix("flanrt pretrain MODEL TEXT..."));
    }
    execute(Prepared::pretrain(resolved)?, &c.go, global, &*stop_flag()?, false)
}

/// Says a line on standard error, as `println!` would.
macro_rules! say {
    ($($arg:tt)*) => { $crate::progress::tell(&format!($($arg)*)) };
}
pub(super) use say;

/// Ids of the first example that are printed.
const SHOWN: usize = 48;

/// Key of run.json: hash of everything that decides the run's numbers.
const DECIDED_BY: &str = "decided_by";

/// One run on its way: what it is made of.
struct Run<'a> {
    p: &'a Prepared,
    data: &'a Data,
    device: &'a Machine,
    go: &'a Go,
    stop: &'a AtomicBool,
    deadline: Option<Instant>,
    measured: bool,
    global: &'a Global,
}

/// Does the run that was prepared. `measured`: the embedded model on its own tasks is asked before and after.
pub(super) fn execute(
    mut p: Prepared,
    go: &Go,
    global: &Global,
    stop: &AtomicBool,
    measured: bool,
) -> Result<()> {
    let deadline = go.max_time.and_then(|t| Instant::now().checked_add(t));
    let device = Machine::open(&p.settings().run.device, p.settings().run.threads)?;
    p.fit(&*device)?;
    let s = p.settings();
    let parameters = count(&p.config);
    say!("flanrt {}  {}", env!("CARGO_PKG_VERSION"), device.name());
    say!(
        "model   {}  {}  {} parameters  {}",
        p.name,
        p.config.architecture,
        millions(parameters),
        p.dtype().name()
    );
    let out = match (&go.resume, s.output.dir.as_str()) {
        (Some(dir), _) => dir.clone(),
        (None, "") => RunDir::fresh_path(Path::new("runs"), &p.name),
        (None, dir) => PathBuf::from(dir),
    };
    check_place(&out, go)?;
    let data = p.data(global)?;
    if stop.load(Ordering::Relaxed) {
        return Err(Error::new(
            Kind::Interrupted,
            "interrupted while the data was read: nothing was started",
        ));
    }
    report_data(&p, &data);
    let arena = Trainer::measure(&p.config, p.dtype(), p.sizes(device.profile()), s.train.method());
    let one = s.train.method().checkpoint_bytes(parameters, p.dtype());
    let disk_needed = one * (s.output.keep as u64 + 1) + 4 * parameters;
    say!(
        "plan    {}, up to {} on disk; {} steps of {}",
        super::plan::memory_line(&device, arena.used() as u64),
        disk::human_bytes(disk_needed),
        data.batching.total(),
        s.train.step_size()
    );
    if go.resume.is_none() {
        disk::ensure_space(&out, disk_needed)?; // a resumed run has most of it already
    }
    let info = Info {
        argv: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
        device: device.name(),
        threads: device.threads,
        seed: s.train.seed,
    };
    let mut dir = match &go.resume {
        Some(_) => RunDir::resume(&out, &info)?,
        None => RunDir::create(&out, &info)?,
    };
    let run = Run { p: &p, data: &data, device: &device, go, stop, deadline, measured, global };
    let result = error::catch(|| run.train(&mut dir));
    let (status, code, hash) = match &result {
        Ok(hash) => (Status::Finished, 0, Some(hash.as_str())),
        Err(e) if e.kind == Kind::Stopped => (Status::Stopped, e.exit_code(), None),
        Err(e) => (Status::Failed, e.exit_code(), None),
    };
    if let Err(e) = &result {
        // What ended the run is what matters, even if it cannot be written down.
        let _ = dir.log("error", &e.message).and_then(|()| dir.finish(status, code, hash));
        return result.map(|_| ());
    }
    dir.finish(status, code, hash)
}

/// Refuses a place that cannot become this run's, before the data is read.
fn check_place(out: &Path, go: &Go) -> Result<()> {
    match (RunDir::look(out)?, &go.resume) {
        (Found::Nothing, None) => disk::ensure_can_write_dir(out),
        (Found::Run(run), Some(_))
            if run.get("status").and_then(Value::as_str) == Some(Status::Finished.name()) =>
        {
            Err(Error::usage(format!("{}: this run is finished", out.display()))
                .fix("its model is in model/; train it further with `flanrt finetune`"))
        }
        (Found::Run(_) | Found::Foreign(_), None) => RunDir::refuse(out),
        _ => Ok(()), // resuming says what is wrong
    }
}

fn report_data(p: &Prepared, data: &Data) {
    let report = data.train.report();
    for source in &report.sources {
        let rows = format!("{} rows", source.read);
        let place = source.files.first().map_or("", |f| &f.path);
        let parts = [&source.name, &source.shape, &rows, place].map(|s| s as &str);
        say!("data    {}", parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  "));
    }
    for warning in &report.warnings {
        say!("warning: {warning}");
    }
    if p.settings().data.val_split > 0.0 && data.validation.is_empty() {
        say!("warning: val_split leaves no row for validation");
    }
    let (tokens, targets) = (data.train.tokens(), data.train.target_tokens());
    say!(
        "        {} examples  {tokens} tokens  {:.1}% of them trained  {} rows dropped",
        data.train.len(),
        100.0 * targets as f64 / tokens.max(1) as f64,
        report.dropped_rows.len()
    );
    let first = data.train.get(data.batching.example(data.batching.step(0).start) as usize);
    if data.mixture.is_some() {
        // Whole, so that a person can see what is trained: markers, options, the answer.
        let shown = data.preview(&p.tokenizer, 1, |text| format!("[[{text}]]")).unwrap_or_default();
        let ids: Vec<String> = first.tokens.iter().take(SHOWN).map(u32::to_string).collect();
        let more = first.tokens.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" ... {more} more") } else { String::new() };
        say!("first   {}", shown.trim_start_matches("--- ").trim_end());
        say!("ids     {}{more}", ids.join(" "));
        return;
    }
    let ids: Vec<String> = first.tokens.iter().take(8).map(u32::to_string).collect();
    let shown = p.tokenizer.decode(&first.tokens[..first.tokens.len().min(12)], false).unwrap_or_default();
    say!("first   {shown:?}...  ids [{}, ...]", ids.join(", "));
}

impl Run<'_> {
    /// Trains in `dir`, saves the model, and returns the hash of its weights.
    fn train(&self, dir: &mut RunDir) -> Result<String> {
        let (p, s) = (self.p, self.p.settings());
        if self.go.resume.is_none() {
            let (report, validation) = (self.data.train.report(), &self.data.validation_report);
            let mut manifest = json!(report);
            manifest["validation"] = json!(validation);
            let dropped = report.dropped_rows.iter().chain(validation.iter().flat_map(|v| &v.dropped_rows));
            dir.write_config(&p.resolved.to_toml())?;
            if let Some(mixture) = &self.data.mixture {
                manifest["mixture"] = mixture.clone();
            }
            dir.write_data_manifest(&manifest)?;
            dir.write_dropped(dropped.map(|d| json!(d)))?;
            let preview = self.data.preview(&p.tokenizer, 5, |text| format!("[[{text}]]"))?;
            disk::write_atomic(&dir.path().join("data/preview.txt"), preview.as_bytes())?;
        }
        let demo = match self.measured && demo::applies(p) {
            true => Some(Demo::new(p, self.device, self.global, self.stop)?),
            false => None,
        };
        let before = match (&demo, &p.start) {
            (Some(demo), Start::Weights(source)) => Some(demo.before(source, dir)?),
            _ => None,
        };
        let sizes = p.sizes(self.device.profile());
        let mut trainer = Trainer::new(&**self.device, &p.config, p.dtype(), sizes, s.train.method())?;
        let decided_by = p.decided_by(self.data);
        let state = self.start(&mut trainer, dir, &decided_by)?;
        let job = Job {
            recipe: &s.train,
            examples: &self.data.train,
            batching: &self.data.batching,
            validation: &self.data.validation,
            group: &Solo,
            resumed: self.go.resume.is_some(),
            save_every: s.output.save_every,
            keep: s.output.keep,
            stop: self.stop,
            deadline: self.deadline,
            progress: self.global.progress,
        };
        let finish = run::run(&mut trainer, &job, dir, state)?;
        if finish.state.step < finish.total {
            let message =
                format!("stopped after step {} of {}, checkpoint saved", finish.state.step, finish.total);
            return Err(Error::new(Kind::Stopped, message)
                .fix(format!("continue with --resume {}", dir.path().display())));
        }
        let hash = checkpoint::weights_hash(&trainer);
        let saved = dir.path().join("model");
        if let Err(e) = save(p, &trainer, &saved, s.output.dtype.fixed().unwrap_or(p.dtype())) {
            // The steps are done: keep them for a --resume that only has to save.
            let fill = |dir: &Path| checkpoint::save(&trainer, &finish.state, dir);
            let _ = dir.save_checkpoint(finish.total, s.output.keep, fill);
            return Err(e);
        }
        let arena = trainer.arena().used() as u64;
        drop(trainer);
        let mut measured = None;
        if let (Some(demo), Some(before)) = (demo, &before) {
            let compared = demo.compare(before, &demo.after(&saved, dir)?)?;
            dir.set("compared", compared.json())?;
            measured = Some((compared.verdict(), compared.section()));
        }
        if let Some((verdict, section)) = &measured {
            let screen = findings::screen();
            for part in section
                .figures
                .iter()
                .map(|f| f.text(screen))
                .chain(section.tables.iter().map(|t| t.text(screen)))
            {
                say!("\n{part}");
            }
            say!("{verdict}\n");
        }
        let outcome = Outcome {
            device: self.device.name(),
            hash: &hash,
            steps: finish.total,
            speed: finish.speed,
            memory: (self.device.host_bytes(arena), super::plan::peak_bytes()),
            validation: finish.validation,
            measured,
        };
        let pages = run_report::write(p, self.data, dir, outcome)?;
        self.report_memory(dir, arena)?;
        self.report(dir, &finish, &saved, &hash, &pages)?;
        Ok(hash)
    }

    /// First weights and state: of the latest good checkpoint when resuming, else of the model.
    fn start(&self, trainer: &mut Trainer<'_>, dir: &mut RunDir, decided_by: &str) -> Result<State> {
        let found = if self.go.resume.is_some() { dir.latest_good()? } else { Default::default() };
        for warning in &found.warnings {
            say!("warning: {warning}");
        }
        let known = dir.get(DECIDED_BY).and_then(Value::as_str);
        if known.is_some_and(|known| known != decided_by) {
            let message = format!("{}: settings or data differ from those of this run", dir.path().display());
            return Err(Error::usage(message)
                .fix("resume with the same command, settings and files, or start a new run"));
        }
        if known.is_none() {
            dir.set(DECIDED_BY, decided_by.into())?;
        }
        if let Some((step, path)) = &found.found {
            dir.rewind(*step)?;
            say!("resume  from step {step}");
            return checkpoint::load(trainer, path);
        }
        if self.go.resume.is_some() {
            say!("resume  there is no checkpoint yet: from the start");
            dir.rewind(0)?;
        }
        match &self.p.start {
            Start::Weights(source) => {
                let file = source.checkpoint()?;
                let params = &trainer.model.params;
                let put = &mut |part, values: &[u8]| trainer.set(part, values);
                let account = weights::load_with(&file, &self.p.config, params, DType::F32, put)?;
                say!("weights {}", account.line());
            }
            Start::Random => {
                let (seed, how) = (self.p.settings().train.seed, self.p.settings().model.init);
                trainer.model.init(seed, how, &mut |part, values| trainer.set(part, values));
            }
        }
        let (scaling, window) = (trainer.scaling, checkpoint::Window::default());
        Ok(State { step: 0, scaling, tokens: 0, targets: 0, window })
    }

    /// Stores what was planned and what was used.
    fn report_memory(&self, dir: &RunDir, arena: u64) -> Result<()> {
        let planned = self.device.host_bytes(arena);
        let peak = super::plan::peak_bytes();
        let plan = json!({"planned_bytes": planned, "arena_bytes": arena, "peak_bytes": peak});
        if let Some(peak) = peak {
            say!("memory  planned {}, peak {}", disk::human_bytes(planned), disk::human_bytes(peak));
        }
        disk::write_atomic(&dir.path().join("plan.json"), format!("{plan:#}\n").as_bytes())
    }

    fn report(
        &self,
        dir: &RunDir,
        finish: &Finish,
        saved: &Path,
        hash: &str,
        pages: &[String],
    ) -> Result<()> {
        let loss = run_report::loss_line(dir);
        if !loss.is_empty() {
            say!("loss    {loss}");
        }
        if let Some((first, last)) = finish.validation {
            say!("result  validation loss {first:.4} -> {last:.4}");
        }
        say!("speed   {:.0} tokens/s over {} steps", finish.speed, finish.total);
        say!("saved   {}", saved.display());
        say!("hash    {hash}");
        pages.iter().for_each(|page| say!("report  {page}"));
        say!("replay  {}", run_report::command());
        match self.p.settings().mixture.data.first() {
            Some(data) => {
                let held = self.p.settings().mixture.hold_out.join(",");
                let tasks = if held.is_empty() { "all".to_owned() } else { held };
                say!("next    flanrt score {} --tasks {tasks} --data {data}", saved.display());
            }
            None => say!("next    flanrt score {} --requests FILE.jsonl", saved.display()),
        }
        if !self.global.json {
            return Ok(());
        }
        let result = json!({
            "run": dir.path(), "steps": finish.total, "loss": finish.loss, "validation_loss": finish.validation,
            "tokens": finish.state.tokens, "tokens_per_second": finish.speed, "weights_hash": hash,
            "compared": dir.get("compared"),
        });
        super::print(&result.to_string())
    }
}

/// Writes the trained model in Hugging Face layout, weights in `dtype`.
fn save(p: &Prepared, trainer: &Trainer<'_>, dir: &Path, dtype: DType) -> Result<()> {
    let mut config = p.config.json.clone();
    let name = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    // transformers 5 writes "dtype"; before it was "torch_dtype".
    let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[key] = name.into();
    let tensors = checkpoint::tensors_as(trainer, trainer.model.params.named(&p.config), dtype);
    let mut files = p.tokenizer.files().to_vec();
    if !p.settings().mixture.name.is_empty() {
        let format = Format::new(p.settings().mixture.join, &p.tokenizer)?;
        let text = format!("{:#}\n", format.to_json());
        files.push((FORMAT_FILE.to_owned(), text.into_bytes()));
    }
    save_model(dir, &config, Some(&p.generation), &files, tensors, MAX_SHARD_BYTES)
}
