//! What of a backend's spec cannot change while resources use it, and which value of it holds.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackendReason, Certificates, Naming, VaultAwsBackend, VaultAwsBackendSpec};

/// The fields whose change would leave behind, in Vault, what was written before it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InEffect {
    /// vault.address.
    pub address: String,
    /// vault.namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// auth.mount.
    pub auth_mount: String,
    /// certificates.
    pub certificates: Certificates,
    /// naming.
    pub naming: Naming,
}

impl InEffect {
    /// As the spec has them.
    pub fn of(spec: &VaultAwsBackendSpec) -> Self {
        Self {
            address: spec.vault.address.clone(),
            namespace: spec.vault.namespace.clone(),
            auth_mount: spec.auth.mount.clone(),
            certificates: spec.certificates.clone(),
            naming: spec.naming.clone(),
        }
    }

    /// The fields in which `wished` is something else, by their names in the spec. A slash at the end
    /// of an address or namespace means nothing.
    pub fn differing(&self, wished: &Self) -> Vec<&'static str> {
        let plain = |text: &str| text.trim_end_matches('/').to_owned();
        let namespace = |one: &Self| one.namespace.as_deref().map(plain);
        [
            ("vault.address", plain(&self.address) != plain(&wished.address)),
            ("vault.namespace", namespace(self) != namespace(wished)),
            ("auth.mount", self.auth_mount != wished.auth_mount),
            ("certificates", self.certificates != wished.certificates),
            ("naming", self.naming != wished.naming),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }

    fn put_into(&self, spec: &mut VaultAwsBackendSpec) {
        let Self { address, namespace, auth_mount, certificates, naming } = self.clone();
        spec.vault.address = address;
        spec.vault.namespace = namespace;
        spec.auth.mount = auth_mount;
        spec.certificates = certificates;
        spec.naming = naming;
    }
}

impl VaultAwsBackend {
    /// The backend as it is to be used: with the values that are in effect, whatever else the spec
    /// asks for. Everybody who goes to its Vault starts from here.
    #[must_use]
    pub fn in_effect(self: Arc<Self>) -> Arc<Self> {
        match self.status.as_ref().and_then(|status| status.in_effect.as_ref()) {
            Some(held) if *held != InEffect::of(&self.spec) => {
                let mut used = (*self).clone();
                held.put_into(&mut used.spec);
                Arc::new(used)
            }
            _ => self,
        }
    }

    /// Whether roles and syncs may go on, by the condition `Ready`: a change that is refused and a
    /// deletion that waits do not end what is there.
    pub fn serves(ready: &Condition) -> bool {
        let word = |reason: BackendReason| reason.as_str() == ready.reason;
        ready.status == "True" || word(BackendReason::FieldInUse) || word(BackendReason::InUse)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(change: impl FnOnce(&mut Value)) -> VaultAwsBackendSpec {
        let mut spec = json!({
            "vault": {"address": "https://vault.example.com", "namespace": "admin"},
            "operatorLogin": {"serviceAccount": {"role": "operator"}},
        });
        change(&mut spec);
        serde_json::from_value(spec).unwrap()
    }

    fn differing(change: impl FnOnce(&mut Value)) -> Vec<&'static str> {
        InEffect::of(&spec(|_| ())).differing(&InEffect::of(&spec(change)))
    }

    #[test]
    fn what_differs_is_named_as_in_the_spec() {
        let differing = differing(|spec| {
            spec["vault"] = json!({"address": "https://other.example.com"});
            spec["auth"] = json!({"mount": "aws2"});
            spec["certificates"] = json!({"basePath": "tls"});
            spec["naming"] = json!({"role": "{namespace}.{iamRole}"});
        });
        assert_eq!(
            differing,
            ["vault.address", "vault.namespace", "auth.mount", "certificates", "naming"]
        );
    }

    #[test]
    fn what_may_change_and_slashes_at_the_end_do_not_differ() {
        let differing = differing(|spec| {
            spec["vault"] = json!({
                "address": "https://vault.example.com/", "namespace": "admin/",
                "requestTimeout": "3s",
            });
            spec["aws"] = json!({"region": "eu-west-1"});
        });
        assert_eq!(differing, Vec::<&str>::new());
    }

    #[test]
    fn the_value_in_effect_is_used_and_all_else_is_as_in_the_spec() {
        let held = InEffect::of(&spec(|_| ()));
        let wished = spec(|spec| {
            spec["vault"] = json!({"address": "https://other.example.com"});
            spec["aws"] = json!({"region": "eu-west-1"});
        });
        let mut backend = VaultAwsBackend::new("default", wished);
        let untouched = Arc::new(backend.clone()).in_effect();
        assert_eq!(untouched.spec.vault.address, "https://other.example.com");
        backend.status.get_or_insert_default().in_effect = Some(held.clone());
        let used = Arc::new(backend).in_effect();
        assert_eq!(InEffect::of(&used.spec), held);
        assert_eq!(used.spec.aws.region, "eu-west-1");
    }
}
