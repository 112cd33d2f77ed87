//! The three outputs of a pass: the status, the events, the metrics. The only place that writes
//! them, for `apply` and `cleanup` alike.
//!
//! What is told must not delay what is done, since both end up in the same API server. So few statuses
//! are written at once, and a pass that waits for its turn lets another begin; and a pass does not
//! wait for its events at all: they are sent when no pass runs, or after some seconds.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1},
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
    core::{Request, object::HasStatus},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    aside::aside_to_tell,
    condition::{self, MESSAGE_LIMIT, READY},
    pass::{Next, Note, Outcome, Progress, Status, Verdict},
    watch::{Kind, Stamp, read_object},
    words::Words,
};
use crate::{
    crd::MANAGER,
    fault::{Fault, Retry, chain},
    telemetry::Metrics,
};

/// How long a status may take to be written, and an event to be sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const EVENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the watch may take to tell what somebody else changed.
const WATCH_LAG: Duration = Duration::from_secs(3);
/// How often a status is tried while others change the resource.
const OUTRUN: usize = 3;

/// Events that are sent at once, and those that may wait for it; beyond that a pass sends its own.
const EVENTS_AT_ONCE: usize = 4;
const EVENTS_WAITING: usize = 2048;
/// How long an event waits for a moment without passes.
const EVENT_PATIENCE: Duration = Duration::from_secs(10);

/// Where reports go. A cheap handle.
#[derive(Clone)]
pub struct Reporter {
    client: Client,
    metrics: Metrics,
    /// The pod, or the host: tells replicas apart in events.
    instance: Arc<str>,
    words: Arc<Words>,
    events: mpsc::Sender<Unsent>,
    /// Events that wait or are being sent.
    unsent: Arc<AtomicUsize>,
    /// How many passes run.
    passes: Arc<watch::Sender<usize>>,
}

/// What an event is made from when its time has come: an event itself is several times larger.
#[derive(Debug)]
struct Unsent {
    about: ObjectReference,
    note: Note,
    /// Which of the notes of its pass.
    number: usize,
    at: Timestamp,
    /// When it is sent whatever else is to be done.
    latest: Instant,
}

/// A pass runs as long as this is held.
#[derive(Debug)]
pub(super) struct AtWork(Arc<watch::Sender<usize>>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.send_modify(|passes| *passes -= 1);
    }
}

/// What became of a status.
#[derive(Debug)]
pub(super) enum Written<K> {
    /// It stood there already: no request was made.
    Unchanged,
    /// Written; the object as the API server now has it.
    Changed(Box<K>),
    /// The resource is gone.
    Gone,
    /// Another replica wrote a status meanwhile: ours speaks of what is no more.
    Outrun,
}

/// Why a status could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("writing the status")]
    Write(#[source] kube::Error),
    #[error("writing the status: no answer within {WRITE_TIMEOUT:?}")]
    Silent,
}

