//! The text of the one policy that a role gets, and the mark of ownership on its first line.
//!
//! Vault keeps a policy's text to the letter and has neither owners nor compare-and-set. So the text
//! is deterministic, drift is a comparison of strings, and a comment says whose it is. A role has no
//! place for a comment: it is known by the marked policy that it names.

use std::fmt::{self, Write as _};

use sha2::{Digest, Sha256};

use crate::{
    crd::{CertificateAccess, Certificates, PathRule},
    naming::IamRole,
    vault::acl::strip_slash,
};

/// Begins each mark. Another version would be read by other rules, so it is nobody's we know.
const MARK: &str = "# vault-aws-operator v1";

/// Who owns a policy in Vault, as its first line says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Marker {
    /// The Kubernetes cluster: `status.clusterId` of the backend.
    pub cluster: String,
    /// Namespace of the VaultAwsRole.
    pub namespace: String,
    /// Name of the VaultAwsRole.
    pub name: String,
    /// Its UID. It informs people and proves nothing: a re-created resource is its own successor.
    pub uid: String,
    /// Path of the auth mount of the role that names the policy, without `auth/`.
    pub mount: String,
    /// Name of that role at the mount.
    pub role: String,
}

impl Marker {
    /// Reads the first line of a policy; `None` if it bears no mark of this version, to the letter.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.lines().next()?.strip_prefix(MARK)?.strip_prefix(' ')?.split(' ');
        let mut value = |key: &str| {
            let (name, value) = words.next()?.split_once('=')?;
            (name == key && !value.is_empty()).then(|| value.to_owned())
        };
        let (cluster, namespace, name) = (value("cluster")?, value("namespace")?, value("name")?);
        let (uid, path) = (value("uid")?, value("role")?);
        let (mount, role) = path.rsplit_once('/')?;
        let (mount, role) = (mount.to_owned(), role.to_owned());
        words.next().is_none().then_some(Self { cluster, namespace, name, uid, mount, role })
    }

    /// Whether both stand for the same resource and the same role in Vault.
    pub fn same_owner(&self, other: &Self) -> bool {
        self.cluster == other.cluster
            && self.namespace == other.namespace
            && self.name == other.name
            && self.mount == other.mount
            && self.role == other.role
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, namespace, name, uid, mount, role } = self;
        write!(
            f,
            "{MARK} cluster={cluster} namespace={namespace} name={name} uid={uid} role={mount}/{role}"
        )
    }
}

/// One path of a policy and what may be done there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// The path; a trailing `*` is a prefix.
    pub path: String,
    /// Vault's words.
    pub capabilities: Vec<&'static str>,
}

/// What an IAM role may do in its own directory.
///
/// The exact rule for the directory itself is there because Vault tries exact rules first when it
/// lists: the broader glob of another policy would win over our glob. Who writes may also delete
/// versions and take that back; destroying them, or all of an entry, is left to people.
pub fn rules(
    certificates: &Certificates,
    iam_role: &IamRole,
    access: CertificateAccess,
) -> Vec<Rule> {
    let (mount, directory) = (&certificates.mount, iam_role.directory(certificates));
    let rule = |operation: &str, rest: &str, capabilities: &[&'static str]| Rule {
        path: format!("{mount}/{operation}/{directory}/{rest}"),
        capabilities: capabilities.to_vec(),
    };
    let data: &[_] = match access {
        CertificateAccess::None => return Vec::new(),
        CertificateAccess::Read => &["read", "list"],
        CertificateAccess::ReadWrite => &["read", "list", "create", "update", "patch", "delete"],
    };
    let mut rules = vec![
        rule("data", "*", data),
        rule("metadata", "*", &["read", "list"]),
        rule("metadata", "", &["list"]),
    ];
    if access == CertificateAccess::ReadWrite {
        rules.extend(["delete", "undelete"].map(|operation| rule(operation, "*", &["update"])));
    }
    rules
}

/// Adds what a team asked for besides. A path stands in a policy once, with all that is allowed there.
pub fn add(rules: &mut Vec<Rule>, extras: &[PathRule]) {
    for PathRule { path, capabilities } in extras {
        let place = rules.iter().position(|rule| strip_slash(&rule.path) == strip_slash(path));
        let place = place.unwrap_or_else(|| {
            rules.push(Rule { path: path.clone(), capabilities: Vec::new() });
            rules.len() - 1
        });
        let Some(rule) = rules.get_mut(place) else { continue };
        for word in capabilities.iter().map(|capability| capability.as_str()) {
            if !rule.capabilities.contains(&word) {
                rule.capabilities.push(word);
            }
        }
    }
}

