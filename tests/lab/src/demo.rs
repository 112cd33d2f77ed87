//! `cargo demo`: what the operator does, on real servers, told while it happens.
//!
//! Each line is something that was seen, in Vault or in Kubernetes, and not something that was merely
//! asked for. What is not seen in time ends the story, with all that may explain it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::Value;

use crate::{
    audit::{self, Mark},
    cargo,
    certificates::{Authority, Described},
    detached,
    error::{Doing as _, Error, Result},
    files, folder,
    lab::Options,
    toolchain::Toolchain,
};

pub(crate) mod stage;
pub(crate) mod story;

use stage::{ACCOUNT, Kind, PATIENCE, ROLE, Stage, TEAM, kubectl, put, text};
use story::{Story, until};

/// The lab of a demo that is kept.
const KEPT: &str = "demo";
/// Where its keeper says how the story ended.
const VERDICT: &str = "verdict";
const TOLD: &str = "told";

const CERTIFICATE: &str = "site";
const SECRET: &str = "web-site";
const HOST: &str = "www.example.com";
/// Of another account, whose role has the same name.
const OTHERS: &str = "certs/444455556666/web/tls";

/// What the keeper of a demo is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Kept {
    /// The operator's program
    #[arg(long)]
    binary: PathBuf,
    /// With colour
    #[arg(long)]
    fancy: bool,
}

/// Builds what is missing, starts everything, tells the story and stops everything; or leaves it
/// running, owned by a keeper.
///
/// # Errors
/// Something was not seen, or could not be built, started or stopped.
pub async fn run(keep: bool) -> Result<()> {
    let story = Story::new(Story::may_be_fancy());
    if keep && let Some(owner) = folder::find(KEPT)?.and_then(|lab| lab.owner) {
        story.print(&format!("It runs already; to end it: cargo lab down --name {KEPT}"));
        return Err(Error::Running { name: KEPT.to_owned(), pid: owner.pid });
    }
    story.chapter("What is needed");
    let building = async { tokio::task::spawn_blocking(Toolchain::ensure).await? };
    story.step("servers are built: etcd, Kubernetes, Vault, AWS emulator", building).await?;
    let building = async { tokio::task::spawn_blocking(|| cargo::build_operator(false)).await? };
    let binary = story.step("operator is built", building).await?;
    story.show(&binary.display().to_string());
    if keep {
        return start_keeper(story, &binary).await;
    }
    let end = detached::asked_to_end()?;
    let name = format!("{KEPT}-{}", std::process::id());
    let options = Options { name: name.clone(), ..Options::default() };
    tokio::select! {
        result = perform(story, options, &binary) => result,
        () = end => Err(Error::Interrupted(name)),
    }
}

/// The whole story, with its end.
async fn perform(story: Story, options: Options, binary: &Path) -> Result<()> {
    let stage = Stage::set(story, options, binary).await?;
    let told = tell(&stage).await;
    if let Err(error) = &told {
        stage.explain(error).await;
    }
    story.chapter("The end");
    let stopped = story.step("everything is stopped and removed", stage.strike()).await;
    told.and(stopped)?;
    story.print(&format!(
        "\nEach step was seen, in {:.1} s. To look around: cargo demo --keep",
        story.seconds()
    ));
    Ok(())
}

/// Lets a keeper tell the story and own what it leaves.
async fn start_keeper(story: Story, binary: &Path) -> Result<()> {
    let log = folder::keeper_log(KEPT)?;
    let mut words = vec!["keep-demo".into(), "--binary".into(), binary.as_os_str().to_owned()];
    words.extend(Story::may_be_fancy().then(|| "--fancy".into()));
    let keeper = detached::start_keeper(&words, &log)?;
    let is_done = |lab: &folder::Seen| lab.folder.join(VERDICT).is_file();
    let lab = detached::follow(KEPT, Some(keeper), &log, io::stdout(), is_done).await?;
    let verdict = fs::read_to_string(lab.folder.join(VERDICT));
    if verdict.doing(|| "reading how the story ended".to_owned())? == TOLD {
        story.print(&format!("\nEach step was seen, in {:.1} s.", story.seconds()));
        return Ok(());
    }
    let what = "each step of the story".to_owned();
    let instead = format!("not all: see above; lab {KEPT} is left running");
    Err(Error::NotSeen { what, seconds: PATIENCE.as_secs(), instead })
}

