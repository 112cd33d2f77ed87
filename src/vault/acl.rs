//! Vault's ACL language: what a policy's text says, and what a set of policies allows on a path.
//!
//! Vault itself can only be asked what a token may do that already exists. To refuse a policy *before*
//! it is written, and to judge the other policies that a login would carry, the language has to be
//! understood here. Nothing in this module asks Vault anything.
//!
//! ```text
//! text ─▶ [syntax] keys and values ─▶ Policy: rules ─▶ Acl: rules of all policies ─▶ Decision
//!                                            └▶ Pattern, Priority: what isolation is proved with
//! ```
//!
//! How Vault decides, for one path: an exact rule goes first; else the one rule of greatest
//! [`Priority`] of those with `*` and `+` that match. Rules of the same path in several policies are
//! one rule with the capabilities of all, unless one says `deny`. Rules of different paths never add
//! up, and a rule that wins without the capability denies. Listing looks at the path with and without
//! its slash.
//!
//! Servers differ, and not all is known of each; see [`Dialect`]. What is in doubt makes the two sides
//! of a [`Decision`] differ: for neighbours the greater one counts, for own access the smaller one.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

mod pattern;
mod syntax;

pub use pattern::{Pattern, Priority, strip_slash};
use syntax::{Item, Value};

/// The longest text that is read, in bytes. Vault's own storage takes no longer one.
pub const MAX_TEXT: usize = 1 << 20;
/// The most rules that a policy may have.
pub const MAX_RULES: usize = 10_000;

/// Why a policy's text cannot be judged.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseError {
    /// It is longer than [`MAX_TEXT`].
    #[error("the policy is longer than 1 MiB")]
    TooLong,
    /// It has more than [`MAX_RULES`].
    #[error("the policy has more than {MAX_RULES} rules")]
    TooManyRules,
    /// It is not HCL or JSON, or a form of it that no policy needs.
    #[error("line {line}: {what}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What was found or missed.
        what: &'static str,
    },
    /// A rule has a value that Vault would refuse.
    #[error("path `{path}`: {what}")]
    Rule {
        /// The rule's path.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A set of capabilities.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Capabilities(u16);

impl Capabilities {
    /// No capability.
    pub const NONE: Self = Self(0);
    /// `create`.
    pub const CREATE: Self = Self(1);
    /// `read`.
    pub const READ: Self = Self(1 << 1);
    /// `update`.
    pub const UPDATE: Self = Self(1 << 2);
    /// `delete`.
    pub const DELETE: Self = Self(1 << 3);
    /// `list`.
    pub const LIST: Self = Self(1 << 4);
    /// `sudo`.
    pub const SUDO: Self = Self(1 << 5);
    /// `patch`.
    pub const PATCH: Self = Self(1 << 6);
    /// `subscribe`; Vault only.
    pub const SUBSCRIBE: Self = Self(1 << 7);
    /// `recover`; Vault since 1.20.
    pub const RECOVER: Self = Self(1 << 8);
    /// `scan`: list, and below; OpenBao only.
    pub const SCAN: Self = Self(1 << 9);
    /// `deny`. It is no capability to do anything: see [`Capabilities::granted`].
    pub const DENY: Self = Self(1 << 10);

    const WORDS: [(&'static str, Self); 11] = [
        ("create", Self::CREATE),
        ("delete", Self::DELETE),
        ("deny", Self::DENY),
        ("list", Self::LIST),
        ("patch", Self::PATCH),
        ("read", Self::READ),
        ("recover", Self::RECOVER),
        ("scan", Self::SCAN),
        ("subscribe", Self::SUBSCRIBE),
        ("sudo", Self::SUDO),
        ("update", Self::UPDATE),
    ];

    /// A capability by its word in lower case; `None` if no server that we know has it.
    pub fn word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, capability)| *capability)
    }

    /// All of these words; `None` if one is unknown.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        words.into_iter().try_fold(Self::NONE, |all, word| Some(all.union(Self::word(word)?)))
    }

    /// Those of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What may be done: nothing where `deny` is among them.
    #[must_use]
    pub const fn granted(self) -> Self {
        if self.contains(Self::DENY) { Self::NONE } else { self }
    }

    /// The words in alphabetical order, as Vault answers at `sys/capabilities`: `deny` alone if nothing
    /// may be done.
    pub fn words(self) -> Vec<&'static str> {
        let granted = self.granted();
        if granted.is_empty() {
            return vec!["deny"];
        }
        let is_in = |(_, capability): &&(&str, Self)| granted.contains(*capability);
        Self::WORDS.iter().filter(is_in).map(|(word, _)| *word).collect()
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(", "))
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// A policy's text, understood.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    /// Its rules, in the order of the text. A path may be there twice.
    pub rules: Vec<Rule>,
    /// Keys of the top level that we do not know.
    pub unknown: Vec<String>,
    /// Whether a block sets a key twice. Vault refuses such a text since 1.21, and then refuses every
    /// request of a token that carries it; older ones, and OpenBao, take both values.
    pub repeats: bool,
}

