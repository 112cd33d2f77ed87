//! `VaultAwsBackend`: the connection to one Vault and who may use it, owned by the admin.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Adopt, AuthType, ClientConfig, IdentityConfig, InEffect, KeyRef, LocalRef, PathRule, Span,
    StsAccount, WrittenKeys, reasons,
};

/// A Vault whose AWS auth mount we manage, and the tenants that may use it. A tenant never chooses the
/// address to which a signed AWS identity is sent: that is why this is an object of the admin.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "vaultaws.dev",
    version = "v1alpha1",
    kind = "VaultAwsBackend",
    plural = "vaultawsbackends",
    shortname = "vab",
    category = "vaultaws",
    status = "VaultAwsBackendStatus",
    derive = "PartialEq",
    doc = "A Vault, how we log in to it, and which namespaces may declare which AWS roles in it.",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.vault.address"),
    printcolumn(name = "Product", type_ = "string", json_path = ".status.product"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.vaultVersion"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must be at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.clusterId) == has(oldSelf.clusterId) && (!has(self.clusterId) || self.clusterId == oldSelf.clusterId)").message("clusterId is immutable: it is part of the mark of ownership in Vault"))]
#[x_kube(validation = Rule::new("!has(self.operatorLogin.aws) || self.operatorLogin.aws.mount != self.auth.mount").message("operatorLogin.aws.mount must be another mount than auth.mount: whoever writes roles there could make himself the operator"))]
pub struct VaultAwsBackendSpec {
    /// Name of this Kubernetes cluster in the marks of ownership that we leave in Vault. Immutable.
    /// Default: the UID of the namespace kube-system; see status.clusterId.
    #[schemars(length(min = 1, max = 64), pattern(r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Where Vault is and how we speak to it.
    pub vault: VaultConnection,
    /// How the operator itself logs in to Vault; exactly one.
    pub operator_login: OperatorLogin,
    /// The AWS auth mount.
    #[serde(default)]
    pub auth: AuthMount,
    /// Where certificates lie in Vault's KV v2 engine.
    #[serde(default)]
    pub certificates: Certificates,
    /// How Vault's roles and policies are named.
    #[serde(default)]
    pub naming: Naming,
    /// How clients prove their AWS identity.
    #[serde(default)]
    pub aws: AwsSettings,
    /// What happens where a login of a role would reach the certificates of others, or Vault's own
    /// settings. Enforce: nothing is written that would open the way. Report: the role's condition
    /// Isolated says it, and it is written all the same. Default Enforce.
    #[serde(default)]
    pub isolation: Isolation,
    /// What becomes of a role in Vault whose tenancy is withdrawn. Hold: nobody logs in for it and
    /// nothing is written; what is there stays. Remove: the role and then its policy are taken away,
    /// if they are ours. Default Hold.
    #[serde(default)]
    pub on_tenancy_withdrawn: OnTenancyWithdrawn,
    /// Who may use this backend. Deny by default: one rule must grant namespace, account, role and
    /// identity together; rules never combine.
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default)]
    pub tenancy: Vec<TenancyRule>,
    /// Prefixes of labels and annotations that a VaultCertSync may not put on its Secrets, because
    /// other programs of the cluster act on them. Those of Kubernetes and of this operator are always
    /// denied. Default: Argo CD, reflector, replicator.
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    #[serde(default = "acted_upon")]
    pub denied_metadata_prefixes: Vec<String>,
}

/// What becomes of a role whose tenancy is withdrawn.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum OnTenancyWithdrawn {
    /// Nobody logs in and nothing is written; what is there stays.
    #[default]
    Hold,
    /// The role and then its policy are taken away from Vault.
    Remove,
}

fn acted_upon() -> Vec<String> {
    ["argocd.argoproj.io/", "reflector.v1.k8s.emberstack.com/", "replicator.v1.mittwald.de/"]
        .map(str::to_owned)
        .to_vec()
}

/// What a verdict on isolation is for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Isolation {
    /// What would break isolation is not written.
    #[default]
    Enforce,
    /// It is said, and written.
    Report,
}

