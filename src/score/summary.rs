//! The results of a run: rows counted as they come, accuracies with their standard errors, and the table for a terminal.
//!
//! A summary depends on the rows and their order only, so that a continued run ends with the same one.

use std::fmt::Write;

use serde::Serialize;

use super::log::Row;
use super::metrics::Rate;

/// Accuracy by each rule, over the requests with a label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// By the sum.
    pub sum: Rate,
    /// By the sum per token.
    pub per_token: Rate,
    /// By the sum per character.
    pub per_char: Rate,
    /// By the sum per byte.
    pub per_byte: Rate,
    /// By the sum minus the unconditional one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minus_unconditional: Option<Rate>,
    /// By the sum with the EOS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum_eos: Option<Rate>,
}

/// What the continuation requests of a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Continuations {
    /// How many there were.
    pub requests: usize,
    /// Scored tokens of all.
    pub tokens: usize,
    /// Sum of their log-probabilities.
    pub sum_logprob: f64,
    /// That sum per request.
    pub mean_logprob: f64,
    /// That sum per token; none without tokens.
    pub mean_per_token: Option<f64>,
    /// The share whose tokens are all the model's first choice.
    pub greedy: Rate,
}

/// The results of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Requests scored, in this run and in what it continued.
    pub requests: usize,
    /// Requests with options.
    pub choices: usize,
    /// Requests with options and a label.
    pub labelled: usize,
    /// Accuracies, where there are labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
    /// The continuation requests, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continuations: Option<Continuations>,
    /// Texts with a token across the border.
    pub boundary_moved: usize,
    /// Texts whose context was cut on the left.
    pub truncated: usize,
    /// Texts that were cut themselves.
    pub option_truncated: usize,
    /// Texts without a single scored token.
    pub without_tokens: usize,
    /// Requests taken over from an interrupted run.
    pub continued: usize,
}

/// Collects rows, in request order.
#[derive(Debug, Default)]
pub struct Collector {
    rows: usize,
    choices: usize,
    labelled: usize,
    right: [usize; 6],
    unconditional: usize,
    ended: usize,
    continuations: usize,
    tokens: usize,
    sum_logprob: f64,
    greedy: usize,
    flags: [usize; 4],
}

impl Collector {
    /// Counts one row.
    pub fn add(&mut self, row: &Row) {
        self.rows += 1;
        let scored = match row {
            Row::Choice { options, choice, label, .. } => {
                self.choices += 1;
                if let Some(label) = label {
                    self.labelled += 1;
                    self.unconditional += usize::from(choice.minus_unconditional.is_some());
                    self.ended += usize::from(choice.sum_eos.is_some());
                    for (right, (_, chosen)) in self.right.iter_mut().zip(choice.rules()) {
                        *right += usize::from(chosen == Some(*label));
                    }
                }
                &options[..]
            }
            Row::Continuation { scored, .. } => {
                self.continuations += 1;
                self.tokens += scored.tokens;
                self.sum_logprob += scored.logprob;
                self.greedy += usize::from(scored.greedy);
                std::slice::from_ref(scored)
            }
        };
        for s in scored {
            let flags = [s.boundary_moved, s.truncated, s.option_truncated, s.tokens == 0];
            for (count, flag) in self.flags.iter_mut().zip(flags) {
                *count += usize::from(flag);
            }
        }
    }

    /// The results, of which `continued` rows came from an interrupted run.
    pub fn summary(&self, continued: usize) -> Summary {
        let rate = |i: usize| Rate::new(self.right[i], self.labelled);
        let accuracy = match (rate(0), rate(1), rate(2), rate(3)) {
            (Some(sum), Some(per_token), Some(per_char), Some(per_byte)) => Some(Accuracy {
                sum,
                per_token,
                per_char,
                per_byte,
                minus_unconditional: Rate::new(self.right[4], self.unconditional),
                sum_eos: Rate::new(self.right[5], self.ended),
            }),
            _ => None,
        };
        let continuations = Rate::new(self.greedy, self.continuations).map(|greedy| Continuations {
            requests: self.continuations,
            tokens: self.tokens,
            sum_logprob: self.sum_logprob,
            mean_logprob: self.sum_logprob / self.continuations as f64,
            mean_per_token: (self.tokens > 0).then(|| self.sum_logprob / self.tokens as f64),
            greedy,
        });
        let [boundary_moved, truncated, option_truncated, without_tokens] = self.flags;
        Summary {
            requests: self.rows,
            choices: self.choices,
            labelled: self.labelled,
            accuracy,
            continuations,
            boundary_moved,
            truncated,
            option_truncated,
            without_tokens,
            continued,
        }
    }
}

