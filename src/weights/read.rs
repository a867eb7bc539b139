//! A checkpoint in Hugging Face layout, memory-mapped: `model.safetensors`, or an index with shards.
//!
//! Opening reads headers only. Tensors are views into the mapping; after one is copied out, [`Checkpoint::release`]
//! gives its pages back. Which parameter a tensor belongs to is not decided here.

use super::diagnose;
use crate::error::{Error, Kind, Result};
use crate::tensor::DType;
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::tensor::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The opened files of a checkpoint and where each tensor lies.
///
/// The files must not be changed in place while this lives (the system would kill the process for reading past a
/// shortened one); replacing them by rename, as flanrt does, is fine.
#[derive(Default)]
pub struct Checkpoint {
    files: Vec<Mapped>,
    tensors: BTreeMap<String, Place>,
    aliases: BTreeMap<String, String>,
}

/// One tensor of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// How its elements are stored.
    pub dtype: DType,
    /// Its shape, outermost dimension first.
    pub shape: &'a [usize],
    /// Its elements, row-major and little-endian, at any address: not aligned to the element.
    pub bytes: &'a [u8],
}

struct Mapped {
    path: PathBuf,
    bytes: Bytes,
}

enum Bytes {
    Map(Mmap),
    Static(&'static [u8]),
}

struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    from: usize,
    to: usize,
}

impl Checkpoint {
    /// Opens `model.safetensors` in `dir` or, if there is none, the shards of `model.safetensors.index.json`.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut opened = Self::default();
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if single.exists() {
            opened.add(map(single)?)?;
        } else if index.exists() {
            opened.add_shards(dir, &index)?;
        } else {
            return Err(diagnose::no_weights(dir));
        }
        let Self { tensors, aliases, .. } = &mut opened;
        aliases.retain(|name, target| tensors.contains_key(target) && !tensors.contains_key(name));
        Ok(opened)
    }

    /// Opens the one file `path`.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut opened = Self::default();
        opened.add(map(path.to_path_buf())?)?;
        Ok(opened)
    }

    /// A checkpoint that lies in the program.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self> {
        let mut opened = Self::default();
        opened.add(Mapped { path: "(built in)".into(), bytes: Bytes::Static(bytes) })?;
        Ok(opened)
    }

    /// The names of all tensors, sorted, whatever their dtype.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor `name`; `None` if there is none. Error: its dtype is not one of f32, f16, bf16.
    pub fn get(&self, name: &str) -> Result<Option<Entry<'_>>> {
        let Some((name, place)) = self.tensors.get_key_value(name) else { return Ok(None) };
        let file = &self.files[place.file];
        let dtype = match place.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                let path = file.path.display();
                return Err(Error::model(format!(
                    "{path}: tensor {name} is stored as {other}, expected F32, F16 or BF16"
                ))
                .fix("use a checkpoint that is not quantised, or convert it to bfloat16 or float32"));
            }
        };
        Ok(Some(Entry { name, dtype, shape: &place.shape, bytes: &file.bytes()[place.from..place.to] }))
    }

    /// The tensor that the file says to use for `name`, which it does not store itself: tied checkpoints carry
    /// `{"model.embed_tokens.weight": "lm_head.weight"}` in their metadata.
    pub fn alias(&self, name: &str) -> Option<&str> {
        self.aliases.get(name).map(String::as_str)
    }

    /// Drops the pages that hold nothing but the tensor `name` from memory. They are read again if it is used again.
    pub fn release(&self, name: &str) {
        // Mappings start on a page. Larger pages than this only make the system round; the pages are clean, so
        // dropping a neighbour's too costs a read, never data.
        const PAGE: usize = 4096;
        let Some(place) = self.tensors.get(name) else { return };
        let (from, to) = (place.from.next_multiple_of(PAGE), place.to / PAGE * PAGE);
        if let Bytes::Map(map) = &self.files[place.file].bytes
            && from < to
        {
            // A system that refuses keeps the pages, which changes memory use only.
            // SAFETY: the mapping is read-only and backed by the file: dropped pages come back with the same bytes.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, from, to - from) };
        }
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|place| (place.to - place.from) as u64).sum()
    }

    /// The weight files on disk.
    pub fn files(&self) -> Vec<PathBuf> {
        let on_disk = self.files.iter().filter(|file| matches!(file.bytes, Bytes::Map(_)));
        on_disk.map(|file| file.path.clone()).collect()
    }

    /// Takes in the tensors of one file.
    fn add(&mut self, file: Mapped) -> Result<()> {
        let (path, bytes) = (&file.path, file.bytes());
        if let Some(error) = diagnose::other_format(path, bytes) {
            return Err(error);
        }
        let (header, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|e| diagnose::bad_header(path, bytes, &e))?;
        for (name, info) in metadata.tensors() {
            let (from, to) = (8 + header + info.data_offsets.0, 8 + header + info.data_offsets.1);
            let place =
                Place { file: self.files.len(), dtype: info.dtype, shape: info.shape.clone(), from, to };
            if let Some(other) = self.tensors.insert(name.clone(), place) {
                let (first, second) = (self.files[other.file].path.display(), path.display());
                return Err(Error::model(format!("tensor {name} is in {first} and again in {second}"))
                    .fix("download the model again, or save it again"));
            }
        }
        self.aliases.extend(metadata.metadata().clone().unwrap_or_default());
        self.files.push(file);
        Ok(())
    }

    /// Takes in the shards that the index names, and holds it to what it says.
    fn add_shards(&mut self, dir: &Path, index: &Path) -> Result<()> {
        let weight_map = read_index(index)?;
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort();
        shards.dedup();
        let missing: Vec<&str> =
            shards.iter().filter(|s| !dir.join(s).exists()).map(|s| s.as_str()).collect();
        if !missing.is_empty() {
            let (n, of, names) = (missing.len(), shards.len(), missing.join(", "));
            return Err(Error::model(format!("{}: {n} of {of} shards missing: {names}", index.display()))
                .fix("download the missing files into the same folder"));
        }
        for shard in shards {
            self.add(map(dir.join(shard))?)?;
        }
        for (name, shard) in &weight_map {
            let found = self.tensors.get(name).map(|place| &self.files[place.file].path);
            if found.is_none_or(|path| *path != dir.join(shard)) {
                let is = found.map_or("in no shard".into(), |path| format!("in {}", path.display()));
                return Err(Error::model(format!(
                    "{}: tensor {name} is {is}, not in {shard}",
                    index.display()
                ))
                .fix("the index and the shards are of different versions: download all of them again"));
            }
        }
        Ok(())
    }
}

