//! Which of an entry's certificates lead from the leaf upwards, and which may be trusted.
//!
//! Nothing is fetched and nothing is guessed: a certificate is in the chain because its key
//! verifiably signed the one below it.

use super::certificate::Certificate;
use crate::cert::entry::Role;

/// The certificates that are served, leaf first, as positions in the entry's certificates.
///
/// A root never is one, unless it is the leaf itself: a client has it already, or must not get its
/// trust from the server. Where two certificates of one CA fit, the one that lasts longest is
/// taken, so that a renewed intermediate stored beside the old one does not let the pair expire.
pub(super) fn build(leaf: usize, certificates: &[Certificate<'_>]) -> Vec<usize> {
    let mut chain = vec![leaf];
    let mut top = &certificates[leaf];
    while !top.is_root() {
        let next = certificates
            .iter()
            .enumerate()
            .filter(|(at, candidate)| {
                candidate.is_ca
                    && !chain
                        .iter()
                        .any(|&below| is_same_ca(&certificates[below], candidate))
                    && !chain.contains(at)
                    && candidate.signed(top)
                    && !candidate.is_root()
            })
            .max_by_key(|(_, candidate)| (candidate.not_after, &candidate.found.der));
        let Some((at, certificate)) = next else { break };
        chain.push(at);
        top = certificate;
    }
    chain
}

/// Whether two certificates are of one name and key: cross-signed CAs could lead round in a circle.
fn is_same_ca(one: &Certificate<'_>, other: &Certificate<'_>) -> bool {
    one.x509.subject().as_raw() == other.x509.subject().as_raw()
        && one.x509.public_key().raw == other.x509.public_key().raw
}

/// Whether a certificate may go to `ca.crt`: a CA that a CA field holds, and that either signed the
/// chain's top or is itself a CA of the chain (`issuing_ca` of Vault's PKI engine is an
/// intermediate, and trusting it verifies the leaf as well).
pub(super) fn anchors(at: usize, chain: &[usize], certificates: &[Certificate<'_>]) -> bool {
    let certificate = &certificates[at];
    let signed_top = || {
        chain
            .last()
            .is_some_and(|&top| certificate.signed(&certificates[top]))
    };
    certificate.is_in(Role::Ca) && certificate.is_ca && (chain[1..].contains(&at) || signed_top())
}
