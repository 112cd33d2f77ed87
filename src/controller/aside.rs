//! A pass that waits for one slow somebody does not keep others from starting.
//!
//! Passes of a kind are few at once, which bounds memory and load. Without this, as many resources of
//! one tenant as there are places, each waiting for an identity that takes its time, would be the
//! whole operator standing still.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use futures::poll;
use tokio::sync::Notify;

tokio::task_local! {
    static PASSES: Aside;
}

/// Waits with the place of this pass given to another. Outside of a pass it only waits.
///
/// For waits that hold little memory and belong to one resource or tenant; at most some hundred count.
pub async fn aside<F: Future>(wait: F) -> F::Output {
    wait_among(|passes| &passes.waiting, wait).await
}

/// The same for a pass that only has to tell what it did.
pub(super) async fn aside_to_tell<F: Future>(wait: F) -> F::Output {
    wait_among(|passes| &passes.telling, wait).await
}

async fn wait_among<F: Future>(count: Count, wait: F) -> F::Output {
    let mut wait = pin!(wait);
    if let Poll::Ready(done) = poll!(wait.as_mut()) {
        return done;
    }
    let _place = PASSES.try_with(|passes| passes.step(count)).ok();
    wait.await
}

/// The passes of one controller that wait aside.
#[derive(Clone, Debug, Default)]
pub(super) struct Aside(Arc<Passes>);

#[derive(Debug, Default)]
struct Passes {
    waiting: AtomicUsize,
    telling: AtomicUsize,
    more: Notify,
}

impl Aside {
    /// Runs a pass that may step aside.
    pub(super) async fn allow<F: Future>(self, pass: F) -> F::Output {
        PASSES.scope(self, pass).await
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// How many wait to tell what they did.
    pub(super) fn telling(&self) -> usize {
        self.0.telling.load(Ordering::Relaxed)
    }

    /// Until one more waits.
    pub(super) async fn more(&self) {
        self.0.more.notified().await;
    }

    fn step(&self, count: Count) -> Place {
        count(&self.0).fetch_add(1, Ordering::Relaxed);
        self.0.more.notify_one();
        Place(self.clone(), count)
    }
}

/// What a pass counts among.
type Count = fn(&Passes) -> &AtomicUsize;

struct Place(Aside, Count);

impl Drop for Place {
    fn drop(&mut self) {
        (self.1)(&self.0.0).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_pass_counts_as_waiting_for_as_long_as_it_waits() {
        let passes = Aside::default();
        let (done, wait) = oneshot::channel::<()>();
        let pass = tokio::spawn(passes.clone().allow(async { aside(wait).await.is_ok() }));
        passes.more().await;
        assert_eq!(passes.waiting(), 1);
        done.send(()).unwrap();
        assert!(pass.await.unwrap());
        assert_eq!(passes.waiting(), 0);
    }

    #[tokio::test]
    async fn one_that_has_only_to_tell_something_counts_apart() {
        let passes = Aside::default();
        let (done, wait) = oneshot::channel::<()>();
        let pass = tokio::spawn(passes.clone().allow(async { aside_to_tell(wait).await.is_ok() }));
        passes.more().await;
        assert_eq!((passes.waiting(), passes.telling()), (0, 1));
        done.send(()).unwrap();
        assert!(pass.await.unwrap());
        assert_eq!(passes.telling(), 0);
    }

    #[tokio::test]
    async fn what_is_ready_is_no_wait_and_one_that_is_broken_off_ends() {
        let passes = Aside::default();
        passes.clone().allow(aside(std::future::ready(()))).await;
        assert_eq!(passes.waiting(), 0);
        let pass = tokio::spawn(passes.clone().allow(aside(std::future::pending::<()>())));
        passes.more().await;
        pass.abort();
        assert!(pass.await.is_err());
        assert_eq!(passes.waiting(), 0);
        aside(tokio::task::yield_now()).await;
    }
}
