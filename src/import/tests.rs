use super::*;

/// The README's backend, with a rule that grants `web` and `api-*` to team-a by name.
fn backend(changes: &Value) -> VaultAwsBackend {
    let mut backend: Value =
        serde_saphyr::from_str(include_str!("../../deploy/examples/backend.yaml")).unwrap();
    for (key, value) in changes.as_object().into_iter().flatten() {
        backend["spec"][key] = value.clone();
    }
    serde_json::from_value(backend).unwrap()
}

const WEB: &str = "arn:aws:iam::123456789012:role/web";

/// As people write it by hand.
const TWO_RULES: &str = r#"
path "secret/data/certs/123456789012/web/*" { capabilities = ["read", "list"] }
path "secret/metadata/certs/123456789012/web/*" {
  capabilities = ["list", "read"]
}
"#;

fn found(name: &str, role: Value, policies: &[(&str, Option<&str>)]) -> Found {
    let mut answer = json!({
        "auth_type": "iam",
        "bound_account_id": [],
        "bound_ec2_instance_id": null,
        "bound_iam_principal_arn": [WEB],
        "inferred_entity_type": "",
        "resolve_aws_unique_ids": false,
        "role_id": "eb8dd357-f5c2-4f6e-9c1e-6a1f3a0a5a11",
        "token_policies": policies.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        "token_ttl": 0,
        "token_type": "default",
    });
    for (key, value) in role.as_object().into_iter().flatten() {
        answer[key] = value.clone();
    }
    Found {
        name: name.to_owned(),
        role: serde_json::from_value(answer).unwrap(),
        policies: policies
            .iter()
            .map(|(name, text)| ((*name).to_owned(), text.map(str::to_owned)))
            .collect(),
    }
}

fn web(role: Value) -> Found {
    found("web", role, &[("vaultaws-web-policy", Some(TWO_RULES))])
}

fn import(found: &Found) -> Verdict {
    Target::new(&backend(&json!({})), None).import(found)
}

