//! Why an entry was refused, in words that may be shown to anybody.
//!
//! The text ends up in a status, an event and a log, so it names the field and the cure and never
//! carries a byte of the value. Field names and PEM labels come from Vault and are hostile: they
//! are made [safe](Field) before they are stored here.

use std::fmt;

use jiff::Timestamp;

use crate::fault::{Fault, Retry};

/// The longest field name that a message shows, in bytes.
const FIELD_BYTES: usize = 40;

/// The name of a KV field, fit for a message: printable ASCII, at most 43 bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Field(String);

impl Field {
    /// Takes a field name as Vault has it.
    pub fn new(name: &str) -> Self {
        let mut safe = String::new();
        for character in name.chars() {
            let escaped = if character == '`' || !matches!(character, ' '..='~') {
                character.escape_unicode().to_string()
            } else {
                character.to_string()
            };
            if safe.len() + escaped.len() > FIELD_BYTES {
                safe.push_str("...");
                break;
            }
            safe.push_str(&escaped);
        }
        Self(safe)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

/// Why an entry gives no pair. The text is at most 256 bytes, names the field and says the cure.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The entry has no field that could hold what is needed.
    #[error("no {what} in the entry: store it in {looked}, or name its field in an override")]
    MissingField {
        /// `certificate`, `private key`, `chain` or `CA certificate`.
        what: &'static str,
        /// The fields that were looked for.
        looked: String,
    },
    /// A value that is not what its field promises: not text, empty, broken PEM, base64 or DER.
    #[error("field {field} {problem}")]
    Malformed {
        /// The field.
        field: Field,
        /// What is wrong with it, and the cure.
        problem: &'static str,
    },
    /// A container format instead of PEM.
    #[error("field {field} holds {format}: store PEM certificates and an unencrypted PEM key")]
    UnsupportedFormat {
        /// The field.
        field: Field,
        /// The format, with its article.
        format: String,
    },
    /// The private key has a passphrase.
    #[error("field {field} holds an encrypted private key: store it without a passphrase")]
    EncryptedKey {
        /// The field.
        field: Field,
    },
    /// A key of a kind or size that is not delivered.
    #[error(
        "field {field} holds {found}: use RSA of 2048 to 8192 bits, P-256, P-384, P-521 or Ed25519"
    )]
    UnsupportedKey {
        /// The field.
        field: Field,
        /// The kind of key, with its article.
        found: String,
    },
    /// A value above the caps that are checked before anything is parsed.
    #[error("field {field} holds {what} (limit {limit}): store one pair per entry")]
    TooLarge {
        /// The field.
        field: Field,
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed, with its unit.
        limit: &'static str,
    },
    /// Two candidates that contradict each other.
    #[error("{} different {what}: keep the pair that is meant", holders(first, second))]
    Ambiguous {
        /// `leaf certificates` or `private keys`.
        what: &'static str,
        /// The field that came first.
        first: Field,
        /// The field that contradicts it; may be the same one.
        second: Field,
    },
    /// No certificate has the public key of the private key.
    #[error(
        "the private key in field {key} fits no certificate of the entry (first looked at: \
         {certificate}): store the certificate that was issued for this key"
    )]
    KeyMismatch {
        /// The field of the key.
        key: Field,
        /// The field of the first certificate.
        certificate: Field,
    },
    /// The certificate of the key is a CA.
    #[error("the leaf in field {field} is a CA certificate: store an end-entity certificate")]
    CaLeaf {
        /// The field of the leaf.
        field: Field,
    },
    /// The leaf is signed with a broken hash.
    #[error(
        "the leaf in field {field} is signed with {algorithm}: issue it with SHA-256 or better"
    )]
    WeakSignature {
        /// The field of the leaf.
        field: Field,
        /// The hash.
        algorithm: &'static str,
    },
    /// The leaf, or an intermediate of its chain, is past its `notAfter`.
    #[error("the {what} in field {field} expired at {not_after}: store a renewed one")]
    Expired {
        /// `leaf` or `intermediate`.
        what: &'static str,
        /// Its field.
        field: Field,
        /// The end of its validity.
        not_after: Timestamp,
    },
    /// The leaf, or an intermediate of its chain, is before its `notBefore`.
    #[error("the {what} in field {field} is valid from {not_before}: wait, or store a valid one")]
    NotYetValid {
        /// `leaf` or `intermediate`.
        what: &'static str,
        /// Its field.
        field: Field,
        /// The start of its validity.
        not_before: Timestamp,
    },
}

fn holders(first: &Field, second: &Field) -> String {
    if first == second {
        format!("field {first} holds")
    } else {
        format!("fields {first} and {second} hold")
    }
}

impl Fault for Refusal {
    fn reason(&self) -> &'static str {
        match self {
            Self::MissingField { .. } => "MissingField",
            Self::Malformed { .. } => "Malformed",
            Self::UnsupportedFormat { .. } => "UnsupportedFormat",
            Self::EncryptedKey { .. } => "EncryptedKey",
            Self::UnsupportedKey { .. } => "UnsupportedKey",
            Self::TooLarge { .. } => "TooLarge",
            Self::Ambiguous { .. } => "Ambiguous",
            Self::KeyMismatch { .. } => "KeyMismatch",
            Self::CaLeaf { .. } => "CaLeaf",
            Self::WeakSignature { .. } => "WeakSignature",
            Self::Expired { .. } => "Expired",
            Self::NotYetValid { .. } => "NotYetValid",
        }
    }

    /// A refused version stays refused; only a certificate that is not valid yet becomes so.
    fn retry(&self) -> Retry {
        match self {
            Self::NotYetValid { .. } => Retry::Slowly,
            Self::MissingField { .. }
            | Self::Malformed { .. }
            | Self::UnsupportedFormat { .. }
            | Self::EncryptedKey { .. }
            | Self::UnsupportedKey { .. }
            | Self::TooLarge { .. }
            | Self::Ambiguous { .. }
            | Self::KeyMismatch { .. }
            | Self::CaLeaf { .. }
            | Self::WeakSignature { .. }
            | Self::Expired { .. } => Retry::WhenChanged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_field_name_is_escaped_and_capped() {
        let field = Field::new("a`\n\u{202e}b").to_string();
        assert_eq!(field, r"`a\u{60}\u{a}\u{202e}b`");
        assert!(Field::new(&"\u{10ffff}".repeat(500)).to_string().len() <= FIELD_BYTES + 5);
    }

    #[test]
    fn every_message_fits_in_256_bytes() {
        let field = || Field::new(&"\u{10ffff}".repeat(500));
        let refusals = [
            Refusal::Ambiguous { what: "leaf certificates", first: field(), second: field() },
            Refusal::KeyMismatch { key: field(), certificate: field() },
            Refusal::UnsupportedKey { field: field(), found: "x".repeat(80) },
            Refusal::UnsupportedFormat { field: field(), format: "x".repeat(80) },
            Refusal::Expired { what: "intermediate", field: field(), not_after: Timestamp::MAX },
            Refusal::NotYetValid {
                what: "intermediate",
                field: field(),
                not_before: Timestamp::MAX,
            },
        ];
        for refusal in refusals {
            assert!(refusal.to_string().len() <= 256, "{refusal}");
        }
    }
}
