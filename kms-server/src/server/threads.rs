//! The threads that serve connections. Key stores, probes and reloads run on other threads.

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};

/// A number of threads that every system allows.
const FEW: usize = 32;

/// The threads that serve connections. They end when this is dropped.
pub struct Threads {
    /// It is taken out only to end it.
    runtime: Option<Runtime>,
    handle: Handle,
    count: usize,
}

impl Threads {
    /// Starts `count` threads, or as many as the process has CPUs by its affinity and its control group.
    pub fn start(count: Option<NonZeroUsize>) -> io::Result<Self> {
        let count = count.map_or_else(Self::of_machine, usize::from);
        if count > FEW {
            check_room(count)?;
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(count)
            .thread_name("kms-serve")
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle, count })
    }

    /// Returns the number of CPUs that this process may use.
    pub fn of_machine() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the handle of their runtime.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Fails if the system does not allow so many threads. The runtime would panic.
fn check_room(count: usize) -> io::Result<()> {
    let mut waiting = Vec::with_capacity(count);
    let mut outcome = Ok(());
    while outcome.is_ok() && waiting.len() < count {
        let (keeps, ends) = mpsc::channel::<()>();
        let spawned = thread::Builder::new().spawn(move || {
            let _ = ends.recv();
        });
        outcome = spawned.map(|thread| waiting.push((keeps, thread)));
    }
    for (keeps, thread) in waiting {
        drop(keeps);
        let _ = thread.join();
    }
    outcome
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A task may drop this, and no task may wait for threads.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
