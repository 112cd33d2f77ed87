//! VaultCertSync: the certificates of one IAM role, delivered as Secrets of its namespace.
//!
//! A pass goes from cheap to dear, and each step can stop the rest with the last good Secrets
//! untouched: spec, tenancy, role and backend from the caches; the Secrets' metadata; an AWS identity
//! and a Vault session; LIST and metadata; data only where a version is new; the whole pair parsed and
//! judged; then the writes, and the status last.

pub mod accounts;
pub mod apply;
pub mod desired;
pub mod entry;
pub mod identity;
pub mod keystore;
pub mod likeness;
pub mod observe;
pub mod pair;
pub mod payload;
pub mod plan;
pub mod round;
pub mod secrets;
pub mod validation;
pub mod verdict;

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, Secret},
    apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference},
};
use kube::{Api, Client, Resource, ResourceExt, core::PartialObjectMeta};

use self::{
    accounts::Accounts,
    apply::apply,
    desired::{Desired, References, Refusal},
    identity::{Identities, Place},
    observe::{Look, Reading, observe},
    plan::plan,
    round::{Rounds, SyncKey, Wish},
    secrets::{Secrets, Unseen},
    verdict::Extent,
};
use crate::{
    connection::{self, BackendKey, Connections},
    controller::{
        aside,
        pass::{Cleanup, Next, Note, Outcome, Progress, Reconcile, Status, Verdict},
        schedule::until_tick,
        watch::Store,
    },
    crd::{
        REFRESH_ANNOTATION, SyncReason, VaultAwsBackend, VaultAwsRole, VaultCertSync,
        VaultCertSyncStatus,
    },
    fault::{Fault, Retry, chain},
    lock::lock,
    telemetry::{CERTIFICATE, CertificateReading, Metrics},
    vault::{self, Tenant, session::Session},
};

/// The shortest interval between looks at the source.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);

/// Reconciles VaultCertSyncs.
pub struct Certs {
    /// For Secrets.
    pub client: Client,
    /// Every VaultCertSync's backend.
    pub backends: Store<VaultAwsBackend>,
    /// Every VaultCertSync's role.
    pub roles: Store<VaultAwsRole>,
    /// Labels of namespaces, for tenancy by selector.
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    /// Metadata of Secrets.
    pub secrets: Secrets,
    /// Metadata of ServiceAccounts.
    pub accounts: Accounts,
    /// Vault clients by backend.
    pub connections: Arc<Connections>,
    /// AWS identities and Vault sessions.
    pub identities: Arc<Identities>,
    /// Counts and states.
    pub metrics: Metrics,
    /// When this process began: nothing was missed before that.
    pub started: Timestamp,
    /// What is remembered of each sync.
    pub memory: Memory,
    /// The readings that one pass was not enough for.
    pub rounds: Rounds,
    /// How long a pass may read certificates. The rest of its time is for the session before and the
    /// writes after.
    pub reading: Duration,
}

/// What the process remembers of each sync between passes.
#[derive(Debug, Default)]
pub struct Memory {
    known: Mutex<HashMap<(String, String), Remembered>>,
    /// The value of the annotation that asks for a look, where it was last acted on in vain or not.
    asked_for: Mutex<HashMap<(String, String), String>>,
    hasher: RandomState,
}

#[derive(Clone, Debug)]
struct Remembered {
    uid: String,
    /// When the source was last read.
    read: Timestamp,
    /// When it is to be read again.
    due: Timestamp,
    /// What was asked for then, as [`Memory::asked`] tells it apart.
    asked: u64,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Remembered>> {
        lock(&self.known)
    }

    /// Whether somebody asks for a look, and that for the first time: each value counts once.
    fn is_asked_for(&self, namespace: &str, name: &str, asked: Option<String>) -> bool {
        let Some(asked) = asked else { return false };
        let key = (namespace.to_owned(), name.to_owned());
        lock(&self.asked_for).insert(key, asked.clone()) != Some(asked)
    }

