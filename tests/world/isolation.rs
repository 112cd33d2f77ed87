//! What a login could reach is judged before a role is written, and said when others change it later.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    manifest::Manifest,
    world::{ACCOUNT, World},
};

tests![
    own_rules_that_reach_others_are_refused_before_any_write,
    what_is_only_reported_is_written,
    each_kind_of_policy_has_its_verdict,
    a_policy_that_others_change_is_told_and_so_is_its_undoing,
    a_policy_that_does_not_exist_is_not_attached,
    what_an_identity_adds_is_judged,
    what_the_operator_may_not_see_is_unknown_and_stops_nothing,
    only_what_one_rule_grants_is_attached,
    a_role_that_writes_destroys_nothing,
    a_role_without_certificates_reads_none,
    a_token_lives_no_longer_than_the_rule_says,
    a_login_is_tried_once_per_change,
    a_login_that_fails_is_said_with_its_reason,
];

tests![in outage_tests: what_everybody_carries_is_judged];

/// A change in Vault is seen after the drift interval, and what was read a moment ago serves for ten
/// seconds.
const SEEN: Duration = Duration::from_secs(45);

/// A policy that the operator may read and attach.
fn name(world: &World, word: &str) -> String {
    format!("{}-more-{word}", world.id)
}

/// Writes it as an admin would.
async fn put(world: &World, word: &str, text: &str) {
    let path = format!("sys/policies/acl/{}", name(world, word));
    world.write(&path, json!({"policy": text})).await;
}

fn rule(path: &str, words: &[&str]) -> String {
    format!("path \"{path}\" {{ capabilities = {} }}\n", json!(words))
}

/// A backend whose one rule grants these policies.
fn granting(world: &World, words: &[&str]) -> Manifest {
    let names: Vec<String> = words.iter().map(|word| name(world, word)).collect();
    world.backend().with("spec.tenancy.0.additionalPolicies", names)
}

/// The role `web` with these policies, looked at every other second.
fn naming(world: &World, words: &[&str]) -> Manifest {
    let names: Vec<String> = words.iter().map(|word| name(world, word)).collect();
    let role = world.role("web").with("spec.driftInterval", "2s");
    role.with("spec.token", json!({"additionalPolicies": names}))
}

async fn isolated(world: &World, role: &str, status: &str, reason: &str) -> String {
    let object = format!("vaultawsrole/{role}");
    let what = format!("{object} to be Isolated={status} {reason}");
    world
        .eventually(&what, SEEN, async || {
            let found = world.condition(&object, "Isolated").await?;
            (found.status == status && found.reason == reason).then_some(found.message)
        })
        .await
}

/// Refused: nothing was written, and the condition says why.
async fn refused(world: &World, mark: crate::audit::Mark, reason: &str) -> String {
    let ready = world.becomes("vaultawsrole/web", "Ready", "False", "NotIsolated").await;
    isolated(world, "web", "False", reason).await;
    assert_eq!(world.vault_writes_since(mark), []);
    ready.message
}

async fn own_rules_that_reach_others_are_refused_before_any_write(world: World) {
    let kv = world.kv_mount();
    let neighbour = format!("{kv}/data/certs/{ACCOUNT}/{}/*", world.iam_role("api"));
    let granted = json!([
        {"path": neighbour, "capabilities": ["read"]},
        {"path": "+/data/*", "capabilities": ["read"]},
        {"path": "sys/leases/count", "capabilities": ["read"]},
    ]);
    // An admin's mistake in the rule does not help.
    world.backend().with("spec.tenancy.0.extraRules", granted.clone()).apply().await;
    world.ready(&world.backend_ref()).await;
    let mark = world.mark();
    let role = world.role("web");
    for extra in granted.as_array().expect("a list") {
        let extras = json!({"extraRules": [extra]});
        role.clone().with("spec.policy", extras).apply().await;
        let said = refused(&world, mark, "NotIsolated").await;
        assert!(said.contains(extra["path"].as_str().expect("a path")), "{said}");
        world.becomes("vaultawsrole/web", "Stalled", "True", "NotIsolated").await;
    }
    assert_eq!(world.vault_role(&world.iam_role("web")).await, None);

    role.apply().await;
    world.ready("vaultawsrole/web").await;
    isolated(&world, "web", "True", "Isolated").await;
    let before = world.vault_policy(&world.policy_name(&world.iam_role("web"))).await;
    let mark = world.mark();
    let extras = json!({"extraRules": [{"path": "+/data/x", "capabilities": ["read"]}]});
    role.with("spec.policy", extras).apply().await;
    refused(&world, mark, "NotIsolated").await;
    assert_eq!(world.vault_policy(&world.policy_name(&world.iam_role("web"))).await, before);
}

