//! The programs the lab runs: built once per machine from pinned sources, or taken from where the
//! environment says they are.
//!
//! The servers are the unmodified upstream programs, named as tools of two Go modules of ours; the
//! AWS emulator is a Python package, pinned by hash. Each is cached under the hash of all it was
//! made from, so a fresh clone builds nothing that this machine has built before.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use crate::{
    error::{Doing as _, Error, Result},
    files,
    keeper::{self, Program},
};

/// A build of one server on two old cores takes a quarter of that.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

const GO_ENV: [(&str, &str); 3] =
    [("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0"), ("GOFLAGS", "-trimpath -buildvcs=false")];

/// Where each program is.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
    /// kube-controller-manager.
    pub kube_controller_manager: PathBuf,
    /// kubectl.
    pub kubectl: PathBuf,
    /// The whole Vault, server and command line.
    pub vault: PathBuf,
    /// A Python with the AWS emulator as module `ministack`, and the clients `boto3` and `awscli`.
    pub python: PathBuf,
}

impl Toolchain {
    /// Finds every program and builds what is missing, telling each step on stderr. Blocks: the
    /// first build on a machine takes half an hour.
    ///
    /// `KUBEBUILDER_ASSETS` (a folder with etcd, kube-apiserver, kubectl and perhaps
    /// kube-controller-manager) and `VAULT_BIN` (a Vault) are used instead of a build.
    pub fn ensure() -> Result<Self> {
        let cache = files::cache()?;
        let given = Given::from_env()?;
        let tools = Tools::find(given.is_complete())?;
        let kubernetes = Module::read("kubernetes", &tools)?;
        let vault = Module::read("vault", &tools)?;
        let etcd = Build::new(given.etcd, &cache, &kubernetes, ETCD);
        let kube_apiserver = Build::new(given.kube_apiserver, &cache, &kubernetes, KUBE_APISERVER);
        let kube_controller_manager =
            Build::new(given.kube_controller_manager, &cache, &kubernetes, KUBE_CONTROLLER_MANAGER);
        let kubectl = Build::new(given.kubectl, &cache, &kubernetes, KUBECTL);
        let vault = Build::new(given.vault, &cache, &vault, VAULT);
        let emulator = Emulator::new(&cache, &tools)?;

        let builds = [&etcd, &kube_apiserver, &kube_controller_manager, &kubectl, &vault];
        let found = builds.iter().all(|build| build.path.is_file()) && emulator.is_there();
        if !found {
            let _lock = wait_for_other_builds(&cache)?;
            emulator.install(&cache)?;
            for build in builds {
                build.run(&cache)?;
            }
        }
        Ok(Self {
            etcd: etcd.path,
            kube_apiserver: kube_apiserver.path,
            kube_controller_manager: kube_controller_manager.path,
            kubectl: kubectl.path,
            vault: vault.path,
            python: emulator.python(),
        })
    }

    /// The folders a shell needs in PATH for `kubectl` and `vault`.
    pub(crate) fn command_folders(&self) -> Vec<&Path> {
        [&self.kubectl, &self.vault].into_iter().filter_map(|program| program.parent()).collect()
    }
}

/// One program of a Go module.
#[derive(Clone, Copy)]
struct GoProgram {
    name: &'static str,
    package: &'static str,
    /// Kubernetes reports `v0.0.0` unless it is told its version at link time.
    stamped: bool,
}

const ETCD: GoProgram =
    GoProgram { name: "etcd", package: "go.etcd.io/etcd/server/v3", stamped: false };
const KUBE_APISERVER: GoProgram = GoProgram {
    name: "kube-apiserver",
    package: "k8s.io/kubernetes/cmd/kube-apiserver",
    stamped: true,
};
const KUBE_CONTROLLER_MANAGER: GoProgram = GoProgram {
    name: "kube-controller-manager",
    package: "k8s.io/kubernetes/cmd/kube-controller-manager",
    stamped: true,
};
const KUBECTL: GoProgram =
    GoProgram { name: "kubectl", package: "k8s.io/kubernetes/cmd/kubectl", stamped: true };
