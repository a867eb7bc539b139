//! Is the model right on a GPU? A model of two layers on the GPU (emulated, or real where `FLANRT_REQUIRE_GPU=1`) beside the
//! CPU: logits, losses, every gradient, ten steps; and the same bits for every run, recompute policy and recording.

use flanrt::arena::Arena;
use flanrt::cpu::Cpu;
use flanrt::cuda::Cuda;
use flanrt::dist::Solo;
use flanrt::model::{Acts, Cache, Config, Init, Model, Params, Recompute, Sizes};
use flanrt::ops::{AdamW, Batch, Device};
use flanrt::rng::Rng;
use flanrt::tensor::{DType, Tensor};
use flanrt::train::{Gradients, MasterValues, Method, Trainer, Update};
use std::sync::{Mutex, PoisonError};

/// One GPU for all tests, one after the other.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `test` with a GPU, if there is one of any kind.
fn on_gpu(test: impl FnOnce(&dyn Device)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !std::env::var("FLANRT_REQUIRE_GPU").is_ok_and(|v| v == "1") {
        if let Err(why) = flanrt_emulator::available() {
            return println!("skipped: no emulated CUDA driver: {why}");
        }
        flanrt_emulator::install(flanrt_emulator::Mode::Plain);
    }
    test(&Cuda::new(0).expect("a GPU"));
}

/// Two layers with grouped heads of 16 and, if `variant`, biases, norms of queries and keys, tied embeddings and a window.
fn config(variant: bool) -> Config {
    let more = if variant {
        r#""architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "tie_word_embeddings": true, "attention_bias": false,"#
    } else {
        r#""architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": false,"#
    };
    let text = format!(
        r#"{{{more} "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "intermediate_size": 96, "vocab_size": 200, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "initializer_range": 0.2, "hidden_act": "silu"}}"#
    );
    Config::parse(text.as_bytes(), "config.json").expect("a valid configuration")
}

/// A forest: two plain sequences and a context with two options, all but the first tokens asked for.
fn batch(seed: u64, vocab: usize) -> Batch {
    let rng = Rng::new(seed, 9);
    let mut at = 0;
    let mut tokens = |n: usize| -> Vec<u32> {
        at += n as u64;
        (0..n as u64).map(|i| rng.below(at + i * 1000, vocab as u64) as u32).collect()
    };
    let mut batch = Batch::default();
    batch.push(None, &tokens(37));
    let context = batch.push(None, &tokens(21));
    batch.push(Some(context), &tokens(9));
    batch.push(Some(context), &tokens(13));
    batch.push(None, &tokens(5));
    let segments = batch.segments.clone();
    for (owner, s) in segments.iter().enumerate() {
        for row in s.start..s.start + s.len - 1 {
            let next = batch.tokens[row as usize + 1];
            batch.ask(row, next, owner as u32);
        }
    }
    batch
}

fn sizes(device: &dyn Device, batch: &Batch, vocab: usize, recompute: Recompute) -> Sizes {
    let (tokens, asks) = (batch.len(), batch.rows.len());
    let chunk = Sizes::chunk_for(vocab, asks, 40 * vocab);
    Sizes { tokens, asks, chunk, train: Some(recompute), profile: device.profile() }
}

