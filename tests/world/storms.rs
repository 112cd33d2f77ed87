//! What a thousand syncs do when something they all need comes back: they are let through at the limit,
//! and not beyond; they share one login; and whoever is new does not stand in line behind them.
//!
//! `VAULT_AWS_STORM_SECONDS` makes the outage longer.

use std::{
    collections::VecDeque,
    env,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::ListParams};
use serde_json::json;
use vault_aws_lab::{Fault, Front, TrustPolicy};
use vault_aws_operator::grants::kubernetes::Tenant;

use crate::{
    certificates::{Authority, Issued},
    manifest::Manifest,
    stage::say,
    world::{ACCOUNT, CLUSTER, PATIENCE, World, text},
};

tests![
    a_thousand_syncs_come_back_at_the_limit_and_with_one_login,
    nine_hundred_that_fail_delay_nobody_elses_first_certificate,
    hundreds_of_certificates_at_a_low_limit_delay_nobody_elses_first,
];

const CROWD: usize = 1000;
/// Requests to Vault in a second, and at once.
const RATE: usize = 100;
const BURST: usize = 100;
/// How often each looks.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long an outage lasts, unless said otherwise.
const OUTAGE: u64 = 20;
/// Two requests of each, and a busy machine.
const CONVERGENCE: Duration =
    Duration::from_secs(INTERVAL.as_secs() + (2 * CROWD / RATE) as u64 + 60);

fn outage() -> Duration {
    let given = env::var("VAULT_AWS_STORM_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(OUTAGE))
}

/// How long each of these tests may take.
pub(crate) fn limit() -> Duration {
    outage() + CONVERGENCE * 5
}

async fn crowd(world: &World, count: usize) {
    stream::iter(0..count)
        .for_each_concurrent(16, |number| async move {
            let sync = world.sync(&format!("s{number:04}")).with("spec.roleRef.name", "web");
            let sync = sync.with("spec.certificates.include", json!(["tls"]));
            sync.with("spec.refreshInterval", "30s").apply().await;
        })
        .await;
}

/// Until all of them hold this certificate; how long that took.
async fn all_hold(world: &World, issued: &Issued, what: &str) -> Duration {
    let begun = Instant::now();
    let secrets = Api::<Secret>::namespaced(world.kube(), &world.id);
    world
        .eventually(what, CONVERGENCE, async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let list = secrets.list(&ListParams::default()).await.ok()?;
            let held = list.items.iter().filter(|secret| {
                secret.type_.as_deref() == Some("kubernetes.io/tls")
                    && text(secret, "tls.key") == issued.key
            });
            (held.count() == CROWD).then_some(())
        })
        .await;
    begun.elapsed()
}

/// The most requests that went out in a second, and whether ever more than the limiter allows: in any
/// time, its burst and what comes free meanwhile.
fn within_the_limit(front: &Front, what: &str) -> usize {
    let mut last = VecDeque::new();
    let (mut most, mut count) = (0, 0_usize);
    let requests = front.requests();
    let first = requests.iter().map(|request| request.time).min().expect("requests");
    let mut times: Vec<_> = requests
        .iter()
        // The health is asked past the limiter, and by the backend alone.
        .filter(|request| !request.path.contains("sys/health"))
        .map(|request| request.time.duration_since(first).as_secs_f64())
        .collect();
    times.sort_by(f64::total_cmp);
    let bucket = (RATE + BURST) as f64;
    let mut tokens = bucket;
    let mut before = 0.0;
    for time in &times {
        // Both processes have a limiter of their own; the role writer asks little.
        tokens = (tokens + (time - before) * RATE as f64).min(bucket) - 1.0;
        before = *time;
        count += 1;
        assert!(tokens > -(RATE as f64), "{what}: more than the limit after {count} requests");
        last.push_back(*time);
        while last.front().is_some_and(|old| time - old > 1.0) {
            last.pop_front();
        }
        most = most.max(last.len());
    }
    say(&format!("{what}: {count} requests, at most {most} in a second"));
    most
}

fn logins(world: &World, front: &Front) -> usize {
    let path = format!("auth/{}/login", world.auth_mount());
    front.requests().iter().filter(|request| request.path.contains(&path)).count()
}

