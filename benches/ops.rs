//! How fast is every op? Shapes of two small models, f32 and bf16 storage, all cores.
//!
//! `cargo bench --bench ops -- matmul` runs one family. Products and attention report FLOP/s (criterion's `elem/s`), the
//! others bytes of operands a second. Two minutes on two cores.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flanrt::arena::Arena;
use flanrt::cpu::Cpu;
use flanrt::ops::norm::bwd_scratch_rows;
use flanrt::ops::optim::{AdamState, FactorState, Master, NUMBERS, Second, clip_scratch, factor_scratch};
use flanrt::ops::{Adafactor, AdamW, Batch, Device, Epilogue, Forest, Form, Heads, Segment};
use flanrt::rng::Rng;
use flanrt::tensor::{DType, Tensor};
use std::time::Duration;

/// Sizes of a model and of the batch it is given.
#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    t: usize,
    d: usize,
    h: usize,
    g: usize,
    k: usize,
    f: usize,
    v: usize,
    /// Rows that predict.
    r: usize,
}

const MODELS: [Model; 2] = [
    Model { name: "tiny", t: 2048, d: 288, h: 6, g: 6, k: 48, f: 768, v: 32_000, r: 128 },
    Model { name: "260k", t: 2048, d: 64, h: 8, g: 4, k: 8, f: 172, v: 512, r: 512 },
];

const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// The device and the memory of one benchmark.
struct Stand {
    device: Box<dyn Device>,
    arenas: Vec<Arena>,
}

impl Stand {
    fn new() -> Self {
        Self { device: Box::new(Cpu::new(0).expect("threads")), arenas: Vec::new() }
    }

    fn bytes(&mut self, dtype: DType, rows: usize, cols: usize, fill: impl Fn(u64) -> Vec<u8>) -> Tensor {
        let (arena, x) =
            Arena::carve(self.device.as_ref(), |a| a.take("x", dtype, rows, cols)).expect("memory");
        self.device.write(x, &(0..x.len() as u64).flat_map(fill).collect::<Vec<u8>>());
        self.arenas.push(arena);
        x
    }

    /// Random numbers of size `1 / 8`.
    fn normal(&mut self, dtype: DType, rows: usize, cols: usize) -> Tensor {
        let rng = Rng::new(1, self.arenas.len() as u64);
        let value = move |i| (rng.uniform(i) as f32 - 0.5) / 4.0;
        self.bytes(dtype, rows, cols, |i| match dtype {
            DType::F32 => value(i).to_le_bytes().to_vec(),
            DType::BF16 => half::bf16::from_f32(value(i)).to_le_bytes().to_vec(),
            _ => half::f16::from_f32(value(i)).to_le_bytes().to_vec(),
        })
    }

    fn index(&mut self, n: usize, value: impl Fn(u64) -> u32) -> Tensor {
        self.bytes(DType::U32, 1, n, |i| value(i).to_le_bytes().to_vec())
    }
}

fn bench(c: &mut Criterion, op: &str, case: &str, work: Throughput, mut run: impl FnMut()) {
    let mut group = c.benchmark_group(op);
    group.throughput(work);
    group.bench_function(BenchmarkId::from_parameter(case), |b| b.iter(&mut run));
    group.finish();
}

fn bytes(tensors: &[Tensor]) -> Throughput {
    Throughput::Bytes(tensors.iter().map(|x| x.bytes() as u64).sum())
}

