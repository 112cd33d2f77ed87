//! Which kinds are watched, which controllers run, and whom a change wakes.
//!
//! A controller is woken by a change of what its resources refer to, and only by a change that can
//! matter to them: a status that says the same again wakes nobody.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{ResourceExt, core::PartialObjectMeta, runtime::reflector::ObjectRef};

use super::{Error, Operator, PASS_DEADLINE};
use crate::{
    aws::identity::Ambient,
    backend::{
        Backends,
        usage::{Users, released},
    },
    cert::{
        self, Certs, Memory,
        accounts::Accounts,
        desired::{backend_name, role_name},
        identity::Identities,
        round::Rounds,
        secrets::Secrets,
    },
    cli::Controller,
    clock,
    connection::Connections,
    controller::{
        self,
        condition::{READY, find},
        watch::{Event, Form, Kind, Scope, Watched, reference, triggers},
    },
    crd::{self, VaultAwsBackend, VaultAwsRole, VaultCertSync},
    leader::Leadership,
    role::{Roles, Stores},
    telemetry::Metrics,
    vault::Observer,
};

/// The tokens this process logged in for.
pub(super) struct OpenSessions {
    connections: Arc<Connections>,
    identities: Option<Arc<Identities>>,
}

impl OpenSessions {
    /// Revokes them, within seconds and as far as Vault can be reached.
    pub(super) async fn give_back(&self) {
        self.connections.shutdown().await;
        if let Some(identities) = &self.identities {
            identities.sessions.shutdown().await;
        }
    }
}

/// Starts the watches and the controllers that were asked for.
pub(super) async fn compose(operator: &mut Operator) -> Result<OpenSessions, Error> {
    let observer = Arc::new(Beside {
        metrics: operator.metrics.clone(),
        leadership: operator.clients.leadership.clone(),
    });
    let connections = Arc::new(Connections::new(
        operator.clients.requests.clone(),
        operator.args.operator_namespace().to_owned(),
        observer,
    ));
    let prune_namespace = |namespace: &mut PartialObjectMeta<Namespace>| {
        namespace.metadata.annotations = None;
    };
    let namespaces = operator.watch(Scope::All, prune_namespace, Form::Typed);
    let backends = operator.watch(Scope::All, |_: &mut VaultAwsBackend| {}, Form::Typed);
    let roles = operator.watch(operator.scope(), |_: &mut VaultAwsRole| {}, Form::Typed);
    if operator.args.runs(Controller::Backend) {
        backend(operator, &roles, &backends, &namespaces, &connections);
    }
    let mut identities = None;
    if operator.args.runs(Controller::Role) || operator.args.runs(Controller::Sync) {
        let syncs = if operator.args.runs(Controller::Sync) {
            operator.watch(operator.scope(), cert::prune, cert::likeness::SYNC)
        } else {
            operator.watch(operator.scope(), prune_for_roles, Form::Typed)
        };
        let ambient = Ambient::load("us-east-1").await.map_err(Error::Aws)?;
        if operator.args.runs(Controller::Role) {
            let stores = Stores {
                backends: backends.store(),
                roles: roles.store(),
                namespaces: namespaces.store(),
                syncs: syncs.store(),
            };
            let timeout = operator.args.cleanup_timeout;
            let connections = Arc::clone(&connections);
            let reconciler = Roles::new(stores, connections, ambient.clone(), timeout);
            role(operator, reconciler, &roles, &syncs, &backends, &namespaces);
        }
        if operator.args.runs(Controller::Sync) {
            let kept = Arc::new(Identities::new(ambient));
            sync(operator, &syncs, &roles, &backends, &namespaces, &connections, &kept);
            identities = Some(kept);
        }
    }
    Ok(OpenSessions { connections, identities })
}

type Namespaces = Watched<PartialObjectMeta<Namespace>>;

