//! The cache folder: files that only their owner can read, replaced in one step, one lock for each key.
//!
//! Everything happens relative to the opened folder, which was checked once, and follows no link, so
//! that nobody can swap a part of the path. A file that is not as we write them (another owner, readable
//! to others, a link, damaged) is a miss, and is replaced. Locks are the kernel's: they end with their
//! holder, however it ends.

use std::{
    fs::{DirBuilder, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, renameat, statat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};
use zeroize::Zeroizing;

use super::{Entry, Freshness, Key};

/// The name that the README of the tool before us promised.
pub const FOLDER: &str = "vault-aws-credential-process";
/// More than any entry.
const LARGEST: u64 = 64 << 10;
/// When what cannot be read, or was left behind, is nobody's any more, in seconds.
const LEFT_BEHIND: i64 = 24 * 3600;

/// Whose rules say where caches are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Platform {
    /// The XDG base directories.
    Xdg,
    /// `~/Library/Caches`
    MacOs,
    /// `%LOCALAPPDATA%`
    Windows,
}

impl Platform {
    /// That of this program.
    pub const HERE: Self = if cfg!(target_os = "macos") {
        Self::MacOs
    } else if cfg!(windows) {
        Self::Windows
    } else {
        Self::Xdg
    };
}

/// The folder: below `XDG_CACHE_HOME` on every platform, if it is absolute (the XDG specification has
/// relative ones ignored), else where the platform keeps caches. `None` if nobody says where that is.
pub fn folder(
    platform: Platform,
    xdg_cache_home: Option<&Path>,
    home: Option<&Path>,
    local_app_data: Option<&Path>,
) -> Option<PathBuf> {
    let parent = match (xdg_cache_home.filter(|path| path.is_absolute()), platform) {
        (Some(path), _) => path.to_owned(),
        (None, Platform::Xdg) => home?.join(".cache"),
        (None, Platform::MacOs) => home?.join("Library").join("Caches"),
        (None, Platform::Windows) => local_app_data?.join("cache"),
    };
    Some(parent.join(FOLDER))
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder, or a file in it.
    #[error("{doing} in {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others could read or replace what is in it.
    #[error("the cache folder {} is not safe: {what}", path.display())]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// Why not, and what to do.
        what: String,
    },
}

/// The opened folder.
#[derive(Debug)]
pub struct Cache {
    folder: OwnedFd,
    path: PathBuf,
}

