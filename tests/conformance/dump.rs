//! The results of a conformance run as a file: a line that says what it is, then per case a line `name words` and the words,
//! little-endian.

use std::collections::BTreeMap;
use std::path::Path;

const MAGIC: &str = "flanrt conformance 1";

/// What every case wrote, by its name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dump(BTreeMap<String, Vec<u32>>);

impl Dump {
    pub(crate) fn put(&mut self, name: &str, words: Vec<u32>) {
        assert!(self.0.insert(name.to_string(), words).is_none(), "two cases are named {name}");
    }

    pub(crate) fn get(&self, name: &str) -> Option<&[u32]> {
        self.0.get(name).map(Vec::as_slice)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn write(&self, path: &Path) {
        let mut bytes = format!("{MAGIC}\n").into_bytes();
        for (name, words) in &self.0 {
            bytes.extend(format!("{name} {}\n", words.len()).bytes());
            bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        }
        std::fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (magic, mut rest) = line(&bytes);
        assert_eq!(magic, MAGIC, "{} is not a dump of this version", path.display());
        let mut dump = Self::default();
        while !rest.is_empty() {
            let (head, words) = line(rest);
            let (name, count) = head.split_once(' ').expect("name and number of words");
            let (words, after) = words.split_at(4 * count.parse::<usize>().expect("a number of words"));
            dump.put(
                name,
                words.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect(),
            );
            rest = after;
        }
        dump
    }
}

/// The first line, and what follows it.
fn line(bytes: &[u8]) -> (&str, &[u8]) {
    let end = bytes.iter().position(|&b| b == b'\n').expect("a line ends");
    (std::str::from_utf8(&bytes[..end]).expect("text"), &bytes[end + 1..])
}
