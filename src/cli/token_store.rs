//! Where people keep their Vault token: `~/.vault-token`, or the token helper that `~/.vault` names,
//! as the `vault` command reads and writes them.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use zeroize::{Zeroize as _, Zeroizing};

use super::vault_environment::{self, GUARD, Variables, check_token};
use crate::{files, redacted::Redacted, vault::error::clean};

/// More than any token; a file that is larger is none.
const LARGEST: u64 = 64 << 10;
/// How often is looked whether a helper has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Why the token could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable that is not text.
    #[error(transparent)]
    Environment(#[from] vault_environment::Error),
    /// Nobody says where the home directory is.
    #[error("HOME is not set, so that there is no place for a token")]
    NoHome,
    /// A file.
    #[error("{doing} {}", path.display())]
    File {
        /// Reading, writing.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `~/.vault` cannot be understood.
    #[error("{} cannot be understood: {what}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The helper did not start, or broke.
    #[error("running the token helper {}", path.display())]
    Helper {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The helper failed.
    #[error("the token helper {} failed: {said}", path.display())]
    HelperFailed {
        /// The program.
        path: PathBuf,
        /// How it ended, and what it said on stderr, on one line.
        said: String,
    },
    /// The helper did not end in time.
    #[error("the token helper {} did not answer in time", path.display())]
    HelperTimeout {
        /// The program.
        path: PathBuf,
    },
}

/// The place of the token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenStore {
    /// A file, usually `~/.vault-token`.
    File(PathBuf),
    /// A program that is run with `get`, `store` or `erase`.
    Helper(PathBuf),
}

impl TokenStore {
    /// The helper that `VAULT_CONFIG_PATH` or `~/.vault` names, else `~/.vault-token`. `None` without
    /// a home directory.
    pub fn find(variables: &Variables) -> Result<Option<Self>, Error> {
        let configuration = match variables.path("VAULT_CONFIG_PATH") {
            Some(path) => match (path.strip_prefix("~"), variables.home()) {
                (Ok(rest), Some(home)) => Some(home.join(rest)),
                _ => Some(path.to_owned()),
            },
            None => variables.home().map(|home| home.join(".vault")),
        };
        if let Some(path) = configuration
            && let Some(text) = read(&path, files::PATIENCE)?
        {
            let helper = token_helper(&text)
                .map_err(|what| Error::Configuration { path: path.clone(), what })?;
            if let Some(helper) = helper {
                let helper = std::path::absolute(&helper)
                    .map_err(|source| Error::Helper { path: helper.clone(), source })?;
                return Ok(Some(Self::Helper(helper)));
            }
        }
        Ok(variables.home().map(|home| Self::File(home.join(".vault-token"))))
    }

    /// The token, if one is kept. A helper is stopped at the deadline, and a pipe no longer waited for.
    pub fn get(&self, deadline: Instant) -> Result<Option<Redacted<String>>, Error> {
        let (setting, text) = match self {
            Self::File(path) => {
                match read(path, deadline.saturating_duration_since(Instant::now()))? {
                    None => return Ok(None),
                    Some(text) => (path.display().to_string(), text),
                }
            }
            Self::Helper(path) => {
                (format!("the token of {}", path.display()), run(path, "get", None, deadline)?)
            }
        };
        let token = text.trim();
        if token.is_empty() {
            return Ok(None);
        }
        check_token(&setting, token)?;
        Ok(Some(Redacted::new(token.to_owned())))
    }

    /// Keeps a token in place of the one that is there: the file is replaced at once and readable to
    /// its owner only.
    pub fn store(&self, token: &Redacted<String>, deadline: Instant) -> Result<(), Error> {
        match self {
            Self::Helper(path) => {
                run(path, "store", Some(token.expose()), deadline)?;
                Ok(())
            }
            Self::File(path) => {
                let temporary = path.with_file_name(".vault-token.tmp");
                let write = || {
                    match fs::remove_file(&temporary) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                    let mut file = OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(0o600)
                        .open(&temporary)?;
                    file.write_all(token.expose().as_bytes())?;
                    file.sync_all()?;
                    fs::rename(&temporary, path)
                };
                write().map_err(|source| Error::File {
                    doing: "writing",
                    path: path.clone(),
                    source,
                })
            }
        }
    }

    /// Forgets the token; nothing happens if there is none.
    pub fn erase(&self, deadline: Instant) -> Result<(), Error> {
        match self {
            Self::Helper(path) => run(path, "erase", None, deadline).map(drop),
            Self::File(path) => match fs::remove_file(path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(Error::File { doing: "removing", path: path.clone(), source })
                }
                _ => Ok(()),
            },
        }
    }
}

