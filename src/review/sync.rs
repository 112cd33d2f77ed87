//! A VaultCertSync under review: which Secrets it would deliver.

use kube::ResourceExt as _;

use super::{Delivery, Judged, NO_CLUSTER, PlannedSecret, Round, Source, Stop};
use crate::{
    cert::{
        desired::{Desired, References, Refusal, backend_name, role_name},
        observe::selected,
        plan::secret_names,
    },
    controller::condition::READY,
    crd::{RoleReason, SyncReason, VaultAwsRole, VaultAwsRoleStatus, VaultCertSync},
    fault::{Fault as _, chain},
    role::desired::Names,
};

impl<S: Source> Round<'_, S> {
    /// Judges a sync, and tells what it would deliver.
    pub(super) async fn sync(
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
        let references =
            References { role: role.as_ref(), backend: backend.as_ref(), labels: &labels };
        let desired = match Desired::resolve(sync, &references) {
            Ok(desired) => desired,
            Err(refusal @ Refusal::Suspended) => {
                judged.message = Some(refusal.to_string());
                return Ok(());
            }
            Err(refusal) => {
                let denied = matches!(refusal, Refusal::Tenancy(_));
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
                selected(vault, &desired, &Default::default())
                    .await
                    .map_err(|error| Stop::failed(error.reason(), chain(&error)))?
                    .names
            }
        };
        let secrets: Vec<PlannedSecret> = secret_names(&desired, entries)
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
