//! What lies in Vault: each way in which an entry cannot be delivered leaves the good Secret as it is,
//! has a reason of its own and stops no other; and each form in which teams store a pair is delivered.

use std::{fs, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    sign::CertifiedKey,
};
use serde_json::{Value, json};
use vault_aws_operator::crd::{CertificateStatus, VaultCertSyncStatus};

use crate::{
    audit::Mark,
    certificates::{Authority, DAY, Issued, Kind, der, pem, pkcs8, sec1, traditional},
    leaks,
    targets::openssl,
    world::{ACCOUNT, World, text},
};

tests![
    a_soft_deleted_entry_keeps_its_secret,
    a_destroyed_entry_keeps_its_secret,
    an_entry_that_was_removed_keeps_its_secret,
    an_entry_that_is_gone_with_its_secret_is_told_no_more,
    an_entry_that_is_named_but_absent_is_waited_for,
    an_entry_that_may_not_be_read_keeps_its_secret,
    a_directory_that_may_not_be_listed_keeps_all_secrets,
    an_entry_that_cannot_be_read_as_a_pair_keeps_its_secret,
    a_pair_that_does_not_fit_together_keeps_its_secret,
    a_pair_that_is_not_valid_now_keeps_its_secret,
    a_leaf_with_a_broken_hash_keeps_its_secret,
    a_pair_that_makes_too_large_a_secret_keeps_it,
    an_entry_that_was_never_good_gets_no_secret,
    names_that_are_no_part_of_a_path_are_refused_and_stop_no_other,
    an_entry_beyond_what_vault_stores_changes_nothing_and_a_large_one_is_delivered,
    a_delivered_certificate_that_expires_is_told_and_replaced,
    certbots_four_files_are_delivered,
    every_kind_and_encoding_of_a_key_is_delivered,
    every_form_of_a_value_is_delivered,
    what_the_pki_engine_issues_is_delivered,
];

/// The host of all certificates here.
const HOST: &str = "web.example.com";

/// A world whose sync `web` has delivered the entries `tls` and `www`. The first is about to go wrong.
struct Scene {
    world: World,
    authority: Authority,
    /// The Secret of `tls` as it was delivered.
    held: Secret,
    /// What the status said of it then.
    told: CertificateStatus,
}

impl Scene {
    async fn set(world: &World) -> Self {
        let authority = Authority::new("World CA");
        for name in ["tls", "www"] {
            world.put_certificate("web", name, &authority.issue(HOST)).await;
        }
        Self::begin(world).await;
        let held = world.secret("web-tls").await.expect("the Secret");
        let told = world.certificate("web", "tls").await.expect("its status");
        Self { world: world.clone(), authority, held, told }
    }

    /// Backend, role and sync. What is changed in Vault by hand stays as long as a test takes.
    async fn begin(world: &World) {
        world.backend().apply().await;
        world.role("web").with("spec.driftInterval", "24h").apply().await;
        world.sync("web").apply().await;
        world.ready("vaultcertsync/web").await;
    }

    /// Writes another version of `tls`.
    async fn put(&self, fields: Value) {
        self.world.put_entry(ACCOUNT, "web", "tls", fields).await;
    }

    /// Looks: the Secret of `tls` is as it was, the reason stands in the status, and the new version of
    /// its neighbour is delivered. A second look changes nothing more.
    async fn keeps(&self, reason: &str) -> CertificateStatus {
        let world = &self.world;
        let neighbour = self.authority.issue(HOST);
        world.put_certificate("web", "www", &neighbour).await;
        let status = world.look("web").await;
        self.is_held().await;
        let www = world.secret("web-www").await.expect("the neighbour's Secret");
        assert_eq!(text(&www, "tls.crt"), neighbour.certificate, "beside one with {reason}");
        assert_eq!(text(&www, "tls.key"), neighbour.key, "beside one with {reason}");

        let tls = one(&status, "tls");
        assert_eq!((tls.state.as_str(), tls.reason.as_deref()), ("Kept", Some(reason)), "{tls:?}");
        assert!(tls.message.as_ref().is_some_and(|message| !message.is_empty()), "{tls:?}");
        assert!(tls.since.is_some(), "{tls:?}");
        // Everything else speaks of what the Secret holds.
        let facts = CertificateStatus {
            state: self.told.state,
            reason: None,
            message: None,
            since: None,
            ..tls.clone()
        };
        assert_eq!(facts, self.told, "{reason}");
        assert_eq!(status.summary.as_deref(), Some("1/2"));
        let ready = world.becomes("vaultcertsync/web", "Ready", "False", reason).await;
        assert_eq!(ready.message, format!("{reason}: `tls`"));

        let mark = world.mark();
        assert_eq!(one(&world.look("web").await, "tls"), tls, "{reason} a second time");
        assert_eq!(secret_writes(world, mark), Vec::<String>::new(), "{reason} a second time");
        self.is_held().await;
        tls
    }