impl Mapped {
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Map(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

fn map(path: PathBuf) -> Result<Mapped> {
    let io_error = |e: std::io::Error| Error::io(Kind::Model, "read", &path, &e);
    let file = File::open(&path).map_err(io_error)?;
    // SAFETY: the mapping is read-only; that nobody changes the file in place is the documented condition of
    // `Checkpoint`, and every tensor's range is checked against the length mapped here.
    let map = unsafe { Mmap::map(&file) }.map_err(io_error)?;
    Ok(Mapped { path, bytes: Bytes::Map(map) })
}

/// The `weight_map` of an index: tensor name to the name of a file beside it.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io(Kind::Model, "read", path, &e))?;
    if let Some(error) = diagnose::lfs_pointer(path, &bytes) {
        return Err(error);
    }
    let bad = |what: String| {
        Error::model(format!("{}: {what}", path.display()))
            .fix("download the index again, or save the model again")
    };
    let Index { weight_map } =
        serde_json::from_slice(&bytes).map_err(|e| bad(format!("not a weight index: {e}")))?;
    if weight_map.is_empty() {
        return Err(bad("its weight_map is empty".into()));
    }
    for shard in weight_map.values() {
        let mut parts = Path::new(shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(bad(format!("names the shard {shard:?}, expected a file in the same folder")));
        }
    }
    Ok(weight_map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;
    use std::collections::HashMap;
    use std::fs;

    fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], &[u8])], metadata: &[(&str, &str)]) {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
        });
        let metadata: HashMap<_, _> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
    }

    #[test]
    fn one_file_with_tied_names_and_foreign_dtypes() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join(SINGLE);
        let tied = [("format", "pt"), ("model.embed_tokens.weight", "lm_head.weight"), ("x", "nowhere")];
        let tensors: [(&str, Dtype, &[usize], &[u8]); 4] = [
            ("lm_head.weight", Dtype::F16, &[1, 2], &[1, 2, 3, 4]),
            ("norm", Dtype::BF16, &[1], &[5, 6]),
            ("ids", Dtype::I64, &[1], &[0; 8]),
            ("w8", Dtype::F8_E4M3, &[3], &[7, 8, 9]),
        ];
        write(&path, &tensors, &tied);
        let check = |ck: &Checkpoint| {
            assert_eq!(ck.names().collect::<Vec<_>>(), ["ids", "lm_head.weight", "norm", "w8"]);
            let head = ck.get("lm_head.weight").unwrap().unwrap();
            assert_eq!((head.dtype, head.shape, head.bytes), (DType::F16, &[1, 2][..], &[1, 2, 3, 4][..]));
            assert_eq!(ck.get("norm").unwrap().unwrap().bytes, [5, 6]);
            assert!(ck.get("missing").unwrap().is_none());
            for (name, dtype) in [("ids", "I64"), ("w8", "F8_E4M3")] {
                let e = ck.get(name).unwrap_err();
                assert!(
                    e.kind == Kind::Model && e.message.contains(&format!("{name} is stored as {dtype}")),
                    "{e}"
                );
            }
            assert_eq!(ck.alias("model.embed_tokens.weight"), Some("lm_head.weight"));
            assert_eq!(ck.bytes(), 17);
        };
        let opened = Checkpoint::open(tmp.path()).unwrap();
        check(&opened);
        assert_eq!((opened.alias("format"), opened.alias("x")), (None, None));
        assert_eq!(opened.files(), std::slice::from_ref(&path));
        let built_in = Checkpoint::from_static(fs::read(&path).unwrap().leak()).unwrap();
        check(&built_in);
        assert!(built_in.files().is_empty());
    }

    #[test]
    fn shards_and_their_index() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path();
        let shard = |name: &str, tensors: &[&str]| {
            let tensors: Vec<(&str, Dtype, &[usize], &[u8])> =
                tensors.iter().map(|n| (*n, Dtype::F32, &[1usize][..], &[1u8, 2, 3, 4][..])).collect();
            write(&dir.join(name), &tensors, &[]);
        };
        let index = |text: &str| fs::write(dir.join(INDEX), text).unwrap();
        let fails = |message: &str| {
            let e = Checkpoint::open(dir).err().expect(message);
            assert!(e.kind == Kind::Model && e.fix.is_some(), "{e:?}");
            assert!(e.message.contains(message) && e.message.contains(INDEX), "{message:?} not in {e}");
        };
        shard("s1", &["a", "b"]);
        shard("s2", &["c"]);
        index(r#"{"metadata":{"total_size":12},"weight_map":{"a":"s1","b":"s1","c":"s2"}}"#);
        let ck = Checkpoint::open(dir).unwrap();
        assert_eq!(ck.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(ck.files(), [dir.join("s1"), dir.join("s2")]);
        index(r#"{"weight_map":{"a":"s1","c":"s3","d":"s4"}}"#);
        fails("2 of 3 shards missing: s3, s4");
        index(r#"{"weight_map":{"a":"s1","z":"s2"}}"#);
        fails("tensor z is in no shard, not in s2");
        index(r#"{"weight_map":{"a":"s1","b":"s2"}}"#);
        fails("s1, not in s2");
        index(r#"{"weight_map":{"a":"../s1"}}"#);
        fails("expected a file in the same folder");
        index(r#"{"weight_map":{}}"#);
        fails("is empty");
        index(r#"{"weight_map":["#);
        fails("not a weight index");
        index("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 812\n");
        fails("Git LFS pointer to a file of 812 bytes");
        shard("s2", &["a", "c"]);
        index(r#"{"weight_map":{"a":"s1","c":"s2"}}"#);
        let e = Checkpoint::open(dir).err().unwrap();
        assert!(e.message.contains("tensor a is in") && e.message.contains("s2"), "{e}");
    }

    /// Resident kB of this process that are backed by `path`.
    fn resident(path: &Path) -> u64 {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let path = path.to_str().unwrap();
        let of_file = maps.lines().skip_while(|line| !line.ends_with(path));
        let rss = of_file.skip(1).find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn released_tensors_leave_memory_and_can_be_read_again() {
        if !cfg!(target_os = "linux") {
            return println!("skipped: resident memory is read from /proc");
        }
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join(SINGLE);
        let n = 4 << 20;
        let (a, b): (Vec<u8>, Vec<u8>) = (vec![1; n], vec![2; n]);
        write(&path, &[("a", Dtype::F32, &[n / 4], &a), ("b", Dtype::F32, &[n / 4], &b)], &[]);
        let ck = Checkpoint::open(tmp.path()).unwrap();
        let read =
            |name: &str| ck.get(name).unwrap().unwrap().bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
        assert_eq!((read("a"), read("b")), (n as u64, 2 * n as u64));
        assert!(resident(&path) >= 8 << 10);
        ck.release("a");
        let left = resident(&path);
        assert!((4 << 10..5 << 10).contains(&left), "{left} kB");
        assert_eq!((read("a"), read("b")), (n as u64, 2 * n as u64));
    }

    #[test]
    fn real_checkpoints_open() {
        let assets = std::env::var("FLANRT_TEST_ASSETS").unwrap_or("../shared".into());
        for (name, tensors, head) in
            [("stories260K", 47, None), ("tinystories-656k", 20, Some("lm_head.weight"))]
        {
            let dir = Path::new(&assets).join("models").join(name);
            if !dir.exists() {
                println!("skipped: no {}", dir.display());
                continue;
            }
            let ck = Checkpoint::open(&dir).unwrap();
            assert_eq!(ck.names().count(), tensors, "{name}");
            assert_eq!(ck.alias("model.embed_tokens.weight"), head, "{name}");
            for tensor in ck.names() {
                let entry = ck.get(tensor).unwrap().unwrap();
                assert_eq!(entry.shape.iter().product::<usize>() * entry.dtype.size(), entry.bytes.len());
                assert_eq!(super::super::find_non_finite(entry.bytes, entry.dtype), None);
            }
        }
    }
}
