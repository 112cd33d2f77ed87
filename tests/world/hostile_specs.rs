//! Specs of somebody who wants more than he was granted. Each is refused by the API server or by a
//! condition, and Vault's audit log shows nothing outside of the tenant's names.

use serde_json::{Value, json};

use crate::world::{ACCOUNT, OTHER_ACCOUNT, PATIENCE, World};

tests![hostile_specs_reach_nothing];

/// Who refuses.
enum Refused {
    /// The API server: the spec is none.
    Api,
    /// The operator: reason of `Ready`.
    Ready(&'static str),
}
use Refused::{Api, Ready};

async fn hostile_specs_reach_nothing(world: World) {
    let kv = world.kv_mount();
    let neighbour = world.iam_role("api");
    // A neighbour, whose policy is worth having.
    let granted: Vec<String> =
        vec![world.policy_name(&neighbour), world.operator_policy(), "team".to_owned()];
    let backend = world
        .backend()
        .with("spec.tenancy.0.iamRoles", json!([world.iam_role("*"), "root", "Default"]))
        .with("spec.tenancy.0.additionalPolicies", granted)
        .with(
            "spec.tenancy.0.extraRules",
            json!([
                {"path": "+/*", "capabilities": ["read"]},
                {"path": format!("{kv}*"), "capabilities": ["read"]},
            ]),
        );
    backend.apply().await;
    world.ready(&world.backend_ref()).await;
    world.role("api").apply().await;
    world.ready("vaultawsrole/api").await;

    let extra = |path: &str| json!({"extraRules": [{"path": path, "capabilities": ["read"]}]});
    let can = |word: &str| json!({"extraRules": [{"path": "pki/x", "capabilities": [word]}]});
    let carry = |name: &str| json!({"additionalPolicies": [name]});
    let many = |count: usize| {
        let rules =
            (0..count).map(|n| json!({"path": format!("pki/{n}"), "capabilities": ["read"]}));
        json!({"extraRules": rules.collect::<Vec<_>>()})
    };
    let long = "x".repeat(300);
    let specs: Vec<(&str, Value, Refused)> = vec![
        // Out of the string of a policy.
        ("iamRole", json!("a\" { capabilities = [\"sudo\"] }"), Api),
        ("iamRole", json!("a\n}\npath \"*\" {"), Api),
        ("iamRole", json!("a\\"), Api),
        ("iamRole", json!("${a}"), Api),
        ("iamRole", json!("{{identity.entity.name}}"), Api),
        ("iamRolePath", json!("/\" {/"), Api),
        ("iamRolePath", json!("/../"), Ready("InvalidSpec")),
        ("policy", extra("pki/x\" { capabilities = [\"sudo\"] }\npath \"*"), Api),
        ("policy", extra("pki/x\n"), Api),
        ("policy", extra("pki/\u{0}"), Api),
        ("policy", extra("pki/${x}"), Api),
        ("policy", extra("pki/{{identity.entity.name}}"), Api),
        ("policy", extra("# comment"), Api),
        // Wildcards and paths that become others.
        ("iamRole", json!("+"), Api),
        ("iamRole", json!("*"), Api),
        ("iamRole", json!("a/b"), Api),
        ("iamRole", json!(".."), Api),
        ("policy", extra("/sys/mounts"), Api),
        ("policy", extra("sys/+*"), Ready("InvalidSpec")),
        ("policy", extra("pki/../sys/mounts"), Ready("InvalidSpec")),
        ("policy", extra("pki//x"), Ready("InvalidSpec")),
        ("policy", extra("pki/*/x"), Api),
        ("policy", extra(&format!("pki/{long}")), Api),
        // What the rule grants by mistake.
        ("policy", extra("*"), Api),
        ("policy", extra("+/*"), Ready("NotIsolated")),
        ("policy", extra("sys/policies/acl/x"), Ready("NotIsolated")),
        ("policy", extra("auth/token/create"), Ready("NotIsolated")),
        ("policy", extra("identity/entity/id/*"), Ready("NotIsolated")),
        (
            "policy",
            extra(&format!("{kv}/data/certs/{ACCOUNT}/{neighbour}/x")),
            Ready("NotIsolated"),
        ),
        ("policy", extra(&format!("{kv}/metadata/certs/")), Ready("NotIsolated")),
        ("policy", extra(&format!("{kv}*")), Ready("NotIsolated")),
        // More than it grants.
        ("policy", can("update"), Ready("TenancyDenied")),
        ("policy", can("sudo"), Api),
        ("policy", can("deny"), Api),
        ("policy", can("READ"), Api),
        ("policy", many(33), Api),
        ("policy", many(10_000), Api),
        // Policies of others, by name, by case, by look.
        ("token", carry("admin"), Ready("TenancyDenied")),
        ("token", carry("root"), Ready("ReservedName")),
        ("token", carry("ROOT"), Ready("ReservedName")),
        ("token", carry("Default"), Ready("ReservedName")),
        ("token", carry("response-wrapping"), Ready("ReservedName")),
        ("token", carry(&world.operator_policy().to_uppercase()), Ready("ReservedName")),
        ("token", carry(&world.policy_name(&neighbour)), Ready("NotIsolated")),
        ("token", carry("te\u{430}m"), Api),
        ("token", carry("team,admin"), Api),
        ("token", carry("team*"), Api),
        ("token", carry(" team"), Api),
        ("token", carry("../acl/admin"), Api),
        ("token", carry("team.."), Ready("InvalidSpec")),
        ("token", carry(&long), Api),
        // Principals of others, by name, by case, by look.
        ("accountId", json!(OTHER_ACCOUNT), Ready("TenancyDenied")),
        ("accountId", json!("\u{661}11122223333"), Api),
        ("iamRole", json!("we\u{200b}b"), Api),
        ("iamRole", json!("w\u{435}b"), Api),
        ("iamRole", json!("somebody-elses"), Ready("TenancyDenied")),
        ("iamRole", json!(neighbour.to_uppercase()), Ready("TenancyDenied")),
        ("iamRole", json!("root"), Ready("ReservedName")),
        ("iamRole", json!("Default"), Ready("ReservedName")),
        ("iamRole", json!(neighbour), Ready("Conflict")),
        // An identity that is not theirs.
        ("verify", json!({"identity": {"ambient": {}}}), Ready("TenancyDenied")),
        ("verify", json!({"identity": {"ambient": {}, "assumeRole": {}}}), Api),
        ("verify", json!({"identity": {}}), Api),
        ("backendRef", json!({"name": "../default"}), Ready("BackendNotFound")),
    ];
    assert!(specs.len() >= 40, "{}", specs.len());
    let mark = world.mark();
    let before = world.vault_policy(&world.policy_name(&neighbour)).await;
    let mut waiting = Vec::new();
    for (number, (field, value, refused)) in specs.iter().enumerate() {
        let name = format!("hostile-{number}");
        let role = world
            .role("web")
            .with("metadata.name", name.as_str())
            .with("spec.iamRole", world.iam_role(&name))
            .with(&format!("spec.{field}"), value.clone());
        match refused {
            Api => drop(role.refused().await),
            Ready(reason) => {
                role.apply().await;
                waiting.push((name, reason, value));
            }
        }
    }
    for (name, reason, value) in waiting {
        let what = format!("{name} ({value}) to be refused as {reason}");
        let object = format!("vaultawsrole/{name}");
        world
            .eventually(&what, PATIENCE, async || {
                let ready = world.condition(&object, "Ready").await?;
                (ready.status == "False" && ready.reason == *reason).then_some(())
            })
            .await;
    }
    assert_eq!(world.vault_writes_since(mark), []);
    // What was read is the tenant's, what every login carries, or the mount's.
    let tenants = [
        format!("auth/{}/role/{}", world.auth_mount(), world.id),
        format!("sys/policies/acl/{}-", world.id),
        "sys/policies/acl/default".to_owned(),
        format!("auth/{}/config/", world.auth_mount()),
        "auth/token/lookup-self".to_owned(),
        "identity/lookup/entity".to_owned(),
        "sys/auth".to_owned(),
        format!("sys/internal/ui/mounts/{kv}"),
    ];
    let is_theirs = |path: &str| tenants.iter().any(|tenant| path.starts_with(tenant));
    for request in world.vault_requests_since(mark) {
        assert!(is_theirs(&request.path), "{request:?}");
    }
    assert_eq!(world.vault_policy(&world.policy_name(&neighbour)).await, before);
}
