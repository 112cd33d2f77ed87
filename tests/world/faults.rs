//! What a network and a busy Vault do: each fault is told by its reason, nothing is lost, and all goes on
//! by itself. Each world has a way of its own to the lab's Vault, so that it can be spoilt.

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use serde_json::json;
use vault_aws_lab::{Fault, Front, Reply};

use crate::{
    certificates::{Authority, Issued},
    stage::say,
    world::{ACCOUNT, PATIENCE, World},
};

tests![
    a_way_to_vault_that_breaks_is_told_by_its_reason_and_all_goes_on_when_it_is_mended,
    something_else_than_vault_that_answers_is_told_and_nothing_is_lost,
    a_wait_that_vault_asks_for_is_kept,
    a_rate_limit_quota_of_vault_slows_requests_and_everything_arrives,
    a_lease_quota_stops_logins_and_not_the_sessions_that_are_there,
    a_vault_of_another_name_or_another_ca_is_told_with_the_step_that_failed,
    a_slow_vault_holds_up_nobody_who_uses_another,
    whatever_vault_answers_is_an_error_and_loses_nothing,
    a_write_whose_answer_was_lost_is_not_done_twice,
];

/// From the mended way until all is as before: the circuit probes every 15 s at the latest, and the
/// backend looks every 5 s. On a machine that has other things to do.
pub(crate) const RECOVERY: Duration = Duration::from_secs(45);
/// How long one request to Vault may take here.
const REQUEST: &str = "2s";

/// A delivered certificate whose Vault is reached over a front.
pub(crate) struct Spoilt {
    pub(crate) front: Front,
    pub(crate) authority: Authority,
    pub(crate) secret: Secret,
    pub(crate) pids: [Option<u32>; 2],
}

impl Spoilt {
    pub(crate) async fn new(world: &World) -> Self {
        let front = Front::before_vault(&world.stage.lab).await.expect("a front");
        let authority = Authority::new("World CA");
        let issued = authority.issue("web.example.com");
        world.put_certificate("web", "tls", &issued).await;
        backend(world, &front).apply().await;
        world.role("web").apply().await;
        world.sync("web").with("spec.refreshInterval", "10s").apply().await;
        for object in [world.backend_ref().as_str(), "vaultawsrole/web", "vaultcertsync/web"] {
            world.ready(object).await;
        }
        let secret = world.delivered("web-tls", &issued).await;
        let pids = world.stage.operators().map(|operator| operator.pid());
        Self { front, authority, secret, pids }
    }

    /// The Secret, byte for byte, and the processes.
    pub(crate) async fn stands(&self, world: &World, when: &str) {
        assert_eq!(world.secret("web-tls").await.as_ref(), Some(&self.secret), "{when}");
        assert_eq!(world.stage.operators().map(|operator| operator.pid()), self.pids, "{when}");
    }

    pub(crate) async fn rotate(&self, world: &World) -> Issued {
        let next = self.authority.issue("web.example.com");
        world.put_certificate("web", "tls", &next).await;
        next
    }

    /// The next certificate arrives, in the same Secret; how long that took.
    pub(crate) async fn goes_on(&mut self, world: &World) -> Duration {
        let begun = Instant::now();
        let next = self.rotate(world).await;
        world
            .eventually("the next certificate", RECOVERY, async || {
                let secret = world.secret("web-tls").await?;
                (secret.data.as_ref()?.get("tls.key")?.0 == next.key.as_bytes()).then_some(())
            })
            .await;
        let took = begun.elapsed();
        let secret = world.delivered("web-tls", &next).await;
        assert_eq!(secret.uid(), self.secret.uid(), "the same object");
        self.secret = secret;
        world.ready(&world.backend_ref()).await;
        world.becomes("vaultcertsync/web", "Ready", "True", "Synced").await;
        took
    }
}

pub(crate) fn backend(world: &World, front: &Front) -> crate::manifest::Manifest {
    let backend = world.backend().with("spec.vault.address", front.url());
    backend.with("spec.vault.requestTimeout", REQUEST)
}

async fn told(world: &World, reason: &str) {
    let backend = world.backend_ref();
    world.becomes(&backend, "Reachable", "False", reason).await;
    world.becomes(&backend, "Ready", "False", reason).await;
}

