//! The auth mount, compared with the spec and, where it is ours, put right.
//!
//! The STS endpoint comes first, and config/client is looked at more often than the rest: whoever answers
//! there says who is who, so whoever can change it can log in as anybody at this mount.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    Backends, Error, Found,
    apply::apply,
    check_kv,
    desired::Desired,
    fingerprint::fingerprint,
    managed::Managed,
    observe::observe,
    plan::{self, Keys, Known, Plan, Secrets, Step, plan},
};
use crate::{
    connection,
    controller::{
        condition::{find, shorten},
        pass::{Note, Verdict},
    },
    crd::{BackendReason, REFRESH_ANNOTATION, VaultAwsBackend, VaultAwsBackendStatus},
    fault::{Fault as _, chain},
    vault::{Caller, Tenant, aws_auth, health::Health},
};

/// Between two comparisons of the mounts while nothing changes.
const WHOLE_INTERVAL: SignedDuration = SignedDuration::from_mins(5);
/// Between two looks at config/client.
const CLIENT_INTERVAL: SignedDuration = SignedDuration::from_secs(30);
/// How much is said of a value that somebody else wrote into Vault, in bytes.
const FOREIGN_LIMIT: usize = 200;

/// What is compared: another one is compared at once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Wish {
    uid: String,
    generation: Option<i64>,
    /// The annotation that asks for a look.
    refresh: Option<String>,
    /// Of Vault: another version may keep what this one does not.
    version: String,
    /// Of Vault's: another one has mounts of its own.
    cluster: Option<String>,
}

/// What is remembered of a mount from pass to pass.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    of: Wish,
    /// When all was last compared, and nothing was left to do.
    whole: Option<Timestamp>,
    /// When config/client was last looked at, and nothing was left to do.
    client: Option<Timestamp>,
    /// Fields that the server did not keep; see [`Plan::fields`].
    dropped: BTreeSet<String>,
    /// Fields that it did not keep once: somebody may have changed them in between.
    suspect: BTreeSet<String>,
}

impl Memory {
    /// The memory of this backend, or an empty one if another thing is wished now.
    pub(super) fn of(known: Option<Self>, backend: &VaultAwsBackend, health: &Health) -> Self {
        let of = Wish {
            uid: backend.uid().unwrap_or_default(),
            generation: backend.metadata.generation,
            refresh: backend.annotations().get(REFRESH_ANNOTATION).cloned(),
            version: health.version.clone(),
            cluster: health.cluster_id.clone(),
        };
        known.filter(|known| known.of == of).unwrap_or(Self { of, ..Self::default() })
    }

    /// What was sent twice and still differs was dropped by the server; what differs no more was not.
    fn judge(&mut self, sent: BTreeSet<String>, differing: &BTreeSet<String>) {
        let (again, first): (BTreeSet<_>, BTreeSet<_>) =
            sent.into_iter().partition(|field| self.suspect.contains(field));
        self.dropped.extend(again);
        self.dropped.retain(|field| differing.contains(field));
        self.suspect = first.intersection(differing).cloned().collect();
    }

    /// Compares again as soon as possible.
    pub(super) fn distrust(&mut self) {
        self.whole = None;
    }
}

fn recent(at: Option<Timestamp>, interval: SignedDuration, now: Timestamp) -> bool {
    at.is_some_and(|at| now.duration_since(at) < interval)
}

impl Backends {
    /// Looks at the mounts, if that is due.
    pub(super) async fn mounts(
        &self,
        backend: &VaultAwsBackend,
        desired: &Desired,
        status: &mut VaultAwsBackendStatus,
        found: &mut Found,
        memory: &mut Memory,
        now: Timestamp,
    ) -> Result<(), Error> {
        // What was found counts only where it could be told.
        let told = find(&status.conditions, "MountConfigured")
            .is_some_and(|told| told.observed_generation == backend.metadata.generation);
        let whole = told && recent(memory.whole, WHOLE_INTERVAL, now);
        if whole && (desired.managed.is_none() || recent(memory.client, CLIENT_INTERVAL, now)) {
            return Ok(());
        }
        let caller = self.connections.operator(backend, Tenant::Operator).await?;
        if self.client_holds(&caller, desired, status, found, memory).await? && whole {
            memory.client = Some(now);
            return Ok(());
        }
        let compared = self.compare(&caller, backend, desired, status, found, memory).await;
        if let Err(Error::Vault(error)) = &compared
            && !error.is_shared()
            && !error.is_token_invalid()
            && found.mount.is_none()
        {
            found.mount = Some(Verdict::no("MountConfigured", error.reason(), chain(error)));
        }
        if compared? {
            memory.whole = Some(now);
            memory.client = Some(now);
        }
        Ok(())
    }

