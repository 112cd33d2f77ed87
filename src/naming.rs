//! What an IAM role is called in AWS and in Vault: ARNs, the Vault role and policy, the directory.
//!
//! Both the role writer and the syncer derive these names, and they must agree to the letter.

use std::fmt;

use crate::crd::{Certificates, IamKind, Naming, Partition, VaultAwsBackendSpec, VaultAwsRoleSpec};

/// Names that Vault reserves or that every Vault has; never written, never adopted.
const RESERVED: [&str; 4] = ["root", "default", "response-wrapping", "control-group"];

/// An IAM role of one account, as the schema lets it through; or an IAM user, who is named alike.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct IamRole {
    /// Which of both.
    pub kind: IamKind,
    /// AWS partition.
    pub partition: Partition,
    /// Twelve digits.
    pub account: String,
    /// Friendly name.
    pub name: String,
    /// Path, `/` or `/a/b/`.
    pub path: String,
}

impl IamRole {
    /// What a VaultAwsRole is about.
    ///
    /// # Errors
    /// As [`IamRole::parse`].
    pub fn of(spec: &VaultAwsRoleSpec) -> Result<Self, Fault> {
        let (kind, name) = spec.iam_name();
        let parsed = Self::parse(spec.partition, &spec.account_id, name, &spec.iam_role_path)?;
        Ok(Self { kind, ..parsed })
    }

    /// Checks what the schema checks, because an object may be older than its schema.
    ///
    /// # Errors
    /// [`Fault`] names the part that no AWS account, IAM role or Vault path can have.
    pub fn parse(
        partition: Partition,
        account: &str,
        name: &str,
        path: &str,
    ) -> Result<Self, Fault> {
        if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Fault::Account);
        }
        let plain = |text: &str| {
            !text.is_empty()
                && text.len() <= 64
                && text != "."
                && text != ".."
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_=.@-".contains(&byte))
        };
        if !plain(name) {
            return Err(Fault::IamRole);
        }
        let inner = path.strip_prefix('/').map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        if !(path == "/"
            || path.ends_with('/') && inner.is_some_and(|all| all.split('/').all(plain)))
        {
            return Err(Fault::Path);
        }
        let kind = IamKind::Role;
        Ok(Self { kind, partition, account: account.into(), name: name.into(), path: path.into() })
    }

    /// `arn:aws:iam::123456789012:role/team/web`: what IAM calls it.
    pub fn arn(&self) -> String {
        let Self { kind, partition, account, name, path } = self;
        format!("arn:{partition}:iam::{account}:{}{path}{name}", kind.as_str())
    }

    /// `arn:aws:iam::123456789012:role/web`: what Vault compares when it does not resolve unique IDs,
    /// because an assumed role's ARN has lost the path.
    pub fn pathless_arn(&self) -> String {
        Self { path: "/".into(), ..self.clone() }.arn()
    }

    /// `certs/123456789012/web`: its directory in the KV engine, without slashes at the ends.
    pub fn directory(&self, certificates: &Certificates) -> String {
        format!("{}/{}/{}", certificates.base_path, self.account, self.name)
    }
}

/// Whose names are derived.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The IAM role.
    pub iam_role: &'a IamRole,
    /// Namespace of the resource.
    pub namespace: &'a str,
    /// Name of the resource.
    pub name: &'a str,
}

/// Name of a role at an auth mount: lower case, as Vault stores it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RoleName(String);

/// Name of an ACL policy: lower case, as Vault stores it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PolicyName(String);

impl RoleName {
    /// The name that `naming.role` gives this subject.
    ///
    /// # Errors
    /// [`Fault`] where the result is no name that Vault takes, or a reserved one.
    pub fn derive(naming: &Naming, subject: Subject<'_>) -> Result<Self, Fault> {
        name(fill(&naming.role, subject, None)?).map(Self)
    }

    /// The name that a spec gives itself.
    ///
    /// # Errors
    /// As [`RoleName::derive`].
    pub fn given(vault_name: &str) -> Result<Self, Fault> {
        name(vault_name.to_owned()).map(Self)
    }
}

impl PolicyName {
    /// The name that `naming.policy` gives this subject.
    ///
    /// # Errors
    /// As [`RoleName::derive`].
    pub fn derive(naming: &Naming, subject: Subject<'_>, role: &RoleName) -> Result<Self, Fault> {
        name(fill(&naming.policy, subject, Some(role))?).map(Self)
    }
}

