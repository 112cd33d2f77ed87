//! `login` as a person runs it: with each kind of AWS identity, beside `vault login -method=aws` of
//! the real binary, and refused in each way that the lab can provoke.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use vault_aws_lab::{Keys, aws};

use crate::{
    certificates::Authority,
    leaks,
    world::{ACCOUNT, World},
};

tests![
    an_assumed_role_a_user_and_a_web_identity_get_their_own_directory_and_no_other,
    the_same_inputs_give_what_vault_gives,
    each_refusal_says_what_to_do,
    a_second_factor_is_said_with_what_completes_it,
    a_token_that_cannot_be_stored_is_not_lost,
    the_programs_that_a_login_starts_are_told_no_secret_but_through_their_pipes,
];

/// A home, and an AWS identity to log in with.
pub(crate) struct Person {
    pub(crate) world: World,
    pub(crate) home: PathBuf,
    keys: Option<Keys>,
}

/// What a program left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// What it printed, as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    #[track_caller]
    fn refused(&self, error: &str, hint: &str) {
        assert_eq!((self.code, &*self.stdout), (Some(2), ""), "{}", self.stderr);
        let mut lines = self.stderr.lines();
        let mut next = |start: &str| {
            lines.next().and_then(|line| line.strip_prefix(start)).unwrap_or_default().to_owned()
        };
        let (said, advice) = (next("error: "), next("hint: "));
        assert!(said.contains(error), "{error}: {}", self.stderr);
        assert!(advice.contains(hint), "{hint}: {}", self.stderr);
    }
}

impl Person {
    pub(crate) fn new(world: &World, name: &str, keys: Option<Keys>) -> Self {
        let home = world.stage.lab.folder().join(format!("home-{}-{name}", world.id));
        fs::create_dir_all(home.join(".aws")).expect("a home");
        Self { world: world.clone(), home, keys }
    }

    /// A program with the lab's addresses, this home and this identity, and nothing of ours.
    fn program(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.world.stage.lab.env());
        for name in ["VAULT_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env_remove(name);
        }
        command.env("HOME", &self.home).env("AWS_EC2_METADATA_DISABLED", "true");
        command.current_dir(&self.home);
        if let Some(keys) = &self.keys {
            command.env("AWS_ACCESS_KEY_ID", &keys.access_key);
            command.env("AWS_SECRET_ACCESS_KEY", &keys.secret_key);
            if let Some(token) = &keys.session_token {
                command.env("AWS_SESSION_TOKEN", token);
            }
        }
        command
    }

    pub(crate) fn ours(&self, args: &[&str]) -> Command {
        let mut command = self.program(Path::new(env!("CARGO_BIN_EXE_vault-aws")));
        command.args(args);
        command
    }

    /// `login` at the world's mount, with the server ID that it asks for.
    fn login(&self, role: &str, args: &[&str]) -> Command {
        let mount = self.world.auth_mount();
        let mut command = self.ours(&["login", "--path", &mount, "--header-value", "127.0.0.1"]);
        command.args(["--role", role]).args(args);
        command
    }

    /// The file in which `vault` keeps its token.
    fn stored(&self) -> Option<String> {
        let path = self.home.join(".vault-token");
        let token = fs::read_to_string(&path).ok()?;
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        leaks::plant("Vault token", &token);
        Some(token)
    }
}

