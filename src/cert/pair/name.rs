//! Names out of certificates, fit to be shown.
//!
//! Whoever may write to the directory in Vault chooses these bytes; they end up in status columns
//! and terminals. So they are written as RFC 4514 has it, without control or reordering characters,
//! and cut to a length that a status can hold.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use x509_parser::{
    extensions::GeneralName,
    objects::{oid_registry, oid2abbrev},
    x509::{AttributeTypeAndValue, X509Name},
};

/// The longest name that is shown, in bytes; the longest DNS name is 253.
const BYTES: usize = 256;

/// A distinguished name as RFC 4514 has it (most specific part first), at most 256 bytes.
pub(super) fn distinguished(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|rdn| rdn.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.reverse();
    cut(parts.join(","))
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let kind = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
    let mut text = format!("{kind}=");
    let Ok(value) = attribute.as_str() else {
        text.push('#');
        for octet in attribute.as_slice().iter().take(BYTES) {
            let _ = write!(text, "{octet:02x}");
        }
        return text;
    };
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => text.extend(['\\', character]),
            '#' if at == 0 => text.push_str("\\#"),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            _ => push(&mut text, character),
        }
    }
    text
}

/// A DNS name or an IP address of the subject alternative names; `None` for the other kinds.
pub(super) fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => {
            let mut text = String::new();
            name.chars().for_each(|character| push(&mut text, character));
            Some(cut(text))
        }
        GeneralName::IPAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(*octets).map(|octets| Ipv4Addr::from(octets).to_string());
            let v6 =
                || <[u8; 16]>::try_from(*octets).map(|octets| Ipv6Addr::from(octets).to_string());
            v4.or_else(|_| v6()).ok()
        }
        _ => None,
    }
}

/// Adds a character, or the hexadecimal escapes of its bytes if it could change how text is shown.
fn push(text: &mut String, character: char) {
    let reorders = matches!(
        character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    if character.is_control() || reorders {
        for octet in character.encode_utf8(&mut [0; 4]).bytes() {
            let _ = write!(text, "\\{octet:02x}");
        }
    } else {
        text.push(character);
    }
}

/// Cuts a text to the cap, at a character boundary, and says so.
fn cut(mut text: String) -> String {
    if text.len() > BYTES {
        text.truncate(text.floor_char_boundary(BYTES - 3));
        text.push_str("...");
    }
    text
}
