//! What the process asks of the operating system: many descriptors, and that nobody reads its memory.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Descriptors that are kept free for what is not a connection: the store, logs, listeners.
const RESERVED_FILES: u64 = 100;

/// What locking all memory needs.
const NEEDED: &str = "it needs CAP_IPC_LOCK or an unlimited memlock (ulimit -l, LimitMEMLOCK=infinity)";

/// Every page, as it is used.
const LOCK_ALL: MlockAllFlags =
    MlockAllFlags::CURRENT.union(MlockAllFlags::FUTURE).union(MlockAllFlags::ONFAULT);

/// The most connections at once, however many descriptors there are.
const MAX_CONNECTIONS: u64 = 16_384;

/// What keeps others from reading the memory of this process; each is an error in words where the system refused it.
#[derive(Clone, Debug)]
pub struct Protection {
    /// What is never written to a swap device.
    pub locked: Result<Locked, String>,
    /// A crash leaves no core dump.
    pub no_core_dump: Result<(), String>,
    /// No other process of the same user can look into it.
    pub not_dumpable: Result<(), String>,
}

/// What is locked in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// Every page.
    Everything,
    /// The pages on which master keys lie, as far as this many KiB go.
    MasterKeys(u64),
}

static PROTECTION: OnceLock<Protection> = OnceLock::new();

/// Protects the memory of this process, once, and tells what holds.
///
/// Memory is locked as it is used, with `CAP_IPC_LOCK` or an unlimited `RLIMIT_MEMLOCK`: under a limit every later
/// allocation could fail, so only the pages of master keys are. A process that is not dumpable cannot open `/dev/stdout` or its own `/proc` files that show
/// memory.
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

/// Returns what protects the memory of this process, if anything was asked for.
pub fn protection() -> Option<&'static Protection> {
    PROTECTION.get()
}

impl Protection {
    /// Names what holds.
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

    /// Names what does not hold, with the reason.
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

/// Raises the limit of open files to what the system allows this process, and returns it.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_err() {
        return limit.current.unwrap_or(u64::MAX);
    }
    limit.maximum.unwrap_or(u64::MAX)
}

/// Has large blocks of memory go back to the system as soon as they are freed.
///
/// By default glibc learns to keep what was once large: among thousands of connections, a few large bodies leave
/// holes of a megabyte behind.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn return_large_blocks() {
    const LARGE: libc::c_int = 128 * 1024;
    // SAFETY: it sets one number of the allocator, and is called before there are threads that could allocate.
    #[expect(unsafe_code, reason = "there is no safe way to tell glibc")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Has large blocks of memory go back to the system as soon as they are freed, where the allocator has to be told.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_large_blocks() {}

/// Gives memory that was freed back to the system, and takes milliseconds for it.
///
/// glibc keeps what was freed in small blocks, since other blocks lie among them. Locked pages cannot be given back, so
/// for this moment they are not locked; where there is a swap device to which they could be written meanwhile, they stay.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn return_freed_memory() {
    let unlocks = is_locked() && has_no_swap() && munlockall().is_ok();
    // SAFETY: it takes a number, and gives back pages in which no block is in use.
    #[expect(unsafe_code, reason = "there is no safe way to tell glibc")]
    unsafe {
        libc::malloc_trim(0);
    }
    if unlocks && let Err(error) = mlockall(LOCK_ALL) {
        IS_UNLOCKED.store(true, Ordering::Relaxed);
        tracing::error!(%error, "memory is not locked any more");
    }
}

/// Ends the process as a program ends whose reader went away: scripts tell this (141 in a shell) from a failure.
pub fn die_of_broken_pipe() {
    // SAFETY: the default action takes no memory of ours, and no thread has to clean up behind a command.
    #[expect(
        unsafe_code,
        reason = "Rust ignores this signal from the start, and there is no safe way to have it act"
    )]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::raise(libc::SIGPIPE);
    }
}

/// Set when memory that was locked could not be locked again.
static IS_UNLOCKED: AtomicBool = AtomicBool::new(false);

/// Tells whether every page is locked now.
pub fn is_locked() -> bool {
    protection().is_some_and(|held| held.locked == Ok(Locked::Everything))
        && !IS_UNLOCKED.load(Ordering::Relaxed)
}

/// Gives memory that was freed back to the system, where the allocator has to be told.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_freed_memory() {}

/// Tells whether the system has no device that memory could be written to.
fn has_no_swap() -> bool {
    // The first line is a heading.
    std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() <= 1)
}

/// Returns how many bytes of memory this process takes, or 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0u64);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

/// Returns how many connections fit into the present limit of open files.
pub fn max_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = files.saturating_sub(RESERVED_FILES).clamp(16, MAX_CONNECTIONS);
    usize::try_from(connections).unwrap_or(usize::MAX)
}

/// What memory is in use, in bytes, and the number of threads.
pub struct Memory {
    /// What was allocated.
    pub heap: u64,
    /// The stack of the main thread.
    pub stack: u64,
    /// The number of threads.
    pub threads: u64,
}

impl Memory {
    /// Reads it from `/proc`; where there is none, 1 byte each, since the SDK takes 0 for an error.
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
