//! What is trained and what is held out.
//!
//! A dataset counts as unseen only if no dataset of any cluster that it belongs to was trained on (Wei et al., 2022, section 2.2), so a
//! cluster is held out together with those that overlap it.

use super::catalog::{Catalog, TaskRef};
use crate::error::{Error, Result};
use crate::rng::Rng;

/// Stream of the draws of intra-cluster splits.
const INTRA: u64 = 0xF1A0 << 32;
/// Held out while clusters are added one by one (section 4.1).
const ABLATION: [&str; 3] = ["nli", "closed_book_qa", "commonsense"];
/// Steps of that ablation.
const STEPS: usize = 7;

/// Which tasks are trained, and which are for testing.
#[derive(Clone)]
pub struct Split<'a> {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// Trained on.
    pub train: Vec<TaskRef<'a>>,
    /// Held out, to be scored.
    pub test: Vec<TaskRef<'a>>,
    /// Left out because they are too close to those held out.
    pub unused: Vec<TaskRef<'a>>,
    /// Templates of every dataset that are used; none: all.
    pub templates: Option<usize>,
}

impl<'a> Split<'a> {
    /// Holds out clusters, datasets or tasks by name; with a cluster go the ones that overlap it. No names: nothing is held out.
    ///
    /// # Errors
    /// `Kind::Usage` for a name that is nothing, or if nothing is left to train on.
    pub fn hold_out(catalog: &'a Catalog, names: &[String]) -> Result<Self> {
        let test = catalog.select(names)?;
        let overlaps: Vec<&str> = names
            .iter()
            .filter_map(|n| catalog.cluster(n))
            .flat_map(|c| c.overlaps.iter().map(String::as_str))
            .collect();
        let name = if names.is_empty() { "all".to_owned() } else { names.join("+") };
        let about = match names {
            [] => "everything is trained on".to_owned(),
            names => format!("{} held out", names.join(", ")),
        };
        let mut split = Self { name, about, train: vec![], test, unused: vec![], templates: None };
        for t in catalog.tasks() {
            let held = split.test.iter().any(|o| o.task.name == t.task.name);
            if held || t.task.train.is_none() {
                continue;
            }
            match overlaps.contains(&t.dataset.cluster.as_str()) {
                true => split.unused.push(t),
                false => split.train.push(t),
            }
        }
        if split.train.is_empty() {
            return Err(Error::usage("nothing is left to train on").fix("hold out less"));
        }
        Ok(split)
    }

    /// The split called `name`: a cluster, or one of [`Split::all`].
    pub fn named(catalog: &'a Catalog, name: &str) -> Result<Self> {
        let all = Self::all(catalog)?;
        let known = all.iter().map(|s| s.name.clone()).collect::<Vec<_>>().join(", ");
        all.into_iter().find(|s| s.name == name).ok_or_else(|| {
            Error::usage(format!("there is no split {name:?}"))
                .fix(format!("one of {known}; `flanrt tasks splits`"))
        })
    }