/// The policy in HCL. The same owner and rules give the same bytes.
pub fn text(marker: &Marker, rules: &[Rule]) -> String {
    let mut text = format!("{marker}\n");
    for rule in rules {
        let capabilities: Vec<String> =
            rule.capabilities.iter().map(|capability| quote(capability)).collect();
        text.push('\n');
        text.push_str(&format!("path {} {{\n", quote(&rule.path)));
        text.push_str(&format!("  capabilities = [{}]\n}}\n", capabilities.join(", ")));
    }
    text
}

/// SHA-256 of a policy's text, hexadecimal.
pub fn fingerprint(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A string of HCL. `$` is escaped by its number, because `${` begins an interpolation within which
/// quotes are not special, and HCL 1 knows no other escape for it.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '$' => quoted.push_str("\\u0024"),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crd::{Capability, Partition};

    fn marker() -> Marker {
        Marker {
            cluster: "prod-1".into(),
            namespace: "team-a".into(),
            name: "web".into(),
            uid: "5d1e".into(),
            mount: "teams/aws".into(),
            role: "web".into(),
        }
    }

    fn web() -> IamRole {
        IamRole::parse(Partition::Aws, "111122223333", "Web", "/").unwrap()
    }

    fn read_only() -> Vec<Rule> {
        rules(&Certificates::default(), &web(), CertificateAccess::Read)
    }

    fn lines(rules: &[Rule]) -> Vec<String> {
        let line = |rule: &Rule| format!("{}: {}", rule.path, rule.capabilities.join(" "));
        rules.iter().map(line).collect()
    }

    #[test]
    fn who_writes_never_destroys() {
        assert_eq!(
            lines(&rules(&Certificates::default(), &web(), CertificateAccess::ReadWrite)),
            [
                "secret/data/certs/111122223333/Web/*: read list create update patch delete",
                "secret/metadata/certs/111122223333/Web/*: read list",
                "secret/metadata/certs/111122223333/Web/: list",
                "secret/delete/certs/111122223333/Web/*: update",
                "secret/undelete/certs/111122223333/Web/*: update",
            ]
        );
    }

    #[test]
    fn without_certificates_there_are_only_the_extras() {
        let mut rules = rules(&Certificates::default(), &web(), CertificateAccess::None);
        assert!(rules.is_empty());
        let extra = |path: &str, capabilities: &[Capability]| PathRule {
            path: path.into(),
            capabilities: capabilities.to_vec(),
        };
        add(&mut rules, &[extra("pki/issue/web", &[Capability::Update, Capability::Update])]);
        assert_eq!(lines(&rules), ["pki/issue/web: update"]);
    }

    #[test]
    fn an_extra_on_a_path_of_ours_adds_to_its_rule() {
        let mut rules = read_only();
        let path = rules[1].path.clone();
        let capabilities = vec![Capability::List, Capability::Patch];
        add(&mut rules, &[PathRule { path, capabilities }]);
        assert_eq!(rules.len(), 3);
        assert_eq!(rules[1].capabilities, ["read", "list", "patch"]);
    }

    #[test]
    fn a_policy_is_a_mark_and_three_rules() {
        assert_eq!(
            text(&marker(), &read_only()),
            r#"# vault-aws-operator v1 cluster=prod-1 namespace=team-a name=web uid=5d1e role=teams/aws/web

path "secret/data/certs/111122223333/Web/*" {
  capabilities = ["read", "list"]
}

path "secret/metadata/certs/111122223333/Web/*" {
  capabilities = ["read", "list"]
}

path "secret/metadata/certs/111122223333/Web/" {
  capabilities = ["list"]
}
"#
        );
    }

    #[test]
    fn a_mark_is_read_from_the_first_line_of_a_policy() {
        let policy = text(&marker(), &read_only());
        assert_eq!(Marker::parse(&policy), Some(marker()));
    }

    #[test]
    fn what_is_not_a_mark_to_the_letter_is_none() {
        let mark = marker().to_string();
        for other in [
            String::new(),
            format!("\n{mark}"),
            mark.replace(" v1 ", " v2 "),
            mark.replace(" v1 ", " v10 "),
            mark.replace(" uid=5d1e", ""),
            mark.replace("uid=5d1e", "uid="),
            mark.replace("teams/aws/web", "web"),
            mark.replace("cluster=", "Cluster="),
            format!("{mark} more=x"),
            format!("{mark} "),
            mark.replace("# ", "#"),
        ] {
            assert_eq!(Marker::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn a_recreated_resource_is_its_own_successor() {
        assert!(marker().same_owner(&Marker { uid: "other".into(), ..marker() }));
    }

    #[test]
    fn another_cluster_namespace_name_mount_or_role_is_another_owner() {
        let other = || "other".to_owned();
        for stranger in [
            Marker { cluster: other(), ..marker() },
            Marker { namespace: other(), ..marker() },
            Marker { name: other(), ..marker() },
            Marker { mount: other(), ..marker() },
            Marker { role: other(), ..marker() },
        ] {
            assert!(!marker().same_owner(&stranger), "{stranger}");
        }
    }

    #[test]
    fn a_fingerprint_is_that_of_sha256() {
        assert_eq!(
            fingerprint("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    /// Reads a policy of ours as Vault's HCL 1 reader does, comments apart; `None` if it is not one.
    fn read(text: &str) -> Option<Vec<(String, Vec<String>)>> {
        let mut rest = text.split_once('\n')?.1.trim_start();
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (path, after) = string(rest.strip_prefix("path ")?)?;
            rest = after.strip_prefix(" {\n  capabilities = [")?;
            let mut capabilities = Vec::new();
            loop {
                let (capability, after) = string(rest)?;
                capabilities.push(capability);
                match after.strip_prefix(", ") {
                    Some(more) => rest = more,
                    None => {
                        rest = after.strip_prefix("]\n}\n")?.trim_start();
                        break;
                    }
                }
            }
            found.push((path, capabilities));
        }
        Some(found)
    }

    /// One HCL string and what follows it. An interpolation or a raw line break is not a string of ours.
    fn string(text: &str) -> Option<(String, &str)> {
        let mut rest = text.strip_prefix('"')?;
        let mut value = String::new();
        loop {
            let character = rest.chars().next()?;
            rest = &rest[character.len_utf8()..];
            match character {
                '"' => return Some((value, rest)),
                '\\' => {
                    let (escaped, length) = match rest.chars().next()? {
                        'u' => {
                            let number = u32::from_str_radix(rest.get(1..5)?, 16).ok()?;
                            (char::from_u32(number)?, 5)
                        }
                        plain @ ('"' | '\\') => (plain, 1),
                        _ => return None,
                    };
                    value.push(escaped);
                    rest = &rest[length..];
                }
                '$' if rest.starts_with('{') => return None,
                control if control.is_control() => return None,
                other => value.push(other),
            }
        }
    }

    proptest! {
        #[test]
        fn a_policy_reads_back_as_the_rules_that_were_meant(
            account in "[0-9]{12}",
            name in "[A-Za-z0-9_=@-][A-Za-z0-9_=.@-]{0,63}",
            base_path in "[A-Za-z0-9_-]{1,8}(/[A-Za-z0-9_-]{1,8}){0,3}",
            mount in "[A-Za-z0-9_-]{1,8}(/[A-Za-z0-9_-]{1,8}){0,3}",
        ) {
            let iam_role = IamRole::parse(Partition::Aws, &account, &name, "/").unwrap();
            let certificates = Certificates { mount: mount.clone(), base_path: base_path.clone() };
            let written = text(&marker(), &rules(&certificates, &iam_role, CertificateAccess::Read));
            let both = vec!["read".to_owned(), "list".to_owned()];
            let own = format!("{base_path}/{account}/{name}/");
            prop_assert_eq!(read(&written), Some(vec![
                (format!("{mount}/data/{own}*"), both.clone()),
                (format!("{mount}/metadata/{own}*"), both),
                (format!("{mount}/metadata/{own}"), vec!["list".to_owned()]),
            ]));
        }

        #[test]
        fn no_path_whatever_it_holds_becomes_another_rule(
            paths in prop::collection::vec(any::<String>(), 0..4)
        ) {
            let rules: Vec<Rule> = paths
                .iter()
                .map(|path| Rule { path: path.clone(), capabilities: vec!["read"] })
                .collect();
            let meant = paths.iter().map(|path| (path.clone(), vec!["read".to_owned()])).collect();
            prop_assert_eq!(read(&text(&marker(), &rules)), Some(meant));
        }
    }
}
