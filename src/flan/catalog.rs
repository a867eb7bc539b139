//! All datasets and clusters: those in the binary, and those of `--tasks-dir` beside and over them.

use super::spec::{Dataset, Task};
use crate::error::{Error, Kind, Result};
use include_dir::{Dir, include_dir};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/tasks");

/// The folder of [`EMBEDDED`] that holds the micro-world's datasets, by cluster.
const MICRO_WORLD: &str = "micro_world";

/// Which of the embedded datasets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// The paper's 62.
    Flan,
    /// Those of the micro-world, in the same clusters.
    MicroWorld,
}

impl Collection {
    /// The collection that `--data` values ask for: that of the micro-world if its rows are among them.
    pub fn of(data: &[String]) -> Self {
        if data.iter().any(|d| d == super::BUILTIN) { Self::MicroWorld } else { Self::Flan }
    }
}

/// A cluster of datasets that ask for one skill.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The folder's name.
    pub name: String,
    /// As people write it.
    pub title: String,
    /// Whether the paper reports it.
    #[serde(default)]
    pub evaluated: bool,
    /// Clusters that are left out of training too where this one is held out.
    #[serde(default)]
    pub overlaps: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clusters {
    cluster: Vec<Cluster>,
}

/// Every dataset that there is.
pub struct Catalog {
    /// In the order of the paper.
    pub clusters: Vec<Cluster>,
    /// By cluster, then by name.
    pub datasets: Vec<Dataset>,
}

/// A task and its dataset.
#[derive(Clone, Copy)]
pub struct TaskRef<'a> {
    /// The dataset.
    pub dataset: &'a Dataset,
    /// Its task.
    pub task: &'a Task,
}