async fn what_is_only_reported_is_written(world: World) {
    let path = format!("{}/metadata/certs/*", world.kv_mount());
    let extra = json!([{"path": path, "capabilities": ["list"]}]);
    let backend = world.backend().with("spec.tenancy.0.extraRules", extra.clone());
    backend.with("spec.isolation", "Report").apply().await;
    world.role("web").with("spec.policy", json!({"extraRules": extra})).apply().await;
    world.ready("vaultawsrole/web").await;
    isolated(&world, "web", "False", "NotIsolated").await;
    let policy = world.vault_policy(&world.policy_name(&world.iam_role("web"))).await;
    assert!(policy.expect("the policy").contains(&path));
    told(&world, "NotIsolated").await;
    let metrics = world.stage.role_writer.metrics().await.expect("metrics");
    let line = metrics.lines().find(|line| line.starts_with("vault_aws_isolation{reason=\"NotI"));
    assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{line:?}");
    let columns = world.kubectl(&["get", "vaultawsrole", "web"]).await;
    let columns: Vec<&str> = columns.split_whitespace().take(7).collect();
    assert_eq!(
        columns,
        ["NAME", "ACCOUNT", "IAM-ROLE", "VAULT-ROLE", "ISOLATED", "READY", "REASON"]
    );
}

async fn told(world: &World, reason: &str) {
    world
        .eventually(&format!("the event {reason}"), SEEN, async || {
            let events = world.events("vaultawsrole/web").await;
            events.into_iter().find(|(found, _)| found == reason)
        })
        .await;
}

/// Each case of what a policy can say, as the additional policy of a role of its own.
async fn each_kind_of_policy_has_its_verdict(world: World) {
    let kv = world.kv_mount();
    let cases: Vec<(&str, String, &str, &str)> = vec![
        ("whole", rule(&format!("{kv}/*"), &["read"]), "False", "NotIsolated"),
        ("config", rule(&format!("{kv}/config"), &["read"]), "False", "NotIsolated"),
        ("token", rule("auth/token/create", &["update"]), "False", "NotIsolated"),
        ("sudo", rule("pki/root", &["delete", "sudo"]), "False", "SudoGranted"),
        (
            "template",
            rule(&format!("{kv}/data/{{{{identity.entity.name}}}}"), &["read"]),
            "False",
            "NotIsolated",
        ),
        ("segment", rule("+/data/certs/+/x", &["read"]), "False", "NotIsolated"),
        (
            "denied",
            rule(&format!("{kv}/*"), &["read"]) + &rule(&format!("/{kv}/*"), &["deny"]),
            "True",
            "Isolated",
        ),
        (
            "half-denied",
            rule(&format!("{kv}/data/*"), &["read"]) + &rule(&format!("{kv}/*"), &["deny"]),
            "False",
            "NotIsolated",
        ),
        (
            "shadowed",
            ["auth/*", "sys/*", "identity/*"].map(|path| rule(path, &["deny"])).concat()
                + &rule(&format!("{kv}/*"), &["deny"])
                + &rule("+/data/x/*", &["read"]),
            "True",
            "Isolated",
        ),
        (
            "list-own",
            rule(&format!("{kv}/metadata/{}", world.directory(ACCOUNT, "list-own")), &["list"]),
            "True",
            "Isolated",
        ),
        (
            "list-own-slash",
            rule(
                &format!("{kv}/metadata/{}/", world.directory(ACCOUNT, "list-own-slash")),
                &["list"],
            ),
            "True",
            "Isolated",
        ),
        (
            "list-all",
            rule(&format!("{kv}/metadata/certs/{ACCOUNT}/"), &["list"]),
            "False",
            "NotIsolated",
        ),
        (
            "narrowed",
            format!(
                "path \"{kv}/data/*\" {{ capabilities = [\"read\"]\n min_wrapping_ttl = \"1s\" }}"
            ),
            "False",
            "NotIsolated",
        ),
        ("strange", "path é { policy = \"read\" }".to_owned(), "Unknown", "PolicyNotUnderstood"),
        (
            "elsewhere",
            rule("pki/issue/*", &["update"]) + &rule("team/creds/x", &["read"]),
            "True",
            "Isolated",
        ),
    ];
    for (word, text, ..) in &cases {
        put(&world, word, text).await;
    }
    let words: Vec<&str> = cases.iter().map(|(word, ..)| *word).chain(["gone"]).collect();
    granting(&world, &words).with("spec.isolation", "Report").apply().await;
    for word in &words {
        let token = json!({"additionalPolicies": [name(&world, word).to_uppercase()]});
        world.role(word).with("spec.token", token).apply().await;
    }
    for (word, _, status, reason) in &cases {
        isolated(&world, word, status, reason).await;
        world.ready(&format!("vaultawsrole/{word}")).await;
    }
    isolated(&world, "gone", "False", "DanglingPolicy").await;
    let resource = world.get("vaultawsrole/elsewhere").await.expect("the role");
    assert_eq!(resource["status"]["alsoReaches"], json!(["pki/", "team/"]));
    let role = world.vault_role(&world.iam_role("sudo")).await.expect("the role in Vault");
    let policies = [world.policy_name(&world.iam_role("sudo")), name(&world, "sudo")];
    assert_eq!(role["token_policies"], json!(policies), "folded, its own first");
}

