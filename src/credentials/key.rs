//! Which cached credentials answer which question.
//!
//! Everything that the answer depends on is in the key. Two Vaults with the same mount and role, or two
//! people with different rights, must never get each other's credentials.

use std::{fmt, time::Duration};

use sha2::{Digest as _, Sha256};

use crate::{hex::hex, vault::aws_secrets::Request};

/// Grows when the meaning of a key or of an entry changes, so that an old one is never taken for a new.
const FORMAT: &str = "vault-aws credentials 1";

/// What an answer depends on.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The address, or `unix://` and the path of a socket.
    pub server: &'a str,
    /// The user who asks: who may connect to a socket, or whose proxy adds the token.
    pub user: u32,
    /// `X-Vault-Namespace`.
    pub namespace: Option<&'a str>,
    /// What is asked for.
    pub request: &'a Request,
    /// The token; `None` behind a proxy that adds its own. Only its hash is used.
    pub token: Option<&'a str>,
}

/// The name of an entry: 64 hexadecimal digits, of which nothing can be read back.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Key(String);

impl Key {
    /// The key of a question.
    pub fn of(parts: &Parts<'_>) -> Self {
        let Parts { server, user, namespace, request, token } = parts;
        let user = user.to_string();
        let ttl = request.ttl.map(|ttl: Duration| ttl.as_secs().to_string());
        let token = token.map(|token| hex(&Sha256::digest(token.as_bytes())));
        let mount = request.mount.trim_matches('/');
        let parts = [
            Some(FORMAT),
            Some(server.trim_end_matches('/')),
            Some(&user),
            *namespace,
            Some(mount),
            Some(&request.role),
            Some(request.kind.word()),
            request.role_arn.as_deref(),
            request.role_session_name.as_deref(),
            ttl.as_deref(),
            token.as_deref(),
        ];
        let mut digest = Sha256::new();
        for part in parts {
            // With its length, so that no two lists of parts read the same; absent is not empty.
            match part {
                None => digest.update([0]),
                Some(text) => {
                    digest.update([1]);
                    digest.update((text.len() as u64).to_be_bytes());
                    digest.update(text.as_bytes());
                }
            }
        }
        Self(hex(&digest.finalize()))
    }

    /// The key that a file is named after; `None` for other names.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        (text.len() == 64 && text.chars().all(is_digit)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::aws_secrets::Kind;

    fn request() -> Request {
        Request { mount: "aws/dev".to_owned(), role: "admin".to_owned(), ..Request::default() }
    }

    fn parts(request: &Request) -> Parts<'_> {
        Parts {
            server: "https://vault:8200",
            user: 1000,
            namespace: None,
            request,
            token: Some("hvs.one"),
        }
    }

    #[test]
    fn whatever_changes_the_answer_changes_the_key() {
        let same = request();
        let other = |change: fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            request
        };
        let requests = [
            other(|request| request.mount = "aws/prod".to_owned()),
            other(|request| request.role = "reader".to_owned()),
            other(|request| request.kind = Kind::Creds),
            other(|request| request.ttl = Some(Duration::from_secs(900))),
            other(|request| request.role_arn = Some("arn".to_owned())),
            other(|request| request.role_session_name = Some("arn".to_owned())),
        ];
        let base = parts(&same);
        let mut keys = vec![
            Key::of(&base),
            Key::of(&Parts { server: "https://vault-dev:8200", ..base }),
            Key::of(&Parts { server: "unix:///run/vault.sock", ..base }),
            Key::of(&Parts { user: 1001, ..base }),
            Key::of(&Parts { namespace: Some("team"), ..base }),
            Key::of(&Parts { token: Some("hvs.two"), ..base }),
            Key::of(&Parts { token: None, ..base }),
        ];
        keys.extend(requests.iter().map(|request| Key::of(&parts(request))));
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let one = Request { mount: "a".to_owned(), role: "bc".to_owned(), ..Request::default() };
        let two = Request { mount: "ab".to_owned(), role: "c".to_owned(), ..Request::default() };
        assert_ne!(Key::of(&parts(&one)), Key::of(&parts(&two)));
    }

    #[test]
    fn a_slash_at_the_end_means_nothing() {
        let slash = Request { mount: "/aws/dev/".to_owned(), ..request() };
        let same = request();
        let base = parts(&same);
        assert_eq!(Key::of(&parts(&slash)), Key::of(&base));
        assert_eq!(Key::of(&Parts { server: "https://vault:8200/", ..base }), Key::of(&base));
    }

    #[test]
    fn only_names_of_entries_are_keys() {
        let same = request();
        let key = Key::of(&parts(&same));
        assert_eq!(Key::parse(&key.to_string()), Some(key.clone()));
        assert_eq!(Key::parse(&key.to_string().to_uppercase()), None);
        assert_eq!(Key::parse("../x"), None);
        assert!(!key.to_string().contains("hvs"));
    }
}
