//! `flanrt tasks`: datasets and their prompts as a person reads them.

use super::Global;
use crate::error::{Error, Result};
use crate::flan::{
    BUILTIN, Catalog, Collection, DataDirs, Dataset, Mode, Row, Split, TaskRef, faults, sample,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

/// Where datasets are defined.
#[derive(Args, Clone, Default)]
pub(super) struct TasksDir {
    /// Dataset files of your own, DIR/CLUSTER/DATASET.toml, beside and over the built-in ones (docs/tasks.md)
    #[arg(long, value_name = "DIR")]
    pub(super) tasks_dir: Option<PathBuf>,
    /// The datasets of the micro-world, which `--data builtin` means elsewhere, in place of the paper's
    #[arg(long)]
    micro_world: bool,
}

impl TasksDir {
    pub(super) fn load(&self) -> Result<Catalog> {
        Catalog::load(self.collection(), self.tasks_dir.as_deref())
    }

    fn collection(&self) -> Collection {
        if self.micro_world { Collection::MicroWorld } else { Collection::Flan }
    }
}

/// `flanrt tasks`
#[derive(Subcommand)]
pub(super) enum Tasks {
    /// All datasets by cluster
    List {
        /// Clusters, datasets or tasks [default: all]
        names: Vec<String>,
        #[command(flatten)]
        dir: TasksDir,
    },
    /// Everything about a dataset: where it is from, its splits, answers, templates
    Show {
        /// A dataset or task
        name: String,
        #[command(flatten)]
        dir: TasksDir,
    },
    /// What can be held out: by cluster, inside clusters, and the paper's ablations
    Splits {
        /// Show the tasks of this split
        name: Option<String>,
        #[command(flatten)]
        dir: TasksDir,
    },
    /// Prompts of a row, with the part that is trained marked
    Render(Render),
    /// Check dataset files: syntax, names, and every template on the file's own rows
    Validate {
        #[command(flatten)]
        dir: TasksDir,
    },
}

/// `flanrt tasks render`
#[derive(Args)]
pub(super) struct Render {
    /// A dataset or task
    name: String,
    /// Directory with a folder per dataset, or TASK=FOLDER (repeatable); without one, rows made up for the dataset
    #[arg(long, value_name = "DIR")]
    data: Vec<String>,
    /// Which row, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    row: usize,
    /// Which template, from 1
    #[arg(long, value_name = "N", conflicts_with = "all_templates")]
    template: Option<usize>,
    /// Every template (the default where none is named)
    #[arg(long)]
    all_templates: bool,
    /// flan, no-template, dataset-name or continuation
    #[arg(long, value_name = "MODE", default_value = "flan", value_parser = mode)]
    prompt: Mode,
    #[command(flatten)]
    dir: TasksDir,
}

pub(super) fn mode(text: &str) -> std::result::Result<Mode, String> {
    let found = Mode::NAMES.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode);
    found.ok_or_else(|| "expected flan, no-template, dataset-name or continuation".into())
}

pub(super) fn run(c: Tasks, global: &Global) -> Result<()> {
    match c {
        Tasks::List { names, dir } => {
            let catalog = dir.load()?;
            let names = if names.is_empty() { vec!["all".into()] } else { names };
            match global.json {
                true => super::print(&list_json(&catalog.select(&names)?).to_string()),
                false => super::print(&list(&catalog, &catalog.select(&names)?)),
            }
        }
        Tasks::Show { name, dir } => {
            let catalog = dir.load()?;
            let tasks = catalog.select(&[name])?;
            let mut shown: Vec<&str> = Vec::new();
            for t in tasks {
                if !shown.contains(&t.dataset.name.as_str()) {
                    shown.push(&t.dataset.name);
                    super::print(&show(t.dataset))?;
                }
            }
            Ok(())
        }
        Tasks::Splits { name, dir } => splits(&dir.load()?, name.as_deref(), global),
        Tasks::Render(c) => render(&c),
        Tasks::Validate { dir } => validate(&dir),
    }
}

/// Numbers of forward and inverse templates.
fn template_counts(d: &Dataset) -> (usize, usize) {
    let forward = d.forward().count();
    (forward, d.templates.len() - forward)
}

