//! What becomes of a role in Vault when its tenancy is withdrawn: held as it is, or taken away.

use jiff::Timestamp;

use super::{Hold, Names, Roles, cluster, desired::Refusal, is_written};
use crate::{
    controller::pass::{Next, Note, Outcome},
    crd::{
        LastChange, OnTenancyWithdrawn, RoleReason, VaultAwsBackend, VaultAwsRole,
        VaultAwsRoleStatus,
    },
    fault::{Fault, chain},
};

/// Whether this refusal of this resource means that what is written has to go.
pub(super) fn of(role: &VaultAwsRole, backend: &VaultAwsBackend, refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Tenancy(_))
        && backend.spec.on_tenancy_withdrawn == OnTenancyWithdrawn::Remove
        && is_written(role)
}

impl Roles {
    /// Takes away what is ours: the role, then its policy. While that does not succeed the status
    /// keeps their names, so that it is tried again, also by a deletion of the resource.
    pub(super) async fn withdraw(
        &self,
        role: &VaultAwsRole,
        hold: Hold,
        now: Timestamp,
    ) -> Outcome<VaultAwsRoleStatus> {
        let found = hold.withdrawn.clone();
        let place = found.as_ref().and_then(|backend| {
            Some((backend, Names::recorded(role, &backend.spec)?, cluster(backend)?))
        });
        let mut outcome = hold.outcome(role);
        let Some((backend, names, cluster)) = place else { return outcome };
        let removed = match self.remove_from(role, backend, &names, cluster).await {
            Err(error) if error.is_token_invalid() => {
                self.connections.token_refused(backend);
                self.remove_from(role, backend, &names, cluster).await
            }
            removed => removed,
        };
        match removed {
            Ok(plan) => {
                outcome.status = without(outcome.status);
                if !plan.steps.is_empty() {
                    let what = plan.summary();
                    outcome.status.last_change = Some(LastChange {
                        time: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                        what: what.clone(),
                    });
                    let reason = RoleReason::Removed.as_str();
                    outcome.notes.push(Note { warning: false, reason, message: what });
                }
            }
            Err(error) => {
                let rest = format!("; role and policy are still in Vault: {}", chain(&error));
                if let Some(ready) = outcome.verdicts.first_mut() {
                    ready.message.push_str(&rest);
                }
                outcome.next = Next::Retry(error.retry());
            }
        }
        outcome
    }
}

/// A status that names nothing in Vault any more.
fn without(status: VaultAwsRoleStatus) -> VaultAwsRoleStatus {
    VaultAwsRoleStatus {
        conditions: status.conditions,
        observed_generation: status.observed_generation,
        last_change: status.last_change,
        ..VaultAwsRoleStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        role::desired::tests::{backend, role},
        tenancy,
    };

    #[test]
    fn only_a_withdrawn_grant_of_a_written_role_has_it_removed_and_only_if_the_backend_says_so() {
        let denied = Refusal::Tenancy(tenancy::Denied::Namespace { namespace: "team-a".into() });
        let hold = backend(json!({}));
        let remove = backend(json!({"onTenancyWithdrawn": "Remove"}));
        let mut resource = role("web", json!({}));
        assert!(!of(&resource, &remove, &denied), "nothing was written");
        let status = json!({"observedGeneration": 1, "vaultRole": "web", "policyName": "p-web"});
        resource.status = Some(serde_json::from_value(status).unwrap());
        assert!(of(&resource, &remove, &denied));
        assert!(!of(&resource, &hold, &denied));
        assert!(!of(&resource, &remove, &Refusal::OperatorRole { role: "web".into() }));
    }
}
