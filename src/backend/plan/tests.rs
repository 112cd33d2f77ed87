use super::{
    super::{managed::Account, observe::Mount},
    *,
};
use crate::{crd::KeyRef, vault::aws_auth::StsAccount};

const ACCOUNT: &str = "111122223333";
const STS: &str = "https://sts.amazonaws.com";

fn desired() -> Desired {
    Desired {
        mount: "aws".into(),
        kind: "aws".into(),
        kv_mount: "secret".into(),
        managed: Some(Managed {
            client: Client {
                credentials: Some("keys".into()),
                sts_endpoint: Some(STS.into()),
                server_id: "vault.example.com".into(),
                ..Client::default()
            },
            accounts: vec![Account {
                id: ACCOUNT.into(),
                sts_role: "arn:aws:iam::111122223333:role/r".into(),
                external_id: None,
            }],
            ..Managed::default()
        }),
        wants_namespace: false,
    }
}

fn with(change: impl FnOnce(&mut Managed)) -> Desired {
    let mut desired = desired();
    change(desired.managed.as_mut().unwrap());
    desired
}

fn keys(access_key: &str) -> Secrets {
    let keys = Keys {
        access_key: access_key.into(),
        secret_key: Redacted::new("secret".into()),
        fingerprint: format!("of {access_key}"),
    };
    Secrets { keys: Some(keys), external_ids: BTreeMap::new() }
}

fn written(access_key: &str) -> WrittenKeys {
    WrittenKeys { access_key: access_key.into(), fingerprint: format!("of {access_key}") }
}

fn configured() -> Observed {
    let account =
        StsAccount { sts_role: "arn:aws:iam::111122223333:role/r".into(), external_id: None };
    Observed {
        mount: Some(Mount { kind: "aws".into(), ..Mount::default() }),
        config: Some(Config {
            client: Some(ClientConfig {
                access_key: "AKIA".into(),
                sts_endpoint: STS.into(),
                iam_server_id_header_value: "vault.example.com".into(),
                max_retries: -1,
                ..ClientConfig::default()
            }),
            identity: None,
            accounts: BTreeMap::from([(ACCOUNT.into(), account)]),
        }),
        kv_version: Some(2),
        kv_denied: false,
    }
}

fn client_of(observed: &mut Observed) -> &mut ClientConfig {
    observed.config.as_mut().unwrap().client.as_mut().unwrap()
}

fn planned(desired: &Desired, observed: &Observed) -> Plan {
    plan_with(desired, observed, &keys("AKIA"), Some(&written("AKIA")), &[])
}

fn plan_with(
    desired: &Desired,
    observed: &Observed,
    secrets: &Secrets,
    written: Option<&WrittenKeys>,
    dropped: &[&str],
) -> Plan {
    let dropped = dropped.iter().map(|field| (*field).to_owned()).collect();
    plan(desired, observed, secrets, Known { written, dropped: &dropped })
}

/// The body of the first write to config/client.
fn sent(plan: &Plan) -> String {
    let write = plan.steps.iter().find_map(|step| match step {
        Step::Client { write, .. } | Step::StsEndpoint { write, .. } => Some(write),
        _ => None,
    });
    serde_json::to_string(write.unwrap()).unwrap()
}

#[test]
fn a_missing_mount_is_enabled_then_tuned_and_configured() {
    let desired = with(|managed| {
        managed.max_lease_ttl = Some(3600);
        managed.identity.iam_alias = Some("unique_id".into());
    });
    let plan = plan_with(&desired, &Observed::default(), &keys("AKIA"), None, &[]);
    assert_eq!(
        plan.to_string(),
        "enable the mount\n\
         tune the mount: max_lease_ttl\n\
         write config/client: sts_endpoint, iam_server_id_header_value, access_key\n\
         write config/identity: iam_alias\n\
         write config/sts/111122223333: sts_role\n"
    );
}

#[test]
fn nothing_is_written_to_a_mount_that_is_as_desired() {
    let plan = planned(&desired(), &configured());
    assert_eq!((plan.to_string().as_str(), plan.rotated), ("", None));
}

#[test]
fn an_observed_mount_is_never_written() {
    let observed_only = Desired { managed: None, ..desired() };
    for observed in [Observed::default(), configured()] {
        assert_eq!(planned(&observed_only, &observed).to_string(), "");
    }
}

