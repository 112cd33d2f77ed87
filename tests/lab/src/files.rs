//! Where the lab keeps things, and how it writes files that only their owner may read.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::error::{Doing as _, Result};

/// `$XDG_CACHE_HOME/vault-aws-lab`, else `~/.cache/vault-aws-lab`: what was built, and the state
/// of what runs.
pub(crate) fn cache() -> Result<PathBuf> {
    let absolute = |variable| env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME is an absolute path"))
        .doing(|| "finding the cache folder".to_owned())?;
    let folder = base.join("vault-aws-lab");
    create_folder(&folder)?;
    Ok(folder)
}

/// Creates the folder and its parents, readable by their owner alone. It may exist.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .doing(|| format!("creating {}", path.display()))
}

/// Writes a file that only its owner may read; a reader sees the old content or the new, whole.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let attempt = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(content.as_ref())?;
        fs::rename(&partial, path)
    };
    attempt().doing(|| format!("writing {}", path.display()))
}

/// Opens a file to lock it, or to send a program's output to its end.
pub(crate) fn open_to_append(path: &Path) -> Result<fs::File> {
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .doing(|| format!("opening {}", path.display()))
}

/// Removes a folder with all in it; it may be gone already, or be filled by a dying server.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    let mut result = Ok(());
    for _ in 0..5 {
        result = fs::remove_dir_all(path);
        match &result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            _ => break,
        }
    }
    result.doing(|| format!("removing {}", path.display()))
}

/// The last lines of a log, or why they cannot be read.
pub(crate) fn tail(path: &Path) -> String {
    const LINES: usize = 15;
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LINES)..].join("\n")
        }
        Err(error) => format!("({error})"),
    }
}

/// Tells the user about a step on stderr. Nobody listening is not an error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "lab: {text}");
}
