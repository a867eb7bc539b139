//! The requests file: JSON lines, plain or compressed, checked in full before anything is computed.
//!
//! Two kinds of rows: `{"id", "context", "options": [..], "label"?}` chooses among options, `{"id", "context",
//! "continuation"}` scores one text. Other keys are allowed and ignored. Every complaint names path and line.
//!
//! An empty option is allowed: it has no tokens, log-probability 0, and is never chosen over an option with tokens.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};

/// A row's name, as given: a string or an integer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// An integer (also a line number, where the row has no id).
    Int(i64),
    /// An integer above `i64::MAX`.
    Big(u64),
    /// A string.
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(i) => write!(f, "{i}"),
            Self::Big(i) => write!(f, "{i}"),
            Self::Text(s) => write!(f, "{s:?}"),
        }
    }
}

/// What is asked about a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Which of these follows best.
    Choice {
        /// At least one.
        options: Vec<String>,
        /// Index of the right option, where it is known.
        label: Option<usize>,
    },
    /// How probable this text is.
    Continuation(String),
}

/// One row of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The row's name; its line number where none was given.
    pub id: Id,
    /// The text in front.
    pub context: String,
    /// What is asked.
    pub ask: Ask,
}

impl Request {
    /// The texts to score: the options, or the continuation alone.
    pub fn texts(&self) -> &[String] {
        match &self.ask {
            Ask::Choice { options, .. } => options,
            Ask::Continuation(text) => std::slice::from_ref(text),
        }
    }
}

/// All rows of a file, at least one.
#[derive(Clone, Debug)]
pub struct Requests {
    /// The rows in file order.
    pub rows: Vec<Request>,
    /// blake3 of the uncompressed file, in hex.
    pub hash: String,
}

impl Requests {
    /// Bytes of the longest context with one of its options.
    pub fn longest(&self) -> usize {
        let longest = |r: &Request| r.context.len() + r.texts().iter().map(String::len).max().unwrap_or(0);
        self.rows.iter().map(longest).max().unwrap_or(0)
    }

    /// Reads and checks `path`.
    ///
    /// # Errors
    /// `Kind::Data`, naming path, line and, for broken JSON, column.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(Kind::Data, "read", path, &e))?;
        Self::parse(&path.display().to_string(), &bytes)
    }

    /// Parses the bytes of a file called `name`; gzip and zstd are recognised by their first bytes.
    ///
    /// # Errors
    /// As [`Requests::read`].
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let bytes = inflate(name, bytes)?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let mut rows: Vec<Request> = Vec::new();
        let mut lines: HashMap<Id, usize> = HashMap::new();
        for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
            let n = i + 1;
            let text = std::str::from_utf8(line).map_err(|e| {
                Error::data(format!("{name}:{n}:{}: this is not UTF-8 text", e.valid_up_to() + 1))
                    .fix("save the requests as UTF-8 JSON lines")
            })?;
            if text.trim().is_empty() {
                continue;
            }
            let request = row(text, n).map_err(|(column, e)| match column {
                Some(column) => e.at(format!("{name}:{n}:{column}")),
                None => e.at(format!("{name}:{n}")),
            })?;
            if let Some(first) = lines.insert(request.id.clone(), n) {
                return Err(Error::data(format!(
                    "{name}:{n}: id {} was used on line {first} already",
                    request.id
                ))
                .fix("give every request its own id, or none at all (the line number then)"));
            }
            rows.push(request);
        }
        if rows.is_empty() {
            return Err(Error::data(format!("{name}: no requests in it")).fix(SHAPES));
        }
        Ok(Self { rows, hash })
    }
}

const SHAPES: &str = "a request is one line of JSON: {\"id\", \"context\", \"options\": [..], \"label\"?} or \
                      {\"id\", \"context\", \"continuation\"}";

/// The content of a file that may be gzip or zstd.
pub(super) fn inflate<'a>(name: &str, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>> {
    let mut out = Vec::new();
    let (kind, read) = match bytes {
        [0x1f, 0x8b, ..] => ("gzip", flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            ("zstd", zstd::stream::copy_decode(bytes, &mut out).map(|()| out.len()))
        }
        _ => return Ok(Cow::Borrowed(bytes)),
    };
    match read {
        Ok(_) => Ok(Cow::Owned(out)),
        Err(e) => Err(Error::data(format!("{name}: the {kind} data is broken or cut short: {e}"))
            .fix("download or compress the file again")),
    }
}

/// An error and the column it is at, where that is known.
type Misfit = (Option<usize>, Error);

fn row(text: &str, line: usize) -> Result<Request, Misfit> {
    let value: Value = serde_json::from_str(text).map_err(|e| {
        let said = e.to_string();
        let said = said.split(" at line ").next().unwrap_or(&said);
        (Some(e.column()), Error::data(format!("not valid JSON: {said}")).fix(SHAPES))
    })?;
    let Value::Object(map) = value else {
        return Err((None, Error::data(format!("expected a JSON object, got {}", kind(&value))).fix(SHAPES)));
    };
    fields(map, line).map_err(|e| (None, e))
}

