//! `vault-aws login`: an AWS identity becomes a Vault token, as with `vault login -method=aws`.
//!
//! settings → AWS credentials → signed `GetCallerIdentity` → Vault → the token is kept and shown. What
//! programs read goes to stdout, everything else to stderr.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

mod nonce;
mod show;

use super::{
    token_store::{self, TokenStore},
    vault_environment::{self, Variables, VaultEnvironment, VaultFlags},
};
use crate::{
    aws::{
        self,
        person::{self, Settings, Unfit},
        signing::{SigningError, StsTarget, get_caller_identity_for},
    },
    clock,
    doctor::{
        cure::{self, Attempt},
        walk::mount_region,
    },
    review::escape::line,
    vault::{
        self, Client,
        login::{self, Granted, MfaRequirement, Outcome},
    },
};

/// The most that one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long a token helper may take.
const HELPER_LIMIT: Duration = Duration::from_secs(30);
/// The region of the global endpoint, to which Vault forwards logins unless told otherwise.
const DEFAULT_REGION: &str = "us-east-1";

/// How an AWS identity logs in.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "AWS login")]
pub struct AwsLoginFlags {
    /// Role in Vault [default: the one with the name of the IAM role or user]
    #[arg(long, value_name = "NAME")]
    pub role: Option<String>,

    /// Mount of the AWS auth method
    #[arg(long, visible_alias = "mount", value_name = "PATH", default_value = "aws")]
    pub path: String,

    /// Value of X-Vault-AWS-IAM-Server-ID, where the mount asks for one
    #[arg(long, value_name = "TEXT")]
    pub header_value: Option<String>,

    /// Region for which the login is signed: that of the STS to which the mount forwards it; `auto` is
    /// the region of AWS_REGION, profile or instance [default: that of --sts-endpoint, else us-east-1]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,

    /// Endpoint of STS for which the login is signed [default: that of the region]
    #[arg(long, value_name = "URL")]
    pub sts_endpoint: Option<String>,
}

impl AwsLoginFlags {
    /// For which STS logins are signed. Asks the instance for its region only for `auto`, if nothing
    /// else names one.
    pub async fn target(&self, settings: &Settings) -> Result<StsTarget, SigningError> {
        let region = match self.region.as_deref() {
            Some("auto") => settings.region_or_instance().await,
            Some(region) => Some(region.to_owned()),
            None => None,
        };
        match &self.sts_endpoint {
            Some(endpoint) => StsTarget::at(endpoint, region.as_deref()),
            None => StsTarget::of_region(region.as_deref().unwrap_or(DEFAULT_REGION)),
        }
    }

    /// The mount without slashes at its ends.
    pub fn mount(&self) -> &str {
        self.path.trim_matches('/')
    }
}

/// What proves the identity.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Kind {
    /// AWS credentials, by a signed GetCallerIdentity
    #[default]
    Iam,
    /// The signed identity document of this EC2 instance
    Ec2,
}

/// How the token is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// Two columns
    Table,
    /// The answer as `vault` prints it
    Json,
}

/// The flags of `login`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  vault-aws login --role web                          with the AWS identity that the AWS CLI would use
  AWS_PROFILE=dev vault-aws login --role web --region auto --header-value vault.example.com
  export VAULT_TOKEN=$(vault-aws login --role web --token-only)
  vault-aws login --role web --format json --no-store | jq -r .auth.client_token

Exit codes: 0 logged in; 1 a setting, or no AWS credentials; 2 Vault or AWS refused or did not answer.")]
pub struct LoginArgs {
    #[command(flatten)]
    aws: AwsLoginFlags,

    /// What proves the identity
    #[arg(long = "type", value_enum, default_value_t, value_name = "TYPE")]
    #[arg(help_heading = "AWS login")]
    kind: Kind,

