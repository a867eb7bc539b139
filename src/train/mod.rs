//! Training: the step, the loop around it, the run directory, its checkpoints and its logs.

mod batching;
pub mod checkpoint;
pub mod events;
mod recipe;
pub mod run;
pub mod rundir;
pub mod schedule;
mod states;
pub mod steps;
mod trainer;

pub use batching::Batching;
pub use recipe::{Auto, Recipe};
pub use states::{Gradients, MasterValues, Method, Moments, Optimizer, Update};
pub use trainer::{Outcome, Scaling, Trainer};
