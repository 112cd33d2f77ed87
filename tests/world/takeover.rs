//! What stands in Vault already: taken over, reported, left there, or left alone.

use serde_json::{Value, json};

use crate::{
    grants::refusals_are_meant,
    manifest::Manifest,
    world::{ACCOUNT, PATIENCE, World},
};

tests![
    what_is_equal_is_adopted_and_only_the_policy_written,
    what_differs_is_adopted_only_by_always,
    what_bears_the_mark_of_another_is_not_adopted,
    a_role_of_another_resource_is_not_adopted,
    a_role_of_another_name_is_taken_over_by_its_name,
    drift_that_is_only_reported_is_told_once_and_left,
    a_role_that_only_reports_writes_nothing_at_all,
    what_is_retained_stays_and_belongs_to_the_next_of_the_name,
    a_suspended_role_asks_nothing_and_writes_nothing,
    a_suspended_role_is_still_cleaned_up,
];

const ROLE: &str = "vaultawsrole/web";

fn role_path(world: &World, name: &str) -> String {
    format!("auth/{}/role/{name}", world.auth_mount())
}

fn policy_path(world: &World, name: &str) -> String {
    format!("sys/policies/acl/{}", world.policy_name(name))
}

/// A backend whose rule lets everything be adopted.
fn backend(world: &World) -> Manifest {
    world.backend().with("spec.tenancy.0.adopt", "Always")
}

/// A role and its policy as people write them: two rules, in another order and form.
async fn by_hand(world: &World, name: &str, changes: Value) {
    let (kv, directory) = (world.kv_mount(), world.directory(ACCOUNT, "web"));
    let policy = format!(
        "# certificates\n\
         path \"{kv}/metadata/{directory}/*\" {{ capabilities = [\"list\", \"read\"] }}\n\
         path \"{kv}/data/{directory}/*\" {{\n  capabilities = [\"read\", \"list\"]\n}}\n"
    );
    world.write(&policy_path(world, name), json!({"policy": policy})).await;
    let mut role = json!({
        "auth_type": "iam",
        "bound_iam_principal_arn": [world.iam_arn(ACCOUNT, "web")],
        "resolve_aws_unique_ids": false,
        "token_policies": [world.policy_name(name)],
    });
    for (key, value) in changes.as_object().into_iter().flatten() {
        role[key] = value.clone();
    }
    world.write(&role_path(world, name), role).await;
}

async fn prepared(world: &World, changes: Value) {
    backend(world).apply().await;
    world.ready(&world.backend_ref()).await;
    by_hand(world, &world.iam_role("web"), changes).await;
}

fn adopting(world: &World, adopt: &str) -> Manifest {
    world.role("web").with("spec.adopt", adopt)
}

async fn event(world: &World, reason: &str) -> String {
    world
        .eventually(&format!("the event {reason}"), PATIENCE, async || {
            let mut events = world.events(ROLE).await.into_iter();
            events.find(|(found, _)| found == reason).map(|(_, note)| note)
        })
        .await
}

async fn what_is_equal_is_adopted_and_only_the_policy_written(world: World) {
    prepared(&world, json!({})).await;
    let before = world.role_and_policy().await;
    let mark = world.mark();
    adopting(&world, "Never").apply().await;
    let told = world.becomes(ROLE, "Ready", "False", "Conflict").await;
    assert!(!told.message.contains("adopt"), "{}", told.message);
    assert_eq!(world.vault_writes_since(mark), []);

    adopting(&world, "IfEqual").apply().await;
    world.ready(ROLE).await;
    let paths: Vec<_> = world.vault_writes_since(mark).into_iter().map(|one| one.path).collect();
    assert_eq!(paths, [world.policy_path("web")]);
    let after = world.role_and_policy().await;
    assert_eq!(after.0, before.0, "not a field of the role was written");
    let policy = after.1.expect("the policy")["policy"].as_str().expect("text").to_owned();
    assert!(policy.starts_with("# vault-aws-operator v1 cluster=lab "), "{policy}");
    event(&world, "Adopted").await;
    // From now on it is ours, whatever adopt says.
    let mark = world.mark();
    adopting(&world, "Never").apply().await;
    world.ready(ROLE).await;
    assert_eq!(world.vault_writes_since(mark), []);
}

