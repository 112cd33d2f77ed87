//! What to write, keep or refuse. Pure: desired × observed × previous × now → a plan that prints
//! itself.
//!
//! The rule above all others: a good Secret is never replaced by a bad one. Whatever is wrong with an
//! entry has its own reason, touches only its own Secret, and leaves that Secret's bytes as they are.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;

use super::{
    desired::{Desired, NameRefusal},
    pair::{Pair, Refusal},
};
use crate::{
    crd::{CertificateState, CertificateStatus, SyncReason, VaultCertSyncStatus},
    fault::Fault,
};

/// The most bytes of data that a Secret may hold (the API's limit).
const SECRET_LIMIT: usize = 1024 * 1024;
/// The most bytes of a message in status.
const MESSAGE_LIMIT: usize = 256;
/// The most names of a certificate that status repeats.
const NAMES_SHOWN: usize = 5;

/// What was seen of each entry, sorted by name.
#[derive(Debug, Default)]
pub struct Observed {
    /// The entries that are meant, and those that were delivered before.
    pub entries: Vec<Entry>,
    /// Whether own clock and Vault's differ so much that nothing can be said about time.
    pub clock_skewed: bool,
}

/// One entry and the Secret it goes to.
#[derive(Debug)]
pub struct Entry {
    /// Name in Vault.
    pub name: String,
    /// Name of its Secret.
    pub secret: Result<String, SyncReason>,
    /// How it stands in Vault.
    pub source: Source,
    /// How its Secret stands.
    pub held: Held,
}

/// How an entry stands in Vault.
#[derive(Debug)]
pub enum Source {
    /// A name that can be no path.
    HostileName,
    /// There is no such entry.
    Absent,
    /// Its current version is deleted.
    Deleted {
        /// When, as Vault says it.
        time: String,
    },
    /// Its current version is destroyed.
    Destroyed,
    /// We may not read it.
    Forbidden,
    /// The version that the Secret holds; its data was not read.
    Unchanged,
    /// It was read.
    Read {
        /// Its version.
        version: u64,
        /// When that was written, as Vault says it.
        created_time: String,
        /// The pair in it, or why there is none.
        pair: Box<Result<Pair, Refusal>>,
    },
    /// Nothing could be read, and it was not looked at: its Secret is refused anyway.
    NotRead,
}

/// How a Secret stands.
#[derive(Debug)]
pub enum Held {
    /// There is none.
    Absent,
    /// Ours, as we wrote it; its content was not read.
    Intact {
        /// Its UID.
        uid: String,
        /// The version that we wrote.
        resource_version: String,
    },
    /// Ours, but not the version we wrote; its content was read.
    Touched {
        /// Its UID.
        uid: String,
        /// The version that was read.
        resource_version: String,
        /// What it holds.
        payload: Payload,
        /// Whether it can be changed.
        immutable: bool,
    },
    /// Somebody else's.
    Foreign,
}

/// What a Secret of ours holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Payload {
    /// `kubernetes.io/tls`.
    pub kind: String,
    /// Our labels.
    pub labels: BTreeMap<String, String>,
    /// Its data.
    pub data: BTreeMap<String, crate::redacted::Redacted<Vec<u8>>>,
}

impl Payload {
    /// `tls.crt`, `tls.key` and, where there is one, `ca.crt`.
    pub fn of(pair: &Pair, sync: &str) -> Self {
        let redacted = |text: &str| crate::redacted::Redacted::new(text.as_bytes().to_vec());
        let mut data = BTreeMap::from([
            ("tls.crt".to_owned(), redacted(&pair.certificate_pem)),
            ("tls.key".to_owned(), redacted(pair.key_pem.expose())),
        ]);
        if let Some(ca) = &pair.ca_pem {
            data.insert("ca.crt".to_owned(), redacted(ca));
        }
        Self { kind: "kubernetes.io/tls".into(), labels: labels(sync), data }
    }

    fn size(&self) -> usize {
        self.data.values().map(|value| value.expose().len()).sum()
    }
}

/// The labels of every Secret of ours.
pub fn labels(sync: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/managed-by".to_owned(), crate::crd::MANAGER.to_owned()),
        ("vaultaws.dev/sync".to_owned(), sync.to_owned()),
    ])
}

/// What is to be done, entry by entry.
#[derive(Debug, Default)]
pub struct Plan {
    /// Sorted by the entry's name.
    pub steps: Vec<Step>,
}

/// What is to be done about one entry.
#[derive(Debug)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// What status says of it once that is done.
    pub status: CertificateStatus,
}

/// What to do about one Secret.
#[derive(Debug)]
pub enum Action {
    /// Nothing.
    Leave,
    /// Create it; if there is one by then, it is somebody else's.
    Create(Payload),
    /// Put our content into ours.
    Update {
        /// Only the Secret with this UID.
        uid: String,
        /// Only this version of it.
        resource_version: String,
        /// What it shall hold.
        payload: Payload,
        /// Keys that are not ours and go.
        surplus: Vec<String>,
    },
}

