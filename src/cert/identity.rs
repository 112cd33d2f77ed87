//! From a sync to a Vault session that speaks as its IAM role.
//!
//! A session's key holds everything that makes two logins different, and sharing stops at the
//! namespace: two tenants that happen to be granted one role never use one token. The key never
//! relies on a claim: credentials from a Secret are named by the Secret's UID and version, not by the
//! access key that they say they are.

use std::time::Duration;

use aws_credential_types::Credentials;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Secret, ServiceAccount},
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, timeout};

use super::{
    accounts::{ALLOW_SYNC, Accounts, Seen, Unseen},
    desired::{Desired, Identity},
    secrets::{USE_CREDENTIALS, USE_LABEL, View, seen},
};
use crate::{
    aws::{
        identity::{self as aws, Ambient, AssumeRole},
        throttle::Throttles,
    },
    connection::BackendKey,
    crd::SyncReason,
    fault::{Fault, Retry},
    redacted::Redacted,
    vault::{
        self, aws_login,
        login::Login,
        session::{Failure, Session, Sessions},
    },
};

/// How long one request to the API server may take.
const KUBERNETES_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a ServiceAccount's token is good; the API server gives no less.
const TOKEN_SECONDS: i64 = 600;

/// Whose session it is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Key {
    backend: BackendKey,
    mount: String,
    vault_role: String,
    /// What failed at a role says nothing of one that was written anew.
    vault_role_id: Option<String>,
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
    ServiceAccount {
        uid: String,
        resource_version: String,
    },
    Secret {
        uid: String,
        resource_version: String,
    },
    Ambient,
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
    /// No such ServiceAccount.
    #[error("there is no ServiceAccount `{0}` in this namespace")]
    AccountMissing(String),
    /// It does not consent.
    #[error(
        "ServiceAccount `{account}` does not consent to be used by this VaultCertSync: annotate it \
         {ALLOW_SYNC}={sync}"
    )]
    AccountWithoutConsent {
        /// The ServiceAccount.
        account: String,
        /// The sync.
        sync: String,
    },
    /// The Role for it is missing.
    #[error(
        "the operator may not use ServiceAccount `{account}` of namespace `{namespace}`: apply what \
         `vault-aws policy --kubernetes -n {namespace} --service-account {account}` prints \
         (deploy/tenant/service-accounts)"
    )]
    AccountForbidden {
        /// The ServiceAccount.
        account: String,
        /// The namespace.
        namespace: String,
    },
    /// It could not be read, or gave no token.
    #[error("the API server gave no token of ServiceAccount `{0}`")]
    AccountUnreadable(String),
    /// It could not be read.
    #[error("Secret `{0}` could not be read from the API server")]
    SecretUnreadable(String),
    /// The login did not come about, or was not the one that was meant.
    #[error(transparent)]
    Login(#[from] aws_login::Error),
    /// The program is shutting down.
    #[error("the operator is shutting down")]
    Closing,
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::SecretMissing(_)
            | Self::NoConsent(_)
            | Self::KeyMissing { .. }
            | Self::AccountMissing(_)
            | Self::AccountWithoutConsent { .. } => SyncReason::IdentityNotReady,
            Self::AccountForbidden { .. } => SyncReason::NoServiceAccountAccess,
            Self::SecretUnreadable(_) | Self::AccountUnreadable(_) => SyncReason::KubernetesError,
            Self::Login(error) => return error.reason(),
            Self::Closing => SyncReason::VaultUnreachable,
        }
        .as_str()
    }

    fn retry(&self) -> Retry {
        match self {
            // A change of the Secret or the ServiceAccount wakes the sync.
            Self::SecretMissing(_)
            | Self::NoConsent(_)
            | Self::KeyMissing { .. }
            | Self::AccountMissing(_)
            | Self::AccountWithoutConsent { .. } => Retry::Slowly,
            // Nobody tells of a Role that was made.
            Self::AccountForbidden { .. } => Retry::After(Duration::from_secs(3)),
            Self::SecretUnreadable(_) | Self::AccountUnreadable(_) | Self::Closing => Retry::Soon,
            Self::Login(error) => error.retry(),
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Login(error) => error.is_shared(),
            Self::Closing => true,
            _ => false,
        }
    }
}

impl Error {
    /// Whether AWS did not take the credentials themselves: others may serve.
    fn blames_credentials(&self) -> bool {
        matches!(self, Self::Login(error) if error.blames_credentials())
    }

    /// Whether AWS asked for fewer requests of the account.
    fn is_throttled(&self) -> bool {
        matches!(self, Self::Login(error) if error.is_throttled())
    }
}

/// Gets sessions for syncs.
pub struct Identities {
    /// The operator's own AWS identity, with which it assumes roles.
    pub ambient: Ambient,
    /// Every session of this process.
    pub sessions: Sessions<Key, Error>,
    /// The accounts that AWS throttles.
    pub throttles: Throttles,
    /// The accounts for which an STS endpoint does not answer.
    pub outages: Throttles<aws::Error>,
}

