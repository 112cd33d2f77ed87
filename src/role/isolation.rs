//! Whether a login that carries certain policies can reach anything of its neighbours.
//!
//! Trying paths could never show it: there is always one more. So the verdict is by inclusion. Each rule
//! that allows anything has to lie, with all paths it speaks of, within the role's own directory, within
//! what every token may do for itself, or within what an admin granted besides. A rule that lies
//! elsewhere and touches what is protected breaks isolation.
//!
//! It makes no difference which server it is: servers differ in which of several rules decides, and here
//! each rule is judged as if it did. Only two things clear a rule that touches: a `deny` for the very
//! same path, and a rule of greater priority that allows nothing on all of the touched paths. Whatever
//! narrows a rule (parameters, wrapping times, MFA, control groups) is taken as if it were not there.
//!
//! `Some(true)` speaks of logins from now on and of this role. It does not say that no other policy
//! reads the directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::vault::acl::{Capabilities, Pattern, Policy, Priority, Rule, strip_slash};

/// How many findings a verdict lists.
pub const MAX_FINDINGS: usize = 16;
/// How many patterns are compared to clear rules; after that, rules count as not cleared.
const MAX_COMPARISONS: usize = 100_000;

/// What the verdict is about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The KV v2 mount of the certificates, without a slash at the end.
    pub mount: &'a str,
    /// The role's directory in it, `certs/<account>/<role>`, without a slash at the end.
    pub directory: &'a str,
    /// All policies of a login: `token_policies` in lower case, legacy `policies`, `default` unless it is
    /// left out, and those of the entity and its groups as far as they can be read.
    pub policies: &'a [InForce<'a>],
    /// Whether the policies of entity and groups are among `policies`, or it is known that there can be
    /// none.
    pub identity_is_known: bool,
    /// What the admin grants to this tenant besides its directory.
    pub extras: &'a [Extra],
    /// The mounts of this Vault (`pki/`, `secret/`), if they are known: to name those that are reached.
    pub mounts: Option<&'a [String]>,
}

/// A policy that a login would carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InForce<'a> {
    /// Its name in lower case.
    pub name: &'a str,
    /// Its text.
    pub text: Text<'a>,
}

/// What is known of a policy's text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Text<'a> {
    /// As Vault has it, or as we are about to write it.
    Known(&'a str),
    /// There is no policy of this name.
    Missing,
    /// We may not read it.
    Unreadable,
}

/// A path that the admin's rule grants, as in a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Extra {
    /// With `*` and `+`. One with a template covers only a rule of the very same text.
    pub path: String,
    /// What may be done there. `sudo` is never granted.
    pub capabilities: Capabilities,
}

/// The answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// The worst of the findings.
    pub reason: Reason,
    /// What speaks against isolation, the worst first; of more than [`MAX_FINDINGS`] the worst.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub left_off: usize,
    /// Other mounts that the login reaches, such as `pki/`. Where mounts are not known, or the rule does
    /// not say, the path of the rule.
    pub also_reaches: BTreeSet<String>,
}

impl Verdict {
    /// Status of the condition; `None` is `Unknown`.
    pub fn isolated(&self) -> Option<bool> {
        self.reason.isolated()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.findings.is_empty() {
            return f.write_str("a login reaches nothing of its neighbours");
        }
        for (index, finding) in self.findings.iter().enumerate() {
            let between = if index == 0 { "" } else { "; " };
            write!(f, "{between}{finding}")?;
        }
        match self.left_off {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Why a role is isolated, is not, or nobody knows. From the worst to the best.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// False: a login carries `root`, which may do everything.
    RootPolicy,
    /// False: a rule grants `sudo`.
    SudoGranted,
    /// False: a rule reaches certificates of others, `sys/`, `auth/` or `identity/`.
    NotIsolated,
    /// False: a policy is named that does not exist. Whoever creates it decides what the role may do.
    DanglingPolicy,
    /// Unknown: a policy may not be read.
    PolicyUnreadable,
    /// Unknown: a policy's text holds what is not known here.
    PolicyNotUnderstood,
    /// Unknown: entity and groups may bring further policies, and they may not be read.
    IdentityUnreadable,
    /// True: each rule was shown to lie within what is the role's own, everybody's, or granted.
    Isolated,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::RootPolicy,
        Self::SudoGranted,
        Self::NotIsolated,
        Self::DanglingPolicy,
        Self::PolicyUnreadable,
        Self::PolicyNotUnderstood,
        Self::IdentityUnreadable,
        Self::Isolated,
    ];

    /// The word that stands in the condition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RootPolicy => "RootPolicy",
            Self::SudoGranted => "SudoGranted",
            Self::NotIsolated => "NotIsolated",
            Self::DanglingPolicy => "DanglingPolicy",
            Self::PolicyUnreadable => "PolicyUnreadable",
            Self::PolicyNotUnderstood => "PolicyNotUnderstood",
            Self::IdentityUnreadable => "IdentityUnreadable",
            Self::Isolated => "Isolated",
        }
    }

    /// Status of the condition; `None` is `Unknown`.
    pub const fn isolated(self) -> Option<bool> {
        match self {
            Self::RootPolicy | Self::SudoGranted | Self::NotIsolated | Self::DanglingPolicy => {
                Some(false)
            }
            Self::PolicyUnreadable | Self::PolicyNotUnderstood | Self::IdentityUnreadable => None,
            Self::Isolated => Some(true),
        }
    }
}

