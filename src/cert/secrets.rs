//! The Secrets of the namespaces that hold a VaultCertSync, as their metadata stands.
//!
//! One metadata-only watch for each such namespace, so that the install needs a Role there and no
//! cluster-wide right. What is kept of a Secret is what a pass asks: who controls it, which version of
//! it stands, and whether it consents to be used as credentials. Its data is never watched, and a
//! sync reads a Secret only when the version is not the one it wrote.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{Stream, stream};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{core::PartialObjectMeta, runtime::reflector::ObjectRef};
use tokio::time::{Instant, sleep};

use super::payload::{OWNER_ANNOTATION, SYNC_LABEL};
use crate::{
    controller::watch::{Access, Event, Subscription, Watched, object_ref},
    crd::VaultCertSync,
    lock::lock,
};

/// The label by which a Secret consents to be used as AWS credentials.
pub const USE_LABEL: &str = "vaultaws.dev/use";
/// Its value.
pub const USE_CREDENTIALS: &str = "aws-credentials";

/// The annotation by which a Secret consents to be taken over by the VaultCertSync of that name.
pub const ADOPT_ANNOTATION: &str = "vaultaws.dev/adopt-by";

/// How long a pass waits for the first list of a namespace.
const FIRST_LIST: Duration = Duration::from_secs(10);
/// The event of our own write may come before the answer to it: a change is judged after this.
const SETTLE: Duration = Duration::from_millis(300);
/// A Secret that we wrote and that the watch does not show after this is taken for gone.
const WATCH_LAG: Duration = Duration::from_secs(10);

/// Metadata of one Secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// Its UID.
    pub uid: String,
    /// Which version of it stands.
    pub resource_version: String,
    /// UID and name of the VaultCertSync that it belongs to.
    pub owner: Option<(String, String)>,
    /// Name of the VaultCertSync that may take it over, if nobody controls it.
    pub adopt_by: Option<String>,
    /// Whether it consents to be used as AWS credentials.
    pub is_credentials: bool,
}

/// Why the Secrets of a namespace cannot be seen.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unseen {
    /// The Role is missing.
    #[error(
        "the operator may not read and write Secrets in namespace `{namespace}`: apply what \
         `vault-aws policy --kubernetes -n {namespace}` prints (deploy/tenant)"
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

type SecretRef = ObjectRef<PartialObjectMeta<Secret>>;

/// The Secrets of all watched namespaces. Cheap to clone.
#[derive(Clone)]
pub struct Secrets {
    watched: Watched<PartialObjectMeta<Secret>>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// Our last write to each Secret, and when: the watch tells of it later, and its event is no news.
    written: HashMap<SecretRef, (Seen, Instant)>,
    /// By namespace: its syncs, and the Secrets that each uses: credentials, passwords.
    syncs: HashMap<String, BTreeMap<String, Vec<String>>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// One namespace's Secrets, as a pass asks about them.
#[derive(Clone, Debug)]
pub struct View {
    secrets: Secrets,
    namespace: String,
}

/// Drops what nobody reads of a Secret's metadata before it is kept.
pub fn prune(secret: &mut PartialObjectMeta<Secret>) {
    secret.types = None;
    let metadata = &mut secret.metadata;
    if let Some(owners) = &mut metadata.owner_references {
        owners.retain(|owner| owner.controller == Some(true));
        owners.shrink_to_fit();
    }
    metadata.owner_references.take_if(|owners| owners.is_empty());
    // Whom it belongs to is said by its controller, if it has one.
    let is_controlled = metadata.owner_references.is_some();
    if let Some(annotations) = &mut metadata.annotations {
        let said = [OWNER_ANNOTATION, ADOPT_ANNOTATION];
        annotations.retain(|key, _| !is_controlled && said.contains(&key.as_str()));
    }
    if let Some(labels) = &mut metadata.labels {
        labels.retain(|key, _| key == USE_LABEL || (!is_controlled && key == SYNC_LABEL));
    }
    // Even an empty map of which something was taken holds its room.
    metadata.annotations.take_if(|annotations| annotations.is_empty());
    metadata.labels.take_if(|labels| labels.is_empty());
    metadata.finalizers = None;
    metadata.generate_name = None;
    metadata.creation_timestamp = None;
}

impl Secrets {
    /// `watched` needs no namespace yet; [`Self::view`] adds them.
    pub fn new(watched: Watched<PartialObjectMeta<Secret>>) -> Self {
        Self { watched, known: Arc::default() }
    }

    /// Whether the Secrets of the namespace are known, or known not to be seen.
    pub fn is_known(&self, namespace: &str) -> bool {
        matches!(self.watched.access(Some(namespace)), Access::Granted | Access::Denied)
    }