/// The connection to Vault.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.caBundle) && has(self.caBundleRef))").message("give caBundle or caBundleRef, not both"))]
pub struct VaultConnection {
    /// Address of Vault: `https://host:port`. It cannot change while resources use it.
    #[schemars(length(max = 512), pattern(r"^https://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._/-]*)?$"))]
    pub address: String,
    /// Vault Enterprise or HCP namespace, such as `admin`; sent with every request. It cannot change
    /// while resources use it.
    #[schemars(length(min = 1, max = 256), pattern(r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*/?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// PEM certificates that Vault's certificate must chain to. Default: the system's roots.
    #[schemars(length(min = 1, max = 131_072))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// The same from a ConfigMap or Secret in the operator's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
    /// A kubernetes.io/tls Secret in the operator's namespace whose certificate the operator shows to
    /// a listener of Vault that asks for one (mutual TLS). A change of the Secret is seen within half
    /// a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<LocalRef>,
    /// The host name that is asked for by SNI and that Vault's certificate must carry, where it is not
    /// the host of the address.
    #[schemars(length(min = 1, max = 253), pattern(r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// How long one request to Vault may take. Default 10s.
    #[serde(default = "ten_seconds")]
    pub request_timeout: Span,
    /// The most requests that one operator process sends to this address. Of several backends with one
    /// address the lowest limit holds for all. Requests that wait take turns by namespace.
    #[serde(default)]
    pub rate_limit: RateLimit,
}

/// A key of a ConfigMap or Secret in the operator's namespace that holds PEM certificates.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct CaBundleRef {
    /// ConfigMap or Secret.
    pub kind: CaBundleKind,
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data. Default ca.crt.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default = "ca_crt")]
    pub key: String,
}

/// What holds a CA bundle.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum CaBundleKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// A token bucket.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Sustained requests per second. Default 50.
    #[schemars(range(min = 1, max = 10_000), extend("format" = "int32"))]
    #[serde(default = "fifty")]
    pub requests_per_second: u32,
    /// Requests that may go out at once after a pause. Default 100.
    #[schemars(range(min = 1, max = 10_000), extend("format" = "int32"))]
    #[serde(default = "one_hundred")]
    pub burst: u32,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { requests_per_second: fifty(), burst: one_hundred() }
    }
}

/// How the operator logs in to Vault; exactly one.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.serviceAccount), has(self.aws), has(self.tokenRef)].filter(given, given).size() == 1").message("give exactly one of serviceAccount, aws and tokenRef"))]
pub struct OperatorLogin {
    /// By the operator's projected ServiceAccount token, at a Kubernetes or JWT auth mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountLogin>,
    /// By the operator's own AWS identity, at another AWS auth mount than auth.mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsLogin>,
    /// By a Vault token in a Secret of the operator's namespace; it is never revoked by us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ref: Option<KeyRef>,
}

/// A login with a ServiceAccount token file.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountLogin {
    /// The auth mount. Default kubernetes.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$"))]
    #[serde(default = "kubernetes")]
    pub mount: String,
    /// The role at that mount.
    #[schemars(
        length(min = 1, max = 128),
        pattern(r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$")
    )]
    pub role: String,
    /// The token file; the kubelet renews it. Default: where deploy/ mounts it.
    #[schemars(length(min = 1, max = 1024), pattern(r"^/.+$"))]
    #[serde(default = "token_path")]
    pub token_path: String,
}

/// An IAM login with the AWS identity of the operator's pod: environment, web identity (IRSA), pod
/// identity, instance. Region, STS endpoint and server ID are those of all logins of the backend.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AwsLogin {
    /// The AWS auth mount; never auth.mount, where the operator writes roles.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$"))]
    pub mount: String,
    /// The role at that mount.
    #[schemars(
        length(min = 1, max = 128),
        pattern(r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$")
    )]
    pub role: String,
}

