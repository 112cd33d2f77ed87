//! `cargo lab bench scale`: what VaultCertSync costs as there are more and more of them.
//!
//! Creation is put beside what a bare client reaches on the same servers, so that the figure says
//! something of the operator and not of the machine: with W small writes per second of such a client,
//! N resources with a Secret and a status each take at least 2N/W seconds. Where clients and servers
//! share few processors, all of them busy, that is out of reach for anybody: the bare client is also
//! seen to do what nobody can do without.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Namespace, Secret},
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    runtime::watcher,
};
use serde_json::json;

use super::{
    Asked, REST, all_ready, bytes, circumstances, create_all, entry, kinds_of_kubernetes,
    kinds_of_vault, names, on_stage, refresh_every, seconds, seen, table::Table,
};
use crate::{
    audit::{KubernetesRequest, Mark},
    cargo,
    certificates::{Authority, Issued},
    demo::{
        stage::{Kind, PATIENCE, ROLE, Stage, TEAM, put},
        story::{Story, until},
    },
    error::{Doing as _, Error, Result},
    operator::Operator,
};

/// Requests of the bare client that are on their way at once.
const BARE: usize = 64;
/// How many resources it writes.
const BARE_RESOURCES: usize = 1000;
/// Resources that are created at once.
const LOADERS: usize = 16;
/// Certificates that are put into Vault at once.
const FILLERS: usize = 16;
/// How long requests after a restart and a relist are counted.
const AFTER: Duration = Duration::from_secs(30);
/// How long it takes until connections that were needed for a creation are given back, and all else.
const SETTLED: Duration = Duration::from_secs(60);
/// So long that hardly a refresh is due while something else is measured.
const LONG: &str = "8000h";
/// The interval at which unchanged refreshes are counted.
const INTERVAL: Duration = Duration::from_secs(60);
/// Where the bare client writes.
const BARE_NAMESPACE: &str = "bare";
/// In what `/proc/<pid>/stat` counts, on every Linux that people use.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// How many VaultCertSync there are, with one certificate each, in one namespace
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    resources: u32,
    /// Build and measure the release profile
    #[arg(long)]
    release: bool,
    /// Measure this program instead of building one
    #[arg(long, conflicts_with = "release")]
    program: Option<PathBuf>,
    /// For how many minutes unchanged refreshes are counted, one for each resource and minute
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=60))]
    minutes: u8,
}

/// Measures; returns the figures as text.
///
/// # Errors
/// Something could not be built, started or stopped, or took too long.
pub async fn run(settings: Settings) -> Result<String> {
    let story = Story::aside();
    let binary = match &settings.program {
        Some(program) => program.clone(),
        None => {
            let release = settings.release;
            let building = async {
                tokio::task::spawn_blocking(move || cargo::build_operator(release)).await?
            };
            story.step("operator is built", building).await?
        }
    };
    on_stage(story, &binary, async |stage| {
        let mut table = Table::default();
        circumstances(&mut table, &binary, settings.release || settings.program.is_some())?;
        let issued = tokio::task::spawn_blocking(|| {
            Authority::new("Example CA")?.issue_rsa("www.example.com")
        });
        let issued = issued.await??;
        let bench = Bench { story, stage, settings: &settings, issued, table };
        bench.measure().await
    })
    .await
}

/// What a client without any thought does in a second, each alone on the servers.
struct Bare {
    /// VaultCertSyncs that it creates.
    resources: f64,
    /// Entries that it reads from Vault.
    reads: f64,
    /// Secrets that it creates: W.
    secrets: f64,
    /// Statuses that it writes.
    statuses: f64,
}

impl Bare {
    /// How many seconds these take it: resources, entries and Secrets, and no status.
    fn least(&self, count: f64) -> f64 {
        count / self.resources + count / self.reads + count / self.secrets
    }

    /// What share of W it would be to create so many in that time, (2N/W)/t.
    fn share(&self, count: f64, seconds: f64) -> f64 {
        2.0 * count / self.secrets / seconds
    }
}

