//! What the operator asked of Vault and of the API server, by the servers' own audit logs.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use jiff::Timestamp;
use serde_json::Value;

/// A moment in both logs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) vault: u64,
    pub(crate) kubernetes: u64,
}

/// A request that reached Vault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct VaultRequest {
    /// `read`, `list`, `create`, `update`, `delete`, …
    pub(crate) operation: String,
    /// Without `v1/`.
    pub(crate) path: String,
    /// The fields that were sent; their values are not in the log.
    pub(crate) fields: Vec<String>,
}

impl VaultRequest {
    /// Whether it changes something other than the caller's own token. A look-up of an identity is sent
    /// like a write, and changes nothing.
    pub(crate) fn is_write(&self) -> bool {
        !matches!(self.operation.as_str(), "read" | "list" | "help")
            && !self.is_login()
            && !self.path.starts_with("auth/token/")
            && !self.path.starts_with("identity/lookup/")
    }

    /// Whether it asks for a token.
    pub(crate) fn is_login(&self) -> bool {
        self.path.starts_with("auth/") && self.path.ends_with("/login")
    }
}

/// A request of the operator that reached the API server and was answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct KubernetesRequest {
    /// `get`, `list`, `watch`, `create`, `patch`, …
    pub(crate) verb: String,
    /// For example `secrets` or `vaultcertsyncs/status`.
    pub(crate) resource: String,
    /// Name of the object, if it was given.
    pub(crate) name: String,
    /// Status of the answer.
    pub(crate) code: u64,
    /// When it was answered.
    pub(crate) time: Timestamp,
}

impl KubernetesRequest {
    /// Whether it changes something.
    pub(crate) fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// How long a log is now.
pub(crate) fn length(log: &Path) -> u64 {
    log.metadata().map_or(0, |metadata| metadata.len())
}

/// The whole lines after `from`.
fn lines(log: &Path, from: u64) -> Vec<Value> {
    let mut text = String::new();
    let mut file = File::open(log).expect("the audit log is there");
    file.seek(SeekFrom::Start(from)).expect("the audit log can be read");
    file.read_to_string(&mut text).expect("the audit log is text");
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// What anybody but root asked of Vault where `world` is part of the path or of who asks.
pub(crate) fn vault(log: &Path, from: u64, world: &str) -> Vec<VaultRequest> {
    lines(log, from)
        .into_iter()
        .filter(|entry| entry["type"] == "request" && entry["auth"]["display_name"] != "root")
        .filter(|entry| {
            text(&entry["request"]["path"]).contains(world)
                || entry["auth"]["policies"].to_string().contains(world)
        })
        .map(|entry| VaultRequest {
            operation: text(&entry["request"]["operation"]),
            path: text(&entry["request"]["path"]),
            fields: entry["request"]["data"]
                .as_object()
                .map(|data| data.keys().cloned().collect())
                .unwrap_or_default(),
        })
        .collect()
}

/// What the users asked of the API server about `namespace`, or about an object of that name.
pub(crate) fn kubernetes(
    log: &Path,
    from: u64,
    users: &[String],
    namespace: &str,
) -> Vec<KubernetesRequest> {
    lines(log, from)
        .into_iter()
        .filter(|event| event["stage"] == "ResponseComplete")
        .filter(|event| users.contains(&text(&event["user"]["username"])))
        .filter(|event| {
            let object = &event["objectRef"];
            object["namespace"] == namespace || object["name"] == namespace
        })
        .map(|event| {
            let object = &event["objectRef"];
            let resource = text(&object["resource"]);
            KubernetesRequest {
                verb: text(&event["verb"]),
                resource: match object["subresource"].as_str() {
                    Some(part) => format!("{resource}/{part}"),
                    None => resource,
                },
                name: text(&object["name"]),
                code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
                time: text(&event["stageTimestamp"]).parse().expect("a time in the audit log"),
            }
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
