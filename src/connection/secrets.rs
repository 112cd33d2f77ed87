//! Secrets of the operator's own namespace: those that a backend refers to, read when they are needed
//! and never listed, and the one that the operator keeps for itself.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Connections, Error};
use crate::{crd::MANAGER, redacted::Redacted};

/// Keeps the key of fingerprints; `deploy/` lets the role writer make and change this Secret alone.
const FINGERPRINTS: &str = "vault-aws-fingerprints";
/// Where it lies in there.
const FINGERPRINT_KEY: &str = "key";
/// Its length in bytes: that of the hash. A shorter one is not ours.
const KEY_BYTES: usize = 32;

/// The texts in a Secret, without white space at their ends.
#[derive(Clone, Debug)]
pub struct Values {
    name: String,
    texts: BTreeMap<String, Redacted<String>>,
}

impl Values {
    /// The text under a key.
    ///
    /// # Errors
    /// Where there is none, or it is empty.
    pub fn get(&self, key: &str) -> Result<&Redacted<String>, Error> {
        let found = self.texts.get(key).filter(|text| !text.expose().is_empty());
        found.ok_or_else(|| Error::Reference {
            kind: "Secret",
            name: self.name.clone(),
            key: key.to_owned(),
        })
    }
}

impl Connections {
    /// A Secret of the operator's namespace, read now. One that is not there is empty.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn values(&self, name: &str) -> Result<Values, Error> {
        let secrets = self.own_secrets();
        let found = self.read("Secret", name, secrets.get_opt(name)).await?;
        let data = found.and_then(|secret| secret.data);
        let texts = data.unwrap_or_default().into_iter().filter_map(|(key, value)| {
            let value = Redacted::new(value.0);
            let text = std::str::from_utf8(value.expose()).ok()?;
            Some((key, Redacted::new(text.trim().to_owned())))
        });
        Ok(Values { name: name.to_owned(), texts: texts.collect() })
    }

    /// The random key under which secrets are remembered that cannot be read back. It is made when it
    /// is first asked for; a new one makes what was remembered unknown, which costs one write.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn fingerprint_key(&self) -> Result<Redacted<Vec<u8>>, Error> {
        // Two backends that make one at once would each remember by its own.
        let _making = self.reading.lock().await;
        let secrets = self.own_secrets();
        let found = self.read("Secret", FINGERPRINTS, secrets.get_opt(FINGERPRINTS)).await?;
        let found = found.and_then(|secret| secret.data?.remove(FINGERPRINT_KEY));
        if let Some(key) = found.filter(|key| key.0.len() >= KEY_BYTES) {
            return Ok(Redacted::new(key.0));
        }
        let mut key = vec![0; KEY_BYTES];
        SystemRandom::new().fill(&mut key).map_err(|_| Error::Randomness)?;
        let key = Redacted::new(key);
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": FINGERPRINTS,
                "labels": {"app.kubernetes.io/managed-by": MANAGER},
            },
            "type": "Opaque",
            "data": {FINGERPRINT_KEY: STANDARD.encode(key.expose())},
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&object);
        self.write(FINGERPRINTS, secrets.patch(FINGERPRINTS, &parameters, &patch)).await?;
        Ok(key)
    }

    fn own_secrets(&self) -> Api<Secret> {
        Api::namespaced(self.kube.clone(), &self.namespace)
    }

    async fn write<T>(
        &self,
        name: &str,
        write: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(super::KUBERNETES_TIMEOUT, write).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Error::Write { name: name.to_owned(), source: Arc::new(error) }),
            Err(_) => Err(Error::WriteTimeout { name: name.to_owned() }),
        }
    }
}
