//! A front of Vault for what Vault itself never does: it speaks TLS as Vault does, forwards everything,
//! and says in `Date` that it is another time. So an operator sees a clock that differs from its own.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{DATE, HOST, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimePrinter};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    error::{Doing as _, Result},
    lab::Lab,
    pki::{Holder, Pki},
    sts::end_to_end,
    web::{Trust, install_tls_provider},
};

/// The running front. It ends when dropped.
#[derive(Debug)]
pub struct VaultFront {
    url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    http: reqwest::Client,
    /// Seconds that its clock is ahead.
    ahead: AtomicI64,
}

impl VaultFront {
    /// Listens on a free port of 127.0.0.1, with Vault's own certificate, and tells the right time.
    pub async fn start(lab: &Lab) -> Result<Self> {
        let doing = || "starting a front of Vault".to_owned();
        install_tls_provider();
        let pki = Pki::at(lab.folder().join("pki"));
        let chain = CertificateDer::from_pem_file(pki.certificate(Holder::Vault));
        let chain = vec![chain.map_err(std::io::Error::other).doing(doing)?];
        let key = PrivateKeyDer::from_pem_file(pki.key(Holder::Vault));
        let key = key.map_err(std::io::Error::other).doing(doing)?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let config = config.map_err(std::io::Error::other).doing(doing)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.doing(doing)?;
        let address = listener.local_addr().doing(doing)?;
        let trust = Trust { ca: Some(lab.ca_path()), identity: None };
        let shared = Arc::new(Shared {
            upstream: lab.vault_addr(),
            http: trust.client(Duration::from_secs(60))?,
            ahead: AtomicI64::new(0),
        });
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(serve(listener, acceptor, Arc::clone(&shared)));
        Ok(Self { url: format!("https://{address}"), shared, task })
    }

    /// For example `https://127.0.0.1:34567`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Says from now on that it is so many seconds later; negative is earlier.
    pub fn be_ahead(&self, seconds: i64) {
        self.shared.ahead.store(seconds, Ordering::Relaxed);
    }
}

impl Drop for VaultFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        // No more than one connection is lost.
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(talk(stream, acceptor.clone(), Arc::clone(&shared)));
    }
}

async fn talk(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(|request| answer(&shared, request));
    // The other side went away, or spoke something else than HTTP: its own affair.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let attempt = async {
        let body = body.collect().await.ok()?.to_bytes();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut headers = end_to_end(&parts.headers);
        headers.remove(HOST);
        let url = format!("{}{target}", shared.upstream);
        let sent = shared.http.request(parts.method.clone(), url).headers(headers).body(body);
        let answer = sent.send().await.ok()?;
        let (status, mut headers) = (answer.status(), end_to_end(answer.headers()));
        let ahead = SignedDuration::from_secs(shared.ahead.load(Ordering::Relaxed));
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&(Timestamp::now() + ahead));
        headers.insert(DATE, HeaderValue::from_str(&date.ok()?).ok()?);
        let mut response = Response::new(Full::new(answer.bytes().await.ok()?));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Some(response)
    };
    Ok(attempt.await.unwrap_or_else(|| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    }))
}
