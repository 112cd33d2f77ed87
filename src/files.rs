//! Files that people and variables name: read whole, within bounds of size and time. A name may lead to
//! a pipe that nobody writes to, to a device that never ends, or to a disk image.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// The most bytes of a file of settings or manifests.
pub const LARGEST: u64 = 16 << 20;
/// How long a pipe of settings may take to be written.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a pipe of manifests may take: whoever makes them may have to fetch some.
pub const MANIFESTS: Duration = Duration::from_secs(60);
/// How long a pipe may be without anybody who writes to it.
const NOBODY: Duration = Duration::from_secs(5);
/// How often a pipe is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Opens a file to read it. A pipe that nobody writes to does not make us wait.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// The bytes of a file that has at most so many. A pipe, such as the shell makes of `<(…)`, is waited
/// for until it ends, for so long.
///
/// # Errors
/// Where it cannot be read, is larger, or does not end in time.
pub fn bytes(path: &Path, largest: u64, patience: Duration) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    let size = metadata.len().min(largest);
    // Large enough that it does not grow and leave copies of a secret behind.
    let room = usize::try_from(size).unwrap_or_default() + (4 << 10);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    let mut file = file.take(largest + 1);
    let begun = Instant::now();
    loop {
        let read = file.read_to_end(&mut bytes);
        if bytes.len() as u64 > largest {
            return Err(too_large(largest));
        }
        let (left, what) = match read {
            Ok(_) if bytes.is_empty() && metadata.file_type().is_fifo() => {
                (NOBODY.min(patience), "it is a pipe that nobody writes to")
            }
            Ok(_) => return Ok(bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                (patience, "it was not written to its end in time")
            }
            Err(error) => return Err(error),
        };
        if begun.elapsed() >= left {
            return Err(io::Error::new(ErrorKind::TimedOut, what));
        }
        thread::sleep(LOOK);
    }
}

/// The same as text.
///
/// # Errors
/// As [`bytes`], and where it is not UTF-8.
pub fn text(path: &Path, largest: u64, patience: Duration) -> io::Result<Zeroizing<String>> {
    utf8(bytes(path, largest, patience)?)
}

/// What stdin has to say, if it is at most so long.
///
/// # Errors
/// Where it is longer, or not UTF-8.
pub fn stdin(largest: u64) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::new());
    io::stdin().lock().take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest { Err(too_large(largest)) } else { utf8(bytes) }
}

/// For a file that a library reads as a whole, without any bound: whether it may. One that is not there
/// is the library's to miss.
///
/// # Errors
/// Where it is larger, or no regular file.
pub fn check(path: &Path, largest: u64) -> io::Result<()> {
    let metadata = match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if metadata.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    // As `/dev/null`, which is what people name to have none.
    let is_empty_device = || bytes(path, 0, LOOK).is_ok();
    if !metadata.is_file() && (metadata.file_type().is_fifo() || !is_empty_device()) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    if metadata.len() > largest { Err(too_large(largest)) } else { Ok(()) }
}

fn utf8(mut bytes: Zeroizing<Vec<u8>>) -> io::Result<Zeroizing<String>> {
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
        }
    }
}

fn too_large(largest: u64) -> io::Error {
    let what = match largest {
        0..1024 => format!("it is larger than {largest} bytes"),
        1024..0x10_0000 => format!("it is larger than {} KiB", largest >> 10),
        _ => format!("it is larger than {} MiB", largest >> 20),
    };
    io::Error::new(ErrorKind::FileTooLarge, what)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, process::Command};

    use super::*;

    /// A folder of this test's own, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("vault-aws-files-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn pipe(&self) -> PathBuf {
            let path = self.0.join("pipe");
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let folder = Folder::new("bound");
        let path = folder.0.join("file");
        fs::write(&path, "four").unwrap();
        assert_eq!(*text(&path, 4, PATIENCE).unwrap(), "four");
        let error = text(&path, 3, PATIENCE).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than 3 bytes");
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(text(&path, 4, PATIENCE).unwrap_err().to_string(), "it is not UTF-8");
        check(&path, 2).unwrap();
        assert!(check(&path, 1).is_err());
    }

    #[test]
    fn what_never_ends_is_too_large() {
        let endless = Path::new("/dev/zero");
        assert!(bytes(endless, 1 << 20, PATIENCE).unwrap_err().to_string().contains("1 MiB"));
        assert!(check(endless, 1 << 20).is_err());
        assert_eq!(*text(Path::new("/dev/null"), 0, PATIENCE).unwrap(), "");
        check(Path::new("/dev/null"), 0).unwrap();
    }

    #[test]
    fn a_folder_is_no_file() {
        let folder = Folder::new("folder");
        assert!(bytes(&folder.0, 1, PATIENCE).is_err() && check(&folder.0, u64::MAX).is_err());
        check(&folder.0.join("nothing"), 1).unwrap();
    }

    #[test]
    fn a_pipe_is_read_to_its_end_whenever_its_writer_comes() {
        let folder = Folder::new("pipe");
        let pipe = folder.pipe();
        let script =
            format!("sleep 0.2; {{ echo one; sleep 0.2; echo two; }} > '{}'", pipe.display());
        let mut writer = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        assert_eq!(*text(&pipe, 100, PATIENCE).unwrap(), "one\ntwo\n");
        assert!(writer.wait().unwrap().success());
        assert!(check(&pipe, 100).is_err());
    }

    #[test]
    fn a_pipe_that_nobody_writes_is_given_up() {
        let folder = Folder::new("silent");
        let begun = Instant::now();
        let error = bytes(&folder.pipe(), 100, PATIENCE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() < PATIENCE);
    }
}
