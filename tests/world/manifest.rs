//! What a test applies: a manifest that is right as it is, changed in the one thing that matters.

use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use crate::world::World;

/// An object to be applied.
#[derive(Clone)]
pub(crate) struct Manifest {
    world: World,
    /// All of it.
    pub(crate) value: Value,
}

impl Manifest {
    pub(crate) fn new(world: &World, value: Value) -> Self {
        Self { world: world.clone(), value }
    }

    /// With this at a path such as `spec.auth.mount`; an element of a list by its number.
    #[must_use]
    pub(crate) fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.value;
        for key in path.split('.') {
            place = match key.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[key],
            };
        }
        *place = value.into();
        self
    }

    /// Without what is at the path.
    #[must_use]
    pub(crate) fn without(mut self, path: &str) -> Self {
        let (parent, key) = path.rsplit_once('.').expect("a path of two");
        let pointer = format!("/{}", parent.replace('.', "/"));
        let object = self.value.pointer_mut(&pointer).and_then(Value::as_object_mut);
        object.expect("an object").remove(key);
        self
    }

    /// Applies it. The API server must take it.
    pub(crate) async fn apply(&self) -> Value {
        match self.try_apply().await {
            Ok(value) => value,
            Err(message) => panic!("applying {}: {message}", self.kind_and_name()),
        }
    }

    /// Applies it. The API server must refuse it; what it says.
    pub(crate) async fn refused(&self) -> String {
        match self.try_apply().await {
            Ok(_) => panic!("{} was accepted", self.kind_and_name()),
            Err(message) => message,
        }
    }

    async fn try_apply(&self) -> Result<Value, String> {
        let object: DynamicObject =
            serde_json::from_value(self.value.clone()).map_err(|error| error.to_string())?;
        let types = object.types.as_ref().expect("apiVersion and kind");
        let (group, version) =
            types.api_version.split_once('/').unwrap_or(("", &types.api_version));
        let api = match &object.metadata.namespace {
            Some(elsewhere) => {
                let kind = GroupVersionKind::gvk(group, version, &types.kind);
                let resource = ApiResource::from_gvk(&kind);
                Api::namespaced_with(self.world.kube(), elsewhere, &resource)
            }
            None => api(&self.world, group, version, &types.kind),
        };
        let parameters = PatchParams::apply("world").force();
        match api.patch(&object.name_any(), &parameters, &Patch::Apply(&object)).await {
            Ok(applied) => Ok(serde_json::to_value(applied).expect("an object is JSON")),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => panic!("applying {}: {error}", self.kind_and_name()),
        }
    }

    fn kind_and_name(&self) -> String {
        let text = |pointer| self.value.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
        format!("{} {}", text("/kind"), text("/metadata/name"))
    }
}

/// A Secret of the world's namespace with these texts.
pub(crate) fn secret(world: &World, name: &str, data: Value) -> Manifest {
    let value = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": data,
    });
    Manifest::new(world, value)
}

/// The objects of a kind: those of the world's namespace, or of the cluster.
pub(crate) fn api(world: &World, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match kind {
        "VaultAwsBackend" | "Namespace" => Api::all_with(world.kube(), &resource),
        _ => Api::namespaced_with(world.kube(), &world.id, &resource),
    }
}

/// The objects of a kind by its short word, as in `vaultcertsync/web`.
pub(crate) fn api_of(world: &World, word: &str) -> Api<DynamicObject> {
    let ours = "vaultaws.dev";
    match word {
        "vaultawsbackend" => api(world, ours, "v1alpha1", "VaultAwsBackend"),
        "vaultawsrole" => api(world, ours, "v1alpha1", "VaultAwsRole"),
        "vaultcertsync" => api(world, ours, "v1alpha1", "VaultCertSync"),
        "secret" => api(world, "", "v1", "Secret"),
        "namespace" => api(world, "", "v1", "Namespace"),
        "configmap" => api(world, "", "v1", "ConfigMap"),
        "event" => api(world, "events.k8s.io", "v1", "Event"),
        "role" => api(world, "rbac.authorization.k8s.io", "v1", "Role"),
        "rolebinding" => api(world, "rbac.authorization.k8s.io", "v1", "RoleBinding"),
        _ => panic!("`{word}` is not a kind that tests ask for"),
    }
}