/// Tells the story and owns its lab until SIGTERM or SIGINT. What it says is in the keeper's log.
///
/// # Errors
/// Something could not be started or stopped. That something was not seen is not an error here: the
/// lab stays, to find out why.
pub async fn keep(kept: Kept) -> Result<()> {
    detached::leave_the_session();
    let Kept { binary, fancy } = kept;
    let story = Story::new(fancy);
    let end = detached::asked_to_end()?;
    tokio::pin!(end);
    let options = Options { name: KEPT.to_owned(), detached: true, ..Options::default() };
    let stage = tokio::select! {
        stage = Stage::set(story, options, &binary) => stage?,
        () = &mut end => return Ok(()),
    };
    let performance = async {
        let told = tell(&stage).await;
        if let Err(error) = &told {
            stage.explain(error).await;
        }
        say_how_to_look_around(&stage);
        let verdict = if told.is_ok() { TOLD } else { "failed" };
        files::write(&stage.lab.folder().join(VERDICT), verdict)
    };
    tokio::select! {
        written = performance => written?,
        () = &mut end => return stage.strike().await,
    }
    tokio::select! {
        never = detached::tell_deaths(&stage.lab) => match never {},
        () = &mut end => {}
    }
    stage.strike().await
}

async fn tell(stage: &Stage) -> Result<()> {
    let company = Authority::new("Example CA")?;
    certificates_lie_in_vault(stage, &company).await?;
    let logins = Mark::now(&stage.lab);
    three_manifests(stage).await?;
    role_and_policy(stage).await?;
    login(stage, logins).await?;
    let first = secret_appears(stage).await?;
    rotated_certificate(stage, &company, &first).await?;
    other_account(stage).await?;
    as_kubectl_shows_it(stage).await
}

async fn certificates_lie_in_vault(stage: &Stage, company: &Authority) -> Result<()> {
    stage.story.chapter("Certificates lie in Vault");
    let own = format!("certs/{ACCOUNT}/{ROLE}/{CERTIFICATE}");
    for path in [own.as_str(), OTHERS] {
        let issued = company.issue(HOST)?;
        let writing = put(&stage.lab.vault, path, issued.fields());
        stage.story.step(&format!("vault kv put -mount=secret {path}"), writing).await?;
    }
    Ok(())
}

async fn three_manifests(stage: &Stage) -> Result<()> {
    let story = stage.story;
    story.chapter("Three manifests: kubectl apply -f deploy/examples");
    story
        .step("backend.yaml, the admin's, with what is different in a lab:", stage.apply_backend())
        .await?;
    story.show(&stage.backend_patch());
    story.step("role.yaml, the team's, as it is", stage.apply_example("role.yaml")).await?;
    story.step("sync.yaml, the team's, as it is", stage.apply_example("sync.yaml")).await
}

async fn role_and_policy(stage: &Stage) -> Result<()> {
    let story = stage.story;
    story.chapter("Role and policy appear in Vault");
    let ready = stage.ready(Kind::Backend, "default");
    let status = story.step("VaultAwsBackend default is Ready", ready).await?;
    let (product, version) = (text(&status["product"]), text(&status["vaultVersion"]));
    story.show(&format!("{product} {version}; auth mount aws enabled and configured"));

    let role = story.step("vault read auth/aws/role/web", read(stage, "auth/aws/role/web")).await?;
    for field in [
        "auth_type",
        "bound_iam_principal_arn",
        "resolve_aws_unique_ids",
        "token_policies",
        "token_ttl",
    ] {
        story.show(&format!("{field:<24} {}", plain(&role[field])));
    }
    let policy = read(stage, "sys/policies/acl/vaultaws-web-policy");
    let policy = story.step("vault policy read vaultaws-web-policy", policy).await?;
    story.show(text(&policy["policy"]));
    story.step("VaultAwsRole web is Ready", stage.ready(Kind::Role, ROLE)).await.map(drop)
}

