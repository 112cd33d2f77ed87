//! How many requests one Vault address gets per second.
//!
//! Vault's rate quotas count per client address, so all users of one [`Limiter`] are one client to
//! Vault: the bucket is shared, the queue is first come, first served, and a 429 slows everybody.

use std::{sync::Mutex, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

use crate::lock::lock;

/// The longest pause that a `Retry-After` can impose.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long it takes to come back from almost nothing to the full rate.
const RECOVERY: Duration = Duration::from_secs(60);

/// A burst of refusals, all answers to requests sent before the first, halves the rate once.
const ONE_REFUSAL: Duration = Duration::from_secs(1);

/// The floor of the rate, as a part of the configured one.
const FLOOR: f64 = 1.0 / 16.0;

/// A token bucket whose rate halves when Vault refuses and recovers slowly. Pure: time comes in.
#[derive(Debug)]
struct Bucket {
    full_rate: f64,
    rate: f64,
    burst: f64,
    tokens: f64,
    updated: Instant,
    paused_until: Option<Instant>,
    halved: Option<Instant>,
}

impl Bucket {
    fn new(requests_per_second: u32, burst: u32, now: Instant) -> Self {
        let full_rate = f64::from(requests_per_second.max(1));
        let burst = f64::from(burst.max(1));
        Self {
            full_rate,
            rate: full_rate,
            burst,
            tokens: burst,
            updated: now,
            paused_until: None,
            halved: None,
        }
    }

    /// Another full rate and burst; what has been halved stays halved.
    fn set_rate(&mut self, requests_per_second: u32, burst: u32) {
        let full_rate = f64::from(requests_per_second.max(1));
        self.rate = self.rate / self.full_rate * full_rate;
        self.full_rate = full_rate;
        self.burst = f64::from(burst.max(1));
        self.tokens = self.tokens.min(self.burst);
    }

    /// Takes a token, or says how long to wait before asking again.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        self.updated = now;
        self.tokens = (self.tokens + elapsed * self.rate).min(self.burst);
        let gain = self.full_rate * elapsed / RECOVERY.as_secs_f64();
        self.rate = (self.rate + gain).min(self.full_rate);
        if let Some(until) = self.paused_until {
            if now < until {
                return Some(until - now);
            }
            self.paused_until = None;
            // What gathered during the pause would all be sent at its end.
            self.tokens = self.tokens.min(1.0);
        }
        // A part in a billion forgives the rounding of the wait that was just slept.
        if self.tokens >= 1.0 - 1e-9 {
            self.tokens = (self.tokens - 1.0).max(0.0);
            return None;
        }
        Some(Duration::from_secs_f64((1.0 - self.tokens) / self.rate))
    }

    fn pause(&mut self, wait: Duration, now: Instant) {
        let until = now + wait.min(LONGEST_PAUSE);
        self.paused_until = Some(self.paused_until.map_or(until, |set| set.max(until)));
    }

    fn halve(&mut self, now: Instant) {
        if self.halved.is_some_and(|at| now.saturating_duration_since(at) < ONE_REFUSAL) {
            return;
        }
        self.halved = Some(now);
        self.rate = (self.rate / 2.0).max(self.full_rate * FLOOR);
        self.tokens = self.tokens.min(1.0);
    }
}

/// Not sent: the wait would have gone beyond the deadline.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Exhausted {
    /// When asking again makes sense.
    pub(crate) retry_after: Option<Duration>,
}

/// The bucket with its queue.
#[derive(Debug)]
pub(crate) struct Limiter {
    bucket: Mutex<Bucket>,
    // Tokio's mutex hands over in the order of arrival; only its holder waits for a token.
    turn: tokio::sync::Mutex<()>,
}

impl Limiter {
    pub(crate) fn new(requests_per_second: u32, burst: u32) -> Self {
        let bucket = Bucket::new(requests_per_second, burst, Instant::now());
        Self { bucket: Mutex::new(bucket), turn: tokio::sync::Mutex::new(()) }
    }

    /// Lets that many through from now on.
    pub(crate) fn set_rate(&self, requests_per_second: u32, burst: u32) {
        self.with(|bucket| bucket.set_rate(requests_per_second, burst));
    }

