//! Is every op right, on every backend?
//!
//! A module per op family, with the stems of `src/ops`: a table of cases against a plain f64 loop written in the test,
//! derivatives against central differences, and the laws of the contract (set or add, same bits for any number of threads,
//! a row's bits do not depend on its company). `harness` holds the devices and how numbers are compared; `vectors` runs all
//! of it once more on every vector width.

mod attention;
mod elem;
mod embed;
mod glu;
mod harness;
mod loss;
mod matmul;
mod memory;
mod norm;
mod optim;
mod real_shapes;
mod rope;
mod vectors;
