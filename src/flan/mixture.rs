//! The mixture: which row comes when, in which words.
//!
//! Draws are a pure function of (seed, index). They come in rounds: in every round each task has as many places as its weight
//! says, exactly, and a permutation puts the places in order; a task's places take its rows in the order of a permutation of
//! its own, pass after pass. So any draw is found without the ones before it, a run can go on from anywhere, and what was asked
//! for is what is drawn, after every round to the row.

use super::catalog::TaskRef;
use super::folder::{Found, PartRows};
use super::format::{Format, Join};
use super::prompt::{Mode, Prompt, Truncate, head};
use super::row::Row;
use crate::data::Rendered;
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::text::Tokenizer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Streams of the draws: order of places, of a task's rows, template, examples in the prompt.
const PLACES: u64 = 0xF1A1 << 32;
const ROWS: u64 = 0xF1A2 << 32;
const WORDS: u64 = 0xF1A3 << 32;
const SHOTS: u64 = 0xF1A4 << 32;
const BLOCKS: u64 = 0xF1A6 << 32;

/// How templates are assigned to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assign {
    /// At random for every draw, as in the paper.
    Random,
    /// In turn: the n-th draw of a task gets template n modulo their number, as in the released code.
    Rotate,
}

/// How prompts are made for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wording {
    /// Instructions, or one of the ablations.
    pub prompt: Mode,
    /// Between prompt and answer.
    pub join: Join,
    /// Most tokens of a prompt with what stands around it.
    pub input_tokens: usize,
    /// Most tokens of an answer with the EOS behind it.
    pub target_tokens: usize,
    /// What goes where a prompt is too long.
    pub truncate: Truncate,
    /// Most solved examples in front of a prompt.
    pub shots: usize,
    /// Most tokens of a prompt with its examples.
    pub shot_tokens: usize,
}

impl Wording {
    /// Lengths that fit sequences of `seq_len` tokens: answers keep at least a fifth.
    pub fn within(mut self, seq_len: usize) -> Self {
        self.target_tokens = self.target_tokens.min((seq_len / 5).max(2)).max(2);
        self.input_tokens = self.input_tokens.min(seq_len.saturating_sub(self.target_tokens));
        self.shot_tokens = self.shot_tokens.min(self.input_tokens);
        self
    }
}

/// What decides how often a task is drawn.
#[derive(Clone, Debug)]
pub struct Rates {
    /// Rows beyond this number add nothing to a task's weight.
    pub max_rate: usize,
    /// Weights to the power of one over this: 1 is proportional, large is uniform.
    pub temperature: f64,
    /// Factors by task, dataset or cluster, the narrowest that is given.
    pub weights: BTreeMap<String, f64>,
}

