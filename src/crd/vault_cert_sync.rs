//! `VaultCertSync`: the certificates of one IAM role, delivered as Secrets.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{BackendRef, KeyRef, LocalRef, Partition, Span, reasons};

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
    /// What a certificate must be like to be delivered, beyond being whole and fitting its key.
    #[serde(default)]
    pub validation: Validation,
    /// How often Vault is asked for changes. Default 1h, at least 10s.
    #[serde(default = "one_hour")]
    pub refresh_interval: Span,
    /// Reads and writes nothing while true; what is delivered stays as it is. Default false.
    #[serde(default)]
    pub suspend: bool,
}

impl Default for VaultCertSyncSpec {
    fn default() -> Self {
        Self {
            role_ref: None,
            principal: None,
            identity: Identity::default(),
            certificates: CertificateSelection::default(),
            target: Target::default(),
            validation: Validation::default(),
            refresh_interval: one_hour(),
            suspend: false,
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
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSelection {
    /// Names of entries; `*` stands for any run of characters. A name without `*` is read without
    /// listing the directory. Default: all.
    #[schemars(
        length(min = 1, max = 200),
        inner(
            length(min = 1, max = 253),
            pattern(r"^(\.*[^./\x00-\x1f\x7f%?#][^/\x00-\x1f\x7f%?#]*|\.{3,})(/(\.*[^./\x00-\x1f\x7f%?#][^/\x00-\x1f\x7f%?#]*|\.{3,}))*$")
        )
    )]
    #[serde(default = "everything")]
    pub include: Vec<String>,
    /// Names that include matches but that are left out.
    #[schemars(
        length(max = 200),
        inner(
            length(min = 1, max = 253),
            pattern(r"^(\.*[^./\x00-\x1f\x7f%?#][^/\x00-\x1f\x7f%?#]*|\.{3,})(/(\.*[^./\x00-\x1f\x7f%?#][^/\x00-\x1f\x7f%?#]*|\.{3,}))*$")
        )
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Also the directories below, at most 8 deep and 64 in all. An entry there is named by its path,
    /// such as a/b, and its Secret by a-b. Default false.
    #[serde(default)]
    pub recursive: bool,
    /// The most certificates. If more are selected, nothing is delivered until the selection is
    /// narrower or this is larger. Default 100.
    #[schemars(range(min = 1, max = 200), extend("format" = "int32"))]
    #[serde(default = "one_hundred")]
    pub limit: u32,
    /// Names of entries whose current version is deleted on purpose: their Secrets are kept, and that
    /// does not make this resource unready.
    #[schemars(length(max = 200), inner(length(min = 1, max = 253)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acknowledge: Vec<String>,
    /// What is different for single entries. An entry that is not selected is not selected by this.
    #[schemars(length(max = 200))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<EntryOverride>,
}

impl Default for CertificateSelection {
    fn default() -> Self {
        Self {
            include: everything(),
            exclude: Vec::new(),
            recursive: false,
            limit: one_hundred(),
            acknowledge: Vec::new(),
            overrides: Vec::new(),
        }
    }
}

/// What is different for one entry.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryOverride {
    /// Name of the entry in Vault.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of its Secret. Default: by target.secretName.
    #[schemars(length(min = 1, max = 253), pattern(r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// This version of the entry and no other. Default: the newest.
    #[schemars(range(min = 1), extend("format" = "int64"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Fields of the entry, where their usual names do not say which is which.
    #[serde(default)]
    pub fields: EntryFields,
}

/// Names of fields in an entry. One that is given must be there.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryFields {
    /// The field with the certificate.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The field with the private key.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// The field with the intermediates.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The field with the certificates to trust, for ca.crt.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// What a certificate must be like to be delivered. One that is not is refused, and the Secret keeps
/// what it has.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// What is done with an expired certificate.
    #[serde(default)]
    pub expired: ExpiredCertificate,
    /// A new certificate must be valid for at least this long. Where the delivered one has expired,
    /// any valid one is delivered. Default 0s.
    #[serde(default = "no_time")]
    pub minimum_remaining: Span,
    /// DNS names that each certificate must cover, by name or by its wildcard.
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 253), pattern(r"^(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// The entry must hold the issuer of the leaf, and no certificate that the leaf does not lead to.
    /// Default false: what is unrelated is left out.
    #[serde(default)]
    pub require_chain: bool,
    /// Whether a CA certificate may be delivered as a leaf. Default false.
    #[serde(default)]
    pub allow_ca_leaf: bool,
}

