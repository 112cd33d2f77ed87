//! What a sync demands of a certificate beyond what all must be: pure judgements of a [`Pair`].

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{desired::Validation, pair::Pair};
use crate::crd::SyncReason;

/// Why a pair is not what the sync demands, if it is not.
///
/// `time` is `None` where the time that is left is not to be judged: the clock cannot be trusted, the
/// pair is the one that was delivered before, or the one that is held has expired.
pub fn judge(
    pair: &Pair,
    validation: &Validation,
    time: Option<Timestamp>,
) -> Result<(), (SyncReason, String)> {
    if let Some(name) = validation.dns_names.iter().find(|name| !covers(&pair.dns_names, name)) {
        let message =
            format!("the leaf does not cover `{name}`, which validation.dnsNames demands");
        return Err((SyncReason::DnsNameMissing, message));
    }
    if validation.require_chain && !pair.has_issuer {
        let message =
            "the entry does not hold the leaf's issuer, which validation.requireChain demands";
        return Err((SyncReason::ChainIncomplete, message.into()));
    }
    if validation.require_chain && pair.unrelated > 0 {
        let message = format!(
            "{} of the entry's certificates are not in the leaf's chain; validation.requireChain \
             refuses that",
            pair.unrelated
        );
        return Err((SyncReason::ChainIncomplete, message));
    }
    if let Some(now) = time
        && left(pair.chain_not_after, now) < validation.minimum_remaining
    {
        let message = format!(
            "it expires at {}, sooner than validation.minimumRemaining allows",
            pair.chain_not_after
        );
        return Err((SyncReason::ExpiresTooSoon, message));
    }
    Ok(())
}

fn left(end: Timestamp, now: Timestamp) -> Duration {
    let left: SignedDuration = end.duration_since(now);
    Duration::try_from(left).unwrap_or_default()
}

/// Whether a name, or the wildcard for its first label (RFC 6125, section 6.4.3), is among them.
fn covers(names: &[String], wanted: &str) -> bool {
    let wildcard = wanted.split_once('.').map(|(_, rest)| format!("*.{rest}"));
    names.iter().any(|name| {
        name.eq_ignore_ascii_case(wanted)
            || !wanted.starts_with('*')
                && wildcard.as_ref().is_some_and(|wildcard| name.eq_ignore_ascii_case(wildcard))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        let wild = names(&["*.example.com"]);
        assert!(covers(&wild, "web.example.com"));
        assert!(covers(&wild, "*.example.com"));
        assert!(!covers(&wild, "example.com"));
        assert!(!covers(&wild, "a.web.example.com"));
        assert!(covers(&names(&["WEB.example.com"]), "web.example.com"));
        assert!(!covers(&names(&["web.example.com"]), "*.example.com"));
    }

    #[test]
    fn what_is_over_has_nothing_left() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(left(now - SignedDuration::from_hours(1), now), Duration::ZERO);
        assert_eq!(left(now + SignedDuration::from_hours(1), now), Duration::from_secs(3600));
    }
}
