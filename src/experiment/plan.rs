//! Which cells an experiment is made of.

use super::{Asked, Base, Cell};
use crate::rng::Rng;

/// Stream of the random subsets of clusters.
const SUBSETS: u64 = 0xE4B0 << 32;

/// Held out together where something else is varied, as in section 4.1 of the paper.
pub const ABLATED: [&str; 3] = ["nli", "closed_book_qa", "commonsense"];

/// An experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// Every evaluated cluster held out in turn.
    Holdout,
    /// The number of clusters tuned on.
    Clusters,
    /// The size of the model.
    Scale,
    /// What the prompts of the tuning say.
    Instructions,
    /// Solved examples in front of the prompt.
    FewShot,
    /// The share of prompts that list their options.
    Options,
    /// Templates by datasets in a cluster.
    Templates,
}

impl Name {
    /// All, by name.
    pub const ALL: [(&'static str, Name); 7] = [
        ("holdout", Name::Holdout),
        ("clusters", Name::Clusters),
        ("scale", Name::Scale),
        ("instructions", Name::Instructions),
        ("few-shot", Name::FewShot),
        ("options", Name::Options),
        ("templates", Name::Templates),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, n)| *n == self).map_or("", |(name, _)| name)
    }
}

/// What an experiment is about.
#[derive(Clone, Debug)]
pub struct World {
    /// All clusters with rows, each with those that overlap it.
    pub clusters: Vec<(String, Vec<String>)>,
    /// Those that are held out in turn.
    pub evaluated: Vec<String>,
    /// Repetitions.
    pub seeds: u64,
    /// Names of the models of different sizes, the smallest first.
    pub sizes: Vec<String>,
    /// Solved examples of the few-shot experiment.
    pub shots: usize,
    /// Most templates of a dataset, most datasets of a cluster.
    pub most: (usize, usize),
}

fn list(names: &[String]) -> String {
    format!("mixture.hold_out=[{}]", names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", "))
}

impl World {
    /// The clusters of [`ABLATED`] that there are, else the first evaluated ones.
    fn ablated(&self) -> Vec<String> {
        let known = |name: &&&str| self.evaluated.iter().any(|e| e == **name);
        let found: Vec<String> = ABLATED.iter().filter(known).map(|n| (*n).to_owned()).collect();
        if found.is_empty() { self.evaluated.iter().take(3).cloned().collect() } else { found }
    }

    /// Clusters that may be tuned on while `held` are held out.
    fn open(&self, held: &[String]) -> Vec<String> {
        let close = |name: &String| {
            self.clusters.iter().any(|(c, overlaps)| held.contains(c) && overlaps.contains(name))
        };
        let names = self.clusters.iter().map(|(c, _)| c);
        names.filter(|c| !held.contains(c) && !close(c)).cloned().collect()
    }
}

