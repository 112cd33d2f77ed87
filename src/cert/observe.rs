//! Reads what a pass needs, and nothing more: one LIST if a pattern asks for it, the metadata of each
//! certificate, and data only where the Secret does not hold that version. Writes nothing.
//!
//! What cannot be read in the time that a pass has, or because Vault fails on the way, is left to the
//! next pass: what was read until then is not lost.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    desired::{Desired, Pkcs12, is_path},
    entry, keystore,
    pair::{self, Clock, Rules},
    payload::{MANAGED_LABEL, METADATA_ANNOTATION, Managed, OWNER_ANNOTATION, Payload, SYNC_LABEL},
    plan::{self, Entry, Held, Observed, Source, Standing},
    round::{Need, Round},
    secrets::{Seen, View},
};
use crate::{
    crd::{CertificateState, CertificateStatus, SyncReason, VaultCertSyncStatus},
    fault::{Fault, Retry},
    redacted::Redacted,
    vault::{self, Caller, Cause, Throttle, kv, mounts},
};

/// How deep directories below the role's own are listed.
const DEPTH: usize = 8;
/// The most directories that are listed in one pass.
const DIRECTORIES: usize = 64;
/// A clock that differs more cannot judge a certificate.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// How long one request to the API server may take.
const KUBERNETES_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the source could not be read as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Vault failed or denied a request on which all certificates depend.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The directory may not be listed.
    #[error("Vault denies listing `{directory}`: look at the role's policy")]
    ListDenied {
        /// The directory, with its mount.
        directory: String,
    },
    /// More than a sync may hold.
    #[error(
        "{found} certificates are selected, and certificates.limit is {limit}: narrow \
         certificates.include"
    )]
    TooMany {
        /// How many.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The password of keystores cannot be had.
    #[error("Secret `{secret}` {problem}")]
    Password {
        /// The Secret.
        secret: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More directories than are listed in one pass.
    #[error(
        "the role's directory has more than {DIRECTORIES} directories or is deeper than {DEPTH}: \
         set certificates.recursive to false"
    )]
    TooManyDirectories,
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Vault(error) => error.reason(),
            Self::ListDenied { .. } => SyncReason::SourceForbidden.as_str(),
            Self::TooMany { .. } => SyncReason::TooManyCertificates.as_str(),
            Self::TooManyDirectories => SyncReason::TooManyDirectories.as_str(),
            Self::Password { .. } => SyncReason::PasswordNotReady.as_str(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Vault(error) => error.retry(),
            // A change of the Secret wakes the sync.
            Self::ListDenied { .. }
            | Self::TooMany { .. }
            | Self::TooManyDirectories
            | Self::Password { .. } => Retry::Slowly,
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self, Self::Vault(error) if error.is_shared())
    }
}

/// What a pass reads for, and from where.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// The Secrets of the namespace.
    pub api: &'a Api<Secret>,
    /// Their metadata.
    pub view: &'a View,
    /// What is asked for.
    pub desired: &'a Desired,
    /// What was said so far.
    pub previous: &'a VaultCertSyncStatus,
    /// What was looked at by the passes before, if they did not come to everything.
    pub round: &'a Round,
    /// How long entries may be read. One is looked at however long it takes, so that each pass comes
    /// further.
    pub time: Duration,
    /// What time it is.
    pub now: Timestamp,
}

/// What a pass has read.
#[derive(Debug, Default)]
pub struct Reading {
    /// What it says.
    pub observed: Observed,
    /// The entries that it did not come to.
    pub unread: BTreeSet<String>,
    /// What kept it from them, unless it was the time.
    pub stopped_by: Option<vault::Error>,
}

