//! Logins: the requests that turn an identity into a token, and their answer.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustify_derive::Endpoint;
use serde::Deserialize;
use vaultrs::api::auth::{
    aws::requests::IamLoginRequest, kubernetes::requests::LoginWithKubernetesRequest,
};

use super::{
    Answer, Caller, Client, Operation,
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

/// What people are shown of a login, beyond what programs need.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The login.
    pub login: Login,
    /// The policies of the token itself.
    pub token_policies: Vec<String>,
    /// Those that its identity adds.
    pub identity_policies: Vec<String>,
    /// The identity entity; empty if there is none.
    pub entity_id: String,
    /// Whether the token outlives the one that made it.
    pub orphan: bool,
    /// The request, as the server's audit log knows it.
    pub request_id: String,
    /// Vault's warnings.
    pub warnings: Vec<String>,
}

/// A second factor that the login needs (`mfa_requirement`), to be given at `sys/mfa/validate`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct MfaRequirement {
    /// Names this login there.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub mfa_request_id: String,
    /// By name of the enforcement: one method of each is needed.
    #[serde(default, deserialize_with = "wire::or_default")]
    mfa_constraints: BTreeMap<String, MfaConstraint>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
struct MfaConstraint {
    #[serde(default, deserialize_with = "wire::or_default")]
    any: Vec<MfaMethod>,
}

/// A way to give a second factor.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct MfaMethod {
    /// `totp`, `duo`, `okta` or `pingid`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Its name at `sys/mfa/validate`.
    #[serde(default)]
    pub id: String,
    /// Whether a passcode is to be typed.
    #[serde(default)]
    pub uses_passcode: bool,
}

impl MfaRequirement {
    /// All methods that were named.
    pub fn methods(&self) -> impl Iterator<Item = &MfaMethod> {
        self.mfa_constraints.values().flat_map(|constraint| &constraint.any)
    }
}

/// What a person's login came to.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A token.
    Granted(Box<Granted>),
    /// Not yet a token: a second factor is wanted.
    MfaRequired(MfaRequirement),
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
    #[serde(default, deserialize_with = "wire::or_default")]
    entity_id: String,
    #[serde(default, deserialize_with = "wire::or_default")]
    orphan: bool,
    #[serde(default)]
    mfa_requirement: Option<MfaRequirement>,
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
    finish(send_iam(client, mount, role, request).await?)
}

/// As [`iam`], with all that people are shown.
pub async fn iam_of_person(
    client: &Client,
    mount: &str,
    role: Option<&str>,
    request: &SignedRequest,
) -> Result<Outcome, Error> {
    outcome(send_iam(client, mount, role, request).await?)
}

async fn send_iam(
    client: &Client,
    mount: &str,
    role: Option<&str>,
    request: &SignedRequest,
) -> Result<Answer, Error> {
    let mount = mount_path(mount);
    let endpoint = IamLoginRequest {
        mount: mount.to_owned(),
        role: role.map(str::to_owned),
        iam_http_request_method: request.method().to_owned(),
        iam_request_url: STANDARD.encode(request.url()),
        iam_request_body: STANDARD.encode(request.body()),
        iam_request_headers: STANDARD.encode(request.headers_json().expose()),
    };
    client.send(&operation("login_aws", mount, role), &endpoint).await
}

fn operation(label: &'static str, mount: &str, role: Option<&str>) -> Operation {
    let text = match role {
        Some(role) => format!("logging in as role `{role}` at auth/{mount}"),
        None => format!("logging in at auth/{mount}"),
    };
    Operation::new(label, text).asking_aws()
}

// vaultrs' own struct knows identity and signature only.
#[derive(Endpoint)]
#[endpoint(path = "auth/{self.mount}/login", method = "POST")]
struct Ec2Login {
    #[endpoint(skip)]
    mount: String,
    role: Option<String>,
    pkcs7: String,
    nonce: String,
}

/// Logs an EC2 instance in with its signed identity document (`POST auth/<mount>/login`).
///
/// `pkcs7` is what the instance metadata service says; line breaks are left out. The first login of an
/// instance fixes its `nonce`: later ones must give the same, so it has to be kept before it is used.
pub async fn ec2_of_person(
    client: &Client,
    mount: &str,
    role: Option<&str>,
    pkcs7: &str,
    nonce: &Redacted<String>,
) -> Result<Outcome, Error> {
    let mount = mount_path(mount);
    let endpoint = Ec2Login {
        mount: mount.to_owned(),
        role: role.map(str::to_owned),
        pkcs7: pkcs7.split_whitespace().collect(),
        nonce: nonce.expose().clone(),
    };
    outcome(client.send(&operation("login_ec2", mount, role), &endpoint).await?)
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

fn outcome(answer: Answer) -> Result<Outcome, Error> {
    let answer = answer.existing()?;
    let auth = answer.auth()?;
    if let Some(wanted) = auth.mfa_requirement.clone()
        && auth.client_token.as_ref().is_none_or(|token| token.expose().is_empty())
    {
        return Ok(Outcome::MfaRequired(wanted));
    }
    let (token_policies, identity_policies) =
        (auth.token_policies.clone(), auth.identity_policies.clone());
    let (entity_id, orphan) = (auth.entity_id.clone(), auth.orphan);
    let login = auth.login().map_err(|cause| answer.failed(cause))?;
    Ok(Outcome::Granted(Box::new(Granted {
        login,
        token_policies,
        identity_policies,
        entity_id,
        orphan,
        request_id: answer.request_id(),
        warnings: answer.warnings(),
    })))
}

fn finish(answer: Answer) -> Result<Login, Error> {
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
    fn a_second_factor_is_named() {
        let auth: Auth = serde_json::from_str(
            r#"{"client_token":"","mfa_requirement":{"mfa_request_id":"r1","mfa_constraints":{
                "all":{"any":[{"type":"totp","id":"m1","uses_passcode":true}]}}}}"#,
        )
        .unwrap();
        let wanted = auth.mfa_requirement.unwrap();
        assert_eq!(wanted.mfa_request_id, "r1");
        let methods: Vec<_> = wanted.methods().map(|method| method.kind.as_str()).collect();
        assert_eq!(methods, ["totp"]);
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