async fn what_differs_is_adopted_only_by_always(world: World) {
    // Whose mark a policy of somebody else bears is looked for, and need not be told.
    refusals_are_meant(&world);
    prepared(&world, json!({"token_ttl": "17m", "token_policies": ["default", "admin"]})).await;
    let before = world.role_and_policy().await;
    let mark = world.mark();
    adopting(&world, "IfEqual").apply().await;
    let told = world.becomes(ROLE, "Ready", "False", "Conflict").await;
    assert!(told.message.ends_with("these differ: token_policies, token_ttl"), "{}", told.message);
    assert_eq!(world.vault_writes_since(mark), []);
    assert_eq!(world.role_and_policy().await, before);

    // No rule, no reach.
    world.backend().with("spec.tenancy.0.adopt", "IfEqual").apply().await;
    adopting(&world, "Always").apply().await;
    world.becomes(ROLE, "Ready", "False", "TenancyDenied").await;
    assert_eq!(world.role_and_policy().await, before);

    backend(&world).apply().await;
    world.ready(ROLE).await;
    let role = world.role_and_policy().await.0.expect("the role");
    assert_eq!(role["token_ttl"], 0);
    assert_eq!(role["token_policies"], json!([world.policy_name(&world.iam_role("web"))]));
    let id = |role: &Option<Value>| role.as_ref().map(|role| role["role_id"].clone());
    assert_eq!(Some(role["role_id"].clone()), id(&before.0), "the same role for Vault");
    event(&world, "Adopted").await;
}

async fn what_bears_the_mark_of_another_is_not_adopted(world: World) {
    let name = world.iam_role("web");
    prepared(&world, json!({})).await;
    let mount = world.auth_mount();
    let mark_of = |role: &str| {
        let namespace = &world.id;
        format!(
            "# vault-aws-operator v1 cluster=another namespace={namespace} name=web uid=1 \
             role={mount}/{role}\n"
        )
    };
    let policy = world.role_and_policy().await.1.expect("the policy")["policy"]
        .as_str()
        .expect("text")
        .to_owned();
    let marked = mark_of(&name) + &policy;
    world.write(&policy_path(&world, &name), json!({"policy": marked})).await;
    let mark = world.mark();
    adopting(&world, "Always").apply().await;
    let told = world.becomes(ROLE, "Ready", "False", "Conflict").await;
    assert!(told.message.contains("mark of another owner"), "{}", told.message);
    assert!(!told.message.contains("cluster"), "whose it is is not told: {}", told.message);
    assert_eq!(world.vault_writes_since(mark), []);
}

async fn a_role_of_another_resource_is_not_adopted(world: World) {
    // Granted the same name by the rule, and older.
    let backend = backend(&world).with("spec.tenancy.0.names", json!(["*"]));
    backend.apply().await;
    world.role("web").apply().await;
    world.ready(ROLE).await;
    let before = world.role_and_policy().await;
    let mark = world.mark();
    let thief = adopting(&world, "Always").with("metadata.name", "thief");
    thief.with("spec.vaultName", world.iam_role("web").to_uppercase()).apply().await;
    world.becomes("vaultawsrole/thief", "Ready", "False", "Conflict").await;
    assert_eq!(world.vault_writes_since(mark), []);
    assert_eq!(world.role_and_policy().await, before);
}

async fn a_role_of_another_name_is_taken_over_by_its_name(world: World) {
    let legacy = format!("{}-legacy", world.id);
    let backend = backend(&world).with("spec.tenancy.0.names", json!([legacy.as_str()]));
    backend.apply().await;
    world.ready(&world.backend_ref()).await;
    by_hand(&world, &legacy, json!({})).await;
    let before = world.read(&role_path(&world, &legacy)).await;
    // As Vault folds it.
    let role = adopting(&world, "IfEqual").with("spec.vaultName", legacy.to_uppercase());
    role.apply().await;
    world.ready(ROLE).await;
    assert_eq!(world.read(&role_path(&world, &legacy)).await, before);
    let status = world.get(ROLE).await.expect("the role")["status"].take();
    assert_eq!(status["vaultRole"], legacy.as_str());
    assert_eq!(
        world.role_and_policy().await,
        (None, None),
        "nothing stands under the name it would have"
    );
    let client = world.log_in(ACCOUNT, "web", &legacy).await.expect("a login");
    let path = format!("{}/metadata/{}/", world.kv_mount(), world.directory(ACCOUNT, "web"));
    assert_eq!(client.list(&path).await.expect("Vault").0, 404, "allowed, and empty");
    world.delete(ROLE).await;
    world.gone(ROLE, PATIENCE).await;
    assert_eq!(world.read(&role_path(&world, &legacy)).await, None);
}

