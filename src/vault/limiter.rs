//! How many requests one Vault address gets per second.
//!
//! Vault's rate quotas count per client address, so all users of one [`Limiter`] are one client to
//! Vault: the bucket is shared, and a 429 slows everybody. Who waits does so in the lane of his
//! [`Tenant`]: lanes take turns, and within a lane it is first come, first served.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{lock::lock, turns::Turns};

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

    /// A token that was taken and not used.
    fn put_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.burst);
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

/// On whose behalf a request is sent. Those who wait for the limiter take turns by it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Tenant {
    /// Nobody's but the operator's own, or a person's at a terminal. Every other turn is his, however
    /// many others wait.
    Operator,
    /// Of what lies in this namespace of Kubernetes.
    Namespace(Arc<str>),
}

impl Tenant {
    /// Of what lies in this namespace of Kubernetes.
    pub fn of(namespace: &str) -> Self {
        Self::Namespace(namespace.into())
    }
}

/// Where somebody waits.
#[derive(Clone, Debug)]
struct Place {
    tenant: Tenant,
    /// In the order of arrival.
    number: u64,
}

#[derive(Debug)]
struct Waiter<T> {
    deadline: Instant,
    /// How he is told.
    answer: T,
}

/// What is to be done at the head of the line.
#[derive(Debug, Eq, PartialEq)]
enum Next<T> {
    /// He may go.
    Go(T),
    /// He would wait for too long.
    Refuse(T, Exhausted),
    /// Nobody may go before then.
    Wait(Instant),
    /// Nobody waits.
    Rest,
}

/// The bucket, and who waits for it. Pure: time comes in.
#[derive(Debug)]
struct Line<T> {
    bucket: Bucket,
    operator: BTreeMap<u64, Waiter<T>>,
    tenants: Turns<Arc<str>, u64, Waiter<T>>,
    /// Whether the last turn was the operator's.
    was_operator: bool,
    arrivals: u64,
}

impl<T> Line<T> {
    fn new(bucket: Bucket) -> Self {
        let (operator, tenants) = (BTreeMap::new(), Turns::new());
        Self { bucket, operator, tenants, was_operator: false, arrivals: 0 }
    }

    fn arrive(&mut self, tenant: Tenant, deadline: Instant, answer: T) -> Place {
        self.arrivals += 1;
        let number = self.arrivals;
        let waiter = Waiter { deadline, answer };
        match &tenant {
            Tenant::Operator => drop(self.operator.insert(number, waiter)),
            Tenant::Namespace(name) => self.tenants.insert(Arc::clone(name), number, waiter),
        }
        Place { tenant, number }
    }

    /// Whoever waits there does so no longer.
    fn leave(&mut self, place: &Place) -> Option<T> {
        let waiter = match &place.tenant {
            Tenant::Operator => self.operator.remove(&place.number),
            Tenant::Namespace(name) => self.tenants.remove(name, &place.number),
        };
        waiter.map(|waiter| waiter.answer)
    }

    /// Whose turn it is, and until when he can wait.
    fn head(&self) -> Option<(Place, Instant)> {
        let operator = self.operator.first_key_value().map(|(number, waiter)| {
            (Place { tenant: Tenant::Operator, number: *number }, waiter.deadline)
        });
        let tenant = self.tenants.peek().map(|(name, number, waiter)| {
            let tenant = Tenant::Namespace(Arc::clone(name));
            (Place { tenant, number: *number }, waiter.deadline)
        });
        if self.was_operator { tenant.or(operator) } else { operator.or(tenant) }
    }

    /// Takes one out of the line, if he need not wait any longer.
    fn next(&mut self, now: Instant) -> Next<T> {
        let Some((place, deadline)) = self.head() else { return Next::Rest };
        match self.bucket.take(now) {
            None => self.turn(&place).map_or(Next::Rest, Next::Go),
            // No turn was his: the next of his lane has it.
            Some(wait) if now + wait > deadline => {
                let refusal = Exhausted { retry_after: Some(wait) };
                self.leave(&place).map_or(Next::Rest, |answer| Next::Refuse(answer, refusal))
            }
            Some(wait) => Next::Wait(now + wait),
        }
    }

    fn turn(&mut self, place: &Place) -> Option<T> {
        self.was_operator = place.tenant == Tenant::Operator;
        let waiter = match &place.tenant {
            Tenant::Operator => self.operator.remove(&place.number),
            Tenant::Namespace(_) => self.tenants.next(),
        };
        waiter.map(|waiter| waiter.answer)
    }
}

/// How one who waits is told.
type Answer = oneshot::Sender<Result<(), Exhausted>>;

/// The line and what moves it. Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct Limiter(Arc<Mutex<Moved>>);

#[derive(Debug)]
struct Moved {
    line: Line<Answer>,
    /// Whether a task waits to look at the line again: always, if anybody is in it.
    is_watched: bool,
}

impl Limiter {
    pub(crate) fn new(requests_per_second: u32, burst: u32) -> Self {
        let bucket = Bucket::new(requests_per_second, burst, Instant::now());
        Self(Arc::new(Mutex::new(Moved { line: Line::new(bucket), is_watched: false })))
    }

