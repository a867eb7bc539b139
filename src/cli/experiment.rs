//! `flanrt experiment`: the paper's experiments, on the embedded model and the micro-world or on a model and data of the user's.
//!
//! What a cell comes to is kept under a name made of everything that decides it, so the same command goes on where it was stopped, and
//! experiments share what they have in common.

use super::device::Machine;
use super::exam::{Candidate, Exam, guards};
use super::findings::{self, Setting};
use super::finetune::{Go, execute, say, stop_flag};
use super::mixture;
use super::prepare::{Prepared, count, millions};
use super::score::model_hash;
use super::settings::Resolved;
use super::{Global, TrainFlags, demo, sizes};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::experiment::{Base, Cell, Marks, Name, World, plan};
use crate::flan::{BUILTIN, Catalog, DataDirs, TaskRef};
use crate::progress::{self, Mode};
use crate::score::{Engine, Hooks, Requests, ScoreOptions, run as run_requests};
use crate::tensor::DType;
use crate::text::Tokenizer;
use crate::weights::Source;
use crate::world;
use clap::Args;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// `flanrt experiment`
#[derive(Args)]
pub(super) struct Experiment {
    /// holdout, clusters, scale, instructions, few-shot, options, templates, or all
    #[arg(value_name = "NAME", value_parser = names, required = true)]
    names: Vec<Names>,
    /// Model folder in Hugging Face layout, or `builtin`
    #[arg(long, value_name = "MODEL", default_value = BUILTIN)]
    model: String,
    /// For `scale`: models of rising size (repeatable) [default with the micro-world: five that are pretrained first]
    #[arg(long, value_name = "MODEL")]
    size: Vec<String>,
    /// Repetitions with other seeds (and other subsets of clusters)
    #[arg(long, value_name = "N", default_value_t = 3)]
    seeds: u64,
    /// Test rows of a task, each asked in one template
    #[arg(long, value_name = "N", default_value_t = 200)]
    limit: usize,
    /// Solved examples of `few-shot`
    #[arg(long, value_name = "N", default_value_t = 2)]
    exemplars: usize,
    /// Models tuned and asked at a time, which share the threads; changes speed only [default: one a thread for a small model on
    /// a CPU, else 1]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    #[command(flatten)]
    train: TrainFlags,
}

#[derive(Clone, Copy, Debug)]
enum Names {
    One(Name),
    All,
}

fn names(text: &str) -> std::result::Result<Names, String> {
    let found = Name::ALL.iter().find(|(name, _)| *name == text).map(|(_, n)| Names::One(*n));
    found.or_else(|| (text == "all").then_some(Names::All)).ok_or_else(|| {
        let known: Vec<&str> = Name::ALL.iter().map(|(name, _)| *name).collect();
        format!("expected {} or all", known.join(", "))
    })
}

/// A model that cells start from.
struct Model {
    /// As it was named.
    path: String,
    source: Source,
    hash: String,
}

/// What all cells share.
struct Lab<'a> {
    c: &'a Experiment,
    global: &'a Global,
    quiet: Global,
    base: Resolved,
    catalog: &'a Catalog,
    data: &'a DataDirs,
    out: PathBuf,
    device: Machine,
    stop: std::sync::Arc<AtomicBool>,
    models: BTreeMap<Base, Model>,
}

