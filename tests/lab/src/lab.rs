//! One lab: the order in which its servers start and stop, and what a test may ask of it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::json;

use crate::{
    aws::{Aws, CLIENT_ACCOUNTS, EXTERNAL_ID, HOME_ACCOUNT, REGION, Seeds},
    error::{Error, Result},
    files,
    folder::{self, Folder, Owner, SeenServer},
    kubernetes::{self, User},
    namespaces::NamespaceFront,
    pki::{self, Holder, Pki},
    ports::Ports,
    server::Server,
    servers::{Layout, Numbers},
    sts::{Issuer, StsFront},
    toolchain::Toolchain,
    vault::Vault,
    web::{self, Trust},
};

/// How long a test's own request to a server of the lab may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// How a lab is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// A name of its own, 1 to 40 of a-z, 0-9 and `-`; the default has the pid in it.
    pub name: String,
    /// Which servers run.
    pub parts: Parts,
    /// Tell on stderr when each server is ready.
    pub progress: bool,
    /// Leave the folder with all logs where it is when the lab ends.
    pub keep_files: bool,
    /// Whether `cargo lab down` may end this process.
    pub detached: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: format!("test-{}", std::process::id()),
            parts: Parts::default(),
            progress: false,
            keep_files: false,
            detached: false,
        }
    }
}

/// The parts of a lab. What is left out has an address nonetheless, where nobody listens.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// etcd, the API server and the controller manager.
    pub kubernetes: bool,
    /// Vault, initialised, unsealed, with an audit log.
    pub vault: bool,
    /// The AWS emulator with [`Seeds`], and the STS front.
    pub aws: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self { kubernetes: true, vault: true, aws: true }
    }
}

/// A running lab. Dropping it kills the servers and removes its folder; [`Lab::stop`] is kinder.
///
/// Make it on the runtime that outlives all its users: its clients have tasks there.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: the servers before the folder they write to.
    controller_manager: Server,
    apiserver: Server,
    etcd: Server,
    vault_server: Server,
    ministack: Server,
    sts: StsFront,
    remains: Remains,
    layout: Layout,
    /// Vault, asked as root.
    pub vault: Vault,
    /// The AWS emulator.
    pub aws: Aws,
    /// What AWS has from the start; empty without that part.
    pub seeds: Option<Seeds>,
    unseal_key: String,
    kube: KubeClient,
    name: String,
    parts: Parts,
    _ports: Ports<10>,
}

/// `kube::Client` has no Debug.
struct KubeClient(kube::Client);

impl std::fmt::Debug for KubeClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KubeClient")
    }
}

/// A folder that goes with its lab.
#[derive(Debug)]
struct Remains {
    folder: Folder,
    keep: bool,
}

impl Drop for Remains {
    fn drop(&mut self) {
        if !self.keep {
            let _ = self.folder.remove();
        }
    }
}

impl Lab {
    /// Builds what is missing, then starts everything and returns when all of it answers.
    pub async fn start(options: Options) -> Result<Self> {
        web::install_tls_provider();
        let Options { name, parts, progress, keep_files, detached } = options;
        let steps = Steps { begun: Instant::now(), told: progress };
        let tools = tokio::task::spawn_blocking(Toolchain::ensure).await??;
        let folder = Folder::take(&name, Owner { pid: std::process::id(), detached })?;
        let ports = Ports::reserve()?;
        let pki = Pki::at(folder.path.join("pki"));
        let layout = Layout {
            folder: folder.path.clone(),
            pki: pki.clone(),
            ports: Numbers::from(ports.numbers),
            tools,
        };
        layout.create()?;
        let aws = Aws::new(Trust::default().client(REQUEST_LIMIT)?, layout.aws_url());
        let (upstream, issuer) = (layout.aws_url(), issuer(&layout));
        let sts = StsFront::start(layout.ports.sts, upstream, aws.clone(), issuer).await?;
        let seen = SeenServer {
            name: "sts-front".to_owned(),
            pid: std::process::id(),
            port: layout.ports.sts,
        };
        folder::record_server(&layout.folder.join("pid").join("sts-front"), &seen)?;

        let etcd = layout.etcd();
        let apiserver = layout.apiserver()?;
        let controller_manager = layout.controller_manager()?;
        let vault_server = layout.vault()?;
        let ministack = layout.ministack();

        let emulator = async {
            if !parts.aws {
                return Ok(None);
            }
            ministack.start().await?;
            steps.tell("ministack");
            aws.seed().await.map(Some)
        };
        let others = async {
            tokio::task::spawn_blocking(move || pki.create()).await??;
            tokio::try_join!(
                start_vault(parts.vault, &layout, &vault_server, &steps),
                start_kubernetes(
                    parts.kubernetes,
                    [&etcd, &apiserver, &controller_manager],
                    &layout,
                    &steps
                ),
            )
        };
        let (seeds, ((vault, unseal_key), kube)) = tokio::try_join!(emulator, others)?;
        let lab = Self {
            controller_manager,
            apiserver,
            etcd,
            vault_server,
            ministack,
            sts,
            // From here on it goes with the lab; the folder of a failed start stays, for its logs.
            remains: Remains { folder, keep: keep_files },
            layout,
            vault,
            aws,
            seeds,
            unseal_key,
            kube,
            name,
            parts,
            _ports: ports,
        };
        lab.remains.folder.announce(&lab.env())?;
        steps.tell("everything");
        Ok(lab)
    }

