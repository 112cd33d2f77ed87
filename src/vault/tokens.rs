//! `auth/token`: the token that is in hand.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::Deserialize;
use vaultrs::api::token::requests::{
    LookupTokenSelfRequest, RenewTokenSelfRequest, RevokeTokenSelfRequest,
};

use super::{Caller, Operation, error::Error, login::Login, wire};

/// What Vault knows of a token.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct TokenInfo {
    /// Names the token without being it; empty for batch tokens.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub accessor: String,
    /// The token's own policies.
    #[serde(default, deserialize_with = "wire::list")]
    pub policies: Vec<String>,
    /// Those that its identity adds.
    #[serde(default, deserialize_with = "wire::list")]
    pub identity_policies: Vec<String>,
    /// Where it was made: `auth/aws/login`.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub path: String,
    /// Who it is for, for people.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub display_name: String,
    /// What the auth method knows of the caller.
    #[serde(default, deserialize_with = "wire::texts")]
    pub meta: BTreeMap<String, String>,
    /// The identity entity, if any.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub entity_id: String,
    /// `service` or `batch`.
    #[serde(rename = "type", default, deserialize_with = "wire::or_default")]
    pub kind: String,
    /// Requests it still has; 0 = no limit.
    #[serde(default)]
    pub num_uses: u64,
    /// Seconds it still lives; 0 = for ever (root tokens).
    #[serde(default, deserialize_with = "wire::seconds")]
    pub ttl: u64,
    /// When it ends; `None` = never.
    #[serde(default, deserialize_with = "wire::time")]
    pub expire_time: Option<Timestamp>,
    /// Seconds of a periodic token; 0 = not periodic.
    #[serde(default, deserialize_with = "wire::seconds")]
    pub period: u64,
    /// Seconds beyond which no renewal goes; 0 = no such limit.
    #[serde(default, deserialize_with = "wire::seconds")]
    pub explicit_max_ttl: u64,
    /// Whether it can be renewed.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub renewable: bool,
    /// Whether it outlives the token that made it.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub orphan: bool,
}

/// Looks up the token itself. Denied where its policies hold neither `default` nor a rule for it.
pub async fn lookup_self(caller: &Caller) -> Result<TokenInfo, Error> {
    let operation = Operation::new("lookup_self", "looking up our Vault token");
    caller.send(&operation, &LookupTokenSelfRequest {}).await?.existing()?.data()
}

/// Renews the token itself; `None` asks for what its role gives.
///
/// Any refusal (4xx, 5xx with a text of Vault) means: log in again. A loop of renewals cures nothing.
pub async fn renew_self(caller: &Caller, increment: Option<Duration>) -> Result<Login, Error> {
    let operation = Operation::new("renew_self", "renewing our Vault token");
    let endpoint =
        RenewTokenSelfRequest { increment: increment.map(|time| format!("{}s", time.as_secs())) };
    let answer = caller.send(&operation, &endpoint).await?.existing()?;
    let auth = answer.auth()?;
    auth.login().map_err(|cause| answer.failed(cause))
}

/// Revokes the token itself. Batch tokens cannot be revoked: a refusal.
pub async fn revoke_self(caller: &Caller) -> Result<(), Error> {
    let operation = Operation::new("revoke_self", "revoking our Vault token").giving_back();
    caller.release_last_use();
    caller.send(&operation, &RevokeTokenSelfRequest {}).await?.existing().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_token_has_no_end() {
        let info: TokenInfo = serde_json::from_str(
            r#"{"accessor":"a","policies":["root"],"ttl":0,"expire_time":null,"type":"service",
                "meta":null,"num_uses":0,"orphan":true,"path":"auth/token/root"}"#,
        )
        .unwrap();
        assert_eq!(info.expire_time, None);
        assert_eq!(info.policies, ["root"]);
        assert!(info.meta.is_empty());
    }
}