    /// The Secret of `tls` is the very one that was delivered.
    async fn is_held(&self) {
        let secret = self.world.secret("web-tls").await.expect("the Secret");
        assert_eq!(secret.resource_version(), self.held.resource_version());
        assert_eq!(secret.data, self.held.data);
    }

    /// Writes a good version of `tls`: it is delivered into the same Secret, and all is well.
    async fn recovers(&self) {
        let world = &self.world;
        let good = self.authority.issue(HOST);
        world.put_certificate("web", "tls", &good).await;
        let status = world.look("web").await;
        let secret = world.secret("web-tls").await.expect("the Secret");
        assert_eq!(secret.uid(), self.held.uid());
        assert_eq!(text(&secret, "tls.crt"), good.full_chain());
        assert_eq!(text(&secret, "tls.key"), good.key);
        self.is_well(&status).await;
    }

    /// Nothing is wrong any more.
    async fn is_well(&self, status: &VaultCertSyncStatus) {
        let tls = one(status, "tls");
        assert_eq!((tls.state.as_str(), &tls.reason), ("Synced", &None), "{tls:?}");
        assert_eq!((&tls.since, &tls.message), (&None, &None), "{tls:?}");
        assert_eq!(status.summary.as_deref(), Some("2/2"));
        self.world.becomes("vaultcertsync/web", "Ready", "True", "Synced").await;
    }
}

fn one(status: &VaultCertSyncStatus, name: &str) -> CertificateStatus {
    let found = status.certificates.iter().find(|certificate| certificate.name == name);
    found.unwrap_or_else(|| panic!("no certificate {name}: {:?}", status.certificates)).clone()
}

/// The Secrets that the operator wrote since.
fn secret_writes(world: &World, mark: Mark) -> Vec<String> {
    let writes = world.kubernetes_writes_since(mark).into_iter();
    writes.filter(|one| one.resource == "secrets").map(|one| one.name).collect()
}

/// The fields of an entry: leaf and key.
fn fields(issued: &Issued) -> Value {
    json!({"certificate": issued.certificate, "private_key": issued.key})
}

async fn a_soft_deleted_entry_keeps_its_secret(world: World) {
    let scene = Scene::set(&world).await;
    world.kv("delete", "web", "tls", json!({"versions": [1]})).await;
    let kept = scene.keeps("SourceDeleted").await;
    assert!(kept.message.is_some_and(|message| message.contains("undelete")));
    // The very version that the Secret holds is back: nothing has to be written.
    world.kv("undelete", "web", "tls", json!({"versions": [1]})).await;
    let mark = world.mark();
    let status = world.look("web").await;
    scene.is_well(&status).await;
    assert_eq!(secret_writes(&world, mark), Vec::<String>::new());
    scene.is_held().await;
    assert_eq!(one(&status, "tls"), scene.told);
}

async fn a_destroyed_entry_keeps_its_secret(world: World) {
    let scene = Scene::set(&world).await;
    world.kv("destroy", "web", "tls", json!({"versions": [1]})).await;
    scene.keeps("SourceDestroyed").await;
    scene.recovers().await;
}

async fn an_entry_that_was_removed_keeps_its_secret(world: World) {
    let scene = Scene::set(&world).await;
    world.remove_entry("web", "tls").await;
    scene.keeps("SourceAbsent").await;
    // What comes back is version 1 again, as what the Secret holds, and yet another.
    scene.recovers().await;
    assert_eq!(one(&world.sync_status("web").await, "tls").version, Some(1));
}

async fn an_entry_that_is_gone_with_its_secret_is_told_no_more(world: World) {
    let scene = Scene::set(&world).await;
    world.remove_entry("web", "tls").await;
    scene.keeps("SourceAbsent").await;
    world.delete("secret/web-tls").await;
    world.becomes("vaultcertsync/web", "Ready", "True", "Synced").await;
    let status = world.sync_status("web").await;
    assert_eq!(status.summary.as_deref(), Some("1/1"));
    assert_eq!(status.certificates.len(), 1, "{:?}", status.certificates);
}

