//! The operator runs under what `vault-aws policy` prints and `deploy/` holds, and nothing else. Whether
//! that is enough, and not too much, is seen when the whole suite has run: the servers' audit logs say
//! what was refused and what was used. And what Vault's policy is to prevent is tried here with the
//! operator's own token.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use libtest_mimic::Trial;
use serde_json::{Value, json};
use vault_aws_lab::{
    Component, Vault,
    audit::{self, KubernetesRequest, VaultRequest},
    installation::{KUBERNETES_MOUNT, repository},
};
use vault_aws_operator::grants::{
    kubernetes::Tenant,
    vault::{self, Grant, Part},
};

use crate::{
    stage::{Stage, Stages},
    trial::catch,
    world::{ACCOUNT, OTHER_ACCOUNT, PATIENCE, World},
};

tests![
    a_role_may_carry_our_policies_alone,
    the_policies_that_matter_are_out_of_the_operators_reach,
    a_managed_mount_is_kept_without_what_was_needed_once,
    the_operators_session_is_renewed_under_its_own_policy,
    the_program_prints_the_policy_under_which_the_operator_runs,
];

// === what the policy prevents ===

/// Vault, asked with a token of the operator's own.
async fn operator(world: &World) -> Vault {
    let token = fs::read_to_string(world.stage.installation.token_path()).expect("a token file");
    let body = json!({"role": world.operator_policy(), "jwt": token.trim()});
    let nobody = world.vault().with_token("");
    let path = format!("auth/{KUBERNETES_MOUNT}/login");
    let answer =
        nobody.write(&path, &body).await.unwrap_or_else(|error| panic!("{}", error.story()));
    let token = answer["auth"]["client_token"].as_str().expect("a token");
    crate::leaks::plant("Vault token", token);
    world.vault().with_token(token)
}

/// The mount, enabled by the operator; and its token.
async fn mounted(world: &World) -> Vault {
    refusals_are_meant(world);
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    operator(world).await
}

async fn a_role_may_carry_our_policies_alone(world: World) {
    let operator = mounted(&world).await;
    let path = world.role_path("web");
    let write = async |fields: Value| {
        let mut body = json!({
            "auth_type": "iam",
            "bound_iam_principal_arn": [world.iam_arn(ACCOUNT, "web")],
            "resolve_aws_unique_ids": false,
        });
        for (key, value) in fields.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        operator.post(&path, &body).await.expect("Vault").0
    };
    let ours = format!("{}-web-policy", world.id);
    // Both for a role that is not there yet, and for one that is.
    for _ in 0..2 {
        for foreign in ["admin", "root", "default", "operator-x"] {
            assert_eq!(write(json!({"token_policies": [foreign]})).await, 403, "{foreign}");
            assert_eq!(write(json!({"token_policies": [ours, foreign]})).await, 403, "{foreign}");
            for joined in [format!("{ours},{foreign}"), format!("{foreign},{ours}")] {
                assert_eq!(write(json!({"token_policies": joined})).await, 403, "{joined}");
                assert_eq!(write(json!({"token_policies": [joined]})).await, 403, "{joined}");
            }
            for old in [json!([foreign]), json!(foreign), json!([ours])] {
                assert_eq!(write(json!({"policies": old})).await, 403, "{foreign}");
            }
            for spelling in ["Token_Policies", "TOKEN_POLICIES", "Policies"] {
                assert_eq!(write(json!({spelling: [foreign]})).await, 403, "{spelling}");
            }
        }
        assert_eq!(write(json!({"token_policies": [ours]})).await, 204);
    }
    let role = world.read(&path).await.expect("the role");
    assert_eq!(role["token_policies"], json!([ours]));
}

