//! Which entries are certificates to deliver, and which version and which fields of them.

use serde_json::json;

use crate::{
    certificates::{Authority, Issued},
    world::{ACCOUNT, PATIENCE, World, text},
};

tests![
    directories_below_are_delivered_where_it_is_asked_for,
    more_certificates_than_the_limit_deliver_nothing,
    a_pinned_version_is_delivered_until_it_is_pinned_no_longer,
    an_override_names_fields_and_secret,
    two_entries_for_one_secret_are_both_refused_until_an_override_tells_them_apart,
    of_two_entries_for_one_secret_one_is_delivered_when_the_other_is_removed,
    a_version_deleted_on_purpose_is_kept_and_does_not_redden,
    a_suspended_sync_asks_nothing_and_writes_nothing,
    an_entry_made_anew_starts_at_version_one_and_is_delivered,
];

async fn backend_and_role(world: &World) -> Authority {
    world.backend().apply().await;
    world.role("web").apply().await;
    Authority::new("World CA")
}

async fn summary(world: &World, expected: &str) {
    world
        .eventually(&format!("{expected} certificates"), PATIENCE, async || {
            let status = world.sync_status("web").await;
            (status.summary.as_deref() == Some(expected)).then_some(())
        })
        .await;
}

fn pair(issued: &Issued) -> serde_json::Value {
    json!({"certificate": issued.certificate, "private_key": issued.key})
}

async fn directories_below_are_delivered_where_it_is_asked_for(world: World) {
    let authority = backend_and_role(&world).await;
    let (top, below) = (authority.issue("a.example.com"), authority.issue("b.example.com"));
    world.put_certificate("web", "top", &top).await;
    world.put_certificate("web", "eu/west/site", &below).await;
    world.put_certificate("web", "old/site", &below).await;
    world.sync("web").apply().await;
    world.delivered("web-top", &top).await;
    summary(&world, "1/1").await;
    let sync = world.sync("web").with("spec.certificates.recursive", true);
    sync.clone().with("spec.certificates.exclude", json!(["old/*"])).apply().await;
    world.delivered("web-eu-west-site", &below).await;
    summary(&world, "2/2").await;
    // By its path, without a list of anything.
    world.sync("web").with("spec.certificates.include", json!(["old/site"])).apply().await;
    world.delivered("web-old-site", &below).await;
    for path in ["/x", "x/", "a//b"] {
        world.sync("web").with("spec.certificates.include", json!([path])).refused().await;
    }
}

async fn more_certificates_than_the_limit_deliver_nothing(world: World) {
    let authority = backend_and_role(&world).await;
    let issued = authority.issue("web.example.com");
    for name in ["a", "b"] {
        world.put_certificate("web", name, &issued).await;
    }
    let sync = world.sync("web");
    sync.clone().with("spec.certificates.limit", 201).refused().await;
    sync.clone().with("spec.certificates.limit", 1).apply().await;
    let ready = world.becomes("vaultcertsync/web", "Ready", "False", "TooManyCertificates").await;
    assert!(ready.message.contains("2 certificates"), "{}", ready.message);
    assert!(world.secret("web-a").await.is_none());
    sync.clone().with("spec.certificates.limit", 2).apply().await;
    world.ready("vaultcertsync/web").await;
    world.delivered("web-a", &issued).await;
}

async fn a_pinned_version_is_delivered_until_it_is_pinned_no_longer(world: World) {
    let authority = backend_and_role(&world).await;
    let (first, second) = (authority.issue("web.example.com"), authority.issue("web.example.com"));
    world.put_certificate("web", "tls", &first).await;
    world.put_certificate("web", "tls", &second).await;
    let pinned = |version: u64| {
        let pin = json!([{"name": "tls", "version": version}]);
        world.sync("web").with("spec.certificates.overrides", pin)
    };
    pinned(1).apply().await;
    world.delivered("web-tls", &first).await;
    world.certificate_becomes("web", "tls", "Synced", None).await;
    assert_eq!(world.certificate("web", "tls").await.and_then(|one| one.version), Some(1));
    pinned(9).apply().await;
    world.certificate_becomes("web", "tls", "Kept", Some("VersionNotFound")).await;
    world.delivered("web-tls", &first).await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &second).await;
    // An older one again, without anybody touching Vault.
    pinned(1).apply().await;
    world.delivered("web-tls", &first).await;
}

async fn an_override_names_fields_and_secret(world: World) {
    let authority = backend_and_role(&world).await;
    let issued = authority.issue("web.example.com");
    let fields = json!({"ours": issued.certificate, "secret": issued.key, "trust": issued.root});
    world.put_entry(ACCOUNT, "web", "odd", fields).await;
    world.sync("web").apply().await;
    world.certificate_becomes("web", "odd", "Refused", Some("MissingField")).await;
    let odd = json!([{
        "name": "odd",
        "secretName": "front",
        "fields": {"certificate": "ours", "privateKey": "secret", "ca": "trust"},
    }]);
    world.sync("web").with("spec.certificates.overrides", odd.clone()).apply().await;
    let secret = world.delivered("front", &issued).await;
    assert_eq!(text(&secret, "ca.crt"), issued.root);
    // A field that is named must be there, and the Secret keeps what it has.
    let mut wrong = odd;
    wrong[0]["fields"]["chain"] = "nowhere".into();
    world.sync("web").with("spec.certificates.overrides", wrong).apply().await;
    world.certificate_becomes("web", "odd", "Kept", Some("MissingField")).await;
    world.delivered("front", &issued).await;
}

