//! The results file, and the append-only log that lets a killed run continue.
//!
//! While a run goes on, `FILE.partial` holds a header line and then one line per finished request, in request order. The
//! same run started again takes over its whole lines; another run (other requests, model or settings) says so and starts
//! over. At the end the rows become `FILE` in one rename. Numbers are written so that they read back to the same bits.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::boundary::Boundary;
use super::metrics::{Choice, Scored};
use super::requests::{Id, Request};
use crate::error::{Error, Kind, Result};

/// One line of the results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Row {
    /// A request with options.
    Choice {
        /// The request's id.
        id: Id,
        /// Its options, in order.
        options: Vec<Scored>,
        /// What each rule chooses.
        choice: Choice,
        /// Index of the right option, where it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        label: Option<usize>,
    },
    /// A request with a continuation.
    Continuation {
        /// The request's id.
        id: Id,
        /// The continuation's score.
        #[serde(flatten)]
        scored: Scored,
    },
}

impl Row {
    /// The request's id.
    pub fn id(&self) -> &Id {
        match self {
            Self::Choice { id, .. } | Self::Continuation { id, .. } => id,
        }
    }
}

/// Everything the numbers of a run depend on; the log's first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of this format.
    pub flanrt_score: u32,
    /// blake3 of the requests file.
    pub requests: String,
    /// Number of requests.
    pub count: usize,
    /// Hash of the model.
    pub model: String,
    /// The border rule.
    pub boundary: Boundary,
    /// The unconditional context; none if those scores are left out.
    pub unconditional: Option<String>,
    /// Whether the EOS behind an option is scored.
    #[serde(default)]
    pub eos: bool,
    /// Longest sequence of inputs.
    pub window: usize,
    /// Whether options share the computation of their context.
    pub forest: bool,
    /// Whatever else decides numbers, such as dtype and device, by name.
    pub settings: BTreeMap<String, String>,
}

