//! `vault-aws credential-process`: AWS credentials from Vault for programs that read their profile.
//!
//! SDKs start this for each process, some for each request, several at once, and show stderr to people.
//! So: a hit in the cache opens three files and nothing more (no runtime, no TLS, no client); of many
//! that miss at once one asks Vault; stdout holds one JSON object or nothing; whatever happens, it
//! happens within a budget of time.

use std::{
    cell::Cell,
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::process::geteuid;

use super::{
    CacheCommand, CredentialProcessArgs, CredentialProcessCommand,
    token_store::{self, TokenStore},
    vault_environment::{self, GUARD, Variables, VaultEnvironment, VaultFlags},
};
use crate::{
    clock,
    credentials::{
        Cache, Entry, Freshness, Key, Parts, TokenLife,
        cache::{self, Lock, Platform},
        document,
        entry::{Circumstances, Source, Unusable},
    },
    fault::{Fault as _, Retry, chain},
    redacted::Redacted,
    review::escape::line,
    vault::{
        Caller, Cause,
        aws_secrets::{self, Issued, Kind, Method, Request},
        error::Step,
        tokens,
    },
};

/// The Rust SDK gives up after about 21 s, others later.
const BUDGET: Duration = Duration::from_secs(20);
/// Where there is something to serve, even an old Rust SDK, which waits for 5 s, must get it.
const BUDGET_WITH_FALLBACK: Duration = Duration::from_secs(4);
/// How often a waiter looks whether the one who asks Vault is done.
const LOOK: Duration = Duration::from_millis(25);
/// As the client library of Vault.
const RETRIES: u32 = 2;
/// The first wait before a request is tried again.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// Why no credentials were printed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// We were started by something that we had started.
    #[error(
        "vault-aws was started by itself ({by}): a profile whose credential_process is vault-aws cannot give vault-aws its AWS credentials"
    )]
    Recursion {
        /// What we had started.
        by: String,
    },
    /// Flags that exclude each other.
    #[error("{0}")]
    Usage(&'static str),
    /// The variable of the budget.
    #[error("VAULT_AWS_TIMEOUT cannot be used: it is not a duration between 1s and 55s")]
    Timeout,
    /// The Vault client environment.
    #[error(transparent)]
    Environment(#[from] vault_environment::Error),
    /// The token.
    #[error(transparent)]
    Token(#[from] token_store::Error),
    /// The runtime could not be made.
    #[error("starting the asynchronous runtime")]
    Runtime(#[source] io::Error),
    /// Somebody else of us asks Vault, and is not done.
    #[error("another vault-aws has been asking Vault for the same credentials for {}s", after.as_secs())]
    Lock {
        /// How long was waited.
        after: Duration,
    },
    /// Vault did not give credentials.
    #[error("{request}")]
    Vault {
        /// Method, path, address, namespace.
        request: String,
        /// Why not.
        source: Answer,
    },
    /// Vault took all of the budget.
    #[error("{request}: no answer within {}s (--timeout)", after.as_secs_f32())]
    Late {
        /// Method, path, address, namespace.
        request: String,
        /// The budget.
        after: Duration,
    },
    /// Vault's answer is of no use.
    #[error("{request}")]
    Unusable {
        /// Method, path, address, namespace.
        request: String,
        /// Why not.
        source: Unusable,
    },
    /// The cache, where it is what was asked about.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// Nobody says where the cache is.
    #[error("neither XDG_CACHE_HOME nor HOME says where the cache is")]
    NoCacheFolder,
    /// Some leases could not be revoked; their entries are kept.
    #[error("{failed} of {all} leases could not be revoked; their entries are kept")]
    Revoke {
        /// How many were not.
        failed: usize,
        /// How many there were.
        all: usize,
    },
    /// stdout.
    #[error("writing to stdout")]
    Write(#[source] io::Error),
}

/// What Vault answered, with its status and what to do about it: all on one line.
#[derive(Debug, thiserror::Error)]
#[error("{cause}{}{advice}", status.map(|status| format!(" (HTTP {status})")).unwrap_or_default())]
pub struct Answer {
    cause: Cause,
    status: Option<u16>,
    advice: &'static str,
}

impl Error {
    /// As `vault`'s: 1 for settings and files of this machine, 2 for Vault.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Vault { .. }
            | Self::Late { .. }
            | Self::Unusable { .. }
            | Self::Lock { .. }
            | Self::Revoke { .. } => 2,
            Self::Recursion { .. }
            | Self::Usage(_)
            | Self::Timeout
            | Self::Environment(_)
            | Self::Token(_)
            | Self::Runtime(_)
            | Self::Cache(_)
            | Self::NoCacheFolder
            | Self::Write(_) => 1,
        }
    }

    /// Whether Vault could not be reached, or answered 429 or 5xx: then credentials that are still
    /// valid are served.
    fn is_outage(&self) -> bool {
        match self {
            Self::Late { .. } => true,
            Self::Vault { source, .. } => is_outage(&source.cause),
            _ => false,
        }
    }

    /// Whether Vault said no: then what is cached is forgotten, so that revoking a token works.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Vault { source, .. } => matches!(
                &source.cause,
                Cause::TokenInvalid
                    | Cause::Denied
                    | Cause::NotFound { .. }
                    | Cause::Refused { .. }
            ),
            _ => false,
        }
    }
}

