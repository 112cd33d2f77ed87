//! Variables and files that somebody else may have made: whatever they hold, a command says in one line
//! which one it is and why, prints nothing for programs, ends in time, needs little memory, and says no
//! secret.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::unix::{
        ffi::OsStringExt as _,
        fs::{PermissionsExt as _, chown, symlink},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use rustix::process::{Pid, Signal, kill_process};
use vault_aws_operator::credentials::cache::FOLDER;

use crate::{
    credential_process::{NOWHERE, TOKEN, cached},
    program::{BINARY, Home, Program, Ran},
};

/// Part of every secret of these tests.
const SECRET: &str = "s3cr3tOfTheTests";
const BACKEND: &str = "\
apiVersion: vaultaws.dev/v1alpha1
kind: VaultAwsBackend
metadata: {name: default}
spec:
  clusterId: prod-1
  vault: {address: 'https://127.0.0.1:1'}
  operatorLogin: {serviceAccount: {role: vault-aws-operator}}
";

/// A command that reads the Vault environment before it asks anybody.
#[derive(Clone, Copy, Debug)]
enum Asks {
    CredentialProcess,
    Login,
    Import,
}

const ALL: [Asks; 3] = [Asks::CredentialProcess, Asks::Login, Asks::Import];

/// With an AWS identity and a Vault token, and a Vault that is nowhere.
fn asking(home: &Home, what: Asks) -> Program {
    // One for each run: several may run at once.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let backend = format!("backend-{}.yaml", NEXT.fetch_add(1, Ordering::Relaxed));
    fs::write(home.path().join(&backend), BACKEND).expect("a file");
    let args: &[&str] = match what {
        Asks::CredentialProcess => &["credential-process", "-m", "aws", "-r", "web", "--no-cache"],
        Asks::Login => &["login", "--role", "web"],
        Asks::Import => &["import", "--backend", &backend],
    };
    home.confined()
        .args(args)
        .env("VAULT_ADDR", NOWHERE)
        .env("VAULT_MAX_RETRIES", "0")
        .env("VAULT_TOKEN", format!("hvs.{SECRET}"))
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
}

/// It failed in one line, perhaps with a second one of advice, for people alone.
#[track_caller]
fn refused<'a>(ran: &'a Ran, codes: &[i32], what: &str) -> &'a str {
    assert!(codes.contains(&ran.code), "{what}: {ran:?}");
    assert_eq!(ran.stdout, "", "{what}: {ran:?}");
    let mut lines = ran.stderr.lines();
    let line = lines.next().unwrap_or_default();
    assert!(line.starts_with("error: "), "{what}: {ran:?}");
    assert!(lines.all(|line| line.starts_with("hint: ")), "{what}: {ran:?}");
    harmless(ran, what);
    line
}

