//! Nothing that is secret may stand in what the operator says: its logs, its events, its statuses, its
//! metrics, the output of its commands, and what it tells the programs that it starts; and no core dump may
//! hold its memory. Worlds register their secrets here as they make them; the last trial searches
//! everything for them.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    process::{Command, Output},
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use libtest_mimic::Trial;

use crate::{
    stage::{Stage, Stages},
    trial::catch,
};

/// A secret of this run.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Planted {
    what: &'static str,
    value: String,
}

static PLANTED: Mutex<BTreeSet<Planted>> = Mutex::new(BTreeSet::new());

/// Texts that only secrets have, whichever they are: a key, a token of Vault (more than its prefix), a
/// token of a ServiceAccount, a signed request.
const SHAPES: [(&str, &str); 9] = [
    ("a private key", "PRIVATE KEY-----"),
    ("a ServiceAccount token", "eyJhbGciOi"),
    ("a signature", "AWS4-HMAC-SHA256 Credential="),
    ("an STS session token", "X-Amz-Security-Token:"),
    ("a Vault token", "hvs.CAES"),
    ("a batch token of Vault", "hvb.AAAA"),
    // As Vault is sent it: base64 of JSON, in which it may begin at any of three places.
    ("a signature in base64", "QVdTNC1ITUFDLVNIQTI1NiBDcmVkZW50aWFsP"),
    ("a signature in base64", "FXUzQtSE1BQy1TSEEyNTYgQ3JlZGVudGlhbD"),
    ("a signature in base64", "BV1M0LUhNQUMtU0hBMjU2IENyZWRlbnRpYWw9"),
];

/// Registers a secret. Short ones would be found by chance, so they must not exist.
pub(crate) fn plant(what: &'static str, value: &str) {
    assert!(value.len() >= 16, "{what}: too short to be searched for");
    planted().insert(Planted { what, value: value.to_owned() });
}

/// Registers a PEM text: each of its lines, and its base64 as it stands in a Secret.
pub(crate) fn plant_pem(what: &'static str, pem: &str) {
    for line in pem.lines().filter(|line| !line.starts_with("-----") && line.len() >= 16) {
        plant(what, line);
    }
    let encoded = STANDARD.encode(pem);
    // Behind the header, which all have in common.
    if let Some(part) = encoded.get(60..120) {
        plant(what, part);
    }
}

static HEARD: Mutex<Vec<Source>> = Mutex::new(Vec::new());

/// Keeps what a command of ours said, or a program was told that it started, for the search at the end.
pub(crate) fn heard(what: &str, text: &str) {
    let mut heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
    heard.push(Source { name: what.to_owned(), text: text.to_owned() });
}

/// Keeps what a run of `vault-aws` said to people, and, unless it is what its user asked for, to programs.
/// Programs that are not ours print what they like.
pub(crate) fn heard_of(command: &Command, output: &Output) {
    if command.get_program() != env!("CARGO_BIN_EXE_vault-aws") {
        return;
    }
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    let name = args.first().map(AsRef::as_ref).unwrap_or_default();
    heard(&format!("stderr of vault-aws {name}"), &String::from_utf8_lossy(&output.stderr));
    if !matches!(name, "login" | "credential-process") {
        heard(&format!("stdout of vault-aws {name}"), &String::from_utf8_lossy(&output.stdout));
    }
    // Everybody on the machine can read them.
    heard(&format!("arguments of vault-aws {name}"), &args.join("\n"));
}

fn planted() -> std::sync::MutexGuard<'static, BTreeSet<Planted>> {
    PLANTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that was said.
#[derive(Clone)]
struct Source {
    name: String,
    text: String,
}

/// The trial that searches. It has to be the last.
pub(crate) fn trial(stages: &Arc<Stages>) -> Trial {
    let stages = Arc::clone(stages);
    Trial::test("leaks::no_secret_was_said_in_the_whole_run", move || {
        // At least one: alone, this trial looks at an operator that has nothing to do.
        stages.shared()?;
        Ok(catch(|| search(&stages.started()))?)
    })
}

