//! What servers do when they go away, and when they come back: who says so, and when; that Secrets
//! stay; and that nobody has to restart the operator.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use vault_aws_lab::Server;

use crate::{
    certificates::{Authority, Issued},
    manifest::Manifest,
    stage::say,
    world::{ACCOUNT, PATIENCE, World, now},
};

tests![
    a_stopped_vault_is_told_by_the_backend_at_once_and_by_syncs_in_time,
    a_sealed_vault_is_told_as_sealed_and_all_goes_on_when_it_is_unsealed,
    a_killed_vault_comes_back_sealed_and_then_all_goes_on,
    a_frozen_vault_is_told_and_all_goes_on_when_it_thaws,
    without_the_api_server_nothing_is_lost_and_changes_afterwards_are_seen,
    without_etcd_nothing_is_lost_and_changes_afterwards_are_seen,
    a_frozen_api_server_stops_all_writes_and_all_goes_on_when_it_thaws,
    a_frozen_etcd_stops_all_writes_and_all_goes_on_when_it_thaws,
    without_sts_sessions_go_on_and_new_ones_wait,
    many_that_wait_for_sts_ask_it_seldom_and_have_it_soon_when_it_is_back,
];

/// How long the backend may take to say that Vault is down: it looks every five seconds.
const NOTICE: Duration = Duration::from_secs(10);
/// From the end of an outage until all is as before.
pub(crate) const RECOVERY: Duration = Duration::from_secs(15);
/// How long the API server or its store is frozen: longer than a lease lasts, and than a leader may write
/// without renewing it.
const FROZEN: Duration = Duration::from_secs(30);
/// From the thaw until all is as before: a watch that was opened before may have to be given up first.
const THAW: Duration = Duration::from_secs(60);
/// How often the tests' syncs look at Vault: as often as they can.
pub(crate) const INTERVAL: &str = "10s";

/// How things stood before an outage.
pub(crate) struct Before {
    pids: [Option<u32>; 2],
    /// Status of the role.
    role: Value,
    secret: Secret,
}

impl Before {
    async fn take(world: &World) -> Self {
        Self {
            pids: world.stage.operators().map(|operator| operator.pid()),
            role: role_status(world).await,
            secret: world.secret("web-tls").await.expect("the Secret"),
        }
    }

    /// What an outage must leave alone: the role, which is ready and was not written, and the Secret.
    async fn still_stands(&self, world: &World) {
        assert_eq!(role_status(world).await, self.role);
        assert_eq!(world.secret("web-tls").await.as_ref(), Some(&self.secret));
        self.same_processes(world).await;
    }

    /// Nobody restarted the operator, and nobody would have: it says that it is alive.
    async fn same_processes(&self, world: &World) {
        let operators = world.stage.operators();
        assert_eq!(operators.map(|operator| operator.pid()), self.pids);
        for operator in operators {
            let (status, text) = operator.page("/healthz").await.expect("/healthz");
            assert_eq!(status, 200, "{}: {text}", operator.component().name());
        }
    }

    /// The sync has brought the next certificate, into the same Secret, and says that all is well.
    pub(crate) async fn goes_on_with(&self, world: &World, next: &Issued) {
        for object in [world.backend_ref().as_str(), "vaultawsrole/web"] {
            becomes(world, RECOVERY, object, "Ready", "True", "Ready").await;
        }
        let secret = world.delivered("web-tls", next).await;
        assert_eq!(secret.uid(), self.secret.uid(), "the same object");
        becomes(world, RECOVERY, "vaultcertsync/web", "Ready", "True", "Synced").await;
        becomes(world, RECOVERY, "vaultcertsync/web", "Stale", "False", "Fresh").await;
        self.same_processes(world).await;
    }
}

/// Backend, role and sync `web`, which look often, and one certificate, delivered.
pub(crate) async fn delivered(world: &World) -> (Authority, Before) {
    delivered_by(world, world.backend()).await
}