    /// Whether config/client still is as declared, the keys apart. An STS endpoint that was once found
    /// right and is not any more is put right, alone and before anything else is read or written, and
    /// people are told.
    async fn client_holds(
        &self,
        caller: &Caller,
        desired: &Desired,
        status: &VaultAwsBackendStatus,
        found: &mut Found,
        memory: &Memory,
    ) -> Result<bool, Error> {
        let Some(managed) = &desired.managed else { return Ok(true) };
        // What cannot be read is for the whole comparison to say.
        let Ok(Some(client)) = aws_auth::read_client_config(caller, &desired.mount).await else {
            return Ok(false);
        };
        let Some(step) = plan::endpoint(&managed.client, Some(&client)) else {
            return Ok(plan::client_holds(&managed.client, client, &memory.dropped));
        };
        // Where it was never right, or the spec has changed and not Vault, nobody has forged anything.
        let confirmed = match &status.sts_endpoint {
            Some(confirmed) if *confirmed != client.sts_endpoint => confirmed,
            _ => return Ok(false),
        };
        let what = format!(
            "auth/{}/config/client forwarded logins to {} instead of {confirmed}: whoever answers there \
             could log in as anybody",
            desired.mount,
            foreign(&client.sts_endpoint)
        );
        let plan = Plan { steps: vec![step], rotated: None };
        let put_back = apply(caller, &desired.mount, &plan).await.map_err(|(_, error)| error);
        let (message, news) = match &put_back {
            Ok(()) => (format!("{what}; put back"), true),
            // Said elsewhere; it is tried again at once.
            Err(error) if error.is_shared() || error.is_token_invalid() => (String::new(), false),
            Err(error) => {
                found.mount = Some(Verdict::no("MountConfigured", error.reason(), chain(error)));
                let known = find(&status.conditions, "MountConfigured")
                    .is_some_and(|old| old.status == "False" && old.reason == error.reason());
                (format!("{what}; putting it back failed: {}", chain(error)), !known)
            }
        };
        if news {
            tracing::warn!(mount = desired.mount, "{message}");
            self.metrics.sts_endpoint_drifted();
            let reason = BackendReason::StsEndpointDrift.as_str();
            found.notes.push(Note { warning: true, reason, message });
        }
        put_back?;
        Ok(false)
    }

    /// Compares the mounts with the spec and, where they are ours, puts them right. Whether nothing is
    /// left to do.
    async fn compare(
        &self,
        caller: &Caller,
        backend: &VaultAwsBackend,
        desired: &Desired,
        status: &mut VaultAwsBackendStatus,
        found: &mut Found,
        memory: &mut Memory,
    ) -> Result<bool, Error> {
        let mut observed = observe(caller, desired).await?;
        let refuse = match &observed.mount {
            Some(mount) if mount.kind != desired.kind => Some(Error::MountConflict {
                mount: desired.mount.clone(),
                kind: mount.kind.clone(),
                wanted: desired.kind.clone(),
            }),
            None if desired.managed.is_none() => Some(Error::MountNotFound(desired.mount.clone())),
            _ => None,
        };
        if let Some(error) = refuse {
            found.mount = Some(Verdict::no("MountConfigured", error.reason(), error.to_string()));
            return Err(error);
        }
        // A Secret that is missing does not keep the rest from being put right.
        let (secrets, missing) = self.secrets(backend, desired.managed.as_ref()).await;
        let written = status.client_keys.clone();
        let known = Known { written: written.as_ref(), dropped: &memory.dropped };
        let steps = plan(desired, &observed, &secrets, known);
        if !steps.steps.is_empty() {
            self.carry_out(caller, desired, &steps, &secrets, status, found).await?;
            observed = observe(caller, desired).await?;
        }
        status.mount_accessor = observed.mount.as_ref().map(|mount| mount.accessor.clone());

        let nothing = BTreeSet::new();
        let known = Known { written: status.client_keys.as_ref(), dropped: &nothing };
        let left = plan(desired, &observed, &secrets, known);
        let differing = left.fields();
        memory.judge(steps.fields(), &differing);
        let endpoint =
            desired.managed.as_ref().and_then(|managed| managed.client.sts_endpoint.clone());
        status.sts_endpoint = endpoint.filter(|_| !differing.contains(plan::STS_ENDPOINT));
        let verdict = match &missing {
            Some(error) => Verdict::no("MountConfigured", error.reason(), chain(error)),
            None => verdict(desired.managed.as_ref(), &left, &memory.dropped),
        };
        if missing.is_none() && verdict.holds == Some(false) {
            let old = find(&status.conditions, "MountConfigured");
            if old.is_none_or(|old| old.reason != verdict.reason) {
                let message = verdict.message.clone();
                found.notes.push(Note { warning: true, reason: verdict.reason, message });
            }
        }
        found.mount = Some(verdict);
        if let Some(error) = missing {
            return Err(error.into());
        }
        check_kv(desired, &observed)?;
        // What differs now and did not before was changed in between.
        Ok(memory.dropped.is_superset(&differing))
    }

