//! Logins: the requests that turn an identity into a token, and their answer.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use vaultrs::api::auth::{
    aws::requests::IamLoginRequest, kubernetes::requests::LoginWithKubernetesRequest,
};

use super::{
    Caller, Client, Operation,
    error::{Cause, Error},
    mount_path, wire,
};
use crate::{
    aws::signing::SignedRequest,
    fault::{Fault, Retry},
    redacted::Redacted,
};

/// A login that Vault granted (or a renewal).
#[derive(Clone, Debug)]
pub struct Login {
    /// The token.
    pub token: Redacted<String>,
    /// Names the token without being it; empty for batch tokens.
    pub accessor: String,
    /// How long the token lives from now on; zero = for ever.
    pub lease: Duration,
    /// Whether it can be renewed; never for batch tokens.
    pub renewable: bool,
    /// All policies that it carries, those of its identity included.
    pub policies: Vec<String>,
    /// What the auth method says of the caller: for AWS `account_id`, `auth_type`, `role_id`, ….
    pub metadata: BTreeMap<String, String>,
    /// `service` or `batch`.
    pub token_type: String,
    /// Requests that it has; 0 = no limit.
    pub num_uses: u64,
}

impl Login {
    /// A handle that sends this token, and counts its uses if they are limited.
    pub fn caller(&self, client: &Client) -> Caller {
        Caller::limited(client, self.token.clone(), self.num_uses)
    }

    /// Whether Vault keeps the token, and so can renew and revoke it. A batch token lives by itself.
    pub fn is_revocable(&self) -> bool {
        self.token_type != "batch"
    }

    /// The AWS account that Vault saw.
    pub fn account_id(&self) -> Option<&str> {
        self.metadata.get("account_id").map(String::as_str)
    }

