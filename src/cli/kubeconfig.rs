//! The files of the kubeconfig, looked at before the library reads them.

use std::{env, io, path::PathBuf};

use kube::config::{Kubeconfig, KubeconfigError};

use super::vault_environment::Variables;
use crate::files;

const VARIABLE: &str = "KUBECONFIG";

/// A file of the kubeconfig that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read as a whole.
    #[error("reading {} ({VARIABLE})", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is something else.
    #[error("reading {} ({VARIABLE}): it is no kubeconfig{place}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where that shows.
        place: String,
    },
}

/// Refuses what the library would wait for without end, or read until the memory is full, and what it
/// would quote in its error: a kubeconfig holds tokens and keys.
pub(super) fn check() -> Result<(), Error> {
    let variables = Variables::of_process();
    let paths: Vec<PathBuf> = match variables.path(VARIABLE) {
        Some(list) => env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect(),
        None => variables.home().map(|home| home.join(".kube/config")).into_iter().collect(),
    };
    for path in paths {
        if let Err(source) = files::check(&path, files::LARGEST) {
            return Err(Error::Read { path, source });
        }
        if let Err(KubeconfigError::Parse(error)) = Kubeconfig::read_from(&path) {
            let place = error.location().map(|place| format!(": line {}", place.line()));
            return Err(Error::Malformed { path, place: place.unwrap_or_default() });
        }
    }
    Ok(())
}
