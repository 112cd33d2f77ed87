//! What a `VaultAwsBackend` asks for, checked without a request. Pure.

use super::managed::Managed;
use crate::{
    crd::{BackendReason, Management, VaultAwsBackendSpec},
    fault::{Fault, Retry},
    naming, tenancy,
};

/// The shortest literal beginning of all policies' names, in characters.
const PREFIX: usize = 4;

/// A backend that can work.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Desired {
    /// The auth mount.
    pub mount: String,
    /// Its type: `aws`, or the name of a plugin.
    pub kind: String,
    /// The KV v2 mount.
    pub kv_mount: String,
    /// What is ours of the mount's configuration; `None` under `management: Observed`.
    pub managed: Option<Managed>,
    /// Whether requests name a Vault namespace.
    pub wants_namespace: bool,
}

/// Why it cannot work.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// A naming template is ambiguous in itself.
    #[error(transparent)]
    Naming(#[from] naming::Fault),
    /// Several accounts, one name.
    #[error(
        "tenancy spans {0} accounts, so naming.role must contain {{account}}: roles of the same name \
         in two accounts would be one role in Vault"
    )]
    RoleNotUnique(usize),
    /// Several roles, one policy.
    #[error("naming.policy must contain {{role}}: several roles would share one policy")]
    PolicyNotUnique,
    /// The names of policies have no common beginning.
    #[error(
        "naming.policy must start with at least {PREFIX} literal characters, so that the operator's own \
         policy can be limited to them"
    )]
    PolicyPrefix,
    /// The operator would log in where it writes roles.
    #[error(
        "operatorLogin.aws.mount is auth.mount `{0}`: whoever writes roles there could make himself the \
         operator; use another AWS auth mount"
    )]
    OwnMount(String),
    /// A selector that would mean every namespace.
    #[error(
        "tenancy rule `{0}` has an empty namespace selector; name the namespaces or select some"
    )]
    EmptySelector(String),
    /// Region and endpoint disagree.
    #[error(
        "{field} is in region {endpoint}, but logins are signed for aws.region {region}: set \
         aws.region to {endpoint}"
    )]
    Region {
        /// The field with the endpoint.
        field: &'static str,
        /// Region of the endpoint.
        endpoint: String,
        /// Region of the logins.
        region: String,
    },
    /// The address names no host.
    #[error("vault.address names no host; set it to https://host:port")]
    Address,
}

impl Fault for Refusal {
    fn reason(&self) -> &'static str {
        match self {
            Self::RoleNotUnique(_) | Self::PolicyNotUnique => BackendReason::NamingNotUnique,
            Self::Naming(_)
            | Self::PolicyPrefix
            | Self::OwnMount(_)
            | Self::EmptySelector(_)
            | Self::Region { .. }
            | Self::Address => BackendReason::InvalidSpec,
        }
        .as_str()
    }

    fn retry(&self) -> Retry {
        Retry::WhenChanged
    }
}

impl Desired {
    /// Checks the spec.
    ///
    /// # Errors
    /// [`Refusal`], before any request.
    pub fn parse(spec: &VaultAwsBackendSpec, server_id: Option<String>) -> Result<Self, Refusal> {
        naming::check_template(&spec.naming.role)?;
        naming::check_template(&spec.naming.policy)?;
        let accounts = tenancy::accounts(&spec.tenancy);
        if accounts > 1 && !spec.naming.role.contains("{account}") {
            return Err(Refusal::RoleNotUnique(accounts));
        }
        if naming::literal_prefix(&spec.naming.policy).len() < PREFIX {
            return Err(Refusal::PolicyPrefix);
        }
        if spec.operator_login.aws.as_ref().is_some_and(|login| login.mount == spec.auth.mount) {
            return Err(Refusal::OwnMount(spec.auth.mount.clone()));
        }
        if !spec.naming.policy.contains("{role}") {
            return Err(Refusal::PolicyNotUnique);
        }
        for rule in &spec.tenancy {
            if tenancy::selects_everything(&rule.namespaces) {
                return Err(Refusal::EmptySelector(rule.name.clone()));
            }
        }
        // With useStsRegionFromClient, Vault forwards to the region of the login whatever stands there.
        let client = spec.auth.client.as_ref();
        let forwarded = client
            .filter(|client| client.use_sts_region_from_client != Some(true))
            .and_then(|client| client.sts_endpoint.as_deref());
        for (field, endpoint) in [
            ("auth.client.stsEndpoint", forwarded),
            ("aws.stsEndpoint", spec.aws.sts_endpoint.as_deref()),
        ] {
            if let Some(endpoint) = endpoint.and_then(region_of)
                && endpoint != spec.aws.region
            {
                let region = spec.aws.region.clone();
                return Err(Refusal::Region { field, endpoint, region });
            }
        }
        let server_id = server_id.ok_or(Refusal::Address)?;
        let managed = (spec.auth.management == Management::Managed)
            .then(|| Managed::parse(&spec.auth, server_id));
        Ok(Self {
            mount: spec.auth.mount.clone(),
            kind: spec.auth.kind.clone(),
            kv_mount: spec.certificates.mount.clone(),
            managed,
            wants_namespace: spec.vault.namespace.is_some(),
        })
    }
}

