//! The settings of a training run: defaults, configuration file, environment, `--set` and flags merged into one validated
//! structure that remembers where each value came from.
//!
//! Precedence: flag > `--set` > `FLANRT_SECTION_KEY` > file > default. Unknown keys are errors that name the nearest key.

use crate::data::Source;
use crate::error::{Error, Result};
use crate::flan::{Assign, Join, Mode, Truncate, Wording};
use crate::model::Init;
use crate::tensor::DType;
use crate::train::{Auto, Recipe};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use toml::{Table, Value};

/// Everything a training run is decided by.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What is trained.
    pub model: ModelSettings,
    /// How rows become examples.
    pub data: DataSettings,
    /// Datasets of the FLAN system as training rows.
    pub mixture: MixtureSettings,
    /// The training rows.
    #[serde(default)]
    pub mix: Vec<Source>,
    /// How it is trained.
    pub train: Recipe,
    /// Where results go.
    pub output: OutputSettings,
    /// The machine.
    pub run: RunSettings,
}

/// `[model]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// A folder in Hugging Face layout, or `builtin`.
    pub path: String,
    /// Storage dtype of weights and activations.
    pub dtype: Auto<DType>,
    /// For pretraining: pieces of a byte-level BPE trained on the text; 0: the model's own tokenizer.
    pub vocab_size: usize,
    /// For pretraining: how the weights begin, `normal` or `copying`.
    pub init: Init,
}

/// `[data]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSettings {
    /// Most tokens of an example; 0: the model's context, at most 1024.
    pub seq_len: usize,
    /// What is trained: `response` or `all`.
    pub loss: Loss,
    /// Put between input and target.
    pub joiner: String,
    /// Whether rows come in random order; else in that of the files.
    pub shuffle: bool,
    /// Fraction of rows that may be unusable before it is an error.
    pub max_dropped: f64,
    /// Allow a text that writes the BOS token which the tokenizer also adds.
    pub allow_double_bos: bool,
    /// Validation files, read like the first source of the mix.
    pub val: Vec<String>,
    /// Fraction of the training rows kept for validation when there are no validation files.
    pub val_split: f64,
    /// Folder of the token cache; empty: the user's cache folder.
    pub cache_dir: String,
}

/// `[mixture]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureSettings {
    /// `flan`: the datasets in the program; empty: none.
    pub name: String,
    /// Directories with a folder per dataset, and TASK=FOLDER.
    pub data: Vec<String>,
    /// Dataset files beside and over those in the program.
    pub tasks_dir: String,
    /// Clusters, datasets or tasks that are not trained on; clusters with those that overlap them.
    pub hold_out: Vec<String>,
    /// Or: a split by name (`flanrt tasks splits`).
    pub split: String,
    /// Go on without the datasets that are not there.
    pub allow_missing: bool,
    /// Most training rows of a task, the first ones.
    pub cap: usize,
    /// Most rows that count for how often a task is drawn.
    pub max_rate: usize,
    /// Weights to the power of one over this.
    pub temperature: f64,
    /// Factors on weights, by task, dataset or cluster.
    pub weights: BTreeMap<String, f64>,
    /// How templates are assigned to rows.
    pub templates: Assign,
    /// Use the first so many templates of every dataset, forward ones first; 0: all.
    pub templates_per_dataset: usize,
    /// Use the first so many datasets of every cluster; 0: all.
    pub datasets_per_cluster: usize,
    /// Use templates that ask for anything but the answer, too.
    pub inverse: bool,
    /// Share of the prompts that hold the OPTIONS block.
    pub options: f64,
    /// Instructions, or one of the paper's ablations.
    pub prompt: Mode,
    /// Between prompt and answer.
    pub join: Join,
    /// Most tokens of a prompt.
    pub input_tokens: usize,
    /// Most tokens of an answer.
    pub target_tokens: usize,
    /// What goes where a prompt is too long.
    pub truncate: Truncate,
    /// Most solved examples in front of a prompt.
    pub shots: usize,
    /// Most tokens of a prompt with those.
    pub shot_tokens: usize,
}

impl MixtureSettings {
    /// How prompts are made.
    pub fn wording(&self) -> Wording {
        Wording {
            prompt: self.prompt,
            join: self.join,
            input_tokens: self.input_tokens,
            target_tokens: self.target_tokens,
            truncate: self.truncate,
            shots: self.shots,
            shot_tokens: self.shot_tokens,
        }
    }
}

