//! The `flanrt` program: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(flanrt::cli::main(std::env::args_os()))
}
