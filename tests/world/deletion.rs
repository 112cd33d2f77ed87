//! What is deleted takes with it what it made, and nothing else, and never hangs.

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::json;

use crate::{
    certificates::Authority,
    manifest::secret,
    stage::CLEANUP_TIMEOUT,
    world::{PATIENCE, World},
};

tests![
    a_deleted_role_takes_role_and_policy_with_it,
    certificates_stay_when_their_role_is_deleted,
    a_foreign_role_outlives_the_resource_that_wanted_its_name,
    a_policy_that_became_foreign_outlives_its_resource,
    a_role_that_somebody_took_over_outlives_its_resource,
    a_deleted_sync_takes_its_secrets_with_it,
    a_namespace_with_role_and_sync_goes_away_completely,
];

tests![in outage_tests:
    a_role_deleted_while_vault_is_down_goes_when_it_is_back,
    a_role_deleted_while_vault_stays_down_is_let_go_with_an_event,
    a_role_that_goes_with_its_namespace_while_vault_is_down_is_told_of_at_its_backend,
];

/// How long the garbage collector may take: it learns of new kinds twice a minute.
const COLLECTION: Duration = Duration::from_secs(60);

/// Backend and role `web`, ready.
async fn declared(world: &World) {
    world.with_role().await;
    let role = world.get("vaultawsrole/web").await.expect("the VaultAwsRole");
    assert_eq!(role["metadata"]["finalizers"], json!(["vaultaws.dev/cleanup"]));
}

async fn a_deleted_role_takes_role_and_policy_with_it(world: World) {
    declared(&world).await;
    let (role, policy) = world.role_and_policy().await;
    assert!(role.is_some() && policy.is_some());
    let mark = world.mark();
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, (None, None));
    // The role first: while it stands, it must not name a policy that anybody could create.
    let writes = world.vault_writes_since(mark);
    let writes: Vec<(&str, &str)> =
        writes.iter().map(|write| (write.operation.as_str(), write.path.as_str())).collect();
    let (role, policy) = (world.role_path("web"), world.policy_path("web"));
    assert_eq!(writes, [("delete", role.as_str()), ("delete", policy.as_str())]);
}

async fn certificates_stay_when_their_role_is_deleted(world: World) {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.with_web().await;
    let before = world.delivered("web-tls", &issued).await;
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    world.becomes("vaultcertsync/web", "Ready", "False", "RoleNotFound").await;
    assert_eq!(world.secret("web-tls").await, Some(before));
    // And with the role all goes on.
    world.role("web").apply().await;
    world.ready("vaultcertsync/web").await;
}

async fn a_foreign_role_outlives_the_resource_that_wanted_its_name(world: World) {
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    world.write_foreign_role().await;
    let before = world.role_and_policy().await;
    world.role("web").apply().await;
    world.becomes("vaultawsrole/web", "Ready", "False", "Conflict").await;
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, before);
}

async fn a_policy_that_became_foreign_outlives_its_resource(world: World) {
    declared(&world).await;
    let text = world.vault_policy(&world.policy_name(&world.iam_role("web"))).await;
    let theirs = text.expect("the policy").replace("cluster=lab", "cluster=another");
    world.write(&world.policy_path("web"), json!({"policy": theirs})).await;
    let before = world.role_and_policy().await;
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    // The role holds a policy that is another's: that makes it another's too.
    assert_eq!(world.role_and_policy().await, before);
}

async fn a_role_that_somebody_took_over_outlives_its_resource(world: World) {
    declared(&world).await;
    // Another role of that name, which holds nothing of ours.
    assert_eq!(world.vault().delete(&world.role_path("web")).await.expect("Vault").0, 204);
    world.write_foreign_role().await;
    let (before, _) = world.role_and_policy().await;
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, (before, None), "the policy is ours and goes");
}

async fn a_deleted_sync_takes_its_secrets_with_it(world: World) {
    let authority = Authority::new("World CA");
    let (first, second) = (authority.issue("web.example.com"), authority.issue("www.example.com"));
    world.put_certificate("web", "tls", &first).await;
    world.put_certificate("web", "www", &second).await;
    world.with_web().await;
    world.delivered("web-tls", &first).await;
    world.delivered("web-www", &second).await;
    // By its name and labels it could be one of them.
    let labels = json!({
        "app.kubernetes.io/managed-by": "vault-aws-operator",
        "vaultaws.dev/sync": "web",
    });
    let another = secret(&world, "web-another", json!({"note": "kept"}));
    another.with("metadata.labels", labels).apply().await;
    let mark = world.mark();
    world.delete("vaultcertsync/web").await;
    world.gone("vaultcertsync/web", PATIENCE).await;
    for secret in ["secret/web-tls", "secret/web-www"] {
        world.gone(secret, COLLECTION).await;
    }
    assert!(world.secret("web-another").await.is_some());
    assert_eq!(world.vault_writes_since(mark), [], "the source is not the operator's to delete");
    world.ready("vaultawsrole/web").await;
}

