//! The command line: flags in, validated settings out, one file per command.

mod data;
mod demo;
mod device;
mod doctor;
mod evaluate;
mod exam;
mod experiment;
mod findings;
mod finetune;
mod generate;
mod mixture;
mod model;
mod plan;
mod prepare;
mod run_report;
mod score;
pub mod settings;
mod sizes;
mod tasks;
mod world;

use crate::error::{self, Error, Kind, Result};
use crate::progress::{self, Color, Mode};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Instruction-tune and score language models: exact numbers, one binary.
#[derive(Parser)]
#[command(name = "flanrt", version, about, long_about = None, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 bug, 2 usage, 3 data, 4 model, 5 memory, 6 diverged, 7 disk, 8 GPU, 9 distributed, \
75 stopped with a good checkpoint, 130 interrupted (docs/exit-codes.md)";

/// Flags of every command.
#[derive(Args, Clone)]
pub(crate) struct Global {
    /// Where to compute: auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, global = true, value_name = "DEVICE", help_heading = "Machine")]
    device: Option<String>,
    /// Threads; 0: one a core. Changes speed only
    #[arg(long, global = true, value_name = "N", help_heading = "Machine")]
    threads: Option<usize>,
    /// Print one JSON object on standard output
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    /// Progress on standard error
    #[arg(long, global = true, value_name = "auto|bar|lines|none", value_parser = progress_mode, default_value = "auto", hide_default_value = true, help_heading = "Output")]
    progress: Mode,
    /// Colours
    #[arg(long, global = true, value_name = "auto|always|never", value_parser = color, default_value = "auto", hide_default_value = true, help_heading = "Output")]
    color: Color,
}

#[derive(Subcommand)]
enum Command {
    /// Run the paper's experiments: cluster by cluster held out, number of clusters, size, instructions, ...
    Experiment(experiment::Experiment),
    /// Instruction-tune a model (without arguments: the embedded one, offline, in about a minute)
    Finetune(finetune::Finetune),
    /// Train a new model from a configuration and plain text
    Pretrain(finetune::Pretrain),
    /// Score requests or the likelihood of a text
    Score(score::Score),
    /// Write what a model says after a prompt, or after every prompt of a file: greedy
    Generate(generate::Generate),
    /// Print what a training run will need: memory, disk
    Plan(plan::Plan),
    /// Look at model folders
    #[command(subcommand)]
    Model(model::Model),
    /// Look at data as a training run reads it
    #[command(subcommand)]
    Data(data::Data),
    /// Look at the datasets of the FLAN mixture: lists, prompts, checks
    #[command(subcommand)]
    Tasks(tasks::Tasks),
    /// Write text and tasks of the embedded micro-world
    #[command(subcommand)]
    World(world::World),
    /// Look at this machine: processor, GPUs, driver, kernels, measured rates
    Doctor,
    /// Print every setting with its default
    Config,
}

/// A `KEY=VALUE` argument.
fn pair(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((k, v)) if !k.is_empty() => Ok((k.to_string(), v.to_string())),
        _ => Err("expected FIELD=COLUMN or FIELD={{template}}".into()),
    }
}

/// `--progress`.
fn progress_mode(text: &str) -> std::result::Result<Mode, String> {
    match text {
        "auto" => Ok(Mode::Auto),
        "bar" => Ok(Mode::Bar),
        "lines" => Ok(Mode::Lines),
        "none" => Ok(Mode::None),
        _ => Err("expected auto, bar, lines or none".into()),
    }
}

/// `--color`.
fn color(text: &str) -> std::result::Result<Color, String> {
    match text {
        "auto" => Ok(Color::Auto),
        "always" => Ok(Color::Always),
        "never" => Ok(Color::Never),
        _ => Err("expected auto, always or never".into()),
    }
}

/// Runs the program on `args` and returns its exit code.
pub fn main(args: impl Iterator<Item = std::ffi::OsString>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let usage = e.use_stderr();
            let _ = e.print();
            return if usage { Kind::Usage as u8 } else { 0 };
        }
    };
    progress::set_color(cli.global.color);
    match error::catch(|| run(cli)) {
        Ok(()) => 0,
        Err(e) => {
            report(&e);
            e.exit_code()
        }
    }
}

/// Prints an error and its fix on standard error.
fn report(e: &Error) {
    let red = console::Style::new().for_stderr().red().bold();
    progress::tell(&format!("{} {}", red.apply_to("error:"), e.message));
    if let Some(fix) = &e.fix {
        let bold = console::Style::new().for_stderr().bold();
        progress::tell(&format!("  {} {fix}", bold.apply_to("fix:")));
    }
}

