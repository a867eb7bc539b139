//! From log-probabilities to choices, and from choices to accuracies.
//!
//! Five rules choose among options: the sum of the log-probabilities, that sum per token, per character or per byte of
//! the option, and the sum minus the option's own log-probability without the question (pointwise mutual information).
//! The first of equal options wins. Rows are `log.rs`, totals over a run `summary.rs`.

use serde::{Deserialize, Serialize};

use super::boundary::Sequence;
use super::forest::Tally;

fn is_false(b: &bool) -> bool {
    !b
}

/// One scored text: an option, or a continuation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Sum of the natural-log probabilities of its tokens.
    pub logprob: f64,
    /// Scored tokens.
    pub tokens: usize,
    /// Unicode scalar values of the text as given.
    pub chars: usize,
    /// UTF-8 bytes of the text as given.
    pub bytes: usize,
    /// Whether there are tokens and each is the model's first choice.
    pub greedy: bool,
    /// The log-probability of the text with the EOS behind it, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_eos: Option<f64>,
    /// The log-probability of the text after the unconditional context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconditional: Option<f64>,
    /// A token spans the border between context and text.
    #[serde(default, skip_serializing_if = "is_false")]
    pub boundary_moved: bool,
    /// The sequence was cut on the left to fit the window.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// Even the text's own first tokens were cut off, and are not in `logprob`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub option_truncated: bool,
}

impl Scored {
    /// The result of `text` scored as `sequence`; with `eos`, the sequence's last token is an EOS behind the text.
    pub fn new(
        text: &str,
        sequence: &Sequence,
        tally: &Tally,
        unconditional: Option<f64>,
        eos: bool,
    ) -> Self {
        let whole = tally;
        let tally = match eos {
            true => Tally {
                logprob: whole.before.0,
                misses: whole.before.1,
                tokens: whole.tokens.saturating_sub(1),
                ..*whole
            },
            false => *whole,
        };
        Self {
            logprob: tally.logprob,
            with_eos: eos.then_some(whole.logprob),
            tokens: tally.tokens,
            chars: text.chars().count(),
            bytes: text.len(),
            greedy: tally.greedy(),
            unconditional,
            boundary_moved: sequence.moved,
            truncated: sequence.truncated,
            option_truncated: sequence.cut,
        }
    }

    fn per(&self, count: usize) -> f64 {
        if count == 0 { f64::NEG_INFINITY } else { self.logprob / count as f64 }
    }
}

/// The option chosen by each rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Largest log-probability.
    pub sum: usize,
    /// Largest log-probability per token.
    pub per_token: usize,
    /// Largest log-probability per character.
    pub per_char: usize,
    /// Largest log-probability per byte.
    pub per_byte: usize,
    /// Largest log-probability with the EOS, where that was scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum_eos: Option<usize>,
    /// Largest log-probability minus the unconditional one, where those were computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minus_unconditional: Option<usize>,
}

impl Choice {
    /// Chooses among `options`, at least one. An option without tokens (or characters, where those divide) ranks last: its
    /// log-probability of 0 says nothing.
    pub fn of(options: &[Scored]) -> Self {
        let best = |score: &dyn Fn(&Scored) -> f64| {
            let score = |o: &Scored| if o.tokens == 0 { f64::NEG_INFINITY } else { score(o) };
            (1..options.len()).fold(0, |b, i| if score(&options[i]) > score(&options[b]) { i } else { b })
        };
        let known = options.iter().all(|o| o.unconditional.is_some());
        let ended = options.iter().all(|o| o.with_eos.is_some());
        Self {
            sum_eos: ended.then(|| best(&|o| o.with_eos.unwrap_or(0.0))),
            sum: best(&|o| o.logprob),
            per_token: best(&|o| o.per(o.tokens)),
            per_char: best(&|o| o.per(o.chars)),
            per_byte: best(&|o| o.per(o.bytes)),
            minus_unconditional: known.then(|| best(&|o| o.logprob - o.unconditional.unwrap_or(0.0))),
        }
    }

