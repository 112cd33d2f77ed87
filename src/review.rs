//! What manifests would change in Vault, before anybody applies them: `vault-aws plan`.
//!
//! ```text
//! files ─▶ [manifest, schema, cel] ─▶ [ask] ─▶ observe ─▶ [answer] ─▶ [show]
//! ```
//!
//! The judgement is the controllers' own: `desired` and `claim` and `plan` of [`role`](crate::role),
//! `desired` and `plan` of [`cert`]. What is added here is only what an API server would
//! do before (the schema), and what lies between the manifests that are looked at together. Manifests
//! under review say nothing of the Vault that is asked, and nothing of tenancy: that is the admin's to
//! say ([`Ground`]). Only requests that read are sent.

use std::collections::BTreeMap;

use kube::{Resource as _, ResourceExt as _};
use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;

use crate::{
    cert::{
        self,
        desired::{backend_name, role_name},
    },
    controller::condition::READY,
    crd::{
        Adopt, RoleReason, SyncReason, VaultAwsBackend, VaultAwsRole, VaultAwsRoleStatus,
        VaultCertSync,
    },
    fault::{Fault as _, chain},
    role::{
        adopt,
        carried::{Carried, Held, Shelf},
        claim::{self, Claim},
        desired::{Desired, Names, Refusal},
        guard,
        observe::Observed,
        plan::{self, Step},
        policy::Marker,
    },
    vault::{self, Caller, mounts},
};

pub mod cel;
pub mod escape;
pub mod manifest;
pub mod schema;
pub mod show;

use manifest::{Manifest, Manifests, Object, Problem};
use schema::Schemas;

/// Stands in the mark of a resource that has no UID yet.
const NO_UID: &str = "assigned-when-applied";
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

/// How a resource comes out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing speaks against it, as far as can be told without Vault.
    Valid,
    /// Vault has it so.
    Unchanged,
    /// Something is written that was not there.
    Created,
    /// Something that is there is changed.
    Changed,
    /// The API server or the operator would refuse it.
    Refused,
    /// It could not be told: Vault did not answer what was asked.
    Failed,
}

/// A resource, judged.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// Its kind.
    pub kind: &'static str,
    /// Empty for a backend.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// File, document and item.
    pub place: String,
    /// How it comes out.
    pub verdict: Verdict,
    /// Why it is refused or could not be told: the word of the condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same as a sentence, or what else is to be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether a tenancy rule grants it; absent where nobody said what is granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenancy: Option<bool>,
    /// The role in Vault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleChange>,
    /// Its policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyChange>,
    /// Whether a login reaches anything of its neighbours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// What a VaultCertSync delivers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}

/// What changes of a role.
#[derive(Clone, Debug, Serialize)]
pub struct RoleChange {
    /// `auth/aws/role/web`.
    pub path: String,
    /// `none` (nothing there), `ours`, `foreign`; `unknown` offline.
    pub ownership: &'static str,
    /// The fields that are written.
    pub fields: Vec<FieldChange>,
    /// The fields that differ and that Vault never changes in an existing role.
    pub stuck: Vec<String>,
}

/// A field of a role.
#[derive(Clone, Debug, Serialize)]
pub struct FieldChange {
    /// Vault's name for it.
    pub field: String,
    /// What Vault has; `null` if there is no role, or offline.
    pub old: Value,
    /// What it shall have.
    pub new: Value,
}

/// What changes of a policy.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyChange {
    /// Its name.
    pub name: String,
    /// A unified diff; empty if nothing changes.
    pub diff: String,
}

/// Whether a login reaches anything of its neighbours.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Isolation {
    /// `null`: nobody knows.
    pub isolated: Option<bool>,
    /// The word of the condition.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// Other mounts that are reached.
    pub also_reaches: Vec<String>,
}

/// What a VaultCertSync delivers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Where the certificates lie: `secret/certs/123456789012/web`.
    pub directory: String,
    /// The Secrets, by the entry from which they are made.
    pub secrets: Vec<PlannedSecret>,
    /// Patterns that were not looked up.
    pub patterns: Vec<String>,
}

