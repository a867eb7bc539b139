//! `flanrt finetune` and `flanrt pretrain` on real rows: what a run leaves behind, that it learns, and that killing, stopping,
//! threads and recomputation change nothing about the weights.

use super::support::{Place, Run, assets, lines, model, rows, text};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;

/// Puts a cut of sst2 and rte and a configuration that mixes both into `place`; `None` without assets.
fn small_run(place: &Place) -> Option<String> {
    let assets = assets()?;
    place.write("sst2.jsonl", lines(&rows(&assets, "sst2", 120)));
    // Short ones, so that none is over the model's context of 512 characters or so.
    let short = |r: &Value| r["premise"].as_str().is_some_and(|p| p.len() < 200);
    let rte: Vec<Value> = rows(&assets, "rte", 300).into_iter().filter(short).take(60).collect();
    place.write("rte.jsonl", lines(&rte));
    let config = format!(
        r#"
[model]
path = '{}'
[[mix]]
name = "sst2"
paths = ["sst2.jsonl"]
map = {{ input = "Review: {{{{sentence}}}}\nGood or bad?", target = "{{{{ ['bad', 'good'][label] }}}}" }}
[[mix]]
name = "rte"
paths = ["rte.jsonl"]
map = {{ input = '{{{{premise}}}}\nTrue or false: {{{{hypothesis}}}}', target = "{{{{ ['True', 'False'][label] }}}}" }}
[train]
steps = 12
batch_size = 8
micro_batch = 1024
lr = 2e-3
log_every = 1
[data]
val_split = 0.1
[output]
save_every = 4
"#,
        model(&assets, "stories260K")
    );
    place.write("run.toml", config);
    Some(model(&assets, "stories260K"))
}

const TUNE: [&str; 4] = ["finetune", "-c", "run.toml", "--out"];

fn tune(place: &Place, out: &str, extra: &[&str]) -> Run {
    place.run(&[&TUNE[..], &[out], extra].concat())
}

/// The weights hash in the run's own description.
fn hash(place: &Place, run: &str) -> String {
    let run = place.json(&format!("{run}/run.json"));
    assert_eq!((&run["status"], &run["exit_code"]), (&"finished".into(), &0.into()), "{run}");
    run["weights_hash"].as_str().unwrap().to_owned()
}

/// The values of `key` in the metrics, by step.
fn metrics(place: &Place, run: &str, key: &str) -> Vec<(u64, f64)> {
    let value = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        Some((record["step"].as_u64().unwrap(), record[key].as_f64()?))
    };
    place.read(&format!("{run}/metrics.jsonl")).lines().filter_map(value).collect()
}

fn mean(values: &[(u64, f64)]) -> f64 {
    values.iter().map(|(_, x)| x).sum::<f64>() / values.len() as f64
}

/// Temporary files of the program below `dir`.
fn leftovers(dir: &Path) -> Vec<String> {
    let all = super::support::snapshot(dir);
    all.into_keys().filter(|name| name.contains(".flanrt-tmp") || name.contains(".flanrt-old")).collect()
}

