//! How a test becomes a trial of the harness: its world, its time limit, and what is told when it
//! fails.

use std::{
    cell::RefCell,
    io::{self, Write as _},
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    thread,
    time::Duration,
};

use futures::future::LocalBoxFuture;
use libtest_mimic::{Failed, Trial};

use crate::{
    hostile_sts, kills, limits,
    stage::{RUNTIME_THREAD, Stage, Stages},
    storms,
    world::World,
};

/// No other test may take longer. A wait within one has a limit of its own and says more.
const LIMIT: Duration = Duration::from_secs(150);

/// A test by name; see the macro `tests!`.
#[derive(Clone)]
pub(crate) struct Test {
    /// With its module's path.
    pub(crate) name: &'static str,
    /// What it does in its world.
    pub(crate) run: fn(World) -> LocalBoxFuture<'static, ()>,
}

/// On which lab a test runs.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// The one where tests leave the servers alone.
    Shared,
    /// The one where each test may do to them what it likes, if it leaves them running.
    Outage,
}

/// The trials of these tests.
pub(crate) fn trials(tests: Vec<Test>, stages: &Arc<Stages>, place: Place) -> Vec<Trial> {
    let trial = |Test { name, run }| {
        let stages = Arc::clone(stages);
        let name = name.trim_start_matches("world::");
        Trial::test(name, move || {
            let stage = match place {
                Place::Shared => stages.shared()?,
                Place::Outage => stages.outage()?,
            };
            let verdict = attempt(name, run, &stage);
            if matches!(place, Place::Outage) {
                let mended = stage.runtime().block_on(stage.mend());
                verdict.and(mended.map_err(|error| Failed::from(error.story())))
            } else {
                verdict
            }
        })
    };
    tests.into_iter().map(trial).collect()
}

/// Some go on for as long as they are told.
fn limit(name: &str) -> Duration {
    if name.starts_with("kills::") {
        kills::limit()
    } else if name.starts_with("storms::") {
        storms::limit()
    } else if name.starts_with("limits::") {
        limits::limit()
    } else if name.starts_with("hostile_sts::") {
        hostile_sts::LIMIT
    } else {
        LIMIT
    }
}

fn attempt(
    name: &str,
    run: fn(World) -> LocalBoxFuture<'static, ()>,
    stage: &Arc<Stage>,
) -> Result<(), Failed> {
    let runtime = stage.runtime();
    let world = catch(|| runtime.block_on(World::new(Arc::clone(stage), name)))?;
    let verdict = catch(|| {
        let test = run(world.clone());
        runtime
            .block_on(async { tokio::time::timeout(limit(name), test).await })
            .unwrap_or_else(|_| panic!("not done within {} s", limit(name).as_secs()))
    });
    verdict.map_err(|mut told| {
        told.push_str("\n\n");
        told.push_str(&runtime.block_on(world.story()));
        Failed::from(told)
    })
}

thread_local! {
    /// What the last panic on this thread said, and where.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps panics of trials for [`catch`], which runs them on the thread where they panic; all others
/// are told at once.
pub(crate) fn remember_panics() {
    panic::set_hook(Box::new(|info| {
        if thread::current().name() == Some(RUNTIME_THREAD) {
            let _ = writeln!(io::stderr(), "{info}");
        }
        PANIC.with(|panic| *panic.borrow_mut() = Some(info.to_string()));
    }));
}

/// Runs it; a panic is an error that says where.
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|_| {
        PANIC.with(|panic| panic.borrow_mut().take()).unwrap_or_else(|| "it panicked".to_owned())
    })
}
