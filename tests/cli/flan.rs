//! The FLAN system through the program: tasks, mixtures, evaluation.

use super::support::{Place, assets, model};
use serde_json::{Value, json};
use std::path::Path;

/// The files of a folder with their bytes, in order.
fn folder(place: &Place, name: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(place.path(name))
        .unwrap()
        .flatten()
        .filter(|e| e.path().is_file())
        .map(|e| (e.file_name().to_string_lossy().into_owned(), std::fs::read(e.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn results(place: &Place, name: &str) -> Value {
    let (_, bytes) = folder(place, name).into_iter().find(|(n, _)| n.starts_with("results_")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Every option's log-probability of a saved evaluation, by template, row and option.
fn logprobs(place: &Place, name: &str) -> Vec<f64> {
    let mut out = Vec::new();
    for (_, bytes) in folder(place, name).into_iter().filter(|(n, _)| n.starts_with("samples_")) {
        for line in String::from_utf8(bytes).unwrap().lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            out.extend(
                row["flanrt"]["scores"].as_array().unwrap().iter().map(|s| s["with_eos"].as_f64().unwrap()),
            );
        }
    }
    out
}

#[test]
fn tasks_are_listed_shown_rendered_and_checked() {
    let place = Place::new();
    let list = place.run(&["tasks", "list"]).ok().out;
    assert!(list.contains("62 datasets in 12 clusters, 70 tasks, 660 templates"), "{list}");
    let rows = place.run(&["tasks", "list", "nli", "--json"]).ok().json();
    assert_eq!(rows.as_array().unwrap().len(), 10);
    assert_eq!(rows[0]["templates"]["forward"], 9);
    assert!(place.run(&["tasks", "show", "rte"]).ok().out.contains("{{premise}}"));
    let out = place.run(&["tasks", "render", "rte", "--template", "1", "--row", "1"]).ok().out;
    assert!(out.contains("OPTIONS:\n- yes\n- no") && out.contains("[["), "{out}");
    assert!(place.run(&["tasks", "render", "rte", "--prompt", "no-template"]).ok().out.lines().count() > 2);
    let e = place.run(&["tasks", "render", "rtee"]).fails(2).err;
    assert!(e.contains("did you mean rte?"), "{e}");
    assert!(place.run(&["tasks", "validate"]).ok().out.contains("no faults"));
    assert!(place.run(&["tasks", "splits", "nli"]).ok().out.contains("mrpc paws_wiki qqp stsb"));
    // A file of one's own, with a fault at a place.
    std::fs::create_dir_all(place.path("mine/nli")).unwrap();
    let good =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/nli/rte.toml")).unwrap();
    place.write("mine/nli/own.toml", good.replace("name = \"rte\"", "name = \"own\""));
    assert!(place.run(&["tasks", "validate", "--tasks-dir", "mine"]).ok().out.contains("63 datasets"));
    assert!(place.run(&["tasks", "list", "own", "--tasks-dir", "mine"]).ok().out.contains("1 datasets"));
    for (from, to, message) in [
        ("metrics = [\"accuracy\"]", "metrics = [\"acuracy\"]", "5:12: unknown metric \"acuracy\""),
        ("title =", "titel =", "1:1: unknown field `titel`"),
        ("test = \"validation\"", "test = \"valid\"", "no slice"),
        ("{{OPTIONS}}", "", "holds {{OPTIONS}} 1 times, not 0"),
        ("{{premise}}", "{{premis}}", "leaves out \"premise\""),
    ] {
        assert!(good.contains(from), "{from}");
        place.write("mine/nli/own.toml", good.replace("name = \"rte\"", "name = \"own\"").replace(from, to));
        let run = place.run(&["tasks", "validate", "--tasks-dir", "mine"]).fails(3);
        assert!(
            run.out.contains("mine/nli/own.toml:") && run.out.contains(message),
            "{message}: {}",
            run.out
        );
    }
}

#[test]
fn a_mixture_is_trained_and_held_out_tasks_are_scored_the_same_twice() {
    let Some(assets) = assets() else { return };
    let place = Place::new();
    let (base, data) = (model(&assets, "stories260K"), assets.join("data").display().to_string());
    let train = |out: &str| {
        let args = [
            "finetune",
            "--model",
            &base,
            "--mixture",
            "flan",
            "--hold-out",
            "nli",
            "--data",
            &data,
            "--allow-missing",
            "--steps",
            "6",
            "--batch-size",
            "4",
            "--out",
            out,
        ];
        place.run(&args).ok().err
    };
    let said = train("a");
    assert!(said.contains("held out anli_r1 anli_r2 anli_r3 cb mnli"), "{said}");
    assert!(said.contains("left out as too close: mrpc paws_wiki qqp stsb"), "{said}");
    train("b");
    let weights = |run: &str| std::fs::read(place.path(&format!("{run}/model/model.safetensors"))).unwrap();
    assert!(weights("a") == weights("b"));
    let manifest: Value = serde_json::from_str(&place.read("a/data/manifest.json")).unwrap();
    let tasks = manifest["mixture"]["tasks"].as_array().unwrap();
    assert!(tasks.len() > 30 && tasks.iter().all(|t| t["cluster"] != "nli" && t["cluster"] != "paraphrase"));
    assert!(manifest["mixture"]["missing"].as_array().unwrap().contains(&json!("gigaword")));
    let format: Value = serde_json::from_str(&place.read("a/model/flanrt.json")).unwrap();
    assert_eq!(format["prompt_format"]["join"], "eos");
    // Without the files that are missing it says so.
    let e =
        place.run(&["finetune", &base, "--mixture", "flan", "--data", &data, "--steps", "1"]).fails(3).err;
    assert!(e.contains("gigaword") && e.contains("--allow-missing"), "{e}");

    let score = |out: &str, extra: &[&str]| {
        let args = [
            "score",
            "--tasks",
            "rte,mnli,mnli_mismatched,copa",
            "--data",
            &data,
            "--model",
            "a/model",
            "--limit",
            "6",
            "--out",
            out,
        ];
        place.run(&[&args[..], extra].concat()).ok().out
    };
    let table = score("s1", &[]);
    assert!(
        table.contains("Natural language inference") && table.contains("no rows for: mnli_mismatched"),
        "{table}"
    );
    score("s2", &["--batch-size", "1", "--threads", "1"]);
    assert!(folder(&place, "s1") == folder(&place, "s2"), "batch size and threads change nothing");
    let found = results(&place, "s1");
    assert_eq!(found["group_subtasks"]["rte"].as_array().unwrap().len(), 9);
    assert!(
        found["results"]["rte_t01"]["acc,none"].is_f64() && found["n-samples"]["rte_t01"]["effective"] == 6
    );
    assert_eq!(found["flanrt"]["settings"]["join"], "eos");
    // Beside itself: no difference.
    let table = score("s3", &["--baseline", "s1"]);
    assert!(table.contains("better on 0 of 3 tasks"), "{table}");
    let paper = score("s4", &["--paper", "--preset", "t0", "--templates", "2"]);
    assert!(paper.contains("median (iqr)") && paper.contains("published"), "{paper}");
}

#[test]
fn solved_examples_are_computed_once_and_change_nothing() {
    let Some(assets) = assets() else { return };
    let place = Place::new();
    let (base, data) = (model(&assets, "stories260K"), assets.join("data").display().to_string());
    let score = |out: &str, extra: &[&str]| {
        let args = [
            "score",
            "--tasks",
            "rte,copa",
            "--data",
            &data,
            "--model",
            &base,
            "--limit",
            "20",
            "--templates",
            "2",
            "--no-dev",
            "--out",
            out,
            "--join",
            "newline",
            "--shots",
            "5",
            "--input-tokens",
            "400",
        ];
        place.run(&[&args[..], extra].concat()).ok().out
    };
    let table = score("a", &[]);
    assert!(table.contains("5 shots") || table.contains("4 shots") || table.contains("3 shots"), "{table}");
    score("b", &["--unrolled"]);
    let (a, b) = (logprobs(&place, "a"), logprobs(&place, "b"));
    assert_eq!(a.len(), 2 * 2 * 20 * 2);
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    let choices = |name: &str| results(&place, name)["results"].clone();
    assert_eq!(choices("a"), choices("b"));
    // Examples are rows of the training file, and never more tokens than allowed.
    for (name, bytes) in folder(&place, "a") {
        if name.starts_with("samples_copa") {
            let row: Value =
                serde_json::from_str(std::str::from_utf8(&bytes).unwrap().lines().next().unwrap()).unwrap();
            assert!(
                row["arguments"]["gen_args_0"]["arg_0"].as_str().unwrap().matches("OPTIONS:").count() > 2
            );
        }
    }
}

#[test]
fn texts_are_generated_and_overlaps_found() {
    let Some(assets) = assets() else { return };
    let place = Place::new();
    let (base, data) = (model(&assets, "stories260K"), assets.join("data").display().to_string());
    let fr = format!("wmt14_enfr={}", assets.join("data/flores200_enfr").display());
    let args = [
        "score",
        "--tasks",
        "squad_v1,wmt14_enfr,common_gen",
        "--data",
        &data,
        "--data",
        &fr,
        "--model",
        &base,
        "--limit",
        "6",
        "--templates",
        "1",
        "--max-new-tokens",
        "6",
        "--out",
        "t",
        "--contamination",
    ];
    let table = place.run(&args).ok().out;
    for name in ["squad_v1", "wmt14_enfr:en-fr", "wmt14_enfr:fr-en", "common_gen", "13-gram overlap"] {
        assert!(table.contains(name), "{name}: {table}");
    }
    let found = results(&place, "t");
    assert!(found["results"]["wmt14_enfr_fr-en_t06"]["bleu,none"].is_f64(), "{}", found["results"]);
    // A test row that stands in the text is dirty.
    let samples = folder(&place, "t").into_iter().find(|(n, _)| n.starts_with("samples_squad_v1")).unwrap().1;
    let row = String::from_utf8(samples).unwrap().lines().last().unwrap().to_owned();
    let row: Value = serde_json::from_str(&row).unwrap();
    place.write("seen.txt", row["arguments"]["gen_args_0"]["arg_0"].as_str().unwrap());
    let args = [
        "score",
        "--tasks",
        "squad_v1",
        "--data",
        &data,
        "--model",
        &base,
        "--limit",
        "6",
        "--templates",
        "1",
        "--no-dev",
        "--max-new-tokens",
        "4",
        "--against",
        "seen.txt",
        "--json",
    ];
    let report = place.run(&args).ok().json();
    let overlap = &report["tasks"][0]["overlap"];
    let dirty = overlap["dirty"].as_u64().unwrap();
    assert!((1..6).contains(&dirty), "{overlap}");
}

#[test]
fn mixtures_are_exported_and_drawn_as_asked() {
    let Some(assets) = assets() else { return };
    let place = Place::new();
    let data = assets.join("data").display().to_string();
    let export = |to: &str, extra: &[&str]| {
        let args = [
            "data",
            "export",
            "--data",
            &data,
            "--allow-missing",
            "--hold-out",
            "nli,summarization",
            "--to",
            to,
        ];
        place.run(&[&args[..], extra].concat()).ok();
        place.read(to)
    };
    let all = export("a.jsonl", &["-n", "300"]);
    assert_eq!(all, export("b.jsonl", &["-n", "300"]));
    // The beginning of a longer export is the shorter one.
    assert!(all.starts_with(&export("c.jsonl", &["-n", "40"])));
    assert_ne!(all, export("d.jsonl", &["-n", "300", "--seed", "1"]));
    for line in all.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        assert!(
            row["cluster"] != "nli" && row["cluster"] != "summarization" && row["cluster"] != "paraphrase"
        );
        let options = row["options"].as_array().unwrap();
        assert!(options.is_empty() || options.contains(&row["target"]), "{row}");
    }
}

/// A hub on the loopback interface with one repository: RTE without a Parquet export, as JSON lines.
#[cfg(feature = "hub")]
fn hub(validation: String) -> String {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            let _ = lines.find(String::is_empty);
            let base = "/api/datasets/aps/super_glue";
            let body = match path.as_str() {
                p if p == base => Some(json!({"sha": "abc", "tags": ["license:other"]}).to_string()),
                p if p.starts_with(&format!("{base}/tree/abc/rte")) => {
                    let file = |name: &str| json!({"type": "file", "path": format!("rte/{name}"), "size": 1});
                    Some(json!([file("train.jsonl"), file("validation.jsonl")]).to_string())
                }
                "/datasets/aps/super_glue/resolve/abc/rte/train.jsonl"
                | "/datasets/aps/super_glue/resolve/abc/rte/validation.jsonl" => Some(validation.clone()),
                _ => None,
            };
            let mut out = stream;
            let (status, body) = body.map_or(("404 Not Found", String::new()), |b| ("200 OK", b));
            let head = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\netag: \"1\"\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let body = if first.starts_with("HEAD") { "" } else { &body };
            let _ = out.write_all((head + body).as_bytes());
        }
    });
    url
}

#[cfg(feature = "hub")]
#[test]
fn a_dataset_is_fetched_and_scored() {
    let place = Place::new();
    let row = |i: usize| {
        json!({"premise": format!("Ann has {i} cats."), "hypothesis": "Ann has a cat.", "label": i % 2})
            .to_string()
    };
    let url = hub((0..8).map(row).collect::<Vec<_>>().join("\n") + "\n");
    let fetch = |args: &[&str], envs: &[(&str, &str)]| {
        let mut command = place.command(&[&["data", "fetch"], args, &["--to", "data"]].concat());
        command.env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE").env("HF_HOME", place.path("home"));
        command.env("HF_ENDPOINT", &url).env("NO_PROXY", "127.0.0.1").envs(envs.iter().copied());
        super::support::Run::of(command)
    };
    let said = fetch(&["rte"], &[]).ok().out;
    assert!(said.contains("rte") && said.contains("2 files"), "{said}");
    assert!(place.path("data/rte/validation-00000-of-00001.jsonl").exists());
    // What is there is not fetched again; what is not on the hub is said, and the rest is fetched.
    assert!(fetch(&["rte"], &[]).ok().out.contains("2 files, there already"));
    let e = fetch(&["rte", "newsroom"], &[]).fails(3).err;
    assert!(e.contains("newsroom: it is not on the hub"), "{e}");
    let e = fetch(&["cb"], &[("HF_HUB_OFFLINE", "1")]).fails(2).err;
    assert!(e.contains("HF_HUB_OFFLINE"), "{e}");
    let args =
        ["score", "--tasks", "rte", "--data", "data", "--model", "builtin", "--templates", "1", "--json"];
    let report = place.run(&args).ok().json();
    assert_eq!(report["tasks"][0]["rows"], 8);
}