impl Header {
    /// The names of the fields in which `other` differs.
    fn differences(&self, other: &Self) -> String {
        let fields =
            |h: &Self| serde_json::to_value(h).ok().and_then(|v| v.as_object().cloned()).unwrap_or_default();
        let (a, b) = (fields(self), fields(other));
        a.iter().filter(|(k, v)| b.get(*k) != Some(v)).map(|(k, _)| k.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// The log of a run in progress; locked against a second run with the same results file.
#[derive(Debug)]
pub struct Log {
    out: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
}

/// What [`Log::open`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// No earlier run.
    Nothing,
    /// An earlier run, whose rows were taken over.
    Rows(usize),
    /// The log of another run, which was dropped; why it does not fit.
    Other(String),
}

impl Log {
    /// Opens the log for the results file `out`, handing the rows of an earlier run with the same `header` to `take`.
    ///
    /// # Errors
    /// `Kind::Disk` if the directory cannot be written or another process holds the log.
    pub fn open(
        out: &Path,
        header: &Header,
        requests: &[Request],
        mut take: impl FnMut(usize, Row),
    ) -> Result<(Self, Found)> {
        if out.file_name().is_none() || out.is_dir() {
            return Err(Error::disk(format!("cannot write results to {}: it is a directory", out.display()))
                .fix("give the name of a file"));
        }
        let partial = beside(out, ".partial");
        let fail = |e: &std::io::Error| Error::io(Kind::Disk, "write", &partial, e);
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&partial)
            .map_err(|e| fail(&e))?;
        // A file system without locks is no reason to refuse the run.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::disk(format!("{} is in use by another flanrt", partial.display()))
                .fix("wait for it, or choose another --out"));
        }

        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        // A line counts only with its end: what a kill tore is done again.
        let mut whole = |line: &mut Vec<u8>| -> Result<bool> {
            line.clear();
            reader.read_until(b'\n', line).map_err(|e| Error::io(Kind::Disk, "read", &partial, &e))?;
            Ok(line.ends_with(b"\n"))
        };
        let (mut keep, mut rows) = (0, 0);
        let mut found = Found::Nothing;
        if whole(&mut line)? {
            match serde_json::from_slice::<Header>(&line) {
                Ok(h) if h == *header => {
                    keep = line.len() as u64;
                    while rows < requests.len() && whole(&mut line)? {
                        match serde_json::from_slice::<Row>(&line) {
                            Ok(row) if *row.id() == requests[rows].id => take(rows, row),
                            _ => break,
                        }
                        keep += line.len() as u64;
                        rows += 1;
                    }
                    if rows > 0 {
                        found = Found::Rows(rows);
                    }
                }
                Ok(h) => found = Found::Other(format!("it differs in: {}", header.differences(&h))),
                Err(_) => found = Found::Other("its first line is not a header of this version".into()),
            }
        }
        file.set_len(keep).map_err(|e| fail(&e))?;
        let mut log = Self { out: out.to_path_buf(), partial: partial.clone(), file: BufWriter::new(file) };
        log.file.seek(SeekFrom::End(0)).map_err(|e| fail(&e))?;
        if keep == 0 {
            // A log without a header says nothing: on a full disk no empty file stays behind.
            if let Err(e) = log.line(header).and_then(|()| log.sync()) {
                let _ = std::fs::remove_file(&partial);
                return Err(e);
            }
        }
        Ok((log, found))
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Appends a row; it reaches the system with the next [`Log::flush`].
    pub fn append(&mut self, row: &Row) -> Result<()> {
        self.line(row)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line =
            serde_json::to_vec(value).map_err(|e| Error::internal(format!("a row has no JSON: {e}")))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| self.failed(&e))
    }

    /// Hands all rows to the system: they outlive this process.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| self.failed(&e))
    }

    /// Puts all rows on the disk: they outlive a power cut.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.get_ref().sync_data().map_err(|e| self.failed(&e))
    }

    fn failed(&self, e: &std::io::Error) -> Error {
        Error::io(Kind::Disk, "write", &self.partial, e)
    }

    /// Makes the rows the results file, in one rename, and removes the log.
    pub fn finish(mut self) -> Result<()> {
        self.sync()?;
        let temp = beside(&self.out, ".tmp");
        let written = self.copy_rows(&temp).and_then(|()| std::fs::rename(&temp, &self.out));
        if let Err(e) = written {
            // Best effort: the log still has every row.
            let _ = std::fs::remove_file(&temp);
            return Err(Error::io(Kind::Disk, "write", &self.out, &e));
        }
        let dir = self.out.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Not every file system can sync a directory; the rename is done either way.
        let _ = File::open(dir).and_then(|d| d.sync_all());
        std::fs::remove_file(&self.partial).map_err(|e| Error::io(Kind::Disk, "remove", &self.partial, &e))
    }

    fn copy_rows(&mut self, temp: &Path) -> std::io::Result<()> {
        let file = self.file.get_mut();
        file.rewind()?;
        let mut rows = BufReader::new(file);
        rows.skip_until(b'\n')?;
        let mut to = File::create(temp)?;
        std::io::copy(&mut rows, &mut to)?;
        to.sync_all()
    }
}

