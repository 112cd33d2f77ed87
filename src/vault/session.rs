//! Sessions: one login per identity, kept as long as it serves, renewed in time, ended at shutdown.
//!
//! A login costs Vault two questions to STS, so tokens are kept and shared by those who may share
//! them (the key says who). When a token is used, renewed or replaced is a pure decision,
//! [`next_move`]; the rest makes sure that many callers of one identity cause one login, and many
//! callers of a broken identity one attempt.

use std::{
    collections::HashMap,
    future::Future,
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Caller, Client,
    error::Cause,
    login::Login,
    tokens::{renew_self, revoke_self},
};
use crate::{
    fault::{Fault, Retry},
    lock::lock,
};

/// Sessions that are kept at once.
const CAPACITY: usize = 20_000;
/// A token is not used in the last part of its life: a request that begins with it must end.
const MARGIN: Duration = Duration::from_secs(15);
/// A session that Vault declared dead is not replaced more often than this.
const RELOGIN: Duration = Duration::from_secs(30);
/// A renewal that failed for a reason that may pass is not tried again before this.
const RENEW_AGAIN: Duration = Duration::from_secs(10);
/// After a failed login the key is left alone for this long, doubling up to the longest.
const BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// What the end of a session may cost.
const REVOKE: Duration = Duration::from_secs(2);
/// Revocations at the same time.
const REVOKING: usize = 16;

/// What a token still is worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lease {
    /// When Vault granted it, or last renewed it.
    pub granted: Instant,
    /// How long it lives from then on; zero = for ever.
    pub duration: Duration,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// How many requests it still has, the one for its revocation included; `None` = no limit.
    pub uses_left: Option<i64>,
    /// Spreads renewals: any number, the same for the life of the token.
    pub seed: u64,
}

impl Lease {
    /// When it ends; `None` = never.
    pub fn expires(&self) -> Option<Instant> {
        (!self.duration.is_zero()).then(|| self.granted + self.duration)
    }
}

/// What to do with a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Move {
    /// Use it as it is.
    Use,
    /// Use it, and renew it.
    Renew,
    /// It is at its end: log in.
    LogIn,
}

/// What to do with a token at `now`.
///
/// Renewal begins between half and six tenths of its life. What cannot be renewed is replaced at
/// two thirds. Close to its end, or with only the use for its revocation left, a token is not used.
pub fn next_move(lease: &Lease, now: Instant) -> Move {
    if lease.uses_left.is_some_and(|left| left <= 1) {
        return Move::LogIn;
    }
    if lease.duration.is_zero() {
        return Move::Use;
    }
    let age = now.saturating_duration_since(lease.granted);
    let margin = MARGIN.min(lease.duration / 10);
    if age + margin >= lease.duration {
        return Move::LogIn;
    }
    if !lease.renewable {
        return if age >= lease.duration * 2 / 3 { Move::LogIn } else { Move::Use };
    }
    // 0 to 1023 parts of a tenth of the life.
    let parts = u32::try_from(lease.seed % 1024).unwrap_or_default();
    let jitter = lease.duration / 10 * parts / 1024;
    if age >= lease.duration / 2 + jitter { Move::Renew } else { Move::Use }
}

/// A login in use. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Session(Arc<Held>);

#[derive(Debug)]
struct Held {
    caller: Caller,
    login: Login,
    generation: u64,
    lease: Mutex<Lease>,
    /// Renewals wait after one that failed.
    renew_not_before: Mutex<Option<Instant>>,
}

impl Session {
    fn new(client: &Client, login: Login, generation: u64, now: Instant) -> Self {
        let caller = login.caller(client);
        let lease = Lease {
            granted: now,
            duration: login.lease,
            renewable: login.renewable && login.is_revocable(),
            uses_left: caller.uses_left(),
            seed: RandomState::new().hash_one(&login.accessor),
        };
        Self(Arc::new(Held {
            caller,
            login,
            generation,
            lease: Mutex::new(lease),
            renew_not_before: Mutex::new(None),
        }))
    }

