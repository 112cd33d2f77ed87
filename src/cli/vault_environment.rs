//! The Vault client environment of people: what the `vault` command reads from variables and flags,
//! read the same way, so that whoever can use `vault` can use our commands without more settings.
//!
//! [`VaultEnvironment::parse`] is pure: it gets the variables and the flags, opens no file and asks
//! nobody. What costs time (certificates, CA bundles) is read by [`VaultEnvironment::client`] alone, so
//! that a command that needs no connection does not pay for one.
//!
//! Where we differ from `vault`, on purpose: a flag wins over every variable (`--address` over
//! `VAULT_AGENT_ADDR`); plain `http://` beyond this machine, and certificates that nobody checks, need
//! `--insecure` as well; `VAULT_WRAP_TTL` is not heeded, as a wrapped answer is of no use to our
//! commands; redirects are followed to the same origin only.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use http::{HeaderName, HeaderValue};
use reqwest::Url;
use zeroize::Zeroizing;

use crate::{
    files,
    redacted::Redacted,
    vault::{
        self, Caller, Client, ClientCertificate, ForwardProxy, Liberties, SettingsError,
        parse_any_address, wire::go_duration,
    },
};

/// Where Vault is if nobody says.
const DEFAULT_ADDRESS: &str = "https://127.0.0.1:8200";
/// As `vault`'s.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The name of the variable with which our commands tell the programs they start who started them:
/// a command that finds it was reached from itself.
pub const GUARD: &str = "VAULT_AWS_STARTED_BY";

/// How Vault is reached, for commands that people run.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Vault")]
pub struct VaultFlags {
    /// Address of Vault, https://host:port or unix:///path [default: $VAULT_AGENT_ADDR, $VAULT_ADDR,
    /// else https://127.0.0.1:8200]
    #[arg(long, value_name = "URL")]
    pub address: Option<String>,

    /// Address of a Vault Proxy or Agent, which adds the token; wins over --address
    #[arg(long, value_name = "URL")]
    pub agent_address: Option<String>,

    /// Namespace of Vault Enterprise or OpenBao [default: $VAULT_NAMESPACE]
    #[arg(long, visible_alias = "ns", value_name = "PATH")]
    pub namespace: Option<String>,

    /// File of certificates that may vouch for Vault [default: $VAULT_CACERT]
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,

    /// Folder of such files [default: $VAULT_CAPATH]
    #[arg(long, value_name = "FOLDER", conflicts_with = "ca_cert")]
    pub ca_path: Option<PathBuf>,

    /// File of the certificate that is shown to Vault [default: $VAULT_CLIENT_CERT]
    #[arg(long, value_name = "FILE")]
    pub client_cert: Option<PathBuf>,

    /// File of its private key [default: $VAULT_CLIENT_KEY]
    #[arg(long, value_name = "FILE")]
    pub client_key: Option<PathBuf>,

    /// Name that Vault's certificate must carry [default: $VAULT_TLS_SERVER_NAME]
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,

    /// Do not check Vault's certificate; needs --insecure [default: $VAULT_SKIP_VERIFY]
    #[arg(long)]
    pub tls_skip_verify: bool,

    /// Allow http:// to other machines and certificates that are not checked: tokens and credentials
    /// can then be read or taken on the way [default: $VAULT_AWS_INSECURE]
    #[arg(long)]
    pub insecure: bool,
}

/// Settings with which Vault cannot be asked: for the caller to correct, on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable that is not text.
    #[error("{name} is not UTF-8")]
    NotText {
        /// The variable.
        name: String,
    },
    /// A setting whose value does not mean anything.
    #[error("{setting} cannot be used: {what}")]
    Invalid {
        /// The flag or variable.
        setting: String,
        /// What is wrong with it, without its value where that may be secret.
        what: String,
    },
    /// Vault's address, or another setting of the connection.
    #[error("{setting} cannot be used")]
    Settings {
        /// The flag or variable.
        setting: String,
        /// What is wrong with it.
        source: SettingsError,
    },
    /// Something that would show the token to others.
    #[error("{what}: say --insecure (or VAULT_AWS_INSECURE=true) if you mean it")]
    Insecure {
        /// What would.
        what: String,
    },
    /// A file that a setting names.
    #[error("reading {} ({setting})", path.display())]
    Read {
        /// The flag or variable.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// The client could not be made of them.
    #[error("preparing the connection to Vault")]
    Client(#[from] SettingsError),
}

/// The environment variables, as they were when they were asked for.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<OsString, OsString>);

impl Variables {
    /// Those of this process.
    pub fn of_process() -> Self {
        env::vars_os().collect()
    }

    /// The value as text. Empty is as good as unset, as for `vault`.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.0.get(std::ffi::OsStr::new(name)) {
            None => Ok(None),
            Some(value) => match value.to_str() {
                None => Err(Error::NotText { name: name.to_owned() }),
                Some("") => Ok(None),
                Some(text) => Ok(Some(text)),
            },
        }
    }

    /// The value as a path.
    pub fn path(&self, name: &str) -> Option<&Path> {
        self.0.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty()).map(Path::new)
    }

    /// The home directory, from `HOME`.
    pub fn home(&self) -> Option<&Path> {
        self.path("HOME")
    }

    /// A truth value, in the forms that Go knows.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        let parse = |text: &str| {
            parse_bool(text).ok_or_else(|| Error::Invalid {
                setting: name.to_owned(),
                what: "it is neither true nor false".to_owned(),
            })
        };
        self.text(name)?.map(parse).transpose()
    }
}

