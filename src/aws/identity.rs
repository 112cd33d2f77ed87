//! Where AWS credentials come from: the operator's own, a role it assumes, a web identity token, or
//! keys that a Secret holds.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, environment::EnvironmentVariableRegionProvider,
    meta::region::RegionProviderChain, profile::ProfileFileRegionProvider, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig,
};
use aws_credential_types::provider::{
    ProvideCredentials, SharedCredentialsProvider, error::CredentialsError,
};
use aws_sdk_sts::{
    config::IdentityCache,
    error::{ProvideErrorMetadata, SdkError},
};
use aws_smithy_runtime_api::client::{http::SharedHttpClient, orchestrator::HttpResponse};
use tokio::time::{Instant, timeout};

use super::{
    Credentials,
    http::sdk_client,
    signing::{SigningError, is_region, sts_url},
    text::{NOT_OF_STS, clean},
};
use crate::{
    clock,
    fault::{Fault, Retry},
    lock::lock,
    redacted::Redacted,
};

/// The deadline of each question to AWS, the SDK's own tries included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long before their end credentials are replaced.
const AHEAD: Duration = Duration::from_secs(5 * 60);
/// How long a failure to get them stands for everybody.
const FAILURE: Duration = Duration::from_secs(2);
/// What Vault needs of a session: it is used for one login. STS gives no less.
const SESSION_SECONDS: i32 = 900;
/// `GetCallerIdentity` needs no permission: a session that may do nothing proves the identity all
/// the same, and is of no other use to whoever gets hold of it.
const DENY_ALL: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#;

/// Why AWS gave no credentials.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The trust policy, or the operator's own policy, does not allow it.
    #[error("AWS denies it: {text}")]
    AccessDenied {
        /// AWS's words, without request ids.
        text: String,
    },
    /// Too many requests for the account.
    #[error("AWS throttles the requests")]
    Throttled,
    /// The credentials with which AWS was asked are expired or unknown.
    #[error("the AWS credentials are not valid: {text}")]
    ExpiredToken {
        /// AWS's words, without request ids.
        text: String,
    },
    /// No answer from AWS.
    #[error("AWS cannot be reached: {text}")]
    Unreachable {
        /// The innermost cause.
        text: String,
    },
    /// The operator has no AWS identity.
    #[error("no AWS credentials were found: {text}")]
    NoCredentials {
        /// Where it was looked.
        text: String,
    },
    /// Not a region.
    #[error("`{region}` is not an AWS region")]
    Region {
        /// As it was given, shortened.
        region: String,
    },
    /// Not an address of STS.
    #[error("`{endpoint}` is not an STS endpoint")]
    Endpoint {
        /// As it was given, shortened.
        endpoint: String,
    },
    /// Anything else.
    #[error("AWS failed: {text}")]
    Other {
        /// AWS's words, without request ids.
        text: String,
    },
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::AccessDenied { .. } => "AssumeRoleDenied",
            Self::Throttled => "AwsThrottled",
            Self::ExpiredToken { .. } => "AwsCredentialsInvalid",
            Self::Unreachable { .. } => "AwsUnreachable",
            Self::NoCredentials { .. } => "NoAwsCredentials",
            Self::Region { .. } => "RegionInvalid",
            Self::Endpoint { .. } => "EndpointInvalid",
            Self::Other { .. } => "AwsError",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Throttled | Self::Unreachable { .. } | Self::ExpiredToken { .. } => Retry::Soon,
            Self::AccessDenied { .. } | Self::NoCredentials { .. } | Self::Other { .. } => {
                Retry::Slowly
            }
            Self::Region { .. } | Self::Endpoint { .. } => Retry::WhenChanged,
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoCredentials { .. } | Self::Throttled)
    }
}

impl From<SigningError> for Error {
    fn from(error: SigningError) -> Self {
        match error {
            SigningError::Region { region } => Self::Region { region },
            SigningError::Endpoint { endpoint } => Self::Endpoint { endpoint },
            other => Self::Other { text: other.to_string() },
        }
    }
}

/// The operator's own AWS identity, found as the AWS SDKs find it: environment, profile, web
/// identity, container, pod identity, instance. Cloning shares what was found.
#[derive(Clone)]
pub struct Ambient(Arc<Shared>);

struct Shared {
    region: String,
    client: SharedHttpClient,
    config: SdkConfig,
    known: Mutex<Known>,
    // Whoever holds it asks; the others wait for the answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    /// Who is asked. It keeps what it read of files for good, so that after credentials which served
    /// nobody it is made anew.
    provider: Option<SharedCredentialsProvider>,
    held: Option<Credentials>,
    /// So that those who waited for the same question need not ask it one after the other.
    failed: Option<(Instant, Error)>,
}

