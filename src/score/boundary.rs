//! Where the context ends and the option begins, in tokens.
//!
//! A tokenizer may merge the last characters of a context with the first ones of an option into one token; the three
//! rules differ in what they do then. All of them cut an over-long sequence on the left and say so. Pure functions of
//! the strings and the tokenizer; nothing here knows a model beyond its window.

use serde::{Deserialize, Serialize};

use super::Encode;
use crate::error::Result;

/// The rule for the border between context and option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// Encode context and option together; score from the first id that differs from those of the context alone. Keeps
    /// at most `window` tokens: the tokens after the prefix (BOS) are dropped first.
    #[default]
    Joint,
    /// As lm-evaluation-harness: the context's trailing white space moves to the option; the ids are the context's own, then those
    /// of both together from the context's token count on. Keeps the last `window + 1` tokens (the last is never an input), prefix or not.
    /// An empty context is the prefix, or EOS where there is none.
    LmEval,
    /// Encode both alone and join the ids. Truncates as [`Boundary::Joint`] does.
    Separate,
}

/// A context with one option, in tokens: `ids[first..]` are scored, each from the ids before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids; the last one is only ever a target.
    pub ids: Vec<u32>,
    /// Index of the first scored id, at least 1 (the very first token has no prediction); past the end: none is scored.
    pub first: usize,
    /// A token spans the border: scoring starts before the end of the context's own tokens.
    pub moved: bool,
    /// Tokens were dropped on the left to fit the window.
    pub truncated: bool,
    /// Even tokens of the option were dropped: it is longer than the window by itself.
    pub cut: bool,
}

impl Sequence {
    /// What the model reads: all ids but the last.
    pub fn inputs(&self) -> &[u32] {
        &self.ids[..self.ids.len().saturating_sub(1)]
    }

    /// The scored ids.
    pub fn targets(&self) -> &[u32] {
        &self.ids[self.first.min(self.ids.len())..]
    }
}

/// Length of the longest common prefix of `a` and `b`.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// The sequences of `options` after `context` under `rule`, for a model that reads at most `window` tokens.
///
/// `window` must exceed the tokenizer's prefix (checked by [`super::run()`]). Errors are the tokenizer's.
pub fn place(
    rule: Boundary,
    encode: &dyn Encode,
    context: &str,
    options: &[impl AsRef<str>],
    window: usize,
) -> Result<Vec<Sequence>> {
    // Python's str.rstrip also strips the four information separators, which are not White_Space in Unicode.
    let stripped = context.trim_end_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c));
    let head = if rule == Boundary::LmEval { stripped } else { context };
    let bare = rule == Boundary::LmEval && head.is_empty();
    let head_ids = if bare { empty_context(encode) } else { encode.encode(head)? };
    let kept = encode.prefix().len();
    options
        .iter()
        .map(|option| {
            let option = option.as_ref();
            let (ids, first, moved) = match rule {
                Boundary::Separate => {
                    ([&head_ids[..], &encode.encode_bare(option)?].concat(), head_ids.len(), false)
                }
                Boundary::Joint => {
                    let ids = encode.encode(&[context, option].concat())?;
                    let first = common(&head_ids, &ids);
                    (ids, first, first < head_ids.len())
                }
                Boundary::LmEval if bare => {
                    let rest = encode.encode_bare(&[context, option].concat())?;
                    let rest = rest.strip_prefix(&head_ids[..]).unwrap_or(&rest);
                    ([&head_ids[..], rest].concat(), head_ids.len(), false)
                }
                Boundary::LmEval => {
                    let ids = encode.encode(&[context, option].concat())?;
                    let same = common(&head_ids, &ids);
                    // Where merging leaves no token to the option, the harness stops; the joint border still answers.
                    let swallowed = ids.len() <= head_ids.len() && !option.is_empty();
                    let moved = same < head_ids.len();
                    match swallowed {
                        true => (ids, same, moved),
                        // The model reads the context's own ids, also where a token spans the border.
                        false => {
                            let rest = ids.get(head_ids.len()..).unwrap_or_default();
                            ([&head_ids[..], rest].concat(), head_ids.len(), moved)
                        }
                    }
                }
            };
            Ok(match rule {
                Boundary::LmEval => fit(ids, first, moved, 0, window + 1),
                _ => fit(ids, first, moved, kept, window),
            })
        })
        .collect()
}

/// The sequences of `options` after `context` for the unconditional score: as [`place`], but an empty context stands for
/// the prefix or else EOS under every rule, because without it a first token would have no prediction.
pub fn place_unconditional(
    rule: Boundary,
    encode: &dyn Encode,
    context: &str,
    options: &[impl AsRef<str>],
    window: usize,
) -> Result<Vec<Sequence>> {
    let rule = if context.is_empty() && encode.prefix().is_empty() { Boundary::LmEval } else { rule };
    place(rule, encode, context, options, window)
}