/// A small file's text; `None` if there is no such file.
fn read(path: &Path, patience: Duration) -> Result<Option<Zeroizing<String>>, Error> {
    match files::text(path, LARGEST, patience) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(source) => Err(Error::File { doing: "reading", path: path.to_owned(), source }),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Runs a helper as `vault` does: the operation is its last argument, a token goes over stdin or
/// stdout, a code other than 0 is a failure that stderr explains.
fn run(
    path: &Path,
    operation: &str,
    input: Option<&str>,
    deadline: Instant,
) -> Result<Zeroizing<String>, Error> {
    let broken = |source| Error::Helper { path: path.to_owned(), source };
    let mut child = Command::new(path)
        .arg(operation)
        .env(GUARD, "token-helper")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(broken)?;
    // Pipes are served by threads, so that no amount of output can hang either side.
    let output = child.stdout.take().map(drain);
    let errors = child.stderr.take().map(drain);
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // A helper that does not read its input says why by its code.
        let _ = pipe.write_all(input.as_bytes());
    }
    let status = match wait(&mut child, deadline).map_err(broken)? {
        Some(status) => status,
        None => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::HelperTimeout { path: path.to_owned() });
        }
    };
    // What the helper left running may hold its pipes open.
    let take = |pipe: Option<mpsc::Receiver<Zeroizing<String>>>| {
        let left = deadline.saturating_duration_since(Instant::now()).max(LOOK);
        pipe.and_then(|pipe| pipe.recv_timeout(left).ok()).unwrap_or_default()
    };
    let output = take(output);
    if status.success() {
        return Ok(output);
    }
    let errors = take(errors);
    let said = clean(errors.trim());
    let said = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    Err(Error::HelperFailed { path: path.to_owned(), said })
}

fn drain(pipe: impl io::Read + Send + 'static) -> mpsc::Receiver<Zeroizing<String>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::with_capacity(4 << 10);
        let _ = pipe.take(LARGEST).read_to_end(&mut bytes);
        let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
        bytes.zeroize();
        // Nobody may be waiting any more.
        let _ = sender.send(text);
    });
    receiver
}

fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<std::process::ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

/// The `token_helper` of `~/.vault`, which is HCL (`token_helper = "/path"`) or JSON.
fn token_helper(text: &str) -> Result<Option<PathBuf>, &'static str> {
    let text = text.trim();
    let value = if text.starts_with('{') {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|_| "it is neither HCL nor JSON")?;
        match value.get("token_helper") {
            None => None,
            Some(serde_json::Value::String(path)) => Some(path.clone()),
            Some(_) => return Err("token_helper is not a text"),
        }
    } else {
        hcl_value(text, "token_helper")?
    };
    Ok(value.filter(|path| !path.is_empty()).map(PathBuf::from))
}

