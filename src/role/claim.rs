//! Whose role and policy are these? Pure, and decided before anything is written.
//!
//! The mark on a policy says who owns it; a role is known by the marked policy that it names, or by
//! the ID that Vault gave it when we wrote it. So one of the two can be changed or deleted by hand and
//! the other still tells whose they are. The owner recorded in Vault wins; only where nothing is
//! written does age decide between resources.

use kube::{Resource, ResourceExt};

use super::{desired::Names, observe::Observed, policy::Marker};
use crate::{
    crd::{VaultAwsBackend, VaultAwsRole},
    vault::aws_auth::Role,
};

/// What the names in Vault are to a resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Claim {
    /// Nothing stands there.
    Free,
    /// What stands there is ours.
    Ours,
    /// Something there is not ours, so nothing of it may be written.
    Foreign(Foreign),
}

/// What is not ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Foreign {
    /// `role` or `policy`.
    pub kind: &'static str,
    /// Its name in Vault.
    pub name: String,
    /// Whose mark it bears, for the log only; a role or an unmarked policy bears none.
    pub owner: Option<Marker>,
}

/// Judges role and policy together. `recorded` is the role's ID as the status has it from the last
/// pass that found the role ours.
pub fn claim(names: &Names, owner: &Marker, recorded: Option<&str>, observed: &Observed) -> Claim {
    let policy = Mark::of(observed.policy.as_deref(), owner);
    if let Mark::Foreign(owner) = policy {
        return foreign("policy", &names.policy, owner);
    }
    match &observed.role {
        None if matches!(policy, Mark::Ours) => Claim::Ours,
        None => Claim::Free,
        Some(role) if is_recorded(role, recorded) => Claim::Ours,
        Some(role) if matches!(policy, Mark::Ours) && names_policy(role, names) => Claim::Ours,
        Some(_) => foreign("role", &names.role, None),
    }
}

/// What of role and policy may be deleted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Removable {
    /// The role is ours.
    pub role: bool,
    /// The policy is ours.
    pub policy: bool,
}

/// Judges each for itself: a policy of ours goes even if the role has been taken over.
pub fn removable(
    names: &Names,
    owner: &Marker,
    recorded: Option<&str>,
    observed: &Observed,
) -> Removable {
    Removable {
        role: observed.role.is_some()
            && matches!(claim(names, owner, recorded, observed), Claim::Ours),
        policy: matches!(Mark::of(observed.policy.as_deref(), owner), Mark::Ours),
    }
}

/// Whether two resources want one role or one policy in one Vault.
pub fn collide(
    (one, one_backend): (&Names, &VaultAwsBackend),
    (other, other_backend): (&Names, &VaultAwsBackend),
) -> bool {
    let same_role = one.mount == other.mount && one.role == other.role;
    (same_role || one.policy == other.policy) && same_vault(one_backend, other_backend)
}

/// Whether the first of two resources goes before the other where nothing is written yet: the older
/// one, then by namespace and name.
pub fn precedes(one: &VaultAwsRole, other: &VaultAwsRole) -> bool {
    let rank = |resource: &VaultAwsRole| {
        let created = resource.creation_timestamp().map(|time| time.0);
        // One that was never created goes last.
        (created.is_none(), created, resource.namespace(), resource.name_any())
    };
    rank(one) < rank(other)
}

/// Whether both are the same object, whatever its version.
pub fn is_same(one: &VaultAwsRole, other: &VaultAwsRole) -> bool {
    one.meta().namespace == other.meta().namespace && one.meta().name == other.meta().name
}

/// Two backends may reach one Vault by different addresses, so its own ID decides where it is known.
fn same_vault(one: &VaultAwsBackend, other: &VaultAwsBackend) -> bool {
    fn id(backend: &VaultAwsBackend) -> Option<&String> {
        backend.status.as_ref()?.vault_cluster_id.as_ref()
    }
    fn namespace(backend: &VaultAwsBackend) -> &str {
        backend.spec.vault.namespace.as_deref().unwrap_or_default().trim_end_matches('/')
    }
    fn address(backend: &VaultAwsBackend) -> String {
        backend.spec.vault.address.trim_end_matches('/').to_ascii_lowercase()
    }
    let same_server = match (id(one), id(other)) {
        (Some(one), Some(other)) => one == other,
        _ => address(one) == address(other),
    };
    same_server && namespace(one) == namespace(other)
}

enum Mark {
    None,
    Ours,
    Foreign(Option<Marker>),
}

impl Mark {
    fn of(text: Option<&str>, owner: &Marker) -> Self {
        match text.map(Marker::parse) {
            None => Self::None,
            Some(Some(marker)) if marker.same_owner(owner) => Self::Ours,
            Some(marker) => Self::Foreign(marker),
        }
    }
}