async fn a_way_to_vault_that_breaks_is_told_by_its_reason_and_all_goes_on_when_it_is_mended(
    world: World,
) {
    let mut spoilt = Spoilt::new(&world).await;
    let faults = [
        (Fault::Refuse, "VaultUnreachable"),
        (Fault::Reset, "VaultUnreachable"),
        // No connection is made, and the one that was there was given up.
        (Fault::Blackhole, "VaultUnreachable"),
        (Fault::Delay(Duration::from_secs(30)), "VaultTimeout"),
        // In the middle of a TLS handshake, or of the first answer.
        (Fault::Cut(500), "VaultUnreachable"),
    ];
    for (fault, reason) in faults {
        spoilt.front.suffer(fault).await;
        told(&world, reason).await;
        spoilt.stands(&world, &format!("{fault:?}")).await;
        spoilt.front.heal().await;
        let took = spoilt.goes_on(&world).await;
        say(&format!("{fault:?}: {reason}, recovered after {:.1} s", took.as_secs_f64()));
    }
}

async fn something_else_than_vault_that_answers_is_told_and_nothing_is_lost(world: World) {
    let mut spoilt = Spoilt::new(&world).await;
    for status in [500, 502, 503, 504] {
        let page = "<html><body>no upstream</body></html>";
        spoilt.front.answer(Reply::always(status, page).with("content-type", "text/html"));
        world
            .eventually("the backend to say so", PATIENCE, async || {
                let ready = world.condition(&world.backend_ref(), "Ready").await?;
                (ready.status == "False").then_some(())
            })
            .await;
        spoilt.stands(&world, &format!("status {status}")).await;
        spoilt.front.answer_normally();
        let took = spoilt.goes_on(&world).await;
        say(&format!("{status} of a proxy: recovered after {:.1} s", took.as_secs_f64()));
    }
}

async fn a_wait_that_vault_asks_for_is_kept(world: World) {
    const WAIT: SignedDuration = SignedDuration::from_secs(4);
    let mut spoilt = Spoilt::new(&world).await;
    for status in [429, 503] {
        spoilt.front.forget_requests();
        let said = r#"{"errors":["request path \"x\": rate limit quota exceeded"]}"#;
        let reply = Reply::always(status, said).with("retry-after", WAIT.as_secs().to_string());
        spoilt.front.answer(reply.about("/data/").times(1));
        let reply = Reply::always(status, said).with("retry-after", WAIT.as_secs().to_string());
        spoilt.front.answer(reply.about("/metadata/").times(1));
        world.refresh("web").await;
        spoilt.goes_on(&world).await;
        spoilt.front.answer_normally();
        let requests = spoilt.front.requests();
        let told =
            requests.iter().position(|request| request.status == status).expect("it was said");
        let at = requests[told].time;
        // The role writer is another process, which was told nothing. A request that was on its way
        // with the one that was refused cannot be called back.
        let early = requests[told + 1..].iter().find(|request| {
            let after = request.time.duration_since(at);
            request.path.contains(&world.kv_mount())
                && after > SignedDuration::from_millis(300)
                && after < WAIT - SignedDuration::from_millis(200)
        });
        assert!(early.is_none(), "{status}: {early:?}");
    }
}

async fn a_rate_limit_quota_of_vault_slows_requests_and_everything_arrives(world: World) {
    const SYNCS: usize = 20;
    let mut spoilt = Spoilt::new(&world).await;
    let quota = format!("sys/quotas/rate-limit/{}", world.id);
    let path = format!("{}/", world.kv_mount());
    world.write(&quota, json!({"path": path, "rate": 5, "interval": "1s"})).await;
    let issued = spoilt.rotate(&world).await;
    for number in 0..SYNCS {
        let sync = world.sync(&format!("s{number}")).with("spec.roleRef.name", "web");
        sync.apply().await;
    }
    for number in 0..SYNCS {
        let what = format!("Secret s{number}-tls");
        world
            .eventually(&what, PATIENCE * 3, async || world.secret(&format!("s{number}-tls")).await)
            .await;
        world.delivered(&format!("s{number}-tls"), &issued).await;
    }
    let requests = spoilt.front.requests();
    let refused = requests.iter().filter(|request| request.status == 429).count();
    say(&format!("a quota of 5/s: {refused} of {} requests were refused", requests.len()));
    assert!(refused > 0, "the quota was never met");
    // Everybody slows down together: refusals stay few, however many want something.
    assert!(refused <= SYNCS * 2, "{refused} refusals");
    world.vault().delete(&quota).await.expect("the quota goes");
    spoilt.secret = world.secret("web-tls").await.expect("the Secret");
    spoilt.goes_on(&world).await;
}

