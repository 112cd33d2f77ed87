//! Another Vault behind the same address, and the same one as it once was: what the operator knew of it
//! is void, and what it delivered stays.

use std::{
    fs,
    time::{Duration, Instant},
};

use vault_aws_lab::{Front, installation};

use crate::{
    faults::Spoilt,
    grants::refusals_are_meant,
    managed,
    outages::{INTERVAL, delivered, rotate},
    stage::say,
    world::{ACCOUNT, PATIENCE, World},
};

tests![another_vault_at_the_address_is_told_and_given_its_roles_and_no_secret_is_lost];
tests![in outage_tests: a_vault_restored_from_a_snapshot_gets_back_what_it_lacks];

/// How many other roles there are.
const ROLES: usize = 8;
/// From the moment that an admin has prepared the other Vault until all is as before.
const CURED: Duration = Duration::from_secs(75);

fn name(number: usize) -> String {
    format!("r{number}")
}

/// Requests to a path that went well, of those that change something.
fn writes(front: &Front, path: &str) -> usize {
    let requests = front.requests().into_iter();
    let done = requests.filter(|one| (200..300).contains(&one.status) && one.path.contains(path));
    done.filter(|one| one.method == "POST" || one.method == "PUT").count()
}

async fn another_vault_at_the_address_is_told_and_given_its_roles_and_no_secret_is_lost(
    world: World,
) {
    refusals_are_meant(&world);
    let mut spoilt = Spoilt::new(&world).await;
    for number in 0..ROLES {
        world.create_iam_role(ACCOUNT, &name(number)).await;
        world.role(&name(number)).apply().await;
    }
    // A sync that deletes what was removed, and may.
    let allowed = installation::repository().join("deploy/tenant-delete/role.yaml");
    world.apply(&fs::read_to_string(allowed).expect("deploy/tenant-delete")).await;
    let old = spoilt.authority.issue("old.example.com");
    world.put_certificate("web", "old", &old).await;
    let strict = world.sync("strict").with("spec.roleRef.name", "web");
    let strict = strict.with("spec.target.onSourceRemoved", "Delete");
    strict.with("spec.refreshInterval", "10s").apply().await;
    let kept = world.delivered("strict-old", &old).await;
    world.refresh("web").await;
    world.delivered("web-old", &old).await;
    for object in ["vaultcertsync/strict", "vaultcertsync/web"] {
        world.ready(object).await;
    }
    for number in 0..ROLES {
        world.ready(&format!("vaultawsrole/{}", name(number))).await;
    }
    let backend = world.backend_ref();
    let id =
        async || world.get(&backend).await.expect("the backend")["status"]["vaultClusterId"].take();
    let first = id().await;

    let lab = &world.stage.lab;
    let other = lab.another_vault().await.expect("another Vault");
    let there = world.at(&other.vault);
    spoilt.front.lead_to(other.vault.addr());
    let begun = Instant::now();
    // It knows nobody.
    world.becomes(&backend, "Ready", "False", "LoginFailed").await;
    say(&format!("another Vault: LoginFailed after {:.1} s", begun.elapsed().as_secs_f64()));
    let (kind, note) = managed::told(&world, "VaultClusterChanged").await;
    assert_eq!(kind, "Warning");
    assert!(note.contains(first.as_str().expect("an ID")), "{note}");
    assert_ne!(id().await, first);
    for sync in ["web", "strict"] {
        world.refresh(sync).await;
        let object = format!("vaultcertsync/{sync}");
        world.becomes(&object, "Ready", "False", "LoginDenied").await;
    }
    spoilt.stands(&world, "another Vault").await;

    // An admin prepares it; one of the certificates is brought over, and the other is not.
    spoilt.front.forget_requests();
    installation::teach(lab, &other.vault).await.expect("the Kubernetes auth method");
    there.teach_vault().await;
    let next = spoilt.rotate(&there).await;
    let prepared = Instant::now();
    let limit = |what: &str| format!("{what} in the other Vault");
    world
        .eventually(&limit("the backend to be ready"), CURED, async || {
            world.condition(&backend, "Ready").await.filter(|ready| ready.status == "True")
        })
        .await;
    say(&format!("another Vault: backend ready {:.1} s after", prepared.elapsed().as_secs_f64()));
    for name in (0..ROLES).map(name).chain(["web".to_owned()]) {
        let role = world.iam_role(&name);
        world
            .eventually(&limit(&format!("role {role}")), PATIENCE, async || {
                there.vault_role(&role).await
            })
            .await;
        let text = there.vault_policy(&world.policy_name(&role)).await.expect("its policy");
        assert!(text.starts_with("# vault-aws-operator v1"), "{text}");
        let path = format!("auth/{}/role/{role}", world.auth_mount());
        assert_eq!(writes(&spoilt.front, &path), 1, "{path}");
    }
    say(&format!(
        "another Vault: {} roles {:.1} s after",
        ROLES + 1,
        prepared.elapsed().as_secs_f64()
    ));
    for secret in ["web-tls", "strict-tls"] {
        let what = limit(&format!("the next certificate in {secret}"));
        world
            .eventually(&what, CURED, async || {
                let secret = world.secret(secret).await?;
                (secret.data?.get("tls.key")?.0 == next.key.as_bytes()).then_some(())
            })
            .await;
    }
    say(&format!(
        "another Vault: the next certificate {:.1} s after",
        prepared.elapsed().as_secs_f64()
    ));
    // Both have one identity; a session from before the role's new ID was told is not gone on with.
    let logins = writes(&spoilt.front, &format!("auth/{}/login", world.auth_mount()));
    assert!((1..=2).contains(&logins), "{logins} logins for two IDs of one role");
    // What is not there was removed by nobody, however often it is looked for.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(6)).await;
        world.refresh("strict").await;
    }
    for sync in ["strict", "web"] {
        world.certificate_becomes(sync, "old", "Kept", Some("SourceAbsent")).await;
    }
    assert_eq!(world.secret("strict-old").await.as_ref(), Some(&kept), "byte for byte");

    // And back: the first one has all, and had nothing removed either.
    spoilt.front.forget_requests();
    spoilt.front.lead_to(&lab.vault_addr());
    let back = Instant::now();
    world
        .eventually("the first Vault to be known again", PATIENCE, async || {
            (id().await == first).then_some(())
        })
        .await;
    spoilt.secret = world.secret("web-tls").await.expect("the Secret");
    spoilt.goes_on(&world).await;
    world.certificate_becomes("strict", "old", "Synced", None).await;
    say(&format!("the first Vault again: {:.1} s", back.elapsed().as_secs_f64()));
    for number in 0..ROLES {
        let path = format!("auth/{}/role/{}", world.auth_mount(), world.iam_role(&name(number)));
        assert_eq!(writes(&spoilt.front, &path), 0, "{path} was as it should be");
    }
}