impl fmt::Debug for Ambient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ambient").field("region", &self.0.config.region()).finish_non_exhaustive()
    }
}

impl Ambient {
    /// Reads the SDK's configuration (`AWS_ENDPOINT_URL_STS` included); asks for no credentials
    /// yet. `region` is where the operator's own web identity is exchanged, unless environment or
    /// profile name another.
    pub async fn load(region: &str) -> Result<Self, Error> {
        checked(region)?;
        let (region, client) = (region.to_owned(), sdk_client()?);
        let config = configuration(&region, &client).await?;
        let known = Known { provider: config.credentials_provider(), ..Known::default() };
        Ok(Self(Arc::new(Shared {
            region,
            client,
            config,
            known: Mutex::new(known),
            asking: tokio::sync::Mutex::new(()),
        })))
    }

    /// The operator's own credentials: those in hand, unless they end within five minutes. Callers
    /// at the same time share one question. Ones that are still good serve on while AWS is down.
    pub async fn credentials(&self) -> Result<Credentials, Error> {
        if let Some(fresh) = self.held(AHEAD) {
            return Ok(fresh);
        }
        let _turn = self.0.asking.lock().await;
        if let Some(fresh) = self.held(AHEAD) {
            return Ok(fresh);
        }
        // Some providers hand out the same credentials until the last minute.
        let last_resort = |error| self.held(Duration::from_secs(30)).ok_or(error);
        if let Some(error) = self.recent_failure() {
            return last_resort(error);
        }
        match self.ask().await {
            Ok(fresh) => {
                let mut known = self.known();
                (known.held, known.failed) = (Some(fresh.clone()), None);
                Ok(fresh)
            }
            Err(error) => {
                let mut known = self.known();
                (known.provider, known.failed) = (None, Some((Instant::now(), error.clone())));
                drop(known);
                last_resort(error)
            }
        }
    }

    /// Forgets these credentials: for when AWS says that they are expired. Ones that have taken their
    /// place stay.
    pub fn forget(&self, refused: &Credentials) {
        let mut known = self.known();
        if known.held.as_ref() == Some(refused) {
            *known = Known::default();
        }
    }

    async fn ask(&self) -> Result<Credentials, Error> {
        let provider = self.provider().await?;
        timeout(TIMEOUT, provider.provide_credentials())
            .await
            .map_err(|_| Error::Unreachable { text: "no answer in time".to_owned() })?
            .map_err(|error| not_provided(&error))
    }

    /// Who is asked: the one that there is, or one that reads all files anew.
    async fn provider(&self) -> Result<SharedCredentialsProvider, Error> {
        let known = self.known().provider.clone();
        if let Some(provider) = known {
            return Ok(provider);
        }
        let config = configuration(&self.0.region, &self.0.client).await?;
        let provider = config
            .credentials_provider()
            .ok_or_else(|| Error::NoCredentials { text: "there is no provider".to_owned() })?;
        self.known().provider = Some(provider.clone());
        Ok(provider)
    }

    /// Those in hand, if they are good for `margin` longer.
    fn held(&self, margin: Duration) -> Option<Credentials> {
        let held = self.known().held.clone()?;
        held.expiry()
            .is_none_or(|end| SystemTime::from(clock::now()) + margin < end)
            .then_some(held)
    }

    fn recent_failure(&self) -> Option<Error> {
        let known = self.known();
        let (at, error) = known.failed.as_ref()?;
        (at.elapsed() < FAILURE).then(|| error.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.0.known)
    }

    /// Where STS is asked for this role. Without credentials for requests that carry their own proof.
    fn sts(
        &self,
        role: &AssumeRole,
        credentials: Option<Credentials>,
    ) -> Result<aws_sdk_sts::Client, Error> {
        checked(&role.region)?;
        let mut config = self.0.config.to_builder();
        config.set_region(Some(Region::new(role.region.clone())));
        config.set_credentials_provider(credentials.map(SharedCredentialsProvider::new));
        let mut config = aws_sdk_sts::config::Builder::from(&config.build());
        if let Some(endpoint) = &role.endpoint {
            config = config.endpoint_url(sts_url(&role.region, Some(endpoint))?);
        }
        Ok(aws_sdk_sts::Client::from_conf(config.build()))
    }
}

/// The SDK's configuration, as environment and files have it now.
async fn configuration(region: &str, client: &SharedHttpClient) -> Result<SdkConfig, Error> {
    // Without the machine's metadata: off EC2 that question takes seconds to fail.
    let regions = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::new(region.to_owned()));
    let loading = aws_config::defaults(BehaviorVersion::latest())
        .http_client(client.clone())
        .region(regions)
        .retry_config(RetryConfig::standard().with_max_attempts(2))
        .identity_cache(IdentityCache::no_cache())
        // It takes an answer that begins late for a stream that stalled, and asks again.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .load();
    timeout(TIMEOUT, loading)
        .await
        .map_err(|_| Error::Unreachable { text: "reading the configuration took too long".into() })
}

