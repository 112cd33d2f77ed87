//! Every flag, environment variable and help text. No behaviour: each command has a file.

use std::{
    borrow::Cow,
    ffi::OsString,
    fmt::Write as _,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::{
    crd::Span,
    telemetry::{DEFAULT_LOG_FILTER, LogFormat},
    vault::{aws_secrets::Kind, wire::go_duration},
};
use sha2::{Digest as _, Sha256};
use vault_environment::{VaultFlags, parse_bool};

pub mod backend_file;
pub mod crd;
pub mod credential_process;
pub mod doctor;
pub mod import;
pub mod kubeconfig;
pub mod login;
pub mod manual;
mod memory;
pub mod plan;
pub mod policy;
pub mod run;
pub mod token_store;
pub mod vault_environment;

/// Declares AWS IAM roles in HashiCorp Vault and delivers their certificates to Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "vault-aws", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  vault-aws crd | kubectl apply --server-side -f -    install the three kinds
  vault-aws run                                       run the operator with the current kubeconfig
  vault-aws run --controllers sync --namespaces a,b   deliver certificates in two namespaces only
  vault-aws policy --kubernetes -n a                  the syncer's rights in a namespace
  vault-aws import --backend backend.yaml             roles that stand in Vault, as manifests
  vault-aws login --role web                          a Vault token for the AWS identity in use
  vault-aws doctor vaultcertsync/web -n team-a        why a certificate is not delivered
  vault-aws plan -f team-a/ --backend backend.yaml    what manifests would change in Vault")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator: its controllers, `/healthz`, `/readyz` and `/metrics`
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinitions as YAML
    #[command(after_help = "\
Example:
  vault-aws crd | kubectl apply --server-side -f -")]
    Crd,
    /// Print what must be granted: Vault policy, Kubernetes Roles, IAM and trust policies
    Policy(Box<policy::PolicyArgs>),
    /// Print what stands in Vault as manifests that change nothing, or what was left there
    Import(Box<import::ImportArgs>),
    /// Print AWS credentials that Vault's AWS secrets engine makes, for `credential_process` in
    /// ~/.aws/config
    CredentialProcess(Box<CredentialProcessArgs>),
    /// Log in to Vault with an AWS identity, as `vault login -method=aws` does it
    Login(Box<login::LoginArgs>),
    /// Find the first broken link between an AWS identity and its certificates, with its cure
    Doctor(Box<doctor::DoctorArgs>),
    /// Show what applying manifests would change in Vault, before anybody applies them
    Plan(Box<plan::PlanArgs>),
    /// Print the script that makes a shell complete this command line
    #[command(after_help = "\
Examples:
  source <(vault-aws completions bash)
  vault-aws completions zsh > ~/.zfunc/_vault-aws
  vault-aws completions fish > ~/.config/fish/completions/vault-aws.fish")]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands into a folder
    #[command(after_help = "\
Examples:
  vault-aws man | man -l -
  vault-aws man /usr/local/share/man/man1")]
    Man {
        /// Folder that gets one page for each command
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// The names under which the program is `credential-process` and nothing else, so that an
/// `~/.aws/config` written for the tool before it needs no edit.
const CREDENTIAL_PROCESS_NAMES: [&str; 2] =
    ["vault-aws-credential-process", "vault-aws-credential-protocol"];

/// The arguments, with the command that the program's own name stands for, if it does.
pub fn arguments(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.first().and_then(|name| Path::new(name).file_name()?.to_str());
    let name = name.map(|name| name.strip_suffix(".exe").unwrap_or(name));
    if name.is_some_and(|name| CREDENTIAL_PROCESS_NAMES.contains(&name)) {
        arguments.splice(..1, ["vault-aws".into(), "credential-process".into()]);
    }
    arguments
}

/// What is asked of Vault's AWS secrets engine, and how its answer is kept.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
Example, in ~/.aws/config:
  [profile dev]
  credential_process = /usr/local/bin/vault-aws credential-process --mount aws/dev --role admin

Installed or linked as vault-aws-credential-process, the program is this command.
Exit codes: 0 credentials were printed; 1 a setting or file of this machine; 2 Vault.")]
pub struct CredentialProcessArgs {
    /// What else to do.
    #[command(subcommand)]
    pub command: Option<CredentialProcessCommand>,

    /// Mount of the AWS secrets engine, a namespace before it if need be: my-namespace/aws/dev
    #[arg(short, long, required = true, value_name = "PATH", value_parser = not_empty)]
    pub mount: Option<String>,

    /// Role of the engine
    #[arg(short, long, required = true, value_name = "NAME", value_parser = not_empty)]
    pub role: Option<String>,

    /// Path of the engine that is asked
    #[arg(long, value_enum, default_value_t, value_name = "PATH")]
    pub endpoint: EndpointChoice,

    /// How long a session shall live, as 15m or 3600; the engine's role may allow less
    #[arg(long, value_name = "DURATION", value_parser = session_ttl)]
    pub ttl: Option<Duration>,

    /// Which of the IAM roles of the engine's role is assumed
    #[arg(long, value_name = "ARN")]
    pub role_arn: Option<String>,

    /// Name of the session, in CloudTrail [default: Vault makes one from the token's display name]
    #[arg(long, value_name = "NAME")]
    pub session_name: Option<String>,

    /// Neither read nor write the cache
    #[arg(long, action = ArgAction::Set, value_name = "BOOL", value_parser = go_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false", hide_default_value = true)]
    pub no_cache: bool,

    /// Keep keys of IAM users too (`iam_user` roles, static roles), at most as long as the token lives
    #[arg(long)]
    pub cache_iam_user: bool,

    /// How long everything may take, at most 55s [default: $VAULT_AWS_TIMEOUT, else 20s]
    #[arg(long, value_name = "DURATION", value_parser = budget)]
    pub timeout: Option<Duration>,

    /// Say on stderr which settings were used
    #[arg(short, long)]
    pub verbose: bool,

    /// How Vault is reached.
    #[command(flatten)]
    pub vault: VaultFlags,
}

/// What else `credential-process` does.
#[derive(Clone, Debug, Subcommand)]
pub enum CredentialProcessCommand {
    /// Look at, or empty, the cache
    #[command(after_help = "\
Examples:
  vault-aws credential-process cache list
  vault-aws credential-process cache clear")]
    Cache {
        /// What to do.
        #[command(subcommand)]
        command: CacheCommand,
    },
}

/// What to do with the cache.
#[derive(Clone, Debug, Subcommand)]
pub enum CacheCommand {
    /// List the entries: path, address, namespace, end; no secrets
    #[command(after_help = "\
Example:
  vault-aws credential-process cache list")]
    List,
    /// Remove all entries
    #[command(after_help = "\
Example:
  vault-aws credential-process cache clear --revoke")]
    Clear {
        /// Revoke the leases of IAM users first, so that Vault deletes the users. The token needs
        /// `update` on sys/leases/revoke. Leases of another Vault or namespace are kept, and said
        #[arg(long)]
        revoke: bool,

        /// How Vault is reached.
        #[command(flatten)]
        vault: Box<VaultFlags>,
    },
}

/// Path of the engine that is asked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum EndpointChoice {
    /// creds/ROLE
    Creds,
    /// sts/ROLE
    #[default]
    Sts,
    /// static-creds/ROLE: the keys of a lasting IAM user, which Vault rotates
    StaticCreds,
}

impl From<EndpointChoice> for Kind {
    fn from(choice: EndpointChoice) -> Self {
        match choice {
            EndpointChoice::Creds => Self::Creds,
            EndpointChoice::Sts => Self::Sts,
            EndpointChoice::StaticCreds => Self::StaticCreds,
        }
    }
}

fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.trim_matches(['/', ' ']).is_empty() { Err("it is empty") } else { Ok(text.to_owned()) }
}