fn backend(
    operator: &mut Operator,
    roles: &Watched<VaultAwsRole>,
    backends: &Watched<VaultAwsBackend>,
    namespaces: &Namespaces,
    connections: &Arc<Connections>,
) {
    let client = operator.clients.requests.clone();
    let reconciler = Arc::new(Backends::new(
        namespaces.store(),
        Arc::clone(connections),
        operator.metrics.clone(),
        Users::new(roles.store(), client, operator.args.namespaces.clone()),
    ));
    let (roles, backends, namespaces) = (roles.clone(), backends.clone(), namespaces.clone());
    let shell = operator.shell("backend");
    operator.spawn(async move {
        // The default clusterId is the UID of a namespace; and who uses a backend must be known before
        // it changes or goes.
        listed(&roles, &backends, &namespaces).await;
        // Before anything is subscribed to: a standby may wait for weeks.
        if !shell.leads().await {
            return;
        }
        let store = backends.store();
        let released = triggers(&roles, move |events| {
            let gone = events.iter().filter(|event| event.is_deletion());
            let gone = gone.filter_map(|event| event.old.as_ref());
            let backends = gone.filter_map(|role| store.get(None, &released(role)));
            backends.map(|backend| reference(&*backend)).collect()
        });
        controller::run(reconciler, &backends, released, shell).await;
    });
}

fn role(
    operator: &mut Operator,
    reconciler: Roles,
    roles: &Watched<VaultAwsRole>,
    syncs: &Watched<VaultCertSync>,
    backends: &Watched<VaultAwsBackend>,
    namespaces: &Namespaces,
) {
    let reconciler = Arc::new(reconciler);
    let (roles, backends, namespaces) = (roles.clone(), backends.clone(), namespaces.clone());
    let syncs = syncs.clone();
    let shell = operator.shell("role");
    operator.spawn(async move {
        listed(&roles, &backends, &namespaces).await;
        syncs.ready().await;
        // Before anything is subscribed to: a standby may wait for weeks.
        if !shell.leads().await {
            return;
        }
        let store = roles.store();
        let by_backend = triggers(&backends, {
            let store = store.clone();
            move |events| {
                let changed = names(events, backend_matters);
                let rekeyed = names(events, keys_written);
                let uses = |role: &VaultAwsRole| {
                    let backend = &*role.spec.backend_ref.name;
                    changed.contains(backend) || rekeyed.contains(backend) && !is_ready(role)
                };
                if changed.is_empty() && rekeyed.is_empty() {
                    Vec::new()
                } else {
                    store.find(|_| true, uses)
                }
            }
        });
        let by_namespace = triggers(&namespaces, {
            let store = store.clone();
            move |events| {
                let changed = names(events, labels_changed);
                store.find(|role| lies_in(role, &changed), |_| true)
            }
        });
        // Only roles with unique IDs tell of logins.
        let by_login = triggers(&syncs, {
            let store = store.clone();
            move |events| {
                let told: HashSet<_> = events.iter().filter_map(login_told).collect();
                store.find(
                    |role| told.contains(&(role.namespace.clone(), role.name.clone())),
                    |role| {
                        let status = role.status.as_ref();
                        status.is_some_and(|status| !status.bound_principal_ids.is_empty())
                    },
                )
            }
        });
        // Whoever lost a name to a role that is gone may have it now.
        let by_loss = triggers(&roles, move |events| {
            let lost = |role: &VaultAwsRole| {
                let status = role.status.as_ref();
                let ready = status.and_then(|status| find(&status.conditions, READY));
                ready.is_some_and(|ready| ready.reason == "Conflict")
            };
            if events.iter().any(Event::is_deletion) {
                store.find(|_| true, lost)
            } else {
                Vec::new()
            }
        });
        let woken =
            all([by_backend.boxed(), by_namespace.boxed(), by_login.boxed(), by_loss.boxed()]);
        controller::run(reconciler, &roles, woken, shell).await;
    });
}

