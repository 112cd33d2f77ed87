//! What a deleted resource leaves in Vault, and how long it waits for that to go.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::ResourceExt;

use super::{
    Error, Roles, apply, claim, cluster,
    desired::Names,
    is_written, observe,
    plan::{self, Plan},
    recorded_id,
    report::with_others,
    tenant,
};
use crate::{
    controller::{
        condition::READY,
        pass::{Cleanup, Next, Note, Outcome, Progress, Verdict},
    },
    crd::{RoleDeletion, RoleReason, VaultAwsBackend, VaultAwsRole, VaultAwsRoleStatus},
    fault::{Fault, chain},
};

/// How long a cleanup that failed rests. It does not grow: the time until we let go is bounded.
const CLEANUP_RETRY: Duration = Duration::from_secs(10);

impl Roles {
    /// Deletes what is ours, or lets go of it where that has not been possible for long.
    pub(super) async fn clean_up(
        &self,
        role: &VaultAwsRole,
        now: Timestamp,
    ) -> Cleanup<VaultAwsRoleStatus> {
        if role.spec.deletion_policy == RoleDeletion::Retain {
            return Cleanup::Done(None);
        }
        let removed = match self.remove(role).await {
            Err(Remains { token_of: Some(backend), .. }) => {
                self.connections.token_refused(&backend);
                self.remove(role).await
            }
            removed => removed,
        };
        let Err(remains) = removed else { return Cleanup::Done(None) };
        // An operator that was down all the time gets two attempts, whatever the clock says.
        if self.tried_before(role) && overdue(role, self.cleanup_timeout, now) {
            let note = remains.orphan(role);
            tracing::warn!(
                namespace = role.namespace(),
                name = role.name_any(),
                "{}",
                note.message
            );
            return Cleanup::Done(Some(note));
        }
        Cleanup::NotYet(remains.outcome(role))
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

    /// Deletes what is ours of these names.
    pub(super) async fn remove_from(
        &self,
        role: &VaultAwsRole,
        backend: &VaultAwsBackend,
        names: &Names,
        cluster: &str,
    ) -> Result<Plan, Error> {
        let vault = self.connections.operator(backend, tenant(role)).await?;
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
            verdicts: with_others(Verdict::no(READY, self.reason, self.message), role),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        role::{
            desired::tests::{backend, role},
            report::tests::{now, written},
        },
        vault::{self, Cause},
    };

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
}