fn search(stages: &[Arc<Stage>]) {
    let mut sources = commands();
    sources.extend(HEARD.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
    for stage in stages {
        sources.extend(stage.runtime().block_on(said(stage)));
        keeps_no_core(stage);
        for secret in stage.lab.sts().issued() {
            plant("AWS key or session token", &secret);
        }
    }
    for expected in
        ["role-writer log", "syncer log", "events", "statuses", "metrics", "vault-aws crd"]
    {
        let said = sources.iter().filter(|source| source.name.contains(expected));
        let length: usize = said.map(|source| source.text.len()).sum();
        assert!(length > 100, "there is nothing to search in: {expected}");
    }
    // The search finds what is there: in a copy of each source, in the middle of a line of JSON.
    let secrets: Vec<Planted> = planted().iter().cloned().collect();
    let bait = secrets.last().expect("the run has secrets");
    let index = Index::new(&secrets);
    for source in &sources {
        let line = format!("{{\"message\":\"got\\n{}\\nfrom Vault\"}}\n", bait.value);
        let text = format!("{}{line}", source.text);
        let copy = Source { name: source.name.clone(), text };
        let found = leaks(&copy, &index);
        assert!(!found.is_empty(), "the search missed a secret in {}", source.name);
    }
    let found: Vec<String> = sources.iter().flat_map(|source| leaks(source, &index)).collect();
    assert!(found.is_empty(), "secrets were said:\n{}", found.join("\n"));
}

/// All secrets by how they begin, so that a text is read once and not once for each.
struct Index<'a> {
    /// By the first bytes, as [`Index::slot`] has them: most places of a text begin no secret.
    begins: Vec<bool>,
    by_head: HashMap<&'a [u8], Vec<&'a Planted>>,
}

impl<'a> Index<'a> {
    /// No secret is shorter.
    const HEAD: usize = 16;

    fn new(secrets: &'a [Planted]) -> Self {
        let mut begins = vec![false; 1 << 24];
        let mut by_head: HashMap<&[u8], Vec<&Planted>> = HashMap::new();
        for secret in secrets {
            let head = &secret.value.as_bytes()[..Self::HEAD];
            begins[Self::slot(head)] = true;
            by_head.entry(head).or_default().push(secret);
        }
        Self { begins, by_head }
    }

    fn slot(bytes: &[u8]) -> usize {
        usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2])
    }

    fn found_in(&self, text: &str) -> Vec<&'a Planted> {
        let bytes = text.as_bytes();
        let mut found: Vec<&Planted> = Vec::new();
        for (at, head) in bytes.windows(Self::HEAD).enumerate() {
            if !self.begins[Self::slot(head)] {
                continue;
            }
            for &secret in self.by_head.get(head).into_iter().flatten() {
                if bytes[at..].starts_with(secret.value.as_bytes()) && !found.contains(&secret) {
                    found.push(secret);
                }
            }
        }
        found
    }
}

/// Which secrets stand in it, without saying them again.
fn leaks(source: &Source, secrets: &Index<'_>) -> Vec<String> {
    let known = secrets
        .found_in(&source.text)
        .into_iter()
        .map(|secret| (secret.what, secret.value.as_str()));
    let shapes = SHAPES.iter().copied().filter(|(_, shape)| source.text.contains(shape));
    known
        .chain(shapes)
        .map(|(what, value)| {
            let at = source.text.find(value).unwrap_or_default();
            let line = 1 + source.text[..at].matches('\n').count();
            format!("{what} in {}, line {line}", source.name)
        })
        .collect()
}

/// What the operator of a lab has said so far.
async fn said(stage: &Stage) -> Vec<Source> {
    let mut sources = Vec::new();
    let lab = stage.lab.name();
    for operator in stage.operators() {
        let name = operator.component().name();
        let log = fs::read(operator.log()).expect("the operator's log");
        let text = String::from_utf8_lossy(&log).into_owned();
        sources.push(Source { name: format!("{lab}: {name} log"), text });
        let text = operator.metrics().await.expect("metrics");
        sources.push(Source { name: format!("{lab}: {name} metrics"), text });
    }
    for (name, resources) in [
        ("events", "events.events.k8s.io,events"),
        ("statuses", "vaultawsbackends,vaultawsroles,vaultcertsyncs"),
    ] {
        let args = ["get", resources, "--all-namespaces", "--output=json"];
        let output = stage.lab.kubectl(&args).await.expect("kubectl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        sources.push(Source { name: format!("{lab}: {name}"), text });
    }
    sources
}

/// No signal makes the kernel write the operator's memory to a disk, and none did.
fn keeps_no_core(stage: &Stage) {
    for operator in stage.operators() {
        let name = operator.component().name();
        let pid = operator.pid().unwrap_or_else(|| panic!("{name} does not run"));
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the limits");
        let line = limits.lines().find(|line| line.starts_with("Max core file size"));
        let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        assert_eq!(words, ["Max", "core", "file", "size", "0", "0", "bytes"], "{name}");
    }
    let mut folders = vec![stage.lab.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_core = name == "core" || name.starts_with("core.");
            assert!(is_folder || !is_core, "a core dump: {}", entry.path().display());
            if is_folder {
                folders.push(entry.path());
            }
        }
    }
}

/// What the program says by itself.
fn commands() -> Vec<Source> {
    [&["crd"][..], &["--help"], &["run", "--help"], &["--version"], &["nonsense"]]
        .into_iter()
        .map(|args| {
            let output = Command::new(env!("CARGO_BIN_EXE_vault-aws"))
                .args(args)
                .output()
                .expect("the program runs");
            let text =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            Source { name: format!("vault-aws {}", args.join(" ")), text }
        })
        .collect()
}
