//! From the fields of a role in Vault to the spec of a VaultAwsRole, field by field.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Found;
use crate::{
    crd::{Certificates, Span, VaultAwsBackendSpec},
    vault::{
        acl::{Capabilities, Policy},
        aws_auth::Role,
    },
};

/// A spec to be judged, and of whom it speaks.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The spec, without name and policies.
    pub spec: Map<String, Value>,
    /// Twelve digits.
    pub account: String,
    /// `role` or `user`.
    pub kind: String,
    /// Friendly name of the IAM role or user.
    pub iam: String,
}

/// An IAM principal as Vault binds it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Principal<'a> {
    arn: &'a str,
    partition: &'a str,
    account: &'a str,
    kind: &'a str,
    /// `/` or `/a/b/`.
    path: String,
    name: &'a str,
}

impl<'a> Principal<'a> {
    fn parse(arn: &'a str) -> Option<Self> {
        let mut parts = arn.trim().splitn(6, ':');
        let ("arn", partition, "iam", "") =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?)
        else {
            return None;
        };
        let (account, resource) = (parts.next()?, parts.next()?);
        let (kind, rest) = resource.split_once('/')?;
        let (path, name) = match rest.rsplit_once('/') {
            Some((path, name)) => (format!("/{path}/"), name),
            None => ("/".to_owned(), rest),
        };
        let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        (is_account && matches!(kind, "role" | "user") && !name.is_empty()).then_some(Self {
            arn: arn.trim(),
            partition,
            account,
            kind,
            path,
            name,
        })
    }

    fn is_wildcard(&self) -> bool {
        self.arn.ends_with('*')
    }
}

impl Draft {
    /// Drafts what a role's fields say.
    ///
    /// # Errors
    /// What of it no VaultAwsRole can say.
    pub fn of(found: &Found, backend: &VaultAwsBackendSpec) -> Result<Self, Vec<String>> {
        let role = &found.role;
        let mut reasons = unsaid(role);
        let directories = directories(found, &backend.certificates);
        let mut spec = Map::new();
        let identity = match role.auth_type.as_str() {
            "iam" => of_iam(role, &found.name, &directories, backend, &mut spec),
            "ec2" => of_ec2(role, &found.name, &directories, &mut spec),
            other => Err(format!("its auth_type `{other}` is neither iam nor ec2")),
        };
        binds(role, &mut spec);
        match token(role) {
            Ok(token) if token.is_empty() => {}
            Ok(token) => {
                spec.insert("token".into(), token.into());
            }
            Err(reason) => reasons.push(reason),
        }
        spec.insert("adopt".into(), "IfEqual".into());
        match identity {
            Ok((account, kind, iam)) if reasons.is_empty() => {
                spec.insert("accountId".into(), account.clone().into());
                let field = if kind == "user" { "iamUser" } else { "iamRole" };
                spec.insert(field.into(), iam.clone().into());
                Ok(Self { spec, account, kind, iam })
            }
            Ok(_) => Err(reasons),
            Err(reason) => {
                reasons.insert(0, reason);
                Err(reasons)
            }
        }
    }
}

/// Account, kind and friendly name.
type Identity = Result<(String, String, String), String>;