async fn an_entry_that_is_named_but_absent_is_waited_for(world: World) {
    let authority = Authority::new("World CA");
    let tls = authority.issue(HOST);
    world.put_certificate("web", "tls", &tls).await;
    world.backend().apply().await;
    world.role("web").apply().await;
    world.sync("web").with("spec.certificates.include", json!(["tls", "missing"])).apply().await;
    world.becomes("vaultcertsync/web", "Ready", "False", "SourceAbsent").await;
    world.delivered("web-tls", &tls).await;
    let status = world.sync_status("web").await;
    assert_eq!(status.summary.as_deref(), Some("1/2"));
    world.certificate_becomes("web", "missing", "Refused", Some("SourceAbsent")).await;
    assert!(world.secret("web-missing").await.is_none());

    let found = authority.issue(HOST);
    world.put_certificate("web", "missing", &found).await;
    assert_eq!(world.look("web").await.summary.as_deref(), Some("2/2"));
    world.delivered("web-missing", &found).await;
    world.ready("vaultcertsync/web").await;
}

async fn an_entry_that_may_not_be_read_keeps_its_secret(world: World) {
    let scene = Scene::set(&world).await;
    let policy = world.policy_name(&world.iam_role("web"));
    let path = format!("sys/policies/acl/{policy}");
    let granted = world.vault_policy(&policy).await.expect("the policy");
    let (kv, directory) = (world.kv_mount(), world.directory(ACCOUNT, "web"));
    // Its metadata, and then its data, which is read only where there is something new.
    for part in ["metadata", "data"] {
        let denied = format!(
            "{granted}\npath \"{kv}/{part}/{directory}/tls\" {{\n  capabilities = [\"deny\"]\n}}\n"
        );
        world.write(&path, json!({"policy": denied})).await;
        scene.put(fields(&scene.authority.issue(HOST))).await;
        scene.keeps("SourceForbidden").await;
    }
    world.write(&path, json!({"policy": granted})).await;
    scene.recovers().await;
}

async fn a_directory_that_may_not_be_listed_keeps_all_secrets(world: World) {
    let scene = Scene::set(&world).await;
    let policy = world.policy_name(&world.iam_role("web"));
    let path = format!("sys/policies/acl/{policy}");
    let granted = world.vault_policy(&policy).await.expect("the policy");
    let (kv, directory) = (world.kv_mount(), world.directory(ACCOUNT, "web"));
    let listing = |capability: &str| {
        format!("path \"{kv}/metadata/{directory}/\" {{\n  capabilities = [\"{capability}\"]")
    };
    let denied = granted.replace(&listing("list"), &listing("deny"));
    assert_ne!(denied, granted);
    world.write(&path, json!({"policy": denied})).await;
    scene.put(fields(&scene.authority.issue(HOST))).await;
    let mark = world.mark();
    world.refresh("web").await;
    let ready = world.becomes("vaultcertsync/web", "Ready", "False", "SourceForbidden").await;
    assert!(ready.message.contains("list"), "{}", ready.message);
    assert_eq!(secret_writes(&world, mark), Vec::<String>::new());
    scene.is_held().await;
    // What was delivered is still told.
    assert_eq!(world.certificate("web", "tls").await.expect("its status"), scene.told);
    world.write(&path, json!({"policy": granted})).await;
    scene.recovers().await;
}

async fn an_entry_that_cannot_be_read_as_a_pair_keeps_its_secret(world: World) {
    let scene = Scene::set(&world).await;
    let good = scene.authority.issue(HOST);
    let eleven: Vec<String> = (0..11).map(|_| scene.authority.issue(HOST).certificate).collect();
    let secret = pem("ENCRYPTED PRIVATE KEY", &[0x30, 0x03, 0x02, 0x01, 0x00]);
    for (reason, entry) in [
        ("Malformed", json!({"certificate": "see the wiki", "private_key": good.key})),
        ("Malformed", json!({"certificate": {"pem": good.certificate}, "private_key": good.key})),
        ("MissingField", json!({"certificate": good.certificate, "password": "none"})),
        ("MissingField", json!({"private_key": good.key})),
        ("EncryptedKey", json!({"certificate": good.certificate, "private_key": secret})),
        (
            "UnsupportedKey",
            json!({"certificate": good.certificate, "key": pem("DSA PRIVATE KEY", &[0x30, 0x00])}),
        ),
        // RFC 5915 demands the curve, and no server loads a key without it.
        (
            "UnsupportedKey",
            json!({
                "certificate": good.certificate,
                "private_key": traditional("EC PRIVATE KEY", &good.key),
            }),
        ),
        ("UnsupportedFormat", json!({"certificate": pem("PKCS7", &[0x30, 0x00])})),
        (
            "TooLarge",
            json!({"certificate": good.certificate, "private_key": good.key, "chain": eleven}),
        ),
    ] {
        scene.put(entry).await;
        scene.keeps(reason).await;
    }
    scene.recovers().await;
}

