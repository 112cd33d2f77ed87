//! `plan` against a real Vault, with a token that may only read: what it says before a change is applied,
//! and after the operator has applied it.

use std::fs;

use serde_json::{Value, json};

use crate::{
    certificates::Authority,
    login::{Person, Ran, run},
    manifest::Manifest,
    world::World,
};

tests![
    a_change_is_told_before_it_is_applied_and_nothing_is_left_after,
    what_the_operator_would_refuse_is_refused,
    what_a_token_may_not_read_is_an_error_and_not_a_guess,
];

/// Somebody who reviews: a token that may read, and the admin's backend in a file.
struct Reviewer {
    world: World,
    person: Person,
    token: String,
}

impl Reviewer {
    async fn new(world: &World) -> Self {
        let (auth, kv, id) = (world.auth_mount(), world.kv_mount(), &world.id);
        let text = format!(
            "path \"auth/{auth}/role/*\" {{ capabilities = [\"read\"] }}\n\
             path \"sys/policies/acl/{id}-*\" {{ capabilities = [\"read\"] }}\n\
             path \"sys/policies/acl/default\" {{ capabilities = [\"read\"] }}\n\
             path \"{kv}/metadata/*\" {{ capabilities = [\"list\"] }}\n"
        );
        let reviewer = Self::with(world, "reviewer", &text).await;
        reviewer.file("backend.yaml", &[world.backend()]);
        reviewer
    }

    async fn with(world: &World, name: &str, policy: &str) -> Self {
        let policy_name = format!("{name}-of-{}", world.id);
        world.write(&format!("sys/policies/acl/{policy_name}"), json!({"policy": policy})).await;
        let body = json!({"policies": [policy_name], "ttl": "10m"});
        let answer = world.write("auth/token/create", body).await;
        let token = answer["auth"]["client_token"].as_str().expect("a token").to_owned();
        crate::leaks::plant("Vault token", &token);
        Self { world: world.clone(), person: Person::new(world, name, None), token }
    }

    fn file(&self, name: &str, manifests: &[Manifest]) {
        let text: Vec<String> = manifests.iter().map(|one| one.value.to_string()).collect();
        fs::write(self.person.home.join(name), text.join("\n---\n")).expect("a file");
    }

    async fn plan(&self, manifests: &[Manifest]) -> Ran {
        self.file("change.yaml", manifests);
        let mut command = self.person.ours(&[
            "plan",
            "-f",
            "change.yaml",
            "--backend",
            "backend.yaml",
            "-n",
            &self.world.id,
            "--output",
            "json",
        ]);
        command.env("VAULT_TOKEN", &self.token);
        run(command).await
    }
}

fn resource<'a>(report: &'a Value, kind: &str, name: &str) -> &'a Value {
    let mut all = report["resources"].as_array().expect("resources").iter();
    all.find(|one| one["kind"] == kind && one["name"] == name).expect("the resource")
}

