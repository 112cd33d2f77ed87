//! What a KV entry says, before anybody judges it.
//!
//! There is no convention for certificates in Vault: one team pastes PEM files, another pipes the
//! answer of `pki/issue` into `kv put`, a third uploads certbot's directory or base64. This module
//! turns all of them into certificates and keys in DER, each with the fields it was found in, and
//! caps what it decodes. Which certificate is the leaf is decided by [`pair`](super::pair), from the
//! content, whatever the field is called.

use base64::Engine as _;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::pair::{
    Field, Refusal,
    der::{self, Outline},
    pem::{self, BASE64, Block},
};
use crate::redacted::Redacted;

/// Where a certificate is looked for.
const CERTIFICATE: &[&str] = &[
    "tls.crt",
    "certificate",
    "cert",
    "crt",
    "cert_pem",
    "certificate_pem",
    "fullchain",
    "fullchain.pem",
    "cert.pem",
];
/// Where a private key is looked for.
const KEY: &[&str] = &[
    "tls.key",
    "private_key",
    "privateKey",
    "key",
    "key_pem",
    "private_key_pem",
    "privkey",
    "privkey.pem",
    "key.pem",
];
/// Where intermediates are looked for.
const CHAIN: &[&str] =
    &["ca_chain", "chain", "chain.pem", "certificate_chain", "intermediate", "intermediates"];
/// Where certificates to trust are looked for.
const CA: &[&str] = &["ca.crt", "issuing_ca"];

/// The largest value of one field, in bytes: ten certificates and a key, base64 over PEM.
const VALUE_BYTES: usize = 512 * 1024;
/// The most different certificates in one entry.
const CERTIFICATES: usize = 10;
/// The most different key documents in one entry: one per encoding, and one to spare.
const KEYS: usize = 4;

/// What a field is asked for. PEM may hold more than was asked, and all of it is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The leaf, perhaps with its chain or its key.
    Certificate,
    /// The private key.
    Key,
    /// Intermediates.
    Chain,
    /// Certificates to trust: the only source of `ca.crt`.
    Ca,
}

impl Role {
    const ALL: [Self; 4] = [Self::Certificate, Self::Key, Self::Chain, Self::Ca];

    fn candidates(self) -> &'static [&'static str] {
        match self {
            Self::Certificate => CERTIFICATE,
            Self::Key => KEY,
            Self::Chain => CHAIN,
            Self::Ca => CA,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Key => "private key",
            Self::Chain => "chain",
            Self::Ca => "CA certificate",
        }
    }

    /// The refusal for a role that no field fills.
    fn missing(self, fields: &Overrides) -> Refusal {
        let looked = match fields.of(self) {
            Some(name) => Field::new(name).to_string(),
            None => self.candidates().join(", "),
        };
        Refusal::MissingField { what: self.what(), looked }
    }
}

/// Fields that a resource names itself. One that is named replaces its candidates, must be there,
/// and is not a candidate for anything else.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Overrides {
    /// The field of the leaf.
    pub certificate: Option<String>,
    /// The field of the private key.
    pub private_key: Option<String>,
    /// The field of the intermediates.
    pub chain: Option<String>,
    /// The field of the certificates to trust.
    pub ca: Option<String>,
}

impl Overrides {
    fn of(&self, role: Role) -> Option<&str> {
        match role {
            Role::Certificate => self.certificate.as_deref(),
            Role::Key => self.private_key.as_deref(),
            Role::Chain => self.chain.as_deref(),
            Role::Ca => self.ca.as_deref(),
        }
    }

    /// The fields to read, in the order in which they are believed, each with its roles.
    fn sources(&self) -> Vec<(&str, Vec<Role>)> {
        let mut sources: Vec<(&str, Vec<Role>)> = Vec::new();
        for role in Role::ALL {
            let is_taken = |name: &&str| !Role::ALL.iter().any(|&role| self.of(role) == Some(name));
            let names: Vec<&str> = match self.of(role) {
                Some(name) => vec![name],
                None => role.candidates().iter().copied().filter(is_taken).collect(),
            };
            for name in names {
                match sources.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, roles)) => roles.push(role),
                    None => sources.push((name, vec![role])),
                }
            }
        }
        sources
    }
}

