//! `flanrt score --tasks`: zero- and few-shot evaluation on datasets.

use super::Global;
use super::finetune::say;
use super::tasks::mode;
use crate::error::{Error, Kind, Result};
use crate::flan::eval::{
    Answer, EvalOptions, Grams, Overlap, Question, Report, Rule, compare, evaluate, load_saved, save, table,
};
use crate::flan::{
    Catalog, Collection, DataDirs, FORMAT_FILE, Format, Join, Mode, Part, TaskRef, Truncate, Wording, Writer,
    load_part,
};
use crate::progress::Progress;
use crate::score::generate::{GenerateOptions, encode_prompt, generate};
use crate::score::log::Row;
use crate::score::requests::Requests;
use crate::score::{Boundary, Encode, Engine, Hooks, ScoreOptions, run as score_requests};
use crate::text::{Files, Tokenizer};
use crate::weights::Source;
use clap::Args;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Flags of an evaluation on datasets.
#[derive(Args)]
pub(super) struct Evaluate {
    /// Datasets to evaluate on: tasks, datasets, clusters (with commas) or all; `flanrt tasks list` has the names
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "FLAN")]
    pub(super) tasks: Vec<String>,
    /// Directory with a folder per dataset, or TASK=FOLDER (repeatable)
    #[arg(long, value_name = "DIR", requires = "tasks", help_heading = "FLAN")]
    data: Vec<String>,
    /// Dataset files beside and over the built-in ones (docs/tasks.md)
    #[arg(long, value_name = "DIR", requires = "tasks", help_heading = "FLAN")]
    tasks_dir: Option<PathBuf>,
    /// flan (sum with EOS; mean and deviation over templates), lm-eval (sum, border as the harness; mean) or t0 (sum with EOS; median
    /// and quartiles)
    #[arg(long, value_name = "NAME", default_value = "flan", value_parser = ["flan", "lm-eval", "t0"], hide_possible_values = true, help_heading = "FLAN")]
    preset: String,
    /// Prompts: flan, no-template, dataset-name, or continuation (for models that were not tuned)
    #[arg(long, value_name = "MODE", default_value = "flan", value_parser = mode, help_heading = "FLAN")]
    prompt: Mode,
    /// Between prompt and answer: eos, newline, chat or none [default: what the model was tuned with, else newline]
    #[arg(long, value_name = "HOW", value_parser = join, help_heading = "FLAN")]
    join: Option<Join>,
    /// Solved examples in front of every prompt, from the training rows, at most
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "FLAN")]
    shots: usize,
    /// Most tokens of a prompt with its examples
    #[arg(long, value_name = "TOKENS", default_value_t = 960, help_heading = "FLAN")]
    shot_tokens: usize,
    /// Most tokens of a prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 1024, help_heading = "FLAN")]
    input_tokens: usize,
    /// Most tokens of a generated answer
    #[arg(long, value_name = "TOKENS", default_value_t = 256, help_heading = "FLAN")]
    max_new_tokens: usize,
    /// At most so many rows of a task, drawn by the seed
    #[arg(long, value_name = "N", help_heading = "FLAN")]
    limit: Option<usize>,
    /// At most so many forward templates of a dataset
    #[arg(long, value_name = "N", help_heading = "FLAN")]
    templates: Option<usize>,
    /// Ask every row in one template, in turn, instead of in all
    #[arg(long, help_heading = "FLAN")]
    rotate: bool,
    /// Leave the OPTIONS block out of prompts
    #[arg(long, help_heading = "FLAN")]
    no_options: bool,
    /// Do not score dev rows, which choose the best template
    #[arg(long, help_heading = "FLAN")]
    no_dev: bool,
    /// Draws rows and examples
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "FLAN")]
    seed: u64,
    /// Results of another run (its --out folder) to compare with: wins, paired tests
    #[arg(long, value_name = "DIR", requires = "tasks", help_heading = "FLAN")]
    baseline: Option<PathBuf>,
    /// Look for 13-grams that test rows share with the training rows of the other datasets in --data
    #[arg(long, requires = "tasks", help_heading = "FLAN")]
    contamination: bool,
    /// Text files to look for such 13-grams in, too (repeatable)
    #[arg(long, value_name = "FILE", requires = "tasks", help_heading = "FLAN")]
    against: Vec<PathBuf>,
    /// Put the FLAN paper's published numbers beside the results
    #[arg(long, help_heading = "FLAN")]
    paper: bool,
}

pub(super) fn join(text: &str) -> std::result::Result<Join, String> {
    let found = Join::NAMES.iter().find(|(name, _)| *name == text).map(|(_, join)| *join);
    found.ok_or_else(|| "expected eos, newline, newline-space, chat or none".into())
}

