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
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use kube::{Client, runtime::reflector::ObjectRef};
use serde::{Serialize, de::DeserializeOwned};

mod follow;
mod read;
mod store;
mod tell;

use self::{
    follow::{Follower, Progress},
    read::Guarded,
    tell::Pending,
};
pub(super) use self::{read::read_object, store::Stamp};
pub use self::{
    store::{Form, Store},
    tell::{Subscription, TRIGGER_RATE, triggers},
};
use crate::{lock::lock, telemetry::Metrics};

/// A kind that can be watched: any typed resource, or `PartialObjectMeta<K>` for metadata only.
pub trait Kind:
    kube::Resource<DynamicType = ()>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
}

impl<K> Kind for K where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static
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

impl<K: Kind> Watched<K> {
    /// Starts watching. Must be called within a Tokio runtime. The client must have no read
    /// timeout, or quiet watches end early.
    ///
    /// The API server ends each watch after `lasting`, which should be below the idle limit of what
    /// stands between; one that is silent for longer counts as dead. `prune` drops what nobody reads
    /// before an object is stored, in that `form`. `managedFields` and kubectl's last-applied annotation
    /// are always dropped.
    pub fn start(
        client: Client,
        metrics: Metrics,
        scope: Scope,
        lasting: Duration,
        prune: fn(&mut K),
        form: Form,
    ) -> Self {
        let watched = Self {
            inner: Arc::new(Inner {
                client,
                metrics,
                lasting,
                prune,
                store: Store::new(form),
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
        let subscription = Subscription::default();
        lock(&self.inner.subscribers).push(subscription.pending());
        subscription
    }

    /// What keeps this kind from being trusted, if anything: for `/readyz`.
    pub fn complaint(&self) -> Option<String> {
        let limit = self.inner.lasting * 3;
        let kind = K::kind(&());
        for (scope, progress) in lock(&self.inner.streams).iter().filter(|(_, p)| p.vital) {
            if let Some(complaint) = progress.complaint(limit) {
                let place = scope.as_deref().map(|name| format!(" in {name}")).unwrap_or_default();
                return Some(format!("{kind}{place}: {complaint}"));
            }
        }
        None
    }

    fn open(&self, scope: Option<String>, vital: bool) {
        let mut streams = lock(&self.inner.streams);
        if streams.contains_key(&scope) {
            return;
        }
        let progress = Follower::start(&self.inner, scope.clone(), vital);
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
        let old = self.store.remove(&key);
        if old.is_some() {
            self.announce(Event { object: key, old, new: None });
        }
    }

    /// Drops what the scope no longer holds.
    fn retain(&self, scope: &Option<String>, seen: &HashSet<Arc<ObjectRef<K>>>) {
        let in_scope = |key: &ObjectRef<K>| scope.is_none() || key.namespace == *scope;
        for key in self.store.keys() {
            if in_scope(&key) && !seen.contains(&key) {
                self.deleted(ObjectRef::clone(&key));
            }
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
    use kube::Config;
    use serde_json::json;

    use super::*;

    /// A store that nobody fills: no namespace is watched, so no request is made.
    pub(super) fn unwatched<K: Kind>() -> Watched<K> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let nowhere = Config::new("https://127.0.0.1:1".parse().expect("an address"));
        let client = Client::try_from(nowhere).expect("a client");
        Watched::start(
            client,
            Metrics::new(false),
            Scope::Namespaces(Vec::new()),
            Duration::from_secs(200),
            |_| {},
            Form::Typed,
        )
    }

    pub(super) fn config_map(namespace: &str, name: &str, version: &str) -> ConfigMap {
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
}