async fn the_policies_that_matter_are_out_of_the_operators_reach(world: World) {
    let operator = mounted(&world).await;
    let body = json!({"policy": "path \"secret/*\" { capabilities = [\"read\"] }"});
    for name in
        ["default", &world.operator_policy(), &world.bootstrap_policy(), "admin", "operator-x"]
    {
        let path = format!("sys/policies/acl/{name}");
        assert_eq!(operator.post(&path, &body).await.expect("Vault").0, 403, "{name}");
        assert_eq!(operator.delete(&path).await.expect("Vault").0, 403, "{name}");
    }
    // Nor can it let itself in with more, make tokens, or look at what it keeps.
    for path in [
        format!("auth/{KUBERNETES_MOUNT}/role/{}", world.operator_policy()),
        "auth/token/create".to_owned(),
        "sys/auth/another".to_owned(),
        format!("{}/data/certs/{ACCOUNT}/web/tls", world.kv_mount()),
    ] {
        assert_eq!(operator.post(&path, &body).await.expect("Vault").0, 403, "{path}");
        assert_eq!(operator.get(&path).await.expect("Vault").0, 403, "{path}");
    }
    // Denied also where another policy of the token says otherwise.
    let all = "path \"*\" { capabilities = [\"create\", \"read\", \"update\", \"sudo\"] }\n\
               path \"sys/policies/acl/default\" { capabilities = [\"update\"] }";
    let name = format!("{}-all", world.id);
    world.write(&format!("sys/policies/acl/{name}"), json!({"policy": all})).await;
    let own = world.operator_policy();
    let policies = [own.as_str(), name.as_str()];
    let installation = &world.stage.installation;
    installation.allow_login(world.vault(), &own, &policies).await.expect("a role");
    let operator = self::operator(&world).await;
    let path = |name: &str| format!("sys/policies/acl/{name}");
    assert_eq!(operator.post(&path(&own), &body).await.expect("Vault").0, 403);
    assert_eq!(operator.post(&path("default"), &body).await.expect("Vault").0, 403);
    assert_eq!(
        operator.post(&path(&name), &body).await.expect("Vault").0,
        204,
        "the counter-proof"
    );
}

async fn a_managed_mount_is_kept_without_what_was_needed_once(world: World) {
    world.backend().apply().await;
    world.ready(&world.backend_ref()).await;
    let path = format!("sys/policies/acl/{}", world.bootstrap_policy());
    assert_eq!(world.vault().delete(&path).await.expect("Vault").0, 204);
    for (retries, role) in [(3, "vault-looks-up"), (4, "vault-looks-up-2")] {
        let account = json!({
            "accountId": OTHER_ACCOUNT,
            "stsRoleArn": format!("arn:aws:iam::{OTHER_ACCOUNT}:role/{role}"),
        });
        let backend = world
            .backend()
            .with("spec.auth.accounts", json!([account]))
            .with("spec.auth.client.maxRetries", retries);
        backend.apply().await;
        world.ready(&world.backend_ref()).await;
        let mount = world.auth_mount();
        let read = async |what: String| world.read(&format!("auth/{mount}/config/{what}")).await;
        let written = read(format!("sts/{OTHER_ACCOUNT}")).await.expect("the account's role");
        assert_eq!(written["sts_role"], account["stsRoleArn"]);
        assert_eq!(read("client".to_owned()).await.expect("config/client")["max_retries"], retries);
    }
}

async fn the_operators_session_is_renewed_under_its_own_policy(world: World) {
    let role = format!("auth/{KUBERNETES_MOUNT}/role/{}", world.operator_policy());
    // Long enough for a look to fall between half of its life and its end.
    world.write(&role, json!({"token_ttl": "12s", "token_max_ttl": "1h"})).await;
    let mark = world.mark();
    world.backend().apply().await;
    world.role("web").with("spec.driftInterval", "2s").apply().await;
    world
        .eventually("a renewal", PATIENCE, async || {
            let asked = world.vault_requests_since(mark);
            asked.iter().find(|one| one.path == "auth/token/renew-self").map(|one| {
                assert_eq!(one.error, "");
            })
        })
        .await;
    world.ready("vaultawsrole/web").await;
}

async fn the_program_prints_the_policy_under_which_the_operator_runs(world: World) {
    let names = [world.operator_policy(), world.bootstrap_policy()];
    for (name, more) in names.iter().zip([&[][..], &["--bootstrap"]]) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vault-aws"))
            .args(["policy", "--vault", "--backend", "-", "--policy-name", &names.join(",")])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdin = child.stdin.take().expect("stdin");
        serde_json::to_writer(stdin, &world.backend().value).expect("a manifest");
        let output = child.wait_with_output().expect("the program ends");
        assert!(output.status.success());
        let printed = String::from_utf8(output.stdout).expect("text");
        assert_eq!(world.vault_policy(name).await.as_ref(), Some(&printed));
    }
}

// === what the whole run shows ===

