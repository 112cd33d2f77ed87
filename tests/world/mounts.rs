//! What somebody takes away under the running operator in Vault: the certificates' mount, the auth mount,
//! the operator's own policy. Each is told by its reason, no Secret changes, and when it is back all goes
//! on, without a restart.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vault_aws_lab::{aws, installation::repository};

use crate::{
    certificates::Issued,
    faults::Spoilt,
    grants::refusals_are_meant,
    stage::say,
    world::{ACCOUNT, PATIENCE, World},
};

tests![
    a_certificates_mount_that_is_gone_loses_nothing_and_all_goes_on_when_it_is_back,
    entries_that_are_not_back_yet_in_a_mount_made_anew_were_not_removed,
    an_observed_auth_mount_that_is_dropped_is_told_and_gets_its_roles_when_it_is_made_again,
    a_managed_auth_mount_that_is_dropped_is_made_again_with_its_roles,
    a_policy_of_the_operator_that_was_weakened_is_told_and_syncs_go_on,
];

/// From the cure until all is as before, where the operator looks every half minute.
const CURED: Duration = Duration::from_secs(75);

/// What a backend that is asked says of the mounts.
async fn told(world: &World, reason: &str) -> String {
    world.refresh_backend().await;
    world.becomes(&world.backend_ref(), "Ready", "False", reason).await.message
}

/// Until an object is ready; how long that took since then.
async fn ready_again(world: &World, object: &str, since: Instant) -> f64 {
    world
        .eventually(&format!("{object} to be ready again"), CURED, async || {
            world.condition(object, "Ready").await.filter(|ready| ready.status == "True")
        })
        .await;
    since.elapsed().as_secs_f64()
}

/// Deletes as root what is there.
async fn drop_from_vault(world: &World, path: &str) {
    let (status, answer) = world.vault().delete(path).await.expect("Vault");
    assert_eq!(status, 204, "deleting {path}: {answer}");
}

/// Has the sync look, and waits until that has been answered, well or badly.
async fn look(world: &World, sync: &str, reason: &str) -> String {
    world.refresh(sync).await;
    world.becomes(&format!("vaultcertsync/{sync}"), "Ready", "False", reason).await.message
}

async fn a_certificates_mount_that_is_gone_loses_nothing_and_all_goes_on_when_it_is_back(
    world: World,
) {
    refusals_are_meant(&world);
    let mut spoilt = Spoilt::new(&world).await;
    drop_from_vault(&world, &format!("sys/mounts/{}", world.kv_mount())).await;

    let message = look(&world, "web", "VaultRefused").await;
    assert!(message.contains("no handler for route"), "{message}");
    let message = told(&world, "VaultDenied").await;
    assert!(message.contains(&world.kv_mount()), "{message}");
    spoilt.stands(&world, "without the mount").await;

    world.enable_kv().await;
    let back = Instant::now();
    let backend = ready_again(&world, &world.backend_ref(), back).await;
    // It is there, and empty: nothing was removed by anybody.
    look(&world, "web", "SourceAbsent").await;
    spoilt.stands(&world, "with an empty mount").await;
    let took = spoilt.goes_on(&world).await;
    world.ready("vaultawsrole/web").await;
    say(&format!(
        "KV mount gone: VaultRefused and VaultDenied; backend ready {backend:.1} s after it was back, \
         certificates {:.1} s after they were",
        took.as_secs_f64()
    ));
}

async fn entries_that_are_not_back_yet_in_a_mount_made_anew_were_not_removed(world: World) {
    let spoilt = Spoilt::new(&world).await;
    let allowed = repository().join("deploy/tenant-delete/role.yaml");
    world.apply(&std::fs::read_to_string(allowed).expect("deploy/tenant-delete")).await;
    let issued: Vec<Issued> =
        ["a", "b"].map(|name| spoilt.authority.issue(&format!("{name}.example.com"))).into();
    world.create_iam_role(ACCOUNT, "strict").await;
    for (name, issued) in ["a", "b"].iter().zip(&issued) {
        world.put_certificate("strict", name, issued).await;
    }
    world.role("strict").apply().await;
    let strict = world.sync("strict").with("spec.target.onSourceRemoved", "Delete");
    strict.with("spec.refreshInterval", "10s").apply().await;
    let mut held = Vec::new();
    for (name, issued) in ["a", "b"].iter().zip(&issued) {
        held.push(world.delivered(&format!("strict-{name}"), issued).await);
    }
    world.ready("vaultcertsync/strict").await;

    drop_from_vault(&world, &format!("sys/mounts/{}", world.kv_mount())).await;
    world.enable_kv().await;
    // Somebody writes them again, one by one, and takes his time.
    world.put_certificate("strict", "a", &issued[0]).await;
    // A refresh that met the moment without a mount would wait for half a minute.
    world.refresh("strict").await;
    world.certificate_becomes("strict", "b", "Kept", Some("SourceAbsent")).await;
    // Longer than it takes to confirm that an entry is gone.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(6)).await;
        world.refresh("strict").await;
    }
    world.certificate_becomes("strict", "b", "Kept", Some("SourceAbsent")).await;
    assert_eq!(world.secret("strict-b").await.as_ref(), Some(&held[1]), "byte for byte");

    world.put_certificate("strict", "b", &issued[1]).await;
    world.refresh("strict").await;
    world.certificate_becomes("strict", "b", "Synced", None).await;
    world.ready("vaultcertsync/strict").await;
    // All are found in the new mount: from now on one that goes was removed.
    world.remove_entry("strict", "b").await;
    world.refresh("strict").await;
    world.gone("secret/strict-b", PATIENCE).await;
    world.delivered("strict-a", &issued[0]).await;
}

