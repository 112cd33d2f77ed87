//! `VaultCertSync`: the certificates of one IAM role, delivered as Secrets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackendRef, LocalRef, Partition, Span, reasons};

/// Delivers the certificates of one AWS IAM role from Vault's KV v2 engine as Secrets of this
/// namespace, through a Vault session authenticated as that role.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "vaultaws.dev",
    version = "v1alpha1",
    kind = "VaultCertSync",
    plural = "vaultcertsyncs",
    shortname = "vcs",
    category = "vaultaws",
    namespaced,
    status = "VaultCertSyncStatus",
    derive = "PartialEq",
    doc = "Delivers the certificates of one AWS IAM role from Vault as Secrets of this namespace.",
    printcolumn(name = "Account", type_ = "string", json_path = ".status.accountId"),
    printcolumn(name = "IAM-Role", type_ = "string", json_path = ".status.iamRole"),
    printcolumn(name = "Certs", type_ = "string", json_path = ".status.summary"),
    printcolumn(name = "Next-Expiry", type_ = "string", json_path = ".status.nextExpiry"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must be at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.roleRef) && has(self.principal))").message("give roleRef or principal, not both"))]
#[x_kube(validation = Rule::new("has(self.roleRef) == has(oldSelf.roleRef) && (!has(self.roleRef) || self.roleRef == oldSelf.roleRef)").message("roleRef is immutable; create another VaultCertSync"))]
#[x_kube(validation = Rule::new("has(self.principal) == has(oldSelf.principal) && (!has(self.principal) || self.principal == oldSelf.principal)").message("principal is immutable; create another VaultCertSync"))]
pub struct VaultCertSyncSpec {
    /// The VaultAwsRole of this namespace whose certificates to deliver. Default: the one with the name
    /// of this resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_ref: Option<LocalRef>,
    /// The IAM role itself, where its Vault role is managed elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
    /// How to get the AWS identity of that role. Default: the operator assumes it.
    #[serde(default)]
    pub identity: Identity,
    /// Which certificates.
    #[serde(default)]
    pub certificates: CertificateSelection,
    /// How they are delivered.
    #[serde(default)]
    pub target: Target,
    /// How often Vault is asked for changes. Default 1h, at least 10s.
    #[serde(default = "one_hour")]
    pub refresh_interval: Span,
}

impl Default for VaultCertSyncSpec {
    fn default() -> Self {
        Self {
            role_ref: None,
            principal: None,
            identity: Identity::default(),
            certificates: CertificateSelection::default(),
            target: Target::default(),
            refresh_interval: one_hour(),
        }
    }
}

/// An IAM role whose Vault role is managed elsewhere.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.iamRole != '.' && self.iamRole != '..'").message("iamRole must not be . or .. : it names a directory in Vault"))]
pub struct Principal {
    /// The backend. Default: the one named default.
    #[serde(default)]
    pub backend_ref: BackendRef,
    /// AWS account: twelve digits, quoted.
    #[schemars(length(equal = 12), pattern(r"^[0-9]{12}$"))]
    pub account_id: String,
    /// Friendly name of the IAM role.
    #[schemars(length(min = 1, max = 64), pattern(r"^[A-Za-z0-9_=.@-]+$"))]
    pub iam_role: String,
    /// Path of the IAM role. Default /.
    #[schemars(length(min = 1, max = 512), pattern(r"^/([A-Za-z0-9_=.@-]+/)*$"))]
    #[serde(default = "root_path")]
    pub iam_role_path: String,
    /// AWS partition. Default aws.
    #[serde(default)]
    pub partition: Partition,
}

/// How to get the AWS identity; at most one, default assumeRole.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.assumeRole), has(self.serviceAccount), has(self.secretRef), has(self.ambient)].filter(given, given).size() <= 1").message("give one of assumeRole, serviceAccount, secretRef and ambient"))]
pub struct Identity {
    /// The operator assumes the role, with the ExternalId of the backend's template and a session
    /// policy that denies everything: such a session can prove who it is and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assume_role: Option<AssumeRole>,
    /// A ServiceAccount of this namespace, whose tokens the role trusts (IRSA): the operator asks for one
    /// and exchanges it at STS. The ServiceAccount consents by the annotation vaultaws.dev/allow-sync
    /// with the name of this resource, or `*`. The operator needs the Role of
    /// deploy/tenant/service-accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<LocalRef>,
    /// Keys in a Secret of this namespace: aws_access_key_id, aws_secret_access_key and, for a session,
    /// aws_session_token. The Secret consents by the label vaultaws.dev/use: aws-credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
    /// The operator's own AWS identity as it is. Vault lets it in only where it is the role itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ambient: Option<AmbientIdentity>,
}

