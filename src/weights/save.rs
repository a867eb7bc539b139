//! Saving in the full Hugging Face layout: config files, tokenizer files, one safetensors file or shards with an index.
//!
//! The folder appears whole or not at all (`disk::write_dir_atomic`). Tensors stream to the disk one by one, so that
//! saving needs the memory of one converted tensor. Which tensors there are and what they are called is the caller's.

use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::tensor::DType;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The size above which a model is split into several files: 5 GB, as `transformers` does.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// A tensor to be written; its elements are asked for only when it is its turn.
pub struct Tensor<'a> {
    name: String,
    shape: Vec<usize>,
    dtype: DType,
    bytes: Elements<'a>,
}

type Elements<'a> = Box<dyn FnOnce() -> Result<Cow<'a, [u8]>> + 'a>;

impl<'a> Tensor<'a> {
    /// A tensor whose elements (row-major, little-endian) are at hand.
    pub fn new(name: impl Into<String>, shape: Vec<usize>, dtype: DType, bytes: &'a [u8]) -> Self {
        Self { name: name.into(), shape, dtype, bytes: Box::new(move || Ok(Cow::Borrowed(bytes))) }
    }
    /// A tensor whose elements `make` produces (copies from a device, converts) when they are to be written.
    pub fn lazy(
        name: impl Into<String>,
        shape: Vec<usize>,
        dtype: DType,
        make: impl FnOnce() -> Result<Vec<u8>> + 'a,
    ) -> Self {
        Self { name: name.into(), shape, dtype, bytes: Box::new(move || make().map(Cow::Owned)) }
    }
    /// Its size on disk in bytes.
    pub fn size(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.size()) as u64
    }
}

/// Writes a model folder that `transformers` and [`super::Checkpoint`] load, replacing one written earlier.
///
/// `extra_files` are the tokenizer files and such, by name. Tensors go to `model.safetensors` or, when they are more
/// than `max_shard_bytes` together, in the order given to `model-00001-of-0000N.safetensors` and so on. Fails before
/// any work when the disk has too little space.
pub fn save_model(
    dir: &Path,
    config_json: &Value,
    generation_config: Option<&Value>,
    extra_files: &[(String, Vec<u8>)],
    tensors: Vec<Tensor<'_>>,
    max_shard_bytes: u64,
) -> Result<()> {
    let total: u64 = tensors.iter().map(Tensor::size).sum();
    let extra: u64 = extra_files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    // Headers, the index, the manifest and rounding up to disk blocks take the rest.
    let others = (1 << 16) + 256 * tensors.len() as u64;
    disk::ensure_space(dir, total + extra + others)?;
    check_names(&tensors)?;
    disk::write_dir_atomic(dir, |dir| {
        write_json(&dir.join("config.json"), config_json)?;
        if let Some(generation) = generation_config {
            write_json(&dir.join("generation_config.json"), generation)?;
        }
        for (name, bytes) in extra_files {
            write(&dir.join(name), bytes)?;
        }
        let mut shards = split(tensors, max_shard_bytes);
        if shards.len() == 1 {
            return write_tensors(&dir.join("model.safetensors"), shards.remove(0));
        }
        let (of, mut weight_map) = (shards.len(), BTreeMap::new());
        for (i, shard) in shards.into_iter().enumerate() {
            let file = format!("model-{:05}-of-{of:05}.safetensors", i + 1);
            weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), file.clone())));
            write_tensors(&dir.join(file), shard)?;
        }
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        write_json(&dir.join("model.safetensors.index.json"), &index)
    })
}

/// Writes one safetensors file; not atomic by itself, meant for inside a `disk::write_dir_atomic`.
pub fn write_file(path: &Path, tensors: Vec<Tensor<'_>>) -> Result<()> {
    check_names(&tensors)?;
    write_tensors(path, tensors)
}

/// Cuts `tensors` into runs of at most `max` bytes (a larger tensor is alone); always at least one run.
fn split(tensors: Vec<Tensor<'_>>, max: u64) -> Vec<Vec<Tensor<'_>>> {
    let (mut shards, mut used) = (vec![Vec::new()], 0);
    for tensor in tensors {
        let size = tensor.size();
        let open = shards.len() - 1;
        if !shards[open].is_empty() && used + size > max {
            shards.push(vec![tensor]);
            used = size;
        } else {
            shards[open].push(tensor);
            used += size;
        }
    }
    shards
}

/// The header length, the header padded to 8 bytes, then the tensors: wider elements first, then by name.
fn write_tensors(path: &Path, mut tensors: Vec<Tensor<'_>>) -> Result<()> {
    tensors.sort_by(|a, b| Dtype::from(b.dtype).cmp(&Dtype::from(a.dtype)).then_with(|| a.name.cmp(&b.name)));
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let from = end;
        end += tensor.size() as usize;
        let info =
            TensorInfo { dtype: tensor.dtype.into(), shape: tensor.shape.clone(), data_offsets: (from, end) };
        (tensor.name.clone(), info)
    });
    // "pt" tells readers that the tensors are laid out as PyTorch has them; `transformers` demands it.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let broken = |e: &dyn std::fmt::Display| Error::internal(format!("{}: {e}", path.display()));
    let metadata = Metadata::new(Some(format), infos.collect()).map_err(|e| broken(&e))?;
    let mut header = serde_json::to_string(&metadata).map_err(|e| broken(&e))?.into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    let io_error = |e: std::io::Error| Error::io(Kind::Disk, "write", path, &e);
    let mut out = BufWriter::with_capacity(1 << 20, File::create_new(path).map_err(io_error)?);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io_error)?;
    out.write_all(&header).map_err(io_error)?;
    for tensor in tensors {
        let size = tensor.size();
        let bytes = (tensor.bytes)()?;
        if bytes.len() as u64 != size {
            let (name, got) = (tensor.name, bytes.len());
            return Err(Error::internal(format!("tensor {name}: {got} bytes to save, expected {size}")));
        }
        out.write_all(&bytes).map_err(io_error)?;
    }
    out.flush().map_err(io_error)
}