/// The region of an AWS STS endpoint: `https://sts.eu-west-1.amazonaws.com`; `None` for the global
/// one, which is signed for us-east-1 or for nothing we know, and for endpoints that are not AWS's.
fn region_of(endpoint: &str) -> Option<String> {
    let host = endpoint.strip_prefix("https://")?.trim_end_matches('/');
    let region = host.strip_prefix("sts.")?;
    if region == "amazonaws.com" {
        return Some("us-east-1".into());
    }
    let region = region
        .strip_suffix(".amazonaws.com")
        .or_else(|| region.strip_suffix(".amazonaws.com.cn"))?;
    Some(region.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(change: impl FnOnce(&mut Value)) -> Result<Desired, Refusal> {
        let mut spec = json!({
            "vault": {"address": "https://vault.example.com:8200"},
            "operatorLogin": {"serviceAccount": {"role": "operator"}},
            "tenancy": [{
                "name": "team-a", "namespaces": {"names": ["team-a"]},
                "accounts": ["111122223333"], "iamRoles": ["web"],
            }],
        });
        change(&mut spec);
        let spec = serde_json::from_value(spec).unwrap();
        Desired::parse(&spec, Some("vault.example.com".into()))
    }

    #[test]
    fn the_minimal_backend_can_work() {
        let desired = parse(|_| ()).unwrap();
        assert_eq!((desired.mount.as_str(), desired.kv_mount.as_str()), ("aws", "secret"));
        assert_eq!((desired.kind.as_str(), desired.managed), ("aws", None));
    }

    #[test]
    fn two_accounts_need_the_account_in_the_name() {
        let two = |spec: &mut Value| {
            spec["tenancy"][0]["accounts"] = json!(["111122223333", "444455556666"])
        };
        assert_eq!(parse(two), Err(Refusal::RoleNotUnique(2)));
        assert_eq!(parse(two).unwrap_err().reason(), "NamingNotUnique");
        let named = parse(|spec| {
            two(spec);
            spec["naming"] = json!({"role": "{account}-{iamRole}"});
        });
        assert!(named.is_ok());
    }

    #[test]
    fn a_policy_belongs_to_one_role() {
        let refusal = parse(|spec| spec["naming"] = json!({"policy": "vaultaws-{iamRole}"}));
        assert_eq!(refusal, Err(Refusal::PolicyNotUnique));
    }

    #[test]
    fn names_of_policies_have_a_common_beginning() {
        for short in ["{role}-policy-of-ours", "va-{role}"] {
            let refusal = parse(|spec| spec["naming"] = json!({"policy": short}));
            assert_eq!(refusal, Err(Refusal::PolicyPrefix), "{short}");
        }
        assert!(parse(|spec| spec["naming"] = json!({"policy": "vau-{role}"})).is_ok());
    }

    #[test]
    fn two_free_texts_are_joined_by_a_full_stop() {
        let joined = |role: &'static str| parse(move |spec| spec["naming"] = json!({"role": role}));
        assert_eq!(joined("{namespace}-{name}").unwrap_err().reason(), "InvalidSpec");
        assert!(joined("{namespace}.{name}").is_ok());
    }

    #[test]
    fn the_operator_does_not_log_in_where_it_writes_roles() {
        let login = |mount: &'static str| {
            parse(move |spec| {
                spec["operatorLogin"] = json!({"aws": {"mount": mount, "role": "operator"}});
            })
        };
        assert_eq!(login("aws"), Err(Refusal::OwnMount("aws".into())));
        assert!(login("aws-operator").is_ok());
    }

    #[test]
    fn an_empty_selector_is_refused() {
        let refusal = parse(|spec| spec["tenancy"][0]["namespaces"] = json!({"selector": {}}));
        assert_eq!(refusal, Err(Refusal::EmptySelector("team-a".into())));
    }

    #[test]
    fn logins_are_signed_for_the_region_of_the_endpoint() {
        let managed = |endpoint: &'static str| {
            parse(move |spec| {
                spec["auth"] =
                    json!({"management": "Managed", "client": {"stsEndpoint": endpoint}});
            })
        };
        assert!(matches!(
            managed("https://sts.eu-west-1.amazonaws.com"),
            Err(Refusal::Region { .. })
        ));
        assert!(managed("https://sts.amazonaws.com").is_ok());
        assert!(managed("https://sts.us-east-1.amazonaws.com/").is_ok());
        assert!(managed("http://127.0.0.1:4566").is_ok());
        let of_the_client = parse(|spec| {
            let endpoint = "https://sts.eu-west-1.amazonaws.com";
            spec["auth"] = json!({
                "management": "Managed",
                "client": {"stsEndpoint": endpoint, "useStsRegionFromClient": true},
            });
        });
        assert!(of_the_client.is_ok());
    }
}
