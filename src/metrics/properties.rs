//! What holds of the measures whatever the text: ranges, identity, symmetry, order that does not matter, and that no
//! input makes them panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::bleu::{Counts, Tokenizer};
use super::classify::{Outcomes, accuracy, binary_f1, groups_right, macro_f1, matthews};
use super::correlate::{pearson, spearman};
use super::drop;
use super::edit::{Words, edits};
use super::rouge::{Options, Rouge, best, rouge};
use super::stats::{Mean, bootstrap, bootstrap_mean, mcnemar, paired_t, sign_flip};
use super::text::{Normal, exact_match, squad, squad_v2, trivia_qa};

/// Words that meet often, numbers, articles, and now and then any characters at all.
fn any_text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        8 => prop::sample::select(vec![
            "the", "a", "an", "cat", "Cat.", "dogs", "running", "3", "3.0", "1,000", "é", "Я", "\"so\"", "-", "&amp;",
            ".",
        ])
        .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let gap = prop::sample::select(vec![" ", " ", "-", "\n", " . ", ""]);
    vec((word, gap), 0..12).prop_map(|parts| parts.into_iter().map(|(w, g)| w + g).collect())
}

fn several() -> impl Strategy<Value = Vec<String>> {
    vec(any_text(), 0..5)
}

fn share(x: f64) -> bool {
    (0.0..=1.0).contains(&x)
}

fn reversed<T: Clone>(x: &[T]) -> Vec<T> {
    x.iter().rev().cloned().collect()
}

