//! The backend as connection and tenancy: how Vault is reached, how the operator logs in, what cannot
//! change while it is used, and whose names are whose over all backends.

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use vault_aws_lab::{NamespacedRequest, aws, installation::NAMESPACE};

use crate::{
    certificates::Authority,
    leaks,
    manifest::{Manifest, secret},
    world::{ACCOUNT, OTHER_ACCOUNT, PATIENCE, World},
};

tests![
    a_listener_that_asks_for_a_certificate_is_shown_the_one_of_the_secret,
    a_vault_without_namespaces_is_not_written_to,
    the_operator_logs_in_by_its_own_aws_identity_and_renews,
    the_operator_does_not_log_in_by_aws_where_it_writes_roles,
    the_cluster_is_called_by_its_kube_system_namespace_unless_it_is_named,
    what_resources_use_does_not_change,
    an_address_that_never_worked_can_be_corrected,
    a_backend_waits_for_the_roles_that_must_be_cleaned,
    a_backend_without_written_roles_goes_at_once,
    a_withdrawn_role_is_taken_away_where_the_admin_says_so,
    unique_ids_of_foreign_accounts_wait_for_a_safe_vault,
    of_two_backends_on_one_vault_the_older_role_has_the_name,
    the_same_resource_of_another_cluster_is_another_owner,
    policies_of_the_operator_itself_are_never_written,
    a_backend_that_could_confuse_tenants_is_not_ready,
];
tests![in outage_tests: every_request_names_the_vault_namespace];

/// Another backend of this world.
fn second(world: &World) -> (String, Manifest) {
    let name = format!("{}-second", world.id);
    (format!("vaultawsbackend/{name}"), world.backend().with("metadata.name", name))
}

/// Writes a Secret of the operator's namespace.
async fn operator_secret(world: &World, name: &str, data: Value) {
    let value = secret(world, name, data).value;
    let api = Api::<Secret>::namespaced(world.kube(), NAMESPACE);
    let parameters = PatchParams::apply("world").force();
    api.patch(name, &parameters, &Patch::Apply(&value)).await.expect("the Secret is written");
}

async fn a_listener_that_asks_for_a_certificate_is_shown_the_one_of_the_secret(world: World) {
    let lab = &world.stage.lab;
    let (certificate, key) = lab.vault_client_certificate().expect("a client certificate");
    leaks::plant("client key", &key);
    let stranger = Authority::new("Stranger CA").issue("vault-client");
    let name = format!("{}-client", world.id);
    let unknown = json!({"tls.crt": stranger.certificate, "tls.key": stranger.key});
    operator_secret(&world, &name, unknown).await;
    let backend = world
        .backend()
        .with("spec.vault.address", lab.vault_mutual_addr())
        .with("spec.vault.clientCertificateRef", json!({"name": name}));
    let object = world.backend_ref();

    // The certificate of that listener names no address.
    backend.apply().await;
    let ready = world.becomes(&object, "Ready", "False", "VaultUnreachable").await;
    assert!(ready.message.contains("TLS"), "{}", ready.message);

    // The name is right, and our certificate is not one that the listener knows.
    let named = backend.with("spec.vault.tlsServerName", lab.vault_mutual_name());
    named.apply().await;
    let refused = world
        .eventually("the listener to refuse us", PATIENCE, async || {
            let ready = world.condition(&object, "Ready").await?;
            let said = ready.message.to_ascii_lowercase();
            (ready.status == "False" && !said.contains("not valid for name")).then_some(ready)
        })
        .await;
    assert_eq!(refused.reason, "VaultUnreachable", "{}", refused.message);

    // A Secret that cannot be used says so, and is looked at again.
    operator_secret(&world, &name, json!({"tls.crt": "nothing", "tls.key": key})).await;
    let invalid = world.becomes(&object, "Ready", "False", "ReferenceInvalid").await;
    assert!(invalid.message.contains(&name), "{}", invalid.message);

    // The Secret changes, and nothing else.
    let known = json!({"tls.crt": certificate, "tls.key": key});
    operator_secret(&world, &name, known).await;
    world.ready(&object).await;
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    assert!(world.vault_role(&world.iam_role("web")).await.is_some());
}

