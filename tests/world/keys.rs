//! AWS keys that are replaced while the operator runs: sessions that are there go on, new logins say why
//! they fail, and with the new keys all goes on without a restart.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::json;
use vault_aws_lab::{
    Component, Keys, Operator, TrustPolicy,
    aws::{HOME_ACCOUNT, allow, role_arn},
};

use crate::{
    certificates::Authority,
    leaks,
    managed::own_secret,
    stage::say,
    world::{ACCOUNT, OTHER_ACCOUNT, PATIENCE, World},
};

tests![keys_of_vault_that_aws_takes_no_more_stop_new_principals_alone_until_they_are_replaced];
tests![in outage_tests: keys_in_a_file_that_aws_takes_no_more_are_read_again_when_they_are_replaced];

/// From the new keys until all is as before: a sync that waits tries again every half minute.
const CURED: Duration = Duration::from_secs(60);

fn planted(keys: Keys) -> Keys {
    leaks::plant("AWS secret key", &keys.secret_key);
    keys
}

/// A file as `aws configure` writes it.
fn write(file: &Path, keys: &Keys) {
    let text = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        keys.access_key, keys.secret_key
    );
    // In one step, as a mounted Secret changes.
    let new = file.with_extension("new");
    fs::write(&new, text).expect("the keys' file");
    fs::rename(&new, file).expect("the keys' file");
}

async fn keys_in_a_file_that_aws_takes_no_more_are_read_again_when_they_are_replaced(world: World) {
    let stage = &world.stage;
    let aws = &stage.lab.aws;
    let name = world.iam_role("operator");
    let user = aws.create_user_with_keys(HOME_ACCOUNT, &name, &allow(&["sts:AssumeRole"])).await;
    let user = user.expect("a user");
    let first = planted(user.keys);
    world.create_iam_role(ACCOUNT, "api").await;
    let trust = TrustPolicy {
        principal_arns: vec![user.arn.clone()],
        external_id: Some(world.external_id()),
    };
    for role in ["web", "api"] {
        let role = world.iam_role(role);
        aws.set_trust(ACCOUNT, &role, &trust).await.expect("another trust policy");
    }
    let folder: PathBuf = stage.lab.folder().join(&world.id);
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("credentials");
    write(&file, &first);

    assert!(stage.syncer.stop().await.expect("it stops"));
    let binary = Path::new(env!("CARGO_BIN_EXE_vault-aws"));
    let path = file.to_str().expect("a path");
    let env = [
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_SHARED_CREDENTIALS_FILE", path),
        ("AWS_CONFIG_FILE", "/dev/null"),
        // For this world alone: the user may assume no roles of others.
        ("VAULT_AWS_NAMESPACES", world.id.as_str()),
    ];
    let started = Operator::start_with(&stage.lab, Component::Syncer, binary, &env).await;
    let syncer = started.expect("another syncer");
    syncer.ready(PATIENCE).await.expect("it is ready");
    let pid = syncer.pid();

    let authority = Authority::new("World CA");
    let issued = authority.issue("web.example.com");
    for role in ["web", "api"] {
        world.put_certificate(role, "tls", &issued).await;
    }
    world.backend().apply().await;
    for role in ["web", "api"] {
        world.role(role).apply().await;
        world.ready(&format!("vaultawsrole/{role}")).await;
    }
    world.sync("web").with("spec.refreshInterval", "10s").apply().await;
    world.delivered("web-tls", &issued).await;

    for (round, sync) in ["api", "second"].into_iter().enumerate() {
        let old = keys_in(&file);
        aws.delete_keys(HOME_ACCOUNT, &name, &old).await.expect("the keys go");
        // A session that is there needs them not.
        let next = authority.issue("web.example.com");
        world.put_certificate("web", "tls", &next).await;
        world.refresh("web").await;
        let held = world.delivered("web-tls", &next).await;
        // A new one does. The second is of another backend, as a session of the role is there.
        let waiting = if round == 0 { world.sync(sync) } else { another(&world, sync).await };
        waiting.apply().await;
        let object = format!("vaultcertsync/{sync}");
        let ready = world.becomes(&object, "Ready", "False", "AwsCredentialsRefused").await;
        assert!(ready.message.contains("not valid"), "{}", ready.message);
        assert_eq!(world.secret("web-tls").await, Some(held));

        let new = planted(aws.add_keys(HOME_ACCOUNT, &name).await.expect("other keys"));
        write(&file, &new);
        let replaced = Instant::now();
        world
            .eventually(&format!("{object} to be ready"), CURED, async || {
                world.condition(&object, "Ready").await.filter(|ready| ready.status == "True")
            })
            .await;
        world.delivered(&format!("{sync}-tls"), &issued).await;
        say(&format!(
            "keys in a file replaced: AwsCredentialsRefused, recovered after {:.1} s",
            replaced.elapsed().as_secs_f64()
        ));
        world.ready("vaultcertsync/web").await;
    }
    assert_eq!(syncer.pid(), pid, "nobody restarted it");
    let log = fs::read_to_string(syncer.log()).expect("its log");
    assert!(!log.contains(&first.secret_key));

    assert!(syncer.stop().await.expect("it stops"));
    fs::remove_dir_all(&folder).expect("the folder goes");
    stage.syncer.start_again().await.expect("the syncer starts");
    stage.syncer.ready(PATIENCE).await.expect("the syncer is ready");
}

