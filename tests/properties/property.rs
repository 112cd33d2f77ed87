//! What has to hold, checked by other code than that which is under test: rustls loads the key and
//! derives its public half, which has to be that of the leaf.

use std::{collections::BTreeSet, fmt::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use vault_aws_operator::cert::{
    entry::{self, Overrides},
    pair::{self, Clock, Pair, Refusal, Rules},
};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer as _, x509::SubjectPublicKeyInfo,
};

use crate::{
    mutation::{self, patch},
    stock::{pem, samples},
    tape::Tape,
};

/// Time is no matter here: another test's.
const RULES: Rules = Rules { clock: Clock::Suspended, allow_ca_leaf: true };

/// An entry, mutated as the bytes say.
pub(crate) fn entry(bytes: &[u8]) {
    let _ = outcome(bytes);
}

/// The same, and what it gives.
pub(crate) fn outcome(bytes: &[u8]) -> Result<Pair, String> {
    let (fields, overrides) = mutation::entry(&mut Tape::new(bytes));
    holds(&fields, &overrides).map_err(|refusal| refusal.to_string())
}

/// A certificate or a key that is broken, or nothing of the kind, beside a whole one.
pub(crate) fn pair(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let samples = samples();
    let sample = &samples[tape.below(samples.len())];
    let (label, key) = &sample.keys[tape.below(sample.keys.len())];
    let (mut leaf, mut key) = (sample.leaf.clone(), key.clone());
    let mut chain = sample.intermediate.clone();
    match tape.below(6) {
        0 => patch(&mut leaf, &mut tape),
        1 => patch(&mut key, &mut tape),
        2 => patch(&mut chain, &mut tape),
        3 => leaf = tape.rest().to_vec(),
        4 => key = tape.rest().to_vec(),
        _ => {
            patch(&mut leaf, &mut tape);
            patch(&mut key, &mut tape);
            patch(&mut chain, &mut tape);
        }
    }
    let chain = pem("CERTIFICATE", &chain);
    let fields = json!({
        "certificate": STANDARD.encode(&leaf),
        "private_key": pem(label, &key),
        "ca_chain": [chain],
        "issuing_ca": chain,
    });
    let _ = holds(fields.as_object().unwrap_or(&Map::new()), &Overrides::default());
}

/// The bytes themselves as JSON, else as the text of fields.
pub(crate) fn json(bytes: &[u8]) {
    let fields = match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => fields,
        _ => {
            let text = String::from_utf8_lossy(bytes);
            let (first, second) = text.split_at(text.floor_char_boundary(text.len() / 2));
            let fields = json!({"certificate": first, "private_key": second, "ca_chain": text});
            fields.as_object().cloned().unwrap_or_default()
        }
    };
    let _ = holds(&fields, &Overrides::default());
}

/// Reads an entry as the syncer does, and panics unless what comes of it is as it has to be.
fn holds(fields: &Map<String, Value>, overrides: &Overrides) -> Result<Pair, Refusal> {
    let read = || entry::read(fields, overrides).and_then(|texts| pair::parse(&texts, &RULES));
    match read() {
        Ok(pair) => {
            fits(&pair);
            assert_eq!(read().as_ref(), Ok(&pair), "the same entry gives the same bytes");
            Ok(pair)
        }
        Err(refusal) => {
            let said = refusal.to_string();
            assert!(said.len() <= 256, "{said}");
            assert!(said.chars().all(|c| (' '..='~').contains(&c)), "{said:?}");
            // Nothing of what was refused is told: no run of it that is longer than a field's name.
            for secret in samples().iter().flat_map(|sample| &sample.keys) {
                let secret = STANDARD.encode(&secret.1);
                let mut parts = secret.as_bytes().chunks(16).filter_map(|p| str::from_utf8(p).ok());
                assert!(!parts.any(|part| part.len() == 16 && said.contains(part)), "it is told");
            }
            Err(refusal)
        }
    }
}

/// What a Secret is made of: a server loads it, and it is read back as it was written.
fn fits(pair: &Pair) {
    let chain: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes())
            .map(|one| one.expect("tls.crt is PEM"))
            .collect();
    assert!((1..=10).contains(&chain.len()), "{} certificates", chain.len());
    let key = pair.key_pem.expose();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("tls.key is a key");
    let key = any_supported_type(&key).expect("a server loads the key");
    let public = key.public_key().expect("its public half");
    let (_, public) = SubjectPublicKeyInfo::from_der(&public).expect("a public key");

    let certificates: Vec<X509Certificate<'_>> = chain
        .iter()
        .map(|der| X509Certificate::from_der(der).expect("tls.crt holds certificates").1)
        .collect();
    let leaf = &certificates[0];
    let held = leaf.public_key();
    assert!(
        held.subject_public_key.data == public.subject_public_key.data,
        "the key is not that of the leaf"
    );
    assert_eq!(hex(&Sha256::digest(&chain[0])), pair.sha256);
    for (below, above) in certificates.iter().zip(&certificates[1..]) {
        assert_eq!(below.issuer().as_raw(), above.subject().as_raw(), "the chain is in order");
        assert!(above.is_ca(), "who signs is a CA");
    }
    for note in &pair.notes {
        assert!(note.len() <= 256 && !note.contains(char::is_control), "{note:?}");
    }

    let mut fields = json!({"tls.crt": pair.certificate_pem, "tls.key": pair.key_pem.expose()});
    if let Some(ca) = &pair.ca_pem {
        fields["ca.crt"] = json!(ca);
    }
    let fields = fields.as_object().expect("an object");
    let again = entry::read(fields, &Overrides::default())
        .and_then(|texts| pair::parse(&texts, &RULES))
        .expect("what was written is a pair");
    assert!(again.certificate_pem == pair.certificate_pem, "the chain was written differently");
    assert!(again.key_pem == pair.key_pem, "the key was written differently");
    // In the order of their fields, which is no matter.
    assert!(trusted(&again) == trusted(pair), "others are trusted");
}

/// The certificates of `ca.crt`, in an order of their own.
fn trusted(pair: &Pair) -> BTreeSet<&str> {
    pair.ca_pem.iter().flat_map(|ca| ca.split_inclusive("-----END CERTIFICATE-----\n")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