/// What was read and checked before the model is loaded.
pub(super) struct Prepared {
    catalog: Catalog,
    data: DataDirs,
    wording: Wording,
    options: EvalOptions,
}

/// How the model's prompts were written when it was tuned.
fn tuned_with(source: &Source) -> Result<Option<Join>> {
    match source.get(FORMAT_FILE)? {
        Some(bytes) => Format::join_of(&bytes).map(Some).map_err(|e| e.at(source.place())),
        None => Ok(None),
    }
}

impl Evaluate {
    /// Reads datasets' definitions and checks every flag.
    pub(super) fn prepare(&self, source: &Source, context: usize, window: Option<usize>) -> Result<Prepared> {
        let catalog = Catalog::load(Collection::of(&self.data), self.tasks_dir.as_deref())?;
        catalog.select(&self.tasks)?;
        let data = DataDirs::new(&self.data, &catalog)?;
        if data.is_empty() {
            return Err(Error::usage("--tasks needs the datasets' files").fix(
                "name a directory with a folder per dataset: --data DIR (flanrt data fetch downloads them)",
            ));
        }
        let join = match self.join {
            Some(join) => join,
            None => tuned_with(source)?.unwrap_or(Join::Newline),
        };
        let wording = Wording {
            prompt: self.prompt,
            join,
            input_tokens: self.input_tokens,
            target_tokens: self.max_new_tokens,
            truncate: Truncate::Field,
            shots: self.shots,
            shot_tokens: self.shot_tokens,
        };
        let rule = if self.preset == "lm-eval" { Rule::Sum } else { Rule::SumEos };
        let options = EvalOptions {
            rule,
            limit: self.limit,
            templates: self.templates,
            rotate: self.rotate,
            block: !self.no_options,
            dev: !self.no_dev,
            seed: self.seed,
        };
        Ok(Prepared {
            catalog,
            data,
            wording: wording.within(window.unwrap_or(context).min(context)),
            options,
        })
    }
}

impl Prepared {
    /// Tokens of the longest sequence that will be scored.
    pub(super) fn longest(&self) -> usize {
        self.wording.input_tokens + self.wording.target_tokens
    }
}

/// A tokenizer that puts nothing in front: chat templates write BOS where they want it.
pub(super) struct Bare<'a>(pub(super) &'a Tokenizer);

impl Encode for Bare<'_> {
    fn prefix(&self) -> &[u32] {
        &[]
    }
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.0.encode_bare(text)
    }
    fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        self.0.encode_bare(text)
    }
    fn eos(&self) -> Option<u32> {
        self.0.eos()
    }
}

/// The model behind an evaluation.
pub(super) struct Model<'a, 'd> {
    pub(super) engine: &'a mut Engine<'d>,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) encode: &'a dyn Encode,
    pub(super) scoring: ScoreOptions,
    pub(super) generating: GenerateOptions,
    pub(super) work: &'a Path,
    pub(super) global: &'a Global,
    pub(super) stop: &'a AtomicBool,
}

impl Answer for Model<'_, '_> {
    fn rank(&mut self, name: &str, requests: &Requests) -> Result<Vec<Row>> {
        // Named by all that decides the numbers: what an interrupted evaluation has finished is not done again.
        let s = &self.scoring;
        let rule = (s.boundary, s.window, s.eos, s.unrolled);
        let decided = format!("{} {} {:?} {rule:?}", requests.hash, s.model, s.settings);
        let hash = blake3::hash(decided.as_bytes()).to_hex()[..24].to_owned();
        let file = self.work.join(format!("{}_{hash}.jsonl", name.replace(':', "_")));
        if !file.exists() {
            let options = ScoreOptions { out: Some(file.clone()), ..self.scoring.clone() };
            let mut progress = None;
            let mode = self.global.progress;
            let mut on_progress = |done: usize, total: usize| {
                let p = progress.get_or_insert_with(|| {
                    Progress::new(mode, &format!("score {name}"), total as u64, "prompt")
                });
                p.set(done as u64, &[]);
            };
            let mut note = |message: &str| say!("{message}");
            let mut hooks = Hooks { progress: &mut on_progress, say: &mut note, interrupted: self.stop };
            score_requests(requests, self.encode, self.engine, &options, &mut hooks)?;
            if let Some(p) = progress {
                p.finish();
            }
        }
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(Kind::Disk, "read", &file, &e))?;
        let parse = |line: &str| {
            serde_json::from_str(line).map_err(|e| Error::disk(format!("{}: {e}", file.display())))
        };
        text.lines().map(parse).collect()
    }

    fn answer(&mut self, name: &str, questions: &[Question]) -> Result<Vec<String>> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(
            format!("{} {:?} {:?}", self.scoring.model, self.scoring.settings, self.generating).as_bytes(),
        );
        questions.iter().for_each(|q| _ = hasher.update(q.context.as_bytes()).update(b"\n\0"));
        let hash = hasher.finalize().to_hex()[..24].to_owned();
        let file = self.work.join(format!("{}_{hash}.json", name.replace(':', "_")));
        if let Ok(bytes) = std::fs::read(&file) {
            return serde_json::from_slice(&bytes)
                .map_err(|e| Error::disk(format!("{}: {e}", file.display())));
        }
        let ids = questions
            .par_iter()
            .map(|q| encode_prompt(self.encode, &q.context).map_err(|e| e.at(name)))
            .collect::<Result<Vec<_>>>()?;
        let mut progress = None;
        let mode = self.global.progress;
        let mut on_progress = |done: usize, total: usize| {
            let p = progress.get_or_insert_with(|| {
                Progress::new(mode, &format!("answer {name}"), total as u64, "prompt")
            });
            p.set(done as u64, &[]);
        };
        let mut note = |message: &str| say!("{message}");
        let mut hooks = Hooks { progress: &mut on_progress, say: &mut note, interrupted: self.stop };
        let outputs = generate(&ids, self.tokenizer, self.engine, &self.generating, &mut hooks)?;
        if let Some(p) = progress {
            p.finish();
        }
        let texts: Vec<String> = outputs.into_iter().map(|o| o.text.trim().to_owned()).collect();
        let bytes = serde_json::to_vec(&texts).map_err(|e| Error::internal(e.to_string()))?;
        crate::disk::write_atomic(&file, &bytes)?;
        Ok(texts)
    }
}

