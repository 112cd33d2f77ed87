//! `sys/policies/acl`: ACL policies, read and written as the text they are.

use rustify_derive::Endpoint;
use serde::Deserialize;

use super::{Caller, Operation, error::Error, list_keys, segment};

#[derive(Endpoint)]
#[endpoint(path = "sys/policies/acl/{self.name}")]
struct Read {
    #[endpoint(skip)]
    name: String,
}

#[derive(Endpoint)]
#[endpoint(path = "sys/policies/acl/{self.name}", method = "PUT")]
struct Write {
    #[endpoint(skip)]
    name: String,
    policy: String,
}

#[derive(Endpoint)]
#[endpoint(path = "sys/policies/acl/{self.name}", method = "DELETE")]
struct Delete {
    #[endpoint(skip)]
    name: String,
}

#[derive(Endpoint)]
#[endpoint(path = "sys/policies/acl", method = "LIST")]
struct List {}

#[derive(Deserialize)]
struct Policy {
    policy: String,
}

/// The text of a policy, exactly as it was written; `None` if there is none of this name.
pub async fn read(caller: &Caller, name: &str) -> Result<Option<String>, Error> {
    let operation = Operation::new("read_policy", format!("reading policy `{name}`"));
    let endpoint = Read { name: segment(&operation, name)?.to_owned() };
    let Some(answer) = caller.send(&operation, &endpoint).await?.found()? else {
        return Ok(None);
    };
    Ok(Some(answer.data::<Policy>()?.policy))
}

/// Writes a policy; returns Vault's warnings (an upper-case name is lower-cased with one).
pub async fn write(caller: &Caller, name: &str, policy: &str) -> Result<Vec<String>, Error> {
    let operation = Operation::new("write_policy", format!("writing policy `{name}`"));
    let endpoint = Write { name: segment(&operation, name)?.to_owned(), policy: policy.to_owned() };
    Ok(caller.send(&operation, &endpoint).await?.existing()?.warnings())
}

/// Deletes a policy; nothing happens if there is none.
pub async fn delete(caller: &Caller, name: &str) -> Result<(), Error> {
    let operation = Operation::new("delete_policy", format!("deleting policy `{name}`"));
    let endpoint = Delete { name: segment(&operation, name)?.to_owned() };
    caller.send(&operation, &endpoint).await?.found().map(drop)
}

/// The names of all policies.
pub async fn list(caller: &Caller) -> Result<Vec<String>, Error> {
    let operation = Operation::list("list_policies", "listing the policies");
    Ok(list_keys(caller, &operation, &List {}).await?.unwrap_or_default())
}
