//! A private key: what kind it is, and proof that it belongs to a certificate.
//!
//! A key that merely names the right public key proves nothing: a SEC1 or PKCS#8 document carries
//! the public key beside the private one, and the two may disagree. So the public key is computed
//! from the private part, and a signature made with it must verify under the certificate.

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{
        self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
        UnparsedPublicKey, VerificationAlgorithm,
    },
};
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use super::{
    der::{self, Element, Outline},
    refusal::{Field, Refusal},
};
use crate::{cert::entry::FoundKey, redacted::Redacted};

/// The key algorithms, by the contents of their object identifiers.
const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
const RSA_PSS: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";
const EC: &[u8] = b"\x2a\x86\x48\xce\x3d\x02\x01";
const ED25519: &[u8] = b"\x2b\x65\x70";

const P256: &[u8] = b"\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x2b\x81\x04\x00\x22";
const P521: &[u8] = b"\x2b\x81\x04\x00\x23";

/// What the proof signs. Its content does not matter: the signature never leaves this module.
const CHALLENGE: &[u8] = b"vault-aws-operator: this key belongs to this certificate";

/// A private key that can sign.
pub(super) struct PrivateKey<'a> {
    /// Where it came from.
    pub(super) field: &'a Field,
    /// The PEM label of its encoding, which is kept: `PRIVATE KEY`, `RSA PRIVATE KEY`, …
    pub(super) label: &'static str,
    /// The document as it was stored.
    stored: &'a Redacted<Vec<u8>>,
    /// What is delivered instead, where OpenSSL does not read what was stored.
    older: Option<Zeroizing<Vec<u8>>>,
    /// The public key, computed from the private part: DER of a `SubjectPublicKeyInfo`.
    pub(super) public: Vec<u8>,
    signer: Signer,
}

enum Signer {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair, Curve),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn public(&self) -> Option<Vec<u8>> {
        let public: Result<PublicKeyX509Der<'_>, _> = match self {
            Self::Rsa(pair) => pair.public_key().as_der(),
            Self::Ecdsa(pair, _) => pair.public_key().as_der(),
            Self::Ed25519(pair) => pair.public_key().as_der(),
        };
        public.ok().map(|public| public.as_ref().to_vec())
    }
}

#[derive(Clone, Copy)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P384 => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
            Self::P521 => &signature::ECDSA_P521_SHA512_ASN1_SIGNING,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_ASN1,
            Self::P384 => &signature::ECDSA_P384_SHA384_ASN1,
            Self::P521 => &signature::ECDSA_P521_SHA512_ASN1,
        }
    }
}

impl<'a> PrivateKey<'a> {
    /// Reads a key of any of the three encodings; others are refused by name.
    pub(super) fn parse(found: &'a FoundKey) -> Result<Self, Refusal> {
        let field = &found.field;
        let document = found.der.expose().as_slice();
        let refuse =
            |what: &str| Refusal::UnsupportedKey { field: field.clone(), found: what.into() };
        let broken = || Refusal::Malformed {
            field: field.clone(),
            problem: "holds a private key whose parts do not fit together: store it again",
        };
        let (label, signer) = match der::outline(document) {
            Outline::Pkcs8 { algorithm, inner } => {
                ("PRIVATE KEY", pkcs8(document, &algorithm, inner, &refuse)?)
            }
            Outline::Pkcs1 { modulus, multi_prime } => {
                check_rsa(modulus, multi_prime, &refuse)?;
                ("RSA PRIVATE KEY", RsaKeyPair::from_der(document).ok().map(Signer::Rsa))
            }
            Outline::Sec1 { parameters } => {
                let curve = curve(parameters, &refuse)?;
                let pair = EcdsaKeyPair::from_private_key_der(curve.signing(), document);
                ("EC PRIVATE KEY", pair.ok().map(|pair| Signer::Ecdsa(pair, curve)))
            }
            Outline::EncryptedPkcs8 => {
                return Err(Refusal::EncryptedKey { field: field.clone() });
            }
            Outline::Dsa => return Err(refuse("a DSA key")),
            Outline::Certificate | Outline::Pkcs7 | Outline::Pkcs12 | Outline::Unknown => {
                let problem =
                    "holds a private key that is not PKCS#8, PKCS#1 or SEC1: export it again";
                return Err(Refusal::Malformed { field: field.clone(), problem });
            }
        };
        let signer = signer.ok_or_else(broken)?;
        let public = signer.public().ok_or_else(broken)?;
        let older = version_one(document);
        Ok(Self { field, label, stored: &found.der, older, public, signer })
    }

    /// The document to deliver.
    pub(super) fn der(&self) -> &[u8] {
        self.older.as_ref().map_or(self.stored.expose(), |older| older)
    }

    /// Whether a certificate has this key: its whole `SubjectPublicKeyInfo`, as TLS libraries
    /// compare it.
    pub(super) fn is_of(&self, spki: &SubjectPublicKeyInfo<'_>) -> bool {
        spki.raw == self.public
    }