/// What an admin writes for an auth mount that the operator only observes.
async fn make_auth_mount(world: &World) {
    world.write(&format!("sys/auth/{}", world.auth_mount()), json!({"type": "aws"})).await;
    let keys = &world.seeds().vault.keys;
    let config = json!({
        "access_key": keys.access_key, "secret_key": keys.secret_key,
        "sts_endpoint": world.stage.lab.sts_url(), "sts_region": aws::REGION,
        "iam_server_id_header_value": "127.0.0.1",
    });
    world.write(&format!("auth/{}/config/client", world.auth_mount()), config).await;
}

/// The ID that Vault gave the role `web`.
async fn role_id(world: &World) -> Option<Value> {
    let mut role = world.vault_role(&world.iam_role("web")).await?;
    Some(role["role_id"].take())
}

async fn an_observed_auth_mount_that_is_dropped_is_told_and_gets_its_roles_when_it_is_made_again(
    world: World,
) {
    refusals_are_meant(&world);
    make_auth_mount(&world).await;
    let spoilt = Spoilt::new(&world).await;
    let observed = crate::faults::backend(&world, &spoilt.front);
    let observed = observed.with("spec.auth.management", "Observed").without("spec.auth.client");
    observed.apply().await;
    for object in [world.backend_ref().as_str(), "vaultawsrole/web", "vaultcertsync/web"] {
        world.ready(object).await;
    }
    let mut spoilt = Spoilt { secret: world.secret("web-tls").await.expect("a Secret"), ..spoilt };
    let old = role_id(&world).await.expect("the role");

    drop_from_vault(&world, &format!("sys/auth/{}", world.auth_mount())).await;
    // To whoever has no token Vault does not say what there is.
    look(&world, "web", "LoginDenied").await;
    let message = told(&world, "MountNotFound").await;
    assert!(message.contains(&format!("auth/{}", world.auth_mount())), "{message}");
    world.becomes("vaultawsrole/web", "Ready", "False", "BackendNotReady").await;
    spoilt.stands(&world, "without the auth mount").await;

    make_auth_mount(&world).await;
    let back = Instant::now();
    let backend = ready_again(&world, &world.backend_ref(), back).await;
    let role = ready_again(&world, "vaultawsrole/web", back).await;
    let sync = ready_again(&world, "vaultcertsync/web", back).await;
    assert_ne!(role_id(&world).await.expect("the role is back"), old);
    spoilt.goes_on(&world).await;
    say(&format!(
        "auth mount dropped (Observed): MountNotFound; backend ready after {backend:.1} s, role after \
         {role:.1} s, sync after {sync:.1} s"
    ));
}

async fn a_managed_auth_mount_that_is_dropped_is_made_again_with_its_roles(world: World) {
    refusals_are_meant(&world);
    let mut spoilt = Spoilt::new(&world).await;
    let old = role_id(&world).await.expect("the role");
    drop_from_vault(&world, &format!("sys/auth/{}", world.auth_mount())).await;
    let dropped = Instant::now();
    // The operator looks at the configuration of the mount every half minute.
    world
        .eventually("the role to be back", CURED, async || {
            role_id(&world).await.filter(|id| *id != old)
        })
        .await;
    let role = dropped.elapsed().as_secs_f64();
    spoilt.stands(&world, "while the auth mount was made again").await;
    let took = spoilt.goes_on(&world).await;
    world.ready("vaultawsrole/web").await;
    say(&format!(
        "auth mount dropped (Managed): mount and role back after {role:.1} s, the next certificate \
         {:.1} s later",
        took.as_secs_f64()
    ));
}

async fn a_policy_of_the_operator_that_was_weakened_is_told_and_syncs_go_on(world: World) {
    refusals_are_meant(&world);
    let mut spoilt = Spoilt::new(&world).await;
    world.create_iam_role(ACCOUNT, "api").await;
    let weak = "path \"sys/auth\" {\n  capabilities = [\"read\"]\n}\n";
    for (what, text) in [("weakened", Some(weak)), ("dropped", None)] {
        for policy in [world.operator_policy(), world.bootstrap_policy()] {
            let path = format!("sys/policies/acl/{policy}");
            match text {
                Some(text) => drop(world.write(&path, json!({"policy": text})).await),
                None => drop_from_vault(&world, &path).await,
            }
        }
        told(&world, "VaultDenied").await;
        world.role("api").with("spec.suspend", false).apply().await;
        world.becomes("vaultawsrole/api", "Ready", "False", "BackendNotReady").await;
        spoilt.stands(&world, what).await;
        // A sync has a session of its own.
        let next = spoilt.rotate(&world).await;
        world.refresh("web").await;
        spoilt.secret = world.delivered("web-tls", &next).await;

        world.grant_vault(&world.backend()).await;
        let back = Instant::now();
        let backend = ready_again(&world, &world.backend_ref(), back).await;
        let role = ready_again(&world, "vaultawsrole/api", back).await;
        say(&format!(
            "operator's policy {what}: VaultDenied; backend ready {backend:.1} s, role {role:.1} s after \
             it was restored"
        ));
        world.delete("vaultawsrole/api").await;
        world.gone("vaultawsrole/api", PATIENCE).await;
    }
    spoilt.goes_on(&world).await;
}