    /// File that keeps the nonce of this instance, for --type ec2
    /// [default: $XDG_STATE_HOME/vault-aws/ec2-nonce-…, else below ~/.local/state]
    #[arg(long, value_name = "FILE", help_heading = "AWS login")]
    nonce_file: Option<PathBuf>,

    /// Print this field alone: token, token_accessor, token_duration, token_renewable, token_policies,
    /// identity_policies, policies, `token_meta_<key>`
    #[arg(long, value_name = "NAME")]
    field: Option<String>,

    /// How the token is printed [default: $VAULT_FORMAT, else table]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,

    /// Do not store the token
    #[arg(long, conflicts_with = "no_print")]
    no_store: bool,

    /// Do not print the token
    #[arg(long)]
    no_print: bool,

    /// Print the token and nothing else, and do not store it: --field token --no-store
    #[arg(long, conflicts_with_all = ["field", "no_print", "format"])]
    token_only: bool,

    #[command(flatten)]
    vault: VaultFlags,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings of the Vault client.
    #[error(transparent)]
    Environment(#[from] vault_environment::Error),
    /// Region, endpoint or header value.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The AWS settings cannot be read, or lead back to us.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// There is no AWS identity.
    #[error("getting AWS credentials")]
    Aws(#[source] aws::Error),
    /// The nonce of the instance.
    #[error(transparent)]
    Nonce(#[from] nonce::Error),
    /// Vault.
    #[error("{source}")]
    Vault {
        /// What it said.
        source: Box<vault::Error>,
        /// What to do about it.
        cure: String,
    },
    /// A second factor is wanted.
    #[error("Vault wants a second factor before it gives the token: {}", methods(.0))]
    Mfa(MfaRequirement),
    /// The token cannot be kept.
    #[error("storing the token; it is valid, and printed above")]
    Store(#[source] token_store::Error),
    /// There is no such field.
    #[error("the login has no field `{0}`")]
    Field(String),
    /// stdout.
    #[error("writing to stdout")]
    Output(#[source] io::Error),
    /// Tokio.
    #[error("starting the runtime")]
    Runtime(#[source] io::Error),
}

fn methods(wanted: &MfaRequirement) -> String {
    let named: Vec<String> =
        wanted.methods().map(|method| format!("{} ({})", method.kind, method.id)).collect();
    if named.is_empty() { "it does not say which".to_owned() } else { named.join(", ") }
}

impl Error {
    /// What to do about it, if that is not plain.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Aws(error) => Some(cure::of_aws(error)),
            Self::Vault { cure, .. } => Some(cure.clone()),
            Self::Unfit(unfit) => Some(unfit.cure().to_owned()),
            Self::Mfa(wanted) => Some(format!(
                "vault write sys/mfa/validate mfa_request_id={} mfa_payload=<json: method id to list \
                 of passcodes>; its answer holds the token",
                wanted.mfa_request_id
            )),
            Self::Store(_) => {
                Some("correct ~/.vault-token or the token helper, or use --no-store".to_owned())
            }
            _ => None,
        }
    }

    /// 1: something on this machine. 2: Vault or AWS, or the token could not be stored.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Vault { .. } | Self::Mfa(_) | Self::Store(_) => 2,
            Self::Aws(aws::Error::NoCredentials { .. } | aws::Error::Region { .. }) => 1,
            Self::Aws(_) => 2,
            _ => 1,
        }
    }
}

/// Logs in, keeps the token and shows it.
pub fn run(args: &LoginArgs, stdout: impl Write) -> Result<(), Error> {
    // Only fails if there is a provider already, and then it is this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let variables = Variables::of_process();
    let environment = VaultEnvironment::parse(&args.vault, &variables)?;
    let format = args.format(&variables)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let granted = runtime.block_on(log_in(args, &environment, &variables))?;
    finish(args, &variables, format, &granted, stdout)
}

impl LoginArgs {
    fn format(&self, variables: &Variables) -> Result<Format, vault_environment::Error> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        match variables.text("VAULT_FORMAT")? {
            None => Ok(Format::Table),
            Some(text) => {
                Format::from_str(text, true).map_err(|_| vault_environment::Error::Invalid {
                    setting: "VAULT_FORMAT".to_owned(),
                    what: "login prints table or json".to_owned(),
                })
            }
        }
    }
}

async fn log_in(
    args: &LoginArgs,
    environment: &VaultEnvironment,
    variables: &Variables,
) -> Result<Granted, Error> {
    let settings = Settings::load().await;
    let target = args.aws.target(&settings).await?;
    let client = environment.client(REQUEST_LIMIT)?;
    let answer = match args.kind {
        Kind::Iam => {
            settings.check()?;
            let credentials = settings.credentials(target.region()).await.map_err(Error::Aws)?;
            let server_id = args.aws.header_value.as_deref();
            let request = get_caller_identity_for(&credentials, &target, server_id, clock::now())?;
            login::iam_of_person(&client, args.aws.mount(), args.aws.role.as_deref(), &request)
                .await
        }
        Kind::Ec2 => by_instance(args, environment, variables, &client).await?,
    };
    match answer {
        Ok(Outcome::Granted(granted)) => Ok(*granted),
        Ok(Outcome::MfaRequired(wanted)) => Err(Error::Mfa(wanted)),
        Err(error) => {
            let region = match error.aws_refusal() {
                Some(vault::AwsRefusal::RegionMismatch) => {
                    region_of_mount(args, environment, variables, &client).await
                }
                _ => None,
            };
            let attempt = Attempt {
                mount: args.aws.mount(),
                role: args.aws.role.as_deref(),
                target: &target,
                has_server_id: args.aws.header_value.is_some(),
                caller: None,
                mount_region: region.as_deref(),
            };
            let cure = cure::of_login(&error, &attempt);
            Err(Error::Vault { source: Box::new(error), cure })
        }
    }
}

async fn by_instance(
    args: &LoginArgs,
    environment: &VaultEnvironment,
    variables: &Variables,
    client: &Client,
) -> Result<Result<Outcome, vault::Error>, Error> {
    let document = person::instance_identity().await.map_err(Error::Aws)?;
    let file = match &args.nonce_file {
        Some(file) => file.clone(),
        None => nonce::default_file(
            variables,
            &environment.server.to_string(),
            environment.namespace.as_deref(),
            args.aws.mount(),
        )?,
    };
    // Kept before it is used: an instance that has lost its nonce is locked out.
    let nonce = nonce::keep(&file)?;
    let role = args.aws.role.as_deref();
    Ok(login::ec2_of_person(client, args.aws.mount(), role, &document, &nonce).await)
}

/// Asked of Vault with the token that the person has, if any; silent otherwise.
async fn region_of_mount(
    args: &LoginArgs,
    environment: &VaultEnvironment,
    variables: &Variables,
    client: &Client,
) -> Option<String> {
    let token = match &environment.token {
        Some(token) => token.clone(),
        None => TokenStore::find(variables).ok()??.get(Instant::now() + HELPER_LIMIT).ok()??,
    };
    mount_region(&client.with_token(token), args.aws.mount()).await
}

fn finish(
    args: &LoginArgs,
    variables: &Variables,
    format: Format,
    granted: &Granted,
    mut stdout: impl Write,
) -> Result<(), Error> {
    let field = if args.token_only { Some("token") } else { args.field.as_deref() };
    let stored =
        if args.no_store || args.token_only { None } else { Some(store(variables, granted)) };
    let failed = matches!(stored, Some(Err(_)));
    let mut said = String::new();
    for warning in &granted.warnings {
        let _ = writeln!(said, "warning: {}", line(warning));
    }
    if stored.is_some() && variables.text("VAULT_TOKEN").ok().flatten().is_some() {
        said.push_str(
            "warning: VAULT_TOKEN is set and wins over the stored token: unset it to use this one\n",
        );
    }
    // Programs that take one field want no story beside it.
    if field.is_none() && format == Format::Table {
        said.push_str(match &stored {
            Some(Ok(_)) => "Logged in; the token is stored, and later commands use it.\n",
            Some(Err(_)) => "",
            None => "Logged in; the token is not stored: set VAULT_TOKEN to it.\n",
        });
    }
    let _ = io::stderr().write_all(said.as_bytes());
    // What could not be stored must not be lost.
    if !args.no_print || failed {
        let text = match field {
            Some(field) => {
                show::field(granted, field, format).ok_or_else(|| Error::Field(field.to_owned()))?
            }
            None if format == Format::Json => show::json(granted),
            None => show::table(granted),
        };
        let end = if field.is_some() && !io::stdout().is_terminal() { "" } else { "\n" };
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.write_all(end.as_bytes()))
            .and_then(|()| stdout.flush())
            .map_err(Error::Output)?;
    }
    match stored {
        Some(Err(error)) => Err(Error::Store(error)),
        _ => Ok(()),
    }
}