async fn a_pair_that_does_not_fit_together_keeps_its_secret(world: World) {
    let scene = Scene::set(&world).await;
    let (one, two) = (scene.authority.issue(HOST), scene.authority.issue(HOST));
    let ca = scene.authority.leaf(HOST).with_ca_flag().issue();
    for (reason, entry) in [
        ("KeyMismatch", json!({"certificate": one.certificate, "private_key": two.key})),
        (
            "Ambiguous",
            json!({"certificate": one.certificate, "private_key": one.key, "tls.key": two.key}),
        ),
        (
            "Ambiguous",
            json!({"certificate": one.certificate, "tls.crt": two.certificate, "key": one.key}),
        ),
        ("CaLeaf", fields(&ca)),
    ] {
        scene.put(entry).await;
        let kept = scene.keeps(reason).await;
        let message = kept.message.expect("a message");
        if reason == "Ambiguous" {
            // Both, so that the owner knows where to look.
            let both = message.contains("private_key") && message.contains("tls.key")
                || message.contains("certificate") && message.contains("tls.crt");
            assert!(both, "{message}");
        }
    }
    scene.recovers().await;
}

async fn a_pair_that_is_not_valid_now_keeps_its_secret(world: World) {
    let scene = Scene::set(&world).await;
    let leaf = || scene.authority.leaf(HOST);
    for (reason, issued) in
        [("Expired", leaf().expired().issue()), ("NotYetValid", leaf().valid_from(DAY).issue())]
    {
        scene.put(fields(&issued)).await;
        scene.keeps(reason).await;
    }
    scene.recovers().await;
}

async fn a_leaf_with_a_broken_hash_keeps_its_secret(world: World) {
    let scene = Scene::set(&world).await;
    // Nobody issues such any more, but openssl still can.
    let key = scene.authority.issue(HOST).key;
    let folder = world.stage.lab.folder().join(&world.id);
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("key.pem");
    fs::write(&file, &key).expect("the key's file");
    let file = file.to_str().expect("a path");
    let subject = format!("/CN={HOST}");
    let (certificate, _) = openssl(
        &[
            &["req", "-x509", "-sha1", "-days", "30", "-subj", &subject, "-key", file][..],
            &["-addext", "basicConstraints=critical,CA:FALSE"],
        ]
        .concat(),
        b"",
    );
    fs::remove_dir_all(&folder).expect("the folder goes");
    scene.put(json!({"certificate": certificate, "private_key": key})).await;
    let kept = scene.keeps("WeakSignature").await;
    assert!(kept.message.is_some_and(|said| said.contains("SHA-1")));
    scene.recovers().await;
}

async fn a_pair_that_makes_too_large_a_secret_keeps_it(world: World) {
    // Ten certificates, almost as large as they may be, fit. In every form at once they do not.
    world.backend().apply().await;
    world.role("web").apply().await;
    let root = Authority::new("World root");
    let mut top = root.large_intermediate("CA 1");
    for number in 2..=9 {
        top = top.large_intermediate(&format!("CA {number}"));
    }
    let issued = top.leaf(HOST).issue();
    assert_eq!(issued.intermediates.len(), 9);
    let large = issued.full_chain();
    assert!(large.len() > 300_000, "{}", large.len());
    let mut entry = fields(&issued);
    for field in ["ca_chain", "issuing_ca"] {
        entry[field] = json!(issued.intermediates);
    }
    let opaque = |keys: Value| {
        world
            .sync("opaque")
            .with("spec.roleRef.name", "web")
            .with("spec.certificates.include", json!(["large"]))
            .with("spec.target.type", "Opaque")
            .with("spec.target.keys", keys)
    };
    world.put_entry(ACCOUNT, "web", "large", entry).await;
    opaque(json!({})).apply().await;
    let secret = world.delivered("opaque-large", &issued).await;
    assert_eq!(text(&secret, "tls.crt"), large);
    assert_eq!(text(&secret, "ca.crt"), issued.intermediates.concat());
    world.ready("vaultcertsync/opaque").await;
    let password = "a password that is long enough to be found";
    leaks::plant("keystore password", password);
    crate::manifest::secret(&world, "store", json!({"password": password})).apply().await;
    let keystore = json!({"passwordRef": {"name": "store", "key": "password"}});
    let all = opaque(json!({"combined": "all.pem"})).with("spec.target.pkcs12", keystore);
    all.apply().await;
    let kept = world.certificate_becomes("opaque", "large", "Kept", Some("TooLarge")).await;
    assert!(kept.message.is_some_and(|said| said.contains("1 MiB")));
    let after = world.secret("opaque-large").await.expect("the Secret");
    assert_eq!(after.resource_version(), secret.resource_version());
    // With less asked for it fits again.
    opaque(json!({})).apply().await;
    world.certificate_becomes("opaque", "large", "Synced", None).await;
    world.ready("vaultcertsync/opaque").await;
}