/// Which tokens are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Targets only.
    Response,
    /// Every token.
    All,
}

/// `[output]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSettings {
    /// Run directory; empty: `runs/<name>-<time>`.
    pub dir: String,
    /// Storage of the saved model's weights; auto: that of the run.
    pub dtype: Auto<DType>,
    /// Steps between checkpoints; 0: only when the run is stopped.
    pub save_every: u64,
    /// Checkpoints kept.
    pub keep: usize,
}

/// `[run]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSettings {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Threads; 0: one a core.
    pub threads: usize,
}

/// The defaults, in the form of a configuration file.
pub const DEFAULTS: &str = r#"
[model]
path = "builtin"
dtype = "auto"
vocab_size = 0
init = "normal"

[data]
seq_len = 0
loss = "response"
joiner = "\n"
shuffle = true
max_dropped = 0.05
allow_double_bos = false
val = []
val_split = 0.0
cache_dir = ""

[mixture]
name = ""
data = []
tasks_dir = ""
hold_out = []
split = ""
allow_missing = false
cap = 30000
max_rate = 3000
temperature = 1.0
weights = {}
templates = "random"
templates_per_dataset = 0
datasets_per_cluster = 0
inverse = true
options = 1.0
prompt = "flan"
join = "eos"
input_tokens = 1024
target_tokens = 256
truncate = "field"
shots = 0
shot_tokens = 960

[train]
steps = 0
epochs = 1.0
batch_size = 32
batch_tokens = 0
micro_batch = "auto"
lr = 1e-4
schedule = "cosine"
warmup = 0.03
final_lr = 0.1
clip = 1.0
weight_decay = 0.0
optimizer = "adamw"
relative_lr = false
master = "auto"
moments = "f32"
gradients = "auto"
beta1 = 0.9
beta2 = 0.999
eps = 1e-8
recompute = "auto"
log_every = 10
eval_every = 0
seed = 0

[output]
dir = ""
dtype = "auto"
save_every = 0
keep = 2

[run]
device = "auto"
threads = 0
"#;

/// The settings of the FLAN paper (Wei et al., 2022, section 2.4): Adafactor with factored moments and update clipping at a constant
/// rate, 8,192 tokens a step, 30,000 steps, the last weights.
pub fn flan_recipe() -> Vec<(&'static str, Value)> {
    let text = |x: &str| Value::String(x.into());
    vec![
        ("train.optimizer", text("adafactor")),
        ("train.lr", Value::Float(3e-5)),
        ("train.schedule", text("constant")),
        ("train.warmup", Value::Float(0.0)),
        ("train.clip", Value::Float(0.0)),
        ("train.weight_decay", Value::Float(0.0)),
        // Decay of the second moments by 1 - step^-0.8, as published: the limit is beyond 30,000 steps.
        ("train.beta2", Value::Float(0.99999)),
        ("train.batch_tokens", Value::Integer(8192)),
        ("train.steps", Value::Integer(30_000)),
    ]
}

/// Settings with the origin of every value.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The values.
    pub settings: Settings,
    table: Table,
    origin: BTreeMap<String, String>,
}

/// Collects values in order of rising precedence.
pub struct Layers {
    table: Table,
    origin: BTreeMap<String, String>,
}

fn defaults() -> Table {
    DEFAULTS.parse().expect("the built-in defaults are valid TOML")
}

/// `section.key` of every setting.
fn known() -> Vec<String> {
    let mut keys: Vec<String> = defaults()
        .iter()
        .flat_map(|(section, v)| {
            v.as_table().into_iter().flatten().map(move |(key, _)| format!("{section}.{key}"))
        })
        .collect();
    keys.push("mix".into());
    keys
}

/// What other programs call our settings: spelling alone would not lead there.
const ELSEWHERE: [(&str, &str); 12] = [
    ("learning_rate", "train.lr"),
    ("max_steps", "train.steps"),
    ("num_epochs", "train.epochs"),
    ("num_train_epochs", "train.epochs"),
    ("per_device_train_batch_size", "train.batch_size"),
    ("lr_scheduler_type", "train.schedule"),
    ("warmup_ratio", "train.warmup"),
    ("max_grad_norm", "train.clip"),
    ("gradient_checkpointing", "train.recompute"),
    ("max_seq_length", "data.seq_len"),
    ("output_dir", "output.dir"),
    ("save_steps", "output.save_every"),
];

