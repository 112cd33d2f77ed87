//! A VaultAwsBackend from a manifest: for commands that people run without the cluster.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    backend::desired::{Desired, Refusal},
    crd::VaultAwsBackend,
    files,
    naming::server_id,
};

/// Why there is no backend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("reading {}", path.display())]
    Read {
        /// Its path; `-` is stdin.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Not YAML, or not what a backend looks like.
    #[error("reading {} as a VaultAwsBackend: {what}", path.display())]
    Malformed {
        /// Its path.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// None, or several.
    #[error("{} has {count} documents of the kind VaultAwsBackend, and one is needed", path.display())]
    Count {
        /// Its path.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// It could not work in a cluster either.
    #[error("the VaultAwsBackend in {} cannot work", path.display())]
    Refused {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: Refusal,
    },
}

/// The one backend of a YAML file; other kinds in it are passed over. `-` is stdin.
///
/// # Errors
/// [`Error`], also where the operator would refuse the spec.
pub fn read(path: &Path) -> Result<VaultAwsBackend, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let text = if path == Path::new("-") {
        files::stdin(files::LARGEST)
    } else {
        files::text(path, files::LARGEST, files::MANIFESTS)
    };
    parse(path, &text.map_err(failed)?)
}

fn parse(path: &Path, text: &str) -> Result<VaultAwsBackend, Error> {
    let malformed = |what: String| Error::Malformed { path: path.to_owned(), what };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| malformed(without_text(&error)))?;
    let mut backends: Vec<Value> =
        documents.into_iter().filter(|one| one["kind"] == "VaultAwsBackend").collect();
    let count = backends.len();
    let (Some(backend), 1) = (backends.pop(), count) else {
        return Err(Error::Count { path: path.to_owned(), count });
    };
    let backend: VaultAwsBackend =
        serde_json::from_value(backend).map_err(|error| malformed(error.to_string()))?;
    Desired::parse(&backend.spec, server_id(&backend.spec))
        .map_err(|source| Error::Refused { path: path.to_owned(), source })?;
    Ok(backend)
}

/// What is wrong with a YAML text, and where, without the text.
pub(super) fn without_text(error: &serde_saphyr::Error) -> String {
    let said = error.without_snippet().to_string();
    said.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKEND: &str = include_str!("../../deploy/examples/backend.yaml");
    const ROLE: &str = include_str!("../../deploy/examples/role.yaml");

    fn read(text: &str) -> Result<VaultAwsBackend, String> {
        parse(Path::new("file"), text).map_err(|error| crate::fault::chain(&error))
    }

    #[test]
    fn the_one_backend_of_a_file_is_found_among_other_kinds() {
        assert!(read(&format!("{ROLE}---\n{BACKEND}")).is_ok());
        for (text, count) in [(ROLE.to_owned(), 0), (format!("{BACKEND}---\n{BACKEND}"), 2)] {
            let said = read(&text).unwrap_err();
            assert!(said.contains(&format!("{count} documents")), "{said}");
        }
    }

    #[test]
    fn a_backend_that_the_operator_would_refuse_is_refused() {
        let two = BACKEND.replace("[\"123456789012\"]", "[\"123456789012\", \"111122223333\"]");
        assert!(read(&two).unwrap_err().contains("must contain {account}"));
        assert!(read("kind: VaultAwsBackend\nspec: {}\n").unwrap_err().contains("missing field"));
        assert!(read("a: [").is_err());
    }
}
