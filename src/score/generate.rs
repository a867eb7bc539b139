//! Generation: prompts -> texts, greedily, many at a time over a key/value cache.
//!
//! Sequences are batched continuously: one that ends makes room for the next in the pass after. Prompts that begin alike share
//! the cache rows of their beginning, which is computed once. What is written depends on the prompt and the options alone:
//! batches, their size and the other prompts only decide what is computed together. No model and no command line here.

use std::ops::Range;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::boundary::{common, empty_context};
use super::run::Hooks;
use super::{Decode, Encode, Generate};
use crate::error::{Error, Kind, Result};
use crate::model::Rows;
use crate::ops::forest::Batch;

/// Beginnings of fewer tokens are not worth sharing.
const LEAST_SHARED: usize = 16;
/// Tokens looked at beyond the bytes of the longest stop string: pieces of characters and tokens without text.
const SLACK: usize = 16;

/// How to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most tokens of an output, at least 1.
    pub max_new_tokens: usize,
    /// An output ends before any of these tokens.
    pub stop_ids: Vec<u32>,
    /// An output ends before any of these texts.
    pub stop: Vec<String>,
    /// The tokenizer's prefix: what a cut leaves at the front of a prompt that begins with it.
    pub prefix: Vec<u32>,
    /// Most sequences at a time; `None`: as many as keep the device busy. Changes speed only.
    pub batch_size: Option<usize>,
    /// Longest sequence, prompt and output together, in tokens; `None`: the model's.
    pub window: Option<usize>,
    /// Every prompt with its own copy of what it shares with others: for tests, slower.
    pub unrolled: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            stop_ids: Vec::new(),
            stop: Vec::new(),
            prefix: Vec::new(),
            batch_size: None,
            window: None,
            unrolled: false,
        }
    }
}

/// Why an output ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// The model gave a stop id.
    StopId,
    /// The text came to a stop string.
    StopText,
    /// It has as many tokens as were asked for.
    Length,
    /// Prompt and output fill the window.
    Context,
}

/// What a prompt led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Output {
    /// The text of `ids`, decoded without the prompt and without special tokens, cut before the first stop string.
    pub text: String,
    /// The tokens, without a stop id; the last ones may spell a stop string.
    pub ids: Vec<u32>,
    /// Why it ends here.
    pub stopped: Stopped,
    /// The prompt was too long: tokens were dropped on its left, behind the prefix.
    pub truncated: bool,
}

/// The ids of a prompt: as the tokenizer makes them, prefix included. An empty one is the prefix, or EOS where there is none.
///
/// # Errors
/// The tokenizer's, and `Kind::Data` for an empty text where there is neither prefix nor EOS.
pub fn encode_prompt(encode: &dyn Encode, text: &str) -> Result<Vec<u32>> {
    let ids = encode.encode(text)?;
    let ids = if ids.is_empty() { empty_context(encode) } else { ids };
    if ids.is_empty() {
        return Err(Error::data("an empty prompt, and the tokenizer has no BOS or EOS to stand for it")
            .fix("begin it with some text"));
    }
    Ok(ids)
}

