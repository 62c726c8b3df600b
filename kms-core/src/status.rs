//! The status of a backend.

use std::time::Duration;

/// The status of a backend, as it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatus {
    /// The time that the backend took to answer.
    pub latency: Duration,
    /// Whether the backend answers. A key ring with offline copies serves keys also while it does not.
    pub reachable: bool,
    /// A defect that an operator should know although the backend serves, in a few words.
    pub degraded: Option<String>,
}

impl StoreStatus {
    /// Creates the status of a healthy backend that answered within `latency`.
    pub fn ok(latency: Duration) -> Self {
        Self { latency, reachable: true, degraded: None }
    }

    /// Creates the status of a backend that does not answer, while offline copies of keys are served.
    pub fn offline(latency: Duration, why: impl Into<String>) -> Self {
        Self { latency, reachable: false, degraded: Some(why.into()) }
    }

    /// Adds a defect to those that the status already has.
    #[must_use]
    pub fn degraded(mut self, why: impl Into<String>) -> Self {
        self.degraded = Some(match self.degraded.take() {
            None => why.into(),
            Some(before) => format!("{before}; {}", why.into()),
        });
        self
    }
}
