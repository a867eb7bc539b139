//! Corpus BLEU, number for number that of sacreBLEU 2.
//!
//! Papineni et al., "BLEU: a method for automatic evaluation of machine translation", ACL 2002, section 2.3;
//! sacreBLEU: Post, "A call for clarity in reporting BLEU scores", WMT 2018. FLAN: tokenizer `intl`, exponential
//! smoothing (method 3 of Chen and Cherry, WMT 2014), case kept, effective order off. BLEU belongs to a corpus: take
//! each sentence's [`Counts`], add them up, and ask the sum for its [`Counts::bleu`]. A bootstrap sample is another
//! sum of the same counts.

use std::collections::HashMap;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::sync::LazyLock;

use regex::Regex;

use super::text::{is_space, one_space, words};

/// The longest n-grams counted.
pub const ORDER: usize = 4;

/// The release of sacreBLEU that the numbers were compared with, for the signature.
pub const SACREBLEU: &str = "2.6.0";

/// What cuts a sentence into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokenizer {
    /// mteval-v14's for all languages: Unicode punctuation, unless between digits, and symbols stand alone.
    Intl,
    /// mteval-v13a's, sacreBLEU's default: the same for ASCII only; `&quot;` and its like are read.
    V13a,
}

type Rules = Vec<(Regex, &'static str)>;

fn compile(rules: &[(&str, &'static str)]) -> Rules {
    rules.iter().filter_map(|(re, to)| Regex::new(re).ok().map(|re| (re, *to))).collect()
}

const INTL: [(&str, &str); 3] =
    [(r"(\P{N})(\p{P})", "$1 $2 "), (r"(\p{P})(\P{N})", " $1 $2"), (r"(\p{S})", " $1 ")];

// ASCII punctuation but ' , - . first; these four depend on the neighbours: . and , stay within numbers, - after
// other than digits.
const V13A: [(&str, &str); 4] = [
    (r"([!-&(-+/:-@\[-`{-~])", " $1 "),
    (r"([^0-9])([.,])", "$1 $2 "),
    (r"([.,])([^0-9])", " $1 $2"),
    (r"([0-9])(-)", "$1 $2 "),
];

impl Tokenizer {
    /// Its name in sacreBLEU.
    pub fn name(self) -> &'static str {
        match self {
            Tokenizer::Intl => "intl",
            Tokenizer::V13a => "13a",
        }
    }

    /// The words of `sentence`, one space between them.
    pub fn apply(self, sentence: &str) -> String {
        static RULES: LazyLock<[Rules; 2]> = LazyLock::new(|| [compile(&INTL), compile(&V13A)]);
        let sentence = sentence.trim_end_matches(is_space);
        let (mut text, rules) = match self {
            Tokenizer::Intl => (sentence.to_owned(), &RULES[0]),
            Tokenizer::V13a => {
                let mut t = sentence.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
                for (name, c) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
                    t = t.replace(name, c);
                }
                // The spaces let the rules see a neighbour at both ends; `intl` lacks them, and keeps a final "1990."
                (format!(" {t} "), &RULES[1])
            }
        };
        for (re, to) in rules {
            text = re.replace_all(&text, *to).into_owned();
        }
        one_space(&text)
    }
}

/// What BLEU needs of a sentence or, added up, of a corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Words of the hypothesis.
    pub hypothesis: u64,
    /// Words of the reference closest to it in length, the shorter of two equally close ones.
    pub reference: u64,
    /// N-grams of the hypothesis found in a reference, each at most as often as in the reference that has it most.
    pub matched: [u64; ORDER],
    /// N-grams of the hypothesis.
    pub total: [u64; ORDER],
}

/// BLEU and its factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bleu {
    /// In 0..=100.
    pub score: f64,
    /// N-gram precisions, smoothed, in 0..=100.
    pub precisions: [f64; ORDER],
    /// Brevity penalty, in 0..=1.
    pub brevity_penalty: f64,
}

