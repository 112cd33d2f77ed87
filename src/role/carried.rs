//! What a login of a role carries besides the role's own policy: texts of other policies, and what the
//! login's entity and its groups add. Reads only.
//!
//! What the operator may not read is no failure: the verdict then says that nobody knows. Texts are the
//! same for many roles, so each is kept for a moment: the passes of a thousand roles that name `default`
//! read it once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use kube::ResourceExt;
use tokio::time::Instant;

use super::{desired::Desired, observe::Observed, plan::folded};
use crate::{
    crd::{AuthType, Drift, VaultAwsBackend},
    fault::Fault,
    lock::lock,
    vault::{Caller, Error, aws_auth, identity, policies},
};

/// How long a text that was read counts as what is there.
const FRESH: Duration = Duration::from_secs(10);
/// The most texts that are kept.
const CAPACITY: usize = 512;
/// The most groups of an entity that are looked at. An entity in more is not judged.
const MAX_GROUPS: usize = 64;

/// What a login carries besides the role's own policy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Carried {
    /// The role's own policy, where it is judged as it stands because nothing will be written; else it
    /// is judged as it is about to be written.
    pub own: Option<Held>,
    /// Other policies by name, as Vault folds it, those of `identity` included.
    pub policies: BTreeMap<String, Held>,
    /// Names of those that come from the entity and its groups; `None` if nobody knows.
    pub identity: Option<Vec<String>>,
}

/// What is known of a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Held {
    /// Its text.
    Text(Arc<str>),
    /// There is none of this name.
    Missing,
    /// We may not read it.
    Unreadable,
}

/// What was read a moment ago, of all backends.
#[derive(Debug, Default)]
pub struct Shelf {
    slots: Mutex<HashMap<Key, Slot>>,
}

/// Whoever holds it reads; the others wait for what he finds.
type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Kept)>>>;

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    /// UID and generation: another spec may be another Vault, or another token.
    backend: (String, i64),
    what: What,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum What {
    Policy(String),
    Alias(String),
}

#[derive(Clone, Debug)]
enum Kept {
    Policy(Held),
    /// `iam_alias` of the mount; `None` if it may not be read.
    Alias(Option<(String, String)>),
}

/// Reads through the shelf, for one backend.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    shelf: &'a Shelf,
    vault: &'a Caller,
    backend: &'a VaultAwsBackend,
}

