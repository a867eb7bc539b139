//! flanrt: instruction-tune and score decoder-only language models.
pub mod clock;
pub mod disk;
pub mod error;
pub mod jsonl;
pub mod ops;
pub mod progress;
pub mod rng;
pub mod train;
pub mod weights;