fn fields(mut map: Map<String, Value>, line: usize) -> Result<Request> {
    let id = match map.remove("id") {
        None | Some(Value::Null) => Id::Int(line as i64),
        Some(Value::String(s)) => Id::Text(s),
        Some(v) => match (v.as_i64(), v.as_u64()) {
            (Some(i), _) => Id::Int(i),
            (None, Some(i)) => Id::Big(i),
            _ => return Err(wrong("id", "a string or an integer", &v)),
        },
    };
    let context = string(&mut map, "context")?;
    let ask = match (map.remove("options"), map.contains_key("continuation")) {
        (Some(_), true) => {
            return Err(Error::data("has both \"options\" and \"continuation\"").fix("give one of the two"));
        }
        (None, true) => Ask::Continuation(string(&mut map, "continuation")?),
        (None, false) => {
            let keys: Vec<&str> = map.keys().map(String::as_str).collect();
            let also =
                if keys.is_empty() { String::new() } else { format!(" (also found: {})", keys.join(", ")) };
            return Err(
                Error::data(format!("has neither \"options\" nor \"continuation\"{also}")).fix(SHAPES)
            );
        }
        (Some(Value::Array(items)), false) => {
            let mut options = Vec::with_capacity(items.len());
            for (i, item) in items.into_iter().enumerate() {
                match item {
                    Value::String(s) => options.push(s),
                    v => return Err(wrong(&format!("options[{i}]"), "a string", &v)),
                }
            }
            if options.is_empty() {
                return Err(Error::data("\"options\" is empty").fix("give at least one option"));
            }
            let label = label(map.get("label"), &options)?;
            Ask::Choice { options, label }
        }
        (Some(v), false) => return Err(wrong("options", "a list of strings", &v)),
    };
    Ok(Request { id, context, ask })
}

/// The index of the right option: given as such, or as the option's text (spaces around it do not count if that is
/// what it takes to find exactly one).
fn label(value: Option<&Value>, options: &[String]) -> Result<Option<usize>> {
    let count = options.len();
    let fix =
        "\"label\" is the index of the right option, counted from 0, or its text; leave it out if unknown";
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => {
            if let Some(i) = options.iter().position(|o| o == s) {
                return Ok(Some(i));
            }
            let mut alike = options.iter().enumerate().filter(|(_, o)| o.trim() == s.trim()).map(|(i, _)| i);
            match (alike.next(), alike.next()) {
                (Some(i), None) => Ok(Some(i)),
                _ => Err(Error::data(format!("label {s:?} is not one of the {count} options")).fix(fix)),
            }
        }
        Some(v @ Value::Number(_)) => match v.as_u64() {
            Some(i) if i < count as u64 => Ok(Some(i as usize)),
            _ => Err(Error::data(format!("label {v} does not count one of the {count} options")).fix(fix)),
        },
        Some(v) => Err(wrong("label", "an index or an option's text", v).fix(fix)),
    }
}

fn string(map: &mut Map<String, Value>, key: &str) -> Result<String> {
    match map.remove(key) {
        Some(Value::String(s)) => Ok(s),
        Some(v) => Err(wrong(key, "a string", &v)),
        None => {
            let keys: Vec<&str> = map.keys().map(String::as_str).collect();
            Err(Error::data(format!("has no {key:?} (found: {})", keys.join(", "))).fix(SHAPES))
        }
    }
}

fn wrong(key: &str, want: &str, got: &Value) -> Error {
    Error::data(format!("\"{key}\" must be {want}, got {}", kind(got)))
}

