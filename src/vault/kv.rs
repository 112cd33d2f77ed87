//! KV version 2: names, versions and data of entries.

use std::{collections::BTreeMap, fmt, ops::Deref};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use vaultrs::api::kv2::requests::{
    ListSecretsRequest, ReadSecretMetadataRequest, ReadSecretRequest,
};
use zeroize::Zeroize;

use super::{Answer, Caller, Operation, error::Error, list_keys, mount_path, wire};

/// The fields of one version of an entry. Not shown by `Debug`, wiped when dropped.
#[derive(Clone, Default, Deserialize, Eq, PartialEq)]
#[serde(transparent)]
pub struct Fields(Map<String, Value>);

impl Deref for Fields {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl From<Map<String, Value>> for Fields {
    fn from(fields: Map<String, Value>) -> Self {
        Self(fields)
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// One version of an entry, without its data.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Version {
    /// When it was written: with the number it names a version for good, as numbers start again
    /// after the metadata was deleted.
    #[serde(default, deserialize_with = "wire::time")]
    pub created_time: Option<Timestamp>,
    /// When it was, or will be, soft-deleted: a time in the future means live.
    #[serde(default, deserialize_with = "wire::time")]
    pub deletion_time: Option<Timestamp>,
    /// Whether its data is gone for good.
    #[serde(default)]
    pub destroyed: bool,
}

impl Version {
    /// Whether its data can be read at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        !self.destroyed && self.deletion_time.is_none_or(|at| at > now)
    }
}

/// What KV keeps about an entry.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Metadata {
    /// The newest version; 0 if nothing was ever written.
    #[serde(default)]
    pub current_version: u64,
    /// The versions that are kept, by number.
    #[serde(default, deserialize_with = "wire::or_default")]
    pub versions: BTreeMap<u64, Version>,
    /// When the entry was made.
    #[serde(default, deserialize_with = "wire::time")]
    pub created_time: Option<Timestamp>,
    /// When it last changed.
    #[serde(default, deserialize_with = "wire::time")]
    pub updated_time: Option<Timestamp>,
    /// What people noted about it.
    #[serde(default, deserialize_with = "wire::texts")]
    pub custom_metadata: BTreeMap<String, String>,
}

impl Metadata {
    /// The newest version, if it is kept.
    pub fn current(&self) -> Option<&Version> {
        self.versions.get(&self.current_version)
    }
}

/// What a read of data found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DataAnswer {
    /// The data.
    Live {
        /// Its fields.
        fields: Fields,
        /// The version that was read.
        version: u64,
        /// When that version was written.
        created_time: Option<Timestamp>,
        /// When it will be soft-deleted by itself.
        deletion_time: Option<Timestamp>,
    },
    /// The version is soft-deleted, or expired: it can be undeleted.
    Deleted {
        /// The version that was asked for, or the newest.
        version: u64,
        /// Since when.
        deletion_time: Option<Timestamp>,
    },
    /// The version's data is gone for good.
    Destroyed {
        /// The version that was asked for, or the newest.
        version: u64,
    },
    /// No such entry, or no such version.
    Absent,
}

#[derive(Deserialize)]
struct Data {
    data: Option<Fields>,
    metadata: DataMetadata,
}

#[derive(Deserialize)]
struct DataMetadata {
    #[serde(default)]
    version: u64,
    #[serde(flatten)]
    facts: Version,
}

impl DataAnswer {
    fn of(answer: Answer) -> Result<Self, Error> {
        // A soft-deleted or destroyed version is a 404 whose body says so.
        if answer.is_not_found() && answer.data::<Data>().is_err() {
            return Ok(match answer.found()? {
                Some(_) | None => Self::Absent,
            });
        }
        let Data { data, metadata: DataMetadata { version, facts } } = answer.data()?;
        Ok(match data {
            Some(fields) => Self::Live {
                fields,
                version,
                created_time: facts.created_time,
                deletion_time: facts.deletion_time,
            },
            None if facts.destroyed => Self::Destroyed { version },
            None => Self::Deleted { version, deletion_time: facts.deletion_time },
        })
    }
}

/// `<mount>/<dir>` for people.
fn shown(mount: &str, path: &str) -> String {
    format!("{mount}/{}", path.trim_matches('/'))
}

/// The names in a directory, one level deep; those of directories end with `/`. `None` if there is
/// nothing. Soft-deleted and destroyed entries are listed.
pub async fn list(caller: &Caller, mount: &str, dir: &str) -> Result<Option<Vec<String>>, Error> {
    let mount = mount_path(mount);
    let operation = Operation::list("kv_list", format!("listing {}", shown(mount, dir)));
    let endpoint =
        ListSecretsRequest { mount: mount.to_owned(), path: dir.trim_end_matches('/').to_owned() };
    list_keys(caller, &operation, &endpoint).await
}