    /// Lets that many through from now on.
    pub(crate) fn set_rate(&self, requests_per_second: u32, burst: u32) {
        self.with(|bucket| bucket.set_rate(requests_per_second, burst));
    }

    /// Waits for the turn and a token, at most until `deadline`. Returns how long it waited.
    pub(crate) async fn acquire(
        &self,
        tenant: &Tenant,
        deadline: Instant,
    ) -> Result<Duration, Exhausted> {
        let start = Instant::now();
        let (answer, told) = oneshot::channel();
        let place = lock(&self.0).line.arrive(tenant.clone(), deadline, answer);
        let mut waiting = Waiting { limiter: self, place, told };
        self.advance();
        match timeout_at(deadline, &mut waiting.told).await {
            Ok(Ok(answer)) => answer.map(|()| start.elapsed()),
            Ok(Err(_)) | Err(_) => Err(Exhausted { retry_after: None }),
        }
    }

    /// Lets in whoever may go now. If others are left, one task looks again when the next may, so that
    /// nobody is woken before it is his turn or he has waited for too long.
    fn advance(&self) {
        let mut moved = lock(&self.0);
        if let Some(again) = moved.line.advance(Instant::now())
            && !moved.is_watched
        {
            moved.is_watched = true;
            tokio::spawn(self.clone().watch(again));
        }
    }

