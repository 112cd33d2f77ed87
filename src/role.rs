//! VaultAwsRole: an IAM role that may log in to Vault, confined by one policy to its own certificates.
//!
//! One pass, in reading order:
//!
//! ```text
//! backend, namespace ─▶ [desired] ─▶ observe ─▶ [claim] ─▶ [plan] ─▶ apply ─▶ read back ─▶ outcome
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
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{Resource, ResourceExt, core::PartialObjectMeta};

use crate::{
    connection::{self, Connections},
    controller::{
        condition::{self, READY},
        pass::{Cleanup, Next, Note, Outcome, Progress, Reconcile, Status, Verdict},
        watch::Store,
    },
    crd::{
        BackendReason, LastChange, RoleReason, VaultAwsBackend, VaultAwsRole, VaultAwsRoleStatus,
    },
    fault::{Fault, Retry, chain},
    lock::lock,
    vault::{self, AwsRefusal, Caller},
};

pub mod apply;
pub mod claim;
pub mod desired;
pub mod isolation;
pub mod observe;
pub mod plan;
pub mod policy;
mod withdrawal;

use claim::{Claim, Foreign};
use desired::{Desired, Names, Refusal};
use observe::Observed;
use plan::Plan;

/// How long a cleanup that failed rests. It does not grow: the time until we let go is bounded.
const CLEANUP_RETRY: Duration = Duration::from_secs(10);

/// The reconciler of VaultAwsRoles.
pub struct Roles {
    stores: Stores,
    connections: Arc<Connections>,
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
}

impl Roles {
    /// `cleanup_timeout`: how long after its deletion a resource may wait for Vault before it is let
    /// go.
    pub fn new(stores: Stores, connections: Arc<Connections>, cleanup_timeout: Duration) -> Self {
        Self { stores, connections, cleanup_timeout, tried: Mutex::default() }
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
        let removed = match self.remove(role).await {
            Err(Remains { token_of: Some(backend), .. }) => {
                self.connections.token_refused(&backend);
                self.remove(role).await
            }
            removed => removed,
        };
        let Err(remains) = removed else { return Ok(Cleanup::Done(None)) };
        // An operator that was down all the time gets two attempts, whatever the clock says.
        if self.tried_before(role) && overdue(role, self.cleanup_timeout, now) {
            let note = remains.orphan(role);
            tracing::warn!(
                namespace = role.namespace(),
                name = role.name_any(),
                "{}",
                note.message
            );
            return Ok(Cleanup::Done(Some(note)));
        }
        Ok(Cleanup::NotYet(remains.outcome(role)))
    }

