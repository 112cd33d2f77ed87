//! From a `VaultAwsBackend` to a Vault client, and to the operator's own session in that Vault.
//!
//! Clients are kept per backend, so that limiter, circuit and connections are shared by everything
//! that goes to it. References (CA bundle, token) are resolved in the operator's own namespace only,
//! and read again after a minute or when the backend changes, never once per pass.

mod secrets;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt};
use tokio::time::{Instant, timeout};

use crate::{
    controller::condition::find,
    crd::{CaBundleKind, VaultAwsBackend},
    fault::{Fault, Retry},
    lock::lock,
    redacted::Redacted,
    vault::{
        self, Caller, Settings,
        login::{self, Login},
        session::{Failure, Session, Sessions},
    },
};

/// How long a resolved reference is good.
const FRESH: Duration = Duration::from_secs(60);
/// How long one read from the API server may take.
const KUBERNETES_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A referenced object cannot be read.
    #[error("reading {kind} `{name}` in the operator's namespace")]
    Kubernetes {
        /// ConfigMap or Secret.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Arc<kube::Error>,
    },
    /// The API server did not answer.
    #[error("reading {kind} `{name}` in the operator's namespace took longer than 10 s")]
    KubernetesTimeout {
        /// ConfigMap or Secret.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The operator's own Secret cannot be written.
    #[error("writing Secret `{name}` in the operator's namespace")]
    Write {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Arc<kube::Error>,
    },
    /// The API server did not answer.
    #[error("writing Secret `{name}` in the operator's namespace took longer than 10 s")]
    WriteTimeout {
        /// Its name.
        name: String,
    },
    /// The system has no random numbers.
    #[error("making a random key")]
    Randomness,
    /// There is no such object, or it has not the key.
    #[error("the operator's namespace has no {kind} `{name}` with the key `{key}`")]
    Reference {
        /// ConfigMap or Secret.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// Address or CA bundle cannot be used.
    #[error("connecting to the Vault of the backend")]
    Settings(#[source] Arc<vault::SettingsError>),
    /// The projected token file cannot be read.
    #[error("reading the operator's ServiceAccount token at {path}")]
    TokenFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// Vault did not let the operator in.
    #[error("logging the operator in")]
    Login(#[source] vault::Error),
    /// What Vault gave is not what an operator should have.
    #[error("logging the operator in")]
    Unfit(#[source] login::Mismatch),
    /// The program is shutting down.
    #[error("the operator is shutting down")]
    Closing,
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Kubernetes { .. }
            | Self::KubernetesTimeout { .. }
            | Self::Write { .. }
            | Self::WriteTimeout { .. } => "KubernetesError",
            Self::Randomness => "InternalError",
            Self::Reference { .. } => "ReferenceNotFound",
            Self::Settings(_) => "InvalidSpec",
            Self::TokenFile { .. } | Self::Unfit(_) => "LoginFailed",
            Self::Login(error) if error.is_shared() => error.reason(),
            Self::Closing => "VaultUnreachable",
            Self::Login(_) => "LoginFailed",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Kubernetes { .. }
            | Self::KubernetesTimeout { .. }
            | Self::Write { .. }
            | Self::WriteTimeout { .. }
            | Self::Randomness
            | Self::Closing => Retry::Soon,
            Self::Reference { .. } | Self::TokenFile { .. } | Self::Unfit(_) => {
                Retry::After(Duration::from_secs(5))
            }
            Self::Settings(_) => Retry::WhenChanged,
            Self::Login(error) => error.retry(),
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Login(error) => error.is_shared(),
            Self::Closing => true,
            _ => false,
        }
    }
}

/// Whose session: a change of the backend's spec is another session.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct OperatorKey {
    uid: String,
    generation: i64,
}

/// All connections of this process.
pub struct Connections {
    kube: Client,
    namespace: String,
    observer: Arc<dyn vault::Observer>,
    /// By name of the backend.
    clients: Mutex<HashMap<String, Connected>>,
    references: Mutex<HashMap<Reference, (Instant, Redacted<String>)>>,
    /// Held while a reference is read: many passes at once cause one read.
    reading: tokio::sync::Mutex<()>,
    sessions: Sessions<OperatorKey, Error>,
    /// The session that was last given out, to be named when Vault calls its token dead.
    in_use: Mutex<HashMap<OperatorKey, Session>>,
}

struct Connected {
    settings: Settings,
    client: vault::Client,
    /// What [`serving_since`] last said.
    serving_since: Option<Timestamp>,
}

#[derive(Clone, Eq, Hash, PartialEq)]
struct Reference {
    kind: &'static str,
    name: String,
    key: String,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Connections {
    /// None yet. `namespace` is the operator's own.
    pub fn new(kube: Client, namespace: String, observer: Arc<dyn vault::Observer>) -> Self {
        Self {
            kube,
            namespace,
            observer,
            clients: Mutex::default(),
            references: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            sessions: Sessions::new(),
            in_use: Mutex::default(),
        }
    }

    /// The Vault of a backend.
    ///
    /// # Errors
    /// Where a reference or a setting is wrong; no request goes to Vault.
    pub async fn client(&self, backend: &VaultAwsBackend) -> Result<vault::Client, Error> {
        let settings = self.settings(backend).await?;
        let name = backend.name_any();
        let serving_since = serving_since(backend);
        let mut clients = lock(&self.clients);
        if let Some(known) = clients.get_mut(&name).filter(|known| known.settings == settings) {
            // Its controller found Vault serving again, and woke everybody: nobody is to wait for
            // the circuit's next probe.
            if serving_since.is_some() && known.serving_since != serving_since {
                known.serving_since = serving_since;
                known.client.found_serving();
            }
            return Ok(known.client.clone());
        }
        // Two backends with equal settings share limiter, circuit and connections.
        let shared = clients
            .values()
            .find(|other| other.settings == settings)
            .map(|other| other.client.clone());
        let client = match shared {
            Some(client) => client,
            None => vault::Client::new(&settings, self.observer.clone())
                .map_err(|error| Error::Settings(Arc::new(error)))?,
        };
        clients.insert(name, Connected { settings, client: client.clone(), serving_since });
        Ok(client)
    }

    /// The Vault of a backend, with the operator's own token.
    ///
    /// # Errors
    /// As [`Self::client`], and where Vault does not let the operator in.
    pub async fn operator(&self, backend: &VaultAwsBackend) -> Result<Caller, Error> {
        let client = self.client(backend).await?;
        if let Some(token) = &backend.spec.operator_login.token_ref {
            let token = self.reference("Secret", &token.name, &token.key).await?;
            return Ok(client.with_token(Redacted::new(token.expose().trim().to_owned())));
        }
        let Some(login) = &backend.spec.operator_login.service_account else {
            return Err(Error::Reference {
                kind: "Secret",
                name: "operatorLogin".into(),
                key: "serviceAccount or tokenRef".into(),
            });
        };
        let key = key(backend);
        let session = self
            .sessions
            .get(
                &key,
                &client,
                self.log_in(&client, &login.mount, &login.role, &login.token_path),
                |login| login.check(None).map_err(Error::Unfit),
            )
            .await
            .map_err(|failure| match failure {
                Failure::Login(error) => (*error).clone(),
                Failure::Closing => Error::Closing,
            })?;
        let caller = session.caller().clone();
        lock(&self.in_use).insert(key, session);
        Ok(caller)
    }

    /// The operator's token was refused: log in again the next time, and read references again.
    pub fn token_refused(&self, backend: &VaultAwsBackend) {
        let key = key(backend);
        if let Some(session) = lock(&self.in_use).remove(&key) {
            self.sessions.invalidate(&key, &session);
        }
        if let Some(token) = &backend.spec.operator_login.token_ref {
            let reference =
                Reference { kind: "Secret", name: token.name.clone(), key: token.key.clone() };
            lock(&self.references).remove(&reference);
        }
    }

    /// The backend is gone.
    pub fn forget(&self, backend: &str) {
        lock(&self.clients).remove(backend);
    }

    /// Gives back every token that this process logged in for.
    pub async fn shutdown(&self) {
        self.sessions.shutdown().await;
    }

    async fn log_in(
        &self,
        client: &vault::Client,
        mount: &str,
        role: &str,
        path: &str,
    ) -> Result<Login, Error> {
        let token = tokio::fs::read_to_string(path)
            .await
            .map_err(|error| Error::TokenFile { path: path.to_owned(), source: Arc::new(error) })?;
        let token = Redacted::new(token.trim().to_owned());
        login::jwt(client, mount, role, &token).await.map_err(Error::Login)
    }

    async fn settings(&self, backend: &VaultAwsBackend) -> Result<Settings, Error> {
        let spec = &backend.spec.vault;
        let address = vault::parse_address(&spec.address)
            .map_err(|error| Error::Settings(Arc::new(error)))?;
        let ca_pem = match (&spec.ca_bundle, &spec.ca_bundle_ref) {
            (Some(pem), _) => Some(pem.clone()),
            (None, Some(reference)) => {
                let kind = match reference.kind {
                    CaBundleKind::ConfigMap => "ConfigMap",
                    CaBundleKind::Secret => "Secret",
                };
                let value = self.reference(kind, &reference.name, &reference.key).await?;
                Some(value.expose().clone())
            }
            (None, None) => None,
        };
        Ok(Settings {
            namespace: spec.namespace.clone(),
            ca_pem,
            timeout: spec.request_timeout.duration().max(Duration::from_secs(1)),
            requests_per_second: spec.rate_limit.requests_per_second,
            burst: spec.rate_limit.burst,
            ..Settings::new(address)
        })
    }

    /// One key of a ConfigMap or Secret of the operator's namespace, at most a minute old.
    async fn reference(
        &self,
        kind: &'static str,
        name: &str,
        key: &str,
    ) -> Result<Redacted<String>, Error> {
        let wanted = Reference { kind, name: name.to_owned(), key: key.to_owned() };
        if let Some(value) = self.fresh(&wanted) {
            return Ok(value);
        }
        let _reading = self.reading.lock().await;
        if let Some(value) = self.fresh(&wanted) {
            return Ok(value);
        }
        let value = match kind {
            "ConfigMap" => {
                let api = Api::<ConfigMap>::namespaced(self.kube.clone(), &self.namespace);
                self.read(kind, name, api.get_opt(name))
                    .await?
                    .and_then(|map| map.data?.remove(key))
            }
            _ => {
                let mut data = self.secret(name).await?;
                data.remove(key)
            }
        };
        let value = Redacted::new(value.ok_or_else(|| Error::Reference {
            kind,
            name: name.to_owned(),
            key: key.to_owned(),
        })?);
        let mut references = lock(&self.references);
        references.retain(|_, (read, _)| read.elapsed() < FRESH);
        references.insert(wanted, (Instant::now(), value.clone()));
        Ok(value)
    }

    fn fresh(&self, wanted: &Reference) -> Option<Redacted<String>> {
        let references = lock(&self.references);
        let (read, value) = references.get(wanted)?;
        (read.elapsed() < FRESH).then(|| value.clone())
    }

    /// The UTF-8 values of a Secret in the operator's namespace; empty if there is none.
    async fn secret(&self, name: &str) -> Result<BTreeMap<String, String>, Error> {
        let api = Api::<Secret>::namespaced(self.kube.clone(), &self.namespace);
        let secret = self.read("Secret", name, api.get_opt(name)).await?;
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        Ok(data
            .into_iter()
            .filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)))
            .collect())
    }

    async fn read<T>(
        &self,
        kind: &'static str,
        name: &str,
        read: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        match timeout(KUBERNETES_TIMEOUT, read).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                Err(Error::Kubernetes { kind, name: name.to_owned(), source: Arc::new(error) })
            }
            Err(_) => Err(Error::KubernetesTimeout { kind, name: name.to_owned() }),
        }
    }
}

/// Since when Vault serves, as the backend's own controller says, which may be another process.
fn serving_since(backend: &VaultAwsBackend) -> Option<Timestamp> {
    let reachable = find(&backend.status.as_ref()?.conditions, "Reachable")?;
    (reachable.status == "True").then_some(reachable.last_transition_time.0)
}

fn key(backend: &VaultAwsBackend) -> OperatorKey {
    OperatorKey {
        uid: backend.uid().unwrap_or_default(),
        generation: backend.metadata.generation.unwrap_or_default(),
    }
}