fn go_bool(text: &str) -> Result<bool, &'static str> {
    parse_bool(text).ok_or("it is neither true nor false")
}

fn session_ttl(text: &str) -> Result<Duration, &'static str> {
    let ttl = go_duration(text).ok_or("it is not a duration as 15m or 3600")?;
    if ttl < Duration::from_secs(900) {
        return Err("AWS makes no session shorter than 15 minutes");
    }
    Ok(ttl)
}

/// The Rust and Go SDKs give up on a helper after 20 s and a minute.
fn budget(text: &str) -> Result<Duration, &'static str> {
    go_duration(text)
        .filter(|time| (Duration::from_secs(1)..=Duration::from_secs(55)).contains(time))
        .ok_or("it is not a duration between 1s and 55s")
}

/// How the operator runs.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  vault-aws run --controllers backend,role            the role writer: no rights on Secrets
  vault-aws run --controllers sync                    the syncer: writes nothing to Vault
  vault-aws run --admin-address 127.0.0.1:0 --log-format json")]
pub struct RunArgs {
    /// Controllers to run
    #[arg(long, env = "VAULT_AWS_CONTROLLERS", value_delimiter = ',', value_name = "LIST")]
    #[arg(default_values = ["backend", "role", "sync"])]
    pub controllers: Vec<Controller>,