/// One `path` block.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// As it is written.
    pub path: String,
    /// The paths it speaks of; with a template, all that these could become.
    pub pattern: Pattern,
    /// What it allows. `deny` is alone.
    pub capabilities: Capabilities,
    /// The path holds `{{…}}`, which Vault fills in for each request, or drops the rule.
    pub templated: bool,
    /// OpenBao's `expiration`: some day the rule is no more.
    pub expires: bool,
    /// Parameters, wrapping times, MFA or control groups make the rule allow less than it says.
    pub narrowed: bool,
    /// Keys, capabilities and legacy words in it that we do not know.
    pub unknown: Vec<String>,
}

/// Keys of a rule that make it allow less.
const NARROWING: [&str; 7] = [
    "allowed_parameters",
    "denied_parameters",
    "required_parameters",
    "min_wrapping_ttl",
    "max_wrapping_ttl",
    "mfa_methods",
    "control_group",
];
/// Keys of a rule that change nothing about who may do what. OpenBao's two shape the answer of a list.
const HARMLESS: [&str; 4] =
    ["comment", "subscribe_event_types", "pagination_limit", "list_scan_response_keys_filter_path"];

impl Policy {
    /// Reads HCL, or JSON if the first character is a brace, as Vault does.
    ///
    /// # Errors
    /// [`ParseError`], if the text is too much, or not understood. Much of it Vault would refuse too, and
    /// so it cannot be the text of a policy; of the rest it is only known that it says more than we know.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEXT {
            return Err(ParseError::TooLong);
        }
        let document = syntax::read(text)?;
        let mut policy = Self { repeats: document.repeats, ..Self::default() };
        for Item { keys, value } in document.items {
            match keys.first().map(|key| &**key) {
                // Vault takes the key itself for the path where there is no label.
                Some("path") => {
                    if policy.rules.len() == MAX_RULES {
                        return Err(ParseError::TooManyRules);
                    }
                    let path = keys.get(1).map_or("path", |label| &**label);
                    policy.rules.push(Rule::read(path, value)?);
                }
                Some("name") => {}
                key => policy.unknown.push(key.unwrap_or_default().to_owned()),
            }
        }
        Ok(policy)
    }

    /// What of it we do not know: whoever reads the policy knows less than Vault.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.unknown
            .iter()
            .chain(self.rules.iter().flat_map(|rule| &rule.unknown))
            .map(String::as_str)
    }
}

