//! The ServiceAccounts whose tokens syncs may use, as their metadata stands.
//!
//! Watched only in namespaces where a sync names one, so that a right on them is needed nowhere else.
//! What is kept is what a pass asks: which version stands, and whom it allows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::Stream;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{core::PartialObjectMeta, runtime::reflector::ObjectRef};
use tokio::time::{Instant, sleep};

use crate::{
    controller::watch::{Access, Event, Watched, object_ref, triggers},
    crd::VaultCertSync,
    lock::lock,
};

/// The annotation by which a ServiceAccount consents: the name of a VaultCertSync, or `*`.
pub const ALLOW_SYNC: &str = "vaultaws.dev/allow-sync";

/// How long a pass waits for the first list of a namespace.
const FIRST_LIST: Duration = Duration::from_secs(10);

/// What is kept of a ServiceAccount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// Its UID.
    pub uid: String,
    /// Which version of it stands.
    pub resource_version: String,
    /// The value of [`ALLOW_SYNC`].
    allows: Option<String>,
}

impl Seen {
    /// Whether it consents to be used by the sync of this name.
    pub fn allows(&self, sync: &str) -> bool {
        self.allows.as_deref().is_some_and(|allowed| allowed == "*" || allowed == sync)
    }
}

/// Why the ServiceAccounts of a namespace cannot be seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unseen {
    /// The Role is missing.
    Forbidden,
    /// The API server does not answer.
    NotYet,
}

/// The ServiceAccounts of all watched namespaces. Cheap to clone.
#[derive(Clone)]
pub struct Accounts {
    watched: Watched<PartialObjectMeta<ServiceAccount>>,
    /// By namespace: its syncs, and the ServiceAccount that each names.
    used: Arc<Mutex<HashMap<String, BTreeMap<String, String>>>>,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

/// Drops what nobody reads of a ServiceAccount's metadata before it is kept.
pub fn prune(account: &mut PartialObjectMeta<ServiceAccount>) {
    let metadata = &mut account.metadata;
    metadata.labels = None;
    metadata.finalizers = None;
    metadata.owner_references = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| key == ALLOW_SYNC);
    }
}

impl Accounts {
    /// `watched` needs no namespace yet; [`Self::get`] adds them.
    pub fn new(watched: Watched<PartialObjectMeta<ServiceAccount>>) -> Self {
        Self { watched, used: Arc::default() }
    }

    /// The ServiceAccount that a sync names; `None` if there is none. The watch starts with the first
    /// sync of the namespace that names one.
    ///
    /// # Errors
    /// [`Unseen`] where the Role is missing or the API server does not answer in ten seconds.
    pub async fn get(
        &self,
        namespace: &str,
        sync: &str,
        account: &str,
    ) -> Result<Option<Seen>, Unseen> {
        self.watched.include(namespace);
        self.lock()
            .entry(namespace.to_owned())
            .or_default()
            .insert(sync.to_owned(), account.to_owned());
        let end = Instant::now() + FIRST_LIST;
        loop {
            match self.watched.access(Some(namespace)) {
                Access::Granted => {
                    let found = self.watched.store().get(Some(namespace), account);
                    return Ok(found.map(|account| seen(&account)));
                }
                Access::Denied => return Err(Unseen::Forbidden),
                Access::Pending | Access::Unknown if Instant::now() < end => {
                    sleep(Duration::from_millis(50)).await;
                }
                Access::Pending | Access::Unknown => return Err(Unseen::NotYet),
            }
        }
    }

    /// The sync is gone, or names none any more; with the last one of its namespace the watch ends.
    pub fn forget(&self, namespace: &str, sync: &str) {
        let mut used = self.lock();
        if let Some(syncs) = used.get_mut(namespace) {
            syncs.remove(sync);
            if syncs.is_empty() {
                used.remove(namespace);
                self.watched.exclude(namespace);
            }
        }
    }

    /// The syncs whose ServiceAccount came, went or changed its consent.
    pub fn triggers(&self) -> impl Stream<Item = ObjectRef<VaultCertSync>> + Send + 'static {
        let accounts = self.clone();
        triggers(&self.watched, move |events| {
            let used = accounts.lock();
            let mut concerned = Vec::new();
            for event in events.iter().filter(|event| consent_changed(event)) {
                let namespace = event.object.namespace.as_deref().unwrap_or_default();
                let syncs = used.get(namespace).into_iter().flatten();
                let users = syncs.filter(|(_, account)| **account == event.object.name);
                concerned.extend(users.map(|(sync, _)| object_ref(Some(namespace), sync)));
            }
            concerned
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<String, String>>> {
        // Plain data: whoever panicked while holding it left it whole.
        lock(&self.used)
    }
}

fn consent_changed(event: &Event<PartialObjectMeta<ServiceAccount>>) -> bool {
    let part = |account: &Option<Arc<PartialObjectMeta<ServiceAccount>>>| {
        account.as_ref().map(|account| (seen(account).uid, seen(account).allows))
    };
    part(&event.old) != part(&event.new)
}

fn seen(account: &PartialObjectMeta<ServiceAccount>) -> Seen {
    let metadata = &account.metadata;
    Seen {
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        allows: metadata.annotations.as_ref().and_then(|all| all.get(ALLOW_SYNC)).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(allows: Option<&str>) -> PartialObjectMeta<ServiceAccount> {
        let mut account = PartialObjectMeta::<ServiceAccount>::default();
        let mut annotations = BTreeMap::from([("other".to_owned(), "x".to_owned())]);
        annotations.extend(allows.map(|value| (ALLOW_SYNC.to_owned(), value.to_owned())));
        account.metadata.annotations = Some(annotations);
        prune(&mut account);
        account
    }

    #[test]
    fn consent_names_one_sync_or_all() {
        for (value, web) in [
            (None, false),
            (Some(""), false),
            (Some("web"), true),
            (Some("*"), true),
            (Some("we*"), false),
            (Some("api"), false),
            (Some("web,api"), false),
        ] {
            assert_eq!(seen(&account(value)).allows("web"), web, "{value:?}");
        }
    }

    #[test]
    fn only_the_consent_is_kept_of_the_annotations() {
        let kept = account(Some("web")).metadata.annotations.unwrap();
        assert_eq!(kept.into_keys().collect::<Vec<_>>(), [ALLOW_SYNC]);
    }
}