async fn a_vault_without_namespaces_is_not_written_to(world: World) {
    let mark = world.mark();
    world.backend().with("spec.vault.namespace", "admin").apply().await;
    world.role("web").apply().await;
    let object = world.backend_ref();
    let ready = world.becomes(&object, "Ready", "False", "NamespacesUnsupported").await;
    assert!(ready.message.contains("would ignore it"), "{}", ready.message);
    world.becomes("vaultawsrole/web", "Ready", "False", "BackendNotReady").await;
    assert_eq!(world.vault_requests_since(mark), []);
    // It never worked, so it can be taken back.
    world.backend().apply().await;
    world.ready("vaultawsrole/web").await;
}

async fn the_operator_logs_in_by_its_own_aws_identity_and_renews(world: World) {
    let mount = format!("{}-login", world.id);
    world.write(&format!("sys/auth/{mount}"), json!({"type": "aws"})).await;
    let keys = &world.seeds().vault.keys;
    let config = json!({
        "access_key": keys.access_key, "secret_key": keys.secret_key,
        "sts_endpoint": world.stage.lab.sts_url(), "sts_region": aws::REGION,
        "iam_server_id_header_value": "127.0.0.1",
    });
    world.write(&format!("auth/{mount}/config/client"), config).await;
    let policy = world.operator_policy();
    let role = json!({
        "auth_type": "iam",
        "bound_iam_principal_arn": [world.seeds().operator.arn],
        "resolve_aws_unique_ids": false,
        "token_policies": [policy, world.bootstrap_policy()],
        "token_ttl": "40s", "token_max_ttl": "1h",
    });
    world.write(&format!("auth/{mount}/role/the-operator"), role).await;

    let mark = world.mark();
    let login = json!({"aws": {"mount": mount, "role": "the-operator"}});
    world.backend().with("spec.operatorLogin", login).apply().await;
    world.role("web").with("spec.driftInterval", "10s").apply().await;
    world.ready("vaultawsrole/web").await;
    let accessors = tokens(&world, &mount).await;
    assert_eq!(accessors.len(), 1, "one login");
    // Longer than the token's life: it is renewed, and not replaced.
    tokio::time::sleep(std::time::Duration::from_secs(50)).await;
    world.ready("vaultawsrole/web").await;
    assert_eq!(tokens(&world, &mount).await, accessors);
    let logins = world.vault_requests_since(mark).into_iter().filter(|one| one.is_login());
    let paths: Vec<String> = logins.map(|one| one.path).collect();
    assert_eq!(paths, [format!("auth/{mount}/login")]);
}

/// The accessors of the tokens of an auth mount.
async fn tokens(world: &World, mount: &str) -> Vec<String> {
    let (_, listed) = world.vault().list("auth/token/accessors").await.expect("Vault");
    let mut found = Vec::new();
    for accessor in listed["data"]["keys"].as_array().into_iter().flatten() {
        let body = json!({"accessor": accessor});
        let (status, answer) =
            world.vault().post("auth/token/lookup-accessor", &body).await.expect("Vault");
        let path = answer["data"]["path"].as_str().unwrap_or_default();
        if status == 200 && path == format!("auth/{mount}/login") {
            found.push(accessor.as_str().unwrap_or_default().to_owned());
        }
    }
    found
}

async fn the_operator_does_not_log_in_by_aws_where_it_writes_roles(world: World) {
    let login = json!({"aws": {"mount": world.auth_mount(), "role": "the-operator"}});
    let said = world.backend().with("spec.operatorLogin", login).refused().await;
    assert!(said.contains("operatorLogin.aws.mount must be another mount"), "{said}");
    let two = json!({
        "aws": {"mount": "other", "role": "x"}, "tokenRef": {"name": "x", "key": "token"},
    });
    let said = world.backend().with("spec.operatorLogin", two).refused().await;
    assert!(said.contains("exactly one of"), "{said}");
}