fn store(variables: &Variables, granted: &Granted) -> Result<(), token_store::Error> {
    let store = TokenStore::find(variables)?.ok_or(token_store::Error::NoHome)?;
    store.store(&granted.login.token, Instant::now() + HELPER_LIMIT)
}

/// A list as `vault` prints it: `["a" "b"]`.
fn quoted(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// A list as JSON; `null` where there is nothing, as `vault` has it.
fn nullable(list: &[String]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: LoginArgs,
    }

    fn args(words: &[&str]) -> Result<LoginArgs, clap::Error> {
        Line::try_parse_from(["login"].iter().chain(words)).map(|line| line.args)
    }

    #[test]
    fn what_would_lose_the_token_is_refused() {
        assert!(args(&["--no-store", "--no-print"]).is_err());
        assert!(args(&["--token-only", "--field", "token"]).is_err());
        args(&["--no-store", "--field", "token"]).unwrap();
    }

    #[test]
    fn the_format_is_that_of_vault_unless_a_flag_says_otherwise() {
        let variables: Variables = [("VAULT_FORMAT", "json")].into_iter().collect();
        assert_eq!(args(&[]).unwrap().format(&variables).unwrap(), Format::Json);
        let given = args(&["--format", "table"]).unwrap();
        assert_eq!(given.format(&variables).unwrap(), Format::Table);
        let foreign: Variables = [("VAULT_FORMAT", "yaml")].into_iter().collect();
        assert!(args(&[]).unwrap().format(&foreign).is_err());
    }

    #[tokio::test]
    async fn the_region_is_the_endpoints_unless_one_is_given() {
        let settings = Settings::load().await;
        let target = |words: &[&str]| {
            let flags = args(words).unwrap().aws;
            let settings = &settings;
            async move { flags.target(settings).await }
        };
        assert_eq!(target(&[]).await.unwrap().host(), "sts.amazonaws.com");
        assert_eq!(target(&["--region", "eu-west-1"]).await.unwrap().region(), "eu-west-1");
        let endpoint = "https://sts.eu-west-1.amazonaws.com";
        assert_eq!(target(&["--sts-endpoint", endpoint]).await.unwrap().region(), "eu-west-1");
        assert!(target(&["--sts-endpoint", endpoint, "--region", "us-east-1"]).await.is_err());
    }

    #[test]
    fn the_code_says_whose_fault_it_is() {
        let none = Error::Aws(aws::Error::NoCredentials { text: String::new() });
        assert_eq!(none.exit_code(), 1);
        let refused = Error::Aws(aws::Error::AccessDenied { text: String::new() });
        assert_eq!(refused.exit_code(), 2);
        assert_eq!(Error::Mfa(MfaRequirement::default()).exit_code(), 2);
        assert_eq!(Error::Field("x".to_owned()).exit_code(), 1);
    }
}