    /// Vault with this session's token.
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// What Vault said at the login.
    pub fn login(&self) -> &Login {
        &self.0.login
    }

    /// What the token is worth now.
    pub fn lease(&self) -> Lease {
        Lease { uses_left: self.0.caller.uses_left(), ..*lock(&self.0.lease) }
    }

    /// Whether only the use for its revocation is left.
    fn is_used_up(&self) -> bool {
        self.lease().uses_left.is_some_and(|left| left <= 1)
    }

    fn next_move(&self, now: Instant) -> Move {
        match next_move(&self.lease(), now) {
            Move::Renew if lock(&self.0.renew_not_before).is_some_and(|at| now < at) => Move::Use,
            next => next,
        }
    }

    /// Gives it back, where that can be done.
    async fn end(&self) {
        if self.0.login.is_revocable() {
            end(&self.0.caller).await;
        }
    }

    /// Takes over what a renewal gave.
    fn renewed(&self, renewal: &Login, now: Instant) {
        let mut lease = lock(&self.0.lease);
        *lease = after_renewal(&lease, self.0.login.lease, renewal.lease, renewal.renewable, now);
    }
}

/// The lease after a renewal. One that gave less than the login did has met the token's maximum:
/// it is the last.
fn after_renewal(
    lease: &Lease,
    first: Duration,
    duration: Duration,
    renewable: bool,
    now: Instant,
) -> Lease {
    let shortened = duration + Duration::from_secs(1) < first;
    Lease { granted: now, duration, renewable: renewable && !shortened, ..*lease }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum Failure<E: Fault> {
    /// The login failed: just now, or a moment ago for somebody else.
    #[error(transparent)]
    Login(Arc<E>),
    /// The program is shutting down: no new logins.
    #[error("no new login, as the program is shutting down")]
    Closing,
}

impl<E: Fault> Clone for Failure<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Login(error) => Self::Login(Arc::clone(error)),
            Self::Closing => Self::Closing,
        }
    }
}

impl<E: Fault> Fault for Failure<E> {
    fn reason(&self) -> &'static str {
        match self {
            Self::Login(error) => error.reason(),
            Self::Closing => "ShuttingDown",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Login(error) => error.retry(),
            Self::Closing => Retry::Soon,
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Login(error) => error.is_shared(),
            Self::Closing => true,
        }
    }
}

struct Slot<E: Fault> {
    state: Mutex<State<E>>,
    /// Whoever holds it logs in or renews; the others wait, or use what there is.
    turn: tokio::sync::Mutex<()>,
    used: AtomicU64,
}

struct State<E: Fault> {
    session: Option<Session>,
    generation: u64,
    failed: Option<Failed<E>>,
    replaced: Option<Instant>,
}

struct Failed<E: Fault> {
    error: Arc<E>,
    until: Instant,
    pause: Duration,
}

/// The sessions of this process by identity.
///
/// The key must hold whatever makes two logins different, and whatever must not be shared. Static
/// tokens that somebody else owns do not belong here: all that is here gets revoked.
pub struct Sessions<K, E: Fault> {
    slots: Mutex<HashMap<K, Arc<Slot<E>>>>,
    capacity: usize,
    clock: AtomicU64,
    closing: AtomicBool,
}