fn read(device: &dyn Device, x: Tensor) -> Vec<f32> {
    let mut bytes = vec![0; x.bytes()];
    device.read(&mut bytes, x);
    match x.dtype() {
        DType::BF16 => {
            bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        _ => bytemuck::pod_collect_to_vec(&bytes),
    }
}

/// Logits, losses and every gradient by name.
fn pass(device: &dyn Device, config: &Config, dtype: DType) -> Vec<(String, Vec<f32>)> {
    let batch = batch(1, config.vocab);
    let sizes = sizes(device, &batch, config.vocab, Recompute::None);
    let (_arena, (model, grads, acts)) = Arena::carve(device, |arena| {
        (
            Model::carve(config, arena, dtype, config.context),
            Params::carve(config, arena, "gradients", DType::F32),
            Acts::carve(config, arena, dtype, sizes),
        )
    })
    .expect("memory");
    model.prepare(device);
    model.init(7, Init::Normal, &mut |part, values| {
        let values: &[f32] = bytemuck::cast_slice(values);
        match dtype {
            DType::F32 => device.write(part, bytemuck::cast_slice(values)),
            _ => {
                let halves: Vec<u8> =
                    values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
                device.write(part, &halves);
            }
        }
    });
    let upload =
        || model.upload(device, &acts, &batch, 1.0 / batch.rows.len() as f32).expect("a valid batch");
    let mut out = vec![("logits".to_string(), model.logits(device, &acts, &upload()))];
    let losses = model.train(device, &acts, &upload(), &grads);
    out.push(("losses".into(), read(device, losses)));
    for n in grads.named(config) {
        out.push((n.name.clone(), read(device, n.tensor)));
    }
    out
}

/// The root mean square of the difference over that of `b`.
fn off(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let difference = square(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    (difference / square(&mut b.iter().map(|b| f64::from(*b))).max(1e-30)).sqrt()
}

#[test]
fn logits_losses_and_every_gradient_are_those_of_the_cpu() {
    on_gpu(|gpu| {
        let cpu = Cpu::new(2).expect("threads");
        for config in [false, true].map(config) {
            let exact = pass(&cpu, &config, DType::F32);
            for ((name, got), (_, want)) in pass(gpu, &config, DType::F32).iter().zip(&exact) {
                let off = off(got, want);
                assert!(off < 1e-5, "{name} in f32: off by {off:.1e}");
            }
            // bf16: the GPU rounds at other places than the CPU, but not to worse results.
            let rounded = pass(&cpu, &config, DType::BF16);
            for (((name, got), (_, cpu)), (_, want)) in
                pass(gpu, &config, DType::BF16).iter().zip(&rounded).zip(&exact)
            {
                let (got, cpu) = (off(got, want), off(cpu, want));
                assert!(got < 1.5 * cpu, "{name} in bf16: off by {got:.1e}, the CPU by {cpu:.1e}");
            }
        }
    });
}

/// How a run of a few steps is made.
#[derive(Clone, Copy)]
struct How {
    dtype: DType,
    steps: u64,
    recompute: Recompute,
    method: Method,
}

const PLAIN: How = How {
    dtype: DType::F32,
    steps: 10,
    recompute: Recompute::None,
    method: Method {
        optimizer: flanrt::train::Optimizer::AdamW,
        relative: false,
        master: MasterValues::F32,
        moments: flanrt::train::Moments::F32,
        gradients: Gradients::F32,
    },
};

/// Losses and norms of every step, and the weights after the last.
fn train(device: &dyn Device, how: How) -> (Vec<f64>, Vec<u8>) {
    let config = config(false);
    let all: Vec<Batch> = (0..3).map(|i| batch(i, config.vocab)).collect();
    let sizes = sizes(device, &all[0], config.vocab, how.recompute);
    let mut trainer = Trainer::new(device, &config, how.dtype, sizes, how.method).expect("memory");
    trainer.model.init(7, Init::Normal, &mut |part, values| trainer.set(part, values));
    let mut numbers = Vec::new();
    for step in 1..=how.steps {
        let update = AdamW {
            lr: 3e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            decay: 0.1,
            step,
            key: step.wrapping_mul(77),
        };
        // Two micro-batches, then three, in turn: recorded passes are played again in another order.
        let batches = &all[..2 + step as usize % 2];
        let outcome = trainer
            .step(batches, &Solo, &Update::AdamW(update), 1.0, &|_| String::new())
            .expect("a finite step");
        numbers.extend([outcome.loss_sum / outcome.targets as f64, f64::from(outcome.norm)]);
    }
    (numbers, trainer.get(trainer.model.params.all))
}

#[test]
fn ten_steps_follow_the_cpu() {
    on_gpu(|gpu| {
        let cpu = Cpu::new(2).expect("threads");
        // Losses; norms of gradients. In bf16 two runs that round differently drift apart a little.
        for (dtype, tolerance) in [(DType::F32, [1e-5, 1e-4]), (DType::BF16, [0.01, 0.1])] {
            let how = How { dtype, ..PLAIN };
            let ((want, _), (got, _)) = (train(&cpu, how), train(gpu, how));
            for (step, (want, got)) in want.chunks(2).zip(got.chunks(2)).enumerate() {
                let near = |i: usize| (want[i] - got[i]).abs() < tolerance[i] * want[i];
                assert!(near(0) && near(1), "{dtype:?} step {step}: {got:?} on the GPU, {want:?} on the CPU");
            }
            assert!(got[18] < 0.9 * got[0], "it does not learn: {got:?}");
        }
    });
}

#[test]
fn twenty_steps_twice_give_the_same_weights() {
    on_gpu(|gpu| {
        for how in [
            How { steps: 20, ..PLAIN },
            How {
                steps: 20,
                dtype: DType::BF16,
                method: Method {
                    master: MasterValues::Remainder,
                    gradients: Gradients::Storage,
                    ..PLAIN.method
                },
                ..PLAIN
            },
        ] {
            assert!(train(gpu, how) == train(gpu, how), "{:?}", how.dtype);
        }
    });
}

#[test]
fn recompute_does_not_change_a_bit() {
    on_gpu(|gpu| {
        for dtype in [DType::F32, DType::BF16] {
            let want = train(gpu, How { dtype, steps: 4, ..PLAIN });
            for recompute in [Recompute::Lean, Recompute::Ffn, Recompute::Block] {
                let got = train(gpu, How { dtype, steps: 4, recompute, ..PLAIN });
                assert!(got == want, "{dtype:?} {recompute:?}");
            }
        }
    });
}

/// A remainder is the same master in fewer bytes.
#[test]
fn remainders_are_exact_masters() {
    on_gpu(|gpu| {
        let how = How { dtype: DType::BF16, steps: 5, ..PLAIN };
        let remainder = How { method: Method { master: MasterValues::Remainder, ..PLAIN.method }, ..how };
        assert!(train(gpu, how) == train(gpu, remainder));
    });
}

/// What a cache changes of answers and likeliest tokens: nothing. Pieces of one size come twice, so that recorded passes
/// are played again.
#[test]
fn answers_over_a_cache_have_the_bits_of_the_plain_pass() {
    on_gpu(|gpu| {
        for (config, dtype) in [(config(false), DType::F32), (config(true), DType::BF16)] {
            let whole = batch(3, config.vocab).tokens;
            let (shared, ends) = (&whole[..37], [&whole[37..57], &whole[57..67]]);
            let sizes = Sizes { tokens: 128, asks: 128, chunk: 16, train: None, profile: gpu.profile() };
            let (_arena, (model, acts, cache)) = Arena::carve(gpu, |arena| {
                (
                    Model::carve(&config, arena, dtype, config.context),
                    Acts::carve(&config, arena, dtype, sizes),
                    Cache::carve(&config, arena, dtype, 100, 128, gpu.profile()),
                )
            })
            .expect("memory");
            model.prepare(gpu);
            model.init(7, Init::Normal, &mut |part, values| match dtype {
                DType::F32 => gpu.write(part, values),
                _ => {
                    let values: &[f32] = bytemuck::cast_slice(values);
                    let halves = values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes());
                    gpu.write(part, &halves.collect::<Vec<u8>>());
                }
            });
            let all_asked = |mut b: Batch| {
                (0..b.len() as u32).for_each(|r| b.ask(r, r % 7, 0));
                b
            };
            let mut plain = Batch::default();
            for end in ends {
                plain.push(None, &[shared, end].concat());
            }
            let want = {
                let input = model.upload(gpu, &acts, &all_asked(plain), 0.0).expect("a valid batch");
                model.answer(gpu, &acts, &input).into_iter().map(|(_, best)| best).collect::<Vec<_>>()
            };
            let want = [&want[..57], &want[57..]];
            let (mut seen, own) = ([0; 2], [50, 75]);
            for step in 0..6 {
                let mut b = Batch::default();
                let root = match step {
                    0 => b.push_at(None, 3, shared),
                    _ => b.cached(None, 3, shared.len()),
                };
                let mut rows = if step == 0 { Vec::from_iter((0..37).map(|i| (0, i))) } else { vec![] };
                for s in 0..2 {
                    let n = [3, 1][s].min(ends[s].len() - seen[s]);
                    let parent = if seen[s] > 0 { b.cached(Some(root), own[s], seen[s]) } else { root };
                    b.push_at(Some(parent), own[s] + seen[s] as u32, &ends[s][seen[s]..seen[s] + n]);
                    rows.extend((seen[s]..seen[s] + n).map(|i| (s, 37 + i)));
                    seen[s] += n;
                }
                let input = model.upload_cached(gpu, &acts, &cache, &all_asked(b)).expect("a valid batch");
                for ((_, best), (s, i)) in model.answer(gpu, &acts, &input).into_iter().zip(rows) {
                    assert_eq!(best, want[s][i], "token {i} of {s}, {dtype:?}");
                }
            }
        }
    });
}
