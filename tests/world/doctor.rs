//! `doctor` names the broken link: faults are prepared one by one, from the AWS identity to the
//! certificates, and in the cluster.

use std::fs;

use serde_json::{Value, json};

use crate::{
    audit,
    certificates::Authority,
    login::{Person, Ran, run, user, with_role},
    world::{ACCOUNT, World},
};

tests![
    the_whole_way_is_walked_and_the_token_given_back,
    each_prepared_fault_is_named,
    a_resource_is_explained_from_the_clusters_own_objects,
];
tests![in outage_tests: servers_that_fail_are_named];

/// The walk of a user whose role in Vault may read `certs/<account>/<user>`.
struct Walk {
    world: World,
    person: Person,
    name: String,
}

impl Walk {
    async fn new(world: World) -> Self {
        with_role(&world).await;
        let name = world.iam_role("user");
        let policy = policy(&world, "user", &world.kv_mount()).await;
        let person = user(&world, "user", &[&policy]).await;
        let issued = Authority::new("World CA").issue("web.example.com");
        world.put_certificate("user", "tls", &issued).await;
        Self { world, person, name }
    }

    /// With these flags in place of the usual ones, and these variables.
    async fn walk(&self, args: &[&str], variables: &[(&str, &str)]) -> Ran {
        let mut all = vec!["doctor", "--output", "json"];
        let (mount, kv) = (self.world.auth_mount(), self.world.kv_mount());
        let defaults = [
            ("--path", mount.as_str()),
            ("--header-value", "127.0.0.1"),
            ("--role", self.name.as_str()),
            ("--kv-mount", kv.as_str()),
        ];
        for (flag, value) in defaults {
            if !args.contains(&flag) {
                all.extend([flag, value]);
            }
        }
        all.extend(args);
        let mut command = self.person.ours(&all);
        command.envs(variables.iter().copied());
        run(command).await
    }

    #[track_caller]
    fn names(ran: &Ran, step: &str, reason: &str) {
        let report = ran.json();
        let broken = &report["firstBroken"];
        assert_eq!(
            (&broken["step"], &broken["reason"]),
            (&step.into(), &reason.into()),
            "{ran:#?}"
        );
        assert!(!broken["cure"].as_str().expect("a cure").is_empty());
        assert_eq!(ran.code, Some(1));
        assert_eq!(ran.stderr, format!("error: broken at: {step}\n"));
    }
}

async fn policy(world: &World, name: &str, kv: &str) -> String {
    let directory = world.directory(ACCOUNT, name);
    let text = format!(
        "path \"{kv}/data/{directory}/*\" {{ capabilities = [\"read\"] }}\n\
         path \"{kv}/metadata/{directory}/*\" {{ capabilities = [\"list\", \"read\"] }}\n"
    );
    let policy = format!("{}-{name}-{kv}", world.id);
    world.write(&format!("sys/policies/acl/{policy}"), json!({"policy": text})).await;
    policy
}

fn marks(report: &Value) -> Vec<(&str, &str)> {
    let findings = report["findings"].as_array().expect("findings").iter();
    findings
        .map(|one| {
            (one["step"].as_str().unwrap_or_default(), one["mark"].as_str().unwrap_or_default())
        })
        .collect()
}

async fn the_whole_way_is_walked_and_the_token_given_back(world: World) {
    let walk = Walk::new(world.clone()).await;
    let mark = world.mark();
    let ran = walk.walk(&[], &[]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report = ran.json();
    let broken: Vec<_> = marks(&report).into_iter().filter(|(_, mark)| *mark != "good").collect();
    // The lab's Vault is of a version with a known defect.
    assert!(broken.iter().all(|found| *found == ("Vault", "doubt")), "{broken:?}");
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(7));
    let log = world.stage.lab.audit_vault_path();
    let asked: Vec<String> = audit::vault(&log, mark.vault)
        .expect("the audit log")
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert!(asked.iter().any(|path| path == "auth/token/revoke-self"), "the token was given back");
    let data = format!("{}/data/{}", world.kv_mount(), world.directory(ACCOUNT, "user"));
    assert!(!asked.iter().any(|path| path.starts_with(&data)));
}