/// One field in which a certificate was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::cert) struct Place {
    pub(in crate::cert) field: Field,
    pub(in crate::cert) role: Role,
    /// Whether it is the first certificate of that field.
    pub(in crate::cert) is_first: bool,
}

/// A certificate, once, however many fields hold it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::cert) struct FoundCertificate {
    pub(in crate::cert) der: Vec<u8>,
    /// Never empty; in the order in which fields are believed.
    pub(in crate::cert) places: Vec<Place>,
}

impl FoundCertificate {
    /// The field that it is called by in messages.
    pub(in crate::cert) fn field(&self) -> &Field {
        &self.places[0].field
    }

    /// Whether a field of this role holds it.
    pub(in crate::cert) fn is_in(&self, role: Role) -> bool {
        self.places.iter().any(|place| place.role == role)
    }

    /// Whether this field holds it.
    pub(in crate::cert) fn is_from(&self, field: &Field) -> bool {
        self.places.iter().any(|place| place.field == *field)
    }
}

/// A private key document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::cert) struct FoundKey {
    pub(in crate::cert) field: Field,
    pub(in crate::cert) der: Redacted<Vec<u8>>,
}

/// The certificates and keys of one entry, each once, in the order in which fields are believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Texts {
    /// At least one of them is in another than a CA field.
    pub(in crate::cert) certificates: Vec<FoundCertificate>,
    pub(in crate::cert) key: FoundKey,
    /// More key documents, which have to be other encodings of the same key.
    pub(in crate::cert) other_keys: Vec<FoundKey>,
}

/// What has been read so far.
#[derive(Default)]
struct Finds {
    certificates: Vec<FoundCertificate>,
    keys: Vec<FoundKey>,
}

/// Reads the certificates and keys out of an entry's fields, as a data read of KV v2 has them in
/// `data.data`. Other fields are ignored.
///
/// # Errors
/// [`Refusal::MissingField`], [`Refusal::Malformed`], [`Refusal::TooLarge`],
/// [`Refusal::UnsupportedFormat`], [`Refusal::UnsupportedKey`] or [`Refusal::EncryptedKey`].
pub fn read(fields: &Map<String, Value>, overrides: &Overrides) -> Result<Texts, Refusal> {
    let mut finds = Finds::default();
    for (name, roles) in overrides.sources() {
        match fields.get(name) {
            Some(value) => {
                let mut source = Source { field: Field::new(name), roles, certificates: 0 };
                source.read(value, &mut finds)?;
            }
            None => {
                if let Some(role) = roles.iter().find(|&&role| overrides.of(role).is_some()) {
                    return Err(role.missing(overrides));
                }
            }
        }
    }
    let is_trust = |one: &FoundCertificate| one.places.iter().all(|place| place.role == Role::Ca);
    if finds.certificates.iter().all(is_trust) {
        return Err(Role::Certificate.missing(overrides));
    }
    let mut keys = finds.keys.into_iter();
    let key = keys.next().ok_or_else(|| Role::Key.missing(overrides))?;
    Ok(Texts { certificates: finds.certificates, key, other_keys: keys.collect() })
}

/// One field while it is read.
struct Source {
    field: Field,
    roles: Vec<Role>,
    /// How many certificates it has given so far.
    certificates: usize,
}

