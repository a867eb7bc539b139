//! flanrt: instruction-tune and score decoder-only language models.

pub mod arena;
pub mod cli;
pub mod clock;
pub mod cpu;
pub mod data;
pub mod disk;
pub mod dist;
pub mod error;
pub mod jsonl;
pub mod model;
pub mod ops;
pub mod progress;
pub mod rng;
pub mod score;
pub mod tensor;
pub mod text;
pub mod train;
pub mod weights;
pub mod world;
