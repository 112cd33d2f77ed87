//! The operator as a process of the lab: what `deploy/` makes of it in a pod, without a pod.
//!
//! Arguments and environment are those of the Deployment that the cluster holds, the rights those of
//! its ServiceAccount. Only what a pod alone can give is made up for: the API server by a kubeconfig
//! instead of a mounted token, and an address of this machine for probes and metrics.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Container, EnvVar, Secret},
};
use kube::{Api, Client};

use crate::{
    error::{Doing as _, Error, Result},
    files,
    installation::{NAMESPACE, TOKEN_SECONDS},
    keeper::Program,
    lab::Lab,
    ports::Ports,
    server::{Ready, Server},
    web::Trust,
};

/// How long the operator may take to open its admin port.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to stop: what the Deployments give it.
pub const STOP_LIMIT: Duration = Duration::from_secs(30);

/// One of the two Deployments.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Component {
    /// Writes roles and policies in Vault.
    RoleWriter,
    /// Delivers certificates.
    Syncer,
}

impl Component {
    /// Both.
    pub const ALL: [Self; 2] = [Self::RoleWriter, Self::Syncer];

    /// Name of the Deployment and of its ServiceAccount.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoleWriter => "vault-aws-role-writer",
            Self::Syncer => "vault-aws-syncer",
        }
    }

    /// Name of a second replica's process.
    fn second(self) -> &'static str {
        match self {
            Self::RoleWriter => "vault-aws-role-writer-2",
            Self::Syncer => "vault-aws-syncer-2",
        }
    }

    /// The user as which it asks the API server.
    pub fn user(self) -> String {
        format!("system:serviceaccount:{NAMESPACE}:{}", self.name())
    }
}

/// One of the operator's processes. Dropping it kills it; it cannot outlive its owner.
#[derive(Debug)]
pub struct Operator {
    server: Server,
    component: Component,
    admin: SocketAddr,
    http: reqwest::Client,
    /// The API server's audit log calls it so, whatever its user.
    credential: String,
    _port: Ports<1>,
}

impl Operator {
    /// Starts the program with what its Deployment in the cluster says, and returns when its admin
    /// port answers; [`Operator::is_ready`] says more. The [`Installation`](crate::Installation)
    /// must be there.
    pub async fn start(lab: &Lab, component: Component, binary: &Path) -> Result<Self> {
        Self::start_with(lab, component, binary, &[]).await
    }

    /// The same with these variables besides, as `kubectl set env` would add them.
    pub async fn start_with(
        lab: &Lab,
        component: Component,
        binary: &Path,
        more: &[(&str, &str)],
    ) -> Result<Self> {
        Self::start_as(lab, component, component.name(), binary, &lab.kube_url(), more).await
    }

    /// The same with the API server at this URL, where a [`Front`](crate::Front) is.
    pub async fn start_behind(
        lab: &Lab,
        component: Component,
        binary: &Path,
        apiserver: &str,
        more: &[(&str, &str)],
    ) -> Result<Self> {
        Self::start_as(lab, component, component.name(), binary, apiserver, more).await
    }

    /// Starts a second replica beside the first, as `replicas: 2` would.
    pub async fn start_second(lab: &Lab, component: Component, binary: &Path) -> Result<Self> {
        Self::start_as(lab, component, component.second(), binary, &lab.kube_url(), &[]).await
    }

