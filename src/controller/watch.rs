//! What the API server holds of one kind, kept in memory: list, watch, and who wants to know.
//!
//! kube's own `watcher` and `reflector` are not used, for four reasons that matter at ten thousand
//! objects and on a bad day:
//! - bookmarks and quiet reconnects are invisible outside of `watcher`, so "the watch still makes
//!   progress" cannot be told from "nothing happened", and a watch request that never gets an
//!   answer hangs unseen;
//! - a reflector builds a second store during a relist, which doubles the memory for good; here a
//!   relist is compared with the store, page by page, and what did not change is not announced;
//! - one reflector holds one watch: several namespaces, each with its own permissions and its own
//!   backoff, cannot share a store;
//! - `managedFields`, the larger part of an object, are dropped before the object is parsed, and an
//!   object that does not fit its type is left out instead of stopping the stream.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    ops::ControlFlow,
    pin::pin,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use kube::{
    Client,
    api::{ListParams, WatchEvent, WatchParams},
    core::{ObjectList, Request},
    runtime::reflector::ObjectRef,
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::schedule;
use crate::{clock, fault::chain, lock::lock, telemetry::Metrics};

/// What the client adds to it before it takes the connection for dead.
const WATCH_MARGIN: Duration = Duration::from_secs(5);

/// How long a page of a list may take to arrive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a watch may take to be accepted: the API server does so before there is anything to tell.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(15);

/// Objects in one page of a list.
const PAGE: u32 = 250;

/// A kind that can be watched: any typed resource, or `PartialObjectMeta<K>` for metadata only.
pub trait Kind:
    kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Kind for K where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// Which part of the cluster is watched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// The whole cluster. The only scope of a cluster-scoped kind.
    All,
    /// These namespaces, one watch each. May be empty: [`Watched::include`] adds more.
    Namespaces(Vec<String>),
}

/// One object changed.
#[derive(Clone, Debug)]
pub struct Event<K: Kind> {
    /// Which.
    pub object: ObjectRef<K>,
    /// As it was when the subscriber was last told; `None` if it was not there.
    pub old: Option<Arc<K>>,
    /// As it is; `None` if it is gone.
    pub new: Option<Arc<K>>,
}

impl<K: Kind> Event<K> {
    /// Whether the object is gone.
    pub fn is_deletion(&self) -> bool {
        self.new.is_none()
    }

    /// The object as it is, or as it was before it went.
    pub fn latest(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// How a watch stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Not watched, or not yet listed.
    Pending,
    /// Listed and followed; what the store says can be trusted, absence included.
    Granted,
    /// The API server refuses: 401 or 403. Tried again slowly.
    Denied,
    /// The API server does not know the kind: its CRD is missing. Tried again slowly.
    Unknown,
}

/// The objects of one kind, as last heard from the API server. A cheap handle.
pub struct Store<K: Kind> {
    objects: Arc<RwLock<Objects<K>>>,
}

/// The keys are shared with whoever keeps something about an object.
type Objects<K> = HashMap<Arc<ObjectRef<K>>, Arc<K>>;

impl<K: Kind> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self { objects: Arc::clone(&self.objects) }
    }
}

impl<K: Kind> Default for Store<K> {
    fn default() -> Self {
        Self { objects: Arc::default() }
    }
}

impl<K: Kind> Store<K> {
    /// The object of this name. `namespace` is `None` for a cluster-scoped kind.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        self.fetch(&object_ref(namespace, name))
    }

    /// The object that is referred to.
    pub fn fetch(&self, object: &ObjectRef<K>) -> Option<Arc<K>> {
        self.read().get(object).cloned()
    }

    /// The store's own reference to the object, which costs nothing to keep; `None` if it is not there.
    pub fn key(&self, object: &ObjectRef<K>) -> Option<Arc<ObjectRef<K>>> {
        self.read().get_key_value(object).map(|(key, _)| Arc::clone(key))
    }

    /// Every object with its reference, in no order.
    pub fn entries(&self) -> Vec<(Arc<ObjectRef<K>>, Arc<K>)> {
        let objects = self.read();
        objects.iter().map(|(key, object)| (Arc::clone(key), Arc::clone(object))).collect()
    }

    /// Every object, in no order.
    pub fn state(&self) -> Vec<Arc<K>> {
        self.read().values().cloned().collect()
    }

    /// The objects that match, in no order. The store is locked while `matches` runs.
    pub fn select(&self, matches: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        self.read().values().filter(|object| matches(object)).cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Objects<K>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Objects<K>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the object in; the one it replaces, or `Err` if both are the same version.
    fn put(&self, key: &ObjectRef<K>, object: &Arc<K>) -> Result<Option<Arc<K>>, Unchanged> {
        let mut objects = self.write();
        let Some(held) = objects.get_mut(key) else {
            return Ok(objects.insert(Arc::new(key.clone()), Arc::clone(object)));
        };
        if held.meta().uid == object.meta().uid
            && held.meta().resource_version == object.meta().resource_version
        {
            return Err(Unchanged);
        }
        Ok(Some(std::mem::replace(held, Arc::clone(object))))
    }
}