/// The versions of an entry; `None` if there is no such entry.
pub async fn metadata(caller: &Caller, mount: &str, path: &str) -> Result<Option<Metadata>, Error> {
    let mount = mount_path(mount);
    let operation =
        Operation::new("kv_metadata", format!("reading the versions of {}", shown(mount, path)));
    let endpoint = ReadSecretMetadataRequest { mount: mount.to_owned(), path: path.to_owned() };
    match caller.send(&operation, &endpoint).await?.found()? {
        None => Ok(None),
        Some(answer) => answer.data().map(Some),
    }
}

/// The data of an entry: of `version`, or of the newest.
pub async fn data(
    caller: &Caller,
    mount: &str,
    path: &str,
    version: Option<u64>,
) -> Result<DataAnswer, Error> {
    let mount = mount_path(mount);
    let operation = Operation::new("kv_data", format!("reading {}", shown(mount, path)));
    let endpoint = ReadSecretRequest { mount: mount.to_owned(), path: path.to_owned(), version };
    DataAnswer::of(caller.send(&operation, &endpoint).await?)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use zeroize::Zeroizing;

    use super::*;

    fn data_answer(status: u16, body: &str) -> Result<DataAnswer, Error> {
        DataAnswer::of(Answer {
            operation: Operation::new("kv_data", "reading secret/x"),
            status: StatusCode::from_u16(status).unwrap(),
            age: None,
            body: Zeroizing::new(body.as_bytes().to_vec()),
        })
    }

    #[test]
    fn live_data_comes_with_its_version() {
        let answer = data_answer(
            200,
            r#"{"data":{"data":{"tls.crt":"PEM"},"metadata":{"created_time":"2026-11-21T03:00:00Z",
                "custom_metadata":null,"deletion_time":"","destroyed":false,"version":3}}}"#,
        );
        let DataAnswer::Live { fields, version: 3, .. } = answer.unwrap() else {
            panic!("not live");
        };
        assert_eq!(fields["tls.crt"], "PEM");
        assert_eq!(format!("{fields:?}"), "<redacted>");
    }

    #[test]
    fn a_404_with_a_body_is_deleted_or_destroyed() {
        let body = |deletion_time: &str, destroyed: bool| {
            format!(
                r#"{{"data":{{"data":null,"metadata":{{"created_time":"2026-11-21T03:00:00Z",
                "deletion_time":"{deletion_time}","destroyed":{destroyed},"version":3}}}}}}"#
            )
        };
        assert_eq!(
            data_answer(404, &body("2026-11-21T04:00:00Z", false)).unwrap(),
            DataAnswer::Deleted {
                version: 3,
                deletion_time: Some("2026-11-21T04:00:00Z".parse().unwrap())
            }
        );
        assert_eq!(
            data_answer(404, &body("", true)).unwrap(),
            DataAnswer::Destroyed { version: 3 }
        );
    }

    #[test]
    fn a_404_without_a_body_is_absent_and_one_with_a_text_is_an_error() {
        assert_eq!(data_answer(404, r#"{"errors":[]}"#).unwrap(), DataAnswer::Absent);
        let text = r#"{"errors":["no handler for route \"x\". route entry not found."]}"#;
        assert!(data_answer(404, text).is_err());
        let version_one =
            r#"{"data":null,"warnings":["Invalid path for a versioned K/V secrets engine. "]}"#;
        assert!(data_answer(404, version_one).is_err());
    }

    #[test]
    fn a_deletion_in_the_future_is_live() {
        let metadata: Metadata = serde_json::from_str(
            r#"{"current_version":2,"oldest_version":0,"custom_metadata":null,"versions":{
                "1":{"created_time":"2026-01-01T00:00:00Z","deletion_time":"2026-02-01T00:00:00Z","destroyed":false},
                "2":{"created_time":"2026-01-02T00:00:00Z","deletion_time":"","destroyed":false,"created_by":{"actor":"x"}}}}"#,
        )
        .unwrap();
        let january = "2026-01-15T00:00:00Z".parse().unwrap();
        let march = "2026-03-15T00:00:00Z".parse().unwrap();
        assert!(metadata.versions[&1].is_live(january));
        assert!(!metadata.versions[&1].is_live(march));
        assert!(metadata.current().unwrap().is_live(march));
    }
}
