//! May what stands in Vault and is not ours be taken over? Pure, decided before anything is written.
//!
//! Whatever a resource says, what bears the mark of another owner is never taken: then two operators,
//! or two resources, would put each other's work back for ever.

use super::{
    desired::Desired,
    observe::Observed,
    plan::{Plan, Step, plan},
    policy::Marker,
};
use crate::{
    crd::Adopt,
    vault::acl::{Policy, Rule},
};

/// Whether role and policy may be taken over. `named` are the marks on the policies that the role
/// names.
///
/// # Errors
/// Why not, in words that follow "not adopted".
pub fn judge(desired: &Desired, observed: &Observed, named: &[Marker]) -> Result<(), String> {
    let on_policy = observed.policy.as_deref().and_then(Marker::parse);
    let is_ours = |marker: &Marker| marker.same_owner(&desired.owner);
    if on_policy.as_ref().is_some_and(|marker| !is_ours(marker)) {
        return Err("the policy bears the mark of another owner".into());
    }
    let claims_role =
        |marker: &&Marker| marker.mount == desired.names.mount && marker.role == desired.names.role;
    if named.iter().filter(claims_role).any(|marker| !is_ours(marker)) {
        return Err("the role names a policy that marks it as another owner's".into());
    }
    match desired.adopt {
        Adopt::Never => Err("adopt is Never".into()),
        Adopt::Always => Ok(()),
        Adopt::IfEqual => equal(desired, observed),
    }
}

/// Whether the role's fields are ours, and each rule of the policy is one of ours. It may lack some.
fn equal(desired: &Desired, observed: &Observed) -> Result<(), String> {
    let mut differs = Vec::new();
    if observed.role.is_some() {
        let Plan { steps, stuck } = plan(desired, observed);
        differs = stuck;
        for step in steps {
            if let Step::WriteRole { changed, .. } = step {
                differs.extend(changed);
            }
        }
    }
    if let Some(text) = &observed.policy
        && !is_part_of(text, &desired.policy)
    {
        differs.push("policy");
    }
    if differs.is_empty() {
        Ok(())
    } else {
        Err(format!("adopt is IfEqual, and these differ: {}", differs.join(", ")))
    }
}

/// Whether all that a policy says is said by the other.
fn is_part_of(text: &str, whole: &str) -> bool {
    let (Ok(part), Ok(whole)) = (Policy::parse(text), Policy::parse(whole)) else { return false };
    let is_in = |rule: &Rule| {
        rule.is_certain()
            && !rule.narrowed
            && whole
                .rules
                .iter()
                .any(|ours| ours.path == rule.path && ours.capabilities == rule.capabilities)
    };
    !part.repeats && part.unknown().next().is_none() && part.rules.iter().all(is_in)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::role::{desired::tests::desired, plan::tests::role};

    /// The rules as people write them by hand: without the third, which they do not know of.
    const BY_HAND: &str = r#"
        # certificates of web
        path "secret/metadata/certs/111122223333/web/*" { capabilities = ["list", "read"] }
        path "secret/data/certs/111122223333/web/*" { capabilities = ["read", "list"] }
    "#;

    fn wishes(adopt: &str) -> Desired {
        Desired {
            adopt: serde_json::from_value(json!(adopt)).unwrap(),
            ..desired(json!({}), json!({}))
        }
    }

    fn found(in_vault: Value, policy: Option<&str>) -> Observed {
        Observed { role: Some(role(in_vault)), policy: policy.map(str::to_owned) }
    }

    fn judged(adopt: &str, in_vault: Value, policy: Option<&str>) -> Result<(), String> {
        judge(&wishes(adopt), &found(in_vault, policy), &[])
    }

    #[test]
    fn a_role_and_its_two_rules_by_hand_are_equal() {
        assert_eq!(judged("IfEqual", json!({}), Some(BY_HAND)), Ok(()));
        assert_eq!(judged("IfEqual", json!({}), None), Ok(()));
        let without_role = Observed { role: None, policy: Some(BY_HAND.into()) };
        assert_eq!(judge(&wishes("IfEqual"), &without_role, &[]), Ok(()));
    }

    #[test]
    fn each_difference_is_named() {
        let other = json!({"token_ttl": 60, "bound_iam_principal_arn": ["x"]});
        assert_eq!(
            judged("IfEqual", other, Some(&BY_HAND.replace("web", "*"))),
            Err("adopt is IfEqual, and these differ: bound_iam_principal_arn, token_ttl, policy"
                .into())
        );
        assert!(judged("IfEqual", json!({"auth_type": "ec2"}), None).is_err());
    }

    #[test]
    fn a_policy_with_a_rule_that_is_none_of_ours_is_not_equal() {
        for text in [
            format!("{BY_HAND}\npath \"secret/*\" {{ capabilities = [\"read\"] }}"),
            BY_HAND.replace("\"list\"", "\"delete\""),
            BY_HAND.replace("[\"list\", \"read\"]", "[\"list\"]"),
            BY_HAND.replace("{ capabilities", "{ min_wrapping_ttl = \"1s\" capabilities"),
            BY_HAND.replace("{ capabilities", "{ surprise = 1 capabilities"),
            "not a policy {".to_owned(),
        ] {
            let judged = judged("IfEqual", json!({}), Some(&text));
            assert!(judged.is_err_and(|why| why.ends_with("policy")), "{text}");
        }
    }

    #[test]
    fn always_takes_whatever_is_nobodys() {
        let other = json!({"token_policies": ["admin"]});
        assert_eq!(judged("Always", other.clone(), Some("path \"*\" {}")), Ok(()));
        assert!(judged("Never", other, None).is_err());
    }

    #[test]
    fn what_bears_the_mark_of_another_is_never_taken() {
        let desired = wishes("Always");
        let other = Marker { name: "other".into(), ..desired.owner.clone() };
        let marked = found(json!({}), Some(&format!("{other}\n{BY_HAND}")));
        assert!(judge(&desired, &marked, &[]).is_err());
        let unmarked = found(json!({}), Some(BY_HAND));
        assert!(judge(&desired, &unmarked, std::slice::from_ref(&other)).is_err());
        // Their policy may be named by other roles too.
        let elsewhere = Marker { role: "elsewhere".into(), ..other };
        assert_eq!(judge(&desired, &unmarked, &[elsewhere]), Ok(()));
        assert_eq!(judge(&desired, &unmarked, std::slice::from_ref(&desired.owner)), Ok(()));
    }
}