/// Runs the evaluation and prints or saves what it came to.
pub(super) fn run(
    c: &Evaluate,
    p: &Prepared,
    source: &Source,
    engine: &mut Engine<'_>,
    tokenizer: &Tokenizer,
    scoring: ScoreOptions,
    out: Option<&Path>,
    global: &Global,
    stop: &AtomicBool,
) -> Result<()> {
    let baseline = c.baseline.as_deref().map(load_saved).transpose()?;
    let writer = Writer::new(p.wording.clone(), tokenizer)?;
    let temporary;
    let work = match out {
        Some(dir) => dir.join("work"),
        None => {
            temporary = tempfile::tempdir().map_err(|e| Error::disk(format!("no temporary folder: {e}")))?;
            temporary.path().to_owned()
        }
    };
    std::fs::create_dir_all(&work).map_err(|e| Error::io(Kind::Disk, "create", &work, &e))?;
    let boundary = if c.preset == "lm-eval" { Boundary::LmEval } else { scoring.boundary };
    let (w, o) = (&writer.wording, &p.options);
    let mut settings = scoring.settings.clone();
    for (key, value) in [
        ("preset", c.preset.clone()),
        ("prompt", w.prompt.name().to_owned()),
        ("join", writer.format.join.name().to_owned()),
        ("shots", w.shots.to_string()),
        ("shot_tokens", w.shot_tokens.to_string()),
        ("input_tokens", w.input_tokens.to_string()),
        ("target_tokens", w.target_tokens.to_string()),
        ("options", o.block.to_string()),
        ("limit", o.limit.map_or("none".into(), |l| l.to_string())),
        ("templates", o.templates.map_or("all".into(), |l| l.to_string())),
        ("rotate", o.rotate.to_string()),
        ("seed", o.seed.to_string()),
    ] {
        settings.insert(key.into(), value);
    }
    // Without an EOS there is none to score; nor does the harness score one, and where a prompt fills the window it would cost
    // a token of it.
    let eos = tokenizer.eos().is_some() && c.preset != "lm-eval";
    let rule = if eos { o.rule } else { Rule::Sum };
    let scoring = ScoreOptions { boundary, unconditional: None, eos, ..scoring };
    let bare = Bare(tokenizer);
    let encode: &dyn Encode = if writer.format.prefix() { tokenizer } else { &bare };
    let generating = GenerateOptions {
        max_new_tokens: w.target_tokens,
        stop_ids: tokenizer.stop_ids().to_vec(),
        // A model that was not tuned goes on with the next line, or the next example.
        stop: match (w.prompt, writer.format.join) {
            (Mode::Continuation, _) => vec!["\n".into()],
            (_, Join::Newline | Join::NewlineSpace) => vec!["\n\n".into()],
            _ => Vec::new(),
        },
        prefix: encode.prefix().to_vec(),
        batch_size: scoring.batch_size,
        window: scoring.window,
        unrolled: scoring.unrolled,
    };
    let mut report = Report {
        model: source.name(),
        model_hash: scoring.model.clone(),
        settings,
        rule,
        tasks: Vec::new(),
        missing: Vec::new(),
    };
    let mut model = Model { engine, tokenizer, encode, scoring, generating, work: &work, global, stop };
    let options = EvalOptions { rule, ..o.clone() };
    let chosen = p.catalog.select(&c.tasks)?;
    for task in &chosen {
        match evaluate(*task, &p.data, &writer, &options, &mut model)? {
            Some(results) => report.tasks.extend(results),
            None => report.missing.push(task.task.name.clone()),
        }
    }
    if report.tasks.is_empty() {
        return Err(Error::data(format!("no test rows for {}", report.missing.join(", ")))
            .fix("name a directory with a folder per dataset, or TASK=FOLDER"));
    }
    if c.contamination || !c.against.is_empty() {
        contamination(c, p, &chosen, &mut report)?;
    }
    let mut text = table(&report, &p.catalog, c.paper, c.preset == "t0")?;
    if let Some(baseline) = &baseline {
        text += &compared(&report, baseline);
    }
    if let Some(dir) = out {
        let saved = save(&report, dir)?;
        crate::disk::write_atomic(&dir.join("report.txt"), console::strip_ansi_codes(&text).as_bytes())?;
        let _ = std::fs::remove_dir_all(&work);
        say!("saved   {}", saved.results.display());
    }
    match global.json {
        true => {
            let value = serde_json::to_string(&report).map_err(|e| Error::internal(e.to_string()))?;
            super::print(&value)
        }
        false => super::print(&text),
    }
}

