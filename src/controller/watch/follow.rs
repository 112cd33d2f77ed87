//! One stream: a list, then a watch, for ever, whatever breaks it.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    pin::pin,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use futures::{AsyncReadExt, StreamExt};
use kube::{
    Client,
    api::{ListParams, WatchEvent, WatchParams},
    core::Request,
};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    super::schedule,
    Access, Inner, Kind,
    read::{Guarded, read_list},
};
use crate::{clock, fault::chain, lock::lock};

/// What the client adds to it before it takes the connection for dead.
const WATCH_MARGIN: Duration = Duration::from_secs(5);

/// How long a page of a list may take to arrive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a watch may take to be accepted: the API server does so before there is anything to tell.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(15);

/// Objects in one page of a list, whose text is held in memory until it is read.
const PAGE: u32 = 100;

/// How far one stream has come.
pub(super) struct Progress {
    /// When the API server last said anything: an object, a bookmark, a list, a new watch.
    heard: Mutex<Instant>,
    pub(super) access: watch::Sender<Access>,
    /// What is wrong just now.
    trouble: Mutex<Option<String>>,
    task: Mutex<Option<AbortHandle>>,
    /// Whether the process is unready while this stream is stuck.
    pub(super) vital: bool,
}

impl Progress {
    fn new(vital: bool) -> Self {
        Self {
            heard: Mutex::new(Instant::now()),
            access: watch::Sender::new(Access::Pending),
            trouble: Mutex::new(None),
            task: Mutex::new(None),
            vital,
        }
    }

    /// Ends the stream.
    pub(super) fn stop(&self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }

    /// What keeps it from being trusted, if anything. Quiet for longer than `limit` is too long.
    pub(super) fn complaint(&self, limit: Duration) -> Option<String> {
        let listed = *self.access.borrow() == Access::Granted;
        let quiet = lock(&self.heard).elapsed();
        if listed && quiet <= limit {
            return None;
        }
        let trouble = lock(&self.trouble).clone().unwrap_or_default();
        let what = if listed { "no progress" } else { "not listed yet" };
        Some(format!("{what} ({}s) {trouble}", quiet.as_secs()))
    }
}

/// One stream: lists, then follows, for ever.
pub(super) struct Follower<K: Kind> {
    inner: Weak<Inner<K>>,
    progress: Arc<Progress>,
    scope: Option<String>,
}

/// Why a list or a watch ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the API server answers {code}: {message}")]
    Refused { code: u16, message: String },
    #[error("the API server cannot be reached")]
    Failed(#[source] kube::Error),
    #[error("the API server cut the watch off: {0}")]
    CutOff(String),
    #[error("the watch ended at once")]
    Short,
    /// 410: the history is gone, list again.
    #[error("the watch fell behind")]
    Expired,
    #[error("the list carries no resourceVersion")]
    NoVersion,
}

impl Broken {
    fn code(&self) -> u16 {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Expired => 410,
            _ => 0,
        }
    }
}

impl From<kube::Error> for Broken {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 410 => Self::Expired,
            kube::Error::Api(status) => {
                Self::Refused { code: status.code, message: status.message }
            }
            error => Self::Failed(error),
        }
    }
}

impl<K: Kind> Follower<K> {
    /// Follows this part of the cluster until it is stopped, or nobody holds the store any more.
    pub(super) fn start(
        inner: &Arc<Inner<K>>,
        scope: Option<String>,
        vital: bool,
    ) -> Arc<Progress> {
        let progress = Arc::new(Progress::new(vital));
        let inner = Arc::downgrade(inner);
        let follower = Self { inner, progress: Arc::clone(&progress), scope };
        *lock(&progress.task) = Some(tokio::spawn(follower.run()).abort_handle());
        progress
    }

