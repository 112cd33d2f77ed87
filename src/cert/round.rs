//! How far a reading of the source has come that takes more than one pass.
//!
//! Where many share the limit of requests to Vault, a hundred certificates can take longer than a pass
//! may. What a pass has read is delivered and told, and the next one goes on with the rest: a round,
//! which ends when every entry was looked at once. Only this process knows of it; after a restart another
//! round begins, with what was never delivered.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Mutex,
};

use jiff::Timestamp;

use crate::lock::lock;

/// Namespace and name of a sync.
pub type SyncKey = (String, String);

/// What a round reads for: another wish is another round.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wish {
    /// UID of the sync.
    pub uid: String,
    /// What its spec asks for.
    pub asked: u64,
    /// The value of its refresh annotation.
    pub refresh: Option<String>,
}

/// Why an entry is to be looked at, the most urgent first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Need {
    /// Nothing is known of it.
    Unknown,
    /// It was delivered, and its Secret is not as it was written, or not as is asked for now.
    Touched,
    /// It could not be delivered.
    Undelivered,
    /// There may be another version of it.
    Refresh,
}

/// What was looked at so far.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Round {
    wish: Wish,
    /// When it began: nothing that it read is older.
    pub began: Timestamp,
    /// What was looked at.
    seen: BTreeSet<String>,
    /// Those of them whose Secret could not be read or written: to be looked at again.
    again: BTreeSet<String>,
}

impl Round {
    /// Nothing was looked at yet.
    pub fn new(wish: Wish, now: Timestamp) -> Self {
        Self { wish, began: now, seen: BTreeSet::new(), again: BTreeSet::new() }
    }

    /// Of these entries those that this round has still to look at, in the order in which it does: first
    /// what it did not come to yet, so that each pass comes further than the one before.
    pub fn left<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
        need: impl Fn(&str) -> Need,
    ) -> Vec<String> {
        let mut left: Vec<_> = names
            .map(|name| (self.seen.contains(name), need(name), name))
            .filter(|(seen, need, name)| {
                !seen || *need == Need::Touched || self.again.contains(*name)
            })
            .collect();
        left.sort_unstable();
        left.into_iter().map(|(_, _, name)| name.to_owned()).collect()
    }

    /// Whether no pass has looked at anything for it yet.
    pub fn is_new(&self) -> bool {
        self.seen.is_empty()
    }

    /// As it is after a pass that looked at these, some of which have to be looked at again.
    pub fn gone_on(mut self, seen: Vec<String>, again: BTreeSet<String>) -> Self {
        self.again.retain(|name| !seen.contains(name));
        self.again.extend(again);
        self.seen.extend(seen);
        self
    }
}

/// The rounds that have not ended: of a sync whose passes come to everything, none.
#[derive(Debug, Default)]
pub struct Rounds(Mutex<HashMap<SyncKey, Round>>);

impl Rounds {
    /// The sync's round, to be gone on with; a new one if there is none for this wish.
    pub fn resume(&self, sync: &SyncKey, wish: Wish, now: Timestamp) -> Round {
        let open = lock(&self.0).get(sync).filter(|round| round.wish == wish).cloned();
        open.unwrap_or_else(|| Round::new(wish, now))
    }

    /// Whether the sync's round has not ended.
    pub fn is_open(&self, sync: &SyncKey) -> bool {
        lock(&self.0).contains_key(sync)
    }

    /// There is more to look at.
    pub fn keep(&self, sync: SyncKey, round: Round) {
        lock(&self.0).insert(sync, round);
    }

    /// It has ended, or the sync is gone.
    pub fn end(&self, sync: &SyncKey) {
        lock(&self.0).remove(sync);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn wish(asked: u64) -> Wish {
        Wish { uid: "u".to_owned(), asked, refresh: None }
    }

    fn round() -> Round {
        Round::new(wish(1), Timestamp::UNIX_EPOCH)
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_was_never_delivered_comes_first() {
        let needs = BTreeMap::from([
            ("a", Need::Refresh),
            ("b", Need::Undelivered),
            ("c", Need::Touched),
            ("d", Need::Unknown),
        ]);
        let left = round().left(needs.keys().copied(), |name| needs[name]);
        assert_eq!(left, ["d", "c", "b", "a"]);
    }

    #[test]
    fn a_pass_goes_on_where_the_last_one_stopped_and_a_new_entry_is_not_missed() {
        let round = round().gone_on(list(&["a", "b"]), names(&[]));
        let left = round.left(["a", "b", "bb", "c"].into_iter(), |_| Need::Refresh);
        assert_eq!(left, ["bb", "c"]);
    }

    #[test]
    fn what_failed_or_was_touched_is_looked_at_again_after_what_was_not_come_to() {
        let round = round().gone_on(list(&["a", "b", "c"]), names(&["b"]));
        let need = |name: &str| if name == "c" { Need::Touched } else { Need::Refresh };
        assert_eq!(round.left(["a", "b", "c", "d"].into_iter(), need), ["d", "c", "b"]);
        let round = round.gone_on(list(&["b", "d"]), names(&[]));
        assert!(round.left(["a", "b", "d"].into_iter(), need).is_empty(), "it went well");
    }

    #[test]
    fn passes_of_any_length_end_a_round_whatever_fails_or_is_touched_all_the_time() {
        let all: Vec<String> = (0..100).map(|number| format!("c{number:02}")).collect();
        for length in [1, 7, 99] {
            let mut round = round();
            let mut reached = BTreeSet::new();
            let mut passes = 0;
            while reached.len() < all.len() {
                // The first forty can never be written, and somebody touches the next forty.
                let need = |name: &str| if name < "c80" { Need::Touched } else { Need::Refresh };
                let mut left = round.left(all.iter().map(String::as_str), need);
                left.truncate(length);
                reached.extend(left.iter().cloned());
                let again = left.iter().filter(|name| name.as_str() < "c40").cloned().collect();
                round = round.gone_on(left, again);
                passes += 1;
            }
            assert_eq!(passes, all.len().div_ceil(length), "each comes to {length} new ones");
        }
    }

    #[test]
    fn another_wish_is_another_round() {
        let (rounds, key) = (Rounds::default(), ("n".to_owned(), "s".to_owned()));
        let now = Timestamp::UNIX_EPOCH;
        assert!(!rounds.is_open(&key));
        let round = rounds.resume(&key, wish(1), now).gone_on(list(&["a"]), names(&[]));
        rounds.keep(key.clone(), round.clone());
        assert!(rounds.is_open(&key));
        let later = now + jiff::SignedDuration::from_mins(1);
        assert_eq!(rounds.resume(&key, wish(1), later), round);
        assert_eq!(rounds.resume(&key, wish(2), later), Round::new(wish(2), later));
        rounds.end(&key);
        assert_eq!(rounds.resume(&key, wish(1), later), Round::new(wish(1), later));
    }
}
