//! The program on a GPU that is not there: `--device cuda` with the emulated driver in front of the library search path. The
//! binary, its kernels and its launches are those of a real run.

use super::support::{Place, Run, assets, lines, model, rows, tiny_model};
use flanrt_emulator::{Mode, available, folder};
use serde_json::{Value, json};
use std::process::Command;

/// Whether there is an emulated driver here, with a line that says why not.
fn emulated() -> bool {
    match available() {
        Ok(()) => true,
        Err(why) => {
            println!("skipped: no emulated CUDA driver: {why}");
            false
        }
    }
}

/// The program with the emulated driver.
fn command<S: AsRef<str>>(place: &Place, args: &[S]) -> Command {
    let mut command = place.command(args);
    command.env("LD_LIBRARY_PATH", folder(Mode::Plain));
    command
}

fn run<S: AsRef<str>>(place: &Place, args: &[S]) -> Run {
    Run::of(command(place, args))
}

/// A few short requests from real rows, choices and continuations.
fn requests(place: &Place, assets: &std::path::Path) {
    let mut out = Vec::new();
    for (i, row) in rows(assets, "sst2", 6).iter().enumerate() {
        let context = format!("Review: {}\nIt is", row["sentence"].as_str().unwrap());
        out.push(json!({"id": format!("s{i}"), "context": context, "options": [" bad", " good"], "label": row["label"]}));
    }
    for (i, row) in rows(assets, "ag_news", 3).iter().enumerate() {
        let text = row["description"].as_str().unwrap();
        let cut = text.char_indices().nth(30).map_or(text.len(), |(at, _)| at);
        out.push(json!({"id": format!("a{i}"), "context": &text[..cut], "continuation": &text[cut..]}));
    }
    place.write("requests.jsonl", lines(&out));
}

