//! Lanes that take turns: whoever has a thousand waiting in his lane does not hold up another who has
//! one. Pure.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
};

/// What waits, by lane, and within a lane in the order of its keys.
#[derive(Debug)]
pub(crate) struct Turns<L, K, T> {
    /// None is empty.
    lanes: HashMap<L, BTreeMap<K, T>>,
    /// The lanes that there are, the next one first.
    turns: VecDeque<L>,
}

impl<L: Clone + Eq + Hash, K: Ord, T> Turns<L, K, T> {
    pub(crate) fn new() -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new() }
    }

    /// Has it wait. A lane that was empty has its turn after all others.
    pub(crate) fn insert(&mut self, lane: L, key: K, item: T) {
        let waiting = self.lanes.entry(lane).or_insert_with_key(|lane| {
            self.turns.push_back(lane.clone());
            BTreeMap::new()
        });
        waiting.insert(key, item);
    }

    /// The first of the lane whose turn it is, and its lane and key.
    pub(crate) fn peek(&self) -> Option<(&L, &K, &T)> {
        let lane = self.turns.front()?;
        let (key, item) = self.lanes.get(lane)?.first_key_value()?;
        Some((lane, key, item))
    }

    /// Takes the first of the lane whose turn it is; the lane's next turn comes after all others.
    pub(crate) fn next(&mut self) -> Option<T> {
        self.next_of(|_| true)
    }

    /// The same among these lanes; the others keep their turns.
    pub(crate) fn next_of(&mut self, may: impl Fn(&L) -> bool) -> Option<T> {
        let turn = self.turns.iter().position(may)?;
        let lane = self.turns.remove(turn)?;
        let waiting = self.lanes.get_mut(&lane)?;
        let (_, item) = waiting.pop_first()?;
        if waiting.is_empty() {
            self.lanes.remove(&lane);
        } else {
            self.turns.push_back(lane);
        }
        Some(item)
    }

    /// Takes this one out; its lane keeps its turn if others wait there.
    pub(crate) fn remove(&mut self, lane: &L, key: &K) -> Option<T> {
        let waiting = self.lanes.get_mut(lane)?;
        let item = waiting.remove(key);
        if waiting.is_empty() {
            self.lanes.remove(lane);
            self.turns.retain(|other| other != lane);
        }
        item
    }

    /// Each lane with its first key.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = (&L, &K)> {
        self.lanes.iter().filter_map(|(lane, waiting)| Some((lane, waiting.first_key_value()?.0)))
    }

    /// The lanes in which somebody waits.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = &L> {
        self.turns.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_take_turns_and_within_a_lane_the_keys_decide() {
        let mut turns = Turns::new();
        for (key, item) in [(2, "a2"), (1, "a1"), (3, "a3"), (4, "b1"), (5, "c1"), (6, "b2")] {
            turns.insert(item.as_bytes()[0], key, item);
        }
        assert_eq!(turns.peek(), Some((&b'a', &1, &"a1")));
        let order: Vec<_> = std::iter::from_fn(|| turns.next()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert_eq!(turns.lanes().next(), None);
    }

    #[test]
    fn a_lane_that_may_not_go_keeps_its_turn() {
        let mut turns = Turns::new();
        for (key, item) in [(1, "a1"), (2, "b1"), (3, "c1"), (4, "b2")] {
            turns.insert(item.as_bytes()[0], key, item);
        }
        let but_a = |lane: &u8| *lane != b'a';
        assert_eq!([turns.next_of(but_a), turns.next_of(but_a)], [Some("b1"), Some("c1")]);
        assert_eq!(turns.next_of(|_| false), None);
        assert_eq!([turns.next(), turns.next(), turns.next()], [Some("a1"), Some("b2"), None]);
    }

    #[test]
    fn who_leaves_takes_nobodys_turn() {
        let mut turns = Turns::new();
        for (key, item) in [(1, "a1"), (2, "a2"), (3, "b1"), (4, "c1")] {
            turns.insert(item.as_bytes()[0], key, item);
        }
        assert_eq!(turns.remove(&b'a', &1), Some("a1"));
        assert_eq!(turns.remove(&b'a', &1), None);
        assert_eq!(turns.remove(&b'b', &3), Some("b1"));
        assert_eq!(turns.firsts().min_by_key(|(_, key)| *key), Some((&b'a', &2)));
        assert_eq!([turns.next(), turns.next(), turns.next()], [Some("a2"), Some("c1"), None]);
    }
}