impl Plan {
    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.action, Action::Leave))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { action, status } in &self.steps {
            let secret = status.secret_name.as_deref().unwrap_or("-");
            let version = status.version.unwrap_or_default();
            match action {
                Action::Leave => {
                    let reason = status.reason.as_deref().unwrap_or("unchanged");
                    writeln!(f, "leave secret {secret} ({} {reason})", status.name)?;
                }
                Action::Create(_) => {
                    writeln!(f, "create secret {secret} ({} version {version})", status.name)?;
                }
                Action::Update { .. } => {
                    writeln!(f, "update secret {secret} ({} version {version})", status.name)?;
                }
            }
        }
        Ok(())
    }
}

/// The names of the Secrets, with both of two entries that want the same one refused.
pub fn secret_names(
    desired: &Desired,
    entries: impl IntoIterator<Item = String>,
) -> BTreeMap<String, Result<String, SyncReason>> {
    let names: BTreeMap<String, Result<String, SyncReason>> = entries
        .into_iter()
        .map(|entry| {
            let secret = match desired.secret_for(&entry) {
                Ok(name) => Ok(name),
                Err(NameRefusal::TooLong) => Err(SyncReason::NameTooLong),
                Err(NameRefusal::NotAName) => Err(SyncReason::InvalidName),
            };
            (entry, secret)
        })
        .collect();
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    for name in names.values().flatten() {
        *wanted.entry(name.clone()).or_default() += 1;
    }
    names
        .into_iter()
        .map(|(entry, secret)| {
            let secret = secret.and_then(|name| {
                if wanted.get(&name).copied() > Some(1) {
                    Err(SyncReason::NameCollision)
                } else {
                    Ok(name)
                }
            });
            (entry, secret)
        })
        .collect()
}

/// Whether the Secret holds this version already, so that no private key need travel.
pub fn is_current(
    previous: Option<&CertificateStatus>,
    version: u64,
    created_time: &str,
    held: &Held,
) -> bool {
    matches!(held, Held::Intact { .. })
        && previous.is_some_and(|previous| previous.state == CertificateState::Synced)
        && is_version(previous, version, created_time)
}

/// Both count: a deleted and re-created entry starts again at version 1.
fn is_version(previous: Option<&CertificateStatus>, version: u64, created_time: &str) -> bool {
    previous.is_some_and(|previous| {
        previous.version == Some(version) && previous.created_time.as_deref() == Some(created_time)
    })
}

/// What to do, from what is desired and what was seen.
pub fn plan(
    desired: &Desired,
    observed: Observed,
    previous: &VaultCertSyncStatus,
    now: Timestamp,
) -> Plan {
    let steps = observed
        .entries
        .into_iter()
        .filter_map(|entry| {
            let before = previous.certificates.iter().find(|status| status.name == entry.name);
            step(desired, entry, before, observed.clock_skewed, now)
        })
        .collect();
    Plan { steps }
}

fn step(
    desired: &Desired,
    entry: Entry,
    before: Option<&CertificateStatus>,
    clock_skewed: bool,
    now: Timestamp,
) -> Option<Step> {
    let Entry { name, secret, source, held } = entry;
    let refuse = |reason: SyncReason, message: String| {
        Some(Step {
            action: Action::Leave,
            status: refused(&name, secret.as_ref().ok(), before, &held, reason, &message, now),
        })
    };
    let secret_name = match &secret {
        Ok(secret_name) => secret_name.clone(),
        Err(reason) => return refuse(*reason, name_message(*reason).to_owned()),
    };
    match source {
        Source::HostileName => {
            refuse(SyncReason::InvalidName, "the entry's name cannot be part of a path".into())
        }
        // Gone in Vault, and nothing of ours is left here: nothing to tell any more, unless it is asked
        // for by its name.
        Source::Absent
            if matches!(held, Held::Absent | Held::Foreign)
                && !desired.selection.exact.contains(&name) =>
        {
            None
        }
        Source::Absent => {
            refuse(SyncReason::SourceAbsent, "there is no such entry in Vault".into())
        }
        Source::Deleted { time } => refuse(
            SyncReason::SourceDeleted,
            format!(
                "the entry's current version was deleted at {time}; undelete it or write a new one"
            ),
        ),
        Source::Destroyed => refuse(
            SyncReason::SourceDestroyed,
            "the entry's current version was destroyed; write a new one".into(),
        ),
        Source::Forbidden => refuse(
            SyncReason::SourceForbidden,
            "Vault denies reading this entry; look at the role's policy".into(),
        ),
        Source::NotRead => refuse(SyncReason::VaultError, "the entry was not read".into()),
        Source::Unchanged => {
            let status = before.cloned()?;
            Some(Step { action: Action::Leave, status })
        }
        Source::Read { version, created_time, pair } => {
            let pair = match *pair {
                Ok(pair) => pair,
                Err(refusal) => return refuse(reason_of(&refusal), refusal.to_string()),
            };
            if matches!(held, Held::Foreign) {
                return refuse(
                    SyncReason::SecretNotOurs,
                    format!(
                        "Secret `{secret_name}` is not controlled by this VaultCertSync; delete or rename it"
                    ),
                );
            }
            let payload = Payload::of(&pair, &desired.name);
            if payload.size() > SECRET_LIMIT {
                return refuse(
                    SyncReason::TooLarge,
                    "the Secret would be larger than 1 MiB".into(),
                );
            }
            let new_bytes = before.and_then(|before| before.sha256.as_ref()) != Some(&pair.sha256);
            if clock_skewed && new_bytes {
                return refuse(
                    SyncReason::ClockSkew,
                    "own clock and Vault's differ by more than five minutes: whether it is valid now \
                     cannot be told"
                        .into(),
                );
            }
            let mut status = synced(&name, &secret_name, version, &created_time, &pair);
            let action = match held {
                Held::Absent => Action::Create(payload),
                // The version that it was made from: kept for a while, and now good again.
                Held::Intact { resource_version, .. }
                    if is_version(before, version, &created_time) =>
                {
                    status.secret_resource_version = Some(resource_version);
                    Action::Leave
                }
                Held::Intact { uid, resource_version } => Action::Update {
                    uid,
                    resource_version,
                    payload,
                    surplus: vec!["ca.crt".into()],
                },
                Held::Touched { uid, resource_version, payload: stands, immutable } => {
                    if stands == payload {
                        status.secret_resource_version = Some(resource_version);
                        Action::Leave
                    } else if immutable {
                        let held =
                            Held::Touched { uid, resource_version, payload: stands, immutable };
                        return Some(Step {
                            action: Action::Leave,
                            status: refused(
                                &name,
                                Some(&secret_name),
                                before,
                                &held,
                                SyncReason::SecretImmutable,
                                "the Secret is immutable; delete it to have it written again",
                                now,
                            ),
                        });
                    } else {
                        let surplus = stands.data.into_keys().collect();
                        Action::Update { uid, resource_version, payload, surplus }
                    }
                }
                Held::Foreign => Action::Leave,
            };
            Some(Step { action, status })
        }
    }
}

