//! IAM policies: what Vault and the syncer may ask of AWS, and what a client's role consents to.
//!
//! The actions: <https://developer.hashicorp.com/vault/docs/auth/aws#recommended-vault-iam-policy>.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Document, Fault};
use crate::{
    crd::{AuthType, IdentityKind, Partition, TenancyRule, VaultAwsBackendSpec},
    naming::external_id,
};

/// The IAM policy of Vault's own AWS identity (`auth.client.credentialsRef`, else what the server has).
pub fn of_vault(spec: &VaultAwsBackendSpec, partition: Partition) -> Document {
    let mut statements = vec![json!({
        "Sid": "WhoAmI",
        "Effect": "Allow",
        "Action": "sts:GetCallerIdentity",
        "Resource": "*",
    })];
    let mut remarks = vec![
        "sts:GetCallerIdentity needs no permission in AWS; it is there so that the policy is never empty"
            .to_owned(),
    ];
    let foreign: BTreeSet<&str> =
        spec.auth.accounts.iter().map(|account| account.account_id.as_str()).collect();
    if spec.auth.resolve_aws_unique_ids {
        let granted: BTreeSet<&str> = accounts(spec).collect();
        let own: Vec<&str> = granted.difference(&foreign).copied().collect();
        if own.is_empty() {
            remarks.push(
                "every account of the tenancy has its entry in auth.accounts, so Vault asks none by \
                 itself"
                    .to_owned(),
            );
        } else {
            let of =
                |kind: &str| own.iter().map(|account| arn(partition, account, kind, "*")).collect();
            statements.push(allow("UniqueIdsOfRoles", "iam:GetRole", of("role")));
            if spec.tenancy.iter().any(|rule| !rule.iam_users.is_empty()) {
                statements.push(allow("UniqueIdsOfUsers", "iam:GetUser", of("user")));
            }
            if own.len() > 1 {
                remarks.push(format!(
                    "IAM answers questions about its own account only: of {} all but Vault's own \
                     need an entry in auth.accounts",
                    own.join(", ")
                ));
            }
        }
    } else {
        remarks.push(
            "auth.resolveAwsUniqueIds is false, so Vault does not ask IAM; a VaultAwsRole that says \
             true for itself needs iam:GetRole as well"
                .to_owned(),
        );
    }
    let logs_in_instances =
        |rule: &TenancyRule| rule.allow_inference || rule.auth_types.contains(&AuthType::Ec2);
    if spec.tenancy.iter().any(logs_in_instances) {
        // Neither action can be limited to instances that nobody knows yet.
        let all = || vec!["*".to_owned()];
        statements.push(allow("Instances", "ec2:DescribeInstances", all()));
        statements.push(allow("InstanceProfiles", "iam:GetInstanceProfile", all()));
    }
    if !foreign.is_empty() {
        let roles: BTreeSet<&str> =
            spec.auth.accounts.iter().map(|account| account.sts_role_arn.as_str()).collect();
        let resources = roles.into_iter().map(str::to_owned).collect();
        statements.push(allow("OtherAccounts", "sts:AssumeRole", resources));
        remarks.push(
            "the roles of auth.accounts need iam:GetRole in their own accounts, and have to trust \
             Vault's identity"
                .to_owned(),
        );
    }
    Document { text: policy(statements), remarks }
}

/// The IAM policy of the syncer: it may assume the roles of the tenancy rules whose `identities` list
/// AssumeRole, and nothing else.
pub fn of_operator(spec: &VaultAwsBackendSpec, partition: Partition) -> Document {
    let assumable = spec
        .tenancy
        .iter()
        .filter(|rule| rule.identities.contains(&IdentityKind::AssumeRole))
        .flat_map(|rule| rule.accounts.iter().map(move |account| (account, &rule.iam_roles)))
        .flat_map(|(account, roles)| {
            roles.iter().map(move |role| arn(partition, account, "role", role))
        });
    let resources: BTreeSet<String> = assumable.collect();
    let mut remarks = Vec::new();
    let statement = if resources.is_empty() {
        remarks.push(
            "no tenancy rule lists AssumeRole, so the syncer needs nothing in AWS: this policy denies it"
                .to_owned(),
        );
        json!({"Sid": "Nothing", "Effect": "Deny", "Action": "sts:AssumeRole", "Resource": "*"})
    } else {
        remarks.push(
            "the ARN of a role with a path has that path: where a VaultAwsRole says iamRolePath, put \
             it in, as role/team/web"
                .to_owned(),
        );
        allow("AssumeClients", "sts:AssumeRole", resources.into_iter().collect())
    };
    Document { text: policy(vec![statement]), remarks }
}