/// The other run beside this one.
fn compared(here: &Report, there: &Report) -> String {
    use std::fmt::Write;
    let rows = compare(here, there);
    let mut out = format!(
        "\n{:<26} {:>8} {:>8} {:>8} {:>7} {:>8}\n",
        "against the baseline", "here", "there", "change", "rows", "p"
    );
    for r in &rows {
        let scale = if r.here.abs().max(r.there.abs()) > 1.5 { 1.0 } else { 100.0 };
        let p = r.paired.map_or("-".into(), |(_, p)| format!("{p:.4}"));
        let _ = writeln!(
            out,
            "  {:<24} {:>8.1} {:>8.1} {:>+8.1} {:>7} {p:>8}",
            r.task,
            r.here * scale,
            r.there * scale,
            (r.here - r.there) * scale,
            r.rows
        );
    }
    let wins = rows.iter().filter(|r| r.better).count();
    let _ = writeln!(out, "better on {wins} of {} tasks (p: paired sign-flip test over rows)", rows.len());
    out
}

/// Looks for test rows in training text, and splits the scores.
fn contamination(c: &Evaluate, p: &Prepared, chosen: &[TaskRef<'_>], report: &mut Report) -> Result<()> {
    let mut grams = Grams::default();
    // A row is what its first template shows of it, without the options.
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for t in &report.tasks {
        let Some(task) = chosen.iter().find(|c| t.name.split(':').next() == Some(c.task.name.as_str()))
        else {
            continue;
        };
        let Some(place) = p.data.find(task.task) else { continue };
        let Some(part) = load_part(*task, &place, Part::Test, usize::MAX)? else { continue };
        let places: std::collections::BTreeSet<&str> =
            t.samples.iter().filter(|s| s.part == "test").map(|s| s.place.as_str()).collect();
        for found in part.rows.iter().filter(|f| places.contains(f.id.as_str())) {
            let text = task.dataset.inputs.iter().filter_map(|i| found.row.fields.get(i)?.as_str());
            let text = text.collect::<Vec<_>>().join(" ");
            grams.want(&text);
            texts.insert(found.id.clone(), text);
        }
    }
    if c.contamination {
        for task in p.catalog.tasks().filter(|t| !chosen.iter().any(|c| c.task.name == t.task.name)) {
            let Some(place) = p.data.find(task.task) else { continue };
            let Some(part) = load_part(task, &place, Part::Train, 30_000)? else { continue };
            for found in &part.rows {
                for value in found.row.fields.values().filter_map(|v| v.as_str()) {
                    grams.read(value);
                }
            }
        }
    }
    for path in &c.against {
        let bytes = std::fs::read(path).map_err(|e| Error::io(Kind::Data, "read", path, &e))?;
        grams.read(&String::from_utf8_lossy(&bytes));
    }
    let rule = report.rule;
    for t in &mut report.tasks {
        let places: BTreeMap<usize, &str> =
            t.samples.iter().filter(|s| s.part == "test").map(|s| (s.doc, s.place.as_str())).collect();
        let dirty = |doc: usize| places.get(&doc).and_then(|p| texts.get(*p)).is_some_and(|t| grams.dirty(t));
        let overlap = Overlap::of(t, rule, dirty);
        t.overlap = Some(overlap);
    }
    Ok(())
}