impl Rule {
    fn read(path: &str, body: Value) -> Result<Self, ParseError> {
        let fault = |what| ParseError::Rule { path: path.to_owned(), what };
        let Value::Object(items) = body else { return Err(fault("a rule is a block")) };
        let templated = is_templated(path).ok_or_else(|| fault("unbalanced template braces"))?;
        let pattern =
            if templated { Some(Pattern::of_template(path)) } else { Pattern::parse(path) };
        let mut rule = Self {
            path: path.to_owned(),
            pattern: pattern.ok_or_else(|| fault("`+*` is no wildcard"))?,
            capabilities: Capabilities::NONE,
            templated,
            expires: false,
            narrowed: false,
            unknown: Vec::new(),
        };
        let mut words = Vec::new();
        let mut legacy = None;
        for Item { keys, value } in items {
            match (keys.first().map_or("", |key| &**key), value) {
                ("capabilities" | "policy", _) if keys.len() > 1 => {
                    return Err(fault("a label where there cannot be one"));
                }
                ("capabilities", Value::List(list)) => words.extend(list),
                ("capabilities", Value::Object(block)) if block.is_empty() => {}
                ("capabilities", _) => return Err(fault("`capabilities` is a list of words")),
                ("policy", Value::Text(word) | Value::Number(word)) => legacy = Some(word),
                ("policy", _) => return Err(fault("`policy` is a word")),
                ("expiration", _) => rule.expires = true,
                (key, _) if NARROWING.contains(&key) => rule.narrowed = true,
                (key, _) if HARMLESS.contains(&key) => {}
                (key, _) => rule.unknown.push(key.to_owned()),
            }
        }
        let mut all = Vec::new();
        for word in words {
            match word {
                Value::Text(word) | Value::Number(word) => all.push(word),
                _ => return Err(fault("`capabilities` is a list of words")),
            }
        }
        match legacy.as_deref() {
            None | Some("") => {}
            // It takes the place of the list, with what is wrong there.
            Some("deny") => all = vec!["deny".to_owned()],
            Some("read") => all.extend(["read", "list"].map(str::to_owned)),
            Some("write") => all.extend(LEGACY_WRITE.map(str::to_owned)),
            Some("sudo") => all.extend(LEGACY_WRITE.into_iter().chain(["sudo"]).map(str::to_owned)),
            Some(word) => rule.unknown.push(word.to_owned()),
        }
        for word in all {
            match Capabilities::word(&word) {
                Some(Capabilities::DENY) => {
                    rule.capabilities = Capabilities::DENY;
                    break;
                }
                Some(capability) => rule.capabilities = rule.capabilities.union(capability),
                None => rule.unknown.push(word),
            }
        }
        Ok(rule)
    }

    /// Whether it is in force as it is written, for every login and for ever.
    pub fn is_certain(&self) -> bool {
        !self.templated && !self.expires && self.unknown.is_empty()
    }
}

const LEGACY_WRITE: [&str; 5] = ["create", "read", "update", "delete", "list"];

/// Whether a path holds a template; `None` if its braces do not match, which Vault refuses.
fn is_templated(path: &str) -> Option<bool> {
    let mut parts = path.split("{{");
    if parts.next()?.contains("}}") {
        return None;
    }
    let mut templated = false;
    for part in parts {
        if part.matches("}}").count() != 1 {
            return None;
        }
        templated = true;
    }
    Some(templated)
}

/// Whose understanding of the language counts.
///
/// | | Vault | later Vault | OpenBao | unknown |
/// | --- | --- | --- | --- | --- |
/// | a key set twice in a block | refused since 1.21 | refused | both count | in doubt |
/// | listing `dir/` by wildcards | `dir` first, then `dir/` | in doubt | the order changed: in doubt | in doubt |
///
/// Capabilities and keys of either product are understood in every dialect: a server refuses to store
/// what it does not know.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Dialect {
    /// Vault up to 1.21.
    Vault,
    /// Vault after 1.21.
    LaterVault,
    /// OpenBao.
    OpenBao,
    /// A server of unknown version.
    #[default]
    Unknown,
}

/// What is asked of a path.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Operation {
    /// Write what is not there.
    Create,
    /// Read.
    Read,
    /// Write what is there, or what does not tell.
    Update,
    /// Delete.
    Delete,
    /// List. Vault adds a slash to the path of such a request.
    List,
    /// Patch.
    Patch,
}

impl Operation {
    /// The capability it takes.
    pub const fn capability(self) -> Capabilities {
        match self {
            Self::Create => Capabilities::CREATE,
            Self::Read => Capabilities::READ,
            Self::Update => Capabilities::UPDATE,
            Self::Delete => Capabilities::DELETE,
            Self::List => Capabilities::LIST,
            Self::Patch => Capabilities::PATCH,
        }
    }
}

/// What may be done on a path, as far as it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// What every server of the dialect grants: counts for what somebody needs.
    pub at_least: Capabilities,
    /// What some server of the dialect could grant: counts for what nobody may have.
    pub at_most: Capabilities,
}