async fn a_namespace_with_role_and_sync_goes_away_completely(world: World) {
    // The syncer's rights may go before its resources.
    crate::grants::refusals_are_meant(&world);
    world.with_delivered().await;
    let namespace = format!("namespace/{}", world.id);
    world.delete(&namespace).await;
    world.gone(&namespace, COLLECTION).await;
    assert_eq!(world.role_and_policy().await, (None, None));
}

async fn a_role_deleted_while_vault_is_down_goes_when_it_is_back(world: World) {
    declared(&world).await;
    world.stage.lab.vault_server().stop().await.expect("Vault stops");
    world.delete("vaultawsrole/web").await;
    world
        .eventually("the role to say what it waits for", PATIENCE, async || {
            let role = world.get("vaultawsrole/web").await.expect("the finalizer holds it");
            let conditions = role["status"]["conditions"].as_array()?;
            let says = |kind: &str, status: &str| {
                conditions.iter().any(|one| {
                    one["type"] == kind
                        && one["status"] == status
                        && one["reason"] == "VaultUnreachable"
                })
            };
            (says("Ready", "False") && says("Reconciling", "True")).then_some(())
        })
        .await;
    world.stage.lab.vault_server().start().await.expect("Vault starts");
    world.stage.lab.vault_unseal().await.expect("Vault is unsealed");
    world.gone("vaultawsrole/web", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, (None, None));
    let events = world.events("vaultawsrole/web").await;
    assert!(!events.iter().any(|(reason, _)| reason == "OrphanLeft"), "{events:?}");
}

async fn a_role_deleted_while_vault_stays_down_is_let_go_with_an_event(world: World) {
    declared(&world).await;
    let before = world.role_and_policy().await;
    let orphans = orphans(&world).await;
    world.stage.lab.vault_server().stop().await.expect("Vault stops");
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", CLEANUP_TIMEOUT + PATIENCE).await;
    let event = world
        .eventually("an event that says what is left", PATIENCE, async || {
            let events = world.events("vaultawsrole/web").await;
            events.into_iter().find(|(reason, _)| reason == "OrphanLeft")
        })
        .await;
    let role = world.iam_role("web");
    for name in [&role, &world.policy_name(&role)] {
        assert!(event.1.contains(&format!("`{name}`")), "{}", event.1);
    }
    assert_eq!(self::orphans(&world).await, orphans + 1, "and so does the metric");

    // It says the truth; and whoever declares the role again has it back.
    world.stage.lab.vault_server().start().await.expect("Vault starts");
    world.stage.lab.vault_unseal().await.expect("Vault is unsealed");
    assert_eq!(world.role_and_policy().await, before);
    declared(&world).await;
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, (None, None));
}

async fn a_role_that_goes_with_its_namespace_while_vault_is_down_is_told_of_at_its_backend(
    world: World,
) {
    declared(&world).await;
    world.stage.lab.vault_server().stop().await.expect("Vault stops");
    let namespace = format!("namespace/{}", world.id);
    world.delete(&namespace).await;
    world.gone(&namespace, CLEANUP_TIMEOUT + COLLECTION).await;
    // Events about what is in no namespace are in `default`.
    let events = Api::<Event>::namespaced(world.kube(), "default");
    let event = world
        .eventually("an event at the backend", PATIENCE, async || {
            let all = events.list(&ListParams::default()).await.ok()?;
            all.items.into_iter().find(|event| {
                let about = event.regarding.clone().unwrap_or_default();
                about.kind.as_deref() == Some("VaultAwsBackend")
                    && about.name.as_deref() == Some(&world.id)
                    && event.reason.as_deref() == Some("OrphanLeft")
            })
        })
        .await;
    let note = event.note.expect("a note");
    let role = world.iam_role("web");
    let who = format!("VaultAwsRole `{}/web`", world.id);
    for part in [&who, &format!("`{role}`"), &format!("`{}`", world.policy_name(&role))] {
        assert!(note.contains(part.as_str()), "{note}");
    }
    assert_eq!(event.type_.as_deref(), Some("Warning"));
}

/// How many roles were let go so far.
async fn orphans(world: &World) -> u64 {
    let metrics = world.stage.role_writer.metrics().await.expect("metrics");
    let line = metrics.lines().find(|line| line.starts_with("vault_aws_orphans_total{"));
    let count = line.and_then(|line| line.rsplit(' ').next());
    count.map_or(0, |count| count.parse().expect("a number"))
}
