//! The operator's installation in a lab, as the README tells it: `kubectl apply -k crds`, then
//! `kubectl apply -k deploy`, the Secrets that an admin makes, and Vault made to know the operator.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    aws::{Keys, REGION},
    error::{Doing as _, Result},
    files,
    lab::Lab,
    operator::{self, Component},
    vault::Vault,
};

/// The operator's own namespace.
pub const NAMESPACE: &str = "vault-aws-system";
/// Where the Kubernetes auth method is mounted in Vault.
pub const KUBERNETES_MOUNT: &str = "kubernetes";
/// The Secret with the AWS keys of Vault itself, for `auth.client.credentialsRef`.
pub const VAULT_KEYS_SECRET: &str = "vault-aws-client";
/// The ConfigMap with the lab's CA under `ca.crt`, for `vault.caBundleRef`.
pub const CA_CONFIG_MAP: &str = "vault-ca";
/// Tokens outlast every lab that is not left up overnight: the kubelet, which would renew them, is
/// not here.
pub(crate) const TOKEN_SECONDS: i64 = 24 * 3600;

/// The AWS identities of both processes by keys: the Secrets that their Deployments name.
const AWS_SECRETS: [&str; 2] = ["vault-aws-role-writer-aws", "vault-aws-syncer-aws"];
/// The ServiceAccount by which Vault asks the API server whether a token is good.
const REVIEWER: &str = "vault-token-reviewer";

/// What was installed.
#[derive(Clone, Debug)]
pub struct Installation {
    token: PathBuf,
}

/// A Vault policy of `deploy/examples`, for the default names, as an admin applies it.
pub fn example_policy(file: &str) -> Result<String> {
    let path = repository().join("deploy/examples").join(file);
    fs::read_to_string(&path).doing(|| format!("reading {}", path.display()))
}

impl Installation {
    /// Installs CRDs, Deployments and rights with kubectl, the Secrets of the lab's AWS keys, and the
    /// Kubernetes auth method in Vault. No process of the operator runs after that.
    pub async fn install(lab: &Lab) -> Result<Self> {
        Self::install_crds(lab).await?;
        apply_folder(lab, &repository().join("deploy")).await?;
        apply(lab, &references(lab)?).await?;
        let folder = operator::folder(lab);
        files::create_folder(&folder)?;
        let installed = Self { token: folder.join("vault-token") };
        tokio::try_join!(installed.project_token(lab), teach(lab, &lab.vault))?;
        Ok(installed)
    }

    /// Applies the CRDs, as at first and as after one was removed, and waits until they serve.
    pub async fn install_crds(lab: &Lab) -> Result<()> {
        apply_folder(lab, &repository().join("crds")).await?;
        let wait = ["wait", "--for=condition=Established", "--timeout=30s", "crd", "-l"];
        let label = "app.kubernetes.io/name=vault-aws-operator";
        kubectl(lab, wait.into_iter().chain([label]), "").await.map(drop)
    }

    /// The role writer's token for Vault: what `operatorLogin.serviceAccount.tokenPath` is to be,
    /// because the path of the pod's volume does not exist here.
    pub fn token_path(&self) -> &Path {
        &self.token
    }

    /// Lets the role writer log in to a Vault at [`KUBERNETES_MOUNT`] with this role, to these policies.
    pub async fn allow_login(&self, vault: &Vault, role: &str, policies: &[&str]) -> Result<()> {
        let body = json!({
            "bound_service_account_names": [Component::RoleWriter.name()],
            "bound_service_account_namespaces": [NAMESPACE],
            "audience": "vault",
            "token_policies": policies,
            // Its own policies are all it has.
            "token_no_default_policy": true,
            "token_ttl": "1h",
        });
        vault.write(&format!("auth/{KUBERNETES_MOUNT}/role/{role}"), &body).await.map(drop)
    }

    /// Gives the syncer its rights on Secrets in a namespace: `kubectl -n … apply -k deploy/tenant`.
    pub async fn allow_tenant(&self, lab: &Lab, namespace: &str) -> Result<()> {
        let tenant = repository().join("deploy/tenant");
        let words = ["-n".as_ref(), namespace.as_ref(), "apply".as_ref(), "-k".as_ref()];
        kubectl(lab, words.into_iter().chain([tenant.as_os_str()]), "").await.map(drop)
    }

    /// Writes the token file as the kubelet would.
    async fn project_token(&self, lab: &Lab) -> Result<()> {
        let name = Component::RoleWriter.name();
        let token = lab.service_account_token(NAMESPACE, name, &["vault"], TOKEN_SECONDS).await?;
        files::write(&self.token, token)
    }
}

/// The folder with `crds/` and `deploy/`.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

async fn apply_folder(lab: &Lab, folder: &Path) -> Result<()> {
    kubectl(lab, ["apply".as_ref(), "-k".as_ref(), folder.as_os_str()], "").await.map(drop)
}

async fn apply(lab: &Lab, objects: &Value) -> Result<()> {
    kubectl(lab, ["apply", "-f", "-"], &objects.to_string()).await.map(drop)
}

/// Runs a kubectl that must succeed; returns its stdout.
async fn kubectl(
    lab: &Lab,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    input: &str,
) -> Result<String> {
    let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    let output = lab.kubectl_with_input(&args, input).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    Err(io::Error::other(said)).doing(|| format!("kubectl {}", words.join(" ")))
}

/// What the manifests refer to and an admin has to make.
fn references(lab: &Lab) -> Result<Value> {
    let mut items = vec![
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": CA_CONFIG_MAP, "namespace": NAMESPACE},
            "data": {"ca.crt": lab.ca_pem()?},
        }),
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": REVIEWER, "namespace": "default"},
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": REVIEWER},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "system:auth-delegator",
            },
            "subjects": [{"kind": "ServiceAccount", "name": REVIEWER, "namespace": "default"}],
        }),
    ];
    if let Some(seeds) = &lab.seeds {
        let Keys { access_key, secret_key, .. } = &seeds.vault.keys;
        items.push(secret(
            VAULT_KEYS_SECRET,
            json!({"aws_access_key_id": access_key, "aws_secret_access_key": secret_key}),
        ));
        let Keys { access_key, secret_key, .. } = &seeds.operator.keys;
        let environment = json!({
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL_STS": lab.sts_url(),
        });
        items.extend(AWS_SECRETS.map(|name| secret(name, environment.clone())));
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

fn secret(name: &str, data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": data,
    })
}

/// The Kubernetes auth method in a Vault, which asks the lab's API server about tokens.
pub async fn teach(lab: &Lab, vault: &Vault) -> Result<()> {
    let reviewer = lab.service_account_token("default", REVIEWER, &[], TOKEN_SECONDS).await?;
    vault.write(&format!("sys/auth/{KUBERNETES_MOUNT}"), &json!({"type": "kubernetes"})).await?;
    let config = json!({
        "kubernetes_host": lab.kube_url(),
        "kubernetes_ca_cert": lab.ca_pem()?,
        "token_reviewer_jwt": reviewer,
        "disable_local_ca_jwt": true,
    });
    vault.write(&format!("auth/{KUBERNETES_MOUNT}/config"), &config).await.map(drop)
}
