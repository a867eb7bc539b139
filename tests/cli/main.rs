//! Does the product work? The real binary in temporary folders: real models and data where they are there, bad input with its
//! messages and exit codes, runs that are killed and continued.

mod bad_input;
mod cuda;
mod doctor;
mod experiment;
mod flan;
mod generate;
mod score;
mod support;
mod train;
