//! What has to change in Vault. Pure, total, ordered and printable: an empty plan means in sync.
//!
//! Only fields that we own are compared, and only those that differ are written. That is more than
//! thrift: Vault takes each `bound_iam_principal_arn` it is sent as a wish to look the unique ID up
//! again, and would bind to an IAM role that was deleted and re-created under the same name.

use std::{collections::BTreeSet, fmt};

use super::{
    claim::Removable,
    desired::{Desired, Names},
    observe::Observed,
};
use crate::{
    crd::AuthType,
    vault::aws_auth::{Role, RoleWrite},
};

/// The steps to what is desired, in their order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What is done.
    pub steps: Vec<Step>,
    /// Fields of the role that differ and that Vault never changes in an existing role.
    pub stuck: Vec<&'static str>,
}

/// One request to Vault.
#[derive(Clone, Debug)]
pub enum Step {
    /// Creates or replaces a policy.
    WritePolicy {
        /// Its name.
        name: String,
        /// Its text.
        text: String,
    },
    /// Creates a role, or changes some of its fields.
    WriteRole {
        /// Path of the auth mount.
        mount: String,
        /// Its name.
        name: String,
        /// What is sent; the rest of an existing role stays.
        fields: Box<RoleWrite>,
        /// The fields that differed; none if there was no role.
        changed: Vec<&'static str>,
    },
    /// Deletes a role.
    DeleteRole {
        /// Path of the auth mount.
        mount: String,
        /// Its name.
        name: String,
    },
    /// Deletes a policy.
    DeletePolicy {
        /// Its name.
        name: String,
    },
}

/// Policy first, role second: a role must never name a policy that is not there, since anybody who
/// may write policies could then say what it allows.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    if observed.policy.as_ref() != Some(&desired.policy) {
        plan.steps.push(Step::WritePolicy {
            name: desired.names.policy.clone(),
            text: desired.policy.clone(),
        });
    }
    let (fields, changed) = match &observed.role {
        None => (created(desired), Vec::new()),
        Some(role) => {
            let change = Change::between(desired, role);
            plan.stuck = change.stuck;
            if change.changed.is_empty() {
                return plan;
            }
            (change.fields, change.changed)
        }
    };
    plan.steps.push(Step::WriteRole {
        mount: desired.names.mount.clone(),
        name: desired.names.role.clone(),
        fields: Box::new(fields),
        changed,
    });
    plan
}

/// Role first, policy second: no login in between may carry the name of a missing policy.
pub fn removal(names: &Names, removable: Removable) -> Plan {
    let Names { mount, role, policy } = names.clone();
    let mut plan = Plan::default();
    if removable.role {
        plan.steps.push(Step::DeleteRole { mount, name: role });
    }
    if removable.policy {
        plan.steps.push(Step::DeletePolicy { name: policy });
    }
    plan
}

/// All that is not as Vault makes a new role anyway.
fn created(desired: &Desired) -> RoleWrite {
    let mut fields = RoleWrite {
        auth_type: Some(desired.auth_type.as_str().to_owned()),
        token_policies: Some(desired.token_policies()),
        token_no_default_policy: desired.no_default_policy.then_some(true),
        ..RoleWrite::default()
    };
    if desired.auth_type == AuthType::Iam {
        fields.bound_iam_principal_arn = Some(desired.principals.clone());
        fields.resolve_aws_unique_ids = Some(desired.unique_ids);
    }
    let nothing = Role::default();
    desired.instances.change(&nothing, &mut fields, &mut Vec::new());
    desired.token.change(&nothing, &mut fields, &mut Vec::new());
    fields
}

#[derive(Default)]
struct Change {
    fields: RoleWrite,
    changed: Vec<&'static str>,
    stuck: Vec<&'static str>,
}

impl Change {
    fn between(desired: &Desired, role: &Role) -> Self {
        let mut change = Self::default();
        change.policies(desired, role);
        if role.auth_type != desired.auth_type.as_str() {
            // What binds a role differs by auth type, so the rest has nothing to compare with.
            change.stuck.push("auth_type");
            return change;
        }
        if desired.auth_type == AuthType::Iam {
            change.principals(desired, role);
        }
        let Self { fields, changed, .. } = &mut change;
        desired.instances.change(role, fields, changed);
        desired.token.change(role, fields, changed);
        if !changed.is_empty() {
            desired.token.keep_networks(fields);
        }
        change
    }

