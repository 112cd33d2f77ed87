//! Two replicas of one component: one writes, the other waits, whatever happens to the first.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use vault_aws_lab::{Component, Operator};

use crate::{
    audit::{self, Mark, VaultRequest},
    certificates::{Authority, Issued},
    stage::say,
    world::{ACCOUNT, PATIENCE, World},
};

tests![
    a_syncer_that_is_stopped_hands_over_at_once,
    a_syncer_that_is_killed_is_replaced_when_its_lease_ends_and_nothing_is_lost,
    a_syncer_that_was_frozen_beyond_its_lease_writes_nothing_more,
    a_role_writer_that_is_stopped_hands_over_at_once,
    a_role_writer_that_is_killed_is_replaced_when_its_lease_ends_and_nothing_is_lost,
    a_role_writer_that_was_frozen_beyond_its_lease_writes_nothing_more,
    a_leader_without_the_api_server_keeps_its_place_if_nobody_takes_it,
];

/// The lease, and how often a standby looks.
const LEASE: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_secs(2);
/// A request, and a busy machine.
const MARGIN: Duration = Duration::from_secs(4);

/// How many resources are in the making when something happens to the leader.
const CROWD: usize = 40;

async fn a_syncer_that_is_stopped_hands_over_at_once(world: World) {
    stopped(&Crowd::of_syncs(&world).await).await;
}

async fn a_syncer_that_is_killed_is_replaced_when_its_lease_ends_and_nothing_is_lost(world: World) {
    killed(&Crowd::of_syncs(&world).await).await;
}

async fn a_syncer_that_was_frozen_beyond_its_lease_writes_nothing_more(world: World) {
    frozen(&Crowd::of_syncs(&world).await).await;
}

async fn a_role_writer_that_is_stopped_hands_over_at_once(world: World) {
    stopped(&Crowd::of_roles(&world).await).await;
}

async fn a_role_writer_that_is_killed_is_replaced_when_its_lease_ends_and_nothing_is_lost(
    world: World,
) {
    killed(&Crowd::of_roles(&world).await).await;
}

async fn a_role_writer_that_was_frozen_beyond_its_lease_writes_nothing_more(world: World) {
    frozen(&Crowd::of_roles(&world).await).await;
}

/// Many resources of one kind, and the component that serves them.
struct Crowd<'a> {
    world: &'a World,
    component: Component,
    /// What each of the syncs delivers; roles need none.
    issued: Option<Issued>,
}

impl<'a> Crowd<'a> {
    /// Syncs of one role and one certificate.
    async fn of_syncs(world: &'a World) -> Self {
        let issued = Authority::new("World CA").issue("web.example.com");
        world.put_certificate("web", "tls", &issued).await;
        world.backend().apply().await;
        world.role("web").apply().await;
        world.ready("vaultawsrole/web").await;
        Self { world, component: Component::Syncer, issued: Some(issued) }
    }

    /// Roles of IAM roles of their own.
    async fn of_roles(world: &'a World) -> Self {
        for number in 0..CROWD {
            world.create_iam_role(ACCOUNT, &name(number)).await;
        }
        world.backend().apply().await;
        world.ready(&world.backend_ref()).await;
        Self { world, component: Component::RoleWriter, issued: None }
    }

    fn first(&self) -> &Operator {
        match self.component {
            Component::Syncer => &self.world.stage.syncer,
            Component::RoleWriter => &self.world.stage.role_writer,
        }
    }

    async fn second(&self) -> Operator {
        let binary = Path::new(env!("CARGO_BIN_EXE_vault-aws"));
        let started = Operator::start_second(&self.world.stage.lab, self.component, binary).await;
        let second = started.expect("a second replica");
        second.ready(PATIENCE).await.expect("a standby is ready too");
        assert!(self.first().leads().await && !second.leads().await);
        second
    }

    async fn apply(&self) {
        for number in 0..CROWD {
            let name = name(number);
            let manifest = match self.component {
                Component::Syncer => {
                    let sync = self.world.sync(&name).with("spec.roleRef.name", "web");
                    sync.with("spec.refreshInterval", "10s")
                }
                Component::RoleWriter => self.world.role(&name).with("spec.driftInterval", "10s"),
            };
            manifest.apply().await;
        }
    }

    /// Waits until one of them is done.
    async fn begun(&self) {
        let first = name(0);
        let is_begun = async || match self.component {
            Component::Syncer => self.world.secret(&format!("{first}-tls")).await.map(drop),
            Component::RoleWriter => {
                self.world.vault_role(&self.world.iam_role(&first)).await.map(drop)
            }
        };
        self.world.eventually("the first of the crowd", PATIENCE, is_begun).await;
    }