macro_rules! reads_as_text {
    ($($name:ident)*) => {$(
        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
reads_as_text!(RoleName PolicyName);

/// Why there is no such name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Not an account.
    #[error("accountId must be twelve digits")]
    Account,
    /// Not an IAM role that can be a directory in Vault.
    #[error("iamRole or iamUser must be 1 to 64 of A-Z a-z 0-9 _ = . @ - and not . or ..")]
    IamRole,
    /// Not an IAM path.
    #[error("iamRolePath must be / or /segment/…/, each segment of A-Z a-z 0-9 _ = . @ -")]
    Path,
    /// Two free-text placeholders with something else than a full stop between them.
    #[error(
        "naming template `{template}` joins two free-text placeholders by something else than a full \
         stop: different resources could get one name"
    )]
    Joint {
        /// The template.
        template: String,
    },
    /// A value with a full stop where the full stop separates.
    #[error(
        "`{value}` contains a full stop, which separates placeholders in the naming template `{template}`"
    )]
    Separator {
        /// The value.
        value: String,
        /// The template.
        template: String,
    },
    /// Not a name that Vault takes.
    #[error(
        "`{name}` cannot be a name in Vault: letters, digits, _ . - only, starting and ending with a \
         letter, digit or _; choose other names or another naming template"
    )]
    NotAName {
        /// The name.
        name: String,
    },
    /// A name that is never written.
    #[error("`{name}` is reserved in Vault and never written")]
    Reserved {
        /// The name.
        name: String,
    },
}

/// The host of the address, as logins sign it unless the backend says otherwise.
pub fn server_id(backend: &VaultAwsBackendSpec) -> Option<String> {
    backend.auth.server_id.clone().or_else(|| {
        let rest = backend.vault.address.strip_prefix("https://")?;
        let authority = rest.split('/').next()?;
        let host = match authority.strip_prefix('[') {
            Some(six) => six.split(']').next()?,
            None => authority.split(':').next()?,
        };
        (!host.is_empty()).then(|| host.to_owned())
    })
}

/// The session name of a role that the operator assumes for a resource: `vaultaws-<namespace>-<name>`,
/// at most 64 characters (IAM's limit).
pub fn session_name(namespace: &str, name: &str) -> String {
    let mut text = format!("vaultaws-{namespace}-{name}");
    text.truncate(64);
    text
}

/// What the operator gives as ExternalId, by the backend's template.
pub fn external_id(backend: &VaultAwsBackendSpec, cluster: &str, namespace: &str) -> String {
    backend.aws.external_id.replace("{clusterId}", cluster).replace("{namespace}", namespace)
}

/// Checks a template by itself, whatever will be filled in.
///
/// # Errors
/// [`Fault::Joint`] where two resources could get one name.
pub fn check_template(template: &str) -> Result<(), Fault> {
    pieces(template).map(drop)
}

/// What all names of a template begin with, up to its first placeholder.
pub fn literal_prefix(template: &str) -> &str {
    template.split('{').next().unwrap_or_default()
}

/// A literal, or a placeholder.
enum Piece<'a> {
    Literal(&'a str),
    Placeholder(&'a str),
}

/// Cuts a template and refuses ambiguous joints. `{account}` is always twelve digits, so it needs no
/// separator; the others are free text.
fn pieces(template: &str) -> Result<Vec<Piece<'_>>, Fault> {
    let mut found = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let (piece, length) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, _)) => (Piece::Placeholder(name), name.len() + 2),
            None => {
                let length = rest.find('{').filter(|at| *at > 0).unwrap_or(rest.len());
                (Piece::Literal(&rest[..length]), length)
            }
        };
        found.push(piece);
        rest = &rest[length..];
    }
    let free = |piece: &Piece<'_>| matches!(piece, Piece::Placeholder(name) if *name != "account");
    let places: Vec<usize> =
        found.iter().enumerate().filter(|(_, piece)| free(piece)).map(|(at, _)| at).collect();
    for pair in places.windows(2) {
        let between = &found[pair[0] + 1..pair[1]];
        if !between.iter().any(|piece| matches!(piece, Piece::Literal(text) if text.contains('.')))
        {
            return Err(Fault::Joint { template: template.into() });
        }
    }
    Ok(found)
}

fn fill(template: &str, subject: Subject<'_>, role: Option<&RoleName>) -> Result<String, Fault> {
    let pieces = pieces(template)?;
    let free = |piece: &&Piece<'_>| matches!(piece, Piece::Placeholder(name) if *name != "account");
    let separated = pieces.iter().filter(free).count() > 1;
    let mut text = String::new();
    for piece in &pieces {
        let value = match piece {
            Piece::Literal(literal) => {
                text.push_str(literal);
                continue;
            }
            Piece::Placeholder("account") => {
                text.push_str(&subject.iam_role.account);
                continue;
            }
            Piece::Placeholder("iamRole") => subject.iam_role.name.as_str(),
            Piece::Placeholder("namespace") => subject.namespace,
            Piece::Placeholder("name") => subject.name,
            Piece::Placeholder("role") => role.map_or("", RoleName::as_str),
            Piece::Placeholder(other) => {
                return Err(Fault::NotAName { name: format!("{{{other}}}") });
            }
        };
        if separated && value.contains('.') {
            return Err(Fault::Separator { value: value.into(), template: template.into() });
        }
        text.push_str(value);
    }
    Ok(text)
}