async fn a_policy_that_others_change_is_told_and_so_is_its_undoing(world: World) {
    let harmless = rule("pki/issue/web", &["update"]);
    put(&world, "team", &harmless).await;
    granting(&world, &["team"]).apply().await;
    naming(&world, &["team"]).apply().await;
    world.ready("vaultawsrole/web").await;
    isolated(&world, "web", "True", "Isolated").await;
    let role = world.vault_role(&world.iam_role("web")).await;
    let mark = world.mark();

    put(&world, "team", &rule(&format!("{}/data/*", world.kv_mount()), &["read"])).await;
    let said = isolated(&world, "web", "False", "NotIsolated").await;
    assert!(said.contains(&name(&world, "team")), "{said}");
    told(&world, "NotIsolated").await;
    // What stands is as declared: it is not taken away from under its users.
    assert_eq!(world.ready("vaultawsrole/web").await.reason, "Ready");

    put(&world, "team", &harmless).await;
    isolated(&world, "web", "True", "Isolated").await;
    told(&world, "Isolated").await;
    let path = format!("sys/policies/acl/{}", name(&world, "team"));
    assert_eq!(world.vault().delete(&path).await.expect("Vault").0, 204);
    isolated(&world, "web", "False", "DanglingPolicy").await;
    assert_eq!(world.vault_writes_since(mark), []);
    assert_eq!(world.vault_role(&world.iam_role("web")).await, role);
    let events = world.events("vaultawsrole/web").await;
    let count = |reason: &str| events.iter().filter(|(found, _)| found == reason).count();
    assert_eq!((count("NotIsolated"), count("Isolated")), (1, 1), "{events:?}");
}

async fn a_policy_that_does_not_exist_is_not_attached(world: World) {
    granting(&world, &["later"]).apply().await;
    world.ready(&world.backend_ref()).await;
    let mark = world.mark();
    naming(&world, &["later"]).apply().await;
    let said = refused(&world, mark, "DanglingPolicy").await;
    assert!(said.contains("does not exist"), "{said}");
    world.becomes("vaultawsrole/web", "Reconciling", "True", "NotIsolated").await;
    put(&world, "later", &rule("pki/issue/web", &["update"])).await;
    // Nobody watches Vault's policies: the next look comes half a minute after the one that failed, or after
    // another that something else asked for meanwhile.
    world
        .eventually("the role to be ready", Duration::from_secs(90), async || {
            world
                .condition("vaultawsrole/web", "Ready")
                .await
                .filter(|ready| ready.status == "True")
        })
        .await;
    isolated(&world, "web", "True", "Isolated").await;
}