async fn an_entry_that_was_never_good_gets_no_secret(world: World) {
    let authority = Authority::new("World CA");
    let (good, other) = (authority.issue(HOST), authority.issue(HOST));
    world.put_certificate("web", "good", &good).await;
    let bad = [
        ("ended", "Expired", fields(&authority.leaf(HOST).expired().issue())),
        ("mixed", "KeyMismatch", json!({"cert": good.certificate, "key": other.key})),
        ("prose", "Malformed", json!({"cert": "see the wiki", "key": good.key})),
        ("gone", "SourceDeleted", fields(&other)),
    ];
    for (name, _, entry) in &bad {
        world.put_entry(ACCOUNT, "web", name, entry.clone()).await;
    }
    world.kv("delete", "web", "gone", json!({"versions": [1]})).await;
    world.backend().apply().await;
    world.role("web").apply().await;
    world.sync("web").apply().await;
    let ready = world.becomes("vaultcertsync/web", "Ready", "False", "CertificatesRefused").await;
    for (name, reason, _) in &bad {
        let told = world.certificate("web", name).await.expect("its status");
        assert_eq!((told.state.as_str(), told.reason.as_deref()), ("Refused", Some(*reason)));
        assert!(ready.message.contains(&format!("{reason}: `{name}`")), "{}", ready.message);
        assert!(world.secret(&format!("web-{name}")).await.is_none());
    }
    world.delivered("web-good", &good).await;

    for (name, ..) in &bad {
        world.put_certificate("web", name, &authority.issue(HOST)).await;
    }
    assert_eq!(world.look("web").await.summary.as_deref(), Some("5/5"));
    world.ready("vaultcertsync/web").await;
    for (name, ..) in &bad {
        assert!(world.secret(&format!("web-{name}")).await.is_some());
    }
}

async fn names_that_are_no_part_of_a_path_are_refused_and_stop_no_other(world: World) {
    let scene = Scene::set(&world).await;
    let issued = scene.authority.issue(HOST);
    let long = "n".repeat(300);
    // As they stand in a URL, as Vault lists them, and what becomes of each.
    let names = [
        ("q%3Fversion=1", "q?version=1", Err("InvalidName")),
        ("h%23x", "h#x", Err("InvalidName")),
        ("p%252e%252e", "p%2e%2e", Err("InvalidName")),
        (&*long, &*long, Err("NameTooLong")),
        ("spa%20ce", "spa ce", Ok("web-spa-ce")),
        ("back%5Cslash", "back\\slash", Ok("web-back-slash")),
        ("caf%C3%A9", "caf\u{e9}", Ok("web-caf")),
    ];
    for (sent, _, _) in &names {
        world.put_entry(ACCOUNT, "web", sent, fields(&issued)).await;
    }
    let listed = world
        .vault()
        .list(&format!("{}/metadata/{}", world.kv_mount(), world.directory(ACCOUNT, "web")))
        .await
        .expect("Vault");
    let mark = world.mark();
    let status = world.look("web").await;
    for (_, name, outcome) in &names {
        assert!(listed.1["data"]["keys"].as_array().expect("names").contains(&json!(name)));
        let told = one(&status, name);
        match outcome {
            Ok(secret) => {
                assert_eq!(told.state.as_str(), "Synced", "{told:?}");
                world.delivered(secret, &issued).await;
            }
            Err(reason) => {
                assert_eq!(told.state.as_str(), "Refused", "{told:?}");
                assert_eq!(told.reason.as_deref(), Some(*reason), "{told:?}");
            }
        }
    }
    // Nothing else than what was listed was asked for.
    let directory = world.directory(ACCOUNT, "web");
    for request in world.vault_requests_since(mark) {
        let Some((_, name)) = request.path.split_once(&format!("{directory}/")) else { continue };
        let known = name.is_empty() || ["tls", "www"].contains(&name);
        assert!(known || names.iter().any(|(_, listed, _)| *listed == name), "{}", request.path);
    }
    scene.is_held().await;
    for (sent, _, outcome) in &names {
        if outcome.is_err() {
            world.remove_entry("web", sent).await;
        }
    }
    world.refresh("web").await;
    world.becomes("vaultcertsync/web", "Ready", "True", "Synced").await;
}

