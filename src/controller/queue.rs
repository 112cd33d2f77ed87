//! Who is to be looked at, and when. Pure: the time comes in as an argument.
//!
//! One entry for each object. An object that is being looked at is never handed out again before
//! that pass has ended; a wake-up meanwhile is kept and not lost. What changed goes before what was
//! woken, and that before what is merely due, so that a new resource does not queue behind ten
//! thousand refreshes; who is passed over three times has the next turn all the same. What is due of
//! one urgency goes by turns of the tenants, and no tenant has every place at once, so that one who has
//! a thousand does not hold up another who has one.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use tokio::time::Instant;

use crate::turns::Turns;

/// Why an object is in the queue, the most urgent first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Urgency {
    /// It was created or changed.
    Changed,
    /// Something that it depends on changed, or a short delay is over.
    Woken,
    /// Its time has come.
    Routine,
}

const URGENCIES: [Urgency; 3] = [Urgency::Changed, Urgency::Woken, Urgency::Routine];

/// How often an urgency that has something due is passed over in favour of more urgent ones.
const PATIENCE: u8 = 3;

/// When, and a number that breaks ties in the order of arrival.
type Due = (Instant, u64);

#[derive(Debug)]
struct Slot {
    due: Option<(Urgency, Due)>,
    running: bool,
}

/// What waits with one urgency.
#[derive(Debug)]
struct File<T> {
    /// What is not due yet, as far as anybody looked.
    by_time: BTreeMap<Due, T>,
    /// What is due, by tenant.
    due: Turns<u64, Due, T>,
    passed_over: u8,
}

impl<T> File<T> {
    fn new() -> Self {
        Self { by_time: BTreeMap::new(), due: Turns::new(), passed_over: 0 }
    }

    /// Has what is due by now wait in its tenant's lane; whether there is any of one who may go.
    fn ripen(&mut self, now: Instant, tenant: fn(&T) -> u64, may: &dyn Fn(&u64) -> bool) -> bool {
        while let Some(entry) = self.by_time.first_entry().filter(|entry| entry.key().0 <= now) {
            let (due, object) = entry.remove_entry();
            self.due.insert(tenant(&object), due, object);
        }
        self.due.lanes().any(may)
    }

    fn remove(&mut self, due: &Due, tenant: u64) {
        if self.by_time.remove(due).is_none() {
            self.due.remove(&tenant, due);
        }
    }

    fn first(&self, may: &dyn Fn(&u64) -> bool) -> Option<Instant> {
        let due = self.due.firsts().filter(|(tenant, _)| may(tenant)).map(|(_, due)| due);
        due.chain(self.by_time.keys().next()).map(|due| due.0).min()
    }
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    tenant: fn(&T) -> u64,
    slots: HashMap<T, Slot>,
    /// By urgency.
    files: [File<T>; 3],
    arrivals: u64,
    running: usize,
    /// How many are being looked at, by tenant. None is zero.
    running_of: HashMap<u64, usize>,
    /// How many of one tenant may be.
    most_of_one: usize,
}

impl<T: Clone + Eq + Hash> Queue<T> {
    /// Nothing yet. Objects for which `tenant` gives the same number share turns.
    pub(super) fn new(tenant: fn(&T) -> u64) -> Self {
        Self {
            tenant,
            slots: HashMap::new(),
            files: URGENCIES.map(|_| File::new()),
            arrivals: 0,
            running: 0,
            running_of: HashMap::new(),
            most_of_one: usize::MAX,
        }
    }

    /// Hands out no more of a tenant while so many of his are being looked at.
    pub(super) fn limit_each(&mut self, most: usize) {
        self.most_of_one = most;
    }

    /// Has the object looked at by then. A more urgent or, of the same urgency, an earlier entry
    /// stays as it is.
    pub(super) fn add(&mut self, object: &T, urgency: Urgency, at: Instant) {
        self.arrivals += 1;
        let due = (at, self.arrivals);
        let slot = self.slots.entry(object.clone()).or_insert(Slot { due: None, running: false });
        if slot.due.is_some_and(|(known, (when, _))| (known, when) <= (urgency, at)) {
            return;
        }
        let earlier = slot.due.replace((urgency, due));
        if slot.running {
            return; // Filed when its pass has ended.
        }
        let tenant = (self.tenant)(object);
        if let Some((urgency, due)) = earlier {
            self.file(urgency).remove(&due, tenant);
        }
        self.file(urgency).by_time.insert(due, object.clone());
    }