#[track_caller]
fn harmless(ran: &Ran, what: &str) {
    assert!(!ran.stderr.contains(SECRET), "{what}: a secret was said: {}", ran.stderr);
    let is_odd = |c: char| c.is_control() && c != '\n';
    assert!(!ran.stderr.contains(is_odd), "{what}: {:?}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
    assert!(ran.stderr.len() < 16 << 10, "{what}: {} bytes on stderr", ran.stderr.len());
}

#[test]
fn a_variable_that_makes_no_sense_is_named_in_one_line() {
    let home = Home::new();
    let cases: &[(&str, &[&str])] = &[
        (
            "VAULT_ADDR",
            &[
                "ftp://vault",
                "file:///etc/passwd",
                "javascript:alert(1)",
                "https://",
                "https://[::1",
                "https://vault:99999",
                "https://user:s3cr3tOfTheTests@vault",
                "https://vault?token=s3cr3tOfTheTests",
                "https://vault#x",
                "https://va\nult:8200",
                "https://vault\\@evil.example.com",
                "https://vault /",
                "unix://relative.sock",
                "\u{1b}]0;title\u{7}",
                "vault:8200",
                "-",
            ],
        ),
        ("VAULT_AGENT_ADDR", &["http://vault.example.com:8100", "unix:", "http:\n//127.0.0.1"]),
        (
            "VAULT_TOKEN",
            &[
                "hvs.s3cr3tOfTheTests\n",
                "hvs.s3cr3tOfTheTests\r\nX-Vault-Wrap-TTL: 60",
                "hvs. s3cr3tOfTheTests",
                "hvs.\u{7f}s3cr3tOfTheTests",
                "hvs.s3cr3tOfTheTestsü",
            ],
        ),
        ("VAULT_NAMESPACE", &["..", "team/../admin", "a\nb", "a b", "\u{1b}[2J", "./a"]),
        ("VAULT_CLIENT_TIMEOUT", &["soon", "-1", "NaN", "1e9h", "60 s"]),
        ("VAULT_MAX_RETRIES", &["-1", "99999999999", "two"]),
        ("VAULT_RATE_LIMIT", &["NaN", "-1", "1e999", "1:-1", "::"]),
        ("VAULT_SKIP_VERIFY", &["maybe", "true"]),
        (
            "VAULT_HEADERS",
            &[
                "{",
                "[]",
                "{\"X\":1}",
                "{\"X\\n\":\"s3cr3tOfTheTests\"}",
                "{\"X\":\"s3cr3tOfTheTests\\nY: z\"}",
                "{\"X-Vault-Token\":\"s3cr3tOfTheTests\"}",
            ],
        ),
        ("VAULT_MFA", &["s3cr3tOfTheTests\nX: y"]),
        ("VAULT_PROXY_ADDR", &["socks5://user:s3cr3tOfTheTests@p", "http://", "proxy\n"]),
        ("VAULT_TLS_SERVER_NAME", &["a b", "..", "\u{1b}[2J"]),
        ("VAULT_CACERT_BYTES", &["s3cr3tOfTheTests", "-----BEGIN CERTIFICATE-----\nAA\n"]),
        ("VAULT_CLIENT_CERT", &["/nowhere/alone.pem"]),
        ("VAULT_CLIENT_KEY", &["/nowhere/alone.pem"]),
        ("VAULT_AWS_INSECURE", &["ja"]),
    ];
    for (name, values) in cases {
        for value in *values {
            for what in ALL {
                let case = format!("{what:?} with {name}={value:?}");
                let ran = asking(&home, what).env(name, value).run();
                let line = refused(&ran, &[1], &case);
                assert!(line.contains(name), "{case}: {line}");
            }
        }
    }
}

#[test]
fn a_variable_that_is_no_text_is_named() {
    let home = Home::new();
    for name in ["VAULT_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE", "VAULT_HEADERS", "VAULT_MFA"] {
        for what in ALL {
            let bytes = [SECRET.as_bytes(), &[0xff, 0xfe]].concat();
            let ran = asking(&home, what).env(name, OsString::from_vec(bytes)).run();
            let case = format!("{what:?} with {name}");
            let line = refused(&ran, &[1], &case);
            assert!(line.contains(&format!("{name} is not UTF-8")), "{case}: {line}");
        }
    }
}

#[test]
fn a_variable_of_a_hundred_kilobytes_is_a_value_like_any_other() {
    let home = Home::new();
    let long = "a".repeat(100 << 10);
    for (name, value) in [
        ("VAULT_ADDR", format!("https://127.0.0.1:1/{long}")),
        ("VAULT_ADDR", format!("https://{long}:1")),
        ("VAULT_TOKEN", format!("{SECRET}{long}")),
        ("VAULT_NAMESPACE", long.clone()),
        ("VAULT_CACERT", format!("/{long}")),
        ("VAULT_CACERT", "/x".repeat(50 << 10)),
        ("VAULT_MFA", format!("{SECRET}{long}")),
        ("VAULT_TLS_SERVER_NAME", long.clone()),
        ("VAULT_CLIENT_TIMEOUT", "9".repeat(100 << 10)),
        ("AWS_PROFILE", long.clone()),
        ("AWS_REGION", long.clone()),
    ] {
        for what in ALL {
            // A proxy that is not there: no such name is looked up.
            let program = asking(&home, what).env("VAULT_PROXY_ADDR", "http://127.0.0.1:1");
            let ran = program.env(name, &value).run();
            refused(&ran, &[1, 2], &format!("{what:?} with a long {name}"));
        }
    }
}

/// What a path may lead to, by name.
fn traps(home: &Home) -> Vec<(&'static str, PathBuf)> {
    let at = |name: &str| home.path().join(name);
    fs::create_dir(at("folder")).expect("a folder");
    assert!(Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo").success());
    // Of no blocks, so that it costs no disk.
    File::create(at("huge")).expect("a file").set_len(64 << 30).expect("a length");
    let binary: Vec<u8> =
        (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect();
    fs::write(at("binary"), binary).expect("a file");
    symlink(at("loop"), at("loop")).expect("a link");
    symlink(at("nowhere"), at("dangling")).expect("a link");
    vec![
        ("a folder", at("folder")),
        ("a pipe that nobody writes", at("pipe")),
        ("a device that never ends", "/dev/zero".into()),
        ("a huge file", at("huge")),
        ("a binary file", at("binary")),
        ("a file that cannot be read", "/proc/self/mem".into()),
        ("a link to itself", at("loop")),
        ("a file in a file", at("binary").join("x")),
    ]
}

/// Runs all of them side by side: they wait more than they compute.
fn each<T: Sync>(cases: &[T], run: impl Fn(&T) + Sync) {
    thread::scope(|scope| {
        for part in cases.chunks(cases.len().div_ceil(8).max(1)) {
            scope.spawn(|| part.iter().for_each(&run));
        }
    });
}

#[test]
fn a_file_of_the_vault_environment_that_is_none_is_named() {
    let home = Home::new();
    let mut traps = traps(&home);
    traps.push(("a link to nothing", home.path().join("dangling")));
    let certificate = home.path().join("certificate.pem");
    fs::write(&certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .expect("a file");
    let mut cases = Vec::new();
    for (what, path) in &traps {
        for name in ["VAULT_CACERT", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"] {
            cases.push((name, *what, path.clone()));
        }
    }
    for (what, path) in &traps {
        // A folder is what it should be; one without certificates is of no use.
        cases.push(("VAULT_CAPATH", *what, path.clone()));
    }
    each(&cases, |(name, what, path)| {
        for asks in ALL {
            let program = asking(&home, asks).env(name, path);
            let program = match *name {
                "VAULT_CLIENT_CERT" => program.env("VAULT_CLIENT_KEY", &certificate),
                "VAULT_CLIENT_KEY" => program.env("VAULT_CLIENT_CERT", &certificate),
                _ => program,
            };
            let case = format!("{asks:?} with {what} as {name}");
            let ran = program.run();
            let line = refused(&ran, &[1], &case);
            assert!(line.contains(name), "{case}: {line}");
            assert!(line.contains(&*path.to_string_lossy()), "{case}: {line}");
        }
    });
}

#[test]
fn a_folder_of_certificates_with_traps_in_it_is_passed_through() {
    let home = Home::new();
    let traps = traps(&home);
    fs::create_dir(home.path().join("ca")).expect("a folder");
    for (name, (_, path)) in
        traps.iter().enumerate().filter(|(_, (what, _))| *what != "a huge file")
    {
        let _ = symlink(path, home.path().join("ca").join(name.to_string()));
    }
    let ran = asking(&home, Asks::CredentialProcess).env("VAULT_CAPATH", "ca").run();
    let line = refused(&ran, &[1], "a folder of traps");
    assert!(line.contains("VAULT_CAPATH"), "{line}");
}

#[test]
fn a_token_file_that_is_none_is_named() {
    let home = Home::new();
    let traps = traps(&home);
    each(&traps, |(what, path)| {
        for file in [".vault-token", ".vault"] {
            if *what == "a file in a file" {
                // As for `vault`, a home that is no folder holds nothing.
                continue;
            }
            let person = Home::new();
            symlink(path, person.path().join(file)).expect("a link");
            for asks in [Asks::CredentialProcess, Asks::Import] {
                let ran = asking(&person, asks).env("VAULT_TOKEN", "").run();
                let case = format!("{asks:?} with {what} as {file}");
                let line = refused(&ran, &[1], &case);
                assert!(
                    line.contains(&*person.path().join(file).to_string_lossy()),
                    "{case}: {line}"
                );
            }
        }
        let ran = asking(&home, Asks::CredentialProcess)
            .env("VAULT_TOKEN", "")
            .env("VAULT_CONFIG_PATH", path)
            .run();
        if *what != "a file in a file" {
            let line = refused(&ran, &[1], what);
            assert!(line.contains(&*path.to_string_lossy()), "{what}: {line}");
        }
    });
}

#[test]
fn a_token_file_that_holds_no_token_is_said_without_it() {
    let home = Home::new();
    for content in [
        format!("hvs.{SECRET}\nhvs.{SECRET}\n"),
        format!("hvs.{SECRET}\0"),
        format!("hvs.{SECRET}\u{1b}[2J"),
        format!("{SECRET}{}", "x".repeat(80 << 10)),
    ] {
        fs::write(home.path().join(".vault-token"), &content).expect("a file");
        for asks in [Asks::CredentialProcess, Asks::Import] {
            let ran = asking(&home, asks).env("VAULT_TOKEN", "").run();
            let line = refused(&ran, &[1], &format!("{asks:?}"));
            assert!(line.contains(".vault-token"), "{line}");
        }
    }
}

#[test]
fn a_token_helper_is_stopped_in_time_and_says_no_secret() {
    let home = Home::new();
    let helper = home.path().join("helper");
    let configuration = format!("token_helper = {:?}\n", helper.display().to_string());
    fs::write(home.path().join(".vault"), configuration).expect("a file");
    for script in [
        "exec sleep 600",
        "exec cat /dev/zero",
        "exec cat /dev/urandom",
        "printf 'hvs.s3cr3tOfTheTests\\nmore'",
        "echo hvs.s3cr3tOfTheTests; echo trouble >&2; exit 3",
        "kill -9 $$",
    ] {
        fs::write(&helper, format!("#!/bin/sh\n{script}\n")).expect("a file");
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o700)).expect("chmod");
        let program = asking(&home, Asks::CredentialProcess).env("VAULT_AWS_TIMEOUT", "3s");
        let ran = program.env("VAULT_TOKEN", "").run();
        let line = refused(&ran, &[1], script);
        assert!(line.contains("helper"), "{script}: {line}");
    }
}

#[test]
fn aws_settings_that_are_no_files_are_named() {
    let home = Home::new();
    let traps = traps(&home);
    let mut cases = Vec::new();
    for (what, path) in &traps {
        for name in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"] {
            cases.push((name, *what, path.clone()));
        }
        // The SDK reads it in time, and says what it says.
        if !matches!(*what, "a binary file" | "a file that cannot be read") {
            cases.push(("AWS_WEB_IDENTITY_TOKEN_FILE", *what, path.clone()));
        }
    }
    each(&cases, |(name, what, path)| {
        let case = format!("login with {what} as {name}");
        let ran = asking(&home, Asks::Login).env(name, path).run();
        let line = refused(&ran, &[1], &case);
        assert!(line.contains(name), "{case}: {line}");
        assert!(line.contains(&*path.to_string_lossy()), "{case}: {line}");
        let ran = asking(&home, Asks::Login).args(&["--region", "auto"]).env(name, path).run();
        refused(&ran, &[1], &case);
        let doctor = home.confined().args(&["doctor", "--address", NOWHERE]).env(name, path);
        let ran = doctor.env("AWS_EC2_METADATA_DISABLED", "true").run();
        assert_eq!((ran.code, &*ran.stderr), (1, "error: broken at: AWS identity\n"), "{case}");
        assert!(ran.stdout.contains(name), "{case}: {}", ran.stdout);
    });
    // None at all is what people say by this one.
    for name in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"] {
        let ran = asking(&home, Asks::Login).env(name, "/dev/null").run();
        assert!(refused(&ran, &[2], name).contains("cannot be reached"), "{ran:?}");
    }
}