    async fn run(self) {
        let mut version = None;
        // Failures in a row; of these, the last ones that were refusals.
        let (mut attempt, mut refusals) = (0_u32, 0_u32);
        loop {
            let began = Instant::now();
            let step = match version.take() {
                None => self.list().await,
                Some(version) => self.follow(version).await,
            };
            let Err((broken, resume)) = step.map(|next| {
                version = next;
                (attempt, refusals) = (0, 0);
            }) else {
                if version.is_none() {
                    return; // Nobody holds the store any more.
                }
                continue;
            };
            version = resume;
            let code = broken.code();
            refusals = if is_refusal(code) { refusals.saturating_add(1) } else { 0 };
            self.stumbled(&broken, refusals);
            // A watch that held for a while and then broke is a first failure again.
            if began.elapsed() > Duration::from_secs(60) {
                attempt = 0;
            }
            let seed = schedule::seed(&format!("{}{:?}", K::kind(&()), self.scope));
            let tried = if refusals > 0 { refusals - 1 } else { attempt };
            sleep(schedule::watch_delay(code, tried, seed)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Lists page by page; the version to follow from. `Ok(None)`: nobody is left to list for.
    async fn list(&self) -> Result<Option<String>, (Broken, Option<String>)> {
        let mut seen = HashSet::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let Some(inner) = self.inner.upgrade() else { return Ok(None) };
            let client = inner.client.clone();
            drop(inner); // A request must not keep the watches of a dropped handle alive.
            let page = self.page(client, &params).await.map_err(|broken| (broken, None))?;
            let Some(inner) = self.inner.upgrade() else { return Ok(None) };
            self.heard(&inner);
            let read = read_list(&page, |found| match &found {
                Guarded::Fits(_) => seen.extend(inner.take(found)),
                Guarded::Malformed { .. } => drop(inner.take(found)),
            });
            let broken = |error| (Broken::Failed(kube::Error::SerdeError(error)), None);
            let metadata = read.map_err(broken)?;
            match metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    let version = metadata.resource_version.filter(|v| !v.is_empty());
                    let version = version.ok_or((Broken::NoVersion, None))?;
                    inner.retain(&self.scope, &seen);
                    self.recovered(Access::Granted);
                    return Ok(Some(version));
                }
            }
        }
    }

    /// The text of a page.
    async fn page(&self, client: Client, params: &ListParams) -> Result<Vec<u8>, Broken> {
        let request = self.request();
        let request =
            if K::metadata_api() { request.list_metadata(params) } else { request.list(params) };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let answer = async {
            let mut text = Vec::new();
            let mut answer = pin!(client.request_stream(request).await?);
            answer.read_to_end(&mut text).await.map_err(kube::Error::ReadEvents)?;
            Ok::<_, kube::Error>(text)
        };
        timeout(ANSWER_TIMEOUT, answer)
            .await
            .map_err(|_| Broken::Silent(ANSWER_TIMEOUT))?
            .map_err(Broken::from)
    }