#[test]
fn what_is_not_given_is_not_touched() {
    let mut found = configured();
    let mount = found.mount.as_mut().unwrap();
    (mount.default_lease_ttl, mount.max_lease_ttl) = (60, 120);
    let config = found.config.as_mut().unwrap();
    config.identity =
        Some(IdentityConfig { iam_alias: "full_arn".into(), ..IdentityConfig::default() });
    config.accounts.get_mut(ACCOUNT).unwrap().external_id = Some(Redacted::new("theirs".into()));
    let client = client_of(&mut found);
    client.iam_endpoint = "https://iam.example.com".into();
    client.endpoint = "https://ec2.example.com".into();
    client.sts_region = "eu-west-1".into();
    client.use_sts_region_from_client = Some(true);
    client.allowed_sts_header_values = vec!["X-Amz-Foo".into()];
    client.max_retries = 3;
    assert_eq!(planned(&desired(), &found).to_string(), "");
}

#[test]
fn a_write_sends_what_differs_and_the_retries_as_they_are() {
    let mut found = configured();
    client_of(&mut found).max_retries = 3;
    let plan =
        planned(&with(|managed| managed.client.sts_region = Some("eu-west-1".into())), &found);
    assert_eq!(plan.to_string(), "write config/client: sts_region\n");
    assert_eq!(sent(&plan), r#"{"sts_region":"eu-west-1","max_retries":3}"#);
}

#[test]
fn a_forged_sts_endpoint_is_put_right_alone_and_first() {
    let mut found = configured();
    client_of(&mut found).sts_endpoint = "https://evil.example.com".into();
    found.mount.as_mut().unwrap().max_lease_ttl = 60;
    let desired = with(|managed| {
        managed.max_lease_ttl = Some(3600);
        managed.client.iam_endpoint = Some("https://iam.amazonaws.com".into());
    });
    // Even if a server did not keep it before.
    let plan = plan_with(
        &desired,
        &found,
        &keys("AKIA"),
        Some(&written("AKIA")),
        &["config/client sts_endpoint"],
    );
    assert_eq!(
        plan.to_string(),
        "put sts_endpoint of config/client right\n\
         tune the mount: max_lease_ttl\n\
         write config/client: iam_endpoint\n"
    );
    assert_eq!(sent(&plan), r#"{"sts_endpoint":"https://sts.amazonaws.com","max_retries":-1}"#);
}

#[test]
fn lists_are_compared_without_their_order() {
    let desired = with(|managed| {
        managed.client.allowed_sts_header_values = Some(vec!["X-Amz-A".into(), "X-Amz-B".into()]);
        managed.identity.iam_metadata = Some(vec!["account_id".into(), "auth_type".into()]);
    });
    let mut found = configured();
    client_of(&mut found).allowed_sts_header_values = vec!["X-Amz-B".into(), "X-Amz-A".into()];
    found.config.as_mut().unwrap().identity = Some(IdentityConfig {
        iam_metadata: vec!["auth_type".into(), "account_id".into()],
        ..IdentityConfig::default()
    });
    assert_eq!(planned(&desired, &found).to_string(), "");
}

#[test]
fn changed_keys_are_written_although_vault_never_shows_the_secret_one() {
    let access_key = |observed: &Observed, secrets: &Secrets, written: Option<&WrittenKeys>| {
        let plan = plan_with(&desired(), observed, secrets, written, &[]);
        (plan.to_string(), plan.rotated)
    };
    let write = ("write config/client: access_key\n".to_owned(), None);
    // The secret half differs, or nobody knows whether it does.
    let other_half = WrittenKeys { fingerprint: "of another".into(), ..written("AKIA") };
    for known in [None, Some(&other_half)] {
        assert_eq!(access_key(&configured(), &keys("AKIA"), known), write);
    }
    // Another pair, where ours was the last.
    assert_eq!(access_key(&configured(), &keys("AKIB"), Some(&written("AKIA"))), write);
    // Somebody took it away.
    let mut without = configured();
    client_of(&mut without).access_key.clear();
    assert_eq!(access_key(&without, &keys("AKIA"), Some(&written("AKIA"))), write);
}

#[test]
fn a_key_that_is_neither_ours_nor_the_last_we_wrote_is_left_alone() {
    let mut found = configured();
    client_of(&mut found).access_key = "AKIX".into();
    for known in [None, Some(&written("AKIA"))] {
        let plan = plan_with(&desired(), &found, &keys("AKIA"), known, &[]);
        assert_eq!((plan.to_string().as_str(), plan.rotated.as_deref()), ("", Some("AKIX")));
    }
    // The rest is ours all the same.
    client_of(&mut found).iam_server_id_header_value.clear();
    let plan = planned(&desired(), &found);
    assert_eq!(
        sent(&plan),
        r#"{"iam_server_id_header_value":"vault.example.com","max_retries":-1}"#
    );
}

#[test]
fn an_external_id_is_written_where_it_differs_and_waits_where_it_cannot_be_read() {
    let desired = with(|managed| {
        managed.accounts[0].external_id = Some(KeyRef { name: "ids".into(), key: "a".into() });
    });
    let mut secrets = keys("AKIA");
    let plan = |secrets: &Secrets, found: &Observed, dropped: &[&str]| {
        plan_with(&desired, found, secrets, Some(&written("AKIA")), dropped).to_string()
    };
    let mut found = configured();
    // Without it the entry would be one that does not work.
    found.config.as_mut().unwrap().accounts.clear();
    assert_eq!(plan(&secrets, &found, &[]), "");
    secrets.external_ids.insert(ACCOUNT.into(), Redacted::new("ours".into()));
    assert_eq!(
        plan(&secrets, &found, &[]),
        "write config/sts/111122223333: sts_role, external_id\n"
    );
    let mut found = configured();
    assert_eq!(plan(&secrets, &found, &[]), "write config/sts/111122223333: external_id\n");
    // A server that does not keep it is not asked again and again.
    assert_eq!(plan(&secrets, &found, &["config/sts/111122223333 external_id"]), "");
    let account = found.config.as_mut().unwrap().accounts.get_mut(ACCOUNT).unwrap();
    account.external_id = Some(Redacted::new("ours".into()));
    assert_eq!(plan(&secrets, &found, &[]), "");
}

#[test]
fn a_field_that_the_server_did_not_keep_is_not_written_again() {
    let desired = with(|managed| {
        managed.client.use_sts_region_from_client = Some(true);
        managed.client.iam_endpoint = Some("https://iam.amazonaws.com".into());
    });
    let found = configured();
    let dropped = ["config/client use_sts_region_from_client"];
    let plan = plan_with(&desired, &found, &keys("AKIA"), Some(&written("AKIA")), &dropped);
    assert_eq!(plan.to_string(), "write config/client: iam_endpoint\n");
    // It still differs, and is named.
    let fields = planned(&desired, &found).fields();
    assert!(fields.contains(dropped[0]), "{fields:?}");
}

#[test]
fn a_server_without_the_key_does_as_one_where_it_is_false() {
    let desired = with(|managed| managed.client.use_sts_region_from_client = Some(false));
    assert_eq!(planned(&desired, &configured()).to_string(), "");
}

#[test]
fn no_step_shows_a_secret() {
    let desired = with(|managed| {
        managed.accounts[0].external_id = Some(KeyRef { name: "ids".into(), key: "a".into() });
    });
    let mut secrets = keys("AKIA");
    secrets.external_ids.insert(ACCOUNT.into(), Redacted::new("Ours1234".into()));
    let plan = plan_with(&desired, &Observed::default(), &secrets, None, &[]);
    let shown = format!("{plan:?} {plan}");
    assert!(!shown.contains("Ours1234") && !shown.contains("\"secret\""), "{shown}");
}

#[test]
fn config_client_holds_while_all_that_is_declared_stands_there() {
    let wanted = desired().managed.unwrap().client;
    let mut observed = configured();
    let found = client_of(&mut observed);
    let holds = |found: &ClientConfig| client_holds(&wanted, found.clone(), &BTreeSet::new());
    found.access_key = "of somebody".into();
    found.iam_endpoint = "https://iam.example.com".into();
    assert!(holds(found));
    let forged = ClientConfig { sts_endpoint: String::new(), ..found.clone() };
    let open = ClientConfig { iam_server_id_header_value: String::new(), ..found.clone() };
    assert!(!holds(&forged) && !holds(&open));
}