fn of_iam(
    role: &Role,
    name: &str,
    directories: &BTreeSet<(String, String)>,
    backend: &VaultAwsBackendSpec,
    spec: &mut Map<String, Value>,
) -> Identity {
    let arns = &role.bound_iam_principal_arn;
    let principals: Option<Vec<Principal<'_>>> =
        arns.iter().map(|arn| Principal::parse(arn)).collect();
    let Some(principals) = principals else {
        let odd: Vec<&str> =
            arns.iter().filter(|arn| Principal::parse(arn).is_none()).map(String::as_str).collect();
        return Err(format!("it binds what is no IAM role or user: {}", odd.join(", ")));
    };
    let Some(first) = principals.first() else {
        return Err("it binds no IAM principal".to_owned());
    };
    if principals
        .iter()
        .any(|other| (other.account, other.partition) != (first.account, first.partition))
    {
        return Err(
            "it binds principals of several accounts, and a VaultAwsRole is about one; make one \
                    for each account"
                .to_owned(),
        );
    }
    if first.partition != "aws" {
        spec.insert("partition".into(), first.partition.into());
    }
    let unique_ids = role.resolve_aws_unique_ids;
    if unique_ids != backend.auth.resolve_aws_unique_ids {
        spec.insert("resolveAwsUniqueIds".into(), unique_ids.into());
    }
    if !role.inferred_entity_type.is_empty() {
        spec.insert("inference".into(), json!({"region": role.inferred_aws_region}));
    }
    // Whose directory it is says its policy; else the one whom it is named after.
    let own = |principal: &&Principal<'_>| {
        directories.contains(&(principal.account.to_owned(), principal.name.to_owned()))
    };
    let named = |principal: &&Principal<'_>| principal.name.eq_ignore_ascii_case(name);
    let plain = || principals.iter().filter(|principal| !principal.is_wildcard());
    let subject = plain().find(own).or_else(|| plain().find(named)).or_else(|| plain().next());
    let (kind, iam) =
        match (subject, directories.iter().find(|(account, _)| account == first.account)) {
            (Some(subject), _) => (subject.kind, subject.name.to_owned()),
            (None, Some((_, directory))) => (first.kind, directory.clone()),
            (None, None) => {
                return Err(
                "it binds wildcards only, and no policy of it opens a directory of certificates: \
                        whose it is cannot be told"
                    .to_owned(),
            );
            }
        };
    match principals.as_slice() {
        [one] if !one.is_wildcard() && (unique_ids || one.path == "/") => {
            if one.path != "/" {
                spec.insert("iamRolePath".into(), one.path.clone().into());
            }
        }
        all => {
            let arns: Vec<&str> = all.iter().map(|principal| principal.arn).collect();
            spec.insert("principals".into(), arns.into());
        }
    }
    Ok((first.account.to_owned(), kind.to_owned(), iam))
}

fn of_ec2(
    role: &Role,
    name: &str,
    directories: &BTreeSet<(String, String)>,
    spec: &mut Map<String, Value>,
) -> Identity {
    let [account] = role.bound_account_id.as_slice() else {
        return Err("an ec2 role has to bind exactly one account (bound_account_id)".to_owned());
    };
    spec.insert("authType".into(), "ec2".into());
    let own = directories.iter().find(|(directory, _)| directory == account);
    let iam = own.map_or_else(|| name.to_owned(), |(_, iam)| iam.clone());
    Ok((account.clone(), "role".to_owned(), iam))
}

/// The binds of EC2 instances, for both auth types.
fn binds(role: &Role, spec: &mut Map<String, Value>) {
    let binds: Map<String, Value> = [
        ("amiIds", &role.bound_ami_id),
        ("vpcIds", &role.bound_vpc_id),
        ("subnetIds", &role.bound_subnet_id),
        ("regions", &role.bound_region),
        ("iamRoleArns", &role.bound_iam_role_arn),
        ("instanceProfileArns", &role.bound_iam_instance_profile_arn),
        ("instanceIds", &role.bound_ec2_instance_id),
    ]
    .into_iter()
    .filter(|(_, values)| !values.is_empty())
    .map(|(field, values)| (field.to_owned(), values.clone().into()))
    .collect();
    if !binds.is_empty() {
        spec.insert("ec2".into(), binds.into());
    }
}

/// What its tokens are like, apart from their policies. The old keys are read back under the new ones.
fn token(role: &Role) -> Result<Map<String, Value>, String> {
    let mut token = Map::new();
    for (field, seconds) in [
        ("ttl", role.token_ttl),
        ("maxTtl", role.token_max_ttl),
        ("period", role.token_period),
        ("explicitMaxTtl", role.token_explicit_max_ttl),
    ] {
        if seconds > 0 {
            token.insert(field.into(), Span::seconds(seconds).to_string().into());
        }
    }
    if role.token_num_uses > 0 {
        token.insert("numUses".into(), role.token_num_uses.into());
    }
    match role.token_type.as_str() {
        "" | "default" => {}
        kind @ ("service" | "batch") => {
            token.insert("type".into(), kind.into());
        }
        other => {
            return Err(format!("its token_type `{other}` is an old one; write service or batch"));
        }
    }
    if !role.token_bound_cidrs.is_empty() {
        token.insert("boundCidrs".into(), role.token_bound_cidrs.clone().into());
    }
    if role.token_no_default_policy {
        token.insert("noDefaultPolicy".into(), true.into());
    }
    Ok(token)
}