const VAULT: GoProgram =
    GoProgram { name: "vault", package: "github.com/hashicorp/vault", stamped: false };

/// Programs that the environment names.
#[derive(Default)]
struct Given {
    etcd: Option<PathBuf>,
    kube_apiserver: Option<PathBuf>,
    kube_controller_manager: Option<PathBuf>,
    kubectl: Option<PathBuf>,
    vault: Option<PathBuf>,
}

impl Given {
    fn from_env() -> Result<Self> {
        let mut given = Self::default();
        if let Some(path) = env::var_os("VAULT_BIN").filter(|path| !path.is_empty()) {
            given.vault = Some(there("VAULT_BIN", path.into())?);
        }
        if let Some(assets) = env::var_os("KUBEBUILDER_ASSETS").filter(|path| !path.is_empty()) {
            let asset = |name| there("KUBEBUILDER_ASSETS", Path::new(&assets).join(name));
            given.etcd = Some(asset("etcd")?);
            given.kube_apiserver = Some(asset("kube-apiserver")?);
            given.kubectl = Some(asset("kubectl")?);
            // Not in everyone's assets.
            given.kube_controller_manager = asset("kube-controller-manager").ok();
        }
        Ok(given)
    }

    fn is_complete(&self) -> bool {
        // The assets hold all of Kubernetes but perhaps this one.
        self.vault.is_some() && self.kube_controller_manager.is_some()
    }
}

fn there(variable: &'static str, path: PathBuf) -> Result<PathBuf> {
    if path.is_file() { Ok(path) } else { Err(Error::MissingBinary { variable, path }) }
}

/// The machine's own tools.
struct Tools {
    /// As `go env GOVERSION` says; empty where Go is not needed.
    go: String,
    /// Version and place of the Python.
    python: String,
}

impl Tools {
    /// Names every missing tool at once: nobody likes to learn of the second one later.
    fn find(without_go: bool) -> Result<Self> {
        let mut missing = Vec::new();
        let go = if without_go { String::new() } else { go_version(&mut missing) };
        let python = python_version(&mut missing);
        if missing.is_empty() { Ok(Self { go, python }) } else { Err(Error::MissingTools(missing)) }
    }
}

fn go_version(missing: &mut Vec<String>) -> String {
    let mut command = Command::new("go");
    let version = said_by(command.args(["env", "GOVERSION"]).envs(GO_ENV));
    if !version.as_deref().is_some_and(|version| is_at_least(version, "go", 26)) {
        missing.push(format!(
            "go 1.26 or later, to build the servers (found: {}): https://go.dev/dl/",
            version.as_deref().unwrap_or("none")
        ));
    }
    version.unwrap_or_default()
}

fn python_version(missing: &mut Vec<String>) -> String {
    const PROGRAM: &str = "import sys, venv, ensurepip\n\
        print('%d.%d' % sys.version_info[:2], sys.executable, sys.version.replace('\\n', ' '))";
    let version = said_by(Command::new("python3").args(["-c", PROGRAM]));
    if !version.as_deref().is_some_and(|version| is_at_least(version, "", 10)) {
        let found = version.clone().or_else(|| said_by(Command::new("python3").arg("--version")));
        missing.push(format!(
            "python3, version 3.10 or later with the modules venv and ensurepip, to run the AWS \
             emulator (found: {}): on Debian `apt-get install python3 python3-venv`, else \
             https://www.python.org/downloads/",
            found.as_deref().unwrap_or("none")
        ));
    }
    version.unwrap_or_default()
}

/// Whether `go1.26.8` or `3.11 /usr/bin/python3 …` has at least this minor version.
fn is_at_least(version: &str, prefix: &str, minor: u32) -> bool {
    let Some(rest) = version.strip_prefix(prefix).and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let digits = rest.1.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse::<u32>().is_ok_and(|found| found >= minor)
}

