//! deploy/: it parses, nothing in it is unknown to its type, and its files agree with each other, with
//! the types' defaults and with the binary.

use std::{collections::BTreeSet, process::Command};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, ServiceAccount},
    networking::v1::NetworkPolicy,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use vault_aws_operator::{
    crd::{self, VaultAwsBackend, VaultAwsRole, VaultCertSync},
    grants::vault::{self, Part},
};

use crate::{documents, kustomized, list, missing, parse, read, text, yaml_files};

/// Where deploy/ installs the operator.
const NAMESPACE: &str = "vault-aws-system";
/// The two processes: what stands after `vault-aws-` in their names, and in their component label.
const COMPONENTS: [&str; 2] = ["role-writer", "syncer"];

#[test]
fn every_manifest_is_known_to_its_type() {
    for (file, document) in everything() {
        check(&file, &document);
    }
}

/// Reads one object as its type and looks for what the type did not take.
pub(crate) fn check(origin: &str, document: &Value) {
    let round_trip = match text(document, "/kind") {
        "Namespace" => typed::<Namespace>(origin, document),
        "ServiceAccount" => typed::<ServiceAccount>(origin, document),
        "ClusterRole" => typed::<ClusterRole>(origin, document),
        "ClusterRoleBinding" => typed::<ClusterRoleBinding>(origin, document),
        "Role" => typed::<Role>(origin, document),
        "RoleBinding" => typed::<RoleBinding>(origin, document),
        "Deployment" => typed::<Deployment>(origin, document),
        "NetworkPolicy" => typed::<NetworkPolicy>(origin, document),
        "VaultAwsBackend" => typed::<VaultAwsBackend>(origin, document),
        "VaultAwsRole" => typed::<VaultAwsRole>(origin, document),
        "VaultCertSync" => {
            let mut document = document.clone();
            // The API server fills it in.
            document.as_object_mut().unwrap().entry("spec").or_insert_with(|| json!({}));
            typed::<VaultCertSync>(origin, &document)
        }
        kind => panic!("{origin}: no type is listed here for the kind {kind}"),
    };
    let mut unknown = Vec::new();
    missing(document, &round_trip, "", &mut unknown);
    assert!(unknown.is_empty(), "{origin}: the type has no such fields: {unknown:?}");
}

fn typed<T: DeserializeOwned + Serialize>(origin: &str, document: &Value) -> Value {
    let value: T = serde_json::from_value(document.clone())
        .unwrap_or_else(|error| panic!("{origin}: {error}"));
    serde_json::to_value(value).unwrap()
}

#[test]
fn every_file_is_listed_in_its_kustomization() {
    for folder in
        ["deploy", "deploy/tenant", "deploy/tenant/service-accounts", "deploy/tenant-delete"]
    {
        assert_eq!(kustomized(folder), yaml_files(folder), "{folder}/kustomization.yaml");
    }
}

#[test]
fn the_crds_are_not_part_of_the_installation() {
    for (file, document) in everything() {
        assert_ne!(text(&document, "/kind"), "CustomResourceDefinition", "{file}");
    }
}

#[test]
fn everything_lies_in_the_one_namespace() {
    for (file, document) in installation() {
        let kind = text(&document, "/kind");
        let namespace = document.pointer("/metadata/namespace").and_then(Value::as_str);
        match kind {
            "Namespace" => assert_eq!(text(&document, "/metadata/name"), NAMESPACE),
            "ClusterRole" | "ClusterRoleBinding" => assert_eq!(namespace, None, "{file}"),
            _ => assert_eq!(namespace, Some(NAMESPACE), "{file}: {kind}"),
        }
    }
    // `kubectl -n` or kustomize decides where these go.
    let pieces = ["deploy/tenant", "deploy/tenant/service-accounts", "deploy/tenant-delete"];
    for (file, document) in pieces.into_iter().flat_map(files) {
        assert!(document.pointer("/metadata/namespace").is_none(), "{file}");
    }
}

#[test]
fn the_namespace_enforces_restricted_pods() {
    let namespace = of_kind(&installation(), "Namespace").remove(0);
    let label = "/metadata/labels/pod-security.kubernetes.io~1enforce";
    assert_eq!(text(&namespace, label), "restricted");
}

