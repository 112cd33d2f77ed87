//! What can go wrong in the lab, each told so that the reader knows what to do next.

use std::{io, path::PathBuf, process::ExitStatus};

/// A failure of the lab. The cause is in `source()`; [`Error::story`] puts all in one text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, a process or a socket refused.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// Tools of this machine that a build needs, each with the way to get it.
    #[error("the lab is built with tools that are missing here:\n  {}", .0.join("\n  "))]
    MissingTools(Vec<String>),
    /// A variable names a folder or a program that is not there.
    #[error("{variable} is set, but {} is not a file", path.display())]
    MissingBinary {
        /// The environment variable.
        variable: &'static str,
        /// What it leads to.
        path: PathBuf,
    },
    /// A command failed.
    #[error("{command} ended with {status}; the end of {}:\n{tail}", log.display())]
    Command {
        /// What was run.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Its whole output.
        log: PathBuf,
        /// The last lines of its output.
        tail: String,
    },
    /// A command or a server took longer than it may.
    #[error("{what} took more than {seconds} s; the end of {}:\n{tail}", log.display())]
    TooSlow {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// Its whole output.
        log: PathBuf,
        /// The last lines of its output.
        tail: String,
    },
    /// A server ended instead of answering.
    #[error("{server} ended with {status} while starting; the end of {}:\n{tail}", log.display())]
    Died {
        /// Which server.
        server: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its whole output.
        log: PathBuf,
        /// The last lines of its output.
        tail: String,
    },
    /// A server is asked something it can only do while it runs.
    #[error("{0} is not running")]
    NotRunning(&'static str),
    /// The name of a lab must be usable as a folder and a word.
    #[error("`{0}` is not a lab's name: 1 to 40 of a-z, 0-9 and -")]
    Name(String),
    /// A lab of that name runs already.
    #[error("lab `{name}` is running, owned by process {pid}")]
    Running {
        /// Its name.
        name: String,
        /// Its owner, 0 if that is not known yet.
        pid: u32,
    },
    /// There is no running lab of that name.
    #[error("lab `{0}` is not running")]
    NoSuchLab(String),
    /// The lab belongs to a test run and ends with it.
    #[error("lab `{name}` belongs to process {pid} and ends with it")]
    NotDetached {
        /// Its name.
        name: String,
        /// Its owner.
        pid: u32,
    },
    /// `lab up` gave up; the story is in the log, which was shown while waiting.
    #[error("lab `{name}` did not start: see {}", log.display())]
    DidNotStart {
        /// Its name.
        name: String,
        /// What its keeper said.
        log: PathBuf,
    },
    /// Ctrl-C while waiting for `lab up`.
    #[error("starting lab `{0}` was interrupted")]
    Interrupted(String),
    /// Too few free ports.
    #[error("no {0} free ports between 20000 and 32000 on 127.0.0.1")]
    Ports(usize),
    /// A key or a certificate could not be made.
    #[error("making the lab's certificates")]
    Pki(#[from] rcgen::Error),
    /// An HTTP request got no answer.
    #[error("{doing}")]
    Http {
        /// What was being asked.
        doing: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// Vault refused something the lab needs.
    #[error("{doing}: Vault answered {status}: {body}")]
    Vault {
        /// What was being done.
        doing: String,
        /// The HTTP status.
        status: u16,
        /// The answer.
        body: String,
    },
    /// The AWS emulator refused.
    #[error("{action}: AWS answered {status} {code}: {message}")]
    Aws {
        /// The API call.
        action: String,
        /// The HTTP status.
        status: u16,
        /// The error code, for example `NoSuchEntity`.
        code: String,
        /// The error text.
        message: String,
    },
    /// A request could not be signed.
    #[error("signing {action}")]
    Signing {
        /// The API call.
        action: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API server refused.
    #[error("{doing}")]
    Kube {
        /// What was being done.
        doing: String,
        /// What the client said.
        source: Box<kube::Error>,
    },
    /// A kubeconfig could not be used.
    #[error("reading {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<kube::config::KubeconfigError>,
    },
    /// Something that should have happened was not seen.
    #[error("expected within {seconds} s: {what}\nseen instead: {instead}")]
    NotSeen {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// What the last look saw.
        instead: String,
    },
    /// A task of the lab was cancelled or panicked.
    #[error("a background task of the lab")]
    Task(#[from] tokio::task::JoinError),
}

/// The result of everything in the lab.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The error and all its causes, outermost first, joined by `: `.
    pub fn story(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        text
    }
}

/// Says what was being done when the system refused.
pub(crate) trait Doing<T> {
    /// Wraps the error; the text is made only if there is one.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { doing: what(), source })
    }
}

impl<T> Doing<T> for reqwest::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Http { doing: what(), source })
    }
}

impl<T> Doing<T> for kube::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Kube { doing: what(), source: Box::new(source) })
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::Io { doing: what(), source: errno.into() })
    }
}