    /// Whether a signature made with this key verifies under the certificate's public key.
    pub(super) fn proves(&self, spki: &SubjectPublicKeyInfo<'_>) -> bool {
        let random = SystemRandom::new();
        let (signed, algorithm): (_, &dyn VerificationAlgorithm) = match &self.signer {
            Signer::Rsa(pair) => {
                let mut signed = vec![0; pair.public_modulus_len()];
                let made = pair.sign(&signature::RSA_PSS_SHA256, &random, CHALLENGE, &mut signed);
                (made.ok().map(|()| signed), &signature::RSA_PSS_2048_8192_SHA256)
            }
            Signer::Ecdsa(pair, curve) => {
                let made = pair.sign(&random, CHALLENGE).ok();
                (made.map(|signed| signed.as_ref().to_vec()), curve.verification())
            }
            Signer::Ed25519(pair) => {
                let made = pair.try_sign(CHALLENGE).ok();
                (made.map(|signed| signed.as_ref().to_vec()), &signature::ED25519)
            }
        };
        signed.is_some_and(|signed| {
            UnparsedPublicKey::new(algorithm, &*spki.subject_public_key.data)
                .verify(CHALLENGE, &signed)
                .is_ok()
        })
    }
}

/// A PKCS#8 document of the first version, made of one of the second (RFC 5958), which has the public key
/// beside the private one; `None` for any other document. OpenSSL 3 reads the first version only.
fn version_one(document: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let elements = der::children(der::only(document)?.body)?;
    let [version, algorithm, key, ..] = elements.as_slice() else { return None };
    let is_second = version.tag == der::INTEGER
        && version.body == [1]
        && algorithm.tag == der::SEQUENCE
        && key.tag == der::OCTET_STRING;
    if !is_second {
        return None;
    }
    let mut body = Zeroizing::new(der::element(der::INTEGER, &[0]));
    body.extend(der::element(der::SEQUENCE, algorithm.body));
    body.extend(Zeroizing::new(der::element(der::OCTET_STRING, key.body)).iter());
    Some(Zeroizing::new(der::element(der::SEQUENCE, &body)))
}

/// The signer of a PKCS#8 document; `None` if its algorithm is fine and its content is not.
fn pkcs8(
    document: &[u8],
    algorithm: &[Element<'_>],
    inner: &[u8],
    refuse: &dyn Fn(&str) -> Refusal,
) -> Result<Option<Signer>, Refusal> {
    match algorithm.first().map(|oid| oid.body) {
        Some(RSA) => {
            if let Outline::Pkcs1 { modulus, multi_prime } = der::outline(inner) {
                check_rsa(modulus, multi_prime, refuse)?;
            }
            Ok(RsaKeyPair::from_pkcs8(document).ok().map(Signer::Rsa))
        }
        Some(EC) => {
            let curve = curve(algorithm.get(1).copied(), refuse)?;
            let pair = EcdsaKeyPair::from_pkcs8(curve.signing(), document);
            Ok(pair.ok().map(|pair| Signer::Ecdsa(pair, curve)))
        }
        Some(ED25519) => {
            Ok(Ed25519KeyPair::from_pkcs8_maybe_unchecked(document).ok().map(Signer::Ed25519))
        }
        Some(RSA_PSS) => Err(refuse("a key restricted to RSA-PSS")),
        Some(b"\x2a\x86\x48\xce\x38\x04\x01") => Err(refuse("a DSA key")),
        Some(b"\x2a\x86\x48\x86\xf7\x0d\x01\x03\x01") => Err(refuse("a Diffie-Hellman key")),
        Some(b"\x2b\x65\x71") => Err(refuse("an Ed448 key")),
        Some(b"\x2b\x65\x6e") => Err(refuse("an X25519 key, which cannot sign")),
        Some(b"\x2b\x65\x6f") => Err(refuse("an X448 key, which cannot sign")),
        Some(b"\x60\x86\x48\x01\x65\x03\x04\x03\x11") => Err(refuse("an ML-DSA-44 key")),
        Some(b"\x60\x86\x48\x01\x65\x03\x04\x03\x12") => Err(refuse("an ML-DSA-65 key")),
        Some(b"\x60\x86\x48\x01\x65\x03\x04\x03\x13") => Err(refuse("an ML-DSA-87 key")),
        _ => Err(refuse("a key of an unknown algorithm")),
    }
}

/// Refuses what no TLS stack should be handed: small, huge and multi-prime RSA keys.
fn check_rsa(
    modulus: &[u8],
    multi_prime: bool,
    refuse: &dyn Fn(&str) -> Refusal,
) -> Result<(), Refusal> {
    if multi_prime {
        return Err(refuse("a multi-prime RSA key"));
    }
    let top = modulus.first().map_or(0, |octet| octet.leading_zeros() as usize);
    match modulus.len() * 8 - top {
        2048..=8192 => Ok(()),
        bits => Err(refuse(&format!("an RSA key of {bits} bits"))),
    }
}

/// The curve that EC parameters name.
fn curve(
    parameters: Option<Element<'_>>,
    refuse: &dyn Fn(&str) -> Refusal,
) -> Result<Curve, Refusal> {
    match parameters {
        Some(Element { tag: der::OID, body }) => match body {
            P256 => Ok(Curve::P256),
            P384 => Ok(Curve::P384),
            P521 => Ok(Curve::P521),
            b"\x2a\x86\x48\xce\x3d\x03\x01\x01" => Err(refuse("an EC key on P-192")),
            b"\x2b\x81\x04\x00\x21" => Err(refuse("an EC key on P-224")),
            b"\x2b\x81\x04\x00\x0a" => Err(refuse("an EC key on secp256k1")),
            b"\x2a\x81\x1c\xcf\x55\x01\x82\x2d" => Err(refuse("an EC key on SM2")),
            _ if body.starts_with(b"\x2b\x24\x03\x03\x02\x08\x01\x01") => {
                Err(refuse("an EC key on a Brainpool curve"))
            }
            _ => Err(refuse("an EC key on an unknown curve")),
        },
        Some(_) => Err(refuse("an EC key with explicit curve parameters")),
        None => Err(refuse("an EC key that does not name its curve")),
    }
}