fn is_outage(cause: &Cause) -> bool {
    match cause {
        Cause::Unreachable { .. }
        | Cause::Timeout { .. }
        | Cause::Sealed
        | Cause::NoActiveNode
        | Cause::Throttled { .. }
        | Cause::PermanentServerError { .. }
        | Cause::CircuitOpen { .. } => true,
        Cause::Server { status, .. } => *status >= 500,
        // A namespace that an administrator locked is a 503 too, and meant.
        Cause::Refused { .. }
        | Cause::TokenInvalid
        | Cause::Denied
        | Cause::NotFound { .. }
        | Cause::Malformed { .. }
        | Cause::TooLarge { .. }
        | Cause::Redirected { .. }
        | Cause::InvalidRequest { .. }
        | Cause::NotLeading(_)
        | Cause::MfaRequired
        | Cause::WrappedAnswer => false,
    }
}

/// Whether the same request may do better in a moment, and cannot have had an effect.
fn is_worth_another_try(cause: &Cause) -> bool {
    match cause {
        Cause::Unreachable { step, .. } => matches!(step, Step::Dns | Step::Connect),
        Cause::Sealed | Cause::NoActiveNode | Cause::Throttled { .. } => true,
        Cause::Server { status, .. } => *status != 501,
        _ => false,
    }
}

fn status(cause: &Cause) -> Option<u16> {
    match cause {
        Cause::TokenInvalid | Cause::Denied => Some(403),
        Cause::NotFound { .. } => Some(404),
        Cause::Refused { status, .. } => Some(*status),
        Cause::Sealed | Cause::NoActiveNode => Some(503),
        Cause::PermanentServerError { .. } => Some(500),
        // `Server` says it itself.
        _ => None,
    }
}

fn advice(cause: &Cause, with_token: bool, method: Method) -> &'static str {
    match (cause, method) {
        (Cause::TokenInvalid, _) => "; log in again (vault login, vault-aws login)",
        (Cause::Denied, _) if !with_token => {
            "; no token was sent: set VAULT_TOKEN, log in (vault login), or let a Vault Proxy with use_auto_auth_token listen at this address"
        }
        (Cause::Denied, Method::Post) => {
            "; a policy of the token needs `update` (or `read`) on this path"
        }
        (Cause::Denied, Method::Get) => "; a policy of the token needs `read` on this path",
        (Cause::NotFound { .. }, _) => "; check --mount, the namespace and --endpoint",
        _ => "",
    }
}

/// The one line that a usage error of this command is; `None` for other commands, and for help.
pub fn usage(arguments: &[OsString], error: &clap::Error) -> Option<String> {
    if arguments.get(1)? != "credential-process" || !error.use_stderr() {
        return None;
    }
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said: Vec<_> = lines.take_while(|line| !line.starts_with("Usage:")).collect();
    Some(said.join(" ").trim_start_matches("error: ").to_owned())
}

/// Prints credentials, or does what else was asked.
pub fn run(args: CredentialProcessArgs, stdout: impl Write) -> Result<(), Error> {
    let variables = Variables::of_process();
    let stderr = io::stderr();
    match &args.command {
        None => print(&args, &variables, stdout, &stderr),
        Some(CredentialProcessCommand::Cache { command: CacheCommand::List }) => {
            list(&variables, stdout)
        }
        Some(CredentialProcessCommand::Cache {
            command: CacheCommand::Clear { revoke, vault },
        }) => clear(revoke.then_some(&**vault), &variables, &stderr),
    }
}

