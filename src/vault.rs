//! `Client`: the only HTTP to Vault (and OpenBao).
//!
//! Every request goes through one executor, so that what must hold for all of them is said once:
//! https, one TLS stack, no redirect that could carry a token elsewhere, a deadline, a cap on the
//! answer, the namespace header, one limiter and one circuit per address, failures classified, and
//! nothing secret in any message. Commands that people run may take [`Liberties`] (a socket, plain
//! http, a proxy of Vault's own); the operator has none. The requests are `rustify` endpoints (vaultrs' or our own); the
//! answers are our own types, read leniently.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use reqwest::Url;
use rustify::Endpoint;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};
use zeroize::Zeroizing;

use crate::{
    clock,
    leader::{LateBody, NotLeading},
    lock::lock,
    redacted::Redacted,
};

pub mod acl;
pub mod aws_auth;
pub mod aws_login;
pub mod aws_secrets;
mod circuit;
pub mod error;
pub mod health;
pub mod identity;
pub mod kv;
mod limiter;
pub mod login;
pub mod mounts;
pub mod policies;
pub mod session;
mod tls;
pub mod tokens;
pub(crate) mod wire;

use circuit::Circuit;
pub use error::{AwsRefusal, Cause, Error, Throttle, aws_refusal};
use limiter::Limiter;
pub use limiter::Tenant;
pub use tls::{ClientCertificate, SettingsError};

/// The cap on an answer, in bytes: a KV entry of Vault is at most 1 MiB (512 KiB with Raft).
const ANSWER_BYTES: usize = 2 << 20;
/// The cap on the answer of a LIST, in bytes.
const LIST_BYTES: usize = 4 << 20;
/// The longest wait for a TCP and TLS connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests to one Vault that are on their way at once, and connections that are kept: enough for 50 a
/// second where each takes 300 ms.
const AT_ONCE: usize = 16;
/// How long a connection may wait for its next request.
const IDLE: Duration = Duration::from_secs(15);

/// How one Vault is reached. Two equal `Settings` should share one [`Client`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// `https://host[:port][/prefix]`; see [`parse_address`].
    pub address: Url,
    /// `X-Vault-Namespace`, sent with every request when set.
    pub namespace: Option<String>,
    /// The certificates that may vouch for Vault, as PEM, and no others. `None`: the platform's.
    pub ca_pem: Option<String>,
    /// The certificate with which we show ourselves to the listener.
    pub client_certificate: Option<ClientCertificate>,
    /// The name that Vault's certificate must carry, where it is not the address' host.
    pub tls_server_name: Option<String>,
    /// The deadline of each request, connection and body included; waiting for the limiter has a
    /// deadline of the same length of its own.
    pub timeout: Duration,
    /// Requests per second to this Vault.
    pub requests_per_second: u32,
    /// Requests that may go at once after a quiet time.
    pub burst: u32,
}

impl Settings {
    /// Settings with the documented defaults: 10 s, 50 requests per second, bursts of 100.
    pub fn new(address: Url) -> Self {
        Self {
            address,
            namespace: None,
            ca_pem: None,
            client_certificate: None,
            tls_server_name: None,
            timeout: Duration::from_secs(10),
            requests_per_second: 50,
            burst: 100,
        }
    }
}

/// What a person may choose at a terminal, beyond [`Settings`], and the operator never has. The
/// default is none of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Liberties {
    /// `http://` is spoken too. Whether the address is one for that is for the caller to judge.
    pub plain_http: bool,
    /// Any certificate of Vault is taken.
    pub any_certificate: bool,
    /// All connections go to this Unix socket; the address then only fills the `Host` header.
    pub socket: Option<PathBuf>,
    /// Which forward proxy is used.
    pub proxy: ForwardProxy,
    /// Headers that every request carries.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Which HTTP proxy stands between us and Vault. (Vault Proxy is not one: it is an address.)
#[derive(Clone, Default, Eq, PartialEq)]
pub enum ForwardProxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.
    #[default]
    OfEnvironment,
    /// None, whatever the environment says.
    Never,
    /// This one.
    Fixed(Url),
}

impl fmt::Debug for ForwardProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfEnvironment => f.write_str("OfEnvironment"),
            Self::Never => f.write_str("Never"),
            // Its address may hold a password.
            Self::Fixed(url) => f.debug_tuple("Fixed").field(&url.host_str()).finish(),
        }
    }
}

/// Parses an address of Vault: https, a host, no user, query or fragment.
pub fn parse_address(text: &str) -> Result<Url, SettingsError> {
    let url = parse_any_address(text)?;
    if url.scheme() != "https" {
        return Err(SettingsError::Address { what: "only https is spoken" });
    }
    Ok(url)
}

