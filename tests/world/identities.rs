//! The ways to an AWS identity: who must consent, who is asked, and that no identity holds up another.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::SignedDuration;
use serde_json::json;
use vault_aws_lab::{Component, Keys, Operator, Treatment, Vending, aws::trust_service_account};
use vault_aws_operator::grants::kubernetes::Tenant;

use crate::{
    audit::Mark,
    certificates::{Authority, Issued},
    grants::refusals_are_meant,
    leaks,
    manifest::Manifest,
    world::{ACCOUNT, PATIENCE, World},
};

tests![
    one_identity_at_most_can_be_given,
    a_service_account_that_consents_is_exchanged_for_the_role,
    a_service_account_without_a_role_for_it_says_what_to_apply,
    a_token_for_another_audience_is_refused_by_aws,
    an_identity_that_the_rule_does_not_list_is_denied,
    keys_in_a_secret_are_used_if_it_consents_and_again_when_they_change,
    another_sts_endpoint_is_asked_and_signed_for,
    a_slow_identity_holds_nobody_up,
    a_throttled_account_rests_as_a_whole_and_others_go_on,
];

tests![in outage_tests: the_operators_own_identity_is_asked_for_ahead_of_its_end_and_once_for_all];

/// How fast a change of what a sync refers to must arrive.
const WAKING: Duration = Duration::from_secs(5);
/// An account of the test that AWS throttles: the operator leaves it alone as a whole.
const THROTTLED_ACCOUNT: &str = "777788889999";

async fn one_identity_at_most_can_be_given(world: World) {
    let all = [
        ("assumeRole", json!({})),
        ("serviceAccount", json!({"name": "certs"})),
        ("secretRef", json!({"name": "keys"})),
        ("ambient", json!({})),
    ];
    for (first, one) in all.clone() {
        for (second, other) in all.clone() {
            let sync = world.sync("web").with("spec.identity", json!({first: one, second: other}));
            if first == second {
                sync.apply().await;
            } else {
                let refused = sync.refused().await;
                assert!(refused.contains("give one of assumeRole"), "{refused}");
            }
        }
    }
}

async fn a_service_account_that_consents_is_exchanged_for_the_role(world: World) {
    let issued = irsa(&world, "sts.amazonaws.com").await;
    grant_tokens(&world).await;
    let mark = world.mark();
    world.backend().apply().await;
    world.role("irsa").apply().await;
    by_service_account(&world, "irsa").apply().await;
    let ready = world.becomes("vaultcertsync/irsa", "Ready", "False", "IdentityNotReady").await;
    assert!(ready.message.contains("no ServiceAccount `certs`"), "{}", ready.message);

    // It is there, and allows somebody else.
    service_account(&world, Some("other")).await;
    world
        .eventually("the missing consent to be told", WAKING, async || {
            let ready = world.condition("vaultcertsync/irsa", "Ready").await?;
            ready.message.contains("vaultaws.dev/allow-sync=irsa").then_some(())
        })
        .await;
    assert_eq!(exchanged(&world), Vec::<u16>::new());
    assert_eq!(tokens_asked(&world, mark), 0);

    let begun = Instant::now();
    service_account(&world, Some("irsa")).await;
    world.delivered("irsa-tls", &issued).await;
    assert!(begun.elapsed() < WAKING, "{:?}", begun.elapsed());
    world.ready("vaultcertsync/irsa").await;
    assert_eq!(exchanged(&world), [200]);
    assert_eq!(tokens_asked(&world, mark), 1);

    // Another sync is not meant, until all are; then it is another version of consent.
    by_service_account(&world, "second").with("spec.roleRef.name", "irsa").apply().await;
    world.becomes("vaultcertsync/second", "Ready", "False", "IdentityNotReady").await;
    service_account(&world, Some("*")).await;
    world.delivered("second-tls", &issued).await;

    // Consent is taken back: nothing is read any more, and what was delivered stays.
    service_account(&world, None).await;
    for sync in ["irsa", "second"] {
        let name = format!("vaultcertsync/{sync}");
        world.becomes(&name, "Ready", "False", "IdentityNotReady").await;
        world.delivered(&format!("{sync}-tls"), &issued).await;
    }
}

