//! Writes the Secrets, one by one, in the plan's order. Chooses nothing: each write names the one
//! object and the one version of it that the plan looked at, so that whatever changed meanwhile makes
//! the write fail instead of being lost.
//!
//! Updates are merge patches with UID and resourceVersion rather than server-side applies: the first
//! write must be a create (an apply would adopt a stranger's Secret), and fields that a create owns
//! cannot be removed by a later apply of the same manager, as `ca.crt` must be.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{
    plan::{Action, Held, Payload, Plan, Step, refused},
    secrets::{View, seen},
};
use crate::crd::{CertificateStatus, MANAGER, SyncReason};

/// How long one request to the API server may take.
const KUBERNETES_TIMEOUT: Duration = Duration::from_secs(30);

/// How the plan ended.
#[derive(Debug, Default)]
pub struct Applied {
    /// Status of each certificate, sorted by name.
    pub certificates: Vec<CertificateStatus>,
    /// Names of the Secrets that were written.
    pub written: Vec<String>,
    /// Whether a write failed in a way that may pass by itself.
    pub try_again: bool,
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
            Action::Create(payload) => {
                let result = match create(api, &name, payload, owner).await {
                    // The watch may be behind: then it is ours, and the next pass looks at it.
                    Err(failure) if failure.reason == SyncReason::SecretNotOurs => {
                        Err(check_owner(api, view, &name, owner).await.unwrap_or(failure))
                    }
                    other => other,
                };
                (result, Held::Absent)
            }
            Action::Update { uid, resource_version, payload, surplus } => {
                let result = update(api, &name, &uid, &resource_version, &payload, &surplus).await;
                (result, Held::Intact { uid, resource_version })
            }
        };
        match result {
            Ok(secret) => {
                let now_seen = seen(&secret.metadata);
                status.secret_resource_version = Some(now_seen.resource_version.clone());
                view.written(&name, now_seen);
                applied.written.push(name);
            }
            Err(failure) => {
                applied.try_again |= failure.passes;
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

async fn create(
    api: &Api<Secret>,
    name: &str,
    payload: Payload,
    owner: &OwnerReference,
) -> Result<Secret, Failure> {
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(payload.labels),
            owner_references: Some(vec![owner.clone()]),
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
    bounded(name, api.create(&parameters, &secret)).await
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

async fn update(
    api: &Api<Secret>,
    name: &str,
    uid: &str,
    resource_version: &str,
    payload: &Payload,
    surplus: &[String],
) -> Result<Secret, Failure> {
    let mut data: Map<String, Value> =
        surplus.iter().map(|key| (key.clone(), Value::Null)).collect();
    for (key, value) in &payload.data {
        data.insert(key.clone(), Value::String(STANDARD.encode(value.expose())));
    }
    let patch = json!({
        "metadata": {"uid": uid, "resourceVersion": resource_version, "labels": payload.labels},
        "data": data,
    });
    let parameters =
        PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    bounded(name, api.patch(name, &parameters, &Patch::Merge(&patch))).await
}

async fn bounded(
    name: &str,
    request: impl Future<Output = kube::Result<Secret>>,
) -> Result<Secret, Failure> {
    match timeout(KUBERNETES_TIMEOUT, request).await {
        Ok(Ok(secret)) => Ok(secret),
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
                "Secret `{name}` exists and is not controlled by this VaultCertSync; delete or rename it"
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
            SyncReason::SecretImmutable,
            format!(
                "the API server refuses to change Secret `{name}`: it is immutable or of another type"
            ),
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