impl Source {
    fn read(&mut self, value: &Value, finds: &mut Finds) -> Result<(), Refusal> {
        let is_optional = self.roles.iter().all(|role| matches!(role, Role::Chain | Role::Ca));
        let not_text =
            || self.malformed("is not text: store PEM, as a string or a list of strings");
        let values: Vec<&str> = match value {
            Value::String(text) => vec![text],
            // What `pki/issue` says, once stored, when there is no chain.
            Value::Null if is_optional => return Ok(()),
            Value::Array(list) if list.is_empty() && is_optional => return Ok(()),
            Value::Array(list) if !list.is_empty() => list
                .iter()
                .map(|item| item.as_str().ok_or_else(not_text))
                .collect::<Result<_, _>>()?,
            _ => return Err(not_text()),
        };
        if values.iter().map(|text| text.len()).sum::<usize>() > VALUE_BYTES {
            return Err(self.too_large("a value that is too large", "512 KiB"));
        }
        for text in values {
            self.text(text, finds)?;
        }
        Ok(())
    }

    fn text(&mut self, text: &str, finds: &mut Finds) -> Result<(), Refusal> {
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Err(self.malformed("is empty: store the value, or remove the field"));
        }
        if has_pem(text) {
            return self.pem(text, finds);
        }
        let mut compact = Zeroizing::new(String::with_capacity(text.len()));
        compact.extend(text.split_ascii_whitespace());
        let decoded = BASE64
            .decode(compact.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| self.malformed("is neither PEM nor base64: store PEM"))?;
        match std::str::from_utf8(&decoded) {
            Ok(text) if has_pem(text) => self.pem(text.trim_start_matches('\u{feff}'), finds),
            Ok(text) if text.trim().len() > 16 && BASE64.decode(text.trim()).is_ok() => {
                Err(self.malformed("is base64 of base64: encode it once"))
            }
            _ => self.der(&decoded, finds),
        }
    }

    /// PEM may hold anything that belongs to a pair, whatever its field is called.
    fn pem(&mut self, text: &str, finds: &mut Finds) -> Result<(), Refusal> {
        let mut is_useless = true;
        for Block { label, der } in pem::blocks(&self.field, text)? {
            match label.as_str() {
                "CERTIFICATE" | "X509 CERTIFICATE" => self.certificate(&der, finds)?,
                "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => self.key(der, finds)?,
                // `openssl ecparam -genkey` and HAProxy's bundles have these beside the key.
                "EC PARAMETERS" | "DH PARAMETERS" => continue,
                "ENCRYPTED PRIVATE KEY" => {
                    return Err(Refusal::EncryptedKey { field: self.field.clone() });
                }
                "DSA PRIVATE KEY" => {
                    let found = "a DSA key".to_owned();
                    return Err(Refusal::UnsupportedKey { field: self.field.clone(), found });
                }
                "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => {
                    return Err(self.unsupported("a PKCS#7 bundle"));
                }
                "PKCS12" => return Err(self.unsupported("a PKCS#12 keystore")),
                "TRUSTED CERTIFICATE" => {
                    return Err(self.unsupported("OpenSSL's TRUSTED CERTIFICATE form"));
                }
                "OPENSSH PRIVATE KEY" => return Err(self.unsupported("an OpenSSH private key")),
                "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
                    return Err(self.unsupported("a certificate request"));
                }
                "PUBLIC KEY" | "RSA PUBLIC KEY" => {
                    return Err(self.unsupported("a public key"));
                }
                "X509 CRL" => return Err(self.unsupported("a revocation list")),
                // Its label could be anything, even a part of a key pasted into the wrong line.
                _ => return Err(self.unsupported("a PEM block of an unknown kind")),
            }
            is_useless = false;
        }
        if is_useless {
            return Err(self.malformed("has PEM without a certificate or a key: store PEM of both"));
        }
        Ok(())
    }

    /// DER without a label has to be what its field is asked for.
    fn der(&mut self, document: &[u8], finds: &mut Finds) -> Result<(), Refusal> {
        let wants_key = self.roles.contains(&Role::Key);
        let wants_certificate = self.roles.iter().any(|&role| role != Role::Key);
        match der::outline(document) {
            Outline::Certificate if wants_certificate => self.certificate(document, finds),
            Outline::Certificate => {
                Err(self
                    .malformed("holds a DER certificate where a private key belongs: swap them"))
            }
            Outline::EncryptedPkcs8 => Err(Refusal::EncryptedKey { field: self.field.clone() }),
            Outline::Pkcs8 { .. } | Outline::Pkcs1 { .. } | Outline::Sec1 { .. } | Outline::Dsa => {
                if wants_key {
                    return self.key(Zeroizing::new(document.to_vec()), finds);
                }
                Err(self
                    .malformed("holds a DER private key where a certificate belongs: swap them"))
            }
            Outline::Pkcs7 => Err(self.unsupported("a PKCS#7 bundle")),
            Outline::Pkcs12 => Err(self.unsupported("a PKCS#12 keystore")),
            Outline::Unknown => match document {
                [0xfe, 0xed, 0xfe, 0xed, ..] => Err(self.unsupported("a JKS keystore")),
                [0xce, 0xce, 0xce, 0xce, ..] => Err(self.unsupported("a JCEKS keystore")),
                _ => Err(self.malformed("is base64 of neither PEM nor DER: store PEM")),
            },
        }
    }

    fn certificate(&mut self, document: &[u8], finds: &mut Finds) -> Result<(), Refusal> {
        if document.len() > decoded(pem::CERTIFICATE_BYTES) {
            return Err(self.too_large("a certificate that is too large", "36,500 bytes"));
        }
        let is_first = self.certificates == 0;
        self.certificates += 1;
        let known = finds.certificates.iter().position(|one| one.der == document);
        let at = match known {
            Some(at) => at,
            None if finds.certificates.len() == CERTIFICATES => {
                return Err(self.too_large("too many certificates", "10"));
            }
            None => {
                let places = Vec::new();
                finds.certificates.push(FoundCertificate { der: document.to_vec(), places });
                finds.certificates.len() - 1
            }
        };
        let found = &mut finds.certificates[at];
        if !found.is_from(&self.field) {
            found.places.extend(self.roles.iter().map(|&role| Place {
                field: self.field.clone(),
                role,
                is_first,
            }));
        }
        Ok(())
    }

    fn key(&self, document: Zeroizing<Vec<u8>>, finds: &mut Finds) -> Result<(), Refusal> {
        if document.len() > decoded(pem::KEY_BYTES) {
            return Err(self.too_large("a private key that is too large", "13,000 bytes"));
        }
        if finds.keys.iter().any(|key| *key.der.expose() == *document) {
            return Ok(());
        }
        if finds.keys.len() == KEYS {
            return Err(self.too_large("too many private keys", "4"));
        }
        let mut document = document;
        let der = Redacted::new(std::mem::take(&mut *document));
        finds.keys.push(FoundKey { field: self.field.clone(), der });
        Ok(())
    }

    fn malformed(&self, problem: &'static str) -> Refusal {
        Refusal::Malformed { field: self.field.clone(), problem }
    }

    fn unsupported(&self, format: &str) -> Refusal {
        Refusal::UnsupportedFormat { field: self.field.clone(), format: format.to_owned() }
    }

    fn too_large(&self, what: &'static str, limit: &'static str) -> Refusal {
        Refusal::TooLarge { field: self.field.clone(), what, limit }
    }
}

