//! Writes the Secrets, one by one, in the plan's order. Chooses nothing: each write names the one
//! object and the one version of it that the plan looked at, so that whatever changed meanwhile makes
//! the write fail instead of being lost.
//!
//! Updates are merge patches with UID and resourceVersion rather than server-side applies: the first
//! write must be a create (an apply would adopt a stranger's Secret), and fields that a create owns
//! cannot be removed by a later apply of the same manager, as `ca.crt` must be.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, header::ACCEPT};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::{PartialObjectMeta, Request},
};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{
    payload::Payload,
    plan::{Action, Held, Plan, Step, Surplus, refused},
    secrets::{View, seen},
};
use crate::crd::{CertificateStatus, MANAGER, SyncReason};

/// How long one request to the API server may take.
const KUBERNETES_TIMEOUT: Duration = Duration::from_secs(30);

/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables>
const METADATA_ONLY: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");

/// How the plan ended.
#[derive(Debug, Default)]
pub struct Applied {
    /// Status of each certificate, sorted by name.
    pub certificates: Vec<CertificateStatus>,
    /// Names of the Secrets that were written.
    pub written: Vec<String>,
    /// Names of the Secrets that were deleted.
    pub deleted: Vec<String>,
    /// Names of the entries for which a write failed in a way that may pass by itself.
    pub unwritten: Vec<String>,
}

/// Carries the plan out. A write that fails is said in its certificate's status and does not stop the
/// others.
pub async fn apply(
    plan: Plan,
    api: &Api<Secret>,
    view: &View,
    owner: &OwnerReference,
    previous: &[CertificateStatus],
    now: Timestamp,
) -> Applied {
    let mut applied = Applied::default();
    for Step { action, mut status } in plan.steps {
        let name = status.secret_name.clone().unwrap_or_default();
        let (result, held) = match action {
            Action::Leave => {
                applied.certificates.push(status);
                continue;
            }
            Action::Create(mut payload) => {
                let made = payload.finish().map_err(|_| unmade(&name));
                let created = match made {
                    Ok(()) => create(api, &name, payload, owner).await,
                    Err(failure) => Err(failure),
                };
                let result = match created {
                    // The watch may be behind: then it is ours, and the next pass looks at it.
                    Err(failure) if failure.reason == SyncReason::SecretNotOurs => {
                        Err(check_owner(api, view, &name, owner).await.unwrap_or(failure))
                    }
                    other => other,
                };
                (result, Held::Absent)
            }
            Action::Update { uid, resource_version, mut payload, surplus, other_owners } => {
                let made = payload.finish().map_err(|_| unmade(&name));
                let mut body = body(&payload, &surplus, other_owners, owner);
                body["metadata"]["uid"] = json!(uid);
                body["metadata"]["resourceVersion"] = json!(resource_version);
                let result = match made {
                    Ok(()) => update(api, &name, &body).await,
                    Err(failure) => Err(failure),
                };
                (result, Held::Intact { uid, resource_version })
            }
            Action::Delete { uid, resource_version } => {
                let result = delete(api, &name, &uid, &resource_version).await;
                let held = Held::Intact { uid, resource_version };
                let Err(failure) = result else {
                    view.doubt(&name);
                    applied.deleted.push(name);
                    applied.certificates.push(status);
                    continue;
                };
                (Err(failure), held)
            }
        };
        match result {
            Ok(metadata) => {
                let now_seen = seen(&metadata);
                status.secret_resource_version = Some(now_seen.resource_version.clone());
                view.written(&name, now_seen);
                applied.written.push(name);
            }
            Err(failure) => {
                if failure.passes {
                    applied.unwritten.push(status.name.clone());
                }
                if !failure.is_seen {
                    view.doubt(&name);
                }
                let before = previous.iter().find(|before| before.name == status.name);
                status = refused(
                    &status.name,
                    Some(&name),
                    before,
                    &held,
                    failure.reason,
                    &failure.message,
                    now,
                );
            }
        }
        applied.certificates.push(status);
    }
    applied
}

