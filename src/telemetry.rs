//! What the operator says of itself: the log, and every metric, defined in one list.
//!
//! Label values are words of the code (reasons, operations, results), except in the series of
//! single certificates, which can be switched off. Nothing here takes a value of which a part could
//! be a secret: no error text, no body, no header.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};
use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, ParseError, Targets},
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

use crate::{leader::Leadership, lock::lock};

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object in a line.
    Json,
}

/// What is logged unless a filter is given.
pub const DEFAULT_LOG_FILTER: &str = "info,kube=info,hyper=warn";

/// Never logged more than this, whatever the filter says: these print the bodies of requests or
/// answers, tokens and Secrets included, when a level is low enough or an answer does not parse.
const NEVER: [(&str, LevelFilter); 6] = [
    ("kube_client::client", LevelFilter::OFF),
    ("vaultrs", LevelFilter::OFF),
    ("rustify", LevelFilter::OFF),
    ("aws_smithy_runtime", LevelFilter::WARN),
    ("aws_smithy_http", LevelFilter::WARN),
    ("aws_sigv4", LevelFilter::OFF),
];

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not in the language of `tracing-subscriber`'s `EnvFilter`.
    #[error("reading the log filter `{filter}`")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Somebody has set up a log already.
    #[error("installing the log")]
    Install(#[source] TryInitError),
}

/// Sends the log of this process to stderr.
pub fn init_log(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let chosen = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LogError::Filter { filter: filter.to_owned(), source })?;
    // A layer of its own: both must let a line pass, so that no directive, however exact, lifts it.
    let never = Targets::new().with_default(LevelFilter::TRACE).with_targets(NEVER);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = tracing_subscriber::registry().with(chosen).with(never);
    match format {
        LogFormat::Text => log.with(lines.with_ansi(false)).try_init(),
        LogFormat::Json => log.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(LogError::Install)
}

/// A sign of life that one task gives and another looks for.
#[derive(Clone, Debug)]
pub struct Pulse {
    start: Instant,
    last: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { start: Instant::now(), last: Arc::default() }
    }
}