/// The store holds this very version.
struct Unchanged;

/// A reference by name alone.
pub fn object_ref<K: Kind>(namespace: Option<&str>, name: &str) -> ObjectRef<K> {
    let object = ObjectRef::new(name);
    match namespace {
        Some(namespace) => object.within(namespace),
        None => object,
    }
}

/// A reference to this object, by name alone.
pub fn reference<K: Kind>(object: &K) -> ObjectRef<K> {
    let meta = object.meta();
    object_ref(meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default())
}

/// One kind, watched: its store and who is told of changes. A cheap handle; the watches end when
/// the last handle is dropped.
pub struct Watched<K: Kind> {
    inner: Arc<Inner<K>>,
}

impl<K: Kind> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<K: Kind> {
    client: Client,
    metrics: Metrics,
    lasting: Duration,
    prune: fn(&mut K),
    store: Store<K>,
    /// By namespace; `None` is the whole cluster.
    streams: Mutex<HashMap<Option<String>, Arc<Progress>>>,
    subscribers: Mutex<Vec<Weak<Pending<K>>>>,
}

impl<K: Kind> Drop for Inner<K> {
    fn drop(&mut self) {
        for progress in lock(&self.streams).values() {
            progress.stop();
        }
    }
}

/// How far one stream has come.
struct Progress {
    /// When the API server last said anything: an object, a bookmark, a list, a new watch.
    heard: Mutex<Instant>,
    access: watch::Sender<Access>,
    /// What is wrong just now.
    trouble: Mutex<Option<String>>,
    task: Mutex<Option<AbortHandle>>,
    /// Whether the process is unready while this stream is stuck.
    vital: bool,
}

impl Progress {
    fn new(vital: bool) -> Self {
        Self {
            heard: Mutex::new(Instant::now()),
            access: watch::Sender::new(Access::Pending),
            trouble: Mutex::new(None),
            task: Mutex::new(None),
            vital,
        }
    }

