//! A front of the emulator's STS that refuses what AWS refuses and the emulator does not: a
//! signature for one region sent to the endpoint of another, and a web identity token that is not of
//! the cluster, not for the account, or expired.
//!
//! Vault forwards a login to one STS, its `sts_endpoint`, with the `Host` the client signed. So
//! the region in the signature and the host must agree, and in AWS a mismatch is the most common
//! reason why a login fails. Tests also read here who asked for what, make STS fail, and have it answer
//! what STS never would.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::{net::TcpStream, sync::watch};

use crate::{
    aws::{Aws, text},
    door::Door,
    error::{Doing as _, Result},
    front::Reply,
    oidc::{self, Refusal, Token},
    ports::Ports,
    web::Trust,
};

/// How many requests are remembered.
const REMEMBERED: usize = 2000;
const LARGEST_BODY: usize = 1 << 20;

/// A request that reached the front, and what came of it.
#[derive(Clone, Debug)]
pub struct StsRequest {
    /// When it came.
    pub time: Timestamp,
    /// For example `GetCallerIdentity`; empty if it has none.
    pub action: String,
    /// The ARN of the role that was to be assumed; empty for other actions.
    pub role: String,
    /// Who signed it; empty if nobody did.
    pub access_key: String,
    /// The `Host` it was signed for, without port.
    pub host: String,
    /// The region it was signed for; empty if it is not signed.
    pub region: String,
    /// The answer's status.
    pub status: u16,
}

/// The running front. It ends when dropped.
#[derive(Debug)]
pub struct StsFront {
    url: String,
    shared: Arc<Shared>,
    door: Door<bool>,
    /// Of one that came later; the first one's is the lab's.
    _port: Option<Ports<1>>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    http: reqwest::Client,
    /// To ask which issuers an account trusts.
    aws: Aws,
    issuer: Issuer,
    state: Mutex<State>,
}

/// Whose tokens are believed.
#[derive(Debug)]
pub(crate) struct Issuer {
    /// The API server's URL.
    pub(crate) url: String,
    /// How it is asked for its keys.
    pub(crate) trust: Trust,
}

/// How the front treats requests about some roles.
#[derive(Clone, Debug)]
pub enum Treatment {
    /// Answers so, for example 400 `Throttling`.
    Refuse(u16, &'static str),
    /// Takes this long before it does anything.
    Delay(Duration),
}

#[derive(Debug, Default)]
struct State {
    requests: VecDeque<StsRequest>,
    fault: Option<(StatusCode, String)>,
    /// By a part of the action.
    replies: Vec<Reply>,
    /// The status with which requests are sent back as they came, by a part of the action.
    echo: Option<(String, StatusCode)>,
    /// By a part of the role's ARN.
    treatments: Vec<(String, Treatment)>,
    /// Secret keys and session tokens that were given out.
    issued: BTreeSet<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn treatment(&self, role: &str) -> Option<Treatment> {
        let mut all = self.treatments.iter();
        all.find(|(part, _)| role.contains(part.as_str())).map(|(_, treatment)| treatment.clone())
    }
}

impl StsFront {
    /// Another one, on a port of its own.
    pub(crate) async fn another(upstream: String, aws: Aws, issuer: Issuer) -> Result<Self> {
        let port = Ports::<1>::reserve()?;
        let [number] = port.numbers;
        let mut front = Self::start(number, upstream, aws, issuer).await?;
        front._port = Some(port);
        Ok(front)
    }

    /// Listens on 127.0.0.1 and forwards to `upstream`, a URL without slash at the end.
    pub(crate) async fn start(
        port: u16,
        upstream: String,
        aws: Aws,
        issuer: Issuer,
    ) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let http = Trust::default().client(Duration::from_secs(60))?;
        let shared = Arc::new(Shared { upstream, http, aws, issuer, state: Mutex::default() });
        let known = Arc::clone(&shared);
        let talk = move |stream, wish| talk(stream, wish, Arc::clone(&known));
        let door = Door::open(address, true, |open| *open, talk)
            .await
            .doing(|| format!("listening on {address} for STS"))?;
        Ok(Self { url: format!("http://{address}"), shared, door, _port: None })
    }

