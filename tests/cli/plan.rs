//! `plan --offline` on manifests in files: the texts that people, programs and pull requests get are kept
//! in `tests/cli/plan/`; `BLESS=1 cargo test --test cli plan` writes them anew.

use std::{env, fs, os::unix::fs::symlink, path::Path};

use serde_json::Value;
use similar::TextDiff;

use crate::program::{BINARY, Home, Ran};

const BACKEND: &str = "\
apiVersion: vaultaws.dev/v1alpha1
kind: VaultAwsBackend
metadata: {name: default}
spec:
  clusterId: prod-1
  vault: {address: 'https://vault.example.com:8200'}
  operatorLogin: {serviceAccount: {role: vault-aws-operator}}
  tenancy:
    - name: team-a
      namespaces: {names: [team-a]}
      accounts: ['123456789012']
      iamRoles: [web, 'api-*']
";

fn role(name: &str, iam_role: &str) -> String {
    format!(
        "apiVersion: vaultaws.dev/v1alpha1\nkind: VaultAwsRole\n\
         metadata: {{name: {name}, namespace: team-a}}\n\
         spec: {{accountId: '123456789012', iamRole: {iam_role}}}\n"
    )
}

fn sync(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: vaultaws.dev/v1alpha1\nkind: VaultCertSync\n\
         metadata: {{name: {name}, namespace: team-a}}\nspec: {spec}\n"
    )
}

/// Runs `plan --offline` on one file with these documents.
fn plan(home: &Home, documents: &[String], args: &[&str]) -> Ran {
    fs::write(home.path().join("backend.yaml"), BACKEND).expect("a file");
    fs::write(home.path().join("all.yaml"), documents.join("---\n")).expect("a file");
    let base = ["plan", "-f", "all.yaml", "--backend", "backend.yaml", "--offline"];
    home.program(BINARY).args(&[&base[..], args].concat()).run()
}

/// Compares with the file of that name, or writes it.
#[track_caller]
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/plan").join(name);
    if env::var_os("BLESS").is_some() {
        return fs::write(&path, text).expect("a golden file");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let diff = TextDiff::from_lines(expected.as_str(), text);
    assert!(expected == text, "{name}:\n{}", diff.unified_diff().header("kept", "printed"));
}

#[test]
fn what_is_valid_is_told_in_three_forms_and_the_code_is_0() {
    let home = Home::new();
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n".to_owned();
    let certificates = "{certificates: {include: [site, 'api-*']}}";
    let documents = [role("web", "web"), sync("web", certificates), config, BACKEND.to_owned()];
    for (form, name) in [("text", "valid.txt"), ("json", "valid.json"), ("markdown", "valid.md")] {
        let ran = plan(&home, &documents, &["--output", form]);
        assert_eq!((ran.code, &*ran.stderr), (0, ""), "{}", ran.stdout);
        golden(name, &ran.stdout);
    }
}

