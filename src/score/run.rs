//! A scoring run: requests in, rows and a summary out.
//!
//! Requests are taken in blocks: a block is tokenised in parallel, planned into batches and run; finished rows go to the
//! log in request order after every batch. Only one block's tokens are ever held. Unconditional scores are computed when
//! their option's text first comes up and kept for the run. No command line and no model here.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::boundary::{Boundary, Sequence, empty_context, place, place_unconditional};
use super::forest::{Limits, Tally, Tree, add, batches};
use super::log::{Found, Header, Log, Row};
use super::metrics::{Choice, Scored};
use super::requests::{Ask, Request, Requests};
use super::summary::{Collector, Summary};
use super::{Encode, Predict};
use crate::error::{Error, Kind, Result};

/// How to score.
#[derive(Clone, Debug)]
pub struct ScoreOptions {
    /// The border between context and option.
    pub boundary: Boundary,
    /// Most requests in one batch; `None`: as many as fit. Changes speed only.
    pub batch_size: Option<usize>,
    /// Longest sequence of inputs, in tokens; `None`: the model's.
    pub window: Option<usize>,
    /// The context of the unconditional scores (empty: the prefix, or EOS where there is none); `None`: leave them out.
    pub unconditional: Option<String>,
    /// Score the EOS behind every option, too.
    pub eos: bool,
    /// Compute every option from its own copy of the context: for tests, slower.
    pub unrolled: bool,
    /// The results file.
    pub out: Option<PathBuf>,
    /// Hash of the model; a run continues only with the same one.
    pub model: String,
    /// Whatever else decides numbers, such as dtype and device, by name.
    pub settings: BTreeMap<String, String>,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self {
            boundary: Boundary::Joint,
            batch_size: None,
            window: None,
            unconditional: Some(String::new()),
            eos: false,
            unrolled: false,
            out: None,
            model: String::new(),
            settings: BTreeMap::new(),
        }
    }
}

/// How a run speaks to its caller.
pub struct Hooks<'a> {
    /// Called with the number of finished requests (or text windows) and of all.
    pub progress: &'a mut dyn FnMut(usize, usize),
    /// Called with what the user should know, such as that an earlier run is continued.
    pub say: &'a mut dyn FnMut(&str),
    /// Set by a signal: the run stops before its next batch.
    pub interrupted: &'a AtomicBool,
}

/// Scores all of `requests` and, with `opts.out`, writes one row per request.
///
/// # Errors
/// `Kind::Usage` for a window or batch size that cannot work, `Kind::Disk` for the results file, `Kind::Stopped` (or
/// `Kind::Interrupted` without a results file) after an interruption, and whatever `encode` and `predict` say.
pub fn run(
    requests: &Requests,
    encode: &dyn Encode,
    predict: &mut dyn Predict,
    opts: &ScoreOptions,
    hooks: &mut Hooks<'_>,
) -> Result<Summary> {
    let window = window(opts.window, encode, predict)?;
    let limits = limits(opts.batch_size, predict)?;
    let mut unconditional = opts.unconditional.as_deref();
    if unconditional == Some("") && empty_context(encode).is_empty() {
        (hooks.say)(
            "this tokenizer has neither a BOS nor an EOS to stand for an empty context: no unconditional scores",
        );
        unconditional = None;
    }
    let rows = &requests.rows[..];
    let mut known: HashMap<&str, Option<f64>> = HashMap::new();
    let mut collector = Collector::default();
    let mut log = None;
    let mut done = 0;
    if let Some(out) = &opts.out {
        let header = Header {
            flanrt_score: 1,
            requests: requests.hash.clone(),
            count: rows.len(),
            model: opts.model.clone(),
            boundary: opts.boundary,
            unconditional: unconditional.map(str::to_owned),
            eos: opts.eos,
            window,
            forest: !opts.unrolled,
            settings: opts.settings.clone(),
        };
        let (opened, found) = Log::open(out, &header, rows, |i, row| {
            if let Row::Choice { options, .. } = &row {
                for (text, scored) in rows[i].texts().iter().zip(options) {
                    if scored.unconditional.is_some() {
                        known.insert(text, scored.unconditional);
                    }
                }
            }
            collector.add(&row);
        })?;
        let partial = opened.path().display();
        match found {
            Found::Nothing => {}
            Found::Rows(n) => {
                done = n;
                (hooks.say)(&format!("continuing after {n} of {} requests in {partial}", rows.len()));
            }
            Found::Other(why) => {
                (hooks.say)(&format!("{partial} belongs to another run ({why}): starting over"));
            }
        }
        log = Some(opened);
    }
    let continued = done;
    let mut run = Run {
        rows,
        encode,
        predict,
        opts,
        hooks,
        window,
        limits,
        unconditional,
        known,
        collector,
        log,
        done,
    };
    (run.hooks.progress)(done, rows.len());
    while run.done < rows.len() {
        run.block()?;
    }
    if let Some(log) = run.log {
        log.finish()?;
    }
    Ok(run.collector.summary(continued))
}