#[test]
fn every_binding_names_a_role_and_a_service_account_that_are_there() {
    let all = everything();
    let accounts: BTreeSet<String> = of_kind(&all, "ServiceAccount").iter().map(name).collect();
    assert_eq!(accounts, COMPONENTS.map(|component| format!("vault-aws-{component}")).into());
    for (file, binding) in &all {
        if !text(binding, "/kind").ends_with("RoleBinding") {
            continue;
        }
        let referred = of_kind(&all, text(binding, "/roleRef/kind"));
        let role = text(binding, "/roleRef/name");
        assert!(referred.iter().any(|found| name(found) == role), "{file}: no role {role}");
        for subject in list(binding, "/subjects") {
            assert_eq!(text(subject, "/kind"), "ServiceAccount", "{file}");
            assert_eq!(text(subject, "/namespace"), NAMESPACE, "{file}");
            let account = text(subject, "/name");
            assert!(accounts.contains(account), "{file}: no ServiceAccount {account}");
        }
    }
}

#[test]
fn a_right_on_secrets_never_spans_the_cluster() {
    for role in of_kind(&everything(), "ClusterRole") {
        for rule in list(&role, "/rules") {
            let resources = strings(rule, "/resources");
            assert!(!resources.contains("secrets"), "{}", name(&role));
            for pointer in ["/apiGroups", "/resources", "/verbs"] {
                assert!(!strings(rule, pointer).contains("*"), "{}: {pointer}", name(&role));
            }
        }
    }
    for role in of_kind(&installation(), "Role") {
        for rule in list(&role, "/rules") {
            if strings(rule, "/resources") == BTreeSet::from(["leases"]) {
                continue;
            }
            // To write: by name only.
            let named = rule.get("resourceNames").is_some();
            let verbs = if named { &["create", "patch"][..] } else { &["get"] };
            let verbs = verbs.iter().copied().collect();
            assert_eq!(strings(rule, "/verbs"), verbs, "{}", name(&role));
        }
    }
}

#[test]
fn a_tenants_role_gives_the_syncer_alone_what_it_needs_on_secrets() {
    let tenant = files("deploy/tenant");
    let roles = of_kind(&tenant, "Role");
    let [role] = roles.as_slice() else { panic!("one Role") };
    let [rule] = list(role, "/rules") else { panic!("one rule") };
    assert_eq!(strings(rule, "/resources"), BTreeSet::from(["secrets"]));
    let verbs = BTreeSet::from(["get", "list", "watch", "create", "patch"]);
    assert_eq!(strings(rule, "/verbs"), verbs);
    for binding in of_kind(&tenant, "RoleBinding") {
        assert_eq!(text(&binding, "/subjects/0/name"), "vault-aws-syncer");
    }
}

#[test]
fn the_right_to_delete_is_a_piece_of_its_own() {
    let piece = files("deploy/tenant-delete");
    let roles = of_kind(&piece, "Role");
    let [role] = roles.as_slice() else { panic!("one Role") };
    let [rule] = list(role, "/rules") else { panic!("one rule") };
    assert_eq!(strings(rule, "/resources"), BTreeSet::from(["secrets"]));
    assert_eq!(strings(rule, "/verbs"), BTreeSet::from(["delete"]));
    for binding in of_kind(&piece, "RoleBinding") {
        assert_eq!(text(&binding, "/subjects/0/name"), "vault-aws-syncer");
    }
}

#[test]
fn tokens_are_asked_of_named_service_accounts_only() {
    let tokens = files("deploy/tenant/service-accounts");
    let roles = of_kind(&tokens, "Role");
    let [role] = roles.as_slice() else { panic!("one Role") };
    let [create, look] = list(role, "/rules") else { panic!("two rules") };
    assert_eq!(strings(create, "/resources"), BTreeSet::from(["serviceaccounts/token"]));
    assert_eq!(strings(create, "/verbs"), BTreeSet::from(["create"]));
    assert!(!strings(create, "/resourceNames").is_empty(), "without names it would be all");
    assert_eq!(strings(look, "/resources"), BTreeSet::from(["serviceaccounts"]));
    assert_eq!(strings(look, "/verbs"), BTreeSet::from(["list", "watch"]));
    for binding in of_kind(&tokens, "RoleBinding") {
        assert_eq!(text(&binding, "/subjects/0/name"), "vault-aws-syncer");
    }
}

