//! `login`, `doctor`, `man` and `completions` where no server is needed: what is refused on this
//! machine, in how many lines, with which code.

use std::fs;

use crate::program::{BINARY, Home, Program, Ran};

fn login(home: &Home, args: &[&str]) -> Program {
    home.program(BINARY).args(&["login"]).args(args).env("AWS_EC2_METADATA_DISABLED", "true")
}

/// One line that says what is wrong, and perhaps one that says what to do.
#[track_caller]
fn refused(ran: &Ran, code: i32, said: &str) {
    assert_eq!((ran.code, &*ran.stdout), (code, ""), "{}", ran.stderr);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert!(lines[0].starts_with("error: ") && lines[0].contains(said), "{}", ran.stderr);
    assert!(lines.len() <= 2 && lines[1..].iter().all(|line| line.starts_with("hint: ")));
}

#[test]
fn a_profile_that_leads_back_to_our_own_helper_is_refused_in_one_line() {
    let home = Home::new();
    fs::create_dir(home.path().join(".aws")).expect("a folder");
    let config = "[profile vault]\n\
                  credential_process = /usr/local/bin/vault-aws credential-process -m aws -r web\n\
                  [profile web]\nrole_arn = arn:aws:iam::111122223333:role/web\n\
                  source_profile = vault\n";
    fs::write(home.path().join(".aws/config"), config).expect("a file");
    for profile in ["vault", "web"] {
        let ran = login(&home, &["--role", "web"]).env("AWS_PROFILE", profile).run();
        refused(&ran, 1, "the AWS profile `vault` gets its credentials from Vault");
    }
}

#[test]
fn what_would_show_the_token_to_others_needs_insistence() {
    let home = Home::new();
    let ran = login(&home, &["--address", "http://vault.example.com:8200"]).run();
    refused(&ran, 1, "plain http to another machine: say --insecure");
    let ran = login(&home, &[]).env("VAULT_SKIP_VERIFY", "true").run();
    refused(&ran, 1, "VAULT_SKIP_VERIFY would take any certificate for Vault's: say --insecure");
}

#[test]
fn without_an_aws_identity_it_is_this_machines_fault() {
    let home = Home::new();
    refused(&login(&home, &[]).run(), 1, "no AWS credentials were found");
}

#[test]
fn regions_that_do_not_fit_together_are_both_named() {
    let home = Home::new();
    let endpoint = "https://sts.eu-west-1.amazonaws.com";
    let ran = login(&home, &["--region", "us-east-1", "--sts-endpoint", endpoint]).run();
    refused(&ran, 1, "the region is `us-east-1`, but the STS endpoint is that of `eu-west-1`");
    refused(&login(&home, &["--region", "EU"]).run(), 1, "`EU` is not an AWS region");
}

#[test]
fn a_vault_that_is_not_there_is_the_other_sides_fault() {
    let home = Home::new();
    let ran = login(&home, &["--address", "https://127.0.0.1:1", "--role", "web"])
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "a-secret-that-is-not-said")
        .run();
    refused(&ran, 2, "logging in as role `web` at auth/aws: Vault cannot be reached");
    assert!(!ran.stderr.contains("a-secret-that-is-not-said"), "{}", ran.stderr);
    assert!(!home.path().join(".vault-token").exists());
}

#[test]
fn an_instance_without_metadata_is_not_one() {
    let home = Home::new();
    let ran = login(&home, &["--type", "ec2"])
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
        .run();
    refused(&ran, 1, "the instance metadata service");
    assert!(!home.path().join(".local").exists(), "no nonce is made for nothing");
}

#[test]
fn doctor_says_the_first_broken_link_last() {
    let home = Home::new();
    let doctor = || {
        home.program(BINARY)
            .args(&["doctor", "--address", "https://127.0.0.1:1"])
            .env("AWS_EC2_METADATA_DISABLED", "true")
    };
    let ran = doctor().run();
    assert_eq!((ran.code, &*ran.stderr), (1, "error: broken at: AWS identity\n"));
    let last: Vec<&str> = ran.stdout.trim_end().lines().rev().take(2).collect();
    assert!(last[1].starts_with("First broken link: AWS identity: "), "{}", ran.stdout);
    assert!(last[0].starts_with("Cure: set AWS_ACCESS_KEY_ID"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}'), "colour is for terminals");

    let ran = doctor().args(&["--output", "json"]).run();
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(report["firstBroken"]["step"], "AWS identity");
    // Vault does not depend on it, and was looked at.
    let vault = &report["findings"][3];
    assert_eq!((&vault["step"], &vault["mark"]), (&"Vault".into(), &"broken".into()));
}

#[test]
fn doctor_without_a_cluster_says_so() {
    let home = Home::new();
    let ran = home.program(BINARY).args(&["doctor", "vcs/web", "-n", "team-a"]).run();
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("Cure: set KUBECONFIG"), "{}", ran.stdout);
    let ran = home.program(BINARY).args(&["doctor", "pod/web"]).run();
    assert_eq!((ran.code, &*ran.stdout), (1, ""));
    assert!(ran.stderr.contains("the kinds are"), "{}", ran.stderr);
}

#[test]
fn manual_pages_and_completions_come_from_the_binary() {
    let home = Home::new();
    let run = |args: &[&str]| {
        let ran = home.program(BINARY).args(args).run();
        assert_eq!((ran.code, &*ran.stderr), (0, ""), "{args:?}");
        ran.stdout
    };
    assert!(run(&["man"]).contains(".TH vault"));
    assert_eq!(run(&["man", "pages"]), "");
    let folder = home.path().join("pages");
    for page in ["vault-aws.1", "vault-aws-login.1", "vault-aws-credential-process-cache-clear.1"] {
        let text = fs::read_to_string(folder.join(page)).expect(page);
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
    assert!(run(&["completions", "bash"]).contains("complete -F"));
}
