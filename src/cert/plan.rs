//! What to write, keep or refuse. Pure: desired × observed × previous × now → a plan that prints
//! itself.
//!
//! The rule above all others: a good Secret is never replaced by a bad one. Whatever is wrong with an
//! entry has its own reason, touches only its own Secret, and leaves that Secret's bytes as they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{
    desired::{Desired, NameRefusal},
    pair::{Pair, Refusal},
    payload::{Payload, SECRET_LIMIT},
    validation,
};
use crate::{
    crd::{CertificateState, CertificateStatus, SyncReason, VaultCertSyncStatus},
    fault::Fault,
    redacted::Redacted,
};

/// The second look that finds an entry gone comes at least this long after the first.
const CONFIRMATION: SignedDuration = SignedDuration::from_secs(5);

/// The most bytes of a message in status.
const MESSAGE_LIMIT: usize = 256;
/// The most names of a certificate that status repeats.
const NAMES_SHOWN: usize = 5;

/// What was seen of each entry.
#[derive(Debug, Default)]
pub struct Observed {
    /// Of the entries that are meant, and those that were delivered before, the ones that were looked at.
    pub entries: Vec<Entry>,
    /// The others. What was said of them stays, and nothing is concluded from their absence.
    pub passed_over: BTreeSet<String>,
    /// Whether own clock and Vault's differ so much that nothing can be said about time.
    pub clock_skewed: bool,
    /// Whether the directory was listed and is not empty: only then an entry can be gone.
    pub is_listed: bool,
    /// Accessor of the mount, where it was asked for: an entry can be gone only from the one in which it
    /// was found.
    pub mount: Option<String>,
    /// The password of keystores, where one is asked for and a certificate was read.
    pub password: Option<Redacted<String>>,
}

impl Observed {
    /// The entries of which the Secret could not be read.
    pub fn unreadable(&self) -> BTreeSet<String> {
        let unreadable = self.entries.iter().filter(|one| matches!(one.held, Held::Unreadable));
        unreadable.map(|one| one.name.clone()).collect()
    }
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
    /// It has no version of the number that is asked for.
    NoVersion {
        /// The number.
        version: u64,
    },
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
    /// Its data was not read, since its Secret cannot be written anyway.
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
    /// Ours, but not the version we wrote, or not what is asked for now; its content was read.
    Touched(Box<Standing>),
    /// Nobody's, and it consents to become ours; its content was read.
    Adoptable(Box<Standing>),
    /// Ours, but its content could not be read.
    Unreadable,
    /// Somebody else's.
    Foreign,
}

impl Held {
    fn is_ours(&self) -> bool {
        match self {
            Self::Intact { .. } | Self::Touched(_) | Self::Unreadable => true,
            Self::Absent | Self::Adoptable(_) | Self::Foreign => false,
        }
    }
}

/// A Secret as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// Its UID.
    pub uid: String,
    /// The version that was read.
    pub resource_version: String,
    /// What it holds, of labels and annotations only what is ours to set or to remove.
    pub payload: Payload,
    /// Whether it can be changed.
    pub immutable: bool,
    /// Its owners but us.
    pub other_owners: Vec<OwnerReference>,
}

/// What is to be done, entry by entry.
#[derive(Debug, Default)]
pub struct Plan {
    /// Sorted by the entry's name.
    pub steps: Vec<Step>,
    /// The mount in which all that is delivered was last found; see
    /// [`VaultCertSyncStatus::source_accessor`].
    pub mount: Option<String>,
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
        /// What is to go.
        surplus: Surplus,
        /// Its owners but us, where owners are to change.
        other_owners: Option<Vec<OwnerReference>>,
    },
    /// Delete it.
    Delete {
        /// Only the Secret with this UID.
        uid: String,
        /// Only this version of it.
        resource_version: String,
    },
}

/// Keys of a Secret that are to go. Those that are not there do no harm.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Surplus {
    /// Of its data.
    pub data: Vec<String>,
    /// Of its labels.
    pub labels: Vec<String>,
    /// Of its annotations.
    pub annotations: Vec<String>,
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
                Action::Delete { .. } => {
                    writeln!(f, "delete secret {secret} ({} was removed)", status.name)?;
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
    // Intact is only what was made in the shape that is asked for now.
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
    let Observed { entries, passed_over, clock_skewed, is_listed, password, mount } = observed;
    let known = previous.source_accessor.as_ref().filter(|_| desired.target.delete_removed);
    let is_its_mount = mount.as_ref().is_some_and(|mount| known.is_none_or(|known| known == mount));
    let seen = Seen { clock_skewed, is_listed, is_its_mount, password: password.as_ref(), now };
    let looked_at = entries.into_iter().filter_map(|entry| {
        let before = previous.certificates.iter().find(|status| status.name == entry.name);
        let mut step = step(desired, entry, before, &seen)?;
        if step.status.state == CertificateState::Synced {
            step.status.shape = Some(desired.shape(&step.status.name));
        }
        Some(step)
    });
    // In the shape in which they were delivered: whether they need another is seen by it.
    let passed_over = previous
        .certificates
        .iter()
        .filter(|status| passed_over.contains(&status.name))
        .map(|status| Step { action: Action::Leave, status: status.clone() });
    let mut steps: Vec<Step> = looked_at.chain(passed_over).collect();
    steps.sort_by(|one, other| one.status.name.cmp(&other.status.name));
    let mount = match (known, mount) {
        (Some(known), _) if steps.iter().any(is_missing) => Some(known.clone()),
        (known, mount) => mount.or_else(|| known.cloned()),
    };
    Plan { steps, mount }
}