impl Catalog {
    /// The embedded datasets of `collection`, with those of `dir` beside and over them.
    ///
    /// # Errors
    /// `Kind::Data` at file, line and column; a name that is used twice.
    pub fn load(collection: Collection, dir: Option<&Path>) -> Result<Self> {
        let (catalog, problems) = Self::examine(collection, dir)?;
        match problems.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(catalog),
        }
    }

    /// The datasets that can be read, and what is wrong with the others.
    ///
    /// # Errors
    /// `Kind::Data` if files or clusters cannot be read at all.
    pub fn examine(collection: Collection, dir: Option<&Path>) -> Result<(Self, Vec<Error>)> {
        let mut files = BTreeMap::new();
        let mut clusters = Vec::new();
        let root = match collection {
            Collection::Flan => Some(&EMBEDDED),
            Collection::MicroWorld => EMBEDDED.get_dir(MICRO_WORLD),
        };
        // Only what lies in a cluster's folder: the micro-world's lie one deeper.
        for file in root.into_iter().flat_map(Dir::dirs).flat_map(Dir::files) {
            let path = format!("tasks/{}", file.path().display());
            files.insert(stem(&path), (path, text(file.contents())));
        }
        if let Some(file) = EMBEDDED.get_file("clusters.toml") {
            clusters.extend(parse_clusters("tasks/clusters.toml", &text(file.contents()))?);
        }
        if let Some(dir) = dir {
            let read = |path: &Path| {
                std::fs::read_to_string(path).map_err(|e| Error::io(Kind::Data, "read", path, &e))
            };
            let list = |dir: &Path| -> Result<Vec<PathBuf>> {
                let entries = std::fs::read_dir(dir).map_err(|e| Error::io(Kind::Data, "read", dir, &e))?;
                let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
                paths.sort();
                Ok(paths)
            };
            let extra = dir.join("clusters.toml");
            if extra.exists() {
                for cluster in parse_clusters(&extra.display().to_string(), &read(&extra)?)? {
                    match clusters.iter_mut().find(|c: &&mut Cluster| c.name == cluster.name) {
                        Some(known) => *known = cluster,
                        None => clusters.push(cluster),
                    }
                }
            }
            for folder in list(dir)?.into_iter().filter(|p| p.is_dir()) {
                for path in list(&folder)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "toml"))
                {
                    let shown = path.display().to_string();
                    files.insert(stem(&shown), (shown, read(&path)?));
                }
            }
        }
        let (mut datasets, mut problems) = (Vec::new(), Vec::new());
        for (name, (path, text)) in files {
            let cluster = path.rsplit('/').nth(1).unwrap_or_default();
            if !clusters.iter().any(|c| c.name == cluster) {
                let problem = Error::data(format!("{path}: there is no cluster {cluster:?}"));
                problems.push(problem.fix(
                    "put the file into a cluster's folder, or add the cluster to clusters.toml beside the folders",
                ));
                continue;
            }
            match Dataset::parse(&path, cluster, &name, &text) {
                Ok(dataset) => datasets.push(dataset),
                Err(e) => problems.push(e),
            }
        }
        let place = |d: &Dataset| clusters.iter().position(|c| c.name == d.cluster);
        datasets.sort_by(|a, b| (place(a), &a.name).cmp(&(place(b), &b.name)));
        let catalog = Self { clusters, datasets };
        problems.extend(catalog.check().err());
        Ok((catalog, problems))
    }

    fn check(&self) -> Result<()> {
        let mut names: Vec<&str> = self.tasks().map(|t| t.task.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::data(format!("two datasets have a task called {:?}", twice[0])));
        }
        for cluster in &self.clusters {
            if let Some(o) = cluster.overlaps.iter().find(|o| !self.clusters.iter().any(|c| c.name == **o)) {
                return Err(Error::data(format!(
                    "cluster {:?} overlaps {o:?}, which does not exist",
                    cluster.name
                )));
            }
        }
        for d in &self.datasets {
            if let Some(whole) = d.part_of.as_ref().filter(|w| !self.datasets.iter().any(|o| o.name == **w)) {
                return Err(Error::data(format!("{} is part of {whole:?}, which does not exist", d.name)));
            }
        }
        Ok(())
    }

    /// All tasks, in the order of the datasets.
    pub fn tasks(&self) -> impl Iterator<Item = TaskRef<'_>> {
        self.datasets
            .iter()
            .flat_map(|dataset| dataset.tasks.iter().map(move |task| TaskRef { dataset, task }))
    }

    /// The cluster called `name`.
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|c| c.name == name)
    }

    /// The tasks that a list of names means: tasks, datasets, clusters, or `all`; in the order of the catalog.
    ///
    /// # Errors
    /// `Kind::Usage` for a name that is nothing, with the nearest that is something.
    pub fn select(&self, names: &[String]) -> Result<Vec<TaskRef<'_>>> {
        for name in names {
            let is = |t: &TaskRef<'_>| means(t, name);
            if name != "all" && !self.tasks().any(|t| is(&t)) {
                let known = self.tasks().flat_map(|t| [&t.task.name, &t.dataset.name, &t.dataset.cluster]);
                let near = known.max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)));
                return Err(Error::usage(format!("there is no task, dataset or cluster {name:?}")).fix(
                    format!(
                        "did you mean {}? `flanrt tasks list` prints them all",
                        near.map_or("nli", String::as_str)
                    ),
                ));
            }
        }
        Ok(self.tasks().filter(|t| names.iter().any(|n| n == "all" || means(t, n))).collect())
    }
}

fn means(t: &TaskRef<'_>, name: &str) -> bool {
    [&t.task.name, &t.dataset.name, &t.dataset.cluster].iter().any(|n| *n == name)
}

fn stem(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().trim_end_matches(".toml").to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn parse_clusters(path: &str, text: &str) -> Result<Vec<Cluster>> {
    let parsed: Clusters = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |s| text.get(..s.start).unwrap_or_default().matches('\n').count() + 1);
        Error::data(format!("{path}:{line}: {}", e.message()))
    })?;
    Ok(parsed.cluster)
}
