//! The program `sero`; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sero::cli::run()
}
