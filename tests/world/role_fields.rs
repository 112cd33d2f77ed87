//! Every field of a role is written, read back as equal, and put back when somebody changes it; what
//! Vault or AWS refuses is told by its own reason, in words that do not change from try to try.

use serde_json::{Value, json};
use vault_aws_lab::aws;

use crate::{
    manifest::Manifest,
    world::{ACCOUNT, OTHER_ACCOUNT, PATIENCE, World},
};

tests![
    all_fields_of_an_iam_role_are_equal_once_written,
    all_fields_of_an_iam_role_with_inference_are_equal_once_written,
    all_fields_of_an_ec2_role_are_equal_once_written,
    what_is_taken_from_the_spec_is_taken_from_the_role,
    batch_tokens_and_back,
    a_token_setting_changed_by_hand_is_put_back,
    networks_of_ipv6_survive_each_write,
    the_longest_life_that_a_rule_gives_is_each_tokens_end,
    what_vault_would_refuse_the_api_server_refuses,
    what_cannot_change_the_api_server_keeps,
    what_the_rule_does_not_grant_is_denied,
    a_refusal_of_vault_has_its_reason_and_stays_the_same,
    a_refusal_of_aws_has_its_reason_and_stays_the_same,
];

/// A backend whose rule grants all ways to log in.
fn backend(world: &World) -> Manifest {
    world
        .backend()
        .with("spec.tenancy.0.authTypes", json!(["iam", "ec2"]))
        .with("spec.tenancy.0.allowInference", true)
}

fn token() -> Value {
    json!({
        "ttl": "1h",
        "maxTtl": "24h",
        "period": "90s",
        "explicitMaxTtl": "48h",
        "numUses": 7,
        "type": "service",
        "boundCidrs": ["127.0.0.1/32", "10.1.2.3/8", "2001:DB8::/32", "::1/128"],
    })
}

/// Without regions, which `iam` roles do not take.
fn binds(world: &World) -> Value {
    let profile = format!("arn:aws:iam::{ACCOUNT}:instance-profile/web");
    json!({
        "amiIds": ["ami-0aaaaaaaaaaaaaaa2", "ami-0aaaaaaaaaaaaaaa1"],
        "vpcIds": ["vpc-0a"],
        "subnetIds": ["subnet-0a", "subnet-0b"],
        "iamRoleArns": [world.iam_arn(ACCOUNT, "*")],
        "instanceProfileArns": [profile],
        "instanceIds": ["i-0aaaaaaaaaaaaaaa1"],
    })
}

/// The role in Vault has these fields.
async fn stands(world: &World, expected: Value) {
    let role = world.read(&world.role_path("web")).await.expect("the role");
    for (key, value) in expected.as_object().expect("fields") {
        assert_eq!(role[key], *value, "{key}");
    }
}

async fn token_stands(world: &World) {
    let expected = json!({
        "token_ttl": 3600,
        "token_max_ttl": 86400,
        "token_period": 90,
        "token_explicit_max_ttl": 172_800,
        "token_num_uses": 7,
        "token_type": "service",
    });
    stands(world, expected).await;
    let role = world.read(&world.role_path("web")).await.expect("the role");
    let mut networks: Vec<&str> = Vec::new();
    for network in role["token_bound_cidrs"].as_array().expect("a list") {
        networks.push(network.as_str().expect("a text"));
    }
    networks.sort_unstable();
    assert_eq!(networks, ["10.1.2.3/8", "127.0.0.1", "2001:db8::/32", "::1"]);
}

async fn binds_stand(world: &World) {
    let profile = format!("arn:aws:iam::{ACCOUNT}:instance-profile/web");
    let expected = json!({
        "bound_account_id": [ACCOUNT],
        "bound_ami_id": ["ami-0aaaaaaaaaaaaaaa2", "ami-0aaaaaaaaaaaaaaa1"],
        "bound_vpc_id": ["vpc-0a"],
        "bound_subnet_id": ["subnet-0a", "subnet-0b"],
        "bound_iam_role_arn": [world.iam_arn(ACCOUNT, "*")],
        "bound_iam_instance_profile_arn": [profile],
        "bound_ec2_instance_id": ["i-0aaaaaaaaaaaaaaa1"],
    });
    stands(world, expected).await;
}