fn print(
    args: &CredentialProcessArgs,
    variables: &Variables,
    stdout: impl Write,
    stderr: &io::Stderr,
) -> Result<(), Error> {
    if let Some(by) = variables.text(GUARD)? {
        return Err(Error::Recursion { by: by.to_owned() });
    }
    let budget = budget(args, variables)?;
    let start = Instant::now();
    let request = request(args)?;
    let environment = VaultEnvironment::parse(&args.vault, variables)?;
    let token = token(&environment, variables, start + budget)?;
    let server = environment.server.to_string();
    if args.verbose {
        say(
            stderr,
            &format!(
                "{} at {server} ({}), {}",
                request.path(),
                environment.origin,
                if token.is_some() { "with a token" } else { "without a token" }
            ),
        );
    }
    let key = Key::of(&Parts {
        server: &server,
        user: geteuid().as_raw(),
        namespace: environment.namespace.as_deref(),
        request: &request,
        token: token.as_ref().map(|token| token.expose().as_str()),
    });
    let question = Question {
        args,
        environment: &environment,
        token,
        request,
        key,
        start,
        budget,
        stderr,
        method: Cell::new(Method::Post),
    };
    let entry = if args.no_cache {
        question.ask(budget, RETRIES).map(|(entry, _)| entry)?
    } else {
        match cache_folder(variables) {
            Ok(folder) => question.answer(folder)?,
            Err(error) => {
                say(stderr, &format!("warning: nothing is cached: {error}"));
                question.ask(budget, RETRIES).map(|(entry, _)| entry)?
            }
        }
    };
    document::emit(&entry, stdout).map_err(Error::Write)
}

fn budget(args: &CredentialProcessArgs, variables: &Variables) -> Result<Duration, Error> {
    match (args.timeout, variables.text("VAULT_AWS_TIMEOUT")?) {
        (Some(budget), _) => Ok(budget),
        (None, Some(text)) => super::budget(text).map_err(|_| Error::Timeout),
        (None, None) => Ok(BUDGET),
    }
}

fn request(args: &CredentialProcessArgs) -> Result<Request, Error> {
    let kind = Kind::from(args.endpoint);
    if kind == Kind::StaticCreds
        && (args.ttl.is_some() || args.role_arn.is_some() || args.session_name.is_some())
    {
        return Err(Error::Usage(
            "--ttl, --role-arn and --session-name mean nothing for static keys",
        ));
    }
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mount = args.mount.as_deref().unwrap_or_default();
    Ok(Request {
        // `//` would be another path to Vault.
        mount: mount.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"),
        kind,
        role: args.role.clone().unwrap_or_default(),
        ttl: args.ttl,
        role_arn: set(&args.role_arn),
        role_session_name: set(&args.session_name),
    })
}

/// `VAULT_TOKEN`, else what is kept for `vault`; but nothing that is kept goes to a proxy, which adds
/// its own token only where there is none. No token is no error: the proxy may be at any address.
fn token(
    environment: &VaultEnvironment,
    variables: &Variables,
    deadline: Instant,
) -> Result<Option<Redacted<String>>, Error> {
    if environment.token.is_some() || environment.is_agent() {
        return Ok(environment.token.clone());
    }
    match TokenStore::find(variables)? {
        None => Ok(None),
        Some(store) => Ok(store.get(deadline)?),
    }
}

fn cache_folder(variables: &Variables) -> Result<PathBuf, Error> {
    cache::folder(
        Platform::HERE,
        variables.path("XDG_CACHE_HOME"),
        variables.home(),
        variables.path("LOCALAPPDATA"),
    )
    .ok_or(Error::NoCacheFolder)
}

/// stderr is for people; that nobody can be told is no reason to fail.
fn say(mut stderr: &io::Stderr, text: &str) {
    let _ = writeln!(stderr, "{}", line(text));
}

/// What is asked, of whom, and until when.
struct Question<'a> {
    args: &'a CredentialProcessArgs,
    environment: &'a VaultEnvironment,
    token: Option<Redacted<String>>,
    request: Request,
    key: Key,
    start: Instant,
    budget: Duration,
    stderr: &'a io::Stderr,
    /// How Vault was asked last, for messages.
    method: Cell<Method>,
}

