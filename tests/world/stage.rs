//! What all tests share: a lab, the operator installed in it, and its two processes.

use std::{
    io::{self, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};
use vault_aws_lab::{Component, Front, Installation, Lab, Operator, Options};

use crate::leaks;

/// The name of the runtime's own threads; trials have threads of their own.
pub(crate) const RUNTIME_THREAD: &str = "lab";

/// How long the operator may take to have listed everything.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// What the operator of the outages' lab is given besides: a time after which a deleted role is let
/// go that a test can wait for.
pub(crate) const CLEANUP_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a watch lasts there, so that a test can wait until a dead one is noticed.
pub(crate) const WATCH_TIMEOUT: Duration = Duration::from_secs(20);

/// A lab with a running operator.
pub(crate) struct Stage {
    /// The servers.
    pub(crate) lab: Lab,
    /// What was installed.
    pub(crate) installation: Installation,
    /// Between the operator and the API server, where tests spoil that way.
    pub(crate) way: Option<Front>,
    /// The process with power in Vault.
    pub(crate) role_writer: Operator,
    /// The process that writes Secrets.
    pub(crate) syncer: Operator,
    runtime: Arc<Runtime>,
}

impl Stage {
    async fn set(
        name: String,
        env: &[(&str, &str)],
        spoilt: bool,
        runtime: Arc<Runtime>,
    ) -> vault_aws_lab::Result<Self> {
        let begun = Instant::now();
        let keep_files = std::env::var_os("VAULT_AWS_LAB_KEEP").is_some();
        let lab = Lab::start(Options { name, keep_files, ..Options::default() }).await?;
        let installation = Installation::install(&lab).await?;
        let binary = Path::new(env!("CARGO_BIN_EXE_vault-aws"));
        let way = if spoilt { Some(Front::before_apiserver(&lab).await?) } else { None };
        let apiserver = way.as_ref().map_or_else(|| lab.kube_url(), Front::url);
        let (role_writer, syncer) = tokio::try_join!(
            Operator::start_behind(&lab, Component::RoleWriter, binary, &apiserver, env),
            Operator::start_behind(&lab, Component::Syncer, binary, &apiserver, env),
        )?;
        tokio::try_join!(role_writer.ready(READY_LIMIT), syncer.ready(READY_LIMIT))?;
        if let Some(seeds) = &lab.seeds {
            for keys in [&seeds.vault.keys, &seeds.operator.keys] {
                leaks::plant("AWS secret key", &keys.secret_key);
            }
        }
        leaks::plant("Vault token", lab.vault_root_token());
        say(&format!(
            "lab {} with the operator ready after {:.1} s: {}",
            lab.name(),
            begun.elapsed().as_secs_f64(),
            lab.folder().display()
        ));
        Ok(Self { lab, installation, way, role_writer, syncer, runtime })
    }

    /// On which tests run, and the clients of the lab.
    pub(crate) fn runtime(&self) -> Arc<Runtime> {
        Arc::clone(&self.runtime)
    }

    /// The operator's processes.
    pub(crate) fn operators(&self) -> [&Operator; 2] {
        [&self.role_writer, &self.syncer]
    }

    /// Has everything run that a test may have stopped, whatever became of the test.
    pub(crate) async fn mend(&self) -> vault_aws_lab::Result<()> {
        for server in [self.lab.etcd(), self.lab.apiserver(), self.lab.vault_server()] {
            // One that a test left frozen does not answer.
            let _ = server.resume();
            server.start().await?;
        }
        self.mend_crds().await?;
        self.lab.vault_unseal().await?;
        self.lab.sts().accept().await;
        self.lab.sts().answer_normally();
        if let Some(way) = &self.way {
            way.answer_normally();
            way.heal().await;
        }
        for operator in self.operators() {
            operator.start_again().await?;
            operator.ready(READY_LIMIT).await?;
        }
        Ok(())
    }

    /// Applies the CRDs again if a test left one removed.
    async fn mend_crds(&self) -> vault_aws_lab::Result<()> {
        let all = ["get", "crd", "-l", "app.kubernetes.io/name=vault-aws-operator", "-o", "name"];
        let found = self.lab.kubectl(&all).await?;
        if String::from_utf8_lossy(&found.stdout).lines().count() < 3 {
            Installation::install_crds(&self.lab).await?;
        }
        Ok(())
    }

    async fn strike(self) -> vault_aws_lab::Result<()> {
        let Self { lab, role_writer, syncer, .. } = self;
        let (first, second) = tokio::try_join!(role_writer.stop(), syncer.stop())?;
        if !(first && second) {
            say("an operator had to be killed: it did not stop in time");
        }
        lab.stop().await
    }
}

/// The labs of this run, each started when the first test wants it.
#[derive(Default)]
pub(crate) struct Stages {
    runtime: Mutex<Option<Arc<Runtime>>>,
    shared: Mutex<Option<Attempt>>,
    outage: Mutex<Option<Attempt>>,
}

/// A failed start is not tried again by each test.
type Attempt = Result<Arc<Stage>, String>;

impl Stages {
    /// The lab of tests that leave the servers alone.
    pub(crate) fn shared(&self) -> Attempt {
        self.start(&self.shared, "world", &[], false)
    }

    /// The lab of tests that do not.
    pub(crate) fn outage(&self) -> Attempt {
        let timeout = format!("{}s", CLEANUP_TIMEOUT.as_secs());
        let watch = format!("{}s", WATCH_TIMEOUT.as_secs());
        let env = [("VAULT_AWS_CLEANUP_TIMEOUT", &*timeout), ("VAULT_AWS_WATCH_TIMEOUT", &watch)];
        self.start(&self.outage, "outage", &env, true)
    }

    /// The labs that were started.
    pub(crate) fn started(&self) -> Vec<Arc<Stage>> {
        [&self.shared, &self.outage]
            .into_iter()
            .filter_map(|slot| lock(slot).as_ref()?.as_ref().ok().cloned())
            .collect()
    }

    fn start(
        &self,
        slot: &Mutex<Option<Attempt>>,
        name: &str,
        env: &[(&str, &str)],
        spoilt: bool,
    ) -> Attempt {
        // Held while the lab starts: the other tests wait here.
        let mut slot = lock(slot);
        if let Some(attempt) = &*slot {
            return attempt.clone();
        }
        let attempt = self.runtime().and_then(|runtime| {
            let name = format!("{name}-{}", std::process::id());
            let stage = runtime.block_on(Stage::set(name, env, spoilt, Arc::clone(&runtime)));
            stage.map(Arc::new).map_err(|error| {
                let reason = format!("the lab did not start: {}", error.story());
                say(&reason);
                reason
            })
        });
        slot.insert(attempt).clone()
    }

    fn runtime(&self) -> Result<Arc<Runtime>, String> {
        let mut slot = lock(&self.runtime);
        if let Some(runtime) = &*slot {
            return Ok(Arc::clone(runtime));
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(RUNTIME_THREAD)
            .enable_all()
            .build()
            .map_err(|error| format!("starting the runtime: {error}"))?;
        Ok(Arc::clone(slot.insert(Arc::new(runtime))))
    }

    /// Stops all labs, kindly; those that cannot be stopped end with this process.
    pub(crate) fn stop(&self) -> Result<(), ()> {
        let mut result = Ok(());
        for slot in [&self.shared, &self.outage] {
            let Some(Ok(stage)) = lock(slot).take() else { continue };
            let runtime = stage.runtime();
            let Some(stage) = Arc::into_inner(stage) else {
                say("a lab is still in use and ends with this process");
                continue;
            };
            if let Err(error) = runtime.block_on(stage.strike()) {
                say(&format!("stopping a lab: {}", error.story()));
                result = Err(());
            }
        }
        result
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells people something on stderr.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
