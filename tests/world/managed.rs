//! `auth.management: Managed`: the mount is as declared, no more and no less, and stays so.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use vault_aws_lab::installation::NAMESPACE;

use crate::{
    audit::Mark,
    leaks,
    manifest::Manifest,
    world::{ACCOUNT, OTHER_ACCOUNT, PATIENCE, World},
};

tests![
    a_mount_is_enabled_tuned_and_configured_whole,
    each_field_is_written_once_and_then_found_equal,
    a_field_that_is_not_given_is_left_to_others,
    what_somebody_changed_is_put_right,
    a_forged_sts_endpoint_is_put_right_first_and_told,
    a_config_client_that_is_deleted_or_opened_is_back_within_a_minute,
    a_forged_sts_endpoint_is_put_right_although_a_secret_is_missing,
    a_forged_sts_endpoint_that_cannot_be_put_right_is_told_once,
    changed_keys_are_written_once,
    a_key_rotated_elsewhere_is_left_alone,
    an_external_id_follows_its_secret,
    an_observed_mount_is_not_written,
    a_deleted_backend_leaves_the_mount_as_it_is,
    what_vault_would_refuse_is_refused_by_the_schema,
    what_vault_refuses_is_told_in_the_same_words_each_time,
    a_mount_of_another_type_is_not_touched,
];

const OTHER_STS: &str = "http://127.0.0.1:9";
const FORGED: &str = "https://sts.evil.example.com";

// === what Vault has ===

fn mount(world: &World) -> String {
    format!("sys/auth/{}", world.auth_mount())
}

fn tune(world: &World) -> String {
    format!("sys/mounts/auth/{}/tune", world.auth_mount())
}

fn config(world: &World, part: &str) -> String {
    format!("auth/{}/config/{part}", world.auth_mount())
}

async fn client(world: &World) -> Value {
    world.read(&config(world, "client")).await.expect("config/client")
}

async fn identity(world: &World) -> Value {
    world.read(&config(world, "identity")).await.expect("config/identity")
}

async fn account(world: &World) -> Value {
    world.read(&config(world, &format!("sts/{ACCOUNT}"))).await.unwrap_or_default()
}

async fn ttls(world: &World) -> (Value, Value) {
    let config = world.read(&mount(world)).await.expect("the mount")["config"].take();
    (config["default_lease_ttl"].clone(), config["max_lease_ttl"].clone())
}

/// All that a managed mount has.
async fn everything(world: &World) -> Value {
    let (default, max) = ttls(world).await;
    json!({
        "default_lease_ttl": default,
        "max_lease_ttl": max,
        "client": client(world).await,
        "identity": identity(world).await,
        "account": account(world).await,
    })
}

// === what is declared ===

fn sts_role(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{name}")
}

/// With every field that there is.
fn whole(world: &World) -> Manifest {
    world
        .backend()
        .with("spec.auth.serverId", "vault.lab")
        .with("spec.auth.defaultLeaseTtl", "1h")
        .with("spec.auth.maxLeaseTtl", "2h")
        .with("spec.auth.client.useStsRegionFromClient", false)
        .with("spec.auth.client.ec2Endpoint", "https://ec2.example.com")
        .with("spec.auth.client.allowedStsHeaderValues", json!(["x-amz-foo", "X-Amz-Bar"]))
        .with("spec.auth.client.maxRetries", 3)
        .with(
            "spec.auth.identity",
            json!({
                "iamAlias": "unique_id",
                "iamMetadata": ["client_user_id"],
                "ec2Alias": "instance_id",
                "ec2Metadata": ["region"],
            }),
        )
        .with("spec.auth.accounts", json!([{"accountId": ACCOUNT, "stsRoleArn": sts_role("ask")}]))
}

async fn configured(world: &World) {
    world.becomes(&world.backend_ref(), "MountConfigured", "True", "MountConfigured").await;
    world.ready(&world.backend_ref()).await;
}

/// Writes a Secret in the operator's namespace. Its name, which is this world's.
pub(crate) async fn own_secret(world: &World, name: &str, data: Value) -> String {
    let name = format!("{}-{name}", world.id);
    let api = Api::<Secret>::namespaced(world.kube(), NAMESPACE);
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data,
    });
    let parameters = PatchParams::apply("world").force();
    api.patch(&name, &parameters, &Patch::Apply(&object)).await.expect("a Secret");
    name
}

