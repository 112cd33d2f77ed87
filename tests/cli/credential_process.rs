//! `credential-process` with what is in its cache, while no Vault is anywhere.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use rustix::process::geteuid;
use vault_aws_operator::{
    clock,
    credentials::{Cache, Entry, Key, Parts, cache::FOLDER},
    vault::aws_secrets::Request,
};

use crate::program::{BINARY, Home, Program};

/// Nobody listens there.
pub(crate) const NOWHERE: &str = "https://127.0.0.1:1";
pub(crate) const TOKEN: &str = "hvs.of-the-test";

fn request() -> Request {
    Request { mount: "aws/dev".to_owned(), role: "admin".to_owned(), ..Request::default() }
}

fn key(request: &Request, token: Option<&str>) -> Key {
    Key::of(&Parts { server: NOWHERE, user: geteuid().as_raw(), namespace: None, request, token })
}

fn folder(home: &Home) -> PathBuf {
    home.path().join(".cache").join(FOLDER)
}

fn entry_file(home: &Home) -> PathBuf {
    folder(home).join(format!("{}.json", key(&request(), Some(TOKEN))))
}

/// An entry that was asked for some seconds ago and has some left.
fn entry(age: i64, left: i64) -> Entry {
    let now = clock::now();
    let asked = now - SignedDuration::from_secs(age);
    let end = Timestamp::from_second(now.as_second() + left).expect("a time");
    let text = format!(
        r#"{{"format":1,"source":{{"server":"{NOWHERE}","path":"aws/dev/sts/admin"}},
            "asked":"{asked}","expiration":"{end}","limit":"{end}","access_key_id":"ASIATEST",
            "secret_access_key":"secret-of-the-test","session_token":"session-of-the-test",
            "account_id":"111122223333"}}"#
    );
    Entry::parse(text.as_bytes()).expect("an entry")
}

fn store(home: &Home, entry: &Entry) -> Cache {
    let cache = Cache::create(&folder(home)).expect("a cache");
    cache.store(&key(&request(), Some(TOKEN)), entry).expect("an entry is stored");
    cache
}

/// A home with an entry that is fresh: its file, and what is printed of it.
pub(crate) fn cached(home: &Home) -> (PathBuf, String) {
    let entry = entry(10, 3590);
    store(home, &entry);
    (entry_file(home), document(&entry))
}

fn document(entry: &Entry) -> String {
    format!(
        "{{\"Version\":1,\"AccessKeyId\":\"ASIATEST\",\"SecretAccessKey\":\"secret-of-the-test\",\
         \"SessionToken\":\"session-of-the-test\",\"Expiration\":\"{}\",\
         \"AccountId\":\"111122223333\"}}\n",
        entry.expiration
    )
}

fn bare(home: &Home) -> Program {
    home.program(BINARY)
        .args(&["credential-process", "--mount", "aws/dev", "--role", "admin"])
        .env("VAULT_ADDR", NOWHERE)
        .env("VAULT_MAX_RETRIES", "0")
}

fn asking(home: &Home) -> Program {
    bare(home).env("VAULT_TOKEN", TOKEN)
}

#[test]
fn a_hit_prints_the_document_and_nothing_else() {
    let home = Home::new();
    let entry = entry(10, 3590);
    store(&home, &entry);
    asking(&home).run().printed(&document(&entry));
    // No connection is prepared for it: this bundle would be an error.
    asking(&home).env("VAULT_CACERT", "/nowhere").run().printed(&document(&entry));
}

#[test]
fn under_the_name_of_the_seed_the_program_is_a_drop_in() {
    let home = Home::new();
    let entry = entry(10, 3590);
    store(&home, &entry);
    let link = home.path().join("vault-aws-credential-process");
    symlink(BINARY, &link).expect("a link");
    home.program(&link)
        .args(&["-m", "aws/dev/", "-r", "admin"])
        .env("VAULT_ADDR", NOWHERE)
        .env("VAULT_TOKEN", TOKEN)
        .run()
        .printed(&document(&entry));
    let version = home.program(&link).args(&["--version"]).run();
    assert_eq!((version.code, &*version.stderr), (0, ""));
}

#[test]
fn what_was_cached_for_another_question_is_not_served() {
    let home = Home::new();
    store(&home, &entry(10, 3590));
    for (name, value) in [
        ("VAULT_ADDR", "https://127.0.0.1:2"),
        ("VAULT_NAMESPACE", "team"),
        ("VAULT_TOKEN", "hvs.of-somebody-else"),
    ] {
        let ran = asking(&home).env(name, value).run();
        let line = ran.failed(2);
        assert!(line.contains("aws/dev/sts/admin") && !line.contains("hvs."), "{line}");
    }
    asking(&home).args(&["--ttl", "15m"]).run().failed(2);
    asking(&home).args(&["--endpoint", "creds"]).run().failed(2);
}

