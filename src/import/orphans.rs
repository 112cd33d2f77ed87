//! Policies that bear our mark and belong to no resource any more: left by a deletion that Vault never
//! heard of, or by a cluster that is gone.

use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::{
    crd::{VaultAwsBackend, VaultAwsRole},
    role::{desired::Names, policy::Marker},
};

/// A policy without a resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Orphan {
    /// Its name.
    pub policy: String,
    /// Whose it was.
    pub marker: Marker,
}

impl Orphan {
    /// As a document. `role` says whether the role that named it still stands; `None`: it cannot be
    /// seen.
    pub fn document(&self, role: Option<bool>) -> Value {
        let Self { policy, marker } = self;
        json!({
            "policy": policy,
            "role": format!("auth/{}/role/{}", marker.mount, marker.role),
            "roleExists": role,
            "owner": {
                "cluster": marker.cluster,
                "namespace": marker.namespace,
                "name": marker.name,
                "uid": marker.uid,
            },
        })
    }
}

/// What was found among all policies.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sorted {
    /// Of this cluster, without a resource.
    pub orphans: Vec<Orphan>,
    /// Of this cluster, with its resource.
    pub owned: usize,
    /// With the marks of other clusters, which know for themselves.
    pub elsewhere: usize,
}

/// Sorts the policies (name and text) of a Vault. `resources` are all VaultAwsRoles of the cluster.
pub fn sort(
    policies: &[(String, String)],
    cluster: &str,
    backend: &VaultAwsBackend,
    resources: &[VaultAwsRole],
) -> Sorted {
    let mut sorted = Sorted::default();
    for (policy, text) in policies {
        let Some(marker) = Marker::parse(text) else { continue };
        if marker.cluster != cluster {
            sorted.elsewhere += 1;
        } else if resources.iter().any(|resource| owns(resource, policy, &marker, backend)) {
            sorted.owned += 1;
        } else {
            sorted.orphans.push(Orphan { policy: policy.clone(), marker });
        }
    }
    sorted
}

/// Whether the policy is that of the resource: by what a pass recorded, else by what the templates of
/// the backend make of it. Of other backends nothing is known here, so their resources keep what bears
/// their name.
fn owns(resource: &VaultAwsRole, policy: &str, marker: &Marker, backend: &VaultAwsBackend) -> bool {
    if resource.namespace().as_ref() != Some(&marker.namespace)
        || resource.name_any() != marker.name
    {
        return false;
    }
    let recorded = resource.status.as_ref().and_then(|status| status.policy_name.as_deref());
    if let Some(recorded) = recorded {
        return recorded == policy;
    }
    if Some(&resource.spec.backend_ref.name) != backend.metadata.name.as_ref() {
        return true;
    }
    Names::derive(resource, &backend.spec).is_ok_and(|names| names.policy == policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> VaultAwsBackend {
        serde_saphyr::from_str(include_str!("../../deploy/examples/backend.yaml")).unwrap()
    }

    fn role() -> VaultAwsRole {
        serde_saphyr::from_str(include_str!("../../deploy/examples/role.yaml")).unwrap()
    }

    fn marked(name: &str, cluster: &str) -> (String, String) {
        let text = format!(
            "# vault-aws-operator v1 cluster={cluster} namespace=team-a name={name} uid=u \
             role=aws/{name}\n"
        );
        (format!("vaultaws-{name}-policy"), text)
    }

    #[test]
    fn a_policy_without_its_resource_is_an_orphan_and_no_other() {
        let unmarked = ("web".to_owned(), "path \"x\" {}".to_owned());
        let policies =
            [marked("web", "prod"), marked("gone", "prod"), marked("gone", "test"), unmarked];
        let sorted = sort(&policies, "prod", &backend(), &[role()]);
        let names: Vec<&str> = sorted.orphans.iter().map(|one| one.policy.as_str()).collect();
        assert_eq!(names, ["vaultaws-gone-policy"]);
        assert_eq!((sorted.owned, sorted.elsewhere), (1, 1));
    }

    #[test]
    fn a_resource_that_has_another_policy_now_does_not_own_the_old_one() {
        let (_, text) = marked("web", "prod");
        let policies = [("vaultaws-old-policy".to_owned(), text)];
        assert_eq!(sort(&policies, "prod", &backend(), &[role()]).orphans.len(), 1);
        // A resource of another backend is not judged by this one's templates.
        let mut other = role();
        other.spec.backend_ref.name = "other".to_owned();
        assert_eq!(sort(&policies, "prod", &backend(), &[other]).orphans.len(), 0);
    }
}