struct Failure {
    reason: SyncReason,
    message: String,
    passes: bool,
    /// Whether the view was told how the Secret stands.
    is_seen: bool,
}

/// A pair that was judged good always gives a keystore.
fn unmade(name: &str) -> Failure {
    Failure {
        reason: SyncReason::InternalError,
        message: format!("the keystore of Secret `{name}` could not be made"),
        passes: false,
        is_seen: true,
    }
}

async fn create(
    api: &Api<Secret>,
    name: &str,
    payload: Payload,
    owner: &OwnerReference,
) -> Result<ObjectMeta, Failure> {
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(payload.labels),
            annotations: Some(payload.annotations).filter(|some| !some.is_empty()),
            owner_references: payload.owned.then(|| vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        type_: Some(payload.kind),
        data: Some(
            payload
                .data
                .iter()
                .map(|(key, value)| (key.clone(), ByteString(value.expose().clone())))
                .collect::<BTreeMap<_, _>>(),
        ),
        ..Secret::default()
    };
    let parameters =
        PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    // Serialisation of a Secret cannot fail.
    let body = serde_json::to_vec(&secret).unwrap_or_default();
    write(api, name, Request::new(api.resource_url()).create(&parameters, body)).await
}

/// What to say of a Secret that was there already, if it is ours.
async fn check_owner(
    api: &Api<Secret>,
    view: &View,
    name: &str,
    owner: &OwnerReference,
) -> Option<Failure> {
    let secret = timeout(KUBERNETES_TIMEOUT, api.get(name)).await.ok()?.ok()?;
    let now_seen = seen(&secret.metadata);
    now_seen.owner.as_ref().filter(|(uid, _)| *uid == owner.uid)?;
    view.written(name, now_seen);
    Some(Failure {
        reason: SyncReason::KubernetesError,
        message: format!("Secret `{name}` was there before the watch told of it"),
        passes: true,
        is_seen: true,
    })
}

/// What a merge patch has to say: null removes a key.
fn body(
    payload: &Payload,
    surplus: &Surplus,
    other_owners: Option<Vec<OwnerReference>>,
    owner: &OwnerReference,
) -> Value {
    let texts = |gone: &[String], texts: &BTreeMap<String, String>| {
        let mut map = nulls(gone);
        map.extend(texts.iter().map(|(key, text)| (key.clone(), Value::String(text.clone()))));
        map
    };
    let mut data = nulls(&surplus.data);
    for (key, value) in &payload.data {
        data.insert(key.clone(), Value::String(STANDARD.encode(value.expose())));
    }
    let mut body = json!({
        "metadata": {
            "labels": texts(&surplus.labels, &payload.labels),
            "annotations": texts(&surplus.annotations, &payload.annotations),
        },
        "data": data,
    });
    if let Some(mut owners) = other_owners {
        if payload.owned {
            owners.push(owner.clone());
        }
        // A list in a merge patch is the whole list.
        body["metadata"]["ownerReferences"] = json!(owners);
    }
    body
}

fn nulls(keys: &[String]) -> Map<String, Value> {
    keys.iter().map(|key| (key.clone(), Value::Null)).collect()
}

async fn update(api: &Api<Secret>, name: &str, body: &Value) -> Result<ObjectMeta, Failure> {
    let parameters =
        PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let request = Request::new(api.resource_url()).patch(name, &parameters, &Patch::Merge(body));
    write(api, name, request).await
}

async fn delete(
    api: &Api<Secret>,
    name: &str,
    uid: &str,
    resource_version: &str,
) -> Result<(), Failure> {
    let preconditions = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: Some(resource_version.to_owned()),
    };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let failed =
        |reason, message: String| Err(Failure { reason, message, passes: true, is_seen: false });
    match timeout(KUBERNETES_TIMEOUT, api.delete(name, &parameters)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => failed(
            SyncReason::NoDeleteAccess,
            format!(
                "the operator may not delete Secret `{name}`: apply the Role of \
                 deploy/tenant-delete here, or set target.onSourceRemoved to Keep"
            ),
        ),
        Ok(Err(_)) | Err(_) => {
            failed(SyncReason::KubernetesError, format!("Secret `{name}` could not be deleted"))
        }
    }
}

