//! Ops with shapes: what to run, and how much work that is.

use super::Stand;
use flanrt::ops::norm::bwd_scratch_rows;
use flanrt::ops::optim::{AdamState, FactorState, Master, Second, clip_scratch, factor_scratch};
use flanrt::ops::{Adafactor, AdamW, Batch, Device, Epilogue, Forest, Form, Heads, Segment};
use flanrt::tensor::{DType, Tensor};

/// One launch of an op on operands of its own.
pub(crate) type Run = Box<dyn Fn(&dyn Device)>;

/// What a launch costs at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    /// Operations of tensor cores or vector units.
    Flop(u64),
    /// Bytes read and written.
    Bytes(u64),
}

/// An op with its shapes.
pub(crate) struct Case {
    /// Name of the op.
    pub(crate) op: &'static str,
    /// Shapes and dtype.
    pub(crate) name: String,
    /// Work of one launch.
    pub(crate) work: Work,
    /// Makes operands.
    pub(crate) make: Box<dyn Fn(&mut Stand) -> Run>,
}

impl Case {
    fn new(op: &'static str, name: String, work: Work, make: impl Fn(&mut Stand) -> Run + 'static) -> Self {
        Self { op, name, work, make: Box::new(make) }
    }
}

/// Sizes of a model and of the batch it is given.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Tokens.
    pub(crate) t: usize,
    /// Width.
    pub(crate) d: usize,
    /// Query heads.
    pub(crate) h: usize,
    /// Key heads.
    pub(crate) g: usize,
    /// Head size.
    pub(crate) k: usize,
    /// Feed-forward width.
    pub(crate) f: usize,
    /// Vocabulary.
    pub(crate) v: usize,
    /// Rows that predict.
    pub(crate) r: usize,
}

/// Models that a CPU trains.
pub(crate) const SMALL: [Model; 2] = [
    Model { name: "tiny", t: 2048, d: 288, h: 6, g: 6, k: 48, f: 768, v: 32_000, r: 128 },
    Model { name: "260k", t: 2048, d: 64, h: 8, g: 4, k: 8, f: 172, v: 512, r: 512 },
];

/// Models that a GPU trains.
pub(crate) const LARGE: [Model; 3] = [
    Model { name: "llama-8b", t: 8192, d: 4096, h: 32, g: 8, k: 128, f: 14_336, v: 128_256, r: 4096 },
    Model { name: "llama-1b", t: 8192, d: 2048, h: 32, g: 8, k: 64, f: 8192, v: 128_256, r: 4096 },
    Model { name: "gpt2", t: 8192, d: 768, h: 12, g: 12, k: 64, f: 3072, v: 50_304, r: 4096 },
];

/// All cases of `models` in the storage `dtypes`, and the optimizers on `parameters`.
pub(crate) fn all(models: &[Model], dtypes: &[DType], parameters: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for (m, dtype) in models.iter().flat_map(|m| dtypes.iter().map(move |&dtype| (m, dtype))) {
        let Model { name, t, d, h, g, k, f, v, r } = *m;
        let layers =
            [("qkv", t, (h + 2 * g) * k, d), ("gate_up", t, 2 * f, d), ("down", t, d, f), ("head", r, v, d)];
        for (layer, m, n, inner) in layers {
            let name = format!("{name} {layer}");
            let forms = [Form::NT, Form::NN, Form::TN];
            cases.extend(forms.map(|form| matmul(&name, form, dtype, DType::F32, m, n, inner)));
        }
        let heads = Heads { query: h, kv: g, size: k, scale: 1.0 / (k as f32).sqrt(), window: None };
        for (what, segments) in
            [("one", roots(t, t)), ("packed 8", roots(t, t / 8)), ("2x16 options", options(t))]
        {
            let name = format!("{name} {what}");
            cases.extend([false, true].map(|back| attention(&name, dtype, heads, segments.clone(), back)));
        }
        cases.extend([true, false].map(|train| loss(name, dtype, r, v, d, train)));
        cases.extend(rows(m, dtype));
    }
    cases.extend(optimizers(parameters));
    cases
}

fn bytes(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|x| x.bytes() as u64).sum()
}

/// Bytes of tensors that are not made yet: dtype, rows, columns.
fn sizes(shapes: &[(DType, usize, usize)]) -> Work {
    Work::Bytes(shapes.iter().map(|(dtype, rows, cols)| (dtype.size() * rows * cols) as u64).sum())
}