    /// The rules by name, in the order of every report.
    pub fn rules(&self) -> [(&'static str, Option<usize>); 6] {
        [
            ("sum", Some(self.sum)),
            ("per_token", Some(self.per_token)),
            ("per_char", Some(self.per_char)),
            ("per_byte", Some(self.per_byte)),
            ("minus_unconditional", self.minus_unconditional),
            ("sum_eos", self.sum_eos),
        ]
    }
}

/// A share of right answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Right answers per answer.
    pub value: f64,
    /// Standard error of the mean (sample standard deviation, n - 1, over sqrt n); none for a single answer.
    pub stderr: Option<f64>,
    /// Right answers.
    pub right: usize,
    /// Answers.
    pub of: usize,
}

impl Rate {
    /// The rate of `right` out of `of`; `None` out of none.
    pub fn new(right: usize, of: usize) -> Option<Self> {
        let (r, n) = (right as f64, of as f64);
        let value = r / n;
        // The sum of squared deviations of r ones and n - r zeros from their mean is r (n - r) / n.
        let stderr = (of > 1).then(|| (r * (n - r) / n / (n - 1.0) / n).sqrt());
        (of > 0).then_some(Self { value, stderr, right, of })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn scored(
        logprob: f64,
        tokens: usize,
        chars: usize,
        bytes: usize,
        unconditional: Option<f64>,
    ) -> Scored {
        let t = Tally { logprob, tokens, misses: 1, ..Tally::default() };
        Scored { chars, bytes, ..Scored::new("", &Sequence::default(), &t, unconditional, false) }
    }

    fn chosen(options: &[Scored]) -> Vec<Option<usize>> {
        Choice::of(options).rules()[..5].iter().map(|r| r.1).collect()
    }

    #[test]
    fn each_rule_chooses_by_its_own_measure() {
        let options = [
            scored(-4.0, 1, 2, 8, Some(-3.0)),   // the best sum
            scored(-6.0, 6, 3, 8, Some(-5.0)),   // -1 a token
            scored(-8.0, 2, 10, 8, Some(-7.5)),  // -0.8 a character
            scored(-9.0, 2, 10, 90, Some(-8.0)), // -0.1 a byte
            scored(-9.0, 2, 9, 8, Some(-30.0)),  // 21 more probable with the question
        ];
        assert_eq!(chosen(&options), [Some(0), Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(chosen(&options[..4])[4], Some(2));
    }

    #[test]
    fn the_first_of_equals_wins_and_empty_options_never_do() {
        let a = scored(-4.0, 2, 2, 2, None);
        let empty = scored(0.0, 0, 0, 0, None);
        let zero = Some(0);
        assert_eq!(chosen(&[a.clone(), a.clone()]), [zero, zero, zero, zero, None]);
        assert_eq!(chosen(&[empty.clone(), a]), [Some(1), Some(1), Some(1), Some(1), None]);
        assert_eq!(chosen(&[empty.clone(), empty]), [zero, zero, zero, zero, None]);
    }

    #[test]
    fn counts_are_of_the_text_as_given() {
        let s = Scored::new(" né 😀", &Sequence::default(), &Tally::default(), None, false);
        assert_eq!((s.chars, s.bytes, s.greedy), (5, 9, false));
    }

    #[test]
    fn standard_error_is_that_of_the_sample() {
        let r = Rate::new(3, 8).unwrap();
        let mean = 3.0 / 8.0;
        let squares: f64 =
            [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0].iter().map(|x: &f64| (x - mean).powi(2)).sum();
        let want = (squares / 7.0).sqrt() / 8.0_f64.sqrt();
        assert!(r.value == mean && (r.stderr.unwrap() - want).abs() < 1e-15);
        assert_eq!(Rate::new(1, 1).unwrap().stderr, None);
        assert_eq!(Rate::new(0, 0), None);
        assert_eq!(Rate::new(5, 5).unwrap().stderr, Some(0.0));
    }
}
