//! The walk from an AWS identity to the certificates in Vault, as a client walks it.
//!
//! Each link is tried as the real thing: the request that goes to STS is the one that Vault would
//! forward, the login is a login, and its token is given back at the end. Nothing is written, and no
//! data of an entry is read.

use std::time::Duration;

use jiff::SignedDuration;

use super::{
    Finding, Mark, Report,
    cure::{self, Attempt},
};
use crate::{
    aws::{
        self, Credentials,
        person::{self, Caller as Identity, Settings},
        signing::{StsTarget, get_caller_identity_for},
    },
    backend::version,
    clock,
    fault::{Fault as _, chain},
    vault::{
        self, Caller, Client, aws_auth, health,
        login::{self, Granted, Outcome},
        mounts, tokens,
    },
};

/// The links, in their order.
const IDENTITY: &str = "AWS identity";
const STS: &str = "Region and STS";
const CLOCK: &str = "Clock";
const VAULT: &str = "Vault";
const LOGIN: &str = "Login";
const CAPABILITIES: &str = "Capabilities";
const KV: &str = "KV";

/// AWS refuses signatures from further ahead (it takes older ones for 15 minutes).
const SKEW_LIMIT: Duration = Duration::from_secs(5 * 60);
/// More than a synchronised clock ever has.
const SKEW_NOTICE: Duration = Duration::from_secs(30);

/// What is asked.
#[derive(Debug)]
pub struct Question<'a> {
    /// The person's AWS settings.
    pub settings: &'a Settings,
    /// For which STS logins are signed; else why that is not clear.
    pub target: Result<StsTarget, aws::signing::SigningError>,
    /// Where STS is asked, if not at the signed host (`AWS_ENDPOINT_URL_STS`).
    pub sts_endpoint: Option<&'a str>,
    /// Vault; else why its settings cannot be used.
    pub vault: Result<Client, String>,
    /// How Vault is called, for people.
    pub server: String,
    /// The namespace that is sent.
    pub namespace: Option<&'a str>,
    /// A token that the person has already: it may be allowed to read the mount's settings.
    pub token: Option<Caller>,
    /// The auth mount.
    pub mount: &'a str,
    /// The Vault role.
    pub role: Option<&'a str>,
    /// `X-Vault-AWS-IAM-Server-ID`.
    pub server_id: Option<&'a str>,
    /// The KV mount.
    pub kv_mount: &'a str,
    /// The directory in it: given, or `<base path>/<account>/<name>`.
    pub directory: Directory<'a>,
}

/// Where certificates lie in the KV mount.
#[derive(Clone, Copy, Debug)]
pub enum Directory<'a> {
    /// Here.
    Given(&'a str),
    /// In the caller's own directory below this one.
    Below(&'a str),
}

impl Directory<'_> {
    fn of(self, caller: Option<&Identity>) -> Option<String> {
        match self {
            Self::Given(directory) => Some(directory.trim_matches('/').to_owned()),
            Self::Below(base) => {
                let caller = caller?;
                let name = caller.friendly_name()?;
                Some(format!("{}/{}/{name}", base.trim_matches('/'), caller.account))
            }
        }
    }
}

/// Walks the chain. What can be asked is asked, also behind a broken link, where it does not depend
/// on it.
pub async fn walk(question: &Question<'_>) -> Report {
    let (identity, credentials) = identity(question).await;
    let mut sts = ask_sts(question, credentials.as_ref()).await;
    let (vault, client) = ask_vault(question).await;
    let clock = clock(&sts, client.and_then(Client::clock_skew));
    let (login, granted) = log_in(question, client, credentials.as_ref(), &sts).await;
    if granted.is_some() {
        sts.finding = soften(sts.finding);
    }
    let mut findings = vec![identity, sts.finding, clock, vault, login];
    match (client, granted) {
        (Some(client), Some(granted)) => {
            let caller = granted.login.caller(client);
            let directory = question.directory.of(sts.caller.as_ref());
            findings.extend(look(question, &caller, directory.as_deref()).await);
            // A batch token cannot be given back, and ends soon by itself.
            let _ = tokens::revoke_self(&caller).await;
        }
        _ => {
            findings.extend([CAPABILITIES, KV].map(|step| Finding::skipped(step, "needs a login")));
        }
    }
    let role = question.role.map_or_else(
        || "the role of the caller's name".to_owned(),
        |role| format!("role `{role}`"),
    );
    let subject = format!("{}, {role} at auth/{}", question.server, question.mount);
    Report { subject, findings }
}

