//! flanrt: instruction-tune and score decoder-only language models.
pub mod arena;
pub mod cpu;
pub mod error;
pub mod model;
pub mod ops;
pub mod rng;
pub mod tensor;