async fn a_lease_quota_stops_logins_and_not_the_sessions_that_are_there(world: World) {
    let mut spoilt = Spoilt::new(&world).await;
    world.create_iam_role(ACCOUNT, "api").await;
    let issued = spoilt.authority.issue("api.example.com");
    world.put_certificate("api", "tls", &issued).await;
    world.role("api").apply().await;
    world.ready("vaultawsrole/api").await;
    let said = r#"{"errors":["1 error occurred:\n\t* request path \"auth/x/login\": lease count quota exceeded\n\n"]}"#;
    let login = format!("auth/{}/login", world.auth_mount());
    spoilt.front.answer(Reply::always(429, said).about(&*login));
    world.sync("api").apply().await;
    world
        .eventually("the login to be refused", PATIENCE, async || {
            let ready = world.condition("vaultcertsync/api", "Ready").await?;
            (ready.status == "False" && ready.message.contains("lease count")).then_some(())
        })
        .await;
    // The session of `web` is there, and reads on.
    spoilt.goes_on(&world).await;
    assert_eq!(world.secret("api-tls").await, None);
    spoilt.front.answer_normally();
    world
        .eventually("Secret api-tls", Duration::from_secs(75), async || {
            world.secret("api-tls").await
        })
        .await;
    world.delivered("api-tls", &issued).await;
}

async fn a_vault_of_another_name_or_another_ca_is_told_with_the_step_that_failed(world: World) {
    let stranger = Authority::new("Somebody Else's CA");
    let elsewhere = [
        ("spec.vault.address", json!("https://vault.invalid:8200"), "name resolution"),
        ("spec.vault.caBundle", json!(stranger.pem()), "TLS"),
    ];
    for (number, (field, value, step)) in elsewhere.into_iter().enumerate() {
        let name = format!("{}-{number}", world.id);
        let mut backend = world.backend().with("metadata.name", &*name);
        if field.ends_with("caBundle") {
            backend = backend.without("spec.vault.caBundleRef");
        }
        backend.with(field, value).apply().await;
        let backend = format!("vaultawsbackend/{name}");
        world.becomes(&backend, "Ready", "False", "VaultUnreachable").await;
        let ready = world.condition(&backend, "Ready").await.expect("a condition");
        assert!(ready.message.contains(step), "{}", ready.message);
    }
}

async fn a_slow_vault_holds_up_nobody_who_uses_another(world: World) {
    const CROWD: usize = 80;
    let spoilt = Spoilt::new(&world).await;
    // More than may run at once, all waiting for a Vault that takes its time.
    for number in 0..CROWD {
        let sync = world.sync(&format!("s{number}")).with("spec.roleRef.name", "web");
        sync.with("spec.refreshInterval", "10s").apply().await;
    }
    for number in 0..CROWD {
        let what = format!("Secret s{number}-tls");
        world
            .eventually(&what, PATIENCE * 2, async || world.secret(&format!("s{number}-tls")).await)
            .await;
    }
    spoilt.front.suffer(Fault::Delay(Duration::from_secs(30))).await;
    // Another Vault: the same server, by its own address.
    let other = format!("{}-other", world.id);
    let backend = world.backend().with("metadata.name", &*other);
    let backend = backend.with("spec.auth.management", "Observed").without("spec.auth.client");
    backend.apply().await;
    world.ready(&format!("vaultawsbackend/{other}")).await;
    let issued = spoilt.authority.issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    tokio::time::sleep(Duration::from_secs(6)).await; // Refreshes of the crowd have begun to wait.
    let principal = json!({
        "backendRef": {"name": other},
        "accountId": ACCOUNT,
        "iamRole": world.iam_role("web"),
    });
    let begun = Instant::now();
    world.sync("other").with("spec.principal", principal).apply().await;
    world
        .eventually("the Secret of the other", Duration::from_secs(5), async || {
            world.secret("other-tls").await
        })
        .await;
    world.delivered("other-tls", &issued).await;
    say(&format!("beside a slow Vault: {:.1} s", begun.elapsed().as_secs_f64()));
}