fn kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(n) if n.is_f64() => "a fraction",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const GOOD: &str = concat!(
        "{\"id\":\"a\",\"context\":\"c\",\"options\":[\" x\",\"\"],\"label\":0,\"extra\":[1]}\r\n",
        "\n",
        "{\"context\":\"\",\"continuation\":\"y\"}\n",
        "{\"id\":-7,\"context\":\"é\",\"options\":[\" x\",\" y\"],\"label\":\"y\"}\n",
        "{\"id\":18446744073709551615,\"context\":\"\",\"options\":[\"x\"],\"label\":null}",
    );

    fn parse(s: &str) -> Result<Requests> {
        Requests::parse("r.jsonl", s.as_bytes())
    }

    #[test]
    fn good_rows() {
        let r = parse(GOOD).unwrap().rows;
        let ids: Vec<String> = r.iter().map(|r| serde_json::to_string(&r.id).unwrap()).collect();
        assert_eq!(ids, ["\"a\"", "3", "-7", "18446744073709551615"]);
        let labels: Vec<_> =
            r.iter().map(|r| if let Ask::Choice { label, .. } = r.ask { label } else { Some(99) }).collect();
        assert_eq!(labels, [Some(0), Some(99), Some(1), None]);
        assert_eq!(r[0].texts(), [" x", ""]);
        assert_eq!(r[1].texts(), ["y"]);
        for r in &r {
            let id: Id = serde_json::from_str(&serde_json::to_string(&r.id).unwrap()).unwrap();
            assert_eq!(id, r.id);
        }
    }

    #[test]
    fn compressed_and_marked_files_read_alike() {
        let plain = parse(GOOD).unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(GOOD.as_bytes()).unwrap();
        let gz = gz.finish().unwrap();
        let zst = zstd::encode_all(GOOD.as_bytes(), 1).unwrap();
        for bytes in [&gz, &zst] {
            let r = Requests::parse("r", bytes).unwrap();
            assert_eq!((&r.rows, &r.hash), (&plain.rows, &plain.hash));
            let e = Requests::parse("r", &bytes[..bytes.len() - 5]).unwrap_err();
            assert!(e.kind == Kind::Data && e.message.contains("cut short"), "{e}");
        }
        assert_eq!(Requests::parse("r", format!("\u{feff}{GOOD}").as_bytes()).unwrap().rows, plain.rows);
    }

    #[test]
    fn bad_rows_say_where_and_what() {
        let table = [
            ("", "r.jsonl: no requests"),
            ("\n \r\n", "r.jsonl: no requests"),
            (
                "{\"context\":\"\",\"continuation\":\"\"}\n{\"context\" \"\"}",
                "r.jsonl:2:12: not valid JSON: expected `:`",
            ),
            ("{\"context\":\"\\ud800\",\"continuation\":\"\"}", "r.jsonl:1:"),
            ("{} {}", "r.jsonl:1:4: not valid JSON: trailing characters"),
            ("[1]", "r.jsonl:1: expected a JSON object, got a list"),
            ("{\"options\":[\"a\"]}", "r.jsonl:1: has no \"context\" (found: options)"),
            ("{\"context\":1,\"options\":[\"a\"]}", "\"context\" must be a string, got an integer"),
            (
                "{\"context\":\"\",\"choices\":[]}",
                "has neither \"options\" nor \"continuation\" (also found: choices)",
            ),
            ("{\"context\":\"\",\"options\":[]}", "\"options\" is empty"),
            ("{\"context\":\"\",\"options\":\"a\"}", "\"options\" must be a list of strings, got a string"),
            ("{\"context\":\"\",\"options\":[\"a\",2]}", "\"options[1]\" must be a string, got an integer"),
            ("{\"context\":\"\",\"options\":[\"a\"],\"continuation\":\"\"}", "has both"),
            ("{\"context\":\"\",\"continuation\":null}", "\"continuation\" must be a string, got null"),
            (
                "{\"context\":\"\",\"options\":[\"a\"],\"label\":1}",
                "label 1 does not count one of the 1 options",
            ),
            ("{\"context\":\"\",\"options\":[\"a\"],\"label\":-1}", "label -1 does not"),
            ("{\"context\":\"\",\"options\":[\"a\"],\"label\":0.5}", "label 0.5 does not"),
            (
                "{\"context\":\"\",\"options\":[\"a\"],\"label\":\"b\"}",
                "label \"b\" is not one of the 1 options",
            ),
            (
                "{\"context\":\"\",\"options\":[\" a\",\"a \"],\"label\":\"a\"}",
                "label \"a\" is not one of the 2",
            ),
            ("{\"context\":\"\",\"options\":[\"a\"],\"label\":true}", "\"label\" must be"),
            (
                "{\"id\":1.5,\"context\":\"\",\"options\":[\"a\"]}",
                "\"id\" must be a string or an integer, got a fraction",
            ),
            (
                "{\"id\":5,\"context\":\"\",\"continuation\":\"\"}\n\n{\"id\":5,\"context\":\"\",\"continuation\":\"\"}",
                "r.jsonl:3: id 5 was used on line 1 already",
            ),
            (
                "{\"id\":2,\"context\":\"\",\"continuation\":\"\"}\n{\"context\":\"\",\"continuation\":\"\"}",
                "r.jsonl:2: id 2 was used on line 1 already",
            ),
        ];
        for (text, want) in table {
            let e = parse(text).unwrap_err();
            assert!(e.kind == Kind::Data && e.message.contains(want), "{text}: {e}");
        }
        let e = Requests::parse("r", b"\n{\"a\xff\"}").unwrap_err();
        assert!(e.message.starts_with("r:2:4: this is not UTF-8"), "{e}");
        // A string and an integer are different names.
        parse("{\"id\":\"5\",\"context\":\"\",\"continuation\":\"\"}\n{\"id\":5,\"context\":\"\",\"continuation\":\"\"}").unwrap();
    }

    #[test]
    fn no_bytes_crash_the_parser() {
        let seed = GOOD.as_bytes();
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut bytes = seed.to_vec();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                match state % 3 {
                    0 => bytes[at] = (state >> 20) as u8,
                    1 => drop(bytes.drain(at..(at + 3).min(bytes.len()))),
                    _ => bytes.insert(at, b"\"{}[],:\\"[(state >> 10) as usize % 8]),
                }
            }
            if let Err(e) = Requests::parse("r", &bytes) {
                assert_eq!(e.kind, Kind::Data);
            }
        }
    }
}
