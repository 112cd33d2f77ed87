//! The Vault policy of the role writer. (The syncer has none of its own: it logs in as the IAM roles.)

use std::collections::BTreeSet;

use crate::{
    crd::{Management, VaultAwsBackendSpec},
    grants::Fault,
    naming,
    role::policy::quote,
};

/// When something is needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// With each pass, for ever.
    Daily,
    /// Once, until the auth mount is there.
    Bootstrap,
}

/// One rule of the policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The path; a trailing `*` is a prefix.
    pub path: String,
    /// Vault's words.
    pub capabilities: &'static [&'static str],
    /// Values that a request may have, by parameter; `*` stands for all parameters, an empty list for
    /// all values. Empty: any request.
    pub allowed: Vec<(&'static str, Vec<String>)>,
    /// Values that a request must not have.
    pub denied: Vec<(&'static str, Vec<String>)>,
    /// What it is for, in lines of a comment.
    pub why: &'static str,
}

const ROLES: &str = "\
Roles. A role may carry our policies only, and what tenancy's additionalPolicies name. Vault matches
each element of a JSON list against allowed_parameters, but a comma-separated string as one text: *,*
refuses that spelling. `policies` is the old name of `token_policies`.";
const POLICIES: &str = "The policies of those roles, by their prefix.";
const OUT_OF_REACH: &str =
    "Its own, out of reach whatever other policy the token carries: deny wins.";
const DEFAULT: &str = "\
What else a login of a role carries, so that its isolation can be judged: Vault's policy `default`, read
and never written, whatever other policy the token carries.";
const EXTRAS: &str = "And the policies that tenancy rules name in additionalPolicies.";
const IDENTITY: &str = "\
And the policies that its entity and the groups of that add. A look-up is sent like a write, and changes
nothing.";
const MOUNTS: &str =
    "Is the auth mount there, and of type aws? This lists the auth mounts; it changes none.";
const KV: &str = "\
Any right below a mount lets its holder ask sys/internal/ui/mounts which version of KV it is. This one
reads no certificate.";
const OWN_TOKEN: &str = "\
The operator's own token is renewed, and given back at the end. Vault's policy `default` grants the
same; here for tokens without it.";
const GIVEN_TOKEN: &str = "\
Which policies the token of `operatorLogin.tokenRef` carries, as roles must not: a login says it itself.";
const CLIENT: &str = "\
How Vault asks AWS, and how it checks logins. Whoever may write this chooses the STS endpoint that says
who is who: he can log in as anybody at this mount. That is what `management: Managed` gives away.";
const ACCOUNTS: &str = "The roles that Vault assumes to ask other accounts.";
const TUNE: &str = "How long tokens of the mount live.";
const ENABLE: &str = "Enables the mount.";

/// The literal with which the names of all policies of a backend begin.
pub fn prefix(spec: &VaultAwsBackendSpec) -> &str {
    spec.naming.policy.split('{').next().unwrap_or_default()
}

/// The rules, in the order in which they are printed. `own` are the operator's own policies in Vault.
///
/// # Errors
/// [`Fault`] where the operator could rewrite one of them.
pub fn grants(spec: &VaultAwsBackendSpec, part: Part, own: &[&str]) -> Result<Vec<Grant>, Fault> {
    let prefix = prefix(spec);
    for policy in own {
        let fits =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
        if policy.is_empty() || !policy.bytes().all(fits) {
            return Err(Fault::PolicyName((*policy).to_owned()));
        }
        if policy.starts_with(prefix) {
            let policy = (*policy).to_owned();
            return Err(Fault::OwnPolicy { policy, prefix: prefix.to_owned() });
        }
    }
    let is_managed = spec.auth.management == Management::Managed;
    Ok(match part {
        Part::Daily => daily(spec, prefix, is_managed, own),
        Part::Bootstrap if is_managed => {
            vec![Grant::new(format!("sys/auth/{}", spec.auth.mount), &["update", "sudo"], ENABLE)]
        }
        Part::Bootstrap => Vec::new(),
    })
}

fn daily(spec: &VaultAwsBackendSpec, prefix: &str, is_managed: bool, own: &[&str]) -> Vec<Grant> {
    let (auth, kv) = (&spec.auth.mount, &spec.certificates.mount);
    let extras = extras(spec, prefix, own);
    let mut roles =
        Grant::new(format!("auth/{auth}/role/*"), &["create", "read", "update", "delete"], ROLES);
    let mut attachable = vec![format!("{prefix}*")];
    attachable.extend(extras.iter().cloned());
    roles.allowed = vec![("token_policies", attachable), ("*", Vec::new())];
    roles.denied = vec![("policies", Vec::new()), ("token_policies", vec!["*,*".to_owned()])];
    let mut all = vec![
        roles,
        Grant::new(format!("sys/policies/acl/{prefix}*"), &["read", "update", "delete"], POLICIES),
    ];
    all.extend(
        own.iter().map(|policy| {
            Grant::new(format!("sys/policies/acl/{policy}"), &["deny"], OUT_OF_REACH)
        }),
    );
    all.push(Grant::new("sys/auth".to_owned(), &["read"], MOUNTS));
    let mut default = Grant::new("sys/policies/acl/default".to_owned(), &["read"], DEFAULT);
    // A right to write from elsewhere would be on the same path, and denied parameters stay denied.
    default.denied = vec![("*", Vec::new())];
    all.push(default);
    all.extend(
        extras
            .iter()
            .map(|extra| Grant::new(format!("sys/policies/acl/{extra}"), &["read"], EXTRAS)),
    );
    all.push(Grant::new("identity/lookup/entity".to_owned(), &["update"], IDENTITY));
    all.push(Grant::new("identity/group/id/*".to_owned(), &["read"], IDENTITY));
    all.push(Grant::new(format!("auth/{auth}/config/identity"), &["read"], IDENTITY));
    if is_managed {
        if let Some(identity) = all.last_mut().filter(|_| spec.auth.identity.is_some()) {
            identity.capabilities = &["read", "update"];
        }
        if spec.auth.default_lease_ttl.is_some() || spec.auth.max_lease_ttl.is_some() {
            all.push(Grant::new(format!("sys/mounts/auth/{auth}/tune"), &["update"], TUNE));
        }
        all.push(Grant::new(
            format!("auth/{auth}/config/client"),
            &["create", "read", "update"],
            CLIENT,
        ));
        all.push(Grant::new(
            format!("auth/{auth}/config/sts/*"),
            &["create", "read", "update"],
            ACCOUNTS,
        ));
    }
    all.push(Grant::new(format!("{kv}/config"), &["read"], KV));
    if spec.operator_login.token_ref.is_some() {
        all.push(Grant::new("auth/token/lookup-self".to_owned(), &["read"], GIVEN_TOKEN));
    }
    all.push(Grant::new("auth/token/renew-self".to_owned(), &["update"], OWN_TOKEN));
    all.push(Grant::new("auth/token/revoke-self".to_owned(), &["update"], OWN_TOKEN));
    all
}

/// What tenancy rules name besides, as Vault folds it. What the operator itself carries, and what every
/// Vault has, is handed on to nobody.
fn extras(spec: &VaultAwsBackendSpec, prefix: &str, own: &[&str]) -> BTreeSet<String> {
    let named = spec.tenancy.iter().flat_map(|rule| &rule.additional_policies);
    named
        .filter_map(|name| naming::policy_name(name).ok())
        .filter(|name| !own.contains(&name.as_str()) && !name.starts_with(prefix))
        .collect()
}

impl Grant {
    fn new(path: String, capabilities: &'static [&'static str], why: &'static str) -> Self {
        Self { path, capabilities, allowed: Vec::new(), denied: Vec::new(), why }
    }
}

