//! The AWS identity of whoever runs a command: found as the AWS SDKs find it, with the settings of the
//! person (region, profile), and asked of STS as Vault asks it.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use aws_config::{
    BehaviorVersion, ConfigLoader, Region, profile::ProfileSet, provider_config::ProviderConfig,
    retry::RetryConfig,
};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_sdk_sts::config::IdentityCache;
use aws_types::os_shim_internal::{Env, Fs};
use http::{HeaderValue, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use super::{
    Credentials, Error,
    http::{platform_roots, sdk_client, tls_builder},
    identity::{judge, not_provided},
    signing::{SignedRequest, StsTarget},
    text::element,
};
use crate::{clock, files};

/// A person may have to type a code, or touch a key, for a program that the profile names.
const PATIENCE: Duration = Duration::from_secs(60);
/// One question to STS.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer of STS is a few KiB.
const ANSWER_BYTES: usize = 1 << 20;
/// A token of a web identity is a few KiB.
const TOKEN_BYTES: u64 = 1 << 20;

/// The programs of ours that are a `credential_process`.
const HELPERS: [&str; 2] = ["vault-aws-credential-process", "vault-aws-credential-protocol"];
const PROGRAM: &str = "vault-aws";
const COMMAND: &str = "credential-process";

/// A profile whose credentials come from Vault: a login with them would ask itself.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the AWS profile `{profile}` gets its credentials from Vault by `vault-aws credential-process`, \
     which needs the Vault token that this login is for"
)]
pub struct LeadsBack {
    /// The profile that names our helper.
    pub profile: String,
}

/// A file of AWS settings, or of a token, that cannot be read. The SDK would wait for a pipe for ever,
/// read a device until the memory is full, and take what it may not read for empty.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("reading {} ({setting}): {what}", path.display())]
pub struct Unreadable {
    /// The variable or key that names it, or would.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub what: String,
}

/// Settings with which there will be no AWS identity, whatever AWS would say.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(transparent)]
pub enum Unfit {
    /// They lead back to us.
    LeadsBack(#[from] LeadsBack),
    /// They cannot be read.
    Unreadable(#[from] Unreadable),
}

impl Unfit {
    /// One word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::LeadsBack(_) => "AwsProfileLeadsBack",
            Self::Unreadable(_) => "AwsSettingsUnreadable",
        }
    }

    /// What to do about it.
    pub fn cure(&self) -> &'static str {
        match self {
            Self::LeadsBack(_) => {
                "choose a profile (AWS_PROFILE) that has an AWS identity of its own"
            }
            Self::Unreadable(_) => "name a file that this user can read, or unset the variable",
        }
    }
}

