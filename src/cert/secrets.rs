//! The Secrets of the namespaces that hold a VaultCertSync, as their metadata stands.
//!
//! One metadata-only watch for each such namespace, so that the install needs a Role there and no
//! cluster-wide right. What is kept of a Secret is what a pass asks: who controls it, which version of
//! it stands, and whether it consents to be used as credentials. Its data is never watched, and a
//! sync reads a Secret only when the version is not the one it wrote.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        reflector::ObjectRef,
        watcher::{self, Event, watcher},
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::timeout,
};

use crate::crd::VaultCertSync;

/// The label by which a Secret consents to be used as AWS credentials.
pub const USE_LABEL: &str = "vaultaws.dev/use";
/// Its value.
pub const USE_CREDENTIALS: &str = "aws-credentials";

/// How long a pass waits for the first list of a namespace.
const FIRST_LIST: Duration = Duration::from_secs(10);
/// The event of our own write may come before the answer to it: a change is judged after this.
const SETTLE: Duration = Duration::from_millis(300);
/// Between attempts to watch; short, because a missing Role is something people mend while they look.
const RETRY: Duration = Duration::from_secs(3);

/// Metadata of one Secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// Its UID.
    pub uid: String,
    /// Which version of it stands.
    pub resource_version: String,
    /// UID and name of the VaultCertSync that controls it.
    pub owner: Option<(String, String)>,
    /// Whether it consents to be used as AWS credentials.
    pub is_credentials: bool,
}

/// Why the Secrets of a namespace cannot be seen.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unseen {
    /// The Role is missing.
    #[error(
        "the operator may not read and write Secrets in namespace `{namespace}`: apply the Role and \
         RoleBinding of deploy/tenant there"
    )]
    Forbidden {
        /// The namespace.
        namespace: String,
    },
    /// The API server does not answer.
    #[error("the Secrets of namespace `{namespace}` could not be listed yet")]
    NotYet {
        /// The namespace.
        namespace: String,
    },
}

/// All watched namespaces. Cheap to clone.
#[derive(Clone)]
pub struct Secrets {
    client: Client,
    namespaces: Arc<Mutex<HashMap<String, Namespace>>>,
    wake: mpsc::UnboundedSender<ObjectRef<VaultCertSync>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// One namespace's Secrets, as a pass asks about them.
#[derive(Clone, Debug)]
pub struct View(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    seen: HashMap<String, Seen>,
    /// resourceVersion of our last write to each Secret: its event is no news.
    written: HashMap<String, String>,
    /// The syncs of the namespace, and the credentials Secret that each refers to.
    syncs: BTreeMap<String, Option<String>>,
}

struct Namespace {
    view: View,
    state: watch::Receiver<State>,
    task: AbortHandle,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Starting,
    Listed,
    Forbidden,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data: whoever panicked while holding it left it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Secrets {
    /// Watches nothing yet. The receiver names the syncs whose Secrets somebody else touched.
    pub fn new(client: Client) -> (Self, mpsc::UnboundedReceiver<ObjectRef<VaultCertSync>>) {
        let (wake, woken) = mpsc::unbounded_channel();
        (Self { client, namespaces: Arc::default(), wake }, woken)
    }

    /// The Secrets of a sync's namespace; starts the watch with the first sync of the namespace.
    ///
    /// # Errors
    /// [`Unseen`] where the Role is missing or the API server does not answer in ten seconds.
    pub async fn view(
        &self,
        namespace: &str,
        sync: &str,
        credentials: Option<&str>,
    ) -> Result<View, Unseen> {
        let (view, mut state) = {
            let mut namespaces = lock(&self.namespaces);
            let entry =
                namespaces.entry(namespace.to_owned()).or_insert_with(|| self.watch(namespace));
            (entry.view.clone(), entry.state.clone())
        };
        lock(&view.0).syncs.insert(sync.to_owned(), credentials.map(str::to_owned));
        let settled = timeout(FIRST_LIST, state.wait_for(|state| *state != State::Starting)).await;
        match settled.map(|settled| settled.map(|state| *state)) {
            Ok(Ok(State::Listed)) => Ok(view),
            Ok(Ok(State::Forbidden)) => Err(Unseen::Forbidden { namespace: namespace.to_owned() }),
            _ => Err(Unseen::NotYet { namespace: namespace.to_owned() }),
        }
    }

    /// The sync is gone; with the last one of its namespace the watch ends.
    pub fn forget(&self, namespace: &str, sync: &str) {
        let mut namespaces = lock(&self.namespaces);
        if let Some(entry) = namespaces.get(namespace) {
            let mut contents = lock(&entry.view.0);
            contents.syncs.remove(sync);
            let last = contents.syncs.is_empty();
            drop(contents);
            if last {
                namespaces.remove(namespace);
            }
        }
    }

    fn watch(&self, namespace: &str) -> Namespace {
        let view = View(Arc::default());
        let (state_writer, state) = watch::channel(State::Starting);
        let watcher = NamespaceWatch {
            api: Api::namespaced(self.client.clone(), namespace),
            namespace: namespace.to_owned(),
            view: view.clone(),
            state: state_writer,
            wake: self.wake.clone(),
        };
        let task = tokio::spawn(watcher.run()).abort_handle();
        Namespace { view, state, task }
    }
}

impl View {
    /// The Secret's metadata; `None` if there is none.
    pub fn get(&self, name: &str) -> Option<Seen> {
        lock(&self.0).seen.get(name).cloned()
    }

