//! Starts programs that cannot outlive this process, whatever happens to it.
//!
//! The kernel can send a signal to a child when its parent dies, but a child must ask for it
//! itself. So this program starts *itself* again, asks, and turns into the server by `exec`. The
//! signal fires when the *thread* that forked ends, therefore one thread, which never ends, does
//! all the forking.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
};

use rustix::{
    fs::Mode,
    process::{Signal, getppid, set_parent_process_death_signal, umask},
};

const MARK: &str = "--lab-child";

/// A program to start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(String, OsString)>,
    pub(crate) folder: Option<PathBuf>,
}

/// Turns this process into one of the lab's servers, if it was started for that.
///
/// Every binary that starts a lab calls this first in `main`; otherwise it returns at once.
pub fn child_entry() {
    let mut args = env::args_os().skip(1);
    if args.next().as_deref() != Some(OsStr::new(MARK)) {
        return;
    }
    let error = become_server(args);
    let _ = writeln!(io::stderr(), "lab: {error}");
    #[expect(clippy::exit, reason = "this process has no `main` of its own to return to")]
    std::process::exit(127)
}

/// Returns only if it failed.
fn become_server(mut args: impl Iterator<Item = OsString>) -> io::Error {
    let parent = args.next().and_then(|pid| pid.to_str()?.parse::<i32>().ok());
    let Some(program) = args.next() else {
        return io::Error::other("no program to run");
    };
    // What servers write (keys, raft, audit logs) is for their owner alone.
    umask(Mode::RWXG | Mode::RWXO);
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The owner may have died before the signal was asked for.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != parent {
        return io::Error::other("the lab's owner is gone");
    }
    Command::new(program).args(args).exec()
}

/// Starts the program with its output at the end of `log`. It is killed when this process ends.
pub(crate) fn spawn(program: &Program, log: File) -> io::Result<Child> {
    let stderr = log.try_clone()?;
    // Not the path of this binary: a rebuild may have replaced it meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(MARK)
        .arg(std::process::id().to_string())
        .arg(&program.path)
        .args(&program.args)
        .envs(program.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(stderr);
    if let Some(folder) = &program.folder {
        command.current_dir(folder);
    }
    fork(command)
}

struct Fork {
    command: Command,
    answer: mpsc::Sender<io::Result<Child>>,
}

fn fork(command: Command) -> io::Result<Child> {
    static KEEPER: OnceLock<mpsc::Sender<Fork>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Fork>();
        // If the thread cannot start, the receiver is dropped and `send` below says so.
        let _ = thread::Builder::new().name("lab-keeper".to_owned()).spawn(move || {
            for mut fork in requests {
                let _ = fork.answer.send(fork.command.spawn());
            }
        });
        sender
    });
    let (answer, child) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts the lab's servers is gone");
    keeper.send(Fork { command, answer }).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}
