//! Kills at random moments, while certificates rotate and roles change: whoever looks at anything,
//! whenever that is, sees what somebody asked for, and in the end all is as asked.
//!
//! `VAULT_AWS_SEED` repeats a run's dice, `VAULT_AWS_KILL_SECONDS` makes it longer.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use vault_aws_lab::{Operator, Server, Vault};

use crate::{
    certificates::{Authority, Issued},
    dice::Dice,
    entries::serves,
    leaks,
    manifest::{api_of, secret},
    stage::say,
    witness::Witness,
    world::{ACCOUNT, World, text},
};

tests![whatever_is_killed_whenever_nothing_wrong_is_ever_seen_and_all_converge];

const CERTIFICATES: usize = 100;
const ROLES: usize = 20;
const SEED: u64 = 20_261_121;
/// How long it goes on, unless said otherwise.
const SECONDS: u64 = 300;
/// From the last kill until all is as asked.
const CONVERGENCE: Duration = Duration::from_secs(120);
/// The lives of tokens that roles are given in turn.
const LIVES: [u64; 4] = [600, 900, 1200, 1800];

/// For how long servers are killed.
fn seconds() -> u64 {
    env::var("VAULT_AWS_KILL_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS)
}

/// How long the test may take.
pub(crate) fn limit() -> Duration {
    Duration::from_secs(seconds()) + CONVERGENCE * 3
}

/// What was asked for so far. What is being asked for counts: its answer may be lost.
#[derive(Default)]
struct Asked {
    certificates: BTreeMap<usize, Vec<Issued>>,
    roles: BTreeMap<usize, Vec<u64>>,
}

fn certificate(number: usize) -> String {
    format!("c{number:03}")
}

fn role(number: usize) -> String {
    format!("r{number:02}")
}

async fn whatever_is_killed_whenever_nothing_wrong_is_ever_seen_and_all_converge(world: World) {
    let authority = Authority::new("World CA");
    let asked = RefCell::<Asked>::default();
    for number in 0..CERTIFICATES {
        rotate(&world, &authority, &asked, number).await;
    }
    let fast = json!({"requestsPerSecond": 200, "burst": 200});
    world.backend().with("spec.vault.rateLimit", fast).apply().await;
    world.role("web").with("spec.driftInterval", "10s").apply().await;
    world.ready("vaultawsrole/web").await;
    let witness = Witness::call(&world).await;
    world.sync("web").with("spec.refreshInterval", "10s").apply().await;
    for number in 0..ROLES {
        world.create_iam_role(ACCOUNT, &role(number)).await;
        asked.borrow_mut().roles.entry(number).or_default().push(LIVES[0]);
        let role = world.role(&role(number)).with("spec.driftInterval", "10s");
        role.with("spec.token.ttl", format!("{}s", LIVES[0])).apply().await;
    }
    // Of somebody else, with names that could be ours.
    let foreign = secret(&world, "web-c999", json!({"mine": "not yours"})).value;
    let foreign: Secret = serde_json::from_value(foreign).expect("a Secret");
    let secrets = Api::<Secret>::namespaced(world.kube(), &world.id);
    let foreign = secrets.create(&PostParams::default(), &foreign).await.expect("it is created");
    let stranger = format!("sys/policies/acl/{}", world.policy_name("stranger"));
    let theirs = json!({"policy": "path \"x/*\" { capabilities = [\"read\"] }"});
    world.write(&stranger, theirs.clone()).await;
    world
        .eventually("all to be delivered", CONVERGENCE, async || {
            (world.sync_status("web").await.summary.as_deref() == Some("100/100")).then_some(())
        })
        .await;

    let end = Instant::now() + Duration::from_secs(seconds());
    let looked = RefCell::new(0_usize);
    let (rotated, changed, killed, ()) = futures::join!(
        rotations(&world, &authority, &asked, end),
        changes(&world, &asked, end),
        kills(&world, end),
        looks(&world, &asked, &looked, end),
    );
    say(&format!(
        "{rotated} rotations, {changed} changes of roles, {} kills ({killed:?}), {} looks at roles",
        killed.values().sum::<usize>(),
        looked.borrow()
    ));

    let begun = Instant::now();
    let asked = asked.into_inner();
    world
        .eventually("every Secret to hold the last certificate", CONVERGENCE, async || {
            let list = secrets.list(&ListParams::default()).await.ok()?;
            let held: BTreeMap<String, Secret> =
                list.items.into_iter().map(|secret| (secret.name_any(), secret)).collect();
            asked
                .certificates
                .iter()
                .all(|(number, written)| {
                    let held = held.get(&format!("web-{}", certificate(*number)));
                    held.is_some_and(|held| version(held, written) == Some(written.len()))
                })
                .then_some(())
        })
        .await;
    for (number, lives) in &asked.roles {
        let name = world.iam_role(&role(*number));
        let last = lives.last().expect("one at least");
        world
            .eventually("each role to be as asked last", CONVERGENCE, async || {
                let found = world.vault_role(&name).await?;
                (found["token_ttl"] == *last).then_some(())
            })
            .await;
        world.ready(&format!("vaultawsrole/{}", role(*number))).await;
    }
    world.becomes("vaultcertsync/web", "Ready", "True", "Synced").await;
    say(&format!("all converged {:.1} s after the last kill", begun.elapsed().as_secs_f64()));

    // What was seen on the way.
    let still = secrets.get("web-c999").await.expect("the Secret of somebody else");
    assert_eq!(still.resource_version(), foreign.resource_version());
    assert_eq!(world.read(&stranger).await.expect("their policy")["policy"], theirs["policy"]);
    assert_eq!(witness.gone(), Vec::<String>::new(), "no Secret was ever away");
    let (gaps, testimony) = (witness.gaps(), witness.testimony());
    say(&format!("{} versions of Secrets were seen, {gaps} gaps", testimony.len()));
    let ours = testimony.iter().filter(|secret| secret.name_any() != "web-c999");
    for secret in ours {
        let name = secret.name_any();
        let number: usize = name.trim_start_matches("web-c").parse().expect("one of ours");
        let written = asked.certificates.get(&number).expect("a certificate of that number");
        assert!(version(secret, written).is_some(), "{name} held what nobody had written");
        assert_eq!(serves(secret, authority.pem()), Ok(()), "{name}");
    }
}

/// Which of these a Secret holds, counted from 1.
fn version(secret: &Secret, written: &[Issued]) -> Option<usize> {
    let (certificate, key) = (text(secret, "tls.crt"), text(secret, "tls.key"));
    let is_it = |issued: &Issued| issued.full_chain() == certificate && issued.key == key;
    written.iter().position(is_it).map(|at| at + 1)
}

/// Until the server that is asked is there.
async fn insisting<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        let limit = Duration::from_secs(5);
        if let Ok(Some(done)) = tokio::time::timeout(limit, attempt()).await {
            return done;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn written(vault: &Vault, path: &str, body: &Value) {
    insisting(async || {
        let (status, _) = vault.post(path, body).await.ok()?;
        (status < 300).then_some(())
    })
    .await;
}

async fn rotate(world: &World, authority: &Authority, asked: &RefCell<Asked>, number: usize) {
    let issued = authority.issue("web.example.com");
    leaks::plant_pem("private key", &issued.key);
    let entry = json!({"data": {"certificate": issued.full_chain(), "private_key": issued.key}});
    asked.borrow_mut().certificates.entry(number).or_default().push(issued);
    let directory = world.directory(ACCOUNT, "web");
    let path = format!("{}/data/{directory}/{}", world.kv_mount(), certificate(number));
    written(world.vault(), &path, &entry).await;
}

async fn rotations(
    world: &World,
    authority: &Authority,
    asked: &RefCell<Asked>,
    end: Instant,
) -> usize {
    let mut dice = Dice::new("kills: rotations", "VAULT_AWS_SEED", SEED + 1);
    let mut count = 0;
    while Instant::now() < end {
        rotate(world, authority, asked, dice.below(CERTIFICATES)).await;
        count += 1;
        tokio::time::sleep(Duration::from_millis(200 + dice.below(400) as u64)).await;
    }
    count
}

async fn changes(world: &World, asked: &RefCell<Asked>, end: Instant) -> usize {
    let mut dice = Dice::new("kills: changes", "VAULT_AWS_SEED", SEED + 2);
    let roles = api_of(world, "vaultawsrole");
    let mut count = 0;
    while Instant::now() < end {
        let (number, life) = (dice.below(ROLES), LIVES[dice.below(LIVES.len())]);
        asked.borrow_mut().roles.entry(number).or_default().push(life);
        let patch = Patch::Merge(json!({"spec": {"token": {"ttl": format!("{life}s")}}}));
        let name = role(number);
        insisting(async || roles.patch(&name, &PatchParams::default(), &patch).await.ok()).await;
        count += 1;
        tokio::time::sleep(Duration::from_millis(500 + dice.below(1000) as u64)).await;
    }
    count
}

/// Looks at roles and policies in Vault while it is there.
async fn looks(world: &World, asked: &RefCell<Asked>, looked: &RefCell<usize>, end: Instant) {
    let own = |number: usize| world.policy_name(&world.iam_role(&role(number)));
    let mut number = 0;
    while Instant::now() < end {
        number = (number + 1) % ROLES;
        let vault_role = world.iam_role(&role(number));
        let path = format!("auth/{}/role/{vault_role}", world.auth_mount());
        if let Ok((200, found)) = world.vault().get(&path).await {
            let life = found["data"]["token_ttl"].as_u64().expect("a number");
            let allowed: BTreeSet<u64> = asked.borrow().roles[&number].iter().copied().collect();
            assert!(allowed.contains(&life), "{vault_role} has token_ttl {life}: nobody asked");
            assert_eq!(found["data"]["token_policies"], json!([own(number)]), "{vault_role}");
            let policy = format!("sys/policies/acl/{}", own(number));
            // A role never stands without its policy.
            if let Ok((status, found)) = world.vault().get(&policy).await
                && status < 500
            {
                let text = found["data"]["policy"].as_str().unwrap_or_default();
                assert!(text.starts_with("# vault-aws-operator v1 "), "{vault_role}: {found}");
            }
            *looked.borrow_mut() += 1;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

/// Kills one after another, and starts it again after a while.
async fn kills(world: &World, end: Instant) -> BTreeMap<&'static str, usize> {
    let mut dice = Dice::new("kills", "VAULT_AWS_SEED", SEED);
    let (lab, stage) = (&world.stage.lab, &world.stage);
    let mut killed = BTreeMap::new();
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(500 + dice.below(4000) as u64)).await;
        let rest = Duration::from_millis(dice.below(3000) as u64);
        let operator = async |operator: &Operator| {
            operator.kill9().await.expect("a signal");
            tokio::time::sleep(rest).await;
            operator.start_again().await.expect("it starts");
        };
        let server = async |server: &Server| {
            server.kill9().await.expect("a signal");
            tokio::time::sleep(rest).await;
            server.start().await.expect("it starts");
        };
        let name = match dice.below(8) {
            0..3 => {
                operator(&stage.syncer).await;
                "syncer"
            }
            3..5 => {
                operator(&stage.role_writer).await;
                "role writer"
            }
            5 => {
                server(lab.vault_server()).await;
                lab.vault_unseal().await.expect("it is unsealed");
                "Vault"
            }
            6 => {
                server(lab.apiserver()).await;
                "API server"
            }
            _ => {
                server(lab.etcd()).await;
                lab.apiserver().answers().await.expect("the API server finds etcd");
                "etcd"
            }
        };
        *killed.entry(name).or_default() += 1;
    }
    killed
}
