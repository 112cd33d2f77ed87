use proptest::prelude::*;
use rcgen::{
    BasicConstraints, DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
    PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData as _, SanType,
    SerialNumber, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Map, Value, json};

use super::{
    fixtures::{Authority, Leaf, now},
    *,
};
use crate::{
    cert::entry::{self, Overrides},
    fault::Fault as _,
};

fn rules() -> Rules {
    Rules { clock: Clock::Trusted(now()), allow_ca_leaf: false }
}

fn pair_under(fields: &Value, rules: &Rules) -> Result<Pair, Refusal> {
    let fields = fields.as_object().expect("an object");
    parse(&entry::read(fields, &Overrides::default())?, rules)
}

fn pair(fields: Value) -> Result<Pair, Refusal> {
    pair_under(&fields, &rules())
}

fn reason(fields: Value) -> &'static str {
    pair(fields).expect_err("a refusal").reason()
}

/// Root, intermediate and leaf.
fn three_tiers() -> (Authority, Authority, Leaf) {
    let root = Authority::root("Root");
    let intermediate = root.intermediate("Intermediate");
    let leaf = intermediate.issue("web.example.com");
    (root, intermediate, leaf)
}

#[test]
fn a_pair_tells_the_facts_of_its_leaf() {
    let root = Authority::root("Root");
    let leaf = root.issue_with("web.example.com", &KeyPair::generate().unwrap(), |params| {
        params.serial_number = Some(SerialNumber::from_slice(&[0xab, 0x00, 0x0c]));
        params.subject_alt_names.push(SanType::IpAddress("192.0.2.7".parse().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress("2001:db8::1".parse().unwrap()));
    });
    let pair = pair(json!({"tls.crt": leaf.certificate, "tls.key": leaf.key})).unwrap();
    assert_eq!(pair.serial, "ab000c");
    assert_eq!(pair.issuer, "CN=Root");
    assert_eq!(pair.subject, "CN=web.example.com");
    assert_eq!(pair.dns_names, ["web.example.com", "192.0.2.7", "2001:db8::1"]);
    assert_eq!(pair.not_before.to_string(), "2029-01-01T00:00:00Z");
    assert_eq!(pair.not_after.to_string(), "2031-01-01T00:00:00Z");
    assert_eq!(pair.chain_not_after, pair.not_after);
    assert_eq!(pair.sha256.len(), 64);
    assert_eq!(pair.certificate_pem, leaf.certificate.replace("\r\n", "\n"));
    assert_eq!(*pair.key_pem.expose(), leaf.key.replace("\r\n", "\n"));
    assert_eq!((pair.ca_pem, pair.unrelated, pair.notes), (None, 0, Vec::new()));
}

#[test]
fn keys_of_every_supported_kind_are_proven() {
    let root = Authority::root("Root");
    let kinds = [&PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P521_SHA512, &PKCS_ED25519, &PKCS_RSA_SHA256];
    for kind in kinds {
        let leaf = root.issue_with("x", &KeyPair::generate_for(kind).unwrap(), |_| ());
        let pair = pair(json!({"tls.crt": leaf.certificate, "tls.key": leaf.key})).unwrap();
        assert!(pair.key_pem.expose().starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert_eq!(verdict(&pair), Ok(()));
    }
}

#[test]
fn a_pkcs8_key_of_the_second_version_is_delivered_as_one_of_the_first() {
    let root = Authority::root("Root");
    // With its public key beside it: what OpenSSL 3 does not read.
    let leaf = root.issue_with("x", &KeyPair::generate_for(&PKCS_ED25519).unwrap(), |_| ());
    let delivered = pair(json!({"tls.crt": leaf.certificate, "tls.key": leaf.key})).unwrap();
    let key = PrivateKeyDer::from_pem_slice(delivered.key_pem.expose().as_bytes()).unwrap();
    let document = key.secret_der();
    assert_eq!(document[..16], *b"\x30\x2e\x02\x01\0\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20");
    assert_eq!(document.len(), 48);
    let again = json!({"tls.crt": leaf.certificate, "tls.key": delivered.key_pem.expose()});
    assert_eq!(pair(again).unwrap(), delivered);
}

#[test]
fn a_key_keeps_its_encoding() {
    let root = Authority::root("Root");
    let rsa = root.issue_with("x", &KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(), |_| ());
    let ec = root.issue("x");
    for (leaf, key) in [(&rsa, fixtures::pkcs1(&rsa.key)), (&ec, fixtures::sec1(&ec.key))] {
        let stored = pair(json!({"cert": leaf.certificate, "key": key})).unwrap();
        assert_eq!(*stored.key_pem.expose(), key);
        // The other encoding beside it is the same key, and the field that is believed first wins.
        let both = json!({"cert": leaf.certificate, "tls.key": key, "key": leaf.key});
        assert_eq!(pair(both).unwrap(), stored);
    }
}

#[test]
fn certbots_four_files_are_one_pair() {
    let (_, intermediate, leaf) = three_tiers();
    let chain = intermediate.certificate();
    let fullchain = format!("{}{chain}", leaf.certificate);
    let pair = pair(json!({
        "cert.pem": leaf.certificate, "chain.pem": chain, "fullchain.pem": fullchain,
        "privkey.pem": leaf.key,
    }))
    .unwrap();
    assert_eq!(pair.certificate_pem, fullchain.replace("\r\n", "\n"));
    assert_eq!((pair.ca_pem, pair.notes), (None, Vec::new()));
}

#[test]
fn the_answer_of_pki_issue_is_a_pair_with_its_ca() {
    let (root, intermediate, leaf) = three_tiers();
    let answer = json!({
        "certificate": leaf.certificate.trim_end(),
        "issuing_ca": intermediate.certificate().trim_end(),
        "ca_chain": [intermediate.certificate().trim_end(), root.certificate().trim_end()],
        "private_key": leaf.key.trim_end(), "private_key_type": "ec",
        "serial_number": "39:dd:2e", "expiration": 1_893_456_000,
    });
    let pair = pair(answer).unwrap();
    let served = format!("{}{}", leaf.certificate, intermediate.certificate());
    assert_eq!(pair.certificate_pem, served.replace("\r\n", "\n"));
    assert_eq!(pair.ca_pem, Some(intermediate.certificate().replace("\r\n", "\n")));
    assert_eq!(pair.notes, Vec::<String>::new());
}

#[test]
fn the_answer_of_a_root_pki_has_the_root_as_its_ca_only() {
    let root = Authority::root("Root");
    let leaf = root.issue("x");
    let pair = pair(json!({
        "certificate": leaf.certificate, "issuing_ca": root.certificate(),
        "ca_chain": [root.certificate()], "private_key": leaf.key,
    }))
    .unwrap();
    assert_eq!(pair.certificate_pem, leaf.certificate.replace("\r\n", "\n"));
    assert_eq!(pair.ca_pem, Some(root.certificate().replace("\r\n", "\n")));
    assert_eq!(pair.notes, Vec::<String>::new());
}

#[test]
fn a_chain_in_any_order_is_served_from_the_leaf_up_without_root_or_duplicates() {
    let root = Authority::root("Root");
    let upper = root.intermediate("Upper");
    let lower = upper.intermediate("Lower");
    let leaf = lower.issue("x");
    let expected = [&leaf.certificate, &lower.certificate(), &upper.certificate()];
    let expected = expected.map(|pem| pem.replace("\r\n", "\n")).concat();
    let parts =
        [root.certificate(), upper.certificate(), leaf.certificate.clone(), lower.certificate()];
    for turn in 0..4 {
        let mut parts = parts.clone();
        parts.rotate_left(turn);
        let text = format!("{}{}", parts.concat(), parts[0]);
        let pair = pair(json!({"tls.crt": text, "tls.key": leaf.key})).unwrap();
        assert_eq!(pair.certificate_pem, expected);
        assert_eq!((pair.ca_pem, pair.unrelated, pair.notes), (None, 0, Vec::new()));
    }
}

#[test]
fn a_ca_is_only_trusted_from_a_ca_field_and_if_it_verifies_the_chain() {
    let (root, intermediate, leaf) = three_tiers();
    let bundle = format!("{}{}", leaf.certificate, intermediate.certificate());
    let with =
        |ca: String| pair(json!({"tls.crt": bundle, "tls.key": leaf.key, "ca.crt": ca})).unwrap();
    let trusted = with(root.certificate());
    assert_eq!(trusted.ca_pem, Some(root.certificate().replace("\r\n", "\n")));
    assert_eq!(trusted.notes, Vec::<String>::new());
    // Same name, another key.
    let stranger = with(Authority::root("Root").certificate());
    assert_eq!(stranger.ca_pem, None);
    assert_eq!(stranger.unrelated, 0);
    assert!(stranger.notes[0].starts_with("CN=Root in field `ca.crt` not in ca.crt"));
    // Not a CA at all.
    assert_eq!(with(leaf.certificate.clone()).ca_pem, None);
}

#[test]
fn a_ca_has_to_have_signed_and_not_only_be_called_so() {
    // One name and one key identifier, two keys.
    let same = |params: &mut rcgen::CertificateParams| {
        params.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
    };
    let root = Authority::root("Root");
    let (issuer, stranger) =
        (root.intermediate_with("CA", same), root.intermediate_with("CA", same));
    let leaf = issuer.issue("x");
    let fields =
        json!({"tls.crt": leaf.certificate, "tls.key": leaf.key, "chain": stranger.certificate()});
    let pair = pair(fields).unwrap();
    assert_eq!(pair.certificate_pem.matches("BEGIN").count(), 1);
    assert_eq!(pair.unrelated, 1);
}

#[test]
fn a_ca_with_another_key_identifier_is_not_the_issuer() {
    let root = Authority::root("Root");
    let leaf = root.issue("x");
    let renamed = root.with_key_id(vec![7; 20]);
    let fields = json!({"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": renamed});
    assert_eq!(pair(fields).unwrap().ca_pem, None);
}

#[test]
fn unrelated_certificates_are_left_out_with_a_note() {
    let (_, intermediate, leaf) = three_tiers();
    let stranger = Authority::root("Stranger");
    let bundle = format!(
        "{}{}{}{}",
        leaf.certificate,
        intermediate.certificate(),
        stranger.certificate(),
        stranger.issue("other").certificate
    );
    let pair = pair(json!({"tls.crt": bundle, "tls.key": leaf.key})).unwrap();
    assert_eq!(pair.certificate_pem.matches("BEGIN").count(), 2);
    assert_eq!(pair.unrelated, 2);
    let expected = "CN=Stranger in field `tls.crt` left out: it is not in the chain of the leaf";
    assert_eq!(pair.notes[0], expected);
}

#[test]
fn a_certificate_that_may_not_sign_is_no_intermediate() {
    let root = Authority::root("Root");
    let no_ca = root.intermediate_with("No CA", |params| params.is_ca = IsCa::ExplicitNoCa);
    let no_usage = root.intermediate_with("No usage", |params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    for authority in [no_ca, no_usage] {
        let leaf = authority.issue("x");
        let bundle = format!("{}{}", leaf.certificate, authority.certificate());
        let pair = pair(json!({"tls.crt": bundle, "tls.key": leaf.key})).unwrap();
        assert_eq!(pair.certificate_pem, leaf.certificate.replace("\r\n", "\n"));
        assert_eq!(pair.unrelated, 1);
    }
}

#[test]
fn authorities_that_signed_each_other_end_the_chain() {
    let (one, two) = (Authority::root("One"), Authority::root("Two"));
    let leaf = one.issue("x");
    let bundle =
        format!("{}{}{}", leaf.certificate, one.cross_signed_by(&two), two.cross_signed_by(&one));
    let pair = pair(json!({"tls.crt": bundle, "tls.key": leaf.key})).unwrap();
    assert_eq!(pair.certificate_pem.matches("BEGIN").count(), 3);
}

#[test]
fn a_renewed_intermediate_is_served_instead_of_the_one_it_renews() {
    let (root, intermediate, leaf) = three_tiers();
    let (expired, renewed) =
        (intermediate.renewed_by(&root, 2029), intermediate.renewed_by(&root, 2041));
    for chain in [[&expired, &renewed], [&renewed, &expired]] {
        let fields = json!({"tls.crt": leaf.certificate, "tls.key": leaf.key, "chain": chain});
        let pair = pair(fields).unwrap();
        let expected = format!("{}{renewed}", leaf.certificate).replace("\r\n", "\n");
        assert_eq!(pair.certificate_pem, expected);
        assert_eq!(pair.unrelated, 0);
        assert!(pair.notes[0].ends_with("of the same CA that lasts longer"), "{:?}", pair.notes);
    }
}

#[test]
fn the_chain_ends_with_whichever_certificate_ends_first() {
    let (root, intermediate, leaf) = three_tiers();
    let chain = intermediate.renewed_by(&root, 2030);
    let pair = pair(json!({"tls.crt": leaf.certificate, "tls.key": leaf.key, "chain": chain}));
    assert_eq!(pair.unwrap().chain_not_after.to_string(), "2030-12-31T00:00:00Z");
}

#[test]
fn a_root_is_trusted_although_its_cross_signed_form_is_served() {
    let (root, older) = (Authority::root("Root"), Authority::root("Older"));
    let leaf = root.issue("x");
    let pair = pair(json!({
        "tls.crt": leaf.certificate, "tls.key": leaf.key, "chain": root.cross_signed_by(&older),
        "ca.crt": root.certificate(),
    }))
    .unwrap();
    assert_eq!(pair.certificate_pem.matches("BEGIN").count(), 2);
    assert_eq!(pair.ca_pem, Some(root.certificate().replace("\r\n", "\n")));
    assert_eq!(pair.notes, Vec::<String>::new());
}

#[test]
fn an_expired_leaf_is_refused_after_its_last_second() {
    let leaf = Authority::root("Root").issue("x");
    let fields = json!({"tls.crt": leaf.certificate, "tls.key": leaf.key});
    let at = |time: &str| {
        let clock = Clock::Trusted(time.parse().unwrap());
        pair_under(&fields, &Rules { clock, ..rules() }).map_err(|refusal| refusal.reason())
    };
    assert!(at("2031-01-01T00:00:00Z").is_ok());
    assert_eq!(at("2031-01-01T00:00:01Z"), Err("Expired"));
    assert!(at("2028-12-31T23:55:00Z").is_ok());
    assert_eq!(at("2028-12-31T23:54:59Z"), Err("NotYetValid"));
}

#[test]
fn an_expired_intermediate_is_as_bad_as_an_expired_leaf() {
    let root = Authority::root("Root");
    let intermediate =
        root.intermediate_with("Old", |params| params.not_after = date_time_ymd(2029, 6, 1));
    let leaf = intermediate.issue("x");
    let fields = json!({"tls.crt": leaf.certificate, "tls.key": leaf.key, "chain": intermediate.certificate()});
    let refusal = pair_under(&fields, &rules()).unwrap_err();
    assert_eq!(refusal.reason(), "Expired");
    let said = "the intermediate in field `chain` expired at 2029-06-01T00:00:00Z";
    assert!(refusal.to_string().starts_with(said), "{refusal}");
    // Left out of the chain, it does not count.
    assert!(pair(json!({"tls.crt": leaf.certificate, "tls.key": leaf.key})).is_ok());
}

#[test]
fn a_suspended_clock_judges_no_dates() {
    let root = Authority::root("Root");
    let key = KeyPair::generate().unwrap();
    let expired = root.issue_with("x", &key, |params| params.not_after = date_time_ymd(2029, 6, 1));
    let early = root.issue_with("x", &key, |params| params.not_before = date_time_ymd(2030, 6, 1));
    for leaf in [expired, early] {
        let fields = json!({"tls.crt": leaf.certificate, "tls.key": leaf.key});
        assert!(pair_under(&fields, &rules()).is_err());
        assert!(pair_under(&fields, &Rules { clock: Clock::Suspended, ..rules() }).is_ok());
    }
}

#[test]
fn a_certificate_without_an_end_ends_with_the_calendar() {
    let root = Authority::root("Root");
    let leaf = root.issue_with("x", &KeyPair::generate().unwrap(), |params| {
        params.not_after = date_time_ymd(9999, 12, 31) + std::time::Duration::from_secs(86_399);
    });
    let pair = pair(json!({"tls.crt": leaf.certificate, "tls.key": leaf.key})).unwrap();
    assert_eq!(pair.not_after, Timestamp::MAX);
}

#[test]
fn a_key_of_another_certificate_is_a_mismatch() {
    let root = Authority::root("Root");
    let (leaf, other) = (root.issue("x"), root.issue("x"));
    let refusal = pair(json!({"tls.crt": leaf.certificate, "tls.key": other.key})).unwrap_err();
    assert_eq!(refusal.reason(), "KeyMismatch");
    assert!(refusal.to_string().contains("`tls.key`") && refusal.to_string().contains("`tls.crt`"));
    // That the key's certificate is to be trusted does not make it the leaf.
    let fields =
        json!({"tls.crt": leaf.certificate, "tls.key": other.key, "ca.crt": other.certificate});
    assert_eq!(reason(fields), "KeyMismatch");
}

#[test]
fn a_leaf_whose_key_is_only_nearly_that_of_the_key_is_a_mismatch() {
    let leaf = Authority::root("Root").issue("x");
    let mut document = fixtures::der(&leaf.certificate);
    let curve = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    let at = document.windows(10).position(|window| window == curve).unwrap();
    document[at] = der::OCTET_STRING;
    let certificate = pem::encode("CERTIFICATE", &document);
    assert_eq!(reason(json!({"tls.crt": *certificate, "tls.key": leaf.key})), "KeyMismatch");
}

#[test]
fn a_key_that_claims_the_public_key_of_another_is_refused() {
    let root = Authority::root("Root");
    let (mine, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let leaf = root.issue_with("x", &theirs, |_| ());
    let mut document = mine.serialize_der();
    let at = document
        .windows(mine.der_bytes().len())
        .position(|window| window == mine.der_bytes())
        .expect("a PKCS#8 document that holds its public key");
    document[at..at + theirs.der_bytes().len()].copy_from_slice(theirs.der_bytes());
    let key = pem::encode("PRIVATE KEY", &document);
    assert_eq!(reason(json!({"tls.crt": leaf.certificate, "tls.key": *key})), "Malformed");
}

#[test]
fn two_leaves_of_one_key_are_ambiguous() {
    let root = Authority::root("Root");
    let key = KeyPair::generate().unwrap();
    let (one, two) = (root.issue_with("x", &key, |_| ()), root.issue_with("x", &key, |_| ()));
    let fields = json!({"tls.crt": one.certificate, "cert": two.certificate, "tls.key": one.key});
    let refusal = pair(fields).unwrap_err();
    assert_eq!(refusal.reason(), "Ambiguous");
    let said = "fields `tls.crt` and `cert` hold different leaf certificates";
    assert!(refusal.to_string().starts_with(said), "{refusal}");
    // In one field, neither of them can be meant more than the other.
    let both = format!("{}{}", one.certificate, two.certificate);
    let refusal = pair(json!({"tls.crt": both, "tls.key": one.key})).unwrap_err();
    assert_eq!(refusal.reason(), "Ambiguous");
    let said = "field `tls.crt` holds different leaf certificates";
    assert!(refusal.to_string().starts_with(said), "{refusal}");
}

#[test]
fn two_certificate_fields_about_different_leaves_are_ambiguous() {
    let root = Authority::root("Root");
    let (one, two) = (root.issue("x"), root.issue("x"));
    let fields =
        json!({"tls.crt": one.certificate, "cert.pem": two.certificate, "tls.key": two.key});
    let refusal = pair(fields).unwrap_err();
    assert_eq!(refusal.reason(), "Ambiguous");
    let text = refusal.to_string();
    assert!(text.contains("`tls.crt`") && text.contains("`cert.pem`"), "{text}");
}

#[test]
fn two_different_keys_are_ambiguous() {
    let root = Authority::root("Root");
    let (one, two) = (root.issue("x"), root.issue("x"));
    let fields = json!({"tls.crt": one.certificate, "tls.key": one.key, "privkey.pem": two.key});
    let refusal = pair(fields).unwrap_err();
    assert_eq!(refusal.reason(), "Ambiguous");
    let said = "fields `tls.key` and `privkey.pem` hold different private keys";
    assert!(refusal.to_string().starts_with(said), "{refusal}");
}

#[test]
fn a_ca_as_leaf_is_refused_unless_it_is_allowed() {
    let leaf = fixtures::self_signed("x", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let fields = json!({"tls.crt": leaf.certificate, "tls.key": leaf.key});
    assert_eq!(pair_under(&fields, &rules()).unwrap_err().reason(), "CaLeaf");
    let allowed = pair_under(&fields, &Rules { allow_ca_leaf: true, ..rules() }).unwrap();
    assert_eq!(allowed.certificate_pem, leaf.certificate.replace("\r\n", "\n"));
}

#[test]
fn a_self_signed_leaf_is_served_by_itself() {
    let leaf = fixtures::self_signed("x", |_| ());
    let fields =
        json!({"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": leaf.certificate});
    let pair = pair(fields).unwrap();
    assert_eq!(pair.certificate_pem, leaf.certificate.replace("\r\n", "\n"));
    assert_eq!((pair.ca_pem, pair.unrelated, pair.notes.len()), (None, 0, 1));
}

#[test]
fn a_leaf_signed_with_sha1_is_refused() {
    let root = Authority::root_of("Root", KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap());
    let leaf = root.issue("x");
    let mut document = fixtures::der(&leaf.certificate);
    let sha256_with_rsa = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b";
    for at in 0..document.len() - sha256_with_rsa.len() {
        if document[at..].starts_with(sha256_with_rsa) {
            document[at + 8] = 0x05;
        }
    }
    let certificate = pem::encode("CERTIFICATE", &document);
    let refusal = pair(json!({"tls.crt": *certificate, "tls.key": leaf.key})).unwrap_err();
    assert_eq!(refusal.reason(), "WeakSignature");
    assert!(refusal.to_string().contains("SHA-1"));
}

#[test]
fn a_certificate_with_two_signature_algorithms_is_malformed() {
    let root = Authority::root_of("Root", KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap());
    let leaf = root.issue("x");
    let mut document = fixtures::der(&leaf.certificate);
    let sha256_with_rsa = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b";
    let at = document.windows(9).position(|window| window == sha256_with_rsa).unwrap();
    document[at + 8] = 0x0c;
    let certificate = pem::encode("CERTIFICATE", &document);
    assert_eq!(reason(json!({"tls.crt": *certificate, "tls.key": leaf.key})), "Malformed");
}

#[test]
fn unsupported_keys_are_refused_by_name() {
    let leaf = Authority::root("Root").issue("x");
    let number: &[u8] = &[1; 127];
    let zero: &[u8] = &[0];
    let rsa = |version, modulus| {
        let mut parts = vec![(der::INTEGER, version), (der::INTEGER, modulus)];
        parts.extend([(der::INTEGER, number); 7]);
        fixtures::sequence(&parts)
    };
    let pkcs8 = |oid: &[u8], parameters: &[u8]| {
        let mut algorithm = fixtures::element(der::OID, oid);
        algorithm.extend(parameters);
        fixtures::sequence(&[
            (der::INTEGER, zero),
            (der::SEQUENCE, &algorithm),
            (der::OCTET_STRING, number),
        ])
    };
    let ec = b"\x2a\x86\x48\xce\x3d\x02\x01";
    let secp256k1 = fixtures::element(der::OID, b"\x2b\x81\x04\x00\x0a");
    let explicit = fixtures::sequence(&[]);
    let cases = [
        (rsa(zero, &[0x7f; 128]), "an RSA key of 1023 bits"),
        (rsa(&[1], &[0x7f; 256]), "a multi-prime RSA key"),
        (fixtures::sequence(&[(der::INTEGER, number); 6]), "a DSA key"),
        (pkcs8(b"\x2a\x86\x48\xce\x38\x04\x01", &[]), "a DSA key"),
        (pkcs8(b"\x2b\x65\x71", &[]), "an Ed448 key"),
        (pkcs8(b"\x2a\x03", &[]), "a key of an unknown algorithm"),
        (pkcs8(ec, &secp256k1), "an EC key on secp256k1"),
        (pkcs8(ec, &explicit), "an EC key with explicit curve parameters"),
        (pkcs8(ec, &[]), "an EC key that does not name its curve"),
    ];
    for (document, said) in cases {
        let key = pem::encode("PRIVATE KEY", &document);
        let refusal = pair(json!({"tls.crt": leaf.certificate, "tls.key": *key})).unwrap_err();
        assert_eq!(refusal.reason(), "UnsupportedKey", "{refusal}");
        assert!(refusal.to_string().contains(said), "{refusal}");
    }
}

#[test]
fn names_are_shown_without_what_could_mislead() {
    let leaf = fixtures::self_signed("x", |params| {
        params.distinguished_name.push(DnType::OrganizationName, "A, \"B\"\n\u{202e}C");
    });
    let pair = pair(json!({"tls.crt": leaf.certificate, "tls.key": leaf.key})).unwrap();
    assert_eq!(pair.subject, r#"O=A\, \"B\"\0a\e2\80\aeC,CN=x"#);
    let leaf = fixtures::self_signed("x", |params| {
        params.distinguished_name.push(DnType::OrganizationName, "\u{1f512}".repeat(999));
    });
    let pair = super::tests::pair(json!({"tls.crt": leaf.certificate, "tls.key": leaf.key}));
    assert!(pair.unwrap().subject.len() <= 256);
}

#[test]
fn a_delivered_pair_read_again_is_the_same_pair() {
    let (root, intermediate, leaf) = three_tiers();
    let fields = json!({
        "cert": format!("{}{}", root.certificate(), leaf.certificate), "key": leaf.key,
        "chain": intermediate.certificate(), "ca.crt": root.certificate(),
    });
    let first = pair(fields).unwrap();
    let again = pair(json!({
        "tls.crt": first.certificate_pem, "tls.key": first.key_pem.expose(), "ca.crt": first.ca_pem,
    }));
    assert_eq!(again.unwrap(), first);
}

/// What a TLS library says to the pair.
fn verdict(pair: &Pair) -> Result<(), rustls::Error> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.expose().as_bytes()).expect("a key");
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a signing key");
    rustls::sign::CertifiedKey::new(certificates.expect("PEM"), key).keys_match()
}

/// A field, the label of its PEM and the bytes in it.
type Part = (&'static str, &'static str, Vec<u8>);

/// An entry of every kind of field, and the bytes of its parts.
fn whole_entry() -> (Map<String, Value>, Vec<Part>) {
    let (root, intermediate, leaf) = three_tiers();
    let parts = vec![
        ("tls.crt", "CERTIFICATE", fixtures::der(&leaf.certificate)),
        ("tls.key", "PRIVATE KEY", fixtures::der(&leaf.key)),
        ("key", "EC PRIVATE KEY", fixtures::der(&fixtures::sec1(&leaf.key))),
        ("chain", "CERTIFICATE", fixtures::der(&intermediate.certificate())),
        ("ca.crt", "CERTIFICATE", fixtures::der(&root.certificate())),
    ];
    let fields = parts
        .iter()
        .map(|(name, label, der)| (name.to_string(), json!(*pem::encode(label, der))))
        .collect();
    (fields, parts)
}

/// Judges a hostile entry: whatever it says, a pair is a pair, twice the same, and a refusal is
/// short.
fn judge(fields: Map<String, Value>) {
    let fields = Value::Object(fields);
    for rules in [rules(), Rules { clock: Clock::Suspended, allow_ca_leaf: true }] {
        let first = pair_under(&fields, &rules);
        assert_eq!(pair_under(&fields, &rules), first);
        match first {
            // A leaf with a changed byte may be one that rustls cannot parse, but never another's.
            Ok(pair) => match verdict(&pair) {
                Ok(()) | Err(rustls::Error::InvalidCertificate(_)) => {}
                Err(error) => panic!("{error}"),
            },
            Err(refusal) => assert!(refusal.to_string().len() <= 256, "{refusal}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_in_any_field_is_a_pair_or_a_refusal(
        name in prop::sample::select(vec!["tls.crt", "tls.key", "chain", "ca.crt", "key"]),
        text in prop_oneof![
            any::<String>(),
            "(-----(BEGIN|END) [A-Z ]{0,20}-----|[A-Za-z0-9+/=:]{0,70}|\\PC{0,9}|[\r\n]{1,2}){0,12}",
        ],
        replaces in any::<bool>(),
    ) {
        let (mut fields, _) = whole_entry();
        let old = if replaces { "" } else { fields[name].as_str().unwrap() };
        fields.insert(name.to_owned(), json!(format!("{old}{text}")));
        judge(fields);
    }

    #[test]
    fn any_bytes_as_der_are_a_pair_or_a_refusal(
        part in 0usize..5,
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        labelled in any::<bool>(),
    ) {
        use base64::Engine as _;
        let (mut fields, parts) = whole_entry();
        let (name, label, _) = &parts[part];
        let value = if labelled {
            pem::encode(label, &bytes).to_string()
        } else {
            pem::BASE64.encode(&bytes)
        };
        fields.insert((*name).to_owned(), json!(value));
        judge(fields);
    }

    #[test]
    fn a_few_changed_bytes_never_make_a_wrong_pair(
        part in 0usize..5,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        alone in any::<bool>(),
    ) {
        let (mut fields, mut parts) = whole_entry();
        let (name, label, document) = &mut parts[part];
        for (at, byte) in changes {
            let at = at.index(document.len());
            document[at] = byte;
        }
        if let Some(cut) = cut {
            document.truncate(cut.index(document.len()));
        }
        // Without the second encoding of the key, the first one is judged by itself.
        if alone {
            fields.remove(if *name == "key" { "tls.key" } else { "key" });
        }
        fields.insert((*name).to_owned(), json!(*pem::encode(label, document)));
        judge(fields);
    }
}
