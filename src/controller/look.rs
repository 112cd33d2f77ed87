//! One look at one resource: finalizer, apply or cleanup, report.
//!
//! It runs to its end whatever happens in it, within a deadline, and tells the desk how it ended.

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant as Clock},
};

use futures::FutureExt as _;
use jiff::Timestamp;
use kube::{
    Resource,
    api::{Patch, PatchParams},
    core::{ObjectMeta, Request, object::HasStatus as _},
    runtime::reflector::ObjectRef,
};
use serde_json::json;
use tokio::{sync::watch::Receiver, time::timeout};

use super::{
    condition::{self, READY},
    pass::{Cleanup, Next, Note, Outcome, Reconcile, Status as _},
    report::{Failure, Reporter, Written, judge},
    watch::{Kind, Store, read_object},
};
use crate::{
    crd::MANAGER,
    fault::{Retry, chain},
};

/// The reason of a pass that did not end in time.
const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// The reason of a pass that panicked: a mistake in this program.
const INTERNAL_ERROR: &str = "InternalError";
/// The reason of a pass that could not set or take away its finalizer.
const KUBERNETES_ERROR: &str = "KubernetesError";

/// How long the finalizer may take to be written.
const FINALIZER_TIMEOUT: Duration = Duration::from_secs(30);

/// How a pass ended.
pub(super) struct Ended<K: Kind> {
    pub(super) object: Arc<ObjectRef<K>>,
    pub(super) uid: String,
    /// The resource as the pass left it, if it wrote to it.
    pub(super) written: Option<Box<K>>,
    /// When to look again; `None`: there is nothing left to look at.
    pub(super) next: Option<Next>,
}

/// One look at one resource.
pub(super) struct Pass<R: Reconcile> {
    pub(super) reconciler: Arc<R>,
    pub(super) reporter: Reporter,
    pub(super) store: Store<R::Resource>,
    pub(super) deadline: Duration,
    pub(super) now: Timestamp,
    /// Whether deeds wait that go before words.
    pub(super) rush: Receiver<bool>,
}

