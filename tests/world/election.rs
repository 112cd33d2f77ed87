//! Two replicas of the syncer: one writes, the other waits, whatever happens to the first.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;
use vault_aws_lab::{Component, Operator};

use crate::{
    audit::{self, Mark},
    certificates::{Authority, Issued},
    stage::say,
    world::{PATIENCE, World},
};

tests![
    a_stopped_leader_hands_over_at_once,
    a_killed_leader_is_replaced_when_its_lease_ends_and_nothing_is_lost,
    a_leader_that_was_frozen_beyond_its_lease_writes_nothing_more,
    a_leader_without_the_api_server_keeps_its_place_if_nobody_takes_it,
];

/// The lease, and how often a standby looks.
const LEASE: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_secs(2);
/// A request, and a busy machine.
const MARGIN: Duration = Duration::from_secs(4);

/// How many syncs are in the making when something happens to the leader.
const CROWD: usize = 40;

async fn second(world: &World) -> Operator {
    let binary = Path::new(env!("CARGO_BIN_EXE_vault-aws"));
    let started = Operator::start_second(&world.stage.lab, Component::Syncer, binary).await;
    let second = started.expect("a second replica");
    second.ready(PATIENCE).await.expect("a standby is ready too");
    second
}

async fn leads(world: &World, replica: &Operator, limit: Duration) -> Duration {
    let begun = Instant::now();
    world
        .eventually("the replica to lead", limit, async || replica.leads().await.then_some(()))
        .await;
    begun.elapsed()
}

/// What a process changed in this world since then, by its own token: verb, resource and name.
fn writes(world: &World, replica: &Operator, since: Mark) -> Vec<(String, String, String)> {
    let log = world.stage.lab.audit_kube_path();
    let entries = audit::entries(&log, since.kubernetes).expect("the audit log");
    let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .filter(|event| event["stage"] == "ResponseComplete")
        .filter(|event| {
            let key = "authentication.kubernetes.io/credential-id";
            event["user"]["extra"][key][0] == replica.credential()
        })
        .filter(|event| event["objectRef"]["namespace"] == world.id.as_str())
        .filter(|event| event["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300))
        .map(|event| {
            let object = &event["objectRef"];
            (part(&event["verb"]), part(&object["resource"]), part(&object["name"]))
        })
        .filter(|(verb, ..)| !matches!(verb.as_str(), "get" | "list" | "watch"))
        // One that was on its way may arrive late: it tells of what had happened.
        .filter(|(_, resource, _)| resource != "events")
        .collect()
}

/// A backend, a role, a certificate, and one sync for each name.
async fn crowd(world: &World) -> Issued {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.backend().apply().await;
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    issued
}

async fn apply_syncs(world: &World) {
    for number in 0..CROWD {
        let sync = world.sync(&format!("s{number}")).with("spec.roleRef.name", "web");
        sync.with("spec.refreshInterval", "10s").apply().await;
    }
}

async fn all_delivered(world: &World, issued: &Issued) {
    for number in 0..CROWD {
        world.delivered(&format!("s{number}-tls"), issued).await;
    }
}

async fn a_stopped_leader_hands_over_at_once(world: World) {
    let issued = crowd(&world).await;
    let second = second(&world).await;
    assert!(world.stage.syncer.leads().await && !second.leads().await);
    let mark = world.mark();
    apply_syncs(&world).await;
    assert!(world.stage.syncer.stop().await.expect("a signal"), "it stops by itself");
    let took = leads(&world, &second, TICK + MARGIN).await;
    all_delivered(&world, &issued).await;
    once_each(&world, &[&world.stage.syncer, &second], mark);
    say(&format!("takeover after a stop: {:.1} s", took.as_secs_f64()));
    assert!(second.stop().await.expect("a signal"));
}

async fn a_killed_leader_is_replaced_when_its_lease_ends_and_nothing_is_lost(world: World) {
    let issued = crowd(&world).await;
    let second = second(&world).await;
    let mark = world.mark();
    apply_syncs(&world).await;
    world.stage.syncer.kill9().await.expect("a signal");
    let took = leads(&world, &second, LEASE + TICK + MARGIN).await;
    all_delivered(&world, &issued).await;
    once_each(&world, &[&world.stage.syncer, &second], mark);
    say(&format!("takeover after kill -9: {:.1} s", took.as_secs_f64()));
    assert!(second.stop().await.expect("a signal"));
}

async fn a_leader_that_was_frozen_beyond_its_lease_writes_nothing_more(world: World) {
    let issued = crowd(&world).await;
    let second = second(&world).await;
    let begin = world.mark();
    apply_syncs(&world).await;
    // In the middle of the crowd.
    world.eventually("the first Secret", PATIENCE, async || world.secret("s0-tls").await).await;
    world.stage.syncer.pause().expect("a signal");
    let took = leads(&world, &second, LEASE + TICK + MARGIN).await;
    all_delivered(&world, &issued).await;
    // What was on its way when it froze has been answered long ago.
    let mark = world.mark();
    world.stage.syncer.resume().expect("a signal");
    world
        .eventually("the first to find its lease lost", PATIENCE, async || {
            (!world.stage.syncer.is_alive()).then_some(())
        })
        .await;
    assert_eq!(writes(&world, &world.stage.syncer, mark), [], "written after the lease was lost");
    once_each(&world, &[&world.stage.syncer, &second], begin);
    say(&format!("takeover after SIGSTOP: {:.1} s", took.as_secs_f64()));
    assert!(second.stop().await.expect("a signal"));
}

async fn a_leader_without_the_api_server_keeps_its_place_if_nobody_takes_it(world: World) {
    let authority = Authority::new("World CA");
    let issued = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.with_web().await;
    world.delivered("web-tls", &issued).await;
    let pid = world.stage.syncer.pid();
    let apiserver = world.stage.lab.apiserver();
    apiserver.stop().await.expect("it stops");
    // Beyond the time in which a renewal must succeed.
    world
        .eventually("the leader to rest", LEASE, async || {
            (!world.stage.syncer.leads().await).then_some(())
        })
        .await;
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    apiserver.start().await.expect("it starts");
    leads(&world, &world.stage.syncer, PATIENCE).await;
    world.refresh("web").await;
    world.delivered("web-tls", &next).await;
    assert_eq!(world.stage.syncer.pid(), pid, "without a restart");
}

/// Each Secret of the crowd was created once, by whichever of them.
fn once_each(world: &World, replicas: &[&Operator], since: Mark) {
    let mut created: BTreeMap<String, usize> = BTreeMap::new();
    for replica in replicas {
        for (verb, resource, name) in writes(world, replica, since) {
            if resource == "secrets" {
                assert_eq!(verb, "create", "{name} was written again");
                *created.entry(name).or_default() += 1;
            }
        }
    }
    assert_eq!(created.len(), CROWD);
    assert!(created.values().all(|times| *times == 1), "{created:?}");
}
