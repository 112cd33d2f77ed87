//! Each fault of an entry, and each state of a Secret, with what is to be done about it.

use super::*;
use crate::{
    cert::{
        desired::{Identity, Selection},
        entry::{self, Overrides},
        pair::{
            self, Clock, Rules,
            fixtures::{Authority, Leaf, now},
        },
    },
    crd::Partition,
    naming::IamRole,
};

const WRITTEN: &str = "2030-01-01T00:00:00Z";

fn desired() -> Desired {
    Desired {
        iam_role: IamRole::parse(Partition::Aws, "111122223333", "web", "/").unwrap(),
        vault_role: "web".into(),
        auth_mount: "aws".into(),
        server_id: "vault".into(),
        region: "us-east-1".into(),
        identity: Identity::Secret { name: "keys".into() },
        kv_mount: "secret".into(),
        directory: "certs/111122223333/web".into(),
        selection: Selection { exact: Vec::new(), globs: vec!["*".into()], exclude: Vec::new() },
        secret_name: "{name}-{certificate}".into(),
        name: "web".into(),
    }
}

fn leaf() -> Leaf {
    Authority::root("root").issue("web.example.com")
}

fn read_at(leaf: &Leaf, version: u64, now: Timestamp) -> Source {
    let fields = serde_json::json!({"certificate": leaf.certificate, "private_key": leaf.key});
    let rules = Rules { clock: Clock::Trusted(now), allow_ca_leaf: false };
    let pair = entry::read(fields.as_object().unwrap(), &Overrides::default())
        .and_then(|texts| pair::parse(&texts, &rules));
    Source::Read { version, created_time: WRITTEN.into(), pair: Box::new(pair) }
}

fn read(leaf: &Leaf, version: u64) -> Source {
    read_at(leaf, version, now())
}

fn intact() -> Held {
    Held::Intact { uid: "uid".into(), resource_version: "7".into() }
}

fn observed(source: Source, held: Held) -> Observed {
    let entry = Entry { name: "tls".into(), secret: Ok("web-tls".into()), source, held };
    Observed { entries: vec![entry], clock_skewed: false }
}

/// The status after `leaf` was delivered in version 1.
fn delivered(leaf: &Leaf) -> VaultCertSyncStatus {
    let mut first = plan(
        &desired(),
        observed(read(leaf, 1), Held::Absent),
        &VaultCertSyncStatus::default(),
        now(),
    );
    let mut status = first.steps.remove(0).status;
    status.secret_resource_version = Some("7".into());
    VaultCertSyncStatus { certificates: vec![status], ..VaultCertSyncStatus::default() }
}

fn next(source: Source, held: Held, previous: &VaultCertSyncStatus) -> Plan {
    plan(&desired(), observed(source, held), previous, now())
}

#[test]
fn a_first_certificate_creates_its_secret() {
    let plan = next(read(&leaf(), 1), Held::Absent, &VaultCertSyncStatus::default());
    assert_eq!(plan.to_string(), "create secret web-tls (tls version 1)\n");
    let Action::Create(payload) = &plan.steps[0].action else { panic!("{plan}") };
    assert_eq!(payload.kind, "kubernetes.io/tls");
    assert_eq!(payload.data.keys().collect::<Vec<_>>(), ["tls.crt", "tls.key"]);
    assert_eq!(payload.labels["vaultaws.dev/sync"], "web");
}

#[test]
fn a_rotated_certificate_updates_the_version_that_was_written() {
    let previous = delivered(&leaf());
    let plan = next(read(&leaf(), 2), intact(), &previous);
    assert_eq!(plan.to_string(), "update secret web-tls (tls version 2)\n");
    let Action::Update { uid, resource_version, surplus, .. } = &plan.steps[0].action else {
        panic!("{plan}")
    };
    assert_eq!((uid.as_str(), resource_version.as_str()), ("uid", "7"));
    // A CA certificate of the version before must not stay.
    assert_eq!(surplus, &["ca.crt"]);
}

#[test]
fn an_unchanged_entry_writes_nothing_and_says_the_same() {
    let previous = delivered(&leaf());
    let before = &previous.certificates[0];
    assert!(is_current(Some(before), 1, WRITTEN, &intact()));
    let plan = next(Source::Unchanged, intact(), &previous);
    assert!(plan.is_empty());
    assert_eq!(&plan.steps[0].status, before);
}

#[test]
fn a_version_is_its_number_and_its_time() {
    let previous = delivered(&leaf());
    let before = previous.certificates.first();
    assert!(!is_current(before, 2, WRITTEN, &intact()));
    // Deleted and re-created: version 1 again.
    assert!(!is_current(before, 1, "2031-01-01T00:00:00Z", &intact()));
    assert!(!is_current(before, 1, WRITTEN, &Held::Absent));
}

#[test]
fn whatever_is_wrong_in_vault_the_secret_keeps_its_bytes_and_says_why() {
    let previous = delivered(&leaf());
    let faults = [
        (Source::Absent, SyncReason::SourceAbsent),
        (Source::Deleted { time: WRITTEN.into() }, SyncReason::SourceDeleted),
        (Source::Destroyed, SyncReason::SourceDestroyed),
        (Source::Forbidden, SyncReason::SourceForbidden),
        (
            Source::Read {
                version: 2,
                created_time: WRITTEN.into(),
                pair: Box::new(Err(Refusal::EncryptedKey { field: pair::Field::new("key") })),
            },
            SyncReason::EncryptedKey,
        ),
    ];
    for (source, reason) in faults {
        let plan = next(source, intact(), &previous);
        assert!(plan.is_empty(), "{plan}");
        let status = &plan.steps[0].status;
        assert_eq!(status.state, CertificateState::Kept);
        assert_eq!(status.reason.as_deref(), Some(reason.as_str()));
        // The facts are those of the held pair.
        assert_eq!(status.serial, previous.certificates[0].serial);
        assert_eq!(status.version, Some(1));
    }
}