    /// The URL for Vault's `sts_endpoint` and the operator's `AWS_ENDPOINT_URL_STS`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The last requests, oldest first.
    pub fn requests(&self) -> Vec<StsRequest> {
        self.shared.state().requests.iter().cloned().collect()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.shared.state().requests.clear();
    }

    /// Every secret key and session token that was given out by it.
    pub fn issued(&self) -> BTreeSet<String> {
        self.shared.state().issued.clone()
    }

    /// Answers everything with this error, for example 400 `Throttling`, until
    /// [`StsFront::answer_normally`].
    ///
    /// # Errors
    /// `status` is not an HTTP status.
    pub fn answer_with(&self, status: u16, code: &str) -> Result<()> {
        let status = StatusCode::from_u16(status)
            .map_err(std::io::Error::other)
            .doing(|| format!("making STS answer {status}"))?;
        self.shared.state().fault = Some((status, code.to_owned()));
        Ok(())
    }

    /// Answers so from now on, whatever STS would say; earlier replies go first. What a reply is
    /// [about](Reply::about) is an action here, such as `GetCallerIdentity`.
    pub fn answer(&self, reply: Reply) {
        self.shared.state().replies.push(reply);
    }

    /// Answers such an action with all that it was asked, headers and form, as XML. The worst that a
    /// proxy in the way can do.
    ///
    /// # Errors
    /// `status` is not an HTTP status.
    pub fn echo(&self, action: &str, status: u16) -> Result<()> {
        let status = StatusCode::from_u16(status)
            .map_err(std::io::Error::other)
            .doing(|| format!("making STS answer {status}"))?;
        self.shared.state().echo = Some((action.to_owned(), status));
        Ok(())
    }

    /// Ends [`StsFront::answer_with`], [`StsFront::answer`] and [`StsFront::echo`].
    pub fn answer_normally(&self) {
        let mut state = self.shared.state();
        state.fault = None;
        state.replies.clear();
        state.echo = None;
    }

    /// Treats requests to assume roles whose ARN holds this text so, until [`StsFront::treat_well`].
    pub fn treat(&self, role: &str, treatment: Treatment) {
        self.treat_well(role);
        self.shared.state().treatments.push((role.to_owned(), treatment));
    }

    /// Ends [`StsFront::treat`].
    pub fn treat_well(&self, role: &str) {
        self.shared.state().treatments.retain(|(part, _)| part != role);
    }

    /// Drops all connections and refuses new ones. Returns when the port is closed.
    pub async fn refuse(&self) {
        self.door.wish(|open| *open = false).await;
    }

    /// Ends [`StsFront::refuse`]. Returns when the port is open.
    pub async fn accept(&self) {
        self.door.wish(|open| *open = true).await;
    }
}

/// Serves one connection until it ends or refusing is wished.
async fn talk(stream: TcpStream, mut wish: watch::Receiver<bool>, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(&shared, request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // The other side went away, or spoke something else than HTTP: its own affair.
        _ = connection => {}
        _ = wish.wait_for(|open| !open) => {}
    }
}

