//! A front before one of the lab's servers, through which a client meets the faults of a network and
//! of what stands in it.
//!
//! It speaks TLS on both sides with the server's own certificate, so a client sees an address of the
//! same server. What it does badly is a [`Fault`] of connections, for all of them at once, or a
//! [`Reply`] to chosen requests; what it does well it forwards, answers of watches piece by piece.

use std::{
    collections::VecDeque,
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::stream;
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimePrinter};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{Notify, watch},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    door::Door,
    error::{Doing as _, Result},
    lab::Lab,
    pki::Holder,
    ports::Ports,
    web::Trust,
};

/// Requests that are remembered.
const REMEMBERED: usize = 200_000;
/// The largest request that is forwarded.
const LARGEST_BODY: usize = 8 * 1024 * 1024;
/// A watch lasts for minutes.
const UPSTREAM_LIMIT: Duration = Duration::from_secs(600);

/// What all connections suffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The port is closed, and connections that are open are dropped.
    Refuse,
    /// Connections are taken and reset at once, those that are open too.
    Reset,
    /// Connections are taken, and those that are open stay so; nothing ever comes back.
    Blackhole,
    /// Each request is forwarded only after this time.
    Delay(Duration),
    /// Connections that are open are reset, and each new one after so many bytes towards the client,
    /// TLS included.
    Cut(u64),
}

/// What is wished of connections.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    fault: Option<Fault>,
    /// How often everything fell silent: a connection that was open then stays silent for good.
    silences: u64,
}

impl Wish {
    fn is_open(&self) -> bool {
        self.fault != Some(Fault::Refuse)
    }
}

/// An answer that the server never gave.
#[derive(Clone)]
pub struct Reply {
    /// Which requests get it.
    pub when: fn(&Method, &str) -> bool,
    /// Only those whose path holds this text; all, if it is empty.
    pub about: String,
    /// The status.
    pub status: u16,
    /// Headers of the answer.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How often; for ever, if none.
    pub times: Option<u32>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).field("times", &self.times).finish()
    }
}

impl Reply {
    /// To every request, for ever, with this JSON text.
    pub fn always(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            when: |_, _| true,
            about: String::new(),
            status,
            headers: vec![("content-type", "application/json".to_owned())],
            body: body.into(),
            times: None,
        }
    }

    /// To these requests only.
    pub fn to(self, when: fn(&Method, &str) -> bool) -> Self {
        Self { when, ..self }
    }

    /// To requests only whose path holds this text.
    pub fn about(self, about: impl Into<String>) -> Self {
        Self { about: about.into(), ..self }
    }

    /// With this header in place of one of the same name.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    /// So often and then no more.
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    /// The first of these that fits and is not used up.
    pub(crate) fn to_this(replies: &mut [Self], method: &Method, what: &str) -> Option<Self> {
        let reply = replies.iter_mut().find(|reply| {
            reply.times != Some(0) && what.contains(&reply.about) && (reply.when)(method, what)
        })?;
        if let Some(times) = &mut reply.times {
            *times -= 1;
        }
        Some(reply.clone())
    }

    /// As it is sent.
    pub(crate) fn made_up(self) -> Response<Full<Bytes>> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        response.body(Full::new(Bytes::from(self.body))).unwrap_or_else(|_| {
            let mut response = Response::new(Full::new(Bytes::from_static(b"not an answer")));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        })
    }
}

/// What a front does with the chosen requests beside answering them itself.
#[derive(Clone, Debug)]
struct Snare {
    when: fn(&Method, &str) -> bool,
    about: String,
    /// So many that fit pass before.
    after: u32,
    kind: SnareKind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SnareKind {
    /// It is forwarded, and its answer never arrives: the connection breaks.
    LoseAnswer,
    /// It goes no further, until [`Front::let_go`].
    Hold,
}

/// A request that came through.
#[derive(Clone, Debug)]
pub struct FrontRequest {
    /// When it came.
    pub time: Timestamp,
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub path: String,
    /// `X-Vault-Namespace`, if it had one.
    pub namespace: Option<String>,
    /// The status of the answer.
    pub status: u16,
}

/// The running front. It ends when dropped.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    door: Door<Wish>,
    _port: Ports<1>,
}

