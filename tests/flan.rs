//! The FLAN system against the paper's numbers and against real rows: datasets, templates, splits, weights, metrics on disk.

use flanrt::flan::{
    Assign, Catalog, Collection, DataDirs, Mode, Part, Rates, Schedule, Split, TEMPLATES, TaskRef, faults,
    load_part, places, sample,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

fn catalog() -> Catalog {
    Catalog::load(Collection::Flan, None).unwrap()
}

fn assets() -> Option<PathBuf> {
    let dir =
        std::env::var_os("FLANRT_TEST_ASSETS").map_or_else(|| PathBuf::from("../shared"), PathBuf::from);
    if dir.join("data").is_dir() {
        return Some(dir);
    }
    println!("skipped: no test assets at {} (set FLANRT_TEST_ASSETS)", dir.display());
    None
}

/// Folders of real rows; some stand in for a dataset that cannot be had, for reading its templates only.
fn data(catalog: &Catalog, dir: &std::path::Path) -> DataDirs {
    let at = |name: &str| dir.join("data").join(name).display().to_string();
    let mut given = vec![dir.join("data").display().to_string()];
    for (task, folder) in [
        ("wmt14_enfr", "flores200_enfr"),
        ("para_crawl_enes", "flores200_enes"),
        ("wmt16_deen", "wmt_deen"),
        ("wmt16_csen", "wmt_csen"),
        ("wmt16_fien", "wmt_fien"),
        ("wmt16_ruen", "wmt_ruen"),
        ("wmt16_tren", "wmt_tren"),
    ] {
        given.push(format!("{task}={}", at(folder)));
    }
    DataDirs::new(&given, catalog).unwrap()
}

#[test]
fn sixty_two_datasets_in_twelve_clusters_with_ten_templates_each() {
    let c = catalog();
    assert_eq!(c.clusters.len(), 12);
    let sizes: Vec<usize> = c
        .clusters
        .iter()
        .map(|cluster| c.datasets.iter().filter(|d| d.cluster == cluster.name && d.part_of.is_none()).count())
        .collect();
    // Wei et al., 2022, figure 3.
    assert_eq!(sizes, [7, 5, 3, 4, 3, 2, 4, 4, 8, 4, 11, 7]);
    for d in &c.datasets {
        assert_eq!(d.templates.len(), TEMPLATES, "{}", d.name);
        assert!(d.forward().count() >= 7, "{}: more than three inverse templates", d.name);
        assert!(d.examples.len() >= 2, "{}", d.name);
    }
}

#[test]
fn weights_are_those_of_the_paper() {
    let c = catalog();
    let tasks: Vec<TaskRef> = c.tasks().filter(|t| t.task.train.is_some()).collect();
    assert_eq!(tasks.len(), 69);
    let rows: Vec<usize> = tasks.iter().map(|t| t.task.rows.train.min(30_000)).collect();
    let rates = Rates { max_rate: 3000, temperature: 1.0, weights: BTreeMap::new() };
    let places = places(&tasks, &rows, &rates).unwrap();
    let total: usize = places.iter().sum();
    assert_eq!(total, 188_371);
    assert_eq!((10_000.0 * 3000.0 / total as f64).round(), 159.0); // 1.59 %
    let small: BTreeSet<(&str, usize)> = tasks
        .iter()
        .zip(&places)
        .filter(|(_, p)| **p < 3000)
        .map(|(t, p)| (t.task.name.as_str(), *p))
        .collect();
    let want = [
        ("wnli", 605),
        ("wsc", 504),
        ("copa", 350),
        ("cb", 200),
        ("arc_challenge", 919),
        ("arc_easy", 2051),
        ("story_cloze", 1671),
        ("rte", 2290),
        ("definite_pronoun_resolution", 1122),
        ("opinion_idebate", 1659),
    ];
    assert_eq!(small, want.into_iter().collect());
    // A round of draws has every task exactly so often: simulated on the published counts.
    let counts = vec![TEMPLATES; tasks.len()];
    let schedule = Schedule::new(0, places.clone(), rows, counts, Assign::Random);
    let mut drawn = vec![0; tasks.len()];
    for i in 0..total as u64 {
        drawn[schedule.draw(i).task] += 1;
    }
    assert_eq!(drawn, places);
    let share = |cluster: &str| {
        let of = tasks
            .iter()
            .zip(&drawn)
            .filter(|(t, _)| t.dataset.cluster == cluster)
            .map(|(_, n)| *n)
            .sum::<usize>();
        (1000.0 * of as f64 / total as f64).round() / 10.0
    };
    for (cluster, percent) in [
        ("summarization", 16.8),
        ("nli", 12.8),
        ("translation", 12.7),
        ("reading_comprehension", 9.6),
        ("struct_to_text", 6.4),
        ("paraphrase", 6.4),
        ("sentiment", 6.4),
        ("closed_book_qa", 4.8),
        ("commonsense", 4.3),
        ("reading_commonsense", 3.2),
        ("coreference", 2.5),
    ] {
        assert_eq!(share(cluster), percent, "{cluster}");
    }
}

#[test]
fn what_is_held_out_is_not_trained_on_nor_what_overlaps_it() {
    let c = catalog();
    let all = Split::all(&c).unwrap();
    for s in &all {
        let names = |list: &[TaskRef]| list.iter().map(|t| t.task.name.clone()).collect::<BTreeSet<_>>();
        let (train, test) = (names(&s.train), names(&s.test));
        assert!(train.is_disjoint(&test), "{}", s.name);
        if s.name.starts_with("intra/") {
            continue;
        }
        for t in &s.test {
            let cluster = c.cluster(&t.dataset.cluster).unwrap();
            for trained in &s.train {
                let other = &trained.dataset.cluster;
                assert!(*other != cluster.name && !cluster.overlaps.contains(other), "{}: {other}", s.name);
            }
        }
    }
    // Tasks and rows that are left for training, derived from the released code.
    let sizes: BTreeMap<&str, (usize, usize)> = all
        .iter()
        .map(|s| {
            (s.name.as_str(), (s.train.len(), s.train.iter().map(|t| t.task.rows.train.min(30_000)).sum()))
        })
        .collect();
    for (name, tasks, millions) in [
        ("nli", 55, 1.22),
        ("paraphrase", 55, 1.22),
        ("reading_comprehension", 61, 1.31),
        ("commonsense", 63, 1.39),
        ("reading_commonsense", 57, 1.26),
        ("closed_book_qa", 65, 1.43),
        ("translation", 61, 1.25),
        ("sentiment", 65, 1.38),
        ("struct_to_text", 65, 1.37),
        ("coreference", 66, 1.46),
        ("all", 69, 1.49),
    ] {
        assert_eq!(
            (sizes[name].0, (sizes[name].1 as f64 / 1e4).round() / 100.0),
            (tasks, millions),
            "{name}"
        );
    }
    let steps: Vec<usize> =
        all.iter().filter(|s| s.name.starts_with("clusters/")).map(|s| Split::datasets(&s.train)).collect();
    // The paper counts nine translation datasets where the released code has eight, and SQuAD and others twice.
    assert_eq!(steps, [11, 19, 24, 28, 32, 35, 37]);
}

/// Every template of every dataset on real rows where there are any, else on the rows of its file: no field is lost, no mark
/// doubled, no marker left, a choice's target is one of its options, no two templates read alike.
#[test]
fn every_template_on_real_rows() {
    let c = catalog();
    let assets = assets();
    let data = assets.as_ref().map_or_else(DataDirs::default, |dir| data(&c, dir));
    let (mut real, mut all) = (0, Vec::new());
    for t in c.tasks() {
        let rows = sample(t, &data).unwrap();
        real += usize::from(rows.len() > t.dataset.examples.len());
        let mut seen = 0;
        for (place, raw) in rows.iter().take(60) {
            let Ok(row) = t.dataset.row(&t.task.name, raw).unwrap() else { continue };
            seen += 1;
            all.extend(faults(t.dataset, &row).unwrap().into_iter().map(|f| format!("{place}: {f}")));
            for (_, template) in t.dataset.forward() {
                for mode in [Mode::NoTemplate, Mode::DatasetName, Mode::Continuation] {
                    let p = t.dataset.prompt_in(mode, &row, template, true).unwrap();
                    assert!(!p.target.trim().is_empty(), "{place} {}", t.task.name);
                }
            }
        }
        assert!(seen > 0, "{}: no row can be used", t.task.name);
    }
    if assets.is_some() {
        assert!(real >= 50, "{real} datasets with real rows");
    }
    assert!(all.is_empty(), "{} faults:\n{}", all.len(), all[..all.len().min(40)].join("\n"));
}

/// A cache of the hub: the folder's name says the repository, the snapshot is that of `refs/main`, the configuration a subfolder.
#[test]
fn a_cache_of_the_hub_is_read() {
    let (c, dir) = (catalog(), tempfile::tempdir().unwrap());
    let repository = dir.path().join("hub/datasets--aps--super_glue");
    let write = |path: &str, text: &str| {
        let path = repository.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("refs/main", "new");
    let row =
        |premise: &str| format!("{{\"premise\": \"{premise}\", \"hypothesis\": \"h\", \"label\": 0}}\n");
    write("snapshots/old/rte/validation.jsonl", &row("old"));
    write("snapshots/new/rte/validation-00000-of-00002.jsonl", &row("first"));
    write("snapshots/new/rte/validation-00001-of-00002.jsonl", &row("second"));
    write("snapshots/new/cb/validation.jsonl", &row("other"));
    let data = DataDirs::new(&[dir.path().display().to_string()], &c).unwrap();
    let t = c.tasks().find(|t| t.task.name == "rte").unwrap();
    let part = load_part(t, &data.find(t.task).unwrap(), Part::Test, 9).unwrap().unwrap();
    let premises: Vec<_> = part.rows.iter().map(|r| r.row.fields["premise"].as_str().unwrap()).collect();
    assert_eq!(premises, ["first", "second"]);
    assert!(load_part(t, &data.find(t.task).unwrap(), Part::Train, 9).unwrap().is_none());
}

#[test]
fn rows_of_a_part_are_those_of_the_slices() {
    let (c, Some(dir)) = (catalog(), assets()) else { return };
    let data = data(&c, &dir);
    let task = |name: &str| c.tasks().find(|t| t.task.name == name).unwrap();
    let load = |name: &str, part: Part| {
        let t = task(name);
        load_part(t, &data.find(t.task).unwrap(), part, 30_000).unwrap().unwrap()
    };
    // 250 training rows, dev is their last 50.
    assert_eq!(
        (load("cb", Part::Train).of, load("cb", Part::Dev).of, load("cb", Part::Test).of),
        (200, 50, 56)
    );
    assert!(load("cb", Part::Dev).rows[0].id.ends_with(":201"));
    // No test file: dev and test share the validation rows and do not meet.
    let (dev, test) = (load("snli", Part::Dev), load("snli", Part::Test));
    assert_eq!((dev.of, test.of, test.stand_in), (200, 300, true));
    let ids = |p: &flanrt::flan::PartRows| p.rows.iter().map(|r| r.id.clone()).collect::<BTreeSet<_>>();
    assert!(ids(&dev).is_disjoint(&ids(&test)));
    // Labels by name: the ids of CB are not those of the others.
    let raw = serde_json::json!({"premise": "p", "hypothesis": "h", "label": 1, "idx": 0});
    let answer = |name: &str| task(name).dataset.row(name, raw.as_object().unwrap()).unwrap().unwrap().answer;
    assert_eq!((answer("cb").as_str(), answer("anli_r1").as_str()), ("No", "It's impossible to say"));
}