    /// Follows one watch to its end; the version it came to. `Ok(None)`: nobody is left.
    async fn follow(
        &self,
        mut version: String,
    ) -> Result<Option<String>, (Broken, Option<String>)> {
        let Some(inner) = self.inner.upgrade() else { return Ok(None) };
        let (client, lasting) = (inner.client.clone(), inner.lasting);
        drop(inner);
        let seconds = u32::try_from(lasting.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams { timeout: Some(seconds), bookmarks: true, ..Default::default() };
        let request = self.request();
        let request = if K::metadata_api() {
            request.watch_metadata(&params, &version)
        } else {
            request.watch(&params, &version)
        };
        let began = Instant::now();
        let opened = async {
            let request = request.map_err(kube::Error::BuildRequest)?;
            timeout(ACCEPT_TIMEOUT, client.request_events::<Guarded<K>>(request))
                .await
                .map_err(|_| Broken::Silent(ACCEPT_TIMEOUT))?
                .map_err(Broken::from)
        };
        let stream = match opened.await {
            Ok(stream) => stream,
            Err(broken) => return Err(resume(broken, version)),
        };
        let mut stream = pin!(stream);
        match self.inner.upgrade() {
            Some(inner) => self.heard(&inner),
            None => return Ok(None),
        }
        self.recovered(Access::Granted);
        let mut events = 0_u64;
        loop {
            // The server ends each watch itself; silence beyond that is a dead connection.
            let Ok(next) = timeout(lasting + WATCH_MARGIN, stream.next()).await else {
                return Err((Broken::Silent(lasting + WATCH_MARGIN), Some(version)));
            };
            let Some(inner) = self.inner.upgrade() else { return Ok(None) };
            match next {
                None if events == 0 && began.elapsed() < Duration::from_secs(1) => {
                    return Err((Broken::Short, Some(version)));
                }
                None => return Ok(Some(version)),
                Some(Err(error)) => return Err(resume(Broken::from(error), version)),
                Some(Ok(event)) => {
                    self.heard(&inner);
                    events += 1;
                    if let ControlFlow::Break(broken) = happened(&inner, event, &mut version) {
                        return Err(resume(broken, version));
                    }
                }
            }
        }
    }

    fn request(&self) -> Request {
        Request::new(K::url_path(&(), self.scope.as_deref()))
    }

    fn heard(&self, inner: &Inner<K>) {
        *lock(&self.progress.heard) = Instant::now();
        inner.metrics.watch_progressed(&K::kind(&()), clock::now());
    }

    fn recovered(&self, access: Access) {
        if let Some(trouble) = lock(&self.progress.trouble).take() {
            let kind = K::kind(&());
            tracing::info!(%kind, namespace = self.scope, was = trouble, "watching again");
        }
        self.progress.access.send_replace(access);
    }

    /// Says what went wrong, once per kind of trouble. `refusals`: how many there were in a row.
    fn stumbled(&self, broken: &Broken, refusals: u32) {
        if matches!(broken, Broken::Expired) {
            return; // Part of the protocol.
        }
        let had = *self.progress.access.borrow();
        if let Some(access) = access_after(broken.code(), refusals, had) {
            self.progress.access.send_replace(access);
        }
        let trouble = chain(broken);
        let mut known = lock(&self.progress.trouble);
        if known.as_ref() != Some(&trouble) {
            let kind = K::kind(&());
            tracing::warn!(%kind, namespace = self.scope, error = trouble, "watch is interrupted");
            *known = Some(trouble);
        }
    }
}

const fn is_refusal(code: u16) -> bool {
    matches!(code, 401 | 403)
}

/// What is to be thought of the access after this answer; `None`: what was thought before.
///
/// An API server that has just begun knows no roles yet and refuses everybody for a moment. So one refusal
/// takes nothing back that was granted: the next is not far.
const fn access_after(code: u16, refusals: u32, had: Access) -> Option<Access> {
    match had {
        Access::Granted if is_refusal(code) && refusals < 2 => None,
        _ if is_refusal(code) => Some(Access::Denied),
        _ if code == 404 => Some(Access::Unknown),
        _ => None,
    }
}

/// After this trouble: list again, or go on from where the watch was.
fn resume(broken: Broken, version: String) -> (Broken, Option<String>) {
    let again = match broken.code() {
        // The history or the kind is gone, or what we may see has changed: compare everything.
        401 | 403 | 404 | 410 => None,
        _ => Some(version),
    };
    (broken, again)
}

fn happened<K: Kind>(
    inner: &Inner<K>,
    event: WatchEvent<Guarded<K>>,
    version: &mut String,
) -> ControlFlow<Broken> {
    match event {
        WatchEvent::Added(found) | WatchEvent::Modified(found) => {
            found.advance(version);
            inner.take(found);
        }
        WatchEvent::Deleted(found) => {
            found.advance(version);
            inner.deleted(found.key());
        }
        WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
        WatchEvent::Error(status) if status.code == 410 => {
            return ControlFlow::Break(Broken::Expired);
        }
        WatchEvent::Error(status) => {
            return ControlFlow::Break(Broken::CutOff(status.message.clone()));
        }
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_granted_is_taken_back_by_the_second_refusal() {
        assert_eq!(access_after(403, 1, Access::Granted), None);
        assert_eq!(access_after(403, 2, Access::Granted), Some(Access::Denied));
        assert_eq!(access_after(403, 1, Access::Pending), Some(Access::Denied));
        assert_eq!(access_after(404, 0, Access::Granted), Some(Access::Unknown));
        assert_eq!(access_after(500, 0, Access::Granted), None);
    }

    #[test]
    fn a_refusal_lists_again_and_a_broken_connection_goes_on() {
        let after = |broken| resume(broken, "7".to_owned()).1;
        assert_eq!(after(Broken::Short).as_deref(), Some("7"));
        assert_eq!(after(Broken::Silent(WATCH_MARGIN)).as_deref(), Some("7"));
        assert_eq!(after(Broken::Expired), None);
        for code in [401, 403, 404] {
            assert_eq!(after(Broken::Refused { code, message: String::new() }), None);
        }
    }
}