fn keys(access_key: &str, secret_key: &str) -> Value {
    leaks::plant("AWS secret key of a test", secret_key);
    json!({"aws_access_key_id": access_key, "aws_secret_access_key": secret_key})
}

// === looking ===

/// Asks the backend to compare, and waits until it has.
async fn refresh(world: &World) {
    // What one look changes, another one looks at: after the second, the first is over.
    for _ in 0..2 {
        let mark = world.mark();
        world.refresh_backend().await;
        // The last that is read.
        let last = format!("sys/internal/ui/mounts/{}", world.kv_mount());
        world
            .eventually("the backend to compare the mounts", PATIENCE, async || {
                let requests = world.vault_requests_since(mark);
                requests.iter().any(|request| request.path == last).then_some(())
            })
            .await;
    }
}

/// What was written since, with its fields.
fn writes(world: &World, mark: Mark) -> Vec<(String, BTreeSet<String>)> {
    let writes = world.vault_writes_since(mark).into_iter();
    writes.map(|write| (write.path, write.fields.into_iter().collect())).collect()
}

fn fields(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The events about the backend: type, reason and note.
async fn events(world: &World) -> Vec<(String, String, String)> {
    let api = Api::<Event>::namespaced(world.kube(), "default");
    let all = api.list(&ListParams::default()).await.expect("events");
    let about = |event: &Event| {
        event.regarding.as_ref().is_some_and(|about| about.name.as_deref() == Some(&world.id))
    };
    let text = |text: Option<String>| text.unwrap_or_default();
    let all = all.items.into_iter().filter(about);
    all.map(|event| (text(event.type_), text(event.reason), text(event.note))).collect()
}

pub(crate) async fn told(world: &World, reason: &str) -> (String, String) {
    world
        .eventually(&format!("an event {reason}"), PATIENCE, async || {
            let events = events(world).await;
            let event = events.into_iter().find(|(_, found, _)| found == reason)?;
            Some((event.0, event.2))
        })
        .await
}

// === the tests ===

async fn a_mount_is_enabled_tuned_and_configured_whole(world: World) {
    world.grant_vault(&whole(&world)).await;
    let mark = world.mark();
    whole(&world).apply().await;
    configured(&world).await;
    let lab = &world.stage.lab;
    let vault = &world.seeds().vault.keys;
    assert_eq!(ttls(&world).await, (json!(3600), json!(7200)));
    let client = client(&world).await;
    for (field, value) in [
        ("access_key", json!(vault.access_key)),
        ("endpoint", json!("https://ec2.example.com")),
        ("iam_endpoint", json!(lab.aws_url())),
        ("sts_endpoint", json!(lab.sts_url())),
        ("sts_region", json!("us-east-1")),
        ("use_sts_region_from_client", json!(false)),
        ("iam_server_id_header_value", json!("vault.lab")),
        ("allowed_sts_header_values", json!(["X-Amz-Bar", "X-Amz-Foo"])),
        ("max_retries", json!(3)),
    ] {
        assert_eq!(client[field], value, "{field}");
    }
    assert_eq!(
        identity(&world).await,
        json!({
            "iam_alias": "unique_id",
            "iam_metadata": ["account_id", "auth_type", "client_user_id"],
            "ec2_alias": "instance_id",
            "ec2_metadata": ["account_id", "auth_type", "region"],
        })
    );
    assert_eq!(account(&world).await, json!({"sts_role": sts_role("ask")}));
    let paths: Vec<String> = writes(&world, mark).into_iter().map(|(path, _)| path).collect();
    let accounts = config(&world, &format!("sts/{ACCOUNT}"));
    let [client, identity] = ["client", "identity"].map(|part| config(&world, part));
    assert_eq!(paths, [mount(&world), tune(&world), client, identity, accounts]);

    let mark = world.mark();
    let before = world.get(&world.backend_ref()).await.expect("the backend");
    refresh(&world).await;
    assert_eq!(writes(&world, mark), [], "nothing had changed");
    let after = world.get(&world.backend_ref()).await.expect("the backend");
    assert_eq!(before["status"], after["status"]);
    assert_eq!(after["status"]["stsEndpoint"], lab.sts_url());
    assert_eq!(after["status"]["clientKeys"]["accessKey"], vault.access_key);
}

async fn each_field_is_written_once_and_then_found_equal(world: World) {
    world.grant_vault(&whole(&world)).await;
    let mut backend = whole(&world);
    backend.apply().await;
    configured(&world).await;
    let [client, identity] = ["client", "identity"].map(|part| config(&world, part));
    let (tune, account) = (tune(&world), config(&world, &format!("sts/{ACCOUNT}")));
    // Vault stores some changes of config/client only with the retries.
    for (field, value, place, sent) in [
        ("defaultLeaseTtl", json!("30m"), &tune, &["default_lease_ttl"][..]),
        ("maxLeaseTtl", json!("90m"), &tune, &["max_lease_ttl"]),
        ("maxLeaseTtl", json!("0s"), &tune, &["max_lease_ttl"]),
        (
            "serverId",
            json!("vault.example.com"),
            &client,
            &["iam_server_id_header_value", "max_retries"],
        ),
        ("client.stsEndpoint", json!(OTHER_STS), &client, &["sts_endpoint", "max_retries"]),
        ("client.stsRegion", json!("eu-west-1"), &client, &["sts_region", "max_retries"]),
        (
            "client.useStsRegionFromClient",
            json!(true),
            &client,
            &["use_sts_region_from_client", "max_retries"],
        ),
        ("client.iamEndpoint", json!(OTHER_STS), &client, &["iam_endpoint", "max_retries"]),
        ("client.ec2Endpoint", json!(OTHER_STS), &client, &["endpoint", "max_retries"]),
        (
            "client.allowedStsHeaderValues",
            json!(["X-AMZ-foo-bar"]),
            &client,
            &["allowed_sts_header_values", "max_retries"],
        ),
        (
            "client.allowedStsHeaderValues",
            json!([]),
            &client,
            &["allowed_sts_header_values", "max_retries"],
        ),
        ("client.maxRetries", json!(-1), &client, &["max_retries"]),
        ("identity.iamAlias", json!("canonical_arn"), &identity, &["iam_alias"]),
        (
            "identity.iamMetadata",
            json!(["inferred_hostname", "canonical_arn", "client_arn"]),
            &identity,
            &["iam_metadata"],
        ),
        ("identity.iamMetadata", json!([]), &identity, &["iam_metadata"]),
        ("identity.ec2Alias", json!("image_id"), &identity, &["ec2_alias"]),
        ("identity.ec2Metadata", json!(["instance_id", "ami_id"]), &identity, &["ec2_metadata"]),
        ("accounts.0.stsRoleArn", json!(sts_role("path/other")), &account, &["sts_role"]),
    ] {
        let mark = world.mark();
        let before = everything(&world).await;
        backend = backend.with(&format!("spec.auth.{field}"), value.clone());
        backend.apply().await;
        configured(&world).await;
        refresh(&world).await;
        assert_ne!(everything(&world).await, before, "{field} reaches Vault");
        assert_eq!(writes(&world, mark), [(place.clone(), fields(sent))], "{field}: {value}");
    }
    let events = events(&world).await;
    let drift = events.iter().any(|(_, reason, _)| reason == "StsEndpointDrift");
    assert!(!drift, "the spec had changed, not Vault: {events:?}");
}

async fn a_field_that_is_not_given_is_left_to_others(world: World) {
    world.grant_vault(&whole(&world)).await;
    // The mount is somebody's already.
    world.write(&mount(&world), json!({"type": "aws"})).await;
    world.write(&tune(&world), json!({"default_lease_ttl": "7m", "max_lease_ttl": "8m"})).await;
    let theirs = json!({
        "iam_endpoint": "https://iam.example.com", "endpoint": "https://ec2.example.com",
        "sts_endpoint": "https://sts.example.com", "sts_region": "eu-west-3",
        "use_sts_region_from_client": true, "allowed_sts_header_values": ["X-Amz-Theirs"],
        "max_retries": 7, "access_key": "AKIATHEIRS0000000000", "secret_key": "theirs",
        "iam_server_id_header_value": "another",
    });
    world.write(&config(&world, "client"), theirs).await;
    world.write(&config(&world, "identity"), json!({"iam_alias": "full_arn"})).await;
    let entry = json!({"sts_role": sts_role("theirs")});
    world.write(&config(&world, &format!("sts/{ACCOUNT}")), entry).await;
    let before = everything(&world).await;

    let mark = world.mark();
    world.backend().without("spec.auth.client").apply().await;
    configured(&world).await;
    let mut expected = before.clone();
    expected["client"]["iam_server_id_header_value"] = json!("127.0.0.1");
    assert_eq!(everything(&world).await, expected);
    let sent = fields(&["iam_server_id_header_value", "max_retries"]);
    assert_eq!(writes(&world, mark), [(config(&world, "client"), sent)]);
    // What was declared and is not any more stays.
    let accounts = json!([{"accountId": OTHER_ACCOUNT, "stsRoleArn": sts_role("ask")}]);
    let given = world.backend().without("spec.auth.client").with("spec.auth.accounts", accounts);
    given.apply().await;
    configured(&world).await;
    world.backend().without("spec.auth.client").apply().await;
    configured(&world).await;
    refresh(&world).await;
    let other = world.read(&config(&world, &format!("sts/{OTHER_ACCOUNT}"))).await;
    assert_eq!(other, Some(json!({"sts_role": sts_role("ask")})));
    assert_eq!(everything(&world).await, expected);
}

async fn what_somebody_changed_is_put_right(world: World) {
    world.grant_vault(&whole(&world)).await;
    whole(&world).apply().await;
    configured(&world).await;
    let before = everything(&world).await;
    let [client, identity] = ["client", "identity"].map(|part| config(&world, part));
    let account = config(&world, &format!("sts/{ACCOUNT}"));
    let theirs = json!({
        "iam_endpoint": FORGED, "endpoint": FORGED, "sts_region": "eu-west-3",
        "use_sts_region_from_client": true, "allowed_sts_header_values": [], "max_retries": 7,
        "iam_server_id_header_value": "",
    });
    world.write(&client, theirs).await;
    let theirs = json!({
        "iam_alias": "full_arn", "iam_metadata": ["client_arn"], "ec2_alias": "image_id",
        "ec2_metadata": ["ami_id"],
    });
    world.write(&identity, theirs).await;
    world.write(&account, json!({"sts_role": sts_role("theirs")})).await;
    world.write(&tune(&world), json!({"default_lease_ttl": "7m", "max_lease_ttl": "8m"})).await;
    let mark = world.mark();
    refresh(&world).await;
    assert_eq!(everything(&world).await, before);
    let paths: Vec<String> = writes(&world, mark).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, [tune(&world), client, identity, account], "each place once");
    configured(&world).await;
    // A mount that is gone comes back, with all that is declared.
    assert_eq!(world.vault().delete(&mount(&world)).await.expect("Vault").0, 204);
    refresh(&world).await;
    assert_eq!(everything(&world).await, before);
    configured(&world).await;
}

