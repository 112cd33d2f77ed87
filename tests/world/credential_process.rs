//! `credential-process` as people have it: in `~/.aws/config`, started by AWS clients that know nothing
//! of us, asking the AWS secrets engine of a real Vault, alone and behind a real Vault Proxy.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use aws_config::{profile::ProfileFileCredentialsProvider, provider_config::ProviderConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
    orchestrator::HttpRequest,
    result::ConnectorError,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use vault_aws_lab::{Keys, TrustPolicy, VaultProxy, aws};

use crate::{
    audit, leaks,
    world::{World, now},
};

tests![
    boto3_the_cli_and_the_rust_sdk_use_a_profile,
    twenty_cold_starts_at_once_cost_one_request,
    a_quarter_of_an_hour_is_not_a_request_for_each_call,
    a_cache_that_cannot_be_used_costs_no_credentials,
    a_revoked_token_ends_what_is_served,
    what_went_wrong_is_what_the_sdk_shows,
    the_two_examples_of_the_seeds_readme_work,
    an_iam_user_is_kept_only_if_asked_and_can_be_revoked,
    whoever_may_only_read_is_served_too,
    people_can_be_told_apart_in_the_session,
];
tests![in outage_tests: what_is_valid_is_served_while_vault_is_down];

const BINARY: &str = env!("CARGO_BIN_EXE_vault-aws");
const ROLE: &str = "super-admin";

/// A mount of the AWS secrets engine with some roles, and a person who may use it.
struct Person {
    world: World,
    mount: String,
    home: PathBuf,
    token: String,
}

/// What a program left.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn credentials(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).expect("one JSON object")
    }

    /// The one line for people.
    #[track_caller]
    fn failed(&self, code: i32) -> &str {
        assert_eq!((self.code, &*self.stdout), (Some(code), ""), "{}", self.stderr);
        let line = self.stderr.trim_end();
        assert!(line.starts_with("error: ") && !line.contains('\n'), "{line}");
        line
    }
}

impl Person {
    async fn new(world: World) -> Self {
        let mount = format!("{}/aws/dev", world.id);
        Self::at(world, mount).await
    }

    async fn at(world: World, mount: String) -> Self {
        let lab = &world.stage.lab;
        let may = aws::allow(&["sts:*", "iam:*"]);
        let account = aws::HOME_ACCOUNT;
        let engine = lab.aws.create_user_with_keys(account, &world.iam_role("engine"), &may).await;
        let engine = engine.expect("an IAM user for the engine");
        let trust = TrustPolicy { principal_arns: vec![engine.arn.clone()], external_id: None };
        let name = world.iam_role("admin");
        let role = lab.aws.create_role(account, &name, "/", &trust).await.expect("an IAM role");
        world.write(&format!("sys/mounts/{mount}"), json!({"type": "aws"})).await;
        let root = json!({
            "access_key": engine.keys.access_key,
            "secret_key": engine.keys.secret_key,
            "region": aws::REGION,
            "iam_endpoint": lab.aws_url(),
            "sts_endpoint": lab.aws_url(),
        });
        world.write(&format!("{mount}/config/root"), root).await;
        let policy = aws::allow(&["sts:GetCallerIdentity"]).to_string();
        let roles = [
            (
                ROLE,
                json!({
                    "credential_type": "assumed_role",
                    "role_arns": [role],
                    "default_sts_ttl": 900,
                }),
            ),
            ("user", json!({"credential_type": "iam_user", "policy_document": policy})),
            (
                "federated",
                json!({"credential_type": "federation_token", "policy_document": policy}),
            ),
            ("session", json!({"credential_type": "session_token"})),
        ];
        for (name, role) in roles {
            world.write(&format!("{mount}/roles/{name}"), role).await;
        }
        let home = lab.folder().join(format!("home-{}", world.id));
        fs::create_dir_all(home.join(".aws")).expect("a home");
        let mut person = Self { world, mount, home, token: String::new() };
        person.token = person.token_that_may("update").await;
        person
    }