/// What stands for an empty context: the prefix, else EOS, else nothing.
pub(super) fn empty_context(encode: &dyn Encode) -> Vec<u32> {
    if encode.prefix().is_empty() { encode.eos().into_iter().collect() } else { encode.prefix().to_vec() }
}

/// Drops ids after the first `kept` until `longest` are left.
fn fit(mut ids: Vec<u32>, first: usize, moved: bool, kept: usize, longest: usize) -> Sequence {
    let over = ids.len().saturating_sub(longest);
    if over > 0 {
        ids.drain(kept..kept + over);
    }
    // After the drop the earliest token with a prediction is number max(kept, 1).
    let cut = over > 0 && first < over + kept.max(1) && first < ids.len() + over;
    Sequence {
        first: first.saturating_sub(over).max(if over > 0 { kept } else { 0 }).max(1),
        ids,
        moved,
        truncated: over > 0,
        cut,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Words;
    use super::*;

    /// Rule, whether there is a BOS, context, option; ids, first, flags.
    type Case = (Boundary, bool, &'static str, &'static str, Vec<u32>, usize, &'static str);
    /// The same with the window before the ids.
    type CutCase = (Boundary, bool, &'static str, &'static str, usize, Vec<u32>, usize, &'static str);

    fn ids(s: &str) -> Vec<u32> {
        s.chars().map(|c| c as u32).collect()
    }
    fn with(head: u32, s: &str) -> Vec<u32> {
        [vec![head], ids(s)].concat()
    }
    fn one(rule: Boundary, e: &Words, context: &str, option: &str, window: usize) -> Sequence {
        place(rule, e, context, &[option], window).unwrap().remove(0)
    }
    fn seq(ids: Vec<u32>, first: usize, flags: &str) -> Sequence {
        let has = |c| flags.contains(c);
        Sequence { ids, first, moved: has('m'), truncated: has('t'), cut: has('c') }
    }

    #[test]
    fn every_rule_on_plain_merged_and_empty_texts() {
        use Boundary::{Joint, LmEval, Separate};
        let (bos, none) = (Words::new(true, &["b c", " d"]), Words::new(false, &["b c", " d"]));
        let merged = |head: &str| [ids(head), vec![1000]].concat();
        let table: Vec<Case> = vec![
            (Joint, true, "ab", "cd", with(1, "abcd"), 3, ""),
            (Joint, false, "ab", "cd", ids("abcd"), 2, ""),
            (Joint, true, "ab", " c", [vec![1], merged("a")].concat(), 2, "m"),
            (Joint, true, "", "xy", with(1, "xy"), 1, ""),
            (Joint, false, "", "xy", ids("xy"), 1, ""), // the first token has no prediction
            (Joint, false, "", "x", ids("x"), 1, ""),   // nothing to score
            (Joint, true, "ab", "", with(1, "ab"), 3, ""),
            (Joint, false, "", "", vec![], 1, ""),
            (LmEval, true, "ab", "cd", with(1, "abcd"), 3, ""),
            (LmEval, true, "ab ", "cd", with(1, "abd"), 3, "m"), // "b c" is one token: the context keeps its own b
            (LmEval, true, "ax ", "d", [with(1, "ax"), vec![1001]].concat(), 3, ""), // the space moved to the option
            (LmEval, true, "ax\u{1f}", "d", with(1, "ax\u{1f}d"), 3, ""),
            (LmEval, true, "ab", " c", [vec![1], merged("a")].concat(), 2, "m"), // nothing left: the joint border
            (LmEval, true, "", "xy", with(1, "xy"), 1, ""),
            (LmEval, false, "", "xy", with(2, "xy"), 1, ""), // EOS stands for an empty context
            (LmEval, false, " ", "d", vec![2, 1001], 1, ""),
            (LmEval, true, "", "\u{1}x", with(1, "x"), 1, ""), // no double BOS
            (LmEval, true, "ab", "", with(1, "ab"), 3, ""),
            (Separate, true, "ab", " c", [with(1, "ab"), ids(" c")].concat(), 3, ""),
            (Separate, false, "ab ", "c", [ids("ab "), ids("c")].concat(), 3, ""),
            (Separate, false, "", "xy", ids("xy"), 1, ""),
        ];
        for (rule, b, context, option, want, first, flags) in table {
            let e = if b { &bos } else { &none };
            assert_eq!(
                one(rule, e, context, option, 99),
                seq(want, first, flags),
                "{rule:?} {context:?} {option:?}"
            );
        }
    }

    #[test]
    fn truncation_on_the_left() {
        let (bos, none) = (Words::new(true, &[]), Words::new(false, &[]));
        use Boundary::{Joint, LmEval, Separate};
        let table: Vec<CutCase> = vec![
            (Joint, true, "abcdef", "xy", 9, with(1, "abcdefxy"), 7, ""), // fits exactly
            (Joint, true, "abcdef", "xy", 5, with(1, "efxy"), 3, "t"),
            (Joint, false, "abcdef", "xy", 5, ids("defxy"), 3, "t"),
            (Joint, true, "abc", "vwxyz", 6, with(1, "vwxyz"), 1, "t"), // all of the option, nothing of the context
            (Joint, true, "abc", "uvwxyz", 4, with(1, "xyz"), 1, "tc"),
            (Joint, false, "abc", "wxyz", 4, ids("wxyz"), 1, "tc"), // w is there, but nothing predicts it
            (Joint, false, "abc", "uvwxyz", 4, ids("wxyz"), 1, "tc"),
            (Joint, true, "abcdef", "", 4, with(1, "def"), 4, "t"), // nothing to lose
            (Separate, true, "abcdef", "xy", 5, with(1, "efxy"), 3, "t"),
            (LmEval, true, "abcdef", "xy", 8, with(1, "abcdefxy"), 7, ""), // one more: the last is no input
            (LmEval, true, "abcdef", "xy", 5, ids("cdefxy"), 4, "t"),      // BOS goes as well
            (LmEval, false, "abc", "wxyz", 4, ids("cwxyz"), 1, "t"),
            (LmEval, true, "abc", "uvwxyz", 4, ids("vwxyz"), 1, "tc"),
        ];
        for (rule, b, context, option, window, want, first, flags) in table {
            let e = if b { &bos } else { &none };
            let got = one(rule, e, context, option, window);
            assert_eq!(got, seq(want, first, flags), "{rule:?} {context:?} {option:?} {window}");
            assert!(got.inputs().len() <= window);
        }
    }

    /// The published definition, written down once more in its own words: indices instead of drains and flags.
    #[test]
    fn joint_is_the_reference_definition() {
        let texts = ["", "a", "ab", "ab ", "b c", "a b c d", " d", "xb", " c d", "c"];
        for bos in [false, true] {
            let e = Words::new(bos, &["b c", " d", "ab"]);
            for window in 2..9 {
                for c in texts {
                    for o in texts {
                        let (ctx, mut ids) = (e.encode(c).unwrap(), e.encode(&format!("{c}{o}")).unwrap());
                        let mut start = 0;
                        while start < ctx.len().min(ids.len()) && ctx[start] == ids[start] {
                            start += 1;
                        }
                        let moved = start < ctx.len();
                        let (n, over) = (usize::from(bos), ids.len() as i64 - window as i64);
                        if over > 0 {
                            ids = [&ids[..n], &ids[n + over as usize..]].concat();
                            start = (start as i64 - over).max(n as i64) as usize;
                        }
                        let got = one(Boundary::Joint, &e, c, o, window);
                        assert_eq!((got.ids, got.first), (ids, start.max(1)), "{c:?} {o:?} {window}");
                        assert_eq!((got.moved, got.truncated), (moved, over > 0), "{c:?} {o:?} {window}");
                    }
                }
            }
        }
    }

    /// The harness's arithmetic from the outside: what the model reads, and the tail of it that is scored.
    #[test]
    fn lm_eval_reads_and_scores_the_tail() {
        let texts = ["a", "ab ", "a b", "b  ", " d", "", " ", "c d"];
        for bos in [false, true] {
            let e = Words::new(bos, &["b c", " d", "ab"]);
            for window in 2..9 {
                for c in texts {
                    for o in ["x", " d", "cd", " c d e f g", "d\u{e9}"] {
                        let whole = e.encode(&format!("{c}{o}")).unwrap();
                        let cut = e.encode(c.trim_end()).unwrap().len();
                        let got = one(Boundary::LmEval, &e, c, o, window);
                        assert!(got.inputs().len() <= window && got.first >= 1);
                        if c.trim().is_empty() || whole.len() <= cut {
                            assert!(!got.targets().is_empty(), "{c:?} {o:?}");
                            continue;
                        }
                        // The context's own ids, then what follows of both together.
                        let whole = [e.encode(c.trim_end()).unwrap(), whole[cut..].to_vec()].concat();
                        let from = whole.len().saturating_sub(window + 1);
                        assert_eq!(got.inputs(), &whole[from..whole.len() - 1]);
                        let scored = (whole.len() - cut).min(got.inputs().len());
                        assert_eq!(got.targets(), &whole[whole.len() - scored..]);
                        assert_eq!((got.truncated, got.cut), (from > 0, scored < whole.len() - cut));
                    }
                }
            }
        }
    }

    #[test]
    fn unconditional_first_tokens_are_always_predicted() {
        let e = Words::new(false, &[]);
        let got = place_unconditional(Boundary::Joint, &e, "", &["x"], 9).unwrap();
        assert_eq!(got, [seq(vec![2, 'x' as u32], 1, "")]);
        let got = place_unconditional(Boundary::Joint, &e, "A:", &["x"], 9).unwrap();
        assert_eq!(got, [seq(ids("A:x"), 2, "")]);
    }
}