async fn a_forged_sts_endpoint_is_put_right_first_and_told(world: World) {
    world.grant_vault(&whole(&world)).await;
    whole(&world).apply().await;
    configured(&world).await;
    let before = everything(&world).await;
    let forged = json!({"sts_endpoint": FORGED, "iam_endpoint": FORGED, "max_retries": 3});
    world.write(&tune(&world), json!({"max_lease_ttl": "3h"})).await;
    world.write(&config(&world, "identity"), json!({"iam_alias": "full_arn"})).await;
    let mark = world.mark();
    world.write(&config(&world, "client"), forged).await;
    // Nobody asks for a look.
    world
        .eventually("the STS endpoint to be put right", Duration::from_secs(60), async || {
            let now = client(&world).await;
            (now["sts_endpoint"] == world.stage.lab.sts_url()).then_some(())
        })
        .await;
    let (kind, note) = told(&world, "StsEndpointDrift").await;
    assert_eq!(kind, "Warning");
    assert!(note.contains(FORGED) && note.contains("put back"), "{note}");
    configured(&world).await;
    world
        .eventually("the rest to be put right", PATIENCE, async || {
            (everything(&world).await == before).then_some(())
        })
        .await;
    let writes = writes(&world, mark);
    let alone = (config(&world, "client"), fields(&["sts_endpoint", "max_retries"]));
    assert_eq!(writes.first(), Some(&alone), "before any other write: {writes:?}");
    assert_eq!(writes.len(), 4, "{writes:?}");
    let metrics = world.stage.role_writer.metrics().await.expect("metrics");
    let count =
        metrics.lines().find_map(|line| line.strip_prefix("vault_aws_sts_endpoint_drifts_total "));
    assert!(count.is_some_and(|count| count != "0"), "{count:?}");
}