async fn a_thousand_syncs_come_back_at_the_limit_and_with_one_login(world: World) {
    let front = Front::before_vault(&world.stage.lab).await.expect("a front");
    let authority = Authority::new("World CA");
    let put = async || {
        let issued = authority.issue("web.example.com");
        world.put_certificate("web", "tls", &issued).await;
        issued
    };
    let issued = put().await;
    let backend = world.backend().with("spec.vault.address", front.url());
    let limit = json!({"requestsPerSecond": RATE, "burst": BURST});
    backend.with("spec.vault.rateLimit", limit).apply().await;
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    front.forget_requests();
    crowd(&world, CROWD).await;
    let took = all_hold(&world, &issued, "a thousand new Secrets").await;
    within_the_limit(&front, "a thousand at once");
    assert_eq!(logins(&world, &front), 1, "one identity, one login");
    say(&format!("a thousand at once: all delivered {:.1} s after the last", took.as_secs_f64()));

    // An outage, in which all of them become due.
    front.suffer(Fault::Refuse).await;
    tokio::time::sleep(outage()).await;
    let issued = put().await;
    front.forget_requests();
    front.heal().await;
    let took = all_hold(&world, &issued, "the next certificate everywhere").await;
    within_the_limit(&front, "after an outage of Vault");
    assert!(logins(&world, &front) <= 1, "{} logins", logins(&world, &front));
    say(&format!("after an outage of {:?}: {:.1} s", outage(), took.as_secs_f64()));

    // All tokens are revoked under the operator: again one login for all, though all notice.
    front.forget_requests();
    let revoked = format!("sys/leases/revoke-prefix/auth/{}/login", world.auth_mount());
    let (status, answer) = world.vault().put(&revoked, &json!({})).await.expect("Vault");
    assert!(status < 300, "{answer}");
    let issued = put().await;
    let took = all_hold(&world, &issued, "the next certificate with another token").await;
    within_the_limit(&front, "after the tokens were revoked");
    assert_eq!(logins(&world, &front), 1, "one login");
    say(&format!("after a revocation: {:.1} s", took.as_secs_f64()));

    // The API server comes back, and everybody lists again.
    front.forget_requests();
    world.stage.lab.apiserver().kill9().await.expect("a signal");
    let issued = put().await;
    world.stage.lab.apiserver().start().await.expect("it starts");
    let took = all_hold(&world, &issued, "the next certificate after the API server").await;
    within_the_limit(&front, "after a restart of the API server");
    assert_eq!(logins(&world, &front), 0, "no login");
    say(&format!("after a restart of the API server: {:.1} s", took.as_secs_f64()));
    calm(&world).await;
}

/// They would go on looking while others are tested.
async fn calm(world: &World) {
    world.kubectl(&["delete", "vaultcertsyncs", "--all", "--wait=false"]).await;
}

