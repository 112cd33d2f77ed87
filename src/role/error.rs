//! What goes wrong in a pass over a role, and what it is called in the status.

use crate::{
    connection,
    crd::RoleReason,
    fault::{Fault, Retry},
    vault::{self, AwsRefusal},
};

/// What goes wrong in a pass.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator has no session in the backend's Vault.
    #[error(transparent)]
    Connection(#[from] connection::Error),
    /// Vault, or AWS behind it, did not do what was asked; the error says what that was.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// Vault took a write and has something else.
    #[error(
        "role `{role}` was written, but Vault reads back something else; left to do: {differs}"
    )]
    ReadBack {
        /// Name of the role.
        role: String,
        /// What would still have to be done.
        differs: String,
    },
}

impl Error {
    /// The operator's token is dead: another login can help.
    pub(super) fn is_token_invalid(&self) -> bool {
        matches!(self, Self::Vault(error) if error.is_token_invalid())
    }

    fn role_reason(&self) -> RoleReason {
        use connection::Error as Connection;
        match self {
            // The backend says these of itself, in its own words.
            Self::Connection(
                Connection::Kubernetes { .. }
                | Connection::KubernetesTimeout { .. }
                | Connection::Reference { .. }
                | Connection::Unusable { .. }
                | Connection::Signing(_)
                | Connection::Settings(_),
            ) => RoleReason::BackendNotReady,
            Self::Connection(error) => documented(error.reason()),
            Self::Vault(error) => match error.aws_refusal() {
                Some(refusal) => refused(refusal),
                None => documented(error.reason()),
            },
            Self::ReadBack { .. } => RoleReason::VaultRefused,
        }
    }
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        self.role_reason().as_str()
    }

    fn retry(&self) -> Retry {
        match self {
            // The backend's spec is to be changed, not this resource's.
            Self::Connection(connection::Error::Settings(_) | connection::Error::Signing(_)) => {
                Retry::Slowly
            }
            Self::Connection(error) => error.retry(),
            Self::Vault(error) => error.retry(),
            // Another writer, or a standby that is behind.
            Self::ReadBack { .. } => Retry::Soon,
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Connection(error) => error.is_shared(),
            Self::Vault(error) => error.is_shared(),
            Self::ReadBack { .. } => false,
        }
    }
}

/// The reason of that name. A dead token is the operator's login to renew.
pub(super) fn documented(word: &str) -> RoleReason {
    match word {
        "TokenInvalid" => RoleReason::LoginFailed,
        word => RoleReason::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == word)
            .unwrap_or(RoleReason::VaultError),
    }
}

/// What AWS, or Vault's AWS method, did not like about the write of a role.
fn refused(refusal: AwsRefusal) -> RoleReason {
    match refusal {
        AwsRefusal::PrincipalNotFound => RoleReason::PrincipalNotFound,
        AwsRefusal::NoStsConfiguration => RoleReason::NoStsConfiguration,
        AwsRefusal::BadVaultAwsKeys => RoleReason::BadVaultAwsKeys,
        AwsRefusal::VaultAwsDenied => RoleReason::VaultAwsDenied,
        AwsRefusal::StsUnreachable => RoleReason::StsUnreachable,
        AwsRefusal::Throttled => RoleReason::AwsThrottled,
        AwsRefusal::PrincipalInvalid
        | AwsRefusal::PrincipalMismatch
        | AwsRefusal::EntryNotFound
        | AwsRefusal::AuthTypeMismatch
        | AwsRefusal::RegionMismatch
        | AwsRefusal::ServerIdMismatch
        | AwsRefusal::HeaderRefused
        | AwsRefusal::SignatureExpired
        | AwsRefusal::SignatureRefused
        | AwsRefusal::CredentialsInvalid
        | AwsRefusal::NotReady
        | AwsRefusal::Other => RoleReason::VaultRefused,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::vault::Cause;

    #[test]
    fn a_refusal_of_aws_has_its_own_reason() {
        let reason = |text: &str| {
            let cause = Cause::Refused { status: 400, message: text.into() };
            Error::Vault(vault::Error::new("writing role `web`", cause)).reason()
        };
        let resolve = |why: &str| {
            format!(
                "unable to resolve ARN \"arn:aws:iam::111122223333:role/web\" to internal ID: {why}"
            )
        };
        assert_eq!(reason(&resolve("NoSuchEntity: Role web not found.")), "PrincipalNotFound");
        assert_eq!(
            reason(&resolve("no STS configuration found for account ID \"1\"")),
            "NoStsConfiguration"
        );
        assert_eq!(reason(&resolve("SignatureDoesNotMatch: x")), "BadVaultAwsKeys");
        assert_eq!(reason(&resolve("AccessDenied: x")), "VaultAwsDenied");
        assert_eq!(reason(&resolve("RequestError: send request failed")), "StsUnreachable");
        assert_eq!(reason(&resolve("Throttling: Rate exceeded")), "AwsThrottled");
        assert_eq!(reason("at least one bound parameter should be specified"), "VaultRefused");
    }

    #[test]
    fn every_reason_of_vault_is_a_documented_one() {
        let timeout = Cause::Timeout { after: Duration::from_secs(10), asks_aws: false };
        for (cause, reason) in [
            (timeout, "VaultTimeout"),
            (Cause::Sealed, "VaultSealed"),
            (Cause::NoActiveNode, "VaultSealed"),
            (Cause::TokenInvalid, "LoginFailed"),
            (Cause::Denied, "VaultDenied"),
            (Cause::NotFound { message: "x".into() }, "VaultRefused"),
            (Cause::Malformed { what: "x".into() }, "VaultAnswerMalformed"),
            (Cause::Server { status: 500, message: None }, "VaultError"),
        ] {
            let error = Error::Vault(vault::Error::new("reading role `web`", cause));
            assert_eq!(error.reason(), reason);
        }
    }
}
