//! What the Secrets are like, whose they are, and when they go.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use kube::ResourceExt as _;
use serde_json::{Value, json};
use vault_aws_lab::installation::repository;

use crate::{
    certificates::{Authority, Issued, Kind, traditional},
    grants::refusals_are_meant,
    leaks,
    manifest::secret,
    world::{ACCOUNT, PATIENCE, World, text},
};

tests![
    an_opaque_secret_has_the_keys_that_are_asked_for,
    labels_and_annotations_are_kept_in_step_without_those_of_others,
    keys_that_others_act_on_are_denied,
    a_retained_secret_has_no_owner_and_is_still_ours,
    a_foreign_secret_is_taken_over_only_if_both_consent,
    an_immutable_secret_is_refused_until_it_is_deleted,
    a_secret_of_another_type_is_refused,
    a_secret_that_is_given_to_somebody_else_is_left_to_them,
    a_secret_that_is_replaced_by_one_of_another_type_is_left_until_it_is_deleted,
    the_secret_of_a_removed_entry_goes_where_that_is_asked_for_and_allowed,
    an_empty_directory_deletes_nothing,
    a_keystore_is_read_by_openssl_and_changes_only_with_its_content,
    a_keystore_waits_for_its_password,
];

async fn stage(world: &World) -> (Authority, Issued) {
    world.backend().apply().await;
    world.role("web").apply().await;
    let authority = Authority::new("World CA");
    let issued = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    (authority, issued)
}

async fn an_opaque_secret_has_the_keys_that_are_asked_for(world: World) {
    let (_, issued) = stage(&world).await;
    let target = |target: Value| world.sync("web").with("spec.target", target);
    let keys = json!({"certificate": "server.pem", "combined": "all.pem"});
    target(json!({"keys": keys})).refused().await;
    target(json!({"type": "Opaque", "keys": {"ca": "tls.crt"}})).refused().await;
    target(json!({"type": "kubernetes.io/dockercfg"})).refused().await;
    target(json!({"type": "Opaque", "keys": keys})).apply().await;
    world.ready("vaultcertsync/web").await;
    let secret = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    assert_eq!(text(&secret, "server.pem"), issued.full_chain());
    assert_eq!(text(&secret, "tls.key"), issued.key);
    assert_eq!(text(&secret, "all.pem"), format!("{}{}", issued.full_chain(), issued.key));
    // Renamed: the old keys go.
    target(json!({"type": "Opaque", "keys": {"certificate": "cert.pem"}})).apply().await;
    world
        .eventually("other keys", PATIENCE, async || {
            let secret = world.secret("web-tls").await?;
            let keys: Vec<String> = secret.data?.into_keys().collect();
            (keys == ["ca.crt", "cert.pem", "tls.key"]).then_some(())
        })
        .await;
    let said = target(json!({"type": "kubernetes.io/tls"})).refused().await;
    assert!(said.contains("immutable"), "{said}");
}

async fn labels_and_annotations_are_kept_in_step_without_those_of_others(world: World) {
    let (_, issued) = stage(&world).await;
    let asked = json!({
        "labels": {"team": "a", "tier": "front"},
        "annotations": {"example.com/contact": "a@example.com"},
    });
    world.sync("web").with("spec.target", asked).apply().await;
    let secret = world.delivered("web-tls", &issued).await;
    assert_eq!(secret.labels()["team"], "a");
    assert_eq!(secret.annotations()["example.com/contact"], "a@example.com");
    let theirs = json!({"metadata": {
        "labels": {"theirs": "x", "team": "hijacked"}, "annotations": {"theirs": "y"},
    }});
    world.patch("secret/web-tls", theirs).await;
    world
        .eventually("the label to be put back", PATIENCE, async || {
            let secret = world.secret("web-tls").await?;
            (secret.labels()["team"] == "a").then_some(())
        })
        .await;
    world.sync("web").with("spec.target", json!({"labels": {"team": "b"}})).apply().await;
    world
        .eventually("what is asked for no longer to go", PATIENCE, async || {
            let secret = world.secret("web-tls").await?;
            let labels = secret.labels();
            let done = labels["team"] == "b"
                && !labels.contains_key("tier")
                && !secret.annotations().contains_key("example.com/contact");
            done.then_some(())
        })
        .await;
    let secret = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(secret.labels()["theirs"], "x");
    assert_eq!(secret.annotations()["theirs"], "y");
    assert_eq!(text(&secret, "tls.key"), issued.key);
}

