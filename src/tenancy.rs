//! May this namespace use this account and this role? Deny by default, decided before any request.
//!
//! One rule must grant everything that is asked for: rules never combine, because a namespace that may
//! use account A for role `web` and account B for role `api` was not given A's `api`.

use std::{collections::BTreeMap, fmt};

use kube::core::{Selector, SelectorExt};

use crate::{
    crd::{
        Adopt, AuthType, Capability, IamKind, IdentityKind, Namespaces, PathRule, Span, TenancyRule,
    },
    vault::acl::Pattern,
};

/// What a resource asks of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Namespace of the resource.
    pub namespace: &'a str,
    /// Labels of that namespace.
    pub labels: &'a BTreeMap<String, String>,
    /// AWS account, twelve digits.
    pub account: &'a str,
    /// Kind and friendly name of the IAM principal.
    pub iam: (IamKind, &'a str),
    /// How the AWS identity is got; `None` where none is needed.
    pub identity: Option<IdentityKind>,
    /// What a VaultAwsRole asks for beyond its own certificates; nothing for a VaultCertSync.
    pub beyond: Beyond<'a>,
}

/// What a VaultAwsRole may ask for beyond its own IAM principal and its certificates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beyond<'a> {
    /// The principals that are bound in its place.
    pub principals: &'a [Names],
    /// How clients log in.
    pub auth_type: AuthType,
    /// Whether EC2 instances are inferred from the names of sessions.
    pub inference: bool,
    /// The name in Vault that it gives itself.
    pub vault_name: Option<&'a str>,
    /// How far it would take over what stands in Vault.
    pub adopt: Adopt,
    /// Policies of Vault.
    pub policies: &'a [String],
    /// Paths in its own policy.
    pub extra_rules: &'a [PathRule],
    /// Durations of its tokens, by their field.
    pub token_times: &'a [(&'static str, Span)],
}

/// Friendly names of IAM principals of one kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Names {
    /// Roles or users.
    pub kind: IamKind,
    /// The name, or what all the names begin with.
    pub name: String,
    /// Whether it is a beginning.
    pub is_prefix: bool,
}

impl Names {
    fn is_granted(&self, rule: &TenancyRule) -> bool {
        let patterns = match self.kind {
            IamKind::Role => &rule.iam_roles,
            IamKind::User => &rule.iam_users,
        };
        patterns.iter().any(|pattern| match (self.is_prefix, pattern.strip_suffix('*')) {
            (true, Some(prefix)) => self.name.starts_with(prefix),
            (true, None) => false,
            (false, _) => matches(pattern, &self.name),
        })
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, is_prefix } = self;
        let (plural, star) = if *is_prefix { ("s", "*") } else { ("", "") };
        write!(f, "IAM {}{plural} `{name}{star}`", kind.as_str())
    }
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
        let Some(what) = lacking(rule, request) else { return Ok(rule) };
        lacks.push(Lack { rule: rule.name.clone(), what });
    }
    if lacks.is_empty() {
        Err(Denied::Namespace { namespace: request.namespace.to_owned() })
    } else {
        Err(Denied::Lacking(lacks))
    }
}

/// The first thing that a rule does not grant.
fn lacking(rule: &TenancyRule, request: &Request<'_>) -> Option<String> {
    let Request { account, iam: (kind, name), identity, beyond, .. } = *request;
    let own = Names { kind, name: name.to_owned(), is_prefix: false };
    if !rule.accounts.iter().any(|granted| granted == account) {
        return Some(format!("account {account}"));
    }
    if let Some(names) =
        std::iter::once(&own).chain(beyond.principals).find(|names| !names.is_granted(rule))
    {
        return Some(names.to_string());
    }
    if let Some(kind) = identity.filter(|kind| !rule.identities.contains(kind)) {
        return Some(format!("identity {}", kind.as_str()));
    }
    if !rule.auth_types.contains(&beyond.auth_type) {
        return Some(format!("authType {}", beyond.auth_type.as_str()));
    }
    if beyond.inference && !rule.allow_inference {
        return Some("inference".to_owned());
    }
    if beyond.principals.iter().any(|names| names.is_prefix) && !rule.allow_wildcard_principals {
        return Some("wildcards in principals".to_owned());
    }
    // As Vault folds names.
    let folds_to = |pattern: &String, name: &str| {
        matches(&pattern.to_ascii_lowercase(), &name.to_ascii_lowercase())
    };
    if let Some(name) =
        beyond.vault_name.filter(|name| !rule.names.iter().any(|one| folds_to(one, name)))
    {
        return Some(format!("the name `{name}` in Vault"));
    }
    if beyond.adopt > rule.adopt {
        return Some(format!("adopt {}", beyond.adopt.as_str()));
    }
    lacking_beyond(rule, beyond)
}