impl Counts {
    /// Counts one sentence. `lowercase` is sacreBLEU's option of that name. Without references nothing matches.
    pub fn of<S: AsRef<str>>(
        hypothesis: &str,
        references: &[S],
        tokenizer: Tokenizer,
        lowercase: bool,
    ) -> Self {
        let prepare =
            |s: &str| if lowercase { tokenizer.apply(&s.to_lowercase()) } else { tokenizer.apply(s) };
        let hypothesis = prepare(hypothesis);
        let references: Vec<String> = references.iter().map(|r| prepare(r.as_ref())).collect();

        let mut names = HashMap::new();
        let hypothesis = ids(&hypothesis, &mut names);
        let mut allowed: HashMap<[usize; ORDER], u64> = HashMap::new();
        let mut closest: Option<usize> = None;
        for r in &references {
            let r = ids(r, &mut names);
            for (gram, n) in grams(&r) {
                let most = allowed.entry(gram).or_default();
                *most = n.max(*most);
            }
            let key = |len: usize| (len.abs_diff(hypothesis.len()), len);
            closest = Some(closest.map_or(r.len(), |c| if key(r.len()) < key(c) { r.len() } else { c }));
        }
        let mut counts = Self {
            hypothesis: hypothesis.len() as u64,
            reference: closest.unwrap_or(0) as u64,
            ..Self::default()
        };
        for (gram, n) in grams(&hypothesis) {
            let order = gram.iter().filter(|&&w| w != NONE).count() - 1;
            counts.total[order] += n;
            counts.matched[order] += n.min(allowed.get(&gram).copied().unwrap_or(0));
        }
        counts
    }

    /// BLEU of a corpus with these counts: the geometric mean of the precisions times the brevity penalty. The k-th
    /// order without a match gets 1 / 2^k matches. Nothing matched, or no hypothesis of four words, is 0.
    pub fn bleu(&self) -> Bleu {
        let (h, r) = (self.hypothesis as f64, self.reference as f64);
        // Without words r / h is infinite and the penalty 0.
        let brevity_penalty = if h >= r { 1.0 } else { libm::exp(1.0 - r / h) };
        let mut precisions = [0.0; ORDER];
        if self.matched.iter().all(|&n| n == 0) {
            return Bleu { score: 0.0, precisions, brevity_penalty };
        }
        let (mut smooth, mut logs) = (1.0, 0.0);
        for n in 0..ORDER {
            if self.total[n] == 0 {
                return Bleu { score: 0.0, precisions, brevity_penalty };
            }
            let total = self.total[n] as f64;
            precisions[n] = if self.matched[n] == 0 {
                smooth *= 2.0;
                100.0 / (smooth * total)
            } else {
                100.0 * self.matched[n] as f64 / total
            };
            logs += libm::log(precisions[n]);
        }
        Bleu { score: brevity_penalty * libm::exp(logs / ORDER as f64), precisions, brevity_penalty }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.hypothesis += other.hypothesis;
        self.reference += other.reference;
        for n in 0..ORDER {
            self.matched[n] += other.matched[n];
            self.total[n] += other.total[n];
        }
    }
}

impl Add for Counts {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

impl<'a> Sum<&'a Counts> for Counts {
    fn sum<I: Iterator<Item = &'a Self>>(counts: I) -> Self {
        counts.copied().sum()
    }
}

/// sacreBLEU's signature of a score, with which others can repeat it. `references`: how many each sentence has,
/// `None` if that differs.
pub fn signature(tokenizer: Tokenizer, lowercase: bool, references: Option<usize>) -> String {
    let refs = references.map_or("var".into(), |n| n.to_string());
    let case = if lowercase { "lc" } else { "mixed" };
    format!("nrefs:{refs}|case:{case}|eff:no|tok:{}|smooth:exp|version:{SACREBLEU}", tokenizer.name())
}

/// Fills the places of an n-gram shorter than `ORDER`.
const NONE: usize = usize::MAX;

/// The words of `text` by number: equal words have equal numbers.
fn ids<'a>(text: &'a str, names: &mut HashMap<&'a str, usize>) -> Vec<usize> {
    let mut id = |w| {
        let next = names.len();
        *names.entry(w).or_insert(next)
    };
    words(text).map(&mut id).collect()
}

/// How often each n-gram occurs, all orders together.
fn grams(words: &[usize]) -> HashMap<[usize; ORDER], u64> {
    let mut counts = HashMap::new();
    for n in 1..=ORDER {
        for gram in words.windows(n) {
            let mut key = [NONE; ORDER];
            key[..n].copy_from_slice(gram);
            *counts.entry(key).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_compile() {
        assert_eq!((compile(&INTL).len(), compile(&V13A).len()), (INTL.len(), V13A.len()));
    }

    #[test]
    fn no_words_no_score() {
        for (h, r) in
            [("", vec!["a b c d"]), ("a b c d", vec![""]), ("a b c d", vec![]), ("a b c", vec!["a b c"])]
        {
            assert_eq!(Counts::of(h, &r, Tokenizer::Intl, false).bleu().score, 0.0);
        }
        assert_eq!(Counts::default().bleu().brevity_penalty, 1.0);
    }
}
