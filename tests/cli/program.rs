//! One run of the binary, in a home of its own and with no environment but what a test gives.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_vault-aws");

/// The most address space of a run: threads and libraries of a small one need a third of it.
const MEMORY_KIB: u64 = 1 << 20;
/// The most seconds of a processor: what text can make of itself is seen by these, however busy the
/// machine is.
const CPU_SECONDS: u64 = 60;
/// No run may take longer.
const LIMIT: Duration = Duration::from_secs(300);

/// A home directory, removed at the end of its test.
pub(crate) struct Home(PathBuf);

impl Home {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("vault-aws-cli-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a home");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The binary, with this home and nothing else in its environment.
    pub(crate) fn program(&self, binary: impl AsRef<Path>) -> Program {
        self.command(Command::new(binary.as_ref()))
    }

    /// The same for a run that needs no more memory and time than that.
    pub(crate) fn confined(&self) -> Program {
        let mut command = Command::new("/bin/sh");
        let script = format!("ulimit -v {MEMORY_KIB}; ulimit -t {CPU_SECONDS}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, BINARY]);
        self.command(command)
    }

    fn command(&self, mut command: Command) -> Program {
        command.env_clear().env("HOME", &self.0).env("PATH", "/usr/bin:/bin").current_dir(&self.0);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Program(command)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A run to be.
pub(crate) struct Program(Command);

impl Program {
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.0.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.0.stdin(stdin);
        self
    }

    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.0.stdout(stdout);
        self
    }

    pub(crate) fn run(mut self) -> Ran {
        let child = self.0.stderr(Stdio::piped()).spawn().expect("the program starts");
        let pid = Pid::from_child(&child);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait_with_output()));
        let Ok(ended) = receiver.recv_timeout(LIMIT) else {
            let _ = kill_process(pid, Signal::KILL);
            panic!("not done within {} s: {:?}", LIMIT.as_secs(), self.0);
        };
        let Output { status, stdout, stderr } = ended.expect("the program ends");
        let stderr = String::from_utf8(stderr).expect("UTF-8 on stderr");
        let Some(code) = status.code() else { panic!("{status}: {stderr}") };
        Ran { code, stdout: String::from_utf8(stdout).expect("UTF-8 on stdout"), stderr }
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// It printed this and nothing else, and succeeded.
    #[track_caller]
    pub(crate) fn printed(&self, expected: &str) {
        assert_eq!((self.code, &*self.stdout, &*self.stderr), (0, expected, ""));
    }

    /// It failed with this code, printed nothing for programs and one line for people.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32) -> &str {
        assert_eq!((self.code, &*self.stdout), (code, ""), "{}", self.stderr);
        let line = self.stderr.strip_suffix('\n').expect("a line");
        assert!(line.starts_with("error: ") && !line.contains('\n'), "{line}");
        line
    }
}