fn matmul(c: &mut Criterion) {
    for model in MODELS {
        let Model { name, t, d, h, g, k, f, v, r } = model;
        let layers =
            [("qkv", t, (h + 2 * g) * k, d), ("gate_up", t, 2 * f, d), ("down", t, d, f), ("head", r, v, d)];
        for ((layer, m, n, inner), dtype) in layers.iter().flat_map(|l| DTYPES.map(|dtype| (*l, dtype))) {
            let s = &mut Stand::new();
            let [x, w] = [m, n].map(|rows| s.normal(dtype, rows, inner));
            let (y, dw) = (s.normal(dtype, m, n), s.normal(DType::F32, n, inner));
            let dx = s.normal(dtype, m, inner);
            let device = s.device.as_ref();
            let case = format!("{name} {layer} {m}x{n}x{inner} {}", dtype.name());
            let work = || Throughput::Elements(2 * (m * n * inner) as u64);
            bench(c, "matmul_nt", &case, work(), || device.matmul(y, x, w, Form::NT, Epilogue::NONE));
            bench(c, "matmul_nn", &case, work(), || device.matmul(dx, y, w, Form::NN, Epilogue::NONE));
            bench(c, "matmul_tn", &case, work(), || device.matmul(dw, y, x, Form::TN, Epilogue::NONE));
        }
    }
}

/// `t` tokens in roots of `len`.
fn roots(t: usize, len: usize) -> Vec<Segment> {
    let mut batch = Batch::default();
    (0..t / len).for_each(|_| _ = batch.push(None, &vec![0; len]));
    batch.segments
}

/// A context with 16 options, twice over.
fn options(t: usize) -> Vec<Segment> {
    let mut batch = Batch::default();
    for _ in 0..2 {
        let context = batch.push(None, &vec![0; t / 4]);
        (0..16).for_each(|_| _ = batch.push(Some(context), &vec![0; t / 64]));
    }
    batch.segments
}

fn attention(c: &mut Criterion) {
    for Model { name, t, h, g, k, .. } in MODELS {
        let forests = [("one", roots(t, t)), ("packed 8", roots(t, t / 8)), ("2x16 options", options(t))];
        for (forest, dtype) in forests.iter().flat_map(|f| DTYPES.map(|dtype| (f, dtype))) {
            let s = &mut Stand::new();
            let (what, segments) = forest;
            let [q, o, dq, do_] = [0; 4].map(|_| s.normal(dtype, t, h * k));
            let [keys, v, dk, dv] = [0; 4].map(|_| s.normal(dtype, t, g * k));
            let profile = s.device.profile();
            let lse = s.normal(DType::F32, t, h);
            let scratch = s.normal(DType::F32, t, h * if profile.dq_scratch { 1 + k } else { 1 });
            let table = s.index(profile.table_words(t), |_| 0);
            let heads = Heads { query: h, kv: g, size: k, scale: 1.0 / (k as f32).sqrt(), window: None };
            let device = s.device.as_ref();
            let forest = Forest { segments, table };
            device.attention_plan(&forest);
            // A query and a key it sees: one product of size k each for scores and output, five in the backward pass.
            let len = |s: &Segment| s.len as usize;
            let pairs: usize =
                segments.iter().map(|s| len(s) * (s.position as usize) + len(s) * (len(s) + 1) / 2).sum();
            let flop = (2 * pairs * h * k) as u64;
            let case = format!("{name} {what} {}", dtype.name());
            bench(c, "attention_fwd", &case, Throughput::Elements(2 * flop), || {
                device.attention_fwd(o, lse, q, keys, v, &forest, heads);
            });
            bench(c, "attention_bwd", &case, Throughput::Elements(5 * flop), || {
                device.attention_bwd(dq, dk, dv, do_, q, keys, v, o, lse, &forest, heads, scratch);
            });
        }
    }
}

fn loss(c: &mut Criterion) {
    for (Model { name, d, v, r, .. }, dtype) in
        MODELS.into_iter().flat_map(|m| DTYPES.map(|dtype| (m, dtype)))
    {
        let s = &mut Stand::new();
        let ([x, dx], w) = ([0; 2].map(|_| s.normal(dtype, r, d)), s.normal(dtype, v, d));
        let (dw, scratch) = (s.normal(DType::F32, v, d), s.normal(DType::F32, r.min(64), v));
        let scale = s.normal(DType::F32, 1, 1);
        let (losses, best) = (s.normal(DType::F32, 1, r), s.index(r, |_| 0));
        let (rows, targets) = (s.index(r, |i| i as u32), s.index(r, |i| i as u32 % v as u32));
        let device = s.device.as_ref();
        let case = format!("{name} {r}x{v}x{d} {}", dtype.name());
        let product = 2 * (r * v * d) as u64;
        bench(c, "linear_cross_entropy", &case, Throughput::Elements(3 * product), || {
            device.linear_cross_entropy(losses, dx, dw, x, w, targets, scale, scratch);
        });
        bench(c, "linear_logprob", &case, Throughput::Elements(product), || {
            device.linear_logprob(losses, best, x, w, rows, targets, scratch);
        });
    }
}

