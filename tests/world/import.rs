//! `import`: roles that people and Terraform made become manifests; the cluster takes them over, and
//! nothing that they were changes. And policies that lost their resource are found.

use std::fs;

use serde_json::{Value, json};

use crate::{
    leaks,
    login::{Person, Ran, run},
    manifest::Manifest,
    world::{ACCOUNT, CLUSTER, OTHER_ACCOUNT, World},
};

tests![
    what_people_and_terraform_made_is_taken_over_and_stays_as_it_was,
    what_no_manifest_can_say_is_told_with_its_reason,
    policies_whose_resource_is_gone_are_found,
    a_vault_that_cannot_be_read_is_said,
];

/// A person whose token can read roles and policies, and nothing else.
struct Reader {
    person: Person,
    token: String,
    backend: String,
}

impl Reader {
    async fn new(world: &World, backend: &Manifest) -> Self {
        let manifest = backend.value.to_string();
        let person = Person::new(world, "import", None);
        let policy = format!(
            "path \"auth/{0}/roles\" {{ capabilities = [\"list\"] }}\n\
             path \"auth/{0}/role/*\" {{ capabilities = [\"read\"] }}\n\
             path \"sys/policies/acl\" {{ capabilities = [\"list\"] }}\n\
             path \"sys/policies/acl/*\" {{ capabilities = [\"read\"] }}\n",
            world.auth_mount()
        );
        let name = format!("{}-reader", world.id);
        world.write(&format!("sys/policies/acl/{name}"), json!({"policy": policy})).await;
        let body = json!({"policies": [name], "no_default_policy": true, "ttl": "10m"});
        let answer = world.write("auth/token/create", body).await;
        let token = answer["auth"]["client_token"].as_str().expect("a token").to_owned();
        leaks::plant("Vault token", &token);
        let backend = person.home.join("backend.yaml").to_str().expect("a path").to_owned();
        fs::write(&backend, manifest).expect("a file");
        Self { person, token, backend }
    }

    async fn import(&self, args: &[&str]) -> Ran {
        let args = [&["import", "--backend", &self.backend], args].concat();
        let mut command = self.person.ours(&args);
        command.env("VAULT_TOKEN", &self.token);
        let ran = run(command).await;
        assert!(!ran.stdout.contains(&self.token) && !ran.stderr.contains(&self.token));
        ran
    }
}

impl Reader {
    /// What `plan` says of these manifests: its exit code, and the resources.
    async fn plan(&self, manifests: &[Value]) -> (Option<i32>, Vec<Value>) {
        let text: Vec<String> = manifests.iter().map(ToString::to_string).collect();
        fs::write(self.person.home.join("imported.yaml"), text.join("\n---\n")).expect("a file");
        let mut command = self.person.ours(&[
            "plan",
            "-f",
            "imported.yaml",
            "--backend",
            &self.backend,
            "--output",
            "json",
        ]);
        command.env("VAULT_TOKEN", &self.token);
        let ran = run(command).await;
        let resources = ran.json()["resources"].as_array().cloned().unwrap_or_default();
        (ran.code, resources)
    }
}

/// The world's backend, whose rule lets the team take over what is equal.
fn adopting(world: &World) -> Manifest {
    world
        .backend()
        .with("spec.tenancy.0.adopt", "IfEqual")
        .with("spec.tenancy.0.names", json!(["*"]))
}

/// A role as it was made by somebody, with the policy of two rules that people write.
async fn made(world: &World, name: &str, fields: Value) -> String {
    let iam = world.iam_role(name);
    world.create_iam_role(ACCOUNT, name).await;
    let (kv, directory) = (world.kv_mount(), world.directory(ACCOUNT, name));
    let policy = format!(
        "# by hand\n\
         path \"{kv}/data/{directory}/*\" {{ capabilities = [\"read\", \"list\"] }}\n\
         path \"{kv}/metadata/{directory}/*\" {{ capabilities = [\"list\", \"read\"] }}\n"
    );
    let path = format!("sys/policies/acl/{}", world.policy_name(&iam));
    world.write(&path, json!({"policy": policy})).await;
    let mut body = json!({
        "auth_type": "iam",
        "bound_iam_principal_arn": world.iam_arn(ACCOUNT, name),
        "resolve_aws_unique_ids": false,
    });
    for (key, value) in fields.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    let path = format!("auth/{}/role/{iam}", world.auth_mount());
    world.write(&path, body).await;
    path
}

