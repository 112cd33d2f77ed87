//! A certificate and its key, checked as a whole before any of it may replace a Secret.
//!
//! A bad pair that reaches a workload takes it down, and the Secret that it replaced was good. So
//! there is no partly valid [`Pair`]: holding one is proof that its key signs for its leaf, that
//! each certificate signed the one before it, and that the clock, where it can be trusted, agrees.

mod certificate;
mod chain;
pub(in crate::cert) mod der;
mod key;
mod name;
pub(in crate::cert) mod pem;
mod refusal;

use jiff::{SignedDuration, Timestamp};

pub use self::refusal::{Field, Refusal};
use self::{certificate::Certificate, key::PrivateKey};
use crate::{
    cert::entry::{Place, Role, Texts},
    redacted::Redacted,
};

/// How far the issuer's clock may be ahead of ours.
const NOT_BEFORE_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// What time it is, if that can be said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Clock {
    /// Our clock, which agrees with Vault's.
    Trusted(Timestamp),
    /// Our clock and Vault's disagree: nothing is called expired or not yet valid.
    Suspended,
}

/// How strictly a pair is judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rules {
    /// The time, for `notBefore` and `notAfter` of the leaf and of the chain's intermediates.
    pub clock: Clock,
    /// Whether a CA certificate may be the leaf.
    pub allow_ca_leaf: bool,
}

/// A leaf, its key and its chain, fit to be delivered. The same entry always gives the same bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pair {
    /// The leaf's serial number: lower-case hexadecimal without colons or a leading zero byte.
    pub serial: String,
    /// SHA-256 of the leaf's DER, in lower-case hexadecimal.
    pub sha256: String,
    /// The leaf's issuer as RFC 4514 text, at most 256 bytes.
    pub issuer: String,
    /// The leaf's subject as RFC 4514 text, at most 256 bytes; may be empty.
    pub subject: String,
    /// The leaf's DNS names and IP addresses, in its order, at most 256 bytes each.
    pub dns_names: Vec<String>,
    /// The start of the leaf's validity.
    pub not_before: Timestamp,
    /// The end of the leaf's validity.
    pub not_after: Timestamp,
    /// The earliest `notAfter` of the leaf and the intermediates.
    pub chain_not_after: Timestamp,
    /// For `tls.crt`: PEM, leaf first, without the root.
    pub certificate_pem: String,
    /// For `tls.key`: PEM in the encoding that was stored (PKCS#8, PKCS#1 or SEC1), PKCS#8 in the version
    /// that every server reads.
    pub key_pem: Redacted<String>,
    /// For `ca.crt`: PEM of the CA fields' certificates that verify the chain, if there are any.
    pub ca_pem: Option<String>,
    /// Whether the entry holds the leaf's issuer, or the leaf needs none.
    pub has_issuer: bool,
    /// How many certificates were left out because the leaf does not lead to them.
    pub unrelated: usize,
    /// What was left out and why, one line of at most 256 bytes each.
    pub notes: Vec<String>,
}

/// Makes a pair of what an entry holds.
///
/// # Errors
/// The [`Refusal`] that says why the entry gives no pair.
pub fn parse(texts: &Texts, rules: &Rules) -> Result<Pair, Refusal> {
    let key = the_key(texts)?;
    let certificates =
        texts.certificates.iter().map(Certificate::parse).collect::<Result<Vec<_>, _>>()?;
    let leaf = the_leaf(&key, &certificates)?;
    check_leaf(leaf, rules)?;
    let served = chain::build(leaf, &certificates);
    if let Clock::Trusted(now) = rules.clock {
        check_time(&served, now)?;
    }

    let anchors: Vec<&Certificate<'_>> =
        certificates.iter().filter(|one| chain::anchors(one, &served)).collect();
    let (unrelated, notes) = left_out(&certificates, &served);
    Ok(Pair {
        serial: leaf.serial(),
        sha256: leaf.sha256(),
        issuer: leaf.issuer(),
        subject: leaf.subject(),
        dns_names: leaf.hosts(),
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        chain_not_after: served.iter().map(|one| one.not_after).min().unwrap_or(leaf.not_after),
        certificate_pem: bundle(&served),
        key_pem: Redacted::new(std::mem::take(&mut *pem::encode(key.label, key.der()))),
        ca_pem: (!anchors.is_empty()).then(|| bundle(&anchors)),
        has_issuer: leaf.is_root()
            || certificates
                .iter()
                .any(|one| one.is_ca && one.found != leaf.found && one.signed(leaf)),
        unrelated,
        notes,
    })
}

/// The entry's one private key; several documents are fine if they are of the same key.
fn the_key(texts: &Texts) -> Result<PrivateKey<'_>, Refusal> {
    let first = PrivateKey::parse(&texts.key)?;
    for other in &texts.other_keys {
        let other = PrivateKey::parse(other)?;
        if other.public != first.public {
            let (first, second) = (first.field.clone(), other.field.clone());
            return Err(Refusal::Ambiguous { what: "private keys", first, second });
        }
    }
    Ok(first)
}

