//! Who is told of changes, and who has to be looked at because of them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use futures::{Stream, stream};
use kube::runtime::reflector::ObjectRef;
use tokio::{sync::Notify, time::sleep};

use super::{Event, Kind, Watched};
use crate::lock::lock;

/// Changes of one kind that one listener has not yet taken. It holds at most one entry for each
/// object, so a listener that is slow, or never listens, costs no more than the store itself.
pub struct Subscription<K: Kind> {
    pending: Arc<Pending<K>>,
}

pub(super) struct Pending<K: Kind> {
    events: Mutex<HashMap<ObjectRef<K>, Event<K>>>,
    arrived: Notify,
}

impl<K: Kind> Default for Subscription<K> {
    fn default() -> Self {
        let pending = Pending { events: Mutex::default(), arrived: Notify::new() };
        Self { pending: Arc::new(pending) }
    }
}

impl<K: Kind> Pending<K> {
    /// One more change.
    pub(super) fn add(&self, event: Event<K>) {
        let mut events = lock(&self.events);
        match events.get_mut(&event.object) {
            Some(earlier) => earlier.new = event.new,
            None => drop(events.insert(event.object.clone(), event)),
        }
        self.arrived.notify_one();
    }
}

impl<K: Kind> Subscription<K> {
    /// Where changes are told, as long as anybody listens.
    pub(super) fn pending(&self) -> Weak<Pending<K>> {
        Arc::downgrade(&self.pending)
    }

    /// Waits for changes and takes them all, in no order. Cancel safe.
    pub async fn next(&mut self) -> Vec<Event<K>> {
        loop {
            let taken = std::mem::take(&mut *lock(&self.pending.events));
            if !taken.is_empty() {
                return taken.into_values().collect();
            }
            self.pending.arrived.notified().await;
        }
    }
}

/// Who has to be looked at when other objects change: `mapper` names the dependents of some changes,
/// which are as many as there were since it was last asked. A change from before the call is not told.
/// Each dependent is named once however many changes concern it meanwhile; a crowd is let through at
/// [`TRIGGER_RATE`], so that ten thousand dependents of one object are awake within five seconds and not
/// in one instant.
pub fn triggers<D: Kind, K: Kind>(
    dependency: &Watched<D>,
    mapper: impl FnMut(&[Event<D>]) -> Vec<ObjectRef<K>> + Send + 'static,
) -> impl Stream<Item = ObjectRef<K>> + Send + 'static {
    struct Crowd<D: Kind, K: Kind, M> {
        changes: Subscription<D>,
        mapper: M,
        waiting: HashSet<ObjectRef<K>>,
        through: Vec<ObjectRef<K>>,
    }
    let crowd = Crowd {
        changes: dependency.subscribe(),
        mapper,
        waiting: HashSet::new(),
        through: Vec::new(),
    };
    stream::unfold(crowd, |mut crowd| async move {
        loop {
            if let Some(object) = crowd.through.pop() {
                return Some((object, crowd));
            }
            if crowd.waiting.is_empty() {
                let changes = crowd.changes.next().await;
                crowd.waiting.extend((crowd.mapper)(&changes));
            } else {
                sleep(TRIGGER_PAUSE).await;
            }
            let group: Vec<_> = crowd.waiting.iter().take(TRIGGER_GROUP).cloned().collect();
            for object in &group {
                crowd.waiting.remove(object);
            }
            crowd.through = group;
        }
    })
}

/// How many dependents are woken together, and the pause between two groups.
const TRIGGER_GROUP: usize = 128;
const TRIGGER_PAUSE: Duration = Duration::from_millis(40);

/// Dependents that are woken in a second.
pub const TRIGGER_RATE: usize = TRIGGER_GROUP * 25;

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::StreamExt;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use tokio::time::Instant;

    use super::{
        super::{
            object_ref,
            tests::{config_map, unwatched},
        },
        *,
    };

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_dependents_of_one_change_are_awake_within_five_seconds() {
        let dependency = unwatched::<ConfigMap>();
        let mapper = |_: &[Event<ConfigMap>]| -> Vec<ObjectRef<Secret>> {
            (0..10_000).map(|number| object_ref(Some("n"), &number.to_string())).collect()
        };
        let mut woken = pin!(triggers(&dependency, mapper));
        dependency.inner.applied(config_map("n", "a", "1"));
        let began = Instant::now();
        let mut names = HashSet::new();
        while names.len() < 10_000 {
            names.insert(woken.next().await.expect("endless").name);
        }
        let took = began.elapsed();
        assert!(took > Duration::from_secs(2) && took < Duration::from_secs(5), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_dependent_is_woken_at_once() {
        let dependency = unwatched::<ConfigMap>();
        let mapper = |events: &[Event<ConfigMap>]| -> Vec<ObjectRef<Secret>> {
            let same = |event: &Event<ConfigMap>| {
                object_ref(event.object.namespace.as_deref(), &event.object.name)
            };
            events.iter().map(same).collect()
        };
        let mut woken = pin!(triggers(&dependency, mapper));
        dependency.inner.applied(config_map("n", "a", "1"));
        let began = Instant::now();
        assert_eq!(woken.next().await, Some(object_ref(Some("n"), "a")));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
