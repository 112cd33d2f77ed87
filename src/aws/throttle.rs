//! Accounts for which AWS asked for fewer requests: they are left alone for a while, each by itself.
//!
//! A throttled account has many identities, and each of them trying again in its own time would keep
//! it throttled. So the account waits as a whole, and when its time is over one of its identities
//! tries; the others follow if that one gets through. Other accounts notice nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use crate::lock::lock;

/// The first pause, doubling up to the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// How long the one that tries may take before another does.
const TRIAL: Duration = Duration::from_secs(15);
/// Accounts that are remembered.
const CAPACITY: usize = 1024;

/// The accounts that were throttled lately.
#[derive(Debug, Default)]
pub struct Throttles(Mutex<HashMap<String, Throttled>>);

#[derive(Clone, Copy, Debug)]
struct Throttled {
    until: Instant,
    pause: Duration,
}

impl Throttles {
    /// Whether this account may be asked now. Of several that wait for the end of its pause, one may.
    pub fn admits(&self, account: &str, now: Instant) -> bool {
        match self.lock().get_mut(account) {
            None => true,
            Some(throttled) if now < throttled.until => false,
            Some(throttled) => {
                throttled.until = now + TRIAL;
                true
            }
        }
    }

    /// AWS asked for fewer requests.
    pub fn throttled(&self, account: &str, now: Instant) {
        let mut accounts = self.lock();
        let pause = accounts.get(account).map_or(FIRST, |last| (last.pause * 2).min(LONGEST));
        if accounts.len() >= CAPACITY && !accounts.contains_key(account) {
            // The one whose time is over first: at worst it is asked once more.
            let first = accounts.iter().min_by_key(|(_, one)| one.until);
            if let Some(first) = first.map(|(account, _)| account.clone()) {
                accounts.remove(&first);
            }
        }
        accounts.insert(account.to_owned(), Throttled { until: now + pause, pause });
    }

    /// AWS answered something else.
    pub fn answered(&self, account: &str) {
        self.lock().remove(account);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Throttled>> {
        // Plain data: whoever panicked while holding it left it whole.
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_throttled_account_rests_and_others_do_not() {
        let (throttles, now) = (Throttles::default(), Instant::now());
        throttles.throttled("1", now);
        assert!(!throttles.admits("1", now));
        assert!(throttles.admits("2", now));
    }

    #[test]
    fn after_the_pause_one_tries_and_the_pause_grows_until_it_gets_through() {
        let (throttles, mut now) = (Throttles::default(), Instant::now());
        throttles.throttled("1", now);
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(!throttles.admits("1", now + SECOND * pause - SECOND / 2), "{pause}");
            now += SECOND * pause;
            assert!(throttles.admits("1", now), "{pause}");
            assert!(!throttles.admits("1", now), "one is enough");
            throttles.throttled("1", now);
        }
        throttles.answered("1");
        assert!(throttles.admits("1", now) && throttles.admits("1", now));
    }

    #[test]
    fn a_trial_that_is_never_heard_of_again_makes_room_for_another() {
        let (throttles, now) = (Throttles::default(), Instant::now());
        throttles.throttled("1", now);
        assert!(throttles.admits("1", now + SECOND));
        assert!(throttles.admits("1", now + SECOND + TRIAL));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (throttles, now) = (Throttles::default(), Instant::now());
        for account in 0..CAPACITY + 10 {
            throttles.throttled(&account.to_string(), now + SECOND);
        }
        assert_eq!(throttles.lock().len(), CAPACITY);
    }
}