async fn a_service_account_without_a_role_for_it_says_what_to_apply(world: World) {
    let issued = irsa(&world, "sts.amazonaws.com").await;
    service_account(&world, Some("*")).await;
    refusals_are_meant(&world);
    let mark = world.mark();
    world.backend().apply().await;
    world.role("irsa").apply().await;
    by_service_account(&world, "irsa").apply().await;
    let what = ("Ready", "False", "NoServiceAccountAccess");
    let ready = world.becomes("vaultcertsync/irsa", what.0, what.1, what.2).await;
    assert!(ready.message.contains("deploy/tenant/service-accounts"), "{}", ready.message);
    assert!(ready.message.contains("`certs`"), "{}", ready.message);
    // Other syncs of the namespace need no such right.
    world.put_certificate("web", "tls", &issued).await;
    world.role("web").apply().await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &issued).await;
    // A Role for other ServiceAccounts is not enough either.
    apply_tokens(&world, "web").await;
    world
        .eventually("the ServiceAccounts to be seen", PATIENCE, async || {
            let asked = world.kubernetes_requests_since(mark);
            asked
                .iter()
                .any(|one| one.resource == "serviceaccounts/token" && one.code == 403)
                .then_some(())
        })
        .await;
    world.becomes("vaultcertsync/irsa", what.0, what.1, what.2).await;
    grant_tokens(&world).await;
    world.delivered("irsa-tls", &issued).await;
}

async fn a_token_for_another_audience_is_refused_by_aws(world: World) {
    irsa(&world, "sts.example.com").await;
    grant_tokens(&world).await;
    service_account(&world, Some("*")).await;
    // The account's provider takes sts.amazonaws.com alone, whatever the role trusts.
    let audience = "sts.example.com";
    world.backend().with("spec.aws.webIdentityAudience", audience).apply().await;
    world.role("irsa").apply().await;
    by_service_account(&world, "irsa").apply().await;
    let what = ("Ready", "False", "AwsCredentialsRefused");
    let ready = world.becomes("vaultcertsync/irsa", what.0, what.1, what.2).await;
    assert!(ready.message.contains("Incorrect token audience"), "{}", ready.message);
    assert!(exchanged(&world).iter().all(|status| *status == 400));
}

async fn an_identity_that_the_rule_does_not_list_is_denied(world: World) {
    world.backend().with("spec.tenancy.0.identities", json!(["AssumeRole"])).apply().await;
    world.role("web").apply().await;
    for (kind, identity) in [
        ("ServiceAccount", json!({"serviceAccount": {"name": "certs"}})),
        ("Secret", json!({"secretRef": {"name": "keys"}})),
        ("Ambient", json!({"ambient": {}})),
    ] {
        let sync = world.sync("web").with("spec.identity", identity);
        sync.apply().await;
        let told = format!("does not grant identity {kind}");
        world
            .eventually(&told, PATIENCE, async || {
                let ready = world.condition("vaultcertsync/web", "Ready").await?;
                (ready.reason == "TenancyDenied" && ready.message.contains(&told)).then_some(())
            })
            .await;
    }
    // All but the operator's own are granted where the rule lists none.
    world.backend().apply().await;
    world.becomes("vaultcertsync/web", "Ready", "False", "TenancyDenied").await;
    world.sync("web").with("spec.identity", json!({"secretRef": {"name": "keys"}})).apply().await;
    world.becomes("vaultcertsync/web", "Ready", "False", "IdentityNotReady").await;
}

