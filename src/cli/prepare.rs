//! Everything that is read and checked before a training run allocates: settings, configuration, tokenizer, weights'
//! headers, data.

use super::Global;
use super::mixture;
use super::settings::{DataSettings, Loss, Resolved, Settings};
use crate::data::{self, Example, Examples, Order, pack};
use crate::error::{Error, Result};
use crate::model::{Config, Params, Recompute, Sizes};
use crate::ops::{Batch, Device, Profile};
use crate::progress::Progress;
use crate::rng::Rng;
use crate::tensor::DType;
use crate::text::Tokenizer;
use crate::train::{Auto, Batching, Gradients, Recipe, Trainer};
use crate::weights::{self, Source};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Stream of the validation split.
const SPLIT: u64 = 0x5911;

/// Defaults of pretraining.
pub(super) fn pretrain_defaults() -> Vec<(&'static str, toml::Value)> {
    use toml::Value as V;
    vec![
        ("data.loss", V::String("all".into())),
        ("train.weight_decay", V::Float(0.1)),
        ("train.beta2", V::Float(0.95)),
        ("train.lr", V::Float(1e-3)),
    ]
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
    pub(super) generation: Value,
    pub(super) tokenizer: Tokenizer,
    pub(super) seq_len: usize,
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
        if with_data && !resolved.settings.has_data() {
            return Err(Error::usage("no training data")
                .fix("name files after the model (flanrt finetune MODEL DATA...), or --mixture flan --data DIR, or [[mix]] in a configuration file"));
        }
        let name = source.name();
        let generation = generation(&source)?;
        Self::checked(resolved, Start::Weights(source), name, config, generation, tokenizer)
    }

    /// The same for a new model: `dir` holds config.json and perhaps the tokenizer.
    pub(super) fn pretrain(resolved: Resolved) -> Result<Self> {
        let source = Source::find(&resolved.settings.model.path)?;
        let mut config = source.config()?;
        let tokenizer = match resolved.settings.model.vocab_size {
            0 => Tokenizer::load(&source)?,
            n => {
                let files = Trained(new_tokenizer(&resolved.settings, n)?);
                let tokenizer = Tokenizer::load(&files)?;
                config.vocab = tokenizer.vocab_size();
                config.json["vocab_size"] = config.vocab.into();
                config.json["bos_token_id"] = tokenizer.bos().into();
                config.json["eos_token_id"] = tokenizer.eos().into();
                tokenizer
            }
        };
        resolved.settings.model.init.check(&config)?;
        let generation = generation(&source)?;
        let name = source.name();
        Self::checked(resolved, Start::Random, name, config, generation, tokenizer)
    }

    fn checked(
        resolved: Resolved,
        start: Start,
        name: String,
        config: Config,
        generation: Option<Value>,
        tokenizer: Tokenizer,
    ) -> Result<Self> {
        check_ids(&tokenizer, &config)?;
        let asked = resolved.settings.data.seq_len;
        if asked > config.context {
            return Err(Error::usage(format!(
                "--seq-len {asked} is longer than the model's context of {}",
                config.context
            )));
        }
        let m = &resolved.settings.mixture;
        let usual = if m.name.is_empty() { 1024 } else { m.input_tokens.saturating_add(m.target_tokens) };
        let seq_len = if asked == 0 { config.context.min(usual) } else { asked };
        if seq_len < 2 {
            return Err(Error::usage(format!("--seq-len {seq_len} leaves nothing to predict")));
        }
        let generation = generation
            .unwrap_or_else(|| json!({"bos_token_id": tokenizer.bos(), "eos_token_id": tokenizer.eos()}));
        Ok(Self { resolved, start, name, config, generation, tokenizer, seq_len })
    }

    /// Storage dtype of weights and activations.
    pub(super) fn dtype(&self) -> DType {
        self.settings().model.dtype.fixed().expect("decided by `fit`")
    }

    /// Most tokens of a micro-batch.
    pub(super) fn micro_batch(&self) -> usize {
        self.settings().train.micro_batch.fixed().expect("decided by `fit`").max(self.seq_len)
    }

    /// Room for the largest micro-batch on a device of this `profile`.
    pub(super) fn sizes(&self, profile: Profile) -> Sizes {
        let recompute = self.settings().train.recompute.fixed().expect("decided by `fit`");
        self.sizes_of(profile, self.micro_batch(), recompute)
    }

    fn sizes_of(&self, profile: Profile, tokens: usize, recompute: Recompute) -> Sizes {
        let chunk = Sizes::chunk_for(self.config.vocab, tokens, profile.logits);
        Sizes { tokens, asks: tokens, chunk, train: Some(recompute), profile }
    }

    /// Decides what was left to the device: the dtype that suits it, how the states of 16-bit weights are stored, and the
    /// micro-batch that keeps it busy with as little computed again as its free memory allows. Where that is not enough,
    /// gradients of 16 bits, then a smaller micro-batch.
    pub(super) fn fit(&mut self, device: &dyn Device) -> Result<()> {
        let (profile, name) = (device.profile(), device.name());
        if self.settings().model.dtype == Auto::Auto {
            self.decide("model.dtype", profile.dtype.name(), &name)?;
        }
        let dtype = self.dtype();
        if self.settings().train.master == Auto::Auto {
            let compact = dtype == DType::BF16 && profile.dtype == DType::BF16;
            self.decide("train.master", if compact { "remainder" } else { "f32" }, &name)?;
        }
        let (micro_batch, recompute, gradients, step) = {
            let t = &self.settings().train;
            let step =
                if t.batch_tokens > 0 { t.batch_tokens } else { t.batch_size.saturating_mul(self.seq_len) };
            (t.micro_batch, t.recompute, t.gradients, step)
        };
        let policies: &[Recompute] = match &recompute {
            Auto::Fixed(policy) => std::slice::from_ref(policy),
            Auto::Auto => &[Recompute::None, Recompute::Lean, Recompute::Ffn, Recompute::Block],
        };
        let stores: &[Gradients] = match &gradients {
            Auto::Fixed(store) => std::slice::from_ref(store),
            // Sums of micro-batches are exact enough in f32; in 16 bits they lose what is small.
            Auto::Auto if dtype == DType::F32 => &[Gradients::F32],
            Auto::Auto => &[Gradients::F32, Gradients::Storage],
        };
        // What lies beside the arena: token buffers, the threads' blocks, the driver's own.
        let free = device.free().map_or(u64::MAX, |free| free - free / 16);
        let fits = |tokens: usize, recompute: Recompute, gradients: Gradients| {
            let method = self.settings().train.method_with(gradients);
            let sizes = self.sizes_of(profile, tokens, recompute);
            Trainer::measure(&self.config, dtype, sizes, method).used() as u64 <= free
        };
        // No room for more than a step has.
        let mut tokens = micro_batch.fixed().unwrap_or(profile.tokens.min(step)).max(self.seq_len);
        let (store, policy) = loop {
            let mut ways = stores.iter().flat_map(|&s| policies.iter().map(move |&p| (s, p)));
            match ways.find(|&(store, policy)| fits(tokens, policy, store)) {
                Some(way) => break way,
                None if micro_batch == Auto::Auto && tokens > self.seq_len => {
                    tokens = (tokens / 2).max(self.seq_len);
                }
                // Too large however it is cut: allocating says so.
                None => break (stores[stores.len() - 1], policies[policies.len() - 1]),
            }
        };
        if gradients == Auto::Auto {
            self.decide("train.gradients", &format!("{store:?}").to_lowercase(), &name)?;
        }
        if recompute == Auto::Auto {
            self.decide("train.recompute", &format!("{policy:?}").to_lowercase(), &name)?;
        }
        if micro_batch == Auto::Auto {
            self.resolved.decide("train.micro_batch", toml::Value::Integer(tokens as i64), &name)?;
        }
        Ok(())
    }

    fn decide(&mut self, key: &str, value: &str, device: &str) -> Result<()> {
        self.resolved.decide(key, toml::Value::String(value.into()), device)
    }

    /// Reads and tokenises the data.
    pub(super) fn data(&self, global: &Global) -> Result<Data> {
        let settings = self.settings();
        let options = data_options(&settings.data, self.seq_len, settings.train.seed);
        if !settings.mixture.name.is_empty() {
            let built = mixture::build(settings, &self.tokenizer, &options, global)?;
            let (chosen, order) = mixture::order(&built.examples);
            // As many were drawn as the epochs ask for.
            let once = Recipe { epochs: 1.0, ..settings.train.clone() };
            let batching = Batching::new(&once, &built.examples, chosen, order);
            return Ok(Data {
                hash: built.examples.hash().to_owned(),
                train: built.examples,
                batching,
                validation: Vec::new(),
                validation_report: None,
                mixture: Some(built.report),
            });
        }
        let train = load(&settings.mix, &self.tokenizer, &options, global)?;
        let val = match settings.data.val.as_slice() {
            [] => None,
            paths => {
                let first = settings.mix[0].clone();
                let source =
                    data::Source { name: "validation".into(), paths: paths.to_vec(), cap: None, ..first };
                Some(load(&[source], &self.tokenizer, &options, global)?)
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
        let mut validation = pack(&split, self.micro_batch());
        validation.retain(|b| !b.rows.is_empty());
        let validation_report = val.as_ref().map(|v| v.report().clone());
        let hash = format!("{} {}", train.hash(), val.as_ref().map_or("", |v| v.hash()));
        let turns = match settings.data.shuffle {
            true => Order::new(settings.train.seed, order.len()),
            false => Order::in_turn(order.len()),
        };
        let batching = Batching::new(&settings.train, &train, order, turns);
        Ok(Data { hash, train, batching, validation, validation_report, mixture: None })
    }

    /// Hash of everything that decides a run's numbers.
    pub(super) fn decided_by(&self, data: &Data) -> String {
        let s = self.settings();
        let mut train = serde_json::to_value(&s.train).unwrap_or_default();
        for free in ["log_every", "eval_every"] {
            train.as_object_mut().map(|t| t.remove(free));
        }
        let text = json!({"train": train, "dtype": self.dtype(), "config": self.config.json, "data": data.hash, "examples": data.batching.examples(), "seq_len": self.seq_len, "shuffle": s.data.shuffle, "pretrain": matches!(self.start, Start::Random)});
        blake3::hash(text.to_string().as_bytes()).to_hex()[..32].to_string()
    }
}

/// The examples of a run.
pub(super) struct Data {
    pub(super) train: Examples,
    pub(super) batching: Batching,
    pub(super) validation: Vec<Batch>,
    /// What became of the validation files, where there are any.
    pub(super) validation_report: Option<data::Report>,
    /// What was drawn of which dataset, where the examples are a mixture.
    pub(super) mixture: Option<Value>,
    hash: String,
}

impl Data {
    /// The first `n` examples with their trained parts marked by `mark`, each under a line with its id and counts.
    pub(super) fn preview(
        &self,
        tokenizer: &Tokenizer,
        n: usize,
        mark: impl Fn(String) -> String,
    ) -> Result<String> {
        let mut out = String::new();
        for i in 0..n.min(self.train.len()) {
            let Example { id, tokens, targets } = self.train.get(i);
            let trained = targets.iter().filter(|&&t| t == 1).count();
            out += &format!("--- {id}  {} tokens, {trained} trained\n", tokens.len());
            for part in targets.chunk_by(|a, b| a == b).scan(0, |at, part| {
                *at += part.len();
                Some((*at - part.len()..*at, part[0] == 1))
            }) {
                let text = tokenizer.decode(&tokens[part.0], false)?;
                out += &if part.1 { mark(text) } else { text };
            }
            out += "\n";
        }
        Ok(out)
    }
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

/// The model that a command only reads, named as an argument or by --model: its source, configuration and tokenizer.
pub(super) fn open_model(given: Option<&str>, flag: Option<&str>) -> Result<(Source, Config, Tokenizer)> {
    let name = given.or(flag);
    let name = name.ok_or_else(|| Error::usage("no model").fix("give a model folder, or `builtin`"))?;
    let source = Source::find(name)?;
    let config = source.config()?;
    let tokenizer = Tokenizer::load(&source)?;
    check_ids(&tokenizer, &config)?;
    Ok((source, config, tokenizer))
}

/// Refuses a --max-length that the model cannot read.
pub(super) fn check_length(asked: Option<usize>, config: &Config) -> Result<()> {
    match asked.filter(|&n| n > config.context) {
        Some(n) => Err(Error::usage(format!(
            "--max-length {n} is longer than the model's context of {}",
            config.context
        ))),
        None => Ok(()),
    }
}

/// Refuses a tokenizer with ids that the model does not have.
pub(super) fn check_ids(tokenizer: &Tokenizer, config: &Config) -> Result<()> {
    if tokenizer.vocab_size() > config.vocab {
        return Err(Error::model(format!(
            "the tokenizer has ids up to {}, but the model's vocabulary has {} entries",
            tokenizer.vocab_size() - 1,
            config.vocab
        ))
        .fix("the tokenizer does not belong to these weights"));
    }
    Ok(())
}

/// Number of parameters of a configuration.
pub(super) fn count(config: &Config) -> u64 {
    Params::carve(config, &mut crate::arena::Arena::measure(), "", DType::F32).count(config)
}

/// A count in millions, or thousands below one.
pub(super) fn millions(n: u64) -> String {
    if n >= 1_000_000 { format!("{:.1}M", n as f64 / 1e6) } else { format!("{:.0}K", n as f64 / 1e3) }
}