/// The one certificate that the key signs for.
fn the_leaf<'c, 'a>(
    key: &PrivateKey<'_>,
    certificates: &'c [Certificate<'a>],
) -> Result<&'c Certificate<'a>, Refusal> {
    let ambiguous = |first: &Certificate<'_>, second: &Certificate<'_>| Refusal::Ambiguous {
        what: "leaf certificates",
        first: first.field().clone(),
        second: second.field().clone(),
    };
    let of_key = |certificate: &Certificate<'_>| {
        !certificate.is_only_trust() && key.is_of(certificate.x509.public_key())
    };
    let mut leaves = certificates.iter().filter(|one| of_key(one));
    let proven = leaves.next().filter(|leaf| key.proves(leaf.x509.public_key()));
    let Some(leaf) = proven else {
        let first = certificates.first().map_or(key.field, |one| one.field());
        let (key, certificate) = (key.field.clone(), first.clone());
        return Err(Refusal::KeyMismatch { key, certificate });
    };
    if let Some(other) = leaves.next() {
        return Err(ambiguous(leaf, other));
    }
    // A certificate field without the leaf, whose own first certificate is no CA, is about another
    // leaf: half of the entry was renewed.
    let contradicts = |one: &&Certificate<'_>| {
        let leads_another_field = |place: &Place| {
            place.role == Role::Certificate && place.is_first && !leaf.found.is_from(&place.field)
        };
        !one.is_marked_ca && one.found.places.iter().any(leads_another_field)
    };
    match certificates.iter().find(contradicts) {
        Some(other) => Err(ambiguous(leaf, other)),
        None => Ok(leaf),
    }
}

fn check_leaf(leaf: &Certificate<'_>, rules: &Rules) -> Result<(), Refusal> {
    let field = || leaf.field().clone();
    if let Some(algorithm) = leaf.weak_hash() {
        return Err(Refusal::WeakSignature { field: field(), algorithm });
    }
    if leaf.is_marked_ca && !rules.allow_ca_leaf {
        return Err(Refusal::CaLeaf { field: field() });
    }
    Ok(())
}

/// An expired intermediate is as bad as an expired leaf: clients refuse both.
fn check_time(served: &[&Certificate<'_>], now: Timestamp) -> Result<(), Refusal> {
    for (at, certificate) in served.iter().enumerate() {
        let what = if at == 0 { "leaf" } else { "intermediate" };
        let field = certificate.field().clone();
        if now > certificate.not_after {
            return Err(Refusal::Expired { what, field, not_after: certificate.not_after });
        }
        if certificate.not_before.duration_since(now) > NOT_BEFORE_TOLERANCE {
            return Err(Refusal::NotYetValid { what, field, not_before: certificate.not_before });
        }
    }
    Ok(())
}

/// How many certificates the leaf does not lead to, and a note on everything left out. The root
/// that the chain ends at is neither: it is expected in an entry, and expected not to be served.
fn left_out<'a>(
    certificates: &[Certificate<'a>],
    served: &[&Certificate<'a>],
) -> (usize, Vec<String>) {
    let mut unrelated = 0;
    let mut notes = Vec::new();
    for one in certificates {
        let is_served = served.iter().any(|other| other.found == one.found);
        let is_end = || one.is_root() && served.iter().any(|below| one.signed(below));
        let has_successor = || served.iter().any(|other| chain::is_same_ca(other, one));
        if one.is_in(Role::Ca) {
            if !chain::anchors(one, served) {
                let why = "not in ca.crt: it is not a CA certificate that verifies the chain";
                notes.push(note(one, Role::Ca, why));
            }
            unrelated += usize::from(!one.is_only_trust() && !is_served && !is_end());
        } else if is_served || is_end() {
            // Where it belongs.
        } else if has_successor() {
            let why = "left out: the chain has a certificate of the same CA that lasts longer";
            notes.push(note(one, Role::Chain, why));
        } else {
            unrelated += 1;
            let why = "left out: it is not in the chain of the leaf";
            notes.push(note(one, Role::Chain, why));
        }
    }
    (unrelated, notes)
}

/// A note on a certificate, with the field of that role that holds it, or else the first one.
fn note(certificate: &Certificate<'_>, role: Role, why: &str) -> String {
    let mut subject = certificate.subject();
    if subject.len() > 100 {
        subject.truncate(subject.floor_char_boundary(97));
        subject.push_str("...");
    }
    let places = &certificate.found.places;
    let place = places.iter().find(|place| place.role == role);
    let field = place.map_or(certificate.field(), |place| &place.field);
    format!("{subject} in field {field} {why}")
}

fn bundle(certificates: &[&Certificate<'_>]) -> String {
    certificates.iter().map(|one| pem::encode("CERTIFICATE", &one.found.der).to_string()).collect()
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
