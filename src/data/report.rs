//! What became of the data: rows read, used and dropped with their reasons, lengths, files; and the verdict on it.

use super::examples::Options;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The reasons for which a row is dropped.
pub(super) const NO_TARGET: &str = "no target";
pub(super) const TOO_LONG: &str = "longer than seq_len";

/// A row that was not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Its source.
    pub source: String,
    /// Which.
    pub id: String,
    /// Why.
    pub reason: String,
    /// Its length in tokens.
    pub tokens: u64,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Its path.
    pub path: String,
    /// Its size on disk.
    pub bytes: u64,
    /// Hash of its bytes on disk, in hex.
    pub blake3: String,
}

/// What became of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReport {
    /// The source's name.
    pub name: String,
    /// The shape that was found, such as `{input, target}`.
    pub shape: String,
    /// Its files.
    pub files: Vec<FileReport>,
    /// Rows in the files.
    pub read: u64,
    /// Rows of them left aside by the cap.
    pub capped: u64,
    /// Rows that became examples.
    pub used: u64,
    /// Rows dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// What became of the data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rows in the files.
    pub read: u64,
    /// Rows that became examples.
    pub used: u64,
    /// Rows dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Every dropped row.
    pub dropped_rows: Vec<Dropped>,
    /// Examples; more than `used` where long texts were divided.
    pub examples: u64,
    /// Tokens of all examples.
    pub tokens: u64,
    /// Trained tokens among them.
    pub target_tokens: u64,
    /// Examples by length: (most tokens of the class, examples in it); the classes end at powers of two.
    pub lengths: BTreeMap<u64, u64>,
    /// The sources.
    pub sources: Vec<SourceReport>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// The verdict on what was dropped.
pub(super) fn judge(report: &Report, opt: &Options) -> Result<()> {
    for source in &report.sources {
        let dropped: u64 = source.dropped.values().sum();
        let rows = dropped + source.used;
        if rows == 0 || (dropped as f64 <= opt.max_dropped * rows as f64 && source.used > 0) {
            continue;
        }
        let share = 100.0 * dropped as f64 / rows as f64;
        let reasons = source.dropped.iter().map(|(r, n)| format!("{n} {r}")).collect::<Vec<_>>().join(", ");
        let reasons = reasons.replace(TOO_LONG, &format!("longer than seq_len {}", opt.seq_len));
        let mine = report.dropped_rows.iter().filter(|d| d.source == source.name);
        let first: Vec<&str> = mine.map(|d| d.id.as_str()).take(5).collect();
        let message = format!(
            "{}: {dropped} of {rows} rows ({share:.1} %) cannot be used: {reasons}; the first are {}",
            source.name,
            first.join(", ")
        );
        let longest = report.dropped_rows.iter().filter(|d| d.reason == TOO_LONG && d.source == source.name);
        let longest = longest.map(|d| d.tokens).max();
        let raise = longest
            .map(|l| format!("raise --seq-len (the longest row has {l} tokens), or "))
            .unwrap_or_default();
        let share = (dropped as f64 / rows as f64 * 100.0).ceil() / 100.0;
        return Err(Error::data(message).fix(match source.used {
            0 => format!("{raise}check the columns: none of the rows is left"),
            _ => format!("{raise}accept it with --max-dropped {share}"),
        }));
    }
    if report.examples == 0 {
        return Err(Error::data("there is nothing to train on: no source gave a row")
            .fix("give data, or raise the caps"));
    }
    Ok(())
}
