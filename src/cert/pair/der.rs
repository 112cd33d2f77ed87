//! Just enough DER to tell containers apart before a real parser is asked, and to wrap a key.
//!
//! The parsers of certificates and keys say "invalid" for everything they do not know; a user needs
//! to hear "this is a PKCS#12 keystore" or "this key is encrypted". Nothing here judges content.

/// Tag of an `INTEGER`.
pub(in crate::cert) const INTEGER: u8 = 0x02;
/// Tag of a `BIT STRING`.
pub(in crate::cert) const BIT_STRING: u8 = 0x03;
/// Tag of an `OCTET STRING`.
pub(in crate::cert) const OCTET_STRING: u8 = 0x04;
/// Tag of an `OBJECT IDENTIFIER`.
pub(in crate::cert) const OID: u8 = 0x06;
/// Tag of a `SEQUENCE`.
pub(in crate::cert) const SEQUENCE: u8 = 0x30;
/// Tag of the first context-specific, constructed element.
pub(in crate::cert) const CONTEXT_0: u8 = 0xa0;

/// 1.2.840.113549.1.7: the content types of PKCS#7.
const PKCS7: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07";

/// One tag-length-value.
#[derive(Clone, Copy)]
pub(in crate::cert) struct Element<'a> {
    /// The identifier octet.
    pub(in crate::cert) tag: u8,
    /// The contents octets.
    pub(in crate::cert) body: &'a [u8],
}

/// The first element of `input` and what follows it; `None` if it is not DER with a one-byte tag.
pub(in crate::cert) fn first(input: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&length, rest) = rest.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x83 => {
            let (octets, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let length = octets.iter().fold(0, |sum, &octet| sum << 8 | usize::from(octet));
            (length, rest)
        }
        // Indefinite lengths are BER; four octets are more than any cap allows.
        _ => return None,
    };
    let (body, rest) = rest.split_at_checked(length)?;
    Some((Element { tag, body }, rest))
}

/// The one element that `input` is; `None` if bytes are left over.
pub(in crate::cert) fn only(input: &[u8]) -> Option<Element<'_>> {
    first(input).filter(|(_, rest)| rest.is_empty()).map(|(element, _)| element)
}

/// The elements of a constructed body.
pub(in crate::cert) fn children(mut body: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut elements = Vec::new();
    while !body.is_empty() {
        let (element, rest) = first(body)?;
        elements.push(element);
        body = rest;
    }
    Some(elements)
}

/// A DER element of less than 64 KiB, which is more than a key may have.
pub(in crate::cert) fn element(tag: u8, body: &[u8]) -> Vec<u8> {
    let [.., high, low] = body.len().to_be_bytes();
    let length: &[u8] = match (high, low) {
        (0, 0..0x80) => &[low],
        (0, _) => &[0x81, low],
        _ => &[0x82, high, low],
    };
    [&[tag], length, body].concat()
}

/// What a DER document is, by its outline.
pub(in crate::cert) enum Outline<'a> {
    /// `Certificate`; requests and revocation lists look the same from here.
    Certificate,
    /// PKCS#8 `PrivateKeyInfo`: the elements of its algorithm, and the inner key.
    Pkcs8 { algorithm: Vec<Element<'a>>, inner: &'a [u8] },
    /// PKCS#8 `EncryptedPrivateKeyInfo`.
    EncryptedPkcs8,
    /// PKCS#1 `RSAPrivateKey`: the magnitude of its modulus, and whether it has more than two primes.
    Pkcs1 { modulus: &'a [u8], multi_prime: bool },
    /// SEC1 `ECPrivateKey`: its curve parameters, if it has them.
    Sec1 { parameters: Option<Element<'a>> },
    /// OpenSSL's own form of a DSA key.
    Dsa,
    /// A bundle of certificates or a signed message.
    Pkcs7,
    /// A keystore.
    Pkcs12,
    /// None of these.
    Unknown,
}

/// Reads the outline of a document that must be one element and nothing after it.
pub(in crate::cert) fn outline(document: &[u8]) -> Outline<'_> {
    let elements = only(document)
        .filter(|element| element.tag == SEQUENCE)
        .and_then(|element| children(element.body))
        .unwrap_or_default();
    let tags: Vec<u8> = elements.iter().map(|element| element.tag).collect();
    let version = elements.first().map(|element| element.body);
    match tags.as_slice() {
        [SEQUENCE, SEQUENCE, BIT_STRING] => Outline::Certificate,
        [SEQUENCE, OCTET_STRING] => Outline::EncryptedPkcs8,
        [OID, ..] if elements[0].body.starts_with(PKCS7) => Outline::Pkcs7,
        [INTEGER, SEQUENCE, OCTET_STRING, ..] => Outline::Pkcs8 {
            algorithm: children(elements[1].body).unwrap_or_default(),
            inner: elements[2].body,
        },
        [INTEGER, SEQUENCE, ..] if version == Some(&[3]) => Outline::Pkcs12,
        [INTEGER, OCTET_STRING, ..] if version == Some(&[1]) => {
            let parameters = elements
                .get(2)
                .filter(|element| element.tag == CONTEXT_0)
                .and_then(|element| only(element.body));
            Outline::Sec1 { parameters }
        }
        [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER] => Outline::Dsa,
        [INTEGER, INTEGER, .., last] if tags.len() >= 9 => {
            let modulus = elements[1].body;
            Outline::Pkcs1 {
                modulus: modulus.strip_prefix(&[0]).unwrap_or(modulus),
                multi_prime: version != Some(&[0]) || *last != INTEGER,
            }
        }
        _ => Outline::Unknown,
    }
}
