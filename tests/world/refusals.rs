//! What a tenant was not granted is not even tried: it is refused by the API server, or by a condition,
//! and neither Vault nor AWS is asked anything.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kube::ResourceExt as _;
use serde_json::{Value, json};
use vault_aws_lab::{Keys, StsRequest, User, aws};

use crate::{
    audit::{Mark, VaultRequest},
    certificates::{Authority, Issued},
    leaks,
    manifest::{Manifest, secret},
    world::{ACCOUNT, Condition, OTHER_ACCOUNT, World},
};

tests![
    without_a_rule_nothing_is_asked_for,
    roles_and_accounts_of_others_are_denied,
    a_kind_of_identity_that_the_rule_does_not_list_is_not_used,
    a_secret_without_the_label_is_not_read,
    a_credentials_secret_that_comes_later_wakes_the_sync,
    keys_in_a_secret_must_be_all_there,
    keys_of_somebody_else_give_no_certificates,
    keys_of_a_user_work_where_the_vault_role_is_managed_elsewhere,
    the_key_id_of_another_tenant_gives_no_ride_on_his_session,
    names_that_mean_something_else_to_vault_or_aws_are_refused_by_the_api_server,
    a_rule_that_is_withdrawn_stops_everything_and_keeps_everything,
    a_namespace_that_loses_its_label_loses_what_the_label_granted,
];

/// A change of what an object refers to wakes it within this time.
const SOON: Duration = Duration::from_secs(5);

/// What the operator asked of Vault for roles and syncs of this world; not what it asked about the
/// backend.
fn asked(world: &World, mark: Mark) -> Vec<VaultRequest> {
    let places = [
        format!("auth/{}/role/", world.auth_mount()),
        format!("auth/{}/login", world.auth_mount()),
        "sys/policies/acl/".to_owned(),
        format!("{}/", world.kv_mount()),
    ];
    let requests = world.vault_requests_since(mark).into_iter();
    requests.filter(|one| places.iter().any(|place| one.path.starts_with(place))).collect()
}

/// Those of them that a sync makes: logins at the AWS mount, and certificates.
fn asked_by_syncs(world: &World, mark: Mark) -> Vec<VaultRequest> {
    let certificates = format!("{}/", world.kv_mount());
    let mut requests = asked(world, mark);
    requests.retain(|one| one.is_login() || one.path.starts_with(&certificates));
    requests
}

/// The requests to assume roles of this world that reached AWS.
fn assumed(world: &World) -> Vec<StsRequest> {
    let prefix = world.iam_role("");
    let requests = world.stage.lab.sts().requests().into_iter();
    requests.filter(|one| one.role.contains(&prefix)).collect()
}

/// Who showed these keys to AWS, through Vault or not.
fn shown(world: &World, keys: &Keys) -> usize {
    let requests = world.stage.lab.sts().requests();
    requests.iter().filter(|one| one.access_key == keys.access_key).count()
}

/// The Secrets whose content the operator read since.
fn secrets_read(world: &World, mark: Mark) -> Vec<String> {
    let requests = world.kubernetes_requests_since(mark).into_iter();
    requests
        .filter(|one| one.resource == "secrets" && one.verb == "get")
        .map(|one| one.name)
        .collect()
}

