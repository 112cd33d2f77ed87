//! Logins are dear, so tokens are shared by those who may share them, renewed while they can be, and
//! replaced when they cannot; and given back at the end.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DynamicObject, PostParams},
};
use serde_json::{Value, json};
use vault_aws_lab::installation::NAMESPACE;

use crate::{
    audit::Mark,
    certificates::{Authority, Issued},
    leaks,
    manifest::{api_of, secret},
    world::{ACCOUNT, PATIENCE, World},
};

tests![
    a_token_is_renewed_in_the_second_half_of_its_life,
    a_renewal_that_is_refused_is_a_login,
    a_batch_token_is_replaced_at_two_thirds,
    a_limited_token_is_replaced_when_its_uses_are_spent_and_given_back,
    a_token_without_the_default_policy_is_replaced_where_it_would_be_renewed,
    a_revoked_token_costs_one_login,
    a_forbidden_path_of_one_sync_costs_no_login,
    a_login_of_another_account_is_refused_and_given_back,
];

// The last one leaves the API server's garbage collector with work for a minute.
tests![in outage_tests:
    a_shutdown_gives_back_only_what_was_logged_in_for,
    a_thousand_syncs_that_start_together_cost_one_login,
];

/// How long a token lives in the tests that wait for its end.
const LIFE: &str = "30s";
/// Seconds after its login when it is too young to be renewed.
const YOUNG: u64 = 4;
/// When it is to be renewed, with time left for a busy machine.
const OLD: u64 = 19;
/// When it would be dead.
const DEAD: u64 = 32;
/// How many syncs start together.
const MANY: usize = 1000;
/// How long they may take.
const MANY_LIMIT: Duration = Duration::from_secs(100);

async fn a_thousand_syncs_that_start_together_cost_one_login(world: World) {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    let rate = json!({"requestsPerSecond": 10_000, "burst": 10_000});
    world.backend().with("spec.vault.rateLimit", rate).apply().await;
    world.ready(&world.backend_ref()).await;
    let mark = world.mark();
    let api = api_of(&world, "vaultcertsync");
    let created = stream::iter(0..MANY)
        .map(|number| {
            let one = world.sync(&format!("s{number}")).with("spec", waiting_for("web"));
            let one: DynamicObject = serde_json::from_value(one.value).expect("a manifest");
            let api = api.clone();
            async move { api.create(&PostParams::default(), &one).await.map(drop) }
        })
        .buffer_unordered(32);
    let created: Vec<_> = created.collect().await;
    assert!(created.iter().all(Result::is_ok), "{created:?}");
    world.becomes(&format!("vaultcertsync/s{}", MANY - 1), "Ready", "False", "RoleNotFound").await;
    // It is what all of them wait for.
    world.role("web").apply().await;
    let what = format!("{MANY} Secrets");
    world
        .eventually(&what, MANY_LIMIT, async || {
            tokio::time::sleep(Duration::from_millis(500)).await;
            (world.list("secret").await.len() == MANY).then_some(())
        })
        .await;
    assert_eq!(logins(&world, mark), 1);
    assert_eq!(tokens(&world).await.len(), 1);
}

/// Only the one certificate, of a role that is not there yet.
fn waiting_for(role: &str) -> Value {
    json!({"roleRef": {"name": role}, "certificates": {"include": ["tls"]}})
}

async fn a_token_is_renewed_in_the_second_half_of_its_life(world: World) {
    let mark = world.mark();
    delivered(&world, json!({"token_ttl": LIFE, "token_max_ttl": "1h"})).await;
    sleep(YOUNG).await;
    world.look("web").await;
    assert_eq!((logins(&world, mark), renewals(&world, mark)), (1, 0));
    sleep(OLD - YOUNG).await;
    world.look("web").await;
    assert_eq!((logins(&world, mark), renewals(&world, mark)), (1, 1));
    sleep(DEAD - OLD).await;
    world.look("web").await;
    // Without the renewal it would be dead by now. On a slow machine it may be due for another.
    assert_eq!(logins(&world, mark), 1);
    assert!(renewals(&world, mark) >= 1);
}

async fn a_renewal_that_is_refused_is_a_login(world: World) {
    let mark = world.mark();
    let token = json!({"token_ttl": LIFE, "token_max_ttl": "1h"});
    delivered(&world, token.clone()).await;
    let path = world.role_path("web");
    assert_eq!(world.vault().delete(&path).await.expect("Vault").0, 204);
    sleep(OLD).await;
    world.refresh("web").await;
    // The login is refused too: there is no such role.
    world.becomes("vaultcertsync/web", "Ready", "False", "LoginDenied").await;
    assert_eq!(renewals(&world, mark), 1);
    assert!(logins(&world, mark) > 1);
    write_role(&world, "web", token).await;
    world.ready("vaultcertsync/web").await;
}