/// Places per round of tasks with `rows` rows each.
///
/// # Errors
/// `Kind::Usage` for numbers that mean nothing, or if nothing would be drawn.
pub fn places(tasks: &[TaskRef<'_>], rows: &[usize], rates: &Rates) -> Result<Vec<usize>> {
    if !(rates.temperature.is_finite() && rates.temperature > 0.0) || rates.max_rate == 0 {
        return Err(Error::usage("a mixture's temperature and max_rate must be above 0"));
    }
    let capped: Vec<usize> = rows.iter().map(|&n| n.min(rates.max_rate)).collect();
    let mut weights = Vec::new();
    for (t, &n) in tasks.iter().zip(&capped) {
        let names = [&t.task.name, &t.dataset.name, &t.dataset.cluster];
        let factor = names.iter().find_map(|n| rates.weights.get(*n)).copied().unwrap_or(1.0);
        if !(factor.is_finite() && factor >= 0.0) {
            return Err(Error::usage(format!("the weight {factor} of {} must be at least 0", t.task.name)));
        }
        weights.push(factor * (n as f64).powf(1.0 / rates.temperature));
    }
    let (round, sum) = (capped.iter().sum::<usize>(), weights.iter().sum::<f64>());
    if round == 0 || sum <= 0.0 {
        return Err(Error::data("the mixture has no rows to draw"));
    }
    if rates.temperature == 1.0 && rates.weights.is_empty() {
        return Ok(capped);
    }
    // Largest remainders; a task with rows and a weight is drawn at least once a round.
    let exact: Vec<f64> = weights.iter().map(|w| w / sum * round as f64).collect();
    let mut places: Vec<usize> = exact.iter().map(|x| x.floor() as usize).collect();
    let mut order: Vec<usize> = (0..exact.len()).collect();
    order.sort_by(|&a, &b| (exact[b] - exact[b].floor()).total_cmp(&(exact[a] - exact[a].floor())));
    for &i in order.iter().take(round - places.iter().sum::<usize>()) {
        places[i] += 1;
    }
    for (p, w) in places.iter_mut().zip(&weights) {
        if *w > 0.0 {
            *p = (*p).max(1);
        }
    }
    Ok(places)
}

/// One draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Index of the task.
    pub task: usize,
    /// Index of its row.
    pub row: usize,
    /// Index of the template.
    pub template: usize,
    /// Number of the draw.
    pub index: u64,
}

/// A permutation that was asked for lately, by what it is of.
type Kept = Mutex<BTreeMap<usize, (u64, Arc<Vec<u32>>)>>;

/// The order of draws over tasks with so many rows, places and templates.
pub struct Schedule {
    seed: u64,
    places: Vec<usize>,
    starts: Vec<usize>,
    rows: Vec<usize>,
    templates: Vec<usize>,
    assign: Assign,
    kept: Kept,
}

impl Schedule {
    /// The schedule of tasks with these numbers of places, rows and templates.
    pub fn new(
        seed: u64,
        places: Vec<usize>,
        rows: Vec<usize>,
        templates: Vec<usize>,
        assign: Assign,
    ) -> Self {
        let starts = places
            .iter()
            .scan(0, |at, n| {
                *at += n;
                Some(*at - n)
            })
            .collect();
        Self { seed, places, starts, rows, templates, assign, kept: Kept::default() }
    }

    /// Draws of `task` in a round.
    pub fn places(&self, task: usize) -> usize {
        self.places[task]
    }

    /// Draws of a round.
    pub fn round(&self) -> usize {
        self.places.iter().sum()
    }

    /// Permutation number `pass` of `what` (a task, or past them the places), of `n`. Only speed depends on what is kept.
    fn permutation(&self, what: usize, pass: u64, n: usize) -> Arc<Vec<u32>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.get(&what) {
            Some((p, found)) if *p == pass => Arc::clone(found),
            _ => {
                let stream = if what == self.places.len() { PLACES } else { ROWS + ((what as u64) << 16) };
                // The pass is part of the seed's word: tasks and passes have a stream each.
                let made = Rng::new(self.seed, stream ^ (pass << 40)).permutation(n);
                let made = Arc::new(made);
                kept.insert(what, (pass, Arc::clone(&made)));
                made
            }
        }
    }

    /// Draw number `index`.
    pub fn draw(&self, index: u64) -> Draw {
        let size = self.round() as u64;
        let (round, at) = (index / size, (index % size) as usize);
        let place = self.permutation(self.places.len(), round, size as usize)[at] as usize;
        let task = self.starts.partition_point(|&s| s <= place) - 1;
        // Tasks without places share their start with the next one; the last of those has the place.
        let nth = round * self.places[task] as u64 + (place - self.starts[task]) as u64;
        let n = self.rows[task] as u64;
        let row = self.permutation(task, nth / n, n as usize)[(nth % n) as usize] as usize;
        let templates = self.templates[task] as u64;
        let template = match self.assign {
            Assign::Rotate => nth % templates,
            Assign::Random => Rng::new(self.seed, WORDS + task as u64).below(nth, templates),
        };
        Draw { task, row, template: template as usize, index }
    }
}

