//! Users' data: where a task's rows are, and reading them.
//!
//! A data directory has a folder for every task, or is a cache of the Hugging Face hub (`datasets--org--name`). Splits are told by
//! the names of the files. Rows are read in file order, slices count rows of the file; what is dropped is counted.

use super::catalog::{Catalog, TaskRef};
use super::row::{Dropped, Row};
use super::spec::{Slice, Task};
use crate::data::files;
use crate::error::{Error, Kind, Result};
use crate::rng::Rng;
use crate::world;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The `--data` value that means the micro-world: its datasets, and the rows that the program makes.
pub const BUILTIN: &str = "builtin";

/// Stream of the order of training files that are sorted.
const SHUFFLE: u64 = 0xF1A5 << 32;

/// Which rows of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// For training, and for examples in a prompt.
    Train,
    /// For choosing a template.
    Dev,
    /// For reporting.
    Test,
}

impl Part {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

/// A row with the place it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// `file:line`.
    pub id: String,
    /// The row.
    pub row: Row,
}

/// The rows of a part.
#[derive(Clone, Debug, Default)]
pub struct PartRows {
    /// The rows that are left.
    pub rows: Vec<Found>,
    /// Rows left out, by reason.
    pub dropped: BTreeMap<Dropped, u64>,
    /// The files they came from.
    pub files: Vec<PathBuf>,
    /// Rows of the slice before the cap and before anything was left out.
    pub of: usize,
    /// For test rows: whether they come from the validation file because there is no test file.
    pub stand_in: bool,
}

/// The user's data directories.
#[derive(Clone, Debug, Default)]
pub struct DataDirs {
    dirs: Vec<PathBuf>,
    own: BTreeMap<String, PathBuf>,
    world: bool,
}

/// Where a task's rows are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the files of a folder.
    Folder(PathBuf),
    /// In the program: the micro-world makes them.
    World,
}

impl DataDirs {
    /// From `--data` values: directories, `TASK=FOLDER`, and [`BUILTIN`].
    ///
    /// # Errors
    /// `Kind::Usage` for a task that does not exist, `Kind::Data` for a directory that does not.
    pub fn new(given: &[String], catalog: &Catalog) -> Result<Self> {
        let mut data = Self::default();
        for text in given {
            if text == BUILTIN {
                data.world = true;
                continue;
            }
            let there = |path: &Path| match path.is_dir() {
                true => Ok(()),
                false => Err(Error::data(format!("--data {text}: {} is no directory", path.display()))
                    .fix("name a directory with one folder per dataset, or TASK=FOLDER")),
            };
            match text.split_once('=').filter(|_| !Path::new(text).exists()) {
                Some((task, folder)) => {
                    let folder = PathBuf::from(folder);
                    let found =
                        catalog.select(&[task.to_owned()]).map_err(|e| e.at(format!("--data {text}")))?;
                    there(&folder)?;
                    for t in found {
                        data.own.insert(t.task.name.clone(), folder.clone());
                    }
                }
                None => {
                    there(Path::new(text))?;
                    data.dirs.push(PathBuf::from(text));
                }
            }
        }
        Ok(data)
    }

    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty() && self.own.is_empty() && !self.world
    }

    /// Where the rows of `task` are, if anywhere.
    pub fn find(&self, task: &Task) -> Option<Place> {
        let in_dir = |dir: &PathBuf| {
            let plain = task.folders.iter().map(|f| dir.join(f)).find(|p| p.is_dir());
            plain.or_else(|| snapshot(dir, &task.hub.as_ref()?.id))
        };
        let folder = self.own.get(&task.name).cloned().or_else(|| self.dirs.iter().find_map(in_dir));
        let made = || self.world && world::DATASETS.iter().any(|d| d.0 == task.name);
        folder.map(Place::Folder).or_else(|| made().then_some(Place::World))
    }
}

