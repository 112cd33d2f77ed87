//! VaultAwsRole: an IAM role that may log in to Vault, confined by one policy to its own certificates.
//!
//! One pass, in reading order:
//!
//! ```text
//! backend, namespace ─▶ [desired] ─▶ observe ─▶ [claim] ─▶ [plan] ─▶ carried ─▶ [guard] ─▶ apply
//!                    ─▶ read back ─▶ verify ─▶ outcome
//! ```
//!
//! What is in brackets is pure. Before `observe` no request goes out: a backend that is not ready, a
//! spec that cannot be and a tenant without a grant end the pass there, and keep what is written.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference};
use kube::{Resource, ResourceExt, core::PartialObjectMeta};

use crate::{
    aws::identity::Ambient,
    connection::Connections,
    controller::{
        condition::{self, READY},
        pass::{Cleanup, Next, Outcome, Progress, Reconcile, Verdict},
        watch::Store,
    },
    crd::{
        Adopt, BackendReason, Drift, RoleReason, VaultAwsBackend, VaultAwsRole, VaultAwsRoleStatus,
        VaultCertSync,
    },
    fault::{Fault, Retry, chain},
    lock::lock,
    vault::{AwsRefusal, Caller, Tenant, aws_refusal, policies},
};

pub mod adopt;
pub mod apply;
pub mod carried;
pub mod claim;
pub mod desired;
pub mod ec2;
mod error;
pub mod guard;
pub mod isolation;
pub mod observe;
pub mod plan;
pub mod policy;
pub mod principal;
mod removal;
mod report;
pub mod token;
pub mod verify;
mod withdrawal;

use carried::Shelf;
use claim::{Claim, Foreign};
use desired::{Desired, Names};
pub use error::Error;
use observe::Observed;
use plan::Plan;
use policy::Marker;
use principal::Logins;
use report::{Hold, Pass, conditions, held, still_ready};
use verify::LOGIN_VERIFIED;

/// The reconciler of VaultAwsRoles.
pub struct Roles {
    stores: Stores,
    connections: Arc<Connections>,
    /// The operator's own AWS identity, to try logins.
    ambient: Ambient,
    /// Policies that were read a moment ago.
    shelf: Shelf,
    cleanup_timeout: Duration,
    /// UIDs of resources whose cleanup this process has tried, by namespace and name.
    tried: Mutex<HashMap<(String, String), String>>,
}

/// What a pass knows without asking.
#[derive(Clone)]
pub struct Stores {
    /// The backends.
    pub backends: Store<VaultAwsBackend>,
    /// All roles, to see who else wants a name.
    pub roles: Store<VaultAwsRole>,
    /// The namespaces, for their labels.
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    /// The syncs, which log in at the roles: what they refer to, and their `Ready`.
    pub syncs: Store<VaultCertSync>,
}

impl Roles {
    /// `cleanup_timeout`: how long after its deletion a resource may wait for Vault before it is let
    /// go.
    pub fn new(
        stores: Stores,
        connections: Arc<Connections>,
        ambient: Ambient,
        cleanup_timeout: Duration,
    ) -> Self {
        let (shelf, tried) = (Shelf::default(), Mutex::default());
        Self { stores, connections, ambient, shelf, cleanup_timeout, tried }
    }
}

impl Reconcile for Roles {
    type Resource = VaultAwsRole;
    type Status = VaultAwsRoleStatus;
    type Error = Error;

    const FINALIZER: Option<&'static str> = Some("vaultaws.dev/cleanup");

    async fn apply(
        &self,
        role: &VaultAwsRole,
        now: Timestamp,
    ) -> Result<Outcome<VaultAwsRoleStatus>, Error> {
        let (backend, desired) = match self.desired(role) {
            Ok(found) => found,
            Err(hold) if hold.withdrawn.is_some() => {
                return Ok(Box::pin(self.withdraw(role, hold, now)).await);
            }
            Err(hold) if hold.is_shared => {
                let next = hold.next;
                return Ok(still_ready(role, next).unwrap_or_else(|| hold.outcome(role)));
            }
            Err(hold) => return Ok(hold.outcome(role)),
        };
        let settled = match self.settle(role, &backend, &desired, now).await {
            Err(error) if error.is_token_invalid() => {
                self.connections.token_refused(&backend);
                self.settle(role, &backend, &desired, now).await
            }
            settled => settled,
        };
        match settled {
            Err(error) if error.is_shared() => {
                still_ready(role, Next::Retry(error.retry())).ok_or(error)
            }
            settled => settled,
        }
    }