async fn each_prepared_fault_is_named(world: World) {
    let walk = Walk::new(world.clone()).await;
    let config = "[profile vault]\ncredential_process = vault-aws credential-process -m a -r b\n";
    fs::write(walk.person.home.join(".aws/config"), config).expect("a file");
    let v1 = format!("{}-v1", world.id);
    world.write(&format!("sys/mounts/{v1}"), json!({"type": "kv"})).await;
    let on_v1 = policy(&world, "old", &v1).await;
    let old = user(&world, "old", &[&on_v1]).await;
    let empty = policy(&world, "empty", &world.kv_mount()).await;
    let empty = user(&world, "empty", &[&empty]).await;
    let blind = user(&world, "blind", &["default"]).await;
    let (old_role, empty_role) = (world.iam_role("old"), world.iam_role("empty"));
    let (web, blind_role) = (world.iam_role("web"), world.iam_role("blind"));

    let no_keys: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "")];
    let nowhere = "https://127.0.0.1:1";
    let regional = "https://sts.eu-west-1.amazonaws.com";
    type Fault<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str, &'a str);
    let faults: [Fault<'_>; 13] = [
        (&[], no_keys, "AWS identity", "NoAwsCredentials"),
        (
            &[],
            &[("AWS_ACCESS_KEY_ID", ""), ("AWS_PROFILE", "vault")],
            "AWS identity",
            "AwsProfileLeadsBack",
        ),
        (
            &[],
            &[("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-this-key")],
            "Region and STS",
            "AwsCredentialsInvalid",
        ),
        (
            &["--region", "us-east-1", "--sts-endpoint", regional],
            &[],
            "Region and STS",
            "RegionInvalid",
        ),
        (
            &["--region", "eu-west-1", "--sts-endpoint", "https://sts.internal"],
            &[],
            "Region and STS",
            "RegionMismatch",
        ),
        (&["--address", nowhere], &[], "Vault", "VaultUnreachable"),
        (&["--address", "https://vault.invalid"], &[], "Vault", "VaultUnreachable"),
        (&[], &[("VAULT_CACERT", "")], "Vault", "VaultUnreachable"),
        (&["--address", "http://vault.example.com"], &[], "Vault", "SettingsInvalid"),
        (&["--role", "nobody"], &[], "Login", "VaultRoleNotFound"),
        (&["--role", &web], &[], "Login", "PrincipalMismatch"),
        (&["--header-value", "other"], &[], "Login", "ServerIdMismatch"),
        (&["--path", "nowhere"], &[], "Login", "VaultDenied"),
    ];
    for (args, variables, step, reason) in faults {
        Walk::names(&walk.walk(args, variables).await, step, reason);
    }
    for (person, role, args, step, reason) in [
        (blind, blind_role, &[][..], "Capabilities", "SourceForbidden"),
        (old, old_role, &["--kv-mount", v1.as_str()][..], "KV", "NotKvV2"),
        (empty, empty_role, &[][..], "KV", "SourceEmpty"),
    ] {
        let walk = Walk { world: world.clone(), person, name: role };
        Walk::names(&walk.walk(args, &[]).await, step, reason);
    }

    // Whoever has no way to STS may still log in: Vault asks it.
    let ran = walk.walk(&[], &[("AWS_ENDPOINT_URL_STS", nowhere)]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(marks(&ran.json()).contains(&("Region and STS", "doubt")));
}

async fn servers_that_fail_are_named(world: World) {
    let walk = Walk::new(world.clone()).await;
    let lab = &world.stage.lab;
    lab.sts().answer_with(403, "RequestExpired").expect("a status");
    let ran = walk.walk(&[], &[]).await;
    lab.sts().answer_normally();
    Walk::names(&ran, "Clock", "SignatureExpired");

    lab.vault_seal().await.expect("Vault is sealed");
    let ran = walk.walk(&[], &[]).await;
    lab.vault_unseal().await.expect("Vault is unsealed");
    Walk::names(&ran, "Vault", "VaultSealed");
}

async fn a_resource_is_explained_from_the_clusters_own_objects(world: World) {
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.with_web().await;
    let person = Person::new(&world, "doctor", None);
    let explain = async |resource: &str| {
        run(person.ours(&["doctor", resource, "-n", &world.id, "--output", "json"])).await
    };
    for resource in ["vaultcertsync/web", "var/web", &format!("vab/{}", world.id)] {
        let ran = explain(resource).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(!ran.stdout.contains("PRIVATE KEY"));
    }
    Walk::names(&explain("vcs/nothing").await, "Kubernetes", "NotFound");

    // A certificate with the key of another.
    let other = Authority::new("World CA").issue("web.example.com");
    let fields = json!({"certificate": issued.certificate, "private_key": other.key});
    world.put_entry(ACCOUNT, "web", "broken", fields).await;
    world.refresh("web").await;
    world.certificate_becomes("web", "broken", "Refused", Some("KeyMismatch")).await;
    let ran = explain("vcs/web").await;
    Walk::names(&ran, "Certificates", "KeyMismatch");
    assert!(ran.stdout.contains("broken is Refused"), "{}", ran.stdout);

    // A sync without its role.
    world.sync("lonely").apply().await;
    world.becomes("vaultcertsync/lonely", "Ready", "False", "RoleNotFound").await;
    Walk::names(&explain("vcs/lonely").await, "Role", "RoleNotFound");

    // A tenancy that was taken away.
    world.backend().with("spec.tenancy.0.accounts", json!(["999988887777"])).apply().await;
    world.becomes("vaultawsrole/web", "Ready", "False", "TenancyDenied").await;
    Walk::names(&explain("var/web").await, "Tenancy", "TenancyDenied");
}
