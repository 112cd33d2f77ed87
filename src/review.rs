//! What manifests would change in Vault, before anybody applies them: `vault-aws plan`.
//!
//! ```text
//! files ─▶ [manifest, schema, cel] ─▶ role | sync ─▶ [judged] ─▶ [show]
//! ```
//!
//! The judgement is the controllers' own: `desired` and `claim` and `plan` of [`role`](crate::role),
//! `desired` and `plan` of [`cert`](crate::cert). What is added here is only what an API server would do
//! before (the schema), and what lies between the manifests that are looked at together. Manifests under
//! review say nothing of the Vault that is asked, and nothing of tenancy: that is the admin's to say
//! ([`Ground`]). Only requests that read are sent.

pub mod cel;
pub mod escape;
mod judged;
pub mod manifest;
mod role;
pub mod schema;
pub mod show;
mod sync;

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use serde_json::Value;

pub use self::judged::{
    Delivery, FieldChange, Isolation, Judged, PlannedSecret, PolicyChange, Review, RoleChange,
    Verdict,
};
use self::{
    manifest::{Manifest, Manifests, Object},
    schema::Schemas,
};
use crate::{
    crd::{RoleReason, VaultAwsBackend, VaultAwsRole},
    fault::{Fault as _, chain},
    role::claim,
    vault::{self, Caller},
};

/// Stands in the mark where nobody said which cluster it will be.
const NO_CLUSTER: &str = "not-known-offline";

/// What the admin says; the manifests under review are measured by it.
#[derive(Debug, Default)]
pub struct Ground {
    /// The backends; `None` if the admin said nothing.
    pub backends: Option<Vec<Manifest>>,
    /// The cluster's name in marks of ownership, if it was given beside the backends.
    pub cluster: Option<String>,
    /// Roles of the cluster, with their status.
    pub roles: Vec<VaultAwsRole>,
    /// Namespaces of the cluster and their labels.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl Ground {
    /// From the admin's manifests.
    pub fn of(manifests: Manifests, cluster: Option<String>) -> Self {
        let mut ground = Self { cluster, namespaces: manifests.namespaces, ..Self::default() };
        let backends = ground.backends.insert(Vec::new());
        for manifest in manifests.ours {
            match manifest.object {
                Object::Backend(_) => backends.push(manifest),
                Object::Role(role) => ground.roles.push(*role),
                Object::Sync(_) => {}
            }
        }
        ground
    }

    fn backend(&self, name: &str) -> Option<&VaultAwsBackend> {
        self.backends.iter().flatten().find_map(|manifest| match &manifest.object {
            Object::Backend(backend) if backend.name_any() == name => Some(&**backend),
            _ => None,
        })
    }

    fn cluster(&self, backend: &VaultAwsBackend) -> Option<String> {
        let seen = backend.status.as_ref().and_then(|status| status.cluster_id.clone());
        self.cluster.clone().or_else(|| backend.spec.cluster_id.clone()).or(seen)
    }

    fn labels(&self, namespace: &str) -> BTreeMap<String, String> {
        self.namespaces.get(namespace).cloned().unwrap_or_default()
    }
}

/// Where the answers come from.
pub trait Source {
    /// The Vault of a backend, with a token that may read; `None` offline.
    ///
    /// # Errors
    /// Why it cannot be asked.
    fn vault(&self, backend: &VaultAwsBackend) -> Result<Option<Caller>, String>;
}

/// Judges all manifests.
pub async fn review(
    manifests: Manifests,
    ground: &Ground,
    source: &impl Source,
    online: bool,
) -> Review {
    let Manifests { ours, problems, skipped, files, .. } = manifests;
    let roles: Vec<VaultAwsRole> = ours
        .iter()
        .filter_map(|one| match &one.object {
            Object::Role(role) => Some(known(role, ground)),
            _ => None,
        })
        .collect();
    let round = Round { ground, source, roles, schemas: Schemas::of_crds(), online };
    let mut resources: Vec<Judged> = Vec::new();
    // Roles first: what becomes of a sync depends on its role.
    for manifest in ours.iter().filter(|one| matches!(one.object, Object::Role(_))) {
        resources.push(round.judge(manifest, &resources).await);
    }
    for manifest in ours.iter().filter(|one| !matches!(one.object, Object::Role(_))) {
        resources.push(round.judge(manifest, &resources).await);
    }
    resources.sort_by_key(|one| {
        ours.iter().position(|manifest| {
            manifest.object.kind() == one.kind
                && manifest.object.name() == (one.namespace.clone(), one.name.clone())
        })
    });
    Review { online, files, skipped, problems, resources, not_checked: round.not_checked() }
}

/// The resource with what the cluster has of it, if the admin gave that.
fn known(role: &VaultAwsRole, ground: &Ground) -> VaultAwsRole {
    let mut role = role.clone();
    if let Some(there) = ground.roles.iter().find(|there| claim::is_same(there, &role)) {
        role.metadata.uid = there.metadata.uid.clone();
        role.metadata.creation_timestamp = there.metadata.creation_timestamp.clone();
        role.status = there.status.clone();
    }
    role
}

