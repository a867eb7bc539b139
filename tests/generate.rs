//! Does it write what it should? Greedy outputs of the shared models against transformers' (tests/fixtures/generate), and the
//! same for any batch size, with and without what prompts share.

use flanrt::cpu::Cpu;
use flanrt::ops::Device;
use flanrt::score::{Engine, GenerateOptions, Hooks, Output, Stopped, encode_prompt, generate};
use flanrt::tensor::DType;
use flanrt::text::Tokenizer;
use flanrt::weights::Source;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

const MODELS: [&str; 2] = ["stories260K", "tinystories-656k"];

fn assets() -> Option<PathBuf> {
    let dir = std::env::var_os("FLANRT_TEST_ASSETS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    if dir.join("models").is_dir() {
        return Some(dir);
    }
    println!("skipped: no test assets in {} (set FLANRT_TEST_ASSETS)", dir.display());
    None
}

/// A loaded model, and a way to run it.
struct Rig<'d> {
    engine: Engine<'d>,
    tokenizer: Tokenizer,
}

impl<'d> Rig<'d> {
    fn new(device: &'d dyn Device, assets: &Path, name: &str, dtype: DType) -> Self {
        let source = Source::find(assets.join("models").join(name).to_str().unwrap()).unwrap();
        let config = source.config().unwrap();
        let file = source.checkpoint().unwrap();
        let engine = Engine::load(device, &config, &file, dtype, config.context).unwrap().0;
        Self { engine, tokenizer: Tokenizer::load(&source).unwrap() }
    }

    fn run(&mut self, prompts: &[Vec<u32>], options: GenerateOptions) -> Vec<Output> {
        let options = GenerateOptions {
            stop_ids: self.tokenizer.stop_ids().to_vec(),
            prefix: self.tokenizer.prefix().to_vec(),
            ..options
        };
        let go = AtomicBool::new(false);
        let mut hooks = Hooks { progress: &mut |_, _| {}, say: &mut |_| {}, interrupted: &go };
        generate(prompts, &self.tokenizer, &mut self.engine, &options, &mut hooks).unwrap()
    }
}

/// Rows of a fixture: prompt, its ids, the output.
fn fixture(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/generate");
    serde_json::from_slice(&std::fs::read(path.join(format!("{name}.json"))).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn greedy_outputs_are_those_of_transformers() {
    let Some(assets) = assets() else { return };
    let cpu = Cpu::new(2).unwrap();
    for name in MODELS {
        let mut rig = Rig::new(&cpu, &assets, name, DType::F32);
        let rows = fixture(name);
        assert_eq!(rows.len(), 50);
        let prompts: Vec<_> = rows.iter().map(|r| ids(&r["ids"])).collect();
        for (row, prompt) in rows.iter().zip(&prompts) {
            assert_eq!(&encode_prompt(&rig.tokenizer, row["prompt"].as_str().unwrap()).unwrap(), prompt);
        }
        let got = rig.run(&prompts, GenerateOptions { max_new_tokens: 64, ..GenerateOptions::default() });
        let mut wrong = Vec::new();
        for (i, (got, row)) in got.iter().zip(&rows).enumerate() {
            let stopped = row["stopped"].as_bool().unwrap();
            let same = got.ids == ids(&row["output"]) && (got.stopped == Stopped::StopId) == stopped;
            if !same || got.truncated {
                wrong.push(format!("prompt {i}, smallest gap {}: {got:?}", row["gap"]));
            }
        }
        assert!(wrong.is_empty(), "{name}: {} of 50 differ\n{}", wrong.len(), wrong.join("\n"));
    }
}

#[test]
fn outputs_depend_on_the_prompt_alone() {
    let Some(assets) = assets() else { return };
    for (name, dtype) in [(MODELS[0], DType::BF16), (MODELS[1], DType::F32)] {
        let cpus = [1, 2].map(|threads| Cpu::new(threads).unwrap());
        let mut rig = Rig::new(&cpus[1], &assets, name, dtype);
        // Few-shot prompts, which share their beginning, and the fixture's.
        let shots = "Q: Who is the dog? A: Tom. Q: Who is the girl? A: Lily. ";
        let text = |i: usize| format!("{shots}Q: Who is number {}? A:", i * 7);
        let mut prompts: Vec<_> = (0..12).map(|i| encode_prompt(&rig.tokenizer, &text(i)).unwrap()).collect();
        prompts.extend(fixture(name).iter().take(20).map(|r| ids(&r["ids"])));
        let options = || GenerateOptions {
            max_new_tokens: 30,
            stop: vec!["She ".into(), "\n\n".into()],
            ..GenerateOptions::default()
        };
        let want = rig.run(&prompts, options());
        assert!(want.iter().any(|o| o.stopped == Stopped::StopText));
        assert!(want.iter().all(|o| !o.text.contains("She ")));
        for batch_size in [1, 3, 7] {
            let how =
                GenerateOptions { batch_size: Some(batch_size), unrolled: batch_size == 7, ..options() };
            assert_eq!(rig.run(&prompts, how), want, "{name}, {batch_size} at a time");
        }
        let mut one = Rig::new(&cpus[0], &assets, name, dtype);
        for i in [0, 5, 17] {
            assert_eq!(one.run(&prompts[i..=i], options()), want[i..=i], "{name}, prompt {i} alone");
        }
    }
}

#[test]
fn long_prompts_and_long_outputs_end_at_the_context() {
    let Some(assets) = assets() else { return };
    let cpu = Cpu::new(2).unwrap();
    let mut rig = Rig::new(&cpu, &assets, MODELS[0], DType::F32);
    let long = encode_prompt(&rig.tokenizer, &"Lily had a big red ball. ".repeat(60)).unwrap();
    assert!(long.len() > 512);
    let how = |max_new_tokens| GenerateOptions { max_new_tokens, ..GenerateOptions::default() };
    let got = rig.run(&[long.clone(), long[..20].to_vec()], how(40));
    assert_eq!(got.iter().map(|o| o.truncated).collect::<Vec<_>>(), [true, false]);
    // The cut prompt by hand: the prefix and its last tokens.
    let by_hand = [&long[..1], &long[long.len() - (512 - 40 - 1)..]].concat();
    let again = rig.run(&[by_hand], how(40));
    assert_eq!((&again[0].ids, again[0].truncated), (&got[0].ids, false));

    let got = rig.run(&[long[..400].to_vec()], how(1000)).remove(0);
    assert!(got.truncated);
    match got.stopped {
        Stopped::Context => assert_eq!(got.ids.len(), 256),
        Stopped::StopId => assert!(got.ids.len() < 256),
        other => panic!("{other:?}"),
    }
}
