//! Is the micro-world what it says: labels right, splits apart, no way round the task, nothing of the tests in the text?

use flanrt::flan::eval::{Baselines, Grams, baselines};
use flanrt::flan::{Catalog, Collection, DataDirs, Part, PartRows, Source, TaskRef, load_part};
use flanrt::world::{DATASETS, Row, Split, document, primer, rows, sentences};
use std::collections::{BTreeSet, HashMap, HashSet};

const DOCUMENTS: u64 = 6000;

fn catalog() -> Catalog {
    Catalog::load(Collection::MicroWorld, None).unwrap()
}

fn part(catalog: &Catalog, task: TaskRef<'_>, part: Part) -> PartRows {
    let data = DataDirs::new(&["builtin".to_owned()], catalog).unwrap();
    load_part(task, &data.find(task.task).unwrap(), part, usize::MAX).unwrap().unwrap_or_default()
}

fn made(name: &str, split: Split) -> Vec<Row> {
    rows(name, split, 2000).unwrap()
}

fn words(text: &str) -> Vec<String> {
    let parts = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    parts.map(str::to_lowercase).collect()
}

#[test]
fn all_twelve_clusters_have_two_datasets_of_ten_templates() {
    let c = catalog();
    assert_eq!(c.clusters.len(), 12);
    assert_eq!(c.datasets.len(), DATASETS.len());
    for cluster in &c.clusters {
        let mine: Vec<_> = c.datasets.iter().filter(|d| d.cluster == cluster.name).collect();
        assert!(mine.len() >= 2, "{}", cluster.name);
        for d in mine {
            assert!(d.is_choice() && DATASETS.iter().any(|(name, ..)| *name == d.name), "{}", d.name);
            assert_eq!(d.forward().count(), 10, "{}", d.name);
        }
    }
}

#[test]
fn there_are_as_many_rows_as_the_files_say_and_every_label_is_as_frequent() {
    let c = catalog();
    for t in c.tasks() {
        for (p, n) in
            [(Part::Train, t.task.rows.train), (Part::Dev, t.task.rows.dev), (Part::Test, t.task.rows.test)]
        {
            let found = part(&c, t, p);
            assert_eq!((found.rows.len(), found.dropped.len()), (n, 0), "{} {}", t.task.name, p.name());
            let options = found.rows.iter().map(|f| f.row.options.len()).max().unwrap_or(1);
            let mut at = vec![0; options];
            for f in &found.rows {
                assert_eq!((f.row.options.len(), f.row.gold.len()), (options, 1), "{}", f.id);
                assert_eq!(f.row.options.iter().collect::<HashSet<_>>().len(), options, "{}", f.id);
                at[f.row.gold[0]] += 1;
            }
            // Own options are shuffled: as even as coins. Labels are drawn in turn.
            let (expected, share) = (n as f64 / options as f64, 1.0 / options as f64);
            let slack = 4.0 * (n as f64 * share * (1.0 - share)).sqrt() + 1.0;
            assert!(at.iter().all(|&k| (k as f64 - expected).abs() <= slack), "{}: {at:?}", t.task.name);
        }
    }
}

#[test]
fn rows_are_the_same_every_time_and_differ() {
    for (name, ..) in DATASETS {
        let (a, b) = (made(name, Split::Test), made(name, Split::Test));
        assert_eq!(a, b, "{name}");
        let all: HashSet<String> = a.iter().map(|r| format!("{:?}", r.columns)).collect();
        assert_eq!(all.len(), a.len(), "{name}");
        let fewer: HashSet<String> =
            rows(name, Split::Test, 40).unwrap().iter().map(|r| format!("{:?}", r.columns)).collect();
        // Options may be in another order.
        assert!(fewer.len() <= 40 && !fewer.is_empty());
    }
    assert!(rows("no such dataset", Split::Test, 1).is_none());
}

/// Every way of answering without doing the task stays near chance; what they come to is printed.
#[test]
fn no_shortcuts() {
    let c = catalog();
    for t in c.tasks() {
        let train = Source::new(t, part(&c, t, Part::Train)).unwrap();
        let test = part(&c, t, Part::Test).rows;
        let b: Baselines = baselines(&train, &test).unwrap().unwrap();
        println!(
            "{:14} chance {:.2} majority {:.2} options {:.2} overlap {:.2} length {:.2}",
            t.task.name, b.chance, b.majority, b.options, b.overlap, b.length
        );
        let noise = 3.0 * (b.chance * (1.0 - b.chance) / test.len() as f64).sqrt();
        for (what, value) in
            [("majority", b.majority), ("options", b.options), ("overlap", b.overlap), ("length", b.length)]
        {
            assert!(value < b.chance + 0.04 + noise, "{}: {what} alone gives {value:.3}", t.task.name);
        }
    }
}

/// Sentences of dev and test rows.
fn kept() -> HashSet<String> {
    let of = |name: &str, split| rows(name, split, 400).unwrap().into_iter();
    let all = DATASETS.iter().flat_map(|(name, ..)| of(name, Split::Test).chain(of(name, Split::Dev)));
    all.flat_map(|row| row.sentences).flat_map(|s| sentences(&s).collect::<Vec<_>>()).collect()
}

