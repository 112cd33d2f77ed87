//! A front of Vault that says it is an Enterprise server, and remembers which namespace each request
//! named.
//!
//! Vault's Community Edition ignores `X-Vault-Namespace`, so this only simulates: it proves what the
//! operator sends, not what an Enterprise server makes of it.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use crate::{
    error::{Doing as _, Result},
    web::Trust,
};

const HEADER: &str = "x-vault-namespace";
const LARGEST_BODY: usize = 4 << 20;

/// A request that came through the front.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamespacedRequest {
    /// For example `GET`.
    pub method: String,
    /// Without `/v1/` and query.
    pub path: String,
    /// What it named as `X-Vault-Namespace`.
    pub namespace: Option<String>,
}

/// The running front. It ends when dropped.
#[derive(Debug)]
pub struct NamespaceFront {
    url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    http: reqwest::Client,
    seen: Mutex<Vec<NamespacedRequest>>,
}

impl NamespaceFront {
    /// Listens on 127.0.0.1 with this certificate and key, and forwards to `upstream`.
    pub(crate) async fn start(
        own: (PathBuf, PathBuf),
        upstream: String,
        trust: &Trust,
    ) -> Result<Self> {
        let doing = || "reading the front's certificate".to_owned();
        let chain = CertificateDer::pem_file_iter(&own.0)
            .and_then(Iterator::collect)
            .map_err(std::io::Error::other)
            .doing(doing)?;
        let key =
            PrivateKeyDer::from_pem_file(&own.1).map_err(std::io::Error::other).doing(doing)?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(std::io::Error::other)
            .doing(doing)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener =
            TcpListener::bind(address).await.doing(|| "listening before Vault".to_owned())?;
        let address = listener.local_addr().doing(|| "listening before Vault".to_owned())?;
        let http = trust.client(Duration::from_secs(60))?;
        let shared = Arc::new(Shared { upstream, http, seen: Mutex::default() });
        let task = tokio::spawn(serve(listener, Arc::new(config).into(), Arc::clone(&shared)));
        Ok(Self { url: format!("https://{address}"), shared, task })
    }

    /// For example `https://127.0.0.1:40001`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All requests so far, oldest first.
    pub fn requests(&self) -> Vec<NamespacedRequest> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for NamespaceFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            // Whoever does not trust the certificate goes away: its own affair.
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(|request| answer(&shared, request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let plain = |status: StatusCode| {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = status;
        response
    };
    let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let path = parts.uri.path().trim_start_matches("/v1/").to_owned();
    let named = parts.headers.get(HEADER).and_then(|value| value.to_str().ok());
    let seen = NamespacedRequest {
        method: parts.method.to_string(),
        path: path.clone(),
        namespace: named.map(str::to_owned),
    };
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut headers = end_to_end(&parts.headers);
    headers.remove(HOST);
    let sent = shared
        .http
        .request(parts.method, format!("{}{target}", shared.upstream))
        .headers(headers)
        .body(body.to_bytes())
        .send()
        .await;
    let attempt = async {
        let answer = sent?;
        let (status, headers) = (answer.status(), end_to_end(answer.headers()));
        let mut body = answer.bytes().await?;
        if path == "sys/health" {
            body = enterprise(body);
        }
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok::<_, reqwest::Error>(response)
    };
    Ok(attempt.await.unwrap_or_else(|_| plain(StatusCode::BAD_GATEWAY)))
}

/// The answer of an Enterprise server in the same state.
fn enterprise(health: Bytes) -> Bytes {
    let Ok(mut said) = serde_json::from_slice::<serde_json::Value>(&health) else { return health };
    said["enterprise"] = true.into();
    if let Some(version) = said["version"].as_str() {
        said["version"] = format!("{version}+ent").into();
    }
    said.to_string().into()
}

/// The headers without those that speak of one connection only.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_that_of_an_enterprise_server() {
        let community = r#"{"enterprise":false,"sealed":false,"version":"1.21.1"}"#;
        let said = enterprise(Bytes::from_static(community.as_bytes()));
        let said: serde_json::Value = serde_json::from_slice(&said).expect("JSON");
        assert_eq!(said["enterprise"], true);
        assert_eq!(said["version"], "1.21.1+ent");
        assert_eq!(said["sealed"], false);
    }
}