/// A task with its rows.
pub struct Source<'a> {
    /// The task.
    pub task: TaskRef<'a>,
    /// Its rows as JSON: a tenth of what they take unpacked.
    rows: Vec<(String, Box<[u8]>)>,
}

impl<'a> Source<'a> {
    /// Packs what was read.
    pub fn new(task: TaskRef<'a>, part: PartRows) -> Result<Self> {
        let pack = |f: Found| {
            let bytes = serde_json::to_vec(&f.row).map_err(|e| Error::internal(e.to_string()))?;
            Ok((f.id, bytes.into_boxed_slice()))
        };
        Ok(Self { task, rows: part.rows.into_iter().map(pack).collect::<Result<_>>()? })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Row `i` and its place.
    pub fn row(&self, i: usize) -> Result<(&str, Row)> {
        let (id, bytes) = &self.rows[i];
        let row = serde_json::from_slice(bytes).map_err(|e| Error::internal(format!("{id}: {e}")))?;
        Ok((id, row))
    }
}

/// A prompt with what stands in front of it, ready to be tokenised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worded {
    /// Everything before the answer.
    pub context: String,
    /// The prompt with its answer and options.
    pub prompt: Prompt,
    /// How many solved examples stand in front.
    pub shots: usize,
}

/// Puts rows into words for one model.
pub struct Writer<'a> {
    /// How.
    pub wording: Wording,
    /// The joiner.
    pub format: Format<'a>,
    tokenizer: &'a Tokenizer,
}

impl<'a> Writer<'a> {
    /// A writer for the model of `tokenizer`.
    pub fn new(wording: Wording, tokenizer: &'a Tokenizer) -> Result<Self> {
        // Text that goes on has nothing to be joined by.
        let join = if wording.prompt == Mode::Continuation { Join::None } else { wording.join };
        Ok(Self { format: Format::new(join, tokenizer)?, wording, tokenizer })
    }

    /// Tokens of `context` as the model will read it.
    fn tokens(&self, context: &str) -> Result<usize> {
        let prefix = if self.format.prefix() { self.tokenizer.prefix().len() } else { 0 };
        Ok(prefix + self.tokenizer.encode_bare(context)?.len())
    }

    /// A prompt alone, fitted into its length.
    pub fn prompt(&self, task: TaskRef<'_>, row: &Row, template: usize, block: bool) -> Result<Prompt> {
        let w = &self.wording;
        let count = |prompt: &str| self.tokens(&self.format.context(&[], prompt)?);
        let template = &task.dataset.templates[template];
        let mut p =
            task.dataset.prompt_within(w.prompt, row, template, block, w.truncate, w.input_tokens, &count)?;
        p.target = self.format.answer(p.target);
        p.options = p.options.into_iter().map(|option| self.format.answer(option)).collect();
        let most = w.target_tokens.saturating_sub(1).max(1);
        let bare = |text: &str| Ok(self.tokenizer.encode_bare(text)?.len());
        // An option is never cut: it would be another one.
        if p.options.is_empty() && p.target.len() > most && bare(&p.target)? > most {
            p.target = head(&p.target, most, &bare)?.trim_end().to_owned();
            p.cut = true;
        }
        Ok(p)
    }

    /// `prompt` behind as many of `shots` as fit, in their order.
    pub fn behind(&self, prompt: Prompt, shots: &[(String, String)]) -> Result<Worded> {
        let mut taken = Vec::new();
        for shot in shots.iter().take(self.wording.shots) {
            taken.push(shot.clone());
            if self.tokens(&self.format.context(&taken, &prompt.prompt)?)? > self.wording.shot_tokens {
                taken.pop();
                break;
            }
        }
        Ok(Worded { context: self.format.context(&taken, &prompt.prompt)?, shots: taken.len(), prompt })
    }
}

