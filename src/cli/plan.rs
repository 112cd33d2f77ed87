//! `vault-aws plan`: reads manifests, asks Vault, and tells what applying them would change.
//!
//! Only the admin's word (`--backend`, flags, the environment) says which Vault is asked and what is
//! granted. Only requests that read are sent.

use std::{
    cell::OnceCell,
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use kube::ResourceExt as _;

use super::{
    token_store::{self, TokenStore},
    vault_environment::{self, Trust, Variables, VaultEnvironment, VaultFlags},
};
use crate::{
    crd::VaultAwsBackend,
    fault::chain,
    files::{self, LARGEST},
    review::{
        Ground, Review, Source,
        manifest::{Manifests, Problem, Reader},
        review,
        schema::Schemas,
    },
    vault::Caller,
};

/// The most that one request to Vault may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// How long a token helper may take.
const HELPER_LIMIT: Duration = Duration::from_secs(10);
/// How deep folders are looked through.
const DEPTH: usize = 32;

/// How the plan is told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// For a comment under a pull request
    Markdown,
}

/// The flags of `plan`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  vault-aws plan -f team-a/ --backend backend.yaml           what would change in Vault
  vault-aws plan -f team-a/ --backend backend.yaml --offline check without Vault
  kustomize build . | vault-aws plan -f - --backend backend.yaml --output markdown
  kubectl get vab,var,ns -A -o yaml > cluster.yaml && vault-aws plan -f team-a/ --backend cluster.yaml

Exit codes: 0 nothing to do, or valid (--offline); 2 something would change; 1 something is refused,
or could not be told.")]
pub struct PlanArgs {
    /// Files and folders with manifests, YAML or JSON; - is stdin
    #[arg(short = 'f', long = "filename", required = true, num_args = 1.., value_name = "PATH")]
    filenames: Vec<PathBuf>,

    /// Files and folders of the admin: VaultAwsBackends and, if they matter, Namespaces (their labels)
    /// and the cluster's VaultAwsRoles (who was first, what may not change). Without it, only the
    /// schema is looked at
    #[arg(long, value_name = "PATH", required_unless_present = "offline")]
    backend: Vec<PathBuf>,

    /// Do not ask Vault
    #[arg(long)]
    offline: bool,

    /// Name of the cluster in the marks of ownership in Vault [default: clusterId of the backend's
    /// spec or status]
    #[arg(long, value_name = "ID", value_parser = cluster_id)]
    cluster_id: Option<String>,

    /// Kubernetes namespace of manifests that name none
    #[arg(short = 'n', long = "kube-namespace", value_name = "NAME")]
    kube_namespace: Option<String>,

    /// How the plan is told
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,

    #[command(flatten)]
    vault: VaultFlags,
}

/// It stands between spaces in the mark.
fn cluster_id(text: &str) -> Result<String, &'static str> {
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
        return Err("it is not 1 to 64 of A-Z a-z 0-9 . _ -");
    }
    Ok(text.to_owned())
}

/// Why `plan` ends with the code 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("reading {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nothing to look at.
    #[error("there is no .yaml, .yml or .json file in {}", .0.display())]
    Nothing(PathBuf),
    /// The admin's own manifests.
    #[error("--backend: {place}: {object}: {field}{message}")]
    Ground {
        /// File and document.
        place: String,
        /// The object.
        object: String,
        /// The field, if it is about one.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// --backend holds no VaultAwsBackend.
    #[error("--backend holds no VaultAwsBackend")]
    NoBackend,
    /// The plan says what.
    #[error("refused, or not to be told: {0}")]
    Refused(String),
    /// stdout.
    #[error("writing to stdout")]
    Output(#[source] io::Error),
    /// Tokio.
    #[error("starting the runtime")]
    Runtime(#[source] io::Error),
}

/// Judges, tells, and returns the exit code: 0 or 2.
///
/// # Errors
/// Whatever makes the exit code 1.
pub fn run(args: &PlanArgs, mut stdout: impl Write) -> Result<u8, Error> {
    let schemas = Schemas::of_crds();
    let namespace = args.kube_namespace.as_deref();
    let reader = Reader { schemas: &schemas, namespace, keeps_state: false };
    let manifests = read(&reader, &args.filenames)?;
    let reader = Reader { schemas: &schemas, namespace: None, keeps_state: true };
    let ground = ground(&reader, args)?;
    let review = if args.offline {
        let nobody = Nobody;
        in_runtime(review(manifests, &ground, &nobody, false))?
    } else {
        // Only fails if there is a provider already, and then it is this one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let vault = Connection::new(&args.vault, &manifests);
        in_runtime(review(manifests, &ground, &vault, true))?
    };
    let text = match args.output {
        Output::Text => review.text(super::doctor::has_color()),
        Output::Json => review.json(),
        Output::Markdown => review.markdown(),
    };
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Output)?;
    match review.exit_code() {
        1 => Err(Error::Refused(review.summary())),
        code => Ok(code),
    }
}

fn in_runtime(review: impl Future<Output = Review>) -> Result<Review, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let review = runtime.block_on(review);
    // What it started must not hold it up.
    runtime.shutdown_background();
    Ok(review)
}

// === Files ===