/// One thing that speaks against isolation.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Finding {
    /// What kind of thing.
    pub reason: Reason,
    /// Name of the policy; empty for [`Reason::IdentityUnreadable`].
    pub policy: String,
    /// The path of the rule, as it is written, and what the rule allows.
    pub rule: Option<(String, Capabilities)>,
    /// What exactly; empty if the reason says all.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, policy, rule, detail } = self;
        match (reason, rule) {
            (Reason::RootPolicy, _) => write!(f, "the policy `{policy}` may do everything"),
            (_, Some((path, capabilities))) => {
                write!(f, "policy `{policy}` grants {capabilities} on `{}`", path.escape_debug())
            }
            (Reason::DanglingPolicy, _) => write!(f, "policy `{policy}` does not exist"),
            (Reason::PolicyUnreadable, _) => write!(f, "policy `{policy}` cannot be read"),
            (Reason::IdentityUnreadable, _) => {
                f.write_str("the policies of the entity and its groups cannot be read")
            }
            _ => write!(f, "policy `{policy}` is not understood: {detail}"),
        }
    }
}

/// What the policy `default` of Vault and OpenBao allows when nobody changed it: each token its own
/// affairs.
const BASELINE: [(&str, &[&str]); 18] = [
    ("auth/token/lookup-self", &["read"]),
    ("auth/token/renew-self", &["update"]),
    ("auth/token/revoke-self", &["update"]),
    ("sys/capabilities-self", &["update"]),
    ("identity/entity/id/{{identity.entity.id}}", &["read"]),
    ("identity/entity/name/{{identity.entity.name}}", &["read"]),
    ("sys/internal/ui/resultant-acl", &["read"]),
    ("sys/renew", &["update"]),
    ("sys/leases/renew", &["update"]),
    ("sys/leases/lookup", &["update"]),
    ("cubbyhole/*", &["create", "read", "update", "delete", "list"]),
    ("sys/wrapping/wrap", &["update"]),
    ("sys/wrapping/lookup", &["update"]),
    ("sys/wrapping/unwrap", &["update"]),
    ("sys/tools/hash", &["update"]),
    ("sys/tools/hash/*", &["update"]),
    ("sys/control-group/request", &["update"]),
    ("identity/oidc/provider/+/authorize", &["read", "update"]),
];
/// Each begins the path of an operation on an entry of KV v2; then comes the entry.
const KV_OPERATIONS: [&str; 6] = ["data", "metadata", "subkeys", "delete", "undelete", "destroy"];
/// Mounts that are protected as a whole, besides that of the certificates.
const PROTECTED: [&str; 3] = ["sys", "auth", "identity"];
/// Each token has its own: nobody reaches that of another.
const CUBBYHOLE: &str = "cubbyhole";

/// The verdict.
pub fn judge(question: &Question<'_>) -> Verdict {
    let mut findings = Findings::default();
    let mut policies: Vec<(&str, Policy)> = Vec::new();
    let mut seen = BTreeSet::new();
    for InForce { name, text } in question.policies {
        if !seen.insert(name) {
            continue;
        }
        match text {
            // It has no text, and no policy of this name can be written.
            _ if *name == "root" => findings.policy(Reason::RootPolicy, name, String::new()),
            Text::Missing => findings.policy(Reason::DanglingPolicy, name, String::new()),
            Text::Unreadable => findings.policy(Reason::PolicyUnreadable, name, String::new()),
            Text::Known(text) => match Policy::parse(text) {
                Ok(policy) => policies.push((name, policy)),
                Err(error) => {
                    findings.policy(Reason::PolicyNotUnderstood, name, error.to_string());
                }
            },
        }
    }
    if !question.identity_is_known {
        findings.policy(Reason::IdentityUnreadable, "", String::new());
    }
    for (name, policy) in &policies {
        let unknown: BTreeSet<String> =
            policy.unknown().take(8).map(|word| format!("`{}`", word.escape_debug())).collect();
        if !unknown.is_empty() {
            let words: Vec<String> = unknown.into_iter().collect();
            findings.policy(Reason::PolicyNotUnderstood, name, words.join(", "));
        }
    }
    let mut also_reaches = BTreeSet::new();
    let mut bounds = Bounds::new(question, &policies);
    for (name, rule) in rules(&policies) {
        match bounds.place(rule) {
            Place::Within => {}
            Place::Elsewhere => bounds.reached(rule, question.mounts, &mut also_reaches),
            Place::Touches(reason) => findings.rule(reason, name, rule),
        }
    }
    findings.verdict(also_reaches)
}