async fn what_an_identity_adds_is_judged(world: World) {
    put(&world, "entity", &rule(&format!("{}/data/*", world.kv_mount()), &["read"])).await;
    world.backend().apply().await;
    world.role("web").with("spec.driftInterval", "2s").apply().await;
    world.ready("vaultawsrole/web").await;
    isolated(&world, "web", "True", "Isolated").await;
    // The first login makes the entity.
    let web = world.log_in(ACCOUNT, "web", &world.iam_role("web")).await.expect("a login");
    let (_, answer) = web.get("auth/token/lookup-self").await.expect("Vault");
    let entity = answer["data"]["entity_id"].as_str().expect("an entity").to_owned();
    let path = format!("identity/entity/id/{entity}");
    world.write(&path, json!({"policies": [name(&world, "entity")]})).await;
    let said = isolated(&world, "web", "False", "NotIsolated").await;
    assert!(said.contains(&name(&world, "entity")), "{said}");
    world.write(&path, json!({"policies": []})).await;
    isolated(&world, "web", "True", "Isolated").await;

    let group = json!({
        "name": name(&world, "group"),
        "policies": [name(&world, "entity")],
        "member_entity_ids": [entity],
    });
    let group = world.write("identity/group", group).await;
    isolated(&world, "web", "False", "NotIsolated").await;
    let group = group["data"]["id"].as_str().expect("an id");
    let path = format!("identity/group/id/{group}");
    assert_eq!(world.vault().delete(&path).await.expect("Vault").0, 204);
    isolated(&world, "web", "True", "Isolated").await;
}

async fn what_the_operator_may_not_see_is_unknown_and_stops_nothing(world: World) {
    crate::grants::refusals_are_meant(&world);
    // A policy of the operator that knows nothing of identities.
    let path = format!("sys/policies/acl/{}", world.operator_policy());
    let policy = world.vault_policy(&world.operator_policy()).await.expect("the policy");
    let less = policy.replace("config/identity", "config/nothing");
    world.write(&path, json!({"policy": less})).await;
    world.backend().apply().await;
    let role = world.role("web").with("spec.driftInterval", "2s");
    role.apply().await;
    world.ready("vaultawsrole/web").await;
    isolated(&world, "web", "Unknown", "IdentityUnreadable").await;
    // Nobody may see whether there is an entity.
    let less = policy.replace("identity/lookup", "identity/nothing");
    world.write(&path, json!({"policy": less})).await;
    isolated(&world, "web", "Unknown", "IdentityUnreadable").await;
    let default = policy.replace("acl/default", "acl/something");
    world.write(&path, json!({"policy": default})).await;
    isolated(&world, "web", "Unknown", "PolicyUnreadable").await;
    world.ready("vaultawsrole/web").await;
    // It is not carried, so it need not be read.
    role.with("spec.token", json!({"noDefaultPolicy": true})).apply().await;
    isolated(&world, "web", "True", "Isolated").await;
    let role = world.vault_role(&world.iam_role("web")).await.expect("the role in Vault");
    assert_eq!(role["token_no_default_policy"], true);
}

async fn only_what_one_rule_grants_is_attached(world: World) {
    put(&world, "team", &rule("pki/issue/web", &["update"])).await;
    let own = world.operator_policy();
    let extra = json!([{"path": "pki/issue/*", "capabilities": ["update"]}]);
    let backend = granting(&world, &["team"]);
    let mut value = backend.value.clone();
    let rules = value["spec"]["tenancy"].as_array_mut().expect("rules");
    let mut second = rules[0].clone();
    second["name"] = json!("second");
    second["additionalPolicies"] = json!([own]);
    second["extraRules"] = extra.clone();
    rules.push(second);
    Manifest::new(&world, value).apply().await;
    world.ready(&world.backend_ref()).await;
    let mark = world.mark();
    let both = world
        .role("web")
        .with("spec.token", json!({"additionalPolicies": [name(&world, "team")]}))
        .with("spec.policy", json!({"extraRules": extra}));
    both.apply().await;
    let denied = world.becomes("vaultawsrole/web", "Ready", "False", "TenancyDenied").await;
    assert!(denied.message.contains("`test`") && denied.message.contains("`second`"), "{denied:?}");
    for reserved in ["root", "Default", "response-wrapping"] {
        let token = json!({"additionalPolicies": [reserved]});
        world.role("web").with("spec.token", token).apply().await;
        world.becomes("vaultawsrole/web", "Ready", "False", "ReservedName").await;
    }
    // What the operator may do is handed on to nobody, whatever a rule grants.
    let token = json!({"additionalPolicies": [own.to_uppercase()]});
    world.role("web").with("spec.token", token).apply().await;
    let reserved = world.becomes("vaultawsrole/web", "Ready", "False", "ReservedName").await;
    assert!(reserved.message.contains("operator's own token"), "{}", reserved.message);
    assert_eq!(world.vault_writes_since(mark), []);

    both.without("spec.token").apply().await;
    world.ready("vaultawsrole/web").await;
    let resource = world.get("vaultawsrole/web").await.expect("the role");
    assert_eq!(resource["status"]["alsoReaches"], json!(["pki/"]));
    let policy = world.vault_policy(&world.policy_name(&world.iam_role("web"))).await;
    let line = "path \"pki/issue/*\" {\n  capabilities = [\"update\"]\n}\n";
    assert!(policy.expect("the policy").ends_with(line));
}