pub(super) fn run(c: Experiment, global: &Global) -> Result<()> {
    let given = &c.train.datasets;
    let micro = given.is_empty() || given.iter().any(|d| d == BUILTIN);
    let command = if micro {
        let held = |(key, _): &(&str, toml::Value)| *key != "mixture.hold_out";
        demo::defaults().into_iter().filter(held).collect()
    } else {
        vec![("mixture.name", toml::Value::String("flan".into()))]
    };
    let base = c.train.resolve(&command, global, Some(&c.model), &[])?;
    let catalog = mixture::catalog(&base.settings.mixture)?;
    let data = DataDirs::new(&base.settings.mixture.data, &catalog)?;
    let model = find(&c.model)?;
    let out = match base.settings.output.dir.as_str() {
        "" => Path::new("experiments").join(model.source.name()),
        dir => PathBuf::from(dir),
    };
    disk::ensure_can_write_dir(&out)?;
    let device = Machine::open(&base.settings.run.device, base.settings.run.threads)?;
    let quiet = Global { progress: Mode::None, json: false, ..global.clone() };
    let models = BTreeMap::from([(Base::Given, model)]);
    let stop = stop_flag()?;
    let mut lab =
        Lab { c: &c, global, quiet, base, catalog: &catalog, data: &data, out, device, stop, models };
    let mut world = lab.world()?;
    let chosen: BTreeSet<Name> = c
        .names
        .iter()
        .flat_map(|n| match n {
            Names::One(name) => vec![*name],
            Names::All => Name::ALL.iter().map(|(_, n)| *n).collect(),
        })
        .collect();
    say!("flanrt {}  {}", env!("CARGO_PKG_VERSION"), lab.device.name());
    if chosen.contains(&Name::Scale) {
        world.sizes = lab.sizes(micro)?;
    }
    let plans: Vec<(Name, Vec<Cell>)> = chosen.into_iter().map(|name| (name, plan(name, &world))).collect();
    lab.fill(plans.iter().flat_map(|(_, cells)| cells))?;
    let setting = lab.setting(&world, micro)?;
    for (name, cells) in &plans {
        let results = cells
            .iter()
            .map(|cell| {
                let marks = lab.marks(cell)?;
                marks.map(|m| (cell.clone(), m)).ok_or_else(|| Error::internal("a cell without marks"))
            })
            .collect::<Result<Vec<_>>>()?;
        let file = lab.out.join(format!("{}.json", name.name()));
        let text = serde_json::to_string(&json!({"experiment": name.name(), "cells": results}))
            .map_err(|e| Error::internal(e.to_string()))?;
        disk::write_atomic(&file, text.as_bytes())?;
        findings::tell(*name, &results, &setting, &lab.out)?;
    }
    Ok(())
}

fn find(name: &str) -> Result<Model> {
    let source = Source::find(name)?;
    let hash = model_hash(&source.checkpoint()?, &source.config()?)?;
    Ok(Model { path: name.to_owned(), source, hash })
}

