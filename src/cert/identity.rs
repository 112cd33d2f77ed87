//! From a sync to a Vault session that speaks as its IAM role.
//!
//! A session's key holds everything that makes two logins different, and sharing stops at the
//! namespace: two tenants that happen to be granted one role never use one token. The key never
//! relies on a claim: credentials from a Secret are named by the Secret's UID and version, not by the
//! access key that they say they are.

use std::{sync::Arc, time::Duration};

use aws_credential_types::Credentials;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::time::timeout;

use super::{
    desired::{Desired, Identity},
    secrets::{USE_CREDENTIALS, USE_LABEL, View},
};
use crate::{
    aws::{
        identity::{self as aws, Ambient, AssumeRole},
        signing,
    },
    clock,
    crd::SyncReason,
    fault::{Fault, Retry},
    redacted::Redacted,
    vault::{
        self, AwsRefusal,
        login::{self, Login},
        session::{Failure, Session, Sessions},
    },
};

/// How long one request to the API server may take.
const KUBERNETES_TIMEOUT: Duration = Duration::from_secs(10);

/// Whose session it is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Key {
    backend: String,
    backend_generation: i64,
    mount: String,
    vault_role: String,
    namespace: String,
    identity: Proof,
    arn: String,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Proof {
    /// The session name is the first sync's, and of no weight: what counts is who consents.
    AssumeRole {
        external_id: String,
    },
    Secret {
        uid: String,
        resource_version: String,
    },
}

/// Why there is no session.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No such Secret.
    #[error("there is no Secret `{0}` in this namespace")]
    SecretMissing(String),
    /// It does not consent.
    #[error(
        "Secret `{0}` does not consent to be used as AWS credentials: label it \
         {USE_LABEL}={USE_CREDENTIALS}"
    )]
    NoConsent(String),
    /// It has not the keys.
    #[error("Secret `{name}` has no usable `{key}`")]
    KeyMissing {
        /// The Secret.
        name: String,
        /// The key.
        key: &'static str,
    },
    /// It could not be read.
    #[error("Secret `{0}` could not be read from the API server")]
    SecretUnreadable(String),
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
    #[error("the session was given back")]
    Mismatch(#[source] login::Mismatch),
    /// The program is shutting down.
    #[error("the operator is shutting down")]
    Closing,
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::SecretMissing(_) | Self::NoConsent(_) | Self::KeyMissing { .. } => {
                SyncReason::IdentityNotReady
            }
            Self::SecretUnreadable(_) => SyncReason::KubernetesError,
            Self::Aws { source, .. } => match source {
                aws::Error::AccessDenied { .. } => SyncReason::AssumeRoleDenied,
                aws::Error::Throttled => SyncReason::AwsThrottled,
                aws::Error::ExpiredToken { .. } => SyncReason::AwsCredentialsRefused,
                aws::Error::Unreachable { .. } => SyncReason::StsUnreachable,
                aws::Error::NoCredentials { .. } => SyncReason::NoAwsCredentials,
                aws::Error::Region { .. } => SyncReason::InvalidSpec,
                aws::Error::Other { .. } => SyncReason::AwsError,
            },
            Self::Signing(_) => SyncReason::InvalidSpec,
            Self::Vault(error) => match error.aws_refusal() {
                Some(AwsRefusal::StsUnreachable) => SyncReason::StsUnreachable,
                Some(AwsRefusal::Throttled) => SyncReason::AwsThrottled,
                Some(
                    AwsRefusal::CredentialsInvalid
                    | AwsRefusal::SignatureRefused
                    | AwsRefusal::SignatureExpired,
                ) => SyncReason::AwsCredentialsRefused,
                Some(
                    AwsRefusal::PrincipalMismatch
                    | AwsRefusal::EntryNotFound
                    | AwsRefusal::AuthTypeMismatch
                    | AwsRefusal::ServerIdMismatch
                    | AwsRefusal::HeaderRefused
                    | AwsRefusal::RegionMismatch,
                ) => SyncReason::LoginDenied,
                Some(_) => SyncReason::VaultRefused,
                None if error.is_denied() => SyncReason::LoginDenied,
                None => return error.reason(),
            },
            Self::Mismatch(_) => SyncReason::SessionRefused,
            Self::Closing => SyncReason::VaultUnreachable,
        }
        .as_str()
    }

    fn retry(&self) -> Retry {
        match self {
            // The Secret's change wakes the sync.
            Self::SecretMissing(_) | Self::NoConsent(_) | Self::KeyMissing { .. } => Retry::Slowly,
            Self::SecretUnreadable(_) | Self::Closing => Retry::Soon,
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
            Self::Closing => true,
            _ => false,
        }
    }
}

