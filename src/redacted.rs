//! redacted