/// The first of policies, paths and durations that the rule does not grant.
fn lacking_beyond(rule: &TenancyRule, beyond: Beyond<'_>) -> Option<String> {
    let policy = beyond.policies.iter().find(|name| !grants_policy(rule, name));
    if let Some(name) = policy {
        return Some(format!("policy `{name}`"));
    }
    let extra = beyond
        .extra_rules
        .iter()
        .find(|wanted| !rule.extra_rules.iter().any(|granted| covers(granted, wanted)));
    if let Some(PathRule { path, capabilities }) = extra {
        let words: Vec<&str> = capabilities.iter().map(|word| word.as_str()).collect();
        return Some(format!("{} on `{path}`", words.join(", ")));
    }
    let longest = rule.max_token_ttl?;
    let (field, time) = beyond.token_times.iter().find(|(_, time)| *time > longest)?;
    Some(format!("token.{field} of {time}: maxTokenTtl is {longest}"))
}

/// Vault folds names of policies.
fn grants_policy(rule: &TenancyRule, name: &str) -> bool {
    rule.additional_policies.iter().any(|granted| granted.eq_ignore_ascii_case(name))
}

/// Whether a grant covers all paths of a wanted rule with all of its capabilities.
fn covers(granted: &PathRule, wanted: &PathRule) -> bool {
    let has = |word: &Capability| granted.capabilities.contains(word);
    wanted.capabilities.iter().all(has)
        && match (Pattern::parse(&granted.path), Pattern::parse(&wanted.path)) {
            (Some(granted), Some(wanted)) => granted.covers(&wanted),
            _ => false,
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
pub fn matches(pattern: &str, role: &str) -> bool {
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
            iam_users: Vec::new(),
            auth_types: vec![AuthType::Iam],
            allow_inference: false,
            allow_wildcard_principals: false,
            names: Vec::new(),
            adopt: Adopt::Never,
            identities: vec![IdentityKind::AssumeRole],
            additional_policies: Vec::new(),
            extra_rules: Vec::new(),
            max_token_ttl: None,
        }
    }

    fn ask<'a>(
        labels: &'a BTreeMap<String, String>,
        account: &'a str,
        role: &'a str,
    ) -> Request<'a> {
        let iam = (IamKind::Role, role);
        let beyond = Beyond::default();
        Request { namespace: "team-a", labels, account, iam, identity: None, beyond }
    }

    /// What a rule for `web` and `api-*`, changed, does not grant of the role `web` that asks for this.
    fn lacks(change: impl FnOnce(&mut TenancyRule), beyond: Beyond<'_>) -> Option<String> {
        let labels = BTreeMap::new();
        let mut rule = rule("one", "team-a", ONE, "web");
        rule.iam_roles.push("api-*".into());
        change(&mut rule);
        lacking(&rule, &Request { beyond, ..ask(&labels, ONE, "web") })
    }

    fn named(kind: IamKind, name: &str, is_prefix: bool) -> Names {
        Names { kind, name: name.into(), is_prefix }
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
    fn each_bound_principal_is_granted_by_the_list_of_its_kind() {
        let with = |change: fn(&mut TenancyRule), names: Names| {
            lacks(change, Beyond { principals: &[names], ..Beyond::default() })
        };
        assert_eq!(with(|_| (), named(IamKind::Role, "api-1", false)), None);
        assert_eq!(
            with(|_| (), named(IamKind::Role, "db", false)).as_deref(),
            Some("IAM role `db`")
        );
        let user = || named(IamKind::User, "web", false);
        assert_eq!(with(|_| (), user()).as_deref(), Some("IAM user `web`"));
        assert_eq!(with(|rule| rule.iam_users = vec!["web".into()], user()), None);
    }

    #[test]
    fn a_wildcard_needs_the_flag_and_a_pattern_that_holds_all_it_could_mean() {
        let with = |flag: bool, prefix: &str| {
            let names = [named(IamKind::Role, prefix, true)];
            lacks(
                |rule| rule.allow_wildcard_principals = flag,
                Beyond { principals: &names, ..Beyond::default() },
            )
        };
        assert_eq!(with(true, "api-"), None);
        assert_eq!(with(true, "api-x"), None);
        assert_eq!(with(false, "api-").as_deref(), Some("wildcards in principals"));
        for wider in ["", "a", "api", "web"] {
            assert!(with(true, wider).is_some(), "{wider}");
        }
    }

    #[test]
    fn logins_of_instances_are_granted_by_name() {
        let ec2 = Beyond { auth_type: AuthType::Ec2, ..Beyond::default() };
        assert_eq!(lacks(|_| (), ec2).as_deref(), Some("authType ec2"));
        assert_eq!(lacks(|rule| rule.auth_types.push(AuthType::Ec2), ec2), None);
        let inferred = Beyond { inference: true, ..Beyond::default() };
        assert_eq!(lacks(|_| (), inferred).as_deref(), Some("inference"));
        assert_eq!(lacks(|rule| rule.allow_inference = true, inferred), None);
    }

    #[test]
    fn a_name_in_vault_is_granted_as_vault_folds_it() {
        let with = |granted: &str| {
            let beyond = Beyond { vault_name: Some("Legacy-Web"), ..Beyond::default() };
            lacks(|rule| rule.names = vec![granted.into()], beyond)
        };
        for granted in ["legacy-web", "LEGACY-*", "*"] {
            assert_eq!(with(granted), None, "{granted}");
        }
        for granted in ["legacy", "legacy-web-2", ""] {
            let lacks = with(granted);
            assert_eq!(lacks.as_deref(), Some("the name `Legacy-Web` in Vault"), "{granted}");
        }
    }

    #[test]
    fn taking_over_goes_as_far_as_the_rule_says() {
        let with = |granted, wished| {
            lacks(|rule| rule.adopt = granted, Beyond { adopt: wished, ..Beyond::default() })
        };
        let all = [Adopt::Never, Adopt::IfEqual, Adopt::Always];
        for (at, granted) in all.into_iter().enumerate() {
            for (reach, wished) in all.into_iter().enumerate() {
                assert_eq!(with(granted, wished).is_none(), reach <= at, "{granted:?} {wished:?}");
            }
        }
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

    fn on(path: &str, capabilities: &[Capability]) -> PathRule {
        PathRule { path: path.into(), capabilities: capabilities.to_vec() }
    }

    fn beyond(rule: &TenancyRule, beyond: Beyond<'_>) -> String {
        let labels = BTreeMap::new();
        let request = Request { beyond, ..ask(&labels, ONE, "web") };
        grant(std::slice::from_ref(rule), &request)
            .map_or_else(|no| no.to_string(), |_| String::new())
    }

    #[test]
    fn a_policy_must_be_listed_whatever_its_case() {
        let mut one = rule("one", "team-a", ONE, "web");
        one.additional_policies = vec!["Team-Read".into()];
        let with = |policies: &[&str]| {
            let policies: Vec<String> = policies.iter().map(|&name| name.into()).collect();
            beyond(&one, Beyond { policies: &policies, ..Beyond::default() })
        };
        assert_eq!(with(&["team-read", "TEAM-READ"]), "");
        assert_eq!(
            with(&["team-read", "admin"]),
            "tenancy rule `one` does not grant policy `admin`"
        );
    }

    #[test]
    fn an_extra_rule_must_lie_within_one_grant_with_all_its_capabilities() {
        use Capability::{Read, Update};
        let mut one = rule("one", "team-a", ONE, "web");
        one.extra_rules = vec![on("pki/issue/*", &[Update]), on("pki/+/web", &[Read, Update])];
        let with = |path: &str, capabilities: &[Capability]| {
            let extra_rules = [on(path, capabilities)];
            beyond(&one, Beyond { extra_rules: &extra_rules, ..Beyond::default() })
        };
        for (path, capabilities) in [
            ("pki/issue/x", &[Update] as &[_]),
            ("pki/issue/x*", &[Update]),
            ("pki/sign/web", &[Read, Update]),
            ("pki/+/web", &[Read]),
        ] {
            assert_eq!(with(path, capabilities), "", "{path}");
        }
        for (path, capabilities) in [
            ("pki/issue/x", &[Read] as &[_]),
            ("pki/issue*", &[Update]),
            ("pki/*", &[Update]),
            ("+/issue/x", &[Update]),
            ("pki/+/+", &[Read]),
            ("secret/data/x", &[Read]),
        ] {
            let said = with(path, capabilities);
            assert!(said.ends_with(&format!("on `{path}`")), "{path}: {said}");
        }
    }

    #[test]
    fn no_duration_of_a_token_is_longer_than_the_rule_says() {
        let mut one = rule("one", "team-a", ONE, "web");
        let times = [("ttl", Span::seconds(3600)), ("maxTtl", Span::seconds(7200))];
        let with =
            |rule: &TenancyRule| beyond(rule, Beyond { token_times: &times, ..Beyond::default() });
        assert_eq!(with(&one), "");
        one.max_token_ttl = Some(Span::seconds(7200));
        assert_eq!(with(&one), "");
        one.max_token_ttl = Some(Span::seconds(7199));
        assert!(with(&one).ends_with("grant token.maxTtl of 2h: maxTokenTtl is 1h59m59s"));
    }
}