#[test]
fn a_failure_names_address_namespace_and_path() {
    let home = Home::new();
    let ran = asking(&home).env("VAULT_NAMESPACE", "team/").run();
    let line = ran.failed(2);
    for part in ["POST aws/dev/sts/admin", NOWHERE, "namespace team", "cannot be reached"] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn what_is_due_is_served_while_vault_is_down_and_said_once() {
    let home = Home::new();
    let entry = entry(700, 200);
    store(&home, &entry);
    let ran = asking(&home).run();
    assert_eq!((ran.code, &*ran.stdout), (0, &*document(&entry)), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("warning: POST aws/dev/sts/admin"), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    asking(&home).run().printed(&document(&entry));
}

#[test]
fn what_is_about_to_end_is_not_served() {
    let home = Home::new();
    store(&home, &entry(850, 50));
    asking(&home).run().failed(2);
}

#[test]
fn an_entry_of_the_future_is_a_miss() {
    let home = Home::new();
    store(&home, &entry(-3600, 7200));
    asking(&home).run().failed(2);
}

#[test]
fn a_damaged_entry_is_a_miss() {
    let home = Home::new();
    store(&home, &entry(10, 3590));
    for damage in ["", "{", "null", "\0\0", "{\"format\":99}"] {
        fs::write(entry_file(&home), damage).expect("a damaged entry");
        asking(&home).run().failed(2);
    }
}

#[test]
fn an_entry_that_others_may_read_is_a_miss() {
    let home = Home::new();
    store(&home, &entry(10, 3590));
    fs::set_permissions(entry_file(&home), fs::Permissions::from_mode(0o644)).expect("chmod");
    asking(&home).run().failed(2);
}

#[test]
fn an_entry_that_is_a_link_is_a_miss() {
    let home = Home::new();
    store(&home, &entry(10, 3590));
    let elsewhere = home.path().join("elsewhere");
    fs::rename(entry_file(&home), &elsewhere).expect("moved");
    symlink(&elsewhere, entry_file(&home)).expect("a link");
    asking(&home).run().failed(2);
}

#[test]
fn a_folder_that_others_may_use_is_not_used_and_that_is_said() {
    let home = Home::new();
    store(&home, &entry(10, 3590));
    fs::set_permissions(folder(&home), fs::Permissions::from_mode(0o755)).expect("chmod");
    let ran = asking(&home).run();
    assert_eq!((ran.code, &*ran.stdout), (2, ""));
    assert!(ran.stderr.contains("chmod 700"), "{}", ran.stderr);
}

#[test]
fn no_cache_neither_reads_nor_writes() {
    let home = Home::new();
    asking(&home).args(&["--no-cache"]).run().failed(2);
    assert!(!home.path().join(".cache").exists());
    store(&home, &entry(10, 3590));
    asking(&home).args(&["--no-cache"]).run().failed(2);
}

#[test]
fn the_folder_is_below_an_absolute_xdg_cache_home() {
    let home = Home::new();
    let entry = entry(10, 3590);
    store(&home, &entry);
    asking(&home).env("XDG_CACHE_HOME", "relative").run().printed(&document(&entry));
    let xdg = home.path().join("xdg");
    asking(&home).env("XDG_CACHE_HOME", &xdg).run().failed(2);
    fs::remove_dir_all(&xdg).expect("it was made there");
    fs::rename(home.path().join(".cache"), &xdg).expect("moved");
    asking(&home).env("XDG_CACHE_HOME", &xdg).run().printed(&document(&entry));
}

#[test]
fn the_token_of_vault_login_is_found_but_not_for_a_proxy() {
    let home = Home::new();
    let entry = entry(10, 3590);
    store(&home, &entry);
    fs::write(home.path().join(".vault-token"), format!("{TOKEN}\n")).expect("a token");
    bare(&home).run().printed(&document(&entry));
    bare(&home).env("VAULT_AGENT_ADDR", NOWHERE).run().failed(2);
}

#[test]
fn a_token_helper_is_asked_and_dumps_no_core() {
    let home = Home::new();
    let entry = entry(10, 3590);
    store(&home, &entry);
    let (helper, limit) = (home.path().join("helper"), home.path().join("limit"));
    let script = format!("#!/bin/sh\nulimit -c > {}\necho {TOKEN}\n", limit.display());
    fs::write(&helper, script).expect("a helper");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::write(home.path().join(".vault"), format!("token_helper = {helper:?}\n"))
        .expect("~/.vault");
    bare(&home).run().printed(&document(&entry));
    assert_eq!(fs::read_to_string(limit).expect("the helper ran").trim(), "0");
}

#[test]
fn a_token_helper_that_fails_is_named_on_one_line() {
    let home = Home::new();
    let helper = home.path().join("helper");
    fs::write(&helper, "#!/bin/sh\nprintf 'one\\ntwo\\n' >&2\nexit 7\n").expect("a helper");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::write(home.path().join(".vault"), format!("token_helper = {helper:?}\n"))
        .expect("~/.vault");
    let ran = bare(&home).run();
    let line = ran.failed(1);
    assert!(line.contains("helper") && line.contains("one two"), "{line}");
}

#[test]
fn whoever_finds_the_lock_taken_does_not_wait_for_what_is_there() {
    let home = Home::new();
    let entry = entry(700, 200);
    let cache = store(&home, &entry);
    let key = key(&request(), Some(TOKEN));
    let _lock = cache.try_lock(&key).expect("a lock file").expect("the lock");
    let start = Instant::now();
    asking(&home).run().printed(&document(&entry));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn whoever_waits_for_the_lock_gives_up_in_time() {
    let home = Home::new();
    let cache = Cache::create(&folder(&home)).expect("a cache");
    let key = key(&request(), Some(TOKEN));
    let _lock = cache.try_lock(&key).expect("a lock file").expect("the lock");
    let ran = asking(&home).args(&["--timeout", "1s"]).run();
    assert!(ran.failed(2).contains("another vault-aws"), "{}", ran.stderr);
}

#[test]
fn settings_that_are_wrong_are_an_error_of_this_machine() {
    let home = Home::new();
    for (name, value) in [
        ("VAULT_ADDR", "http://vault.example.com:8200"),
        ("VAULT_ADDR", "nonsense"),
        ("VAULT_SKIP_VERIFY", "true"),
        ("VAULT_SKIP_VERIFY", "maybe"),
        ("VAULT_CLIENT_TIMEOUT", "soon"),
        ("VAULT_CACERT", "/nowhere/ca.pem"),
        ("VAULT_AWS_TIMEOUT", "2m"),
    ] {
        let ran = asking(&home).env(name, value).run();
        let line = ran.failed(1);
        assert!(line.contains(name), "{line}");
    }
}

#[test]
fn usage_errors_are_one_line_and_code_1() {
    let home = Home::new();
    for args in [
        &["credential-process"][..],
        &["credential-process", "--mount", "aws"],
        &["credential-process", "--mount", "aws", "--role", "x", "--wrong"],
        &["credential-process", "--mount", "aws", "--role", "x", "--ttl", "60s"],
    ] {
        home.program(BINARY).args(args).run().failed(1);
    }
}

#[test]
fn a_program_that_leads_back_to_itself_stops() {
    let home = Home::new();
    store(&home, &entry(10, 3590));
    let ran = asking(&home).env("VAULT_AWS_STARTED_BY", "login").run();
    assert!(ran.failed(1).contains("started by itself"), "{}", ran.stderr);
}

#[test]
fn a_stdout_that_cannot_be_written_is_an_error() {
    let home = Home::new();
    store(&home, &entry(10, 3590));
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let ran = asking(&home).stdout(full).run();
    assert!(ran.failed(1).contains("stdout"), "{}", ran.stderr);
}

#[test]
fn the_cache_is_listed_without_secrets_and_emptied() {
    let home = Home::new();
    let list = || home.program(BINARY).args(&["credential-process", "cache", "list"]).run();
    list().printed("");
    let entry = entry(10, 3590);
    store(&home, &entry);
    let end = entry.limit;
    list().printed(&format!("aws/dev/sts/admin\t{NOWHERE}\t-\t{end}\tfresh\n"));
    home.program(BINARY).args(&["credential-process", "cache", "clear"]).run().printed("");
    list().printed("");
    asking(&home).run().failed(2);
}

#[test]
fn a_lease_of_another_vault_is_not_revoked_by_this_one() {
    let home = Home::new();
    let cache = Cache::create(&folder(&home)).expect("a cache");
    let text = fs::read_to_string({
        store(&home, &entry(10, 3590));
        entry_file(&home)
    })
    .expect("an entry");
    let with_lease =
        text.replace("\"account_id\"", "\"lease_id\":\"aws/creds/x/1\",\"account_id\"");
    let entry = Entry::parse(with_lease.as_bytes()).expect("an entry");
    cache.store(&key(&request(), Some(TOKEN)), &entry).expect("stored");
    let ran = home
        .program(BINARY)
        .args(&["credential-process", "cache", "clear", "--revoke"])
        .args(&["--address", "https://127.0.0.1:2"])
        .env("VAULT_TOKEN", TOKEN)
        .run();
    assert_eq!((ran.code, &*ran.stdout), (2, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("aws/dev/sts/admin is not revoked"), "{}", ran.stderr);
    assert!(entry_file(&home).exists(), "it can still be revoked");
}

#[test]
fn help_has_an_example() {
    let home = Home::new();
    for args in
        [&["credential-process", "--help"][..], &["credential-process", "cache", "clear", "--help"]]
    {
        let ran = home.program(BINARY).args(args).run();
        assert_eq!((ran.code, &*ran.stderr), (0, ""));
        assert!(ran.stdout.contains("Example"), "{}", ran.stdout);
    }
}