fn rules<'a>(policies: &'a [(&'a str, Policy)]) -> impl Iterator<Item = (&'a str, &'a Rule)> {
    policies.iter().flat_map(|(name, policy)| policy.rules.iter().map(|rule| (*name, rule)))
}

/// What belongs to all: the mount of the certificates, and Vault's own.
fn protected(mount: &str) -> Vec<Pattern> {
    // The mount itself too: listing it may be decided by a rule for its path without the slash.
    let both = |mount| [Pattern::exact(mount), Pattern::below(mount)];
    PROTECTED.into_iter().chain([mount]).flat_map(both).collect()
}

/// Whether an extra reaches what belongs to all. An admin may grant that to policies that others write;
/// a team's own rule never gets it.
pub fn is_protected(mount: &str, extra: &Extra) -> bool {
    // What cannot be read could be anything.
    Pattern::parse(&extra.path).is_none_or(|pattern| {
        protected(mount).iter().any(|protected| pattern.meet(protected).is_some())
    })
}

/// Where a rule lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// It allows nothing, or nothing of others.
    Within,
    /// On other mounts, which nobody protects here.
    Elsewhere,
    /// Where it breaks isolation.
    Touches(Reason),
}

/// Where rules may lie, and where they may not.
struct Bounds {
    allowed: Vec<Allowed>,
    protected: Vec<Pattern>,
    own_mounts: Vec<Pattern>,
    /// Paths for which some policy says `deny` for ever.
    denied: BTreeSet<String>,
    /// Rules with wildcards that allow nothing, now and for ever.
    shadows: Vec<(Priority, Pattern)>,
    comparisons: usize,
}

/// Paths on which something is allowed.
struct Allowed {
    /// As it is written, for templates.
    text: String,
    /// `None` for a template, which stands for nothing but itself.
    pattern: Option<Pattern>,
    capabilities: Capabilities,
    /// Granted by the admin, so that it may reach another mount.
    extra: bool,
}

impl Allowed {
    fn new(text: &str, capabilities: Capabilities, extra: bool) -> Self {
        let pattern = if text.contains("{{") { None } else { Pattern::parse(text) };
        let text = strip_slash(text).to_owned();
        Self { text, pattern, capabilities, extra }
    }

    fn own(pattern: Pattern, capabilities: Capabilities) -> Self {
        Self { text: String::new(), pattern: Some(pattern), capabilities, extra: false }
    }

    fn covers(&self, rule: &Rule, granted: Capabilities) -> bool {
        self.capabilities.contains(granted)
            && match &self.pattern {
                Some(pattern) => pattern.covers(&rule.pattern),
                None => rule.templated && self.text == strip_slash(&rule.path),
            }
    }
}

impl Bounds {
    fn new(question: &Question<'_>, policies: &[(&str, Policy)]) -> Self {
        let Question { mount, directory, extras, .. } = question;
        let anything = Capabilities::CREATE
            .union(Capabilities::READ)
            .union(Capabilities::UPDATE)
            .union(Capabilities::DELETE)
            .union(Capabilities::LIST)
            .union(Capabilities::PATCH)
            .union(Capabilities::SUBSCRIBE)
            .union(Capabilities::RECOVER)
            .union(Capabilities::SCAN);
        let listing = Capabilities::LIST.union(Capabilities::SCAN);
        let mut allowed = Vec::new();
        for operation in KV_OPERATIONS {
            let own = Pattern::below(&format!("{mount}/{operation}/{directory}"));
            allowed.push(Allowed::own(own, anything));
        }
        // Whatever the operation, its entry lies in the directory.
        if let Some(own) = Pattern::parse(&format!("{mount}/+/{directory}/*")) {
            allowed.push(Allowed::own(own, anything));
        }
        // Lists the directory. Reading there would be of an entry beside it, of the same name.
        let own = Pattern::exact(&format!("{mount}/metadata/{directory}"));
        allowed.push(Allowed::own(own, listing));
        for (path, words) in BASELINE {
            let capabilities = Capabilities::of(words.iter().copied()).unwrap_or_default();
            allowed.push(Allowed::new(path, capabilities, false));
        }
        for Extra { path, capabilities } in *extras {
            allowed.push(Allowed::new(path, capabilities.granted(), true));
        }
        let protected = protected(mount);
        let mut own_mounts = protected.clone();
        own_mounts.extend([Pattern::exact(CUBBYHOLE), Pattern::below(CUBBYHOLE)]);
        let (denied, shadows) = denials(policies);
        Self { allowed, protected, own_mounts, denied, shadows, comparisons: 0 }
    }