#[test]
fn aws_nonsense_ends_in_one_line_and_in_time() {
    let home = Home::new();
    fs::create_dir(home.path().join(".aws")).expect("a folder");
    let config = format!(
        "[profile nested]\ncredential_process = /bin/echo {{\"Version\":1,\"SecretAccessKey\":\"{SECRET}\"\n\
         [profile fails]\ncredential_process = /bin/sh -c 'echo {SECRET}; exit 7'\n\
         [profile around]\nrole_arn = arn:aws:iam::111122223333:role/a\nsource_profile = about\n\
         [profile about]\nrole_arn = arn:aws:iam::111122223333:role/b\nsource_profile = around\n\
         [profile odd]\nregion = \u{1b}[2J\naws_access_key_id = AKIA\n"
    );
    fs::write(home.path().join(".aws/config"), config).expect("a file");
    let without_keys = |name: &str, value: &str| {
        let program = asking(&home, Asks::Login);
        program.env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", "").env(name, value)
    };
    for profile in ["nested", "fails", "around", "odd", "unknown", "\u{1b}[2J", "a\nb", " "] {
        let ran = without_keys("AWS_PROFILE", profile).run();
        refused(&ran, &[1, 2], &format!("AWS_PROFILE={profile:?}"));
    }
    for (name, value) in [
        ("AWS_REGION", "eu west\n1"),
        ("AWS_REGION", "../.."),
        ("AWS_ENDPOINT_URL_STS", "nonsense"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "file:///etc/passwd"),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@127.0.0.1:1/"),
        ("AWS_MAX_ATTEMPTS", "many"),
        ("AWS_RETRY_MODE", "never"),
        ("AWS_EC2_METADATA_DISABLED", "perhaps"),
    ] {
        let ran = without_keys(name, value)
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
            .args(&["--region", "auto"])
            .run();
        refused(&ran, &[1, 2], &format!("{name}={value:?}"));
    }
    for (id, key) in [
        ("AKIA\nEXAMPLE", SECRET),
        ("AKIAEXAMPLE", "s3cr3tOfTheTests\nX: y"),
        ("AKIA/EXAMPLE, Signature=x", SECRET),
        ("\u{1b}[2J", SECRET),
    ] {
        let program = asking(&home, Asks::Login).env("AWS_ACCESS_KEY_ID", id);
        let ran = program.env("AWS_SECRET_ACCESS_KEY", key).run();
        refused(&ran, &[1, 2], &format!("{id:?}"));
    }
    let session = format!("{SECRET}\r\nX-Vault-Token: x");
    let ran = asking(&home, Asks::Login).env("AWS_SESSION_TOKEN", session).run();
    refused(&ran, &[1, 2], "AWS_SESSION_TOKEN");
}