/// The three products of a layer `y [m, n] = x [m, k] . w [n, k]^T`: itself (NT), the gradient of x (NN), of w (TN, in `dw`).
pub(crate) fn matmul(name: &str, form: Form, dtype: DType, dw: DType, m: usize, n: usize, k: usize) -> Case {
    let op = match form {
        Form::NT => "matmul_nt",
        Form::NN => "matmul_nn",
        Form::TN => "matmul_tn",
    };
    let case = format!("{name} {m}x{n}x{k} {}", dtype.name());
    Case::new(op, case, Work::Flop(2 * (m * n * k) as u64), move |s| {
        let (x, w, y) = (s.normal(dtype, m, k), s.normal(dtype, n, k), s.normal(dtype, m, n));
        match form {
            Form::NT => Box::new(move |device| device.matmul(y, x, w, Form::NT, Epilogue::NONE)),
            Form::NN => {
                let dx = s.normal(dtype, m, k);
                Box::new(move |device| device.matmul(dx, y, w, Form::NN, Epilogue::NONE))
            }
            Form::TN => {
                let dw = s.normal(dw, n, k);
                Box::new(move |device| device.matmul(dw, y, x, Form::TN, Epilogue::NONE))
            }
        }
    })
}

/// A copy of `n` bytes by the device's own conversion: what memory gives at best.
pub(crate) fn copy(n: usize) -> Case {
    let elements = n / 4;
    Case::new("copy", format!("{} MiB", n >> 20), Work::Bytes(2 * n as u64), move |s| {
        let [y, x] = [0; 2].map(|_| s.normal(DType::F32, 1, elements));
        Box::new(move |device| device.convert(y, x))
    })
}

