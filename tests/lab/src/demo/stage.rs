//! The place where the story is told: a lab with the operator, and what its admin, the team's AWS
//! account and the team have prepared, as the README tells them to.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

use super::story::{Story, until};
use crate::{
    aws::{Keys, REGION, TrustPolicy, role_arn},
    error::{Doing as _, Error, Result},
    files,
    installation::{CA_CONFIG_MAP, Installation, VAULT_KEYS_SECRET, example_policy, repository},
    lab::{Lab, Options},
    operator::{Component, Operator},
    toolchain::Toolchain,
    vault::Vault,
};

/// The names of `deploy/examples`.
pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const TEAM: &str = "team-a";
pub(crate) const ROLE: &str = "web";
/// The role at Vault's Kubernetes mount, and the policy it gives.
const OPERATOR: &str = "vault-aws-operator";
const OPERATOR_BOOTSTRAP: &str = "vault-aws-operator-bootstrap";

/// For whatever the operator has to do; it usually takes a second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A lab with the operator.
pub(crate) struct Stage {
    pub(crate) story: Story,
    pub(crate) lab: Lab,
    pub(crate) role_writer: Operator,
    pub(crate) syncer: Operator,
    /// What the syncer says when it assumes the team's role.
    pub(crate) external_id: String,
    token: PathBuf,
}

impl Stage {
    /// Starts it all. Nothing but the manifests of `deploy/examples` is missing then.
    pub(crate) async fn set(story: Story, options: Options, binary: &Path) -> Result<Self> {
        let what = "etcd, API server, controller manager, Vault, AWS emulator: on 127.0.0.1";
        let lab = story.step(what, Lab::start(options)).await?;
        let installing = Installation::install(&lab);
        let installation =
            story.step("kubectl apply -k crds; kubectl apply -k deploy", installing).await?;
        story
            .step("Vault: the operator's login and policy; KV v2 at secret/", async {
                let policies = [
                    (OPERATOR, "vault-policy-managed.hcl"),
                    (OPERATOR_BOOTSTRAP, "vault-policy-bootstrap.hcl"),
                ];
                for (name, file) in policies {
                    let text = example_policy(file)?;
                    let path = format!("sys/policies/acl/{name}");
                    lab.vault.write(&path, &json!({"policy": text})).await?;
                }
                installation
                    .allow_login(&lab.vault, OPERATOR, &[OPERATOR, OPERATOR_BOOTSTRAP])
                    .await?;
                let mount = json!({"type": "kv", "options": {"version": "2"}});
                lab.vault.write("sys/mounts/secret", &mount).await.map(drop)
            })
            .await?;
        let external_id = format!("{}/{TEAM}", cluster_id(&lab).await?);
        let what = format!("AWS {ACCOUNT}: role {ROLE} trusts the syncer with an ExternalId");
        story.step(&what, trusting_role(&lab, &external_id)).await?;
        story.show(&format!("sts:ExternalId = {external_id}"));
        story
            .step(&format!("kubectl -n {TEAM} apply -k deploy/tenant"), async {
                kubectl(&lab, &["create", "namespace", TEAM], "").await?;
                installation.allow_tenant(&lab, TEAM).await
            })
            .await?;
        let (role_writer, syncer) = story
            .step("role writer and syncer run as their Deployments say", async {
                let (role_writer, syncer) = tokio::try_join!(
                    Operator::start(&lab, Component::RoleWriter, binary),
                    Operator::start(&lab, Component::Syncer, binary),
                )?;
                tokio::try_join!(role_writer.ready(PATIENCE), syncer.ready(PATIENCE))?;
                Ok((role_writer, syncer))
            })
            .await?;
        let token = installation.token_path().to_owned();
        Ok(Self { story, lab, role_writer, syncer, external_id, token })
    }

    /// What a lab's backend must say otherwise than the example: a Vault of another address, with a
    /// CA of its own, that is to ask another AWS.
    pub(crate) fn backend_patch(&self) -> String {
        format!(
            "\
spec:
  vault:
    address: {}
    caBundleRef: {{kind: ConfigMap, name: {CA_CONFIG_MAP}}}
  operatorLogin:
    serviceAccount:
      tokenPath: {}
  auth:
    management: Managed
    client:
      credentialsRef: {{name: {VAULT_KEYS_SECRET}}}
      stsEndpoint: {}
      stsRegion: {REGION}
      iamEndpoint: {}
",
            self.lab.vault_addr(),
            self.token.display(),
            self.lab.sts_url(),
            self.lab.aws_url(),
        )
    }

