//! What the way to the API server does, and what is left when the operator dies in the middle.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use vault_aws_lab::{Front, Operator, Reply};

use crate::{
    certificates::{Authority, Issued},
    manifest::api_of,
    stage::{WATCH_TIMEOUT, say},
    world::{ACCOUNT, PATIENCE, World},
};

tests![
    watches_that_fall_silent_are_noticed_and_opened_again,
    a_history_that_is_gone_costs_a_list_and_no_secret,
    an_overloaded_api_server_is_waited_for,
    a_conflict_at_every_write_is_told_and_not_fought,
    a_foreign_webhook_that_is_down_or_silent_is_told_and_waited_for,
    a_create_whose_answer_was_lost_is_recognised_as_ours,
    a_syncer_killed_at_each_request_leaves_all_or_nothing,
    a_role_writer_killed_at_each_request_ends_where_it_should,
    a_resource_that_fits_its_type_no_more_is_left_out_and_the_rest_goes_on,
    a_right_that_is_taken_away_stops_one_namespace_until_it_is_back,
];

/// What the operator adds before it takes a silent watch for dead, and a busy machine.
const NOTICE: Duration = Duration::from_secs(WATCH_TIMEOUT.as_secs() + 5 + 15);

fn way(world: &World) -> &Front {
    world.stage.way.as_ref().expect("the lab of outages has a way to spoil")
}

/// Rotates the certificate and asks for it; how long it took.
async fn arrives(world: &World, authority: &Authority, limit: Duration) -> Duration {
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.refresh("web").await;
    holds(world, &next, limit).await
}

/// Waits for a certificate; how long it took.
async fn holds(world: &World, next: &Issued, limit: Duration) -> Duration {
    let begun = Instant::now();
    world
        .eventually("the next certificate", limit, async || {
            let secret = world.secret("web-tls").await?;
            (secret.data.as_ref()?.get("tls.key")?.0 == next.key.as_bytes()).then_some(())
        })
        .await;
    begun.elapsed()
}

async fn watches_that_fall_silent_are_noticed_and_opened_again(world: World) {
    let (authority, _) = world.with_delivered().await;
    let pids = world.stage.operators().map(Operator::pid);
    way(&world).fall_silent_once().await;
    let took = arrives(&world, &authority, NOTICE).await;
    say(&format!(
        "watches of {} s that fell silent: noticed after {:.1} s",
        WATCH_TIMEOUT.as_secs(),
        took.as_secs_f64()
    ));
    // And a Secret that somebody deletes is seen too: that is another watch.
    let old = world.secret("web-tls").await.expect("the Secret");
    world.delete("secret/web-tls").await;
    world
        .eventually("the Secret to come back", NOTICE, async || {
            world.secret("web-tls").await.filter(|secret| secret.uid() != old.uid())
        })
        .await;
    assert_eq!(world.stage.operators().map(Operator::pid), pids);
}

async fn a_history_that_is_gone_costs_a_list_and_no_secret(world: World) {
    let (authority, _) = world.with_delivered().await;
    let secret = world.secret("web-tls").await.expect("the Secret");
    let front = way(&world);
    let gone = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version: 1 (2)", "reason": "Expired", "code": 410,
    });
    // Each namespace has watches of its own; this one is of all VaultCertSyncs, in both processes.
    let reply = Reply::always(410, gone.to_string()).to(|_, path| path.contains("watch=true"));
    front.answer(reply.about("/vaultcertsyncs?").times(2));
    front.forget_requests();
    // The watches that are open end, and the next ones are told that the history is gone.
    front.suffer(vault_aws_lab::Fault::Reset).await;
    front.heal().await;
    world
        .eventually("watches to be refused", PATIENCE, async || {
            front.requests().iter().any(|request| request.status == 410).then_some(())
        })
        .await;
    world
        .eventually("a list", PATIENCE, async || {
            let requests = front.requests();
            let lists = requests.iter().filter(|request| {
                request.path.contains("/vaultcertsyncs?") && !request.path.contains("watch=true")
            });
            (lists.count() > 0).then_some(())
        })
        .await;
    assert_eq!(world.secret("web-tls").await, Some(secret), "nothing was deleted or written");
    front.answer_normally();
    let took = arrives(&world, &authority, PATIENCE).await;
    say(&format!("410 Gone: changes are seen after {:.1} s", took.as_secs_f64()));
}