/// A role to assume.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AssumeRole {
    /// `arn:<partition>:iam::<account>:role<path><name>`.
    pub arn: String,
    /// 2 to 64 of `[\w+=,.@-]`; others are replaced. It stands in the client's CloudTrail.
    pub session_name: String,
    /// What the role's trust policy may demand: the client's consent.
    pub external_id: Option<String>,
    /// Where STS is asked.
    pub region: String,
    /// Another address of it than that of the environment or the region.
    pub endpoint: Option<String>,
}

/// Assumes a role for a quarter of an hour, for nothing but proving that identity.
pub async fn assume_role(ambient: &Ambient, role: &AssumeRole) -> Result<Credentials, Error> {
    let own = ambient.credentials().await?;
    match assume_role_as(ambient, role, &own).await {
        Err(Error::ExpiredToken { text }) => {
            ambient.forget(&own);
            match ambient.credentials().await? {
                // The provider has no others: asking again would meet the same answer.
                same if same == own => Err(Error::ExpiredToken { text }),
                fresh => assume_role_as(ambient, role, &fresh).await,
            }
        }
        other => other,
    }
}

async fn assume_role_as(
    ambient: &Ambient,
    role: &AssumeRole,
    own: &Credentials,
) -> Result<Credentials, Error> {
    let request = ambient
        .sts(role, Some(own.clone()))?
        .assume_role()
        .role_arn(&role.arn)
        .role_session_name(session_name(&role.session_name))
        .set_external_id(role.external_id.clone())
        .duration_seconds(SESSION_SECONDS)
        .policy(DENY_ALL)
        .send();
    session(in_time(Box::pin(request)).await?.credentials)
}

/// Exchanges a token of a Kubernetes ServiceAccount for a session of a role, for a quarter of an
/// hour, for nothing but proving that identity. The request carries no other credentials.
pub async fn assume_role_with_web_identity(
    ambient: &Ambient,
    role: &AssumeRole,
    token: &Redacted<String>,
) -> Result<Credentials, Error> {
    let request = ambient
        .sts(role, None)?
        .assume_role_with_web_identity()
        .role_arn(&role.arn)
        .role_session_name(session_name(&role.session_name))
        .web_identity_token(token.expose().trim())
        .duration_seconds(SESSION_SECONDS)
        .policy(DENY_ALL)
        .send();
    session(in_time(Box::pin(request)).await?.credentials)
}

/// Keys that somebody gave us.
pub fn static_credentials(
    access_key_id: &str,
    secret_access_key: &Redacted<String>,
    session_token: Option<&Redacted<String>>,
) -> Credentials {
    Credentials::new(
        access_key_id,
        secret_access_key.expose().as_str(),
        session_token.map(|token| token.expose().clone()),
        None,
        "static",
    )
}

fn checked(region: &str) -> Result<(), Error> {
    if is_region(region) {
        return Ok(());
    }
    Err(Error::Region { region: region.chars().take(40).collect() })
}

/// A name that STS takes: foreign characters become `-`, at most 64.
pub fn session_name(name: &str) -> String {
    let mut name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_+=,.@-".contains(c) { c } else { '-' })
        .take(64)
        .collect();
    while name.len() < 2 {
        name.push('-');
    }
    name
}

fn session(found: Option<aws_sdk_sts::types::Credentials>) -> Result<Credentials, Error> {
    let useless = |why: &str| Error::Other { text: format!("STS answered {why}") };
    let found = found
        .filter(|found| {
            let parts = [&found.access_key_id, &found.secret_access_key, &found.session_token];
            parts.iter().all(|part| !part.is_empty())
        })
        .ok_or_else(|| useless("without credentials"))?;
    let end = SystemTime::try_from(found.expiration).ok();
    if end.is_some_and(|end| end <= SystemTime::from(clock::now())) {
        return Err(useless("with credentials that are over: one of the clocks is wrong"));
    }
    Ok(Credentials::new(
        found.access_key_id,
        found.secret_access_key,
        Some(found.session_token),
        end,
        "sts",
    ))
}

/// The answer of STS, if it comes in time.
async fn in_time<T, E: ProvideErrorMetadata + std::error::Error + 'static>(
    request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, Error> {
    timeout(TIMEOUT, request)
        .await
        .map_err(|_| Error::Unreachable { text: "no answer of STS in time".to_owned() })?
        .map_err(|error| refused(&error))
}

