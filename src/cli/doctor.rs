//! `vault-aws doctor`: walks the chain from an AWS identity to the certificates in Vault, or explains a
//! resource from the cluster's own objects.
//!
//! It looks and says: nothing is written, no data of an entry or a Secret is read, and the token it
//! gets is given back.

use std::{
    collections::BTreeMap,
    env,
    io::{self, IsTerminal as _, Write},
    str::FromStr,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, PartialObjectMeta},
    config::KubeConfigOptions,
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    kubeconfig,
    login::AwsLoginFlags,
    token_store::TokenStore,
    vault_environment::{Variables, VaultEnvironment, VaultFlags},
};
use crate::{
    aws::person::Settings,
    cert::desired::{backend_name, role_name},
    crd::{VaultAwsBackend, VaultAwsRole, VaultCertSync},
    doctor::{
        Finding, Report,
        cluster::{self, Around, SecretFacts},
        walk::{Directory, Question, walk},
    },
    fault::chain,
};

/// The most that one request to Vault may take: whoever asks why it hangs does not want to wait.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// How long the API server may take.
const KUBERNETES_LIMIT: Duration = Duration::from_secs(10);
/// How long a token helper may take.
const HELPER_LIMIT: Duration = Duration::from_secs(10);

/// How the findings are told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// A resource that is explained.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resource {
    kind: Kind,
    name: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Backend,
    Role,
    Sync,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Backend => "vaultawsbackend",
            Self::Role => "vaultawsrole",
            Self::Sync => "vaultcertsync",
        }
    }
}

impl FromStr for Resource {
    type Err = String;

    /// `kind/name`, the kind as kubectl takes it.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) =
            text.split_once('/').ok_or("give it as kind/name, such as vaultcertsync/web")?;
        let kind = kind.to_ascii_lowercase();
        let kind = match kind.strip_suffix(".vaultaws.dev").unwrap_or(&kind) {
            "vaultawsbackend" | "vaultawsbackends" | "vab" => Kind::Backend,
            "vaultawsrole" | "vaultawsroles" | "var" => Kind::Role,
            "vaultcertsync" | "vaultcertsyncs" | "vcs" => Kind::Sync,
            _ => {
                return Err("the kinds are vaultawsbackend, vaultawsrole, vaultcertsync".to_owned());
            }
        };
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
        if name.is_empty() || !name.bytes().all(fits) {
            return Err("that is not the name of a resource".to_owned());
        }
        Ok(Self { kind, name: name.to_owned() })
    }
}

/// The flags of `doctor`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  vault-aws doctor --role web                         from the AWS identity here to the certificates
  AWS_PROFILE=dev vault-aws doctor --role web --header-value vault.example.com --output json
  vault-aws doctor vaultcertsync/web -n team-a        why a certificate is not delivered
  vault-aws doctor vaultawsbackend/default

Exit codes: 0 nothing is broken; 1 a link is broken, or cannot be looked at.")]
pub struct DoctorArgs {
    /// Resource of the cluster to explain, as vaultcertsync/web; without it, the way from this
    /// machine's AWS identity through Vault is walked
    #[arg(value_name = "RESOURCE")]
    resource: Option<Resource>,

    /// Namespace of the resource; --namespace does too [default: that of the current context]
    #[arg(id = "namespace_of", short = 'n', long = "kube-namespace", value_name = "NAME")]
    #[arg(requires = "resource")]
    namespace_of: Option<String>,

    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME", requires = "resource")]
    context: Option<String>,

    /// How the findings are told
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,

    #[command(flatten)]
    aws: AwsLoginFlags,

    /// Mount of the KV engine with the certificates
    #[arg(long, value_name = "PATH", default_value = "secret", help_heading = "Certificates")]
    kv_mount: String,

    /// Directory in it that holds one directory per account
    #[arg(long, value_name = "PATH", default_value = "certs", help_heading = "Certificates")]
    base_path: String,

    /// Directory of the certificates [default: `<base path>/<account>/<IAM role>`, as STS says]
    #[arg(long, value_name = "PATH", conflicts_with = "base_path", help_heading = "Certificates")]
    directory: Option<String>,

    #[command(flatten)]
    vault: VaultFlags,
}

/// Why `doctor` ends with another code than 0.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A link does not hold. The report has said all about it.
    #[error("broken at: {0}")]
    Broken(&'static str),
    /// stdout.
    #[error("writing to stdout")]
    Output(#[source] io::Error),
    /// Tokio.
    #[error("starting the runtime")]
    Runtime(#[source] io::Error),
}

/// Looks, and tells what was found.
pub fn run(args: &DoctorArgs, mut stdout: impl Write) -> Result<(), Error> {
    // Only fails if there is a provider already, and then it is this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let report = runtime.block_on(async {
        match &args.resource {
            Some(resource) => explain(args, resource).await,
            None => examine(args).await,
        }
    });
    // What it started must not hold it up.
    runtime.shutdown_background();
    let text = match args.output {
        Output::Json => report.json() + "\n",
        Output::Text => report.text(has_color()),
    };
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Output)?;
    match report.first_broken() {
        None => Ok(()),
        Some(finding) => Err(Error::Broken(finding.step)),
    }
}

