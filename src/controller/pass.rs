//! What a kind owes the shell: one pass over one resource, told as an [`Outcome`].
//!
//! A kind never writes a status, sends an event or picks a delay. It says what it found; the shell
//! (`controller.rs`) turns that into conditions, events, metrics and the time of the next look, at
//! one exit for `apply` and `cleanup` alike.

use std::{fmt::Debug, future::Future, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::core::object::HasStatus;
use serde::{Serialize, de::DeserializeOwned};

use crate::fault::{Fault, Retry};

/// A kind's reconciler: what [`super::run`] drives.
pub trait Reconcile: Send + Sync + 'static {
    /// The custom resource.
    type Resource: kube::Resource<DynamicType = ()>
        + HasStatus<Status = Self::Status>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static;
    /// Its status. `Default` is the status of a resource that was never looked at.
    type Status: Status;
    /// What goes wrong in a pass.
    type Error: Fault;

    /// The finalizer, for a kind that leaves something outside of Kubernetes.
    const FINALIZER: Option<&'static str>;

    /// Whether what a pass does is worth more than what it tells: while resources wait that were created
    /// or changed, statuses that pile up wait for a while.
    const DEEDS_FIRST: bool = false;

    /// Makes the world as the resource says, or says why not.
    fn apply(
        &self,
        resource: &Self::Resource,
        now: Timestamp,
    ) -> impl Future<Output = Result<Outcome<Self::Status>, Self::Error>> + Send;

    /// Takes away what `apply` left outside. Only called for a kind with a finalizer.
    fn cleanup(
        &self,
        resource: &Self::Resource,
        now: Timestamp,
    ) -> impl Future<Output = Result<Cleanup<Self::Status>, Self::Error>> + Send;

    /// How long the resource may be left alone, as its status tells: asked once at the start, about
    /// a resource that is `Ready` in its generation, so that a restart makes nothing due at once.
    /// It then waits for its tick of this interval. `None`: it is looked at now.
    fn resting(&self, _resource: &Self::Resource) -> Option<Duration> {
        None
    }

    /// The object that a last word about this resource is said of, where its own namespace takes no
    /// new events any more because it is being deleted: one that is in no namespace.
    fn witness(&self, _resource: &Self::Resource) -> Option<ObjectReference> {
        None
    }

    /// The resource is gone from the store: forget what is kept in memory about it. May be called
    /// again for the same resource: at once, and when a pass that was running has ended.
    fn forget(&self, _namespace: Option<&str>, _name: &str) {}
}

/// What every status of ours has.
pub trait Status:
    Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The conditions, `Ready` first.
    fn conditions(&self) -> &[Condition];

    /// Puts the shell's part in: conditions and the generation they speak of.
    fn conclude(&mut self, conditions: Vec<Condition>, observed_generation: i64);
}

/// What one pass found and did.
#[derive(Clone, Debug)]
pub struct Outcome<S> {
    /// The kind's own status fields. Start from the previous status where the pass did not learn
    /// better: a field that is left out is removed.
    pub status: S,
    /// How far the pass came.
    pub progress: Progress,
    /// `Ready` first, then the kind's others. A condition that is not named here is removed.
    pub verdicts: Vec<Verdict>,
    /// What to tell people, now and once: only transitions and deeds, never a repeated state.
    pub notes: Vec<Note>,
    /// When to look again.
    pub next: Next,
}

/// How far a pass came; decides the kstatus conditions `Reconciling` and `Stalled`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// As desired.
    Done,
    /// Waiting for another object or for a fault to pass: `Reconciling=True`.
    Waiting,
    /// Only a change of this resource's spec can help: `Stalled=True`.
    Stalled,
}

/// One condition's new value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// `Ready`, `Reachable`, …
    pub kind: &'static str,
    /// `None` is `Unknown`.
    pub holds: Option<bool>,
    /// A CamelCase word of the kind's documented enum.
    pub reason: &'static str,
    /// One sentence for people. Stable from retry to retry: no counters, no times, no request ids.
    pub message: String,
}

impl Verdict {
    /// A condition that is true.
    pub fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: Some(true), reason, message: message.into() }
    }

    /// A condition that is false.
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: Some(false), reason, message: message.into() }
    }

    /// A condition as it was, for a pass that did not look at it; `None` if it was not there, or with a
    /// reason that `word` does not know.
    pub fn kept(
        kind: &'static str,
        previous: &[Condition],
        word: impl Fn(&str) -> Option<&'static str>,
    ) -> Option<Self> {
        let old = previous.iter().find(|condition| condition.type_ == kind)?;
        let holds = match old.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        };
        Some(Self { kind, holds, reason: word(&old.reason)?, message: old.message.clone() })
    }

    /// A condition nobody can tell yet.
    pub fn unknown(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: None, reason, message: message.into() }
    }
}

/// A Kubernetes event about the resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// Warning, or Normal.
    pub warning: bool,
    /// A CamelCase word.
    pub reason: &'static str,
    /// One sentence, at most 1,024 bytes (the API's limit).
    pub message: String,
}

/// When to look again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// At the next tick of this interval; the phase is the hash of the UID, so that resources
    /// spread over it and a restart makes nothing due at once.
    Tick(Duration),
    /// After a while, jittered.
    In(Duration),
    /// As a failure of this class: the delay grows with each attempt.
    Retry(Retry),
    /// Not before something changes.
    WhenChanged,
}

/// How a cleanup ended.
#[derive(Clone, Debug)]
pub enum Cleanup<S> {
    /// Nothing of ours is left, or we let go, and something may be left: then the note warns of it,
    /// and it is counted.
    Done(Option<Note>),
    /// Not yet: reported like a pass, the finalizer stays.
    NotYet(Outcome<S>),
}
