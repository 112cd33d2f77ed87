//! Certificates for tests: an authority of one's own, and leaves of every kind and age.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize, SerialNumber, date_time_ymd,
};

use crate::leaks;

/// In seconds.
pub(crate) const DAY: i64 = 24 * 3600;

/// A kind of key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// RSA with 2048 bits.
    Rsa,
    /// The curve of most certificates.
    P256,
    /// The next.
    P384,
    /// The largest.
    P521,
    /// Edwards.
    Ed25519,
}

/// One that signs: a root, or an intermediate with all above it.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Own certificate first, then those above, as PEM.
    chain: Vec<String>,
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Issued {
    /// The leaf, PEM.
    pub(crate) certificate: String,
    /// Its key, PKCS#8 PEM.
    pub(crate) key: String,
    /// The intermediates from the leaf's issuer upward, PEM, without the root; often none.
    pub(crate) intermediates: Vec<String>,
    /// The root, PEM.
    pub(crate) root: String,
    /// Serial number, hexadecimal, lower case.
    pub(crate) serial: String,
}

impl Issued {
    /// What a Secret's `tls.crt` is to hold: the leaf and its intermediates.
    pub(crate) fn full_chain(&self) -> String {
        let rest: String = self.intermediates.concat();
        format!("{}{rest}", self.certificate)
    }

    /// The key's DER.
    pub(crate) fn key_der(&self) -> Vec<u8> {
        der(&self.key)
    }

    /// The leaf's DER.
    pub(crate) fn certificate_der(&self) -> Vec<u8> {
        der(&self.certificate)
    }
}

impl Authority {
    /// A root of that name.
    pub(crate) fn new(name: &str) -> Self {
        let key = key(Kind::P256);
        let params = ca_params(name);
        let certificate = params.self_signed(&key).expect("a root certificate");
        Self { chain: vec![certificate.pem()], issuer: Issuer::new(params, key) }
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = key(Kind::P256);
        let params = ca_params(name);
        let certificate = params.signed_by(&key, &self.issuer).expect("an intermediate");
        let chain = std::iter::once(certificate.pem()).chain(self.chain.iter().cloned()).collect();
        Self { chain, issuer: Issuer::new(params, key) }
    }

    /// The same with a certificate almost as large as one may be.
    pub(crate) fn large_intermediate(&self, name: &str) -> Self {
        let key = key(Kind::P256);
        let mut params = ca_params(name);
        // Of an arc for examples; nobody has to understand it.
        let ballast = CustomExtension::from_oid_content(&[2, 999, 1], vec![0x04; 26_000]);
        params.custom_extensions.push(ballast);
        let certificate = params.signed_by(&key, &self.issuer).expect("an intermediate");
        let chain = std::iter::once(certificate.pem()).chain(self.chain.iter().cloned()).collect();
        Self { chain, issuer: Issuer::new(params, key) }
    }

    /// A server certificate for a host, P-256, good for 90 days, to be changed before it is issued.
    pub(crate) fn leaf(&self, host: &str) -> Leaf<'_> {
        Leaf {
            authority: self,
            hosts: vec![host.to_owned()],
            kind: Kind::P256,
            from: -3600,
            until: 90 * DAY,
            is_ca: false,
        }
    }

    /// The same, issued.
    pub(crate) fn issue(&self, host: &str) -> Issued {
        self.leaf(host).issue()
    }

    /// Its own certificate, PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.chain[0]
    }
}

/// A certificate to be issued.
pub(crate) struct Leaf<'a> {
    authority: &'a Authority,
    hosts: Vec<String>,
    kind: Kind,
    /// Seconds from now.
    from: i64,
    until: i64,
    is_ca: bool,
}

impl Leaf<'_> {
    /// With a key of this kind.
    pub(crate) fn key(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Valid from so many seconds from now; negative is past.
    pub(crate) fn valid_from(mut self, seconds: i64) -> Self {
        self.from = seconds;
        self
    }

    /// Valid until so many seconds from now; negative is past.
    pub(crate) fn valid_until(mut self, seconds: i64) -> Self {
        self.until = seconds;
        self
    }

    /// Ended yesterday.
    pub(crate) fn expired(self) -> Self {
        self.valid_from(-30 * DAY).valid_until(-DAY)
    }

    /// A CA certificate where a leaf belongs.
    pub(crate) fn with_ca_flag(mut self) -> Self {
        self.is_ca = true;
        self
    }

    /// Signs it. The key is a secret that may appear nowhere.
    pub(crate) fn issue(self) -> Issued {
        let key = key(self.kind);
        let serial = serial();
        let mut params = CertificateParams::new(self.hosts.clone()).expect("host names");
        params.distinguished_name.push(DnType::CommonName, self.hosts[0].clone());
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        validity(&mut params, self.from, self.until);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.is_ca =
            if self.is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        let certificate = params.signed_by(&key, &self.authority.issuer).expect("a leaf");
        let pem = key.serialize_pem();
        leaks::plant_pem("private key", &pem);
        let (root, intermediates) = self.authority.chain.split_last().expect("a root");
        Issued {
            certificate: certificate.pem(),
            key: pem,
            intermediates: intermediates.to_vec(),
            root: root.clone(),
            serial: serial.iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            }),
        }
    }
}