/// `t` tokens in roots of `len`.
pub(crate) fn roots(t: usize, len: usize) -> Vec<Segment> {
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

/// Attention over `segments`, forward or backward.
pub(crate) fn attention(
    name: &str,
    dtype: DType,
    heads: Heads,
    segments: Vec<Segment>,
    backward: bool,
) -> Case {
    let Heads { query: h, kv: g, size: k, .. } = heads;
    let len = |s: &Segment| s.len as usize;
    let t: usize = segments.iter().map(len).sum();
    // A query and a key it sees: one product of size k each for scores and output, five in the backward pass.
    let pairs: usize =
        segments.iter().map(|s| len(s) * (s.position as usize) + len(s) * (len(s) + 1) / 2).sum();
    let flop = (2 * pairs * h * k) as u64 * if backward { 5 } else { 2 };
    let op = if backward { "attention_bwd" } else { "attention_fwd" };
    Case::new(op, format!("{name} {}", dtype.name()), Work::Flop(flop), move |s| {
        let profile = s.device().profile();
        let [q, o] = [0; 2].map(|_| s.normal(dtype, t, h * k));
        let [keys, v] = [0; 2].map(|_| s.normal(dtype, t, g * k));
        let lse = s.normal(DType::F32, t, h);
        let table = s.index(profile.table_words(t), |_| 0);
        let segments = segments.clone();
        s.device().attention_plan(&Forest { segments: &segments, table });
        if !backward {
            return Box::new(move |device| {
                device.attention_fwd(o, lse, q, keys, v, &Forest { segments: &segments, table }, heads);
            });
        }
        let [dq, do_] = [0; 2].map(|_| s.normal(dtype, t, h * k));
        let [dk, dv] = [0; 2].map(|_| s.normal(dtype, t, g * k));
        let scratch = s.normal(DType::F32, t, h * if profile.dq_scratch { 1 + k } else { 1 });
        s.device().attention_fwd(o, lse, q, keys, v, &Forest { segments: &segments, table }, heads);
        Box::new(move |device| {
            let forest = Forest { segments: &segments, table };
            device.attention_bwd(dq, dk, dv, do_, q, keys, v, o, lse, &forest, heads, scratch);
        })
    })
}

/// The head with cross-entropy and its gradients, or the log-probabilities alone.
pub(crate) fn loss(name: &str, dtype: DType, r: usize, v: usize, d: usize, train: bool) -> Case {
    let product = 2 * (r * v * d) as u64;
    let (op, flop) = if train { ("linear_cross_entropy", 3 * product) } else { ("linear_logprob", product) };
    Case::new(op, format!("{name} {r}x{v}x{d} {}", dtype.name()), Work::Flop(flop), move |s| {
        let chunk = (s.device().profile().logits / (4 * v)).clamp(1, r);
        let (x, w, scratch) = (s.normal(dtype, r, d), s.normal(dtype, v, d), s.normal(DType::F32, chunk, v));
        let (losses, targets) = (s.normal(DType::F32, 1, r), s.index(r, |i| (i * 31 % v) as u32));
        if train {
            let (dx, dw, scale) = (s.normal(dtype, r, d), s.normal(DType::F32, v, d), s.numbers(&[1e-3]));
            return Box::new(move |device| {
                device.linear_cross_entropy(losses, dx, dw, x, w, targets, scale, scratch);
            });
        }
        let (best, rows) = (s.index(r, |_| 0), s.index(r, |i| i as u32));
        Box::new(move |device| device.linear_logprob(losses, best, x, w, rows, targets, scratch))
    })
}

/// Ops on rows.
pub(crate) fn rows(model: &Model, dtype: DType) -> Vec<Case> {
    let Model { name, t, d, h, k, f, v, .. } = *model;
    let case = format!("{name} {}", dtype.name());
    let wide = DType::F32;
    let case = |op, shapes: &[(DType, usize, usize)], make: Box<dyn Fn(&mut Stand) -> Run>| Case {
        op,
        name: case.clone(),
        work: sizes(shapes),
        make,
    };
    let x = (dtype, t, d);
    let token = move |i: usize| (i * 7919 % v) as u32;
    vec![
        case("rms_norm_fwd", &[x, x], {
            Box::new(move |s| {
                let ([x, y], w, rstd) =
                    ([0; 2].map(|_| s.normal(dtype, t, d)), s.normal(dtype, 1, d), s.normal(wide, t, 1));
                Box::new(move |device| device.rms_norm_fwd(y, rstd, x, w, 1e-5))
            })
        }),
        case("rms_norm_bwd", &[x, x, x], {
            Box::new(move |s| {
                let ([x, dy, dx], w, rstd) =
                    ([0; 3].map(|_| s.normal(dtype, t, d)), s.normal(dtype, 1, d), s.normal(wide, t, 1));
                let (dw, partials) = (s.normal(wide, 1, d), s.normal(wide, bwd_scratch_rows(t), d));
                Box::new(move |device| device.rms_norm_bwd(dx, dw, dy, x, w, rstd, None, partials))
            })
        }),
        case("rope", &[(dtype, t, h * k), (dtype, t, h * k)], {
            Box::new(move |s| {
                let (heads, angles) = (s.normal(dtype, t, h * k), s.normal(wide, t, k));
                let positions = s.index(t, |i| i as u32);
                Box::new(move |device| device.rope(heads, positions, angles, false))
            })
        }),
        case("swiglu_fwd", &[(dtype, t, f), (dtype, t, 2 * f)], {
            Box::new(move |s| {
                let (y, gate_up) = (s.normal(dtype, t, f), s.normal(dtype, t, 2 * f));
                Box::new(move |device| device.swiglu_fwd(y, gate_up))
            })
        }),
        case("swiglu_bwd", &[(dtype, t, 2 * f), (dtype, t, f), (dtype, t, 2 * f)], {
            Box::new(move |s| {
                let ([gate_up, dgate_up], dy) =
                    ([0; 2].map(|_| s.normal(dtype, t, 2 * f)), s.normal(dtype, t, f));
                Box::new(move |device| device.swiglu_bwd(dgate_up, dy, gate_up))
            })
        }),
        case("layer_norm_fwd", &[x, x], {
            Box::new(move |s| {
                let ([x, y], w) = ([0; 2].map(|_| s.normal(dtype, t, d)), s.normal(dtype, 1, d));
                let [mean, rstd] = [0; 2].map(|_| s.normal(wide, t, 1));
                Box::new(move |device| device.layer_norm_fwd(y, mean, rstd, x, w, Some(w), 1e-5))
            })
        }),
        case("gelu_fwd", &[(dtype, t, f), (dtype, t, f)], {
            Box::new(move |s| {
                let [x, y] = [0; 2].map(|_| s.normal(dtype, t, f));
                Box::new(move |device| device.gelu_fwd(y, x))
            })
        }),
        case("gelu_bwd", &[(dtype, t, f), (dtype, t, f), (dtype, t, f)], {
            Box::new(move |s| {
                let [x, dy, dx] = [0; 3].map(|_| s.normal(dtype, t, f));
                Box::new(move |device| device.gelu_bwd(dx, dy, x))
            })
        }),
        case("embed_fwd", &[x, x], {
            Box::new(move |s| {
                let (x, table, tokens) = (s.normal(dtype, t, d), s.normal(dtype, v, d), s.index(t, token));
                Box::new(move |device| device.embed_fwd(x, table, tokens))
            })
        }),
        case("embed_bwd", &[(wide, t, d), (wide, t, d), x], {
            Box::new(move |s| {
                let (dx, dtable, tokens) = (s.normal(dtype, t, d), s.normal(wide, v, d), s.index(t, token));
                let mut sorted = Vec::from_iter(0..t);
                sorted.sort_by_key(|&row| token(row));
                let order = s.index(t, |i| sorted[i] as u32);
                Box::new(move |device| device.embed_bwd(dtable, dx, tokens, order))
            })
        }),
        case("convert", &[(wide, t, d), x], {
            Box::new(move |s| {
                let (y, x) = (s.normal(wide, t, d), s.normal(dtype, t, d));
                Box::new(move |device| device.convert(y, x))
            })
        }),
        case("gather_rows", &[(dtype, t / 2, d), (dtype, t / 2, d)], {
            Box::new(move |s| {
                let (y, x) = (s.normal(dtype, t / 2, d), s.normal(dtype, t, d));
                let index = s.index(t / 2, |i| 2 * i as u32);
                Box::new(move |device| device.gather_rows(y, x, index))
            })
        }),
        case("put_rows", &[(dtype, t / 2, d), (dtype, t / 2, d)], {
            Box::new(move |s| {
                let (y, x) = (s.normal(dtype, t, d), s.normal(dtype, t / 2, d));
                let index = s.index(t / 2, |i| 2 * i as u32);
                Box::new(move |device| device.put_rows(y, x, index))
            })
        }),
        case("scatter_rows", &[x, (dtype, t / 2, d)], {
            Box::new(move |s| {
                let (dx, dy) = (s.normal(dtype, t, d), s.normal(dtype, t / 2, d));
                let index = s.index(t / 2, |i| 2 * i as u32);
                Box::new(move |device| device.scatter_rows(dx, dy, index))
            })
        }),
        case("sum_rows", &[x], {
            Box::new(move |s| {
                let (db, dy) = (s.normal(wide, 1, d), s.normal(dtype, t, d));
                Box::new(move |device| device.sum_rows(db, dy))
            })
        }),
        case("zero", &[(dtype, t, 2 * f)], {
            Box::new(move |s| {
                let x = s.normal(dtype, t, 2 * f);
                Box::new(move |device| device.zero(x))
            })
        }),
    ]
}

/// Global norm of `n` gradients of `dtype`, and the factor that clips it.
pub(crate) fn clip(n: usize, dtype: DType) -> Case {
    let name = format!("{}M {}", n >> 20, dtype.name());
    Case::new("clip", name, sizes(&[(dtype, 1, n)]), move |s| {
        let (grads, out, unscale) = (s.normal(dtype, 1, n), s.normal(DType::F32, 1, 2), s.numbers(&[1.0]));
        let scratch = s.normal(DType::F32, 1, clip_scratch(n));
        Box::new(move |device| device.clip(out, grads, 1.0, unscale, scratch))
    })
}

/// What weights and moments are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// f32 weights, f32 moments, f32 gradients.
    F32,
    /// Weights of 16 bits beside f32 master values, f32 moments and gradients.
    Master(DType),
    /// bf16 weights with remainders, f32 moments, bf16 gradients.
    Remainder,
    /// Everything bf16, rounded by chance.
    Bf16,
}

