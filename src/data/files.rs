//! Data files as streams of rows: JSON lines, a JSON array, CSV, TSV and plain text, as they are or in gzip or zstd, and
//! parquet.
//!
//! Whether a file is compressed is told by its first bytes, what is inside by its name. What the columns mean is
//! decided in `rows`. Every error names the file and the line; of a parquet file, the row.

use super::parquet;
use crate::error::{Error, Kind, Result};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The kinds of file we read, by extension (`.gz`, `.gzip`, `.zst`, `.zstd` may follow, but for parquet).
const KNOWN: [&str; 7] = ["jsonl", "ndjson", "json", "csv", "tsv", "txt", "parquet"];

/// What `hub` writes beside the files that it fetches: no data.
const SOURCE: &str = "source.json";

/// One row and the line on which it begins (1 for the first).
#[derive(Debug)]
pub struct Row {
    /// Line number in the (uncompressed) file; in a parquet file the row's own.
    pub line: u64,
    /// The columns in the order of the file.
    pub fields: Map<String, Value>,
}

/// The extension that tells what is in a file, without that of its compression, in lower case.
fn extension(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let inner = [".gz", ".gzip", ".zst", ".zstd"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(&name);
    inner.rsplit_once('.').map_or(String::new(), |(_, e)| e.to_owned())
}

/// Whether a file's name says that it holds data.
pub fn is_known(path: &Path) -> bool {
    KNOWN.contains(&extension(path).as_str()) && !is_source(path)
}

fn is_source(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == SOURCE)
}

fn unknown(path: &Path) -> Error {
    Error::data(format!("{}: unknown kind of data file {:?}", path.display(), extension(path)))
        .fix(format!("rename it to end in .{} (.gz or .zst may follow)", KNOWN.join(", .")))
}

/// The files that `paths` name: files, glob patterns, and folders (their data files, not those of subfolders), in the
/// given order and sorted within a pattern or folder. A folder with training and evaluation splits side by side is an
/// error: which one is meant must be said.
pub fn expand(paths: &[String]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for given in paths {
        let path = Path::new(given);
        if path.is_dir() {
            files.extend(in_folder(path)?);
        } else if !path.exists() && given.contains(['*', '?', '[']) {
            let bad =
                |e: &dyn std::fmt::Display| Error::usage(format!("cannot expand the pattern {given:?}: {e}"));
            let before = files.len();
            for entry in glob::glob(given).map_err(|e| bad(&e))? {
                let entry = entry.map_err(|e| bad(&e))?;
                if entry.is_file() && !is_source(&entry) {
                    files.push(entry);
                }
            }
            if files.len() == before {
                return Err(Error::data(format!("no file matches {given:?}"))
                    .fix("check the path; quote the pattern"));
            }
        } else {
            std::fs::metadata(path).map_err(|e| Error::io(Kind::Data, "read", path, &e))?;
            files.push(path.to_owned());
        }
    }
    match files.iter().find(|f| !is_known(f)) {
        Some(f) => Err(unknown(f)),
        None => Ok(files),
    }
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let bad = |e: io::Error| Error::io(Kind::Data, "read", folder, &e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(bad)? {
        let path = entry.map_err(bad)?.path();
        if path.is_file() && is_known(&path) {
            files.push(path);
        }
    }
    files.sort();
    let named = |words: &[&str]| {
        files.iter().any(|f| {
            let name = f.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            words.iter().any(|w| name.starts_with(w))
        })
    };
    if files.is_empty() {
        return Err(Error::data(format!("{}: the folder holds no data files", folder.display()))
            .fix(format!("name a folder with files that end in .{}", KNOWN.join(", ."))));
    }
    if named(&["train"]) && named(&["valid", "test", "dev", "eval"]) {
        return Err(Error::data(format!(
            "{}: the folder holds both training and evaluation files",
            folder.display()
        ))
        .fix(format!("name the files, such as {}/train*", folder.display())));
    }
    Ok(files)
}

/// Counts the bytes taken from the file itself.
struct Counted(File, Rc<Cell<u64>>);

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        self.1.set(self.1.get() + n as u64);
        Ok(n)
    }
}

type Source = Box<dyn BufRead>;

enum Format {
    Lines(Source),
    Array(Array),
    Table(Box<csv::Reader<Source>>),
    Text(Source),
    Parquet(Box<parquet::Rows>),
    /// Nothing more will come.
    End,
}

/// The rows of one file; after an error there are none.
pub struct Rows {
    path: PathBuf,
    format: Format,
    line: u64,
    rows: u64,
    taken: Rc<Cell<u64>>,
}