/// The lock of a key, held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Cache {
    /// Opens the folder; `None` if there is none.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match openat(CWD, path, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let what = "it is a link, or no folder".to_owned();
                return Err(Error::Unsafe { path: path.to_owned(), what });
            }
            Err(error) => return Err(failed("opening the cache", path)(error)),
        };
        let stat = fstat(&folder).map_err(failed("looking at the cache", path))?;
        let reject = |what| Err(Error::Unsafe { path: path.to_owned(), what });
        if stat.st_uid != geteuid().as_raw() {
            return reject(format!("it belongs to user {}", stat.st_uid));
        }
        if stat.st_mode & 0o077 != 0 {
            return reject(format!("others may use it: run chmod 700 {}", path.display()));
        }
        Ok(Some(Self { folder, path: path.to_owned() }))
    }

    /// Opens the folder and makes it if it is not there, with its parents.
    pub fn create(path: &Path) -> Result<Self, Error> {
        if let Some(cache) = Self::open(path)? {
            return Ok(cache);
        }
        let failed =
            |source| Error::Io { doing: "creating the cache", path: path.to_owned(), source };
        // Somebody else of us may be faster: existing is fine with `recursive`.
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        Self::open(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    /// The entry of a key. Whatever is wrong with its file: there is none.
    pub fn read(&self, key: &Key) -> Option<Entry> {
        Entry::parse(&self.bytes(&entry_name(key))?)
    }

    fn bytes(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        // A pipe in its place must not make us wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(&self.folder, name, flags, Mode::empty()).ok()?;
        let stat = fstat(&file).ok()?;
        if !is_ours(&stat) || stat.st_mode & 0o077 != 0 {
            return None;
        }
        let size = u64::try_from(stat.st_size).ok().filter(|size| *size <= LARGEST)?;
        // Large enough that it does not grow and leave a copy behind.
        let room = usize::try_from(size).ok()? + 1;
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        File::from(file).take(size).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The lock of a key; `None` if somebody else has it.
    pub fn try_lock(&self, key: &Key) -> Result<Option<Lock>, Error> {
        let name = lock_name(key);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let file = openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR)
                .map_err(failed("opening a lock", &self.path))?;
            let file = File::from(file);
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => {
                    let path = self.path.clone();
                    return Err(Error::Io { doing: "locking", path, source });
                }
            }
            // Its holder may have removed the file between our opening and our locking it.
            let locked = fstat(&file).map_err(failed("looking at a lock", &self.path))?;
            match statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if is_same(&named, &locked) => return Ok(Some(Lock { _file: file })),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("looking at a lock", &self.path)(error)),
            }
        }
    }

    /// Writes the entry of a key, whose lock is held, in one step: others see the old one or the new.
    pub fn store(&self, key: &Key, entry: &Entry) -> Result<(), Error> {
        let io = |source| Error::Io { doing: "writing an entry", path: self.path.clone(), source };
        let bytes = entry.to_bytes().map_err(|error| io(error.into()))?;
        let temporary = format!(".{key}.tmp");
        let errno = |error: Errno| io(error.into());
        // Only the holder of the lock writes it: what is there was left behind.
        self.unlink(&temporary).map_err(errno)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, &temporary, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(errno)?);
        let written = file
            .write_all(&bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| Ok(renameat(&self.folder, &temporary, &self.folder, entry_name(key))?));
        if written.is_err() {
            let _ = self.unlink(&temporary);
        }
        written.map_err(io)
    }

    /// Forgets the entry of a key; nothing happens if there is none.
    pub fn remove(&self, key: &Key) -> Result<(), Error> {
        self.unlink(&entry_name(key)).map_err(failed("removing an entry", &self.path))
    }

    fn unlink(&self, name: &str) -> Result<(), Errno> {
        match unlinkat(&self.folder, name, AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes all entries but these, and what was left behind. Locks stay, as somebody may hold one.
    pub fn clear(&self, kept: &[Key]) -> Result<(), Error> {
        for name in self.names()? {
            let key = name.strip_suffix(".json").and_then(Key::parse);
            if key.is_some_and(|key| !kept.contains(&key)) || name.ends_with(".tmp") {
                self.unlink(&name).map_err(failed("removing an entry", &self.path))?;
            }
        }
        Ok(())
    }

    /// All entries that can be read, by path and key.
    pub fn entries(&self) -> Result<Vec<(Key, Entry)>, Error> {
        let mut entries: Vec<(Key, Entry)> = self
            .names()?
            .iter()
            .filter_map(|name| Key::parse(name.strip_suffix(".json")?))
            .filter_map(|key| Some((key.clone(), self.read(&key)?)))
            .collect();
        entries.sort_by(|(_, one), (_, two)| {
            (&one.source.path, &one.source.server).cmp(&(&two.source.path, &two.source.server))
        });
        Ok(entries)
    }

    /// Removes what has ended or was left behind. What is in use by others is left alone.
    pub fn prune(&self, now: Timestamp) -> Result<(), Error> {
        let names = self.names()?;
        for name in &names {
            let is_old = || {
                statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| now.as_second() - stat.st_mtime > LEFT_BEHIND)
            };
            if let Some(key) = name.strip_suffix(".json").and_then(Key::parse) {
                let is_over = match self.read(&key) {
                    Some(entry) => entry.freshness(now) == Freshness::Gone && entry.limit <= now,
                    // Perhaps of a newer version of this program.
                    None => is_old(),
                };
                if is_over && let Some(_lock) = self.try_lock(&key)? {
                    self.remove(&key)?;
                    self.unlink(&lock_name(&key)).map_err(failed("removing a lock", &self.path))?;
                }
            } else if let Some(key) = name.strip_suffix(".lock").and_then(Key::parse) {
                let is_alone = !names.contains(&entry_name(&key));
                if is_alone
                    && is_old()
                    && let Some(_lock) = self.try_lock(&key)?
                {
                    self.unlink(name).map_err(failed("removing a lock", &self.path))?;
                }
            } else if name.ends_with(".tmp") && is_old() {
                self.unlink(name).map_err(failed("removing a file", &self.path))?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let failed = failed("listing", &self.path);
        let mut names = Vec::new();
        for file in Dir::read_from(&self.folder).map_err(&failed)? {
            let file = file.map_err(&failed)?;
            if let Ok(name) = file.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

fn entry_name(key: &Key) -> String {
    format!("{key}.json")
}

fn lock_name(key: &Key) -> String {
    format!("{key}.lock")
}

fn is_ours(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_uid == geteuid().as_raw()
}

fn is_same(one: &Stat, two: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(Errno) -> Error {
    let path = path.to_owned();
    move |error| Error::Io { doing, path: path.clone(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    /// A folder of this test's own, removed at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("vault-aws-cache-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn folder(&self) -> PathBuf {
            self.0.join("cache").join(FOLDER)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn key(digit: char) -> Key {
        Key::parse(&digit.to_string().repeat(64)).unwrap()
    }

    fn entry() -> Entry {
        Entry::parse(
            br#"{"format":1,"source":{"server":"https://v","path":"aws/sts/x"},
                "asked":"2026-11-21T03:00:00Z","expiration":"2026-11-21T04:00:00Z",
                "limit":"2026-11-21T04:00:00Z","access_key_id":"ASIA1","secret_access_key":"s",
                "session_token":"t"}"#,
        )
        .unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_folder_is_where_the_readme_of_the_seed_promised() {
        let home = Some(Path::new("/home/me"));
        let at = |platform, xdg: Option<&str>| {
            folder(platform, xdg.map(Path::new), home, Some(Path::new("/appdata")))
                .unwrap()
                .display()
                .to_string()
        };
        assert_eq!(at(Platform::Xdg, None), "/home/me/.cache/vault-aws-credential-process");
        assert_eq!(
            at(Platform::MacOs, None),
            "/home/me/Library/Caches/vault-aws-credential-process"
        );
        assert_eq!(at(Platform::Windows, None), "/appdata/cache/vault-aws-credential-process");
        for platform in [Platform::Xdg, Platform::MacOs, Platform::Windows] {
            assert_eq!(at(platform, Some("/xdg")), "/xdg/vault-aws-credential-process");
        }
        assert_eq!(at(Platform::Xdg, Some("xdg")), at(Platform::Xdg, None), "relative: ignored");
        assert_eq!(folder(Platform::Xdg, None, None, None), None);
    }

    #[test]
    fn what_is_written_is_for_its_owner_only() {
        let scratch = Scratch::new("modes");
        let cache = Cache::create(&scratch.folder()).unwrap();
        let _lock = cache.try_lock(&key('a')).unwrap().unwrap();
        cache.store(&key('a'), &entry()).unwrap();
        assert_eq!(cache.read(&key('a')), Some(entry()));
        assert_eq!(mode(&scratch.folder()), 0o700);
        assert_eq!(mode(&scratch.0.join("cache")), 0o700);
        for file in fs::read_dir(scratch.folder()).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
        cache.remove(&key('a')).unwrap();
        cache.remove(&key('a')).unwrap();
        assert_eq!(cache.read(&key('a')), None);
    }

    #[test]
    fn a_folder_that_others_may_use_is_refused() {
        let scratch = Scratch::new("open");
        Cache::create(&scratch.folder()).unwrap();
        fs::set_permissions(scratch.folder(), fs::Permissions::from_mode(0o750)).unwrap();
        let said = Cache::open(&scratch.folder()).unwrap_err().to_string();
        assert!(said.contains("chmod 700"), "{said}");
    }

    #[test]
    fn a_folder_that_is_a_link_is_refused() {
        let scratch = Scratch::new("link");
        let elsewhere = scratch.0.join("elsewhere");
        DirBuilder::new().mode(0o700).create(&elsewhere).unwrap();
        fs::create_dir(scratch.0.join("cache")).unwrap();
        symlink(&elsewhere, scratch.folder()).unwrap();
        let error = Cache::create(&scratch.folder()).unwrap_err();
        assert!(matches!(error, Error::Unsafe { .. }), "{error:?}");
    }

    #[test]
    fn a_file_that_is_not_as_ours_is_a_miss_and_is_replaced() {
        let scratch = Scratch::new("files");
        let cache = Cache::create(&scratch.folder()).unwrap();
        cache.store(&key('a'), &entry()).unwrap();
        let path = scratch.folder().join(entry_name(&key('a')));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(cache.read(&key('a')), None, "readable to the group");
        cache.store(&key('a'), &entry()).unwrap();
        assert_eq!(mode(&path), 0o600);

        let target = scratch.0.join("target");
        fs::rename(&path, &target).unwrap();
        symlink(&target, &path).unwrap();
        assert_eq!(cache.read(&key('a')), None, "a link");
        let before = fs::read(&target).unwrap();
        cache.store(&key('a'), &entry()).unwrap();
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::read(&target).unwrap(), before, "nothing is written through a link");

        fs::write(&path, "{").unwrap();
        assert_eq!(cache.read(&key('a')), None, "damaged");
        assert_eq!(cache.read(&key('b')), None, "not there");
    }

    #[test]
    fn a_lock_is_for_one_and_for_one_key() {
        let scratch = Scratch::new("locks");
        let cache = Cache::create(&scratch.folder()).unwrap();
        let lock = cache.try_lock(&key('a')).unwrap().unwrap();
        assert!(cache.try_lock(&key('a')).unwrap().is_none());
        assert!(cache.try_lock(&key('b')).unwrap().is_some());
        drop(lock);
        assert!(cache.try_lock(&key('a')).unwrap().is_some());
    }

    #[test]
    fn a_lock_whose_file_was_removed_meanwhile_is_taken_anew() {
        let scratch = Scratch::new("removed");
        let cache = Cache::create(&scratch.folder()).unwrap();
        let lock = cache.try_lock(&key('a')).unwrap().unwrap();
        fs::remove_file(scratch.folder().join(lock_name(&key('a')))).unwrap();
        let newer = cache.try_lock(&key('a')).unwrap();
        assert!(newer.is_some(), "the file of the first is not the file of the name");
        drop(lock);
        assert!(cache.try_lock(&key('a')).unwrap().is_none());
    }

    #[test]
    fn what_has_ended_is_pruned_with_its_lock() {
        let scratch = Scratch::new("prune");
        let cache = Cache::create(&scratch.folder()).unwrap();
        for digit in ['a', 'b'] {
            drop(cache.try_lock(&key(digit)).unwrap());
            cache.store(&key(digit), &entry()).unwrap();
        }
        let damaged = scratch.folder().join(entry_name(&key('c')));
        fs::write(&damaged, "{").unwrap();
        let now: Timestamp = "2026-11-21T03:30:00Z".parse().unwrap();
        cache.prune(now).unwrap();
        assert_eq!(cache.entries().unwrap().len(), 2, "both are in use");

        let later: Timestamp = "2026-11-21T04:00:00Z".parse().unwrap();
        let _in_use = cache.try_lock(&key('b')).unwrap().unwrap();
        cache.prune(later).unwrap();
        let left: Vec<Key> = cache.entries().unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, [key('b')], "somebody holds its lock");
        assert!(!scratch.folder().join(lock_name(&key('a'))).exists());

        let far: Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
        cache.prune(far).unwrap();
        assert!(!damaged.exists());
    }
}
