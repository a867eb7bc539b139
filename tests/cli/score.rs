//! `flanrt score`: what it prints and writes, and that nothing but the request decides a request's bits.

use super::support::{Place, assets, lines, model, rows};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;

/// Requests of every kind from real rows: choices with shared contexts, continuations, over-long and empty contexts.
fn requests(assets: &Path, n: usize) -> Vec<Value> {
    let mut out = Vec::new();
    for (i, row) in rows(assets, "sst2", n / 2).iter().enumerate() {
        let context = format!("Review: {}\nIs it good or bad? It is", row["sentence"].as_str().unwrap());
        out.push(json!({"id": format!("s{i}"), "context": context, "options": [" bad", " good"], "label": row["label"]}));
    }
    for (i, row) in rows(assets, "rte", n / 4).iter().enumerate() {
        let (premise, hypothesis) = (row["premise"].as_str().unwrap(), row["hypothesis"].as_str().unwrap());
        let context = format!("{premise}\nTrue or false: {hypothesis} ");
        let label = row["label"].as_u64().map_or(Value::Null, |l| l.into());
        out.push(
            json!({"id": i, "context": context, "options": ["True", "False", "Perhaps, é"], "label": label}),
        );
    }
    // Passages longer than the model's context of 512.
    for (i, row) in rows(assets, "bool_q", n / 8).iter().enumerate() {
        let passage = row["passage"].as_str().unwrap().repeat(2);
        out.push(json!({"id": format!("b{i}"), "context": passage, "options": [" yes", " no"]}));
    }
    for (i, row) in rows(assets, "ag_news", n - out.len()).iter().enumerate() {
        let news = row["description"].as_str().unwrap();
        let cut = news.char_indices().nth(40).map_or(news.len(), |(at, _)| at);
        let context = if i % 9 == 0 { "" } else { &news[..cut] };
        out.push(json!({"id": format!("a{i}"), "context": context, "continuation": &news[cut..]}));
    }
    out
}

/// Scores the requests file `from` and returns the bytes written.
fn score(place: &Place, model: &str, from: &str, extra: &[&str]) -> String {
    let args = ["score", model, "--requests", from, "--out", "rows.jsonl"];
    place.run(&[&args[..], extra].concat()).ok();
    let written = place.read("rows.jsonl");
    assert!(!place.path("rows.jsonl.partial").exists());
    std::fs::remove_file(place.path("rows.jsonl")).unwrap();
    written
}

#[test]
fn a_text_gives_one_json_object_with_its_mean_loss() {
    let Some(assets) = assets() else { return };
    let place = Place::new();
    for name in ["stories260K", "tinystories-656k"] {
        let dir = model(&assets, name);
        let reference: Value =
            serde_json::from_slice(&std::fs::read(Path::new(&dir).join("reference.json")).unwrap()).unwrap();
        for want in reference["texts"].as_array().unwrap() {
            place.write("t.txt", want["text"].as_str().unwrap());
            let got = place.run(&["score", "--model", &dir, "--text", "t.txt", "--json"]).ok().json();
            assert_eq!((&got["tokens"], &got["scored"]), (&want["tokens"], &want["scored"]));
            let (mean, exact) =
                (got["mean_loss"].as_f64().unwrap(), want["mean_loss_float64"].as_f64().unwrap());
            assert!((mean - exact).abs() <= 2e-6 * exact, "{mean} {exact}");
        }
    }
    let plain = place.run(&["score", &model(&assets, "stories260K"), "--text", "t.txt"]).ok();
    assert!(plain.out.contains("mean loss") && plain.out.contains("perplexity"), "{}", plain.out);
}

#[test]
fn rows_are_as_documented() {
    let Some(assets) = assets() else { return };
    let place = Place::new();
    let all = requests(&assets, 40);
    place.write("r.jsonl", lines(&all));
    let dir = model(&assets, "stories260K");
    let done = place.run(&["score", &dir, "--requests", "r.jsonl", "-o", "rows.jsonl", "--json"]).ok();
    let summary = done.json();
    assert_eq!(summary["requests"], 40);
    assert!(summary["truncated"].as_u64().unwrap() > 0);
    let mut right = 0u64;
    let mut labelled = 0u64;
    for (line, request) in place.read("rows.jsonl").lines().zip(&all) {
        let row: Value = serde_json::from_str(line).unwrap();
        assert_eq!(row["id"], request["id"]);
        let check = |scored: &Value, text: &Value| {
            let text = text.as_str().unwrap();
            assert!(scored["logprob"].as_f64().unwrap() <= 0.0 && scored["greedy"].is_boolean());
            assert!(scored["tokens"].as_u64().unwrap() > 0);
            assert_eq!(scored["chars"].as_u64(), Some(text.chars().count() as u64));
            assert_eq!(scored["bytes"].as_u64(), Some(text.len() as u64));
        };
        let Some(options) = request["options"].as_array() else {
            check(&row, &request["continuation"]);
            continue;
        };
        for (scored, text) in row["options"].as_array().unwrap().iter().zip(options) {
            check(scored, text);
        }
        let best = |per: &str| {
            let score = |o: &Value| o["logprob"].as_f64().unwrap() / o[per].as_f64().unwrap_or(1.0);
            let of = row["options"].as_array().unwrap();
            (0..of.len()).rev().max_by(|&a, &b| score(&of[a]).total_cmp(&score(&of[b]))).unwrap()
        };
        for (rule, per) in
            [("sum", "-"), ("per_token", "tokens"), ("per_char", "chars"), ("per_byte", "bytes")]
        {
            assert_eq!(row["choice"][rule], best(per), "{rule} of {row}");
        }
        if let Some(label) = request["label"].as_u64() {
            labelled += 1;
            right += u64::from(row["choice"]["sum"].as_u64() == Some(label));
        }
    }
    assert_eq!(summary["labelled"], labelled);
    let accuracy = &summary["accuracy"]["sum"];
    assert_eq!((&accuracy["right"], &accuracy["of"]), (&json!(right), &json!(labelled)));
    assert!(accuracy["stderr"].as_f64().unwrap() > 0.0);
}