/// Continues every prompt (token ids, at least one each) with the likeliest tokens, the first on a tie.
///
/// A prompt leaves room for `max_new_tokens`, or for half of the window if that is less: one that is longer is cut on the
/// left, behind the prefix. Outputs come in the order of the prompts.
///
/// # Errors
/// `Kind::Usage` for options that cannot work, `Kind::Data` for an empty prompt, `Kind::Memory` where the longest sequence
/// does not fit, `Kind::Interrupted` after an interruption, and whatever `model` and `decode` say.
pub fn generate(
    prompts: &[Vec<u32>],
    decode: &dyn Decode,
    model: &mut dyn Generate,
    options: &GenerateOptions,
    hooks: &mut Hooks<'_>,
) -> Result<Vec<Output>> {
    let window = check(options, model)?;
    let fitted = prompts
        .iter()
        .enumerate()
        .map(|(i, ids)| Fitted::new(ids, options, window).map_err(|e| e.at(format!("prompt {}", i + 1))))
        .collect::<Result<Vec<_>>>()?;
    let most = options.batch_size.unwrap_or(model.sequences());
    let most = most.min(model.capacity()).min(model.asks_capacity()).max(1);
    let mut needs: Vec<usize> = fitted.iter().map(|f| f.ids.len() + f.rows_behind()).collect();
    needs.sort_unstable_by(|a, b| b.cmp(a));
    let Some(&least) = needs.first() else { return Ok(Vec::new()) };
    let rows = model.reserve(needs.iter().take(most).sum(), least)?;
    if rows < least {
        return Err(Error::internal(format!("a cache of {rows} rows where {least} are the least")));
    }
    let (groups, order) = group(&fitted, options.unrolled);
    let mut run = Run {
        fitted: &fitted,
        decode,
        options,
        groups,
        rows: Rows::new(rows),
        active: Vec::new(),
        outputs: vec![None; prompts.len()],
    };
    let mut waiting = order.into_iter().peekable();
    let mut done = 0;
    (hooks.progress)(0, prompts.len());
    loop {
        if hooks.interrupted.load(Ordering::Relaxed) {
            let message = format!("stopped after {done} of {} prompts", prompts.len());
            return Err(Error::new(Kind::Interrupted, message).fix("nothing was written: start again"));
        }
        // Each sequence that is on its way has one new token.
        let mut tokens = run.active.len();
        while let Some(member) = waiting
            .next_if(|&member| run.active.len() < most && run.enter(member, &mut tokens, model.capacity()))
        {
            debug_assert_eq!(run.active.last().map(|a| a.member), Some(member));
        }
        if run.active.is_empty() {
            break;
        }
        let batch = run.batch();
        let next = model.next(&batch)?;
        if next.len() != run.active.len() {
            let (got, want) = (next.len(), run.active.len());
            return Err(Error::internal(format!("a forward pass answered {got} of {want} asks")));
        }
        let finished = run.append(&next)?;
        if finished > 0 {
            done += finished;
            (hooks.progress)(done, prompts.len());
        }
    }
    let missing = || Error::internal("a prompt was left without an output");
    run.outputs.into_iter().map(|o| o.ok_or_else(missing)).collect()
}

/// Checks the options and returns the window.
fn check(options: &GenerateOptions, model: &dyn Generate) -> Result<usize> {
    if options.max_new_tokens == 0 {
        return Err(Error::usage("no new tokens are asked for").fix("at least 1"));
    }
    if options.batch_size == Some(0) {
        return Err(Error::usage("a batch of 0 sequences").fix("at least 1"));
    }
    if options.stop.iter().any(String::is_empty) {
        return Err(Error::usage("an empty stop text would end every output before it begins"));
    }
    let window = options.window.unwrap_or(model.context());
    let least = options.prefix.len() + 2;
    if window > model.context() || window < least || longest_prompt(options, window) <= options.prefix.len() {
        return Err(Error::usage(format!(
            "a window of {window} tokens, where the model takes up to {}",
            model.context()
        ))
        .fix(format!("at least {} and not more than the model's", 2 * least)));
    }
    Ok(window)
}

/// The longest prompt that is left whole.
fn longest_prompt(options: &GenerateOptions, window: usize) -> usize {
    window - options.max_new_tokens.min(window / 2)
}

/// A prompt as the model reads it.
struct Fitted {
    ids: Vec<u32>,
    /// Most tokens of its output, and what ends it then.
    budget: usize,
    end: Stopped,
    truncated: bool,
}

impl Fitted {
    fn new(ids: &[u32], options: &GenerateOptions, window: usize) -> Result<Self> {
        if ids.is_empty() {
            return Err(Error::data("a prompt without tokens").fix("begin it with BOS or EOS"));
        }
        let kept = if ids.starts_with(&options.prefix) { options.prefix.len() } else { 0 };
        let over = ids.len().saturating_sub(longest_prompt(options, window));
        let mut ids = ids.to_vec();
        ids.drain(kept..kept + over);
        let room = window - ids.len();
        let (budget, end) = match options.max_new_tokens {
            n if n <= room => (n, Stopped::Length),
            _ => (room, Stopped::Context),
        };
        Ok(Self { ids, budget, end, truncated: over > 0 })
    }