/// Worlds in which something is refused to the operator because the test wants to see that.
static MEANT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// In this world's namespace and mounts, what is refused to the operator is no defect of its rights.
pub(crate) fn refusals_are_meant(world: &World) {
    MEANT.lock().unwrap_or_else(PoisonError::into_inner).insert(world.id.clone());
}

fn is_meant(world: &str) -> bool {
    MEANT.lock().unwrap_or_else(PoisonError::into_inner).contains(world)
}

/// The trials that look at the whole run; of a part of it they would say nothing.
pub(crate) fn trials(stages: &Arc<Stages>) -> Vec<Trial> {
    let looks: [(&str, Look); 2] = [
        ("grants::nothing_that_the_operator_needed_was_refused", refused_nothing),
        ("grants::everything_that_the_operator_was_granted_is_used", granted_nothing_in_vain),
    ];
    looks
        .into_iter()
        .map(|(name, look)| {
            let stages = Arc::clone(stages);
            Trial::test(name, move || {
                let logs: Vec<Log> =
                    stages.started().iter().map(|stage| Log::read(stage)).collect();
                assert!(!logs.is_empty(), "nothing ran");
                Ok(catch(|| look(&logs))?)
            })
        })
        .collect()
}

/// A look at what was asked in all labs.
type Look = fn(&[Log]);

/// What the operator asked in one lab.
struct Log {
    /// With the world it was asked for.
    vault: Vec<(String, VaultRequest)>,
    kubernetes: Vec<KubernetesRequest>,
}

impl Log {
    fn read(stage: &Stage) -> Self {
        let lab = &stage.lab;
        let vault = audit::vault(&lab.audit_vault_path(), 0).expect("Vault's audit log");
        let users = Component::ALL.map(Component::user);
        let asked = |when| {
            audit::kubernetes(&lab.audit_kube_path(), 0, &users, when).expect("the audit log")
        };
        // A watch that still runs has begun only.
        let mut kubernetes = asked(audit::Stage::Ended);
        kubernetes.extend(asked(audit::Stage::Begun));
        // An API server that is not ready yet knows no roles.
        let is_early = |request: &KubernetesRequest| {
            request.forbidden.is_some() && lab.apiserver().was_starting(request.time)
        };
        kubernetes.retain(|request| !is_early(request));
        Self {
            vault: vault.into_iter().filter_map(|one| Some((world_of(&one)?, one))).collect(),
            kubernetes,
        }
    }
}

/// The world whose operator's policies the token carries. Tokens of the operator are made at the
/// Kubernetes mount, those of its syncs and of people are not.
fn world_of(request: &VaultRequest) -> Option<String> {
    if !request.who.starts_with(KUBERNETES_MOUNT) {
        return None;
    }
    let own = request.policies.iter().filter_map(|policy| policy.strip_prefix("operator-"));
    own.min_by_key(|rest| rest.len()).map(str::to_owned)
}

fn refused_nothing(logs: &[Log]) {
    let mut refused = BTreeSet::new();
    for log in logs {
        for (world, request) in &log.vault {
            if request.is_forbidden() && !is_meant(world) {
                refused.insert(format!("Vault: {} {}", request.operation, request.path));
            }
        }
        for request in &log.kubernetes {
            let KubernetesRequest { verb, resource, namespace, name, user, .. } = request;
            // What is let through later was granted meanwhile.
            let came = |later: &KubernetesRequest| {
                (&later.user, &later.verb, &later.resource, &later.namespace)
                    == (user, verb, resource, namespace)
                    && later.forbidden.is_none()
                    && later.time > request.time
            };
            let is_refused = request.forbidden.is_some() && !log.kubernetes.iter().any(came);
            if is_refused && !is_meant(namespace) && !is_meant(name) {
                let (why, when) = (request.forbidden.as_deref().unwrap_or_default(), request.time);
                refused.insert(format!(
                    "Kubernetes: {user}: {verb} {resource} {namespace}/{name} at {when}: {why}"
                ));
            }
        }
    }
    let refused: Vec<String> = refused.into_iter().collect();
    assert!(refused.is_empty(), "the operator was refused:\n{}", refused.join("\n"));
}

fn granted_nothing_in_vain(logs: &[Log]) {
    let mut unused = unused_in_vault(logs);
    unused.extend(unused_in_kubernetes(logs));
    assert!(unused.is_empty(), "granted and never used:\n{}", unused.join("\n"));
}

/// The name that stands for every world in what follows.
const ANY: &str = "w";

