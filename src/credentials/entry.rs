//! Credentials with their end: what may be kept, until when it is used, and its form on disk.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    redacted::Redacted,
    vault::aws_secrets::{Issued, Kind},
};

/// botocore asks again when less than this is left; with more, nobody does.
const SOFT_MARGIN: Duration = Duration::from_secs(15 * 60);
/// What a request that is being prepared with them needs.
const HARD_MARGIN: Duration = Duration::from_secs(60);
/// Who stands behind a proxy that adds the token can change, unseen by us.
const WITHOUT_TOKEN: Duration = Duration::from_secs(15 * 60);
/// How long Vault is left alone after it failed while there was something to serve.
const PAUSE: Duration = Duration::from_secs(30);
/// When a program should ask again for static keys of which nobody says when they change.
const STATIC_KEYS: Duration = Duration::from_secs(3600);
/// Of the form on disk.
const FORMAT: u32 = 1;

/// What is known of the token with which an IAM user was made: the user is deleted with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenLife {
    /// It was not asked for, or Vault did not say.
    Unknown,
    /// It has no end.
    Endless,
    /// It ends then, if it is not renewed.
    Until(Timestamp),
}

/// Credentials that no program could use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// Nobody says how long they live: a program would keep them for ever, or not at all.
    #[error(
        "the answer says neither by its lease nor by its ttl how long the credentials live (Vault 1.13.0 does that)"
    )]
    NoLifetime,
    /// They came from a cache in front of Vault and have ended.
    #[error("the credentials ended before they arrived: a cache in front of Vault is stale")]
    Over,
}

/// Where credentials came from, for people and for revoking them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Source {
    /// The address, or `unix://` and a path.
    pub server: String,
    /// `X-Vault-Namespace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `aws/sts/admin`
    pub path: String,
}

/// Credentials, their end, and where they came from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Entry {
    format: u32,
    /// Where they came from.
    pub source: Source,
    /// When they were asked for.
    pub asked: Timestamp,
    /// When they end, at AWS or, for an IAM user, at Vault.
    pub expiration: Timestamp,
    /// Until when they may be kept; never after their end.
    pub limit: Timestamp,
    /// Not secret.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: Redacted<String>,
    /// The session's token; `None` for keys of an IAM user.
    #[serde(default)]
    pub session_token: Option<Redacted<String>>,
    /// Twelve digits, where known.
    #[serde(default)]
    pub account_id: Option<String>,
    /// The lease whose end deletes the IAM user; not kept for sessions, which outlive theirs.
    #[serde(default)]
    pub lease_id: Option<String>,
    /// When Vault last failed to give newer ones.
    #[serde(default)]
    pub failed: Option<Timestamp>,
}

/// What may be done with an entry now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Freshness {
    /// Serve it; nobody needs to be asked.
    Fresh,
    /// Ask for newer ones; serve it if Vault is down.
    Due,
    /// Of no use.
    Gone,
}

/// What credentials depend on, besides themselves.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Which path was asked.
    pub kind: Kind,
    /// When, before the request was sent: so the end is rather too early than too late.
    pub asked: Timestamp,
    /// Whether a token was sent.
    pub with_token: bool,
    /// The token's end, for IAM users.
    pub token_life: TokenLife,
    /// The IAM role that was asked for.
    pub role_arn: Option<&'a str>,
    /// Whether keys of IAM users may be kept at all.
    pub keep_user_keys: bool,
}

