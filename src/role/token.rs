//! What the tokens of a role are like, as the spec says it and as Vault reads it back. Pure.
//!
//! All of these fields are owned: one that the spec leaves out is at Vault's default, so that removing
//! it from the spec removes it from Vault, and whoever makes tokens periodic by hand finds them put
//! back.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use crate::{
    crd::{Span, TokenSettings, TokenType},
    vault::aws_auth::{Role, RoleWrite},
};

/// The fields `token_*` of a role, apart from its policies.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Token {
    ttl: u64,
    max_ttl: u64,
    period: u64,
    explicit_max_ttl: u64,
    num_uses: u64,
    kind: TokenType,
    bound_cidrs: BTreeSet<Network>,
}

/// Why there are no such tokens.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Not an address or network.
    #[error("token.boundCidrs: `{0}` is no IP address and no network such as 10.0.0.0/8")]
    Network(String),
    /// Vault refuses it.
    #[error("token.ttl must not be longer than token.maxTtl")]
    TooLong,
    /// Vault refuses it.
    #[error("batch tokens have no period, explicitMaxTtl or numUses")]
    Batch,
}

impl Token {
    /// Checks what the schema checks, because an object may be older than its schema, and the networks.
    ///
    /// # Errors
    /// [`Fault`] where Vault would refuse it.
    pub fn parse(spec: &TokenSettings) -> Result<Self, Fault> {
        let seconds = |span: Option<Span>| span.map_or(0, |span| span.duration().as_secs());
        let bound_cidrs = spec
            .bound_cidrs
            .iter()
            .map(|text| Network::parse(text).ok_or_else(|| Fault::Network(text.clone())))
            .collect::<Result<_, _>>()?;
        let token = Self {
            ttl: seconds(spec.ttl),
            max_ttl: seconds(spec.max_ttl),
            period: seconds(spec.period),
            explicit_max_ttl: seconds(spec.explicit_max_ttl),
            num_uses: spec.num_uses.map_or(0, u64::from),
            kind: spec.kind.unwrap_or_default(),
            bound_cidrs,
        };
        if token.max_ttl > 0 && token.ttl > token.max_ttl {
            return Err(Fault::TooLong);
        }
        let is_kept = token.period > 0 || token.explicit_max_ttl > 0 || token.num_uses > 0;
        if token.kind == TokenType::Batch && is_kept {
            return Err(Fault::Batch);
        }
        Ok(token)
    }

    /// Holds a token that sets no end of its own to the longest life that a tenancy rule gives. Renewals
    /// of a periodic token heed no maximum but the explicit one.
    pub fn live_at_most(&mut self, longest: Span) {
        let longest = longest.duration().as_secs();
        if self.max_ttl == 0 {
            self.max_ttl = longest;
        }
        if self.period > 0 && self.explicit_max_ttl == 0 {
            self.explicit_max_ttl = longest;
        }
    }

    /// Puts what differs from the role into the write. `Role::default()` stands for a new role.
    ///
    /// All that differs has to go in one request: Vault judges what it would have after it, and takes
    /// `batch` only without a period, and a longer `token_ttl` only with a longer `token_max_ttl`.
    pub fn change(&self, role: &Role, fields: &mut RoleWrite, changed: &mut Vec<&'static str>) {
        for (name, want, have, write) in [
            ("token_ttl", self.ttl, role.token_ttl, &mut fields.token_ttl),
            ("token_max_ttl", self.max_ttl, role.token_max_ttl, &mut fields.token_max_ttl),
            ("token_period", self.period, role.token_period, &mut fields.token_period),
            (
                "token_explicit_max_ttl",
                self.explicit_max_ttl,
                role.token_explicit_max_ttl,
                &mut fields.token_explicit_max_ttl,
            ),
            ("token_num_uses", self.num_uses, role.token_num_uses, &mut fields.token_num_uses),
        ] {
            if want != have {
                *write = Some(want);
                changed.push(name);
            }
        }
        let have = match role.token_type.as_str() {
            "" => TokenType::default().as_str(),
            word => word,
        };
        if have != self.kind.as_str() {
            fields.token_type = Some(self.kind.as_str().to_owned());
            changed.push("token_type");
        }
        // One that cannot be read is none of ours.
        let have: Option<BTreeSet<Network>> =
            role.token_bound_cidrs.iter().map(|text| Network::parse(text)).collect();
        if have.as_ref() != Some(&self.bound_cidrs) {
            let all = self.bound_cidrs.iter().map(Network::to_string);
            fields.token_bound_cidrs = Some(all.collect());
            changed.push("token_bound_cidrs");
        }
    }

