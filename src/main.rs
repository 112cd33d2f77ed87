//! argv → command → exit code; the only place that prints an error, with its causes and a hint.
#![expect(clippy::print_stderr, reason = "this is where errors are printed")]

use std::{io, process::ExitCode};

use clap::Parser;
use vault_aws_operator::{cli::Cli, fault::chain};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and version come this way too, on stdout and with code 0. A closed pipe is no
            // reason for another message.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    match cli.execute(io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