async fn keys_in_a_secret_are_used_if_it_consents_and_again_when_they_change(world: World) {
    let issued = certificate(&world, "web").await;
    world.backend().apply().await;
    world.role("web").apply().await;
    world.sync("web").with("spec.identity", json!({"secretRef": {"name": "keys"}})).apply().await;
    let told = async |part: &str| {
        world
            .eventually(part, WAKING, async || {
                let ready = world.condition("vaultcertsync/web", "Ready").await?;
                ready.message.contains(part).then_some(())
            })
            .await;
    };
    world.ready("vaultawsrole/web").await;
    told("there is no Secret `keys`").await;
    let keys = world.assume(ACCOUNT, "web").await;
    secret_with(&world, &keys).apply().await;
    told("label it vaultaws.dev/use=aws-credentials").await;
    let consenting = |keys: &Keys| {
        let label = json!({"vaultaws.dev/use": "aws-credentials"});
        secret_with(&world, keys).with("metadata.labels", label)
    };
    consenting(&keys).without("data.aws_secret_access_key").apply().await;
    told("no usable `aws_secret_access_key`").await;

    let wrong = Keys { secret_key: "this-is-not-the-secret-key".into(), ..keys.clone() };
    consenting(&wrong).apply().await;
    let refused =
        world.becomes("vaultcertsync/web", "Ready", "False", "AwsCredentialsRefused").await;
    // What STS answers to Vault is told by its code and message.
    assert!(refused.message.contains("from STS: SignatureDoesNotMatch"), "{}", refused.message);
    assert!(!refused.message.contains('<'), "{}", refused.message);
    let begun = Instant::now();
    consenting(&keys).apply().await;
    world.delivered("web-tls", &issued).await;
    assert!(begun.elapsed() < WAKING, "{:?}", begun.elapsed());
    world.ready("vaultcertsync/web").await;

    let next = world.assume(ACCOUNT, "web").await;
    consenting(&next).apply().await;
    world.refresh("web").await;
    world
        .eventually("a login with the new keys", PATIENCE, async || {
            world
                .stage
                .lab
                .sts()
                .requests()
                .iter()
                .find(|one| one.access_key == next.access_key && one.status == 200)
                .map(drop)
        })
        .await;
    world.ready("vaultcertsync/web").await;
    // Nobody assumed the role for it.
    assert!(asked_for(&world, "web").is_empty());

    let label = json!({"metadata": {"labels": {"vaultaws.dev/use": null}}});
    world.patch("secret/keys", label).await;
    world.becomes("vaultcertsync/web", "Ready", "False", "IdentityNotReady").await;
    world.delivered("web-tls", &issued).await;
}

async fn another_sts_endpoint_is_asked_and_signed_for(world: World) {
    let issued = certificate(&world, "web").await;
    // The same front by another name than that in the operator's environment.
    let endpoint = world.stage.lab.sts_url().replace("127.0.0.1", "localhost");
    let mark = world.stage.lab.sts().requests().len();
    world.backend().with("spec.aws.stsEndpoint", endpoint.as_str()).apply().await;
    world.role("web").apply().await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &issued).await;
    let assumed = asked_for(&world, "web");
    assert!(!assumed.is_empty() && assumed.iter().all(|(host, _)| host == "localhost"));
    let requests = world.stage.lab.sts().requests();
    let shown = requests.iter().skip(mark.min(requests.len())).any(|one| {
        one.action == "GetCallerIdentity" && one.host == "localhost" && one.status == 200
    });
    assert!(shown, "the login was signed for that host");
    // In clear only on this machine.
    for refused in ["http://sts.example.com", "https://sts.example.com/path", "localhost"] {
        let refused = world.backend().with("spec.aws.stsEndpoint", refused).refused().await;
        assert!(refused.contains("stsEndpoint"), "{refused}");
    }
    let other = "https://sts.eu-west-1.amazonaws.com";
    world.backend().with("spec.aws.stsEndpoint", other).apply().await;
    world.becomes(&world.backend_ref(), "Ready", "False", "InvalidSpec").await;
}

async fn a_slow_identity_holds_nobody_up(world: World) {
    // More than the passes that run at once.
    const WAITING: usize = 40;
    const SLOW: Duration = Duration::from_secs(7);
    let issued = certificate(&world, "web").await;
    let slow = world.create_iam_role(ACCOUNT, "slow").await;
    world.put_certificate("slow", "tls", &issued).await;
    world.backend().apply().await;
    for role in ["web", "slow"] {
        world.role(role).apply().await;
        world.ready(&format!("vaultawsrole/{role}")).await;
    }
    world.stage.lab.sts().treat(&slow, Treatment::Delay(SLOW));
    let begun = Instant::now();
    let syncs = (0..WAITING)
        .map(|number| world.sync(&format!("slow{number}")).with("spec.roleRef.name", "slow"));
    futures::future::join_all(syncs.map(|sync| async move { sync.apply().await })).await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &issued).await;
    assert!(begun.elapsed() < SLOW, "{:?}", begun.elapsed());
    assert_eq!(world.secret("slow0-tls").await, None, "the slow ones still wait");
    for number in [0, WAITING - 1] {
        world.delivered(&format!("slow{number}-tls"), &issued).await;
    }
    world.stage.lab.sts().treat_well(&slow);
    assert_eq!(asked_for(&world, "slow").len(), 1, "all of them wait for one answer");
}

