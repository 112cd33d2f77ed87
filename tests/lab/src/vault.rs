//! Vault by plain HTTP, for what tests prepare and look at. No types: a test says exactly what it
//! sends and sees exactly what Vault answers.

use std::{fmt, time::Duration};

use reqwest::{Client, Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use crate::error::{Doing as _, Error, Result};

/// A Vault client with a token. Paths have no `v1/` and no slash in front: `sys/policies/acl/web`.
#[derive(Clone)]
pub struct Vault {
    http: Client,
    addr: String,
    token: String,
}

impl Vault {
    pub(crate) fn new(http: Client, addr: String, token: String) -> Self {
        Self { http, addr, token }
    }

    /// The same Vault, asked with another token; an empty one sends none.
    #[must_use]
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self { token: token.into(), ..self.clone() }
    }

    /// The address, without a slash at the end.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// The token it sends.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Result<(u16, Value)> {
        self.request(Method::GET, path, None).await
    }

    /// Writes with POST.
    pub async fn post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        self.request(Method::POST, path, Some(body)).await
    }

    /// Writes with PUT.
    pub async fn put(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        self.request(Method::PUT, path, Some(body)).await
    }

    /// Deletes.
    pub async fn delete(&self, path: &str) -> Result<(u16, Value)> {
        self.request(Method::DELETE, path, None).await
    }

    /// Lists.
    pub async fn list(&self, path: &str) -> Result<(u16, Value)> {
        self.request(Method::GET, &format!("{path}?list=true"), None).await
    }

    /// Writes what must succeed: any other answer is an error.
    pub async fn write(&self, path: &str, body: &Value) -> Result<Value> {
        let (status, answer) = self.post(path, body).await?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let doing = format!("writing {path}");
        Err(Error::Vault { doing, status, body: answer.to_string() })
    }

    /// Status and answer: null if there is no body, a string if it is not JSON.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let doing = || format!("{method} {path}");
        let mut request = self.http.request(method.clone(), format!("{}/v1/{path}", self.addr));
        if !self.token.is_empty() {
            request = request.header("x-vault-token", &self.token);
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let answer = request.send().await.doing(doing)?;
        let status = answer.status().as_u16();
        let text = answer.text().await.doing(doing)?;
        let value = match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        Ok((status, value))
    }

    /// All that it stores, as `vault operator raft snapshot save` takes it.
    pub async fn snapshot(&self) -> Result<Vec<u8>> {
        let doing = || "taking a snapshot of Vault".to_owned();
        let url = format!("{}/v1/sys/storage/raft/snapshot", self.addr);
        let answer = self.http.get(url).header("x-vault-token", &self.token).send().await;
        let answer = answer.doing(doing)?.error_for_status().doing(doing)?;
        Ok(answer.bytes().await.doing(doing)?.to_vec())
    }

    /// Puts back what it stored then, as `vault operator raft snapshot restore -force` does it.
    pub async fn restore(&self, snapshot: Vec<u8>) -> Result<()> {
        let doing = || "restoring a snapshot of Vault".to_owned();
        let url = format!("{}/v1/sys/storage/raft/snapshot-force", self.addr);
        let request = self.http.post(url).header("x-vault-token", &self.token).body(snapshot);
        request.send().await.doing(doing)?.error_for_status().doing(doing).map(drop)
    }

    /// Initialises a new Vault with one key: returns that key and the root token.
    pub(crate) async fn init(&self) -> Result<(String, String)> {
        let answer =
            self.write("sys/init", &json!({"secret_shares": 1, "secret_threshold": 1})).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok((text(&answer["keys"][0]), text(&answer["root_token"])))
    }

    /// Unseals and waits until it is active.
    pub(crate) async fn unseal(&self, key: &str) -> Result<()> {
        const LIMIT: u32 = 60_000;
        const LOOK: u32 = 25;
        self.write("sys/unseal", &json!({"key": key})).await?;
        for _ in 0..LIMIT / LOOK {
            if self.get("sys/health").await?.0 == 200 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(LOOK.into())).await;
        }
        let (status, body) = self.get("sys/health").await?;
        let doing = "waiting for Vault to become active".to_owned();
        Err(Error::Vault { doing, status, body: body.to_string() })
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("addr", &self.addr).finish_non_exhaustive()
    }
}