    fn resting(&self, role: &VaultAwsRole) -> Option<Duration> {
        Some(role.spec.drift_interval.duration())
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
        let vault = self.connections.operator(backend).await?;
        if let Some(refusal) = desired.guards(&self.connections.own_policies(backend)) {
            return Ok(Hold::from(refusal).outcome(role));
        }
        let observed = observe::observe(&vault, &desired.names).await?;
        let claim = claim::claim(&desired.names, &desired.owner, recorded_id(role), &observed);
        if let Some(conflict) = self.conflict(role, backend, desired, &claim) {
            return Ok(conflict.outcome(role));
        }
        let plan = plan::plan(desired, &observed);
        apply::apply(&vault, &plan).await?;
        let settled =
            if plan.steps.is_empty() { observed } else { read_back(&vault, desired).await? };
        Ok(outcome(role, desired, &settled, &plan, now))
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

    /// Deletes what is ours. It needs no tenancy: what we wrote has to go even if the grant is gone.
    async fn remove(&self, role: &VaultAwsRole) -> Result<(), Remains> {
        let written = is_written(role);
        let missing = |backend: &str| {
            if written {
                Err(Remains::waiting(format!(
                    "waiting for VaultAwsBackend `{backend}`, to delete role and policy in its Vault"
                )))
            } else {
                Ok(())
            }
        };
        let Ok(backend) = self.backend(role) else { return missing(&role.spec.backend_ref.name) };
        let Some(cluster) = cluster(&backend) else { return missing(&backend.name_any()) };
        let names = Names::recorded(role, &backend.spec)
            .or_else(|| Names::derive(role, &backend.spec).ok());
        let Some(names) = names else { return Ok(()) };
        self.remove_from(role, &backend, &names, cluster)
            .await
            .map(drop)
            .map_err(|error| Remains::failed(&error, backend.clone()))
    }

    async fn remove_from(
        &self,
        role: &VaultAwsRole,
        backend: &VaultAwsBackend,
        names: &Names,
        cluster: &str,
    ) -> Result<Plan, Error> {
        let vault = self.connections.operator(backend).await?;
        let observed = observe::observe(&vault, names).await?;
        let owner = names.marker(role, cluster);
        let removable = claim::removable(names, &owner, recorded_id(role), &observed);
        let plan = plan::removal(names, removable);
        apply::apply(&vault, &plan).await?;
        Ok(plan)
    }

    /// Remembers that this process tried, and says whether it had before.
    fn tried_before(&self, role: &VaultAwsRole) -> bool {
        let uid = role.uid().unwrap_or_default();
        let key = (role.namespace().unwrap_or_default(), role.name_any());
        self.tried().insert(key, uid.clone()) == Some(uid)
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
    let rest = plan::plan(desired, &observed);
    if rest.steps.is_empty() {
        Ok(observed)
    } else {
        Err(Error::ReadBack { role: desired.names.role.clone(), differs: rest.summary() })
    }
}

/// What a pass that came to its end tells.
fn outcome(
    role: &VaultAwsRole,
    desired: &Desired,
    settled: &Observed,
    plan: &Plan,
    now: Timestamp,
) -> Outcome<VaultAwsRoleStatus> {
    let Names { mount, role: name, policy } = &desired.names;
    let (progress, verdict) = if plan.stuck.is_empty() {
        let message =
            format!("role `{name}` at auth/{mount} and policy `{policy}` are as declared");
        (Progress::Done, Verdict::yes(READY, RoleReason::Ready.as_str(), message))
    } else {
        let message = format!(
            "Vault never changes {} of an existing role: delete role `{name}` at auth/{mount} to have \
             it written anew",
            plan.stuck.join(", ")
        );
        (Progress::Stalled, Verdict::no(READY, RoleReason::RecreateNeeded.as_str(), message))
    };
    Outcome {
        status: status(role, desired, settled, plan, now),
        progress,
        verdicts: vec![verdict],
        notes: deed(role, plan).into_iter().collect(),
        next: Next::Tick(role.spec.drift_interval.duration()),
    }
}

fn status(
    role: &VaultAwsRole,
    desired: &Desired,
    settled: &Observed,
    plan: &Plan,
    now: Timestamp,
) -> VaultAwsRoleStatus {
    let previous = role.status.clone().unwrap_or_default();
    let in_vault = settled.role.clone().unwrap_or_default();
    let change = (!plan.steps.is_empty()).then(|| LastChange {
        time: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        what: plan.summary(),
    });
    VaultAwsRoleStatus {
        vault_role: Some(desired.names.role.clone()),
        policy_name: Some(desired.names.policy.clone()),
        policy_sha256: Some(policy::fingerprint(&desired.policy)),
        role_id: Some(in_vault.role_id).filter(|id| !id.is_empty()),
        bound_principal_ids: in_vault.bound_iam_principal_id,
        paths: desired.paths.clone(),
        last_change: change.or(previous.last_change),
        login: Some(desired.login.clone()),
        observed_generation: previous.observed_generation,
        conditions: previous.conditions,
    }
}

/// What was done, told once: it was new, or the spec changed, or somebody had changed it in Vault.
fn deed(role: &VaultAwsRole, plan: &Plan) -> Option<Note> {
    if plan.steps.is_empty() {
        return None;
    }
    let status = role.status.as_ref();
    let reason = if status.is_none_or(|status| status.vault_role.is_none()) {
        RoleReason::Created
    } else if status.map(|status| status.observed_generation) != role.metadata.generation {
        RoleReason::Updated
    } else {
        RoleReason::Corrected
    };
    Some(Note { warning: false, reason: reason.as_str(), message: plan.summary() })
}

/// Whether a former pass wrote the role.
fn is_written(role: &VaultAwsRole) -> bool {
    role.status.as_ref().is_some_and(|status| status.vault_role.is_some())
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

/// A role that was as declared stays so while Vault cannot be asked; `None` if it was not.
fn still_ready(role: &VaultAwsRole, next: Next) -> Option<Outcome<VaultAwsRoleStatus>> {
    let status = role.status.clone()?;
    let ready = condition::find(&status.conditions, READY)?;
    let current = Some(status.observed_generation) == role.metadata.generation;
    if !current || ready.status != "True" {
        return None;
    }
    let verdict = Verdict::yes(READY, RoleReason::Ready.as_str(), ready.message.clone());
    Some(Outcome {
        status,
        progress: Progress::Done,
        verdicts: vec![verdict],
        notes: Vec::new(),
        next,
    })
}

/// Why a pass ends before anything is written, though nothing went wrong.
struct Hold {
    reason: RoleReason,
    message: String,
    progress: Progress,
    next: Next,
    /// Whether many resources meet it at once, and this one's last state still stands.
    is_shared: bool,
    /// The backend, if it has what is written taken away.
    withdrawn: Option<Arc<VaultAwsBackend>>,
}

impl Hold {
    /// For something in Kubernetes that wakes this resource when it changes.
    fn waiting(reason: RoleReason, message: String) -> Self {
        let (progress, next) = (Progress::Waiting, Next::WhenChanged);
        Self { reason, message, progress, next, is_shared: false, withdrawn: None }
    }

    fn outcome(self, role: &VaultAwsRole) -> Outcome<VaultAwsRoleStatus> {
        Outcome {
            status: role.status.clone().unwrap_or_default(),
            progress: self.progress,
            verdicts: vec![Verdict::no(READY, self.reason.as_str(), self.message)],
            notes: Vec::new(),
            next: self.next,
        }
    }
}

impl From<Refusal> for Hold {
    fn from(refusal: Refusal) -> Self {
        let progress = match refusal {
            // A rule of the backend, or a label of the namespace, can grant it at any time.
            Refusal::Tenancy(_) => Progress::Waiting,
            // Vault may be updated.
            Refusal::Unsafe(_) => Progress::Waiting,
            Refusal::Naming(_) | Refusal::OperatorRole { .. } | Refusal::OperatorPolicy { .. } => {
                Progress::Stalled
            }
        };
        let (reason, message) = (refusal.reason(), refusal.to_string());
        let next = Next::WhenChanged;
        Self { reason, message, progress, next, is_shared: false, withdrawn: None }
    }
}

/// Why something of ours may still be in Vault.
struct Remains {
    reason: &'static str,
    message: String,
    /// The backend, if the operator's token was refused there.
    token_of: Option<Arc<VaultAwsBackend>>,
}

impl Remains {
    fn waiting(message: String) -> Self {
        Self { reason: RoleReason::CleaningUp.as_str(), message, token_of: None }
    }

    fn failed(error: &Error, backend: Arc<VaultAwsBackend>) -> Self {
        let token_of = error.is_token_invalid().then_some(backend);
        Self { reason: error.reason(), message: chain(error), token_of }
    }

    fn outcome(self, role: &VaultAwsRole) -> Outcome<VaultAwsRoleStatus> {
        Outcome {
            status: role.status.clone().unwrap_or_default(),
            progress: Progress::Waiting,
            verdicts: vec![Verdict::no(READY, self.reason, self.message)],
            notes: Vec::new(),
            next: Next::In(CLEANUP_RETRY),
        }
    }

    fn orphan(&self, role: &VaultAwsRole) -> Note {
        let status = role.status.as_ref();
        let named = |name: Option<&String>| name.map_or("(unknown)", String::as_str).to_owned();
        let role = named(status.and_then(|status| status.vault_role.as_ref()));
        let policy = named(status.and_then(|status| status.policy_name.as_ref()));
        Note {
            warning: true,
            reason: RoleReason::OrphanLeft.as_str(),
            message: format!(
                "let go; role `{role}` and policy `{policy}` may be left in Vault: {}",
                self.message
            ),
        }
    }
}

/// Whether a deleted resource has waited long enough.
fn overdue(role: &VaultAwsRole, timeout: Duration, now: Timestamp) -> bool {
    let Some(deleted) = &role.metadata.deletion_timestamp else { return false };
    Duration::try_from(now.duration_since(deleted.0)).is_ok_and(|waited| waited >= timeout)
}

/// What goes wrong in a pass.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator has no session in the backend's Vault.
    #[error(transparent)]
    Connection(#[from] connection::Error),
    /// Vault, or AWS behind it, did not do what was asked; the error says what that was.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// Vault took a write and has something else.
    #[error(
        "role `{role}` was written, but Vault reads back something else; left to do: {differs}"
    )]
    ReadBack {
        /// Name of the role.
        role: String,
        /// What would still have to be done.
        differs: String,
    },
}

impl Error {
    /// The operator's token is dead: another login can help.
    fn is_token_invalid(&self) -> bool {
        matches!(self, Self::Vault(error) if error.is_token_invalid())
    }

