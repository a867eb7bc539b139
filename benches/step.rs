//! How fast is a training step, and a scoring batch? Random weights in the shapes of the embedded model and of a small
//! LLaMA; tokens a second.
//!
//! `cargo bench --bench step`. Two minutes on two cores. Random tokens, so losses mean nothing.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flanrt::arena::Arena;
use flanrt::cpu::Cpu;
use flanrt::dist::Solo;
use flanrt::model::{Acts, Config, Model, Recompute, Sizes};
use flanrt::ops::{AdamW, Batch, Device, Memory};
use flanrt::rng::Rng;
use flanrt::tensor::DType;
use flanrt::train::{Method, Trainer, Update};
use std::time::Duration;

/// Shapes: name, width, layers, heads, kv heads, ffn, vocabulary.
const MODELS: [(&str, usize, usize, usize, usize, usize, usize); 2] =
    [("embedded", 128, 4, 4, 4, 384, 1024), ("tiny", 288, 6, 6, 6, 768, 32_000)];
const TOKENS: usize = 1024;

fn config(shape: (&str, usize, usize, usize, usize, usize, usize)) -> Config {
    let (_, d, layers, heads, kv, ffn, vocab) = shape;
    let json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": d, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "intermediate_size": ffn, "vocab_size": vocab, "max_position_embeddings": 1024,
        "tie_word_embeddings": true
    });
    Config::parse(json.to_string().as_bytes(), "bench").expect("a valid configuration")
}

/// Roots of 128 tokens; the last 24 tokens of each are targets, about the share of instruction data.
fn batch(vocab: usize) -> Batch {
    let rng = Rng::new(1, 2);
    let tokens: Vec<u32> = (0..TOKENS as u64).map(|i| rng.below(i, vocab as u64) as u32).collect();
    let mut batch = Batch::default();
    for (owner, row) in tokens.chunks(128).enumerate() {
        let segment = batch.push(None, row);
        let start = batch.segments[segment as usize].start;
        (104..128).for_each(|i| batch.ask(start + i - 1, row[i as usize], owner as u32));
    }
    batch
}

/// Contexts of 96 tokens with four options of 8.
fn requests(vocab: usize) -> Batch {
    let rng = Rng::new(3, 4);
    let draw =
        |from: u64, n: u64| (from..from + n).map(|i| rng.below(i, vocab as u64) as u32).collect::<Vec<_>>();
    let mut batch = Batch::default();
    for r in 0..8u64 {
        let root = batch.push(None, &draw(r * 1000, 96));
        let last = batch.segments[root as usize].start + 95;
        for o in 0..4u64 {
            let option = draw(r * 1000 + 100 + o * 10, 8);
            let child = batch.push(Some(root), &option[..7]);
            let start = batch.segments[child as usize].start;
            batch.ask(last, option[0], 0);
            (1..8).for_each(|i| batch.ask(start + i - 1, option[i as usize], 0));
        }
    }
    batch.sort_asks();
    batch
}

fn train_step(c: &mut Criterion) {
    let device = Cpu::new(0).expect("threads");
    let mut group = c.benchmark_group("train_step");
    group.sample_size(10).measurement_time(Duration::from_secs(8)).warm_up_time(Duration::from_secs(1));
    for shape in MODELS {
        let config = config(shape);
        let batch = batch(config.vocab);
        for dtype in [DType::F32, DType::BF16] {
            let sizes = Sizes {
                tokens: TOKENS,
                asks: TOKENS,
                chunk: Sizes::chunk_for(config.vocab, TOKENS, 16 << 20),
                train: Some(Recompute::None),
                profile: device.profile(),
            };
            let mut trainer =
                Trainer::new(&device, &config, dtype, sizes, Method::default()).expect("memory");
            trainer.model.init(1, &mut |part, values| trainer.set(part, values));
            let how = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.0, step: 1, key: 0 };
            let how = Update::AdamW(how);
            let batches = [batch.clone()];
            group.throughput(Throughput::Elements(TOKENS as u64));
            group.bench_function(format!("{}/{}", shape.0, dtype.name()), |b| {
                b.iter(|| {
                    trainer.step(&batches, &Solo, &how, 1.0, &|_| String::new()).expect("a finite step")
                });
            });
        }
    }
}

fn score_batch(c: &mut Criterion) {
    let device = Cpu::new(0).expect("threads");
    let mut group = c.benchmark_group("score_batch");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(1));
    for shape in MODELS {
        let config = config(shape);
        let batch = requests(config.vocab);
        for dtype in [DType::F32, DType::BF16] {
            let chunk = Sizes::chunk_for(config.vocab, batch.rows.len(), 16 << 20);
            let sizes = Sizes {
                tokens: batch.len(),
                asks: batch.rows.len(),
                chunk,
                train: None,
                profile: device.profile(),
            };
            let layout = |arena: &mut Arena| {
                (
                    Model::carve(&config, arena, dtype, 1024),
                    Acts::carve(&config, arena, dtype, sizes),
                    Model::carve(&config, arena, DType::F32, 1024),
                )
            };
            let (_arena, (model, acts, source)) = Arena::carve(&device, layout).expect("memory");
            source.init(1, &mut |part, values| device.write(part, values));
            let dyn_device: &dyn Device = &device;
            dyn_device.convert(model.params.all, source.params.all);
            model.prepare(&device);
            group.throughput(Throughput::Elements(batch.len() as u64));
            group.bench_function(format!("{}/{}", shape.0, dtype.name()), |b| {
                b.iter(|| {
                    let input = model.upload(&device, &acts, &batch, 0.0).expect("a valid batch");
                    model.predict(&device, &acts, &input)
                });
            });
        }
    }
}

criterion_group!(benches, train_step, score_batch);
criterion_main!(benches);
