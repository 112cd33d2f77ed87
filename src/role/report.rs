//! What a pass over a role tells: status, conditions, events. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    desired::{Desired, Names, Refusal, rebind},
    guard::{ISOLATED, Judged},
    observe::Observed,
    plan::Plan,
    policy,
    principal::PRINCIPAL_CURRENT,
    verify::LOGIN_VERIFIED,
};
use crate::{
    controller::{
        condition::{self, READY},
        pass::{Next, Note, Outcome, Progress, Status, Verdict},
    },
    crd::{Drift, LastChange, RoleReason, VaultAwsBackend, VaultAwsRole, VaultAwsRoleStatus},
    fault::{Retry, chain},
};

/// What a pass that came to its end found and did.
pub(super) struct Pass<'a> {
    /// What should stand in Vault.
    pub(super) desired: &'a Desired,
    /// What stands there now.
    pub(super) settled: &'a Observed,
    /// What was done; with `drift: Report`, what would have been.
    pub(super) plan: &'a Plan,
    /// Whether it was somebody else's before.
    pub(super) adopted: bool,
}

impl Pass<'_> {
    /// What it tells.
    pub(super) fn outcome(
        &self,
        role: &VaultAwsRole,
        now: Timestamp,
    ) -> Outcome<VaultAwsRoleStatus> {
        let (progress, verdict) = self.verdict();
        let (status, note) = (self.status(role, now), self.note(role));
        Outcome {
            status,
            progress,
            verdicts: vec![verdict],
            notes: note.into_iter().collect(),
            next: Next::Tick(role.spec.drift_interval.duration()),
        }
    }

    fn only_reports(&self) -> bool {
        self.desired.drift == Drift::Report
    }

    fn verdict(&self) -> (Progress, Verdict) {
        let Names { mount, role: name, policy } = &self.desired.names;
        let no = |reason: RoleReason, message| Verdict::no(READY, reason.as_str(), message);
        if self.only_reports() && !self.plan.differences().is_empty() {
            let message = format!(
                "Vault differs in {}; drift is Report, so nothing is written",
                self.plan.differences().join(", ")
            );
            (Progress::Waiting, no(RoleReason::DriftFound, message))
        } else if self.plan.stuck.is_empty() {
            let message =
                format!("role `{name}` at auth/{mount} and policy `{policy}` are as declared");
            (Progress::Done, Verdict::yes(READY, RoleReason::Ready.as_str(), message))
        } else {
            let message = format!(
                "Vault never changes {} of an existing role: delete role `{name}` at auth/{mount} to \
                 have it written anew",
                self.plan.stuck.join(", ")
            );
            (Progress::Stalled, no(RoleReason::RecreateNeeded, message))
        }
    }

    fn status(&self, role: &VaultAwsRole, now: Timestamp) -> VaultAwsRoleStatus {
        let Self { desired, settled, plan, .. } = self;
        let previous = role.status.clone().unwrap_or_default();
        let names = &desired.names;
        let in_vault = settled.role.clone().unwrap_or_default();
        let change = (!plan.steps.is_empty() && !self.only_reports()).then(|| LastChange {
            time: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            what: plan.summary(),
        });
        // One that only reports has written nothing, unless it wrote before.
        let stands = settled.role.is_some();
        let asked = rebind(role).cloned().filter(|_| !(desired.rebind && self.only_reports()));
        VaultAwsRoleStatus {
            vault_role: stands.then(|| names.role.clone()).or(previous.vault_role),
            policy_name: stands.then(|| names.policy.clone()).or(previous.policy_name),
            policy_sha256: settled.policy.as_deref().map(policy::fingerprint),
            role_id: Some(in_vault.role_id).filter(|id| !id.is_empty()),
            bound_principal_ids: in_vault.bound_iam_principal_id,
            paths: desired.paths.clone(),
            last_change: change.or(previous.last_change),
            also_reaches: previous.also_reaches,
            differs: if self.only_reports() { plan.differences() } else { Vec::new() },
            last_handled_rebind: asked.or(previous.last_handled_rebind),
            login: desired.login.clone(),
            observed_generation: previous.observed_generation,
            conditions: previous.conditions,
        }
    }

    /// What was done, told once: it was new, or taken over, or the spec changed, or somebody had changed
    /// it in Vault. What only is reported is told when it is another difference than before.
    fn note(&self, role: &VaultAwsRole) -> Option<Note> {
        let status = role.status.as_ref();
        if self.only_reports() {
            let differs = self.plan.differences();
            let is_known = status.is_some_and(|status| status.differs == differs);
            return (!differs.is_empty() && !is_known).then(|| Note {
                warning: true,
                reason: RoleReason::DriftFound.as_str(),
                message: format!("Vault differs in {}; nothing is written", differs.join(", ")),
            });
        }
        if self.plan.steps.is_empty() {
            return None;
        }
        let reason = if self.adopted {
            RoleReason::Adopted
        } else if status.is_none_or(|status| status.vault_role.is_none()) {
            RoleReason::Created
        } else if status.map(|status| status.observed_generation) != role.metadata.generation {
            RoleReason::Updated
        } else if self.desired.rebind {
            RoleReason::Rebound
        } else {
            RoleReason::Corrected
        };
        Some(Note { warning: false, reason: reason.as_str(), message: self.plan.summary() })
    }
}