    /// Namespaces whose resources are served; all if not given
    #[arg(long, env = "VAULT_AWS_NAMESPACES", value_delimiter = ',', value_name = "LIST")]
    pub namespaces: Vec<String>,

    /// The operator's own namespace, in which backends find Secrets and ConfigMaps
    /// [default: $POD_NAMESPACE, else vault-aws-system]
    #[arg(long, env = "VAULT_AWS_OPERATOR_NAMESPACE", value_name = "NAME")]
    operator_namespace: Option<String>,

    #[arg(long, env = "POD_NAMESPACE", hide = true)]
    pod_namespace: Option<String>,

    /// The name of this replica, shown in events and held in the Lease
    #[arg(long, env = "HOSTNAME", hide = true)]
    instance: Option<String>,

    /// Passes of each kind that run at once; one namespace leaves a quarter of them to others
    #[arg(long, env = "VAULT_AWS_CONCURRENCY", default_value_t = 32, value_name = "NUMBER")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,

    /// Where `/healthz`, `/readyz` and `/metrics` are served; port 0 takes a free one and logs it
    #[arg(long, env = "VAULT_AWS_ADMIN_ADDRESS", default_value = "0.0.0.0:8080")]
    #[arg(value_name = "ADDRESS")]
    pub admin_address: SocketAddr,

    /// How long a deleted VaultAwsRole may wait for Vault before it is let go, as 10m or 90s
    #[arg(long, env = "VAULT_AWS_CLEANUP_TIMEOUT", default_value = "10m", value_name = "DURATION")]
    #[arg(value_parser = duration)]
    pub cleanup_timeout: Duration,

    /// How long one watch of the API server lasts; one that is silent for 5 s longer is taken for
    /// dead. Below the idle limit of what stands between
    #[arg(long, env = "VAULT_AWS_WATCH_TIMEOUT", default_value = "200s", value_name = "DURATION")]
    #[arg(value_parser = duration)]
    pub watch_timeout: Duration,

    /// The Lease, in the operator's own namespace, by which replicas elect the one that writes
    /// [default: by the controllers and namespaces that are served]
    #[arg(long, env = "VAULT_AWS_LEASE", value_name = "NAME")]
    lease: Option<String>,

    /// Write without asking for the Lease: only where no second replica can run
    #[arg(long, env = "VAULT_AWS_NO_LEADER_ELECTION", conflicts_with = "lease")]
    pub no_leader_election: bool,

    /// Leave out the metric that has one series for each certificate
    #[arg(long, env = "VAULT_AWS_NO_CERTIFICATE_EXPIRY_METRICS")]
    pub no_certificate_expiry_metrics: bool,

    /// How log lines are written, on stderr
    #[arg(long, env = "VAULT_AWS_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// What is logged: levels by module
    #[arg(long, env = "VAULT_AWS_LOG", default_value = DEFAULT_LOG_FILTER, value_name = "FILTER")]
    pub log_filter: String,
}