async fn a_change_is_told_before_it_is_applied_and_nothing_is_left_after(world: World) {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    let reviewer = Reviewer::new(&world).await;
    let manifests = [world.role("web"), world.sync("web"), world.backend()];

    let mark = world.mark();
    let ran = reviewer.plan(&manifests).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let report = ran.json();
    let role = resource(&report, "VaultAwsRole", "web");
    assert_eq!((&role["verdict"], &role["role"]["ownership"]), (&json!("created"), &json!("none")));
    assert_eq!(role["tenancy"], true);
    let diff = role["policy"]["diff"].as_str().expect("a diff");
    assert!(diff.contains("+  capabilities = [\"read\", \"list\"]"), "{diff}");
    let sync = resource(&report, "VaultCertSync", "web");
    assert_eq!(sync["delivery"]["secrets"], json!([{"entry": "tls", "secret": "web-tls"}]));
    assert_eq!(world.vault_role(&world.iam_role("web")).await, None, "it was only told");
    let asked = world.vault_requests_since(mark);
    let by_reviewer: Vec<_> =
        asked.iter().filter(|one| one.path.ends_with(&world.iam_role("web"))).collect();
    assert!(!by_reviewer.is_empty() && world.vault_writes_since(mark).is_empty(), "{asked:?}");

    for manifest in &manifests {
        manifest.apply().await;
    }
    world.ready("vaultawsrole/web").await;
    world.delivered("web-tls", &issued).await;
    let mark = world.mark();
    let ran = reviewer.plan(&manifests).await;
    assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{ran:?}");
    assert_eq!(resource(&ran.json(), "VaultAwsRole", "web")["verdict"], "unchanged");
    assert_eq!(world.vault_writes_since(mark), []);

    let changed = [world.role("web").with("spec.partition", "aws-cn")];
    let ran = reviewer.plan(&changed).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let fields = resource(&ran.json(), "VaultAwsRole", "web")["role"]["fields"].clone();
    let arn = world.iam_arn(crate::world::ACCOUNT, "web");
    let new = arn.replace("arn:aws:", "arn:aws-cn:");
    assert_eq!(fields, json!([{"field": "bound_iam_principal_arn", "old": [arn], "new": [new]}]));

    // Changed by hand: whose it is, only the cluster's own object tells now.
    let path = world.role_path("web");
    world.write(&path, json!({"token_policies": ["default"]})).await;
    let ran = reviewer.plan(&[world.role("web")]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let there = world.get("vaultawsrole/web").await.expect("the role");
    reviewer.file("backend.yaml", &[world.backend(), Manifest::new(&world, there)]);
    let ran = reviewer.plan(&[world.role("web")]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let fields = resource(&ran.json(), "VaultAwsRole", "web")["role"]["fields"].clone();
    assert_eq!(fields[0]["field"], "token_policies");
    let ran = reviewer.plan(&changed).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("partition is immutable"), "{ran:?}");
}

async fn what_the_operator_would_refuse_is_refused(world: World) {
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    let reviewer = Reviewer::new(&world).await;
    let refused = async |manifests: &[Manifest], reason: &str| {
        let ran = reviewer.plan(manifests).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.starts_with("error: refused"), "{}", ran.stderr);
        let report = ran.json();
        let found = report["resources"].as_array().expect("resources").iter();
        let reasons: Vec<&str> = found.filter_map(|one| one["reason"].as_str()).collect();
        assert_eq!(reasons, [reason], "{ran:?}");
    };
    let web = || world.role("web");
    refused(&[web().with("spec.accountId", "999988887777")], "TenancyDenied").await;
    refused(&[web().with("spec.iamRole", "somebody")], "TenancyDenied").await;
    refused(&[web(), web().with("metadata.name", "second")], "Conflict").await;
    refused(&[web().with("spec.backendRef.name", "another")], "BackendNotFound").await;
    refused(&[world.sync("lonely")], "RoleNotFound").await;
    let wider = world.backend().with("spec.tenancy.0.iamRoles", json!(["*"]));
    refused(&[wider], "BackendDiffers").await;

    // A role that stands there already, and not by us.
    let path = world.role_path("web");
    let body = json!({"auth_type": "iam", "resolve_aws_unique_ids": false,
        "bound_iam_principal_arn": world.iam_arn(crate::world::ACCOUNT, "web")});
    world.write(&path, body).await;
    refused(&[web()], "Conflict").await;
}

async fn what_a_token_may_not_read_is_an_error_and_not_a_guess(world: World) {
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    let nobody =
        Reviewer::with(&world, "nobody", "path \"nothing\" { capabilities = [\"read\"] }\n");
    let nobody = nobody.await;
    nobody.file("backend.yaml", &[world.backend()]);
    let ran = nobody.plan(&[world.role("web")]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(resource(&ran.json(), "VaultAwsRole", "web")["verdict"], "failed");
    assert!(ran.stdout.contains("VaultDenied"), "{ran:?}");
}
