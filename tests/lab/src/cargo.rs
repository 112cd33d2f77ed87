//! The operator as cargo builds it, and where cargo put it.

use std::{
    env,
    ffi::OsString,
    io::{self, BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    error::{Doing as _, Result},
    installation::repository,
};

/// The program's name, and that of its target.
pub(crate) const OPERATOR: &str = "vault-aws";

/// Builds the operator, unless it is up to date, with cargo's own words on stderr. Blocks: the first
/// build takes minutes.
///
/// No package is named, so that the features are those of `cargo test` and nothing is built twice.
pub(crate) fn build_operator(release: bool) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command
        .current_dir(repository())
        .args(["build", "--bin", OPERATOR])
        .args(["--message-format", "json-render-diagnostics"])
        .args(release.then_some("--release"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut attempt = || {
        let mut child = command.spawn()?;
        let messages = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let mut built = None;
        for line in messages.lines() {
            built = executable(&line?).or(built);
        }
        let status = child.wait()?;
        match built {
            Some(path) if status.success() => io::Result::Ok(path),
            _ => Err(io::Error::other(format!("it ended with {status} and no program"))),
        }
    };
    attempt().doing(|| format!("cargo build --bin {OPERATOR}"))
}

/// The path in a message of cargo about the operator's program.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    (message["target"]["name"] == OPERATOR).then(|| message["executable"].as_str())?.map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_where_cargo_says() {
        let artifact = |name: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"{name}"}},"executable":{executable}}}"#
            )
        };
        assert_eq!(executable(&artifact(OPERATOR, r#""/t/debug/x""#)), Some("/t/debug/x".into()));
        assert_eq!(executable(&artifact(OPERATOR, "null")), None);
        assert_eq!(executable(&artifact("lab", r#""/t/debug/lab""#)), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
