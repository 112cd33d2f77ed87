//! More certificates than one look has time, luck or token for: what was read is delivered, and the next
//! look goes on with the rest and does not begin again.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::ListParams};
use serde_json::json;
use vault_aws_lab::{Front, Reply};

use crate::{
    certificates::{Authority, Issued},
    stage::say,
    world::{PATIENCE, World, text},
};

tests![
    more_certificates_than_one_look_has_time_for_are_delivered_by_several,
    certificates_that_were_read_before_vault_failed_are_delivered,
    a_token_of_few_uses_delivers_many_certificates,
];

/// With one request in a second: more than one look has time for.
const MANY: usize = 46;
/// How long reading all of them once takes, and on a busy machine.
const ROUND: Duration = Duration::from_secs(MANY as u64 + 45);

/// How long each of these tests may take.
pub(crate) fn limit() -> Duration {
    ROUND * 3
}

fn name(number: usize) -> String {
    format!("c{number:02}")
}

/// A front, a role, and so many certificates for it; limited only afterwards.
async fn stock(world: &World, count: usize) -> (Front, Authority) {
    let front = Front::before_vault(&world.stage.lab).await.expect("a front");
    let authority = Authority::new("World CA");
    let issued = authority.issue("web.example.com");
    for number in 0..count {
        world.put_certificate("web", &name(number), &issued).await;
    }
    world.backend().with("spec.vault.address", front.url()).apply().await;
    (front, authority)
}

/// The certificates that are delivered.
async fn delivered(world: &World) -> BTreeMap<String, Secret> {
    let api = Api::<Secret>::namespaced(world.kube(), &world.id);
    let list = api.list(&ListParams::default()).await.expect("Secrets");
    let ours = list.items.into_iter().filter_map(|secret| {
        let entry = secret.metadata.name.as_deref()?.strip_prefix("web-")?.to_owned();
        Some((entry, secret))
    });
    ours.collect()
}

/// How often each entry was asked for, by its data or its metadata.
fn asked(front: &Front, kind: &str) -> BTreeMap<String, usize> {
    let mut asked = BTreeMap::new();
    for request in front.requests() {
        let path = request.path.split('?').next().unwrap_or_default();
        let (directory, entry) = path.rsplit_once('/').unwrap_or_default();
        if directory.contains(&format!("/{kind}/certs/")) && entry.starts_with('c') {
            *asked.entry(entry.to_owned()).or_default() += 1;
        }
    }
    asked
}

async fn all_hold(world: &World, names: &[String], issued: &Issued, limit: Duration) {
    let what = format!("{} Secrets with {}", names.len(), issued.serial);
    world
        .eventually(&what, limit, async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let held = delivered(world).await;
            let holds = |name: &String| {
                held.get(name).is_some_and(|secret| text(secret, "tls.key") == issued.key)
            };
            names.iter().all(holds).then_some(())
        })
        .await;
}

async fn more_certificates_than_one_look_has_time_for_are_delivered_by_several(world: World) {
    let (front, authority) = stock(&world, MANY).await;
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    let limited = world.backend().with("spec.vault.address", front.url());
    limited.with("spec.vault.rateLimit", json!({"requestsPerSecond": 1, "burst": 1})).apply().await;
    front.forget_requests();
    world.sync("web").apply().await;
    let ready = async || world.condition("vaultcertsync/web", "Ready").await;
    let first = world
        .eventually("the first look's report", ROUND, async || {
            ready().await.filter(|ready| ready.reason == "PartlyRead")
        })
        .await;
    assert_eq!(first.status, "False");
    let (status, held) = (world.sync_status("web").await, delivered(&world).await);
    say(&format!("the first look: {} of {MANY}; {}", held.len(), first.message));
    assert!(held.len() > MANY / 4 && held.len() < MANY, "{}", held.len());
    assert_eq!(status.summary, Some(format!("{}/{MANY}", status.certificates.len())));
    assert!(status.certificates.iter().all(|one| held.contains_key(&one.name)), "{status:?}");
    world
        .eventually("all of them", ROUND, async || {
            ready().await.filter(|ready| ready.status == "True")
        })
        .await;
    assert_eq!(delivered(&world).await.len(), MANY);
    let asked_for = asked(&front, "data");
    // One that was on its way when the time was over is asked for again.
    assert!(asked_for.values().sum::<usize>() <= MANY + 2, "nothing is read twice: {asked_for:?}");

    // Some are renewed, of those that are read last: all of that is looked at, and what is delivered
    // stays ready meanwhile.
    let next = authority.issue("web.example.com");
    let renewed: Vec<String> = (MANY - 4..MANY).map(name).collect();
    for name in &renewed {
        world.put_certificate("web", name, &next).await;
    }
    front.forget_requests();
    let asked_by = world.refresh("web").await;
    world
        .eventually("the look that was asked for", ROUND + ROUND, async || {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let ready = ready().await.expect("it was judged");
            assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Synced"));
            let status = world.sync_status("web").await;
            assert_eq!(status.summary, Some(format!("{MANY}/{MANY}")));
            (status.last_handled_refresh.as_ref() == Some(&asked_by)).then_some(())
        })
        .await;
    // It says so when it is true.
    all_hold(&world, &renewed, &next, Duration::from_secs(2)).await;
    let asked_for = asked(&front, "metadata");
    assert_eq!(asked_for.len(), MANY);
    assert!(asked_for.values().sum::<usize>() <= MANY + 2, "{asked_for:?}");
}

async fn certificates_that_were_read_before_vault_failed_are_delivered(world: World) {
    const COUNT: usize = 12;
    let (front, _) = stock(&world, COUNT).await;
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    // Something before Vault, that has no word of Vault's.
    front.answer(Reply::always(502, "").about(format!("/{}", name(5))));
    front.forget_requests();
    world.sync("web").apply().await;
    world.becomes("vaultcertsync/web", "Ready", "False", "VaultError").await;
    let status = world.sync_status("web").await;
    assert_eq!(status.summary, Some(format!("5/{COUNT}")));
    let held = delivered(&world).await;
    assert_eq!(held.keys().cloned().collect::<Vec<_>>(), (0..5).map(name).collect::<Vec<_>>());
    front.answer_normally();
    world
        .eventually("the others", PATIENCE * 2, async || {
            let ready = world.condition("vaultcertsync/web", "Ready").await?;
            (ready.status == "True").then_some(())
        })
        .await;
    assert_eq!(delivered(&world).await.len(), COUNT);
    let asked_for = asked(&front, "data");
    let before: Vec<_> = (0..5).map(|number| asked_for[&name(number)]).collect();
    assert_eq!(before, [1; 5], "what was read before is not read again");
}

async fn a_token_of_few_uses_delivers_many_certificates(world: World) {
    const COUNT: usize = 12;
    let (front, authority) = stock(&world, COUNT).await;
    // A list, three certificates, and one for the revocation.
    world.role("web").with("spec.token", json!({"numUses": 5})).apply().await;
    world.ready("vaultawsrole/web").await;
    front.forget_requests();
    world.sync("web").apply().await;
    world.ready("vaultcertsync/web").await;
    assert_eq!(delivered(&world).await.len(), COUNT);
    let asked_for = asked(&front, "data");
    assert_eq!(asked_for.values().sum::<usize>(), COUNT, "{asked_for:?}");
    let next = authority.issue("web.example.com");
    let names: Vec<String> = (0..COUNT).map(name).collect();
    for name in &names {
        world.put_certificate("web", name, &next).await;
    }
    world.refresh("web").await;
    all_hold(&world, &names, &next, PATIENCE).await;
}
