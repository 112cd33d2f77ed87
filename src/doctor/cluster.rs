//! A resource explained from the cluster's own objects: what its conditions say, put in the order of
//! the chain that it depends on. Pure; neither Vault nor AWS is asked, and no Secret's data is read.

mod reasons;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference};
use kube::ResourceExt;

use self::reasons::{Links, ROLE_LINKS, SYNC_LINKS, cure, link_of};
use super::{Finding, Mark};
use crate::{
    cert::desired::{identity_kind, role_name},
    crd::{
        CertificateState, CertificateStatus, IamKind, VaultAwsBackend, VaultAwsRole, VaultCertSync,
    },
    tenancy,
};

/// The links, in their order.
const RESOURCE: &str = "Resource";
const OPERATOR: &str = "Operator";
const BACKEND: &str = "Backend";
const TENANCY: &str = "Tenancy";
const ROLE: &str = "Role";
const IDENTITY: &str = "AWS identity";
const VAULT: &str = "Vault";
const LOGIN: &str = "Login";
const SOURCE: &str = "Source";
const CERTIFICATES: &str = "Certificates";
const SECRETS: &str = "Secrets";
const READY: &str = "Ready";

/// What a metadata-only read shows of a Secret.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretFacts {
    /// Its name.
    pub name: String,
    /// Which version of it stands.
    pub resource_version: String,
    /// Who owns it.
    pub owners: Vec<OwnerReference>,
}

/// The objects around a resource, as far as the person may read them.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// The role of a sync.
    pub role: Option<VaultAwsRole>,
    /// The backend.
    pub backend: Option<VaultAwsBackend>,
    /// Labels of the namespace; `None` if it may not be read.
    pub labels: Option<BTreeMap<String, String>>,
    /// The Secrets of the namespace; `None` if they may not be listed.
    pub secrets: Option<Vec<SecretFacts>>,
}

/// What a resource says of itself.
struct Said<'a> {
    kind: &'static str,
    generation: Option<i64>,
    observed: Option<i64>,
    conditions: &'a [Condition],
    deleting: bool,
}

impl<'a> Said<'a> {
    /// By its status: the generation that was observed, and the conditions.
    fn new(
        kind: &'static str,
        metadata: &ObjectMeta,
        status: Option<(i64, &'a [Condition])>,
    ) -> Self {
        Self {
            kind,
            generation: metadata.generation,
            observed: status.map(|(observed, _)| observed),
            conditions: status.map(|(_, conditions)| conditions).unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }

    fn condition(&self, kind: &str) -> Option<&'a Condition> {
        self.conditions.iter().find(|condition| condition.type_ == kind)
    }

    fn ready(&self) -> Option<&'a Condition> {
        self.condition("Ready")
    }

    fn is_ready(&self) -> bool {
        self.ready().is_some_and(|ready| ready.status == "True")
    }

    /// What is wrong, if it is not ready.
    fn trouble(&self) -> Option<&'a Condition> {
        self.ready().filter(|ready| ready.status != "True")
    }
}

fn of_sync(sync: &VaultCertSync) -> Said<'_> {
    let status = sync.status.as_ref();
    let status = status.map(|status| (status.observed_generation, &*status.conditions));
    Said::new("VaultCertSync", &sync.metadata, status)
}

fn of_role(role: &VaultAwsRole) -> Said<'_> {
    let status = role.status.as_ref();
    let status = status.map(|status| (status.observed_generation, &*status.conditions));
    Said::new("VaultAwsRole", &role.metadata, status)
}

fn of_backend(backend: &VaultAwsBackend) -> Said<'_> {
    let status = backend.status.as_ref();
    let status = status.map(|status| (status.observed_generation, &*status.conditions));
    Said::new("VaultAwsBackend", &backend.metadata, status)
}