/// The window to score with, checked against the model's and the tokenizer's prefix.
pub(super) fn window(asked: Option<usize>, encode: &dyn Encode, predict: &dyn Predict) -> Result<usize> {
    let (window, context, prefix) =
        (asked.unwrap_or(predict.context()), predict.context(), encode.prefix().len());
    if window > context {
        return Err(Error::usage(format!("a window of {window} tokens exceeds the model's {context}")));
    }
    // Two tokens: one to read, one to score.
    if window <= prefix.max(1) {
        let least = prefix.max(1) + 1;
        return Err(Error::usage(format!(
            "a window of {window} tokens is too short: it takes at least {least}"
        )));
    }
    Ok(window)
}

/// What a batch may hold.
pub(super) fn limits(batch_size: Option<usize>, predict: &dyn Predict) -> Result<Limits> {
    if batch_size == Some(0) {
        return Err(Error::usage("a batch size of 0 scores nothing")
            .fix("leave --batch-size out, or give at least 1"));
    }
    let trees = batch_size.unwrap_or(usize::MAX);
    Ok(Limits { trees, tokens: predict.capacity(), asks: predict.asks_capacity().max(1) })
}

struct Run<'a, 'h> {
    rows: &'a [Request],
    encode: &'a dyn Encode,
    predict: &'a mut dyn Predict,
    opts: &'a ScoreOptions,
    hooks: &'a mut Hooks<'h>,
    window: usize,
    limits: Limits,
    unconditional: Option<&'a str>,
    /// Unconditional scores by option text; `None` while they are under way.
    known: HashMap<&'a str, Option<f64>>,
    collector: Collector,
    log: Option<Log>,
    done: usize,
}

/// A request of a block under way. Its tallies: first those of `fresh`, then one per sequence.
struct Job<'a> {
    request: &'a Request,
    sequences: Vec<Sequence>,
    /// Option texts whose unconditional score is computed along with this request.
    fresh: Vec<&'a str>,
    first_owner: usize,
    end_owner: usize,
}