async fn nine_hundred_that_fail_delay_nobody_elses_first_certificate(world: World) {
    const FAILING: usize = 900;
    let issued = Authority::new("World CA").issue("web.example.com");
    world.backend().with("spec.tenancy", many_and_few(&world)).apply().await;
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    let names = ["few-1", "few-2"];
    settle(&world, &issued, &names).await;
    // Each look of each asks Vault for what is not there.
    let begun = Instant::now();
    stream::iter(0..FAILING)
        .for_each_concurrent(16, |number| {
            let world = &world;
            async move {
                let sync = world.sync(&format!("f{number:03}")).with("spec.roleRef.name", "web");
                let sync = sync.with("spec.certificates.include", json!(["absent"]));
                sync.with("spec.refreshInterval", "10s").apply().await;
            }
        })
        .await;
    say(&format!("{FAILING} failing syncs after {:.1} s", begun.elapsed().as_secs_f64()));
    // In the middle of it, and again later.
    let secrets = Api::<Secret>::namespaced(world.kube(), &neighbour(&world));
    for name in names {
        let begun = Instant::now();
        in_the_neighbourhood(world.sync(name), &world).apply().await;
        world
            .eventually("somebody else's first certificate", Duration::from_secs(5), async || {
                secrets.get(&format!("{name}-tls")).await.ok()
            })
            .await;
        say(&format!("{name} beside {FAILING}: {:.1} s", begun.elapsed().as_secs_f64()));
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    calm(&world).await;
}

async fn hundreds_of_certificates_at_a_low_limit_delay_nobody_elses_first(world: World) {
    const SYNCS: usize = 16;
    const CERTIFICATES: usize = 100;
    let front = Front::before_vault(&world.stage.lab).await.expect("a front");
    let issued = Authority::new("World CA").issue("web.example.com");
    for number in 0..CERTIFICATES {
        world.put_certificate("web", &format!("c{number:02}"), &issued).await;
    }
    let backend = world.backend().with("spec.vault.address", front.url());
    let backend = backend.with("spec.tenancy", many_and_few(&world));
    backend.clone().apply().await;
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    settle(&world, &issued, &["few-1"]).await;
    // In line behind all of the others, each request would wait for eight seconds.
    let limit = json!({"requestsPerSecond": 2, "burst": 1});
    backend.with("spec.vault.rateLimit", limit).apply().await;
    front.forget_requests();
    for number in 0..SYNCS {
        let sync = world.sync(&format!("s{number:02}")).with("spec.roleRef.name", "web");
        sync.apply().await;
    }
    // The first of them have a certificate, and all of them ask for more.
    let of_the_others = Api::<Secret>::namespaced(world.kube(), &world.id);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let begun = Instant::now();
    in_the_neighbourhood(world.sync("few-1"), &world).apply().await;
    let secrets = Api::<Secret>::namespaced(world.kube(), &neighbour(&world));
    world
        .eventually("somebody else's first certificate", Duration::from_secs(7), async || {
            secrets.get("few-1-tls").await.ok()
        })
        .await;
    let took = begun.elapsed().as_secs_f64();
    say(&format!("one certificate beside {SYNCS} times {CERTIFICATES}, two a second: {took:.1} s"));
    // They were not stopped for it.
    let data = |front: &Front| {
        let requests = front.requests();
        requests.iter().filter(|request| request.path.contains("/data/")).count()
    };
    let before = data(&front);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(data(&front) >= before + 10, "{before} and {}", data(&front));
    world
        .eventually("certificates of the others", CONVERGENCE, async || {
            let list = of_the_others.list(&ListParams::default()).await.ok()?;
            let is_ours = |secret: &&Secret| secret.type_.as_deref() == Some("kubernetes.io/tls");
            (list.items.iter().filter(is_ours).count() > 0).then_some(())
        })
        .await;
    calm(&world).await;
}

/// This team's one role, and the few of another team.
fn many_and_few(world: &World) -> serde_json::Value {
    json!([
        {"name": "many", "namespaces": {"names": [world.id]}, "accounts": [ACCOUNT],
         "iamRoles": [world.iam_role("web")]},
        {"name": "few", "namespaces": {"names": [neighbour(world)]}, "accounts": [ACCOUNT],
         "iamRoles": [world.iam_role("few-*")]},
    ])
}

/// Another team's namespace.
fn neighbour(world: &World) -> String {
    format!("{}-few", world.id)
}

fn in_the_neighbourhood(manifest: Manifest, world: &World) -> Manifest {
    manifest.with("metadata.namespace", neighbour(world))
}

/// The other team's namespace, rights, roles and certificates.
async fn settle(world: &World, issued: &Issued, names: &[&str]) {
    let namespace = neighbour(world);
    let tenant = Tenant { namespace: Some(&namespace), ..Tenant::default() };
    let list = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    let text = format!("{list}\n---\n{}", tenant.text().expect("names of Kubernetes"));
    let lab = &world.stage.lab;
    let output = lab.kubectl_with_input(&["apply", "-f", "-"], &text).await.expect("kubectl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in names {
        let trust = TrustPolicy {
            principal_arns: vec![world.seeds().operator.arn.clone()],
            external_id: Some(format!("{CLUSTER}/{namespace}")),
        };
        let iam = world.iam_role(name);
        lab.aws.create_role(ACCOUNT, &iam, "/", &trust).await.expect("an IAM role");
        world.put_certificate(name, "tls", issued).await;
        in_the_neighbourhood(world.role(name), world).apply().await;
    }
    let all = async || {
        let output = lab
            .kubectl(&[
                "get",
                "vaultawsroles",
                "-n",
                &namespace,
                "-o",
                "jsonpath={.items[*].status.roleId}",
            ])
            .await
            .ok()?;
        let ids = String::from_utf8(output.stdout).ok()?;
        (ids.split_whitespace().count() == names.len()).then_some(())
    };
    world.eventually("the other team's roles", PATIENCE, all).await;
}