#[test]
fn a_kubeconfig_that_is_none_is_named() {
    let home = Home::new();
    let mut traps = traps(&home);
    let text = |name: &str, content: &str| {
        let path = home.path().join(name);
        fs::write(&path, content).expect("a file");
        path
    };
    traps.push(("no YAML", text("no-yaml", "{[: s3cr3tOfTheTests")));
    traps.push(("something else", text("else", "a: [1, 2]\nusers: s3cr3tOfTheTests\n")));
    traps.push(("laughter", text("laughter", &laughter())));
    traps.push(("nothing", home.path().join("dangling")));
    each(&traps, |(what, path)| {
        let doctor = home.confined().args(&["doctor", "vcs/web"]).env("KUBECONFIG", path).run();
        assert_eq!(doctor.code, 1, "{what}: {doctor:?}");
        assert!(doctor.stderr.starts_with("error: broken at: Kubernetes"), "{what}: {doctor:?}");
        harmless(&doctor, what);
        assert!(doctor.stdout.contains("KUBECONFIG"), "{what}: {}", doctor.stdout);
        assert!(!doctor.stdout.contains(SECRET), "{what}: {}", doctor.stdout);
        let ran = home.confined().args(&["run"]).env("KUBECONFIG", path).run();
        let line = refused(&ran, &[1], what);
        assert!(
            line.contains("KUBECONFIG") || ran.stderr.contains("hint: set KUBECONFIG"),
            "{line}"
        );
    });
}

