//! `vault-aws import`: an existing Vault as manifests, and what was left in it.
//!
//! It reads and prints: nothing is written to Vault or to the cluster, and no secret is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    backend_file::{self, without_text},
    doctor,
    token_store::{self, TokenStore},
    vault_environment::{self, Trust, Variables, VaultEnvironment, VaultFlags},
};
use crate::{
    crd::{VaultAwsBackend, VaultAwsRole},
    files,
    import::{
        Found, Target, Verdict,
        orphans::{Sorted, sort},
        yaml,
    },
    redacted::Redacted,
    vault::{self, Caller, aws_auth, policies},
};

/// The most that one request to Vault may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// How long the API server may take to list everything.
const KUBERNETES_LIMIT: Duration = Duration::from_secs(60);
/// How long a token helper may take.
const HELPER_LIMIT: Duration = Duration::from_secs(10);
/// Requests to Vault at once.
const AT_ONCE: usize = 8;

/// The flags of `import`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  vault-aws import --backend backend.yaml -n team-a > roles.yaml
  vault-aws import --backend backend.yaml web api              only these roles
  vault-aws import --backend backend.yaml --orphans            policies whose resource is gone
  vault-aws import --backend backend.yaml --orphans --resources roles.yaml --cluster-id 6f1f…

Vault is read with the token that `vault` would use; nothing is written. What no manifest can say
is a comment in the output, with the reason.
Exit codes: 0 it was printed; 1 a setting or file of this machine; 2 Vault or the API server.")]
pub struct ImportArgs {
    /// Roles in Vault [default: all of the mount]
    #[arg(value_name = "ROLE", conflicts_with = "orphans")]
    roles: Vec<String>,

    /// Manifest of the VaultAwsBackend, - for stdin: mounts, names and tenancy, and Vault's address
    /// where neither a flag nor a variable has it
    #[arg(long, value_name = "FILE")]
    backend: PathBuf,

    /// Namespace of the manifests; --kube-namespace does too [default: the one that a tenancy rule
    /// names for the IAM role]
    #[arg(id = "namespace_of", short = 'n', long = "kube-namespace", value_name = "NAME")]
    #[arg(conflicts_with = "orphans")]
    namespace: Option<String>,

    /// Print the policies that bear the operator's mark and belong to no VaultAwsRole
    #[arg(long)]
    orphans: bool,

    /// With --orphans: files of all VaultAwsRoles, instead of the cluster of the kubeconfig
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "orphans")]
    resources: Vec<PathBuf>,

    /// With --orphans: the cluster's name in the marks [default: the backend's clusterId, else the UID
    /// of the namespace kube-system]
    #[arg(long, value_name = "ID", requires = "orphans")]
    cluster_id: Option<String>,

    /// With --orphans: context of the kubeconfig
    #[arg(long, value_name = "NAME", requires = "orphans", conflicts_with = "resources")]
    context: Option<String>,

    #[command(flatten)]
    vault: VaultFlags,
}

