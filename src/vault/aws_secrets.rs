//! The AWS secrets engine: credentials that Vault makes, or keeps, for whoever may ask.
//!
//! `creds/<role>` and `sts/<role>` are the same but for roles of very old Vaults; both take POST (the
//! capability `update`) and GET (`read`). What comes depends on the role's type: a session with a
//! token (`assumed_role`, `federation_token`, `session_token`), or the keys of an IAM user made for
//! the purpose (`iam_user`), who is deleted when the lease, or the Vault token that asked, ends.
//! `static-creds/<role>` are the keys of a lasting IAM user, which Vault rotates.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use rustify_derive::Endpoint;
use serde::Deserialize;

use super::{Answer, Caller, Lease, Operation, error::Error, mount_path, segment, wire};
use crate::redacted::Redacted;

/// Which path of the engine is asked.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `creds/<role>`
    Creds,
    /// `sts/<role>`
    #[default]
    Sts,
    /// `static-creds/<role>`
    StaticCreds,
}

impl Kind {
    /// The word in the path.
    pub fn word(self) -> &'static str {
        match self {
            Self::Creds => "creds",
            Self::Sts => "sts",
            Self::StaticCreds => "static-creds",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What is asked of the engine.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Request {
    /// The mount, a namespace before it if need be.
    pub mount: String,
    /// Which path.
    pub kind: Kind,
    /// The role of the engine.
    pub role: String,
    /// How long a session shall live; `None`: what the role says. The role's maximum cuts it silently.
    pub ttl: Option<Duration>,
    /// Which of the role's IAM roles is assumed; needed where it has several.
    pub role_arn: Option<String>,
    /// The session's name, which CloudTrail shows. `None`: Vault makes one from the token's display
    /// name, so that people can be told apart.
    pub role_session_name: Option<String>,
}

impl Request {
    /// `<mount>/sts/<role>`
    pub fn path(&self) -> String {
        format!("{}/{}/{}", mount_path(&self.mount), self.kind, self.role)
    }
}

/// How the engine is asked; policies tell the two apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// Needs the capability `read`.
    Get,
    /// Needs the capability `update`.
    Post,
}

/// Credentials as the engine gave them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issued {
    /// Begins with `ASIA` for sessions, with `AKIA` for users. Not secret.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: Redacted<String>,
    /// The session's token; `None` for keys of an IAM user.
    pub session_token: Option<Redacted<String>>,
    /// The session's ARN, for `assumed_role`.
    pub arn: Option<String>,
    /// How long they live, counted from the moment they were asked for: the lease, else what the
    /// engine says, less the time a cache in front of Vault has had them. `None` if nobody says.
    pub lifetime: Option<Duration>,
    /// When the keys of a static role are replaced, where Vault says so.
    pub expiration: Option<Timestamp>,
    /// The lease, if there is one. Revoking it deletes the user of `iam_user`, and does nothing to
    /// sessions.
    pub lease_id: Option<String>,
}

#[derive(Deserialize)]
struct Data {
    access_key: String,
    secret_key: Redacted<String>,
    #[serde(default)]
    session_token: Option<Redacted<String>>,
    /// The older name, and the only one before Vault 1.16.
    #[serde(default)]
    security_token: Option<Redacted<String>>,
    #[serde(default)]
    arn: Option<String>,
    #[serde(default, deserialize_with = "wire::seconds")]
    ttl: u64,
    #[serde(default, deserialize_with = "wire::time")]
    expiration: Option<Timestamp>,
}

#[derive(Endpoint)]
#[endpoint(path = "{self.path}", method = "POST")]
struct Ask {
    #[endpoint(skip)]
    path: String,
    ttl: Option<String>,
    role_arn: Option<String>,
    role_session_name: Option<String>,
}

#[derive(Endpoint)]
#[endpoint(path = "{self.path}")]
struct Read {
    #[endpoint(skip)]
    path: String,
    #[endpoint(query)]
    ttl: Option<String>,
    #[endpoint(query)]
    role_arn: Option<String>,
    #[endpoint(query)]
    role_session_name: Option<String>,
}

/// Asks for credentials. Each call makes new ones, but for static roles.
pub async fn issue(caller: &Caller, method: Method, request: &Request) -> Result<Issued, Error> {
    let path = request.path();
    let operation =
        Operation::new("issue_aws_credentials", format!("asking for {path}")).asking_aws();
    segment(&operation, &request.role)?;
    let ttl = request.ttl.map(|ttl| format!("{}s", ttl.as_secs()));
    let (role_arn, role_session_name) =
        (request.role_arn.clone(), request.role_session_name.clone());
    let answer = match method {
        Method::Post => {
            caller.send(&operation, &Ask { path, ttl, role_arn, role_session_name }).await
        }
        Method::Get => {
            caller.send(&operation, &Read { path, ttl, role_arn, role_session_name }).await
        }
    };
    Issued::of(&answer?.existing()?)
}

