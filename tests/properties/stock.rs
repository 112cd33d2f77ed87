//! Valid pairs to begin with: every kind of key, with an intermediate and a root, made once.

use std::sync::OnceLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};

/// How many there are.
pub(crate) const SAMPLES: u8 = 6;

/// A leaf, its key and what is above it.
pub(crate) struct Sample {
    pub(crate) leaf: Vec<u8>,
    /// PEM label and DER in each encoding that its kind has, PKCS#8 first.
    pub(crate) keys: Vec<(&'static str, Vec<u8>)>,
    pub(crate) intermediate: Vec<u8>,
    pub(crate) root: Vec<u8>,
}

/// All of them. The last is a CA certificate.
pub(crate) fn samples() -> &'static [Sample] {
    static STOCK: OnceLock<Vec<Sample>> = OnceLock::new();
    STOCK.get_or_init(|| {
        let kinds: [&SignatureAlgorithm; 5] = [
            &PKCS_ECDSA_P256_SHA256,
            &PKCS_RSA_SHA256,
            &PKCS_ECDSA_P384_SHA384,
            &PKCS_ECDSA_P521_SHA512,
            &PKCS_ED25519,
        ];
        let mut all: Vec<Sample> = kinds.iter().map(|kind| sample(kind, false)).collect();
        all.push(sample(&PKCS_ECDSA_P256_SHA256, true));
        assert_eq!(all.len(), usize::from(SAMPLES));
        all
    })
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.use_authority_key_identifier_extension = true;
    params
}

fn sample(kind: &'static SignatureAlgorithm, is_ca: bool) -> Sample {
    let key = || KeyPair::generate().expect("a key");
    let (root_key, middle_key) = (key(), key());
    let root_params = ca("Property root");
    let root = root_params.self_signed(&root_key).expect("a root");
    let root_issuer = Issuer::new(root_params, root_key);
    let middle_params = ca("Property issuing CA");
    let middle = middle_params.signed_by(&middle_key, &root_issuer).expect("an intermediate");
    let middle_issuer = Issuer::new(middle_params, middle_key);
    let mut params = if is_ca {
        ca("Property leaf")
    } else {
        let names = vec!["web.example.com".to_owned(), "192.0.2.7".to_owned()];
        CertificateParams::new(names).expect("names")
    };
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(kind).expect("a key");
    let leaf = params.signed_by(&key, &middle_issuer).expect("a leaf");
    Sample {
        leaf: leaf.der().to_vec(),
        keys: encodings(key.serialize_der()),
        intermediate: middle.der().to_vec(),
        root: root.der().to_vec(),
    }
}

/// PKCS#8 and, where the kind has one, its older form: PKCS#1 or SEC1 with the curve (RFC 5915).
///
/// PKCS#8 is `SEQUENCE { INTEGER version, SEQUENCE { OID kind, … }, OCTET STRING key, … }` (RFC 5208).
fn encodings(pkcs8: Vec<u8>) -> Vec<(&'static str, Vec<u8>)> {
    let (_, fields, _) = element(&pkcs8);
    let (_, _, rest) = element(fields);
    let (_, algorithm, rest) = element(rest);
    let (_, inner, _) = element(rest);
    let (_, kind, curve) = element(algorithm);
    let older = match kind {
        // 1.2.840.113549.1.1.1, rsaEncryption
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01] => {
            Some(("RSA PRIVATE KEY", inner.to_vec()))
        }
        // 1.2.840.10045.2.1, id-ecPublicKey
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01] => {
            // ECPrivateKey { version, privateKey, [0] curve, [1] publicKey }
            let (_, parts, _) = element(inner);
            let (_, _, after_version) = element(parts);
            let (_, _, after_key) = element(after_version);
            let head = &parts[..parts.len() - after_key.len()];
            let body = [head, &encoded(0xa0, curve), after_key].concat();
            Some(("EC PRIVATE KEY", encoded(0x30, &body)))
        }
        _ => None,
    };
    std::iter::once(("PRIVATE KEY", pkcs8.clone())).chain(older).collect()
}

/// Tag and content of the first element, and what follows it.
fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (length, header) = match der[1] {
        short @ 0..=0x7f => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7f);
            let bytes = &der[2..2 + count];
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), 2 + count)
        }
    };
    (der[0], &der[header..header + length], &der[header + length..])
}

fn encoded(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut der = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => der.push(short),
        Ok(byte) => der.extend([0x81, byte]),
        Err(_) => {
            der.push(0x82);
            der.extend(u16::try_from(length).expect("a small key").to_be_bytes());
        }
    }
    der.extend(content);
    der
}

/// A PEM block as tools write it.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: String = text
        .as_bytes()
        .chunks(64)
        .map(|line| format!("{}\n", String::from_utf8_lossy(line)))
        .collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}
