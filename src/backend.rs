//! VaultAwsBackend: what every role and sync depends on, looked at once for all of them.
//!
//! A fault that all of them share (Vault down, sealed, throttled) is said here, at once, so that it
//! need not be said a thousand times. Vault's health is looked at often and costs one request that
//! needs no token; the mounts are compared when the spec changes, after a fault, and every few minutes.

pub mod apply;
pub mod desired;
pub mod fingerprint;
pub mod managed;
mod mount;
pub mod observe;
pub mod plan;
pub mod usage;
pub mod version;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{ResourceExt, core::PartialObjectMeta};

use self::{
    desired::{Desired, Refusal},
    mount::Memory,
    observe::Observed,
    usage::{Uncounted, Users, counted},
};
use crate::{
    connection::{self, Connections},
    controller::{
        pass::{Cleanup, Next, Note, Outcome, Progress, Reconcile, Status, Verdict},
        watch::Store,
    },
    crd::{BackendReason, InEffect, VaultAwsBackend, VaultAwsBackendStatus},
    fault::{Fault, Retry, chain},
    lock::lock,
    naming::server_id,
    telemetry::Metrics,
    vault::{
        self, Tenant,
        health::{self, Health},
    },
};

/// Between two looks at Vault's health.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks while Vault cannot serve.
const OUTAGE_INTERVAL: Duration = Duration::from_secs(3);
/// Reconciles VaultAwsBackends.
pub struct Backends {
    /// For the UID of kube-system.
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    /// Vault clients, and the operator's own sessions.
    pub connections: Arc<Connections>,
    /// For what is counted.
    pub metrics: Metrics,
    /// What is remembered of the mounts of each backend.
    memories: Mutex<HashMap<String, Memory>>,
    /// Who uses a backend.
    users: Users,
}

impl Backends {
    /// That has looked at nothing yet.
    pub fn new(
        namespaces: Store<PartialObjectMeta<Namespace>>,
        connections: Arc<Connections>,
        metrics: Metrics,
        users: Users,
    ) -> Self {
        Self { namespaces, connections, metrics, memories: Mutex::default(), users }
    }
}

/// What goes wrong in a pass; every one of them is told as an outcome, with the conditions that say
/// which link broke.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec cannot work.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A reference or the operator's login.
    #[error(transparent)]
    Connection(#[from] connection::Error),
    /// Vault.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// Vault cannot serve.
    #[error("Vault is {0}")]
    NotServing(&'static str),
    /// A namespace is set where there are none.
    #[error(
        "vault.namespace is set, but {0} has no namespaces and would ignore it: nothing is written; \
         remove it"
    )]
    NamespacesUnsupported(&'static str),
    /// The mount is missing and not ours to enable.
    #[error("there is no auth mount at auth/{0}; enable it, or set auth.management: Managed")]
    MountNotFound(String),
    /// Something else is mounted there.
    #[error("auth/{mount} is of type {kind}, not {wanted}")]
    MountConflict {
        /// The mount.
        mount: String,
        /// Its type.
        kind: String,
        /// What it is to be.
        wanted: String,
    },
    /// The certificates' mount is something else.
    #[error("the mount {0} is not KV version 2; certificates.mount must name a KV v2 engine")]
    NotKvV2(String),
    /// The certificates' mount cannot be seen.
    #[error(
        "the operator cannot see the mount {0}: there is none, or its Vault policy grants nothing in it"
    )]
    KvDenied(String),
    /// A field changes that may be in use.
    #[error(transparent)]
    Uncounted(#[from] Uncounted),
    /// kube-system is not in the cache yet.
    #[error("the UID of namespace kube-system is not known yet; or set clusterId")]
    ClusterUnknown,
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => return refusal.reason(),
            Self::Connection(error) => return error.reason(),
            Self::Vault(error) => return error.reason(),
            Self::NotServing(_) => BackendReason::VaultSealed,
            Self::NamespacesUnsupported(_) => BackendReason::NamespacesUnsupported,
            Self::MountNotFound(_) => BackendReason::MountNotFound,
            Self::MountConflict { .. } => BackendReason::MountConflict,
            Self::NotKvV2(_) => BackendReason::NotKvV2,
            Self::KvDenied(_) => BackendReason::VaultDenied,
            Self::ClusterUnknown | Self::Uncounted(_) => BackendReason::KubernetesError,
        }
        .as_str()
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Refused(refusal) => refusal.retry(),
            Self::Connection(error) => error.retry(),
            Self::Vault(error) => error.retry(),
            Self::NotServing(_) | Self::ClusterUnknown | Self::Uncounted(_) => Retry::Soon,
            Self::NamespacesUnsupported(_)
            | Self::MountNotFound(_)
            | Self::MountConflict { .. }
            | Self::NotKvV2(_)
            | Self::KvDenied(_) => Retry::After(Duration::from_secs(15)),
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Connection(error) => error.is_shared(),
            Self::Vault(error) => error.is_shared(),
            Self::NotServing(_) => true,
            _ => false,
        }
    }
}

