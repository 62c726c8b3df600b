//! What the process asks of the operating system: many descriptors, and that nobody reads its memory.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Descriptors that are kept free for what is not a connection: the store, logs, listeners.
const RESERVED_FILES: u64 = 100;

/// The most connections at once, however many descriptors there are.
const MAX_CONNECTIONS: u64 = 16_384;

/// Forbids core dumps and other processes' looks into the memory of this one.
///
/// A process that is not dumpable cannot open `/dev/stdout` or its own `/proc` files that show memory.
/// Returns what the system refused, in words.
pub fn hide_memory() -> Result<(), String> {
    let refused = |what: &str, error: rustix::io::Errno| format!("{what}: {error}");
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|error| refused("cannot forbid core dumps", error))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| refused("cannot make the process not dumpable", error))
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