    async fn cleanup(
        &self,
        role: &VaultAwsRole,
        now: Timestamp,
    ) -> Result<Cleanup<VaultAwsRoleStatus>, Error> {
        Ok(self.clean_up(role, now).await)
    }

    fn resting(&self, role: &VaultAwsRole) -> Option<Duration> {
        Some(role.spec.drift_interval.duration())
    }

    /// The backend: whoever looks after its Vault has to clean up what a role left there.
    fn witness(&self, role: &VaultAwsRole) -> Option<ObjectReference> {
        let namespace = self.stores.namespaces.get(None, &role.namespace()?)?;
        namespace.metadata.deletion_timestamp.as_ref()?;
        let backend = self.stores.backends.get(None, &role.spec.backend_ref.name)?;
        Some(backend.object_ref(&()))
    }

    fn forget(&self, namespace: Option<&str>, name: &str) {
        self.tried().remove(&(namespace.unwrap_or_default().to_owned(), name.to_owned()));
    }
}

impl Roles {
    /// The backend and what should stand in its Vault; costs no request.
    fn desired(&self, role: &VaultAwsRole) -> Result<(Arc<VaultAwsBackend>, Desired), Hold> {
        let backend = self.backend(role)?;
        let cluster = ready(&backend)?;
        if backend.metadata.deletion_timestamp.is_some() && !is_written(role) {
            let name = backend.name_any();
            let message = format!("VaultAwsBackend `{name}` is not ready: it is being deleted");
            return Err(Hold::waiting(RoleReason::BackendNotReady, message));
        }
        let namespace = role.namespace().unwrap_or_default();
        let Some(found) = self.stores.namespaces.get(None, &namespace) else {
            return Err(Hold::waiting(
                RoleReason::NamespaceNotFound,
                format!("the namespace `{namespace}` has not been seen yet"),
            ));
        };
        match Desired::parse(role, &backend, found.labels(), cluster) {
            Ok(desired) => Ok((backend, desired)),
            Err(refusal) => {
                let withdrawn = withdrawal::of(role, &backend, &refusal).then_some(backend);
                Err(Hold { withdrawn, ..Hold::from(refusal) })
            }
        }
    }

    fn backend(&self, role: &VaultAwsRole) -> Result<Arc<VaultAwsBackend>, Hold> {
        let name = &role.spec.backend_ref.name;
        self.stores.backends.get(None, name).map(VaultAwsBackend::in_effect).ok_or_else(|| {
            Hold::waiting(
                RoleReason::BackendNotFound,
                format!("there is no VaultAwsBackend `{name}`"),
            )
        })
    }

    async fn settle(
        &self,
        role: &VaultAwsRole,
        backend: &VaultAwsBackend,
        desired: &Desired,
        now: Timestamp,
    ) -> Result<Outcome<VaultAwsRoleStatus>, Error> {
        let vault = self.connections.operator(backend, tenant(role)).await?;
        if let Some(refusal) = desired.guards(&self.connections.own_policies(backend)) {
            return Ok(Hold::from(refusal).outcome(role));
        }
        let observed = observe::observe(&vault, &desired.names).await?;
        let claim = claim::claim(&desired.names, &desired.owner, recorded_id(role), &observed);
        let adoption = match claim {
            Claim::Foreign(_) if desired.adopt != Adopt::Never => {
                Some(self.adoption(role, backend, desired, &observed, &vault).await?)
            }
            Claim::Foreign(_) | Claim::Free | Claim::Ours => None,
        };
        let adopted = matches!(adoption, Some(Ok(())));
        let conflict = if adopted { None } else { self.conflict(role, backend, desired, &claim) };
        if let Some(mut conflict) = conflict {
            if let Some(Err(why)) = adoption {
                conflict.message.push_str(&format!("; not adopted: {why}"));
            }
            return Ok(conflict.outcome(role));
        }
        let plan = plan::plan(desired, &observed);
        let carried = self.shelf.reader(&vault, backend).carried(desired, &observed).await?;
        let judged = guard::judge(desired, &carried);
        if let Some(progress) = judged.holds(desired, &observed, &plan) {
            return Ok(held(role, &judged, progress));
        }
        let settled = if plan.steps.is_empty() || desired.drift == Drift::Report {
            observed
        } else {
            apply::apply(&vault, &plan).await?;
            read_back(&vault, desired).await?
        };
        let pass = Pass { desired, settled: &settled, plan: &plan, adopted };
        let mut outcome = pass.outcome(role, now);
        outcome.notes.extend(judged.note(conditions(role)));
        outcome.verdicts.push(judged.condition());
        outcome.status.also_reaches = judged.also_reaches();
        self.verify(role, backend, desired, &plan, &mut outcome).await?;
        let logins = self.logins(role, &outcome.verdicts);
        let current = settled.role.as_ref().and_then(|role| principal::current(role, &logins));
        outcome.verdicts.extend(current);
        Ok(outcome)
    }