/// Rows of several tasks, drawn by a schedule and put into words.
pub struct Mixture<'a> {
    /// The tasks.
    pub sources: Vec<Source<'a>>,
    /// The order.
    pub schedule: Schedule,
    /// Templates of every task, by number in their dataset.
    templates: Vec<Vec<usize>>,
    /// Share of the prompts that hold the OPTIONS block.
    block: f64,
    seed: u64,
}

/// The templates that a mixture uses of a dataset: the first `n`, forward ones first; all where there is no limit.
fn chosen(task: TaskRef<'_>, mode: Mode, inverse: bool, n: Option<usize>) -> Vec<usize> {
    let d = task.dataset;
    let mut list: Vec<usize> = d.forward().map(|(i, _)| i).collect();
    if inverse && mode == Mode::Flan {
        list.extend(d.templates.iter().enumerate().filter(|(_, t)| t.inverse).map(|(i, _)| i));
    }
    list.truncate(n.unwrap_or(usize::MAX).max(1));
    list
}

impl<'a> Mixture<'a> {
    /// The mixture of `sources`.
    pub fn new(
        sources: Vec<Source<'a>>,
        rates: &Rates,
        seed: u64,
        assign: Assign,
        mode: Mode,
        inverse: bool,
        templates: Option<usize>,
        block: f64,
    ) -> Result<Self> {
        if !(0.0..=1.0).contains(&block) {
            return Err(Error::usage(format!("mixture.options is a share from 0 to 1, not {block}")));
        }
        let tasks: Vec<TaskRef> = sources.iter().map(|s| s.task).collect();
        let rows: Vec<usize> = sources.iter().map(Source::len).collect();
        let templates: Vec<Vec<usize>> = tasks.iter().map(|t| chosen(*t, mode, inverse, templates)).collect();
        let counts = templates.iter().map(Vec::len).collect();
        let places = places(&tasks, &rows, rates)?;
        let schedule = Schedule::new(seed, places, rows, counts, assign);
        Ok(Self { sources, schedule, templates, block, seed })
    }

    /// The number in its dataset of a draw's template.
    pub fn template(&self, draw: Draw) -> usize {
        self.templates[draw.task][draw.template]
    }

    /// Whether a draw's prompt holds the OPTIONS block.
    fn block(&self, draw: Draw) -> bool {
        Rng::new(self.seed, BLOCKS + draw.task as u64).uniform(draw.index) < self.block
    }

    /// Draw number `index`, in words.
    pub fn worded(&self, index: u64, writer: &Writer<'_>) -> Result<(String, Worded)> {
        let draw = self.schedule.draw(index);
        let source = &self.sources[draw.task];
        let (place, row) = source.row(draw.row)?;
        let template = self.template(draw);
        let id = format!("{}/{} {place}", source.task.task.name, template + 1);
        let written = || -> Result<Worded> {
            let block = self.block(draw);
            let prompt = writer.prompt(source.task, &row, template, block)?;
            let shots = self.shots(draw, writer, template, block)?;
            writer.behind(prompt, &shots)
        };
        let worded = written().map_err(|e| e.at(&id))?;
        Ok((id, worded))
    }

    /// Draw number `index` with its row's place and what it asks, uncut: for files that any model may read.
    pub fn plain(&self, index: u64, mode: Mode) -> Result<(Draw, String, Prompt)> {
        let draw = self.schedule.draw(index);
        let source = &self.sources[draw.task];
        let (place, row) = source.row(draw.row)?;
        let template = &source.task.dataset.templates[self.template(draw)];
        let prompt =
            source.task.dataset.prompt_in(mode, &row, template, self.block(draw)).map_err(|e| e.at(place))?;
        Ok((draw, place.to_owned(), prompt))
    }