/// The AWS auth mount.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.management == 'Managed' || (!has(self.client) && !has(self.identity) && !has(self.defaultLeaseTtl) && !has(self.maxLeaseTtl) && (!has(self.accounts) || self.accounts.size() == 0))").message("defaultLeaseTtl, maxLeaseTtl, client, identity and accounts are written only under management: Managed"))]
#[x_kube(validation = Rule::new("!has(self.defaultLeaseTtl) || !has(self.maxLeaseTtl) || duration(self.maxLeaseTtl) == duration('0s') || duration(self.defaultLeaseTtl) <= duration(self.maxLeaseTtl)").message("defaultLeaseTtl must not be longer than maxLeaseTtl"))]
pub struct AuthMount {
    /// Path of the mount under auth/. Default aws. It cannot change while resources use it.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$"))]
    #[serde(default = "aws")]
    pub mount: String,
    /// Type of the mount, where it is enabled and where it is found: aws, or the name under which a plugin
    /// is registered (OpenBao: auth-aws). Default aws.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_.-]+$"))]
    #[serde(rename = "type", default = "aws")]
    pub kind: String,
    /// Value of the header X-Vault-AWS-IAM-Server-ID that each login signs, so that a login made for
    /// another Vault is worthless here. Default: the host of vault.address.
    #[schemars(length(min = 1, max = 253), pattern(r"^[A-Za-z0-9._:/-]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
    /// Observed: we write roles and policies only. Managed: we also enable the mount, tune and configure
    /// it, with serverId and the fields given below and no others; what is not given is not touched,
    /// and nothing is ever taken away, not even when this object is deleted.
    #[serde(default)]
    pub management: Management,
    /// How long a login at the mount lasts where its role does not say; 0s is the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_lease_ttl: Option<Span>,
    /// The longest that a login at the mount can last, renewals included; 0s is the server's maximum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lease_ttl: Option<Span>,
    /// What Vault needs to ask AWS: `auth/<mount>/config/client`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientConfig>,
    /// As which identity Vault knows who logged in: `auth/<mount>/config/identity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityConfig>,
    /// Whether roles bind to the unique ID of the IAM role (so that a re-created role of the same name
    /// is locked out). Vault must be able to ask IAM. Default false: HCP cannot ask foreign accounts.
    #[serde(default)]
    pub resolve_aws_unique_ids: bool,
    /// The role that Vault assumes to ask a foreign account: `auth/<mount>/config/sts/<accountId>`.
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["accountId".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<StsAccount>,
}

impl Default for AuthMount {
    fn default() -> Self {
        Self {
            mount: aws(),
            kind: aws(),
            server_id: None,
            management: Management::Observed,
            default_lease_ttl: None,
            max_lease_ttl: None,
            client: None,
            identity: None,
            resolve_aws_unique_ids: false,
            accounts: Vec::new(),
        }
    }
}

/// How much of the auth mount is ours.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Management {
    /// Only roles and policies.
    #[default]
    Observed,
    /// Also the mount itself and its configuration.
    Managed,
}

/// Where certificates lie. It cannot change while resources use it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificates {
    /// Mount of the KV v2 engine. Default secret.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$"))]
    #[serde(default = "secret")]
    pub mount: String,
    /// Directory in it that holds one directory per account. Default certs.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$"))]
    #[serde(default = "certs")]
    pub base_path: String,
}

impl Default for Certificates {
    fn default() -> Self {
        Self { mount: secret(), base_path: certs() }
    }
}

/// Names in Vault. Placeholders: {account} {iamRole} {namespace} {name}, in policy also {role}. They
/// cannot change while resources use them.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Naming {
    /// Name of the role at `auth/<mount>/role/`. Default {iamRole}; where tenancy spans several accounts
    /// it must contain {account}.
    #[schemars(
        length(min = 1, max = 128),
        pattern(r"^([A-Za-z0-9_.-]|\{account\}|\{iamRole\}|\{namespace\}|\{name\})+$")
    )]
    #[serde(default = "role_name")]
    pub role: String,
    /// Name of the policy. Starts with at least four literal characters, so that the operator's own
    /// Vault policy can be limited to a prefix. Default vaultaws-{role}-policy.
    #[schemars(length(min = 1, max = 128), pattern(r"^[a-z0-9_.-]{4}([a-z0-9_.-]|\{role\}|\{account\}|\{iamRole\}|\{namespace\}|\{name\})+$"))]
    #[serde(default = "policy_name")]
    pub policy: String,
}

impl Default for Naming {
    fn default() -> Self {
        Self { role: role_name(), policy: policy_name() }
    }
}

/// How clients prove their AWS identity to Vault.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AwsSettings {
    /// Region for which logins are signed; it must be that of the STS endpoint to which Vault forwards
    /// them. us-east-1 is the global endpoint. Default us-east-1.
    #[schemars(length(min = 1, max = 32), pattern(r"^[a-z0-9-]+$"))]
    #[serde(default = "us_east_1")]
    pub region: String,
    /// Another STS endpoint than that of the region, such as one of a VPC: the operator asks it for
    /// sessions, and logins are signed for its host, so Vault must forward them there too. Plain http is
    /// for this machine only. Default: `AWS_ENDPOINT_URL_STS` of the operator for its own questions, and
    /// the public endpoint of the region for logins.
    #[schemars(
        length(min = 1, max = 512),
        pattern(
            r"^(https://[A-Za-z0-9.\[\]:-]+|http://(127\.0\.0\.1|\[::1\]|localhost)(:[0-9]{1,5})?)/?$"
        )
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sts_endpoint: Option<String>,
    /// Audience of the ServiceAccount tokens that are exchanged for AWS sessions: a client ID of the
    /// OIDC provider in each account. Default sts.amazonaws.com.
    #[schemars(length(min = 1, max = 255), pattern(r"^[A-Za-z0-9._:/-]+$"))]
    #[serde(default = "sts_audience")]
    pub web_identity_audience: String,
    /// ExternalId that the operator gives when it assumes a client's role; the client's trust policy
    /// names it, and that is the client's consent. Placeholders: {clusterId} {namespace}.
    #[schemars(
        length(min = 2, max = 256),
        pattern(r"^([A-Za-z0-9_+=,.@:/-]|\{clusterId\}|\{namespace\})+$")
    )]
    #[serde(default = "external_id")]
    pub external_id: String,
}

