//! What to tell of a sync: its conditions, the summary, and when to look again. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    controller::pass::{Next, Outcome, Progress, Verdict},
    crd::{CertificateState, CertificateStatus, SyncReason, VaultCertSyncStatus},
};

/// A certificate expires soon when less than a third of its life is left, or less than this.
const SOON: SignedDuration = SignedDuration::from_hours(21 * 24);
/// After so many missed intervals the last good state is no longer good enough.
const MISSED: i32 = 3;
/// Between two tries of a sync that is not ready, at first and at the longest. Nobody tells when STS is
/// back, so that the longest decides how late that is seen: within a minute.
const IMPATIENCE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// The second look at an entry that is gone comes after this.
const CONFIRMATION: Duration = Duration::from_secs(10);
/// Near its end a certificate is looked at no more often than this.
const NEAR: Duration = Duration::from_secs(60);
/// Between two tries during an outage: less than a minute also with its jitter.
const PATIENCE: Duration = Duration::from_secs(50);
/// A pass that did not come to everything is gone on with after this, so that others have their turn.
const GO_ON: Duration = Duration::from_secs(1);

/// How far the source was read.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Nothing that is told is older.
    pub since: Timestamp,
    /// The entries that are still to be read.
    pub unread: BTreeSet<String>,
}

impl Extent {
    /// All of it was read, since then.
    pub fn whole(since: Timestamp) -> Self {
        Self { since, unread: BTreeSet::new() }
    }

    /// The entries that nobody has looked at yet: of the others it is known how they stand.
    fn unknown<'a>(&'a self, certificates: &'a [CertificateStatus]) -> Vec<&'a str> {
        let is_known = |name: &str| certificates.iter().any(|one| one.name == name);
        self.unread.iter().map(String::as_str).filter(|name| !is_known(name)).collect()
    }
}

/// Tells of a pass that read the source, or a part of it.
pub fn told(
    status: VaultCertSyncStatus,
    certificates: Vec<CertificateStatus>,
    extent: &Extent,
    interval: Duration,
    now: Timestamp,
) -> Outcome<VaultCertSyncStatus> {
    let status = counted(status, certificates, extent);
    let certificates = &status.certificates;
    let ready = ready(certificates, &extent.unknown(certificates), now);
    let next = match extent.unread.is_empty() {
        true => next(certificates, interval, now),
        false => Next::In(GO_ON),
    };
    Outcome {
        progress: if ready.holds == Some(true) { Progress::Done } else { Progress::Waiting },
        verdicts: vec![ready, expiring(certificates, now), stale(extent, interval, now)],
        status,
        notes: Vec::new(),
        next,
    }
}

/// The status with these certificates; those that nobody has looked at yet count as not delivered.
pub fn counted(
    mut status: VaultCertSyncStatus,
    certificates: Vec<CertificateStatus>,
    extent: &Extent,
) -> VaultCertSyncStatus {
    let meant = || certificates.iter().filter(|one| one.state != CertificateState::Removed);
    let total = meant().count() + extent.unknown(&certificates).len();
    let good = meant().filter(|one| is_as_meant(one)).count();
    status.summary = Some(format!("{good}/{total}"));
    status.next_expiry = certificates.iter().filter_map(expiry).min().map(|time| time.to_string());
    status.certificates = certificates;
    status
}

/// Whether what is told is older than it should be, since there is more to read than time.
fn stale(extent: &Extent, interval: Duration, now: Timestamp) -> Verdict {
    let age = Duration::try_from(now.duration_since(extent.since)).unwrap_or_default();
    if age <= interval {
        return fresh();
    }
    Verdict::yes(
        "Stale",
        SyncReason::Stale.as_str(),
        "reading every certificate takes longer than refreshInterval: make it longer, or raise the \
         backend's vault.rateLimit",
    )
}