    fn place(&mut self, rule: &Rule) -> Place {
        let granted = rule.capabilities.granted();
        // A template becomes what another one of the same text becomes, but not at the same time.
        let denied = !rule.templated && self.denied.contains(strip_slash(&rule.path));
        if granted.is_empty() || denied {
            return Place::Within;
        }
        if granted.contains(Capabilities::SUDO) {
            return Place::Touches(Reason::SudoGranted);
        }
        if let Some(allowed) = self.allowed.iter().find(|allowed| allowed.covers(rule, granted)) {
            return if allowed.extra { Place::Elsewhere } else { Place::Within };
        }
        let touched: Vec<Pattern> =
            self.protected.iter().filter_map(|pattern| rule.pattern.meet(pattern)).collect();
        if touched.iter().all(|touched| self.is_shadowed(rule, touched)) {
            Place::Elsewhere
        } else {
            Place::Touches(Reason::NotIsolated)
        }
    }

    /// Whether another rule always decides on these paths of the rule, and allows nothing.
    fn is_shadowed(&mut self, rule: &Rule, touched: &Pattern) -> bool {
        // An exact rule always decides; of a template nobody knows what it becomes.
        let Some(priority) = Priority::of(&rule.path).filter(|_| !rule.templated) else {
            return false;
        };
        if self.comparisons + self.shadows.len() > MAX_COMPARISONS {
            return false;
        }
        self.comparisons += self.shadows.len();
        self.shadows.iter().any(|(other, pattern)| *other > priority && pattern.covers(touched))
    }

    /// The mounts on which a rule lies, without those that are judged otherwise.
    fn reached(&self, rule: &Rule, mounts: Option<&[String]>, reached: &mut BTreeSet<String>) {
        let pattern = &rule.pattern;
        if self.own_mounts.iter().any(|own| own.covers(pattern)) {
            return;
        }
        match (mounts, pattern.first_segment()) {
            (Some(mounts), _) => {
                let is_reached = |mount: &&String| {
                    let mount = Pattern::below(mount.trim_end_matches('/'));
                    !self.own_mounts.contains(&mount) && pattern.meet(&mount).is_some()
                };
                reached.extend(mounts.iter().filter(is_reached).cloned());
            }
            (None, Some(segment)) => {
                reached.insert(format!("{segment}/"));
            }
            (None, None) => {
                reached.insert(rule.path.clone());
            }
        }
    }
}

/// Paths that are denied, and rules with wildcards that allow nothing.
fn denials(policies: &[(&str, Policy)]) -> (BTreeSet<String>, Vec<(Priority, Pattern)>) {
    #[derive(Default)]
    struct Path<'a> {
        denied: bool,
        grants: bool,
        certain: Option<&'a Pattern>,
    }
    let mut paths: BTreeMap<&str, Path<'_>> = BTreeMap::new();
    for (_, rule) in rules(policies) {
        if rule.templated {
            continue;
        }
        let path = paths.entry(strip_slash(&rule.path)).or_default();
        path.grants |= !rule.capabilities.granted().is_empty() || !rule.unknown.is_empty();
        // A rule that expires denies only until then.
        if rule.is_certain() {
            path.denied |= rule.capabilities == Capabilities::DENY;
            path.certain = Some(&rule.pattern);
        }
    }
    let mut denied = BTreeSet::new();
    let mut shadows = Vec::new();
    for (text, path) in paths {
        if path.denied {
            denied.insert(text.to_owned());
        }
        if let Some(pattern) = path.certain
            && let Some(priority) = Priority::of(text)
            && (path.denied || !path.grants)
        {
            shadows.push((priority, pattern.clone()));
        }
    }
    (denied, shadows)
}

/// Gathers, and keeps the worst.
#[derive(Default)]
struct Findings {
    worst: BTreeSet<Finding>,
    left_off: usize,
}

impl Findings {
    fn policy(&mut self, reason: Reason, policy: &str, detail: String) {
        self.add(Finding { reason, policy: policy.to_owned(), rule: None, detail });
    }

    fn rule(&mut self, reason: Reason, policy: &str, rule: &Rule) {
        let path = (rule.path.clone(), rule.capabilities);
        let policy = policy.to_owned();
        self.add(Finding { reason, policy, rule: Some(path), detail: String::new() });
    }

    fn add(&mut self, finding: Finding) {
        self.worst.insert(finding);
        if self.worst.len() > MAX_FINDINGS {
            self.worst.pop_last();
            self.left_off += 1;
        }
    }

