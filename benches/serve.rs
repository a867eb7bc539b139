//! The other side of `scripts/gpu_peers.py`: runs what it asks for and answers how long it took. `serve cuda` or `serve cpu`.
//!
//! One JSON object a line, in and out:
//!
//! * `{"do": "device"}`: `{"name", "free", "memory", "cache"}`, bytes where known.
//! * `{"do": "open", "case": {"op": ...}}`: makes operands or a model and keeps them until `close` or the next `open`. Answers
//!   `{"flop"}` or `{"bytes"}` of a launch and the `"copies"` of its operands that take turns, or `{"tokens", "memory"}` of a
//!   step or batch.
//! * `{"do": "time", "reps": n}`: `{"us"}`, microseconds a launch or step; ops by the device's clock, steps by the host's.
//! * `{"do": "close"}`: `{}`.
//!
//! What goes wrong is answered with `{"error"}`, and the next request is read.

#[allow(dead_code)]
mod support;

use flanrt::cpu::Cpu;
use flanrt::cuda::Cuda;
use flanrt::error::{Error, Result, catch};
use flanrt::model::{Config, Recompute};
use flanrt::ops::{Form, Heads};
use flanrt::tensor::DType;
use flanrt::train::{Gradients, MasterValues, Method, Moments};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::time::Instant;
use support::cases::{self, Case, Keeping, Model, Work};
use support::whole::{Scoring, Step, config, packed, questions};
use support::{Bench, Ready};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Request {
    Device,
    Open { case: Asked },
    Time { reps: u64 },
    Close,
}

/// What to run.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Asked {
    /// `form`: nt, nn, tn; a weight gradient (tn) is written as `out`.
    Matmul {
        form: String,
        m: usize,
        n: usize,
        k: usize,
        dtype: DType,
        out: DType,
    },
    /// `t / length` sequences.
    Attention {
        t: usize,
        length: usize,
        heads: usize,
        kv: usize,
        size: usize,
        backward: bool,
        dtype: DType,
    },
    /// The head with its loss, `r` rows.
    Loss {
        r: usize,
        v: usize,
        d: usize,
        train: bool,
        dtype: DType,
    },
    /// An op on `t` rows by its name; heads of `size` are for rope.
    Rows {
        name: String,
        t: usize,
        d: usize,
        heads: usize,
        size: usize,
        f: usize,
        v: usize,
        dtype: DType,
    },
    Clip {
        n: usize,
        dtype: DType,
    },
    Adamw {
        n: usize,
        keeping: Kept,
    },
    /// A copy of `n` bytes.
    Copy {
        n: usize,
    },
    /// A training step on `rows` sequences of `length`, all of whose tokens but the first are targets.
    Step {
        model: Value,
        rows: usize,
        length: usize,
        dtype: DType,
        master: MasterValues,
        moments: Moments,
        gradients: Gradients,
        recompute: Recompute,
    },
    /// A batch of questions with a shared context.
    Score {
        model: Value,
        questions: usize,
        context: usize,
        options: usize,
        length: usize,
        dtype: DType,
    },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kept {
    F32,
    Master,
    Remainder,
    Bf16,
}

impl From<Kept> for Keeping {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::F32 => Self::F32,
            Kept::Master => Self::Master(DType::BF16),
            Kept::Remainder => Self::Remainder,
            Kept::Bf16 => Self::Bf16,
        }
    }
}

