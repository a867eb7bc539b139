//! The measures against the programs they agree with: `tests/fixtures/metrics/golden.json`, made by `make.py` beside
//! it.

use serde_json::Value;

use super::bleu::{Counts, Tokenizer, signature};
use super::classify::{accuracy, binary_f1, macro_f1, matthews};
use super::correlate::{pearson, spearman};
use super::edit::{Words, edits};
use super::rouge::{self, Options, Overlap, Rouge};
use super::stats::{Mean, bootstrap_mean, mcnemar, paired_t, sign_flip};
use super::text::{Answer, Normal, parse_float, squad, squad_v2, trivia_qa};
use super::{drop, porter};

/// The cases of one section.
fn cases(section: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/metrics/golden.json")).unwrap();
    let cases = all[section].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap()
}

fn texts(v: &Value) -> Vec<&str> {
    v.as_array().unwrap().iter().map(text).collect()
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn counts(v: &Value) -> Vec<u64> {
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap()).collect()
}

/// Equal but for rounding: the reference may add in another order.
fn close(got: f64, want: &Value, case: &Value) {
    let want = want.as_f64().unwrap();
    assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "got {got}, want {want}: {case}");
}

fn answer(got: Answer, want: &Value, case: &Value) {
    close(got.em, &want[0], case);
    close(got.f1, &want[1], case);
}

#[test]
fn answers() {
    for c in cases("qa") {
        let (p, golds) = (text(&c["prediction"]), texts(&c["golds"]));
        assert_eq!(Normal::Squad.of(p), text(&c["squad_form"]), "{c}");
        assert_eq!(Normal::TriviaQa.of(p), text(&c["trivia_form"]), "{c}");
        answer(squad(p, &golds), &c["squad"], &c);
        answer(squad_v2(p, &golds), &c["squad_v2"], &c);
        answer(trivia_qa(p, &golds), &c["trivia"], &c);
    }
}

#[test]
fn drop_answers() {
    for c in cases("drop") {
        let p = texts(&c["prediction"]);
        let golds: Vec<Vec<&str>> = c["golds"].as_array().unwrap().iter().map(texts).collect();
        assert_eq!(p.iter().map(|s| drop::normalize(s)).collect::<Vec<_>>(), texts(&c["form"]), "{c}");
        for (gold, want) in golds.iter().zip(c["scores"].as_array().unwrap()) {
            answer(drop::spans(&p, gold), want, &c);
        }
        answer(drop::best(&p, &golds), &c["best"], &c);
    }
}

#[test]
fn floats() {
    for c in cases("floats") {
        let want = c[1].as_str().map(|s| s.parse::<f64>().unwrap());
        assert_eq!(parse_float(text(&c[0])).map(f64::to_bits), want.map(f64::to_bits), "{c}");
    }
}

fn tokenizer(name: &str) -> Tokenizer {
    [Tokenizer::Intl, Tokenizer::V13a].into_iter().find(|t| t.name() == name).unwrap()
}

#[test]
fn tokens() {
    for c in cases("tokenize") {
        for name in ["intl", "13a"] {
            assert_eq!(tokenizer(name).apply(text(&c["text"])), text(&c[name]), "{c}");
        }
    }
}

#[test]
fn bleu() {
    for c in cases("bleu") {
        let (cut, lowercase) = (tokenizer(text(&c["tokenizer"])), c["lowercase"].as_bool().unwrap());
        let corpus = c["corpus"].as_array().unwrap();
        let each: Vec<Counts> =
            corpus.iter().map(|s| Counts::of(text(&s[0]), &texts(&s[1]), cut, lowercase)).collect();
        for (got, want) in each.iter().zip(c["counts"].as_array().unwrap()) {
            let got = [&[got.hypothesis, got.reference][..], &got.matched, &got.total].concat();
            assert_eq!(got, counts(want), "{c}");
        }
        let got = each.iter().sum::<Counts>().bleu();
        close(got.score, &c["score"], &c);
        close(got.brevity_penalty, &c["bp"], &c);
        for (got, want) in got.precisions.iter().zip(c["precisions"].as_array().unwrap()) {
            close(*got, want, &c);
        }
        let most = texts(&corpus[0][1]).len();
        let even = corpus.iter().all(|s| texts(&s[1]).len() == most);
        assert_eq!(signature(cut, lowercase, even.then_some(most)), text(&c["signature"]), "{c}");
    }
}

fn overlaps(got: &Rouge, want: &Value, case: &Value) {
    for (Overlap { precision, recall, f }, want) in
        [got.one, got.two, got.l, got.lsum].iter().zip(want.as_array().unwrap())
    {
        close(*precision, &want[0], case);
        close(*recall, &want[1], case);
        close(*f, &want[2], case);
    }
}

