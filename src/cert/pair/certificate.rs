//! One X.509 certificate: its facts, and whether another one signed it.

use std::{cell::RefCell, ptr};

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use x509_parser::{
    certificate::X509Certificate,
    extensions::ParsedExtension,
    oid_registry::{self, Oid},
    prelude::FromDer as _,
    signature_algorithm::RsaSsaPssParams,
    time::ASN1Time,
};

use super::{
    name,
    refusal::{Field, Refusal},
};
use crate::{
    cert::entry::{FoundCertificate, Role},
    hex::hex,
};

/// A parsed certificate, which borrows from the entry's.
pub(super) struct Certificate<'a> {
    /// Where it came from.
    pub(super) found: &'a FoundCertificate,
    /// The parsed form.
    pub(super) x509: X509Certificate<'a>,
    /// The start of its validity.
    pub(super) not_before: Timestamp,
    /// The end of its validity; one beyond the calendar's end is the calendar's end.
    pub(super) not_after: Timestamp,
    /// Whether it may sign certificates.
    pub(super) is_ca: bool,
    /// Whether it says to be a CA, allowed to sign or not.
    pub(super) is_marked_ca: bool,
    key_id: Option<&'a [u8]>,
    issuer_key_id: Option<&'a [u8]>,
    /// Whose keys its signature was checked with, and what came of it: several questions ask it, and the
    /// check is the dearest part of an answer.
    checked: RefCell<Vec<(&'a FoundCertificate, Option<bool>)>>,
}

impl<'a> Certificate<'a> {
    /// Parses a certificate; every byte has to belong to it.
    pub(super) fn parse(found: &'a FoundCertificate) -> Result<Self, Refusal> {
        let malformed = |problem| Refusal::Malformed { field: found.field().clone(), problem };
        let broken = || malformed("holds a certificate that cannot be parsed: store it again");
        let (rest, x509) = X509Certificate::from_der(&found.der).map_err(|_| broken())?;
        if !rest.is_empty() || x509.tbs_certificate.signature != x509.signature_algorithm {
            return Err(broken());
        }
        // What the decisions below rest on has to be readable and unambiguous.
        let usage = x509.key_usage().map_err(|_| broken())?;
        let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
        x509.subject_alternative_name().map_err(|_| broken())?;
        let is_marked_ca = match extension(&x509, &oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS)
            .map_err(|()| broken())?
        {
            None => false,
            Some(ParsedExtension::BasicConstraints(constraints)) => constraints.ca,
            Some(_) => return Err(broken()),
        };
        let key_id = match extension(&x509, &oid_registry::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER)
            .map_err(|()| broken())?
        {
            Some(ParsedExtension::SubjectKeyIdentifier(id)) => Some(id.0),
            _ => None,
        };
        let issuer_key_id =
            match extension(&x509, &oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER)
                .map_err(|()| broken())?
            {
                Some(ParsedExtension::AuthorityKeyIdentifier(id)) => {
                    id.key_identifier.as_ref().map(|id| id.0)
                }
                _ => None,
            };
        let validity = x509.validity();
        let (not_before, not_after) = (instant(validity.not_before), instant(validity.not_after));
        Ok(Self {
            found,
            not_before,
            not_after,
            is_ca: is_marked_ca && may_sign,
            is_marked_ca,
            key_id,
            issuer_key_id,
            checked: RefCell::default(),
            x509,
        })
    }

