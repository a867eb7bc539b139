//! `flanrt data`: rows as a training run reads them, mixtures as plain files, downloads.

use super::prepare::Prepared;
use super::{Global, TrainFlags, mixture};
use crate::disk::write_atomic_with;
use crate::error::{Error, Result};
use crate::progress::Progress;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// `flanrt data`
#[derive(Subcommand)]
pub(super) enum Data {
    /// Show the first examples with the trained part marked, and what was dropped
    Inspect(Inspect),
    /// Write a mixture as JSON lines: prompt, target, options, task, template, place of the row
    Export(Export),
    /// Download datasets from the Hugging Face hub into a folder for --data
    Fetch(Fetch),
}

/// `flanrt data inspect`
#[derive(Args)]
pub(super) struct Inspect {
    /// Model folder, or `builtin`: its tokenizer and chat template are used
    model: String,
    /// Training files; none with --mixture
    #[arg(value_name = "FILES")]
    files: Vec<String>,
    /// Examples to show
    #[arg(long, value_name = "N", default_value_t = 3)]
    show: usize,
    #[command(flatten)]
    train: TrainFlags,
}

/// `flanrt data export`
#[derive(Args)]
pub(super) struct Export {
    /// How many examples [default: one round, in which every task comes as often as its weight says]
    #[arg(short, long, value_name = "N")]
    n: Option<u64>,
    /// The file; .jsonl
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    train: TrainFlags,
}

/// `flanrt data fetch`
#[derive(Args)]
pub(super) struct Fetch {
    /// Tasks, datasets, clusters or all
    #[arg(required = true)]
    names: Vec<String>,
    /// Where to: a folder per task is made in it
    #[arg(long, value_name = "DIR", default_value = "data")]
    to: PathBuf,
    #[command(flatten)]
    dir: super::tasks::TasksDir,
}

pub(super) fn run(c: Data, global: &Global) -> Result<()> {
    match c {
        Data::Inspect(c) => inspect(&c, global),
        Data::Export(c) => export(&c, global),
        Data::Fetch(c) => fetch(&c, global),
    }
}

fn inspect(c: &Inspect, global: &Global) -> Result<()> {
    let p = Prepared::finetune(c.train.resolve(&[], global, Some(&c.model), &c.files)?, true)?;
    let data = p.data(global)?;
    if global.json {
        return super::print(&json!(data.train.report()).to_string());
    }
    let green = console::Style::new().green().bold();
    let mut out = data.preview(&p.tokenizer, c.show, |text| format!("[[{}]]", green.apply_to(text)))?;
    let r = data.train.report();
    out += &format!(
        "--- {} rows read, {} used, {} dropped; {} examples, {} tokens, {} trained\n",
        r.read,
        r.used,
        r.dropped_rows.len(),
        r.examples,
        r.tokens,
        r.target_tokens
    );
    for (reason, n) in &r.dropped {
        out += &format!("    dropped: {n} {reason}\n");
    }
    super::print(&out)
}