struct Round<'a, S> {
    ground: &'a Ground,
    source: &'a S,
    roles: Vec<VaultAwsRole>,
    schemas: Schemas,
    online: bool,
}

/// The backend of a resource, the labels of its namespace, and the cluster's name if it is known.
type Standing<'a> = (&'a VaultAwsBackend, BTreeMap<String, String>, Option<String>);

/// Why a resource does not come to its end.
struct Stop {
    verdict: Verdict,
    reason: String,
    message: String,
}

impl Stop {
    fn refused(reason: &str, message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Refused, reason: reason.to_owned(), message: message.into() }
    }

    fn failed(reason: &str, message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed, reason: reason.to_owned(), message: message.into() }
    }
}

impl From<vault::Error> for Stop {
    fn from(error: vault::Error) -> Self {
        Self::failed(error.reason(), chain(&error))
    }
}

impl<S: Source> Round<'_, S> {
    fn not_checked(&self) -> Vec<String> {
        let mut left = Vec::new();
        if self.ground.backends.is_none() {
            left.push("tenancy and names in Vault: give the admin's backend by --backend");
        }
        if !self.online {
            left.push("what Vault has: --offline");
        }
        left.push(
            "what the cluster has: Secrets, identities, and what is deleted by leaving it out",
        );
        if self.ground.roles.is_empty() {
            left.push(
                "whether an immutable field changes: give the cluster's VaultAwsRoles by --backend",
            );
        }
        let mut left: Vec<String> = left.into_iter().map(str::to_owned).collect();
        let rules = self.schemas.rules_not_understood();
        left.extend(rules.into_iter().map(|rule| format!("the rule {rule}")));
        left
    }

    async fn judge(&self, manifest: &Manifest, before: &[Judged]) -> Judged {
        let (namespace, name) = manifest.object.name();
        let mut judged = Judged {
            kind: manifest.object.kind(),
            namespace,
            name,
            place: manifest.place.to_string(),
            verdict: if self.online { Verdict::Unchanged } else { Verdict::Valid },
            reason: None,
            message: None,
            tenancy: None,
            role: None,
            policy: None,
            isolation: None,
            delivery: None,
        };
        let stopped = match &manifest.object {
            Object::Backend(backend) => self.backend(backend, manifest),
            Object::Role(role) => self.role(role, manifest, &mut judged).await,
            Object::Sync(sync) => self.sync(sync, before, &mut judged).await,
        };
        if let Err(Stop { verdict, reason, message }) = stopped {
            judged.verdict = verdict;
            judged.reason = Some(reason);
            judged.message = Some(message);
        }
        judged
    }

    /// A change of the backend is the admin's to make, and he gives the new one as the ground.
    fn backend(&self, backend: &VaultAwsBackend, manifest: &Manifest) -> Result<(), Stop> {
        let server_id = crate::naming::server_id(&backend.spec);
        crate::backend::desired::Desired::parse(&backend.spec, server_id)
            .map_err(|refusal| Stop::refused(refusal.reason(), refusal.to_string()))?;
        let Some(backends) = &self.ground.backends else { return Ok(()) };
        let name = backend.name_any();
        let differs = |what: String| {
            Err(Stop::refused(
                "BackendDiffers",
                format!(
                    "{what}; what is granted comes from --backend, never from a manifest under \
                     review: to judge by this one, give it as --backend"
                ),
            ))
        };
        let same = backends.iter().find(|one| one.object.name().1 == name);
        let Some(same) = same else { return differs(format!("--backend has no `{name}`")) };
        let mut fields = Vec::new();
        differences(&same.value["spec"], &manifest.value["spec"], "spec", &mut fields);
        if fields.is_empty() {
            return Ok(());
        }
        fields.truncate(8);
        differs(format!("it differs from that of --backend in {}", fields.join(", ")))
    }

    /// The backend, the labels of the namespace, and the cluster's name.
    fn place_of(&self, role: &VaultAwsRole) -> Result<Standing<'_>, Stop> {
        let name = &role.spec.backend_ref.name;
        let backend = self.ground.backend(name).ok_or_else(|| {
            let message = format!("--backend has no VaultAwsBackend `{name}`");
            Stop::refused(RoleReason::BackendNotFound.as_str(), message)
        })?;
        let labels = self.ground.labels(&role.namespace().unwrap_or_default());
        Ok((backend, labels, self.ground.cluster(backend)))
    }
}

/// The fields in which two values differ.
fn differences(one: &Value, other: &Value, path: &str, found: &mut Vec<String>) {
    match (one, other) {
        _ if one == other => {}
        (Value::Object(one), Value::Object(other)) => {
            let keys: std::collections::BTreeSet<&String> =
                one.keys().chain(other.keys()).collect();
            for key in keys {
                let null = Value::Null;
                let (one, other) = (one.get(key).unwrap_or(&null), other.get(key).unwrap_or(&null));
                differences(one, other, &schema::below(path, key), found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}
