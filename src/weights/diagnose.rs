//! What a file that is no good safetensors file is instead, and what to do about it.
//!
//! Downloads break in a handful of ways (a Git LFS pointer, an error page, a cut transfer), and a parser's complaint
//! about its first eight bytes helps nobody. Every function here only makes an [`Error`].

use crate::disk::human_bytes;
use crate::error::{Error, Result};
use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;
use std::path::Path;

/// If `bytes` are a Git LFS pointer instead of the content of `path`: the error that says so.
pub(super) fn lfs_pointer(path: &Path, bytes: &[u8]) -> Option<Error> {
    let text = std::str::from_utf8(bytes.get(..bytes.len().min(1024))?).ok()?;
    let pointer = text.strip_prefix("version https://git-lfs")?;
    let size = pointer.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse::<u64>().ok());
    let size = size.map_or(String::new(), |size| format!(" of {} ({size} bytes)", human_bytes(size)));
    let path = path.display();
    Some(
        Error::model(format!("{path}: a Git LFS pointer to a file{size}, not the file itself"))
            .fix("run `git lfs pull` in that folder, or download the file again"),
    )
}

/// If `bytes` are plainly another kind of file: the error that names it.
pub(super) fn other_format(path: &Path, bytes: &[u8]) -> Option<Error> {
    const MAGIC: [(&[u8], &str); 7] = [
        (b"\x1f\x8b", "a gzip file"),
        (b"PK\x03\x04", "a zip archive (or a PyTorch .bin, which is one)"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"GGUF", "a GGUF file"),
        (b"\x80\x02", "a Python pickle"),
        (b"\x89HDF", "an HDF5 file"),
        (b"%PDF", "a PDF"),
    ];
    if bytes.get(8) == Some(&b'{') {
        return None; // eight bytes of length, then JSON: what a safetensors file begins with
    }
    if let Some(error) = lfs_pointer(path, bytes) {
        return Some(error);
    }
    let start = bytes.trim_ascii_start();
    let begins = |tag: &[u8]| start.len() >= tag.len() && start[..tag.len()].eq_ignore_ascii_case(tag);
    let is = |what: &str, fix: &str| {
        Some(Error::model(format!("{}: {what}, not a safetensors file", path.display())).fix(fix))
    };
    if bytes.is_empty() {
        return is("an empty file", "download the file again");
    }
    if [&b"<!doctype"[..], b"<html", b"<?xml"].iter().any(|tag| begins(tag)) {
        return is(
            "a web page (HTML or XML)",
            "the download got an error or login page: fetch the file itself, with access granted",
        );
    }
    let (_, what) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic))?;
    is(what, "unpack it, or convert the model to safetensors")
}

/// The error for a file whose header `safetensors` refused with `error`.
pub(super) fn bad_header(path: &Path, bytes: &[u8], error: &SafeTensorError) -> Error {
    use SafeTensorError as E;
    let actual = bytes.len() as u64;
    let again = "download the file again, or save the model again";
    let bad = |what: String| Error::model(format!("{}: {what}", path.display())).fix(again);
    let claimed = bytes.first_chunk().map_or(0, |n| u64::from_le_bytes(*n));
    let header =
        usize::try_from(claimed).ok().and_then(|n| bytes.get(8..n.checked_add(8)?)).unwrap_or_default();
    match error {
        E::HeaderTooSmall => bad(format!("truncated: {actual} bytes, too few for a safetensors file")),
        E::HeaderTooLarge => bad(format!(
            "not a safetensors file, or damaged: its first 8 bytes promise a header of {claimed} bytes, at most \
             100000000 are allowed"
        )),
        E::InvalidHeaderLength => {
            bad(format!("truncated: {actual} bytes, expected more than {} for its header", claimed + 8))
        }
        E::InvalidHeader(e) => bad(format!("damaged: its header is not UTF-8: {e}")),
        E::InvalidHeaderDeserialization(e) => {
            bad(format!("damaged: its header is not the expected JSON: {e}"))
        }
        E::MetadataIncompleteBuffer => {
            let data = serde_json::from_slice::<Metadata>(header).map_or(0, |m| m.data_len() as u64);
            let expected = data + claimed + 8;
            if actual < expected {
                bad(format!("truncated: {actual} bytes, expected {expected}"))
            } else {
                bad(format!("{} trailing bytes: {actual} bytes, expected {expected}", actual - expected))
            }
        }
        _ => bad(bad_tensor(header).unwrap_or_else(|| format!("damaged header: {error}"))),
    }
}