async fn an_overloaded_api_server_is_waited_for(world: World) {
    const OVERLOAD: Duration = Duration::from_secs(6);
    let (authority, _) = world.with_delivered().await;
    let secret = world.secret("web-tls").await.expect("the Secret");
    let front = way(&world);
    let busy = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too many requests", "reason": "TooManyRequests", "code": 429,
        "details": {"retryAfterSeconds": 1},
    });
    let reply = Reply::always(429, busy.to_string()).with("retry-after", "1");
    // The lease too: a leader that cannot renew rests, and goes on.
    front.answer(reply.to(|method, _| method != "GET"));
    front.forget_requests();
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.refresh("web").await;
    tokio::time::sleep(OVERLOAD).await;
    let asked = front.requests().iter().filter(|request| request.status == 429).count();
    assert!(asked > 0, "nobody was refused");
    assert!(asked < 60, "{asked} requests to an API server that is overloaded");
    assert_eq!(world.secret("web-tls").await, Some(secret));
    front.answer_normally();
    let begun = Instant::now();
    world.delivered("web-tls", &next).await;
    world.becomes("vaultcertsync/web", "Ready", "True", "Synced").await;
    say(&format!(
        "429 of the API server: {asked} requests in {} s, recovered after {:.1} s",
        OVERLOAD.as_secs(),
        begun.elapsed().as_secs_f64()
    ));
}

async fn a_conflict_at_every_write_is_told_and_not_fought(world: World) {
    const CONFLICT: Duration = Duration::from_secs(10);
    let (authority, _) = world.with_delivered().await;
    let secret = world.secret("web-tls").await.expect("the Secret");
    let front = way(&world);
    let conflict = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "Apply failed with 1 conflict: conflict with \"another\": .data.tls.key",
        "reason": "Conflict", "code": 409,
    });
    let about = format!("/namespaces/{}/secrets/", world.id);
    let reply = Reply::always(409, conflict.to_string()).about(&about);
    front.answer(reply.to(|method, _| method != "GET"));
    front.forget_requests();
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.refresh("web").await;
    let told = world.certificate_becomes("web", "tls", "Kept", Some("KubernetesError")).await;
    assert!(told.message.is_some_and(|said| said.contains("changed while it was written")));
    world.becomes("vaultcertsync/web", "Ready", "False", "KubernetesError").await;
    tokio::time::sleep(CONFLICT).await;
    let tried = front.requests().iter().filter(|request| request.status == 409).count();
    assert!((1..12).contains(&tried), "{tried} writes against somebody else's");
    assert_eq!(world.secret("web-tls").await, Some(secret));
    front.answer_normally();
    let took = holds(&world, &next, PATIENCE).await;
    world.becomes("vaultcertsync/web", "Ready", "True", "Synced").await;
    say(&format!(
        "409 at every write: {tried} writes in {} s, recovered after {:.1} s",
        CONFLICT.as_secs(),
        took.as_secs_f64()
    ));
}

async fn a_foreign_webhook_that_is_down_or_silent_is_told_and_waited_for(world: World) {
    const DOWN: Duration = Duration::from_secs(10);
    let (authority, _) = world.with_delivered().await;
    // It takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent = silent.local_addr().expect("an address");
    for url in ["https://127.0.0.1:1/".to_owned(), format!("https://{silent}/")] {
        let secret = world.secret("web-tls").await.expect("the Secret");
        let name = format!("{}.example.com", world.id);
        let webhook = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": name,
                "clientConfig": {"url": url},
                "namespaceSelector": {"matchLabels": {"world": world.id}},
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"],
                    "operations": ["CREATE", "UPDATE"],
                }],
                "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 2,
                "admissionReviewVersions": ["v1"],
            }],
        });
        let lab = &world.stage.lab;
        let applied = lab.kubectl_with_input(&["create", "-f", "-"], &webhook.to_string()).await;
        assert!(applied.expect("kubectl").status.success());
        // The API server learns of it a moment later.
        world
            .eventually("the webhook to be asked", PATIENCE, async || {
                let patch = json!({"metadata": {"labels": {"theirs": "x"}}});
                let dry = PatchParams { dry_run: true, ..PatchParams::default() };
                let secrets = api_of(&world, "secret");
                secrets.patch("web-tls", &dry, &Patch::Merge(patch)).await.is_err().then_some(())
            })
            .await;
        let mark = world.mark();
        let next = authority.issue("web.example.com");
        world.put_certificate("web", "tls", &next).await;
        world.refresh("web").await;
        world.certificate_becomes("web", "tls", "Kept", Some("KubernetesError")).await;
        tokio::time::sleep(DOWN).await;
        let writes = world.kubernetes_writes_since(mark);
        let tried = writes.iter().filter(|one| one.resource == "secrets").count();
        assert!((1..12).contains(&tried), "{tried} writes in vain");
        assert_eq!(world.secret("web-tls").await, Some(secret));
        world.kubectl(&["delete", "validatingwebhookconfiguration", &name]).await;
        let took = holds(&world, &next, PATIENCE).await;
        world.becomes("vaultcertsync/web", "Ready", "True", "Synced").await;
        say(&format!(
            "a webhook at {url}: {tried} writes in {} s, recovered after {:.1} s",
            DOWN.as_secs(),
            took.as_secs_f64()
        ));
    }
}

