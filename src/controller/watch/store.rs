//! The objects of one kind, as last heard from the API server.
//!
//! Of a kind of which there may be many thousands, an object is kept as its own text, packed, and read
//! again when somebody asks for it: typed, each of its short texts has a place of its own in memory,
//! which makes it five times larger ([`Form`]).

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use kube::{core::ObjectMeta, runtime::reflector::ObjectRef};
use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};

use super::{super::schedule::seed, Kind, object_ref};

/// How objects are kept.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// As they are used: for kinds of which there are few, or which are looked through often.
    Typed,
    /// As their JSON, packed.
    Packed {
        /// What most of them look like: what an object has in common with it takes hardly any room.
        /// Any text is right; a good one is a whole object, its fields in the order of the type.
        like: &'static str,
    },
}

/// The objects of one kind. A cheap handle.
pub struct Store<K: Kind> {
    form: Form,
    objects: Arc<RwLock<Objects<K>>>,
}

/// The keys are shared with whoever keeps something about an object.
type Objects<K> = HashMap<Arc<ObjectRef<K>>, Kept<K>>;

impl<K: Kind> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self { form: self.form, objects: Arc::clone(&self.objects) }
    }
}

impl<K: Kind> Store<K> {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, objects: Arc::default() }
    }

    /// The object of this name. `namespace` is `None` for a cluster-scoped kind.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        self.fetch(&object_ref(namespace, name))
    }

    /// The object that is referred to.
    pub fn fetch(&self, object: &ObjectRef<K>) -> Option<Arc<K>> {
        self.read().get(object).and_then(|kept| kept.object(self.form))
    }

    /// Which object stands under this reference, and in which state: the object itself is not read.
    pub(in crate::controller) fn stamp(&self, object: &ObjectRef<K>) -> Option<Stamp> {
        self.read().get(object).map(Kept::stamp)
    }

    /// The store's own reference to the object, which costs nothing to keep; `None` if it is not there.
    pub fn key(&self, object: &ObjectRef<K>) -> Option<Arc<ObjectRef<K>>> {
        self.read().get_key_value(object).map(|(key, _)| Arc::clone(key))
    }

    /// References to all objects, in no order.
    pub fn keys(&self) -> Vec<Arc<ObjectRef<K>>> {
        self.read().keys().cloned().collect()
    }

    /// Every object, in no order.
    pub fn state(&self) -> Vec<Arc<K>> {
        self.select(|_| true)
    }

    /// The objects that match, in no order. The store is locked while `matches` runs.
    pub fn select(&self, matches: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let objects = self.read();
        let all = objects.values().filter_map(|kept| kept.object(self.form));
        all.filter(|object| matches(object)).collect()
    }

    /// References to the objects at these places that match. The objects are looked at one by one, and
    /// the store is not locked meanwhile.
    pub fn find(
        &self,
        place: impl Fn(&ObjectRef<K>) -> bool,
        matches: impl Fn(&K) -> bool,
    ) -> Vec<ObjectRef<K>> {
        let places: Vec<_> = self.read().keys().filter(|key| place(key)).cloned().collect();
        let found =
            places.iter().filter(|key| self.fetch(key).is_some_and(|found| matches(&found)));
        found.map(|key| ObjectRef::clone(key)).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Puts the object in; the one it replaces, or `Err` if both are the same version.
    pub(crate) fn put(
        &self,
        key: &ObjectRef<K>,
        object: &Arc<K>,
    ) -> Result<Option<Arc<K>>, Unchanged> {
        let new = Kept::of(object, self.form);
        let mut objects = self.write();
        let Some(held) = objects.get_mut(key) else {
            objects.insert(Arc::new(key.clone()), new);
            return Ok(None);
        };
        if held.is(&new) {
            return Err(Unchanged);
        }
        let old = std::mem::replace(held, new);
        drop(objects);
        Ok(old.object(self.form))
    }

    /// Takes the object out.
    pub(super) fn remove(&self, key: &ObjectRef<K>) -> Option<Arc<K>> {
        let gone = self.write().remove(key);
        gone.and_then(|kept| kept.object(self.form))
    }

    /// Bytes that all packed objects take.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        let bytes = |kept: &Kept<K>| match kept {
            Kept::Typed(_) => 0,
            Kept::Packed(bytes, _) => bytes.len(),
        };
        self.read().values().map(bytes).sum()
    }

    fn read(&self) -> RwLockReadGuard<'_, Objects<K>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Objects<K>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store holds this very version.
#[derive(Debug)]
pub(crate) struct Unchanged;

/// A state of an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::controller) struct Stamp {
    /// Of the UID, by which an object differs from another of the same name.
    uid: u64,
    /// Versions of one kind can be compared as numbers; where it is none, nothing is known of the order.
    version: Option<u64>,
}

