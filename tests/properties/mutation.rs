//! Entries as teams store them, and what goes wrong with them on the way.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use vault_aws_operator::cert::entry::Overrides;

use crate::{
    stock::{Sample, pem, samples},
    tape::Tape,
};

/// How many forms an entry has before it is mutated.
pub(crate) const FORMS: u8 = 8;

/// Names of fields, those that are looked for and those that are not.
const NAMES: [&str; 18] = [
    "tls.crt",
    "certificate",
    "cert",
    "cert.pem",
    "fullchain.pem",
    "tls.key",
    "private_key",
    "privateKey",
    "key",
    "privkey.pem",
    "ca_chain",
    "chain",
    "chain.pem",
    "intermediates",
    "ca.crt",
    "issuing_ca",
    "note",
    "a`\n\u{202e}b",
];

/// The most that a field may hold, and one more: caps of certificate, key and value.
const CAPS: [usize; 6] = [13_000, 13_001, 36_500, 36_501, 512 * 1024, 512 * 1024 + 1];

/// An entry, mutated as the tape says, and the overrides that go with it.
pub(crate) fn entry(tape: &mut Tape<'_>) -> (Map<String, Value>, Overrides) {
    let samples = samples();
    let sample = &samples[tape.below(samples.len())];
    let form = tape.below(FORMS.into());
    let mut fields = well_formed(sample, form, tape);
    for _ in 0..tape.below(6) {
        mutate(&mut fields, tape);
    }
    let mut overrides = Overrides::default();
    if tape.below(8) == 7 {
        let mut name =
            || Some(NAMES[tape.below(NAMES.len())].to_owned()).filter(|_| !tape.is_over());
        overrides =
            Overrides { certificate: name(), private_key: name(), chain: name(), ca: name() };
    }
    (fields, overrides)
}

fn well_formed(sample: &Sample, form: usize, tape: &mut Tape<'_>) -> Map<String, Value> {
    let (label, key) = &sample.keys[tape.below(sample.keys.len())];
    let leaf = pem("CERTIFICATE", &sample.leaf);
    let chain = pem("CERTIFICATE", &sample.intermediate);
    let root = pem("CERTIFICATE", &sample.root);
    let key_pem = pem(label, key);
    let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
    let value = match form {
        0 => json!({"certificate": leaf, "private_key": key_pem, "ca_chain": [chain],
            "issuing_ca": root}),
        1 => json!({"tls.crt": format!("{leaf}{chain}"), "tls.key": key_pem, "ca.crt": root}),
        2 => json!({"cert.pem": format!("{key_pem}{leaf}{chain}{root}")}),
        3 => {
            json!({"cert.pem": leaf, "chain.pem": chain, "fullchain.pem": format!("{leaf}{chain}"),
            "privkey.pem": key_pem})
        }
        4 => json!({"certificate": base64(&sample.leaf), "private_key": base64(key),
            "ca_chain": [base64(&sample.intermediate)], "issuing_ca": base64(&sample.root)}),
        5 => json!({"crt": base64(format!("{leaf}{chain}").as_bytes()),
            "key": base64(key_pem.as_bytes())}),
        6 => json!({"cert": [root, chain, leaf], "privateKey": [key_pem], "intermediates": null}),
        _ => json!({"certificate_pem": leaf.replace('\n', "\r\n"), "key_pem": key_pem,
            "ca_chain": [], "note": "kept"}),
    };
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// One thing goes wrong.
fn mutate(fields: &mut Map<String, Value>, tape: &mut Tape<'_>) {
    let kind = tape.below(18);
    let names: Vec<String> = fields.keys().cloned().collect();
    if names.is_empty() {
        fields.insert("certificate".to_owned(), Value::Null);
        return;
    }
    let name = names[tape.below(names.len())].clone();
    let other = names[tape.below(names.len())].clone();
    let old = fields[&name].clone();
    let new = match kind {
        0 => map_text(old, |text| flipped(text.into_bytes(), tape)),
        1 => map_text(old, |text| {
            let end = tape.below(text.len().max(1));
            text.chars().take(end).collect()
        }),
        2 => {
            fields.insert(name, fields[&other].clone());
            fields.insert(other, old);
            return;
        }
        3 => map_text(old, |text| STANDARD.encode(text)),
        4 => json!([old, fields[&other]]),
        5 => match tape.below(8) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(-1.5e300),
            3 => json!({"pem": old}),
            4 => json!([[old]]),
            5 => json!([]),
            6 => json!(""),
            _ => (0..100).fold(old, |inner, _| json!([inner])),
        },
        6 => map_text(old, |text| {
            let header = tape.pick(&[
                "Proc-Type: 4,ENCRYPTED\n",
                "Comment: a bag of attributes\n",
                ":\n",
                "X: ENCRYPTED:\n\n",
                "\u{feff}",
                "-----BEGIN \n",
                "----------BEGIN X-----\n",
                "-----END CERTIFICATE-----\n",
            ]);
            let at = tape.below(text.matches('\n').count() + 1);
            let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
            lines.insert(at.min(lines.len()), header);
            lines.concat()
        }),
        7 => map_text(old, |text| {
            let labels = [
                "CERTIFICATE",
                "PRIVATE KEY",
                "RSA PRIVATE KEY",
                "EC PRIVATE KEY",
                "ENCRYPTED PRIVATE KEY",
                "PKCS7",
                "X509 CRL",
                "TRUSTED CERTIFICATE",
                "",
                "\u{1f511}",
            ];
            let (from, to) = (tape.pick(&labels[..4]), tape.pick(&labels));
            match tape.below(3) {
                0 => text.replacen(from, to, 1),
                _ => text.replace(from, to),
            }
        }),
        8..=10 => map_text(old, |text| inside(&text, tape)),
        11 | 12 => {
            let samples = samples();
            let other = &samples[tape.below(samples.len())];
            let (label, key) = &other.keys[tape.below(other.keys.len())];
            json!(match tape.below(4) {
                0 => pem("CERTIFICATE", &other.leaf),
                1 => pem("CERTIFICATE", &other.intermediate),
                2 => pem("CERTIFICATE", &other.root),
                _ => pem(label, key),
            })
        }
        13 => map_text(old, |text| {
            let cap = CAPS[tape.below(CAPS.len())];
            match tape.below(4) {
                0 => format!("{text}{}", " ".repeat(cap.saturating_sub(text.len()))),
                1 => format!("{}{text}", "A".repeat(cap.saturating_sub(text.len()))),
                2 => text.repeat(2 + tape.below(12)),
                _ => text.repeat((cap / text.len().max(1)).clamp(1, 2000)),
            }
        }),
        14 => map_text(old, |text| match tape.below(4) {
            0 => text.replace('\n', "\r\n"),
            1 => text.replace('\n', "\r"),
            2 => text.replace('\n', ""),
            _ => text.replace('\n', "\n \t"),
        }),
        15 => {
            fields.insert(NAMES[tape.below(NAMES.len())].to_owned(), old);
            return;
        }
        16 => {
            fields.remove(&name);
            return;
        }
        _ => {
            let length = tape.below(64);
            let bytes: Vec<u8> = (0..length).map(|_| tape.byte()).collect();
            json!(match tape.below(2) {
                0 => String::from_utf8_lossy(&bytes).into_owned(),
                _ => STANDARD.encode(&bytes),
            })
        }
    };
    fields.insert(name, new);
}

