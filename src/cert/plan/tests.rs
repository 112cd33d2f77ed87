//! Each fault of an entry, and each state of a Secret, with what is to be done about it.

use super::*;
use crate::{
    cert::{
        desired::{Identity, Override, Pkcs12, Selection, Target, Validation},
        entry::{self, Overrides},
        keystore,
        pair::{
            self, Clock, Rules,
            fixtures::{Authority, Leaf, now},
        },
        payload::{METADATA_ANNOTATION, Managed, OWNER_ANNOTATION},
    },
    crd::Partition,
    naming::IamRole,
};

const WRITTEN: &str = "2030-01-01T00:00:00Z";

fn desired() -> Desired {
    Desired {
        iam_role: IamRole::parse(Partition::Aws, "111122223333", "web", "/").unwrap(),
        vault_role: "web".into(),
        vault_role_id: None,
        auth_mount: "aws".into(),
        server_id: "vault".into(),
        region: "us-east-1".into(),
        sts_endpoint: None,
        identity: Identity::Secret { name: "keys".into() },
        kv_mount: "secret".into(),
        directory: "certs/111122223333/web".into(),
        selection: Selection {
            exact: Vec::new(),
            globs: vec!["*".into()],
            exclude: Vec::new(),
            recursive: false,
            limit: 100,
            acknowledge: Vec::new(),
        },
        overrides: BTreeMap::new(),
        validation: Validation::default(),
        target: Target { secret_name: "{name}-{certificate}".into(), ..Target::default() },
        name: "web".into(),
        uid: "sync-uid".into(),
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
    let mount = Some("kv_1".into());
    Observed { entries: vec![entry], is_listed: true, mount, ..Observed::default() }
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
    assert_eq!(surplus.data, ["ca.crt"]);
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

fn standing(payload: Payload) -> Standing {
    Standing { uid: "uid".into(), resource_version: "9".into(), payload, ..Standing::default() }
}

fn touched(payload: Payload, immutable: bool) -> Held {
    Held::Touched(Box::new(Standing { immutable, ..standing(payload) }))
}

fn pair_of(leaf: &Leaf) -> Pair {
    match read(leaf, 1) {
        Source::Read { pair, .. } => pair.unwrap(),
        _ => unreachable!("it was read"),
    }
}

fn payload(leaf: &Leaf) -> Payload {
    Payload::of("tls", &pair_of(leaf), &desired(), None)
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
    assert_eq!(surplus.data, ["extra"]);
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

fn step_of(desired: &Desired, source: Source, held: Held, previous: &VaultCertSyncStatus) -> Step {
    let mut plan = super::plan(desired, observed(source, held), previous, now());
    plan.steps.remove(0)
}

#[test]
fn a_version_deleted_on_purpose_is_kept_as_acknowledged() {
    let mut desired = desired();
    desired.selection.acknowledge.push("tls".into());
    let source = Source::Deleted { time: WRITTEN.into() };
    let step = step_of(&desired, source, intact(), &delivered(&leaf()));
    assert_eq!(step.status.state, CertificateState::Kept);
    assert_eq!(step.status.reason.as_deref(), Some("Acknowledged"));
}

#[test]
fn what_was_delivered_in_another_shape_is_compared_and_said_to_be_in_this_one() {
    let leaf = leaf();
    let mut desired = desired();
    let pin = Override { version: Some(1), ..Override::default() };
    desired.overrides.insert("tls".into(), pin);
    let held = touched(payload(&leaf), false);
    let previous = delivered(&leaf);
    let step = step_of(&desired, read(&leaf, 1), held, &previous);
    assert!(matches!(step.action, Action::Leave));
    assert_ne!(step.status.shape, previous.certificates[0].shape);
    assert_eq!(step.status.shape, Some(desired.shape("tls")));
}

#[test]
fn a_certificate_that_does_not_last_is_refused_unless_the_held_one_is_over() {
    let mut desired = desired();
    // Leaves are valid for another year.
    desired.validation.minimum_remaining = std::time::Duration::from_secs(3 * 365 * 24 * 3600);
    let old = leaf();
    let mut previous = delivered(&old);
    let step = step_of(&desired, read(&leaf(), 2), intact(), &previous);
    assert_eq!(step.status.reason.as_deref(), Some("ExpiresTooSoon"));
    assert_eq!(step.status.state, CertificateState::Kept);
    // The one that is delivered is put back all the same.
    let step = step_of(&desired, read(&old, 1), Held::Absent, &previous);
    assert!(matches!(step.action, Action::Create(_)));
    previous.certificates[0].not_after = Some("2029-12-01T00:00:00Z".into());
    let step = step_of(&desired, read(&leaf(), 2), intact(), &previous);
    assert!(matches!(step.action, Action::Update { .. }));
}

#[test]
fn names_and_chain_are_demanded_with_reasons_of_their_own() {
    let reason = |change: &dyn Fn(&mut Validation), pair: Pair| {
        let mut validation = Validation::default();
        change(&mut validation);
        validation::judge(&pair, &validation, Some(now())).err().map(|(reason, _)| reason)
    };
    let pair = pair_of(&leaf());
    let names = |name: &'static str| {
        move |validation: &mut Validation| validation.dns_names.push(name.into())
    };
    assert_eq!(reason(&names("web.example.com"), pair.clone()), None);
    assert_eq!(reason(&names("other.example.com"), pair.clone()), Some(SyncReason::DnsNameMissing));
    let chain = |validation: &mut Validation| validation.require_chain = true;
    assert_eq!(reason(&chain, pair.clone()), Some(SyncReason::ChainIncomplete));
    let whole = Pair { has_issuer: true, ..pair.clone() };
    assert_eq!(reason(&chain, whole.clone()), None);
    let mixed = Pair { unrelated: 1, ..whole };
    assert_eq!(reason(&chain, mixed), Some(SyncReason::ChainIncomplete));
}

#[test]
fn an_opaque_secret_has_the_keys_that_are_asked_for() {
    let mut desired = desired();
    desired.target.kind = crate::crd::SecretType::Opaque;
    desired.target.keys.certificate = "server.pem".into();
    desired.target.keys.combined = Some("all.pem".into());
    let pair = pair_of(&leaf());
    let payload = Payload::of("tls", &pair, &desired, None);
    assert_eq!(payload.kind, "Opaque");
    assert_eq!(payload.data.keys().collect::<Vec<_>>(), ["all.pem", "server.pem", "tls.key"]);
    let all = format!("{}{}", pair.certificate_pem, pair.key_pem.expose());
    assert_eq!(*payload.data["all.pem"].expose(), all.into_bytes());
}

#[test]
fn a_label_that_is_asked_for_no_longer_goes_and_others_stay() {
    let leaf = leaf();
    let mut with = desired();
    with.target.labels.insert("team".into(), "a".into());
    with.target.annotations.insert("example.com/note".into(), "b".into());
    let before = Payload::of("tls", &pair_of(&leaf), &with, None);
    let managed = Managed::read(&before.annotations[METADATA_ANNOTATION]);
    assert_eq!(managed, Managed::of(&with));
    let held = touched(before, false);
    let step = step_of(&desired(), read(&leaf, 1), held, &delivered(&leaf));
    let Action::Update { surplus, other_owners, .. } = step.action else { panic!("no update") };
    assert_eq!(surplus.labels, ["team"]);
    assert_eq!(surplus.annotations, ["example.com/note", METADATA_ANNOTATION]);
    assert_eq!(other_owners, None);
}

#[test]
fn a_retained_secret_has_no_owner_but_our_mark() {
    let leaf = leaf();
    let mut retain = desired();
    retain.target.retain = true;
    let held = touched(payload(&leaf), false);
    let step = step_of(&retain, read(&leaf, 1), held, &delivered(&leaf));
    let Action::Update { payload, other_owners, .. } = step.action else { panic!("no update") };
    assert!(!payload.owned);
    assert_eq!(payload.annotations[OWNER_ANNOTATION], "sync-uid");
    assert_eq!(other_owners, Some(Vec::new()));
}

#[test]
fn a_secret_that_consents_is_taken_over_once_there_is_something_good() {
    let leaf = leaf();
    let stands = Payload { kind: "kubernetes.io/tls".into(), ..Payload::default() };
    let adoptable = || Held::Adoptable(Box::new(standing(stands.clone())));
    let none = VaultCertSyncStatus::default();
    let step = step_of(&desired(), read(&leaf, 1), adoptable(), &none);
    let Action::Update { other_owners, .. } = step.action else { panic!("no update") };
    assert_eq!(other_owners, Some(Vec::new()));
    let step = step_of(&desired(), Source::Destroyed, adoptable(), &none);
    assert!(matches!(step.action, Action::Leave));
    assert_eq!(step.status.state, CertificateState::Refused);
    let stands = Payload { kind: "Opaque".into(), ..stands.clone() };
    let held = Held::Adoptable(Box::new(standing(stands)));
    let step = step_of(&desired(), read(&leaf, 1), held, &none);
    assert_eq!(step.status.reason.as_deref(), Some("SecretTypeDiffers"));
}

#[test]
fn more_than_a_mebibyte_is_refused() {
    let mut pair = pair_of(&leaf());
    pair.certificate_pem = "x".repeat(600 * 1024);
    let large = |pair: Pair| Source::Read {
        version: 1,
        created_time: WRITTEN.into(),
        pair: Box::new(Ok(pair)),
    };
    let none = VaultCertSyncStatus::default();
    let step = step_of(&desired(), large(pair.clone()), Held::Absent, &none);
    assert!(matches!(step.action, Action::Create(_)));
    let mut twice = desired();
    twice.target.keys.combined = Some("all.pem".into());
    let step = step_of(&twice, large(pair), Held::Absent, &none);
    assert_eq!(step.status.reason.as_deref(), Some("TooLarge"));
}

#[test]
fn the_secret_of_a_removed_entry_goes_at_the_second_look_and_only_if_the_directory_was_listed() {
    let mut delete = desired();
    delete.target.delete_removed = true;
    let look = |previous: &VaultCertSyncStatus, is_listed: bool, seconds: i64| {
        let observed = Observed { is_listed, ..observed(Source::Absent, intact()) };
        let now = now() + SignedDuration::from_secs(seconds);
        let mut plan = super::plan(&delete, observed, previous, now);
        plan.steps.remove(0)
    };
    let then = |step: &Step| VaultCertSyncStatus {
        certificates: vec![step.status.clone()],
        ..VaultCertSyncStatus::default()
    };
    let first = look(&delivered(&leaf()), true, 0);
    assert!(matches!(first.action, Action::Leave));
    assert_eq!(first.status.reason.as_deref(), Some("SourceRemoved"));
    let at_once = look(&then(&first), true, 1);
    assert!(matches!(at_once.action, Action::Leave));
    let second = look(&then(&at_once), true, 10);
    assert!(matches!(second.action, Action::Delete { .. }));
    assert_eq!(second.status.state, CertificateState::Removed);
    // An empty directory says nothing, and begins anew.
    let empty = look(&then(&first), false, 10);
    assert_eq!(empty.status.reason.as_deref(), Some("SourceAbsent"));
    assert!(matches!(look(&then(&empty), true, 20).action, Action::Leave));
    // Without being asked for it is kept for good.
    let kept = step_of(&desired(), Source::Absent, intact(), &then(&first));
    assert_eq!(kept.status.reason.as_deref(), Some("SourceAbsent"));
}

#[test]
fn an_entry_that_is_not_in_another_mount_was_not_removed() {
    let mut delete = desired();
    delete.target.delete_removed = true;
    let elsewhere =
        VaultCertSyncStatus { source_accessor: Some("kv_0".into()), ..delivered(&leaf()) };
    let look = |source: Source, previous: &VaultCertSyncStatus| {
        super::plan(&delete, observed(source, intact()), previous, now())
    };
    let absent = look(Source::Absent, &elsewhere);
    assert_eq!(absent.steps[0].status.reason.as_deref(), Some("SourceAbsent"));
    assert_eq!(absent.mount.as_deref(), Some("kv_0"), "it was not found yet");
    let found = look(read(&leaf(), 1), &elsewhere);
    assert_eq!(found.mount.as_deref(), Some("kv_1"));
    // Nobody knows where it was found before.
    let unknown = look(Source::Absent, &delivered(&leaf()));
    assert_eq!(unknown.steps[0].status.reason.as_deref(), Some("SourceRemoved"));
    // Nobody may say which mount it is.
    let observed = Observed { mount: None, ..observed(Source::Absent, intact()) };
    let untold = super::plan(&delete, observed, &delivered(&leaf()), now());
    assert_eq!(untold.steps[0].status.reason.as_deref(), Some("SourceAbsent"));
}

#[test]
fn a_keystore_of_the_same_content_stays_as_it_is() {
    let leaf = leaf();
    let mut with = desired();
    with.target.pkcs12 = Some(Pkcs12 {
        secret: "password".into(),
        key: "password".into(),
        profile: crate::crd::KeystoreProfile::Modern2023,
        seen: None,
    });
    let password = |text: &str| Some(Redacted::new(text.to_owned()));
    let look = |stands: Payload, text: &str| {
        let observed = observed(read(&leaf, 2), touched(stands, false));
        let observed = Observed { password: password(text), ..observed };
        super::plan(&with, observed, &delivered(&leaf), now()).steps.remove(0).action
    };
    let mut stands = Payload::of("tls", &pair_of(&leaf), &with, password("one").as_ref());
    assert!(stands.finish().is_ok() && stands.data.contains_key(keystore::KEY));
    assert!(matches!(look(stands.clone(), "one"), Action::Leave));
    assert!(matches!(look(stands.clone(), "other"), Action::Update { .. }));
    let mut edited = stands.clone();
    edited.data.insert(keystore::KEY.into(), Redacted::new(b"edited".to_vec()));
    assert!(matches!(look(edited, "one"), Action::Update { .. }));
    // Asked for no longer.
    let held = touched(stands, false);
    let step = step_of(&desired(), read(&leaf, 2), held, &delivered(&leaf));
    let Action::Update { surplus, .. } = step.action else { panic!("no update") };
    assert_eq!(surplus.data, [keystore::KEY]);
    assert_eq!(surplus.annotations, [keystore::ANNOTATION]);
}

/// A Secret is what its pair is, whatever stood there and whatever was asked for.
mod any {
    use proptest::prelude::*;

    use super::*;

    fn fields() -> impl Strategy<Value = serde_json::Map<String, serde_json::Value>> {
        let leaf = std::sync::Arc::new((leaf(), leaf()));
        let text = (0..6_u8, any::<Vec<u8>>(), any::<prop::sample::Index>()).prop_map(
            move |(kind, bytes, at)| match kind {
                0 => leaf.0.certificate.clone(),
                1 => leaf.0.key.clone(),
                2 => leaf.1.certificate.clone(),
                3 => leaf.1.key.clone(),
                4 => {
                    let mut text = leaf.0.certificate.clone();
                    text.truncate(at.index(text.len()));
                    text
                }
                _ => String::from_utf8_lossy(&bytes).into_owned(),
            },
        );
        let names = ["certificate", "private_key", "chain", "ca.crt", "tls.crt", "x"];
        let name = prop::sample::select(names.to_vec());
        prop::collection::vec((name, text), 0..6).prop_map(|pairs| {
            pairs.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect()
        })
    }

    fn key_of(certificate: &str) -> Vec<u8> {
        use x509_parser::prelude::*;
        let der = pair::fixtures::der(certificate);
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        leaf.public_key().subject_public_key.data.to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(256)
        })]

        #[test]
        fn a_payload_is_only_ever_a_matching_pair(
            fields in fields(),
            stands in prop::collection::btree_map("[a-z.]{1,8}", any::<Vec<u8>>(), 0..4),
            combined in any::<bool>(),
            opaque in any::<bool>(),
        ) {
            let rules = Rules { clock: Clock::Trusted(now()), allow_ca_leaf: false };
            let pair = entry::read(&fields, &Overrides::default())
                .and_then(|texts| pair::parse(&texts, &rules));
            let mut desired = desired();
            if opaque {
                desired.target.kind = crate::crd::SecretType::Opaque;
                desired.target.keys.certificate = "crt".into();
                desired.target.keys.combined = combined.then(|| "all".into());
            }
            let source =
                Source::Read { version: 2, created_time: WRITTEN.into(), pair: Box::new(pair) };
            let kind = desired.target.kind.as_str().to_owned();
            let data = stands.into_iter().map(|(key, value)| (key, Redacted::new(value)));
            let held = touched(
                Payload { kind, owned: true, data: data.collect(), ..Payload::default() },
                false,
            );
            let step = step_of(&desired, source, held, &VaultCertSyncStatus::default());
            let Action::Update { payload, surplus, .. } = step.action else {
                prop_assert_ne!(step.status.state, CertificateState::Synced);
                return Ok(());
            };
            let text = |key: &str| {
                String::from_utf8(payload.data[key].expose().clone()).unwrap()
            };
            let (certificate, key) = (text(&desired.target.keys.certificate), text("tls.key"));
            let public = rcgen::PublicKeyData::der_bytes(
                &rcgen::KeyPair::from_pem(&key).unwrap(),
            ).to_vec();
            prop_assert_eq!(key_of(&certificate), public);
            if let Some(all) = &desired.target.keys.combined {
                prop_assert_eq!(text(all), format!("{certificate}{key}"));
            }
            prop_assert!(surplus.data.iter().all(|key| !payload.data.contains_key(key)));
        }
    }
}