#[test]
fn a_run_learns_and_leaves_everything_promised() {
    let place = Place::new();
    let Some(base) = small_run(&place) else { return };
    let done = tune(&place, "run", &["--json"]).ok();
    let result = done.json();
    let hash = hash(&place, "run");
    assert_eq!((&result["weights_hash"], &result["steps"]), (&hash.as_str().into(), &12.into()));
    assert!(done.err.contains("sst2  {input, target}  120 rows"), "{}", done.err);

    for file in [
        "run.json",
        "config.toml",
        "data/manifest.json",
        "data/dropped.jsonl",
        "metrics.jsonl",
        "log.jsonl",
        "checkpoints/latest",
        "checkpoints/step-000012/model.safetensors",
        "checkpoints/step-000012/optimizer.safetensors",
        "checkpoints/step-000012/state.json",
        "checkpoints/step-000012/MANIFEST.json",
        "model/config.json",
        "model/generation_config.json",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "model/model.safetensors",
        "model/MANIFEST.json",
    ] {
        assert!(place.path("run").join(file).is_file(), "{file} is missing");
    }
    let events = std::fs::read_dir(place.path("run")).unwrap().any(|entry| {
        let entry = entry.unwrap();
        entry.file_name().to_string_lossy().contains("tfevents") && entry.metadata().unwrap().len() > 500
    });
    assert!(events, "no TensorBoard events");
    assert!(!place.path("run/checkpoints/step-000004").exists(), "keep is 2");
    assert_eq!(leftovers(place.dir.path()), [""; 0]);

    let loss = metrics(&place, "run", "loss");
    assert_eq!(loss.iter().map(|(step, _)| *step).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
    assert!(mean(&loss[9..]) < 0.7 * mean(&loss[..3]), "{loss:?}");
    let validation = metrics(&place, "run", "validation_loss");
    assert_eq!((validation[0].0, validation[1].0, validation.len()), (0, 12, 2));
    assert!(validation[1].1 < 0.7 * validation[0].1, "{validation:?}");
    assert!(done.err.contains("validation loss"), "{}", done.err);
    assert_eq!(result["validation_loss"][1].as_f64(), Some(validation[1].1));

    // The saved model is whole and, on what it was tuned for, better than its base.
    place.run(&["model", "verify", "run/model"]).ok();
    let row = |r: &Value| {
        let context = format!("Review: {}\nGood or bad?\n", r["sentence"].as_str().unwrap());
        serde_json::json!({"context": context, "options": ["bad", "good"], "label": r["label"]})
    };
    let assets = assets().unwrap();
    place.write("r.jsonl", lines(&rows(&assets, "sst2", 300)[200..].iter().map(row).collect::<Vec<_>>()));
    let logprob = |model: &str, out: &str| {
        let summary = place.run(&["score", model, "--requests", "r.jsonl", "-o", out, "--json"]).ok().json();
        let of = |line: &str| {
            let row: Value = serde_json::from_str(line).unwrap();
            row["options"][0]["logprob"].as_f64().unwrap().max(row["options"][1]["logprob"].as_f64().unwrap())
        };
        let rows = place.read(out);
        assert_eq!(summary["requests"].as_u64(), Some(rows.lines().count() as u64));
        rows.lines().map(of).sum::<f64>() / rows.lines().count() as f64
    };
    let (before, after) = (logprob(&base, "before.jsonl"), logprob("run/model", "after.jsonl"));
    assert!(after.is_finite() && after > before + 1.0, "{before} {after}");
}

#[test]
fn killed_stopped_and_recomputed_runs_end_with_the_same_weights() {
    let place = Place::new();
    if small_run(&place).is_none() {
        return;
    }
    tune(&place, "whole", &[]).ok();
    let want = hash(&place, "whole");
    let losses = metrics(&place, "whole", "loss");

    for (out, extra) in [("blocks", &["--recompute", "block"][..]), ("single", &["--threads", "1"])] {
        tune(&place, out, extra).ok();
        assert_eq!(hash(&place, out), want, "{extra:?}");
    }

    let same = |out: &str| {
        assert_eq!(hash(&place, out), want, "{out}");
        assert_eq!(metrics(&place, out, "loss"), losses, "{out}");
        assert_eq!(leftovers(&place.path(out)), [""; 0]);
    };
    // kill -9 after the first checkpoint, and before any.
    let file = |name: &'static str| {
        let place = &place;
        move || place.path(name).exists()
    };
    let args = [&TUNE[..], &["killed"]].concat();
    let killed = place.signalled(&args, Signal::KILL, file("killed/checkpoints/step-000004/state.json"));
    assert_eq!(killed.code, None);
    assert!(!place.path("killed/model").exists());
    let resumed = place.run(&["finetune", "--resume", "killed"]).ok();
    assert!(resumed.err.contains("resume  from step"), "{}", resumed.err);
    same("killed");
    let args = [&TUNE[..], &["early"]].concat();
    let started = || std::fs::metadata(place.path("early/metrics.jsonl")).is_ok_and(|m| m.len() > 100);
    place.signalled(&args, Signal::KILL, started);
    place.run(&["finetune", "--resume", "early"]).ok();
    same("early");

    // SIGTERM: a checkpoint of the step it was at, and exit 75.
    let args = [&TUNE[..], &["stopped"]].concat();
    let started = || std::fs::metadata(place.path("stopped/metrics.jsonl")).is_ok_and(|m| m.len() > 300);
    let stopped = place.signalled(&args, Signal::TERM, started).fails(75);
    assert!(stopped.err.contains("checkpoint saved") && stopped.err.contains("--resume stopped"));
    let run = place.json("stopped/run.json");
    assert_eq!((&run["status"], &run["exit_code"]), (&"stopped".into(), &75.into()));
    assert!(place.path("stopped/checkpoints/latest").exists());
    place.run(&["finetune", "--resume", "stopped"]).ok();
    same("stopped");
    assert_eq!(place.json("stopped/run.json")["resumes"].as_array().unwrap().len(), 1);

    // A run that is done: nothing to do, nothing changed.
    // A run that is done has nothing to continue.
    let done = place.run(&["finetune", "--resume", "stopped"]).fails(2);
    assert!(done.err.contains("this run is finished"), "{}", done.err);
    same("stopped");

    // Other data under a run's feet are refused.
    let args = [&TUNE[..], &["changed"]].concat();
    place.signalled(&args, Signal::KILL, file("changed/checkpoints/step-000004/state.json"));
    place.write(
        "sst2.jsonl",
        "{\"sentence\": \"other\", \"label\": 0}\n{\"sentence\": \"rows\", \"label\": 1}\n",
    );
    let refused = place.run(&["finetune", "--resume", "changed"]).fails(2);
    assert!(refused.err.contains("data differ"), "{}", refused.err);
}