fn unused_in_vault(logs: &[Log]) -> Vec<String> {
    let spec = json!({
        "vault": {"address": "https://127.0.0.1"},
        "operatorLogin": {},
        "auth": {"mount": "w-aws", "management": "Managed"},
        "certificates": {"mount": "w-kv"},
        "naming": {"policy": "w-{role}-policy"},
    });
    let spec = serde_json::from_value(spec).expect("a backend");
    let grants: Vec<Grant> = [Part::Daily, Part::Bootstrap]
        .into_iter()
        .flat_map(|part| vault::grants(&spec, part, &["operator"]).expect("grants"))
        .filter(|grant| grant.capabilities != ["deny"])
        .collect();
    let mut used: BTreeSet<(String, &str)> = BTreeSet::new();
    for (world, request) in logs.iter().flat_map(|log| &log.vault) {
        if !request.error.is_empty() {
            continue;
        }
        let path = request.path.replace(world, ANY);
        // Any right below a mount opens this; the grant for it says so.
        let path = match path.strip_prefix("sys/internal/ui/mounts/") {
            Some(mount) => format!("{mount}/config"),
            None => path,
        };
        let grant = grants
            .iter()
            .filter(|grant| match grant.path.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => grant.path == path,
            })
            .max_by_key(|grant| grant.path.len());
        if let Some(grant) = grant {
            let operation = grant.capabilities.iter().find(|one| **one == request.operation);
            // Whatever is done at such a path needs it as well.
            let sudo = grant.capabilities.iter().find(|one| **one == "sudo");
            used.extend(operation.into_iter().chain(sudo).map(|one| (grant.path.clone(), *one)));
        }
    }
    let all = grants.iter().flat_map(|grant| {
        grant.capabilities.iter().map(|capability| (grant.path.clone(), *capability))
    });
    all.filter(|one| !used.contains(one))
        .map(|(path, capability)| format!("Vault: {capability} on {path}"))
        .collect()
}

fn unused_in_kubernetes(logs: &[Log]) -> Vec<String> {
    let file = fs::read_to_string(repository().join("deploy/rbac.yaml")).expect("deploy/rbac.yaml");
    let accounts = ["web".to_owned()];
    let tenant = Tenant { namespace: None, service_accounts: &accounts, deletes: true };
    let tenant = tenant.text().expect("names");
    let documents: Vec<Value> = [file, tenant]
        .iter()
        .flat_map(|text| serde_saphyr::from_multiple::<Value>(text).expect("YAML"))
        .collect();
    // Roles by name, with all who are bound to them.
    let mut bound: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for binding in documents.iter().filter(|one| one["roleRef"].is_object()) {
        let users = binding["subjects"].as_array().expect("subjects").iter().map(|subject| {
            let [namespace, name] =
                ["namespace", "name"].map(|key| subject[key].as_str().unwrap_or_default());
            format!("system:serviceaccount:{namespace}:{name}")
        });
        let role = binding["roleRef"]["name"].as_str().expect("a role");
        bound.entry(role).or_default().extend(users);
    }
    let used: BTreeSet<(&str, &str, &str, &str)> = logs
        .iter()
        .flat_map(|log| &log.kubernetes)
        .filter(|request| request.code < 300)
        .flat_map(|one| {
            // An apply that makes the object needs both rights.
            let makes = (one.verb == "patch" && one.code == 201).then_some("create");
            let used = |verb| (&*one.user, &*one.group, &*one.resource, verb);
            [Some(used(one.verb.as_str())), makes.map(used)].into_iter().flatten()
        })
        .collect();
    let mut unused = Vec::new();
    for role in documents.iter().filter(|one| one["rules"].is_array()) {
        let name = role["metadata"]["name"].as_str().expect("a name");
        let words = |rule: &Value, key: &str| -> Vec<String> {
            let all = rule[key].as_array().expect("a list").iter();
            all.map(|word| word.as_str().expect("a word").to_owned()).collect()
        };
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in words(rule, "apiGroups") {
                for resource in words(rule, "resources") {
                    for verb in words(rule, "verbs") {
                        let is_used = |user: &String| {
                            used.contains(&(user.as_str(), &*group, &*resource, &*verb))
                        };
                        if !bound.get(name).is_some_and(|users| users.iter().any(is_used)) {
                            unused.push(format!("Kubernetes: {name}: {verb} {resource}"));
                        }
                    }
                }
            }
        }
    }
    unused
}