async fn identity(question: &Question<'_>) -> (Finding, Option<Credentials>) {
    let settings = question.settings;
    if let Err(unfit) = settings.check() {
        let found = unfit.to_string();
        return (Finding::broken(IDENTITY, unfit.reason(), found, unfit.cure()), None);
    }
    let source = settings.source();
    let region = question.target.as_ref().map_or("us-east-1", StsTarget::region);
    match settings.credentials(region).await {
        Ok(credentials) => {
            let kind = if credentials.session_token().is_some() { "a session" } else { "keys" };
            let id = credentials.access_key_id();
            (Finding::good(IDENTITY, format!("{kind} ({id}) from {source}")), Some(credentials))
        }
        Err(error) => {
            let found = format!("{error} (first place: {source})");
            (Finding::broken(IDENTITY, error.reason(), found, cure::of_aws(&error)), None)
        }
    }
}

struct Sts {
    finding: Finding,
    caller: Option<Identity>,
    skew: Option<SignedDuration>,
    /// STS said that the time of the signature is not now.
    wrong_time: Option<String>,
}

async fn ask_sts(question: &Question<'_>, credentials: Option<&Credentials>) -> Sts {
    let alone = |finding| Sts { finding, caller: None, skew: None, wrong_time: None };
    let target = match &question.target {
        Ok(target) => target,
        Err(error) => {
            let cure = "correct --region and --sts-endpoint";
            return alone(Finding::broken(STS, error.reason(), error.to_string(), cure));
        }
    };
    let Some(credentials) = credentials else {
        return alone(Finding::skipped(STS, "needs AWS credentials"));
    };
    // Signed as for Vault; STS does not mind the server ID.
    let signed = get_caller_identity_for(credentials, target, question.server_id, clock::now());
    let request = match signed {
        Ok(request) => request,
        Err(error) => {
            let cure = "correct --header-value";
            return alone(Finding::broken(STS, error.reason(), error.to_string(), cure));
        }
    };
    match person::identify(&request, target, question.sts_endpoint).await {
        Ok(answer) => judge_sts(answer, target),
        Err(error) => {
            let place = question.sts_endpoint.unwrap_or(target.host());
            let found = format!("{place}: {error}");
            alone(Finding::broken(STS, error.reason(), found, cure::of_aws(&error)))
        }
    }
}

fn judge_sts(answer: person::Identified, target: &StsTarget) -> Sts {
    let skew = answer.skew;
    let place = format!("{} for {}", target.host(), target.region());
    match answer.caller {
        Ok(caller) => {
            let found = format!("{place} says: {}", caller.arn);
            Sts { finding: Finding::good(STS, found), caller: Some(caller), skew, wrong_time: None }
        }
        Err(error) => {
            let text = error.to_string();
            let late = ["Signature expired", "Signature not yet current", "RequestExpired"];
            if late.iter().any(|sign| text.contains(sign)) {
                let finding = Finding::good(STS, format!("{place} answers"));
                return Sts { finding, caller: None, skew, wrong_time: Some(text) };
            }
            let (reason, cure) = if text.contains("Credential should be scoped") {
                let cure = format!(
                    "{} is not the STS of `{}`: give --region and --sts-endpoint that belong together",
                    target.host(),
                    target.region()
                );
                ("RegionMismatch", cure)
            } else {
                (error.reason(), cure::of_aws(&error))
            };
            let finding = Finding::broken(STS, reason, format!("{place}: {text}"), cure);
            Sts { finding, caller: None, skew, wrong_time: None }
        }
    }
}

/// STS that only Vault reaches is enough for a login.
fn soften(finding: Finding) -> Finding {
    if finding.mark != Mark::Broken {
        return finding;
    }
    let found = format!("{}; Vault was told another thing and let us in", finding.found);
    Finding { mark: Mark::Doubt, found, ..finding }
}

fn clock(sts: &Sts, of_vault: Option<SignedDuration>) -> Finding {
    const CURE: &str = "synchronise the clock of this machine (NTP): AWS takes no signature from more \
                        than 5 minutes ahead, and none older than 15 minutes";
    let (skew, whose) = match (sts.skew, of_vault) {
        (Some(skew), _) => (skew, "STS"),
        (None, Some(skew)) => (skew, "Vault"),
        (None, None) => {
            return match &sts.wrong_time {
                Some(text) => Finding::broken(CLOCK, "SignatureExpired", text.clone(), CURE),
                None => Finding::skipped(CLOCK, "nobody told the time"),
            };
        }
    };
    // Theirs minus ours.
    let seconds = skew.as_secs();
    let found = match seconds {
        -1..=1 => format!("with {whose}"),
        2.. => format!("{seconds} s behind {whose}"),
        _ => format!("{} s ahead of {whose}", -seconds),
    };
    match &sts.wrong_time {
        Some(text) => {
            Finding::broken(CLOCK, "SignatureExpired", format!("{found}; STS says: {text}"), CURE)
        }
        None if skew.unsigned_abs() > SKEW_LIMIT => {
            Finding::broken(CLOCK, "ClockSkew", found, CURE)
        }
        None if skew.unsigned_abs() > SKEW_NOTICE => {
            Finding::doubt(CLOCK, "ClockSkew", found, CURE)
        }
        None => Finding::good(CLOCK, found),
    }
}

