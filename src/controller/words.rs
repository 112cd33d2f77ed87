//! When a status may be written.
//!
//! Few are written at once, and no namespace has all turns. While resources wait that were created or
//! changed, the statuses that pile up in a namespace are written one by one until those have been seen
//! to: what a workload waits for goes before words about what it has. It is the same work in the end,
//! but where the API server is what all wait for, the last of many certificates comes much earlier.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch::Receiver},
    time::timeout,
};

use crate::lock::lock;

/// Statuses that are written at once.
const AT_ONCE: usize = 8;
/// Those of one namespace.
const OF_ONE: usize = 6;
/// So many statuses of a namespace are no pile.
const FEW: usize = 8;
/// How long a status waits for deeds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Namespaces that are remembered though nobody of them wants to tell anything.
const IDLE: usize = 64;

#[derive(Debug)]
pub(super) struct Words {
    turns: Semaphore,
    /// The one turn of all piles while deeds wait.
    slow: Semaphore,
    /// The turns of each namespace. Whoever wants to tell something holds a share.
    namespaces: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A status may be written as long as this is held.
#[derive(Debug)]
pub(super) struct Turn<'w> {
    _slow: Option<SemaphorePermit<'w>>,
    _own: OwnedSemaphorePermit,
    _any: SemaphorePermit<'w>,
}

impl Default for Words {
    fn default() -> Self {
        let (turns, slow) = (Semaphore::new(AT_ONCE), Semaphore::new(1));
        Self { turns, slow, namespaces: Mutex::default() }
    }
}

impl Words {
    /// Waits for a turn. `rush` tells whether deeds wait that go before words.
    pub(super) async fn turn(
        &self,
        namespace: Option<&str>,
        rush: &Receiver<bool>,
    ) -> Option<Turn<'_>> {
        let own = self.of(namespace.unwrap_or_default());
        // The map's share is none of theirs. Nobody closes a semaphore.
        let slow = if Arc::strong_count(&own) - 1 > FEW {
            let mut rush = rush.clone();
            let turn = async {
                tokio::select! {
                    biased;
                    _ = rush.wait_for(|rush| !rush) => None,
                    slow = self.slow.acquire() => slow.ok(),
                }
            };
            timeout(PATIENCE, turn).await.unwrap_or_default()
        } else {
            None
        };
        let own = own.acquire_owned().await.ok()?;
        let any = self.turns.acquire().await.ok()?;
        Some(Turn { _slow: slow, _own: own, _any: any })
    }

    fn of(&self, namespace: &str) -> Arc<Semaphore> {
        let mut namespaces = lock(&self.namespaces);
        if let Some(known) = namespaces.get(namespace) {
            return Arc::clone(known);
        }
        if namespaces.len() >= IDLE {
            namespaces.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        let new = Arc::new(Semaphore::new(OF_ONE));
        namespaces.insert(namespace.to_owned(), Arc::clone(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{FutureExt as _, StreamExt as _, future::join_all, stream::FuturesUnordered};
    use tokio::{
        sync::watch::Sender,
        time::{Instant, timeout_at},
    };

    use super::*;

    #[tokio::test]
    async fn one_namespace_leaves_turns_to_another() {
        let (words, rush) = (Words::default(), Sender::new(false));
        let seen = rush.subscribe();
        let turn = |namespace| words.turn(Some(namespace), &seen).now_or_never();
        let held: Vec<_> = (0..AT_ONCE).map_while(|_| turn("a")).collect();
        assert_eq!(held.len(), OF_ONE);
        assert!(turn("b").flatten().is_some());
        drop(held);
        assert!(turn("a").flatten().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn while_deeds_wait_a_pile_of_words_is_told_one_by_one() {
        let (words, rush) = (Words::default(), Sender::new(true));
        let seen = rush.subscribe();
        let tell = || async {
            let turn = words.turn(Some("a"), &seen).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            turn.is_some()
        };
        let mut all: FuturesUnordered<_> = (0..100).map(|_| tell()).collect();
        let mut told_by = async |end: Instant| {
            let mut told = 0;
            while timeout_at(end, all.next()).await.is_ok_and(|told| told == Some(true)) {
                told += 1;
            }
            told
        };
        let begun = Instant::now();
        let later = |millis| begun + Duration::from_millis(millis);
        // Those that were no pile yet, six and then two at once, and beside them one each second.
        assert_eq!(told_by(later(2500)).await, FEW + 1);
        assert_eq!(told_by(later(5500)).await, 3);
        assert!(words.turn(Some("b"), &seen).now_or_never().is_some(), "nobody else's");
        rush.send_replace(false);
        assert_eq!(told_by(later(7700)).await, 2 * OF_ONE, "all that the namespace may");
    }

    #[tokio::test(start_paused = true)]
    async fn words_do_not_wait_for_ever() {
        let (words, rush) = (Words::default(), Sender::new(true));
        let seen = rush.subscribe();
        let held = words.slow.acquire().await;
        let begun = Instant::now();
        let all = (0..100).map(|_| async {
            drop(words.turn(Some("a"), &seen).await);
        });
        join_all(all).await;
        assert!(begun.elapsed() >= PATIENCE && begun.elapsed() < 2 * PATIENCE);
        drop(held);
    }

    #[tokio::test]
    async fn namespaces_that_are_silent_are_forgotten() {
        let (words, rush) = (Words::default(), Sender::new(false));
        let seen = rush.subscribe();
        let mut waiting = pin!(words.turn(Some("held"), &seen));
        let held = waiting.as_mut().now_or_never().flatten();
        for number in 0..10 * IDLE {
            drop(words.turn(Some(&number.to_string()), &seen).await);
        }
        let namespaces = lock(&words.namespaces);
        assert!(namespaces.len() <= IDLE && namespaces.contains_key("held"));
        drop(held);
    }
}
