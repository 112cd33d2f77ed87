//! Who uses a backend: what of it may not change, and how long it may not go.

use std::{sync::Mutex, time::Duration};

use jiff::Timestamp;
use kube::{Api, Client, api::ListParams};
use tokio::time::timeout;

use crate::{
    controller::{
        condition::{READY, find},
        watch::Store,
    },
    crd::{RoleDeletion, RoleReason, VaultAwsRole, VaultCertSync},
    lock::lock,
};

/// How many syncs are listed at once.
const PAGE: u32 = 500;
/// How long one page may take.
const KUBERNETES_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long a count of syncs is believed, in seconds.
const BELIEVED: i64 = 20;

/// How a role ends whose pass stopped before anything was written.
const NOT_WRITTEN: [RoleReason; 10] = [
    RoleReason::BackendNotFound,
    RoleReason::BackendNotReady,
    RoleReason::NamespaceNotFound,
    RoleReason::TenancyDenied,
    RoleReason::InvalidSpec,
    RoleReason::ReservedName,
    RoleReason::VersionUnsafe,
    RoleReason::Conflict,
    RoleReason::NotIsolated,
    RoleReason::Suspended,
];

/// Whether something of the role may stand in Vault: where its status does not rule that out.
pub fn may_be_written(role: &VaultAwsRole) -> bool {
    let Some(status) = &role.status else { return true };
    if status.vault_role.is_some() || status.policy_name.is_some() {
        return true;
    }
    find(&status.conditions, READY)
        .is_none_or(|ready| NOT_WRITTEN.iter().all(|reason| reason.as_str() != ready.reason))
}

/// Whether the sync names the backend itself, not through a role, and has delivered from it.
pub fn delivers_from(sync: &VaultCertSync, backend: &str) -> bool {
    let names_it =
        sync.spec.principal.as_ref().is_some_and(|found| found.backend_ref.name == backend);
    names_it && sync.status.as_ref().is_some_and(|status| !status.certificates.is_empty())
}

/// Counts those who use a backend.
pub struct Users {
    roles: Store<VaultAwsRole>,
    /// Syncs are listed when a change is asked for, and not kept: there may be many, and this is rare.
    client: Client,
    /// Where; everywhere if empty.
    namespaces: Vec<String>,
    counted: Mutex<Option<(String, Timestamp, usize)>>,
}

impl Users {
    /// `namespaces`: those that this operator looks after; all if empty.
    pub fn new(roles: Store<VaultAwsRole>, client: Client, namespaces: Vec<String>) -> Self {
        Self { roles, client, namespaces, counted: Mutex::default() }
    }

    /// The roles that may have something in the backend's Vault.
    pub fn roles(&self, backend: &str) -> usize {
        self.roles
            .select(|role| role.spec.backend_ref.name == backend && may_be_written(role))
            .len()
    }

    /// Those of them that have to be cleaned up before the backend goes.
    pub fn roles_to_clean(&self, backend: &str) -> usize {
        let stays = |role: &VaultAwsRole| role.spec.deletion_policy == RoleDeletion::Retain;
        self.roles
            .select(|role| {
                role.spec.backend_ref.name == backend && may_be_written(role) && !stays(role)
            })
            .len()
    }

    /// The syncs without a VaultAwsRole that deliver from it; a count is good for twenty seconds.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub async fn syncs(&self, backend: &str, now: Timestamp) -> Result<usize, Uncounted> {
        if let Some((of, at, count)) = &*lock(&self.counted)
            && of == backend
            && now.duration_since(*at).as_secs() < BELIEVED
        {
            return Ok(*count);
        }
        let apis: Vec<Api<VaultCertSync>> = if self.namespaces.is_empty() {
            vec![Api::all(self.client.clone())]
        } else {
            let within = |name: &String| Api::namespaced(self.client.clone(), name);
            self.namespaces.iter().map(within).collect()
        };
        let mut count = 0;
        for api in apis {
            let mut page = ListParams::default().limit(PAGE);
            loop {
                let found = timeout(KUBERNETES_TIMEOUT, api.list(&page))
                    .await
                    .map_err(|_| Uncounted::Timeout)?
                    .map_err(Uncounted::Kubernetes)?;
                count += found.items.iter().filter(|sync| delivers_from(sync, backend)).count();
                match found.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => page = page.continue_token(&token),
                    None => break,
                }
            }
        }
        *lock(&self.counted) = Some((backend.to_owned(), now, count));
        Ok(count)
    }
}

