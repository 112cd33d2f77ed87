//! `auth/<mount>` of type aws: roles, and what Vault needs to ask AWS.

use std::collections::BTreeMap;

use rustify_derive::Endpoint;
use serde::{Deserialize, Serialize, Serializer};
use vaultrs::api::auth::aws::requests::{
    DeleteRoleRequest, DeleteStsRoleRequest, ListRolesRequest, ListStsRolesRequest,
    ReadClientConfigurationRequest, ReadIdentityConfigurationRequest, ReadRoleRequest,
    ReadStsRoleRequest,
};

use super::{
    Caller, Operation,
    error::{Cause, Error},
    list_keys, mount_path, segment, wire,
};
use crate::redacted::Redacted;

/// A role as Vault has it. Times are seconds; lists keep Vault's order.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Role {
    /// `iam` or `ec2`; cannot change.
    #[serde(deserialize_with = "wire::or_default")]
    pub auth_type: String,
    /// Server UUID for the life of the role: a re-created role has another.
    #[serde(deserialize_with = "wire::or_default")]
    pub role_id: String,
    /// Who may log in.
    #[serde(deserialize_with = "wire::list")]
    pub bound_iam_principal_arn: Vec<String>,
    /// The unique IDs that Vault found for them (`AROA…`, `AIDA…`), if it resolves.
    #[serde(deserialize_with = "wire::list")]
    pub bound_iam_principal_id: Vec<String>,
    /// Whether ARNs are bound by unique ID. Cannot go from true to false.
    #[serde(deserialize_with = "wire::or_default")]
    pub resolve_aws_unique_ids: bool,
    /// `ec2_instance` or empty.
    #[serde(deserialize_with = "wire::or_default")]
    pub inferred_entity_type: String,
    /// The region in which inferred instances are looked for.
    #[serde(deserialize_with = "wire::or_default")]
    pub inferred_aws_region: String,
    /// EC2 bind.
    #[serde(deserialize_with = "wire::list")]
    pub bound_account_id: Vec<String>,
    /// EC2 bind.
    #[serde(deserialize_with = "wire::list")]
    pub bound_ami_id: Vec<String>,
    /// EC2 bind; `null` when never set.
    #[serde(deserialize_with = "wire::list")]
    pub bound_ec2_instance_id: Vec<String>,
    /// EC2 bind.
    #[serde(deserialize_with = "wire::list")]
    pub bound_iam_instance_profile_arn: Vec<String>,
    /// EC2 bind.
    #[serde(deserialize_with = "wire::list")]
    pub bound_iam_role_arn: Vec<String>,
    /// EC2 bind.
    #[serde(deserialize_with = "wire::list")]
    pub bound_region: Vec<String>,
    /// EC2 bind.
    #[serde(deserialize_with = "wire::list")]
    pub bound_subnet_id: Vec<String>,
    /// EC2 bind.
    #[serde(deserialize_with = "wire::list")]
    pub bound_vpc_id: Vec<String>,
    /// Key of the EC2 tag that narrows the role.
    #[serde(deserialize_with = "wire::or_default")]
    pub role_tag: String,
    /// EC2 only.
    #[serde(deserialize_with = "wire::or_default")]
    pub allow_instance_migration: bool,
    /// EC2 only.
    #[serde(deserialize_with = "wire::or_default")]
    pub disallow_reauthentication: bool,
    /// As written: any case, any order, duplicates kept.
    #[serde(deserialize_with = "wire::list")]
    pub token_policies: Vec<String>,
    /// Only there if the role was written with the old key; then equal to `token_policies`.
    #[serde(deserialize_with = "wire::list")]
    pub policies: Vec<String>,
    /// Seconds; 0 = the mount's.
    #[serde(deserialize_with = "wire::seconds")]
    pub token_ttl: u64,
    /// Seconds; 0 = the mount's.
    #[serde(deserialize_with = "wire::seconds")]
    pub token_max_ttl: u64,
    /// Seconds; 0 = none.
    #[serde(deserialize_with = "wire::seconds")]
    pub token_explicit_max_ttl: u64,
    /// Seconds; 0 = not periodic.
    #[serde(deserialize_with = "wire::seconds")]
    pub token_period: u64,
    /// The old key of `token_ttl`; 0 = not there.
    #[serde(deserialize_with = "wire::seconds")]
    pub ttl: u64,
    /// The old key of `token_max_ttl`; 0 = not there.
    #[serde(deserialize_with = "wire::seconds")]
    pub max_ttl: u64,
    /// The old key of `token_period`; 0 = not there.
    #[serde(deserialize_with = "wire::seconds")]
    pub period: u64,
    /// `10.0.0.0/8`; a `/32` is read back without its mask.
    #[serde(deserialize_with = "wire::list")]
    pub token_bound_cidrs: Vec<String>,
    /// Whether `default` is left out.
    #[serde(deserialize_with = "wire::or_default")]
    pub token_no_default_policy: bool,
    /// 0 = no limit.
    #[serde(deserialize_with = "wire::or_default")]
    pub token_num_uses: u64,
    /// `default`, `service` or `batch` (or the old `default-service`, `default-batch`).
    #[serde(deserialize_with = "wire::or_default")]
    pub token_type: String,
    /// Keys that this program does not know, by name.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// What to write to a role. `None` leaves the key out, which keeps what is stored; an empty list