/// A policy's name as Vault folds it.
///
/// # Errors
/// [`Fault`] where it is no name that Vault takes, or a reserved one.
pub fn policy_name(text: &str) -> Result<String, Fault> {
    name(text.to_owned())
}

/// Vault's own rule for names of roles, which also suits policies, folded to lower case.
fn name(text: String) -> Result<String, Fault> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    let fits = bytes.len() <= 256
        && bytes.first().copied().is_some_and(word)
        && bytes.last().copied().is_some_and(word)
        && bytes.iter().all(|byte| word(*byte) || *byte == b'.' || *byte == b'-')
        && !text.contains("..");
    if !fits {
        return Err(Fault::NotAName { name: text });
    }
    let folded = text.to_ascii_lowercase();
    if RESERVED.contains(&folded.as_str()) {
        return Err(Fault::Reserved { name: folded });
    }
    Ok(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> IamRole {
        IamRole::parse(Partition::Aws, "111122223333", "Web", "/team/").unwrap()
    }

    fn role(template: &str, iam_role: &IamRole) -> Result<RoleName, Fault> {
        let naming = Naming { role: template.into(), ..Naming::default() };
        RoleName::derive(&naming, Subject { iam_role, namespace: "team-a", name: "web.1" })
    }

    #[test]
    fn an_arn_has_the_path_or_not() {
        assert_eq!(web().arn(), "arn:aws:iam::111122223333:role/team/Web");
        assert_eq!(web().pathless_arn(), "arn:aws:iam::111122223333:role/Web");
        assert_eq!(web().directory(&Certificates::default()), "certs/111122223333/Web");
    }

    #[test]
    fn names_are_folded_as_vault_folds_them() {
        assert_eq!(role("{iamRole}", &web()).unwrap().as_str(), "web");
        assert_eq!(role("{account}-{iamRole}", &web()).unwrap().as_str(), "111122223333-web");
    }

    #[test]
    fn a_policy_is_named_after_its_role() {
        let naming = Naming::default();
        let iam_role = web();
        let subject = Subject { iam_role: &iam_role, namespace: "team-a", name: "web" };
        let role = RoleName::derive(&naming, subject).unwrap();
        let policy = PolicyName::derive(&naming, subject, &role).unwrap();
        assert_eq!(policy.as_str(), "vaultaws-web-policy");
    }

    #[test]
    fn two_free_texts_are_told_apart_by_a_full_stop_that_neither_contains() {
        assert!(matches!(role("{namespace}-{iamRole}", &web()), Err(Fault::Joint { .. })));
        assert!(role("{namespace}.{iamRole}", &web()).is_ok());
        assert!(matches!(role("{namespace}.{name}", &web()), Err(Fault::Separator { .. })));
        assert!(matches!(role("{namespace}{account}{iamRole}", &web()), Err(Fault::Joint { .. })));
    }

    #[test]
    fn what_vault_reserves_or_cannot_take_is_refused() {
        let named = |name| IamRole::parse(Partition::Aws, "111122223333", name, "/").unwrap();
        assert!(matches!(role("{iamRole}", &named("Root")), Err(Fault::Reserved { .. })));
        for bad in ["a@b", "a=b", "web-", ".web", "a..b"] {
            assert!(matches!(role("{iamRole}", &named(bad)), Err(Fault::NotAName { .. })), "{bad}");
        }
    }

    #[test]
    fn a_role_that_is_no_directory_is_refused() {
        for bad in ["", ".", "..", "../x", "+", "*", "a,b", "{{x}}", "a/b", "a\"b", "a\nb"] {
            assert_eq!(
                IamRole::parse(Partition::Aws, "111122223333", bad, "/"),
                Err(Fault::IamRole)
            );
        }
        for bad in ["11112222333", "1111222233334", "11112222333x", "１１１１２２２２３３３３"]
        {
            assert_eq!(
                IamRole::parse(Partition::Aws, bad, "web", "/"),
                Err(Fault::Account),
                "{bad}"
            );
        }
        for bad in ["", "team/", "/team", "//", "/../", "/a//b/"] {
            assert_eq!(
                IamRole::parse(Partition::Aws, "111122223333", "web", bad),
                Err(Fault::Path)
            );
        }
    }
}