async fn the_cluster_is_called_by_its_kube_system_namespace_unless_it_is_named(world: World) {
    world.backend().without("spec.clusterId").apply().await;
    let object = world.backend_ref();
    world.ready(&object).await;
    let system = world.get("namespace/kube-system").await.expect("it is there");
    let backend = world.get(&object).await.expect("the backend");
    assert_eq!(backend["status"]["clusterId"], system["metadata"]["uid"]);
    let said = world.backend().refused().await;
    assert!(said.contains("clusterId is immutable"), "{said}");
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    let policy = world.vault_policy(&world.policy_name(&world.iam_role("web"))).await;
    let uid = system["metadata"]["uid"].as_str().unwrap_or_default();
    assert!(policy.unwrap_or_default().contains(&format!("cluster={uid} ")));
}

async fn what_resources_use_does_not_change(world: World) {
    world.put_certificate("web", "tls", &Authority::new("World CA").issue("web.example.com")).await;
    // The operator has no right at the other mount.
    crate::grants::refusals_are_meant(&world);
    world.with_web().await;
    let before = world.role_and_policy().await;
    let object = world.backend_ref();
    let changed = world
        .backend()
        .with("spec.vault.address", "https://127.0.0.1:1")
        .with("spec.auth.mount", "another")
        .with("spec.certificates.basePath", "elsewhere")
        .with("spec.naming.role", "{namespace}.{iamRole}");
    changed.apply().await;
    let ready = world.becomes(&object, "Ready", "False", "FieldInUse").await;
    let expected = "vault.address, auth.mount, certificates, naming cannot change while 1 VaultAwsRole uses it";
    assert!(ready.message.contains(expected), "{}", ready.message);
    world.becomes(&object, "Stalled", "True", "FieldInUse").await;
    let status = world.get(&object).await.expect("the backend")["status"].clone();
    assert_eq!(status["inEffect"]["address"], world.stage.lab.vault_addr());
    assert_eq!(status["inEffect"]["authMount"], world.auth_mount());
    assert_eq!(status["inEffect"]["certificates"]["basePath"], "certs");

    // All goes on with the old values: certificates are delivered, and drift is put back.
    let next = Authority::new("Next CA").issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    world.refresh("web").await;
    world.delivered("web-tls", &next).await;
    world.write(&world.role_path("web"), json!({"token_policies": ["default"]})).await;
    world.role("web").with("spec.driftInterval", "10s").apply().await;
    world
        .eventually("the role to be as before", PATIENCE, async || {
            (world.role_and_policy().await == before).then_some(())
        })
        .await;
    world.ready("vaultawsrole/web").await;

    // Once nobody uses it, the new values hold.
    for object in ["vaultcertsync/web", "vaultawsrole/web"] {
        world.delete(object).await;
        world.gone(object, PATIENCE).await;
    }
    assert_eq!(world.role_and_policy().await, (None, None), "removed where it was written");
    world.becomes(&object, "Ready", "False", "VaultUnreachable").await;
    changed.with("spec.vault.address", world.stage.lab.vault_addr()).apply().await;
    world
        .eventually("the other mount to be asked for", PATIENCE, async || {
            let found = world.condition(&object, "Ready").await?;
            (found.status == "False" && found.reason != "VaultUnreachable").then_some(())
        })
        .await;
    world.backend().apply().await;
    world.ready(&object).await;
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
    assert!(world.role_and_policy().await.1.is_some(), "under the name that was given back");
}

async fn an_address_that_never_worked_can_be_corrected(world: World) {
    world.backend().with("spec.vault.address", "https://127.0.0.1:1").apply().await;
    world.role("web").apply().await;
    world.becomes(&world.backend_ref(), "Ready", "False", "VaultUnreachable").await;
    world.becomes("vaultawsrole/web", "Ready", "False", "BackendNotReady").await;
    world.backend().apply().await;
    world.ready("vaultawsrole/web").await;
}

async fn a_backend_waits_for_the_roles_that_must_be_cleaned(world: World) {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.with_web().await;
    let object = world.backend_ref();
    world.delete(&object).await;
    let ready = world.becomes(&object, "Ready", "False", "InUse").await;
    assert!(ready.message.starts_with("1 VaultAwsRole must be cleaned up"), "{}", ready.message);
    // What is there goes on; nothing new begins.
    world.ready("vaultawsrole/web").await;
    world.ready("vaultcertsync/web").await;
    world.role("late").apply().await;
    let late = world.becomes("vaultawsrole/late", "Ready", "False", "BackendNotReady").await;
    assert!(late.message.contains("being deleted"), "{}", late.message);

    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, (None, None));
    // The late role never wrote: nobody waits for it.
    world.gone(&object, PATIENCE).await;
    world.delete("vaultawsrole/late").await;
    world.gone("vaultawsrole/late", PATIENCE).await;
    assert!(world.read(&format!("sys/auth/{}", world.auth_mount())).await.is_some());
}