/// Parses an address of Vault as [`parse_address`], or the same with `http`.
pub fn parse_any_address(text: &str) -> Result<Url, SettingsError> {
    let invalid = |what| SettingsError::Address { what };
    let text = text.trim();
    // Read as browsers do: a line break is left out, a backslash is a slash.
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err(invalid("it has a blank, a backslash or a control character"));
    }
    let url = Url::parse(text).map_err(|_| invalid("it is not a URL"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(invalid("only https and, for people, http and unix are spoken"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(invalid("it names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("it holds a user or a password"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("it has a query or a fragment"));
    }
    Ok(url)
}

/// Stands beside each request: learns of it, for metrics, and says whether this process may change
/// anything. The labels are bounded.
pub trait Observer: Send + Sync {
    /// Whether requests that change something may be sent now: not by a replica that does not lead.
    fn may_write(&self) -> bool {
        true
    }

    /// A request ended: what for (`read_role`), how (`ok`, `not_found`, `denied`, …), after how long.
    fn request(&self, operation: &'static str, result: &'static str, elapsed: Duration);

    /// A request waited that long for the limiter.
    fn waited(&self, wait: Duration);
}

/// Measures nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn request(&self, _: &'static str, _: &'static str, _: Duration) {}
    fn waited(&self, _: Duration) {}
}

/// What all clients of one Vault address share, whatever their namespaces and certificates: Vault's
/// quotas count the address that asks, and a server that is down is down for all of them. Cloning
/// shares it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shut>);

#[derive(Debug)]
struct Shut {
    limiter: Limiter,
    circuit: Circuit,
}

impl Gate {
    /// An open one.
    pub fn new(requests_per_second: u32, burst: u32) -> Self {
        let limiter = Limiter::new(requests_per_second, burst);
        Self(Arc::new(Shut { limiter, circuit: Circuit::new() }))
    }

    /// Lets that many through from now on.
    pub fn set_rate(&self, requests_per_second: u32, burst: u32) {
        self.0.limiter.set_rate(requests_per_second, burst);
    }
}

/// One Vault with its connections, behind the gate of its address, and on whose behalf it is asked.
/// Cloning shares all of it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    tenant: Tenant,
}

struct Shared {
    link: Mutex<Arc<Link>>,
    gate: Gate,
    observer: Arc<dyn Observer>,
    /// Server's clock minus ours, as last seen.
    skew: Mutex<Option<SignedDuration>>,
}

/// How the server is spoken to; replaced whole when a certificate changes.
struct Link {
    http: reqwest::Client,
    /// Ends before `/v1`.
    base: Url,
    headers: HeaderMap,
    timeout: Duration,
    /// For whoever waits for Vault alone.
    lines: Semaphore,
}

impl Link {
    fn new(
        settings: &Settings,
        liberties: &Liberties,
        mut base: Url,
    ) -> Result<Self, SettingsError> {
        let mut headers: HeaderMap = liberties.headers.iter().cloned().collect();
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        if let Some(namespace) = &settings.namespace {
            let value = HeaderValue::from_str(namespace).map_err(|_| SettingsError::Namespace)?;
            headers.insert("x-vault-namespace", value);
        }
        let http = tls::http_client(settings, liberties, &mut base)?;
        let lines = Semaphore::new(AT_ONCE);
        Ok(Self { http, base, headers, timeout: settings.timeout, lines })
    }

    /// Waits until a request may be on its way. More at once than connections are kept would have the
    /// others made for one request each, which costs both sides more than the request.
    async fn line(&self, operation: &Operation) -> Result<Option<SemaphorePermit<'_>>, Cause> {
        // AWS, and not Vault, may keep it waiting: it is not to hold up others, and is seldom.
        if operation.asks_aws {
            return Ok(None);
        }
        let late = |_| Cause::Timeout { after: self.timeout, asks_aws: false };
        // Nobody closes a semaphore.
        timeout(self.timeout, self.lines.acquire()).await.map(Result::ok).map_err(late)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.link().base.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// Prepares the connection; nothing is sent.
    pub fn new(settings: &Settings, observer: Arc<dyn Observer>) -> Result<Self, SettingsError> {
        Self::behind(settings, observer, Gate::new(settings.requests_per_second, settings.burst))
    }

    /// The same behind a gate that others share.
    pub fn behind(
        settings: &Settings,
        observer: Arc<dyn Observer>,
        gate: Gate,
    ) -> Result<Self, SettingsError> {
        // Whoever builds `Settings` by hand must not get around the checks.
        let base = parse_address(settings.address.as_str())?;
        Self::build_client(settings, &Liberties::default(), base, observer, gate)
    }

    /// Speaks to the same Vault by other settings from now on: another certificate, deadline or name.
    /// The sessions that were made through this client go on, with the new connections.
    pub fn relink(&self, settings: &Settings) -> Result<(), SettingsError> {
        let base = parse_address(settings.address.as_str())?;
        let link = Link::new(settings, &Liberties::default(), base)?;
        *lock(&self.shared.link) = Arc::new(link);
        Ok(())
    }

    /// Whether both are handles to one client.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The same client for requests on behalf of somebody else.
    pub fn on_behalf_of(&self, tenant: Tenant) -> Self {
        Self { shared: Arc::clone(&self.shared), tenant }
    }

    /// The gate of the address.
    pub fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    fn link(&self) -> Arc<Link> {
        Arc::clone(&lock(&self.shared.link))
    }

    /// Prepares the connection of a command that a person runs; nothing is sent.
    pub fn for_person(settings: &Settings, liberties: &Liberties) -> Result<Self, SettingsError> {
        let base = if liberties.plain_http {
            parse_any_address(settings.address.as_str())?
        } else {
            parse_address(settings.address.as_str())?
        };
        let gate = Gate::new(settings.requests_per_second, settings.burst);
        Self::build_client(settings, liberties, base, Arc::new(Unobserved), gate)
    }

    fn build_client(
        settings: &Settings,
        liberties: &Liberties,
        base: Url,
        observer: Arc<dyn Observer>,
        gate: Gate,
    ) -> Result<Self, SettingsError> {
        let link = Link::new(settings, liberties, base)?;
        let shared =
            Shared { link: Mutex::new(Arc::new(link)), gate, observer, skew: Mutex::new(None) };
        Ok(Self { shared: Arc::new(shared), tenant: Tenant::Operator })
    }

    /// A handle that sends this token.
    pub fn with_token(&self, token: Redacted<String>) -> Caller {
        Caller { client: self.clone(), token: Some(Arc::new(Token { value: token, uses: None })) }
    }

    /// A handle that sends no token: behind a Vault Proxy or Agent that adds its own.
    pub fn without_token(&self) -> Caller {
        Caller { client: self.clone(), token: None }
    }

    /// Vault's clock minus ours, as the last answer showed it (whole seconds). `None` before the
    /// first answer.
    pub fn clock_skew(&self) -> Option<SignedDuration> {
        *lock(&self.shared.skew)
    }

    /// Sends a request without a token.
    pub(crate) async fn send<E: Endpoint>(
        &self,
        operation: &Operation,
        endpoint: &E,
    ) -> Result<Answer, Error> {
        self.exchange(operation, endpoint, None).await
    }

    /// Sends a request past limiter and circuit and takes any answer: for `sys/health` alone.
    pub(crate) async fn probe<E: Endpoint>(
        &self,
        operation: &Operation,
        endpoint: &E,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), Error> {
        let start = Instant::now();
        let outcome = match self.build(endpoint, None) {
            Ok(request) => self.deliver(operation, &request).await,
            Err(cause) => Err(cause),
        };
        let label = outcome.as_ref().map_or_else(Cause::label, |_| "ok");
        self.shared.observer.request(operation.label, label, start.elapsed());
        match outcome {
            Ok(raw) => Ok((raw.status, raw.body)),
            Err(cause) => Err(operation.failed(cause)),
        }
    }

    /// The address serves: let everybody in again.
    pub(crate) fn found_serving(&self) {
        self.shared.gate.0.circuit.close();
    }

    async fn exchange<E: Endpoint>(
        &self,
        operation: &Operation,
        endpoint: &E,
        token: Option<&Token>,
    ) -> Result<Answer, Error> {
        let start = Instant::now();
        let outcome = self.attempt(operation, endpoint, token).await;
        let label = match &outcome {
            Ok(raw) if raw.status == StatusCode::NOT_FOUND => "not_found",
            Ok(_) => "ok",
            Err(cause) => cause.label(),
        };
        self.shared.observer.request(operation.label, label, start.elapsed());
        match outcome {
            Ok(raw) => {
                let Raw { status, age, body, .. } = raw;
                Ok(Answer { operation: operation.clone(), status, age, body })
            }
            Err(cause) => Err(operation.failed(cause)),
        }
    }

    async fn attempt<E: Endpoint>(
        &self,
        operation: &Operation,
        endpoint: &E,
        token: Option<&Token>,
    ) -> Result<Raw, Cause> {
        let shared = &*self.shared;
        let Shut { limiter, circuit } = &*shared.gate.0;
        let request = self.build(endpoint, token)?;
        // Asked twice: those who need not wait for the limiter to hear that Vault is down do not,
        // and those who waited hear what happened meanwhile.
        drop(circuit.admit()?);
        let deadline = Instant::now() + request.link.timeout;
        let waited = limiter.acquire(&self.tenant, deadline).await;
        match waited {
            Ok(wait) => shared.observer.waited(wait),
            Err(limiter::Exhausted { retry_after }) => {
                return Err(Cause::Throttled { by: error::Throttle::Own, retry_after });
            }
        }
        let _line = request.link.line(operation).await?;
        let permit = circuit.admit()?;
        // Asked last: it may have waited for long.
        if request.method != Method::GET && !operation.gives_back && !shared.observer.may_write() {
            drop(permit);
            return Err(NotLeading.into());
        }
        if let Some(token) = token {
            token.spend()?;
        }
        let outcome = self.deliver(operation, &request).await;
        if let Ok(raw) = &outcome {
            self.heed(raw);
        }
        let outcome = outcome.and_then(Raw::judge);
        match &outcome {
            Err(cause) if cause.opens_circuit() => permit.failed(cause),
            // Late because of AWS, perhaps: neither for Vault nor against it.
            Err(Cause::Timeout { .. }) => drop(permit),
            // Nothing was heard of Vault itself.
            Err(Cause::Unreachable { .. }) => drop(permit),
            _ => permit.succeeded(),
        }
        outcome
    }

    /// Slows everybody down where Vault asks for it.
    fn heed(&self, raw: &Raw) {
        let limiter = &self.shared.gate.0.limiter;
        match raw.status {
            // A lease count quota refuses logins; slowing reads down would not help.
            StatusCode::TOO_MANY_REQUESTS if !raw.is_lease_count() => {
                limiter.slow_down();
                limiter.pause(raw.retry_after.unwrap_or(Duration::from_secs(1)));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                if let Some(wait) = raw.retry_after {
                    limiter.pause(wait);
                }
            }
            _ => {}
        }
    }

    /// One request as it goes over the wire.
    fn build<E: Endpoint>(&self, endpoint: &E, token: Option<&Token>) -> Result<Request, Cause> {
        let unfit = |what: &'static str| Cause::InvalidRequest { what: Cow::Borrowed(what) };
        let listing = matches!(endpoint.method(), rustify::enums::RequestMethod::LIST);
        let link = self.link();
        let mut url = path_url(&link.base, &endpoint.path(), listing)
            .map_err(|what| Cause::InvalidRequest { what: Cow::Borrowed(what) })?;
        let query = endpoint.query().map_err(|_| unfit("its query cannot be written"))?;
        // Proxies know GET; Vault takes `list=true` for LIST.
        let (method, query) = if listing {
            (Method::GET, Some("list=true".to_owned()))
        } else {
            (endpoint.method().into(), query)
        };
        url.set_query(query.as_deref().filter(|query| !query.is_empty()));
        let body = if method == Method::GET || method == Method::DELETE {
            Vec::new()
        } else {
            endpoint.body().map_err(|_| unfit("its body cannot be written"))?.unwrap_or_default()
        };
        let mut headers = link.headers.clone();
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.value.expose())
                .map_err(|_| unfit("the token holds characters that no header can carry"))?;
            value.set_sensitive(true);
            headers.insert("x-vault-token", value);
        }
        Ok(Request { link, method, url, headers, body: Zeroizing::new(body) })
    }

    /// Sends, follows a standby's redirect to the same origin and path once, reads the answer.
    async fn deliver(&self, operation: &Operation, request: &Request) -> Result<Raw, Cause> {
        let after = request.link.timeout;
        let deadline = Instant::now() + after;
        let timeout = || Cause::Timeout { after, asks_aws: operation.asks_aws };
        let work = async {
            let mut response = self.once(operation, request).await?;
            if response.status() == StatusCode::TEMPORARY_REDIRECT {
                follow(&request.url, response.headers())?;
                response = self.once(operation, request).await?;
                if response.status() == StatusCode::TEMPORARY_REDIRECT {
                    return Err(Cause::NoActiveNode);
                }
            }
            let (status, retry_after) = (response.status(), retry_after(response.headers()));
            let age = age(response.headers());
            self.learn_time(response.headers());
            let body = read(response, operation.limit).await?;
            Ok(Raw { status, retry_after, age, body })
        };
        match timeout_at(deadline, work).await {
            Ok(Err(Cause::Timeout { .. })) | Err(_) => Err(timeout()),
            Ok(outcome) => outcome,
        }
    }

    async fn once(
        &self,
        operation: &Operation,
        request: &Request,
    ) -> Result<reqwest::Response, Cause> {
        let body = request.body.to_vec();
        let is_fenced = request.method != Method::GET && !operation.gives_back;
        let body = if is_fenced && !body.is_empty() {
            let observer = Arc::clone(&self.shared.observer);
            reqwest::Body::wrap(LateBody::new(Full::<Bytes>::from(body), move || {
                observer.may_write()
            }))
        } else {
            body.into()
        };
        let http = &request.link.http;
        http.request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone())
            .body(body)
            .send()
            .await
            .map_err(|error| match is_fenced && !self.shared.observer.may_write() {
                true => NotLeading.into(),
                false => tls::unreachable(&error),
            })
    }

    /// Remembers how far Vault's clock is from ours.
    fn learn_time(&self, headers: &HeaderMap) {
        let Some(server) = headers.get(header::DATE).and_then(http_date) else {
            return;
        };
        let skew = server.duration_since(clock::now());
        // `Date` is cut to the second, so that half of one is the best guess.
        let skew = skew.saturating_add(SignedDuration::from_millis(500));
        let skew = SignedDuration::from_secs(skew.as_secs());
        *lock(&self.shared.skew) = Some(skew);
    }
}