#[test]
fn only_viewing_is_aggregated_and_nobody_is_given_backends() {
    for role in documents("deploy/users.yaml") {
        let labels = role["metadata"]["labels"].as_object().unwrap();
        let aggregated: Vec<&String> =
            labels.keys().filter(|label| label.contains("aggregate-to")).collect();
        let writes = list(&role, "/rules").iter().any(|rule| {
            let looking = BTreeSet::from(["get", "list", "watch"]);
            !strings(rule, "/verbs").is_subset(&looking)
        });
        assert!(!writes || aggregated.is_empty(), "{}: {aggregated:?}", name(&role));
        for rule in list(&role, "/rules") {
            assert!(!strings(rule, "/resources").contains("vaultawsbackends"), "{}", name(&role));
        }
    }
}

#[test]
fn each_deployment_runs_under_its_own_service_account_and_its_replicas_may_overlap() {
    let deployments = of_kind(&installation(), "Deployment");
    assert_eq!(deployments.len(), COMPONENTS.len());
    for (deployment, component) in deployments.iter().zip(COMPONENTS) {
        let expected = format!("vault-aws-{component}");
        assert_eq!(name(deployment), expected);
        assert_eq!(text(deployment, "/spec/template/spec/serviceAccountName"), expected);
        assert_eq!(deployment["spec"]["replicas"], 1, "{expected}");
        // They elect one that writes, so the next pod may start before the last one ends.
        assert_eq!(text(deployment, "/spec/strategy/type"), "RollingUpdate", "{expected}");
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels, "{expected}");
        assert_eq!(text(labels, "/app.kubernetes.io~1component"), component);
    }
}

#[test]
fn each_pod_is_restricted() {
    for deployment in of_kind(&installation(), "Deployment") {
        let pod = &deployment["spec"]["template"]["spec"];
        let expected = json!({
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        assert_eq!(pod["securityContext"], expected);
        let [container] = list(pod, "/containers") else { panic!("one container") };
        let expected = json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        });
        assert_eq!(container["securityContext"], expected);
        assert!(container.pointer("/resources/limits/memory").is_some());
    }
}

#[test]
fn probes_and_policy_name_the_port_that_is_served() {
    let all = installation();
    for deployment in of_kind(&all, "Deployment") {
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["ports"], json!([{"name": "admin", "containerPort": 8080}]));
        for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
            let get = &container[probe]["httpGet"];
            assert_eq!(*get, json!({"path": path, "port": "admin"}), "{probe}");
        }
    }
    let policy = of_kind(&all, "NetworkPolicy").remove(0);
    let expected = json!([{"ports": [{"port": "admin", "protocol": "TCP"}]}]);
    assert_eq!(policy["spec"]["ingress"], expected);
    let selector = policy["spec"]["podSelector"]["matchLabels"].as_object().unwrap();
    for deployment in of_kind(&all, "Deployment") {
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert!(selector.iter().all(|(key, value)| labels[key] == *value));
    }
}

#[test]
fn the_vault_token_is_mounted_where_a_backend_looks_for_it_and_only_at_the_role_writer() {
    let login: crd::ServiceAccountLogin = serde_json::from_value(json!({"role": "r"})).unwrap();
    for deployment in of_kind(&installation(), "Deployment") {
        let pod = &deployment["spec"]["template"]["spec"];
        let mounts = list(pod, "/containers/0/volumeMounts");
        if name(&deployment) == "vault-aws-syncer" {
            assert!(mounts.is_empty() && list(pod, "/volumes").is_empty());
            continue;
        }
        let token = &pod["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"];
        assert_eq!(text(token, "/audience"), "vault");
        let file = format!("{}/{}", text(&mounts[0], "/mountPath"), text(token, "/path"));
        assert_eq!(file, login.token_path);
    }
}

#[test]
fn the_controllers_are_divided_between_the_deployments() {
    let mut controllers: Vec<String> = Vec::new();
    for deployment in of_kind(&installation(), "Deployment") {
        let arguments = arguments(&deployment);
        assert_eq!(arguments[0], "run");
        let flag = arguments.iter().position(|argument| argument == "--controllers").unwrap();
        controllers.extend(arguments[flag + 1].split(',').map(str::to_owned));
    }
    assert_eq!(controllers, ["backend", "role", "sync"]);
}

