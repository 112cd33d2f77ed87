//! A certificate arrives when it changes, and a Secret is kept as it was delivered.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::SignedDuration;
use kube::ResourceExt as _;
use serde_json::json;

use crate::{
    certificates::Authority,
    world::{ACCOUNT, PATIENCE, World, now, text},
};

tests![
    a_rotated_certificate_is_one_write,
    a_rotated_certificate_arrives_by_itself_when_the_interval_has_passed,
    a_forced_refresh_takes_less_than_a_second,
    a_deleted_secret_comes_back_within_five_seconds,
    an_edited_secret_is_put_back_within_five_seconds,
    a_new_certificate_in_the_directory_gets_a_secret_of_its_own,
    what_others_add_to_a_secret_stays,
];

async fn a_rotated_certificate_is_one_write(world: World) {
    let (authority, _) = world.with_delivered().await;
    let before = world.secret("web-tls").await.expect("the Secret");
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    let mark = world.mark();
    let asked = world.refresh("web").await;
    let secret = world.delivered("web-tls", &next).await;
    assert_eq!(secret.uid(), before.uid(), "the same object");
    assert_eq!(text(&secret, "tls.key"), next.key);
    let status = world.looked("web", &asked).await;
    assert_eq!(status.certificates[0].version, Some(2));

    let writes = world.kubernetes_writes_since(mark);
    let of = |resource: &str| writes.iter().filter(|one| one.resource == resource).count();
    assert_eq!((of("secrets"), of("vaultcertsyncs/status")), (1, 1), "{writes:?}");
    let data: Vec<_> = world
        .vault_requests_since(mark)
        .into_iter()
        .filter(|one| one.path.starts_with(&format!("{}/data/", world.kv_mount())))
        .collect();
    assert_eq!(data.len(), 1, "the key was read once: {data:?}");
}

async fn a_rotated_certificate_arrives_by_itself_when_the_interval_has_passed(world: World) {
    let authority = Authority::new("World CA");
    let issued = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.backend().apply().await;
    world.role("web").apply().await;
    world.sync("web").with("spec.refreshInterval", "10s").apply().await;
    world.delivered("web-tls", &issued).await;
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.delivered("web-tls", &next).await;
}

async fn a_forced_refresh_takes_less_than_a_second(world: World) {
    let (authority, _) = world.with_delivered().await;
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    let mark = world.mark();
    let begun = now();
    world.refresh("web").await;
    world.delivered("web-tls", &next).await;
    // By the API server's own clock, since this test looks only ten times a second.
    let writes = world.kubernetes_writes_since(mark);
    let write = writes.iter().find(|one| one.resource == "secrets").expect("a write");
    let took = write.time.duration_since(begun);
    assert!(took < SignedDuration::from_secs(1), "{took:?}");
}

async fn a_deleted_secret_comes_back_within_five_seconds(world: World) {
    let (_, issued) = world.with_delivered().await;
    let before = world.secret("web-tls").await.expect("the Secret");
    // More than once: also right after it was written.
    let mut last = before.clone();
    for _ in 0..3 {
        let begun = Instant::now();
        world.delete("secret/web-tls").await;
        last = world
            .eventually("another Secret", Duration::from_secs(10), async || {
                world.secret("web-tls").await.filter(|secret| secret.uid() != last.uid())
            })
            .await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    world.delivered("web-tls", &issued).await;
    assert_eq!(last.data, before.data);
    assert_eq!(last.labels(), before.labels());
}

async fn an_edited_secret_is_put_back_within_five_seconds(world: World) {
    world.with_delivered().await;
    let before = world.secret("web-tls").await.expect("the Secret");
    let other = Authority::new("Somebody's CA").issue("web.example.com");
    for edit in [
        json!({"data": {
            "tls.crt": STANDARD.encode(&other.certificate),
            "tls.key": STANDARD.encode(&other.key),
        }}),
        json!({"data": {"ca.crt": null}}),
        json!({"metadata": {"labels": {"vaultaws.dev/sync": null}}}),
    ] {
        let begun = Instant::now();
        world.patch("secret/web-tls", edit.clone()).await;
        world
            .eventually(&format!("{edit} to be undone"), Duration::from_secs(10), async || {
                let secret = world.secret("web-tls").await?;
                (secret.data == before.data && secret.labels() == before.labels()).then_some(())
            })
            .await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    let after = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(after.uid(), before.uid());
}

async fn a_new_certificate_in_the_directory_gets_a_secret_of_its_own(world: World) {
    let (authority, first) = world.with_delivered().await;
    let before = world.secret("web-tls").await.expect("the Secret");
    let second = authority.issue("www.example.com");
    world.put_certificate("web", "www", &second).await;
    // A directory in the directory is not a certificate of it.
    let nested = json!({"certificate": first.certificate, "private_key": first.key});
    world.put_entry(ACCOUNT, "web", "deeper/tls", nested).await;
    world.refresh("web").await;
    world.delivered("web-www", &second).await;
    world
        .eventually("2/2", PATIENCE, async || {
            (world.sync_status("web").await.summary.as_deref() == Some("2/2")).then_some(())
        })
        .await;
    let after = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(after.resource_version(), before.resource_version(), "its neighbour is not written");
}

async fn what_others_add_to_a_secret_stays(world: World) {
    let (authority, _) = world.with_delivered().await;
    let edit = json!({"metadata": {
        "labels": {"team": "web"},
        "annotations": {"example.com/note": "kept"},
    }});
    world.patch("secret/web-tls", edit).await;
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.refresh("web").await;
    let secret = world.delivered("web-tls", &next).await;
    assert_eq!(secret.labels().get("team").map(String::as_str), Some("web"));
    let note = secret.annotations().get("example.com/note");
    assert_eq!(note.map(String::as_str), Some("kept"));
}
