//! `VaultAwsRole`: who may log in, and to what.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Adopt, AmbientIdentity, AssumeRole, AuthType, BackendRef, Drift, Ec2Binds, IamKind, Inference,
    Partition, PathRule, RoleDeletion, Span, TokenSettings, reasons,
};

/// An AWS IAM role or user that may log in to Vault, confined to its own directory of certificates.
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
    printcolumn(name = "Isolated", type_ = "string", json_path = r#".status.conditions[?(@.type=="Isolated")].status"#),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must be at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.backendRef == oldSelf.backendRef").message("backendRef is immutable: what was written there would be orphaned; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("self.accountId == oldSelf.accountId").message("accountId is immutable; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("has(self.iamRole) == has(oldSelf.iamRole) && (!has(self.iamRole) || self.iamRole == oldSelf.iamRole)").message("iamRole is immutable; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("has(self.iamUser) == has(oldSelf.iamUser) && (!has(self.iamUser) || self.iamUser == oldSelf.iamUser)").message("iamUser is immutable; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("self.partition == oldSelf.partition").message("partition is immutable; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("has(self.vaultName) == has(oldSelf.vaultName) && (!has(self.vaultName) || self.vaultName == oldSelf.vaultName)").message("vaultName is immutable: what was written under the old name would be orphaned; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("self.authType == oldSelf.authType").message("authType is immutable: Vault never changes it; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("!(has(oldSelf.resolveAwsUniqueIds) && oldSelf.resolveAwsUniqueIds && has(self.resolveAwsUniqueIds) && !self.resolveAwsUniqueIds)").message("resolveAwsUniqueIds cannot go from true to false: Vault never turns it off; create another VaultAwsRole"))]
#[x_kube(validation = Rule::new("has(self.iamRole) != has(self.iamUser)").message("give exactly one of iamRole and iamUser"))]
#[x_kube(validation = Rule::new("!has(self.iamRole) || (self.iamRole != '.' && self.iamRole != '..')").message("iamRole must not be . or .. : it names a directory in Vault"))]
#[x_kube(validation = Rule::new("!has(self.iamUser) || (self.iamUser != '.' && self.iamUser != '..')").message("iamUser must not be . or .. : it names a directory in Vault"))]
#[x_kube(validation = Rule::new("!has(self.principals) || self.principals.all(arn, arn.startsWith('arn:' + self.partition + ':iam::' + self.accountId + ':'))").message("each of principals must lie in partition and accountId"))]
#[x_kube(validation = Rule::new("self.authType != 'ec2' || (has(self.iamRole) && has(self.ec2) && !has(self.inference) && !has(self.resolveAwsUniqueIds) && (!has(self.principals) || self.principals.size() == 0))").message("authType ec2 needs iamRole and ec2, and takes no principals, inference or resolveAwsUniqueIds"))]
#[x_kube(validation = Rule::new("self.authType == 'ec2' || has(self.ec2) == has(self.inference)").message("with authType iam, ec2 and inference need each other"))]
#[x_kube(validation = Rule::new("!has(self.inference) || !has(self.ec2) || !has(self.ec2.regions)").message("Vault takes no ec2.regions with inference: inference.region is the one"))]
#[x_kube(validation = Rule::new("!has(self.verify) || (self.authType == 'iam' && (has(self.iamRole) || !has(self.verify.identity.assumeRole)))").message("verify needs authType iam; a user cannot be assumed"))]
pub struct VaultAwsRoleSpec {
    /// The backend. Default: the one named default.
    #[serde(default)]
    pub backend_ref: BackendRef,
    /// AWS account: twelve digits, quoted.
    #[schemars(length(equal = 12), pattern(r"^[0-9]{12}$"))]
    pub account_id: String,
    /// Friendly name of the IAM role, without its path. IAM also allows + and , in names: these are
    /// refused, because Vault reads them as a wildcard and as a separator. Exactly one of iamRole and
    /// iamUser.
    #[schemars(length(min = 1, max = 64), pattern(r"^[A-Za-z0-9_=.@-]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam_role: Option<String>,
    /// Friendly name of an IAM user instead. It gets the name in Vault and the directory of
    /// certificates that an IAM role of this name would get.
    #[schemars(length(min = 1, max = 64), pattern(r"^[A-Za-z0-9_=.@-]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iam_user: Option<String>,
    /// Path of the IAM role or user. Used in the bound ARN only with unique IDs: without them Vault
    /// compares ARNs that have no path. Default /.
    #[schemars(length(min = 1, max = 512), pattern(r"^/([A-Za-z0-9_=.@-]+/)*$"))]
    #[serde(default = "root_path")]
    pub iam_role_path: String,
    /// AWS partition. Default aws.
    #[serde(default)]
    pub partition: Partition,
    /// Name of the role in Vault, in place of the one that the backend's naming.role gives: to take
    /// over a role that exists. The tenancy rule must grant it in names. Vault folds it to lower case.
    #[schemars(
        length(min = 1, max = 128),
        pattern(r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_name: Option<String>,
    /// How clients log in: iam, by a signed request; ec2, by an instance's identity document. Default
    /// iam.
    #[serde(default)]
    pub auth_type: AuthType,
    /// Full ARNs that may log in, in place of the one of iamRole or iamUser. All lie in accountId, and
    /// the tenancy rule grants each. A trailing * is a prefix of the full ARN, path included: the rule
    /// must allow it by allowWildcardPrincipals and grant each name that it could mean, and the backend
    /// must be VersionSafe.
    #[schemars(
        length(max = 32),
        inner(
            length(min = 1, max = 640),
            pattern(
                r"^arn:(aws|aws-us-gov|aws-cn):iam::[0-9]{12}:(role|user)/[A-Za-z0-9_=.@/-]*\*?$"
            )
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<String>,
    /// Whether to bind to the unique ID of the IAM role. Default: as the backend says. Vault can turn
    /// it on in place, but never off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolve_aws_unique_ids: Option<bool>,
    /// Also look the EC2 instance up that logs in, and hold it against ec2. Vault knows the instance by
    /// the session's name, which whoever may assume the role can choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference: Option<Inference>,
    /// What an instance must be like to log in, with authType ec2 or inference. It must also be one of
    /// accountId.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ec2: Option<Ec2Binds>,
    /// What the role's own policy opens.
    #[serde(default)]
    pub policy: PolicySettings,
    /// What the tokens are like. What is not given is as Vault has it by default, and is put back so.
    #[serde(default)]
    pub token: TokenSettings,
    /// Whether the operator tries the login itself, once per change: see the condition LoginVerified.
    /// Default: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Whether a role or policy that stands in Vault and is nobody's may be taken over: Never; IfEqual,
    /// if it is as this resource would write it, apart from rules that its policy lacks; Always. No more
    /// than the tenancy rule allows. What bears the mark of another resource is never taken over.
    /// Default Never.
    #[serde(default)]
    pub adopt: Adopt,
    /// What is done about differences: Correct them, or only Report them in the status and write
    /// nothing at all. Default Correct.
    #[serde(default)]
    pub drift: Drift,
    /// How often Vault is compared with this resource. Default 15m.
    #[serde(default = "fifteen_minutes")]
    pub drift_interval: Span,
    /// Whether role and policy go from Vault with this resource: Delete, or Retain. Default Delete.
    #[serde(default)]
    pub deletion_policy: RoleDeletion,
    /// Asks nothing of Vault while true; what is there stays as it is. Default false.
    #[serde(default)]
    pub suspend: bool,
}

impl VaultAwsRoleSpec {
    /// What kind of principal it is about, and its friendly name.
    pub fn iam_name(&self) -> (IamKind, &str) {
        match &self.iam_user {
            Some(user) => (IamKind::User, user),
            None => (IamKind::Role, self.iam_role.as_deref().unwrap_or_default()),
        }
    }
}

/// What the role's own policy opens.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicySettings {
    /// What may be done with the certificates of the role's directory. ReadWrite also writes, deletes
    /// and undeletes versions; it never destroys them. Default Read.
    #[serde(default)]
    pub certificates: CertificateAccess,
    /// Further paths; each must be granted by extraRules of the tenancy rule, and reach neither
    /// certificates of others nor sys/, auth/ and identity/.
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_rules: Vec<PathRule>,
}

/// What may be done with certificates.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum CertificateAccess {
    /// Read and list.
    #[default]
    Read,
    /// Read, list, write, delete and undelete versions.
    ReadWrite,
    /// Nothing.
    None,
}

/// How the operator tries the login.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Verify {
    /// As whom; the tenancy rule must list it under identities.
    pub identity: VerifyIdentity,
}