    /// Solved rows of the draw's task, not the draw's own, in the draw's template.
    fn shots(
        &self,
        draw: Draw,
        writer: &Writer<'_>,
        template: usize,
        block: bool,
    ) -> Result<Vec<(String, String)>> {
        let source = &self.sources[draw.task];
        exemplars(
            source,
            draw.row,
            writer,
            (template, block),
            Rng::new(self.seed, SHOTS + draw.task as u64),
            draw.index,
        )
    }

    /// Draw number `index` as a row for training.
    pub fn rendered(&self, index: u64, writer: &Writer<'_>) -> Result<Rendered> {
        let (id, worded) = self.worded(index, writer)?;
        let start = worded.context.len();
        let text = worded.context + &worded.prompt.target;
        let targets = std::iter::once(start..text.len()).collect();
        Ok(Rendered { id, text, targets, prefix: writer.format.prefix(), eos: true })
    }
}

/// Up to `writer.wording.shots` solved rows of `source` but for row `but`: drawn by `rng` at `index`, put into words by one
/// template, with or without the OPTIONS block.
pub fn exemplars(
    source: &Source<'_>,
    but: usize,
    writer: &Writer<'_>,
    (template, block): (usize, bool),
    rng: Rng,
    index: u64,
) -> Result<Vec<(String, String)>> {
    let wanted = writer.wording.shots.min(source.len().saturating_sub(1));
    let (mut taken, mut shots) = (vec![but], Vec::new());
    // As many tries again for rows drawn twice.
    for k in 0..4 * wanted as u64 {
        if shots.len() == wanted {
            break;
        }
        let row = rng.below(index.wrapping_mul(1024).wrapping_add(k), source.len() as u64) as usize;
        if taken.contains(&row) {
            continue;
        }
        taken.push(row);
        let p = writer.prompt(source.task, &source.row(row)?.1, template, block)?;
        shots.push((p.prompt, p.target));
    }
    Ok(shots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(seed: u64) -> Schedule {
        Schedule::new(seed, vec![5, 0, 3, 12], vec![7, 9, 2, 30], vec![10, 10, 3, 1], Assign::Random)
    }

    #[test]
    fn every_round_has_what_was_asked_for() {
        let s = schedule(3);
        assert_eq!(s.round(), 20);
        for round in 0..6 {
            let mut counts = [0; 4];
            for i in 0..20 {
                counts[s.draw(round * 20 + i).task] += 1;
            }
            assert_eq!(counts, [5, 0, 3, 12]);
        }
    }

    #[test]
    fn rows_come_once_a_pass_and_draws_depend_on_nothing_before() {
        let s = schedule(3);
        let draws: Vec<Draw> = (0..400).map(|i| s.draw(i)).collect();
        for (task, rows) in [(0, 7), (2, 2), (3, 30)] {
            let of: Vec<usize> = draws.iter().filter(|d| d.task == task).map(|d| d.row).collect();
            for pass in of.chunks_exact(rows) {
                let mut sorted = pass.to_vec();
                sorted.sort_unstable();
                // Within a round places are shuffled, so that a pass may mix with its neighbour at a round's end only.
                assert_eq!(sorted.len(), rows);
            }
            let mut all = of.clone();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), rows);
        }
        let again = schedule(3);
        for i in [399, 0, 57, 21] {
            assert_eq!(again.draw(i), draws[i as usize]);
        }
        assert!((0..400).any(|i| schedule(4).draw(i) != draws[i as usize]));
    }

    #[test]
    fn templates_in_turn_and_at_random() {
        let turn = Schedule { assign: Assign::Rotate, ..schedule(1) };
        let mut counts = [0; 10];
        for i in 0..400 {
            let d = turn.draw(i);
            if d.task == 0 {
                counts[d.template] += 1;
            }
        }
        assert_eq!(counts, [10; 10]);
        let random = schedule(1);
        let seen: std::collections::BTreeSet<usize> =
            (0..400).map(|i| random.draw(i)).filter(|d| d.task == 0).map(|d| d.template).collect();
        assert_eq!(seen.len(), 10);
    }
}
