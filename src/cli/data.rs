//! `flanrt data inspect`: rows as a training run reads them, with what is trained marked.

use super::prepare::Prepared;
use super::{Global, TrainFlags};
use crate::error::Result;
use clap::{Args, Subcommand};
use serde_json::json;

/// `flanrt data`
#[derive(Subcommand)]
pub(super) enum Data {
    /// Show the first examples with the trained part marked, and what was dropped
    Inspect(Inspect),
}

/// `flanrt data inspect`
#[derive(Args)]
pub(super) struct Inspect {
    /// Model folder, or `builtin`: its tokenizer and chat template are used
    model: String,
    /// Training files
    #[arg(required = true)]
    data: Vec<String>,
    /// Examples to show
    #[arg(long, value_name = "N", default_value_t = 3)]
    show: usize,
    #[command(flatten)]
    train: TrainFlags,
}

pub(super) fn run(c: Data, global: &Global) -> Result<()> {
    let Data::Inspect(c) = c;
    let p = Prepared::finetune(c.train.resolve(&[], global, Some(&c.model), &c.data)?, true)?;
    let data = p.data(global)?;
    if global.json {
        return super::print(&json!(data.train.report()).to_string());
    }
    let green = console::Style::new().green().bold();
    let mut out = data.preview(&p.tokenizer, c.show, |text| format!("[[{}]]", green.apply_to(text)))?;
    let r = data.train.report();
    out += &format!(
        "--- {} rows read, {} used, {} dropped; {} examples, {} tokens, {} trained\n",
        r.read,
        r.used,
        r.dropped_rows.len(),
        r.examples,
        r.tokens,
        r.target_tokens
    );
    for (reason, n) in &r.dropped {
        out += &format!("    dropped: {n} {reason}\n");
    }
    super::print(&out)
}