impl<K: Eq + Hash + Clone, E: Fault> Default for Sessions<K, E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Eq + Hash + Clone, E: Fault> Sessions<K, E> {
    /// No sessions yet.
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self {
            slots: Mutex::new(HashMap::new()),
            capacity,
            clock: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        }
    }

    /// The session of `key`: the one in hand, renewed if it is time, or a new one by `login`.
    ///
    /// `check` looks at a new login; what it refuses is revoked. Callers of one key at the same time
    /// share one login, and its failure, which also holds for a moment afterwards (1 s, doubling up
    /// to 30 s).
    pub async fn get<L, C>(
        &self,
        key: &K,
        client: &Client,
        login: L,
        check: C,
    ) -> Result<Session, Failure<E>>
    where
        L: Future<Output = Result<Login, E>>,
        C: FnOnce(&Login) -> Result<(), E>,
    {
        let slot = self.slot(key);
        if let Some(session) = self.in_hand(&slot).await {
            return Ok(session);
        }
        let _turn = slot.turn.lock().await;
        // Somebody else may have logged in, or failed, while we waited.
        if let Some(session) = slot.usable(Instant::now()) {
            return Ok(session);
        }
        if let Some(error) = slot.recent_failure(Instant::now()) {
            return Err(Failure::Login(error));
        }
        if self.is_closing() {
            return Err(Failure::Closing);
        }
        let login = match login.await {
            Ok(login) => login,
            Err(error) => return Err(Failure::Login(slot.failed(error))),
        };
        if let Err(error) = check(&login) {
            if login.is_revocable() {
                Box::pin(end(&login.caller(client))).await;
            }
            return Err(Failure::Login(slot.failed(error)));
        }
        let (session, replaced) = slot.logged_in(client, login);
        if let Some(used_up) = replaced.filter(Session::is_used_up) {
            end_later(used_up);
        }
        if self.is_closing() {
            // Shutdown went by while we were asking: it did not see this token.
            slot.take();
            Box::pin(session.end()).await;
            return Err(Failure::Closing);
        }
        Ok(session)
    }

    /// The session that is there, if it serves; renews it if it is time and nobody else does.
    async fn in_hand(&self, slot: &Slot<E>) -> Option<Session> {
        let session = slot.usable(Instant::now())?;
        if session.next_move(Instant::now()) != Move::Renew || self.is_closing() {
            return Some(session);
        }
        let Ok(_turn) = slot.turn.try_lock() else {
            return Some(session);
        };
        // Rare and large: many wait here for one login, and each holds the room of this future.
        match Box::pin(renew_self(session.caller(), None)).await {
            Ok(renewal) => session.renewed(&renewal, Instant::now()),
            Err(error) if may_pass(error.cause()) => {
                *lock(&session.0.renew_not_before) = Some(Instant::now() + RENEW_AGAIN);
            }
            Err(_) => {
                // Refused: the role is gone or has changed. A login finds out what holds now.
                slot.drop_session(&session);
                return None;
            }
        }
        Some(session)
    }

    /// Vault called the token of `session` invalid: forget it, so that the next `get` logs in.
    ///
    /// True if trying again with a new session makes sense. False if this key's session was already
    /// replaced within 30 s: then a new token would meet the same answer.
    pub fn invalidate(&self, key: &K, session: &Session) -> bool {
        let Some(slot) = lock(&self.slots).get(key).cloned() else {
            return true;
        };
        slot.invalidate(session, Instant::now())
    }

    /// Forgets what failed for `key`, so that the next `get` tries at once: for when somebody asks
    /// for it, or what the login depends on has changed.
    pub fn forgive(&self, key: &K) {
        if let Some(slot) = lock(&self.slots).get(key).cloned() {
            lock(&slot.state).failed = None;
        }
    }

    /// Ends the session of `key`, if there is one.
    pub async fn end(&self, key: &K) {
        let slot = lock(&self.slots).remove(key);
        if let Some(session) = slot.and_then(|slot| slot.take()) {
            session.end().await;
        }
    }

    /// How many keys are known.
    pub fn len(&self) -> usize {
        lock(&self.slots).len()
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forbids logins and revokes the tokens, as many as two seconds allow.
    pub async fn shutdown(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let slots: Vec<_> = lock(&self.slots).drain().map(|(_, slot)| slot).collect();
        let sessions = slots.into_iter().filter_map(|slot| slot.take());
        let all = stream::iter(sessions)
            .for_each_concurrent(REVOKING, |session| async move { session.end().await });
        // What is not revoked in time ends with its lease.
        let _ = timeout(REVOKE, all).await;
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    fn slot(&self, key: &K) -> Arc<Slot<E>> {
        let tick = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(key) {
            slot.used.store(tick, Ordering::Relaxed);
            return Arc::clone(slot);
        }
        if slots.len() >= self.capacity {
            let evicted = make_room(&mut slots);
            if !evicted.is_empty() {
                tokio::spawn(async move {
                    let deadline = Instant::now() + REVOKE * 5;
                    for session in evicted {
                        let _ = timeout_at(deadline, session.end()).await;
                    }
                });
            }
        }
        let slot = Arc::new(Slot::new(tick));
        slots.insert(key.clone(), Arc::clone(&slot));
        slot
    }
}

/// Takes out a hundredth of the slots, those unused for longest; never one that is in use.
fn make_room<K: Eq + Hash + Clone, E: Fault>(slots: &mut HashMap<K, Arc<Slot<E>>>) -> Vec<Session> {
    let mut idle: Vec<_> = slots
        .iter()
        .filter(|(_, slot)| Arc::strong_count(slot) == 1)
        .map(|(key, slot)| (slot.used.load(Ordering::Relaxed), key.clone()))
        .collect();
    idle.sort_unstable_by_key(|(used, _)| *used);
    idle.truncate((slots.len() / 100).max(1));
    idle.into_iter()
        .filter_map(|(_, key)| slots.remove(&key))
        .filter_map(|slot| slot.take())
        .collect()
}

impl<E: Fault> Slot<E> {
    fn new(tick: u64) -> Self {
        let state = State { session: None, generation: 0, failed: None, replaced: None };
        Self {
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            used: AtomicU64::new(tick),
        }
    }

    /// The session, unless it is at its end.
    fn usable(&self, now: Instant) -> Option<Session> {
        let state = lock(&self.state);
        state.session.clone().filter(|session| session.next_move(now) != Move::LogIn)
    }

    fn recent_failure(&self, now: Instant) -> Option<Arc<E>> {
        let state = lock(&self.state);
        let failed = state.failed.as_ref()?;
        (now < failed.until).then(|| Arc::clone(&failed.error))
    }

    fn failed(&self, error: E) -> Arc<E> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let pause = state.failed.as_ref().map_or(BACKOFF, |last| {
            // A failure long after the last one is a new one.
            let fresh = now.saturating_duration_since(last.until) < LONGEST_BACKOFF * 10;
            if fresh { (last.pause * 2).min(LONGEST_BACKOFF) } else { BACKOFF }
        });
        let error = Arc::new(error);
        state.failed = Some(Failed { error: Arc::clone(&error), until: now + pause, pause });
        error
    }

    /// The session of a new login, and the one that it replaces.
    fn logged_in(&self, client: &Client, login: Login) -> (Session, Option<Session>) {
        let mut state = lock(&self.state);
        state.generation += 1;
        let session = Session::new(client, login, state.generation, Instant::now());
        let replaced = state.session.replace(session.clone());
        state.failed = None;
        (session, replaced)
    }

    /// Forgets this session; not one that has taken its place.
    fn drop_session(&self, session: &Session) {
        let mut state = lock(&self.state);
        if state.generation == session.0.generation {
            state.session = None;
        }
    }

    fn invalidate(&self, session: &Session, now: Instant) -> bool {
        let mut state = lock(&self.state);
        if state.session.is_none() || state.generation != session.0.generation {
            // Somebody else noticed first: there is, or will be, another.
            return true;
        }
        // One that ran out of uses is at its end by design.
        let used_up = session.is_used_up();
        let recently = state.replaced.is_some_and(|at| now.saturating_duration_since(at) < RELOGIN);
        if recently && !used_up {
            return false;
        }
        state.session = None;
        if used_up {
            end_later(session.clone());
        } else {
            state.replaced = Some(now);
        }
        true
    }

    fn take(&self) -> Option<Session> {
        lock(&self.state).session.take()
    }
}

