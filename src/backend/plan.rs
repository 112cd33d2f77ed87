//! What to write to the mount. Pure; empty unless it is managed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    desired::Desired,
    managed::{Account, Client, Identity, Managed, sorted},
    observe::{Config, Observed},
};
use crate::{
    crd::WrittenKeys,
    redacted::Redacted,
    vault::aws_auth::{ClientConfig, ClientConfigWrite, IdentityConfig, IdentityConfigWrite},
};

/// The STS endpoint in [`Plan::fields`].
pub const STS_ENDPOINT: &str = "config/client sts_endpoint";

/// What the Secrets hold that the spec refers to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Secrets {
    /// Vault's AWS keys; `None` if none are declared, or they cannot be read.
    pub keys: Option<Keys>,
    /// ExternalId by account; one that cannot be read is not there.
    pub external_ids: BTreeMap<String, Redacted<String>>,
}

/// AWS keys for config/client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Keys {
    /// aws_access_key_id.
    pub access_key: String,
    /// aws_secret_access_key.
    pub secret_key: Redacted<String>,
    /// Of both; see [`super::fingerprint`].
    pub fingerprint: String,
}

impl Keys {
    /// How they are remembered once they are written.
    pub fn written(&self) -> WrittenKeys {
        WrittenKeys { access_key: self.access_key.clone(), fingerprint: self.fingerprint.clone() }
    }
}

/// What is known from earlier passes.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The keys that were last written.
    pub written: Option<&'a WrittenKeys>,
    /// Fields that this server did not keep, as in [`Plan::fields`]: they are not written again.
    pub dropped: &'a BTreeSet<String>,
}

/// The steps, in order.
#[derive(Debug, Default)]
pub struct Plan {
    /// May be empty.
    pub steps: Vec<Step>,
    /// The access key that Vault has, if it is neither ours nor the last that was written: it is left
    /// alone.
    pub rotated: Option<String>,
}

/// One write.
#[derive(Debug)]
pub enum Step {
    /// Put the STS endpoint of config/client back, alone, so that nothing else can keep it from being
    /// written.
    StsEndpoint {
        /// The field, and what Vault needs to store it.
        write: Box<ClientConfigWrite>,
        /// What stood there.
        found: String,
    },
    /// Enable the AWS auth method.
    Enable {
        /// `aws`, or the name of a plugin.
        kind: String,
    },
    /// Set the TTLs of the mount that differ, in seconds.
    Tune {
        /// 0 = the server's.
        default_lease_ttl: Option<u64>,
        /// 0 = the server's.
        max_lease_ttl: Option<u64>,
    },
    /// Write config/client.
    Client {
        /// The fields that are sent.
        write: Box<ClientConfigWrite>,
        /// The fields that differ.
        changed: Vec<&'static str>,
    },
    /// Write config/identity.
    Identity {
        /// The fields that are sent.
        write: Box<IdentityConfigWrite>,
        /// The fields that differ.
        changed: Vec<&'static str>,
    },
    /// Write `config/sts/<account>`.
    Account {
        /// Twelve digits.
        account: String,
        /// The role that Vault assumes there.
        sts_role: String,
        /// What it says to be let in, if that differs.
        external_id: Option<Redacted<String>>,
        /// The fields that differ.
        changed: Vec<&'static str>,
    },
}

impl Step {
    /// Where it writes: `config/client`, …
    fn place(&self) -> String {
        match self {
            Self::Enable { .. } | Self::Tune { .. } => "tune".into(),
            Self::StsEndpoint { .. } | Self::Client { .. } => "config/client".into(),
            Self::Identity { .. } => "config/identity".into(),
            Self::Account { account, .. } => format!("config/sts/{account}"),
        }
    }

