//! What Vault said, or why it could not say anything, classified once.
//!
//! Everything above asks an [`Error`] for its reason and its [`Retry`]; nobody else reads status
//! codes or texts. AWS failures that Vault passes on arrive as 400 with a text, so they are told
//! apart by that text ([`aws_refusal`]). No answer body and no URL ever enters a message.

use std::{borrow::Cow, fmt, time::Duration};

use serde::Deserialize;

pub use crate::aws::text::clean;
use crate::{
    aws::text::NOT_OF_STS,
    fault::{Fault, Retry},
    leader::NotLeading,
};

/// A request to Vault that failed: what was being done, and why it did not work.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation}")]
pub struct Error {
    operation: String,
    #[source]
    cause: Cause,
}

impl Error {
    /// `operation` says what was being done, in words: "reading role `web` at auth/aws".
    pub fn new(operation: impl Into<String>, cause: Cause) -> Self {
        Self { operation: operation.into(), cause }
    }

    /// Why it did not work.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Whether the token itself is dead, so that a new login can help.
    pub fn is_token_invalid(&self) -> bool {
        matches!(self.cause, Cause::TokenInvalid)
    }

    /// Whether Vault denied the request by policy.
    pub fn is_denied(&self) -> bool {
        matches!(self.cause, Cause::Denied)
    }

    /// What AWS, or Vault's AWS method, did not like; `None` unless Vault refused the request.
    pub fn aws_refusal(&self) -> Option<AwsRefusal> {
        match &self.cause {
            Cause::Refused { message, .. } => Some(aws_refusal(message)),
            _ => None,
        }
    }
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        self.cause.reason()
    }

    fn retry(&self) -> Retry {
        self.cause.retry()
    }

    fn is_shared(&self) -> bool {
        self.cause.is_shared()
    }
}

/// How far a connection came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// The name could not be resolved.
    Dns,
    /// No TCP connection.
    Connect,
    /// The TLS handshake failed, or the certificate is not trusted.
    Tls,
    /// The connection broke while in use.
    Transfer,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "name resolution",
            Self::Connect => "connection",
            Self::Tls => "TLS",
            Self::Transfer => "transfer",
        })
    }
}

/// Who limits the number of requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Throttle {
    /// A rate limit quota of Vault.
    Rate,
    /// A lease count quota of Vault: no new tokens; renewals of existing ones still work.
    LeaseCount,
    /// Our own limiter: the request would have waited beyond its deadline.
    Own,
}

impl fmt::Display for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rate => "Vault's rate limit quota is exceeded",
            Self::LeaseCount => "Vault's lease count quota is exceeded",
            Self::Own => "too many requests are waiting for the limiter of this Vault address",
        })
    }
}

