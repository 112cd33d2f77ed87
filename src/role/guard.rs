//! What the verdict on isolation means for a pass: whether it may write, and what it tells. Pure.
//!
//! Own rules that lead beyond the bounds are never written: only another spec helps. What others wrote
//! keeps a role from being opened to it: a role that does not carry it yet waits. A role that carries it
//! already is still put back as declared, for that makes nothing worse; the condition says it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    carried::{Carried, Held},
    desired::Desired,
    isolation::{self, InForce, Question, Reason, Text},
    observe::Observed,
    plan::Plan,
};
use crate::{
    controller::{
        condition::{self, shorten},
        pass::{Note, Progress, Verdict},
    },
    crd::{Drift, RoleReason},
    vault::aws_auth::Role,
};

/// The condition.
pub const ISOLATED: &str = "Isolated";
/// The most mounts that a status lists, and the longest of their names in bytes.
const REACHED: (usize, usize) = (64, 256);

/// A verdict on a role.
#[derive(Clone, Debug)]
pub struct Judged {
    verdict: isolation::Verdict,
    /// Whether it is the role's own rules that lead beyond the bounds.
    own: bool,
}

/// Judges the policies of a login: the role's own as it is about to be written, or stays, and the others
/// as they are.
pub fn judge(desired: &Desired, carried: &Carried) -> Judged {
    let bounds = &desired.bounds;
    let own = carried.own.as_ref().map_or(Text::Known(&desired.policy), text);
    let own = InForce { name: &desired.names.policy, text: own };
    let others = carried.policies.iter().map(|(name, held)| InForce { name, text: text(held) });
    let all: Vec<InForce<'_>> = [own].into_iter().chain(others).collect();
    let question = Question {
        mount: &bounds.mount,
        directory: &bounds.directory,
        policies: &all,
        identity_is_known: carried.identity.is_some(),
        extras: &bounds.extras,
        mounts: None,
    };
    // By itself a role gets nothing of what is protected, whatever the rule grants to policies of others.
    let is_open = |extra: &&isolation::Extra| !isolation::is_protected(&bounds.mount, extra);
    let open: Vec<isolation::Extra> = bounds.extras.iter().filter(is_open).cloned().collect();
    let alone = isolation::judge(&Question {
        policies: &[own],
        identity_is_known: true,
        extras: &open,
        ..question
    });
    if alone.isolated() == Some(true) {
        Judged { verdict: isolation::judge(&question), own: false }
    } else {
        Judged { verdict: alone, own: true }
    }
}

fn text(held: &Held) -> Text<'_> {
    match held {
        Held::Text(text) => Text::Known(text),
        Held::Missing => Text::Missing,
        Held::Unreadable => Text::Unreadable,
    }
}

impl Judged {
    /// How far the pass came, if it may not write: `None` if it may.
    pub fn holds(&self, desired: &Desired, observed: &Observed, plan: &Plan) -> Option<Progress> {
        let broken = self.verdict.isolated() == Some(false) && desired.drift == Drift::Correct;
        if !desired.bounds.enforced || plan.steps.is_empty() || !broken {
            return None;
        }
        if self.own {
            return Some(Progress::Stalled);
        }
        let carries = |role: &Role| {
            self.verdict.left_off == 0
                && self
                    .verdict
                    .findings
                    .iter()
                    .filter(|finding| finding.reason.isolated() == Some(false))
                    .all(|finding| is_carried(role, &finding.policy, desired))
        };
        (!observed.role.as_ref().is_some_and(carries)).then_some(Progress::Waiting)
    }

    /// The condition.
    pub fn condition(&self) -> Verdict {
        Verdict {
            kind: ISOLATED,
            holds: self.verdict.isolated(),
            reason: reason(self.verdict.reason).as_str(),
            message: self.verdict.to_string(),
        }
    }

    /// Why nothing was written.
    pub fn refusal(&self) -> String {
        format!("nothing was written: {}", self.verdict)
    }

    /// Other mounts that a login reaches, as many as a status lists.
    pub fn also_reaches(&self) -> Vec<String> {
        let (count, longest) = REACHED;
        let mounts = self.verdict.also_reaches.iter().take(count);
        mounts.map(|mount| shorten(&mount.escape_debug().to_string(), longest)).collect()
    }

    /// What to tell people if the verdict is another than before.
    pub fn note(&self, previous: &[Condition]) -> Option<Note> {
        transition(&self.condition(), previous)
    }
}

/// An event if a condition turned False, turned Unknown after it was True, or recovered. Its first True
/// or Unknown is none.
pub fn transition(now: &Verdict, previous: &[Condition]) -> Option<Note> {
    let before = condition::find(previous, now.kind).map(|old| old.status.as_str());
    let warning = match (before, now.holds) {
        (Some("False"), Some(true)) | (Some("Unknown"), Some(true)) => false,
        (Some("False"), Some(false)) => return None,
        (_, Some(false)) | (Some("True"), None) => true,
        _ => return None,
    };
    Some(Note { warning, reason: now.reason, message: now.message.clone() })
}