async fn two_entries_for_one_secret_are_both_refused_until_an_override_tells_them_apart(
    world: World,
) {
    let authority = backend_and_role(&world).await;
    let (first, second) = (authority.issue("a.example.com"), authority.issue("b.example.com"));
    world.put_certificate("web", "a_b", &first).await;
    world.put_certificate("web", "a.b-", &second).await;
    world.put_certificate("web", "A_b", &second).await;
    world.sync("web").apply().await;
    for name in ["a_b", "A_b"] {
        world.certificate_becomes("web", name, "Refused", Some("NameCollision")).await;
    }
    world.delivered("web-a.b", &second).await;
    assert!(world.secret("web-a-b").await.is_none());
    let cure = json!([{"name": "A_b", "secretName": "upper"}]);
    world.sync("web").with("spec.certificates.overrides", cure).apply().await;
    world.delivered("upper", &second).await;
    world.delivered("web-a-b", &first).await;
}

async fn of_two_entries_for_one_secret_one_is_delivered_when_the_other_is_removed(world: World) {
    let authority = backend_and_role(&world).await;
    let (first, second) = (authority.issue("a.example.com"), authority.issue("b.example.com"));
    world.put_certificate("web", "a_b", &first).await;
    world.sync("web").apply().await;
    let held = world.delivered("web-a-b", &first).await;
    world.put_certificate("web", "A_b", &second).await;
    world.refresh("web").await;
    for name in ["a_b", "A_b"] {
        world.certificate_becomes("web", name, "Refused", Some("NameCollision")).await;
    }
    assert_eq!(world.secret("web-a-b").await.as_ref(), Some(&held), "whose it is cannot be told");
    world.remove_entry("web", "A_b").await;
    world.refresh("web").await;
    world.certificate_becomes("web", "a_b", "Synced", None).await;
    world.ready("vaultcertsync/web").await;
    assert_eq!(world.secret("web-a-b").await.as_ref(), Some(&held));
    summary(&world, "1/1").await;
}

async fn a_version_deleted_on_purpose_is_kept_and_does_not_redden(world: World) {
    let authority = backend_and_role(&world).await;
    let issued = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.sync("web").apply().await;
    let before = world.delivered("web-tls", &issued).await;
    world.kv("delete", "web", "tls", json!({"versions": [1]})).await;
    world.refresh("web").await;
    world.certificate_becomes("web", "tls", "Kept", Some("SourceDeleted")).await;
    world.becomes("vaultcertsync/web", "Ready", "False", "SourceDeleted").await;
    world.sync("web").with("spec.certificates.acknowledge", json!(["tls"])).apply().await;
    world.certificate_becomes("web", "tls", "Kept", Some("Acknowledged")).await;
    world.ready("vaultcertsync/web").await;
    let after = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(after.metadata.resource_version, before.metadata.resource_version);
    world.kv("undelete", "web", "tls", json!({"versions": [1]})).await;
    world.refresh("web").await;
    world.certificate_becomes("web", "tls", "Synced", None).await;
}

async fn a_suspended_sync_asks_nothing_and_writes_nothing(world: World) {
    let authority = backend_and_role(&world).await;
    let (first, second) = (authority.issue("web.example.com"), authority.issue("web.example.com"));
    world.put_certificate("web", "tls", &first).await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &first).await;
    world.ready("vaultcertsync/web").await;
    world.sync("web").with("spec.suspend", true).apply().await;
    world.becomes("vaultcertsync/web", "Ready", "False", "Suspended").await;
    world.becomes("vaultcertsync/web", "Stalled", "True", "Suspended").await;
    world.put_certificate("web", "tls", &second).await;
    let mark = world.mark();
    world.refresh("web").await;
    world.delete("secret/web-tls").await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(world.secret("web-tls").await.is_none(), "nothing is put back");
    let asked = world.vault_requests_since(mark);
    let kv = format!("{}/", world.kv_mount());
    assert!(!asked.iter().any(|one| one.path.starts_with(&kv)), "{asked:?}");
    world.sync("web").apply().await;
    world.delivered("web-tls", &second).await;
}

async fn an_entry_made_anew_starts_at_version_one_and_is_delivered(world: World) {
    let authority = backend_and_role(&world).await;
    let (first, second) = (authority.issue("web.example.com"), authority.issue("web.example.com"));
    world.put_certificate("web", "tls", &first).await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &first).await;
    world.remove_entry("web", "tls").await;
    assert_eq!(world.put_certificate("web", "tls", &second).await, 1);
    world.refresh("web").await;
    world.delivered("web-tls", &second).await;
    let fields = pair(&first);
    world.put_entry(ACCOUNT, "web", "tls", fields).await;
    world.refresh("web").await;
    world.delivered("web-tls", &first).await;
}
