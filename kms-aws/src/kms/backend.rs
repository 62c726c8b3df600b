//! AWS KMS as all parts of the service share it: the calls, their bounds, and what is known of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kms_core::cache::policy::CALLS;
use kms_core::cache::{Counters, Gate};
use kms_core::single_flight::Wanted;
use kms_core::{KeyName, Request};

use super::aliases::Aliases;
use super::config::AwsConfig;
use crate::client::Upstream;
use crate::recent::Recent;

/// How long AWS may take until everyone sees what was made.
const CONSISTENCY: Duration = Duration::from_secs(300);

/// What it takes to ask AWS KMS for the keys of one prefix.
pub struct Backend {
    pub config: AwsConfig,
    pub aliases: Aliases,
    pub upstream: Upstream,
    pub gate: Arc<Gate>,
    /// Counts the names that requests use, and what AWS was asked for them.
    pub counters: Counters,
    /// The ids of CMKs made here so recently that their aliases may not be seen everywhere.
    pub made: Recent<KeyName, String>,
    /// The ids of CMKs deleted here so recently that AWS may still show them as enabled.
    pub deleted: Recent<String>,
    epoch: Instant,
}

impl Backend {
    /// Creates a backend that has asked for nothing.
    pub fn new(config: AwsConfig, upstream: Upstream) -> Arc<Self> {
        Arc::new(Self {
            aliases: Aliases::new(&config.prefix),
            config,
            upstream,
            gate: Gate::new(CALLS.0, CALLS.1),
            counters: Counters::default(),
            made: Recent::new(CONSISTENCY),
            deleted: Recent::new(CONSISTENCY),
            epoch: Instant::now(),
        })
    }

    /// Returns the milliseconds since the start.
    pub fn millis(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes in `used` that something is used now.
    pub fn touch(&self, used: &AtomicU64) {
        used.store(self.millis(), Ordering::Relaxed);
    }

    /// Counts a read that ended.
    pub fn count_read<T>(&self, outcome: &kms_core::Result<T>) {
        self.counters.reads.add();
        if let Err(error) = outcome {
            self.counters.read_failed(error);
        }
    }
}

/// Returns which fetch `request` waits for: one that begins at `after` or later.
pub fn wanted(request: &Request, after: Option<Instant>) -> Wanted {
    Wanted { after, deadline: request.deadline, operation: "wait for AWS KMS" }
}
