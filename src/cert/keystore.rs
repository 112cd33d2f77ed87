//! PKCS#12 keystores, for programs that read nothing else.
//!
//! A keystore is encrypted with a random salt, so that the same input never gives the same bytes. A
//! keyed hash of the input is therefore kept beside it, and while that is the same the old bytes stay:
//! a Secret must not change where nothing did.

use aws_lc_rs::hmac;
use p12_keystore::{
    Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, PrivateKey,
    PrivateKeyChain,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::pair::{Pair, der};
use crate::{crd::KeystoreProfile, hex::hex, redacted::Redacted};

/// The key of a keystore in a Secret's data.
pub const KEY: &str = "keystore.p12";
/// The annotation with the hashes of a keystore's input and of its bytes.
pub const ANNOTATION: &str = "vaultaws.dev/keystore-hash";

/// Rounds of the key derivation, as in the JVM's default; OpenSSL's is 2,048.
const ROUNDS: u32 = 10_000;
/// What a keystore has besides certificates and key, at most.
const OVERHEAD: usize = 4096;

/// Why there is no keystore.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What a [`Pair`] never has.
    #[error("the certificate or the key cannot be read again")]
    Input,
    /// The keystore's encoder failed.
    #[error("encoding the keystore")]
    Encode(#[from] p12_keystore::error::Error),
}

/// What a keystore is made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recipe {
    /// Name of the one entry in it.
    alias: String,
    /// Leaf first, PEM.
    certificates: String,
    /// PEM.
    key: Redacted<String>,
    /// Not empty.
    password: Redacted<String>,
    profile: KeystoreProfile,
}

impl Recipe {
    /// For a pair; `password` is not empty.
    pub fn new(
        alias: &str,
        pair: &Pair,
        password: &Redacted<String>,
        profile: KeystoreProfile,
    ) -> Self {
        Self {
            alias: alias.to_owned(),
            certificates: pair.certificate_pem.clone(),
            key: pair.key_pem.clone(),
            password: password.clone(),
            profile,
        }
    }

    /// How large the keystore is at most; PEM is larger than what it encodes.
    pub fn size(&self) -> usize {
        self.certificates.len() + self.key.expose().len() + OVERHEAD
    }

    /// The annotation for a keystore of these bytes. Keyed with the password, over a text that holds
    /// the private key: whoever sees it can test no guess of either.
    pub fn annotation(&self, bytes: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.password.expose().as_bytes());
        let mut context = hmac::Context::with_key(&key);
        let profile = format!("{:?}", self.profile);
        let parts = [&profile, &self.alias, &self.certificates, self.key.expose()];
        for part in parts {
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
            context.update(&length.to_be_bytes());
            context.update(part.as_bytes());
        }
        format!("{}-{}", hex(context.sign().as_ref()), hex(&Sha256::digest(bytes)))
    }

    /// The keystore.
    ///
    /// # Errors
    /// Only where the pair is none.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let certificates: Vec<CertificateDer<'_>> =
            CertificateDer::pem_slice_iter(self.certificates.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|_| Error::Input)?;
        let leaf = certificates.first().ok_or(Error::Input)?;
        let key = pkcs8(self.key.expose(), leaf)?;
        let chain = certificates
            .iter()
            .map(|one| Certificate::from_der(one))
            .collect::<Result<Vec<_>, _>>()?;
        // Readers match key and leaf by this.
        let id = Sha256::digest(leaf).to_vec();
        let entry = PrivateKeyChain::new(id, PrivateKey::from_der(&key)?, chain);
        let mut store = KeyStore::new();
        store.add_entry(&self.alias, KeyStoreEntry::PrivateKeyChain(entry));
        let writer = store
            .writer(self.password.expose())
            .encryption_iterations(ROUNDS)
            .mac_iterations(ROUNDS);
        let writer = match self.profile {
            KeystoreProfile::Modern2023 => writer
                .encryption_algorithm(EncryptionAlgorithm::PbeWithHmacSha256AndAes256)
                .mac_algorithm(MacAlgorithm::HmacSha256),
            KeystoreProfile::LegacyDES => writer
                .encryption_algorithm(EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc)
                .mac_algorithm(MacAlgorithm::HmacSha1),
        };
        Ok(writer.write()?)
    }
}

