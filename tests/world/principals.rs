//! Who may log in: users, ARNs with paths, prefixes, and IAM roles that were deleted and made again.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use vault_aws_lab::{TrustPolicy, aws};

use crate::{
    certificates::Authority,
    leaks,
    manifest::{Manifest, secret},
    world::{ACCOUNT, PATIENCE, World},
};

tests![
    a_user_gets_the_certificates_of_its_name,
    an_arn_with_a_path_logs_in_with_and_without_unique_ids,
    wildcards_wait_for_a_safe_version,
    an_account_that_vault_cannot_ask_is_told,
    a_recreated_iam_role_stays_out_until_it_is_bound_again,
    a_rebind_that_is_there_from_the_start_does_not_fire,
    logins_say_whether_the_principal_is_current,
    fifty_roles_with_unique_ids_are_written_once_each,
];

const ROLE: &str = "vaultawsrole/web";

/// Vault may ask [`ACCOUNT`].
fn backend(world: &World) -> Manifest {
    let reader = aws::role_arn(ACCOUNT, "vault-reader");
    let accounts = json!([{"accountId": ACCOUNT, "stsRoleArn": reader}]);
    world.backend().with("spec.auth.accounts", accounts)
}

fn unique(world: &World) -> Manifest {
    world.role("web").with("spec.resolveAwsUniqueIds", true)
}

async fn recreate(world: &World) {
    let name = world.iam_role("web");
    world.stage.lab.aws.delete_role(ACCOUNT, &name).await.expect("the IAM role");
    world.create_iam_role(ACCOUNT, "web").await;
}

/// Asks for the principals to be looked up again, and waits until that was acted on.
async fn rebind(world: &World, value: &str) {
    let patch = json!({"metadata": {"annotations": {"vaultaws.dev/rebind": value}}});
    world.patch(ROLE, patch).await;
    handled(world, value).await;
}

async fn handled(world: &World, value: &str) {
    world
        .eventually("the rebind to be handled", PATIENCE, async || {
            let role = world.get(ROLE).await?;
            (role["status"]["lastHandledRebind"] == value).then_some(())
        })
        .await;
}

async fn bound_ids(world: &World) -> serde_json::Value {
    world.get(ROLE).await.expect("the role")["status"]["boundPrincipalIds"].clone()
}

async fn a_user_gets_the_certificates_of_its_name(world: World) {
    let issued = Authority::new("World CA").issue("ada.example.com");
    world.put_certificate("ada", "tls", &issued).await;
    let may = aws::allow(&["sts:GetCallerIdentity"]);
    let name = world.iam_role("ada");
    let user = world.stage.lab.aws.create_user_with_keys(ACCOUNT, &name, &may).await;
    let user = user.expect("an IAM user");
    leaks::plant("AWS secret key", &user.keys.secret_key);
    let keys = json!({
        "aws_access_key_id": user.keys.access_key,
        "aws_secret_access_key": user.keys.secret_key,
    });
    let label = json!({"vaultaws.dev/use": "aws-credentials"});
    secret(&world, "keys", keys).with("metadata.labels", label).apply().await;
    world.backend().with("spec.tenancy.0.iamUsers", json!([world.iam_role("a*")])).apply().await;
    let role = world.role("ada").without("spec.iamRole").with("spec.iamUser", name.as_str());
    role.apply().await;
    world.ready("vaultawsrole/ada").await;
    let in_vault = world.vault_role(&name).await.expect("the role");
    assert_eq!(in_vault["bound_iam_principal_arn"], json!([user.arn]));

    // Nobody can assume a user.
    world.sync("ada").apply().await;
    let told = world.becomes("vaultcertsync/ada", "Ready", "False", "InvalidSpec").await;
    assert!(told.message.contains("IAM user"), "{}", told.message);
    world.sync("ada").with("spec.identity.secretRef.name", "keys").apply().await;
    world.delivered("ada-tls", &issued).await;
}

