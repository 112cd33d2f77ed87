//! What a `VaultAwsBackend` declares of a mount that is ours to configure. Pure.
//!
//! `None` is a field that was not given: it is neither compared nor written. Values stand here as
//! Vault gives them back, so that what was written is found equal.
//!
//! What the operator asks of Vault for it, beyond `sys/auth` (read), which it reads for every mount:
//!
//! | path | capabilities | for |
//! | --- | --- | --- |
//! | `auth/<mount>/config/client` | create, read, update | always: server ID, and `client` |
//! | `auth/<mount>/config/identity` | read, update | `identity` |
//! | `auth/<mount>/config/sts/<accountId>` | create, read, update | `accounts` |
//! | `sys/mounts/auth/<mount>/tune` | update | `defaultLeaseTtl`, `maxLeaseTtl` |
//! | `sys/auth/<mount>` | update, sudo | once, where the mount is missing |

use crate::crd::{self, AuthMount, Ec2Metadata, IamMetadata, KeyRef, Span};

/// The part of the mount's configuration that is ours.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Managed {
    /// Seconds; 0 = the server's default.
    pub default_lease_ttl: Option<u64>,
    /// Seconds; 0 = the server's maximum.
    pub max_lease_ttl: Option<u64>,
    /// config/client.
    pub client: Client,
    /// config/identity.
    pub identity: Identity,
    /// config/sts, by account.
    pub accounts: Vec<Account>,
}

/// config/client.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Client {
    /// Name of the Secret with Vault's AWS keys.
    pub credentials: Option<String>,
    /// Where logins are forwarded to.
    pub sts_endpoint: Option<String>,
    /// Region of Vault's own STS requests.
    pub sts_region: Option<String>,
    /// Whether logins go to the region they were signed for.
    pub use_sts_region_from_client: Option<bool>,
    /// IAM endpoint.
    pub iam_endpoint: Option<String>,
    /// EC2 endpoint; Vault calls it `endpoint`.
    pub ec2_endpoint: Option<String>,
    /// Further headers of a login, in canonical case, sorted.
    pub allowed_sts_header_values: Option<Vec<String>>,
    /// Retries; -1 = the SDK's.
    pub max_retries: Option<i64>,
    /// Value of X-Vault-AWS-IAM-Server-ID that every login must sign.
    pub server_id: String,
}

/// config/identity, in Vault's words; the lists are sorted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of `aws_auth::IdentityConfig`")]
pub struct Identity {
    pub iam_alias: Option<String>,
    pub iam_metadata: Option<Vec<String>>,
    pub ec2_alias: Option<String>,
    pub ec2_metadata: Option<Vec<String>>,
}

impl Identity {
    /// Whether nothing of it is declared.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One foreign account.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    /// Twelve digits.
    pub id: String,
    /// ARN of the role that Vault assumes there.
    pub sts_role: String,
    /// Where the ExternalId lies that it says.
    pub external_id: Option<KeyRef>,
}

impl Managed {
    /// What is declared, in Vault's form.
    pub fn parse(spec: &AuthMount, server_id: String) -> Self {
        let client = spec.client.clone().unwrap_or_default();
        let identity = spec.identity.as_ref();
        let mut accounts: Vec<Account> = spec
            .accounts
            .iter()
            .map(|account| Account {
                id: account.account_id.clone(),
                sts_role: account.sts_role_arn.clone(),
                external_id: account.external_id_ref.clone(),
            })
            .collect();
        accounts.sort_by(|one, other| one.id.cmp(&other.id));
        Self {
            default_lease_ttl: spec.default_lease_ttl.map(seconds),
            max_lease_ttl: spec.max_lease_ttl.map(seconds),
            client: Client {
                credentials: client.credentials_ref.map(|reference| reference.name),
                sts_endpoint: client.sts_endpoint,
                sts_region: client.sts_region,
                use_sts_region_from_client: client.use_sts_region_from_client,
                iam_endpoint: client.iam_endpoint,
                ec2_endpoint: client.ec2_endpoint,
                allowed_sts_header_values: client.allowed_sts_header_values.map(|headers| {
                    sorted(headers.iter().map(|header| canonical_header(header)).collect())
                }),
                max_retries: client.max_retries.map(i64::from),
                server_id,
            },
            identity: identity.map(identity_in_vault).unwrap_or_default(),
            accounts,
        }
    }
}

fn identity_in_vault(identity: &crd::IdentityConfig) -> Identity {
    Identity {
        iam_alias: identity.iam_alias.map(|alias| alias.as_str().to_owned()),
        iam_metadata: identity.iam_metadata.as_ref().map(|given| {
            let kept = [IamMetadata::AccountId, IamMetadata::AuthType];
            sorted(kept.iter().chain(given).map(|word| word.as_str().to_owned()).collect())
        }),
        ec2_alias: identity.ec2_alias.map(|alias| alias.as_str().to_owned()),
        ec2_metadata: identity.ec2_metadata.as_ref().map(|given| {
            let kept = [Ec2Metadata::AccountId, Ec2Metadata::AuthType];
            sorted(kept.iter().chain(given).map(|word| word.as_str().to_owned()).collect())
        }),
    }
}

fn seconds(span: Span) -> u64 {
    span.duration().as_secs()
}

/// A list of which the order means nothing, so that two can be compared.
pub(super) fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list.dedup();
    list
}

/// `x-amz-foo` as `X-Amz-Foo`: how Vault stores the names of headers.
fn canonical_header(name: &str) -> String {
    let part = |part: &str| {
        let (first, rest) = part.split_at(part.len().min(1));
        first.to_ascii_uppercase() + &rest.to_ascii_lowercase()
    };
    name.split('-').map(part).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(auth: Value) -> Managed {
        Managed::parse(&serde_json::from_value(auth).unwrap(), "vault.example.com".into())
    }

    #[test]
    fn what_is_not_given_is_not_declared() {
        let managed = parse(json!({"management": "Managed"}));
        let client = Client { server_id: "vault.example.com".into(), ..Client::default() };
        assert_eq!(managed, Managed { client, ..Managed::default() });
        assert!(managed.identity.is_empty());
    }

    #[test]
    fn metadata_always_has_the_account_and_the_kind_of_login() {
        let managed = parse(json!({"management": "Managed", "identity": {
            "iamMetadata": ["client_arn", "auth_type"], "ec2Metadata": [],
        }}));
        let words = |list: Option<Vec<String>>| list.unwrap().join(" ");
        assert_eq!(words(managed.identity.iam_metadata), "account_id auth_type client_arn");
        assert_eq!(words(managed.identity.ec2_metadata), "account_id auth_type");
        assert_eq!(managed.identity.iam_alias, None);
    }

    #[test]
    fn headers_stand_as_vault_stores_them() {
        let managed = parse(json!({"management": "Managed", "client": {
            "allowedStsHeaderValues": ["x-amz-foo-BAR", "X-Amz-Foo-Bar", "X-Amz-A1"],
        }}));
        let headers = managed.client.allowed_sts_header_values.unwrap();
        assert_eq!(headers, ["X-Amz-A1", "X-Amz-Foo-Bar"]);
    }

    #[test]
    fn times_are_seconds_and_zero_is_a_time() {
        let managed = parse(
            json!({"management": "Managed", "defaultLeaseTtl": "0s", "maxLeaseTtl": "1h30m"}),
        );
        assert_eq!((managed.default_lease_ttl, managed.max_lease_ttl), (Some(0), Some(5400)));
    }
}
