//! Who may log in: the ARNs that a role binds, and whether they are still whom Vault knows. Pure.
//!
//! What Vault does with an ARN depends on whether it resolves unique IDs. If it does, it looks the last
//! part of the path up and binds to the ID. If it does not, it compares the text with the ARN of the
//! session, which has lost the path: a bound ARN with a path would never match.

use std::collections::BTreeSet;

use crate::{
    controller::pass::Verdict,
    crd::{IamKind, Partition, RoleReason, VaultAwsRoleSpec},
    naming::{self, IamRole},
    tenancy::Names,
    vault::aws_auth::Role,
};

/// The condition that says whether the bound IAM principal is still the one.
pub const PRINCIPAL_CURRENT: &str = "PrincipalCurrent";

/// One of `spec.principals`, in the account and partition of its resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Principal {
    /// A role or user.
    One(IamRole),
    /// All whose full ARN begins so.
    Prefix {
        /// The ARN up to the `*`.
        arn: String,
        /// Roles or users.
        kind: IamKind,
        /// What their friendly names begin with. A path can come before it, so this may be empty.
        name: String,
    },
}

/// Why there is no such principal.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// It is in another account or partition, or is neither a role nor a user.
    #[error("`{arn}` is no role or user of account {account} in partition {partition}")]
    Elsewhere {
        /// The ARN.
        arn: String,
        /// The account of the resource.
        account: String,
        /// Its partition.
        partition: Partition,
    },
    /// Its path or name is none of IAM's.
    #[error("`{arn}`")]
    Name {
        /// The ARN.
        arn: String,
        /// What is wrong with it.
        source: naming::Fault,
    },
}

impl Principal {
    /// Reads an ARN; a trailing `*` makes it a prefix.
    ///
    /// # Errors
    /// [`Fault`] where it is none that may be bound for this account.
    pub fn parse(arn: &str, partition: Partition, account: &str) -> Result<Self, Fault> {
        let elsewhere =
            || Fault::Elsewhere { arn: arn.to_owned(), account: account.to_owned(), partition };
        let rest =
            arn.strip_prefix(&format!("arn:{partition}:iam::{account}:")).ok_or_else(elsewhere)?;
        let kind = [IamKind::Role, IamKind::User];
        let (kind, rest) = kind
            .into_iter()
            .find_map(|kind| Some((kind, rest.strip_prefix(kind.as_str())?)))
            .filter(|(_, rest)| rest.starts_with('/'))
            .ok_or_else(elsewhere)?;
        let (name, is_prefix) = match rest.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (rest, false),
        };
        let at = name.rfind('/').map_or(0, |slash| slash + 1);
        let (path, name) = name.split_at(at);
        // A prefix may end with a slash: then any name fits, and one is put in to check the path.
        let checked = if is_prefix && name.is_empty() { "any" } else { name };
        let one = IamRole::parse(partition, account, checked, path)
            .map_err(|source| Fault::Name { arn: arn.to_owned(), source })?;
        Ok(if is_prefix {
            let arn = arn.trim_end_matches('*').to_owned();
            Self::Prefix { arn, kind, name: name.to_owned() }
        } else {
            Self::One(IamRole { kind, ..one })
        })
    }

    /// What a tenancy rule has to grant.
    pub fn names(&self) -> Names {
        match self {
            Self::One(one) => Names { kind: one.kind, name: one.name.clone(), is_prefix: false },
            Self::Prefix { kind, name, .. } => {
                Names { kind: *kind, name: name.clone(), is_prefix: true }
            }
        }
    }

    /// As Vault has to have it.
    pub fn bound(&self, unique_ids: bool) -> String {
        match self {
            Self::One(one) if unique_ids => one.arn(),
            Self::One(one) => one.pathless_arn(),
            Self::Prefix { arn, .. } => format!("{arn}*"),
        }
    }
}

/// All of `spec.principals`.
///
/// # Errors
/// As [`Principal::parse`].
pub fn principals(spec: &VaultAwsRoleSpec) -> Result<Vec<Principal>, Fault> {
    let parse = |arn: &String| Principal::parse(arn, spec.partition, &spec.account_id);
    spec.principals.iter().map(parse).collect()
}

/// What logins told: the operator's own, and those of the VaultCertSyncs that use the role. Each is
/// named in words, such as "VaultCertSync `web`".
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Logins {
    /// One that works now.
    pub good: Option<String>,
    /// One that Vault refused, because the principal does not belong to the role.
    pub refused: Option<String>,
}