impl Status for VaultAwsBackendStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn conclude(&mut self, conditions: Vec<Condition>, observed_generation: i64) {
        self.conditions = conditions;
        self.observed_generation = observed_generation;
    }
}

/// How far a pass came, for the conditions.
#[derive(Default)]
struct Found {
    reachable: Option<Verdict>,
    mount: Option<Verdict>,
    version: Option<Verdict>,
    notes: Vec<Note>,
}

impl Reconcile for Backends {
    type Resource = VaultAwsBackend;
    type Status = VaultAwsBackendStatus;
    type Error = Error;

    const FINALIZER: Option<&'static str> = Some("vaultaws.dev/cleanup");

    async fn apply(
        &self,
        backend: &VaultAwsBackend,
        now: Timestamp,
    ) -> Result<Outcome<VaultAwsBackendStatus>, Error> {
        let mut status = backend.status.clone().unwrap_or_default();
        let mut found = Found::default();
        let pass = self.pass(backend, &mut status, &mut found, now).await;
        if pass.is_err()
            && let Some(memory) = self.memories().get_mut(&backend.name_any())
        {
            // Look at the mounts again as soon as it passes.
            memory.distrust();
        }
        // A link that was not looked at in this pass is as it was.
        let kept = |kind| Verdict::kept(kind, &status.conditions, BackendReason::word);
        let reachable = found.reachable.or_else(|| kept("Reachable"));
        let mount = found.mount.or_else(|| kept("MountConfigured"));
        let version = found.version.or_else(|| kept("VersionSafe"));
        let (ready, progress, next) = match &pass {
            Ok(Some(held)) => (
                Verdict::no("Ready", BackendReason::FieldInUse.as_str(), held),
                Progress::Stalled,
                Next::In(HEALTH_INTERVAL),
            ),
            Ok(None) => (
                Verdict::yes("Ready", BackendReason::Ready.as_str(), ready_message(mount.as_ref())),
                Progress::Done,
                Next::In(HEALTH_INTERVAL),
            ),
            Err(error) => {
                let stalled = error.retry() == Retry::WhenChanged;
                (
                    Verdict::no("Ready", error.reason(), chain(error)),
                    if stalled { Progress::Stalled } else { Progress::Waiting },
                    // One look for all: it does not grow rarer, so that all go on as soon as it passes.
                    if error.is_shared() {
                        Next::In(OUTAGE_INTERVAL)
                    } else {
                        Next::Retry(error.retry())
                    },
                )
            }
        };
        let links = [reachable, mount, version].into_iter().flatten();
        let verdicts = std::iter::once(ready).chain(links).collect();
        Ok(Outcome { status, progress, verdicts, notes: found.notes, next })
    }

    async fn cleanup(
        &self,
        backend: &VaultAwsBackend,
        now: Timestamp,
    ) -> Result<Cleanup<VaultAwsBackendStatus>, Error> {
        let roles = self.users.roles_to_clean(&backend.name_any());
        if roles == 0 {
            // Deleting a backend never disables a mount.
            return Ok(Cleanup::Done(None));
        }
        // What is there goes on: a backend that is being deleted cannot be made anew before it is gone.
        let mut outcome = Box::pin(self.apply(backend, now)).await?;
        let serves = |verdict: &Verdict| {
            verdict.holds == Some(true) || verdict.reason == BackendReason::FieldInUse.as_str()
        };
        if let Some(ready) = outcome.verdicts.first_mut().filter(|verdict| serves(verdict)) {
            let message = format!(
                "{} must be cleaned up in Vault before this backend can go: delete what refers to it",
                counted(roles, 0)
            );
            *ready = Verdict::no("Ready", BackendReason::InUse.as_str(), message);
            outcome.progress = Progress::Waiting;
        }
        Ok(Cleanup::NotYet(outcome))
    }

    fn forget(&self, _: Option<&str>, name: &str) {
        self.memories().remove(name);
        self.connections.forget(name);
    }
}

impl Backends {
    /// Looks at the backend as it is in effect. `Some` says which change of the spec has to wait.
    async fn pass(
        &self,
        backend: &VaultAwsBackend,
        status: &mut VaultAwsBackendStatus,
        found: &mut Found,
        now: Timestamp,
    ) -> Result<Option<String>, Error> {
        let held = self.hold(backend, status, now).await?;
        let mut used = backend.clone();
        used.status = Some(status.clone());
        let used = Arc::new(used).in_effect();
        self.look(&used, status, found, now).await?;
        // From the first time that resources may have used it.
        status.in_effect.get_or_insert_with(|| InEffect::of(&used.spec));
        Ok(held)
    }