fn foreign(kind: &'static str, name: &str, owner: Option<Marker>) -> Claim {
    Claim::Foreign(Foreign { kind, name: name.to_owned(), owner })
}

fn is_recorded(role: &Role, recorded: Option<&str>) -> bool {
    recorded.is_some_and(|id| !id.is_empty() && id == role.role_id)
}

/// Vault folds the names of policies when a token is made, not when a role is written.
fn names_policy(role: &Role, names: &Names) -> bool {
    role.token_policies.iter().any(|policy| policy.trim().eq_ignore_ascii_case(&names.policy))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::role::{
        desired::tests::{backend, desired, role as resource},
        plan::tests::role,
    };

    #[derive(Clone, Copy)]
    enum Policy {
        None,
        Ours,
        Unmarked,
        Marked(&'static str),
    }
    #[derive(Clone, Copy)]
    enum InVault {
        None,
        Naming(&'static str),
    }
    use InVault::Naming;

    const OURS: &str = "vaultaws-web-policy";
    const OLD_ID: Option<&str> = Some("id-of-the-role");

    fn observed(policy: Policy, in_vault: InVault) -> (Names, Marker, Observed) {
        let desired = desired(json!({}), json!({}));
        let policy = match policy {
            Policy::None => None,
            Policy::Ours => Some(desired.policy.clone()),
            Policy::Unmarked => Some("path \"x\" { capabilities = [\"read\"] }".into()),
            Policy::Marked(name) => {
                Some(format!("{}\n", Marker { name: name.into(), ..desired.owner.clone() }))
            }
        };
        let role = match in_vault {
            InVault::None => None,
            Naming(policy) => {
                Some(role(json!({"token_policies": [policy], "role_id": "id-of-the-role"})))
            }
        };
        (desired.names, desired.owner, Observed { role, policy })
    }

    fn judge(policy: Policy, in_vault: InVault, recorded: Option<&str>) -> String {
        let (names, owner, observed) = observed(policy, in_vault);
        match claim(&names, &owner, recorded, &observed) {
            Claim::Free => "free".into(),
            Claim::Ours => "ours".into(),
            Claim::Foreign(Foreign { kind, .. }) => format!("foreign {kind}"),
        }
    }

    #[test]
    fn where_nothing_stands_all_is_free() {
        assert_eq!(judge(Policy::None, InVault::None, None), "free");
    }

    #[test]
    fn where_role_and_policy_were_deleted_by_hand_all_is_free() {
        assert_eq!(judge(Policy::None, InVault::None, OLD_ID), "free");
    }

    #[test]
    fn a_marked_policy_without_a_role_is_ours() {
        assert_eq!(judge(Policy::Ours, InVault::None, None), "ours");
    }

    #[test]
    fn a_role_that_names_our_marked_policy_is_ours() {
        assert_eq!(judge(Policy::Ours, Naming(OURS), None), "ours");
    }

    #[test]
    fn a_recreated_role_that_names_our_marked_policy_is_ours() {
        assert_eq!(judge(Policy::Ours, Naming(OURS), Some("another-id")), "ours");
    }

    #[test]
    fn names_of_policies_are_compared_as_vault_folds_them() {
        assert_eq!(judge(Policy::Ours, Naming(" VaultAws-Web-Policy"), None), "ours");
    }

    #[test]
    fn a_role_we_wrote_is_ours_though_its_policies_were_changed_by_hand() {
        assert_eq!(judge(Policy::Ours, Naming("admin"), OLD_ID), "ours");
    }

    #[test]
    fn a_role_we_wrote_is_ours_though_its_policy_was_deleted_by_hand() {
        assert_eq!(judge(Policy::None, Naming(OURS), OLD_ID), "ours");
    }

    #[test]
    fn a_role_we_wrote_is_ours_though_both_were_changed_by_hand() {
        assert_eq!(judge(Policy::None, Naming("admin"), OLD_ID), "ours");
    }

    #[test]
    fn a_role_that_names_other_policies_and_that_we_never_wrote_is_foreign() {
        assert_eq!(judge(Policy::Ours, Naming("admin"), None), "foreign role");
        assert_eq!(judge(Policy::Ours, Naming("admin"), Some("another-id")), "foreign role");
    }

    #[test]
    fn a_role_that_names_a_missing_policy_and_that_we_never_wrote_is_foreign() {
        assert_eq!(judge(Policy::None, Naming(OURS), None), "foreign role");
        assert_eq!(judge(Policy::None, Naming(OURS), Some("another-id")), "foreign role");
    }

    #[test]
    fn an_empty_id_was_never_recorded() {
        assert_eq!(judge(Policy::None, Naming(OURS), Some("")), "foreign role");
    }

    #[test]
    fn an_unmarked_policy_is_foreign_whatever_the_role() {
        assert_eq!(judge(Policy::Unmarked, InVault::None, None), "foreign policy");
        assert_eq!(judge(Policy::Unmarked, Naming(OURS), OLD_ID), "foreign policy");
    }

    #[test]
    fn a_policy_with_anothers_mark_is_foreign_whatever_the_role() {
        assert_eq!(judge(Policy::Marked("api"), InVault::None, None), "foreign policy");
        assert_eq!(judge(Policy::Marked("api"), Naming(OURS), OLD_ID), "foreign policy");
    }

    fn goes(policy: Policy, in_vault: InVault, recorded: Option<&str>) -> (bool, bool) {
        let (names, owner, observed) = observed(policy, in_vault);
        let removable = removable(&names, &owner, recorded, &observed);
        (removable.role, removable.policy)
    }

    #[test]
    fn what_is_ours_may_be_deleted() {
        assert_eq!(goes(Policy::Ours, Naming(OURS), None), (true, true));
        assert_eq!(goes(Policy::Ours, Naming("admin"), OLD_ID), (true, true));
        assert_eq!(goes(Policy::None, Naming(OURS), OLD_ID), (true, false));
        assert_eq!(goes(Policy::Ours, InVault::None, None), (false, true));
    }

    #[test]
    fn a_role_that_was_taken_over_is_kept_and_our_policy_goes() {
        assert_eq!(goes(Policy::Ours, Naming("admin"), Some("another-id")), (false, true));
    }

    #[test]
    fn what_is_foreign_is_kept() {
        assert_eq!(goes(Policy::Marked("api"), Naming(OURS), OLD_ID), (false, false));
        assert_eq!(goes(Policy::Unmarked, InVault::None, None), (false, false));
        assert_eq!(goes(Policy::None, Naming(OURS), None), (false, false));
        assert_eq!(goes(Policy::None, InVault::None, None), (false, false));
    }

    #[test]
    fn the_older_resource_goes_first_and_then_the_name_decides() {
        let older = resource("z", json!({}));
        let mut younger = resource("a", json!({}));
        assert!(precedes(&younger, &older) && !precedes(&older, &younger));
        younger.metadata.creation_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:01Z")).unwrap();
        assert!(precedes(&older, &younger) && !precedes(&younger, &older));
        younger.metadata.creation_timestamp = None;
        assert!(precedes(&older, &younger) && !precedes(&younger, &older));
        assert!(!precedes(&older, &older));
    }

    fn named(mount: &str, role: &str, policy: &str) -> Names {
        Names { mount: mount.into(), role: role.into(), policy: policy.into() }
    }

    fn vault(id: Option<&str>, connection: Value) -> VaultAwsBackend {
        let mut backend = backend(json!({"vault": connection}));
        let id = id.map(str::to_owned);
        backend.status.get_or_insert_default().vault_cluster_id = id;
        backend
    }

    #[test]
    fn roles_collide_at_one_mount_and_policies_at_all_mounts_of_a_vault() {
        let vault = vault(None, json!({"address": "https://a"}));
        let one = named("aws", "web", "p-web");
        let with = |other: Names| collide((&one, &vault), (&other, &vault));
        assert!(with(named("aws", "web", "p-other")));
        assert!(!with(named("aws2", "web", "p-other")));
        assert!(with(named("aws2", "other", "p-web")));
        assert!(!with(named("aws", "other", "p-other")));
    }

    #[test]
    fn a_vault_is_known_by_its_id_and_else_by_its_address() {
        let (a, b) = (json!({"address": "https://a/"}), json!({"address": "https://b"}));
        let names = named("aws", "web", "p-web");
        let same = |one: &VaultAwsBackend, other: &VaultAwsBackend| {
            collide((&names, one), (&names, other))
        };
        assert!(same(&vault(Some("1"), a.clone()), &vault(Some("1"), b.clone())));
        assert!(!same(&vault(Some("1"), a.clone()), &vault(Some("2"), a.clone())));
        assert!(same(&vault(Some("1"), a.clone()), &vault(None, json!({"address": "https://A"}))));
        assert!(!same(&vault(None, a.clone()), &vault(None, b)));
        let child = json!({"address": "https://a", "namespace": "admin"});
        let slashed = json!({"address": "https://a", "namespace": "admin/"});
        assert!(!same(&vault(None, a), &vault(None, child.clone())));
        assert!(same(&vault(None, child), &vault(None, slashed)));
    }
}
