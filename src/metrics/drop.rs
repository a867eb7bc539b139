//! The official score of DROP: exact match, and F1 that aligns spans and insists on numbers.
//!
//! Dua et al., "DROP: a reading comprehension benchmark requiring discrete reasoning over paragraphs", NAACL 2019, as
//! its script computes it. FLAN scores DROP by [`super::text::squad`] instead.

use std::collections::BTreeSet;

use super::text::{Answer, drop_articles, one_space, parse_float, words};

/// A number as Python's `repr` prints it, infinities and no-number included.
fn repr(x: f64) -> String {
    let text = format!("{x:?}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_lowercase() };
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// A span in normal form: lower case, without punctuation (but that of numbers), without articles, numbers as floats.
/// Words end at spaces and hyphens.
pub fn normalize(span: &str) -> String {
    let part = |token: &str| {
        let mut t = token.to_lowercase();
        if parse_float(&t).is_none() {
            t.retain(|c| !c.is_ascii_punctuation());
        }
        one_space(&drop_articles(&parse_float(&t).map_or(t, repr)))
    };
    let parts: Vec<String> = span.split([' ', '-']).map(part).filter(|p| !p.is_empty()).collect();
    parts.join(" ")
}

type Bag<'a> = BTreeSet<&'a str>;

fn bag(span: &str) -> Bag<'_> {
    words(span).collect()
}

/// F1 of two sets of words; 0 if the gold one has numbers and none of them is predicted.
fn bag_f1(prediction: &Bag<'_>, gold: &Bag<'_>) -> f64 {
    let mut numbers = gold.iter().filter(|w| parse_float(w).is_some()).peekable();
    if numbers.peek().is_some() && !numbers.any(|n| prediction.contains(n)) {
        return 0.0;
    }
    let same = gold.intersection(prediction).count() as f64;
    let share = |of: usize| if of == 0 { 1.0 } else { same / of as f64 };
    let (p, r) = (share(prediction.len()), share(gold.len()));
    if p + r == 0.0 { 0.0 } else { 2.0 * p * r / (p + r) }
}

/// For each row a column, no column twice, with the largest sum of values: (row, column) by column. `rows` is at most
/// `columns`. Shortest augmenting paths with potentials (Jonker and Volgenant, Computing 38, 1987), O(rows^2 columns).
fn assign(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> Vec<(usize, usize)> {
    const FREE: usize = usize::MAX;
    // Column `columns` stands for the row that is being placed. Costs are negated values.
    let mut owner = vec![FREE; columns + 1];
    let (mut u, mut v) = (vec![0.0; rows], vec![0.0; columns + 1]);
    for row in 0..rows {
        owner[columns] = row;
        let mut at = columns;
        let mut least = vec![f64::INFINITY; columns];
        let mut from = vec![columns; columns];
        let mut seen = vec![false; columns + 1];
        while owner[at] != FREE {
            seen[at] = true;
            let i = owner[at];
            let (mut step, mut next) = (f64::INFINITY, at);
            for j in (0..columns).filter(|&j| !seen[j]) {
                let cost = -value(i, j) - u[i] - v[j];
                if cost < least[j] {
                    (least[j], from[j]) = (cost, at);
                }
                if least[j] < step {
                    (step, next) = (least[j], j);
                }
            }
            for j in 0..=columns {
                if seen[j] {
                    u[owner[j]] += step;
                    v[j] -= step;
                } else {
                    least[j] -= step;
                }
            }
            at = next;
        }
        while at != columns {
            owner[at] = owner[from[at]];
            at = from[at];
        }
    }
    (0..columns).filter(|&j| owner[j] != FREE).map(|j| (owner[j], j)).collect()
}

/// Scores the spans of one prediction against the spans of one gold answer. Exact match: the same set of normal forms
/// and as many spans. F1: the mean over the best one-to-one alignment, unaligned spans counting 0, rounded to two
/// decimals as the script does. No spans on either side is a match.
pub fn spans<P: AsRef<str>, G: AsRef<str>>(prediction: &[P], gold: &[G]) -> Answer {
    let p: Vec<String> = prediction.iter().map(|s| normalize(s.as_ref())).collect();
    let g: Vec<String> = gold.iter().map(|s| normalize(s.as_ref())).collect();
    let most = p.len().max(g.len());
    if most == 0 {
        return Answer { em: 1.0, f1: 1.0 };
    }
    let same = p.len() == g.len() && p.iter().collect::<BTreeSet<_>>() == g.iter().collect::<BTreeSet<_>>();
    let (bags, golds): (Vec<_>, Vec<_>) =
        (p.iter().map(|s| bag(s)).collect(), g.iter().map(|s| bag(s)).collect());
    let f1: Vec<Vec<f64>> = golds.iter().map(|g| bags.iter().map(|p| bag_f1(p, g)).collect()).collect();
    let mut aligned: Vec<(usize, usize)> = if g.len() <= p.len() {
        assign(g.len(), p.len(), |i, j| f1[i][j])
    } else {
        assign(p.len(), g.len(), |i, j| f1[j][i]).into_iter().map(|(i, j)| (j, i)).collect()
    };
    // The script adds in the order of the gold spans, and the rounding can show it.
    aligned.sort_unstable();
    let f1 = aligned.iter().map(|&(i, j)| f1[i][j]).sum::<f64>() / most as f64;
    Answer { em: f64::from(u8::from(same)), f1: (f1 * 100.0).round_ties_even() / 100.0 }
}

/// The best of [`spans`] over several gold answers, each measure by itself. Answers whose first span is blank are
/// passed over; none left gives 0.
pub fn best<P: AsRef<str>, G: AsRef<str>>(prediction: &[P], golds: &[Vec<G>]) -> Answer {
    let filled = golds.iter().filter(|g| g.first().is_some_and(|s| words(s.as_ref()).next().is_some()));
    filled
        .map(|g| spans(prediction, g))
        .fold(Answer::default(), |b, a| Answer { em: b.em.max(a.em), f1: b.f1.max(a.f1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_in_python() {
        for (x, want) in [
            (5.0, "5.0"),
            (0.0001, "0.0001"),
            (0.000012, "1.2e-05"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(repr(x), want);
        }
    }

    #[test]
    fn the_assignment_is_the_best_of_all() {
        let m = [[3.0, 5.0, 4.0, 0.0], [4.0, 6.0, 2.0, 1.0], [1.0, 6.0, 5.0, 2.0]];
        let mut best = 0.0_f64;
        for a in 0..4 {
            for b in (0..4).filter(|&b| b != a) {
                for c in (0..4).filter(|&c| c != a && c != b) {
                    best = best.max(m[0][a] + m[1][b] + m[2][c]);
                }
            }
        }
        assert_eq!(assign(3, 4, |i, j| m[i][j]).iter().map(|&(i, j)| m[i][j]).sum::<f64>(), best);
        assert!(assign(0, 3, |_, _| 1.0).is_empty());
    }

    #[test]
    fn numbers_decide() {
        assert_eq!(spans(&["5 yards"], &["6 yards"]), Answer { em: 0.0, f1: 0.0 });
        assert_eq!(spans(&["5.0 yards"], &["5-yards"]), Answer { em: 1.0, f1: 1.0 });
        assert_eq!(spans(&["yards"], &["yards long"]), Answer { em: 0.0, f1: 0.67 });
        assert_eq!(normalize("  The 3,000.0-mile  A "), "30000.0 mile");
        let none: [&str; 0] = [];
        assert_eq!(spans(&none, &["x"]), Answer { em: 0.0, f1: 0.0 });
        assert_eq!(best(&["x"], &[vec![" "], vec!["x"]]), Answer { em: 1.0, f1: 1.0 });
    }
}
