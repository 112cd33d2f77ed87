//! What the API server says, read with as little memory as can be: object by object, and of each only
//! what somebody reads.

use std::{fmt, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::runtime::reflector::ObjectRef;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{Kind, object_ref, reference};

/// Reads an object, without its `managedFields`.
pub(in crate::controller) fn read_object<K: DeserializeOwned>(text: &str) -> serde_json::Result<K> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let object = reader.deserialize_map(Without(None))?;
    reader.end()?;
    serde_json::from_value(object)
}

/// Reads a list, and hands its objects over one by one: typed, a page is several times its text.
pub(super) fn read_list<K: DeserializeOwned>(
    text: &[u8],
    each: impl FnMut(Guarded<K>),
) -> serde_json::Result<ListMeta> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let metadata = reader.deserialize_map(List { each, kind: PhantomData })?;
    reader.end()?;
    Ok(metadata)
}

/// A list; its metadata is what is left of it.
struct List<K, F> {
    each: F,
    kind: PhantomData<K>,
}

impl<'de, K: DeserializeOwned, F: FnMut(Guarded<K>)> Visitor<'de> for List<K, F> {
    type Value = ListMeta;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a list")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<ListMeta, A::Error> {
        let mut metadata = ListMeta::default();
        while let Some(field) = fields.next_key::<String>()? {
            match field.as_str() {
                "metadata" => metadata = fields.next_value()?,
                "items" => fields.next_value_seed(Items(&mut self))?,
                _ => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(metadata)
    }
}

/// The objects of a list.
struct Items<'a, K, F>(&'a mut List<K, F>);

impl<'de, K: DeserializeOwned, F: FnMut(Guarded<K>)> DeserializeSeed<'de> for Items<'_, K, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // An empty list of Go may be null.
        deserializer.deserialize_any(self)
    }
}

impl<'de, K: DeserializeOwned, F: FnMut(Guarded<K>)> Visitor<'de> for Items<'_, K, F> {
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("objects")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut objects: A) -> Result<(), A::Error> {
        while let Some(object) = objects.next_element()? {
            (self.0.each)(object);
        }
        Ok(())
    }
}

/// An object of the stream, or what could be read of one that does not fit its type: a resource
/// that was stored under an older schema must not hide all the others.
#[derive(Clone, Debug)]
pub(super) enum Guarded<K> {
    Fits(Box<K>),
    Malformed { namespace: Option<String>, name: String, version: String, error: String },
}

impl<K: Kind> Guarded<K> {
    /// Which object it is.
    pub(super) fn key(&self) -> ObjectRef<K> {
        match self {
            Self::Fits(object) => reference(&**object),
            Self::Malformed { namespace, name, .. } => object_ref(namespace.as_deref(), name),
        }
    }

    /// Moves on to the object's version.
    pub(super) fn advance(&self, version: &mut String) {
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
        let mut value = deserializer.deserialize_map(Without(None))?;
        if let Some(notes) = value.pointer_mut("/metadata/annotations")
            && let Some(notes) = notes.as_object_mut()
        {
            notes.remove("kubectl.kubernetes.io/last-applied-configuration");
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

/// A map without this field, or an object without its `managedFields`: they are most of its text, and
/// are skipped before they take any memory.
struct Without(Option<&'static str>);

impl<'de> Visitor<'de> for Without {
    type Value = Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(field) = fields.next_key::<String>()? {
            let value = match (self.0, field.as_str()) {
                (Some(left_out), field) if left_out == field => {
                    fields.next_value::<IgnoredAny>()?;
                    continue;
                }
                (None, "metadata") => fields.next_value_seed(Without(Some("managedFields")))?,
                _ => fields.next_value()?,
            };
            object.insert(field, value);
        }
        Ok(Value::Object(object))
    }
}

impl<'de> DeserializeSeed<'de> for Without {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use kube::{api::WatchEvent, core::PartialObjectMeta};
    use serde_json::json;

    use super::*;

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
        let page = json!({
            "apiVersion": "meta.k8s.io/v1",
            "kind": "PartialObjectMetadataList",
            "metadata": {"resourceVersion": "9", "continue": "more"},
            "items": [
                {"metadata": {"namespace": "n", "name": "a", "labels": 7}},
                {"metadata": {"namespace": "n", "name": "b"}},
            ],
        });
        let mut fits = Vec::new();
        let metadata = read_list(page.to_string().as_bytes(), |found| {
            fits.push(matches!(found, Guarded::<PartialObjectMeta<Secret>>::Fits(_)));
        });
        assert_eq!(fits, [false, true]);
        let metadata = metadata.expect("a list");
        assert_eq!(metadata.resource_version.as_deref(), Some("9"));
        assert_eq!(metadata.continue_.as_deref(), Some("more"));
    }

    #[test]
    fn a_list_may_be_empty_in_two_ways_and_must_be_whole() {
        let read =
            |text: &str| read_list::<ConfigMap>(text.as_bytes(), |_| panic!("there is no object"));
        for empty in [r#"{"metadata":{},"items":[]}"#, r#"{"items":null,"metadata":{}}"#] {
            assert!(read(empty).is_ok(), "{empty}");
        }
        for broken in ["", "[]", "{}{}", r#"{"items":[]"#, r#"{"items":{}}"#] {
            assert!(read(broken).is_err(), "{broken}");
        }
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
}