/// Explains a sync.
pub fn sync(sync: &VaultCertSync, around: &Around) -> Vec<Finding> {
    let said = of_sync(sync);
    let mut findings = vec![resource(&said), operator(&said)];
    findings.push(match &around.backend {
        Some(backend) => link_to_backend(backend),
        None => told(BACKEND, &said, &SYNC_LINKS).unwrap_or_else(|| {
            // Without the role it is not known which backend is meant.
            match around.role {
                None if role_name(sync).is_some() => Finding::skipped(BACKEND, "named by the role"),
                _ => Finding::doubt(
                    BACKEND,
                    "NotVisible",
                    "it may not be read by you",
                    "ask who administers the operator: VaultAwsBackend is an object of the cluster",
                ),
            }
        }),
    });
    findings.push(tenancy_of_sync(sync, &said, around));
    findings.push(match (role_name(sync), &around.role) {
        (None, _) => Finding::good(ROLE, "managed elsewhere (principal)"),
        (Some(_), Some(role)) => link_to_role(role),
        (Some(name), None) => Finding::broken(
            ROLE,
            "RoleNotFound",
            format!("there is no VaultAwsRole `{name}` in this namespace"),
            "make it, or name another in spec.roleRef",
        ),
    });
    for link in [IDENTITY, VAULT, LOGIN, SOURCE] {
        findings.push(
            told(link, &said, &SYNC_LINKS).unwrap_or_else(|| passed(link, &said, &SYNC_LINKS)),
        );
    }
    if let Some(stale) = said.condition("Stale").filter(|stale| stale.status == "True")
        && let Some(source) = findings.iter_mut().find(|finding| finding.step == SOURCE)
        && source.mark == Mark::Good
    {
        let cure = "see the links before; the Secrets keep their last good bytes";
        *source = Finding::doubt(SOURCE, &stale.reason, &stale.message, cure);
    }
    findings.push(certificates(sync, &said));
    findings.push(secrets(sync, &said, around));
    unless_told(findings, &said)
}

/// Explains a role.
pub fn role(role: &VaultAwsRole, around: &Around) -> Vec<Finding> {
    let said = of_role(role);
    let backend = match &around.backend {
        Some(backend) => link_to_backend(backend),
        None => Finding::broken(
            BACKEND,
            "BackendNotFound",
            format!(
                "there is no VaultAwsBackend `{}`, or it may not be read by you",
                role.spec.backend_ref.name
            ),
            "make it, or name another in a new VaultAwsRole",
        ),
    };
    let mut findings = vec![resource(&said), operator(&said), backend];
    findings.push(told(TENANCY, &said, &ROLE_LINKS).unwrap_or_else(|| {
        let request = |labels| tenancy::Request {
            namespace: role.metadata.namespace.as_deref().unwrap_or_default(),
            labels,
            account: &role.spec.account_id,
            iam: role.spec.iam_name(),
            identity: None,
            beyond: tenancy::Beyond::default(),
        };
        granted(around, request).unwrap_or_else(|| passed(TENANCY, &said, &ROLE_LINKS))
    }));
    for link in [VAULT, IDENTITY] {
        findings.push(
            told(link, &said, &ROLE_LINKS).unwrap_or_else(|| passed(link, &said, &ROLE_LINKS)),
        );
    }
    findings.push(told(ROLE, &said, &ROLE_LINKS).unwrap_or_else(|| match said.is_ready() {
        true => {
            let status = role.status.as_ref();
            let name = status.and_then(|status| status.vault_role.as_deref()).unwrap_or_default();
            let login = status.and_then(|status| status.login.as_deref()).unwrap_or_default();
            Finding::good(ROLE, format!("`{name}` is as declared; log in by: {login}"))
        }
        false => passed(ROLE, &said, &ROLE_LINKS),
    }));
    if let Some(isolated) = said.condition("Isolated") {
        findings.push(match isolated.status.as_str() {
            "True" => Finding::good("Isolation", &isolated.message),
            "False" => Finding::doubt(
                "Isolation",
                &isolated.reason,
                &isolated.message,
                "narrow that policy in Vault, or leave it out of the role",
            ),
            _ => Finding::skipped("Isolation", &isolated.message),
        });
    }
    unless_told(findings, &said)
}