/// The same with this backend.
async fn delivered_by(world: &World, backend: Manifest) -> (Authority, Before) {
    let authority = Authority::new("World CA");
    let issued = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    backend.apply().await;
    world.role("web").with("spec.driftInterval", INTERVAL).apply().await;
    world.sync("web").with("spec.refreshInterval", INTERVAL).apply().await;
    for object in [world.backend_ref().as_str(), "vaultawsrole/web", "vaultcertsync/web"] {
        world.ready(object).await;
    }
    world.delivered("web-tls", &issued).await;
    let before = Before::take(world).await;
    (authority, before)
}

async fn role_status(world: &World) -> Value {
    let role = world.get("vaultawsrole/web").await.expect("the VaultAwsRole");
    role["status"].clone()
}

/// Waits so long, and no longer, until a condition is as said.
async fn becomes(
    world: &World,
    limit: Duration,
    object: &str,
    kind: &str,
    status: &str,
    reason: &str,
) {
    let what = format!("{object} to be {kind}={status} {reason}");
    world
        .eventually(&what, limit, async || {
            let found = world.condition(object, kind).await?;
            (found.status == status && found.reason == reason).then_some(())
        })
        .await;
}

/// The backend says so at once.
async fn backend_says(world: &World, reason: &str) {
    let backend = world.backend_ref();
    becomes(world, NOTICE, &backend, "Ready", "False", reason).await;
    becomes(world, NOTICE, &backend, "Reachable", "False", reason).await;
}

/// When a condition became what it is.
async fn since(world: &World, object: &str, kind: &str) -> Timestamp {
    let object = world.get(object).await.expect("the object");
    let conditions = object["status"]["conditions"].as_array().expect("conditions");
    let condition = conditions.iter().find(|one| one["type"] == kind).expect("the condition");
    condition["lastTransitionTime"].as_str().expect("a time").parse().expect("a time")
}

/// Asserts that it became so between these seconds after two moments; conditions know whole seconds.
fn assert_between(what: &str, at: Timestamp, earliest: (Timestamp, i64), latest: (Timestamp, i64)) {
    let earliest = earliest.0 + SignedDuration::from_secs(earliest.1 - 1);
    let latest = latest.0 + SignedDuration::from_secs(latest.1);
    assert!(earliest <= at && at <= latest, "{what}: {at} is not from {earliest} to {latest}");
}

/// Starts Vault, which then is sealed, and unseals it.
async fn start_vault(world: &World) {
    world.stage.lab.vault_server().start().await.expect("Vault starts");
    world.stage.lab.vault_unseal().await.expect("Vault is unsealed");
}

/// Rotates the certificate of `web`.
pub(crate) async fn rotate(world: &World, authority: &Authority) -> Issued {
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    next
}

async fn a_stopped_vault_is_told_by_the_backend_at_once_and_by_syncs_in_time(world: World) {
    // Several, that ask in vain again and again: no one of them may be in another's way afterwards.
    const LATE: [&str; 3] = ["late-1", "late-2", "late-3"];
    let (authority, before) = delivered(&world).await;
    let asked = world.refresh("web").await;
    let read_after = now();
    world.looked("web", &asked).await;
    world.stage.lab.vault_server().stop().await.expect("Vault stops");
    let stopped = now();

    backend_says(&world, "VaultUnreachable").await;
    // What was never delivered has no last good state, and says so.
    for late in LATE {
        world.sync(late).with("spec.roleRef.name", "web").apply().await;
        let late = format!("vaultcertsync/{late}");
        world.becomes(&late, "Ready", "False", "VaultUnreachable").await;
    }
    before.still_stands(&world).await;

    // One missed interval.
    let sync = "vaultcertsync/web";
    world.becomes(sync, "Stale", "True", "Stale").await;
    let stale = since(&world, sync, "Stale").await;
    assert_between("stale", stale, (read_after, 10), (stopped, 10 + 4));
    // Three.
    world.becomes(sync, "Ready", "False", "VaultUnreachable").await;
    let red = since(&world, sync, "Ready").await;
    assert_between("not ready", red, (read_after, 30), (stopped, 30 + 6));
    before.still_stands(&world).await;

    start_vault(&world).await;
    let next = rotate(&world, &authority).await;
    before.goes_on_with(&world, &next).await;
    for late in LATE {
        becomes(&world, RECOVERY, &format!("vaultcertsync/{late}"), "Ready", "True", "Synced")
            .await;
        world.delivered(&format!("{late}-tls"), &next).await;
    }
    assert_eq!(role_status(&world).await, before.role, "the role was ready all the time");
}