    fn role_reason(&self) -> RoleReason {
        use connection::Error as Connection;
        match self {
            // The backend says these of itself, in its own words.
            Self::Connection(
                Connection::Kubernetes { .. }
                | Connection::KubernetesTimeout { .. }
                | Connection::Reference { .. }
                | Connection::Unusable { .. }
                | Connection::Signing(_)
                | Connection::Settings(_),
            ) => RoleReason::BackendNotReady,
            Self::Connection(error) => documented(error.reason()),
            Self::Vault(error) => match error.aws_refusal() {
                Some(refusal) => refused(refusal),
                None => documented(error.reason()),
            },
            Self::ReadBack { .. } => RoleReason::VaultRefused,
        }
    }
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        self.role_reason().as_str()
    }

    fn retry(&self) -> Retry {
        match self {
            // The backend's spec is to be changed, not this resource's.
            Self::Connection(connection::Error::Settings(_) | connection::Error::Signing(_)) => {
                Retry::Slowly
            }
            Self::Connection(error) => error.retry(),
            Self::Vault(error) => error.retry(),
            // Another writer, or a standby that is behind.
            Self::ReadBack { .. } => Retry::Soon,
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Connection(error) => error.is_shared(),
            Self::Vault(error) => error.is_shared(),
            Self::ReadBack { .. } => false,
        }
    }
}