impl Keeping {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::F32, Self::Master(DType::BF16), Self::Master(DType::F16), Self::Remainder, Self::Bf16];

    fn name(self) -> String {
        match self {
            Self::F32 => "f32".into(),
            Self::Master(dtype) => format!("{} master f32", dtype.name()),
            Self::Remainder => "bf16 remainder".into(),
            Self::Bf16 => "all bf16".into(),
        }
    }

    fn dtypes(self) -> [DType; 3] {
        match self {
            Self::F32 => [DType::F32; 3],
            Self::Master(dtype) => [dtype, DType::F32, DType::F32],
            Self::Remainder => [DType::BF16, DType::F32, DType::BF16],
            Self::Bf16 => [DType::BF16; 3],
        }
    }

    /// Weights, master values, gradients.
    fn make(self, s: &mut Stand, n: usize) -> (Tensor, Master, Tensor) {
        let [weights, _, grads] = self.dtypes();
        let (weights, grads) = (s.normal(weights, 1, n), s.normal(grads, 1, n));
        let master = match self {
            Self::F32 => Master::Weights,
            Self::Master(_) => Master::Plain(s.normal(DType::F32, 1, n)),
            Self::Remainder => Master::Remainder(s.constant(DType::U16, 1, n, &[0; 2])),
            Self::Bf16 => Master::Stochastic,
        };
        (weights, master, grads)
    }

    /// Bytes of weights, master values and gradients that an update moves.
    fn moved(self, n: usize) -> u64 {
        let [weights, _, grads] = self.dtypes();
        let beside = match self {
            Self::Master(_) => 4,
            Self::Remainder => 2,
            Self::F32 | Self::Bf16 => 0,
        };
        ((2 * (weights.size() + beside) + grads.size()) * n) as u64
    }
}

