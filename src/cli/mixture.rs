//! The datasets of the FLAN system as training examples: `--mixture flan`.

use super::settings::{MixtureSettings, Settings};
use super::{Global, finetune::say};
use crate::data::{self, Examples, FileReport, Order, SourceReport, examples::hashed, load_made};
use crate::error::{Error, Result};
use crate::flan::{
    Catalog, Collection, DataDirs, Mixture, Part, Rates, Source, Split, TaskRef, Writer, load_part,
};
use crate::progress::{Mode, Progress};
use crate::text::Tokenizer;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// Draws that are rendered and tokenised together.
const BLOCK: u64 = 512;

/// Examples of a mixture, and what became of it.
pub(super) struct Built {
    pub(super) examples: Examples,
    /// For the run directory: the split, and requested and realised counts of every task.
    pub(super) report: Value,
}

/// The split that the settings name.
pub(super) fn split<'a>(catalog: &'a Catalog, s: &MixtureSettings) -> Result<Split<'a>> {
    let mut split = match s.split.as_str() {
        "" => Split::hold_out(catalog, &s.hold_out)?,
        name => Split::named(catalog, name)?,
    };
    if s.datasets_per_cluster > 0 {
        split = split.datasets_per_cluster(s.datasets_per_cluster);
    }
    if s.templates_per_dataset > 0 {
        split.templates = Some(s.templates_per_dataset);
    }
    Ok(split)
}

/// Tasks' rows, and what became of their files.
type Found<'a> = Vec<(Source<'a>, SourceReport)>;

/// The training rows of `tasks`, where they are there; those that are missing.
fn sources<'a>(
    tasks: &[TaskRef<'a>],
    data: &DataDirs,
    s: &MixtureSettings,
    mode: Mode,
) -> Result<(Found<'a>, Vec<String>)> {
    let progress = Mutex::new((0, Progress::new(mode, "read", tasks.len() as u64, "dataset")));
    let read = |t: &TaskRef<'a>| -> Result<Option<(Source<'a>, SourceReport)>> {
        let found = match data.find(t.task) {
            Some(place) => load_part(*t, &place, Part::Train, s.cap)?,
            None => None,
        };
        if let Ok(mut p) = progress.lock() {
            p.0 += 1;
            let done = p.0;
            p.1.set(done, &[]);
        }
        let Some(part) = found else { return Ok(None) };
        let files: Vec<FileReport> = part.files.iter().map(|f| hashed(f)).collect::<Result<_>>()?;
        let dropped: BTreeMap<String, u64> = part.dropped.iter().map(|(k, v)| (k.to_string(), *v)).collect();
        let left = (part.rows.len() as u64) + dropped.values().sum::<u64>();
        let report = SourceReport {
            name: t.task.name.clone(),
            shape: String::new(),
            files,
            read: part.of as u64,
            capped: part.of as u64 - left,
            used: part.rows.len() as u64,
            dropped,
        };
        Ok(Some((Source::new(*t, part)?, report)))
    };
    let all: Vec<Option<_>> = tasks.par_iter().map(read).collect::<Result<_>>()?;
    if let Ok(p) = progress.into_inner() {
        p.1.finish();
    }
    let missing =
        tasks.iter().zip(&all).filter(|(_, found)| found.is_none()).map(|(t, _)| t.task.name.clone());
    let missing: Vec<String> = missing.collect();
    let found = all.into_iter().flatten().filter(|(source, _)| !source.is_empty());
    Ok((found.collect(), missing))
}

/// A mixture with its rows read.
pub(super) struct Read<'a> {
    pub(super) split: Split<'a>,
    pub(super) mixture: Mixture<'a>,
    /// What became of every task's files.
    files: Vec<SourceReport>,
    missing: Vec<String>,
}

/// The datasets' definitions that the settings name.
pub(super) fn catalog(m: &MixtureSettings) -> Result<Catalog> {
    Catalog::load(Collection::of(&m.data), (!m.tasks_dir.is_empty()).then(|| Path::new(&m.tasks_dir)))
}

/// Reads the rows of a mixture of `catalog`.
pub(super) fn read<'a>(catalog: &'a Catalog, s: &Settings, mode: Mode) -> Result<Read<'a>> {
    let m = &s.mixture;
    let data = DataDirs::new(&m.data, catalog)?;
    if data.is_empty() {
        return Err(Error::usage("--mixture needs the datasets' files").fix(
            "name a directory with a folder per dataset: --data DIR (flanrt data fetch downloads them)",
        ));
    }
    let split = split(catalog, m)?;
    let (found, missing) = sources(&split.train, &data, m, mode)?;
    if !missing.is_empty() && !m.allow_missing {
        return Err(Error::data(format!(
            "{} of {} tasks have no training files: {}",
            missing.len(),
            split.train.len(),
            missing.join(", ")
        ))
        .fix("get them (flanrt data fetch NAME...), say where they are (--data TASK=FOLDER), or go on without (--allow-missing)"));
    }
    if found.is_empty() {
        return Err(Error::data("not one of the mixture's tasks has training files")
            .fix("name a directory with a folder per dataset; `flanrt tasks list` has the names"));
    }
    let (sources, files): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let rates = Rates { max_rate: m.max_rate, temperature: m.temperature, weights: m.weights.clone() };
    let mixture = Mixture::new(
        sources,
        &rates,
        s.train.seed,
        m.templates,
        m.prompt,
        m.inverse,
        split.templates,
        m.options,
    )?;
    Ok(Read { split, mixture, files, missing })
}