struct Shared {
    http: reqwest::Client,
    tls: TlsAcceptor,
    held: Notify,
    state: Mutex<State>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("upstream", &self.state().upstream).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    /// Where requests are forwarded to.
    upstream: String,
    replies: Vec<Reply>,
    snare: Option<Snare>,
    /// How often the snare closed.
    snared: u32,
    requests: VecDeque<FrontRequest>,
    /// Seconds by which `Date` differs from the time.
    ahead: i64,
}

impl Shared {
    /// What stands in `Date`, if it is not what the server says.
    fn date(&self) -> Option<header::HeaderValue> {
        let ahead = Some(self.state().ahead).filter(|ahead| *ahead != 0)?;
        let then = Timestamp::now() + SignedDuration::from_secs(ahead);
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&then).ok()?;
        header::HeaderValue::from_str(&date).ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether this request is the one; a snare closes once.
    fn snared(&mut self, method: &Method, path: &str) -> Option<SnareKind> {
        let snare = self.snare.as_mut()?;
        if !path.contains(&snare.about) || !(snare.when)(method, path) {
            return None;
        }
        if snare.after > 0 {
            snare.after -= 1;
            return None;
        }
        self.snared += 1;
        self.snare.take().map(|snare| snare.kind)
    }
}

impl Front {
    /// Before the lab's Vault.
    pub async fn before_vault(lab: &Lab) -> Result<Self> {
        Self::start(lab, lab.vault_addr(), Holder::Vault).await
    }

    /// Before the lab's API server.
    pub async fn before_apiserver(lab: &Lab) -> Result<Self> {
        Self::start(lab, lab.kube_url(), Holder::ApiServer).await
    }

    async fn start(lab: &Lab, upstream: String, holder: Holder) -> Result<Self> {
        let port = Ports::<1>::reserve()?;
        let [number] = port.numbers;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
        let doing = format!("listening on {address} before {upstream}");
        let trust = Trust { ca: Some(lab.ca_path()), identity: None };
        let shared = Arc::new(Shared {
            http: trust.client(UPSTREAM_LIMIT)?,
            tls: acceptor(lab, holder)?,
            held: Notify::new(),
            state: Mutex::new(State { upstream, ..State::default() }),
        });
        let known = Arc::clone(&shared);
        let talk = move |stream, wish| talk(stream, wish, Arc::clone(&known));
        let door = Door::open(address, Wish::default(), Wish::is_open, talk).await;
        let door = door.doing(|| doing)?;
        Ok(Self { address, shared, door, _port: port })
    }

    /// For example `https://127.0.0.1:20010`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// From now on all connections suffer this.
    pub async fn suffer(&self, fault: Fault) {
        let change = |wish: &mut Wish| {
            wish.fault = Some(fault);
            wish.silences += u64::from(fault == Fault::Blackhole);
        };
        self.door.wish(change).await;
    }

    /// Ends [`Front::suffer`]. Connections that fell silent stay silent: a network that comes back
    /// does not bring back what it swallowed.
    pub async fn heal(&self) {
        self.door.wish(|wish| wish.fault = None).await;
    }

    /// Cuts the connections that are open now, silently: no more bytes, and no end either.
    pub async fn fall_silent_once(&self) {
        self.suffer(Fault::Blackhole).await;
        self.heal().await;
    }

    /// Forwards to the server at this URL from now on, as if it had taken the other's place. It must
    /// have a certificate of the lab.
    pub fn lead_to(&self, url: &str) {
        url.clone_into(&mut self.shared.state().upstream);
    }

    /// Answers so from now on; earlier replies go first.
    pub fn answer(&self, reply: Reply) {
        self.shared.state().replies.push(reply);
    }

    /// Ends [`Front::answer`].
    pub fn answer_normally(&self) {
        self.shared.state().replies.clear();
    }