impl Shelf {
    /// For a pass over a role of this backend.
    pub fn reader<'a>(&'a self, vault: &'a Caller, backend: &'a VaultAwsBackend) -> Reader<'a> {
        Reader { shelf: self, vault, backend }
    }

    fn slot(&self, key: Key) -> Slot {
        let mut slots = lock(&self.slots);
        if slots.len() >= CAPACITY && !slots.contains_key(&key) {
            // Whoever reads now keeps his slot; the rest is read again.
            slots.clear();
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

impl Reader<'_> {
    /// What the logins of a role will carry when it is as desired; where differences are only told,
    /// what they carry as it stands.
    ///
    /// # Errors
    /// What Vault said, if it was anything but "there is none" or "not for you".
    pub async fn carried(&self, desired: &Desired, observed: &Observed) -> Result<Carried, Error> {
        let identity = self.identity(desired, observed).await?;
        let standing = observed.role.as_ref().filter(|_| desired.drift == Drift::Report);
        let (mut names, without_default) = match standing {
            None => (desired.token_policies().into_iter().collect(), desired.no_default_policy),
            Some(role) => {
                let names = role.token_policies.iter().chain(&role.policies);
                (folded(names), role.token_no_default_policy)
            }
        };
        if !without_default {
            names.insert("default".to_owned());
        }
        names.extend(identity.iter().flatten().cloned());
        // One that the role does not name opens nothing.
        let is_named = names.remove(&desired.names.policy);
        let own = standing.map(|_| match &observed.policy {
            Some(text) if is_named => Held::Text(text.as_str().into()),
            None if is_named => Held::Missing,
            _ => Held::Text("".into()),
        });
        let mut policies = BTreeMap::new();
        for name in names {
            let held = self.policy(&name).await?;
            policies.insert(name, held);
        }
        Ok(Carried { own, policies, identity })
    }

    /// Names of the policies that the entity of the role's logins and its groups add; `None` where that
    /// cannot be known.
    async fn identity(
        &self,
        desired: &Desired,
        observed: &Observed,
    ) -> Result<Option<Vec<String>>, Error> {
        let status = self.backend.status.as_ref();
        let Some(accessor) = status.and_then(|status| status.mount_accessor.as_deref()) else {
            return Ok(None);
        };
        let mount = &desired.names.mount;
        let read = async || {
            let config = aws_auth::read_identity_config(self.vault, mount).await;
            Ok(Kept::Alias(
                refused_is_none(config)?.map(|config| (config.iam_alias, config.ec2_alias)),
            ))
        };
        let Kept::Alias(Some((iam, ec2))) = self.kept(What::Alias(mount.clone()), read).await?
        else {
            return Ok(None);
        };
        let alias = match desired.auth_type {
            AuthType::Iam => &iam,
            AuthType::Ec2 => &ec2,
        };
        let Some(aliases) = aliases(alias, desired, observed) else { return Ok(None) };
        let mut names = Vec::new();
        for alias in aliases {
            let found = identity::entity_of_alias(self.vault, accessor, &alias).await;
            let Some(found) = refused_is_none(found)? else { return Ok(None) };
            let Some(entity) = found else { continue };
            names.extend(entity.policies);
            if entity.group_ids.len() > MAX_GROUPS {
                return Ok(None);
            }
            for group in entity.group_ids {
                let found = identity::group_policies(self.vault, &group).await;
                let Some(found) = refused_is_none(found)? else { return Ok(None) };
                names.extend(found.unwrap_or_default());
            }
        }
        Ok(Some(folded(&names).into_iter().collect()))
    }

    async fn policy(&self, name: &str) -> Result<Held, Error> {
        let read = async || {
            Ok(Kept::Policy(match denied_is_none(policies::read(self.vault, name).await)? {
                Some(Some(text)) => Held::Text(text.into()),
                Some(None) => Held::Missing,
                None => Held::Unreadable,
            }))
        };
        match self.kept(What::Policy(name.to_owned()), read).await? {
            Kept::Policy(held) => Ok(held),
            Kept::Alias(_) => Ok(Held::Unreadable),
        }
    }

    async fn kept(
        &self,
        what: What,
        read: impl AsyncFnOnce() -> Result<Kept, Error>,
    ) -> Result<Kept, Error> {
        let backend = (
            self.backend.uid().unwrap_or_default(),
            self.backend.metadata.generation.unwrap_or_default(),
        );
        let slot = self.shelf.slot(Key { backend, what });
        let mut slot = slot.lock().await;
        if let Some((_, kept)) = slot.as_ref().filter(|(read, _)| read.elapsed() < FRESH) {
            return Ok(kept.clone());
        }
        let kept = read().await?;
        *slot = Some((Instant::now(), kept.clone()));
        Ok(kept)
    }
}

/// Under which names Vault knows the entity of the role's logins; `None` if that depends on the session.
fn aliases(alias: &str, desired: &Desired, observed: &Observed) -> Option<Vec<String>> {
    let role = observed.role.as_ref();
    // Of those whom a wildcard lets in nobody knows who they are.
    let has_prefix = desired.principals.iter().any(|arn| arn.ends_with('*'));
    match alias {
        // A role that is not there yet gets an ID that nobody has.
        "role_id" | "" => Some(role.map(|role| role.role_id.clone()).into_iter().collect()),
        "unique_id" | "canonical_arn" if has_prefix => None,
        "unique_id" => {
            let ids = role.map(|role| role.bound_iam_principal_id.clone()).unwrap_or_default();
            (desired.unique_ids && !ids.is_empty()).then_some(ids)
        }
        // Without unique IDs the bound ARN is the one that a session shows.
        "canonical_arn" => (!desired.unique_ids).then(|| desired.principals.clone()),
        _ => None,
    }
}

fn denied_is_none<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_denied() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a server has its own way with leaves a verdict open. What others would meet as well, and a dead
/// token, is a failure of the pass.
fn refused_is_none<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_shared() || error.is_token_invalid() => Err(error),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::role::{desired::tests::desired, plan::tests::role};

    fn names(alias: &str, unique: bool, in_vault: serde_json::Value) -> Option<Vec<String>> {
        let desired = desired(json!({"resolveAwsUniqueIds": unique}), json!({}));
        let role = (!in_vault.is_null()).then(|| role(in_vault));
        aliases(alias, &desired, &Observed { role, policy: None })
    }

    #[test]
    fn by_role_id_an_entity_is_known_and_a_role_that_is_not_there_has_none() {
        assert_eq!(names("role_id", false, json!(null)), Some(Vec::new()));
        let there = names("role_id", true, json!({"role_id": "an-id"}));
        assert_eq!(there, Some(vec!["an-id".to_owned()]));
    }

    #[test]
    fn by_unique_id_it_is_known_where_vault_resolves_them() {
        let resolved = json!({"bound_iam_principal_id": ["AROA1"]});
        assert_eq!(names("unique_id", true, resolved), Some(vec!["AROA1".to_owned()]));
        assert_eq!(names("unique_id", false, json!({})), None);
    }

    #[test]
    fn by_canonical_arn_it_is_known_where_the_bound_one_is_that() {
        let arn = "arn:aws:iam::111122223333:role/web".to_owned();
        assert_eq!(names("canonical_arn", false, json!({})), Some(vec![arn]));
        assert_eq!(names("canonical_arn", true, json!({})), None);
    }

    #[test]
    fn of_those_whom_a_wildcard_lets_in_nobody_knows_the_entity() {
        let mut desired = desired(json!({}), json!({}));
        desired.principals.push("arn:aws:iam::111122223333:role/api-*".into());
        let observed = Observed { role: Some(role(json!({}))), policy: None };
        for alias in ["canonical_arn", "unique_id"] {
            assert_eq!(aliases(alias, &desired, &observed), None);
        }
        assert!(aliases("role_id", &desired, &observed).is_some());
    }

    #[test]
    fn by_the_arn_of_the_session_nobody_knows() {
        assert_eq!(names("full_arn", false, json!({})), None);
    }

    #[test]
    fn a_full_shelf_forgets() {
        let shelf = Shelf::default();
        for n in 0..=CAPACITY {
            let what = What::Policy(n.to_string());
            shelf.slot(Key { backend: ("a".into(), 1), what });
        }
        assert_eq!(lock(&shelf.slots).len(), 1);
    }
}
