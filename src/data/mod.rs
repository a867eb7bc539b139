//! From data files to batches: rows, rendered text with its trained spans, token cache, order, packing.
//!
//! ```text
//! files -> rows -> (text, spans) -> examples (memory-mapped tokens) -> order -> pack -> ops::forest::Batch
//! ```

// A list of one span is meant as that, not as its numbers.
#![allow(clippy::single_range_in_vec_init)]

mod build;
mod cache;
pub mod examples;
pub mod files;
pub mod order;
pub mod pack;
pub mod parquet;
pub mod report;
pub mod rows;

pub use examples::{Builder, Example, Examples, Options, Source, from_rendered, load, load_made, texts};
pub use order::Order;
pub use pack::pack;
pub use report::{FileReport, Report, SourceReport};
pub use rows::Rendered;