    /// Waits until all are done.
    async fn done(&self) {
        for number in 0..CROWD {
            let name = name(number);
            match &self.issued {
                Some(issued) => drop(self.world.delivered(&format!("{name}-tls"), issued).await),
                None => drop(self.world.ready(&format!("vaultawsrole/{name}")).await),
            }
        }
    }

    /// Each Secret, or role and policy, was made once, by whichever replica, and never written again.
    fn once_each(&self, replicas: [&Operator; 2], since: Mark) {
        let (made, expected) = match self.component {
            Component::Syncer => (self.secrets_made(replicas, since), CROWD),
            Component::RoleWriter => (self.made_in_vault(since), 2 * CROWD),
        };
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, _) in made.iter().filter(|(_, is_cut)| !is_cut) {
            *times.entry(name).or_default() += 1;
        }
        // All are there: those that nobody else made were made before nobody could be told.
        for (name, _) in made.iter().filter(|(_, is_cut)| *is_cut) {
            times.entry(name).or_insert(1);
        }
        assert_eq!(times.len(), expected, "{times:?}");
        times.retain(|_, times| *times > 1);
        assert!(times.is_empty(), "made again: {times:?} among {made:?}");
    }

    /// The names of the Secrets that were made, and whether the request was cut off.
    fn secrets_made(&self, replicas: [&Operator; 2], since: Mark) -> Vec<(String, bool)> {
        let writes = replicas.into_iter().flat_map(|one| writes(self.world, one, since));
        let of_secrets = writes.filter(|write| write.resource == "secrets").map(|write| {
            assert_eq!(write.verb, "create", "{} was written again", write.name);
            (write.name, write.is_cut)
        });
        of_secrets.collect()
    }

    /// The paths in Vault that were written to, and whether the request was cut off.
    fn made_in_vault(&self, since: Mark) -> Vec<(String, bool)> {
        let requests = self.world.vault_writes_since(since).into_iter();
        let of_vault = |request: VaultRequest| {
            let path = &request.path;
            assert!(path.starts_with("sys/policies/acl/") || path.contains("/role/"), "{path}");
            assert!(!request.is_forbidden(), "{request:?}");
            // So Vault calls what it breaks off since nobody waits for it any more, if it logs that at all.
            let is_cut = request.error.contains("context canceled") || !request.is_answered;
            (request.path, is_cut)
        };
        requests.map(of_vault).collect()
    }

    /// Changes one by hand, so that whoever leads has something to do.
    async fn spoil(&self) {
        let name = name(0);
        match self.component {
            Component::Syncer => self.world.delete(&format!("secret/{name}-tls")).await,
            Component::RoleWriter => {
                let role = self.world.iam_role(&name);
                let path = format!("auth/{}/role/{role}", self.world.auth_mount());
                self.world.write(&path, json!({"token_policies": ["default"]})).await;
            }
        }
    }

    /// Waits until it is put back.
    async fn mended(&self) {
        let name = name(0);
        let is_mended = async || match self.component {
            Component::Syncer => self.world.secret(&format!("{name}-tls")).await.map(drop),
            Component::RoleWriter => {
                let role = self.world.iam_role(&name);
                let found = self.world.vault_role(&role).await?;
                (found["token_policies"] == json!([self.world.policy_name(&role)])).then_some(())
            }
        };
        self.world.eventually("what was changed by hand to be put back", PATIENCE, is_mended).await;
    }

    fn took(&self, after: &str, took: Duration) {
        say(&format!(
            "takeover of the {} after {after}: {:.1} s",
            self.component.name(),
            took.as_secs_f64()
        ));
    }
}

fn name(number: usize) -> String {
    format!("s{number}")
}

async fn leads(world: &World, replica: &Operator, limit: Duration) -> Duration {
    let begun = Instant::now();
    world
        .eventually("the replica to lead", limit, async || replica.leads().await.then_some(()))
        .await;
    begun.elapsed()
}

/// A request that changed something, or may have.
#[derive(Debug, PartialEq)]
struct Write {
    verb: String,
    resource: String,
    name: String,
    /// Nobody was there any more to be told how it ended, and the log does not know it either.
    is_cut: bool,
}