/// Whether the entry of a Secret of ours was not found.
fn is_missing(step: &Step) -> bool {
    use SyncReason::{NoDeleteAccess, SourceAbsent, SourceRemoved};
    let missing = [SourceAbsent, SourceRemoved, NoDeleteAccess].map(SyncReason::as_str);
    step.status.state == CertificateState::Kept
        && step.status.reason.as_deref().is_some_and(|reason| missing.contains(&reason))
}

/// What was seen that concerns every entry.
struct Seen<'a> {
    clock_skewed: bool,
    is_listed: bool,
    /// Whether it is the mount in which what is delivered was found.
    is_its_mount: bool,
    password: Option<&'a Redacted<String>>,
    now: Timestamp,
}

fn step(
    desired: &Desired,
    entry: Entry,
    before: Option<&CertificateStatus>,
    seen: &Seen<'_>,
) -> Option<Step> {
    let Seen { clock_skewed, is_listed, is_its_mount, password, now } = *seen;
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
        Source::Absent if desired.target.delete_removed && is_listed && held.is_ours() => {
            if is_its_mount {
                removed(&name, &secret_name, before, &held, now)
            } else {
                refuse(
                    SyncReason::SourceAbsent,
                    "there is no such entry in this mount, which is another one than that in which it \
                     was found: the Secret stays; write the entry, or delete the Secret"
                        .into(),
                )
            }
        }
        Source::Absent => {
            refuse(SyncReason::SourceAbsent, "there is no such entry in Vault".into())
        }
        Source::NoVersion { version } => refuse(
            SyncReason::VersionNotFound,
            format!("the entry has no version {version}, or no longer; change its override"),
        ),
        Source::Deleted { time } if desired.selection.acknowledge.contains(&name) => refuse(
            SyncReason::Acknowledged,
            format!(
                "the entry's current version was deleted at {time}, on purpose as the spec says"
            ),
        ),
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
        Source::NotRead => match out_of_reach(&held, &secret_name) {
            Some((reason, message)) => refuse(reason, message),
            None => refuse(SyncReason::VaultError, "the entry was not read".into()),
        },
        Source::Unchanged => {
            let status = before.cloned()?;
            Some(Step { action: Action::Leave, status })
        }
        Source::Read { version, created_time, pair } => {
            let pair = match *pair {
                Ok(pair) => pair,
                Err(refusal) => return refuse(reason_of(&refusal), refusal.to_string()),
            };
            if let Some((reason, message)) = out_of_reach(&held, &secret_name) {
                return refuse(reason, message);
            }
            let payload = Payload::of(&name, &pair, desired, password);
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
            // What is valid for a short time is better than what has expired.
            let held_is_over = held.is_ours() && before.is_some_and(|before| is_over(before, now));
            let time = (new_bytes && !clock_skewed && !held_is_over).then_some(now);
            if let Err((reason, message)) = validation::judge(&pair, &desired.validation, time) {
                return refuse(reason, message);
            }
            let mut status = synced(&name, &secret_name, version, &created_time, &pair);
            let is_ours = held.is_ours();
            let action = match held {
                Held::Absent => Action::Create(payload),
                // The version that it was made from: kept for a while, and now good again.
                Held::Intact { resource_version, .. }
                    if is_version(before, version, &created_time) =>
                {
                    status.secret_resource_version = Some(resource_version);
                    Action::Leave
                }
                // Its keys are those that we write, so what may be too much is known.
                Held::Intact { uid, resource_version } => Action::Update {
                    uid,
                    resource_version,
                    surplus: Surplus {
                        data: vec![desired.target.keys.ca.clone()],
                        ..Surplus::default()
                    },
                    payload,
                    other_owners: None,
                },
                Held::Touched(stands) | Held::Adoptable(stands) => match correct(stands, payload) {
                    Ok(Correction::None { resource_version }) => {
                        status.secret_resource_version = Some(resource_version);
                        Action::Leave
                    }
                    Ok(Correction::Update(action)) => *action,
                    Err((reason, message, stands)) => {
                        let held =
                            if is_ours { Held::Touched(stands) } else { Held::Adoptable(stands) };
                        let secret = Some(&secret_name);
                        return Some(Step {
                            action: Action::Leave,
                            status: refused(&name, secret, before, &held, reason, message, now),
                        });
                    }
                },
                Held::Foreign | Held::Unreadable => Action::Leave,
            };
            Some(Step { action, status })
        }
    }
}

