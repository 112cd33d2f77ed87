//! Ports that stay a lab's own while it lives, also while the server behind one is stopped.
//!
//! A port found free by binding to port 0 may be taken by anyone before the server binds it, or
//! while a test has the server stopped. These lie below the range from which the kernel chooses,
//! and labs agree among themselves by locks on files.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    error::{Error, Result},
    files,
};

const RANGE: Range<u16> = 20_000..32_000;

/// Reserved ports; the reservation ends with this value.
#[derive(Debug)]
pub(crate) struct Ports<const N: usize> {
    pub(crate) numbers: [u16; N],
    _locks: Vec<File>,
}

impl<const N: usize> Ports<N> {
    /// Reserves N ports that nobody listens on.
    pub(crate) fn reserve() -> Result<Self> {
        let folder = files::cache()?.join("ports");
        files::create_folder(&folder)?;
        let size = usize::from(RANGE.end - RANGE.start);
        let mut numbers = [0; N];
        let mut locks = Vec::with_capacity(N);
        for step in 0..size {
            // In range: the remainder is less than the size, which fits.
            let port = RANGE.start + u16::try_from((start() + step) % size).unwrap_or(0);
            let lock = files::open_to_append(&folder.join(port.to_string()))?;
            if lock.try_lock().is_err() || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
                continue;
            }
            numbers[locks.len()] = port;
            locks.push(lock);
            if locks.len() == N {
                return Ok(Self { numbers, _locks: locks });
            }
        }
        Err(Error::Ports(N))
    }
}

/// Where this process begins to look, so that labs do not stand in line for the same numbers.
fn start() -> usize {
    static START: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *START.get_or_init(|| {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        (nanos as usize / 1000).wrapping_add(std::process::id() as usize * 97)
    })
}