/// The pass metric's label, the resource as it was written, when to look again.
type Told<K> = (&'static str, Option<Box<K>>, Option<Next>);

/// What became of a change to the list of finalizers.
enum Finalizer<K> {
    Stands,
    Changed(Box<K>),
    /// Somebody else changed the resource meanwhile.
    Outrun,
    Gone,
}

impl<R: Reconcile> Pass<R> {
    /// Runs to the end whatever happens: a panic ends this pass and nothing else.
    pub(super) async fn run(
        self,
        object: Arc<ObjectRef<R::Resource>>,
        resource: Arc<R::Resource>,
    ) -> Ended<R::Resource> {
        let began = Clock::now();
        let _at_work = self.reporter.at_work();
        let kind = R::Resource::kind(&());
        let uid = resource.meta().uid.clone().unwrap_or_default();
        let looked = AssertUnwindSafe(self.look(&object, &resource)).catch_unwind().await;
        let (result, written, next) = looked.unwrap_or_else(|panic| {
            tracing::error!(%kind, %object, panic = said(&*panic), "the report of a pass panicked");
            ("panicked", None, Some(Next::Retry(Retry::Slowly)))
        });
        self.reporter.metrics().pass_ended(&kind, result, began.elapsed());
        Ended { object, uid, written, next }
    }

    /// Each part has a place of its own, and only while it lasts: hundreds of passes may wait at once,
    /// and one that waits is not to hold the room for all that it might do.
    async fn look(
        &self,
        object: &ObjectRef<R::Resource>,
        resource: &R::Resource,
    ) -> Told<R::Resource> {
        if resource.meta().deletion_timestamp.is_some() {
            return Box::pin(self.let_go(object, resource)).await;
        }
        // Before the first apply: what it leaves outside must not outlive the resource.
        match self.finalizer(resource, true).await {
            Ok(Finalizer::Stands) => {
                let verdict =
                    self.within(Box::pin(self.reconciler.apply(resource, self.now))).await;
                Box::pin(self.tell(object, resource, verdict, None)).await
            }
            Ok(Finalizer::Changed(changed)) => {
                let verdict =
                    self.within(Box::pin(self.reconciler.apply(&changed, self.now))).await;
                let resource = changed.clone();
                Box::pin(self.tell(object, &resource, verdict, Some(changed))).await
            }
            Ok(Finalizer::Outrun) => outrun(),
            Ok(Finalizer::Gone) => ("gone", None, None),
            Err(failure) => Box::pin(self.tell(object, resource, Err(failure), None)).await,
        }
    }

    /// The resource is being deleted.
    async fn let_go(
        &self,
        object: &ObjectRef<R::Resource>,
        resource: &R::Resource,
    ) -> Told<R::Resource> {
        if !has_finalizer::<R>(resource.meta()) {
            return ("gone", None, None); // Others may still hold it; nothing of ours is left.
        }
        let verdict = match self.within(self.reconciler.cleanup(resource, self.now)).await {
            Err(failure) => Err(failure),
            Ok(Cleanup::NotYet(outcome)) => Ok(outcome),
            Ok(Cleanup::Done(note)) => {
                let notes: Vec<Note> = note.into_iter().collect();
                match self.finalizer(resource, false).await {
                    Err(failure) => Err(failure),
                    Ok(Finalizer::Outrun) => return outrun(),
                    Ok(Finalizer::Changed(_) | Finalizer::Stands | Finalizer::Gone) => {
                        if notes.iter().any(|note| note.warning) {
                            self.reporter.metrics().orphaned(&R::Resource::kind(&()));
                        }
                        self.say_farewell(object, resource, notes).await;
                        return ("released", None, None);
                    }
                }
            }
        };
        self.tell(object, resource, verdict, None).await
    }

    /// The last events about a resource, or about its witness, who then has to be told of whom.
    async fn say_farewell(
        &self,
        object: &ObjectRef<R::Resource>,
        resource: &R::Resource,
        mut notes: Vec<Note>,
    ) {
        let Some(witness) = self.reconciler.witness(resource) else {
            return self.reporter.notes(resource, &notes, self.now).await;
        };
        let kind = R::Resource::kind(&());
        let namespace = object.namespace.as_deref().unwrap_or_default();
        for note in &mut notes {
            note.message = format!("{kind} `{namespace}/{}`: {}", object.name, note.message);
        }
        self.reporter.notes_about(&witness, &notes, self.now).await;
    }

    /// The kind's part: under the deadline, and with its panics caught.
    async fn within<T, E: Into<Failure>>(
        &self,
        part: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        match timeout(self.deadline, AssertUnwindSafe(part).catch_unwind()).await {
            Ok(Ok(verdict)) => verdict.map_err(Into::into),
            Ok(Err(panic)) => {
                tracing::error!(panic = said(&*panic), "a pass panicked");
                Err(Failure {
                    reason: INTERNAL_ERROR,
                    message: "a mistake in the operator ended the pass, see its log".to_owned(),
                    retry: Retry::Slowly,
                    shared: false,
                })
            }
            Err(_) => Err(Failure {
                reason: DEADLINE_EXCEEDED,
                message: format!("the pass did not end within {}s", self.deadline.as_secs()),
                retry: Retry::Soon,
                shared: false,
            }),
        }
    }

    /// Tells what was found: status first, since it is what others act on.
    async fn tell(
        &self,
        object: &ObjectRef<R::Resource>,
        resource: &R::Resource,
        verdict: Result<Outcome<R::Status>, Failure>,
        written: Option<Box<R::Resource>>,
    ) -> Told<R::Resource> {
        let kind = R::Resource::kind(&());
        let unknown = R::Status::default();
        let stands = resource.status();
        let previous = stands.unwrap_or(&unknown);
        let generation = resource.meta().generation.unwrap_or_default();
        let report = judge(verdict, previous, generation, self.now);
        if let Some(ready) = condition::find(report.status.conditions(), READY)
            && report.result == "failed"
        {
            // Once aloud, then only for those who look closely.
            let error = &ready.message;
            if report.notes.is_empty() {
                tracing::debug!(%kind, %object, reason = ready.reason, error, "pass failed again");
            } else {
                tracing::warn!(%kind, %object, reason = ready.reason, error, "pass failed");
            }
        }
        if let Some(reason) = report.refused {
            self.reporter.metrics().refused(&kind, reason);
        }
        let stored = || self.store.fetch(object);
        let told = self.reporter.status(resource, stands, &report.status, stored, &self.rush);
        match told.await {
            Ok(Written::Unchanged) => {
                self.reporter.notes(resource, &report.notes, self.now).await;
                (report.result, written, Some(report.next))
            }
            Ok(Written::Changed(current)) => {
                self.reporter.notes(resource, &report.notes, self.now).await;
                (report.result, Some(current), Some(report.next))
            }
            Ok(Written::Outrun) => outrun(),
            Ok(Written::Gone) => {
                self.reporter
                    .metrics()
                    .forgotten(&kind, resource.meta().uid.as_deref().unwrap_or(""));
                ("gone", None, None)
            }
            Err(error) => {
                tracing::warn!(%kind, %object, error = chain(&error), "report failed");
                ("unreported", written, Some(Next::Retry(Retry::Soon)))
            }
        }
    }

    /// Sets our finalizer, or takes it away, unless it stands so already or the kind has none. The
    /// patch names the version it was made from: the list is replaced whole, and somebody else's
    /// finalizer must not be lost.
    async fn finalizer(
        &self,
        resource: &R::Resource,
        wanted: bool,
    ) -> Result<Finalizer<R::Resource>, Failure> {
        match R::FINALIZER {
            Some(ours) if has_finalizer::<R>(resource.meta()) != wanted => {
                Box::pin(self.change_finalizer(resource, ours, wanted)).await
            }
            _ => Ok(Finalizer::Stands),
        }
    }

    async fn change_finalizer(
        &self,
        resource: &R::Resource,
        ours: &str,
        wanted: bool,
    ) -> Result<Finalizer<R::Resource>, Failure> {
        let meta = resource.meta();
        let mut finalizers = meta.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != ours);
        if wanted {
            finalizers.push(ours.to_owned());
        }
        let patch = Patch::Merge(json!({
            "metadata": {"finalizers": finalizers, "resourceVersion": meta.resource_version, "uid": meta.uid}
        }));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
        let name = meta.name.as_deref().unwrap_or_default();
        let request = Request::new(R::Resource::url_path(&(), meta.namespace.as_deref()))
            .patch(name, &params, &patch)
            .map_err(|error| unreachable_kubernetes(chain(&error)))?;
        let changing = async {
            let text = self.reporter.client().request_text(request).await?;
            read_object::<R::Resource>(&text).map_err(kube::Error::SerdeError)
        };
        match timeout(FINALIZER_TIMEOUT, changing).await {
            Ok(Ok(changed)) => Ok(Finalizer::Changed(Box::new(changed))),
            Ok(Err(kube::Error::Api(said))) if said.code == 404 => Ok(Finalizer::Gone),
            Ok(Err(kube::Error::Api(said))) if said.code == 409 => Ok(Finalizer::Outrun),
            Ok(Err(error)) => Err(unreachable_kubernetes(chain(&error))),
            Err(_) => Err(unreachable_kubernetes("no answer".to_owned())),
        }
    }
}

/// The pass started from an old version: the watch will bring the new one in a moment.
const fn outrun<K>() -> Told<K> {
    ("outrun", None, Some(Next::Retry(Retry::Soon)))
}

fn unreachable_kubernetes(error: String) -> Failure {
    Failure {
        reason: KUBERNETES_ERROR,
        message: format!("changing the finalizer: {error}"),
        retry: Retry::Soon,
        shared: false,
    }
}

pub(super) fn has_finalizer<R: Reconcile>(meta: &ObjectMeta) -> bool {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    R::FINALIZER.is_some_and(|ours| finalizers.iter().any(|finalizer| finalizer == ours))
}

fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_quoted() {
        assert_eq!(said(&"index out of bounds"), "index out of bounds");
        assert_eq!(said(&"owned".to_owned()), "owned");
        assert_eq!(said(&7), "without a text");
    }
}