/// Tells of a fault that many resources share (Vault down, STS down): the last good state stays as it
/// is, `Stale` after one missed interval, not ready after three.
pub fn missed(
    previous: &VaultCertSyncStatus,
    reason: &'static str,
    message: String,
    since: Timestamp,
    interval: Duration,
    now: Timestamp,
) -> Outcome<VaultCertSyncStatus> {
    let interval = SignedDuration::try_from(interval).unwrap_or(SignedDuration::from_hours(1));
    let age = now.duration_since(since);
    let stale = if age <= interval {
        fresh()
    } else {
        Verdict::yes("Stale", SyncReason::Stale.as_str(), message.clone())
    };
    let was_ready = previous
        .conditions
        .iter()
        .find(|one| one.type_ == "Ready")
        .filter(|one| one.status == "True");
    let ready = match was_ready {
        Some(_) if age <= interval * MISSED => ready(&previous.certificates, &[], now),
        _ => Verdict::no("Ready", reason, message),
    };
    let progress = if ready.holds == Some(true) { Progress::Done } else { Progress::Waiting };
    Outcome {
        status: previous.clone(),
        progress,
        verdicts: vec![ready, expiring(&previous.certificates, now), stale],
        notes: Vec::new(),
        // What was never delivered is wanted sooner than what only may be out of date.
        next: match was_ready {
            Some(_) => Next::In(until_worse(age, interval)),
            None => Next::In(impatience(previous, now)),
        },
    }
}

/// When to look again during an outage: now and then, and when the verdict changes by itself. The
/// backend, which is looked at more often, wakes all when it is over.
fn until_worse(age: SignedDuration, interval: SignedDuration) -> Duration {
    let border = if age <= interval { interval } else { interval * MISSED };
    let left = Duration::try_from(border - age).unwrap_or(PATIENCE) + Duration::from_secs(1);
    left.min(PATIENCE)
}

/// Half as long as the sync has not been ready, within the limits: short outages cost little time, and
/// long ones little work.
fn impatience(previous: &VaultCertSyncStatus, now: Timestamp) -> Duration {
    let ready = previous.conditions.iter().find(|one| one.type_ == "Ready");
    let since = ready.map_or(now, |ready| ready.last_transition_time.0);
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    (waited / 2).clamp(IMPATIENCE.0, IMPATIENCE.1)
}

/// The reasons of the certificates that are refused, or kept although there is another, and were not for
/// the same reason before.
pub fn new_refusals(
    before: &[CertificateStatus],
    after: &[CertificateStatus],
) -> impl Iterator<Item = &'static str> {
    let refused = |one: &CertificateStatus| {
        matches!(one.state, CertificateState::Kept | CertificateState::Refused)
            && !is_acknowledged(one)
    };
    let was = move |one: &&CertificateStatus| {
        let mut known = before.iter().filter(|old| old.name == one.name && refused(old));
        known.any(|old| old.reason == one.reason)
    };
    after
        .iter()
        .filter(move |one| refused(one) && !was(one))
        .filter_map(|one| SyncReason::word(one.reason.as_deref()?))
}

fn fresh() -> Verdict {
    Verdict::no("Stale", SyncReason::Fresh.as_str(), "the source was read when it was due")
}

fn ready(certificates: &[CertificateStatus], unknown: &[&str], now: Timestamp) -> Verdict {
    let is_empty = certificates.iter().all(|one| one.state == CertificateState::Removed);
    if is_empty && unknown.is_empty() {
        return Verdict::no(
            "Ready",
            SyncReason::SourceEmpty.as_str(),
            "no certificate lies in the role's directory, or none is selected",
        );
    }
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in certificates.iter().filter(|one| !is_as_meant(one)) {
        by_reason.entry(one.reason.as_deref().unwrap_or_default()).or_default().push(&one.name);
    }
    let over = |one: &&CertificateStatus| expiry(one).is_some_and(|end| end < now);
    for one in certificates.iter().filter(|one| !is_acknowledged(one)).filter(over) {
        by_reason.entry(SyncReason::Expired.as_str()).or_default().push(&one.name);
    }
    if !unknown.is_empty() {
        by_reason.insert(SyncReason::PartlyRead.as_str(), unknown.to_vec());
    }
    if by_reason.is_empty() {
        let delivered = certificates.iter().filter(|one| one.state == CertificateState::Synced);
        let count = delivered.count();
        let plural = if count == 1 { "certificate is" } else { "certificates are" };
        return Verdict::yes(
            "Ready",
            SyncReason::Synced.as_str(),
            format!("{count} {plural} delivered"),
        );
    }
    let message = by_reason
        .iter()
        .map(|(reason, names)| {
            let more = names.len().saturating_sub(3);
            let named = names.iter().take(3).map(|name| shown(name)).collect::<Vec<_>>().join(", ");
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{reason}: {named}{rest}")
        })
        .collect::<Vec<_>>()
        .join("; ");
    let mut reasons = by_reason.keys();
    // One reason for all that is wrong is the reason; see status.certificates for each.
    let reason = match (reasons.next(), reasons.next()) {
        (Some(only), None) => SyncReason::ALL
            .iter()
            .find(|reason| reason.as_str() == *only)
            .map_or(SyncReason::CertificatesRefused, |reason| *reason),
        _ => SyncReason::CertificatesRefused,
    };
    Verdict::no("Ready", reason.as_str(), message)
}