impl Default for AwsSettings {
    fn default() -> Self {
        Self {
            region: us_east_1(),
            sts_endpoint: None,
            web_identity_audience: sts_audience(),
            external_id: external_id(),
        }
    }
}

/// What one group of namespaces may do.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TenancyRule {
    /// Cited in messages.
    #[schemars(length(min = 1, max = 63), pattern(r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"))]
    pub name: String,
    /// The namespaces: by name, or by label. Whoever may label namespaces holds a selector's tenancy.
    pub namespaces: Namespaces,
    /// AWS accounts.
    #[schemars(length(min = 1, max = 1000), inner(length(equal = 12), pattern(r"^[0-9]{12}$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub accounts: Vec<String>,
    /// IAM role names, case-sensitive; a trailing * is a prefix.
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 65), pattern(r"^[A-Za-z0-9_=.@-]*\*?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iam_roles: Vec<String>,
    /// IAM user names, in the same way. A user has the directory of certificates that a role of its
    /// name would have.
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 65), pattern(r"^[A-Za-z0-9_=.@-]*\*?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iam_users: Vec<String>,
    /// How clients may log in. Default iam. ec2 lets any instance in that a team's binds name.
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default = "auth_types")]
    pub auth_types: Vec<AuthType>,
    /// Whether a role may infer EC2 instances from the names of sessions. Default false.
    #[serde(default)]
    pub allow_inference: bool,
    /// Whether a role's principals may end in *. Default false.
    #[serde(default)]
    pub allow_wildcard_principals: bool,
    /// Names in Vault that a role may ask for by vaultName; a trailing * is a prefix. Default none.
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 129), pattern(r"^[A-Za-z0-9_.-]*\*?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// How far a role's adopt may reach. Default Never.
    #[serde(default)]
    pub adopt: Adopt,
    /// How a VaultCertSync may get its AWS identity. Default AssumeRole, ServiceAccount and Secret;
    /// Ambient, the operator's own identity, only if it is listed.
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default = "identities")]
    pub identities: Vec<IdentityKind>,
    /// Policies of Vault that a VaultAwsRole may name in token.additionalPolicies. Vault folds their
    /// case. The operator must be allowed to read them, and to attach them to roles.
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_policies: Vec<String>,
    /// Paths of Vault beyond the certificates that a VaultAwsRole may open in policy.extraRules, and
    /// that the policies of its logins may open. One of these must cover a rule with its path and all of
    /// its capabilities.
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_rules: Vec<PathRule>,
    /// The longest life of a token: no duration of a VaultAwsRole's token may be longer, and where it
    /// sets no maximum, this is written as the role's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_token_ttl: Option<Span>,
}

/// Namespaces by name or by label; exactly one.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.names) != has(self.selector)").message("give exactly one of names and selector"))]
pub struct Namespaces {
    /// By name.
    #[schemars(length(min = 1, max = 1000), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// By label; an empty selector, which would mean every namespace, grants nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// A way to an AWS identity.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum IdentityKind {
    /// The operator assumes the client's role.
    AssumeRole,
    /// A token of a ServiceAccount of the client's namespace, exchanged at STS.
    ServiceAccount,
    /// Keys in a Secret of the client's namespace.
    Secret,
    /// The operator's own identity as it is.
    Ambient,
}

impl IdentityKind {
    /// The word in the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AssumeRole => "AssumeRole",
            Self::ServiceAccount => "ServiceAccount",
            Self::Secret => "Secret",
            Self::Ambient => "Ambient",
        }
    }
}