/// The policy in HCL, with what each rule is for.
///
/// # Errors
/// As [`grants`].
pub fn text(spec: &VaultAwsBackendSpec, part: Part, own: &[&str]) -> Result<String, Fault> {
    let grants = grants(spec, part, own)?;
    let mut text = head(spec, part);
    let mut said = "";
    for Grant { path, capabilities, allowed, denied, why } in &grants {
        text.push('\n');
        if *why != said {
            text.push_str(&comment(why));
            said = why;
        }
        text.push_str(&format!(
            "path {} {{\n  capabilities = {}\n",
            quote(path),
            list(capabilities)
        ));
        for (name, parameters) in [("allowed_parameters", allowed), ("denied_parameters", denied)] {
            if !parameters.is_empty() {
                text.push_str(&format!("\n  {name} = {{\n"));
                let keys: Vec<String> = parameters.iter().map(|(key, _)| quote(key)).collect();
                let width = keys.iter().map(String::len).max().unwrap_or_default();
                for (key, (_, values)) in keys.iter().zip(parameters) {
                    text.push_str(&format!("    {key:<width$} = {}\n", list(values)));
                }
                text.push_str("  }\n");
            }
        }
        text.push_str("}\n");
    }
    Ok(text)
}

fn head(spec: &VaultAwsBackendSpec, part: Part) -> String {
    let (mount, kv, prefix) = (&spec.auth.mount, &spec.certificates.mount, prefix(spec));
    let of = match spec.auth.management {
        Management::Managed => format!("auth mount {mount} (Managed), KV mount {kv}"),
        Management::Observed => format!("auth mount {mount} (Observed), KV mount {kv}"),
    };
    let words = match (part, spec.auth.management) {
        (Part::Daily, _) => format!(
            "\
Vault policy of the role writer: what it needs every day.
For {of}, policies {prefix}*.

What it does not bound: whoever may write policies and attach them to roles can give himself anything
in this Vault namespace. The prefix only keeps other policies from being overwritten. Real bounds are
a Vault namespace of its own, a Sentinel policy, or a Vault of its own."
        ),
        (Part::Bootstrap, Management::Managed) => format!(
            "\
Vault policy of the role writer: what it needs once.
For {of}.

Attach it beside the daily one, and take it away when the backend is Ready. It may enable and tune any
auth method at this path, and no other."
        ),
        (Part::Bootstrap, Management::Observed) => format!(
            "\
Vault policy of the role writer: what it needs once.
For {of}.

Nothing: the mount is enabled and configured by its owner."
        ),
    };
    comment(&words)
}