/// The condition `PrincipalCurrent`; `None` where no unique IDs are bound, so that any principal of
/// the name is the one.
pub fn current(role: &Role, logins: &Logins) -> Option<Verdict> {
    if role.auth_type != "iam" || !role.resolve_aws_unique_ids {
        return None;
    }
    let arns: BTreeSet<&String> =
        role.bound_iam_principal_arn.iter().filter(|arn| !arn.ends_with('*')).collect();
    let ids: BTreeSet<&String> = role.bound_iam_principal_id.iter().collect();
    Some(if ids.len() != arns.len() || ids.len() != role.bound_iam_principal_id.len() {
        Verdict::no(
            PRINCIPAL_CURRENT,
            RoleReason::PrincipalIdsUnclear.as_str(),
            format!(
                "Vault has {} unique IDs for {} ARNs: it may have asked another account",
                ids.len(),
                arns.len()
            ),
        )
    } else if let Some(who) = &logins.refused {
        Verdict::no(
            PRINCIPAL_CURRENT,
            RoleReason::PrincipalMismatch.as_str(),
            format!(
                "Vault says that the principal of {who} does not belong to the role; \
                 if its IAM role was created again, the annotation vaultaws.dev/rebind binds it"
            ),
        )
    } else if let Some(who) = &logins.good {
        let message = format!("{who} logs in");
        Verdict::yes(PRINCIPAL_CURRENT, RoleReason::LoginSeen.as_str(), message)
    } else {
        let message = "no login was seen yet";
        Verdict::unknown(PRINCIPAL_CURRENT, RoleReason::NoLoginSeen.as_str(), message)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::role::plan::tests::role;

    const ACCOUNT: &str = "111122223333";

    fn parse(rest: &str) -> Result<Principal, Fault> {
        Principal::parse(&format!("arn:aws:iam::{ACCOUNT}:{rest}"), Partition::Aws, ACCOUNT)
    }

    #[test]
    fn an_arn_is_bound_with_its_path_only_with_unique_ids() {
        let principal = parse("role/team/x/Web").unwrap();
        assert_eq!(principal.bound(true), "arn:aws:iam::111122223333:role/team/x/Web");
        assert_eq!(principal.bound(false), "arn:aws:iam::111122223333:role/Web");
        assert_eq!(principal.names().to_string(), "IAM role `Web`");
        assert_eq!(
            parse("user/ops/ada").unwrap().bound(false),
            "arn:aws:iam::111122223333:user/ada"
        );
    }

    #[test]
    fn a_prefix_is_bound_as_it_is_and_may_mean_any_name_behind_a_path() {
        for (rest, names) in [
            ("role/api-*", "IAM roles `api-*`"),
            ("role/team/*", "IAM roles `*`"),
            ("role/*", "IAM roles `*`"),
            ("user/team/a*", "IAM users `a*`"),
        ] {
            let principal = parse(rest).unwrap();
            assert_eq!(principal.names().to_string(), names);
            for unique_ids in [true, false] {
                assert_eq!(principal.bound(unique_ids), format!("arn:aws:iam::{ACCOUNT}:{rest}"));
            }
        }
    }

    #[test]
    fn what_is_elsewhere_or_nobody_is_refused() {
        for arn in [
            "arn:aws:iam::444455556666:role/web",
            "arn:aws-cn:iam::111122223333:role/web",
            "arn:aws:sts::111122223333:assumed-role/web/x",
            "arn:aws:iam::111122223333:root",
            "arn:aws:iam::111122223333:group/web",
            "arn:aws:iam::111122223333:roles/web",
            "arn:aws:iam::111122223333:role",
            "*",
            "",
        ] {
            let fault = Principal::parse(arn, Partition::Aws, ACCOUNT).unwrap_err();
            assert!(matches!(fault, Fault::Elsewhere { .. }), "{arn}: {fault}");
        }
        for rest in
            ["role/", "role/a//b", "role/a*b", "role/**", "role/a,b", "role/..", "role/a b*"]
        {
            let fault = parse(rest).unwrap_err();
            assert!(matches!(fault, Fault::Name { .. }), "{rest}: {fault}");
        }
    }

    fn told(in_vault: serde_json::Value, logins: Logins) -> Option<(Option<bool>, &'static str)> {
        current(&role(in_vault), &logins).map(|verdict| (verdict.holds, verdict.reason))
    }

    fn unique(ids: &[&str]) -> serde_json::Value {
        json!({"resolve_aws_unique_ids": true, "bound_iam_principal_id": ids})
    }

    #[test]
    fn without_unique_ids_there_is_nothing_to_be_current() {
        assert_eq!(told(json!({}), Logins::default()), None);
        assert_eq!(told(json!({"auth_type": "ec2"}), Logins::default()), None);
    }

    #[test]
    fn logins_say_whether_the_principal_is_current() {
        let good = Some("web".to_owned());
        let refused = Some("other".to_owned());
        let none = Logins::default();
        assert_eq!(told(unique(&["AROA1"]), none), Some((None, "NoLoginSeen")));
        let seen = Logins { good: good.clone(), refused: None };
        assert_eq!(told(unique(&["AROA1"]), seen), Some((Some(true), "LoginSeen")));
        let both = Logins { good, refused };
        assert_eq!(told(unique(&["AROA1"]), both), Some((Some(false), "PrincipalMismatch")));
    }

    #[test]
    fn there_is_one_id_for_each_arn_that_is_no_prefix() {
        let with = |arns: &[&str], ids: &[&str]| {
            let arns: Vec<String> =
                arns.iter().map(|name| format!("arn:aws:iam::{ACCOUNT}:role/{name}")).collect();
            let mut in_vault = unique(ids);
            in_vault["bound_iam_principal_arn"] = json!(arns);
            told(in_vault, Logins::default()).unwrap().1
        };
        assert_eq!(with(&["web", "api"], &["AROA1", "AROA2"]), "NoLoginSeen");
        assert_eq!(with(&["web", "api-*"], &["AROA1"]), "NoLoginSeen");
        for ids in [&["AROA1", "AROA1"][..], &["AROA1"], &[]] {
            assert_eq!(with(&["web", "api"], ids), "PrincipalIdsUnclear", "{ids:?}");
        }
    }
}