fn fs(r: &Rouge) -> [f64; 4] {
    [r.one.f, r.two.f, r.l.f, r.lsum.f]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers(p in any_text(), golds in several()) {
        for score in [squad, squad_v2, trivia_qa] as [fn(&str, &[String]) -> _; 3] {
            let a = score(&p, &golds);
            prop_assert!(share(a.em) && share(a.f1));
            prop_assert_eq!(a, score(&p, &reversed(&golds)));
            prop_assert_eq!(score(&p, std::slice::from_ref(&p)).em, 1.0);
            for g in &golds {
                let (one, other) = (score(&p, std::slice::from_ref(g)), score(g, std::slice::from_ref(&p)));
                // In SQuAD 2.0 an empty gold answer counts only if there is no other.
                prop_assert!((one.f1 <= a.f1 && one.em <= a.em) || Normal::Squad.of(g).is_empty());
                prop_assert!((one.f1 - other.f1).abs() < 1e-15 && one.em == other.em);
            }
        }
        prop_assert_eq!(squad_v2(&p, std::slice::from_ref(&p)).f1, 1.0);
        for n in [Normal::Verbatim, Normal::Trimmed, Normal::Lower, Normal::Squad, Normal::TriviaQa] {
            prop_assert!(exact_match(&p, std::slice::from_ref(&p), n));
        }
    }

    #[test]
    fn drop_answers(p in several(), gold in several()) {
        let a = drop::spans(&p, &gold);
        prop_assert!(share(a.em) && share(a.f1));
        // Exact match is of sets: x, x, y matches x, y, y, which align less well.
        prop_assert!(a.em == 0.0 || a.f1 == 1.0 || p.len() > 2);
        for b in [drop::spans(&reversed(&p), &gold), drop::spans(&p, &reversed(&gold))] {
            // Sums of another order may round to the next hundredth.
            prop_assert!(a.em == b.em && (a.f1 - b.f1).abs() < 0.0101);
        }
        let same = drop::spans(&p, &reversed(&p));
        prop_assert_eq!((same.em, same.f1), (1.0, 1.0));
    }

    #[test]
    fn bleu(corpus in vec((any_text(), several()), 0..6), lowercase: bool) {
        for cut in [Tokenizer::Intl, Tokenizer::V13a] {
            let count = |c: &[(String, Vec<String>)]| -> Vec<Counts> {
                c.iter().map(|(h, r)| Counts::of(h, r, cut, lowercase)).collect()
            };
            let each = count(&corpus);
            let score = each.iter().sum::<Counts>().bleu().score;
            prop_assert!((0.0..=100.0 + 1e-9).contains(&score));
            prop_assert_eq!(score, count(&reversed(&corpus)).iter().sum::<Counts>().bleu().score);
            let turned: Vec<_> = corpus.iter().map(|(h, r)| (h.clone(), reversed(r))).collect();
            prop_assert_eq!(&each, &count(&turned));
            let echo: Vec<_> = corpus.iter().map(|(h, _)| (h.clone(), vec![h.clone()])).collect();
            let echo: Counts = count(&echo).iter().sum();
            let perfect = if echo.total[3] > 0 { 100.0 } else { 0.0 };
            prop_assert!((echo.bleu().score - perfect).abs() < 1e-9);
        }
    }

    #[test]
    fn rouges(p in any_text(), golds in several(), stem: bool, stop_ends_line: bool) {
        let o = Options { stem, stop_ends_line };
        let b = best(&p, &golds, o);
        prop_assert!(fs(&b).into_iter().all(share));
        prop_assert_eq!(fs(&b), fs(&best(&p, &reversed(&golds), o)));
        let own = rouge(&p, &p, o);
        // Whole or, without words (or pairs of words), nothing.
        prop_assert!(fs(&own).into_iter().all(|f| f == 0.0 || f == 1.0));
        prop_assert!(own.one.f == own.l.f && own.l.f == own.lsum.f);
        for g in &golds {
            let (there, back) = (rouge(&p, g, o), rouge(g, &p, o));
            for (x, y) in [(there.one, back.one), (there.two, back.two), (there.l, back.l)] {
                prop_assert!((x.f - y.f).abs() < 1e-15 && x.precision == y.recall);
            }
            prop_assert!(there.l.f <= there.one.f && there.lsum.f <= there.one.f);
        }
    }

    #[test]
    fn labels(pairs in vec((prop::option::of(0..4_usize), 0..4_usize), 1..40)) {
        let of = |pairs: &[(Option<usize>, usize)]| {
            let (p, g): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
            let yes = |x: usize| x % 2 == 1;
            let (pb, gb): (Vec<_>, Vec<_>) = pairs.iter().map(|(p, g)| (p.map(yes), yes(*g))).unzip();
            let own: Vec<_> = g.iter().map(|&g| Some(g)).collect();
            (
                [accuracy(&p, &g), macro_f1(&p, &g, 4), binary_f1(&pb, &gb), matthews(&p, &g)].map(Option::unwrap),
                [accuracy(&own, &g), matthews(&own, &g)].map(Option::unwrap),
            )
        };
        let (scores, own) = of(&pairs);
        prop_assert!(scores[..3].iter().copied().all(share) && scores[3].abs() <= 1.0 + 1e-12);
        prop_assert!(own[0] == 1.0 && (own[1] - 1.0).abs() < 1e-12 || pairs.iter().all(|p| p.1 == pairs[0].1));
        let (turned, _) = of(&reversed(&pairs));
        for (a, b) in scores.iter().zip(turned) {
            prop_assert_eq!(*a, b);
        }
        prop_assert_eq!(Outcomes::of(None, true).f1() + Outcomes::of(None, false).f1(), 0.0);
    }

    #[test]
    fn groups(rows in vec((0..5_u8, any::<bool>()), 0..30)) {
        let (groups, right): (Vec<_>, Vec<_>) = rows.iter().copied().unzip();
        let all = groups_right(&groups, &right).unwrap();
        let mut names = groups.clone();
        names.sort_unstable();
        names.dedup();
        let whole = names.iter().filter(|n| rows.iter().all(|(g, r)| g != *n || *r)).count();
        prop_assert_eq!((all.len(), all.iter().filter(|r| **r).count()), (names.len(), whole));
    }

    #[test]
    fn correlations(pairs in vec((-100..100_i32, -100..100_i32), 0..40)) {
        let (x, y): (Vec<f64>, Vec<f64>) = pairs.iter().map(|&(a, b)| (f64::from(a), f64::from(b))).unzip();
        for correlate in [pearson, spearman] {
            let r = correlate(&x, &y);
            prop_assert_eq!(r, correlate(&y, &x));
            if let Some(r) = r {
                prop_assert!(r.abs() <= 1.0);
                prop_assert!((r - correlate(&reversed(&x), &reversed(&y)).unwrap()).abs() < 1e-12);
                let scaled: Vec<f64> = x.iter().map(|v| 3.0 - 0.5 * v).collect();
                prop_assert!((r + correlate(&scaled, &y).unwrap()).abs() < 1e-12);
                prop_assert!((correlate(&x, &x).unwrap() - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn edit_distances(a in any_text(), b in any_text(), c in any_text(), lower: bool) {
        for cut in [Words::NonWord, Words::Space] {
            let d = |x: &str, y: &str| edits(x, y, cut, lower);
            let ab = d(&a, &b);
            prop_assert_eq!(d(&a, &a).distance, 0);
            prop_assert_eq!(ab.distance, d(&b, &a).distance);
            prop_assert!(share(ab.normalized()) && ab.distance >= ab.prediction.abs_diff(ab.target));
            prop_assert!(d(&a, &c).distance <= ab.distance + d(&b, &c).distance);
        }
    }

    #[test]
    fn spreads(values in vec(-10.0..10.0_f64, 1..30), seed: u64) {
        let m = Mean::of(&values).unwrap();
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        prop_assert!(low - 1e-9 <= m.value && m.value <= high + 1e-9);
        let b = bootstrap_mean(&values, 50, seed).unwrap();
        prop_assert_eq!(b, bootstrap_mean(&values, 50, seed).unwrap());
        prop_assert!(low - 1e-9 <= b.low && b.low <= b.high && b.high <= high + 1e-9 && b.stderr >= 0.0);
        let n = values.len();
        prop_assert_eq!(bootstrap(n, 5, seed, |rows| rows.len() as f64).unwrap().stderr, 0.0);
        let largest = |rows: &[usize]| rows.iter().max().map_or(0.0, |&i| i as f64);
        prop_assert!(bootstrap(n, 5, seed, largest).unwrap().high < n as f64);
    }

    #[test]
    fn comparisons(pairs in vec((-5..5_i32, -5..5_i32), 2..20), seed: u64) {
        let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().map(|&(a, b)| (f64::from(a) / 7.0, f64::from(b) / 7.0)).unzip();
        let (t, back) = (paired_t(&a, &b).unwrap(), paired_t(&b, &a).unwrap());
        prop_assert!(share(t.p) && t.p == back.p && t.mean == -back.mean);
        for flips in [20, 1 << 10] {
            let (s, back) = (sign_flip(&a, &b, flips, seed).unwrap(), sign_flip(&b, &a, flips, seed).unwrap());
            prop_assert!(share(s.p) && s.p > 0.0 && s.p == back.p);
        }
        let (a, b): (Vec<bool>, Vec<bool>) = pairs.iter().map(|&(a, b)| (a > 0, b > 0)).unzip();
        let m = mcnemar(&a, &b).unwrap();
        prop_assert!(share(m.p) && m.p > 0.0 && m.p == mcnemar(&b, &a).unwrap().p);
        prop_assert_eq!(mcnemar(&a, &a).unwrap().p, 1.0);
        // Near the centre of the exact test nothing is significant.
        prop_assert!(m.only_a.abs_diff(m.only_b) > 1 || m.p > 0.99);
    }
}