    /// A token of ten minutes that has this capability on the engine's paths for credentials.
    async fn token_that_may(&self, capability: &str) -> String {
        let name = format!("{}-{capability}", self.world.id);
        let mount = &self.mount;
        let rule = |path: &str, capability: &str| {
            format!("path \"{path}\" {{ capabilities = [\"{capability}\"] }}\n")
        };
        let policy = [
            rule(&format!("{mount}/sts/*"), capability),
            rule(&format!("{mount}/creds/*"), capability),
            rule("sys/leases/revoke", "update"),
        ]
        .concat();
        self.world.write(&format!("sys/policies/acl/{name}"), json!({"policy": policy})).await;
        let request = json!({
            "policies": [name],
            "ttl": "10m",
            "display_name": format!("jane-{}", self.world.id),
        });
        let answer = self.world.write("auth/token/create", request).await;
        answer["auth"]["client_token"].as_str().expect("a token").to_owned()
    }

    /// A program in this home, with Vault's address and nothing of the test's own environment.
    fn program(&self, program: &Path) -> Command {
        let lab = &self.world.stage.lab;
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", "/usr/bin:/bin")
            .env("VAULT_ADDR", lab.vault_addr())
            .env("VAULT_CACERT", lab.ca_path())
            .env("VAULT_MAX_RETRIES", "0")
            .env("AWS_ENDPOINT_URL", lab.aws_url())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn signed_in(&self, program: &Path) -> Command {
        let mut command = self.program(program);
        command.env("VAULT_TOKEN", &self.token);
        command
    }

    /// Our command, as an SDK would start it.
    fn helper(&self, args: &[&str]) -> Command {
        let mut command = self.signed_in(Path::new(BINARY));
        command.args(["credential-process", "--mount", &self.mount]).args(args);
        command
    }

    fn ask(&self) -> Ran {
        run(self.helper(&["--role", ROLE]))
    }

    /// The only profile, `dev`, with this helper.
    fn profile(&self, helper: &str) {
        self.configure(&format!(
            "[profile dev]\ncredential_process = {helper}\nregion = {}\n",
            aws::REGION
        ));
    }

    fn configure(&self, config: &str) {
        fs::write(self.home.join(".aws/config"), config).expect("~/.aws/config");
    }

    /// The helper's command line for a role.
    fn line(&self, role: &str) -> String {
        format!("{BINARY} credential-process --mount '{}' --role '{role}'", self.mount)
    }

    /// A program of Python's with boto3.
    fn boto3(&self, script: &str) -> Command {
        let mut command = self.signed_in(self.world.stage.lab.python());
        command.args(["-c", script]);
        command
    }

    fn cli(&self, profile: &str) -> Command {
        let mut command = self.signed_in(self.world.stage.lab.python());
        let args = ["-m", "awscli", "sts", "get-caller-identity", "--output", "json", "--profile"];
        command.args(args).arg(profile);
        command
    }

    /// The principal that these sessions are of.
    fn session_arn(&self) -> String {
        let (account, name) = (aws::HOME_ACCOUNT, self.world.iam_role("admin"));
        format!("arn:aws:sts::{account}:assumed-role/{name}/")
    }

    /// How often the engine was asked for credentials since then.
    fn issued_since(&self, mark: audit::Mark) -> usize {
        let requests = self.world.vault_requests_since(mark);
        let is_ours = |path: &str| {
            path.starts_with(&format!("{}/sts/", self.mount))
                || path.starts_with(&format!("{}/creds/", self.mount))
        };
        requests.iter().filter(|request| is_ours(&request.path)).count()
    }

    /// The files of cached entries.
    fn entries(&self) -> Vec<PathBuf> {
        let folder = self.home.join(".cache/vault-aws-credential-process");
        let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
        files
            .map(|file| file.expect("a file").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect()
    }

    /// Makes all entries older, as if so much time had passed since.
    fn age(&self, seconds: i64) {
        for path in self.entries() {
            let text = fs::read(&path).expect("an entry");
            let mut entry: Value = serde_json::from_slice(&text).expect("JSON");
            for field in ["asked", "expiration", "limit", "failed"] {
                let Some(time) = entry[field].as_str() else { continue };
                let time: Timestamp = time.parse().expect("a time");
                let earlier = time - SignedDuration::from_secs(seconds);
                entry[field] = earlier.to_string().into();
            }
            fs::write(&path, entry.to_string()).expect("an entry");
        }
    }
}

fn run(mut command: Command) -> Ran {
    let output = command.output().expect("the program starts");
    leaks::heard_of(&command, &output);
    ran(output)
}

fn ran(output: Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn keys(credentials: &Value) -> Keys {
    let text = |name: &str| credentials[name].as_str().map(str::to_owned);
    Keys {
        access_key: text("AccessKeyId").expect("a key"),
        secret_key: text("SecretAccessKey").expect("a secret key"),
        session_token: text("SessionToken"),
    }
}

/// The principal of credentials, if AWS knows them.
async fn identity(world: &World, keys: &Keys) -> Option<String> {
    let answer = world.stage.lab.aws.sts(keys, "GetCallerIdentity", &[]).await.ok()?;
    aws::text(&answer, "Arn")
}

/// The Rust SDK wants a client, for profiles other than ours.
#[derive(Debug)]
struct NoRequests;

impl HttpConnector for NoRequests {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let error = ConnectorError::user("this profile needs no request to AWS".into());
        HttpConnectorFuture::ready(Err(error))
    }
}

/// The Rust SDK's credentials of the profile `dev` of this file.
#[expect(deprecated, reason = "the new names of these types are those of a crate of the SDK's own")]
fn profile_of(config: &Path) -> ProfileFileCredentialsProvider {
    use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
    let files = ProfileFiles::builder().with_file(ProfileFileKind::Config, config).build();
    let http = http_client_fn(|_, _| SharedHttpConnector::new(NoRequests));
    ProfileFileCredentialsProvider::builder()
        .configure(&ProviderConfig::without_region().with_http_client(http))
        .profile_files(files)
        .profile_name("dev")
        .build()
}

async fn boto3_the_cli_and_the_rust_sdk_use_a_profile(world: World) {
    let person = Person::new(world).await;
    person.profile(&person.line(ROLE));
    let arn = person.session_arn();

    let script = "import boto3\n\
        session = boto3.Session(profile_name='dev')\n\
        print(session.client('sts').get_caller_identity()['Arn'])\n\
        print(session.get_credentials().account_id)\n";
    let boto3 = run(person.boto3(script));
    assert_eq!(boto3.code, Some(0), "{}", boto3.stderr);
    assert!(boto3.stdout.starts_with(&arn), "{}", boto3.stdout);
    assert!(boto3.stdout.ends_with(&format!("{}\n", aws::HOME_ACCOUNT)), "{}", boto3.stdout);

    let cli = run(person.cli("dev")).credentials();
    assert!(cli["Arn"].as_str().is_some_and(|found| found.starts_with(&arn)), "{cli}");

    // The SDK hands its own environment on, which is this process's.
    let lab = &person.world.stage.lab;
    person.profile(&format!(
        "env HOME='{}' VAULT_TOKEN='{}' {} --address {} --ca-cert '{}'",
        person.home.display(),
        person.token,
        person.line(ROLE),
        lab.vault_addr(),
        lab.ca_path().display()
    ));
    let provider = profile_of(&person.home.join(".aws/config"));
    let credentials = provider.provide_credentials().await.expect("the Rust SDK has credentials");
    assert!(credentials.expiry().is_some());
    assert_eq!(credentials.account_id().map(|id| id.as_str()), Some(aws::HOME_ACCOUNT));
    let keys = Keys {
        access_key: credentials.access_key_id().to_owned(),
        secret_key: credentials.secret_access_key().to_owned(),
        session_token: credentials.session_token().map(str::to_owned),
    };
    let found = identity(&person.world, &keys).await.expect("AWS knows them");
    assert!(found.starts_with(&arn), "{found}");
}

async fn twenty_cold_starts_at_once_cost_one_request(world: World) {
    let person = Person::new(world).await;
    let mark = person.world.mark();
    let children: Vec<_> = (0..20)
        .map(|_| person.helper(&["--role", ROLE]).spawn().expect("the program starts"))
        .collect();
    let outputs: BTreeSet<String> = children
        .into_iter()
        .map(|child| ran(child.wait_with_output().expect("the program ends")))
        .map(|ran| {
            assert_eq!((ran.code, &*ran.stderr), (Some(0), ""));
            ran.stdout
        })
        .collect();
    assert_eq!(outputs.len(), 1, "all have the same credentials");
    assert_eq!(person.issued_since(mark), 1);
}

async fn a_quarter_of_an_hour_is_not_a_request_for_each_call(world: World) {
    let person = Person::new(world).await;
    person.profile(&person.line(ROLE));
    let mark = person.world.mark();
    // With less than 15 minutes left, botocore starts its helper for each call.
    let script = "import boto3\n\
        sts = boto3.Session(profile_name='dev').client('sts')\n\
        for _ in range(5): print(sts.get_caller_identity()['Arn'])\n";
    let boto3 = run(person.boto3(script));
    assert_eq!((boto3.code, boto3.stdout.lines().count()), (Some(0), 5), "{}", boto3.stderr);
    assert_eq!(person.issued_since(mark), 1);
}

async fn a_cache_that_cannot_be_used_costs_no_credentials(world: World) {
    let person = Person::new(world).await;
    // A file where a folder should be.
    fs::write(person.home.join(".cache"), "").expect("a file");
    let ran = person.ask();
    assert!(ran.credentials()["SessionToken"].is_string());
    assert!(ran.stderr.starts_with("warning: nothing is cached"), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

async fn a_revoked_token_ends_what_is_served(world: World) {
    let person = Person::new(world).await;
    let first = person.ask().credentials();
    person.world.write("auth/token/revoke", json!({"token": person.token})).await;
    assert_eq!(person.ask().credentials(), first, "nobody is asked before they are due");

    person.age(700);
    let refused = person.ask();
    let line = refused.failed(2);
    assert!(line.contains("the Vault token is not valid any more (HTTP 403)"), "{line}");
    assert!(line.contains("log in again"), "{line}");
    assert!(!line.contains(&person.token), "{line}");
    assert_eq!(person.entries(), Vec::<PathBuf>::new(), "the entry is forgotten");
}

async fn what_went_wrong_is_what_the_sdk_shows(world: World) {
    let person = Person::new(world).await;
    person.profile(&person.line("nobody"));
    let expected = format!(
        "error: POST {}/sts/nobody at {}: Vault refused the request: Role \"nobody\" not found (HTTP \
         400)",
        person.mount,
        person.world.stage.lab.vault_addr()
    );
    assert_eq!(run(person.helper(&["--role", "nobody"])).failed(2), expected);
    let cli = run(person.cli("dev"));
    assert_ne!(cli.code, Some(0));
    assert!(cli.stderr.contains(&expected), "{}", cli.stderr);
    let script = "import boto3\n\
        boto3.Session(profile_name='dev').client('sts').get_caller_identity()\n";
    let boto3 = run(person.boto3(script));
    assert!(boto3.stderr.contains("CredentialRetrievalError"), "{}", boto3.stderr);
    assert!(boto3.stderr.contains(&expected), "{}", boto3.stderr);

    let mut stranger = person.helper(&["--role", ROLE]);
    stranger.env_remove("VAULT_TOKEN");
    let refused = run(stranger);
    assert!(refused.failed(2).contains("no token was sent"), "{}", refused.stderr);

    let mut elsewhere = person.signed_in(Path::new(BINARY));
    elsewhere.args(["credential-process", "--mount", "nowhere", "--role", ROLE]);
    let refused = run(elsewhere);
    assert!(refused.failed(2).contains("(HTTP 403)"), "{}", refused.stderr);
}

/// <https://github.com/TheLonelyGhost/vault-aws-credential-protocol>: paths and addresses aside, both
/// profiles are as its README has them, and so is the configuration of the proxy.
async fn the_two_examples_of_the_seeds_readme_work(world: World) {
    let person = Person::at(world, "aws/dev".to_owned()).await;
    let lab = &person.world.stage.lab;
    let program = person.home.join("vault-aws-credential-process");
    std::os::unix::fs::symlink(BINARY, &program).expect("a link");
    person.configure(
        &"[profile vault-dev]\n\
          credential_process = /usr/local/bin/vault-aws-credential-process --mount 'aws/dev' --role 'super-admin'\n\
          region = us-east-2\n\
          \n\
          [profile vault-uat]\n\
          credential_process = /usr/local/bin/vault-aws-credential-process --mount 'aws/dev' --role 'super-admin' --no-cache\n\
          region = us-west-2\n"
            .replace("/usr/local/bin/vault-aws-credential-process", &program.to_string_lossy()),
    );
    let arn = person.session_arn();
    let direct = run(person.cli("vault-dev")).credentials();
    assert!(direct["Arn"].as_str().is_some_and(|found| found.starts_with(&arn)), "{direct}");

    let app_roles = format!("{}-approle", person.world.id);
    person.world.write(&format!("sys/auth/{app_roles}"), json!({"type": "approle"})).await;
    let role = format!("auth/{app_roles}/role/proxy");
    let policies = json!({"token_policies": [format!("{}-update", person.world.id)]});
    person.world.write(&role, policies).await;
    let id = person.world.read(&format!("{role}/role-id")).await.expect("a role id");
    let secret = person.world.write(&format!("{role}/secret-id"), json!({})).await;
    let place = |name: &str, value: &Value| {
        let path = person.home.join(name);
        fs::write(&path, value.as_str().expect("a text")).expect("a file");
        path.display().to_string()
    };
    let configuration = r#"
        vault {
            address = "https://vault.example.com:8200"
        }

        auto_auth {
            method {
                type = "approle"
                mount_path = "auth/{app_roles}"
                config = {
                    role_id_file_path = "/var/run/secrets/role-id"
                    secret_id_file_path = "/var/run/secrets/secret-id"
                }
            }
        }

        api_proxy {
            use_auto_auth_token = true
        }

        cache {
            cache_static_secrets = true
        }

        listener "tcp" {
            address = "127.0.0.1:{port}"
            tls_disable = true
        }

        listener "unix" {
            address = "{socket}"
            tls_disable = true
        }
    "#
    .replace("https://vault.example.com:8200", &lab.vault_addr())
    .replace("{app_roles}", &app_roles)
    .replace("/var/run/secrets/role-id", &place("role-id", &id["role_id"]))
    .replace("/var/run/secrets/secret-id", &place("secret-id", &secret["data"]["secret_id"]));
    let proxy = VaultProxy::start(lab, &configuration).await.expect("Vault Proxy");

    // What an earlier `vault login` left behind must not get in the way of the proxy's own token.
    fs::write(person.home.join(".vault-token"), "hvs.long-gone").expect("~/.vault-token");
    for address in [proxy.url(), proxy.socket_url()] {
        let found = person
            .world
            .eventually("the proxy to be logged in", crate::world::PATIENCE, async || {
                let mut cli = person.cli("vault-uat");
                cli.env_remove("VAULT_TOKEN").env("VAULT_AGENT_ADDR", &address);
                let ran = run(cli);
                (ran.code == Some(0)).then(|| ran.credentials())
            })
            .await;
        assert!(found["Arn"].as_str().is_some_and(|found| found.starts_with(&arn)), "{found}");
    }
    assert_eq!(person.entries().len(), 1, "that of the first profile");
    proxy.stop().await.expect("the proxy ends");
}

async fn an_iam_user_is_kept_only_if_asked_and_can_be_revoked(world: World) {
    let person = Person::new(world).await;
    let user = ["--endpoint", "creds", "--role", "user"];
    let ask = |more: &[&str]| run(person.helper(&[&user[..], more].concat())).credentials();
    let (first, second) = (ask(&[]), ask(&[]));
    assert_ne!(first["AccessKeyId"], second["AccessKeyId"]);
    assert_eq!(first.get("SessionToken"), None);
    assert_eq!(person.entries(), Vec::<PathBuf>::new());
    let end: Timestamp = first["Expiration"].as_str().expect("an end").parse().expect("a time");
    assert!(end <= now() + SignedDuration::from_mins(10), "it dies with the token: {end}");

    let kept = ask(&["--cache-iam-user"]);
    assert_eq!(ask(&["--cache-iam-user"]), kept);
    assert!(identity(&person.world, &keys(&kept)).await.is_some());
    let mut clear = person.signed_in(Path::new(BINARY));
    clear.args(["credential-process", "cache", "clear", "--revoke"]);
    let cleared = run(clear);
    assert_eq!((cleared.code, &*cleared.stdout, &*cleared.stderr), (Some(0), "", ""));
    assert_eq!(person.entries(), Vec::<PathBuf>::new());
    person
        .world
        .eventually("the IAM user to be deleted", crate::world::PATIENCE, async || {
            identity(&person.world, &keys(&kept)).await.is_none().then_some(())
        })
        .await;
}

async fn whoever_may_only_read_is_served_too(world: World) {
    let mut person = Person::new(world).await;
    person.token = person.token_that_may("read").await;
    let credentials = person.ask().credentials();
    assert!(credentials["SessionToken"].is_string());
    for (role, endpoint) in [("federated", "sts"), ("session", "creds")] {
        let ran = run(person.helper(&["--role", role, "--endpoint", endpoint, "--ttl", "20m"]));
        let credentials = ran.credentials();
        let end = credentials["Expiration"].as_str().expect("an end");
        let left = end.parse::<Timestamp>().expect("a time").duration_since(now());
        assert!(left > SignedDuration::from_mins(15), "{role}: {left}");
        assert!(left <= SignedDuration::from_mins(20), "{role}: {left}");
    }
}

async fn people_can_be_told_apart_in_the_session(world: World) {
    let person = Person::new(world).await;
    let arn = identity(&person.world, &keys(&person.ask().credentials())).await;
    let arn = arn.expect("AWS knows them");
    assert!(arn.contains("jane"), "Vault names the person: {arn}");
    let ran = run(person.helper(&["--role", ROLE, "--session-name", "deploy"]));
    let arn = identity(&person.world, &keys(&ran.credentials())).await;
    assert!(arn.expect("AWS knows them").contains("/deploy"));
}

async fn what_is_valid_is_served_while_vault_is_down(world: World) {
    let person = Person::new(world).await;
    let server = person.world.stage.lab.vault_server();
    let first = person.ask().credentials();
    server.stop().await.expect("Vault stops");
    assert_eq!(person.ask().credentials(), first);
    person.age(700);
    let served = person.ask();
    assert_eq!(served.credentials()["AccessKeyId"], first["AccessKeyId"]);
    assert!(served.stderr.contains("cannot be reached"), "{}", served.stderr);
    let silent = person.ask();
    assert_eq!((silent.code, &*silent.stderr), (Some(0), ""), "said once");

    server.start().await.expect("Vault starts, sealed");
    person.age(40);
    let served = person.ask();
    assert_eq!(served.code, Some(0), "{}", served.stderr);
    assert!(served.stderr.contains("sealed"), "{}", served.stderr);

    person.age(100);
    let refused = person.ask();
    assert!(refused.failed(2).contains("sealed"), "{}", refused.stderr);
    person.world.stage.lab.vault_unseal().await.expect("Vault is unsealed");
    assert_ne!(person.ask().credentials()["AccessKeyId"], first["AccessKeyId"]);
}