    /// Writes what differs, and remembers which keys were written.
    async fn carry_out(
        &self,
        caller: &Caller,
        desired: &Desired,
        plan: &Plan,
        secrets: &Secrets,
        status: &mut VaultAwsBackendStatus,
        found: &mut Found,
    ) -> Result<(), Error> {
        let text = plan.to_string().trim_end().replace('\n', "; ");
        tracing::info!(mount = desired.mount, plan = text, "configuring the mount");
        let (done, failure) = match apply(caller, &desired.mount, plan).await {
            Ok(()) => (plan.steps.len(), None),
            Err((done, error)) => (done, Some(error)),
        };
        let done = &plan.steps[..done];
        let sent_keys =
            |step: &Step| matches!(step, Step::Client { write, .. } if write.secret_key.is_some());
        if done.iter().any(sent_keys) {
            status.client_keys = secrets.keys.as_ref().map(Keys::written);
        }
        if !done.is_empty() {
            let steps: Vec<String> = done.iter().map(Step::to_string).collect();
            found.notes.push(Note {
                warning: false,
                reason: BackendReason::Configured.as_str(),
                message: format!("auth/{}: {}", desired.mount, steps.join("; ")),
            });
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// What the Secrets hold that the spec refers to, and why it is not all of it.
    async fn secrets(
        &self,
        backend: &VaultAwsBackend,
        managed: Option<&Managed>,
    ) -> (Secrets, Option<connection::Error>) {
        let (mut secrets, mut missing) = (Secrets::default(), None);
        let Some(managed) = managed else { return (secrets, missing) };
        if let Some(name) = &managed.client.credentials {
            match self.keys(backend, name).await {
                Ok(keys) => secrets.keys = Some(keys),
                Err(error) => missing = Some(error),
            }
        }
        // Several accounts may have their ExternalIds in one Secret.
        let mut read = BTreeMap::new();
        for account in &managed.accounts {
            let Some(reference) = &account.external_id else { continue };
            if !read.contains_key(&reference.name) {
                read.insert(reference.name.clone(), self.connections.values(&reference.name).await);
            }
            let value = match read.get(&reference.name) {
                Some(Ok(values)) => values.get(&reference.key).cloned(),
                Some(Err(error)) => Err(error.clone()),
                None => continue,
            };
            match value {
                Ok(value) => _ = secrets.external_ids.insert(account.id.clone(), value),
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        (secrets, missing)
    }

    async fn keys(&self, backend: &VaultAwsBackend, name: &str) -> Result<Keys, connection::Error> {
        let values = self.connections.values(name).await?;
        let access_key = values.get("aws_access_key_id")?.expose().clone();
        let secret_key = values.get("aws_secret_access_key")?.clone();
        let key = self.connections.fingerprint_key().await?;
        let uid = backend.uid().unwrap_or_default();
        let fingerprint = fingerprint(&key, &uid, &access_key, &secret_key);
        Ok(Keys { access_key, secret_key, fingerprint })
    }
}

/// How the mount stands when all was written that is to be written.
fn verdict(managed: Option<&Managed>, left: &Plan, dropped: &BTreeSet<String>) -> Verdict {
    let no =
        |reason: BackendReason, message| Verdict::no("MountConfigured", reason.as_str(), message);
    let Some(managed) = managed else {
        return Verdict::yes(
            "MountConfigured",
            BackendReason::MountObserved.as_str(),
            "the auth mount is there; its configuration is not ours",
        );
    };
    if !dropped.is_empty() {
        let fields: Vec<&str> = dropped.iter().map(String::as_str).collect();
        return no(
            BackendReason::UnsupportedByServer,
            format!(
                "Vault took these fields without a word and did not keep them: {}; this version may not \
                 know them",
                fields.join(", ")
            ),
        );
    }
    if let Some(access_key) = &left.rotated {
        return no(
            BackendReason::RotatedElsewhere,
            format!(
                "config/client has the access key {}, which is neither that of Secret `{}` nor the last \
                 one written; it is left alone",
                foreign(access_key),
                managed.client.credentials.as_deref().unwrap_or_default()
            ),
        );
    }
    Verdict::yes(
        "MountConfigured",
        BackendReason::MountConfigured.as_str(),
        "the auth mount is there and configured as given",
    )
}

/// A value that somebody else wrote into Vault, fit to be shown.
fn foreign(value: &str) -> String {
    let plain: String = value.chars().flat_map(char::escape_debug).collect();
    format!("`{}`", shorten(&plain, FOREIGN_LIMIT))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(fields: &[&str]) -> BTreeSet<String> {
        fields.iter().map(|field| (*field).to_owned()).collect()
    }

    fn backend(generation: i64, refresh: &str) -> VaultAwsBackend {
        serde_json::from_value(json!({
            "apiVersion": "vaultaws.dev/v1alpha1", "kind": "VaultAwsBackend",
            "metadata": {
                "name": "default", "uid": "u", "generation": generation,
                "annotations": {REFRESH_ANNOTATION: refresh},
            },
            "spec": {
                "vault": {"address": "https://vault.example.com:8200"},
                "operatorLogin": {"serviceAccount": {"role": "operator"}},
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_field_that_was_sent_twice_and_still_differs_was_dropped() {
        let mut memory = Memory::default();
        memory.judge(
            set(&["config/client a", "config/client b"]),
            &set(&["config/client b", "tune c"]),
        );
        assert_eq!(memory.dropped, set(&[]), "somebody else may have been faster");
        memory.judge(set(&["config/client b", "tune c"]), &set(&["config/client b"]));
        assert_eq!(memory.dropped, set(&["config/client b"]));
        // It is not sent again, and still differs.
        memory.judge(set(&[]), &set(&["config/client b"]));
        assert_eq!(memory.dropped, set(&["config/client b"]));
        // Somebody put it right, or it is not declared any more.
        memory.judge(set(&[]), &set(&[]));
        assert_eq!(memory.dropped, set(&[]));
    }

    #[test]
    fn a_dropped_field_is_named_in_the_same_words_each_time() {
        let dropped = set(&["config/sts/111122223333 external_id", "config/client sts_region"]);
        let say = || verdict(Some(&Managed::default()), &Plan::default(), &dropped);
        assert_eq!((say().holds, say().reason), (Some(false), "UnsupportedByServer"));
        let named = "config/client sts_region, config/sts/111122223333 external_id;";
        assert!(say().message.contains(named), "{}", say().message);
        assert_eq!(say(), say());
    }

    #[test]
    fn another_spec_another_vault_or_a_wish_is_looked_at_anew() {
        let vault = |version: &str, cluster: &str| Health {
            version: version.to_owned(),
            cluster_id: Some(cluster.to_owned()),
            ..Health::default()
        };
        let first = Memory::of(None, &backend(1, "a"), &vault("1.21.1", "c"));
        let known = Memory { dropped: set(&["x"]), ..first };
        let of = |backend: &VaultAwsBackend, version: &str, cluster: &str| {
            Memory::of(Some(known.clone()), backend, &vault(version, cluster)).dropped.len()
        };
        assert_eq!(of(&backend(1, "a"), "1.21.1", "c"), 1);
        assert_eq!(of(&backend(2, "a"), "1.21.1", "c"), 0);
        assert_eq!(of(&backend(1, "b"), "1.21.1", "c"), 0);
        assert_eq!(of(&backend(1, "a"), "2.0.0", "c"), 0, "it may know the field");
        assert_eq!(of(&backend(1, "a"), "1.21.1", "d"), 0, "it has another mount");
    }

    #[test]
    fn what_somebody_else_wrote_is_shown_on_one_line_and_short() {
        assert_eq!(foreign("https://a\n\u{1b}[31m"), "`https://a\\n\\u{1b}[31m`");
        assert!(foreign(&"x".repeat(5000)).len() < 210);
    }
}
