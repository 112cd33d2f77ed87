//! Accounts for which AWS asked for fewer requests, or for which an endpoint does not answer: they are
//! left alone for a while, each by itself.
//!
//! A throttled account has many identities, and each of them trying again in its own time would keep
//! it throttled. So the account waits as a whole, and when its time is over one of its identities
//! tries; the others follow if that one gets through. Other accounts notice nothing. The same holds for
//! an endpoint that is down, where each try would cost a time-out.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use crate::lock::lock;

/// The first pause, doubling up to the longest of an account.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// The longest pause of an endpoint: nobody tells when it is back.
const LONGEST_OUTAGE: Duration = Duration::from_secs(10);
/// How long the one that tries may take before another does.
const TRIAL: Duration = Duration::from_secs(15);
/// Accounts that are remembered.
const CAPACITY: usize = 1024;

/// The accounts that were throttled lately, or the endpoints that did not answer, each with what was
/// said of it.
#[derive(Debug)]
pub struct Throttles<W = ()> {
    longest: Duration,
    resting: Mutex<HashMap<String, Throttled<W>>>,
}

#[derive(Clone, Debug)]
struct Throttled<W> {
    until: Instant,
    pause: Duration,
    why: W,
}

impl Default for Throttles {
    fn default() -> Self {
        Self { longest: LONGEST, resting: Mutex::default() }
    }
}

impl<W: Clone> Throttles<W> {
    /// For endpoints.
    pub fn of_outages() -> Self {
        Self { longest: LONGEST_OUTAGE, resting: Mutex::default() }
    }

    /// Whether this account may be asked now. Of several that wait for the end of its pause, one may.
    ///
    /// # Errors
    /// What was said of it, if it may not.
    pub fn admits(&self, account: &str, now: Instant) -> Result<(), W> {
        match self.lock().get_mut(account) {
            None => Ok(()),
            Some(throttled) if now < throttled.until => Err(throttled.why.clone()),
            Some(throttled) => {
                throttled.until = now + TRIAL;
                Ok(())
            }
        }
    }

    /// AWS asked for fewer requests, or did not answer.
    pub fn throttled(&self, account: &str, why: W, now: Instant) {
        let mut accounts = self.lock();
        let pause = accounts.get(account).map_or(FIRST, |last| (last.pause * 2).min(self.longest));
        if accounts.len() >= CAPACITY && !accounts.contains_key(account) {
            // The one whose time is over first: at worst it is asked once more.
            let first = accounts.iter().min_by_key(|(_, one)| one.until);
            if let Some(first) = first.map(|(account, _)| account.clone()) {
                accounts.remove(&first);
            }
        }
        accounts.insert(account.to_owned(), Throttled { until: now + pause, pause, why });
    }

    /// AWS answered something else.
    pub fn answered(&self, account: &str) {
        self.lock().remove(account);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Throttled<W>>> {
        // Plain data: whoever panicked while holding it left it whole.
        lock(&self.resting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_throttled_account_rests_and_others_do_not() {
        let (throttles, now) = (Throttles::default(), Instant::now());
        throttles.throttled("1", (), now);
        assert!(throttles.admits("1", now).is_err());
        assert!(throttles.admits("2", now).is_ok());
    }

    #[test]
    fn after_the_pause_one_tries_and_the_pause_grows_until_it_gets_through() {
        let (throttles, mut now) = (Throttles::default(), Instant::now());
        throttles.throttled("1", (), now);
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            let early = now + SECOND * pause - SECOND / 2;
            assert!(throttles.admits("1", early).is_err(), "{pause}");
            now += SECOND * pause;
            assert!(throttles.admits("1", now).is_ok(), "{pause}");
            assert!(throttles.admits("1", now).is_err(), "one is enough");
            throttles.throttled("1", (), now);
        }
        throttles.answered("1");
        assert!(throttles.admits("1", now).is_ok() && throttles.admits("1", now).is_ok());
    }

    #[test]
    fn a_trial_that_is_never_heard_of_again_makes_room_for_another() {
        let (throttles, now) = (Throttles::default(), Instant::now());
        throttles.throttled("1", (), now);
        assert!(throttles.admits("1", now + SECOND).is_ok());
        assert!(throttles.admits("1", now + SECOND + TRIAL).is_ok());
    }

    #[test]
    fn an_endpoint_that_is_down_is_tried_at_least_every_ten_seconds_and_says_the_same_meanwhile() {
        let (outages, mut now) = (Throttles::of_outages(), Instant::now());
        for pause in [1, 2, 4, 8, 10, 10] {
            outages.throttled("sts", "connection refused", now);
            assert_eq!(outages.admits("sts", now), Err("connection refused"));
            now += SECOND * pause;
            assert_eq!(outages.admits("sts", now), Ok(()), "{pause}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (throttles, now) = (Throttles::default(), Instant::now());
        for account in 0..CAPACITY + 10 {
            throttles.throttled(&account.to_string(), (), now + SECOND);
        }
        assert_eq!(throttles.lock().len(), CAPACITY);
    }
}
