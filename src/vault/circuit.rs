//! Fails fast while a Vault address does not serve.
//!
//! A sealed or unreachable Vault would otherwise cost every pass a full deadline. After a few
//! failures in a row the circuit opens: requests fail at once with the last cause, and from time to
//! time one probe is let through. `sys/health` never asks the circuit.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use super::error::Cause;

use crate::lock::lock;

/// Failures in a row that open the circuit.
const FAILURES: u32 = 3;
/// The first time it stays open.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest time it stays open before a probe.
const LONGEST: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Eq, PartialEq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        cause: Cause,
        until: Instant,
        pause: Duration,
    },
    /// One probe is on its way.
    Probing {
        cause: Cause,
        since: Instant,
        pause: Duration,
    },
}

impl State {
    /// `Ok(true)` lets the caller through as the probe.
    fn admit(&mut self, now: Instant) -> Result<bool, (Cause, Duration)> {
        match self {
            Self::Closed { .. } => Ok(false),
            Self::Open { cause, until, pause } => {
                if now < *until {
                    return Err((cause.clone(), *until - now));
                }
                *self = Self::Probing { cause: cause.clone(), since: now, pause: *pause };
                Ok(true)
            }
            Self::Probing { cause, .. } => Err((cause.clone(), SHORTEST)),
        }
    }

    fn succeeded(&mut self) {
        *self = Self::Closed { failures: 0 };
    }

    fn failed(&mut self, cause: &Cause, probe: bool, now: Instant) {
        match self {
            Self::Closed { failures } if *failures + 1 < FAILURES => *failures += 1,
            Self::Closed { .. } => {
                *self = Self::Open { cause: cause.clone(), until: now + SHORTEST, pause: SHORTEST };
            }
            Self::Probing { pause, .. } if probe => {
                let pause = (*pause * 2).min(LONGEST);
                *self = Self::Open { cause: cause.clone(), until: now + pause, pause };
            }
            // Answers to requests from before it opened say nothing new.
            Self::Open { .. } | Self::Probing { .. } => {}
        }
    }

    /// The probe was given up before it had an answer: the next one may go.
    fn abandoned(&mut self) {
        if let Self::Probing { cause, since, pause } = self {
            *self = Self::Open { cause: cause.clone(), until: *since, pause: *pause };
        }
    }
}

/// The circuit of one Vault address.
#[derive(Debug)]
pub(crate) struct Circuit(Mutex<State>);

/// The right to send one request; tell it how the request went.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    circuit: &'a Circuit,
    probe: bool,
    settled: bool,
}

impl Circuit {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State::Closed { failures: 0 }))
    }

    /// Lets a request through, or says why not.
    pub(crate) fn admit(&self) -> Result<Permit<'_>, Cause> {
        let now = Instant::now();
        match self.with(|state| state.admit(now)) {
            Ok(probe) => Ok(Permit { circuit: self, probe, settled: false }),
            Err((cause, retry_in)) => Err(Cause::CircuitOpen { cause: Box::new(cause), retry_in }),
        }
    }

    /// Something that did not ask the circuit found the address serving.
    pub(crate) fn close(&self) {
        self.with(State::succeeded);
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut lock(&self.0))
    }
}

impl Permit<'_> {
    /// Vault answered, whatever it said.
    pub(crate) fn succeeded(mut self) {
        self.settled = true;
        self.circuit.with(State::succeeded);
    }

    /// The address did not serve.
    pub(crate) fn failed(mut self, cause: &Cause) {
        self.settled = true;
        let (now, probe) = (Instant::now(), self.probe);
        self.circuit.with(|state| state.failed(cause, probe, now));
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe && !self.settled {
            self.circuit.with(State::abandoned);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn fail(circuit: &Circuit, times: u32) {
        for _ in 0..times {
            circuit.admit().unwrap().failed(&Cause::Sealed);
        }
    }

    fn is_open(circuit: &Circuit) -> bool {
        matches!(circuit.admit(), Err(Cause::CircuitOpen { .. }))
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_three_failures_in_a_row() {
        let circuit = Circuit::new();
        fail(&circuit, 2);
        circuit.admit().unwrap().succeeded();
        fail(&circuit, 2);
        assert!(!is_open(&circuit));
        fail(&circuit, 1);
        let Err(Cause::CircuitOpen { cause, retry_in }) = circuit.admit() else {
            panic!("it is closed");
        };
        assert_eq!(*cause, Cause::Sealed);
        assert_eq!(retry_in, SHORTEST);
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_is_let_through_and_its_success_closes_it() {
        let circuit = Circuit::new();
        fail(&circuit, 3);
        advance(SHORTEST).await;
        let probe = circuit.admit().unwrap();
        assert!(is_open(&circuit), "a second request waits for the probe");
        probe.succeeded();
        assert!(!is_open(&circuit));
    }

    #[tokio::test(start_paused = true)]
    async fn failed_probes_double_the_wait_up_to_the_longest() {
        let circuit = Circuit::new();
        fail(&circuit, 3);
        let mut wait = SHORTEST;
        for _ in 0..6 {
            advance(wait).await;
            circuit.admit().unwrap().failed(&Cause::NoActiveNode);
            wait = (wait * 2).min(LONGEST);
            let Err(Cause::CircuitOpen { retry_in, .. }) = circuit.admit() else {
                panic!("it is closed");
            };
            assert_eq!(retry_in, wait);
        }
        assert_eq!(wait, LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_given_up_does_not_block_the_next() {
        let circuit = Circuit::new();
        fail(&circuit, 3);
        advance(SHORTEST).await;
        drop(circuit.admit().unwrap());
        assert!(circuit.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn health_closes_it_at_once() {
        let circuit = Circuit::new();
        fail(&circuit, 3);
        circuit.close();
        assert!(!is_open(&circuit));
    }
}