/// What is wrong with the first bad tensor of a header that is JSON of the right form.
fn bad_tensor(header: &[u8]) -> Option<String> {
    let Names(names) = Names::of(header).ok()?;
    let mut seen = HashSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
        return Some(format!("holds the tensor {twice} twice"));
    }
    let map: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    let mut tensors: Vec<(String, TensorInfo)> = Vec::new();
    for (name, info) in map.into_iter().filter(|(name, _)| name != "__metadata__") {
        tensors.push((name, serde_json::from_value(info).ok()?));
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, TensorInfo { dtype, shape, data_offsets: (from, to) }) in &tensors {
        if *from != end || to < from {
            return Some(format!(
                "bytes {from}..{to} of the tensor {name} leave a gap or overlap: expected {end}.."
            ));
        }
        let elements = shape.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim));
        let size = elements.and_then(|n| n.checked_mul(dtype.bitsize())).map(|bits| bits.div_ceil(8));
        if size != Some(to - from) {
            let size = size.map_or("more than can be".into(), |n| n.to_string());
            let held = to - from;
            return Some(format!("tensor {name}: {held} bytes, but {dtype} {shape:?} takes {size}"));
        }
        end = *to;
    }
    None
}

/// The keys of a JSON object with repetitions, which a map would merge.
struct Names(Vec<String>);