    /// The sync is gone.
    fn forget(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.lock().remove(&key);
        lock(&self.asked_for).remove(&key);
    }

    /// A number for what is asked for: two wishes have the same one by chance only, and which do cannot
    /// be known outside of this process. The wish itself would be the larger part of the memory.
    fn asked(&self, desired: &Desired) -> u64 {
        self.hasher.hash_one(desired)
    }
}

/// Why a pass failed for this sync alone. Shared faults and refusals are outcomes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Secrets of the namespace cannot be seen.
    #[error(transparent)]
    Unseen(#[from] Unseen),
    /// No connection to Vault.
    #[error(transparent)]
    Connection(#[from] connection::Error),
    /// No session.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The source could not be read.
    #[error(transparent)]
    Observe(#[from] observe::Error),
    /// The namespace is not in the cache yet.
    #[error("namespace `{0}` has not been seen yet")]
    NamespaceNotSeen(String),
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Unseen(Unseen::Forbidden { .. }) => SyncReason::NoSecretAccess.as_str(),
            Self::Unseen(Unseen::NotYet { .. }) | Self::NamespaceNotSeen(_) => {
                SyncReason::KubernetesError.as_str()
            }
            // The backend says what is wrong with itself.
            Self::Connection(error) if !error.is_shared() => SyncReason::BackendNotReady.as_str(),
            Self::Connection(error) => error.reason(),
            Self::Identity(error) => error.reason(),
            Self::Observe(error) => error.reason(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unseen(_) | Self::NamespaceNotSeen(_) => Retry::After(Duration::from_secs(3)),
            Self::Connection(error) => error.retry(),
            Self::Identity(error) => error.retry(),
            Self::Observe(error) => error.retry(),
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Unseen(_) | Self::NamespaceNotSeen(_) => false,
            Self::Connection(error) => error.is_shared(),
            Self::Identity(error) => error.is_shared(),
            Self::Observe(error) => error.is_shared(),
        }
    }
}

impl Status for VaultCertSyncStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn conclude(&mut self, conditions: Vec<Condition>, observed_generation: i64) {
        self.conditions = conditions;
        self.observed_generation = observed_generation;
    }
}

impl Reconcile for Certs {
    type Resource = VaultCertSync;
    type Status = VaultCertSyncStatus;
    type Error = Error;

    const FINALIZER: Option<&'static str> = None;
    const DEEDS_FIRST: bool = true;

    async fn apply(
        &self,
        sync: &VaultCertSync,
        now: Timestamp,
    ) -> Result<Outcome<VaultCertSyncStatus>, Error> {
        let outcome = match self.deliver(sync, now).await {
            // Vault or STS is down for many: this sync's last good state still stands.
            Err(error) if error.is_shared() => Ok(self.missed(sync, &error, now)),
            other => other,
        };
        if let Ok(outcome) = &outcome {
            self.measure(sync, outcome);
        }
        outcome
    }

    async fn cleanup(
        &self,
        _: &VaultCertSync,
        _: Timestamp,
    ) -> Result<Cleanup<VaultCertSyncStatus>, Error> {
        // Secrets go with their owner: the garbage collector's work.
        Ok(Cleanup::Done(None))
    }

    fn forget(&self, namespace: Option<&str>, name: &str) {
        let namespace = namespace.unwrap_or_default();
        self.secrets.forget(namespace, name);
        self.accounts.forget(namespace, name);
        self.rounds.end(&(namespace.to_owned(), name.to_owned()));
        self.memory.forget(namespace, name);
        self.metrics.sync_gone(namespace, name);
    }
}