async fn a_batch_token_is_replaced_at_two_thirds(world: World) {
    let mark = world.mark();
    delivered(&world, json!({"token_ttl": LIFE, "token_type": "batch"})).await;
    sleep(YOUNG).await;
    world.look("web").await;
    assert_eq!(logins(&world, mark), 1);
    sleep(OLD - YOUNG + 2).await;
    world.look("web").await;
    assert_eq!(logins(&world, mark), 2);
    // Both would be refused.
    assert_eq!((renewals(&world, mark), revocations(&world, mark)), (0, 0));
}

async fn a_limited_token_is_replaced_when_its_uses_are_spent_and_given_back(world: World) {
    let mark = world.mark();
    // The data at first, the metadata at the second look, and one for the revocation.
    delivered(&world, json!({"token_ttl": "1h", "token_num_uses": 3})).await;
    world.look("web").await;
    assert_eq!(logins(&world, mark), 1);
    world.look("web").await;
    assert_eq!(logins(&world, mark), 2);
    world
        .eventually("the used token to be given back", PATIENCE, async || {
            (tokens(&world).await.len() == 1).then_some(())
        })
        .await;
    assert_eq!(revocations(&world, mark), 1);
    for _ in 0..3 {
        world.look("web").await;
    }
    assert_eq!(logins(&world, mark), 3);
}

async fn a_token_without_the_default_policy_is_replaced_where_it_would_be_renewed(world: World) {
    let mark = world.mark();
    delivered(&world, json!({"token_ttl": LIFE, "token_no_default_policy": true})).await;
    sleep(OLD).await;
    world.look("web").await;
    assert_eq!((logins(&world, mark), renewals(&world, mark)), (2, 1));
}

async fn a_revoked_token_costs_one_login(world: World) {
    let mark = world.mark();
    delivered(&world, json!({"token_ttl": "1h"})).await;
    world.sync("other").with("spec", by_principal(&world, "web")).apply().await;
    world.ready("vaultcertsync/other").await;
    let [accessor] = &tokens(&world).await[..] else { panic!("one token") };
    world.write("auth/token/revoke-accessor", json!({"accessor": accessor})).await;
    tokio::join!(world.look("web"), world.look("other"));
    assert_eq!(logins(&world, mark), 2);
    // Again at once: this time they wait, as a token that dies again and again would be a storm.
    let [accessor] = &tokens(&world).await[..] else { panic!("one token") };
    world.write("auth/token/revoke-accessor", json!({"accessor": accessor})).await;
    world.refresh("web").await;
    world.refresh("other").await;
    sleep(5).await;
    assert_eq!(logins(&world, mark), 2);
}

async fn a_forbidden_path_of_one_sync_costs_no_login(world: World) {
    let mark = world.mark();
    let issued = delivered(&world, json!({"token_ttl": "1h"})).await;
    world.put_certificate("web", "denied", &issued).await;
    let mut spec = by_principal(&world, "web");
    spec["certificates"] = json!({"include": ["denied"]});
    world.sync("other").with("spec", spec).apply().await;
    world.certificate_becomes("other", "denied", "Refused", Some("SourceForbidden")).await;
    world.look("other").await;
    world.look("web").await;
    world.ready("vaultcertsync/web").await;
    assert_eq!(logins(&world, mark), 1);
    assert_eq!(tokens(&world).await.len(), 1);
}

async fn a_login_of_another_account_is_refused_and_given_back(world: World) {
    let mark = world.mark();
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    // Vault no longer says of which account a login is.
    let path = format!("auth/{}/config/identity", world.auth_mount());
    world.write(&path, json!({"iam_metadata": ["auth_type"]})).await;
    write_role(&world, "web", json!({"token_ttl": "1h"})).await;
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.sync("web").with("spec", by_principal(&world, "web")).apply().await;
    let ready = world.becomes("vaultcertsync/web", "Ready", "False", "SessionRefused").await;
    assert!(ready.message.contains(ACCOUNT), "{}", ready.message);
    assert_eq!(world.secret("web-tls").await, None);
    assert_eq!(tokens(&world).await, Vec::<String>::new());
    assert_eq!(logins(&world, mark), revocations(&world, mark));
    let asked = world.vault_requests_since(mark);
    let kv = format!("{}/", world.kv_mount());
    let read = asked.iter().filter(|one| one.operation == "read" && one.path.starts_with(&kv));
    assert!(read.clone().all(|one| one.path == format!("{kv}config")), "{asked:?}");
}