/// How many of these are done in a second, one for each name.
async fn bare_rate(
    story: Story,
    does: &str,
    what: &str,
    one: impl AsyncFn(String) -> Result<()>,
) -> Result<f64> {
    let begun = Instant::now();
    let all = stream::iter(names(BARE_RESOURCES))
        .map(|name| one(name))
        .buffer_unordered(BARE)
        .try_for_each(|()| std::future::ready(Ok(())));
    story.step(&format!("a bare client {does} {BARE_RESOURCES} {what}"), all).await?;
    Ok(BARE_RESOURCES as f64 / begun.elapsed().as_secs_f64())
}

struct Bench<'a> {
    story: Story,
    stage: &'a Stage,
    settings: &'a Settings,
    /// One pair for all entries: what is compared is what becomes of it, not how it is issued.
    issued: Issued,
    table: Table,
}

impl Bench<'_> {
    async fn measure(mut self) -> Result<Table> {
        let stage = self.stage;
        self.set_up().await?;
        self.memory("idle");
        self.story.step("the syncer is stopped", stage.syncer.stop()).await?;
        let before = self.bare().await?;
        let starting = async {
            stage.syncer.start_again().await?;
            stage.syncer.ready(PATIENCE).await
        };
        self.story.step("the syncer is started again", starting).await?;
        self.fill().await?;
        self.create(&before).await?;
        self.restart().await?;
        self.relist("a relist").await?;
        self.refreshes().await?;
        self.relist("the refreshes and another relist").await?;
        Ok(self.table)
    }

    fn count(&self) -> usize {
        self.settings.resources as usize
    }

    /// One backend whose limiter is out of the way, and one role.
    async fn set_up(&mut self) -> Result<()> {
        let stage = self.stage;
        let ready = async {
            stage.apply_backend().await?;
            let limit = json!({"requestsPerSecond": 10_000, "burst": 10_000});
            let patch = Patch::Merge(json!({"spec": {"vault": {"rateLimit": limit}}}));
            let backends = stage.api(Kind::Backend);
            backends
                .patch("default", &PatchParams::default(), &patch)
                .await
                .doing(|| "lifting the limit of requests to Vault".to_owned())?;
            stage.apply_example("role.yaml").await?;
            stage.ready(Kind::Backend, "default").await?;
            stage.ready(Kind::Role, ROLE).await?;
            tokio::time::sleep(REST).await;
            Ok(())
        };
        self.story.step("backend and role are Ready; a rest", ready).await
    }

    fn memory(&mut self, when: &str) {
        let stage = self.stage;
        for (operator, name) in [(&stage.syncer, "syncer"), (&stage.role_writer, "role writer")] {
            let rss = resident(operator).map_or_else(|| "not running".to_owned(), |r| r.told());
            self.table.row(&format!("RSS {when}, {name}"), rss);
        }
    }

    /// How fast a client without any thought does each part of a creation.
    async fn bare(&mut self) -> Result<Bare> {
        let (story, stage) = (self.story, self.stage);
        let client = stage.lab.kube();
        let syncs = Api::<DynamicObject>::namespaced_with(
            client.clone(),
            BARE_NAMESPACE,
            &Kind::Sync.resource(),
        );
        let secrets = Api::<Secret>::namespaced(client.clone(), BARE_NAMESPACE);
        let preparing = async {
            let namespace: Namespace =
                serde_json::from_value(json!({"metadata": {"name": BARE_NAMESPACE}}))
                    .map_err(std::io::Error::other)
                    .doing(|| "making a namespace".to_owned())?;
            Api::<Namespace>::all(client)
                .create(&PostParams::default(), &namespace)
                .await
                .doing(|| format!("creating namespace {BARE_NAMESPACE}"))?;
            put(&stage.lab.vault, &entry(BARE_NAMESPACE), self.issued.fields()).await
        };
        story.step("a namespace and an entry for a bare client", preparing).await?;
        let create = async |name: String| {
            let sync = sync(&name, BARE_NAMESPACE);
            let created = syncs.create(&PostParams::default(), &sync).await.map(drop);
            created.doing(|| format!("creating VaultCertSync {name}"))
        };
        let resources = bare_rate(story, "creates", "VaultCertSyncs", create).await?;
        let path = format!("secret/data/{}", entry(BARE_NAMESPACE));
        let read = async |_| match stage.lab.vault.get(&path).await? {
            (200, _) => Ok(()),
            (status, answer) => Err(std::io::Error::other(format!("{status} {answer}")))
                .doing(|| format!("reading {path}")),
        };
        let reads = bare_rate(story, "reads", "entries", read).await?;
        let create = async |name: String| {
            let secret = secret(&name, &self.issued);
            let created = secrets.create(&PostParams::default(), &secret).await.map(drop);
            created.doing(|| format!("creating Secret {name}"))
        };
        let secrets_made = bare_rate(story, "creates", "Secrets", create).await?;
        let apply = PatchParams::apply("bare").force();
        let patch = async |name: String| {
            let status = Patch::Apply(status(&name));
            let written = syncs.patch_status(&name, &apply, &status).await.map(drop);
            written.doing(|| format!("writing the status of VaultCertSync {name}"))
        };
        let statuses = bare_rate(story, "writes", "statuses", patch).await?;
        let cleaning = async {
            let (how, all) = (DeleteParams::default(), ListParams::default());
            let doing = || "deleting what the bare client wrote".to_owned();
            syncs.delete_collection(&how, &all).await.doing(doing)?;
            secrets.delete_collection(&how, &all).await.doing(doing)?;
            tokio::time::sleep(REST).await;
            Ok(())
        };
        story.step("and they are deleted; a rest", cleaning).await?;
        Ok(Bare { resources, reads, secrets: secrets_made, statuses })
    }

    async fn fill(&self) -> Result<()> {
        let filling = async {
            stream::iter(names(self.count()))
                .map(|name| async move {
                    put(&self.stage.lab.vault, &entry(&name), self.issued.fields()).await
                })
                .buffer_unordered(FILLERS)
                .try_collect::<()>()
                .await
        };
        let what = format!("{} certificates lie in Vault", self.count());
        self.story.step(&what, filling).await?;
        tokio::time::sleep(REST).await;
        Ok(())
    }

    async fn create(&mut self, bare: &Bare) -> Result<()> {
        let (story, stage, count) = (self.story, self.stage, self.count());
        let syncs = stage.api(Kind::Sync);
        let (mark, used) = (Mark::now(&stage.lab), Cpu::now(stage));
        let watching = tokio::spawn(all_correct(stage.lab.kube(), count, expected(&self.issued)));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let begun = Instant::now();
        let creating = create_all(&syncs, names(count).map(|name| sync(&name, TEAM)), LOADERS);
        story.step(&format!("{count} VaultCertSync are created"), creating).await?;
        let created = begun.elapsed();
        let limit = PATIENCE + Duration::from_secs(count as u64) / 10;
        let delivered = async {
            let late = |_| Error::NotSeen {
                what: format!("{count} Secrets are correct"),
                seconds: limit.as_secs(),
                instead: "fewer".to_owned(),
            };
            let end = tokio::time::timeout(limit, watching).await.map_err(late)??;
            Ok(end - begun)
        };
        let all = story.step(&format!("{count} Secrets are correct"), delivered).await?;
        let settled = Cpu::now(stage).since(&used);
        let waiting = all_ready(&syncs, count, 1);
        story.step(&format!("{count} VaultCertSync are Ready"), waiting).await?;
        let ready = begun.elapsed();
        tokio::time::sleep(REST).await;
        let asked = Asked::since(stage, mark)?;
        let table = &mut self.table;
        table.row(&format!("in a second a bare client does, {BARE} at once"), {
            let Bare { resources, reads, secrets, statuses } = bare;
            format!(
                "W: {secrets:.0} Secrets, {resources:.0} VaultCertSyncs, {reads:.0} entries read, \
                 {statuses:.0} statuses"
            )
        });
        table.row(
            &format!("t_all: {count} created, all Secrets correct after"),
            format!("{}, {:.0} a second", seconds(all), count as f64 / all.as_secs_f64()),
        );
        table.row("  created after, all seen Ready after", {
            format!("{}, {}", seconds(created), seconds(ready))
        });
        let n = count as f64;
        let least = bare.least(n);
        let [share, highest] = [all.as_secs_f64(), least].map(|seconds| bare.share(n, seconds));
        table.row("  share of the bare client, (2N/W)/t_all", format!("{share:.2}"));
        table.row(
            "  what it needs itself, but for statuses; a share of",
            format!("{least:.1} s; {highest:.2}"),
        );
        table.row("  CPU in t_all", settled.told());
        per(table, "create", &asked, count);
        self.memory(&format!("with {count}"));
        let rest = async {
            tokio::time::sleep(SETTLED).await;
            Ok(())
        };
        story.step("a rest", rest).await?;
        self.memory(&format!("with {count}, {} s later", SETTLED.as_secs()));
        Ok(())
    }

    /// What it costs to be killed and started again while no refresh is due.
    async fn restart(&mut self) -> Result<()> {
        let (story, stage) = (self.story, self.stage);
        story.step("the syncer is killed", stage.syncer.kill9()).await?;
        let mark = Mark::now(&stage.lab);
        let begun = Instant::now();
        let starting = async {
            stage.syncer.start_again().await?;
            stage.syncer.ready(PATIENCE).await
        };
        story.step("the syncer is started again", starting).await?;
        let ready = begun.elapsed();
        tokio::time::sleep(AFTER).await;
        let Asked { vault, kubernetes } = Asked::since(stage, mark)?;
        let (writes, reads): (Vec<_>, Vec<_>) =
            kubernetes.into_iter().filter(not_the_lease).partition(|request| request.is_write());
        let cpu = Cpu::of(&stage.syncer);
        let table = &mut self.table;
        table.row(
            "restart after kill -9, nothing due: ready after",
            format!("{}, {cpu:.2} s of CPU", seconds(ready)),
        );
        table.row(&format!("  requests to Vault in {} s", AFTER.as_secs()), kinds_of_vault(&vault));
        table.row("  writes to the API server", kinds_of_kubernetes(&writes));
        table.row("  reads of the API server", kinds_of_kubernetes(&reads));
        self.memory("after the restart");
        Ok(())
    }

    /// The API server is started again after something was written: its watch cache does not reach
    /// back to what the watches have seen, so that all must be listed anew.
    async fn relist(&mut self, what: &str) -> Result<()> {
        let (story, stage) = (self.story, self.stage);
        let mark = Mark::now(&stage.lab);
        let relisting = async {
            let maps = Api::<ConfigMap>::namespaced(stage.lab.kube(), "default");
            for round in 0..20 {
                let name = format!("moves-the-revision-{round}");
                let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": name}}))
                    .map_err(std::io::Error::other)
                    .doing(|| "making a ConfigMap".to_owned())?;
                let doing = || "moving the revision on".to_owned();
                maps.create(&PostParams::default(), &map).await.doing(doing)?;
                maps.delete(&name, &DeleteParams::default()).await.doing(doing)?;
            }
            stage.lab.apiserver().stop().await?;
            stage.lab.apiserver().start().await?;
            until("the syncer has listed all again", Duration::from_secs(90), async || {
                let listed = lists(&Asked::since(stage, mark)?);
                Ok(if listed == 0 { Err("no list".to_owned()) } else { Ok(()) })
            })
            .await?;
            tokio::time::sleep(AFTER).await;
            Ok(())
        };
        story.step("API server with a new watch cache; a rest", relisting).await?;
        let asked = Asked::since(stage, mark)?;
        self.table.row(&format!("lists in {what}"), lists(&asked));
        let writes: Vec<_> = asked
            .kubernetes
            .into_iter()
            .filter(not_the_lease)
            .filter(|one| one.is_write())
            .collect();
        self.table.row("  writes to the API server", kinds_of_kubernetes(&writes));
        self.memory(&format!("after {what}"));
        Ok(())
    }

    async fn refreshes(&mut self) -> Result<()> {
        let (story, stage, count) = (self.story, self.stage, self.count());
        let syncs = stage.api(Kind::Sync);
        let interval = format!("{}s", INTERVAL.as_secs());
        let patching = async {
            refresh_every(&syncs, count, &interval, LOADERS).await?;
            // What was late because of the change is caught up with.
            tokio::time::sleep(INTERVAL / 4).await;
            Ok(())
        };
        story.step(&format!("all have refreshInterval {interval}"), patching).await?;
        let time = INTERVAL * u32::from(self.settings.minutes);
        let counting = async {
            let (mark, used) = (Mark::now(&stage.lab), Cpu::now(stage));
            tokio::time::sleep(time).await;
            Ok((Asked::since(stage, mark)?, Cpu::now(stage).since(&used)))
        };
        let what = format!("unchanged refreshes are counted for {} s", time.as_secs());
        let (asked, used) = story.step(&what, counting).await?;
        let refreshes =
            asked.vault.iter().filter(|one| one.path.starts_with("secret/")).count().max(1);
        let table = &mut self.table;
        table.row(&format!("unchanged refreshes in {} s", time.as_secs()), refreshes);
        per(table, "refresh", &asked, refreshes);
        let each = used.syncer * 1000.0 / refreshes as f64;
        table.row("  CPU of the syncer per 1,000 refreshes", format!("{each:.3} s"));
        table.row("  CPU in that time", used.told());
        self.memory("after the refreshes");
        Ok(())
    }
}