/// Nothing to set.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct AssumeRole {}

/// Nothing to set.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct AmbientIdentity {}

/// Which entries of the role's directory are certificates to deliver.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSelection {
    /// Names of entries; `*` stands for any run of characters. A name without `*` is read without
    /// listing the directory. Default: all.
    #[schemars(
        length(min = 1, max = 200),
        inner(length(min = 1, max = 253), pattern(r"^[^/\x00-\x1f\x7f%?#]+$"))
    )]
    #[serde(default = "everything")]
    pub include: Vec<String>,
    /// Names that include matches but that are left out.
    #[schemars(
        length(max = 200),
        inner(length(min = 1, max = 253), pattern(r"^[^/\x00-\x1f\x7f%?#]+$"))
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

impl Default for CertificateSelection {
    fn default() -> Self {
        Self { include: everything(), exclude: Vec::new() }
    }
}

/// How certificates are delivered.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Name of each Secret. Placeholders: {name} {certificate} {account} {iamRole}. Default
    /// {name}-{certificate}.
    #[schemars(
        length(min = 1, max = 253),
        pattern(r"^([a-z0-9.-]|\{name\}|\{certificate\}|\{account\}|\{iamRole\})+$")
    )]
    #[serde(default = "secret_name")]
    pub secret_name: String,
}

impl Default for Target {
    fn default() -> Self {
        Self { secret_name: secret_name() }
    }
}

/// What was delivered, and what was not and why.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultCertSyncStatus {
    /// Generation of the spec that this status speaks of; -1 before the first look.
    #[serde(default = "super::never_observed")]
    pub observed_generation: i64,
    /// Ready, Expiring, Stale.
    #[schemars(schema_with = "super::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// AWS account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// IAM role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam_role: Option<String>,
    /// Role at which we log in to Vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_role: Option<String>,
    /// Certificates as delivered of all that are meant, such as 3/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// When the first of the delivered certificates expires, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_expiry: Option<String>,
    /// When the source was last read in full; moves only when this status is written anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_synced_time: Option<String>,
    /// The value of the annotation vaultaws.dev/refresh that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_refresh: Option<String>,
    /// One entry for each certificate, sorted by name.
    #[schemars(length(max = 200))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateStatus>,
}

/// One certificate.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// Name of the entry in Vault.
    pub name: String,
    /// Name of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// How it stands.
    pub state: CertificateState,
    /// Why, for a state other than Synced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One sentence, at most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Version in Vault that the Secret holds.
    #[schemars(extend("format" = "int64"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// When that version was written, as Vault says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<String>,
    /// resourceVersion of the Secret as we wrote it: while the Secret has it, nobody has touched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_resource_version: Option<String>,
    /// Serial number, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// SHA-256 fingerprint of the leaf, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Issuer of the leaf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The first names of the leaf, at most five.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// How many names there are.
    #[schemars(extend("format" = "int32"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_names_total: Option<u32>,
    /// Start of validity, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// End of validity, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// Since when the state is other than Synced, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// How one certificate stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum CertificateState {
    /// The Secret holds what Vault holds.
    Synced,
    /// Vault's entry cannot be delivered: the Secret keeps its last good bytes.
    Kept,
    /// Vault's entry cannot be delivered, and there is no Secret of ours yet.
    Refused,
}

impl CertificateState {
    /// The word in the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "Synced",
            Self::Kept => "Kept",
            Self::Refused => "Refused",
        }
    }
}

