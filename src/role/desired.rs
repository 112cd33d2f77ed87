//! From spec to what should stand in Vault. Pure: every refusal of a spec is born here, and a refused
//! spec costs no request.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;

use super::{
    ec2::{self, Instances},
    isolation::Extra,
    policy::{self, Marker},
    principal::{self, Principal},
    token::{self, Token},
    verify::{Proof, Verify},
};
use crate::{
    crd::{
        Adopt, AuthType, Drift, IdentityKind, Isolation, PathRule, REBIND_ANNOTATION, RoleReason,
        TenancyRule, VaultAwsBackend, VaultAwsBackendSpec, VaultAwsRole,
    },
    naming::{self, IamRole, PolicyName, RoleName, Subject, server_id},
    safety, tenancy,
    vault::acl::{Capabilities, Pattern},
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
    /// What the backend's templates make of the resource, or the name that it gives itself.
    ///
    /// # Errors
    /// [`naming::Fault`] where that is no name in Vault.
    pub fn derive(
        resource: &VaultAwsRole,
        backend: &VaultAwsBackendSpec,
    ) -> Result<Self, naming::Fault> {
        Self::of(&IamRole::of(&resource.spec)?, resource, backend)
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
        let role = match &resource.spec.vault_name {
            Some(given) => RoleName::given(given)?,
            None => RoleName::derive(&backend.naming, subject)?,
        };
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

/// A role and its policy, as they should stand in Vault.
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
    /// How clients log in.
    pub auth_type: AuthType,
    /// The bound ARNs, as Vault needs them; none for `ec2`.
    pub principals: Vec<String>,
    /// Whether Vault binds to the unique IDs of the IAM principals.
    pub unique_ids: bool,
    /// Names of the policies that the role carries besides its own, as Vault folds them, sorted.
    pub additional_policies: Vec<String>,
    /// Whether its tokens come without `default`.
    pub no_default_policy: bool,
    /// Within what its logins have to stay.
    pub bounds: Bounds,
    /// How the login is tried, if it is.
    pub verify: Option<Verify>,
    /// What the instance must be like.
    pub instances: Instances,
    /// What the tokens are like.
    pub token: Token,
    /// Whether Vault is to look the principals up again, as somebody asked.
    pub rebind: bool,
    /// How far what is not ours may be taken over.
    pub adopt: Adopt,
    /// What is done about differences.
    pub drift: Drift,
    /// What a client types to log in; `None` where Vault's own command cannot.
    pub login: Option<String>,
}

/// Within what the logins of a role have to stay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Whether nothing is written that leads beyond it.
    pub enforced: bool,
    /// The KV mount of the certificates.
    pub mount: String,
    /// The role's directory in it.
    pub directory: String,
    /// What the tenancy rule grants besides.
    pub extras: Vec<Extra>,
}

impl Bounds {
    fn new(backend: &VaultAwsBackendSpec, rule: &TenancyRule, iam_role: &IamRole) -> Self {
        let extra = |PathRule { path, capabilities }: &PathRule| Extra {
            path: path.clone(),
            // The schema has no word that Vault has not.
            capabilities: Capabilities::of(capabilities.iter().map(|word| word.as_str()))
                .unwrap_or_default(),
        };
        Self {
            enforced: backend.isolation == Isolation::Enforce,
            mount: backend.certificates.mount.clone(),
            directory: iam_role.directory(&backend.certificates),
            extras: rule.extra_rules.iter().map(extra).collect(),
        }
    }
}