impl Lab<'_> {
    /// The clusters that there are rows for, and what of them is held out.
    fn world(&self) -> Result<World> {
        let here = |cluster: &str| {
            self.catalog.tasks().any(|t| t.dataset.cluster == cluster && self.data.find(t.task).is_some())
        };
        let m = &self.base.settings.mixture;
        if self.data.is_empty() {
            return Err(Error::usage("an experiment needs the datasets' files").fix(
                "name a directory with a folder per dataset: --data DIR (flanrt data fetch downloads them)",
            ));
        }
        let clusters: Vec<_> = self.catalog.clusters.iter().filter(|c| here(&c.name)).collect();
        let asked = |name: &str, evaluated: bool| match m.hold_out.is_empty() {
            true => evaluated,
            false => m.hold_out.iter().any(|h| h == name),
        };
        let evaluated: Vec<String> =
            clusters.iter().filter(|c| asked(&c.name, c.evaluated)).map(|c| c.name.clone()).collect();
        if let Some(unknown) = m.hold_out.iter().find(|h| !evaluated.contains(h)) {
            return Err(Error::usage(format!("--hold-out {unknown}: there is no such cluster with rows"))
                .fix("an experiment holds out clusters; `flanrt tasks list` has their names"));
        }
        if clusters.len() < 2 || evaluated.is_empty() {
            return Err(Error::data(
                "an experiment needs rows of at least two clusters, one of them evaluated",
            ));
        }
        let in_cluster = |name: &str| {
            self.catalog.datasets.iter().filter(|d| d.cluster == name && d.part_of.is_none()).count()
        };
        Ok(World {
            most: (
                self.catalog.datasets.iter().map(|d| d.forward().count()).max().unwrap_or(1),
                clusters.iter().map(|c| in_cluster(&c.name)).max().unwrap_or(1).min(4),
            ),
            clusters: clusters.iter().map(|c| (c.name.clone(), c.overlaps.clone())).collect(),
            evaluated,
            seeds: self.c.seeds,
            sizes: Vec::new(),
            shots: self.c.exemplars,
        })
    }

    /// What is said beside the results: baselines, and what the base makes of the questions as prose.
    fn setting<'w>(&'w self, world: &'w World, micro: bool) -> Result<Setting<'w>> {
        let mut baselines = BTreeMap::new();
        for cluster in &world.evaluated {
            if let Some(b) = guards(self.catalog, self.data, cluster)? {
                baselines.insert(cluster.clone(), b);
            }
        }
        let base = &self.models[&Base::Given];
        let config = base.source.config()?;
        let fact = |name: &str, value: String| (name.to_owned(), value);
        let facts = vec![
            fact("Model", format!("{}, {} parameters", base.source.name(), millions(count(&config)))),
            fact("Weights", base.hash.clone()),
            fact(
                "Data",
                format!(
                    "{} tasks in {} clusters",
                    self.catalog.tasks().filter(|t| self.data.find(t.task).is_some()).count(),
                    world.clusters.len()
                ),
            ),
            fact("Tuning", {
                let t = &self.base.settings.train;
                let length =
                    if t.steps > 0 { format!("{} steps", t.steps) } else { format!("{} epochs", t.epochs) };
                format!("{length} of {}, learning rate {}, {:?}", t.step_size(), t.lr, t.optimizer)
                    .to_lowercase()
            }),
            fact("Rows", format!("up to {} of every task, each in one of its templates", self.c.limit)),
            fact("Seeds", world.seeds.to_string()),
            fact("Machine", self.device.name()),
            fact("Version", format!("flanrt {}", env!("CARGO_PKG_VERSION"))),
        ];
        let parameters = self
            .models
            .iter()
            .filter_map(|(key, model)| match key {
                Base::Size(name) => Some(model.source.config().map(|c| (name.clone(), count(&c)))),
                Base::Given => None,
            })
            .collect::<Result<_>>()?;
        Ok(Setting {
            world,
            catalog: self.catalog,
            baselines,
            ceilings: if micro { self.ceilings()? } else { BTreeMap::new() },
            facts,
            parameters,
            command: super::run_report::command(),
        })
    }

    /// Share of the micro-world's test questions, put as its documents would, that the base model answers, by cluster.
    fn ceilings(&self) -> Result<BTreeMap<String, f64>> {
        let base = &self.models[&Base::Given];
        let (config, tokenizer) = (base.source.config()?, Tokenizer::load(&base.source)?);
        let file = base.source.checkpoint()?;
        let (mut engine, _) = Engine::load(&*self.device, &config, &file, DType::F32, config.context)?;
        let mut clusters: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for t in self.catalog.tasks() {
            let n = t.task.rows.test.min(self.c.limit);
            let lines: String = world::rows(&t.task.name, world::Split::Test, n)
                .unwrap_or_default()
                .iter()
                .enumerate()
                .map(|(i, r)| {
                    json!({"id": i, "context": r.cloze, "options": r.cloze_options, "label": r.answer})
                        .to_string()
                        + "\n"
                })
                .collect();
            let requests = Requests::parse(&t.task.name, lines.as_bytes())?;
            let options = ScoreOptions { unconditional: None, ..ScoreOptions::default() };
            let mut hooks = Hooks { progress: &mut |_, _| {}, say: &mut |_| {}, interrupted: &self.stop };
            let summary = run_requests(&requests, &tokenizer, &mut engine, &options, &mut hooks)?;
            if let Some(accuracy) = &summary.accuracy {
                clusters.entry(t.dataset.cluster.clone()).or_default().push(accuracy.sum.value);
            }
        }
        Ok(clusters.into_iter().map(|(c, v)| (c, v.iter().sum::<f64>() / v.len() as f64)).collect())
    }

    /// Names of the models of rising size; those of the micro-world are pretrained if they are not there yet.
    fn sizes(&mut self, micro: bool) -> Result<Vec<String>> {
        let mut names = Vec::new();
        if self.c.size.is_empty() && !micro {
            return Err(Error::usage("`scale` needs models of several sizes")
                .fix("name them: --size MODEL --size MODEL"));
        }
        let found: Vec<(String, String)> = match self.c.size.is_empty() {
            false => self.c.size.iter().map(|path| (path.clone(), path.clone())).collect(),
            true => sizes::pretrained(&self.out.join("sizes"), self.global, &self.stop)?,
        };
        for (name, path) in found {
            self.models.insert(Base::Size(name.clone()), find(&path)?);
            names.push(name);
        }
        Ok(names)
    }

    /// The settings of a cell's run, and the name of what they decide.
    fn run_of(&self, cell: &Cell) -> Result<Option<(Resolved, PathBuf)>> {
        let Some(set) = &cell.set else { return Ok(None) };
        let model = &self.models[&cell.base];
        let mut set = set.clone();
        set.push(format!("model.path={:?}", model.path));
        let resolved = self.base.clone().with(&set)?;
        let mut decided =
            serde_json::to_value(&resolved.settings).map_err(|e| Error::internal(e.to_string()))?;
        for free in ["output", "run"] {
            decided.as_object_mut().map(|d| d.remove(free));
        }
        decided["model"]["path"] = model.hash.as_str().into();
        let specs: Vec<&str> = self.catalog.datasets.iter().map(|d| d.hash.as_str()).collect();
        let text = json!([decided, specs, env!("CARGO_PKG_VERSION")]).to_string();
        let key = blake3::hash(text.as_bytes()).to_hex()[..20].to_owned();
        let dir = self.out.join("trained").join(key);
        let set = [format!("output.dir={:?}", dir.display().to_string())];
        Ok(Some((resolved.with(&set)?, dir)))
    }

    /// Where a cell's answers are kept.
    fn marks_file(&self, cell: &Cell) -> Result<PathBuf> {
        let model = match self.run_of(cell)? {
            Some((_, dir)) => dir.display().to_string(),
            None => self.models[&cell.base].hash.clone(),
        };
        let specs: Vec<&str> = self
            .catalog
            .datasets
            .iter()
            .filter(|d| cell.ask.contains(&d.cluster))
            .map(|d| d.hash.as_str())
            .collect();
        let m = &self.base.settings.mixture;
        let text = json!([
            model,
            cell.ask,
            cell.ways,
            cell.shots,
            self.c.limit,
            m.join,
            m.data,
            m.input_tokens,
            m.target_tokens,
            specs
        ]);
        let key = blake3::hash(text.to_string().as_bytes()).to_hex()[..20].to_owned();
        Ok(self.out.join("marks").join(format!("{key}.json")))
    }

    /// What a cell came to, if it is done.
    fn marks(&self, cell: &Cell) -> Result<Option<Vec<Marks>>> {
        let file = self.marks_file(cell)?;
        let Ok(bytes) = std::fs::read(&file) else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Error::disk(format!("{}: {e}", file.display())).fix("delete the file and start again")
        })
    }

    /// Models tuned at a time. Two of a small model on a thread each are done sooner than one after the other on two.
    fn jobs(&self, threads: usize) -> Result<usize> {
        const SMALL: u64 = 20_000_000;
        let most =
            self.models.values().map(|m| Ok(count(&m.source.config()?))).collect::<Result<Vec<_>>>()?;
        let small = !self.device.own_memory && most.iter().all(|n| *n < SMALL);
        Ok(self.c.jobs.unwrap_or(if small { threads } else { 1 }).clamp(1, threads))
    }

    /// Does the cells that are not done yet, several at a time; those of one model one after the other.
    fn fill<'c>(&self, cells: impl Iterator<Item = &'c Cell>) -> Result<()> {
        let (mut all, mut seen) = (0, BTreeSet::new());
        let mut runs: Vec<(Option<PathBuf>, Vec<&Cell>)> = Vec::new();
        for cell in cells {
            all += 1;
            if !seen.insert(self.marks_file(cell)?) || self.marks(cell)?.is_some() {
                continue;
            }
            let dir = self.run_of(cell)?.map(|(_, dir)| dir);
            match runs.iter_mut().find(|(d, _)| dir.is_some() && *d == dir) {
                Some((_, cells)) => cells.push(cell),
                None => runs.push((dir, vec![cell])),
            }
        }
        let open = runs.iter().map(|(_, cells)| cells.len()).sum();
        let threads = self.device.threads.max(1);
        let jobs = self.jobs(threads)?.min(runs.len().max(1));
        say!("        {all} cells, {open} of them to do, {jobs} at a time, in {}", self.out.display());
        let clock = Mutex::new(Clock { total: open, done: 0, begin: Instant::now() });
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let work = || -> Result<()> {
            let device = Machine::open(&self.base.settings.run.device, threads / jobs)?;
            while let Some((_, cells)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                for cell in cells {
                    let (tuned, asked) = self.cell(cell, &device)?;
                    if let Ok(mut clock) = clock.lock() {
                        clock.done(&cell.label, tuned, asked);
                    }
                    if self.stop.load(Ordering::Relaxed) {
                        return Err(Error::new(
                            Kind::Stopped,
                            "stopped between two cells; what was done is kept",
                        )
                        .fix("continue with the same command"));
                    }
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    if let Err(e) = work() {
                        // The others finish the cell that they are at.
                        next.store(usize::MAX / 2, Ordering::Relaxed);
                        if let Ok(mut first) = failed.lock() {
                            first.get_or_insert(e);
                        }
                    }
                });
            }
        });
        failed.into_inner().ok().flatten().map_or(Ok(()), Err)
    }

    /// Tunes and asks; the time each took.
    fn cell(&self, cell: &Cell, device: &Machine) -> Result<(Duration, Duration)> {
        let file = self.marks_file(cell)?;
        let start = Instant::now();
        let source = match self.run_of(cell)? {
            None => self.models[&cell.base].source.clone(),
            Some((resolved, dir)) => {
                if !trained(&dir) {
                    if dir.exists() {
                        std::fs::remove_dir_all(&dir)
                            .map_err(|e| Error::io(Kind::Disk, "remove", &dir, &e))?;
                    }
                    let _hush = progress::hush();
                    let resolved = resolved.with(&[format!("run.threads={}", device.threads)])?;
                    execute(
                        Prepared::finetune(resolved, true)?,
                        &Go::default(),
                        &self.quiet,
                        &self.stop,
                        false,
                    )?;
                }
                Source::find(&dir.join("model").display().to_string())?
            }
        };
        let tuned = start.elapsed();
        let (config, tokenizer) = (source.config()?, Tokenizer::load(&source)?);
        let tasks: Vec<TaskRef<'_>> =
            self.catalog.tasks().filter(|t| cell.ask.contains(&t.dataset.cluster)).collect();
        let m = &self.base.settings.mixture;
        let exam = Exam {
            tasks,
            data: self.data,
            join: m.join,
            limit: self.c.limit,
            seed: 0,
            input_tokens: m.input_tokens,
            target_tokens: m.target_tokens,
        };
        let dtype = self.base.settings.model.dtype.fixed().unwrap_or(device.profile().dtype);
        let model = Candidate {
            source: &source,
            config: &config,
            tokenizer: &tokenizer,
            device,
            dtype,
            name: "cell",
        };
        let marks = exam.sit(&model, &cell.ways, cell.shots, &self.quiet, &self.stop)?;
        let text = serde_json::to_vec(&marks).map_err(|e| Error::internal(e.to_string()))?;
        let folder = self.out.join("marks");
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(Kind::Disk, "create", &folder, &e))?;
        disk::write_atomic(&file, &text)?;
        Ok((tuned, start.elapsed() - tuned))
    }
}

/// Whether a run directory holds a finished run.
fn trained(dir: &Path) -> bool {
    let status = std::fs::read(dir.join("run.json")).ok();
    let json: Option<serde_json::Value> = status.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    json.is_some_and(|j| j["status"] == "finished") && dir.join("model").is_dir()
}

/// Counts cells and tells the time that is left.
struct Clock {
    total: usize,
    done: usize,
    begin: Instant,
}

impl Clock {
    fn done(&mut self, label: &str, tuned: Duration, asked: Duration) {
        self.done += 1;
        let left = self.begin.elapsed() / self.done as u32 * self.total.saturating_sub(self.done) as u32;
        say!(
            "[{}/{}] {label}  tuned {:.0} s, asked {:.0} s  about {} left",
            self.done,
            self.total,
            tuned.as_secs_f64(),
            asked.as_secs_f64(),
            minutes(left)
        );
    }
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}