    /// Ends all servers in order and removes the folder.
    pub async fn stop(self) -> Result<()> {
        let clients =
            [&self.controller_manager, &self.apiserver, &self.vault_server, &self.ministack];
        let ends = join_all(clients.map(Server::stop)).await;
        ends.into_iter().collect::<Result<()>>()?;
        // Last: the API server waits for it when it ends.
        self.etcd.stop().await
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The environment of a shell that works with this lab; `PATH` here is only what goes in front.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env = Vec::new();
        let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
        set("LAB_NAME", &self.name);
        set("LAB_FOLDER", &self.layout.folder.to_string_lossy());
        if self.parts.kubernetes {
            set("KUBECONFIG", &self.kubeconfig().to_string_lossy());
        }
        if self.parts.vault {
            set("VAULT_ADDR", self.vault.addr());
            set("VAULT_CACERT", &self.ca_path().to_string_lossy());
            set("VAULT_TOKEN", self.vault.token());
            set("LAB_VAULT_UNSEAL_KEY", &self.unseal_key);
        }
        if let Some(seeds) = &self.seeds {
            set("AWS_ENDPOINT_URL", &self.layout.aws_url());
            set("AWS_ENDPOINT_URL_STS", self.sts.url());
            set("AWS_REGION", REGION);
            set("AWS_DEFAULT_REGION", REGION);
            set("AWS_ACCESS_KEY_ID", &seeds.operator.keys.access_key);
            set("AWS_SECRET_ACCESS_KEY", &seeds.operator.keys.secret_key);
            set("LAB_HOME_ACCOUNT", HOME_ACCOUNT);
            set("LAB_CLIENT_ACCOUNTS", &CLIENT_ACCOUNTS.join(" "));
            set("LAB_EXTERNAL_ID", EXTERNAL_ID);
            set("LAB_VAULT_AWS_ACCESS_KEY_ID", &seeds.vault.keys.access_key);
            set("LAB_VAULT_AWS_SECRET_ACCESS_KEY", &seeds.vault.keys.secret_key);
        }
        let folders = self.layout.tools.command_folders();
        let folders: Vec<_> = folders.into_iter().map(Path::to_string_lossy).collect();
        set("PATH", &folders.join(":"));
        env
    }

    /// A client with the rights of an administrator.
    pub fn kube(&self) -> kube::Client {
        self.kube.0.clone()
    }

    /// For example `https://127.0.0.1:20001`.
    pub fn kube_url(&self) -> String {
        self.layout.kube_url()
    }

    /// The administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// The CA of Vault, the API server and etcd, as PEM.
    pub fn ca_pem(&self) -> Result<String> {
        use crate::error::Doing as _;
        let path = self.ca_path();
        std::fs::read_to_string(&path).doing(|| format!("reading {}", path.display()))
    }

    /// The file of [`Lab::ca_pem`].
    pub fn ca_path(&self) -> PathBuf {
        self.layout.pki.ca()
    }

    /// Certificate and key of one of the servers.
    pub(crate) fn certificate_files(&self, holder: Holder) -> (PathBuf, PathBuf) {
        (self.layout.pki.certificate(holder), self.layout.pki.key(holder))
    }

    /// For example `https://127.0.0.1:20004`.
    pub fn vault_addr(&self) -> String {
        self.layout.vault_addr()
    }

    /// The same Vault at a listener that lets in nobody without a certificate of the lab's CA, such as
    /// [`Lab::vault_client_certificate`], and whose own certificate names [`Lab::vault_mutual_name`]
    /// alone.
    pub fn vault_mutual_addr(&self) -> String {
        self.layout.vault_mutual_addr()
    }