async fn whatever_vault_answers_is_an_error_and_loses_nothing(world: World) {
    let mut spoilt = Spoilt::new(&world).await;
    let data = |value: &str| format!(r#"{{"data":{{"data":{value},"metadata":{{"version":9}}}}}}"#);
    let nested = "[".repeat(200_000) + &"]".repeat(200_000);
    let elsewhere = "https://127.0.0.1:1/v1/elsewhere";
    let json = |status: u16, body: String| Reply::always(status, body);
    let answers = [
        ("nothing", json(200, String::new())),
        ("not JSON", json(200, "<html>".to_owned())),
        ("truncated", json(200, r#"{"data":{"data":{"certificate":"-----BEGIN"#.to_owned())),
        ("an array", json(200, "[]".to_owned())),
        ("null", json(200, "null".to_owned())),
        ("data is null", json(200, data("null"))),
        ("data is a list", json(200, data("[]"))),
        ("data is a text", json(200, data("\"x\""))),
        ("numbers for PEM", json(200, data(r#"{"certificate":1,"private_key":2}"#))),
        ("empty texts", json(200, data(r#"{"certificate":"","private_key":""}"#))),
        ("deeply nested", json(200, data(&nested))),
        ("too large", json(200, data(&format!("\"{}\"", "x".repeat(3 << 20))))),
        ("another content type", json(200, data("{}")).with("content-type", "text/plain")),
        ("no content", json(204, String::new())),
        ("a redirect elsewhere", json(307, String::new()).with("location", elsewhere)),
        ("moved", json(301, String::new()).with("location", elsewhere)),
        ("a teapot", json(418, "{}".to_owned())),
        (
            "a failed dependency",
            json(412, r#"{"errors":["required index state not present"]}"#.into()),
        ),
        ("an error without text", json(400, r#"{"errors":[null]}"#.to_owned())),
        ("a 404 that is not Vault's", json(404, "not here".to_owned())),
    ];
    // The version moves, so that the data is asked for.
    let next = spoilt.rotate(&world).await;
    let before: Vec<_> = world.stage.operators().map(|operator| operator.rss_kib()).into();
    for (what, answer) in answers {
        for path in ["/data/", "/metadata/"] {
            spoilt.front.forget_requests();
            spoilt.front.answer_normally();
            spoilt.front.answer(answer.clone().about(path));
            world.refresh("web").await;
            world
                .eventually(what, PATIENCE, async || {
                    let asked = spoilt.front.requests();
                    asked.iter().any(|request| request.path.contains(path)).then_some(())
                })
                .await;
            // Longer than a pass takes to end.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let secret = world.secret("web-tls").await.expect("the Secret");
            if path == "/data/" {
                assert_eq!(secret, spoilt.secret, "{what} at {path}");
            } else {
                // Where data could be read before metadata was refused, it may have been delivered.
                assert!(secret.data.is_some_and(|data| data.len() >= 2), "{what} at {path}");
            }
        }
    }
    spoilt.front.answer_normally();
    world.refresh("web").await;
    world
        .eventually("the certificate after all", RECOVERY, async || {
            let secret = world.secret("web-tls").await?;
            (secret.data.as_ref()?.get("tls.key")?.0 == next.key.as_bytes()).then_some(())
        })
        .await;
    spoilt.secret = world.secret("web-tls").await.expect("the Secret");
    let pids = world.stage.operators().map(|operator| operator.pid());
    assert_eq!(pids, spoilt.pids, "nothing died of it");
    let after: Vec<_> = world.stage.operators().map(|operator| operator.rss_kib()).into();
    say(&format!("hostile answers: RSS {before:?} KiB before, {after:?} after"));
}

async fn a_write_whose_answer_was_lost_is_not_done_twice(world: World) {
    let spoilt = Spoilt::new(&world).await;
    world.create_iam_role(ACCOUNT, "api").await;
    let role = format!("/role/{}", world.iam_role("api"));
    let mark = world.mark();
    let is_write = |method: &http::Method, _: &str| method == "POST" || method == "PUT";
    spoilt.front.lose_answer(&role, is_write);
    world.role("api").apply().await;
    world
        .eventually("the role's write", PATIENCE, async || spoilt.front.has_snared().then_some(()))
        .await;
    world.ready("vaultawsrole/api").await;
    let writes = world.vault_writes_since(mark);
    let of_the_role = writes.iter().filter(|write| write.path.contains(&role[1..])).count();
    assert_eq!(of_the_role, 1, "{writes:?}");
    spoilt.stands(&world, "a lost answer").await;
}
