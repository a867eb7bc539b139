//! `flanrt generate`: what it prints and writes, and what it refuses.

use super::support::{Place, assets, lines, model, tiny_model};
use serde_json::{Value, json};

fn prompts(n: usize) -> Vec<Value> {
    let text = |i: usize| format!("answer in one word, please: who is the {}?", "big dog ".repeat(i % 5));
    (0..n).map(|i| json!({"id": format!("p{i}"), "prompt": text(i), "more": i})).collect()
}

#[test]
fn a_prompt_gives_its_continuation() {
    let place = Place::new();
    tiny_model(&place.path("model"));
    let base = ["generate", "model", "--prompt", "once upon a time", "--max-new-tokens", "12"];
    let row = place.run(&[&base[..], &["--json"]].concat()).ok().json();
    assert_eq!((&row["id"], row["tokens"].as_u64().unwrap() <= 12), (&json!(1), true));
    let plain = place.run(&base).ok();
    assert_eq!(plain.out.trim_end(), row["text"].as_str().unwrap().trim_end());
    assert!(plain.err.contains("model") && plain.err.contains("tokens/s"), "{}", plain.err);
    // Cut before a letter that is in it.
    let letter = row["text"].as_str().unwrap().chars().nth(2).unwrap().to_string();
    let cut = place.run(&[&base[..], &["--json", "--stop", &letter]].concat()).ok().json();
    assert_eq!(cut["stopped"], "stop_text");
    assert!(!cut["text"].as_str().unwrap().contains(&letter));
    assert!(row["text"].as_str().unwrap().starts_with(cut["text"].as_str().unwrap()));
    place.run(&["generate", "model", "--prompt", "", "--max-new-tokens", "3"]).ok();
}

#[test]
fn rows_are_as_documented_and_depend_on_their_prompt_alone() {
    let place = Place::new();
    let dir = match assets() {
        Some(assets) => model(&assets, "stories260K"),
        None => {
            tiny_model(&place.path("model"));
            "model".to_string()
        }
    };
    let all = prompts(23);
    place.write("p.jsonl", lines(&all));
    let run = |from: &str, extra: &[&str]| {
        let args = ["generate", &dir, "--prompts", from, "--out", "o.jsonl", "--max-new-tokens", "20"];
        let done = place.run(&[&args[..], extra].concat()).ok();
        (place.read("o.jsonl"), done)
    };
    let (want, done) = run("p.jsonl", &["--json"]);
    let summary = done.json();
    assert_eq!(summary["prompts"], 23);
    let stopped = summary["stopped"].as_object().unwrap().values();
    assert_eq!(stopped.map(|n| n.as_u64().unwrap()).sum::<u64>(), 23);
    assert_eq!(want.lines().count(), 23);
    for (line, prompt) in want.lines().zip(&all) {
        let row: Value = serde_json::from_str(line).unwrap();
        assert_eq!(row["id"], prompt["id"]);
        assert!(row["text"].is_string() && row["tokens"].as_u64().unwrap() <= 20, "{row}");
        assert!(["stop_id", "length"].contains(&row["stopped"].as_str().unwrap()), "{row}");
    }
    for extra in [["--batch-size", "1"], ["--batch-size", "4"], ["--threads", "1"]] {
        assert_eq!(run("p.jsonl", &extra).0, want, "{extra:?}");
    }
    place.write("one.jsonl", lines(&all[7..8]));
    assert_eq!(run("one.jsonl", &[]).0.trim_end(), want.lines().nth(7).unwrap());
    let printed = place.run(&["generate", &dir, "--prompts", "p.jsonl", "--max-new-tokens", "20"]).ok();
    assert_eq!(printed.out, want);
}

#[test]
fn what_cannot_work_is_refused() {
    let place = Place::new();
    tiny_model(&place.path("model"));
    place.write("p.jsonl", lines(&prompts(2)));
    place.write("bad.jsonl", "{\"id\": 1}\n");
    place.write("notes.txt", "mine");
    let one = ["--prompt", "a"];
    let file = ["--prompts", "p.jsonl"];
    for (what, extra, code, says) in [
        (&one, &["--max-new-tokens", "0"][..], 2, "no new tokens"),
        (&one, &["--batch-size", "0"], 2, "batch of 0"),
        (&one, &["--stop", ""], 2, "empty stop"),
        (&one, &["--max-length", "100000"], 2, "longer than the model's context"),
        (&one, &["--max-length", "2"], 2, "a window of 2"),
        (&one, &["--prompts", "p.jsonl"], 2, "cannot be used with"),
        (&file, &["--out", "p.jsonl"], 2, "is the prompts file"),
        (&file, &["--out", "notes.txt"], 7, "does not hold results"),
        (&["--prompts", "bad.jsonl"], &[], 3, "bad.jsonl:1: missing field"),
        (&["--prompts", "none.jsonl"], &[], 3, "none.jsonl"),
    ] {
        let run = place.run(&[&["generate", "model"], &what[..], extra].concat()).fails(code);
        assert!(run.err.contains(says), "{extra:?}: {}", run.err);
    }
    assert_eq!(place.read("notes.txt"), "mine");
}
