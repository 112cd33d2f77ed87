//! From a `VaultAwsBackend` to a Vault client, and to the operator's own session in that Vault.
//!
//! Clients are kept per backend; limiter and circuit are shared by all backends of one address.
//! References (CA bundle, client certificate, token) are resolved in the operator's own namespace only,
//! and read again after a quarter of a minute, never once per pass. A certificate that changed is taken
//! over by the client that there is, so that its sessions go on.
//!
//! Callers hand in the backend [as it is in effect](VaultAwsBackend::in_effect).

mod secrets;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout},
};

use crate::{
    aws::{
        identity::{self as aws, Ambient},
        signing,
    },
    clock,
    controller::condition::find,
    crd::{AwsLogin, CaBundleKind, KeyRef, ServiceAccountLogin, VaultAwsBackend},
    fault::{Fault, Retry},
    lock::lock,
    naming::server_id,
    redacted::Redacted,
    vault::{
        self, AwsRefusal, Caller, ClientCertificate, Gate, Settings, Tenant,
        login::{self, Login},
        session::{Failure, Session, Sessions},
        tokens,
    },
};

/// How long a resolved reference is good.
const FRESH: Duration = Duration::from_secs(15);
/// How long what was read last stands in for what cannot be read: an API server that is away for a
/// while is not a fault of each resource.
const KEPT: Duration = Duration::from_secs(600);
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
    /// The spec cannot be used.
    #[error("connecting to the Vault of the backend")]
    Settings(#[source] Arc<vault::SettingsError>),
    /// What a reference holds cannot be used; it may be changed at any time.
    #[error(
        "connecting to the Vault of the backend by {kind} `{name}` of the operator's namespace"
    )]
    Unusable {
        /// ConfigMap or Secret.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Arc<vault::SettingsError>,
    },
    /// The projected token file cannot be read.
    #[error("reading the operator's ServiceAccount token at {path}")]
    TokenFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The operator has no AWS identity to log in with.
    #[error("getting the operator's own AWS identity")]
    Aws(#[source] aws::Error),
    /// The login could not be signed.
    #[error("signing the operator's login")]
    Signing(#[source] Arc<signing::SigningError>),
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
            Self::Settings(_) | Self::Signing(_) => "InvalidSpec",
            Self::Unusable { .. } => "ReferenceInvalid",
            Self::TokenFile { .. } | Self::Unfit(_) | Self::Aws(_) => "LoginFailed",
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
            Self::Reference { .. }
            | Self::Unusable { .. }
            | Self::TokenFile { .. }
            | Self::Unfit(_) => Retry::After(Duration::from_secs(5)),
            Self::Settings(_) | Self::Signing(_) => Retry::WhenChanged,
            Self::Aws(error) => error.retry(),
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

/// A backend as far as sessions are concerned: a change of its spec, or of where it leads, is
/// another session.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct BackendKey {
    uid: String,
    generation: i64,
    address: String,
    namespace: Option<String>,
}

impl BackendKey {
    /// Of a backend as it is in effect: the address in use can change without a change of the spec.
    pub fn of(backend: &VaultAwsBackend) -> Self {
        let vault = &backend.spec.vault;
        Self {
            uid: backend.uid().unwrap_or_default(),
            generation: backend.metadata.generation.unwrap_or_default(),
            address: vault.address.clone(),
            namespace: vault.namespace.clone(),
        }
    }
}

/// All connections of this process.
pub struct Connections {
    kube: Client,
    namespace: String,
    observer: Arc<dyn vault::Observer>,
    /// By name of the backend.
    clients: Mutex<HashMap<String, Connected>>,
    references: Mutex<HashMap<Reference, Read>>,
    /// Held while a reference is read: many passes at once cause one read.
    reading: tokio::sync::Mutex<()>,
    sessions: Sessions<BackendKey, Error>,
    /// The session that was last given out, to be named when Vault calls its token dead.
    in_use: Mutex<HashMap<BackendKey, Session>>,
    /// By name of the backend.
    given: Mutex<HashMap<String, Given>>,
    /// The operator's own AWS identity, once a login asked for it.
    ambient: OnceCell<Ambient>,
}

/// What a reference resolved to.
struct Read {
    read: Instant,
    /// When it was last tried to read it.
    asked: Instant,
    values: Vec<Redacted<String>>,
}

/// A token that an admin gave, and the policies that it carries.
type Given = (Redacted<String>, Vec<String>);

struct Connected {
    settings: Settings,
    client: vault::Client,
    /// What [`serving_since`] last said.
    serving_since: Option<Timestamp>,
}

impl Connected {
    /// Whether the client of these settings can go over to those: the same Vault, by another way.
    fn leads_to(&self, wanted: &Settings) -> bool {
        self.settings.address == wanted.address && self.settings.namespace == wanted.namespace
    }
}

/// An object of the operator's namespace, and the keys that are wanted of it.
#[derive(Clone, Eq, Hash, PartialEq)]
struct Reference {
    kind: &'static str,
    name: String,
    keys: Vec<String>,
}

impl Reference {
    fn new(kind: &'static str, name: &str, keys: &[&str]) -> Self {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        Self { kind, name: name.to_owned(), keys }
    }
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
            given: Mutex::default(),
            ambient: OnceCell::new(),
        }
    }

    /// The Vault of a backend, asked on behalf of this tenant.
    ///
    /// # Errors
    /// Where a reference or a setting is wrong; no request goes to Vault.
    pub async fn client(
        &self,
        backend: &VaultAwsBackend,
        tenant: Tenant,
    ) -> Result<vault::Client, Error> {
        Ok(self.own_client(backend).await?.on_behalf_of(tenant))
    }

    /// The Vault of a backend, asked on nobody's behalf.
    async fn own_client(&self, backend: &VaultAwsBackend) -> Result<vault::Client, Error> {
        let settings = self.settings(backend).await?;
        let name = backend.name_any();
        let serving_since = serving_since(backend);
        let mut clients = lock(&self.clients);
        if let Some(known) = clients.get_mut(&name).filter(|known| known.leads_to(&settings)) {
            if known.settings != settings {
                known.client.relink(&settings).map_err(|error| unusable(backend, error))?;
                known.settings = settings;
            } else if serving_since.is_some() && known.serving_since != serving_since {
                // Its controller found Vault serving again, and woke everybody: nobody is to wait for
                // the circuit's next probe.
                known.serving_since = serving_since;
                known.client.found_serving();
            }
            let client = known.client.clone();
            limit(&clients, &client);
            return Ok(client);
        }
        let gate = clients
            .iter()
            .find(|(other, known)| **other != name && known.settings.address == settings.address)
            .map(|(_, known)| known.client.gate().clone())
            .unwrap_or_else(|| Gate::new(settings.requests_per_second, settings.burst));
        let client = vault::Client::behind(&settings, self.observer.clone(), gate)
            .map_err(|error| unusable(backend, error))?;
        clients.insert(name, Connected { settings, client: client.clone(), serving_since });
        limit(&clients, &client);
        Ok(client)
    }

    /// The Vault of a backend, with the operator's own token, asked on behalf of this tenant. The login
    /// is on nobody's behalf: all need it.
    ///
    /// # Errors
    /// As [`Self::client`], and where Vault does not let the operator in.
    pub async fn operator(
        &self,
        backend: &VaultAwsBackend,
        tenant: Tenant,
    ) -> Result<Caller, Error> {
        Ok(self.own_caller(backend).await?.on_behalf_of(tenant))
    }

    async fn own_caller(&self, backend: &VaultAwsBackend) -> Result<Caller, Error> {
        let client = self.own_client(backend).await?;
        let login = &backend.spec.operator_login;
        if let Some(token) = &login.token_ref {
            return self.with_given_token(backend, &client, token).await;
        }
        let key = BackendKey::of(backend);
        let proof = async {
            match (&login.service_account, &login.aws) {
                (Some(account), _) => log_in_by_token(&client, account).await,
                // Rare, and its future large: it has a place of its own while it lasts.
                (None, Some(login)) => Box::pin(self.log_in_by_aws(backend, &client, login)).await,
                // The schema has exactly one; an object may be older than its schema.
                (None, None) => Err(Error::Reference {
                    kind: "Secret",
                    name: "operatorLogin".into(),
                    key: "serviceAccount, aws or tokenRef".into(),
                }),
            }
        };
        let session = self
            .sessions
            .get(&key, &client, proof, |login| login.check(None).map_err(Error::Unfit))
            .await
            .map_err(|failure| match failure {
                Failure::Login(error) => (*error).clone(),
                Failure::Closing => Error::Closing,
            })?;
        let caller = session.caller().clone();
        lock(&self.in_use).insert(key, session);
        Ok(caller)
    }

    /// The policies of the token that [`Self::operator`] last gave out, as Vault has them: whoever
    /// could write them could make the operator what he likes. Empty if Vault did not say.
    pub fn own_policies(&self, backend: &VaultAwsBackend) -> Vec<String> {
        if backend.spec.operator_login.token_ref.is_some() {
            let given = lock(&self.given);
            return given.get(&backend.name_any()).map(|(_, own)| own.clone()).unwrap_or_default();
        }
        let in_use = lock(&self.in_use);
        let session = in_use.get(&BackendKey::of(backend));
        session.map(|session| session.login().policies.clone()).unwrap_or_default()
    }

    /// With a token that is an admin's: it is not renewed, and never revoked.
    async fn with_given_token(
        &self,
        backend: &VaultAwsBackend,
        client: &vault::Client,
        reference: &KeyRef,
    ) -> Result<Caller, Error> {
        let [token] = self.keys_of("Secret", &reference.name, [&reference.key]).await?;
        let token = Redacted::new(token.expose().trim().to_owned());
        let caller = client.with_token(token.clone());
        let name = backend.name_any();
        let is_known = lock(&self.given).get(&name).is_some_and(|(known, _)| *known == token);
        if !is_known {
            // Denied without `default` and without a rule for it: then they are not known.
            let own = match tokens::lookup_self(&caller).await {
                Ok(found) => [found.policies, found.identity_policies].concat(),
                Err(error) if error.is_denied() => Vec::new(),
                Err(error) => return Err(Error::Login(error)),
            };
            lock(&self.given).insert(name, (token, own));
        }
        Ok(caller)
    }

    /// The operator's token was refused: log in again the next time, and read references again.
    pub fn token_refused(&self, backend: &VaultAwsBackend) {
        let key = BackendKey::of(backend);
        if let Some(session) = lock(&self.in_use).remove(&key) {
            self.sessions.invalidate(&key, &session);
        }
        if let Some(token) = &backend.spec.operator_login.token_ref {
            let reference = Reference::new("Secret", &token.name, &[&token.key]);
            lock(&self.references).remove(&reference);
            lock(&self.given).remove(&backend.name_any());
        }
    }

    /// The backend is gone.
    pub fn forget(&self, backend: &str) {
        lock(&self.clients).remove(backend);
        lock(&self.given).remove(backend);
    }

    /// Gives back every token that this process logged in for.
    pub async fn shutdown(&self) {
        self.sessions.shutdown().await;
    }

    /// A login signed with the operator's own AWS credentials. Ones that AWS does not take any more are
    /// forgotten, so that the next login asks for others.
    async fn log_in_by_aws(
        &self,
        backend: &VaultAwsBackend,
        client: &vault::Client,
        login: &AwsLogin,
    ) -> Result<Login, Error> {
        let spec = &backend.spec;
        let ambient = self.ambient.get_or_try_init(|| Ambient::load(&spec.aws.region));
        let ambient = ambient.await.map_err(Error::Aws)?;
        let credentials = ambient.credentials().await.map_err(Error::Aws)?;
        let request = signing::get_caller_identity_at(
            &credentials,
            &spec.aws.region,
            spec.aws.sts_endpoint.as_deref(),
            server_id(spec).as_deref(),
            clock::now(),
        )
        .map_err(|error| Error::Signing(Arc::new(error)))?;
        let answer = login::iam(client, &login.mount, Some(&login.role), &request).await;
        if let Err(error) = &answer
            && matches!(
                error.aws_refusal(),
                Some(AwsRefusal::CredentialsInvalid | AwsRefusal::SignatureRefused)
            )
        {
            ambient.forget(&credentials);
        }
        answer.map_err(Error::Login)
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
                let keys = [reference.key.as_str()];
                let [value] = Box::pin(self.keys_of(kind, &reference.name, keys)).await?;
                Some(value.expose().clone())
            }
            (None, None) => None,
        };
        let client_certificate = match &spec.client_certificate_ref {
            Some(reference) => {
                let keys = ["tls.crt", "tls.key"];
                let [certificate, key] =
                    Box::pin(self.keys_of("Secret", &reference.name, keys)).await?;
                let certificate_pem = certificate.expose().clone();
                Some(ClientCertificate { certificate_pem, key_pem: key })
            }
            None => None,
        };
        Ok(Settings {
            namespace: spec.namespace.clone(),
            ca_pem,
            client_certificate,
            tls_server_name: spec.tls_server_name.clone(),
            timeout: spec.request_timeout.duration().max(Duration::from_secs(1)),
            requests_per_second: spec.rate_limit.requests_per_second,
            burst: spec.rate_limit.burst,
            ..Settings::new(address)
        })
    }

    /// Keys of one ConfigMap or Secret of the operator's namespace, read together.
    async fn keys_of<const N: usize>(
        &self,
        kind: &'static str,
        name: &str,
        keys: [&str; N],
    ) -> Result<[Redacted<String>; N], Error> {
        let missing =
            |key: &str| Error::Reference { kind, name: name.to_owned(), key: key.to_owned() };
        let wanted = Reference::new(kind, name, &keys);
        let known = |values: Vec<Redacted<String>>| {
            values.try_into().map_err(|_| missing(keys.first().copied().unwrap_or_default()))
        };
        if let Some(values) = self.fresh(&wanted) {
            return known(values);
        }
        let _reading = self.reading.lock().await;
        if let Some(values) = self.fresh(&wanted) {
            return known(values);
        }
        let mut data = match self.data_of(kind, name).await {
            Ok(data) => data,
            Err(error) => return self.last(&wanted).map_or(Err(error), known),
        };
        let mut values = Vec::with_capacity(N);
        for key in keys {
            values.push(Redacted::new(data.remove(key).ok_or_else(|| missing(key))?));
        }
        let mut references = lock(&self.references);
        references.retain(|_, known| known.read.elapsed() < KEPT);
        let now = Instant::now();
        references.insert(wanted, Read { read: now, asked: now, values: values.clone() });
        known(values)
    }

    async fn data_of(
        &self,
        kind: &'static str,
        name: &str,
    ) -> Result<BTreeMap<String, String>, Error> {
        if kind != "ConfigMap" {
            return self.secret(name).await;
        }
        let api = Api::<ConfigMap>::namespaced(self.kube.clone(), &self.namespace);
        let map = self.read(kind, name, api.get_opt(name)).await?;
        Ok(map.and_then(|map| map.data).unwrap_or_default())
    }

    /// What was read before the API server could not be asked; it is not asked again at once.
    fn last(&self, wanted: &Reference) -> Option<Vec<Redacted<String>>> {
        let mut references = lock(&self.references);
        let known = references.get_mut(wanted).filter(|known| known.read.elapsed() < KEPT)?;
        known.asked = Instant::now();
        Some(known.values.clone())
    }

    fn fresh(&self, wanted: &Reference) -> Option<Vec<Redacted<String>>> {
        let references = lock(&self.references);
        let known = references.get(wanted)?;
        (known.asked.elapsed() < FRESH).then(|| known.values.clone())
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

/// The lowest limit of all backends with the address of this client holds for all of them.
fn limit(clients: &HashMap<String, Connected>, client: &vault::Client) {
    let own = clients.values().find(|known| known.client.is_same(client));
    let Some(address) = own.map(|known| &known.settings.address) else { return };
    let of_address =
        || clients.values().map(|known| &known.settings).filter(|other| other.address == *address);
    let rate = of_address().map(|settings| settings.requests_per_second).min();
    let burst = of_address().map(|settings| settings.burst).min();
    if let Some((rate, burst)) = rate.zip(burst) {
        client.gate().set_rate(rate, burst);
    }
}

/// Blames the spec or the object that it names.
fn unusable(backend: &VaultAwsBackend, error: vault::SettingsError) -> Error {
    let vault = &backend.spec.vault;
    let blamed = match &error {
        vault::SettingsError::CaBundle { .. } => vault.ca_bundle_ref.as_ref().map(|reference| {
            let kind = match reference.kind {
                CaBundleKind::ConfigMap => "ConfigMap",
                CaBundleKind::Secret => "Secret",
            };
            (kind, &reference.name)
        }),
        vault::SettingsError::ClientCertificate { .. } => {
            vault.client_certificate_ref.as_ref().map(|reference| ("Secret", &reference.name))
        }
        _ => None,
    };
    let source = Arc::new(error);
    match blamed {
        Some((kind, name)) => Error::Unusable { kind, name: name.clone(), source },
        None => Error::Settings(source),
    }
}

/// A login with the projected token of the operator's ServiceAccount, which the kubelet renews.
async fn log_in_by_token(
    client: &vault::Client,
    login: &ServiceAccountLogin,
) -> Result<Login, Error> {
    let path = &login.token_path;
    let token = tokio::fs::read_to_string(path)
        .await
        .map_err(|error| Error::TokenFile { path: path.clone(), source: Arc::new(error) })?;
    let token = Redacted::new(token.trim().to_owned());
    login::jwt(client, &login.mount, &login.role, &token).await.map_err(Error::Login)
}