#[test]
fn an_expired_certificate_never_replaces_one_that_is_held() {
    let previous = delivered(&leaf());
    let late: Timestamp = "2035-01-01T00:00:00Z".parse().unwrap();
    let plan = next(read_at(&leaf(), 2, late), intact(), &previous);
    assert!(plan.is_empty());
    assert_eq!(plan.steps[0].status.reason.as_deref(), Some("Expired"));
}

#[test]
fn a_bad_entry_without_a_secret_is_refused() {
    let plan = next(Source::Destroyed, Held::Absent, &VaultCertSyncStatus::default());
    assert_eq!(plan.steps[0].status.state, CertificateState::Refused);
    assert_eq!(plan.steps[0].status.serial, None);
}

#[test]
fn since_when_an_entry_is_kept_does_not_move() {
    let previous = delivered(&leaf());
    let first = next(Source::Destroyed, intact(), &previous);
    let kept = VaultCertSyncStatus {
        certificates: vec![first.steps[0].status.clone()],
        ..VaultCertSyncStatus::default()
    };
    let later = plan(
        &desired(),
        observed(Source::Destroyed, intact()),
        &kept,
        "2030-02-01T00:00:00Z".parse().unwrap(),
    );
    assert_eq!(later.steps[0].status, kept.certificates[0]);
}

#[test]
fn an_undeleted_version_is_good_again_without_a_write() {
    let leaf = leaf();
    let first = next(Source::Deleted { time: WRITTEN.into() }, intact(), &delivered(&leaf));
    let kept = VaultCertSyncStatus {
        certificates: vec![first.steps[0].status.clone()],
        ..VaultCertSyncStatus::default()
    };
    let plan = next(read(&leaf, 1), intact(), &kept);
    assert!(plan.is_empty(), "{plan}");
    assert_eq!(plan.steps[0].status, delivered(&leaf).certificates[0]);
}

#[test]
fn a_secret_of_somebody_else_is_left_alone() {
    let plan = next(read(&leaf(), 1), Held::Foreign, &VaultCertSyncStatus::default());
    assert!(plan.is_empty());
    assert_eq!(plan.steps[0].status.reason.as_deref(), Some("SecretNotOurs"));
}

fn touched(payload: Payload, immutable: bool) -> Held {
    Held::Touched { uid: "uid".into(), resource_version: "9".into(), payload, immutable }
}

fn payload(leaf: &Leaf) -> Payload {
    match read(leaf, 1) {
        Source::Read { pair, .. } => Payload::of(&pair.unwrap(), "web"),
        _ => unreachable!("it was read"),
    }
}

#[test]
fn a_touched_secret_is_put_back_and_foreign_keys_go() {
    let leaf = leaf();
    let mut changed = payload(&leaf);
    changed.data.insert("extra".into(), crate::redacted::Redacted::new(b"x".to_vec()));
    let plan = next(read(&leaf, 1), touched(changed, false), &delivered(&leaf));
    assert_eq!(plan.to_string(), "update secret web-tls (tls version 1)\n");
    let Action::Update { resource_version, surplus, .. } = &plan.steps[0].action else {
        panic!("{plan}")
    };
    assert_eq!(resource_version, "9");
    assert!(surplus.contains(&"extra".to_owned()));
}

#[test]
fn a_secret_that_was_only_labelled_by_others_is_not_written() {
    let leaf = leaf();
    let plan = next(read(&leaf, 1), touched(payload(&leaf), false), &delivered(&leaf));
    assert!(plan.is_empty());
    assert_eq!(plan.steps[0].status.secret_resource_version.as_deref(), Some("9"));
}

#[test]
fn an_immutable_secret_is_said_to_be_one() {
    let old = leaf();
    let plan = next(read(&leaf(), 2), touched(payload(&old), true), &delivered(&old));
    assert!(plan.is_empty());
    assert_eq!(plan.steps[0].status.reason.as_deref(), Some("SecretImmutable"));
    assert_eq!(plan.steps[0].status.state, CertificateState::Kept);
}

#[test]
fn two_entries_that_want_one_secret_are_both_refused() {
    let names = secret_names(&desired(), ["a b".into(), "a_b".into(), "c".into()]);
    assert_eq!(names["a b"], Err(SyncReason::NameCollision));
    assert_eq!(names["a_b"], Err(SyncReason::NameCollision));
    assert_eq!(names["c"], Ok("web-c".into()));
}

#[test]
fn a_gone_entry_without_a_secret_is_forgotten_unless_it_is_asked_for_by_name() {
    let plan = next(Source::Absent, Held::Absent, &VaultCertSyncStatus::default());
    assert!(plan.steps.is_empty());
    let mut by_name = desired();
    by_name.selection.exact.push("tls".into());
    let observed = observed(Source::Absent, Held::Absent);
    let plan = super::plan(&by_name, observed, &VaultCertSyncStatus::default(), now());
    assert_eq!(plan.steps[0].status.reason.as_deref(), Some("SourceAbsent"));
}

#[test]
fn a_skewed_clock_judges_no_new_certificate() {
    let old = leaf();
    let skewed = Observed { clock_skewed: true, ..observed(read(&leaf(), 2), intact()) };
    let plan = plan(&desired(), skewed, &delivered(&old), now());
    assert!(plan.is_empty());
    assert_eq!(plan.steps[0].status.reason.as_deref(), Some("ClockSkew"));
}

#[test]
fn messages_are_cut_between_characters() {
    assert_eq!(cut(&"é".repeat(200)).len(), 256);
    assert_eq!(cut("short"), "short");
}