/// The key as PKCS#8, the only form that a keystore holds. PKCS#1 and SEC1 documents lack what the
/// leaf says of its own key: the algorithm, and the curve (RFC 5958, RFC 5280).
fn pkcs8(pem: &str, leaf: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::Input)?;
    let inner = match &key {
        PrivateKeyDer::Pkcs8(key) => {
            return Ok(Zeroizing::new(key.secret_pkcs8_der().to_vec()));
        }
        PrivateKeyDer::Pkcs1(key) => key.secret_pkcs1_der(),
        PrivateKeyDer::Sec1(key) => key.secret_sec1_der(),
        _ => return Err(Error::Input),
    };
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| Error::Input)?;
    let public = der::only(leaf.public_key().raw).ok_or(Error::Input)?;
    let (algorithm, _) = der::first(public.body).ok_or(Error::Input)?;
    let mut body = Zeroizing::new(der::element(der::INTEGER, &[0]));
    body.extend(der::element(der::SEQUENCE, algorithm.body));
    body.extend(Zeroizing::new(der::element(der::OCTET_STRING, inner)).iter());
    Ok(Zeroizing::new(der::element(der::SEQUENCE, &body)))
}

#[cfg(test)]
mod tests {
    use p12_keystore::Pkcs12ImportPolicy;

    use super::*;
    use crate::cert::{
        entry::{self, Overrides},
        pair::{
            self, Clock, Rules,
            fixtures::{Authority, now, sec1},
        },
    };

    fn pair(key: fn(&str) -> String) -> Pair {
        let issuing = Authority::root("root").intermediate("issuing");
        let leaf = issuing.issue("web.example.com");
        let fields = serde_json::json!({
            "certificate": leaf.certificate, "private_key": key(&leaf.key),
            "chain": issuing.certificate(),
        });
        let rules = Rules { clock: Clock::Trusted(now()), allow_ca_leaf: false };
        let texts = entry::read(fields.as_object().unwrap(), &Overrides::default()).unwrap();
        pair::parse(&texts, &rules).unwrap()
    }

    fn recipe(pair: &Pair, password: &str, profile: KeystoreProfile) -> Recipe {
        Recipe::new("tls", pair, &Redacted::new(password.into()), profile)
    }

    #[test]
    fn what_was_written_reads_back_as_the_same_chain_and_key() {
        for profile in [KeystoreProfile::Modern2023, KeystoreProfile::LegacyDES] {
            let pair = pair(str::to_owned);
            let bytes = recipe(&pair, "secret", profile).encode().unwrap();
            let store =
                KeyStore::from_pkcs12(&bytes, "secret", Pkcs12ImportPolicy::Strict).unwrap();
            let (alias, chain) = store.private_key_chain().unwrap();
            assert_eq!(alias, "tls");
            let expected: Vec<Vec<u8>> =
                CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes())
                    .map(|one| one.unwrap().to_vec())
                    .collect();
            let found: Vec<Vec<u8>> =
                chain.certs().iter().map(|one| one.as_der().to_vec()).collect();
            assert_eq!(found, expected);
            assert_eq!(expected.len(), 2);
            let other = KeyStore::from_pkcs12(&bytes, "other", Pkcs12ImportPolicy::Strict);
            assert!(other.is_err());
        }
    }

    #[test]
    fn a_sec1_key_becomes_pkcs8_with_the_curve_of_the_leaf() {
        let pair = pair(sec1);
        assert!(pair.key_pem.expose().contains("EC PRIVATE KEY"));
        let bytes = recipe(&pair, "secret", KeystoreProfile::Modern2023).encode().unwrap();
        let store = KeyStore::from_pkcs12(&bytes, "secret", Pkcs12ImportPolicy::Strict).unwrap();
        let (_, chain) = store.private_key_chain().unwrap();
        assert!(matches!(der::outline(chain.key().as_der()), der::Outline::Pkcs8 { .. }));
    }

    #[test]
    fn the_salt_is_random_and_the_hash_is_not() {
        let pair = pair(str::to_owned);
        let one = recipe(&pair, "secret", KeystoreProfile::Modern2023);
        let (first, second) = (one.encode().unwrap(), one.encode().unwrap());
        assert_ne!(first, second);
        assert_eq!(one.annotation(&first), one.annotation(&first));
        assert_ne!(one.annotation(&first), one.annotation(&second));
        let input = |recipe: &Recipe| recipe.annotation(b"")[..64].to_owned();
        let password = recipe(&pair, "other", KeystoreProfile::Modern2023);
        let profile = recipe(&pair, "secret", KeystoreProfile::LegacyDES);
        assert!(input(&one) != input(&password) && input(&one) != input(&profile));
    }
}
