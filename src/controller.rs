//! The shell around each kind: watch, finalizer, one pass, report, requeue. Knows no kind.
//!
//! ```text
//! watch ──▶ queue ──▶ pass: finalizer, apply or cleanup ──▶ report: status, events, metrics
//!   ▲          ▲                                              │
//!   │      triggers (what a resource depends on changed)      ▼
//!   └── API server                                   schedule: when to look again
//! ```
//!
//! kube's `Controller` is not used: it does not tell of deletions, has one queue without priorities
//! and an entry of its own for each predicate. What is left without it is [`run`], one task that
//! owns a queue and starts passes.

use std::{collections::HashMap, num::NonZeroUsize, pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use kube::{
    Resource,
    core::{ObjectMeta, object::HasStatus},
    runtime::reflector::ObjectRef,
};
use tokio::{
    sync::watch::Sender,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

mod aside;
pub mod condition;
mod look;
pub mod pass;
mod queue;
pub mod report;
pub mod schedule;
pub mod watch;
mod words;

pub use self::aside::aside;
use self::{
    aside::Aside,
    condition::READY,
    look::{Ended, Pass, has_finalizer},
    pass::{Next, Reconcile, Status},
    queue::{Queue, Urgency},
    report::Reporter,
    watch::{Event, Stamp, Store, Watched},
};
use crate::{clock, fault::Retry, leader::Leadership, telemetry::Pulse};

/// How long running passes have to end after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(20);
/// Passes that wait aside count as waiting up to this many times the concurrency.
const ASIDE: usize = 8;
/// The same of passes that only have to tell what they did. One takes some 8 KiB.
const TELLING: usize = 32;
/// The part of the concurrency that one namespace leaves to others. Its passes may be long, where it
/// shares a low limit of requests with itself.
const LEFT_TO_OTHERS: usize = 4;
/// So many memories may be held room for though there are none.
const ROOM: usize = 64;
/// How long the loop may rest before it gives a sign of life.
const BEAT: Duration = Duration::from_secs(5);

/// What every controller is given.
#[derive(Clone)]
pub struct Shell {
    /// Where reports go, and the client that writes them.
    pub reporter: Reporter,
    /// Passes of one kind that run at once; those that wait [`aside`] not counted.
    pub concurrency: NonZeroUsize,
    /// How long one pass may take.
    pub deadline: Duration,
    /// Ends the controllers.
    pub shutdown: CancellationToken,
    /// Passes start only while this replica leads.
    pub leadership: Leadership,
    /// The sign of life of this controller's loop.
    pub pulse: Pulse,
}

impl Shell {
    /// Waits until this replica leads, giving signs of life meanwhile; whether it does: `false` if it
    /// is to stop before.
    pub async fn leads(&self) -> bool {
        loop {
            self.pulse.beat();
            tokio::select! {
                () = self.shutdown.cancelled() => return false,
                won = timeout(BEAT, self.leadership.won()) => if won.is_ok() { return true },
            }
        }
    }
}

/// Looks at every resource of a kind, again and again, until `shell.shutdown`: when it was created,
/// when its generation, its annotations or its deletion changed, when `triggers` names it, and when
/// its last pass asked for it. One resource is never looked at twice at once.
pub async fn run<R: Reconcile>(
    reconciler: Arc<R>,
    resources: &Watched<R::Resource>,
    triggers: impl Stream<Item = ObjectRef<R::Resource>> + Send,
    shell: Shell,
) {
    let mut triggers = pin!(triggers.fuse());
    let mut listing = pin!(resources.ready());
    loop {
        shell.pulse.beat();
        tokio::select! {
            () = shell.shutdown.cancelled() => return,
            listed = timeout(BEAT, &mut listing) => if listed.is_ok() { break },
        }
    }
    // First subscribe, then read: a change in between is told and not lost.
    let mut changes = resources.subscribe();
    let mut desk = Desk {
        kind: R::Resource::kind(&()).into_owned(),
        store: resources.store(),
        queue: Queue::new(|object| object.namespace.as_deref().map_or(0, schedule::seed)),
        known: HashMap::new(),
        passes: JoinSet::new(),
        aside: Aside::default(),
        leads: true,
        rush: Sender::new(false),
        reconciler,
        shell,
    };
    let aside = desk.aside.clone();
    desk.open();
    while !desk.shell.shutdown.is_cancelled() {
        desk.shell.pulse.beat();
        desk.start_due();
        let wake = desk.wake_at();
        tokio::select! {
            () = desk.shell.shutdown.cancelled() => {}
            batch = changes.next() => batch.into_iter().for_each(|event| desk.changed(&event)),
            Some(object) = triggers.next() => desk.woken(&object),
            Some(ended) = desk.passes.join_next(), if !desk.passes.is_empty() => {
                if let Ok(ended) = ended {
                    desk.ended(ended);
                }
            }
            () = aside.more() => {}
            // The API server could not be reached for a while, and nobody took the lease.
            () = desk.shell.leadership.won(), if !desk.leads => {}
            () = sleep_until(wake) => {}
        }
    }
    desk.close().await;
}

/// One controller's state. Only its own task touches it.
struct Desk<R: Reconcile> {
    kind: String,
    store: Store<R::Resource>,
    queue: Queue<Arc<ObjectRef<R::Resource>>>,
    /// Of those only of whom there is something to remember.
    known: HashMap<Arc<ObjectRef<R::Resource>>, Memory<R::Resource>>,
    passes: JoinSet<Ended<R::Resource>>,
    aside: Aside,
    /// Whether this replica led when it was last asked.
    leads: bool,
    /// Whether deeds wait that go before words.
    rush: Sender<bool>,
    reconciler: Arc<R>,
    shell: Shell,
}

/// What is remembered of a resource from pass to pass.
struct Memory<K> {
    generation: Option<i64>,
    /// Failures in a row, each at a time of its own.
    attempts: u32,
    /// When the next look is due because the last one failed.
    retry_at: Option<Instant>,
    /// The resource as the last pass left it, as long as the watch has not caught up: a pass that
    /// starts from an older status would write, or do, something twice.
    written: Option<Arc<K>>,
}

impl<K> Memory<K> {
    fn is_blank(&self) -> bool {
        self.attempts == 0 && self.written.is_none()
    }

    /// A look begins.
    fn begins(&mut self, generation: Option<i64>, now: Instant) {
        // What something else asks for before the retry is due takes its place, and is none more.
        if self.retry_at.take().is_some_and(|due| now < due) {
            self.attempts = self.attempts.saturating_sub(1);
        }
        if self.generation != generation {
            self.generation = generation;
            self.attempts = 0;
        }
    }

    /// A look has ended; the next one is due then.
    fn ends(&mut self, next: Next, due: Instant) {
        (self.attempts, self.retry_at) = match next {
            Next::Retry(_) => (self.attempts.saturating_add(1), Some(due)),
            Next::Tick(_) | Next::In(_) | Next::WhenChanged => (0, None),
        };
    }
}

impl<K> Default for Memory<K> {
    fn default() -> Self {
        Self { generation: None, attempts: 0, retry_at: None, written: None }
    }
}

impl<R: Reconcile> Desk<R> {
    /// Queues what is there at the start.
    fn open(&mut self) {
        let (now, clock) = (clock::now(), Instant::now());
        for object in self.store.keys() {
            let Some(resource) = self.store.fetch(&object) else { continue };
            match at_rest(&*self.reconciler, &resource) {
                Some(interval) => {
                    let uid = resource.meta().uid.as_deref().unwrap_or_default();
                    let conditions = resource.status().map(Status::conditions).unwrap_or_default();
                    self.shell.reporter.metrics().reported(&self.kind, uid, conditions);
                    let tick = schedule::until_tick(interval, uid, now);
                    self.queue.add(&object, Urgency::Routine, clock + tick);
                }
                None => self.queue.add(&object, Urgency::Changed, clock),
            }
        }
    }

    fn changed(&mut self, event: &Event<R::Resource>) {
        let Event { object, old, new } = event;
        let replaced = match (old, new) {
            (Some(old), Some(new)) => old.meta().uid != new.meta().uid,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if let Some(old) = old.as_ref().filter(|_| replaced) {
            self.forget(object, old);
        }
        let Some(new) = new else { return };
        if let Some(memory) = self.known.get_mut(object)
            && memory.written.as_ref().is_some_and(|written| !is_older(new.meta(), written.meta()))
        {
            memory.written = None; // The watch has caught up.
            if memory.is_blank() {
                self.unlearn(object);
            }
        }
        let is_news = replaced || old.as_ref().is_none_or(|old| concerns(old.meta(), new.meta()));
        // One that is gone by now has another event coming.
        if is_news && let Some(object) = self.store.key(object) {
            self.queue.add(&object, Urgency::Changed, Instant::now());
        }
    }

    fn woken(&mut self, object: &ObjectRef<R::Resource>) {
        if let Some(object) = self.store.key(object) {
            self.queue.add(&object, Urgency::Woken, Instant::now());
        }
    }

    fn forget(&mut self, object: &ObjectRef<R::Resource>, gone: &R::Resource) {
        self.queue.forget(object);
        self.unlearn(object);
        let uid = gone.meta().uid.as_deref().unwrap_or_default();
        self.shell.reporter.metrics().forgotten(&self.kind, uid);
        self.reconciler.forget(object.namespace.as_deref(), &object.name);
    }

    /// There is nothing to remember of it any more.
    fn unlearn(&mut self, object: &ObjectRef<R::Resource>) {
        self.known.remove(object);
        // What a crowd needed once is not held for ever.
        if self.known.is_empty() && self.known.capacity() > ROOM {
            self.known.shrink_to_fit();
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        self.leads = self.shell.leadership.holds();
        while self.leads
            && !self.is_full()
            && let Some(object) = self.next(now)
        {
            let Some(stored) = self.store.fetch(&object) else {
                self.queue.ended(&object);
                continue;
            };
            let memory = self.known.entry(object.clone()).or_default();
            let resource = match &memory.written {
                Some(written) if is_older(stored.meta(), written.meta()) => Arc::clone(written),
                _ => stored,
            };
            memory.begins(resource.meta().generation, now);
            let pass = Pass {
                reconciler: Arc::clone(&self.reconciler),
                reporter: self.shell.reporter.clone(),
                store: self.store.clone(),
                deadline: self.shell.deadline,
                now: clock::now(),
                rush: self.rush.subscribe(),
            };
            self.passes.spawn(self.aside.clone().allow(pass.run(object, resource)));
        }
        self.shell.reporter.metrics().passes_running(&self.kind, self.queue.running());
        let rush =
            R::DEEDS_FIRST && self.leads && self.queue.has_changed(now) && self.may_hold_back();
        self.rush.send_if_modified(|known| std::mem::replace(known, rush) != rush);
    }

    /// Whether one more pass may keep its words back and give its place to another.
    fn may_hold_back(&self) -> bool {
        self.aside.telling() < self.shell.concurrency.get() * TELLING
    }

    /// The next to be looked at, of a namespace that has not all places but the last ones.
    fn next(&mut self, now: Instant) -> Option<Arc<ObjectRef<R::Resource>>> {
        self.queue.limit_each(self.places() - self.shell.concurrency.get() / LEFT_TO_OTHERS);
        self.queue.take(now)
    }

    /// How many passes may run, those that wait aside among them.
    fn places(&self) -> usize {
        let concurrency = self.shell.concurrency.get();
        concurrency
            + self.aside.waiting().min(concurrency * ASIDE)
            + self.aside.telling().min(concurrency * TELLING)
    }

    /// Whether as many passes run as may.
    fn is_full(&self) -> bool {
        self.queue.running() >= self.places()
    }

    fn wake_at(&self) -> Instant {
        let beat = Instant::now() + BEAT;
        if self.is_full() || !self.leads {
            // Nothing can start before a pass ends or steps aside, or the lease is renewed.
            return beat;
        }
        self.queue.next_due().map_or(beat, |due| due.min(beat))
    }

    fn ended(&mut self, ended: Ended<R::Resource>) {
        let Ended { object, uid, written, next } = ended;
        self.queue.ended(&object);
        let current = self.store.stamp(&object).filter(|stored| stored.is_of(&uid));
        let Some(current) = current else {
            // It went, or was replaced, while the pass ran: forget what the pass remembered of it.
            // A successor has not been looked at yet, since its name was taken until now.
            self.unlearn(&object);
            self.shell.reporter.metrics().forgotten(&self.kind, &uid);
            self.reconciler.forget(object.namespace.as_deref(), &object.name);
            return;
        };
        let memory = self.known.entry(object.clone()).or_default();
        if let Some(written) = written.filter(|one| current.is_older(Stamp::of(one.meta()))) {
            memory.written = Some(Arc::from(written));
        }
        let Some(next) = next else {
            if memory.is_blank() {
                self.unlearn(&object);
            }
            return;
        };
        let delay = schedule::delay(next, &uid, memory.attempts, clock::now());
        let urgency = match next {
            Next::Tick(_) | Next::WhenChanged | Next::Retry(Retry::WhenChanged) => Urgency::Routine,
            // Something that fails again and again can wait for the others.
            Next::In(_) | Next::Retry(_) if memory.attempts < 3 => Urgency::Woken,
            Next::In(_) | Next::Retry(_) => Urgency::Routine,
        };
        let due = Instant::now() + delay;
        memory.ends(next, due);
        if memory.is_blank() {
            self.unlearn(&object);
        }
        self.queue.add(&object, urgency, due);
    }

    /// Lets running passes end, within bounds.
    async fn close(mut self) {
        // Nothing begins any more: who kept back his words may tell them.
        self.rush.send_replace(false);
        let drained = timeout(DRAIN, async {
            while self.passes.join_next().await.is_some() {
                self.shell.pulse.beat();
            }
        });
        if drained.await.is_err() {
            let left = self.passes.len();
            tracing::warn!(kind = self.kind, left, "passes did not end in time, broken off");
            self.passes.shutdown().await;
        }
    }
}

/// The interval of a resource that, as it stands, needs no look before its tick.
fn at_rest<R: Reconcile>(reconciler: &R, resource: &R::Resource) -> Option<Duration> {
    let meta = resource.meta();
    let ready = condition::find(resource.status()?.conditions(), READY)?;
    let settled = ready.status == "True"
        && ready.observed_generation == meta.generation
        && meta.deletion_timestamp.is_none()
        && (R::FINALIZER.is_none() || has_finalizer::<R>(meta));
    if settled { reconciler.resting(resource) } else { None }
}

/// Whether the change is one that a pass could answer. Our own writes, to the status and to the
/// finalizers, are not.
fn concerns(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    old.generation != new.generation
        || old.annotations != new.annotations
        || old.deletion_timestamp != new.deletion_timestamp
}

/// Whether `one` is an older state of the same object than `other`.
fn is_older(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    Stamp::of(one).is_older(Stamp::of(other))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use self::pass::{Cleanup, Outcome};
    use super::*;

    fn meta(version: &str) -> ObjectMeta {
        ObjectMeta {
            uid: Some("u".to_owned()),
            generation: Some(1),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        }
    }

    mod kind {
        //! A kind of the smallest size: only its types are used.

        use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
        use schemars::JsonSchema;
        use serde::{Deserialize, Serialize};

        use super::*;

        #[derive(
            kube::CustomResource, Clone, Debug, Default, Deserialize, JsonSchema, Serialize,
        )]
        #[kube(group = "test.vaultaws.dev", version = "v1", kind = "Stone", namespaced)]
        #[kube(status = "StoneStatus")]
        pub(super) struct StoneSpec {}

        #[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
        pub(super) struct StoneStatus {
            #[serde(default)]
            conditions: Vec<Condition>,
        }

        impl Status for StoneStatus {
            fn conditions(&self) -> &[Condition] {
                &self.conditions
            }

            fn conclude(&mut self, conditions: Vec<Condition>, _: i64) {
                self.conditions = conditions;
            }
        }

        pub(super) struct Stones;

        #[derive(Debug, thiserror::Error)]
        #[error("a stone does not fail")]
        pub(super) struct Never;

        impl crate::fault::Fault for Never {
            fn reason(&self) -> &'static str {
                "Never"
            }

            fn retry(&self) -> Retry {
                Retry::WhenChanged
            }
        }

        impl Reconcile for Stones {
            type Resource = Stone;
            type Status = StoneStatus;
            type Error = Never;

            const FINALIZER: Option<&'static str> = Some("vaultaws.dev/cleanup");

            async fn apply(&self, _: &Stone, _: Timestamp) -> Result<Outcome<StoneStatus>, Never> {
                Err(Never)
            }

            async fn cleanup(
                &self,
                _: &Stone,
                _: Timestamp,
            ) -> Result<Cleanup<StoneStatus>, Never> {
                Ok(Cleanup::Done(None))
            }

            fn resting(&self, _: &Stone) -> Option<Duration> {
                Some(Duration::from_secs(3600))
            }
        }
    }

    use kind::{Stone, StoneSpec, StoneStatus, Stones};

    /// Ready in its generation, with its finalizer.
    fn settled() -> Stone {
        let mut stone = Stone::new("a", StoneSpec::default());
        stone.metadata = ObjectMeta {
            name: Some("a".to_owned()),
            finalizers: Some(vec!["vaultaws.dev/cleanup".to_owned()]),
            ..meta("1")
        };
        let ready = pass::Verdict::yes(READY, "Synced", "");
        let mut status = StoneStatus::default();
        let progress = pass::Progress::Done;
        let conditions = condition::conclude(&[ready], progress, &[], 1, Timestamp::UNIX_EPOCH);
        status.conclude(conditions, 1);
        stone.status = Some(status);
        stone
    }

    #[test]
    fn a_settled_resource_waits_for_its_tick_at_the_start() {
        assert_eq!(at_rest(&Stones, &settled()), Some(Duration::from_secs(3600)));
    }

    #[test]
    fn a_resource_with_unfinished_business_is_looked_at_at_the_start() {
        let breaks: [fn(&mut Stone); 4] = [
            |stone| stone.status = None,
            |stone| stone.metadata.generation = Some(2),
            |stone| stone.metadata.finalizers = None,
            |stone| {
                let ill = pass::Verdict::no(READY, "Conflict", "");
                let progress = pass::Progress::Waiting;
                let now = Timestamp::UNIX_EPOCH;
                let conditions = condition::conclude(&[ill], progress, &[], 1, now);
                stone.status.get_or_insert_default().conclude(conditions, 1);
            },
        ];
        for (number, make) in breaks.into_iter().enumerate() {
            let mut stone = settled();
            make(&mut stone);
            assert_eq!(at_rest(&Stones, &stone), None, "case {number}");
        }
    }

    #[test]
    fn a_look_that_something_else_asked_for_does_not_put_the_next_one_off() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let failed = Next::Retry(Retry::Slowly);
        let mut memory = Memory::<Stone>::default();
        let mut look = |at, due| {
            memory.begins(Some(1), after(at));
            memory.ends(failed, after(due));
            memory.attempts
        };
        assert_eq!(look(0, 30), 1);
        assert_eq!(look(10, 40), 1, "in its place");
        assert_eq!(look(39, 69), 1, "and again");
        assert_eq!(look(69, 129), 2, "the one that was due");
        assert_eq!(look(130, 250), 3);
        memory.begins(Some(2), after(140));
        assert_eq!(memory.attempts, 0, "another generation");
    }

    /// A controller must be a task of its own: this compiles only if it is `Send`.
    #[expect(dead_code, reason = "only compiled")]
    fn a_controller_can_be_spawned(stones: Watched<Stone>, shell: Shell) {
        tokio::spawn(async move {
            let triggers = watch::triggers(&stones, |events| {
                events.iter().map(|event| event.object.clone()).collect()
            });
            run(Arc::new(Stones), &stones, triggers, shell).await;
        });
    }

    #[test]
    fn a_new_generation_an_annotation_or_a_deletion_concerns_us() {
        let old = meta("1");
        let changed = ObjectMeta { generation: Some(2), ..meta("2") };
        assert!(concerns(&old, &changed));
        let annotations = [("vaultaws.dev/refresh".to_owned(), "1".to_owned())].into();
        assert!(concerns(&old, &ObjectMeta { annotations: Some(annotations), ..meta("2") }));
        let now = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        assert!(concerns(&old, &ObjectMeta { deletion_timestamp: now, ..meta("2") }));
    }

    #[test]
    fn our_own_writes_and_labels_do_not_concern_us() {
        let labels = [("team".to_owned(), "a".to_owned())].into();
        let finalizers = vec!["vaultaws.dev/cleanup".to_owned()];
        let new = ObjectMeta { labels: Some(labels), finalizers: Some(finalizers), ..meta("2") };
        assert!(!concerns(&meta("1"), &new));
    }

    #[test]
    fn versions_are_compared_as_numbers_and_only_of_the_same_object() {
        assert!(is_older(&meta("9"), &meta("10")));
        assert!(!is_older(&meta("10"), &meta("10")));
        assert!(!is_older(&meta("x"), &meta("10")), "not a number: trust the watch");
        let successor = ObjectMeta { uid: Some("v".to_owned()), ..meta("10") };
        assert!(!is_older(&meta("9"), &successor));
    }
}