/// What status says of an entry that cannot be delivered: facts of the held pair stay.
pub fn refused(
    name: &str,
    secret_name: Option<&String>,
    before: Option<&CertificateStatus>,
    held: &Held,
    reason: SyncReason,
    message: &str,
    now: Timestamp,
) -> CertificateStatus {
    let ours = matches!(held, Held::Intact { .. } | Held::Touched { .. });
    let state = if ours { CertificateState::Kept } else { CertificateState::Refused };
    let reason = Some(reason.as_str().to_owned());
    // Since when it is so: as long as state and reason stay, the time stays.
    let since = before
        .filter(|before| before.state == state && before.reason == reason)
        .and_then(|before| before.since.clone())
        .unwrap_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let facts = before.filter(|_| ours).cloned().unwrap_or_else(|| empty(name));
    CertificateStatus {
        secret_name: secret_name.cloned(),
        state,
        reason,
        message: Some(cut(message)),
        since: Some(since),
        ..facts
    }
}

fn synced(
    name: &str,
    secret_name: &str,
    version: u64,
    created_time: &str,
    pair: &Pair,
) -> CertificateStatus {
    CertificateStatus {
        secret_name: Some(secret_name.to_owned()),
        version: Some(version),
        created_time: Some(created_time.to_owned()),
        serial: Some(pair.serial.clone()),
        sha256: Some(pair.sha256.clone()),
        issuer: Some(cut(&pair.issuer)),
        dns_names: pair.dns_names.iter().take(NAMES_SHOWN).map(|name| cut(name)).collect(),
        dns_names_total: u32::try_from(pair.dns_names.len()).ok(),
        not_before: Some(pair.not_before.to_string()),
        not_after: Some(pair.chain_not_after.to_string()),
        message: (!pair.notes.is_empty()).then(|| cut(&pair.notes.join("; "))),
        ..empty(name)
    }
}

fn empty(name: &str) -> CertificateStatus {
    CertificateStatus {
        name: name.to_owned(),
        secret_name: None,
        state: CertificateState::Synced,
        reason: None,
        message: None,
        version: None,
        created_time: None,
        secret_resource_version: None,
        serial: None,
        sha256: None,
        issuer: None,
        dns_names: Vec::new(),
        dns_names_total: None,
        not_before: None,
        not_after: None,
        since: None,
    }
}

fn name_message(reason: SyncReason) -> &'static str {
    match reason {
        SyncReason::NameCollision => {
            "another entry would go to the same Secret: neither is delivered; change \
             target.secretName or exclude one"
        }
        SyncReason::NameTooLong => {
            "the Secret's name would be longer than 253 characters; shorten target.secretName"
        }
        _ => "the entry's name gives no name of a Secret; change target.secretName or exclude it",
    }
}

fn reason_of(refusal: &Refusal) -> SyncReason {
    let word = refusal.reason();
    SyncReason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str() == word)
        .unwrap_or(SyncReason::Malformed)
}

/// At most 256 bytes, cut between characters.
fn cut(text: &str) -> String {
    let end = (0..=MESSAGE_LIMIT.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests;
