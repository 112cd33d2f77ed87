//! What is ours in Vault is kept as declared; what is not ours is left alone.

use serde_json::{Value, json};

use crate::{
    audit::VaultRequest,
    manifest::Manifest,
    world::{PATIENCE, World},
};

tests![
    a_role_changed_by_hand_is_put_back_without_its_principal,
    a_policy_changed_by_hand_is_put_back_and_nothing_else,
    a_role_and_a_policy_deleted_by_hand_come_back,
    a_foreign_role_of_that_name_is_not_touched,
    a_foreign_policy_of_that_name_is_not_touched,
    of_two_resources_for_one_name_the_older_one_has_it,
];

/// Compared with Vault every ten seconds.
fn role(world: &World) -> Manifest {
    world.role("web").with("spec.driftInterval", "10s")
}

async fn declared(world: &World) {
    world.backend().apply().await;
    role(world).apply().await;
    world.ready("vaultawsrole/web").await;
}

/// Waits until Vault has what it had.
async fn put_back(world: &World, before: &(Option<Value>, Option<Value>)) {
    world
        .eventually("role and policy to be as before", PATIENCE, async || {
            (world.role_and_policy().await == *before).then_some(())
        })
        .await;
}

fn written(writes: &[VaultRequest]) -> Vec<&str> {
    writes.iter().map(|write| write.path.as_str()).collect()
}

async fn a_role_changed_by_hand_is_put_back_without_its_principal(world: World) {
    declared(&world).await;
    let before = world.role_and_policy().await;
    world.write(&world.role_path("web"), json!({"token_policies": ["default", "something"]})).await;
    let mark = world.mark();
    put_back(&world, &before).await;
    let writes = world.vault_writes_since(mark);
    assert_eq!(written(&writes), [world.role_path("web")]);
    // Sent again, it would be resolved again, and AWS asked.
    assert_eq!(writes[0].fields, ["token_policies"]);
    world
        .eventually("an event that says so", PATIENCE, async || {
            let events = world.events("vaultawsrole/web").await;
            events.into_iter().find(|(reason, _)| reason == "Corrected")
        })
        .await;
}

async fn a_policy_changed_by_hand_is_put_back_and_nothing_else(world: World) {
    declared(&world).await;
    let before = world.role_and_policy().await;
    let text = before.1.as_ref().expect("the policy")["policy"].as_str().expect("text").to_owned();
    let wider = text.replace(&world.iam_role("web"), "*");
    // The mark stays: it is still ours.
    let wider = [text.lines().next().unwrap_or_default(), &wider].join("\n");
    world.write(&world.policy_path("web"), json!({"policy": wider})).await;
    let mark = world.mark();
    put_back(&world, &before).await;
    assert_eq!(written(&world.vault_writes_since(mark)), [world.policy_path("web")]);
}

async fn a_role_and_a_policy_deleted_by_hand_come_back(world: World) {
    declared(&world).await;
    let before = world.role_and_policy().await;
    let role_id = |role: &Option<Value>| role.as_ref().map(|role| role["role_id"].clone());
    let mark = world.mark();
    for path in [world.role_path("web"), world.policy_path("web")] {
        assert_eq!(world.vault().delete(&path).await.expect("Vault").0, 204);
    }
    world
        .eventually("role and policy to be back", PATIENCE, async || {
            let (role, policy) = world.role_and_policy().await;
            (role.is_some() && policy == before.1).then_some(())
        })
        .await;
    // The policy first: the role must not name what is not there.
    assert_eq!(
        written(&world.vault_writes_since(mark)),
        [world.policy_path("web"), world.role_path("web")]
    );
    let after = world.role_and_policy().await;
    assert_ne!(role_id(&after.0), role_id(&before.0), "it is another role for Vault");
    world
        .eventually("the new role's ID in the status", PATIENCE, async || {
            let resource = world.get("vaultawsrole/web").await?;
            (Some(resource["status"]["roleId"].clone()) == role_id(&after.0)).then_some(())
        })
        .await;
}

async fn a_foreign_role_of_that_name_is_not_touched(world: World) {
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    world.write_foreign_role().await;
    let before = world.role_and_policy().await;
    conflict(&world).await;
    assert_eq!(world.role_and_policy().await, before, "and no policy was written either");
}

async fn a_foreign_policy_of_that_name_is_not_touched(world: World) {
    // Equal to the letter but for the mark: of another cluster.
    declared(&world).await;
    let (_, policy) = world.role_and_policy().await;
    let ours = policy.expect("the policy")["policy"].as_str().expect("text").to_owned();
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, (None, None));
    let theirs = ours.replace("cluster=lab", "cluster=another");
    world.write(&world.policy_path("web"), json!({"policy": theirs})).await;
    let before = world.role_and_policy().await;
    conflict(&world).await;
    assert_eq!(world.role_and_policy().await, before, "and no role was written either");

    // Nor is it taken away with the resource.
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, before);
}

/// Applies the role: it must be refused, and nothing be written.
async fn conflict(world: &World) {
    let mark = world.mark();
    role(world).apply().await;
    let ready = world.becomes("vaultawsrole/web", "Ready", "False", "Conflict").await;
    assert!(ready.message.contains("owned by another resource"), "{}", ready.message);
    assert_eq!(world.vault_writes_since(mark), []);
}

async fn of_two_resources_for_one_name_the_older_one_has_it(world: World) {
    declared(&world).await;
    let before = world.role_and_policy().await;
    let mark = world.mark();
    let second = role(&world).with("metadata.name", "second");
    second.apply().await;
    let ready = world.becomes("vaultawsrole/second", "Ready", "False", "Conflict").await;
    assert!(!ready.message.contains("vaultawsrole/web"), "{}", ready.message);
    assert_eq!(world.vault_writes_since(mark), []);
    // The loser takes nothing with it.
    world.delete("vaultawsrole/second").await;
    world.gone("vaultawsrole/second", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, before);
    // When the owner goes, its name is free for the next.
    second.apply().await;
    world.becomes("vaultawsrole/second", "Ready", "False", "Conflict").await;
    world.delete("vaultawsrole/web").await;
    world.ready("vaultawsrole/second").await;
}