/// Opens a data file. Errors: not there, of no known kind, empty.
pub fn open(path: &Path) -> Result<Rows> {
    let failed = |e: io::Error| Error::io(Kind::Data, "read", path, &e);
    let taken = Rc::new(Cell::new(0));
    let mut raw =
        BufReader::with_capacity(1 << 16, Counted(File::open(path).map_err(failed)?, Rc::clone(&taken)));
    let head = raw.fill_buf().map_err(failed)?;
    let empty = || Error::data(format!("{}: the file is empty", path.display()));
    if head.is_empty() {
        return Err(empty());
    }
    if head.starts_with(b"version https://git-lfs") {
        let e = Error::data(format!("{}: is a Git LFS pointer, not the file itself", path.display()));
        return Err(e.fix("run `git lfs pull` in its repository"));
    }
    if extension(path) == "parquet" {
        let format = Format::Parquet(Box::new(parquet::open(path)?));
        return Ok(Rows { path: path.to_owned(), format, line: 0, rows: 0, taken });
    }
    let mut source: Source = if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(1 << 16, flate2::bufread::MultiGzDecoder::new(raw)))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::stream::read::Decoder::with_buffer(raw).map_err(failed)?;
        Box::new(BufReader::with_capacity(1 << 16, decoder))
    } else {
        Box::new(raw)
    };
    let head = source.fill_buf().map_err(|e| unreadable(path, 1, &e))?;
    if head.is_empty() {
        return Err(empty());
    }
    let bom = head.starts_with(b"\xef\xbb\xbf");
    let array = head[if bom { 3 } else { 0 }..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[');
    if bom {
        source.consume(3);
    }
    let table = |source: Source, delimiter, quoting| {
        let mut builder = csv::ReaderBuilder::new();
        Format::Table(Box::new(builder.delimiter(delimiter).quoting(quoting).from_reader(source)))
    };
    let format = match extension(path).as_str() {
        "json" if array => Format::Array(Array { text: whole(path, source)?, at: 0, line: 1, begun: false }),
        "jsonl" | "ndjson" | "json" => Format::Lines(source),
        "csv" => table(source, b',', true),
        // TSV knows no quoting: a quotation mark is a character like others.
        "tsv" => table(source, b'\t', false),
        "txt" => Format::Text(source),
        _ => return Err(unknown(path)),
    };
    Ok(Rows { path: path.to_owned(), format, line: 0, rows: 0, taken })
}

fn unreadable(path: &Path, line: u64, e: &io::Error) -> Error {
    Error::data(format!("{}:{line}: cannot read on: {e}", path.display()))
        .fix("the file may be cut short or damaged: fetch it again")
}

fn not_utf8(path: &Path, line: u64, byte: usize) -> Error {
    Error::data(format!("{}:{line}: not UTF-8 (byte {} of the line)", path.display(), byte + 1))
        .fix("convert the file to UTF-8, such as with `iconv -t UTF-8`")
}

/// The rest of a file as text.
fn whole(path: &Path, mut source: Source) -> Result<String> {
    let mut bytes = Vec::new();
    if let Err(e) = source.read_to_end(&mut bytes) {
        return Err(unreadable(path, 1 + newlines(&bytes), &e));
    }
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        not_utf8(path, 1 + newlines(before), before.len() - line_start)
    })
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u64
}

/// serde_json ends its messages with a place of its own counting; ours stands in front.
fn bad_json(path: &Path, line: u64, column: usize, e: &serde_json::Error) -> Error {
    let text = e.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(m, _)| m);
    Error::data(format!("{}:{line}:{column}: not valid JSON: {message}", path.display()))
}

fn object(path: &Path, line: u64, value: Value) -> Result<Row> {
    let kind = match value {
        Value::Object(fields) => return Ok(Row { line, fields }),
        Value::Array(_) => "a list",
        Value::String(_) => "a text",
        Value::Number(_) => "a number",
        Value::Bool(_) => "true or false",
        Value::Null => "null",
    };
    Err(Error::data(format!("{}:{line}: the row is {kind}; a JSON object was expected", path.display())))
}

/// A JSON list in memory, read object by object so that each keeps its line.
struct Array {
    text: String,
    at: usize,
    line: u64,
    begun: bool,
}

impl Array {
    fn skip_to(&mut self, to: usize) {
        self.line += newlines(&self.text.as_bytes()[self.at..to]);
        self.at = to;
    }