async fn a_sealed_vault_is_told_as_sealed_and_all_goes_on_when_it_is_unsealed(world: World) {
    let (authority, before) = delivered(&world).await;
    world.create_iam_role(ACCOUNT, "api").await;
    world.stage.lab.vault_seal().await.expect("Vault is sealed");
    backend_says(&world, "VaultSealed").await;
    world.role("api").apply().await;
    world.becomes("vaultawsrole/api", "Ready", "False", "BackendNotReady").await;
    world.becomes("vaultcertsync/web", "Stale", "True", "Stale").await;
    assert_eq!(ready(&world, "vaultcertsync/web").await, "True");
    before.still_stands(&world).await;

    world.stage.lab.vault_unseal().await.expect("Vault is unsealed");
    let next = rotate(&world, &authority).await;
    before.goes_on_with(&world, &next).await;
    becomes(&world, RECOVERY, "vaultawsrole/api", "Ready", "True", "Ready").await;
}

async fn ready(world: &World, object: &str) -> String {
    world.condition(object, "Ready").await.expect("a condition").status
}

async fn a_killed_vault_comes_back_sealed_and_then_all_goes_on(world: World) {
    let (authority, before) = delivered(&world).await;
    let vault = world.stage.lab.vault_server();
    vault.kill9().await.expect("Vault is killed");
    backend_says(&world, "VaultUnreachable").await;
    vault.start().await.expect("Vault starts");
    backend_says(&world, "VaultSealed").await;
    before.still_stands(&world).await;

    world.stage.lab.vault_unseal().await.expect("Vault is unsealed");
    let next = rotate(&world, &authority).await;
    before.goes_on_with(&world, &next).await;
}

async fn a_frozen_vault_is_told_and_all_goes_on_when_it_thaws(world: World) {
    // A connection that was there waits as long as a request may; then no other one is made.
    const SILENCE: Duration = Duration::from_secs(20);
    let backend = world.backend().with("spec.vault.requestTimeout", "2s");
    let (authority, before) = delivered_by(&world, backend).await;
    let vault = world.stage.lab.vault_server();
    vault.pause().expect("Vault is frozen");
    let frozen = Instant::now();
    let backend = world.backend_ref();
    let reason = world
        .eventually("the backend to say so", NOTICE + Duration::from_secs(2), async || {
            let reachable = world.condition(&backend, "Reachable").await?;
            (reachable.status == "False").then_some(reachable.reason)
        })
        .await;
    assert!(["VaultTimeout", "VaultUnreachable"].contains(&&*reason), "{reason}");
    say(&format!("frozen: {reason} after {:.1} s", frozen.elapsed().as_secs_f64()));
    becomes(&world, SILENCE, &backend, "Ready", "False", "VaultUnreachable").await;
    world.sync("late").with("spec.roleRef.name", "web").apply().await;
    world.becomes("vaultcertsync/late", "Ready", "False", "VaultUnreachable").await;
    world.becomes("vaultcertsync/web", "Stale", "True", "Stale").await;
    assert_eq!(ready(&world, "vaultcertsync/web").await, "True", "one interval is not three");
    before.still_stands(&world).await;

    vault.resume().expect("Vault thaws");
    let thawed = Instant::now();
    let next = rotate(&world, &authority).await;
    before.goes_on_with(&world, &next).await;
    world.delivered("late-tls", &next).await;
    say(&format!("frozen: recovered after {:.1} s", thawed.elapsed().as_secs_f64()));
    assert_eq!(role_status(&world).await, before.role, "the role was ready all the time");
}