async fn a_config_client_that_is_deleted_or_opened_is_back_within_a_minute(world: World) {
    world.grant_vault(&whole(&world)).await;
    world.backend().without("spec.auth.client.stsEndpoint").apply().await;
    configured(&world).await;
    let before = everything(&world).await;
    let path = config(&world, "client");
    world.write(&path, json!({"iam_server_id_header_value": "", "max_retries": -1})).await;
    let minute = Duration::from_secs(60);
    let back = async || (client(&world).await == before["client"]).then_some(());
    world.eventually("the server ID to be asked for again", minute, back).await;
    assert_eq!(world.vault().delete(&path).await.expect("Vault").0, 204);
    let back = async || {
        let found = world.read(&path).await?;
        (found["sts_region"] == before["client"]["sts_region"]).then_some(())
    };
    world.eventually("config/client to be back", minute, back).await;
    configured(&world).await;
    let drift = events(&world).await.iter().any(|(_, reason, _)| reason == "StsEndpointDrift");
    assert!(!drift, "no STS endpoint is declared");
}

async fn a_forged_sts_endpoint_is_put_right_although_a_secret_is_missing(world: World) {
    world.grant_vault(&whole(&world)).await;
    whole(&world).apply().await;
    configured(&world).await;
    let broken = whole(&world).with("spec.auth.client.credentialsRef.name", "nowhere");
    broken.clone().apply().await;
    let backend = world.backend_ref();
    world.becomes(&backend, "Ready", "False", "ReferenceNotFound").await;
    world.becomes(&backend, "MountConfigured", "False", "ReferenceNotFound").await;
    let forged = json!({"sts_endpoint": FORGED, "iam_endpoint": FORGED, "max_retries": 3});
    world.write(&config(&world, "client"), forged).await;
    world
        .eventually("both endpoints to be put right", PATIENCE, async || {
            let now = client(&world).await;
            let lab = &world.stage.lab;
            let right =
                now["sts_endpoint"] == lab.sts_url() && now["iam_endpoint"] == lab.aws_url();
            right.then_some(())
        })
        .await;
    told(&world, "StsEndpointDrift").await;
    whole(&world).apply().await;
    configured(&world).await;
}