async fn a_throttled_account_rests_as_a_whole_and_others_go_on(world: World) {
    let names = ["a", "b", "c", "d", "e"];
    let issued = certificate(&world, "web").await;
    let sts = world.stage.lab.sts();
    let account = format!("arn:aws:iam::{THROTTLED_ACCOUNT}:");
    sts.treat(&account, Treatment::Refuse(400, "Throttling"));
    let backend = world
        .backend()
        .with("spec.naming.role", "{account}-{iamRole}")
        .with("spec.tenancy.0.accounts", json!([ACCOUNT, THROTTLED_ACCOUNT]));
    backend.apply().await;
    let certificates = json!({"certificate": issued.certificate, "private_key": issued.key});
    for name in names {
        world.create_iam_role(THROTTLED_ACCOUNT, name).await;
        world.put_entry(THROTTLED_ACCOUNT, name, "tls", certificates.clone()).await;
        world.role(name).with("spec.accountId", THROTTLED_ACCOUNT).apply().await;
        world.sync(name).apply().await;
    }
    for name in names {
        let sync = format!("vaultcertsync/{name}");
        world.becomes(&sync, "Ready", "False", "AwsThrottled").await;
    }
    let asked = || sts.requests().iter().filter(|one| one.role.starts_with(&account)).count();
    let before = asked();
    world.role("web").apply().await;
    let begun = Instant::now();
    world.sync("web").apply().await;
    world.delivered("web-tls", &issued).await;
    assert!(begun.elapsed() < WAKING, "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(8)).await;
    // One identity tries for all, after 1, 2, 4 and 8 seconds, and the SDK asks twice each time.
    let tried = asked() - before;
    assert!(tried <= 8, "{tried} requests for an account that is throttled");
    sts.treat_well(&account);
    for name in names {
        let what = format!("Secret {name}-tls");
        world
            .eventually(&what, PATIENCE * 3, async || world.secret(&format!("{name}-tls")).await)
            .await;
    }
}

async fn the_operators_own_identity_is_asked_for_ahead_of_its_end_and_once_for_all(world: World) {
    // The operator wants others five minutes before these end.
    const AHEAD: SignedDuration = SignedDuration::from_mins(5);
    const FRESH: SignedDuration = SignedDuration::from_secs(15);
    let issued = certificate(&world, "web").await;
    let stage = &world.stage;
    assert!(stage.syncer.stop().await.expect("it stops"));
    let first = session(&world).await;
    let vending = Vending::start(first.clone(), AHEAD + FRESH).await.expect("an endpoint");
    let binary = Path::new(env!("CARGO_BIN_EXE_vault-aws"));
    // For this world alone: syncs of others would ask for credentials too.
    let mut env = vending.env();
    env.push(("VAULT_AWS_NAMESPACES", &world.id));
    let started = Operator::start_with(&stage.lab, Component::Syncer, binary, &env).await;
    let syncer = started.expect("another syncer");
    syncer.ready(PATIENCE).await.expect("it is ready");

    let rule = "spec.tenancy.0.identities";
    world.backend().with(rule, json!(["Ambient"])).apply().await;
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    let begun = Instant::now();
    ambient(&world, "web", &world.id).apply().await;
    world.delivered("web-tls", &issued).await;
    assert_eq!((vending.vended(), vending.refused()), (1, 0));
    assert_eq!(logged_in_with(&world, &first), 1);

    // Another backend is another session; the credentials are still good.
    let others: Vec<String> = (0..5).map(|number| format!("{}-{number}", world.id)).collect();
    for other in &others {
        let backend = world.backend().with("metadata.name", other.as_str());
        let backend = backend.with("spec.auth.management", "Observed").without("spec.auth.client");
        backend.with(rule, json!(["Ambient"])).apply().await;
        world.ready(&format!("vaultawsbackend/{other}")).await;
    }
    ambient(&world, "o0", &others[0]).apply().await;
    world.delivered("o0-tls", &issued).await;
    assert!(begun.elapsed() < FRESH.unsigned_abs(), "this test is too slow to tell");
    assert_eq!(vending.vended(), 1);
    assert_eq!(logged_in_with(&world, &first), 2);

    // They are not at their end, and yet others are fetched: once, although several want them.
    tokio::time::sleep(FRESH.unsigned_abs().saturating_sub(begun.elapsed())).await;
    let second = session(&world).await;
    vending.vend(second.clone(), AHEAD * 3);
    vending.be_slow(Duration::from_secs(1));
    for (number, other) in others.iter().enumerate().skip(1) {
        ambient(&world, &format!("o{number}"), other).apply().await;
    }
    for number in 1..others.len() {
        world.delivered(&format!("o{number}-tls"), &issued).await;
    }
    assert_eq!(vending.vended(), 2);
    assert_eq!((logged_in_with(&world, &first), logged_in_with(&world, &second)), (2, 4));
    assert!(asked_for(&world, "web").is_empty(), "no role was assumed");

    assert!(syncer.stop().await.expect("it stops"));
    stage.syncer.start_again().await.expect("the syncer starts");
    stage.syncer.ready(PATIENCE).await.expect("the syncer is ready");
}

// === what they stand on ===

/// A certificate `tls` of an IAM role.
async fn certificate(world: &World, role: &str) -> Issued {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate(role, "tls", &issued).await;
    issued
}

/// An IAM role `irsa` that trusts the ServiceAccount `certs` of this world, if the token is for this
/// audience, and a certificate of it.
pub(crate) async fn irsa(world: &World, audience: &str) -> Issued {
    let lab = &world.stage.lab;
    let issuer = lab.kube_url();
    lab.aws.trust_issuer(ACCOUNT, &issuer, &["sts.amazonaws.com"]).await.expect("a provider");
    let trust = trust_service_account(ACCOUNT, &issuer, audience, &world.id, "certs");
    let name = world.iam_role("irsa");
    lab.aws.create_role_trusting(ACCOUNT, &name, "/", &trust).await.expect("an IAM role");
    certificate(world, "irsa").await
}

pub(crate) fn by_service_account(world: &World, sync: &str) -> Manifest {
    world.sync(sync).with("spec.identity", json!({"serviceAccount": {"name": "certs"}}))
}

/// The ServiceAccount `certs`, and whom it allows.
pub(crate) async fn service_account(world: &World, allows: Option<&str>) {
    let value = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "certs", "annotations": {}},
    });
    let manifest = Manifest::new(world, value);
    match allows {
        Some(sync) => {
            let annotations = json!({"vaultaws.dev/allow-sync": sync});
            manifest.with("metadata.annotations", annotations).apply().await;
        }
        None => drop(manifest.apply().await),
    }
}

