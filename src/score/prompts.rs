//! The prompts file: JSON lines `{"id", "prompt"}`, plain or compressed, checked in full before anything is computed.
//!
//! Other keys are allowed and ignored. Every complaint names path and line.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::requests::{Id, inflate};
use crate::error::{Error, Kind, Result};

/// One row of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The row's name; its line number where none was given.
    pub id: Id,
    /// The text to continue.
    pub prompt: String,
}

const SHAPE: &str = "a prompt is one line of JSON: {\"id\", \"prompt\"}";

/// Reads and checks `path`, which must have at least one prompt.
///
/// # Errors
/// `Kind::Data`, naming path and line.
pub fn read_prompts(path: &Path) -> Result<Vec<Prompt>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(Kind::Data, "read", path, &e))?;
    parse(&path.display().to_string(), &bytes)
}

fn parse(name: &str, bytes: &[u8]) -> Result<Vec<Prompt>> {
    #[derive(Deserialize)]
    struct Row {
        id: Option<Id>,
        prompt: String,
    }
    let bytes = inflate(name, bytes)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let (mut prompts, mut lines) = (Vec::new(), HashMap::new());
    for (line, n) in bytes.split(|&b| b == b'\n').zip(1..) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let row: Row = serde_json::from_slice(line).map_err(|e| {
            let said = e.to_string();
            let said = said.split(" at line ").next().unwrap_or(&said);
            Error::data(format!("{name}:{n}: {said}")).fix(SHAPE)
        })?;
        let id = row.id.unwrap_or(Id::Int(n));
        if let Some(first) = lines.insert(id.clone(), n) {
            return Err(Error::data(format!("{name}:{n}: id {id} was used on line {first} already"))
                .fix("give every prompt its own id, or none at all (the line number then)"));
        }
        prompts.push(Prompt { id, prompt: row.prompt });
    }
    if prompts.is_empty() {
        return Err(Error::data(format!("{name}: no prompts in it")).fix(SHAPE));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_complaints() {
        let good = "\u{feff}{\"id\":\"a\",\"prompt\":\"x\",\"more\":1}\r\n\n{\"prompt\":\"\"}\n{\"id\":-7,\"prompt\":\"é\"}";
        let got = parse("p", good.as_bytes()).unwrap();
        let ids: Vec<String> = got.iter().map(|p| p.id.to_string()).collect();
        assert_eq!(ids, ["\"a\"", "3", "-7"]);
        assert_eq!(got[2].prompt, "é");
        for (text, says) in [
            ("", "no prompts"),
            ("{\"prompt\":\"x\"}\n{\"prompt\":1}", "p:2: invalid type: integer"),
            ("{\"id\":1}", "p:1: missing field `prompt`"),
            ("{\"id\":1.5,\"prompt\":\"\"}", "p:1"),
            ("[\"x\"", "p:1: EOF"),
            ("{\"prompt\":\"\\ud800\"}", "p:1"),
            ("{\"id\":2,\"prompt\":\"x\"}\n{\"prompt\":\"x\"}", "id 2 was used on line 1"),
        ] {
            let e = parse("p", text.as_bytes()).unwrap_err();
            assert!(e.kind == Kind::Data && e.message.contains(says) && e.fix.is_some(), "{}", e.message);
        }
        assert!(parse("p", b"{\"prompt\":\"\xff\"}").unwrap_err().message.contains("p:1"));
    }
}
