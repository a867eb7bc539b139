//! From data files to batches: rows, rendered text with its trained spans, token cache, order, packing.
//!
//! ```text
//! files -> rows -> (text, spans) -> examples (memory-mapped tokens) -> order -> pack -> ops::forest::Batch
//! ```

mod cache;
pub mod examples;
pub mod files;
pub mod order;
pub mod pack;
pub mod rows;

pub use examples::{Example, Examples, Options, Report, Source, from_rendered, load};
pub use order::Order;
pub use pack::pack;
pub use rows::Rendered;