/// Statuses of what `web` asks of the KV mount.
async fn tries(world: &World, requests: &[(&str, &str, Value)]) -> Vec<u16> {
    let web = world.log_in(ACCOUNT, "web", &world.iam_role("web")).await.expect("a login");
    let mut statuses = Vec::new();
    for (method, path, body) in requests {
        let path = format!("{}/{path}", world.kv_mount());
        let answer = match *method {
            "post" => web.post(&path, body).await,
            "delete" => web.delete(&path).await,
            _ => web.get(&path).await,
        };
        statuses.push(answer.expect("Vault").0);
    }
    statuses
}

async fn a_role_that_writes_destroys_nothing(world: World) {
    world.put_entry(ACCOUNT, "web", "old", json!({"a": "1"})).await;
    world.put_entry(ACCOUNT, "api", "old", json!({"a": "1"})).await;
    world.backend().apply().await;
    world.role("web").with("spec.policy", json!({"certificates": "ReadWrite"})).apply().await;
    world.ready("vaultawsrole/web").await;
    isolated(&world, "web", "True", "Isolated").await;
    let own = world.directory(ACCOUNT, "web");
    let other = world.directory(ACCOUNT, "api");
    let entry = json!({"data": {"a": "2"}});
    let versions = json!({"versions": [1]});
    let none = Value::Null;
    let statuses = tries(
        &world,
        &[
            ("post", &format!("data/{own}/new"), entry.clone()),
            ("post", &format!("data/{own}/old"), entry.clone()),
            ("delete", &format!("data/{own}/old"), none.clone()),
            ("post", &format!("delete/{own}/old"), versions.clone()),
            ("post", &format!("undelete/{own}/old"), json!({"versions": [1, 2]})),
            ("get", &format!("data/{own}/old"), none.clone()),
            ("post", &format!("destroy/{own}/old"), versions.clone()),
            ("delete", &format!("metadata/{own}/old"), none.clone()),
            ("post", &format!("metadata/{own}/old"), json!({"max_versions": 1})),
            ("post", &format!("data/{other}/old"), entry),
            ("post", &format!("delete/{other}/old"), versions),
            ("get", &format!("data/{other}/old"), none),
        ],
    )
    .await;
    assert_eq!(statuses, [200, 200, 204, 204, 204, 200, 403, 403, 403, 403, 403, 403]);
}

async fn a_role_without_certificates_reads_none(world: World) {
    world.put_entry(ACCOUNT, "web", "old", json!({"a": "1"})).await;
    world.backend().apply().await;
    world.role("web").with("spec.policy", json!({"certificates": "None"})).apply().await;
    world.ready("vaultawsrole/web").await;
    isolated(&world, "web", "True", "Isolated").await;
    let own = world.directory(ACCOUNT, "web");
    let statuses = tries(&world, &[("get", &format!("data/{own}/old"), Value::Null)]).await;
    assert_eq!(statuses, [403]);
    let resource = world.get("vaultawsrole/web").await.expect("the role");
    assert_eq!(resource["status"].get("paths"), None);
}

async fn a_token_lives_no_longer_than_the_rule_says(world: World) {
    let backend = world.backend();
    backend.clone().with("spec.tenancy.0.maxTokenTtl", "1h").apply().await;
    world.role("web").with("spec.driftInterval", "2s").apply().await;
    world.ready("vaultawsrole/web").await;
    let role = world.iam_role("web");
    let life = async || world.vault_role(&role).await.expect("the role")["token_max_ttl"].clone();
    assert_eq!(life().await, 3600);
    let path = format!("auth/{}/role/{role}", world.auth_mount());
    world.write(&path, json!({"token_max_ttl": "48h", "token_ttl": "24h"})).await;
    world
        .eventually("the life of a token to be put back", SEEN, async || {
            (life().await == 3600).then_some(())
        })
        .await;
    backend.with("spec.tenancy.0.maxTokenTtl", "30m").apply().await;
    world.eventually("a shorter life", SEEN, async || (life().await == 1800).then_some(())).await;
}

/// What is asked to try a login.
fn verified(world: &World, role: &str) -> Manifest {
    let verify = json!({"identity": {"assumeRole": {}}});
    world.role(role).with("spec.driftInterval", "2s").with("spec.verify", verify)
}