/// Why a resource is not written, though nothing went wrong.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The spec, or the names that the backend's templates make of it, cannot be.
    #[error(transparent)]
    Naming(#[from] naming::Fault),
    /// One of the principals cannot be.
    #[error("principals")]
    Principal(#[from] principal::Fault),
    /// The binds of instances cannot be.
    #[error(transparent)]
    Instances(#[from] ec2::Fault),
    /// The tokens cannot be.
    #[error(transparent)]
    Token(#[from] token::Fault),
    /// No tenancy rule grants it.
    #[error(transparent)]
    Tenancy(#[from] tenancy::Denied),
    /// The spec says so.
    #[error("suspended by spec.suspend: nothing is asked of Vault, and what is there stays")]
    Suspended,
    /// No policy of Vault could have this path, or none would mean what it says.
    #[error("policy.extraRules: `{path}` is no path of a policy")]
    ExtraPath {
        /// The path.
        path: String,
    },
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
    /// The role would carry what the operator itself may do.
    #[error(
        "token.additionalPolicies: `{policy}` is a policy of the operator's own token and never \
         attached"
    )]
    OperatorPolicyAttached {
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
            | Self::OperatorPolicy { .. }
            | Self::OperatorPolicyAttached { .. } => RoleReason::ReservedName,
            Self::Unsafe(_) => RoleReason::VersionUnsafe,
            Self::Naming(_)
            | Self::Principal(_)
            | Self::Instances(_)
            | Self::Token(_)
            | Self::ExtraPath { .. } => RoleReason::InvalidSpec,
            Self::Tenancy(_) => RoleReason::TenancyDenied,
            Self::Suspended => RoleReason::Suspended,
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
        if resource.spec.suspend {
            return Err(Refusal::Suspended);
        }
        let (spec, wish) = (&backend.spec, &resource.spec);
        let iam_role = IamRole::of(wish)?;
        let principals = principal::principals(wish)?;
        let instances = Instances::parse(wish)?;
        let mut token = Token::parse(&wish.token)?;
        let additional_policies = additional_policies(&wish.token.additional_policies)?;
        let extra_rules = &wish.policy.extra_rules;
        if let Some(extra) = extra_rules.iter().find(|extra| !is_path(&extra.path)) {
            return Err(Refusal::ExtraPath { path: extra.path.clone() });
        }
        let rule = tenancy::grant(
            &spec.tenancy,
            &tenancy::Request {
                namespace: &resource.namespace().unwrap_or_default(),
                labels,
                account: &iam_role.account,
                iam: (iam_role.kind, &iam_role.name),
                identity: identity(resource),
                beyond: tenancy::Beyond {
                    principals: &principals.iter().map(Principal::names).collect::<Vec<_>>(),
                    auth_type: wish.auth_type,
                    inference: wish.inference.is_some(),
                    vault_name: wish.vault_name.as_deref(),
                    adopt: wish.adopt,
                    policies: &additional_policies,
                    extra_rules,
                    token_times: &token::times(&wish.token),
                },
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
        let mut rules = policy::rules(&spec.certificates, &iam_role, wish.policy.certificates);
        policy::add(&mut rules, extra_rules);
        if let Some(longest) = rule.max_token_ttl {
            token.live_at_most(longest);
        }
        let bounds = Bounds::new(spec, rule, &iam_role);
        let verify =
            identity(resource).map(|kind| verify(kind, &iam_role, resource, spec, cluster));
        let is_iam = wish.auth_type == AuthType::Iam;
        let unique_ids =
            is_iam && wish.resolve_aws_unique_ids.unwrap_or(spec.auth.resolve_aws_unique_ids);
        let asked = safety::Asked {
            account: &iam_role.account,
            wildcard: principals.iter().any(|one| matches!(one, Principal::Prefix { .. })),
            unique_ids,
        };
        safety::permits(backend, &asked)?;
        let mut bound: Vec<String> = match principals.as_slice() {
            _ if !is_iam => Vec::new(),
            [] => vec![Principal::One(iam_role).bound(unique_ids)],
            given => given.iter().map(|one| one.bound(unique_ids)).collect(),
        };
        bound.sort_unstable();
        bound.dedup();
        Ok(Self {
            policy: policy::text(&owner, &rules),
            paths: rules.into_iter().map(|rule| rule.path).collect(),
            auth_type: wish.auth_type,
            principals: bound,
            unique_ids,
            instances,
            token,
            additional_policies,
            no_default_policy: wish.token.no_default_policy,
            bounds,
            verify,
            rebind: unique_ids && rebind_is_due(resource),
            adopt: wish.adopt,
            drift: wish.drift,
            login: is_iam.then(|| login(spec, &names)),
            names,
            owner,
        })
    }
}

/// The value of the annotation that asks for the principals to be looked up again.
pub fn rebind(resource: &VaultAwsRole) -> Option<&String> {
    resource.annotations().get(REBIND_ANNOTATION)
}

/// Whether it is another value than the one that was acted on. Before the role was first written
/// there is nothing to bind again, and a value that is there from the start is none that somebody sets
/// to ask for it.
fn rebind_is_due(resource: &VaultAwsRole) -> bool {
    let Some(status) = resource.status.as_ref().filter(|status| status.vault_role.is_some()) else {
        return false;
    };
    rebind(resource).is_some_and(|value| Some(value) != status.last_handled_rebind.as_ref())
}

impl Desired {
    /// Why it may not be, although the spec may: of the policies that the operator's own token carries
    /// it would write one, or attach one and so hand on what the operator may do.
    pub fn guards(&self, own: &[String]) -> Option<Refusal> {
        let is_own = |name: &str| own.iter().any(|own| own.trim().eq_ignore_ascii_case(name));
        if is_own(&self.names.policy) {
            return Some(Refusal::OperatorPolicy { policy: self.names.policy.clone() });
        }
        let attached = self.additional_policies.iter().find(|name| is_own(name));
        attached.map(|policy| Refusal::OperatorPolicyAttached { policy: policy.clone() })
    }

    /// What the role names: its own policy first.
    pub fn token_policies(&self) -> Vec<String> {
        let own = &self.names.policy;
        let others = self.additional_policies.iter().filter(|other| *other != own);
        [own].into_iter().chain(others).cloned().collect()
    }
}

/// As Vault folds them, each once.
fn additional_policies(names: &[String]) -> Result<Vec<String>, naming::Fault> {
    let folded = names.iter().map(|name| naming::policy_name(name));
    Ok(folded.collect::<Result<BTreeSet<_>, _>>()?.into_iter().collect())
}

/// Whether Vault's policies can have such a path, and a request could be for it: Vault cleans the path
/// of a request before it looks at policies.
fn is_path(path: &str) -> bool {
    let segments = path.trim_end_matches('/').split('/');
    Pattern::parse(path).is_some()
        && !path.contains("{{")
        && segments.into_iter().all(|segment| !matches!(segment, "" | "." | ".."))
}

/// How the login is tried.
fn identity(resource: &VaultAwsRole) -> Option<IdentityKind> {
    let identity = &resource.spec.verify.as_ref()?.identity;
    match (&identity.assume_role, &identity.ambient) {
        (None, Some(_)) => Some(IdentityKind::Ambient),
        (Some(_), _) | (None, None) => Some(IdentityKind::AssumeRole),
    }
}

fn verify(
    kind: IdentityKind,
    iam_role: &IamRole,
    resource: &VaultAwsRole,
    backend: &VaultAwsBackendSpec,
    cluster: &str,
) -> Verify {
    let namespace = resource.namespace().unwrap_or_default();
    Verify {
        proof: match kind {
            IdentityKind::Ambient => Proof::Ambient,
            _ => Proof::AssumeRole {
                session_name: naming::session_name(&namespace, &resource.name_any()),
                external_id: naming::external_id(backend, cluster, &namespace),
            },
        },
        arn: iam_role.arn(),
        account: iam_role.account.clone(),
        region: backend.aws.region.clone(),
        sts_endpoint: backend.aws.sts_endpoint.clone(),
        server_id: server_id(backend),
    }
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
        assert_eq!(desired.principals, ["arn:aws:iam::111122223333:role/web"]);
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

    /// A tenancy rule that grants this besides.
    fn granting(more: Value) -> Value {
        let mut rule = serde_json::to_value(&backend(json!({})).spec.tenancy[0]).unwrap();
        rule["iamUsers"] = json!(["ada"]);
        merge(&mut rule, more);
        json!({"tenancy": [rule]})
    }

    #[test]
    fn a_role_carries_its_own_policy_first_and_each_other_once_as_vault_folds_it() {
        let token = json!({"token": {
            "additionalPolicies": ["Team-B", "team-a", "TEAM-B", "vaultaws-web-policy"],
            "noDefaultPolicy": true,
        }});
        let grant = json!({"additionalPolicies": ["team-a", "team-b", "vaultaws-web-policy"]});
        let desired = desired(token, granting(grant));
        assert_eq!(desired.token_policies(), ["vaultaws-web-policy", "team-a", "team-b"]);
        assert!(desired.no_default_policy);
    }

    #[test]
    fn a_policy_of_the_operators_own_token_is_neither_written_nor_attached() {
        let token = json!({"token": {"additionalPolicies": ["Team-B"]}});
        let desired = desired(token, granting(json!({"additionalPolicies": ["team-b"]})));
        let refused = |own: &str| {
            let own = ["default".to_owned(), own.to_owned()];
            desired.guards(&own).map(|refusal| (refusal.reason(), refusal.to_string()))
        };
        let reserved = |what: &str| Some((RoleReason::ReservedName, what.to_owned()));
        assert_eq!(
            refused("vaultaws-web-policy"),
            reserved(
                "`vaultaws-web-policy` is a policy of the operator's own token and never written"
            )
        );
        assert_eq!(
            refused("TEAM-B"),
            reserved(
                "token.additionalPolicies: `team-b` is a policy of the operator's own token and \
                 never attached"
            )
        );
        assert_eq!(refused("team-c"), None);
    }

    #[test]
    fn a_policy_that_vault_reserves_is_never_carried() {
        for name in ["root", "Default", "RESPONSE-wrapping", "control-group"] {
            let token = json!({"token": {"additionalPolicies": [name]}});
            let grant = granting(json!({"additionalPolicies": [name]}));
            assert_eq!(refusal(token, grant).0, RoleReason::ReservedName, "{name}");
        }
        let token = json!({"token": {"additionalPolicies": ["a.."]}});
        assert_eq!(refusal(token, json!({})).0, RoleReason::InvalidSpec);
    }

    #[test]
    fn what_is_no_path_of_a_policy_is_invalid_and_what_is_not_granted_denied() {
        let with = |path: &str| {
            let extra = json!([{"path": path, "capabilities": ["read"]}]);
            let role = json!({"policy": {"extraRules": extra}});
            parse(
                role,
                granting(json!({"extraRules": [{"path": "pki/*", "capabilities": ["read"]}]})),
            )
        };
        for path in ["pki//x", "pki/../sys", "pki/./x", "pki/+*", "pki/{{a}}", "..", "//"] {
            let refusal = with(path).unwrap_err();
            assert_eq!(refusal.reason(), RoleReason::InvalidSpec, "{path}");
        }
        assert_eq!(with("sys/x").unwrap_err().reason(), RoleReason::TenancyDenied);
        let desired = with("pki/+/x").unwrap();
        assert_eq!(desired.paths.last().map(String::as_str), Some("pki/+/x"));
        assert!(desired.policy.ends_with("path \"pki/+/x\" {\n  capabilities = [\"read\"]\n}\n"));
    }

    #[test]
    fn a_login_is_tried_only_as_whom_the_rule_lists() {
        assert_eq!(desired(json!({}), json!({})).verify, None);
        let tried = |identity: &str, listed: &str| {
            let role = json!({"verify": {"identity": {identity: {}}}});
            parse(role, granting(json!({"identities": [listed]})))
        };
        let assumed = tried("assumeRole", "AssumeRole").unwrap().verify.unwrap();
        let (session_name, external_id) =
            ("vaultaws-team-a-web".to_owned(), "prod-1/team-a".to_owned());
        assert_eq!(assumed.proof, Proof::AssumeRole { session_name, external_id });
        assert_eq!(assumed.arn, "arn:aws:iam::111122223333:role/web");
        assert_eq!(tried("ambient", "Ambient").unwrap().verify.unwrap().proof, Proof::Ambient);
        for (identity, listed) in [("assumeRole", "Ambient"), ("ambient", "AssumeRole")] {
            let refusal = tried(identity, listed).unwrap_err();
            assert_eq!(refusal.reason(), RoleReason::TenancyDenied, "{identity}");
        }
    }

    #[test]
    fn the_bound_arn_has_a_path_only_with_unique_ids() {
        let arn = |unique: bool| {
            let role = json!({"iamRolePath": "/team/", "resolveAwsUniqueIds": unique});
            desired(role, json!({})).principals.concat()
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

    fn arn(rest: &str) -> String {
        format!("arn:aws:iam::111122223333:{rest}")
    }

    #[test]
    fn a_user_is_bound_as_a_user_and_named_as_a_role_would_be() {
        let user = json!({"iamRole": null, "iamUser": "ada"});
        let desired = desired(user, granting(json!({})));
        assert_eq!(desired.principals, [arn("user/ada")]);
        assert_eq!(desired.names.role, "ada");
        assert_eq!(desired.paths[0], "secret/data/certs/111122223333/ada/*");
    }

    #[test]
    fn principals_take_the_place_of_the_one_that_is_derived() {
        let all =
            json!({"principals": [arn("user/ada"), arn("role/team/api-1"), arn("role/api-1")]});
        let desired = desired(all, granting(json!({})));
        assert_eq!(desired.principals, [arn("role/api-1"), arn("user/ada")]);
        assert_eq!(desired.paths[0], "secret/data/certs/111122223333/web/*");
        let one = json!({"principals": [arn("role/db")]});
        assert_eq!(
            refusal(one, granting(json!({}))),
            (
                RoleReason::TenancyDenied,
                "tenancy rule `team-a` does not grant IAM role `db`".into()
            )
        );
        let foreign = json!({"principals": ["arn:aws:iam::444455556666:role/web"]});
        assert_eq!(refusal(foreign, granting(json!({}))).0, RoleReason::InvalidSpec);
    }

    #[test]
    fn wildcards_wait_until_the_backend_is_known_to_be_safe() {
        let spec = json!({"principals": [arn("role/api-*")]});
        let rule = granting(json!({"allowWildcardPrincipals": true}));
        let judged = |condition: Option<&str>| {
            let mut backend = backend(rule.clone());
            if let Some(status) = condition {
                let conditions = json!([{
                    "type": "VersionSafe", "status": status, "reason": "x", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }]);
                backend.status = Some(
                    serde_json::from_value(
                        json!({"observedGeneration": 1, "conditions": conditions}),
                    )
                    .unwrap(),
                );
            }
            Desired::parse(&role("web", spec.clone()), &backend, &BTreeMap::new(), "prod-1")
        };
        for unsafe_one in [None, Some("False"), Some("Unknown")] {
            let refusal = judged(unsafe_one).unwrap_err();
            assert_eq!(refusal.reason(), RoleReason::VersionUnsafe, "{unsafe_one:?}");
        }
        assert_eq!(judged(Some("True")).unwrap().principals, [arn("role/api-*")]);
    }

    #[test]
    fn an_instance_is_bound_without_principals_and_without_a_login_to_type() {
        let spec = json!({"authType": "ec2", "ec2": {"amiIds": ["ami-1"]}});
        let rule = granting(json!({"authTypes": ["iam", "ec2"]}));
        let mut backend = rule.clone();
        backend["auth"] = json!({"resolveAwsUniqueIds": true});
        let desired = desired(spec.clone(), backend);
        assert_eq!(desired.principals, [""; 0]);
        assert!(!desired.unique_ids);
        assert_eq!(desired.login, None);
        let denied = refusal(spec, granting(json!({})));
        assert_eq!(denied.0, RoleReason::TenancyDenied);
        assert_eq!(denied.1, "tenancy rule `team-a` does not grant authType ec2");
    }

    #[test]
    fn a_name_of_its_own_is_taken_for_the_role_and_the_policy() {
        let spec = json!({"vaultName": "Legacy"});
        let names = desired(spec.clone(), granting(json!({"names": ["legacy"]}))).names;
        assert_eq!(names.role, "legacy");
        assert_eq!(names.policy, "vaultaws-legacy-policy");
        assert_eq!(refusal(spec, granting(json!({}))).0, RoleReason::TenancyDenied);
        let reserved = json!({"vaultName": "Default"});
        let refused = refusal(reserved, granting(json!({"names": ["*"]})));
        assert_eq!(refused.0, RoleReason::ReservedName);
    }

    #[test]
    fn a_suspended_role_is_not_even_judged() {
        let spec = json!({"suspend": true, "accountId": "1"});
        assert_eq!(refusal(spec, json!({"tenancy": []})).0, RoleReason::Suspended);
    }

    #[test]
    fn rebind_fires_once_for_a_value_that_came_after_the_first_write() {
        let due = |annotation: Option<&str>, status: Value| {
            let mut role = role("web", json!({"resolveAwsUniqueIds": true}));
            if let Some(value) = annotation {
                role.annotations_mut().insert(REBIND_ANNOTATION.into(), value.into());
            }
            role.status = serde_json::from_value(status).unwrap();
            Desired::parse(&role, &backend(json!({})), &BTreeMap::new(), "c").unwrap().rebind
        };
        let written = |handled: Value| json!({"observedGeneration": 1, "vaultRole": "web", "lastHandledRebind": handled});
        assert!(!due(Some("1"), Value::Null));
        assert!(!due(Some("1"), json!({"observedGeneration": 1})));
        assert!(!due(Some("1"), written(json!("1"))));
        assert!(!due(None, written(json!("1"))));
        assert!(due(Some("1"), written(Value::Null)));
        assert!(due(Some("2"), written(json!("1"))));
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
            desired(json!({}), json!({})).login.as_deref(),
            Some("vault login -method=aws role=web header_value=vault.example.com")
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
            .login
            .as_deref(),
            Some(
                "vault login -method=aws -namespace=admin -path=teams/aws role=web \
                 header_value=vault.internal region=eu-west-1"
            )
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
