//! The API group `vaultaws.dev`: the public contract, documented for `kubectl explain`.
//!
//! The schema refuses what a schema and CEL can refuse: shapes, bounds, unions, immutability. What
//! needs the cluster or Vault to judge is judged by the kind's `desired.rs` and said in a condition.
//! Every list, map and string is bounded, because the API server prices each CEL rule by the largest
//! value that it could meet and refuses a CRD that costs too much.
//!
//! These types name nothing else of this crate.

#![expect(
    unreachable_pub,
    reason = "the schema derive declares a copy of each struct in a function"
)]

use std::{fmt, time::Duration};

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::CustomResourceExt;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

mod auth_mount;
mod in_effect;
mod role_settings;
mod vault_aws_backend;
mod vault_aws_role;
mod vault_cert_sync;

pub use auth_mount::*;
pub use in_effect::*;
pub use role_settings::*;
pub use vault_aws_backend::*;
pub use vault_aws_role::*;
pub use vault_cert_sync::*;

/// The API group.
pub const GROUP: &str = "vaultaws.dev";
/// The API version.
pub const VERSION: &str = "v1alpha1";
/// Who writes: the field manager, the reporting controller of events, and the value of
/// `app.kubernetes.io/managed-by`. Constant, since a manager of another name adds an entry to every
/// object.
pub const MANAGER: &str = "vault-aws-operator";
/// Any new value asks for a look at the source at once.
pub const REFRESH_ANNOTATION: &str = "vaultaws.dev/refresh";
/// Any new value asks for the IAM principals of a role to be looked up again, once.
pub const REBIND_ANNOTATION: &str = "vaultaws.dev/rebind";

/// The CRDs in the order in which they are printed.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![VaultAwsBackend::crd(), VaultAwsRole::crd(), VaultCertSync::crd()];
    for crd in &mut crds {
        for version in &mut crd.spec.versions {
            let Some(properties) = version
                .schema
                .as_mut()
                .and_then(|schema| schema.open_api_v3_schema.as_mut())
                .and_then(|schema| schema.properties.as_mut())
            else {
                continue;
            };
            // kstatus tells "never looked at" from "current" by this default.
            if let Some(status) = properties.get_mut("status") {
                status.default = Some(JSON(json!({"observedGeneration": -1})));
            }
            // A sync with the name of its role needs no spec at all.
            if crd.spec.names.kind == "VaultCertSync"
                && let Some(spec) = properties.get_mut("spec")
            {
                spec.default = Some(JSON(json!({})));
            }
        }
        crd.metadata
            .labels
            .get_or_insert_default()
            .insert("app.kubernetes.io/name".into(), MANAGER.into());
    }
    crds
}

/// The CRDs as one YAML stream.
///
/// # Errors
/// Only if a type cannot be serialised, which a test rules out.
pub fn yaml() -> Result<String, serde_saphyr::ser::Error> {
    let mut text = String::new();
    for crd in all() {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&crd)?);
    }
    Ok(text)
}

/// A duration as Kubernetes and Go write it: hours, minutes, seconds, such as `1h`, `15m`, `90s` or
/// `1h30m`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(Duration);

impl Span {
    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// As the standard library has it.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = || format!("`{text}` is not a duration such as `1h`, `15m` or `90s`");
        let (mut total, mut digits) = (0_u64, String::new());
        for character in text.chars() {
            let unit = match character {
                '0'..='9' => {
                    digits.push(character);
                    continue;
                }
                'h' => 3600,
                'm' => 60,
                's' => 1,
                _ => return Err(refuse()),
            };
            let count: u64 = digits.parse().map_err(|_| refuse())?;
            digits.clear();
            total = count
                .checked_mul(unit)
                .and_then(|part| total.checked_add(part))
                .ok_or_else(refuse)?;
        }
        if text.is_empty() || !digits.is_empty() {
            return Err(refuse());
        }
        Ok(Self::seconds(total))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_secs();
        let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if seconds > 0 || total == 0 {
            write!(f, "{seconds}s")?;
        }
        Ok(())
    }
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 16,
            "pattern": "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$",
            "minLength": 2
        })
    }
}

/// A `VaultAwsBackend` by name.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct BackendRef {
    /// Name of the VaultAwsBackend.
    #[serde(default = "default_name")]
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

impl Default for BackendRef {
    fn default() -> Self {
        Self { name: default_name() }
    }
}

fn default_name() -> String {
    "default".into()
}

/// An object by name, in the namespace that the field's description names.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct LocalRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// One key of a Secret, in the namespace that the field's description names.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct KeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// What kind of IAM principal a name is of.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum IamKind {
    /// An IAM role.
    #[default]
    Role,
    /// An IAM user.
    User,
}

impl IamKind {
    /// The word in ARNs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::User => "user",
        }
    }
}

/// A path of Vault, and what may be done there.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct PathRule {
    /// The path as in a policy: without a slash at its beginning; a + is one whole segment, a * at the
    /// end is any rest. No templates.
    #[schemars(
        length(min = 1, max = 256),
        pattern(r"^[A-Za-z0-9_.@:=+-][A-Za-z0-9_.@:=+/-]*\*?$")
    )]
    pub path: String,
    /// What may be done there. sudo is never granted.
    #[schemars(length(min = 1, max = 6))]
    pub capabilities: Vec<Capability>,
}

/// A capability of a policy's rule.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Write what is not there.
    Create,
    /// Read.
    Read,
    /// Write what is there.
    Update,
    /// Change parts of what is there.
    Patch,
    /// Delete.
    Delete,
    /// List.
    List,
}

impl Capability {
    /// Vault's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

/// Which AWS partition an account is in.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum Partition {
    /// The commercial regions.
    #[default]
    #[serde(rename = "aws")]
    Aws,
    /// GovCloud (US).
    #[serde(rename = "aws-us-gov")]
    AwsUsGov,
    /// China.
    #[serde(rename = "aws-cn")]
    AwsCn,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aws => "aws",
            Self::AwsUsGov => "aws-us-gov",
            Self::AwsCn => "aws-cn",
        })
    }
}

/// Conditions as a list-map by type, so that appliers merge them by type.
fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = <Vec<Condition>>::json_schema(generator);
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), json!(["type"]));
    schema.insert("maxItems".into(), 16.into());
    schema
}

/// What `observedGeneration` is before the first look.
fn never_observed() -> i64 {
    -1
}

/// Declares the reasons of a kind: a documented enum whose names are the words in the conditions.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word that stands in the condition.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }

            /// That word as this crate has it; `None` if no reason of this kind is called so.
            pub fn word(text: &str) -> Option<&'static str> {
                Self::ALL.iter().map(|reason| reason.as_str()).find(|word| *word == text)
            }
        }
    };
}
use reasons;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_and_writes_as_go_does() {
        for (text, seconds, printed) in
            [("1h", 3600, "1h"), ("90s", 90, "1m30s"), ("1h30m", 5400, "1h30m"), ("0s", 0, "0s")]
        {
            let span = Span::try_from(text.to_owned()).unwrap();
            assert_eq!(span, Span::seconds(seconds));
            assert_eq!(span.to_string(), printed);
        }
        for text in ["", "1", "h", "1d", "-1s", "1h ", "99999999999999999999s"] {
            assert!(Span::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_crds_can_be_printed() {
        assert_eq!(yaml().unwrap().matches("kind: CustomResourceDefinition").count(), 3);
    }
}