async fn keys_that_others_act_on_are_denied(world: World) {
    stage(&world).await;
    for key in ["app.kubernetes.io/instance", "argocd.argoproj.io/instance", "vaultaws.dev/sync"] {
        let labels = json!({"labels": {key: "x"}});
        world.sync("web").with("spec.target", labels).apply().await;
        let ready = world.becomes("vaultcertsync/web", "Ready", "False", "MetadataDenied").await;
        assert!(ready.message.contains(key), "{}", ready.message);
        assert!(world.secret("web-tls").await.is_none());
    }
    // The admin's list is what counts for the others.
    let labels = json!({"labels": {"argocd.argoproj.io/instance": "x"}});
    world.sync("web").with("spec.target", labels).apply().await;
    world.becomes("vaultcertsync/web", "Ready", "False", "MetadataDenied").await;
    world.backend().with("spec.deniedMetadataPrefixes", json!(["example.com/"])).apply().await;
    world.ready("vaultcertsync/web").await;
    let labels = json!({"labels": {"example.com/x": "x"}});
    world.sync("web").with("spec.target", labels).apply().await;
    world.becomes("vaultcertsync/web", "Ready", "False", "MetadataDenied").await;
}

async fn owners(world: &World, expected: usize) {
    world
        .eventually(&format!("{expected} owners"), PATIENCE, async || {
            let secret = world.secret("web-tls").await?;
            (secret.owner_references().len() == expected).then_some(())
        })
        .await;
}

async fn a_retained_secret_has_no_owner_and_is_still_ours(world: World) {
    let (authority, issued) = stage(&world).await;
    world.sync("web").apply().await;
    let before = world.delivered("web-tls", &issued).await;
    let retain = world.sync("web").with("spec.target", json!({"deletionPolicy": "Retain"}));
    retain.apply().await;
    owners(&world, 0).await;
    // Rotated, and put back when it was deleted.
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.refresh("web").await;
    let secret = world.delivered("web-tls", &next).await;
    assert_eq!(secret.uid(), before.uid());
    assert!(secret.annotations().contains_key("vaultaws.dev/owner-uid"));
    world.delete("secret/web-tls").await;
    world.delivered("web-tls", &next).await;
    owners(&world, 0).await;
    world.patch("secret/web-tls", json!({"data": {"ca.crt": null}})).await;
    world
        .eventually("ca.crt to be put back", PATIENCE, async || {
            let secret = world.secret("web-tls").await?;
            (text(&secret, "ca.crt") == next.root).then_some(())
        })
        .await;
    world.sync("web").apply().await;
    owners(&world, 1).await;
    let secret = world.secret("web-tls").await.expect("the Secret");
    assert!(!secret.annotations().contains_key("vaultaws.dev/owner-uid"));
    // It stays when the sync goes.
    retain.apply().await;
    owners(&world, 0).await;
    world.delete("vaultcertsync/web").await;
    world.gone("vaultcertsync/web", PATIENCE).await;
    world.delivered("web-tls", &next).await;
}

async fn a_foreign_secret_is_taken_over_only_if_both_consent(world: World) {
    let (_, issued) = stage(&world).await;
    let theirs = secret(&world, "web-tls", json!({"tls.crt": "theirs", "tls.key": "theirs"}))
        .with("type", "kubernetes.io/tls");
    theirs.apply().await;
    let before = world.secret("web-tls").await.expect("the Secret");
    let refused = async || {
        world.certificate_becomes("web", "tls", "Refused", Some("SecretNotOurs")).await;
        let secret = world.secret("web-tls").await.expect("the Secret");
        assert_eq!(secret.data, before.data);
    };
    // Only the Secret.
    let consent = json!({"metadata": {"annotations": {"vaultaws.dev/adopt-by": "web"}}});
    world.patch("secret/web-tls", consent.clone()).await;
    let mark = world.mark();
    world.sync("web").apply().await;
    refused().await;
    // A key that nobody may be given is not read.
    let data = format!("{}/data/", world.kv_mount());
    let asked = world.vault_requests_since(mark);
    assert!(asked.iter().any(|one| one.path.contains("/metadata/")), "{asked:?}");
    assert!(asked.iter().all(|one| !one.path.starts_with(&data)), "{asked:?}");
    // Only the sync.
    let other = json!({"metadata": {"annotations": {"vaultaws.dev/adopt-by": "other"}}});
    world.patch("secret/web-tls", other).await;
    world.sync("web").with("spec.target.adopt", true).apply().await;
    world.condition("vaultcertsync/web", "Ready").await;
    refused().await;
    // Both: at once.
    world.patch("secret/web-tls", consent).await;
    let secret = world.delivered("web-tls", &issued).await;
    assert_eq!(secret.uid(), before.uid());
    assert_eq!(secret.owner_references().len(), 1);
    world.ready("vaultcertsync/web").await;
}

