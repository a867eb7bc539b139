//! flanrt: instruction-tune and score decoder-only language models.
pub mod data;
pub mod error;
pub mod ops;
pub mod rng;
pub mod text;