fn list(catalog: &Catalog, tasks: &[TaskRef<'_>]) -> String {
    let bold = console::Style::new().bold();
    let mut out = String::new();
    let (mut datasets, mut templates, mut clusters) = (0, 0, 0);
    for cluster in &catalog.clusters {
        let mine: Vec<&TaskRef> = tasks.iter().filter(|t| t.dataset.cluster == cluster.name).collect();
        if mine.is_empty() {
            continue;
        }
        clusters += 1;
        let mut names: Vec<&str> = mine.iter().map(|t| t.dataset.name.as_str()).collect();
        names.dedup();
        let whole: Vec<_> =
            mine.iter().filter(|t| t.dataset.part_of.is_none()).map(|t| &t.dataset.name).collect();
        let whole = whole.windows(2).filter(|w| w[0] != w[1]).count() + usize::from(!whole.is_empty());
        datasets += whole;
        let held = match cluster.overlaps.as_slice() {
            [] => String::new(),
            overlaps => format!("  held out with {}", overlaps.join(", ")),
        };
        let title = bold.apply_to(format!("{} ({})", cluster.title, cluster.name));
        let _ = writeln!(out, "{title}  {whole} datasets{held}");
        let mut last = "";
        for t in &mine {
            let d = t.dataset;
            let (forward, inverse) = template_counts(d);
            if d.name != last {
                templates += d.templates.len();
            }
            let part = d.part_of.as_ref().map_or(String::new(), |p| format!("  (part of {p})"));
            let shown = if d.name == last { String::new() } else { format!("{forward}+{inverse}") };
            let rows = if t.task.train.is_some() { t.task.rows.train.to_string() } else { "-".into() };
            let _ = writeln!(
                out,
                "  {:<28} {shown:>5}  {rows:>9} rows  {:<9} {}{part}",
                t.task.name,
                d.metrics[0].name(),
                d.about
            );
            last = &d.name;
        }
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "{datasets} datasets in {clusters} clusters, {} tasks, {templates} templates (forward+inverse)",
        tasks.len()
    );
    out
}

fn list_json(tasks: &[TaskRef<'_>]) -> Value {
    let tasks = tasks.iter().map(|t| {
        let (forward, inverse) = template_counts(t.dataset);
        json!({
            "task": t.task.name, "dataset": t.dataset.name, "cluster": t.dataset.cluster, "title": t.dataset.title,
            "part_of": t.dataset.part_of, "templates": {"forward": forward, "inverse": inverse},
            "metrics": t.dataset.metrics.iter().map(|m| m.name()).collect::<Vec<_>>(),
            "rows": {"train": t.task.rows.train, "dev": t.task.rows.dev, "test": t.task.rows.test},
            "hub": t.task.hub.as_ref().map(|h| json!({"id": h.id, "config": h.config})),
            "licence": t.dataset.licence,
        })
    });
    Value::Array(tasks.collect())
}

fn slice(s: &Option<crate::flan::Slice>) -> String {
    s.as_ref().map_or("-".into(), ToString::to_string)
}

fn show(d: &Dataset) -> String {
    let bold = console::Style::new().bold();
    let mut out = format!("{}  {}\n{}\n", bold.apply_to(&d.title), d.name, d.about);
    let _ = writeln!(out, "paper    {}\nlicence  {}\ncluster  {}", d.paper, d.licence, d.cluster);
    let metrics: Vec<&str> = d.metrics.iter().map(|m| m.name()).collect();
    let _ = writeln!(out, "metrics  {}", metrics.join(", "));
    for t in &d.tasks {
        let hub = t.hub.as_ref().map_or("-".into(), |h| format!("{} ({})", h.id, h.config));
        let _ = writeln!(
            out,
            "task     {}  hub {hub}  train {} = {}  dev {} = {}  test {} = {}",
            t.name,
            slice(&t.train),
            t.rows.train,
            slice(&t.dev),
            t.rows.dev,
            slice(&t.test),
            t.rows.test
        );
    }
    for (i, t) in d.templates.iter().enumerate() {
        let kind = if t.inverse { "inverse" } else { "forward" };
        let direction = t.direction.as_ref().map_or(String::new(), |d| format!(" {d}"));
        let _ = writeln!(
            out,
            "\n{}\n{}",
            bold.apply_to(format!("template {} {kind}{direction}", i + 1)),
            t.source
        );
    }
    out
}

/// Rows (at most 30,000 a task) and weight (at most 3,000) of tasks by their published counts.
fn sizes(tasks: &[TaskRef<'_>]) -> (usize, usize) {
    let rows = |cap: usize| tasks.iter().map(|t| t.task.rows.train.min(cap)).sum();
    (rows(30_000), rows(3_000))
}

fn splits(catalog: &Catalog, name: Option<&str>, global: &Global) -> Result<()> {
    let all = match name {
        Some(name) => vec![Split::named(catalog, name)?],
        None => Split::all(catalog)?,
    };
    let names = |list: &[TaskRef<'_>]| list.iter().map(|t| t.task.name.clone()).collect::<Vec<_>>();
    if global.json {
        let splits = all.iter().map(|s| {
            let (rows, weight) = sizes(&s.train);
            json!({
                "split": s.name, "about": s.about, "train": names(&s.train), "test": names(&s.test),
                "unused": names(&s.unused), "templates": s.templates, "rows": rows, "weight": weight,
            })
        });
        return super::print(&Value::Array(splits.collect()).to_string());
    }
    let mut out = String::new();
    if name.is_none() {
        let _ = writeln!(
            out,
            "{:<28} {:>8} {:>5} {:>10} {:>8}  about",
            "split", "datasets", "tasks", "rows", "weight"
        );
    }
    for s in &all {
        let (rows, weight) = sizes(&s.train);
        let datasets = Split::datasets(&s.train);
        let _ = writeln!(
            out,
            "{:<28} {datasets:>8} {:>5} {rows:>10} {weight:>8}  {}",
            s.name,
            s.train.len(),
            s.about
        );
        if name.is_some() {
            for (what, list) in [("train", &s.train), ("test", &s.test), ("unused", &s.unused)] {
                let _ = writeln!(out, "{what:<7} {}", names(list).join(" "));
            }
        }
    }
    if name.is_none() {
        out += "\nRows: published counts, at most 30,000 a task; weight: at most 3,000. Train with --split NAME, or --hold-out CLUSTER.\n";
    }
    super::print(&out)
}

/// The row of a file that templates see, with its place.
fn pick(t: TaskRef<'_>, data: &DataDirs, n: usize) -> Result<(String, Row)> {
    let rows = sample(t, data)?;
    let of = rows.len();
    let (place, raw) = rows
        .into_iter()
        .nth(n)
        .ok_or_else(|| Error::usage(format!("--row {n}: there are {of} rows of {} to show", t.task.name)))?;
    match t.dataset.row(&t.task.name, &raw).map_err(|e| e.at(&place))? {
        Ok(row) => Ok((place, row)),
        Err(why) => {
            Err(Error::data(format!("{place}: the row is left out: {why}")).fix("choose another --row"))
        }
    }
}

fn render(c: &Render) -> Result<()> {
    let mut given = c.data.clone();
    if c.dir.micro_world {
        given.push(BUILTIN.into());
    }
    let catalog = Catalog::load(Collection::of(&given), c.dir.tasks_dir.as_deref())?;
    let data = DataDirs::new(&given, &catalog)?;
    let (dim, green) = (console::Style::new().dim(), console::Style::new().green().bold());
    let colours = console::colors_enabled();
    let mut out = String::new();
    for t in catalog.select(std::slice::from_ref(&c.name))? {
        let (place, row) = pick(t, &data, c.row)?;
        let chosen: Vec<usize> = match c.template {
            Some(n) if n >= 1 && n <= t.dataset.templates.len() => vec![n - 1],
            Some(n) => {
                let of = t.dataset.templates.len();
                return Err(Error::usage(format!("--template {n}: {} has {of}", t.dataset.name)));
            }
            None if c.prompt == Mode::Flan => (0..t.dataset.templates.len()).collect(),
            // The wording of the template does not matter: one for every direction.
            None => {
                let mut seen = Vec::new();
                let each = t.dataset.forward().filter(|(_, f)| {
                    let new = !seen.contains(&&f.direction);
                    seen.push(&f.direction);
                    new
                });
                each.map(|(i, _)| i).collect()
            }
        };
        for i in chosen {
            let template = &t.dataset.templates[i];
            let p = t.dataset.prompt_in(c.prompt, &row, template, true)?;
            let kind = if template.inverse { "inverse" } else { "forward" };
            let head = format!("--- {} template {} {kind}  {place}", t.task.name, i + 1);
            let target = match colours {
                true => green.apply_to(&p.target).to_string(),
                false => format!("[[{}]]", p.target),
            };
            let _ = writeln!(out, "{}\n{}\n{target}\n", dim.apply_to(head), p.prompt);
        }
    }
    super::print(&out)
}

fn validate(dir: &TasksDir) -> Result<()> {
    let (catalog, problems) = Catalog::examine(dir.collection(), dir.tasks_dir.as_deref())?;
    let mut lines: Vec<String> = problems.iter().map(|p| p.message.clone()).collect();
    for d in &catalog.datasets {
        for raw in &d.examples {
            if let Ok(row) = d.row(&d.tasks[0].name, raw)? {
                lines.extend(faults(d, &row)?);
            }
        }
    }
    if lines.is_empty() {
        let templates: usize = catalog.datasets.iter().map(|d| d.templates.len()).sum();
        let whole = catalog.datasets.iter().filter(|d| d.part_of.is_none()).count();
        return super::print(&format!(
            "{} files, {whole} datasets, {} tasks, {templates} templates: no faults",
            catalog.datasets.len(),
            catalog.tasks().count()
        ));
    }
    super::print(&lines.join("\n"))?;
    Err(Error::data(format!("{} faults in dataset files", lines.len())).fix("see docs/tasks.md"))
}