    /// Tries the login where that was asked for, once per change: not again while the last try went well
    /// and nothing was written since.
    async fn verify(
        &self,
        role: &VaultAwsRole,
        backend: &VaultAwsBackend,
        desired: &Desired,
        plan: &Plan,
        outcome: &mut Outcome<VaultAwsRoleStatus>,
    ) -> Result<(), Error> {
        let Some(verify) = &desired.verify else { return Ok(()) };
        let status = role.status.as_ref();
        let last = Verdict::kept(LOGIN_VERIFIED, conditions(role), RoleReason::word);
        let same = status.map(|status| status.observed_generation) == role.metadata.generation
            && status.is_some_and(|status| status.role_id == outcome.status.role_id)
            && (plan.steps.is_empty() || desired.drift == Drift::Report);
        let good = last.as_ref().is_some_and(|last| last.holds == Some(true));
        if (same && good) || outcome.progress != Progress::Done {
            outcome.verdicts.extend(last);
            return Ok(());
        }
        let client = self.connections.client(backend, tenant(role)).await?;
        let place = (desired.names.mount.as_str(), desired.names.role.as_str());
        // A login is rare and its future large.
        let tried = Box::pin(verify::log_in(&self.ambient, &client, place, verify)).await;
        let (holds, reason, message) = match tried {
            Ok(()) => (
                Some(true),
                RoleReason::LoginVerified.as_str(),
                format!("the operator logged in at role `{}` as {}", place.1, verify.arn),
            ),
            Err(error) => {
                // Of a login that could not be tried nobody knows how it would end.
                let holds = if error.is_shared() { None } else { Some(false) };
                if error.retry() != Retry::WhenChanged {
                    outcome.next = Next::Retry(error.retry());
                }
                (holds, verify::reason(&error).as_str(), chain(&error))
            }
        };
        let verdict = Verdict { kind: LOGIN_VERIFIED, holds, reason, message };
        outcome.notes.extend(guard::transition(&verdict, conditions(role)));
        outcome.verdicts.push(verdict);
        Ok(())
    }

    /// Whether what is not ours may be taken over; else why not.
    async fn adoption(
        &self,
        role: &VaultAwsRole,
        backend: &VaultAwsBackend,
        desired: &Desired,
        observed: &Observed,
        vault: &Caller,
    ) -> Result<Result<(), String>, Error> {
        if self.rival(role, backend, &desired.names).is_some() || self.is_held(role, observed) {
            return Ok(Err("another resource has it".into()));
        }
        let named = marks(vault, &desired.names, observed).await?;
        Ok(adopt::judge(desired, observed, &named))
    }

    /// Whether another resource has written this very role.
    fn is_held(&self, role: &VaultAwsRole, observed: &Observed) -> bool {
        let id = observed.role.as_ref().map(|role| role.role_id.as_str());
        self.stores
            .roles
            .state()
            .into_iter()
            .any(|other| !claim::is_same(&other, role) && id.is_some() && recorded_id(&other) == id)
    }