    /// Says from now on in `Date` that it is so many seconds later than it is; negative is earlier.
    pub fn be_ahead(&self, seconds: i64) {
        self.shared.state().ahead = seconds;
    }

    /// Forwards the next request of this kind and breaks the connection instead of answering it.
    pub fn lose_answer(&self, about: &str, when: fn(&Method, &str) -> bool) {
        self.snare(about, when, 0, SnareKind::LoseAnswer);
    }

    /// Lets so many requests of this kind pass and holds the next one back until
    /// [`Front::let_go`]; see [`Front::has_snared`].
    pub fn hold(&self, about: &str, when: fn(&Method, &str) -> bool, after: u32) {
        self.snare(about, when, after, SnareKind::Hold);
    }

    fn snare(&self, about: &str, when: fn(&Method, &str) -> bool, after: u32, kind: SnareKind) {
        let mut state = self.shared.state();
        state.snared = 0;
        state.snare = Some(Snare { when, about: about.to_owned(), after, kind });
    }

    /// Whether the request that [`Front::lose_answer`] or [`Front::hold`] waited for has come.
    pub fn has_snared(&self) -> bool {
        self.shared.state().snared > 0
    }

    /// Breaks the connection of a request that is held, which so has never been.
    pub fn let_go(&self) {
        self.shared.state().snare = None;
        self.shared.held.notify_waiters();
    }

    /// The last requests, oldest first.
    pub fn requests(&self) -> Vec<FrontRequest> {
        self.shared.state().requests.iter().cloned().collect()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.shared.state().requests.clear();
    }
}

fn acceptor(lab: &Lab, holder: Holder) -> Result<TlsAcceptor> {
    let doing = || "reading the certificate of a front".to_owned();
    let (certificate, key) = lab.certificate_files(holder);
    let read = |path| fs::read(path).doing(doing);
    let certificate =
        CertificateDer::from_pem_slice(&read(certificate)?).map_err(std::io::Error::other);
    let key =
        PrivateKeyDer::from_pem_slice(&read(key)?).map_err(std::io::Error::other).doing(doing)?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.doing(doing)?], key)
        .map_err(std::io::Error::other)
        .doing(doing)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves one connection until it ends, or a fault ends it.
async fn talk(stream: TcpStream, mut wish: watch::Receiver<Wish>, shared: Arc<Shared>) {
    let born = *wish.borrow_and_update();
    let left = match born.fault {
        Some(Fault::Cut(bytes)) => Some(bytes),
        _ => None,
    };
    let wire = Wire { stream, left, wish: wish.clone(), silences: born.silences };
    let delays = wish.clone();
    let serving = async {
        let Ok(tls) = shared.tls.accept(wire).await else { return };
        let service = service_fn(|request| {
            let delays = delays.clone();
            let shared = Arc::clone(&shared);
            async move {
                let fault = delays.borrow().fault;
                if let Some(Fault::Delay(delay)) = fault {
                    tokio::time::sleep(delay).await;
                }
                answer(&shared, request).await
            }
        });
        // The other side went away, or spoke something else than HTTP: its own affair.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
    };
    tokio::select! {
        () = serving => {}
        _ = wish.wait_for(|wish| match wish.fault {
            Some(Fault::Refuse | Fault::Reset) => true,
            Some(Fault::Cut(_)) => left.is_none(),
            _ => false,
        }) => {}
    }
}

/// A connection below TLS. One that a fault ends is reset, not closed.
struct Wire {
    stream: TcpStream,
    /// Bytes towards the client until it is reset.
    left: Option<u64>,
    wish: watch::Receiver<Wish>,
    /// How many there had been when it was opened.
    silences: u64,
}