/// Another look at the role finds nothing to write.
async fn is_left_alone(world: &World, role: &Manifest) {
    let mark = world.mark();
    role.clone().with("spec.driftInterval", "20m").apply().await;
    world.ready("vaultawsrole/web").await;
    let requests = world.vault_requests_since(mark);
    let path = world.role_path("web");
    assert!(requests.iter().any(|one| one.path == path && one.operation == "read"), "{requests:?}");
    assert_eq!(world.vault_writes_since(mark), []);
}

/// The role is written once, with these keys.
async fn is_written_with(world: &World, role: &Manifest, keys: &[&str]) {
    let mark = world.mark();
    role.apply().await;
    world.ready("vaultawsrole/web").await;
    let mut writes = world.vault_writes_since(mark);
    writes.retain(|write| write.path == world.role_path("web"));
    assert_eq!(writes.len(), 1, "{writes:?}");
    let mut sent = writes[0].fields.clone();
    sent.sort_unstable();
    assert_eq!(sent, keys);
}

async fn all_fields_of_an_iam_role_are_equal_once_written(world: World) {
    backend(&world).apply().await;
    world.ready(&world.backend_ref()).await;
    let role = world.role("web").with("spec.token", token());
    let keys = [
        "auth_type",
        "bound_iam_principal_arn",
        "resolve_aws_unique_ids",
        "token_bound_cidrs",
        "token_explicit_max_ttl",
        "token_max_ttl",
        "token_num_uses",
        "token_period",
        "token_policies",
        "token_ttl",
        "token_type",
    ];
    is_written_with(&world, &role, &keys).await;
    token_stands(&world).await;
    is_left_alone(&world, &role).await;
}

async fn all_fields_of_an_iam_role_with_inference_are_equal_once_written(world: World) {
    backend(&world).apply().await;
    world.ready(&world.backend_ref()).await;
    let role = world
        .role("web")
        .with("spec.token", token())
        .with("spec.inference.region", "eu-west-1")
        .with("spec.ec2", binds(&world));
    role.apply().await;
    world.ready("vaultawsrole/web").await;
    token_stands(&world).await;
    binds_stand(&world).await;
    let expected = json!({
        "auth_type": "iam",
        "bound_iam_principal_arn": [world.iam_arn(ACCOUNT, "web")],
        "inferred_entity_type": "ec2_instance",
        "inferred_aws_region": "eu-west-1",
        "bound_region": [],
    });
    stands(&world, expected).await;
    is_left_alone(&world, &role).await;

    // Off again: Vault takes that only together with all the binds.
    let plain = role.clone().without("spec.inference").without("spec.ec2");
    plain.apply().await;
    world.ready("vaultawsrole/web").await;
    stands(&world, json!({"inferred_entity_type": "", "bound_account_id": [], "bound_ami_id": []}))
        .await;
    is_left_alone(&world, &plain).await;
    // And on.
    role.apply().await;
    world.ready("vaultawsrole/web").await;
    binds_stand(&world).await;
}

async fn all_fields_of_an_ec2_role_are_equal_once_written(world: World) {
    backend(&world).apply().await;
    world.ready(&world.backend_ref()).await;
    let mut all = binds(&world);
    all["regions"] = json!(["eu-west-1", "eu-west-2"]);
    let role = world.role("web").with("spec.authType", "ec2").with("spec.ec2", all);
    let role = role.with("spec.token", token());
    role.apply().await;
    world.ready("vaultawsrole/web").await;
    token_stands(&world).await;
    binds_stand(&world).await;
    let expected = json!({
        "auth_type": "ec2",
        "bound_iam_principal_arn": [],
        "bound_region": ["eu-west-1", "eu-west-2"],
    });
    stands(&world, expected).await;
    // Keys that nobody declares are not ours.
    let networks = ["127.0.0.1", "10.1.2.3/8", "2001:db8::/32", "::1"];
    let by_hand = json!({"role_tag": "by-hand", "token_bound_cidrs": networks});
    world.write(&world.role_path("web"), by_hand).await;
    is_left_alone(&world, &role).await;
    stands(&world, json!({"role_tag": "by-hand"})).await;
    let status = world.get("vaultawsrole/web").await.expect("the role")["status"].take();
    assert_eq!(status["login"], Value::Null, "no command logs an instance in");
}