#[test]
fn rouge_of_one_and_of_many() {
    for c in cases("rouge") {
        let (p, references) = (text(&c["prediction"]), texts(&c["references"]));
        let options =
            Options { stem: c["stem"].as_bool().unwrap(), stop_ends_line: c["stop"].as_bool().unwrap() };
        for (reference, want) in references.iter().zip(c["each"].as_array().unwrap()) {
            overlaps(&rouge::rouge(p, reference, options), want, &c);
        }
        overlaps(&rouge::best(p, &references, options), &c["best"], &c);
    }
}

#[test]
fn stems() {
    for c in cases("stem") {
        assert_eq!(porter::stem(text(&c[0])), text(&c[1]), "{c}");
    }
}

#[test]
fn labels() {
    for c in cases("labels") {
        let golds: Vec<usize> = counts(&c["golds"]).iter().map(|&g| g as usize).collect();
        let given = c["predictions"].as_array().unwrap();
        let predictions: Vec<Option<usize>> = given.iter().map(|p| p.as_u64().map(|p| p as usize)).collect();
        let classes = c["classes"].as_u64().unwrap() as usize;
        close(accuracy(&predictions, &golds).unwrap(), &c["accuracy"], &c);
        close(macro_f1(&predictions, &golds, classes).unwrap(), &c["macro_f1"], &c);
        close(matthews(&predictions, &golds).unwrap(), &c["matthews"], &c);
        if classes == 2 {
            let yes = |x: usize| x == 1;
            let predictions: Vec<Option<bool>> = predictions.iter().map(|p| p.map(yes)).collect();
            let golds: Vec<bool> = golds.iter().map(|&g| yes(g)).collect();
            close(binary_f1(&predictions, &golds).unwrap(), &c["binary_f1"], &c);
        }
    }
}

#[test]
fn correlations() {
    for c in cases("correlations") {
        let (x, y) = (numbers(&c["x"]), numbers(&c["y"]));
        close(pearson(&x, &y).unwrap(), &c["pearson"], &c);
        close(spearman(&x, &y).unwrap(), &c["spearman"], &c);
    }
}

#[test]
fn edit_distances() {
    for c in cases("edits") {
        for (key, lower) in [("lower", true), ("verbatim", false)] {
            for (name, cut) in [("non_word", Words::NonWord), ("space", Words::Space)] {
                let e = edits(text(&c["prediction"]), text(&c["target"]), cut, lower);
                let got = [e.distance, e.prediction, e.target].map(|n| n as u64);
                assert_eq!(got.to_vec(), counts(&c[key][name]), "{c}");
            }
        }
    }
}

#[test]
fn means() {
    for c in cases("means") {
        let values = numbers(&c["values"]);
        let mean = Mean::of(&values).unwrap();
        close(mean.value, &c["mean"], &c);
        close(mean.stddev.unwrap(), &c["stddev"], &c);
        close(mean.stderr.unwrap(), &c["stderr"], &c);
        for b in c["bootstrap"].as_array().unwrap() {
            let resamples = b["resamples"].as_u64().unwrap() as usize;
            let got = bootstrap_mean(&values, resamples, b["seed"].as_u64().unwrap()).unwrap();
            close(got.mean, &b["mean"], b);
            close(got.stderr, &b["stderr"], b);
            close(got.low, &b["low"], b);
            close(got.high, &b["high"], b);
        }
    }
}

#[test]
fn pairs() {
    for c in cases("pairs") {
        let (a, b) = (numbers(&c["a"]), numbers(&c["b"]));
        let t = paired_t(&a, &b).unwrap();
        close(t.mean, &c["mean"], &c);
        close(t.stderr, &c["stderr"], &c);
        // Relative: of small probabilities the digits count, not the places.
        let want = c["t"].as_f64().unwrap();
        assert!((t.p / want - 1.0).abs() < 1e-9, "got {}, want {want}", t.p);
        if !c["exact"].is_null() {
            close(sign_flip(&a, &b, 1 << 15, 0).unwrap().p, &c["exact"], &c);
        }
        for d in c["drawn"].as_array().unwrap() {
            let flips = d["flips"].as_u64().unwrap() as usize;
            close(sign_flip(&a, &b, flips, d["seed"].as_u64().unwrap()).unwrap().p, &d["p"], d);
        }
    }
}

#[test]
fn disagreements() {
    for c in cases("disagreements") {
        let (only_a, only_b) = (c[0].as_u64().unwrap() as usize, c[1].as_u64().unwrap() as usize);
        // Where both are right or both wrong must not matter.
        let one = [vec![true; only_a], vec![false; only_b], vec![true, false]].concat();
        let two = [vec![false; only_a], vec![true; only_b], vec![true, false]].concat();
        let got = mcnemar(&one, &two).unwrap();
        assert_eq!((got.only_a, got.only_b), (only_a, only_b));
        let want = c[2].as_f64().unwrap();
        assert!((got.p / want - 1.0).abs() < 1e-9, "got {}, want {want}", got.p);
    }
}