    async fn watch(self, mut again: Instant) {
        loop {
            sleep_until(again).await;
            let mut moved = lock(&self.0);
            match moved.line.advance(Instant::now()) {
                Some(next) => again = next,
                None => {
                    moved.is_watched = false;
                    return;
                }
            }
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
        act(&mut lock(&self.0).line.bucket)
    }
}

impl Line<Answer> {
    /// Tells everybody who may go or has to give up by now; when to look again.
    fn advance(&mut self, now: Instant) -> Option<Instant> {
        loop {
            // Whoever is in the line listens: he leaves it before he stops.
            match self.next(now) {
                Next::Go(answer) => drop(answer.send(Ok(()))),
                Next::Refuse(answer, refusal) => drop(answer.send(Err(refusal))),
                Next::Wait(until) => return Some(until),
                Next::Rest => return None,
            }
        }
    }
}

/// One who waits. He may give up at any time, and takes nothing with him.
struct Waiting<'a> {
    limiter: &'a Limiter,
    place: Place,
    told: oneshot::Receiver<Result<(), Exhausted>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let unused = {
            let line = &mut lock(&self.limiter.0).line;
            line.leave(&self.place);
            // Let in, and gone before he heard of it.
            let unused = matches!(self.told.try_recv(), Ok(Ok(())));
            if unused {
                line.bucket.put_back();
            }
            unused
        };
        if unused {
            self.limiter.advance();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let limiter = Limiter::new(10, 5);
        let start = Instant::now();
        for _ in 0..15 {
            limiter.acquire(&Tenant::Operator, start + seconds(60)).await.unwrap();
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
            limiter.acquire(&Tenant::Operator, start + seconds(60)).await.unwrap();
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
        limiter.acquire(&Tenant::Operator, start + seconds(10)).await.unwrap();
        limiter.pause(seconds(30));
        let refused = limiter.acquire(&Tenant::Operator, start + seconds(10)).await.unwrap_err();
        assert_eq!(refused, Exhausted { retry_after: Some(seconds(30)) });
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    /// Who was let in, in this order.
    type Order = Arc<Mutex<Vec<String>>>;

    /// Has so many wait for a tenant, each for at most ten minutes; `a0`, `a1`, …
    async fn crowd(
        limiter: &Limiter,
        tenant: &Tenant,
        name: &'static str,
        count: usize,
        order: &Order,
    ) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        for number in 0..count {
            let (limiter, tenant, order) = (limiter.clone(), tenant.clone(), Arc::clone(order));
            tasks.push(tokio::spawn(async move {
                limiter.acquire(&tenant, Instant::now() + seconds(600)).await.unwrap();
                order.lock().unwrap().push(format!("{name}{number}"));
            }));
            yield_now().await;
        }
        tasks
    }

    async fn all(tasks: Vec<JoinHandle<()>>) {
        for task in tasks {
            task.await.unwrap();
        }
    }

    fn let_in(order: &Order) -> Vec<String> {
        order.lock().unwrap().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn those_of_one_tenant_are_served_in_the_order_of_arrival() {
        let (limiter, order) = (Limiter::new(10, 1), Order::default());
        all(crowd(&limiter, &Tenant::of("a"), "a", 20, &order).await).await;
        assert_eq!(let_in(&order), (0..20).map(|number| format!("a{number}")).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_take_turns_whatever_each_of_them_has_waiting() {
        let (limiter, order) = (Limiter::new(1, 1), Order::default());
        let mut tasks = crowd(&limiter, &Tenant::of("a"), "a", 4, &order).await;
        tasks.extend(crowd(&limiter, &Tenant::of("b"), "b", 1, &order).await);
        tasks.extend(crowd(&limiter, &Tenant::of("c"), "c", 2, &order).await);
        all(tasks).await;
        assert_eq!(let_in(&order), ["a0", "a1", "b0", "c0", "a2", "c1", "a3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_beside_a_thousand_of_another_waits_for_one_turn() {
        let (limiter, order) = (Limiter::new(10, 1), Order::default());
        let tasks = crowd(&limiter, &Tenant::of("many"), "m", 1000, &order).await;
        for _ in 0..20 {
            let deadline = Instant::now() + seconds(10);
            let waited = limiter.acquire(&Tenant::of("few"), deadline).await.unwrap();
            assert!(waited <= Duration::from_millis(201), "{waited:?}");
        }
        all(tasks).await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_other_turn_is_the_operators_and_every_other_is_not() {
        let (limiter, order) = (Limiter::new(1, 1), Order::default());
        let mut tasks = Vec::new();
        for name in ["a", "b", "c", "d"] {
            tasks.extend(crowd(&limiter, &Tenant::of(name), name, 2, &order).await);
        }
        tasks.extend(crowd(&limiter, &Tenant::Operator, "o", 3, &order).await);
        all(tasks).await;
        let expected = ["a0", "o0", "a1", "o1", "b0", "o2", "c0", "d0", "b1", "c1", "d1"];
        assert_eq!(let_in(&order), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_takes_nobodys_turn_and_no_token() {
        let (limiter, order) = (Limiter::new(1, 1), Order::default());
        let start = Instant::now();
        limiter.acquire(&Tenant::Operator, start).await.unwrap();
        let tasks = crowd(&limiter, &Tenant::of("a"), "a", 3, &order).await;
        let others = crowd(&limiter, &Tenant::of("b"), "b", 1, &order).await;
        tasks[0].abort();
        tasks[2].abort();
        all(others).await;
        let [gone, left, last] = <[_; 3]>::try_from(tasks).unwrap();
        left.await.unwrap();
        assert!(gone.await.unwrap_err().is_cancelled() && last.await.unwrap_err().is_cancelled());
        assert_eq!(let_in(&order), ["a1", "b0"]);
        assert!(start.elapsed() <= Duration::from_millis(2010), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_let_in_and_gone_before_he_hears_of_it_leaves_his_token_to_the_next() {
        let (limiter, order) = (Limiter::new(1, 1), Order::default());
        let start = Instant::now();
        limiter.acquire(&Tenant::Operator, start).await.unwrap();
        let tenant = Tenant::of("a");
        let mut told = Box::pin(limiter.acquire(&tenant, start + seconds(60)));
        assert!(futures::poll!(told.as_mut()).is_pending());
        let others = crowd(&limiter, &Tenant::of("b"), "b", 1, &order).await;
        // The first is let in and never looked at again.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        drop(told);
        all(others).await;
        assert!(start.elapsed() <= Duration::from_millis(1510), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_line_beyond_his_deadline_is_sent_away_and_the_others_go_on() {
        let (limiter, order) = (Limiter::new(1, 1), Order::default());
        let start = Instant::now();
        let tasks = crowd(&limiter, &Tenant::of("a"), "a", 5, &order).await;
        let refused = limiter.acquire(&Tenant::of("a"), start + seconds(2)).await.unwrap_err();
        assert_eq!(refused, Exhausted { retry_after: None });
        assert!(start.elapsed() <= Duration::from_millis(2010), "{:?}", start.elapsed());
        all(tasks).await;
        assert!(start.elapsed() <= Duration::from_millis(4010), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_was_empty_for_a_while_moves_again() {
        let limiter = Limiter::new(1, 1);
        for _ in 0..3 {
            let start = Instant::now();
            for _ in 0..2 {
                limiter.acquire(&Tenant::of("a"), start + seconds(5)).await.unwrap();
            }
            tokio::time::sleep(seconds(30)).await;
            assert!(!lock(&limiter.0).is_watched, "nobody looks at an empty line");
        }
    }

    #[test]
    fn nobody_is_remembered_who_does_not_wait() {
        let now = Instant::now();
        let mut line = Line::new(Bucket::new(1, 1, now));
        let places: Vec<_> = (0..100)
            .map(|number| line.arrive(Tenant::of(&format!("n{number}")), now + seconds(5), number))
            .collect();
        assert_eq!(line.next(now), Next::Go(0));
        assert_eq!(line.next(now), Next::Wait(now + seconds(1)));
        for place in &places {
            line.leave(place);
        }
        assert_eq!(line.next(now + seconds(9)), Next::Rest);
        assert!(line.tenants.lanes().next().is_none() && line.operator.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_everybody_and_does_not_end_in_a_burst() {
        let limiter = Limiter::new(10, 100);
        limiter.pause(seconds(5));
        let start = Instant::now();
        limiter.acquire(&Tenant::Operator, start + seconds(60)).await.unwrap();
        assert_eq!(start.elapsed(), seconds(5));
        limiter.acquire(&Tenant::Operator, start + seconds(60)).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(5099), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_at_most_a_minute() {
        let limiter = Limiter::new(10, 10);
        limiter.pause(seconds(86_400));
        let start = Instant::now();
        limiter.acquire(&Tenant::Operator, start + seconds(90)).await.unwrap();
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
