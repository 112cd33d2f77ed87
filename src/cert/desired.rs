//! What a `VaultCertSync` asks for, once everything it refers to is found and granted. Pure.
//!
//! Every refusal that needs no request is born here: a missing or unready role, a tenancy rule that
//! does not grant it, a name that cannot be.

use std::{
    collections::BTreeMap,
    hash::{Hash as _, Hasher},
    time::Duration,
};

use kube::ResourceExt;
use sha2::{Digest as _, Sha256};

use super::entry::Overrides;
use crate::{
    crd::{
        self, CertificateSelection, EntryOverride, IamKind, IdentityKind, KeystoreProfile,
        SecretDeletion, SecretType, SourceRemoval, SyncReason, TargetKeys, VaultAwsBackend,
        VaultAwsRole, VaultCertSync,
    },
    fault::{Fault, Retry},
    naming::{self, IamRole, RoleName, Subject, external_id, server_id, session_name},
    tenancy,
};

/// What the sync refers to, as the caches hold it.
#[derive(Debug)]
pub struct References<'a> {
    /// The VaultAwsRole named by `roleRef`; `None` if there is none, or if `principal` is used.
    pub role: Option<&'a VaultAwsRole>,
    /// The backend.
    pub backend: Option<&'a VaultAwsBackend>,
    /// Labels of the namespace.
    pub labels: &'a BTreeMap<String, String>,
}

/// A sync that may be carried out.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Desired {
    /// The AWS principal.
    pub iam_role: IamRole,
    /// The role at which to log in to Vault.
    pub vault_role: String,
    /// The ID that Vault gave that role, where a VaultAwsRole tells it: another one is another role.
    pub vault_role_id: Option<String>,
    /// The auth mount.
    pub auth_mount: String,
    /// Value of X-Vault-AWS-IAM-Server-ID.
    pub server_id: String,
    /// Region for which the login is signed.
    pub region: String,
    /// Where STS is asked and the host for which logins are signed, if not that of the region.
    pub sts_endpoint: Option<String>,
    /// How the AWS identity is got.
    pub identity: Identity,
    /// The KV v2 mount.
    pub kv_mount: String,
    /// Directory in it, without slashes at its ends.
    pub directory: String,
    /// Which entries.
    pub selection: Selection,
    /// What is different for single entries, by name.
    pub overrides: BTreeMap<String, Override>,
    /// What a certificate must be like.
    pub validation: Validation,
    /// What the Secrets are to be like.
    pub target: Target,
    /// Name of the sync.
    pub name: String,
    /// UID of the sync.
    pub uid: String,
}

/// What is different for one entry.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Override {
    /// The Secret.
    pub secret_name: Option<String>,
    /// The version, instead of the newest.
    pub version: Option<u64>,
    /// The fields to read.
    pub fields: Overrides,
}

/// What a certificate must be like, beyond what all must.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Validation {
    /// How long a new one must be valid.
    pub minimum_remaining: Duration,
    /// What it must cover.
    pub dns_names: Vec<String>,
    /// Whether the entry must hold the leaf's issuer, and nothing unrelated.
    pub require_chain: bool,
    /// Whether it may be a CA.
    pub allow_ca_leaf: bool,
}

/// What the Secrets are to be like.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Target {
    /// Template of their names.
    pub secret_name: String,
    /// Their type.
    pub kind: SecretType,
    /// Labels besides our own, all of them allowed.
    pub labels: BTreeMap<String, String>,
    /// Annotations besides our own, all of them allowed.
    pub annotations: BTreeMap<String, String>,
    /// Keys of their data.
    pub keys: TargetKeys,
    /// Whether they stay when the sync goes.
    pub retain: bool,
    /// Whether Secrets that consent are taken over.
    pub adopt: bool,
    /// Whether the Secret of a removed entry is deleted.
    pub delete_removed: bool,
    /// The keystore.
    pub pkcs12: Option<Pkcs12>,
}

/// A PKCS#12 keystore beside the PEM texts.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Pkcs12 {
    /// The Secret with the password.
    pub secret: String,
    /// The key in it.
    pub key: String,
    /// How it is encrypted.
    pub profile: KeystoreProfile,
    /// UID and version of that Secret, once it was seen.
    pub seen: Option<(String, String)>,
}