/// What is open.
enum Opened {
    Nothing,
    Op(Ready<'static>),
    Step(Step<'static>),
    Scoring(Scoring<'static>),
}

struct Server {
    bench: &'static Bench,
    opened: Opened,
}

/// The op that a request describes.
fn case(asked: &Asked) -> Result<Case> {
    Ok(match asked {
        &Asked::Matmul { ref form, m, n, k, dtype, out } => {
            let form = match form.as_str() {
                "nt" => Form::NT,
                "nn" => Form::NN,
                "tn" => Form::TN,
                other => return Err(Error::usage(format!("form is nt, nn or tn, not {other}"))),
            };
            cases::matmul("", form, dtype, out, m, n, k)
        }
        &Asked::Attention { t, length, heads, kv, size, backward, dtype } => {
            let scale = 1.0 / (size as f32).sqrt();
            let heads = Heads { query: heads, kv, size, scale, window: None };
            cases::attention("", dtype, heads, cases::roots(t, length), backward)
        }
        &Asked::Loss { r, v, d, train, dtype } => cases::loss("", dtype, r, v, d, train),
        &Asked::Rows { ref name, t, d, heads, size, f, v, dtype } => {
            let model = Model { name: "", t, d, h: heads, g: heads, k: size, f, v, r: t };
            let mut all = cases::rows(&model, dtype).into_iter();
            let found = all.find(|case| case.op == name);
            return found.ok_or_else(|| Error::usage(format!("no op on rows is called {name}")));
        }
        &Asked::Clip { n, dtype } => cases::clip(n, dtype),
        &Asked::Adamw { n, keeping } => cases::adamw(n, keeping.into()),
        &Asked::Copy { n } => cases::copy(n),
        Asked::Step { .. } | Asked::Score { .. } => {
            return Err(Error::internal("steps and batches are no single op"));
        }
    })
}

impl Server {
    fn answer(&mut self, line: &str) -> Result<Value> {
        let request: Request = serde_json::from_str(line).map_err(|e| Error::usage(e.to_string()))?;
        match request {
            Request::Device => self.device(),
            Request::Open { case } => {
                self.opened = Opened::Nothing;
                self.open(case)
            }
            Request::Time { reps } => self.time(reps.max(1)),
            Request::Close => {
                self.opened = Opened::Nothing;
                Ok(json!({}))
            }
        }
    }

    fn device(&self) -> Result<Value> {
        let device = self.bench.device();
        let mut answer = json!({ "name": device.name(), "free": device.free() });
        if let Bench::Gpu(gpu) = self.bench {
            answer["memory"] = gpu.gpu().memory.into();
            answer["cache"] = gpu.cache_bytes()?.into();
        }
        Ok(answer)
    }

    fn open(&mut self, asked: Asked) -> Result<Value> {
        let device = self.bench.device();
        match asked {
            Asked::Step { model, rows, length, dtype, master, moments, gradients, recompute } => {
                let config: Config = config(&model)?;
                let method = Method { master, moments, gradients, ..Method::default() };
                let batch = packed(config.vocab, rows, length, length - 1);
                let step = Step::new(device, &config, dtype, method, recompute, vec![batch])?;
                let answer = json!({ "tokens": step.tokens(), "memory": step.bytes() });
                self.opened = Opened::Step(step);
                Ok(answer)
            }
            Asked::Score { model, questions: n, context, options, length, dtype } => {
                let config = config(&model)?;
                let batch = questions(config.vocab, n, context, options, length);
                let scoring = Scoring::new(device, &config, dtype, batch)?;
                let answer = json!({ "tokens": scoring.tokens(), "memory": scoring.bytes() });
                self.opened = Opened::Scoring(scoring);
                Ok(answer)
            }
            op => {
                let case = case(&op)?;
                let ready = Ready::new(self.bench, &case);
                let copies = ready.copies();
                self.opened = Opened::Op(ready);
                Ok(match case.work {
                    Work::Flop(n) => json!({ "flop": n, "copies": copies }),
                    Work::Bytes(n) => json!({ "bytes": n, "copies": copies }),
                })
            }
        }
    }

    fn time(&mut self, reps: u64) -> Result<Value> {
        let start = Instant::now();
        let result = match &mut self.opened {
            Opened::Nothing => return Err(Error::usage("nothing is open")),
            Opened::Op(ready) => {
                let time = self.bench.time(|| ready.run(reps));
                return Ok(json!({ "us": time.as_secs_f64() * 1e6 / reps as f64 }));
            }
            Opened::Step(step) => (0..reps).fold(0.0, |_, _| step.run()),
            Opened::Scoring(scoring) => (0..reps).fold(0.0, |_, _| scoring.run()),
        };
        let us = start.elapsed().as_secs_f64() * 1e6 / reps as f64;
        Ok(json!({ "us": us, "loss": result }))
    }
}

fn main() {
    let bench = match std::env::args().nth(1).as_deref() {
        Some("cuda") => Cuda::new(0).map(Bench::Gpu),
        Some("cpu") => Cpu::new(0).map(|cpu| Bench::Host(Box::new(cpu))),
        _ => {
            return println!(
                "usage: serve cuda|cpu, with requests of scripts/gpu_peers.py on standard input"
            );
        }
    };
    let bench = bench.unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2)
    });
    let mut server = Server { bench: Box::leak(Box::new(bench)), opened: Opened::Nothing };
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let answer =
            catch(|| server.answer(&line)).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        println!("{answer}");
        std::io::stdout().flush().ok();
    }
}