/// A document that a reader which follows all its aliases would not survive.
fn laughter() -> String {
    let mut text = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..30 {
        let inner = vec![format!("*a{}", level - 1); 9].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
    }
    text
}

#[test]
fn manifests_that_are_no_files_are_named() {
    let home = Home::new();
    let mut traps = traps(&home);
    traps.push(("a link to nothing", home.path().join("dangling")));
    traps.push(("a path with an escape sequence", home.path().join("\u{1b}[2J\n.yaml")));
    fs::write(home.path().join("backend.yaml"), BACKEND).expect("a file");
    fs::write(home.path().join("role.yaml"), "a: b\n").expect("a file");
    each(&traps, |(what, path)| {
        let path = path.to_str().expect("a path");
        let backend = ["--backend", "backend.yaml"];
        let cases: [&[&str]; 5] = [
            &["plan", "--offline", "-f", path],
            &["plan", "--offline", "-f", "role.yaml", "--backend", path],
            &["import", "--backend", path],
            &[
                "import",
                backend[0],
                backend[1],
                "--orphans",
                "--cluster-id",
                "x",
                "--resources",
                path,
            ],
            &["policy", "--vault", "--backend", path],
        ];
        for args in cases {
            let program = home.confined().args(args).env("VAULT_TOKEN", "a-token-of-nobody");
            let ran = program.run();
            let case = format!("{what}: {}", args.join(" "));
            let line = refused(&ran, &[1], &case);
            let shown = vault_aws_operator::review::escape::line(path);
            assert!(line.contains(&shown), "{case}: {line}");
        }
    });
}

#[test]
fn stdin_that_never_ends_is_too_large() {
    let home = Home::new();
    fs::write(home.path().join("role.yaml"), "a: b\n").expect("a file");
    let cases: [&[&str]; 3] = [
        &["plan", "--offline", "-f", "-"],
        &["import", "--backend", "-"],
        &["policy", "--vault", "--backend", "-"],
    ];
    for args in cases {
        let endless = File::open("/dev/zero").expect("/dev/zero");
        let ran = home.confined().args(args).stdin(endless).run();
        let line = refused(&ran, &[1], &args.join(" "));
        assert!(line.contains("larger than 16 MiB"), "{line}");
    }
}