/// Everything that the operator watches is seen when it changes.
async fn changes_are_seen(world: &World, authority: &Authority) {
    let asked = world.refresh("web").await;
    world
        .eventually("a refresh of the sync", RECOVERY, async || {
            let status = world.sync_status("web").await;
            (status.last_handled_refresh == Some(asked.clone())).then_some(())
        })
        .await;
    let old = world.secret("web-tls").await.expect("the Secret");
    world.delete("secret/web-tls").await;
    world
        .eventually("a deleted Secret to come back", RECOVERY, async || {
            world.secret("web-tls").await.filter(|secret| secret.uid() != old.uid())
        })
        .await;
    world.backend().with("spec.vault.rateLimit.burst", 90).apply().await;
    world.ready(&world.backend_ref()).await;
    world.create_iam_role(ACCOUNT, "api").await;
    let issued = authority.issue("api.example.com");
    world.put_certificate("api", "tls", &issued).await;
    world.role("api").apply().await;
    world.sync("api").apply().await;
    world.delivered("api-tls", &issued).await;
}

async fn without_the_api_server_nothing_is_lost_and_changes_afterwards_are_seen(world: World) {
    let (authority, before) = delivered(&world).await;
    let mark = world.mark();
    let apiserver = world.stage.lab.apiserver();
    apiserver.kill9().await.expect("the API server is killed");
    let next = rotate(&world, &authority).await;
    apiserver.start().await.expect("the API server starts");
    before.goes_on_with(&world, &next).await;
    assert_eq!(world.vault_writes_since(mark), [], "Vault had nothing to do with it");
    changes_are_seen(&world, &authority).await;
    before.same_processes(&world).await;
}

async fn without_etcd_nothing_is_lost_and_changes_afterwards_are_seen(world: World) {
    let (authority, before) = delivered(&world).await;
    let lab = &world.stage.lab;
    lab.etcd().stop().await.expect("etcd stops");
    let next = rotate(&world, &authority).await;
    world
        .eventually("the API server to miss etcd", PATIENCE, async || {
            let output = lab.kubectl(&["get", "--raw=/readyz"]).await.expect("kubectl");
            (!output.status.success()).then_some(())
        })
        .await;
    lab.etcd().start().await.expect("etcd starts");
    lab.apiserver().answers().await.expect("the API server finds etcd");
    before.goes_on_with(&world, &next).await;
    changes_are_seen(&world, &authority).await;
    before.same_processes(&world).await;
}

async fn a_frozen_api_server_stops_all_writes_and_all_goes_on_when_it_thaws(world: World) {
    frozen(&world, world.stage.lab.apiserver()).await;
}

async fn a_frozen_etcd_stops_all_writes_and_all_goes_on_when_it_thaws(world: World) {
    frozen(&world, world.stage.lab.etcd()).await;
}

