//! The wall clock, asked at the edges only: once per pass by the shell, where a request is signed, and
//! where another clock is compared with ours. Everything else takes `now` as an argument.

use jiff::Timestamp;

/// What time it is.
#[expect(clippy::disallowed_methods, reason = "the one place that asks")]
pub fn now() -> Timestamp {
    Timestamp::now()
}
