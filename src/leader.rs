//! One writer at a time: replicas elect a leader by a Lease of the operator's own namespace.
//!
//! A Lease is no fence: nothing stops a process that was paused between its look at the Lease and its
//! write. So two things are ours to keep. A standby takes a Lease over only after it has *itself* seen
//! it unchanged for its whole duration, by its own monotonic clock: clocks of two nodes need not
//! agree. And a leader stops writing [`RENEW_WITHIN`] after it *began* its last good renewal, which is
//! earlier than anybody may take over; every client asks [`Leadership::holds`] before each request
//! that changes something. What a paused leader may still finish is one request that was already on
//! its way, and every write of ours says the same again or names the version it was made from.
//!
//! A leader that cannot reach the API server keeps its place as long as nobody took it: it rests
//! and goes on when the Lease is found as it was left. One that lost it ends, and starts as a
//! standby with nothing in memory.
//!
//! Every write of the Lease names the version it was made from, so of two that try, one is told 409.

use std::{future::Future, sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{clock, crd::MANAGER, fault::chain};

mod fence;

pub(crate) use fence::LateBody;
pub use fence::{NotLeading, fenced_client};

/// After this long without a change, others may take the Lease over.
pub const LEASE: Duration = Duration::from_secs(15);
/// From the beginning of a good renewal on, a leader may write for this long.
pub const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// From one good renewal to the next.
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// How often a standby looks, and how soon a failed renewal is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// One request about the Lease.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a replica stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// There is no election: this replica always leads.
    Unopposed,
    /// Somebody else leads, or nobody yet.
    Standby,
    /// This replica leads, and may write until then.
    Leading { until: Instant },
    /// It led and somebody else does now: it will never lead again.
    Lost,
}

/// Whether this replica leads: what everything that writes asks. A cheap handle.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Standing>);

impl Leadership {
    /// Of a process that has no rivals, as there is no election.
    pub fn unopposed() -> Self {
        // The sender may go: the value stays.
        Self(watch::channel(Standing::Unopposed).1)
    }

    /// Whether this replica may change something now.
    pub fn holds(&self) -> bool {
        match *self.0.borrow() {
            Standing::Unopposed => true,
            Standing::Leading { until } => Instant::now() < until,
            Standing::Standby | Standing::Lost => false,
        }
    }