#[test]
fn text_that_no_reader_should_follow_is_refused_in_time() {
    let home = Home::new();
    fs::write(home.path().join("role.yaml"), "a: b\n").expect("a file");
    let deep = 100_000;
    let texts: Vec<(&str, String)> = vec![
        ("laughter", laughter()),
        ("a cycle", "a: &a [*a]\nkind: *a\n".to_owned()),
        ("a cycle of two", "a: &a {b: &b {a: *a, b: *b}}\n".to_owned()),
        ("merges", format!("a: &a {{x: 1}}\n{}", "b: {<<: [*a, *a, *a]}\n".repeat(20_000))),
        ("deep brackets", "[".repeat(deep)),
        ("deep braces", "{a: ".repeat(deep)),
        ("deep JSON", format!("{{\"kind\": {}", "[".repeat(deep))),
        ("deep lines", (0..3000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect()),
        ("many documents", "---\n{}\n".repeat(10_000)),
        ("many keys", (0..10_000).map(|key| format!("k{key}: 1\n")).collect()),
        ("one long line", format!("a: {}\n", "x".repeat(2 << 20))),
        ("one long key", format!("{}: x\n", "k".repeat(2 << 20))),
        ("anchors", (0..20_000).map(|n| format!("- &a{n} x\n")).collect()),
        ("tags", "!!python/object/apply:os.system [\"id\"]\n".to_owned()),
        ("a NUL", "kind: VaultAwsBackend\0\n".to_owned()),
        ("a quote that does not end", format!("a: \"{}", "\\u0041".repeat(1 << 17))),
        ("an indicator", "%YAML 9.9\n--- |\n".to_owned()),
    ];
    each(&texts, |(what, text)| {
        let file = format!("{}.yaml", what.replace(' ', "-"));
        fs::write(home.path().join(&file), text).expect("a file");
        let cases: [&[&str]; 4] = [
            &["plan", "--offline", "-f", &file],
            &["plan", "--offline", "-f", "role.yaml", "--backend", &file],
            &["import", "--backend", &file],
            &["policy", "--vault", "--backend", &file],
        ];
        for args in cases {
            let ran = home.confined().args(args).run();
            let case = format!("{what}: {}", args.join(" "));
            harmless(&ran, &case);
            // Some are YAML after all, only not of ours: `plan` passes over them, and says so.
            let is_plan_of_files = args.len() == 4 && args[0] == "plan";
            assert!(ran.code == 1 || (is_plan_of_files && ran.code == 0), "{case}: {ran:?}");
            assert!(is_plan_of_files || ran.stdout.is_empty(), "{case}: {}", ran.stdout);
            assert!(ran.stderr.lines().count() <= 1, "{case}: {}", ran.stderr);
        }
    });
}

#[test]
fn links_in_a_folder_of_manifests_lead_nowhere() {
    let home = Home::new();
    let folder = home.path().join("team");
    fs::create_dir_all(folder.join("deep")).expect("a folder");
    fs::write(folder.join("deep/a.yaml"), "a: b\n").expect("a file");
    for (from, to) in
        [("loop.yaml", "loop.yaml"), ("up", ".."), ("deep/up", "../.."), ("zero.yaml", "/dev/zero")]
    {
        symlink(to, folder.join(from)).expect("a link");
    }
    assert!(Command::new("mkfifo").arg(folder.join("p.yaml")).status().expect("mkfifo").success());
    let ran = home.confined().args(&["plan", "--offline", "-f", "team", "-o", "json"]).run();
    assert_eq!((ran.code, &*ran.stderr), (0, ""), "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(report["files"], 1);
}

/// What may stand in the place of a file of the cache.
fn spoil(path: &Path, how: &str, good: &[u8]) {
    let _ = fs::remove_file(path);
    match how {
        "a folder" => fs::create_dir(path).expect("a folder"),
        "a pipe" => {
            assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
        }
        "a device" => symlink("/dev/zero", path).expect("a link"),
        "a link to itself" => symlink(path, path).expect("a link"),
        "huge" => File::create(path).expect("a file").set_len(64 << 30).expect("a length"),
        "garbage" => fs::write(path, [0x80, 0, 0xff, b'{']).expect("a file"),
        "deep" => fs::write(path, "[".repeat(60_000)).expect("a file"),
        "of everybody" => {
            fs::write(path, good).expect("a file");
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("chmod");
        }
        "of somebody else" => {
            fs::write(path, good).expect("a file");
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
            // Only root can give a file away; everybody else is refused, and has garbage then.
            if chown(path, Some(65534), None).is_err() {
                fs::write(path, "garbage").expect("a file");
            }
        }
        _ => unreachable!("{how}"),
    }
    if matches!(how, "huge" | "garbage" | "deep") {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
    }
}

const SPOILT: [&str; 9] = [
    "a folder",
    "a pipe",
    "a device",
    "a link to itself",
    "huge",
    "garbage",
    "deep",
    "of everybody",
    "of somebody else",
];

fn helper(home: &Home) -> Program {
    home.confined()
        .args(&["credential-process", "-m", "aws/dev", "-r", "admin", "--timeout", "10s"])
        .env("VAULT_ADDR", NOWHERE)
        .env("VAULT_TOKEN", TOKEN)
        .env("VAULT_MAX_RETRIES", "0")
}

#[test]
fn whatever_stands_in_the_place_of_a_cache_entry_is_a_miss() {
    each(&SPOILT, |how| {
        let home = Home::new();
        let (path, document) = cached(&home);
        helper(&home).run().printed(&document);
        let good = fs::read(&path).expect("an entry");
        spoil(&path, how, &good);
        let ran = helper(&home).run();
        let line = ran.failed(2);
        assert!(
            line.contains("cannot be reached") && !line.contains("of-the-test"),
            "{how}: {line}"
        );
        let list = home.confined().args(&["credential-process", "cache", "list"]).run();
        list.printed("");
        let clear = home.confined().args(&["credential-process", "cache", "clear"]).run();
        assert!(clear.stdout.is_empty() && [0, 1].contains(&clear.code), "{how}: {clear:?}");
    });
}

#[test]
fn an_entry_that_was_cut_anywhere_is_a_miss() {
    let home = Home::new();
    let (path, _) = cached(&home);
    let good = fs::read(&path).expect("an entry");
    for length in (0..good.len()).step_by(7) {
        fs::write(&path, &good[..length]).expect("a file");
        helper(&home).run().failed(2);
    }
}

#[test]
fn a_lock_or_a_folder_that_is_none_is_said_and_done_without() {
    for how in ["a folder", "a device", "a link to itself", "a pipe"] {
        let home = Home::new();
        let (entry, _) = cached(&home);
        fs::remove_file(&entry).expect("an entry");
        spoil(&entry.with_extension("lock"), how, b"");
        let ran = helper(&home).run();
        harmless(&ran, how);
        assert_eq!((ran.code, &*ran.stdout), (2, ""), "{how}: {ran:?}");
        assert!(ran.stderr.contains("cannot be reached"), "{how}: {}", ran.stderr);
    }
    for how in ["a pipe", "a device", "a link to itself", "garbage", "huge"] {
        let home = Home::new();
        let folder = home.path().join(".cache").join(FOLDER);
        fs::create_dir(home.path().join(".cache")).expect("a folder");
        spoil(&folder, how, b"");
        let ran = helper(&home).run();
        harmless(&ran, how);
        assert_eq!((ran.code, &*ran.stdout), (2, ""), "{how}: {ran:?}");
        let warning = ran.stderr.lines().next().unwrap_or_default();
        assert!(warning.starts_with("warning: ") && warning.contains(FOLDER), "{how}: {ran:?}");
    }
}

/// Bytes that an environment can hold, some of them as they come in settings.
fn values() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "https://127.0.0.1:1",
        "http://",
        "unix://",
        "/",
        "..",
        "%2e%2e",
        "\\",
        "@",
        ":",
        "?",
        "#",
        "\n",
        "\r\n",
        "\t",
        "\u{1b}[2J",
        "\u{202e}",
        "{",
        "}",
        "[",
        "\"",
        "'",
        "$(id)",
        "`id`",
        "~",
        "~/x",
        "=",
        "-",
        "0",
        "1s",
        "true",
        "99999999999999999999",
        "é",
        "-----BEGIN CERTIFICATE-----\n",
        "hvs.",
        "/dev/zero",
        "/dev/null",
        "/proc/self/mem",
        " ",
    ]);
    prop_oneof![
        prop::collection::vec(pieces, 0..6).prop_map(|pieces| pieces.concat().into_bytes()),
        prop::collection::vec(1..=255_u8, 0..200),
    ]
}