async fn an_entry_beyond_what_vault_stores_changes_nothing_and_a_large_one_is_delivered(
    world: World,
) {
    let scene = Scene::set(&world).await;
    let issued = scene.authority.issue(HOST);
    let with_note = |bytes: usize| {
        let mut entry = fields(&issued);
        entry["note"] = json!("x".repeat(bytes));
        entry
    };
    let path = format!("{}/data/{}/tls", world.kv_mount(), world.directory(ACCOUNT, "web"));
    let body = json!({"data": with_note(1_200_000)});
    let (status, answer) = world.vault().post(&path, &body).await.expect("Vault");
    assert!(status >= 400, "Vault stored 1.2 MB: {status} {answer}");
    let told = world.look("web").await;
    scene.is_well(&told).await;
    scene.is_held().await;
    // What belongs to no pair may be as large as Vault takes it.
    scene.put(with_note(900_000)).await;
    world.look("web").await;
    let secret = world.delivered("web-tls", &issued).await;
    assert_eq!(text(&secret, "tls.key"), issued.key);
    assert!(secret.data.is_some_and(|data| data.values().all(|value| value.0.len() < 10_000)));
    world.ready("vaultcertsync/web").await;
}

async fn a_delivered_certificate_that_expires_is_told_and_replaced(world: World) {
    let scene = Scene::set(&world).await;
    let short = scene.authority.leaf(HOST).valid_until(15).issue();
    world.put_certificate("web", "tls", &short).await;
    world.look("web").await;
    let held = world.delivered("web-tls", &short).await;
    let expiring = world.becomes("vaultcertsync/web", "Expiring", "True", "Expiring").await;
    assert!(expiring.message.contains("`tls`"), "{}", expiring.message);
    let mark = world.mark();
    let ready = world.becomes("vaultcertsync/web", "Ready", "False", "Expired").await;
    assert_eq!(ready.message, "Expired: `tls`");
    let secret = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(secret.resource_version(), held.resource_version());
    assert_eq!(secret_writes(&world, mark), Vec::<String>::new());
    // Nothing worse than what expired may come after it.
    scene.put(json!({"certificate": "see the wiki", "private_key": short.key})).await;
    let status = world.look("web").await;
    assert_eq!(one(&status, "tls").reason.as_deref(), Some("Malformed"));
    let secret = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(secret.resource_version(), held.resource_version());
    scene.recovers().await;
}

/// Entries that all have to be delivered, each with what `tls.crt` and `tls.key` have to hold.
async fn all_are_delivered(
    world: &World,
    root: &str,
    entries: Vec<(&str, Value, String, String)>,
) -> Vec<Secret> {
    for (name, entry, ..) in &entries {
        world.put_entry(ACCOUNT, "web", name, entry.clone()).await;
    }
    Scene::begin(world).await;
    let mut secrets = Vec::new();
    for (name, _, certificate, key) in entries {
        let secret = world.secret(&format!("web-{name}")).await.expect(name);
        assert_eq!(text(&secret, "tls.crt"), certificate, "{name}");
        assert_eq!(text(&secret, "tls.key"), key, "{name}");
        assert_eq!(serves(&secret, root), Ok(()), "{name}");
        openssl_reads(&secret, name);
        secrets.push(secret);
    }
    secrets
}

/// openssl finds in a Secret the chain that was delivered, and the key of its leaf.
fn openssl_reads(secret: &Secret, name: &str) {
    let blocks = |text: &str| -> Vec<String> {
        let parts = text.split("-----BEGIN ").skip(1);
        parts.map(|part| part.split("-----END ").next().unwrap_or_default().to_owned()).collect()
    };
    let (chain, key) = (text(secret, "tls.crt"), text(secret, "tls.key"));
    let (read, _) = openssl(&["storeutl", "-certs", "/dev/stdin"], chain.as_bytes());
    assert_eq!(blocks(&read), blocks(&chain), "{name}");
    let (held, _) = openssl(&["x509", "-pubkey", "-noout"], chain.as_bytes());
    let (public, _) = openssl(&["pkey", "-pubout"], key.as_bytes());
    assert_eq!(held, public, "{name}");
}

