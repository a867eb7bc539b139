//! flanrt: instruction-tune and score decoder-only language models.
pub mod arena;
pub mod cpu;
pub mod error;
pub mod model;
pub mod clock;
pub mod disk;
pub mod error;
pub mod jsonl;
pub mod ops;
pub mod progress;
pub mod rng;
pub mod tensor;
pub mod train;
pub mod weights;
pub mod score;
pub mod world;