    /// The next object to look at; it counts as running until [`Self::ended`].
    pub(super) fn take(&mut self, now: Instant) -> Option<T> {
        let tenant = self.tenant;
        let may = below(&self.running_of, self.most_of_one);
        let due = self.files.each_mut().map(|file| file.ripen(now, tenant, &may));
        let waiting = || (0..self.files.len()).filter(|urgency| due[*urgency]);
        let first = waiting().next()?;
        let chosen = waiting()
            .rev()
            .find(|urgency| self.files[*urgency].passed_over >= PATIENCE)
            .unwrap_or(first);
        for (file, is_due) in self.files.iter_mut().zip(due).skip(chosen + 1) {
            file.passed_over = if is_due { file.passed_over.saturating_add(1) } else { 0 };
        }
        let file = &mut self.files[chosen];
        file.passed_over = 0;
        let object = file.due.next_of(may)?;
        if let Some(slot) = self.slots.get_mut(&object) {
            slot.due = None;
            slot.running = true;
            self.running += 1;
            *self.running_of.entry(tenant(&object)).or_default() += 1;
        }
        Some(object)
    }

    /// The object's pass has ended. What woke it meanwhile is filed.
    pub(super) fn ended(&mut self, object: &T) {
        let Some(slot) = self.slots.get_mut(object).filter(|slot| slot.running) else { return };
        slot.running = false;
        self.running -= 1;
        let tenant = (self.tenant)(object);
        if let Some(running) = self.running_of.get_mut(&tenant) {
            *running -= 1;
            if *running == 0 {
                self.running_of.remove(&tenant);
            }
        }
        match slot.due {
            Some((urgency, due)) => drop(self.file(urgency).by_time.insert(due, object.clone())),
            None => drop(self.slots.remove(object)),
        }
    }

    /// Nobody needs to look at the object any more.
    pub(super) fn forget<Q>(&mut self, object: &Q)
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let Some(slot) = self.slots.get_mut(object) else { return };
        let due = slot.due.take();
        if slot.running {
            return; // Goes when its pass ends.
        }
        let tenant = self.slots.get_key_value(object).map(|(object, _)| (self.tenant)(object));
        if let (Some((urgency, due)), Some(tenant)) = (due, tenant) {
            self.file(urgency).remove(&due, tenant);
        }
        self.slots.remove(object);
    }

    /// When the next object is due; the past if one is overdue and may go.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let may = below(&self.running_of, self.most_of_one);
        self.files.iter().filter_map(|file| file.first(&may)).min()
    }

    /// Whether an object waits that was created or changed.
    pub(super) fn has_changed(&self, now: Instant) -> bool {
        self.files[Urgency::Changed as usize].first(&|_| true).is_some_and(|due| due <= now)
    }

    /// How many objects are being looked at.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    fn file(&mut self, urgency: Urgency) -> &mut File<T> {
        &mut self.files[urgency as usize]
    }
}

