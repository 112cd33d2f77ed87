//! The shell around each kind: watch, finalizer, one pass, report, requeue. Knows no kind.

pub mod pass;
