//! One server of the lab as a process: started, watched until it answers, stopped, killed, frozen.

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    error::{Doing as _, Error, Result},
    files,
    folder::{self, SeenServer},
    keeper::{self, Program},
    web,
};

/// How often a starting or stopping server is looked at.
const LOOK: Duration = Duration::from_millis(25);

/// One server. Its port and its state on disk stay the same when it is started again.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    port: u16,
    program: Program,
    ready: Ready,
    log: PathBuf,
    /// Where `cargo lab status` finds the pid.
    pid_file: PathBuf,
    child: Mutex<Option<Child>>,
    /// From each start until it answered.
    starts: Mutex<Vec<RangeInclusive<Timestamp>>>,
}

/// When a server counts as started.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) url: String,
    pub(crate) trust: web::Trust,
    /// Any answer will do (a sealed Vault answers 503), or only a good one.
    pub(crate) any_status: bool,
    pub(crate) limit: Duration,
}

impl Server {
    pub(crate) fn new(
        folder: &Path,
        name: &'static str,
        port: u16,
        program: Program,
        ready: Ready,
    ) -> Self {
        Self {
            name,
            port,
            program,
            ready,
            log: folder.join("log").join(format!("{name}.log")),
            pid_file: folder.join("pid").join(name),
            child: Mutex::new(None),
            starts: Mutex::default(),
        }
    }

    /// For example `kube-apiserver`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its output, of all its lives.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running().map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Whether its process runs (a frozen one does).
    pub fn is_alive(&self) -> bool {
        self.running().is_some()
    }

    /// Starts it, unless it runs, and returns once it answers. Vault then is sealed. One that was frozen
    /// goes on.
    pub async fn start(&self) -> Result<()> {
        if self.resume().is_ok() {
            return self.answers().await;
        }
        let begun = Timestamp::now();
        let log = files::open_to_append(&self.log)?;
        let child = keeper::spawn(&self.program, log)
            .doing(|| format!("starting {} ({})", self.name, self.program.path.display()))?;
        let pid = child.id();
        // At once: from here on it is stopped with us.
        *self.child() = Some(child);
        let seen = SeenServer { name: self.name.to_owned(), pid, port: self.port };
        folder::record_server(&self.pid_file, &seen)?;
        self.answers().await?;
        self.starts().push(begun..=Timestamp::now());
        Ok(())
    }

    /// Whether it had been started at that moment and was not ready yet.
    pub fn was_starting(&self, at: Timestamp) -> bool {
        self.starts().iter().any(|start| start.contains(&at))
    }

    /// Waits until it answers, for example after [`Server::resume`].
    pub async fn answers(&self) -> Result<()> {
        let Ready { url, trust, any_status, limit } = &self.ready;
        let http = trust.client(Duration::from_secs(2))?;
        let begun = Instant::now();
        loop {
            let answer = http.get(url).send().await;
            if answer.is_ok_and(|answer| *any_status || answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                let tail = files::tail(&self.log);
                return Err(Error::Died { server: self.name, status, log: self.log.clone(), tail });
            }
            if begun.elapsed() > *limit {
                let (seconds, tail) = (limit.as_secs(), files::tail(&self.log));
                let what = format!("starting {}", self.name);
                return Err(Error::TooSlow { what, seconds, log: self.log.clone(), tail });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks it to end, and kills it if it has not within 5 s.
    pub async fn stop(&self) -> Result<()> {
        self.stop_within(Duration::from_secs(5)).await.map(drop)
    }

    /// Asks it to end, and kills it if it has not by then: whether it ended by itself.
    pub async fn stop_within(&self, patience: Duration) -> Result<bool> {
        if self.signal(Signal::TERM).is_err() {
            return Ok(true);
        }
        // A frozen process does not hear TERM.
        let _ = self.signal(Signal::CONT);
        let begun = Instant::now();
        while self.is_alive() {
            if begun.elapsed() > patience {
                return self.kill9().await.map(|()| false);
            }
            tokio::time::sleep(LOOK).await;
        }
        self.forget();
        Ok(true)
    }

    /// Kills it, as a crash or a lost node would. Nothing is flushed.
    pub async fn kill9(&self) -> Result<()> {
        let _ = self.signal(Signal::KILL);
        while self.is_alive() {
            tokio::time::sleep(LOOK).await;
        }
        self.forget();
        Ok(())
    }

    /// Freezes it: connections are accepted by the kernel and nothing ever answers.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen server go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.running().ok_or(Error::NotRunning(self.name))?;
        kill_process(pid, signal).doing(|| format!("sending a signal to {}", self.name))
    }

    /// The pid is ours as long as the child is not waited for, so a signal cannot hit a stranger.
    fn running(&self) -> Option<Pid> {
        let mut child = self.child();
        let running = child.as_mut()?;
        if !matches!(running.try_wait(), Ok(None)) {
            return None;
        }
        Pid::from_raw(running.id().cast_signed())
    }

    fn ended(&self) -> Result<Option<ExitStatus>> {
        match self.child().as_mut() {
            Some(child) => child.try_wait().doing(|| format!("waiting for {}", self.name)),
            None => Err(Error::NotRunning(self.name)),
        }
    }

    fn forget(&self) {
        *self.child() = None;
        let _ = fs::remove_file(&self.pid_file);
    }

    fn starts(&self) -> MutexGuard<'_, Vec<RangeInclusive<Timestamp>>> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