/// Requests to both servers, and how many that is for each of so many.
fn per(table: &mut Table, what: &str, asked: &Asked, count: usize) {
    let each = |requests: usize| format!("{:.3}", requests as f64 / count.max(1) as f64);
    // A watch is told when it ends, and has nothing to do with what was done meanwhile.
    let kubernetes: Vec<_> =
        asked.kubernetes.iter().filter(|one| one.verb != "watch").cloned().collect();
    table.row(&format!("  requests to Vault per {what}"), each(asked.vault.len()));
    table.row("    all", kinds_of_vault(&asked.vault));
    table.row(&format!("  requests to the API server per {what}"), each(kubernetes.len()));
    table.row("    all", kinds_of_kubernetes(&kubernetes));
}

/// Pages of lists of what there is much of.
fn lists(asked: &Asked) -> usize {
    asked
        .kubernetes
        .iter()
        .filter(|one| one.verb == "list")
        .filter(|one| matches!(one.resource.as_str(), "secrets" | "vaultcertsyncs"))
        .count()
}

/// Without `*`, so that nothing has to be listed.
fn sync(name: &str, namespace: &str) -> DynamicObject {
    let mut sync = DynamicObject::new(name, &Kind::Sync.resource()).within(namespace);
    sync.data = json!({"spec": {
        "roleRef": {"name": ROLE},
        "certificates": {"include": [name]},
        "target": {"secretName": "{name}"},
        "refreshInterval": LONG,
    }});
    sync
}