impl Pulse {
    /// Alive now.
    pub fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// How long ago the last sign of life was.
    pub fn age(&self) -> Duration {
        self.start
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// How one certificate of a sync stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateReading {
    /// The entry's name.
    pub name: String,
    /// `Synced`, `Kept`, `Refused`, `Removed`.
    pub state: &'static str,
    /// The end of its life, if one is held.
    pub not_after: Option<Timestamp>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct KindLabel {
    kind: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PassLabels {
    kind: String,
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    operation: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReasonLabels {
    kind: String,
    reason: &'static str,
}

type Seconds = fn() -> Histogram;

fn quick() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

fn patient() -> Histogram {
    Histogram::new([0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0])
}

/// The kind of refusals of single certificates; one sync has many.
pub const CERTIFICATE: &str = "Certificate";

/// Every metric. A cheap handle.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    state: Arc<State>,
    passes: Family<PassLabels, Counter>,
    pass_duration: Family<KindLabel, Histogram, Seconds>,
    running: Family<KindLabel, Gauge>,
    status_writes: Family<PassLabels, Counter>,
    events: Family<ResultLabel, Counter>,
    malformed: Family<KindLabel, Counter>,
    watch_progress: Family<KindLabel, Gauge<f64, AtomicU64>>,
    vault_requests: Family<RequestLabels, Counter>,
    vault_request_duration: Family<OperationLabel, Histogram, Seconds>,
    limiter_wait: Histogram,
    logins: Family<ResultLabel, Counter>,
    refusals: Family<ReasonLabels, Counter>,
    orphans: Family<KindLabel, Counter>,
    sts_endpoint_drifts: Counter,
}

impl Metrics {
    /// All metrics at nothing. `certificate_expiry`: whether each certificate has a series of its
    /// own.
    pub fn new(certificate_expiry: bool) -> Self {
        let state = Arc::new(State { certificate_expiry, ..State::default() });
        let mut inner = Inner {
            registry: Registry::with_prefix("vault_aws"),
            state: Arc::clone(&state),
            passes: Family::default(),
            pass_duration: Family::new_with_constructor(patient),
            running: Family::default(),
            status_writes: Family::default(),
            events: Family::default(),
            malformed: Family::default(),
            watch_progress: Family::default(),
            vault_requests: Family::default(),
            vault_request_duration: Family::new_with_constructor(quick),
            limiter_wait: patient(),
            logins: Family::default(),
            refusals: Family::default(),
            orphans: Family::default(),
            sts_endpoint_drifts: Counter::default(),
        };
        inner.list();
        Self { inner: Arc::new(inner) }
    }

    /// What tells whether this replica leads; once for the process.
    pub fn elects(&self, leadership: Leadership) {
        let _ = self.inner.state.leadership.set(leadership);
    }

    /// The OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.inner.registry)?;
        Ok(page)
    }

    /// A pass has ended. `result`: `done`, `waiting`, `stalled`, `failed`, …
    pub fn pass_ended(&self, kind: &str, result: &'static str, elapsed: Duration) {
        let kind = kind.to_owned();
        self.inner
            .pass_duration
            .get_or_create(&KindLabel { kind: kind.clone() })
            .observe(elapsed.as_secs_f64());
        self.inner.passes.get_or_create(&PassLabels { kind, result }).inc();
    }

    /// How many passes run now.
    pub fn passes_running(&self, kind: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.inner.running.get_or_create(&KindLabel { kind: kind.to_owned() }).set(count);
    }

    /// The status of a resource was written, or could not be.
    pub fn status_written(&self, kind: &str, result: &'static str) {
        self.inner.status_writes.get_or_create(&PassLabels { kind: kind.to_owned(), result }).inc();
    }

    /// An event was sent, or could not be.
    pub fn event_sent(&self, result: &'static str) {
        self.inner.events.get_or_create(&ResultLabel { result }).inc();
    }

    /// A resource's conditions, `Ready` first, as they stand now.
    pub fn reported(&self, kind: &str, uid: &str, conditions: &[Condition]) {
        let standing = Standing {
            reason: conditions.first().map_or_else(|| "Unknown".into(), |c| bounded(&c.reason)),
            conditions: conditions
                .iter()
                .map(|c| (bounded(&c.type_), bounded(&c.status)))
                .collect(),
            isolation: conditions
                .iter()
                .find(|c| c.type_ == "Isolated")
                .map(|c| bounded(&c.reason)),
        };
        lock(&self.inner.state.resources).put(kind, uid, standing);
    }

    /// A resource is gone.
    pub fn forgotten(&self, kind: &str, uid: &str) {
        if let Some(known) = lock(&self.inner.state.resources).by_kind.get_mut(kind) {
            known.remove(uid);
        }
    }

    /// An object does not fit its type and was left out of the store.
    pub fn malformed_object(&self, kind: &str) {
        self.inner.malformed.get_or_create(&KindLabel { kind: kind.to_owned() }).inc();
    }

    /// The API server was heard on a watch of this kind.
    pub fn watch_progressed(&self, kind: &str, at: Timestamp) {
        let kind = KindLabel { kind: kind.to_owned() };
        self.inner.watch_progress.get_or_create(&kind).set(seconds(at));
    }

    /// A request to Vault was answered, or not.
    pub fn vault_request(&self, operation: &'static str, result: &'static str, elapsed: Duration) {
        self.inner.vault_requests.get_or_create(&RequestLabels { operation, result }).inc();
        self.inner
            .vault_request_duration
            .get_or_create(&OperationLabel { operation })
            .observe(elapsed.as_secs_f64());
    }

    /// A request waited this long for its turn.
    pub fn limiter_waited(&self, waited: Duration) {
        self.inner.limiter_wait.observe(waited.as_secs_f64());
    }

    /// A login to Vault ended.
    pub fn login(&self, result: &'static str) {
        self.inner.logins.get_or_create(&ResultLabel { result }).inc();
    }

    /// A resource, or a single certificate ([`CERTIFICATE`]), came to be not as it is meant, for a
    /// reason that it had not before.
    pub fn refused(&self, kind: &str, reason: &'static str) {
        self.inner.refusals.get_or_create(&ReasonLabels { kind: kind.to_owned(), reason }).inc();
    }

    /// A finalizer was let go although something of ours may be left outside.
    pub fn orphaned(&self, kind: &str) {
        self.inner.orphans.get_or_create(&KindLabel { kind: kind.to_owned() }).inc();
    }

    /// The STS endpoint of a managed mount was found changed.
    pub fn sts_endpoint_drifted(&self) {
        self.inner.sts_endpoint_drifts.inc();
    }

    /// How the certificates of a sync stand; replaces what was said before.
    pub fn certificates(&self, namespace: &str, sync: &str, readings: Vec<CertificateReading>) {
        let held = readings
            .into_iter()
            .map(|reading| Held {
                // The name is only for the series that can be switched off.
                name: if self.inner.state.certificate_expiry {
                    reading.name.into()
                } else {
                    "".into()
                },
                state: reading.state,
                not_after: reading.not_after.map(Timestamp::as_second),
            })
            .collect();
        let key = (namespace.into(), sync.into());
        lock(&self.inner.state.syncs).entry(key).or_default().certificates = held;
    }

    /// The source of a sync was read. What the process has not read itself counts as read when it
    /// began, as it does for `Stale`.
    pub fn source_read(&self, namespace: &str, sync: &str, at: Timestamp) {
        let key = (namespace.into(), sync.into());
        lock(&self.inner.state.syncs).entry(key).or_default().read = Some(at.as_second());
    }

    /// A sync is gone.
    pub fn sync_gone(&self, namespace: &str, sync: &str) {
        lock(&self.inner.state.syncs).remove(&(namespace.into(), sync.into()));
    }
}

impl Inner {
    /// The list of every metric: its name, its meaning.
    fn list(&mut self) {
        let list = &mut self.registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        list.register("build", "The program that is running", build);
        list.register("passes", "Passes by kind and result", self.passes.clone());
        list.register_with_unit(
            "pass_duration",
            "How long passes took",
            Unit::Seconds,
            self.pass_duration.clone(),
        );
        list.register("passes_running", "Passes that are running", self.running.clone());
        list.register("status_writes", "Status writes by result", self.status_writes.clone());
        list.register("events", "Kubernetes events by result", self.events.clone());
        list.register(
            "malformed_objects",
            "Objects that do not fit their type and were left out",
            self.malformed.clone(),
        );
        list.register_with_unit(
            "watch_progress_timestamp",
            "When the API server was last heard on a watch of this kind",
            Unit::Seconds,
            self.watch_progress.clone(),
        );
        list.register(
            "vault_requests",
            "Requests to Vault by operation and result",
            self.vault_requests.clone(),
        );
        list.register_with_unit(
            "vault_request_duration",
            "How long requests to Vault took, without the wait for their turn",
            Unit::Seconds,
            self.vault_request_duration.clone(),
        );
        list.register_with_unit(
            "limiter_wait",
            "How long requests to Vault waited for their turn",
            Unit::Seconds,
            self.limiter_wait.clone(),
        );
        list.register("logins", "Logins to Vault by result", self.logins.clone());
        list.register(
            "refusals",
            "How often a resource, or a single certificate, came to be refused, by kind and reason",
            self.refusals.clone(),
        );
        list.register(
            "orphans",
            "Finalizers let go although something may be left in Vault",
            self.orphans.clone(),
        );
        list.register(
            "sts_endpoint_drifts",
            "STS endpoints of managed mounts found changed by somebody else",
            self.sts_endpoint_drifts.clone(),
        );
        // resources, conditions, certificates, certificate_expiry_timestamp_seconds,
        // oldest_source_read_timestamp_seconds
        list.register_collector(Box::new(Arc::clone(&self.state)));
    }
}

/// What is counted at the moment of a scrape, so that a reason nobody has any more has no series.
#[derive(Debug, Default)]
struct State {
    certificate_expiry: bool,
    leadership: OnceLock<Leadership>,
    resources: Mutex<Resources>,
    syncs: Mutex<BTreeMap<SyncName, Syncing>>,
}

/// Namespace and name.
type SyncName = (Box<str>, Box<str>);

/// How each resource stands. Thousands stand alike, and share one text of it.
#[derive(Debug, Default)]
struct Resources {
    /// Kind → UID → standing.
    by_kind: HashMap<String, HashMap<Box<str>, Arc<Standing>>>,
    standings: HashSet<Arc<Standing>>,
}

impl Resources {
    fn put(&mut self, kind: &str, uid: &str, standing: Standing) {
        if self.standings.len() > SERIES_LIMIT {
            self.standings.retain(|one| Arc::strong_count(one) > 1);
        }
        let shared = self.standings.get(&standing).cloned().unwrap_or_else(|| {
            let new = Arc::new(standing);
            self.standings.insert(Arc::clone(&new));
            new
        });
        let Some(known) = self.by_kind.get_mut(kind) else {
            let known = HashMap::from([(uid.into(), shared)]);
            self.by_kind.insert(kind.to_owned(), known);
            return;
        };
        match known.get_mut(uid) {
            Some(held) => *held = shared,
            None => drop(known.insert(uid.into(), shared)),
        }
    }
}

#[derive(Debug, Eq, Hash, PartialEq)]
struct Standing {
    reason: Box<str>,
    conditions: Box<[(Box<str>, Box<str>)]>,
    /// Reason of `Isolated`.
    isolation: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct Syncing {
    certificates: Box<[Held]>,
    read: Option<i64>,
}

#[derive(Debug)]
struct Held {
    name: Box<str>,
    state: &'static str,
    not_after: Option<i64>,
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(leadership) = self.leadership.get() {
            let help = "Whether this replica holds the lease, and so may write";
            let none: [(&str, &str); 0] = [];
            let leads = [(none, i64::from(leadership.holds()))].into_iter();
            gauge(&mut encoder, "leader", help, None, leads)?;
        }
        self.encode_resources(&mut encoder)?;
        let syncs = lock(&self.syncs);
        let mut states: BTreeMap<&str, i64> = BTreeMap::new();
        for held in syncs.values().flat_map(|sync| &sync.certificates) {
            *states.entry(held.state).or_default() += 1;
        }
        let states = states.into_iter().map(|(state, count)| ([("state", state)], count));
        gauge(&mut encoder, "certificates", "Certificates by state", None, states)?;
        if self.certificate_expiry {
            let expiries = syncs.iter().flat_map(|((namespace, sync), syncing)| {
                syncing.certificates.iter().filter_map(move |held| {
                    let labels =
                        [("namespace", &**namespace), ("sync", sync), ("certificate", &held.name)];
                    Some((labels, held.not_after?))
                })
            });
            let help = "When a delivered certificate expires";
            let unit = Some(&Unit::Seconds);
            gauge(&mut encoder, "certificate_expiry_timestamp", help, unit, expiries)?;
        }
        let oldest = syncs.values().filter_map(|sync| sync.read).min();
        let help = "When the source that was not read for the longest time was last read; \
                    at the earliest when the process began";
        let unit = Some(&Unit::Seconds);
        let none: [(&str, &str); 0] = [];
        let oldest = oldest.into_iter().map(|read| (none, read));
        gauge(&mut encoder, "oldest_source_read_timestamp", help, unit, oldest)
    }
}

impl State {
    fn encode_resources(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let resources = lock(&self.resources);
        let mut reasons: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        let mut conditions: BTreeMap<(&str, &str, &str), i64> = BTreeMap::new();
        let mut verdicts: BTreeMap<&str, i64> = BTreeMap::new();
        for (kind, known) in &resources.by_kind {
            for standing in known.values() {
                *reasons.entry((kind, &standing.reason)).or_default() += 1;
                if let Some(verdict) = &standing.isolation {
                    *verdicts.entry(verdict).or_default() += 1;
                }
                for (condition, status) in &standing.conditions {
                    *conditions.entry((kind, condition, status)).or_default() += 1;
                }
            }
        }
        let reasons = reasons
            .into_iter()
            .take(SERIES_LIMIT)
            .map(|((kind, reason), count)| ([("kind", kind), ("reason", reason)], count));
        gauge(encoder, "resources", "Resources by kind and reason of Ready", None, reasons)?;
        let verdicts = verdicts.into_iter().take(SERIES_LIMIT);
        let verdicts = verdicts.map(|(reason, count)| ([("reason", reason)], count));
        gauge(encoder, "isolation", "Roles by the verdict on their isolation", None, verdicts)?;
        let conditions = conditions.into_iter().take(SERIES_LIMIT).map(|(labels, count)| {
            let (kind, condition, status) = labels;
            ([("kind", kind), ("condition", condition), ("status", status)], count)
        });
        gauge(encoder, "conditions", "Resources by kind, condition and status", None, conditions)
    }
}

/// Reasons are words of the code, but they are read back from statuses, which others may write.
const SERIES_LIMIT: usize = 500;

fn bounded(word: &str) -> Box<str> {
    if word.len() <= 64 { word.into() } else { "Other".into() }
}

fn gauge<'l, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    samples: impl Iterator<Item = ([(&'l str, &'l str); N], i64)>,
) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut metric = encoder.encode_descriptor(name, help, unit, kind)?;
    for (labels, value) in samples {
        let value = ConstGauge::new(value);
        // An empty label set is written as `{}`, which is not OpenMetrics.
        if N == 0 {
            return value.encode(metric);
        }
        value.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit into 53 bits")]
fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn ready(reason: &str) -> Vec<Condition> {
        vec![Condition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            reason: reason.to_owned(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }]
    }

    fn lines(metrics: &Metrics, name: &str) -> Vec<String> {
        let page = metrics.encode().expect("a page");
        assert!(page.ends_with("# EOF\n"));
        page.lines().filter(|line| line.starts_with(name)).map(ToOwned::to_owned).collect()
    }

    fn reading(name: &str, state: &'static str) -> CertificateReading {
        let not_after = Timestamp::from_second(1_900_000_000).ok();
        CertificateReading { name: name.to_owned(), state, not_after }
    }

    #[test]
    fn resources_are_counted_by_their_latest_reason() {
        let metrics = Metrics::new(true);
        metrics.reported("VaultAwsRole", "1", &ready("Synced"));
        metrics.reported("VaultAwsRole", "2", &ready("Synced"));
        metrics.reported("VaultAwsRole", "2", &ready("Conflict"));
        metrics.reported("VaultAwsRole", "3", &ready("Synced"));
        metrics.forgotten("VaultAwsRole", "3");
        assert_eq!(
            lines(&metrics, "vault_aws_resources{"),
            [
                r#"vault_aws_resources{kind="VaultAwsRole",reason="Conflict"} 1"#,
                r#"vault_aws_resources{kind="VaultAwsRole",reason="Synced"} 1"#,
            ]
        );
        assert_eq!(
            lines(&metrics, "vault_aws_conditions{"),
            [r#"vault_aws_conditions{kind="VaultAwsRole",condition="Ready",status="True"} 2"#]
        );
    }

    #[test]
    fn roles_are_counted_by_the_verdict_on_their_isolation() {
        let metrics = Metrics::new(false);
        let judged = |reason: &str| {
            let mut conditions = ready("Ready");
            let isolated = Condition { type_: "Isolated".into(), ..ready(reason)[0].clone() };
            conditions.push(isolated);
            conditions
        };
        metrics.reported("VaultAwsRole", "a", &judged("Isolated"));
        metrics.reported("VaultAwsRole", "b", &judged("Isolated"));
        metrics.reported("VaultAwsRole", "b", &judged("SudoGranted"));
        metrics.reported("VaultAwsRole", "c", &ready("Ready"));
        assert_eq!(
            lines(&metrics, "vault_aws_isolation"),
            [
                r#"vault_aws_isolation{reason="Isolated"} 1"#,
                r#"vault_aws_isolation{reason="SudoGranted"} 1"#,
            ]
        );
    }

    #[test]
    fn a_certificate_has_a_series_of_its_own_only_if_asked_for() {
        for (asked, series) in [(true, 1), (false, 0)] {
            let metrics = Metrics::new(asked);
            metrics.certificates("team-a", "web", vec![reading("web", "Synced")]);
            let name = "vault_aws_certificate_expiry_timestamp_seconds{";
            assert_eq!(lines(&metrics, name).len(), series);
            assert_eq!(
                lines(&metrics, "vault_aws_certificates{"),
                [r#"vault_aws_certificates{state="Synced"} 1"#]
            );
        }
    }

    #[test]
    fn the_expiry_of_a_certificate_names_its_sync() {
        let metrics = Metrics::new(true);
        metrics.certificates("team-a", "web", vec![reading("a\"b", "Kept")]);
        assert_eq!(
            lines(&metrics, "vault_aws_certificate_expiry"),
            [concat!(
                "vault_aws_certificate_expiry_timestamp_seconds",
                r#"{namespace="team-a",sync="web",certificate="a\"b"} 1900000000"#
            )]
        );
        metrics.sync_gone("team-a", "web");
        assert!(lines(&metrics, "vault_aws_certificate_expiry").is_empty());
    }

    #[test]
    fn the_oldest_source_is_the_one_that_was_not_read_for_the_longest_time() {
        let metrics = Metrics::new(true);
        let name = "vault_aws_oldest_source_read_timestamp_seconds";
        assert!(lines(&metrics, name).is_empty());
        for (sync, at) in [("a", 200), ("b", 100), ("c", 300)] {
            metrics.source_read("team-a", sync, Timestamp::from_second(at).expect("a time"));
        }
        assert_eq!(lines(&metrics, name), [format!("{name} 100")]);
    }

    #[test]
    fn passes_requests_and_logins_are_counted() {
        let metrics = Metrics::new(true);
        metrics.pass_ended("VaultAwsRole", "done", Duration::from_millis(20));
        metrics.vault_request("role-read", "ok", Duration::from_millis(3));
        metrics.limiter_waited(Duration::from_millis(1));
        metrics.login("denied");
        metrics.refused(CERTIFICATE, "Expired");
        metrics.watch_progressed("VaultAwsRole", Timestamp::from_second(5).expect("a time"));
        for line in [
            r#"vault_aws_passes_total{kind="VaultAwsRole",result="done"} 1"#,
            r#"vault_aws_pass_duration_seconds_count{kind="VaultAwsRole"} 1"#,
            r#"vault_aws_vault_requests_total{operation="role-read",result="ok"} 1"#,
            r#"vault_aws_vault_request_duration_seconds_count{operation="role-read"} 1"#,
            "vault_aws_limiter_wait_seconds_count 1",
            r#"vault_aws_logins_total{result="denied"} 1"#,
            r#"vault_aws_refusals_total{kind="Certificate",reason="Expired"} 1"#,
            r#"vault_aws_watch_progress_timestamp_seconds{kind="VaultAwsRole"} 5.0"#,
        ] {
            assert_eq!(lines(&metrics, line), [line]);
        }
    }

    #[test]
    fn a_reason_that_somebody_else_wrote_does_not_become_a_long_label() {
        let metrics = Metrics::new(true);
        metrics.reported("VaultAwsRole", "1", &ready(&"x".repeat(500)));
        assert_eq!(
            lines(&metrics, "vault_aws_resources{"),
            [r#"vault_aws_resources{kind="VaultAwsRole",reason="Other"} 1"#]
        );
    }

    #[test]
    fn the_default_filter_is_understood() {
        assert!(EnvFilter::builder().parse(DEFAULT_LOG_FILTER).is_ok());
    }

    #[test]
    fn what_prints_bodies_stays_silent_below_its_module_too() {
        let never = Targets::new().with_default(LevelFilter::TRACE).with_targets(NEVER);
        assert!(!never.would_enable("kube_client::client", &tracing::Level::WARN));
        assert!(!never.would_enable("rustify::clients::reqwest", &tracing::Level::ERROR));
        assert!(never.would_enable("vault_aws_operator::role", &tracing::Level::TRACE));
    }

    #[test]
    fn a_pulse_ages_until_it_beats() {
        let pulse = Pulse::default();
        std::thread::sleep(Duration::from_millis(100));
        assert!(pulse.age() >= Duration::from_millis(100));
        pulse.beat();
        assert!(pulse.age() < Duration::from_millis(100));
    }
}