    /// Cache rows of its output: its last token is never an input.
    fn rows_behind(&self) -> usize {
        self.budget - 1
    }
}

/// Prompts that begin alike.
struct Group {
    /// How they begin; empty: with nothing that is shared.
    ids: Vec<u32>,
    /// Members without an output.
    left: usize,
    /// Where the keys and values of `ids` lie, once a member has entered.
    rows: Option<Range<u32>>,
    /// Whether they are there.
    computed: bool,
    /// Its segment in the batch that is being made.
    segment: Option<u32>,
}

/// A prompt and the group it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    prompt: usize,
    group: usize,
}

/// Divides the prompts into groups, and puts them in the order in which they enter: group by group, longest first.
fn group(fitted: &[Fitted], unrolled: bool) -> (Vec<Group>, Vec<Member>) {
    let ids = |i: usize| &fitted[i].ids[..];
    let mut sorted: Vec<usize> = (0..fitted.len()).collect();
    sorted.sort_by(|&a, &b| ids(a).cmp(ids(b)));
    // In this order prompts that begin alike are neighbours. One joins the group before it if that saves more tokens than
    // the group saved without it, whose common beginning it may shorten. Of a prompt at least the last token is its own.
    let mut parts: Vec<(usize, Vec<usize>)> = Vec::new();
    for i in sorted {
        let own = ids(i).len() - 1;
        if let Some((shared, members)) = parts.last_mut() {
            let n = members.len();
            let both = (*shared).min(common(ids(members[0]), ids(i))).min(own);
            if !unrolled && both >= LEAST_SHARED && n * both > (n - 1) * *shared {
                *shared = both;
                members.push(i);
                continue;
            }
        }
        parts.push((own, vec![i]));
    }
    let longest_first = |i: &usize| (std::cmp::Reverse(ids(*i).len()), *i);
    parts.iter_mut().for_each(|(_, members)| members.sort_by_key(longest_first));
    parts.sort_by_key(|(_, members)| longest_first(&members[0]));
    let mut order = Vec::with_capacity(fitted.len());
    let mut groups = Vec::with_capacity(parts.len());
    for (shared, members) in parts {
        let shared = if members.len() > 1 { shared } else { 0 };
        groups.push(Group {
            ids: ids(members[0])[..shared].to_vec(),
            left: members.len(),
            rows: None,
            computed: false,
            segment: None,
        });
        order.extend(members.into_iter().map(|prompt| Member { prompt, group: groups.len() - 1 }));
    }
    (groups, order)
}

/// A sequence on its way.
struct Active {
    member: Member,
    /// Cache rows of what is its own: the prompt behind what is shared, and the output.
    rows: Range<u32>,
    /// How many of them hold keys and values.
    kept: usize,
    output: Vec<u32>,
}

struct Run<'a> {
    fitted: &'a [Fitted],
    decode: &'a dyn Decode,
    options: &'a GenerateOptions,
    groups: Vec<Group>,
    rows: Rows,
    active: Vec<Active>,
    outputs: Vec<Option<Output>>,
}

