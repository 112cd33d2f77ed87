//! `vault-aws import` where no server is needed: what is refused on this machine.

use std::path::Path;

use crate::program::{BINARY, Home, Ran};

fn import(home: &Home, args: &[&str], token: Option<&str>) -> Ran {
    let mut program = home.program(BINARY).args(&[&["import"], args].concat());
    if let Some(token) = token {
        program = program.env("VAULT_TOKEN", token);
    }
    program.run()
}

fn example(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples").join(file);
    path.to_str().expect("a path").to_owned()
}

#[test]
fn without_a_backend_or_a_token_nobody_is_asked() {
    let home = Home::new();
    let missing = import(&home, &["--backend", "nowhere.yaml"], None);
    assert!(missing.failed(1).contains("reading nowhere.yaml"));
    let other = import(&home, &["--backend", &example("role.yaml")], None);
    assert!(other.failed(1).contains("0 documents of the kind VaultAwsBackend"));
    let without = import(&home, &["--backend", &example("backend.yaml")], None);
    assert!(without.failed(1).contains("there is no Vault token: set VAULT_TOKEN"));
}

#[test]
fn whose_orphans_are_meant_has_to_be_said_where_no_cluster_is_asked() {
    let home = Home::new();
    let (backend, role) = (example("backend.yaml"), example("role.yaml"));
    let args = ["--backend", &backend, "--orphans", "--resources", &role];
    let ran = import(&home, &args, Some("a-token-of-nobody"));
    assert!(ran.failed(1).contains("--cluster-id"));
    for wrong in [
        &["--resources", "a.yaml"][..],
        &["--orphans", "web"],
        &["--orphans", "-n", "team-a"],
        &["--cluster-id", "x"],
    ] {
        let ran = import(&home, &[&["--backend", &backend], wrong].concat(), None);
        assert_eq!((ran.code, &*ran.stdout), (1, ""), "{wrong:?}: {}", ran.stderr);
    }
}

#[test]
fn the_backends_address_is_asked_where_nobody_says_another() {
    let home = Home::new();
    let backend = example("backend.yaml");
    let ran =
        import(&home, &["--backend", &backend, "--address", "http://vault.example.com"], None);
    assert!(ran.failed(1).contains("plain http"));
    let args = ["--backend", &backend, "--address", "https://127.0.0.1:1"];
    let ran = import(&home, &args, Some("a-token-of-nobody"));
    let said = ran.failed(2);
    assert!(said.contains("listing the roles at auth/aws") && !said.contains("nobody"), "{said}");
}