async fn ask_vault<'a>(question: &'a Question<'_>) -> (Finding, Option<&'a Client>) {
    let client = match &question.vault {
        Ok(client) => client,
        Err(text) => {
            let cure = "correct the flag, variable or file that is named";
            return (Finding::broken(VAULT, "SettingsInvalid", text.clone(), cure), None);
        }
    };
    match health::read(client).await {
        Err(error) => {
            (Finding::broken(VAULT, error.reason(), said(&error), cure::of_vault(&error)), None)
        }
        Ok(health) => {
            let finding = judge_health(&health, question.namespace);
            let serves = finding.mark != Mark::Broken;
            (finding, serves.then_some(client))
        }
    }
}

fn judge_health(health: &health::Health, namespace: Option<&str>) -> Finding {
    let product = health.product();
    let name = format!("{} {}", product.name(), health.version);
    if !health.initialized {
        let cure = "initialise it: `vault operator init`";
        return Finding::broken(VAULT, "VaultSealed", format!("{name} is not initialised"), cure);
    }
    if health.sealed {
        let cure = "unseal Vault: `vault operator unseal`";
        return Finding::broken(VAULT, "VaultSealed", format!("{name} is sealed"), cure);
    }
    if let Some(namespace) = namespace
        && !product.has_namespaces()
    {
        let found = format!("{name} has no namespaces and ignores `{namespace}`");
        let cure = "take VAULT_NAMESPACE and --namespace away, or use the right server";
        return Finding::doubt(VAULT, "NamespacesUnsupported", found, cure);
    }
    let verdict = version::verdict(product, &health.version);
    if verdict.holds == Some(false) {
        let cure = format!("update Vault: {}", verdict.message);
        return Finding::doubt(VAULT, verdict.reason, format!("{name} serves"), cure);
    }
    Finding::good(VAULT, format!("{name} serves"))
}

async fn log_in(
    question: &Question<'_>,
    client: Option<&Client>,
    credentials: Option<&Credentials>,
    sts: &Sts,
) -> (Finding, Option<Box<Granted>>) {
    let Some(client) = client else {
        return (Finding::skipped(LOGIN, "needs Vault"), None);
    };
    let (Some(credentials), Ok(target)) = (credentials, &question.target) else {
        return (Finding::skipped(LOGIN, "needs AWS credentials and a region"), None);
    };
    let signed = get_caller_identity_for(credentials, target, question.server_id, clock::now());
    let Ok(request) = signed else {
        return (Finding::skipped(LOGIN, "needs a request that can be signed"), None);
    };
    match login::iam_of_person(client, question.mount, question.role, &request).await {
        Ok(Outcome::Granted(granted)) => (judge_login(&granted), Some(granted)),
        Ok(Outcome::MfaRequired(wanted)) => {
            let kinds: Vec<&str> = wanted.methods().map(|method| method.kind.as_str()).collect();
            let found = format!("Vault wants a second factor ({})", kinds.join(", "));
            let cure = "a machine has none: take this role out of the login enforcement \
                        (identity/mfa/login-enforcement)";
            (Finding::broken(LOGIN, "MfaRequired", found, cure), None)
        }
        Err(error) => {
            let mount_region = match &question.token {
                Some(token) => mount_region(token, question.mount).await,
                None => None,
            };
            let attempt = Attempt {
                mount: question.mount,
                role: question.role,
                target,
                has_server_id: question.server_id.is_some(),
                caller: sts.caller.as_ref().map(|caller| caller.arn.as_str()),
                mount_region: mount_region.as_deref(),
            };
            let reason = error.aws_refusal().map_or(error.reason(), vault::AwsRefusal::reason);
            let cure = cure::of_login(&error, &attempt);
            (Finding::broken(LOGIN, reason, said(&error), cure), None)
        }
    }
}

