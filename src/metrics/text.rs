//! Answers as strings: normalisation, exact match and F1 over words.
//!
//! SQuAD: Rajpurkar et al., "SQuAD: 100,000+ questions for machine comprehension of text", EMNLP 2016, section 6.1,
//! and its scripts of versions 1.1 and 2.0. TriviaQA: Joshi et al., ACL 2017, section 6, and its script. FLAN scores
//! DROP, CoQA and SQuAD by the first, Natural Questions, TriviaQA and QuAC by the second, through T5, whose rules are
//! those of [`squad`] and [`trivia_qa`]. The scripts are Python, so letters and white space are what Python takes for
//! them.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// A run of what Python's `\w` matches. Rust's `\w` has combining marks too.
pub(super) const WORD: &str = r"[\p{L}\p{N}_]+";

static WORDS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(WORD).ok());

/// White space to Python's `str.split`: Unicode's, and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The words of `text` between white space.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|w| !w.is_empty())
}

/// `text` with one space between words and none around them.
pub(super) fn one_space(text: &str) -> String {
    words(text).collect::<Vec<_>>().join(" ")
}

/// Replaces each "a", "an" and "the" that stands alone by a space: `\b(a|an|the)\b` means a whole run of word
/// characters.
pub(super) fn drop_articles(text: &str) -> String {
    let Some(re) = WORDS.as_ref() else { return text.into() };
    re.replace_all(text, |c: &Captures<'_>| match &c[0] {
        "a" | "an" | "the" => " ".to_owned(),
        word => word.to_owned(),
    })
    .into_owned()
}

/// The number that `text` is, as Python's `float` reads it, but with digits of ASCII only: white space around it, a
/// sign, an exponent, `inf`, `nan`, and single underscores between digits are allowed. FLAN reads STS-B's answers so.
pub fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    if !text.contains('_') {
        return text.parse().ok();
    }
    let b = text.as_bytes();
    let digit = |i: usize| b.get(i).is_some_and(u8::is_ascii_digit);
    let apart = (0..b.len()).all(|i| b[i] != b'_' || (i > 0 && digit(i - 1) && digit(i + 1)));
    apart.then(|| text.replace('_', "").parse().ok())?
}

/// What is done to both texts before they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normal {
    /// Nothing.
    Verbatim,
    /// White space around the text is cut.
    Trimmed,
    /// As `Trimmed`, and in lower case.
    Lower,
    /// SQuAD's: lower case, without ASCII punctuation, without articles, one space between words.
    Squad,
    /// TriviaQA's: as SQuAD's, but a space for punctuation, to which the quotes ‘ ’ ´ belong.
    TriviaQa,
}

impl Normal {
    /// The normal form of `text`.
    pub fn of(self, text: &str) -> String {
        match self {
            Normal::Verbatim => text.into(),
            Normal::Trimmed => text.trim_matches(is_space).into(),
            Normal::Lower => text.trim_matches(is_space).to_lowercase(),
            Normal::Squad => {
                let kept: String =
                    text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
                one_space(&drop_articles(&kept))
            }
            Normal::TriviaQa => {
                let quote = |c: char| c.is_ascii_punctuation() || matches!(c, '‘' | '’' | '´');
                let spaced: String =
                    text.to_lowercase().chars().map(|c| if quote(c) { ' ' } else { c }).collect();
                one_space(&drop_articles(&spaced))
            }
        }
    }
}

/// Whether `prediction` equals one of `golds` in normal form.
pub fn exact_match<S: AsRef<str>>(prediction: &str, golds: &[S], normal: Normal) -> bool {
    let p = normal.of(prediction);
    golds.iter().any(|g| normal.of(g.as_ref()) == p)
}

/// The scores of one answer, each its best over the gold answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Answer {
    /// Exact match: 0 or 1.
    pub em: f64,
    /// F1 over words.
    pub f1: f64,
}

/// F1 of two texts as bags of words: 2 p r / (p + r) with p and r the shared share of either. No shared word gives 0,
/// no words at all give `both_empty`.
fn bag_f1(prediction: &str, gold: &str, both_empty: f64) -> f64 {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut of_gold = 0;
    for w in words(gold) {
        *counts.entry(w).or_default() += 1;
        of_gold += 1;
    }
    let (mut same, mut of_prediction) = (0, 0);
    for w in words(prediction) {
        of_prediction += 1;
        if let Some(n @ 1..) = counts.get_mut(w) {
            *n -= 1;
            same += 1;
        }
    }
    if of_gold + of_prediction == 0 {
        return both_empty;
    }
    if same == 0 {
        return 0.0;
    }
    let (p, r) = (same as f64 / of_prediction as f64, same as f64 / of_gold as f64);
    2.0 * p * r / (p + r)
}

fn best(prediction: &str, golds: impl Iterator<Item = String>, both_empty: f64) -> Answer {
    golds.fold(Answer::default(), |b, g| Answer {
        em: b.em.max(f64::from(u8::from(g == prediction))),
        f1: b.f1.max(bag_f1(prediction, &g, both_empty)),
    })
}

/// SQuAD 1.1, and DROP, CoQA and both SQuADs in FLAN. An answer of nothing but articles and punctuation has F1 0 even
/// where it matches; [`squad_v2`] differs in that. No gold answer gives 0.
pub fn squad<S: AsRef<str>>(prediction: &str, golds: &[S]) -> Answer {
    best(&Normal::Squad.of(prediction), golds.iter().map(|g| Normal::Squad.of(g.as_ref())), 0.0)
}

/// SQuAD 2.0: a question without (non-empty) gold answers is answered by the empty string, and two empty answers match
/// in F1 as well.
pub fn squad_v2<S: AsRef<str>>(prediction: &str, golds: &[S]) -> Answer {
    let mut golds: Vec<String> =
        golds.iter().map(|g| Normal::Squad.of(g.as_ref())).filter(|g| !g.is_empty()).collect();
    if golds.is_empty() {
        golds.push(String::new());
    }
    best(&Normal::Squad.of(prediction), golds.into_iter(), 1.0)
}

/// TriviaQA; in FLAN also Natural Questions and QuAC.
pub fn trivia_qa<S: AsRef<str>>(prediction: &str, golds: &[S]) -> Answer {
    best(&Normal::TriviaQa.of(prediction), golds.iter().map(|g| Normal::TriviaQa.of(g.as_ref())), 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patterns_compile() {
        assert!(WORDS.is_some());
    }

    #[test]
    fn each_normal_form() {
        let text = " The_Cat’s A-1 hat, an' `a` x ";
        assert_eq!(Normal::Verbatim.of(text), text);
        assert_eq!(Normal::Trimmed.of(text), text.trim());
        assert_eq!(Normal::Lower.of(text), text.trim().to_lowercase());
        assert_eq!(Normal::Squad.of(text), "thecat’s a1 hat x");
        assert_eq!(Normal::TriviaQa.of(text), "cat s 1 hat x");
    }

    #[test]
    fn nothing_matches_nothing_only_in_squad_v2() {
        let none: [&str; 0] = [];
        assert_eq!(squad("", &none), Answer { em: 0.0, f1: 0.0 });
        assert_eq!(squad("the", &["a"]), Answer { em: 1.0, f1: 0.0 });
        assert_eq!(squad_v2("the", &none), Answer { em: 1.0, f1: 1.0 });
        assert_eq!(squad_v2("cat", &["an", "!"]), Answer { em: 0.0, f1: 0.0 });
        assert!(exact_match(" Yes ", &["no", "yes"], Normal::Lower));
        assert!(!exact_match("yes", &none, Normal::Verbatim));
    }
}
