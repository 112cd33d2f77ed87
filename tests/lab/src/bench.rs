//! `cargo lab bench`: what the operator costs, measured on a lab of its own.
//!
//! Requests are counted by the servers' audit logs, not by the operator; memory is what the kernel
//! says. How the measuring goes on is told on stderr, the figures alone are on stdout.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io,
    path::Path,
    pin::pin,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};

use crate::{
    audit::{self, KubernetesRequest, Mark, VaultRequest},
    cargo,
    certificates::{Authority, Described, Issued},
    demo::{
        stage::{ACCOUNT, Kind, PATIENCE, ROLE, Stage, TEAM, condition, put},
        story::Story,
    },
    detached,
    error::{Doing as _, Error, Result},
    lab::Options,
    operator::{Component, Operator},
    toolchain::Toolchain,
};

pub mod cli;
pub mod scale;
mod table;

use table::Table;

/// The lab's name.
const NAME: &str = "bench";
/// Requests of the loader that are on their way at once.
const CONCURRENCY: usize = 32;
/// How long a process is left alone before its memory is read.
const REST: Duration = Duration::from_secs(5);
/// How long requests after a restart are counted.
const AFTER_RESTART: Duration = Duration::from_secs(20);
/// The interval at which unchanged refreshes are counted, and for how long.
const INTERVAL: Duration = Duration::from_secs(60);
/// Forced refreshes.
const SAMPLES: usize = 20;

/// What is measured.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Settings {
    /// How many VaultCertSync there are, with one certificate each, in one namespace
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    resources: u16,
    /// Build and measure the release profile
    #[arg(long)]
    release: bool,
}

/// Measures; returns the figures as text.
///
/// # Errors
/// Something could not be built, started or stopped, or took too long.
pub async fn run(settings: Settings) -> Result<String> {
    let story = Story::aside();
    let building = async {
        let release = settings.release;
        tokio::task::spawn_blocking(move || cargo::build_operator(release)).await?
    };
    let binary = story.step("operator is built", building).await?;
    on_stage(story, &binary, async |stage| {
        let bench = Bench { story, stage, settings, table: Table::default() };
        bench.measure(&binary).await
    })
    .await
}

/// Measures on a lab that is set up before and removed afterwards.
async fn on_stage(
    story: Story,
    binary: &Path,
    measure: impl AsyncFnOnce(&Stage) -> Result<Table>,
) -> Result<String> {
    let building = async { tokio::task::spawn_blocking(Toolchain::ensure).await? };
    story.step("servers are built", building).await?;
    let end = detached::asked_to_end()?;
    let options = Options { name: NAME.to_owned(), ..Options::default() };
    let measuring = async {
        let stage = Stage::set(story, options, binary).await?;
        let measured = measure(&stage).await;
        if let Err(error) = &measured {
            stage.explain(error).await;
        }
        let stopped = story.step("everything is stopped and removed", stage.strike()).await;
        let table = measured?;
        stopped.map(|()| table.to_string())
    };
    tokio::select! {
        result = measuring => result,
        () = end => Err(Error::Interrupted(NAME.to_owned())),
    }
}

/// What was measured, and where.
fn circumstances(table: &mut Table, binary: &Path, release: bool) -> Result<()> {
    let words: Vec<_> = env::args().skip(1).collect();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let size = binary.metadata().doing(|| format!("reading {}", binary.display()))?.len();
    let profile = if release { "release" } else { "dev" };
    table.row("command", format!("cargo lab {}", words.join(" ")));
    table.row("machine", format!("{cores} cores, {model}, shared with the servers"));
    table.row(&format!("size of {} ({profile})", cargo::OPERATOR), bytes(size));
    Ok(())
}

struct Bench<'a> {
    story: Story,
    stage: &'a Stage,
    settings: Settings,
    table: Table,
}