/// The known name nearest to `given`, for an error message.
fn nearest(given: &str) -> String {
    let last = |s: &str| s.rsplit('.').next().unwrap_or(s).to_string();
    if let Some((_, ours)) = ELSEWHERE.iter().find(|(theirs, _)| *theirs == last(given)) {
        return format!("did you mean {ours}? `flanrt config` prints every key");
    }
    let score = |k: &String| {
        strsim::normalized_damerau_levenshtein(given, k)
            .max(strsim::normalized_damerau_levenshtein(&last(given), &last(k)) - 0.05)
    };
    let best = known().into_iter().max_by(|a, b| score(a).total_cmp(&score(b)));
    best.map_or(String::new(), |k| format!("did you mean {k}? `flanrt config` prints every key"))
}

impl Layers {
    /// The defaults, with those of the command laid over them.
    pub fn new(command: &[(&str, Value)]) -> Result<Self> {
        let mut layers = Self { table: defaults(), origin: BTreeMap::new() };
        for (key, value) in command {
            layers.put(key, value.clone(), "default")?;
        }
        Ok(layers)
    }

    /// Lays `value` over `key` (`section.key`).
    pub fn put(&mut self, key: &str, value: Value, origin: &str) -> Result<()> {
        if !known().iter().any(|k| k == key) {
            return Err(Error::usage(format!("{origin}: unknown setting {key:?}")).fix(nearest(key)));
        }
        // A whole number is fine where a number with a fraction is expected.
        let place = match key.split_once('.') {
            Some((section, name)) => {
                let section = self.table[section].as_table_mut().expect("known sections are tables");
                section.entry(name).or_insert(Value::Boolean(false))
            }
            None => self.table.entry(key).or_insert(Value::Array(Vec::new())),
        };
        *place = match (&*place, value) {
            (Value::Float(_), Value::Integer(i)) => Value::Float(i as f64),
            (_, value) => value,
        };
        self.origin.insert(key.to_string(), origin.to_string());
        Ok(())
    }

    /// Lays the configuration file `path` over what there is.
    pub fn file(&mut self, path: &Path) -> Result<()> {
        let bytes =
            std::fs::read(path).map_err(|e| Error::io(crate::error::Kind::Usage, "read", path, &e))?;
        self.parse(&bytes, &path.display().to_string())
    }

    /// As [`Layers::file`], from memory.
    pub fn parse(&mut self, bytes: &[u8], place: &str) -> Result<()> {
        let text = std::str::from_utf8(bytes)
            .map_err(|e| Error::usage(format!("{place}: not UTF-8 after byte {}", e.valid_up_to())))?;
        let table: Table = text.parse().map_err(|e: toml::de::Error| {
            let at = e.span().map_or(0, |s| s.start.min(text.len()));
            let before = &text.as_bytes()[..at];
            let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
            let column = at - before.iter().rposition(|&b| b == b'\n').map_or(0, |p| p + 1) + 1;
            Error::usage(format!("{place}:{line}:{column}: {}", e.message())).fix("the file is TOML")
        })?;
        for (section, value) in table {
            match value {
                Value::Table(keys) => {
                    for (key, value) in keys {
                        self.put(&format!("{section}.{key}"), value, place)?;
                    }
                }
                value => self.put(&section, value, place)?,
            }
        }
        Ok(())
    }

    /// Lays `FLANRT_SECTION_KEY` variables over what there is.
    pub fn environment(&mut self, vars: impl Iterator<Item = (String, String)>) -> Result<()> {
        let known = known();
        for (name, value) in vars {
            let Some(rest) = name.strip_prefix("FLANRT_") else { continue };
            if let Some(key) = known.iter().find(|k| k.replace('.', "_").to_uppercase() == rest) {
                self.put(key, literal(&value), &name)?;
            }
        }
        Ok(())
    }

    /// Lays `--set section.key=value` over what there is.
    pub fn assign(&mut self, assignment: &str) -> Result<()> {
        let (key, value) = assignment.split_once('=').ok_or_else(|| {
            Error::usage(format!("--set {assignment}: expected section.key=value"))
                .fix("e.g. --set train.lr=1e-4")
        })?;
        self.put(key.trim(), literal(value.trim()), "--set")
    }

