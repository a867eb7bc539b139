//! How fast is a training step, and a scoring batch? Random weights in the shapes of the embedded model and of two small
//! LLaMAs (15M and 125M parameters); tokens a second. On a GPU, where there is one, GPT-2's size.
//!
//! `cargo bench --bench step`. Four minutes on two cores.

#[allow(dead_code)]
mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flanrt::cpu::Cpu;
use flanrt::cuda::Cuda;
use flanrt::model::Recompute;
use flanrt::ops::Device;
use flanrt::tensor::DType;
use flanrt::train::Method;
use serde_json::Value;
use std::time::Duration;
use support::whole::{Scoring, Step, config, llama, packed, questions};

/// A device and its models: name, configuration, rows of 128 tokens in a step (as many questions in a batch).
struct Setting {
    device: Box<dyn Device>,
    models: Vec<(&'static str, Value, usize)>,
    dtypes: &'static [DType],
}

fn settings() -> Vec<Setting> {
    let models = vec![
        ("embedded", llama(128, 4, 4, 4, 384, 1024, 1024, true), 8),
        ("tiny", llama(288, 6, 6, 6, 768, 32_000, 1024, true), 8),
        ("small", llama(768, 12, 12, 4, 2048, 32_000, 1024, false), 4),
    ];
    let cpu = Box::new(Cpu::new(0).expect("threads"));
    let dtypes = &[DType::F32, DType::BF16];
    let mut all = vec![Setting { device: cpu, models, dtypes }];
    match Cuda::new(0) {
        Ok(device) => {
            let models = vec![("cuda 124M", llama(768, 12, 12, 12, 2048, 50_304, 1024, true), 128)];
            let device = Box::new(device);
            all.push(Setting { device, models, dtypes: &[DType::BF16] });
        }
        Err(error) => println!("no GPU to measure: {error}"),
    }
    all
}

/// The last 24 tokens of each row are targets, about the share of instruction data.
fn train_step(c: &mut Criterion) {
    let mut group = c.benchmark_group("train_step");
    group.sample_size(10).measurement_time(Duration::from_secs(8)).warm_up_time(Duration::from_secs(1));
    for setting in settings() {
        for (name, file, rows) in &setting.models {
            let config = config(file).expect("a valid configuration");
            let batch = packed(config.vocab, *rows, 128, 24);
            group.throughput(Throughput::Elements(batch.len() as u64));
            for &dtype in setting.dtypes {
                let device = setting.device.as_ref();
                let batches = vec![batch.clone()];
                let method = Method::default();
                let step = Step::new(device, &config, dtype, method, Recompute::None, batches);
                let mut step = step.expect("memory");
                group.bench_function(format!("{name}/{}", dtype.name()), |b| b.iter(|| step.run()));
            }
        }
    }
}

/// Contexts of 96 tokens with four options of 8.
fn score_batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("score_batch");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(1));
    for setting in settings() {
        for (name, file, rows) in &setting.models {
            let config = config(file).expect("a valid configuration");
            let batch = questions(config.vocab, *rows, 96, 4, 8);
            group.throughput(Throughput::Elements(batch.len() as u64));
            for &dtype in setting.dtypes {
                let scoring = Scoring::new(setting.device.as_ref(), &config, dtype, batch.clone());
                let mut scoring = scoring.expect("memory");
                group.bench_function(format!("{name}/{}", dtype.name()), |b| b.iter(|| scoring.run()));
            }
        }
    }
}

criterion_group!(benches, train_step, score_batch);
criterion_main!(benches);