impl Entry {
    /// The entry of an answer, and whether it may be kept on disk.
    pub fn of(
        issued: Issued,
        source: Source,
        circumstances: &Circumstances<'_>,
    ) -> Result<(Self, bool), Unusable> {
        let Circumstances { kind, asked, with_token, token_life, role_arn, keep_user_keys } =
            *circumstances;
        let is_session = issued.session_token.is_some();
        let after = |lifetime: Duration| {
            asked
                .saturating_add(SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::MAX))
                .unwrap_or(Timestamp::MAX)
        };
        let (mut expiration, mut keep) = match (kind, issued.lifetime) {
            (_, Some(lifetime)) => (after(lifetime), true),
            (Kind::StaticCreds, None) => match issued.expiration.filter(|at| *at > asked) {
                Some(at) => (at, true),
                None => (after(STATIC_KEYS), false),
            },
            (Kind::Creds | Kind::Sts, None) => return Err(Unusable::NoLifetime),
        };
        if !is_session {
            keep &= keep_user_keys;
            if kind != Kind::StaticCreds {
                match token_life {
                    TokenLife::Unknown => keep = false,
                    TokenLife::Endless => {}
                    TokenLife::Until(end) => expiration = expiration.min(end),
                }
            }
        }
        if expiration <= asked {
            return Err(Unusable::Over);
        }
        let limit = if with_token { expiration } else { expiration.min(after(WITHOUT_TOKEN)) };
        let account_id = issued.arn.as_deref().or(role_arn).and_then(account);
        let entry = Self {
            format: FORMAT,
            source,
            asked,
            expiration,
            limit,
            access_key_id: issued.access_key_id,
            secret_access_key: issued.secret_access_key,
            session_token: issued.session_token,
            account_id,
            lease_id: issued.lease_id.filter(|_| !is_session),
            failed: None,
        };
        Ok((entry, keep))
    }

    /// Reads an entry; `None` if it is damaged, cut short, or of another version of this program.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let entry: Self = serde_json::from_slice(bytes).ok()?;
        let is_sound = entry.format == FORMAT
            && entry.asked < entry.expiration
            && entry.limit <= entry.expiration
            && !entry.access_key_id.is_empty()
            && !entry.secret_access_key.expose().is_empty();
        is_sound.then_some(entry)
    }

    /// Its form on disk.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        #[derive(Serialize)]
        struct Stored<'a> {
            format: u32,
            source: &'a Source,
            asked: Timestamp,
            expiration: Timestamp,
            limit: Timestamp,
            access_key_id: &'a str,
            secret_access_key: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            session_token: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            account_id: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            lease_id: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            failed: Option<Timestamp>,
        }
        // Larger than any entry, so that it does not grow and leave a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 << 10));
        serde_json::to_writer(
            &mut *bytes,
            &Stored {
                format: self.format,
                source: &self.source,
                asked: self.asked,
                expiration: self.expiration,
                limit: self.limit,
                access_key_id: &self.access_key_id,
                secret_access_key: self.secret_access_key.expose(),
                session_token: self.session_token.as_ref().map(|token| token.expose().as_str()),
                account_id: self.account_id.as_deref(),
                lease_id: self.lease_id.as_deref(),
                failed: self.failed,
            },
        )?;
        Ok(bytes)
    }

    /// What may be done with it. Both margins shrink with the lifetime, so that the shortest session of
    /// STS (15 minutes) is served for ten of them and kept in reserve for four more.
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        // A clock that was set back makes all its times doubtful.
        if self.asked > now || self.limit <= now {
            return Freshness::Gone;
        }
        let span = |from: Timestamp, to: Timestamp| {
            Duration::try_from(to.duration_since(from)).unwrap_or_default()
        };
        let (life, left) = (span(self.asked, self.limit), span(now, self.limit));
        if left <= HARD_MARGIN.min(life / 15) {
            return Freshness::Gone;
        }
        let rests = |at: Timestamp| at <= now && span(at, now) < PAUSE;
        if left > SOFT_MARGIN.min(life / 3) || self.failed.is_some_and(rests) {
            return Freshness::Fresh;
        }
        Freshness::Due
    }
}

