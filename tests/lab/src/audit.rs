//! What was asked of Vault and of the API server, as their own audit logs tell it: the one reader of
//! both, for tests, for the demo and for measuring.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    error::{Doing as _, Result},
    lab::Lab,
};

/// A moment in both logs, as their lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Of Vault's.
    pub vault: u64,
    /// Of the API server's.
    pub kubernetes: u64,
}

impl Mark {
    /// Before everything.
    pub const START: Self = Self { vault: 0, kubernetes: 0 };

    /// Now.
    pub fn now(lab: &Lab) -> Self {
        let length = |log: &Path| log.metadata().map_or(0, |metadata| metadata.len());
        Self { vault: length(&lab.audit_vault_path()), kubernetes: length(&lab.audit_kube_path()) }
    }
}

/// All entries of a log from an offset on.
pub fn entries(log: &Path, from: u64) -> Result<Vec<Value>> {
    let attempt = || {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        std::io::Result::Ok(text)
    };
    let text = attempt().doing(|| format!("reading {}", log.display()))?;
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// A request that reached Vault.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct VaultRequest {
    /// `read`, `list`, `create`, `update`, `delete`, …
    pub operation: String,
    /// Without `v1/`.
    pub path: String,
    /// The fields that were sent; their values are not in the log.
    pub fields: Vec<String>,
    /// Who asked, as the auth method named the token: `kubernetes-…`, `aws-…`; empty without one.
    pub who: String,
    /// The token's own policies.
    pub policies: Vec<String>,
    /// What Vault said, if it refused or failed.
    pub error: String,
    /// Whether an answer was logged. There is none where the client had gone before Vault was done.
    pub is_answered: bool,
}

impl VaultRequest {
    /// Whether it changes something other than the caller's own token. A look-up of an identity is sent
    /// like a write, and changes nothing.
    pub fn is_write(&self) -> bool {
        !matches!(self.operation.as_str(), "read" | "list" | "help")
            && !self.is_login()
            && !self.path.starts_with("auth/token/")
            && !self.path.starts_with("identity/lookup/")
    }

    /// Whether it asks for a token.
    pub fn is_login(&self) -> bool {
        self.path.starts_with("auth/") && self.path.ends_with("/login")
    }

    /// Whether no policy of the token allowed it. A dead token is something else.
    pub fn is_forbidden(&self) -> bool {
        self.error.contains("permission denied") && !self.error.contains("invalid token")
    }
}

/// What anybody but root asked of Vault, in the order of the log.
pub fn vault(log: &Path, from: u64) -> Result<Vec<VaultRequest>> {
    Ok(vault_requests(&entries(log, from)?))
}

fn vault_requests(entries: &[Value]) -> Vec<VaultRequest> {
    // A refusal stands beside the request, beside the answer, or beside both.
    let mut errors: HashMap<&str, &str> = HashMap::new();
    for entry in entries {
        if let (Some(id), Some(error)) = (entry["request"]["id"].as_str(), entry["error"].as_str())
        {
            errors.insert(id, error);
        }
    }
    let answers = entries.iter().filter(|entry| entry["type"] == "response");
    let answered: HashSet<&str> =
        answers.filter_map(|entry| entry["request"]["id"].as_str()).collect();
    entries
        .iter()
        .filter(|entry| entry["type"] == "request" && entry["auth"]["display_name"] != "root")
        .map(|entry| (entry, entry["request"]["id"].as_str().unwrap_or_default()))
        .map(|(entry, id)| VaultRequest {
            operation: text(&entry["request"]["operation"]),
            path: text(&entry["request"]["path"]),
            fields: entry["request"]["data"]
                .as_object()
                .map(|data| data.keys().cloned().collect())
                .unwrap_or_default(),
            who: text(&entry["auth"]["display_name"]),
            policies: entry["auth"]["policies"]
                .as_array()
                .map(|policies| policies.iter().map(text).collect())
                .unwrap_or_default(),
            error: errors.get(id).copied().unwrap_or_default().to_owned(),
            is_answered: answered.contains(id),
        })
        .collect()
}