/// Changes the text of a value, of a list the first one.
fn map_text(value: Value, change: impl FnOnce(String) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(change(text)),
        Value::Array(mut list) if list.first().is_some_and(Value::is_string) => {
            if let Value::String(text) = list[0].take() {
                list[0] = Value::String(change(text));
            }
            Value::Array(list)
        }
        other => other,
    }
}

fn flipped(mut bytes: Vec<u8>, tape: &mut Tape<'_>) -> String {
    if !bytes.is_empty() {
        let at = tape.below(bytes.len());
        bytes[at] ^= 1 << tape.below(8);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Changes the DER within the first PEM block, or within base64, so that what is wrong lies deeper.
fn inside(text: &str, tape: &mut Tape<'_>) -> String {
    let body: String = text
        .lines()
        .skip_while(|line| line.starts_with("-----"))
        .take_while(|line| !line.starts_with("-----"))
        .collect();
    let Ok(mut der) = STANDARD.decode(body.trim()) else { return text.to_owned() };
    patch(&mut der, tape);
    match text.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----")) {
        Some((label, _)) => {
            let tail = text.split_once("-----END ").and_then(|(_, end)| end.split_once('\n'));
            format!("{}{}", pem(label, &der), tail.map_or("", |(_, tail)| tail))
        }
        None => STANDARD.encode(&der),
    }
}

/// Up to four bytes become others, come or go.
pub(crate) fn patch(der: &mut Vec<u8>, tape: &mut Tape<'_>) {
    for _ in 0..=tape.below(4) {
        if der.is_empty() {
            return;
        }
        let at = tape.below(der.len());
        match tape.below(8) {
            0 => der.insert(at, tape.byte()),
            1 => drop(der.remove(at)),
            2 => der.truncate(at),
            3 | 4 => der[at] = tape.byte(),
            5 => der[at] = der[at].wrapping_add(1),
            _ => der[at] ^= 1 << tape.below(8),
        }
    }
}