/// How many bytes so much base64 gives. DER that comes without PEM leaves as PEM, and must be small enough
/// to be read again.
fn decoded(base64: usize) -> usize {
    base64 / 4 * 3
}

fn has_pem(text: &str) -> bool {
    text.contains("-----BEGIN ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        cert::pair::fixtures::{self, Authority, Leaf},
        fault::Fault as _,
    };

    fn leaf() -> Leaf {
        Authority::root("Root").issue("web.example.com")
    }

    fn read(fields: Value) -> Result<Texts, Refusal> {
        super::read(fields.as_object().expect("an object"), &Overrides::default())
    }

    fn reason(fields: Value) -> &'static str {
        read(fields).expect_err("a refusal").reason()
    }

    #[test]
    fn every_value_form_gives_the_same_texts() {
        let Leaf { certificate, key, .. } = leaf();
        let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let (certificate_der, key_der) = (fixtures::der(&certificate), fixtures::der(&key));
        let expected = read(json!({"tls.crt": certificate, "tls.key": key})).unwrap();
        let forms: [fn(&str) -> String; 6] = [
            |pem| pem.replace('\n', "\r\n"),
            |pem| pem.replace('\n', "\r"),
            |pem| format!("\u{feff}{pem}"),
            |pem| format!("Bag Attributes\n    localKeyID: 01 02\nsubject=CN = x\n{pem}trailing"),
            |pem| pem.lines().map(|line| format!("  {line} \n")).collect(),
            |pem| pem.trim_end().to_owned(),
        ];
        for form in forms {
            let fields = json!({"tls.crt": form(&certificate), "tls.key": form(&key)});
            assert_eq!(read(fields).unwrap(), expected);
        }
        let others = [
            json!({"tls.crt": [certificate], "tls.key": [key]}),
            json!({"tls.crt": base64(certificate.as_bytes()), "tls.key": base64(key.as_bytes())}),
            json!({"tls.crt": base64(&certificate_der), "tls.key": base64(&key_der)}),
            json!({"tls.crt": base64(&certificate_der).trim_end_matches('='), "tls.key": key}),
        ];
        for fields in others {
            assert_eq!(read(fields).unwrap(), expected);
        }
    }

    #[test]
    fn one_field_may_hold_the_certificate_and_its_key() {
        let Leaf { certificate, key, .. } = leaf();
        let joined = format!("{key}{certificate}");
        let texts = read(json!({ "tls.crt": joined })).unwrap();
        assert_eq!((texts.certificates.len(), texts.other_keys.len()), (1, 0));
        assert!(read(json!({ "key.pem": joined })).is_ok());
    }

    #[test]
    fn files_joined_without_a_line_break_are_told_apart() {
        let Leaf { certificate, key, .. } = leaf();
        let joined = format!("{}{}", certificate.trim_end(), key.trim_end());
        assert!(read(json!({ "cert": joined })).is_ok());
    }

    #[test]
    fn parameters_beside_a_key_are_passed_over() {
        let Leaf { certificate, key, .. } = leaf();
        let key = format!(
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{key}"
        );
        assert!(read(json!({"cert": certificate, "key": key})).is_ok());
    }

    #[test]
    fn an_entry_without_certificate_or_key_is_told_where_they_were_looked_for() {
        let Leaf { certificate, key, .. } = leaf();
        let refusal = read(json!({"tls.crt": certificate, "username": "x"})).unwrap_err();
        assert_eq!(refusal.reason(), "MissingField");
        assert!(refusal.to_string().contains("tls.key, private_key, privateKey"), "{refusal}");
        assert!(refusal.to_string().len() <= 256, "{}", refusal.to_string().len());
        assert_eq!(reason(json!({ "tls.key": key })), "MissingField");
        assert_eq!(reason(json!({})), "MissingField");
    }

    #[test]
    fn a_certificate_that_is_only_in_a_ca_field_is_no_leaf() {
        let Leaf { certificate, key, .. } = leaf();
        assert_eq!(reason(json!({"ca.crt": certificate, "tls.key": key})), "MissingField");
    }

    #[test]
    fn values_that_are_not_text_are_malformed() {
        let Leaf { certificate, key, .. } = leaf();
        for value in [json!(1), json!(true), json!({}), json!(null), json!([]), json!([1])] {
            let fields = json!({"tls.crt": certificate, "tls.key": key, "cert": value});
            assert_eq!(reason(fields), "Malformed");
        }
    }

    #[test]
    fn empty_and_blank_texts_are_malformed() {
        let Leaf { certificate, key, .. } = leaf();
        for value in ["", "  \n\t", "\u{feff}"] {
            assert_eq!(reason(json!({"tls.crt": value, "tls.key": key})), "Malformed");
            let fields = json!({"tls.crt": certificate, "tls.key": key, "ca.crt": value});
            assert_eq!(reason(fields), "Malformed");
        }
    }

    #[test]
    fn an_absent_chain_may_be_null_or_an_empty_list() {
        let Leaf { certificate, key, .. } = leaf();
        for value in [json!(null), json!([])] {
            let fields = json!({"certificate": certificate, "private_key": key, "ca_chain": value});
            assert!(read(fields).is_ok());
        }
    }

    #[test]
    fn broken_pem_is_malformed_and_says_what_is_wrong() {
        let Leaf { certificate, key, .. } = leaf();
        let cases = [
            (certificate.replace('\n', "\\n"), "line breaks"),
            (certificate.replace('\n', " "), "line breaks"),
            (certificate.replace("-----END CERTIFICATE-----", ""), "END"),
            (certificate.replace("-----BEGIN CERTIFICATE-----", "-----BEGIN X-----"), "two labels"),
            (certificate.replace('M', "*"), "base64"),
            (format!("-----END CERTIFICATE-----\n{certificate}"), "BEGIN"),
            ("/etc/ssl/web.pem".to_owned(), "neither PEM nor base64"),
            (BASE64.encode(BASE64.encode(&certificate)), "encode it once"),
            (BASE64.encode("hello"), "neither PEM nor DER"),
        ];
        for (value, said) in cases {
            let refusal = read(json!({"tls.crt": value, "tls.key": key})).unwrap_err();
            assert_eq!(refusal.reason(), "Malformed");
            assert!(refusal.to_string().contains(said), "{refusal}");
        }
    }

    #[test]
    fn bare_der_has_to_be_what_its_field_asks() {
        let Leaf { certificate, key, .. } = leaf();
        let certificate_der = BASE64.encode(fixtures::der(&certificate));
        let key_der = BASE64.encode(fixtures::der(&key));
        assert_eq!(reason(json!({"tls.crt": key_der, "tls.key": key})), "Malformed");
        assert_eq!(
            reason(json!({"tls.crt": certificate, "tls.key": certificate_der})),
            "Malformed"
        );
    }

    #[test]
    fn bytes_after_the_der_are_malformed() {
        let Leaf { certificate, key, .. } = leaf();
        let mut document = fixtures::der(&certificate);
        document.push(0);
        assert_eq!(
            reason(json!({"tls.crt": BASE64.encode(document), "tls.key": key})),
            "Malformed"
        );
    }

    #[test]
    fn other_containers_are_refused_by_name() {
        let Leaf { certificate, key, .. } = leaf();
        let block = |label: &str| pem::encode(label, &[0x30, 0]).to_string();
        let pkcs7 = fixtures::sequence(&[(der::OID, b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02")]);
        let content = fixtures::sequence(&[(der::OID, b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01")]);
        let pkcs12 = fixtures::sequence(&[(der::INTEGER, &[3]), (der::SEQUENCE, &content[2..])]);
        let cases = [
            (block("PKCS7"), "PKCS#7"),
            (BASE64.encode(pkcs7), "PKCS#7"),
            (BASE64.encode(pkcs12), "PKCS#12"),
            (BASE64.encode([0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2]), "JKS"),
            (block("TRUSTED CERTIFICATE"), "TRUSTED"),
            (block("OPENSSH PRIVATE KEY"), "OpenSSH"),
            (block("CERTIFICATE REQUEST"), "request"),
            (format!("{certificate}{}", block("WHATEVER")), "unknown kind"),
        ];
        for (value, said) in cases {
            let refusal = read(json!({"tls.crt": value, "tls.key": key})).unwrap_err();
            assert_eq!(refusal.reason(), "UnsupportedFormat", "{refusal}");
            assert!(refusal.to_string().contains(said), "{refusal}");
        }
    }

    #[test]
    fn encrypted_keys_are_refused_by_name() {
        let Leaf { certificate, key, .. } = leaf();
        let encrypted = fixtures::sequence(&[(der::SEQUENCE, &[]), (der::OCTET_STRING, &[1])]);
        let old = key.replace("PRIVATE", "RSA PRIVATE").replacen(
            "KEY-----\n",
            "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES,00\n\n",
            1,
        );
        let cases = [
            pem::encode("ENCRYPTED PRIVATE KEY", &encrypted).to_string(),
            BASE64.encode(&encrypted),
            old,
        ];
        for value in cases {
            assert_eq!(reason(json!({"tls.crt": certificate, "tls.key": value})), "EncryptedKey");
        }
    }

    #[test]
    fn too_much_is_refused_before_it_is_parsed() {
        let Leaf { certificate, key, .. } = leaf();
        let large = |label, bytes: usize| pem::encode(label, &vec![0; bytes]).to_string();
        let many: String =
            (0u8..11).map(|n| pem::encode("CERTIFICATE", &[0x30, 1, n]).to_string()).collect();
        let cases = [
            json!({"tls.crt": large("CERTIFICATE", 36_500), "tls.key": key}),
            json!({"tls.crt": certificate, "tls.key": large("PRIVATE KEY", 13_000)}),
            json!({"tls.crt": many, "tls.key": key}),
            json!({"tls.crt": certificate, "tls.key": key, "chain": "x".repeat(VALUE_BYTES + 1)}),
            json!({"tls.crt": certificate, "tls.key": key, "chain": certificate.repeat(25)}),
        ];
        for fields in cases {
            assert_eq!(reason(fields), "TooLarge");
        }
    }

    #[test]
    fn an_override_beats_the_candidates_and_must_be_there() {
        let (Leaf { certificate, key, .. }, other) = (leaf(), leaf());
        let fields = json!({
            "tls.crt": other.certificate, "tls.key": other.key, "mine.crt": certificate, "mine.key": key,
        });
        let fields = fields.as_object().unwrap();
        let overrides = Overrides {
            certificate: Some("mine.crt".to_owned()),
            private_key: Some("mine.key".to_owned()),
            ..Overrides::default()
        };
        let expected = fixtures::der(&certificate);
        let texts = super::read(fields, &overrides).unwrap();
        assert_eq!(texts.certificates.iter().map(|one| &one.der).collect::<Vec<_>>(), [&expected]);
        let absent = Overrides { ca: Some("my`ca".to_owned()), ..overrides };
        let refusal = super::read(fields, &absent).unwrap_err();
        assert_eq!(refusal.reason(), "MissingField");
        assert!(refusal.to_string().contains(r"my\u{60}ca"), "{refusal}");
    }

    #[test]
    fn a_field_that_an_override_names_is_no_candidate_for_anything_else() {
        let Leaf { certificate, key, .. } = leaf();
        let root = Authority::root("Root");
        let fields =
            json!({"tls.crt": certificate, "tls.key": key, "chain.pem": root.certificate()});
        let overrides = Overrides { ca: Some("chain.pem".to_owned()), ..Overrides::default() };
        let texts = super::read(fields.as_object().unwrap(), &overrides).unwrap();
        let roles: Vec<Role> =
            texts.certificates[1].places.iter().map(|place| place.role).collect();
        assert_eq!(roles, [Role::Ca]);
    }

    #[test]
    fn debug_shows_no_key() {
        let Leaf { certificate, key, .. } = leaf();
        let texts = read(json!({"tls.crt": certificate, "tls.key": key})).unwrap();
        assert!(format!("{:?}", texts.key).contains("<redacted>"));
    }
}
