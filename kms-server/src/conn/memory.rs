//! Returns freed memory to the system: after a wave of connections, and never while a request waits for it.

use std::time::{Duration, Instant};

use crate::host::process;

/// The time between two checks.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// The least number of ended connections that makes a wave.
const MANY: usize = 64;

/// The growth of memory that is worth the effort.
const MUCH: u64 = 16 * 1024 * 1024;

/// The time after which memory is returned without a wave, if it has grown.
const LONG: Duration = Duration::from_secs(20);

/// The state when memory was returned last.
pub struct Reclaim {
    at: Instant,
    resident: u64,
    connections: usize,
}

impl Reclaim {
    /// Checks now and then, forever. `connections` returns how many there are now, and the most that there were.
    pub async fn run(connections: impl Fn() -> (usize, usize)) {
        let mut last = Self { at: Instant::now(), resident: process::resident_bytes(), connections: 0 };
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            let (live, most) = connections();
            last.connections = last.connections.max(most);
            if !last.is_due(live, Instant::now(), process::resident_bytes) {
                continue;
            }
            // It takes milliseconds and system calls, so it does not run on a thread that serves.
            let _ = tokio::task::spawn_blocking(process::return_freed_memory).await;
            last = Self { at: Instant::now(), resident: process::resident_bytes(), connections: live };
        }
    }

    fn is_due(&self, live: usize, now: Instant, resident: impl Fn() -> u64) -> bool {
        let fell = self.connections.saturating_sub(live);
        let has_fallen = fell >= MANY && fell >= self.connections / 4;
        has_fallen || (now.duration_since(self.at) >= LONG && resident() >= self.resident + MUCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_after_a_wave_and_rarely_otherwise() {
        let at = Instant::now();
        let begun = |connections| Reclaim { at, resident: 20 << 20, connections };
        assert!(!begun(1000).is_due(1000, at, || 90 << 20), "they are there");
        assert!(!begun(1000).is_due(800, at, || 90 << 20), "few have ended");
        assert!(begun(1000).is_due(700, at, || 90 << 20));
        assert!(!begun(60).is_due(0, at, || 90 << 20), "there were few");
        assert!(!begun(0).is_due(0, at + LONG, || 21 << 20));
        assert!(begun(0).is_due(10, at + LONG, || 40 << 20));
    }
}