/// Why a Secret cannot be written whatever its entry holds.
fn out_of_reach(held: &Held, secret: &str) -> Option<(SyncReason, String)> {
    match held {
        Held::Foreign => Some((
            SyncReason::SecretNotOurs,
            format!(
                "Secret `{secret}` is not controlled by this VaultCertSync; delete, rename or adopt it"
            ),
        )),
        Held::Unreadable => {
            Some((SyncReason::KubernetesError, format!("Secret `{secret}` could not be read")))
        }
        Held::Absent | Held::Intact { .. } | Held::Touched(_) | Held::Adoptable(_) => None,
    }
}

/// How a Secret becomes what it is to be.
enum Correction {
    /// It is.
    None { resource_version: String },
    /// By a write.
    Update(Box<Action>),
}

type Uncorrectable = (SyncReason, &'static str, Box<Standing>);

fn correct(stands: Box<Standing>, mut payload: Payload) -> Result<Correction, Uncorrectable> {
    payload.keep_keystore(&stands.payload);
    if stands.payload == payload {
        return Ok(Correction::None { resource_version: stands.resource_version });
    }
    if stands.payload.kind != payload.kind {
        let message = "the Secret is of another type, which Kubernetes never changes; delete it to \
                       have it written again";
        return Err((SyncReason::SecretTypeDiffers, message, stands));
    }
    // Labels, annotations and owners of an immutable Secret can change.
    if stands.immutable && stands.payload.data != payload.data {
        let message = "the Secret is immutable; delete it to have it written again";
        return Err((SyncReason::SecretImmutable, message, stands));
    }
    let without = |stands: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| {
        stands.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect()
    };
    let stands = *stands;
    let surplus = Surplus {
        labels: without(&stands.payload.labels, &payload.labels),
        annotations: without(&stands.payload.annotations, &payload.annotations),
        data: stands
            .payload
            .data
            .into_keys()
            .filter(|key| !payload.data.contains_key(key))
            .collect(),
    };
    Ok(Correction::Update(Box::new(Action::Update {
        uid: stands.uid,
        resource_version: stands.resource_version,
        other_owners: (stands.payload.owned != payload.owned).then_some(stands.other_owners),
        payload,
        surplus,
    })))
}

/// An entry that is gone from a directory that is not: its Secret goes at the second look.
fn removed(
    name: &str,
    secret_name: &str,
    before: Option<&CertificateStatus>,
    held: &Held,
    now: Timestamp,
) -> Option<Step> {
    let said = |reason: SyncReason| {
        before.filter(|before| before.reason.as_deref() == Some(reason.as_str()))
    };
    let first_look = said(SyncReason::SourceRemoved)
        .and_then(|before| before.since.as_deref()?.parse::<Timestamp>().ok());
    // That it could not be deleted was said after it was confirmed.
    let confirmed = said(SyncReason::NoDeleteAccess).is_some()
        || first_look.is_some_and(|first| now.duration_since(first) >= CONFIRMATION);
    let precondition = match held {
        Held::Intact { uid, resource_version } => Some((uid, resource_version)),
        Held::Touched(stands) => Some((&stands.uid, &stands.resource_version)),
        Held::Absent | Held::Adoptable(_) | Held::Unreadable | Held::Foreign => None,
    };
    let secret = Some(secret_name.to_owned());
    if let Some((uid, resource_version)) = precondition.filter(|_| confirmed) {
        let status = CertificateStatus {
            secret_name: secret,
            state: CertificateState::Removed,
            reason: Some(SyncReason::SourceRemoved.as_str().into()),
            message: Some("the entry was removed from Vault, and the Secret with it".into()),
            since: Some(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            ..empty(name)
        };
        let (uid, resource_version) = (uid.clone(), resource_version.clone());
        return Some(Step { action: Action::Delete { uid, resource_version }, status });
    }
    let message =
        "the entry was removed from Vault; the Secret is deleted when another look confirms it";
    let reason = SyncReason::SourceRemoved;
    let status = refused(name, secret.as_ref(), before, held, reason, message, now);
    Some(Step { action: Action::Leave, status })
}

/// Whether what was delivered has expired.
fn is_over(before: &CertificateStatus, now: Timestamp) -> bool {
    let end = before.not_after.as_deref().and_then(|end| end.parse::<Timestamp>().ok());
    end.is_some_and(|end| end < now)
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
    let ours = held.is_ours();
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
        shape: None,
        since: None,
    }
}

fn name_message(reason: SyncReason) -> &'static str {
    match reason {
        SyncReason::NameCollision => {
            "another entry would go to the same Secret: neither is delivered; change \
             target.secretName, exclude one or name its Secret in an override"
        }
        SyncReason::NameTooLong => {
            "the Secret's name would be longer than 253 characters; shorten target.secretName"
        }
        _ => {
            "the entry's name gives no name of a Secret; change target.secretName, exclude it or name \
              its Secret in an override"
        }
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