    /// Skips white space and gives the character after it.
    fn peek(&mut self) -> Option<char> {
        self.skip_to(self.text.len() - self.text[self.at..].trim_start().len());
        self.text[self.at..].chars().next()
    }

    fn read(&mut self, path: &Path) -> Result<Option<Row>> {
        let fail = |line: u64, what: String| Err(Error::data(format!("{}:{line}: {what}", path.display())));
        let first = !std::mem::replace(&mut self.begun, true);
        let mut next = self.peek();
        if first && next == Some('[') {
            self.at += 1;
            next = self.peek();
        } else if next == Some(',') {
            self.at += 1;
            self.peek();
        } else if next != Some(']') {
            let found = next.map_or("the end of the file".into(), |c| format!("{c:?}"));
            return fail(self.line, format!("not valid JSON: {found} where a comma or ] should be"));
        }
        if next == Some(']') {
            self.at += 1;
            return match self.peek() {
                None => Ok(None),
                Some(_) => fail(self.line, "text after the end of the list".into()),
            };
        }
        let column = self.at - self.text[..self.at].rfind('\n').map_or(0, |i| i + 1);
        let mut stream = serde_json::Deserializer::from_str(&self.text[self.at..]).into_iter::<Value>();
        let value = match stream.next() {
            Some(Ok(value)) => value,
            Some(Err(e)) => {
                let column = if e.line() <= 1 { column + e.column() } else { e.column() };
                return Err(bad_json(path, self.line + e.line().max(1) as u64 - 1, column, &e));
            }
            None => return fail(self.line, "not valid JSON: the file ends inside the list".into()),
        };
        let (line, end) = (self.line, self.at + stream.byte_offset());
        self.skip_to(end);
        object(path, line, value).map(Some)
    }
}

impl Rows {
    /// Bytes taken from the file so far, as they lie on disk.
    pub fn bytes(&self) -> u64 {
        self.taken.get()
    }

    fn read(&mut self) -> Result<Option<Row>> {
        let path = self.path.as_path();
        match &mut self.format {
            Format::End => Ok(None),
            Format::Lines(source) => loop {
                let mut bytes = Vec::new();
                self.line += 1;
                let line = self.line;
                if source.read_until(b'\n', &mut bytes).map_err(|e| unreadable(path, line, &e))? == 0 {
                    return Ok(None);
                }
                let text = std::str::from_utf8(&bytes).map_err(|e| not_utf8(path, line, e.valid_up_to()))?;
                if text.trim().is_empty() {
                    continue;
                }
                let value = serde_json::from_str(text).map_err(|e| bad_json(path, line, e.column(), &e))?;
                return object(path, line, value).map(Some);
            },
            Format::Array(array) => array.read(path),
            Format::Table(reader) => {
                let mut record = csv::StringRecord::new();
                let headers = reader.headers().map_err(|e| bad_table(path, &e))?.clone();
                let mut names: Vec<&str> = headers.iter().collect();
                names.sort_unstable();
                if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
                    return Err(Error::data(format!(
                        "{}:1: two columns are named {:?}",
                        path.display(),
                        twice[0]
                    )));
                }
                if !reader.read_record(&mut record).map_err(|e| bad_table(path, &e))? {
                    return Ok(None);
                }
                let line = record.position().map_or(0, csv::Position::line);
                let fields = headers.iter().zip(&record).map(|(h, f)| (h.to_owned(), cell(f))).collect();
                Ok(Some(Row { line, fields }))
            }
            Format::Text(_) => {
                let Format::Text(source) = std::mem::replace(&mut self.format, Format::End) else {
                    return Ok(None);
                };
                let text = whole(path, source)?;
                let fields = Map::from_iter([("text".to_owned(), Value::String(text))]);
                Ok(Some(Row { line: 1, fields }))
            }
            Format::Parquet(rows) => {
                self.line += 1;
                let fields = rows.next().transpose()?;
                self.taken.set(rows.bytes());
                Ok(fields.map(|fields| Row { line: self.line, fields }))
            }
        }
    }
}

/// A cell that is a whole number in its usual spelling counts as one, so that a label can pick from a list; it prints
/// as it was written.
fn cell(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(n) if n.to_string() == text => n.into(),
        _ => text.into(),
    }
}

