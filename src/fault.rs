//! How failure is spoken of: a [`Fault`] has a reason for machines, a text for people and a [`Retry`].
//!
//! Errors keep their cause in `source()` and never repeat it in `Display`; [`chain`] puts the whole
//! story on one line, once, at the edge (status, event, log, stderr).

use std::{error::Error, fmt::Write as _, time::Duration};

/// When it makes sense to try again. The class is the error's to choose; the delay is
/// `controller::schedule`'s.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retry {
    /// It may pass by itself: again within seconds, with growing, jittered delays.
    Soon,
    /// The other side said how long to wait.
    After(Duration),
    /// Somebody has to act, but not on this resource (a policy, a trust policy, a quota): slowly.
    Slowly,
    /// Only a change of this resource, or of one it refers to, can help.
    WhenChanged,
}

/// A failure that knows what to call itself and when to try again.
pub trait Fault: Error + Send + Sync + 'static {
    /// The condition reason: a CamelCase word of the kind's documented enum.
    fn reason(&self) -> &'static str;

    /// When to try again.
    fn retry(&self) -> Retry;

    /// Whether many resources share this fault (Vault down, STS down), so that it is said once on
    /// the backend and does not redden each resource at once.
    fn is_shared(&self) -> bool {
        false
    }
}

/// The error and its causes in one line, outermost first, joined by `: `.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        // Some libraries print their source in their own text: say it once.
        if !said.is_empty() && !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("reading role `web`")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("connection refused")]
    struct Inner;

    #[test]
    fn a_chain_says_each_cause_once() {
        assert_eq!(chain(&Outer(Inner)), "reading role `web`: connection refused");
    }
}