async fn a_shutdown_gives_back_only_what_was_logged_in_for(world: World) {
    world.put_certificate("web", "tls", &Authority::new("World CA").issue("web.example.com")).await;
    world.with_web().await;
    // Another backend, with a token that the admin made.
    let policies = [world.operator_policy()];
    let body = json!({"policies": policies, "ttl": "1h", "display_name": "given"});
    let given = world.write("auth/token/create", body).await;
    let token = given["auth"]["client_token"].as_str().expect("a token");
    leaks::plant("Vault token", token);
    let name = format!("{}-given", world.id);
    let keys = secret(&world, &name, json!({"token": token})).value;
    let keys: Secret = serde_json::from_value(keys).expect("a Secret");
    let api = Api::<Secret>::namespaced(world.kube(), NAMESPACE);
    api.create(&PostParams::default(), &keys).await.expect("the Secret is created");
    world
        .backend()
        .with("metadata.name", name.as_str())
        .with("spec.operatorLogin", json!({"tokenRef": {"name": name, "key": "token"}}))
        .with("spec.auth.management", "Observed")
        .without("spec.auth.client")
        .apply()
        .await;
    world.ready(&format!("vaultawsbackend/{name}")).await;

    let own = operator_tokens(&world).await;
    assert_eq!((own.len(), tokens(&world).await.len()), (1, 1));
    for operator in world.stage.operators() {
        assert!(operator.stop().await.expect("it stops"), "it was killed");
    }
    assert_eq!(operator_tokens(&world).await, Vec::<String>::new());
    assert_eq!(tokens(&world).await, Vec::<String>::new());
    let found = world.write("auth/token/lookup", json!({"token": token})).await;
    assert_eq!(found["data"]["display_name"], "token-given");
    for operator in world.stage.operators() {
        operator.start_again().await.expect("the operator starts");
        operator.ready(PATIENCE).await.expect("the operator is ready");
    }
}

// === what they stand on ===

/// A sync `web` that has delivered its one certificate by a Vault role that root made, with these
/// settings of tokens. The policy allows no other entry.
async fn delivered(world: &World, token: Value) -> Issued {
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    write_role(world, "web", token).await;
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.sync("web").with("spec", by_principal(world, "web")).apply().await;
    world.delivered("web-tls", &issued).await;
    world.ready("vaultcertsync/web").await;
    issued
}

/// A spec by principal, as the role is managed elsewhere.
fn by_principal(world: &World, iam_role: &str) -> Value {
    json!({
        "principal": {
            "backendRef": {"name": world.id},
            "accountId": ACCOUNT,
            "iamRole": world.iam_role(iam_role),
        },
        "certificates": {"include": ["tls"]},
    })
}

/// Writes as root what a VaultAwsRole would write, with these settings of tokens.
async fn write_role(world: &World, name: &str, token: Value) {
    let policy = format!("{}-by-root", world.id);
    let (mount, directory) = (world.kv_mount(), world.directory(ACCOUNT, name));
    let text = ["data", "metadata"]
        .map(|kind| {
            format!("path \"{mount}/{kind}/{directory}/tls\" {{capabilities = [\"read\"]}}")
        })
        .join("\n");
    world.write(&format!("sys/policies/acl/{policy}"), json!({"policy": text})).await;
    let mut role = json!({
        "auth_type": "iam",
        "bound_iam_principal_arn": [world.iam_arn(ACCOUNT, name)],
        "resolve_aws_unique_ids": false,
        "token_policies": [policy],
    });
    for (key, value) in token.as_object().expect("settings") {
        role[key] = value.clone();
    }
    let path = world.role_path(name);
    world.write(&path, role).await;
}

/// Logins at this world's AWS mount.
fn logins(world: &World, mark: Mark) -> usize {
    count(world, mark, &format!("auth/{}/login", world.auth_mount()))
}

fn renewals(world: &World, mark: Mark) -> usize {
    count(world, mark, "auth/token/renew-self")
}

fn revocations(world: &World, mark: Mark) -> usize {
    count(world, mark, "auth/token/revoke-self")
}

fn count(world: &World, mark: Mark, path: &str) -> usize {
    world.vault_requests_since(mark).iter().filter(|one| one.path == path).count()
}

/// Accessors of the living tokens of logins at this world's AWS mount.
async fn tokens(world: &World) -> Vec<String> {
    accessors(world, |data| data["path"] == format!("auth/{}/login", world.auth_mount())).await
}

/// Those of the operator's own logins for this world.
async fn operator_tokens(world: &World) -> Vec<String> {
    let policy = world.operator_policy();
    let path = "auth/kubernetes/login";
    accessors(world, |data| data["path"] == path && data["meta"]["role"] == policy.as_str()).await
}

async fn accessors(world: &World, wanted: impl Fn(&Value) -> bool) -> Vec<String> {
    let (status, answer) = world.vault().list("auth/token/accessors").await.expect("Vault");
    assert_eq!(status, 200, "{answer}");
    let mut found = Vec::new();
    for accessor in answer["data"]["keys"].as_array().expect("a list") {
        let body = json!({"accessor": accessor});
        let (status, answer) =
            world.vault().post("auth/token/lookup-accessor", &body).await.expect("Vault");
        // One that ended meanwhile is a 403 or a 404.
        if status == 200 && wanted(&answer["data"]) {
            found.push(accessor.as_str().expect("a text").to_owned());
        }
    }
    found
}

async fn sleep(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
