//! flanrt: instruction-tune and score decoder-only language models.
//!
//! From the ground up: [`tensor`], [`arena`] and [`ops`] are the contract with a device, [`cpu`] and [`cuda`] keep it;
//! [`model`] is one forward and one backward pass over it. [`weights`], [`text`], [`data`] and [`world`] bring in models and rows; [`train`] and
//! [`score`] are the two things done with them, [`experiment`] and [`report`] are what comes of it, [`dist`] is for doing them together, and [`cli`] is the program. A module knows
//! those before it in this list, not those after it.
//!
//! What holds everywhere: a row's numbers depend on that row's path alone, never on batch, order or threads; gradients of
//! activations are set, of parameters added; data order and initial weights are functions of the seed, not of a state; nothing is
//! allocated in a step and nothing half-written is left on a disk. `docs/architecture.md` says more.

pub mod arena;
pub mod cli;
pub mod clock;
pub mod cpu;
pub mod cuda;
pub mod data;
pub mod disk;
pub mod dist;
pub mod error;
pub mod experiment;
pub mod flan;
#[cfg(feature = "hub")]
pub mod hub;
pub mod jsonl;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod progress;
pub mod report;
pub mod rng;
pub mod score;
pub mod tensor;
pub mod text;
pub mod train;
pub mod weights;
pub mod world;
