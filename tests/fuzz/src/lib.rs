//! The properties of `tests/properties`, for a fuzzer that is led by coverage.
//!
//! ```text
//! cargo install --locked cargo-fuzz
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz entry -- -max_total_time=300 -max_len=512
//! ```
//!
//! `entry` mutates entries, `pair` the certificate and the key in one, and `json` is what the bytes say.
//! Keys are made anew at each start; what a find depends on of them is printed with it.

#[path = "../../properties/mutation.rs"]
mod mutation;
#[path = "../../properties/property.rs"]
mod property;
#[path = "../../properties/stock.rs"]
mod stock;
#[path = "../../properties/tape.rs"]
mod tape;

/// A mutated entry.
pub fn entry(bytes: &[u8]) {
    property::entry(bytes);
}

/// A broken certificate or key.
pub fn pair(bytes: &[u8]) {
    property::pair(bytes);
}

/// Any JSON, and any text.
pub fn json(bytes: &[u8]) {
    property::json(bytes);
}
