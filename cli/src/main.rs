//! The `dalston` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dalston_cli::main()
}
