//! The `flanrt` program.
fn main() {}