/// Explains a backend.
pub fn backend(backend: &VaultAwsBackend) -> Vec<Finding> {
    let said = of_backend(backend);
    let mut findings = vec![resource(&said), operator(&said)];
    for (link, kind) in [(VAULT, "Reachable"), ("Auth mount", "MountConfigured")] {
        findings.push(match said.condition(kind) {
            Some(found) if found.status == "True" => Finding::good(link, &found.message),
            Some(found) if found.status == "Unknown" => Finding::skipped(link, &found.message),
            Some(found) => condition(link, found),
            None => Finding::skipped(link, "not looked at yet"),
        });
    }
    if let Some(version) = said.condition("VersionSafe") {
        findings.push(match version.status.as_str() {
            "True" => Finding::good("Version", &version.message),
            "False" => Finding::doubt(
                "Version",
                &version.reason,
                &version.message,
                "update Vault to a version with the fixes",
            ),
            _ => Finding::skipped("Version", &version.message),
        });
    }
    findings.push(match said.trouble() {
        // Said by one of the links before.
        Some(ready) if findings.iter().any(|finding| finding.mark == Mark::Broken) => {
            Finding::skipped(READY, &ready.reason)
        }
        Some(ready) => condition(READY, ready),
        None if said.is_ready() => Finding::good(READY, "roles and syncs may use it"),
        None => Finding::skipped(READY, "not looked at yet"),
    });
    findings
}

/// No trouble may go unsaid, whatever its reason.
fn unless_told(mut findings: Vec<Finding>, said: &Said<'_>) -> Vec<Finding> {
    if let Some(ready) = said.trouble()
        && findings.iter().all(|finding| finding.mark != Mark::Broken)
    {
        findings.push(condition(READY, ready));
    }
    findings
}

fn resource(said: &Said<'_>) -> Finding {
    let kind = said.kind;
    if said.deleting {
        let found = format!("the {kind} is being deleted");
        return Finding::doubt(RESOURCE, "Deleting", found, "wait, or see the operator's log");
    }
    match said
        .trouble()
        .filter(|ready| matches!(ready.reason.as_str(), "InvalidSpec" | "ReservedName"))
    {
        Some(ready) => condition(RESOURCE, ready),
        None => Finding::good(RESOURCE, format!("the {kind} is there")),
    }
}

fn operator(said: &Said<'_>) -> Finding {
    const CURE: &str = "is the operator running, and does it watch this namespace? `kubectl -n \
                        vault-aws-system get pods,leases`; then its log";
    match (said.observed, said.generation) {
        (None | Some(..=0), _) => {
            Finding::broken(OPERATOR, "NotObserved", "the operator has not looked at it yet", CURE)
        }
        (Some(observed), Some(generation)) if observed < generation => Finding::broken(
            OPERATOR,
            "NotObserved",
            format!("its status is of generation {observed}, its spec of {generation}"),
            CURE,
        ),
        _ => match said.trouble().filter(|ready| is_operators_own(&ready.reason)) {
            Some(ready) => condition(OPERATOR, ready),
            None => Finding::good(OPERATOR, "has looked at it as it is"),
        },
    }
}

fn is_operators_own(reason: &str) -> bool {
    matches!(reason, "KubernetesError" | "DeadlineExceeded" | "InternalError")
}

