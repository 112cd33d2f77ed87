//! What `/metrics` says after events that are known: each family of it, by name, with its meaning and
//! kind, the right number, and labels of which there are few.

use std::{collections::BTreeMap, path::Path, time::Duration};

use jiff::Timestamp;
use serde_json::json;
use vault_aws_lab::{Component, Operator};

use crate::{
    certificates::{Authority, DAY},
    world::{ACCOUNT, PATIENCE, World, now},
};

tests![in outage_tests:
    what_happened_is_in_the_metrics,
    a_restarted_syncer_tells_what_it_holds_and_of_single_certificates_only_if_it_may,
];

/// Every family that the syncer shows once it has worked: name without prefix, and kind. What counts
/// mishaps is there from the first one on.
const FAMILIES: [(&str, &str); 17] = [
    ("build", "info"),
    ("passes", "counter"),
    ("pass_duration_seconds", "histogram"),
    ("passes_running", "gauge"),
    ("status_writes", "counter"),
    ("events", "counter"),
    ("watch_progress_timestamp_seconds", "gauge"),
    ("vault_requests", "counter"),
    ("vault_request_duration_seconds", "histogram"),
    ("limiter_wait_seconds", "histogram"),
    ("logins", "counter"),
    ("refusals", "counter"),
    ("resources", "gauge"),
    ("conditions", "gauge"),
    ("certificates", "gauge"),
    ("certificate_expiry_timestamp_seconds", "gauge"),
    ("oldest_source_read_timestamp_seconds", "gauge"),
];
/// More values than any label may have whose values are words of the code.
const WORDS: usize = 80;

/// A page of metrics: its series by name and labels as they are written.
struct Page {
    text: String,
    series: BTreeMap<String, f64>,
}

impl Page {
    async fn of(operator: &Operator) -> Self {
        let text = operator.metrics().await.expect("/metrics");
        let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series and its value");
            (series.to_owned(), value.parse().expect("a number"))
        });
        Self { series: series.collect(), text }
    }

    /// At a moment when nothing is on its way to Vault: of a request that is, a part is counted.
    async fn at_rest(world: &World) -> Self {
        let moment = async || {
            let page = Self::of(&world.stage.syncer).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let later = Self::of(&world.stage.syncer).await;
            let is_same = |series: &str| page.get(series) == later.get(series);
            (is_same("limiter_wait_seconds_count") && page.requests() == later.requests())
                .then_some(later)
        };
        world.eventually("a moment without requests to Vault", PATIENCE, moment).await
    }

    /// All requests to Vault.
    fn requests(&self) -> f64 {
        let requests = self.series.iter().filter(|(one, _)| one.contains("vault_requests_total"));
        requests.map(|(_, count)| count).sum()
    }

    /// The value of a series, without the prefix of all; nothing if it is not there.
    fn get(&self, series: &str) -> f64 {
        self.series.get(&format!("vault_aws_{series}")).copied().unwrap_or_default()
    }

    /// How much more there is than on an earlier page.
    fn since(&self, before: &Self, series: &str) -> f64 {
        self.get(series) - before.get(series)
    }
}