    /// The field that it is called by in messages.
    pub(super) fn field(&self) -> &'a Field {
        self.found.field()
    }

    /// Whether a field of this role holds it.
    pub(super) fn is_in(&self, role: Role) -> bool {
        self.found.is_in(role)
    }

    /// Whether only CA fields hold it: then it is about trust, and is never a leaf.
    pub(super) fn is_only_trust(&self) -> bool {
        self.found.places.iter().all(|place| place.role == Role::Ca)
    }

    /// Whether this certificate's key signed `other`, by names, key identifiers and signature.
    pub(super) fn signed(&self, other: &Self) -> bool {
        self.is_named_as_issuer_of(other) && self.verifies(other) == Some(true)
    }

    /// Whether it is its own issuer. Where the signature's algorithm is too old to be checked, its
    /// names and key identifiers decide.
    pub(super) fn is_root(&self) -> bool {
        self.is_named_as_issuer_of(self) && self.verifies(self).unwrap_or(true)
    }

    fn is_named_as_issuer_of(&self, other: &Self) -> bool {
        let same_key = match (self.key_id, other.issuer_key_id) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => true,
        };
        same_key && self.x509.subject().as_raw() == other.x509.issuer().as_raw()
    }

    /// Whether the signature on `other` verifies; `None` if its algorithm is not known.
    fn verifies(&self, other: &Self) -> Option<bool> {
        let is_mine = |(by, _): &&(&FoundCertificate, _)| ptr::eq(*by, self.found);
        let known = other.checked.borrow().iter().find(is_mine).map(|(_, result)| *result);
        known.unwrap_or_else(|| {
            let result = self.check(other);
            other.checked.borrow_mut().push((self.found, result));
            result
        })
    }

    fn check(&self, other: &Self) -> Option<bool> {
        let algorithm = self.algorithm_for(other)?;
        let key = &*self.x509.public_key().subject_public_key.data;
        let signed = other.x509.tbs_certificate.as_ref();
        let signature = &*other.x509.signature_value.data;
        Some(UnparsedPublicKey::new(algorithm, key).verify(signed, signature).is_ok())
    }

    /// The algorithm with which this certificate's key would have signed `other`.
    ///
    /// SHA-1 is here so that an old root is recognised as one; the leaf's own signature has passed
    /// [`Certificate::weak_hash`] before.
    fn algorithm_for(&self, other: &Self) -> Option<&'static dyn VerificationAlgorithm> {
        let signature = &other.x509.signature_algorithm;
        let curve = self.x509.public_key().algorithm.parameters.as_ref();
        let curve = curve.and_then(|parameters| parameters.as_oid().ok());
        let on = |oid: &Oid<'_>| curve.as_ref() == Some(oid);
        let p256 = on(&oid_registry::OID_EC_P256);
        let p384 = on(&oid_registry::OID_NIST_EC_P384);
        let p521 = on(&oid_registry::OID_NIST_EC_P521);
        let oid = &signature.algorithm;
        Some(if *oid == oid_registry::OID_PKCS1_SHA256WITHRSA {
            &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY
        } else if *oid == oid_registry::OID_PKCS1_SHA384WITHRSA {
            &signature::RSA_PKCS1_2048_8192_SHA384
        } else if *oid == oid_registry::OID_PKCS1_SHA512WITHRSA {
            &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY
        } else if *oid == oid_registry::OID_PKCS1_SHA1WITHRSA
            || *oid == oid_registry::OID_SHA1_WITH_RSA
        {
            &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY
        } else if *oid == oid_registry::OID_PKCS1_RSASSAPSS {
            let parameters = RsaSsaPssParams::try_from(signature.parameters.as_ref()?).ok()?;
            let hash = parameters.hash_algorithm_oid();
            if *hash == oid_registry::OID_NIST_HASH_SHA256 {
                &signature::RSA_PSS_2048_8192_SHA256
            } else if *hash == oid_registry::OID_NIST_HASH_SHA384 {
                &signature::RSA_PSS_2048_8192_SHA384
            } else if *hash == oid_registry::OID_NIST_HASH_SHA512 {
                &signature::RSA_PSS_2048_8192_SHA512
            } else {
                return None;
            }
        } else if *oid == oid_registry::OID_SIG_ECDSA_WITH_SHA256 {
            match (p256, p384, p521) {
                (true, _, _) => &signature::ECDSA_P256_SHA256_ASN1,
                (_, true, _) => &signature::ECDSA_P384_SHA256_ASN1,
                (_, _, true) => &signature::ECDSA_P521_SHA256_ASN1,
                _ => return None,
            }
        } else if *oid == oid_registry::OID_SIG_ECDSA_WITH_SHA384 {
            match (p256, p384, p521) {
                (true, _, _) => &signature::ECDSA_P256_SHA384_ASN1,
                (_, true, _) => &signature::ECDSA_P384_SHA384_ASN1,
                (_, _, true) => &signature::ECDSA_P521_SHA384_ASN1,
                _ => return None,
            }
        } else if *oid == oid_registry::OID_SIG_ECDSA_WITH_SHA512 {
            match (p256, p384, p521) {
                (true, _, _) => &signature::ECDSA_P256_SHA512_ASN1,
                (_, true, _) => &signature::ECDSA_P384_SHA512_ASN1,
                (_, _, true) => &signature::ECDSA_P521_SHA512_ASN1,
                _ => return None,
            }
        } else if *oid == oid_registry::OID_SIG_ED25519 {
            &signature::ED25519
        } else {
            return None;
        })
    }

    /// The broken hash that this certificate is signed with, if it is.
    pub(super) fn weak_hash(&self) -> Option<&'static str> {
        let signature = &self.x509.signature_algorithm;
        match signature.algorithm.as_bytes() {
            b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x02" => Some("MD2"),
            b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x03" => Some("MD4"),
            b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04" | b"\x2b\x0e\x03\x02\x03" => Some("MD5"),
            // With RSA (PKCS#1 and the older OIW identifier), ECDSA and DSA.
            b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05"
            | b"\x2b\x0e\x03\x02\x1d"
            | b"\x2a\x86\x48\xce\x3d\x04\x01"
            | b"\x2a\x86\x48\xce\x38\x04\x03" => Some("SHA-1"),
            b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a" => {
                let parameters = signature.parameters.as_ref();
                let parameters = parameters.and_then(|any| RsaSsaPssParams::try_from(any).ok());
                // RFC 4055: parameters that name no hash mean SHA-1.
                parameters
                    .is_none_or(|pss| {
                        pss.hash_algorithm_oid().as_bytes() == b"\x2b\x0e\x03\x02\x1a"
                    })
                    .then_some("SHA-1")
            }
            _ => None,
        }
    }

    /// The serial number: lower-case hexadecimal, whole bytes, no colons, no leading zero byte.
    pub(super) fn serial(&self) -> String {
        let octets = self.x509.raw_serial();
        let zeros = octets.iter().take_while(|octet| **octet == 0).count();
        hex(&octets[zeros.min(octets.len().saturating_sub(1))..])
    }

    /// SHA-256 of the DER, in lower-case hexadecimal.
    pub(super) fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.found.der))
    }

    /// Who it is for.
    pub(super) fn subject(&self) -> String {
        name::distinguished(self.x509.subject())
    }

    /// Who signed it.
    pub(super) fn issuer(&self) -> String {
        name::distinguished(self.x509.issuer())
    }

    /// The DNS names and IP addresses of its subject alternative names, in its order.
    pub(super) fn hosts(&self) -> Vec<String> {
        let names = self.x509.subject_alternative_name().ok().flatten();
        names.map_or_else(Vec::new, |names| {
            names.value.general_names.iter().filter_map(name::host).collect()
        })
    }
}

/// The extension with this identifier; an error if there are two, or if it cannot be read.
fn extension<'x, 'a>(
    x509: &'x X509Certificate<'a>,
    oid: &Oid<'_>,
) -> Result<Option<&'x ParsedExtension<'a>>, ()> {
    match x509.get_extension_unique(oid).map_err(|_| ())? {
        None => Ok(None),
        Some(extension) => match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => Err(()),
            parsed => Ok(Some(parsed)),
        },
    }
}

/// RFC 5280's "no expiration date" (the last second of 9999) is hours past what a timestamp holds.
fn instant(time: ASN1Time) -> Timestamp {
    Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::MAX)
}