fn link_to_backend(backend: &VaultAwsBackend) -> Finding {
    let said = of_backend(backend);
    let name = backend.name_any();
    match said.trouble() {
        Some(ready) => {
            let found = format!("`{name}`: {}", ready.message);
            Finding { found, ..condition(BACKEND, ready) }
        }
        None if said.is_ready() => {
            Finding::good(BACKEND, format!("`{name}` ({}) is ready", backend.spec.vault.address))
        }
        None => {
            let cure = "is the operator running with the controller `backend`?";
            let found = format!("`{name}` has not been looked at yet");
            Finding::broken(BACKEND, "NotObserved", found, cure)
        }
    }
}

fn link_to_role(role: &VaultAwsRole) -> Finding {
    let said = of_role(role);
    let name = role.name_any();
    match said.trouble() {
        Some(ready) => {
            let found = format!("`{name}`: {}", ready.message);
            Finding { found, ..condition(ROLE, ready) }
        }
        None if said.is_ready() => Finding::good(ROLE, format!("`{name}` is ready")),
        None => {
            let cure = "is the operator running with the controller `role`?";
            let found = format!("`{name}` has not been looked at yet");
            Finding::broken(ROLE, "NotObserved", found, cure)
        }
    }
}

fn tenancy_of_sync(sync: &VaultCertSync, said: &Said<'_>, around: &Around) -> Finding {
    if let Some(denied) = told(TENANCY, said, &SYNC_LINKS) {
        return denied;
    }
    let principal = match (&sync.spec.principal, &around.role) {
        (Some(principal), _) => {
            Some((&principal.account_id, (IamKind::Role, principal.iam_role.as_str())))
        }
        (None, Some(role)) => Some((&role.spec.account_id, role.spec.iam_name())),
        (None, None) => None,
    };
    let Some((account, iam)) = principal else {
        return Finding::skipped(TENANCY, "needs the role");
    };
    let request = |labels| tenancy::Request {
        namespace: sync.metadata.namespace.as_deref().unwrap_or_default(),
        labels,
        account,
        iam,
        identity: Some(identity_kind(sync)),
        beyond: tenancy::Beyond::default(),
    };
    granted(around, request).unwrap_or_else(|| passed(TENANCY, said, &SYNC_LINKS))
}

/// `None` if backend or namespace may not be read by the person.
fn granted<'a>(
    around: &'a Around,
    request: impl Fn(&'a BTreeMap<String, String>) -> tenancy::Request<'a>,
) -> Option<Finding> {
    let (backend, labels) = (around.backend.as_ref()?, around.labels.as_ref()?);
    Some(match tenancy::grant(&backend.spec.tenancy, &request(labels)) {
        Ok(rule) => Finding::good(TENANCY, format!("granted by the rule `{}`", rule.name)),
        Err(denied) => {
            Finding::broken(TENANCY, "TenancyDenied", denied.to_string(), cure("TenancyDenied"))
        }
    })
}

fn certificates(sync: &VaultCertSync, said: &Said<'_>) -> Finding {
    let all = sync.status.as_ref().map(|status| status.certificates.as_slice()).unwrap_or_default();
    let bad: Vec<&CertificateStatus> = all.iter().filter(|one| is_trouble(one)).collect();
    if let Some(first) = bad.first() {
        let told: Vec<String> = bad.iter().take(5).map(|one| describe(one)).collect();
        let more = bad.len().saturating_sub(5);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let reason = first.reason.clone().unwrap_or_else(|| "CertificatesRefused".to_owned());
        let cure = cure(&reason);
        let found = format!("{}{more}", told.join("; "));
        return Finding::broken(CERTIFICATES, reason, found, cure);
    }
    if let Some(ready) = told(CERTIFICATES, said, &SYNC_LINKS) {
        return ready;
    }
    if let Some(expiring) = said.condition("Expiring").filter(|found| found.status == "True") {
        let cure = "write a renewed certificate to Vault; it is delivered by itself";
        return Finding::doubt(CERTIFICATES, &expiring.reason, &expiring.message, cure);
    }
    if all.is_empty() {
        return passed(CERTIFICATES, said, &SYNC_LINKS);
    }
    let next = sync.status.as_ref().and_then(|status| status.next_expiry.as_deref());
    let until = next.map(|next| format!(", the first until {next}")).unwrap_or_default();
    Finding::good(CERTIFICATES, format!("{} as in Vault{until}", all.len()))
}