/// Runs it beside the runtime of the lab, which serves STS.
pub(crate) async fn run(mut command: Command) -> Ran {
    let run = move || {
        let output = command.output().expect("the program starts");
        leaks::heard_of(&command, &output);
        output
    };
    let ran = tokio::task::spawn_blocking(run).await.expect("a thread");
    let Output { status, stdout, stderr } = ran;
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// An IAM user of the world's account with a role in Vault of that name and these policies.
pub(crate) async fn user(world: &World, name: &str, policies: &[&str]) -> Person {
    let iam = world.iam_role(name);
    let may = aws::allow(&["sts:GetCallerIdentity"]);
    let user = world.stage.lab.aws.create_user_with_keys(ACCOUNT, &iam, &may).await;
    let user = user.expect("an IAM user");
    let role = json!({
        "auth_type": "iam",
        "bound_iam_principal_arn": user.arn,
        "resolve_aws_unique_ids": false,
        "token_policies": policies,
        "token_ttl": "10m",
    });
    world.write(&format!("auth/{}/role/{iam}", world.auth_mount()), role).await;
    Person::new(world, name, Some(user.keys))
}

/// Backend and role `web`, without a sync.
pub(crate) async fn with_role(world: &World) {
    world.with_role().await;
}

async fn with_a_certificate(world: &World) {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.with_web().await;
}

async fn an_assumed_role_a_user_and_a_web_identity_get_their_own_directory_and_no_other(
    world: World,
) {
    with_a_certificate(&world).await;
    let web = world.iam_role("web");
    let policy = world.policy_name(&web);

    let assumed = Person::new(&world, "assumed", Some(world.assume(ACCOUNT, "web").await));
    let user = user(&world, "user", &[&policy]).await;
    let federated = web_identity(&world, &policy).await;
    let user_role = world.iam_role("user");
    let federated_role = world.iam_role("federated");
    for (person, role) in [(&assumed, &web), (&user, &user_role), (&federated, &federated_role)] {
        let ran = run(person.login(role, &[])).await;
        assert_eq!(ran.code, Some(0), "{role}: {}", ran.stderr);
        let token = person.stored().expect("a stored token");
        assert!(ran.stdout.contains(&token), "the token is shown");
        assert!(!ran.stderr.contains(&token), "{}", ran.stderr);
        let vault = world.vault().with_token(token);
        for (name, expected) in [("web", 200), ("neighbour", 403)] {
            let directory = world.directory(ACCOUNT, name);
            let path = format!("{}/data/{directory}/tls", world.kv_mount());
            assert_eq!(vault.get(&path).await.expect("Vault").0, expected, "{role}: {path}");
        }
    }
    // The role need not be named: it has the name of the IAM role.
    let mount = world.auth_mount();
    let mut unnamed = assumed.ours(&["login", "--mount", &mount, "--no-store"]);
    unnamed.args(["--header-value", "127.0.0.1", "--field", "token_meta_account_id"]);
    let ran = run(unnamed).await;
    assert_eq!((ran.code, &*ran.stdout), (Some(0), ACCOUNT), "{}", ran.stderr);
}

/// A role that a ServiceAccount of this world may assume with a token of the cluster, as on EKS.
async fn web_identity(world: &World, policy: &str) -> Person {
    const AUDIENCE: &str = "sts.amazonaws.com";
    let (lab, name) = (&world.stage.lab, world.iam_role("federated"));
    let issuer = lab.kube_url();
    lab.aws.trust_issuer(ACCOUNT, &issuer, &[AUDIENCE]).await.expect("a provider");
    let trust = aws::trust_service_account(ACCOUNT, &issuer, AUDIENCE, &world.id, "pod");
    lab.aws.create_role_trusting(ACCOUNT, &name, "/", &trust).await.expect("an IAM role");
    world.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: pod}}").await;
    let token = lab.service_account_token(&world.id, "pod", &[AUDIENCE], 600).await;
    let token = token.expect("a token");
    let role = json!({
        "auth_type": "iam",
        "bound_iam_principal_arn": world.iam_arn(ACCOUNT, "federated"),
        "resolve_aws_unique_ids": false,
        "token_policies": [policy],
    });
    world.write(&format!("auth/{}/role/{name}", world.auth_mount()), role).await;

    let person = Person::new(world, "federated", None);
    fs::write(person.home.join("token"), token).expect("a file");
    let config = format!(
        "[default]\nrole_arn = {}\nweb_identity_token_file = {}\nrole_session_name = pod\n",
        world.iam_arn(ACCOUNT, "federated"),
        person.home.join("token").display()
    );
    fs::write(person.home.join(".aws/config"), config).expect("a file");
    person
}

