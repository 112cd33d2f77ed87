//! Reads what Vault is, and how the mounts stand. Writes nothing.

use std::collections::BTreeMap;

use super::{desired::Desired, managed::Managed};
use crate::vault::{self, Caller, aws_auth, mounts};

/// How the mounts stand.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Observed {
    /// The auth mount.
    pub mount: Option<Mount>,
    /// Its configuration; only what is managed is read.
    pub config: Option<Config>,
    /// Version of the KV engine; `None` if it is something else or cannot be seen.
    pub kv_version: Option<u8>,
    /// Whether the KV mount can be seen.
    pub kv_denied: bool,
}

/// An auth mount.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mount {
    /// `aws`, …
    pub kind: String,
    /// A new one for each enabling.
    pub accessor: String,
    /// Seconds; 0 = the server's.
    pub default_lease_ttl: u64,
    /// Seconds; 0 = the server's.
    pub max_lease_ttl: u64,
}

/// What is managed of the mount's configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Config {
    /// config/client; `None` if it was never written.
    pub client: Option<aws_auth::ClientConfig>,
    /// config/identity; `None` if nothing of it is managed.
    pub identity: Option<aws_auth::IdentityConfig>,
    /// config/sts, of the accounts that are managed.
    pub accounts: BTreeMap<String, aws_auth::StsAccount>,
}

/// Reads the mounts.
///
/// # Errors
/// What Vault said.
pub async fn observe(caller: &Caller, desired: &Desired) -> Result<Observed, vault::Error> {
    let mount = mounts::auth_mount(caller, &desired.mount).await?.map(|mount| Mount {
        kind: mount.kind,
        accessor: mount.accessor,
        default_lease_ttl: mount.config.default_lease_ttl,
        max_lease_ttl: mount.config.max_lease_ttl,
    });
    let config = match (&mount, &desired.managed) {
        (Some(mount), Some(managed)) if mount.kind == desired.kind => {
            Some(config(caller, &desired.mount, managed).await?)
        }
        _ => None,
    };
    let (kv_version, kv_denied) = match mounts::secrets_mount(caller, &desired.kv_mount).await {
        Ok(mount) => (mount.kv_version, false),
        // The same answer for "no such mount" and "not for you": see the message.
        Err(error) if error.is_denied() => (None, true),
        Err(error) => return Err(error),
    };
    Ok(Observed { mount, config, kv_version, kv_denied })
}

async fn config(caller: &Caller, mount: &str, managed: &Managed) -> Result<Config, vault::Error> {
    let client = aws_auth::read_client_config(caller, mount).await?;
    let identity = if managed.identity.is_empty() {
        None
    } else {
        Some(aws_auth::read_identity_config(caller, mount).await?)
    };
    let mut accounts = BTreeMap::new();
    for account in &managed.accounts {
        if let Some(found) = aws_auth::read_sts_account(caller, mount, &account.id).await? {
            accounts.insert(account.id.clone(), found);
        }
    }
    Ok(Config { client, identity, accounts })
}