/// A world with two good certificates and one that is refused; what the syncer told before it.
async fn stage(world: &World) -> (Page, Vec<(&'static str, i64)>) {
    let before = Page::at_rest(world).await;
    let authority = Authority::new("World CA");
    let mut ends = Vec::new();
    for (name, days) in [("long", 90), ("short", 40)] {
        let issued = authority.leaf("web.example.com").valid_until(days * DAY).issue();
        world.put_certificate("web", name, &issued).await;
        ends.push((name, now().as_second() + days * DAY));
    }
    let expired = authority.leaf("web.example.com").expired().issue();
    let entry = json!({"certificate": expired.certificate, "private_key": expired.key});
    world.put_entry(ACCOUNT, "web", "over", entry).await;
    world.backend().apply().await;
    world.role("web").apply().await;
    world.sync("web").apply().await;
    world.becomes("vaultcertsync/web", "Ready", "False", "Expired").await;
    (before, ends)
}

async fn what_happened_is_in_the_metrics(world: World) {
    let began = now();
    let (before, ends) = stage(&world).await;
    // Once more, so that what is counted once is told from what is counted each time.
    world.refresh("web").await;
    world
        .eventually("another pass", PATIENCE, async || {
            let page = Page::of(&world.stage.syncer).await;
            // To its last request: what was refused is read again.
            let done = |operation: &str| {
                let one = format!(r#"vault_requests_total{{operation="{operation}",result="ok"}}"#);
                page.since(&before, &one)
            };
            let all =
                done("kv_list") >= 2.0 && done("kv_metadata") >= 3.0 && done("kv_data") >= 4.0;
            all.then_some(())
        })
        .await;
    let page = Page::at_rest(&world).await;
    let operations: Vec<&String> =
        page.series.keys().filter(|one| one.contains("vault_requests_total")).collect();

    for (family, kind) in FAMILIES {
        let name = format!("vault_aws_{family}");
        assert!(page.text.contains(&format!("# TYPE {name} {kind}\n")), "{name} {kind}");
        assert!(page.text.contains(&format!("# HELP {name} ")), "{name}");
    }
    for series in page.series.keys() {
        // Of counters and histograms, the family's name is the part before the last word.
        let name = series.split('{').next().unwrap_or_default();
        let family = ["_total", "_count", "_sum", "_bucket", "_info"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        for line in ["TYPE", "HELP"] {
            assert!(page.text.contains(&format!("# {line} {family} ")), "{series}");
        }
        assert!(family.starts_with("vault_aws_"), "{series}");
    }
    assert!(page.text.ends_with("# EOF\n"));

    // Single certificates, by name.
    let series = |name: &str| {
        let labels = format!(r#"namespace="{}",sync="web",certificate="{name}""#, world.id);
        format!("certificate_expiry_timestamp_seconds{{{labels}}}")
    };
    for (name, end) in ends {
        let told = page.get(&series(name));
        assert!((told - seconds(end)).abs() < 60.0, "{name}: {told}");
    }
    assert!(!page.series.contains_key(&format!("vault_aws_{}", series("over"))));
    // By state, reason and condition.
    let more = |series: &str| page.since(&before, series);
    assert_eq!(more(r#"certificates{state="Synced"}"#), 2.0);
    assert_eq!(more(r#"certificates{state="Refused"}"#), 1.0);
    let expired = r#"resources{kind="VaultCertSync",reason="Expired"}"#;
    assert_eq!(more(expired), 1.0);
    let ready = r#"conditions{kind="VaultCertSync",condition="Ready",status="False"}"#;
    assert_eq!(more(ready), 1.0);
    // It was refused once, however often it was looked at, and so was its sync.
    assert_eq!(more(r#"refusals_total{kind="Certificate",reason="Expired"}"#), 1.0);
    assert_eq!(more(r#"refusals_total{kind="VaultCertSync",reason="Expired"}"#), 1.0);
    // Vault: one login for two looks at three entries: the first reads data, the second metadata.
    assert_eq!(more(r#"logins_total{result="ok"}"#), 1.0, "{operations:?}");
    let requests = |operation: &str| {
        more(&format!(r#"vault_requests_total{{operation="{operation}",result="ok"}}"#))
    };
    assert!(requests("kv_metadata") >= 3.0, "{operations:?}");
    assert!(requests("kv_data") >= 4.0, "{operations:?}");
    let timed = |operation: &str| {
        more(&format!(r#"vault_request_duration_seconds_count{{operation="{operation}"}}"#))
    };
    assert_eq!(timed("kv_list"), requests("kv_list"));
    assert_eq!(more("limiter_wait_seconds_count"), page.requests() - before.requests());
    let passes = |page: &Page| {
        let ended = r#"vault_aws_passes_total{kind="VaultCertSync""#;
        let passes = page.series.iter().filter(|(one, _)| one.starts_with(ended));
        passes.map(|(_, count)| count).sum::<f64>()
    };
    let took = r#"pass_duration_seconds_count{kind="VaultCertSync"}"#;
    assert!(more(took) >= 2.0);
    assert_eq!(page.get(took), passes(&page));
    // Of all sources, also those of others that rest since before.
    let read = page.get("oldest_source_read_timestamp_seconds");
    assert!(read > 0.0 && read <= seconds(now().as_second() + 1), "{read}, began {began}");

    // No label of a bounded family has values without end.
    let mut values: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for series in page.series.keys().filter(|one| !one.contains("certificate_expiry")) {
        let Some((family, labels)) = series.split_once('{') else { continue };
        for label in labels.trim_end_matches('}').split("\",") {
            let (label, value) = label.split_once("=\"").expect("a label and its value");
            assert!(value.len() <= 65 && !value.contains(&world.id), "{series}");
            let known = values.entry((family.to_owned(), label.to_owned())).or_default();
            known.push(value.to_owned());
            known.dedup();
        }
    }
    assert!(values.values().all(|values| values.len() <= WORDS), "{values:?}");

    // What is gone has no series any more.
    world.delete("vaultcertsync/web").await;
    world
        .eventually("its series to go", PATIENCE, async || {
            let page = Page::of(&world.stage.syncer).await;
            let gone = !page.text.contains(&format!(r#"namespace="{}""#, world.id))
                && page.since(&before, expired) <= 0.0;
            gone.then_some(())
        })
        .await;
}

async fn a_restarted_syncer_tells_what_it_holds_and_of_single_certificates_only_if_it_may(
    world: World,
) {
    let authority = Authority::new("World CA");
    let issued = authority.issue("web.example.com");
    world.put_certificate("web", "tls", &issued).await;
    world.with_web().await;
    let (lab, binary) = (&world.stage.lab, Path::new(env!("CARGO_BIN_EXE_vault-aws")));
    world.stage.syncer.stop().await.expect("the syncer stops");
    let silent = [("VAULT_AWS_NO_CERTIFICATE_EXPIRY_METRICS", "true")];
    for (env, series) in [(&silent[..], false), (&[][..], true)] {
        let started = now();
        let syncer = Operator::start_with(lab, Component::Syncer, binary, env).await;
        let syncer = syncer.expect("another syncer starts");
        syncer.ready(PATIENCE).await.expect("it is ready");
        let page = if series {
            // Nothing is due, and yet all is told: from the status.
            let its_own = format!(
                r#"certificate_expiry_timestamp_seconds{{namespace="{}",sync="web""#,
                world.id
            );
            world
                .eventually("its certificate to be told of", PATIENCE, async || {
                    let page = Page::of(&syncer).await;
                    page.text.contains(&its_own).then_some(page)
                })
                .await
        } else {
            // That it was looked at can be seen of its status alone.
            world.look("web").await;
            Page::of(&syncer).await
        };
        assert!(page.get(r#"certificates{state="Synced"}"#) >= 1.0);
        let told = page.text.contains("certificate_expiry");
        assert_eq!(told, series, "neither of this one nor of any other, nor its meaning");
        // What was not read by this process counts as read when it began.
        let read = page.get("oldest_source_read_timestamp_seconds");
        assert!(read >= seconds(started.as_second() - 1), "{read}, started {started}");
        assert!(syncer.stop().await.expect("it stops"), "by itself");
    }
}

/// A time as metrics tell it.
fn seconds(time: i64) -> f64 {
    Timestamp::from_second(time).expect("a time").as_duration().as_secs_f64()
}