    /// The legacy `policies` count too: Vault shows them where the role was written by that key, and
    /// drops them when `token_policies` is written.
    fn policies(&mut self, desired: &Desired, role: &Role) {
        let want = desired.token_policies();
        let differs = |names: &Vec<String>| folded(names) != folded(&want);
        if differs(&role.token_policies) || (!role.policies.is_empty() && differs(&role.policies)) {
            self.fields.token_policies = Some(want);
            self.changed.push("token_policies");
        }
        if role.token_no_default_policy != desired.no_default_policy {
            self.fields.token_no_default_policy = Some(desired.no_default_policy);
            self.changed.push("token_no_default_policy");
        }
    }

    fn principals(&mut self, desired: &Desired, role: &Role) {
        let want: BTreeSet<&str> = desired.principals.iter().map(String::as_str).collect();
        let have: BTreeSet<&str> =
            role.bound_iam_principal_arn.iter().map(|arn| arn.trim()).collect();
        if have != want || desired.rebind {
            self.fields.bound_iam_principal_arn = Some(desired.principals.clone());
            self.changed.push("bound_iam_principal_arn");
        }
        match (desired.unique_ids, role.resolve_aws_unique_ids) {
            (true, false) => {
                self.fields.resolve_aws_unique_ids = Some(true);
                self.changed.push("resolve_aws_unique_ids");
            }
            (false, true) => self.stuck.push("resolve_aws_unique_ids"),
            (true, true) | (false, false) => {}
        }
    }
}

/// Names of policies as Vault folds them when a token is made.
pub(super) fn folded<'a>(names: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    names.into_iter().map(|name| name.trim().to_ascii_lowercase()).collect()
}

impl Plan {
    /// What differs in Vault: `policy`, `role` (there is none), or fields of the role.
    pub fn differences(&self) -> Vec<String> {
        let mut found: Vec<&str> = Vec::new();
        for step in &self.steps {
            match step {
                Step::WritePolicy { .. } | Step::DeletePolicy { .. } => found.push("policy"),
                Step::WriteRole { changed, .. } if !changed.is_empty() => found.extend(changed),
                Step::WriteRole { .. } | Step::DeleteRole { .. } => found.push("role"),
            }
        }
        found.extend(&self.stuck);
        found.into_iter().map(str::to_owned).collect()
    }