/// Where a sync asks for a session.
pub struct Place<'a> {
    /// The backend.
    pub backend: BackendKey,
    /// Namespace of the sync.
    pub namespace: &'a str,
    /// Its Secrets.
    pub view: &'a View,
    /// The ServiceAccount that it names, if it names one and there is one.
    pub account: Option<Seen>,
    /// To read the credentials Secret, or to ask for a token, at a login.
    pub client: &'a Client,
    /// The Vault.
    pub vault: &'a vault::Client,
}

impl Identities {
    /// No sessions yet.
    pub fn new(ambient: Ambient) -> Self {
        Self {
            ambient,
            sessions: Sessions::new(),
            throttles: Throttles::default(),
            outages: Throttles::of_outages(),
        }
    }

    /// The key of a sync's session; no request is made.
    ///
    /// # Errors
    /// Where the credentials Secret or the ServiceAccount is missing or does not consent.
    pub fn key(&self, desired: &Desired, place: &Place<'_>) -> Result<Key, Error> {
        let identity = match &desired.identity {
            Identity::AssumeRole { external_id, .. } => {
                Proof::AssumeRole { external_id: external_id.clone() }
            }
            Identity::ServiceAccount { name, .. } => {
                let seen =
                    place.account.clone().ok_or_else(|| Error::AccountMissing(name.clone()))?;
                if !seen.allows(&desired.name) {
                    let (account, sync) = (name.clone(), desired.name.clone());
                    return Err(Error::AccountWithoutConsent { account, sync });
                }
                Proof::ServiceAccount { uid: seen.uid, resource_version: seen.resource_version }
            }
            Identity::Secret { name } => {
                let seen =
                    place.view.get(name).ok_or_else(|| Error::SecretMissing(name.clone()))?;
                if !seen.is_credentials {
                    return Err(Error::NoConsent(name.clone()));
                }
                Proof::Secret { uid: seen.uid, resource_version: seen.resource_version }
            }
            Identity::Ambient => Proof::Ambient,
        };
        Ok(Key {
            backend: place.backend.clone(),
            mount: desired.auth_mount.clone(),
            vault_role: desired.vault_role.clone(),
            vault_role_id: desired.vault_role_id.clone(),
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
        // A login is rare and its future large: it has a place of its own, and only while it lasts.
        let login = async { Box::pin(self.log_in(desired, place)).await };
        self.sessions
            .get(key, place.vault, login, |login: &Login| {
                login
                    .check(Some(&account))
                    .map_err(|other| aws_login::Error::Mismatch(other).into())
            })
            .await
            .map_err(|failure| match failure {
                Failure::Login(error) => (*error).clone(),
                Failure::Closing => Error::Closing,
            })
    }

    /// One login, unless AWS throttles the account or was just found not to answer.
    async fn log_in(&self, desired: &Desired, place: &Place<'_>) -> Result<Login, Error> {
        let account = &desired.iam_role.account;
        let refuse = |source| unproven(desired, source);
        self.throttles
            .admits(account, Instant::now())
            .map_err(|()| refuse(aws::Error::Throttled))?;
        // By account and way too: what hinders one, such as an identity provider that does not answer,
        // must not keep another waiting.
        let way = match &desired.identity {
            Identity::AssumeRole { .. } => Some("role"),
            Identity::ServiceAccount { .. } => Some("token"),
            // STS is Vault's to ask.
            Identity::Secret { .. } | Identity::Ambient => None,
        };
        let endpoint = way.map(|way| {
            let endpoint = desired.sts_endpoint.as_ref().unwrap_or(&desired.region);
            format!("{endpoint} {account} {way}")
        });
        if let Some(endpoint) = &endpoint {
            self.outages.admits(endpoint, Instant::now()).map_err(refuse)?;
        }
        let outcome = self.prove(desired, place).await;
        match (&outcome, &endpoint) {
            (
                Err(Error::Login(aws_login::Error::Aws {
                    source: source @ aws::Error::Unreachable { .. },
                    ..
                })),
                Some(to),
            ) => self.outages.throttled(to, source.clone(), Instant::now()),
            (_, Some(endpoint)) => self.outages.answered(endpoint),
            (_, None) => {}
        }
        match &outcome {
            Err(error) if error.is_throttled() => {
                self.throttles.throttled(account, (), Instant::now());
            }
            // Nothing came back from AWS: the account may still be throttled.
            Err(error) if error.is_shared() => {}
            _ => self.throttles.answered(account),
        }
        outcome
    }

    /// Gets credentials and shows them to Vault. Credentials that somebody else renews and that AWS
    /// does not take may just have been replaced: they are fetched once more, and used if they differ.
    async fn prove(&self, desired: &Desired, place: &Place<'_>) -> Result<Login, Error> {
        let credentials = self.credentials(desired, place).await?;
        let refused = match log_in_with(&credentials, desired, place).await {
            Err(error) if error.blames_credentials() => error,
            other => return other,
        };
        match &desired.identity {
            // Made a moment ago, for this login.
            Identity::AssumeRole { .. } | Identity::ServiceAccount { .. } => return Err(refused),
            Identity::Secret { .. } => {}
            Identity::Ambient => self.ambient.forget(&credentials),
        }
        match self.credentials(desired, place).await? {
            same if same == credentials => Err(refused),
            fresh => log_in_with(&fresh, desired, place).await,
        }
    }

    async fn credentials(
        &self,
        desired: &Desired,
        place: &Place<'_>,
    ) -> Result<Credentials, Error> {
        let role = |session_name: &str, external_id: Option<&String>| AssumeRole {
            arn: desired.iam_role.arn(),
            session_name: session_name.to_owned(),
            external_id: external_id.cloned(),
            region: desired.region.clone(),
            endpoint: desired.sts_endpoint.clone(),
        };
        let given = match &desired.identity {
            Identity::AssumeRole { session_name, external_id } => {
                aws::assume_role(&self.ambient, &role(session_name, Some(external_id))).await
            }
            Identity::ServiceAccount { name, audience, session_name } => {
                let token = token(place, name, audience).await?;
                let role = role(session_name, None);
                aws::assume_role_with_web_identity(&self.ambient, &role, &token).await
            }
            Identity::Secret { name } => return from_secret(place, name).await,
            Identity::Ambient => self.ambient.credentials().await,
        };
        given.map_err(|source| unproven(desired, source))
    }
}

/// AWS gave no credentials of the sync's IAM role.
fn unproven(desired: &Desired, source: aws::Error) -> Error {
    aws_login::Error::Aws { arn: desired.iam_role.arn(), source }.into()
}

async fn log_in_with(
    credentials: &Credentials,
    desired: &Desired,
    place: &Place<'_>,
) -> Result<Login, Error> {
    let to = aws_login::Place {
        mount: &desired.auth_mount,
        role: &desired.vault_role,
        region: &desired.region,
        sts_endpoint: desired.sts_endpoint.as_deref(),
        server_id: Some(&desired.server_id),
    };
    Ok(aws_login::log_in(place.vault, credentials, to).await?)
}

/// The ServiceAccount that a sync names, as it stands; `None` if it names none or there is none.
///
/// # Errors
/// Where it cannot be seen.
pub async fn account(
    accounts: &Accounts,
    namespace: &str,
    sync: &str,
    identity: &Identity,
) -> Result<Option<Seen>, Error> {
    let Identity::ServiceAccount { name, .. } = identity else {
        accounts.forget(namespace, sync);
        return Ok(None);
    };
    accounts.get(namespace, sync, name).await.map_err(|unseen| match unseen {
        Unseen::Forbidden => forbidden(namespace, name),
        Unseen::NotYet => Error::AccountUnreadable(name.clone()),
    })
}

fn forbidden(namespace: &str, account: &str) -> Error {
    Error::AccountForbidden { account: account.to_owned(), namespace: namespace.to_owned() }
}

/// A new token of a ServiceAccount, for STS alone.
async fn token(place: &Place<'_>, name: &str, audience: &str) -> Result<Redacted<String>, Error> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            expiration_seconds: Some(TOKEN_SECONDS),
            bound_object_ref: None,
        },
        ..TokenRequest::default()
    };
    let api = Api::<ServiceAccount>::namespaced(place.client.clone(), place.namespace);
    let parameters = PostParams::default();
    let asking = api.create_token_request(name, &parameters, &request);
    match timeout(KUBERNETES_TIMEOUT, asking).await {
        Ok(Ok(TokenRequest { status: Some(status), .. })) if !status.token.is_empty() => {
            Ok(Redacted::new(status.token))
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            Err(Error::AccountMissing(name.to_owned()))
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            Err(forbidden(place.namespace, name))
        }
        Ok(Ok(_) | Err(_)) | Err(_) => Err(Error::AccountUnreadable(name.to_owned())),
    }
}

async fn from_secret(place: &Place<'_>, name: &str) -> Result<Credentials, Error> {
    let api = Api::<Secret>::namespaced(place.client.clone(), place.namespace);
    let secret = match timeout(KUBERNETES_TIMEOUT, api.get_opt(name)).await {
        Ok(Ok(Some(secret))) => secret,
        Ok(Ok(None)) => return Err(Error::SecretMissing(name.to_owned())),
        Ok(Err(_)) | Err(_) => return Err(Error::SecretUnreadable(name.to_owned())),
    };
    // The watch may not have told of it yet.
    if !seen(&secret.metadata).is_credentials {
        return Err(Error::NoConsent(name.to_owned()));
    }
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