#[test]
fn no_sentence_of_a_test_row_is_in_a_training_row_or_a_document() {
    let kept = kept();
    assert!(kept.len() > 4000, "{}", kept.len());
    for (name, ..) in DATASETS {
        for row in made(name, Split::Train) {
            let seen = row
                .sentences
                .iter()
                .flat_map(|s| sentences(s).collect::<Vec<_>>())
                .find(|s| kept.contains(s));
            assert!(seen.is_none(), "{name}: {seen:?} is in a training row");
        }
    }
    for text in (0..DOCUMENTS).flat_map(|i| [document(1, i), primer(1, i)]) {
        let seen = sentences(&text).find(|s| kept.contains(s));
        assert!(seen.is_none(), "{seen:?} is in: {text}");
    }
}

/// The check that `flanrt score --contamination` makes, on the text that the base model and the tuned ones have read.
#[test]
fn no_run_of_thirteen_words_of_a_test_prompt_is_in_pretraining_or_tuning_text() {
    let c = catalog();
    let mut prompts: HashMap<&str, Vec<String>> = HashMap::new();
    for t in c.tasks() {
        let test = part(&c, t, Part::Test).rows;
        let made = test
            .iter()
            .enumerate()
            .map(|(i, found)| t.dataset.prompt(&found.row, &t.dataset.templates[i % 10]).unwrap().prompt);
        prompts.entry(&t.dataset.cluster).or_default().extend(made);
    }
    let documents: Vec<String> = (0..DOCUMENTS).flat_map(|i| [document(1, i), primer(1, i)]).collect();
    let tuning: Vec<(&str, String)> = c
        .tasks()
        .flat_map(|t| {
            let rows = part(&c, t, Part::Train).rows;
            rows.into_iter().enumerate().map(move |(i, f)| {
                let p = t.dataset.prompt(&f.row, &t.dataset.templates[i % 10]).unwrap();
                (t.dataset.cluster.as_str(), format!("{}\n{}", p.prompt, p.target))
            })
        })
        .collect();
    for cluster in c.clusters.iter().filter(|c| c.evaluated) {
        let mut grams = Grams::default();
        let mine = &prompts[cluster.name.as_str()];
        mine.iter().for_each(|p| grams.want(p));
        documents.iter().for_each(|text| grams.read(text));
        let close = |name: &str| name == cluster.name || cluster.overlaps.iter().any(|o| o == name);
        tuning.iter().filter(|(name, _)| !close(name)).for_each(|(_, text)| grams.read(text));
        let dirty = mine.iter().filter(|p| grams.dirty(p)).count();
        assert_eq!(dirty, 0, "{}: {:?}", cluster.name, mine.iter().find(|p| grams.dirty(p)));
    }
}

/// Wording of templates and continuations between their slots, in runs of words.
fn wording(c: &Catalog, size: usize) -> HashSet<Vec<String>> {
    let mut runs = HashSet::new();
    for t in c.datasets.iter().flat_map(|d| &d.templates) {
        for run in t.source.split(['{', '}', '"']).map(words).filter(|run| run.len() >= size) {
            runs.extend(run.windows(size).map(<[String]>::to_vec));
        }
    }
    runs
}

#[test]
fn documents_hold_no_instruction() {
    let runs = wording(&catalog(), 6);
    assert!(runs.len() > 300, "{}", runs.len());
    for i in 0..DOCUMENTS {
        let text = document(9, i);
        assert_eq!(text, document(9, i));
        let n = text.split_whitespace().count();
        assert!((30..=200).contains(&n), "{n} words: {text}");
        assert!(!text.to_lowercase().contains("option") && !text.contains(['{', '}']), "{text}");
        for text in [text, primer(9, i)] {
            let seen = words(&text).windows(6).find(|w| runs.contains(*w)).map(<[String]>::to_vec);
            assert!(seen.is_none(), "{seen:?} of a template is in: {text}");
        }
    }
    assert_ne!(document(9, 0), document(10, 0));
}

/// A word that the base model never saw carries no transfer.
#[test]
fn documents_use_every_word_of_the_prompts() {
    let c = catalog();
    let mut known: HashMap<String, usize> = HashMap::new();
    for i in 0..3 * DOCUMENTS {
        words(&document(9, i)).into_iter().for_each(|w| *known.entry(w).or_default() += 1);
    }
    let mut missing: BTreeSet<String> = BTreeSet::new();
    for t in c.tasks() {
        for (i, found) in part(&c, t, Part::Train).rows.iter().enumerate() {
            let p = t.dataset.prompt(&found.row, &t.dataset.templates[i % 10]).unwrap();
            let used = words(&format!("{} {}", p.prompt, p.options.join(" "))).into_iter();
            missing.extend(used.filter(|w| w != "options" && known.get(w).is_none_or(|n| *n < 5)));
        }
    }
    assert!(missing.is_empty(), "a base model hardly ever sees {missing:?}");
}