async fn an_immutable_secret_is_refused_until_it_is_deleted(world: World) {
    let (authority, issued) = stage(&world).await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &issued).await;
    world.patch("secret/web-tls", json!({"immutable": true})).await;
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.refresh("web").await;
    world.certificate_becomes("web", "tls", "Kept", Some("SecretImmutable")).await;
    world.delivered("web-tls", &issued).await;
    world.delete("secret/web-tls").await;
    world.delivered("web-tls", &next).await;
}

async fn a_secret_of_another_type_is_refused(world: World) {
    stage(&world).await;
    let theirs = secret(&world, "web-tls", json!({"password": "theirs"}))
        .with("metadata.annotations", json!({"vaultaws.dev/adopt-by": "web"}));
    theirs.apply().await;
    world.sync("web").with("spec.target.adopt", true).apply().await;
    world.certificate_becomes("web", "tls", "Refused", Some("SecretTypeDiffers")).await;
    let secret = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(text(&secret, "password"), "theirs");
}

async fn a_secret_that_is_given_to_somebody_else_is_left_to_them(world: World) {
    let (authority, issued) = stage(&world).await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &issued).await;
    world.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: theirs}}").await;
    let theirs = world.get("configmap/theirs").await.expect("the ConfigMap");
    let owner = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "theirs", "controller": true,
        "uid": theirs["metadata"]["uid"],
    }]);
    world.patch("secret/web-tls", json!({"metadata": {"ownerReferences": owner}})).await;
    world.certificate_becomes("web", "tls", "Refused", Some("SecretNotOurs")).await;
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.look("web").await;
    let secret = world.delivered("web-tls", &issued).await;
    assert_eq!(serde_json::to_value(&secret.metadata.owner_references).expect("JSON"), owner);
    // Nor does it go with the sync.
    world.delete("vaultcertsync/web").await;
    world.gone("vaultcertsync/web", PATIENCE).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.delivered("web-tls", &issued).await;
}

async fn a_secret_that_is_replaced_by_one_of_another_type_is_left_until_it_is_deleted(
    world: World,
) {
    let (authority, issued) = stage(&world).await;
    world.sync("web").apply().await;
    let ours = world.delivered("web-tls", &issued).await;
    // So that it is not put back before the other one is there.
    world.sync("web").with("spec.suspend", true).apply().await;
    world.becomes("vaultcertsync/web", "Ready", "False", "Suspended").await;
    world.delete("secret/web-tls").await;
    world.gone("secret/web-tls", PATIENCE).await;
    let theirs = secret(&world, "web-tls", json!({"password": "theirs"})).with(
        "metadata.ownerReferences",
        serde_json::to_value(&ours.metadata.owner_references).expect("JSON"),
    );
    theirs.apply().await;
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.sync("web").apply().await;
    world.certificate_becomes("web", "tls", "Kept", Some("SecretTypeDiffers")).await;
    let secret = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(text(&secret, "password"), "theirs");
    assert_eq!(secret.data.map(|data| data.len()), Some(1));
    world.delete("secret/web-tls").await;
    world.delivered("web-tls", &next).await;
    world.ready("vaultcertsync/web").await;
}