/// clears. Keys for ec2 must be left out on iam roles, and an unchanged principal too: sending it
/// makes Vault resolve it again.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the keys are those of `Role`, under the same names")]
pub struct RoleWrite {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_iam_principal_arn: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve_aws_unique_ids: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inferred_entity_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inferred_aws_region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_account_id: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_ami_id: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_ec2_instance_id: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_iam_instance_profile_arn: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_iam_role_arn: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_region: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_subnet_id: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_vpc_id: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_policies: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_max_ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_explicit_max_ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_period: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_bound_cidrs: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_no_default_policy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_num_uses: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<String>,
}

/// A write whose body is already JSON.
#[derive(Endpoint)]
#[endpoint(path = "auth/{self.path}", method = "POST")]
struct Write {
    #[endpoint(skip)]
    path: String,
    #[endpoint(raw)]
    body: Vec<u8>,
}

async fn write(
    caller: &Caller,
    operation: &Operation,
    path: String,
    body: &impl Serialize,
) -> Result<Vec<String>, Error> {
    let body = serde_json::to_vec(body).map_err(|_| {
        operation.failed(Cause::InvalidRequest { what: "its body cannot be written".into() })
    })?;
    Ok(caller.send(operation, &Write { path, body }).await?.existing()?.warnings())
}

/// The role; `None` if there is none of this name. The name's case does not matter to Vault.
pub async fn read_role(caller: &Caller, mount: &str, name: &str) -> Result<Option<Role>, Error> {
    let mount = mount_path(mount);
    let operation = Operation::new("read_role", format!("reading role `{name}` at auth/{mount}"));
    let endpoint =
        ReadRoleRequest { mount: mount.to_owned(), role: segment(&operation, name)?.to_owned() };
    match caller.send(&operation, &endpoint).await?.found()? {
        None => Ok(None),
        Some(answer) => answer.data().map(Some),
    }
}

/// Writes a role; returns Vault's warnings (a TTL above the mount's). Vault may ask AWS for IDs.
pub async fn write_role(
    caller: &Caller,
    mount: &str,
    name: &str,
    role: &RoleWrite,
) -> Result<Vec<String>, Error> {
    let mount = mount_path(mount);
    let operation = Operation::new("write_role", format!("writing role `{name}` at auth/{mount}"));
    let operation = operation.asking_aws();
    let path = format!("{mount}/role/{}", segment(&operation, name)?);
    write(caller, &operation, path, role).await
}