fn run(cli: Cli) -> Result<()> {
    let global = &cli.global;
    match cli.command {
        Command::Finetune(c) => finetune::finetune(c, global),
        Command::Pretrain(c) => finetune::pretrain(c, global),
        Command::Experiment(c) => experiment::run(c, global),
        Command::Score(c) => score::run(c, global),
        Command::Generate(c) => generate::run(c, global),
        Command::Plan(c) => plan::run(c, global),
        Command::Model(c) => model::run(c, global),
        Command::Data(c) => data::run(c, global),
        Command::Tasks(c) => tasks::run(c, global),
        Command::World(c) => world::run(c),
        Command::Doctor => doctor::run(global),
        Command::Config => print(settings::DEFAULTS.trim_start()),
    }
}

/// Writes `text` to standard output; a reader that went away is not an error.
fn print(text: &str) -> Result<()> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::disk(format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

/// Flags shared by `finetune`, `pretrain` and `plan`: each lies over one setting.
#[derive(Args, Clone, Default)]
pub(crate) struct TrainFlags {
    /// Configuration file (TOML); `flanrt config` prints every key
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any setting, e.g. --set train.beta2=0.95 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Run directory [default: runs/NAME-TIME]
    #[arg(short, long, value_name = "DIR")]
    out: Option<String>,
    /// Seed of data order and initial weights
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Storage of weights and activations: f32, bf16 or f16 (arithmetic is f32, master weights are f32)
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<String>,
    /// Field of an example from a column or a {{template}} (repeatable): input, target, prompt, completion, text, ...
    #[arg(long, value_name = "FIELD=COLUMN", value_parser = pair)]
    map: Vec<(String, String)>,
    /// Train on the datasets of the FLAN paper (`flanrt tasks list`): flan
    #[arg(long, value_name = "NAME", value_parser = ["flan"], help_heading = "FLAN")]
    mixture: Option<String>,
    /// Clusters, datasets or tasks not to train on (repeatable, or with commas); with a cluster go those that overlap it
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "FLAN")]
    hold_out: Vec<String>,
    /// Or: one of `flanrt tasks splits`
    #[arg(long, value_name = "NAME", conflicts_with = "hold_out", help_heading = "FLAN")]
    split: Option<String>,
    /// Directory with a folder per dataset, or TASK=FOLDER (repeatable)
    #[arg(long = "data", value_name = "DIR", help_heading = "FLAN")]
    datasets: Vec<String>,
    /// Dataset files beside and over the built-in ones (docs/tasks.md)
    #[arg(long, value_name = "DIR", help_heading = "FLAN")]
    tasks_dir: Option<String>,
    /// Go on without the datasets that are not there
    #[arg(long, help_heading = "FLAN")]
    allow_missing: bool,
    /// Prompts: flan, no-template or dataset-name
    #[arg(long, value_name = "MODE", help_heading = "FLAN")]
    prompt: Option<String>,
    /// Between prompt and answer: eos, newline or chat
    #[arg(long, value_name = "HOW", help_heading = "FLAN")]
    join: Option<String>,
    /// Most solved examples in front of a prompt
    #[arg(long, value_name = "N", help_heading = "FLAN")]
    shots: Option<usize>,
    /// Settings of a paper: flan (Adafactor, constant 3e-5, 8192 tokens a step, 30000 steps)
    #[arg(long, value_name = "NAME", value_parser = ["flan"], help_heading = "FLAN")]
    recipe: Option<String>,
    /// Validation files
    #[arg(long, value_name = "PATH")]
    val: Vec<String>,
    /// Fraction of the training rows kept for validation
    #[arg(long, value_name = "FRACTION")]
    val_split: Option<f64>,
    /// Most tokens of an example
    #[arg(long, value_name = "N")]
    seq_len: Option<usize>,
    /// Which tokens are trained: response or all
    #[arg(long, value_name = "WHICH")]
    loss: Option<String>,
    /// Fraction of rows that may be unusable before it is an error
    #[arg(long, value_name = "FRACTION")]
    max_dropped: Option<f64>,
    /// Allow texts that write the BOS token which the tokenizer also adds
    #[arg(long)]
    allow_double_bos: bool,
    /// Optimizer steps
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    steps: Option<u64>,
    /// Passes over the data
    #[arg(long, value_name = "X")]
    epochs: Option<f64>,
    /// Examples of a step
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Tokens of a step, instead of examples: as many examples as have no more
    #[arg(long, value_name = "TOKENS", conflicts_with = "batch_size")]
    batch_tokens: Option<usize>,
    /// Tokens computed at a time: memory and speed, not the result of a step
    #[arg(long, value_name = "TOKENS")]
    micro_batch: Option<usize>,
    /// Peak learning rate
    #[arg(long, value_name = "X")]
    lr: Option<f64>,
    /// Shape of the learning rate: constant, linear or cosine
    #[arg(long, value_name = "SHAPE")]
    schedule: Option<String>,
    /// Warm-up: a fraction of the steps below 1, else steps
    #[arg(long, value_name = "X")]
    warmup: Option<f64>,
    /// Largest gradient norm; 0: no clipping
    #[arg(long, value_name = "X")]
    clip: Option<f64>,
    /// Decoupled weight decay of matrices
    #[arg(long, value_name = "X")]
    weight_decay: Option<f64>,
    /// What to compute again in the backward pass to save memory: none, lean, ffn, block or auto
    #[arg(long, value_name = "WHAT")]
    recompute: Option<String>,
    /// Steps between log lines
    #[arg(long, value_name = "N")]
    log_every: Option<u64>,
    /// Steps between validations
    #[arg(long, value_name = "N")]
    eval_every: Option<u64>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N")]
    save_every: Option<u64>,
    /// Checkpoints kept
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
}