    /// Waits for the turn and a token, at most until `deadline`. Returns how long it waited.
    pub(crate) async fn acquire(&self, deadline: Instant) -> Result<Duration, Exhausted> {
        let start = Instant::now();
        let Ok(_turn) = timeout_at(deadline, self.turn.lock()).await else {
            return Err(Exhausted { retry_after: None });
        };
        loop {
            let now = Instant::now();
            let Some(wait) = self.with(|bucket| bucket.take(now)) else {
                return Ok(now.saturating_duration_since(start));
            };
            if now + wait > deadline {
                return Err(Exhausted { retry_after: Some(wait) });
            }
            sleep(wait).await;
        }
    }

    /// Vault said 429 or 503: nobody sends before `retry_after` (at most a minute) has passed.
    pub(crate) fn pause(&self, retry_after: Duration) {
        let now = Instant::now();
        self.with(|bucket| bucket.pause(retry_after, now));
    }

    /// Vault said 429: half the rate from now on, and slowly back.
    pub(crate) fn slow_down(&self) {
        let now = Instant::now();
        self.with(|bucket| bucket.halve(now));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Bucket) -> T) -> T {
        act(&mut lock(&self.bucket))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let limiter = Limiter::new(10, 5);
        let start = Instant::now();
        for _ in 0..15 {
            limiter.acquire(start + seconds(60)).await.unwrap();
        }
        let took = start.elapsed();
        assert!(
            took >= Duration::from_millis(990) && took < Duration::from_millis(1100),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_rate_holds_at_once_and_what_was_halved_stays_halved() {
        let limiter = Limiter::new(100, 100);
        limiter.slow_down();
        limiter.set_rate(10, 1);
        let start = Instant::now();
        for _ in 0..2 {
            limiter.acquire(start + seconds(60)).await.unwrap();
        }
        let took = start.elapsed();
        assert!(
            took >= Duration::from_millis(190) && took < Duration::from_millis(210),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_beyond_the_deadline_is_refused_at_once() {
        let limiter = Limiter::new(1, 1);
        let start = Instant::now();
        limiter.acquire(start + seconds(10)).await.unwrap();
        limiter.pause(seconds(30));
        let refused = limiter.acquire(start + seconds(10)).await.unwrap_err();
        assert_eq!(refused, Exhausted { retry_after: Some(seconds(30)) });
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_served_in_the_order_of_arrival() {
        let limiter = Arc::new(Limiter::new(10, 1));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..20 {
            let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                limiter.acquire(Instant::now() + seconds(60)).await.unwrap();
                order.lock().unwrap().push(number);
            }));
            tokio::task::yield_now().await;
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_everybody_and_does_not_end_in_a_burst() {
        let limiter = Limiter::new(10, 100);
        limiter.pause(seconds(5));
        let start = Instant::now();
        limiter.acquire(start + seconds(60)).await.unwrap();
        assert_eq!(start.elapsed(), seconds(5));
        limiter.acquire(start + seconds(60)).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(5099), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_at_most_a_minute() {
        let limiter = Limiter::new(10, 10);
        limiter.pause(seconds(86_400));
        let start = Instant::now();
        limiter.acquire(start + seconds(90)).await.unwrap();
        assert_eq!(start.elapsed(), LONGEST_PAUSE);
    }

    #[test]
    fn refusals_of_one_moment_halve_the_rate_once_and_it_comes_back_slowly() {
        let now = Instant::now();
        let mut bucket = Bucket::new(40, 10, now);
        for _ in 0..30 {
            bucket.halve(now);
        }
        assert!((bucket.rate - 20.0).abs() < 1e-9);
        bucket.halve(now + seconds(2));
        assert!((bucket.rate - 10.0).abs() < 1e-9);
        for second in 3..100 {
            bucket.halve(now + seconds(second));
        }
        assert!((bucket.rate - 2.5).abs() < 1e-9, "never below a sixteenth");
        bucket.take(now + seconds(30));
        assert!((bucket.rate - 22.5).abs() < 1e-6, "{}", bucket.rate);
        bucket.take(now + seconds(90));
        assert!((bucket.rate - 40.0).abs() < 1e-9);
    }
}
