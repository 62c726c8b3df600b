//! The signals that a server hears, from its first moment on.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::failure::Failure;

/// Signals that end a server, and one that has it load its configuration again.
///
/// From when this is made none is lost, whenever it is asked for; several of a kind count as one.
pub struct Signals {
    /// Those that end it.
    pub stop: Stop,
    /// SIGHUP.
    pub hangup: Signal,
}

/// SIGTERM and SIGINT.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to hear them; needs a tokio runtime.
    pub fn hear() -> Result<Self, Failure> {
        let hear =
            |kind| signal(kind).map_err(|error| Failure::new(format!("cannot wait for signals: {error}")));
        let stop =
            Stop { terminate: hear(SignalKind::terminate())?, interrupt: hear(SignalKind::interrupt())? };
        Ok(Self { stop, hangup: hear(SignalKind::hangup())? })
    }
}

impl Stop {
    /// Waits for one of them.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
