//! What is deleted takes with it what it made, and nothing else, and never hangs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::events::v1::Event;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::json;
use vault_aws_lab::{Component, Installation, Operator};

use crate::{
    audit::{self, KubernetesRequest},
    certificates::Authority,
    grants::refusals_are_meant,
    manifest::secret,
    stage::{CLEANUP_TIMEOUT, say},
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
    a_namespace_that_goes_while_certificates_rotate_goes_quietly_and_the_rest_goes_on,
];

tests![in outage_tests:
    a_crd_that_is_removed_makes_the_operator_delete_nothing_and_all_goes_on_when_it_is_back,
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
    refusals_are_meant(&world);
    world.with_delivered().await;
    let namespace = format!("namespace/{}", world.id);
    world.delete(&namespace).await;
    world.gone(&namespace, COLLECTION).await;
    assert_eq!(world.role_and_policy().await, (None, None));
}

async fn a_namespace_that_goes_while_certificates_rotate_goes_quietly_and_the_rest_goes_on(
    world: World,
) {
    const SYNCS: usize = 10;
    const INTERVAL: Duration = Duration::from_secs(10);
    refusals_are_meant(&world);
    let neighbour = World::new(Arc::clone(&world.stage), "a neighbour of what goes").await;
    let authority = Authority::new("World CA");
    let rotate = async |world: &World| {
        let next = authority.issue("web.example.com");
        world.put_certificate("web", "tls", &next).await;
        next
    };
    let names: Vec<String> = (0..SYNCS).map(|number| format!("s{number}")).collect();
    for one in [&world, &neighbour] {
        let first = rotate(one).await;
        one.backend().apply().await;
        one.role("web").apply().await;
        for name in &names {
            let sync = one.sync(name).with("spec.roleRef.name", "web");
            sync.with("spec.refreshInterval", format!("{}s", INTERVAL.as_secs())).apply().await;
        }
        for name in &names {
            one.delivered(&format!("{name}-tls"), &first).await;
        }
    }
    let mark = world.mark();
    let namespace = format!("namespace/{}", world.id);
    world.delete(&namespace).await;
    let begun = Instant::now();
    let mut last = rotate(&neighbour).await;
    while world.get(&namespace).await.is_some() {
        assert!(begun.elapsed() < COLLECTION, "the namespace is still there");
        rotate(&world).await;
        last = rotate(&neighbour).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let gone = begun.elapsed();
    // The passes that were under way.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = world.mark();
    for name in &names {
        neighbour.delivered(&format!("{name}-tls"), &last).await;
        neighbour.becomes(&format!("vaultcertsync/{name}"), "Ready", "True", "Synced").await;
    }

    let asked = world.kubernetes_requests_since(mark);
    let created = asked.iter().filter(|one| one.verb == "create" && one.resource == "secrets");
    let (made, in_vain): (Vec<_>, Vec<_>) = created.partition(|one| one.code < 300);
    assert_eq!(made, Vec::<&KubernetesRequest>::new(), "nothing is made in what goes");
    // Of each Secret that went before its sync, and once again where the answer was not believed.
    assert!(in_vain.len() <= 2 * SYNCS, "{} creates in vain", in_vain.len());
    let refused = asked.iter().filter(|one| one.code >= 400 && one.verb != "watch").count();
    assert!(refused <= 8 * SYNCS, "{refused} refusals: {asked:?}");
    let deleted = asked.iter().filter(|one| one.verb.starts_with("delete")).count();
    assert_eq!(deleted, 0, "the namespace's controller deletes, nobody else");
    tokio::time::sleep(INTERVAL + Duration::from_secs(2)).await;
    let late: Vec<_> = world
        .vault_requests_since(after)
        .into_iter()
        .filter(|one| one.path.starts_with(&world.kv_mount()))
        .collect();
    assert_eq!(late, [], "nobody reads what nobody asks for any more");
    let late: Vec<_> = world.kubernetes_writes_since(after);
    assert!(late.len() <= SYNCS, "{late:?}");
    say(&format!(
        "a namespace with {SYNCS} syncs that rotate: gone after {:.1} s, {} creates in vain, {refused} \
         refusals in all",
        gone.as_secs_f64(),
        in_vain.len()
    ));
}

async fn a_crd_that_is_removed_makes_the_operator_delete_nothing_and_all_goes_on_when_it_is_back(
    world: World,
) {
    const CRD: &str = "vaultcertsyncs.vaultaws.dev";
    const AWAY: Duration = Duration::from_secs(30);
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.with_web().await;
    let retained = world.sync("kept").with("spec.roleRef.name", "web");
    let retained = retained.with("spec.target", json!({"deletionPolicy": "Retain"}));
    retained.apply().await;
    world.delivered("web-tls", &issued).await;
    let kept = world.delivered("kept-tls", &issued).await;
    world.ready("vaultcertsync/kept").await;
    let before = world.role_and_policy().await;
    let pids = world.stage.operators().map(Operator::pid);
    let mark = world.mark();

    // It takes all resources of its kind with it: so Kubernetes has it. Their Secrets go or stay: the
    // garbage collector gives up if it forgets the kind, twice a minute, before it has come to them.
    let begun = Instant::now();
    world.kubectl(&["delete", "crd", CRD, "--timeout=60s"]).await;
    for operator in world.stage.operators() {
        world
            .eventually("an operator without one of its kinds to say so", PATIENCE, async || {
                let (status, text) = operator.page("/readyz").await.ok()?;
                (status != 200 && text.contains("VaultCertSync")).then_some(())
            })
            .await;
    }
    tokio::time::sleep(AWAY.saturating_sub(begun.elapsed())).await;
    let away = begun.elapsed();
    for operator in world.stage.operators() {
        assert_eq!(operator.page("/healthz").await.expect("/healthz").0, 200);
    }
    // Events of the deliveries may still come: they are told some seconds later.
    let written = world.kubernetes_writes_since(mark).into_iter();
    let written: Vec<_> = written.filter(|one| one.resource != "events").collect();
    assert_eq!(written, [], "nothing was written or deleted");
    assert_eq!(world.vault_writes_since(mark), []);
    assert_eq!(world.role_and_policy().await, before);
    world.becomes("vaultawsrole/web", "Ready", "True", "Ready").await;
    assert_eq!(world.secret("kept-tls").await, Some(kept.clone()));
    let users = Component::ALL.map(Component::user);
    let log = world.stage.lab.audit_kube_path();
    let asked = audit::kubernetes(&log, mark.kubernetes, &users, audit::Stage::Ended);
    let asked = asked.expect("the audit log");
    let in_vain = asked.iter().filter(|one| one.resource == "vaultcertsyncs" && one.code == 404);
    let in_vain = in_vain.count();
    // Two processes, and each waits twice as long each time.
    assert!((2..=14).contains(&in_vain), "{in_vain} requests in {} s", away.as_secs());

    Installation::install_crds(&world.stage.lab).await.expect("the CRD is back");
    let back = Instant::now();
    for operator in world.stage.operators() {
        operator.ready(Duration::from_secs(75)).await.expect("it watches again");
    }
    let watched = back.elapsed();
    world.sync("next").with("spec.roleRef.name", "web").apply().await;
    world.delivered("next-tls", &issued).await;
    world.ready("vaultcertsync/next").await;
    assert_eq!(world.stage.operators().map(Operator::pid), pids, "without a restart");
    say(&format!(
        "a CRD removed for {:.0} s: {in_vain} requests in vain, watched again {:.1} s after it was back",
        away.as_secs_f64(),
        watched.as_secs_f64()
    ));
    // What was retained is nobody's until somebody adopts it.
    retained.apply().await;
    world.certificate_becomes("kept", "tls", "Refused", Some("SecretNotOurs")).await;
    let consent = json!({"metadata": {"annotations": {"vaultaws.dev/adopt-by": "kept"}}});
    world.patch("secret/kept-tls", consent).await;
    retained.with("spec.target.adopt", true).apply().await;
    world.ready("vaultcertsync/kept").await;
    let adopted = world.delivered("kept-tls", &issued).await;
    assert_eq!(adopted.uid(), kept.uid());
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