    /// Has the networks sent along with whatever else is written to an existing role, if one is of IPv6:
    /// when Vault copies a role to change it, such an address becomes `::` unless it is sent anew.
    pub fn keep_networks(&self, fields: &mut RoleWrite) {
        if self.bound_cidrs.iter().any(|network| network.address.is_ipv6()) {
            let all = self.bound_cidrs.iter().map(Network::to_string);
            fields.token_bound_cidrs = Some(all.collect());
        }
    }
}

/// The durations that the spec gives, by their field.
pub fn times(spec: &TokenSettings) -> Vec<(&'static str, Span)> {
    [
        ("ttl", spec.ttl),
        ("maxTtl", spec.max_ttl),
        ("period", spec.period),
        ("explicitMaxTtl", spec.explicit_max_ttl),
    ]
    .into_iter()
    .filter_map(|(field, span)| Some((field, span?)))
    .collect()
}

/// An address, or a network with the host bits as they were written: Vault keeps them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                (address, Some(bits.parse::<u8>().ok()?))
            }
            Some(_) => return None,
            None => (text.trim(), None),
        };
        // Vault prints such an address as the IPv4 address in it.
        let address = address.parse::<IpAddr>().ok()?;
        let is_mapped = matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most && !is_mapped).then_some(Self { address, bits })
    }
}

impl fmt::Display for Network {
    /// As Vault prints it: a single address has no mask.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, bits } = self;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if *bits == most { write!(f, "{address}") } else { write!(f, "{address}/{bits}") }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::role::plan::tests::role;

    fn token(spec: Value) -> Token {
        Token::parse(&serde_json::from_value(spec).unwrap()).unwrap()
    }

    fn fault(spec: Value) -> Fault {
        Token::parse(&serde_json::from_value(spec).unwrap()).unwrap_err()
    }

    /// What is written to a role that stands in Vault like this.
    fn written(spec: Value, in_vault: Value) -> Value {
        let (mut fields, mut changed) = (RoleWrite::default(), Vec::new());
        token(spec).change(&role(in_vault), &mut fields, &mut changed);
        let written = serde_json::to_value(&fields).unwrap();
        let mut keys: Vec<&str> = written.as_object().unwrap().keys().map(|key| &**key).collect();
        keys.sort_unstable();
        changed.sort_unstable();
        assert_eq!(changed, keys, "what is told is what is sent");
        written
    }

    fn whole() -> Value {
        json!({
            "ttl": "1h",
            "maxTtl": "24h",
            "period": "90s",
            "explicitMaxTtl": "48h",
            "numUses": 7,
            "type": "service",
            "boundCidrs": ["10.1.2.3/8", "127.0.0.1/32", "2001:DB8::/32", "::1/128"],
        })
    }

    fn whole_in_vault() -> Value {
        json!({
            "token_ttl": 3600,
            "token_max_ttl": 86400,
            "token_period": 90,
            "token_explicit_max_ttl": 172_800,
            "token_num_uses": 7,
            "token_type": "service",
            "token_bound_cidrs": ["127.0.0.1", "10.1.2.3/8", "::1", "2001:db8::/32"],
        })
    }

