//! `flanrt world`: the micro-world's text and tasks as files.

use crate::disk;
use crate::error::Result;
use crate::world;
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// `flanrt world`
#[derive(Subcommand)]
pub(super) enum World {
    /// Documents for pretraining, rows {"text"}
    Text(Out),
    /// Instruction rows {"id", "input", "target"} of the clusters that are not held out
    Tasks(Out),
    /// Test requests {"id", "context", "options", "label"} of every cluster
    Requests(Out),
}

/// How much of it, and where to.
#[derive(Args)]
pub(super) struct Out {
    /// Rows; for requests: of each cluster and form
    #[arg(short, long, value_name = "N", default_value_t = 1000)]
    n: u64,
    /// Seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// File to write (.jsonl)
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(c: World) -> Result<()> {
    let (World::Text(to) | World::Tasks(to) | World::Requests(to)) = &c;
    disk::write_atomic_with(&to.out, |file| match c {
        World::Text(_) => {
            (0..to.n).try_for_each(|i| writeln!(file, "{}", json!({"text": world::prose(to.seed, i)})))
        }
        World::Tasks(_) => world::train_rows(to.seed, to.n, world::HELD_OUT).into_iter().try_for_each(|r| {
            writeln!(file, "{}", json!({"id": r.id, "input": r.input, "target": r.target}))
        }),
        World::Requests(_) => world::clusters().into_iter().try_for_each(|cluster| {
            [true, false].into_iter().try_for_each(|with_options| {
                let rows = world::test_requests(cluster, to.seed, to.n, with_options);
                rows.into_iter().try_for_each(|r| {
                    let row =
                        json!({"id": r.id, "context": r.context, "options": r.options, "label": r.answer});
                    writeln!(file, "{row}")
                })
            })
        }),
    })
}