/// The data of each Secret.
fn expected(issued: &Issued) -> BTreeMap<String, ByteString> {
    issued
        .delivered()
        .into_iter()
        .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
        .collect()
}

/// A Secret as the operator writes it.
fn secret(name: &str, issued: &Issued) -> Secret {
    let mut secret = Secret {
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(expected(issued)),
        ..Secret::default()
    };
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.labels =
        Some([("app.kubernetes.io/managed-by".to_owned(), "bare".to_owned())].into());
    secret
}

/// A status as the operator writes it.
fn status(name: &str) -> serde_json::Value {
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "as it should be",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    json!({
        "apiVersion": "vaultaws.dev/v1alpha1",
        "kind": "VaultCertSync",
        "metadata": {"name": name},
        "status": {
            "observedGeneration": 1,
            "conditions": [
                condition("Ready", "True", "Synced"),
                condition("Expiring", "False", "NotExpiring"),
                condition("Stale", "False", "Fresh"),
            ],
            "accountId": "123456789012", "iamRole": "web", "vaultRole": "vaultaws-team-a-web",
            "summary": "1/1", "nextExpiry": "2026-01-01T00:00:00Z",
            "lastSyncedTime": "2026-01-01T00:00:00Z",
            "certificates": [{
                "name": name, "secretName": name, "state": "Synced", "version": 1,
                "createdTime": "2026-01-01T00:00:00.000000001Z",
                "secretResourceVersion": "12345", "serial": "0".repeat(40),
                "sha256": "0".repeat(64), "issuer": "CN=Example CA",
                "dnsNames": ["www.example.com"], "dnsNamesTotal": 1,
                "notBefore": "2026-01-01T00:00:00Z", "notAfter": "2026-01-01T00:00:00Z",
                "shape": "0".repeat(16),
            }],
        },
    })
}