/// Drops what nobody reads of a VaultCertSync before it is kept, and the room that its lists do not
/// use: a list of one has grown to four.
pub fn prune(sync: &mut VaultCertSync) {
    let metadata = &mut sync.metadata;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| key == REFRESH_ANNOTATION);
    }
    metadata.annotations.take_if(|annotations| annotations.is_empty());
    metadata.labels = None;
    metadata.owner_references = None;
    metadata.generate_name = None;
    metadata.creation_timestamp = None;
    sync.spec.certificates.include.shrink_to_fit();
    if let Some(status) = &mut sync.status {
        status.conditions.shrink_to_fit();
        status.certificates.shrink_to_fit();
        for one in &mut status.certificates {
            one.dns_names.shrink_to_fit();
        }
    }
}

impl Certs {
    async fn deliver(
        &self,
        sync: &VaultCertSync,
        now: Timestamp,
    ) -> Result<Outcome<VaultCertSyncStatus>, Error> {
        let namespace = sync.namespace().unwrap_or_default();
        // At the start all of a namespace wait for its Secrets: what they need is made afterwards, and
        // those that nothing is granted start no watch.
        if !self.secrets.is_known(&namespace) {
            let is_granted = self.desired(sync, &namespace)?.is_ok();
            if is_granted {
                aside(self.secrets.known(&namespace, &sync.name_any())).await;
            }
        }
        Box::pin(self.deliver_there(sync, namespace, now)).await
    }