/// The cells of `name`.
pub fn plan(name: Name, w: &World) -> Vec<Cell> {
    let held = w.ablated();
    let given = |label: String, set: Option<Vec<String>>| Cell {
        label,
        base: Base::Given,
        set,
        ask: held.clone(),
        ways: vec![Asked::Flan, Asked::Plain],
        shots: 0,
        series: "tuned".into(),
        x: 0.0,
        seed: 0,
    };
    let base = |ask: &[String]| Cell {
        ask: ask.to_vec(),
        ways: Asked::BASE.to_vec(),
        series: "base".into(),
        ..given("base model".into(), None)
    };
    let seeded = |seed: u64, more: Vec<String>| {
        let mut set = vec![format!("train.seed={seed}")];
        set.extend(more);
        Some(set)
    };
    let seeds = 1..=w.seeds;
    let mut cells = Vec::new();
    match name {
        Name::Holdout => {
            cells.push(base(&w.evaluated));
            for cluster in &w.evaluated {
                let hold = list(std::slice::from_ref(cluster));
                cells.extend(seeds.clone().map(|seed| Cell {
                    ask: vec![cluster.clone()],
                    seed,
                    ..given(format!("without {cluster}, seed {seed}"), seeded(seed, vec![hold.clone()]))
                }));
            }
        }
        Name::FewShot => {
            for shots in [0, w.shots] {
                let ways = [Asked::BASE.to_vec(), vec![Asked::Flan]];
                for (series, ways) in ["base", "tuned"].into_iter().zip(ways) {
                    for cluster in &w.evaluated {
                        let hold = list(std::slice::from_ref(cluster));
                        for seed in if series == "base" { 1..=1 } else { seeds.clone() } {
                            let set = if series == "base" { None } else { seeded(seed, vec![hold.clone()]) };
                            cells.push(Cell {
                                ask: vec![cluster.clone()],
                                ways: ways.clone(),
                                shots,
                                series: series.into(),
                                x: shots as f64,
                                seed,
                                ..given(
                                    format!("{series} without {cluster}, {shots} shots, seed {seed}"),
                                    set,
                                )
                            });
                        }
                    }
                }
            }
        }
        Name::Clusters => {
            cells.push(base(&held));
            let open = w.open(&held);
            let counts = (1..=open.len()).filter(|n| [1, 2, 3, 5].contains(n) || *n == open.len());
            for n in counts {
                for seed in seeds.clone() {
                    // The subsets of one seed grow by one cluster after the other.
                    let order = Rng::new(seed, SUBSETS).permutation(open.len());
                    let shut: Vec<&String> = order[n..].iter().map(|&i| &open[i as usize]).collect();
                    let weights: Vec<String> = shut.iter().map(|c| format!("{c} = 0.0")).collect();
                    let mut set = vec![list(&held)];
                    if !weights.is_empty() {
                        set.push(format!("mixture.weights={{ {} }}", weights.join(", ")));
                    }
                    cells.push(Cell {
                        x: n as f64,
                        seed,
                        ..given(format!("{n} clusters, subset {seed}"), seeded(seed, set))
                    });
                }
            }
        }
        Name::Scale => {
            for (i, size) in w.sizes.iter().enumerate() {
                let of = Base::Size(size.clone());
                cells.push(Cell {
                    base: of.clone(),
                    x: i as f64,
                    label: format!("{size}, base"),
                    ..base(&held)
                });
                cells.extend(seeds.clone().map(|seed| Cell {
                    base: of.clone(),
                    x: i as f64,
                    seed,
                    ..given(format!("{size}, seed {seed}"), seeded(seed, vec![list(&held)]))
                }));
            }
        }
        Name::Instructions => {
            cells.push(base(&held));
            for (x, mode) in ["flan", "no-template", "dataset-name"].into_iter().enumerate() {
                let mut ways = vec![Asked::Flan];
                if mode == "dataset-name" {
                    ways.push(Asked::DatasetName);
                }
                cells.extend(seeds.clone().map(|seed| Cell {
                    ways: ways.clone(),
                    series: mode.into(),
                    x: x as f64,
                    seed,
                    ..given(
                        format!("tuned on {mode} prompts, seed {seed}"),
                        seeded(seed, vec![list(&held), format!("mixture.prompt={mode}")]),
                    )
                }));
            }
        }
        Name::Options => {
            cells.push(base(&held));
            for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
                cells.extend(seeds.clone().map(|seed| Cell {
                    x: share,
                    seed,
                    ..given(
                        format!("options in {share} of the prompts, seed {seed}"),
                        seeded(seed, vec![list(&held), format!("mixture.options={share:.2}")]),
                    )
                }));
            }
        }
        Name::Templates => {
            cells.push(base(&held));
            let (templates, datasets) = w.most;
            for d in [1, datasets] {
                for t in [1, 4, templates] {
                    cells.extend(seeds.clone().map(|seed| Cell {
                        series: format!("{d} datasets"),
                        x: t as f64,
                        seed,
                        ..given(
                            format!("{t} templates, {d} datasets a cluster, seed {seed}"),
                            seeded(
                                seed,
                                vec![
                                    list(&held),
                                    format!("mixture.templates_per_dataset={t}"),
                                    format!("mixture.datasets_per_cluster={d}"),
                                ],
                            ),
                        )
                    }));
                }
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        let names =
            ["nli", "paraphrase", "closed_book_qa", "commonsense", "sentiment", "translation", "misc"];
        let overlaps = |n: &str| if n == "nli" { vec!["paraphrase".to_owned()] } else { vec![] };
        World {
            clusters: names.iter().map(|n| ((*n).to_owned(), overlaps(n))).collect(),
            evaluated: names[..6].iter().map(|n| (*n).to_owned()).collect(),
            seeds: 3,
            sizes: vec!["small".into(), "large".into()],
            shots: 2,
            most: (10, 2),
        }
    }

    #[test]
    fn what_is_asked_is_never_tuned_on() {
        let w = world();
        for (_, name) in Name::ALL {
            let cells = plan(name, &w);
            assert!(
                cells.iter().any(|c| c.set.is_some())
                    && cells.iter().any(|c| c.set.is_none() || name == Name::FewShot)
            );
            for c in cells.iter().filter(|c| c.set.is_some()) {
                let set = c.set.clone().unwrap_or_default().join(" ");
                for cluster in &c.ask {
                    assert!(
                        set.contains("mixture.hold_out=[") && set.contains(&format!("{cluster:?}")),
                        "{c:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn subsets_grow_and_every_count_is_there() {
        let cells = plan(Name::Clusters, &world());
        let shut = |n: f64, seed: u64| {
            let c = cells.iter().find(|c| c.x == n && c.seed == seed && c.set.is_some()).unwrap();
            let set = c.set.as_ref().unwrap().join(" ");
            // Open: sentiment, translation, misc.
            ["sentiment", "translation", "misc"].map(|c| set.contains(&format!("{c} = 0.0")))
        };
        for seed in 1..=3 {
            assert_eq!(shut(1.0, seed).iter().filter(|s| **s).count(), 2);
            assert_eq!(shut(3.0, seed), [false; 3]);
            let (one, two) = (shut(1.0, seed), shut(2.0, seed));
            assert!((0..3).all(|i| !two[i] || one[i]), "what two clusters leave out, one leaves out");
        }
    }
}