/// `path` with `ending` appended to its name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::super::boundary::Sequence;
    use super::super::forest::Tally;
    use super::super::requests::Requests;
    use super::*;

    fn header() -> Header {
        Header {
            flanrt_score: 1,
            requests: "r".into(),
            count: 3,
            model: "m".into(),
            boundary: Boundary::Joint,
            unconditional: Some(String::new()),
            eos: false,
            window: 8,
            forest: true,
            settings: BTreeMap::new(),
        }
    }

    fn requests() -> Vec<Request> {
        let line = |id: &str| format!("{{\"id\":{id},\"context\":\"\",\"continuation\":\"x\"}}\n");
        Requests::parse("r", [line("1"), line("\"b\""), line("3")].concat().as_bytes()).unwrap().rows
    }

    fn row(i: usize, logprob: f64) -> Row {
        let tally = Tally { logprob, tokens: 2, ..Tally::default() };
        let scored =
            Scored::new("x", &Sequence { moved: i == 1, ..Sequence::default() }, &tally, None, false);
        Row::Continuation { id: requests()[i].id.clone(), scored }
    }

    fn open(out: &Path, h: &Header) -> (Log, Found, Vec<Row>) {
        let mut rows = Vec::new();
        let (log, found) = Log::open(out, h, &requests(), |_, r| rows.push(r)).unwrap();
        (log, found, rows)
    }

    #[test]
    fn rows_round_trip_bit_for_bit() {
        let mut state = 3_u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let x = -f64::from_bits((state >> 2) | 0x2000_0000_0000_0000);
            let one = Scored {
                unconditional: Some(x / 3.0),
                ..Scored::new("é", &Sequence::default(), &Tally::default(), None, false)
            };
            let options = vec![Scored { logprob: x, ..one.clone() }, one];
            let choice = Choice::of(&options);
            let a = Row::Choice { id: Id::Text("q".into()), options, choice, label: Some(1) };
            for r in [a, row(1, x)] {
                let back: Row = serde_json::from_str(&serde_json::to_string(&r).unwrap()).unwrap();
                assert_eq!(back, r);
            }
        }
    }

    #[test]
    fn a_row_looks_as_documented() {
        let json = serde_json::to_string(&row(1, -1.5)).unwrap();
        assert_eq!(
            json,
            r#"{"id":"b","logprob":-1.5,"tokens":2,"chars":1,"bytes":1,"greedy":true,"boundary_moved":true}"#
        );
    }

    #[test]
    fn a_torn_log_continues_and_finishes() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("o.jsonl");
        let (mut log, found, _) = open(&out, &header());
        assert_eq!(found, Found::Nothing);
        log.append(&row(0, -0.1)).unwrap();
        log.append(&row(1, -0.2)).unwrap();
        log.sync().unwrap();
        drop(log);
        let partial = beside(&out, ".partial");
        let whole = std::fs::read(&partial).unwrap();
        for lost in [1, 9] {
            std::fs::write(&partial, &whole[..whole.len() - lost]).unwrap();
            let (log, found, rows) = open(&out, &header());
            assert_eq!((found, rows), (Found::Rows(1), vec![row(0, -0.1)]));
            drop(log);
        }
        let (mut log, ..) = open(&out, &header());
        log.append(&row(1, -0.2)).unwrap();
        log.append(&row(2, -0.3)).unwrap();
        log.finish().unwrap();
        let rows: Vec<Row> = std::fs::read_to_string(&out)
            .unwrap()
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(rows, [row(0, -0.1), row(1, -0.2), row(2, -0.3)]);
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(left, ["o.jsonl"]);
    }

    #[test]
    fn another_run_starts_over_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("o.jsonl");
        let (mut log, ..) = open(&out, &header());
        log.append(&row(0, -0.1)).unwrap();
        drop(log);
        let other = Header { model: "n".into(), window: 9, ..header() };
        let (log, found, rows) = open(&out, &other);
        assert_eq!((found, rows), (Found::Other("it differs in: model, window".into()), vec![]));
        drop(log);
        std::fs::write(beside(&out, ".partial"), b"rubbish\nmore\n").unwrap();
        let (log, found, _) = open(&out, &other);
        assert!(matches!(found, Found::Other(_)));
        drop(log);
        // Rows of other requests are not taken over.
        let (mut log, ..) = open(&out, &other);
        log.append(&row(1, -0.1)).unwrap();
        drop(log);
        assert_eq!(open(&out, &other).1, Found::Nothing);
    }

    #[test]
    fn places_that_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let fails = |out: &Path| Log::open(out, &header(), &requests(), |_, _| ()).unwrap_err();
        assert_eq!(fails(dir.path()).kind, Kind::Disk);
        assert_eq!(fails(&dir.path().join("no/such/o")).kind, Kind::Disk);
        let out = dir.path().join("o");
        let _held = open(&out, &header());
        assert!(fails(&out).message.contains("in use"));
    }
}