/// How the AWS identity is got.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Identity {
    /// The operator assumes the role.
    AssumeRole {
        /// `vaultaws-<namespace>-<name>`, at most 64 characters (IAM's limit).
        session_name: String,
        /// The client's trust policy names it.
        external_id: String,
    },
    /// A token of a ServiceAccount of the namespace, exchanged at STS.
    ServiceAccount {
        /// Name of the ServiceAccount.
        name: String,
        /// Audience of the token.
        audience: String,
        /// As for a role that the operator assumes.
        session_name: String,
    },
    /// Keys in a Secret of the namespace.
    Secret {
        /// Name of the Secret.
        name: String,
    },
    /// The operator's own.
    Ambient,
}

/// Which entries of the directory.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Selection {
    /// Names without a wildcard, read without listing.
    pub exact: Vec<String>,
    /// Patterns with `*`.
    pub globs: Vec<String>,
    /// What to leave out.
    pub exclude: Vec<String>,
    /// Whether directories below are listed too.
    pub recursive: bool,
    /// The most entries.
    pub limit: usize,
    /// Deleted on purpose.
    pub acknowledge: Vec<String>,
}

impl Selection {
    fn new(selection: &CertificateSelection) -> Self {
        let (globs, exact) = selection.include.iter().cloned().partition(|name| name.contains('*'));
        Self {
            exact,
            globs,
            exclude: selection.exclude.clone(),
            recursive: selection.recursive,
            limit: usize::try_from(selection.limit).unwrap_or(usize::MAX),
            acknowledge: selection.acknowledge.clone(),
        }
    }

    /// Whether this name of the directory is meant.
    pub fn takes(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        (any(&self.globs) || self.exact.iter().any(|exact| exact == name)) && !any(&self.exclude)
    }
}

/// Why there is nothing to carry out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// `roleRef` names nothing yet.
    #[error("there is no VaultAwsRole `{0}` in this namespace")]
    RoleNotFound(String),
    /// The role is not usable yet.
    #[error("VaultAwsRole `{name}` is not ready: {why}")]
    RoleNotReady {
        /// Its name.
        name: String,
        /// Its own reason.
        why: String,
    },
    /// The backend is not there yet.
    #[error("there is no VaultAwsBackend `{0}`")]
    BackendNotFound(String),
    /// The backend is not usable yet.
    #[error("VaultAwsBackend `{name}` is not ready: {why}")]
    BackendNotReady {
        /// Its name.
        name: String,
        /// Its own reason.
        why: String,
    },
    /// No rule grants it.
    #[error(transparent)]
    Tenancy(#[from] tenancy::Denied),
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] naming::Fault),
    /// The address of the backend has no host.
    #[error("the address of VaultAwsBackend `{0}` has no host")]
    Address(String),
    /// The principal is one that nobody can assume.
    #[error(
        "the role is for an IAM user, whom nobody can assume: identity {} cannot be, only Secret or \
         Ambient",
        .0.as_str()
    )]
    UserCannotBeAssumed(IdentityKind),
    /// The spec says so.
    #[error("suspended by spec.suspend: nothing is read, and the Secrets stay as they are")]
    Suspended,
    /// A label or annotation that others act on.
    #[error("target may not set `{key}`: keys with the prefix `{prefix}` are denied")]
    MetadataDenied {
        /// The label or annotation.
        key: String,
        /// What denies it.
        prefix: String,
    },
    /// A label or annotation that Kubernetes would not take.
    #[error("target cannot set `{key}`: {problem}")]
    Metadata {
        /// The label or annotation.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Fault for Refusal {
    fn reason(&self) -> &'static str {
        match self {
            Self::RoleNotFound(_) => SyncReason::RoleNotFound,
            Self::RoleNotReady { .. } => SyncReason::RoleNotReady,
            Self::BackendNotFound(_) => SyncReason::BackendNotFound,
            Self::BackendNotReady { .. } => SyncReason::BackendNotReady,
            Self::Tenancy(_) => SyncReason::TenancyDenied,
            Self::Name(_)
            | Self::Address(_)
            | Self::Metadata { .. }
            | Self::UserCannotBeAssumed(_) => SyncReason::InvalidSpec,
            Self::Suspended => SyncReason::Suspended,
            Self::MetadataDenied { .. } => SyncReason::MetadataDenied,
        }
        .as_str()
    }

    fn retry(&self) -> Retry {
        match self {
            // A change of the other object wakes us.
            Self::RoleNotFound(_)
            | Self::RoleNotReady { .. }
            | Self::BackendNotFound(_)
            | Self::BackendNotReady { .. }
            | Self::Tenancy(_) => Retry::Slowly,
            Self::Name(_)
            | Self::Address(_)
            | Self::UserCannotBeAssumed(_)
            | Self::Suspended
            | Self::MetadataDenied { .. }
            | Self::Metadata { .. } => Retry::WhenChanged,
        }
    }
}

