//! `flanrt world`: the micro-world's text and rows as files.

use super::finetune::say;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::flan::{Catalog, Collection};
use crate::world::{self, Split};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

/// `flanrt world`
#[derive(Subcommand)]
pub(super) enum World {
    /// Documents for pretraining, rows {"text"}
    Text(Text),
    /// Rows of every dataset as --data takes them: DIR/TASK/{train,validation,test}.jsonl
    Data {
        /// Folder to write
        #[arg(value_name = "DIR")]
        out: PathBuf,
    },
    /// The questions of the test rows as the documents would go on, for `flanrt score --requests`: what a model of that text can do
    /// at best. Rows {"id", "context", "options", "label"}
    Probe {
        /// File to write (.jsonl)
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// How much text, and where to.
#[derive(Args)]
pub(super) struct Text {
    /// Documents
    #[arg(short, long, value_name = "N", default_value_t = 1000)]
    n: u64,
    /// Texts of the primer (things to look up in what was just said), in front of the documents
    #[arg(long, value_name = "N", default_value_t = 0)]
    primer: u64,
    /// Seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// File to write (.jsonl)
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

fn write(path: &std::path::Path, rows: impl Iterator<Item = Value>) -> Result<()> {
    disk::write_atomic_with(path, |file| {
        let mut rows = rows;
        rows.try_for_each(|row| writeln!(file, "{row}"))
    })
}

pub(super) fn run(c: World) -> Result<()> {
    match c {
        World::Text(to) => {
            let primer = (0..to.primer).map(|i| world::primer(to.seed, i));
            let documents = (0..to.n).map(|i| world::document(to.seed, i));
            write(&to.out, primer.chain(documents).map(|text| json!({"text": text})))
        }
        World::Data { out } => {
            let catalog = Catalog::load(Collection::MicroWorld, None)?;
            let mut n = 0;
            for t in catalog.tasks() {
                let dir = out.join(&t.task.name);
                std::fs::create_dir_all(&dir).map_err(|e| Error::io(Kind::Disk, "create", &dir, &e))?;
                let rows = t.task.rows;
                for (split, name, count) in [
                    (Split::Train, "train", rows.train),
                    (Split::Dev, "validation", rows.dev),
                    (Split::Test, "test", rows.test),
                ] {
                    let made = world::rows(&t.task.name, split, count).unwrap_or_default();
                    n += made.len();
                    if !made.is_empty() {
                        let rows = made.into_iter().map(|row| Value::Object(row.columns));
                        write(&dir.join(format!("{name}.jsonl")), rows)?;
                    }
                }
            }
            say!("{n} rows of {} datasets in {}", catalog.tasks().count(), out.display());
            Ok(())
        }
        World::Probe { out } => write(&out, probes()?.into_iter()),
    }
}

/// The clozes of all test rows as scoring requests.
pub(super) fn probes() -> Result<Vec<Value>> {
    let catalog = Catalog::load(Collection::MicroWorld, None)?;
    let of = |t: crate::flan::TaskRef<'_>| {
        let rows = world::rows(&t.task.name, Split::Test, t.task.rows.test).unwrap_or_default();
        let name = t.task.name.clone();
        rows.into_iter().enumerate().map(move |(i, row)| {
            json!({"id": format!("{name}/{i}"), "context": row.cloze, "options": row.cloze_options, "label": row.answer})
        })
    };
    Ok(catalog.tasks().flat_map(of).collect())
}