async fn an_arn_with_a_path_logs_in_with_and_without_unique_ids(world: World) {
    let trust = TrustPolicy {
        principal_arns: vec![world.seeds().operator.arn.clone()],
        external_id: Some(world.external_id()),
    };
    let name = world.iam_role("team");
    let created = world.stage.lab.aws.create_role(ACCOUNT, &name, "/team/x/", &trust).await;
    let arn = created.expect("an IAM role");
    assert!(arn.ends_with(&format!(":role/team/x/{name}")), "{arn}");
    backend(&world).apply().await;
    let both = json!([arn, world.iam_arn(ACCOUNT, "web")]);
    for unique_ids in [false, true] {
        let role = world.role("web").with("spec.principals", both.clone());
        role.with("spec.resolveAwsUniqueIds", unique_ids).apply().await;
        world.ready(ROLE).await;
        let role = world.vault_role(&world.iam_role("web")).await.expect("the role");
        let bound = if unique_ids { arn.clone() } else { aws::role_arn(ACCOUNT, &name) };
        let bound_all = role["bound_iam_principal_arn"].as_array().expect("a list");
        assert!(bound_all.contains(&json!(bound)), "{bound_all:?}");
        assert_eq!(bound_all.len(), 2);
        // The emulator gives a session the path of its role, which AWS does not: so by the role's keys
        // that have none, and by the IDs for the other.
        let logged_in = world.log_in(ACCOUNT, "web", &world.iam_role("web")).await;
        assert!(logged_in.is_ok(), "{:?}", logged_in.err());
        if unique_ids {
            let mut ids = Vec::new();
            for one in [&name, &world.iam_role("web")] {
                ids.push(world.stage.lab.aws.role_id(ACCOUNT, one).await.expect("an ID"));
            }
            let told = bound_ids(&world).await;
            let told = told.as_array().expect("a list");
            assert_eq!(told.len(), 2);
            assert!(ids.iter().all(|id| told.contains(&json!(id))), "{told:?} {ids:?}");
        }
    }
}

async fn wildcards_wait_for_a_safe_version(world: World) {
    let backend = world.backend().with("spec.tenancy.0.allowWildcardPrincipals", true);
    backend.apply().await;
    world.ready(&world.backend_ref()).await;
    let safe = world.condition(&world.backend_ref(), "VersionSafe").await.expect("a verdict");
    let mark = world.mark();
    let arn = world.iam_arn(ACCOUNT, "*");
    world.role("web").with("spec.principals", json!([arn])).apply().await;
    if safe.status == "True" {
        world.ready(ROLE).await;
        let role = world.vault_role(&world.iam_role("web")).await.expect("the role");
        assert_eq!(role["bound_iam_principal_arn"], json!([arn]));
    } else {
        let told = world.becomes(ROLE, "Ready", "False", "VersionUnsafe").await;
        assert!(told.message.contains("no wildcard principals"), "{}", told.message);
        assert_eq!(world.vault_writes_since(mark), []);
    }
}

async fn an_account_that_vault_cannot_ask_is_told(world: World) {
    world.backend().apply().await;
    unique(&world).apply().await;
    let ready = world
        .eventually("the account to be refused", PATIENCE, async || {
            let ready = world.condition(ROLE, "Ready").await?;
            ["NoStsConfiguration", "VersionUnsafe"].contains(&&*ready.reason).then_some(ready)
        })
        .await;
    assert!(ready.message.contains(ACCOUNT), "{}", ready.message);
    assert_eq!(world.vault_role(&world.iam_role("web")).await, None);
    backend(&world).apply().await;
    // The annotation wakes it; nobody tells a role of what Vault was given.
    let patch = json!({"spec": {"driftInterval": "20m"}});
    world.patch(ROLE, patch).await;
    world.ready(ROLE).await;
}

async fn a_recreated_iam_role_stays_out_until_it_is_bound_again(world: World) {
    backend(&world).apply().await;
    unique(&world).apply().await;
    world.ready(ROLE).await;
    let name = world.iam_role("web");
    world.log_in(ACCOUNT, "web", &name).await.expect("a login");
    let before = bound_ids(&world).await;
    let role_id = world.vault_role(&name).await.expect("the role")["role_id"].clone();

    recreate(&world).await;
    let mark = world.mark();
    let refused = world.log_in(ACCOUNT, "web", &name).await.expect_err("another role of the name");
    assert!(refused.contains("does not belong to the role"), "{refused}");
    // Looking again, and writing something else, leave it out.
    unique(&world).with("spec.token.ttl", "1h").apply().await;
    world.ready(ROLE).await;
    assert!(world.log_in(ACCOUNT, "web", &name).await.is_err());
    let writes = world.vault_writes_since(mark);
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert_eq!(writes[0].fields, ["token_ttl"]);
    assert_eq!(bound_ids(&world).await, before);

    let mark = world.mark();
    rebind(&world, "now").await;
    world.log_in(ACCOUNT, "web", &name).await.expect("a login");
    assert_ne!(bound_ids(&world).await, before);
    let role = world.vault_role(&name).await.expect("the role");
    assert_eq!(role["role_id"], role_id, "it is the same role for Vault");
    // Once, and not again with other changes.
    unique(&world).apply().await;
    world.ready(ROLE).await;
    let fields: Vec<_> =
        world.vault_writes_since(mark).into_iter().map(|write| write.fields).collect();
    assert_eq!(fields, [["bound_iam_principal_arn"], ["token_ttl"]]);
    world
        .eventually("an event that says so", PATIENCE, async || {
            let events = world.events(ROLE).await;
            events.into_iter().find(|(reason, _)| reason == "Rebound")
        })
        .await;
}