/// The conditions as they were.
pub(super) fn conditions(role: &VaultAwsRole) -> &[Condition] {
    role.status.as_ref().map_or(&[], |status| &status.conditions)
}

/// `Ready`, and the other conditions as they were, for a pass that did not come to them.
pub(super) fn with_others(ready: Verdict, role: &VaultAwsRole) -> Vec<Verdict> {
    let kept = |kind| Verdict::kept(kind, conditions(role), RoleReason::word);
    let verified = role.spec.verify.as_ref().and_then(|_| kept(LOGIN_VERIFIED));
    [Some(ready), kept(ISOLATED), kept(PRINCIPAL_CURRENT), verified].into_iter().flatten().collect()
}

/// What a pass tells that may not write.
pub(super) fn held(
    role: &VaultAwsRole,
    judged: &Judged,
    progress: Progress,
) -> Outcome<VaultAwsRoleStatus> {
    let hold = Hold {
        reason: RoleReason::NotIsolated,
        message: judged.refusal(),
        progress,
        next: Next::Retry(Retry::Slowly),
        is_shared: false,
        withdrawn: None,
    };
    let mut outcome = hold.outcome(role);
    outcome.verdicts.retain(|verdict| verdict.kind != ISOLATED);
    outcome.verdicts.push(judged.condition());
    outcome
}

/// A role that was as declared stays so while Vault cannot be asked; `None` if it was not.
pub(super) fn still_ready(role: &VaultAwsRole, next: Next) -> Option<Outcome<VaultAwsRoleStatus>> {
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
        verdicts: with_others(verdict, role),
        notes: Vec::new(),
        next,
    })
}

/// Why a pass ends before anything is written, though nothing went wrong.
pub(super) struct Hold {
    pub(super) reason: RoleReason,
    pub(super) message: String,
    pub(super) progress: Progress,
    pub(super) next: Next,
    /// Whether many resources meet it at once, and this one's last state still stands.
    pub(super) is_shared: bool,
    /// The backend, if it has what is written taken away.
    pub(super) withdrawn: Option<Arc<VaultAwsBackend>>,
}

impl Hold {
    /// For something in Kubernetes that wakes this resource when it changes.
    pub(super) fn waiting(reason: RoleReason, message: String) -> Self {
        let (progress, next) = (Progress::Waiting, Next::WhenChanged);
        Self { reason, message, progress, next, is_shared: false, withdrawn: None }
    }

    pub(super) fn outcome(self, role: &VaultAwsRole) -> Outcome<VaultAwsRoleStatus> {
        Outcome {
            status: role.status.clone().unwrap_or_default(),
            progress: self.progress,
            verdicts: with_others(Verdict::no(READY, self.reason.as_str(), self.message), role),
            notes: Vec::new(),
            next: self.next,
        }
    }
}

impl From<Refusal> for Hold {
    fn from(refusal: Refusal) -> Self {
        let progress = match refusal {
            // A rule or another version of the backend, or a label of the namespace, can grant it at any
            // time.
            Refusal::Tenancy(_) | Refusal::Unsafe(_) => Progress::Waiting,
            Refusal::Naming(_)
            | Refusal::Principal(_)
            | Refusal::Instances(_)
            | Refusal::Token(_)
            | Refusal::ExtraPath { .. }
            | Refusal::Suspended
            | Refusal::OperatorRole { .. }
            | Refusal::OperatorPolicy { .. }
            | Refusal::OperatorPolicyAttached { .. } => Progress::Stalled,
        };
        let (reason, message) = (refusal.reason(), chain(&refusal));
        let next = Next::WhenChanged;
        Self { reason, message, progress, next, is_shared: false, withdrawn: None }
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
pub(super) mod tests {
    use std::time::Duration;

    use kube::ResourceExt as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::role::{
        desired::tests::{backend, desired, role},
        plan,
    };

    const NOW: &str = "2026-03-01T12:00:00.123456Z";

    pub(in crate::role) fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn in_vault(id: &str) -> Observed {
        let role = plan::tests::role(json!({"role_id": id}));
        Observed { role: Some(role), policy: Some(desired(json!({}), json!({})).policy) }
    }

    fn pass<'a>(desired: &'a Desired, settled: &'a Observed, plan: &'a Plan) -> Pass<'a> {
        Pass { desired, settled, plan, adopted: false }
    }

