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

use std::io::Write as _;

use proptest::{
    collection::vec,
    prelude::any,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

const SEED: u64 = 20_261_121;
const CASES: u64 = 1500;

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
fn what_is_not_mutated_is_delivered() {
    for sample in 0..stock::SAMPLES {
        for form in 0..mutation::FORMS {
            for encoding in 0..3 {
                // The tape: sample, form, encoding of the key, then no mutation.
                let outcome = property::outcome(&[sample, form, encoding, 0]);
                assert_eq!(outcome, Ok(()), "sample {sample}, form {form}, encoding {encoding}");
            }
        }
    }
}