fn rows(c: &mut Criterion) {
    for (Model { name, t, d, h, k, f, v, .. }, dtype) in
        MODELS.into_iter().flat_map(|m| DTYPES.map(|dtype| (m, dtype)))
    {
        let s = &mut Stand::new();
        let case = format!("{name} {}", dtype.name());
        let [x, y, z] = [0; 3].map(|_| s.normal(dtype, t, d));
        let w = s.normal(dtype, 1, d);
        let [mean, rstd] = [0; 2].map(|_| s.normal(DType::F32, t, 1));
        let [dw, db] = [0; 2].map(|_| s.normal(DType::F32, 1, d));
        let partials = s.normal(DType::F32, 2 * bwd_scratch_rows(t), d);
        let heads = s.normal(dtype, t, h * k);
        let (angles, positions) = (s.normal(DType::F32, t, k), s.index(t, |i| i as u32));
        let ([gate_up, dgate_up], ffn) = ([0; 2].map(|_| s.normal(dtype, t, 2 * f)), s.normal(dtype, t, f));
        let (table, dtable) = (s.normal(dtype, v, d), s.normal(DType::F32, v, d));
        let token = |i: u64| (i * 7919 % v as u64) as u32;
        let tokens = s.index(t, token);
        let mut sorted = Vec::from_iter(0..t as u64);
        sorted.sort_by_key(|&row| token(row));
        let order = s.index(t, |i| sorted[i as usize] as u32);
        let (half, some) = (s.index(t / 2, |i| 2 * i as u32), s.normal(dtype, t / 2, d));
        let copy = s.normal(DType::F32, t, d);
        let dev = s.device.as_ref();
        let c = &mut *c;
        bench(c, "rms_norm_fwd", &case, bytes(&[y, x]), || dev.rms_norm_fwd(y, rstd, x, w, 1e-5));
        bench(c, "rms_norm_bwd", &case, bytes(&[z, y, x]), || {
            dev.rms_norm_bwd(z, dw, y, x, w, rstd, None, partials);
        });
        bench(c, "layer_norm_fwd", &case, bytes(&[y, x]), || {
            dev.layer_norm_fwd(y, mean, rstd, x, w, Some(w), 1e-5);
        });
        bench(c, "layer_norm_bwd", &case, bytes(&[z, y, x]), || {
            dev.layer_norm_bwd(z, dw, Some(db), y, x, w, mean, rstd, None, partials);
        });
        bench(c, "rope", &case, bytes(&[heads, heads]), || dev.rope(heads, positions, angles, false));
        bench(c, "swiglu_fwd", &case, bytes(&[ffn, gate_up]), || dev.swiglu_fwd(ffn, gate_up));
        bench(c, "swiglu_bwd", &case, bytes(&[dgate_up, ffn, gate_up]), || {
            dev.swiglu_bwd(dgate_up, ffn, gate_up);
        });
        bench(c, "gelu_fwd", &case, bytes(&[dgate_up, gate_up]), || dev.gelu_fwd(dgate_up, gate_up));
        bench(c, "gelu_bwd", &case, bytes(&[dgate_up, dgate_up, gate_up]), || {
            dev.gelu_bwd(dgate_up, dgate_up, gate_up);
        });
        bench(c, "embed_fwd", &case, bytes(&[x, x]), || dev.embed_fwd(x, table, tokens));
        bench(c, "embed_bwd", &case, bytes(&[copy, copy, x]), || dev.embed_bwd(dtable, x, tokens, order));
        bench(c, "convert", &case, bytes(&[copy, x]), || dev.convert(copy, x));
        bench(c, "gather_rows", &case, bytes(&[some, some]), || dev.gather_rows(some, x, half));
        bench(c, "scatter_rows", &case, bytes(&[x, some]), || dev.scatter_rows(x, some, half));
        bench(c, "sum_rows", &case, bytes(&[x]), || dev.sum_rows(dw, x));
        bench(c, "zero", &case, bytes(&[gate_up]), || dev.zero(gate_up));
    }
}