/// A token and, if Vault limits its use, how many requests it still has.
struct Token {
    value: Redacted<String>,
    uses: Option<AtomicI64>,
}

impl Token {
    /// Counts one use. The last one is kept, so that the token can be revoked.
    fn spend(&self) -> Result<(), Cause> {
        let Some(uses) = &self.uses else {
            return Ok(());
        };
        let spent = uses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left > 1).then_some(left - 1)
        });
        spent.map(|_| ()).map_err(|_| Cause::TokenInvalid)
    }

    /// Gives the last use free, for the request that ends the token.
    fn release_last(&self) {
        if let Some(uses) = &self.uses {
            uses.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Vault with a token: what the calls that need one take. Cloning shares token and connection.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    token: Option<Arc<Token>>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Caller {
    /// The Vault that is called.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The same token for requests on behalf of somebody else.
    pub fn on_behalf_of(&self, tenant: Tenant) -> Self {
        Self { client: self.client.on_behalf_of(tenant), token: self.token.clone() }
    }

    /// How many requests the token still has, the one for its revocation included. `None`: no limit.
    pub fn uses_left(&self) -> Option<i64> {
        let uses = self.token.as_ref()?.uses.as_ref()?;
        Some(uses.load(Ordering::Relaxed))
    }

    /// A handle whose requests are counted; `uses` of 0 means no limit, as in Vault.
    pub(crate) fn limited(client: &Client, token: Redacted<String>, uses: u64) -> Self {
        let uses = (uses > 0).then(|| AtomicI64::new(i64::try_from(uses).unwrap_or(i64::MAX)));
        Self { client: client.clone(), token: Some(Arc::new(Token { value: token, uses })) }
    }

    pub(crate) async fn send<E: Endpoint>(
        &self,
        operation: &Operation,
        endpoint: &E,
    ) -> Result<Answer, Error> {
        self.client.exchange(operation, endpoint, self.token.as_deref()).await
    }

    /// Lets the next request take the use that is kept for the revocation.
    pub(crate) fn release_last_use(&self) {
        if let Some(token) = &self.token {
            token.release_last();
        }
    }
}

/// What a request is for: in a bounded word for metrics, and in words for people.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    label: &'static str,
    text: String,
    asks_aws: bool,
    /// It returns what this process was lent: also allowed to one that does not lead any more.
    gives_back: bool,
    limit: usize,
}

impl Operation {
    pub(crate) fn new(label: &'static str, text: impl Into<String>) -> Self {
        Self { label, text: text.into(), asks_aws: false, gives_back: false, limit: ANSWER_BYTES }
    }

    /// A LIST, whose answer may be larger.
    pub(crate) fn list(label: &'static str, text: impl Into<String>) -> Self {
        Self { limit: LIST_BYTES, ..Self::new(label, text) }
    }

    /// Vault asks AWS before it answers, so that a late answer does not mean a slow Vault.
    pub(crate) fn asking_aws(self) -> Self {
        Self { asks_aws: true, ..self }
    }

    /// Returns what this process was lent.
    pub(crate) fn giving_back(self) -> Self {
        Self { gives_back: true, ..self }
    }

    pub(crate) fn failed(&self, cause: Cause) -> Error {
        Error::new(self.text.clone(), cause)
    }
}

struct Request {
    /// The connections it was written for: its URL may name a host that only they can find.
    link: Arc<Link>,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
}

/// An answer as it came.
struct Raw {
    status: StatusCode,
    retry_after: Option<Duration>,
    /// For how long a cache in front of Vault has had it.
    age: Option<Duration>,
    body: Zeroizing<Vec<u8>>,
}

impl Raw {
    /// Success and 404 pass: what "nothing there" means is for each API to say.
    fn judge(self) -> Result<Self, Cause> {
        if self.status.is_success() || self.status == StatusCode::NOT_FOUND {
            return Ok(self);
        }
        Err(error::classify(self.status.as_u16(), &self.body, self.retry_after))
    }

    fn is_lease_count(&self) -> bool {
        let cause = error::classify(self.status.as_u16(), &self.body, None);
        matches!(cause, Cause::Throttled { by: error::Throttle::LeaseCount, .. })
    }
}

/// A success or a 404.
pub(crate) struct Answer {
    operation: Operation,
    status: StatusCode,
    age: Option<Duration>,
    body: Zeroizing<Vec<u8>>,
}

/// What an answer says about the lease of what it holds.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Lease {
    #[serde(default, deserialize_with = "wire::or_default")]
    pub(crate) lease_id: String,
    /// Seconds.
    #[serde(default, deserialize_with = "wire::seconds")]
    pub(crate) lease_duration: u64,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: Option<T>,
    auth: Option<login::Auth>,
    wrap_info: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Warnings {
    warnings: Option<Vec<String>>,
}

impl Answer {
    /// The operation failed after all.
    pub(crate) fn failed(&self, cause: Cause) -> Error {
        self.operation.failed(cause)
    }

    /// `None` if there is nothing at this path, as far as a 404 without a text says so. A 404 with a
    /// text means that the path itself is wrong, the mount missing: an error.
    pub(crate) fn found(self) -> Result<Option<Self>, Error> {
        if self.status != StatusCode::NOT_FOUND {
            return Ok(Some(self));
        }
        let texts = error::texts(&self.body).unwrap_or_default();
        if texts.is_empty() && !self.is_foreign() {
            return Ok(None);
        }
        Err(self.not_found())
    }

    /// The answer, where "nothing there" is an error.
    pub(crate) fn existing(self) -> Result<Self, Error> {
        if self.status == StatusCode::NOT_FOUND { Err(self.not_found()) } else { Ok(self) }
    }

    /// Whether it says nothing at all (204).
    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Whether it is a 404.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Whether Vault did not write this 404: a proxy's page must not read as "nothing there".
    fn is_foreign(&self) -> bool {
        !self.body.is_empty() && error::texts(&self.body).is_none()
    }

    fn not_found(&self) -> Error {
        self.failed(error::classify(404, &self.body, None))
    }

    /// The answer's `data`.
    pub(crate) fn data<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let envelope: Envelope<T> = self.parse()?;
        match (envelope.data, envelope.wrap_info) {
            (Some(data), _) => Ok(data),
            (None, Some(_)) => Err(self.failed(Cause::WrappedAnswer)),
            (None, None) => {
                Err(self.failed(Cause::Malformed { what: "it holds no data".to_owned() }))
            }
        }
    }

    /// The lease of the answer's `data`; its duration is 0 where there is none.
    pub(crate) fn lease(&self) -> Result<Lease, Error> {
        self.parse()
    }

    /// For how long a cache in front of Vault (Vault Proxy, Vault Agent) has had this answer: its
    /// lease is that much shorter than it says.
    pub(crate) fn age(&self) -> Duration {
        self.age.unwrap_or_default()
    }

    /// The answer's `auth`.
    pub(crate) fn auth(&self) -> Result<login::Auth, Error> {
        let envelope: Envelope<serde::de::IgnoredAny> = self.parse()?;
        match (envelope.auth, envelope.wrap_info) {
            (Some(auth), _) => Ok(auth),
            (None, Some(_)) => Err(self.failed(Cause::WrappedAnswer)),
            (None, None) => {
                Err(self.failed(Cause::Malformed { what: "it holds no login".to_owned() }))
            }
        }
    }

    /// How the server's audit log knows this request; empty where that cannot be read.
    pub(crate) fn request_id(&self) -> String {
        #[derive(Deserialize)]
        struct Id {
            #[serde(default, deserialize_with = "wire::or_default")]
            request_id: String,
        }
        serde_json::from_slice::<Id>(&self.body).map(|id| id.request_id).unwrap_or_default()
    }

    /// Vault's warnings; none for an answer without a body.
    pub(crate) fn warnings(&self) -> Vec<String> {
        serde_json::from_slice::<Warnings>(&self.body)
            .ok()
            .and_then(|body| body.warnings)
            .unwrap_or_default()
            .iter()
            .map(|text| error::clean(text))
            .collect()
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| self.failed(Cause::malformed(&error)))
    }
}