    /// Every split that follows from the datasets: one for each cluster, one inside each cluster, the ablations over clusters,
    /// datasets per cluster and templates per dataset, and the one that trains on everything.
    pub fn all(catalog: &'a Catalog) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for cluster in &catalog.clusters {
            if catalog.tasks().any(|t| t.dataset.cluster == cluster.name) {
                all.push(Self::hold_out(catalog, std::slice::from_ref(&cluster.name))?);
            }
        }
        for (i, cluster) in catalog.clusters.iter().enumerate() {
            all.extend(Self::inside(catalog, &cluster.name, i as u64));
        }
        let steps = Self::by_cluster(catalog);
        if let Some(last) = steps.last() {
            let mut more = Vec::new();
            for n in [1, 2, 4] {
                more.push(Self { name: format!("datasets/{n}"), ..last.datasets_per_cluster(n) });
            }
            for n in [1, 2, 4, 7, 10] {
                let about = format!("as {}, {n} templates per dataset", last.name);
                more.push(Self { name: format!("templates/{n}"), about, templates: Some(n), ..last.clone() });
            }
            all.extend(steps);
            all.extend(more);
        }
        all.push(Self::hold_out(catalog, &[])?);
        Ok(all)
    }

    /// One dataset of `cluster` (with its family) held out, everything else trained on; drawn by the cluster's place.
    fn inside(catalog: &'a Catalog, cluster: &str, place: u64) -> Option<Self> {
        let side = |t: &TaskRef<'a>| -> &'a str {
            let d = t.dataset;
            d.family.as_deref().or(d.part_of.as_deref()).unwrap_or(&d.name)
        };
        let mine: Vec<TaskRef<'a>> = catalog.tasks().filter(|t| t.dataset.cluster == cluster).collect();
        let mut sides: Vec<&str> = mine.iter().map(side).collect();
        sides.dedup();
        if sides.len() < 2 {
            return None;
        }
        let drawn = sides[Rng::new(0, INTRA).below(place, sides.len() as u64) as usize];
        let held = |t: &TaskRef<'a>| t.dataset.cluster == cluster && side(t) == drawn;
        let (test, rest): (Vec<_>, Vec<_>) = catalog.tasks().partition(held);
        Some(Self {
            name: format!("intra/{cluster}"),
            about: format!("{drawn} held out, the rest of its cluster trained on"),
            train: rest.into_iter().filter(|t| t.task.train.is_some()).collect(),
            test,
            unused: vec![],
            templates: None,
        })
    }

    /// Clusters added in order of size, the ones held out and their overlaps apart (section 4.1).
    fn by_cluster(catalog: &'a Catalog) -> Vec<Self> {
        let banned: Vec<&str> = ABLATION
            .iter()
            .filter_map(|n| catalog.cluster(n))
            .flat_map(|c| c.overlaps.iter().map(String::as_str).chain([c.name.as_str()]))
            .collect();
        let mut sizes: Vec<(&str, usize)> = Vec::new();
        for d in
            catalog.datasets.iter().filter(|d| !banned.contains(&d.cluster.as_str()) && d.part_of.is_none())
        {
            match sizes.iter_mut().find(|(name, _)| *name == d.fine_cluster()) {
                Some((_, n)) => *n += 1,
                None => sizes.push((d.fine_cluster(), 1)),
            }
        }
        sizes.sort_by_key(|(_, n)| std::cmp::Reverse(*n)); // stable: ties as in the paper's list
        let test: Vec<TaskRef> =
            catalog.tasks().filter(|t| ABLATION.contains(&t.dataset.cluster.as_str())).collect();
        (1..=STEPS.min(sizes.len()))
            .map(|k| {
                let chosen: Vec<&str> = sizes[..k].iter().map(|(n, _)| *n).collect();
                let (train, unused) = catalog
                    .tasks()
                    .filter(|t| t.task.train.is_some() && !ABLATION.contains(&t.dataset.cluster.as_str()))
                    .partition(|t| chosen.contains(&t.dataset.fine_cluster()));
                let about = format!("{} held out; trained on {}", ABLATION.join(", "), chosen.join(", "));
                Self {
                    name: format!("clusters/{k}"),
                    about,
                    train,
                    test: test.clone(),
                    unused,
                    templates: None,
                }
            })
            .collect()
    }

    /// The same with at most the first `n` datasets of every cluster.
    pub fn datasets_per_cluster(&self, n: usize) -> Self {
        let mut kept: Vec<(&str, Vec<&str>)> = Vec::new();
        let mut split = Self {
            about: format!("as {}, {n} datasets per cluster", self.name),
            train: vec![],
            ..self.clone()
        };
        for t in &self.train {
            let (cluster, name) =
                (t.dataset.fine_cluster(), t.dataset.part_of.as_deref().unwrap_or(&t.dataset.name));
            let at = kept.iter().position(|(c, _)| *c == cluster).unwrap_or_else(|| {
                kept.push((cluster, vec![]));
                kept.len() - 1
            });
            let names = &mut kept[at].1;
            if !names.contains(&name) && names.len() < n {
                names.push(name);
            }
            if names.contains(&name) { split.train.push(*t) } else { split.unused.push(*t) }
        }
        split
    }

    /// Number of datasets among `tasks`, further forms not counted.
    pub fn datasets(tasks: &[TaskRef<'_>]) -> usize {
        let mut names: Vec<&str> =
            tasks.iter().filter(|t| t.dataset.part_of.is_none()).map(|t| t.dataset.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    }
}