async fn a_backend_without_written_roles_goes_at_once(world: World) {
    world.backend().with("spec.tenancy", json!([])).apply().await;
    world.role("web").apply().await;
    world.becomes("vaultawsrole/web", "Ready", "False", "TenancyDenied").await;
    let object = world.backend_ref();
    world.delete(&object).await;
    world.gone(&object, PATIENCE).await;
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
}

async fn a_withdrawn_role_is_taken_away_where_the_admin_says_so(world: World) {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.with_web().await;
    world.role("taken").apply().await;
    world.ready("vaultawsrole/taken").await;
    // Of this one somebody else has taken the policy over.
    let taken = world.policy_name(&world.iam_role("taken"));
    let theirs = "# vault-aws-operator v1 cluster=other namespace=n name=m uid=u role=a/b\n";
    world.write(&format!("sys/policies/acl/{taken}"), json!({"policy": theirs})).await;

    let mark = world.mark();
    let remove = world.backend().with("spec.onTenancyWithdrawn", "Remove");
    remove.clone().with("spec.tenancy.0.namespaces", json!({"names": ["nobody"]})).apply().await;
    world.becomes("vaultawsrole/web", "Ready", "False", "TenancyDenied").await;
    world
        .eventually("role and policy to be gone", PATIENCE, async || {
            (world.role_and_policy().await == (None, None)).then_some(())
        })
        .await;
    let deleted: Vec<String> = world
        .vault_writes_since(mark)
        .into_iter()
        .map(|one| one.path)
        .filter(|path| *path == world.role_path("web") || *path == world.policy_path("web"))
        .collect();
    assert_eq!(deleted, [world.role_path("web"), world.policy_path("web")], "the role first");
    world
        .eventually("an event that says so", PATIENCE, async || {
            let events = world.events("vaultawsrole/web").await;
            events.into_iter().find(|(reason, _)| reason == "Removed")
        })
        .await;
    let status = world.get("vaultawsrole/web").await.expect("the role")["status"].clone();
    assert_eq!(status["vaultRole"], Value::Null, "{status}");
    // What is not ours stays, and so do the Secrets.
    assert_eq!(world.vault_policy(&taken).await.as_deref(), Some(theirs));
    assert!(world.secret("web-tls").await.is_some());

    remove.apply().await;
    world.ready("vaultawsrole/web").await;
    assert!(world.role_and_policy().await.0.is_some());
}

async fn unique_ids_of_foreign_accounts_wait_for_a_safe_vault(world: World) {
    // The lab's Vault, 1.21.1, has a known defect.
    let accounts = json!([{
        "accountId": OTHER_ACCOUNT,
        "stsRoleArn": aws::role_arn(OTHER_ACCOUNT, "vault-reader"),
    }]);
    let both_accounts = json!([ACCOUNT, OTHER_ACCOUNT]);
    world
        .backend()
        .with("spec.auth.accounts", accounts)
        .with("spec.tenancy.0.accounts", both_accounts)
        .with("spec.naming.role", "{account}-{iamRole}")
        .apply()
        .await;
    let object = world.backend_ref();
    world.ready(&object).await;
    world.becomes(&object, "VersionSafe", "False", "VersionUnsafe").await;
    world.create_iam_role(OTHER_ACCOUNT, "web").await;
    let mark = world.mark();
    let unique = world.role("web").with("spec.resolveAwsUniqueIds", true);
    unique.apply().await;
    let refused = world.becomes("vaultawsrole/web", "Ready", "False", "VersionUnsafe").await;
    assert!(refused.message.contains(ACCOUNT), "{}", refused.message);
    assert_eq!(world.vault_writes_since(mark), []);
    // With a role to ask in, it is that account's own.
    let other = unique.with("metadata.name", "other").with("spec.accountId", OTHER_ACCOUNT);
    other.apply().await;
    world.ready("vaultawsrole/other").await;
}