/// Sends a write; the Secret's metadata as it stands then. The answer holds nothing else: the key that
/// was sent need not come back.
async fn write(
    api: &Api<Secret>,
    name: &str,
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<ObjectMeta, Failure> {
    let writing = async {
        let mut request = request.map_err(kube::Error::BuildRequest)?;
        request.headers_mut().insert(ACCEPT, METADATA_ONLY);
        api.clone().into_client().request::<PartialObjectMeta<Secret>>(request).await
    };
    match timeout(KUBERNETES_TIMEOUT, writing).await {
        Ok(Ok(secret)) => Ok(secret.metadata),
        Ok(Err(error)) => Err(failure(name, &error)),
        Err(_) => Err(Failure {
            reason: SyncReason::KubernetesError,
            message: format!("writing Secret `{name}` took longer than 30 s"),
            passes: true,
            is_seen: false,
        }),
    }
}

/// The API server's text may quote what was sent: it is mapped, not repeated.
fn failure(name: &str, error: &kube::Error) -> Failure {
    let (code, word) = match error {
        kube::Error::Api(status) => (status.code, status.reason.as_str()),
        _ => (0, ""),
    };
    let (reason, message, passes) = match (code, word) {
        (409, "AlreadyExists") => (
            SyncReason::SecretNotOurs,
            format!(
                "Secret `{name}` exists and is not controlled by this VaultCertSync; delete, rename or \
                 adopt it"
            ),
            true,
        ),
        (409, _) => (
            SyncReason::KubernetesError,
            format!("Secret `{name}` changed while it was written"),
            true,
        ),
        (403, _) => (
            SyncReason::NoSecretAccess,
            format!(
                "the operator may not write Secret `{name}`: apply the Role of deploy/tenant here"
            ),
            true,
        ),
        (422, _) => (
            SyncReason::KubernetesError,
            format!("the API server does not take Secret `{name}` as it was to be written"),
            false,
        ),
        (413, _) => (SyncReason::TooLarge, format!("Secret `{name}` would be too large"), false),
        (0, _) => (
            SyncReason::KubernetesError,
            format!("the API server could not be asked to write Secret `{name}`"),
            true,
        ),
        (code, _) => (
            SyncReason::KubernetesError,
            format!("the API server refused to write Secret `{name}` ({code})"),
            true,
        ),
    };
    Failure { reason, message, passes, is_seen: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> OwnerReference {
        OwnerReference { name: name.into(), uid: name.into(), ..OwnerReference::default() }
    }

    #[test]
    fn what_goes_is_null_and_what_comes_is_said() {
        let payload =
            Payload { labels: BTreeMap::from([("team".into(), "a".into())]), ..Payload::default() };
        let surplus = Surplus {
            data: vec!["old".into()],
            labels: vec!["gone".into()],
            annotations: vec!["note".into()],
        };
        let body = body(&payload, &surplus, None, &owner("us"));
        assert_eq!(body["data"], json!({"old": null}));
        assert_eq!(body["metadata"]["labels"], json!({"gone": null, "team": "a"}));
        assert_eq!(body["metadata"]["annotations"], json!({"note": null}));
        assert!(body["metadata"].get("ownerReferences").is_none());
    }

    #[test]
    fn owners_of_others_stay_when_ours_comes_or_goes() {
        let names = |owned: bool| -> Vec<String> {
            let payload = Payload { owned, ..Payload::default() };
            let others = Some(vec![owner("other")]);
            let body = body(&payload, &Surplus::default(), others, &owner("us"));
            let owners = body["metadata"]["ownerReferences"].as_array().unwrap().clone();
            owners.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(true), ["other", "us"]);
        assert_eq!(names(false), ["other"]);
    }
}