/// The newest snapshot of a repository in a cache of the hub.
fn snapshot(dir: &Path, id: &str) -> Option<PathBuf> {
    let folder = format!("datasets--{}", id.replace('/', "--"));
    let repository = [dir.join(&folder), dir.join("hub").join(&folder)].into_iter().find(|p| p.is_dir())?;
    let main = std::fs::read_to_string(repository.join("refs/main")).unwrap_or_default();
    let snapshots = repository.join("snapshots");
    let named = snapshots.join(main.trim());
    if !main.trim().is_empty() && named.is_dir() {
        return Some(named);
    }
    let mut all: Vec<_> = std::fs::read_dir(snapshots).ok()?.flatten().map(|e| e.path()).collect();
    all.sort();
    all.pop()
}

/// What files of a split may be called.
fn split_names(task: &Task, split: &str) -> Vec<String> {
    let hub = task.hub.as_ref().and_then(|h| h.splits.get(split)).cloned();
    let usual: &[&str] = match split {
        "train" => &["train", "training"],
        "validation" => &["validation", "valid", "dev", "val"],
        _ => &["test"],
    };
    hub.into_iter().chain(usual.iter().map(|s| s.to_string())).collect()
}

/// Whether a file called `file` is (a shard of) split `name`.
fn is_split(file: &str, name: &str) -> bool {
    let Some(rest) = file.to_lowercase().strip_prefix(&name.to_lowercase()).map(str::to_owned) else {
        return false;
    };
    let next = rest.trim_start_matches('_');
    rest.starts_with(['.', '-'])
        || (rest != next || rest.is_empty()) && next.starts_with(|c: char| c.is_ascii_digit())
}