    /// Starts the watch of the namespace and waits until its Secrets are known, or for ten seconds.
    pub async fn known(&self, namespace: &str, sync: &str) {
        self.watched.include(namespace);
        // So that the watch ends with the sync, whatever comes next.
        lock(&self.known)
            .syncs
            .entry(namespace.to_owned())
            .or_default()
            .entry(sync.to_owned())
            .or_default();
        let end = Instant::now() + FIRST_LIST;
        while !self.is_known(namespace) && Instant::now() < end {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The Secrets of a sync's namespace; the watch starts with the first sync of the namespace.
    ///
    /// # Errors
    /// [`Unseen`] where the Role is missing or the API server does not answer in ten seconds.
    pub async fn view(
        &self,
        namespace: &str,
        sync: &str,
        used: Vec<String>,
    ) -> Result<View, Unseen> {
        self.watched.include(namespace);
        lock(&self.known)
            .syncs
            .entry(namespace.to_owned())
            .or_default()
            .insert(sync.to_owned(), used);
        let end = Instant::now() + FIRST_LIST;
        loop {
            match self.watched.access(Some(namespace)) {
                Access::Granted => {
                    return Ok(View { secrets: self.clone(), namespace: namespace.to_owned() });
                }
                Access::Denied => {
                    return Err(Unseen::Forbidden { namespace: namespace.to_owned() });
                }
                Access::Pending | Access::Unknown if Instant::now() < end => {
                    sleep(Duration::from_millis(50)).await;
                }
                Access::Pending | Access::Unknown => {
                    return Err(Unseen::NotYet { namespace: namespace.to_owned() });
                }
            }
        }
    }

    /// The sync is gone; with the last one of its namespace the watch ends.
    pub fn forget(&self, namespace: &str, sync: &str) {
        let mut known = lock(&self.known);
        if let Some(syncs) = known.syncs.get_mut(namespace) {
            syncs.remove(sync);
            if syncs.is_empty() {
                known.syncs.remove(namespace);
                known.written.retain(|secret, _| secret.namespace.as_deref() != Some(namespace));
                self.watched.exclude(namespace);
            }
        }
    }

    /// The syncs whose Secrets somebody else touched, or whose credentials or password changed.
    pub fn triggers(&self) -> impl Stream<Item = ObjectRef<VaultCertSync>> + Send + 'static {
        struct Source {
            secrets: Secrets,
            changes: Subscription<PartialObjectMeta<Secret>>,
            ready: Vec<ObjectRef<VaultCertSync>>,
        }
        let source =
            Source { secrets: self.clone(), changes: self.watched.subscribe(), ready: Vec::new() };
        stream::unfold(source, |mut source| async move {
            loop {
                if let Some(sync) = source.ready.pop() {
                    return Some((sync, source));
                }
                let events = source.changes.next().await;
                sleep(SETTLE).await;
                let mut syncs: Vec<_> =
                    events.iter().flat_map(|event| source.secrets.concerned(event)).collect();
                syncs.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
                syncs.dedup();
                source.ready = syncs;
            }
        })
    }

    /// The syncs that a change concerns: the one that controls the Secret, and those that use it as
    /// credentials or password; none if it is our own write.
    fn concerned(&self, event: &Event<PartialObjectMeta<Secret>>) -> Vec<ObjectRef<VaultCertSync>> {
        let mut known = lock(&self.known);
        let new = event.new.as_ref().map(|secret| seen(&secret.metadata));
        let written = known.written.get(&event.object).map(|(written, _)| written);
        if new.is_some() && written == new.as_ref() {
            known.written.remove(&event.object); // The watch has caught up with it.
            return Vec::new();
        }
        // A Secret that was written and deleted between two events was never seen in the store.
        let written = if new.is_none() { known.written.remove(&event.object) } else { None };
        let written = written.map(|(written, _)| written);
        let old = event.old.as_ref().map(|secret| seen(&secret.metadata));
        let namespace = event.object.namespace.as_deref().unwrap_or_default();
        let seen = [old, new, written].into_iter().flatten();
        let mut names: Vec<String> = seen
            .flat_map(|seen| [seen.owner.map(|(_, name)| name), seen.adopt_by])
            .flatten()
            .collect();
        if let Some(syncs) = known.syncs.get(namespace) {
            let uses = |used: &Vec<String>| used.contains(&event.object.name);
            names.extend(syncs.iter().filter(|(_, used)| uses(used)).map(|(sync, _)| sync.clone()));
        }
        names.iter().map(|name| object_ref(Some(namespace), name)).collect()
    }
}

impl View {
    /// The Secret's metadata; `None` if there is none. Our own last write counts until the watch has
    /// caught up with it.
    pub fn get(&self, name: &str) -> Option<Seen> {
        let object = object_ref(Some(&self.namespace), name);
        let stored =
            self.secrets.watched.store().fetch(&object).map(|secret| seen(&secret.metadata));
        let written = lock(&self.secrets.known).written.get(&object).cloned();
        match (stored, written) {
            (Some(stored), Some((written, _))) if is_older(&stored, &written) => Some(written),
            (Some(stored), _) => Some(stored),
            (None, Some((written, at))) if at.elapsed() < WATCH_LAG => Some(written),
            (None, _) => None,
        }
    }

