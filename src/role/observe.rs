//! What Vault has under the names of a role: reads only, and absence is `None`.

use super::desired::Names;
use crate::vault::{
    Caller, Error,
    aws_auth::{self, Role},
    policies,
};

/// A role and its policy as they stand in Vault.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The role at the mount.
    pub role: Option<Role>,
    /// The text of the policy, to the letter.
    pub policy: Option<String>,
}

/// Reads both, since neither may be written before both were judged.
///
/// # Errors
/// What Vault said, if it was anything but "there is none".
pub async fn observe(vault: &Caller, names: &Names) -> Result<Observed, Error> {
    Ok(Observed {
        policy: policies::read(vault, &names.policy).await?,
        role: read_role(vault, names).await?,
    })
}

/// Reads the role alone, to see what Vault made of a write.
///
/// # Errors
/// As [`observe`].
pub async fn read_role(vault: &Caller, names: &Names) -> Result<Option<Role>, Error> {
    aws_auth::read_role(vault, &names.mount, &names.role).await
}