/// A single path segment of ours: a role or policy name must not reach another path.
pub(crate) fn segment<'a>(operation: &Operation, name: &'a str) -> Result<&'a str, Error> {
    if name.contains('/') {
        let what = Cow::Borrowed("a name holds a `/`");
        return Err(operation.failed(Cause::InvalidRequest { what }));
    }
    Ok(name)
}

/// A mount as paths name it: without slashes at its ends.
pub(crate) fn mount_path(mount: &str) -> &str {
    mount.trim_matches('/')
}

/// `<base>/v1/<path>`, each segment percent-encoded.
///
/// Vault answers `//` and `..` with a redirect to the cleaned path, which is another object, and the
/// URL standard resolves dots and drops tabs: nothing of the kind may leave.
fn path_url(base: &Url, path: &str, listing: bool) -> Result<Url, &'static str> {
    // Some endpoints of vaultrs begin with a tab.
    let path = path.trim_start_matches(['/', '\t', ' ']);
    let path = if listing { path.strip_suffix('/').unwrap_or(path) } else { path };
    let mut url = base.clone();
    let mut segments = url.path_segments_mut().map_err(|()| "the address cannot carry a path")?;
    segments.pop_if_empty().push("v1");
    for segment in path.split('/') {
        if segment.is_empty() {
            return Err("its path holds an empty segment");
        }
        if segment == "." || segment == ".." {
            return Err("its path holds a `.` or `..` segment");
        }
        if segment.chars().any(char::is_control) {
            return Err("its path holds a control character");
        }
        segments.push(segment);
    }
    drop(segments);
    Ok(url)
}