/// Reads Vault and, where a Secret is not as we wrote it, the Secret.
///
/// # Errors
/// Where nothing can be said of any certificate. A fault of a single one is in its entry.
pub async fn observe(vault: &Caller, look: &Look<'_>) -> Result<Reading, Error> {
    let Look { api, desired, .. } = *look;
    let Selected { names, is_listed } = selected(vault, desired, look.previous).await?;
    let mut secrets = plan::secret_names(desired, names);
    let left = look.round.left(secrets.keys().map(String::as_str), |name| look.need(name));
    let mut reading = Reading::default();
    let mut entries = Vec::with_capacity(left.len());
    let mut left = left.into_iter().filter_map(|name| secrets.remove_entry(&name));
    let until = Instant::now() + look.time;
    for (name, secret) in left.by_ref() {
        let entry = Box::pin(look.entry(vault, name.clone(), secret));
        let looked =
            if entries.is_empty() { Ok(entry.await) } else { timeout_at(until, entry).await };
        match looked {
            Ok(Ok(entry)) => entries.push(entry),
            Ok(Err(error)) => {
                reading.stopped_by = Some(error.stops_after(entries.len())?);
                reading.unread.insert(name);
                break;
            }
            Err(_) => {
                reading.unread.insert(name);
                break;
            }
        }
    }
    reading.unread.extend(left.map(|(name, _)| name));
    let is_read = entries.iter().any(|entry| matches!(entry.source, Source::Read { .. }));
    let password = match &desired.target.pkcs12 {
        Some(keystore) if is_read => Some(password(api, keystore).await?),
        _ => None,
    };
    let passed_over = secrets.into_keys().chain(reading.unread.iter().cloned()).collect();
    let mount = if reading.stopped_by.is_some() {
        None
    } else {
        match mount(vault, look, &entries).await {
            Ok(mount) => mount,
            Err(error) => {
                reading.stopped_by = Some(error.stops_after(entries.len())?);
                None
            }
        }
    };
    let clock_skewed = is_skewed(vault);
    reading.observed = Observed { entries, passed_over, clock_skewed, is_listed, password, mount };
    Ok(reading)
}

impl Error {
    /// The fault, if it is none of the entry that met it and something was read before it: that is to be
    /// delivered all the same.
    fn stops_after(self, entries: usize) -> Result<vault::Error, Self> {
        match self {
            Self::Vault(error)
                if entries > 0 && (error.is_shared() || error.is_token_invalid()) =>
            {
                Ok(error)
            }
            other => Err(other),
        }
    }
}

impl Reading {
    /// What Vault said that kept the pass from the rest. Requests that were not sent, since too many
    /// others wait, and a token that was used up say nothing of Vault.
    pub fn fault(&self) -> Option<&vault::Error> {
        self.stopped_by.as_ref().filter(|error| {
            !matches!(
                error.cause(),
                Cause::TokenInvalid | Cause::Throttled { by: Throttle::Own, .. }
            )
        })
    }
}

impl Look<'_> {
    fn before(&self, name: &str) -> Option<&CertificateStatus> {
        self.previous.certificates.iter().find(|status| status.name == name)
    }

    /// Why an entry is to be looked at.
    fn need(&self, name: &str) -> Need {
        let Some(before) = self.before(name) else { return Need::Unknown };
        match before.state {
            CertificateState::Synced if !is_intact(before, self.desired, self.view) => {
                Need::Touched
            }
            CertificateState::Synced => Need::Refresh,
            CertificateState::Kept | CertificateState::Refused => Need::Undelivered,
            CertificateState::Removed => Need::Refresh,
        }
    }

    async fn entry(
        &self,
        vault: &Caller,
        name: String,
        secret: Result<String, SyncReason>,
    ) -> Result<Entry, Error> {
        let Self { api, view, desired, now, .. } = *self;
        let before = self.before(&name);
        let mut held = match &secret {
            Ok(secret) => held(api, view, desired, secret, &name, before).await,
            Err(_) => Held::Absent,
        };
        let source = if !is_path(&name) {
            Source::HostileName
        } else if secret.is_err() {
            Source::NotRead
        } else {
            source(vault, desired, &name, before, &held, now).await?
        };
        // A keystore of the same content shall stay as it is: whether it is the same, its bytes tell.
        if let (Source::Read { .. }, Held::Intact { .. }, Ok(secret), Some(_)) =
            (&source, &held, &secret, &desired.target.pkcs12)
        {
            held = read(api, desired, secret).await;
        }
        Ok(Entry { name, secret, source, held })
    }
}

