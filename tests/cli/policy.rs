//! `vault-aws policy`: what it prints is what lies in `deploy/`, and what a reader of the golden files
//! sees.

use std::{fs, path::Path};

use crate::program::{BINARY, Home, Ran};

fn policy(args: &[&str]) -> Ran {
    Home::new().program(BINARY).args(&[&["policy"], args].concat()).run()
}

fn repository(file: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file).to_str().expect("a path").to_owned()
}

const BACKEND: &str = "tests/cli/golden/policy/backend.yaml";

/// It printed what the file holds. With `BLESS=1` the file is written.
#[track_caller]
fn prints(args: &[&str], file: &str) {
    let ran = policy(args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.lines().all(|line| line.starts_with("note: ")), "{}", ran.stderr);
    let path = repository(file);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &ran.stdout).expect("a golden file");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let diff = similar::TextDiff::from_lines(&golden, &ran.stdout).unified_diff().to_string();
    assert!(diff.is_empty(), "{file} (BLESS=1 writes it):\n{diff}");
}

#[test]
fn the_policies_of_the_examples_are_what_is_printed() {
    prints(&["--vault"], "deploy/examples/vault-policy.hcl");
    let managed = Home::new();
    let example = fs::read_to_string(repository("deploy/examples/backend.yaml")).expect("a file");
    let file = managed.path().join("backend.yaml");
    fs::write(&file, example.replace("spec:\n", "spec:\n  auth: {management: Managed}\n"))
        .expect("a file");
    let file = file.to_str().expect("a path");
    prints(&["--vault", "--backend", file], "deploy/examples/vault-policy-managed.hcl");
    prints(
        &["--vault", "--bootstrap", "--backend", file],
        "deploy/examples/vault-policy-bootstrap.hcl",
    );
}

#[test]
fn the_manifests_of_a_tenant_are_what_is_printed() {
    prints(&["--kubernetes"], "deploy/tenant/role.yaml");
    let file = |file: &str| fs::read_to_string(repository(file)).expect("a file");
    let [secrets, tokens, delete] = [
        "deploy/tenant/role.yaml",
        "deploy/tenant/service-accounts/role.yaml",
        "deploy/tenant-delete/role.yaml",
    ]
    .map(file);
    policy(&["--kubernetes", "--service-account", "web", "--delete-secrets"])
        .printed(&[secrets, tokens, delete].join("---\n"));
    prints(
        &["--kubernetes", "-n", "team-a", "--service-account", "web,api"],
        "tests/cli/golden/policy/kubernetes.yaml",
    );
}

#[test]
fn mounts_names_and_management_are_the_backends() {
    let backend = repository(BACKEND);
    prints(
        &["--vault", "--backend", &backend, "--policy-name", "writer,writer-once"],
        "tests/cli/golden/policy/vault.hcl",
    );
    prints(
        &["--vault", "--bootstrap", "--backend", &backend],
        "tests/cli/golden/policy/vault-bootstrap.hcl",
    );
}

#[test]
fn what_aws_has_to_grant_is_printed() {
    let backend = repository(BACKEND);
    prints(&["--vault-aws", "--backend", &backend], "tests/cli/golden/policy/vault-aws.json");
    prints(&["--operator-aws", "--backend", &backend], "tests/cli/golden/policy/operator-aws.json");
    let operator = "arn:aws:iam::999999999999:role/vault-aws-syncer";
    let trust = ["--client-trust", "-n", "team-a", "--operator-arn", operator];
    prints(
        &[&trust[..], &["--backend", &backend]].concat(),
        "tests/cli/golden/policy/client-trust.json",
    );
    let line = policy(&trust);
    assert!(line.failed(1).contains("--cluster-id"));
    let ran = policy(&[&trust[..], &["--cluster-id", "6f1f"]].concat());
    assert!(ran.stdout.contains("\"6f1f/team-a\""), "{}", ran.stdout);
}

#[test]
fn what_cannot_be_granted_so_is_refused() {
    let own = policy(&["--vault", "--policy-name", "vaultaws-operator"]);
    assert!(own.failed(1).contains("--policy-name"));
    let name = policy(&["--kubernetes", "-n", "Team A"]);
    assert!(name.failed(1).contains("`Team A` is not the name of a namespace"));
    let missing = policy(&["--vault", "--backend", "nowhere.yaml"]);
    assert!(missing.failed(1).contains("reading nowhere.yaml"));
    for wrong in [&[][..], &["--vault", "--kubernetes"], &["--operator-aws"], &["--client-trust"]] {
        let ran = policy(wrong);
        assert_eq!((ran.code, &*ran.stdout), (1, ""), "{wrong:?}: {}", ran.stderr);
    }
}