async fn of_two_backends_on_one_vault_the_older_role_has_the_name(world: World) {
    world.with_role().await;
    let before = world.role_and_policy().await;
    // By another address, to the same mount; and the name differs for AWS alone.
    let (object, backend) = second(&world);
    let by_name = world.stage.lab.vault_addr().replace("127.0.0.1", "localhost");
    backend
        .with("spec.vault.address", by_name)
        .with("spec.auth.serverId", "127.0.0.1")
        .apply()
        .await;
    world.ready(&object).await;
    let mark = world.mark();
    let loud = world.iam_role("WEB");
    world
        .role("rival")
        .with("spec.backendRef.name", format!("{}-second", world.id))
        .with("spec.iamRole", loud)
        .apply()
        .await;
    let ready = world.becomes("vaultawsrole/rival", "Ready", "False", "Conflict").await;
    assert!(ready.message.contains("owned by another resource"), "{}", ready.message);
    assert_eq!(world.vault_writes_since(mark), []);
    world.delete("vaultawsrole/rival").await;
    world.gone("vaultawsrole/rival", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, before);

    // At another mount the role's name is free, but policies are one list for the whole Vault.
    let elsewhere = format!("{}-aws2", world.id);
    world.write(&format!("sys/auth/{elsewhere}"), json!({"type": "aws"})).await;
    let policy = world.operator_policy();
    let names = [policy.clone(), world.bootstrap_policy(), format!("{policy}-elsewhere")];
    let roles = format!(
        "path \"auth/{elsewhere}/role/*\" {{ capabilities = [\"create\", \"read\", \"update\", \
         \"delete\"] }}"
    );
    world.write(&format!("sys/policies/acl/{}", names[2]), json!({"policy": roles})).await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let installation = &world.stage.installation;
    installation.allow_login(world.vault(), &policy, &names).await.expect("a login");
    world.delete(&object).await;
    world.gone(&object, PATIENCE).await;
    let (object, backend) = second(&world);
    backend.with("spec.auth", json!({"mount": elsewhere, "management": "Observed"})).apply().await;
    let mark = world.mark();
    world
        .role("rival")
        .with("spec.backendRef.name", format!("{}-second", world.id))
        .with("spec.iamRole", world.iam_role("web"))
        .apply()
        .await;
    world.becomes("vaultawsrole/rival", "Ready", "False", "Conflict").await;
    assert_eq!(world.vault_writes_since(mark), []);
    assert_eq!(world.role_and_policy().await, before);
    world.delete("vaultawsrole/rival").await;
    world.gone("vaultawsrole/rival", PATIENCE).await;
    world.delete(&object).await;
    world.gone(&object, PATIENCE).await;
}

async fn the_same_resource_of_another_cluster_is_another_owner(world: World) {
    world.with_role().await;
    let before = world.role_and_policy().await;
    // The cluster is lost with all that it knew; Vault keeps what it wrote.
    let (word, name) = ("vaultawsrole", "web");
    let api = crate::manifest::api_of(&world, word);
    world.patch(&world.backend_ref(), json!({"spec": {"tenancy": []}})).await;
    world.becomes("vaultawsrole/web", "Ready", "False", "TenancyDenied").await;
    let none = json!({"metadata": {"finalizers": null}});
    world.delete(&world.backend_ref()).await;
    world.becomes(&world.backend_ref(), "Ready", "False", "InUse").await;
    world.patch(&world.backend_ref(), none.clone()).await;
    world.gone(&world.backend_ref(), PATIENCE).await;
    api.delete(name, &DeleteParams::default()).await.expect("it is deleted");
    world.patch("vaultawsrole/web", none).await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, before);

    world.backend().with("spec.clusterId", "another").apply().await;
    let mark = world.mark();
    world.role("web").apply().await;
    world.becomes("vaultawsrole/web", "Ready", "False", "Conflict").await;
    assert_eq!(
        world.vault_writes_since(mark).iter().filter(|one| !one.path.contains("config")).count(),
        0
    );
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    assert_eq!(world.role_and_policy().await, before);
}