    /// Remembers our own write, so that its event wakes nobody.
    pub fn written(&self, name: &str, seen: Seen) {
        let mut contents = lock(&self.0);
        contents.written.insert(name.to_owned(), seen.resource_version.clone());
        contents.seen.insert(name.to_owned(), seen);
    }
}

/// Reads what we keep of a Secret's metadata.
pub fn seen(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Seen {
    let owner = metadata.owner_references.iter().flatten().find(|owner| {
        owner.controller == Some(true)
            && owner.kind == "VaultCertSync"
            && owner.api_version.starts_with("vaultaws.dev/")
    });
    Seen {
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        owner: owner.map(|owner| (owner.uid.clone(), owner.name.clone())),
        is_credentials: metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(USE_LABEL))
            .is_some_and(|value| value == USE_CREDENTIALS),
    }
}

struct NamespaceWatch {
    api: Api<PartialObjectMeta<Secret>>,
    namespace: String,
    view: View,
    state: watch::Sender<State>,
    wake: mpsc::UnboundedSender<ObjectRef<VaultCertSync>>,
}

impl NamespaceWatch {
    async fn run(self) {
        // Below the idle time-out of common load balancers, so that a watch that was cut silently is
        // noticed soon.
        let stream = watcher(self.api.clone(), watcher::Config::default().timeout(200));
        pin_mut!(stream);
        let mut listing = HashMap::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => listing = HashMap::new(),
                Ok(Event::InitApply(secret)) => {
                    listing.insert(
                        secret.metadata.name.clone().unwrap_or_default(),
                        seen(&secret.metadata),
                    );
                }
                Ok(Event::InitDone) => self.relisted(std::mem::take(&mut listing)),
                Ok(Event::Apply(secret)) => {
                    let name = secret.metadata.name.clone().unwrap_or_default();
                    let now = seen(&secret.metadata);
                    let before = lock(&self.view.0).seen.insert(name.clone(), now.clone());
                    if before.as_ref() != Some(&now) {
                        self.changed(name, before, Some(now));
                    }
                }
                Ok(Event::Delete(secret)) => {
                    let name = secret.metadata.name.clone().unwrap_or_default();
                    let before = lock(&self.view.0).seen.remove(&name);
                    self.changed(name, before.or_else(|| Some(seen(&secret.metadata))), None);
                }
                Err(error) => {
                    if is_forbidden(&error) {
                        self.enter(State::Forbidden);
                    }
                    tracing::debug!(namespace = self.namespace, %error, "watching Secrets");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// A fresh list: everything that differs from what we knew is a change.
    fn relisted(&self, listing: HashMap<String, Seen>) {
        let before = std::mem::replace(&mut lock(&self.view.0).seen, listing.clone());
        if *self.state.borrow() == State::Listed {
            for (name, old) in &before {
                if listing.get(name) != Some(old) {
                    self.changed(name.clone(), Some(old.clone()), listing.get(name).cloned());
                }
            }
            for (name, new) in listing {
                if !before.contains_key(&name) {
                    self.changed(name, None, Some(new));
                }
            }
        }
        self.enter(State::Listed);
    }

    /// Wakes every sync of the namespace when access came or went.
    fn enter(&self, state: State) {
        let before = self.state.send_replace(state);
        if before != state && before != State::Starting {
            for sync in lock(&self.view.0).syncs.keys() {
                let _ = self.wake.send(ObjectRef::new(sync).within(&self.namespace));
            }
        }
    }

    /// Wakes the sync that controls the Secret and those that use it as credentials, unless the change
    /// turns out to be our own write.
    fn changed(&self, name: String, before: Option<Seen>, now: Option<Seen>) {
        let mut targets: Vec<String> = Vec::new();
        {
            let contents = lock(&self.view.0);
            let owners =
                [&before, &now].into_iter().flatten().filter_map(|seen| seen.owner.as_ref());
            targets.extend(owners.map(|(_, sync)| sync.clone()));
            targets.extend(
                contents
                    .syncs
                    .iter()
                    .filter(|(_, credentials)| credentials.as_deref() == Some(name.as_str()))
                    .map(|(sync, _)| sync.clone()),
            );
        }
        targets.sort();
        targets.dedup();
        if targets.is_empty() {
            return;
        }
        let (view, wake, namespace) =
            (self.view.clone(), self.wake.clone(), self.namespace.clone());
        tokio::spawn(async move {
            tokio::time::sleep(SETTLE).await;
            let ours = {
                let contents = lock(&view.0);
                let stands = contents.seen.get(&name).map(|seen| &seen.resource_version);
                stands.is_some() && stands == contents.written.get(&name)
            };
            if !ours {
                for sync in targets {
                    let _ = wake.send(ObjectRef::new(&sync).within(&namespace));
                }
            }
        });
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code,
        watcher::Error::WatchError(status) => status.code,
        _ => 0,
    };
    code == 403
}
