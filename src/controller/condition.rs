//! What a pass found, as Kubernetes conditions. Pure: verdicts × progress × previous × now.
//!
//! An unchanged pass gives unchanged conditions: the time of a condition moves only when its status
//! does, so that nothing is written when nothing happened.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::pass::{Progress, Verdict};

/// The condition that sums up the others.
pub const READY: &str = "Ready";
/// kstatus: the controller is at it, or waits. Present only while true.
pub const RECONCILING: &str = "Reconciling";
/// kstatus: only a change of the spec can help. Present only while true.
pub const STALLED: &str = "Stalled";

/// The longest message of a condition or an event, in bytes (the limit of an event's note).
pub const MESSAGE_LIMIT: usize = 1024;

/// The conditions after a pass that came to an end: the verdicts in their order, `Ready` first, then
/// `Reconciling` or `Stalled`. A condition without a verdict is gone.
pub fn conclude(
    verdicts: &[Verdict],
    progress: Progress,
    previous: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let context = Context { previous, generation, now };
    let mut conditions: Vec<Condition> =
        verdicts.iter().map(|verdict| context.condition(verdict)).collect();
    conditions.sort_by_key(|condition| condition.type_ != READY);
    context.finish(conditions, progress)
}

/// The conditions after a pass that failed: `Ready` says why, the others stay as they were, since
/// the pass did not learn better.
pub fn fail(
    ready: &Verdict,
    progress: Progress,
    previous: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let context = Context { previous, generation, now };
    let mut conditions = vec![context.condition(ready)];
    let others = [READY, RECONCILING, STALLED];
    conditions
        .extend(previous.iter().filter(|kept| !others.contains(&kept.type_.as_str())).cloned());
    context.finish(conditions, progress)
}

/// The condition of this type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// At most `limit` bytes of the text, cut between characters and marked as cut.
pub fn shorten(text: &str, limit: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MARK}", &text[..end])
}

struct Context<'a> {
    previous: &'a [Condition],
    generation: i64,
    now: Timestamp,
}

impl Context<'_> {
    fn condition(&self, verdict: &Verdict) -> Condition {
        let status = match verdict.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let since = find(self.previous, verdict.kind)
            .filter(|old| old.status == status)
            .map_or_else(|| Time(whole_second(self.now)), |old| old.last_transition_time.clone());
        Condition {
            type_: verdict.kind.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.to_owned(),
            message: shorten(&verdict.message, MESSAGE_LIMIT),
            observed_generation: Some(self.generation),
            last_transition_time: since,
        }
    }

    /// Adds how far the pass came, in the words of `Ready`.
    fn finish(&self, mut conditions: Vec<Condition>, progress: Progress) -> Vec<Condition> {
        let kind = match progress {
            Progress::Done => return conditions,
            Progress::Waiting => RECONCILING,
            Progress::Stalled => STALLED,
        };
        let since = find(self.previous, kind)
            .filter(|old| old.status == "True")
            .map_or_else(|| Time(whole_second(self.now)), |old| old.last_transition_time.clone());
        let ready = find(&conditions, READY);
        let reason = ready.map_or_else(|| kind.to_owned(), |ready| ready.reason.clone());
        let message = ready.map(|ready| ready.message.clone()).unwrap_or_default();
        conditions.push(Condition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason,
            message,
            observed_generation: Some(self.generation),
            last_transition_time: since,
        });
        conditions
    }
}