/// A pass that looked at nothing of these.
fn passing_over(names: &[&str], entries: Vec<Entry>) -> Observed {
    let passed_over = names.iter().map(|name| (*name).to_owned()).collect();
    Observed { entries, passed_over, is_listed: true, ..Observed::default() }
}

fn entry_of(name: &str, source: Source, held: Held) -> Entry {
    Entry { name: name.into(), secret: Ok(format!("web-{name}")), source, held }
}

#[test]
fn what_a_pass_did_not_come_to_keeps_what_was_said_of_it() {
    let mut previous = delivered(&leaf());
    let other = step_of(&desired(), Source::Destroyed, intact(), &previous).status;
    previous.certificates.push(CertificateStatus { name: "zz".into(), ..other });
    // Another wish since: the shape says in which it was delivered, and goes on saying so.
    let mut desired = desired();
    desired.target.labels.insert("team".into(), "a".into());
    let observed = passing_over(&["tls", "zz", "never-seen"], Vec::new());
    let plan = plan(&desired, observed, &previous, now());
    assert!(plan.is_empty(), "{plan}");
    let statuses: Vec<_> = plan.steps.into_iter().map(|step| step.status).collect();
    assert_eq!(statuses, previous.certificates, "and what was never seen is not invented");
}

#[test]
fn what_a_pass_came_to_is_delivered_beside_what_it_did_not_come_to_and_in_order() {
    let (leaf, previous) = (leaf(), delivered(&leaf()));
    let read = |name| entry_of(name, read(&leaf, 1), Held::Absent);
    // Read in another order than that of the names.
    let observed = passing_over(&["tls"], vec![read("zz"), read("aa")]);
    let plan = plan(&desired(), observed, &previous, now());
    let expected = "create secret web-aa (aa version 1)\n\
                    leave secret web-tls (tls unchanged)\n\
                    create secret web-zz (zz version 1)\n";
    assert_eq!(plan.to_string(), expected);
}

#[test]
fn a_removal_is_never_concluded_from_a_pass_that_did_not_come_to_the_entry() {
    let mut desired = desired();
    desired.target.delete_removed = true;
    let mut previous = delivered(&leaf());
    let look = |observed, previous: &VaultCertSyncStatus, now| {
        let mut plan = plan(&desired, observed, previous, now);
        assert_eq!(plan.steps.len(), 1, "{plan}");
        plan.steps.remove(0)
    };
    let first = look(observed(Source::Absent, intact()), &previous, now());
    assert_eq!(first.status.reason.as_deref(), Some("SourceRemoved"));
    previous.certificates = vec![first.status];
    // However often and however late: only a look at the entry confirms it.
    for minutes in [1, 60, 6000] {
        let later = now() + SignedDuration::from_mins(minutes);
        let step = look(passing_over(&["tls"], Vec::new()), &previous, later);
        assert!(matches!(step.action, Action::Leave), "after {minutes} minutes");
        assert_eq!(step.status, previous.certificates[0]);
    }
    let later = now() + SignedDuration::from_mins(1);
    let step = look(observed(Source::Absent, intact()), &previous, later);
    assert!(matches!(step.action, Action::Delete { .. }));
}
