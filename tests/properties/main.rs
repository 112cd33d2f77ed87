//! What holds for every entry, whatever lies in it: properties that are tried on mutated entries, from a
//! seed that is printed. The fuzz targets of `tests/fuzz` try the same properties on inputs that are
//! led by coverage.
//!
//! ```text
//! cargo test --test properties
//! VAULT_AWS_SEED=7 VAULT_AWS_CASES=100000 cargo test --test properties
//! ```

mod mutation;
mod property;
mod stock;
mod tape;

use std::{
    io::Write as _,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use proptest::{
    collection::vec,
    prelude::any,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};
use vault_aws_operator::cert::pair::Pair;

const SEED: u64 = 20_261_121;
const CASES: u64 = 1500;
/// How many pairs openssl is asked about.
const PROGRAMS: u32 = 40;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Tries a property on random bytes, and on fewer and smaller ones once it failed.
fn holds(name: &str, longest: usize, property: fn(&[u8])) {
    let seed = number("VAULT_AWS_SEED", SEED);
    let cases = u32::try_from(number("VAULT_AWS_CASES", CASES)).expect("fewer cases");
    let _ = writeln!(std::io::stderr(), "{name}: seed {seed}, {cases} cases");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new_with_rng(config, rng).run(&vec(any::<u8>(), 0..longest), |data| {
        property(&data);
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, data)) => panic!("seed {seed}: {why}; the bytes: {data:?}"),
        Err(error) => panic!("seed {seed}: {error}"),
    }
}

#[test]
fn a_mutated_entry_never_panics_and_gives_a_pair_that_fits_or_none() {
    holds("entry", 120, property::entry);
}

#[test]
fn a_broken_certificate_or_key_never_panics_and_gives_a_pair_that_fits_or_none() {
    holds("pair", 300, property::pair);
}

#[test]
fn any_json_is_read_or_refused() {
    holds("json", 400, property::json);
}

#[test]
fn what_a_mutated_entry_gives_is_read_by_openssl() {
    static READ: AtomicU32 = AtomicU32::new(0);
    holds("openssl", 40, |bytes| {
        // A program each time: as many as are enough to see each kind of key and form.
        if READ.load(Ordering::Relaxed) < PROGRAMS
            && let Ok(pair) = property::outcome(bytes)
        {
            READ.fetch_add(1, Ordering::Relaxed);
            openssl_reads(&pair, "a mutated entry");
        }
    });
    assert!(READ.load(Ordering::Relaxed) > PROGRAMS / 2, "too few are delivered");
}

/// Another reader finds the same chain, and the key that is the leaf's.
fn openssl_reads(pair: &Pair, what: &str) {
    let chain = openssl(&["storeutl", "-certs", "/dev/stdin"], &pair.certificate_pem);
    assert!(blocks(&chain) == blocks(&pair.certificate_pem), "{what}: another chain");
    let held = openssl(&["x509", "-pubkey", "-noout"], &pair.certificate_pem);
    let public = openssl(&["pkey", "-pubout"], pair.key_pem.expose());
    assert!(blocks(&held) == blocks(&public), "{what}: another key");
}

/// The PEM blocks of a text, without what stands between them.
fn blocks(text: &str) -> Vec<String> {
    let parts = text.split("-----BEGIN ").skip(1);
    parts.map(|part| part.split("-----END ").next().unwrap_or_default().to_owned()).collect()
}

/// What openssl says of this input.
fn openssl(args: &[&str], input: &str) -> String {
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("openssl reads");
    let output = child.wait_with_output().expect("openssl ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {}: {told}", args.join(" "));
    String::from_utf8(output.stdout).expect("openssl prints text")
}

#[test]
fn what_is_not_mutated_is_delivered_and_read_by_openssl() {
    for sample in 0..stock::SAMPLES {
        for form in 0..mutation::FORMS {
            for encoding in 0..3 {
                // The tape: sample, form, encoding of the key, then no mutation.
                let outcome = property::outcome(&[sample, form, encoding, 0]);
                let what = format!("sample {sample}, form {form}, encoding {encoding}");
                let pair = outcome.unwrap_or_else(|said| panic!("{what}: {said}"));
                // Every form gives the same bytes.
                if form == 0 {
                    openssl_reads(&pair, &what);
                }
            }
        }
    }
}