impl Run<'_> {
    /// Takes in a sequence if the batch (of `tokens` so far) and the cache have room for it.
    fn enter(&mut self, member: Member, tokens: &mut usize, capacity: usize) -> bool {
        let group = &self.groups[member.group];
        let fresh = if group.rows.is_none() { group.ids.len() } else { 0 };
        let own = self.fitted[member.prompt].ids.len() - group.ids.len();
        if *tokens + fresh + own > capacity {
            return false;
        }
        let mut rows = self.place(member, own);
        if rows.is_none() && self.active.is_empty() {
            // Only shared beginnings are in the way: this one is computed again, and there is room for one of any length.
            for group in &mut self.groups {
                if let Some(rows) = group.rows.take() {
                    self.rows.give(rows);
                    group.computed = false;
                }
            }
            rows = self.place(member, own);
        }
        let Some(rows) = rows else { return false };
        *tokens += fresh + own;
        self.active.push(Active { member, rows, kept: 0, output: Vec::new() });
        true
    }

    /// Cache rows for `own` tokens and the output of a sequence, and for what it shares if that has none.
    fn place(&mut self, member: Member, own: usize) -> Option<Range<u32>> {
        let group = &mut self.groups[member.group];
        let fresh = match group.rows {
            Some(_) => None,
            None => Some(self.rows.take(group.ids.len())?),
        };
        let rows = self.rows.take(own + self.fitted[member.prompt].rows_behind());
        match (&rows, fresh) {
            (Some(_), Some(fresh)) => group.rows = Some(fresh),
            (None, Some(fresh)) => self.rows.give(fresh),
            _ => {}
        }
        rows
    }

    /// The new tokens of all sequences behind what the cache holds of them; one ask each, in their order.
    fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        for (i, a) in self.active.iter_mut().enumerate() {
            let group = &mut self.groups[a.member.group];
            if group.segment.is_none() && !group.ids.is_empty() {
                let start = group.rows.as_ref().map_or(0, |r| r.start);
                group.segment = Some(match group.computed {
                    true => batch.cached(None, start, group.ids.len()),
                    false => batch.push_at(None, start, &group.ids),
                });
                group.computed = true;
            }
            let mut parent = group.segment;
            let new = match a.output.last() {
                None => &self.fitted[a.member.prompt].ids[group.ids.len()..],
                Some(last) => {
                    parent = Some(batch.cached(parent, a.rows.start, a.kept));
                    std::slice::from_ref(last)
                }
            };
            batch.push_at(parent, a.rows.start + a.kept as u32, new);
            a.kept += new.len();
            // Any target will do: only the likeliest token is wanted.
            batch.ask(batch.len() as u32 - 1, 0, i as u32);
        }
        for a in &self.active {
            self.groups[a.member.group].segment = None;
        }
        batch
    }

    /// Gives every sequence its next token; those that end leave. Returns how many.
    fn append(&mut self, next: &[u32]) -> Result<usize> {
        let mut going = Vec::with_capacity(self.active.len());
        let before = self.active.len();
        for (mut a, &token) in std::mem::take(&mut self.active).into_iter().zip(next) {
            let fitted = &self.fitted[a.member.prompt];
            let stopped = if self.options.stop_ids.contains(&token) {
                Some(Stopped::StopId)
            } else {
                a.output.push(token);
                if self.stops(&a.output)? {
                    Some(Stopped::StopText)
                } else {
                    (a.output.len() == fitted.budget).then_some(fitted.end)
                }
            };
            let Some(stopped) = stopped else {
                going.push(a);
                continue;
            };
            let mut text = self.decode.decode(&a.output)?;
            if let Some(at) = self.find(&text) {
                text.truncate(at);
            }
            self.outputs[a.member.prompt] =
                Some(Output { text, ids: a.output, stopped, truncated: fitted.truncated });
            self.rows.give(a.rows);
            let group = &mut self.groups[a.member.group];
            group.left -= 1;
            if let Some(rows) = group.rows.take_if(|_| group.left == 0) {
                self.rows.give(rows);
            }
        }
        self.active = going;
        Ok(before - self.active.len())
    }

    /// Where the first stop string begins in `text`.
    fn find(&self, text: &str) -> Option<usize> {
        self.options.stop.iter().filter_map(|stop| text.find(stop)).min()
    }

    /// Whether the text of `output` holds a stop string. All of it is decoded only where its end looks like it: a stop
    /// string that was there before would have ended it.
    fn stops(&self, output: &[u32]) -> Result<bool> {
        let Some(longest) = self.options.stop.iter().map(String::len).max() else { return Ok(false) };
        let tail = output.len().saturating_sub(longest + SLACK);
        let found = self.find(&self.decode.decode(&output[tail..])?).is_some();
        Ok(found && (tail == 0 || self.find(&self.decode.decode(output)?).is_some()))
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
