//! From spec to what should stand in Vault. Pure: every refusal of a spec is born here, and a refused
//! spec costs no request.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::policy::{self, Marker};
use crate::{
    crd::{RoleReason, VaultAwsBackend, VaultAwsBackendSpec, VaultAwsRole},
    naming::{self, IamRole, PolicyName, RoleName, Subject, server_id},
    safety, tenancy,
};

/// Where a role and its policy stand in one Vault, as Vault folds the names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Names {
    /// Path of the auth mount, without `auth/`.
    pub mount: String,
    /// Name of the role at the mount.
    pub role: String,
    /// Name of the policy.
    pub policy: String,
}

impl Names {
    /// What the backend's templates make of the resource.
    ///
    /// # Errors
    /// [`naming::Fault`] where that is no name in Vault.
    pub fn derive(
        resource: &VaultAwsRole,
        backend: &VaultAwsBackendSpec,
    ) -> Result<Self, naming::Fault> {
        Self::of(&iam_role(resource)?, resource, backend)
    }

    /// What a former pass wrote; `None` if none wrote anything.
    pub fn recorded(resource: &VaultAwsRole, backend: &VaultAwsBackendSpec) -> Option<Self> {
        let status = resource.status.as_ref()?;
        Some(Self {
            mount: backend.auth.mount.clone(),
            role: status.vault_role.clone()?,
            policy: status.policy_name.clone()?,
        })
    }

    fn of(
        iam_role: &IamRole,
        resource: &VaultAwsRole,
        backend: &VaultAwsBackendSpec,
    ) -> Result<Self, naming::Fault> {
        let (namespace, name) = (resource.namespace().unwrap_or_default(), resource.name_any());
        let subject = Subject { iam_role, namespace: &namespace, name: &name };
        let role = RoleName::derive(&backend.naming, subject)?;
        let policy = PolicyName::derive(&backend.naming, subject, &role)?;
        Ok(Self {
            mount: backend.auth.mount.clone(),
            role: role.as_str().to_owned(),
            policy: policy.as_str().to_owned(),
        })
    }

    /// The mark that this resource leaves on its policy.
    pub fn marker(&self, resource: &VaultAwsRole, cluster: &str) -> Marker {
        Marker {
            cluster: cluster.to_owned(),
            namespace: resource.namespace().unwrap_or_default(),
            name: resource.name_any(),
            // A manifest that was never applied has none yet.
            uid: resource.uid().unwrap_or_else(|| "none".to_owned()),
            mount: self.mount.clone(),
            role: self.role.clone(),
        }
    }
}

/// A role of auth type `iam` and its policy, as they should stand in Vault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Desired {
    /// Where.
    pub names: Names,
    /// Whose.
    pub owner: Marker,
    /// Text of the policy.
    pub policy: String,
    /// The paths that the policy opens.
    pub paths: Vec<String>,
    /// The one bound ARN: with the IAM path if Vault resolves unique IDs, else without, because Vault
    /// then compares with the ARN of a session, which has lost the path.
    pub principal: String,
    /// Whether Vault binds to the unique ID of the IAM role.
    pub unique_ids: bool,
    /// What a client types to log in.
    pub login: String,
}