    /// The fields that it changes.
    fn changed(&self) -> Vec<&'static str> {
        match self {
            Self::Enable { .. } => Vec::new(),
            Self::StsEndpoint { .. } => vec!["sts_endpoint"],
            Self::Tune { default_lease_ttl, max_lease_ttl } => {
                let default = default_lease_ttl.map(|_| "default_lease_ttl");
                default.into_iter().chain(max_lease_ttl.map(|_| "max_lease_ttl")).collect()
            }
            Self::Client { changed, .. }
            | Self::Identity { changed, .. }
            | Self::Account { changed, .. } => changed.clone(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enable { .. } => f.write_str("enable the mount"),
            Self::Tune { .. } => write!(f, "tune the mount: {}", self.changed().join(", ")),
            Self::StsEndpoint { .. } => f.write_str("put sts_endpoint of config/client right"),
            _ => write!(f, "write {}: {}", self.place(), self.changed().join(", ")),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl Plan {
    /// The fields that differ, each with its place: `config/client sts_region`.
    pub fn fields(&self) -> BTreeSet<String> {
        let of = |step: &Step| {
            let place = step.place();
            step.changed().into_iter().map(move |field| format!("{place} {field}"))
        };
        self.steps.iter().flat_map(of).collect()
    }
}

/// What differs.
pub fn plan(desired: &Desired, observed: &Observed, secrets: &Secrets, known: Known<'_>) -> Plan {
    let Some(managed) = &desired.managed else { return Plan::default() };
    let config = observed.config.clone().unwrap_or_default();
    let mut steps = Vec::new();
    steps.extend(endpoint(&managed.client, config.client.as_ref()));
    if observed.mount.is_none() {
        steps.push(Step::Enable { kind: desired.kind.clone() });
    }
    steps.extend(tune(managed, observed, known));
    let keys = keys_differ(&config, secrets.keys.as_ref(), known.written);
    steps.extend(client(&managed.client, &config, &keys, known));
    if let Some(found) = &config.identity {
        steps.extend(identity(&managed.identity, found, known));
    } else if !managed.identity.is_empty() {
        steps.extend(identity(&managed.identity, &IdentityConfig::default(), known));
    }
    steps.extend(
        managed.accounts.iter().filter_map(|wanted| account(wanted, &config, secrets, known)),
    );
    let rotated = match keys {
        KeysDiffer::Elsewhere(found) => Some(found),
        KeysDiffer::No | KeysDiffer::Write(_) => None,
    };
    Plan { steps, rotated }
}

/// Puts the STS endpoint of a config/client right that has another one. A forged STS answer lets anybody
/// in: this comes before anything else, and again whatever became of it when it was last written.
pub fn endpoint(wanted: &Client, found: Option<&ClientConfig>) -> Option<Step> {
    let (found, wanted) = (found?, wanted.sts_endpoint.as_ref()?);
    let write = ClientConfigWrite {
        sts_endpoint: Some(wanted.clone()),
        max_retries: Some(found.max_retries),
        ..ClientConfigWrite::default()
    };
    let found = found.sts_endpoint.clone();
    (*wanted != found).then(|| Step::StsEndpoint { write: Box::new(write), found })
}

/// Whether a config/client is as declared, the keys apart.
pub fn client_holds(wanted: &Client, found: ClientConfig, dropped: &BTreeSet<String>) -> bool {
    let config = Config { client: Some(found), ..Config::default() };
    let known = Known { written: None, dropped };
    endpoint(wanted, config.client.as_ref()).is_none()
        && client(wanted, &config, &KeysDiffer::No, known).is_none()
}

/// Compares the fields of one place.
struct Fields<'a> {
    place: String,
    known: Known<'a>,
    changed: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    fn of(place: impl Into<String>, known: Known<'a>) -> Self {
        Self { place: place.into(), known, changed: Vec::new() }
    }

    /// What to write, if it is declared and differs.
    fn take<T: Clone + PartialEq>(
        &mut self,
        field: &'static str,
        wanted: Option<&T>,
        found: &T,
    ) -> Option<T> {
        let wanted = wanted.filter(|wanted| *wanted != found)?;
        if self.known.dropped.contains(&format!("{} {field}", self.place)) {
            return None;
        }
        self.changed.push(field);
        Some(wanted.clone())
    }
}

fn tune(managed: &Managed, observed: &Observed, known: Known<'_>) -> Option<Step> {
    let (default, max) = observed
        .mount
        .as_ref()
        .map_or((0, 0), |found| (found.default_lease_ttl, found.max_lease_ttl));
    let mut fields = Fields::of("tune", known);
    let step = Step::Tune {
        default_lease_ttl: fields.take(
            "default_lease_ttl",
            managed.default_lease_ttl.as_ref(),
            &default,
        ),
        max_lease_ttl: fields.take("max_lease_ttl", managed.max_lease_ttl.as_ref(), &max),
    };
    (!fields.changed.is_empty()).then_some(step)
}

/// How Vault's AWS keys stand.
enum KeysDiffer {
    /// None are declared, or they are in place as far as can be told.
    No,
    /// To be written.
    Write(Keys),
    /// Somebody else has put another access key there.
    Elsewhere(String),
}

fn keys_differ(config: &Config, ours: Option<&Keys>, written: Option<&WrittenKeys>) -> KeysDiffer {
    let Some(ours) = ours else { return KeysDiffer::No };
    let found = config.client.as_ref().map_or("", |found| found.access_key.as_str());
    let remembered = |found: &str| written.is_some_and(|written| written.access_key == found);
    if found == ours.access_key {
        // The other half cannot be seen: that we wrote it is all that can be known.
        if written == Some(&ours.written()) {
            KeysDiffer::No
        } else {
            KeysDiffer::Write(ours.clone())
        }
    } else if found.is_empty() || remembered(found) {
        KeysDiffer::Write(ours.clone())
    } else {
        KeysDiffer::Elsewhere(found.to_owned())
    }
}

fn client(wanted: &Client, config: &Config, keys: &KeysDiffer, known: Known<'_>) -> Option<Step> {
    let found = config.client.clone().unwrap_or_else(|| ClientConfig {
        // Vault's default where nothing was ever written.
        max_retries: -1,
        ..ClientConfig::default()
    });
    let mut fields = Fields::of("config/client", known);
    let mut write = ClientConfigWrite::default();
    if config.client.is_none() {
        write.sts_endpoint =
            fields.take("sts_endpoint", wanted.sts_endpoint.as_ref(), &found.sts_endpoint);
    }
    write.sts_region = fields.take("sts_region", wanted.sts_region.as_ref(), &found.sts_region);
    write.use_sts_region_from_client = fields.take(
        "use_sts_region_from_client",
        wanted.use_sts_region_from_client.as_ref(),
        // A server without the key does as one where it is false.
        &found.use_sts_region_from_client.unwrap_or_default(),
    );
    write.iam_endpoint =
        fields.take("iam_endpoint", wanted.iam_endpoint.as_ref(), &found.iam_endpoint);
    write.endpoint = fields.take("endpoint", wanted.ec2_endpoint.as_ref(), &found.endpoint);
    write.iam_server_id_header_value = fields.take(
        "iam_server_id_header_value",
        Some(&wanted.server_id),
        &found.iam_server_id_header_value,
    );
    write.allowed_sts_header_values = fields.take(
        "allowed_sts_header_values",
        wanted.allowed_sts_header_values.as_ref(),
        &sorted(found.allowed_sts_header_values),
    );
    let retries = fields.take("max_retries", wanted.max_retries.as_ref(), &found.max_retries);
    if let KeysDiffer::Write(keys) = keys {
        write.access_key = Some(keys.access_key.clone());
        write.secret_key = Some(keys.secret_key.clone());
        fields.changed.push("access_key");
    }
    // Without a config/client, some versions of Vault cannot serve a login at all.
    if fields.changed.is_empty() && config.client.is_some() {
        return None;
    }
    // Vault stores some changes only when this key is in the request.
    write.max_retries = retries.or(Some(found.max_retries));
    Some(Step::Client { write: Box::new(write), changed: fields.changed })
}

fn identity(wanted: &Identity, found: &IdentityConfig, known: Known<'_>) -> Option<Step> {
    let mut fields = Fields::of("config/identity", known);
    let write = IdentityConfigWrite {
        iam_alias: fields.take("iam_alias", wanted.iam_alias.as_ref(), &found.iam_alias),
        iam_metadata: fields.take(
            "iam_metadata",
            wanted.iam_metadata.as_ref(),
            &sorted(found.iam_metadata.clone()),
        ),
        ec2_alias: fields.take("ec2_alias", wanted.ec2_alias.as_ref(), &found.ec2_alias),
        ec2_metadata: fields.take(
            "ec2_metadata",
            wanted.ec2_metadata.as_ref(),
            &sorted(found.ec2_metadata.clone()),
        ),
    };
    let changed = fields.changed;
    (!changed.is_empty()).then(|| Step::Identity { write: Box::new(write), changed })
}

fn account(wanted: &Account, config: &Config, secrets: &Secrets, known: Known<'_>) -> Option<Step> {
    let external_id = secrets.external_ids.get(&wanted.id);
    if wanted.external_id.is_some() && external_id.is_none() {
        // An entry without it would be one that does not work.
        return None;
    }
    let found = config.accounts.get(&wanted.id);
    let empty = String::new();
    let mut fields = Fields::of(format!("config/sts/{}", wanted.id), known);
    let sts_role = found.map_or(&empty, |found| &found.sts_role);
    fields.take("sts_role", Some(&wanted.sts_role), sts_role);
    let nothing = Redacted::new(String::new());
    let found_id = found.and_then(|found| found.external_id.as_ref()).unwrap_or(&nothing);
    let external_id = fields.take("external_id", external_id, found_id);
    let changed = fields.changed;
    (!changed.is_empty()).then(|| Step::Account {
        account: wanted.id.clone(),
        // Vault asks for it in every request that creates an entry.
        sts_role: wanted.sts_role.clone(),
        external_id,
        changed,
    })
}

#[cfg(test)]
mod tests;