    fn stop(&self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

impl<K: Kind> Watched<K> {
    /// Starts watching. Must be called within a Tokio runtime. The client must have no read
    /// timeout, or quiet watches end early.
    ///
    /// The API server ends each watch after `lasting`, which should be below the idle limit of what
    /// stands between; one that is silent for longer counts as dead. `prune` drops what nobody reads
    /// before an object is stored. `managedFields` and kubectl's last-applied annotation are always
    /// dropped.
    pub fn start(
        client: Client,
        metrics: Metrics,
        scope: Scope,
        lasting: Duration,
        prune: fn(&mut K),
    ) -> Self {
        let watched = Self {
            inner: Arc::new(Inner {
                client,
                metrics,
                lasting,
                prune,
                store: Store::default(),
                streams: Mutex::default(),
                subscribers: Mutex::default(),
            }),
        };
        match scope {
            Scope::All => watched.open(None, true),
            Scope::Namespaces(namespaces) => {
                for namespace in namespaces {
                    watched.open(Some(namespace), true);
                }
            }
        }
        watched
    }

    /// Watches one more namespace, if it is not watched yet. Such a stream may be denied without
    /// making the process unready: ask [`Self::access`].
    pub fn include(&self, namespace: &str) {
        self.open(Some(namespace.to_owned()), false);
    }

    /// Stops watching the namespace; its objects leave the store.
    pub fn exclude(&self, namespace: &str) {
        let scope = Some(namespace.to_owned());
        if let Some(progress) = lock(&self.inner.streams).remove(&scope) {
            progress.stop();
            self.inner.retain(&scope, &HashSet::new());
        }
    }

    /// How the watch that covers this namespace stands; `None` for a cluster-scoped object.
    pub fn access(&self, namespace: Option<&str>) -> Access {
        let streams = lock(&self.inner.streams);
        let covering = streams
            .get(&None)
            .or_else(|| namespace.and_then(|name| streams.get(&Some(name.to_owned()))));
        covering.map_or(Access::Pending, |progress| *progress.access.borrow())
    }

    /// The objects.
    pub fn store(&self) -> Store<K> {
        self.inner.store.clone()
    }

    /// Resolves when every stream that was open at the call has been listed once.
    pub async fn ready(&self) {
        let waiting: Vec<_> = lock(&self.inner.streams)
            .values()
            .filter(|progress| progress.vital)
            .map(|progress| progress.access.subscribe())
            .collect();
        for mut access in waiting {
            // The sender lives in the stream: if it is gone, nobody will list any more.
            let _ = access.wait_for(|access| *access == Access::Granted).await;
        }
    }

    /// Changes from now on, each object at most once in a batch however often it changed meanwhile.
    pub fn subscribe(&self) -> Subscription<K> {
        let pending = Arc::new(Pending { events: Mutex::default(), arrived: Notify::new() });
        lock(&self.inner.subscribers).push(Arc::downgrade(&pending));
        Subscription { pending }
    }

    /// What keeps this kind from being trusted, if anything: for `/readyz`.
    pub fn complaint(&self) -> Option<String> {
        let limit = self.inner.lasting * 3;
        let kind = K::kind(&());
        for (scope, progress) in lock(&self.inner.streams).iter().filter(|(_, p)| p.vital) {
            let place = scope.as_deref().map(|name| format!(" in {name}")).unwrap_or_default();
            let listed = *progress.access.borrow() == Access::Granted;
            let quiet = lock(&progress.heard).elapsed();
            if listed && quiet <= limit {
                continue;
            }
            let trouble = lock(&progress.trouble).clone().unwrap_or_default();
            let what = if listed { "no progress" } else { "not listed yet" };
            return Some(format!("{kind}{place}: {what} ({}s) {trouble}", quiet.as_secs()));
        }
        None
    }

    fn open(&self, scope: Option<String>, vital: bool) {
        let mut streams = lock(&self.inner.streams);
        if streams.contains_key(&scope) {
            return;
        }
        let progress = Arc::new(Progress::new(vital));
        let follower = Follower {
            inner: Arc::downgrade(&self.inner),
            progress: Arc::clone(&progress),
            scope: scope.clone(),
        };
        *lock(&progress.task) = Some(tokio::spawn(follower.run()).abort_handle());
        streams.insert(scope, progress);
    }
}

impl<K: Kind> Inner<K> {
    fn applied(&self, mut object: K) {
        (self.prune)(&mut object);
        let key = reference(&object);
        let object = Arc::new(object);
        if let Ok(old) = self.store.put(&key, &object) {
            self.announce(Event { object: key, old, new: Some(object) });
        }
    }

    fn deleted(&self, key: ObjectRef<K>) {
        let old = self.store.write().remove(&key);
        if old.is_some() {
            self.announce(Event { object: key, old, new: None });
        }
    }

    /// Drops what the scope no longer holds.
    fn retain(&self, scope: &Option<String>, seen: &HashSet<Arc<ObjectRef<K>>>) {
        let gone: Vec<_> = self
            .store
            .read()
            .keys()
            .filter(|key| scope.is_none() || key.namespace == *scope)
            .filter(|key| !seen.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            self.deleted(ObjectRef::clone(&key));
        }
    }

    fn announce(&self, event: Event<K>) {
        lock(&self.subscribers).retain(|subscriber| match subscriber.upgrade() {
            Some(pending) => {
                pending.add(event.clone());
                true
            }
            None => false,
        });
    }

    /// The object's key if there is an object to store; one that does not fit counts as absent.
    fn take(&self, found: Guarded<K>) -> Option<Arc<ObjectRef<K>>> {
        match found {
            Guarded::Fits(object) => {
                let key = reference(&*object);
                self.applied(*object);
                self.store.key(&key)
            }
            Guarded::Malformed { namespace, name, error, .. } => {
                let kind = K::kind(&());
                tracing::warn!(%kind, namespace, name, error, "object does not fit its type, left out");
                self.metrics.malformed_object(&kind);
                self.deleted(object_ref(namespace.as_deref(), &name));
                None
            }
        }
    }
}

/// One stream: lists, then follows, for ever.
struct Follower<K: Kind> {
    inner: Weak<Inner<K>>,
    progress: Arc<Progress>,
    scope: Option<String>,
}

/// Why a list or a watch ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the API server answers {code}: {message}")]
    Refused { code: u16, message: String },
    #[error("the API server cannot be reached")]
    Failed(#[source] kube::Error),
    #[error("the API server cut the watch off: {0}")]
    CutOff(String),
    #[error("the watch ended at once")]
    Short,
    /// 410: the history is gone, list again.
    #[error("the watch fell behind")]
    Expired,
    #[error("the list carries no resourceVersion")]
    NoVersion,
}

impl Broken {
    fn code(&self) -> u16 {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Expired => 410,
            _ => 0,
        }
    }
}

impl From<kube::Error> for Broken {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 410 => Self::Expired,
            kube::Error::Api(status) => {
                Self::Refused { code: status.code, message: status.message }
            }
            error => Self::Failed(error),
        }
    }
}