/// The name of the role that a sync refers to; `None` if it names a principal.
pub fn role_name(sync: &VaultCertSync) -> Option<String> {
    sync.role_name()
}

/// The name of the backend that a sync uses, once its role is known.
pub fn backend_name(sync: &VaultCertSync, role: Option<&VaultAwsRole>) -> Option<String> {
    match &sync.spec.principal {
        Some(principal) => Some(principal.backend_ref.name.clone()),
        None => role.map(|role| role.spec.backend_ref.name.clone()),
    }
}

/// The kind of identity a sync asks for.
pub fn identity_kind(sync: &VaultCertSync) -> IdentityKind {
    let identity = &sync.spec.identity;
    if identity.service_account.is_some() {
        IdentityKind::ServiceAccount
    } else if identity.secret_ref.is_some() {
        IdentityKind::Secret
    } else if identity.ambient.is_some() {
        IdentityKind::Ambient
    } else {
        IdentityKind::AssumeRole
    }
}

/// SHA-256 of what is hashed: nobody is to find two wishes that look the same. Another version of the
/// standard library may hash a value in another way, which costs each certificate one more look.
struct Digested(Sha256);

impl Hasher for Digested {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl Desired {
    /// Puts the sync and what it refers to together.
    ///
    /// # Errors
    /// [`Refusal`] says what is missing, denied or impossible.
    pub fn resolve(sync: &VaultCertSync, references: &References<'_>) -> Result<Self, Refusal> {
        if sync.spec.suspend {
            return Err(Refusal::Suspended);
        }
        let namespace = sync.namespace().unwrap_or_default();
        let role = match role_name(sync) {
            Some(name) => Some(references.role.ok_or(Refusal::RoleNotFound(name))?),
            None => None,
        };
        let iam_role = match (&sync.spec.principal, role) {
            (Some(principal), _) => IamRole::parse(
                principal.partition,
                &principal.account_id,
                &principal.iam_role,
                &principal.iam_role_path,
            )?,
            (None, Some(role)) => IamRole::of(&role.spec)?,
            (None, None) => return Err(Refusal::RoleNotFound(sync.name_any())),
        };
        let identity_kind = identity_kind(sync);
        if iam_role.kind == IamKind::User
            && matches!(identity_kind, IdentityKind::AssumeRole | IdentityKind::ServiceAccount)
        {
            return Err(Refusal::UserCannotBeAssumed(identity_kind));
        }
        let backend_name = backend_name(sync, role).unwrap_or_default();
        let backend =
            references.backend.ok_or_else(|| Refusal::BackendNotFound(backend_name.clone()))?;
        tenancy::grant(
            &backend.spec.tenancy,
            &tenancy::Request {
                namespace: &namespace,
                labels: references.labels,
                account: &iam_role.account,
                iam: (iam_role.kind, &iam_role.name),
                identity: Some(identity_kind),
                beyond: tenancy::Beyond::default(),
            },
        )?;
        let cluster_id = usable_backend(backend)?;
        let vault_role = match role {
            Some(role) => usable_role(role)?,
            None => {
                let subject =
                    Subject { iam_role: &iam_role, namespace: &namespace, name: &sync.name_any() };
                RoleName::derive(&backend.spec.naming, subject)?.as_str().to_owned()
            }
        };
        let given = &sync.spec.identity;
        let identity = match (&given.service_account, &given.secret_ref, &given.ambient) {
            (Some(account), _, _) => Identity::ServiceAccount {
                name: account.name.clone(),
                audience: backend.spec.aws.web_identity_audience.clone(),
                session_name: session_name(&namespace, &sync.name_any()),
            },
            (None, Some(secret), _) => Identity::Secret { name: secret.name.clone() },
            (None, None, Some(_)) => Identity::Ambient,
            (None, None, None) => Identity::AssumeRole {
                session_name: session_name(&namespace, &sync.name_any()),
                external_id: external_id(&backend.spec, &cluster_id, &namespace),
            },
        };
        let status = role.and_then(|role| role.status.as_ref());
        Ok(Self {
            vault_role,
            vault_role_id: status.and_then(|status| status.role_id.clone()),
            auth_mount: backend.spec.auth.mount.clone(),
            server_id: server_id(&backend.spec).ok_or(Refusal::Address(backend_name))?,
            region: backend.spec.aws.region.clone(),
            sts_endpoint: backend.spec.aws.sts_endpoint.clone(),
            identity,
            kv_mount: backend.spec.certificates.mount.clone(),
            directory: iam_role.directory(&backend.spec.certificates),
            selection: Selection::new(&sync.spec.certificates),
            overrides: sync.spec.certificates.overrides.iter().map(Override::new).collect(),
            validation: Validation::new(&sync.spec.validation),
            target: Target::new(&sync.spec.target, &backend.spec.denied_metadata_prefixes)?,
            name: sync.name_any(),
            uid: sync.uid().unwrap_or_default(),
            iam_role,
        })
    }