/// Gets sessions for syncs.
pub struct Identities {
    /// The operator's own AWS identity, with which it assumes roles.
    pub ambient: Ambient,
    /// Every session of this process.
    pub sessions: Sessions<Key, Error>,
}

/// Where a sync asks for a session.
#[derive(Debug)]
pub struct Place<'a> {
    /// UID and generation of the backend.
    pub backend: (String, i64),
    /// Namespace of the sync.
    pub namespace: &'a str,
    /// Its Secrets.
    pub view: &'a View,
    /// To read the credentials Secret at a login.
    pub api: &'a Api<Secret>,
    /// The Vault.
    pub vault: &'a vault::Client,
}

impl Identities {
    /// The key of a sync's session; no request is made.
    ///
    /// # Errors
    /// Where the credentials Secret is missing or does not consent.
    pub fn key(&self, desired: &Desired, place: &Place<'_>) -> Result<Key, Error> {
        let identity = match &desired.identity {
            Identity::AssumeRole { external_id, .. } => {
                Proof::AssumeRole { external_id: external_id.clone() }
            }
            Identity::Secret { name } => {
                let seen =
                    place.view.get(name).ok_or_else(|| Error::SecretMissing(name.clone()))?;
                if !seen.is_credentials {
                    return Err(Error::NoConsent(name.clone()));
                }
                Proof::Secret { uid: seen.uid, resource_version: seen.resource_version }
            }
        };
        let (backend, backend_generation) = place.backend.clone();
        Ok(Key {
            backend,
            backend_generation,
            mount: desired.auth_mount.clone(),
            vault_role: desired.vault_role.clone(),
            namespace: place.namespace.to_owned(),
            identity,
            arn: desired.iam_role.arn(),
        })
    }

    /// The session of that key: the one in hand, or a new login.
    ///
    /// # Errors
    /// Where AWS or Vault refuse, or the session is not that of the account.
    pub async fn session(
        &self,
        key: &Key,
        desired: &Desired,
        place: &Place<'_>,
    ) -> Result<Session, Error> {
        let account = desired.iam_role.account.clone();
        self.sessions
            .get(key, place.vault, log_in(&self.ambient, desired, place), |login: &Login| {
                login.check(Some(&account)).map_err(Error::Mismatch)
            })
            .await
            .map_err(|failure| match failure {
                Failure::Login(error) => (*error).clone(),
                Failure::Closing => Error::Closing,
            })
    }
}

async fn log_in(ambient: &Ambient, desired: &Desired, place: &Place<'_>) -> Result<Login, Error> {
    let arn = desired.iam_role.arn();
    let credentials = match &desired.identity {
        Identity::AssumeRole { session_name, external_id } => {
            let role = AssumeRole {
                arn: arn.clone(),
                session_name: session_name.clone(),
                external_id: Some(external_id.clone()),
                region: desired.region.clone(),
            };
            aws::assume_role(ambient, &role).await.map_err(|source| Error::Aws { arn, source })?
        }
        Identity::Secret { name } => from_secret(place.api, name).await?,
    };
    let request = signing::get_caller_identity(
        &credentials,
        &desired.region,
        Some(&desired.server_id),
        clock::now(),
    )
    .map_err(|error| Error::Signing(Arc::new(error)))?;
    Ok(login::iam(place.vault, &desired.auth_mount, Some(&desired.vault_role), &request).await?)
}

async fn from_secret(api: &Api<Secret>, name: &str) -> Result<Credentials, Error> {
    let secret = match timeout(KUBERNETES_TIMEOUT, api.get_opt(name)).await {
        Ok(Ok(Some(secret))) => secret,
        Ok(Ok(None)) => return Err(Error::SecretMissing(name.to_owned())),
        Ok(Err(_)) | Err(_) => return Err(Error::SecretUnreadable(name.to_owned())),
    };
    let mut data = secret.data.unwrap_or_default();
    let mut take = |key: &str| {
        let value = String::from_utf8(data.remove(key)?.0).ok()?;
        Some(Redacted::new(value.trim().to_owned())).filter(|value| !value.expose().is_empty())
    };
    let missing = |key| Error::KeyMissing { name: name.to_owned(), key };
    let id = take("aws_access_key_id").ok_or_else(|| missing("aws_access_key_id"))?;
    let key = take("aws_secret_access_key").ok_or_else(|| missing("aws_secret_access_key"))?;
    let token = take("aws_session_token");
    Ok(aws::static_credentials(id.expose(), &key, token.as_ref()))
}
