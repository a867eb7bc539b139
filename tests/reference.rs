//! Does the runtime give the numbers of PyTorch? Every number of each model's `reference.json` (transformers, f32, CPU;
//! the definitions stand in that file's maker) from the real checkpoints, through the library as the program uses it.
//!
//! Tolerances: a mean loss is held to 2e-6 relative of the f64 value, logits to 1e-3, an option's log-likelihood to 1e-4.
//! The two runtimes add the same f32 products in other orders, which moves a logit of 20 by some 1e-5.

use flanrt::cpu::Cpu;
use flanrt::model::Config;
use flanrt::ops::Batch;
use flanrt::score::{Engine, Hooks, Requests, ScoreOptions, TextOptions, run, score_text};
use flanrt::tensor::DType;
use flanrt::text::Tokenizer;
use flanrt::weights::Source;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The folder of models and data, if it is there.
fn assets() -> Option<PathBuf> {
    let dir = std::env::var_os("FLANRT_TEST_ASSETS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    if dir.join("models").is_dir() {
        return Some(dir);
    }
    println!("skipped: no test assets in {} (set FLANRT_TEST_ASSETS)", dir.display());
    None
}

/// One model with its reference numbers.
struct Rig<'d> {
    name: String,
    reference: Value,
    config: Config,
    tokenizer: Tokenizer,
    engine: Engine<'d>,
}

fn rig<'d>(device: &'d Cpu, dir: &Path) -> Rig<'d> {
    let source = Source::find(dir.to_str().unwrap()).unwrap();
    let config = source.config().unwrap();
    let tokenizer = Tokenizer::load(&source).unwrap();
    let (engine, _) =
        Engine::load(device, &config, &source.checkpoint().unwrap(), DType::F32, config.context).unwrap();
    let reference = serde_json::from_slice(&std::fs::read(dir.join("reference.json")).unwrap()).unwrap();
    Rig { name: source.name(), reference, config, tokenizer, engine }
}