/// Why a resource is not written, though nothing went wrong.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The spec, or the names that the backend's templates make of it, cannot be.
    #[error(transparent)]
    Naming(#[from] naming::Fault),
    /// No tenancy rule grants it.
    #[error(transparent)]
    Tenancy(#[from] tenancy::Denied),
    /// The name is that of the role by which the operator itself logs in.
    #[error("`{role}` is the role by which the operator logs in and never written")]
    OperatorRole {
        /// The role's name.
        role: String,
    },
    /// The name is that of a policy of the operator's own token.
    #[error("`{policy}` is a policy of the operator's own token and never written")]
    OperatorPolicy {
        /// The policy's name.
        policy: String,
    },
    /// This version of Vault cannot be trusted with it.
    #[error(transparent)]
    Unsafe(#[from] safety::Unsafe),
}

impl Refusal {
    /// The condition's reason.
    pub fn reason(&self) -> RoleReason {
        match self {
            Self::Naming(naming::Fault::Reserved { .. })
            | Self::OperatorRole { .. }
            | Self::OperatorPolicy { .. } => RoleReason::ReservedName,
            Self::Unsafe(_) => RoleReason::VersionUnsafe,
            Self::Naming(_) => RoleReason::InvalidSpec,
            Self::Tenancy(_) => RoleReason::TenancyDenied,
        }
    }
}

impl Desired {
    /// What the resource asks for, if it may: `labels` are those of its namespace, `cluster` is this
    /// Kubernetes cluster's name in marks of ownership.
    ///
    /// # Errors
    /// [`Refusal`] if the spec cannot be, or the backend does not grant it.
    pub fn parse(
        resource: &VaultAwsRole,
        backend: &VaultAwsBackend,
        labels: &BTreeMap<String, String>,
        cluster: &str,
    ) -> Result<Self, Refusal> {
        let spec = &backend.spec;
        let iam_role = iam_role(resource)?;
        tenancy::grant(
            &spec.tenancy,
            &tenancy::Request {
                namespace: &resource.namespace().unwrap_or_default(),
                labels,
                account: &iam_role.account,
                iam_role: &iam_role.name,
                identity: None,
            },
        )?;
        let names = Names::of(&iam_role, resource, spec)?;
        let own_login = &spec.operator_login;
        let own_logins = [
            own_login.service_account.as_ref().map(|own| (&own.mount, &own.role)),
            own_login.aws.as_ref().map(|own| (&own.mount, &own.role)),
        ];
        if own_logins
            .into_iter()
            .flatten()
            .any(|(mount, role)| *mount == names.mount && role.eq_ignore_ascii_case(&names.role))
        {
            return Err(Refusal::OperatorRole { role: names.role });
        }
        let owner = names.marker(resource, cluster);
        let rules = policy::rules(&spec.certificates, &iam_role);
        let unique_ids =
            resource.spec.resolve_aws_unique_ids.unwrap_or(spec.auth.resolve_aws_unique_ids);
        let asked = safety::Asked { account: &iam_role.account, wildcard: false, unique_ids };
        safety::permits(backend, &asked)?;
        Ok(Self {
            policy: policy::text(&owner, &rules),
            paths: rules.into_iter().map(|rule| rule.path).collect(),
            principal: if unique_ids { iam_role.arn() } else { iam_role.pathless_arn() },
            unique_ids,
            login: login(spec, &names),
            names,
            owner,
        })
    }
}

impl Desired {
    /// Why the names may not be used although the spec may: the policy is one of those that the
    /// operator's own token carries.
    pub fn guards(&self, own: &[String]) -> Option<Refusal> {
        let is_own =
            own.iter().any(|policy| policy.trim().eq_ignore_ascii_case(&self.names.policy));
        is_own.then(|| Refusal::OperatorPolicy { policy: self.names.policy.clone() })
    }
}

fn iam_role(resource: &VaultAwsRole) -> Result<IamRole, naming::Fault> {
    let spec = &resource.spec;
    IamRole::parse(spec.partition, &spec.account_id, &spec.iam_role, &spec.iam_role_path)
}

/// The command of Vault's own CLI, with what its defaults would get wrong.
fn login(backend: &VaultAwsBackendSpec, names: &Names) -> String {
    let mut command = String::from("vault login -method=aws");
    if let Some(namespace) = &backend.vault.namespace {
        command.push_str(&format!(" -namespace={namespace}"));
    }
    if names.mount != "aws" {
        command.push_str(&format!(" -path={}", names.mount));
    }
    command.push_str(&format!(
        " role={} header_value={}",
        names.role,
        server_id(backend).unwrap_or_default()
    ));
    if backend.aws.region != "us-east-1" {
        command.push_str(&format!(" region={}", backend.aws.region));
    }
    command
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The README's backend, changed at top-level keys of its spec.
    pub(in crate::role) fn backend(changes: Value) -> VaultAwsBackend {
        let mut spec = json!({
            "vault": {"address": "https://vault.example.com:8200"},
            "operatorLogin": {"serviceAccount": {"role": "vault-aws-operator"}},
            "tenancy": [{
                "name": "team-a",
                "namespaces": {"names": ["team-a"]},
                "accounts": ["111122223333"],
                "iamRoles": ["web", "api-*", "root", "a@b"],
            }],
        });
        merge(&mut spec, changes);
        serde_json::from_value(json!({
            "apiVersion": "vaultaws.dev/v1alpha1",
            "kind": "VaultAwsBackend",
            "metadata": {"name": "default", "uid": "backend", "generation": 1},
            "spec": spec,
        }))
        .unwrap()
    }

    /// A role of the IAM role `web`, changed at top-level keys of its spec.
    pub(in crate::role) fn role(name: &str, changes: Value) -> VaultAwsRole {
        let mut spec = json!({"accountId": "111122223333", "iamRole": "web"});
        merge(&mut spec, changes);
        serde_json::from_value(json!({
            "apiVersion": "vaultaws.dev/v1alpha1",
            "kind": "VaultAwsRole",
            "metadata": {
                "namespace": "team-a",
                "name": name,
                "uid": format!("uid-{name}"),
                "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": spec,
        }))
        .unwrap()
    }

    fn merge(into: &mut Value, changes: Value) {
        let Value::Object(changes) = changes else { return };
        for (key, value) in changes {
            into[key] = value;
        }
    }

    pub(in crate::role) fn desired(role_changes: Value, backend_changes: Value) -> Desired {
        parse(role_changes, backend_changes).unwrap()
    }

    fn parse(role_changes: Value, backend_changes: Value) -> Result<Desired, Refusal> {
        let backend = backend(backend_changes);
        Desired::parse(&role("web", role_changes), &backend, &BTreeMap::new(), "prod-1")
    }

    fn refusal(role_changes: Value, backend_changes: Value) -> (RoleReason, String) {
        let refusal = parse(role_changes, backend_changes).unwrap_err();
        (refusal.reason(), refusal.to_string())
    }

    #[test]
    fn the_minimal_spec_is_a_role_and_a_policy_named_after_the_iam_role() {
        let desired = desired(json!({}), json!({}));
        assert_eq!(
            desired.names,
            Names { mount: "aws".into(), role: "web".into(), policy: "vaultaws-web-policy".into() }
        );
        assert_eq!(desired.principal, "arn:aws:iam::111122223333:role/web");
        assert_eq!(
            desired.paths,
            [
                "secret/data/certs/111122223333/web/*",
                "secret/metadata/certs/111122223333/web/*",
                "secret/metadata/certs/111122223333/web/",
            ]
        );
        assert!(desired.policy.starts_with(
            "# vault-aws-operator v1 cluster=prod-1 namespace=team-a name=web uid=uid-web \
             role=aws/web\n"
        ));
    }

    #[test]
    fn the_bound_arn_has_a_path_only_with_unique_ids() {
        let arn = |unique: bool| {
            let role = json!({"iamRolePath": "/team/", "resolveAwsUniqueIds": unique});
            desired(role, json!({})).principal
        };
        assert_eq!(arn(false), "arn:aws:iam::111122223333:role/web");
        assert_eq!(arn(true), "arn:aws:iam::111122223333:role/team/web");
    }

    #[test]
    fn unique_ids_are_as_the_backend_says_unless_the_role_says_otherwise() {
        let unique =
            |role: Value| desired(role, json!({"auth": {"resolveAwsUniqueIds": true}})).unique_ids;
        assert!(unique(json!({})));
        assert!(!unique(json!({"resolveAwsUniqueIds": false})));
        assert!(!desired(json!({}), json!({})).unique_ids);
    }

    #[test]
    fn what_no_rule_grants_is_denied_before_its_names_are_judged() {
        let (reason, message) = refusal(json!({"iamRole": "Root"}), json!({}));
        assert_eq!(reason, RoleReason::TenancyDenied);
        assert_eq!(message, "tenancy rule `team-a` does not grant IAM role `Root`");
    }

    #[test]
    fn a_spec_that_an_older_schema_let_through_is_invalid() {
        let (reason, message) = refusal(json!({"accountId": "1"}), json!({}));
        assert_eq!(reason, RoleReason::InvalidSpec);
        assert_eq!(message, "accountId must be twelve digits");
    }

    #[test]
    fn a_name_that_vault_cannot_take_is_invalid() {
        assert_eq!(refusal(json!({"iamRole": "a@b"}), json!({})).0, RoleReason::InvalidSpec);
    }

    #[test]
    fn a_name_that_vault_reserves_is_never_written() {
        assert_eq!(refusal(json!({"iamRole": "root"}), json!({})).0, RoleReason::ReservedName);
    }

    #[test]
    fn the_role_by_which_the_operator_logs_in_is_never_written() {
        let own = |mount: &str| json!({"operatorLogin": {"serviceAccount": {"mount": mount, "role": "WEB"}}});
        assert_eq!(
            refusal(json!({}), own("aws")),
            (
                RoleReason::ReservedName,
                "`web` is the role by which the operator logs in and never written".into()
            )
        );
        assert!(parse(json!({}), own("kubernetes")).is_ok());
    }

    #[test]
    fn the_login_command_names_only_what_its_defaults_get_wrong() {
        assert_eq!(
            desired(json!({}), json!({})).login,
            "vault login -method=aws role=web header_value=vault.example.com"
        );
        assert_eq!(
            desired(
                json!({}),
                json!({
                    "vault": {"address": "https://vault.example.com:8200", "namespace": "admin"},
                    "auth": {"mount": "teams/aws", "serverId": "vault.internal"},
                    "aws": {"region": "eu-west-1"},
                })
            )
            .login,
            "vault login -method=aws -namespace=admin -path=teams/aws role=web \
             header_value=vault.internal region=eu-west-1"
        );
    }

    #[test]
    fn the_server_id_is_the_host_without_port_and_path() {
        for (address, host) in [
            ("https://vault.example.com", "vault.example.com"),
            ("https://vault.example.com:8200/v", "vault.example.com"),
            ("https://127.0.0.1:8200", "127.0.0.1"),
            ("https://[::1]:8200", "::1"),
        ] {
            let backend = backend(json!({"vault": {"address": address}}));
            assert_eq!(server_id(&backend.spec).as_deref(), Some(host));
        }
    }
}