/// The users of a backend could not be counted.
#[derive(Debug, thiserror::Error)]
pub enum Uncounted {
    /// The API server refused or failed.
    #[error("listing the VaultCertSyncs that use this backend")]
    Kubernetes(#[source] kube::Error),
    /// It did not answer.
    #[error("listing the VaultCertSyncs that use this backend took longer than 10 s")]
    Timeout,
}

/// The backend that a deleted role referred to: it may go, or change, now.
pub fn released(role: &VaultAwsRole) -> String {
    role.spec.backend_ref.name.clone()
}

/// `3 VaultAwsRoles and 1 VaultCertSync`.
pub fn counted(roles: usize, syncs: usize) -> String {
    let some = |count: usize, kind: &str| {
        (count > 0).then(|| format!("{count} {kind}{}", if count == 1 { "" } else { "s" }))
    };
    let both = [some(roles, "VaultAwsRole"), some(syncs, "VaultCertSync")];
    both.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn role(status: Value) -> VaultAwsRole {
        serde_json::from_value(json!({
            "apiVersion": "vaultaws.dev/v1alpha1", "kind": "VaultAwsRole",
            "metadata": {"name": "web", "namespace": "team-a"},
            "spec": {"accountId": "111122223333", "iamRole": "web"},
            "status": status,
        }))
        .unwrap()
    }

    fn said(reason: &str) -> Value {
        json!({"observedGeneration": 1, "conditions": [{
            "type": "Ready", "status": "False", "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]})
    }

    #[test]
    fn a_role_that_was_written_is_a_user_whatever_it_says_now() {
        let mut status = said("TenancyDenied");
        status["vaultRole"] = json!("web");
        assert!(may_be_written(&role(status)));
    }

    #[test]
    fn a_role_that_was_refused_before_any_write_is_none() {
        for reason in ["TenancyDenied", "BackendNotReady", "Conflict", "InvalidSpec"] {
            assert!(!may_be_written(&role(said(reason))), "{reason}");
        }
    }

    #[test]
    fn a_role_that_may_be_half_written_is_a_user() {
        assert!(may_be_written(&role(Value::Null)));
        for reason in ["PrincipalNotFound", "VaultUnreachable", "SomethingNew"] {
            assert!(may_be_written(&role(said(reason))), "{reason}");
        }
    }

    #[test]
    fn a_sync_counts_once_it_delivered_by_a_principal_of_its_own() {
        let sync = |spec: Value, certificates: Value| -> VaultCertSync {
            serde_json::from_value(json!({
                "apiVersion": "vaultaws.dev/v1alpha1", "kind": "VaultCertSync",
                "metadata": {"name": "web", "namespace": "team-a"}, "spec": spec,
                "status": {"observedGeneration": 1, "certificates": certificates},
            }))
            .unwrap()
        };
        let principal = json!({"principal": {
            "backendRef": {"name": "main"}, "accountId": "111122223333", "iamRole": "web",
        }});
        let delivered = json!([{"name": "site", "state": "Synced"}]);
        assert!(delivers_from(&sync(principal.clone(), delivered.clone()), "main"));
        assert!(!delivers_from(&sync(principal.clone(), delivered.clone()), "other"));
        assert!(!delivers_from(&sync(principal, json!([])), "main"));
        assert!(!delivers_from(&sync(json!({}), delivered), "main"));
    }

    #[test]
    fn a_count_names_only_what_there_is() {
        assert_eq!(counted(1, 0), "1 VaultAwsRole");
        assert_eq!(counted(0, 2), "2 VaultCertSyncs");
        assert_eq!(counted(3, 1), "3 VaultAwsRoles and 1 VaultCertSync");
    }
}
