//! Training: the run directory, its checkpoints and its logs.
pub mod events;
pub mod rundir;
pub mod steps;