/// Nobody can renew a lease meanwhile: Vault is there all the time and must not be written either.
async fn frozen(world: &World, server: &Server) {
    let (authority, before) = delivered(world).await;
    let role = format!("auth/{}/role/{}", world.auth_mount(), world.iam_role("web"));
    let policies = json!([world.policy_name(&world.iam_role("web"))]);
    let held =
        async || world.read(&role).await.expect("the role in Vault")["token_policies"].clone();
    assert_eq!(held().await, policies);
    server.pause().expect("a signal");
    let begun = Instant::now();
    for operator in world.stage.operators() {
        world
            .eventually("a leader without a lease to rest", FROZEN, async || {
                (!operator.leads().await).then_some(())
            })
            .await;
    }
    let rested = begun.elapsed();
    let mark = world.mark();
    let next = rotate(world, &authority).await;
    world.write(&role, json!({"token_policies": ["default"]})).await;
    tokio::time::sleep(FROZEN.saturating_sub(begun.elapsed())).await;
    assert_eq!(world.vault_writes_since(mark), [], "written without a lease");
    assert_eq!(held().await, json!(["default"]));
    before.same_processes(world).await;

    server.resume().expect("a signal");
    let thawed = Instant::now();
    world.stage.lab.apiserver().answers().await.expect("the API server answers");
    world
        .eventually("the next certificate, and the role put back", THAW, async || {
            let secret = world.secret("web-tls").await?;
            let is_next = secret.data?.get("tls.key")?.0 == next.key.as_bytes();
            (is_next && held().await == policies).then_some(())
        })
        .await;
    say(&format!(
        "{} frozen for {} s: all rested after {:.1} s, and went on {:.1} s after the thaw",
        server.name(),
        FROZEN.as_secs(),
        rested.as_secs_f64(),
        thawed.elapsed().as_secs_f64()
    ));
    before.goes_on_with(world, &next).await;
    changes_are_seen(world, &authority).await;
    before.same_processes(world).await;
}

async fn without_sts_sessions_go_on_and_new_ones_wait(world: World) {
    let (authority, before) = delivered(&world).await;
    world.create_iam_role(ACCOUNT, "api").await;
    let issued = authority.issue("api.example.com");
    world.put_certificate("api", "tls", &issued).await;
    world.role("api").apply().await;
    world.ready("vaultawsrole/api").await;
    let sts = world.stage.lab.sts();
    sts.refuse().await;

    // A session that is there needs no login.
    let next = rotate(&world, &authority).await;
    world.refresh("web").await;
    before.goes_on_with(&world, &next).await;
    // A new one does.
    world.sync("api").apply().await;
    world.becomes("vaultcertsync/api", "Ready", "False", "StsUnreachable").await;
    assert_eq!(world.secret("api-tls").await, None);

    sts.accept().await;
    becomes(&world, RECOVERY, "vaultcertsync/api", "Ready", "True", "Synced").await;
    world.delivered("api-tls", &issued).await;
    before.same_processes(&world).await;
}

async fn many_that_wait_for_sts_ask_it_seldom_and_have_it_soon_when_it_is_back(world: World) {
    // Each with an identity of its own, so that none can use what another one got.
    const WAITING: [&str; 8] = ["w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8"];
    const OUTAGE: Duration = Duration::from_secs(20);
    let authority = Authority::new("World CA");
    world.backend().apply().await;
    for name in WAITING {
        world.create_iam_role(ACCOUNT, name).await;
        world.put_certificate(name, "tls", &authority.issue("web.example.com")).await;
        world.role(name).apply().await;
    }
    for name in WAITING {
        world.ready(&format!("vaultawsrole/{name}")).await;
    }
    let sts = world.stage.lab.sts();
    sts.answer_with(503, "ServiceUnavailable").expect("a status");
    sts.forget_requests();
    for name in WAITING {
        world.sync(name).apply().await;
    }
    for name in WAITING {
        let sync = format!("vaultcertsync/{name}");
        world.becomes(&sync, "Ready", "False", "StsUnreachable").await;
    }
    tokio::time::sleep(OUTAGE).await;
    let mine = world.iam_role("w");
    let asked = sts.requests().iter().filter(|one| one.role.contains(&mine)).count();
    // One for all, after 1, 2, 4, 8 and then every 10 seconds, and each once again at once; beside what
    // was under way when the first one failed.
    assert!((2..=2 * (WAITING.len() + 8)).contains(&asked), "{asked} requests");
    sts.answer_normally();
    let back = Instant::now();
    for name in WAITING {
        let left = Duration::from_secs(60).saturating_sub(back.elapsed());
        becomes(&world, left, &format!("vaultcertsync/{name}"), "Ready", "True", "Synced").await;
    }
}