impl TrainFlags {
    /// Merges defaults (with the command's own), file, environment, `--set` and flags; `model` and `data` are the
    /// positional arguments.
    pub(crate) fn resolve(
        &self,
        command: &[(&str, toml::Value)],
        global: &Global,
        model: Option<&str>,
        data: &[String],
    ) -> Result<settings::Resolved> {
        use toml::Value as V;
        let mut layers = settings::Layers::new(command)?;
        if self.recipe.is_some() {
            for (key, value) in settings::flan_recipe() {
                layers.put(key, value, "--recipe flan")?;
            }
        }
        if let Some(path) = &self.config {
            layers.file(path)?;
        }
        layers.environment(
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        )?;
        for assignment in &self.set {
            layers.assign(assignment)?;
        }
        // TOML has no larger numbers; what is too large for a setting is said by its own rule.
        let int = |x: u64| V::Integer(i64::try_from(x).unwrap_or(i64::MAX));
        let text = |x: &str| V::String(x.to_string());
        let list = |x: &[String]| (!x.is_empty()).then(|| V::Array(x.iter().map(|v| text(v)).collect()));
        let flags = [
            ("model.path", model.map(text)),
            ("model.dtype", self.dtype.as_deref().map(text)),
            ("output.dir", self.out.as_deref().map(text)),
            ("output.save_every", self.save_every.map(int)),
            ("output.keep", self.keep.map(|x| int(x as u64))),
            ("data.val", list(&self.val)),
            ("data.val_split", self.val_split.map(V::Float)),
            ("data.seq_len", self.seq_len.map(|x| int(x as u64))),
            ("data.loss", self.loss.as_deref().map(text)),
            ("data.max_dropped", self.max_dropped.map(V::Float)),
            ("data.allow_double_bos", self.allow_double_bos.then_some(V::Boolean(true))),
            ("mixture.name", self.mixture.as_deref().map(text)),
            ("mixture.hold_out", list(&self.hold_out)),
            ("mixture.split", self.split.as_deref().map(text)),
            ("mixture.data", list(&self.datasets)),
            ("mixture.tasks_dir", self.tasks_dir.as_deref().map(text)),
            ("mixture.allow_missing", self.allow_missing.then_some(V::Boolean(true))),
            ("mixture.prompt", self.prompt.as_deref().map(text)),
            ("mixture.join", self.join.as_deref().map(text)),
            ("mixture.shots", self.shots.map(|x| int(x as u64))),
            ("train.seed", self.seed.map(int)),
            ("train.steps", self.steps.map(int).or(self.epochs.map(|_| int(0)))),
            ("train.epochs", self.epochs.map(V::Float)),
            ("train.batch_size", self.batch_size.map(|x| int(x as u64))),
            (
                "train.batch_tokens",
                self.batch_tokens.map(|x| int(x as u64)).or(self.batch_size.map(|_| int(0))),
            ),
            ("train.micro_batch", self.micro_batch.map(|x| int(x as u64))),
            ("train.lr", self.lr.map(V::Float)),
            ("train.schedule", self.schedule.as_deref().map(text)),
            ("train.warmup", self.warmup.map(V::Float)),
            ("train.clip", self.clip.map(V::Float)),
            ("train.weight_decay", self.weight_decay.map(V::Float)),
            ("train.recompute", self.recompute.as_deref().map(text)),
            ("train.log_every", self.log_every.map(int)),
            ("train.eval_every", self.eval_every.map(int)),
            ("run.device", global.device.as_deref().map(text)),
            ("run.threads", global.threads.map(|x| int(x as u64))),
        ];
        for (key, value) in flags {
            if let Some(value) = value {
                layers.put(key, value, "flag")?;
            }
        }
        if !data.is_empty() {
            let mut source = toml::Table::new();
            source.insert("name".into(), text("data"));
            source.insert("paths".into(), V::Array(data.iter().map(|d| text(d)).collect()));
            if !self.map.is_empty() {
                let map = self.map.iter().map(|(k, v)| (k.clone(), text(v))).collect();
                source.insert("map".into(), V::Table(map));
            }
            layers.put("mix", V::Array(vec![V::Table(source)]), "flag")?;
        } else if !self.map.is_empty() {
            return Err(Error::usage("--map is given without data files").fix(
                "name the files after the model, or put map = { .. } into [[mix]] of the configuration file",
            ));
        }
        layers.resolve()
    }
}
