//! Makes the token cache: rows are rendered and tokenised in parallel and written in order.
//!
//! A token is trained if it holds a byte of a trained span, or is the EOS put behind. Nothing is cut silently: a row
//! that is too long is dropped and counted, except that text which is trained as a whole is divided into chunks.

use super::cache::Writer;
use super::examples::{Options, Source};
use super::files;
use super::report::{Dropped, NO_TARGET, Report, SourceReport, TOO_LONG};
use super::rows::{Rendered, Renderer};
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::text::Tokenizer;
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

/// Rows that are rendered and tokenised together.
const BATCH: usize = 512;

/// A row's examples (tokens, targets), or why there are none and how long it was.
type Outcome = std::result::Result<Vec<(Vec<u32>, Vec<u8>)>, (&'static str, usize)>;

fn tokenise(r: &Rendered, tok: &Tokenizer, opt: &Options) -> Result<Outcome> {
    let (mut ids, spans) = tok.encode_spans(&r.text, r.prefix).map_err(|e| e.at(&r.id))?;
    let front = if r.prefix { tok.prefix().len() } else { 0 };
    if let (Some(bos), [a, b, ..], false) = (tok.bos(), &ids[..], opt.allow_double_bos)
        && (*a, *b) == (bos, bos)
    {
        return Err(Error::data(format!("{}: the example begins with two BOS tokens (id {bos})", r.id)).fix(
            "take the BOS out of the data (the tokenizer adds it), or allow two with --allow-double-bos",
        ));
    }
    let whole = matches!(&r.targets[..], [span] if *span == (0..r.text.len())) && !r.text.is_empty();
    let trained = |i: usize| {
        let span = &spans[i];
        i >= front && (whole || r.targets.iter().any(|t| span.start < t.end && t.start < span.end))
    };
    let mut targets: Vec<u8> = (0..ids.len()).map(|i| u8::from(trained(i))).collect();
    if !targets.contains(&1) {
        return Ok(Err((NO_TARGET, ids.len())));
    }
    if let (true, Some(eos)) = (r.eos, tok.eos()) {
        ids.push(eos);
        targets.push(1);
    }
    targets[0] = 0;
    if ids.len() <= opt.seq_len {
        return Ok(if targets.contains(&1) { Ok(vec![(ids, targets)]) } else { Err((NO_TARGET, ids.len())) });
    }
    if !whole {
        return Ok(Err((TOO_LONG, ids.len())));
    }
    // What stands before the trained part of a chunk: the prefix, or, where the tokenizer has none, the token that ends
    // the chunk before (the very first token of all has nothing that could predict it).
    let (prefix, body) = ids.split_at(front);
    let mut chunks = Vec::new();
    let lead = front.max(1);
    let mut at = if front == 0 { 1 } else { 0 };
    while at < body.len() {
        let end = body.len().min(at + opt.seq_len - lead);
        let mut tokens = if front == 0 { body[at - 1..at].to_vec() } else { prefix.to_vec() };
        tokens.extend_from_slice(&body[at..end]);
        let mut targets = vec![1; tokens.len()];
        targets[..lead].fill(0);
        chunks.push((tokens, targets));
        at = end;
    }
    Ok(Ok(chunks))
}

/// Takes rendered rows in order into a token cache and a report.
pub struct Builder<'a, W: Write + Seek> {
    writer: Writer<W>,
    lengths: Vec<u32>,
    pub(super) report: Report,
    tok: &'a Tokenizer,
    opt: &'a Options,
}

impl<'a, W: Write + Seek> Builder<'a, W> {
    pub(super) fn new(out: W, tok: &'a Tokenizer, opt: &'a Options) -> Result<Self> {
        Ok(Self {
            writer: Writer::new(out).map_err(unwritable)?,
            lengths: Vec::new(),
            report: Report::default(),
            tok,
            opt,
        })
    }

    /// Begins a source; rows that are taken belong to it.
    pub fn source(&mut self, source: SourceReport) {
        self.report.sources.push(source);
    }

    /// Says that the newest source has so many rows.
    pub fn read(&mut self, rows: u64) {
        if let Some(source) = self.report.sources.last_mut() {
            source.read = rows;
        }
    }

    /// Lengths in tokens of the examples from number `from` on.
    pub fn lengths(&self, from: usize) -> &[u32] {
        &self.lengths[from..]
    }

    /// Tells the user something.
    pub fn warn(&mut self, warning: String) {
        self.report.warnings.push(warning);
    }

    /// Renders rows by `render` and adds what comes out to the newest source. The first bad row is the error.
    pub fn take<T: Send>(
        &mut self,
        rows: Vec<T>,
        render: impl Fn(T) -> Result<Rendered> + Sync,
    ) -> Result<()> {
        let (tok, opt) = (self.tok, self.opt);
        let done: Vec<Result<(String, bool, Outcome)>> = rows
            .into_par_iter()
            .map(|row| {
                let r = render(row)?;
                let outcome = tokenise(&r, tok, opt)?;
                Ok((r.id, r.eos, outcome))
            })
            .collect();
        for row in done {
            let (id, eos, outcome) = row?;
            self.add(&id, eos, outcome)?;
        }
        Ok(())
    }