impl Wire {
    /// Whether nothing passes any more.
    fn is_silent(&self) -> bool {
        let wish = *self.wish.borrow();
        wish.fault == Some(Fault::Blackhole) || wish.silences > self.silences
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        // Asked after the read: what arrives now is swallowed too. The end of the connection is told,
        // so that this side lets go of it.
        if outcome.is_ready() && !buffer.filled().is_empty() && self.is_silent() {
            buffer.clear();
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        outcome
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.is_silent() {
            return Poll::Ready(Ok(bytes.len())); // Swallowed.
        }
        if self.left == Some(0) {
            let reset = std::io::ErrorKind::ConnectionReset;
            return Poll::Ready(Err(reset.into()));
        }
        let allowed = self.left.map_or(bytes.len(), |left| {
            usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
        });
        let outcome = Pin::new(&mut self.stream).poll_write(context, &bytes[..allowed]);
        if let (Poll::Ready(Ok(written)), Some(left)) = (&outcome, &mut self.left) {
            *left -= *written as u64;
        }
        outcome
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.is_silent() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let fault = self.wish.borrow().fault;
        let breaks = matches!(fault, Some(Fault::Refuse | Fault::Reset | Fault::Cut(_)));
        if self.left == Some(0) || breaks {
            // Closed with lingering for no time, a connection is reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

async fn answer(shared: &Shared, request: Request<Incoming>) -> std::io::Result<Response<Body>> {
    let time = Timestamp::now();
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let broken = || Err(std::io::ErrorKind::ConnectionAborted.into());
    let snared = shared.state().snared(&parts.method, &path);
    if snared == Some(SnareKind::Hold) {
        shared.held.notified().await;
        return broken();
    }
    let reply = Reply::to_this(&mut shared.state().replies, &parts.method, &path);
    let response = match (reply, Limited::new(body, LARGEST_BODY).collect().await) {
        (Some(reply), _) => {
            reply.made_up().map(|body| body.map_err(|never| match never {}).boxed())
        }
        (None, Ok(body)) => {
            forward(shared, &parts.method, &path, &parts.headers, body.to_bytes()).await
        }
        (None, Err(_)) => plain(StatusCode::PAYLOAD_TOO_LARGE, "too large for the front"),
    };
    let namespace = parts.headers.get("x-vault-namespace");
    let seen = FrontRequest {
        time,
        method: parts.method,
        path,
        namespace: namespace.and_then(|value| value.to_str().ok()).map(str::to_owned),
        status: response.status().as_u16(),
    };
    let mut state = shared.state();
    if state.requests.len() == REMEMBERED {
        state.requests.pop_front();
    }
    state.requests.push_back(seen);
    if snared == Some(SnareKind::LoseAnswer) {
        return broken();
    }
    Ok(response)
}

async fn forward(
    shared: &Shared,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let url = format!("{}{path}", shared.state().upstream);
    let sent = shared
        .http
        .request(method.clone(), url)
        .headers(end_to_end(headers))
        .body(body)
        .send()
        .await;
    let answer = match sent {
        Ok(answer) => answer,
        Err(error) => return plain(StatusCode::BAD_GATEWAY, &error.to_string()),
    };
    let (status, mut headers) = (answer.status(), end_to_end(answer.headers()));
    if let Some(date) = shared.date() {
        headers.insert(header::DATE, date);
    }
    // Piece by piece, as it comes: a watch has no end.
    let pieces = stream::unfold(answer, |mut answer| async move {
        match answer.chunk().await {
            Ok(Some(piece)) => Some((Ok(Frame::data(piece)), answer)),
            Ok(None) => None,
            Err(error) => Some((Err(std::io::Error::other(error)), answer)),
        }
    });
    let mut response =
        Response::new(BodyExt::boxed(StreamBody::new(SyncPieces(Mutex::new(Box::pin(pieces))))));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

type Piece = std::result::Result<Frame<Bytes>, std::io::Error>;

/// A boxed body must be `Sync`; only one task ever polls it.
struct SyncPieces<S>(Mutex<Pin<Box<S>>>);

impl<S: futures::Stream<Item = Piece>> futures::Stream for SyncPieces<S> {
    type Item = Piece;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.as_mut().poll_next(context)
    }
}

/// Without what concerns one connection only.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let hop = [
        header::CONNECTION,
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
    ];
    let kept = headers.iter().filter(|(name, _)| !hop.contains(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}