impl<K: Kind> Follower<K> {
    async fn run(self) {
        let mut version = None;
        let mut attempt = 0;
        loop {
            let began = Instant::now();
            let step = match version.take() {
                None => self.list().await,
                Some(version) => self.follow(version).await,
            };
            let Err((broken, resume)) = step.map(|next| {
                version = next;
                attempt = 0;
            }) else {
                if version.is_none() {
                    return; // Nobody holds the store any more.
                }
                continue;
            };
            version = resume;
            self.stumbled(&broken);
            // A watch that held for a while and then broke is a first failure again.
            if began.elapsed() > Duration::from_secs(60) {
                attempt = 0;
            }
            let seed = schedule::seed(&format!("{}{:?}", K::kind(&()), self.scope));
            sleep(schedule::watch_delay(broken.code(), attempt, seed)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Lists page by page; the version to follow from. `Ok(None)`: nobody is left to list for.
    async fn list(&self) -> Result<Option<String>, (Broken, Option<String>)> {
        let mut seen = HashSet::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let Some(inner) = self.inner.upgrade() else { return Ok(None) };
            let client = inner.client.clone();
            drop(inner); // A request must not keep the watches of a dropped handle alive.
            let page = self.page(client, &params).await.map_err(|broken| (broken, None))?;
            let Some(inner) = self.inner.upgrade() else { return Ok(None) };
            self.heard(&inner);
            for found in page.items {
                match &found {
                    Guarded::Fits(_) => seen.extend(inner.take(found)),
                    Guarded::Malformed { .. } => drop(inner.take(found)),
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    let version = page.metadata.resource_version.filter(|v| !v.is_empty());
                    let version = version.ok_or((Broken::NoVersion, None))?;
                    inner.retain(&self.scope, &seen);
                    self.recovered(Access::Granted);
                    return Ok(Some(version));
                }
            }
        }
    }

    async fn page(
        &self,
        client: Client,
        params: &ListParams,
    ) -> Result<ObjectList<Guarded<K>>, Broken> {
        let request = self.request();
        let request =
            if K::metadata_api() { request.list_metadata(params) } else { request.list(params) };
        let request = request.map_err(kube::Error::BuildRequest)?;
        timeout(ANSWER_TIMEOUT, client.request(request))
            .await
            .map_err(|_| Broken::Silent(ANSWER_TIMEOUT))?
            .map_err(Broken::from)
    }

    /// Follows one watch to its end; the version it came to. `Ok(None)`: nobody is left.
    async fn follow(
        &self,
        mut version: String,
    ) -> Result<Option<String>, (Broken, Option<String>)> {
        let Some(inner) = self.inner.upgrade() else { return Ok(None) };
        let (client, lasting) = (inner.client.clone(), inner.lasting);
        drop(inner);
        let seconds = u32::try_from(lasting.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams { timeout: Some(seconds), bookmarks: true, ..Default::default() };
        let request = self.request();
        let request = if K::metadata_api() {
            request.watch_metadata(&params, &version)
        } else {
            request.watch(&params, &version)
        };
        let began = Instant::now();
        let opened = async {
            let request = request.map_err(kube::Error::BuildRequest)?;
            timeout(ACCEPT_TIMEOUT, client.request_events::<Guarded<K>>(request))
                .await
                .map_err(|_| Broken::Silent(ACCEPT_TIMEOUT))?
                .map_err(Broken::from)
        };
        let stream = match opened.await {
            Ok(stream) => stream,
            Err(broken) => return Err(resume(broken, version)),
        };
        let mut stream = pin!(stream);
        match self.inner.upgrade() {
            Some(inner) => self.heard(&inner),
            None => return Ok(None),
        }
        self.recovered(Access::Granted);
        let mut events = 0_u64;
        loop {
            // The server ends each watch itself; silence beyond that is a dead connection.
            let Ok(next) = timeout(lasting + WATCH_MARGIN, stream.next()).await else {
                return Err((Broken::Silent(lasting + WATCH_MARGIN), Some(version)));
            };
            let Some(inner) = self.inner.upgrade() else { return Ok(None) };
            match next {
                None if events == 0 && began.elapsed() < Duration::from_secs(1) => {
                    return Err((Broken::Short, Some(version)));
                }
                None => return Ok(Some(version)),
                Some(Err(error)) => return Err(resume(Broken::from(error), version)),
                Some(Ok(event)) => {
                    self.heard(&inner);
                    events += 1;
                    if let ControlFlow::Break(broken) = happened(&inner, event, &mut version) {
                        return Err(resume(broken, version));
                    }
                }
            }
        }
    }

    fn request(&self) -> Request {
        Request::new(K::url_path(&(), self.scope.as_deref()))
    }

    fn heard(&self, inner: &Inner<K>) {
        *lock(&self.progress.heard) = Instant::now();
        inner.metrics.watch_progressed(&K::kind(&()), clock::now());
    }

    fn recovered(&self, access: Access) {
        if let Some(trouble) = lock(&self.progress.trouble).take() {
            let kind = K::kind(&());
            tracing::info!(%kind, namespace = self.scope, was = trouble, "watching again");
        }
        self.progress.access.send_replace(access);
    }

    /// Says what went wrong, once per kind of trouble.
    fn stumbled(&self, broken: &Broken) {
        if matches!(broken, Broken::Expired) {
            return; // Part of the protocol.
        }
        match broken.code() {
            401 | 403 => drop(self.progress.access.send_replace(Access::Denied)),
            404 => drop(self.progress.access.send_replace(Access::Unknown)),
            _ => {}
        }
        let trouble = chain(broken);
        let mut known = lock(&self.progress.trouble);
        if known.as_ref() != Some(&trouble) {
            let kind = K::kind(&());
            tracing::warn!(%kind, namespace = self.scope, error = trouble, "watch is interrupted");
            *known = Some(trouble);
        }
    }
}

/// After this trouble: list again, or go on from where the watch was.
fn resume(broken: Broken, version: String) -> (Broken, Option<String>) {
    let again = match broken.code() {
        // The history or the kind is gone, or what we may see has changed: compare everything.
        401 | 403 | 404 | 410 => None,
        _ => Some(version),
    };
    (broken, again)
}

fn happened<K: Kind>(
    inner: &Inner<K>,
    event: WatchEvent<Guarded<K>>,
    version: &mut String,
) -> ControlFlow<Broken> {
    match event {
        WatchEvent::Added(found) | WatchEvent::Modified(found) => {
            found.advance(version);
            inner.take(found);
        }
        WatchEvent::Deleted(found) => {
            found.advance(version);
            inner.deleted(found.key());
        }
        WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
        WatchEvent::Error(status) if status.code == 410 => {
            return ControlFlow::Break(Broken::Expired);
        }
        WatchEvent::Error(status) => {
            return ControlFlow::Break(Broken::CutOff(status.message.clone()));
        }
    }
    ControlFlow::Continue(())
}

/// An object of the stream, or what could be read of one that does not fit its type: a resource
/// that was stored under an older schema must not hide all the others.
#[derive(Clone, Debug)]
enum Guarded<K> {
    Fits(Box<K>),
    Malformed { namespace: Option<String>, name: String, version: String, error: String },
}

impl<K: Kind> Guarded<K> {
    fn key(&self) -> ObjectRef<K> {
        match self {
            Self::Fits(object) => reference(&**object),
            Self::Malformed { namespace, name, .. } => object_ref(namespace.as_deref(), name),
        }
    }

    fn advance(&self, version: &mut String) {
        let reached = match self {
            Self::Fits(object) => object.meta().resource_version.as_ref(),
            Self::Malformed { version, .. } => Some(version),
        };
        if let Some(reached) = reached.filter(|reached| !reached.is_empty()) {
            version.clone_from(reached);
        }
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde_json::Value;

        let mut value = Value::deserialize(deserializer)?;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            if let Some(notes) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                notes.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
        }
        let said = |field| value.pointer(field).and_then(Value::as_str).map(ToOwned::to_owned);
        let namespace = said("/metadata/namespace");
        let name = said("/metadata/name").unwrap_or_default();
        let version = said("/metadata/resourceVersion").unwrap_or_default();
        Ok(match serde_json::from_value(value) {
            Ok(object) => Self::Fits(Box::new(object)),
            Err(error) => Self::Malformed { namespace, name, version, error: error.to_string() },
        })
    }
}

/// Changes of one kind that one listener has not yet taken. It holds at most one entry for each
/// object, so a listener that is slow, or never listens, costs no more than the store itself.
pub struct Subscription<K: Kind> {
    pending: Arc<Pending<K>>,
}

struct Pending<K: Kind> {
    events: Mutex<HashMap<ObjectRef<K>, Event<K>>>,
    arrived: Notify,
}

impl<K: Kind> Pending<K> {
    fn add(&self, event: Event<K>) {
        let mut events = lock(&self.events);
        match events.get_mut(&event.object) {
            Some(earlier) => earlier.new = event.new,
            None => drop(events.insert(event.object.clone(), event)),
        }
        self.arrived.notify_one();
    }
}

impl<K: Kind> Subscription<K> {
    /// Waits for changes and takes them all, in no order. Cancel safe.
    pub async fn next(&mut self) -> Vec<Event<K>> {
        loop {
            let taken = std::mem::take(&mut *lock(&self.pending.events));
            if !taken.is_empty() {
                return taken.into_values().collect();
            }
            self.pending.arrived.notified().await;
        }
    }
}

/// Who has to be looked at when another object changes: `mapper` names the dependents of a change.
/// A change from before the call is not told. Each dependent is named once however many changes
/// concern it meanwhile; a crowd is let through at [`TRIGGER_RATE`], so that ten thousand
/// dependents of one object are awake within five seconds and not in one instant.
pub fn triggers<D: Kind, K: Kind>(
    dependency: &Watched<D>,
    mut mapper: impl FnMut(&Event<D>) -> Vec<ObjectRef<K>> + Send + 'static,
) -> impl Stream<Item = ObjectRef<K>> + Send + 'static {
    struct Crowd<D: Kind, K: Kind, M> {
        changes: Subscription<D>,
        mapper: M,
        waiting: HashSet<ObjectRef<K>>,
        through: Vec<ObjectRef<K>>,
    }
    let crowd = Crowd {
        changes: dependency.subscribe(),
        mapper: move |event: &Event<D>| mapper(event),
        waiting: HashSet::new(),
        through: Vec::new(),
    };
    stream::unfold(crowd, |mut crowd| async move {
        loop {
            if let Some(object) = crowd.through.pop() {
                return Some((object, crowd));
            }
            if crowd.waiting.is_empty() {
                let changes = crowd.changes.next().await;
                crowd.waiting.extend(changes.iter().flat_map(&mut crowd.mapper));
            } else {
                sleep(TRIGGER_PAUSE).await;
            }
            let group: Vec<_> = crowd.waiting.iter().take(TRIGGER_GROUP).cloned().collect();
            for object in &group {
                crowd.waiting.remove(object);
            }
            crowd.through = group;
        }
    })
}

/// How many dependents are woken together, and the pause between two groups.
const TRIGGER_GROUP: usize = 128;
const TRIGGER_PAUSE: Duration = Duration::from_millis(40);

/// Dependents that are woken in a second.
pub const TRIGGER_RATE: usize = TRIGGER_GROUP * 25;

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
    use kube::{Config, core::PartialObjectMeta};
    use serde_json::json;