/// Draws as many examples of the mixture as the run will train on.
pub(super) fn build(
    s: &Settings,
    tokenizer: &Tokenizer,
    options: &data::Options,
    global: &Global,
) -> Result<Built> {
    let m = &s.mixture;
    let catalog = catalog(m)?;
    let writer = Writer::new(m.wording().within(options.seq_len), tokenizer)?;
    let Read { split, mixture, files, missing } = read(&catalog, s, global.progress)?;
    let specs = mixture.sources.iter().zip(&files);
    let specs: Vec<Value> =
        specs.map(|(s, r)| json!([s.task.task.name, s.task.dataset.hash, r.files])).collect();
    let round = mixture.schedule.round();
    let (steps, size, tokens) = (s.train.steps, s.train.batch_size as u64, s.train.batch_tokens);
    let draws = match steps {
        0 => Some(((s.train.epochs * round as f64).ceil() as u64).max(1)),
        steps if tokens == 0 => Some(steps * size),
        _ => None,
    };
    let key = json!({
        "mixture": m, "wording": writer.wording, "seed": s.train.seed, "tasks": specs, "templates": split.templates,
        "draws": draws, "steps": steps, "tokens": tokens,
    });
    let known = draws.unwrap_or(steps * (tokens / 64).max(1) as u64);
    let progress = Mutex::new(None);
    let examples = load_made(&key, tokenizer, options, |builder| {
        builder.source(SourceReport {
            name: "mixture".into(),
            shape: "{prompt, target}".into(),
            ..Default::default()
        });
        let (mut next, mut sum, mut full) = (0, 0, 0);
        loop {
            let have = builder.lengths(0).len();
            let wanted = match draws {
                Some(draws) => draws.saturating_sub(have as u64).min(BLOCK),
                None => {
                    if full < steps {
                        BLOCK
                    } else {
                        0
                    }
                }
            };
            if wanted == 0 {
                break;
            }
            builder.take((next..next + wanted).collect(), |i: u64| mixture.rendered(i, &writer))?;
            next += wanted;
            builder.read(next);
            if builder.lengths(have).is_empty() && next > 64 * BLOCK {
                return Err(Error::data("not one of many thousand prompts fits")
                    .fix("raise data.seq_len, or mixture.target_tokens"));
            }
            for &len in builder.lengths(have) {
                if sum > 0 && sum + len as usize > tokens {
                    (full, sum) = (full + 1, 0);
                }
                sum += len as usize;
            }
            if let Ok(mut p) = progress.lock() {
                let p: &mut Progress = p.get_or_insert_with(|| {
                    let (total, unit) = if draws.is_some() { (known, "example") } else { (steps, "step") };
                    Progress::new(global.progress, "tokenise", total, unit)
                });
                p.set(if draws.is_some() { builder.lengths(0).len() as u64 } else { full.min(steps) }, &[]);
            }
        }
        Ok(())
    })?;
    if let Ok(Some(p)) = progress.into_inner() {
        p.finish();
    }
    let report = report(&split, &mixture, &missing, &files, &examples, m);
    tell(&split, &report, &missing);
    Ok(Built { examples, report })
}

/// Requested and realised counts of every task.
fn report(
    split: &Split<'_>,
    mixture: &Mixture<'_>,
    missing: &[String],
    files: &[SourceReport],
    examples: &Examples,
    settings: &MixtureSettings,
) -> Value {
    let mut drawn: BTreeMap<&str, (u64, BTreeMap<u64, u64>)> = BTreeMap::new();
    for i in 0..examples.len() {
        let id = examples.get(i).id;
        let name = id.split_whitespace().next().unwrap_or_default();
        let (task, template) = name.split_once('/').unwrap_or((name, "0"));
        let entry = drawn.entry(task).or_default();
        entry.0 += 1;
        *entry.1.entry(template.parse().unwrap_or(0)).or_default() += 1;
    }
    let round = mixture.schedule.round() as f64;
    let tasks: Vec<Value> = mixture
        .sources
        .iter()
        .zip(files)
        .enumerate()
        .map(|(i, (s, f))| {
            let requested = mixture.schedule.places(i) as f64 / round;
            let (n, templates) = drawn.get(s.task.task.name.as_str()).cloned().unwrap_or_default();
            json!({
                "task": s.task.task.name, "cluster": s.task.dataset.cluster, "rows": s.len(),
                "published_rows": s.task.task.rows.train, "requested": requested,
                "realised": n as f64 / examples.len() as f64, "examples": n, "templates": templates,
                "read": f.read, "capped": f.capped, "dropped": f.dropped, "files": f.files, "spec": s.task.dataset.hash,
            })
        })
        .collect();
    let names = |list: &[TaskRef<'_>]| list.iter().map(|t| t.task.name.clone()).collect::<Vec<_>>();
    json!({
        "split": split.name, "held_out": names(&split.test), "unused": names(&split.unused), "missing": missing,
        "round": mixture.schedule.round(), "settings": settings, "tasks": tasks,
    })
}

fn tell(split: &Split<'_>, report: &Value, missing: &[String]) {
    let tasks = report["tasks"].as_array().map_or(0, Vec::len);
    let held: Vec<String> = split.test.iter().map(|t| t.task.name.clone()).collect();
    let held =
        if held.is_empty() { "nothing held out".into() } else { format!("held out {}", held.join(" ")) };
    say!("mixture {tasks} tasks  split {}  {held}", split.name);
    if !split.unused.is_empty() {
        let names: Vec<_> = split.unused.iter().map(|t| t.task.name.as_str()).collect();
        say!("        left out as too close: {}", names.join(" "));
    }
    if !missing.is_empty() {
        say!("        {} missing: {}", missing.len(), missing.join(" "));
    }
}

/// The order of a mixture's examples: as they were drawn.
pub(super) fn order(examples: &Examples) -> (Vec<u32>, Order) {
    let n = examples.len();
    ((0..n as u32).collect(), Order::in_turn(n))
}