/// What a server and its client make of a Secret: its key is that of its certificate, and who trusts
/// nothing but the root accepts the chain.
pub(crate) fn serves(secret: &Secret, root: &str) -> Result<(), rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificate = text(secret, "tls.crt");
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(certificate.as_bytes())
            .map(|one| one.expect("PEM"))
            .collect();
    let key = PrivateKeyDer::from_pem_slice(text(secret, "tls.key").as_bytes()).expect("a key");
    let server = CertifiedKey::from_der(chain, key, &provider)?;

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).expect("the root"))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .expect("a verifier");
    let host = ServerName::try_from(HOST).expect("a host");
    let (leaf, rest) = server.cert.split_first().expect("a leaf");
    verifier.verify_server_cert(leaf, rest, &host, &[], UnixTime::now()).map(drop)
}

async fn certbots_four_files_are_delivered(world: World) {
    let root = Authority::new("World CA");
    let issued = root.intermediate("World issuing CA").issue(HOST);
    let entry = json!({
        "cert.pem": issued.certificate,
        "chain.pem": issued.intermediates.concat(),
        "fullchain.pem": issued.full_chain(),
        "privkey.pem": issued.key,
    });
    let entries = vec![("files", entry, issued.full_chain(), issued.key.clone())];
    let secrets = all_are_delivered(&world, root.pem(), entries).await;
    // certbot says nothing of what to trust.
    assert_eq!(text(&secrets[0], "ca.crt"), "");
}

async fn every_kind_and_encoding_of_a_key_is_delivered(world: World) {
    let root = Authority::new("World CA");
    let of = |kind| root.leaf(HOST).key(kind).issue();
    let [rsa, p256, p384, p521, ed25519] =
        [Kind::Rsa, Kind::P256, Kind::P384, Kind::P521, Kind::Ed25519].map(of);
    let mut entries = Vec::new();
    let mut add = |name, issued: &Issued, key: &str| {
        let entry = json!({"tls.crt": issued.certificate, "tls.key": key});
        let delivered = if key == issued.key { pkcs8(issued) } else { key.to_owned() };
        entries.push((name, entry, issued.certificate.clone(), delivered));
    };
    for (name, issued) in
        [("rsa", &rsa), ("p256", &p256), ("p384", &p384), ("p521", &p521), ("ed25519", &ed25519)]
    {
        add(name, issued, &issued.key);
    }
    add("pkcs1", &rsa, &traditional("RSA PRIVATE KEY", &rsa.key));
    for (name, issued) in [("sec1-p256", &p256), ("sec1-p384", &p384), ("sec1-p521", &p521)] {
        add(name, issued, &sec1(issued));
    }
    all_are_delivered(&world, root.pem(), entries).await;
}

async fn every_form_of_a_value_is_delivered(world: World) {
    let root = Authority::new("World CA");
    let issued = root.intermediate("World issuing CA").issue(HOST);
    let chain = issued.intermediates.concat();
    let full = issued.full_chain();
    let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
    let forms = [
        (
            "base64-der",
            json!({
                "certificate": base64(&issued.certificate_der()),
                "private_key": base64(&issued.key_der()),
                "ca_chain": [base64(&der(&chain))],
                "issuing_ca": base64(&der(root.pem())),
            }),
        ),
        (
            "base64-pem",
            json!({"tls.crt": base64(full.as_bytes()), "tls.key": base64(issued.key.as_bytes())}),
        ),
        ("combined", json!({"certificate_pem": format!("{}{full}", issued.key)})),
        (
            "windows",
            json!({"crt": full.replace('\n', "\r\n"), "key": issued.key.replace('\n', "\r\n")}),
        ),
        // In any order, and with a root, which is not for servers to send.
        (
            "shuffled",
            json!({
                "cert": [root.pem(), chain.as_str(), issued.certificate.as_str()],
                "privateKey": issued.key,
            }),
        ),
    ];
    for (_, entry) in &forms {
        for key in ["private_key", "tls.key"] {
            if let Some(value) = entry[key].as_str() {
                leaks::plant("private key", value);
            }
        }
    }
    let entries =
        forms.map(|(name, entry)| (name, entry, full.clone(), issued.key.clone())).into_iter();
    let secrets = all_are_delivered(&world, root.pem(), entries.collect()).await;
    // Trust comes from a field for it, and from nowhere else.
    let trusted: Vec<String> = secrets.iter().map(|secret| text(secret, "ca.crt")).collect();
    assert_eq!(trusted, [root.pem(), "", "", "", ""]);
}

