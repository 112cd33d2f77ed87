//! Somebody who sees every version of every Secret of a world, on a watch of its own, whatever happens
//! to the servers meanwhile.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::task::JoinHandle;

use crate::world::World;

/// How soon a watch that broke is opened again.
const AGAIN: Duration = Duration::from_millis(100);

/// It looks until it is dropped.
pub(crate) struct Witness {
    account: Arc<Mutex<Account>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Account {
    seen: Vec<Secret>,
    gone: Vec<String>,
    /// How often the history was lost, so that versions may have been missed.
    gaps: usize,
}

impl Witness {
    /// Sees everything from now on.
    pub(crate) async fn call(world: &World) -> Self {
        let api = Api::<Secret>::namespaced(world.kube(), &world.id);
        let list = api.list_metadata(&ListParams::default()).await.expect("the Secrets");
        let version = list.metadata.resource_version.expect("a version");
        let account = Arc::<Mutex<Account>>::default();
        let task = tokio::spawn(look(api, version, Arc::clone(&account)));
        Self { account, task }
    }

    /// How many versions were seen.
    pub(crate) fn count(&self) -> usize {
        self.account().seen.len()
    }

    /// Whether this very version was seen.
    pub(crate) fn has_seen(&self, secret: &Secret) -> bool {
        let version = secret.resource_version();
        self.account().seen.iter().any(|one| one.resource_version() == version)
    }

    /// Names of Secrets that were deleted.
    pub(crate) fn gone(&self) -> Vec<String> {
        self.account().gone.clone()
    }

    /// How often it had to begin anew, and cannot tell what was in between.
    pub(crate) fn gaps(&self) -> usize {
        self.account().gaps
    }

    /// Everything that was seen, oldest first.
    pub(crate) fn testimony(&self) -> Vec<Secret> {
        std::mem::take(&mut self.account().seen)
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        assert!(!self.task.is_finished(), "the witness looked away");
        lock(&self.account)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(account: &Mutex<Account>) -> MutexGuard<'_, Account> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn look(api: Api<Secret>, mut version: String, account: Arc<Mutex<Account>>) {
    loop {
        if watched(&api, &mut version, &account).await.is_err() {
            // The history is gone: what is there now is what can be seen.
            if let Ok(list) = api.list(&ListParams::default()).await {
                version = list.metadata.resource_version.expect("a version");
                let mut account = lock(&account);
                account.gaps += 1;
                account.seen.extend(list.items);
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The history before this version is no more.
struct Expired;

/// Looks until the watch ends, for whatever reason.
async fn watched(
    api: &Api<Secret>,
    version: &mut String,
    account: &Mutex<Account>,
) -> Result<(), Expired> {
    // The API server ends each watch after some minutes.
    let events = match api.watch(&WatchParams::default().timeout(290), version).await {
        Ok(events) => events,
        Err(kube::Error::Api(status)) if status.code == 410 => return Err(Expired),
        Err(_) => return Ok(()),
    };
    let mut events = Box::pin(events);
    while let Ok(Some(event)) = events.try_next().await {
        match event {
            WatchEvent::Added(secret) | WatchEvent::Modified(secret) => {
                *version = secret.resource_version().expect("a version");
                lock(account).seen.push(secret);
            }
            WatchEvent::Deleted(secret) => {
                *version = secret.resource_version().expect("a version");
                lock(account).gone.push(secret.name_any());
            }
            WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
            WatchEvent::Error(status) if status.code == 410 => return Err(Expired),
            WatchEvent::Error(_) => return Ok(()),
        }
    }
    Ok(())
}