/// The trust policy of a client's role: the syncer may assume it, if it says this cluster's ExternalId.
/// `cluster` is needed where neither the backend nor the template says it.
///
/// # Errors
/// [`Fault`] where the principal is none, or the ExternalId names a cluster that nobody named.
pub fn trust(
    spec: &VaultAwsBackendSpec,
    operator: &str,
    namespace: &str,
    cluster: Option<&str>,
) -> Result<Document, Fault> {
    if !is_principal(operator) {
        return Err(Fault::Principal(operator.to_owned()));
    }
    let template = &spec.aws.external_id;
    let cluster = cluster.or(spec.cluster_id.as_deref());
    if template.contains("{clusterId}") && cluster.is_none() {
        return Err(Fault::ClusterId);
    }
    let mut remarks = vec![
        "only sts:GetCallerIdentity is done with the session: it carries a session policy that denies \
         everything else"
            .to_owned(),
    ];
    if !template.contains("{namespace}") {
        remarks.push(
            "the ExternalId of this backend does not name the namespace: every namespace that tenancy \
             grants the role to says the same"
                .to_owned(),
        );
    }
    let statement = json!({
        "Sid": "VaultAwsOperator",
        "Effect": "Allow",
        "Principal": {"AWS": operator},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {
            "sts:ExternalId": external_id(spec, cluster.unwrap_or_default(), namespace),
        }},
    });
    Ok(Document { text: policy(vec![statement]), remarks })
}

fn accounts(spec: &VaultAwsBackendSpec) -> impl Iterator<Item = &str> {
    spec.tenancy.iter().flat_map(|rule| rule.accounts.iter().map(String::as_str))
}

fn arn(partition: Partition, account: &str, kind: &str, name: &str) -> String {
    format!("arn:{partition}:iam::{account}:{kind}/{name}")
}

fn allow(sid: &str, action: &str, resources: Vec<String>) -> Value {
    json!({"Sid": sid, "Effect": "Allow", "Action": action, "Resource": resources})
}

fn policy(statements: Vec<Value>) -> String {
    let policy = json!({"Version": "2012-10-17", "Statement": statements});
    // The alternate form of a JSON value cannot fail.
    format!("{policy:#}\n")
}

