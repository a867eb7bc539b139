//! Append-only files of JSON lines that survive a kill: metrics, logs, per-sample scores.
//!
//! A line is either whole or cut off at the end of the file, and opening the file cuts such a remainder away. Reading
//! training data is not here: that is `data`, with its own errors.

use crate::disk;
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file of JSON lines, open for appending.
pub struct JsonLines {
    file: File,
    path: PathBuf,
    len: u64,
}

impl JsonLines {
    /// Opens `path`, creating it if need be. What follows the last line end is what a killed write left: it is cut.
    pub fn open(path: &Path) -> Result<Self> {
        let io_error = |e: io::Error| Error::io(Kind::Disk, "open", path, &e);
        let mut file = File::options().create(true).read(true).append(true).open(path).map_err(io_error)?;
        let len = whole_lines(&mut file).map_err(io_error)?;
        file.set_len(len).map_err(io_error)?;
        Ok(Self { file, path: path.to_path_buf(), len })
    }

    /// Adds one line. When it cannot be written whole (a full disk), nothing of it stays.
    pub fn append(&mut self, record: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(record)
            .map_err(|e| Error::internal(format!("{}: {e}", self.path.display())))?;
        line.push(b'\n');
        if let Err(e) = self.file.write_all(&line) {
            // If cutting fails too, the next `open` does it.
            let _ = self.file.set_len(self.len);
            return Err(Error::io(Kind::Disk, "write", &self.path, &e));
        }
        self.len += line.len() as u64;
        Ok(())
    }

    /// Puts everything on the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(Kind::Disk, "write", &self.path, &e))
    }

    /// Rewrites the file with the lines that `keep` accepts; lines that are no JSON go. Returns how many went.
    pub fn retain(&mut self, mut keep: impl FnMut(&Value) -> bool) -> Result<usize> {
        let mut gone = 0;
        let source = File::open(&self.path).map_err(|e| Error::io(Kind::Disk, "read", &self.path, &e))?;
        disk::write_atomic_with(&self.path, |out| {
            let (mut source, mut line) = (BufReader::new(source), Vec::new());
            while source.read_until(b'\n', &mut line)? > 0 {
                if serde_json::from_slice(&line).is_ok_and(|record| keep(&record)) {
                    out.write_all(&line)?;
                } else {
                    gone += 1;
                }
                line.clear();
            }
            Ok(())
        })?;
        *self = Self::open(&self.path)?; // the rename put another file there
        Ok(gone)
    }
}

/// The length of `file` up to and with its last line end.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut block = vec![0; 1 << 16];
    while end > 0 {
        let n = end.min(block.len() as u64) as usize;
        file.seek(SeekFrom::Start(end - n as u64))?;
        file.read_exact(&mut block[..n])?;
        if let Some(at) = block[..n].iter().rposition(|byte| *byte == b'\n') {
            return Ok(end - n as u64 + at as u64 + 1);
        }
        end -= n as u64;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    #[test]
    fn a_torn_line_is_cut_and_the_file_goes_on() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log.jsonl");
        for torn in [String::new(), "{\"a\":".into(), "x".repeat(200_000)] {
            fs::write(&path, format!("{{\"step\":1}}\n{torn}")).unwrap();
            let mut lines = JsonLines::open(&path).unwrap();
            lines.append(&json!({"step": 2})).unwrap();
            lines.sync().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
        }
        fs::write(&path, "torn only").unwrap();
        JsonLines::open(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn retain_keeps_lines_as_they_are_and_appending_goes_on() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("m.jsonl");
        let text = b"{\"step\": 1,  \"x\":0.1}\nnot json\n\xc3\x28\n{\"step\":2}\n{\"step\":3}\n";
        fs::write(&path, text).unwrap();
        let mut lines = JsonLines::open(&path).unwrap();
        assert_eq!(lines.retain(|record| record["step"].as_u64() <= Some(2)).unwrap(), 3);
        lines.append(&json!({"step": 9})).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"step\": 1,  \"x\":0.1}\n{\"step\":2}\n{\"step\":9}\n"
        );
    }

    #[test]
    fn a_full_disk_is_an_error_of_its_own() {
        let Ok(mut lines) = JsonLines::open(Path::new("/dev/full")) else {
            return println!("skipped: no /dev/full");
        };
        let e = lines.append(&json!({})).unwrap_err();
        assert!(e.kind == Kind::Disk && e.fix.is_some_and(|fix| fix.contains("free disk space")));
    }
}
