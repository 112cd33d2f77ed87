//! Reads what a pass needs, and nothing more: one LIST if a pattern asks for it, the metadata of each
//! certificate, and data only where the Secret does not hold that version. Writes nothing.

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::time::timeout;

use super::{
    desired::{Desired, is_plain},
    entry::{self, Overrides},
    pair::{self, Clock, Rules},
    plan::{self, Entry, Held, Observed, Payload, Source},
    secrets::{Seen, View},
};
use crate::{
    crd::{CertificateStatus, SyncReason, VaultCertSyncStatus},
    fault::{Fault, Retry},
    redacted::Redacted,
    vault::{self, Caller, kv},
};

/// The most certificates of one sync.
pub const LIMIT: usize = 100;
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
        "{found} certificates are selected, a sync holds at most {LIMIT}: narrow certificates.include"
    )]
    TooMany {
        /// How many.
        found: usize,
    },
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Vault(error) => error.reason(),
            Self::ListDenied { .. } => SyncReason::SourceForbidden.as_str(),
            Self::TooMany { .. } => SyncReason::TooManyCertificates.as_str(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Vault(error) => error.retry(),
            Self::ListDenied { .. } | Self::TooMany { .. } => Retry::Slowly,
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self, Self::Vault(error) if error.is_shared())
    }
}

/// Reads Vault and, where a Secret is not as we wrote it, the Secret.
///
/// # Errors
/// Where nothing can be said of any certificate. A fault of a single one is in its entry.
pub async fn observe(
    vault: &Caller,
    api: &Api<Secret>,
    view: &View,
    desired: &Desired,
    previous: &VaultCertSyncStatus,
    uid: &str,
    now: Timestamp,
) -> Result<Observed, Error> {
    let names = names(vault, desired, previous).await?;
    if names.len() > LIMIT {
        return Err(Error::TooMany { found: names.len() });
    }
    let mut entries = Vec::with_capacity(names.len());
    let secrets = plan::secret_names(desired, names);
    for (name, secret) in secrets {
        let before = previous.certificates.iter().find(|status| status.name == name);
        let held = match &secret {
            Ok(secret) => held(api, view, secret, before, uid).await,
            Err(_) => Held::Absent,
        };
        let source = if !is_plain(&name) {
            Source::HostileName
        } else if secret.is_err() {
            Source::NotRead
        } else {
            source(vault, desired, &name, before, &held, now).await?
        };
        entries.push(Entry { name, secret, source, held });
    }
    Ok(Observed { entries, clock_skewed: is_skewed(vault) })
}

/// The names that are asked for, those that are there, and those that were delivered before.
async fn names(
    vault: &Caller,
    desired: &Desired,
    previous: &VaultCertSyncStatus,
) -> Result<BTreeSet<String>, Error> {
    let selection = &desired.selection;
    let exact = selection.exact.iter().filter(|name| selection.takes(name)).cloned();
    let mut names: BTreeSet<String> = exact.collect();
    if !selection.globs.is_empty() {
        let listed =
            kv::list(vault, &desired.kv_mount, &desired.directory).await.map_err(|error| {
                if error.is_denied() {
                    let directory = format!("{}/metadata/{}/", desired.kv_mount, desired.directory);
                    Error::ListDenied { directory }
                } else {
                    Error::Vault(error)
                }
            })?;
        // A name that ends in a slash is a directory of its own.
        let listed = listed.unwrap_or_default().into_iter().filter(|name| !name.ends_with('/'));
        names.extend(listed.filter(|name| selection.takes(name)));
    }
    let delivered = previous.certificates.iter().map(|status| &status.name);
    names.extend(delivered.filter(|name| selection.takes(name)).cloned());
    Ok(names)
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
    let metadata = match kv::metadata(vault, &desired.kv_mount, &path).await {
        Ok(Some(metadata)) => metadata,
        Ok(None) => return Ok(Source::Absent),
        Err(error) if error.is_denied() => return Ok(Source::Forbidden),
        Err(error) => return Err(error.into()),
    };
    let Some(current) = metadata.current() else { return Ok(Source::Absent) };
    if current.destroyed {
        return Ok(Source::Destroyed);
    }
    if !current.is_live(now) {
        return Ok(Source::Deleted { time: text(current.deletion_time) });
    }
    if plan::is_current(before, metadata.current_version, &text(current.created_time), held) {
        return Ok(Source::Unchanged);
    }
    // A foreign Secret is never written: its certificate's key need not travel.
    let answer = match kv::data(vault, &desired.kv_mount, &path, None).await {
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
            let rules = Rules { clock, allow_ca_leaf: false };
            let pair = entry::read(&fields, &Overrides::default())
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

/// How the Secret stands; its content is read only if it is ours and not as we wrote it.
async fn held(
    api: &Api<Secret>,
    view: &View,
    name: &str,
    before: Option<&CertificateStatus>,
    uid: &str,
) -> Held {
    let Some(seen) = view.get(name) else { return Held::Absent };
    if !is_ours(&seen, uid) {
        return Held::Foreign;
    }
    let written = before
        .filter(|before| before.secret_name.as_deref() == Some(name))
        .and_then(|before| before.secret_resource_version.as_ref());
    if written == Some(&seen.resource_version) {
        return Held::Intact { uid: seen.uid, resource_version: seen.resource_version };
    }
    match timeout(KUBERNETES_TIMEOUT, api.get_opt(name)).await {
        Ok(Ok(Some(secret))) => {
            let now = super::secrets::seen(&secret.metadata);
            if is_ours(&now, uid) { touched(secret, now) } else { Held::Foreign }
        }
        Ok(Ok(None)) => Held::Absent,
        // It cannot be read: what is known of it is enough not to write over it blindly.
        Ok(Err(_)) | Err(_) => Held::Touched {
            uid: seen.uid,
            resource_version: seen.resource_version,
            payload: Payload::default(),
            immutable: false,
        },
    }
}

fn touched(secret: Secret, seen: Seen) -> Held {
    let wanted = ["app.kubernetes.io/managed-by", "vaultaws.dev/sync"];
    let labels = secret.metadata.labels.unwrap_or_default();
    let payload = Payload {
        kind: secret.type_.unwrap_or_default(),
        labels: labels.into_iter().filter(|(key, _)| wanted.contains(&key.as_str())).collect(),
        data: secret
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, Redacted::new(value.0)))
            .collect(),
    };
    Held::Touched {
        uid: seen.uid,
        resource_version: seen.resource_version,
        payload,
        immutable: secret.immutable == Some(true),
    }
}

fn is_ours(seen: &Seen, uid: &str) -> bool {
    seen.owner.as_ref().is_some_and(|(owner, _)| owner == uid)
}