/// Whether of a tenant fewer run than may.
fn below(running: &HashMap<u64, usize>, most: usize) -> impl Fn(&u64) -> bool {
    move |tenant| running.get(tenant).is_none_or(|running| *running < most)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        Urgency::{Changed, Routine, Woken},
        *,
    };

    fn drain(queue: &mut Queue<&'static str>, now: Instant) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.take(now)).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn tenants_take_turns_whatever_each_of_them_has_waiting() {
        let now = Instant::now();
        let mut queue = Queue::new(|object: &&str| u64::from(object.as_bytes()[0]));
        for object in ["a1", "a2", "a3", "a4"] {
            queue.add(&object, Changed, now);
        }
        assert_eq!(queue.take(now), Some("a1"));
        queue.add(&"b1", Changed, now);
        queue.add(&"b2", Changed, now);
        queue.add(&"c1", Changed, now);
        assert_eq!(drain(&mut queue, now), ["a2", "b1", "c1", "a3", "b2", "a4"]);
    }

    #[test]
    fn no_tenant_has_more_places_than_he_may_whatever_of_his_is_due() {
        let now = Instant::now();
        let mut queue = Queue::new(|object: &&str| u64::from(object.as_bytes()[0]));
        queue.limit_each(2);
        for object in ["a1", "a2", "a3", "a4"] {
            queue.add(&object, Changed, now);
        }
        assert_eq!(drain(&mut queue, now), ["a1", "a2"]);
        assert_eq!(queue.next_due(), None, "nobody is to be woken for what may not go");
        queue.add(&"b1", Routine, now);
        assert_eq!(queue.next_due(), Some(now));
        assert_eq!(drain(&mut queue, now), ["b1"]);
        queue.ended(&"a2");
        assert_eq!(queue.next_due(), Some(now));
        assert_eq!(drain(&mut queue, now), ["a3"]);
        queue.limit_each(3);
        assert_eq!(drain(&mut queue, now), ["a4"]);
    }

    #[test]
    fn what_is_due_can_be_forgotten_and_what_is_left_keeps_its_turn() {
        let now = Instant::now();
        let mut queue = Queue::new(|object: &&str| u64::from(object.as_bytes()[0]));
        for object in ["a1", "b1", "a2", "c1"] {
            queue.add(&object, Changed, now);
        }
        assert_eq!(queue.take(now), Some("a1"));
        queue.forget("b1");
        assert_eq!(queue.next_due(), Some(now));
        assert_eq!(drain(&mut queue, now), ["c1", "a2"]);
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn that_something_changed_is_known_until_it_is_looked_at() {
        let (mut queue, now) = (Queue::new(|_| 0), Instant::now());
        queue.add(&"routine", Urgency::Routine, now);
        queue.add(&"later", Urgency::Changed, now + Duration::from_secs(1));
        assert!(!queue.has_changed(now));
        queue.add(&"changed", Urgency::Changed, now);
        assert!(queue.has_changed(now), "nobody has asked for the next yet");
        assert_eq!(queue.take(now), Some("changed"));
        assert!(!queue.has_changed(now));
    }

    #[test]
    fn an_object_is_handed_out_when_it_is_due_and_not_before() {
        let (mut queue, now) = (Queue::new(|_| 0), Instant::now());
        queue.add(&"a", Routine, now + SECOND);
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.next_due(), Some(now + SECOND));
        assert_eq!(queue.take(now + SECOND), Some("a"));
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn an_object_that_is_added_twice_is_handed_out_once_and_at_the_earlier_time() {
        let (mut queue, now) = (Queue::new(|_| 0), Instant::now());
        queue.add(&"a", Routine, now + SECOND);
        queue.add(&"a", Routine, now);
        queue.add(&"a", Routine, now + SECOND * 2);
        assert_eq!(drain(&mut queue, now + SECOND * 3), ["a"]);
        assert_eq!(queue.running(), 1);
    }

    #[test]
    fn a_running_object_is_not_handed_out_but_its_wake_up_is_kept() {
        let (mut queue, now) = (Queue::new(|_| 0), Instant::now());
        queue.add(&"a", Changed, now);
        assert_eq!(queue.take(now), Some("a"));
        queue.add(&"a", Changed, now);
        assert_eq!(queue.take(now), None);
        queue.ended(&"a");
        assert_eq!(queue.take(now), Some("a"));
        queue.ended(&"a");
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.running(), 0);
    }

    #[test]
    fn a_tick_that_is_set_after_a_pass_does_not_delay_a_wake_up_during_it() {
        let (mut queue, now) = (Queue::new(|_| 0), Instant::now());
        queue.add(&"a", Changed, now);
        queue.take(now);
        queue.add(&"a", Changed, now + SECOND);
        queue.ended(&"a");
        queue.add(&"a", Routine, now + SECOND * 3600);
        assert_eq!(queue.next_due(), Some(now + SECOND));
    }

    #[test]
    fn a_wake_up_does_not_delay_a_look_at_what_changed() {
        let (mut queue, now) = (Queue::new(|_| 0), Instant::now());
        queue.add(&"a", Changed, now);
        queue.add(&"a", Woken, now - SECOND);
        queue.add(&"b", Woken, now - SECOND);
        assert_eq!(drain(&mut queue, now), ["a", "b"]);
    }

    #[test]
    fn a_change_brings_a_planned_look_forward() {
        let (mut queue, now) = (Queue::new(|_| 0), Instant::now());
        queue.add(&"a", Routine, now + SECOND * 3600);
        queue.add(&"a", Changed, now);
        assert_eq!(drain(&mut queue, now), ["a"]);
        queue.ended(&"a");
        assert_eq!(queue.next_due(), None, "the planned look is not left behind");
    }

    #[test]
    fn what_changed_goes_first_but_the_routine_is_never_starved() {
        let (mut queue, now) = (Queue::new(|_| 0), Instant::now());
        for object in ["r1", "r2"] {
            queue.add(&object, Routine, now - SECOND);
        }
        for object in ["c1", "c2", "c3", "c4", "c5"] {
            queue.add(&object, Changed, now);
        }
        let order = drain(&mut queue, now);
        assert_eq!(order, ["c1", "c2", "c3", "r1", "c4", "c5", "r2"]);
    }

    #[test]
    fn a_forgotten_object_is_not_handed_out_even_if_its_pass_still_runs() {
        let (mut queue, now) = (Queue::new(|_| 0), Instant::now());
        queue.add(&"a", Changed, now);
        queue.forget(&"a");
        assert_eq!(queue.take(now), None);
        queue.add(&"a", Changed, now);
        queue.take(now);
        queue.add(&"a", Changed, now);
        queue.forget(&"a");
        queue.ended(&"a");
        assert_eq!((queue.take(now), queue.running()), (None, 0));
    }
}
