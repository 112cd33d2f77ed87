//! `identity`: the entity that a login becomes, and the policies that it and its groups add.

use rustify_derive::Endpoint;
use serde::Deserialize;

use super::{Caller, Operation, error::Error, segment, wire};

/// An entity, as far as it decides what its logins may do.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Entity {
    /// Policies that each of its logins carries besides.
    #[serde(deserialize_with = "wire::list")]
    pub policies: Vec<String>,
    /// IDs of the groups it is in, those of groups in groups included.
    #[serde(deserialize_with = "wire::list")]
    pub group_ids: Vec<String>,
}

#[derive(Endpoint)]
#[endpoint(path = "identity/lookup/entity", method = "POST")]
struct Lookup {
    alias_name: String,
    alias_mount_accessor: String,
}

#[derive(Endpoint)]
#[endpoint(path = "identity/group/id/{self.id}")]
struct ReadGroup {
    #[endpoint(skip)]
    id: String,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default, deserialize_with = "wire::list")]
    policies: Vec<String>,
}

/// The entity of an alias at an auth mount; `None` if nobody of that alias has ever logged in and
/// nobody made one.
pub async fn entity_of_alias(
    caller: &Caller,
    accessor: &str,
    alias: &str,
) -> Result<Option<Entity>, Error> {
    let operation = Operation::new("lookup_entity", "looking up the entity of the role's logins");
    let endpoint =
        Lookup { alias_name: alias.to_owned(), alias_mount_accessor: accessor.to_owned() };
    match caller.send(&operation, &endpoint).await?.found()? {
        // 204.
        Some(answer) if answer.is_empty() => Ok(None),
        Some(answer) => answer.data().map(Some),
        None => Ok(None),
    }
}

/// The policies of a group; `None` if there is none of this ID.
pub async fn group_policies(caller: &Caller, id: &str) -> Result<Option<Vec<String>>, Error> {
    let operation = Operation::new("read_group", "reading a group of the entity");
    let endpoint = ReadGroup { id: segment(&operation, id)?.to_owned() };
    match caller.send(&operation, &endpoint).await?.found()? {
        Some(answer) => Ok(Some(answer.data::<Group>()?.policies)),
        None => Ok(None),
    }
}