fn export(c: &Export, global: &Global) -> Result<()> {
    let resolved = c.train.resolve(&[("mixture.name", "flan".into())], global, None, &[])?;
    let s = &resolved.settings;
    if s.mixture.shots > 0 {
        return Err(Error::usage("solved examples are counted in a model's tokens: they are not exported")
            .fix("leave --shots out; `flanrt data inspect MODEL --mixture flan --shots N` shows them"));
    }
    let catalog = mixture::catalog(&s.mixture)?;
    let read = mixture::read(&catalog, s, global.progress)?;
    let n = c.n.unwrap_or(read.mixture.schedule.round() as u64);
    let mut progress = Progress::new(global.progress, "export", n, "example");
    let mut fault = None;
    let written = write_atomic_with(&c.to, |out| {
        for i in 0..n {
            let (draw, place, p) = match read.mixture.plain(i, s.mixture.prompt) {
                Ok(drawn) => drawn,
                Err(e) => {
                    fault = Some(e);
                    return Err(std::io::Error::other("a row cannot be rendered"));
                }
            };
            let t = read.mixture.sources[draw.task].task;
            let template = read.mixture.template(draw);
            let row = json!({
                "id": i, "prompt": p.prompt, "target": p.target, "options": p.options, "task": t.task.name,
                "dataset": t.dataset.name, "cluster": t.dataset.cluster, "template": template + 1,
                "inverse": t.dataset.templates[template].inverse, "row": place, "split": "train",
                "mixture": read.split.name, "seed": s.train.seed,
            });
            writeln!(out, "{row}")?;
            if i % 256 == 0 {
                progress.set(i, &[]);
            }
        }
        Ok(())
    });
    if let Some(fault) = fault {
        return Err(fault);
    }
    written?;
    progress.set(n, &[]);
    progress.finish();
    super::print(&format!("{n} examples of {} tasks in {}", read.mixture.sources.len(), c.to.display()))
}

#[cfg(not(feature = "hub"))]
fn fetch(_: &Fetch, _: &Global) -> Result<()> {
    Err(Error::usage("this flanrt was built without downloads")
        .fix("build it with the feature `hub`, or download the files by other means"))
}

#[cfg(feature = "hub")]
fn fetch(c: &Fetch, global: &Global) -> Result<()> {
    use crate::hub::{Hub, Request};
    use std::sync::atomic::Ordering;
    let catalog = c.dir.load()?;
    let tasks = catalog.select(&c.names)?;
    let stop = super::finetune::stop_flag()?;
    let hub = Hub::from_env()?;
    let (mut lines, mut failed) = (Vec::new(), Vec::new());
    for t in tasks {
        let Some(at) = &t.task.hub else {
            failed.push(format!("{}: it is not on the hub; {}", t.task.name, t.dataset.licence));
            continue;
        };
        let wanted = [&t.task.train, &t.task.dev, &t.task.test];
        let mut splits: Vec<String> = wanted
            .into_iter()
            .flatten()
            .map(|s| at.splits.get(&s.split).unwrap_or(&s.split).clone())
            .collect();
        splits.sort();
        splits.dedup();
        let request = Request { id: at.id.clone(), config: Some(at.config.clone()), revision: None, splits };
        let mut progress: Option<Progress> = None;
        let mut report = |done: u64, total: u64| {
            let p = progress.get_or_insert_with(|| {
                Progress::new(global.progress, &format!("fetch {}", t.task.name), total, "byte")
            });
            p.set(done, &[]);
            match stop.load(Ordering::Relaxed) {
                true => Err(Error::new(crate::error::Kind::Stopped, "stopped")
                    .fix("the same command goes on where it stopped")),
                false => Ok(()),
            }
        };
        let folder = c.to.join(&t.task.name);
        let result = hub.fetch(&request, &folder, &mut report);
        if let Some(p) = progress {
            p.finish();
        }
        match result {
            Ok(fetched) => {
                let bytes = match fetched.downloaded {
                    0 => "there already".to_owned(),
                    n => format!("{} downloaded", crate::disk::human_bytes(n)),
                };
                lines.push(format!("{:<28} {} files, {bytes}", t.task.name, fetched.files.len()));
            }
            // What one dataset lacks is no reason to leave out the others.
            Err(e) if e.kind == crate::error::Kind::Data => {
                failed.push(format!(
                    "{}: {}{}",
                    t.task.name,
                    e.message,
                    e.fix.map_or(String::new(), |f| format!(" ({f})"))
                ));
            }
            Err(e) => return Err(e),
        }
    }
    if !lines.is_empty() {
        super::print(&lines.join("\n"))?;
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::data(format!("{} not fetched:\n  {}", failed.len(), failed.join("\n  ")))
            .fix("see docs/tasks.md for files that the hub does not have")),
    }
}
