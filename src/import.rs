//! What stands in Vault, as manifests that change nothing when they are applied. Pure.
//!
//! A role that was made by hand, by a script or by Terraform is read back by Vault in one form. From it a
//! VaultAwsRole is drafted ([`draft`]), and the draft is put before the judge that will decide in the
//! cluster: what the controller would write for it is compared with what is there. So a manifest is
//! printed only if the controller, asked to adopt what is equal, would adopt; and whatever would have to
//! be written is the reason why there is none.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use serde_json::{Map, Value, json};

use crate::{
    crd::{TenancyRule, VaultAwsBackend, VaultAwsBackendSpec, VaultAwsRole},
    fault::chain,
    role::{
        adopt,
        desired::{Desired, Names, Refusal},
        observe::Observed,
        policy::Marker,
    },
    tenancy,
    vault::aws_auth::Role,
};

pub mod draft;
pub mod orphans;
pub mod yaml;

use draft::Draft;

/// A role as it stands in Vault, with the texts of the policies that it names.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its name at the mount.
    pub name: String,
    /// Its fields.
    pub role: Role,
    /// Policies by name, as Vault folds it; `None` where there is none.
    pub policies: BTreeMap<String, Option<String>>,
}

impl Found {
    /// Names of the policies that a role carries, as Vault folds them. The old key is read back under
    /// the new one.
    pub fn policy_names(role: &Role) -> BTreeSet<String> {
        role.token_policies.iter().map(|name| name.trim().to_ascii_lowercase()).collect()
    }

    /// The mark of a resource that keeps this role already.
    fn marker(&self, mount: &str) -> Option<Marker> {
        let markers = self.policies.values().flatten().filter_map(|text| Marker::parse(text));
        markers
            .into_iter()
            .find(|marker| marker.mount == mount && marker.role.eq_ignore_ascii_case(&self.name))
    }
}

/// What becomes of a role.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// A manifest.
    Manifest {
        /// The VaultAwsRole.
        resource: Box<Value>,
        /// What has to be granted first, and what the manifest does not say.
        remarks: Vec<String>,
    },
    /// It bears the mark of a VaultAwsRole already.
    Managed(Box<Marker>),
    /// No manifest can say it, and why.
    Left(Vec<String>),
}

/// Where manifests belong.
#[derive(Debug)]
pub struct Target<'a> {
    backend: &'a VaultAwsBackend,
    /// `None`: the one that a tenancy rule names for the IAM role.
    namespace: Option<&'a str>,
    /// Names that are taken, by namespace.
    taken: BTreeSet<(String, String)>,
}

impl<'a> Target<'a> {
    /// `namespace` is that of all manifests; without it, each lies where a tenancy rule of the backend
    /// says by name.
    pub fn new(backend: &'a VaultAwsBackend, namespace: Option<&'a str>) -> Self {
        Self { backend, namespace, taken: BTreeSet::new() }
    }

    /// Judges one role.
    pub fn import(&mut self, found: &Found) -> Verdict {
        if let Some(marker) = found.marker(&self.backend.spec.auth.mount) {
            return Verdict::Managed(Box::new(marker));
        }
        match self.manifest(found) {
            Ok((resource, remarks)) => Verdict::Manifest { resource: Box::new(resource), remarks },
            Err(reasons) => Verdict::Left(reasons),
        }
    }

    fn manifest(&mut self, found: &Found) -> Result<(Value, Vec<String>), Vec<String>> {
        let spec = &self.backend.spec;
        let mut draft = Draft::of(found, spec)?;
        let namespace = match self.namespace {
            Some(namespace) => namespace.to_owned(),
            None => self.tenant(&draft).map_err(|reason| vec![reason])?,
        };
        let name = self.free_name(&namespace, &draft);
        if let Some(backend) = self.backend.metadata.name.as_deref()
            && backend != "default"
        {
            draft.spec.insert("backendRef".into(), json!({"name": backend}));
        }
        let written = |draft: &Draft| {
            json!({
                "apiVersion": "vaultaws.dev/v1alpha1",
                "kind": "VaultAwsRole",
                "metadata": {"name": name, "namespace": namespace},
                "spec": draft.spec,
            })
        };
        let names = names(&written(&draft), spec)?;
        if !names.role.eq_ignore_ascii_case(&found.name) {
            draft.spec.insert("vaultName".into(), found.name.clone().into());
        }
        let names = self::names(&written(&draft), spec)?;
        let text = own_policy(found, &names, spec)?;
        let policy = draft::policy(text, &spec.certificates, &draft)?;
        if !policy.is_empty() {
            draft.spec.insert("policy".into(), policy.into());
        }
        let mut more = Found::policy_names(&found.role);
        more.remove(&names.policy);
        if !more.is_empty() {
            let token = draft.spec.entry("token").or_insert_with(|| Map::new().into());
            token["additionalPolicies"] = more.into_iter().collect();
        }
        let resource = written(&draft);
        let remarks = self.judge(&resource, found, text)?;
        self.taken.insert((namespace.clone(), name.clone()));
        Ok((resource, remarks))
    }

    /// The one namespace that tenancy rules name for the draft's IAM role.
    fn tenant(&self, draft: &Draft) -> Result<String, String> {
        let Draft { account, kind, iam, .. } = draft;
        let rules = &self.backend.spec.tenancy;
        let namespaces: BTreeSet<&String> = rules
            .iter()
            .filter(|rule| grants(rule, draft))
            .flat_map(|rule| rule.namespaces.names.iter().flatten())
            .collect();
        let what = format!("IAM {kind} `{iam}` of account {account}");
        let mut all = namespaces.into_iter();
        match (all.next(), all.next()) {
            (Some(namespace), None) => Ok(namespace.clone()),
            (None, _) => {
                Err(format!("no tenancy rule names a namespace for {what}: give one with -n"))
            }
            (Some(one), Some(other)) => Err(format!(
                "tenancy rules name several namespaces for {what}, such as {one} and {other}: choose \
                 with -n"
            )),
        }
    }