    /// Path of an entry in the KV mount.
    pub fn entry_path(&self, entry: &str) -> String {
        format!("{}/{entry}", self.directory)
    }

    /// A hash of what is asked of an entry's certificate and its Secret: while it is the same, a
    /// version that was delivered need not be looked at again.
    pub fn shape(&self, entry: &str) -> String {
        let mut asked = Digested(Sha256::new());
        (&self.validation, &self.target, self.overrides.get(entry)).hash(&mut asked);
        format!("{:016x}", asked.finish())
    }

    /// The Secret for an entry, as Kubernetes can name it.
    ///
    /// # Errors
    /// [`NameRefusal`] where there is no such name.
    pub fn secret_for(&self, entry: &str) -> Result<String, NameRefusal> {
        if let Some(name) = self.overrides.get(entry).and_then(|one| one.secret_name.as_ref()) {
            return Ok(name.clone());
        }
        let filled = self
            .target
            .secret_name
            .replace("{name}", &self.name)
            .replace("{account}", &self.iam_role.account)
            .replace("{iamRole}", &self.iam_role.name)
            .replace("{certificate}", entry);
        let mut name = String::new();
        for character in filled.to_lowercase().chars() {
            let keep = character.is_ascii_lowercase()
                || character.is_ascii_digit()
                || matches!(character, '.' | '-');
            if keep {
                name.push(character);
            } else if !name.ends_with('-') {
                name.push('-');
            }
        }
        let name = name.trim_matches(['-', '.']);
        if name.len() > 253 {
            return Err(NameRefusal::TooLong);
        }
        // Each label between full stops must start and end with a letter or digit (RFC 1123).
        let label =
            |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
        if name.is_empty() || !name.split('.').all(label) {
            return Err(NameRefusal::NotAName);
        }
        Ok(name.to_owned())
    }
}

impl Override {
    fn new(one: &EntryOverride) -> (String, Self) {
        let fields = Overrides {
            certificate: one.fields.certificate.clone(),
            private_key: one.fields.private_key.clone(),
            chain: one.fields.chain.clone(),
            ca: one.fields.ca.clone(),
        };
        let secret_name = one.secret_name.clone();
        (one.name.clone(), Self { secret_name, version: one.version, fields })
    }
}

impl Validation {
    fn new(validation: &crd::Validation) -> Self {
        Self {
            minimum_remaining: validation.minimum_remaining.duration(),
            dns_names: validation.dns_names.clone(),
            require_chain: validation.require_chain,
            allow_ca_leaf: validation.allow_ca_leaf,
        }
    }
}

impl Target {
    fn new(target: &crd::Target, denied: &[String]) -> Result<Self, Refusal> {
        for key in target.labels.keys().chain(target.annotations.keys()) {
            check_key(key, denied)?;
        }
        if let Some((key, _)) = target.labels.iter().find(|(_, value)| !is_label_value(value)) {
            let problem = "its value is not one that a label can have";
            return Err(Refusal::Metadata { key: key.clone(), problem });
        }
        Ok(Self {
            secret_name: target.secret_name.clone(),
            kind: target.kind,
            labels: target.labels.clone(),
            annotations: target.annotations.clone(),
            keys: target.keys.clone().unwrap_or_default(),
            retain: target.deletion_policy == SecretDeletion::Retain,
            adopt: target.adopt,
            delete_removed: target.on_source_removed == SourceRemoval::Delete,
            pkcs12: target.pkcs12.as_ref().map(|keystore| Pkcs12 {
                secret: keystore.password_ref.name.clone(),
                key: keystore.password_ref.key.clone(),
                profile: keystore.profile,
                seen: None,
            }),
        })
    }
}

/// Whether a tenant may set this label or annotation, and Kubernetes would take it.
fn check_key(key: &str, denied: &[String]) -> Result<(), Refusal> {
    let refuse = |problem| Err(Refusal::Metadata { key: key.chars().take(253).collect(), problem });
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    let plain = |c: char| c.is_ascii_alphanumeric();
    let is_name = name.len() <= 63
        && name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|c| plain(c) || "-_.".contains(c));
    let part = |part: &str| {
        let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(small)
            && part.ends_with(small)
            && part.chars().all(|c| small(c) || c == '-')
    };
    let is_domain = domain.is_none_or(|domain| domain.len() <= 253 && domain.split('.').all(part));
    if !is_name || !is_domain {
        return refuse("it is not a key that a label or annotation can have");
    }
    let ours = ["kubernetes.io", "k8s.io", "vaultaws.dev"];
    // Whatever ends so: also subdomains.
    let ends_so = |reserved: &str| domain.is_some_and(|domain| domain.ends_with(reserved));
    if let Some(reserved) = ours.into_iter().find(|reserved| ends_so(reserved)) {
        let prefix = format!("{reserved}/");
        return Err(Refusal::MetadataDenied { key: key.to_owned(), prefix });
    }
    match denied.iter().find(|prefix| key.starts_with(prefix.as_str())) {
        Some(prefix) => {
            Err(Refusal::MetadataDenied { key: key.to_owned(), prefix: prefix.clone() })
        }
        None => Ok(()),
    }
}

