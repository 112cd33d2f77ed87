//! PEM as people store it, and PEM as we write it.
//!
//! RFC 7468 text is read leniently where nothing can be misread (line endings, a byte order mark,
//! indentation, text around the blocks such as OpenSSL's bag attributes, two files joined without a
//! line break) and strictly everywhere else, because what is read here replaces a working Secret.
//! What is written is always the same bytes for the same content.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use zeroize::Zeroizing;

use super::refusal::{Field, Refusal};

/// The largest certificate, as PEM or base64 text, in bytes.
pub(in crate::cert) const CERTIFICATE_BYTES: usize = 36_500;
/// The largest private key, as PEM or base64 text, in bytes.
pub(in crate::cert) const KEY_BYTES: usize = 13_000;
/// The most blocks that one text may have: ten certificates, a key and its parameters, twice.
const BLOCKS: usize = 24;

/// Base64 with or without padding; nothing else is forgiven.
pub(in crate::cert) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One PEM block, decoded.
pub(in crate::cert) struct Block {
    /// The label between `-----BEGIN ` and `-----`.
    pub(in crate::cert) label: String,
    /// The bytes, which may be a private key.
    pub(in crate::cert) der: Zeroizing<Vec<u8>>,
}

/// The blocks of a text, in its order.
pub(in crate::cert) fn blocks(field: &Field, text: &str) -> Result<Vec<Block>, Refusal> {
    let malformed = |problem| Refusal::Malformed { field: field.clone(), problem };
    // `cat a.pem b.pem`, where the first has no line break at its end.
    let text = Zeroizing::new(text.replace("----------BEGIN ", "-----\n-----BEGIN "));
    let mut blocks = Vec::new();
    let mut open: Option<(String, Zeroizing<String>)> = None;
    for line in text.split(['\n', '\r']).map(str::trim) {
        if let Some(label) = boundary(line, "-----BEGIN ") {
            if open.is_some() {
                return Err(malformed("has a PEM block without its END line: store it whole"));
            }
            if blocks.len() == BLOCKS {
                let what = "too many PEM blocks";
                return Err(Refusal::TooLarge { field: field.clone(), what, limit: "24" });
            }
            // Never reallocated, so that no copy of a key is left behind on the heap.
            let body = Zeroizing::new(String::with_capacity(limit_of(label).0));
            open = Some((label.to_owned(), body));
        } else if let Some(label) = boundary(line, "-----END ") {
            let Some((opened, body)) = open.take() else {
                return Err(malformed("has a PEM block without its BEGIN line: store it whole"));
            };
            if opened != label {
                return Err(malformed("has a PEM block with two labels: store it again"));
            }
            let der = BASE64
                .decode(body.as_bytes())
                .map_err(|_| malformed("has a PEM block that is not base64: store it again"))?;
            blocks.push(Block { label: opened, der: Zeroizing::new(der) });
        } else if line.contains("-----BEGIN ") || line.contains("-----END ") {
            return Err(malformed("has PEM without its line breaks: store the file as it is"));
        } else if let Some((label, body)) = &mut open {
            if let Some((_, value)) = line.split_once(':') {
                // RFC 1421 headers, as old OpenSSL writes them over an encrypted key.
                if value.contains("ENCRYPTED") {
                    return Err(Refusal::EncryptedKey { field: field.clone() });
                }
                continue;
            }
            let (bytes, limit, what) = limit_of(label);
            if body.len() + line.len() > bytes {
                return Err(Refusal::TooLarge { field: field.clone(), what, limit });
            }
            body.push_str(line);
        }
    }
    match open {
        Some(_) => Err(malformed("has a PEM block without its END line: store it whole")),
        None => Ok(blocks),
    }
}

/// The label of a boundary line; `None` for any other line.
fn boundary<'a>(line: &'a str, prefix: &str) -> Option<&'a str> {
    let label = line.strip_prefix(prefix)?.strip_suffix("-----")?;
    (!label.contains("-----")).then_some(label)
}

/// The cap for a block with this label.
fn limit_of(label: &str) -> (usize, &'static str, &'static str) {
    if label.contains("PRIVATE KEY") {
        (KEY_BYTES, "13,000 bytes", "a private key that is too large")
    } else {
        (CERTIFICATE_BYTES, "36,500 bytes", "a certificate that is too large")
    }
}

/// One block as text: 64 columns, `\n`, a line break at the end.
pub(in crate::cert) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let mut body = Zeroizing::new(String::with_capacity(der.len() / 3 * 4 + 8));
    general_purpose::STANDARD.encode_string(der, &mut body);
    let capacity = body.len() + body.len() / 64 + 2 * label.len() + 40;
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, left) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = left;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}
