//! Manifests may be applied in any order: what waits for something is woken when it comes.

use std::time::{Duration, Instant};

use serde_json::Value;
use vault_aws_lab::installation::repository;

use crate::{
    certificates::Authority,
    grants::refusals_are_meant,
    manifest::{Manifest, secret},
    world::{World, now},
};

tests![
    manifests_may_come_in_any_order_1,
    manifests_may_come_in_any_order_2,
    manifests_may_come_in_any_order_3,
    manifests_may_come_in_any_order_4,
    manifests_may_come_in_any_order_with_the_rights_last,
    manifests_may_come_in_any_order_with_the_backend_last,
];

/// From the last manifest until all is ready.
const LIMIT: Duration = Duration::from_secs(30);

async fn manifests_may_come_in_any_order_1(world: World) {
    all_become_ready(world, None).await;
}

async fn manifests_may_come_in_any_order_2(world: World) {
    all_become_ready(world, None).await;
}

async fn manifests_may_come_in_any_order_3(world: World) {
    all_become_ready(world, None).await;
}

async fn manifests_may_come_in_any_order_4(world: World) {
    all_become_ready(world, None).await;
}

async fn manifests_may_come_in_any_order_with_the_rights_last(world: World) {
    all_become_ready(world, Some("RoleBinding")).await;
}

async fn manifests_may_come_in_any_order_with_the_backend_last(world: World) {
    all_become_ready(world, Some("VaultAwsBackend")).await;
}

async fn all_become_ready(world: World, last: Option<&str>) {
    // Without its rights, the syncer is refused until they come.
    refusals_are_meant(&world);
    for object in ["rolebinding/vault-aws-syncer", "role/vault-aws-syncer"] {
        world.delete(object).await;
    }
    let issued = Authority::new("World CA").issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.put_certificate("api", "tls", &issued).await;
    world.create_iam_role(crate::world::ACCOUNT, "api").await;

    let mut manifests = manifests(&world).await;
    let order = shuffle(&mut manifests);
    if let Some(last) = last {
        manifests.sort_by_key(|manifest| manifest.value["kind"] == last);
    }
    let names: Vec<String> = manifests.iter().map(name).collect();
    let told = format!("(number {order}) {}", names.join(", "));
    for manifest in &manifests {
        manifest.apply().await;
        // Long enough that each is seen without the next.
        world
            .eventually(&format!("{} to be looked at, {told}", name(manifest)), LIMIT, async || {
                looked_at(&world, manifest).await.then_some(())
            })
            .await;
    }
    let begun = Instant::now();
    let backend = world.backend_ref();
    for object in
        [&backend, "vaultawsrole/web", "vaultawsrole/api", "vaultcertsync/web", "vaultcertsync/api"]
    {
        let what = format!("{object} to be ready, {told}");
        let left = LIMIT.saturating_sub(begun.elapsed());
        world
            .eventually(&what, left, async || {
                world.condition(object, "Ready").await.filter(|found| found.status == "True")
            })
            .await;
    }
    world.delivered("web-tls", &issued).await;
    world.delivered("api-tls", &issued).await;
}

/// All that a platform team and a team apply: `api` brings its AWS keys in a Secret.
async fn manifests(world: &World) -> Vec<Manifest> {
    let tenant = std::fs::read_to_string(repository().join("deploy/tenant/role.yaml"));
    let tenant =
        serde_saphyr::from_multiple::<Value>(&tenant.expect("deploy/tenant")).expect("YAML");
    let mut manifests: Vec<Manifest> =
        tenant.into_iter().map(|document| Manifest::new(world, document)).collect();
    let keys = world.assume(crate::world::ACCOUNT, "api").await;
    crate::leaks::plant("AWS secret key", &keys.secret_key);
    let token = keys.session_token.expect("a session has a token");
    crate::leaks::plant("AWS session token", &token);
    let data = serde_json::json!({
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
        "aws_session_token": token,
    });
    let label = serde_json::json!({"vaultaws.dev/use": "aws-credentials"});
    manifests.extend([
        world.backend(),
        world.role("web"),
        world.role("api"),
        world.sync("web"),
        world.sync("api").with("spec.identity.secretRef.name", "api-aws"),
        secret(world, "api-aws", data).with("metadata.labels", label),
    ]);
    manifests
}

/// Of our kinds, whether the operator has said something about it.
async fn looked_at(world: &World, manifest: &Manifest) -> bool {
    let text = |pointer| manifest.value.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    let kind = text("/kind").to_lowercase();
    if !kind.starts_with("vault") {
        return true;
    }
    world.condition(&format!("{kind}/{}", text("/metadata/name")), "Ready").await.is_some()
}

/// Fisher and Yates, by the clock; the number that decided.
fn shuffle(manifests: &mut [Manifest]) -> u64 {
    let number = u64::try_from(now().as_nanosecond() % 1_000_000_007).unwrap_or_default();
    let mut state = number;
    for index in (1..manifests.len()).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = usize::try_from(state >> 33).unwrap_or_default() % (index + 1);
        manifests.swap(index, other);
    }
    number
}

fn name(manifest: &Manifest) -> String {
    let text = |pointer| manifest.value.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
    format!("{}/{}", text("/kind"), text("/metadata/name"))
}