/// The files of `split` in `folder`, none if there are none.
fn split_files(folder: &Path, task: &Task, split: &str) -> Result<Vec<PathBuf>> {
    let config = task.hub.as_ref().map(|h| h.config.as_str());
    for name in split_names(task, split) {
        let mut places = Vec::new();
        if let Some(config) = config {
            places.extend([folder.join(config).join(&name), folder.join(config)]);
        }
        places.extend([folder.join("data"), folder.join(&name), folder.to_owned()]);
        for place in places.iter().filter(|p| p.is_dir()) {
            let whole = place.ends_with(&name);
            let entries = std::fs::read_dir(place).map_err(|e| Error::io(Kind::Data, "read", place, &e))?;
            let mut found: Vec<PathBuf> = entries
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.is_file() && files::is_known(p))
                .filter(|p| whole || is_split(&p.file_name().unwrap_or_default().to_string_lossy(), &name))
                .collect();
            found.sort();
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
    Ok(Vec::new())
}

fn count(files: &[PathBuf]) -> Result<usize> {
    let mut n = 0;
    for path in files {
        for row in files::open(path)? {
            row?;
            n += 1;
        }
    }
    Ok(n)
}

/// Reads those rows of `paths` that are `wanted`, by number in ascending order.
fn read(task: TaskRef<'_>, paths: &[PathBuf], wanted: &[usize], out: &mut PartRows) -> Result<()> {
    let (mut at, mut wanted) = (0, wanted.iter().peekable());
    for path in paths {
        for row in files::open(path)? {
            let row = row?;
            if wanted.peek().is_none() {
                return Ok(());
            }
            if wanted.next_if(|w| **w == at).is_some() {
                let id = format!("{}:{}", path.display(), row.line);
                match task.dataset.row(&task.task.name, &row.fields).map_err(|e| e.at(&id))? {
                    Ok(row) => out.rows.push(Found { id, row }),
                    Err(why) => *out.dropped.entry(why).or_default() += 1,
                }
            }
            at += 1;
        }
    }
    Ok(())
}

/// Rows that the micro-world makes: as many as the task's file says.
fn made(task: TaskRef<'_>, part: Part, cap: usize) -> Result<Option<PartRows>> {
    let (split, n) = match part {
        Part::Train => (world::Split::Train, task.task.rows.train),
        Part::Dev => (world::Split::Dev, task.task.rows.dev),
        Part::Test => (world::Split::Test, task.task.rows.test),
    };
    let rows = world::rows(&task.task.name, split, n).filter(|_| n > 0);
    let Some(rows) = rows else { return Ok(None) };
    let mut out = PartRows { of: rows.len(), ..Default::default() };
    for (i, row) in rows.into_iter().take(cap).enumerate() {
        let id = format!("{BUILTIN}/{}/{}:{}", task.task.name, part.name(), i + 1);
        match task.dataset.row(&task.task.name, &row.columns).map_err(|e| e.at(&id))? {
            Ok(row) => out.rows.push(Found { id, row }),
            Err(why) => *out.dropped.entry(why).or_default() += 1,
        }
    }
    Ok(Some(out))
}

/// The rows of `part` of a task at `place`, at most the first `cap`; `None` where the task has no such part or the place no
/// file for it.
///
/// # Errors
/// `Kind::Data`: whatever is wrong with files or rows, by file and line.
pub fn load_part(task: TaskRef<'_>, place: &Place, part: Part, cap: usize) -> Result<Option<PartRows>> {
    let folder = match place {
        Place::Folder(folder) => folder.as_path(),
        Place::World => return made(task, part, cap),
    };
    let t = task.task;
    let slice = match part {
        Part::Train => &t.train,
        Part::Dev => &t.dev,
        Part::Test => &t.test,
    };
    let Some(slice) = slice else { return Ok(None) };
    let mut found = split_files(folder, t, &slice.split)?;
    let no_test = |of: &Option<Slice>| of.as_ref().is_some_and(|s| s.split == "test");
    // Without a test file the validation rows that dev does not use stand in for it.
    let mut stand_in = false;
    let shared = no_test(&t.test) && t.dev.as_ref().is_some_and(|d| d.split == "validation");
    if found.is_empty() && part == Part::Test && slice.split == "test" {
        found = split_files(folder, t, "validation")?;
        stand_in = true;
    }
    if found.is_empty() {
        return Ok(None);
    }
    let n = count(&found)?;
    let mut range = t.range(slice, n);
    if stand_in || part == Part::Dev && shared && split_files(folder, t, "test")?.is_empty() {
        let dev = t.dev.as_ref().filter(|_| shared).map_or(0..0, |d| t.range(d, n));
        let end = dev.end.min(n / 2);
        range = if stand_in { end..n } else { dev.start.min(end)..end };
    }
    let of = range.len();
    range.end = range.end.min(range.start.saturating_add(cap));
    let mut out = PartRows { of, stand_in, files: found.clone(), ..Default::default() };
    let mut wanted: Vec<usize> = range.collect();
    if t.shuffle && slice.split == "train" {
        let order = Rng::new(0, SHUFFLE).permutation(n);
        wanted.iter_mut().for_each(|w| *w = order[*w] as usize);
        wanted.sort_unstable();
    }
    read(task, &found, &wanted, &mut out)?;
    Ok(Some(out))
}

/// The first rows of a task as the file has them, for showing: from whatever file is there, else the spec's own examples.
pub fn sample(task: TaskRef<'_>, data: &DataDirs) -> Result<Vec<(String, Map<String, Value>)>> {
    let place = data.find(task.task);
    if place == Some(Place::World) {
        let rows = world::rows(&task.task.name, world::Split::Train, task.task.rows.train.min(1000));
        let rows = rows.unwrap_or_default().into_iter().enumerate();
        let id = |i| format!("{BUILTIN}/{}/train:{}", task.task.name, i + 1);
        return Ok(rows.map(|(i, row)| (id(i), row.columns)).collect());
    }
    if let Some(Place::Folder(folder)) = place {
        for split in ["train", "validation", "test"] {
            if let Some(path) = split_files(&folder, task.task, split)?.first() {
                let rows = files::open(path)?.take(1000);
                return rows
                    .map(|r| r.map(|r| (format!("{}:{}", path.display(), r.line), r.fields)))
                    .collect();
            }
        }
    }
    let own = task.dataset.examples.iter().enumerate();
    Ok(own.map(|(i, e)| (format!("example {}", i + 1), e.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_their_split() {
        for (file, name) in [
            ("train.jsonl.gz", "train"),
            ("train-00000-of-00002.parquet", "train"),
            ("Validation.csv", "validation"),
            ("train_r1-00000-of-00001.parquet", "train_r1"),
            ("test_0.jsonl", "test"),
        ] {
            assert!(is_split(file, name), "{file}");
        }
        for (file, name) in
            [("training_notes.txt", "train"), ("validation_matched.jsonl", "validation"), ("dev.tsv", "test")]
        {
            assert!(!is_split(file, name), "{file}");
        }
    }
}
