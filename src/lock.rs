//! A lock that outlives a panic of another holder.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a panic of another holder does not end ours. For plain data only, which is changed by one
/// statement or replaced whole, so that whoever panicked left it whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
