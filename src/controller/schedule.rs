//! When to look again. Pure: interval × UID × now → next tick; class × attempt × seed → delay.
//!
//! The schedule has no state. A tick is a moment of the wall clock whose phase in the interval is a
//! hash of the UID: resources spread over the interval by construction, and a restart makes nothing
//! due at once, without a timestamp in any status.

use std::{hash::Hasher, time::Duration};

use jiff::Timestamp;

use super::pass::Next;
use crate::fault::Retry;

/// The first delay after a failure that may pass by itself, and the longest.
const SOON: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The same where somebody has to act elsewhere.
const SLOWLY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// A resource that waits for a change is looked at now and then all the same: what it waits for may
/// be something nobody watches.
const SAFETY: Duration = Duration::from_secs(600);

/// No interval is shorter: a mistake in a spec must not become a storm.
const SHORTEST: Duration = Duration::from_secs(1);

/// The delay until the next look. `attempt` counts the failures so far, the first one is 0.
pub fn delay(next: Next, uid: &str, attempt: u32, now: Timestamp) -> Duration {
    let seed = seed(uid).wrapping_add(u64::from(attempt).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    match next {
        Next::Tick(interval) => until_tick(interval, uid, now),
        Next::In(wait) => around(wait.max(SHORTEST), seed),
        Next::WhenChanged | Next::Retry(Retry::WhenChanged) => around(SAFETY, seed),
        Next::Retry(Retry::Soon) => around(growing(SOON, attempt), seed),
        Next::Retry(Retry::Slowly) => around(growing(SLOWLY, attempt), seed),
        // Never earlier than asked: the other side would refuse again.
        Next::Retry(Retry::After(wait)) => later(wait.max(SHORTEST), seed),
    }
}

/// How long until the next tick of this resource: more than nothing, at most the interval.
pub fn until_tick(interval: Duration, uid: &str, now: Timestamp) -> Duration {
    let interval = millis(interval.max(SHORTEST)).max(1);
    let phase = seed(uid) % interval;
    // Times before 1970 are nobody's present.
    let now = u64::try_from(now.as_millisecond()).unwrap_or_default();
    let into = (now % interval + interval - phase) % interval;
    Duration::from_millis(interval - into)
}

/// How long a broken watch rests. `code` is the HTTP status of the refusal, 0 if there was none.
pub(super) fn watch_delay(code: u16, attempt: u32, seed: u64) -> Duration {
    let seed = seed.wrapping_add(u64::from(attempt));
    let range = match code {
        // The history is gone: list again, but not in a tight loop.
        410 => (Duration::from_millis(100), Duration::from_secs(30)),
        // Somebody has to grant a permission or install the CRD.
        401 | 403 | 404 => (Duration::from_secs(2), Duration::from_secs(60)),
        _ => (Duration::from_millis(800), Duration::from_secs(30)),
    };
    around(growing(range, attempt), seed)
}

/// A number that is the same for this text in every process.
pub(super) fn seed(text: &str) -> u64 {
    let mut hasher = Fnv::default();
    hasher.write(text.as_bytes());
    hasher.finish()
}

fn growing((first, longest): (Duration, Duration), attempt: u32) -> Duration {
    first.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(longest)
}

/// Between nine and eleven tenths of the delay.
fn around(delay: Duration, seed: u64) -> Duration {
    let tenth = millis(delay) / 10;
    delay - Duration::from_millis(tenth) + Duration::from_millis(seed % (2 * tenth + 1))
}

/// Between the delay and a tenth more.
fn later(delay: Duration, seed: u64) -> Duration {
    delay + Duration::from_millis(seed % (millis(delay) / 10 + 1))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

/// FNV-1a with 64 bits and a final mix, since the low bits decide a phase. The standard library's
/// hashers promise nothing from one version to the next.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a valid time")
    }

    fn retry(class: Retry, attempt: u32) -> Duration {
        delay(Next::Retry(class), "uid", attempt, at(0))
    }

    #[test]
    fn a_tick_comes_once_in_each_interval_at_the_same_phase() {
        let first = at(1_800_000_000) + until_tick(HOUR, "a", at(1_800_000_000));
        assert_eq!(until_tick(HOUR, "a", first), HOUR, "at the tick, the next one is due");
        let before = first - Duration::from_secs(5);
        assert_eq!(until_tick(HOUR, "a", before), Duration::from_secs(5));
    }

    #[test]
    fn a_restart_does_not_move_a_tick() {
        let tick = at(1_800_000_000) + until_tick(HOUR, "a", at(1_800_000_000));
        let restarted = tick - Duration::from_secs(100);
        assert_eq!(restarted + until_tick(HOUR, "a", restarted), tick);
    }

    #[test]
    fn resources_spread_evenly_over_the_interval() {
        let mut quarters = [0_u32; 4];
        for number in 0..4000 {
            let uid = format!("5c0a3f6e-0000-4000-8000-{number:012}");
            let wait = until_tick(HOUR, &uid, at(1_800_000_000));
            assert!(wait > Duration::ZERO && wait <= HOUR);
            quarters[usize::try_from((wait.as_secs() / 900).min(3)).expect("small")] += 1;
        }
        assert!(quarters.iter().all(|count| (850..1150).contains(count)), "{quarters:?}");
    }

    #[test]
    fn the_hash_of_a_uid_is_the_same_for_ever() {
        let mut hasher = Fnv::default();
        hasher.write(b"foobar");
        assert_eq!(hasher.0, 0x8594_4171_f739_67e8, "the published value");
        assert_eq!(seed("foobar"), 0x6916_ce8b_48d4_bc55);
    }

    #[test]
    fn an_interval_of_nothing_is_a_second() {
        assert!(until_tick(Duration::ZERO, "a", at(7)) <= SHORTEST);
        assert!(until_tick(Duration::MAX, "a", at(7)) > HOUR);
    }

    #[test]
    fn soon_starts_at_a_second_doubles_and_ends_at_five_minutes() {
        for (attempt, seconds) in [(0, 1.0), (1, 2.0), (4, 16.0), (9, 300.0), (400, 300.0)] {
            let waited = retry(Retry::Soon, attempt).as_secs_f64();
            assert!((seconds * 0.9..=seconds * 1.1).contains(&waited), "{attempt}: {waited}");
        }
    }

    #[test]
    fn slowly_starts_at_half_a_minute_and_ends_at_ten_minutes() {
        for (attempt, seconds) in [(0, 30.0), (1, 60.0), (5, 600.0), (u32::MAX, 600.0)] {
            let waited = retry(Retry::Slowly, attempt).as_secs_f64();
            assert!((seconds * 0.9..=seconds * 1.1).contains(&waited), "{attempt}: {waited}");
        }
    }

    #[test]
    fn what_the_other_side_asked_for_is_never_cut_short() {
        let asked = Duration::from_secs(40);
        for attempt in 0..50 {
            let waited = retry(Retry::After(asked), attempt);
            assert!(waited >= asked && waited <= asked * 11 / 10, "{waited:?}");
        }
    }

    #[test]
    fn what_waits_for_a_change_is_still_looked_at_now_and_then() {
        for next in [Next::WhenChanged, Next::Retry(Retry::WhenChanged)] {
            let waited = delay(next, "uid", 0, at(0));
            assert!((540..=660).contains(&waited.as_secs()), "{waited:?}");
        }
    }

    #[test]
    fn two_resources_that_fail_together_do_not_return_together() {
        let asked = Next::Retry(Retry::Slowly);
        assert_ne!(delay(asked, "one", 3, at(0)), delay(asked, "two", 3, at(0)));
    }

    #[test]
    fn a_refused_watch_rests_longer_than_a_broken_one() {
        assert!(watch_delay(403, 0, 1) > watch_delay(0, 0, 1));
        assert!(watch_delay(404, 30, 1) <= Duration::from_secs(66));
        assert!(watch_delay(410, 0, 1) < Duration::from_secs(1));
    }
}