    /// Checks and freezes.
    pub fn resolve(self) -> Result<Resolved> {
        let settings: Settings = self.table.clone().try_into().map_err(|e: toml::de::Error| {
            Error::usage(format!("settings: {}", e.to_string().trim()))
                .fix("`flanrt config` prints every key with its default")
        })?;
        settings.check()?;
        Ok(Resolved { settings, table: self.table, origin: self.origin })
    }
}

/// A TOML value from the command line or the environment: what does not parse is a string.
fn literal(text: &str) -> Value {
    let parsed = format!("x = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("x"));
    parsed.unwrap_or_else(|| Value::String(text.to_string()))
}

impl Settings {
    /// Whether training rows are named.
    pub fn has_data(&self) -> bool {
        !self.mix.is_empty() || !self.mixture.name.is_empty()
    }

    /// Refuses what no run could mean.
    fn check(&self) -> Result<()> {
        let t = &self.train;
        let rules = [
            (
                !matches!(self.model.dtype.fixed(), Some(DType::U32 | DType::U16)),
                "model.dtype must be f32, bf16 or f16",
            ),
            // Far above any use, and low enough that no size computed from them overflows.
            ((1..=1 << 20).contains(&t.batch_size), "train.batch_size must be from 1 to 1048576"),
            (t.batch_tokens <= 1 << 30, "train.batch_tokens must be at most 1073741824"),
            (
                t.micro_batch.fixed().is_none_or(|n| (1..=1 << 22).contains(&n)),
                "train.micro_batch must be from 1 to 4194304",
            ),
            (t.lr.is_finite() && t.lr >= 0.0, "train.lr must be a number of at least 0"),
            (t.epochs.is_finite() && t.epochs > 0.0, "train.epochs must be more than 0"),
            (t.warmup.is_finite() && t.warmup >= 0.0, "train.warmup must be at least 0"),
            ((0.0..=1.0).contains(&t.final_lr), "train.final_lr must be between 0 and 1"),
            (t.clip.is_finite() && t.clip >= 0.0, "train.clip must be at least 0"),
            (t.weight_decay.is_finite() && t.weight_decay >= 0.0, "train.weight_decay must be at least 0"),
            (
                (0.0..1.0).contains(&t.beta1) && (0.0..1.0).contains(&t.beta2),
                "train.beta1 and beta2 must be in 0..1",
            ),
            (t.eps.is_finite() && t.eps as f32 > 0.0, "train.eps must be more than 0 (as f32)"),
            (["", "flan"].contains(&self.mixture.name.as_str()), "mixture.name must be flan, or empty"),
            (
                self.mixture.cap > 0 && self.mixture.max_rate > 0,
                "mixture.cap and max_rate must be at least 1",
            ),
            (
                self.mixture.temperature.is_finite() && self.mixture.temperature > 0.0,
                "mixture.temperature must be more than 0",
            ),
            (
                self.mixture.hold_out.is_empty() || self.mixture.split.is_empty(),
                "mixture.hold_out and mixture.split exclude each other",
            ),
            (
                self.mixture.name.is_empty() || self.mix.is_empty(),
                "a mixture of datasets and [[mix]] sources exclude each other",
            ),
            (
                self.mixture.name.is_empty() || self.data.val_split == 0.0 && self.data.val.is_empty(),
                "a mixture has no validation rows of its own: score the model on held-out tasks with `flanrt score --tasks`",
            ),
            (self.mixture.shots <= 64, "mixture.shots must be at most 64"),
            (t.log_every > 0, "train.log_every must be at least 1"),
            ((0.0..=1.0).contains(&self.data.max_dropped), "data.max_dropped must be between 0 and 1"),
            ((0.0..1.0).contains(&self.data.val_split), "data.val_split must be at least 0 and below 1"),
            ((1..=1 << 20).contains(&self.output.keep), "output.keep must be from 1 to 1048576"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Error::usage(*rule)),
            None => match (t.master.fixed(), self.model.dtype.fixed()) {
                (Some(master), Some(dtype)) => master.check(dtype),
                _ => Ok(()),
            },
        }
    }
}

impl Resolved {
    /// The same with `key=value` assignments over them.
    pub fn with(self, set: &[String]) -> Result<Self> {
        let mut layers = Layers { table: self.table, origin: self.origin };
        for assignment in set {
            layers.assign(assignment)?;
        }
        layers.resolve()
    }

    /// Decides a setting that was left to the device.
    pub fn decide(&mut self, key: &str, value: Value, device: &str) -> Result<()> {
        let mut layers = Layers { table: self.table.clone(), origin: self.origin.clone() };
        layers.put(key, value, &format!("chosen for {device}"))?;
        *self = layers.resolve()?;
        Ok(())
    }

    /// The settings as a configuration file, each value's origin in a comment.
    pub fn to_toml(&self) -> String {
        let mut out = String::from("# The resolved settings of this run. Read it back with `-c`.\n");
        for (section, value) in &self.table {
            let Value::Table(keys) = value else { continue };
            out += &format!("\n[{section}]\n");
            for (key, value) in keys {
                let origin = self.origin.get(&format!("{section}.{key}")).map_or("default", String::as_str);
                out += &format!("{key} = {value}  # {origin}\n");
            }
        }
        if let Some(mix) = self.table.get("mix").and_then(Value::as_array).filter(|mix| !mix.is_empty()) {
            // As one table, so that a source's own tables (its map) are named as parts of the mix.
            let mix = Table::from_iter([("mix".to_string(), Value::Array(mix.clone()))]);
            out += &format!("\n{}", toml::to_string(&mix).unwrap_or_default());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence_and_origins() {
        let mut l = Layers::new(&[]).unwrap();
        l.parse(
            b"[train]\nlr = 1e-5\nsteps = 5\nclip = 2\n[[mix]]\nname = \"a\"\npaths = [\"x\"]\nmap = { input = \"{{q}}\\n\" }\n\
              [[mix]]\nname = \"b\"\npaths = [\"y\"]\nmap = { input = \"r\" }\n",
            "f.toml",
        )
        .unwrap();
        l.environment(
            [("FLANRT_TRAIN_STEPS".into(), "6".into()), ("FLANRT_CACHE".into(), "z".into())].into_iter(),
        )
        .unwrap();
        l.assign("train.steps = 7").unwrap();
        l.assign("output.dir=runs/x").unwrap();
        l.put("train.seed", Value::Integer(3), "--seed").unwrap();
        let r = l.resolve().unwrap();
        let s = &r.settings;
        assert_eq!((s.train.lr, s.train.steps, s.train.seed, s.train.clip), (1e-5, 7, 3, 2.0));
        assert_eq!((s.output.dir.as_str(), s.mix[0].paths[0].as_str()), ("runs/x", "x"));
        let text = r.to_toml();
        assert!(text.contains("lr = 1e-5  # f.toml") || text.contains("lr = 0.00001  # f.toml"), "{text}");
        assert!(text.contains("steps = 7  # --set") && text.contains("seed = 3  # --seed"), "{text}");
        let mut again = Layers::new(&[]).unwrap();
        again.parse(text.as_bytes(), "resolved").unwrap();
        assert_eq!(format!("{:?}", again.resolve().unwrap().settings), format!("{s:?}"));
    }

    #[test]
    fn mistakes_are_named() {
        let fails = |text: &str| {
            let mut l = Layers::new(&[]).unwrap();
            l.parse(text.as_bytes(), "f.toml").err().or_else(|| l.resolve().err()).expect(text)
        };
        let e = fails("[train]\nlearning_rte = 1\n");
        assert!(e.message.contains("train.learning_rte") && e.fix.is_some(), "{e}");
        assert!(fails("[trian]\nlr = 1\n").fix.unwrap().contains("train.lr"));
        assert!(fails("[train]\nlearning_rate = 1\n").fix.unwrap().contains("train.lr"));
        let keys = known();
        assert!(ELSEWHERE.iter().all(|(_, ours)| keys.iter().any(|k| k == ours)));
        assert!(fails("[train]\nlr = = 1\n").message.starts_with("f.toml:2:6"));
        assert!(fails("[train]\nlr = \"fast\"\n").message.contains("lr"));
        assert!(fails("[train]\nbatch_size = 0\n").message.contains("batch_size"));
        assert!(fails("[train]\nmicro_batch = 999999999999\n").message.contains("micro_batch"));
        assert!(fails("[model]\ndtype = \"f8\"\n").message.contains("f8"));
        assert!(fails("train = 3\n").message.contains("train"));
    }
}