/// Where the default chain finds credentials first, as far as settings tell. For people only.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// `AWS_ACCESS_KEY_ID` and its secret.
    Environment,
    /// A profile of the shared files.
    Profile(String),
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`.
    WebIdentity,
    /// ECS, or EKS Pod Identity.
    Container,
    /// Instance metadata, the last place.
    Instance,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Environment => f.write_str("AWS_ACCESS_KEY_ID of the environment"),
            Self::Profile(name) => write!(f, "profile `{name}`"),
            Self::WebIdentity => f.write_str("AWS_WEB_IDENTITY_TOKEN_FILE"),
            Self::Container => f.write_str("the container's credentials endpoint"),
            Self::Instance => f.write_str("the instance metadata service"),
        }
    }
}

/// The settings of the person, as they were read.
#[derive(Debug)]
pub struct Settings {
    profiles: Option<ProfileSet>,
    env: Env,
    unreadable: Option<Unreadable>,
}

impl Settings {
    /// Reads the environment and the shared files (`~/.aws/config`, `~/.aws/credentials`, or what
    /// `AWS_CONFIG_FILE` and `AWS_SHARED_CREDENTIALS_FILE` name).
    pub async fn load() -> Self {
        let env = Env::real();
        let mut settings = Self { profiles: None, unreadable: unreadable(&env).err(), env };
        if settings.unreadable.is_none() {
            // One that makes no sense is the chain's to complain of.
            let files = EnvConfigFiles::default();
            let loaded = aws_config::profile::load(&Fs::real(), &settings.env, &files, None).await;
            settings.profiles = loaded.ok();
            let key = "web_identity_token_file";
            let file = settings.profiles.as_ref().and_then(|profiles| profiles.get(key));
            settings.unreadable = file.and_then(|file| fit_token(key, Path::new(file)).err());
        }
        settings
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.env.get(name).ok().filter(|value| !value.trim().is_empty())
    }

    /// Where the chain looks first and finds something.
    pub fn source(&self) -> Source {
        if self.variable("AWS_ACCESS_KEY_ID").is_some()
            && self.variable("AWS_SECRET_ACCESS_KEY").is_some()
        {
            return Source::Environment;
        }
        if let Some(profiles) = &self.profiles
            && let Some(profile) = profiles.get_profile(profiles.selected_profile())
            && CREDENTIAL_KEYS.iter().any(|key| profile.get(key).is_some())
        {
            return Source::Profile(profiles.selected_profile().to_owned());
        }
        if self.variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
            return Source::WebIdentity;
        }
        let container =
            ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
        if container.iter().any(|name| self.variable(name).is_some()) {
            return Source::Container;
        }
        Source::Instance
    }

    /// Refuses files that cannot be read, and a profile that leads to our own `credential_process`,
    /// directly or as the source of a role.
    pub fn check(&self) -> Result<(), Unfit> {
        if let Some(unreadable) = &self.unreadable {
            return Err(unreadable.clone().into());
        }
        match (self.source(), &self.profiles) {
            (Source::Profile(name), Some(profiles)) => Ok(leads_back(&name, |name, key| {
                profiles.get_profile(name).and_then(|profile| profile.get(key))
            })?),
            _ => Ok(()),
        }
    }

    /// The region that environment or profile name.
    pub fn region(&self) -> Option<String> {
        let variable = |name| self.variable(name);
        variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")).or_else(|| {
            let profiles = self.profiles.as_ref()?;
            let profile = profiles.get_profile(profiles.selected_profile())?;
            profile.get("region").map(str::to_owned)
        })
    }

    /// [`Self::region`], else that of the instance.
    pub async fn region_or_instance(&self) -> Option<String> {
        if let Some(region) = self.region() {
            return Some(region);
        }
        // The SDK would read the files again.
        if self.unreadable.is_some() {
            return None;
        }
        let loading = loader().ok()?.no_credentials().load();
        let config = timeout(TIMEOUT, loading).await.ok()?;
        Some(config.region()?.as_ref().to_owned())
    }

    /// Gets credentials from the standard chain: environment, shared files, SSO, web identity,
    /// container, instance. `region` is where STS is asked for roles if the settings name none.
    ///
    /// # Errors
    /// Where there are none, or AWS refuses to give them.
    pub async fn credentials(&self, region: &str) -> Result<Credentials, Error> {
        if let Some(unreadable) = &self.unreadable {
            return Err(Error::NoCredentials { text: unreadable.to_string() });
        }
        let region = Region::new(self.region().unwrap_or_else(|| region.to_owned()));
        let late = || Error::Unreachable { text: "no answer in time".to_owned() };
        let loading = loader()?.region(region).load();
        let config = timeout(PATIENCE, loading).await.map_err(|_| late())?;
        let provider = config
            .credentials_provider()
            .ok_or_else(|| Error::NoCredentials { text: "there is no provider".to_owned() })?;
        timeout(PATIENCE, provider.provide_credentials())
            .await
            .map_err(|_| late())?
            .map_err(|error| not_provided(&error))
    }
}

/// Looks at all files that the SDK reads without being asked twice.
fn unreadable(env: &Env) -> Result<(), Unreadable> {
    let home = env.get("HOME").ok().map(PathBuf::from);
    for (setting, default) in
        [("AWS_CONFIG_FILE", ".aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")]
    {
        let named = env.get(setting).ok().map(PathBuf::from);
        let is_named = named.is_some();
        let path = match (named, &home) {
            (Some(path), Some(home)) => match path.strip_prefix("~") {
                Ok(below) => home.join(below),
                Err(_) => path,
            },
            (Some(path), None) => path,
            (None, Some(home)) => home.join(default),
            (None, None) => continue,
        };
        let read = files::check(&path, files::LARGEST)
            .and_then(|()| files::text(&path, files::LARGEST, files::PATIENCE).map(drop));
        match read {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // Somebody else's home, as in a container: it holds no settings of ours.
            Err(error) if !is_named && error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) => return Err(Unreadable { setting, path, what: error.to_string() }),
        }
    }
    for setting in ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] {
        if let Ok(path) = env.get(setting) {
            fit_token(setting, Path::new(&path))?;
        }
    }
    Ok(())
}

fn fit_token(setting: &'static str, path: &Path) -> Result<(), Unreadable> {
    files::check(path, TOKEN_BYTES).map_err(|error| Unreadable {
        setting,
        path: path.to_owned(),
        what: error.to_string(),
    })
}

fn loader() -> Result<ConfigLoader, Error> {
    Ok(ConfigLoader::default()
        .behavior_version(BehaviorVersion::latest())
        .http_client(sdk_client()?)
        .retry_config(RetryConfig::standard().with_max_attempts(2))
        .identity_cache(IdentityCache::no_cache()))
}

/// What makes a profile one that gives credentials.
const CREDENTIAL_KEYS: [&str; 8] = [
    "aws_access_key_id",
    "role_arn",
    "credential_process",
    "credential_source",
    "sso_session",
    "sso_start_url",
    "web_identity_token_file",
    "login_session",
];

/// Follows the profiles as the chain does. `get` is the value of a key of a profile.
fn leads_back<'a>(
    selected: &str,
    get: impl Fn(&str, &str) -> Option<&'a str>,
) -> Result<(), LeadsBack> {
    let mut visited: Vec<String> = Vec::new();
    let mut name = selected.to_owned();
    while !visited.contains(&name) {
        let key = |key| get(&name, key);
        // Behind a role, keys in the profile come first.
        if !visited.is_empty() && key("aws_access_key_id").is_some() {
            return Ok(());
        }
        let is_root = ["web_identity_token_file", "credential_source"];
        let is_root = is_root.iter().any(|name| key(name).is_some());
        let source = key("source_profile").filter(|source| *source != name);
        match (key("role_arn"), source) {
            (Some(_), Some(source)) if !is_root => {
                let next = source.to_owned();
                visited.push(std::mem::replace(&mut name, next));
            }
            _ => {
                let others = ["sso_session", "sso_start_url", "login_session"];
                let uses_process = !is_root && !others.iter().any(|name| key(name).is_some());
                let command = key("credential_process").filter(|_| uses_process);
                return match command {
                    Some(command) if is_ours(command) => Err(LeadsBack { profile: name }),
                    _ => Ok(()),
                };
            }
        }
    }
    Ok(())
}

/// Whether a command line runs our helper, under either of its names, with any path before it.
fn is_ours(command: &str) -> bool {
    let words: Vec<&str> = command
        .split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ';' | '&' | '|'))
        .filter(|word| !word.is_empty())
        .map(|word| word.rsplit('/').next().unwrap_or(word))
        .collect();
    words.iter().any(|word| HELPERS.contains(word))
        || words
            .iter()
            .position(|word| *word == PROGRAM)
            .is_some_and(|at| words[at..].contains(&COMMAND))
}

/// The signed document with which an instance proves what it is (`pkcs7`; where there is none,
/// `rsa2048`), from its metadata service.
pub async fn instance_identity() -> Result<String, Error> {
    let config = ProviderConfig::without_region().with_http_client(sdk_client()?);
    let client = aws_config::imds::Client::builder().configure(&config).build();
    let mut last = None;
    for kind in ["pkcs7", "rsa2048"] {
        let path = format!("/latest/dynamic/instance-identity/{kind}");
        match timeout(TIMEOUT, client.get(path)).await {
            Ok(Ok(document)) => return Ok(document.as_ref().to_owned()),
            Ok(Err(error)) => last = Some(super::identity::innermost(&error)),
            Err(_) => break,
        }
    }
    let text = last.unwrap_or_else(|| "no answer in time".to_owned());
    Err(Error::NoCredentials { text: format!("the instance metadata service: {text}") })
}

/// What STS said about a signed request.
#[derive(Clone, Debug)]
pub struct Identified {
    /// Who the caller is, or why STS does not say.
    pub caller: Result<Caller, Error>,
    /// The clock of STS minus ours, as far as `Date` tells (whole seconds).
    pub skew: Option<SignedDuration>,
}

/// Who STS takes the caller for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// Twelve digits.
    pub account: String,
    /// `arn:aws:sts::<account>:assumed-role/<role>/<session>`, `arn:aws:iam::<account>:user/<path><name>`.
    pub arn: String,
}

impl Caller {
    /// The friendly name by which Vault finds a role if the login names none, and under which
    /// certificates lie.
    pub fn friendly_name(&self) -> Option<&str> {
        let resource = self.arn.splitn(6, ':').nth(5)?;
        match resource.split('/').next()? {
            "assumed-role" => resource.split('/').nth(1),
            "user" | "role" => resource.rsplit('/').next(),
            _ => None,
        }
    }
}

/// Sends the request as Vault would: to `endpoint` if one is given, addressed to the signed host.
///
/// # Errors
/// Where STS gave no answer at all.
pub async fn identify(
    request: &SignedRequest,
    target: &StsTarget,
    endpoint: Option<&str>,
) -> Result<Identified, Error> {
    let other = |text: String| Error::Other { text };
    let tls = tls_builder()
        .map_err(|error| other(error.to_string()))?
        .with_root_certificates(platform_roots())
        .with_no_client_auth();
    let url = match endpoint {
        Some(endpoint) => format!("{}/", endpoint.trim_end_matches('/')),
        None => request.url().to_owned(),
    };
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        // `Host` may differ from the address, which HTTP/2 does not know.
        .http1_only()
        .timeout(TIMEOUT);
    let client = client.build().map_err(|error| other(error.to_string()))?;
    let mut sending = client.post(url).body(request.body().to_owned());
    for (name, value) in request.headers().filter(|(name, _)| *name != "Content-Length") {
        let mut value = HeaderValue::from_str(value).map_err(|error| other(error.to_string()))?;
        value.set_sensitive(true);
        sending = sending.header(name, value);
    }
    let unreachable = |error: reqwest::Error| Error::Unreachable {
        text: super::identity::innermost(&error.without_url()),
    };
    let mut answer =
        sending.header(header::HOST, target.host()).send().await.map_err(unreachable)?;
    let now = clock::now();
    let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    let skew = date.and_then(|date| skew(date, now));
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > ANSWER_BYTES {
            return Err(other("the answer is too large".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Identified { caller: read(status, &String::from_utf8_lossy(&body)), skew })
}

fn skew(date: &str, now: Timestamp) -> Option<SignedDuration> {
    let server = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    // `Date` is cut to the second, so that half of one is the best guess.
    let skew = server.duration_since(now).saturating_add(SignedDuration::from_millis(500));
    Some(SignedDuration::from_secs(skew.as_secs()))
}

/// The answer to `GetCallerIdentity`, which is XML of a fixed shape.
fn read(status: StatusCode, body: &str) -> Result<Caller, Error> {
    let text = |name: &str| element(body, name).unwrap_or_default().to_owned();
    if status.is_success() {
        let caller = Caller { account: text("Account"), arn: text("Arn") };
        if caller.account.is_empty() || caller.arn.is_empty() {
            return Err(Error::Other { text: "its answer is not one of STS".to_owned() });
        }
        return Ok(caller);
    }
    match element(body, "Code") {
        Some(code) => Err(judge(code, &text("Message"))),
        None => Err(Error::Other { text: format!("it answers with status {}", status.as_u16()) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(profiles: &[(&str, &str, &'static str)], selected: &str) -> Result<(), LeadsBack> {
        leads_back(selected, |profile, key| {
            let found = profiles.iter().find(|(name, k, _)| *name == profile && *k == key);
            found.map(|(_, _, value)| *value)
        })
    }

    #[test]
    fn our_helper_is_known_under_both_names() {
        for command in [
            "/usr/bin/vault-aws-credential-process -m aws -r web",
            "vault-aws credential-process -m aws -r web",
            "\"/opt/my tools/vault-aws\" credential-process -m aws",
            "env VAULT_ADDR=https://v /usr/bin/vault-aws --x credential-process",
        ] {
            assert!(is_ours(command), "{command}");
        }
        for command in ["aws-vault exec x", "/opt/vault-aws/bin/other", "credential-process"] {
            assert!(!is_ours(command), "{command}");
        }
    }

    #[test]
    fn a_profile_that_leads_back_is_refused_also_behind_a_role() {
        let ours = ("vault", "credential_process", "vault-aws credential-process -m aws -r web");
        let profiles = [ours, ("web", "role_arn", "arn"), ("web", "source_profile", "vault")];
        let refused = Err(LeadsBack { profile: "vault".to_owned() });
        assert_eq!(check(&profiles, "vault"), refused);
        assert_eq!(check(&profiles, "web"), refused);
        assert_eq!(check(&profiles, "other"), Ok(()));
    }

    #[test]
    fn what_the_chain_takes_before_the_process_is_let_through() {
        let ours = |name| (name, "credential_process", "vault-aws credential-process -m a -r b");
        let sso = [ours("p"), ("p", "sso_session", "s")];
        assert_eq!(check(&sso, "p"), Ok(()));
        let keys = [
            ("a", "role_arn", "arn"),
            ("a", "source_profile", "b"),
            ours("b"),
            ("b", "aws_access_key_id", "AKIA"),
        ];
        assert_eq!(check(&keys, "a"), Ok(()));
        let loops = [
            ("a", "role_arn", "x"),
            ("a", "source_profile", "b"),
            ("b", "role_arn", "y"),
            ("b", "source_profile", "a"),
        ];
        assert_eq!(check(&loops, "a"), Ok(()));
    }

    #[test]
    fn the_friendly_name_is_that_of_role_or_user() {
        let name = |arn: &str| {
            let caller = Caller { account: String::new(), arn: arn.to_owned() };
            caller.friendly_name().map(str::to_owned)
        };
        assert_eq!(name("arn:aws:sts::1:assumed-role/web/s1").as_deref(), Some("web"));
        assert_eq!(name("arn:aws:iam::1:user/team/a/bob").as_deref(), Some("bob"));
        assert_eq!(name("arn:aws:iam::1:root"), None);
        assert_eq!(name("x"), None);
    }

    #[test]
    fn an_answer_of_sts_is_read_and_a_refusal_judged() {
        let body = "<R><GetCallerIdentityResult><Arn>arn:aws:iam::1:user/bob</Arn>\
                    <UserId>AIDA</UserId><Account>1</Account></GetCallerIdentityResult></R>";
        let caller = read(StatusCode::OK, body).unwrap();
        assert_eq!((caller.account.as_str(), caller.friendly_name()), ("1", Some("bob")));
        let body = "<ErrorResponse><Error><Code>ExpiredToken</Code><Message>m</Message></Error>\
                    </ErrorResponse>";
        let error = read(StatusCode::FORBIDDEN, body).unwrap_err();
        assert_eq!(error, Error::ExpiredToken { text: "ExpiredToken: m".to_owned() });
        assert!(read(StatusCode::OK, "<html>").is_err());
        assert!(read(StatusCode::BAD_GATEWAY, "<html>").is_err());
    }

    #[test]
    fn the_skew_is_the_servers_clock_minus_ours() {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let skew = skew("Sat, 21 Nov 2026 10:10:00 GMT", now).unwrap();
        assert_eq!(skew.as_secs(), 600);
    }
}