    fn verdict(self, also_reaches: BTreeSet<String>) -> Verdict {
        let findings: Vec<Finding> = self.worst.into_iter().collect();
        let reason = findings.first().map_or(Reason::Isolated, |finding| finding.reason);
        Verdict { reason, findings, left_off: self.left_off, also_reaches }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNT: &str = "secret";
    const DIRECTORY: &str = "certs/111122223333/web";
    const OWN: &str = r#"
        path "secret/data/certs/111122223333/web/*" { capabilities = ["read", "list"] }
        path "secret/metadata/certs/111122223333/web/*" { capabilities = ["read", "list"] }
        path "secret/metadata/certs/111122223333/web/" { capabilities = ["list"] }
    "#;

    fn rule(path: &str, words: &str) -> String {
        let words: Vec<String> =
            words.split_whitespace().map(|word| format!("\"{word}\"")).collect();
        format!("path \"{path}\" {{ capabilities = [{}] }}\n", words.join(","))
    }

    fn question<'a>(policies: &'a [InForce<'a>]) -> Question<'a> {
        Question {
            mount: MOUNT,
            directory: DIRECTORY,
            policies,
            identity_is_known: true,
            extras: &[],
            mounts: None,
        }
    }

    fn known<'a>(name: &'a str, text: &'a str) -> InForce<'a> {
        InForce { name, text: Text::Known(text) }
    }

    /// The verdict where a login carries the role's own policy and another one.
    fn with(text: &str) -> Verdict {
        judge(&question(&[known("own", OWN), known("other", text)]))
    }

    fn reason(text: &str) -> Reason {
        with(text).reason
    }

    /// The policy `default` as Vault makes it.
    fn default_policy() -> String {
        BASELINE.iter().map(|(path, words)| rule(path, &words.join(" "))).collect()
    }

    #[test]
    fn the_own_policy_and_default_are_isolated() {
        let default = default_policy();
        let verdict = judge(&question(&[known("own", OWN), known("default", &default)]));
        assert_eq!(verdict.isolated(), Some(true), "{verdict}");
        assert_eq!(verdict.reason, Reason::Isolated);
        assert_eq!(verdict.to_string(), "a login reaches nothing of its neighbours");
        assert!(verdict.also_reaches.is_empty());
    }

    #[test]
    fn no_policy_is_isolated() {
        assert_eq!(judge(&question(&[])).isolated(), Some(true));
    }

    #[test]
    fn every_operation_within_the_own_directory_is_isolated() {
        for operation in ["data", "metadata", "subkeys", "delete", "undelete", "destroy", "+"] {
            for rest in ["*", "x", "+", "a/+/b*"] {
                let path = format!("secret/{operation}/{DIRECTORY}/{rest}");
                let text = rule(&path, "create read update delete list patch");
                assert_eq!(reason(&text), Reason::Isolated, "{path}");
            }
        }
        let path = format!("/secret/metadata/{DIRECTORY}");
        assert_eq!(reason(&rule(&path, "list")), Reason::Isolated);
    }

    #[test]
    fn every_pattern_that_leaves_the_own_directory_is_not() {
        for path in [
            "*",
            "+/*",
            "secret/*",
            "secret",
            "secret*",
            "secre*",
            "secret/",
            "secret/config",
            "secret/data/*",
            "secret/data/certs/*",
            "secret/data/certs/111122223333/*",
            "secret/data/certs/111122223333/web",
            "secret/data/certs/111122223333/web*",
            "secret/data/certs/111122223333/web2/*",
            "secret/data/certs/111122223333/we+/*",
            "secret/data/certs/111122223333/+/*",
            "secret/data/certs/+/web/*",
            "secret/+/certs/+/web/*",
            "+/data/certs/111122223333/web/*",
            "+/data/certs/111122223333/web2/x",
            "secret/metadata/certs/111122223333/",
            "secret/destroy/certs/444455556666/web/*",
            "sys/policies/acl/own",
            "sys/*",
            "sys",
            "auth/aws/role/web",
            "auth/token/create",
            "auth/token/lookup",
            "identity/entity/id/*",
            "identity/*",
        ] {
            for words in ["read", "list", "patch", "subscribe", "scan", "recover"] {
                let verdict = with(&rule(path, words));
                assert_eq!(verdict.reason, Reason::NotIsolated, "{words} on {path}");
                assert_eq!(verdict.isolated(), Some(false));
            }
        }
    }

    #[test]
    fn a_finding_names_policy_rule_and_capabilities() {
        let verdict = with(&rule("secret/data/*", "read list"));
        assert_eq!(
            verdict.findings,
            [Finding {
                reason: Reason::NotIsolated,
                policy: "other".into(),
                rule: Some(("secret/data/*".into(), Capabilities::READ.union(Capabilities::LIST))),
                detail: String::new(),
            }]
        );
        assert_eq!(verdict.to_string(), "policy `other` grants list, read on `secret/data/*`");
    }

    #[test]
    fn reading_what_is_named_like_the_directory_is_not_own() {
        let path = format!("secret/metadata/{DIRECTORY}");
        assert_eq!(reason(&rule(&path, "list read")), Reason::NotIsolated);
    }

    #[test]
    fn more_than_the_baseline_on_its_paths_is_not_isolated() {
        assert_eq!(reason(&rule("auth/token/lookup-self", "read")), Reason::Isolated);
        assert_eq!(reason(&rule("auth/token/lookup-self", "read update")), Reason::NotIsolated);
        assert_eq!(reason(&rule("sys/tools/hash/sha2", "update")), Reason::Isolated);
        assert_eq!(reason(&rule("identity/oidc/provider/x/authorize", "read")), Reason::Isolated);
    }

    #[test]
    fn a_missing_policy_dangles() {
        let gone = InForce { name: "gone", text: Text::Missing };
        let verdict = judge(&question(&[known("own", OWN), gone]));
        assert_eq!((verdict.isolated(), verdict.reason), (Some(false), Reason::DanglingPolicy));
        assert_eq!(verdict.to_string(), "policy `gone` does not exist");
    }

    #[test]
    fn an_unreadable_policy_is_unknown() {
        let hidden = InForce { name: "hidden", text: Text::Unreadable };
        let verdict = judge(&question(&[known("own", OWN), hidden]));
        assert_eq!((verdict.isolated(), verdict.reason), (None, Reason::PolicyUnreadable));
        assert_eq!(verdict.to_string(), "policy `hidden` cannot be read");
    }

    #[test]
    fn unreadable_identity_policies_are_unknown() {
        let policies = [known("own", OWN)];
        let verdict = judge(&Question { identity_is_known: false, ..question(&policies) });
        assert_eq!((verdict.isolated(), verdict.reason), (None, Reason::IdentityUnreadable));
    }

    #[test]
    fn root_is_not_isolated_whatever_else_is_there() {
        for text in [Text::Missing, Text::Unreadable, Text::Known("")] {
            let verdict = judge(&question(&[known("own", OWN), InForce { name: "root", text }]));
            assert_eq!((verdict.isolated(), verdict.reason), (Some(false), Reason::RootPolicy));
        }
    }

    #[test]
    fn sudo_is_not_isolated_wherever_it_is() {
        for path in ["pki/x", "cubbyhole/x", "secret/data/certs/111122223333/web/x"] {
            assert_eq!(reason(&rule(path, "read sudo")), Reason::SudoGranted, "{path}");
        }
        assert_eq!(reason("path \"pki/x\" { policy = \"sudo\" }"), Reason::SudoGranted);
    }

    #[test]
    fn sudo_is_never_an_extra() {
        let extras = [Extra {
            path: "pki/*".into(),
            capabilities: Capabilities::READ.union(Capabilities::SUDO),
        }];
        let text = rule("pki/x", "sudo");
        let policies = [known("other", &text)];
        let verdict = judge(&Question { extras: &extras, ..question(&policies) });
        assert_eq!(verdict.reason, Reason::SudoGranted);
    }

    #[test]
    fn what_is_not_understood_is_unknown_with_the_reason() {
        for (text, said) in [
            ("path \"pki/x\" {\n wings = 2 }", "`wings`"),
            ("path \"pki/x\" { capabilities = [\"fly\"] }", "`fly`"),
            ("path \"pki/x\" { policy = \"hover\" }", "`hover`"),
            ("future \"x\" {}", "`future`"),
            ("path \"pki/x\" ?", "line 1: a character that is not expected here"),
            ("path \"pki/+*\" {}", "path `pki/+*`: `+*` is no wildcard"),
        ] {
            let verdict = with(text);
            assert_eq!(verdict.isolated(), None, "{text}");
            assert_eq!(verdict.reason, Reason::PolicyNotUnderstood, "{text}");
            assert_eq!(verdict.to_string(), format!("policy `other` is not understood: {said}"));
        }
    }

    #[test]
    fn what_is_known_to_be_bad_counts_more_than_what_is_unknown() {
        let text = rule("secret/*", "read") + "future \"x\" {}";
        let verdict = with(&text);
        assert_eq!((verdict.isolated(), verdict.reason), (Some(false), Reason::NotIsolated));
        assert_eq!(verdict.findings.len(), 2);
        assert_eq!(verdict.findings[1].reason, Reason::PolicyNotUnderstood);
    }

    #[test]
    fn a_template_may_become_anything() {
        for path in [
            "{{identity.entity.name}}/x",
            "secret/{{identity.entity.name}}",
            "secret/data/certs/{{identity.entity.metadata.account}}/web/*",
            "secret/data/certs/111122223333/web{{identity.entity.name}}",
            "+{{identity.entity.name}}",
            "sys/{{identity.entity.name}}",
            "identity/entity/id/{{identity.entity.id}}x",
        ] {
            assert_eq!(reason(&rule(path, "read")), Reason::NotIsolated, "{path}");
        }
    }

    #[test]
    fn a_template_within_the_own_directory_stays_there() {
        let path = format!("secret/data/{DIRECTORY}/{{{{identity.entity.name}}}}/*");
        assert_eq!(reason(&rule(&path, "read")), Reason::Isolated);
        let verdict = with(&rule("pki/{{identity.entity.name}}", "read"));
        assert_eq!(verdict.isolated(), Some(true));
        assert_eq!(verdict.also_reaches, BTreeSet::from(["pki/".to_owned()]));
    }

    #[test]
    fn a_template_is_not_denied_by_another() {
        let text = rule("secret/{{a}}", "read") + &rule("secret/{{a}}", "deny");
        assert_eq!(reason(&text), Reason::NotIsolated);
    }

    #[test]
    fn deny_for_the_same_path_clears_a_rule() {
        let text = rule("secret/data/*", "read") + &rule("/secret/data/*", "deny");
        assert_eq!(reason(&text), Reason::Isolated);
        let text = rule("sys/x", "read sudo") + &rule("sys/x", "deny");
        assert_eq!(reason(&text), Reason::Isolated);
    }

    #[test]
    fn deny_on_a_part_clears_nothing() {
        for denied in ["secret/data/certs/*", "secret/data/x", "secret/+/certs/*", "*", "+/data/*"]
        {
            let text = rule("secret/data/*", "read") + &rule(denied, "deny");
            assert_eq!(reason(&text), Reason::NotIsolated, "{denied}");
        }
    }

    #[test]
    fn a_greater_priority_that_allows_nothing_clears_a_rule() {
        let broad = rule("+/data/certs/*", "read");
        assert_eq!(reason(&broad), Reason::NotIsolated);
        for denied in ["deny", ""] {
            let text = ["secret/*", "sys/*", "auth/*", "identity/*"]
                .map(|path| rule(path, denied))
                .concat();
            let verdict = with(&(text + &broad));
            assert_eq!(verdict.reason, Reason::Isolated, "{denied}");
        }
    }

    #[test]
    fn a_shadow_must_cover_the_path_by_which_the_directory_is_listed() {
        // Listing `secret/` is decided by a rule for `secret`, if there is one.
        let rest = ["sys*", "auth*", "identity*"].map(|path| rule(path, "deny")).concat();
        let text = rest.clone() + &rule("*", "list") + &rule("secret/*", "deny");
        assert_eq!(reason(&text), Reason::NotIsolated);
        let text = rest + &rule("*", "list") + &rule("secret*", "deny");
        assert_eq!(reason(&text), Reason::Isolated);
    }

    #[test]
    fn a_shadow_of_lower_priority_clears_nothing() {
        let text = rule("secret/data/+/x", "read") + &rule("secret/*", "deny");
        assert_eq!(reason(&text), Reason::NotIsolated);
    }

    #[test]
    fn an_exact_rule_is_cleared_by_no_wildcard() {
        let text = rule("secret/data/x", "read") + &rule("secret/data/*", "deny");
        assert_eq!(reason(&text), Reason::NotIsolated);
    }

    #[test]
    fn a_deny_that_expires_clears_nothing() {
        for path in ["secret/data/*", "secret/*"] {
            let expiring =
                format!("path \"{path}\" {{ policy = \"deny\"\n expiration = \"x\" }}\n");
            let text = rule("secret/data/*", "read") + &expiring;
            assert_eq!(reason(&text), Reason::NotIsolated, "{path}");
        }
    }

    #[test]
    fn a_grant_that_expires_counts() {
        let text = "path \"secret/data/*\" { capabilities = [\"read\"]\n expiration = \"x\" }";
        assert_eq!(reason(text), Reason::NotIsolated);
    }

    #[test]
    fn what_narrows_a_rule_is_ignored() {
        for body in [
            "allowed_parameters = { a = [] }",
            "denied_parameters = { \"*\" = [] }",
            "min_wrapping_ttl = 1",
            "mfa_methods = [\"x\"]",
            "control_group = { ttl = 1 }",
        ] {
            let text = format!("path \"secret/data/*\" {{ capabilities = [\"read\"]\n {body} }}");
            assert_eq!(reason(&text), Reason::NotIsolated, "{body}");
        }
    }

    #[test]
    fn an_extra_is_granted_with_its_capabilities_and_no_others() {
        let extras = [
            Extra { path: "sys/leases/count".into(), capabilities: Capabilities::READ },
            Extra { path: "pki/issue/+".into(), capabilities: Capabilities::UPDATE },
            Extra { path: "secret/data/{{a}}".into(), capabilities: Capabilities::READ },
        ];
        let verdict = |text: &str| {
            let policies = [known("own", OWN), known("other", text)];
            judge(&Question { extras: &extras, ..question(&policies) })
        };
        assert_eq!(verdict(&rule("sys/leases/count", "read")).reason, Reason::Isolated);
        assert_eq!(verdict(&rule("sys/leases/count", "list")).reason, Reason::NotIsolated);
        assert_eq!(verdict(&rule("sys/leases/count/x", "read")).reason, Reason::NotIsolated);
        assert_eq!(verdict(&rule("secret/data/{{a}}", "read")).reason, Reason::Isolated);
        assert_eq!(verdict(&rule("secret/data/{{b}}", "read")).reason, Reason::NotIsolated);
        assert_eq!(verdict(&rule("secret/data/x", "read")).reason, Reason::NotIsolated);
        let issued = verdict(&rule("pki/issue/web", "update"));
        assert_eq!(issued.reason, Reason::Isolated);
        assert_eq!(issued.also_reaches, BTreeSet::from(["pki/".to_owned()]));
    }

    #[test]
    fn other_mounts_are_listed() {
        let text = rule("pki/issue/*", "update")
            + &rule("team/+/x", "read")
            + &rule("+/creds/x", "deny")
            + &rule("transit", "read")
            + &rule("db*", "read");
        let verdict = with(&text);
        assert_eq!(verdict.isolated(), Some(true), "{verdict}");
        let reached: Vec<&str> = verdict.also_reaches.iter().map(String::as_str).collect();
        assert_eq!(reached, ["db*", "pki/", "team/", "transit/"]);
    }

    #[test]
    fn other_mounts_are_named_as_vault_has_them() {
        let text = rule("team/kv/data/*", "read") + &rule("db*", "read") + &rule("gone/x", "read");
        let policies = [known("own", OWN), known("other", &text)];
        let mounts = ["secret/", "team/kv/", "team/pki/", "db1/", "db2/", "sys/", "cubbyhole/"]
            .map(str::to_owned);
        let verdict = judge(&Question { mounts: Some(&mounts), ..question(&policies) });
        let reached: Vec<&str> = verdict.also_reaches.iter().map(String::as_str).collect();
        assert_eq!(reached, ["db1/", "db2/", "team/kv/"]);
    }

    #[test]
    fn a_mount_with_several_segments_is_protected_and_its_parent_is_not() {
        let reason = |text: &str| {
            let policies = [known("other", text)];
            let place =
                Question { mount: "teams/kv", directory: "certs/1/web", ..question(&policies) };
            judge(&place).reason
        };
        let other = "data/certs/1/other/*";
        assert_eq!(reason(&rule(&format!("teams/kv/{other}"), "read")), Reason::NotIsolated);
        assert_eq!(reason(&rule(&format!("teams/+/{other}"), "read")), Reason::NotIsolated);
        assert_eq!(reason(&rule("teams/kv/data/certs/1/web/*", "read")), Reason::Isolated);
        assert_eq!(reason(&rule("teams/kv2/*", "read")), Reason::Isolated);
    }

    #[test]
    fn the_worst_findings_are_listed_and_the_rest_counted() {
        let text: String = (0..40).map(|n| rule(&format!("secret/data/{n}"), "read")).collect();
        let verdict = with(&(text + &rule("pki/x", "sudo")));
        assert_eq!(verdict.reason, Reason::SudoGranted);
        assert_eq!(verdict.findings.len(), MAX_FINDINGS);
        assert_eq!(verdict.left_off, 41 - MAX_FINDINGS);
        assert!(verdict.to_string().ends_with("; and 25 more"));
    }

    #[test]
    fn many_rules_are_judged_in_no_time() {
        let half = crate::vault::acl::MAX_RULES / 2;
        let grants: String = (0..half).map(|n| rule(&format!("+/{n}/*"), "read")).collect();
        let denials: String = (0..half).map(|n| rule(&format!("x{n}/*"), "deny")).collect();
        let verdict = with(&(grants + &denials));
        assert_eq!(verdict.reason, Reason::NotIsolated);
        assert_eq!(verdict.left_off, half - MAX_FINDINGS);
    }

    #[test]
    fn a_policy_that_is_named_twice_counts_once() {
        let text = rule("secret/*", "read");
        let verdict = judge(&question(&[known("other", &text), known("other", &text)]));
        assert_eq!(verdict.findings.len(), 1);
    }

    #[test]
    fn every_reason_has_a_word_and_a_status() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str(), format!("{reason:?}"));
            assert_eq!(reason.isolated() == Some(true), reason == Reason::Isolated);
        }
    }
}
