//! The fence before every request that changes something.
//!
//! It is asked twice: before a request is made, and when its body is wanted. In between it may have
//! waited for a connection, and the process may have been frozen.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt},
};
use tower::{BoxError, Service, ServiceBuilder, limit::ConcurrencyLimitLayer};

use super::Leadership;

/// A request was not sent, because this replica does not lead.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not sent: this replica does not hold the lease, another one may be writing")]
pub struct NotLeading;

/// A body that asks once more when its bytes are wanted. Bytes that do not come break the request
/// off; no server acts on half of one.
#[derive(Debug)]
pub(crate) struct LateBody<B, F> {
    inner: B,
    may_write: F,
    /// The first bytes have gone: the request is on its way.
    begun: bool,
}

impl<B, F> LateBody<B, F> {
    pub(crate) fn new(inner: B, may_write: F) -> Self {
        Self { inner, may_write, begun: false }
    }
}

impl<B, F> HttpBody for LateBody<B, F>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin,
    F: Fn() -> bool + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.begun && !(self.may_write)() {
            return Poll::Ready(Some(Err(NotLeading.into())));
        }
        self.begun = true;
        Pin::new(&mut self.inner).poll_frame(context).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

type Late = LateBody<Body, MayWrite>;
type MayWrite = Box<dyn Fn() -> bool + Send + Sync>;
type Connector = TimeoutConnector<hyper_rustls::HttpsConnector<HttpConnector>>;

/// How long a connection may wait for its next request. One that a network cut without a word is
/// found only by a request that gets no answer; so few are kept, and not for long.
const IDLE: Duration = Duration::from_secs(15);

/// What a connection may read ahead, which it holds for as long as it lives. Hyper's own limit is six
/// times as much, and a watch that a crowd of changes came over once would never give it back.
const READ_AHEAD: usize = 64 * 1024;

/// A Kubernetes client that changes something only while this replica leads.
///
/// So many requests are on their way at once; others wait for their turn, since a connection costs both
/// sides more than a request, and one that is not kept must be made anew. `None` is for watches: each has
/// a connection for itself, which goes with it.
///
/// It is kube's own stack but for the body and the pool, into which kube lets nobody reach: timeouts,
/// authentication and headers are those of `config`; it repeats nothing.
///
/// # Errors
/// As kube's own client: certificates or credentials that cannot be used.
pub fn fenced_client(
    config: Config,
    leadership: Leadership,
    at_once: Option<usize>,
) -> kube::Result<Client> {
    let mut connector = TimeoutConnector::new(config.rustls_https_connector()?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        // A connection is free a moment after its answer has begun: a few more than are in use.
        .pool_max_idle_per_host(at_once.map_or(0, |at_once| at_once * 2))
        .http1_max_buf_size(READ_AHEAD)
        .build(connector);
    let service = ServiceBuilder::new()
        .option_layer(at_once.map(ConcurrencyLimitLayer::new))
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .service(Fenced { http, leadership });
    Ok(Client::new(service, config.default_namespace))
}

/// The HTTP client behind the fence.
#[derive(Clone, Debug)]
struct Fenced {
    http: HttpClient<Connector, Late>,
    leadership: Leadership,
}

impl Service<Request<Body>> for Fenced {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Incoming>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let changes = request.method() != Method::GET;
        if changes && !self.leadership.holds() {
            return Box::pin(async { Err(NotLeading.into()) });
        }
        let leadership = self.leadership.clone();
        let may_write: MayWrite = Box::new(move || !changes || leadership.holds());
        let answer = self.http.call(request.map(|body| LateBody::new(body, may_write)));
        Box::pin(async { answer.await.map_err(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    #[tokio::test]
    async fn a_body_is_withheld_from_whoever_lost_the_lease_meanwhile() {
        let said =
            |leads: bool| LateBody::new(Full::<Bytes>::from("text"), move || leads).collect();
        assert_eq!(said(true).await.unwrap().to_bytes(), "text");
        assert!(said(false).await.unwrap_err().is::<NotLeading>());
        let body = LateBody::new(Full::<Bytes>::from("text"), || true);
        assert_eq!(body.size_hint().exact(), Some(4));
    }
}