    /// Returns once this replica leads; never, if it lost its place.
    pub async fn won(&self) {
        let mut standing = self.0.clone();
        while !self.holds() {
            if standing.changed().await.is_err() {
                // The election ended: nobody will say anything any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns once this replica has lost its place to another; never without an election.
    pub async fn lost(&self) {
        let mut standing = self.0.clone();
        if standing.wait_for(|standing| *standing == Standing::Lost).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What a replica has seen of the Lease.
#[derive(Clone, Debug)]
struct Seen {
    lease: Lease,
    /// When it was first seen in this version, by our own clock.
    since: Instant,
}

/// What a replica that does not lead does about what it sees.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Look {
    /// The Lease is nobody's, or of a predecessor of this very replica, or its holder let it lapse.
    Take,
    /// Its holder has until then.
    Wait,
}

fn look(seen: &Seen, identity: &str, now: Instant) -> Look {
    let spec = seen.lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    // The name of a pod: two containers of one pod do not run at once.
    if holder.is_empty() || holder == identity {
        return Look::Take;
    }
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
    let duration = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    let duration = duration.map_or(LEASE, Duration::from_secs);
    if now >= seen.since + duration { Look::Take } else { Look::Wait }
}

/// The record of a leader that begins.
fn taken(previous: Option<&Lease>, name: &str, identity: &str, now: MicroTime) -> Lease {
    let before = previous.and_then(|lease| lease.spec.as_ref());
    let changes = before.and_then(|spec| spec.lease_transitions).unwrap_or_default();
    let is_new = before
        .and_then(|spec| spec.holder_identity.as_deref())
        .is_none_or(|holder| holder != identity);
    let mut metadata = previous.map(|lease| lease.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some([("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned())].into()),
        ..ObjectMeta::default()
    });
    metadata.managed_fields = None;
    Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: Some(i32::try_from(LEASE.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(if previous.is_some() && is_new {
                changes.saturating_add(1)
            } else {
                changes
            }),
            ..LeaseSpec::default()
        }),
    }
}

/// The same term once more.
fn renewed(held: &Lease, now: MicroTime) -> Lease {
    let mut lease = held.clone();
    lease.metadata.managed_fields = None;
    lease.spec.get_or_insert_default().renew_time = Some(now);
    lease
}

/// Nobody's: the next one need not wait.
fn released(held: &Lease, now: MicroTime) -> Lease {
    let mut lease = renewed(held, now);
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(1);
    lease
}

/// Whether both are of one term of one holder: a renewal whose answer was lost is still ours.
fn same_term(a: &Lease, b: &Lease) -> bool {
    let term = |lease: &Lease| {
        let spec = lease.spec.clone().unwrap_or_default();
        (
            lease.metadata.uid.clone(),
            spec.holder_identity,
            spec.acquire_time,
            spec.lease_transitions,
        )
    };
    term(a) == term(b)
}

/// A request about the Lease that failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the API server did not answer within {REQUEST_TIMEOUT:?}")]
    Silent,
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

impl Error {
    fn is(&self, status: u16) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(said)) if said.code == status)
    }
}

/// Takes part in the election of one Lease.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    standing: Arc<watch::Sender<Standing>>,
    seen: Option<Seen>,
    /// The record of our term as we last wrote it.
    held: Option<Lease>,
}

impl Election {
    /// `client` should have connections of its own, so that nothing makes a renewal wait; `identity`
    /// is the name of the pod.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            standing: Arc::new(watch::channel(Standing::Standby).0),
            seen: None,
            held: None,
        }
    }

    /// What the others ask.
    pub fn leadership(&self) -> Leadership {
        Leadership(self.standing.subscribe())
    }

    /// Takes part until `stop`, then gives the Lease back. Ends by itself when it is lost.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let pause = match &self.held {
                Some(held) => {
                    let held = held.clone();
                    match self.renew(held).await {
                        Some(pause) => pause,
                        None => return,
                    }
                }
                None => self.stand_by().await,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        self.release().await;
    }

    /// Renews our term; the pause until the next look, or `None` if it is over.
    async fn renew(&mut self, held: Lease) -> Option<Duration> {
        let began = Instant::now();
        let failure = match self.replace(&renewed(&held, micro_now())).await {
            Ok(lease) => {
                self.lead(lease, began);
                return Some(RENEW_EVERY);
            }
            Err(failure) => failure,
        };
        if !(failure.is(409) || failure.is(404)) {
            tracing::warn!(lease = self.name, error = chain(&failure), "lease not renewed");
            return Some(RETRY_EVERY);
        }
        // Changed by somebody: by us, if the answer to a renewal was lost.
        match self.read().await {
            Ok(Some(lease)) if same_term(&lease, &held) => {
                self.held = Some(lease);
                Some(Duration::ZERO)
            }
            Ok(found) => {
                let holder = found.and_then(|lease| lease.spec?.holder_identity);
                tracing::error!(lease = self.name, holder, "lease lost");
                self.held = None;
                self.standing.send_replace(Standing::Lost);
                None
            }
            Err(failure) => {
                tracing::warn!(lease = self.name, error = chain(&failure), "lease not read");
                Some(RETRY_EVERY)
            }
        }
    }

    /// Looks at the Lease, and takes it if it is free; the pause until the next look.
    async fn stand_by(&mut self) -> Duration {
        let began = Instant::now();
        let found = match self.read().await {
            Ok(found) => found,
            Err(failure) => {
                tracing::warn!(lease = self.name, error = chain(&failure), "lease not read");
                return LOOK_EVERY;
            }
        };
        if let Some(lease) = &found {
            let version = |lease: &Lease| lease.metadata.resource_version.clone();
            let known =
                self.seen.as_ref().is_some_and(|seen| version(&seen.lease) == version(lease));
            if !known {
                self.seen = Some(Seen { lease: lease.clone(), since: began });
            }
            if let Some(seen) = &self.seen
                && look(seen, &self.identity, began) == Look::Wait
            {
                return LOOK_EVERY;
            }
        }
        let record = taken(found.as_ref(), &self.name, &self.identity, micro_now());
        let written = match found {
            Some(_) => self.replace(&record).await,
            None => within(self.api.create(&parameters(), &record)).await,
        };
        match written {
            Ok(lease) => {
                tracing::info!(lease = self.name, identity = self.identity, "leading");
                self.lead(lease, began);
                RENEW_EVERY
            }
            Err(failure) if failure.is(409) => LOOK_EVERY, // Somebody was faster.
            Err(failure) => {
                tracing::warn!(lease = self.name, error = chain(&failure), "lease not taken");
                LOOK_EVERY
            }
        }
    }

    /// The write that began then was good.
    fn lead(&mut self, lease: Lease, began: Instant) {
        self.seen = None;
        self.held = Some(lease);
        self.standing.send_replace(Standing::Leading { until: began + RENEW_WITHIN });
    }

    async fn release(self) {
        let Some(held) = self.held else { return };
        self.standing.send_replace(Standing::Lost);
        let record = released(&held, micro_now());
        match within(self.api.replace(&self.name, &parameters(), &record)).await {
            Ok(_) => tracing::info!(lease = self.name, "lease released"),
            Err(failure) => {
                tracing::warn!(lease = self.name, error = chain(&failure), "lease not released");
            }
        }
    }

    async fn read(&self) -> Result<Option<Lease>, Error> {
        within(self.api.get_opt(&self.name)).await
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, Error> {
        within(self.api.replace(&self.name, &parameters(), lease)).await
    }
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    Ok(timeout(REQUEST_TIMEOUT, request).await.map_err(|_| Error::Silent)??)
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

fn micro_now() -> MicroTime {
    MicroTime(clock::now())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> MicroTime {
        MicroTime(Timestamp::from_second(second).unwrap())
    }

    fn held_by(holder: &str) -> Lease {
        taken(None, "writer", holder, at(0))
    }

    fn seen(lease: Lease) -> Seen {
        Seen { lease, since: Instant::now() }
    }

    #[test]
    fn a_lease_is_taken_only_after_it_was_seen_unchanged_for_its_whole_duration() {
        // Its times are decades old: another node's clock says nothing.
        let seen = seen(held_by("a"));
        assert_eq!(look(&seen, "b", seen.since), Look::Wait);
        assert_eq!(look(&seen, "b", seen.since + LEASE - Duration::from_millis(1)), Look::Wait);
        assert_eq!(look(&seen, "b", seen.since + LEASE), Look::Take);
    }

    #[test]
    fn what_is_nobodys_or_our_predecessors_is_taken_at_once() {
        let mut empty = held_by("a");
        empty.spec = None;
        for lease in [empty, released(&held_by("a"), at(1)), held_by("b")] {
            let seen = seen(lease);
            assert_eq!(look(&seen, "b", seen.since), Look::Take, "{seen:?}");
        }
    }

    #[test]
    fn the_duration_is_the_holders() {
        let mut lease = held_by("a");
        lease.spec.as_mut().unwrap().lease_duration_seconds = Some(60);
        let seen = seen(lease);
        assert_eq!(look(&seen, "b", seen.since + LEASE), Look::Wait);
        assert_eq!(look(&seen, "b", seen.since + Duration::from_secs(60)), Look::Take);
    }

    #[test]
    fn a_change_of_holder_is_counted_and_a_restart_is_not() {
        let transitions =
            |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
        let first = held_by("a");
        assert_eq!(transitions(&first), Some(0));
        assert_eq!(transitions(&taken(Some(&first), "writer", "a", at(1))), Some(0));
        assert_eq!(transitions(&taken(Some(&first), "writer", "b", at(1))), Some(1));
    }

    #[test]
    fn a_write_names_the_version_it_was_made_from() {
        let mut lease = held_by("a");
        lease.metadata.resource_version = Some("7".to_owned());
        let records =
            [renewed(&lease, at(1)), released(&lease, at(1)), taken(Some(&lease), "w", "b", at(1))];
        for record in records {
            assert_eq!(record.metadata.resource_version.as_deref(), Some("7"));
        }
    }

    #[test]
    fn a_renewal_whose_answer_was_lost_is_still_our_term_and_a_successor_of_our_name_is_not() {
        let ours = held_by("a");
        assert!(same_term(&ours, &renewed(&ours, at(4))));
        assert!(!same_term(&ours, &taken(Some(&ours), "writer", "a", at(4))));
        assert!(!same_term(&ours, &taken(Some(&ours), "writer", "b", at(4))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_stops_writing_before_anybody_may_take_over() {
        let (sender, receiver) = watch::channel(Standing::Standby);
        let leadership = Leadership(receiver);
        assert!(!leadership.holds());
        sender.send_replace(Standing::Leading { until: Instant::now() + RENEW_WITHIN });
        assert!(leadership.holds());
        sleep(RENEW_WITHIN).await;
        assert!(!leadership.holds(), "no renewal for {RENEW_WITHIN:?}");
        const { assert!(RENEW_WITHIN.as_secs() < LEASE.as_secs()) };
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_to_lead_is_told_and_whoever_lost_waits_for_ever() {
        let (sender, receiver) = watch::channel(Standing::Standby);
        let leadership = Leadership(receiver);
        let limit = Duration::from_secs(3600);
        assert!(timeout(limit, leadership.won()).await.is_err());
        sender.send_replace(Standing::Leading { until: Instant::now() + RENEW_WITHIN });
        assert!(timeout(limit, leadership.won()).await.is_ok());
        assert!(timeout(limit, leadership.lost()).await.is_err());
        sender.send_replace(Standing::Lost);
        assert!(timeout(limit, leadership.lost()).await.is_ok());
        assert!(timeout(limit, leadership.won()).await.is_err());
        assert!(Leadership::unopposed().holds());
    }
}