async fn a_login_is_tried_once_per_change(world: World) {
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    let mark = world.mark();
    verified(&world, "web").apply().await;
    let said = world.becomes("vaultawsrole/web", "LoginVerified", "True", "LoginVerified").await;
    assert!(said.message.contains(&world.iam_arn(ACCOUNT, "web")), "{}", said.message);
    let login = format!("auth/{}/login", world.auth_mount());
    let count =
        |path: &str| world.vault_requests_since(mark).iter().filter(|one| one.path == path).count();
    let passes = || count(&world.role_path("web"));
    let before = passes();
    world
        .eventually("two more passes", SEEN, async || (passes() >= before + 2).then_some(()))
        .await;
    assert_eq!(count(&login), 1);
    // The token is gone.
    let accessors = world.vault().list("auth/token/accessors").await.expect("Vault").1;
    for accessor in accessors["data"]["keys"].as_array().expect("a list") {
        let body = json!({"accessor": accessor});
        let (_, found) =
            world.vault().post("auth/token/lookup-accessor", &body).await.expect("Vault");
        assert_ne!(found["data"]["path"], json!(login), "a token was left");
    }
    // A change is tried again.
    let token = json!({"noDefaultPolicy": true});
    verified(&world, "web").with("spec.token", token).apply().await;
    world.eventually("another login", SEEN, async || (count(&login) == 2).then_some(())).await;
    world.becomes("vaultawsrole/web", "LoginVerified", "True", "LoginVerified").await;
    // Without the wish there is no condition.
    world.role("web").apply().await;
    world
        .eventually("the condition to go", SEEN, async || {
            world.ready("vaultawsrole/web").await;
            world.condition("vaultawsrole/web", "LoginVerified").await.is_none().then_some(())
        })
        .await;
}

async fn a_login_that_fails_is_said_with_its_reason(world: World) {
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    // Nobody made this IAM role.
    verified(&world, "nobody").apply().await;
    let ready = world.ready("vaultawsrole/nobody").await;
    assert_eq!(ready.reason, "Ready", "role and policy are as declared");
    let denied = "AssumeRoleDenied";
    world.becomes("vaultawsrole/nobody", "LoginVerified", "False", denied).await;
    // The operator's own user is not the role.
    let ambient = json!({"identity": {"ambient": {}}});
    let role = world.role("web").with("spec.verify", ambient);
    role.apply().await;
    let said = world.becomes("vaultawsrole/web", "Ready", "False", "TenancyDenied").await;
    assert!(said.message.contains("identity Ambient"), "{}", said.message);
    let backend = world.backend().with("spec.tenancy.0.identities", json!(["Ambient"]));
    backend.apply().await;
    world.becomes("vaultawsrole/web", "LoginVerified", "False", "LoginDenied").await;
}

async fn what_everybody_carries_is_judged(world: World) {
    const DEFAULT: &str = "sys/policies/acl/default";
    world.backend().apply().await;
    for (name, without) in [("web", false), ("api", true)] {
        let role = world.role(name).with("spec.driftInterval", "2s");
        role.with("spec.token", json!({"noDefaultPolicy": without})).apply().await;
        isolated(&world, name, "True", "Isolated").await;
    }
    let stock = world.vault_policy("default").await.expect("the policy");
    let wide = rule(&format!("{}/data/*", world.kv_mount()), &["read"]);
    world.write(DEFAULT, json!({"policy": format!("{stock}\n{wide}")})).await;
    let said = isolated(&world, "web", "False", "NotIsolated").await;
    assert!(said.contains("policy `default`"), "{said}");
    // A role that is not there yet is not opened to it; one that does not carry it is.
    let mark = world.mark();
    world.role("late").apply().await;
    world.becomes("vaultawsrole/late", "Ready", "False", "NotIsolated").await;
    assert_eq!(world.vault_writes_since(mark), []);
    isolated(&world, "api", "True", "Isolated").await;
    // What stands is still put back as declared.
    let path = world.role_path("web");
    world.write(&path, json!({"token_policies": ["something"]})).await;
    let own = world.policy_name(&world.iam_role("web"));
    world
        .eventually("the role to be put back", SEEN, async || {
            let role = world.vault_role(&world.iam_role("web")).await?;
            (role["token_policies"] == json!([own])).then_some(())
        })
        .await;
    world.write(DEFAULT, json!({"policy": stock})).await;
    isolated(&world, "web", "True", "Isolated").await;
}