impl Bench<'_> {
    async fn measure(mut self, binary: &Path) -> Result<Table> {
        circumstances(&mut self.table, binary, self.settings.release)?;
        self.idle().await?;
        self.load().await?;
        self.restart().await?;
        self.forced_refreshes().await?;
        self.unchanged_refreshes().await?;
        Ok(self.table)
    }

    /// Memory of processes that have one backend and one role to look after.
    async fn idle(&mut self) -> Result<()> {
        let stage = self.stage;
        let ready = async {
            stage.apply_backend().await?;
            stage.apply_example("role.yaml").await?;
            stage.ready(Kind::Backend, "default").await?;
            stage.ready(Kind::Role, ROLE).await?;
            tokio::time::sleep(REST).await;
            Ok(())
        };
        self.story.step("backend and role are Ready; a rest", ready).await?;
        self.memory("idle RSS");
        Ok(())
    }

    fn memory(&mut self, what: &str) {
        for operator in [&self.stage.role_writer, &self.stage.syncer] {
            let rss = operator.rss_kib().unwrap_or_default() * 1024;
            self.table.row(&format!("{what}, {}", short(operator)), bytes(rss));
        }
    }

    async fn load(&mut self) -> Result<()> {
        let (story, stage, count) = (self.story, self.stage, self.count());
        let filling = fill(stage, count);
        story.step(&format!("{count} certificates lie in Vault"), filling).await?;
        let mark = Mark::now(&stage.lab);
        let syncs = stage.api(Kind::Sync);
        let begun = Instant::now();
        let creating = create_all(&syncs, names(count).map(|name| sync(&name)), CONCURRENCY);
        story.step(&format!("{count} VaultCertSync are created"), creating).await?;
        let created = begun.elapsed();
        let waiting = all_ready(&syncs, count, 1);
        story.step(&format!("{count} VaultCertSync are Ready"), waiting).await?;
        let delivered = begun.elapsed();
        let asked = Asked::since(stage, mark)?;
        self.table.row(
            &format!("{count} syncs, all Ready with their Secrets"),
            format!(
                "{} (created in {}; the default limit is 50 requests/s to Vault)",
                seconds(delivered),
                seconds(created)
            ),
        );
        let logins = asked.vault.iter().filter(|request| request.is_login()).count();
        self.table.row("  logins to Vault for that", logins);
        self.table.row("  requests to Vault for that", kinds_of_vault(&asked.vault));
        self.table
            .row("  requests to the API server for that", kinds_of_kubernetes(&asked.kubernetes));
        tokio::time::sleep(REST).await;
        self.memory(&format!("RSS with {count} syncs"));
        Ok(())
    }

    /// What it costs to be restarted while no refresh is due but the few whose time has come: the
    /// interval is an hour, over which they are spread.
    async fn restart(&mut self) -> Result<()> {
        let operators = [&self.stage.role_writer, &self.stage.syncer];
        let stage = self.stage;
        let stopping = async {
            for operator in operators {
                operator.stop().await?;
            }
            Ok(())
        };
        self.story.step("both processes are stopped", stopping).await?;
        let mark = Mark::now(&stage.lab);
        let begun = Instant::now();
        let starting = async {
            for operator in operators {
                operator.start_again().await?;
                operator.ready(PATIENCE).await?;
            }
            Ok(())
        };
        self.story.step("both processes are started again", starting).await?;
        let ready = begun.elapsed();
        tokio::time::sleep(AFTER_RESTART).await;
        let asked = Asked::since(stage, mark)?;
        let writes = asked.vault.iter().filter(|request| request.is_write()).count();
        let writes_kubernetes = asked
            .kubernetes
            .iter()
            .filter(|request| request.is_write())
            .cloned()
            .collect::<Vec<_>>();
        self.table.row("restart, nothing due: both ready after", seconds(ready));
        let window = format!("  requests to Vault in {} s after it", AFTER_RESTART.as_secs());
        self.table.row(&window, kinds_of_vault(&asked.vault));
        self.table.row("  writes to Vault", writes);
        self.table.row("  writes to the API server", kinds_of_kubernetes(&writes_kubernetes));
        self.memory("  RSS after it");
        Ok(())
    }

    /// How long a new version takes from Vault to the Secret, if somebody asks for it.
    async fn forced_refreshes(&mut self) -> Result<()> {
        let company = Authority::new("Example CA")?;
        let count = self.count();
        let taking = async {
            let mut samples = Vec::new();
            for sample in 0..SAMPLES {
                let name = name(sample * count / SAMPLES);
                samples.push(forced_refresh(self.stage, &company, &name, sample).await?);
            }
            Ok(samples)
        };
        let mut samples =
            self.story.step(&format!("{SAMPLES} refreshes are forced, one by one"), taking).await?;
        samples.sort();
        let at = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100).max(1) - 1;
            samples.get(rank).map_or(0.0, |sample| sample.as_secs_f64() * 1000.0)
        };
        self.table.row(
            "forced refresh, from KV write to Secret",
            format!("p50 {:.0} ms, p95 {:.0} ms, of {SAMPLES}", at(50), at(95)),
        );
        Ok(())
    }

    async fn unchanged_refreshes(&mut self) -> Result<()> {
        let (story, stage, count) = (self.story, self.stage, self.count());
        let syncs = stage.api(Kind::Sync);
        let interval = format!("{}s", INTERVAL.as_secs());
        let patching = async {
            refresh_every(&syncs, count, &interval, CONCURRENCY).await?;
            // What was late because of the change is caught up with.
            tokio::time::sleep(REST).await;
            Ok(())
        };
        story.step(&format!("all have refreshInterval {interval}"), patching).await?;
        let counting = async {
            let (mark, before) = (Mark::now(&stage.lab), passes(&stage.syncer).await?);
            tokio::time::sleep(INTERVAL).await;
            let after = passes(&stage.syncer).await?;
            Ok((Asked::since(stage, mark)?, after - before))
        };
        let what = format!("unchanged refreshes are counted for {interval}");
        let (asked, passes) = story.step(&what, counting).await?;
        let per_refresh = |requests: usize| format!("{:.3}", requests as f64 / passes.max(1.0));
        self.table.row(&format!("unchanged refreshes in {interval}"), passes);
        let reads = asked.vault.iter().filter(|one| one.path.starts_with("secret/")).count();
        self.table.row("  requests to Vault per refresh", per_refresh(reads));
        self.table.row("    all in that time", kinds_of_vault(&asked.vault));
        let (watches, others): (Vec<_>, Vec<_>) =
            asked.kubernetes.into_iter().partition(|request| request.verb == "watch");
        self.table.row("  requests to the API server per refresh", per_refresh(others.len()));
        self.table.row("    all in that time", kinds_of_kubernetes(&others));
        self.table.row("    watches that ended and were renewed", watches.len());
        self.memory("  RSS after it");
        Ok(())
    }

    fn count(&self) -> usize {
        self.settings.resources.into()
    }
}

