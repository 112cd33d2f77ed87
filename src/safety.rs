//! What is not asked of a Vault whose version has known defects. Pure.
//!
//! The backend's condition `VersionSafe` says whether it has. Until it is True there are no wildcard
//! principals, and while it is False no unique IDs of an account that Vault has no role of its own to
//! ask in: by both, one account's role could pass for another's.

use crate::{controller::condition::find, crd::VaultAwsBackend};

/// What a role in Vault would bind to.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// AWS account, twelve digits.
    pub account: &'a str,
    /// Whether a principal ends in `*`.
    pub wildcard: bool,
    /// Whether Vault resolves principals to unique IDs.
    pub unique_ids: bool,
}

/// Why it is not written.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unsafe {
    /// A wildcard.
    #[error(
        "wildcards in principals need a backend that is VersionSafe: an older Vault may let others in"
    )]
    Wildcard,
    /// Unique IDs of an account that Vault cannot ask in.
    #[error(
        "this Vault has known defects (condition VersionSafe of the backend): no unique IDs of account \
         {account} before it is updated, or the account stands in auth.accounts of the backend"
    )]
    UniqueIds {
        /// The account.
        account: String,
    },
}

/// Whether this backend's Vault may be asked for it.
///
/// Which account is Vault's own is not known, so an account is foreign unless `auth.accounts` has it.
///
/// # Errors
/// [`Unsafe`] says what has to wait for another version, or for an account's entry.
pub fn permits(backend: &VaultAwsBackend, asked: &Asked<'_>) -> Result<(), Unsafe> {
    let conditions = backend.status.as_ref().map(|status| status.conditions.as_slice());
    let safe = find(conditions.unwrap_or_default(), "VersionSafe").map(|safe| safe.status.as_str());
    let has_entry =
        backend.spec.auth.accounts.iter().any(|entry| entry.account_id == asked.account);
    if asked.wildcard && safe != Some("True") {
        Err(Unsafe::Wildcard)
    } else if asked.unique_ids && safe == Some("False") && !has_entry {
        Err(Unsafe::UniqueIds { account: asked.account.to_owned() })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ACCOUNT: &str = "111122223333";

    fn judge(version_safe: &str, wildcard: bool, unique_ids: bool, entry: bool) -> &'static str {
        let role = format!("arn:aws:iam::{ACCOUNT}:role/vault-reader");
        let accounts =
            if entry { json!([{"accountId": ACCOUNT, "stsRoleArn": role}]) } else { json!([]) };
        let backend: VaultAwsBackend = serde_json::from_value(json!({
            "apiVersion": "vaultaws.dev/v1alpha1", "kind": "VaultAwsBackend",
            "metadata": {"name": "default"},
            "spec": {
                "vault": {"address": "https://vault.example.com"},
                "operatorLogin": {"serviceAccount": {"role": "operator"}},
                "auth": {"management": "Managed", "accounts": accounts},
            },
            "status": {"observedGeneration": 1, "conditions": [{
                "type": "VersionSafe", "status": version_safe, "reason": "x", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]},
        }))
        .unwrap();
        match permits(&backend, &Asked { account: ACCOUNT, wildcard, unique_ids }) {
            Ok(()) => "ok",
            Err(Unsafe::Wildcard) => "wildcard",
            Err(Unsafe::UniqueIds { .. }) => "unique ids",
        }
    }

    #[test]
    fn a_version_that_is_not_known_to_be_safe_gets_no_wildcard() {
        assert_eq!(judge("False", true, false, true), "wildcard");
        assert_eq!(judge("Unknown", true, false, true), "wildcard");
        assert_eq!(judge("True", true, false, false), "ok");
    }

    #[test]
    fn a_version_with_defects_resolves_ids_only_in_accounts_that_have_an_entry() {
        assert_eq!(judge("False", false, true, false), "unique ids");
        assert_eq!(judge("False", false, true, true), "ok");
        assert_eq!(judge("True", false, true, false), "ok");
    }

    #[test]
    fn exact_arns_are_never_held_back_nor_ids_where_nobody_can_judge_the_version() {
        assert_eq!(judge("False", false, false, false), "ok");
        assert_eq!(judge("Unknown", false, true, false), "ok");
    }
}