fn is_label_value(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    value.is_empty()
        || value.len() <= 63
            && value.starts_with(plain)
            && value.ends_with(plain)
            && value.chars().all(|c| plain(c) || "-_.".contains(c))
}

/// Why there is no Secret of that name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameRefusal {
    /// Longer than Kubernetes allows.
    #[error("the Secret's name would be longer than 253 characters; shorten target.secretName")]
    TooLong,
    /// Not a DNS subdomain.
    #[error("the Secret's name would not be a DNS subdomain; change target.secretName")]
    NotAName,
}

/// Whether an entry's name, which may lead through directories, can be a path.
pub fn is_path(entry: &str) -> bool {
    entry.len() <= 512 && entry.split('/').all(is_plain)
}

/// Whether a name from LIST can be part of a path. Names in Vault are somebody else's text.
pub fn is_plain(entry: &str) -> bool {
    !entry.is_empty()
        && entry != "."
        && entry != ".."
        && entry.len() <= 512
        && !entry.chars().any(|c| c.is_control() || matches!(c, '%' | '?' | '#' | '/'))
}

/// The cluster id of a backend that has been looked at and may be used. A backend that is not ready
/// because Vault is down may be used: our own requests will say so.
fn usable_backend(backend: &VaultAwsBackend) -> Result<String, Refusal> {
    let refuse = |why: &str| Refusal::BackendNotReady { name: backend.name_any(), why: why.into() };
    let status = backend.status.as_ref().ok_or_else(|| refuse("it has not been looked at yet"))?;
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    if let Some(ready) = ready
        && ready.status == "False"
        && PERMANENT_BACKEND.contains(&ready.reason.as_str())
    {
        return Err(refuse(&ready.reason));
    }
    status.cluster_id.clone().ok_or_else(|| refuse("it has not been looked at yet"))
}