impl Issued {
    fn of(answer: &Answer) -> Result<Self, Error> {
        let data: Data = answer.data()?;
        let Lease { lease_id, lease_duration, .. } = answer.lease()?;
        let seconds = if lease_duration > 0 { lease_duration } else { data.ttl };
        let lifetime = (seconds > 0).then(|| Duration::from_secs(seconds));
        let present = |token: &Redacted<String>| !token.expose().is_empty();
        Ok(Self {
            access_key_id: data.access_key,
            secret_access_key: data.secret_key,
            session_token: data
                .session_token
                .filter(present)
                .or(data.security_token.filter(present)),
            arn: data.arn.filter(|arn| !arn.is_empty()),
            lifetime: lifetime.map(|lifetime| lifetime.saturating_sub(answer.age())),
            expiration: data.expiration,
            lease_id: Some(lease_id).filter(|id| !id.is_empty()),
        })
    }
}

#[derive(Endpoint)]
#[endpoint(path = "sys/leases/revoke", method = "PUT")]
struct Revoke {
    lease_id: String,
}

/// Ends a lease: the IAM user of `iam_user` credentials is deleted. Needs the capability `update` on
/// `sys/leases/revoke`, which the default policy does not give.
pub async fn revoke_lease(caller: &Caller, lease_id: &str) -> Result<(), Error> {
    let operation = Operation::new("revoke_lease", format!("revoking the lease {lease_id}"));
    let endpoint = Revoke { lease_id: lease_id.to_owned() };
    caller.send(&operation, &endpoint).await?.existing().map(drop)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use zeroize::Zeroizing;

    use super::*;

    fn issued(body: &str, age: Option<u64>) -> Result<Issued, Error> {
        Issued::of(&Answer {
            operation: Operation::new("test", "testing"),
            status: StatusCode::OK,
            age: age.map(Duration::from_secs),
            body: Zeroizing::new(body.as_bytes().to_vec()),
        })
    }

    #[test]
    fn a_session_lives_as_long_as_its_lease() {
        let issued = issued(
            r#"{"lease_id":"aws/sts/web/x","renewable":false,"lease_duration":899,"data":{
                "access_key":"ASIA1","secret_key":"s","security_token":"t","session_token":"t",
                "arn":"arn:aws:sts::111122223333:assumed-role/web/n","ttl":900}}"#,
            None,
        )
        .unwrap();
        assert_eq!(issued.lifetime, Some(Duration::from_secs(899)));
        assert_eq!(issued.session_token.unwrap().expose(), "t");
        assert_eq!(issued.lease_id.as_deref(), Some("aws/sts/web/x"));
    }

    #[test]
    fn without_a_lease_the_engine_says_how_long() {
        let body = r#"{"lease_id":"","lease_duration":0,"data":{"access_key":"ASIA1",
            "secret_key":"s","security_token":"t","ttl":900}}"#;
        let answer = issued(body, None).unwrap();
        assert_eq!(answer.lifetime, Some(Duration::from_secs(900)));
        assert_eq!(answer.session_token.unwrap().expose(), "t", "the older name");
        assert_eq!(answer.lease_id, None);
    }

    #[test]
    fn a_lifetime_that_nobody_says_is_none() {
        let body = r#"{"lease_duration":0,"data":{"access_key":"ASIA1","secret_key":"s",
            "session_token":"t"}}"#;
        assert_eq!(issued(body, None).unwrap().lifetime, None);
    }

    #[test]
    fn an_answer_from_a_cache_has_less_time_left() {
        let body = r#"{"lease_id":"l","renewable":true,"lease_duration":3600,"data":{
            "access_key":"AKIA1","secret_key":"s","security_token":null}}"#;
        let issued = issued(body, Some(600)).unwrap();
        assert_eq!(issued.lifetime, Some(Duration::from_secs(3000)));
        assert_eq!(issued.session_token, None);
    }

    #[test]
    fn static_keys_say_when_they_are_replaced() {
        let body = r#"{"lease_duration":0,"data":{"access_key":"AKIA1","secret_key":"s",
            "expiration":"2026-11-21T03:00:00Z"}}"#;
        let issued = issued(body, None).unwrap();
        assert_eq!(issued.expiration.unwrap().to_string(), "2026-11-21T03:00:00Z");
        assert_eq!((issued.lifetime, issued.session_token), (None, None));
    }

    #[test]
    fn an_answer_that_cannot_be_read_does_not_show_what_it_holds() {
        let error = issued(r#"{"data":{"access_key":7,"secret_key":"wJalr"}}"#, None).unwrap_err();
        let said = crate::fault::chain(&error);
        assert!(!said.contains("wJalr"), "{said}");
    }

    #[test]
    fn slashes_around_the_mount_do_not_reach_the_path() {
        let request = Request {
            mount: "/team/aws/dev/".to_owned(),
            role: "admin".to_owned(),
            ..Request::default()
        };
        assert_eq!(request.path(), "team/aws/dev/sts/admin");
    }
}