/// When a request to the API server is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// When its answer begins; only watches have this, before their end.
    Begun,
    /// When it was answered; a watch when it ended.
    Ended,
}

/// A request that the API server answered.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KubernetesRequest {
    /// `get`, `list`, `watch`, `create`, `patch`, …
    pub verb: String,
    /// For example `secrets` or `vaultcertsyncs/status`.
    pub resource: String,
    /// Its API group; empty for the core's.
    pub group: String,
    /// Namespace, if there is one.
    pub namespace: String,
    /// Name of the object, if it was given.
    pub name: String,
    /// Who asked.
    pub user: String,
    /// Status of the answer.
    pub code: u64,
    /// Why the authorizer said no, if it did: empty where simply nothing allows it.
    pub forbidden: Option<String>,
    /// When it was answered.
    pub time: Timestamp,
}

impl KubernetesRequest {
    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// What these users asked of the API server, in the order of the log.
pub fn kubernetes(
    log: &Path,
    from: u64,
    users: &[String],
    stage: Stage,
) -> Result<Vec<KubernetesRequest>> {
    Ok(kubernetes_requests(&entries(log, from)?, users, stage))
}

fn kubernetes_requests(
    entries: &[Value],
    users: &[String],
    stage: Stage,
) -> Vec<KubernetesRequest> {
    let stage = match stage {
        Stage::Begun => "ResponseStarted",
        Stage::Ended => "ResponseComplete",
    };
    let request = |event: &Value| {
        let user = text(&event["user"]["username"]);
        if event["stage"] != stage || !users.contains(&user) {
            return None;
        }
        let object = &event["objectRef"];
        let resource = text(&object["resource"]);
        Some(KubernetesRequest {
            verb: text(&event["verb"]),
            resource: match object["subresource"].as_str() {
                Some(part) => format!("{resource}/{part}"),
                None => resource,
            },
            group: text(&object["apiGroup"]),
            namespace: text(&object["namespace"]),
            name: text(&object["name"]),
            user,
            code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
            forbidden: (event["annotations"]["authorization.k8s.io/decision"] == "forbid")
                .then(|| text(&event["annotations"]["authorization.k8s.io/reason"])),
            time: text(&event["stageTimestamp"]).parse().ok()?,
        })
    };
    entries.iter().filter_map(request).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_requests_of_others_than_root_are_counted() {
        let entry = |kind: &str, name: &str, operation: &str, path: &str| {
            json!({
                "type": kind,
                "auth": {"display_name": name},
                "request": {"operation": operation, "path": path},
            })
        };
        let requests = vault_requests(&[
            entry("request", "root", "update", "secret/data/a"),
            entry("request", "aws-web", "read", "secret/metadata/a"),
            entry("response", "aws-web", "read", "secret/metadata/a"),
            entry("request", "", "update", "auth/aws/login"),
            entry("request", "kubernetes-x", "update", "auth/aws/role/web"),
        ]);
        let kinds: Vec<_> = requests.iter().map(|r| (r.is_login(), r.is_write())).collect();
        assert_eq!(kinds, [(false, false), (true, false), (false, true)]);
    }

    #[test]
    fn a_refusal_is_found_beside_the_request_or_its_answer() {
        let entry = |kind: &str, id: &str, error: Option<&str>| json!({"type": kind, "request": {"id": id, "path": id}, "error": error});
        let denied = Some("1 error occurred:\n\t* permission denied\n\n");
        let dead = Some("2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n");
        let requests = vault_requests(&[
            entry("request", "denied", denied),
            entry("request", "late", None),
            entry("response", "late", denied),
            entry("request", "dead", dead),
            entry("request", "fine", None),
            entry("response", "fine", None),
        ]);
        let forbidden: Vec<&str> = requests
            .iter()
            .filter(|request| request.is_forbidden())
            .map(|request| request.path.as_str())
            .collect();
        assert_eq!(forbidden, ["denied", "late"]);
        let unanswered = requests.iter().filter(|one| !one.is_answered).map(|one| &*one.path);
        assert_eq!(unanswered.collect::<Vec<_>>(), ["denied", "dead"]);
    }
}
