//! Pages of master keys, kept from being swapped out.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

const OFF: u8 = 0;
const ON: u8 = 1;
const USED_UP: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(OFF);

/// Has the pages on which master keys lie locked in memory from now on, as far as the limit of the process goes.
///
/// For a process that may not lock all of its memory; to be called before there are keys. A page stays locked when its
/// keys have gone. Fails when not even one page can be locked.
pub fn lock_keys_in_memory() -> io::Result<()> {
    let probe = Box::new([0_u8; 1]);
    lock_pages(probe.as_ptr(), probe.len())?;
    STATE.store(ON, Ordering::Relaxed);
    Ok(())
}

/// Locks the pages of `value`, which is part of a master key and stays where it is, if that was asked for.
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
    // SAFETY: the range is that of a value which is borrowed meanwhile, so it is mapped; locking its pages changes
    // nothing in them.
    #[expect(unsafe_code, reason = "there is no safe way to lock a page")]
    let locked = unsafe { rustix::mm::mlock(start.cast_mut().cast(), len) };
    Ok(locked?)
}

#[cfg(not(unix))]
fn lock_pages(_: *const u8, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
