//! What a certificate must be like to replace the one that is delivered, and how its time is told.

use serde_json::json;

use crate::{
    certificates::{Authority, DAY},
    world::World,
};

tests![
    a_certificate_must_last_unless_the_one_that_is_held_is_over,
    a_certificate_must_cover_the_names,
    a_chain_must_be_whole_where_it_is_required,
    a_ca_is_delivered_as_a_leaf_only_where_it_is_allowed,
    a_certificate_that_expires_soon_is_said_to,
    a_certificate_of_tomorrow_waits,
];

async fn backend_and_role(world: &World) -> Authority {
    world.backend().apply().await;
    world.role("web").apply().await;
    Authority::new("World CA")
}

async fn a_certificate_must_last_unless_the_one_that_is_held_is_over(world: World) {
    let authority = backend_and_role(&world).await;
    let long = authority.issue("web.example.com");
    let short = authority.leaf("web.example.com").valid_until(3600).issue();
    world.put_certificate("web", "long", &long).await;
    // Over before long.
    let brief = authority.leaf("web.example.com").valid_until(12).issue();
    world.put_certificate("web", "brief", &brief).await;
    world.sync("web").apply().await;
    world.delivered("web-brief", &brief).await;
    world.delivered("web-long", &long).await;
    let sync = world.sync("web").with("spec.validation", json!({"minimumRemaining": "24h"}));
    sync.apply().await;
    world.put_certificate("web", "long", &short).await;
    world.refresh("web").await;
    world.certificate_becomes("web", "long", "Kept", Some("ExpiresTooSoon")).await;
    world.put_certificate("web", "long", &long).await;
    world.refresh("web").await;
    world.certificate_becomes("web", "long", "Synced", None).await;
    world.becomes("vaultcertsync/web", "Ready", "False", "Expired").await;
    world.put_certificate("web", "brief", &short).await;
    world.refresh("web").await;
    world.delivered("web-brief", &short).await;
    world.ready("vaultcertsync/web").await;
}

async fn a_certificate_must_cover_the_names(world: World) {
    let authority = backend_and_role(&world).await;
    let wild = authority.issue("*.example.com");
    let other = authority.issue("other.example.org");
    world.put_certificate("web", "tls", &wild).await;
    let names = json!({"dnsNames": ["web.example.com"]});
    world.sync("web").with("spec.validation", names).apply().await;
    world.delivered("web-tls", &wild).await;
    world.put_certificate("web", "tls", &other).await;
    world.refresh("web").await;
    world.certificate_becomes("web", "tls", "Kept", Some("DnsNameMissing")).await;
    world.delivered("web-tls", &wild).await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &other).await;
}

async fn a_chain_must_be_whole_where_it_is_required(world: World) {
    let root = backend_and_role(&world).await;
    let issued = root.intermediate("Issuing CA").issue("web.example.com");
    let stranger = Authority::new("Stranger CA");
    let entry = |chain: Vec<String>| json!({"certificate": issued.certificate, "private_key": issued.key, "ca_chain": chain});
    let account = crate::world::ACCOUNT;
    world.put_entry(account, "web", "tls", entry(Vec::new())).await;
    let whole = json!({"requireChain": true});
    world.sync("web").with("spec.validation", whole).apply().await;
    world.certificate_becomes("web", "tls", "Refused", Some("ChainIncomplete")).await;
    let mixed = vec![issued.intermediates[0].clone(), stranger.pem().to_owned()];
    world.put_entry(account, "web", "tls", entry(mixed)).await;
    world.refresh("web").await;
    world.certificate_becomes("web", "tls", "Refused", Some("ChainIncomplete")).await;
    world.put_entry(account, "web", "tls", entry(issued.intermediates.clone())).await;
    world.refresh("web").await;
    let secret = world.delivered("web-tls", &issued).await;
    assert_eq!(crate::world::text(&secret, "tls.crt"), issued.full_chain());
}

async fn a_ca_is_delivered_as_a_leaf_only_where_it_is_allowed(world: World) {
    let authority = backend_and_role(&world).await;
    let ca = authority.leaf("web.example.com").with_ca_flag().issue();
    world.put_certificate("web", "tls", &ca).await;
    world.sync("web").apply().await;
    world.certificate_becomes("web", "tls", "Refused", Some("CaLeaf")).await;
    let allowed = json!({"allowCaLeaf": true});
    world.sync("web").with("spec.validation", allowed).apply().await;
    world.delivered("web-tls", &ca).await;
}

async fn a_certificate_that_expires_soon_is_said_to(world: World) {
    let authority = backend_and_role(&world).await;
    let old = authority.leaf("web.example.com").valid_from(-80 * DAY).valid_until(10 * DAY).issue();
    world.put_certificate("web", "tls", &old).await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &old).await;
    world.becomes("vaultcertsync/web", "Expiring", "True", "Expiring").await;
    world.becomes("vaultcertsync/web", "Ready", "True", "Synced").await;
    let new = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &new).await;
    world.refresh("web").await;
    world.becomes("vaultcertsync/web", "Expiring", "False", "NotExpiring").await;
}

async fn a_certificate_of_tomorrow_waits(world: World) {
    let authority = backend_and_role(&world).await;
    let today = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &today).await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &today).await;
    let tomorrow = authority.leaf("web.example.com").valid_from(DAY).issue();
    world.put_certificate("web", "tls", &tomorrow).await;
    world.refresh("web").await;
    world.certificate_becomes("web", "tls", "Kept", Some("NotYetValid")).await;
    // Clocks of issuers differ a little.
    let soon = authority.leaf("web.example.com").valid_from(120).issue();
    world.put_certificate("web", "tls", &soon).await;
    world.refresh("web").await;
    world.delivered("web-tls", &soon).await;
}