/// What was removed, and what is deleted on purpose, is as it should be.
fn is_trouble(one: &CertificateStatus) -> bool {
    matches!(one.state, CertificateState::Kept | CertificateState::Refused)
        && !matches!(one.reason.as_deref(), Some("Acknowledged" | "SourceRemoved"))
}

fn describe(one: &CertificateStatus) -> String {
    let reason = one.reason.as_deref().unwrap_or_default();
    let message = one.message.as_deref().unwrap_or_default();
    format!("{} is {} ({reason}): {message}", one.name, one.state.as_str())
}

fn secrets(sync: &VaultCertSync, said: &Said<'_>, around: &Around) -> Finding {
    if let Some(denied) = told(SECRETS, said, &SYNC_LINKS) {
        return denied;
    }
    let all = sync.status.as_ref().map(|status| status.certificates.as_slice()).unwrap_or_default();
    let expected =
        all.iter().filter(|one| one.version.is_some() && one.state != CertificateState::Removed);
    let expected: Vec<(&str, Option<&str>)> = expected
        .filter_map(|one| {
            Some((one.secret_name.as_deref()?, one.secret_resource_version.as_deref()))
        })
        .collect();
    if expected.is_empty() {
        return passed(SECRETS, said, &SYNC_LINKS);
    }
    let Some(secrets) = &around.secrets else {
        return Finding::skipped(SECRETS, "you may not list Secrets here");
    };
    let uid = sync.metadata.uid.as_deref().unwrap_or_default();
    let mut changed = Vec::new();
    for (name, written) in &expected {
        let Some(found) = secrets.iter().find(|secret| secret.name == *name) else {
            let cure = "the operator writes it again within seconds, if it runs";
            let found = format!("Secret `{name}` is gone");
            return Finding::broken(SECRETS, "SecretMissing", found, cure);
        };
        if !found.owners.iter().any(|owner| owner.uid == uid) {
            let found = format!("Secret `{name}` belongs to somebody else");
            return Finding::broken(SECRETS, "SecretNotOurs", found, cure("SecretNotOurs"));
        }
        if written.is_some_and(|written| written != found.resource_version) {
            changed.push(*name);
        }
    }
    if !changed.is_empty() {
        let found = format!("changed since the operator wrote it: {}", changed.join(", "));
        let cure = "find out who writes to it; the operator puts its own fields back";
        return Finding::doubt(SECRETS, "SecretChanged", found, cure);
    }
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).take(5).collect();
    let more = expected.len().saturating_sub(5);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Finding::good(SECRETS, format!("{}{more} as written", names.join(", ")))
}

/// The condition `Ready`, if it speaks of this link.
fn told(link: &'static str, said: &Said<'_>, links: &Links) -> Option<Finding> {
    let ready = said.trouble()?;
    let (name, _) = links.get(link_of(&ready.reason, links)?)?;
    (*name == link).then(|| condition(link, ready))
}

/// A link of which `Ready` does not speak: passed if it lies before the one that broke.
fn passed(link: &'static str, said: &Said<'_>, links: &Links) -> Finding {
    let Some(ready) = said.ready() else {
        return Finding::skipped(link, "not looked at yet");
    };
    if ready.status == "True" {
        return Finding::good(link, "passed");
    }
    let own = links.iter().position(|(name, _)| *name == link).unwrap_or(links.len());
    match link_of(&ready.reason, links) {
        Some(broken) if own < broken => Finding::good(link, "passed"),
        _ => Finding::skipped(link, "not reached"),
    }
}