impl Default for Validation {
    fn default() -> Self {
        Self {
            expired: ExpiredCertificate::default(),
            minimum_remaining: no_time(),
            dns_names: Vec::new(),
            require_chain: false,
            allow_ca_leaf: false,
        }
    }
}

/// What is done with an expired certificate.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ExpiredCertificate {
    /// It is not delivered.
    #[default]
    Refuse,
}

/// How certificates are delivered.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == oldSelf.type").message("target.type is immutable, as the type of a Secret is; create another VaultCertSync"))]
#[x_kube(validation = Rule::new("self.type == 'Opaque' || !has(self.keys)").message("target.keys is for type Opaque: kubernetes.io/tls has keys of its own"))]
pub struct Target {
    /// Name of each Secret. Placeholders: {name} {certificate} {account} {iamRole}. Default
    /// {name}-{certificate}.
    #[schemars(
        length(min = 1, max = 253),
        pattern(r"^([a-z0-9.-]|\{name\}|\{certificate\}|\{account\}|\{iamRole\})+$")
    )]
    #[serde(default = "secret_name")]
    pub secret_name: String,
    /// Type of the Secrets. Immutable. Default kubernetes.io/tls.
    #[serde(default, rename = "type")]
    pub kind: SecretType,
    /// Labels of the Secrets, besides our own. Kept in step; labels of others are left alone. Keys of
    /// Kubernetes and of this operator are refused, and those that the backend denies.
    #[schemars(schema_with = "label_map")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Secrets, in the same way.
    #[schemars(schema_with = "annotation_map")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Other keys in the Secrets' data; type Opaque only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<TargetKeys>,
    /// Whether a Secret goes with this resource.
    #[serde(default)]
    pub deletion_policy: SecretDeletion,
    /// Take over Secrets of the wanted names that nobody controls and that consent by the annotation
    /// `vaultaws.dev/adopt-by: <name of this resource>`. Default false.
    #[serde(default)]
    pub adopt: bool,
    /// What happens to the Secret of an entry that was removed from Vault with all its versions. One that
    /// is not in a mount that was made anew was not removed.
    #[serde(default)]
    pub on_source_removed: SourceRemoval,
    /// Also a PKCS#12 keystore, under the key keystore.p12. It has one entry, named as the entry in
    /// Vault, with the private key, the leaf and its chain. Default: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pkcs12: Option<Pkcs12>,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            secret_name: secret_name(),
            kind: SecretType::default(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            keys: None,
            deletion_policy: SecretDeletion::default(),
            adopt: false,
            on_source_removed: SourceRemoval::default(),
            pkcs12: None,
        }
    }
}

/// Types of Secrets that are delivered.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum SecretType {
    /// tls.crt, tls.key and, where the entry has one, ca.crt.
    #[default]
    #[serde(rename = "kubernetes.io/tls")]
    Tls,
    /// The same, or with other keys.
    Opaque,
}

impl SecretType {
    /// The word in the Secret.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "kubernetes.io/tls",
            Self::Opaque => "Opaque",
        }
    }
}

/// Keys of a Secret's data.
#[derive(Clone, Debug, Deserialize, Eq, Hash, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.certificate != self.privateKey && self.certificate != self.ca && self.privateKey != self.ca && (!has(self.combined) || !(self.combined in [self.certificate, self.privateKey, self.ca]))").message("target.keys must differ from each other"))]
#[x_kube(validation = Rule::new("!('keystore.p12' in [self.certificate, self.privateKey, self.ca]) && (!has(self.combined) || self.combined != 'keystore.p12')").message("keystore.p12 is the key of a PKCS#12 keystore"))]
pub struct TargetKeys {
    /// The leaf and its chain, PEM. Default tls.crt.
    #[schemars(length(min = 1, max = 253), pattern(r"^[-._a-zA-Z0-9]+$"))]
    #[serde(default = "tls_crt")]
    pub certificate: String,
    /// The private key, PEM. Default tls.key.
    #[schemars(length(min = 1, max = 253), pattern(r"^[-._a-zA-Z0-9]+$"))]
    #[serde(default = "tls_key")]
    pub private_key: String,
    /// Certificates to trust, PEM, where the entry has a CA field. Default ca.crt.
    #[schemars(length(min = 1, max = 253), pattern(r"^[-._a-zA-Z0-9]+$"))]
    #[serde(default = "ca_crt")]
    pub ca: String,
    /// Leaf, chain and private key in one PEM text, in this order. Default: there is none.
    #[schemars(length(min = 1, max = 253), pattern(r"^[-._a-zA-Z0-9]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combined: Option<String>,
}