/// The reason of that name. A dead token is the operator's login to renew.
fn documented(word: &str) -> RoleReason {
    match word {
        "TokenInvalid" => RoleReason::LoginFailed,
        word => RoleReason::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == word)
            .unwrap_or(RoleReason::VaultError),
    }
}

/// What AWS, or Vault's AWS method, did not like about the write of a role.
fn refused(refusal: AwsRefusal) -> RoleReason {
    match refusal {
        AwsRefusal::PrincipalNotFound => RoleReason::PrincipalNotFound,
        AwsRefusal::NoStsConfiguration => RoleReason::NoStsConfiguration,
        AwsRefusal::BadVaultAwsKeys => RoleReason::BadVaultAwsKeys,
        AwsRefusal::VaultAwsDenied => RoleReason::VaultAwsDenied,
        AwsRefusal::StsUnreachable => RoleReason::StsUnreachable,
        AwsRefusal::Throttled => RoleReason::AwsThrottled,
        AwsRefusal::PrincipalInvalid
        | AwsRefusal::PrincipalMismatch
        | AwsRefusal::EntryNotFound
        | AwsRefusal::AuthTypeMismatch
        | AwsRefusal::RegionMismatch
        | AwsRefusal::ServerIdMismatch
        | AwsRefusal::HeaderRefused
        | AwsRefusal::SignatureExpired
        | AwsRefusal::SignatureRefused
        | AwsRefusal::CredentialsInvalid
        | AwsRefusal::NotReady
        | AwsRefusal::Other => RoleReason::VaultRefused,
    }
}