async fn policies_of_the_operator_itself_are_never_written(world: World) {
    // The templates would give this role the operator's own policy: operator-<id>.
    let own = world.operator_policy();
    let before = world.vault_policy(&own).await;
    world
        .backend()
        .with("spec.naming.policy", "operator-{role}")
        .with("spec.tenancy.0.iamRoles", json!([world.id]))
        .apply()
        .await;
    world.ready(&world.backend_ref()).await;
    let mark = world.mark();
    world.role("web").with("spec.iamRole", world.id.as_str()).apply().await;
    let ready = world.becomes("vaultawsrole/web", "Ready", "False", "ReservedName").await;
    assert!(ready.message.contains(&own), "{}", ready.message);
    assert_eq!(world.vault_writes_since(mark), []);
    assert_eq!(world.vault_policy(&own).await, before);
}

async fn a_backend_that_could_confuse_tenants_is_not_ready(world: World) {
    let object = world.backend_ref();
    let becomes = |reason: &'static str| world.becomes(&object, "Ready", "False", reason);
    let two = json!([ACCOUNT, OTHER_ACCOUNT]);
    world.backend().with("spec.tenancy.0.accounts", two).apply().await;
    let ready = becomes("NamingNotUnique").await;
    assert!(ready.message.contains("{account}"), "{}", ready.message);
    world.backend().with("spec.naming.role", "{namespace}-{iamRole}").apply().await;
    let ready = becomes("InvalidSpec").await;
    assert!(ready.message.contains("full stop"), "{}", ready.message);
    let all = json!({"selector": {}});
    world.backend().with("spec.tenancy.0.namespaces", all).apply().await;
    let ready = becomes("InvalidSpec").await;
    assert!(ready.message.contains("empty namespace selector"), "{}", ready.message);
    let none = json!({"names": []});
    world.backend().with("spec.tenancy.0.namespaces", none).refused().await;
    world.backend().with("spec.naming.policy", "va-{role}").refused().await;
    world.backend().apply().await;
    world.ready(&object).await;
}

async fn every_request_names_the_vault_namespace(world: World) {
    let front = world.stage.lab.simulate_namespaces().await.expect("a front of Vault");
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world
        .backend()
        .with("spec.vault.address", front.url())
        .with("spec.vault.namespace", "admin/team")
        .apply()
        .await;
    let object = world.backend_ref();
    world.ready(&object).await;
    let status = world.get(&object).await.expect("the backend")["status"].clone();
    assert_eq!(status["product"], "Vault Enterprise");
    // Tokens that have to be renewed.
    let role = world.role("web").with("spec.driftInterval", "10s");
    role.with("spec.token.ttl", "40s").apply().await;
    world.ready("vaultawsrole/web").await;
    world.sync("web").with("spec.refreshInterval", "10s").apply().await;
    world.delivered("web-tls", &issued).await;
    let asked = |what: &str| {
        let found = |one: &NamespacedRequest| one.path.contains(what);
        front.requests().iter().any(found)
    };
    world
        .eventually("a renewal", PATIENCE * 2, async || {
            asked("auth/token/renew-self").then_some(())
        })
        .await;
    world.delete("vaultcertsync/web").await;
    world.delete("vaultawsrole/web").await;
    world.gone("vaultawsrole/web", PATIENCE).await;
    // The end: tokens are given back.
    for operator in world.stage.operators() {
        assert!(operator.stop().await.expect("it stops"), "it was killed");
    }
    let logins = ["auth/kubernetes/login".to_owned(), format!("auth/{}/login", world.auth_mount())];
    let kv = format!("{}/", world.kv_mount());
    for wanted in [
        "sys/health",
        &logins[0],
        &logins[1],
        "auth/token/renew-self",
        "auth/token/revoke-self",
        &format!("{kv}metadata/"),
        &format!("{kv}data/"),
        &world.policy_path("web"),
        &world.role_path("web"),
        &format!("auth/{}/config/client", world.auth_mount()),
    ] {
        assert!(asked(wanted), "nobody asked for {wanted}");
    }
    let without: Vec<NamespacedRequest> = front
        .requests()
        .into_iter()
        .filter(|one| one.namespace.as_deref() != Some("admin/team"))
        .collect();
    assert_eq!(without, []);
    for operator in world.stage.operators() {
        operator.start_again().await.expect("the operator starts");
        operator.ready(PATIENCE).await.expect("the operator is ready");
    }
}
