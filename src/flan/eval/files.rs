//! Results on disk, in the layout of lm-evaluation-harness: `results_*.json` and a `samples_*.jsonl` for every template.
//!
//! Every template is a task of that layout, its dataset a group. Names carry a hash of all that decides the numbers in place of the
//! time, and nothing in the files depends on when they were made: the same run writes the same bytes.

use super::report::Report;
use super::{Rule, Sample, TaskResult};
use crate::disk::write_atomic;
use crate::error::{Error, Kind, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was written.
pub struct Saved {
    /// The results file.
    pub results: PathBuf,
    /// The samples files.
    pub samples: Vec<PathBuf>,
}

/// A template's name in the layout.
fn task_name(task: &str, template: usize) -> String {
    format!("{}_t{:02}", task.replace(':', "_"), template + 1)
}

fn sha(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}

/// The names that the layout has for our measures.
fn harness_name(measure: &str) -> &str {
    match measure {
        "accuracy" => "acc",
        "acc_per_char" => "acc_norm",
        "acc_per_byte" => "acc_bytes",
        other => other,
    }
}

fn sample_row(t: &TaskResult, s: &Sample, report: &Report) -> Value {
    let mut arguments = Map::new();
    let mut resps = Vec::new();
    for (i, option) in s.options.iter().enumerate() {
        arguments.insert(format!("gen_args_{i}"), json!({"arg_0": s.context, "arg_1": option}));
    }
    for o in &s.scores {
        let value = o.with_eos.filter(|_| report.rule == Rule::SumEos).unwrap_or(o.logprob);
        resps.push(json!([value.to_string(), if o.greedy { "True" } else { "False" }]));
    }
    if let Some(said) = &s.prediction {
        arguments.insert("gen_args_0".into(), json!({"arg_0": s.context, "arg_1": {"do_sample": false}}));
        resps.push(json!(said));
    }
    let target = match (s.gold.as_slice(), s.golds.first()) {
        ([one], _) => json!(one),
        ([], gold) => json!(gold),
        (many, _) => json!(many),
    };
    let mut row = json!({
        "doc_id": s.doc,
        "doc": {"place": s.place, "options": s.options, "gold": s.gold, "golds": s.golds, "value": s.value, "group": s.group},
        "target": target,
        "arguments": arguments,
        "resps": resps.iter().map(|r| json!([r])).collect::<Vec<_>>(),
        "filtered_resps": resps,
        "filter": "none",
        "metrics": [harness_name(t.headline.name())],
        "doc_hash": sha(&s.place),
        "prompt_hash": sha(&s.context),
        "target_hash": sha(&target.to_string()),
        "flanrt": {
            "template": s.template + 1, "part": s.part, "scores": s.scores, "shots": s.shots, "cut": s.cut,
        },
    });
    if let Some(worth) = s.worth(t.headline, report.rule) {
        row[harness_name(t.headline.name())] = json!(worth);
    }
    row
}

/// Writes `report` with its samples into `dir`.
///
/// # Errors
/// `Kind::Disk`.
pub fn save(report: &Report, dir: &Path) -> Result<Saved> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(Kind::Disk, "create", dir, &e))?;
    let whole = serde_json::to_value(report).map_err(|e| Error::internal(e.to_string()))?;
    let hash = sha(&whole.to_string())[..12].to_owned();
    let (mut results, mut groups, mut subtasks, mut counts, mut shots, mut higher, mut configs) =
        (Map::new(), Map::new(), Map::new(), Map::new(), Map::new(), Map::new(), Map::new());
    let mut samples = Vec::new();
    for t in &report.tasks {
        let group = t.name.replace(':', "_");
        let mut names = Vec::new();
        for s in t.scores.iter().filter(|s| s.part == "test") {
            let name = task_name(&t.name, s.template);
            let mut entry = Map::from_iter([("alias".to_owned(), json!(format!(" - {name}")))]);
            for (measure, m) in &s.measures {
                let measure = harness_name(measure);
                entry.insert(format!("{measure},none"), json!(m.value));
                entry.insert(format!("{measure}_stderr,none"), m.stderr.map_or(json!("N/A"), |e| json!(e)));
            }
            results.insert(name.clone(), entry.into());
            counts.insert(name.clone(), json!({"original": t.rows, "effective": s.rows}));
            shots.insert(name.clone(), json!(t.shots));
            let up: Map<String, Value> = s
                .measures
                .keys()
                .map(|m| (harness_name(m).to_owned(), json!(m != "edit_distance")))
                .collect();
            higher.insert(name.clone(), up.into());
            configs.insert(
                name.clone(),
                json!({"task": name, "dataset_name": t.dataset, "group": group, "template": s.template + 1, "spec": t.spec}),
            );
            let mut lines = String::new();
            for sample in t.samples.iter().filter(|x| x.template == s.template) {
                lines += &sample_row(t, sample, report).to_string();
                lines.push('\n');
            }
            let path = dir.join(format!("samples_{name}_{hash}.jsonl"));
            write_atomic(&path, lines.as_bytes())?;
            samples.push(path);
            names.push(name);
        }
        let mut entry = Map::from_iter([("alias".to_owned(), json!(group))]);
        if let Some((mean, sd)) = t.mean() {
            let name = harness_name(t.headline.name());
            entry.insert(format!("{name},none"), json!(mean));
            entry.insert(format!("{name}_templates_stddev,none"), json!(sd));
            entry.insert(format!("{name}_best_dev,none"), json!(t.best_dev().map(|(_, v)| v)));
            entry.insert("best_dev_template".into(), json!(t.best_dev().map(|(i, _)| i + 1)));
        }
        groups.insert(group.clone(), entry.into());
        subtasks.insert(group, json!(names));
    }
    let file = json!({
        "results": results, "groups": groups, "group_subtasks": subtasks, "configs": configs,
        "versions": results.keys().map(|k| (k.clone(), 1)).collect::<BTreeMap<_, _>>(),
        "n-shot": shots, "higher_is_better": higher, "n-samples": counts,
        "config": {"model": "flanrt", "model_args": report.settings, "model_sha": report.model_hash},
        "model_name": report.model, "flanrt": whole,
    });
    let path = dir.join(format!("results_{hash}.json"));
    write_atomic(&path, format!("{file:#}\n").as_bytes())?;
    Ok(Saved { results: path, samples })
}

