//! `cargo lab bench cli`: how long a cache hit of `credential-process` takes as a whole process, beside
//! what a Python SDK pays before it can ask for anything.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{circumstances, table::Table};
use crate::{
    aws::{self, REGION, TrustPolicy},
    cargo,
    demo::story::Story,
    error::{Doing as _, Result},
    files,
    lab::{Lab, Options, Parts},
    toolchain::Toolchain,
};

/// Runs of our binary.
const HITS: usize = 300;
/// Runs of Python, which takes its time.
const IMPORTS: usize = 15;

/// What is measured.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Settings {
    /// Build and measure the release profile
    #[arg(long)]
    release: bool,
}

/// Measures; returns the figures as text.
///
/// # Errors
/// Something could not be built or started, or a program failed.
pub async fn run(settings: Settings) -> Result<String> {
    let story = Story::aside();
    let building = async { tokio::task::spawn_blocking(Toolchain::ensure).await? };
    story.step("servers are built", building).await?;
    let release = settings.release;
    let building =
        async { tokio::task::spawn_blocking(move || cargo::build_operator(release)).await? };
    let binary = story.step("vault-aws is built", building).await?;
    let parts = Parts { kubernetes: false, ..Parts::default() };
    let options = Options { name: "bench-cli".to_owned(), parts, ..Options::default() };
    let lab = story.step("Vault and the AWS emulator run", Lab::start(options)).await?;
    let measured = measure(&story, &lab, &binary, release).await;
    lab.stop().await?;
    measured.map(|table| table.to_string())
}

async fn measure(story: &Story, lab: &Lab, binary: &Path, release: bool) -> Result<Table> {
    let mut table = Table::default();
    circumstances(&mut table, binary, release)?;
    story.step("Vault's AWS secrets engine has the role dev", teach(lab)).await?;
    let home = lab.folder().join("home");
    files::create_folder(&home)?;
    let ours = || {
        let mut command = Command::new(binary);
        command.args(["credential-process", "--mount", "aws", "--role", "dev"]);
        command.env_clear().env("HOME", &home).env("VAULT_ADDR", lab.vault_addr());
        command.env("VAULT_CACERT", lab.ca_path()).env("VAULT_TOKEN", lab.vault_root_token());
        command
    };
    let miss = time(&mut ours())?;
    let hits = (0..HITS).map(|_| time(&mut ours())).collect::<Result<Vec<_>>>()?;
    let python = || {
        let mut command = Command::new(lab.python());
        command.args(["-c", "import boto3"]);
        command
    };
    // The first run writes the byte code.
    time(&mut python())?;
    let imports = (0..IMPORTS).map(|_| time(&mut python())).collect::<Result<Vec<_>>>()?;
    let (hit, import) = (median(hits.clone()), median(imports));
    table.row("cache miss, Vault asked", milliseconds(miss));
    table.row(&format!("cache hit, median of {HITS} processes"), milliseconds(hit));
    table.row("cache hit, p95", milliseconds(percentile(hits, 95)));
    table.row(&format!("python -c 'import boto3', median of {IMPORTS}"), milliseconds(import));
    table.row("times faster", format!("{:.0}", import.as_secs_f64() / hit.as_secs_f64()));
    Ok(table)
}

/// The engine with one role whose sessions live an hour.
async fn teach(lab: &Lab) -> Result<()> {
    let account = aws::HOME_ACCOUNT;
    let may = aws::allow(&["sts:*", "iam:*"]);
    let engine = lab.aws.create_user_with_keys(account, "engine", &may).await?;
    let trust = TrustPolicy { principal_arns: vec![engine.arn.clone()], external_id: None };
    let role = lab.aws.create_role(account, "dev", "/", &trust).await?;
    lab.vault.write("sys/mounts/aws", &json!({"type": "aws"})).await?;
    let root = json!({
        "access_key": engine.keys.access_key,
        "secret_key": engine.keys.secret_key,
        "region": REGION,
        "iam_endpoint": lab.aws_url(),
        "sts_endpoint": lab.aws_url(),
    });
    lab.vault.write("aws/config/root", &root).await?;
    let role =
        json!({"credential_type": "assumed_role", "role_arns": [role], "default_sts_ttl": 3600});
    lab.vault.write("aws/roles/dev", &role).await.map(drop)
}

/// From fork to exit of a program that must succeed.
fn time(command: &mut Command) -> Result<Duration> {
    let name = command.get_program().to_owned();
    let doing = || format!("running {}", AsRef::<OsStr>::as_ref(&name).to_string_lossy());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let begun = Instant::now();
    let status = command.status().doing(doing)?;
    let took = begun.elapsed();
    if status.success() {
        return Ok(took);
    }
    Err(io::Error::other(format!("it ended with {status}"))).doing(doing)
}

fn median(times: Vec<Duration>) -> Duration {
    percentile(times, 50)
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort();
    times
        .get((times.len() * percent / 100).min(times.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
