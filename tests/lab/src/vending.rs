//! An endpoint that vends AWS credentials on this machine, as a container agent does it: what
//! `AWS_CONTAINER_CREDENTIALS_FULL_URI` names.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::AUTHORIZATION,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    aws::Keys,
    error::{Doing as _, Result},
};

/// What must be sent as `Authorization`: `AWS_CONTAINER_AUTHORIZATION_TOKEN`.
const AUTHORIZATION_TOKEN: &str = "lab-container-agent";

/// The running endpoint. It ends when dropped.
#[derive(Debug)]
pub struct Vending {
    url: String,
    stock: Arc<Mutex<Stock>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Stock {
    keys: Keys,
    life: SignedDuration,
    slowness: Duration,
    vended: u64,
    refused: u64,
}

impl Vending {
    /// Vends these keys; each answer says that they end after `life`.
    pub async fn start(keys: Keys, life: SignedDuration) -> Result<Self> {
        let doing = || "listening for questions for credentials".to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.doing(doing)?;
        let url = format!("http://{}/credentials", listener.local_addr().doing(doing)?);
        let stock = Stock { keys, life, slowness: Duration::ZERO, vended: 0, refused: 0 };
        let stock = Arc::new(Mutex::new(stock));
        let task = tokio::spawn(serve(listener, Arc::clone(&stock)));
        Ok(Self { url, stock, task })
    }

    /// The variables by which a process finds it, and no other credentials before.
    pub fn env(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("AWS_ACCESS_KEY_ID", ""),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &self.url),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", AUTHORIZATION_TOKEN),
        ]
    }

    /// Vends others from now on.
    pub fn vend(&self, keys: Keys, life: SignedDuration) {
        let mut stock = lock(&self.stock);
        stock.keys = keys;
        stock.life = life;
    }

    /// Takes its time for each answer.
    pub fn be_slow(&self, slowness: Duration) {
        lock(&self.stock).slowness = slowness;
    }

    /// How often credentials were handed out.
    pub fn vended(&self) -> u64 {
        lock(&self.stock).vended
    }

    /// How often somebody asked who had no right to.
    pub fn refused(&self) -> u64 {
        lock(&self.stock).refused
    }
}

impl Drop for Vending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, stock: Arc<Mutex<Stock>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let stock = Arc::clone(&stock);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&stock, request));
            // The other side went away, or spoke something else than HTTP: its own affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    stock: &Mutex<Stock>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let slowness = lock(stock).slowness;
    tokio::time::sleep(slowness).await;
    let mut stock = lock(stock);
    let token = request.headers().get(AUTHORIZATION).and_then(|token| token.to_str().ok());
    let (status, body) = if token == Some(AUTHORIZATION_TOKEN) {
        stock.vended += 1;
        let end = Timestamp::now().checked_add(stock.life).unwrap_or(Timestamp::MAX);
        let body = json!({
            "AccessKeyId": stock.keys.access_key,
            "SecretAccessKey": stock.keys.secret_key,
            "Token": stock.keys.session_token,
            "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        (StatusCode::OK, body)
    } else {
        stock.refused += 1;
        (StatusCode::UNAUTHORIZED, json!({"code": "Unauthorized"}))
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    Ok(response)
}

fn lock(stock: &Mutex<Stock>) -> MutexGuard<'_, Stock> {
    stock.lock().unwrap_or_else(PoisonError::into_inner)
}