/// Until so many Secrets of the team are as they should be; the moment of the last.
async fn all_correct(
    client: Client,
    count: usize,
    expected: BTreeMap<String, ByteString>,
) -> Instant {
    let secrets = Api::<Secret>::namespaced(client, TEAM);
    let mut correct = HashSet::new();
    let mut watch = pin!(seen(&secrets, watcher::Config::default()));
    while correct.len() < count
        && let Some(secret) = watch.next().await
    {
        let is_right = secret.type_.as_deref() == Some("kubernetes.io/tls")
            && secret.data.as_ref() == Some(&expected);
        if is_right {
            correct.extend(secret.metadata.name);
        }
    }
    Instant::now()
}

/// Resident memory in KiB.
struct Resident {
    all: u64,
    anonymous: u64,
    most: u64,
}

impl Resident {
    fn told(&self) -> String {
        format!(
            "{} (anonymous {}, highest {})",
            bytes(self.all * 1024),
            bytes(self.anonymous * 1024),
            bytes(self.most * 1024)
        )
    }
}

fn resident(operator: &Operator) -> Option<Resident> {
    let status = fs::read_to_string(format!("/proc/{}/status", operator.pid()?)).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    Some(Resident { all: field("VmRSS")?, anonymous: field("RssAnon")?, most: field("VmHWM")? })
}