async fn a_forged_sts_endpoint_that_cannot_be_put_right_is_told_once(world: World) {
    world.grant_vault(&whole(&world)).await;
    world.backend().apply().await;
    configured(&world).await;
    // The operator may read, and write no more.
    let managed = format!("sys/policies/acl/{}", world.operator_policy());
    let policy = world.vault_policy(&world.operator_policy()).await.expect("the policy");
    let rule = format!("path \"{}\" {{\n  capabilities = [", config(&world, "client"));
    let poorer = policy
        .replace(&format!("{rule}\"create\", \"read\", \"update\"]"), &format!("{rule}\"read\"]"));
    assert_ne!(poorer, policy);
    crate::grants::refusals_are_meant(&world);
    world.write(&managed, json!({"policy": poorer})).await;
    world.write(&config(&world, "client"), json!({"sts_endpoint": FORGED, "max_retries": 3})).await;
    world.refresh_backend().await;
    let backend = world.backend_ref();
    let first = world.becomes(&backend, "MountConfigured", "False", "VaultDenied").await;
    let (_, note) = told(&world, "StsEndpointDrift").await;
    assert!(note.contains("putting it back failed"), "{note}");
    for _ in 0..3 {
        world.refresh_backend().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.condition(&backend, "MountConfigured").await, Some(first));
    let drifts = |events: Vec<(String, String, String)>| {
        events.iter().filter(|(_, reason, _)| reason == "StsEndpointDrift").count()
    };
    assert_eq!(drifts(events(&world).await), 1);
    world.write(&managed, json!({"policy": policy})).await;
    world.refresh_backend().await;
    configured(&world).await;
    assert_eq!(client(&world).await["sts_endpoint"], world.stage.lab.sts_url());
    world
        .eventually("one more event, that it is put back", PATIENCE, async || {
            (drifts(events(&world).await) == 2).then_some(())
        })
        .await;
}