fn each(test: impl Fn(Rig<'_>)) {
    let Some(assets) = assets() else { return };
    let device = Cpu::new(2).unwrap();
    for name in ["stories260K", "tinystories-656k"] {
        test(rig(&device, &assets.join("models").join(name)));
    }
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn close(got: f64, want: &Value, tolerance: f64, what: &str) {
    let want = want.as_f64().unwrap();
    assert!((got - want).abs() <= tolerance, "{what}: {got}, expected {want} within {tolerance:e}");
}

/// Runs `work` with hooks that note nothing.
fn hooked<T>(work: impl FnOnce(&mut Hooks<'_>) -> T) -> T {
    let interrupted = AtomicBool::new(false);
    work(&mut Hooks { progress: &mut |_, _| (), say: &mut |_| (), interrupted: &interrupted })
}

impl Rig<'_> {
    /// The logits after the last of `ids`.
    fn last(&self, ids: &[u32]) -> Vec<f32> {
        let mut batch = Batch::default();
        batch.push(None, ids);
        batch.ask(ids.len() as u32 - 1, 0, 0);
        let logits = self.engine.logits(&batch).unwrap();
        assert_eq!(logits.len(), self.config.vocab);
        logits
    }
}

/// The index of the largest, the first one on a tie.
fn largest(values: impl IntoIterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, x) in values.into_iter().enumerate() {
        if x > best.1 {
            best = (i, x);
        }
    }
    best.0
}

#[test]
fn header_and_shapes() {
    each(|r| {
        let head = &r.reference;
        assert_eq!(head["architecture"], r.config.architecture);
        assert_eq!((head["window"].as_u64(), head["vocab_size"].as_u64()), {
            (Some(r.config.context as u64), Some(r.config.vocab as u64))
        });
        let count = r.engine.model.params.count(&r.config);
        assert_eq!(head["params"].as_u64(), Some(count), "{}: parameters", r.name);
    });
}

#[test]
fn texts() {
    each(|mut r| {
        for (i, want) in r.reference["texts"].as_array().unwrap().clone().iter().enumerate() {
            let place = format!("{} text {i}", r.name);
            let text = want["text"].as_str().unwrap();
            assert_eq!(r.tokenizer.encode(text).unwrap(), ids(&want["ids"]), "{place}: ids");
            let options = TextOptions::default();
            let got = hooked(|h| score_text(&place, text, &r.tokenizer, &mut r.engine, &options, h)).unwrap();
            for (key, got) in [("tokens", got.tokens), ("scored", got.scored), ("chunks", got.chunks)] {
                assert_eq!(want[key].as_u64(), Some(got as u64), "{place}: {key}");
            }
            let exact = want["mean_loss_float64"].as_f64().unwrap();
            close(got.mean_loss, &want["mean_loss_float64"], 2e-6 * exact, &format!("{place}: mean_loss"));
            // The f32 reference has its own rounding, as far from the f64 value as ours may be.
            close(got.mean_loss, &want["mean_loss"], 4e-6 * exact, &format!("{place}: f32 mean_loss"));
            let sum = exact * got.scored as f64;
            close(got.sum_nll, &want["sum_nll"], 4e-6 * sum, &format!("{place}: sum_nll"));
        }
    });
}

#[test]
fn last_logits_and_greedy_continuations() {
    each(|r| {
        for (i, want) in r.reference["texts"].as_array().unwrap().iter().enumerate() {
            let place = format!("{} text {i}", r.name);
            let mut current = ids(&want["ids"]);
            let logits = r.last(&current);
            let first = want["last_logits"].as_array().unwrap();
            assert_eq!(first.len(), 32);
            for (j, w) in first.iter().enumerate() {
                close(f64::from(logits[j]), w, 1e-3, &format!("{place}: logit {j}"));
            }
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            for (rank, w) in want["last_top5"].as_array().unwrap().iter().enumerate() {
                assert_eq!(w[0].as_u64(), Some(order[rank] as u64), "{place}: top {rank}");
                close(f64::from(logits[order[rank]]), &w[1], 1e-3, &format!("{place}: top {rank}"));
            }
            let max = f64::from(logits[order[0]]);
            let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
            close(max + sum.ln(), &want["last_logsumexp"], 1e-3, &format!("{place}: logsumexp"));

            let greedy = ids(&want["greedy_ids"]);
            let mut made = Vec::new();
            for _ in 0..greedy.len() {
                let next = largest(r.last(&current).into_iter().map(f64::from)) as u32;
                made.push(next);
                current.push(next);
            }
            assert_eq!(made, greedy, "{place}: greedy");
            // The reference's decoder finds special tokens by their text, which this tokenizer's normaliser changes, so it
            // leaves them in; ours goes by their ids.
            let text = r.tokenizer.decode(&current, r.name != "tinystories-656k").unwrap();
            assert_eq!(Some(text.as_str()), want["greedy_text"].as_str(), "{place}: greedy text");
        }
    });
}

#[test]
fn options_by_the_joint_rule() {
    each(|mut r| {
        let cases = r.reference["option_cases"].as_array().unwrap().clone();
        let lines: Vec<String> = cases
            .iter()
            .map(|c| serde_json::json!({"context": c["context"], "options": c["options"], "label": c["answer"]}))
            .map(|row| row.to_string())
            .collect();
        let requests = Requests::parse("cases", lines.join("\n").as_bytes()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("rows.jsonl");
        let options = ScoreOptions { out: Some(out.clone()), ..Default::default() };
        hooked(|h| run(&requests, &r.tokenizer, &mut r.engine, &options, h)).unwrap();
        let rows = std::fs::read_to_string(&out).unwrap();
        assert_eq!(rows.lines().count(), cases.len());
        let mut flags = 0;
        for (i, (row, want)) in rows.lines().zip(&cases).enumerate() {
            let row: Value = serde_json::from_str(row).unwrap();
            let (got, scores) = (row["options"].as_array().unwrap(), want["scores"].as_array().unwrap());
            assert_eq!(got.len(), scores.len());
            for (j, (got, want_score)) in got.iter().zip(scores).enumerate() {
                let place = format!("{} case {i} option {j}", r.name);
                let sum = got["logprob"].as_f64().unwrap();
                close(sum, &want_score["sum"], 1e-4, &place);
                assert_eq!(got["tokens"], want_score["tokens"], "{place}: tokens");
                close(sum / got["tokens"].as_f64().unwrap(), &want_score["mean"], 1e-4, &place);
                close(sum / got["bytes"].as_f64().unwrap(), &want_score["per_byte"], 1e-4, &place);
                for flag in ["boundary_moved", "truncated"] {
                    let got = got.get(flag).and_then(Value::as_bool).unwrap_or(false);
                    assert_eq!(Some(got), want_score[flag].as_bool(), "{place}: {flag}");
                    flags += usize::from(got);
                }
            }
            for (ours, theirs) in
                [("sum", "pick_sum"), ("per_token", "pick_mean"), ("per_byte", "pick_per_byte")]
            {
                assert_eq!(row["choice"][ours], want[theirs], "{} case {i}: {theirs}", r.name);
            }
            assert_eq!(row["label"], want["answer"]);
        }
        // Only the second model's tokenizer merges across the border.
        assert_eq!(flags > 0, r.name == "tinystories-656k", "{}", r.name);
    });
}