    /// The name in that listener's certificate.
    pub fn vault_mutual_name(&self) -> &'static str {
        pki::MUTUAL_NAME
    }

    /// Certificate and key, as PEM, that the listener lets in.
    pub fn vault_client_certificate(&self) -> Result<(String, String)> {
        use crate::error::Doing as _;
        let read = |path: PathBuf| {
            std::fs::read_to_string(&path).doing(|| format!("reading {}", path.display()))
        };
        let (pki, holder) = (&self.layout.pki, Holder::VaultClient);
        Ok((read(pki.certificate(holder))?, read(pki.key(holder))?))
    }

    /// Starts another Vault, empty but for its audit log: another cluster, with the certificate of the
    /// first.
    pub async fn another_vault(&self) -> Result<OtherVault> {
        let ports = Ports::<2>::reserve()?;
        let server = self.layout.other_vault(ports.numbers)?;
        let trust = Trust { ca: Some(self.ca_path()), identity: None };
        let addr = format!("https://127.0.0.1:{}", server.port());
        let nobody = Vault::new(trust.client(REQUEST_LIMIT)?, addr, String::new());
        server.start().await?;
        let (vault, _) = set_up(&nobody, &self.layout.folder.join("audit/vault-2.log")).await?;
        Ok(OtherVault { vault, server, _ports: ports })
    }

    /// Starts another front of STS, with the same AWS behind it.
    pub async fn another_sts(&self) -> Result<StsFront> {
        let upstream = self.layout.aws_url();
        StsFront::another(upstream, self.aws.clone(), issuer(&self.layout)).await
    }

    /// Starts a server before Vault that looks like one with namespaces.
    pub async fn simulate_namespaces(&self) -> Result<NamespaceFront> {
        let (pki, holder) = (&self.layout.pki, Holder::Vault);
        let own = (pki.certificate(holder), pki.key(holder));
        let trust = Trust { ca: Some(pki.ca()), identity: None };
        NamespaceFront::start(own, self.vault_addr(), &trust).await
    }

    /// Vault's root token.
    pub fn vault_root_token(&self) -> &str {
        self.vault.token()
    }

    /// The `vault` program, server and command line.
    pub fn vault_program(&self) -> &Path {
        &self.layout.tools.vault
    }

    /// A Python with the AWS clients that tests use, as modules `boto3` and `awscli`.
    pub fn python(&self) -> &Path {
        &self.layout.tools.python
    }

    /// The STS front's URL.
    pub fn sts_url(&self) -> &str {
        self.sts.url()
    }

    /// The AWS emulator's own URL: IAM, and an STS without the front's checks.
    pub fn aws_url(&self) -> String {
        self.layout.aws_url()
    }

    /// The API server's audit log: one JSON event per line.
    pub fn audit_kube_path(&self) -> PathBuf {
        self.layout.kube_audit_log()
    }

    /// Vault's audit log: one JSON entry per line, a request and a response each.
    pub fn audit_vault_path(&self) -> PathBuf {
        self.layout.vault_audit_log()
    }

    /// The servers' output.
    pub fn log_dir(&self) -> PathBuf {
        self.layout.folder.join("log")
    }

    /// A folder for a test's own files; it goes with the lab.
    pub fn folder(&self) -> &Path {
        &self.layout.folder
    }

    /// The STS front, to read what it saw and to make it fail.
    pub fn sts(&self) -> &StsFront {
        &self.sts
    }

    /// Vault's process. It comes up sealed.
    pub fn vault_server(&self) -> &Server {
        &self.vault_server
    }

    /// kube-apiserver's process.
    pub fn apiserver(&self) -> &Server {
        &self.apiserver
    }

    /// etcd's process.
    pub fn etcd(&self) -> &Server {
        &self.etcd
    }

    /// kube-controller-manager's process.
    pub fn controller_manager(&self) -> &Server {
        &self.controller_manager
    }

    /// The AWS emulator's process.
    pub fn ministack(&self) -> &Server {
        &self.ministack
    }

    /// All servers that should run.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        let Parts { kubernetes, vault, aws } = self.parts;
        [
            (kubernetes, &self.etcd),
            (kubernetes, &self.apiserver),
            (kubernetes, &self.controller_manager),
            (vault, &self.vault_server),
            (aws, &self.ministack),
        ]
        .into_iter()
        .filter_map(|(wanted, server)| wanted.then_some(server))
    }

    /// Seals Vault.
    pub async fn vault_seal(&self) -> Result<()> {
        self.vault.write("sys/seal", &json!({})).await.map(drop)
    }

    /// Unseals Vault and waits until it is active.
    pub async fn vault_unseal(&self) -> Result<()> {
        self.vault.unseal(&self.unseal_key).await
    }

    /// Runs kubectl as the administrator. That it failed is in the output's status.
    pub async fn kubectl(&self, args: &[impl AsRef<OsStr>]) -> Result<Output> {
        self.kubectl_with_input(args, "").await
    }

    /// The same with something on stdin, as for `apply -f -`.
    pub async fn kubectl_with_input(
        &self,
        args: &[impl AsRef<OsStr>],
        input: &str,
    ) -> Result<Output> {
        let program = self.layout.tools.kubectl.clone();
        let kubeconfig = self.kubeconfig();
        let args: Vec<_> = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
        let input = input.to_owned();
        let run = move || kubernetes::kubectl(&program, &kubeconfig, &args, &input);
        tokio::task::spawn_blocking(run).await?
    }

    /// A token of the ServiceAccount for these audiences; none means the API server's own. The
    /// shortest life is 600 s.
    pub async fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        audiences: &[&str],
        seconds: i64,
    ) -> Result<String> {
        kubernetes::service_account_token(&self.kube.0, namespace, name, audiences, seconds).await
    }

    /// Writes a kubeconfig with that token.
    pub fn kubeconfig_for_token(&self, path: &Path, token: &str) -> Result<()> {
        self.kubeconfig_at(&self.kube_url(), path, token)
    }

    /// The same for an API server behind a [`Front`](crate::Front).
    pub fn kubeconfig_at(&self, url: &str, path: &Path, token: &str) -> Result<()> {
        let user = User::Token(token.to_owned());
        kubernetes::write_kubeconfig(path, url, &self.ca_path(), &user)
    }
}

