//! Kubeconfigs, `kubectl`, and tokens of ServiceAccounts.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use crate::{
    error::{Doing as _, Error, Result},
    files,
};

/// Who a kubeconfig says one is.
pub(crate) enum User {
    /// Files of a client certificate and its key.
    Certificate(PathBuf, PathBuf),
    /// A bearer token.
    Token(String),
}

/// Writes a kubeconfig (JSON is YAML) that only its owner may read.
pub(crate) fn write_kubeconfig(path: &Path, server: &str, ca: &Path, user: &User) -> Result<()> {
    let user = match user {
        User::Certificate(certificate, key) => {
            json!({"client-certificate": certificate, "client-key": key})
        }
        User::Token(token) => json!({"token": token}),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "lab",
            "cluster": {"server": server, "certificate-authority": ca},
        }],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    });
    files::write(path, format!("{config:#}\n"))
}

/// A client for the kubeconfig; its connections go straight to the server.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    let unreadable =
        |source| Error::Kubeconfig { path: kubeconfig.to_owned(), source: Box::new(source) };
    let content = Kubeconfig::read_from(kubeconfig).map_err(unreadable)?;
    let mut config = Config::from_custom_kubeconfig(content, &KubeConfigOptions::default())
        .await
        .map_err(unreadable)?;
    config.proxy_url = None;
    Client::try_from(config).doing(|| "making a Kubernetes client".to_owned())
}

/// Runs `kubectl`, with `input` on its stdin, and returns what it said. A failed kubectl is not an
/// error of this function.
pub(crate) fn kubectl(
    program: &Path,
    kubeconfig: &Path,
    args: &[impl AsRef<OsStr>],
    input: &str,
) -> Result<Output> {
    let attempt = || {
        let mut child = Command::new(program)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--request-timeout=30s")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input may have ended: its output says more.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    attempt().doing(|| format!("running {}", program.display()))
}

/// A token of the ServiceAccount, by TokenRequest.
pub(crate) async fn service_account_token(
    client: &Client,
    namespace: &str,
    name: &str,
    audiences: &[&str],
    seconds: i64,
) -> Result<String> {
    let doing = || format!("asking for a token of ServiceAccount {namespace}/{name}");
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audiences.iter().map(ToString::to_string).collect(),
            expiration_seconds: Some(seconds),
            bound_object_ref: None,
        },
        ..TokenRequest::default()
    };
    let answer = Api::<ServiceAccount>::namespaced(client.clone(), namespace)
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .doing(doing)?;
    Ok(answer.status.map(|status| status.token).unwrap_or_default())
}