/// `strconv.ParseBool` of Go, which users of `vault` write for.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Variables {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Where Vault, or a proxy of it, listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Server {
    /// At an `https` or `http` address.
    Url(Url),
    /// At a Unix socket.
    Socket(PathBuf),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Which setting said where Vault is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// `--agent-address`
    AgentFlag,
    /// `--address`
    Flag,
    /// `VAULT_AGENT_ADDR`
    AgentVariable,
    /// `VAULT_ADDR`
    Variable,
    /// None did.
    Default,
}

impl Origin {
    /// Whether it says that a Vault Proxy or Agent listens there, which adds a token by itself.
    pub fn is_agent(self) -> bool {
        matches!(self, Self::AgentFlag | Self::AgentVariable)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AgentFlag => "--agent-address",
            Self::Flag => "--address",
            Self::AgentVariable => "VAULT_AGENT_ADDR",
            Self::Variable => "VAULT_ADDR",
            Self::Default => "the default address",
        })
    }
}

/// Whom to trust for Vault's certificate. The files are not read yet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Trust {
    /// What the platform trusts.
    #[default]
    Platform,
    /// The certificates of this file.
    File(PathBuf),
    /// These certificates, as PEM.
    Pem(String),
    /// The certificates of all files of this folder.
    Folder(PathBuf),
}

impl fmt::Display for Trust {
    /// The setting, and the file where it names one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Platform => f.write_str("what the platform trusts"),
            Self::File(path) => write!(f, "VAULT_CACERT ({})", path.display()),
            Self::Pem(_) => f.write_str("VAULT_CACERT_BYTES"),
            Self::Folder(path) => write!(f, "VAULT_CAPATH ({})", path.display()),
        }
    }
}

/// How a person's command reaches Vault: flags and variables, parsed and checked. No file is read yet.
#[derive(Clone, Debug)]
pub struct VaultEnvironment {
    /// Where Vault is.
    pub server: Server,
    /// Who said so.
    pub origin: Origin,
    /// `X-Vault-Namespace`, without slashes at its ends.
    pub namespace: Option<String>,
    /// `VAULT_TOKEN`. Other places are [`token_store`](super::token_store)'s.
    pub token: Option<Redacted<String>>,
    /// Who vouches for Vault.
    pub trust: Trust,
    /// Files of our certificate and key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// The name to expect in Vault's certificate.
    pub tls_server_name: Option<String>,
    /// Take any certificate.
    pub skip_verify: bool,
    /// The deadline of a request.
    pub timeout: Duration,
    /// How often a request is tried again, if somebody said.
    pub max_retries: Option<u32>,
    /// Requests per second and at once, if somebody said.
    pub rate_limit: Option<(u32, u32)>,
    /// The forward proxy.
    pub proxy: ForwardProxy,
    /// Headers of `VAULT_HEADERS` and `VAULT_MFA`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl VaultEnvironment {
    /// Parses flags and variables. A number, truth value or address that cannot be read is an error,
    /// as for `vault`; so are settings that would show the token to others.
    pub fn parse(flags: &VaultFlags, variables: &Variables) -> Result<Self, Error> {
        let insecure = flags.insecure || variables.flag("VAULT_AWS_INSECURE")?.unwrap_or_default();
        let (server, origin) = server(flags, variables)?;
        let skip_verify =
            flags.tls_skip_verify || variables.flag("VAULT_SKIP_VERIFY")?.unwrap_or_default();
        let speaks_tls = matches!(&server, Server::Url(url) if url.scheme() == "https");
        if !insecure {
            if let Server::Url(url) = &server
                && url.scheme() == "http"
                && !is_loopback(url)
            {
                let what = format!("{server} ({origin}) is plain http to another machine");
                return Err(Error::Insecure { what });
            }
            if skip_verify && speaks_tls {
                let what = if flags.tls_skip_verify {
                    "--tls-skip-verify would take any certificate for Vault's"
                } else {
                    "VAULT_SKIP_VERIFY would take any certificate for Vault's"
                };
                return Err(Error::Insecure { what: what.to_owned() });
            }
        }
        if let Server::Url(url) = &server
            && url.port().is_none()
            && variables.flag("VAULT_SRV_LOOKUP")? == Some(true)
        {
            return Err(Error::Invalid {
                setting: "VAULT_SRV_LOOKUP".to_owned(),
                what: "SRV records are not looked up; give the address with its port".to_owned(),
            });
        }
        // Only ever followed to the same origin and path; still, nonsense is said.
        variables.flag("VAULT_DISABLE_REDIRECTS")?;
        let tls_server_name = match &flags.tls_server_name {
            Some(name) => Some(name.clone()),
            None => variables.text("VAULT_TLS_SERVER_NAME")?.map(str::to_owned),
        };
        Ok(Self {
            namespace: namespace(flags, variables)?,
            token: token(variables)?,
            trust: trust(flags, variables)?,
            client_certificate: client_certificate(flags, variables)?,
            // It means nothing where no certificate is shown.
            tls_server_name: tls_server_name.filter(|_| speaks_tls),
            skip_verify: skip_verify && speaks_tls,
            timeout: timeout(variables)?,
            max_retries: max_retries(variables)?,
            rate_limit: rate_limit(variables)?,
            proxy: proxy(&server, variables)?,
            headers: headers(variables)?,
            server,
            origin,
        })
    }

