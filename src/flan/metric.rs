//! The measures that a dataset may name, and whether they read a choice or a text.

/// A measure of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Metric {
    /// Share of right choices.
    Accuracy,
    /// F1 of one option.
    F1,
    /// Mean F1 over the options.
    F1Macro,
    /// Matthews' correlation.
    Matthews,
    /// Pearson's correlation of the chosen number and the given one.
    Pearson,
    /// Spearman's rank correlation of the same.
    Spearman,
    /// Share of groups with every row right.
    GroupExact,
    /// Share of texts equal to the target.
    ExactMatch,
    /// Exact match after SQuAD's normalisation.
    SquadEm,
    /// Token F1 after SQuAD's normalisation.
    SquadF1,
    /// Exact match after TriviaQA's normalisation.
    TriviaEm,
    /// Token F1 after TriviaQA's normalisation.
    TriviaF1,
    /// DROP's exact match.
    DropEm,
    /// DROP's F1.
    DropF1,
    /// Corpus BLEU.
    Bleu,
    /// ROUGE-1 F1 against the best reference.
    Rouge1,
    /// ROUGE-2 F1 against the best reference.
    Rouge2,
    /// ROUGE-Lsum F1 against the best reference.
    RougeLsum,
    /// Word edit distance (lower is better).
    EditDistance,
}

use Metric::*;

const ALL: [(&str, Metric); 19] = [
    ("accuracy", Accuracy),
    ("f1", F1),
    ("f1_macro", F1Macro),
    ("matthews", Matthews),
    ("pearson", Pearson),
    ("spearman", Spearman),
    ("group_exact", GroupExact),
    ("exact_match", ExactMatch),
    ("squad_em", SquadEm),
    ("squad_f1", SquadF1),
    ("trivia_em", TriviaEm),
    ("trivia_f1", TriviaF1),
    ("drop_em", DropEm),
    ("drop_f1", DropF1),
    ("bleu", Bleu),
    ("rouge1", Rouge1),
    ("rouge2", Rouge2),
    ("rougeLsum", RougeLsum),
    ("edit_distance", EditDistance),
];

impl Metric {
    /// The metric called `name`.
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter().find(|(n, _)| *n == name).map(|(_, m)| *m)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(_, m)| *m == self).map_or("", |(n, _)| n)
    }

    /// All names, for messages.
    pub fn names() -> String {
        ALL.map(|(n, _)| n).join(", ")
    }

    /// Whether a smaller value is better.
    pub fn lower_is_better(self) -> bool {
        self == EditDistance
    }
}