    use super::*;

    /// A store that nobody fills: no namespace is watched, so no request is made.
    fn unwatched<K: Kind>() -> Watched<K> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let nowhere = Config::new("https://127.0.0.1:1".parse().expect("an address"));
        let client = Client::try_from(nowhere).expect("a client");
        Watched::start(
            client,
            Metrics::new(false),
            Scope::Namespaces(Vec::new()),
            Duration::from_secs(200),
            |_| {},
        )
    }

    fn config_map(namespace: &str, name: &str, version: &str) -> ConfigMap {
        serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "namespace": namespace, "name": name, "uid": name, "resourceVersion": version,
            },
        }))
        .expect("a config map")
    }

    fn version(object: &Option<Arc<ConfigMap>>) -> Option<&str> {
        object.as_ref()?.metadata.resource_version.as_deref()
    }

    #[test]
    fn what_only_kubectl_and_the_api_server_read_is_dropped_before_parsing() {
        let found: Guarded<ConfigMap> = serde_json::from_value(json!({
            "metadata": {
                "name": "a",
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:data": {}}}],
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "{}",
                    "vaultaws.dev/refresh": "1",
                },
            },
        }))
        .expect("an object");
        let Guarded::Fits(object) = found else { panic!("it fits") };
        assert_eq!(object.metadata.managed_fields, None);
        let notes: Vec<_> = object.metadata.annotations.into_iter().flatten().collect();
        assert_eq!(notes, [("vaultaws.dev/refresh".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn an_object_that_does_not_fit_its_type_keeps_its_name_and_version() {
        let found: Guarded<ConfigMap> = serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": "a", "resourceVersion": "7"},
            "data": "not a map",
        }))
        .expect("something");
        assert_eq!(found.key(), object_ref(Some("n"), "a"));
        let mut reached = "1".to_owned();
        found.advance(&mut reached);
        assert_eq!(reached, "7");
        assert!(matches!(found, Guarded::Malformed { .. }));
    }

    #[test]
    fn a_list_with_one_malformed_object_still_holds_the_others() {
        let page: ObjectList<Guarded<PartialObjectMeta<Secret>>> = serde_json::from_value(json!({
            "apiVersion": "meta.k8s.io/v1",
            "kind": "PartialObjectMetadataList",
            "metadata": {"resourceVersion": "9"},
            "items": [
                {"metadata": {"namespace": "n", "name": "a", "labels": 7}},
                {"metadata": {"namespace": "n", "name": "b"}},
            ],
        }))
        .expect("a list");
        let fits: Vec<_> =
            page.items.iter().map(|found| matches!(found, Guarded::Fits(_))).collect();
        assert_eq!(fits, [false, true]);
    }

    #[test]
    fn a_bookmark_and_an_object_both_move_the_version_forward() {
        let events = [
            r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"5"}}}"#,
            r#"{"object":{"metadata":{"name":"a","resourceVersion":"6"}},"type":"MODIFIED"}"#,
            r#"{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"9"}}}"#,
        ];
        let mut reached = Vec::new();
        for event in events {
            let mut version = "1".to_owned();
            match serde_json::from_str(event).expect("an event") {
                WatchEvent::<Guarded<ConfigMap>>::Added(found) | WatchEvent::Modified(found) => {
                    found.advance(&mut version);
                }
                WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                other => panic!("unexpected {other:?}"),
            }
            reached.push(version);
        }
        assert_eq!(reached, ["5", "6", "9"]);
    }

    #[test]
    fn a_refusal_lists_again_and_a_broken_connection_goes_on() {
        let after = |broken| resume(broken, "7".to_owned()).1;
        assert_eq!(after(Broken::Short).as_deref(), Some("7"));
        assert_eq!(after(Broken::Silent(WATCH_MARGIN)).as_deref(), Some("7"));
        assert_eq!(after(Broken::Expired), None);
        for code in [401, 403, 404] {
            assert_eq!(after(Broken::Refused { code, message: String::new() }), None);
        }
    }

    #[tokio::test]
    async fn a_subscriber_is_told_once_however_often_an_object_changed() {
        let watched = unwatched::<ConfigMap>();
        watched.inner.applied(config_map("n", "a", "1"));
        let mut changes = watched.subscribe();
        watched.inner.applied(config_map("n", "a", "2"));
        watched.inner.applied(config_map("n", "a", "3"));
        let batch = changes.next().await;
        assert_eq!(batch.len(), 1);
        assert_eq!((version(&batch[0].old), version(&batch[0].new)), (Some("1"), Some("3")));
    }

    #[tokio::test]
    async fn what_a_relist_finds_unchanged_is_not_announced_and_what_it_misses_is_gone() {
        let watched = unwatched::<ConfigMap>();
        for name in ["kept", "gone"] {
            watched.inner.applied(config_map("n", name, "1"));
        }
        watched.inner.applied(config_map("other", "gone", "1"));
        let mut changes = watched.subscribe();
        watched.inner.applied(config_map("n", "kept", "1"));
        let seen = HashSet::from([Arc::new(object_ref(Some("n"), "kept"))]);
        watched.inner.retain(&Some("n".to_owned()), &seen);
        let batch = changes.next().await;
        assert_eq!(batch.len(), 1, "the other namespace is another stream's: {batch:?}");
        assert!(batch[0].is_deletion() && batch[0].object == object_ref(Some("n"), "gone"));
        assert_eq!(watched.store().len(), 2);
    }

    #[tokio::test]
    async fn a_successor_of_the_same_name_shows_as_one_change_of_uid() {
        let watched = unwatched::<ConfigMap>();
        watched.inner.applied(config_map("n", "a", "1"));
        let mut changes = watched.subscribe();
        watched.inner.deleted(object_ref(Some("n"), "a"));
        let mut successor = config_map("n", "a", "2");
        successor.metadata.uid = Some("b".to_owned());
        watched.inner.applied(successor);
        let batch = changes.next().await;
        let uid = |object: &Option<Arc<ConfigMap>>| object.as_ref()?.metadata.uid.clone();
        assert_eq!(uid(&batch[0].old).as_deref(), Some("a"));
        assert_eq!(uid(&batch[0].new).as_deref(), Some("b"));
    }

    #[tokio::test]
    async fn a_malformed_object_leaves_the_store() {
        let watched = unwatched::<ConfigMap>();
        watched.inner.applied(config_map("n", "a", "1"));
        let malformed = Guarded::Malformed {
            namespace: Some("n".to_owned()),
            name: "a".to_owned(),
            version: "2".to_owned(),
            error: "no".to_owned(),
        };
        assert!(watched.inner.take(malformed).is_none());
        assert!(watched.store().is_empty());
    }

    #[tokio::test]
    async fn a_namespace_that_is_no_longer_watched_leaves_the_store() {
        let watched = unwatched::<ConfigMap>();
        watched.include("n");
        assert_eq!(watched.access(Some("n")), Access::Pending);
        watched.inner.applied(config_map("n", "a", "1"));
        watched.exclude("n");
        assert!(watched.store().is_empty());
        assert_eq!(watched.complaint(), None, "an optional namespace does not make us unready");
    }

    #[tokio::test]
    async fn a_namespace_that_is_not_listed_yet_makes_us_unready() {
        let watched = unwatched::<Namespace>();
        watched.open(None, true);
        let complaint = watched.complaint().expect("a complaint");
        assert!(complaint.starts_with("Namespace: not listed yet"), "{complaint}");
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_dependents_of_one_change_are_awake_within_five_seconds() {
        let dependency = unwatched::<ConfigMap>();
        let mapper = |_: &Event<ConfigMap>| -> Vec<ObjectRef<Secret>> {
            (0..10_000).map(|number| object_ref(Some("n"), &number.to_string())).collect()
        };
        let mut woken = pin!(triggers(&dependency, mapper));
        dependency.inner.applied(config_map("n", "a", "1"));
        let began = Instant::now();
        let mut names = HashSet::new();
        while names.len() < 10_000 {
            names.insert(woken.next().await.expect("endless").name);
        }
        let took = began.elapsed();
        assert!(took > Duration::from_secs(2) && took < Duration::from_secs(5), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_dependent_is_woken_at_once() {
        let dependency = unwatched::<ConfigMap>();
        let mapper = |event: &Event<ConfigMap>| -> Vec<ObjectRef<Secret>> {
            vec![object_ref(event.object.namespace.as_deref(), &event.object.name)]
        };
        let mut woken = pin!(triggers(&dependency, mapper));
        dependency.inner.applied(config_map("n", "a", "1"));
        let began = Instant::now();
        assert_eq!(woken.next().await, Some(object_ref(Some("n"), "a")));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