/// A positive number, as second moments are.
fn ones(s: &mut Stand, dtype: DType, n: usize) -> Tensor {
    match dtype {
        DType::BF16 => s.constant(dtype, 1, n, &half::bf16::ONE.to_le_bytes()),
        _ => s.constant(dtype, 1, n, &1f32.to_le_bytes()),
    }
}

/// One AdamW update of `n` parameters.
pub(crate) fn adamw(n: usize, keeping: Keeping) -> Case {
    let moments = keeping.dtypes()[1];
    let work = Work::Bytes(keeping.moved(n) + (4 * moments.size() * n) as u64);
    Case::new("adamw", format!("{}M {}", n >> 20, keeping.name()), work, move |s| {
        let (weights, master, grads) = keeping.make(s, n);
        let (m, v) = (s.normal(moments, 1, n), ones(s, moments, n));
        let how = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, step: 10, key: 1 };
        let (numbers, clip) = (s.numbers(&how.numbers()), s.numbers(&[1.0, 1.0]));
        let state = AdamState { weights, master, m, v, first: 0 };
        Box::new(move |device| device.adamw(&state, grads, clip, numbers))
    })
}

/// One Adafactor update of a square matrix of `n` parameters.
fn adafactor(n: usize, keeping: Keeping) -> Case {
    let side = n.isqrt();
    let n = side * side;
    let grads = keeping.dtypes()[2];
    let work = Work::Bytes(keeping.moved(n) + (grads.size() * n) as u64);
    Case::new("adafactor", format!("{}M {}", n >> 20, keeping.name()), work, move |s| {
        let square = |x: Tensor| x.reshape(side, side);
        let (weights, master, grads) = keeping.make(s, n);
        let master = match master {
            Master::Plain(x) => Master::Plain(square(x)),
            Master::Remainder(x) => Master::Remainder(square(x)),
            whole => whole,
        };
        let second = Second::Factored { rows: ones(s, DType::F32, side), cols: ones(s, DType::F32, side) };
        let how = Adafactor { lr: 1e-4, most: 0.999, decay: 0.1, step: 10, key: 1 };
        let (numbers, clip) = (s.numbers(&how.numbers()), s.numbers(&[1.0, 1.0]));
        let scratch = s.normal(DType::F32, 1, factor_scratch(side, side));
        let (state, grads) =
            (FactorState { weights: square(weights), master, second, first: 0 }, square(grads));
        Box::new(move |device| device.adafactor(&state, grads, clip, numbers, false, scratch))
    })
}

fn optimizers(n: usize) -> Vec<Case> {
    let mut cases = vec![clip(n, DType::F32), clip(n, DType::BF16)];
    cases.extend(Keeping::ALL.map(|keeping| adamw(n, keeping)));
    cases.extend(Keeping::ALL.map(|keeping| adafactor(n, keeping)));
    cases
}