    /// Applies one of `deploy/examples` as it is.
    pub(crate) async fn apply_example(&self, file: &str) -> Result<()> {
        let path = example(file);
        kubectl(&self.lab, &["apply", "-f", &path], "").await.map(drop)
    }

    /// Applies `deploy/examples/backend.yaml` with [`Stage::backend_patch`].
    pub(crate) async fn apply_backend(&self) -> Result<()> {
        let (path, patch) = (example("backend.yaml"), self.backend_patch());
        let words = ["patch", "--local", "--type=merge", "-o", "yaml", "-f", &path, "-p", &patch];
        let manifest = kubectl(&self.lab, &words, "").await?;
        kubectl(&self.lab, &["apply", "-f", "-"], &manifest).await.map(drop)
    }

    /// Waits until the object's `Ready` is `True`; returns its status.
    pub(crate) async fn ready(&self, kind: Kind, name: &str) -> Result<Value> {
        let what = format!("{} {name} is Ready", kind.name());
        let api = self.api(kind);
        until(&what, PATIENCE, async || {
            let object = api.get_opt(name).await.doing(|| format!("reading {name}"))?;
            let Some(object) = object else { return Ok(Err("it is not there".to_owned())) };
            let status = object.data["status"].clone();
            let current = status["observedGeneration"] == json!(object.metadata.generation);
            let ready = condition(&status, "Ready").is_some_and(|ready| ready["status"] == "True");
            Ok(if current && ready { Ok(status) } else { Err(conditions(&status)) })
        })
        .await
    }

    /// The API of one of the operator's kinds, in the team's namespace.
    pub(crate) fn api(&self, kind: Kind) -> Api<DynamicObject> {
        match kind {
            Kind::Backend => Api::all_with(self.lab.kube(), &kind.resource()),
            Kind::Role | Kind::Sync => {
                Api::namespaced_with(self.lab.kube(), TEAM, &kind.resource())
            }
        }
    }

    /// Logs in to Vault as a workload with the team's role would, by Vault's own command line.
    pub(crate) async fn log_in_as_the_role(&self) -> Result<Vault> {
        let operator = self.lab.seeds.as_ref().map(|seeds| seeds.operator.keys.clone());
        let keys = operator.unwrap_or_else(|| Keys::root(ACCOUNT));
        let arn = role_arn(ACCOUNT, ROLE);
        let session =
            self.lab.aws.assume_role(&keys, &arn, "demo", Some(&self.external_id)).await?;
        let (_, config) = self.lab.vault.get("auth/aws/config/client").await?;
        let server = text(&config["data"]["iam_server_id_header_value"]).to_owned();
        let (addr, ca) = (self.lab.vault_addr(), self.lab.ca_path());
        let home = self.lab.folder().to_owned();
        let run = move || {
            let output = Command::new(Toolchain::ensure()?.vault)
                .args(["login", "-method=aws", "-token-only"])
                .arg(format!("role={ROLE}"))
                .arg(format!("header_value={server}"))
                .arg(format!("region={REGION}"))
                .env_clear()
                .env("HOME", home)
                .env("VAULT_ADDR", addr)
                .env("VAULT_CACERT", ca)
                .env("VAULT_CLIENT_TIMEOUT", "20s")
                .env("AWS_ACCESS_KEY_ID", session.access_key)
                .env("AWS_SECRET_ACCESS_KEY", session.secret_key)
                .env("AWS_SESSION_TOKEN", session.session_token.unwrap_or_default())
                .output()
                .doing(|| "running vault login".to_owned())?;
            let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if output.status.success() && !token.is_empty() {
                return Ok(token);
            }
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(std::io::Error::other(said)).doing(|| "vault login -method=aws".to_owned())
        };
        let token = tokio::task::spawn_blocking(run).await??;
        Ok(self.lab.vault.with_token(token))
    }