impl RunArgs {
    /// Whether this controller is to run.
    pub fn runs(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    /// The operator's own namespace.
    pub fn operator_namespace(&self) -> &str {
        let given = self.operator_namespace.as_deref().or(self.pod_namespace.as_deref());
        given.unwrap_or("vault-aws-system")
    }

    /// The name of this replica: the pod's, else one that no other process has.
    pub fn instance(&self) -> String {
        self.instance.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!("{}-{}", host.trim(), std::process::id())
        })
    }

    /// The Lease of everybody who serves the same controllers and namespaces: those who share work
    /// share a Lease, and those who split it do not.
    pub fn lease(&self) -> String {
        if let Some(lease) = &self.lease {
            return lease.clone();
        }
        let mut name = "vault-aws".to_owned();
        for controller in Controller::value_variants().iter().filter(|one| self.runs(**one)) {
            name.push('-');
            name.push_str(controller.word());
        }
        let mut namespaces = self.namespaces.clone();
        namespaces.sort();
        namespaces.dedup();
        if !namespaces.is_empty() {
            let digest = Sha256::digest(namespaces.join(","));
            name.push('-');
            digest.iter().take(5).for_each(|byte| {
                let _ = write!(name, "{byte:02x}");
            });
        }
        name
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    Span::try_from(text.to_owned()).map(Span::duration)
}

/// A controller of the operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Controller {
    /// `VaultAwsBackend`: the connection, mounts and tenancy.
    Backend,
    /// `VaultAwsRole`: roles and policies in Vault.
    Role,
    /// `VaultCertSync`: certificates as Secrets.
    Sync,
}