async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let time = Timestamp::now();
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            return Ok(refusal(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLarge", ""));
        }
    };
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).map(without_port);
    let host = host.unwrap_or_default();
    let (access_key, region) = scope(&parts).unwrap_or_default();
    let form = String::from_utf8_lossy(&body);
    let parameter = |name| {
        parameter(&form, name)
            .or_else(|| parameter(parts.uri.query().unwrap_or_default(), name))
            .unwrap_or_default()
    };
    let (action, role) = (parameter("Action"), parameter("RoleArn"));
    let (treatment, reply, echo, mut fault) = {
        let mut state = shared.state();
        let reply = Reply::to_this(&mut state.replies, &parts.method, &action);
        let echo = state.echo.clone().filter(|(part, _)| action.contains(part.as_str()));
        (state.treatment(&role), reply, echo, state.fault.clone())
    };
    match treatment {
        Some(Treatment::Refuse(status, code)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            fault = Some((status, code.to_owned()));
        }
        Some(Treatment::Delay(delay)) => tokio::time::sleep(delay).await,
        None => {}
    }
    let response = if let Some(reply) = reply {
        reply.made_up()
    } else if let Some((_, status)) = echo {
        xml(status, format!("<Request>{:?}\n{form}</Request>", parts.headers))
    } else if let Some((status, code)) = fault {
        refusal(status, &code, "The lab was told to answer so.")
    } else if !region.is_empty() && region_of(&host) != Some(region.as_str()) {
        let message = format!("Credential should be scoped to a valid region, not '{region}'.");
        refusal(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", &message)
    } else if action == "AssumeRoleWithWebIdentity" {
        match believe(shared, &role, &parameter("WebIdentityToken")).await {
            Ok(Ok(())) => forward(shared, &parts, body.clone()).await,
            Ok(Err(Refusal { code, message })) => refusal(StatusCode::BAD_REQUEST, code, &message),
            Err(error) => refusal(StatusCode::BAD_REQUEST, "IDPCommunicationError", &error.story()),
        }
    } else {
        forward(shared, &parts, body.clone()).await
    };
    let status = response.status().as_u16();
    let mut state = shared.state();
    if state.requests.len() == REMEMBERED {
        state.requests.pop_front();
    }
    state.requests.push_back(StsRequest { time, action, access_key, role, host, region, status });
    Ok(response)
}

/// What AWS finds out about a token before it looks at the role.
async fn believe(shared: &Shared, role: &str, token: &str) -> Result<Result<(), Refusal>> {
    let parsed = match Token::parse(token) {
        Ok(parsed) => parsed,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let issuer = &shared.issuer;
    let account = role.split(':').nth(4).unwrap_or_default();
    let known = match parsed.issuer() == issuer.url {
        true => shared.aws.audiences(account, &issuer.url).await?,
        false => None,
    };
    let Some(audiences) = known else { return Ok(Err(oidc::unknown_issuer(parsed.issuer()))) };
    let url = format!("{}/openid/v1/jwks", issuer.url);
    let doing = || format!("asking {url} for keys");
    let client = issuer.trust.client(Duration::from_secs(10))?;
    let answer = client.get(&url).send().await.doing(doing)?;
    let answer = answer.error_for_status().doing(doing)?.bytes().await.doing(doing)?;
    let keys = serde_json::from_slice(&answer).map_err(std::io::Error::other).doing(doing)?;
    Ok(parsed.verify(&keys, &audiences, Timestamp::now()))
}

/// The same request to the emulator. `Host` stays, as the signature covers it.
async fn forward(shared: &Shared, parts: &Parts, body: Bytes) -> Response<Full<Bytes>> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let sent = shared
        .http
        .request(parts.method.clone(), format!("{}{target}", shared.upstream))
        .headers(end_to_end(&parts.headers))
        .body(body)
        .send()
        .await;
    let attempt = async {
        let answer = sent?;
        let (status, headers) = (answer.status(), end_to_end(answer.headers()));
        let body = answer.bytes().await?;
        let xml = String::from_utf8_lossy(&body);
        let secrets = ["SecretAccessKey", "SessionToken"];
        let issued = secrets.iter().filter_map(|element| text(&xml, element));
        shared.state().issued.extend(issued);
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok::<_, reqwest::Error>(response)
    };
    attempt.await.unwrap_or_else(|error| {
        refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", &error.to_string())
    })
}

/// The headers without those that speak of one connection only.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response<Full<Bytes>> {
    let at_fault = if status.is_server_error() { "Receiver" } else { "Sender" };
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
         <Type>{at_fault}</Type><Code>{code}</Code><Message>{message}</Message></Error>\
         <RequestId>00000000-0000-4000-8000-000000000000</RequestId></ErrorResponse>"
    );
    xml(status, body)
}

fn xml(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let xml = hyper::header::HeaderValue::from_static("text/xml");
    response.headers_mut().insert(CONTENT_TYPE, xml);
    response
}

