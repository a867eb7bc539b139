//! ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum as the rouge-score package of Google computes them.
//!
//! Lin, "ROUGE: a package for automatic evaluation of summaries", ACL workshop 2004: section 2 (N), 3.1 (L), 3.2
//! (Lsum, the union of longest common subsequences). FLAN: 1, 2 and Lsum, no stemming, " . " read as the end of a
//! line, and for each type the reference that suits it best ([`best`]). Its report is the median of 1,000 unseeded
//! bootstrap means of the F-measure; the mean itself is what those scatter about.

use std::collections::{BTreeSet, HashMap};

use super::porter;

/// How text is prepared. The default is rouge-score's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Words of more than three letters are stemmed ([`porter::stem`]).
    pub stem: bool,
    /// A full stop between spaces ends a line, as T5 and FLAN have it. Lsum alone sees lines.
    pub stop_ends_line: bool,
}

/// Precision, recall and F-measure of a prediction against a reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overlap {
    /// Share of the prediction that is in the reference.
    pub precision: f64,
    /// Share of the reference that is in the prediction.
    pub recall: f64,
    /// Their harmonic mean.
    pub f: f64,
}

impl Overlap {
    fn new(hits: usize, of_prediction: usize, of_reference: usize) -> Self {
        let share = |of: usize| hits as f64 / of.max(1) as f64;
        let (precision, recall) = (share(of_prediction), share(of_reference));
        let sum = precision + recall;
        Self { precision, recall, f: if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 } }
    }
}

/// One prediction's overlaps, by type.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rouge {
    /// Words.
    pub one: Overlap,
    /// Pairs of neighbouring words.
    pub two: Overlap,
    /// Longest common subsequence of the whole texts, lines ignored.
    pub l: Overlap,
    /// Union over lines of longest common subsequences.
    pub lsum: Overlap,
}

/// Words by number: runs of a-z and 0-9 of the text in lower case. All else separates.
#[derive(Default)]
struct Vocabulary(HashMap<String, usize>);

impl Vocabulary {
    fn ids(&mut self, text: &str, stem: bool) -> Vec<usize> {
        let lower = text.to_lowercase();
        let mut id = |w: String| {
            let next = self.0.len();
            *self.0.entry(w).or_insert(next)
        };
        let words = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()));
        let stemmed = |w: &str| if stem && w.len() > 3 { porter::stem(w) } else { w.to_owned() };
        words.filter(|w| !w.is_empty()).map(|w| id(stemmed(w))).collect()
    }
}

fn count<T: std::hash::Hash + Eq>(items: impl Iterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

/// ROUGE-N.
fn n_grams(prediction: &[usize], reference: &[usize], n: usize) -> Overlap {
    let (p, r) = (count(prediction.windows(n)), count(reference.windows(n)));
    let hits = r.iter().map(|(gram, &c)| c.min(p.get(gram).copied().unwrap_or(0))).sum();
    let grams = |words: &[usize]| (words.len() + 1).saturating_sub(n);
    Overlap::new(hits, grams(prediction), grams(reference))
}

/// Lengths of the longest common subsequences of all beginnings: row i, column j is that of a[..i] and b[..j].
fn table(a: &[usize], b: &[usize]) -> Vec<Vec<u32>> {
    let mut rows = vec![vec![0; b.len() + 1]];
    for x in a {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(0);
        let above = &rows[rows.len() - 1];
        for (j, y) in b.iter().enumerate() {
            row.push(if x == y { above[j] + 1 } else { above[j + 1].max(row[j]) });
        }
        rows.push(row);
    }
    rows
}

/// The places in `reference` of one longest common subsequence; which one, of several, decides Lsum, so the way back is
/// rouge-score's: up unless left is longer.
fn common(reference: &[usize], line: &[usize], places: &mut BTreeSet<usize>) {
    let t = table(reference, line);
    let (mut i, mut j) = (reference.len(), line.len());
    while i > 0 && j > 0 {
        if reference[i - 1] == line[j - 1] {
            (i, j) = (i - 1, j - 1);
            places.insert(i);
        } else if t[i][j - 1] > t[i - 1][j] {
            j -= 1;
        } else {
            i -= 1;
        }
    }
}

/// ROUGE-Lsum. No word counts more often than either text has it, which the paper lacks and its program has.
fn summary(prediction: &[Vec<usize>], reference: &[Vec<usize>]) -> Overlap {
    let counts = |lines: &[Vec<usize>]| count(lines.iter().flatten().copied());
    let (mut left_p, mut left_r) = (counts(prediction), counts(reference));
    let mut hits = 0;
    for line in reference {
        let mut places = BTreeSet::new();
        for p in prediction {
            common(line, p, &mut places);
        }
        for place in places {
            if let (Some(p @ 1..), Some(r @ 1..)) =
                (left_p.get_mut(&line[place]), left_r.get_mut(&line[place]))
            {
                (*p, *r) = (*p - 1, *r - 1);
                hits += 1;
            }
        }
    }
    let len = |lines: &[Vec<usize>]| lines.iter().map(Vec::len).sum();
    Overlap::new(hits, len(prediction), len(reference))
}

/// Scores `prediction` against one reference. A text without words scores 0.
pub fn rouge(prediction: &str, reference: &str, options: Options) -> Rouge {
    let mut words = Vocabulary::default();
    let mut prepare = |text: &str| {
        let text = if options.stop_ends_line { text.replace(" . ", " .\n") } else { text.to_owned() };
        let lines: Vec<_> = text.split('\n').map(|line| words.ids(line, options.stem)).collect();
        (lines.concat(), lines)
    };
    let (p, p_lines) = prepare(prediction);
    let (r, r_lines) = prepare(reference);
    let longest = table(&r, &p)[r.len()][p.len()] as usize;
    Rouge {
        one: n_grams(&p, &r, 1),
        two: n_grams(&p, &r, 2),
        l: Overlap::new(longest, p.len(), r.len()),
        lsum: summary(&p_lines, &r_lines),
    }
}

/// Scores `prediction` against several references: for each type the overlap with the largest F-measure, the first of
/// equals. No reference gives 0.
pub fn best<S: AsRef<str>>(prediction: &str, references: &[S], options: Options) -> Rouge {
    let mut scores = references.iter().map(|r| rouge(prediction, r.as_ref(), options));
    let first = scores.next().unwrap_or_default();
    scores.fold(first, |b, s| {
        let better = |b: Overlap, s: Overlap| if s.f > b.f { s } else { b };
        Rouge {
            one: better(b.one, s.one),
            two: better(b.two, s.two),
            l: better(b.l, s.l),
            lsum: better(b.lsum, s.lsum),
        }
    })
}