/// The rules of all policies of a token.
#[derive(Clone, Debug)]
pub struct Acl {
    dialect: Dialect,
    exact: HashMap<String, Merged>,
    /// The greatest priority first.
    wild: Vec<(Pattern, Merged)>,
    /// Rules that may be in force or not, and stand for more paths than we know.
    doubtful: Vec<(Pattern, Capabilities)>,
    /// Some policy may be refused as a whole.
    shaky: bool,
}

/// The rules of one path in one.
#[derive(Clone, Copy, Debug, Default)]
struct Merged {
    capabilities: Capabilities,
    narrowed: bool,
}

impl Acl {
    /// The rules of these policies. It does not know `root`, which has no text.
    pub fn new<'a>(dialect: Dialect, policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut exact: HashMap<String, Merged> = HashMap::new();
        let mut wild: BTreeMap<Priority, (Pattern, Merged)> = BTreeMap::new();
        let mut doubtful = Vec::new();
        let mut shaky = false;
        for policy in policies {
            shaky |= policy.repeats && dialect != Dialect::OpenBao;
            for rule in &policy.rules {
                if !rule.is_certain() {
                    doubtful.push((rule.pattern.clone(), rule.capabilities.granted()));
                    continue;
                }
                let path = strip_slash(&rule.path);
                let merged = match Priority::of(path) {
                    None => exact.entry(path.to_owned()).or_default(),
                    Some(priority) => {
                        let new = || (rule.pattern.clone(), Merged::default());
                        &mut wild.entry(priority).or_insert_with(new).1
                    }
                };
                merged.capabilities = merged.capabilities.union(rule.capabilities);
                merged.narrowed |= rule.narrowed;
            }
        }
        Self { dialect, exact, wild: wild.into_values().rev().collect(), doubtful, shaky }
    }

    /// What may be done on a path, if it is asked by this operation: listing looks at more rules. For
    /// the answer of `sys/capabilities` ask as [`Operation::List`], for that is what Vault does there.
    pub fn decide(&self, path: &str, operation: Operation) -> Decision {
        let path = path.trim_start_matches('/');
        let is_list = operation == Operation::List;
        let orders: &[bool] = match (is_list, self.dialect) {
            (false, _) | (true, Dialect::Vault) => &[true],
            _ => &[true, false],
        };
        let mut decision = Decision { at_least: Capabilities(!0), at_most: Capabilities::NONE };
        for bare_first in orders {
            let rule = self.rule(path, is_list, *bare_first);
            let granted = rule.map_or(Capabilities::NONE, |rule| rule.capabilities.granted());
            let sure = rule.is_some_and(|rule| !rule.narrowed) && !self.shaky;
            let at_least = if sure { granted } else { Capabilities::NONE };
            decision.at_least = decision.at_least.intersection(at_least);
            decision.at_most = decision.at_most.union(granted);
        }
        let bare = if is_list { path.strip_suffix('/') } else { None };
        for (pattern, granted) in &self.doubtful {
            if pattern.matches(path) || bare.is_some_and(|bare| pattern.matches(bare)) {
                decision.at_least = decision.at_least.intersection(*granted);
                decision.at_most = decision.at_most.union(*granted);
            }
        }
        decision
    }

    /// Whether every server of the dialect allows it.
    pub fn surely_allows(&self, path: &str, operation: Operation) -> bool {
        self.decide(path, operation).at_least.contains(operation.capability())
    }

    /// Whether some server of the dialect could allow it.
    pub fn may_allow(&self, path: &str, operation: Operation) -> bool {
        self.decide(path, operation).at_most.contains(operation.capability())
    }

    /// The rule that decides. `bare_first`: lists by the path without its slash before the one with it.
    fn rule(&self, path: &str, is_list: bool, bare_first: bool) -> Option<Merged> {
        let bare = path.strip_suffix('/').filter(|_| is_list);
        let exact = self.exact.get(path).or_else(|| self.exact.get(bare?));
        exact.copied().or_else(|| {
            if bare_first {
                bare.and_then(|bare| self.wildest(bare)).or_else(|| self.wildest(path))
            } else {
                self.wildest(path).or_else(|| self.wildest(bare?))
            }
        })
    }

    fn wildest(&self, path: &str) -> Option<Merged> {
        let found = self.wild.iter().find(|(pattern, _)| pattern.matches(path));
        found.map(|(_, merged)| *merged)
    }
}

#[cfg(test)]
mod tests;