    /// Remembers our own write.
    pub fn written(&self, name: &str, seen: Seen) {
        let object = object_ref(Some(&self.namespace), name);
        lock(&self.secrets.known).written.insert(object, (seen, Instant::now()));
    }

    /// Our write was refused because the Secret is not as we thought: believe the watch.
    pub fn doubt(&self, name: &str) {
        let object = object_ref(Some(&self.namespace), name);
        lock(&self.secrets.known).written.remove(&object);
    }
}

/// Versions of one resource are numbers that grow (KEP-5504); what is no number is not older.
fn is_older(stored: &Seen, written: &Seen) -> bool {
    let number = |seen: &Seen| seen.resource_version.parse::<u64>().ok();
    match (number(stored), number(written)) {
        (Some(stored), Some(written)) => stored < written,
        _ => false,
    }
}

/// Reads what we keep of a Secret's metadata.
pub fn seen(metadata: &ObjectMeta) -> Seen {
    let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).cloned();
    let label = |key: &str| metadata.labels.as_ref()?.get(key).cloned();
    let controller =
        metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let (owner, adopt_by) = match controller {
        Some(owner)
            if owner.kind == "VaultCertSync" && owner.api_version.starts_with("vaultaws.dev/") =>
        {
            (Some((owner.uid.clone(), owner.name.clone())), None)
        }
        // Whatever its annotations say.
        Some(_) => (None, None),
        // The UID is what counts; the label only helps to find whom to wake.
        None => (
            annotation(OWNER_ANNOTATION).map(|uid| (uid, label(SYNC_LABEL).unwrap_or_default())),
            annotation(ADOPT_ANNOTATION),
        ),
    };
    Seen {
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        owner,
        adopt_by,
        is_credentials: label(USE_LABEL).is_some_and(|value| value == USE_CREDENTIALS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(value: serde_json::Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_retained_secret_belongs_to_the_sync_whose_uid_it_names() {
        let seen = seen(&metadata(serde_json::json!({
            "annotations": {OWNER_ANNOTATION: "u"}, "labels": {SYNC_LABEL: "web"},
        })));
        assert_eq!(seen.owner, Some(("u".into(), "web".into())));
    }

    #[test]
    fn what_somebody_else_controls_is_neither_ours_nor_free() {
        let seen = seen(&metadata(serde_json::json!({
            "annotations": {OWNER_ANNOTATION: "u", ADOPT_ANNOTATION: "web"},
            "ownerReferences": [{"apiVersion": "cert-manager.io/v1", "kind": "Certificate",
                "name": "c", "uid": "c", "controller": true}],
        })));
        assert_eq!((seen.owner, seen.adopt_by), (None, None));
    }

    #[test]
    fn pruning_keeps_what_is_asked_of_a_secret() {
        let before = metadata(serde_json::json!({
            "annotations": {ADOPT_ANNOTATION: "web", "big": "text"},
            "labels": {USE_LABEL: USE_CREDENTIALS, SYNC_LABEL: "web", "other": "x"},
        }));
        let mut secret = PartialObjectMeta::<Secret> {
            metadata: before.clone(),
            ..PartialObjectMeta::default()
        };
        prune(&mut secret);
        assert_eq!(seen(&secret.metadata), seen(&before));
        assert_eq!(secret.metadata.annotations.unwrap().len(), 1);
    }

    #[test]
    fn of_a_controlled_secret_its_controller_is_kept_and_hardly_anything_else() {
        let before = metadata(serde_json::json!({
            "uid": "s", "resourceVersion": "7", "creationTimestamp": "2026-11-21T03:00:00Z",
            "labels": {SYNC_LABEL: "web"}, "annotations": {OWNER_ANNOTATION: "v"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c"},
                {"apiVersion": "vaultaws.dev/v1alpha1", "kind": "VaultCertSync", "name": "web",
                    "uid": "u", "controller": true},
            ],
        }));
        let mut secret = PartialObjectMeta::<Secret> {
            metadata: before.clone(),
            ..PartialObjectMeta::default()
        };
        prune(&mut secret);
        let kept = secret.metadata;
        assert_eq!(seen(&kept), seen(&before));
        assert_eq!((kept.labels, kept.annotations, kept.creation_timestamp), (None, None, None));
        assert_eq!(kept.owner_references.unwrap().len(), 1);
    }
}