    /// Whether a Vault Proxy or Agent was said to listen at the address. It adds its token only to
    /// requests without one, so that a stale `~/.vault-token` must not be sent there.
    pub fn is_agent(&self) -> bool {
        self.origin.is_agent()
    }

    /// The client. Reads the files that are named; nothing is sent. No request takes longer than
    /// `limit`, whatever `VAULT_CLIENT_TIMEOUT` allows.
    pub fn client(&self, limit: Duration) -> Result<Client, Error> {
        let address = match &self.server {
            Server::Url(url) => url.clone(),
            // Only the `Host` header sees it.
            Server::Socket(_) => address("unix", "http://localhost")?,
        };
        let mut settings = vault::Settings::new(address);
        settings.namespace.clone_from(&self.namespace);
        settings.ca_pem = self.ca_pem()?;
        settings.client_certificate = self.client_certificate()?;
        settings.tls_server_name.clone_from(&self.tls_server_name);
        settings.timeout = self.timeout.min(limit);
        // Vault's own command line has no limit; one person at a time is no storm.
        let (rate, burst) = self.rate_limit.unwrap_or((500, 500));
        settings.requests_per_second = rate;
        settings.burst = burst;
        let liberties = Liberties {
            plain_http: settings.address.scheme() == "http",
            any_certificate: self.skip_verify,
            socket: match &self.server {
                Server::Socket(path) => Some(path.clone()),
                Server::Url(_) => None,
            },
            proxy: self.proxy.clone(),
            headers: self.headers.clone(),
        };
        Client::for_person(&settings, &liberties).map_err(|source| self.unfit(source))
    }

    /// Which of the settings it is that cannot be used.
    fn unfit(&self, source: SettingsError) -> Error {
        let setting = match &source {
            SettingsError::Address { .. } => self.origin.to_string(),
            SettingsError::Namespace => "VAULT_NAMESPACE".to_owned(),
            SettingsError::CaBundle { .. } => self.trust.to_string(),
            SettingsError::ClientCertificate { .. } => {
                let files = self.client_certificate.iter();
                let files =
                    files.map(|(one, two)| format!(" ({}, {})", one.display(), two.display()));
                "VAULT_CLIENT_CERT".to_owned() + &files.collect::<String>()
            }
            SettingsError::ServerName => "VAULT_TLS_SERVER_NAME".to_owned(),
            SettingsError::Proxy { .. } => "VAULT_PROXY_ADDR".to_owned(),
            SettingsError::Http { .. } => return Error::Client(source),
        };
        Error::Settings { setting, source }
    }

    /// The client with a token, or without one where there is none: behind a Vault Proxy or Agent.
    pub fn caller(
        &self,
        token: Option<Redacted<String>>,
        limit: Duration,
    ) -> Result<Caller, Error> {
        let client = self.client(limit)?;
        Ok(match token {
            Some(token) => client.with_token(token),
            None => client.without_token(),
        })
    }