/// What both processes asked since some moment.
struct Asked {
    vault: Vec<VaultRequest>,
    kubernetes: Vec<KubernetesRequest>,
}

impl Asked {
    /// In a lab without other clients, whoever is not root is the operator.
    fn since(stage: &Stage, mark: Mark) -> Result<Self> {
        let (lab, users) = (&stage.lab, Component::ALL.map(Component::user));
        let log = lab.audit_kube_path();
        Ok(Self {
            vault: audit::vault(&lab.audit_vault_path(), mark.vault)?,
            kubernetes: audit::kubernetes(&log, mark.kubernetes, &users, audit::Stage::Ended)?,
        })
    }
}

/// The name of a sync, of its certificate and of its Secret.
fn name(number: usize) -> String {
    format!("c-{number:05}")
}

fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(name)
}

/// Without `*`, so that nothing has to be listed.
fn sync(name: &str) -> DynamicObject {
    let mut sync = DynamicObject::new(name, &Kind::Sync.resource()).within(TEAM);
    sync.data = json!({"spec": {
        "roleRef": {"name": ROLE},
        "certificates": {"include": [name]},
        "target": {"secretName": "{name}"},
    }});
    sync
}

fn entry(name: &str) -> String {
    format!("certs/{ACCOUNT}/{ROLE}/{name}")
}