#[test]
fn whatever_bytes_a_variable_holds_a_command_ends_in_order() {
    const VARIABLES: [&str; 22] = [
        "VAULT_ADDR",
        "VAULT_AGENT_ADDR",
        "VAULT_TOKEN",
        "VAULT_NAMESPACE",
        "VAULT_CACERT",
        "VAULT_CACERT_BYTES",
        "VAULT_CAPATH",
        "VAULT_CLIENT_CERT",
        "VAULT_TLS_SERVER_NAME",
        "VAULT_CLIENT_TIMEOUT",
        "VAULT_RATE_LIMIT",
        "VAULT_HEADERS",
        "VAULT_MFA",
        "VAULT_CONFIG_PATH",
        "VAULT_AWS_TIMEOUT",
        "VAULT_FORMAT",
        "XDG_CACHE_HOME",
        "HOME",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ];
    let home = Home::new();
    let case = (prop::sample::select(&VARIABLES[..]), values(), 0..ALL.len());
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&case, |(name, value, which)| {
        // Whatever the address is, it is asked of a proxy that is not there.
        let program = asking(&home, ALL[which]).env("VAULT_PROXY_ADDR", "http://127.0.0.1:1");
        let ran = program.env(name, OsStr::new(&OsString::from_vec(value.clone()))).run();
        prop_assert!([1, 2].contains(&ran.code), "{name}: {ran:?}");
        prop_assert_eq!(&*ran.stdout, "");
        let said: Vec<&str> = ran.stderr.lines().collect();
        let is_known = |line: &str| {
            ["error: ", "hint: ", "warning: "].iter().any(|word| line.starts_with(word))
        };
        prop_assert!(said.iter().all(|line| is_known(line)), "{}: {:?}", name, ran);
        let errors = said.iter().filter(|line| line.starts_with("error: ")).count();
        prop_assert_eq!(errors, 1, "{}: {:?}", name, ran);
        prop_assert!(
            !ran.stderr.contains(|c: char| c.is_control() && c != '\n'),
            "{:?}",
            ran.stderr
        );
        prop_assert!(!ran.stderr.contains(SECRET), "{}", ran.stderr);
        if matches!(
            name,
            "VAULT_TOKEN" | "VAULT_MFA" | "AWS_SECRET_ACCESS_KEY" | "AWS_SESSION_TOKEN"
        ) && let Ok(secret) = String::from_utf8(value)
            && secret.trim().len() > 8
            // By chance it may be what is asked, which has to be named.
            && !NOWHERE.contains(secret.trim())
        {
            prop_assert!(!ran.stderr.contains(secret.trim()), "{}", ran.stderr);
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn no_command_leaves_a_core_dump() {
    let home = Home::new();
    // What it starts may leave none either, and tells us of our own limits.
    let helper = home.path().join("helper");
    let script = "#!/bin/sh\ngrep 'Max core file size' /proc/self/limits > limits\n\
                  cat /proc/$PPID/limits | grep 'Max core file size' >> limits\necho hvs.x\n";
    fs::write(&helper, script).expect("a file");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o700)).expect("chmod");
    let configuration = format!("token_helper = {:?}\n", helper.display().to_string());
    fs::write(home.path().join(".vault"), configuration).expect("a file");
    for what in [Asks::CredentialProcess, Asks::Import] {
        let _ = fs::remove_file(home.path().join("limits"));
        let ran = asking(&home, what).env("VAULT_TOKEN", "").run();
        assert_eq!(ran.code, 2, "{what:?}: {ran:?}");
        let limits = fs::read_to_string(home.path().join("limits")).expect("the helper ran");
        let lines: Vec<Vec<&str>> =
            limits.lines().map(|line| line.split_whitespace().collect()).collect();
        let none = ["Max", "core", "file", "size", "0", "0", "bytes"];
        assert_eq!(lines, [none, none], "{what:?}");
    }
}

#[test]
fn a_command_that_is_broken_off_with_a_token_in_hand_is_not_dumped() {
    let home = Home::new();
    let helper = home.path().join("helper");
    fs::write(&helper, "#!/bin/sh\ntouch started\nexec sleep 3\n").expect("a file");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o700)).expect("chmod");
    let configuration = format!("token_helper = {:?}\n", helper.display().to_string());
    fs::write(home.path().join(".vault"), configuration).expect("a file");
    // As large a dump as the machine allows.
    let script = "ulimit -c \"$(ulimit -H -c)\"; exec \"$0\" credential-process -m aws -r web";
    let mut child = Command::new("/bin/sh")
        .args(["-c", script, BINARY])
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", "/usr/bin:/bin")
        .env("VAULT_ADDR", NOWHERE)
        .current_dir(home.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    while !home.path().join("started").exists() {
        assert_eq!(child.try_wait().expect("a child"), None);
        thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::ABORT).expect("a signal");
    let status = child.wait().expect("it ends");
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}
