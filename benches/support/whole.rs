//! Whole training steps and scoring batches of models with random weights, on random tokens: losses mean nothing.

use flanrt::arena::Arena;
use flanrt::dist::Solo;
use flanrt::error::Result;
use flanrt::model::{Acts, Config, Model, Named, Recompute, Sizes};
use flanrt::ops::{AdamW, Batch, Device};
use flanrt::rng::Rng;
use flanrt::tensor::{DType, Tensor};
use flanrt::train::{Method, Trainer, Update};
use serde_json::{Value, json};

/// Weights that are drawn; there are more parameters, which repeat them.
const PATTERN: usize = 1 << 20;

/// A LLaMA of these sizes, as its configuration file says it.
pub(crate) fn llama(
    d: usize,
    layers: usize,
    heads: usize,
    kv: usize,
    ffn: usize,
    vocab: usize,
    context: usize,
    tied: bool,
) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": d, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "intermediate_size": ffn, "vocab_size": vocab, "max_position_embeddings": context,
        "tie_word_embeddings": tied
    })
}

/// The configuration that a file with this content gives.
pub(crate) fn config(file: &Value) -> Result<Config> {
    Config::parse(file.to_string().as_bytes(), "bench")
}

/// Gives `put` values for every parameter: normal with the usual deviation for matrices, ones for norms.
fn weights(config: &Config, parameters: &[Named], put: &mut dyn FnMut(Tensor, &[u8])) {
    let rng = Rng::new(1, 1);
    let pattern: Vec<f32> = (0..PATTERN as u64).map(|i| (rng.normal(i) * config.init_range) as f32).collect();
    for (i, named) in parameters.iter().enumerate() {
        let n = named.tensor.len();
        let values: Vec<f32> = match named.shape.len() {
            2 => pattern.iter().copied().cycle().skip(i * 7919 % PATTERN).take(n).collect(),
            _ => vec![if named.name.ends_with("bias") { 0.0 } else { 1.0 }; n],
        };
        put(named.tensor, bytemuck::cast_slice(&values));
    }
}

/// Roots of `length` random tokens; the last `targets` of each are to be predicted.
pub(crate) fn packed(vocab: usize, rows: usize, length: usize, targets: usize) -> Batch {
    let rng = Rng::new(1, 2);
    let mut batch = Batch::default();
    for owner in 0..rows {
        let draw = |i: usize| rng.below((owner * length + i) as u64, vocab as u64) as u32;
        let row: Vec<u32> = (0..length).map(draw).collect();
        let segment = batch.push(None, &row);
        let start = batch.segments[segment as usize].start;
        (length - targets..length).for_each(|i| batch.ask(start + i as u32 - 1, row[i], owner as u32));
    }
    batch
}

/// Questions: a context with options, every token of which is asked for.
pub(crate) fn questions(vocab: usize, n: usize, context: usize, options: usize, length: usize) -> Batch {
    let rng = Rng::new(3, 4);
    let draw = |question: usize, part: usize, n: usize| -> Vec<u32> {
        let from = ((question * (options + 1) + part) * context.max(length)) as u64;
        (from..from + n as u64).map(|i| rng.below(i, vocab as u64) as u32).collect()
    };
    let mut batch = Batch::default();
    for question in 0..n {
        let root = batch.push(None, &draw(question, 0, context));
        let last = batch.segments[root as usize].start + context as u32 - 1;
        for o in 0..options {
            let option = draw(question, 1 + o, length);
            batch.ask(last, option[0], 0);
            if length > 1 {
                let child = batch.push(Some(root), &option[..length - 1]);
                let start = batch.segments[child as usize].start;
                (1..length).for_each(|i| batch.ask(start + i as u32 - 1, option[i], 0));
            }
        }
    }
    batch.sort_asks();
    batch
}

/// A model in training.
pub(crate) struct Step<'d> {
    trainer: Trainer<'d>,
    batches: Vec<Batch>,
    step: u64,
}

impl<'d> Step<'d> {
    /// All memory, and random weights; a step takes all of `batches`.
    pub(crate) fn new(
        device: &'d dyn Device,
        config: &Config,
        dtype: DType,
        method: Method,
        recompute: Recompute,
        batches: Vec<Batch>,
    ) -> Result<Self> {
        let profile = device.profile();
        let most = |of: &dyn Fn(&Batch) -> usize| batches.iter().map(of).max().unwrap_or(0);
        let (tokens, asks) = (most(&Batch::len), most(&|b| b.rows.len()));
        let chunk = Sizes::chunk_for(config.vocab, asks, profile.logits);
        let sizes = Sizes { tokens, asks, chunk, train: Some(recompute), profile };
        let trainer = Trainer::new(device, config, dtype, sizes, method)?;
        weights(config, &trainer.model.params.named(config), &mut |part, values| trainer.set(part, values));
        Ok(Self { trainer, batches, step: 0 })
    }

    /// One step; the mean loss.
    pub(crate) fn run(&mut self) -> f64 {
        self.step += 1;
        let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
        let how = AdamW { lr: 1e-5, beta1, beta2, eps, decay: 0.01, step: self.step, key: self.step };
        let no_id = |_| String::new();
        let outcome = self.trainer.step(&self.batches, &Solo, &Update::AdamW(how), 1.0, &no_id);
        let outcome = outcome.unwrap_or_else(|e| panic!("{e}"));
        outcome.loss_sum / outcome.targets as f64
    }

    /// Tokens of a step.
    pub(crate) fn tokens(&self) -> usize {
        self.batches.iter().map(Batch::len).sum()
    }

    /// Bytes of the arena.
    pub(crate) fn bytes(&self) -> usize {
        self.trainer.arena().used()
    }
}

/// A model that scores one batch again and again.
pub(crate) struct Scoring<'d> {
    device: &'d dyn Device,
    model: Model,
    acts: Acts,
    batch: Batch,
    arena: Arena,
}

impl<'d> Scoring<'d> {
    /// All memory, and random weights.
    pub(crate) fn new(device: &'d dyn Device, config: &Config, dtype: DType, batch: Batch) -> Result<Self> {
        let profile = device.profile();
        let (tokens, asks) = (batch.len(), batch.rows.len());
        let chunk = Sizes::chunk_for(config.vocab, asks, profile.logits);
        let sizes = Sizes { tokens, asks, chunk, train: None, profile };
        let layout = |arena: &mut Arena| {
            (Model::carve(config, arena, dtype, config.context), Acts::carve(config, arena, dtype, sizes))
        };
        let (arena, (model, acts)) = Arena::carve(device, layout)?;
        weights(config, &model.params.named(config), &mut |part, values| {
            let mut bytes = vec![0; part.bytes()];
            flanrt::weights::convert_bytes(values, DType::F32, dtype, &mut bytes);
            device.write(part, &bytes);
        });
        model.prepare(device);
        Ok(Self { device, model, acts, batch, arena })
    }

    /// The batch once: the sum of its log-probabilities.
    pub(crate) fn run(&mut self) -> f64 {
        let input = self.model.upload(self.device, &self.acts, &self.batch, 0.0);
        let input = input.unwrap_or_else(|e| panic!("{e}"));
        self.model.predict(self.device, &self.acts, &input).iter().map(|(p, _)| f64::from(*p)).sum()
    }

    /// Tokens of the batch.
    pub(crate) fn tokens(&self) -> usize {
        self.batch.len()
    }

    /// Bytes of the arena.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.used()
    }
}