    fn add(&mut self, id: &str, eos: bool, outcome: Outcome) -> Result<()> {
        let report = &mut self.report;
        let source = report.sources.last_mut().ok_or_else(|| Error::internal("a row without a source"))?;
        let chunks = match outcome {
            Ok(chunks) => chunks,
            Err((reason, tokens)) => {
                *source.dropped.entry(reason.into()).or_default() += 1;
                *report.dropped.entry(reason.into()).or_default() += 1;
                let source = source.name.clone();
                let dropped = Dropped { source, id: id.into(), reason: reason.into(), tokens: tokens as u64 };
                report.dropped_rows.push(dropped);
                return Ok(());
            }
        };
        source.used += 1;
        report.used += 1;
        if eos && self.tok.eos().is_none() {
            let warning = "the tokenizer names no EOS token: the ends of targets are not trained";
            if !report.warnings.iter().any(|w| w == warning) {
                report.warnings.push(warning.into());
            }
        }
        let divided = chunks.len() > 1;
        for (i, (tokens, targets)) in chunks.into_iter().enumerate() {
            report.examples += 1;
            self.lengths.push(tokens.len() as u32);
            report.tokens += tokens.len() as u64;
            report.target_tokens += targets.iter().map(|&t| u64::from(t)).sum::<u64>();
            *report.lengths.entry(tokens.len().next_power_of_two() as u64).or_default() += 1;
            let id = if divided { format!("{id}#{}", i + 1) } else { id.to_owned() };
            self.writer.push(&id, &tokens, &targets).map_err(unwritable)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self, key: [u8; 32]) -> Result<W> {
        self.report.read = self.report.sources.iter().map(|s| s.read).sum();
        self.writer.finish(key, &self.report).map_err(unwritable)
    }
}

pub(super) fn unwritable(e: io::Error) -> Error {
    let err = Error::disk(format!("cannot write the token cache: {e}"));
    err.fix("free disk space, or choose another folder with FLANRT_CACHE")
}

/// Reads `sources`, whose files `reports` name, into a token cache with `key` on `out`.
pub(super) fn build(
    sources: &[Source],
    reports: Vec<SourceReport>,
    tok: &Tokenizer,
    opt: &Options,
    key: [u8; 32],
    progress: &dyn Fn(u64, u64),
    out: &File,
) -> Result<()> {
    let mut builder = Builder::new(out, tok, opt)?;
    let total: u64 = reports.iter().flat_map(|r| &r.files).map(|f| f.bytes).sum();
    let mut before = 0;
    for (source, report) in sources.iter().zip(reports) {
        let paths: Vec<String> = report.files.iter().map(|f| f.path.clone()).collect();
        builder.report.sources.push(report);
        let name = blake3::hash(source.name.as_bytes());
        let rng = Rng::new(opt.seed, u64::from_le_bytes(std::array::from_fn(|i| name.as_bytes()[i])));
        let mut renderer: Option<Renderer> = None;
        let mut kept: BTreeMap<(u64, u64), (String, Map<String, Value>)> = BTreeMap::new();
        let mut batch: Vec<(String, Map<String, Value>)> = Vec::new();
        let mut read = 0;
        for path in &paths {
            let mut rows = files::open(Path::new(path))?;
            while let Some(row) = rows.next() {
                let row = row?;
                if renderer.is_none() {
                    let columns: Vec<&str> = row.fields.keys().map(String::as_str).collect();
                    let r =
                        Renderer::new(&source.name, &columns, &source.map, &opt.joiner, opt.loss_all, tok)?;
                    renderer = Some(r);
                }
                let place = format!("{path}:{}", row.line);
                match source.cap {
                    // The n smallest draws are the first n of the shuffle that sorting by the draws gives.
                    Some(cap) => {
                        kept.insert((rng.bits(read), read), (place, row.fields));
                        if kept.len() > cap {
                            kept.pop_last();
                        }
                    }
                    None => batch.push((place, row.fields)),
                }
                read += 1;
                if let (Some(r), true) = (&renderer, batch.len() >= BATCH) {
                    builder.take(std::mem::take(&mut batch), |(place, row)| r.render(&place, &row))?;
                    progress(before + rows.bytes(), total);
                }
            }
            before += rows.bytes();
        }
        let mut chosen: Vec<_> = kept.into_iter().collect();
        chosen.sort_by_key(|((_, i), _)| *i);
        batch.extend(chosen.into_iter().map(|(_, row)| row));
        let taken = source.cap.map_or(read, |cap| read.min(cap as u64));
        if let Some(r) = &renderer {
            if let Some(report) = builder.report.sources.last_mut() {
                (report.shape, report.read, report.capped) = (r.shape().to_string(), read, read - taken);
            }
            builder.take(batch, |(place, row)| r.render(&place, &row))?;
        }
        progress(before, total);
    }
    builder.finish(key).map(|_| ())
}