/// Names of entries are somebody else's text.
fn shown(name: &str) -> String {
    let mut short: String = name.chars().take(64).flat_map(char::escape_default).collect();
    short.truncate(128);
    format!("`{short}`")
}

fn expiring(certificates: &[CertificateStatus], now: Timestamp) -> Verdict {
    let soon: Vec<&str> = certificates
        .iter()
        .filter(|one| soon_from(one).is_some_and(|from| from < now))
        .map(|one| one.name.as_str())
        .collect();
    match soon.first() {
        None => Verdict::no(
            "Expiring",
            SyncReason::NotExpiring.as_str(),
            "no delivered certificate expires soon",
        ),
        Some(first) => Verdict::yes(
            "Expiring",
            SyncReason::Expiring.as_str(),
            match soon.len() - 1 {
                0 => format!("{} expires soon", shown(first)),
                more => format!("{} and {more} more expire soon", shown(first)),
            },
        ),
    }
}

/// The next tick of the interval, or sooner: near the end of a certificate, and to confirm that an
/// entry is gone.
fn next(certificates: &[CertificateStatus], interval: Duration, now: Timestamp) -> Next {
    let doubtful = certificates.iter().any(|one| {
        one.state == CertificateState::Kept
            && one.reason.as_deref() == Some(SyncReason::SourceRemoved.as_str())
    });
    let confirmation = doubtful.then_some(CONFIRMATION);
    let sooner = [confirmation, near_the_end(certificates, now)].into_iter().flatten().min();
    match sooner {
        Some(sooner) if sooner < interval => Next::In(sooner),
        _ => Next::Tick(interval),
    }
}

/// How long the source may be left alone because of the certificate that ends first: two thirds of
/// what is left, so that a renewed one is found in time even where the interval is long; and when it
/// begins to expire soon, and when it has expired, that is said.
pub fn near_the_end(certificates: &[CertificateStatus], now: Timestamp) -> Option<Duration> {
    let until = |moment: Timestamp| Duration::try_from(moment.duration_since(now)).ok();
    let end = certificates.iter().filter_map(expiry).filter(|end| *end > now).min();
    let end = end.and_then(until).map(|left| {
        let after = left + Duration::from_secs(1);
        (left * 2 / 3).max(NEAR).min(after)
    });
    let soon = certificates.iter().filter_map(soon_from).filter(|from| *from > now).min();
    let soon = soon.and_then(until).map(|left| left + Duration::from_secs(1));
    [end, soon].into_iter().flatten().min()
}

/// From when a certificate expires soon.
fn soon_from(one: &CertificateStatus) -> Option<Timestamp> {
    let end = expiry(one)?;
    let margin = start(one).map_or(SOON, |start| (end.duration_since(start) / 3).min(SOON));
    end.checked_sub(margin).ok()
}

/// Delivered, or not delivered on purpose.
fn is_as_meant(one: &CertificateStatus) -> bool {
    matches!(one.state, CertificateState::Synced | CertificateState::Removed)
        || is_acknowledged(one)
}

