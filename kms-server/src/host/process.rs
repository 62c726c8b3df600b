//! The process's limits, and the protection of its memory.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// The descriptors that are reserved for everything but connections: the store, logs, listeners.
const RESERVED_FILES: u64 = 100;

/// What it takes to lock all memory.
const NEEDED: &str = "it needs CAP_IPC_LOCK or an unlimited memlock (ulimit -l, LimitMEMLOCK=infinity)";

/// Locks every page when it is first used.
const LOCK_ALL: MlockAllFlags =
    MlockAllFlags::CURRENT.union(MlockAllFlags::FUTURE).union(MlockAllFlags::ONFAULT);

/// The most connections at once, however many descriptors there are.
const MAX_CONNECTIONS: u64 = 16_384;

/// The measures that keep others from reading this process's memory. A refused measure holds the system's reason.
#[derive(Clone, Debug)]
pub struct Protection {
    /// What is never written to a swap device.
    pub locked: Result<Locked, String>,
    /// A crash leaves no core dump.
    pub no_core_dump: Result<(), String>,
    /// Other processes of the same user cannot read it.
    pub not_dumpable: Result<(), String>,
}

/// What is locked in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// Every page.
    Everything,
    /// The pages with master keys, up to this many KiB.
    MasterKeys(u64),
}

static PROTECTION: OnceLock<Protection> = OnceLock::new();

/// Protects the memory of this process, once, and returns the result.
///
/// All memory is locked if the process has `CAP_IPC_LOCK` or an unlimited `RLIMIT_MEMLOCK`. Under a limit every later
/// allocation could fail, so only the pages of master keys are locked. Beware: a process that is not dumpable cannot
/// open `/dev/stdout`, nor those of its own `/proc` files that show memory.
pub fn protect_memory() -> &'static Protection {
    PROTECTION.get_or_init(|| {
        let refused = |error: rustix::io::Errno| error.to_string();
        let locked = if may_lock_memory() {
            mlockall(LOCK_ALL).map(|()| Locked::Everything).map_err(refused)
        } else {
            let limit = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX) / 1024;
            let locked = kms_core::primitives::lock_keys_in_memory().map(|()| Locked::MasterKeys(limit));
            locked.map_err(|_| NEEDED.to_owned())
        };
        let no_core = Rlimit { current: Some(0), maximum: Some(0) };
        Protection {
            locked,
            no_core_dump: setrlimit(Resource::Core, no_core).map_err(refused),
            not_dumpable: set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused),
        }
    })
}

/// Returns the protection of this process, or `None` if [`protect_memory`] was not called.
pub fn protection() -> Option<&'static Protection> {
    PROTECTION.get()
}

impl Protection {
    /// Returns the measures that hold.
    pub fn held(&self) -> Vec<String> {
        let locked = match self.locked {
            Ok(Locked::Everything) => Some("locked in memory".to_owned()),
            Ok(Locked::MasterKeys(kib)) => {
                Some(format!("locked in memory as far as they are master keys and {kib} KiB go"))
            }
            Err(_) => None,
        };
        let others = self.others().into_iter().filter(|(_, outcome)| outcome.is_ok());
        locked.into_iter().chain(others.map(|(name, _)| name.to_owned())).collect()
    }

    /// Returns the measures that do not hold, with the reasons.
    pub fn missing(&self) -> Vec<String> {
        let locked = match &self.locked {
            Ok(Locked::Everything) => None,
            Ok(Locked::MasterKeys(_)) => Some(format!("not all locked in memory: {NEEDED}")),
            Err(why) => Some(format!("not locked in memory: {why}")),
        };
        let refused = |(name, outcome): (&str, &Result<(), String>)| {
            outcome.as_ref().err().map(|why| format!("not {name}: {why}"))
        };
        locked.into_iter().chain(self.others().into_iter().filter_map(refused)).collect()
    }

    fn others(&self) -> [(&'static str, &Result<(), String>); 2] {
        [("kept out of core dumps", &self.no_core_dump), ("hidden from other processes", &self.not_dumpable)]
    }
}

fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    capabilities & (1 << CAP_IPC_LOCK) != 0 || getrlimit(Resource::Memlock).current.is_none()
}

/// Raises the limit of open files to the most that this process may have, and returns it.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_err() {
        return limit.current.unwrap_or(u64::MAX);
    }
    limit.maximum.unwrap_or(u64::MAX)
}

/// Makes the allocator return large blocks to the system as soon as they are freed.
///
/// By default glibc learns to keep large blocks. With thousands of connections, a few large bodies then leave holes of
/// a megabyte behind.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn return_large_blocks() {
    const LARGE: libc::c_int = 128 * 1024;
    // SAFETY: this sets one number of the allocator, before there are threads that could allocate.
    #[expect(unsafe_code, reason = "there is no safe way to tell glibc")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Makes the allocator return large blocks to the system. This allocator does so by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_large_blocks() {}

/// Returns freed memory to the system. This takes milliseconds.
///
/// glibc keeps small freed blocks, because other blocks lie among them. Locked pages cannot be returned, so all pages
/// are unlocked for this moment. They stay locked if there is a swap device to which they could be written meanwhile.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn return_freed_memory() {
    let unlocks = is_locked() && has_no_swap() && munlockall().is_ok();
    // SAFETY: this takes a number, and returns only pages in which no block is in use.
    #[expect(unsafe_code, reason = "there is no safe way to tell glibc")]
    unsafe {
        libc::malloc_trim(0);
    }
    if unlocks && let Err(error) = mlockall(LOCK_ALL) {
        IS_UNLOCKED.store(true, Ordering::Relaxed);
        tracing::error!(%error, "memory is not locked any more");
    }
}

/// Ends the process by `SIGPIPE`, as a program ends whose reader has gone. A script can tell this (141) from a failure.
pub fn die_of_broken_pipe() {
    // SAFETY: the default action touches none of our memory, and a command has no threads to clean up.
    #[expect(
        unsafe_code,
        reason = "Rust ignores this signal from the start, and there is no safe way to have it act"
    )]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::raise(libc::SIGPIPE);
    }
}

/// Whether memory that was locked could not be locked again.
static IS_UNLOCKED: AtomicBool = AtomicBool::new(false);

/// Returns whether every page is locked now.
pub fn is_locked() -> bool {
    protection().is_some_and(|held| held.locked == Ok(Locked::Everything))
        && !IS_UNLOCKED.load(Ordering::Relaxed)
}

/// Returns freed memory to the system. This allocator does so by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_freed_memory() {}

/// Returns whether the system has no swap device.
fn has_no_swap() -> bool {
    // The first line is a heading.
    std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() <= 1)
}

/// Returns the resident memory of this process in bytes, or 0 if the system does not report it.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0u64);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

/// Returns how many connections fit into the current limit of open files.
pub fn max_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = files.saturating_sub(RESERVED_FILES).clamp(16, MAX_CONNECTIONS);
    usize::try_from(connections).unwrap_or(usize::MAX)
}

/// The memory in use, in bytes, and the number of threads.
pub struct Memory {
    /// Allocated memory.
    pub heap: u64,
    /// The stack of the main thread.
    pub stack: u64,
    /// The number of threads.
    pub threads: u64,
}

impl Memory {
    /// Reads the figures from `/proc`. Without it each figure is 1, because the SDK takes 0 for an error.
    pub fn of_this_process() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().split(' ').next()?.parse::<u64>().ok()
        };
        let bytes = |name| field(name).map_or(1, |kib| (kib * 1024).max(1));
        Self { heap: bytes("RssAnon"), stack: bytes("VmStk"), threads: field("Threads").unwrap_or(1) }
    }
}