/// What an error of STS means.
fn refused<E: ProvideErrorMetadata + std::error::Error + 'static>(
    error: &SdkError<E, HttpResponse>,
) -> Error {
    match error {
        SdkError::ServiceError(answer) if answer.err().meta().code().is_none() => {
            let status = answer.raw().status().as_u16();
            Error::Unreachable { text: format!("{NOT_OF_STS}, with status {status}") }
        }
        // The SDK quotes what it could not read.
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            Error::Unreachable { text: format!("{NOT_OF_STS}, with status {status}") }
        }
        SdkError::ServiceError(answer) => {
            let metadata = answer.err().meta();
            judge(metadata.code().unwrap_or_default(), metadata.message().unwrap_or_default())
        }
        SdkError::ConstructionFailure(_) => Error::Other { text: innermost(error) },
        _ => Error::Unreachable { text: innermost(error) },
    }
}

/// What a code of STS means; codes and texts are those of the STS API reference.
pub(super) fn judge(code: &str, message: &str) -> Error {
    let text = || match (code, clean(message)) {
        ("", message) => message,
        (code, message) if message.is_empty() => clean(code),
        (code, message) => format!("{}: {message}", clean(code)),
    };
    match code {
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
            Error::AccessDenied { text: text() }
        }
        "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException" => Error::Throttled,
        "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidClientTokenId"
        | "RequestExpired"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "InvalidIdentityToken"
        | "IDPRejectedClaim" => Error::ExpiredToken { text: text() },
        "ServiceUnavailable" | "InternalFailure" | "InternalError" | "IDPCommunicationError" => {
            Error::Unreachable { text: text() }
        }
        _ => Error::Other { text: text() },
    }
}

/// What it means that the chain of providers gave nothing.
pub(super) fn not_provided(error: &CredentialsError) -> Error {
    let text = innermost(error);
    match error {
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            Error::NoCredentials { text }
        }
        CredentialsError::ProviderTimedOut(_) => Error::Unreachable { text },
        _ => {
            // The web identity provider asks STS: its codes are in its causes.
            let mut cause: Option<&dyn std::error::Error> = Some(error);
            while let Some(inner) = cause {
                let said = inner.to_string();
                // The last place where the chain looks: not there means none.
                if said.contains("IMDS") || said.contains("metadata service") {
                    return Error::NoCredentials { text };
                }
                if said.contains("AccessDenied") {
                    return Error::AccessDenied { text: clean(&said) };
                }
                if said.contains("Throttling") {
                    return Error::Throttled;
                }
                if ["InvalidIdentityToken", "ExpiredToken"].iter().any(|code| said.contains(code)) {
                    return Error::ExpiredToken { text };
                }
                cause = inner.source();
            }
            Error::Unreachable { text }
        }
    }
}

/// The text of the innermost cause, which is where the SDK puts what happened.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !said.is_empty() {
            text = said;
        }
        cause = inner.source();
    }
    clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_of_sts_are_told_apart() {
        let denied = judge(
            "AccessDenied",
            "User: arn:aws:sts::1:assumed-role/op/x is not authorized to perform: sts:AssumeRole \
             on resource: arn:aws:iam::2:role/web",
        );
        assert_eq!(denied.reason(), "AssumeRoleDenied");
        assert_eq!(denied.retry(), Retry::Slowly);
        assert_eq!(judge("Throttling", "Rate exceeded"), Error::Throttled);
        assert!(Error::Throttled.is_shared(), "it is nobody's own fault, and passes");
        assert_eq!(judge("ExpiredToken", "x").reason(), "AwsCredentialsInvalid");
        assert!(judge("ServiceUnavailable", "").is_shared());
        assert_eq!(judge("", "").reason(), "AwsError");
    }

    #[test]
    fn a_session_name_is_one_that_sts_takes() {
        assert_eq!(session_name("vaultaws-team a/web"), "vaultaws-team-a-web");
        assert_eq!(session_name(&"x".repeat(80)).len(), 64);
        assert_eq!(session_name(""), "--");
    }

    #[test]
    fn the_session_policy_is_json_that_allows_nothing() {
        let policy: serde_json::Value = serde_json::from_str(DENY_ALL).unwrap();
        assert_eq!(policy["Statement"][0]["Effect"], "Deny");
    }

    #[test]
    fn given_keys_are_not_shown() {
        let credentials = static_credentials(
            "AKIA",
            &Redacted::new("s3cret".to_owned()),
            Some(&Redacted::new("t0ken".to_owned())),
        );
        let shown = format!("{credentials:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("t0ken"), "{shown}");
    }

    #[tokio::test]
    async fn a_region_is_checked_before_anything_is_asked() {
        let error = Ambient::load("evil.com/").await.unwrap_err();
        assert_eq!(error.reason(), "RegionInvalid");
    }
}
