//! The paper's experiments as lists of cells, and what their results come to.
//!
//! A cell is a training run and the questions that its model is asked. Plans and analyses are pure: running cells is the business of
//! `cli`, drawing that of `report`. After Wei et al., "Finetuned Language Models are Zero-Shot Learners", ICLR 2022.

mod analysis;
mod plan;

pub use analysis::{Cluster, Gain, Holdout, Point, base_at_best, curve, gain, holdout, rows};
pub use plan::{ABLATED, Name, World, plan};

use serde::{Deserialize, Serialize};

/// A kind of prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// By instruction, options listed.
    Flan,
    /// By the same instruction without the OPTIONS block.
    Plain,
    /// As text that goes on.
    Continuation,
    /// The inputs behind task and dataset name.
    DatasetName,
}

impl Asked {
    /// The three kinds that an untuned model has the best of.
    pub const BASE: [Self; 3] = [Self::Flan, Self::Plain, Self::Continuation];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flan => "flan",
            Self::Plain => "flan without options",
            Self::Continuation => "continuation",
            Self::DatasetName => "dataset name",
        }
    }
}

/// One task asked in one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Marks {
    /// The task.
    pub task: String,
    /// Its cluster.
    pub cluster: String,
    /// How.
    pub asked: Asked,
    /// Most solved examples that were asked to stand in front.
    pub shots: usize,
    /// How good every row's answer is, in the order of the rows: right or wrong (1 or 0) for a choice, else the task's first metric that is a
    /// matter of one row.
    pub worth: Vec<f64>,
    /// The same with the model's leaning to some labels taken off; for choices alone.
    pub unbiased: Vec<f64>,
    /// Share of right answers by chance, for choices.
    pub chance: Option<f64>,
}

/// Which model a cell starts from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// The one that was given.
    Given,
    /// One of several sizes, by its name.
    Size(String),
}

/// A training run, or none, and what is asked of the model then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// As people read it.
    pub label: String,
    /// What it starts from.
    pub base: Base,
    /// Settings of the run over those given, as `key=value`; none: the base itself is asked.
    pub set: Option<Vec<String>>,
    /// Clusters asked.
    pub ask: Vec<String>,
    /// In which ways.
    pub ways: Vec<Asked>,
    /// With how many solved examples in front.
    pub shots: usize,
    /// Its place in the experiment: what is compared, at which value of the thing varied, repetition.
    pub series: String,
    /// The value varied.
    pub x: f64,
    /// Which repetition.
    pub seed: u64,
}
