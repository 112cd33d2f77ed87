//! The nonce by which Vault knows an EC2 instance again.
//!
//! The first login of an instance fixes it, and every later one must give it: without it the instance
//! stays outside until somebody deletes its entry in Vault's access list. So it is made here and on
//! disk before Vault sees it, rather than taken from Vault's first answer.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};

use crate::{cli::vault_environment::Variables, files, redacted::Redacted};

/// Vault takes no longer one.
const LONGEST: u64 = 128;

/// Why there is no nonce.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody says where state is kept.
    #[error("neither XDG_STATE_HOME nor HOME is set: give --nonce-file")]
    NoHome,
    /// The file.
    #[error("{doing} the nonce file {}", path.display())]
    File {
        /// Reading, writing.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is no nonce, or others may read it.
    #[error("the nonce file {} {what}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No randomness.
    #[error("the system gives no random bytes")]
    Random,
}

/// Where the nonce for one mount of one Vault is kept; a relative `XDG_STATE_HOME` counts as unset.
pub(super) fn default_file(
    variables: &Variables,
    server: &str,
    namespace: Option<&str>,
    mount: &str,
) -> Result<PathBuf, Error> {
    let state = variables.path("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = match (state, variables.home()) {
        (Some(state), _) => state.to_owned(),
        (None, Some(home)) => home.join(".local/state"),
        (None, None) => return Err(Error::NoHome),
    };
    let mut digest = Sha256::new();
    for part in [server, namespace.unwrap_or_default(), mount] {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let tag: String = digest.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(state.join("vault-aws").join(format!("ec2-nonce-{tag}")))
}

/// The nonce in the file; made and written if there is none.
pub(super) fn keep(path: &Path) -> Result<Redacted<String>, Error> {
    if let Some(nonce) = read(path)? {
        return Ok(nonce);
    }
    let nonce = Redacted::new(random()?);
    match write(path, &nonce) {
        // Somebody else was faster: theirs counts.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read(path)?.ok_or(Error::Unfit { path: path.to_owned(), what: "is empty" })
        }
        Err(source) => Err(Error::File { doing: "writing", path: path.to_owned(), source }),
        Ok(()) => Ok(nonce),
    }
}

fn read(path: &Path) -> Result<Option<Redacted<String>>, Error> {
    let failed = |source| Error::File { doing: "reading", path: path.to_owned(), source };
    let unfit = |what| Error::Unfit { path: path.to_owned(), what };
    let file = match files::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(unfit("is no regular file"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(unfit("can be read by others: make it 0600"));
    }
    let mut text = String::new();
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(failed)?;
    let nonce = Redacted::new(text.trim().to_owned());
    match nonce.expose().len() as u64 {
        0 => Err(unfit("is empty")),
        LONGEST.. => Err(unfit("holds more than a nonce")),
        _ => Ok(Some(nonce)),
    }
}

/// Written whole or not at all, and never over another.
fn write(path: &Path, nonce: &Redacted<String>) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file
        .write_all(nonce.expose().as_bytes())
        .and_then(|()| file.sync_all())
        // Unlike a rename, a link fails if there is one already.
        .and_then(|()| fs::hard_link(&temporary, path))
        .and_then(|()| File::open(folder)?.sync_all());
    let _ = fs::remove_file(&temporary);
    written
}

fn random() -> Result<String, Error> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("vault-aws-nonce-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_nonce_is_made_once_and_for_its_owner_alone() {
        let folder = Folder::new("once");
        let path = folder.0.join("deep/nonce");
        let first = keep(&path).unwrap();
        assert_eq!(first.expose().len(), 32);
        assert_eq!(keep(&path).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.0.join("deep")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_read_is_refused() {
        let folder = Folder::new("open");
        let path = folder.0.join("nonce");
        keep(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(keep(&path).unwrap_err(), Error::Unfit { .. }));
    }

    #[test]
    fn an_empty_file_is_no_nonce() {
        // An empty nonce would forbid the instance to log in again, for ever.
        let folder = Folder::new("empty");
        let path = folder.0.join("nonce");
        keep(&path).unwrap();
        fs::write(&path, "\n").unwrap();
        assert!(matches!(keep(&path).unwrap_err(), Error::Unfit { what: "is empty", .. }));
    }

    #[test]
    fn each_vault_and_mount_has_a_file_of_its_own() {
        let variables: Variables =
            [("HOME", "/home/x"), ("XDG_STATE_HOME", "relative")].into_iter().collect();
        let file = |server, namespace, mount| {
            default_file(&variables, server, namespace, mount).unwrap().display().to_string()
        };
        let one = file("https://a", None, "aws");
        assert!(one.starts_with("/home/x/.local/state/vault-aws/ec2-nonce-"), "{one}");
        assert_ne!(one, file("https://b", None, "aws"));
        assert_ne!(one, file("https://a", Some("n"), "aws"));
        assert_ne!(one, file("https://a", None, "other"));
        assert!(default_file(&Variables::default(), "a", None, "b").is_err());
    }
}