/// The region of the STS to which a mount forwards logins, if this token may know.
pub async fn mount_region(token: &Caller, mount: &str) -> Option<String> {
    let config = aws_auth::read_client_config(token, mount).await.ok()??;
    if config.sts_endpoint.is_empty() {
        return Some("us-east-1".to_owned());
    }
    let host = config.sts_endpoint.trim_start_matches("https://").trim_end_matches('/');
    match aws::signing::region_of_host(host) {
        Some(region) => Some(region.to_owned()),
        None => Some(config.sts_region).filter(|region| !region.is_empty()),
    }
}

fn judge_login(granted: &Granted) -> Finding {
    let login = &granted.login;
    let found = format!(
        "policies {}; {} token, {} s",
        login.policies.join(", "),
        login.token_type,
        login.lease.as_secs()
    );
    if login.policies.iter().any(|policy| policy == "root") {
        let cure = "take the policy `root` from the role: whoever has this AWS identity owns Vault";
        return Finding::doubt(LOGIN, "LoginHoldsRoot", found, cure);
    }
    Finding::good(LOGIN, found)
}

/// What the token may do in its directory, and what lies there.
async fn look(question: &Question<'_>, caller: &Caller, directory: Option<&str>) -> [Finding; 2] {
    let Some(directory) = directory else {
        let why = "the directory is not known: give --directory";
        return [CAPABILITIES, KV].map(|step| Finding::skipped(step, why));
    };
    let mount = question.kv_mount.trim_matches('/');
    let paths = paths(mount, directory);
    let capabilities = match mounts::capabilities_self(caller, &paths).await {
        Ok(all) => {
            let sets: Vec<Vec<String>> = paths
                .iter()
                .map(|path| all.get(path).into_iter().flatten().cloned().collect())
                .collect();
            judge_capabilities(&paths, &sets)
        }
        Err(error) => {
            let cure = "give the role the policy `default` (token_no_default_policy=false) if you \
                        want to see this";
            Finding::doubt(CAPABILITIES, error.reason(), said(&error), cure)
        }
    };
    [capabilities, entries(caller, mount, directory).await]
}

/// An entry, the directory, and its neighbours' directory, in this order.
fn paths(mount: &str, directory: &str) -> Vec<String> {
    let mut paths =
        vec![format!("{mount}/data/{directory}/tls"), format!("{mount}/metadata/{directory}/")];
    if let Some((parent, _)) = directory.rsplit_once('/') {
        paths.push(format!("{mount}/metadata/{parent}/"));
    }
    paths
}

fn judge_capabilities(paths: &[String], sets: &[Vec<String>]) -> Finding {
    let has = |at: usize, wanted: &str| {
        let set = sets.get(at).map(Vec::as_slice).unwrap_or_default();
        set.iter().any(|one| one == wanted || one == "root")
    };
    let path = |at: usize| paths.get(at).map(String::as_str).unwrap_or_default();
    for (at, wanted) in [(0, "read"), (1, "list")] {
        if !has(at, wanted) {
            let found = format!("no `{wanted}` on {}", path(at));
            let cure = format!(
                "a policy of the token has to allow it: `path \"{}*\" {{ capabilities = \
                 [\"{wanted}\"{}] }}`",
                path(at).trim_end_matches("tls"),
                if wanted == "list" { ", \"read\"" } else { "" }
            );
            return Finding::broken(CAPABILITIES, "SourceForbidden", found, cure);
        }
    }
    if has(2, "list") {
        let found = format!("may also list {}", path(2));
        let cure = "narrow the policy: a role should see its own directory and no other";
        return Finding::doubt(CAPABILITIES, "NotIsolated", found, cure);
    }
    Finding::good(CAPABILITIES, format!("may read {}", path(0).trim_end_matches("tls")))
}

async fn entries(caller: &Caller, mount: &str, directory: &str) -> Finding {
    match mounts::secrets_mount(caller, mount).await {
        Err(error) if error.is_denied() => {
            let found = format!("there is no mount `{mount}`, or nothing in it may be seen");
            let cure = "correct --kv-mount, enable KV v2 there, or allow something in it";
            return Finding::broken(KV, "SourceForbidden", found, cure);
        }
        Err(error) => {
            return Finding::broken(KV, error.reason(), said(&error), cure::of_vault(&error));
        }
        Ok(found) if found.kv_version != Some(2) => {
            let kind = match found.kv_version {
                Some(version) => format!("KV version {version}"),
                None => format!("`{}`", found.kind),
            };
            let cure = "certificates are read from KV version 2: correct --kv-mount, or `vault kv \
                        enable-versioning`";
            return Finding::broken(KV, "NotKvV2", format!("{mount} is {kind}"), cure);
        }
        Ok(_) => {}
    }
    match vault::kv::list(caller, mount, directory).await {
        Ok(Some(names)) => {
            let count = names.iter().filter(|name| !name.ends_with('/')).count();
            let word = if count == 1 { "entry" } else { "entries" };
            Finding::good(KV, format!("{count} {word} in {mount}/{directory}"))
        }
        Ok(None) => {
            let found = format!("{mount}/{directory} is empty");
            let cure =
                format!("write a certificate: `vault kv put -mount={mount} {directory}/<name> …`");
            Finding::broken(KV, "SourceEmpty", found, cure)
        }
        Err(error) => Finding::broken(KV, error.reason(), said(&error), cure::of_vault(&error)),
    }
}