    #[test]
    fn what_vault_reads_back_is_no_difference() {
        assert_eq!(written(whole(), whole_in_vault()), json!({}));
        assert_eq!(written(json!({}), json!({})), json!({}));
        assert_eq!(
            written(json!({}), json!({"token_type": "", "token_bound_cidrs": null})),
            json!({})
        );
        assert_eq!(written(json!({"ttl": "0s", "numUses": 0}), json!({})), json!({}));
        assert_eq!(written(json!({"type": "default"}), json!({})), json!({}));
    }

    #[test]
    fn a_new_role_is_sent_what_is_not_vaults_default() {
        let mut fields = RoleWrite::default();
        Token::default().change(&Role::default(), &mut fields, &mut Vec::new());
        assert_eq!(fields, RoleWrite::default());
        token(json!({"ttl": "1h"})).change(&Role::default(), &mut fields, &mut Vec::new());
        assert_eq!(serde_json::to_value(&fields).unwrap(), json!({"token_ttl": 3600}));
    }

    #[test]
    fn what_the_spec_leaves_out_goes_back_to_vaults_default() {
        assert_eq!(
            written(json!({}), whole_in_vault()),
            json!({
                "token_ttl": 0,
                "token_max_ttl": 0,
                "token_period": 0,
                "token_explicit_max_ttl": 0,
                "token_num_uses": 0,
                "token_type": "default",
                "token_bound_cidrs": [],
            })
        );
    }

    #[test]
    fn a_token_without_an_end_gets_the_longest_life_of_the_rule() {
        let bounded = |spec: Value| {
            let mut token = token(spec);
            token.live_at_most(Span::seconds(3600));
            (token.max_ttl, token.explicit_max_ttl)
        };
        assert_eq!(bounded(json!({})), (3600, 0));
        assert_eq!(bounded(json!({"maxTtl": "30m"})), (1800, 0));
        assert_eq!(bounded(json!({"period": "5m"})), (3600, 3600));
        assert_eq!(bounded(json!({"period": "5m", "explicitMaxTtl": "30m"})), (3600, 1800));
    }

    #[test]
    fn a_change_to_batch_takes_along_what_batch_tokens_cannot_have() {
        assert_eq!(
            written(json!({"type": "batch"}), json!({"token_period": 90, "token_num_uses": 7})),
            json!({"token_type": "batch", "token_period": 0, "token_num_uses": 0})
        );
    }

    #[test]
    fn a_type_that_only_old_roles_have_is_replaced() {
        assert_eq!(
            written(json!({"type": "batch"}), json!({"token_type": "default-batch"})),
            json!({"token_type": "batch"})
        );
    }

    #[test]
    fn networks_are_compared_by_address_and_mask() {
        let cidrs = |list: &[&str]| json!({"boundCidrs": list});
        let have = |list: &[&str]| json!({"token_bound_cidrs": list});
        assert_eq!(written(cidrs(&["10.0.0.1"]), have(&["10.0.0.1/32"])), json!({}));
        for other in
            [&["10.0.0.0/9"][..], &["10.0.0.1/8"], &["10.0.0.0/8", "10.0.0.1"], &[], &["x"]]
        {
            assert_eq!(
                written(cidrs(&["10.0.0.0/8"]), have(other)),
                have(&["10.0.0.0/8"]),
                "{other:?}"
            );
        }
    }

    #[test]
    fn what_vault_would_refuse_is_refused_before() {
        for text in [
            "x",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.1:80",
            "::ffff:1.2.3.4",
        ] {
            assert_eq!(fault(json!({"boundCidrs": [text]})), Fault::Network(text.into()));
        }
        assert_eq!(fault(json!({"ttl": "2h", "maxTtl": "1h"})), Fault::TooLong);
        for (key, value) in
            [("period", json!("1h")), ("explicitMaxTtl", json!("1h")), ("numUses", json!(1))]
        {
            assert_eq!(fault(json!({"type": "batch", key: value})), Fault::Batch, "{key}");
        }
        assert_eq!(token(json!({"ttl": "2h", "maxTtl": "0s"})).ttl, 7200);
    }
}
