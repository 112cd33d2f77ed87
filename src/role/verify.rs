//! The login that a role is for, tried once per change by the operator itself. The token is given back
//! at once.

use std::sync::Arc;

use crate::{
    aws::{
        Credentials,
        identity::{self as aws, Ambient, AssumeRole},
        signing,
    },
    clock,
    crd::RoleReason,
    fault::{Fault, Retry},
    vault::{
        self, AwsRefusal,
        login::{self, Mismatch},
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

/// Why the login did not come about, or was not the one that was meant.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// AWS gave no credentials.
    #[error("getting the AWS identity of {arn}")]
    Aws {
        /// The role.
        arn: String,
        /// Why.
        #[source]
        source: aws::Error,
    },
    /// The request could not be signed.
    #[error("signing the login")]
    Signing(#[source] Arc<signing::SigningError>),
    /// Vault did not let it in.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// Vault let somebody else in.
    #[error("the token was given back")]
    Mismatch(#[source] Mismatch),
}

impl Error {
    /// The condition's reason.
    pub fn role_reason(&self) -> RoleReason {
        match self {
            Self::Aws { source, .. } => match source {
                aws::Error::AccessDenied { .. } => RoleReason::AssumeRoleDenied,
                aws::Error::Throttled => RoleReason::AwsThrottled,
                aws::Error::ExpiredToken { .. } => RoleReason::AwsCredentialsRefused,
                aws::Error::Unreachable { .. } => RoleReason::StsUnreachable,
                aws::Error::NoCredentials { .. } => RoleReason::NoAwsCredentials,
                aws::Error::Region { .. } | aws::Error::Endpoint { .. } => RoleReason::InvalidSpec,
                aws::Error::Other { .. } => RoleReason::AwsError,
            },
            Self::Signing(_) => RoleReason::InvalidSpec,
            Self::Vault(error) => match error.aws_refusal() {
                Some(AwsRefusal::StsUnreachable) => RoleReason::StsUnreachable,
                Some(AwsRefusal::Throttled) => RoleReason::AwsThrottled,
                Some(
                    AwsRefusal::CredentialsInvalid
                    | AwsRefusal::SignatureRefused
                    | AwsRefusal::SignatureExpired,
                ) => RoleReason::AwsCredentialsRefused,
                Some(_) => RoleReason::LoginDenied,
                None if error.is_denied() => RoleReason::LoginDenied,
                None => super::error::documented(error.reason()),
            },
            Self::Mismatch(_) => RoleReason::SessionRefused,
        }
    }
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        self.role_reason().as_str()
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Aws { source, .. } => source.retry(),
            Self::Signing(_) => Retry::WhenChanged,
            // A role that was just written may not be known to every node yet.
            Self::Vault(error) => {
                error.aws_refusal().map_or_else(|| error.retry(), AwsRefusal::retry)
            }
            Self::Mismatch(_) => Retry::Slowly,
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Aws { source, .. } => source.is_shared(),
            Self::Vault(error) => {
                error.is_shared() || error.aws_refusal().is_some_and(AwsRefusal::is_shared)
            }
            Self::Signing(_) | Self::Mismatch(_) => false,
        }
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
    let request = signing::get_caller_identity_at(
        &credentials,
        &verify.region,
        verify.sts_endpoint.as_deref(),
        verify.server_id.as_deref(),
        clock::now(),
    )
    .map_err(|error| Error::Signing(Arc::new(error)))?;
    let login = login::iam(vault, mount, Some(role), &request).await?;
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