impl Summary {
    /// The results as aligned plain text for a terminal, a line break at the end of each line.
    pub fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let mut line = |s: String| _ = writeln!(out, "{}", s.trim_end());
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let continued =
            if self.continued > 0 { format!(" ({} from before)", self.continued) } else { String::new() };
        line(format!("{}{continued}", plural(self.requests, "request")));
        if let Some(a) = &self.accuracy {
            line(format!("{:<22}{:>9}{:>10}{:>14}", "accuracy by", "value", "stderr", "right/of"));
            let rows = [
                ("sum", Some(a.sum)),
                ("per_token", Some(a.per_token)),
                ("per_char", Some(a.per_char)),
                ("per_byte", Some(a.per_byte)),
                ("minus_unconditional", a.minus_unconditional),
                ("sum_eos", a.sum_eos),
            ];
            for (name, rate) in rows.iter().filter_map(|(n, r)| r.map(|r| (n, r))) {
                let stderr = rate.stderr.map_or("-".into(), |s| format!("{s:.4}"));
                let of = format!("{}/{}", rate.right, rate.of);
                line(format!("  {name:<20}{:>9.4}{stderr:>10}{of:>14}", rate.value));
            }
        } else if self.choices > 0 {
            line("no labels, so no accuracy".into());
        }
        if let Some(c) = &self.continuations {
            let per_token = c.mean_per_token.map_or("-".into(), |m| format!("{m:.4}"));
            line(format!(
                "{:<22}{:>9}{:>12}{:>12}{:>9}",
                "continuations", "requests", "mean", "per token", "greedy"
            ));
            line(format!(
                "{:<22}{:>9}{:>12.4}{per_token:>12}{:>9.4}",
                "  log-probability", c.requests, c.mean_logprob, c.greedy.value
            ));
        }
        let notes = [
            (self.boundary_moved, "with a token across the border to the context"),
            (self.truncated, "cut on the left to fit the model's window"),
            (self.option_truncated, "longer than the window: their first tokens are not scored"),
            (self.without_tokens, "without a single token to score: never chosen if another option has one"),
        ];
        for (n, what) in notes.into_iter().filter(|(n, _)| *n > 0) {
            line(format!("{} {what}", plural(n, "text")));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Choice;
    use super::super::metrics::tests::scored;
    use super::super::requests::Id;
    use super::*;

    #[test]
    fn a_summary_counts_what_it_was_given() {
        let mut c = Collector::default();
        let mut odd = scored(-1.0, 1, 1, 1, None);
        odd.truncated = true;
        for (i, label) in [Some(0), Some(1), None].into_iter().enumerate() {
            let options = vec![odd.clone(), scored(-2.0, 1, 1, 1, None)];
            let choice = Choice::of(&options);
            c.add(&Row::Choice { id: Id::Int(i as i64), options, choice, label });
        }
        c.add(&Row::Continuation { id: Id::Text("x".into()), scored: scored(-6.0, 3, 1, 1, None) });
        c.add(&Row::Continuation { id: Id::Text("y".into()), scored: scored(0.0, 0, 0, 0, None) });
        let s = c.summary(2);
        assert_eq!((s.requests, s.choices, s.labelled, s.truncated, s.without_tokens), (5, 3, 2, 3, 1));
        assert_eq!(s.accuracy.unwrap().sum, Rate::new(1, 2).unwrap());
        assert_eq!(s.accuracy.unwrap().minus_unconditional, None);
        let k = s.continuations.unwrap();
        assert_eq!((k.requests, k.mean_logprob, k.mean_per_token, k.greedy.right), (2, -3.0, Some(-2.0), 0));
        let table = s.table();
        assert!(table.contains("  sum                    0.5000    0.5000           1/2\n"), "{table}");
        assert!(table.contains("3 texts cut on the left") && table.contains("(2 from before)"), "{table}");
        assert!(table.lines().all(|l| l.trim_end() == l && l.len() < 100));
    }
}