async fn the_same_inputs_give_what_vault_gives(world: World) {
    with_role(&world).await;
    let name = world.iam_role("user");
    let person = user(&world, "user", &[&world.policy_name(&world.iam_role("web"))]).await;
    let mount = world.auth_mount();
    let theirs = |args: &[&str]| {
        let mut command = person.program(Path::new("/usr/bin/env"));
        command.args(["vault", "login", "-method=aws", &format!("-path={mount}")]).args(args);
        command.args([&format!("role={name}"), "header_value=127.0.0.1"]);
        command
    };

    let ours = run(person.login(&name, &["--format", "json"])).await.json();
    let our_token = person.stored().expect("a stored token");
    let vaults = run(theirs(&["-format=json"])).await.json();
    let their_token = person.stored().expect("a stored token");
    assert_ne!(our_token, their_token);
    let keys = |value: &Value| -> Vec<String> {
        value.as_object().expect("an object").keys().cloned().collect()
    };
    assert_eq!(keys(&ours), keys(&vaults));
    assert_eq!(keys(&ours["auth"]), keys(&vaults["auth"]));
    for key in keys(&vaults["auth"]) {
        if !matches!(key.as_str(), "client_token" | "accessor") {
            assert_eq!(ours["auth"][&key], vaults["auth"][&key], "{key}");
        }
    }
    for field in ["policies", "token_duration", "token_renewable", "identity_policies"] {
        let our_flags = ["--field", field, "--no-store"];
        let ours = run(person.login(&name, &our_flags)).await.stdout;
        let vaults = run(theirs(&[&format!("-field={field}"), "-no-store"])).await.stdout;
        assert_eq!(ours, vaults, "{field}");
    }
    let table = |text: &str| -> Vec<String> {
        let rows = text.lines().skip_while(|line| !line.starts_with("Key"));
        let secret = |line: &&str| line.starts_with("token ") || line.starts_with("token_accessor");
        let mut rows: Vec<String> =
            rows.filter(|line| !secret(line) && !line.is_empty()).map(str::to_owned).collect();
        // `vault` prints metadata in the order of a Go map, which is another one each time.
        rows.sort();
        rows
    };
    let ours = run(person.login(&name, &["--no-store"])).await.stdout;
    let vaults = run(theirs(&["-no-store"])).await.stdout;
    assert_eq!(table(&ours), table(&vaults));
}

async fn each_refusal_says_what_to_do(world: World) {
    with_role(&world).await;
    let web = world.iam_role("web");
    let name = world.iam_role("user");
    let person = user(&world, "user", &["default"]).await;
    let mount = world.auth_mount();
    let root = world.stage.lab.vault_root_token();

    let nobody = run(person.login("nobody", &[])).await;
    nobody.refused("entry for role nobody not found", "make the role `nobody`");
    run(person.login(&web, &[])).await.refused("does not belong to the role", "bind the caller");
    let unsigned = run(person.ours(&["login", "--path", &mount, "--role", &name])).await;
    unsigned.refused("X-Vault-AWS-IAM-Server-ID", "asks for a server ID");
    let wrong = ["--header-value", "other.example.com"];
    let mut other = person.ours(&["login", "--path", &mount, "--role", &name]);
    other.args(wrong);
    run(other).await.refused("expected \"127.0.0.1\"", "iam_server_id_header_value");
    let mut lost = person.ours(&["login", "--path", "nowhere", "--role", &name]);
    lost.args(wrong);
    run(lost).await.refused("permission denied", "is auth/nowhere an AWS auth mount");
    let mut bad = person.login(&name, &[]);
    bad.env("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-this-key");
    run(bad).await.refused("SignatureDoesNotMatch", "do not belong together");
    let mut unknown = person.login(&name, &[]);
    unknown.env("AWS_ACCESS_KEY_ID", "AKIAUNKNOWNUNKNOWN00");
    run(unknown).await.refused("InvalidClientTokenId", "expired or unknown");

    // The mount's own region is known to whoever may read its settings.
    let elsewhere = ["--sts-endpoint", "https://sts.internal", "--region", "eu-west-1"];
    let mismatch = "Credential should be scoped to a valid region";
    let ran = run(person.login(&name, &elsewhere)).await;
    ran.refused(mismatch, "signed for `eu-west-1`");
    let mut known = person.login(&name, &elsewhere);
    known.env("VAULT_TOKEN", root);
    let ran = run(known).await;
    ran.refused(
        mismatch,
        "forwards it to the STS of `us-east-1`. Either sign for that one: --region",
    );
    ran.refused(mismatch, "sts_endpoint=https://sts.internal sts_region=eu-west-1");
    assert_eq!(person.stored(), None, "nothing was stored");
}

async fn a_second_factor_is_said_with_what_completes_it(world: World) {
    with_role(&world).await;
    let name = world.iam_role("user");
    let person = user(&world, "user", &["default"]).await;
    let method = json!({"issuer": "lab", "period": 30, "algorithm": "SHA256", "digits": 6});
    let method = world.write("identity/mfa/method/totp", method).await;
    let id = method["data"]["method_id"].as_str().expect("a method");
    let mounts = world.read("sys/auth").await.expect("the mounts");
    let accessor = &mounts[format!("{}/", world.auth_mount())]["accessor"];
    let enforcement = format!("identity/mfa/login-enforcement/{}", world.id);
    let body = json!({"mfa_method_ids": [id], "auth_method_accessors": [accessor]});
    world.write(&enforcement, body).await;

    let ran = run(person.login(&name, &[])).await;
    ran.refused(
        &format!("second factor before it gives the token: totp ({id})"),
        "sys/mfa/validate",
    );
    assert_eq!(world.vault().delete(&enforcement).await.expect("Vault").0, 204);
}