reasons! {
    /// Why a VaultCertSync's condition, or one of its certificates, is as it is.
    SyncReason {
        /// Every certificate is delivered.
        Synced,
        /// Some certificates are not delivered; see status.certificates.
        CertificatesRefused,
        /// No certificate lies in the directory.
        SourceEmpty,
        /// More certificates than a sync may hold.
        TooManyCertificates,
        /// There is no VaultAwsRole of that name yet.
        RoleNotFound,
        /// The VaultAwsRole is not ready; it says why.
        RoleNotReady,
        /// There is no VaultAwsBackend of that name yet.
        BackendNotFound,
        /// The backend has not been looked at yet.
        BackendNotReady,
        /// No tenancy rule of the backend grants this; what is there is kept.
        TenancyDenied,
        /// The spec cannot work as it is.
        InvalidSpec,
        /// The ServiceAccount or the credentials Secret is missing, has not the keys, or does not
        /// consent.
        IdentityNotReady,
        /// We may not watch ServiceAccounts in this namespace, or not ask for a token of this one: its
        /// Role is missing.
        NoServiceAccountAccess,
        /// AWS does not let the operator assume the role: the client's trust policy.
        AssumeRoleDenied,
        /// The operator itself has no AWS identity.
        NoAwsCredentials,
        /// AWS refused the credentials.
        AwsCredentialsRefused,
        /// AWS STS cannot be reached.
        StsUnreachable,
        /// AWS asks for fewer requests.
        AwsThrottled,
        /// AWS failed, with a reason of its own.
        AwsError,
        /// Vault does not let this principal in at that role.
        LoginDenied,
        /// The session was not what it should be, and was given back.
        SessionRefused,
        /// Vault did not answer.
        VaultUnreachable,
        /// Vault is sealed.
        VaultSealed,
        /// Vault took too long.
        VaultTimeout,
        /// Vault asks for fewer requests.
        VaultThrottled,
        /// Vault denied the read: the role's policy.
        SourceForbidden,
        /// Vault refused a request, with a reason of its own.
        VaultRefused,
        /// Vault failed.
        VaultError,
        /// Vault's answer could not be read.
        VaultAnswerMalformed,
        /// The certificates' mount is not KV version 2.
        NotKvV2,
        /// We may not touch Secrets in this namespace: its Role is missing.
        NoSecretAccess,
        /// The Kubernetes API refused or failed a request.
        KubernetesError,
        /// The look took too long and was broken off; it is tried again.
        DeadlineExceeded,
        /// The operator failed; its log says more.
        InternalError,
        /// A Secret was written (event).
        Delivered,
        /// There is no such entry.
        SourceAbsent,
        /// The entry's current version is deleted.
        SourceDeleted,
        /// The entry's current version is destroyed.
        SourceDestroyed,
        /// The entry's fields are not a certificate and its key.
        Malformed,
        /// The entry has not all fields.
        MissingField,
        /// The entry holds several certificates or keys, and it is not clear which is meant.
        Ambiguous,
        /// The key is not that of the certificate.
        KeyMismatch,
        /// A kind of key that is not delivered.
        UnsupportedKey,
        /// A format that is not delivered.
        UnsupportedFormat,
        /// The key is encrypted.
        EncryptedKey,
        /// Signed with SHA-1 or MD5.
        WeakSignature,
        /// A CA certificate where a leaf belongs.
        CaLeaf,
        /// Expired.
        Expired,
        /// Not valid yet.
        NotYetValid,
        /// Too large.
        TooLarge,
        /// A name that cannot be the name of a Secret.
        InvalidName,
        /// Two certificates want one Secret: neither gets it.
        NameCollision,
        /// The Secret's name would be too long.
        NameTooLong,
        /// A Secret of that name belongs to somebody else.
        SecretNotOurs,
        /// The Secret is immutable.
        SecretImmutable,
        /// Own clock and Vault's differ by more than five minutes: no verdict on time.
        ClockSkew,
        /// A delivered certificate expires soon.
        Expiring,
        /// No delivered certificate expires soon.
        NotExpiring,
        /// The source was read when it was due.
        Fresh,
        /// The source could not be read when it was due.
        Stale,
    }
}

fn one_hour() -> Span {
    Span::seconds(3600)
}
fn root_path() -> String {
    "/".into()
}
fn everything() -> Vec<String> {
    vec!["*".into()]
}
fn secret_name() -> String {
    "{name}-{certificate}".into()
}