/// The DER within a PEM text of one block.
pub(crate) fn der(pem: &str) -> Vec<u8> {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(base64).expect("PEM holds base64")
}

/// A PEM block.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

/// The inner key of a PKCS#8 key, as PEM: PKCS#1 (`RSA PRIVATE KEY`) or SEC1 (`EC PRIVATE KEY`), the
/// latter without the curve; see [`sec1`].
///
/// PKCS#8 is `SEQUENCE { INTEGER version, SEQUENCE algorithm, OCTET STRING key, … }` (RFC 5208).
pub(crate) fn traditional(label: &str, pkcs8: &str) -> String {
    let der = der(pkcs8);
    let (_, sequence, _) = element(&der);
    let (_, _, rest) = element(sequence);
    let (_, _, rest) = element(rest);
    let (tag, inner, _) = element(rest);
    assert_eq!(tag, 0x04, "an OCTET STRING holds the key");
    let text = pem(label, inner);
    leaks::plant_pem("private key", &text);
    text
}

/// The SEC1 form with the curve named, as OpenSSL writes it (RFC 5915).
pub(crate) fn sec1(issued: &Issued) -> String {
    let pkcs8 = issued.key_der();
    let (_, sequence, _) = element(&pkcs8);
    let (_, _, rest) = element(sequence);
    // AlgorithmIdentifier { id-ecPublicKey, curve }
    let (_, algorithm, rest) = element(rest);
    let (_, _, curve) = element(algorithm);
    let (_, inner, _) = element(rest);
    // ECPrivateKey { version, privateKey, [0] curve, [1] publicKey }
    let (_, fields, _) = element(inner);
    let (_, _, after_version) = element(fields);
    let (_, _, after_key) = element(after_version);
    let head = &fields[..fields.len() - after_key.len()];
    let parameters = wrap(0xa0, curve);
    let public =
        after_key.iter().position(|byte| *byte == 0xa1).map_or(&[][..], |at| &after_key[at..]);
    let key = wrap(0x30, &[head, &parameters, public].concat());
    let text = pem("EC PRIVATE KEY", &key);
    leaks::plant_pem("private key", &text);
    text
}

/// A PKCS#8 key of the second version, with its public key (RFC 5958), in the first, which is the one that
/// openssl reads; any other as it is.
pub(crate) fn pkcs8(issued: &Issued) -> String {
    let key = issued.key_der();
    let (_, sequence, _) = element(&key);
    let (_, version, rest) = element(sequence);
    if version == [0] {
        return issued.key.clone();
    }
    let (_, algorithm, rest) = element(rest);
    let (_, inner, _) = element(rest);
    let parts = [wrap(0x02, &[0]), wrap(0x30, algorithm), wrap(0x04, inner)].concat();
    let text = pem("PRIVATE KEY", &wrap(0x30, &parts));
    leaks::plant_pem("private key", &text);
    text
}

/// Tag, content and what follows of the first DER element.
fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let first = usize::from(der[1]);
    let (length, header) = if first < 0x80 {
        (first, 2)
    } else {
        let bytes = first & 0x7f;
        let length = der[2..2 + bytes].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (length, 2 + bytes)
    };
    (der[0], &der[header..header + length], &der[header + length..])
}

/// A DER element of less than 64 KiB.
fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    let [high, low] = u16::try_from(content.len()).expect("a small element").to_be_bytes();
    match (high, low) {
        (0, 0..0x80) => der.push(low),
        (0, _) => der.extend([0x81, low]),
        _ => der.extend([0x82, high, low]),
    }
    der.extend(content);
    der
}

fn key(kind: Kind) -> KeyPair {
    match kind {
        Kind::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        Kind::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        Kind::P384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        Kind::P521 => KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512),
        Kind::Ed25519 => KeyPair::generate_for(&PKCS_ED25519),
    }
    .expect("a key")
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&serial()));
    validity(&mut params, -365 * DAY, 3650 * DAY);
    params
}

/// Nobody gets the same one twice; the first byte keeps it positive and eight bytes long.
fn serial() -> [u8; 8] {
    static NEXT: AtomicU64 = AtomicU64::new(0x4a00_0000_0000_0001);
    NEXT.fetch_add(0x0001_0000_0001_0003, Ordering::Relaxed).to_be_bytes()
}

/// Both in seconds from now; negative is past.
fn validity(params: &mut CertificateParams, from: i64, until: i64) {
    let now = now_seconds();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs((now + from).unsigned_abs());
    params.not_after = epoch + Duration::from_secs((now + until).unsigned_abs());
}

#[expect(clippy::disallowed_methods, reason = "certificates are made for the servers' own clocks")]
fn now_seconds() -> i64 {
    Timestamp::now().as_second()
}
