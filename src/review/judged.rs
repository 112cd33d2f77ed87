//! What is told of manifests: how each resource comes out, and what becomes of it in Vault.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::manifest::Problem;

/// How a resource comes out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing speaks against it, as far as can be told without Vault.
    Valid,
    /// Vault has it so.
    Unchanged,
    /// Something is written that was not there.
    Created,
    /// Something that is there is changed.
    Changed,
    /// The API server or the operator would refuse it.
    Refused,
    /// It could not be told: Vault did not answer what was asked.
    Failed,
}

/// A resource, judged.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// Its kind.
    pub kind: &'static str,
    /// Empty for a backend.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// File, document and item.
    pub place: String,
    /// How it comes out.
    pub verdict: Verdict,
    /// Why it is refused or could not be told: the word of the condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same as a sentence, or what else is to be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether a tenancy rule grants it; absent where nobody said what is granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenancy: Option<bool>,
    /// The role in Vault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleChange>,
    /// Its policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyChange>,
    /// Whether a login reaches anything of its neighbours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// What a VaultCertSync delivers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}

/// What changes of a role.
#[derive(Clone, Debug, Serialize)]
pub struct RoleChange {
    /// `auth/aws/role/web`.
    pub path: String,
    /// `none` (nothing there), `ours`, `foreign`; `unknown` offline.
    pub ownership: &'static str,
    /// The fields that are written.
    pub fields: Vec<FieldChange>,
    /// The fields that differ and that Vault never changes in an existing role.
    pub stuck: Vec<String>,
}

/// A field of a role.
#[derive(Clone, Debug, Serialize)]
pub struct FieldChange {
    /// Vault's name for it.
    pub field: String,
    /// What Vault has; `null` if there is no role, or offline.
    pub old: Value,
    /// What it shall have.
    pub new: Value,
}

/// What changes of a policy.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyChange {
    /// Its name.
    pub name: String,
    /// A unified diff; empty if nothing changes.
    pub diff: String,
}

/// Whether a login reaches anything of its neighbours.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Isolation {
    /// `null`: nobody knows.
    pub isolated: Option<bool>,
    /// The word of the condition.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// Other mounts that are reached.
    pub also_reaches: Vec<String>,
}

/// What a VaultCertSync delivers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Where the certificates lie: `secret/certs/123456789012/web`.
    pub directory: String,
    /// The Secrets, by the entry from which they are made.
    pub secrets: Vec<PlannedSecret>,
    /// Patterns that were not looked up.
    pub patterns: Vec<String>,
}

/// One Secret.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedSecret {
    /// The entry in Vault.
    pub entry: String,
    /// The Secret; `None` if there is none for it.
    pub secret: Option<String>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// All that is to be told.
#[derive(Debug)]
pub struct Review {
    /// Whether Vault was asked.
    pub online: bool,
    /// How many files were read.
    pub files: usize,
    /// How many objects of other kinds there are.
    pub skipped: BTreeMap<String, usize>,
    /// Manifests that the API server would not take.
    pub problems: Vec<Problem>,
    /// The others, in the order in which they were read.
    pub resources: Vec<Judged>,
    /// What nobody looked at.
    pub not_checked: Vec<String>,
}

impl Review {
    /// How many came out so.
    pub fn count(&self, verdicts: &[Verdict]) -> usize {
        self.resources.iter().filter(|one| verdicts.contains(&one.verdict)).count()
    }

    /// How many speak against it.
    pub fn refusals(&self) -> usize {
        self.problems.len() + self.count(&[Verdict::Refused, Verdict::Failed])
    }

    /// 1 if anything speaks against it, 2 if Vault would be changed, else 0.
    pub fn exit_code(&self) -> u8 {
        if self.refusals() > 0 {
            1
        } else if self.count(&[Verdict::Created, Verdict::Changed]) > 0 {
            2
        } else {
            0
        }
    }
}
