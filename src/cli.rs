//! Every flag, environment variable and help text. No behaviour: each command has a file.

use std::{borrow::Cow, io::Write, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    crd::Span,
    telemetry::{DEFAULT_LOG_FILTER, LogFormat},
};

pub mod crd;
pub mod doctor;
pub mod login;
pub mod manual;
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
  vault-aws login --role web                          a Vault token for the AWS identity in use
  vault-aws doctor vaultcertsync/web -n team-a        why a certificate is not delivered")]
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
    /// Log in to Vault with an AWS identity, as `vault login -method=aws` does it
    Login(Box<login::LoginArgs>),
    /// Find the first broken link between an AWS identity and its certificates, with its cure
    Doctor(Box<doctor::DoctorArgs>),
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

    /// The name of this replica, shown in events
    #[arg(long, env = "HOSTNAME", hide = true, default_value = "vault-aws")]
    pub instance: String,

    /// Passes of each kind that run at once
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

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum Error {
    /// `run`
    Run(#[from] run::Error),
    /// `crd`
    Crd(#[from] crd::Error),
    /// `login`
    Login(#[from] login::Error),
    /// `doctor`
    Doctor(#[from] doctor::Error),
    /// `man`, `completions`
    Manual(#[from] manual::Error),
}

impl Error {
    /// What to do about it, if that is not plain.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Run(error) => error.hint().map(Cow::Borrowed),
            Self::Login(error) => error.hint().map(Cow::Owned),
            Self::Crd(_) | Self::Doctor(_) | Self::Manual(_) => None,
        }
    }

    /// The code with which the program ends: 1, or 2 where a command says that the other side failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Login(error) => error.exit_code(),
            Self::Run(_) | Self::Crd(_) | Self::Doctor(_) | Self::Manual(_) => 1,
        }
    }
}

impl Cli {
    /// Does what was asked. What programs read goes to `stdout`.
    pub fn execute(self, stdout: impl Write) -> Result<(), Error> {
        match self.command {
            Command::Run(args) => Ok(run::run(*args)?),
            Command::Crd => Ok(crd::print(stdout)?),
            Command::Login(args) => Ok(login::run(&args, stdout)?),
            Command::Doctor(args) => Ok(doctor::run(&args, stdout)?),
            Command::Completions { shell } => Ok(manual::completions(shell, stdout)?),
            Command::Man { dir } => Ok(manual::man(dir.as_deref(), stdout)?),
        }
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

    #[test]
    fn all_controllers_run_unless_some_are_named() {
        assert!(run(&[]).runs(Controller::Sync));
        let writer = run(&["--controllers", "backend,role"]);
        assert!(writer.runs(Controller::Role) && !writer.runs(Controller::Sync));
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
