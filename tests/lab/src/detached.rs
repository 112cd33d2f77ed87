//! Labs that outlive the command that starts them: `up`, the hidden `keep`, and `down`.
//!
//! `up` starts this binary again as `keep`, in a session of its own. The keeper owns the servers
//! and the STS front, until it is told to end; if it is killed, the servers die with it. A demo that
//! is kept has a keeper in the same way, which also owns the operator's processes.

use std::{
    convert::Infallible,
    ffi::OsStr,
    fs,
    future::Future,
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, setsid};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    error::{Doing as _, Error, Result},
    files,
    folder::{self, Seen},
    lab::{Lab, Options, dead},
    toolchain::Toolchain,
};

const LOOK: Duration = Duration::from_millis(50);

/// Makes sure that a lab of that name runs. Returns once it is ready.
pub async fn up(name: &str) -> Result<Seen> {
    folder::check(name)?;
    if let Some(lab) = folder::find(name)?.filter(|lab| lab.env.is_some()) {
        files::say(&format!("lab `{name}` is up already"));
        return Ok(lab);
    }
    // Here, not in the keeper: whoever waits shall see what for, and be able to interrupt it.
    tokio::task::spawn_blocking(Toolchain::ensure).await??;
    let log = folder::keeper_log(name)?;
    // Somebody else may be starting the same lab just now: then this waits with him.
    let keeper = match folder::find(name)?.and_then(|lab| lab.owner) {
        Some(_) => None,
        None => Some(start_keeper(&["keep", "--name", name], &log)?),
    };
    follow(name, keeper, &log, io::stderr(), |lab| lab.env.is_some()).await
}

/// Shows what the keeper says, until the lab is as wanted. If this process is told to end before,
/// the keeper ends as well.
pub(crate) async fn follow(
    name: &str,
    mut keeper: Option<Child>,
    log: &Path,
    mut out: impl Write,
    is_done: impl Fn(&Seen) -> bool,
) -> Result<Seen> {
    let mut shown = 0;
    let interrupted = asked_to_end()?;
    tokio::pin!(interrupted);
    loop {
        shown = copy(log, shown, &mut out);
        let ended = match &mut keeper {
            Some(keeper) => keeper.try_wait().doing(|| "waiting for the keeper".to_owned())?,
            None => None,
        };
        let lab = folder::find(name)?;
        let owned = lab.as_ref().is_some_and(|lab| lab.owner.is_some());
        if let Some(lab) = lab.filter(&is_done) {
            copy(log, shown, &mut out);
            return Ok(lab);
        }
        if !owned && (keeper.is_none() || ended.is_some()) {
            copy(log, shown, &mut out);
            return Err(Error::DidNotStart { name: name.to_owned(), log: log.to_owned() });
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = &mut interrupted => {
                if let Some(mut keeper) = keeper {
                    // The servers die with it.
                    let _ = keeper.kill();
                    let _ = keeper.wait();
                    folder::clear(name)?;
                }
                return Err(Error::Interrupted(name.to_owned()));
            }
        }
    }
}

/// Starts this binary again with these arguments and its output in `log`.
pub(crate) fn start_keeper(args: &[impl AsRef<OsStr>], log: &Path) -> Result<Child> {
    let stderr = files::open_to_append(log)?;
    let attempt = || {
        // What an older keeper said.
        stderr.set_len(0)?;
        // Not the path of this binary: a rebuild may have replaced it meanwhile.
        Command::new("/proc/self/exe")
            .args(args)
            .stdin(Stdio::null())
            .stdout(stderr.try_clone()?)
            .stderr(stderr)
            .spawn()
    };
    attempt().doing(|| "starting the keeper".to_owned())
}

/// Owns a lab until SIGTERM or SIGINT.
pub async fn keep(name: &str) -> Result<()> {
    leave_the_session();
    let end = asked_to_end()?;
    tokio::pin!(end);
    let options =
        Options { name: name.to_owned(), progress: true, detached: true, ..Options::default() };
    let lab = tokio::select! {
        lab = Lab::start(options) => lab?,
        () = &mut end => return Ok(()),
    };
    tokio::select! {
        never = tell_deaths(&lab) => match never {},
        () = &mut end => {}
    }
    lab.stop().await
}

/// What a keeper does first: it outlives the terminal it was started from.
pub(crate) fn leave_the_session() {
    // It fails only if we have a session of our own already.
    let _ = setsid();
}

/// Says on stderr which servers ended by themselves.
pub(crate) async fn tell_deaths(lab: &Lab) -> Infallible {
    let mut told = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let dead = dead(lab);
        if dead.len() > told {
            dead.iter().for_each(|error| files::say(&error.to_string()));
        }
        told = dead.len();
    }
}

/// Ends a lab that `up` started and removes all it had. That it is gone already is fine.
pub async fn down(name: &str) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let Some(owner) = folder::find(name)?.and_then(|lab| lab.owner) else {
        files::say(&format!("lab `{name}` is not up"));
        return folder::clear(name);
    };
    if !owner.detached {
        return Err(Error::NotDetached { name: name.to_owned(), pid: owner.pid });
    }
    let begun = Instant::now();
    tell(owner.pid, Signal::TERM)?;
    while folder::find(name)?.is_some_and(|lab| lab.owner.is_some()) {
        if begun.elapsed() > PATIENCE {
            files::say(&format!("lab `{name}` did not end within {} s: KILL", PATIENCE.as_secs()));
            tell(owner.pid, Signal::KILL)?;
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(LOOK).await;
    }
    folder::clear(name)?;
    files::say(&format!("lab `{name}` ended in {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

fn tell(pid: u32, signal: Signal) -> Result<()> {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else {
        return Ok(());
    };
    match kill_process(pid, signal) {
        // It has just ended.
        Err(rustix::io::Errno::SRCH) => Ok(()),
        result => result.doing(|| "telling the keeper to end".to_owned()),
    }
}

/// Ends when SIGTERM or SIGINT comes; they are caught from the call on.
pub(crate) fn asked_to_end() -> Result<impl Future<Output = ()>> {
    let catch = |kind| signal(kind).doing(|| "listening for signals".to_owned());
    let (mut term, mut int) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// Shows what the log has beyond `from`; returns how far it was shown.
fn copy(log: &Path, from: u64, out: &mut impl Write) -> u64 {
    let mut attempt = || {
        let mut file = fs::File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        let mut news = Vec::new();
        let length = file.read_to_end(&mut news)? as u64;
        out.write_all(&news)?;
        out.flush()?;
        io::Result::Ok(from + length)
    };
    attempt().unwrap_or(from)
}