/// Settings that no VaultAwsRole has.
fn unsaid(role: &Role) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut set = |field: &str, is_set: bool| {
        if is_set {
            reasons.push(format!("a VaultAwsRole has no {field}"));
        }
    };
    set("role_tag", !role.role_tag.is_empty());
    set("allow_instance_migration", role.allow_instance_migration);
    set("disallow_reauthentication", role.disallow_reauthentication);
    for (field, value) in &role.unknown {
        let is_empty = match value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
        };
        set(field, !is_empty);
    }
    reasons
}

/// The directories of certificates, account and name, that a role's policies open.
fn directories(found: &Found, certificates: &Certificates) -> BTreeSet<(String, String)> {
    let Certificates { mount, base_path } = certificates;
    let prefixes = ["data", "metadata"].map(|part| format!("{mount}/{part}/{base_path}/"));
    found
        .policies
        .values()
        .flatten()
        .filter_map(|text| Policy::parse(text).ok())
        .flat_map(|policy| policy.rules)
        .filter(|rule| !rule.capabilities.granted().is_empty())
        .filter_map(|rule| {
            let path = rule.path.trim_start_matches('/');
            let rest = prefixes.iter().find_map(|prefix| path.strip_prefix(prefix.as_str()))?;
            let (account, rest) = rest.split_once('/')?;
            let (name, _) = rest.split_once('/')?;
            Some((account.to_owned(), name.to_owned()))
        })
        .collect()
}

/// What an existing policy opens: access to the directory, and other paths.
///
/// # Errors
/// What of it no VaultAwsRole can say.
pub fn policy(
    text: &str,
    certificates: &Certificates,
    draft: &Draft,
) -> Result<Map<String, Value>, Vec<String>> {
    let Certificates { mount, base_path } = certificates;
    let policy = Policy::parse(text).map_err(|error| vec![format!("its policy: {error}")])?;
    let mut reasons: Vec<String> = policy
        .unknown()
        .map(|key| format!("its policy holds `{key}`, which is not known"))
        .collect();
    let own = |part: &str| format!("{mount}/{part}/{base_path}/{}/{}/", draft.account, draft.iam);
    let (mut reads, mut writes) = (false, false);
    let mut extras: BTreeMap<String, Capabilities> = BTreeMap::new();
    for rule in &policy.rules {
        let path = rule.path.trim_start_matches('/');
        if rule.templated || rule.expires || rule.narrowed {
            reasons.push(format!(
                "its policy's rule for `{path}` has a template, parameters or an end, which a \
                 VaultAwsRole has not"
            ));
        } else if rule.capabilities == Capabilities::DENY {
            reasons.push(format!("its policy denies `{path}`, which a VaultAwsRole does not say"));
        } else if ["data", "metadata"].iter().any(|part| path.starts_with(&own(part))) {
            reads = true;
            let write = Capabilities::CREATE
                .union(Capabilities::UPDATE)
                .union(Capabilities::PATCH)
                .union(Capabilities::DELETE);
            writes |= !rule.capabilities.intersection(write).is_empty();
        } else if ["delete", "undelete"].iter().any(|part| path.starts_with(&own(part))) {
            (reads, writes) = (true, true);
        } else {
            let all = extras.entry(path.to_owned()).or_default();
            *all = all.union(rule.capabilities);
        }
    }
    if !reasons.is_empty() {
        return Err(reasons);
    }
    let mut spec = Map::new();
    match (reads, writes) {
        (true, false) => {}
        (_, true) => drop(spec.insert("certificates".into(), "ReadWrite".into())),
        (false, false) => drop(spec.insert("certificates".into(), "None".into())),
    }
    if !extras.is_empty() {
        let rules: Vec<Value> = extras
            .iter()
            .map(|(path, capabilities)| json!({"path": path, "capabilities": capabilities.words()}))
            .collect();
        spec.insert("extraRules".into(), rules.into());
    }
    Ok(spec)
}