/// Whether a renewal that failed so says nothing about the token.
fn may_pass(cause: &Cause) -> bool {
    match cause {
        Cause::Unreachable { .. }
        | Cause::Timeout { .. }
        | Cause::Sealed
        | Cause::NoActiveNode
        | Cause::Throttled { .. }
        | Cause::CircuitOpen { .. }
        | Cause::Redirected { .. } => true,
        // 412: a standby that has not caught up. Without a text: something in front of Vault.
        Cause::Server { status, message } => *status == 412 || message.is_none(),
        _ => false,
    }
}

/// Gives a session back without anybody waiting for it.
fn end_later(session: Session) {
    tokio::spawn(async move { session.end().await });
}

/// Revokes a token; best effort, as its lease ends it anyway.
async fn end(caller: &Caller) {
    let _ = timeout(REVOKE, revoke_self(caller)).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tokio::time::{advance, sleep};

    use super::*;
    use crate::{
        redacted::Redacted,
        vault::{Settings, Unobserved, parse_address},
    };

    #[derive(Clone, Debug, thiserror::Error)]
    #[error("no login")]
    struct NoLogin;

    impl Fault for NoLogin {
        fn reason(&self) -> &'static str {
            "NoLogin"
        }

        fn retry(&self) -> Retry {
            Retry::Soon
        }
    }

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// A Vault that nobody answers for: renewals and revocations fail, which a session survives.
    fn nobody() -> Client {
        let mut settings = Settings::new(parse_address("https://127.0.0.1:1").unwrap());
        settings.timeout = Duration::from_millis(100);
        Client::new(&settings, Arc::new(Unobserved)).unwrap()
    }

    fn login(number: u32, lease: u64) -> Login {
        Login {
            token: Redacted::new(format!("token-{number}")),
            accessor: format!("accessor-{number}"),
            lease: seconds(lease),
            renewable: false,
            policies: vec!["default".to_owned()],
            metadata: std::collections::BTreeMap::new(),
            token_type: "service".to_owned(),
            num_uses: 0,
        }
    }

    /// Counts logins, each of which takes a tenth of a second.
    #[derive(Default)]
    struct Logins(AtomicU32);

    impl Logins {
        async fn succeed(&self, lease: u64) -> Result<Login, NoLogin> {
            let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            sleep(Duration::from_millis(100)).await;
            Ok(login(number, lease))
        }

        async fn fail(&self) -> Result<Login, NoLogin> {
            self.0.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(100)).await;
            Err(NoLogin)
        }

        fn count(&self) -> u32 {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn fine(_: &Login) -> Result<(), NoLogin> {
        Ok(())
    }

    fn lease(now: Instant) -> Lease {
        Lease { granted: now, duration: seconds(600), renewable: true, uses_left: None, seed: 0 }
    }

    #[test]
    fn a_token_is_renewed_from_half_its_life_on_and_not_used_at_its_end() {
        let now = Instant::now();
        let at = |seconds_later| next_move(&lease(now), now + seconds(seconds_later));
        assert_eq!(at(0), Move::Use);
        assert_eq!(at(299), Move::Use);
        assert_eq!(at(300), Move::Renew);
        assert_eq!(at(584), Move::Renew);
        assert_eq!(at(585), Move::LogIn);
        assert_eq!(at(9999), Move::LogIn);
    }

    #[test]
    fn renewals_are_spread_over_a_tenth_of_the_life() {
        let now = Instant::now();
        let late = Lease { seed: 1023, ..lease(now) };
        assert_eq!(next_move(&late, now + seconds(300)), Move::Use);
        assert_eq!(next_move(&late, now + seconds(360)), Move::Renew);
    }

    #[test]
    fn a_token_that_cannot_be_renewed_is_replaced_at_two_thirds() {
        let now = Instant::now();
        let batch = Lease { renewable: false, ..lease(now) };
        assert_eq!(next_move(&batch, now + seconds(399)), Move::Use);
        assert_eq!(next_move(&batch, now + seconds(400)), Move::LogIn);
    }

    #[test]
    fn the_last_use_is_kept_for_the_revocation() {
        let now = Instant::now();
        let with = |uses| next_move(&Lease { uses_left: Some(uses), ..lease(now) }, now);
        assert_eq!(with(2), Move::Use);
        assert_eq!(with(1), Move::LogIn);
    }

    #[test]
    fn a_token_without_an_end_is_used_for_ever() {
        let now = Instant::now();
        let root = Lease { duration: Duration::ZERO, ..lease(now) };
        assert_eq!(next_move(&root, now + seconds(1 << 30)), Move::Use);
        assert_eq!(root.expires(), None);
    }

    #[test]
    fn a_short_lease_has_a_short_margin() {
        let now = Instant::now();
        let short = Lease { duration: seconds(10), ..lease(now) };
        assert_eq!(next_move(&short, now + seconds(8)), Move::Renew);
        assert_eq!(next_move(&short, now + seconds(9)), Move::LogIn);
    }

    #[test]
    fn a_renewal_that_meets_the_maximum_is_the_last() {
        let now = Instant::now();
        let first = seconds(600);
        let whole = after_renewal(&lease(now), first, first, true, now);
        assert!(whole.renewable);
        let cut = after_renewal(&lease(now), first, seconds(200), true, now);
        assert_eq!(next_move(&cut, now + seconds(120)), Move::Use);
        assert_eq!(next_move(&cut, now + seconds(140)), Move::LogIn);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_of_one_key_share_one_login() {
        let (sessions, client, logins) = (Sessions::new(), nobody(), Logins::default());
        let all = stream::iter(0..100)
            .map(|_| sessions.get(&"web", &client, logins.succeed(600), fine))
            .buffer_unordered(100)
            .collect::<Vec<_>>()
            .await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(logins.count(), 1);
        sessions.get(&"other", &client, logins.succeed(600), fine).await.unwrap();
        assert_eq!(logins.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_of_a_broken_identity_cost_one_attempt_then_fewer_and_fewer() {
        let (sessions, client, logins) = (Sessions::new(), nobody(), Logins::default());
        let all = stream::iter(0..1000)
            .map(|_| sessions.get(&"web", &client, logins.fail(), fine))
            .buffer_unordered(1000)
            .collect::<Vec<_>>()
            .await;
        assert!(all.iter().all(|outcome| matches!(outcome, Err(Failure::Login(_)))));
        assert_eq!(logins.count(), 1);
        // One caller each tenth of a second for two minutes.
        for _ in 0..1200 {
            let _ = sessions.get(&"web", &client, logins.fail(), fine).await;
            advance(Duration::from_millis(100)).await;
        }
        assert!((7..=11).contains(&logins.count()), "{}", logins.count());
        advance(LONGEST_BACKOFF).await;
        sessions.get(&"web", &client, logins.succeed(600), fine).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgiven_key_is_tried_at_once() {
        let (sessions, client, logins) = (Sessions::new(), nobody(), Logins::default());
        let _ = sessions.get(&"web", &client, logins.fail(), fine).await;
        sessions.forgive(&"web");
        assert!(sessions.get(&"web", &client, logins.succeed(600), fine).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_is_given_up_leaves_the_turn_to_the_next() {
        let (sessions, client, logins) = (Sessions::new(), nobody(), Logins::default());
        let given_up =
            timeout(Duration::from_millis(10), sessions.get(&"web", &client, logins.fail(), fine));
        assert!(given_up.await.is_err());
        assert!(sessions.get(&"web", &client, logins.succeed(600), fine).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_at_its_end_is_replaced() {
        let (sessions, client, logins) = (Sessions::new(), nobody(), Logins::default());
        let first = sessions.get(&"web", &client, logins.succeed(600), fine).await.unwrap();
        advance(seconds(399)).await;
        let same = sessions.get(&"web", &client, logins.succeed(600), fine).await.unwrap();
        assert_eq!(first.login().accessor, same.login().accessor);
        advance(seconds(2)).await;
        let next = sessions.get(&"web", &client, logins.succeed(600), fine).await.unwrap();
        assert_eq!(next.login().accessor, "accessor-2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_vault_does_not_answer_leaves_the_token_in_use() {
        let (sessions, client) = (Sessions::<_, NoLogin>::new(), nobody());
        let renewable = async { Ok(Login { renewable: true, ..login(1, 600) }) };
        sessions.get(&"web", &client, renewable, fine).await.unwrap();
        advance(seconds(400)).await;
        let never = async { panic!("no login is due") };
        assert!(sessions.get(&"web", &client, never, fine).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_session_is_replaced_once_in_thirty_seconds() {
        let (sessions, client, logins) = (Sessions::new(), nobody(), Logins::default());
        let first = sessions.get(&"web", &client, logins.succeed(600), fine).await.unwrap();
        assert!(sessions.invalidate(&"web", &first));
        let second = sessions.get(&"web", &client, logins.succeed(600), fine).await.unwrap();
        assert!(sessions.invalidate(&"web", &first), "the first is replaced already: try again");
        assert!(!sessions.invalidate(&"web", &second), "a third login would meet the same answer");
        let still = sessions.get(&"web", &client, logins.succeed(600), fine).await.unwrap();
        assert_eq!(still.login().accessor, second.login().accessor);
        advance(RELOGIN).await;
        assert!(sessions.invalidate(&"web", &second));
        assert_eq!(logins.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_used_up_session_may_be_replaced_at_any_time() {
        let (sessions, client) = (Sessions::<_, NoLogin>::new(), nobody());
        for number in 1..5 {
            let limited = async { Ok(Login { num_uses: 1, ..login(number, 600) }) };
            let session = sessions.get(&"web", &client, limited, fine).await.unwrap();
            assert_eq!(session.login().accessor, format!("accessor-{number}"));
            assert!(sessions.invalidate(&"web", &session));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_is_not_what_was_meant_gives_no_session() {
        let (sessions, client, logins) = (Sessions::new(), nobody(), Logins::default());
        let refuse = |_: &Login| Err(NoLogin);
        let outcome = sessions.get(&"web", &client, logins.succeed(600), refuse).await;
        assert!(matches!(outcome, Err(Failure::Login(_))));
        let again = sessions.get(&"web", &client, logins.succeed(600), fine).await;
        assert!(matches!(again, Err(Failure::Login(_))), "the refusal holds for a moment");
        assert_eq!(logins.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_forbids_logins_and_ends_those_under_way() {
        let (sessions, client) = (Arc::new(Sessions::new()), nobody());
        let logins = Arc::new(Logins::default());
        sessions.get(&"old", &client, logins.succeed(600), fine).await.unwrap();
        let under_way = tokio::spawn({
            let (sessions, client, logins) = (sessions.clone(), client.clone(), logins.clone());
            async move { sessions.get(&"new", &client, logins.succeed(600), fine).await.map(drop) }
        });
        sleep(Duration::from_millis(10)).await;
        let start = Instant::now();
        sessions.shutdown().await;
        assert!(start.elapsed() <= REVOKE);
        assert!(matches!(under_way.await.unwrap(), Err(Failure::Closing)));
        let late = sessions.get(&"late", &client, logins.succeed(600), fine).await;
        assert!(matches!(late, Err(Failure::Closing)));
        assert_eq!(logins.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_is_bounded_and_drops_what_was_unused_for_longest() {
        let (sessions, client) = (Sessions::<u32, NoLogin>::with_capacity(3), nobody());
        let logins = Logins::default();
        for key in [1, 2, 3, 1, 4] {
            sessions.get(&key, &client, logins.succeed(600), fine).await.unwrap();
        }
        assert_eq!(sessions.len(), 3);
        assert_eq!(logins.count(), 4);
        sessions.get(&1, &client, logins.succeed(600), fine).await.unwrap();
        assert_eq!(logins.count(), 4, "1 was used again before 4 came");
        sessions.get(&2, &client, logins.succeed(600), fine).await.unwrap();
        assert_eq!(logins.count(), 5, "2 had to go");
    }
}