/// Asks for a look that may not come to its end.
async fn changed_keys_are_written_once(world: World) {
    world.grant_vault(&whole(&world)).await;
    let name =
        own_secret(&world, "keys", keys("AKIAFIRST00000000001", "first secret of the test")).await;
    world.backend().with("spec.auth.client.credentialsRef.name", name).apply().await;
    configured(&world).await;
    assert_eq!(client(&world).await["access_key"], "AKIAFIRST00000000001");
    let sent = (config(&world, "client"), fields(&["access_key", "secret_key", "max_retries"]));
    for (access_key, secret_key) in [
        // Vault shows no difference.
        ("AKIAFIRST00000000001", "second secret of the test"),
        ("AKIASECOND0000000002", "third secret of the test"),
    ] {
        own_secret(&world, "keys", keys(access_key, secret_key)).await;
        let mark = world.mark();
        refresh(&world).await;
        assert_eq!(writes(&world, mark), std::slice::from_ref(&sent), "{access_key}");
        assert_eq!(client(&world).await["access_key"], access_key);
        let mark = world.mark();
        refresh(&world).await;
        assert_eq!(writes(&world, mark), [], "{access_key}");
    }
    // White space at the ends is no part of a key.
    own_secret(
        &world,
        "keys",
        json!({
            "aws_access_key_id": "AKIASECOND0000000002\n",
            "aws_secret_access_key": " third secret of the test\n",
        }),
    )
    .await;
    let mark = world.mark();
    refresh(&world).await;
    assert_eq!(writes(&world, mark), []);
    // By a random key that is the operator's own.
    let api = Api::<Secret>::namespaced(world.kube(), NAMESPACE);
    let own = api.get("vault-aws-fingerprints").await.expect("the operator's Secret");
    assert_eq!(own.data.expect("data")["key"].0.len(), 32);
    let status = world.get(&world.backend_ref()).await.expect("the backend")["status"].take();
    assert_eq!(status["clientKeys"]["fingerprint"].as_str().map(str::len), Some(44));
    configured(&world).await;
}

async fn a_key_rotated_elsewhere_is_left_alone(world: World) {
    world.grant_vault(&whole(&world)).await;
    world.backend().with("spec.auth.maxLeaseTtl", "2h").apply().await;
    configured(&world).await;
    let theirs = json!({"access_key": "AKIAROTATED000000000", "secret_key": "rotated by somebody"});
    world.write(&config(&world, "client"), theirs).await;
    // The rest stays ours.
    world.write(&tune(&world), json!({"max_lease_ttl": "3h"})).await;
    let mark = world.mark();
    refresh(&world).await;
    let backend = world.backend_ref();
    let said = world.becomes(&backend, "MountConfigured", "False", "RotatedElsewhere").await;
    assert!(said.message.contains("AKIAROTATED000000000"), "{}", said.message);
    world.ready(&backend).await;
    assert_eq!(told(&world, "RotatedElsewhere").await.0, "Warning");
    assert_eq!(writes(&world, mark), [(tune(&world), fields(&["max_lease_ttl"]))]);
    refresh(&world).await;
    assert_eq!(client(&world).await["access_key"], "AKIAROTATED000000000");
    assert_eq!(world.condition(&backend, "MountConfigured").await, Some(said));
    // Where Vault has forgotten it, nothing is lost.
    let nothing = json!({"access_key": "", "secret_key": ""});
    world.write(&config(&world, "client"), nothing).await;
    refresh(&world).await;
    configured(&world).await;
    assert_eq!(client(&world).await["access_key"], world.seeds().vault.keys.access_key);
    // Nor is it ours to write where no keys are declared.
    let theirs = json!({"access_key": "AKIAROTATED000000000", "secret_key": "rotated by somebody"});
    world.write(&config(&world, "client"), theirs).await;
    world.backend().without("spec.auth.client.credentialsRef").apply().await;
    configured(&world).await;
    assert_eq!(client(&world).await["access_key"], "AKIAROTATED000000000");
}