fn comment(lines: &str) -> String {
    lines.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect()
}

fn list(words: &[impl AsRef<str>]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word.as_ref())).collect();
    format!("[{}]", words.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::vault::acl;

    const OWN: &[&str] = &["vault-aws-operator"];

    fn spec(auth: Value) -> VaultAwsBackendSpec {
        serde_json::from_value(json!({
            "vault": {"address": "https://vault.example.com:8200"},
            "operatorLogin": {"serviceAccount": {"role": "vault-aws-operator"}},
            "auth": auth,
        }))
        .unwrap()
    }

    fn managed() -> VaultAwsBackendSpec {
        spec(json!({"mount": "teams/aws", "management": "Managed"}))
    }

    #[test]
    fn what_is_printed_is_read_as_what_was_meant() {
        for spec in [spec(json!({})), managed()] {
            for part in [Part::Daily, Part::Bootstrap] {
                let text = text(&spec, part, OWN).unwrap();
                let policy = acl::Policy::parse(&text).unwrap();
                let meant = grants(&spec, part, OWN).unwrap();
                assert!(policy.unknown().next().is_none() && !policy.repeats);
                assert_eq!(policy.rules.len(), meant.len());
                for (rule, grant) in policy.rules.iter().zip(&meant) {
                    assert_eq!(rule.path, grant.path);
                    let words = grant.capabilities.iter().copied();
                    assert_eq!(Some(rule.capabilities), acl::Capabilities::of(words));
                    let narrows = !grant.allowed.is_empty() || !grant.denied.is_empty();
                    assert_eq!(rule.narrowed, narrows);
                }
                assert!(text.lines().all(|line| line.len() <= 110), "{text}");
            }
        }
    }

    #[test]
    fn the_operator_cannot_write_its_own_policy() {
        for own in ["vaultaws-operator", "vaultaws-"] {
            let refused = grants(&spec(json!({})), Part::Daily, &[own]);
            assert!(matches!(refused, Err(Fault::OwnPolicy { .. })), "{own}");
        }
        for own in ["", "Operator", "a\" {}", "a/b"] {
            let refused = grants(&spec(json!({})), Part::Daily, &[own]);
            assert_eq!(refused, Err(Fault::PolicyName(own.to_owned())));
        }
    }

    #[test]
    fn only_a_managed_mount_is_configured_and_only_the_bootstrap_needs_sudo() {
        let paths = |spec: &VaultAwsBackendSpec, part| -> Vec<String> {
            let all = grants(spec, part, OWN).unwrap();
            all.into_iter().map(|grant| grant.path).collect()
        };
        let config = "auth/teams/aws/config/client".to_owned();
        assert!(paths(&managed(), Part::Daily).contains(&config));
        let observed = spec(json!({"mount": "teams/aws"}));
        assert!(!paths(&observed, Part::Daily).contains(&config));
        assert_eq!(paths(&managed(), Part::Bootstrap), ["sys/auth/teams/aws"]);
        assert!(paths(&observed, Part::Bootstrap).is_empty());
        for grant in grants(&managed(), Part::Daily, OWN).unwrap() {
            assert!(!grant.capabilities.contains(&"sudo"), "{}", grant.path);
        }
    }

    #[test]
    fn only_a_token_that_was_given_looks_itself_up() {
        let looks_up = |spec: &VaultAwsBackendSpec| {
            let all = grants(spec, Part::Daily, OWN).unwrap();
            all.iter().any(|grant| grant.path == "auth/token/lookup-self")
        };
        let mut spec = spec(json!({}));
        assert!(!looks_up(&spec));
        let login = json!({"tokenRef": {"name": "operator", "key": "token"}});
        spec.operator_login = serde_json::from_value(login).unwrap();
        assert!(looks_up(&spec));
    }

    #[test]
    fn what_tenancy_grants_besides_may_be_read_and_attached_but_never_the_operators_own() {
        let mut spec = spec(json!({}));
        spec.tenancy = serde_json::from_value(json!([{
            "name": "a", "namespaces": {"names": ["a"]}, "accounts": ["111122223333"],
            "additionalPolicies":
                ["Team-PKI", "default", "root", "vault-aws-operator", "vaultaws-x", "Vault-AWS-Operator"],
        }]))
        .unwrap();
        let grants = grants(&spec, Part::Daily, OWN).unwrap();
        assert_eq!(grants[0].allowed[0].1, ["vaultaws-*", "team-pki"]);
        let readable = grants.iter().find(|grant| grant.path == "sys/policies/acl/team-pki");
        assert_eq!(readable.map(|grant| grant.capabilities), Some(&["read"][..]));
        let own = grants.iter().filter(|grant| grant.path == "sys/policies/acl/vault-aws-operator");
        assert_eq!(own.map(|grant| grant.capabilities).collect::<Vec<_>>(), [["deny"]]);
    }

    #[test]
    fn a_role_may_name_no_policy_but_ours() {
        let text = text(&spec(json!({})), Part::Daily, OWN).unwrap();
        let expected = r#"
path "auth/aws/role/*" {
  capabilities = ["create", "read", "update", "delete"]

  allowed_parameters = {
    "token_policies" = ["vaultaws-*"]
    "*"              = []
  }

  denied_parameters = {
    "policies"       = []
    "token_policies" = ["*,*"]
  }
}
"#;
        assert!(text.contains(expected), "{text}");
    }
}