    /// A name of the resource that no other of its namespace has.
    fn free_name(&self, namespace: &str, draft: &Draft) -> String {
        let plain = resource_name(&draft.iam);
        let longer = resource_name(&format!("{}-{}", draft.account, draft.iam));
        let numbered = (2..).map(|number| format!("{}-{number}", &longer[..longer.len().min(50)]));
        [plain, longer.clone()]
            .into_iter()
            .chain(numbered)
            .find(|name| !self.taken.contains(&(namespace.to_owned(), name.clone())))
            .unwrap_or_default()
    }

    /// Whether the controller would adopt without a write, were it allowed everything; and what it is
    /// not allowed yet.
    fn judge(
        &self,
        resource: &Value,
        found: &Found,
        text: &str,
    ) -> Result<Vec<String>, Vec<String>> {
        let typed = typed(resource)?;
        let namespace = typed.namespace().unwrap_or_default();
        let mut allowing = self.backend.clone();
        allowing.spec.tenancy = vec![everything(&typed, resource).map_err(|what| vec![what])?];
        let labels = BTreeMap::new();
        let desired = Desired::parse(&typed, &allowing, &labels, "import")
            .map_err(|refusal| vec![chain(&refusal)])?;
        let observed = Observed { role: Some(found.role.clone()), policy: Some(text.to_owned()) };
        let named: Vec<Marker> =
            found.policies.values().flatten().filter_map(|text| Marker::parse(text)).collect();
        adopt::judge(&desired, &observed, &named)
            .map_err(|why| vec![format!("it would not be adopted: {why}")])?;
        Ok(match Desired::parse(&typed, self.backend, &labels, "import") {
            Ok(_) => Vec::new(),
            Err(Refusal::Tenancy(denied)) => {
                vec![format!("to be granted first, in namespace {namespace}: {denied}")]
            }
            Err(refusal) => vec![chain(&refusal)],
        })
    }
}

fn typed(resource: &Value) -> Result<VaultAwsRole, Vec<String>> {
    serde_json::from_value(resource.clone()).map_err(|error| vec![error.to_string()])
}

fn names(resource: &Value, backend: &VaultAwsBackendSpec) -> Result<Names, Vec<String>> {
    Names::derive(&typed(resource)?, backend).map_err(|fault| vec![fault.to_string()])
}

/// The text of the policy that the backend's naming gives the role.
fn own_policy<'a>(
    found: &'a Found,
    names: &Names,
    backend: &VaultAwsBackendSpec,
) -> Result<&'a str, Vec<String>> {
    if let Some(Some(text)) = found.policies.get(&names.policy) {
        return Ok(text);
    }
    let carried: Vec<&str> = found.policies.keys().map(String::as_str).collect();
    let carried = if carried.is_empty() { "no policy".to_owned() } else { carried.join(", ") };
    let template = &backend.naming.policy;
    let mut reason = format!(
        "it carries {carried}, but naming.policy `{template}` makes its policy `{}`",
        names.policy
    );
    if found.policies.contains_key(&names.policy) {
        reason = format!("its policy `{}` does not exist", names.policy);
    } else if let Some(fitting) = fitting_template(found, &names.role) {
        reason.push_str(&format!("; a backend with naming.policy `{fitting}` could take it"));
    }
    Err(vec![reason])
}

/// A naming template that gives the role a policy that it carries.
fn fitting_template(found: &Found, role: &str) -> Option<String> {
    let fits = |template: &String| template.find("{role}").is_some_and(|at| at >= 4);
    found
        .policies
        .keys()
        .filter(|policy| policy.contains(role))
        .map(|policy| policy.replacen(role, "{role}", 1))
        .find(fits)
}

/// A rule that grants all that the resource asks for.
fn everything(typed: &VaultAwsRole, resource: &Value) -> Result<TenancyRule, String> {
    let spec = &resource["spec"];
    let list = |value: &Value| if value.is_array() { value.clone() } else { json!([]) };
    let rule = json!({
        "name": "import",
        "namespaces": {"names": [typed.namespace().unwrap_or_default()]},
        "accounts": [typed.spec.account_id],
        "iamRoles": ["*"],
        "iamUsers": ["*"],
        "authTypes": ["iam", "ec2"],
        "allowInference": true,
        "allowWildcardPrincipals": true,
        "names": ["*"],
        "adopt": "Always",
        "additionalPolicies": list(&spec["token"]["additionalPolicies"]),
        "extraRules": list(&spec["policy"]["extraRules"]),
    });
    serde_json::from_value(rule).map_err(|error| error.to_string())
}

/// Whether a rule grants the draft's IAM role or user, in some namespace.
fn grants(rule: &TenancyRule, draft: &Draft) -> bool {
    let patterns = if draft.kind == "user" { &rule.iam_users } else { &rule.iam_roles };
    rule.accounts.contains(&draft.account)
        && patterns.iter().any(|pattern| tenancy::matches(pattern, &draft.iam))
}

/// A name for a resource: that of the IAM role as far as Kubernetes takes it.
fn resource_name(text: &str) -> String {
    let kept: String = text
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let kept = &kept[..kept.len().min(63)];
    let name = kept.trim_matches('-');
    if name.is_empty() { "role".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests;
