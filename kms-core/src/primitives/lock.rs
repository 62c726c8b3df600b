//! Locks the pages of master keys, so that they are not swapped out.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

const OFF: u8 = 0;
const ON: u8 = 1;
const USED_UP: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(OFF);

/// Locks the pages of all master keys that are made from now on, up to the limit of the process (`RLIMIT_MEMLOCK`).
///
/// This is for a process that may not lock all of its memory. Call it before the first key is made. A page stays
/// locked after its keys are dropped.
///
/// When the limit is reached later, the library logs one warning and goes on without further locks.
///
/// # Errors
///
/// The operating system's error, if not even one page can be locked; [`io::ErrorKind::Unsupported`] on systems other
/// than Unix.
pub fn lock_keys_in_memory() -> io::Result<()> {
    let probe = Box::new([0_u8; 1]);
    lock_pages(probe.as_ptr(), probe.len())?;
    STATE.store(ON, Ordering::Relaxed);
    Ok(())
}

/// Locks the pages of `value` if [`lock_keys_in_memory`] was called.
///
/// `value` is a part of a master key, and it must not move afterwards.
pub fn lock<T>(value: &T) {
    if STATE.load(Ordering::Relaxed) != ON {
        return;
    }
    if let Err(error) = lock_pages(std::ptr::from_ref(value).cast(), size_of::<T>())
        && STATE.compare_exchange(ON, USED_UP, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    {
        tracing::warn!(
            "master keys that are read from now on may be swapped out: no more memory can be locked ({error})"
        );
    }
}

#[cfg(unix)]
fn lock_pages(start: *const u8, len: usize) -> io::Result<()> {
    // SAFETY: the range belongs to a value that is borrowed during the call, so its pages are mapped. Locking a page does
    // not change its content.
    #[expect(unsafe_code, reason = "there is no safe way to lock a page")]
    let locked = unsafe { rustix::mm::mlock(start.cast_mut().cast(), len) };
    Ok(locked?)
}

#[cfg(not(unix))]
fn lock_pages(_: *const u8, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
