//! Reads what Vault is, and how the mounts stand. Writes nothing.

use std::collections::BTreeMap;

use super::desired::{Desired, Managed};
use crate::{
    redacted::Redacted,
    vault::{self, Caller, aws_auth, mounts},
};

/// How the mounts stand.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Observed {
    /// The auth mount: type and accessor.
    pub mount: Option<(String, String)>,
    /// config/client and config/sts; only what is managed is read.
    pub config: Option<Config>,
    /// Version of the KV engine; `None` if it is something else or cannot be seen.
    pub kv_version: Option<u8>,
    /// Whether the KV mount can be seen.
    pub kv_denied: bool,
}

/// What is managed of the mount's configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Config {
    /// config/client; `None` if it was never written.
    pub client: Option<aws_auth::ClientConfig>,
    /// Role by account, of the accounts that are managed.
    pub accounts: BTreeMap<String, String>,
}

/// AWS keys for config/client, with the version of the Secret they come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credentials {
    /// `<uid>/<resourceVersion>` of the Secret.
    pub version: String,
    /// aws_access_key_id.
    pub access_key: String,
    /// aws_secret_access_key.
    pub secret_key: Redacted<String>,
}

/// Reads the mounts.
///
/// # Errors
/// What Vault said.
pub async fn observe(caller: &Caller, desired: &Desired) -> Result<Observed, vault::Error> {
    let mount = mounts::auth_mount(caller, &desired.mount).await?;
    let config = match (&mount, &desired.managed) {
        (Some(_), Some(managed)) => Some(config(caller, &desired.mount, managed).await?),
        _ => None,
    };
    let (kv_version, kv_denied) = match mounts::secrets_mount(caller, &desired.kv_mount).await {
        Ok(mount) => (mount.kv_version, false),
        // The same answer for "no such mount" and "not for you": see the message.
        Err(error) if error.is_denied() => (None, true),
        Err(error) => return Err(error),
    };
    let mount = mount.map(|mount| (mount.kind, mount.accessor));
    Ok(Observed { mount, config, kv_version, kv_denied })
}

async fn config(caller: &Caller, mount: &str, managed: &Managed) -> Result<Config, vault::Error> {
    let client = aws_auth::read_client_config(caller, mount).await?;
    let mut accounts = BTreeMap::new();
    for (account, _) in &managed.accounts {
        if let Some(found) = aws_auth::read_sts_account(caller, mount, account).await? {
            accounts.insert(account.clone(), found.sts_role);
        }
    }
    Ok(Config { client, accounts })
}