/// The data at a path of Vault, once there is something.
async fn read(stage: &Stage, path: &str) -> Result<Value> {
    until(&format!("{path} is in Vault"), PATIENCE, async || {
        Ok(match stage.lab.vault.get(path).await? {
            (200, answer) => Ok(answer["data"].clone()),
            (status, answer) => Err(format!("{status} {answer}")),
        })
    })
    .await
}

async fn login(stage: &Stage, mark: Mark) -> Result<()> {
    let story = stage.story;
    story.chapter("The operator logs in as the assumed role");
    let seen = until("a login at auth/aws/login in Vault's audit log", PATIENCE, async || {
        let mut entries = audit::entries(&stage.lab.audit_vault_path(), mark.vault)?;
        entries.retain(|entry| {
            entry["type"] == "response" && entry["request"]["path"] == "auth/aws/login"
        });
        let good = entries.iter().find(|entry| entry["auth"]["policies"].is_array());
        let other = || match entries.last() {
            Some(entry) => format!("a login that failed: {}", entry["error"]),
            None => "no login".to_owned(),
        };
        Ok(good.cloned().ok_or_else(other))
    });
    let entry = story.step("Vault's audit log has its login at auth/aws/login", seen).await?;
    let auth = &entry["auth"];
    story.show(&format!("display_name  {}", text(&auth["display_name"])));
    story.show(&format!("policies      {}", plain(&auth["policies"])));
    for (name, value) in auth["metadata"].as_object().into_iter().flatten() {
        story.show(&format!("{name:<13} {}", plain(value)));
    }
    let asked = async || {
        let requests = stage.lab.sts().requests();
        let actions: Vec<_> = requests.iter().map(|request| request.action.as_str()).collect();
        let both = ["AssumeRole", "GetCallerIdentity"].iter().all(|one| actions.contains(one));
        Ok(if both { Ok(()) } else { Err(actions.join(", ")) })
    };
    let what = "STS was asked: AssumeRole by the operator, GetCallerIdentity by Vault";
    story.step(what, until(what, PATIENCE, asked)).await
}

async fn secret_appears(stage: &Stage) -> Result<Described> {
    let story = stage.story;
    story.chapter("The certificate arrives in Kubernetes");
    let what = format!("Secret {TEAM}/{SECRET} of type kubernetes.io/tls");
    let (secret, certificate) =
        story.step(&what, until(&what, PATIENCE, async || held(stage).await)).await?;
    let keys: Vec<_> = secret.data.iter().flatten().map(|(key, _)| key.as_str()).collect();
    story.show(&format!("keys     {}", keys.join(", ")));
    describe(story, &certificate);
    story.step("VaultCertSync web is Ready", stage.ready(Kind::Sync, ROLE)).await?;
    Ok(certificate)
}

/// The Secret, with the certificate in it.
async fn held(stage: &Stage) -> story::Look<(Secret, Described)> {
    let api = Api::<Secret>::namespaced(stage.lab.kube(), TEAM);
    let secret = api.get_opt(SECRET).await.doing(|| format!("reading Secret {SECRET}"))?;
    let Some(secret) = secret else { return Ok(Err("no such Secret".to_owned())) };
    if secret.type_.as_deref() != Some("kubernetes.io/tls") {
        return Ok(Err(format!("a Secret of type {:?}", secret.type_)));
    }
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let (Some(certificate), Some(_)) = (data.get("tls.crt"), data.get("tls.key")) else {
        return Ok(Err("a Secret without tls.crt and tls.key".to_owned()));
    };
    let described = Described::read(&certificate.0)?;
    Ok(Ok((secret, described)))
}

fn describe(story: Story, certificate: &Described) {
    story.show(&format!("subject  {}", certificate.subject));
    story.show(&format!("issuer   {}", certificate.issuer));
    story.show(&format!("serial   {}", certificate.serial));
    story.show(&format!("expires  {}", certificate.not_after));
}

