//! A rotation of many certificates during which the syncer is killed: whoever looks at the Secrets,
//! whenever that is, never sees a certificate without its key.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::json;

use crate::{
    certificates::{Authority, Issued},
    dice::Dice,
    entries::serves,
    witness::Witness,
    world::{World, text},
};

tests![in outage_tests: two_hundred_certificates_are_rotated_while_the_syncer_is_killed_twice];

/// As many as a sync may have.
const CERTIFICATES: usize = 200;
/// Of these one in so many is rotated once more.
const TWICE: usize = 4;
/// How long all of them may take to be delivered.
const LIMIT: Duration = Duration::from_secs(60);
/// Writes to Vault that run at once.
const WRITERS: usize = 8;

const SEED: u64 = 20_261_121;

fn name(number: usize) -> String {
    format!("c{number:03}")
}

/// Writes one certificate for each of these numbers, and remembers what was written of it.
async fn write(
    world: &World,
    authority: &Authority,
    numbers: &[usize],
    written: &mut BTreeMap<usize, Vec<Issued>>,
) {
    let issued: Vec<(usize, Issued)> =
        numbers.iter().map(|number| (*number, authority.issue("web.example.com"))).collect();
    stream::iter(&issued)
        .for_each_concurrent(WRITERS, |(number, issued)| async move {
            world.put_certificate("web", &name(*number), issued).await;
        })
        .await;
    for (number, issued) in issued {
        written.entry(number).or_default().push(issued);
    }
}

/// The versions that each Secret holds now, counted from 1; `None` if it holds none of them.
fn version(secret: &Secret, written: &[Issued]) -> Option<usize> {
    let (certificate, key) = (text(secret, "tls.crt"), text(secret, "tls.key"));
    let is_it = |issued: &Issued| issued.full_chain() == certificate && issued.key == key;
    written.iter().position(is_it).map(|at| at + 1)
}

async fn two_hundred_certificates_are_rotated_while_the_syncer_is_killed_twice(world: World) {
    let mut dice = Dice::new("rotation", "VAULT_AWS_SEED", SEED);
    let authority = Authority::new("World CA");
    let mut written = BTreeMap::new();
    let mut numbers: Vec<usize> = (0..CERTIFICATES).collect();
    // A new KV v2 mount upgrades itself for a moment: one first.
    write(&world, &authority, &numbers[..1], &mut written).await;
    write(&world, &authority, &numbers[1..], &mut written).await;
    let fast = json!({"requestsPerSecond": 1000, "burst": 1000});
    world.backend().with("spec.vault.rateLimit", fast).apply().await;
    world.role("web").apply().await;
    let witness = Witness::call(&world).await;
    let sync = world.sync("web").with("spec.refreshInterval", "10s");
    sync.with("spec.certificates.limit", CERTIFICATES).apply().await;
    world
        .eventually("all to be delivered", LIMIT, async || {
            (world.sync_status("web").await.summary.as_deref() == Some("200/200")).then_some(())
        })
        .await;
    let before = witness.count();
    assert_eq!(before, CERTIFICATES, "each was written once");

    // The rotation, in any order, some twice; and a syncer that is killed somewhere in it.
    dice.shuffle(&mut numbers);
    let again: Vec<usize> = numbers.iter().copied().step_by(TWICE).collect();
    let first = 1 + dice.below(CERTIFICATES / 2);
    let second = first + 1 + dice.below(CERTIFICATES / 2);
    let rests = [dice.below(1500), dice.below(1500)];
    let _ = writeln!(io::stderr(), "kills after {first} and {second} writes, rests {rests:?} ms");
    let rotation = async {
        for part in numbers.chunks(CERTIFICATES / 8) {
            write(&world, &authority, part, &mut written).await;
            world.refresh("web").await;
        }
        write(&world, &authority, &again, &mut written).await;
        world.refresh("web").await;
    };
    let kills = async {
        let syncer = &world.stage.syncer;
        for (after, rest) in [first, second].into_iter().zip(rests) {
            let what = format!("{after} of the rotation's writes");
            let reached = async || (witness.count() >= before + after).then_some(());
            world.eventually(&what, LIMIT, reached).await;
            let pid = syncer.pid().expect("it runs");
            syncer.kill9().await.expect("the syncer is killed");
            let seen = witness.count() - before;
            assert!(seen < CERTIFICATES, "{seen} writes: it was killed too late");
            tokio::time::sleep(Duration::from_millis(u64::try_from(rest).expect("small"))).await;
            syncer.start_again().await.expect("the syncer starts");
            assert_ne!(syncer.pid(), Some(pid));
        }
    };
    futures::join!(rotation, kills);

    let api = Api::<Secret>::namespaced(world.kube(), &world.id);
    let last = world
        .eventually("the last rotation everywhere", LIMIT, async || {
            let list = api.list(&ListParams::default()).await.ok()?;
            let held: BTreeMap<String, Secret> =
                list.items.into_iter().map(|secret| (secret.name_any(), secret)).collect();
            let is_last = |(number, written): (&usize, &Vec<Issued>)| {
                let secret = held.get(&format!("web-{}", name(*number)));
                secret.and_then(|secret| version(secret, written)) == Some(written.len())
            };
            written.iter().all(is_last).then_some(held)
        })
        .await;
    assert_eq!(last.len(), CERTIFICATES, "and no Secret besides");
    world
        .eventually("the status to say so", LIMIT, async || {
            let status = world.sync_status("web").await;
            let is_told = |number: usize| {
                let told = status.certificates.iter().find(|one| one.name == name(number));
                told.is_some_and(|told| told.version == u64::try_from(written[&number].len()).ok())
            };
            (status.summary.as_deref() == Some("200/200") && (0..CERTIFICATES).all(is_told))
                .then_some(())
        })
        .await;
    world.ready("vaultcertsync/web").await;
    let complete = async || last.values().all(|one| witness.has_seen(one)).then_some(());
    world.eventually("the witness to have seen the last of each", LIMIT, complete).await;

    // What was seen on the way.
    assert_eq!(witness.gone(), Vec::<String>::new(), "no Secret was ever away");
    assert_eq!(witness.gaps(), 0, "nothing was missed");
    let mut newest: BTreeMap<String, usize> = BTreeMap::new();
    let seen = witness.testimony();
    for secret in &seen {
        let name = secret.name_any();
        let number: usize = name.trim_start_matches("web-c").parse().expect("one of ours");
        let version = version(secret, &written[&number]);
        let version = version.unwrap_or_else(|| panic!("{name} held what was never written"));
        assert_eq!(serves(secret, authority.pem()), Ok(()), "{name}, version {version}");
        assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"), "{name}");
        let known = newest.entry(name.clone()).or_default();
        assert!(*known <= version, "{name} went back from version {known} to {version}");
        *known = version;
    }
    assert_eq!(newest.len(), CERTIFICATES);
    let _ = writeln!(io::stderr(), "{} versions of {CERTIFICATES} Secrets were seen", seen.len());
}
