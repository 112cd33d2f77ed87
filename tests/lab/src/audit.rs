//! What was asked of Vault and of the API server, as their own audit logs tell it.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use serde_json::Value;

use crate::error::{Doing as _, Result};

/// An audit log from some moment on.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    from: u64,
}

impl Audit {
    /// What is logged from now on.
    pub(crate) fn from_now(path: PathBuf) -> Self {
        let from = path.metadata().map_or(0, |metadata| metadata.len());
        Self { path, from }
    }

    /// All entries since then.
    pub(crate) fn entries(&self) -> Result<Vec<Value>> {
        let attempt = || {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.from))?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            std::io::Result::Ok(text)
        };
        let text = attempt().doing(|| format!("reading {}", self.path.display()))?;
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

/// A request of the operator that reached Vault.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct VaultRequest {
    /// `read`, `list`, `create`, `update`, `delete`, …
    pub(crate) operation: String,
    /// Without `v1/`.
    pub(crate) path: String,
}

impl VaultRequest {
    pub(crate) fn is_login(&self) -> bool {
        self.path.starts_with("auth/") && self.path.ends_with("/login")
    }

    /// Whether it changes more than the caller's own token. A look-up of an identity is sent like a
    /// write, and changes nothing.
    pub(crate) fn is_write(&self) -> bool {
        let reads = matches!(self.operation.as_str(), "read" | "list" | "help")
            || self.path.starts_with("identity/lookup/");
        !reads && !self.is_login() && !self.path.starts_with("auth/token/")
    }
}

/// What anybody but root asked of Vault: in a lab without other clients, the operator.
pub(crate) fn vault_requests(entries: &[Value]) -> Vec<VaultRequest> {
    entries
        .iter()
        .filter(|entry| entry["type"] == "request" && entry["auth"]["display_name"] != "root")
        .map(|entry| VaultRequest {
            operation: text(&entry["request"]["operation"]),
            path: text(&entry["request"]["path"]),
        })
        .collect()
}

/// A request that the API server answered.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct KubernetesRequest {
    /// `get`, `list`, `watch`, `create`, `patch`, …
    pub(crate) verb: String,
    /// For example `vaultcertsyncs/status`.
    pub(crate) resource: String,
}

impl KubernetesRequest {
    pub(crate) fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// What these users asked of the API server; a watch counts when it ends.
pub(crate) fn kubernetes_requests(entries: &[Value], users: &[String]) -> Vec<KubernetesRequest> {
    entries
        .iter()
        .filter(|event| event["stage"] == "ResponseComplete")
        .filter(|event| users.contains(&text(&event["user"]["username"])))
        .map(|event| {
            let object = &event["objectRef"];
            let resource = text(&object["resource"]);
            KubernetesRequest {
                verb: text(&event["verb"]),
                resource: match object["subresource"].as_str() {
                    Some(part) => format!("{resource}/{part}"),
                    None => resource,
                },
            }
        })
        .collect()
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
}