/// Deletes a role; nothing happens if there is none. Its tokens live on, but cannot be renewed.
pub async fn delete_role(caller: &Caller, mount: &str, name: &str) -> Result<(), Error> {
    let mount = mount_path(mount);
    let operation =
        Operation::new("delete_role", format!("deleting role `{name}` at auth/{mount}"));
    let endpoint =
        DeleteRoleRequest { mount: mount.to_owned(), role: segment(&operation, name)?.to_owned() };
    caller.send(&operation, &endpoint).await?.existing().map(drop)
}

/// The names of all roles, in lower case.
pub async fn list_roles(caller: &Caller, mount: &str) -> Result<Vec<String>, Error> {
    let mount = mount_path(mount);
    let operation = Operation::list("list_roles", format!("listing the roles at auth/{mount}"));
    let endpoint = ListRolesRequest { mount: mount.to_owned() };
    Ok(list_keys(caller, &operation, &endpoint).await?.unwrap_or_default())
}

/// `config/client`, without the secret key, which Vault never shows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct ClientConfig {
    /// Empty: environment or instance role of the Vault server.
    #[serde(deserialize_with = "wire::or_default")]
    pub access_key: String,
    /// EC2 endpoint; empty = AWS's.
    #[serde(deserialize_with = "wire::or_default")]
    pub endpoint: String,
    /// IAM endpoint; empty = AWS's.
    #[serde(deserialize_with = "wire::or_default")]
    pub iam_endpoint: String,
    /// Where signed logins are sent; empty = AWS's. Who controls it decides who may log in.
    #[serde(deserialize_with = "wire::or_default")]
    pub sts_endpoint: String,
    /// The region for which Vault signs its own STS requests.
    #[serde(deserialize_with = "wire::or_default")]
    pub sts_region: String,
    /// Whether logins go to the region they were signed for. `None`: the server has no such key.
    pub use_sts_region_from_client: Option<bool>,
    /// What `X-Vault-AWS-IAM-Server-ID` must be; empty = the header is not asked for.
    #[serde(deserialize_with = "wire::or_default")]
    pub iam_server_id_header_value: String,
    /// Further `X-Amz-*` headers that a login may carry, in canonical case.
    #[serde(deserialize_with = "wire::list")]
    pub allowed_sts_header_values: Vec<String>,
    /// -1 = the SDK's.
    #[serde(deserialize_with = "wire::or_default")]
    pub max_retries: i64,
    /// Workload identity federation (Enterprise). `None`: the server has no such key.
    pub role_arn: Option<String>,
    /// Workload identity federation (Enterprise). `None`: the server has no such key.
    pub identity_token_audience: Option<String>,
}

/// What to write to `config/client`. `None` leaves the key out. Vault stores some changes only if
/// `max_retries` is sent along.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the keys are those of `ClientConfig`, under the same names")]
pub struct ClientConfigWrite {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    /// Never read back.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "exposed")]
    pub secret_key: Option<Redacted<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iam_endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sts_endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sts_region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_sts_region_from_client: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iam_server_id_header_value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_sts_header_values: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i64>,
}

fn exposed<S: Serializer>(
    secret: &Option<Redacted<String>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Redacted::expose).serialize(serializer)
}

/// `config/client`; `None` if it was never written.
pub async fn read_client_config(
    caller: &Caller,
    mount: &str,
) -> Result<Option<ClientConfig>, Error> {
    let mount = mount_path(mount);
    let operation =
        Operation::new("read_client_config", format!("reading auth/{mount}/config/client"));
    let endpoint = ReadClientConfigurationRequest { mount: mount.to_owned() };
    match caller.send(&operation, &endpoint).await?.found()? {
        None => Ok(None),
        Some(answer) => answer.data().map(Some),
    }
}