fn documents(ran: &Ran) -> Vec<Value> {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let all: Vec<Value> = serde_saphyr::from_multiple(&ran.stdout).expect("YAML");
    all.into_iter().filter(|document| !document.is_null()).collect()
}

/// The backend, ready, and somebody who reads its Vault.
async fn mounted(world: &World, backend: Manifest) -> Reader {
    backend.apply().await;
    world.ready(&world.backend_ref()).await;
    Reader::new(world, &backend).await
}

async fn what_people_and_terraform_made_is_taken_over_and_stays_as_it_was(world: World) {
    let reader = mounted(&world, adopting(&world)).await;
    let policy = |name: &str| world.policy_name(&world.iam_role(name));
    // `vault write auth/aws/role/… bound_iam_principal_arn=… policies=…`
    let by_hand = made(&world, "hand", json!({"policies": policy("hand")})).await;
    // The fields that Terraform's vault_aws_auth_backend_role sends.
    let terraform = json!({
        "bound_iam_principal_arn": [world.iam_arn(ACCOUNT, "terraform")],
        "token_policies": [policy("terraform")],
        "token_ttl": 60,
        "token_max_ttl": 120,
        "token_explicit_max_ttl": 0,
        "token_period": 0,
        "token_num_uses": 0,
        "token_no_default_policy": false,
        "token_type": "default",
        "token_bound_cidrs": ["10.0.0.0/8", "127.0.0.1/32"],
    });
    let by_terraform = made(&world, "terraform", terraform).await;
    // One by its own name, which the backend's template does not give.
    let renamed = json!({"bound_iam_principal_arn": world.iam_arn(ACCOUNT, "web")});
    let by_name = made(&world, "named", renamed).await;
    let text = world.vault_policy(&policy("named")).await.expect("the policy");
    let text = text.replace(&world.iam_role("named"), &world.iam_role("web"));
    let path = format!("sys/policies/acl/{}", policy("named"));
    world.write(&path, json!({"policy": text})).await;
    world.write(&by_name, json!({"token_policies": [policy("named")]})).await;

    let roles = [by_hand, by_terraform, by_name];
    let mut before = Vec::new();
    for role in &roles {
        before.push(world.read(role).await.expect("the role"));
    }
    let mark = world.mark();
    let ran = reader.import(&[]).await;
    let manifests = documents(&ran);
    assert_eq!(manifests.len(), roles.len(), "{ran:?}");
    assert!(ran.stderr.contains("3 as manifests"), "{ran:?}");
    // Of the roles nothing would change, and of the policies the mark and a rule that was not there.
    let (code, planned) = reader.plan(&manifests).await;
    assert_eq!((code, planned.len()), (Some(2), roles.len()), "{planned:?}");
    for one in &planned {
        assert_eq!(one["role"]["ownership"], "adopted", "{one}");
        assert_eq!(one["role"]["fields"], json!([]), "{one}");
        let diff = one["policy"]["diff"].as_str().expect("a diff");
        assert!(diff.contains("+# vault-aws-operator v1 "), "{diff}");
    }
    assert!(world.vault_writes_since(mark).is_empty(), "both only read");

    for manifest in &manifests {
        Manifest::new(&world, manifest.clone()).apply().await;
    }
    for manifest in &manifests {
        let name = manifest["metadata"]["name"].as_str().expect("a name");
        world.ready(&format!("vaultawsrole/{name}")).await;
    }
    // The marks are written, and the roles stay untouched: the old key beside the new one too.
    let writes = world.vault_writes_since(mark);
    assert!(writes.iter().all(|write| write.path.starts_with("sys/policies/acl/")), "{writes:?}");
    for (role, before) in roles.iter().zip(before) {
        assert_eq!(world.read(role).await, Some(before));
    }
    let (code, planned) = reader.plan(&manifests).await;
    assert_eq!(code, Some(0), "{planned:?}");
    let ran = reader.import(&[]).await;
    assert!(documents(&ran).is_empty() && ran.stderr.contains("3 kept"), "{ran:?}");
}