/// Why a request to Vault did not work.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Cause {
    /// No answer: name, connection, TLS or transfer failed.
    #[error("Vault cannot be reached: {step} failed: {detail}")]
    Unreachable {
        /// Where it failed.
        step: Step,
        /// The innermost text, without the URL.
        detail: String,
    },
    /// No complete answer within the deadline.
    #[error("Vault did not answer within {}s", after.as_secs_f32())]
    Timeout {
        /// The deadline that passed.
        after: Duration,
        /// Whether Vault had to ask AWS for this request, so that the delay may be AWS's.
        asks_aws: bool,
    },
    /// Vault is sealed, or not initialised.
    #[error("Vault is sealed")]
    Sealed,
    /// A standby that knows no leader.
    #[error("Vault has no active node")]
    NoActiveNode,
    /// Too many requests.
    #[error("{by}")]
    Throttled {
        /// Who says so.
        by: Throttle,
        /// How long to wait, if that was said.
        retry_after: Option<Duration>,
    },
    /// The token is expired, revoked, used up or never was one: log in again.
    #[error("the Vault token is not valid any more")]
    TokenInvalid,
    /// A policy of Vault, or a CIDR of the token, does not allow the request.
    #[error("permission denied by Vault")]
    Denied,
    /// The path does not exist: no such mount, or not an API of this server.
    #[error("Vault does not know this path: {message}")]
    NotFound {
        /// Vault's text.
        message: String,
    },
    /// Vault refused what was asked (4xx).
    #[error("Vault refused the request: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Vault's text, on one line, without request ids, at most 512 bytes.
        message: String,
    },
    /// The answer is not what the API promises. Only the position is said: the text may be secret.
    #[error("Vault's answer cannot be read: {what}")]
    Malformed {
        /// Kind and position of the first fault.
        what: String,
    },
    /// The answer is larger than the cap.
    #[error("Vault's answer is larger than {limit} bytes")]
    TooLarge {
        /// The cap in bytes.
        limit: usize,
    },
    /// Vault, or something in front of it, failed (5xx, 412).
    #[error("Vault failed with status {status}{}", message.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Server {
        /// The HTTP status.
        status: u16,
        /// Vault's text; `None` if the answer did not come from Vault.
        message: Option<String>,
    },
    /// A 500 that the same request will always get (a JSON limit of the listener).
    #[error("Vault cannot take this request: {message}")]
    PermanentServerError {
        /// Vault's text.
        message: String,
    },
    /// Not sent: the last requests to this address failed, and it is not yet time for a probe. It
    /// reads like the failure that opened the circuit, so that a condition does not flap between.
    #[error("{cause}")]
    CircuitOpen {
        /// Why the last requests failed.
        cause: Box<Cause>,
        /// When a request will be let through again.
        retry_in: Duration,
    },
    /// A redirect that is not followed: to another origin or another path.
    #[error(
        "Vault redirects to {origin}: a standby that does not forward requests; use the address of the active node or of a load balancer"
    )]
    Redirected {
        /// Scheme, host and port of the target.
        origin: String,
    },
    /// Not sent: the request cannot be expressed safely.
    #[error("not sent: {what}")]
    InvalidRequest {
        /// What is wrong with it.
        what: Cow<'static, str>,
    },
    /// Not sent: another replica of the operator leads.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// The login needs a second factor, which a machine does not have.
    #[error("the login asks for multi-factor authentication")]
    MfaRequired,
    /// The answer is wrapped in a single-use token.
    #[error("Vault wrapped the answer in a single-use token")]
    WrappedAnswer,
}

impl Cause {
    /// The documented word for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "VaultUnreachable",
            Self::Timeout { .. } => "VaultTimeout",
            Self::Sealed | Self::NoActiveNode => "VaultSealed",
            Self::Throttled { .. } => "VaultThrottled",
            Self::TokenInvalid => "TokenInvalid",
            Self::Denied => "VaultDenied",
            Self::Refused { .. }
            | Self::NotFound { .. }
            | Self::InvalidRequest { .. }
            | Self::MfaRequired
            | Self::WrappedAnswer => "VaultRefused",
            Self::Malformed { .. } | Self::TooLarge { .. } => "VaultAnswerMalformed",
            Self::Server { .. } | Self::PermanentServerError { .. } | Self::Redirected { .. } => {
                "VaultError"
            }
            Self::CircuitOpen { cause, .. } => cause.reason(),
            // Never in a status: a replica that does not lead writes none.
            Self::NotLeading(_) => "VaultUnreachable",
        }
    }

    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Sealed
            | Self::NoActiveNode
            | Self::TokenInvalid
            | Self::NotLeading(_)
            | Self::Server { .. } => Retry::Soon,
            Self::Throttled { retry_after: Some(wait), .. } => Retry::After(*wait),
            Self::Throttled { retry_after: None, .. } => Retry::Soon,
            Self::CircuitOpen { retry_in, .. } => Retry::After(*retry_in),
            Self::Refused { message, .. } => aws_refusal(message).retry(),
            // While a mount is taken away, perhaps to be made anew: that lasts for moments.
            Self::NotFound { message } if message.contains("route entry is tainted") => Retry::Soon,
            Self::Denied
            | Self::NotFound { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::Redirected { .. }
            | Self::MfaRequired
            | Self::WrappedAnswer => Retry::Slowly,
            Self::PermanentServerError { .. } | Self::InvalidRequest { .. } => Retry::WhenChanged,
        }
    }

    /// Whether every user of this Vault address meets it.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Sealed
            | Self::NoActiveNode
            | Self::Throttled { .. }
            | Self::NotLeading(_)
            | Self::Redirected { .. } => true,
            Self::Timeout { asks_aws, .. } => !asks_aws,
            Self::Server { status, message } => message.is_none() && (502..=504).contains(status),
            Self::CircuitOpen { cause, .. } => cause.is_shared(),
            Self::Refused { message, .. } => aws_refusal(message).is_shared(),
            Self::TokenInvalid
            | Self::Denied
            | Self::NotFound { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::PermanentServerError { .. }
            | Self::InvalidRequest { .. }
            | Self::MfaRequired
            | Self::WrappedAnswer => false,
        }
    }

    /// Whether it says that the address as a whole does not serve, so that the circuit counts it.
    pub(crate) fn opens_circuit(&self) -> bool {
        match self {
            // A certificate that one backend does not trust, or does not have, stops that one alone, and
            // at once; others at the same address may have theirs.
            Self::Unreachable { step, .. } => *step != Step::Tls,
            Self::Sealed | Self::NoActiveNode => true,
            // Where Vault asks AWS, a delay says nothing about Vault.
            Self::Timeout { asks_aws, .. } => !asks_aws,
            Self::Server { status, message } => message.is_none() && (502..=504).contains(status),
            _ => false,
        }
    }

    /// The bounded value of the metric label `result`.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Sealed | Self::NoActiveNode => "sealed",
            Self::Throttled { .. } => "throttled",
            Self::TokenInvalid => "token_invalid",
            Self::Denied => "denied",
            Self::NotFound { .. } => "not_found",
            Self::Refused { .. } | Self::MfaRequired | Self::WrappedAnswer => "refused",
            Self::Malformed { .. } => "malformed",
            Self::TooLarge { .. } => "too_large",
            Self::Server { .. } | Self::PermanentServerError { .. } => "error",
            Self::CircuitOpen { .. } => "circuit_open",
            Self::Redirected { .. } => "redirected",
            Self::InvalidRequest { .. } => "invalid",
            Self::NotLeading(_) => "not_leading",
        }
    }

    /// A decoding fault: kind and position only, as serde's text quotes what it read.
    pub(crate) fn malformed(error: &serde_json::Error) -> Self {
        let kind = match error.classify() {
            serde_json::error::Category::Io => "cannot be read",
            serde_json::error::Category::Syntax => "is not JSON",
            serde_json::error::Category::Data => "has an unexpected shape",
            serde_json::error::Category::Eof => "ends too early",
        };
        Self::Malformed {
            what: format!("it {kind} at line {} column {}", error.line(), error.column()),
        }
    }
}