impl Status for VaultAwsRoleStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn conclude(&mut self, conditions: Vec<Condition>, observed_generation: i64) {
        self.conditions = conditions;
        self.observed_generation = observed_generation;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        role::desired::tests::{backend, desired, role},
        vault::Cause,
    };

    const NOW: &str = "2026-03-01T12:00:00.123456Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn in_vault(id: &str) -> Observed {
        let role = plan::tests::role(json!({"role_id": id}));
        Observed { role: Some(role), policy: Some(desired(json!({}), json!({})).policy) }
    }

    /// The outcome of a pass over this resource that found this in Vault and then made it right.
    fn after(resource: &VaultAwsRole, found: &Observed) -> Outcome<VaultAwsRoleStatus> {
        let desired = desired(json!({}), json!({}));
        let plan = plan::plan(&desired, found);
        let settled = if plan.steps.is_empty() { found.clone() } else { in_vault("id-1") };
        outcome(resource, &desired, &settled, &plan, now())
    }

    fn written(status: Value) -> VaultAwsRole {
        let mut resource = role("web", json!({}));
        let mut known = json!({
            "observedGeneration": 1,
            "vaultRole": "web",
            "policyName": "vaultaws-web-policy",
            "roleId": "id-1",
            "lastChange": {"time": "2026-01-01T00:00:00Z", "what": "write role web"},
        });
        for (key, value) in status.as_object().unwrap() {
            known[key] = value.clone();
        }
        resource.status = Some(serde_json::from_value(known).unwrap());
        resource
    }

    fn notes(outcome: &Outcome<VaultAwsRoleStatus>) -> Vec<(&str, &str)> {
        outcome.notes.iter().map(|note| (note.reason, note.message.as_str())).collect()
    }

    #[test]
    fn a_new_role_is_told_of_with_all_that_a_client_needs() {
        let outcome = after(&role("web", json!({})), &Observed::default());
        assert_eq!(outcome.progress, Progress::Done);
        assert_eq!(
            notes(&outcome),
            [("Created", "write policy vaultaws-web-policy; write role web")]
        );
        assert_eq!(
            serde_json::to_value(&outcome.status).unwrap(),
            json!({
                "observedGeneration": 0,
                "vaultRole": "web",
                "policyName": "vaultaws-web-policy",
                "policySha256": policy::fingerprint(&desired(json!({}), json!({})).policy),
                "roleId": "id-1",
                "paths": [
                    "secret/data/certs/111122223333/web/*",
                    "secret/metadata/certs/111122223333/web/*",
                    "secret/metadata/certs/111122223333/web/",
                ],
                "lastChange": {
                    "time": "2026-03-01T12:00:00Z",
                    "what": "write policy vaultaws-web-policy; write role web",
                },
                "login": "vault login -method=aws role=web header_value=vault.example.com",
            })
        );
    }

    #[test]
    fn an_unchanged_pass_tells_nothing_and_keeps_the_last_change() {
        let resource = written(json!({}));
        let outcome = after(&resource, &in_vault("id-1"));
        assert_eq!(notes(&outcome), []);
        assert_eq!(outcome.status.last_change, resource.status.unwrap().last_change);
        assert_eq!(outcome.verdicts[0].reason, "Ready");
        assert_eq!(outcome.next, Next::Tick(Duration::from_secs(900)));
    }

    #[test]
    fn drift_is_told_as_a_correction_that_names_the_fields() {
        let mut found = in_vault("id-1");
        found.role = Some(plan::tests::role(json!({"role_id": "id-1", "token_policies": ["x"]})));
        let outcome = after(&written(json!({})), &found);
        assert_eq!(notes(&outcome), [("Corrected", "write role web: token_policies")]);
    }

    #[test]
    fn a_role_that_was_deleted_by_hand_is_corrected_and_not_created() {
        let outcome = after(&written(json!({})), &Observed::default());
        assert_eq!(notes(&outcome)[0].0, "Corrected");
    }

    #[test]
    fn a_role_whose_first_write_failed_after_its_policy_is_still_new() {
        let mut resource = role("web", json!({}));
        resource.status = Some(serde_json::from_value(json!({"observedGeneration": 1})).unwrap());
        let found = Observed { role: None, ..in_vault("id-1") };
        assert_eq!(notes(&after(&resource, &found)), [("Created", "write role web")]);
    }

    #[test]
    fn a_new_generation_is_told_as_an_update() {
        let mut found = in_vault("id-1");
        found.policy = Some(found.policy.unwrap() + "\n");
        let outcome = after(&written(json!({"observedGeneration": 0})), &found);
        assert_eq!(notes(&outcome), [("Updated", "write policy vaultaws-web-policy")]);
    }

    #[test]
    fn what_vault_never_changes_stalls_the_role_and_is_looked_at_again() {
        let mut found = in_vault("id-1");
        found.role =
            Some(plan::tests::role(json!({"role_id": "id-1", "resolve_aws_unique_ids": true})));
        let outcome = after(&written(json!({})), &found);
        assert_eq!(outcome.progress, Progress::Stalled);
        assert_eq!(
            outcome.verdicts,
            [Verdict::no(
                "Ready",
                "RecreateNeeded",
                "Vault never changes resolve_aws_unique_ids of an existing role: delete role `web` \
                 at auth/aws to have it written anew"
            )]
        );
        assert_eq!(outcome.next, Next::Tick(Duration::from_secs(900)));
    }

    #[test]
    fn a_denied_tenant_keeps_the_status_of_what_is_written() {
        let resource = written(json!({}));
        let denied =
            Desired::parse(&resource, &backend(json!({"tenancy": []})), resource.labels(), "c");
        let outcome = Hold::from(denied.unwrap_err()).outcome(&resource);
        assert_eq!(outcome.progress, Progress::Waiting);
        assert_eq!(outcome.verdicts[0].reason, "TenancyDenied");
        assert_eq!(Some(outcome.status), resource.status);
        assert_eq!(outcome.next, Next::WhenChanged);
    }

    #[test]
    fn a_spec_that_cannot_be_stalls_the_role() {
        let resource = role("web", json!({"iamRole": "root"}));
        let refused =
            Desired::parse(&resource, &backend(json!({})), resource.labels(), "c").unwrap_err();
        let outcome = Hold::from(refused).outcome(&resource);
        assert_eq!(outcome.progress, Progress::Stalled);
        assert_eq!(outcome.verdicts[0].reason, "ReservedName");
    }

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

    #[test]
    fn a_deletion_is_overdue_by_its_own_time() {
        let ten_minutes = Duration::from_secs(600);
        let mut resource = role("web", json!({}));
        assert!(!overdue(&resource, ten_minutes, now()));
        for (deleted, expected) in [
            ("2026-03-01T11:50:00Z", true),
            ("2026-03-01T11:50:01Z", false),
            ("2027-01-01T00:00:00Z", false),
        ] {
            resource.metadata.deletion_timestamp = serde_json::from_value(json!(deleted)).unwrap();
            assert_eq!(overdue(&resource, ten_minutes, now()), expected, "{deleted}");
        }
    }

    #[test]
    fn what_is_let_go_is_named() {
        let remains = Remains::waiting("Vault is sealed".into());
        let note = remains.orphan(&written(json!({})));
        assert!(note.warning);
        assert_eq!(
            note.message,
            "let go; role `web` and policy `vaultaws-web-policy` may be left in Vault: Vault is \
             sealed"
        );
    }

    #[test]
    fn a_cleanup_that_failed_is_tried_again_without_growing_delays() {
        let sealed = Error::Vault(vault::Error::new("deleting role `web`", Cause::Sealed));
        let remains = Remains::failed(&sealed, Arc::new(backend(json!({}))));
        assert!(remains.token_of.is_none());
        let outcome = remains.outcome(&written(json!({})));
        assert_eq!(
            outcome.verdicts,
            [Verdict::no("Ready", "VaultSealed", "deleting role `web`: Vault is sealed")]
        );
        assert_eq!(outcome.next, Next::In(CLEANUP_RETRY));
    }

    #[test]
    fn a_refusal_of_aws_has_its_own_reason() {
        let reason = |text: &str| {
            let cause = Cause::Refused { status: 400, message: text.into() };
            Error::Vault(vault::Error::new("writing role `web`", cause)).reason()
        };
        let resolve = |why: &str| {
            format!(
                "unable to resolve ARN \"arn:aws:iam::111122223333:role/web\" to internal ID: {why}"
            )
        };
        assert_eq!(reason(&resolve("NoSuchEntity: Role web not found.")), "PrincipalNotFound");
        assert_eq!(
            reason(&resolve("no STS configuration found for account ID \"1\"")),
            "NoStsConfiguration"
        );
        assert_eq!(reason(&resolve("SignatureDoesNotMatch: x")), "BadVaultAwsKeys");
        assert_eq!(reason(&resolve("AccessDenied: x")), "VaultAwsDenied");
        assert_eq!(reason(&resolve("RequestError: send request failed")), "StsUnreachable");
        assert_eq!(reason(&resolve("Throttling: Rate exceeded")), "AwsThrottled");
        assert_eq!(reason("at least one bound parameter should be specified"), "VaultRefused");
    }

    #[test]
    fn every_reason_of_vault_is_a_documented_one() {
        let timeout = Cause::Timeout { after: Duration::from_secs(10), asks_aws: false };
        for (cause, reason) in [
            (timeout, "VaultTimeout"),
            (Cause::Sealed, "VaultSealed"),
            (Cause::NoActiveNode, "VaultSealed"),
            (Cause::TokenInvalid, "LoginFailed"),
            (Cause::Denied, "VaultDenied"),
            (Cause::NotFound { message: "x".into() }, "VaultRefused"),
            (Cause::Malformed { what: "x".into() }, "VaultAnswerMalformed"),
            (Cause::Server { status: 500, message: None }, "VaultError"),
        ] {
            let error = Error::Vault(vault::Error::new("reading role `web`", cause));
            assert_eq!(error.reason(), reason);
        }
    }
}
