//! The signals that a server handles, from its first moment on.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::failure::Failure;

/// The signals that stop a server, and the signal for a reload.
///
/// No signal is lost that comes after this was created, however late it is awaited. Several signals of a kind count as one.
pub struct Signals {
    /// The signals that stop the server.
    pub stop: Stop,
    /// SIGHUP, the signal for a reload.
    pub hangup: Signal,
}

/// SIGTERM and SIGINT.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to listen for the signals. This needs a tokio runtime.
    pub fn hear() -> Result<Self, Failure> {
        let hear =
            |kind| signal(kind).map_err(|error| Failure::new(format!("cannot wait for signals: {error}")));
        let stop =
            Stop { terminate: hear(SignalKind::terminate())?, interrupt: hear(SignalKind::interrupt())? };
        Ok(Self { stop, hangup: hear(SignalKind::hangup())? })
    }
}

impl Stop {
    /// Waits for one of the signals.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
