//! Mounts: which auth methods and secrets engines there are, and what our token may do.

use std::collections::{BTreeMap, BTreeSet};

use rustify_derive::Endpoint;
use serde::{Deserialize, Serialize};
use vaultrs::api::sys::requests::ListAuthsRequest;

use super::{Caller, Object, Operation, error::Error, mount_path, wire};

/// An auth method that is enabled.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct AuthMount {
    /// Stands in templated policies and in entity aliases; a new one for each enabling.
    #[serde(default)]
    pub accessor: String,
    /// `aws`, or the name under which a plugin is registered.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Free text.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub description: String,
    /// What `tune` sets.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub config: AuthMountConfig,
}

/// The tunable part of a mount.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct AuthMountConfig {
    /// Seconds; 0 = the server's default.
    #[serde(default, deserialize_with = "wire::seconds")]
    pub default_lease_ttl: u64,
    /// Seconds; 0 = the server's maximum.
    #[serde(default, deserialize_with = "wire::seconds")]
    pub max_lease_ttl: u64,
    /// `default-service`, `default-batch`, `service` or `batch`.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub token_type: String,
}

/// A secrets engine, as those see it who may use something in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecretsMount {
    /// Where it is mounted, without slashes at its ends.
    pub path: String,
    /// `kv`, `pki`, …
    pub kind: String,
    /// `2` or `1` for `kv` (without an option: 1), `None` for other kinds.
    pub kv_version: Option<u8>,
    /// A new one for each enabling.
    pub accessor: String,
}

/// The auth method at `path`; `None` if there is none. `GET sys/auth`: needs `read` on `sys/auth`,
/// not `sudo`.
pub async fn auth_mount(caller: &Caller, path: &str) -> Result<Option<AuthMount>, Error> {
    let key = format!("{}/", mount_path(path));
    Ok(auth_mounts(caller).await?.remove(&key))
}

/// All auth methods by their path, which ends with a slash.
pub async fn auth_mounts(caller: &Caller) -> Result<BTreeMap<String, AuthMount>, Error> {
    let operation = Operation::new("list_auth_mounts", "reading the auth methods at sys/auth");
    let answer = caller.send(&operation, &ListAuthsRequest {}).await?.existing()?;
    answer.data::<Object<AuthMount>>()
}

/// Enables an auth method of the type `kind`, with the server's TTLs.
pub async fn enable_auth(
    caller: &Caller,
    path: &str,
    kind: &str,
    description: &str,
) -> Result<(), Error> {
    let path = mount_path(path);
    let operation = Operation::new(
        "enable_auth_mount",
        format!("enabling the auth method `{kind}` at auth/{path}"),
    );
    let endpoint = EnableAuth {
        path: path.to_owned(),
        kind: kind.to_owned(),
        description: description.to_owned(),
    };
    caller.send(&operation, &endpoint).await?.existing().map(drop)
}

#[derive(Endpoint, Serialize)]
#[endpoint(path = "sys/auth/{self.path}", method = "POST")]
struct EnableAuth {
    #[endpoint(skip)]
    #[serde(skip)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
    description: String,
}

#[derive(Endpoint)]
#[endpoint(path = "sys/mounts/auth/{self.path}/tune", method = "POST")]
struct TuneAuth {
    #[endpoint(skip)]
    path: String,
    default_lease_ttl: Option<u64>,
    max_lease_ttl: Option<u64>,
}

/// Sets the TTLs of an auth method, in seconds; `None` leaves as it is, 0 is the server's. This path
/// needs no `sudo`.
pub async fn tune_auth(
    caller: &Caller,
    path: &str,
    default_lease_ttl: Option<u64>,
    max_lease_ttl: Option<u64>,
) -> Result<(), Error> {
    let path = mount_path(path).to_owned();
    let operation =
        Operation::new("tune_auth_mount", format!("tuning the auth method at auth/{path}"));
    let endpoint = TuneAuth { path, default_lease_ttl, max_lease_ttl };
    caller.send(&operation, &endpoint).await?.existing().map(drop)
}

#[derive(Endpoint)]
#[endpoint(path = "sys/internal/ui/mounts/{self.path}")]
struct ReadMount {
    #[endpoint(skip)]
    path: String,
}

#[derive(Deserialize)]
struct MountAnswer {
    #[serde(default)]
    path: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    accessor: String,
    #[serde(default, deserialize_with = "wire::texts")]
    options: BTreeMap<String, String>,
}

/// The secrets engine in which `path` lies. Any capability on anything in it suffices; without one,
/// and where there is no such mount, Vault says 403 alike.
pub async fn secrets_mount(caller: &Caller, path: &str) -> Result<SecretsMount, Error> {
    let path = mount_path(path).to_owned();
    let operation =
        Operation::new("read_secrets_mount", format!("reading the type of the mount `{path}`"));
    let answer = caller.send(&operation, &ReadMount { path }).await?.existing()?;
    let mount: MountAnswer = answer.data()?;
    let kv_version = (mount.kind == "kv").then(|| {
        mount.options.get("version").and_then(|version| version.parse().ok()).unwrap_or(1)
    });
    let MountAnswer { path, kind, accessor, .. } = mount;
    Ok(SecretsMount { path: mount_path(&path).to_owned(), kind, kv_version, accessor })
}

#[derive(Endpoint)]
#[endpoint(path = "sys/capabilities-self", method = "POST")]
struct CapabilitiesSelf {
    paths: Vec<String>,
}

/// What our token may do on each of these paths: `["deny"]` for nothing, `["root"]` for everything.
///
/// Ask for a directory with its slash: without it Vault says `deny` although LIST works.
pub async fn capabilities_self(
    caller: &Caller,
    paths: &[String],
) -> Result<BTreeMap<String, BTreeSet<String>>, Error> {
    if paths.is_empty() {
        return Ok(BTreeMap::new());
    }
    let operation = Operation::new("capabilities_self", "asking what our token may do");
    let endpoint = CapabilitiesSelf { paths: paths.to_vec() };
    let answer = caller.send(&operation, &endpoint).await?.existing()?;
    let mut all = answer.data::<Object<BTreeSet<String>>>()?;
    // With one path the same set stands under this key too.
    if !paths.iter().any(|path| path == "capabilities") {
        all.remove("capabilities");
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_with_and_without_its_details() {
        let full = r#"{"accessor":"auth_aws_1","type":"aws","description":"x","local":false,
            "config":{"default_lease_ttl":0,"max_lease_ttl":"768h","token_type":"default-service"}}"#;
        let mount: AuthMount = serde_json::from_str(full).unwrap();
        assert_eq!(mount.config.max_lease_ttl, 2_764_800);
        let bare: AuthMount = serde_json::from_str(r#"{"type":"token","config":null}"#).unwrap();
        assert_eq!(bare.config, AuthMountConfig::default());
    }
}
