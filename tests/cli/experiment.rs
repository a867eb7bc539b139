//! Experiments, and the run without arguments, cut short: the embedded model, few steps, few rows.

use super::support::Place;
use serde_json::Value;

/// A self-contained page: nothing in it is fetched.
fn page(place: &Place, name: &str) -> String {
    let html = place.read(name);
    assert!(
        html.starts_with("<!doctype html>") && html.contains("<svg") && html.contains("prefers-color-scheme")
    );
    for outside in ["http://", "https://", "<script src", "rel=\"stylesheet", "@import", "url("] {
        let found = html.replace("http://www.w3.org/2000/svg", "").replace("url(#", "");
        assert!(!found.contains(outside), "{name} refers to {outside}");
    }
    html
}

fn picture(place: &Place, name: &str) {
    let bytes = std::fs::read(place.path(name)).unwrap();
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.len() > 10_000, "{name}: {} bytes", bytes.len());
}

#[test]
fn the_run_without_arguments_says_what_it_found() {
    let place = Place::new();
    let run = |out: &str| place.run(&["finetune", "--steps", "4", "--hold-out", "nli", "--out", out]).ok();
    let done = run("one");
    for said in [
        "Natural language inference",
        "held out",
        "best of three",
        "was never tuned on",
        "replay  flanrt finetune",
    ] {
        assert!(done.err.contains(said), "{said:?} is not in {}", done.err);
    }
    assert!(!done.err.contains('\u{1b}'), "colours where there is no terminal");
    let html = page(&place, "one/report/index.html");
    assert!(html.contains("Before and after") && html.contains("Gradient norm") && html.contains("OPTIONS"));
    picture(&place, "one/report/index.png");
    let json = place.json("one/run.json");
    let compared = json["compared"].as_array().unwrap();
    // Paraphrase is left out of both: it overlaps what is held out.
    assert_eq!(compared.len(), 11, "{compared:?}");
    assert_eq!(compared[0]["held_out"], Value::Bool(true));
    assert!(compared[1..].iter().all(|c| c["held_out"] == Value::Bool(false)));
    run("two");
    assert_eq!(json["weights_hash"], place.json("two/run.json")["weights_hash"]);
    assert_eq!(json["compared"], place.json("two/run.json")["compared"]);
}

#[test]
fn an_experiment_goes_on_where_it_was_and_shares_what_it_has() {
    let place = Place::new();
    let run = |names: &[&str]| {
        let args = [
            "--hold-out",
            "sentiment,coreference",
            "--seeds",
            "2",
            "--limit",
            "10",
            "--steps",
            "2",
            "--out",
            "e",
        ];
        place.run(&[&["experiment"], names, &args[..]].concat()).ok()
    };
    let first = run(&["holdout"]);
    assert!(first.err.contains("5 cells, 5 of them to do"), "{}", first.err);
    for said in ["Sentiment analysis", "Coreference resolution", "points on", "of 2 clusters go up"] {
        assert!(first.out.contains(said), "{said:?} is not in {}", first.out);
    }
    page(&place, "e/holdout.html");
    picture(&place, "e/holdout.png");
    let results = place.json("e/holdout.json");
    let cells = results["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 5);
    for cell in cells {
        let marks = cell[1].as_array().unwrap();
        assert!(!marks.is_empty() && marks.iter().all(|m| m["worth"].as_array().unwrap().len() == 10));
    }
    // Nothing is done twice, and the same comes out.
    let again = run(&["holdout"]);
    assert!(again.err.contains("5 cells, 0 of them to do"), "{}", again.err);
    assert_eq!(again.out.replace("experiment", ""), first.out.replace("experiment", ""));
    // Few-shot asks the models that holdout tuned: its cells without examples are answered, the others need no training.
    let before = std::fs::read_dir(place.path("e/trained")).unwrap().count();
    run(&["few-shot"]);
    assert_eq!(std::fs::read_dir(place.path("e/trained")).unwrap().count(), before);
    page(&place, "e/few-shot.html");
}

#[test]
fn what_an_experiment_cannot_do_is_said() {
    let place = Place::new();
    place.run(&["experiment", "everything"]).fails(2);
    let no_rows = place.run(&["experiment", "holdout", "--hold-out", "arithmetic"]).fails(2);
    assert!(no_rows.err.contains("arithmetic"), "{}", no_rows.err);
    place.run(&["experiment", "holdout", "--model", "nowhere"]).fails(4);
    std::fs::create_dir(place.path("empty")).unwrap();
    place.run(&["experiment", "holdout", "--data", "empty"]).fails(3);
    place.run(&["experiment", "scale", "--data", "empty"]).fails(3);
}

#[test]
fn the_worlds_files_are_read_like_any_others() {
    let place = Place::new();
    place.run(&["world", "data", "d"]).ok();
    let score = |data: &str| {
        let args = [
            "score",
            "builtin",
            "--tasks",
            "because",
            "--limit",
            "12",
            "--templates",
            "2",
            "--no-dev",
            "--json",
            "--data",
        ];
        place.run(&[&args[..], &[data]].concat())
    };
    let built_in = score("builtin").ok().json();
    assert_eq!(built_in["tasks"][0]["rows"], 12, "{built_in}");
    // Files of that name are no datasets of the paper.
    score("d").fails(2);
    let rows = place.read("d/because/test.jsonl");
    assert_eq!(rows.lines().count(), 400);
    let row: Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    assert!(
        row["text"].as_str().unwrap().contains(" because ") && row["options"].as_array().unwrap().len() == 2
    );
}