fn bad_table(path: &Path, e: &csv::Error) -> Error {
    let line = e.position().map_or(1, csv::Position::line);
    match e.kind() {
        csv::ErrorKind::Io(e) => unreadable(path, line, e),
        csv::ErrorKind::Utf8 { err, .. } => Error::data(format!(
            "{}:{line}: not UTF-8 (column {}, byte {})",
            path.display(),
            err.field() + 1,
            err.valid_up_to() + 1
        ))
        .fix("convert the file to UTF-8, such as with `iconv -t UTF-8`"),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => Error::data(format!(
            "{}:{line}: the row has {len} columns, the first line {expected_len}",
            path.display()
        ))
        .fix("put cells that hold the separator or line ends in quotation marks (CSV)"),
        _ => Error::data(format!("{}:{line}: {e}", path.display())),
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        if let Format::End = self.format {
            return None;
        }
        match self.read() {
            Ok(Some(row)) => {
                self.rows += 1;
                Some(Ok(row))
            }
            Ok(None) => {
                self.format = Format::End;
                let none = Error::data(format!("{}: the file holds no rows", self.path.display()));
                (self.rows == 0).then_some(Err(none))
            }
            Err(e) => {
                self.format = Format::End;
                Some(Err(e))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::io::Write;

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<Row>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let strip = |mut e: Error| {
            e.message = e.message.replace(&format!("{}/", dir.path().display()), "");
            e
        };
        open(&path).map_err(strip)?.map(|r| r.map_err(strip)).collect()
    }

    fn values(name: &str, bytes: &[u8]) -> Vec<(u64, Value)> {
        read(name, bytes).unwrap().into_iter().map(|r| (r.line, Value::Object(r.fields))).collect()
    }

    #[test]
    fn every_format_plain_and_compressed() {
        let two = |a, b| vec![(a, json!({"a": "é", "n": 1})), (b, json!({"a": "x\ny", "n": -2}))];
        let lines = "\u{feff}{\"a\": \"é\", \"n\": 1}\r\n\n{\"a\": \"x\\ny\", \"n\": -2}".as_bytes();
        assert_eq!(values("a.jsonl", lines), two(1, 3));
        assert_eq!(values("a.json", lines), two(1, 3));
        let array = " [\n{\"a\": \"é\", \"n\": 1} ,\n\n {\"a\": \"x\\ny\",\n \"n\": -2}\n]\n".as_bytes();
        assert_eq!(values("A.JSON", array), two(2, 4));
        assert_eq!(values("a.csv", "a,n\né,1\n\"x\ny\",-2\n".as_bytes()), two(2, 3));
        assert_eq!(values("a.tsv", b"a\tn\n\"q\t007\n"), [(2, json!({"a": "\"q", "n": "007"}))]);
        assert_eq!(values("a.txt", b"one\n\ntwo"), [(1, json!({"text": "one\n\ntwo"}))]);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(lines).unwrap();
        let gz = gz.finish().unwrap();
        let zst = zstd::encode_all(lines, 1).unwrap();
        for (name, bytes) in
            [("a.jsonl.gz", &gz), ("a.jsonl", &gz), ("a.jsonl.zst", &zst), ("a.jsonl.gz", &zst)]
        {
            assert_eq!(values(name, bytes), two(1, 3), "{name}");
        }
        let cut = read("a.jsonl.gz", &gz[..gz.len() - 12]).unwrap_err();
        assert!(cut.message.starts_with("a.jsonl.gz:"), "{cut}");
    }

    #[test]
    fn parquet_rows_are_numbered_and_counted() {
        let fixture = |name: &str| {
            let path = format!("{}/tests/fixtures/parquet/{name}.parquet", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(path).unwrap()
        };
        let rows = values("a.parquet", &fixture("codec-zstd"));
        assert_eq!((rows.len(), rows[11].0), (12, 12));
        let row = json!({"inputs": "Question 1: what is it? ", "label": 1, "score": 0.1, "options": ["yes"]});
        assert_eq!(rows[1], (2, row));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("A.PARQUET");
        std::fs::write(&path, fixture("many")).unwrap();
        let mut rows = open(&path).unwrap();
        assert_eq!(rows.by_ref().count(), 2500);
        assert_eq!(rows.bytes(), std::fs::metadata(&path).unwrap().len());
        let binary = "holds 5 bytes that are not UTF-8 (byte 1); text was expected";
        let binary = format!("a.parquet:2: the column \"image.bytes\" {binary}");
        for (bytes, message) in [
            (fixture("empty"), "a.parquet: the file holds no rows"),
            (b"{\"a\": 1}    ".to_vec(), "a.parquet: not a whole parquet file: it does not end as one"),
            (fixture("binary"), binary.as_str()),
        ] {
            let e = read("a.parquet", &bytes).unwrap_err();
            assert_eq!((e.message.as_str(), e.exit_code()), (message, 3));
        }
    }

    #[test]
    fn errors_name_file_and_line() {
        let cases: [(&str, &[u8], &str); 21] = [
            ("a.jsonl", b"", "a.jsonl: the file is empty"),
            ("a.jsonl", b"\n \n", "a.jsonl: the file holds no rows"),
            ("a.csv", b"a,b\n", "a.csv: the file holds no rows"),
            ("a.json", b"[ ]", "a.json: the file holds no rows"),
            ("a.jsonl", b"{}\n{\"a\": }\n", "a.jsonl:2:7: not valid JSON: expected value"),
            ("a.jsonl", b"{}\n[1]\n", "a.jsonl:2: the row is a list; a JSON object was expected"),
            ("a.jsonl", b"{}\n{\"a\": \"\xff\"}\n", "a.jsonl:2: not UTF-8 (byte 8 of the line)"),
            ("a.jsonl", b"{\"a\": 1}{}\n", "a.jsonl:1:9: not valid JSON: trailing characters"),
            ("a.json", b"[{},\n {\"a\" 1}]", "a.json:2:7: not valid JSON: expected `:`"),
            ("a.json", b"[{}\n{}]", "a.json:2: not valid JSON: '{' where a comma or ] should be"),
            ("a.json", b"[{},]", "a.json:1:5: not valid JSON: expected value"),
            ("a.json", b"[{}, ", "a.json:1: not valid JSON: the file ends inside the list"),
            ("a.json", b"[{}", "a.json:1: not valid JSON: the end of the file where a comma or ] should be"),
            ("a.json", b"[{}]\nx", "a.json:2: text after the end of the list"),
            ("a.json", b"[3]", "a.json:1: the row is a number; a JSON object was expected"),
            ("a.csv", b"a,b\n1,2\n3\n", "a.csv:3: the row has 1 columns, the first line 2"),
            ("a.csv", b"a,a\n1,2\n", "a.csv:1: two columns are named \"a\""),
            ("a.csv", b"a,b\n1,\xff\n", "a.csv:2: not UTF-8 (column 2, byte 1)"),
            ("a.txt", b"ok\nno\xfft", "a.txt:2: not UTF-8 (byte 3 of the line)"),
            ("a.bin", b"x", "a.bin: unknown kind of data file \"bin\""),
            (
                "a.jsonl",
                b"version https://git-lfs.github.com/spec/v1\n",
                "a.jsonl: is a Git LFS pointer, not the file itself",
            ),
        ];
        for (name, bytes, message) in cases {
            let e = read(name, bytes).unwrap_err();
            assert_eq!((e.message.as_str(), e.exit_code()), (message, 3));
        }
    }

    #[test]
    fn paths_patterns_and_folders() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["b.jsonl", "a.csv.gz", "notes.md", "source.json"] {
            std::fs::write(at(name), "x").unwrap();
        }
        let names = |paths: &[String]| -> Result<Vec<String>> {
            Ok(expand(paths)?.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect())
        };
        assert_eq!(names(&[at("")]).unwrap(), ["a.csv.gz", "b.jsonl"]);
        assert_eq!(names(&[at("*.jsonl"), at("a.csv.gz")]).unwrap(), ["b.jsonl", "a.csv.gz"]);
        assert!(
            names(&[at("*")]).unwrap_err().fix.unwrap().contains(".jsonl, .ndjson, .json, .csv, .tsv, .txt")
        );
        assert!(names(&[at("no.jsonl")]).unwrap_err().message.starts_with("cannot read "));
        assert!(names(&[at("*.tsv")]).unwrap_err().message.starts_with("no file matches"));
        assert!(names(&[at("a***b")]).is_err());
        for name in ["train.jsonl", "validation.jsonl"] {
            std::fs::write(at(name), "x").unwrap();
        }
        assert!(names(&[at("")]).unwrap_err().message.ends_with("both training and evaluation files"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))] // each writes 30 files
        #[test]
        fn no_bytes_make_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[\\[\\]{},:\"a1 \\n]{0,40}") {
            for name in ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet"] {
                let _ = read(name, &bytes);
                let _ = read(name, text.as_bytes());
                let _ = read(name, format!("[{text}").as_bytes());
                let _ = read(name, &[&[0x1f, 0x8b], &bytes[..]].concat());
                let _ = read(name, &[&[0x28, 0xb5, 0x2f, 0xfd], &bytes[..]].concat());
            }
        }
    }
}