/// Reads what [`save`] wrote: the newest results of `dir` (or the file itself), with their samples.
///
/// # Errors
/// `Kind::Data` where there are none, or they are not ours.
pub fn load_saved(place: &Path) -> Result<Report> {
    let dir = if place.is_dir() { place } else { place.parent().unwrap_or(Path::new(".")) };
    let file = match place.is_dir() {
        false => place.to_owned(),
        true => {
            let entries = std::fs::read_dir(place).map_err(|e| Error::io(Kind::Data, "read", place, &e))?;
            let mut found: Vec<_> = entries
                .flatten()
                .filter(|e| e.file_name().to_string_lossy().starts_with("results_"))
                .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
                .collect();
            found.sort();
            found.pop().map(|(_, p)| p).ok_or_else(|| {
                Error::data(format!("{}: no results_*.json in it", place.display()))
                    .fix("name the --out folder of an earlier `flanrt score --tasks`")
            })?
        }
    };
    let read =
        |path: &Path| std::fs::read_to_string(path).map_err(|e| Error::io(Kind::Data, "read", path, &e));
    let bad = |path: &Path, e: serde_json::Error| {
        Error::data(format!("{}: not results of flanrt: {e}", path.display()))
    };
    let value: Value = serde_json::from_str(&read(&file)?).map_err(|e| bad(&file, e))?;
    let mut report: Report = serde_json::from_value(value["flanrt"].clone()).map_err(|e| bad(&file, e))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hash = name.trim_start_matches("results_").trim_end_matches(".json").to_owned();
    for t in &mut report.tasks {
        let templates: Vec<usize> =
            t.scores.iter().filter(|s| s.part == "test").map(|s| s.template).collect();
        for template in templates {
            let path = dir.join(format!("samples_{}_{hash}.jsonl", task_name(&t.name, template)));
            for line in read(&path)?.lines() {
                let row: Value = serde_json::from_str(line).map_err(|e| bad(&path, e))?;
                let own = &row["flanrt"];
                let field = |v: &Value| serde_json::from_value(v.clone()).map_err(|e| bad(&path, e));
                t.samples.push(Sample {
                    doc: row["doc_id"].as_u64().unwrap_or(0) as usize,
                    place: row["doc"]["place"].as_str().unwrap_or_default().into(),
                    template,
                    part: own["part"].as_str().unwrap_or_default().into(),
                    context: String::new(),
                    options: serde_json::from_value(row["doc"]["options"].clone())
                        .map_err(|e| bad(&path, e))?,
                    gold: serde_json::from_value(row["doc"]["gold"].clone()).map_err(|e| bad(&path, e))?,
                    golds: serde_json::from_value(row["doc"]["golds"].clone()).map_err(|e| bad(&path, e))?,
                    value: row["doc"]["value"].as_f64(),
                    group: row["doc"]["group"].as_str().map(str::to_owned),
                    scores: field(&own["scores"])?,
                    prediction: row["filtered_resps"][0].as_str().map(str::to_owned),
                    shots: 0,
                    cut: false,
                });
            }
        }
    }
    Ok(report)
}