impl Names {
    fn of(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::Deserializer::from_slice(json).deserialize_map(Names(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Names {
    type Value = Self;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some((name, IgnoredAny)) = map.next_entry()? {
            self.0.push(name);
        }
        Ok(self)
    }
}

/// The error for a folder without safetensors: says what is there instead.
pub(super) fn no_weights(dir: &Path) -> Error {
    let place = dir.display();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if dir.is_file() => {
            return Error::model(format!("{place}: a file, expected the folder that holds the model: {e}"))
                .fix("give the folder that holds config.json and model.safetensors");
        }
        Err(e) => return Error::io(crate::error::Kind::Model, "read the model folder", dir, &e),
    };
    let mut names: Vec<_> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let with = |ends: &[&str]| names.iter().find(|name| ends.iter().any(|end| name.ends_with(end)));
    let error = |what: String, fix: &str| {
        Error::model(format!("{place}: no model.safetensors or model.safetensors.index.json{what}")).fix(fix)
    };
    if let Some(name) = with(&[".safetensors"]) {
        let fix = "rename it to model.safetensors, or fetch model.safetensors.index.json if it is one of several shards";
        return error(format!(", though there is {name}"), fix);
    }
    if let Some(name) = with(&[".bin", ".pt", ".pth", ".ckpt"]) {
        let fix = "convert it to safetensors: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT) in Python";
        return error(format!("; {name} is a PyTorch file, which flanrt does not read"), fix);
    }
    if let Some(name) = with(&[".gguf"]) {
        let fix = "use the original model in Hugging Face layout (safetensors)";
        return error(format!("; {name} is a GGUF file, which flanrt does not read"), fix);
    }
    let shown = names.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if names.len() > 12 { ", ..." } else { "" };
    let there =
        if names.is_empty() { "; the folder is empty".into() } else { format!("; there are: {shown}{more}") };
    error(there, "give the folder that holds config.json and model.safetensors")
}

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use crate::error::Kind;
    use std::fs;

    /// A safetensors file with this header and so many zero bytes.
    pub(super) fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn every_bad_file_has_its_own_message() {
        let good = file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8);
        let one = |info: &str, data| file(&format!(r#"{{"a":{info}}}"#), data);
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5000000000\n".to_vec();
        let long = [1_000_000_000u64.to_le_bytes().to_vec(), b"{\"a\"".to_vec()].concat();
        let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
        let cases: Vec<(Vec<u8>, &str, &str)> = vec![
            (lfs, "Git LFS pointer to a file of 5.0 GB (5000000000 bytes)", "git lfs pull"),
            (b"\n<!DOCTYPE html><html>".to_vec(), "web page", "login page"),
            (b"<?xml version='1.0'?><Error>".to_vec(), "web page", "access"),
            (b"\x1f\x8b\x08\x00 and so on".to_vec(), "a gzip file", "unpack"),
            (b"PK\x03\x04 and so on".to_vec(), "a zip archive", "unpack"),
            (b"GGUF\x03\0\0\0 and so on".to_vec(), "a GGUF file", "convert"),
            (vec![], "empty file", "again"),
            (vec![1, 2, 3], "truncated: 3 bytes", "again"),
            (good[..30].to_vec(), "truncated: 30 bytes, expected more than 62", "again"),
            (good[..66].to_vec(), "truncated: 66 bytes, expected 70", "again"),
            ([good.clone(), vec![0; 5]].concat(), "5 trailing bytes: 75 bytes, expected 70", "again"),
            (long, "promise a header of 1000000000 bytes", "again"),
            (file("{not json", 0), "not the expected JSON", "again"),
            (file("[1, 2]  ", 0), "not the expected JSON", "again"),
            (
                file("{\"a\":\"\u{7f}", 0).iter().map(|b| if *b == 0x7f { 0xff } else { *b }).collect(),
                "not UTF-8",
                "",
            ),
            (file(twice, 8), "holds the tensor a twice", "again"),
            (
                one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#, 8),
                "tensor a: 8 bytes, but F32 [3] takes 12",
                "",
            ),
            (
                one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,16]}"#, 16),
                "bytes 8..16 of the tensor a leave a gap",
                "",
            ),
            (
                one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#, 8),
                "takes more than can be",
                "",
            ),
            (one(r#"{"dtype":"Q4_K","shape":[2],"data_offsets":[0,8]}"#, 8), "Q4_K", ""),
        ];
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("model.safetensors");
        fs::write(&path, &good).unwrap();
        Checkpoint::open(tmp.path()).unwrap();
        for (bytes, message, fix) in cases {
            fs::write(&path, bytes).unwrap();
            let e = Checkpoint::open(tmp.path()).err().expect(message);
            assert_eq!(e.kind, Kind::Model, "{e}");
            assert!(
                e.message.contains(message) && e.message.contains("model.safetensors"),
                "{message:?} not in {e}"
            );
            assert!(e.fix.as_ref().is_some_and(|f| f.contains(fix)), "{fix:?} not in {e:?}");
        }
    }

    #[test]
    fn a_folder_without_weights_says_what_it_holds() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("m");
        let check = |message: &str, fix: &str| {
            let e = Checkpoint::open(&dir).err().expect(message);
            assert!(e.kind == Kind::Model && e.message.contains(message), "{message:?} not in {e}");
            assert!(e.fix.as_ref().is_some_and(|f| f.contains(fix)), "{fix:?} not in {e:?}");
        };
        check("No such file", "check the path");
        fs::create_dir(&dir).unwrap();
        check("the folder is empty", "config.json");
        fs::write(dir.join("config.json"), "{}").unwrap();
        fs::write(dir.join("vocab.txt"), "").unwrap();
        check("there are: config.json, vocab.txt", "model.safetensors");
        fs::write(dir.join("model.Q4.gguf"), "").unwrap();
        check("model.Q4.gguf is a GGUF file", "safetensors");
        fs::write(dir.join("pytorch_model.bin"), "").unwrap();
        check("pytorch_model.bin is a PyTorch file", "save_pretrained");
        fs::write(dir.join("model-00001-of-00002.safetensors"), "").unwrap();
        check("though there is model-00001-of-00002.safetensors", "index.json");
        let e = Checkpoint::open(&dir.join("config.json")).err().unwrap();
        assert!(e.message.contains("expected the folder"), "{e}");
    }
}
