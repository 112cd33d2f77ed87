//! The login that a role is for, tried once per change by the operator itself. The token is given back
//! at once.

use super::error::documented;
use crate::{
    aws::{
        Credentials,
        identity::{self as aws, Ambient, AssumeRole},
    },
    crd::RoleReason,
    fault::Fault,
    vault::{
        self,
        aws_login::{self, Error, Place},
        tokens,
    },
};

/// The condition.
pub const LOGIN_VERIFIED: &str = "LoginVerified";

/// As whom, and how, the login is tried.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verify {
    /// Whose credentials.
    pub proof: Proof,
    /// The IAM role.
    pub arn: String,
    /// Its account.
    pub account: String,
    /// For which the login is signed.
    pub region: String,
    /// Another STS than the region's.
    pub sts_endpoint: Option<String>,
    /// `X-Vault-AWS-IAM-Server-ID`; `None` if the backend's address has no host.
    pub server_id: Option<String>,
}

/// Where the credentials come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Proof {
    /// The operator assumes the role.
    AssumeRole {
        /// At most 64 characters.
        session_name: String,
        /// The client's trust policy names it.
        external_id: String,
    },
    /// The operator's own.
    Ambient,
}

/// The condition's reason.
pub fn reason(error: &Error) -> RoleReason {
    match error.reason() {
        // The role is the operator's own work: whatever Vault has against its login, it denies it.
        "VaultRefused" if error.aws_refusal().is_some() => RoleReason::LoginDenied,
        word => documented(word),
    }
}

/// Logs in at a role as its IAM role, looks whom Vault let in, and gives the token back.
///
/// # Errors
/// [`Error`] where AWS or Vault refuse, or it is another login than was meant.
pub async fn log_in(
    ambient: &Ambient,
    vault: &vault::Client,
    (mount, role): (&str, &str),
    verify: &Verify,
) -> Result<(), Error> {
    let credentials = credentials(ambient, verify).await?;
    let place = Place {
        mount,
        role,
        region: &verify.region,
        sts_endpoint: verify.sts_endpoint.as_deref(),
        server_id: verify.server_id.as_deref(),
    };
    let login = aws_login::log_in(vault, &credentials, place).await?;
    if login.is_revocable()
        && let Err(error) = tokens::revoke_self(&login.caller(vault)).await
    {
        // Without the policy `default` a token may not revoke itself; it ends with its lease.
        tracing::debug!(role, %error, "the token of a verified login was not given back");
    }
    login.check(Some(&verify.account)).map_err(Error::Mismatch)
}

async fn credentials(ambient: &Ambient, verify: &Verify) -> Result<Credentials, Error> {
    let given = match &verify.proof {
        Proof::AssumeRole { session_name, external_id } => {
            let role = AssumeRole {
                arn: verify.arn.clone(),
                session_name: session_name.clone(),
                external_id: Some(external_id.clone()),
                region: verify.region.clone(),
                endpoint: verify.sts_endpoint.clone(),
            };
            aws::assume_role(ambient, &role).await
        }
        Proof::Ambient => ambient.credentials().await,
    };
    given.map_err(|source| Error::Aws { arn: verify.arn.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Cause;

    #[test]
    fn what_vault_has_against_a_login_at_our_role_is_a_denial() {
        let of = |cause: Cause| reason(&Error::Vault(vault::Error::new("logging in", cause)));
        let refused = |message: &str| Cause::Refused { status: 400, message: message.into() };
        assert_eq!(of(refused("entry for role web not found")), RoleReason::LoginDenied);
        assert_eq!(of(refused("something else")), RoleReason::LoginDenied);
        assert_eq!(of(refused("Throttling: Rate exceeded")), RoleReason::AwsThrottled);
        // There is no such mount.
        assert_eq!(of(Cause::NotFound { message: "x".into() }), RoleReason::VaultRefused);
        assert_eq!(of(Cause::Sealed), RoleReason::VaultSealed);
    }
}