async fn drift_that_is_only_reported_is_told_once_and_left(world: World) {
    world.backend().apply().await;
    let role = world.role("web").with("spec.driftInterval", "10s");
    role.apply().await;
    world.ready(ROLE).await;
    let reporting = role.clone().with("spec.drift", "Report");
    reporting.apply().await;
    world.ready(ROLE).await;
    let name = world.iam_role("web");
    world.write(&role_path(&world, &name), json!({"token_ttl": "17m"})).await;
    let changed = world.role_and_policy().await;
    let mark = world.mark();
    let told = world.becomes(ROLE, "Ready", "False", "DriftFound").await;
    assert!(told.message.contains("token_ttl"), "{}", told.message);
    let reads = || {
        let requests = world.vault_requests_since(mark);
        requests.iter().filter(|one| one.path == role_path(&world, &name)).count()
    };
    let so_far = reads();
    world
        .eventually("two more passes", PATIENCE, async || (reads() >= so_far + 2).then_some(()))
        .await;
    let status = world.get(ROLE).await.expect("the role")["status"].take();
    assert_eq!(status["differs"], json!(["token_ttl"]));
    assert_eq!(world.vault_writes_since(mark), []);
    assert_eq!(world.role_and_policy().await, changed);
    event(&world, "DriftFound").await;
    let events = world.events(ROLE).await;
    assert_eq!(events.iter().filter(|(reason, _)| reason == "DriftFound").count(), 1);

    role.apply().await;
    world.ready(ROLE).await;
    assert_eq!(world.role_and_policy().await.0.expect("the role")["token_ttl"], 0);
    let status = world.get(ROLE).await.expect("the role")["status"].take();
    assert_eq!(status["differs"], Value::Null);
}

async fn a_role_that_only_reports_writes_nothing_at_all(world: World) {
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    let mark = world.mark();
    world.role("web").with("spec.drift", "Report").apply().await;
    let told = world.becomes(ROLE, "Ready", "False", "DriftFound").await;
    assert!(told.message.contains("policy, role"), "{}", told.message);
    assert_eq!(world.vault_writes_since(mark), []);
    world.role("web").apply().await;
    world.ready(ROLE).await;
    event(&world, "Created").await;
}

async fn what_is_retained_stays_and_belongs_to_the_next_of_the_name(world: World) {
    world.backend().apply().await;
    world.role("web").with("spec.deletionPolicy", "Retain").apply().await;
    world.ready(ROLE).await;
    let before = world.role_and_policy().await;
    let mark = world.mark();
    world.delete(ROLE).await;
    world.gone(ROLE, PATIENCE).await;
    assert_eq!(world.vault_writes_since(mark), []);
    assert_eq!(world.role_and_policy().await, before);

    world.role("web").apply().await;
    world.ready(ROLE).await;
    let after = world.role_and_policy().await;
    assert_eq!(after.0, before.0);
    world.delete(ROLE).await;
    world.gone(ROLE, PATIENCE).await;
    assert_eq!(world.role_and_policy().await, (None, None));
}

async fn a_suspended_role_asks_nothing_and_writes_nothing(world: World) {
    world.with_role().await;
    let suspended = world.role("web").with("spec.suspend", true);
    suspended.apply().await;
    world.becomes(ROLE, "Ready", "False", "Suspended").await;
    world.becomes(ROLE, "Stalled", "True", "Suspended").await;
    let name = world.iam_role("web");
    world.write(&role_path(&world, &name), json!({"token_ttl": "17m"})).await;
    let changed = world.role_and_policy().await;
    let mark = world.mark();
    suspended.with("spec.token.ttl", "1h").apply().await;
    world.becomes(ROLE, "Ready", "False", "Suspended").await;
    let mut requests = world.vault_requests_since(mark);
    requests.retain(|one| one.path.contains("/role/") || one.path.contains("/acl/"));
    assert_eq!(requests, []);
    assert_eq!(world.role_and_policy().await, changed);
    let status = world.get(ROLE).await.expect("the role")["status"].take();
    assert_eq!(status["vaultRole"], name.as_str(), "what is known of it is kept");
    world.role("web").apply().await;
    world.ready(ROLE).await;
    assert_eq!(world.role_and_policy().await.0.expect("the role")["token_ttl"], 0);
}

async fn a_suspended_role_is_still_cleaned_up(world: World) {
    world.with_role().await;
    world.role("web").with("spec.suspend", true).apply().await;
    world.becomes(ROLE, "Ready", "False", "Suspended").await;
    world.delete(ROLE).await;
    world.gone(ROLE, PATIENCE).await;
    assert_eq!(world.role_and_policy().await, (None, None));
}