/// Every log-probability of a result file, in order.
fn logprobs(text: &str) -> Vec<f64> {
    fn walk(value: &Value, out: &mut Vec<f64>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value.as_f64() {
                        Some(x) if key == "logprob" => out.push(x),
                        _ => walk(value, out),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, out)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    text.lines().for_each(|line| walk(&serde_json::from_str(line).unwrap(), &mut out));
    out
}

#[test]
fn scores_are_those_of_the_cpu_for_any_batch_size() {
    let (true, Some(assets)) = (emulated(), assets()) else { return };
    let place = Place::new();
    requests(&place, &assets);
    let stories = model(&assets, "stories260K");
    let score = |device: &str, dtype: &str, extra: &[&str]| {
        let args = ["score", &stories, "--requests", "requests.jsonl", "--out", "rows.jsonl"];
        let args = [&args[..], &["--device", device, "--dtype", dtype], extra].concat();
        run(&place, &args).ok();
        let rows = place.read("rows.jsonl");
        std::fs::remove_file(place.path("rows.jsonl")).unwrap();
        rows
    };
    // bf16: activations are rounded to 8 bits at other places on the two backends; sums of up to two hundred tokens.
    for (dtype, absolute, relative) in [("f32", 1e-4, 0.0), ("bf16", 0.1, 0.01)] {
        let (cpu, cuda) = (score("cpu", dtype, &[]), score("cuda", dtype, &[]));
        let (cpu, gpu) = (logprobs(&cpu), logprobs(&cuda));
        assert!(cpu.len() == gpu.len() && cpu.len() >= 15, "{} and {}", cpu.len(), gpu.len());
        for (c, g) in cpu.iter().zip(&gpu) {
            let tolerance = absolute + relative * c.abs();
            assert!((c - g).abs() < tolerance, "{dtype}: {g} on the GPU, {c} on the CPU");
        }
        assert!(cuda == score("cuda", dtype, &["--batch-size", "1"]), "{dtype}: batch size");
    }
}

#[test]
fn texts_are_those_of_the_cpu_for_any_batch_size() {
    let (true, Some(assets)) = (emulated(), assets()) else { return };
    let place = Place::new();
    let shots = "Lily had a red ball. Tom had a big dog. They went to the park. ";
    let mut prompts: Vec<Value> =
        ["One day,", "The dog", "Then"].iter().map(|p| json!({"prompt": format!("{shots}{p}")})).collect();
    prompts.push(json!({"prompt": "Once upon a time"}));
    place.write("p.jsonl", lines(&prompts));
    let stories = model(&assets, "stories260K");
    let generate = |device: &str, dtype: &str, extra: &[&str]| {
        let args = ["generate", &stories, "--prompts", "p.jsonl", "--max-new-tokens", "6"];
        run(&place, &[&args[..], &["--device", device, "--dtype", dtype], extra].concat()).ok().out
    };
    assert_eq!(generate("cuda", "f32", &[]), generate("cpu", "f32", &[]));
    let texts = generate("cuda", "bf16", &[]);
    assert_eq!(texts, generate("cuda", "bf16", &["--batch-size", "1"]), "batch size");
}

#[test]
fn training_follows_the_cpu_and_repeats_to_the_bit() {
    let (true, Some(assets)) = (emulated(), assets()) else { return };
    let place = Place::new();
    let short = |r: &Value| r["sentence"].as_str().is_some_and(|s| s.len() < 60);
    let sst2: Vec<Value> = rows(&assets, "sst2", 400).into_iter().filter(short).take(24).collect();
    place.write("sst2.jsonl", lines(&sst2));
    let stories = model(&assets, "stories260K");
    let tune = |device: &str, dtype: &str, out: &str| -> (Vec<f64>, String) {
        let args = [
            "finetune",
            &stories,
            "sst2.jsonl",
            "--map",
            "input=Review: {{sentence}}\nGood or bad?",
            "--map",
            "target={{ ['bad', 'good'][label] }}",
            "--steps",
            "4",
            "--batch-size",
            "6",
            "--micro-batch",
            "128",
            "--set",
            "data.seq_len=64",
            "--lr",
            "1e-3",
            "--log-every",
            "1",
            "--device",
            device,
            "--dtype",
            dtype,
            "--out",
            out,
        ];
        run(&place, &args).ok();
        let metrics = place.read(&format!("{out}/metrics.jsonl"));
        let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
        let hash = place.json(&format!("{out}/run.json"))["weights_hash"].as_str().unwrap().to_owned();
        (metrics.lines().filter_map(loss).collect(), hash)
    };
    for (dtype, tolerance) in [("f32", 1e-4), ("bf16", 2e-2)] {
        let (cpu, _) = tune("cpu", dtype, &format!("cpu-{dtype}"));
        let (gpu, hash) = tune("cuda", dtype, &format!("cuda-{dtype}"));
        assert_eq!((cpu.len(), gpu.len()), (4, 4));
        for (c, g) in cpu.iter().zip(&gpu) {
            assert!((c - g).abs() < tolerance * c, "{dtype}: loss {g} on the GPU, {c} on the CPU");
        }
        assert!(gpu[3] < gpu[0], "{dtype}: it does not learn: {gpu:?}");
        assert_eq!(hash, tune("cuda", dtype, &format!("again-{dtype}")).1, "{dtype}: two runs");
    }
}

#[test]
fn a_run_too_large_for_the_gpu_says_so() {
    if !emulated() {
        return;
    }
    let place = Place::new();
    tiny_model(&place.path("m"));
    place.write("t.jsonl", "{\"text\": \"abc def\"}\n");
    let args = ["finetune", "m", "t.jsonl", "--steps", "1", "--device", "cuda", "--micro-batch", "400000"];
    let mut command = command(&place, &args);
    command.env("EMU_MEM", "100000000");
    let run = Run::of(command).fails(5);
    assert!(run.err.contains("MiB") && run.err.contains("--micro-batch"), "{}", run.err);
}

#[test]
fn without_a_driver_the_cpu_is_used_and_cuda_says_why_not() {
    let place = Place::new();
    tiny_model(&place.path("m"));
    place.write("t.txt", "abc def");
    let score = |device: &str| {
        let mut command = place.command(&["score", "m", "--text", "t.txt", "--device", device]);
        // No GPU is visible, even where there is one.
        command.env("CUDA_VISIBLE_DEVICES", "");
        Run::of(command)
    };
    score("auto").ok();
    let run = score("cuda").fails(8);
    assert!(run.err.contains("--device cpu"), "{}", run.err);
}