const PERMANENT_BACKEND: [&str; 6] = [
    "InvalidSpec",
    "NamingNotUnique",
    "NamespacesUnsupported",
    "MountNotFound",
    "MountConflict",
    "NotKvV2",
];

/// The Vault role of a VaultAwsRole that stands in Vault. That Vault cannot be reached now does not
/// matter here: it is a shared fault, and our own requests will say so.
fn usable_role(role: &VaultAwsRole) -> Result<String, Refusal> {
    let refuse = |why: &str| Refusal::RoleNotReady { name: role.name_any(), why: why.into() };
    if role.metadata.deletion_timestamp.is_some() {
        return Err(refuse("it is being deleted"));
    }
    let status = role.status.as_ref().ok_or_else(|| refuse("it has not been looked at yet"))?;
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    match ready {
        None => return Err(refuse("it has not been looked at yet")),
        Some(ready) if ready.status == "True" => {}
        Some(ready)
            if status.role_id.is_none()
                || PERMANENT_ROLE.contains(&ready.reason.as_str())
                || role.metadata.generation != Some(status.observed_generation) =>
        {
            return Err(refuse(&ready.reason));
        }
        Some(_) => {}
    }
    status.vault_role.clone().ok_or_else(|| refuse("it has no role in Vault yet"))
}

const PERMANENT_ROLE: [&str; 5] =
    ["Conflict", "TenancyDenied", "InvalidSpec", "ReservedName", "BackendNotFound"];