/// An ARN of IAM, or twelve digits.
fn is_principal(text: &str) -> bool {
    let is_account =
        |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    match parts.as_slice() {
        [account] => is_account(account),
        ["arn", partition, "iam", "", account, resource] => {
            let name = resource.strip_prefix("role/").or_else(|| resource.strip_prefix("user/"));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&byte);
            partition.starts_with("aws")
                && is_account(account)
                && (*resource == "root"
                    || name.is_some_and(|name| !name.is_empty() && name.bytes().all(plain)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(changes: &Value) -> VaultAwsBackendSpec {
        let mut spec = json!({
            "clusterId": "prod",
            "vault": {"address": "https://vault.example.com:8200"},
            "operatorLogin": {"serviceAccount": {"role": "vault-aws-operator"}},
            "tenancy": [
                {
                    "name": "a", "namespaces": {"names": ["team-a"]},
                    "accounts": ["111122223333", "444455556666"], "iamRoles": ["web", "api-*"],
                },
                {
                    "name": "b", "namespaces": {"names": ["team-b"]}, "accounts": ["777788889999"],
                    "iamRoles": ["db"], "identities": ["Secret"],
                },
            ],
        });
        for (key, value) in changes.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    fn read(document: &Document) -> Value {
        let value: Value = serde_json::from_str(&document.text).unwrap();
        assert_eq!(value["Version"], "2012-10-17");
        value["Statement"].clone()
    }

    #[test]
    fn the_syncer_may_assume_what_rules_with_assume_role_name_and_no_more() {
        let statements = read(&of_operator(&spec(&json!({})), Partition::Aws));
        assert_eq!(
            statements[0]["Resource"],
            json!([
                "arn:aws:iam::111122223333:role/api-*",
                "arn:aws:iam::111122223333:role/web",
                "arn:aws:iam::444455556666:role/api-*",
                "arn:aws:iam::444455556666:role/web",
            ])
        );
        let nobody = read(&of_operator(&spec(&json!({"tenancy": []})), Partition::Aws));
        assert_eq!(nobody[0]["Effect"], "Deny");
    }

    #[test]
    fn vault_is_given_what_the_backends_fields_need() {
        let sids = |changes: &Value| -> Vec<String> {
            let statements = read(&of_vault(&spec(changes), Partition::Aws));
            let all = statements.as_array().unwrap().iter();
            all.map(|one| one["Sid"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(sids(&json!({})), ["WhoAmI"]);
        let unique = json!({"auth": {"resolveAwsUniqueIds": true}});
        assert_eq!(sids(&unique), ["WhoAmI", "UniqueIdsOfRoles"]);
        let rule = |more: Value| {
            let mut rule = json!({"name": "a", "namespaces": {"names": ["a"]},
                "accounts": ["111122223333"], "iamUsers": ["deploy"]});
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"auth": {"resolveAwsUniqueIds": true}, "tenancy": [rule]})
        };
        let users = ["WhoAmI", "UniqueIdsOfRoles", "UniqueIdsOfUsers"];
        assert_eq!(sids(&rule(json!({}))), users);
        for instances in [json!({"authTypes": ["iam", "ec2"]}), json!({"allowInference": true})] {
            let all = [&users[..], &["Instances", "InstanceProfiles"]].concat();
            assert_eq!(sids(&rule(instances)), all);
        }
        let account = |id: &str| json!({"accountId": id, "stsRoleArn": format!("arn:aws:iam::{id}:role/vault")});
        let all = ["111122223333", "444455556666", "777788889999"];
        let foreign = json!({"auth": {
            "management": "Managed",
            "resolveAwsUniqueIds": true,
            "accounts": all.map(account),
        }});
        assert_eq!(sids(&foreign), ["WhoAmI", "OtherAccounts"]);
        let statements = read(&of_vault(&spec(&foreign), Partition::Aws));
        assert_eq!(statements[1]["Resource"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn a_client_consents_to_one_principal_one_cluster_and_one_namespace() {
        let operator = "arn:aws:iam::999999999999:role/vault-aws-syncer";
        let statements = read(&trust(&spec(&json!({})), operator, "team-a", None).unwrap());
        assert_eq!(statements[0]["Principal"], json!({"AWS": operator}));
        let id = &statements[0]["Condition"]["StringEquals"]["sts:ExternalId"];
        assert_eq!(id, "prod/team-a");
        let unnamed = spec(&json!({"clusterId": null}));
        assert_eq!(trust(&unnamed, operator, "team-a", None), Err(Fault::ClusterId));
        assert!(trust(&unnamed, operator, "team-a", Some("x")).is_ok());
    }

    #[test]
    fn who_may_assume_is_never_everybody() {
        for bad in
            ["*", "", "arn:aws:iam::999999999999:role/*", "arn:aws:sts::1:assumed-role/a/b", "1"]
        {
            assert!(trust(&spec(&json!({})), bad, "team-a", None).is_err(), "{bad}");
        }
        for good in ["999999999999", "arn:aws-cn:iam::999999999999:user/a/b"] {
            assert!(trust(&spec(&json!({})), good, "team-a", None).is_ok(), "{good}");
        }
    }
}