/// The names of the Secrets in the world's namespace.
async fn secrets(world: &World) -> Vec<String> {
    let secrets = world.list("secret").await.into_iter();
    secrets.map(|one| one["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn denied(world: &World, object: &str) -> Condition {
    world.becomes(object, "Ready", "False", "TenancyDenied").await
}

/// Waits until it is ready; how long that took since `begun` is within limits.
async fn ready_soon(world: &World, object: &str, begun: Instant) {
    world.ready(object).await;
    let took = begun.elapsed();
    assert!(took < SOON, "{object} was ready after {took:?}");
}

/// A certificate `tls` of the role `web`.
async fn issued(world: &World) -> Issued {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    issued
}

/// AWS keys as a Secret, with the label by which it consents.
fn credentials(world: &World, name: &str, keys: &Keys) -> Manifest {
    leaks::plant("AWS secret key", &keys.secret_key);
    let mut data = json!({
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
    });
    if let Some(token) = &keys.session_token {
        leaks::plant("AWS session token", token);
        data["aws_session_token"] = json!(token);
    }
    secret(world, name, data).with("metadata.labels", consent())
}

fn consent() -> Value {
    json!({"vaultaws.dev/use": "aws-credentials"})
}

/// An IAM user of this world in [`ACCOUNT`].
async fn user(world: &World) -> User {
    let may = aws::allow(&["sts:GetCallerIdentity"]);
    let name = world.iam_role("user");
    let user = world.stage.lab.aws.create_user_with_keys(ACCOUNT, &name, &may).await;
    user.expect("an IAM user")
}

/// The sync `web`, with the keys in the Secret `web-aws`.
fn sync_by_secret(world: &World) -> Manifest {
    world.sync("web").with("spec.identity.secretRef.name", "web-aws")
}

/// A sync of an IAM role without a VaultAwsRole beside it.
fn sync_of(world: &World, name: &str, account: &str, iam_role: &str) -> Manifest {
    let principal = json!({
        "backendRef": {"name": world.id},
        "accountId": account,
        "iamRole": iam_role,
    });
    world.sync(name).with("spec.principal", principal)
}

async fn without_a_rule_nothing_is_asked_for(world: World) {
    issued(&world).await;
    let mark = world.mark();
    let other = json!({"names": ["somebody-else"]});
    world.backend().with("spec.tenancy.0.namespaces", other).apply().await;
    world.ready(&world.backend_ref()).await;
    world.role("web").apply().await;
    world.sync("web").apply().await;
    sync_of(&world, "own", ACCOUNT, &world.iam_role("web")).apply().await;
    for object in ["vaultawsrole/web", "vaultcertsync/web", "vaultcertsync/own"] {
        let message = denied(&world, object).await.message;
        assert!(message.contains(&world.id), "{message}");
        // Who else is a tenant, and by which rule, is nobody's business.
        assert!(!message.contains("somebody-else") && !message.contains("`test`"), "{message}");
    }
    assert_eq!(asked(&world, mark), []);
    assert_eq!(assumed(&world).len(), 0);
    assert_eq!(world.vault_role(&world.iam_role("web")).await, None);
    assert_eq!(world.vault_policy(&world.policy_name(&world.iam_role("web"))).await, None);
    assert_eq!(secrets(&world).await, Vec::<String>::new());
}

async fn roles_and_accounts_of_others_are_denied(world: World) {
    issued(&world).await;
    world.with_web().await;
    world.create_iam_role(OTHER_ACCOUNT, "web").await;
    let mark = world.mark();
    let before = assumed(&world).len();
    // The same name in another account, and a role of the account that the rule does not name.
    let web = world.iam_role("web");
    for (name, account, iam_role, lacks) in [
        ("account", OTHER_ACCOUNT, web.as_str(), format!("account {OTHER_ACCOUNT}")),
        ("role", ACCOUNT, "web", "IAM role `web`".to_owned()),
        ("case", ACCOUNT, &web.to_uppercase(), format!("IAM role `{}`", web.to_uppercase())),
    ] {
        let role = world.role(name).with("spec.accountId", account);
        role.with("spec.iamRole", iam_role).apply().await;
        sync_of(&world, name, account, iam_role).apply().await;
        // The sync is judged for itself, and not by its role.
        world.sync(&format!("{name}-by-role")).with("spec.roleRef.name", name).apply().await;
        for object in [
            format!("vaultawsrole/{name}"),
            format!("vaultcertsync/{name}"),
            format!("vaultcertsync/{name}-by-role"),
        ] {
            let message = denied(&world, &object).await.message;
            assert_eq!(message, format!("tenancy rule `test` does not grant {lacks}"));
        }
    }
    assert_eq!(asked(&world, mark), []);
    assert_eq!(assumed(&world).len(), before);
    assert_eq!(secrets(&world).await, ["web-tls"]);
}

async fn a_kind_of_identity_that_the_rule_does_not_list_is_not_used(world: World) {
    let issued = issued(&world).await;
    let keys = world.assume(ACCOUNT, "web").await;
    credentials(&world, "web-aws", &keys).apply().await;
    let mark = world.mark();
    let only = |kind: &str| world.backend().with("spec.tenancy.0.identities", json!([kind]));
    only("AssumeRole").apply().await;
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    sync_by_secret(&world).apply().await;
    let message = denied(&world, "vaultcertsync/web").await.message;
    assert_eq!(message, "tenancy rule `test` does not grant identity Secret");
    assert_eq!(secrets_read(&world, mark), Vec::<String>::new());
    assert_eq!(shown(&world, &keys), 0);

    // And the other way round.
    let other = world.sync("other").with("spec.roleRef.name", "web");
    only("Secret").apply().await;
    world.ready("vaultcertsync/web").await;
    other.apply().await;
    let message = denied(&world, "vaultcertsync/other").await.message;
    assert_eq!(message, "tenancy rule `test` does not grant identity AssumeRole");
    world.delivered("web-tls", &issued).await;
    assert!(shown(&world, &keys) > 0);
    assert_eq!(assumed(&world).len(), 0);
}

async fn a_secret_without_the_label_is_not_read(world: World) {
    let issued = issued(&world).await;
    let keys = world.assume(ACCOUNT, "web").await;
    world.with_role().await;
    let mark = world.mark();
    let manifest = credentials(&world, "web-aws", &keys);
    manifest.clone().without("metadata.labels").apply().await;
    sync_by_secret(&world).apply().await;
    let not_ready = ("Ready", "False", "IdentityNotReady");
    let becomes_not_ready = async || {
        let (kind, status, reason) = not_ready;
        world.becomes("vaultcertsync/web", kind, status, reason).await
    };
    let message = becomes_not_ready().await.message;
    assert!(message.contains("vaultaws.dev/use=aws-credentials"), "{message}");
    // Another value is no consent either.
    let label = |value: Value| json!({"metadata": {"labels": {"vaultaws.dev/use": value}}});
    world.patch("secret/web-aws", label(json!("something"))).await;
    // A pass that saw it: the one for a new spec.
    sync_by_secret(&world).with("spec.refreshInterval", "30m").apply().await;
    becomes_not_ready().await;
    assert_eq!(secrets_read(&world, mark), Vec::<String>::new());
    assert_eq!(asked_by_syncs(&world, mark), []);
    assert_eq!(shown(&world, &keys), 0);

    let begun = Instant::now();
    world.patch("secret/web-aws", label(json!("aws-credentials"))).await;
    ready_soon(&world, "vaultcertsync/web", begun).await;
    let held = world.delivered("web-tls", &issued).await;

    // Consent can be taken back: from then on nothing is done with the session in hand either.
    world.patch("secret/web-aws", label(Value::Null)).await;
    becomes_not_ready().await;
    let mark = world.mark();
    world.put_certificate("web", "tls", &Authority::new("Next CA").issue("web.example.com")).await;
    sync_by_secret(&world).with("spec.refreshInterval", "20m").apply().await;
    becomes_not_ready().await;
    assert_eq!(asked_by_syncs(&world, mark), []);
    let secret = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(secret.resource_version(), held.resource_version());
}

async fn a_credentials_secret_that_comes_later_wakes_the_sync(world: World) {
    let issued = issued(&world).await;
    let keys = world.assume(ACCOUNT, "web").await;
    world.with_role().await;
    sync_by_secret(&world).apply().await;
    let missing = world.becomes("vaultcertsync/web", "Ready", "False", "IdentityNotReady").await;
    assert!(missing.message.contains("no Secret `web-aws`"), "{}", missing.message);
    let begun = Instant::now();
    credentials(&world, "web-aws", &keys).apply().await;
    ready_soon(&world, "vaultcertsync/web", begun).await;
    world.delivered("web-tls", &issued).await;
}

async fn keys_in_a_secret_must_be_all_there(world: World) {
    issued(&world).await;
    let keys = world.assume(ACCOUNT, "web").await;
    world.with_role().await;
    let mark = world.mark();
    let manifest = credentials(&world, "web-aws", &keys);
    manifest.clone().without("stringData.aws_secret_access_key").apply().await;
    sync_by_secret(&world).apply().await;
    let ready = world.becomes("vaultcertsync/web", "Ready", "False", "IdentityNotReady").await;
    assert!(ready.message.contains("`aws_secret_access_key`"), "{}", ready.message);
    assert_eq!(asked_by_syncs(&world, mark), []);
    let begun = Instant::now();
    manifest.apply().await;
    ready_soon(&world, "vaultcertsync/web", begun).await;
}

async fn keys_of_somebody_else_give_no_certificates(world: World) {
    issued(&world).await;
    world.create_iam_role(ACCOUNT, "api").await;
    world.create_iam_role(OTHER_ACCOUNT, "web").await;
    let user = user(&world).await.keys;
    world.with_role().await;
    let mark = world.mark();
    // Each is somebody, but not whom the role is for.
    for (name, keys) in [
        ("user", user),
        ("role", world.assume(ACCOUNT, "api").await),
        ("account", world.assume(OTHER_ACCOUNT, "web").await),
    ] {
        credentials(&world, &format!("{name}-aws"), &keys).apply().await;
        let sync = world.sync(name).with("spec.roleRef.name", "web");
        sync.with("spec.identity.secretRef.name", format!("{name}-aws")).apply().await;
        let object = format!("vaultcertsync/{name}");
        world.becomes(&object, "Ready", "False", "LoginDenied").await;
        assert!(shown(&world, &keys) > 0, "Vault asked AWS who {name} is");
    }
    let requests = asked_by_syncs(&world, mark);
    assert!(requests.iter().all(VaultRequest::is_login), "{requests:?}");
    assert_eq!(secrets(&world).await, ["account-aws", "role-aws", "user-aws"]);
}

async fn keys_of_a_user_work_where_the_vault_role_is_managed_elsewhere(world: World) {
    let issued = issued(&world).await;
    let user = user(&world).await;
    let backend = world.backend();
    backend.apply().await;
    world.ready(&world.backend_ref()).await;
    // As somebody wrote it long ago, for a user instead of a role.
    let (kv, directory) = (world.kv_mount(), world.directory(ACCOUNT, "web"));
    let policy = format!(
        "path \"{kv}/data/{directory}/*\" {{\n  capabilities = [\"read\"]\n}}\n\
         path \"{kv}/metadata/{directory}/*\" {{\n  capabilities = [\"read\", \"list\"]\n}}\n"
    );
    let policy_name = format!("by-hand-{}", world.id);
    world.write(&format!("sys/policies/acl/{policy_name}"), json!({"policy": policy})).await;
    let role = json!({
        "auth_type": "iam",
        "bound_iam_principal_arn": [user.arn],
        "resolve_aws_unique_ids": false,
        "token_policies": [policy_name],
    });
    let vault_role = world.iam_role("web");
    world.write(&format!("auth/{}/role/{vault_role}", world.auth_mount()), role).await;

    credentials(&world, "web-aws", &user.keys).apply().await;
    let sync = sync_of(&world, "web", ACCOUNT, &vault_role);
    sync.with("spec.identity.secretRef.name", "web-aws").apply().await;
    world.ready("vaultcertsync/web").await;
    world.delivered("web-tls", &issued).await;
    assert_eq!(assumed(&world).len(), 0);
}

async fn the_key_id_of_another_tenant_gives_no_ride_on_his_session(world: World) {
    let issued = issued(&world).await;
    let name = "refusals::the_other_tenant";
    let other = World::new(Arc::clone(&world.stage), name).await;
    // Both may use the role: what keeps them apart is whose keys they have.
    let backend = world.backend();
    let names = json!([world.id, other.id]);
    backend.with("spec.tenancy.0.namespaces.names", names).apply().await;
    world.role("web").apply().await;
    let keys = world.assume(ACCOUNT, "web").await;
    credentials(&world, "web-aws", &keys).apply().await;
    sync_by_secret(&world).apply().await;
    world.ready("vaultcertsync/web").await;
    world.delivered("web-tls", &issued).await;

    // The same key id and session token, and a secret key that is not theirs: once in the other
    // namespace, once in the same one.
    let wrong = Keys { secret_key: "0".repeat(keys.secret_key.len()), ..keys.clone() };
    let mark = world.mark();
    let principal = json!({
        "backendRef": {"name": world.id},
        "accountId": ACCOUNT,
        "iamRole": world.iam_role("web"),
    });
    let thief = other.sync("web").with("spec.principal", principal);
    let thief = thief.with("spec.identity.secretRef.name", "web-aws");
    credentials(&other, "web-aws", &wrong).apply().await;
    thief.apply().await;
    credentials(&world, "second-aws", &wrong).apply().await;
    let second = world.sync("second").with("spec.roleRef.name", "web");
    second.with("spec.identity.secretRef.name", "second-aws").apply().await;
    for (world, sync) in [(&other, "web"), (&world, "second")] {
        let object = format!("vaultcertsync/{sync}");
        world.becomes(&object, "Ready", "False", "AwsCredentialsRefused").await;
        let status = world.sync_status(sync).await;
        assert_eq!(status.certificates, [], "nothing is told of what lies there");
    }
    let requests = asked_by_syncs(&world, mark);
    assert!(requests.len() >= 2 && requests.iter().all(VaultRequest::is_login), "{requests:?}");
    assert_eq!(secrets(&other).await, ["web-aws"]);
    assert_eq!(secrets(&world).await, ["second-aws", "web-aws", "web-tls"]);

    // The owner's session is as it was: he looks without another login.
    let mark = world.mark();
    world.look("web").await;
    world.ready("vaultcertsync/web").await;
    let requests = asked_by_syncs(&world, mark);
    let metadata = format!("{}/metadata/", world.kv_mount());
    assert!(requests.iter().any(|one| one.path.starts_with(&metadata)), "{requests:?}");

    // It was the secret key and nothing else that was wrong. The login is his own again.
    let mark = world.mark();
    credentials(&other, "web-aws", &keys).apply().await;
    other.ready("vaultcertsync/web").await;
    other.delivered("web-tls", &issued).await;
    let logins = asked_by_syncs(&world, mark).into_iter().filter(VaultRequest::is_login).count();
    assert!(logins >= 1, "two tenants shared a session");
}

async fn names_that_mean_something_else_to_vault_or_aws_are_refused_by_the_api_server(
    world: World,
) {
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    let mark = world.mark();
    let own = world.iam_role("web");
    let accounts = ["11122223333", "1111222233334", "11112222333x", "*", "", "{{account}}"];
    let roles = ["../x", "..", ".", "a/b", "a+b", "*", "web*", "a,b", "{{x}}", "a b", "a%2fb", ""];
    for account in accounts {
        let said = world.role("bad").with("spec.accountId", account).refused().await;
        assert!(said.contains("spec.accountId"), "{account}: {said}");
        let said = sync_of(&world, "bad", account, &own).refused().await;
        assert!(said.contains("spec.principal.accountId"), "{account}: {said}");
        let accounts = json!([account]);
        let said = world.backend().with("spec.tenancy.0.accounts", accounts).refused().await;
        assert!(said.contains("spec.tenancy[0].accounts[0]"), "{account}: {said}");
    }
    // A number would lose its zeros.
    let said = world.role("bad").with("spec.accountId", 111_122_223_333_u64).refused().await;
    assert!(said.contains("accountId"), "{said}");
    for role in roles {
        let said = world.role("bad").with("spec.iamRole", role).refused().await;
        assert!(said.contains("iamRole"), "{role}: {said}");
        let said = sync_of(&world, "bad", ACCOUNT, role).refused().await;
        assert!(said.contains("iamRole"), "{role}: {said}");
    }
    for role in ["../x", "a/b", "a+b", "*a", "a*b", "**", "a,b", "{{x}}", "a b", ""] {
        let roles = json!([role]);
        let said = world.backend().with("spec.tenancy.0.iamRoles", roles).refused().await;
        assert!(said.contains("spec.tenancy[0].iamRoles[0]"), "{role}: {said}");
    }
    for path in ["", "x", "/x", "//", "/../x", "/a b/", "/*/"] {
        let said = world.role("bad").with("spec.iamRolePath", path).refused().await;
        assert!(said.contains("spec.iamRolePath"), "{path}: {said}");
    }
    for name in ["../x", "a//b", "a/../b", "a%2fb", "a?b", "a#b", ""] {
        let include = json!([name]);
        let said = world.sync("bad").with("spec.certificates.include", include).refused().await;
        assert!(said.contains("spec.certificates.include[0]"), "{name}: {said}");
    }
    let both = json!({"assumeRole": {}, "secretRef": {"name": "x"}});
    let said = world.sync("bad").with("spec.identity", both).refused().await;
    assert!(said.contains("give one of"), "{said}");

    for object in ["vaultawsrole/bad", "vaultcertsync/bad"] {
        assert_eq!(world.get(object).await, None);
    }
    // What comes after them is all that Vault was asked for.
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    let role = format!("auth/{}/role/{own}", world.auth_mount());
    let policy = format!("sys/policies/acl/{}", world.policy_name(&own));
    // Each login carries it.
    let default = "sys/policies/acl/default".to_owned();
    for request in asked(&world, mark) {
        assert!([&role, &policy, &default].contains(&&request.path), "{request:?}");
    }
    assert_eq!(assumed(&world).len(), 0);
}

/// What is in Vault and Kubernetes of the role and sync `web`.
async fn everything(world: &World) -> (Option<Value>, Option<String>, Option<String>) {
    let role = world.iam_role("web");
    let secret = world.secret("web-tls").await;
    (
        world.vault_role(&role).await,
        world.vault_policy(&world.policy_name(&role)).await,
        secret.and_then(|secret| secret.resource_version()),
    )
}

async fn a_rule_that_is_withdrawn_stops_everything_and_keeps_everything(world: World) {
    issued(&world).await;
    world.with_web().await;
    let policy = world.policy_path("web");
    let before = everything(&world).await;
    let told = world.sync_status("web").await.certificates;

    let begun = Instant::now();
    let other = json!({"names": ["somebody-else"]});
    world.backend().with("spec.tenancy.0.namespaces", other).apply().await;
    for object in ["vaultawsrole/web", "vaultcertsync/web"] {
        denied(&world, object).await;
    }
    let took = begun.elapsed();
    assert!(took < SOON, "denied after {took:?}");
    assert_eq!(everything(&world).await, before);
    assert_eq!(world.sync_status("web").await.certificates, told);

    // Everything that would be work, and a pass of each that could do it.
    let mark = world.mark();
    let assumed_before = assumed(&world).len();
    let by_hand = format!("{}\n# changed by hand\n", before.1.as_ref().expect("the policy"));
    world.write(&policy, json!({"policy": by_hand})).await;
    let next = Authority::new("Next CA").issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.refresh("web").await;
    world.role("web").with("spec.driftInterval", "10m").apply().await;
    world.sync("web").with("spec.refreshInterval", "30m").apply().await;
    for object in ["vaultawsrole/web", "vaultcertsync/web"] {
        denied(&world, object).await;
    }
    assert_eq!(asked(&world, mark), []);
    assert_eq!(assumed(&world).len(), assumed_before);
    let writes = world.kubernetes_writes_since(mark);
    assert!(!writes.iter().any(|one| one.resource == "secrets"), "{writes:?}");
    assert_eq!(everything(&world).await, (before.0.clone(), Some(by_hand), before.2));

    // Granted again: as if nothing had been.
    let begun = Instant::now();
    world.backend().apply().await;
    for object in ["vaultawsrole/web", "vaultcertsync/web"] {
        ready_soon(&world, object, begun).await;
    }
    world.delivered("web-tls", &next).await;
    let after = everything(&world).await;
    assert_eq!((after.0, after.1), (before.0, before.1));
}

async fn a_namespace_that_loses_its_label_loses_what_the_label_granted(world: World) {
    let issued = issued(&world).await;
    let selector = json!({"selector": {"matchLabels": {"world": world.id}}});
    world.backend().with("spec.tenancy.0.namespaces", selector).apply().await;
    world.role("web").apply().await;
    world.sync("web").apply().await;
    world.ready("vaultcertsync/web").await;
    world.delivered("web-tls", &issued).await;
    let before = everything(&world).await;

    let namespace = format!("namespace/{}", world.id);
    let label = |value: Value| json!({"metadata": {"labels": {"world": value}}});
    let begun = Instant::now();
    world.patch(&namespace, label(Value::Null)).await;
    for object in ["vaultawsrole/web", "vaultcertsync/web"] {
        denied(&world, object).await;
    }
    let took = begun.elapsed();
    assert!(took < SOON, "denied after {took:?}");
    assert_eq!(everything(&world).await, before);

    let begun = Instant::now();
    world.patch(&namespace, label(json!(world.id))).await;
    for object in ["vaultawsrole/web", "vaultcertsync/web"] {
        ready_soon(&world, object, begun).await;
    }
    assert_eq!(everything(&world).await, before);
}
