//! The small world of one test: a namespace, an auth mount, a KV mount, a backend and an IAM role, all
//! named after the test, so that tests run side by side on one lab and see only their own.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vault_aws_lab::{
    Component, Keys, TrustPolicy, Vault, aws,
    installation::{CA_CONFIG_MAP, KUBERNETES_MOUNT, VAULT_KEYS_SECRET},
};
use vault_aws_operator::{
    aws::{Credentials, signing},
    crd::{CertificateStatus, REFRESH_ANNOTATION, VaultCertSyncStatus},
    grants::{
        kubernetes::Tenant,
        vault::{self, Part},
    },
};

use crate::{
    audit::{self, KubernetesRequest, Mark, VaultRequest},
    certificates::{Authority, Issued},
    manifest::{Manifest, api_of},
    stage::Stage,
};

/// The account of a world's roles, and another one.
pub(crate) const ACCOUNT: &str = aws::CLIENT_ACCOUNTS[0];
pub(crate) const OTHER_ACCOUNT: &str = aws::CLIENT_ACCOUNTS[1];
/// The cluster's name in marks of ownership and external ids.
pub(crate) const CLUSTER: &str = "lab";
/// How long anything may take that has no limit of its own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(100);

/// A test's own world. Cloning gives another handle to the same one.
#[derive(Clone)]
pub(crate) struct World {
    /// The lab, and the operator.
    pub(crate) stage: Arc<Stage>,
    /// Its name, the first part of all names in it: namespace, backend, and, with a word behind it,
    /// mounts, policies and IAM roles.
    pub(crate) id: String,
    /// The Vault that is meant, if it is not the lab's.
    elsewhere: Option<Vault>,
}

/// A condition of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Condition {
    /// `True`, `False` or `Unknown`.
    pub(crate) status: String,
    /// One word.
    pub(crate) reason: String,
    /// A sentence.
    pub(crate) message: String,
}

