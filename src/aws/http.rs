//! The HTTP client under the AWS SDK: the same TLS stack as everything else, so that no second one
//! gets linked.

use std::{fmt, time::Duration};

use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector,
            http_client_fn,
        },
        orchestrator::HttpRequest,
        result::ConnectorError,
    },
    http::{Response, StatusCode},
};
use aws_smithy_types::body::SdkBody;
use rustls::{ConfigBuilder, RootCertStore, WantsVerifier, client::WantsClientCert};

/// An answer of STS or of a credentials endpoint is a few KiB.
const ANSWER_BYTES: usize = 1 << 20;

/// What every TLS client of this program starts from: aws-lc-rs, TLS 1.2 or 1.3.
pub(crate) fn tls_builder()
-> Result<ConfigBuilder<rustls::ClientConfig, WantsVerifier>, rustls::Error> {
    rustls::ClientConfig::builder_with_provider(
        rustls::crypto::aws_lc_rs::default_provider().into(),
    )
    .with_safe_default_protocol_versions()
}

/// The certificates that the platform trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).
/// Those that cannot be read are left out: then the handshake says that the issuer is unknown.
pub(crate) fn platform_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// The SDK's client. It follows no redirect. Plain http is only for the credential endpoints of
/// the machine (instance metadata, container, pod identity), which no proxy can reach.
pub(crate) fn sdk_client() -> Result<SharedHttpClient, super::Error> {
    let client = |tls: ConfigBuilder<rustls::ClientConfig, WantsClientCert>| {
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls.with_no_client_auth())
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(3))
            .timeout(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(4)
    };
    let tls = tls_builder()
        .map_err(|error| super::Error::Other { text: error.to_string() })?
        .with_root_certificates(platform_roots());
    let build = |builder: reqwest::ClientBuilder| {
        builder.build().map_err(|error| super::Error::Other { text: error.to_string() })
    };
    let connector =
        Connector { https: build(client(tls.clone()))?, http: build(client(tls).no_proxy())? };
    let connector = SharedHttpConnector::new(connector);
    Ok(http_client_fn(move |_, _| connector.clone()))
}

#[derive(Clone)]
struct Connector {
    https: reqwest::Client,
    http: reqwest::Client,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = if request.uri().starts_with("http://") {
            self.http.clone()
        } else {
            self.https.clone()
        };
        HttpConnectorFuture::new(exchange(client, request))
    }
}

async fn exchange(
    client: reqwest::Client,
    request: HttpRequest,
) -> Result<Response<SdkBody>, ConnectorError> {
    let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
    let (parts, body) = request.into_parts();
    let body = body
        .bytes()
        .ok_or_else(|| ConnectorError::user("a streaming body was not expected".into()))?
        .to_vec();
    let mut response = client
        .request(parts.method, parts.uri.to_string())
        .headers(parts.headers)
        .body(body)
        .send()
        .await
        .map_err(failed)?;
    let status = StatusCode::try_from(response.status().as_u16())
        .map_err(|error| ConnectorError::other(error.into(), None))?;
    let headers = response.headers().clone();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > ANSWER_BYTES {
            return Err(ConnectorError::other("the answer is too large".into(), None));
        }
        body.extend_from_slice(&chunk);
    }
    let mut answer = Response::new(status, SdkBody::from(body));
    *answer.headers_mut() =
        headers.try_into().map_err(|error: aws_smithy_runtime_api::http::HttpError| {
            ConnectorError::other(error.into(), None)
        })?;
    Ok(answer)
}

fn failed(error: reqwest::Error) -> ConnectorError {
    let error = error.without_url();
    if error.is_timeout() {
        ConnectorError::timeout(error.into())
    } else {
        ConnectorError::io(error.into())
    }
}