fn optim(c: &mut Criterion) {
    let n = 1 << 22;
    let s = &mut Stand::new();
    let ones = |s: &mut Stand, n| s.bytes(DType::F32, 1, n, |_| 1f32.to_le_bytes().to_vec());
    let [grads, grads16] = [DType::F32, DType::BF16].map(|d| s.normal(d, 1, n));
    let (out, unscale) = (s.normal(DType::F32, 1, 2), ones(s, 1));
    let scratch = s.normal(DType::F32, 1, clip_scratch(n).max(factor_scratch(2048, 2048)));
    let numbers = |s: &mut Stand, row: [f32; NUMBERS]| {
        s.bytes(DType::F32, 1, NUMBERS, |i| row[i as usize].to_le_bytes().to_vec())
    };
    let how = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, step: 10, key: 1 }.numbers();
    let adamw = numbers(s, how);
    let how = Adafactor { lr: 1e-4, most: 0.999, decay: 0.1, step: 10, key: 1 }.numbers();
    let adafactor = numbers(s, how);
    let master = s.normal(DType::F32, 1, n);
    let remainder = s.bytes(DType::U16, 1, n, |_| vec![0; 2]);
    let [bf16, f16] = [DType::BF16, DType::F16].map(|d| s.normal(d, 1, n));
    let [m, v] = [0; 2].map(|_| ones(s, n));
    let [m16, v16] = [0; 2].map(|_| s.bytes(DType::BF16, 1, n, |_| vec![0, 0x3f]));
    let (rows, cols) = (ones(s, 2048), ones(s, 2048));
    let dev = s.device.as_ref();
    for grads in [grads, grads16] {
        let case = format!("4M {}", grads.dtype().name());
        bench(c, "clip", &case, bytes(&[grads]), || dev.clip(out, grads, 1.0, unscale, scratch));
    }
    let kinds = [
        ("f32", master, Master::Weights, m, v, grads),
        ("bf16 master f32", bf16, Master::Plain(master), m, v, grads),
        ("f16 master f32", f16, Master::Plain(master), m, v, grads),
        ("bf16 remainder", bf16, Master::Remainder(remainder), m, v, grads16),
        ("all bf16", bf16, Master::Stochastic, m16, v16, grads16),
    ];
    for (kind, weights, master, m, v, grads) in kinds {
        let case = format!("4M {kind}");
        let beside = match master {
            Master::Plain(x) | Master::Remainder(x) => vec![x, x],
            Master::Weights | Master::Stochastic => vec![],
        };
        let moved = |more: &[Tensor]| bytes(&[&[weights, weights, grads], &beside[..], more].concat());
        let state = AdamState { weights, master, m, v, first: 0 };
        bench(c, "adamw", &case, moved(&[m, m, v, v]), || dev.adamw(&state, grads, out, adamw));
        let square = |x: Tensor| x.reshape(2048, 2048);
        let master = match master {
            Master::Plain(x) => Master::Plain(square(x)),
            Master::Remainder(x) => Master::Remainder(square(x)),
            whole => whole,
        };
        let second = Second::Factored { rows, cols };
        let state = FactorState { weights: square(weights), master, second, first: 0 };
        bench(c, "adafactor", &case, moved(&[grads, grads]), || {
            dev.adafactor(&state, square(grads), out, adafactor, false, scratch);
        });
    }
}

criterion_group! {
    name = ops;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .nresamples(2000)
        .without_plots();
    targets = matmul, attention, loss, rows, optim
}
criterion_main!(ops);