#[test]
fn what_is_refused_is_told_with_its_place_and_the_code_is_1() {
    let home = Home::new();
    let documents = [
        role("typo", "web").replace("iamRole", "iamrole"),
        role("number", "web").replace("'123456789012'", "123456789012"),
        role("dots", ".."),
        role("foreign", "admin"),
        role("elsewhere", "web").replace("team-a", "team-b"),
        role("first", "web"),
        role("second", "web"),
        role("lost", "api-x").replace("{accountId", "{backendRef: {name: other}, accountId"),
        sync("alone", "{}"),
        sync("first", "{certificates: {include: [a/b, a-b]}}"),
        sync(
            "one",
            "{roleRef: {name: first}, certificates: {include: [x]}, target: {secretName: tls}}",
        ),
        sync(
            "two",
            "{roleRef: {name: first}, certificates: {include: [y]}, target: {secretName: tls}}",
        ),
        BACKEND.replace("[web, 'api-*']", "['*']"),
        "kind: VaultAwsRole\napiVersion: vaultaws.dev/v2\n".to_owned(),
        role("first", "web"),
    ];
    let ran = plan(&home, &documents, &[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("error: refused"), "{}", ran.stderr);
    golden("refused.txt", &ran.stdout);
    let ran = plan(&home, &documents, &["--output", "markdown"]);
    golden("refused.md", &ran.stdout);
}

#[test]
fn hostile_text_stays_text() {
    let home = Home::new();
    let hostile = "\u{1b}[2J` ```\\n@org/team <img src=x> \u{202e}";
    let text = format!(
        "{{\"apiVersion\": \"vaultaws.dev/v1alpha1\", \"kind\": \"VaultAwsRole\", \"metadata\": \
         {{\"name\": \"web\", \"namespace\": \"team-a\"}}, \"spec\": {{\"accountId\": \
         \"123456789012\", \"iamRole\": {}, {}: 1}}}}\n",
        Value::from(hostile),
        Value::from(hostile)
    );
    for (form, name) in [("text", "hostile.txt"), ("markdown", "hostile.md")] {
        let ran = plan(&home, std::slice::from_ref(&text), &["--output", form]);
        assert_eq!(ran.code, 1);
        assert!(!ran.stdout.contains(['\u{1b}', '\u{202e}']), "{}", ran.stdout);
        golden(name, &ran.stdout);
    }
}

#[test]
fn folders_are_looked_through_without_links_and_stdin_is_a_file() {
    let home = Home::new();
    let team = home.path().join("team/deep");
    fs::create_dir_all(&team).expect("a folder");
    fs::write(home.path().join("backend.yaml"), BACKEND).expect("a file");
    fs::write(team.join("role.yml"), role("web", "web")).expect("a file");
    fs::write(home.path().join("team/notes.txt"), "{{{").expect("a file");
    fs::write(home.path().join("secret"), "{{{").expect("a file");
    symlink(home.path().join("secret"), team.join("link.yaml")).expect("a link");
    let run = |args: &[&str]| home.program(BINARY).args(args).run();
    let ran = run(&["plan", "-f", "team", "--backend", "backend.yaml", "--offline", "-o", "json"]);
    assert_eq!((ran.code, &*ran.stderr), (0, ""));
    let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(json["files"], 1);
    assert_eq!(json["resources"][0]["place"], "team/deep/role.yml, document 1 (line 1)");
    // stdin is closed, so empty: nothing to refuse.
    let ran = run(&["plan", "-f", "-", "--offline", "-o", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn without_the_admins_word_only_the_schema_is_looked_at_and_that_is_said() {
    let home = Home::new();
    fs::write(home.path().join("role.yaml"), role("web", "web")).expect("a file");
    let run = |args: &[&str]| home.program(BINARY).args(args).run();
    let ran = run(&["plan", "-f", "role.yaml", "--offline"]);
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("Not looked at: tenancy"), "{}", ran.stdout);
    assert_eq!(run(&["plan", "-f", "role.yaml"]).code, 1);
    let ran = run(&["plan", "-f", "nowhere", "--offline"]);
    assert!(ran.failed(1).contains("reading nowhere"));
    let ran = run(&["plan", "-f", "role.yaml", "--backend", "role.yaml", "--offline"]);
    assert!(ran.failed(1).contains("holds no VaultAwsBackend"));
}

#[test]
fn a_field_that_may_not_change_is_known_by_the_clusters_own_role() {
    let home = Home::new();
    fs::write(home.path().join("all.yaml"), role("web", "api-x")).expect("a file");
    let cluster = format!("{BACKEND}---\n{}", role("web", "web"));
    fs::write(home.path().join("cluster.yaml"), cluster).expect("a file");
    let args = ["plan", "-f", "all.yaml", "--backend", "cluster.yaml", "--offline"];
    let ran = home.program(BINARY).args(&args).run();
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("iamRole is immutable"), "{}", ran.stdout);
}

#[test]
fn without_a_token_nothing_is_asked_and_that_is_said() {
    let home = Home::new();
    fs::write(home.path().join("backend.yaml"), BACKEND).expect("a file");
    fs::write(home.path().join("role.yaml"), role("web", "web")).expect("a file");
    let args = ["plan", "-f", "role.yaml", "--backend", "backend.yaml"];
    let ran = home.program(BINARY).args(&args).run();
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("there is no Vault token"), "{}", ran.stdout);
}