/// What a process changed in this world since then, by its own token.
fn writes(world: &World, replica: &Operator, since: Mark) -> Vec<Write> {
    let log = world.stage.lab.audit_kube_path();
    let entries = audit::entries(&log, since.kubernetes).expect("the audit log");
    let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .filter(|event| matches!(event["stage"].as_str(), Some("ResponseComplete" | "Panic")))
        .filter(|event| {
            let key = "authentication.kubernetes.io/credential-id";
            event["user"]["extra"][key][0] == replica.credential()
        })
        .filter(|event| event["objectRef"]["namespace"] == world.id.as_str())
        .map(|event| (event, event["responseStatus"]["code"].as_u64().unwrap_or_default()))
        // Refusals changed nothing. 499, 5xx and no code at all say that nobody knows.
        .filter(|(_, code)| !(300..499).contains(code))
        .map(|(event, code)| {
            let object = &event["objectRef"];
            Write {
                verb: part(&event["verb"]),
                resource: part(&object["resource"]),
                name: part(&object["name"]),
                is_cut: !(200..300).contains(&code),
            }
        })
        .filter(|write| !matches!(write.verb.as_str(), "get" | "list" | "watch"))
        // One that was on its way may arrive late: it tells of what had happened.
        .filter(|write| write.resource != "events")
        .collect()
}

/// Whose tokens changed something of this world in Vault since then, as the audit log calls them.
fn vault_writers(world: &World, since: Mark) -> BTreeSet<String> {
    let log = world.stage.lab.audit_vault_path();
    let entries = audit::entries(&log, since.vault).expect("the audit log");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .filter(|entry| entry["type"] == "request" && entry["auth"]["display_name"] != "root")
        .filter(|entry| {
            let operation = text(&entry["request"]["operation"]);
            matches!(operation.as_str(), "create" | "update" | "patch" | "delete")
        })
        .filter(|entry| {
            let path = text(&entry["request"]["path"]);
            path.contains(&world.id) && !path.ends_with("/login")
        })
        .map(|entry| text(&entry["auth"]["accessor"]))
        .collect()
}

async fn stopped(crowd: &Crowd<'_>) {
    let (first, second) = (crowd.first(), crowd.second().await);
    let mark = crowd.world.mark();
    crowd.apply().await;
    assert!(first.stop().await.expect("a signal"), "it stops by itself");
    let took = leads(crowd.world, &second, TICK + MARGIN).await;
    crowd.done().await;
    crowd.once_each([first, &second], mark);
    crowd.took("a stop", took);
    assert!(second.stop().await.expect("a signal"));
}

async fn killed(crowd: &Crowd<'_>) {
    let (first, second) = (crowd.first(), crowd.second().await);
    let mark = crowd.world.mark();
    crowd.apply().await;
    first.kill9().await.expect("a signal");
    let took = leads(crowd.world, &second, LEASE + TICK + MARGIN).await;
    crowd.done().await;
    crowd.once_each([first, &second], mark);
    crowd.took("kill -9", took);
    assert!(second.stop().await.expect("a signal"));
}

async fn frozen(crowd: &Crowd<'_>) {
    let world = crowd.world;
    let (first, second) = (crowd.first(), crowd.second().await);
    let begin = world.mark();
    crowd.apply().await;
    // In the middle of the crowd.
    crowd.begun().await;
    first.pause().expect("a signal");
    let of_the_first = vault_writers(world, begin);
    let took = leads(world, &second, LEASE + TICK + MARGIN).await;
    crowd.done().await;
    crowd.once_each([first, &second], begin);
    // What was on its way when it froze has been answered long ago. There is something to do again.
    let mark = world.mark();
    crowd.spoil().await;
    first.resume().expect("a signal");
    world
        .eventually("the first to find its lease lost", PATIENCE, async || {
            (!first.is_alive()).then_some(())
        })
        .await;
    assert_eq!(writes(world, first, mark), [], "written after the lease was lost");
    crowd.mended().await;
    let late: Vec<String> =
        vault_writers(world, mark).intersection(&of_the_first).cloned().collect();
    assert_eq!(late, Vec::<String>::new(), "written to Vault after the lease was lost");
    crowd.took("SIGSTOP", took);
    assert!(second.stop().await.expect("a signal"));
}

async fn a_leader_without_the_api_server_keeps_its_place_if_nobody_takes_it(world: World) {
    let authority = Authority::new("World CA");
    let issued = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.with_web().await;
    world.delivered("web-tls", &issued).await;
    let pid = world.stage.syncer.pid();
    let apiserver = world.stage.lab.apiserver();
    apiserver.stop().await.expect("it stops");
    // Beyond the time in which a renewal must succeed.
    world
        .eventually("the leader to rest", LEASE, async || {
            (!world.stage.syncer.leads().await).then_some(())
        })
        .await;
    let next = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &next).await;
    apiserver.start().await.expect("it starts");
    leads(&world, &world.stage.syncer, PATIENCE).await;
    world.refresh("web").await;
    world.delivered("web-tls", &next).await;
    assert_eq!(world.stage.syncer.pid(), pid, "without a restart");
}