#[track_caller]
fn spec(found: &Found) -> Value {
    match import(found) {
        Verdict::Manifest { resource, .. } => resource["spec"].clone(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn left(found: &Found) -> String {
    match import(found) {
        Verdict::Left(reasons) => reasons.join("; "),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_role_that_was_made_by_hand_is_a_manifest_of_the_team_that_may_have_it() {
    let Verdict::Manifest { resource, .. } = import(&web(json!({}))) else { panic!("no manifest") };
    assert_eq!(
        *resource,
        json!({
            "apiVersion": "vaultaws.dev/v1alpha1",
            "kind": "VaultAwsRole",
            "metadata": {"name": "web", "namespace": "team-a"},
            "spec": {"accountId": "123456789012", "iamRole": "web", "adopt": "IfEqual"},
        })
    );
    let yaml = yaml::document(&resource).unwrap();
    assert!(yaml.contains("accountId: \"123456789012\""), "{yaml}");
}

#[test]
fn what_the_tokens_are_like_is_said() {
    let role = json!({
        "token_ttl": 900, "token_max_ttl": 5400, "token_num_uses": 7, "token_type": "service",
        "token_bound_cidrs": ["10.0.0.0/8"], "token_explicit_max_ttl": 86400,
    });
    assert_eq!(
        spec(&web(role))["token"],
        json!({
            "ttl": "15m", "maxTtl": "1h30m", "numUses": 7, "type": "service",
            "boundCidrs": ["10.0.0.0/8"], "explicitMaxTtl": "24h",
        })
    );
}

#[test]
fn a_path_is_said_where_vault_resolves_it() {
    let arn = "arn:aws:iam::123456789012:role/team/web";
    let resolved = json!({"bound_iam_principal_arn": [arn], "resolve_aws_unique_ids": true});
    let spec = spec(&web(resolved));
    assert_eq!(spec["iamRolePath"], "/team/");
    assert_eq!(spec["resolveAwsUniqueIds"], true);
}

#[test]
fn what_nobody_can_say_is_left_with_its_reason() {
    for (role, reason) in [
        (json!({"auth_type": "ldap"}), "neither iam nor ec2"),
        (json!({"bound_iam_principal_arn": ["hello"]}), "no IAM role or user: hello"),
        (json!({"bound_iam_principal_arn": []}), "binds no IAM principal"),
        (
            json!({"bound_iam_principal_arn": [WEB, "arn:aws:iam::999988887777:role/web"]}),
            "several accounts",
        ),
        (json!({"role_tag": "team"}), "no role_tag"),
        (json!({"alias_metadata": {"team": "a"}}), "no alias_metadata"),
        (json!({"token_type": "default-batch"}), "write service or batch"),
    ] {
        let said = left(&web(role.clone()));
        assert!(said.contains(reason), "{role}: {said}");
    }
}

#[test]
fn a_policy_of_another_name_is_told_with_the_template_that_fits() {
    let found = found("web", json!({}), &[("certs-web", Some(TWO_RULES))]);
    let said = left(&found);
    assert!(said.contains("it carries certs-web"), "{said}");
    assert!(said.contains("naming.policy `certs-{role}` could take it"), "{said}");
    let backend = backend(&json!({"naming": {"policy": "certs-{role}"}}));
    let taken = Target::new(&backend, None).import(&found);
    assert!(matches!(taken, Verdict::Manifest { .. }), "{taken:?}");
}

#[test]
fn a_policy_that_is_not_understood_or_not_there_is_told() {
    for (text, reason) in [
        (None, "does not exist"),
        (Some("path \"secret/data/certs/123456789012/web/*\" {"), "its policy: line"),
        (
            Some("path \"secret/data/{{identity.entity.id}}/*\" { capabilities = [\"read\"] }"),
            "a template",
        ),
    ] {
        let said = left(&found("web", json!({}), &[("vaultaws-web-policy", text)]));
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn a_role_that_bears_a_mark_is_kept_already() {
    let marked = format!(
        "# vault-aws-operator v1 cluster=prod namespace=team-a name=web uid=u role=aws/web\n{TWO_RULES}"
    );
    let found = found("web", json!({}), &[("vaultaws-web-policy", Some(&marked))]);
    assert!(matches!(import(&found), Verdict::Managed(marker) if marker.cluster == "prod"));
}

#[test]
fn where_no_rule_names_a_namespace_one_has_to_be_given() {
    let none = backend(&json!({"tenancy": []}));
    let Verdict::Left(reasons) = Target::new(&none, None).import(&web(json!({}))) else {
        panic!("a manifest")
    };
    assert!(reasons[0].contains("give one with -n"), "{reasons:?}");
    let Verdict::Manifest { resource, remarks } =
        Target::new(&none, Some("team-x")).import(&web(json!({})))
    else {
        panic!("no manifest")
    };
    assert_eq!(resource["metadata"]["namespace"], "team-x");
    assert!(remarks[0].contains("to be granted first"), "{remarks:?}");
}

#[test]
fn names_of_resources_are_those_that_kubernetes_takes_and_each_is_given_once() {
    for (iam, name) in [
        ("web", "web"),
        ("Web_API", "web-api"),
        ("a@b=c.d", "a-b-c-d"),
        ("_", "role"),
        ("-a-", "a"),
    ] {
        assert_eq!(resource_name(iam), name);
    }
    assert_eq!(resource_name(&"x".repeat(64)).len(), 63);
    let backend = backend(&json!({}));
    let mut target = Target::new(&backend, None);
    let draft = Draft::of(&web(json!({})), &backend.spec).unwrap();
    assert_eq!(target.free_name("team-a", &draft), "web");
    target.taken.insert(("team-a".to_owned(), "web".to_owned()));
    assert_eq!(target.free_name("team-a", &draft), "123456789012-web");
    target.taken.insert(("team-a".to_owned(), "123456789012-web".to_owned()));
    assert_eq!(target.free_name("team-a", &draft), "123456789012-web-2");
}