fn sync(
    operator: &mut Operator,
    syncs: &Watched<VaultCertSync>,
    roles: &Watched<VaultAwsRole>,
    backends: &Watched<VaultAwsBackend>,
    namespaces: &Namespaces,
    connections: &Arc<Connections>,
    identities: &Arc<Identities>,
) {
    let syncs = syncs.clone();
    let none = || Scope::Namespaces(Vec::new());
    let secrets =
        Secrets::new(operator.watch(none(), cert::secrets::prune, cert::likeness::SECRET));
    let accounts = Accounts::new(operator.watch(none(), cert::accounts::prune, Form::Typed));
    let reconciler = Arc::new(Certs {
        client: operator.clients.requests.clone(),
        backends: backends.store(),
        roles: roles.store(),
        namespaces: namespaces.store(),
        secrets: secrets.clone(),
        accounts: accounts.clone(),
        connections: Arc::clone(connections),
        identities: Arc::clone(identities),
        metrics: operator.metrics.clone(),
        started: clock::now(),
        memory: Memory::default(),
        rounds: Rounds::default(),
        reading: PASS_DEADLINE / 3,
    });
    let (roles, backends, namespaces) = (roles.clone(), backends.clone(), namespaces.clone());
    let shell = operator.shell("sync");
    operator.spawn(async move {
        listed(&roles, &backends, &namespaces).await;
        // Before anything is subscribed to: a standby may wait for weeks.
        if !shell.leads().await {
            return;
        }
        let store = syncs.store();
        let by_backend = triggers(&backends, {
            let (store, roles) = (store.clone(), roles.store());
            move |events| {
                let changed = names(events, backend_matters);
                let uses = |sync: &VaultCertSync| {
                    let role = role_name(sync)
                        .and_then(|name| roles.get(sync.namespace().as_deref(), &name));
                    backend_name(sync, role.as_deref()).is_some_and(|name| changed.contains(&*name))
                };
                if changed.is_empty() { Vec::new() } else { store.find(|_| true, uses) }
            }
        });
        let by_role = triggers(&roles, {
            let store = store.clone();
            move |events| {
                let changed: HashSet<_> = events
                    .iter()
                    .filter(|event| role_matters(event))
                    .map(|event| (event.object.namespace.clone(), event.object.name.clone()))
                    .collect();
                let places: HashSet<_> = changed.iter().map(|(namespace, _)| namespace).collect();
                store.find(
                    |sync| places.contains(&sync.namespace),
                    |sync| {
                        let role = role_name(sync).map(|role| (sync.namespace(), role));
                        role.is_some_and(|role| changed.contains(&role))
                    },
                )
            }
        });
        let by_namespace = triggers(&namespaces, move |events| {
            let changed = names(events, labels_changed);
            store.find(|sync| lies_in(sync, &changed), |_| true)
        });
        let woken = all([
            by_backend.boxed(),
            by_role.boxed(),
            by_namespace.boxed(),
            secrets.triggers().boxed(),
            accounts.triggers().boxed(),
        ]);
        controller::run(reconciler, &syncs, woken, shell).await;
    });
}

/// Until everything that resources refer to is known: else what is there would be called missing.
async fn listed(
    roles: &Watched<VaultAwsRole>,
    backends: &Watched<VaultAwsBackend>,
    namespaces: &Namespaces,
) {
    tokio::join!(roles.ready(), backends.ready(), namespaces.ready());
}

