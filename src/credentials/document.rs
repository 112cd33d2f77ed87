//! The document that AWS SDKs read from a `credential_process`.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>: one JSON object;
//! `Version` is the number 1; names in exactly this case (botocore and the Java SDK compare them);
//! `Expiration` in UTC with `Z`, to the second, which the strictest parser (the Rust SDK's) reads.

use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;
use zeroize::Zeroizing;

use super::Entry;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document<'a> {
    version: u8,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token: Option<&'a str>,
    expiration: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<&'a str>,
}

/// Writes the document and a line break, in one piece: nothing, or all of it.
pub fn emit(entry: &Entry, mut stdout: impl Write) -> io::Result<()> {
    let whole = Timestamp::from_second(entry.expiration.as_second()).unwrap_or(entry.expiration);
    let document = Document {
        version: 1,
        access_key_id: &entry.access_key_id,
        secret_access_key: entry.secret_access_key.expose(),
        session_token: entry.session_token.as_ref().map(|token| token.expose().as_str()),
        expiration: whole.to_string(),
        account_id: entry.account_id.as_deref(),
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 << 10));
    serde_json::to_writer(&mut *bytes, &document)?;
    bytes.push(b'\n');
    stdout.write_all(&bytes)?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(stored: &str) -> String {
        let entry = Entry::parse(stored.as_bytes()).unwrap();
        let mut stdout = Vec::new();
        emit(&entry, &mut stdout).unwrap();
        String::from_utf8(stdout).unwrap()
    }

    #[test]
    fn a_session_is_written_as_sdks_read_it() {
        let text = emitted(
            r#"{"format":1,"source":{"server":"https://v","path":"aws/sts/x"},
                "asked":"2026-11-21T03:00:00.5Z","expiration":"2026-11-21T03:15:00.5Z",
                "limit":"2026-11-21T03:15:00.5Z","access_key_id":"ASIA1",
                "secret_access_key":"s/+","session_token":"t==","account_id":"111122223333"}"#,
        );
        assert_eq!(
            text,
            "{\"Version\":1,\"AccessKeyId\":\"ASIA1\",\"SecretAccessKey\":\"s/+\",\
             \"SessionToken\":\"t==\",\"Expiration\":\"2026-11-21T03:15:00Z\",\
             \"AccountId\":\"111122223333\"}\n"
        );
    }

    #[test]
    fn keys_of_a_user_have_no_session_token() {
        let text = emitted(
            r#"{"format":1,"source":{"server":"https://v","path":"aws/creds/x"},
                "asked":"2026-11-21T03:00:00Z","expiration":"2026-11-21T04:00:00Z",
                "limit":"2026-11-21T04:00:00Z","access_key_id":"AKIA1","secret_access_key":"s"}"#,
        );
        assert!(!text.contains("SessionToken") && !text.contains("null"), "{text}");
        assert!(!text.contains("AccountId"), "{text}");
    }
}