async fn a_create_whose_answer_was_lost_is_recognised_as_ours(world: World) {
    let (_, issued) = world.with_delivered().await;
    let front = way(&world);
    let mark = world.mark();
    front.lose_answer(&format!("/namespaces/{}/secrets", world.id), |method, _| method == "POST");
    world.sync("again").with("spec.roleRef.name", "web").apply().await;
    world.eventually("the create", PATIENCE, async || front.has_snared().then_some(())).await;
    world.delivered("again-tls", &issued).await;
    world.becomes("vaultcertsync/again", "Ready", "True", "Synced").await;
    let writes = world.kubernetes_writes_since(mark);
    let creates = writes.iter().filter(|one| one.resource == "secrets" && one.code < 300).count();
    assert_eq!(creates, 1, "{writes:?}");
}

/// Kills a replica at its first, second, … request of this kind, each time about another resource, until
/// there are no more; how many there were.
async fn killed_at_each(
    world: &World,
    operator: &Operator,
    front: &Front,
    about: &str,
    when: fn(&http::Method, &str) -> bool,
    mut begin: impl AsyncFnMut(u32),
    mut done: impl AsyncFnMut(u32) -> bool,
) -> u32 {
    for after in 0..12 {
        front.hold(about, when, after);
        begin(after).await;
        let mut complete = false;
        world
            .eventually("a request, or the end", PATIENCE, async || {
                complete = !front.has_snared() && done(after).await;
                (complete || front.has_snared()).then_some(())
            })
            .await;
        if complete {
            // Its last requests may still be on their way.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if !front.has_snared() {
            front.let_go();
            return after;
        }
        operator.kill9().await.expect("a signal");
        front.let_go();
        operator.start_again().await.expect("it starts");
        operator.ready(PATIENCE).await.expect("it is ready");
        world
            .eventually("what was begun", PATIENCE, async || done(after).await.then_some(()))
            .await;
    }
    panic!("a pass has no twelve requests");
}

async fn a_syncer_killed_at_each_request_leaves_all_or_nothing(world: World) {
    let vault = Front::before_vault(&world.stage.lab).await.expect("a front");
    let authority = Authority::new("World CA");
    let issued = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.backend().with("spec.vault.address", vault.url()).apply().await;
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    let mark = world.mark();
    let is_done = async |name: &str| {
        let sync = world.get(&format!("vaultcertsync/{name}")).await;
        sync.is_some_and(|sync| sync["status"]["summary"] == "1/1")
            && world.secret(&format!("{name}-tls")).await.is_some()
    };
    let names = |prefix: &'static str| move |number: u32| format!("{prefix}{number}");
    let (in_vault, in_kubernetes) = (names("v"), names("k"));
    let begin = async |name: String| {
        world.sync(&name).with("spec.roleRef.name", "web").apply().await;
    };
    let syncer = &world.stage.syncer;
    let asked = killed_at_each(
        &world,
        syncer,
        &vault,
        "/v1/",
        |_, path| !path.contains("sys/"),
        async |number| begin(in_vault(number)).await,
        async |number| is_done(&in_vault(number)).await,
    )
    .await;
    let about = format!("/namespaces/{}/", world.id);
    let written = killed_at_each(
        &world,
        syncer,
        way(&world),
        &about,
        |method, _| method != "GET",
        async |number| begin(in_kubernetes(number)).await,
        async |number| is_done(&in_kubernetes(number)).await,
    )
    .await;
    say(&format!("killed at each of {asked} requests to Vault and {written} to the API server"));
    // A login, and the data; the Secret and the status.
    assert!(asked >= 2 && written >= 2, "{asked} and {written}");
    for name in (0..=asked).map(in_vault).chain((0..=written).map(in_kubernetes)) {
        let secret = world.delivered(&format!("{name}-tls"), &issued).await;
        let creates = world.kubernetes_writes_since(mark).into_iter().filter(|one| {
            one.resource == "secrets" && one.code < 300 && one.name == secret.name_any()
        });
        assert_eq!(creates.count(), 1, "{name}");
    }
}

