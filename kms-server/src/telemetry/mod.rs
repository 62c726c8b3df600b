//! What the server reports about its work: the error log, the audit log and the metrics.

pub mod audit;
mod buckets;
pub mod error_log;
mod families;
pub mod hub;
mod lines;
pub mod log_limit;
pub mod metrics;
pub mod policy_durations;
mod version_uses;