fn without_port(host: &str) -> String {
    host.split(':').next().unwrap_or_default().to_ascii_lowercase()
}

/// The region whose signatures the STS of that host takes; none if it is no STS.
fn region_of(host: &str) -> Option<&str> {
    match host {
        // The global endpoint, and ourselves.
        "sts.amazonaws.com" | "127.0.0.1" | "localhost" => return Some("us-east-1"),
        _ => {}
    }
    let rest = host.strip_prefix("sts.")?;
    let china = rest.strip_suffix(".amazonaws.com.cn").filter(|region| region.starts_with("cn-"));
    let region = china.or_else(|| {
        rest.strip_suffix(".amazonaws.com").filter(|region| !region.starts_with("cn-"))
    })?;
    (!region.is_empty() && !region.contains('.')).then_some(region)
}

/// Access key and region from the credential scope, `AKIA…/20260131/us-east-1/sts/aws4_request`,
/// in the header or, for a presigned URL, in the query.
fn scope(parts: &Parts) -> Option<(String, String)> {
    let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let scope = match header.and_then(|header| header.split_once("Credential=")) {
        Some((_, rest)) => rest.split([',', ' ']).next().unwrap_or_default().to_owned(),
        None => parameter(parts.uri.query()?, "X-Amz-Credential")?,
    };
    let mut fields = scope.split('/');
    let access_key = fields.next()?;
    let region = fields.nth(1)?;
    Some((access_key.to_owned(), region.to_owned()))
}

/// A form parameter.
fn parameter(form: &str, name: &str) -> Option<String> {
    form.split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| decode(value))
}

/// Undoes percent-encoding; what is none stays.
fn decode(text: &str) -> String {
    let mut bytes = text.as_bytes().iter();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(&byte) = bytes.next() {
        let rest = bytes.as_slice();
        let code = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match code.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(code) if byte == b'%' => {
                decoded.push(code);
                bytes.nth(1);
            }
            _ => decoded.push(if byte == b'+' { b' ' } else { byte }),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_takes_the_signatures_of_its_region_only() {
        for (host, region) in [
            ("sts.amazonaws.com", Some("us-east-1")),
            ("sts.us-east-1.amazonaws.com", Some("us-east-1")),
            ("sts.eu-central-1.amazonaws.com", Some("eu-central-1")),
            ("sts.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("127.0.0.1", Some("us-east-1")),
            ("localhost", Some("us-east-1")),
            ("sts.cn-north-1.amazonaws.com", None),
            ("sts.eu-west-1.amazonaws.com.cn", None),
            ("sts..amazonaws.com", None),
            ("sts.a.b.amazonaws.com", None),
            ("sts.amazonaws.com.evil.example.com", None),
            ("evil.example.com", None),
            ("", None),
        ] {
            assert_eq!(region_of(host), region, "{host}");
        }
    }

    fn parts(uri: &str, authorization: Option<&str>) -> Parts {
        let mut request = Request::builder().uri(uri);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn the_credential_scope_is_read_from_header_or_query() {
        let expected = Some(("AKIA1".to_owned(), "eu-west-1".to_owned()));
        let header = "AWS4-HMAC-SHA256 Credential=AKIA1/20260131/eu-west-1/sts/aws4_request, \
                      SignedHeaders=host, Signature=0";
        assert_eq!(scope(&parts("/", Some(header))), expected);
        let query = "/?X-Amz-Credential=AKIA1%2F20260131%2Feu-west-1%2Fsts%2Faws4_request";
        assert_eq!(scope(&parts(query, None)), expected);
        assert_eq!(scope(&parts("/", None)), None);
    }

    #[test]
    fn a_parameter_is_decoded() {
        let form = "Action=X&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fweb&Name=a+b%2&Empty=";
        assert_eq!(parameter(form, "RoleArn").as_deref(), Some("arn:aws:iam::1:role/web"));
        assert_eq!(parameter(form, "Name").as_deref(), Some("a b%2"));
        assert_eq!(parameter(form, "Empty").as_deref(), Some(""));
        assert_eq!(parameter(form, "Other"), None);
    }
}