    /// What the operator's own login and the syncs that use this role tell.
    fn logins(&self, role: &VaultAwsRole, verdicts: &[Verdict]) -> Logins {
        let mut logins = Logins::default();
        if let Some(own) = verdicts.iter().find(|verdict| verdict.kind == LOGIN_VERIFIED) {
            let who = Some("the operator".to_owned());
            if own.holds == Some(true) {
                logins.good = who;
            } else if aws_refusal(&own.message) == AwsRefusal::PrincipalMismatch {
                logins.refused = who;
            }
        }
        for sync in self.stores.syncs.select(|sync| {
            sync.namespace() == role.namespace() && sync.role_name() == Some(role.name_any())
        }) {
            let status = sync.status.as_ref();
            let ready = status.and_then(|status| condition::find(&status.conditions, READY));
            let slot = match ready {
                Some(ready) if ready.status == "True" => &mut logins.good,
                Some(ready) if aws_refusal(&ready.message) == AwsRefusal::PrincipalMismatch => {
                    &mut logins.refused
                }
                Some(_) | None => continue,
            };
            // The first by name, so that the message stays the same.
            let name = format!("VaultCertSync `{}`", sync.name_any());
            if slot.as_ref().is_none_or(|first| name < *first) {
                *slot = Some(name);
            }
        }
        logins
    }

    /// Why nothing may be written. Tenants are not told whose it is; the log is.
    fn conflict(
        &self,
        role: &VaultAwsRole,
        backend: &VaultAwsBackend,
        desired: &Desired,
        claim: &Claim,
    ) -> Option<Hold> {
        let (kind, name, owner) = match claim {
            Claim::Ours => return None,
            Claim::Foreign(Foreign { kind, name, owner }) => {
                let owner = owner
                    .as_ref()
                    .map_or_else(|| "nobody we know".into(), |owner| format!("{owner}"));
                (*kind, name, owner)
            }
            Claim::Free => {
                let rival = self.rival(role, backend, &desired.names)?;
                let owner = format!(
                    "VaultAwsRole {}/{}, which came first",
                    rival.namespace().unwrap_or_default(),
                    rival.name_any()
                );
                ("role", &desired.names.role, owner)
            }
        };
        tracing::info!(
            namespace = role.namespace(),
            name = role.name_any(),
            mount = desired.names.mount,
            owner,
            "Conflict over {kind} `{name}`"
        );
        Some(Hold {
            reason: RoleReason::Conflict,
            message: format!("{kind} `{name}` is owned by another resource"),
            progress: Progress::Waiting,
            next: Next::Retry(Retry::Slowly),
            is_shared: false,
            withdrawn: None,
        })
    }

    /// Another resource that may have one of these names and goes first.
    fn rival(
        &self,
        role: &VaultAwsRole,
        backend: &VaultAwsBackend,
        names: &Names,
    ) -> Option<Arc<VaultAwsRole>> {
        let wants = |other: &VaultAwsRole| {
            let other_backend =
                self.stores.backends.get(None, &other.spec.backend_ref.name)?.in_effect();
            let derived = Names::derive(other, &other_backend.spec).ok()?;
            if !claim::collide((names, backend), (&derived, &other_backend)) {
                return None;
            }
            // Without a grant it would keep the name from those who have one.
            let namespace = self.stores.namespaces.get(None, &other.namespace()?)?;
            Desired::parse(other, &other_backend, namespace.labels(), "").ok()
        };
        self.stores.roles.state().into_iter().find(|other| {
            !claim::is_same(other, role)
                && other.meta().deletion_timestamp.is_none()
                && claim::precedes(other, role)
                && wants(other).is_some()
        })
    }

    fn tried(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), String>> {
        lock(&self.tried)
    }
}

/// What Vault made of what was written. A field that it does not know is dropped without a word, so
/// only reading tells; and the role's ID is Vault's to give.
async fn read_back(vault: &Caller, desired: &Desired) -> Result<Observed, Error> {
    let observed = Observed {
        role: observe::read_role(vault, &desired.names).await?,
        policy: Some(desired.policy.clone()),
    };
    // Looking the principals up is done with one write.
    let rest = plan::plan(&Desired { rebind: false, ..desired.clone() }, &observed);
    if rest.steps.is_empty() {
        Ok(observed)
    } else {
        Err(Error::ReadBack { role: desired.names.role.clone(), differs: rest.summary() })
    }
}

/// The most policies of a role that are read to see whose it is.
const MARKS_READ: usize = 16;