    /// The steps on one line, for events and the status.
    pub fn summary(&self) -> String {
        self.steps.iter().map(Step::to_string).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        if !self.stuck.is_empty() {
            writeln!(f, "cannot change {} of an existing role", self.stuck.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WritePolicy { name, .. } => write!(f, "write policy {name}"),
            Self::WriteRole { name, changed, .. } if changed.is_empty() => {
                write!(f, "write role {name}")
            }
            Self::WriteRole { name, changed, .. } => {
                write!(f, "write role {name}: {}", changed.join(", "))
            }
            Self::DeleteRole { name, .. } => write!(f, "delete role {name}"),
            Self::DeletePolicy { name } => write!(f, "delete policy {name}"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::role::desired::tests::{backend, desired};

    /// The role of the minimal spec as Vault answers it, changed at some keys.
    pub(in crate::role) fn role(changes: Value) -> Role {
        let mut answer = json!({
            "allow_instance_migration": false,
            "auth_type": "iam",
            "bound_account_id": [],
            "bound_ami_id": [],
            "bound_ec2_instance_id": null,
            "bound_iam_instance_profile_arn": [],
            "bound_iam_principal_arn": ["arn:aws:iam::111122223333:role/web"],
            "bound_iam_principal_id": [],
            "bound_iam_role_arn": [],
            "bound_region": [],
            "bound_subnet_id": [],
            "bound_vpc_id": [],
            "disallow_reauthentication": false,
            "inferred_aws_region": "",
            "inferred_entity_type": "",
            "resolve_aws_unique_ids": false,
            "role_id": "eb8dd357-f5c2-4f6e-9c1e-6a1f3a0a5a11",
            "role_tag": "",
            "token_bound_cidrs": [],
            "token_explicit_max_ttl": 0,
            "token_max_ttl": 0,
            "token_no_default_policy": false,
            "token_num_uses": 0,
            "token_period": 0,
            "token_policies": ["vaultaws-web-policy"],
            "token_ttl": 0,
            "token_type": "default",
        });
        if let Value::Object(changes) = changes {
            for (key, value) in changes {
                answer[key] = value;
            }
        }
        serde_json::from_value(answer).unwrap()
    }

    /// The plan for a role that stands in Vault like this, under its right policy.
    fn against(role_spec: Value, in_vault: Value) -> Plan {
        let desired = desired(role_spec, json!({}));
        let policy = Some(desired.policy.clone());
        plan(&desired, &Observed { role: Some(role(in_vault)), policy })
    }

    fn text(role_spec: Value, in_vault: Value) -> String {
        against(role_spec, in_vault).to_string()
    }

    fn fields(plan: &Plan) -> &RoleWrite {
        match plan.steps.as_slice() {
            [Step::WriteRole { fields, .. }] => fields,
            other => panic!("not one write of a role: {other:?}"),
        }
    }

    #[test]
    fn a_role_is_written_after_the_policy_it_names() {
        let plan = plan(&desired(json!({}), json!({})), &Observed::default());
        assert_eq!(plan.to_string(), "write policy vaultaws-web-policy\nwrite role web\n");
        assert_eq!(plan.summary(), "write policy vaultaws-web-policy; write role web");
    }

    #[test]
    fn a_new_role_is_sent_what_we_own_and_no_more() {
        let desired = desired(json!({}), json!({}));
        let policy = Some(desired.policy.clone());
        let plan = plan(&desired, &Observed { role: None, policy });
        assert_eq!(
            serde_json::to_value(fields(&plan)).unwrap(),
            json!({
                "auth_type": "iam",
                "bound_iam_principal_arn": ["arn:aws:iam::111122223333:role/web"],
                "resolve_aws_unique_ids": false,
                "token_policies": ["vaultaws-web-policy"],
            })
        );
    }

    #[test]
    fn what_is_as_desired_is_left_alone() {
        assert_eq!(text(json!({}), json!({})), "");
    }

    #[test]
    fn fields_that_are_not_ours_are_never_drift() {
        assert_eq!(
            text(json!({}), json!({"role_tag": "x", "alias_metadata": {"team": "a"}, "new": 1})),
            ""
        );
    }

    #[test]
    fn what_differs_is_named_by_policy_role_and_fields() {
        let desired = desired(json!({}), json!({}));
        let differences = |found: Observed| plan(&desired, &found).differences();
        assert_eq!(differences(Observed::default()), ["policy", "role"]);
        let in_vault = json!({"token_ttl": 60, "resolve_aws_unique_ids": true});
        let found = Observed { role: Some(role(in_vault)), policy: Some(desired.policy.clone()) };
        assert_eq!(differences(found), ["token_ttl", "resolve_aws_unique_ids"]);
    }

    #[test]
    fn a_principal_that_is_the_same_is_sent_only_to_bind_again() {
        let in_vault = json!({"resolve_aws_unique_ids": true, "bound_iam_principal_id": ["AROA1"]});
        let mut desired = desired(json!({"resolveAwsUniqueIds": true}), json!({}));
        let found = Observed { role: Some(role(in_vault)), policy: Some(desired.policy.clone()) };
        assert_eq!(plan(&desired, &found).to_string(), "");
        desired.rebind = true;
        let again = plan(&desired, &found);
        assert_eq!(
            serde_json::to_value(fields(&again)).unwrap(),
            json!({"bound_iam_principal_arn": ["arn:aws:iam::111122223333:role/web"]})
        );
    }

    #[test]
    fn networks_of_ipv6_are_sent_along_with_any_change() {
        let sent = |network: &str| {
            let spec = json!({"token": {"boundCidrs": [network]}});
            let in_vault = json!({"token_bound_cidrs": [network], "token_ttl": 60});
            let plan = against(spec, in_vault);
            assert_eq!(plan.to_string(), "write role web: token_ttl\n");
            serde_json::to_value(fields(&plan)).unwrap()
        };
        assert_eq!(sent("10.0.0.0/8"), json!({"token_ttl": 0}));
        assert_eq!(sent("::1"), json!({"token_ttl": 0, "token_bound_cidrs": ["::1"]}));
    }

    #[test]
    fn a_new_ec2_role_is_sent_no_key_of_iam() {
        let spec = json!({"authType": "ec2", "ec2": {"amiIds": ["ami-1"]}, "token": {"ttl": "1h"}});
        let mut granting = serde_json::to_value(backend(json!({})).spec.tenancy).unwrap();
        granting[0]["authTypes"] = json!(["ec2"]);
        let desired = desired(spec, json!({"tenancy": granting}));
        let plan = plan(&desired, &Observed { role: None, policy: Some(desired.policy.clone()) });
        assert_eq!(
            serde_json::to_value(fields(&plan)).unwrap(),
            json!({
                "auth_type": "ec2",
                "bound_account_id": ["111122223333"],
                "bound_ami_id": ["ami-1"],
                "token_policies": ["vaultaws-web-policy"],
                "token_ttl": 3600,
            })
        );
    }

    #[test]
    fn order_case_and_space_are_not_drift() {
        assert_eq!(text(json!({}), json!({"token_policies": [" VAULTAWS-web-policy "]})), "");
    }

    #[test]
    fn a_policy_is_compared_to_the_letter() {
        let desired = desired(json!({}), json!({}));
        let policy = Some(format!("{}\n", desired.policy));
        let plan = plan(&desired, &Observed { role: Some(role(json!({}))), policy });
        assert_eq!(plan.to_string(), "write policy vaultaws-web-policy\n");
    }

    #[test]
    fn only_the_fields_that_differ_are_sent() {
        let plan = against(json!({}), json!({"token_policies": ["vaultaws-web-policy", "admin"]}));
        assert_eq!(plan.to_string(), "write role web: token_policies\n");
        assert_eq!(
            serde_json::to_value(fields(&plan)).unwrap(),
            json!({"token_policies": ["vaultaws-web-policy"]})
        );
    }

    #[test]
    fn a_principal_that_was_changed_or_added_by_hand_is_put_back() {
        for arns in [
            json!(["arn:aws:iam::111122223333:role/other"]),
            json!(["arn:aws:iam::111122223333:role/web", "arn:aws:iam::111122223333:role/other"]),
            json!([]),
        ] {
            let plan = against(json!({}), json!({"bound_iam_principal_arn": arns}));
            assert_eq!(plan.to_string(), "write role web: bound_iam_principal_arn\n");
            assert_eq!(
                serde_json::to_value(fields(&plan)).unwrap(),
                json!({"bound_iam_principal_arn": ["arn:aws:iam::111122223333:role/web"]})
            );
        }
    }

    /// A backend whose rule says so.
    fn rule(more: (&str, Value)) -> Value {
        let mut rule = json!({
            "name": "team-a",
            "namespaces": {"names": ["team-a"]},
            "accounts": ["111122223333"],
            "iamRoles": ["web"],
        });
        rule[more.0] = more.1;
        json!({"tenancy": [rule]})
    }

    #[test]
    fn whether_default_is_left_out_is_ours_to_say() {
        let without = json!({"token": {"noDefaultPolicy": true}});
        let plan = against(without.clone(), json!({}));
        assert_eq!(plan.to_string(), "write role web: token_no_default_policy\n");
        assert_eq!(text(without, json!({"token_no_default_policy": true})), "");
        let plan = against(json!({}), json!({"token_no_default_policy": true}));
        assert_eq!(
            serde_json::to_value(fields(&plan)).unwrap(),
            json!({"token_no_default_policy": false})
        );
    }

    #[test]
    fn the_longest_life_of_a_token_is_written_where_a_rule_says_it() {
        let desired = desired(json!({}), rule(("maxTokenTtl", json!("1h"))));
        let against = |changes: Value| {
            let policy = Some(desired.policy.clone());
            plan(&desired, &Observed { role: Some(role(changes)), policy }).to_string()
        };
        assert_eq!(against(json!({})), "write role web: token_max_ttl\n");
        assert_eq!(against(json!({"token_max_ttl": 3600})), "");
        assert_eq!(
            against(json!({"token_max_ttl": 7200, "token_ttl": 3601, "token_period": 9999})),
            "write role web: token_ttl, token_max_ttl, token_period\n"
        );
        assert_eq!(created(&desired).token_max_ttl, Some(3600));
    }

    #[test]
    fn legacy_policies_are_replaced_unless_they_say_the_same() {
        let same = json!({"policies": ["vaultaws-web-policy"]});
        assert_eq!(text(json!({}), same), "");
        let other = json!({"policies": ["vaultaws-web-policy", "admin"]});
        assert_eq!(text(json!({}), other), "write role web: token_policies\n");
    }

    #[test]
    fn inference_that_was_switched_on_by_hand_is_switched_off_by_both_of_its_fields() {
        let plan = against(
            json!({}),
            json!({"inferred_entity_type": "ec2_instance", "inferred_aws_region": "us-east-1"}),
        );
        assert_eq!(plan.to_string(), "write role web: inferred_entity_type\n");
        assert_eq!(
            serde_json::to_value(fields(&plan)).unwrap(),
            json!({"inferred_entity_type": "", "inferred_aws_region": ""})
        );
    }

    #[test]
    fn the_binds_of_inference_go_with_it() {
        let plan = against(
            json!({}),
            json!({
                "inferred_entity_type": "ec2_instance",
                "inferred_aws_region": "us-east-1",
                "bound_ami_id": ["ami-1"],
            }),
        );
        assert_eq!(plan.to_string(), "write role web: inferred_entity_type, bound_ami_id\n");
        assert_eq!(
            serde_json::to_value(fields(&plan)).unwrap(),
            json!({"inferred_entity_type": "", "inferred_aws_region": "", "bound_ami_id": []})
        );
    }

    #[test]
    fn unique_ids_are_switched_on_without_sending_an_unchanged_principal() {
        let plan = against(json!({"resolveAwsUniqueIds": true}), json!({}));
        assert_eq!(plan.to_string(), "write role web: resolve_aws_unique_ids\n");
        assert_eq!(
            serde_json::to_value(fields(&plan)).unwrap(),
            json!({"resolve_aws_unique_ids": true})
        );
    }

    #[test]
    fn unique_ids_with_a_path_bind_another_arn() {
        let spec = json!({"resolveAwsUniqueIds": true, "iamRolePath": "/team/"});
        assert_eq!(
            text(spec, json!({})),
            "write role web: bound_iam_principal_arn, resolve_aws_unique_ids\n"
        );
    }

    #[test]
    fn unique_ids_cannot_be_switched_off_and_the_rest_is_still_put_back() {
        assert_eq!(
            text(json!({}), json!({"resolve_aws_unique_ids": true, "token_policies": ["admin"]})),
            "write role web: token_policies\n\
             cannot change resolve_aws_unique_ids of an existing role\n"
        );
    }

    #[test]
    fn a_role_of_another_auth_type_gets_its_policies_back_and_no_more() {
        assert_eq!(
            text(json!({}), json!({"auth_type": "ec2", "token_policies": ["admin"]})),
            "write role web: token_policies\ncannot change auth_type of an existing role\n"
        );
    }

    #[test]
    fn a_role_is_deleted_before_the_policy_it_names() {
        let names = desired(json!({}), json!({})).names;
        let both = removal(&names, Removable { role: true, policy: true });
        assert_eq!(both.to_string(), "delete role web\ndelete policy vaultaws-web-policy\n");
    }

    #[test]
    fn only_what_is_ours_is_deleted() {
        let names = desired(json!({}), json!({})).names;
        let policy = removal(&names, Removable { role: false, policy: true });
        assert_eq!(policy.to_string(), "delete policy vaultaws-web-policy\n");
        assert_eq!(removal(&names, Removable::default()).to_string(), "");
    }
}