async fn a_role_writer_killed_at_each_request_ends_where_it_should(world: World) {
    let vault = Front::before_vault(&world.stage.lab).await.expect("a front");
    world.backend().with("spec.vault.address", vault.url()).apply().await;
    world.ready(&world.backend_ref()).await;
    let writer = &world.stage.role_writer;
    let name = |number: u32| format!("r{number}");
    let begin = async |number: u32| {
        world.create_iam_role(ACCOUNT, &name(number)).await;
        world.role(&name(number)).apply().await;
    };
    let is_done = async |number: u32| {
        let ready = world.condition(&format!("vaultawsrole/{}", name(number)), "Ready").await;
        ready.is_some_and(|ready| ready.status == "True")
    };
    let about = world.iam_role("r");
    let is_write = |method: &http::Method, _: &str| method != "GET";
    let written = killed_at_each(&world, writer, &vault, &about, is_write, begin, is_done).await;
    say(&format!("killed at each of {written} writes to Vault"));
    assert!(written >= 2, "a policy and a role: {written}");
    for number in 0..=written {
        let vault_role = world.iam_role(&name(number));
        let role = world.vault_role(&vault_role).await.expect("the role in Vault");
        let policy = world.policy_name(&vault_role);
        assert_eq!(role["token_policies"], json!([policy]));
        let text = world.vault_policy(&policy).await.expect("the policy in Vault");
        assert!(text.starts_with("# vault-aws-operator v1 "), "{text}");
    }
}

async fn a_resource_that_fits_its_type_no_more_is_left_out_and_the_rest_goes_on(world: World) {
    let (authority, _) = world.with_delivered().await;
    // As an older or newer version of the CRD might have left it.
    let name = "vaultcertsyncs.vaultaws.dev";
    let crd: Value =
        serde_json::from_str(&world.kubectl(&["get", "crd", name, "-o", "json"]).await)
            .expect("JSON");
    let strict = crd["spec"]["versions"][0]["schema"].clone();
    let loose = json!({"openAPIV3Schema": {
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
    }});
    let set = async |schema: &Value| {
        let patch = json!([{"op": "replace", "path": "/spec/versions/0/schema", "value": schema}]);
        world.kubectl(&["patch", "crd", name, "--type=json", "-p", &patch.to_string()]).await;
    };
    set(&loose).await;
    let odd = json!({
        "apiVersion": "vaultaws.dev/v1alpha1",
        "kind": "VaultCertSync",
        "metadata": {"name": "odd", "namespace": world.id},
        "spec": {"refreshInterval": [1, 2], "certificates": "all of them"},
    });
    let file = world.stage.lab.folder().join(format!("{}-odd.json", world.id));
    std::fs::write(&file, odd.to_string()).expect("a file");
    let applied = async || {
        let file = file.to_string_lossy().into_owned();
        let output = world.stage.lab.kubectl(&["create", "-f", &file]).await.expect("kubectl");
        output.status.success().then_some(())
    };
    world.eventually("the API server to take it", PATIENCE, applied).await;
    set(&strict).await;
    world
        .eventually("the syncer to count it", PATIENCE, async || {
            let metrics = world.stage.syncer.metrics().await.ok()?;
            let counted = metrics.lines().any(|line| {
                line.starts_with("vault_aws_malformed_objects_total")
                    && line.contains("VaultCertSync")
            });
            counted.then_some(())
        })
        .await;
    // After a relist too.
    world.stage.syncer.kill9().await.expect("a signal");
    world.stage.syncer.start_again().await.expect("it starts");
    world.stage.syncer.ready(PATIENCE).await.expect("it is ready beside an odd resource");
    arrives(&world, &authority, PATIENCE).await;
    world.delete("vaultcertsync/odd").await;
    let _ = std::fs::remove_file(Path::new(&file));
}

async fn a_right_that_is_taken_away_stops_one_namespace_until_it_is_back(world: World) {
    let (authority, _) = world.with_delivered().await;
    let secret = world.secret("web-tls").await.expect("the Secret");
    let bindings = world.list("rolebinding").await;
    for binding in &bindings {
        let name = binding["metadata"]["name"].as_str().expect("a name");
        world.delete(&format!("rolebinding/{name}")).await;
    }
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.refresh("web").await;
    world
        .eventually("the sync to say so", PATIENCE * 2, async || {
            let ready = world.condition("vaultcertsync/web", "Ready").await?;
            (ready.reason == "NoSecretAccess").then_some(())
        })
        .await;
    assert_eq!(world.secret("web-tls").await, Some(secret));
    world.grant_secrets().await;
    let took = holds(&world, &next, Duration::from_secs(75)).await;
    world.becomes("vaultcertsync/web", "Ready", "True", "Synced").await;
    say(&format!("a right given back: recovered after {:.1} s", took.as_secs_f64()));
}