/// Writes `config/client`. Vault checks nothing, and drops what it does not know without a word:
/// read back what was written.
pub async fn write_client_config(
    caller: &Caller,
    mount: &str,
    config: &ClientConfigWrite,
) -> Result<Vec<String>, Error> {
    let mount = mount_path(mount);
    let operation =
        Operation::new("write_client_config", format!("writing auth/{mount}/config/client"));
    write(caller, &operation, format!("{mount}/config/client"), config).await
}

/// `config/identity`: which identity a login becomes, and what is known of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct IdentityConfig {
    /// `role_id`, `unique_id`, `canonical_arn` or `full_arn`.
    #[serde(deserialize_with = "wire::or_default")]
    pub iam_alias: String,
    /// Sorted by Vault. Without `auth_type` no token can be renewed.
    #[serde(deserialize_with = "wire::list")]
    pub iam_metadata: Vec<String>,
    /// `role_id`, `instance_id` or `image_id`.
    #[serde(deserialize_with = "wire::or_default")]
    pub ec2_alias: String,
    /// Sorted by Vault.
    #[serde(deserialize_with = "wire::list")]
    pub ec2_metadata: Vec<String>,
}

/// What to write to `config/identity`. `None` leaves the key out.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the keys are those of `IdentityConfig`, under the same names")]
pub struct IdentityConfigWrite {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iam_alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iam_metadata: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ec2_alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ec2_metadata: Option<Vec<String>>,
}

/// `config/identity`; Vault answers with its defaults when it was never written.
pub async fn read_identity_config(caller: &Caller, mount: &str) -> Result<IdentityConfig, Error> {
    let mount = mount_path(mount);
    let operation =
        Operation::new("read_identity_config", format!("reading auth/{mount}/config/identity"));
    let endpoint = ReadIdentityConfigurationRequest { mount: mount.to_owned() };
    caller.send(&operation, &endpoint).await?.existing()?.data()
}

/// Writes `config/identity`.
pub async fn write_identity_config(
    caller: &Caller,
    mount: &str,
    config: &IdentityConfigWrite,
) -> Result<Vec<String>, Error> {
    let mount = mount_path(mount);
    let operation =
        Operation::new("write_identity_config", format!("writing auth/{mount}/config/identity"));
    write(caller, &operation, format!("{mount}/config/identity"), config).await
}

/// `config/sts/<account>`: the role by which Vault looks at a foreign account.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct StsAccount {
    /// The ARN of that role.
    #[serde(default)]
    pub sts_role: String,
    /// Only there if set, and not on every server.
    #[serde(default)]
    pub external_id: Option<Redacted<String>>,
}

/// The entry of a foreign account; `None` if there is none.
pub async fn read_sts_account(
    caller: &Caller,
    mount: &str,
    account_id: &str,
) -> Result<Option<StsAccount>, Error> {
    let mount = mount_path(mount);
    let operation =
        Operation::new("read_sts_account", format!("reading auth/{mount}/config/sts/{account_id}"));
    let endpoint = ReadStsRoleRequest {
        mount: mount.to_owned(),
        account_id: segment(&operation, account_id)?.to_owned(),
    };
    match caller.send(&operation, &endpoint).await?.found()? {
        None => Ok(None),
        Some(answer) => answer.data().map(Some),
    }
}

#[derive(Serialize)]
struct StsAccountWrite<'a> {
    sts_role: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
}

/// Writes the entry of a foreign account. Older servers drop `external_id` silently.
pub async fn write_sts_account(
    caller: &Caller,
    mount: &str,
    account_id: &str,
    sts_role: &str,
    external_id: Option<&Redacted<String>>,
) -> Result<Vec<String>, Error> {
    let mount = mount_path(mount);
    let operation = Operation::new(
        "write_sts_account",
        format!("writing auth/{mount}/config/sts/{account_id}"),
    );
    let path = format!("{mount}/config/sts/{}", segment(&operation, account_id)?);
    let external_id = external_id.map(|secret| secret.expose().as_str());
    write(caller, &operation, path, &StsAccountWrite { sts_role, external_id }).await
}