async fn an_external_id_follows_its_secret(world: World) {
    world.grant_vault(&whole(&world)).await;
    let id = |id: &str| {
        leaks::plant("ExternalId of a test", id);
        json!({"external-id": id})
    };
    let name = format!("{}-ids", world.id);
    let accounts = json!([{
        "accountId": ACCOUNT, "stsRoleArn": sts_role("ask"),
        "externalIdRef": {"name": name, "key": "external-id"},
    }]);
    world.backend().with("spec.auth.accounts", accounts).apply().await;
    let backend = world.backend_ref();
    world.becomes(&backend, "MountConfigured", "False", "ReferenceNotFound").await;
    assert_eq!(account(&world).await, Value::Null, "an entry without it would not work");
    own_secret(&world, "ids", id("first-external-id-of-the-test")).await;
    configured(&world).await;
    let expected =
        json!({"sts_role": sts_role("ask"), "external_id": "first-external-id-of-the-test"});
    assert_eq!(account(&world).await, expected);

    own_secret(&world, "ids", id("second-external-id-of-the-test")).await;
    let path = config(&world, &format!("sts/{ACCOUNT}"));
    let once = [(path, fields(&["sts_role", "external_id"]))];
    for _ in 0..2 {
        let mark = world.mark();
        refresh(&world).await;
        assert_eq!(account(&world).await["external_id"], "second-external-id-of-the-test");
        assert_eq!(writes(&world, mark), once);
        let mark = world.mark();
        refresh(&world).await;
        assert_eq!(writes(&world, mark), []);
        // And by hand.
        let theirs = json!({"sts_role": sts_role("ask"), "external_id": "of-somebody-else"});
        world.write(&config(&world, &format!("sts/{ACCOUNT}")), theirs).await;
    }
}

async fn an_observed_mount_is_not_written(world: World) {
    world.grant_vault(&whole(&world)).await;
    let observed = || {
        let backend = world.backend().with("spec.auth.management", "Observed");
        backend.without("spec.auth.client")
    };
    let mark = world.mark();
    observed().apply().await;
    let backend = world.backend_ref();
    world.becomes(&backend, "MountConfigured", "False", "MountNotFound").await;
    world.write(&mount(&world), json!({"type": "aws"})).await;
    let theirs = json!({"sts_endpoint": FORGED, "iam_server_id_header_value": "another"});
    world.write(&config(&world, "client"), theirs).await;
    world.becomes(&backend, "MountConfigured", "True", "MountObserved").await;
    world.ready(&backend).await;
    let before = everything(&world).await;
    observed().with("spec.auth.serverId", "vault.lab").apply().await;
    world.ready(&backend).await;
    refresh(&world).await;
    assert_eq!(everything(&world).await, before);
    assert_eq!(writes(&world, mark), [], "no role is declared, so nothing at all is written");
    // From managed to observed: all stays, and is looked at no more.
    whole(&world).apply().await;
    configured(&world).await;
    let managed = everything(&world).await;
    observed().apply().await;
    world.becomes(&backend, "MountConfigured", "True", "MountObserved").await;
    world.write(&config(&world, "client"), json!({"sts_endpoint": FORGED})).await;
    let mark = world.mark();
    refresh(&world).await;
    assert_eq!(writes(&world, mark), []);
    let mut expected = managed;
    expected["client"]["sts_endpoint"] = json!(FORGED);
    assert_eq!(everything(&world).await, expected);
}

async fn a_deleted_backend_leaves_the_mount_as_it_is(world: World) {
    world.grant_vault(&whole(&world)).await;
    whole(&world).apply().await;
    configured(&world).await;
    let before = everything(&world).await;
    let mark = world.mark();
    world.delete(&world.backend_ref()).await;
    world.gone(&world.backend_ref(), PATIENCE).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(writes(&world, mark), []);
    assert_eq!(everything(&world).await, before);
}