fn said(error: &vault::Error) -> String {
    chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sts(skew: Option<i64>, wrong_time: Option<&str>) -> Sts {
        Sts {
            finding: Finding::good(STS, ""),
            caller: None,
            skew: skew.map(SignedDuration::from_secs),
            wrong_time: wrong_time.map(str::to_owned),
        }
    }

    #[test]
    fn a_clock_is_judged_by_sts_and_else_by_vault() {
        let judged = |sts: &Sts, vault: Option<i64>| {
            let finding = clock(sts, vault.map(SignedDuration::from_secs));
            (finding.mark, finding.found)
        };
        assert_eq!(judged(&sts(Some(0), None), Some(900)), (Mark::Good, "with STS".to_owned()));
        assert_eq!(
            judged(&sts(Some(600), None), None),
            (Mark::Broken, "600 s behind STS".to_owned())
        );
        assert_eq!(
            judged(&sts(None, None), Some(-60)),
            (Mark::Doubt, "60 s ahead of Vault".to_owned())
        );
        assert_eq!(judged(&sts(None, None), None).0, Mark::Skipped);
        let (mark, found) = judged(&sts(Some(0), Some("Signature expired: x")), None);
        assert_eq!(mark, Mark::Broken);
        assert!(found.contains("Signature expired"), "{found}");
    }

    #[test]
    fn a_refused_time_is_the_fault_of_the_clock_and_not_of_sts() {
        let target = StsTarget::of_region("us-east-1").unwrap();
        let answer = |text: &str| person::Identified {
            caller: Err(aws::Error::ExpiredToken { text: text.to_owned() }),
            skew: None,
        };
        let late = judge_sts(answer("SignatureDoesNotMatch: Signature expired: x"), &target);
        assert_eq!(late.finding.mark, Mark::Good);
        assert_eq!(clock(&late, None).mark, Mark::Broken);
        let old = judge_sts(answer("ExpiredToken: x"), &target);
        assert_eq!(old.finding.mark, Mark::Broken);
    }

    #[test]
    fn a_server_that_does_not_serve_is_broken() {
        let health = |initialized, sealed| health::Health {
            initialized,
            sealed,
            version: "1.21.5".to_owned(),
            enterprise: Some(false),
            ..health::Health::default()
        };
        assert_eq!(judge_health(&health(true, false), None).mark, Mark::Good);
        assert_eq!(judge_health(&health(true, true), None).mark, Mark::Broken);
        assert_eq!(judge_health(&health(false, true), None).mark, Mark::Broken);
        let finding = judge_health(&health(true, false), Some("team"));
        assert_eq!(finding.reason.as_deref(), Some("NamespacesUnsupported"));
    }

    #[test]
    fn capabilities_are_judged_by_what_a_client_needs() {
        let paths = paths("secret", "certs/1/web");
        let judged = |sets: [&[&str]; 3]| {
            let sets = sets.map(|set| set.iter().map(|one| (*one).to_owned()).collect());
            judge_capabilities(&paths, &sets)
        };
        let good = judged([&["read"], &["list", "read"], &["deny"]]);
        assert_eq!(good, Finding::good(CAPABILITIES, "may read secret/data/certs/1/web/"));
        let blind = judged([&["read"], &["deny"], &["deny"]]);
        assert_eq!(blind.mark, Mark::Broken);
        let cure = blind.cure.unwrap();
        assert!(cure.contains("secret/metadata/certs/1/web/*"), "{cure}");
        assert_eq!(judged([&["root"], &["root"], &["root"]]).mark, Mark::Doubt);
    }

    #[test]
    fn a_directory_is_that_of_the_caller_unless_one_is_given() {
        let caller = Identity {
            account: "1".to_owned(),
            arn: "arn:aws:sts::1:assumed-role/web/s".to_owned(),
        };
        let below = Directory::Below("certs");
        assert_eq!(below.of(Some(&caller)).as_deref(), Some("certs/1/web"));
        assert_eq!(below.of(None), None);
        assert_eq!(Directory::Given("/a/b/").of(None).as_deref(), Some("a/b"));
    }
}