/// Whether stdout may be coloured: it is a terminal, and nobody said otherwise.
pub fn has_color() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal()
        && !is_set("NO_COLOR")
        && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

// === The walk ===

async fn examine(args: &DoctorArgs) -> Report {
    let variables = Variables::of_process();
    let settings = Settings::load().await;
    let environment = VaultEnvironment::parse(&args.vault, &variables);
    let vault = match &environment {
        Ok(environment) => environment.client(REQUEST_LIMIT).map_err(|error| chain(&error)),
        Err(error) => Err(chain(error)),
    };
    let token = match (&environment, &vault) {
        (Ok(environment), Ok(client)) => {
            token(environment, &variables).map(|token| client.with_token(token))
        }
        _ => None,
    };
    let endpoint = ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"];
    let endpoint = endpoint.iter().find_map(|name| variables.text(name).ok().flatten());
    let question = Question {
        target: args.aws.target(&settings).await,
        settings: &settings,
        sts_endpoint: endpoint,
        vault,
        server: environment
            .as_ref()
            .map_or_else(|_| "Vault".to_owned(), |environment| environment.server.to_string()),
        namespace: environment
            .as_ref()
            .ok()
            .and_then(|environment| environment.namespace.as_deref()),
        token,
        mount: args.aws.mount(),
        role: args.aws.role.as_deref(),
        server_id: args.aws.header_value.as_deref(),
        kv_mount: &args.kv_mount,
        directory: match &args.directory {
            Some(directory) => Directory::Given(directory),
            None => Directory::Below(&args.base_path),
        },
    };
    walk(&question).await
}

/// The token that the person has, if any: for reading the settings of the mount, which clients may
/// not, where a login fails.
fn token(
    environment: &VaultEnvironment,
    variables: &Variables,
) -> Option<crate::redacted::Redacted<String>> {
    if let Some(token) = &environment.token {
        return Some(token.clone());
    }
    // An agent adds its own token only to requests that have none.
    if environment.is_agent() {
        return None;
    }
    TokenStore::find(variables).ok()??.get(Instant::now() + HELPER_LIMIT).ok()?
}

// === The cluster ===

const KUBERNETES: &str = "Kubernetes";

async fn explain(args: &DoctorArgs, resource: &Resource) -> Report {
    let Resource { kind, name } = resource;
    let unnamed = format!("{}/{name}", kind.word());
    let (client, default) = match connect(args.context.clone()).await {
        Ok(connected) => connected,
        Err(finding) => return Report { subject: unnamed, findings: vec![finding] },
    };
    // kubectl's habit: where a resource is explained, Vault's namespace means nothing.
    let namespace = args.namespace_of.clone().or_else(|| args.vault.namespace.clone());
    let namespace = namespace.unwrap_or(default);
    let cluster = Cluster { client, namespace };
    let subject = match kind {
        Kind::Backend => unnamed,
        Kind::Role | Kind::Sync => format!("{unnamed} in namespace {}", cluster.namespace),
    };
    let findings = match kind {
        Kind::Backend => cluster.backend_findings(name).await,
        Kind::Role => cluster.role_findings(name).await,
        Kind::Sync => cluster.sync_findings(name).await,
    };
    Report { subject, findings: findings.unwrap_or_else(|finding| vec![finding]) }
}

/// The cluster of the kubeconfig, and the namespace of its context.
pub(super) async fn connect(context: Option<String>) -> Result<(Client, String), Finding> {
    const CURE: &str = "set KUBECONFIG, or choose a context with --context";
    let broken = |text: String| Finding::broken(KUBERNETES, "KubernetesError", text, CURE);
    kubeconfig::check().map_err(|error| broken(chain(&error)))?;
    let mut config = match context {
        Some(_) => {
            let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
            Config::from_kubeconfig(&options).await.map_err(|error| broken(chain(&error)))?
        }
        None => Config::infer().await.map_err(|error| broken(chain(&error)))?,
    };
    config.connect_timeout = Some(KUBERNETES_LIMIT);
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| broken(chain(&error)))?;
    Ok((client, namespace))
}

struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    fn own<T>(&self) -> Api<T>
    where
        T: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        T::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn sync_findings(&self, name: &str) -> Result<Vec<Finding>, Finding> {
        let sync: VaultCertSync = self.wanted(&self.own(), "VaultCertSync", name).await?;
        let role: Option<VaultAwsRole> = match role_name(&sync) {
            Some(role) => self.visible(&self.own(), &role).await?,
            None => None,
        };
        let backend = match backend_name(&sync, role.as_ref()) {
            Some(backend) => self.visible(&Api::all(self.client.clone()), &backend).await?,
            None => None,
        };
        let around =
            Around { role, backend, labels: self.labels().await?, secrets: self.secrets().await? };
        Ok(cluster::sync(&sync, &around))
    }

    async fn role_findings(&self, name: &str) -> Result<Vec<Finding>, Finding> {
        let role: VaultAwsRole = self.wanted(&self.own(), "VaultAwsRole", name).await?;
        let backends = Api::all(self.client.clone());
        let backend = self.visible(&backends, &role.spec.backend_ref.name).await?;
        let around = Around { backend, labels: self.labels().await?, ..Around::default() };
        Ok(cluster::role(&role, &around))
    }

    async fn backend_findings(&self, name: &str) -> Result<Vec<Finding>, Finding> {
        let api = Api::<VaultAwsBackend>::all(self.client.clone());
        Ok(cluster::backend(&self.wanted(&api, "VaultAwsBackend", name).await?))
    }

    async fn labels(&self) -> Result<Option<BTreeMap<String, String>>, Finding> {
        let api = Api::<Namespace>::all(self.client.clone());
        let namespace = ask(api.get_metadata_opt(&self.namespace)).await;
        Ok(hidden(namespace)?.flatten().map(|found| found.metadata.labels.unwrap_or_default()))
    }

    /// Metadata alone: data of Secrets never leaves the API server.
    async fn secrets(&self) -> Result<Option<Vec<SecretFacts>>, Finding> {
        let api = self.own::<Secret>();
        let all = ListParams::default();
        let listed = hidden(ask(api.list_metadata(&all)).await)?;
        let facts = |secret: PartialObjectMeta<Secret>| SecretFacts {
            name: secret.name_any(),
            resource_version: secret.resource_version().unwrap_or_default(),
            owners: secret.metadata.owner_references.unwrap_or_default(),
        };
        Ok(listed.map(|list| list.items.into_iter().map(facts).collect()))
    }

    /// An object without which there is nothing to explain.
    async fn wanted<T>(&self, api: &Api<T>, kind: &str, name: &str) -> Result<T, Finding>
    where
        T: Clone + std::fmt::Debug + DeserializeOwned,
    {
        match ask(api.get_opt(name)).await {
            Ok(Some(object)) => Ok(object),
            Ok(None) => {
                let cure = "correct name and namespace (-n), or apply the manifest; without the \
                            CRDs: `vault-aws crd | kubectl apply --server-side -f -`";
                let found = format!("there is no {kind} `{name}`");
                Err(Finding::broken(KUBERNETES, "NotFound", found, cure))
            }
            Err(Failure::Forbidden(text)) => {
                let cure = "have somebody give you `get` on it";
                Err(Finding::broken(KUBERNETES, "Forbidden", text, cure))
            }
            Err(Failure::Other(finding)) => Err(*finding),
        }
    }

    /// An object that may be missing, or hidden from the person.
    async fn visible<T>(&self, api: &Api<T>, name: &str) -> Result<Option<T>, Finding>
    where
        T: Clone + std::fmt::Debug + DeserializeOwned,
    {
        Ok(hidden(ask(api.get_opt(name)).await)?.flatten())
    }
}

enum Failure {
    Forbidden(String),
    Other(Box<Finding>),
}

/// What may not be read is not there, as far as the person can tell.
fn hidden<T>(answer: Result<T, Failure>) -> Result<Option<T>, Finding> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Failure::Forbidden(_)) => Ok(None),
        Err(Failure::Other(finding)) => Err(*finding),
    }
}

async fn ask<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    let broken = |text: String| {
        let cure = "see that the API server of the context can be reached, and that the login to it \
                    is valid: `kubectl version`";
        Failure::Other(Box::new(Finding::broken(KUBERNETES, "KubernetesError", text, cure)))
    };
    match timeout(KUBERNETES_LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            Err(Failure::Forbidden(status.message.clone()))
        }
        Ok(Err(error)) => Err(broken(chain(&error))),
        Err(_) => Err(broken("the API server did not answer within 10 s".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_named_as_for_kubectl() {
        for text in ["vaultcertsync/web", "vcs/web", "VaultCertSyncs.vaultaws.dev/web"] {
            let resource: Resource = text.parse().unwrap();
            assert_eq!(resource, Resource { kind: Kind::Sync, name: "web".to_owned() }, "{text}");
        }
        assert_eq!("var/a.b".parse::<Resource>().unwrap().kind, Kind::Role);
        assert_eq!("vab/default".parse::<Resource>().unwrap().kind, Kind::Backend);
        for text in ["web", "pod/web", "vcs/", "vcs/a/b", "vcs/A"] {
            assert!(text.parse::<Resource>().is_err(), "{text}");
        }
    }
}