    async fn start_as(
        lab: &Lab,
        component: Component,
        process: &'static str,
        binary: &Path,
        apiserver: &str,
        more: &[(&str, &str)],
    ) -> Result<Self> {
        let folder = folder(lab);
        files::create_folder(&folder)?;
        let port = Ports::<1>::reserve()?;
        let [number] = port.numbers;
        let admin = SocketAddr::from(([127, 0, 0, 1], number));
        let container = container(&lab.kube(), component).await?;
        let name = component.name();
        // Another process of the same name may have been started meanwhile.
        let kubeconfig = folder.join(format!("{process}-{number}.kubeconfig"));
        let token = lab.service_account_token(NAMESPACE, name, &[], TOKEN_SECONDS).await?;
        lab.kubeconfig_at(apiserver, &kubeconfig, &token)?;

        let mut args: Vec<OsString> = container.args.iter().flatten().map(OsString::from).collect();
        args.extend(["--admin-address".into(), admin.to_string().into()]);
        let mut env = environment(&lab.kube(), &container).await?;
        env.extend([
            ("PATH".to_owned(), "/usr/bin:/bin".into()),
            ("HOME".to_owned(), folder.clone().into()),
            ("HOSTNAME".to_owned(), format!("{process}-lab").into()),
            ("KUBECONFIG".to_owned(), kubeconfig.into()),
        ]);
        env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.into())));
        let program = Program {
            path: binary.to_owned(),
            args,
            env,
            folder: Some(folder),
            only_this_env: true,
        };
        let ready = Ready {
            url: format!("http://{admin}/healthz"),
            trust: Trust::default(),
            any_status: true,
            limit: START_LIMIT,
        };
        let server = Server::new(lab.folder(), process, number, program, ready);
        server.start().await?;
        let http = Trust::default().client(Duration::from_secs(5))?;
        let credential = credential(&token)?;
        Ok(Self { server, component, admin, http, credential, _port: port })
    }

    /// Starts it again after it was stopped or killed, on the same port.
    pub async fn start_again(&self) -> Result<()> {
        self.server.start().await
    }

    /// Asks it to end as the kubelet does: whether it ended by itself in [`STOP_LIMIT`], and was not
    /// killed.
    pub async fn stop(&self) -> Result<bool> {
        self.server.stop_within(STOP_LIMIT).await
    }

    /// Kills it, as a lost node would.
    pub async fn kill9(&self) -> Result<()> {
        self.server.kill9().await
    }

    /// Freezes it, as a node that is out of memory would.
    pub fn pause(&self) -> Result<()> {
        self.server.pause()
    }

    /// Lets it go on, as if nothing had been.
    pub fn resume(&self) -> Result<()> {
        self.server.resume()
    }

    /// What the API server's audit log calls this process and no other:
    /// `authentication.kubernetes.io/credential-id`.
    pub fn credential(&self) -> &str {
        &self.credential
    }

    /// Whether it says that it holds the lease. One that does not answer does not.
    pub async fn leads(&self) -> bool {
        self.metrics().await.is_ok_and(|text| text.lines().any(|line| line == "vault_aws_leader 1"))
    }

    /// Which of the two it is.
    pub fn component(&self) -> Component {
        self.component
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Whether its process runs.
    pub fn is_alive(&self) -> bool {
        self.server.is_alive()
    }

    /// Where its output goes, of all its lives.
    pub fn log(&self) -> &Path {
        self.server.log()
    }

    /// What it serves at a path such as `/readyz`: status and text.
    pub async fn page(&self, path: &str) -> Result<(u16, String)> {
        let doing = || format!("asking {} for {path}", self.component.name());
        let answer =
            self.http.get(format!("http://{}{path}", self.admin)).send().await.doing(doing)?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.doing(doing)?))
    }

    /// Its metrics in the text format.
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.page("/metrics").await?.1)
    }

    /// Whether it says so. One that does not answer is not.
    pub async fn is_ready(&self) -> bool {
        self.page("/readyz").await.is_ok_and(|(status, _)| status == 200)
    }

    /// Waits until it is.
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        let waiting = async {
            while !self.is_ready().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(limit, waiting).await.is_ok() {
            return Ok(());
        }
        let complaint =
            self.page("/readyz").await.map_or_else(|error| error.story(), |page| page.1);
        Err(Error::TooSlow {
            what: format!("{} becoming ready ({})", self.component.name(), complaint.trim()),
            seconds: limit.as_secs(),
            log: self.log().to_owned(),
            tail: files::tail(self.log()),
        })
    }

    /// Resident memory in KiB; none if it does not run.
    pub fn rss_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

/// The ID of a ServiceAccount token as the audit log writes it.
fn credential(token: &str) -> Result<String> {
    let unfit = || "reading the ID of a ServiceAccount token".to_owned();
    let payload = token.split('.').nth(1).unwrap_or_default();
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(std::io::Error::other);
    let claims: serde_json::Value =
        serde_json::from_slice(&bytes.doing(unfit)?).map_err(std::io::Error::other).doing(unfit)?;
    Ok(format!("JTI={}", claims["jti"].as_str().unwrap_or_default()))
}

/// Where kubeconfigs and token files of the operator are.
pub(crate) fn folder(lab: &Lab) -> PathBuf {
    lab.folder().join("operator")
}

/// The Deployment's one container, as the cluster holds it.
async fn container(client: &Client, component: Component) -> Result<Container> {
    let name = component.name();
    let deployment = Api::<Deployment>::namespaced(client.clone(), NAMESPACE)
        .get(name)
        .await
        .doing(|| format!("reading Deployment {name}"))?;
    let pod = deployment.spec.and_then(|spec| spec.template.spec);
    let mut containers = pod.map(|pod| pod.containers).unwrap_or_default();
    match (containers.pop(), containers.is_empty()) {
        (Some(container), true) => Ok(container),
        _ => unlike_a_pod(format!("Deployment {name} has not exactly one container")),
    }
}

/// The environment as the kubelet would make it, without the variables of Services.
async fn environment(client: &Client, container: &Container) -> Result<Vec<(String, OsString)>> {
    let mut env = Vec::new();
    for source in container.env_from.iter().flatten() {
        let Some(reference) = &source.secret_ref else {
            return unlike_a_pod("envFrom of something else than a Secret".to_owned());
        };
        let secret = Api::<Secret>::namespaced(client.clone(), NAMESPACE)
            .get_opt(&reference.name)
            .await
            .doing(|| format!("reading Secret {}", reference.name))?;
        if secret.is_none() && reference.optional != Some(true) {
            return unlike_a_pod(format!("there is no Secret {}", reference.name));
        }
        for (key, value) in secret.and_then(|secret| secret.data).unwrap_or_default() {
            let value = String::from_utf8(value.0)
                .map_err(std::io::Error::other)
                .doing(|| format!("reading {key} of Secret {}", reference.name))?;
            env.push((key, value.into()));
        }
    }
    for variable in container.env.iter().flatten() {
        env.push((variable.name.clone(), value(variable)?.into()));
    }
    Ok(env)
}

fn value(variable: &EnvVar) -> Result<String> {
    let Some(source) = &variable.value_from else {
        return Ok(variable.value.clone().unwrap_or_default());
    };
    match source.field_ref.as_ref().map(|field| field.field_path.as_str()) {
        Some("metadata.namespace") => Ok(NAMESPACE.to_owned()),
        _ => unlike_a_pod(format!("the lab cannot make up the value of {}", variable.name)),
    }
}

/// The Deployment asks for something that the lab does not do as a kubelet would.
fn unlike_a_pod<T>(what: String) -> Result<T> {
    Err(std::io::Error::other(what)).doing(|| "running a Deployment without a pod".to_owned())
}