async fn the_secret_of_a_removed_entry_goes_where_that_is_asked_for_and_allowed(world: World) {
    let (authority, issued) = stage(&world).await;
    let renamed = authority.issue("new.example.com");
    world.sync("web").apply().await;
    world.delivered("web-tls", &issued).await;
    // Renamed in Vault: a new Secret, and the old one stays.
    world.put_certificate("web", "new", &renamed).await;
    world.remove_entry("web", "tls").await;
    world.refresh("web").await;
    world.delivered("web-new", &renamed).await;
    world.certificate_becomes("web", "tls", "Kept", Some("SourceAbsent")).await;
    // Asked for, but not allowed.
    refusals_are_meant(&world);
    world.sync("web").with("spec.target.onSourceRemoved", "Delete").apply().await;
    world.certificate_becomes("web", "tls", "Kept", Some("SourceRemoved")).await;
    let kept = world.certificate_becomes("web", "tls", "Kept", Some("NoDeleteAccess")).await;
    assert!(kept.message.is_some_and(|said| said.contains("deploy/tenant-delete")));
    world.delivered("web-tls", &issued).await;
    let role = repository().join("deploy/tenant-delete/role.yaml");
    world.apply(&fs::read_to_string(role).expect("deploy/tenant-delete/role.yaml")).await;
    world.refresh("web").await;
    world.gone("secret/web-tls", PATIENCE).await;
    world.ready("vaultcertsync/web").await;
    world.delivered("web-new", &renamed).await;
    // It is forgotten at the next look.
    world.refresh("web").await;
    world
        .eventually("only the other to be told of", PATIENCE, async || {
            (world.sync_status("web").await.certificates.len() == 1).then_some(())
        })
        .await;
}

async fn an_empty_directory_deletes_nothing(world: World) {
    let (_, issued) = stage(&world).await;
    let role = repository().join("deploy/tenant-delete/role.yaml");
    world.apply(&fs::read_to_string(role).expect("deploy/tenant-delete/role.yaml")).await;
    world.sync("web").with("spec.target.onSourceRemoved", "Delete").apply().await;
    let before = world.delivered("web-tls", &issued).await;
    world.remove_entry("web", "tls").await;
    for _ in 0..3 {
        world.refresh("web").await;
        world.certificate_becomes("web", "tls", "Kept", Some("SourceAbsent")).await;
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    }
    let after = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(after.resource_version(), before.resource_version());
}

/// What openssl says, on stdout and stderr, of this input.
pub(crate) fn openssl(args: &[&str], input: &[u8]) -> (String, String) {
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    child.stdin.take().expect("a pipe").write_all(input).expect("openssl reads");
    let output = child.wait_with_output().expect("openssl ends");
    let texts = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into());
    let [said, told]: [String; 2] = texts;
    assert!(output.status.success(), "openssl {}: {told}", args.join(" "));
    (said, told)
}

/// The keystore in a Secret.
fn keystore(secret: &k8s_openapi::api::core::v1::Secret) -> Vec<u8> {
    let data = secret.data.as_ref().and_then(|data| data.get("keystore.p12"));
    data.map(|bytes| bytes.0.clone()).unwrap_or_default()
}

/// Reads a keystore with openssl: its chain and its key are those that were issued.
fn holds(bytes: &[u8], password: &str, issued: &Issued, legacy: bool) -> String {
    let password = format!("pass:{password}");
    let arguments = |more: &[&'static str]| -> Vec<String> {
        let legacy = if legacy { &["-legacy"][..] } else { &[] };
        let all = [&["pkcs12", "-passin"][..], &[&password], more, legacy].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let run = |more: &[&'static str]| {
        let arguments = arguments(more);
        openssl(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), bytes)
    };
    let (certificates, _) = run(&["-nokeys"]);
    let blocks = certificates.matches("BEGIN CERTIFICATE").count();
    assert_eq!(blocks, 1 + issued.intermediates.len(), "{certificates}");
    for pem in [&issued.certificate].into_iter().chain(&issued.intermediates) {
        let body: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
        let all: String = certificates.lines().collect();
        assert!(all.contains(&body), "{certificates}");
    }
    let (key, _) = run(&["-nocerts", "-noenc"]);
    assert!(key.contains("friendlyName: tls"), "the key is named as the entry");
    let (public, _) = openssl(&["pkey", "-pubout"], key.as_bytes());
    let (expected, _) = openssl(&["x509", "-pubkey", "-noout"], issued.certificate.as_bytes());
    assert_eq!(public, expected);
    run(&["-info", "-noout"]).1
}