async fn a_vault_restored_from_a_snapshot_gets_back_what_it_lacks(world: World) {
    let lab = &world.stage.lab;
    let (authority, before) = delivered(&world).await;
    let first = world.secret("web-tls").await.expect("the Secret");
    let snapshot = lab.vault.snapshot().await.expect("a snapshot");

    // What comes afterwards will not be there.
    let second = rotate(&world, &authority).await;
    world.refresh("web").await;
    world.delivered("web-tls", &second).await;
    world.create_iam_role(ACCOUNT, "api").await;
    let issued = authority.issue("api.example.com");
    world.put_certificate("api", "tls", &issued).await;
    world.role("api").with("spec.driftInterval", INTERVAL).apply().await;
    let api = world.sync("api").with("spec.target.onSourceRemoved", "Delete");
    api.with("spec.refreshInterval", INTERVAL).apply().await;
    let held = world.delivered("api-tls", &issued).await;
    world.ready("vaultcertsync/api").await;

    lab.vault.restore(snapshot).await.expect("the snapshot is restored");
    lab.vault_unseal().await.expect("Vault is unsealed");
    let restored = Instant::now();
    assert_eq!(world.vault_role(&world.iam_role("api")).await, None, "it came later");
    // An older version is what the owner of the Vault wants now.
    world
        .eventually("the certificate of the snapshot", CURED, async || {
            let secret = world.secret("web-tls").await?;
            (secret.data == first.data).then_some(())
        })
        .await;
    let web = restored.elapsed().as_secs_f64();
    world
        .eventually("the role to be written again", CURED, async || {
            world.vault_role(&world.iam_role("api")).await
        })
        .await;
    let role = restored.elapsed().as_secs_f64();
    // Its directory is empty, and an empty directory removes nothing.
    world.certificate_becomes("api", "tls", "Kept", Some("SourceAbsent")).await;
    say(&format!(
        "restored from a snapshot: the older certificate after {web:.1} s, the lost role after \
         {role:.1} s, its session after {:.1} s",
        restored.elapsed().as_secs_f64()
    ));
    assert_eq!(world.secret("api-tls").await.as_ref(), Some(&held), "byte for byte");

    let again = authority.issue("api.example.com");
    world.put_certificate("api", "tls", &again).await;
    world.delivered("api-tls", &again).await;
    let next = rotate(&world, &authority).await;
    before.goes_on_with(&world, &next).await;
}
