//! `cargo lab`: builds the lab's servers, and starts and stops labs.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use vault_aws_lab::{
    Error, Result, Seen, Toolchain, bench, child_entry, demo, detached, find, is_alive, list,
};

/// Real servers to try things on: Kubernetes, Vault, and an AWS emulator, on 127.0.0.1.
#[derive(Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the servers, unless this machine has done so before
    Build,
    /// Start a lab and print the environment to work with it: eval "$(cargo lab up)"
    Up(Name),
    /// Stop a lab and remove all it had
    Down(Name),
    /// Show all labs with their servers
    Status,
    /// Print the environment of a running lab
    Env(Name),
    /// Run the operator on a lab of its own and tell what happens
    Demo {
        /// Leave everything running afterwards, as lab `demo`
        #[arg(long)]
        keep: bool,
    },
    /// Measure the operator on a lab of its own
    #[command(subcommand)]
    Bench(Bench),
    /// Own a lab until told to end
    #[command(hide = true)]
    Keep(Name),
    /// Tell the story and own what it leaves until told to end
    #[command(hide = true)]
    KeepDemo(demo::Kept),
}

#[derive(Subcommand)]
enum Bench {
    /// Memory, requests and delays of the main path, with many certificates
    Main(bench::Settings),
    /// VaultCertSync in numbers: Secrets per second beside a bare client, memory, requests, CPU.
    /// For figures, as release: cargo run --release -p vault-aws-lab -- bench scale --release
    Scale(bench::scale::Settings),
    /// A cache hit of credential-process, beside Python's import of boto3
    Cli(bench::cli::Settings),
}

#[derive(clap::Args)]
struct Name {
    /// The lab's name
    #[arg(long, default_value = "default")]
    name: String,
}

fn main() -> ExitCode {
    child_entry();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody reads stderr: nothing more can be done.
            let _ = writeln!(io::stderr(), "lab: {}", error.story());
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(command: Command) -> Result<()> {
    match command {
        Command::Build => {
            tokio::task::spawn_blocking(Toolchain::ensure).await??;
            print("")
        }
        Command::Up(Name { name }) => print(&environment(&detached::up(&name).await?)),
        Command::Down(Name { name }) => detached::down(&name).await,
        Command::Status => print(&status(&list()?)),
        Command::Env(Name { name }) => {
            let lab = find(&name)?.filter(|lab| lab.env.is_some());
            print(&environment(&lab.ok_or(Error::NoSuchLab(name))?))
        }
        Command::Demo { keep } => demo::run(keep).await,
        Command::Bench(Bench::Main(settings)) => print(&bench::run(settings).await?),
        Command::Bench(Bench::Scale(settings)) => print(&bench::scale::run(settings).await?),
        Command::Bench(Bench::Cli(settings)) => print(&bench::cli::run(settings).await?),
        Command::Keep(Name { name }) => detached::keep(&name).await,
        Command::KeepDemo(kept) => demo::keep(kept).await,
    }
}

fn print(text: &str) -> Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|source| Error::Io { doing: "writing to stdout".to_owned(), source })
}

/// Lines for a POSIX shell.
fn environment(lab: &Seen) -> String {
    let mut lines = String::new();
    for (name, value) in lab.env.iter().flatten() {
        let value = format!("'{}'", value.replace('\'', r"'\''"));
        let rest = if name == "PATH" { ":\"$PATH\"" } else { "" };
        lines.push_str(&format!("export {name}={value}{rest}\n"));
    }
    lines
}

fn status(labs: &[Seen]) -> String {
    if labs.is_empty() {
        return "no labs\n".to_owned();
    }
    let mut lines = String::new();
    for lab in labs {
        let state = match (&lab.owner, &lab.env) {
            (None, _) => "dead".to_owned(),
            (Some(owner), env) => {
                let ready = if env.is_some() { "ready" } else { "starting" };
                let kind = if owner.detached { "keeper" } else { "test run" };
                format!("{ready}, {kind} {}", owner.pid)
            }
        };
        lines.push_str(&format!("{} ({state}) {}\n", lab.name, lab.folder.display()));
        for server in &lab.servers {
            let alive = lab.owner.is_some() && is_alive(server.pid);
            let state = if alive { "alive" } else { "dead" };
            lines.push_str(&format!(
                "  {:<24} pid {:<8} 127.0.0.1:{:<6} {state}\n",
                server.name, server.pid, server.port
            ));
        }
    }
    lines
}