#[test]
fn sixteen_bit_storage_trains_and_saves() {
    let place = Place::new();
    if small_run(&place).is_none() {
        return;
    }
    place.write(
        "t.txt",
        "Once upon a time, there was a little girl named Lily. She loved to play in the park.",
    );
    for (dtype, name) in [("bf16", "bfloat16"), ("f16", "float16")] {
        let args = ["--dtype", dtype, "--steps", "6", "--save-every", "3"];
        tune(&place, dtype, &args).ok();
        let loss = metrics(&place, dtype, "loss");
        assert!(loss.iter().all(|(_, x)| x.is_finite()) && mean(&loss[4..]) < mean(&loss[..2]), "{loss:?}");
        let saved = place.json(&format!("{dtype}/model/config.json"));
        assert_eq!(saved["dtype"].as_str().or(saved["torch_dtype"].as_str()), Some(name));
        let size = std::fs::metadata(place.path(&format!("{dtype}/model/model.safetensors"))).unwrap().len();
        assert!(size < 600_000, "{dtype}: {size} bytes");
        let model = text(&place.path(&format!("{dtype}/model")));
        let score = place.run(&["score", &model, "--text", "t.txt", "--dtype", dtype, "--json"]).ok().json();
        assert!((0.2..4.0).contains(&score["mean_loss"].as_f64().unwrap()), "{dtype}: {score}");
    }
}

#[test]
fn every_method_resumes_to_the_bit_and_remainders_are_masters() {
    let place = Place::new();
    if small_run(&place).is_none() {
        return;
    }
    let methods: [(&str, &str, &[&str]); 6] = [
        ("f32", "bf16", &["master=f32"]),
        ("remainder", "bf16", &["master=remainder"]),
        ("storage", "bf16", &["master=remainder", "gradients=storage"]),
        ("bf16", "bf16", &["master=none", "moments=bf16"]),
        ("factored", "f32", &["optimizer=adafactor", "relative_lr=true", "lr=0.02"]),
        ("factored16", "bf16", &["optimizer=adafactor", "master=none"]),
    ];
    for (name, dtype, settings) in methods {
        let settings: Vec<String> = settings.iter().map(|s| format!("train.{s}")).collect();
        let mut extra = vec!["--dtype", dtype];
        settings.iter().for_each(|s| extra.extend(["--set", s]));
        tune(&place, name, &extra).ok();
        let want = hash(&place, name);
        let loss = metrics(&place, name, "loss");
        assert!(mean(&loss[9..]) < 0.9 * mean(&loss[..3]), "{name}: {loss:?}");
        let killed = format!("{name}-killed");
        let args = [&TUNE[..], &[&killed], &extra].concat();
        let saved = place.path(&killed).join("checkpoints/step-000004/state.json");
        place.signalled(&args, Signal::KILL, || saved.exists());
        place.run(&["finetune", "--resume", &killed]).ok();
        assert_eq!(hash(&place, &killed), want, "{name}");
        assert_eq!(metrics(&place, &killed, "loss"), loss, "{name}");
    }
    assert_eq!(hash(&place, "f32"), hash(&place, "remainder"));
    assert_eq!(metrics(&place, "f32", "loss"), metrics(&place, "remainder", "loss"));
    let saved = |run: &str| std::fs::read(place.path(run).join("model/model.safetensors")).unwrap();
    assert!(saved("f32") == saved("remainder"), "saved weights");

    let size = |run: &str, file: &str| {
        std::fs::metadata(place.path(run).join("checkpoints/step-000012").join(file)).unwrap().len()
    };
    assert_eq!(size("f32", "model.safetensors"), size("remainder", "model.safetensors"));
    let half = |small: &str, file: &str| 2 * size(small, file) < size("f32", file) + 10_000;
    assert!(half("bf16", "model.safetensors") && half("bf16", "optimizer.safetensors"));
    assert!(size("factored", "optimizer.safetensors") * 5 < size("f32", "optimizer.safetensors"));

    let refused = tune(&place, "none", &["--dtype", "f32", "--set", "train.master=none"]).fails(2);
    assert!(refused.err.contains("is for bf16 weights") && !place.path("none").exists(), "{}", refused.err);
}