/// The keys that [`write`] wrote.
fn keys_in(file: &Path) -> Keys {
    let text = fs::read_to_string(file).expect("the keys' file");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.expect("a line").trim_start_matches(" = ").to_owned()
    };
    Keys {
        access_key: value("aws_access_key_id"),
        secret_key: value("aws_secret_access_key"),
        session_token: None,
    }
}

/// A sync of the role `api` by another backend, with the same Vault.
async fn another(world: &World, name: &str) -> crate::manifest::Manifest {
    let backend = format!("{}-other", world.id);
    let manifest = world.backend().with("metadata.name", backend.as_str());
    let observed = manifest.with("spec.auth.management", "Observed").without("spec.auth.client");
    observed.apply().await;
    world.ready(&format!("vaultawsbackend/{backend}")).await;
    let principal = json!({
        "backendRef": {"name": backend},
        "accountId": ACCOUNT,
        "iamRole": world.iam_role("api"),
    });
    world.sync(name).with("spec", json!({"principal": principal}))
}

async fn keys_of_vault_that_aws_takes_no_more_stop_new_principals_alone_until_they_are_replaced(
    world: World,
) {
    let aws = &world.stage.lab.aws;
    let name = world.iam_role("vault");
    let may = allow(&["sts:AssumeRole", "sts:GetCallerIdentity", "iam:GetRole", "iam:GetUser"]);
    let user = aws.create_user_with_keys(HOME_ACCOUNT, &name, &may).await.expect("a user");
    let first = planted(user.keys);
    let reader = world.iam_role("reader");
    let trust = TrustPolicy { principal_arns: vec![user.arn], external_id: None };
    for account in [ACCOUNT, OTHER_ACCOUNT] {
        aws.create_role(account, &reader, "/", &trust).await.expect("a role for Vault");
        let may = allow(&["iam:GetRole", "iam:GetUser"]);
        aws.set_role_policy(account, &reader, &may).await.expect("its policy");
    }
    let secret = async |keys: &Keys| {
        let data = json!({
            "aws_access_key_id": keys.access_key, "aws_secret_access_key": keys.secret_key,
        });
        own_secret(&world, "vault-keys", data).await
    };
    let named = secret(&first).await;
    let accounts = [ACCOUNT, OTHER_ACCOUNT]
        .map(|account| json!({"accountId": account, "stsRoleArn": role_arn(account, &reader)}));
    let backend = world
        .backend()
        .with("spec.naming.role", "{account}-{iamRole}")
        .with("spec.tenancy.0.accounts", json!([ACCOUNT, OTHER_ACCOUNT]))
        .with("spec.auth.accounts", json!(accounts));
    backend.with("spec.auth.client.credentialsRef.name", named).apply().await;
    // Vault has a session of the account that it asked already, and that outlives the keys for a while.
    let role = |account: &str, name: &str| {
        let role = world.role(name).with("spec.accountId", account);
        role.with("spec.resolveAwsUniqueIds", true)
    };
    let authority = Authority::new("World CA");
    let put = async |account: &str, role: &str| {
        let issued = authority.issue("web.example.com");
        let fields = json!({"certificate": issued.certificate, "private_key": issued.key});
        world.put_entry(account, role, "tls", fields).await;
        issued
    };
    let issued = put(ACCOUNT, "web").await;
    role(ACCOUNT, "web").apply().await;
    world.sync("web").with("spec.refreshInterval", "10s").apply().await;
    world.delivered("web-tls", &issued).await;
    world.ready("vaultawsrole/web").await;

    aws.delete_keys(HOME_ACCOUNT, &name, &first).await.expect("the keys go");
    world.create_iam_role(OTHER_ACCOUNT, "api").await;
    let issued = put(OTHER_ACCOUNT, "api").await;
    role(OTHER_ACCOUNT, "api").apply().await;
    let ready = world.becomes("vaultawsrole/api", "Ready", "False", "BadVaultAwsKeys").await;
    say(&format!("Vault's keys are void: {}", ready.message));
    // What is bound goes on, and a login needs no keys of Vault.
    let next = put(ACCOUNT, "web").await;
    world.refresh("web").await;
    world.delivered("web-tls", &next).await;
    let late = world.sync("late").with("spec.roleRef.name", "web");
    late.apply().await;
    world.delivered("late-tls", &next).await;
    world.ready("vaultawsrole/web").await;

    let new = planted(aws.add_keys(HOME_ACCOUNT, &name).await.expect("other keys"));
    secret(&new).await;
    // A Secret of the operator's namespace is read again now and then; then the admin does not wait.
    tokio::time::sleep(Duration::from_secs(16)).await;
    world.refresh_backend().await;
    let replaced = Instant::now();
    world
        .eventually("role api to be ready", CURED, async || {
            let ready = world.condition("vaultawsrole/api", "Ready").await;
            ready.filter(|ready| ready.status == "True")
        })
        .await;
    say(&format!(
        "Vault's keys replaced: role ready {:.1} s after the backend was asked to look",
        replaced.elapsed().as_secs_f64()
    ));
    world.ready(&world.backend_ref()).await;
    world.sync("api").apply().await;
    world.delivered("api-tls", &issued).await;
}