async fn a_keystore_is_read_by_openssl_and_changes_only_with_its_content(world: World) {
    world.backend().apply().await;
    world.role("web").apply().await;
    let authority = Authority::new("World CA").intermediate("Issuing CA");
    let issued = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    let (first, second) =
        ("correct horse battery staple, the first", "correct horse battery staple, another");
    for password in [first, second] {
        leaks::plant("keystore password", password);
    }
    // As from a file: the line break is not part of it.
    secret(&world, "store", json!({"password": format!("{first}\n")})).apply().await;
    let asked = json!({"passwordRef": {"name": "store", "key": "password"}});
    let sync = world.sync("web").with("spec.target.pkcs12", asked);
    sync.apply().await;
    let before = world.delivered("web-tls", &issued).await;
    let told = holds(&keystore(&before), first, &issued, false);
    for part in ["AES-256-CBC", "hmacWithSHA256", "Iteration 10000", "MAC: sha256"] {
        assert!(told.contains(part), "{told}");
    }
    world.ready("vaultcertsync/web").await;
    // The same content in a new version, and a Secret that was edited beside it.
    assert_eq!(world.put_certificate("web", "tls", &issued).await, 2);
    world.refresh("web").await;
    world
        .eventually("version 2", PATIENCE, async || {
            let one = world.certificate("web", "tls").await?;
            (one.version == Some(2)).then_some(())
        })
        .await;
    world.patch("secret/web-tls", json!({"data": {"ca.crt": null}})).await;
    world
        .eventually("ca.crt to be put back", PATIENCE, async || {
            let secret = world.secret("web-tls").await?;
            (text(&secret, "ca.crt") == issued.root).then_some(())
        })
        .await;
    let after = world.secret("web-tls").await.expect("the Secret");
    assert!(keystore(&after) == keystore(&before), "the keystore was made anew");
    // Edited itself, it is made anew.
    world.patch("secret/web-tls", json!({"data": {"keystore.p12": "AAAA"}})).await;
    let changed = async |old: Vec<u8>| {
        let what = "another keystore";
        world
            .eventually(what, PATIENCE, async || {
                let bytes = keystore(&world.secret("web-tls").await?);
                (bytes != old && bytes.len() > 3).then_some(bytes)
            })
            .await
    };
    let bytes = changed(keystore(&after)).await;
    holds(&bytes, first, &issued, false);
    // Another password, without a look at the interval.
    secret(&world, "store", json!({"password": second})).apply().await;
    let bytes = changed(bytes).await;
    holds(&bytes, second, &issued, false);
    sync.clone().with("spec.target.pkcs12.profile", "LegacyDES").apply().await;
    let bytes = changed(bytes).await;
    let told = holds(&bytes, second, &issued, true);
    assert!(told.contains("pbeWithSHA1And3-KeyTripleDES-CBC"), "{told}");
    // A key that is not stored as PKCS#8.
    let rsa = authority.leaf("web.example.com").key(Kind::Rsa).issue();
    let fields = json!({
        "certificate": rsa.certificate,
        "private_key": traditional("RSA PRIVATE KEY", &rsa.key),
        "ca_chain": rsa.intermediates,
    });
    world.put_entry(ACCOUNT, "web", "tls", fields).await;
    world.refresh("web").await;
    let secret = world.delivered("web-tls", &rsa).await;
    holds(&keystore(&secret), second, &rsa, true);
    // Asked for no longer.
    world.sync("web").apply().await;
    world
        .eventually("the keystore to go", PATIENCE, async || {
            let secret = world.secret("web-tls").await?;
            (!secret.data?.contains_key("keystore.p12")).then_some(())
        })
        .await;
}

async fn a_keystore_waits_for_its_password(world: World) {
    let (_, issued) = stage(&world).await;
    let asked = json!({"passwordRef": {"name": "store", "key": "password"}});
    world.sync("web").with("spec.target.pkcs12", asked).apply().await;
    world.becomes("vaultcertsync/web", "Ready", "False", "PasswordNotReady").await;
    for data in [json!({"other": "x"}), json!({"password": "\n"})] {
        secret(&world, "store", data).apply().await;
        world.becomes("vaultcertsync/web", "Ready", "False", "PasswordNotReady").await;
        assert!(world.secret("web-tls").await.is_none());
    }
    leaks::plant("keystore password", "open sesame, and be long enough to be found");
    secret(&world, "store", json!({"password": "open sesame, and be long enough to be found"}))
        .apply()
        .await;
    world.delivered("web-tls", &issued).await;
    world.ready("vaultcertsync/web").await;
}