async fn what_is_taken_from_the_spec_is_taken_from_the_role(world: World) {
    backend(&world).apply().await;
    let role = world.role("web").with("spec.token", token());
    role.apply().await;
    world.ready("vaultawsrole/web").await;
    let keys = [
        "token_bound_cidrs",
        "token_explicit_max_ttl",
        "token_max_ttl",
        "token_num_uses",
        "token_period",
        "token_ttl",
        "token_type",
    ];
    is_written_with(&world, &world.role("web"), &keys).await;
    let expected = json!({
        "token_bound_cidrs": [],
        "token_explicit_max_ttl": 0,
        "token_max_ttl": 0,
        "token_num_uses": 0,
        "token_period": 0,
        "token_ttl": 0,
        "token_type": "default",
    });
    stands(&world, expected).await;
    is_left_alone(&world, &world.role("web")).await;
}

async fn batch_tokens_and_back(world: World) {
    backend(&world).apply().await;
    let periodic = world.role("web").with("spec.token", json!({"period": "1h", "numUses": 3}));
    periodic.apply().await;
    world.ready("vaultawsrole/web").await;
    let batch = world.role("web").with("spec.token", json!({"type": "batch", "ttl": "5m"}));
    let keys = ["token_num_uses", "token_period", "token_ttl", "token_type"];
    is_written_with(&world, &batch, &keys).await;
    is_left_alone(&world, &batch).await;
    is_written_with(&world, &periodic, &keys).await;
    // More than the mount gives: Vault warns, keeps it, and caps it at each login.
    let long = world.role("web").with("spec.token", json!({"maxTtl": "9000h"}));
    long.apply().await;
    world.ready("vaultawsrole/web").await;
    stands(&world, json!({"token_max_ttl": 32_400_000})).await;
    is_left_alone(&world, &long).await;
}

async fn a_token_setting_changed_by_hand_is_put_back(world: World) {
    backend(&world).apply().await;
    let token = json!({"ttl": "1h", "boundCidrs": ["10.0.0.1/32"]});
    let role = world.role("web").with("spec.token", token);
    role.apply().await;
    world.ready("vaultawsrole/web").await;
    // One that is declared, one that is not, one of the old names, and one that only looks different.
    let by_hand = json!({
        "token_bound_cidrs": ["10.0.0.1"], "token_period": "8h", "ttl": "2h",
    });
    world.write(&world.role_path("web"), by_hand).await;
    let role = role.with("spec.driftInterval", "20m");
    is_written_with(&world, &role, &["token_period", "token_ttl"]).await;
    stands(&world, json!({"token_period": 0, "token_ttl": 3600, "ttl": null})).await;
}

async fn networks_of_ipv6_survive_each_write(world: World) {
    backend(&world).apply().await;
    let networks = json!(["10.0.0.0/8", "::1", "2001:db8::/32"]);
    let token = json!({"boundCidrs": networks});
    let role = world.role("web").with("spec.token", token.clone());
    role.apply().await;
    world.ready("vaultawsrole/web").await;
    stands(&world, json!({"token_bound_cidrs": networks})).await;
    // Vault loses them when anything else is written, which is why ours are sent along.
    let longer = role.clone().with("spec.token.ttl", "1h");
    is_written_with(&world, &longer, &["token_bound_cidrs", "token_ttl"]).await;
    stands(&world, json!({"token_bound_cidrs": networks, "token_ttl": 3600})).await;
    world.write(&world.role_path("web"), json!({"token_num_uses": 3})).await;
    let lost =
        world.read(&world.role_path("web")).await.expect("the role")["token_bound_cidrs"].take();
    assert_ne!(lost, networks, "Vault is cured: then they need not be sent along");
    let again = longer.with("spec.driftInterval", "20m");
    is_written_with(&world, &again, &["token_bound_cidrs", "token_num_uses"]).await;
    stands(&world, json!({"token_bound_cidrs": networks})).await;
}