#[derive(Default, Deserialize)]
struct ErrorBody {
    errors: Option<Vec<String>>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// Vault's texts in an answer that is not a success: its `errors`, else its `warnings`.
///
/// `None` if the body has neither key, so that it did not come from Vault.
pub(crate) fn texts(body: &[u8]) -> Option<Vec<String>> {
    let body: ErrorBody = serde_json::from_slice(body).ok()?;
    body.errors.or(body.warnings)
}

/// The cause of an answer that is not a success.
pub(crate) fn classify(status: u16, body: &[u8], retry_after: Option<Duration>) -> Cause {
    let texts = texts(body);
    let text = texts.as_ref().map(|texts| texts.join("; "));
    let said = text.clone().unwrap_or_default();
    let message = || {
        let message = clean(&said);
        if message.is_empty() { format!("status {status} without a text") } else { message }
    };
    match status {
        403 if said.contains("invalid token") => Cause::TokenInvalid,
        401 | 403 => Cause::Denied,
        404 => Cause::NotFound { message: message() },
        429 => Cause::Throttled {
            by: if said.contains("lease count quota") {
                Throttle::LeaseCount
            } else {
                Throttle::Rate
            },
            retry_after,
        },
        412 => Cause::Server { status, message: Some(message()) },
        400..=499 => Cause::Refused { status, message: message() },
        503 if said.contains("sealed") => Cause::Sealed,
        503 if said.contains("namespace has been locked") => {
            Cause::Refused { status, message: message() }
        }
        503 if said.contains("active") || said.contains("standby") => Cause::NoActiveNode,
        501 if text.is_some() => Cause::Sealed,
        500 if is_permanent(&said) => Cause::PermanentServerError { message: message() },
        _ => Cause::Server {
            status,
            message: text.map(|text| clean(&text)).filter(|text| !text.is_empty()),
        },
    }
}

/// Limits of Vault's JSON reader, which it reports as 500.
fn is_permanent(text: &str) -> bool {
    ["malformed JSON", "JSON string value exceeds", "exceeds allowed", "JSON depth"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// What AWS, or Vault's AWS method, did not like about a role or a login.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AwsRefusal {
    /// The IAM role or user of a bound ARN does not exist.
    PrincipalNotFound,
    /// A bound ARN is none that Vault can bind.
    PrincipalInvalid,
    /// Vault has no credentials for the account of a bound ARN (`config/sts/<account>`).
    NoStsConfiguration,
    /// Vault's own AWS credentials (`config/client`) are not accepted.
    BadVaultAwsKeys,
    /// Vault's AWS identity may not do what Vault needs (`iam:GetRole`, `sts:AssumeRole`).
    VaultAwsDenied,
    /// Vault cannot reach AWS, or AWS fails.
    StsUnreachable,
    /// AWS throttles Vault.
    Throttled,
    /// The caller is not a principal that the Vault role binds.
    PrincipalMismatch,
    /// No Vault role of this name on this mount.
    EntryNotFound,
    /// The Vault role does not take IAM logins.
    AuthTypeMismatch,
    /// The login was signed for a region that the mount's STS endpoint does not take.
    RegionMismatch,
    /// The `X-Vault-AWS-IAM-Server-ID` header is missing or differs.
    ServerIdMismatch,
    /// Another header of the login is not allowed.
    HeaderRefused,
    /// The login's signature is too old or from the future: a clock is wrong.
    SignatureExpired,
    /// The login's signature does not fit its credentials.
    SignatureRefused,
    /// The caller's AWS credentials are expired or unknown.
    CredentialsInvalid,
    /// A KV or other mount that is not ready yet.
    NotReady,
    /// None of these.
    Other,
}

impl AwsRefusal {
    /// The documented word for it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::PrincipalNotFound => "PrincipalNotFound",
            Self::PrincipalInvalid => "PrincipalInvalid",
            Self::NoStsConfiguration => "NoStsConfiguration",
            Self::BadVaultAwsKeys => "VaultAwsKeysInvalid",
            Self::VaultAwsDenied => "VaultAwsDenied",
            Self::StsUnreachable => "StsUnreachable",
            Self::Throttled => "AwsThrottled",
            Self::PrincipalMismatch => "PrincipalMismatch",
            Self::EntryNotFound => "VaultRoleNotFound",
            Self::AuthTypeMismatch => "AuthTypeMismatch",
            Self::RegionMismatch => "RegionMismatch",
            Self::ServerIdMismatch => "ServerIdMismatch",
            Self::HeaderRefused => "HeaderRefused",
            Self::SignatureExpired => "SignatureExpired",
            Self::SignatureRefused => "SignatureRefused",
            Self::CredentialsInvalid => "AwsCredentialsInvalid",
            Self::NotReady | Self::Other => "VaultRefused",
        }
    }

