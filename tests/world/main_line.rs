//! From three small manifests to a Secret, and then silence.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    certificates::Authority,
    world::{ACCOUNT, CLUSTER, World, text},
};

tests![
    three_minimal_manifests_become_role_policy_and_secret,
    kubectl_shows_how_things_stand,
    an_unchanged_pass_writes_nothing_and_reads_metadata_only,
    the_pods_pass_the_restricted_standard,
];

async fn three_minimal_manifests_become_role_policy_and_secret(world: World) {
    let authority = Authority::new("World CA");
    let issued = authority.intermediate("World issuing CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.with_web().await;

    let vault_role = world.iam_role("web");
    let policy = world.policy_name(&vault_role);
    let role = world.vault_role(&vault_role).await.expect("the role in Vault");
    assert_eq!(role["auth_type"], "iam");
    assert_eq!(role["bound_iam_principal_arn"], json!([world.iam_arn(ACCOUNT, "web")]));
    assert_eq!(role["resolve_aws_unique_ids"], false);
    assert_eq!(role["token_policies"], json!([policy]));

    let resource = world.get("vaultawsrole/web").await.expect("the VaultAwsRole");
    let uid = resource["metadata"]["uid"].as_str().expect("a UID");
    let (id, mount, kv) = (&world.id, world.auth_mount(), world.kv_mount());
    let directory = world.directory(ACCOUNT, "web");
    let expected = format!(
        "# vault-aws-operator v1 cluster={CLUSTER} namespace={id} name=web uid={uid} \
         role={mount}/{vault_role}\n\
         \n\
         path \"{kv}/data/{directory}/*\" {{\n  capabilities = [\"read\", \"list\"]\n}}\n\
         \n\
         path \"{kv}/metadata/{directory}/*\" {{\n  capabilities = [\"read\", \"list\"]\n}}\n\
         \n\
         path \"{kv}/metadata/{directory}/\" {{\n  capabilities = [\"list\"]\n}}\n"
    );
    assert_eq!(world.vault_policy(&policy).await.expect("the policy in Vault"), expected);
    assert_eq!(resource["status"]["vaultRole"], json!(vault_role));
    assert_eq!(resource["status"]["policyName"], json!(policy));

    let secret = world.secret("web-tls").await.expect("the Secret");
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
    let data = secret.data.as_ref().expect("data");
    assert_eq!(data.keys().collect::<Vec<_>>(), ["ca.crt", "tls.crt", "tls.key"]);
    assert_eq!(text(&secret, "tls.crt"), issued.full_chain());
    assert_eq!(text(&secret, "tls.key"), issued.key);
    assert_eq!(text(&secret, "ca.crt"), issued.root);
    let labels = secret.metadata.labels.as_ref().expect("labels");
    assert_eq!(
        labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>(),
        [("app.kubernetes.io/managed-by", "vault-aws-operator"), ("vaultaws.dev/sync", "web")]
    );
    let sync = world.get("vaultcertsync/web").await.expect("the VaultCertSync");
    let owners = serde_json::to_value(&secret.metadata.owner_references).expect("JSON");
    assert_eq!(
        owners,
        json!([{
            "apiVersion": "vaultaws.dev/v1alpha1",
            "kind": "VaultCertSync",
            "name": "web",
            "uid": sync["metadata"]["uid"],
            "controller": true,
        }])
    );

    let status = world.sync_status("web").await;
    assert_eq!(status.summary.as_deref(), Some("1/1"));
    assert_eq!(status.vault_role, Some(vault_role));
    let [certificate] = status.certificates.as_slice() else { panic!("one certificate") };
    assert_eq!(certificate.secret_name.as_deref(), Some("web-tls"));
    assert_eq!(certificate.version, Some(1));
    assert_eq!(certificate.dns_names, ["web.example.com"]);
    let serial: String = certificate.serial.iter().flat_map(|text| text.chars()).collect();
    assert_eq!(serial.replace(':', "").to_lowercase(), issued.serial);
    assert_eq!(status.next_expiry, certificate.not_after);
}

async fn kubectl_shows_how_things_stand(world: World) {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.with_web().await;
    let expiry = world.sync_status("web").await.next_expiry.expect("an expiry");
    let address = world.stage.lab.vault_addr();
    let id = &world.id;
    let backend = world.get(&world.backend_ref()).await.expect("the backend");
    let version = backend["status"]["vaultVersion"].as_str().expect("a version");
    let iam_role = world.iam_role("web");
    for (kind, header, row) in [
        (
            format!("vab/{id}"),
            "NAME ADDRESS PRODUCT VERSION READY REASON AGE",
            format!("{id} {address} Vault {version} True Ready"),
        ),
        (
            "var/web".to_owned(),
            "NAME ACCOUNT IAM-ROLE VAULT-ROLE ISOLATED READY REASON AGE",
            format!("web {ACCOUNT} {iam_role} {iam_role} True True Ready"),
        ),
        (
            "vcs/web".to_owned(),
            "NAME ACCOUNT IAM-ROLE CERTS NEXT-EXPIRY READY REASON AGE",
            format!("web {ACCOUNT} {iam_role} 1/1 {expiry} True Synced"),
        ),
    ] {
        let table = world.kubectl(&["get", &kind]).await;
        let lines: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        let [head, body] = lines.as_slice() else { panic!("one row:\n{table}") };
        assert_eq!(head.join(" "), header);
        // The age is what it is.
        assert_eq!(body[..body.len() - 1].join(" "), row);
    }
}

async fn an_unchanged_pass_writes_nothing_and_reads_metadata_only(world: World) {
    let authority = Authority::new("World CA");
    for name in ["a", "b", "c"] {
        world.put_certificate("web", name, &authority.issue("web.example.com")).await;
    }
    let backend = world.backend();
    backend.apply().await;
    world.role("web").with("spec.driftInterval", "10s").apply().await;
    world.sync("web").with("spec.refreshInterval", "10s").apply().await;
    for object in [world.backend_ref().as_str(), "vaultawsrole/web", "vaultcertsync/web"] {
        world.ready(object).await;
    }
    // The first pass may find its own writes; from its second on, nothing is new.
    let passes = |mark, count| {
        let world = world.clone();
        async move {
            let directory = format!("{}/metadata/", world.kv_mount());
            let role = format!("auth/{}/role/", world.auth_mount());
            let what = format!("{count} passes of role and sync");
            world
                .eventually(&what, Duration::from_secs(60), async || {
                    let requests = world.vault_requests_since(mark);
                    let seen = |operation: &str, path: &str| {
                        let same = requests
                            .iter()
                            .filter(|one| one.operation == operation && one.path.starts_with(path));
                        same.count() >= count
                    };
                    (seen("list", &directory) && seen("read", &role)).then_some(())
                })
                .await;
        }
    };
    passes(world.mark(), 1).await;
    let before = world.get("vaultcertsync/web").await.expect("the sync");
    let mark = world.mark();
    passes(mark, 2).await;

    assert_eq!(world.vault_writes_since(mark), []);
    assert_eq!(world.kubernetes_requests_since(mark), []);
    let after = world.get("vaultcertsync/web").await.expect("the sync");
    assert_eq!(before["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"]);
    let requests = world.vault_requests_since(mark);
    let data = format!("{}/data/", world.kv_mount());
    assert!(
        !requests.iter().any(|one| one.path.starts_with(&data)),
        "a key was read: {requests:?}"
    );
    assert!(!requests.iter().any(|one| one.is_login()), "somebody logged in: {requests:?}");
    let metadata = format!("{}/metadata/", world.kv_mount());
    let count = |operation: &str| {
        let same = requests
            .iter()
            .filter(|one| one.operation == operation && one.path.starts_with(&metadata));
        same.count()
    };
    // A pass may be under way.
    let lists = count("list");
    let reads = count("read");
    assert!(
        reads <= 3 * lists && reads >= 3 * (lists - 1),
        "one LIST and three metadata reads a pass: {lists} and {reads}"
    );
}

async fn the_pods_pass_the_restricted_standard(world: World) {
    for operator in world.stage.operators() {
        let name = operator.component().name();
        let args = ["get", "deployment", name, "--namespace=vault-aws-system", "--output=json"];
        let output = world.stage.lab.kubectl(&args).await.expect("kubectl");
        let mut deployment: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let spec = deployment["spec"]["template"]["spec"].take();
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "vault-aws-system"},
            "spec": spec,
        });
        let created = dry_run(&world, &pod).await;
        assert_eq!(created, Ok(()), "{name}");
        // The standard is enforced: without what the template says, the pod is refused.
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
        let refused = dry_run(&world, &pod).await.expect_err("a privileged pod");
        assert!(refused.contains("violates PodSecurity \"restricted"), "{refused}");
    }
}

async fn dry_run(world: &World, pod: &Value) -> Result<(), String> {
    let args = ["create", "--dry-run=server", "--filename=-"];
    let output = world.stage.lab.kubectl_with_input(&args, &pod.to_string()).await;
    let output = output.expect("kubectl");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() && said.is_empty() { Ok(()) } else { Err(said) }
}