async fn rotated_certificate(stage: &Stage, company: &Authority, first: &Described) -> Result<()> {
    let story = stage.story;
    story.chapter("A rotated certificate arrives");
    let issued = company.issue(HOST)?;
    let next = Described::read(issued.certificate.as_bytes())?;
    let path = format!("certs/{ACCOUNT}/{ROLE}/{CERTIFICATE}");
    let writing = put(&stage.lab.vault, &path, issued.fields());
    story.step(&format!("vault kv put -mount=secret {path}"), writing).await?;
    let written = Instant::now();
    let refresh = "vaultaws.dev/refresh=rotated";
    let words = ["-n", TEAM, "annotate", "vaultcertsync", ROLE, refresh, "--overwrite"];
    story.step(&format!("kubectl {}", words.join(" ")), kubectl(&stage.lab, &words, "")).await?;
    let arrival = until("the Secret holds the new certificate", PATIENCE, async || {
        Ok(held(stage).await?.and_then(|(_, held)| {
            let serial = held.serial.clone();
            if held == next { Ok(held) } else { Err(format!("serial {serial}")) }
        }))
    });
    let held = story.step("the Secret holds the new certificate", arrival).await?;
    describe(story, &held);
    story.show(&format!(
        "instead of {}; {:.2} s after it was written to Vault",
        first.serial,
        written.elapsed().as_secs_f64()
    ));
    Ok(())
}

async fn other_account(stage: &Stage) -> Result<()> {
    let story = stage.story;
    story.chapter("The other account's directory is denied");
    let what = "vault login -method=aws role=web, with the role's AWS session";
    let client = story.step(what, stage.log_in_as_the_role()).await?;
    let (_, me) = client.get("auth/token/lookup-self").await?;
    let (name, policies) = (text(&me["data"]["display_name"]), plain(&me["data"]["policies"]));
    story.show(&format!("display_name {name}, policies {policies}"));
    let own = format!("secret/data/certs/{ACCOUNT}/{ROLE}/{CERTIFICATE}");
    for (vault, who, path, wanted) in [
        (&client, "role web", own.as_str(), 200),
        (&client, "role web", &format!("secret/data/{OTHERS}"), 403),
        (&stage.lab.vault, "root", &format!("secret/data/{OTHERS}"), 200),
    ] {
        let what = format!("{who}: GET {path} → {wanted}");
        let asking = async {
            match vault.get(path).await? {
                (status, _) if status == wanted => Ok(()),
                (status, answer) => Err(Error::NotSeen {
                    what: what.clone(),
                    seconds: 0,
                    instead: format!("{status} {}", answer["errors"]),
                }),
            }
        };
        story.step(&what, asking).await?;
    }
    Ok(())
}

async fn as_kubectl_shows_it(stage: &Stage) -> Result<()> {
    let story = stage.story;
    story.chapter("As kubectl shows it");
    for words in [&["get", "vaultaws", "-A"][..], &["-n", TEAM, "get", "secrets"]] {
        let said = story
            .step(&format!("kubectl {}", words.join(" ")), kubectl(&stage.lab, words, ""))
            .await?;
        story.show(&said);
    }
    Ok(())
}

fn say_how_to_look_around(stage: &Stage) {
    stage.story.chapter("It is left running. In any terminal, in this repository:");
    let logs = stage.syncer.log().parent().unwrap_or(Path::new("")).display();
    stage.story.show(&format!(
        "eval \"$(cargo lab env --name {KEPT})\"      # kubectl and vault, as admin and root
kubectl get vaultaws -A
kubectl -n {TEAM} describe vaultcertsync {ROLE}
vault read auth/aws/role/web
vault kv put -mount=secret certs/{ACCOUNT}/{ROLE}/other certificate=@cert.pem private_key=@key.pem
kubectl -n {TEAM} annotate vaultcertsync {ROLE} vaultaws.dev/refresh=\"$(date +%s)\" --overwrite
tail -f {logs}/vault-aws-syncer.log
cargo lab status
cargo lab down --name {KEPT}                  # ends it"
    ));
}

/// JSON as Vault's command line shows it: no quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}
