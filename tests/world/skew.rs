//! A clock that cannot be trusted: what is delivered stays, and nothing is judged by its time.

use kube::ResourceExt as _;
use vault_aws_lab::Front;

use crate::{certificates::Authority, world::World};

tests![while_the_clocks_differ_nothing_new_is_delivered_and_nothing_old_is_lost];

async fn while_the_clocks_differ_nothing_new_is_delivered_and_nothing_old_is_lost(world: World) {
    let front = Front::before_vault(&world.stage.lab).await.expect("a front of Vault");
    let authority = Authority::new("World CA");
    let first = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &first).await;
    world.backend().with("spec.vault.address", front.url()).apply().await;
    world.role("web").apply().await;
    world.sync("web").apply().await;
    world.delivered("web-tls", &first).await;
    world.ready("vaultcertsync/web").await;

    // Six minutes, in either direction; five are tolerated.
    for ahead in [6 * 60, -6 * 60] {
        let held = world.secret("web-tls").await.expect("the Secret");
        front.be_ahead(ahead);
        let next = authority.issue("web.example.com");
        world.put_certificate("web", "tls", &next).await;
        world.refresh("web").await;
        let kept = world.certificate_becomes("web", "tls", "Kept", Some("ClockSkew")).await;
        assert!(kept.message.is_some_and(|said| said.contains("five minutes")));
        world.becomes("vaultcertsync/web", "Ready", "False", "ClockSkew").await;
        let secret = world.secret("web-tls").await.expect("the Secret");
        assert_eq!(secret.resource_version(), held.resource_version(), "{ahead} s");
        front.be_ahead(0);
        world.refresh("web").await;
        world.certificate_becomes("web", "tls", "Synced", None).await;
        let secret = world.delivered("web-tls", &next).await;
        assert_eq!(secret.uid(), held.uid());
        world.ready("vaultcertsync/web").await;
    }
}
