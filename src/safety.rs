//! What is not asked of a Vault whose version has known defects. Pure.
//!
//! The backend's condition `VersionSafe` says whether it has. While it is False, nothing is written by
//! which one account's role could pass for another's: no wildcard principal, and no unique ID of an
//! account that Vault has no role of its own to ask in.

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
        "this Vault has known defects (condition VersionSafe of the backend): no wildcard principals \
         before it is updated"
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
/// [`Unsafe`] while `VersionSafe` is False; for wildcards, which many may match, unless it is True.
pub fn permits(backend: &VaultAwsBackend, asked: &Asked<'_>) -> Result<(), Unsafe> {
    let conditions = backend.status.as_ref().map(|status| status.conditions.as_slice());
    let judged = find(conditions.unwrap_or_default(), "VersionSafe");
    let status = judged.map(|judged| judged.status.as_str());
    let has_entry =
        backend.spec.auth.accounts.iter().any(|entry| entry.account_id == asked.account);
    if asked.wildcard && status != Some("True") {
        Err(Unsafe::Wildcard)
    } else if asked.unique_ids && !has_entry && status == Some("False") {
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
    fn a_version_with_defects_gets_no_wildcard() {
        assert_eq!(judge("False", true, false, true), "wildcard");
        assert_eq!(judge("True", true, false, false), "ok");
    }

    #[test]
    fn a_version_with_defects_resolves_ids_only_in_accounts_that_have_an_entry() {
        assert_eq!(judge("False", false, true, false), "unique ids");
        assert_eq!(judge("False", false, true, true), "ok");
        assert_eq!(judge("True", false, true, false), "ok");
    }

    #[test]
    fn exact_arns_are_never_held_back() {
        assert_eq!(judge("False", false, false, false), "ok");
    }

    #[test]
    fn a_version_that_nobody_can_judge_gets_no_wildcard_and_may_resolve_ids() {
        assert_eq!(judge("Unknown", true, false, false), "wildcard");
        assert_eq!(judge("Unknown", false, true, false), "ok");
    }
}