fn check_names(tensors: &[Tensor<'_>]) -> Result<()> {
    let mut seen = HashSet::new();
    match tensors.iter().find(|tensor| !seen.insert(&tensor.name)) {
        Some(tensor) => Err(Error::internal(format!("tensor {} to be saved twice", tensor.name))),
        None => Ok(()),
    }
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::internal(format!("{}: {e}", path.display())))?;
    write(path, (text + "\n").as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    File::create_new(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|e| Error::io(Kind::Disk, "write", path, &e))
}

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use super::*;
    use DType::{BF16, F16, F32};
    use std::fs;

    fn tensors() -> Vec<Tensor<'static>> {
        vec![
            Tensor::new("z", vec![3, 1], F16, &[1, 2, 3, 4, 5, 6]),
            Tensor::lazy("b", vec![2], F32, || Ok(vec![7; 8])),
            Tensor::lazy("y", vec![2], BF16, || Ok(vec![8; 4])),
            Tensor::lazy("a", vec![1], F32, || Ok(vec![9; 4])),
            Tensor::new("empty", vec![0, 4], F32, &[]),
        ]
    }

    fn save(dir: &Path, max: u64) -> Result<()> {
        let extra = [("tokenizer.json".to_owned(), b"{}".to_vec())];
        let config = json!({"model_type": "llama", "rope_theta": 10000.0});
        save_model(dir, &config, Some(&json!({"bos_token_id": 1})), &extra, tensors(), max)
    }

    #[test]
    fn a_file_is_byte_for_byte_what_the_safetensors_crate_writes() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("model");
        save(&dir, MAX_SHARD_BYTES).unwrap();
        save(&dir, MAX_SHARD_BYTES).unwrap(); // a second save replaces the first
        let view = |dtype, shape: &[usize], bytes: &'static [u8]| {
            safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap()
        };
        let views = [
            ("a", view(Dtype::F32, &[1], &[9; 4])),
            ("b", view(Dtype::F32, &[2], &[7; 8])),
            ("empty", view(Dtype::F32, &[0, 4], &[])),
            ("y", view(Dtype::BF16, &[2], &[8; 4])),
            ("z", view(Dtype::F16, &[3, 1], &[1, 2, 3, 4, 5, 6])),
        ];
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let expected = safetensors::serialize(views, Some(format)).unwrap();
        assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), expected);
        assert_eq!(
            fs::read_to_string(dir.join("config.json")).unwrap(),
            "{\n  \"model_type\": \"llama\",\n  \"rope_theta\": 10000.0\n}\n"
        );
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let expected =
            ["MANIFEST.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
        assert_eq!(names, expected);
        disk::verify_dir(&dir).unwrap();
    }

    #[test]
    fn shards_hold_what_fits_and_load_again() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("model");
        save(&dir, 12).unwrap(); // z 6 | b 8 + y 4 | a 4 + empty 0
        let index: Value =
            serde_json::from_slice(&fs::read(dir.join("model.safetensors.index.json")).unwrap()).unwrap();
        let shard = |i| format!("model-0000{i}-of-00003.safetensors");
        let expected = json!({"metadata": {"total_size": 22}, "weight_map":
            {"a": shard(3), "b": shard(2), "empty": shard(3), "y": shard(2), "z": shard(1)}});
        assert_eq!(index, expected);
        let ck = Checkpoint::open(&dir).unwrap();
        assert_eq!((ck.files().len(), ck.bytes()), (3, 22));
        let y = ck.get("y").unwrap().unwrap();
        assert_eq!((y.dtype, y.shape, y.bytes), (BF16, &[2usize][..], &[8u8; 4][..]));
        assert_eq!(ck.get("z").unwrap().unwrap().bytes, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_failure_on_the_way_leaves_no_folder() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("model");
        let failing = |tensor, message: &str| {
            let saved = save_model(
                &dir,
                &json!({}),
                None,
                &[],
                vec![Tensor::new("a", vec![1], F32, &[0; 4]), tensor],
                9,
            );
            assert!(saved.as_ref().is_err_and(|e| e.message.contains(message)), "{saved:?}");
            assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
        };
        failing(Tensor::lazy("b", vec![1], F32, || Err(Error::internal("device gone"))), "device gone");
        failing(Tensor::new("b", vec![2], F32, &[0; 4]), "4 bytes to save, expected 8");
        failing(Tensor::new("a", vec![1], F32, &[0; 4]), "a to be saved twice");
        failing(Tensor::new("b", vec![1 << 58], F32, &[]), "free");
    }
}
