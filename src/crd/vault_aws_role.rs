//! `VaultAwsRole`: who may log in, and to what.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackendRef, Partition, Span, reasons};

/// An AWS IAM role that may log in to Vault, confined to its own directory of certificates.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "vaultaws.dev",
    version = "v1alpha1",
    kind = "VaultAwsRole",
    plural = "vaultawsroles",
    shortname = "var",
    category = "vaultaws",
    namespaced,
    status = "VaultAwsRoleStatus",
    derive = "PartialEq",
    doc = "An AWS IAM role that may log in to Vault, and the policy that confines it to its own certificates.",
    printcolumn(name = "Account", type_ = "string", json_path = ".spec.accountId"),
    printcolumn(name = "IAM-Role", type_ = "string", json_path = ".spec.iamRole"),
    printcolumn(name = "Vault-Role", type_ = "string", json_path = ".status.vaultRole"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must be at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.backendRef == oldSelf.backendRef").message("backendRef is immutable: what was written there would be orphaned; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("self.accountId == oldSelf.accountId").message("accountId is immutable; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("self.iamRole == oldSelf.iamRole").message("iamRole is immutable; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("self.partition == oldSelf.partition").message("partition is immutable; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("self.iamRole != '.' && self.iamRole != '..'").message("iamRole must not be . or .. : it names a directory in Vault"))]
pub struct VaultAwsRoleSpec {
    /// The backend. Default: the one named default.
    #[serde(default)]
    pub backend_ref: BackendRef,
    /// AWS account: twelve digits, quoted.
    #[schemars(length(equal = 12), pattern(r"^[0-9]{12}$"))]
    pub account_id: String,
    /// Friendly name of the IAM role, without its path. IAM also allows + and , in names: these are
    /// refused, because Vault reads them as a wildcard and as a separator.
    #[schemars(length(min = 1, max = 64), pattern(r"^[A-Za-z0-9_=.@-]+$"))]
    pub iam_role: String,
    /// Path of the IAM role. Used in the bound ARN only with unique IDs: without them Vault compares
    /// ARNs that have no path. Default /.
    #[schemars(length(min = 1, max = 512), pattern(r"^/([A-Za-z0-9_=.@-]+/)*$"))]
    #[serde(default = "root_path")]
    pub iam_role_path: String,
    /// AWS partition. Default aws.
    #[serde(default)]
    pub partition: Partition,
    /// Whether to bind to the unique ID of the IAM role. Default: as the backend says. Vault can turn
    /// it on in place, but never off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolve_aws_unique_ids: Option<bool>,
    /// How often Vault is compared with this resource. Default 15m.
    #[serde(default = "fifteen_minutes")]
    pub drift_interval: Span,
}

/// What was found and done in Vault.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultAwsRoleStatus {
    /// Generation of the spec that this status speaks of; -1 before the first look.
    #[serde(default = "super::never_observed")]
    pub observed_generation: i64,
    /// Ready.
    #[schemars(schema_with = "super::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Name of the role in Vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_role: Option<String>,
    /// Name of its policy in Vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_name: Option<String>,
    /// SHA-256 of the policy's text, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_sha256: Option<String>,
    /// ID that Vault gave the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_id: Option<String>,
    /// Unique IDs of the IAM principals that are bound, with unique IDs only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bound_principal_ids: Vec<String>,
    /// The paths that the policy opens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// What was last changed in Vault, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<LastChange>,
    /// What a client types to log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
}

/// A change that was made in Vault.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct LastChange {
    /// When, RFC 3339.
    pub time: String,
    /// What was written, and which fields differed.
    pub what: String,
}

reasons! {
    /// Why a VaultAwsRole's condition is as it is.
    RoleReason {
        /// Role and policy in Vault are as this resource says.
        Ready,
        /// There is no VaultAwsBackend of that name yet.
        BackendNotFound,
        /// The backend is not ready; it says why.
        BackendNotReady,
        /// The namespace has not been seen yet.
        NamespaceNotFound,
        /// No tenancy rule of the backend grants this; what is there is kept.
        TenancyDenied,
        /// The spec cannot work as it is.
        InvalidSpec,
        /// The name is one that is never written.
        ReservedName,
        /// This Vault has known defects that make what is asked for unsafe; see the message.
        VersionUnsafe,
        /// Role or policy of that name belongs to another resource, or to nobody we know: neither is
        /// written.
        Conflict,
        /// A field of the role differs that Vault never changes in an existing role; see the message.
        RecreateNeeded,
        /// AWS does not know the IAM role.
        PrincipalNotFound,
        /// Vault has no way to ask that account: `auth.accounts` of the backend.
        NoStsConfiguration,
        /// Vault's own AWS keys are refused.
        BadVaultAwsKeys,
        /// Vault's AWS identity may not look the IAM role up: `iam:GetRole`, `sts:AssumeRole`.
        VaultAwsDenied,
        /// Vault cannot reach AWS.
        StsUnreachable,
        /// AWS asks for fewer requests.
        AwsThrottled,
        /// Vault did not answer.
        VaultUnreachable,
        /// Vault is sealed.
        VaultSealed,
        /// Vault took too long.
        VaultTimeout,
        /// Vault asks for fewer requests.
        VaultThrottled,
        /// Vault refused the operator's login.
        LoginFailed,
        /// Vault denied the operator something it needs.
        VaultDenied,
        /// Vault refused the write, with a reason of its own.
        VaultRefused,
        /// Vault failed.
        VaultError,
        /// Vault's answer could not be read.
        VaultAnswerMalformed,
        /// Event: role or policy were written for the first time.
        Created,
        /// Event: the spec changed, and Vault with it.
        Updated,
        /// Event: somebody had changed role or policy in Vault, and it was put back.
        Corrected,
        /// Event: the tenancy was withdrawn, and role and policy were taken away.
        Removed,
        /// The Kubernetes API refused or failed a request.
        KubernetesError,
        /// The look took too long and was broken off; it is tried again.
        DeadlineExceeded,
        /// The operator failed; its log says more.
        InternalError,
        /// Being deleted: role and policy are still in Vault.
        CleaningUp,
        /// Let go with something of ours left in Vault: see the event.
        OrphanLeft,
    }
}

fn root_path() -> String {
    "/".into()
}
fn fifteen_minutes() -> Span {
    Span::seconds(900)
}