/// What the cache has to say.
enum Found {
    /// The answer.
    Entry(Box<Entry>),
    /// The lock, and credentials that are due, if there are any: ask Vault.
    Ask(Option<Lock>, Option<Box<Entry>>),
}

impl Question<'_> {
    /// The cache's answer, or Vault's. A cache that cannot be used is said and done without.
    fn answer(&self, folder: PathBuf) -> Result<Entry, Error> {
        // The common case, without the lock: files are replaced in one step.
        let opened = Cache::open(&folder);
        if let Ok(Some(cache)) = &opened
            && let Some(entry) = cache.read(&self.key)
            && entry.freshness(clock::now()) == Freshness::Fresh
        {
            self.explain("from the cache");
            return Ok(entry);
        }
        let found = match opened {
            Ok(Some(cache)) => Ok(cache),
            Ok(None) => Cache::create(&folder),
            Err(error) => Err(error),
        };
        let looked = found.and_then(|cache| Ok((self.look(&cache)?, cache)));
        let (found, cache) = match looked {
            Ok((found, cache)) => (found, cache),
            Err(error) => {
                self.warn(&format!("nothing is cached: {}", chain(&error)));
                return self.ask(self.budget, RETRIES).map(|(entry, _)| entry);
            }
        };
        match found {
            Found::Entry(entry) => {
                self.explain("from the cache, after another vault-aws");
                Ok(*entry)
            }
            Found::Ask(None, _) => Err(Error::Lock { after: self.start.elapsed() }),
            Found::Ask(Some(_lock), due) => self.renew(&cache, due.map(|entry| *entry)),
        }
    }

    /// Looks until there is an answer, or the lock is ours, or the time is over.
    fn look(&self, cache: &Cache) -> Result<Found, cache::Error> {
        loop {
            let lock = cache.try_lock(&self.key)?;
            // With the lock, or while its holder works: what is there now counts.
            let entry = cache.read(&self.key).map(Box::new);
            let freshness =
                entry.as_ref().map_or(Freshness::Gone, |entry| entry.freshness(clock::now()));
            match (entry, freshness, lock) {
                (Some(entry), Freshness::Fresh, _) => return Ok(Found::Entry(entry)),
                // Somebody renews it: no need to wait for that.
                (Some(entry), Freshness::Due, None) => return Ok(Found::Entry(entry)),
                (entry, Freshness::Due, lock @ Some(_)) => return Ok(Found::Ask(lock, entry)),
                (_, _, lock @ Some(_)) => return Ok(Found::Ask(lock, None)),
                (_, _, None) => {}
            }
            if self.start.elapsed() >= self.budget {
                return Ok(Found::Ask(None, None));
            }
            thread::sleep(LOOK);
        }
    }

    /// Asks Vault, with the lock of the key held, and keeps the answer.
    fn renew(&self, cache: &Cache, due: Option<Entry>) -> Result<Entry, Error> {
        let left = self.budget.saturating_sub(self.start.elapsed());
        let asked = match &due {
            Some(_) => self.ask(left.min(BUDGET_WITH_FALLBACK), 0),
            None => self.ask(left, RETRIES),
        };
        match (asked, due) {
            (Ok((entry, keep)), _) => {
                // The credentials are there: that they cannot be kept is no reason to lose them.
                let kept =
                    if keep { cache.store(&self.key, &entry) } else { cache.remove(&self.key) };
                if let Err(error) = kept.and_then(|()| cache.prune(clock::now())) {
                    self.warn(&format!("the cache was not written: {}", chain(&error)));
                }
                self.explain(if keep { "from Vault, cached" } else { "from Vault, not cached" });
                Ok(entry)
            }
            (Err(error), Some(mut entry)) if error.is_outage() => {
                let now = clock::now();
                entry.failed = Some(now);
                // Without the note, the next one asks again at once: no harm.
                let _ = cache.store(&self.key, &entry);
                let left = entry.limit.duration_since(now).as_secs();
                self.warn(&format!(
                    "{}; serving cached credentials that are valid for {left}s more",
                    chain(&error)
                ));
                Ok(entry)
            }
            (Err(error), _) => {
                if error.is_refusal()
                    && let Err(trouble) = cache.remove(&self.key)
                {
                    self.warn(&chain(&trouble));
                }
                Err(error)
            }
        }
    }

    /// Asks Vault for new credentials; with them comes whether they may be kept.
    fn ask(&self, budget: Duration, retries: u32) -> Result<(Entry, bool), Error> {
        let retries = match (retries, self.environment.max_retries) {
            (0, _) | (_, None) => retries,
            (_, Some(chosen)) => chosen,
        };
        let caller = self.environment.caller(self.token.clone(), budget)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        let asked = runtime.block_on(async {
            tokio::time::timeout(budget, self.ask_vault(&caller, retries)).await
        });
        match asked {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Late { request: self.describe(), after: budget }),
        }
    }

    async fn ask_vault(&self, caller: &Caller, retries: u32) -> Result<(Entry, bool), Error> {
        let (issued, asked) = self.issue(caller, retries).await?;
        let is_user = issued.session_token.is_none() && self.request.kind != Kind::StaticCreds;
        let token_life = if is_user { token_life(caller).await } else { TokenLife::Unknown };
        let source = Source {
            server: self.environment.server.to_string(),
            namespace: self.environment.namespace.clone(),
            path: self.request.path(),
        };
        let circumstances = Circumstances {
            kind: self.request.kind,
            asked,
            with_token: self.token.is_some(),
            token_life,
            role_arn: self.request.role_arn.as_deref(),
            keep_user_keys: self.args.cache_iam_user,
        };
        Entry::of(issued, source, &circumstances)
            .map_err(|source| Error::Unusable { request: self.describe(), source })
    }

    /// The engine's answer, and when it was asked for. Those who may only `read` are given the same.
    async fn issue(&self, caller: &Caller, retries: u32) -> Result<(Issued, Timestamp), Error> {
        let first = match self.request.kind {
            Kind::StaticCreds => Method::Get,
            Kind::Creds | Kind::Sts => Method::Post,
        };
        self.method.set(first);
        match self.try_to_issue(caller, first, retries).await {
            Err(Cause::Denied) if first == Method::Post && self.token.is_some() => {
                let read = self.try_to_issue(caller, Method::Get, retries).await;
                match read {
                    Err(Cause::Denied) => Err(Cause::Denied),
                    other => {
                        self.method.set(Method::Get);
                        other
                    }
                }
            }
            other => other,
        }
        .map_err(|cause| {
            let advice = advice(&cause, self.token.is_some(), self.method.get());
            let source = Answer { status: status(&cause), advice, cause };
            Error::Vault { request: self.describe(), source }
        })
    }

    async fn try_to_issue(
        &self,
        caller: &Caller,
        method: Method,
        retries: u32,
    ) -> Result<(Issued, Timestamp), Cause> {
        let mut tried = 0;
        loop {
            // Before the request: so the end is rather too early than too late.
            let asked = clock::now();
            let error = match aws_secrets::issue(caller, method, &self.request).await {
                Ok(issued) => return Ok((issued, asked)),
                Err(error) => error,
            };
            tried += 1;
            if tried > retries || !is_worth_another_try(error.cause()) {
                return Err(error.cause().clone());
            }
            let wait = match error.retry() {
                Retry::After(wait) => wait,
                _ => RETRY_WAIT.saturating_mul(tried),
            };
            let left = self.budget.saturating_sub(self.start.elapsed());
            if wait >= left {
                return Err(error.cause().clone());
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// What was asked of whom, for messages.
    fn describe(&self) -> String {
        let method = match self.method.get() {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        let VaultEnvironment { server, namespace, .. } = self.environment;
        let namespace =
            namespace.as_deref().map(|name| format!(", namespace {name}")).unwrap_or_default();
        format!("{method} {} at {server}{namespace}", self.request.path())
    }

    fn warn(&self, text: &str) {
        say(self.stderr, &format!("warning: {text}"));
    }

    fn explain(&self, text: &str) {
        if self.args.verbose {
            say(self.stderr, text);
        }
    }
}

/// When the token ends, and with it the IAM users that it made.
async fn token_life(caller: &Caller) -> TokenLife {
    match tokens::lookup_self(caller).await {
        Err(_) => TokenLife::Unknown,
        Ok(token) => token.expire_time.map_or(TokenLife::Endless, TokenLife::Until),
    }
}

fn list(variables: &Variables, mut stdout: impl Write) -> Result<(), Error> {
    let Some(cache) = Cache::open(&cache_folder(variables)?)? else {
        return Ok(());
    };
    let now = clock::now();
    for (_, entry) in cache.entries()? {
        let Source { server, namespace, path } = &entry.source;
        let state = match entry.freshness(now) {
            Freshness::Fresh => "fresh",
            Freshness::Due => "due",
            Freshness::Gone => "over",
        };
        let end = Timestamp::from_second(entry.limit.as_second()).unwrap_or(entry.limit);
        let namespace = namespace.as_deref().unwrap_or("-");
        writeln!(stdout, "{path}\t{server}\t{namespace}\t{end}\t{state}").map_err(Error::Write)?;
    }
    stdout.flush().map_err(Error::Write)
}

/// Empties the cache. Leases are revoked with the settings in force, so that no token ever goes to an
/// address that only a file names.
fn clear(
    revoke: Option<&VaultFlags>,
    variables: &Variables,
    stderr: &io::Stderr,
) -> Result<(), Error> {
    let Some(cache) = Cache::open(&cache_folder(variables)?)? else {
        return Ok(());
    };
    let mut entries = cache.entries()?;
    let mut kept = Vec::new();
    let leases = entries.iter().filter(|(_, entry)| entry.lease_id.is_some()).count();
    if let Some(flags) = revoke.filter(|_| leases > 0) {
        let environment = VaultEnvironment::parse(flags, variables)?;
        let token = token(&environment, variables, Instant::now() + BUDGET)?;
        let caller = environment.caller(token, BUDGET)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        entries.retain(|(key, entry)| {
            let Some(lease_id) = &entry.lease_id else {
                return true;
            };
            let Source { server, namespace, path } = &entry.source;
            let trouble = if (server, namespace)
                == (&environment.server.to_string(), &environment.namespace)
            {
                runtime
                    .block_on(aws_secrets::revoke_lease(&caller, lease_id))
                    .err()
                    .map(|error| chain(&error))
            } else {
                Some(format!(
                    "it is of {server}, namespace {}",
                    namespace.as_deref().unwrap_or("-")
                ))
            };
            match trouble {
                None => true,
                Some(trouble) => {
                    say(stderr, &format!("warning: the lease of {path} is not revoked: {trouble}"));
                    kept.push(key.clone());
                    false
                }
            }
        });
    }
    cache.clear(&kept)?;
    if kept.is_empty() { Ok(()) } else { Err(Error::Revoke { failed: kept.len(), all: leases }) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(args: &[&str]) -> CredentialProcessArgs {
        let given = ["vault-aws", "credential-process"].iter().chain(args);
        match Cli::try_parse_from(given).expect("valid arguments").command {
            Command::CredentialProcess(args) => *args,
            _ => unreachable!("`credential-process` was given"),
        }
    }

    fn failure(cause: Cause) -> Error {
        let source =
            Answer { status: status(&cause), advice: advice(&cause, true, Method::Post), cause };
        Error::Vault { request: "POST aws/sts/x at https://v".to_owned(), source }
    }

    fn refused(status: u16) -> Cause {
        Cause::Refused { status, message: "no".to_owned() }
    }

    fn server(status: u16) -> Cause {
        Cause::Server { status, message: None }
    }

    #[test]
    fn slashes_around_and_inside_of_the_mount_are_one() {
        let request = request(&args(&["-m", "/team//aws/dev/", "-r", "admin"])).unwrap();
        assert_eq!(request.path(), "team/aws/dev/sts/admin");
    }

    #[test]
    fn no_session_name_is_sent_unless_somebody_gives_one() {
        let plain = request(&args(&["-m", "aws", "-r", "x"])).unwrap();
        assert_eq!(plain.role_session_name, None, "so that Vault names the person");
        let empty = request(&args(&["-m", "aws", "-r", "x", "--session-name", ""])).unwrap();
        assert_eq!(empty.role_session_name, None);
    }

    #[test]
    fn static_keys_have_no_session() {
        let args = args(&["-m", "aws", "-r", "x", "--endpoint", "static-creds", "--ttl", "1h"]);
        assert_eq!(request(&args).unwrap_err().exit_code(), 1);
    }

    #[test]
    fn credentials_outlive_an_outage_and_not_a_refusal() {
        let outages = [
            Cause::Unreachable { step: Step::Connect, detail: String::new() },
            Cause::Timeout { after: Duration::from_secs(1), asks_aws: true },
            Cause::Sealed,
            Cause::NoActiveNode,
            server(500),
            server(502),
        ];
        for cause in outages {
            let error = failure(cause);
            assert!(error.is_outage() && !error.is_refusal(), "{error:?}");
        }
        let refusals = [
            Cause::TokenInvalid,
            Cause::Denied,
            Cause::NotFound { message: String::new() },
            refused(400),
            // A namespace that an administrator locked.
            refused(503),
        ];
        for cause in refusals {
            let error = failure(cause);
            assert!(!error.is_outage() && error.is_refusal(), "{error:?}");
        }
        let neither = failure(Cause::Malformed { what: String::new() });
        assert!(!neither.is_outage() && !neither.is_refusal());
    }

    #[test]
    fn what_may_have_had_an_effect_is_not_tried_again() {
        assert!(!is_worth_another_try(&Cause::Timeout {
            after: Duration::from_secs(1),
            asks_aws: true
        }));
        let broke = |step| Cause::Unreachable { step, detail: String::new() };
        assert!(!is_worth_another_try(&broke(Step::Transfer)));
        assert!(!is_worth_another_try(&broke(Step::Tls)));
        assert!(is_worth_another_try(&broke(Step::Connect)));
        assert!(is_worth_another_try(&server(412)) && !is_worth_another_try(&server(501)));
        assert!(!is_worth_another_try(&refused(400)));
    }

    #[test]
    fn an_error_is_one_line_with_all_that_is_known() {
        let said = chain(&failure(Cause::Denied));
        assert_eq!(
            said,
            "POST aws/sts/x at https://v: permission denied by Vault (HTTP 403); a policy of the \
             token needs `update` (or `read`) on this path"
        );
        assert!(chain(&failure(refused(400))).ends_with("no (HTTP 400)"));
        assert_eq!(failure(Cause::Denied).exit_code(), 2);
    }

    #[test]
    fn nothing_that_is_kept_goes_to_a_proxy() {
        let variables: Variables =
            [("HOME", "/nowhere"), ("VAULT_AGENT_ADDR", "http://127.0.0.1:8100")]
                .into_iter()
                .collect();
        let environment = VaultEnvironment::parse(&VaultFlags::default(), &variables).unwrap();
        assert!(token(&environment, &variables, Instant::now()).unwrap().is_none());
        let variables: Variables =
            [("VAULT_TOKEN", "t"), ("VAULT_AGENT_ADDR", "http://127.0.0.1:8100")]
                .into_iter()
                .collect();
        let environment = VaultEnvironment::parse(&VaultFlags::default(), &variables).unwrap();
        assert!(token(&environment, &variables, Instant::now()).unwrap().is_some());
    }

    #[test]
    fn the_flag_of_the_budget_wins_over_the_variable() {
        let variables: Variables = [("VAULT_AWS_TIMEOUT", "7s")].into_iter().collect();
        let plain = args(&["-m", "a", "-r", "b"]);
        assert_eq!(budget(&plain, &variables).unwrap(), Duration::from_secs(7));
        assert_eq!(budget(&plain, &Variables::default()).unwrap(), BUDGET);
        let flag = args(&["-m", "a", "-r", "b", "--timeout", "3s"]);
        assert_eq!(budget(&flag, &variables).unwrap(), Duration::from_secs(3));
        let bad: Variables = [("VAULT_AWS_TIMEOUT", "2m")].into_iter().collect();
        assert_eq!(budget(&plain, &bad).unwrap_err().exit_code(), 1);
    }

    #[test]
    fn a_usage_error_is_one_line() {
        let arguments: Vec<OsString> =
            ["vault-aws", "credential-process", "-m", "x"].map(OsString::from).to_vec();
        let error = Cli::try_parse_from(&arguments).unwrap_err();
        let line = usage(&arguments, &error).unwrap();
        assert!(line.contains("--role") && !line.contains('\n'), "{line}");
        assert!(!line.starts_with("error"), "{line}");
        let other: Vec<OsString> = ["vault-aws", "crd", "-x"].map(OsString::from).to_vec();
        assert_eq!(usage(&other, &Cli::try_parse_from(&other).unwrap_err()), None);
    }
}