async fn the_longest_life_that_a_rule_gives_is_each_tokens_end(world: World) {
    backend(&world).with("spec.tenancy.0.maxTokenTtl", "1h").apply().await;
    let role = world.role("web").with("spec.token.period", "10m");
    role.apply().await;
    world.ready("vaultawsrole/web").await;
    let expected =
        json!({"token_max_ttl": 3600, "token_explicit_max_ttl": 3600, "token_period": 600});
    stands(&world, expected).await;
    is_left_alone(&world, &role).await;
    for field in ["ttl", "maxTtl", "period", "explicitMaxTtl"] {
        world.role("web").with("spec.token", json!({field: "61m"})).apply().await;
        let told = world.becomes("vaultawsrole/web", "Ready", "False", "TenancyDenied").await;
        assert!(told.message.contains(&format!("token.{field} of 1h1m")), "{}", told.message);
    }
}

async fn what_vault_would_refuse_the_api_server_refuses(world: World) {
    let web = || world.role("web");
    let ami = || json!({"amiIds": ["ami-0a"]});
    let principals = |arn: &str| web().with("spec.principals", json!([arn]));
    let refused = [
        (web().with("spec.iamUser", "x"), "exactly one of iamRole and iamUser"),
        (web().without("spec.iamRole"), "exactly one of iamRole and iamUser"),
        (web().with("spec.authType", "zzz"), "spec.authType"),
        (web().with("spec.authType", "ec2"), "authType ec2 needs iamRole and ec2"),
        (web().with("spec.ec2", ami()), "ec2 and inference need each other"),
        (web().with("spec.inference.region", "eu-west-1"), "ec2 and inference need each other"),
        (
            web().with("spec.inference.region", "x").with("spec.ec2", json!({"regions": ["x"]})),
            "no ec2.regions with inference",
        ),
        (web().with("spec.authType", "ec2").with("spec.ec2", json!({})), "at least one list"),
        (
            web()
                .with("spec.authType", "ec2")
                .with("spec.ec2", ami())
                .with("spec.resolveAwsUniqueIds", true),
            "takes no principals, inference or resolveAwsUniqueIds",
        ),
        (web().with("spec.ec2", json!({"amiIds": ["x"]})), "spec.ec2.amiIds[0]"),
        (web().with("spec.token", json!({"ttl": "2h", "maxTtl": "1h"})), "must not be longer"),
        (web().with("spec.token", json!({"type": "batch", "period": "1h"})), "batch tokens"),
        (web().with("spec.token", json!({"type": "batch", "numUses": 1})), "batch tokens"),
        (web().with("spec.token", json!({"type": "default-service"})), "spec.token.type"),
        (web().with("spec.token", json!({"ttl": "-1s"})), "spec.token.ttl"),
        (web().with("spec.token", json!({"ttl": "soon"})), "spec.token.ttl"),
        (web().with("spec.token", json!({"numUses": -1})), "spec.token.numUses"),
        (web().with("spec.token", json!({"boundCidrs": ["host"]})), "spec.token.boundCidrs[0]"),
        (principals("hello"), "spec.principals[0]"),
        (principals(&format!("arn:aws:iam::{ACCOUNT}:root")), "spec.principals[0]"),
        (principals(&format!("arn:aws:sts::{ACCOUNT}:assumed-role/web/x")), "spec.principals[0]"),
        (principals(&format!("arn:aws:iam::{ACCOUNT}:role/a*b")), "spec.principals[0]"),
        (principals(&aws::role_arn(OTHER_ACCOUNT, "web")), "must lie in partition and accountId"),
        (principals(&format!("arn:aws-cn:iam::{ACCOUNT}:role/x")), "must lie in partition"),
        (web().with("spec.vaultName", "a+b"), "spec.vaultName"),
        (web().with("spec.vaultName", "web-"), "spec.vaultName"),
        (web().with("spec.adopt", "Maybe"), "spec.adopt"),
        (web().with("spec.drift", "Ignore"), "spec.drift"),
    ];
    for (manifest, expected) in refused {
        let said = manifest.refused().await;
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

async fn what_cannot_change_the_api_server_keeps(world: World) {
    let named = world.role("web").with("spec.vaultName", "legacy");
    let named = named.with("spec.resolveAwsUniqueIds", true);
    named.apply().await;
    world.role("plain").apply().await;
    let user = world.role("plain").with("spec.iamUser", "x").without("spec.iamRole");
    let ec2 = world.role("plain").with("spec.authType", "ec2");
    for (manifest, expected) in [
        (named.clone().with("spec.backendRef.name", "other"), "backendRef is immutable"),
        (named.clone().with("spec.accountId", OTHER_ACCOUNT), "accountId is immutable"),
        (named.clone().with("spec.iamRole", "other"), "iamRole is immutable"),
        (named.clone().with("spec.partition", "aws-cn"), "partition is immutable"),
        (named.clone().with("spec.vaultName", "other"), "vaultName is immutable"),
        (named.clone().without("spec.vaultName"), "vaultName is immutable"),
        (named.clone().with("spec.resolveAwsUniqueIds", false), "cannot go from true to false"),
        (world.role("plain").with("spec.vaultName", "legacy"), "vaultName is immutable"),
        (user, "iamUser is immutable"),
        (ec2.with("spec.ec2", json!({"amiIds": ["ami-0a"]})), "authType is immutable"),
    ] {
        let said = manifest.refused().await;
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

async fn what_the_rule_does_not_grant_is_denied(world: World) {
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    let mark = world.mark();
    let ami = || json!({"amiIds": ["ami-0a"]});
    let own = |name: &str| world.role("web").with("metadata.name", name);
    let arn = |rest: &str| format!("arn:aws:iam::{ACCOUNT}:{rest}");
    let cases = [
        (
            own("user").without("spec.iamRole").with("spec.iamUser", world.iam_role("ada")),
            format!("IAM user `{}`", world.iam_role("ada")),
        ),
        (own("arn").with("spec.principals", json!([arn("role/other")])), "IAM role `other`".into()),
        (own("arns").with("spec.principals", json!([arn("role/*")])), "IAM roles `*`".into()),
        (
            own("wild").with("spec.principals", json!([world.iam_arn(ACCOUNT, "*")])),
            "wildcards in principals".into(),
        ),
        (own("ec2").with("spec.authType", "ec2").with("spec.ec2", ami()), "authType ec2".into()),
        (
            own("inferred").with("spec.inference.region", "x").with("spec.ec2", ami()),
            "inference".into(),
        ),
        (own("named").with("spec.vaultName", "other"), "the name `other` in Vault".into()),
        (own("adopting").with("spec.adopt", "IfEqual"), "adopt IfEqual".into()),
    ];
    for (manifest, lacks) in cases {
        manifest.apply().await;
        let name = manifest.value["metadata"]["name"].as_str().expect("a name");
        let object = format!("vaultawsrole/{name}");
        let denied = world.becomes(&object, "Ready", "False", "TenancyDenied").await;
        assert_eq!(denied.message, format!("tenancy rule `test` does not grant {lacks}"));
    }
    assert_eq!(world.vault_writes_since(mark), []);
}

/// Waits for the reason, then for two more attempts, between which nothing is told anew.
async fn refused_alike(world: &World, reason: &str, part: &str) {
    let told = world.becomes("vaultawsrole/web", "Ready", "False", reason).await;
    assert!(told.message.contains(part), "{reason}: {}", told.message);
    assert!(!told.message.contains("request id"), "{}", told.message);
    let mark = world.mark();
    // Slow retries wait for minutes: a new spec is looked at now.
    let patch = |interval: &str| json!({"spec": {"driftInterval": interval}});
    for interval in ["16m", "17m"] {
        world.patch("vaultawsrole/web", patch(interval)).await;
        let again = world.becomes("vaultawsrole/web", "Ready", "False", reason).await;
        assert_eq!(again.message, told.message);
    }
    let requests = world.vault_requests_since(mark);
    let tries = requests.iter().filter(|one| one.path == world.role_path("web") && one.is_write());
    assert!(tries.count() >= 2, "{requests:?}");
}

async fn a_refusal_of_vault_has_its_reason_and_stays_the_same(world: World) {
    world.backend().apply().await;
    world.role("web").with("spec.token.period", "9000h").apply().await;
    refused_alike(&world, "VaultRefused", "greater than the backend's maximum lease TTL").await;
    // No Vault is asked for what is no network.
    let mark = world.mark();
    world.role("web").with("spec.token.boundCidrs", json!(["10.0.0.0/33"])).apply().await;
    let told = world.becomes("vaultawsrole/web", "Ready", "False", "InvalidSpec").await;
    assert!(told.message.contains("`10.0.0.0/33`"), "{}", told.message);
    assert_eq!(world.vault_writes_since(mark), []);
    world.role("web").apply().await;
    world.ready("vaultawsrole/web").await;
}

async fn a_refusal_of_aws_has_its_reason_and_stays_the_same(world: World) {
    let accounts =
        |role: &str| json!([{"accountId": ACCOUNT, "stsRoleArn": aws::role_arn(ACCOUNT, role)}]);
    let backend = world.backend().with("spec.auth.accounts", accounts("vault-reader"));
    let unique = world.role("web").with("spec.resolveAwsUniqueIds", true);
    let becomes_with = async |backend: Manifest, reason: &str, part: &str| {
        backend.apply().await;
        world.ready(&world.backend_ref()).await;
        // One that was written is not written again.
        if world.get("vaultawsrole/web").await.is_some() {
            world.delete("vaultawsrole/web").await;
            world.gone("vaultawsrole/web", PATIENCE).await;
        }
        unique.apply().await;
        refused_alike(&world, reason, part).await;
    };
    // Vault may not assume this one.
    let denied = backend.clone().with("spec.auth.accounts", accounts(&world.iam_role("web")));
    becomes_with(denied, "VaultAwsDenied", "AccessDenied").await;
    let dead = backend.clone().with("spec.auth.client.iamEndpoint", "http://127.0.0.1:1");
    becomes_with(dead, "StsUnreachable", "RequestError").await;
    // Nobody knows that Vault's key was changed behind our back.
    backend.clone().apply().await;
    world.ready(&world.backend_ref()).await;
    let path = format!("auth/{}/config/client", world.auth_mount());
    let config = world.read(&path).await.expect("config/client");
    let keys = world.seeds().vault.keys.clone();
    assert_eq!(config["access_key"], keys.access_key);
    let put = async |secret: &str| {
        let keys = json!({"access_key": keys.access_key, "secret_key": secret});
        world.write(&path, keys).await;
    };
    put("not-the-secret-key").await;
    becomes_with(backend.clone(), "BadVaultAwsKeys", "SignatureDoesNotMatch").await;
    put(&keys.secret_key).await;
    let role = world.iam_role("web");
    world.stage.lab.aws.delete_role(ACCOUNT, &role).await.expect("the IAM role");
    becomes_with(backend.clone(), "PrincipalNotFound", "NoSuchEntity").await;
    world.create_iam_role(ACCOUNT, "web").await;
    world
        .eventually("the role, as soon as AWS knows it", PATIENCE, async || {
            world.condition("vaultawsrole/web", "Ready").await.filter(|it| it.status == "True")
        })
        .await;
}