/// The resource once the watch tells of another version than this; `None` if it does not, or tells of
/// its end.
async fn newer<K: Kind>(
    resource: &K,
    version: Option<&str>,
    stored: impl Fn() -> Option<Arc<K>>,
) -> Option<Arc<K>> {
    let known = Stamp::new(resource.meta().uid.as_deref(), version);
    let waiting = async {
        loop {
            let stored = stored()?;
            if stored.meta().uid != resource.meta().uid || known.is_older(Stamp::of(stored.meta()))
            {
                return Some(stored);
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(WATCH_LAG, waiting).await.ok().flatten()
}

impl Reporter {
    /// `client` should give up on a silent API server; `instance` is the pod's name. Must be called
    /// within a Tokio runtime.
    pub fn new(client: Client, metrics: Metrics, instance: String) -> Self {
        let (events, waiting) = mpsc::channel(EVENTS_WAITING);
        let instance: Arc<str> = instance.into();
        let passes = Arc::new(watch::Sender::new(0));
        let carrier = Carrier {
            client: client.clone(),
            metrics: metrics.clone(),
            instance: Arc::clone(&instance),
            unsent: Arc::default(),
            passes: passes.subscribe(),
        };
        let unsent = Arc::clone(&carrier.unsent);
        tokio::spawn(carrier.carry(waiting));
        Self { client, metrics, instance, words: Arc::default(), events, unsent, passes }
    }

    /// A pass begins, and lasts until what this returns is dropped.
    pub(super) fn at_work(&self) -> AtWork {
        self.passes.send_modify(|passes| *passes += 1);
        AtWork(Arc::clone(&self.passes))
    }

    /// Waits until the events that were told are sent, but no longer than `limit`.
    pub async fn flush(&self, limit: Duration) {
        let sent = async {
            while self.unsent.load(Ordering::Acquire) > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        // What is not sent by then is lost: an event is a courtesy.
        let _ = timeout(limit, sent).await;
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Writes the whole status unless it stands there already.
    ///
    /// The write names the version that the pass started from: a replica that lost its lease while
    /// the request was on its way must not overwrite what its successor said. Somebody else's change
    /// of the spec or the metadata meanwhile is no reason to say nothing: `stored` is the resource as
    /// the watch last told it. `rush` tells whether deeds wait that go before words.
    pub(super) async fn status<K, S>(
        &self,
        resource: &K,
        previous: Option<&S>,
        status: &S,
        stored: impl Fn() -> Option<Arc<K>>,
        rush: &watch::Receiver<bool>,
    ) -> Result<Written<K>, Error>
    where
        K: Kind + HasStatus<Status = S>,
        S: Status,
    {
        let meta = resource.meta();
        let uid = meta.uid.as_deref().unwrap_or_default();
        self.metrics.reported(&K::kind(&()), uid, status.conditions());
        if previous == Some(status) {
            return Ok(Written::Unchanged);
        }
        let _turn = aside_to_tell(self.words.turn(meta.namespace.as_deref(), rush)).await;
        Box::pin(self.write(resource, previous, status, stored)).await
    }

    async fn write<K, S>(
        &self,
        resource: &K,
        previous: Option<&S>,
        status: &S,
        stored: impl Fn() -> Option<Arc<K>>,
    ) -> Result<Written<K>, Error>
    where
        K: Kind + HasStatus<Status = S>,
        S: Status,
    {
        let meta = resource.meta();
        let mut version = meta.resource_version.clone();
        for _ in 0..OUTRUN {
            match self.patch_status(resource, version.as_deref(), status).await {
                Err(Error::Write(kube::Error::Api(said))) if said.code == 409 => {}
                written => return written,
            }
            // The watch tells what it was: nobody has to be asked.
            let Some(newer) = newer(resource, version.as_deref(), &stored).await else { break };
            if Resource::meta(&*newer).uid != meta.uid {
                return Ok(Written::Gone);
            }
            if newer.status() != previous {
                break;
            }
            version = Resource::meta(&*newer).resource_version.clone();
        }
        Ok(Written::Outrun)
    }

    async fn patch_status<K: Kind, S: Status>(
        &self,
        resource: &K,
        version: Option<&str>,
        status: &S,
    ) -> Result<Written<K>, Error> {
        let (meta, kind) = (resource.meta(), K::kind(&()));
        let name = meta.name.as_deref().unwrap_or_default();
        // The UID keeps the status of a deleted resource from its successor of the same name.
        let patch = Patch::Apply(json!({
            "apiVersion": K::api_version(&()),
            "kind": kind,
            "metadata": ObjectMeta {
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                uid: meta.uid.clone(),
                resource_version: version.map(str::to_owned),
                ..ObjectMeta::default()
            },
            "status": status,
        }));
        let request = Request::new(K::url_path(&(), meta.namespace.as_deref()))
            .patch_subresource("status", name, &PatchParams::apply(MANAGER).force(), &patch)
            .map_err(|error| Error::Write(kube::Error::BuildRequest(error)))?;
        let writing = async {
            let text = self.client.request_text(request).await?;
            read_object::<K>(&text).map_err(kube::Error::SerdeError)
        };
        let answer = timeout(WRITE_TIMEOUT, writing).await;
        let (result, written) = match answer {
            Ok(Ok(object)) if object.meta().uid != meta.uid => ("gone", Ok(Written::Gone)),
            Ok(Ok(object)) => ("ok", Ok(Written::Changed(Box::new(object)))),
            Ok(Err(kube::Error::Api(said))) if said.code == 404 => ("gone", Ok(Written::Gone)),
            Ok(Err(error)) => ("failed", Err(Error::Write(error))),
            Err(_) => ("failed", Err(Error::Silent)),
        };
        self.metrics.status_written(&kind, result);
        written
    }

    /// Has the notes sent as events, without waiting for it unless a thousand wait already.
    pub(super) async fn notes<K: Kind>(&self, resource: &K, notes: &[Note], now: Timestamp) {
        self.notes_about(&resource.object_ref(&()), notes, now).await;
    }

    /// The same about any object.
    pub(super) async fn notes_about(
        &self,
        about: &ObjectReference,
        notes: &[Note],
        now: Timestamp,
    ) {
        for (number, note) in notes.iter().enumerate() {
            let latest = Instant::now() + EVENT_PATIENCE;
            let unsent =
                Unsent { about: about.clone(), note: note.clone(), number, at: now, latest };
            self.unsent.fetch_add(1, Ordering::AcqRel);
            if let Err(back) = self.events.try_send(unsent) {
                let (mpsc::error::TrySendError::Full(unsent)
                | mpsc::error::TrySendError::Closed(unsent)) = back;
                Box::pin(send(&self.client, &self.metrics, event(&unsent, &self.instance))).await;
                self.unsent.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}

/// Who sends events, behind the passes' back.
struct Carrier {
    client: Client,
    metrics: Metrics,
    instance: Arc<str>,
    unsent: Arc<AtomicUsize>,
    passes: watch::Receiver<usize>,
}

impl Carrier {
    /// Sends events, a few at once, until nobody can tell of one any more.
    async fn carry(self, waiting: mpsc::Receiver<Unsent>) {
        let next = |mut waiting: mpsc::Receiver<Unsent>| async move {
            waiting.recv().await.map(|unsent| (unsent, waiting))
        };
        stream::unfold(waiting, next)
            .for_each_concurrent(EVENTS_AT_ONCE, async |unsent| {
                self.respite(unsent.latest).await;
                Box::pin(send(&self.client, &self.metrics, event(&unsent, &self.instance))).await;
                self.unsent.fetch_sub(1, Ordering::AcqRel);
            })
            .await;
    }

    /// Until no pass runs, or then.
    async fn respite(&self, latest: Instant) {
        let mut passes = self.passes.clone();
        // The last reporter is gone, or the time is up: both are a reason to send.
        let _ = timeout_at(latest, passes.wait_for(|passes| *passes == 0)).await;
    }
}

/// Sends one event. What cannot be sent is logged and left: an event is a courtesy.
async fn send(client: &Client, metrics: &Metrics, event: v1::Event) {
    let place = event.metadata.namespace.as_deref().unwrap_or_default();
    let events: Api<v1::Event> = Api::namespaced(client.clone(), place);
    let sent = timeout(EVENT_TIMEOUT, events.create(&PostParams::default(), &event)).await;
    let failure = match sent {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(Cow::Owned(chain(&error))),
        Err(_) => Some(Cow::Borrowed("no answer")),
    };
    metrics.event_sent(if failure.is_none() { "ok" } else { "failed" });
    if let Some(error) = failure {
        let name = event.regarding.as_ref().and_then(|about| about.name.as_deref());
        let object = format!("{place}/{}", name.unwrap_or_default());
        tracing::warn!(object, reason = event.reason, %error, "event could not be sent");
    }
}

/// An event of `events.k8s.io`. kube's `Recorder` is not used: it keeps each event for six minutes
/// and scans all of them at each further one, while a report speaks only of transitions and has
/// nothing to aggregate.
fn event(unsent: &Unsent, instance: &str) -> v1::Event {
    let Unsent { about, note, number, at, .. } = unsent;
    let name = about.name.as_deref().unwrap_or(MANAGER);
    // Two events of one moment must not share a name.
    let number = if *number == 0 { String::new() } else { format!(".{number}") };
    v1::Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}{number}", at.as_nanosecond())),
            // Events about cluster-scoped objects live in `default`.
            namespace: Some(about.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(note.reason.to_owned()),
        note: Some(condition::shorten(&note.message, MESSAGE_LIMIT)),
        action: Some("Reconcile".to_owned()),
        regarding: Some(about.clone()),
        event_time: Some(MicroTime(*at)),
        reporting_controller: Some(MANAGER.to_owned()),
        reporting_instance: Some(condition::shorten(instance, 128)),
        ..v1::Event::default()
    }
}

/// Why a pass came to no outcome.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) retry: Retry,
    pub(super) shared: bool,
}

impl<E: Fault> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            reason: error.reason(),
            message: chain(&error),
            retry: error.retry(),
            shared: error.is_shared(),
        }
    }
}

/// What a pass means for the world outside.
#[derive(Debug)]
pub(super) struct Report<S> {
    pub(super) status: S,
    pub(super) notes: Vec<Note>,
    pub(super) next: Next,
    /// The pass metric's label.
    pub(super) result: &'static str,
    /// Why the resource is not ready, if it was not so for this reason before.
    pub(super) refused: Option<&'static str>,
}

/// Turns what a pass found, or why it failed, into what is told. The one exit of every pass.
pub(super) fn judge<S: Status>(
    verdict: Result<Outcome<S>, Failure>,
    previous: &S,
    generation: i64,
    now: Timestamp,
) -> Report<S> {
    let known = previous.conditions();
    let (mut status, conditions, mut notes, next, result, reason, transition) = match verdict {
        Ok(Outcome { status, progress, verdicts, notes, next }) => {
            let conditions = condition::conclude(&verdicts, progress, known, generation, now);
            let ready = verdicts.iter().find(|verdict| verdict.kind == READY);
            let transition =
                ready.and_then(|v| transition(known, &conditions, v.reason, progress, false));
            let result = match progress {
                Progress::Done => "done",
                Progress::Waiting => "waiting",
                Progress::Stalled => "stalled",
            };
            let reason = ready.map(|verdict| verdict.reason);
            (status, conditions, notes, next, result, reason, transition)
        }
        Err(Failure { reason, message, retry, shared }) => {
            let progress = match retry {
                Retry::WhenChanged => Progress::Stalled,
                Retry::Soon | Retry::After(_) | Retry::Slowly => Progress::Waiting,
            };
            let ready = Verdict::no(READY, reason, message);
            let conditions = condition::fail(&ready, progress, known, generation, now);
            // A failure is worth a warning even at first.
            let transition = transition(known, &conditions, reason, Progress::Stalled, shared);
            // What the pass did not learn stays: a field that is left out would be removed.
            let next = Next::Retry(retry);
            (previous.clone(), conditions, Vec::new(), next, "failed", Some(reason), transition)
        }
    };
    // A deed of the same name says it better.
    notes.extend(transition.filter(|t| notes.iter().all(|note| note.reason != t.reason)));
    let refused = reason.filter(|_| is_new_refusal(known, &conditions));
    status.conclude(conditions, generation);
    Report { status, notes, next, result, refused }
}

/// Whether the resource is not ready, and was not so for the same reason before.
fn is_new_refusal(previous: &[Condition], current: &[Condition]) -> bool {
    let refused =
        |conditions| condition::find(conditions, READY).filter(|ready| ready.status == "False");
    refused(current).is_some_and(|new| refused(previous).is_none_or(|old| old.reason != new.reason))
}

/// The event that a change of `Ready` is worth. None for a resource that is well from the start,
/// since its deeds speak for it, and none for a shared fault, which is said once on the backend.
fn transition(
    previous: &[Condition],
    current: &[Condition],
    reason: &'static str,
    progress: Progress,
    shared: bool,
) -> Option<Note> {
    let new = condition::find(current, READY)?;
    let old = condition::find(previous, READY);
    if old.is_some_and(|old| old.status == new.status && old.reason == new.reason) || shared {
        return None;
    }
    let warning = match (&*new.status, old) {
        ("True", Some(old)) if old.status != "True" => false,
        ("True", _) => return None,
        // Manifests may be applied in any order: to wait at first is not worth a warning.
        (_, None) => progress != Progress::Waiting,
        (_, Some(_)) => true,
    };
    Some(Note { warning, reason, message: new.message.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    fn conditions(verdict: Verdict) -> Vec<Condition> {
        condition::conclude(&[verdict], Progress::Done, &[], 1, Timestamp::UNIX_EPOCH)
    }

    fn well() -> Vec<Condition> {
        conditions(Verdict::yes(READY, "Synced", "3/3"))
    }

    fn ill() -> Vec<Condition> {
        conditions(Verdict::no(READY, "Conflict", "owned by another resource"))
    }

    #[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
    struct Known {
        expiry: Option<String>,
        generation: i64,
        conditions: Vec<Condition>,
    }

    impl Status for Known {
        fn conditions(&self) -> &[Condition] {
            &self.conditions
        }

        fn conclude(&mut self, conditions: Vec<Condition>, observed_generation: i64) {
            self.conditions = conditions;
            self.generation = observed_generation;
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("reading role `web`")]
    struct Down(Retry);

    impl Fault for Down {
        fn reason(&self) -> &'static str {
            "VaultUnreachable"
        }

        fn retry(&self) -> Retry {
            self.0
        }
    }

    fn known() -> Known {
        Known { expiry: Some("2027".to_owned()), generation: 1, conditions: well() }
    }

    fn failed(retry: Retry) -> Report<Known> {
        judge(Err(Down(retry).into()), &known(), 2, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_failed_pass_keeps_the_last_known_fields() {
        let report = failed(Retry::Soon);
        assert_eq!(report.status.expiry.as_deref(), Some("2027"));
        assert_eq!(report.status.generation, 2);
        assert_eq!(report.next, Next::Retry(Retry::Soon));
        let conditions = &report.status.conditions;
        assert_eq!(conditions[0].message, "reading role `web`");
        assert_eq!((&*conditions[0].status, &*conditions[0].reason), ("False", "VaultUnreachable"));
        assert!(condition::find(conditions, condition::RECONCILING).is_some());
        assert_eq!(report.notes.len(), 1);
    }

    #[test]
    fn a_failure_that_only_a_change_can_cure_is_stalled() {
        let report = failed(Retry::WhenChanged);
        assert!(condition::find(&report.status.conditions, condition::STALLED).is_some());
        assert!(condition::find(&report.status.conditions, condition::RECONCILING).is_none());
    }

    #[test]
    fn a_failure_that_repeats_changes_nothing_and_says_nothing() {
        let first = failed(Retry::Soon);
        let later = Timestamp::from_second(99).expect("a time");
        let second = judge(Err(Down(Retry::Soon).into()), &first.status, 2, later);
        assert_eq!(first.status, second.status);
        assert!(second.notes.is_empty());
        // It is one refusal, however often it is tried again.
        assert_eq!((first.refused, second.refused), (Some("VaultUnreachable"), None));
    }

    #[test]
    fn a_deed_that_is_told_is_not_told_again_as_a_transition() {
        let note = Note { warning: true, reason: "Conflict", message: "foreign role".to_owned() };
        let outcome = Outcome {
            status: known(),
            progress: Progress::Waiting,
            verdicts: vec![Verdict::no(READY, "Conflict", "foreign role")],
            notes: vec![note.clone()],
            next: Next::Retry(Retry::Slowly),
        };
        let report = judge(Ok(outcome), &known(), 1, Timestamp::UNIX_EPOCH);
        assert_eq!(report.notes, [note]);
    }

    #[test]
    fn a_resource_that_is_well_from_the_start_sends_no_event() {
        assert_eq!(transition(&[], &well(), "Synced", Progress::Done, false), None);
    }

    #[test]
    fn trouble_is_a_warning_and_recovery_is_not() {
        let fell = transition(&well(), &ill(), "Conflict", Progress::Waiting, false);
        assert_eq!(
            fell,
            Some(Note {
                warning: true,
                reason: "Conflict",
                message: "owned by another resource".to_owned()
            })
        );
        let rose = transition(&ill(), &well(), "Synced", Progress::Done, false);
        assert!(rose.is_some_and(|note| !note.warning));
    }

    #[test]
    fn the_same_reason_again_sends_no_event() {
        let other_words = conditions(Verdict::no(READY, "Conflict", "other words"));
        assert_eq!(transition(&ill(), &other_words, "Conflict", Progress::Waiting, false), None);
    }

    #[test]
    fn waiting_at_first_is_no_warning_but_being_refused_is() {
        let waits = conditions(Verdict::no(READY, "RoleNotReady", ""));
        let note = transition(&[], &waits, "RoleNotReady", Progress::Waiting, false);
        assert!(note.is_some_and(|note| !note.warning));
        let note = transition(&[], &ill(), "Conflict", Progress::Stalled, false);
        assert!(note.is_some_and(|note| note.warning));
    }

    #[test]
    fn a_shared_fault_sends_no_event_for_each_resource() {
        let down = conditions(Verdict::no(READY, "VaultUnreachable", ""));
        let note = transition(&well(), &down, "VaultUnreachable", Progress::Waiting, true);
        assert_eq!(note, None);
    }

    fn unsent(note: Note) -> Unsent {
        let about = ObjectReference { name: Some("main".to_owned()), ..Default::default() };
        let latest = Instant::now() + EVENT_PATIENCE;
        Unsent { about, note, number: 0, at: Timestamp::UNIX_EPOCH, latest }
    }

    #[test]
    fn events_of_one_pass_have_names_of_their_own() {
        let first = unsent(Note { warning: false, reason: "Delivered", message: String::new() });
        let second = Unsent { number: 1, about: first.about.clone(), ..unsent(first.note.clone()) };
        let name = |unsent| event(unsent, "pod-1").metadata.name;
        assert_ne!(name(&first), name(&second));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_waits_for_the_end_of_the_passes_but_not_for_ever() {
        let (passes, began) = (Arc::new(watch::Sender::new(0)), Instant::now());
        let carrier = Carrier {
            client: nowhere(),
            metrics: Metrics::new(false),
            instance: "pod-1".into(),
            unsent: Arc::default(),
            passes: passes.subscribe(),
        };
        carrier.respite(began + EVENT_PATIENCE).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "nothing runs");
        passes.send_modify(|passes| *passes += 2);
        let work = [AtWork(Arc::clone(&passes)), AtWork(Arc::clone(&passes))];
        tokio::join!(carrier.respite(began + EVENT_PATIENCE), async {
            for pass in work {
                sleep(Duration::from_secs(1)).await;
                drop(pass);
            }
        });
        assert_eq!(began.elapsed(), Duration::from_secs(2), "until the last has ended");
        passes.send_modify(|passes| *passes += 1);
        carrier.respite(began + EVENT_PATIENCE).await;
        assert_eq!(began.elapsed(), EVENT_PATIENCE);
    }

    /// Nothing is ever sent to it.
    fn nowhere() -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let nowhere = kube::Config::new("https://127.0.0.1:1".parse().expect("an address"));
        Client::try_from(nowhere).expect("a client")
    }

    #[test]
    fn an_event_about_a_cluster_scoped_object_lives_in_default() {
        let sealed = unsent(Note { warning: true, reason: "Sealed", message: "x".repeat(3000) });
        let event = event(&sealed, "pod-1");
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert!(event.note.is_some_and(|note| note.len() <= MESSAGE_LIMIT));
    }
}