impl Default for TargetKeys {
    fn default() -> Self {
        Self { certificate: tls_crt(), private_key: tls_key(), ca: ca_crt(), combined: None }
    }
}

/// A PKCS#12 keystore.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pkcs12 {
    /// The password: text in a Secret of this namespace, not empty. A line break at its end is not part
    /// of it.
    pub password_ref: KeyRef,
    /// How the keystore is encrypted.
    #[serde(default)]
    pub profile: KeystoreProfile,
}

/// How a keystore is encrypted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum KeystoreProfile {
    /// PBES2 with AES-256-CBC and HMAC-SHA256, 10,000 rounds: OpenSSL 1.1 and Java 8u301 and later.
    #[default]
    Modern2023,
    /// 3DES and SHA-1, for older programs.
    LegacyDES,
}

/// Whether a Secret goes with its VaultCertSync.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum SecretDeletion {
    /// It does: the VaultCertSync is its owner.
    #[default]
    Delete,
    /// It stays; that it is ours is said by the annotation vaultaws.dev/owner-uid.
    Retain,
}

/// What happens to the Secret of a removed entry.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum SourceRemoval {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is deleted once two looks have found the entry gone from a directory that could be listed
    /// and is not empty. Needs the right of deploy/tenant-delete.
    Delete,
}

impl VaultCertSync {
    /// The name of the role that it refers to; `None` if it names a principal.
    pub fn role_name(&self) -> Option<String> {
        match (&self.spec.role_ref, &self.spec.principal) {
            (Some(role), _) => Some(role.name.clone()),
            (None, Some(_)) => None,
            (None, None) => self.metadata.name.clone(),
        }
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
    /// With onSourceRemoved: Delete, accessor of the mount in which all delivered entries were last found.
    /// In another one (a Vault that was set up anew) none of them counts as removed until all are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_accessor: Option<String>,
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
    /// Hash of what this resource asks of the certificate, as it was judged and delivered: a change is
    /// looked at anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
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
    /// The entry was removed from Vault, and the Secret with it.
    Removed,
}

impl CertificateState {
    /// The word in the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "Synced",
            Self::Kept => "Kept",
            Self::Refused => "Refused",
            Self::Removed => "Removed",
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
        /// Not every certificate could be read in one look: what was read is delivered, and the next
        /// look goes on with the rest.
        PartlyRead,
        /// No certificate lies in the directory.
        SourceEmpty,
        /// More certificates than a sync may hold.
        TooManyCertificates,
        /// Too many directories, or too deep, to be listed.
        TooManyDirectories,
        /// Suspended by the spec.
        Suspended,
        /// A label or annotation that may not be set.
        MetadataDenied,
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
        /// The Secret with the keystore's password is missing, lacks the key, or has no usable text.
        PasswordNotReady,
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
        /// The entry was removed; its Secret goes when a second look confirms it, or has gone.
        SourceRemoved,
        /// The entry's current version is deleted, and the spec says that this is meant.
        Acknowledged,
        /// The entry has no such version, or no longer.
        VersionNotFound,
        /// We may not delete Secrets in this namespace.
        NoDeleteAccess,
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
        /// Not valid for as long as the spec demands.
        ExpiresTooSoon,
        /// A DNS name that the spec demands is not covered.
        DnsNameMissing,
        /// The chain is not whole, or not alone, as the spec demands.
        ChainIncomplete,
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
        /// The Secret is of another type.
        SecretTypeDiffers,
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
fn no_time() -> Span {
    Span::seconds(0)
}
fn one_hundred() -> u32 {
    100
}
fn tls_crt() -> String {
    "tls.crt".into()
}
fn tls_key() -> String {
    "tls.key".into()
}
fn ca_crt() -> String {
    "ca.crt".into()
}
fn label_map(_: &mut SchemaGenerator) -> Schema {
    text_map(63)
}
fn annotation_map(_: &mut SchemaGenerator) -> Schema {
    text_map(4096)
}
fn text_map(longest: u32) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": longest}
    })
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