/// The AWS identity of a login that is tried; exactly one. The process that writes roles has no right
/// on anything in this namespace, so neither its Secrets nor its ServiceAccounts can serve.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.assumeRole) != has(self.ambient)").message("give exactly one of assumeRole and ambient"))]
pub struct VerifyIdentity {
    /// The operator assumes the role, with the ExternalId of the backend's template and a session
    /// policy that denies everything. The role's trust policy must name the operator's role writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assume_role: Option<AssumeRole>,
    /// The role writer's own AWS identity as it is: Vault lets it in only where it is the role itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ambient: Option<AmbientIdentity>,
}

/// What was found and done in Vault.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultAwsRoleStatus {
    /// Generation of the spec that this status speaks of; -1 before the first look.
    #[serde(default = "super::never_observed")]
    pub observed_generation: i64,
    /// Ready, Isolated, PrincipalCurrent, LoginVerified.
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
    /// Other mounts of Vault that a login reaches; at most 64 are listed.
    #[schemars(length(max = 64), inner(length(max = 256)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_reaches: Vec<String>,
    /// What was last changed in Vault, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<LastChange>,
    /// With drift: Report, what differs in Vault: policy, role (there is none), or fields of the role.
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differs: Vec<String>,
    /// The value of the annotation vaultaws.dev/rebind that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_rebind: Option<String>,
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
        /// Role or policy of that name belongs to another resource, or to nobody we know: neither is
        /// written.
        Conflict,
        /// A field of the role differs that Vault never changes in an existing role; see the message.
        RecreateNeeded,
        /// Suspended by the spec.
        Suspended,
        /// Vault differs from this resource, and `drift: Report` writes nothing: see status.differs.
        DriftFound,
        /// What is asked for is safe only where the backend is `VersionSafe`.
        VersionUnsafe,
        /// PrincipalCurrent: a login with the bound principal was seen.
        LoginSeen,
        /// PrincipalCurrent: no login was seen yet.
        NoLoginSeen,
        /// PrincipalCurrent: Vault says that the principal does not belong to the role. An IAM role that
        /// was deleted and created again is let in by the annotation `vaultaws.dev/rebind`.
        PrincipalMismatch,
        /// PrincipalCurrent: Vault has not one unique ID for each bound ARN.
        PrincipalIdsUnclear,
        /// A login would reach certificates of others, or Vault's own settings. As the reason of Ready:
        /// nothing was written.
        NotIsolated,
        /// A login reaches nothing of others.
        Isolated,
        /// A login would carry the policy `root`.
        RootPolicy,
        /// A policy of the login grants `sudo`.
        SudoGranted,
        /// A login would carry the name of a policy that does not exist: whoever creates it decides what
        /// the role may do.
        DanglingPolicy,
        /// The operator may not read a policy of the login.
        PolicyUnreadable,
        /// A policy of the login holds what the operator does not know.
        PolicyNotUnderstood,
        /// The operator may not see which policies the login's entity and its groups add.
        IdentityUnreadable,
        /// The operator logged in as the role.
        LoginVerified,
        /// AWS does not let the operator assume the role.
        AssumeRoleDenied,
        /// The operator's role writer has no AWS identity.
        NoAwsCredentials,
        /// AWS refused the operator's credentials.
        AwsCredentialsRefused,
        /// AWS failed.
        AwsError,
        /// Vault does not let this principal in at that role.
        LoginDenied,
        /// Vault let somebody else in than was meant; the token was given back.
        SessionRefused,
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
        /// Event: role and policy were in Vault already, and were taken over.
        Adopted,
        /// Event: the IAM principals were looked up again, as the annotation `vaultaws.dev/rebind` asked.
        Rebound,
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