impl<'a> Run<'a, '_> {
    /// How many requests to take next: enough to fill batches, few enough to hold (8 MiB of text).
    fn block_len(&self) -> usize {
        let most = self.limits.trees.saturating_mul(4).clamp(256, 1024);
        let size = |r: &Request| r.texts().iter().map(|t| t.len() + r.context.len()).sum::<usize>();
        let mut bytes = 0;
        let fits = |r: &&Request| {
            bytes += size(r);
            bytes <= 8 << 20
        };
        self.rows[self.done..].iter().take(most).take_while(fits).count().max(1)
    }

    fn block(&mut self) -> Result<()> {
        let block = &self.rows[self.done..self.done + self.block_len()];
        let (rule, encode, window) = (self.opts.boundary, self.encode, self.window);
        let eos = if self.opts.eos { encode.eos() } else { None };
        let placed: Vec<Vec<Sequence>> = block
            .par_iter()
            .map(|r| {
                place(rule, encode, &r.context, r.texts(), window - usize::from(eos.is_some()))
                    .map(|mut placed| {
                        placed.iter_mut().filter(|s| !s.ids.is_empty()).for_each(|s| s.ids.extend(eos));
                        placed
                    })
                    .map_err(|e| e.at(format!("request {}", r.id)))
            })
            .collect::<Result<_>>()?;
        let fresh: Vec<Vec<&'a str>> = block.iter().map(|r| self.fresh(r)).collect();
        let bare: Vec<Vec<Sequence>> = match self.unconditional {
            Some(context) => fresh
                .par_iter()
                .map(|texts| place_unconditional(rule, encode, context, texts, window))
                .collect::<Result<_>>()?,
            None => vec![Vec::new(); block.len()],
        };

        let (mut jobs, mut trees, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        for (((request, sequences), fresh), bare) in block.iter().zip(placed).zip(fresh).zip(bare) {
            let first_owner = expected.len();
            for s in &bare {
                trees.extend(Tree::grow(std::slice::from_ref(s), expected.len() as u32, self.opts.unrolled));
                expected.push(s.targets().len());
            }
            trees.extend(Tree::grow(&sequences, expected.len() as u32, self.opts.unrolled));
            expected.extend(sequences.iter().map(|s| s.targets().len()));
            jobs.push(Job { request, sequences, fresh, first_owner, end_owner: expected.len() });
        }
        let mut tallies = vec![Tally::default(); expected.len()];
        let mut jobs = jobs.into_iter().peekable();
        let complete = |tallies: &[Tally], job: &Job<'_>| {
            (job.first_owner..job.end_owner).all(|o| tallies[o].tokens == expected[o])
        };
        let batches = batches(&trees, &self.limits, self.opts.unrolled)?;
        drop(trees);
        let mut batches = batches.iter();
        loop {
            let before = self.done;
            while let Some(job) = jobs.next_if(|job| complete(&tallies, job)) {
                self.settle(&job, &tallies)?;
            }
            if self.done > before {
                if let Some(log) = &mut self.log {
                    log.flush()?;
                }
                (self.hooks.progress)(self.done, self.rows.len());
            }
            let Some(batch) = batches.next() else { break };
            self.check_interrupted()?;
            let predictions = self.predict.predict(batch)?;
            add(batch, &predictions, &mut tallies).map_err(|e| match jobs.peek() {
                Some(job) => e.at(format!("request {} or one of its batch", job.request.id)),
                None => e,
            })?;
        }
        match &mut self.log {
            Some(log) => log.sync(),
            None => Ok(()),
        }
    }

    /// The option texts of `request` whose unconditional score is not known and not under way.
    fn fresh(&mut self, request: &'a Request) -> Vec<&'a str> {
        let mut fresh = Vec::new();
        if let (Some(_), Ask::Choice { options, .. }) = (self.unconditional, &request.ask) {
            for text in options {
                self.known.entry(text).or_insert_with(|| {
                    fresh.push(text.as_str());
                    None
                });
            }
        }
        fresh
    }

    /// Turns a finished request into its row.
    fn settle(&mut self, job: &Job<'a>, tallies: &[Tally]) -> Result<()> {
        let (bare, own) = tallies[job.first_owner..job.end_owner].split_at(job.fresh.len());
        for (text, tally) in job.fresh.iter().zip(bare) {
            self.known.insert(text, Some(tally.logprob));
        }
        let eos = self.opts.eos && self.encode.eos().is_some();
        let scored = |i: usize, text: &str, unconditional| {
            Scored::new(text, &job.sequences[i], &own[i], unconditional, eos)
        };
        let id = job.request.id.clone();
        let row = match &job.request.ask {
            Ask::Continuation(text) => Row::Continuation { id, scored: scored(0, text, None) },
            Ask::Choice { options, label } => {
                let known = |text: &str| self.known.get(text).copied().flatten();
                let options: Vec<Scored> =
                    options.iter().enumerate().map(|(i, text)| scored(i, text, known(text))).collect();
                Row::Choice { id, choice: Choice::of(&options), options, label: *label }
            }
        };
        if let Some(log) = &mut self.log {
            log.append(&row)?;
        }
        self.collector.add(&row);
        self.done += 1;
        Ok(())
    }

    fn check_interrupted(&mut self) -> Result<()> {
        if !self.hooks.interrupted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let message = format!("stopped after {} of {} requests", self.done, self.rows.len());
        match &mut self.log {
            Some(log) => {
                log.sync()?;
                let partial = log.path().display();
                Err(Error::new(Kind::Stopped, message)
                    .fix(format!("the same command continues: the finished rows are in {partial}")))
            }
            None => Err(Error::new(Kind::Interrupted, message)
                .fix("give --out FILE, and the same command continues where it stopped")),
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