    async fn deliver_there(
        &self,
        sync: &VaultCertSync,
        namespace: String,
        now: Timestamp,
    ) -> Result<Outcome<VaultCertSyncStatus>, Error> {
        let previous = self.previous(sync);
        let (mut desired, backend) = match self.desired(sync, &namespace)? {
            Ok(found) => found,
            Err(refusal) => return Ok(refused(previous, &refusal)),
        };
        let credentials = sync.spec.identity.secret_ref.iter().map(|secret| secret.name.clone());
        let password = desired.target.pkcs12.iter().map(|keystore| keystore.secret.clone());
        let used = credentials.chain(password).collect();
        let name = sync.name_any();
        let view = aside(self.secrets.view(&namespace, &name, used)).await?;
        if let Some(keystore) = &mut desired.target.pkcs12 {
            // Another password is another wish.
            keystore.seen =
                view.get(&keystore.secret).map(|seen| (seen.uid, seen.resource_version));
        }
        let account = identity::account(&self.accounts, &namespace, &name, &desired.identity);
        let account = aside(account).await?;
        let api = Api::<Secret>::namespaced(self.client.clone(), &namespace);
        let vault = self.connections.client(&backend, Tenant::of(&namespace)).await?;
        let place = Place {
            backend: BackendKey::of(&backend),
            namespace: &namespace,
            view: &view,
            account,
            client: &self.client,
            vault: &vault,
        };
        // Before anything is skipped: what no longer consents stops the sync.
        let key = self.identities.key(&desired, &place)?;
        let interval = interval(sync);
        let sync_key = sync_key(sync);
        if !self.rounds.is_open(&sync_key)
            && self.is_settled(sync, &previous, &desired, &view, interval, now)
        {
            return Ok(settled(previous, interval, now));
        }

        // Whoever asks has seen to what was wrong.
        let asked =
            refresh(sync).filter(|asked| Some(asked) != previous.last_handled_refresh.as_ref());
        if self.memory.is_asked_for(&namespace, &name, asked) {
            self.identities.sessions.forgive(&key);
        }
        let session = aside(self.identities.session(&key, &desired, &place)).await?;
        // Large, and many passes wait for a session at once: the rest has a place of its own.
        Box::pin(async {
            let round = self.rounds.resume(&sync_key, self.wish(sync, &desired), now);
            let look = Look {
                api: &api,
                view: &view,
                desired: &desired,
                previous: &previous,
                round: &round,
                time: self.reading,
                now,
            };
            let reading = self.read(session, &key, &place, &look).await?;
            let fault = reading.fault().map(|error| (error.reason(), chain(error)));
            let Reading { observed, unread, .. } = reading;
            let seen: Vec<_> = observed.entries.iter().map(|entry| entry.name.clone()).collect();
            let mut again = observed.unreadable();
            let plan = plan(&desired, observed, &previous, now);
            if !plan.is_empty() {
                let steps = plan.to_string();
                tracing::info!(
                    namespace,
                    name = sync.name_any(),
                    plan = steps.trim_end(),
                    "delivering"
                );
            }
            let owner = owner(sync);
            let mount = plan.mount.clone();
            let applied = apply(plan, &api, &view, &owner, &previous.certificates, now).await;
            again.extend(applied.unwritten);
            let try_again = !again.is_empty();
            let is_whole = unread.is_empty();
            let is_new = round.is_new();
            let extent = if is_whole {
                self.rounds.end(&sync_key);
                let near = verdict::near_the_end(&applied.certificates, now).unwrap_or(interval);
                self.remember(sync, &desired, interval, near, round.began, now);
                self.metrics.source_read(&namespace, &sync.name_any(), round.began);
                Extent::whole(round.began)
            } else {
                let since = self.last_read(sync).unwrap_or(round.began);
                self.rounds.keep(sync_key, round.gone_on(seen, again));
                Extent { since, unread }
            };

            let mut status = previous;
            let before = status.certificates.clone();
            if is_whole {
                status.last_handled_refresh = refresh(sync).or(status.last_handled_refresh);
                // What several looks found may lie in different mounts.
                if is_new || status.source_accessor.is_none() {
                    status.source_accessor = mount;
                }
            }
            let mut outcome = match fault {
                None => verdict::told(status, applied.certificates, &extent, interval, now),
                Some((reason, message)) => {
                    let status = verdict::counted(status, applied.certificates, &extent);
                    verdict::missed(&status, reason, message, extent.since, interval, now)
                }
            };
            for reason in verdict::new_refusals(&before, &outcome.status.certificates) {
                self.metrics.refused(CERTIFICATE, reason);
            }
            if is_whole && (outcome.status.certificates != before || !is_new) {
                outcome.status.last_synced_time =
                    Some(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            }
            outcome.notes.extend(applied.written.iter().map(|secret| Note {
                warning: false,
                reason: SyncReason::Delivered.as_str(),
                message: format!("wrote Secret `{secret}`"),
            }));
            outcome.notes.extend(applied.deleted.iter().map(|secret| Note {
                warning: false,
                reason: SyncReason::SourceRemoved.as_str(),
                message: format!("deleted Secret `{secret}`: its entry was removed from Vault"),
            }));
            if is_whole && try_again {
                outcome.next = Next::Retry(Retry::Soon);
            }
            Ok(outcome)
        })
        .await
    }

    /// Reads by this session, and once by another if Vault calls its token dead.
    async fn read(
        &self,
        mut session: Session,
        key: &identity::Key,
        place: &Place<'_>,
        look: &Look<'_>,
    ) -> Result<Reading, Error> {
        let sessions = &self.identities.sessions;
        let reading = match observe(session.caller(), look).await {
            // A dead token costs one login, and only a token that Vault calls dead.
            Err(observe::Error::Vault(error))
                if error.is_token_invalid() && sessions.invalidate(key, &session) =>
            {
                session = aside(self.identities.session(key, look.desired, place)).await?;
                observe(session.caller(), look).await?
            }
            other => other?,
        };
        if reading.stopped_by.as_ref().is_some_and(vault::Error::is_token_invalid) {
            // Used up on the way: the pass that goes on logs in.
            sessions.invalidate(key, &session);
        }
        Ok(reading)
    }

    /// What is asked for, from the caches alone.
    fn desired(
        &self,
        sync: &VaultCertSync,
        namespace: &str,
    ) -> Result<Result<(Desired, Arc<VaultAwsBackend>), Refusal>, Error> {
        let role = desired::role_name(sync).and_then(|name| self.roles.get(Some(namespace), &name));
        let backend = desired::backend_name(sync, role.as_deref())
            .and_then(|name| self.backends.get(None, &name))
            .map(VaultAwsBackend::in_effect);
        let labels = self
            .namespaces
            .get(None, namespace)
            .ok_or_else(|| Error::NamespaceNotSeen(namespace.to_owned()))?
            .metadata
            .labels
            .clone()
            .unwrap_or_default();
        let references =
            References { role: role.as_deref(), backend: backend.as_deref(), labels: &labels };
        Ok(Desired::resolve(sync, &references).and_then(|desired| {
            let backend = backend.ok_or_else(|| Refusal::BackendNotFound(String::new()))?;
            Ok((desired, backend))
        }))
    }

    /// The status as it stands; role and account are known before anything is read.
    fn previous(&self, sync: &VaultCertSync) -> VaultCertSyncStatus {
        let mut status = sync.status.clone().unwrap_or_default();
        let role = desired::role_name(sync)
            .and_then(|name| self.roles.get(sync.namespace().as_deref(), &name));
        if let Some(role) = role {
            status.account_id = Some(role.spec.account_id.clone());
            status.iam_role = Some(role.spec.iam_name().1.to_owned());
            status.vault_role =
                role.status.as_ref().and_then(|role| role.vault_role.clone()).or(status.vault_role);
        } else if let Some(principal) = &sync.spec.principal {
            status.account_id = Some(principal.account_id.clone());
            status.iam_role = Some(principal.iam_role.clone());
        }
        status
    }

    /// Whether nothing is due: the source was read for this very wish, all is delivered, and nobody
    /// touched a Secret. After a start of the process that is believed of a status that says so.
    fn is_settled(
        &self,
        sync: &VaultCertSync,
        previous: &VaultCertSyncStatus,
        desired: &Desired,
        view: &secrets::View,
        interval: Duration,
        now: Timestamp,
    ) -> bool {
        let ready = previous.conditions.iter().find(|one| one.type_ == "Ready");
        let stale =
            previous.conditions.iter().any(|one| one.type_ == "Stale" && one.status == "True");
        if ready.is_none_or(|ready| ready.status != "True")
            || stale
            || sync.metadata.generation != Some(previous.observed_generation)
            || refresh(sync).is_some_and(|value| Some(value) != previous.last_handled_refresh)
        {
            return false;
        }
        let intact = previous.certificates.iter().all(|one| observe::is_intact(one, desired, view));
        if !intact {
            return false;
        }
        let uid = sync.uid().unwrap_or_default();
        let asked = self.memory.asked(desired);
        let mut memory = self.memory.lock();
        let key = sync_key(sync);
        match memory.get(&key).filter(|known| known.uid == uid) {
            Some(known) => now < known.due && known.asked == asked,
            None => {
                let near = verdict::near_the_end(&previous.certificates, now);
                let due = due(interval, near.unwrap_or(interval), &uid, now);
                let known = Remembered { uid, read: self.started, due, asked };
                self.metrics.source_read(&key.0, &key.1, self.started);
                memory.insert(key, known);
                true
            }
        }
    }

    fn remember(
        &self,
        sync: &VaultCertSync,
        desired: &Desired,
        interval: Duration,
        near: Duration,
        read: Timestamp,
        now: Timestamp,
    ) {
        let uid = sync.uid().unwrap_or_default();
        let due = due(interval, near, &uid, now);
        let asked = self.memory.asked(desired);
        self.memory.lock().insert(sync_key(sync), Remembered { uid, read, due, asked });
    }

    /// When the source was last read as a whole, if this process knows.
    fn last_read(&self, sync: &VaultCertSync) -> Option<Timestamp> {
        self.memory.lock().get(&sync_key(sync)).map(|known| known.read)
    }

    /// What a round reads for.
    fn wish(&self, sync: &VaultCertSync, desired: &Desired) -> Wish {
        let uid = sync.uid().unwrap_or_default();
        Wish { uid, asked: self.memory.asked(desired), refresh: refresh(sync) }
    }

    /// A shared fault: told by age, tried again by its class.
    fn missed(
        &self,
        sync: &VaultCertSync,
        error: &Error,
        now: Timestamp,
    ) -> Outcome<VaultCertSyncStatus> {
        let since = self.last_read(sync).unwrap_or(self.started);
        let previous = self.previous(sync);
        verdict::missed(&previous, error.reason(), chain(error), since, interval(sync), now)
    }

    fn measure(&self, sync: &VaultCertSync, outcome: &Outcome<VaultCertSyncStatus>) {
        let readings = outcome.status.certificates.iter().map(|one| CertificateReading {
            name: one.name.clone(),
            state: one.state.as_str(),
            not_after: one.not_after.as_deref().and_then(|time| time.parse().ok()),
        });
        let namespace = sync.namespace().unwrap_or_default();
        self.metrics.certificates(&namespace, &sync.name_any(), readings.collect());
    }
}

/// Nothing to do, and nothing new to say but the passing of time.
fn settled(
    previous: VaultCertSyncStatus,
    interval: Duration,
    now: Timestamp,
) -> Outcome<VaultCertSyncStatus> {
    let certificates = previous.certificates.clone();
    verdict::told(previous, certificates, &Extent::whole(now), interval, now)
}

/// Waiting for another object, denied, or impossible: what is delivered stays.
fn refused(mut status: VaultCertSyncStatus, refusal: &Refusal) -> Outcome<VaultCertSyncStatus> {
    // What other objects say now is not what this one delivered.
    if matches!(refusal, Refusal::RoleNotFound(_)) {
        status.vault_role = None;
    }
    let kept = |kind| Verdict::kept(kind, &status.conditions, SyncReason::word);
    let others = ["Expiring", "Stale"].into_iter().filter_map(kept);
    let mut verdicts = vec![Verdict::no("Ready", refusal.reason(), refusal.to_string())];
    verdicts.extend(others);
    let stuck = refusal.retry() == Retry::WhenChanged;
    let progress = if stuck { Progress::Stalled } else { Progress::Waiting };
    Outcome { status, progress, verdicts, notes: Vec::new(), next: Next::Retry(refusal.retry()) }
}

fn sync_key(sync: &VaultCertSync) -> SyncKey {
    (sync.namespace().unwrap_or_default(), sync.name_any())
}

fn interval(sync: &VaultCertSync) -> Duration {
    sync.spec.refresh_interval.duration().max(SHORTEST_INTERVAL)
}

/// When the source is to be read again: at the tick, or because of a certificate that ends.
fn due(interval: Duration, near: Duration, uid: &str, now: Timestamp) -> Timestamp {
    // A little early, so that the pass of the tick itself never comes too soon; what is not a tick is
    // jittered by a tenth.
    let tick = until_tick(interval, uid, now).saturating_sub(Duration::from_secs(1));
    let wait = tick.min(near * 9 / 10);
    jiff::SignedDuration::try_from(wait)
        .ok()
        .and_then(|wait| now.checked_add(wait).ok())
        .unwrap_or(now)
}

fn refresh(sync: &VaultCertSync) -> Option<String> {
    sync.annotations().get(REFRESH_ANNOTATION).cloned()
}

fn owner(sync: &VaultCertSync) -> OwnerReference {
    OwnerReference {
        api_version: VaultCertSync::api_version(&()).into_owned(),
        kind: VaultCertSync::kind(&()).into_owned(),
        name: sync.name_any(),
        uid: sync.uid().unwrap_or_default(),
        controller: Some(true),
        // Unset: some clusters would ask for a right on finalizers.
        block_owner_deletion: None,
    }
}