/// Deletes the entry of a foreign account; nothing happens if there is none.
pub async fn delete_sts_account(
    caller: &Caller,
    mount: &str,
    account_id: &str,
) -> Result<(), Error> {
    let mount = mount_path(mount);
    let operation = Operation::new(
        "delete_sts_account",
        format!("deleting auth/{mount}/config/sts/{account_id}"),
    );
    let endpoint = DeleteStsRoleRequest {
        mount: mount.to_owned(),
        account_id: segment(&operation, account_id)?.to_owned(),
    };
    caller.send(&operation, &endpoint).await?.existing().map(drop)
}

/// The accounts that have an entry.
pub async fn list_sts_accounts(caller: &Caller, mount: &str) -> Result<Vec<String>, Error> {
    let mount = mount_path(mount);
    let operation =
        Operation::list("list_sts_accounts", format!("listing auth/{mount}/config/sts"));
    let endpoint = ListStsRolesRequest { mount: mount.to_owned() };
    Ok(list_keys(caller, &operation, &endpoint).await?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_as_vault_writes_it() {
        let role: Role = serde_json::from_str(
            r#"{"allow_instance_migration":false,"auth_type":"iam","bound_account_id":[],
            "bound_ami_id":[],"bound_ec2_instance_id":null,"bound_iam_instance_profile_arn":[],
            "bound_iam_principal_arn":["arn:aws:iam::111122223333:role/web"],
            "bound_iam_principal_id":[],"bound_iam_role_arn":[],"bound_region":[],
            "bound_subnet_id":[],"bound_vpc_id":[],"disallow_reauthentication":false,
            "inferred_aws_region":"","inferred_entity_type":"","resolve_aws_unique_ids":false,
            "role_id":"eb8dd357","role_tag":"","token_bound_cidrs":[],"token_explicit_max_ttl":0,
            "token_max_ttl":0,"token_no_default_policy":false,"token_num_uses":0,"token_period":0,
            "token_policies":["b","a"],"token_ttl":3600,"token_type":"default"}"#,
        )
        .unwrap();
        assert_eq!(role.bound_iam_principal_arn, ["arn:aws:iam::111122223333:role/web"]);
        assert_eq!(role.token_policies, ["b", "a"]);
        assert_eq!(role.token_ttl, 3600);
        assert!(role.bound_ec2_instance_id.is_empty());
        assert!(role.unknown.is_empty(), "{:?}", role.unknown);
    }

    #[test]
    fn what_a_role_write_leaves_out_is_not_sent() {
        let write = RoleWrite {
            token_policies: Some(Vec::new()),
            token_ttl: Some(0),
            ..RoleWrite::default()
        };
        assert_eq!(
            serde_json::to_string(&write).unwrap(),
            r#"{"token_policies":[],"token_ttl":0}"#
        );
        assert_eq!(serde_json::to_string(&RoleWrite::default()).unwrap(), "{}");
    }

    #[test]
    fn a_client_config_is_read_with_null_and_with_missing_keys() {
        let config: ClientConfig = serde_json::from_str(
            r#"{"access_key":"AKIA","allowed_sts_header_values":null,"endpoint":"",
            "iam_endpoint":"","iam_server_id_header_value":"vault.lab","max_retries":-1,
            "sts_endpoint":"","sts_region":"us-east-1"}"#,
        )
        .unwrap();
        assert_eq!(config.use_sts_region_from_client, None);
        assert!(config.allowed_sts_header_values.is_empty());
        assert_eq!(config.max_retries, -1);
    }

    #[test]
    fn a_secret_key_is_sent_and_not_shown() {
        let write = ClientConfigWrite {
            secret_key: Some(Redacted::new("s3cret".to_owned())),
            ..ClientConfigWrite::default()
        };
        assert_eq!(serde_json::to_string(&write).unwrap(), r#"{"secret_key":"s3cret"}"#);
        assert!(!format!("{write:?}").contains("s3cret"));
    }
}