async fn what_vault_would_refuse_is_refused_by_the_schema(world: World) {
    world.grant_vault(&whole(&world)).await;
    for (field, value) in [
        ("defaultLeaseTtl", json!("3h")),
        ("maxLeaseTtl", json!("59m")),
        ("defaultLeaseTtl", json!("1d")),
        ("maxLeaseTtl", json!("-1s")),
        ("client.allowedStsHeaderValues", json!(["Authorization"])),
        ("client.allowedStsHeaderValues", json!(["X-Amz-"])),
        ("client.maxRetries", json!(-2)),
        ("client.stsEndpoint", json!("sts.amazonaws.com")),
        ("client.ec2Endpoint", json!("https://ec2.amazonaws.com/path?query")),
        ("identity.iamAlias", json!("nope")),
        ("identity.iamMetadata", json!(["nope"])),
        ("identity.ec2Alias", json!("unique_id")),
        ("identity.ec2Metadata", json!(["client_arn"])),
        ("accounts.0.stsRoleArn", json!("")),
        ("accounts.0.accountId", json!("12345")),
        ("accounts.0.externalIdRef", json!({"name": "ids"})),
    ] {
        let refused =
            whole(&world).with(&format!("spec.auth.{field}"), value.clone()).refused().await;
        assert!(!refused.is_empty(), "{field}: {value}");
    }
    let observed =
        world.backend().with("spec.auth.management", "Observed").without("spec.auth.client");
    for (field, value) in [
        ("defaultLeaseTtl", json!("1h")),
        ("maxLeaseTtl", json!("1h")),
        ("client", json!({})),
        ("identity", json!({})),
        ("accounts", json!([{"accountId": ACCOUNT, "stsRoleArn": sts_role("ask")}])),
    ] {
        let refused = observed.clone().with(&format!("spec.auth.{field}"), value).refused().await;
        assert!(refused.contains("Managed"), "{refused}");
    }
    // The server's own limits are no limits of the pair.
    whole(&world).with("spec.auth.maxLeaseTtl", "0s").apply().await;
    configured(&world).await;
}

async fn what_vault_refuses_is_told_in_the_same_words_each_time(world: World) {
    world.grant_vault(&whole(&world)).await;
    world.write(&mount(&world), json!({"type": "aws"})).await;
    world.write(&tune(&world), json!({"max_lease_ttl": "60s"})).await;
    world.backend().with("spec.auth.defaultLeaseTtl", "1h").apply().await;
    let backend = world.backend_ref();
    let first = world.becomes(&backend, "MountConfigured", "False", "VaultRefused").await;
    assert!(first.message.contains("would be less than"), "{}", first.message);
    world.becomes(&backend, "Ready", "False", "VaultRefused").await;
    for _ in 0..3 {
        refresh(&world).await;
        assert_eq!(world.condition(&backend, "MountConfigured").await.as_ref(), Some(&first));
    }
    world.write(&tune(&world), json!({"max_lease_ttl": "2h"})).await;
    refresh(&world).await;
    configured(&world).await;
}

async fn a_mount_of_another_type_is_not_touched(world: World) {
    world.grant_vault(&whole(&world)).await;
    world.write(&mount(&world), json!({"type": "userpass"})).await;
    let mark = world.mark();
    whole(&world).apply().await;
    let backend = world.backend_ref();
    let said = world.becomes(&backend, "MountConfigured", "False", "MountConflict").await;
    assert!(said.message.contains("userpass, not aws"), "{}", said.message);
    assert_eq!(writes(&world, mark), []);
    assert_eq!(world.vault().delete(&mount(&world)).await.expect("Vault").0, 204);
    // A plugin under a name of its own, which this server has not.
    whole(&world).with("spec.auth.type", "auth-aws").apply().await;
    let said = world.becomes(&backend, "MountConfigured", "False", "VaultRefused").await;
    assert!(said.message.contains("auth-aws"), "{}", said.message);
    whole(&world).apply().await;
    configured(&world).await;
}
