//! What stands for a secret that was written and cannot be read back. Pure.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::redacted::Redacted;

/// Tells whether two AWS keys are those that were written, and nothing else about them: keyed with a
/// random key that only the operator has, so that whoever sees it can test no guess. It is of one
/// backend, by its UID. Base64 of an HMAC-SHA-256.
pub fn fingerprint(
    key: &Redacted<Vec<u8>>,
    backend: &str,
    access_key: &str,
    secret_key: &Redacted<String>,
) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
    let mut context = hmac::Context::with_key(&key);
    for part in ["config/client", backend, access_key, secret_key.expose()] {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        context.update(&length.to_be_bytes());
        context.update(part.as_bytes());
    }
    STANDARD.encode(context.sign().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: u8, backend: &str, access_key: &str, secret_key: &str) -> String {
        let key = Redacted::new(vec![key; 32]);
        fingerprint(&key, backend, access_key, &Redacted::new(secret_key.to_owned()))
    }

    #[test]
    fn a_fingerprint_is_the_same_for_the_same_keys_only() {
        let one = of(1, "uid", "AKIA", "secret");
        assert_eq!(one, of(1, "uid", "AKIA", "secret"));
        assert_eq!(one.len(), 44);
        for other in [
            of(2, "uid", "AKIA", "secret"),
            of(1, "another", "AKIA", "secret"),
            of(1, "uid", "AKIB", "secret"),
            of(1, "uid", "AKIA", "Secret"),
            // The parts do not run into each other.
            of(1, "uid", "AKI", "Asecret"),
        ] {
            assert_ne!(one, other);
        }
    }
}