/// The marks on the policies that a role names, of those that we may read.
pub(crate) async fn marks(
    vault: &Caller,
    names: &Names,
    observed: &Observed,
) -> Result<Vec<Marker>, crate::vault::Error> {
    let mut found = Vec::new();
    let named = observed.role.iter().flat_map(|role| &role.token_policies);
    let mut named: Vec<String> = named.map(|name| name.trim().to_ascii_lowercase()).collect();
    named.retain(|name| *name != names.policy);
    named.dedup();
    for name in named.iter().take(MARKS_READ) {
        match policies::read(vault, name).await {
            Ok(text) => found.extend(text.as_deref().and_then(Marker::parse)),
            Err(error) if error.is_denied() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether a former pass wrote the role.
fn is_written(role: &VaultAwsRole) -> bool {
    role.status.as_ref().is_some_and(|status| status.vault_role.is_some())
}

/// On whose behalf Vault is asked.
fn tenant(role: &VaultAwsRole) -> Tenant {
    Tenant::of(role.metadata.namespace.as_deref().unwrap_or_default())
}

/// The ID of the role as the last pass that found it ours recorded it.
fn recorded_id(role: &VaultAwsRole) -> Option<&str> {
    role.status.as_ref()?.role_id.as_deref()
}

/// The name of this Kubernetes cluster in marks of ownership; `None` before the backend's first pass.
fn cluster(backend: &VaultAwsBackend) -> Option<&str> {
    let status = backend.status.as_ref();
    backend.spec.cluster_id.as_deref().or_else(|| status?.cluster_id.as_deref())
}

/// Whether the backend may be used, as its own controller says; returns the cluster's name.
fn ready(backend: &VaultAwsBackend) -> Result<&str, Hold> {
    let not_ready = |why: &str| {
        let name = backend.name_any();
        let message = format!("VaultAwsBackend `{name}` is not ready: {why}");
        Hold::waiting(RoleReason::BackendNotReady, message)
    };
    let ready = backend
        .status
        .as_ref()
        .filter(|status| Some(status.observed_generation) == backend.metadata.generation)
        .and_then(|status| condition::find(&status.conditions, READY))
        .ok_or_else(|| not_ready("it has not been looked at yet"))?;
    if !VaultAwsBackend::serves(ready) {
        let is_shared = SHARED.iter().any(|shared| shared.as_str() == ready.reason);
        return Err(Hold { is_shared, ..not_ready(&ready.reason) });
    }
    cluster(backend).ok_or_else(|| not_ready("it has no clusterId yet"))
}

/// Faults of a backend that say nothing of its roles: it tells of them once, for all.
const SHARED: [BackendReason; 5] = [
    BackendReason::VaultUnreachable,
    BackendReason::VaultSealed,
    BackendReason::VaultTimeout,
    BackendReason::VaultThrottled,
    BackendReason::VaultError,
];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::role::desired::tests::backend;

    fn with_status(status: Value) -> VaultAwsBackend {
        let mut backend = backend(json!({}));
        backend.status = Some(serde_json::from_value(status).unwrap());
        backend
    }

    fn judged(status: &str, reason: &str) -> Value {
        json!([{
            "type": "Ready",
            "status": status,
            "reason": reason,
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }])
    }

    fn waits_for(backend: &VaultAwsBackend) -> String {
        let hold = ready(backend).err().unwrap();
        assert_eq!(hold.reason, RoleReason::BackendNotReady);
        hold.message
    }

    #[test]
    fn a_backend_that_nobody_has_looked_at_is_waited_for() {
        let unseen = "VaultAwsBackend `default` is not ready: it has not been looked at yet";
        assert_eq!(waits_for(&backend(json!({}))), unseen);
        let stale = with_status(json!({
            "observedGeneration": 0, "clusterId": "c", "conditions": judged("True", "Ready"),
        }));
        assert_eq!(waits_for(&stale), unseen);
    }

    #[test]
    fn a_backend_that_is_not_ready_is_waited_for_by_its_reason() {
        for status in ["False", "Unknown"] {
            let backend = with_status(json!({
                "observedGeneration": 1,
                "clusterId": "c",
                "conditions": judged(status, "NamespacesUnsupported"),
            }));
            assert_eq!(
                waits_for(&backend),
                "VaultAwsBackend `default` is not ready: NamespacesUnsupported"
            );
        }
    }

    #[test]
    fn a_ready_backend_names_the_cluster() {
        let backend = with_status(json!({
            "observedGeneration": 1, "clusterId": "c", "conditions": judged("True", "Ready"),
        }));
        assert_eq!(ready(&backend).ok(), Some("c"));
    }
}