async fn a_rebind_that_is_there_from_the_start_does_not_fire(world: World) {
    // Even if the first passes can do nothing.
    let annotations = json!({"vaultaws.dev/rebind": "from the start"});
    unique(&world).with("metadata.annotations", annotations).apply().await;
    world.becomes(ROLE, "Ready", "False", "BackendNotFound").await;
    let mark = world.mark();
    backend(&world).apply().await;
    world.ready(ROLE).await;
    handled(&world, "from the start").await;
    let patch = json!({"spec": {"driftInterval": "20m"}});
    world.patch(ROLE, patch).await;
    world.ready(ROLE).await;
    let mut writes = world.vault_writes_since(mark);
    writes.retain(|write| write.path == world.role_path("web"));
    assert_eq!(writes.len(), 1, "{writes:?}");
}

/// The Secret by which the sync has a session of the IAM role of now.
async fn new_session(world: &World) {
    let keys = world.assume(ACCOUNT, "web").await;
    let token = keys.session_token.unwrap_or_default();
    leaks::plant("AWS secret key", &keys.secret_key);
    leaks::plant("AWS session token", &token);
    let keys = json!({
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
        "aws_session_token": token,
    });
    let label = json!({"vaultaws.dev/use": "aws-credentials"});
    secret(world, "keys", keys).with("metadata.labels", label).apply().await;
}

async fn logins_say_whether_the_principal_is_current(world: World) {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    backend(&world).apply().await;
    unique(&world).apply().await;
    world.ready(ROLE).await;
    world.becomes(ROLE, "PrincipalCurrent", "Unknown", "NoLoginSeen").await;
    new_session(&world).await;
    world.sync("web").with("spec.identity.secretRef.name", "keys").apply().await;
    world.becomes(ROLE, "PrincipalCurrent", "True", "LoginSeen").await;

    recreate(&world).await;
    new_session(&world).await;
    world.refresh("web").await;
    world.becomes("vaultcertsync/web", "Ready", "False", "LoginDenied").await;
    let told = world.becomes(ROLE, "PrincipalCurrent", "False", "PrincipalMismatch").await;
    assert!(told.message.contains("vaultaws.dev/rebind"), "{}", told.message);
    assert_eq!(world.condition(ROLE, "Ready").await.expect("Ready").status, "True");

    rebind(&world, "1").await;
    new_session(&world).await;
    world.becomes(ROLE, "PrincipalCurrent", "True", "LoginSeen").await;
    // Without unique IDs it is no question.
    world.role("plain").with("spec.iamRole", world.iam_role("plain")).apply().await;
    world.ready("vaultawsrole/plain").await;
    assert_eq!(world.condition("vaultawsrole/plain", "PrincipalCurrent").await, None);
}

async fn fifty_roles_with_unique_ids_are_written_once_each(world: World) {
    const ROLES: usize = 50;
    let names: Vec<String> = (0..ROLES).map(|number| format!("r{number:02}")).collect();
    for some in names.chunks(10) {
        join_all(some.iter().map(|name| world.create_iam_role(ACCOUNT, name))).await;
    }
    backend(&world).apply().await;
    world.ready(&world.backend_ref()).await;
    let mark = world.mark();
    let manifests: Vec<Manifest> =
        names.iter().map(|name| world.role(name).with("spec.resolveAwsUniqueIds", true)).collect();
    join_all(manifests.iter().map(Manifest::apply)).await;
    let limit = Duration::from_secs(60);
    world
        .eventually("all roles to be ready", limit, async || {
            let roles = world.list("vaultawsrole").await;
            let ready = roles.iter().filter(|role| {
                let conditions = role["status"]["conditions"].as_array();
                conditions.is_some_and(|all| {
                    all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
                })
            });
            (ready.count() == ROLES).then_some(())
        })
        .await;
    let writes = world.vault_writes_since(mark);
    for name in &names {
        let path = world.role_path(name);
        let count = writes.iter().filter(|write| write.path == path).count();
        assert_eq!(count, 1, "{path}");
    }
    assert_eq!(writes.len(), 2 * ROLES);
}