/// One Secret.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedSecret {
    /// The entry in Vault.
    pub entry: String,
    /// The Secret; `None` if there is none for it.
    pub secret: Option<String>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// All that is to be told.
#[derive(Debug)]
pub struct Review {
    /// Whether Vault was asked.
    pub online: bool,
    /// How many files were read.
    pub files: usize,
    /// How many objects of other kinds there are.
    pub skipped: BTreeMap<String, usize>,
    /// Manifests that the API server would not take.
    pub problems: Vec<Problem>,
    /// The others, in the order in which they were read.
    pub resources: Vec<Judged>,
    /// What nobody looked at.
    pub not_checked: Vec<String>,
}

impl Review {
    /// How many came out so.
    pub fn count(&self, verdicts: &[Verdict]) -> usize {
        self.resources.iter().filter(|one| verdicts.contains(&one.verdict)).count()
    }

    /// How many speak against it.
    pub fn refusals(&self) -> usize {
        self.problems.len() + self.count(&[Verdict::Refused, Verdict::Failed])
    }

    /// 1 if anything speaks against it, 2 if Vault would be changed, else 0.
    pub fn exit_code(&self) -> u8 {
        if self.refusals() > 0 {
            1
        } else if self.count(&[Verdict::Created, Verdict::Changed]) > 0 {
            2
        } else {
            0
        }
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

    async fn role(
        &self,
        role: &VaultAwsRole,
        manifest: &Manifest,
        judged: &mut Judged,
    ) -> Result<(), Stop> {
        self.unchangeable(role, manifest)?;
        if self.ground.backends.is_none() {
            return Ok(());
        }
        let mut role = known(role, self.ground);
        let (backend, labels, cluster) = self.place_of(&role)?;
        let has_uid = role.uid().is_some();
        role.metadata.uid.get_or_insert_with(|| NO_UID.to_owned());
        let parse = |role: &VaultAwsRole| {
            Desired::parse(role, backend, &labels, cluster.as_deref().unwrap_or(NO_CLUSTER))
        };
        let refused = |refusal: Refusal| Stop::refused(refusal.reason().as_str(), chain(&refusal));
        let mut desired = match parse(&role) {
            Ok(desired) => desired,
            Err(refusal @ Refusal::Suspended) => {
                judged.message = Some(refusal.to_string());
                return Ok(());
            }
            Err(refusal) => {
                let denied = refusal.reason() == RoleReason::TenancyDenied;
                judged.tenancy = denied.then_some(false);
                return Err(refused(refusal));
            }
        };
        judged.tenancy = Some(true);
        self.rival(&role, backend, &desired.names)?;
        let vault = self
            .source
            .vault(backend)
            .map_err(|message| Stop::failed(RoleReason::VaultUnreachable.as_str(), message))?;
        let Some(vault) = vault else {
            let observed = Observed::default();
            tell(judged, &desired, &observed, "unknown");
            return judge_isolation(judged, &desired, &observed, &unread(&desired));
        };
        if cluster.is_none() {
            return Err(Stop::failed(
                "ClusterUnknown",
                "whose role and policy in Vault are cannot be told without the cluster's id: \
                 --cluster-id, spec.clusterId of the backend, or its status",
            ));
        }
        let observed = crate::role::observe::observe(&vault, &desired.names).await?;
        let marker = observed.policy.as_deref().and_then(Marker::parse);
        if let Some(marker) = marker.filter(|marker| !has_uid && marker.same_owner(&desired.owner))
        {
            // The cluster gave it; who reviews a manifest cannot know it.
            role.metadata.uid = Some(marker.uid);
            desired = parse(&role).map_err(refused)?;
        }
        let recorded = role.status.as_ref().and_then(|status| status.role_id.as_deref());
        match claim::claim(&desired.names, &desired.owner, recorded, &observed) {
            Claim::Free => tell(judged, &desired, &observed, "none"),
            Claim::Ours => tell(judged, &desired, &observed, "ours"),
            Claim::Foreign(foreign) => {
                let adoption = match desired.adopt {
                    Adopt::Never => Err(String::new()),
                    Adopt::IfEqual | Adopt::Always => {
                        let named = crate::role::marks(&vault, &desired.names, &observed).await?;
                        adopt::judge(&desired, &observed, &named)
                    }
                };
                let Err(why) = adoption else {
                    tell(judged, &desired, &observed, "adopted");
                    return self.isolation(judged, &desired, &observed, backend, &vault).await;
                };
                judged.role = Some(RoleChange {
                    path: path(&desired.names),
                    ownership: "foreign",
                    fields: Vec::new(),
                    stuck: Vec::new(),
                });
                let whose = match foreign.owner {
                    Some(_) => "is owned by another resource",
                    None => "was not made by the operator",
                };
                let mut message = format!(
                    "{} `{}` {whose}: neither role nor policy would be written",
                    foreign.kind, foreign.name
                );
                if !why.is_empty() {
                    message.push_str(&format!("; not adopted: {why}"));
                }
                return Err(Stop::refused(RoleReason::Conflict.as_str(), message));
            }
        }
        self.isolation(judged, &desired, &observed, backend, &vault).await?;
        if let Some(stuck) = judged.role.as_ref().filter(|role| !role.stuck.is_empty()) {
            let message = format!(
                "Vault never changes {} of an existing role: delete it to have it written anew",
                stuck.stuck.join(", ")
            );
            return Err(Stop::refused(RoleReason::RecreateNeeded.as_str(), message));
        }
        Ok(())
    }

    /// What may never change, where it is known what was before.
    fn unchangeable(&self, role: &VaultAwsRole, manifest: &Manifest) -> Result<(), Stop> {
        let there = self.ground.roles.iter().find(|there| claim::is_same(there, role));
        let Some(Ok(there)) = there.map(serde_json::to_value) else { return Ok(()) };
        let mut value = manifest.value.clone();
        let faults = self.schemas.judge(manifest.object.kind(), &mut value, Some(&there));
        match faults.into_iter().next() {
            None => Ok(()),
            Some(fault) => {
                let message = format!("{}: {}", fault.field, fault.message);
                Err(Stop::refused("Immutable", message))
            }
        }
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

    /// Another resource that would have a role or policy of these names, and goes first.
    fn rival(
        &self,
        role: &VaultAwsRole,
        backend: &VaultAwsBackend,
        names: &Names,
    ) -> Result<(), Stop> {
        let cluster = self
            .ground
            .roles
            .iter()
            .filter(|there| !self.roles.iter().any(|one| claim::is_same(one, there)));
        let rival = self.roles.iter().chain(cluster).find(|other| {
            let wants = || {
                let (other_backend, labels, _) = self.place_of(other).ok()?;
                let derived = Names::derive(other, &other_backend.spec).ok()?;
                claim::collide((names, backend), (&derived, other_backend)).then_some(())?;
                // Without a grant it would keep the name from those who have one.
                Desired::parse(other, other_backend, &labels, "").ok()
            };
            !claim::is_same(other, role)
                && other.meta().deletion_timestamp.is_none()
                && claim::precedes(other, role)
                && wants().is_some()
        });
        let Some(rival) = rival else { return Ok(()) };
        Err(Stop::refused(
            RoleReason::Conflict.as_str(),
            format!(
                "VaultAwsRole {}/{} wants the same role or policy in Vault (`{}`, `{}`) and goes first",
                rival.namespace().unwrap_or_default(),
                rival.name_any(),
                names.role,
                names.policy
            ),
        ))
    }

    /// As the operator would judge it, from what this token may read: who may read less learns less,
    /// and is told so.
    async fn isolation(
        &self,
        judged: &mut Judged,
        desired: &Desired,
        observed: &Observed,
        backend: &VaultAwsBackend,
        vault: &Caller,
    ) -> Result<(), Stop> {
        let mut backend = backend.clone();
        let status = backend.status.get_or_insert_default();
        if status.mount_accessor.is_none() {
            // Without it nobody knows which entity a login will be.
            let mount = mounts::auth_mount(vault, &desired.names.mount).await;
            status.mount_accessor = mount.ok().flatten().map(|mount| mount.accessor);
        }
        let shelf = Shelf::default();
        let carried = shelf.reader(vault, &backend).carried(desired, observed).await?;
        judge_isolation(judged, desired, observed, &carried)
    }

    async fn sync(
        &self,
        sync: &VaultCertSync,
        before: &[Judged],
        judged: &mut Judged,
    ) -> Result<(), Stop> {
        if self.ground.backends.is_none() {
            return Ok(());
        }
        let namespace = sync.namespace().unwrap_or_default();
        let role = role_name(sync).and_then(|name| self.role_as_applied(&namespace, &name, before));
        let named = backend_name(sync, role.as_ref());
        let backend = named.as_deref().and_then(|name| self.ground.backend(name)).map(|backend| {
            let mut backend = backend.clone();
            let cluster = self.ground.cluster(&backend);
            backend.status.get_or_insert_default().cluster_id =
                Some(cluster.unwrap_or_else(|| NO_CLUSTER.to_owned()));
            backend
        });
        let labels = self.ground.labels(&namespace);
        let references = cert::desired::References {
            role: role.as_ref(),
            backend: backend.as_ref(),
            labels: &labels,
        };
        let desired = match cert::desired::Desired::resolve(sync, &references) {
            Ok(desired) => desired,
            Err(refusal @ cert::desired::Refusal::Suspended) => {
                judged.message = Some(refusal.to_string());
                return Ok(());
            }
            Err(refusal) => {
                let denied = matches!(refusal, cert::desired::Refusal::Tenancy(_));
                judged.tenancy = denied.then_some(false);
                return Err(Stop::refused(refusal.reason(), refusal.to_string()));
            }
        };
        judged.tenancy = Some(true);
        let vault = match &backend {
            Some(backend) => self
                .source
                .vault(backend)
                .map_err(|message| Stop::failed(SyncReason::VaultUnreachable.as_str(), message))?,
            None => None,
        };
        let literal: Vec<String> = desired
            .selection
            .exact
            .iter()
            .filter(|name| desired.selection.takes(name))
            .cloned()
            .collect();
        let entries = match &vault {
            None => literal.iter().cloned().collect(),
            Some(vault) => {
                cert::observe::selected(vault, &desired, &Default::default())
                    .await
                    .map_err(|error| Stop::failed(error.reason(), chain(&error)))?
                    .names
            }
        };
        let secrets: Vec<PlannedSecret> = cert::plan::secret_names(&desired, entries)
            .into_iter()
            .map(|(entry, secret)| {
                let reason = secret.as_ref().err().map(|reason| reason.as_str());
                PlannedSecret { entry, secret: secret.ok(), reason }
            })
            .collect();
        let refused = secrets
            .iter()
            .find(|one| literal.contains(&one.entry) && one.reason.is_some())
            .and_then(|one| Some((one.reason?, one.entry.clone())));
        let taken = taken(before, &namespace, &secrets);
        judged.delivery = Some(Delivery {
            directory: format!("{}/{}", desired.kv_mount, desired.directory),
            secrets,
            patterns: if vault.is_none() { desired.selection.globs } else { Vec::new() },
        });
        if let Some((reason, entry)) = refused {
            let message = format!("no Secret can be named for the entry `{entry}`");
            return Err(Stop::refused(reason, message));
        }
        match taken {
            None => Ok(()),
            Some((secret, other)) => Err(Stop::refused(
                SyncReason::SecretNotOurs.as_str(),
                format!("Secret `{secret}` is also that of VaultCertSync {namespace}/{other}"),
            )),
        }
    }

    /// The role as it will stand once its own manifest is applied; of the cluster's, as it is.
    fn role_as_applied(
        &self,
        namespace: &str,
        name: &str,
        before: &[Judged],
    ) -> Option<VaultAwsRole> {
        let is_it = |role: &&VaultAwsRole| {
            role.namespace().as_deref() == Some(namespace) && role.name_any() == name
        };
        let Some(role) = self.roles.iter().find(is_it) else {
            return self.ground.roles.iter().find(is_it).cloned();
        };
        let mut role = role.clone();
        let judged = before.iter().find(|one| {
            one.kind == "VaultAwsRole" && one.namespace == namespace && one.name == name
        })?;
        let refused = judged.reason.as_deref();
        let condition = serde_json::json!({
            "type": READY,
            "status": if refused.is_some() { "False" } else { "True" },
            "reason": refused.unwrap_or(RoleReason::Ready.as_str()),
            "message": "",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        });
        let backend = self.ground.backend(&role.spec.backend_ref.name);
        let names = backend.and_then(|backend| Names::derive(&role, &backend.spec).ok());
        role.status = Some(VaultAwsRoleStatus {
            conditions: serde_json::from_value(condition).into_iter().collect(),
            vault_role: names.map(|names| names.role),
            ..VaultAwsRoleStatus::default()
        });
        Some(role)
    }
}

/// The Secret that a sync before this one delivers too.
fn taken(
    before: &[Judged],
    namespace: &str,
    secrets: &[PlannedSecret],
) -> Option<(String, String)> {
    before.iter().filter(|one| one.namespace == namespace).find_map(|one| {
        let theirs = &one.delivery.as_ref()?.secrets;
        let both = |ours: &&PlannedSecret| {
            ours.secret.is_some() && theirs.iter().any(|their| their.secret == ours.secret)
        };
        Some((secrets.iter().find(both)?.secret.clone()?, one.name.clone()))
    })
}

fn path(names: &Names) -> String {
    format!("auth/{}/role/{}", names.mount, names.role)
}

/// What the controller's plan says, field by field.
fn tell(judged: &mut Judged, desired: &Desired, observed: &Observed, ownership: &'static str) {
    let plan = plan::plan(desired, observed);
    let mut role = RoleChange {
        path: path(&desired.names),
        ownership,
        fields: Vec::new(),
        stuck: plan.stuck.iter().map(ToString::to_string).collect(),
    };
    let mut policy = PolicyChange { name: desired.names.policy.clone(), diff: String::new() };
    for step in &plan.steps {
        match step {
            Step::WritePolicy { text, .. } => {
                let from = if ownership == "unknown" { "Vault was not asked" } else { "in Vault" };
                policy.diff = diff(from, observed.policy.as_deref().unwrap_or_default(), text);
            }
            Step::WriteRole { fields, .. } => {
                let old = observed.role.as_ref().map(serde_json::to_value);
                let old = old.and_then(Result::ok).unwrap_or_default();
                let new = serde_json::to_value(fields).unwrap_or_default();
                role.fields.extend(new.as_object().into_iter().flatten().map(|(field, new)| {
                    let old = old.get(field).cloned().unwrap_or_default();
                    FieldChange { field: field.clone(), old, new: new.clone() }
                }));
            }
            // A plan towards a resource deletes nothing.
            Step::DeleteRole { .. } | Step::DeletePolicy { .. } => {}
        }
    }
    if ownership != "unknown" && !plan.steps.is_empty() {
        let is_new = observed.role.is_none() && observed.policy.is_none();
        judged.verdict = if is_new { Verdict::Created } else { Verdict::Changed };
    }
    judged.role = Some(role);
    judged.policy = Some(policy);
}

fn diff(from: &str, old: &str, new: &str) -> String {
    TextDiff::from_lines(old, new)
        .unified_diff()
        .context_radius(3)
        .header(from, "declared")
        .to_string()
}

/// Without Vault: the role's own policy, and the names of others that nobody read.
fn unread(desired: &Desired) -> Carried {
    let own = &desired.names.policy;
    let others = desired.token_policies().into_iter().filter(|name| name != own);
    Carried {
        own: None,
        policies: others.map(|name| (name, Held::Unreadable)).collect(),
        identity: Some(Vec::new()),
    }
}

/// The guard's verdict, and whether the operator would write nothing because of it.
fn judge_isolation(
    judged: &mut Judged,
    desired: &Desired,
    observed: &Observed,
    carried: &Carried,
) -> Result<(), Stop> {
    let guarded = guard::judge(desired, carried);
    let condition = guarded.condition();
    judged.isolation = Some(Isolation {
        isolated: condition.holds,
        reason: condition.reason,
        message: condition.message,
        also_reaches: guarded.also_reaches(),
    });
    match guarded.holds(desired, observed, &plan::plan(desired, observed)) {
        None => Ok(()),
        Some(_) => Err(Stop::refused(RoleReason::NotIsolated.as_str(), guarded.refusal())),
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