fn condition(link: &'static str, found: &Condition) -> Finding {
    Finding::broken(link, &found.reason, &found.message, cure(&found.reason))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ready(status: &str, reason: &str) -> Value {
        json!({"type": "Ready", "status": status, "reason": reason, "message": format!("{reason}!"),
               "lastTransitionTime": "2026-11-21T10:00:00Z"})
    }

    fn backend_object(status: &str, reason: &str) -> VaultAwsBackend {
        serde_json::from_value(json!({
            "apiVersion": "vaultaws.dev/v1alpha1", "kind": "VaultAwsBackend",
            "metadata": {"name": "default", "generation": 1},
            "spec": {
                "vault": {"address": "https://vault:8200"},
                "operatorLogin": {"serviceAccount": {"role": "operator"}},
                "tenancy": [{"name": "a", "namespaces": {"names": ["team-a"]},
                             "accounts": ["111122223333"], "iamRoles": ["web"]}],
            },
            "status": {"observedGeneration": 1, "conditions": [ready(status, reason)]},
        }))
        .unwrap()
    }

    fn role_object(status: &str, reason: &str) -> VaultAwsRole {
        serde_json::from_value(json!({
            "apiVersion": "vaultaws.dev/v1alpha1", "kind": "VaultAwsRole",
            "metadata": {"name": "web", "namespace": "team-a", "generation": 1},
            "spec": {"accountId": "111122223333", "iamRole": "web"},
            "status": {"observedGeneration": 1, "conditions": [ready(status, reason)],
                       "vaultRole": "web", "login": "vault login"},
        }))
        .unwrap()
    }

    fn sync_object(status: &str, reason: &str, certificates: Value) -> VaultCertSync {
        serde_json::from_value(json!({
            "apiVersion": "vaultaws.dev/v1alpha1", "kind": "VaultCertSync",
            "metadata": {"name": "web", "namespace": "team-a", "generation": 1, "uid": "u1"},
            "spec": {},
            "status": {"observedGeneration": 1, "conditions": [ready(status, reason)],
                       "certificates": certificates},
        }))
        .unwrap()
    }

    fn tls(state: &str, reason: Option<&str>) -> Value {
        let mut one = json!({"name": "tls", "state": state, "secretName": "web-tls", "version": 1,
                             "secretResourceVersion": "7"});
        if let Some(reason) = reason {
            one["reason"] = reason.into();
        }
        one
    }

    fn around() -> Around {
        let owner = OwnerReference { uid: "u1".to_owned(), ..OwnerReference::default() };
        Around {
            role: Some(role_object("True", "Ready")),
            backend: Some(backend_object("True", "Ready")),
            labels: Some(BTreeMap::new()),
            secrets: Some(vec![SecretFacts {
                name: "web-tls".to_owned(),
                resource_version: "7".to_owned(),
                owners: vec![owner],
            }]),
        }
    }

    fn broken(findings: &[Finding]) -> Option<(&'static str, &str)> {
        let found = findings.iter().find(|finding| finding.mark == Mark::Broken)?;
        Some((found.step, found.reason.as_deref().unwrap_or_default()))
    }

    #[test]
    fn a_sync_that_works_has_only_good_links() {
        let object = sync_object("True", "Synced", json!([tls("Synced", None)]));
        let findings = sync(&object, &around());
        assert!(findings.iter().all(|finding| finding.mark == Mark::Good), "{findings:#?}");
        assert_eq!(findings.len(), 11);
    }

    #[test]
    fn the_first_link_that_broke_is_the_one_that_is_named() {
        let bad = || sync_object("False", "RoleNotReady", json!([]));
        let mut objects = around();
        objects.role = Some(role_object("False", "PrincipalNotFound"));
        assert_eq!(broken(&sync(&bad(), &objects)), Some((ROLE, "PrincipalNotFound")));
        objects.backend = Some(backend_object("False", "VaultSealed"));
        assert_eq!(broken(&sync(&bad(), &objects)), Some((BACKEND, "VaultSealed")));
        objects = Around { role: None, ..around() };
        assert_eq!(broken(&sync(&bad(), &objects)), Some((ROLE, "RoleNotFound")));
    }

    #[test]
    fn what_lies_before_the_broken_link_is_passed_and_what_lies_behind_is_not_reached() {
        let findings = sync(&sync_object("False", "LoginDenied", json!([])), &around());
        let marks: Vec<_> = findings.iter().map(|finding| (finding.step, finding.mark)).collect();
        assert_eq!(
            marks[5..8],
            [(IDENTITY, Mark::Good), (VAULT, Mark::Good), (LOGIN, Mark::Broken)]
        );
        assert!(marks[8..].iter().all(|(_, mark)| *mark == Mark::Skipped), "{marks:?}");
    }

    #[test]
    fn a_certificate_that_is_not_delivered_is_named_with_its_reason() {
        let object =
            sync_object("False", "CertificatesRefused", json!([tls("Kept", Some("KeyMismatch"))]));
        let findings = sync(&object, &around());
        assert_eq!(broken(&findings), Some((CERTIFICATES, "KeyMismatch")));
        let found = findings.iter().find(|finding| finding.step == CERTIFICATES).unwrap();
        assert!(found.found.contains("tls is Kept"), "{}", found.found);
    }

    #[test]
    fn secrets_are_judged_by_their_metadata() {
        let object = sync_object("True", "Synced", json!([tls("Synced", None)]));
        let judged = |change: fn(&mut Vec<SecretFacts>)| {
            let mut objects = around();
            change(objects.secrets.as_mut().unwrap());
            let findings = sync(&object, &objects);
            let last = findings.last().unwrap();
            (last.mark, last.reason.clone().unwrap_or_default())
        };
        assert_eq!(judged(Vec::clear), (Mark::Broken, "SecretMissing".to_owned()));
        assert_eq!(judged(|all| all[0].owners.clear()), (Mark::Broken, "SecretNotOurs".to_owned()));
        assert_eq!(
            judged(|all| all[0].resource_version = "8".to_owned()),
            (Mark::Doubt, "SecretChanged".to_owned())
        );
        let blind = Around { secrets: None, ..around() };
        assert_eq!(sync(&object, &blind).last().unwrap().mark, Mark::Skipped);
    }

    #[test]
    fn tenancy_is_judged_as_the_operator_judges_it() {
        let mut objects = around();
        objects.backend.as_mut().unwrap().spec.tenancy.clear();
        let object = sync_object("True", "Synced", json!([]));
        assert_eq!(broken(&sync(&object, &objects)), Some((TENANCY, "TenancyDenied")));
    }

    #[test]
    fn an_object_that_nobody_has_looked_at_is_the_operators_fault() {
        let mut object = sync_object("True", "Synced", json!([]));
        object.metadata.generation = Some(2);
        assert_eq!(broken(&sync(&object, &around())), Some((OPERATOR, "NotObserved")));
        object.status = None;
        assert_eq!(broken(&sync(&object, &around())), Some((OPERATOR, "NotObserved")));
    }

    #[test]
    fn a_role_and_a_backend_are_explained_too() {
        let good = role(&role_object("True", "Ready"), &around());
        assert_eq!(broken(&good), None);
        let bad = role(&role_object("False", "NoStsConfiguration"), &around());
        assert_eq!(broken(&bad), Some((IDENTITY, "NoStsConfiguration")));
        let bad = role(&role_object("False", "Conflict"), &around());
        assert_eq!(broken(&bad), Some((ROLE, "Conflict")));
        let bad = backend(&backend_object("False", "NotKvV2"));
        assert_eq!(broken(&bad), Some((READY, "NotKvV2")));
        let new = role(&role_object("False", "SomethingNew"), &around());
        assert_eq!(broken(&new), Some((READY, "SomethingNew")));
    }
}