/// What `deploy/tenant/service-accounts` gives, with the name of the ServiceAccount.
pub(crate) async fn grant_tokens(world: &World) {
    apply_tokens(world, "certs").await;
}

async fn apply_tokens(world: &World, name: &str) {
    let service_accounts = [name.to_owned()];
    world.grant(&Tenant { service_accounts: &service_accounts, ..Tenant::default() }).await;
}

fn tokens_asked(world: &World, mark: Mark) -> usize {
    let asked = world.kubernetes_requests_since(mark);
    asked.iter().filter(|one| one.resource == "serviceaccounts/token").count()
}

/// STS's answers to tokens for the role `irsa`.
fn exchanged(world: &World) -> Vec<u16> {
    asked_for(world, "irsa").into_iter().map(|(_, status)| status).collect()
}

/// What STS was asked about sessions of an IAM role of [`ACCOUNT`]: host and answer.
fn asked_for(world: &World, role: &str) -> Vec<(String, u16)> {
    let arn = world.iam_arn(ACCOUNT, role);
    let requests = world.stage.lab.sts().requests().into_iter();
    requests.filter(|one| one.role == arn).map(|one| (one.host, one.status)).collect()
}

/// How often Vault had these keys confirmed. It asks twice for a service token.
fn logged_in_with(world: &World, keys: &Keys) -> usize {
    let requests = world.stage.lab.sts().requests();
    requests.iter().filter(|one| one.access_key == keys.access_key).count() / 2
}

fn secret_with(world: &World, keys: &Keys) -> Manifest {
    leaks::plant("AWS secret key", &keys.secret_key);
    let token = keys.session_token.as_deref().unwrap_or_default();
    leaks::plant("AWS session token", token);
    let value = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "keys"},
        "data": {
            "aws_access_key_id": STANDARD.encode(&keys.access_key),
            "aws_secret_access_key": STANDARD.encode(&keys.secret_key),
            "aws_session_token": STANDARD.encode(token),
        },
    });
    Manifest::new(world, value)
}

/// Keys of a session of the role `web`.
async fn session(world: &World) -> Keys {
    let keys = world.assume(ACCOUNT, "web").await;
    leaks::plant("AWS secret key", &keys.secret_key);
    keys
}

/// A sync of the role `web` by the operator's own identity, at a backend.
fn ambient(world: &World, name: &str, backend: &str) -> Manifest {
    let principal = json!({
        "backendRef": {"name": backend},
        "accountId": ACCOUNT,
        "iamRole": world.iam_role("web"),
    });
    let spec = json!({"principal": principal, "identity": {"ambient": {}}});
    world.sync(name).with("spec", spec)
}