/// Puts a certificate for each sync into Vault.
async fn fill(stage: &Stage, count: usize) -> Result<()> {
    let issuing = move || {
        let company = Authority::new("Example CA")?;
        names(count)
            .map(|name| Ok((company.issue(&format!("{name}.example.com"))?, name)))
            .collect::<Result<Vec<(Issued, String)>>>()
    };
    let issued = tokio::task::spawn_blocking(issuing).await??;
    stream::iter(issued)
        .map(|(issued, name)| async move {
            put(&stage.lab.vault, &entry(&name), issued.fields()).await
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

/// Creates these syncs, so many at once.
async fn create_all(
    syncs: &Api<DynamicObject>,
    objects: impl Iterator<Item = DynamicObject>,
    at_once: usize,
) -> Result<()> {
    stream::iter(objects)
        .map(|object| async move { syncs.create(&PostParams::default(), &object).await.map(drop) })
        .buffer_unordered(at_once)
        .try_collect::<()>()
        .await
        .doing(|| "creating VaultCertSyncs".to_owned())
}

/// Gives the syncs another interval, so many at once, and waits until all are Ready by it.
async fn refresh_every(
    syncs: &Api<DynamicObject>,
    count: usize,
    interval: &str,
    at_once: usize,
) -> Result<()> {
    let patch = &Patch::Merge(json!({"spec": {"refreshInterval": interval}}));
    stream::iter(names(count))
        .map(|name| async move {
            syncs.patch(&name, &PatchParams::default(), patch).await.map(drop)
        })
        .buffer_unordered(at_once)
        .try_collect::<()>()
        .await
        .doing(|| "patching VaultCertSyncs".to_owned())?;
    all_ready(syncs, count, 2).await
}

/// Waits until so many syncs say of that generation, or a later one, that they are Ready.
async fn all_ready(syncs: &Api<DynamicObject>, count: usize, generation: i64) -> Result<()> {
    // Twenty times what the default limit of requests makes of it.
    let limit = PATIENCE + Duration::from_secs(count as u64) / 2;
    let mut ready = BTreeSet::new();
    let mut last = String::new();
    let waiting = async {
        let mut seen = pin!(seen(syncs, watcher::Config::default()));
        while ready.len() < count
            && let Some(object) = seen.next().await
        {
            let status = &object.data["status"];
            let current = status["observedGeneration"].as_i64() >= Some(generation);
            let condition = condition(status, "Ready");
            let name = object.metadata.name.unwrap_or_default();
            if current && condition.is_some_and(|ready| ready["status"] == "True") {
                ready.insert(name);
            } else {
                last = format!("{name}: {}", condition.unwrap_or(&Value::Null));
                ready.remove(&name);
            }
        }
    };
    match tokio::time::timeout(limit, waiting).await {
        Ok(()) => Ok(()),
        Err(_) => Err(Error::NotSeen {
            what: format!("{count} VaultCertSync are Ready"),
            seconds: limit.as_secs(),
            instead: format!("{}; {last}", ready.len()),
        }),
    }
}

/// The objects as they are and become. A watch that fails begins again.
fn seen<T>(api: &Api<T>, config: watcher::Config) -> impl Stream<Item = T> + use<T>
where
    T: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    watcher(api.clone(), config)
        .default_backoff()
        .applied_objects()
        .filter_map(|object| std::future::ready(object.ok()))
}

/// From the answer to a KV write to the Secret with the new certificate.
async fn forced_refresh(
    stage: &Stage,
    company: &Authority,
    name: &str,
    sample: usize,
) -> Result<Duration> {
    let issued = company.issue(&format!("{name}.example.com"))?;
    let next = Described::read(issued.certificate.as_bytes())?;
    let secrets = Api::<Secret>::namespaced(stage.lab.kube(), TEAM);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut seen = pin!(seen(&secrets, config));
    let arrival = async {
        // The old one first: then the watch is open.
        let _ = seen.next().await;
        put(&stage.lab.vault, &entry(name), issued.fields()).await?;
        let written = Instant::now();
        let refresh = json!({"vaultaws.dev/refresh": sample.to_string()});
        let patch = Patch::Merge(json!({"metadata": {"annotations": refresh}}));
        let syncs = stage.api(Kind::Sync);
        syncs
            .patch(name, &PatchParams::default(), &patch)
            .await
            .doing(|| format!("annotating VaultCertSync {name}"))?;
        while let Some(secret) = seen.next().await {
            let data = secret.data.unwrap_or_default();
            let held = data.get("tls.crt").and_then(|pem| Described::read(&pem.0).ok());
            if held.as_ref() == Some(&next) {
                return Ok(written.elapsed());
            }
        }
        Err(io::Error::other("the watch ended")).doing(|| format!("watching Secret {name}"))
    };
    let late = |_| Error::NotSeen {
        what: format!("the Secret {name} holds the new certificate"),
        seconds: PATIENCE.as_secs(),
        instead: "the old one".to_owned(),
    };
    tokio::time::timeout(PATIENCE, arrival).await.map_err(late)?
}

/// Passes over VaultCertSyncs so far, by the operator's own metric.
async fn passes(syncer: &Operator) -> Result<f64> {
    let page = syncer.metrics().await?;
    Ok(page
        .lines()
        .filter(|line| line.starts_with("vault_aws_passes_total{"))
        .filter(|line| line.contains(r#"kind="VaultCertSync""#))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum())
}

/// How many there are, and of which kinds.
fn kinds_of_vault(requests: &[VaultRequest]) -> String {
    tally(requests.iter().map(|VaultRequest { operation, path, .. }| {
        let directory = format!("certs/{ACCOUNT}/{ROLE}/");
        let path = path.split_once(&directory).map_or(path.as_str(), |(mount, _)| mount);
        format!("{operation} {}", path.trim_end_matches('/'))
    }))
}

fn kinds_of_kubernetes(requests: &[KubernetesRequest]) -> String {
    tally(requests.iter().map(|request| format!("{} {}", request.verb, request.resource)))
}

fn tally(kinds: impl Iterator<Item = String>) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for kind in kinds {
        *counts.entry(kind).or_default() += 1;
    }
    let total: usize = counts.values().sum();
    if total == 0 {
        return "0".to_owned();
    }
    let parts: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!("{total} ({})", parts.join(", "))
}

fn short(operator: &Operator) -> &'static str {
    match operator.component() {
        Component::RoleWriter => "role writer",
        Component::Syncer => "syncer",
    }
}

fn bytes(count: u64) -> String {
    format!("{:.1} MiB", count as f64 / f64::from(1 << 20))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_by_kind() {
        let read = |path: &str| VaultRequest {
            operation: "read".into(),
            path: path.into(),
            ..VaultRequest::default()
        };
        let metadata = |name| read(&format!("secret/metadata/certs/{ACCOUNT}/{ROLE}/{name}"));
        let told = kinds_of_vault(&[metadata("a"), metadata("b"), read("auth/aws/role/web")]);
        assert_eq!(told, "3 (1 read auth/aws/role/web, 2 read secret/metadata)");
        assert_eq!(kinds_of_vault(&[]), "0");
    }
}
