//! What a Secret of ours is to hold. Pure: a pair × desired → data, labels and annotations.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    desired::Desired,
    keystore::{self, Recipe},
    pair::Pair,
};
use crate::{crd::MANAGER, redacted::Redacted};

/// The annotation by which a Secret is ours that has no owner: the UID of its VaultCertSync.
pub const OWNER_ANNOTATION: &str = "vaultaws.dev/owner-uid";
/// The annotation that says which labels and annotations we set because the spec asked for them.
pub const METADATA_ANNOTATION: &str = "vaultaws.dev/managed-metadata";
/// The label with the name of the VaultCertSync.
pub const SYNC_LABEL: &str = "vaultaws.dev/sync";
/// The label that says who manages it.
pub const MANAGED_LABEL: &str = "app.kubernetes.io/managed-by";

/// The most bytes of data that a Secret may hold (the API's limit).
pub(super) const SECRET_LIMIT: usize = 1024 * 1024;

/// What a Secret of ours holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Payload {
    /// `kubernetes.io/tls` or `Opaque`.
    pub kind: String,
    /// Our labels.
    pub labels: BTreeMap<String, String>,
    /// Our annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether the VaultCertSync is its owner, so that it goes with it.
    pub owned: bool,
    /// Its data.
    pub data: BTreeMap<String, Redacted<Vec<u8>>>,
    /// A keystore that is still to be made; it comes to the data.
    pub keystore: Option<Recipe>,
}

impl Payload {
    /// What the Secret of a pair is to hold.
    pub fn of(
        entry: &str,
        pair: &Pair,
        desired: &Desired,
        password: Option<&Redacted<String>>,
    ) -> Self {
        let target = &desired.target;
        let redacted = |text: &str| Redacted::new(text.as_bytes().to_vec());
        let mut data = BTreeMap::from([
            (target.keys.certificate.clone(), redacted(&pair.certificate_pem)),
            (target.keys.private_key.clone(), redacted(pair.key_pem.expose())),
        ]);
        if let Some(ca) = &pair.ca_pem {
            data.insert(target.keys.ca.clone(), redacted(ca));
        }
        if let Some(combined) = &target.keys.combined {
            let key = pair.key_pem.expose().as_bytes();
            let text = [pair.certificate_pem.as_bytes(), key].concat();
            data.insert(combined.clone(), Redacted::new(text));
        }
        let keystore = target
            .pkcs12
            .as_ref()
            .zip(password)
            .map(|(asked, password)| Recipe::new(entry, pair, password, asked.profile));
        let mut labels = labels(&desired.name);
        labels.extend(target.labels.clone());
        let mut annotations = target.annotations.clone();
        if target.retain {
            annotations.insert(OWNER_ANNOTATION.to_owned(), desired.uid.clone());
        }
        if let Some(managed) = Managed::of(desired).annotation() {
            annotations.insert(METADATA_ANNOTATION.to_owned(), managed);
        }
        Self {
            kind: target.kind.as_str().into(),
            labels,
            annotations,
            owned: !target.retain,
            data,
            keystore,
        }
    }

    /// Takes the keystore that is there, if it was made of the same.
    pub(super) fn keep_keystore(&mut self, stands: &Self) {
        let (Some(recipe), Some(bytes)) = (&self.keystore, stands.data.get(keystore::KEY)) else {
            return;
        };
        let annotation = recipe.annotation(bytes.expose());
        if stands.annotations.get(keystore::ANNOTATION) == Some(&annotation) {
            self.annotations.insert(keystore::ANNOTATION.to_owned(), annotation);
            self.data.insert(keystore::KEY.to_owned(), bytes.clone());
            self.keystore = None;
        }
    }

    /// Makes the keystore, if there is one to be made.
    ///
    /// # Errors
    /// Where it cannot be encoded.
    pub fn finish(&mut self) -> Result<(), keystore::Error> {
        if let Some(recipe) = self.keystore.take() {
            let bytes = recipe.encode()?;
            let annotation = recipe.annotation(&bytes);
            self.annotations.insert(keystore::ANNOTATION.to_owned(), annotation);
            self.data.insert(keystore::KEY.to_owned(), Redacted::new(bytes));
        }
        Ok(())
    }

    /// How many bytes of data it has.
    pub(super) fn size(&self) -> usize {
        let keystore = self.keystore.as_ref().map_or(0, Recipe::size);
        let data = self.data.iter().map(|(key, value)| key.len() + value.expose().len());
        data.sum::<usize>() + keystore
    }
}

/// The labels of every Secret of ours.
pub fn labels(sync: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_LABEL.to_owned(), MANAGER.to_owned()),
        (SYNC_LABEL.to_owned(), sync.to_owned()),
    ])
}

/// The keys of labels and annotations that a spec asks for. They are written down at the Secret, so
/// that those which are asked for no longer can be told from those of others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Managed {
    /// Of labels.
    pub labels: BTreeSet<String>,
    /// Of annotations.
    pub annotations: BTreeSet<String>,
}

impl Managed {
    /// Those of the spec.
    pub fn of(desired: &Desired) -> Self {
        Self {
            labels: desired.target.labels.keys().cloned().collect(),
            annotations: desired.target.annotations.keys().cloned().collect(),
        }
    }

    /// As the annotation says; its text may be anybody's.
    pub fn read(annotation: &str) -> Self {
        let mut managed = Self::default();
        for word in annotation.split_ascii_whitespace() {
            if let Some(key) = word.strip_prefix("label:") {
                managed.labels.insert(key.to_owned());
            } else if let Some(key) = word.strip_prefix("annotation:") {
                managed.annotations.insert(key.to_owned());
            }
        }
        managed
    }

    /// The text of the annotation; `None` if there is nothing to write down.
    fn annotation(&self) -> Option<String> {
        let labels = self.labels.iter().map(|key| format!("label:{key}"));
        let annotations = self.annotations.iter().map(|key| format!("annotation:{key}"));
        let words: Vec<String> = labels.chain(annotations).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }
}