#[test]
fn the_binary_knows_every_flag_and_variable_of_the_deployments() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_vault-aws")).args(["run", "--help"]).output().unwrap();
    assert!(output.status.success(), "vault-aws run --help: {:?}", output.status);
    let help = String::from_utf8(output.stdout).unwrap();
    let words: BTreeSet<&str> = help
        .split(|character: char| {
            !(character.is_ascii_alphanumeric() || character == '-' || character == '_')
        })
        .collect();
    for deployment in of_kind(&installation(), "Deployment") {
        let variables: Vec<String> = list(&deployment, "/spec/template/spec/containers/0/env")
            .iter()
            .map(name_field)
            .filter(|variable| variable.starts_with("VAULT_AWS_"))
            .collect();
        let flags = arguments(&deployment).into_iter().filter(|argument| argument.starts_with('-'));
        for word in flags.chain(variables) {
            assert!(words.contains(word.as_str()), "`vault-aws run --help` has no {word}");
        }
    }
}

#[test]
fn the_vault_policies_are_what_the_backends_fields_make_of_them() {
    for (file, management, part) in [
        ("vault-policy.hcl", "Observed", Part::Daily),
        ("vault-policy-managed.hcl", "Managed", Part::Daily),
        ("vault-policy-bootstrap.hcl", "Managed", Part::Bootstrap),
    ] {
        let mut backend = documents("deploy/examples/backend.yaml").remove(0);
        backend["spec"]["auth"] = json!({"management": management});
        let backend: VaultAwsBackend = serde_json::from_value(backend).unwrap();
        let text = vault::text(&backend.spec, part, &["vault-aws-operator"]).unwrap();
        let file = format!("deploy/examples/{file}");
        assert!(read(&file) == text, "{file}: `BLESS=1 cargo test --test cli policy` writes it");
    }
}

#[test]
fn the_examples_fit_together() {
    let one = |file: &str| documents(&format!("deploy/examples/{file}")).remove(0);
    let (backend, role, sync) = (one("backend.yaml"), one("role.yaml"), one("sync.yaml"));
    let rule = &backend["spec"]["tenancy"][0];
    assert_eq!(name(&backend), "default");
    assert_eq!(rule["namespaces"]["names"][0], role["metadata"]["namespace"]);
    assert_eq!(rule["accounts"][0], role["spec"]["accountId"]);
    assert_eq!(rule["iamRoles"][0], role["spec"]["iamRole"]);
    assert_eq!(sync["metadata"], role["metadata"]);
    assert!(sync.get("spec").is_none());
}

/// Every object under deploy/ with its file.
fn everything() -> Vec<(String, Value)> {
    [
        "deploy",
        "deploy/tenant",
        "deploy/tenant/service-accounts",
        "deploy/tenant-delete",
        "deploy/examples",
    ]
    .into_iter()
    .flat_map(files)
    .collect()
}

/// What `kubectl apply -k deploy` applies.
fn installation() -> Vec<(String, Value)> {
    files("deploy")
}

fn files(folder: &str) -> Vec<(String, Value)> {
    yaml_files(folder)
        .into_iter()
        .flat_map(|file| {
            let file = format!("{folder}/{file}");
            parse(&file, &read(&file)).into_iter().map(move |document| (file.clone(), document))
        })
        .collect()
}

fn of_kind(objects: &[(String, Value)], kind: &str) -> Vec<Value> {
    let mut found: Vec<Value> = objects
        .iter()
        .filter(|(_, document)| text(document, "/kind") == kind)
        .map(|(_, document)| document.clone())
        .collect();
    found.sort_by_key(name);
    found
}

fn name(document: &Value) -> String {
    text(document, "/metadata/name").to_owned()
}

fn name_field(value: &Value) -> String {
    text(value, "/name").to_owned()
}

fn strings<'a>(value: &'a Value, pointer: &str) -> BTreeSet<&'a str> {
    list(value, pointer).iter().filter_map(Value::as_str).collect()
}

fn arguments(deployment: &Value) -> Vec<String> {
    list(deployment, "/spec/template/spec/containers/0/args")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
