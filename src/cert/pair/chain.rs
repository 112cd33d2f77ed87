//! Which of an entry's certificates lead from the leaf upwards, and which may be trusted.
//!
//! Nothing is fetched and nothing is guessed: a certificate is in the chain because its key
//! verifiably signed the one below it.

use super::certificate::Certificate;
use crate::cert::entry::Role;

/// The certificates that are served, leaf first.
///
/// A root never is one, unless it is the leaf itself: a client has it already, or must not get its
/// trust from the server. Where two certificates of one CA fit, the one that lasts longest is
/// taken, so that a renewed intermediate stored beside the old one does not let the pair expire.
pub(super) fn build<'c, 'a>(
    leaf: &'c Certificate<'a>,
    certificates: &'c [Certificate<'a>],
) -> Vec<&'c Certificate<'a>> {
    let mut served = vec![leaf];
    let mut top = leaf;
    while !top.is_root() {
        let next = certificates
            .iter()
            .filter(|one| {
                one.is_ca
                    && !served.iter().any(|below| is_same_ca(below, one))
                    && one.signed(top)
                    && !one.is_root()
            })
            .max_by_key(|one| (one.not_after, &one.found.der));
        let Some(next) = next else { break };
        served.push(next);
        top = next;
    }
    served
}

/// Whether two certificates are of one name and key: cross-signed CAs could lead round in a circle.
pub(super) fn is_same_ca(one: &Certificate<'_>, other: &Certificate<'_>) -> bool {
    one.x509.subject().as_raw() == other.x509.subject().as_raw()
        && one.x509.public_key().raw == other.x509.public_key().raw
}

/// Whether a certificate may go to `ca.crt`: a CA that a CA field holds and that verifies the chain.
///
/// Mostly it signed the chain's top. It may as well be a CA of the chain itself, since trusting it
/// verifies the leaf too: `issuing_ca` of Vault's PKI engine is an intermediate. And it may be the
/// self-signed form of a root whose cross-signed form is the chain's top.
pub(super) fn anchors<'a>(certificate: &Certificate<'a>, served: &[&Certificate<'a>]) -> bool {
    certificate.is_in(Role::Ca)
        && certificate.is_ca
        && served.iter().any(|below| certificate.signed(below))
}