/// The account of an ARN.
fn account(arn: &str) -> Option<String> {
    let account = arn.strip_prefix("arn:")?.split(':').nth(3)?;
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    is_account.then(|| account.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = "2026-11-21T03:00:00Z";

    fn asked() -> Timestamp {
        ASKED.parse().unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        asked() + SignedDuration::from_secs(seconds)
    }

    fn session(lifetime: Option<u64>) -> Issued {
        Issued {
            access_key_id: "ASIA1".to_owned(),
            secret_access_key: Redacted::new("wJalr".to_owned()),
            session_token: Some(Redacted::new("FwoG".to_owned())),
            arn: Some("arn:aws:sts::111122223333:assumed-role/web/name".to_owned()),
            lifetime: lifetime.map(Duration::from_secs),
            expiration: None,
            lease_id: Some("aws/sts/web/x".to_owned()),
        }
    }

    fn user(lifetime: Option<u64>) -> Issued {
        Issued { session_token: None, arn: None, ..session(lifetime) }
    }

    fn circumstances() -> Circumstances<'static> {
        Circumstances {
            kind: Kind::Sts,
            asked: asked(),
            with_token: true,
            token_life: TokenLife::Endless,
            role_arn: None,
            keep_user_keys: false,
        }
    }

    fn entry(issued: Issued, circumstances: Circumstances<'_>) -> (Entry, bool) {
        Entry::of(issued, Source::default(), &circumstances).unwrap()
    }

    #[test]
    fn the_shortest_session_of_sts_is_served_for_ten_minutes_and_kept_for_fourteen() {
        let (entry, keep) = entry(session(Some(900)), circumstances());
        assert!(keep);
        assert_eq!(entry.freshness(at(0)), Freshness::Fresh);
        assert_eq!(entry.freshness(at(599)), Freshness::Fresh);
        assert_eq!(entry.freshness(at(600)), Freshness::Due);
        assert_eq!(entry.freshness(at(839)), Freshness::Due);
        assert_eq!(entry.freshness(at(840)), Freshness::Gone);
    }

    #[test]
    fn of_an_hour_the_last_quarter_is_for_renewal() {
        let (entry, _) = entry(session(Some(3600)), circumstances());
        assert_eq!(entry.freshness(at(2699)), Freshness::Fresh);
        assert_eq!(entry.freshness(at(2700)), Freshness::Due);
        assert_eq!(entry.freshness(at(3540)), Freshness::Gone);
    }

    #[test]
    fn an_entry_of_the_future_is_a_miss() {
        let (entry, _) = entry(session(Some(3600)), circumstances());
        assert_eq!(entry.freshness(at(-1)), Freshness::Gone);
    }

    #[test]
    fn after_a_failure_vault_is_left_alone_for_a_while() {
        let (mut entry, _) = entry(session(Some(900)), circumstances());
        entry.failed = Some(at(700));
        assert_eq!(entry.freshness(at(729)), Freshness::Fresh);
        assert_eq!(entry.freshness(at(730)), Freshness::Due);
        entry.failed = Some(at(835));
        assert_eq!(entry.freshness(at(841)), Freshness::Gone, "no pause makes it live longer");
    }

    #[test]
    fn credentials_without_a_lifetime_are_refused() {
        let error = Entry::of(session(None), Source::default(), &circumstances()).unwrap_err();
        assert_eq!(error, Unusable::NoLifetime);
        let error = Entry::of(session(Some(0)), Source::default(), &circumstances()).unwrap_err();
        assert_eq!(error, Unusable::Over);
    }

    #[test]
    fn without_a_token_an_entry_lives_a_quarter_of_an_hour() {
        let circumstances = Circumstances { with_token: false, ..circumstances() };
        let (entry, keep) = entry(session(Some(3600)), circumstances);
        assert!(keep);
        assert_eq!((entry.limit, entry.expiration), (at(900), at(3600)));
        assert_eq!(entry.freshness(at(599)), Freshness::Fresh);
        assert_eq!(entry.freshness(at(600)), Freshness::Due);
        assert_eq!(entry.freshness(at(900)), Freshness::Gone);
    }

    #[test]
    fn keys_of_an_iam_user_are_kept_only_if_asked_and_end_with_the_token() {
        let (_, keep) = entry(user(Some(86_400)), circumstances());
        assert!(!keep);
        let asked_for = Circumstances { keep_user_keys: true, ..circumstances() };
        let (entry_of_user, keep) = entry(user(Some(86_400)), asked_for);
        assert!(keep);
        assert_eq!(entry_of_user.lease_id.as_deref(), Some("aws/sts/web/x"));
        let until = Circumstances { token_life: TokenLife::Until(at(1800)), ..asked_for };
        let (entry_of_user, keep) = entry(user(Some(86_400)), until);
        assert!(keep);
        assert_eq!(entry_of_user.expiration, at(1800));
        let unknown = Circumstances { token_life: TokenLife::Unknown, ..asked_for };
        assert!(!entry(user(Some(86_400)), unknown).1);
    }

    #[test]
    fn static_keys_end_when_they_are_rotated() {
        let circumstances =
            Circumstances { kind: Kind::StaticCreds, keep_user_keys: true, ..circumstances() };
        let rotated = Issued { expiration: Some(at(7200)), ..user(None) };
        let (entry_of_keys, keep) = entry(rotated, circumstances);
        assert!(keep);
        assert_eq!(entry_of_keys.expiration, at(7200));
        let (entry_of_keys, keep) = entry(user(None), circumstances);
        assert!(!keep, "nobody says when");
        assert_eq!(entry_of_keys.expiration, at(3600), "but they are asked for again");
    }

    #[test]
    fn the_account_comes_from_the_arn() {
        let (entry_of_session, _) = entry(session(Some(900)), circumstances());
        assert_eq!(entry_of_session.account_id.as_deref(), Some("111122223333"));
        let arn = "arn:aws-cn:iam::444455556666:role/x";
        let circumstances = Circumstances { role_arn: Some(arn), ..circumstances() };
        let without = Issued { arn: None, ..session(Some(900)) };
        let (entry_of_session, _) = entry(without, circumstances);
        assert_eq!(entry_of_session.account_id.as_deref(), Some("444455556666"));
        assert_eq!(account("arn:aws:iam::aws:policy/x"), None);
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        let (mut entry, _) = entry(session(Some(900)), circumstances());
        entry.failed = Some(at(10));
        let bytes = entry.to_bytes().unwrap();
        assert_eq!(Entry::parse(&bytes), Some(entry.clone()));
        assert!(!format!("{entry:?}").contains("wJalr") && !format!("{entry:?}").contains("FwoG"));
    }

    #[test]
    fn a_damaged_entry_is_none() {
        let (entry, _) = entry(session(Some(900)), circumstances());
        let bytes = entry.to_bytes().unwrap();
        assert_eq!(Entry::parse(&bytes[..bytes.len() / 2]), None);
        assert_eq!(Entry::parse(b""), None);
        assert_eq!(Entry::parse(b"\0\0\0"), None);
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(Entry::parse(text.replace("\"format\":1", "\"format\":2").as_bytes()), None);
        let longer = text.replace("\"limit\":\"2026", "\"limit\":\"2027");
        assert_eq!(Entry::parse(longer.as_bytes()), None);
    }

    proptest::proptest! {
        #[test]
        fn what_is_served_has_time_left(life in 1u64..100_000, now in 0i64..200_000) {
            let (entry, _) = entry(session(Some(life)), circumstances());
            if entry.freshness(at(now)) != Freshness::Gone {
                proptest::prop_assert!(at(now) < entry.expiration);
            }
        }
    }
}