impl World {
    /// Everything but the three manifests: namespace with the syncer's rights, KV mount, the
    /// operator's login and policies in Vault, and the IAM role `web` in [`ACCOUNT`].
    pub(crate) async fn new(stage: Arc<Stage>, test: &str) -> Self {
        let digest = Sha256::digest(test.as_bytes());
        let id = format!("t{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
        let world = Self { stage, id, elsewhere: None };
        tokio::join!(
            world.create_namespace(),
            world.teach_vault(),
            world.create_iam_role(ACCOUNT, "web"),
        );
        world
    }

    async fn create_namespace(&self) {
        self.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {}, labels: {{world: {}}}}}}}",
            self.id, self.id
        ))
        .await;
        self.grant_secrets().await;
    }

    /// The syncer's rights on Secrets: what `vault-aws policy --kubernetes -n …` prints.
    pub(crate) async fn grant_secrets(&self) {
        self.grant(&Tenant::default()).await;
    }

    /// The syncer's rights in this namespace.
    pub(crate) async fn grant(&self, tenant: &Tenant<'_>) {
        let tenant = Tenant { namespace: Some(&self.id), ..tenant.clone() };
        self.apply(&tenant.text().expect("names of Kubernetes")).await;
    }

    /// The same world in another Vault.
    pub(crate) fn at(&self, vault: &Vault) -> Self {
        Self { elsewhere: Some(vault.clone()), ..self.clone() }
    }

    /// What Vault knows of this world before the operator comes: the KV mount, and the operator's login.
    pub(crate) async fn teach_vault(&self) {
        self.enable_kv().await;
        let (policy, bootstrap) = (self.operator_policy(), self.bootstrap_policy());
        self.grant_vault(&self.backend()).await;
        self.stage
            .installation
            .allow_login(self.vault(), &policy, &[policy.as_str(), bootstrap.as_str()])
            .await
            .expect("a role at the Kubernetes auth mount");
    }

    /// Mounts the KV engine.
    pub(crate) async fn enable_kv(&self) {
        let kv = json!({"type": "kv", "options": {"version": "2"}});
        self.write(&format!("sys/mounts/{}", self.kv_mount()), kv).await;
    }

    /// Writes the operator's policies: what `vault-aws policy --vault` prints for this backend, and
    /// nothing else.
    pub(crate) async fn grant_vault(&self, backend: &Manifest) {
        let spec = serde_json::from_value(backend.value["spec"].clone()).expect("a backend");
        let names = [self.operator_policy(), self.bootstrap_policy()];
        let own: Vec<&str> = names.iter().map(String::as_str).collect();
        for (name, part) in own.iter().zip([Part::Daily, Part::Bootstrap]) {
            let text = vault::text(&spec, part, &own).expect("a policy");
            self.write(&format!("sys/policies/acl/{name}"), json!({"policy": text})).await;
        }
    }

    // === names ===

    /// The AWS auth mount.
    pub(crate) fn auth_mount(&self) -> String {
        format!("{}-aws", self.id)
    }

    /// The KV v2 mount.
    pub(crate) fn kv_mount(&self) -> String {
        format!("{}-kv", self.id)
    }

    /// The operator's role at the Kubernetes auth mount, and its policy. It does not begin as the
    /// policies of roles do: the operator must not be able to write its own.
    pub(crate) fn operator_policy(&self) -> String {
        format!("operator-{}", self.id)
    }

    /// The operator's policy that is needed once.
    pub(crate) fn bootstrap_policy(&self) -> String {
        format!("{}-bootstrap", self.operator_policy())
    }

    /// The friendly name of an IAM role of this world.
    pub(crate) fn iam_role(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    /// Its ARN.
    pub(crate) fn iam_arn(&self, account: &str, name: &str) -> String {
        aws::role_arn(account, &self.iam_role(name))
    }

    /// The name of the policy of a Vault role, with the naming of [`World::backend`].
    pub(crate) fn policy_name(&self, vault_role: &str) -> String {
        format!("{}-{vault_role}-policy", self.id)
    }

    /// What the operator says as `sts:ExternalId`.
    pub(crate) fn external_id(&self) -> String {
        format!("{CLUSTER}/{}", self.id)
    }

    /// Path of a role's certificates in the KV engine, `certs/<account>/<iam role>`.
    pub(crate) fn directory(&self, account: &str, name: &str) -> String {
        format!("certs/{account}/{}", self.iam_role(name))
    }

    // === manifests ===

    /// The admin's manifest: the lab's Vault, managed; this namespace may use [`ACCOUNT`] with all IAM
    /// roles of this world.
    pub(crate) fn backend(&self) -> Manifest {
        let lab = &self.stage.lab;
        let value = json!({
            "apiVersion": "vaultaws.dev/v1alpha1",
            "kind": "VaultAwsBackend",
            "metadata": {"name": self.id},
            "spec": {
                "clusterId": CLUSTER,
                "vault": {
                    "address": lab.vault_addr(),
                    "caBundleRef": {"kind": "ConfigMap", "name": CA_CONFIG_MAP},
                },
                "operatorLogin": {"serviceAccount": {
                    "mount": KUBERNETES_MOUNT,
                    "role": self.operator_policy(),
                    "tokenPath": self.stage.installation.token_path(),
                }},
                "auth": {
                    "mount": self.auth_mount(),
                    "management": "Managed",
                    "client": {
                        "credentialsRef": {"name": VAULT_KEYS_SECRET},
                        "stsEndpoint": lab.sts_url(),
                        "stsRegion": aws::REGION,
                        "iamEndpoint": lab.aws_url(),
                    },
                },
                "certificates": {"mount": self.kv_mount()},
                "naming": {"policy": format!("{}-{{role}}-policy", self.id)},
                "tenancy": [{
                    "name": "test",
                    "namespaces": {"names": [self.id]},
                    "accounts": [ACCOUNT],
                    "iamRoles": [self.iam_role("*")],
                }],
            },
        });
        Manifest::new(self, value)
    }

    /// A team's manifest for the IAM role of the same name.
    pub(crate) fn role(&self, name: &str) -> Manifest {
        let value = json!({
            "apiVersion": "vaultaws.dev/v1alpha1",
            "kind": "VaultAwsRole",
            "metadata": {"name": name},
            "spec": {
                "backendRef": {"name": self.id},
                "accountId": ACCOUNT,
                "iamRole": self.iam_role(name),
            },
        });
        Manifest::new(self, value)
    }

    /// A team's manifest for the certificates of the role of the same name; it needs no spec.
    pub(crate) fn sync(&self, name: &str) -> Manifest {
        let value = json!({
            "apiVersion": "vaultaws.dev/v1alpha1",
            "kind": "VaultCertSync",
            "metadata": {"name": name},
        });
        Manifest::new(self, value)
    }

    /// Applies backend and role `web`, and waits until the role is ready.
    pub(crate) async fn with_role(&self) {
        self.backend().apply().await;
        self.role("web").apply().await;
        self.ready("vaultawsrole/web").await;
    }

    /// Applies backend, role and sync `web`, and waits until all are ready.
    pub(crate) async fn with_web(&self) {
        self.backend().apply().await;
        self.role("web").apply().await;
        self.sync("web").apply().await;
        self.ready(&self.backend_ref()).await;
        self.ready("vaultawsrole/web").await;
        self.ready("vaultcertsync/web").await;
    }

    /// As [`World::with_web`], once the sync has delivered one certificate, `tls`.
    pub(crate) async fn with_delivered(&self) -> (Authority, Issued) {
        let authority = Authority::new("World CA");
        let issued = authority.issue("web.example.com");
        self.put_certificate("web", "tls", &issued).await;
        self.with_web().await;
        self.delivered("web-tls", &issued).await;
        (authority, issued)
    }

    /// Applies YAML documents, those of namespaced kinds in this world's namespace.
    pub(crate) async fn apply(&self, yaml: &str) {
        for document in serde_saphyr::from_multiple::<Value>(yaml).expect("YAML") {
            Manifest::new(self, document).apply().await;
        }
    }

    // === AWS ===

    /// Creates an IAM role of this world that trusts the operator's user, if it says this world's
    /// external id. Returns its ARN.
    pub(crate) async fn create_iam_role(&self, account: &str, name: &str) -> String {
        let trust = TrustPolicy {
            principal_arns: vec![self.seeds().operator.arn.clone()],
            external_id: Some(self.external_id()),
        };
        let name = self.iam_role(name);
        self.stage.lab.aws.create_role(account, &name, "/", &trust).await.expect("an IAM role")
    }

    /// What the lab has in AWS.
    pub(crate) fn seeds(&self) -> &aws::Seeds {
        self.stage.lab.seeds.as_ref().expect("the lab has AWS")
    }

    /// A session of one of this world's IAM roles.
    pub(crate) async fn assume(&self, account: &str, name: &str) -> Keys {
        let arn = self.iam_arn(account, name);
        let keys = &self.seeds().operator.keys;
        let id = self.external_id();
        let session = self.stage.lab.aws.assume_role(keys, &arn, "test", Some(&id)).await;
        session.expect("the operator may assume the role")
    }

    // === Vault ===

    /// Vault, asked as root.
    pub(crate) fn vault(&self) -> &Vault {
        self.elsewhere.as_ref().unwrap_or(&self.stage.lab.vault)
    }

    /// Writes as root what must succeed.
    pub(crate) async fn write(&self, path: &str, body: Value) -> Value {
        self.vault().write(path, &body).await.unwrap_or_else(|error| panic!("{}", error.story()))
    }

    /// Writes a certificate of an IAM role of [`ACCOUNT`]; the version it became.
    pub(crate) async fn put_certificate(&self, role: &str, name: &str, issued: &Issued) -> u64 {
        let fields = json!({
            "certificate": issued.certificate,
            "private_key": issued.key,
            "ca_chain": issued.intermediates,
            "issuing_ca": issued.root,
        });
        self.put_entry(ACCOUNT, role, name, fields).await
    }

    /// Writes an entry of any content; the version it became.
    pub(crate) async fn put_entry(
        &self,
        account: &str,
        role: &str,
        name: &str,
        fields: Value,
    ) -> u64 {
        let path = format!("{}/data/{}/{name}", self.kv_mount(), self.directory(account, role));
        // A new KV v2 mount upgrades itself for a moment.
        let answer = self
            .eventually("a new KV mount to be writable", PATIENCE, async || {
                let body = json!({"data": fields});
                let (status, answer) = self.vault().post(&path, &body).await.expect("Vault");
                (status == 200).then_some(answer)
            })
            .await;
        answer["data"]["version"].as_u64().expect("a version")
    }

    /// An operation on an entry of the KV engine, for example `delete`, `destroy` or `undelete` with
    /// `{"versions": [1]}`.
    pub(crate) async fn kv(&self, operation: &str, role: &str, name: &str, body: Value) {
        let directory = self.directory(ACCOUNT, role);
        self.write(&format!("{}/{operation}/{directory}/{name}", self.kv_mount()), body).await;
    }

    /// Removes an entry with all its versions.
    pub(crate) async fn remove_entry(&self, role: &str, name: &str) {
        let directory = self.directory(ACCOUNT, role);
        let path = format!("{}/metadata/{directory}/{name}", self.kv_mount());
        let (status, _) = self.vault().delete(&path).await.expect("Vault");
        assert_eq!(status, 204, "deleting {path}");
    }

    /// Path of the Vault role of this IAM role, as the templates name it.
    pub(crate) fn role_path(&self, iam_role: &str) -> String {
        format!("auth/{}/role/{}", self.auth_mount(), self.iam_role(iam_role))
    }

    /// Path of its policy.
    pub(crate) fn policy_path(&self, iam_role: &str) -> String {
        format!("sys/policies/acl/{}", self.policy_name(&self.iam_role(iam_role)))
    }

    /// Role and policy `web` as Vault has them.
    pub(crate) async fn role_and_policy(&self) -> (Option<Value>, Option<Value>) {
        (self.read(&self.role_path("web")).await, self.read(&self.policy_path("web")).await)
    }

    /// A role `web` that somebody else wrote, and that holds nothing of ours.
    pub(crate) async fn write_foreign_role(&self) {
        let foreign = json!({
            "auth_type": "iam",
            "bound_iam_principal_arn": [self.iam_arn(ACCOUNT, "web")],
            "resolve_aws_unique_ids": false,
            "token_policies": ["somebody-elses"],
        });
        self.write(&self.role_path("web"), foreign).await;
    }

    /// A role at the auth mount, as Vault has it.
    pub(crate) async fn vault_role(&self, name: &str) -> Option<Value> {
        self.read(&format!("auth/{}/role/{name}", self.auth_mount())).await
    }

    /// The text of a policy.
    pub(crate) async fn vault_policy(&self, name: &str) -> Option<String> {
        let policy = self.read(&format!("sys/policies/acl/{name}")).await?;
        Some(policy["policy"].as_str().expect("a text").to_owned())
    }

    /// The `data` of what is there, read as root.
    pub(crate) async fn read(&self, path: &str) -> Option<Value> {
        let (status, mut answer) = self.vault().get(path).await.expect("Vault");
        match status {
            404 => None,
            200 => Some(answer["data"].take()),
            _ => panic!("reading {path}: Vault answered {status}: {answer}"),
        }
    }

    /// Logs in at a Vault role as an IAM role of this world, as the operator does it, and returns
    /// Vault asked with the token; else what Vault said.
    pub(crate) async fn log_in(
        &self,
        account: &str,
        name: &str,
        vault_role: &str,
    ) -> Result<Vault, String> {
        let keys = self.assume(account, name).await;
        let credentials = Credentials::new(
            keys.access_key,
            keys.secret_key,
            keys.session_token,
            None,
            "a session of the lab",
        );
        let signed =
            signing::get_caller_identity(&credentials, aws::REGION, Some("127.0.0.1"), now())
                .expect("a signed request");
        let body = json!({
            "role": vault_role,
            "iam_http_request_method": signed.method(),
            "iam_request_url": STANDARD.encode(signed.url()),
            "iam_request_body": STANDARD.encode(signed.body()),
            "iam_request_headers": STANDARD.encode(signed.headers_json().expose()),
        });
        let nobody = self.vault().with_token("");
        let path = format!("auth/{}/login", self.auth_mount());
        let (status, answer) = nobody.post(&path, &body).await.expect("Vault");
        match answer["auth"]["client_token"].as_str() {
            Some(token) if status == 200 => Ok(self.vault().with_token(token)),
            _ => Err(answer.to_string()),
        }
    }

    // === Kubernetes ===

    /// The API server, asked as the administrator.
    pub(crate) fn kube(&self) -> Client {
        self.stage.lab.kube()
    }

    /// `vaultawsbackend/<name>`.
    pub(crate) fn backend_ref(&self) -> String {
        format!("vaultawsbackend/{}", self.id)
    }

    /// An object by kind and name, as in `vaultcertsync/web`.
    pub(crate) async fn get(&self, object: &str) -> Option<Value> {
        let (word, name) = object.split_once('/').expect("kind/name");
        let found = api_of(self, word).get_opt(name).await;
        let found = found.unwrap_or_else(|error| panic!("reading {object}: {error}"));
        found.map(|found| serde_json::to_value(found).expect("an object is JSON"))
    }

    /// All of a kind in this world's namespace.
    pub(crate) async fn list(&self, word: &str) -> Vec<Value> {
        let found = api_of(self, word).list(&ListParams::default()).await;
        let found = found.unwrap_or_else(|error| panic!("listing {word}: {error}"));
        found
            .items
            .into_iter()
            .map(|item| serde_json::to_value(item).expect("an object is JSON"))
            .collect()
    }

    /// Changes an object by a merge patch.
    pub(crate) async fn patch(&self, object: &str, patch: Value) -> Value {
        let (word, name) = object.split_once('/').expect("kind/name");
        let parameters = PatchParams::default();
        let patched = api_of(self, word).patch(name, &parameters, &Patch::Merge(patch)).await;
        let patched = patched.unwrap_or_else(|error| panic!("patching {object}: {error}"));
        serde_json::to_value(patched).expect("an object is JSON")
    }

    /// Deletes an object; it may take its time to go.
    pub(crate) async fn delete(&self, object: &str) {
        let (word, name) = object.split_once('/').expect("kind/name");
        let deleted = api_of(self, word).delete(name, &DeleteParams::default()).await;
        deleted.unwrap_or_else(|error| panic!("deleting {object}: {error}"));
    }

    /// Asks the sync to look at once; the value of the annotation.
    pub(crate) async fn refresh(&self, sync: &str) -> String {
        let value = now().to_string();
        let patch = json!({"metadata": {"annotations": {REFRESH_ANNOTATION: value}}});
        self.patch(&format!("vaultcertsync/{sync}"), patch).await;
        value
    }

    /// Has the sync look at once, and waits until it has; its status then.
    pub(crate) async fn look(&self, sync: &str) -> VaultCertSyncStatus {
        let asked = self.refresh(sync).await;
        self.looked(sync, &asked).await
    }

    /// Waits until the sync has had the look that [`Self::refresh`] asked for; its status then.
    pub(crate) async fn looked(&self, sync: &str, asked: &str) -> VaultCertSyncStatus {
        self.eventually(&format!("the look of {sync} that was asked for"), PATIENCE, async || {
            let status = self.sync_status(sync).await;
            (status.last_handled_refresh.as_deref() == Some(asked)).then_some(status)
        })
        .await
    }

    /// Asks the backend to compare all of Vault at once.
    pub(crate) async fn refresh_backend(&self) {
        let patch = json!({"metadata": {"annotations": {REFRESH_ANNOTATION: now().to_string()}}});
        self.patch(&self.backend_ref(), patch).await;
    }

    /// A Secret of this namespace.
    pub(crate) async fn secret(&self, name: &str) -> Option<Secret> {
        let api = Api::<Secret>::namespaced(self.kube(), &self.id);
        api.get_opt(name).await.unwrap_or_else(|error| panic!("reading Secret {name}: {error}"))
    }

    /// Waits until the Secret is there and its `tls.crt` begins with this leaf.
    pub(crate) async fn delivered(&self, name: &str, issued: &Issued) -> Secret {
        self.eventually(&format!("Secret {name} to hold {}", issued.serial), PATIENCE, async || {
            let secret = self.secret(name).await?;
            text(&secret, "tls.crt").starts_with(&issued.certificate).then_some(secret)
        })
        .await
    }

    /// The status of a sync.
    pub(crate) async fn sync_status(&self, name: &str) -> VaultCertSyncStatus {
        let sync = self.get(&format!("vaultcertsync/{name}")).await.expect("the sync");
        serde_json::from_value(sync["status"].clone()).expect("a status")
    }

    /// What a sync says about one certificate.
    pub(crate) async fn certificate(&self, sync: &str, name: &str) -> Option<CertificateStatus> {
        let status = self.sync_status(sync).await;
        status.certificates.into_iter().find(|certificate| certificate.name == name)
    }

    /// Waits until a sync says this about one certificate: its state, and the reason for it.
    pub(crate) async fn certificate_becomes(
        &self,
        sync: &str,
        name: &str,
        state: &str,
        reason: Option<&str>,
    ) -> CertificateStatus {
        let what =
            format!("certificate {sync}/{name} to be {state} {}", reason.unwrap_or_default());
        self.eventually(&what, PATIENCE, async || {
            let found = self.certificate(sync, name).await?;
            (found.state.as_str() == state && found.reason.as_deref() == reason).then_some(found)
        })
        .await
    }

    /// A condition of an object, if it was judged in its present generation.
    pub(crate) async fn condition(&self, object: &str, kind: &str) -> Option<Condition> {
        let object = self.get(object).await?;
        if object["status"]["observedGeneration"] != object["metadata"]["generation"] {
            return None;
        }
        conditions(&object).into_iter().find(|(found, _)| found == kind).map(|(_, found)| found)
    }

    /// Waits until a condition of an object is as said.
    pub(crate) async fn becomes(
        &self,
        object: &str,
        kind: &str,
        status: &str,
        reason: &str,
    ) -> Condition {
        let what = format!("{object} to be {kind}={status} {reason}");
        self.eventually(&what, PATIENCE, async || {
            let found = self.condition(object, kind).await?;
            (found.status == status && found.reason == reason).then_some(found)
        })
        .await
    }

    /// Waits until an object is ready.
    pub(crate) async fn ready(&self, object: &str) -> Condition {
        self.eventually(&format!("{object} to be ready"), PATIENCE, async || {
            self.condition(object, "Ready").await.filter(|found| found.status == "True")
        })
        .await
    }

    /// Waits until an object is gone.
    pub(crate) async fn gone(&self, object: &str, limit: Duration) {
        self.eventually(&format!("{object} to be gone"), limit, async || {
            self.get(object).await.is_none().then_some(())
        })
        .await;
    }

    /// The events about an object: reason and note.
    pub(crate) async fn events(&self, object: &str) -> Vec<(String, String)> {
        let (word, name) = object.split_once('/').expect("kind/name");
        let about = |event: &Value| {
            let regarding = &event["regarding"];
            regarding["name"] == name
                && regarding["kind"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case(word))
        };
        let events = self.list("event").await.into_iter().filter(about);
        let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events.map(|event| (string(&event["reason"]), string(&event["note"]))).collect()
    }

    /// What kubectl prints; it must succeed. The namespace is this world's.
    pub(crate) async fn kubectl(&self, args: &[&str]) -> String {
        let args = [&["--namespace", self.id.as_str()], args].concat();
        let output = self.stage.lab.kubectl(&args).await.expect("kubectl");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {}: {said}", args.join(" "));
        String::from_utf8(output.stdout).expect("kubectl prints text")
    }

    // === what the operator asked for ===

    /// This moment, to ask later what was requested since.
    pub(crate) fn mark(&self) -> Mark {
        Mark::now(&self.stage.lab)
    }

    /// What the operator asked of Vault in this world.
    pub(crate) fn vault_requests_since(&self, mark: Mark) -> Vec<VaultRequest> {
        let log = self.stage.lab.audit_vault_path();
        let mut requests = audit::vault(&log, mark.vault).expect("the audit log");
        requests.retain(|request| {
            let is_ours = |text: &String| text.contains(&self.id);
            is_ours(&request.path) || request.policies.iter().any(is_ours)
        });
        requests
    }

    /// Those of them that change something.
    pub(crate) fn vault_writes_since(&self, mark: Mark) -> Vec<VaultRequest> {
        let requests = self.vault_requests_since(mark);
        requests.into_iter().filter(VaultRequest::is_write).collect()
    }

    /// What the operator asked of the API server in this world's namespace, or about its backend;
    /// without watches and lists of whole kinds.
    pub(crate) fn kubernetes_requests_since(&self, mark: Mark) -> Vec<KubernetesRequest> {
        let (log, users) = (self.stage.lab.audit_kube_path(), Component::ALL.map(Component::user));
        let mut requests = audit::kubernetes(&log, mark.kubernetes, &users, audit::Stage::Ended)
            .expect("the audit log");
        requests.retain(|request| request.namespace == self.id || request.name == self.id);
        requests
    }

    /// Those of them that change something.
    pub(crate) fn kubernetes_writes_since(&self, mark: Mark) -> Vec<KubernetesRequest> {
        let requests = self.kubernetes_requests_since(mark);
        requests.into_iter().filter(KubernetesRequest::is_write).collect()
    }

    // === waiting and telling ===

    /// Looks every 100 ms until it finds something; the trial fails if it does not in time.
    pub(crate) async fn eventually<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let begun = Instant::now();
        let waiting = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(limit, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("waited {:.1} s for {what}", begun.elapsed().as_secs_f64()),
        }
    }

    /// How everything stands in this world, for whoever has to find out why a trial failed.
    pub(crate) async fn story(&self) -> String {
        let mut story = format!("the world {}:\n", self.id);
        let mut tell = |object: &Value| {
            let name = object["metadata"]["name"].as_str().unwrap_or("?");
            let generation = &object["metadata"]["generation"];
            let observed = &object["status"]["observedGeneration"];
            story.push_str(&format!("{name}: generation {generation}, observed {observed}\n"));
            for (kind, Condition { status, reason, message }) in conditions(object) {
                story.push_str(&format!("  {kind}={status} {reason}: {message}\n"));
            }
            for one in object["status"]["certificates"].as_array().into_iter().flatten() {
                let part = |key: &str| one[key].as_str().unwrap_or_default();
                story.push_str(&format!(
                    "  certificate {}: {} {} {}\n",
                    part("name"),
                    part("state"),
                    part("reason"),
                    part("message")
                ));
            }
        };
        for word in ["vaultawsbackend", "vaultawsrole", "vaultcertsync"] {
            // Also where the API server is what failed.
            let limit = Duration::from_secs(5);
            let all = ListParams::default();
            let api = api_of(self, word);
            let Ok(Ok(found)) = tokio::time::timeout(limit, api.list(&all)).await else { continue };
            for item in found.items {
                let object = serde_json::to_value(item).unwrap_or_default();
                if word != "vaultawsbackend" || object["metadata"]["name"] == self.id {
                    tell(&object);
                }
            }
        }
        for operator in self.stage.operators() {
            const LINES: usize = 20;
            story.push_str(&format!("last of {}:\n", operator.log().display()));
            let log = fs::read(operator.log()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(&self.id)).collect();
            for line in &lines[lines.len().saturating_sub(LINES)..] {
                story.push_str(&format!("  {line}\n"));
            }
        }
        story
    }
}

/// The conditions by type.
fn conditions(object: &Value) -> Vec<(String, Condition)> {
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = object["status"]["conditions"].as_array();
    all.into_iter()
        .flatten()
        .map(|condition| {
            let [status, reason, message] =
                ["status", "reason", "message"].map(|key| string(&condition[key]));
            (string(&condition["type"]), Condition { status, reason, message })
        })
        .collect()
}

/// The text under a key of a Secret; empty if there is none.
pub(crate) fn text(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
}

/// The machine's clock.
#[expect(clippy::disallowed_methods, reason = "tests run on servers that look at the same clock")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