/// `*` stands for any run of characters, everywhere in the pattern.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{
        Naming, VaultAwsBackendSpec, VaultAwsBackendStatus, VaultAwsRoleStatus, VaultCertSyncSpec,
    };

    fn backend() -> VaultAwsBackend {
        let spec: VaultAwsBackendSpec = serde_json::from_value(serde_json::json!({
            "vault": {"address": "https://vault.example.com:8200"},
            "operatorLogin": {"serviceAccount": {"role": "operator"}},
            "tenancy": [{
                "name": "team-a", "namespaces": {"names": ["team-a"]},
                "accounts": ["111122223333"], "iamRoles": ["web"], "identities": ["AssumeRole"],
            }],
        }))
        .unwrap();
        let mut backend = VaultAwsBackend::new("default", spec);
        backend.status = Some(VaultAwsBackendStatus {
            cluster_id: Some("lab".into()),
            ..VaultAwsBackendStatus::default()
        });
        backend
    }

    fn role() -> VaultAwsRole {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "vaultaws.dev/v1alpha1", "kind": "VaultAwsRole",
            "metadata": {"name": "web", "namespace": "team-a", "generation": 1},
            "spec": {"accountId": "111122223333", "iamRole": "web"},
            "status": {
                "observedGeneration": 1, "vaultRole": "web", "roleId": "id",
                "conditions": [{"type": "Ready", "status": "True", "reason": "Ready",
                    "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .unwrap()
    }

    fn sync() -> VaultCertSync {
        let mut sync = VaultCertSync::new("web", VaultCertSyncSpec::default());
        sync.metadata.namespace = Some("team-a".into());
        sync
    }

    fn resolve(
        sync: &VaultCertSync,
        role: Option<&VaultAwsRole>,
        backend: Option<&VaultAwsBackend>,
    ) -> Result<Desired, Refusal> {
        Desired::resolve(sync, &References { role, backend, labels: &BTreeMap::new() })
    }

    fn desired() -> Desired {
        resolve(&sync(), Some(&role()), Some(&backend())).unwrap()
    }

    #[test]
    fn a_sync_without_a_spec_takes_the_role_of_its_name() {
        let desired = desired();
        assert_eq!(desired.vault_role, "web");
        assert_eq!(desired.directory, "certs/111122223333/web");
        assert_eq!(desired.server_id, "vault.example.com");
        assert_eq!(
            desired.identity,
            Identity::AssumeRole {
                session_name: "vaultaws-team-a-web".into(),
                external_id: "lab/team-a".into()
            }
        );
    }

    #[test]
    fn what_is_missing_is_waited_for_by_name() {
        let refusal = resolve(&sync(), None, Some(&backend())).unwrap_err();
        assert_eq!((refusal.reason(), refusal.retry()), ("RoleNotFound", Retry::Slowly));
        let refusal = resolve(&sync(), Some(&role()), None).unwrap_err();
        assert_eq!((refusal.reason(), refusal.retry()), ("BackendNotFound", Retry::Slowly));
        let mut unseen = backend();
        unseen.status = None;
        let refusal = resolve(&sync(), Some(&role()), Some(&unseen)).unwrap_err();
        assert_eq!(refusal.reason(), "BackendNotReady");
    }

    #[test]
    fn tenancy_is_checked_for_the_sync_itself() {
        let mut by_secret = sync();
        by_secret.spec.identity.secret_ref = Some(crate::crd::LocalRef { name: "keys".into() });
        let refusal = resolve(&by_secret, Some(&role()), Some(&backend())).unwrap_err();
        assert_eq!(refusal.reason(), "TenancyDenied");
        assert_eq!(refusal.to_string(), "tenancy rule `team-a` does not grant identity Secret");
    }

    #[test]
    fn the_operators_own_identity_is_granted_only_where_a_rule_lists_it() {
        let mut sync = sync();
        sync.spec.identity.ambient = Some(crate::crd::AmbientIdentity {});
        let mut backend = backend();
        let rule = &mut backend.spec.tenancy[0];
        rule.identities = serde_json::from_value::<crate::crd::TenancyRule>(serde_json::json!({
            "name": "default", "namespaces": {"names": ["team-a"]}, "accounts": ["111122223333"],
        }))
        .unwrap()
        .identities;
        let refusal = resolve(&sync, Some(&role()), Some(&backend)).unwrap_err();
        assert_eq!(refusal.to_string(), "tenancy rule `team-a` does not grant identity Ambient");
        backend.spec.tenancy[0].identities.push(IdentityKind::Ambient);
        let desired = resolve(&sync, Some(&role()), Some(&backend)).unwrap();
        assert_eq!(desired.identity, Identity::Ambient);
    }

    #[test]
    fn a_service_account_is_asked_for_the_audience_of_the_backend() {
        let mut sync = sync();
        sync.spec.identity.service_account = Some(crate::crd::LocalRef { name: "certs".into() });
        let mut backend = backend();
        backend.spec.tenancy[0].identities.push(IdentityKind::ServiceAccount);
        backend.spec.aws.web_identity_audience = "sts.example".into();
        let expected = Identity::ServiceAccount {
            name: "certs".into(),
            audience: "sts.example".into(),
            session_name: "vaultaws-team-a-web".into(),
        };
        assert_eq!(resolve(&sync, Some(&role()), Some(&backend)).unwrap().identity, expected);
    }

    #[test]
    fn a_role_that_waits_for_vault_is_usable_but_one_in_conflict_is_not() {
        let with = |reason: &str| {
            let mut role = role();
            let ready = &mut role.status.as_mut().unwrap().conditions[0];
            ready.status = "False".into();
            ready.reason = reason.into();
            role
        };
        assert!(resolve(&sync(), Some(&with("VaultUnreachable")), Some(&backend())).is_ok());
        assert!(resolve(&sync(), Some(&with("Conflict")), Some(&backend())).is_err());
        let mut never = with("VaultUnreachable");
        never.status = Some(VaultAwsRoleStatus { role_id: None, ..never.status.unwrap() });
        assert!(resolve(&sync(), Some(&never), Some(&backend())).is_err());
    }

    #[test]
    fn globs_and_names_select_and_exclude_wins() {
        let selection = Selection::new(&CertificateSelection {
            include: vec!["api-*".into(), "web".into(), "*.pem".into()],
            exclude: vec!["*-old".into()],
            ..CertificateSelection::default()
        });
        for (name, taken) in
            [("api-1", true), ("web", true), ("web2", false), ("x.pem", true), ("api-old", false)]
        {
            assert_eq!(selection.takes(name), taken, "{name}");
        }
        assert!(matches("*", "") && matches("a*b*c", "abc") && !matches("a*bc", "abd"));
        assert!(!matches("ab*b", "ab"));
    }

    #[test]
    fn secrets_are_named_as_kubernetes_can_name_them() {
        let desired = desired();
        assert_eq!(desired.secret_for("TLS_Cert").unwrap(), "web-tls-cert");
        assert_eq!(desired.secret_for("a  b__").unwrap(), "web-a-b");
        assert_eq!(desired.secret_for("é"), Ok("web".into()));
        let long = "x".repeat(253);
        assert_eq!(desired.secret_for(&long), Err(NameRefusal::TooLong));
        let mut only = desired;
        only.target.secret_name = "{certificate}".into();
        assert_eq!(only.secret_for("__"), Err(NameRefusal::NotAName));
        assert_eq!(only.secret_for("a.-b"), Err(NameRefusal::NotAName));
    }

    #[test]
    fn hostile_names_are_not_plain() {
        for name in ["", ".", "..", "a/b", "a%2e", "a?b", "a#b", "a\u{7}b", "a\nb"] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(is_plain("web server é"));
    }

    #[test]
    fn the_target_and_naming_have_defaults() {
        assert_eq!(crd::Target::default().secret_name, "{name}-{certificate}");
        assert_eq!(Naming::default().role, "{iamRole}");
    }

    #[test]
    fn a_path_names_a_secret_with_dashes_and_an_override_names_it_as_it_likes() {
        let mut desired = desired();
        assert_eq!(desired.secret_for("a/b").unwrap(), "web-a-b");
        let named = Override { secret_name: Some("mine".into()), ..Override::default() };
        desired.overrides.insert("a/b".into(), named);
        assert_eq!(desired.secret_for("a/b").unwrap(), "mine");
        assert!(is_path("a/b") && !is_path("a//b") && !is_path("../b") && !is_path("a/"));
    }

    #[test]
    fn a_suspended_sync_is_stalled_before_anything_is_looked_up() {
        let mut sync = sync();
        sync.spec.suspend = true;
        let refusal = resolve(&sync, None, None).unwrap_err();
        assert_eq!((refusal.reason(), refusal.retry()), ("Suspended", Retry::WhenChanged));
    }

    #[test]
    fn keys_that_others_act_on_are_denied_wherever_they_stand() {
        let reason = |key: &str, in_labels: bool| {
            let mut sync = sync();
            let target = &mut sync.spec.target;
            let map = if in_labels { &mut target.labels } else { &mut target.annotations };
            map.insert(key.to_owned(), "x".to_owned());
            resolve(&sync, Some(&role()), Some(&backend())).err().map(|refusal| refusal.reason())
        };
        for key in [
            "app.kubernetes.io/instance",
            "kubernetes.io/x",
            "x.k8s.io/y",
            "vaultaws.dev/sync",
            "argocd.argoproj.io/tracking-id",
            "reflector.v1.k8s.emberstack.com/reflection-allowed",
            "replicator.v1.mittwald.de/replicate-to",
        ] {
            assert_eq!(reason(key, true), Some("MetadataDenied"), "{key}");
            assert_eq!(reason(key, false), Some("MetadataDenied"), "{key}");
        }
        for key in ["team", "example.com/team", "a.b-c/D_e.f"] {
            assert_eq!(reason(key, true), None, "{key}");
        }
        for key in ["", "/x", "x/", "A.com/x", "a b", "a/b/c", "-x"] {
            assert_eq!(reason(key, true), Some("InvalidSpec"), "{key}");
        }
    }

    #[test]
    fn a_label_has_a_value_that_kubernetes_takes() {
        let mut sync = sync();
        sync.spec.target.labels.insert("team".into(), "not a value".into());
        let refusal = resolve(&sync, Some(&role()), Some(&backend())).unwrap_err();
        assert_eq!(refusal.reason(), "InvalidSpec");
    }

    #[test]
    fn the_shape_changes_with_what_is_asked_of_an_entry() {
        let mut desired = desired();
        let before = (desired.shape("a"), desired.shape("b"));
        let pinned = Override { version: Some(2), ..Override::default() };
        desired.overrides.insert("a".into(), pinned);
        assert_ne!(desired.shape("a"), before.0);
        assert_eq!(desired.shape("b"), before.1);
    }
}
