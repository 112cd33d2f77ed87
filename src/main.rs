//! argv → command → exit code; the only place that prints an error, with its causes and a hint.
#![expect(clippy::print_stderr, reason = "this is where errors are printed")]

use std::{env, io, process::ExitCode};

use clap::Parser;
use vault_aws_operator::{
    cli::{self, Cli},
    fault::chain,
    review::escape::line,
};

/// It gives back what a burst needed, which the C library's seldom can: an operator is small for months
/// and large for seconds (`.cargo/config.toml` sets how).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = cli::arguments(env::args_os());
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(usage) => {
            if let Some(said) = cli::credential_process::usage(&arguments, &usage) {
                eprintln!("error: {}", line(&said));
                return ExitCode::FAILURE;
            }
            // Help and version come this way too, on stdout and with code 0. A closed pipe is no
            // reason for another message.
            let _ = usage.print();
            return if usage.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match cli.execute(io::stdout()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // What it names may be somebody else's text: a path, an answer.
            eprintln!("error: {}", line(&chain(&error)));
            if let Some(hint) = error.hint() {
                eprintln!("hint: {}", line(&hint));
            }
            ExitCode::from(error.exit_code())
        }
    }
}