/// The first words of a command that succeeds.
fn said_by(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// One of our Go modules.
struct Module {
    folder: PathBuf,
    /// Name and hash of all that its programs are made from.
    key: String,
    /// Link flags that tell Kubernetes its version.
    stamp: String,
}

impl Module {
    fn read(name: &str, tools: &Tools) -> Result<Self> {
        let folder = sources().join("modules").join(name);
        let read = |file| {
            let path = folder.join(file);
            fs::read_to_string(&path).doing(|| format!("reading {}", path.display()))
        };
        let (module, sums) = (read("go.mod")?, read("go.sum")?);
        let stamp = stamp(&module);
        let flags = format!("{GO_ENV:?} {stamp}");
        let key =
            format!("{name}-{}", key(&[&module, &sums, &flags, &tools.go, env::consts::ARCH]));
        Ok(Self { folder, key, stamp })
    }
}

/// Link flags from the version that go.mod asks for.
fn stamp(module: &str) -> String {
    let mut flags = "-s -w".to_owned();
    let version = module.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
    // Behind the version may stand `// indirect`.
    if let Some(version) = version.and_then(|rest| rest.split_whitespace().next()) {
        let at = "k8s.io/component-base/version";
        let mut numbers = version.split('.');
        let (major, minor) = (numbers.next().unwrap_or("1"), numbers.next().unwrap_or("0"));
        // Writing to a String cannot fail.
        let _ = write!(
            flags,
            " -X {at}.gitVersion=v{version} -X {at}.gitMajor={major} -X {at}.gitMinor={minor} \
             -X {at}.gitTreeState=clean"
        );
    }
    flags
}

fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Short hash of texts; where one ends and the next begins counts.
fn key(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().iter().take(8).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A Go program and where it goes, or where the environment says it is.
struct Build<'a> {
    module: &'a Module,
    program: GoProgram,
    path: PathBuf,
}

impl<'a> Build<'a> {
    fn new(given: Option<PathBuf>, cache: &Path, module: &'a Module, program: GoProgram) -> Self {
        let path = given.unwrap_or_else(|| cache.join(&module.key).join(program.name));
        Self { module, program, path }
    }

    fn run(&self, cache: &Path) -> Result<()> {
        if self.path.is_file() {
            return Ok(());
        }
        let GoProgram { name, package, stamped } = self.program;
        let scratch = Scratch::new(cache, name)?;
        let output = scratch.0.join(name);
        let flags = if stamped { &self.module.stamp } else { "-s -w" };
        let mut args: Vec<OsString> = ["build", "-ldflags", flags, "-o"].map(Into::into).into();
        args.extend([output.clone().into_os_string(), package.into()]);
        let go = Program {
            path: "go".into(),
            args,
            env: GO_ENV.map(|(name, value)| (name.to_owned(), value.into())).into(),
            folder: Some(self.module.folder.clone()),
            only_this_env: false,
        };
        step(&format!("building {name}"), &go, cache, BUILD_LIMIT)?;
        files::create_folder(&cache.join(&self.module.key))?;
        fs::rename(&output, &self.path).doing(|| format!("moving {name} into the cache"))
    }
}

/// The AWS emulator, and AWS clients, in a Python environment of their own.
struct Emulator {
    folder: PathBuf,
    requirements: PathBuf,
}

impl Emulator {
    fn new(cache: &Path, tools: &Tools) -> Result<Self> {
        let requirements = sources().join("requirements.txt");
        let text = fs::read_to_string(&requirements)
            .doing(|| format!("reading {}", requirements.display()))?;
        let folder = cache.join(format!("python-{}", key(&[&text, &tools.python])));
        Ok(Self { folder, requirements })
    }

    fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    fn is_there(&self) -> bool {
        self.python().is_file()
    }

    fn install(&self, cache: &Path) -> Result<()> {
        if self.is_there() {
            return Ok(());
        }
        let scratch = Scratch::new(cache, "python")?;
        let environment = scratch.0.join("venv");
        let create = Program {
            path: "python3".into(),
            args: vec!["-m".into(), "venv".into(), environment.clone().into()],
            ..Program::default()
        };
        step("making a Python environment", &create, cache, INSTALL_LIMIT)?;
        let options = "-m pip install --disable-pip-version-check --no-input --only-binary=:all: \
                       --require-hashes -r";
        let mut args: Vec<OsString> = options.split_whitespace().map(Into::into).collect();
        args.push(self.requirements.clone().into());
        let install = Program { path: environment.join("bin/python"), args, ..Program::default() };
        step("installing the AWS emulator and clients", &install, cache, INSTALL_LIMIT)?;
        // Its scripts name the old place, but `python -m` finds all from where it is.
        fs::rename(&environment, &self.folder)
            .doing(|| "moving the Python environment into the cache".to_owned())
    }
}

/// A folder to build in, beside the place of the result so that a rename is enough.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache: &Path, name: &str) -> Result<Self> {
        let folder = cache.join("scratch").join(name);
        // What an interrupted build left; the lock says nobody works there.
        files::remove_folder(&folder)?;
        files::create_folder(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = files::remove_folder(&self.0);
    }
}

