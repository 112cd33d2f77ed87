//! `vault-aws crd`: the CustomResourceDefinitions, for `kubectl apply`.

use std::io::{self, Write};

/// Why nothing, or not everything, was printed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The types could not be printed.
    #[error("printing the CustomResourceDefinitions")]
    Print(#[from] serde_saphyr::ser::Error),
    /// stdout.
    #[error("writing the CustomResourceDefinitions")]
    Write(#[from] io::Error),
}

/// Writes the YAML documents, in a fixed order.
pub fn print(mut stdout: impl Write) -> Result<(), Error> {
    stdout.write_all(crate::crd::yaml()?.as_bytes())?;
    Ok(stdout.flush()?)
}
