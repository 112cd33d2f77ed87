//! `vault-aws run`: settings → clients → controllers and the admin server → graceful stop.

use std::{future::Future, io, num::NonZeroUsize, time::Duration};

use kube::{Client, Config};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

mod kinds;

use super::{RunArgs, kubeconfig};
use crate::{
    admin::{self, Vitals},
    controller::{
        Shell,
        report::Reporter,
        watch::{Form, Kind, Scope, Watched},
    },
    leader::{Election, Leadership, fenced_client},
    telemetry::{self, Metrics, Pulse},
};

/// How long one pass may take.
const PASS_DEADLINE: Duration = Duration::from_secs(120);

/// How long a request to the API server, other than a watch, may stay without a byte.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests to the API server that are on their way at once.
const REQUESTS: usize = 16;

/// How long events that wait may take to be sent at the end.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// From the signal to the end; a pod has 30 seconds.
const STOP_WITHIN: Duration = Duration::from_secs(22);

/// Why the operator could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log.
    #[error(transparent)]
    Log(#[from] telemetry::LogError),
    /// The admin server.
    #[error(transparent)]
    Admin(#[from] admin::Error),
    /// Tokio.
    #[error("starting the runtime")]
    Runtime(#[source] io::Error),
    /// SIGTERM or SIGINT cannot be listened to.
    #[error("listening for signals")]
    Signals(#[source] io::Error),
    /// The kubeconfig.
    #[error(transparent)]
    Kubeconfig(#[from] kubeconfig::Error),
    /// No cluster.
    #[error("finding the Kubernetes API server")]
    Infer(#[source] kube::config::InferConfigError),
    /// The configuration of the cluster cannot be used.
    #[error("preparing the Kubernetes client")]
    Client(#[source] kube::Error),
    /// The operator's own AWS identity.
    #[error("preparing the AWS client")]
    Aws(#[source] crate::aws::Error),
    /// A controller ended although nobody asked it to: better a restart than half an operator.
    #[error("a controller ended by itself")]
    ControllerEnded,
    /// Another replica leads now. This one begins again as a standby, with nothing in memory.
    #[error("another replica took the lease `{lease}` over")]
    LeaseLost {
        /// Its name.
        lease: String,
    },
}

impl Error {
    /// What to do about it, if that is not plain.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Kubeconfig(_) | Self::Infer(_) | Self::Client(_) => {
                Some("set KUBECONFIG, or run in a pod with a service account")
            }
            Self::Log(telemetry::LogError::Filter { .. }) => {
                Some("a filter is a list like `info,vault_aws_operator=debug`")
            }
            Self::Admin(admin::Error::Bind { .. }) => {
                Some("choose another address with --admin-address; port 0 takes a free one")
            }
            Self::LeaseLost { .. } => Some("start it again: it waits until the other one is gone"),
            Self::Log(_)
            | Self::Admin(_)
            | Self::Runtime(_)
            | Self::Signals(_)
            | Self::Aws(_)
            | Self::ControllerEnded => None,
        }
    }
}

/// Runs the operator until SIGTERM or SIGINT.
pub fn run(args: RunArgs) -> Result<(), Error> {
    // Only fails if there is a provider already, and then it is this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    telemetry::init_log(args.log_format, &args.log_filter)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let ended = runtime.block_on(serve(args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn serve(args: RunArgs) -> Result<(), Error> {
    let signals = Signals::listen()?;
    let (clients, election) = Clients::connect(&args).await?;
    let metrics = Metrics::new(!args.no_certificate_expiry_metrics);
    let vitals = Vitals::new(metrics.clone());
    admin::serve(args.admin_address, vitals.clone())?;
    let shutdown = CancellationToken::new();
    let stopping = shutdown.clone();
    vitals.needs(move || stopping.is_cancelled().then(|| "stopping".to_owned()));
    metrics.elects(clients.leadership.clone());
    // After the last write: until then nobody else may begin.
    let resign = CancellationToken::new();
    let election = election.map(|election| tokio::spawn(election.run(resign.clone())));
    let lease = args.lease();
    let mut operator = Operator {
        reporter: Reporter::new(clients.requests.clone(), metrics.clone(), args.instance()),
        args,
        clients,
        metrics,
        vitals,
        shutdown,
        tasks: JoinSet::new(),
    };
    let sessions = kinds::compose(&mut operator).await?;
    let reporter = operator.reporter.clone();
    let ended = operator.run_until(signals, &lease).await;
    reporter.flush(LAST_EVENTS).await;
    // After the last pass: nobody asks for a token any more.
    sessions.give_back().await;
    resign.cancel();
    if let Some(election) = election {
        // Each of its requests has a deadline of its own.
        let _ = election.await;
    }
    ended
}

/// Two clients, since a read timeout that protects requests would end quiet watches.
#[derive(Clone)]
pub struct Clients {
    /// For lists and watches, which have deadlines of their own.
    pub watches: Client,
    /// For everything else; it changes something only while this replica leads.
    pub requests: Client,
    /// Whether it does.
    pub leadership: Leadership,
}

impl Clients {
    /// The clients, and the election to take part in.
    async fn connect(args: &RunArgs) -> Result<(Self, Option<Election>), Error> {
        kubeconfig::check()?;
        let mut config = Config::infer().await.map_err(Error::Infer)?;
        // It repeats 429 and 503 up to fifteen times within a pass, and POSTs too. Ours is the
        // schedule, which lets others go first meanwhile.
        config.default_retry = false;
        config.read_timeout = None;
        let watching = config.clone();
        config.read_timeout = Some(READ_TIMEOUT);
        config.reset_reader_on_write = true;
        let election = if args.no_leader_election {
            None
        } else {
            // Connections of its own: no crowd of requests makes a renewal wait.
            let client = Client::try_from(config.clone()).map_err(Error::Client)?;
            let namespace = args.operator_namespace();
            Some(Election::new(client, namespace, &args.lease(), &args.instance()))
        };
        let leadership = election.as_ref().map_or_else(Leadership::unopposed, Election::leadership);
        let fenced = |config, at_once| {
            fenced_client(config, leadership.clone(), at_once).map_err(Error::Client)
        };
        // A watch lasts for minutes: it may well open a connection, and never waits on a dead one.
        let watches = fenced(watching, None)?;
        let requests = fenced(config, Some(REQUESTS))?;
        Ok((Self { watches, requests, leadership }, election))
    }
}

/// What the controllers are built from.
struct Operator {
    args: RunArgs,
    clients: Clients,
    metrics: Metrics,
    reporter: Reporter,
    vitals: Vitals,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Operator {
    /// The scope of namespaced kinds.
    fn scope(&self) -> Scope {
        if self.args.namespaces.is_empty() {
            Scope::All
        } else {
            Scope::Namespaces(self.args.namespaces.clone())
        }
    }

    /// Watches a kind; the process is ready only while that works.
    fn watch<K: Kind>(&self, scope: Scope, prune: fn(&mut K), form: Form) -> Watched<K> {
        let (client, metrics) = (self.clients.watches.clone(), self.metrics.clone());
        let lasting = self.args.watch_timeout;
        let watched = Watched::start(client, metrics, scope, lasting, prune, form);
        let looked_at = watched.clone();
        self.vitals.needs(move || looked_at.complaint());
        watched
    }

    /// What the controller of this kind is given; the process is healthy only while it lives.
    fn shell(&self, kind: &str) -> Shell {
        let pulse = Pulse::default();
        self.vitals.needs_pulse(kind, pulse.clone());
        Shell {
            reporter: self.reporter.clone(),
            // The command line takes no 0.
            concurrency: NonZeroUsize::new(self.args.concurrency.into())
                .unwrap_or(NonZeroUsize::MIN),
            deadline: PASS_DEADLINE,
            shutdown: self.shutdown.clone(),
            leadership: self.clients.leadership.clone(),
            pulse,
        }
    }

    /// Starts a controller.
    fn spawn(&mut self, controller: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(controller);
    }

    /// Waits for a signal and sees the stop through; a second signal breaks it off.
    async fn run_until(mut self, mut signals: Signals, lease: &str) -> Result<(), Error> {
        let asked = tokio::select! {
            signal = signals.received() => {
                tracing::info!(signal, "stopping");
                Ok(())
            }
            Some(ended) = self.tasks.join_next() => {
                tracing::error!(panicked = ended.is_err(), "a controller ended by itself");
                Err(Error::ControllerEnded)
            }
            () = self.clients.leadership.lost() => {
                Err(Error::LeaseLost { lease: lease.to_owned() })
            }
        };
        self.shutdown.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        tokio::select! {
            ended = timeout(STOP_WITHIN, drained) => if ended.is_err() {
                tracing::warn!("controllers did not stop in time, broken off");
            },
            signal = signals.received() => tracing::warn!(signal, "second signal, broken off"),
        }
        asked
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