    /// The outcome of a pass over this resource that found this in Vault and then made it right.
    fn after(resource: &VaultAwsRole, found: &Observed) -> Outcome<VaultAwsRoleStatus> {
        let desired = desired(json!({}), json!({}));
        let plan = plan::plan(&desired, found);
        let settled = if plan.steps.is_empty() { found.clone() } else { in_vault("id-1") };
        pass(&desired, &settled, &plan).outcome(resource, now())
    }

    pub(in crate::role) fn written(status: Value) -> VaultAwsRole {
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
    /// The outcome of a pass that only reports.
    fn reported(resource: &VaultAwsRole, found: &Observed) -> Outcome<VaultAwsRoleStatus> {
        let desired = desired(json!({"drift": "Report"}), json!({}));
        let plan = plan::plan(&desired, found);
        pass(&desired, found, &plan).outcome(resource, now())
    }

    #[test]
    fn what_is_only_reported_is_told_once_for_each_difference() {
        let mut found = in_vault("id-1");
        found.role = Some(plan::tests::role(json!({"role_id": "id-1", "token_ttl": 60})));
        let first = reported(&written(json!({})), &found);
        assert_eq!(
            notes(&first),
            [("DriftFound", "Vault differs in token_ttl; nothing is written")]
        );
        assert_eq!(first.status.differs, ["token_ttl"]);
        assert_eq!(first.progress, Progress::Waiting);
        assert_eq!(
            first.verdicts,
            [Verdict::no(
                "Ready",
                "DriftFound",
                "Vault differs in token_ttl; drift is Report, so nothing is written"
            )]
        );
        assert_eq!(first.status.last_change.unwrap().time, "2026-01-01T00:00:00Z");
        let known = written(json!({"differs": ["token_ttl"]}));
        assert_eq!(notes(&reported(&known, &found)), []);
        let settled = reported(&known, &in_vault("id-1"));
        assert_eq!(settled.status.differs, [""; 0]);
        assert_eq!(settled.verdicts[0].reason, "Ready");
    }

    #[test]
    fn one_that_only_reports_says_that_there_is_nothing_and_writes_no_names() {
        let outcome = reported(&role("web", json!({})), &Observed::default());
        assert_eq!(outcome.status.differs, ["policy", "role"]);
        assert_eq!(outcome.status.vault_role, None);
        assert_eq!(outcome.status.policy_sha256, None);
    }

    fn rebinding(drift: &str) -> Outcome<VaultAwsRoleStatus> {
        let mut resource = written(json!({"lastHandledRebind": "1"}));
        let annotations = resource.metadata.annotations.get_or_insert_default();
        annotations.insert("vaultaws.dev/rebind".into(), "2".into());
        let spec = json!({"resolveAwsUniqueIds": true, "drift": drift});
        let desired = Desired { rebind: true, ..desired(spec, json!({})) };
        let in_vault = json!({"resolve_aws_unique_ids": true, "bound_iam_principal_id": ["AROA1"]});
        let found = Observed {
            role: Some(plan::tests::role(in_vault)),
            policy: Some(desired.policy.clone()),
        };
        pass(&desired, &found, &plan::plan(&desired, &found)).outcome(&resource, now())
    }

    #[test]
    fn a_rebind_is_handled_once_it_was_done_and_not_where_nothing_is_written() {
        let done = rebinding("Correct");
        assert_eq!(notes(&done), [("Rebound", "write role web: bound_iam_principal_arn")]);
        assert_eq!(done.status.last_handled_rebind.as_deref(), Some("2"));
        let told = rebinding("Report");
        assert_eq!(told.status.differs, ["bound_iam_principal_arn"]);
        assert_eq!(told.status.last_handled_rebind.as_deref(), Some("1"));
    }

    #[test]
    fn what_was_taken_over_is_told_as_that() {
        let desired = desired(json!({}), json!({}));
        let plan = plan::plan(&desired, &Observed::default());
        let settled = in_vault("id-1");
        let pass = Pass { adopted: true, ..pass(&desired, &settled, &plan) };
        assert_eq!(notes(&pass.outcome(&role("web", json!({})), now()))[0].0, "Adopted");
    }

    #[test]
    fn a_pass_that_ends_early_keeps_what_it_did_not_look_at() {
        let resource = written(json!({"conditions": [{
            "type": "PrincipalCurrent", "status": "True", "reason": "LoginSeen", "message": "x",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}));
        let hold = Hold::from(Refusal::Suspended).outcome(&resource);
        assert_eq!(hold.progress, Progress::Stalled);
        let kinds: Vec<_> = hold.verdicts.iter().map(|one| (one.kind, one.reason)).collect();
        assert_eq!(kinds, [("Ready", "Suspended"), ("PrincipalCurrent", "LoginSeen")]);
    }
}