    /// When to try again.
    pub fn retry(self) -> Retry {
        match self {
            // AWS is eventually consistent, and manifests may be applied in any order.
            Self::PrincipalNotFound
            | Self::EntryNotFound
            | Self::StsUnreachable
            | Self::Throttled
            | Self::SignatureExpired
            | Self::CredentialsInvalid
            | Self::NotReady => Retry::Soon,
            Self::NoStsConfiguration
            | Self::BadVaultAwsKeys
            | Self::VaultAwsDenied
            | Self::PrincipalMismatch
            | Self::AuthTypeMismatch
            | Self::RegionMismatch
            | Self::ServerIdMismatch
            | Self::HeaderRefused
            | Self::SignatureRefused
            | Self::Other => Retry::Slowly,
            Self::PrincipalInvalid => Retry::WhenChanged,
        }
    }

    /// Whether every user of the mount meets it.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::StsUnreachable | Self::Throttled)
    }
}

/// Tells the AWS failures apart that Vault reports as 400, transient ones included.
pub fn aws_refusal(text: &str) -> AwsRefusal {
    let has = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    // A role write resolves ARNs with Vault's own credentials; a login forwards the caller's.
    let resolving = text.contains("unable to resolve ARN") || text.contains("error looking up");
    if has(&["NoSuchEntity"]) {
        AwsRefusal::PrincipalNotFound
    } else if has(&[
        "no STS configuration found",
        "default client is for account",
        "unable to fetch client for account",
    ]) {
        AwsRefusal::NoStsConfiguration
    } else if has(&["does not belong to the role"]) {
        AwsRefusal::PrincipalMismatch
    } else if text.contains("entry for role") && text.contains("not found") {
        AwsRefusal::EntryNotFound
    } else if has(&["Throttling", "RequestLimitExceeded", "Rate exceeded", "TooManyRequests"]) {
        AwsRefusal::Throttled
    } else if has(&[
        "Credential should be scoped to a valid region",
        "unable to get regional STS endpoint",
        "region missing from Authorization",
    ]) {
        AwsRefusal::RegionMismatch
    } else if has(&["Signature expired", "Signature not yet current", "RequestExpired"]) {
        if resolving { AwsRefusal::StsUnreachable } else { AwsRefusal::SignatureExpired }
    } else if has(&["X-Vault-AWS-IAM-Server-ID", "header wasn't signed"]) {
        AwsRefusal::ServerIdMismatch
    } else if has(&["invalid request header"]) {
        AwsRefusal::HeaderRefused
    } else if has(&["SignatureDoesNotMatch", "IncompleteSignature"]) {
        if resolving { AwsRefusal::BadVaultAwsKeys } else { AwsRefusal::SignatureRefused }
    } else if has(&[
        "InvalidClientTokenId",
        "UnrecognizedClient",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "NoCredentialProviders",
    ]) {
        if resolving { AwsRefusal::BadVaultAwsKeys } else { AwsRefusal::CredentialsInvalid }
    } else if has(&["AccessDenied", "error looking up full ARN"]) {
        AwsRefusal::VaultAwsDenied
    } else if has(&[
        "send request failed",
        "error making request",
        "connection refused",
        "connection reset",
        "no such host",
        "i/o timeout",
        "context deadline exceeded",
        "received error code 5",
        "body of GetCallerIdentity is invalid",
        "error parsing STS response",
        "identities in STS response",
        NOT_OF_STS,
        "ServiceUnavailable",
        "InternalFailure",
    ]) {
        AwsRefusal::StsUnreachable
    } else if has(&["unrecognized arn", "unrecognized error type"]) {
        AwsRefusal::PrincipalInvalid
    } else if text.contains("auth method") && text.contains("not allowed") {
        AwsRefusal::AuthTypeMismatch
    } else if has(&["Upgrading from non-versioned", "Waiting for the primary to upgrade"]) {
        AwsRefusal::NotReady
    } else {
        AwsRefusal::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> AwsRefusal {
        aws_refusal(&clean(text))
    }

    #[test]
    fn a_dead_token_is_told_from_a_denial_by_its_text() {
        let dead =
            br#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#;
        let denied = br#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
        assert_eq!(classify(403, dead, None), Cause::TokenInvalid);
        assert_eq!(classify(403, denied, None), Cause::Denied);
    }

    #[test]
    fn a_sealed_vault_a_leaderless_standby_and_a_locked_namespace_differ() {
        assert_eq!(classify(503, br#"{"errors":["Vault is sealed"]}"#, None), Cause::Sealed);
        let standby = br#"{"errors":["no active Vault instance found"]}"#;
        assert_eq!(classify(503, standby, None), Cause::NoActiveNode);
        let locked =
            br#"{"errors":["API access to this namespace has been locked by an administrator"]}"#;
        assert!(matches!(classify(503, locked, None), Cause::Refused { .. }));
        let proxy = classify(503, b"<html>no backend</html>", None);
        assert_eq!(proxy, Cause::Server { status: 503, message: None });
        assert!(proxy.opens_circuit() && proxy.is_shared());
    }

    #[test]
    fn a_quota_says_when_to_come_back() {
        let body =
            br#"{"errors":["request path \"auth/aws/role/web\": rate limit quota exceeded"]}"#;
        let cause = classify(429, body, Some(Duration::from_secs(7)));
        assert_eq!(cause.retry(), Retry::After(Duration::from_secs(7)));
        assert_eq!(cause.reason(), "VaultThrottled");
        let leases = classify(429, br#"{"errors":["lease count quota exceeded"]}"#, None);
        assert_eq!(leases, Cause::Throttled { by: Throttle::LeaseCount, retry_after: None });
    }

    #[test]
    fn a_mount_that_is_being_taken_away_is_asked_again_sooner_than_one_that_is_gone() {
        let retry = |state: &str| {
            let body = format!(r#"{{"errors":["no handler for route \"kv/data/x\". {state}."]}}"#);
            classify(404, body.as_bytes(), None).retry()
        };
        assert_eq!(retry("route entry is tainted"), Retry::Soon);
        assert_eq!(retry("route entry not found"), Retry::Slowly);
    }

    #[test]
    fn malformed_json_is_not_tried_again() {
        let body = br#"{"errors":["malformed JSON, unclosed containers"]}"#;
        assert_eq!(classify(500, body, None).retry(), Retry::WhenChanged);
        let body = br#"{"errors":["JSON string value exceeds allowed length"]}"#;
        assert_eq!(classify(500, body, None).retry(), Retry::WhenChanged);
        let body = br#"{"errors":["internal error"]}"#;
        assert_eq!(classify(500, body, None).retry(), Retry::Soon);
    }

    #[test]
    fn a_decoding_fault_names_a_position_and_no_value() {
        let error = serde_json::from_str::<u8>("\"hvs.secret\"").unwrap_err();
        let cause = Cause::malformed(&error);
        assert!(!cause.to_string().contains("hvs."), "{cause}");
        assert!(cause.to_string().contains("line 1"), "{cause}");
    }

    #[test]
    fn aws_failures_are_told_apart_by_text() {
        let from_sts = |code: &str, message: &str| {
            format!(
                "error making upstream request: received error code 403 from STS: <ErrorResponse><Error>\
                 <Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
            )
        };
        let resolve = "unable to resolve ARN \"arn:aws:iam::1:role/x\" to internal ID: ";
        for (text, expected) in [
            (format!("{resolve}NoSuchEntity: Role x not found."), AwsRefusal::PrincipalNotFound),
            (
                format!("{resolve}no STS configuration found for account ID \"999988887777\""),
                AwsRefusal::NoStsConfiguration,
            ),
            (format!("{resolve}SignatureDoesNotMatch: x"), AwsRefusal::BadVaultAwsKeys),
            (
                format!("{resolve}unable to fetch current caller: SignatureDoesNotMatch"),
                AwsRefusal::BadVaultAwsKeys,
            ),
            (
                format!(
                    "{resolve}RequestError: send request failed\ncaused by: Post \
                     \"http://127.0.0.1:1/\": dial tcp 127.0.0.1:1: connect: connection refused"
                ),
                AwsRefusal::StsUnreachable,
            ),
            (
                format!("{resolve}unrecognized error type \"assumed-role\""),
                AwsRefusal::PrincipalInvalid,
            ),
            (
                format!("{resolve}unrecognized arn: contains 1 colon-separated parts, expected 6"),
                AwsRefusal::PrincipalInvalid,
            ),
            (
                "error validating X-Vault-AWS-IAM-Server-ID header: expected \"a\" but got \"b\""
                    .to_owned(),
                AwsRefusal::ServerIdMismatch,
            ),
            (
                from_sts(
                    "SignatureDoesNotMatch",
                    "Credential should be scoped to a valid region, not 'eu-west-1'.",
                ),
                AwsRefusal::RegionMismatch,
            ),
            (
                from_sts("SignatureDoesNotMatch", "Signature expired: x"),
                AwsRefusal::SignatureExpired,
            ),
            (from_sts("InvalidClientTokenId", ""), AwsRefusal::CredentialsInvalid),
            ("invalid request header: X-Amz-Foo".to_owned(), AwsRefusal::HeaderRefused),
            (
                "IAM Principal \"arn:aws:sts::1:assumed-role/web/s1\" does not belong to the role \
                 \"homeapp\""
                    .to_owned(),
                AwsRefusal::PrincipalMismatch,
            ),
            ("entry for role unknown not found".to_owned(), AwsRefusal::EntryNotFound),
            (
                "error making upstream request: error making request: POST http://127.0.0.1:1// \
                 giving up after 1 attempt(s)"
                    .to_owned(),
                AwsRefusal::StsUnreachable,
            ),
            (
                "error making upstream request: received error code 403 from STS: <html>AccessDenied"
                    .to_owned(),
                AwsRefusal::StsUnreachable,
            ),
            ("error making upstream request: error parsing STS response".to_owned(), AwsRefusal::StsUnreachable),
            (
                "at least one bound parameter should be specified on the role".to_owned(),
                AwsRefusal::Other,
            ),
        ] {
            assert_eq!(refusal(&text), expected, "{text}");
        }
    }
}