async fn a_token_that_cannot_be_stored_is_not_lost(world: World) {
    with_role(&world).await;
    let name = world.iam_role("user");
    let person = user(&world, "user", &["default"]).await;
    let helper = person.home.join("helper");
    fs::write(&helper, "#!/bin/sh\necho 'keyring locked' >&2\nexit 7\n").expect("a file");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o700)).expect("a program");
    let configuration = format!("token_helper = {:?}\n", helper.display().to_string());
    fs::write(person.home.join(".vault"), configuration).expect("a file");

    let ran = run(person.login(&name, &["--field", "token"])).await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("keyring locked"), "{}", ran.stderr);
    let vault = world.vault().with_token(ran.stdout);
    assert_eq!(vault.get("auth/token/lookup-self").await.expect("Vault").0, 200);
}

async fn the_programs_that_a_login_starts_are_told_no_secret_but_through_their_pipes(world: World) {
    with_role(&world).await;
    let name = world.iam_role("user");
    let mut person = user(&world, "user", &["default"]).await;
    let keys = person.keys.take().expect("keys");
    leaks::plant("AWS secret key", &keys.secret_key);
    let program = |file: &str, script: &str| {
        let path = person.home.join(file);
        fs::write(&path, format!("#!/bin/sh\n{script}")).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("a program");
        path.display().to_string()
    };
    // Each notes what everybody, or everybody of this user, could have read of it.
    let note = |who: &str| {
        format!(
            "cat /proc/$$/cmdline /proc/$PPID/cmdline | tr '\\0' '\\n' >> {who}.arguments\n\
             cat /proc/$$/environ | tr '\\0' '\\n' >> {who}.environment\n"
        )
    };
    let document = json!({
        "Version": 1, "AccessKeyId": keys.access_key, "SecretAccessKey": keys.secret_key,
    });
    fs::write(person.home.join("document"), document.to_string()).expect("a file");
    let process = program("process", &format!("{}cat document\n", note("process")));
    let keeper = "case $1 in get) cat kept 2>/dev/null || true;; store) cat > kept;; esac\n";
    let keeper = program("keeper", &format!("{}{keeper}", note("keeper")));
    let config = format!("[default]\ncredential_process = {process}\n");
    fs::write(person.home.join(".aws/config"), config).expect("a file");
    fs::write(person.home.join(".vault"), format!("token_helper = {keeper:?}\n")).expect("a file");

    let mut command = person.login(&name, &["--no-print"]);
    command.env("PATH", "/usr/bin:/bin");
    let given: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| {
            Some(format!("{}={}", name.to_string_lossy(), value?.to_string_lossy()))
        })
        .collect();
    let ran = run(command).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let token = fs::read_to_string(person.home.join("kept")).expect("the token");
    leaks::plant("Vault token", &token);
    let mut added = Vec::new();
    for (who, operation) in [("process", None), ("keeper", Some("store"))] {
        let noted = |what: &str| {
            fs::read_to_string(person.home.join(format!("{who}.{what}"))).expect("it was started")
        };
        let arguments = noted("arguments");
        leaks::heard(&format!("arguments of the {who} of a login"), &arguments);
        assert!(operation.is_none_or(|word| arguments.lines().any(|line| line == word)));
        let environment = noted("environment");
        // What the person had in the environment is the person's, and passed on.
        let more: Vec<&str> =
            environment.lines().filter(|line| !given.iter().any(|one| one == line)).collect();
        leaks::heard(&format!("what the {who} of a login was told besides"), &more.join("\n"));
        for text in [&arguments, &more.join("\n")] {
            assert!(!text.contains(&token) && !text.contains(&keys.secret_key), "{who}: {text}");
        }
        added.extend(
            more.into_iter().filter(|line| line.starts_with("VAULT_AWS")).map(str::to_owned),
        );
    }
    assert_eq!(added, ["VAULT_AWS_STARTED_BY=token-helper"]);
}