    /// All that may say why something did not happen.
    pub(crate) async fn explain(&self, error: &Error) {
        self.story.chapter("This was not seen");
        self.story.show(&error.story());
        self.story.chapter("Conditions");
        for kind in Kind::ALL {
            let objects = match self.api(kind).list(&Default::default()).await {
                Ok(objects) => objects.items,
                Err(error) => {
                    self.story.show(&format!("{}: {error}", kind.name()));
                    continue;
                }
            };
            for object in objects {
                let name = object.metadata.name.unwrap_or_default();
                let conditions = conditions(&object.data["status"]);
                self.story.show(&format!("{} {name}: {conditions}", kind.name()));
            }
        }
        for operator in [&self.role_writer, &self.syncer] {
            let state = if operator.is_alive() { "runs" } else { "has ended" };
            let name = operator.component().name();
            self.story.chapter(&format!("{name}, which {state}: {}", operator.log().display()));
            self.story.show(&files::tail(operator.log()));
        }
    }

    /// Stops everything.
    pub(crate) async fn strike(self) -> Result<()> {
        let Self { lab, role_writer, syncer, .. } = self;
        let kindly = tokio::try_join!(role_writer.stop(), syncer.stop())?;
        lab.stop().await?;
        if kindly == (true, true) {
            return Ok(());
        }
        let what = "both processes of the operator end by themselves".to_owned();
        let instead = "they had to be killed".to_owned();
        Err(Error::NotSeen { what, seconds: crate::operator::STOP_LIMIT.as_secs(), instead })
    }
}

/// The operator's kinds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Backend,
    Role,
    Sync,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Backend, Self::Role, Self::Sync];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Backend => "VaultAwsBackend",
            Self::Role => "VaultAwsRole",
            Self::Sync => "VaultCertSync",
        }
    }

    pub(crate) fn resource(self) -> ApiResource {
        let kind = GroupVersionKind::gvk("vaultaws.dev", "v1alpha1", self.name());
        ApiResource::from_gvk_with_plural(&kind, &format!("{}s", self.name().to_lowercase()))
    }
}

/// Runs a kubectl that must succeed; returns what it said.
pub(crate) async fn kubectl(lab: &Lab, words: &[&str], input: &str) -> Result<String> {
    let output = lab.kubectl_with_input(words, input).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(std::io::Error::other(said)).doing(|| format!("kubectl {}", words.join(" ")))
}

/// Writes an entry of the KV engine. A mount that was just made takes a moment to become version 2.
pub(crate) async fn put(vault: &Vault, path: &str, fields: Value) -> Result<()> {
    let body = json!({"data": fields});
    until(&format!("secret/{path} is written"), PATIENCE, async || {
        Ok(match vault.post(&format!("secret/data/{path}"), &body).await? {
            (200, _) => Ok(()),
            (status, answer) => Err(format!("{status} {answer}")),
        })
    })
    .await
}

/// A condition of a status, by its type.
pub(crate) fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// All conditions in one line.
fn conditions(status: &Value) -> String {
    let conditions: Vec<String> = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|condition| {
            let part = |name: &str| text(&condition[name]).to_owned();
            let (kind, status, reason) = (part("type"), part("status"), part("reason"));
            format!("{kind}={status} {reason} ({})", part("message"))
        })
        .collect();
    if conditions.is_empty() { "no conditions".to_owned() } else { conditions.join("; ") }
}

/// A string of JSON; empty if it is none.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn example(file: &str) -> String {
    repository().join("deploy/examples").join(file).to_string_lossy().into_owned()
}

/// What the operator calls this cluster.
async fn cluster_id(lab: &Lab) -> Result<String> {
    let words = ["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"];
    kubectl(lab, &words, "").await
}

/// As the team's AWS admin makes it.
async fn trusting_role(lab: &Lab, external_id: &str) -> Result<()> {
    let trust = TrustPolicy {
        principal_arns: lab.seeds.iter().map(|seeds| seeds.operator.arn.clone()).collect(),
        external_id: Some(external_id.to_owned()),
    };
    lab.aws.create_role(ACCOUNT, ROLE, "/", &trust).await.map(drop)
}

/// What `deploy/examples` is about, checked where the names above are used.
#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_examples_are_about_the_names_used_here() {
        let read = |file| fs::read_to_string(example(file)).expect("an example");
        assert!(read("role.yaml").contains(&format!("accountId: \"{ACCOUNT}\"")));
        assert!(read("role.yaml").contains(&format!("iamRole: {ROLE}")));
        for file in ["role.yaml", "sync.yaml"] {
            assert!(read(file).contains(&format!("name: {ROLE}\n  namespace: {TEAM}")));
        }
        assert!(read("backend.yaml").contains(&format!("role: {OPERATOR}")));
    }
}