fn ground(reader: &Reader<'_>, args: &PlanArgs) -> Result<Ground, Error> {
    if args.backend.is_empty() {
        return Ok(Ground { cluster: args.cluster_id.clone(), ..Ground::default() });
    }
    let manifests = read(reader, &args.backend)?;
    if let Some(Problem { place, object, field, message }) = manifests.problems.into_iter().next() {
        let field = if field.is_empty() { field } else { format!("{field}: ") };
        let line = crate::review::escape::line;
        return Err(Error::Ground {
            place: line(&place.to_string()),
            object: line(&object),
            field: line(&field),
            message: line(&message),
        });
    }
    let manifests = Manifests { problems: Vec::new(), ..manifests };
    let ground = Ground::of(manifests, args.cluster_id.clone());
    if ground.backends.iter().flatten().next().is_none() {
        return Err(Error::NoBackend);
    }
    Ok(ground)
}

fn read(reader: &Reader<'_>, paths: &[PathBuf]) -> Result<Manifests, Error> {
    let mut manifests = Manifests::default();
    let mut seen = BTreeSet::new();
    for path in paths {
        if path == Path::new("-") {
            if seen.insert(path.clone()) {
                let text = files::stdin(LARGEST).map_err(failed(path))?;
                reader.read("-", &text, &mut manifests);
            }
            continue;
        }
        let metadata = fs::metadata(path).map_err(failed(path))?;
        let mut files = BTreeSet::new();
        if metadata.is_dir() {
            find(path, DEPTH, &mut files)?;
            if files.is_empty() {
                return Err(Error::Nothing(path.clone()));
            }
        } else {
            files.insert(path.clone());
        }
        for file in files {
            if seen.insert(file.clone()) {
                let text = files::text(&file, LARGEST, files::MANIFESTS).map_err(failed(&file))?;
                reader.read(&file.to_string_lossy(), &text, &mut manifests);
            }
        }
    }
    Ok(manifests)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Read { path, source }
}

/// The manifests of a folder. Links are not followed: a link in a change under review could lead to a
/// file that is none of its author's business.
fn find(folder: &Path, depth: usize, files: &mut BTreeSet<PathBuf>) -> Result<(), Error> {
    if depth == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let entry = entry.map_err(failed(folder))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed(folder))?);
        let is_manifest = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| ["yaml", "yml", "json"].contains(&extension));
        if kind.is_dir() {
            find(&path, depth - 1, files)?;
        } else if kind.is_file() && is_manifest {
            files.insert(path);
        }
    }
    Ok(())
}

// === Vault ===

struct Nobody;

impl Source for Nobody {
    fn vault(&self, _: &VaultAwsBackend) -> Result<Option<Caller>, String> {
        Ok(None)
    }
}

/// Vault as a person reaches it. What flags and environment leave open, the backend says.
struct Connection<'a> {
    flags: &'a VaultFlags,
    variables: Variables,
    /// The backends that manifests refer to: an address that was given is that of one Vault.
    backends: BTreeSet<String>,
    caller: OnceCell<(String, Result<Caller, String>)>,
}

impl<'a> Connection<'a> {
    fn new(flags: &'a VaultFlags, manifests: &Manifests) -> Self {
        let backends = manifests.ours.iter().filter_map(|one| match &one.object {
            crate::review::manifest::Object::Role(role) => Some(role.spec.backend_ref.name.clone()),
            _ => None,
        });
        let variables = Variables::of_process();
        Self { flags, variables, backends: backends.collect(), caller: OnceCell::new() }
    }

    fn connect(&self, backend: &VaultAwsBackend) -> Result<Caller, String> {
        let spec = &backend.spec.vault;
        let parse = |flags: &VaultFlags| {
            VaultEnvironment::parse(flags, &self.variables).map_err(|error| chain(&error))
        };
        let mut environment = parse(self.flags)?;
        let is_given = environment.origin != vault_environment::Origin::Default;
        if is_given && self.backends.len() > 1 {
            let names: Vec<&str> = self.backends.iter().map(String::as_str).collect();
            return Err(format!(
                "the manifests are for several backends ({}), and {} is one address: plan them one by \
                 one, or leave the address to the backends",
                names.join(", "),
                environment.origin
            ));
        }
        if !is_given {
            let address = Some(spec.address.clone());
            environment = parse(&VaultFlags { address, ..self.flags.clone() })?;
        }
        if environment.namespace.is_none() {
            let namespace = spec.namespace.as_deref().map(|path| path.trim_matches('/').to_owned());
            environment.namespace = namespace;
        }
        if let (Trust::Platform, Some(bundle)) = (&environment.trust, &spec.ca_bundle) {
            environment.trust = Trust::Pem(bundle.clone());
        }
        let token = self.token(&environment).map_err(|error| chain(&error))?;
        if token.is_none() && !environment.is_agent() {
            return Err("there is no Vault token: set VAULT_TOKEN or log in".to_owned());
        }
        environment.caller(token, REQUEST_LIMIT).map_err(|error| chain(&error))
    }

    fn token(
        &self,
        environment: &VaultEnvironment,
    ) -> Result<Option<crate::redacted::Redacted<String>>, token_store::Error> {
        if let Some(token) = &environment.token {
            return Ok(Some(token.clone()));
        }
        // An agent adds its own token only to requests that have none.
        if environment.is_agent() {
            return Ok(None);
        }
        match TokenStore::find(&self.variables)? {
            Some(store) => store.get(Instant::now() + HELPER_LIMIT),
            None => Ok(None),
        }
    }
}

impl Source for Connection<'_> {
    fn vault(&self, backend: &VaultAwsBackend) -> Result<Option<Caller>, String> {
        let name = backend.name_any();
        let (known, caller) = self.caller.get_or_init(|| (name.clone(), self.connect(backend)));
        if *known == name { caller.clone().map(Some) } else { self.connect(backend).map(Some) }
    }
}
