//! One folder per lab: what runs, who owns it, and all its secrets.
//!
//! The owner holds a lock on a file in it for as long as it lives. So a lab whose lock is free is
//! dead, whatever its pid files say, and a pid is only believed while the lock is held.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Doing as _, Error, Result},
    files,
};

/// Who started a lab.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Owner {
    /// The process whose end is the lab's end.
    pub pid: u32,
    /// Started by `cargo lab up`; else a test run owns it.
    pub detached: bool,
}

/// A lab seen from outside.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its owner; none if that is dead, and with it every server.
    pub owner: Option<Owner>,
    /// Its environment, once it is ready.
    pub env: Option<Vec<(String, String)>>,
    /// The servers that were started, by name; none of them runs if there is no owner.
    pub servers: Vec<SeenServer>,
}

/// A server seen from outside.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SeenServer {
    /// For example `etcd`.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

/// A lab's folder while we own it.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    _lock: File,
}

const LOCK: &str = "lock";
const OWNER: &str = "owner.json";
const READY: &str = "ready.json";

/// Where all labs are.
pub(crate) fn home() -> Result<PathBuf> {
    let path = files::cache()?.join("run");
    files::create_folder(&path)?;
    Ok(path)
}

/// What the keeper of a lab says.
pub(crate) fn keeper_log(name: &str) -> Result<PathBuf> {
    check(name)?;
    Ok(home()?.join(format!("{name}.log")))
}

impl Folder {
    /// Makes the folder anew. What a dead lab of that name left is removed, and so is what dead
    /// test runs left.
    pub(crate) fn take(name: &str, owner: Owner) -> Result<Self> {
        check(name)?;
        let home = home()?;
        // Between making a folder and locking it, it looks dead: one at a time.
        let guard = files::open_to_append(&home.join(".lock"))?;
        guard.lock().doing(|| format!("locking {}", home.display()))?;
        for lab in list()? {
            let dead = lab.owner.is_none();
            if lab.name == name && !dead {
                let pid = lab.owner.map_or(0, |owner| owner.pid);
                return Err(Error::Running { name: name.to_owned(), pid });
            }
            let left_by_a_test = recorded(&lab.folder, OWNER).is_none_or(|o: Owner| !o.detached);
            if dead && (lab.name == name || left_by_a_test) {
                files::remove_folder(&lab.folder)?;
            }
        }
        let path = home.join(name);
        files::create_folder(&path)?;
        let lock = files::open_to_append(&path.join(LOCK))?;
        lock.lock().doing(|| format!("locking {}", path.display()))?;
        let folder = Self { path, _lock: lock };
        folder.record(OWNER, &owner)?;
        Ok(folder)
    }

    /// Says that the lab is ready.
    pub(crate) fn announce(&self, env: &[(String, String)]) -> Result<()> {
        self.record(READY, &env)
    }

    fn record(&self, file: &str, value: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec_pretty(value)
            .map_err(std::io::Error::other)
            .doing(|| format!("writing {file}"))?;
        files::write(&self.path.join(file), json)
    }

    pub(crate) fn remove(&self) -> Result<()> {
        files::remove_folder(&self.path)
    }
}

/// Says that a server runs, until its file is removed.
pub(crate) fn record_server(file: &Path, server: &SeenServer) -> Result<()> {
    let json = serde_json::to_vec(server)
        .map_err(std::io::Error::other)
        .doing(|| format!("writing {}", file.display()))?;
    files::write(file, json)
}

fn recorded<T: for<'de> Deserialize<'de>>(folder: &Path, file: &str) -> Option<T> {
    serde_json::from_slice(&fs::read(folder.join(file)).ok()?).ok()
}

/// All labs of this user, by name.
pub fn list() -> Result<Vec<Seen>> {
    let home = home()?;
    let mut labs = Vec::new();
    for entry in fs::read_dir(&home).doing(|| format!("reading {}", home.display()))? {
        let path = entry.doing(|| format!("reading {}", home.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && check(name).is_ok() {
            labs.push(look(name, &path));
        }
    }
    labs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(labs)
}

/// The lab of that name, if it has a folder.
pub fn find(name: &str) -> Result<Option<Seen>> {
    check(name)?;
    Ok(list()?.into_iter().find(|lab| lab.name == name))
}

/// Removes what a dead lab left.
pub(crate) fn clear(name: &str) -> Result<()> {
    if let Some(lab) = find(name)?.filter(|lab| lab.owner.is_none()) {
        files::remove_folder(&lab.folder)?;
    }
    let log = keeper_log(name)?;
    // It is only there if a keeper was started.
    let _ = fs::remove_file(log);
    Ok(())
}

fn look(name: &str, folder: &Path) -> Seen {
    let held = File::open(folder.join(LOCK)).is_ok_and(|file| file.try_lock_shared().is_err());
    let owner = if held {
        // Not written yet in the first moments: it lives nevertheless.
        Some(recorded(folder, OWNER).unwrap_or(Owner { pid: 0, detached: false }))
    } else {
        None
    };
    let mut servers: Vec<SeenServer> = fs::read_dir(folder.join("pid"))
        .into_iter()
        .flatten()
        .filter_map(|entry| serde_json::from_slice(&fs::read(entry.ok()?.path()).ok()?).ok())
        .collect();
    servers.sort_by(|a, b| a.name.cmp(&b.name));
    let env = recorded(folder, READY).filter(|_| held);
    Seen { name: name.to_owned(), folder: folder.to_owned(), owner, env, servers }
}

/// Whether the process is there and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The name in brackets may contain anything; the state follows the last bracket.
    !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

/// A name is a folder and a word of a shell.
pub(crate) fn check(name: &str) -> Result<()> {
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if (1..=40).contains(&name.len()) && name.bytes().all(word) {
        return Ok(());
    }
    Err(Error::Name(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_lower_case_word() {
        for name in ["default", "test-12", "a"] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a/b", "A", "a.log", &"a".repeat(41)] {
            assert!(check(name).is_err(), "{name}");
        }
    }

    #[test]
    fn this_process_is_alive() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }
}