/// Another Vault beside that of a lab. It ends when dropped.
#[derive(Debug)]
pub struct OtherVault {
    /// It, asked as root.
    pub vault: Vault,
    server: Server,
    _ports: Ports<2>,
}

impl OtherVault {
    /// Its process.
    pub fn server(&self) -> &Server {
        &self.server
    }
}

/// Whose tokens STS believes: the API server's.
fn issuer(layout: &Layout) -> Issuer {
    let admin = (layout.pki.certificate(Holder::Admin), layout.pki.key(Holder::Admin));
    Issuer {
        url: layout.kube_url(),
        trust: Trust { ca: Some(layout.pki.ca()), identity: Some(admin) },
    }
}

/// Returns a client of Vault and its unseal key; both know nothing if Vault is not wanted.
async fn start_vault(
    wanted: bool,
    layout: &Layout,
    server: &Server,
    steps: &Steps,
) -> Result<(Vault, String)> {
    let trust = Trust { ca: Some(layout.pki.ca()), identity: None };
    let nobody = Vault::new(trust.client(REQUEST_LIMIT)?, layout.vault_addr(), String::new());
    if !wanted {
        return Ok((nobody, String::new()));
    }
    server.start().await?;
    let known = set_up(&nobody, &layout.vault_audit_log()).await?;
    steps.tell(server.name());
    Ok(known)
}

/// Initialises and unseals a new Vault that keeps an audit log: a client as root, and its unseal key.
async fn set_up(nobody: &Vault, log: &Path) -> Result<(Vault, String)> {
    let (key, token) = nobody.init().await?;
    nobody.unseal(&key).await?;
    let root = nobody.with_token(token);
    let audit = json!({"type": "file", "options": {"file_path": log}});
    root.write("sys/audit/file", &audit).await?;
    Ok((root, key))
}

/// Returns the administrator's client, and leaves its kubeconfig.
async fn start_kubernetes(
    wanted: bool,
    servers: [&Server; 3],
    layout: &Layout,
    steps: &Steps,
) -> Result<KubeClient> {
    let (admin, pki) = (Holder::Admin, &layout.pki);
    let user = User::Certificate(pki.certificate(admin), pki.key(admin));
    let kubeconfig = layout.kubeconfig();
    kubernetes::write_kubeconfig(&kubeconfig, &layout.kube_url(), &pki.ca(), &user)?;
    if wanted {
        for server in servers {
            server.start().await?;
            steps.tell(server.name());
        }
    }
    kubernetes::client(&kubeconfig).await.map(KubeClient)
}

/// Tells how the start goes on.
struct Steps {
    begun: Instant,
    told: bool,
}

impl Steps {
    fn tell(&self, what: &str) {
        if self.told {
            files::say(&format!("{what} ready after {:.1} s", self.begun.elapsed().as_secs_f64()));
        }
    }
}

/// Says that a server of a lab ended by itself.
pub(crate) fn dead(lab: &Lab) -> Vec<Error> {
    lab.servers()
        .filter(|server| !server.is_alive())
        .map(|server| Error::NotRunning(server.name()))
        .collect()
}