fn wait_for_other_builds(cache: &Path) -> Result<File> {
    let path = cache.join("build.lock");
    let file = files::open_to_append(&path)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => files::say("waiting for another build of the lab"),
        Err(TryLockError::Error(error)) => {
            return Err(error).doing(|| format!("locking {}", path.display()));
        }
    }
    file.lock().doing(|| format!("locking {}", path.display()))?;
    Ok(file)
}

/// Runs a program to its end, tells how long it took, and shows its output only if it failed.
fn step(what: &str, program: &Program, cache: &Path, limit: Duration) -> Result<()> {
    const SIGN_OF_LIFE: Duration = Duration::from_secs(60);
    let folder = cache.join("log");
    files::create_folder(&folder)?;
    let log = folder.join(format!("{}.log", what.replace(' ', "-")));
    // Start a new log; there may be none.
    let _ = fs::remove_file(&log);
    files::say(&format!("{what} …"));
    let begun = Instant::now();
    let mut child = keeper::spawn(program, files::open_to_append(&log)?)
        .doing(|| format!("running {}", program.path.display()))?;
    let mut next_sign = SIGN_OF_LIFE;
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait().doing(|| what.to_owned())? {
            break status;
        }
        let passed = begun.elapsed();
        if passed > limit {
            let _ = child.kill();
            let _ = child.wait();
            let tail = files::tail(&log);
            return Err(Error::TooSlow { what: what.into(), seconds: limit.as_secs(), log, tail });
        }
        if passed > next_sign {
            files::say(&format!("{what} … {} s", passed.as_secs()));
            next_sign += SIGN_OF_LIFE;
        }
        thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        let tail = files::tail(&log);
        return Err(Error::Command { command: what.into(), status, log, tail });
    }
    files::say(&format!("{what}: {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(is_at_least("go1.26.8", "go", 26));
        assert!(is_at_least("go1.30", "go", 26));
        assert!(!is_at_least("go1.9.1", "go", 26));
        assert!(!is_at_least("devel +abc", "go", 26));
        assert!(is_at_least("3.11 /usr/bin/python3 3.11.7", "", 10));
    }

    #[test]
    fn kubernetes_is_told_the_version_of_its_module() {
        let flags = stamp("require (\n\tk8s.io/kubernetes v1.37.1 // indirect\n)");
        assert!(flags.contains("gitVersion=v1.37.1 "));
        assert!(flags.contains("gitMajor=1 "));
        assert!(flags.contains("gitMinor=37 "));
        assert_eq!(stamp("module lab/vault"), "-s -w");
    }

    #[test]
    fn a_key_depends_on_where_texts_end() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}
