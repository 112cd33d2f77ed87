//! `/healthz`, `/readyz`, `/metrics`: what a kubelet and a Prometheus ask for.
//!
//! The server has a thread and a runtime of its own: a probe is answered however busy the workers
//! are, and what it says about them is measured, not implied by the answer.
//! None of the three speaks of Vault: a pod that is restarted because Vault is down helps nobody.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as Listener},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use crate::{
    lock::lock,
    telemetry::{Metrics, Pulse},
};

/// Without a sign of life for this long, a loop counts as dead.
const DEAD: Duration = Duration::from_secs(60);

/// How long a client may take for its headers, and a connection may last.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 32;

/// Bytes of a request's head.
const HEAD_LIMIT: usize = 16 * 1024;

/// What is wrong, or `None`.
pub type Check = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// What the answers are made of. A cheap handle; more may be added while the server runs.
#[derive(Clone)]
pub struct Vitals {
    metrics: Metrics,
    pulses: Arc<Mutex<Vec<(String, Pulse)>>>,
    checks: Arc<Mutex<Vec<Check>>>,
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not ours.
    #[error("listening on {address} for the admin server")]
    Bind {
        /// As given.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No thread or runtime.
    #[error("starting the admin server")]
    Start(#[source] io::Error),
}

impl Vitals {
    /// Nothing to look at yet: healthy, ready.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, pulses: Arc::default(), checks: Arc::default() }
    }

    /// From now on `/healthz` needs this sign of life.
    pub fn needs_pulse(&self, name: impl Into<String>, pulse: Pulse) {
        pulse.beat();
        lock(&self.pulses).push((name.into(), pulse));
    }

    /// From now on `/readyz` needs this check to find nothing.
    pub fn needs(&self, check: impl Fn() -> Option<String> + Send + Sync + 'static) {
        lock(&self.checks).push(Box::new(check));
    }

    fn health(&self) -> Vec<String> {
        let pulses = lock(&self.pulses);
        pulses
            .iter()
            .filter(|(_, pulse)| pulse.age() > DEAD)
            .map(|(name, pulse)| format!("{name}: no sign of life for {}s", pulse.age().as_secs()))
            .collect()
    }

    fn readiness(&self) -> Vec<String> {
        let checks = lock(&self.checks);
        checks.iter().filter_map(|check| check()).collect()
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n".to_owned());
        }
        match path {
            "/healthz" => verdict(&self.health()),
            "/readyz" => verdict(&self.readiness()),
            "/metrics" => match self.metrics.encode() {
                Ok(metrics) => page(StatusCode::OK, OPEN_METRICS, metrics),
                Err(_) => {
                    page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "not encodable\n".to_owned())
                }
            },
            _ => page(StatusCode::NOT_FOUND, TEXT, "/healthz /readyz /metrics\n".to_owned()),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until the process ends; the address that was bound, which differs from the one asked for
/// if that has port 0.
pub fn serve(address: SocketAddr, vitals: Vitals) -> Result<SocketAddr, Error> {
    let bind = |source| Error::Bind { address, source };
    let listener = Listener::bind(address).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || runtime.block_on(accept(listener, vitals)))
        .map_err(Error::Start)?;
    tracing::info!(address = %bound, "admin server listening");
    Ok(bound)
}

async fn accept(listener: Listener, vitals: Vitals) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "admin server cannot listen"),
    };
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let vitals = vitals.clone();
                tokio::spawn(async move {
                    // A client that is slow or breaks off is not worth a line in the log.
                    let _ = timeout(CONNECTION_TIMEOUT, connection(stream, vitals)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin server cannot accept");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, vitals: Vitals) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = vitals.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn verdict(complaints: &[String]) -> Response<Full<Bytes>> {
    if complaints.is_empty() {
        page(StatusCode::OK, TEXT, "ok\n".to_owned())
    } else {
        page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{}\n", complaints.join("\n")))
    }
}

fn page(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    use super::*;

    fn vitals() -> Vitals {
        Vitals::new(Metrics::new(true))
    }

    fn status(vitals: &Vitals, path: &str) -> u16 {
        vitals.answer(&Method::GET, path).status().as_u16()
    }

    #[test]
    fn a_process_is_healthy_and_ready_unless_something_says_otherwise() {
        let vitals = vitals();
        vitals.needs_pulse("roles", Pulse::default());
        vitals.needs(|| None);
        assert_eq!((status(&vitals, "/healthz"), status(&vitals, "/readyz")), (200, 200));
    }

    #[test]
    fn a_complaint_makes_it_unready_and_not_unhealthy() {
        let vitals = vitals();
        vitals.needs(|| Some("VaultAwsRole: not listed yet".to_owned()));
        assert_eq!((status(&vitals, "/healthz"), status(&vitals, "/readyz")), (200, 503));
        assert_eq!(vitals.readiness(), ["VaultAwsRole: not listed yet"]);
    }

    #[test]
    fn only_the_three_pages_exist_and_only_for_reading() {
        let vitals = vitals();
        assert_eq!(status(&vitals, "/"), 404);
        assert_eq!(vitals.answer(&Method::POST, "/metrics").status().as_u16(), 405);
    }

    #[test]
    fn the_server_answers_on_the_port_it_was_given_by_the_system() {
        let address = serve(SocketAddr::from(([127, 0, 0, 1], 0)), vitals()).expect("a port");
        let mut client = TcpStream::connect(address).expect("a connection");
        client.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("application/openmetrics-text"), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
    }

    #[test]
    fn an_address_that_is_taken_is_an_error_that_names_it() {
        let address = serve(SocketAddr::from(([127, 0, 0, 1], 0)), vitals()).expect("a port");
        let error = serve(address, vitals()).expect_err("taken");
        assert!(error.to_string().contains(&address.to_string()));
    }
}
