//! A login by an AWS identity, from its credentials to the token, and all that can keep it from coming
//! about. What is made of it in a condition is the kinds' own.

use std::sync::Arc;

use super::{
    Client,
    error::{self, AwsRefusal},
    login::{self, Login, Mismatch},
};
use crate::{
    aws::{Credentials, identity as aws, signing},
    clock,
    fault::{Fault, Retry},
};

/// Where somebody logs in, and what his request is signed for.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Path of the auth mount, without `auth/`.
    pub mount: &'a str,
    /// The Vault role.
    pub role: &'a str,
    /// The AWS region.
    pub region: &'a str,
    /// Another STS than the region's.
    pub sts_endpoint: Option<&'a str>,
    /// `X-Vault-AWS-IAM-Server-ID`, if there is one to send.
    pub server_id: Option<&'a str>,
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
    Vault(#[from] error::Error),
    /// Vault let somebody else in.
    #[error("the token was given back")]
    Mismatch(#[source] Mismatch),
}

impl Error {
    /// What AWS, or Vault's AWS method, did not like; `None` unless Vault refused the login.
    pub fn aws_refusal(&self) -> Option<AwsRefusal> {
        match self {
            Self::Vault(error) => error.aws_refusal(),
            Self::Aws { .. } | Self::Signing(_) | Self::Mismatch(_) => None,
        }
    }

    /// Whether AWS did not take the credentials themselves: others may serve.
    pub fn blames_credentials(&self) -> bool {
        match self {
            Self::Aws { source, .. } => matches!(source, aws::Error::ExpiredToken { .. }),
            _ => matches!(
                self.aws_refusal(),
                Some(AwsRefusal::CredentialsInvalid | AwsRefusal::SignatureRefused)
            ),
        }
    }

    /// Whether AWS asked for fewer requests of the account.
    pub fn is_throttled(&self) -> bool {
        match self {
            Self::Aws { source, .. } => matches!(source, aws::Error::Throttled),
            _ => self.aws_refusal() == Some(AwsRefusal::Throttled),
        }
    }
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Aws { source, .. } => match source {
                aws::Error::AccessDenied { .. } => "AssumeRoleDenied",
                aws::Error::Throttled => "AwsThrottled",
                aws::Error::ExpiredToken { .. } => "AwsCredentialsRefused",
                aws::Error::Unreachable { .. } => "StsUnreachable",
                aws::Error::NoCredentials { .. } => "NoAwsCredentials",
                aws::Error::Region { .. } | aws::Error::Endpoint { .. } => "InvalidSpec",
                aws::Error::Other { .. } => "AwsError",
            },
            Self::Signing(_) => "InvalidSpec",
            Self::Vault(error) => match error.aws_refusal() {
                Some(AwsRefusal::StsUnreachable) => "StsUnreachable",
                Some(AwsRefusal::Throttled) => "AwsThrottled",
                Some(
                    AwsRefusal::CredentialsInvalid
                    | AwsRefusal::SignatureRefused
                    | AwsRefusal::SignatureExpired,
                ) => "AwsCredentialsRefused",
                Some(
                    AwsRefusal::PrincipalMismatch
                    | AwsRefusal::EntryNotFound
                    | AwsRefusal::AuthTypeMismatch
                    | AwsRefusal::ServerIdMismatch
                    | AwsRefusal::HeaderRefused
                    | AwsRefusal::RegionMismatch,
                ) => "LoginDenied",
                Some(
                    AwsRefusal::PrincipalNotFound
                    | AwsRefusal::PrincipalInvalid
                    | AwsRefusal::NoStsConfiguration
                    | AwsRefusal::BadVaultAwsKeys
                    | AwsRefusal::VaultAwsDenied
                    | AwsRefusal::NotReady
                    | AwsRefusal::Other,
                ) => "VaultRefused",
                None if error.is_denied() => "LoginDenied",
                None => error.reason(),
            },
            Self::Mismatch(_) => "SessionRefused",
        }
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

/// Logs in with these credentials. Whom Vault let in is for the caller to look at.
///
/// # Errors
/// [`Error`] where the request cannot be signed or Vault refuses.
pub async fn log_in(
    client: &Client,
    credentials: &Credentials,
    place: Place<'_>,
) -> Result<Login, Error> {
    let Place { mount, role, region, sts_endpoint, server_id } = place;
    let request =
        signing::get_caller_identity_at(credentials, region, sts_endpoint, server_id, clock::now())
            .map_err(|error| Error::Signing(Arc::new(error)))?;
    Ok(login::iam(client, mount, Some(role), &request).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crd::{RoleReason, SyncReason},
        vault::Cause,
    };

    fn refused(message: &str) -> Error {
        let cause = Cause::Refused { status: 400, message: message.into() };
        Error::Vault(error::Error::new("logging in", cause))
    }

    #[test]
    fn every_reason_is_one_of_both_kinds() {
        let text = String::new;
        let asked = [
            aws::Error::AccessDenied { text: text() },
            aws::Error::Throttled,
            aws::Error::ExpiredToken { text: text() },
            aws::Error::Unreachable { text: text() },
            aws::Error::NoCredentials { text: text() },
            aws::Error::Region { region: text() },
            aws::Error::Other { text: text() },
        ];
        let asked = asked.into_iter().map(|source| Error::Aws { arn: text(), source });
        let answered = [
            "IncompleteSignature",
            "entry for role web not found",
            "Throttling: Rate exceeded",
            "request failed: context deadline exceeded",
            "SignatureDoesNotMatch: x",
            "something else",
        ];
        let others = [
            Error::Signing(Arc::new(signing::SigningError::ServerId)),
            Error::Vault(error::Error::new("logging in", Cause::Denied)),
            Error::Mismatch(Mismatch::HoldsRoot),
        ];
        for error in asked.chain(answered.map(refused)).chain(others) {
            let reason = error.reason();
            assert!(RoleReason::word(reason).is_some(), "{reason}");
            assert!(SyncReason::word(reason).is_some(), "{reason}");
        }
    }

    #[test]
    fn whom_the_role_does_not_bind_is_denied_and_what_vault_lacks_is_its_refusal() {
        assert_eq!(refused("entry for role web not found").reason(), "LoginDenied");
        assert_eq!(refused("something else").reason(), "VaultRefused");
        assert!(refused("Throttling: Rate exceeded").is_throttled());
        assert!(!refused("entry for role web not found").blames_credentials());
    }
}
