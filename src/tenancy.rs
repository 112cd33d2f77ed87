//! May this namespace use this account and this role? Deny by default, decided before any request.
//!
//! One rule must grant everything that is asked for: rules never combine, because a namespace that may
//! use account A for role `web` and account B for role `api` was not given A's `api`.

use std::{collections::BTreeMap, fmt};

use kube::core::{Selector, SelectorExt};

use crate::crd::{IdentityKind, Namespaces, TenancyRule};

/// What a resource asks of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Namespace of the resource.
    pub namespace: &'a str,
    /// Labels of that namespace.
    pub labels: &'a BTreeMap<String, String>,
    /// AWS account, twelve digits.
    pub account: &'a str,
    /// Friendly name of the IAM role.
    pub iam_role: &'a str,
    /// How the AWS identity is got; `None` for a VaultAwsRole, which needs none.
    pub identity: Option<IdentityKind>,
}

/// Why nothing was granted. Tells a tenant of the rules that name his own namespace and of no others.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denied {
    /// No rule names the namespace.
    #[error("no tenancy rule of the backend names the namespace `{namespace}`")]
    Namespace {
        /// The namespace.
        namespace: String,
    },
    /// Rules name the namespace, but none grants all of it.
    #[error("{}", Lacks(.0))]
    Lacking(Vec<Lack>),
}

/// What one rule lacks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lack {
    rule: String,
    what: String,
}

struct Lacks<'a>(&'a [Lack]);

impl fmt::Display for Lacks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, lack) in self.0.iter().take(4).enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}tenancy rule `{}` does not grant {}", lack.rule, lack.what)?;
        }
        Ok(())
    }
}

/// The first rule that grants the whole request.
///
/// # Errors
/// [`Denied`] says what the rules of this namespace lack.
pub fn grant<'a>(
    rules: &'a [TenancyRule],
    request: &Request<'_>,
) -> Result<&'a TenancyRule, Denied> {
    let mut lacks = Vec::new();
    for rule in rules.iter().filter(|rule| names(&rule.namespaces, request)) {
        let what = if !rule.accounts.iter().any(|account| account == request.account) {
            format!("account {}", request.account)
        } else if !rule.iam_roles.iter().any(|pattern| matches(pattern, request.iam_role)) {
            format!("IAM role `{}`", request.iam_role)
        } else if let Some(kind) = request.identity.filter(|kind| !rule.identities.contains(kind)) {
            format!("identity {}", kind.as_str())
        } else {
            return Ok(rule);
        };
        lacks.push(Lack { rule: rule.name.clone(), what });
    }
    if lacks.is_empty() {
        Err(Denied::Namespace { namespace: request.namespace.to_owned() })
    } else {
        Err(Denied::Lacking(lacks))
    }
}

/// How many different accounts the rules name; with more than one, role names must tell them apart.
pub fn accounts(rules: &[TenancyRule]) -> usize {
    rules.iter().flat_map(|rule| &rule.accounts).collect::<std::collections::BTreeSet<_>>().len()
}

fn names(namespaces: &Namespaces, request: &Request<'_>) -> bool {
    match (&namespaces.names, &namespaces.selector) {
        (Some(names), None) => names.iter().any(|name| name == request.namespace),
        (None, Some(selector)) => {
            !selects_everything(namespaces)
                && Selector::try_from(selector.clone())
                    .is_ok_and(|selector| selector.matches(request.labels))
        }
        _ => false,
    }
}

/// Whether the selector is empty and would mean every namespace; that is never what a rule is for.
pub fn selects_everything(namespaces: &Namespaces) -> bool {
    namespaces.selector.as_ref().is_some_and(|selector| {
        selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
            && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
    })
}

/// Case-sensitive, as IAM compares; only a trailing `*` is a wildcard.
fn matches(pattern: &str, role: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => role.starts_with(prefix),
        None => pattern == role,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

    use super::*;

    fn rule(name: &str, namespace: &str, account: &str, role: &str) -> TenancyRule {
        TenancyRule {
            name: name.into(),
            namespaces: Namespaces { names: Some(vec![namespace.into()]), selector: None },
            accounts: vec![account.into()],
            iam_roles: vec![role.into()],
            identities: vec![IdentityKind::AssumeRole],
        }
    }

    fn ask<'a>(
        labels: &'a BTreeMap<String, String>,
        account: &'a str,
        role: &'a str,
    ) -> Request<'a> {
        Request { namespace: "team-a", labels, account, iam_role: role, identity: None }
    }

    const ONE: &str = "111122223333";
    const TWO: &str = "444455556666";

    #[test]
    fn without_a_rule_nothing_is_granted() {
        let labels = BTreeMap::new();
        let denied = grant(&[], &ask(&labels, ONE, "web")).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "no tenancy rule of the backend names the namespace `team-a`"
        );
    }

    #[test]
    fn rules_never_combine() {
        let labels = BTreeMap::new();
        let rules = [rule("one", "team-a", ONE, "web"), rule("two", "team-a", TWO, "api")];
        assert_eq!(grant(&rules, &ask(&labels, ONE, "web")).unwrap().name, "one");
        assert_eq!(grant(&rules, &ask(&labels, TWO, "api")).unwrap().name, "two");
        let denied = grant(&rules, &ask(&labels, ONE, "api")).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "tenancy rule `one` does not grant IAM role `api`; \
             tenancy rule `two` does not grant account 111122223333"
        );
    }

    #[test]
    fn the_rules_of_other_namespaces_are_not_told() {
        let labels = BTreeMap::new();
        let denied =
            grant(&[rule("b", "team-b", ONE, "web")], &ask(&labels, ONE, "web")).unwrap_err();
        assert!(!denied.to_string().contains("`b`"), "{denied}");
    }

    #[test]
    fn only_a_trailing_star_is_a_wildcard_and_case_counts() {
        let labels = BTreeMap::new();
        let rules = [rule("one", "team-a", ONE, "api-*")];
        assert!(grant(&rules, &ask(&labels, ONE, "api-1")).is_ok());
        for role in ["API-1", "api", "xapi-1"] {
            assert!(grant(&rules, &ask(&labels, ONE, role)).is_err(), "{role}");
        }
    }

    #[test]
    fn an_identity_must_be_listed_by_the_same_rule() {
        let labels = BTreeMap::new();
        let rules = [rule("one", "team-a", ONE, "web")];
        let with = |identity| Request { identity: Some(identity), ..ask(&labels, ONE, "web") };
        assert!(grant(&rules, &with(IdentityKind::AssumeRole)).is_ok());
        assert!(grant(&rules, &with(IdentityKind::Secret)).is_err());
    }

    #[test]
    fn an_empty_selector_grants_nothing() {
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        let mut by_label = rule("one", "", ONE, "web");
        by_label.namespaces = Namespaces { names: None, selector: Some(LabelSelector::default()) };
        assert!(grant(std::slice::from_ref(&by_label), &ask(&labels, ONE, "web")).is_err());
        by_label.namespaces.selector =
            Some(LabelSelector { match_labels: Some(labels.clone()), ..LabelSelector::default() });
        assert!(grant(std::slice::from_ref(&by_label), &ask(&labels, ONE, "web")).is_ok());
        assert!(grant(&[by_label], &ask(&BTreeMap::new(), ONE, "web")).is_err());
    }
}
