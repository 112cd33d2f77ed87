//! Tests on real servers.
fn main() {}
