//! The FLAN system: datasets and their templates, what is held out, the mixture, prompts, evaluation.
//!
//! ```text
//! tasks/*.toml -> Catalog; a data folder -> rows -> Row; Row x Template -> Prompt
//! Catalog x hold-out -> Split; Split -> Mixture -> examples for training; Split -> requests -> scores
//! ```
//!
//! After Wei et al., "Finetuned Language Models are Zero-Shot Learners", ICLR 2022. `docs/tasks.md` says what a dataset's file
//! holds. Nothing here knows a device.

mod catalog;
pub mod eval;
mod filters;
mod folder;
mod format;
mod inspect;
mod metric;
mod mixture;
mod prompt;
mod row;
mod spec;
mod split;

pub use catalog::{Catalog, Cluster, Collection, TaskRef};
pub use folder::{BUILTIN, DataDirs, Found, Part, PartRows, Place, load_part, sample};
pub use format::{FILE as FORMAT_FILE, Format, Join};
pub use inspect::faults;
pub use metric::Metric;
pub use mixture::{
    Assign, Draw, Mixture, Rates, Schedule, Source, Worded, Wording, Writer, exemplars, places,
};
pub use prompt::{Mode, Prompt, Truncate, options_block};
pub use row::{Dropped, Row};
pub use spec::{Dataset, Hub, Rows, Slice, TEMPLATES, Task, Template};
pub use split::Split;