impl Stamp {
    /// Of an object with this metadata.
    pub(in crate::controller) fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.uid.as_deref(), meta.resource_version.as_deref())
    }

    /// Of an object with this UID at this version.
    pub(in crate::controller) fn new(uid: Option<&str>, version: Option<&str>) -> Self {
        Self {
            uid: seed(uid.unwrap_or_default()),
            version: version.and_then(|version| version.parse().ok()),
        }
    }

    /// Whether it is a state of the object with this UID.
    pub(in crate::controller) fn is_of(self, uid: &str) -> bool {
        self.uid == seed(uid)
    }

    /// Whether it is an older state of the same object.
    pub(in crate::controller) fn is_older(self, other: Self) -> bool {
        let versions = self.version.zip(other.version);
        self.uid == other.uid && versions.is_some_and(|(one, other)| one < other)
    }
}

/// An object as it is kept.
enum Kept<K> {
    Typed(Arc<K>),
    Packed(Box<[u8]>, Stamp),
}

impl<K: Kind> Kept<K> {
    fn of(object: &Arc<K>, form: Form) -> Self {
        let packed = match form {
            Form::Typed => None,
            Form::Packed { like } => serde_json::to_vec(&**object).ok().map(|text| {
                compress_prepend_size_with_dict(&text, like.as_bytes()).into_boxed_slice()
            }),
        };
        packed.map_or_else(
            || Self::Typed(Arc::clone(object)),
            |packed| Self::Packed(packed, Stamp::of(object.meta())),
        )
    }

    fn stamp(&self) -> Stamp {
        match self {
            Self::Typed(object) => Stamp::of(object.meta()),
            Self::Packed(_, stamp) => *stamp,
        }
    }

    fn object(&self, form: Form) -> Option<Arc<K>> {
        match (self, form) {
            (Self::Typed(object), _) => Some(Arc::clone(object)),
            (Self::Packed(packed, _), Form::Packed { like }) => match unpack(packed, like) {
                Ok(object) => Some(Arc::new(object)),
                Err(error) => {
                    tracing::error!(kind = %K::kind(&()), error, "a kept object cannot be read");
                    None
                }
            },
            (Self::Packed(..), Form::Typed) => None,
        }
    }

    /// Whether both are the same version of the same object.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Typed(one), Self::Typed(other)) => {
                let (one, other) = (one.meta(), other.meta());
                one.uid == other.uid && one.resource_version == other.resource_version
            }
            // The version is part of it.
            (Self::Packed(one, _), Self::Packed(other, _)) => one == other,
            _ => false,
        }
    }
}

fn unpack<K: Kind>(packed: &[u8], like: &str) -> Result<K, String> {
    let text = decompress_size_prepended_with_dict(packed, like.as_bytes());
    let text = text.map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::{super::tests::config_map, *};

    const PACKED: Form = Form::Packed { like: r#"{"metadata":{"name":"a","namespace":"n"}}"# };

    fn stores() -> [Store<ConfigMap>; 2] {
        [Store::new(Form::Typed), Store::new(PACKED)]
    }

    fn put(
        store: &Store<ConfigMap>,
        name: &str,
        version: &str,
    ) -> Result<Option<String>, Unchanged> {
        let object = Arc::new(config_map("n", name, version));
        let old = store.put(&object_ref(Some("n"), name), &object)?;
        Ok(old.and_then(|old| old.metadata.resource_version.clone()))
    }

    #[test]
    fn an_object_comes_out_as_it_was_put_in_whatever_the_form() {
        for store in stores() {
            let mut object = config_map("n", "a", "1");
            object.data = Some([("key".to_owned(), "a text\u{1f980}".repeat(500))].into());
            let object = Arc::new(object);
            assert!(store.put(&object_ref(Some("n"), "a"), &object).is_ok());
            assert_eq!(store.get(Some("n"), "a"), Some(Arc::clone(&object)));
            assert_eq!(store.state(), [object]);
            assert_eq!((store.len(), store.get(Some("other"), "a")), (1, None));
        }
    }

    #[test]
    fn the_same_version_is_no_change_and_another_gives_the_old_one_back() {
        for store in stores() {
            assert!(matches!(put(&store, "a", "1"), Ok(None)));
            assert!(put(&store, "a", "1").is_err());
            assert!(matches!(put(&store, "a", "2"), Ok(Some(old)) if old == "1"));
            let gone = store.remove(&object_ref(Some("n"), "a")).expect("it was there");
            assert_eq!(gone.metadata.resource_version.as_deref(), Some("2"));
            assert!(store.is_empty() && store.remove(&object_ref(Some("n"), "a")).is_none());
        }
    }

    #[test]
    fn only_what_lies_at_the_place_is_looked_at() {
        for store in stores() {
            for name in ["a", "b", "c"] {
                assert!(put(&store, name, "1").is_ok());
            }
            let found = store.find(
                |key| key.name != "c",
                |object| {
                    assert_ne!(object.metadata.name.as_deref(), Some("c"));
                    object.metadata.name.as_deref() == Some("b")
                },
            );
            assert_eq!(found, [object_ref(Some("n"), "b")]);
        }
    }
}