#[test]
fn nothing_but_the_request_decides_its_bits() {
    let Some(assets) = assets() else { return };
    let place = Place::new();
    let dir = model(&assets, "stories260K");
    let all = requests(&assets, 96);
    place.write("r.jsonl", lines(&all));
    let want = score(&place, &dir, "r.jsonl", &[]);
    assert_eq!(want.lines().count(), all.len());
    for size in ["1", "2", "7", "32"] {
        assert_eq!(score(&place, &dir, "r.jsonl", &["--batch-size", size]), want, "batch size {size}");
    }
    for threads in ["1", "2"] {
        assert_eq!(score(&place, &dir, "r.jsonl", &["--threads", threads]), want, "{threads} threads");
    }
    // Every option with its own copy of the context: other batches, the same bits, so the same choices.
    assert_eq!(score(&place, &dir, "r.jsonl", &["--unrolled"]), want, "unrolled");

    // Another order: the same rows in that order.
    let order: Vec<usize> = (0..all.len()).map(|i| i * 35 % all.len()).collect();
    let shuffled: Vec<Value> = order.iter().map(|&i| all[i].clone()).collect();
    place.write("shuffled.jsonl", lines(&shuffled));
    let rows: Vec<&str> = want.lines().collect();
    let expected: String = order.iter().map(|&i| format!("{}\n", rows[i])).collect();
    assert_eq!(score(&place, &dir, "shuffled.jsonl", &["--batch-size", "7"]), expected, "shuffled");

    // Alone.
    for i in [0, 50, 75, 95] {
        place.write("one.jsonl", lines(&all[i..=i]));
        assert_eq!(score(&place, &dir, "one.jsonl", &[]).trim_end(), rows[i], "alone: {i}");
    }
}

#[test]
fn every_boundary_rule_runs_and_is_as_stable() {
    let Some(assets) = assets() else { return };
    let place = Place::new();
    // Its tokenizer merges across the border.
    let dir = model(&assets, "tinystories-656k");
    place.write("r.jsonl", lines(&requests(&assets, 32)));
    let mut all = Vec::new();
    for rule in ["joint", "lm-eval", "separate"] {
        let want = score(&place, &dir, "r.jsonl", &["--boundary", rule]);
        let other = &["--boundary", rule, "--batch-size", "3", "--unrolled", "--threads", "1"];
        assert_eq!(score(&place, &dir, "r.jsonl", other), want, "{rule}");
        assert_eq!(want.contains("boundary_moved"), rule != "separate", "{rule}");
        all.push(want);
    }
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
}

#[test]
fn a_killed_run_continues_to_the_same_bytes() {
    let Some(assets) = assets() else { return };
    let place = Place::new();
    let dir = model(&assets, "stories260K");
    let all: Vec<Value> = rows(&assets, "sst2", 2000)
        .iter()
        .enumerate()
        .map(|(i, r)| json!({"id": i, "context": r["sentence"], "options": [" bad", " good"], "label": r["label"]}))
        .collect();
    place.write("r.jsonl", lines(&all));
    let want = score(&place, &dir, "r.jsonl", &[]);
    let args = ["score", &dir, "--requests", "r.jsonl", "-o", "rows.jsonl", "--batch-size", "1"];
    let partial = place.path("rows.jsonl.partial");
    let written = |n: u64| {
        let partial = &partial;
        move || std::fs::metadata(partial).is_ok_and(|m| m.len() > n)
    };
    let killed = place.signalled(&args, Signal::KILL, written(20_000));
    assert_eq!(killed.code, None);
    assert!(!place.path("rows.jsonl").exists());
    // A line that the kill tore, or a power cut: done again.
    let log = std::fs::read(&partial).unwrap();
    std::fs::write(&partial, &log[..log.len() - 7]).unwrap();
    let stopped = place.signalled(&args, Signal::TERM, written(60_000)).fails(75);
    assert!(stopped.err.contains("continuing after") && stopped.err.contains("fix:"), "{}", stopped.err);
    let done = place.run(&args).ok();
    assert!(done.err.contains("continuing after"), "{}", done.err);
    assert_eq!(place.read("rows.jsonl"), want);
    assert!(!partial.exists());

    // Without a results file there is nothing to continue from.
    let args = ["score", &dir, "--requests", "r.jsonl", "--batch-size", "1", "--progress", "lines"];
    let begun = std::time::Instant::now();
    let ready = || begun.elapsed().as_millis() > 300;
    let stopped = place.signalled(&args, Signal::INT, ready).fails(130);
    assert!(stopped.err.contains("--out"), "{}", stopped.err);
}