/// The text that a top-level `key = "…"` gives. The only thing ever written in such a file.
fn hcl_value(text: &str, key: &str) -> Result<Option<String>, &'static str> {
    let mut found = None;
    let mut inside_comment = false;
    for line in text.lines() {
        let mut line = line.trim();
        if inside_comment {
            match line.split_once("*/") {
                Some((_, rest)) => {
                    inside_comment = false;
                    line = rest.trim();
                }
                None => continue,
            }
        }
        if let Some(rest) = line.strip_prefix("/*") {
            inside_comment = !rest.contains("*/");
            continue;
        }
        if line.is_empty() || line.starts_with('#') || line.starts_with("//") {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err("a line is not of the form token_helper = \"/path\"");
        };
        if name.trim().trim_matches('"') != key {
            continue;
        }
        let value = value.trim();
        // The text is a JSON string as far as paths go; a comment may follow it.
        let mut values = serde_json::Deserializer::from_str(value).into_iter::<String>();
        match values.next() {
            Some(Ok(path)) => found = Some(path),
            _ => return Err("token_helper is not a text in quotes"),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder of this test's own, removed at its end.
    struct Home(PathBuf);

    impl Home {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("vault-aws-token-store-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn variables(&self) -> Variables {
            [("HOME", self.0.clone())].into_iter().collect()
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            path
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn the_file_of_vault_holds_the_token() {
        let home = Home::new("file");
        let store = TokenStore::find(&home.variables()).unwrap().unwrap();
        assert_eq!(store.get(soon()).unwrap(), None);
        home.write(".vault-token", " hvs.one\n");
        assert_eq!(store.get(soon()).unwrap().unwrap().expose(), "hvs.one");
        store.store(&Redacted::new("hvs.two".to_owned()), soon()).unwrap();
        assert_eq!(store.get(soon()).unwrap().unwrap().expose(), "hvs.two");
        let mode = fs::metadata(home.0.join(".vault-token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        store.erase(soon()).unwrap();
        store.erase(soon()).unwrap();
        assert_eq!(store.get(soon()).unwrap(), None);
    }

    #[test]
    fn a_helper_takes_the_place_of_the_file() {
        let home = Home::new("helper");
        let kept = home.0.join("kept");
        let script = format!(
            "#!/bin/sh\ncase $1 in get) cat {k} 2>/dev/null || true;; store) cat > {k};; erase) rm -f {k};; esac\n",
            k = kept.display()
        );
        let helper = home.write("helper with a blank", &script);
        home.write(
            ".vault",
            &format!("# ours\ntoken_helper = {:?}\n", helper.display().to_string()),
        );
        home.write(".vault-token", "hvs.of-the-file");
        let store = TokenStore::find(&home.variables()).unwrap().unwrap();
        assert_eq!(store, TokenStore::Helper(helper));
        assert_eq!(store.get(soon()).unwrap(), None);
        store.store(&Redacted::new("hvs.kept".to_owned()), soon()).unwrap();
        assert_eq!(store.get(soon()).unwrap().unwrap().expose(), "hvs.kept");
        store.erase(soon()).unwrap();
        assert!(!kept.exists());
    }

    #[test]
    fn a_helper_that_fails_says_why_on_one_line() {
        let home = Home::new("failing");
        let path = home.write("helper", "#!/bin/sh\necho 'keyring\nlocked' >&2\nexit 3\n");
        let error = TokenStore::Helper(path).get(soon()).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("keyring locked") && said.contains('3'), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }

    #[test]
    fn a_helper_that_hangs_is_stopped() {
        let home = Home::new("hanging");
        let path = home.write("helper", "#!/bin/sh\nexec sleep 60\n");
        let start = Instant::now();
        let error = TokenStore::Helper(path).get(start + Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, Error::HelperTimeout { .. }), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_configuration_is_hcl_or_json() {
        let path =
            |text| token_helper(text).map(|path| path.map(|path| path.display().to_string()));
        assert_eq!(path(""), Ok(None));
        assert_eq!(path("token_helper = \"/h\" # mine\n"), Ok(Some("/h".to_owned())));
        assert_eq!(path("/* a\n b */\n// c\n\"token_helper\"=\"/h\""), Ok(Some("/h".to_owned())));
        assert_eq!(path(r#"{"token_helper": "/h"}"#), Ok(Some("/h".to_owned())));
        assert_eq!(path("other = \"x\"\n"), Ok(None));
        assert!(path("token_helper = /h").is_err());
        assert!(path("token_helper").is_err());
        assert!(path("{").is_err());
    }

    #[test]
    fn without_a_home_there_is_no_place() {
        assert_eq!(TokenStore::find(&Variables::default()).unwrap(), None);
    }
}
