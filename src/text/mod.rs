//! Text and its tokens: the tokenizer, chat templates, templates over data rows.
//!
//! This is the only place that names the `tokenizers` and `minijinja` crates. What of a text is trained is recorded as
//! byte spans while the text is made (`chat`, and `data::rows`) and never searched for among tokens afterwards.

mod chat;
mod template;
mod tokenizer;
mod train;

pub use chat::ChatTemplate;
pub use template::Template;
pub(crate) use template::{environment, explain, object};
pub use tokenizer::Tokenizer;
pub use train::train_bpe;

#[cfg(test)]
pub(crate) use tokenizer::tests as testing;

use crate::error::Result;

/// The files of a model by name: a folder on disk, or the model inside the binary.
pub trait Files {
    /// Where they are, for messages: a folder's path, or a phrase.
    fn place(&self) -> String;
    /// The contents of file `name`, `None` where there is no such file; an error where it is there but cannot be read.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>>;
}