/// Whether a standby's redirect may be followed: same origin, same path, same query.
fn follow(sent: &Url, headers: &HeaderMap) -> Result<(), Cause> {
    let target = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|location| sent.join(location).ok());
    let Some(target) = target else {
        return Err(Cause::NoActiveNode);
    };
    if target.origin() == sent.origin()
        && target.path() == sent.path()
        && target.query() == sent.query()
    {
        return Ok(());
    }
    Err(Cause::Redirected { origin: target.origin().ascii_serialization() })
}

/// `Retry-After` in its form of seconds, which Vault uses, or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?;
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let now = headers.get(header::DATE).and_then(http_date)?;
    Duration::try_from(http_date(value)?.duration_since(now)).ok()
}

/// `Age` (RFC 9111), in seconds.
fn age(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::AGE)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// A date of HTTP (RFC 9110, which is RFC 2822's form with `GMT`).
fn http_date(value: &HeaderValue) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value.to_str().ok()?).ok()
}

/// Reads an answer of at most `limit` bytes; what is read is wiped when dropped.
async fn read(mut response: reqwest::Response, limit: usize) -> Result<Zeroizing<Vec<u8>>, Cause> {
    let announced = response.content_length().unwrap_or(0);
    if announced > limit as u64 {
        return Err(Cause::TooLarge { limit });
    }
    let announced = usize::try_from(announced).unwrap_or(limit);
    let mut body = Zeroizing::new(Vec::with_capacity(announced.max(4 << 10)));
    while let Some(chunk) = response.chunk().await.map_err(|error| tls::unreachable(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(Cause::TooLarge { limit });
        }
        if body.capacity() - body.len() < chunk.len() {
            // Growing in place would leave an unwiped copy behind.
            let room = (body.len() + chunk.len()).max(body.capacity() * 2);
            let mut larger = Zeroizing::new(Vec::with_capacity(room));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The keys of a LIST.
#[derive(Deserialize)]
pub(crate) struct Keys {
    #[serde(default, deserialize_with = "wire::list")]
    pub(crate) keys: Vec<String>,
}

/// A LIST: its keys; `None` if there is nothing to list.
pub(crate) async fn list_keys<E: Endpoint>(
    caller: &Caller,
    operation: &Operation,
    endpoint: &E,
) -> Result<Option<Vec<String>>, Error> {
    let Some(answer) = caller.send(operation, endpoint).await?.found()? else {
        return Ok(None);
    };
    Ok(Some(answer.data::<Keys>()?.keys))
}

/// `data` of an object with unknown keys at its top.
pub(crate) type Object<T> = BTreeMap<String, T>;

#[cfg(test)]
mod tests {
    use super::*;

    fn base(address: &str) -> Url {
        parse_address(address).unwrap()
    }

    #[test]
    fn only_a_plain_https_address_is_taken() {
        for good in ["https://vault.example.com:8200", "https://h/vault/", " https://[::1]:8200 "] {
            assert!(parse_address(good).is_ok(), "{good}");
        }
        for bad in [
            "http://vault:8200",
            "https://user:secret@vault",
            "https://vault/?a=b",
            "https://vault/#x",
            "vault:8200",
            "unix:///run/vault.sock",
        ] {
            let error = parse_address(bad).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_path_prefix_of_the_address_stays_in_front() {
        for address in ["https://h/vault", "https://h/vault/"] {
            let url = path_url(&base(address), "/auth/aws/role/web", false).unwrap();
            assert_eq!(url.as_str(), "https://h/vault/v1/auth/aws/role/web");
        }
        let url = path_url(&base("https://h:8200"), "\t/auth/token/renew-self", false).unwrap();
        assert_eq!(url.as_str(), "https://h:8200/v1/auth/token/renew-self");
    }

    #[test]
    fn hostile_paths_are_not_sent() {
        for path in ["a/../b", "a/./b", "a//b", "a/", "a/b\nc", "a/\tb", "a/b\0"] {
            assert!(path_url(&base("https://h"), path, false).is_err(), "{path:?}");
        }
        assert!(path_url(&base("https://h"), "secret/metadata/certs/", true).is_ok());
        assert!(path_url(&base("https://h"), "secret/metadata//", true).is_err());
    }

    #[test]
    fn special_characters_stay_inside_their_segment() {
        let url = path_url(&base("https://h"), "secret/data/a?b#c%2e%2e/ü x\\y", false).unwrap();
        assert_eq!(url.path(), "/v1/secret/data/a%3Fb%23c%252e%252e/%C3%BC%20x%5Cy");
        assert_eq!(url.query(), None);
    }

    #[test]
    fn only_a_redirect_to_the_same_place_is_followed() {
        let sent = Url::parse("https://vault:8200/v1/secret/data/x?version=2").unwrap();
        let to = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, HeaderValue::from_str(location).unwrap());
            follow(&sent, &headers)
        };
        assert!(to("https://vault:8200/v1/secret/data/x?version=2").is_ok());
        assert!(to("/v1/secret/data/x?version=2").is_ok());
        assert!(to("https://vault:8200/v1/secret/data/y?version=2").is_err());
        assert!(to("https://vault:8200/v1/secret/data/x").is_err());
        assert_eq!(
            to("https://evil:8200/v1/secret/data/x?version=2"),
            Err(Cause::Redirected { origin: "https://evil:8200".to_owned() })
        );
        assert!(to("http://vault:8200/v1/secret/data/x?version=2").is_err());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("12"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(12)));
        headers.insert(header::DATE, HeaderValue::from_static("Sat, 21 Nov 2026 03:00:00 GMT"));
        headers
            .insert(header::RETRY_AFTER, HeaderValue::from_static("Sat, 21 Nov 2026 03:00:30 GMT"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(30)));
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("soon"));
        assert_eq!(retry_after(&headers), None);
    }

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            operation: Operation::new("test", "testing"),
            status: StatusCode::from_u16(status).unwrap(),
            age: None,
            body: Zeroizing::new(body.as_bytes().to_vec()),
        }
    }

    #[test]
    fn nothing_there_is_none_and_a_wrong_path_is_an_error() {
        assert!(answer(404, r#"{"errors":[]}"#).found().unwrap().is_none());
        let route =
            r#"{"errors":["no handler for route \"auth/x/role/y\". route entry not found."]}"#;
        assert!(answer(404, route).found().is_err());
        assert!(answer(404, "<html>not here</html>").found().is_err());
        let version_one =
            r#"{"data":null,"warnings":["Invalid path for a versioned K/V secrets engine."]}"#;
        assert!(answer(404, version_one).found().is_err());
        assert!(answer(200, "{}").found().unwrap().is_some());
    }

    #[test]
    fn a_wrapped_answer_is_named() {
        let wrapped = r#"{"data":null,"auth":null,"wrap_info":{"token":"hvs.x","ttl":60}}"#;
        let error = answer(200, wrapped).data::<Object<String>>().unwrap_err();
        assert_eq!(error.cause(), &Cause::WrappedAnswer);
        assert_eq!(answer(200, wrapped).auth().unwrap_err().cause(), &Cause::WrappedAnswer);
    }

    #[test]
    fn a_limited_token_keeps_one_use_for_its_revocation() {
        let token = Token { value: Redacted::new("t".to_owned()), uses: Some(AtomicI64::new(3)) };
        assert!(token.spend().is_ok());
        assert!(token.spend().is_ok());
        assert_eq!(token.spend(), Err(Cause::TokenInvalid));
        token.release_last();
        assert!(token.spend().is_ok());
    }

    #[test]
    fn no_debug_output_holds_a_token() {
        let settings = Settings::new(base("https://vault:8200"));
        let client = Client::new(&settings, Arc::new(Unobserved)).unwrap();
        let caller = client.with_token(Redacted::new("hvs.secret".to_owned()));
        assert!(!format!("{caller:?}").contains("hvs"), "{caller:?}");
    }

    #[tokio::test]
    async fn clients_behind_one_gate_share_what_they_learn_of_the_address() {
        let settings = Settings::new(base("https://127.0.0.1:1"));
        let gate = Gate::new(50, 100);
        let behind = |namespace: &str| {
            let settings = Settings { namespace: Some(namespace.to_owned()), ..settings.clone() };
            let client = Client::behind(&settings, Arc::new(Unobserved), gate.clone()).unwrap();
            client.with_token(Redacted::new("t".to_owned()))
        };
        let (one, other) = (behind("one"), behind("other"));
        for _ in 0..3 {
            tokens::lookup_self(&one).await.unwrap_err();
        }
        let error = tokens::lookup_self(&other).await.unwrap_err();
        assert!(matches!(error.cause(), Cause::CircuitOpen { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable() {
        let settings = Settings::new(base("https://127.0.0.1:1"));
        let client = Client::new(&settings, Arc::new(Unobserved)).unwrap();
        let caller = client.with_token(Redacted::new("t".to_owned()));
        for _ in 0..3 {
            let error = tokens::lookup_self(&caller).await.unwrap_err();
            assert!(
                matches!(error.cause(), Cause::Unreachable { step: error::Step::Connect, .. }),
                "{error:?}"
            );
        }
        let error = tokens::lookup_self(&caller).await.unwrap_err();
        assert!(matches!(error.cause(), Cause::CircuitOpen { .. }), "{error:?}");
        let error = health::read(&client).await.unwrap_err();
        assert!(matches!(error.cause(), Cause::Unreachable { .. }), "health asks all the same");
    }
}