    /// Whether this is the login that was meant: of this account (if one is given), and not
    /// carrying `root`.
    pub fn check(&self, account_id: Option<&str>) -> Result<(), Mismatch> {
        if self.policies.iter().any(|policy| policy == "root") {
            return Err(Mismatch::HoldsRoot);
        }
        match account_id {
            Some(expected) if self.account_id() != Some(expected) => Err(Mismatch::Account {
                expected: expected.to_owned(),
                found: self.account_id().unwrap_or("none").to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// A login that is not the one that was meant; its token must be revoked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// The token would be allowed everything.
    #[error("the login carries the `root` policy")]
    HoldsRoot,
    /// Vault saw another AWS account.
    #[error("the login is of account {found}, not {expected}")]
    Account {
        /// The account of the resource.
        expected: String,
        /// The account in Vault's answer, or `none`.
        found: String,
    },
}

impl Fault for Mismatch {
    fn reason(&self) -> &'static str {
        match self {
            Self::HoldsRoot => "LoginHoldsRoot",
            Self::Account { .. } => "AccountMismatch",
        }
    }

    fn retry(&self) -> Retry {
        Retry::Slowly
    }
}

/// `auth` as it stands in an answer: Vault leaves `token_policies` out when there are none.
#[derive(Debug, Deserialize)]
pub(crate) struct Auth {
    #[serde(default)]
    client_token: Option<Redacted<String>>,
    #[serde(default, deserialize_with = "wire::or_default")]
    accessor: String,
    #[serde(default, deserialize_with = "wire::seconds")]
    lease_duration: u64,
    #[serde(default, deserialize_with = "wire::or_default")]
    renewable: bool,
    #[serde(default, deserialize_with = "wire::list")]
    policies: Vec<String>,
    #[serde(default, deserialize_with = "wire::list")]
    token_policies: Vec<String>,
    #[serde(default, deserialize_with = "wire::list")]
    identity_policies: Vec<String>,
    #[serde(default, deserialize_with = "wire::texts")]
    metadata: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "wire::or_default")]
    token_type: String,
    #[serde(default, deserialize_with = "wire::or_default")]
    num_uses: u64,
    #[serde(default)]
    mfa_requirement: Option<serde::de::IgnoredAny>,
}

impl Auth {
    pub(crate) fn login(self) -> Result<Login, Cause> {
        let token = match self.client_token {
            Some(token) if !token.expose().is_empty() => token,
            _ if self.mfa_requirement.is_some() => return Err(Cause::MfaRequired),
            _ => {
                return Err(Cause::Malformed { what: "it holds no token".to_owned() });
            }
        };
        let mut policies = self.policies;
        for policy in self.token_policies.into_iter().chain(self.identity_policies) {
            if !policies.contains(&policy) {
                policies.push(policy);
            }
        }
        Ok(Login {
            token,
            accessor: self.accessor,
            lease: Duration::from_secs(self.lease_duration),
            renewable: self.renewable,
            policies,
            metadata: self.metadata,
            token_type: self.token_type,
            num_uses: self.num_uses,
        })
    }
}

/// Logs in with a signed `GetCallerIdentity` (`POST auth/<mount>/login`). Vault asks STS.
///
/// `role` is a Vault role; `None` lets Vault take the friendly name of the IAM principal.
pub async fn iam(
    client: &Client,
    mount: &str,
    role: Option<&str>,
    request: &SignedRequest,
) -> Result<Login, Error> {
    let mount = mount_path(mount);
    let operation = Operation::new(
        "login_aws",
        match role {
            Some(role) => format!("logging in as role `{role}` at auth/{mount}"),
            None => format!("logging in at auth/{mount}"),
        },
    )
    .asking_aws();
    let endpoint = IamLoginRequest {
        mount: mount.to_owned(),
        role: role.map(str::to_owned),
        iam_http_request_method: request.method().to_owned(),
        iam_request_url: STANDARD.encode(request.url()),
        iam_request_body: STANDARD.encode(request.body()),
        iam_request_headers: STANDARD.encode(request.headers_json().expose()),
    };
    finish(client.send(&operation, &endpoint).await?)
}

/// Logs in with a token of Kubernetes or OIDC (`POST auth/<mount>/login`): `kubernetes` and `jwt`
/// mounts take the same request.
pub async fn jwt(
    client: &Client,
    mount: &str,
    role: &str,
    jwt: &Redacted<String>,
) -> Result<Login, Error> {
    let mount = mount_path(mount);
    let operation =
        Operation::new("login_jwt", format!("logging in as role `{role}` at auth/{mount}"));
    let endpoint = LoginWithKubernetesRequest {
        mount: mount.to_owned(),
        role: role.to_owned(),
        jwt: jwt.expose().trim().to_owned(),
    };
    finish(client.send(&operation, &endpoint).await?)
}

fn finish(answer: super::Answer) -> Result<Login, Error> {
    let answer = answer.existing()?;
    let auth = answer.auth()?;
    auth.login().map_err(|cause| answer.failed(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(text: &str) -> Result<Login, Cause> {
        serde_json::from_str::<Auth>(text).unwrap().login()
    }

    #[test]
    fn a_login_without_token_policies_is_read() {
        let login = login(
            r#"{"client_token":"hvs.x","accessor":"a","policies":["default"],
                "metadata":{"account_id":"111122223333","auth_type":"iam"},"lease_duration":600,
                "renewable":true,"token_type":"service","mfa_requirement":null,"num_uses":0}"#,
        )
        .unwrap();
        assert_eq!(login.lease, Duration::from_secs(600));
        assert_eq!(login.check(Some("111122223333")), Ok(()));
        assert!(!format!("{login:?}").contains("hvs"), "{login:?}");
    }

    #[test]
    fn a_login_that_wants_a_second_factor_is_an_error() {
        let text = r#"{"client_token":"","policies":null,"metadata":null,
            "mfa_requirement":{"mfa_request_id":"1"}}"#;
        assert_eq!(login(text).unwrap_err(), Cause::MfaRequired);
        assert!(matches!(login("{}").unwrap_err(), Cause::Malformed { .. }));
    }

    #[test]
    fn root_is_found_among_the_policies_of_the_identity_too() {
        let login =
            login(r#"{"client_token":"t","policies":["a"],"identity_policies":["root"]}"#).unwrap();
        assert_eq!(login.check(None), Err(Mismatch::HoldsRoot));
    }

    #[test]
    fn the_login_of_another_account_is_refused() {
        let login = login(r#"{"client_token":"t","metadata":{"account_id":"2"}}"#).unwrap();
        assert_eq!(
            login.check(Some("1")),
            Err(Mismatch::Account { expected: "1".to_owned(), found: "2".to_owned() })
        );
        assert_eq!(login.check(None), Ok(()));
    }
}
