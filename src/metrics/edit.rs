//! Edit distance over words, for the text-formatting tasks of FLAN (case, punctuation, word borders).
//!
//! Levenshtein, 1966: the fewest insertions, deletions and substitutions of words. Texts are put in lower case first,
//! as T5's `edit_distance` does by default, though that hides all errors of case.

use std::sync::LazyLock;

use regex::Regex;

use super::text::{WORD, words};

/// What a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// T5's, and so FLAN's: text is cut at every character that is not a letter, a digit or an underscore. Two such
    /// in a row have an empty word between them: a missing comma is one edit.
    NonWord,
    /// What white space separates.
    Space,
}

/// An edit distance and what it is to be seen against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edits {
    /// Edits that make the target of the prediction.
    pub distance: usize,
    /// Words of the prediction.
    pub prediction: usize,
    /// Words of the target.
    pub target: usize,
}

impl Edits {
    /// The distance per word of the longer text, in 0..=1.
    pub fn normalized(&self) -> f64 {
        self.distance as f64 / self.prediction.max(self.target).max(1) as f64
    }
}

/// The pieces of `text` between matches of [`WORD`]'s complement, one character each.
fn pieces(text: &str) -> Vec<&str> {
    static SEPARATOR: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let class = WORD.trim_start_matches('[').trim_end_matches("]+");
        Regex::new(&format!("[^{class}]")).ok()
    });
    SEPARATOR.as_ref().map_or_else(|| vec![text], |re| re.split(text).collect())
}

fn levenshtein(a: &[&str], b: &[&str]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Compares a prediction with its target, both in lower case if `lower`.
pub fn edits(prediction: &str, target: &str, cut: Words, lower: bool) -> Edits {
    let prepare = |s: &str| if lower { s.to_lowercase() } else { s.to_owned() };
    let (p, t) = (prepare(prediction), prepare(target));
    let (p, t): (Vec<&str>, Vec<&str>) = match cut {
        Words::NonWord => (pieces(&p), pieces(&t)),
        Words::Space => (words(&p).collect(), words(&t).collect()),
    };
    Edits { distance: levenshtein(&p, &t), prediction: p.len(), target: t.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_is_an_empty_word() {
        assert_eq!(pieces("so, it"), ["so", "", "it"]);
        assert_eq!(pieces(""), [""]);
        let e = edits("So it goes", "so, it goes", Words::NonWord, true);
        assert_eq!((e.distance, e.prediction, e.target), (1, 3, 4));
        assert_eq!(e.normalized(), 0.25);
        assert_eq!(edits("So it goes", "so, it", Words::Space, false).distance, 2);
        assert_eq!(edits("", "", Words::Space, true).normalized(), 0.0);
    }
}