    /// What of the spec must wait because resources use the old value. Where none does, the new one
    /// takes effect.
    async fn hold(
        &self,
        backend: &VaultAwsBackend,
        status: &mut VaultAwsBackendStatus,
        now: Timestamp,
    ) -> Result<Option<String>, Error> {
        let Some(used) = &status.in_effect else { return Ok(None) };
        let fields = used.differing(&InEffect::of(&backend.spec));
        if fields.is_empty() {
            return Ok(None);
        }
        let name = backend.name_any();
        let roles = self.users.roles(&name);
        let syncs = Box::pin(self.users.syncs(&name, now)).await?;
        if roles + syncs > 0 {
            return Ok(Some(format!(
                "{} cannot change while {} it: the old value stays in effect (status.inEffect); put it \
                 back, or use another VaultAwsBackend",
                fields.join(", "),
                match (roles + syncs, counted(roles, syncs)) {
                    (1, one) => format!("{one} uses"),
                    (_, many) => format!("{many} use"),
                }
            )));
        }
        status.in_effect = None;
        self.memories().remove(&name);
        Ok(None)
    }

    async fn look(
        &self,
        backend: &VaultAwsBackend,
        status: &mut VaultAwsBackendStatus,
        found: &mut Found,
        now: Timestamp,
    ) -> Result<(), Error> {
        let desired = Desired::parse(&backend.spec, server_id(&backend.spec))?;
        status.cluster_id = Some(self.cluster_id(backend)?);
        let client = self.connections.client(backend, Tenant::Operator).await?;
        let health = match health::read(&client).await {
            Ok(health) if health.initialized && !health.sealed => health,
            Ok(health) => {
                let error = Error::NotServing(if health.initialized {
                    "sealed"
                } else {
                    "not initialised"
                });
                found.reachable = Some(Verdict::no("Reachable", error.reason(), error.to_string()));
                return Err(error);
            }
            Err(error) => {
                found.reachable = Some(Verdict::no("Reachable", error.reason(), chain(&error)));
                return Err(error.into());
            }
        };
        found.reachable = Some(Verdict::yes(
            "Reachable",
            BackendReason::Reachable.as_str(),
            "Vault answers and is active",
        ));
        let product = health.product();
        status.product = Some(product.name().to_owned());
        status.vault_version = Some(health.version.clone());
        if let Some(note) = moved(&mut status.vault_cluster_id, &health) {
            // The token is none of this Vault's.
            self.connections.token_refused(backend);
            tracing::warn!(backend = backend.name_any(), "{}", note.message);
            found.notes.push(note);
        }
        found.version = Some(version::verdict(product, &health.version));
        if desired.wants_namespace && !product.has_namespaces() {
            return Err(Error::NamespacesUnsupported(product.name()));
        }

        let known = self.memories().get(&backend.name_any()).cloned();
        let mut memory = Memory::of(known, backend, &health);
        let mut looked = self.mounts(backend, &desired, status, found, &mut memory, now).await;
        if matches!(&looked, Err(Error::Vault(error)) if error.is_token_invalid()) {
            self.connections.token_refused(backend);
            looked = self.mounts(backend, &desired, status, found, &mut memory, now).await;
        }
        self.memories().insert(backend.name_any(), memory);
        looked
    }

    fn cluster_id(&self, backend: &VaultAwsBackend) -> Result<String, Error> {
        if let Some(given) = &backend.spec.cluster_id {
            return Ok(given.clone());
        }
        let system =
            self.namespaces.get(None, "kube-system").and_then(|found| found.metadata.uid.clone());
        system.ok_or(Error::ClusterUnknown)
    }

    fn memories(&self) -> std::sync::MutexGuard<'_, HashMap<String, Memory>> {
        lock(&self.memories)
    }
}

/// Takes over the ID of the cluster that answered; what is to be told if it is another one than before.
fn moved(known: &mut Option<String>, health: &Health) -> Option<Note> {
    let id = health.cluster_id.clone()?;
    let before = known.replace(id.clone()).filter(|before| *before != id)?;
    Some(Note {
        warning: true,
        reason: BackendReason::VaultClusterChanged.as_str(),
        message: format!(
            "behind the address is another Vault cluster, {id}, and no longer {before}: all is compared \
             with it, and what it lacks is written; Secrets stay"
        ),
    })
}

/// What a mount lacks on which no role depends does not keep the backend from being ready.
fn ready_message(mount: Option<&Verdict>) -> &'static str {
    match mount {
        Some(mount) if mount.holds == Some(false) => {
            "Vault serves; what the auth mount lacks stands in MountConfigured"
        }
        _ => "Vault serves, and the mounts are as they should be",
    }
}

fn check_kv(desired: &Desired, observed: &Observed) -> Result<(), Error> {
    match (observed.kv_version, observed.kv_denied) {
        (Some(2), _) => Ok(()),
        (_, true) => Err(Error::KvDenied(desired.kv_mount.clone())),
        _ => Err(Error::NotKvV2(desired.kv_mount.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_is_told_once_and_one_that_does_not_say_is_no_other() {
        let health =
            |id: Option<&str>| Health { cluster_id: id.map(str::to_owned), ..Health::default() };
        let mut known = None;
        let mut told = |id| moved(&mut known, &health(id)).map(|note| note.message);
        assert_eq!(told(Some("a")), None, "the first one is no other");
        assert_eq!(told(None), None);
        assert_eq!(told(Some("a")), None);
        let message = told(Some("b")).expect("another one");
        assert!(message.contains("cluster, b, and no longer a"), "{message}");
        assert_eq!(told(Some("b")), None);
    }
}