/// The API server keeps whole seconds: the status we compute must equal the one we read back.
fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millisecond(seconds * 1000 + 250).expect("a valid time")
    }

    fn time(seconds: i64) -> Time {
        Time(Timestamp::from_second(seconds).expect("a valid time"))
    }

    fn kinds(conditions: &[Condition]) -> Vec<&str> {
        conditions.iter().map(|condition| condition.type_.as_str()).collect()
    }

    fn done() -> Vec<Verdict> {
        vec![Verdict::yes("Isolated", "Isolated", "x"), Verdict::yes(READY, "Synced", "3/3")]
    }

    #[test]
    fn ready_comes_first_and_the_others_keep_their_order() {
        let verdicts = [
            Verdict::unknown("PrincipalCurrent", "NoLoginSeen", ""),
            Verdict::yes("Isolated", "Isolated", ""),
            Verdict::yes(READY, "Synced", ""),
        ];
        let conditions = conclude(&verdicts, Progress::Done, &[], 1, at(10));
        assert_eq!(kinds(&conditions), ["Ready", "PrincipalCurrent", "Isolated"]);
        assert_eq!(conditions[1].status, "Unknown");
    }

    #[test]
    fn an_unchanged_pass_gives_unchanged_conditions() {
        let first = conclude(&done(), Progress::Done, &[], 1, at(10));
        let second = conclude(&done(), Progress::Done, &first, 1, at(99));
        assert_eq!(first, second);
    }

    #[test]
    fn a_new_reason_or_message_does_not_move_the_time() {
        let first = conclude(&done(), Progress::Done, &[], 1, at(10));
        let verdicts = [Verdict::yes(READY, "Suspended", "on request")];
        let second = conclude(&verdicts, Progress::Done, &first, 2, at(99));
        assert_eq!(second[0].last_transition_time, time(10));
        assert_eq!(second[0].reason, "Suspended");
        assert_eq!(second[0].observed_generation, Some(2));
    }

    #[test]
    fn a_new_status_moves_the_time_to_a_whole_second() {
        let first = conclude(&done(), Progress::Done, &[], 1, at(10));
        let verdicts = [Verdict::no(READY, "SecretNotOurs", "")];
        let second = conclude(&verdicts, Progress::Done, &first, 1, at(99));
        assert_eq!(second[0].last_transition_time, time(99));
    }

    #[test]
    fn a_condition_without_a_verdict_is_removed() {
        let first = conclude(&done(), Progress::Done, &[], 1, at(10));
        let verdicts = [Verdict::yes(READY, "Synced", "3/3")];
        let second = conclude(&verdicts, Progress::Done, &first, 1, at(11));
        assert_eq!(kinds(&second), ["Ready"]);
    }

    #[test]
    fn waiting_is_reconciling_and_done_removes_it() {
        let verdicts = [Verdict::no(READY, "RoleNotReady", "the role is not ready")];
        let waiting = conclude(&verdicts, Progress::Waiting, &[], 1, at(10));
        assert_eq!(kinds(&waiting), ["Ready", "Reconciling"]);
        assert_eq!((&*waiting[1].status, &*waiting[1].reason), ("True", "RoleNotReady"));
        let done = conclude(&done(), Progress::Done, &waiting, 1, at(20));
        assert_eq!(kinds(&done), ["Ready", "Isolated"]);
    }

    #[test]
    fn from_waiting_to_stalled_the_one_replaces_the_other() {
        let verdicts = [Verdict::no(READY, "InvalidSpec", "")];
        let waiting = conclude(&verdicts, Progress::Waiting, &[], 1, at(10));
        let stalled = conclude(&verdicts, Progress::Stalled, &waiting, 1, at(20));
        assert_eq!(kinds(&stalled), ["Ready", "Stalled"]);
        assert_eq!(stalled[0].last_transition_time, time(10), "Ready was False before");
        assert_eq!(stalled[1].last_transition_time, time(20));
    }

    #[test]
    fn a_failure_keeps_what_the_pass_did_not_learn() {
        let first = conclude(&done(), Progress::Done, &[], 1, at(10));
        let why = Verdict::no(READY, "VaultUnreachable", "connection refused");
        let failed = fail(&why, Progress::Waiting, &first, 2, at(20));
        assert_eq!(kinds(&failed), ["Ready", "Isolated", "Reconciling"]);
        assert_eq!(failed[1], first[1]);
        let again = fail(&why, Progress::Waiting, &failed, 2, at(30));
        assert_eq!(failed, again, "a retry that fails the same way writes nothing");
    }

    #[test]
    fn a_failure_drops_the_progress_of_the_pass_before() {
        let why = Verdict::no(READY, "VaultUnreachable", "");
        let waiting = fail(&why, Progress::Waiting, &[], 1, at(10));
        let stalled = fail(&why, Progress::Stalled, &waiting, 1, at(20));
        assert_eq!(kinds(&stalled), ["Ready", "Stalled"]);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(shorten("short", 5), "short");
        let long = "é".repeat(1000);
        let cut = shorten(&long, MESSAGE_LIMIT);
        assert!(cut.len() <= MESSAGE_LIMIT && cut.ends_with("é…"), "{}", cut.len());
    }

    #[test]
    fn a_message_that_is_cut_stays_the_same_from_pass_to_pass() {
        let verdicts = [Verdict::no(READY, "Denied", "x".repeat(5000))];
        let first = conclude(&verdicts, Progress::Waiting, &[], 1, at(10));
        assert_eq!(first, conclude(&verdicts, Progress::Waiting, &first, 1, at(20)));
    }
}