/// Why nothing was printed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backend's manifest.
    #[error(transparent)]
    Backend(#[from] backend_file::Error),
    /// How Vault is reached.
    #[error(transparent)]
    Environment(#[from] vault_environment::Error),
    /// The token.
    #[error("finding a Vault token")]
    Token(#[from] token_store::Error),
    /// There is none.
    #[error(
        "there is no Vault token: set VAULT_TOKEN, or log in (`vault-aws login`, `vault login`)"
    )]
    NoToken,
    /// A role that was asked for.
    #[error("there is no role `{role}` at auth/{mount}")]
    NoRole {
        /// Its name.
        role: String,
        /// The mount.
        mount: String,
    },
    /// A file of `--resources`.
    #[error("reading {}: {what}", path.display())]
    Resources {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Whose marks are meant.
    #[error("whose marks are meant: give --cluster-id, or clusterId in the backend")]
    NoClusterId,
    /// Vault.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The cluster.
    #[error("asking the API server: {0}")]
    Kubernetes(String),
    /// YAML.
    #[error("writing a manifest")]
    Yaml(#[from] serde_saphyr::ser::Error),
    /// stdout.
    #[error("writing to stdout")]
    Output(#[source] io::Error),
    /// Tokio.
    #[error("starting the runtime")]
    Runtime(#[source] io::Error),
}

impl Error {
    /// 2 where somebody else is at fault, 1 for a setting or file of this machine.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Vault(_) | Self::Kubernetes(_) => 2,
            _ => 1,
        }
    }
}

/// Reads, and prints what was found.
pub fn run(args: &ImportArgs, mut stdout: impl Write) -> Result<(), Error> {
    // Only fails if there is a provider already, and then it is this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let backend = backend_file::read(&args.backend)?;
    let caller = caller(args, &backend)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let printed = runtime.block_on(async {
        if args.orphans {
            orphans(args, &backend, &caller).await
        } else {
            roles(args, &backend, &caller).await
        }
    });
    runtime.shutdown_background();
    let Printed { text, summary } = printed?;
    // That nobody can be told is no reason to fail.
    let _ = writeln!(io::stderr(), "{summary}");
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Output)
}

struct Printed {
    text: String,
    summary: String,
}

/// Vault as flags and variables say, and else as the backend does.
fn caller(args: &ImportArgs, backend: &VaultAwsBackend) -> Result<Caller, Error> {
    let variables = Variables::of_process();
    let spec = &backend.spec.vault;
    let mut flags = args.vault.clone();
    let says_where = flags.address.is_some()
        || flags.agent_address.is_some()
        || ["VAULT_ADDR", "VAULT_AGENT_ADDR"]
            .iter()
            .any(|name| matches!(variables.text(name), Ok(Some(_)) | Err(_)));
    if !says_where {
        flags.address = Some(spec.address.clone());
    }
    if flags.namespace.is_none() && variables.text("VAULT_NAMESPACE")?.is_none() {
        flags.namespace.clone_from(&spec.namespace);
    }
    let mut environment = VaultEnvironment::parse(&flags, &variables)?;
    if let (Trust::Platform, Some(pem)) = (&environment.trust, &spec.ca_bundle) {
        environment.trust = Trust::Pem(pem.clone());
    }
    let client = environment.client(REQUEST_LIMIT)?;
    Ok(match token(&environment, &variables)? {
        Some(token) => client.with_token(token),
        None if environment.is_agent() => client.without_token(),
        None => return Err(Error::NoToken),
    })
}

fn token(
    environment: &VaultEnvironment,
    variables: &Variables,
) -> Result<Option<Redacted<String>>, Error> {
    if environment.token.is_some() || environment.is_agent() {
        return Ok(environment.token.clone());
    }
    Ok(match TokenStore::find(variables)? {
        Some(store) => store.get(Instant::now() + HELPER_LIMIT)?,
        None => None,
    })
}

// === Roles ===

async fn roles(
    args: &ImportArgs,
    backend: &VaultAwsBackend,
    caller: &Caller,
) -> Result<Printed, Error> {
    let mount = &backend.spec.auth.mount;
    let mut names = if args.roles.is_empty() {
        aws_auth::list_roles(caller, mount).await?
    } else {
        args.roles.clone()
    };
    names.sort();
    names.dedup();
    let reading = stream::iter(names).map(|name| async move {
        let role = aws_auth::read_role(caller, mount, &name).await?;
        Ok::<_, Error>((name, role))
    });
    let read: Vec<_> = reading.buffered(AT_ONCE).try_collect().await?;
    let mut standing = Vec::new();
    for (name, role) in read {
        match role {
            Some(role) => standing.push((name, role)),
            // One that was listed may be gone by now.
            None if args.roles.is_empty() => {}
            None => return Err(Error::NoRole { role: name, mount: mount.clone() }),
        }
    }
    let wanted: BTreeSet<String> =
        standing.iter().flat_map(|(_, role)| Found::policy_names(role)).collect();
    let texts = texts(caller, wanted).await?;
    let mut target = Target::new(backend, args.namespace.as_deref());
    let mut text = yaml::comment(&format!(
        "VaultAwsRoles for what stands at auth/{mount}. With `adopt: IfEqual` they take over what is as \
         they say, and change nothing else."
    ));
    let (mut manifests, mut managed, mut left) = (0, 0, 0);
    for (name, role) in standing {
        let policies = Found::policy_names(&role)
            .into_iter()
            .map(|policy| {
                let text = texts.get(&policy).cloned().flatten();
                (policy, text)
            })
            .collect();
        match target.import(&Found { name: name.clone(), role, policies }) {
            Verdict::Manifest { resource, remarks } => {
                manifests += 1;
                let document = yaml::document(&resource)?;
                let (line, body) = document.split_once('\n').unwrap_or_default();
                text.push_str(&format!("{line}\n"));
                for remark in remarks {
                    text.push_str(&yaml::comment(&remark));
                }
                text.push_str(body);
            }
            Verdict::Managed(marker) => {
                managed += 1;
                text.push_str(&yaml::comment(&format!(
                    "role `{name}`: kept by VaultAwsRole {}/{} of cluster {} already",
                    marker.namespace, marker.name, marker.cluster
                )));
            }
            Verdict::Left(reasons) => {
                left += 1;
                for reason in reasons {
                    text.push_str(&yaml::comment(&format!("role `{name}`, left out: {reason}")));
                }
            }
        }
    }
    let summary = format!(
        "{manifests} as manifests, {managed} kept by a VaultAwsRole already, {left} left out (see the \
         comments)"
    );
    Ok(Printed { text, summary })
}

/// Texts of policies by name.
async fn texts(
    caller: &Caller,
    names: BTreeSet<String>,
) -> Result<BTreeMap<String, Option<String>>, Error> {
    let reading = stream::iter(names).map(|name| async move {
        // `root` is no text; and Vault shows it to nobody.
        let text = if name == "root" { None } else { policies::read(caller, &name).await? };
        Ok::<_, Error>((name, text))
    });
    reading.buffered(AT_ONCE).try_collect().await
}

// === Orphans ===

async fn orphans(
    args: &ImportArgs,
    backend: &VaultAwsBackend,
    caller: &Caller,
) -> Result<Printed, Error> {
    let named = args.cluster_id.clone().or_else(|| backend.spec.cluster_id.clone());
    let (cluster, resources) = if args.resources.is_empty() {
        of_cluster(args, named).await?
    } else {
        let mut all = Vec::new();
        for path in &args.resources {
            all.extend(of_file(path)?);
        }
        (named.ok_or(Error::NoClusterId)?, all)
    };
    let names = policies::list(caller).await?.into_iter().collect();
    let texts: Vec<(String, String)> = texts(caller, names)
        .await?
        .into_iter()
        .filter_map(|(name, text)| Some((name, text?)))
        .collect();
    let Sorted { orphans, owned, elsewhere } = sort(&texts, &cluster, backend, &resources);
    let mut text = yaml::comment(&format!(
        "Policies of cluster {cluster} that belong to no VaultAwsRole. What deletes one, role first: \
         vault delete <role>; vault policy delete <policy>"
    ));
    for orphan in &orphans {
        let marker = &orphan.marker;
        let role = match aws_auth::read_role(caller, &marker.mount, &marker.role).await {
            Ok(role) => Some(role.is_some()),
            // Another backend's mount, perhaps, which is not this person's to read.
            Err(error) if error.is_denied() => None,
            Err(error) => return Err(error.into()),
        };
        text.push_str(&yaml::document(&orphan.document(role))?);
    }
    let summary = format!(
        "{} orphans, {owned} of the {} VaultAwsRoles, {elsewhere} of other clusters",
        orphans.len(),
        resources.len()
    );
    Ok(Printed { text, summary })
}

async fn of_cluster(
    args: &ImportArgs,
    named: Option<String>,
) -> Result<(String, Vec<VaultAwsRole>), Error> {
    let (client, _) = doctor::connect(args.context.clone())
        .await
        .map_err(|finding| Error::Kubernetes(finding.found))?;
    let failed = |error: kube::Error| Error::Kubernetes(crate::fault::chain(&error));
    let asking = async {
        let all = Api::<VaultAwsRole>::all(client.clone());
        let roles = all.list(&ListParams::default()).await.map_err(failed)?.items;
        let cluster = match named {
            Some(named) => named,
            None => {
                let namespaces = Api::<Namespace>::all(client);
                let system = namespaces.get_metadata("kube-system").await.map_err(failed)?;
                system.uid().ok_or(Error::NoClusterId)?
            }
        };
        Ok((cluster, roles))
    };
    let late = || Error::Kubernetes("it did not answer within 60 s".to_owned());
    timeout(KUBERNETES_LIMIT, asking).await.map_err(|_| late())?
}

/// The VaultAwsRoles of a file; also those of a List, as `kubectl get -o yaml` prints it.
fn of_file(path: &Path) -> Result<Vec<VaultAwsRole>, Error> {
    let failed = |what: String| Error::Resources { path: path.to_owned(), what };
    let text = files::text(path, files::LARGEST, files::MANIFESTS)
        .map_err(|error| failed(error.to_string()))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|error| failed(without_text(&error)))?;
    documents
        .into_iter()
        .flat_map(|document| match document["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![document],
        })
        .filter(|document| document["kind"] == "VaultAwsRole")
        .map(|mut role| {
            // kubectl -n would say it; without, it is this one.
            if role["metadata"]["namespace"].is_null() {
                role["metadata"]["namespace"] = json!("default");
            }
            serde_json::from_value(role).map_err(|error| failed(error.to_string()))
        })
        .collect()
}
