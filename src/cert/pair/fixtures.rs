//! A small PKI for tests: authorities that issue, and the encodings that people store.

use base64::Engine as _;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::{der, pem};

/// What time it is in tests: leaves are valid from 2029 to 2031, authorities from 2020 to 2040.
pub(crate) fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().expect("a timestamp")
}

/// A CA with its key.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    certificate: Certificate,
}

/// What was issued: PEM of the certificate and of its PKCS#8 key.
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// A root, signed by itself.
    pub(crate) fn root(name: &str) -> Self {
        Self::root_of(name, KeyPair::generate().expect("a key"))
    }

    /// A root with this key.
    pub(crate) fn root_of(name: &str, key: KeyPair) -> Self {
        let params = ca_params(name);
        let certificate = params.self_signed(&key).expect("a root");
        Self { params, key, certificate }
    }

    /// A CA below this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        self.intermediate_with(name, |_| ())
    }

    /// A CA below this one that differs from the usual.
    pub(crate) fn intermediate_with(&self, name: &str, change: fn(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = ca_params(name);
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer()).expect("an intermediate");
        Self { params, key, certificate }
    }

    /// A certificate of this authority's name and key, signed by another one.
    pub(crate) fn cross_signed_by(&self, other: &Self) -> String {
        self.params.signed_by(&self.key, &other.issuer()).expect("a cross-signed CA").pem()
    }

    /// Its certificate, issued again to end with this year.
    pub(crate) fn renewed_by(&self, other: &Self, year: i32) -> String {
        let mut params = self.params.clone();
        params.not_after = date_time_ymd(year, 12, 31);
        params.signed_by(&self.key, &other.issuer()).expect("a renewed CA").pem()
    }

    /// Its root certificate with another key identifier.
    pub(crate) fn with_key_id(&self, id: Vec<u8>) -> String {
        let mut params = self.params.clone();
        params.key_identifier_method = KeyIdMethod::PreSpecified(id);
        params.self_signed(&self.key).expect("a root").pem()
    }

    /// A leaf with a P-256 key.
    pub(crate) fn issue(&self, host: &str) -> Leaf {
        self.issue_with(host, &KeyPair::generate().expect("a key"), |_| ())
    }

    /// A leaf with this key that differs from the usual.
    pub(crate) fn issue_with(
        &self,
        host: &str,
        key: &KeyPair,
        change: fn(&mut CertificateParams),
    ) -> Leaf {
        let mut params = leaf_params(host);
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer()).expect("a leaf");
        Leaf { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// PEM of its certificate.
    pub(crate) fn certificate(&self) -> String {
        self.certificate.pem()
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

/// A leaf that signed itself.
pub(crate) fn self_signed(host: &str, change: fn(&mut CertificateParams)) -> Leaf {
    let key = KeyPair::generate().expect("a key");
    let mut params = leaf_params(host);
    change(&mut params);
    let certificate = params.self_signed(&key).expect("a leaf");
    Leaf { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params
}

fn leaf_params(host: &str) -> CertificateParams {
    let mut params = CertificateParams::new([host.to_owned()]).expect("a host name");
    params.distinguished_name.push(DnType::CommonName, host);
    params.not_before = date_time_ymd(2029, 1, 1);
    params.not_after = date_time_ymd(2031, 1, 1);
    params
}

/// The bytes of a one-block PEM text.
pub(crate) fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).expect("base64")
}

/// The PKCS#1 form of a PKCS#8 RSA key.
pub(crate) fn pkcs1(key: &str) -> String {
    pem::encode("RSA PRIVATE KEY", &inner(key)).to_string()
}

/// The SEC1 form of a PKCS#8 EC key, which unlike the inner document names its curve.
pub(crate) fn sec1(key: &str) -> String {
    let document = der(key);
    let der::Outline::Pkcs8 { algorithm, .. } = der::outline(&document) else {
        panic!("not PKCS#8")
    };
    let curve = element(der::OID, algorithm[1].body);
    let inner = inner(key);
    let parts = der::children(der::only(&inner).expect("DER").body).expect("DER");
    let mut body = element(parts[0].tag, parts[0].body);
    body.extend(element(parts[1].tag, parts[1].body));
    body.extend(element(der::CONTEXT_0, &curve));
    for part in parts[2..].iter().filter(|part| part.tag != der::CONTEXT_0) {
        body.extend(element(part.tag, part.body));
    }
    pem::encode("EC PRIVATE KEY", &element(der::SEQUENCE, &body)).to_string()
}

/// The document inside a PKCS#8 key.
fn inner(key: &str) -> Vec<u8> {
    match der::outline(&der(key)) {
        der::Outline::Pkcs8 { inner, .. } => inner.to_vec(),
        _ => panic!("not PKCS#8"),
    }
}

/// A DER sequence of elements.
pub(crate) fn sequence(parts: &[(u8, &[u8])]) -> Vec<u8> {
    let body: Vec<u8> = parts.iter().flat_map(|(tag, body)| element(*tag, body)).collect();
    element(der::SEQUENCE, &body)
}

/// A DER element.
pub(crate) fn element(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let octets = length.to_be_bytes();
    let mut element = match length {
        0..=0x7f => vec![tag, octets[octets.len() - 1]],
        _ => [&[tag, 0x82][..], &octets[octets.len() - 2..]].concat(),
    };
    element.extend(body);
    element
}