#[test]
fn flags_alone_train_on_all_tokens_and_stop_in_time() {
    let Some(assets) = assets() else { return };
    let place = Place::new();
    place.write("train.jsonl", lines(&rows(&assets, "sst2", 60)));
    place.write("val.jsonl", lines(&rows(&assets, "sst2", 80)[60..]));
    let base = model(&assets, "stories260K");
    let args = [
        &["finetune", &base, "train.jsonl", "--map", "input=Review: {{sentence}}", "--val", "val.jsonl"][..],
        &["--map", "target={{ ['bad', 'good'][label] }}", "--batch-size", "4", "--micro-batch", "512"],
        &["--lr", "1e-3", "--log-every", "1", "--eval-every", "2"],
    ]
    .concat();
    let response = place.run(&[&args[..], &["--steps", "2", "--out", "response"]].concat()).ok();
    let all = place.run(&[&args[..], &["--steps", "2", "--out", "all", "--loss", "all"]].concat()).ok();
    assert!(response.err.contains("step 2: validation loss"), "{}", response.err);
    let trained = |run: &Run| {
        let line = run.err.lines().find(|l| l.contains("of them trained")).unwrap().to_owned();
        line.split("tokens").nth(1).unwrap().split('%').next().unwrap().trim().parse::<f64>().unwrap()
    };
    assert!(trained(&response) < 30.0 && trained(&all) > 90.0, "{}\n{}", response.err, all.err);
    assert_eq!(metrics(&place, "all", "targets").len(), 2);

    // A short limit: exit 75 with a checkpoint that continues.
    let begun = std::time::Instant::now();
    let long = [&args[..], &["--steps", "100000", "--max-time", "1s", "--out", "timed"]].concat();
    let stopped = place.run(&long).fails(75);
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    assert!(stopped.err.contains("--resume timed"), "{}", stopped.err);
    let at = |place: &Place| metrics(place, "timed", "loss").last().map_or(0, |(step, _)| *step);
    let first = at(&place);
    place.run(&["finetune", "--resume", "timed", "--max-time", "1s"]).fails(75);
    assert!(first > 0 && at(&place) > first);
}

#[test]
fn a_new_model_grows_from_plain_text_with_its_own_tokenizer() {
    let place = Place::new();
    std::fs::create_dir(place.path("new")).unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 24, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 999,
        "max_position_embeddings": 64, "tie_word_embeddings": true
    });
    place.write("new/config.json", config.to_string());
    let story = "The cat sat on the mat. The dog saw the cat, and the cat saw the dog. They ran and ran.\n\n";
    place.write("text.txt", story.repeat(60));
    let args = [
        &["pretrain", "new", "text.txt", "--vocab-size", "300", "--seq-len", "32", "--batch-size", "8"][..],
        &["--lr", "1e-2", "--log-every", "1", "--save-every", "5", "--out", "run"],
    ]
    .concat();
    place.run(&[&args[..], &["--steps", "20"]].concat()).ok();
    let loss = metrics(&place, "run", "loss");
    assert!(loss[0].1 > 5.0 && loss[19].1 < 0.7 * loss[0].1, "{loss:?}");
    let saved = place.json("run/model/config.json");
    assert_eq!(
        saved["vocab_size"],
        place.run(&["model", "info", "run/model", "--json"]).ok().json()["vocab"]
    );
    place.write("t.txt", "The cat sat on the mat.");
    let score = place.run(&["score", "run/model", "--text", "t.txt", "--json"]).ok().json();
    assert!(score["mean_loss"].as_f64().unwrap() < 5.0, "{score}");

    // Killed and resumed, with the tokenizer that the run made for itself.
    let want = hash(&place, "run");
    let other: Vec<&str> = args.iter().map(|a| if *a == "run" { "killed" } else { a }).collect();
    let ready = || place.path("killed/checkpoints/step-000005").exists();
    let killed = place.signalled(&[&other[..], &["--steps", "20"]].concat(), Signal::KILL, ready);
    assert_eq!(killed.code, None);
    place.run(&["pretrain", "--resume", "killed"]).ok();
    assert_eq!(hash(&place, "killed"), want);
}
