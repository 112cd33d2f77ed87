//! A VaultAwsRole under review: what the operator would write, and what keeps it from that.

use kube::{Resource as _, ResourceExt as _};
use similar::TextDiff;

use super::{
    FieldChange, Isolation, Judged, NO_CLUSTER, PolicyChange, RoleChange, Round, Source, Stop,
    Verdict, known, manifest::Manifest,
};
use crate::{
    crd::{Adopt, RoleReason, VaultAwsBackend, VaultAwsRole},
    fault::chain,
    role::{
        adopt,
        carried::{Carried, Held, Shelf},
        claim::{self, Claim},
        desired::{Desired, Names, Refusal},
        guard, marks,
        observe::{Observed, observe},
        plan::{self, Step},
        policy::Marker,
    },
    vault::{Caller, mounts},
};

/// Stands in the mark of a resource that has no UID yet.
const NO_UID: &str = "assigned-when-applied";

impl<S: Source> Round<'_, S> {
    /// Judges a role, and tells what Vault would get.
    pub(super) async fn role(
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
        let observed = observe(&vault, &desired.names).await?;
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
                        let named = marks(&vault, &desired.names, &observed).await?;
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