fn is_acknowledged(one: &CertificateStatus) -> bool {
    one.reason.as_deref() == Some(SyncReason::Acknowledged.as_str())
}

fn expiry(one: &CertificateStatus) -> Option<Timestamp> {
    one.not_after.as_deref()?.parse().ok()
}

fn start(one: &CertificateStatus) -> Option<Timestamp> {
    one.not_before.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    fn certificate(name: &str, not_after: &str) -> CertificateStatus {
        serde_json::from_value(serde_json::json!({
            "name": name, "state": "Synced",
            "notBefore": "2026-05-01T00:00:00Z", "notAfter": not_after,
        }))
        .unwrap()
    }

    fn kept(name: &str, reason: SyncReason) -> CertificateStatus {
        CertificateStatus {
            state: CertificateState::Kept,
            reason: Some(reason.as_str().into()),
            ..certificate(name, "2027-01-01T00:00:00Z")
        }
    }

    fn say(certificates: Vec<CertificateStatus>) -> (Outcome<VaultCertSyncStatus>, Verdict) {
        let whole = Extent::whole(now());
        let outcome = told(VaultCertSyncStatus::default(), certificates, &whole, HOUR, now());
        let ready = outcome.verdicts[0].clone();
        (outcome, ready)
    }

    #[test]
    fn all_delivered_is_ready() {
        let (outcome, ready) = say(vec![certificate("a", "2027-01-01T00:00:00Z")]);
        assert_eq!((ready.holds, ready.reason), (Some(true), "Synced"));
        assert_eq!(outcome.status.summary.as_deref(), Some("1/1"));
        assert_eq!(outcome.next, Next::Tick(HOUR));
    }

    #[test]
    fn one_reason_for_all_that_is_wrong_is_the_reason() {
        let (_, ready) =
            say(vec![kept("a", SyncReason::Malformed), kept("b", SyncReason::Malformed)]);
        assert_eq!((ready.reason, ready.message.as_str()), ("Malformed", "Malformed: `a`, `b`"));
        let (_, ready) =
            say(vec![kept("a", SyncReason::Malformed), kept("b", SyncReason::Expired)]);
        assert_eq!(ready.reason, "CertificatesRefused");
    }

    #[test]
    fn a_delivered_certificate_that_expires_reddens_the_sync_in_time() {
        let (outcome, ready) = say(vec![certificate("a", "2026-06-01T00:10:00Z")]);
        assert_eq!(ready.holds, Some(true));
        // Two thirds of what is left: a renewed one is looked for before it is too late.
        assert_eq!(outcome.next, Next::In(Duration::from_secs(400)));
        assert_eq!(outcome.verdicts[1].reason, "Expiring");
        let (_, ready) = say(vec![certificate("a", "2026-05-31T00:00:00Z")]);
        assert_eq!((ready.holds, ready.reason), (Some(false), "Expired"));
    }

    #[test]
    fn nothing_selected_is_source_empty() {
        assert_eq!(say(Vec::new()).1.reason, "SourceEmpty");
    }

    fn in_part(
        certificates: Vec<CertificateStatus>,
        unread: &[&str],
        minutes: i64,
    ) -> (Outcome<VaultCertSyncStatus>, Verdict) {
        let unread = unread.iter().map(|name| (*name).to_owned()).collect();
        let extent = Extent { since: now() - SignedDuration::from_mins(minutes), unread };
        let outcome = told(VaultCertSyncStatus::default(), certificates, &extent, HOUR, now());
        let ready = outcome.verdicts[0].clone();
        (outcome, ready)
    }

    #[test]
    fn a_first_reading_that_has_not_come_to_everything_is_not_ready_and_goes_on_at_once() {
        let good = certificate("a", "2027-01-01T00:00:00Z");
        let (outcome, ready) = in_part(vec![good.clone()], &["b", "c", "d", "e"], 1);
        assert_eq!((ready.holds, ready.reason), (Some(false), "PartlyRead"));
        assert_eq!(ready.message, "PartlyRead: `b`, `c`, `d` and 1 more");
        assert_eq!(outcome.status.summary.as_deref(), Some("1/5"));
        assert_eq!(outcome.status.certificates, [good], "what was never seen is not invented");
        assert_eq!(outcome.next, Next::In(GO_ON));
        let (_, ready) = in_part(Vec::new(), &["b"], 1);
        assert_eq!(ready.reason, "PartlyRead", "nobody knows whether it is empty");
        let (_, ready) = in_part(vec![kept("a", SyncReason::Malformed)], &["b"], 1);
        assert_eq!(ready.reason, "CertificatesRefused");
    }

    #[test]
    fn what_was_delivered_stays_ready_while_it_is_read_again_and_is_stale_after_an_interval() {
        let good = certificate("a", "2027-01-01T00:00:00Z");
        let say = |minutes| {
            let (outcome, ready) = in_part(vec![good.clone()], &["a"], minutes);
            assert_eq!(outcome.status.summary.as_deref(), Some("1/1"));
            assert_eq!(outcome.next, Next::In(GO_ON));
            (ready.holds, ready.reason, outcome.verdicts[2].holds)
        };
        assert_eq!(say(30), (Some(true), "Synced", Some(false)));
        assert_eq!(say(61), (Some(true), "Synced", Some(true)));
        assert_eq!(say(600), (Some(true), "Synced", Some(true)));
    }

    #[test]
    fn a_reading_that_took_longer_than_the_interval_ends_as_stale_as_it_was() {
        let good = certificate("a", "2027-01-01T00:00:00Z");
        let (outcome, ready) = in_part(vec![good], &[], 61);
        assert_eq!((ready.holds, outcome.verdicts[2].holds), (Some(true), Some(true)));
        assert_eq!(outcome.next, Next::Tick(HOUR));
    }

    #[test]
    fn a_shared_fault_makes_stale_after_one_interval_and_not_ready_after_three() {
        let previous = VaultCertSyncStatus {
            certificates: vec![certificate("a", "2027-01-01T00:00:00Z")],
            conditions: vec![Condition {
                type_: "Ready".into(),
                status: "True".into(),
                reason: "Synced".into(),
                message: String::new(),
                last_transition_time: Time(now()),
                observed_generation: None,
            }],
            ..VaultCertSyncStatus::default()
        };
        let after = |minutes: i64| {
            let since = now() - SignedDuration::from_mins(minutes);
            let verdicts =
                missed(&previous, "VaultSealed", "sealed".into(), since, HOUR, now()).verdicts;
            (verdicts[0].holds, verdicts[0].reason, verdicts[2].holds)
        };
        assert_eq!(after(30), (Some(true), "Synced", Some(false)));
        assert_eq!(after(90), (Some(true), "Synced", Some(true)));
        assert_eq!(after(200), (Some(false), "VaultSealed", Some(true)));
    }

    #[test]
    fn a_shared_fault_before_the_first_delivery_is_told_at_once() {
        let previous = VaultCertSyncStatus::default();
        let outcome = missed(&previous, "VaultSealed", "sealed".into(), now(), HOUR, now());
        let ready = &outcome.verdicts[0];
        assert_eq!((ready.holds, ready.reason), (Some(false), "VaultSealed"));
        assert_eq!(outcome.progress, Progress::Waiting);
    }

    #[test]
    fn an_outage_is_looked_at_when_its_verdict_gets_worse() {
        let minutes = SignedDuration::from_mins;
        assert_eq!(until_worse(minutes(0), minutes(60)), PATIENCE);
        let short = SignedDuration::from_secs(10);
        assert_eq!(until_worse(SignedDuration::from_secs(4), short), Duration::from_secs(7));
        assert_eq!(until_worse(SignedDuration::from_secs(12), short), Duration::from_secs(19));
        assert_eq!(until_worse(minutes(9), short), PATIENCE);
    }

    #[test]
    fn what_was_never_delivered_is_tried_again_within_a_minute_however_long_an_outage_lasts() {
        let next = |seconds: i64| {
            let condition = Condition {
                type_: "Ready".into(),
                status: "False".into(),
                reason: "StsUnreachable".into(),
                message: String::new(),
                observed_generation: None,
                last_transition_time: Time(now() - SignedDuration::from_secs(seconds)),
            };
            let status = VaultCertSyncStatus { conditions: vec![condition], ..Default::default() };
            let told = missed(&status, "StsUnreachable", String::new(), now(), HOUR, now());
            let Next::In(wait) = told.next else { panic!("{:?}", told.next) };
            wait.as_secs()
        };
        let seconds = [0, 20, 3600, 1_000_000].map(next);
        assert_eq!(seconds, [5, 10, 30, 30]);
    }

    #[test]
    fn a_refusal_is_new_once() {
        let [kept, expired] =
            [SyncReason::Malformed, SyncReason::Expired].map(|reason| kept("a", reason));
        let good = certificate("a", "2027-01-01T00:00:00Z");
        let new = |before: &[CertificateStatus], after: &CertificateStatus| {
            new_refusals(before, std::slice::from_ref(after)).collect::<Vec<_>>()
        };
        assert_eq!(new(&[], &kept), ["Malformed"]);
        assert_eq!(new(std::slice::from_ref(&good), &kept), ["Malformed"]);
        assert!(new(std::slice::from_ref(&kept), &kept).is_empty());
        assert_eq!(new(&[kept], &expired), ["Expired"]);
        assert!(new(&[expired], &good).is_empty());
        assert!(new(&[], &self::kept("a", SyncReason::Acknowledged)).is_empty());
    }

    #[test]
    fn hostile_names_cannot_break_a_message() {
        let (_, ready) = say(vec![kept("a\n\u{1b}[31m", SyncReason::InvalidName)]);
        assert!(!ready.message.contains(['\n', '\u{1b}']), "{}", ready.message);
    }

    #[test]
    fn an_acknowledged_certificate_is_as_it_is_meant() {
        let (outcome, ready) = say(vec![kept("a", SyncReason::Acknowledged)]);
        assert_eq!(ready.holds, Some(true));
        assert_eq!(outcome.status.summary.as_deref(), Some("1/1"));
        let over = CertificateStatus {
            not_after: Some("2026-05-31T00:00:00Z".into()),
            ..kept("a", SyncReason::Acknowledged)
        };
        assert_eq!(say(vec![over]).1.holds, Some(true));
    }

    #[test]
    fn a_removed_certificate_no_longer_counts() {
        let removed = CertificateStatus {
            state: CertificateState::Removed,
            reason: Some(SyncReason::SourceRemoved.as_str().into()),
            not_after: None,
            ..certificate("b", "2027-01-01T00:00:00Z")
        };
        let (outcome, ready) = say(vec![certificate("a", "2027-01-01T00:00:00Z"), removed.clone()]);
        assert_eq!(ready.holds, Some(true));
        assert_eq!(outcome.status.summary.as_deref(), Some("1/1"));
        assert_eq!(say(vec![removed]).1.reason, "SourceEmpty");
    }

    #[test]
    fn an_entry_that_is_gone_is_looked_at_again_soon() {
        let (outcome, ready) = say(vec![kept("a", SyncReason::SourceRemoved)]);
        assert_eq!(ready.reason, "SourceRemoved");
        assert_eq!(outcome.next, Next::In(CONFIRMATION));
    }

    #[test]
    fn the_moment_from_which_it_expires_soon_is_not_slept_through() {
        // Valid for 31 days: soon is the last third, from 10 days and 8 hours before the end.
        let one = certificate("a", "2026-06-11T08:30:00Z");
        let wait = near_the_end(std::slice::from_ref(&one), now()).unwrap();
        let from = soon_from(&one).unwrap();
        let until = Duration::try_from(from.duration_since(now())).unwrap_or_default();
        assert!(until.is_zero() || wait <= until + Duration::from_secs(1), "{wait:?} {until:?}");
        let far = certificate("a", "2027-06-01T00:00:00Z");
        let wait = near_the_end(&[far], now()).unwrap();
        assert!(wait > Duration::from_secs(200 * 24 * 3600), "{wait:?}");
    }
}