    fn ca_pem(&self) -> Result<Option<String>, Error> {
        match &self.trust {
            _ if !matches!(&self.server, Server::Url(url) if url.scheme() == "https") => Ok(None),
            Trust::Platform => Ok(None),
            Trust::Pem(pem) => Ok(Some(pem.clone())),
            Trust::File(path) => read("VAULT_CACERT", path).map(|pem| Some(pem.to_string())),
            Trust::Folder(path) => read_folder(path).map(Some),
        }
    }

    fn client_certificate(&self) -> Result<Option<ClientCertificate>, Error> {
        let Some((certificate, key)) = &self.client_certificate else {
            return Ok(None);
        };
        Ok(Some(ClientCertificate {
            certificate_pem: read("VAULT_CLIENT_CERT", certificate)?.to_string(),
            key_pem: Redacted::new(std::mem::take(&mut *read("VAULT_CLIENT_KEY", key)?)),
        }))
    }
}

fn server(flags: &VaultFlags, variables: &Variables) -> Result<(Server, Origin), Error> {
    fn given(text: &Option<String>) -> Option<&str> {
        text.as_deref().filter(|text| !text.is_empty())
    }
    let (text, origin) = if let Some(text) = given(&flags.agent_address) {
        (text, Origin::AgentFlag)
    } else if let Some(text) = given(&flags.address) {
        (text, Origin::Flag)
    } else if let Some(text) = variables.text("VAULT_AGENT_ADDR")? {
        (text, Origin::AgentVariable)
    } else if let Some(text) = variables.text("VAULT_ADDR")? {
        (text, Origin::Variable)
    } else {
        (DEFAULT_ADDRESS, Origin::Default)
    };
    let server = match text.trim().strip_prefix("unix://") {
        Some(path) if Path::new(path).is_absolute() => Server::Socket(PathBuf::from(path)),
        Some(_) => {
            return Err(Error::Invalid {
                setting: origin.to_string(),
                what: "the path of a socket must be absolute, as in unix:///run/vault.sock"
                    .to_owned(),
            });
        }
        None => Server::Url(address(&origin.to_string(), text)?),
    };
    Ok((server, origin))
}

fn address(setting: &str, text: &str) -> Result<Url, Error> {
    parse_any_address(text)
        .map_err(|source| Error::Settings { setting: setting.to_owned(), source })
}

/// Whether requests to this address stay on this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host_str().map(|host| host.trim_matches(['[', ']'])) {
        None => false,
        Some("localhost") => true,
        Some(host) => host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()),
    }
}

fn namespace(flags: &VaultFlags, variables: &Variables) -> Result<Option<String>, Error> {
    let (setting, text) = match &flags.namespace {
        Some(text) => ("--namespace", Some(text.as_str())),
        None => ("VAULT_NAMESPACE", variables.text("VAULT_NAMESPACE")?),
    };
    let text = text.map(|text| text.trim().trim_matches('/')).filter(|text| !text.is_empty());
    let Some(text) = text else { return Ok(None) };
    // Vault has none like these; to a proxy before it they could mean another path.
    let is_odd =
        |part: &str| matches!(part, "." | "..") || !part.chars().all(|c| c.is_ascii_graphic());
    if text.split('/').any(is_odd) {
        let what =
            "a namespace is a path without `..`, blanks or characters beyond ASCII".to_owned();
        return Err(Error::Invalid { setting: setting.to_owned(), what });
    }
    Ok(Some(text.to_owned()))
}

fn token(variables: &Variables) -> Result<Option<Redacted<String>>, Error> {
    let Some(token) = variables.text("VAULT_TOKEN")? else {
        return Ok(None);
    };
    check_token("VAULT_TOKEN", token)?;
    Ok(Some(Redacted::new(token.to_owned())))
}

/// Whether a text can be a token, whose form is otherwise the server's business.
pub(crate) fn check_token(setting: &str, token: &str) -> Result<(), Error> {
    if token.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(());
    }
    let what = "a token has no blanks, line breaks or characters beyond ASCII".to_owned();
    Err(Error::Invalid { setting: setting.to_owned(), what })
}