impl Controller {
    fn word(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Role => "role",
            Self::Sync => "sync",
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum Error {
    /// `run`
    Run(#[from] run::Error),
    /// `crd`
    Crd(#[from] crd::Error),
    /// `credential-process`
    CredentialProcess(#[from] credential_process::Error),
    /// `login`
    Login(#[from] login::Error),
    /// `doctor`
    Doctor(#[from] doctor::Error),
    /// `policy`
    Policy(#[from] policy::Error),
    /// `import`
    Import(#[from] import::Error),
    /// `plan`
    Plan(#[from] plan::Error),
    /// `man`, `completions`
    Manual(#[from] manual::Error),
}

impl Error {
    /// What to do about it, if that is not plain.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Run(error) => error.hint().map(Cow::Borrowed),
            Self::Login(error) => error.hint().map(Cow::Owned),
            // Programs show what they find on stderr: one line, advice included.
            Self::Crd(_)
            | Self::CredentialProcess(_)
            | Self::Doctor(_)
            | Self::Policy(_)
            | Self::Import(_)
            | Self::Plan(_)
            | Self::Manual(_) => None,
        }
    }

    /// The exit code: 2 where Vault is at fault and a caller can tell, as `vault` does; else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Run(_)
            | Self::Crd(_)
            | Self::Doctor(_)
            | Self::Policy(_)
            | Self::Plan(_)
            | Self::Manual(_) => 1,
            Self::CredentialProcess(error) => error.exit_code(),
            Self::Import(error) => error.exit_code(),
            Self::Login(error) => error.exit_code(),
        }
    }
}

impl Cli {
    /// Does what was asked; the exit code. What programs read goes to `stdout`.
    ///
    /// # Errors
    /// What went wrong; it says its own exit code.
    pub fn execute(self, stdout: impl Write) -> Result<u8, Error> {
        memory::keep_to_ourselves();
        match self.command {
            Command::Run(args) => run::run(*args)?,
            Command::Crd => crd::print(stdout)?,
            Command::Policy(args) => policy::run(&args, stdout)?,
            Command::Import(args) => import::run(&args, stdout)?,
            Command::CredentialProcess(args) => credential_process::run(*args, stdout)?,
            Command::Login(args) => login::run(&args, stdout)?,
            Command::Doctor(args) => doctor::run(&args, stdout)?,
            Command::Plan(args) => return Ok(plan::run(&args, stdout)?),
            Command::Completions { shell } => manual::completions(shell, stdout)?,
            Command::Man { dir } => manual::man(dir.as_deref(), stdout)?,
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(args: &[&str]) -> RunArgs {
        let args = ["vault-aws", "run"].iter().chain(args);
        match Cli::try_parse_from(args).expect("valid arguments").command {
            Command::Run(args) => *args,
            _ => unreachable!("`run` was given"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn credential_process(args: &[&str]) -> Result<CredentialProcessArgs, clap::Error> {
        let args = ["/usr/local/bin/vault-aws-credential-process"].iter().chain(args);
        match Cli::try_parse_from(arguments(args.map(OsString::from)))?.command {
            Command::CredentialProcess(args) => Ok(*args),
            _ => unreachable!("the program's name says otherwise"),
        }
    }

    #[test]
    fn under_the_name_of_the_seed_the_program_takes_its_flags() {
        let args = credential_process(&["--mount", "aws/dev", "--role", "super-admin"]).unwrap();
        assert_eq!(args.mount.as_deref(), Some("aws/dev"));
        assert!(!args.no_cache && args.session_name.is_none());
        let args = credential_process(&["-m=ns/aws", "-rx", "--no-cache", "--session-name=me"]);
        let args = args.unwrap();
        assert_eq!((args.mount.as_deref(), args.role.as_deref()), (Some("ns/aws"), Some("x")));
        assert!(args.no_cache);
        assert_eq!(args.session_name.as_deref(), Some("me"));
        let no_cache = |text| credential_process(&["-m", "a", "-r", "b", text]).unwrap().no_cache;
        assert!(no_cache("--no-cache=true") && !no_cache("--no-cache=false"));
    }

    #[test]
    fn mount_and_role_are_needed_but_not_for_the_cache() {
        assert!(credential_process(&["--mount", "aws"]).is_err());
        assert!(credential_process(&["--mount", "/", "--role", "x"]).is_err());
        let args = credential_process(&["cache", "clear", "--revoke", "--address", "https://v"]);
        assert!(args.unwrap().command.is_some());
    }

    #[test]
    fn a_session_that_aws_would_not_make_is_refused() {
        let ttl = |text| credential_process(&["-m", "a", "-r", "b", "--ttl", text]);
        assert_eq!(ttl("15m").unwrap().ttl, Some(Duration::from_secs(900)));
        assert_eq!(ttl("3600").unwrap().ttl, Some(Duration::from_secs(3600)));
        assert!(ttl("899").is_err() && ttl("long").is_err());
    }

    #[test]
    fn the_budget_is_below_a_minute() {
        let budget = |text| credential_process(&["-m", "a", "-r", "b", "--timeout", text]);
        assert_eq!(budget("5s").unwrap().timeout, Some(Duration::from_secs(5)));
        assert!(budget("60s").is_err() && budget("0").is_err());
    }

    #[test]
    fn all_controllers_run_unless_some_are_named() {
        assert!(run(&[]).runs(Controller::Sync));
        let writer = run(&["--controllers", "backend,role"]);
        assert!(writer.runs(Controller::Role) && !writer.runs(Controller::Sync));
    }

    #[test]
    fn the_help_of_each_command_has_an_example() {
        fn check(command: &clap::Command) {
            for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
                let help = inner.clone().render_long_help().to_string();
                assert!(help.contains("Example"), "{}", inner.get_name());
                check(inner);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn namespaces_are_a_list() {
        assert_eq!(run(&["--namespaces", "a,b"]).namespaces, ["a", "b"]);
        assert!(run(&[]).namespaces.is_empty());
    }

    #[test]
    fn a_given_operator_namespace_wins() {
        let args = run(&["--operator-namespace", "ops", "--pod-namespace", "pod"]);
        assert_eq!(args.operator_namespace(), "ops");
        assert_eq!(run(&["--pod-namespace", "pod"]).operator_namespace(), "pod");
    }

    #[test]
    fn a_concurrency_of_nothing_is_refused() {
        assert!(Cli::try_parse_from(["vault-aws", "run", "--concurrency", "0"]).is_err());
    }

    #[test]
    fn every_variable_of_ours_has_our_prefix() {
        let run = Cli::command();
        let run = run.find_subcommand("run").expect("the command");
        for argument in run.get_arguments().filter(|argument| !argument.is_hide_set()) {
            if let Some(name) = argument.get_env() {
                assert!(name.to_string_lossy().starts_with("VAULT_AWS_"), "{name:?}");
            }
        }
    }
}