fn all<K: Kind, const N: usize>(
    streams: [BoxStream<'static, ObjectRef<K>>; N],
) -> impl futures::Stream<Item = ObjectRef<K>> + Send {
    stream::select_all(streams)
}

/// The names of what changed in a way that matters.
fn names<K: Kind>(events: &[Event<K>], matters: impl Fn(&Event<K>) -> bool) -> HashSet<&str> {
    let changed = events.iter().filter(|event| matters(event));
    changed.map(|event| event.object.name.as_str()).collect()
}

/// Whether the object lies in one of these namespaces.
fn lies_in<K: Kind>(object: &ObjectRef<K>, namespaces: &HashSet<&str>) -> bool {
    object.namespace.as_deref().is_some_and(|namespace| namespaces.contains(namespace))
}

/// Of a sync, what a role is told by it: which role it uses, and whether it logs in there.
fn prune_for_roles(sync: &mut VaultCertSync) {
    let crd::VaultCertSyncSpec { role_ref, principal, .. } = std::mem::take(&mut sync.spec);
    sync.spec = crd::VaultCertSyncSpec { role_ref, principal, ..Default::default() };
    if let Some(status) = sync.status.take() {
        let mut conditions = status.conditions;
        conditions.retain(|condition| condition.type_ == READY);
        let observed_generation = status.observed_generation;
        sync.status = Some(crd::VaultCertSyncStatus {
            conditions,
            observed_generation,
            ..Default::default()
        });
    }
}

/// Namespace and name of the role of a sync whose `Ready` has changed.
fn login_told(event: &Event<VaultCertSync>) -> Option<(Option<String>, String)> {
    let part = |sync: &Option<Arc<VaultCertSync>>| {
        sync.as_ref().and_then(|sync| sync.status.as_ref().map(|s| verdict(&s.conditions)))
    };
    let sync = event.new.as_ref().or(event.old.as_ref())?;
    if part(&event.old) == part(&event.new) {
        return None;
    }
    Some((event.object.namespace.clone(), sync.role_name()?))
}

/// Another spec, or another verdict on it.
fn backend_matters(event: &Event<VaultAwsBackend>) -> bool {
    let part = |backend: &Option<Arc<VaultAwsBackend>>| {
        backend.as_ref().map(|backend| {
            let status = backend.status.as_ref();
            let ready = status.and_then(|status| verdict(&status.conditions));
            (
                backend.uid(),
                backend.metadata.generation,
                status.map(|status| status.observed_generation),
                status.and_then(|status| status.cluster_id.clone()),
                status.and_then(|status| status.in_effect.clone()),
                ready,
                // Another Vault, or a mount that was made anew, has none of the roles.
                status.and_then(|status| status.vault_cluster_id.clone()),
                status.and_then(|status| status.mount_accessor.clone()),
                // Wildcards and unique IDs wait for it.
                status
                    .and_then(|status| find(&status.conditions, "VersionSafe"))
                    .map(|condition| condition.status.clone()),
            )
        })
    };
    part(&event.old) != part(&event.new)
}

/// Vault has other AWS keys: what waits for them may go on.
fn keys_written(event: &Event<VaultAwsBackend>) -> bool {
    let part = |backend: &Option<Arc<VaultAwsBackend>>| {
        backend.as_ref()?.status.as_ref().and_then(|status| status.client_keys.clone())
    };
    part(&event.old) != part(&event.new)
}

fn is_ready(role: &VaultAwsRole) -> bool {
    let status = role.status.as_ref();
    let ready = status.and_then(|status| find(&status.conditions, READY));
    ready.is_some_and(|ready| ready.status == "True")
}

/// Another verdict on the role, another name or ID in Vault, or its deletion.
fn role_matters(event: &Event<VaultAwsRole>) -> bool {
    let part = |role: &Option<Arc<VaultAwsRole>>| {
        role.as_ref().map(|role| {
            let status = role.status.as_ref();
            (
                role.uid(),
                role.metadata.deletion_timestamp.is_some(),
                status.map(|status| status.observed_generation) == role.metadata.generation,
                status.and_then(|status| status.vault_role.clone()),
                status.and_then(|status| status.role_id.clone()),
                status.and_then(|status| verdict(&status.conditions)),
            )
        })
    };
    part(&event.old) != part(&event.new)
}

fn labels_changed(event: &Event<PartialObjectMeta<Namespace>>) -> bool {
    let labels = |namespace: &Option<Arc<PartialObjectMeta<Namespace>>>| {
        namespace.as_ref().map(|namespace| namespace.metadata.labels.clone())
    };
    labels(&event.old) != labels(&event.new)
}

fn verdict(conditions: &[Condition]) -> Option<(String, String)> {
    find(conditions, READY).map(|ready| (ready.status.clone(), ready.reason.clone()))
}

/// Vault's requests as metrics, and the fence before those that change something.
struct Beside {
    metrics: Metrics,
    leadership: Leadership,
}

impl Observer for Beside {
    fn may_write(&self) -> bool {
        self.leadership.holds()
    }

    fn request(&self, operation: &'static str, result: &'static str, elapsed: Duration) {
        self.metrics.vault_request(operation, result, elapsed);
        if operation.starts_with("login") {
            self.metrics.login(result);
        }
    }

    fn waited(&self, wait: Duration) {
        self.metrics.limiter_waited(wait);
    }
}