/// Seconds of CPU by process.
struct Cpu {
    syncer: f64,
    others: Vec<(&'static str, f64)>,
}

impl Cpu {
    fn now(stage: &Stage) -> Self {
        let lab = &stage.lab;
        let servers = [lab.apiserver(), lab.etcd(), lab.vault_server(), lab.controller_manager()];
        let mut others: Vec<_> = servers
            .map(|server| (server.name(), server.pid().map_or(0.0, cpu_of)))
            .into_iter()
            .collect();
        others.push(("this program", cpu_of(std::process::id())));
        Self { syncer: Self::of(&stage.syncer), others }
    }

    fn of(operator: &Operator) -> f64 {
        operator.pid().map_or(0.0, cpu_of)
    }

    fn since(mut self, earlier: &Self) -> Self {
        self.syncer -= earlier.syncer;
        for ((_, now), (_, then)) in self.others.iter_mut().zip(&earlier.others) {
            *now -= then;
        }
        self
    }

    fn told(&self) -> String {
        let all = [("syncer", self.syncer)].into_iter().chain(self.others.iter().copied());
        all.map(|(name, used)| format!("{name} {used:.2} s")).collect::<Vec<_>>().join(", ")
    }
}

fn cpu_of(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |at: usize| fields.split_whitespace().nth(at)?.parse::<f64>().ok();
    (ticks(11).unwrap_or_default() + ticks(12).unwrap_or_default()) / TICKS_PER_SECOND
}

/// Renewing the lease costs the same with one resource as with ten thousand.
fn not_the_lease(request: &KubernetesRequest) -> bool {
    request.resource != "leases"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_has_used_some_cpu() {
        let begun = Instant::now();
        while cpu_of(std::process::id()) == 0.0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "a busy loop uses CPU");
        }
    }
}