/// Whether the Secret of a certificate is as it was left, and in the shape that is asked for now.
pub fn is_intact(one: &CertificateStatus, desired: &Desired, view: &View) -> bool {
    let seen = one.secret_name.as_deref().and_then(|name| view.get(name));
    let is_in_shape = one.state != CertificateState::Synced
        || one.shape.as_ref() == Some(&desired.shape(&one.name));
    // Removed and acknowledged ones may have no Secret.
    is_in_shape && seen.map(|seen| seen.resource_version) == one.secret_resource_version
}

/// In which mount this is, where that decides whether an entry was removed, now or later.
async fn mount(
    vault: &Caller,
    look: &Look<'_>,
    entries: &[Entry],
) -> Result<Option<String>, Error> {
    let Look { desired, previous, .. } = *look;
    let is_news = |entry: &Entry| matches!(entry.source, Source::Absent | Source::Read { .. });
    let unknown = previous.source_accessor.is_none();
    if !desired.target.delete_removed || !(unknown || entries.iter().any(is_news)) {
        return Ok(None);
    }
    match mounts::secrets_mount(vault, &desired.kv_mount).await {
        Ok(mount) => Ok(Some(mount.accessor).filter(|accessor| !accessor.is_empty())),
        Err(error) if error.is_denied() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The entries that are meant.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selected {
    /// Their names, those that were delivered before among them.
    pub names: BTreeSet<String>,
    /// Whether the directory was listed and is not empty.
    pub is_listed: bool,
}

/// Finds out which entries are meant, with one LIST if a pattern asks for it.
///
/// # Errors
/// Where the directory cannot be listed, or holds more than a sync may.
pub async fn selected(
    vault: &Caller,
    desired: &Desired,
    previous: &VaultCertSyncStatus,
) -> Result<Selected, Error> {
    let listed = list(vault, desired).await?;
    let is_listed = listed.as_ref().is_some_and(|listed| !listed.is_empty());
    let names = names(desired, listed.unwrap_or_default(), previous);
    let (found, limit) = (names.len(), desired.selection.limit);
    if found > limit {
        return Err(Error::TooMany { found, limit });
    }
    Ok(Selected { names, is_listed })
}

/// The names that are asked for, those that are there, and those that were delivered before.
fn names(
    desired: &Desired,
    listed: BTreeSet<String>,
    previous: &VaultCertSyncStatus,
) -> BTreeSet<String> {
    // What was refused has no Secret: where it is no longer, it is no longer told of.
    let has_secret = |status: &&CertificateStatus| status.state != CertificateState::Refused;
    let delivered = previous.certificates.iter().filter(has_secret).map(|one| one.name.clone());
    let all = desired.selection.exact.iter().cloned().chain(listed).chain(delivered);
    all.filter(|name| desired.selection.takes(name)).collect()
}

/// The entries of the directory, and of those below where they are asked for; `None` if there is
/// nothing, or if nobody needs to know.
async fn list(vault: &Caller, desired: &Desired) -> Result<Option<BTreeSet<String>>, Error> {
    if desired.selection.globs.is_empty() && !desired.target.delete_removed {
        return Ok(None);
    }
    let mut found = BTreeSet::new();
    let mut pending = VecDeque::from([String::new()]);
    let mut listed = 0;
    while let Some(below) = pending.pop_front() {
        listed += 1;
        if listed > DIRECTORIES {
            return Err(Error::TooManyDirectories);
        }
        let directory = format!("{}/{below}", desired.directory);
        let names = match kv::list(vault, &desired.kv_mount, &directory).await {
            Ok(Some(names)) => names,
            Ok(None) if below.is_empty() => return Ok(None),
            Ok(None) => Vec::new(),
            Err(error) if error.is_denied() => {
                let directory = format!("{}/metadata/{directory}", desired.kv_mount);
                return Err(Error::ListDenied { directory });
            }
            Err(error) => return Err(Error::Vault(error)),
        };
        for name in names {
            let path = format!("{below}{name}");
            // A name that ends in a slash is a directory of its own.
            let Some(entry) = path.strip_suffix('/') else {
                found.insert(path);
                continue;
            };
            if !desired.selection.recursive {
                continue;
            }
            if !is_path(entry) {
                // It is told of as an entry whose name is refused.
                found.insert(path);
            } else if entry.split('/').count() > DEPTH {
                return Err(Error::TooManyDirectories);
            } else {
                pending.push_back(path);
            }
        }
    }
    Ok(Some(found))
}

async fn source(
    vault: &Caller,
    desired: &Desired,
    name: &str,
    before: Option<&CertificateStatus>,
    held: &Held,
    now: Timestamp,
) -> Result<Source, Error> {
    let path = desired.entry_path(name);
    let pinned = desired.overrides.get(name).and_then(|one| one.version);
    if before.is_none() && pinned.is_none() && matches!(held, Held::Absent) {
        // The first look has nothing to compare with, and an answer with data says the same of the
        // current version as the metadata would.
        return read_source(vault, desired, name, None, now).await;
    }
    let metadata = match kv::metadata(vault, &desired.kv_mount, &path).await {
        Ok(Some(metadata)) => metadata,
        Ok(None) => return Ok(Source::Absent),
        Err(error) if error.is_denied() => return Ok(Source::Forbidden),
        Err(error) => return Err(error.into()),
    };
    let version = pinned.unwrap_or(metadata.current_version);
    let Some(current) = metadata.versions.get(&version) else {
        return Ok(match pinned {
            Some(version) => Source::NoVersion { version },
            None => Source::Absent,
        });
    };
    if current.destroyed {
        return Ok(Source::Destroyed);
    }
    if !current.is_live(now) {
        return Ok(Source::Deleted { time: text(current.deletion_time) });
    }
    if plan::is_current(before, version, &text(current.created_time), held) {
        return Ok(Source::Unchanged);
    }
    // No key leaves Vault for a Secret that cannot be written.
    if matches!(held, Held::Foreign | Held::Unreadable) {
        return Ok(Source::NotRead);
    }
    read_source(vault, desired, name, pinned, now).await
}

/// The data of an entry, judged.
async fn read_source(
    vault: &Caller,
    desired: &Desired,
    name: &str,
    pinned: Option<u64>,
    now: Timestamp,
) -> Result<Source, Error> {
    let path = desired.entry_path(name);
    let answer = match kv::data(vault, &desired.kv_mount, &path, pinned).await {
        Ok(answer) => answer,
        Err(error) if error.is_denied() => return Ok(Source::Forbidden),
        Err(error) => return Err(error.into()),
    };
    Ok(match answer {
        kv::DataAnswer::Absent => Source::Absent,
        kv::DataAnswer::Destroyed { .. } => Source::Destroyed,
        kv::DataAnswer::Deleted { deletion_time, .. } => {
            Source::Deleted { time: text(deletion_time) }
        }
        kv::DataAnswer::Live { fields, version, created_time, .. } => {
            let clock = if is_skewed(vault) { Clock::Suspended } else { Clock::Trusted(now) };
            let rules = Rules { clock, allow_ca_leaf: desired.validation.allow_ca_leaf };
            let overrides = desired.overrides.get(name).map(|one| one.fields.clone());
            let pair = entry::read(&fields, &overrides.unwrap_or_default())
                .and_then(|texts| pair::parse(&texts, &rules));
            Source::Read { version, created_time: text(created_time), pair: Box::new(pair) }
        }
    })
}

fn is_skewed(vault: &Caller) -> bool {
    vault.client().clock_skew().is_some_and(|skew| skew.abs() > SKEW)
}

fn text(time: Option<Timestamp>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

/// How the Secret stands; its content is read only if it is ours and not as we wrote it, or if what
/// is asked of it changed.
async fn held(
    api: &Api<Secret>,
    view: &View,
    desired: &Desired,
    secret: &str,
    entry: &str,
    before: Option<&CertificateStatus>,
) -> Held {
    let Some(seen) = view.get(secret) else { return Held::Absent };
    if !is_ours(&seen, desired) && !is_adoptable(&seen, desired) {
        return Held::Foreign;
    }
    let written = before
        .filter(|before| before.secret_name.as_deref() == Some(secret))
        .filter(|before| before.shape.as_deref() == Some(&desired.shape(entry)))
        .and_then(|before| before.secret_resource_version.as_ref());
    if is_ours(&seen, desired) && written == Some(&seen.resource_version) {
        return Held::Intact { uid: seen.uid, resource_version: seen.resource_version };
    }
    read(api, desired, secret).await
}

/// Reads a Secret, and judges it as it is by then.
async fn read(api: &Api<Secret>, desired: &Desired, name: &str) -> Held {
    match timeout(KUBERNETES_TIMEOUT, api.get_opt(name)).await {
        Ok(Ok(Some(secret))) => {
            let seen = super::secrets::seen(&secret.metadata);
            if is_ours(&seen, desired) {
                Held::Touched(Box::new(standing(secret, seen, desired)))
            } else if is_adoptable(&seen, desired) {
                Held::Adoptable(Box::new(standing(secret, seen, desired)))
            } else {
                Held::Foreign
            }
        }
        Ok(Ok(None)) => Held::Absent,
        Ok(Err(_)) | Err(_) => Held::Unreadable,
    }
}

/// The password of keystores.
async fn password(api: &Api<Secret>, keystore: &Pkcs12) -> Result<Redacted<String>, Error> {
    let refuse = |problem| Error::Password { secret: keystore.secret.clone(), problem };
    let secret = match timeout(KUBERNETES_TIMEOUT, api.get_opt(&keystore.secret)).await {
        Ok(Ok(Some(secret))) => secret,
        Ok(Ok(None)) => return Err(refuse("with the keystore's password is not there")),
        Ok(Err(_)) | Err(_) => return Err(refuse("with the keystore's password cannot be read")),
    };
    let mut data = secret.data.unwrap_or_default();
    let value = data.remove(&keystore.key).map(|value| Redacted::new(value.0));
    let value = value.ok_or_else(|| refuse("lacks the key of target.pkcs12.passwordRef"))?;
    let text = std::str::from_utf8(value.expose())
        .map_err(|_| refuse("has a keystore's password that is no text"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    // What PKCS#12 cannot say: its strings are UTF-16 without surrogates, and end with a null.
    if text.is_empty() || text.chars().any(|c| c == '\0' || c > '\u{ffff}') {
        return Err(refuse("has an empty keystore's password, or one with unusable characters"));
    }
    Ok(Redacted::new(text.to_owned()))
}

fn standing(secret: Secret, seen: Seen, desired: &Desired) -> Standing {
    let metadata = secret.metadata;
    let annotations = metadata.annotations.unwrap_or_default();
    let mut managed = annotations
        .get(METADATA_ANNOTATION)
        .map(|written| Managed::read(written))
        .unwrap_or_default();
    let wanted = Managed::of(desired);
    managed.labels.extend(wanted.labels);
    managed.labels.extend([MANAGED_LABEL.to_owned(), SYNC_LABEL.to_owned()]);
    managed.annotations.extend(wanted.annotations);
    managed
        .annotations
        .extend([METADATA_ANNOTATION, OWNER_ANNOTATION, keystore::ANNOTATION].map(str::to_owned));
    let (ours, other_owners): (Vec<_>, Vec<_>) = metadata
        .owner_references
        .unwrap_or_default()
        .into_iter()
        .partition(|owner| owner.uid == desired.uid);
    let payload = Payload {
        kind: secret.type_.unwrap_or_default(),
        labels: metadata
            .labels
            .unwrap_or_default()
            .into_iter()
            .filter(|(key, _)| managed.labels.contains(key))
            .collect(),
        annotations: annotations
            .into_iter()
            .filter(|(key, _)| managed.annotations.contains(key))
            .collect(),
        owned: !ours.is_empty(),
        data: secret
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, Redacted::new(value.0)))
            .collect(),
        keystore: None,
    };
    Standing {
        uid: seen.uid,
        resource_version: seen.resource_version,
        payload,
        immutable: secret.immutable == Some(true),
        other_owners,
    }
}

fn is_ours(seen: &Seen, desired: &Desired) -> bool {
    seen.owner.as_ref().is_some_and(|(owner, _)| *owner == desired.uid)
}

/// Both have to consent: the sync, and the Secret, which nobody may control.
fn is_adoptable(seen: &Seen, desired: &Desired) -> bool {
    desired.target.adopt && seen.adopt_by.as_ref() == Some(&desired.name)
}