async fn what_no_manifest_can_say_is_told_with_its_reason(world: World) {
    let reader = mounted(&world, world.backend()).await;
    let policies = [world.policy_name(&world.iam_role("two"))];
    let two = json!({
        "bound_iam_principal_arn":
            [world.iam_arn(ACCOUNT, "two"), world.iam_arn(OTHER_ACCOUNT, "two")],
        "token_policies": policies,
    });
    made(&world, "two", two).await;
    // A policy that is called otherwise than the backend would.
    let other = json!({"token_policies": [format!("team-{}", world.iam_role("other"))]});
    let path = made(&world, "other", other).await;
    world.write(&path, json!({"token_ttl": "5m"})).await;
    let ran = reader.import(&[]).await;
    assert!(documents(&ran).is_empty(), "{ran:?}");
    for reason in ["several accounts", "naming.policy `team-{role}` could take it"] {
        assert!(ran.stdout.contains(reason), "{reason}: {}", ran.stdout);
    }
    let ran = reader.import(&["nobody"]).await;
    assert_eq!((ran.code, &*ran.stdout), (Some(1), ""));
    assert!(ran.stderr.contains("there is no role `nobody`"), "{}", ran.stderr);
}

async fn policies_whose_resource_is_gone_are_found(world: World) {
    let reader = mounted(&world, world.backend()).await;
    world.role("web").apply().await;
    world.role("api").apply().await;
    for name in ["web", "api"] {
        world.ready(&format!("vaultawsrole/{name}")).await;
    }
    let cluster = ["--orphans", "--cluster-id", CLUSTER];
    let own = |ran: &Ran| -> Vec<Value> {
        // Other worlds have orphans of their own: they are of the same cluster.
        let all = documents(ran).into_iter();
        all.filter(|one| one["owner"]["namespace"] == world.id.as_str()).collect()
    };
    assert!(own(&reader.import(&cluster).await).is_empty());
    let file = reader.person.home.join("roles.yaml");
    let file = file.to_str().expect("a path");
    // As a deletion leaves it of which Vault never heard.
    let policy = world.policy_name("gone");
    let text = world.vault_policy(&world.policy_name(&world.iam_role("api"))).await;
    let text = text.expect("a policy").replace("name=api", "name=gone");
    world.write(&format!("sys/policies/acl/{policy}"), json!({"policy": text})).await;
    let [orphan] = own(&reader.import(&cluster).await).try_into().expect("one orphan");
    assert_eq!(orphan["policy"], policy.as_str());
    assert_eq!(orphan["owner"]["name"], "gone");
    assert_eq!(orphan["roleExists"], true);
    assert_eq!(orphan["role"], world.role_path("api"));
    // The same from files: those of now, and those of a cluster without the team's.
    let listed = world.kubectl(&["get", "vaultawsroles", "-o", "yaml"]).await;
    fs::write(file, listed).expect("a file");
    let files = [&cluster[..], &["--resources", file]].concat();
    assert_eq!(own(&reader.import(&files).await).len(), 1);
    fs::write(file, "---\n").expect("a file");
    assert_eq!(own(&reader.import(&files).await).len(), 3);
}

async fn a_vault_that_cannot_be_read_is_said(world: World) {
    let mut reader = mounted(&world, world.backend()).await;
    let nobody = reader.import(&["--address", "https://127.0.0.1:1"]).await;
    assert_eq!((nobody.code, &*nobody.stdout), (Some(2), ""), "{nobody:?}");
    reader.token = "hvs.this-is-no-token-of-anybody".to_owned();
    let refused = reader.import(&[]).await;
    assert_eq!((refused.code, &*refused.stdout), (Some(2), ""), "{refused:?}");
    let mut command = reader.person.ours(&["import", "--backend", &reader.backend]);
    command.env_remove("VAULT_TOKEN");
    let without = run(command).await;
    assert_eq!(without.code, Some(1), "{without:?}");
    assert!(without.stderr.contains("VAULT_TOKEN"), "{}", without.stderr);
}