/// The first that is set wins, flags before variables.
fn trust(flags: &VaultFlags, variables: &Variables) -> Result<Trust, Error> {
    if let Some(path) = &flags.ca_cert {
        return Ok(Trust::File(path.clone()));
    }
    if let Some(path) = &flags.ca_path {
        return Ok(Trust::Folder(path.clone()));
    }
    if let Some(path) = variables.path("VAULT_CACERT") {
        return Ok(Trust::File(path.to_owned()));
    }
    if let Some(pem) = variables.text("VAULT_CACERT_BYTES")? {
        return Ok(Trust::Pem(pem.to_owned()));
    }
    Ok(variables
        .path("VAULT_CAPATH")
        .map_or(Trust::Platform, |path| Trust::Folder(path.to_owned())))
}

fn client_certificate(
    flags: &VaultFlags,
    variables: &Variables,
) -> Result<Option<(PathBuf, PathBuf)>, Error> {
    let certificate = flags.client_cert.as_deref().or(variables.path("VAULT_CLIENT_CERT"));
    let key = flags.client_key.as_deref().or(variables.path("VAULT_CLIENT_KEY"));
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some((certificate.to_owned(), key.to_owned()))),
        (Some(_), None) => Err(Error::Invalid {
            setting: "VAULT_CLIENT_CERT".to_owned(),
            what: "its key is missing (VAULT_CLIENT_KEY, --client-key)".to_owned(),
        }),
        (None, Some(_)) => Err(Error::Invalid {
            setting: "VAULT_CLIENT_KEY".to_owned(),
            what: "its certificate is missing (VAULT_CLIENT_CERT, --client-cert)".to_owned(),
        }),
    }
}

fn timeout(variables: &Variables) -> Result<Duration, Error> {
    let Some(text) = variables.text("VAULT_CLIENT_TIMEOUT")? else {
        return Ok(DEFAULT_TIMEOUT);
    };
    // Zero means none, as in Vault.
    match go_duration(text) {
        Some(Duration::ZERO) => Ok(Duration::from_secs(24 * 3600)),
        Some(timeout) => Ok(timeout),
        None => Err(Error::Invalid {
            setting: "VAULT_CLIENT_TIMEOUT".to_owned(),
            what: "it is neither a number of seconds nor a duration as 30s or 1m".to_owned(),
        }),
    }
}

fn max_retries(variables: &Variables) -> Result<Option<u32>, Error> {
    let parse = |text: &str| {
        text.parse().map_err(|_| Error::Invalid {
            setting: "VAULT_MAX_RETRIES".to_owned(),
            what: "it is not a number".to_owned(),
        })
    };
    variables.text("VAULT_MAX_RETRIES")?.map(parse).transpose()
}

/// `rate[:burst]`; the burst is the rate if it is left out.
fn rate_limit(variables: &Variables) -> Result<Option<(u32, u32)>, Error> {
    let Some(text) = variables.text("VAULT_RATE_LIMIT")? else {
        return Ok(None);
    };
    let invalid = || Error::Invalid {
        setting: "VAULT_RATE_LIMIT".to_owned(),
        what: "it is not of the form rate or rate:burst".to_owned(),
    };
    let (rate, burst) = match text.split_once(':') {
        Some((rate, burst)) => (rate, Some(burst.parse::<u32>().map_err(|_| invalid())?)),
        None => (text, None),
    };
    let rate: f64 = rate.parse().map_err(|_| invalid())?;
    if !rate.is_finite() || rate < 0.0 || rate > f64::from(u32::MAX) {
        return Err(invalid());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let rate = (rate.ceil() as u32).max(1);
    Ok(Some((rate, burst.unwrap_or(rate).max(1))))
}

fn proxy(server: &Server, variables: &Variables) -> Result<ForwardProxy, Error> {
    for name in ["VAULT_PROXY_ADDR", "VAULT_HTTP_PROXY"] {
        if let Some(text) = variables.text(name)? {
            // Its value may hold a password.
            let url = Url::parse(text)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
            return url.map(ForwardProxy::Fixed).ok_or_else(|| Error::Invalid {
                setting: name.to_owned(),
                what: "it is not the http:// or https:// address of a forward proxy".to_owned(),
            });
        }
    }
    Ok(match server {
        Server::Socket(_) => ForwardProxy::Never,
        // As Go does: the proxy of this machine is not asked for the machine itself.
        Server::Url(url) if is_loopback(url) => ForwardProxy::Never,
        Server::Url(_) => ForwardProxy::OfEnvironment,
    })
}

fn headers(variables: &Variables) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
    let invalid =
        |what: &str| Error::Invalid { setting: "VAULT_HEADERS".to_owned(), what: what.to_owned() };
    let mut headers = Vec::new();
    if let Some(text) = variables.text("VAULT_HEADERS")? {
        let given: BTreeMap<String, String> = serde_json::from_str(text)
            .map_err(|_| invalid("it is not a JSON object of strings"))?;
        for (name, value) in given {
            let name = HeaderName::try_from(name)
                .map_err(|_| invalid("it holds a name that no header can have"))?;
            if name.as_str().starts_with("x-vault-") {
                return Err(invalid("headers of Vault's own (X-Vault-…) cannot be set by it"));
            }
            headers.push((
                name,
                secret_value(&value)
                    .ok_or_else(|| invalid("it holds a value that no header can carry"))?,
            ));
        }
    }
    if let Some(text) = variables.text("VAULT_MFA")? {
        let value = secret_value(text).ok_or_else(|| Error::Invalid {
            setting: "VAULT_MFA".to_owned(),
            what: "no header can carry it".to_owned(),
        })?;
        headers.push((HeaderName::from_static("x-vault-mfa"), value));
    }
    Ok(headers)
}

fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn read(setting: &'static str, path: &Path) -> Result<Zeroizing<String>, Error> {
    files::text(path, files::LARGEST, files::PATIENCE).map_err(|source| Error::Read {
        setting,
        path: path.to_owned(),
        source,
    })
}

/// All certificates of a folder's files, one after another. Files without one are passed over.
fn read_folder(folder: &Path) -> Result<String, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Read { setting: "VAULT_CAPATH", path, source }
    };
    let mut pem = String::new();
    let mut paths = fs::read_dir(folder)
        .map_err(failed(folder))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed(folder))?;
    paths.sort();
    for path in paths.into_iter().filter(|path| path.is_file()) {
        let bytes = files::bytes(&path, files::LARGEST, files::PATIENCE).map_err(failed(&path))?;
        if let Ok(text) = std::str::from_utf8(&bytes)
            && text.contains("-----BEGIN CERTIFICATE-----")
        {
            pem.push_str(text);
            pem.push('\n');
        }
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: VaultFlags, variables: &[(&str, &str)]) -> Result<VaultEnvironment, Error> {
        VaultEnvironment::parse(&flags, &variables.iter().copied().collect())
    }

    fn of(variables: &[(&str, &str)]) -> VaultEnvironment {
        parse(VaultFlags::default(), variables).unwrap()
    }

    fn refusal(variables: &[(&str, &str)]) -> String {
        let error = parse(VaultFlags::default(), variables).unwrap_err();
        crate::fault::chain(&error)
    }

    #[test]
    fn without_settings_vault_is_on_this_machine() {
        let environment = of(&[]);
        assert_eq!(environment.server.to_string(), "https://127.0.0.1:8200");
        assert_eq!(environment.origin, Origin::Default);
        assert!(environment.token.is_none() && environment.namespace.is_none());
        assert_eq!(environment.timeout, Duration::from_secs(60));
    }

    #[test]
    fn flags_win_over_variables_and_agents_over_servers() {
        let flags = |agent: Option<&str>, address: Option<&str>| VaultFlags {
            agent_address: agent.map(str::to_owned),
            address: address.map(str::to_owned),
            ..VaultFlags::default()
        };
        let variables =
            [("VAULT_AGENT_ADDR", "http://127.0.0.1:3"), ("VAULT_ADDR", "https://four:4")];
        let cases = [
            (
                flags(Some("https://one:1"), Some("https://two:2")),
                Origin::AgentFlag,
                "https://one:1",
            ),
            (flags(None, Some("https://two:2")), Origin::Flag, "https://two:2"),
            (flags(None, None), Origin::AgentVariable, "http://127.0.0.1:3"),
        ];
        for (flags, origin, server) in cases {
            let environment = parse(flags, &variables).unwrap();
            assert_eq!(
                (environment.origin, environment.server.to_string()),
                (origin, server.to_owned())
            );
        }
        assert_eq!(of(&variables[1..]).origin, Origin::Variable);
        assert!(of(&variables).is_agent() && !of(&variables[1..]).is_agent());
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let environment = of(&[("VAULT_AGENT_ADDR", ""), ("VAULT_ADDR", ""), ("VAULT_TOKEN", "")]);
        assert_eq!(environment.origin, Origin::Default);
        assert!(environment.token.is_none());
    }

    #[test]
    fn a_socket_is_an_address() {
        let environment = of(&[("VAULT_AGENT_ADDR", "unix:///run/vault.sock")]);
        assert_eq!(environment.server, Server::Socket("/run/vault.sock".into()));
        assert_eq!(environment.server.to_string(), "unix:///run/vault.sock");
        assert_eq!(environment.proxy, ForwardProxy::Never);
        environment.client(Duration::from_secs(1)).unwrap();
        let said = refusal(&[("VAULT_ADDR", "unix://run/vault.sock")]);
        assert!(said.contains("must be absolute"), "{said}");
    }

    #[test]
    fn plain_http_stays_on_this_machine_unless_somebody_insists() {
        for address in ["http://127.0.0.1:8200", "http://localhost:8200", "http://[::1]:8200"] {
            of(&[("VAULT_AGENT_ADDR", address)]).client(Duration::from_secs(1)).unwrap();
        }
        let said = refusal(&[("VAULT_ADDR", "http://vault:8200")]);
        assert!(said.contains("VAULT_ADDR") && said.contains("--insecure"), "{said}");
        of(&[("VAULT_ADDR", "http://vault:8200"), ("VAULT_AWS_INSECURE", "1")]);
        let flags = VaultFlags { insecure: true, ..VaultFlags::default() };
        parse(flags, &[("VAULT_ADDR", "http://vault:8200")]).unwrap();
        // A name that only looks like it.
        refusal(&[("VAULT_ADDR", "http://127.0.0.1.example.com")]);
    }

    #[test]
    fn unchecked_certificates_need_insistence() {
        let said = refusal(&[("VAULT_SKIP_VERIFY", "true")]);
        assert!(said.contains("VAULT_SKIP_VERIFY") && said.contains("--insecure"), "{said}");
        let environment = of(&[("VAULT_SKIP_VERIFY", "T"), ("VAULT_AWS_INSECURE", "true")]);
        assert!(environment.skip_verify);
        environment.client(Duration::from_secs(1)).unwrap();
        assert!(!of(&[("VAULT_SKIP_VERIFY", "False")]).skip_verify);
        // Nothing to skip where no certificate is shown.
        let plain = of(&[("VAULT_SKIP_VERIFY", "1"), ("VAULT_ADDR", "http://127.0.0.1:8200")]);
        assert!(!plain.skip_verify);
    }

    #[test]
    fn nonsense_is_an_error_and_not_ignored() {
        for variable in [
            ("VAULT_SKIP_VERIFY", "yes"),
            ("VAULT_CLIENT_TIMEOUT", "soon"),
            ("VAULT_MAX_RETRIES", "-1"),
            ("VAULT_RATE_LIMIT", "many"),
            ("VAULT_RATE_LIMIT", "10:x"),
            ("VAULT_HEADERS", "x"),
            ("VAULT_HEADERS", r#"{"X-Vault-Token":"t"}"#),
            ("VAULT_DISABLE_REDIRECTS", "maybe"),
            ("VAULT_ADDR", "vault:8200"),
            ("VAULT_ADDR", "https://user:pw@vault"),
            ("VAULT_TOKEN", "hvs.a b"),
            ("VAULT_TOKEN", "hvs.a\n"),
            ("VAULT_CLIENT_CERT", "/c.pem"),
            ("VAULT_CLIENT_KEY", "/k.pem"),
            ("VAULT_PROXY_ADDR", "proxy"),
            ("VAULT_AWS_INSECURE", "ja"),
        ] {
            let said = refusal(&[variable]);
            assert!(said.starts_with(variable.0), "{said}");
            assert!(!said.contains("hvs") && !said.contains("pw"), "{said}");
            assert!(!said.contains('\n'), "{said}");
        }
        let said =
            refusal(&[("VAULT_SRV_LOOKUP", "1"), ("VAULT_ADDR", "https://vault.example.com")]);
        assert!(said.contains("port"), "{said}");
        of(&[("VAULT_SRV_LOOKUP", "1"), ("VAULT_ADDR", "https://vault.example.com:8200")]);
    }

    #[test]
    fn a_timeout_is_seconds_or_a_duration_of_go() {
        let timeout = |text| of(&[("VAULT_CLIENT_TIMEOUT", text)]).timeout;
        assert_eq!(timeout("60"), Duration::from_secs(60));
        assert_eq!(timeout("60s"), Duration::from_secs(60));
        assert_eq!(timeout("1m30s"), Duration::from_secs(90));
        assert_eq!(timeout("500ms"), Duration::from_millis(500));
    }

    #[test]
    fn a_rate_has_a_burst_of_its_own_if_none_is_given() {
        assert_eq!(of(&[("VAULT_RATE_LIMIT", "10.5")]).rate_limit, Some((11, 11)));
        assert_eq!(of(&[("VAULT_RATE_LIMIT", "10:20")]).rate_limit, Some((10, 20)));
    }

    #[test]
    fn the_first_source_of_trust_wins() {
        let all =
            [("VAULT_CACERT", "/ca.pem"), ("VAULT_CACERT_BYTES", "PEM"), ("VAULT_CAPATH", "/ca")];
        assert_eq!(of(&all).trust, Trust::File("/ca.pem".into()));
        assert_eq!(of(&all[1..]).trust, Trust::Pem("PEM".to_owned()));
        assert_eq!(of(&all[2..]).trust, Trust::Folder("/ca".into()));
        assert_eq!(of(&[]).trust, Trust::Platform);
        let flags = VaultFlags { ca_path: Some("/flag".into()), ..VaultFlags::default() };
        assert_eq!(parse(flags, &all).unwrap().trust, Trust::Folder("/flag".into()));
    }

    #[test]
    fn a_namespace_has_no_slashes_at_its_ends() {
        let namespace = |text| of(&[("VAULT_NAMESPACE", text)]).namespace;
        assert_eq!(namespace("admin/team/").as_deref(), Some("admin/team"));
        assert_eq!(namespace("/"), None);
    }

    #[test]
    fn a_namespace_that_leads_elsewhere_is_refused() {
        for text in ["..", "team/../admin", "./team", "a b", "team\n", "a\u{7f}", "\u{fc}"] {
            let said = refusal(&[("VAULT_NAMESPACE", &format!("x/{text}/x"))]);
            assert!(said.starts_with("VAULT_NAMESPACE cannot be used"), "{said}");
        }
        of(&[("VAULT_NAMESPACE", "team..a/b.c")]);
    }

    #[test]
    fn what_cannot_be_used_of_a_file_is_said_with_setting_and_file() {
        let client = |variables: &[(&str, &str)]| {
            let error = of(variables).client(Duration::from_secs(1)).unwrap_err();
            crate::fault::chain(&error)
        };
        let said = client(&[("VAULT_CACERT", "/dev/null")]);
        assert!(said.starts_with("VAULT_CACERT (/dev/null) cannot be used: "), "{said}");
        let said = client(&[("VAULT_CACERT_BYTES", "PEM")]);
        assert!(said.starts_with("VAULT_CACERT_BYTES cannot be used: "), "{said}");
        let said = client(&[("VAULT_CLIENT_CERT", "/dev/null"), ("VAULT_CLIENT_KEY", "/dev/null")]);
        assert!(said.starts_with("VAULT_CLIENT_CERT (/dev/null, /dev/null) cannot"), "{said}");
        let said = client(&[("VAULT_TLS_SERVER_NAME", "a b")]);
        assert!(said.starts_with("VAULT_TLS_SERVER_NAME cannot be used: "), "{said}");
        let said = client(&[("VAULT_CACERT", "/dev/zero")]);
        assert!(said.starts_with("reading /dev/zero (VAULT_CACERT): it is larger than"), "{said}");
    }

    #[test]
    fn the_proxy_of_vaults_own_wins_and_loopback_has_none() {
        let environment = of(&[
            ("VAULT_ADDR", "https://vault:8200"),
            ("VAULT_HTTP_PROXY", "http://one:1"),
            ("VAULT_PROXY_ADDR", "http://two:2"),
        ]);
        assert_eq!(environment.proxy, ForwardProxy::Fixed(Url::parse("http://two:2").unwrap()));
        assert_eq!(of(&[]).proxy, ForwardProxy::Never);
        assert_eq!(of(&[("VAULT_ADDR", "https://vault:8200")]).proxy, ForwardProxy::OfEnvironment);
    }

    #[test]
    fn headers_are_sent_and_not_shown() {
        let environment =
            of(&[("VAULT_HEADERS", r#"{"CF-Access-Token":"s3cret"}"#), ("VAULT_MFA", "m:123456")]);
        let names: Vec<_> = environment.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cf-access-token", "x-vault-mfa"]);
        let shown = format!("{environment:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("123456"), "{shown}");
    }

    #[test]
    fn a_wish_for_wrapped_answers_is_not_heeded() {
        of(&[("VAULT_WRAP_TTL", "5m")]).client(Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn the_token_is_not_shown() {
        let environment = of(&[("VAULT_TOKEN", "hvs.secret")]);
        assert_eq!(environment.token.as_ref().unwrap().expose(), "hvs.secret");
        assert!(!format!("{environment:?}").contains("hvs"));
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = of(&[("VAULT_CACERT", "/nowhere/ca.pem")]).client(Duration::from_secs(1));
        let said = crate::fault::chain(&error.unwrap_err());
        assert!(said.contains("/nowhere/ca.pem") && said.contains("VAULT_CACERT"), "{said}");
    }
}
