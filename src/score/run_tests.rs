//! What a scoring run promises, with a fake tokenizer and model. Not here: real models (tests/).

use std::path::Path;

use super::super::fake::{Model, Words, answer};
use super::*;

const MERGES: [&str; 5] = ["an", " b", "c ", "no", "0 "];

fn words() -> Words {
    Words::new(true, &MERGES)
}

/// Forty requests of both kinds, with shared option texts, merged borders, over-long contexts, empty texts.
fn lines() -> Vec<String> {
    let contexts = ["", "an ", "question?", "a much longer context, banana and c "];
    let options = [r#"[" yes"," no"]"#, r#"["b","banana",""]"#, r#"[" b c d e f g h i j k l m n o p","x"]"#];
    (0..40)
        .map(|i| {
            let context = format!("{}{}", contexts[i % 4], i / 12);
            let context = if i % 8 == 0 { "" } else { &context };
            if i % 5 == 4 {
                format!(r#"{{"id":"r{i}","context":"{context}","continuation":" banana {i}"}}"#)
            } else {
                format!(
                    r#"{{"id":"r{i}","context":"{context}","options":{},"label":{}}}"#,
                    options[i % 3],
                    i % 2
                )
            }
        })
        .collect()
}

fn parse(lines: &[String]) -> Requests {
    Requests::parse("r.jsonl", lines.join("\n").as_bytes()).unwrap()
}

/// A run's summary and rows, and what it said.
fn score(
    requests: &Requests,
    opts: &ScoreOptions,
    model: &mut Model,
) -> Result<(Summary, Vec<String>, Vec<String>)> {
    let dir = tempfile::tempdir().unwrap();
    let out = opts.out.clone().unwrap_or(dir.path().join("out.jsonl"));
    let opts = ScoreOptions { out: Some(out.clone()), ..opts.clone() };
    let mut said = Vec::new();
    let mut last = 0;
    let mut hooks = Hooks {
        progress: &mut |done, total| {
            assert!(done >= last && total == requests.rows.len());
            last = done;
        },
        say: &mut |s| said.push(s.to_owned()),
        interrupted: &AtomicBool::new(false),
    };
    let summary = run(requests, &words(), model, &opts, &mut hooks)?;
    assert_eq!(last, requests.rows.len());
    let rows = std::fs::read_to_string(&out).unwrap().lines().map(str::to_owned).collect();
    Ok((summary, rows, said))
}

fn model() -> Model {
    Model::new(24, 50, 9)
}

#[test]
fn batches_order_and_forest_change_nothing() {
    let lines = lines();
    let mut reordered = lines.clone();
    reordered.reverse();
    reordered.swap(3, 30);
    for boundary in [Boundary::Joint, Boundary::LmEval, Boundary::Separate] {
        let base = ScoreOptions { boundary, ..ScoreOptions::default() };
        let (summary, want, _) = score(&parse(&lines), &base, &mut model()).unwrap();
        assert!(summary.truncated > 0 && summary.option_truncated > 0 && summary.without_tokens > 0);
        assert_eq!(summary.boundary_moved > 0, boundary != Boundary::Separate);
        for batch_size in [Some(1), Some(2), Some(7), Some(32), None] {
            for unrolled in [false, true] {
                let opts = ScoreOptions { batch_size, unrolled, ..base.clone() };
                let (s, rows, _) = score(&parse(&lines), &opts, &mut model()).unwrap();
                assert_eq!((&s, &rows), (&summary, &want), "{boundary:?} {batch_size:?} {unrolled}");
                let (s, mut rows, _) =
                    score(&parse(&reordered), &opts, &mut Model::new(24, 999, 999)).unwrap();
                rows.swap(3, 30);
                rows.reverse();
                assert_eq!((s.accuracy, &rows), (summary.accuracy, &want));
            }
        }
        // A request alone gives the same row as among others.
        for (line, want) in lines.iter().zip(&want) {
            assert_eq!(&score(&parse(std::slice::from_ref(line)), &base, &mut model()).unwrap().1[0], want);
        }
    }
}

#[test]
fn a_row_is_what_the_definition_gives() {
    let line = r#"{"id":7,"context":"q:","options":[" é"," yes"],"label":" yes"}"#;
    let (_, rows, _) = score(&parse(&[line.into()]), &ScoreOptions::default(), &mut model()).unwrap();
    let total = |context: &str, option: &str| {
        let ids = words().encode(&format!("{context}{option}")).unwrap();
        let first = 1 + context.len();
        (first..ids.len()).map(|i| f64::from(answer(&ids[..i], ids[i]).logprob)).sum::<f64>()
    };
    let row: serde_json::Value = serde_json::from_str(&rows[0]).unwrap();
    let all = |f: &str| [row["options"][0][f].clone(), row["options"][1][f].clone()];
    assert_eq!(all("logprob"), [total("q:", " é"), total("q:", " yes")]);
    assert_eq!(all("unconditional"), [total("", " é"), total("", " yes")]);
    assert_eq!(
        (all("tokens"), all("chars"), all("bytes")),
        ([2, 4].map(Into::into), [2, 4].map(Into::into), [3, 4].map(Into::into))
    );
    assert_eq!((&row["id"], &row["label"]), (&7.into(), &1.into()));
    let gain = |i: usize| {
        row["options"][i]["logprob"].as_f64().unwrap() - row["options"][i]["unconditional"].as_f64().unwrap()
    };
    assert_eq!(row["choice"]["minus_unconditional"], usize::from(gain(1) > gain(0)));
}

#[test]
fn unconditional_scores_are_computed_once_or_not_at_all() {
    let lines: Vec<String> = (0..600)
        .map(|i| format!(r#"{{"id":{i},"context":"q{}","options":[" y"," n"]}}"#, 1 + i % 7))
        .collect();
    let tokens = |unconditional: Option<&str>| {
        let mut m = Model::new(24, 999, 999);
        let opts =
            ScoreOptions { unconditional: unconditional.map(str::to_owned), ..ScoreOptions::default() };
        let (_, rows, _) = score(&parse(&lines), &opts, &mut m).unwrap();
        assert_eq!(rows[599].contains("unconditional"), unconditional.is_some());
        m.tokens
    };
    // Inputs of " y" and " n" after BOS: BOS and the space.
    assert_eq!(tokens(Some("")), tokens(None) + 2 * 2);
    assert_eq!(tokens(Some("A:")), tokens(None) + 2 * 4);

    // A continued run takes them from its log.
    let dir = tempfile::tempdir().unwrap();
    let out = Some(dir.path().join("o.jsonl"));
    let opts = ScoreOptions { batch_size: Some(100), out, ..ScoreOptions::default() };
    let broken = &mut Model { fails_after: 3, ..Model::new(24, 999, 999) };
    score(&parse(&lines), &opts, broken).unwrap_err();
    let mut m = Model::new(24, 999, 999);
    let (s, ..) = score(&parse(&lines), &opts, &mut m).unwrap();
    assert!(s.continued > 100);
    assert_eq!(m.tokens, tokens(None) / 600 * (600 - s.continued));
}

#[test]
fn a_failed_run_continues_to_the_same_file() {
    let requests = parse(&lines());
    let dir = tempfile::tempdir().unwrap();
    let (want, want_rows, _) = score(&requests, &ScoreOptions::default(), &mut model()).unwrap();
    for fails_after in [1, 5, 11] {
        let opts = ScoreOptions {
            out: Some(dir.path().join(format!("{fails_after}.jsonl"))),
            batch_size: Some(3),
            ..ScoreOptions::default()
        };
        let broken = &mut Model { fails_after, ..model() };
        assert_eq!(score(&requests, &opts, broken).unwrap_err().kind, Kind::Internal);
        assert!(!opts.out.as_ref().unwrap().exists());
        let (got, rows, said) = score(&requests, &opts, &mut model()).unwrap();
        assert_eq!(rows, want_rows);
        if got.continued > 0 {
            assert!(said[0].starts_with(&format!("continuing after {} of 40", got.continued)), "{said:?}");
        }
        assert!(got.continued > 0 || fails_after < 3, "{fails_after}");
        assert_eq!(Summary { continued: 0, ..got }, want);
    }
}

#[test]
fn an_interruption_says_that_the_same_command_continues() {
    let requests = parse(&lines());
    let dir = tempfile::tempdir().unwrap();
    let flag = AtomicBool::new(false);
    let stop = |out: Option<&Path>| {
        flag.store(false, Ordering::Relaxed);
        let opts =
            ScoreOptions { out: out.map(Path::to_path_buf), batch_size: Some(4), ..ScoreOptions::default() };
        let mut progress = |done: usize, _: usize| flag.store(done >= 10, Ordering::Relaxed);
        let mut hooks = Hooks { progress: &mut progress, say: &mut |_| (), interrupted: &flag };
        run(&requests, &words(), &mut model(), &opts, &mut hooks).unwrap_err()
    };
    let out = dir.path().join("o.jsonl");
    let e = stop(Some(&out));
    assert_eq!(e.kind, Kind::Stopped);
    assert!(e.message.contains(" of 40 requests") && e.fix.unwrap().contains("the same command continues"));
    let partial = std::fs::read_to_string(dir.path().join("o.jsonl.partial")).unwrap();
    assert!(partial.lines().count() > 10 && partial.ends_with('\n'));
    assert_eq!(stop(None).kind, Kind::Interrupted);

    let opts = ScoreOptions {
        out: Some(out),
        settings: [("dtype".into(), "bf16".into())].into(),
        ..ScoreOptions::default()
    };
    let (s, _, said) = score(&requests, &opts, &mut model()).unwrap();
    assert_eq!(s.continued, 0);
    assert!(said[0].contains("belongs to another run (it differs in: settings): starting over"), "{said:?}");
}

#[test]
fn settings_that_cannot_work() {
    let requests = parse(&lines());
    let fails = |opts: ScoreOptions| score(&requests, &opts, &mut model()).unwrap_err().kind;
    assert_eq!(fails(ScoreOptions { batch_size: Some(0), ..ScoreOptions::default() }), Kind::Usage);
    assert_eq!(fails(ScoreOptions { window: Some(25), ..ScoreOptions::default() }), Kind::Usage);
    assert_eq!(fails(ScoreOptions { window: Some(1), ..ScoreOptions::default() }), Kind::Usage);
}