/// A PKI as teams have it, root and issuing CA each in an engine of its own; the root, PEM.
async fn pki(world: &World) -> String {
    let [root, issuing] = ["root", "pki"].map(|name| format!("{}-{name}", world.id));
    for mount in [&root, &issuing] {
        let engine = json!({"type": "pki", "config": {"max_lease_ttl": "8760h"}});
        world.write(&format!("sys/mounts/{mount}"), engine).await;
    }
    let ca = |name: &str| json!({"common_name": name, "key_type": "ec", "ttl": "8000h"});
    // A path of Vault's PKI engine, as all here: `root` is what is generated and signs.
    let made = world.write(&format!("{root}/root/generate/internal"), ca("Vault root")).await;
    let request = world
        .write(&format!("{issuing}/intermediate/generate/internal"), ca("Vault issuing CA"))
        .await;
    let mut sign = ca("Vault issuing CA");
    sign["csr"] = request["data"]["csr"].clone();
    let signed = world.write(&format!("{root}/root/sign-intermediate"), sign).await;
    let pem = |value: &Value| value.as_str().expect("PEM").to_owned();
    let anchor = pem(&made["data"]["certificate"]);
    let chain = format!("{}\n{anchor}", pem(&signed["data"]["certificate"]));
    world.write(&format!("{issuing}/intermediate/set-signed"), json!({"certificate": chain})).await;
    let allowed = json!({"allowed_domains": "example.com", "allow_subdomains": true});
    world.write(&format!("{issuing}/roles/web"), allowed).await;
    anchor
}

/// `vault write -format=json …-pki/issue/web common_name=…`, what stands under `data`.
async fn issue(world: &World, settings: Value) -> Value {
    let mut body = json!({"common_name": HOST, "ttl": "24h"});
    for (key, value) in settings.as_object().expect("settings") {
        body[key] = value.clone();
    }
    let mut answer = world.write(&format!("{}-pki/issue/web", world.id), body).await;
    let data = answer["data"].take();
    let key = data["private_key"].as_str().expect("a key");
    if key.starts_with("-----") {
        leaks::plant_pem("private key", key);
    } else {
        leaks::plant("private key", key);
    }
    data
}

async fn what_the_pki_engine_issues_is_delivered(world: World) {
    let root = pki(&world).await;
    let mut entries = Vec::new();
    for (name, settings) in [
        ("plain", json!({})),
        ("pkcs8", json!({"private_key_format": "pkcs8"})),
        ("bundle", json!({"format": "pem_bundle"})),
        ("der", json!({"format": "der"})),
        ("no-root", json!({"remove_roots_from_chain": true})),
    ] {
        let data = issue(&world, settings).await;
        world.put_entry(ACCOUNT, "web", name, data.clone()).await;
        entries.push((name, data));
    }
    Scene::begin(&world).await;
    for (name, data) in entries {
        let secret = world.secret(&format!("web-{name}")).await.expect(name);
        assert_eq!(serves(&secret, &root), Ok(()), "{name}");
        let string = |key: &str| data[key].as_str().expect("a text").to_owned();
        let status = world.certificate("web", name).await.expect("its status");
        let serial = string("serial_number").replace(':', "");
        assert_eq!(status.serial.as_deref(), Some(serial.trim_start_matches("00")), "{name}");
        // Leaf and issuing CA, without the root; trusted is what the engine calls the issuer.
        let certificate = text(&secret, "tls.crt");
        assert_eq!(certificate.matches("-----BEGIN CERTIFICATE-----").count(), 2, "{name}");
        assert!(!certificate.contains(&root), "{name}");
        if name == "der" {
            let chain = data["ca_chain"].as_array().expect("a chain");
            let issuer = STANDARD.decode(chain[0].as_str().expect("DER")).expect("base64");
            assert_eq!(text(&secret, "ca.crt"), pem("CERTIFICATE", &issuer));
            continue;
        }
        let (leaf, issuer) = (string("certificate"), string("issuing_ca"));
        if name != "bundle" {
            assert_eq!(certificate, format!("{leaf}\n{issuer}\n"), "{name}");
        }
        assert_eq!(text(&secret, "ca.crt"), format!("{issuer}\n"), "{name}");
        assert_eq!(text(&secret, "tls.key"), format!("{}\n", string("private_key")), "{name}");
    }
}