/// Whether the logins of a role as it stands carry this policy. What an identity adds comes to every
/// role.
fn is_carried(role: &Role, policy: &str, desired: &Desired) -> bool {
    let named = |name: &String| name.trim().eq_ignore_ascii_case(policy);
    match policy {
        "default" => !role.token_no_default_policy,
        _ if desired.additional_policies.iter().any(|name| name == policy) => {
            role.token_policies.iter().chain(&role.policies).any(named)
        }
        _ => true,
    }
}

fn reason(reason: Reason) -> RoleReason {
    match reason {
        Reason::RootPolicy => RoleReason::RootPolicy,
        Reason::SudoGranted => RoleReason::SudoGranted,
        Reason::NotIsolated => RoleReason::NotIsolated,
        Reason::DanglingPolicy => RoleReason::DanglingPolicy,
        Reason::PolicyUnreadable => RoleReason::PolicyUnreadable,
        Reason::PolicyNotUnderstood => RoleReason::PolicyNotUnderstood,
        Reason::IdentityUnreadable => RoleReason::IdentityUnreadable,
        Reason::Isolated => RoleReason::Isolated,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::role::{
        desired::tests::desired,
        plan::{plan, tests::role},
    };

    fn tenancy(changes: Value) -> Value {
        let mut rule = json!({
            "name": "team-a",
            "namespaces": {"names": ["team-a"]},
            "accounts": ["111122223333"],
            "iamRoles": ["web"],
        });
        for (key, value) in changes.as_object().unwrap() {
            rule[key] = value.clone();
        }
        json!([rule])
    }

    #[test]
    fn where_differences_are_only_told_what_stands_is_judged() {
        let desired = desired(json!({"drift": "Report"}), json!({}));
        let standing = |own: Held| {
            let carried =
                Carried { own: Some(own), identity: Some(Vec::new()), ..Carried::default() };
            let observed = Observed { role: Some(role(json!({}))), policy: Some("wide".into()) };
            let judged = judge(&desired, &carried);
            assert_eq!(judged.holds(&desired, &observed, &plan(&desired, &observed)), None);
            judged.condition().reason
        };
        assert_eq!(standing(reading("secret/*")), "NotIsolated");
        assert_eq!(standing(Held::Missing), "DanglingPolicy");
        assert_eq!(standing(Held::Text("".into())), "Isolated");
    }

    /// A role that names `team-read`, which has this text.
    fn additional(text: Held, isolation: &str) -> (Desired, Carried) {
        let desired = desired(
            json!({"token": {"additionalPolicies": ["Team-Read"]}}),
            json!({
                "isolation": isolation,
                "tenancy": tenancy(json!({"additionalPolicies": ["team-read"]})),
            }),
        );
        let policies = BTreeMap::from([("team-read".to_owned(), text)]);
        (desired, Carried { policies, own: None, identity: Some(Vec::new()) })
    }

    fn reading(path: &str) -> Held {
        Held::Text(format!("path \"{path}\" {{ capabilities = [\"read\"] }}").into())
    }

    fn holds(desired: &Desired, carried: &Carried, in_vault: Option<Value>) -> Option<Progress> {
        let observed = Observed { role: in_vault.map(role), policy: None };
        judge(desired, carried).holds(desired, &observed, &plan(desired, &observed))
    }

    #[test]
    fn the_minimal_role_is_isolated_and_may_be_written() {
        let desired = desired(json!({}), json!({}));
        let carried = Carried { identity: Some(Vec::new()), ..Carried::default() };
        assert_eq!(judge(&desired, &carried).condition().holds, Some(true));
        assert_eq!(holds(&desired, &carried, None), None);
        let unknown = Carried::default();
        assert_eq!(judge(&desired, &unknown).condition().reason, "IdentityUnreadable");
        assert_eq!(holds(&desired, &unknown, None), None, "what is unknown stops nothing");
    }

    #[test]
    fn own_rules_beyond_the_bounds_are_never_written_whatever_is_granted() {
        for path in ["secret/data/certs/*", "sys/leases/count", "+/data/x", "identity/*"] {
            let extra = json!([{"path": path, "capabilities": ["read"]}]);
            let desired = |isolation: &str| {
                desired(
                    json!({"policy": {"extraRules": extra}}),
                    json!({"isolation": isolation, "tenancy": tenancy(json!({"extraRules": extra}))}),
                )
            };
            let carried = Carried::default();
            let enforced = desired("Enforce");
            let judged = judge(&enforced, &carried);
            assert_eq!(judged.condition().reason, "NotIsolated", "{path}");
            assert_eq!(holds(&enforced, &carried, None), Some(Progress::Stalled));
            assert_eq!(holds(&enforced, &carried, Some(json!({}))), Some(Progress::Stalled));
            assert_eq!(holds(&desired("Report"), &carried, None), None);
        }
    }

    #[test]
    fn own_extras_on_other_mounts_are_written_and_listed() {
        let extra = json!([{"path": "pki/issue/web", "capabilities": ["update"]}]);
        let desired = desired(
            json!({"policy": {"extraRules": extra}}),
            json!({"tenancy": tenancy(json!({"extraRules": extra}))}),
        );
        let carried = Carried { identity: Some(Vec::new()), ..Carried::default() };
        let judged = judge(&desired, &carried);
        assert_eq!(judged.condition().reason, "Isolated");
        assert_eq!(judged.also_reaches(), ["pki/"]);
        assert_eq!(holds(&desired, &carried, None), None);
    }

    #[test]
    fn an_extra_that_is_granted_to_policies_of_others_keeps_them_within_bounds() {
        let desired = desired(
            json!({"token": {"additionalPolicies": ["ops"]}}),
            json!({"tenancy": tenancy(json!({
                "additionalPolicies": ["ops"],
                "extraRules": [{"path": "sys/leases/count", "capabilities": ["read"]}],
            }))}),
        );
        let policies = BTreeMap::from([("ops".to_owned(), reading("sys/leases/count"))]);
        let carried = Carried { policies, own: None, identity: Some(Vec::new()) };
        assert_eq!(judge(&desired, &carried).condition().reason, "Isolated");
    }

    #[test]
    fn what_others_wrote_keeps_a_role_from_being_opened_to_it() {
        for (held, reason) in [
            (reading("secret/*"), "NotIsolated"),
            (Held::Missing, "DanglingPolicy"),
            (Held::Text("path \"x\" { policy = \"sudo\" }".into()), "SudoGranted"),
        ] {
            let (desired, carried) = additional(held, "Enforce");
            assert_eq!(judge(&desired, &carried).condition().reason, reason);
            assert_eq!(holds(&desired, &carried, None), Some(Progress::Waiting));
            let without = json!({"token_policies": ["vaultaws-web-policy"]});
            assert_eq!(holds(&desired, &carried, Some(without)), Some(Progress::Waiting));
        }
    }

    #[test]
    fn a_role_that_carries_it_already_is_put_back_as_declared() {
        let with = json!({"token_policies": ["vaultaws-web-policy", "TEAM-READ", "admin"]});
        let (desired, carried) = additional(reading("secret/*"), "Enforce");
        assert_eq!(holds(&desired, &carried, Some(with)), None);
    }

    #[test]
    fn what_default_and_identities_add_comes_to_a_role_that_is_there() {
        let desired = desired(json!({}), json!({}));
        for name in ["default", "of-the-entity"] {
            let policies = BTreeMap::from([(name.to_owned(), reading("secret/*"))]);
            let carried = Carried { policies, own: None, identity: Some(Vec::new()) };
            assert_eq!(holds(&desired, &carried, None), Some(Progress::Waiting), "{name}");
            assert_eq!(holds(&desired, &carried, Some(json!({}))), None, "{name}");
        }
        let policies = BTreeMap::from([("default".to_owned(), reading("secret/*"))]);
        let carried = Carried { policies, own: None, identity: Some(Vec::new()) };
        let without = json!({"token_no_default_policy": true});
        assert_eq!(holds(&desired, &carried, Some(without)), Some(Progress::Waiting));
    }

    #[test]
    fn only_a_turn_is_told() {
        let condition = |status: &str| {
            vec![Condition {
                type_: ISOLATED.into(),
                status: status.into(),
                reason: "x".into(),
                message: String::new(),
                observed_generation: None,
                last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                    Timestamp::UNIX_EPOCH,
                ),
            }]
        };
        let told = |before: &str, now: Option<bool>| {
            let verdict =
                Verdict { kind: ISOLATED, holds: now, reason: "y", message: String::new() };
            let previous = if before.is_empty() { Vec::new() } else { condition(before) };
            transition(&verdict, &previous).map(|note| note.warning)
        };
        assert_eq!(told("", Some(false)), Some(true));
        assert_eq!(told("True", Some(false)), Some(true));
        assert_eq!(told("Unknown", Some(false)), Some(true));
        assert_eq!(told("True", None), Some(true));
        assert_eq!(told("False", Some(true)), Some(false));
        assert_eq!(told("Unknown", Some(true)), Some(false));
        for (before, now) in [
            ("", Some(true)),
            ("", None),
            ("True", Some(true)),
            ("False", Some(false)),
            ("Unknown", None),
            ("False", None),
        ] {
            assert_eq!(told(before, now), None, "{before} {now:?}");
        }
    }

    #[test]
    fn every_reason_of_a_verdict_is_one_of_the_kind() {
        for one in Reason::ALL {
            assert_eq!(reason(one).as_str(), one.as_str());
        }
    }
}