/// What the operator saw.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultAwsBackendStatus {
    /// Generation of the spec that this status speaks of; -1 before the first look.
    #[serde(default = "super::never_observed")]
    pub observed_generation: i64,
    /// Ready, Reachable, MountConfigured, VersionSafe.
    #[schemars(schema_with = "super::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Vault, VaultEnterprise or OpenBao.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Version that Vault reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_version: Option<String>,
    /// ID that Vault gives its own cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_cluster_id: Option<String>,
    /// Name of this Kubernetes cluster in the marks of ownership, and in ExternalIds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// What of the spec cannot change while resources use it, as it is used. Another value in the spec
    /// waits until no resource uses this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_effect: Option<InEffect>,
    /// Accessor of the auth mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_accessor: Option<String>,
    /// STS endpoint of config/client as it was last found right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sts_endpoint: Option<String>,
    /// AWS keys that were last written to config/client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_keys: Option<WrittenKeys>,
}

reasons! {
    /// Why a VaultAwsBackend's condition is as it is.
    BackendReason {
        /// All is as it should be.
        Ready,
        /// Vault answers and is active.
        Reachable,
        /// Vault did not answer.
        VaultUnreachable,
        /// Vault is sealed or not initialised, or has no active node.
        VaultSealed,
        /// Vault took too long.
        VaultTimeout,
        /// Vault asks for fewer requests.
        VaultThrottled,
        /// Vault refused the operator's login.
        LoginFailed,
        /// Vault denied the operator something it needs; `deploy/` shows the policy.
        VaultDenied,
        /// Vault refused a request, with a reason of its own.
        VaultRefused,
        /// Vault failed.
        VaultError,
        /// Vault's answer could not be read.
        VaultAnswerMalformed,
        /// Behind the address is another Vault cluster than before: all is compared with it, what it lacks
        /// is written, and nothing is deleted for it.
        VaultClusterChanged,
        /// A ConfigMap or Secret that the spec names is missing or has not the key.
        ReferenceNotFound,
        /// A ConfigMap or Secret that the spec names holds something that cannot be used.
        ReferenceInvalid,
        /// The spec cannot work as it is.
        InvalidSpec,
        /// The spec changes something that resources use; the old value stays in effect.
        FieldInUse,
        /// Being deleted, and roles that must be cleaned up in Vault still refer to it.
        InUse,
        /// `naming.role` would give roles of several accounts one name.
        NamingNotUnique,
        /// A namespace is set, but this server has none: nothing is written.
        NamespacesUnsupported,
        /// The auth mount is there and configured.
        MountConfigured,
        /// The auth mount is there; its configuration is not ours.
        MountObserved,
        /// There is no such auth mount.
        MountNotFound,
        /// A mount of another type than `auth.type` is there.
        MountConflict,
        /// config/client has an access key that is neither the Secret's nor the last one written: it is
        /// left alone.
        RotatedElsewhere,
        /// This server took a field without a word and did not keep it; the message names it.
        UnsupportedByServer,
        /// Somebody had changed the STS endpoint, which says who is who at this mount (event).
        StsEndpointDrift,
        /// The certificates' mount is not KV version 2.
        NotKvV2,
        /// No known defect of this version lets one account's role pass for another's.
        VersionSafe,
        /// This version has known defects; see the message.
        VersionUnsafe,
        /// The version could not be judged.
        VersionUnknown,
        /// The Kubernetes API refused or failed a request.
        KubernetesError,
        /// The look took too long and was broken off; it is tried again.
        DeadlineExceeded,
        /// The operator failed; its log says more.
        InternalError,
        /// The mount was configured (event).
        Configured,
    }
}

fn ten_seconds() -> Span {
    Span::seconds(10)
}
fn fifty() -> u32 {
    50
}
fn one_hundred() -> u32 {
    100
}
fn ca_crt() -> String {
    "ca.crt".into()
}
fn kubernetes() -> String {
    "kubernetes".into()
}
fn token_path() -> String {
    "/var/run/secrets/vaultaws.dev/token".into()
}
fn aws() -> String {
    "aws".into()
}
fn secret() -> String {
    "secret".into()
}
fn certs() -> String {
    "certs".into()
}
fn role_name() -> String {
    "{iamRole}".into()
}
fn policy_name() -> String {
    "vaultaws-{role}-policy".into()
}
fn us_east_1() -> String {
    "us-east-1".into()
}
fn sts_audience() -> String {
    "sts.amazonaws.com".into()
}
fn external_id() -> String {
    "{clusterId}/{namespace}".into()
}
fn auth_types() -> Vec<AuthType> {
    vec![AuthType::Iam]
}
fn identities() -> Vec<IdentityKind> {
    vec![IdentityKind::AssumeRole, IdentityKind::ServiceAccount, IdentityKind::Secret]
}
