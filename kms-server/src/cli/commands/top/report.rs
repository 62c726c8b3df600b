//! The view for programs, as JSON.

use jiff::Timestamp;
use serde::Serialize;

use super::figures::{Figures, OfPolicy};
use super::histogram::{Histogram, Quantile};
use super::view::{Seen, State};
use super::wrong::Wrong;

/// What all servers answered last. Figures that are not known are left out.
#[derive(Serialize)]
pub struct Report {
    time: String,
    servers: Vec<OfServer>,
    policies: Vec<NamedPolicy>,
}

#[derive(Serialize)]
struct OfServer {
    server: String,
    /// Whether it answered.
    answered: bool,
    #[serde(flatten)]
    figures: Option<Shown>,
    wrong: Vec<Told>,
}

#[derive(Serialize)]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failures_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_hit_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_keys: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store_reads_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store_failed_reads_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    up_seconds: Option<f64>,
}

#[derive(Serialize)]
struct NamedPolicy {
    policy: String,
    requests_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_seconds: Option<f64>,
}

#[derive(Serialize)]
struct Told {
    bad: bool,
    what: String,
}

impl Report {
    /// Reports what the servers answered last, and the slowest policies first.
    pub fn of(state: &State, time: Timestamp) -> Self {
        let policies = state.together().policies.into_iter();
        let mut policies: Vec<_> =
            policies.map(|(policy, figures)| NamedPolicy::of(policy, &figures)).collect();
        let slowness = |policy: &NamedPolicy| policy.p99_seconds.unwrap_or(-1.0);
        policies.sort_by(|one, other| slowness(other).total_cmp(&slowness(one)));
        Self {
            time: time.to_string(),
            servers: state.servers().iter().map(|seen| OfServer::of(seen, time)).collect(),
            policies,
        }
    }
}

impl OfServer {
    fn of(seen: &Seen, time: Timestamp) -> Self {
        let figures = seen.figures();
        Self {
            server: seen.name.clone(),
            answered: figures.is_some(),
            figures: figures.as_ref().map(Shown::of),
            wrong: seen
                .wrong(time)
                .into_iter()
                .map(|Wrong { is_bad, what }| Told { bad: is_bad, what })
                .collect(),
        }
    }
}

impl Shown {
    fn of(figures: &Figures) -> Self {
        Self {
            requests_per_second: figures.requests,
            errors_per_second: figures.errors,
            failures_per_second: figures.failures,
            p50_seconds: seconds(&figures.latency, 0.5),
            p99_seconds: seconds(&figures.latency, 0.99),
            cache_hit_ratio: figures.hit_ratio(),
            cache_keys: figures.keys,
            store_reads_per_second: figures.reads,
            store_failed_reads_per_second: figures.failed_reads,
            up_seconds: figures.up_time,
        }
    }
}

impl NamedPolicy {
    fn of(policy: String, figures: &OfPolicy) -> Self {
        Self {
            policy,
            requests_per_second: figures.requests,
            p50_seconds: seconds(&figures.latency, 0.5),
            p99_seconds: seconds(&figures.latency, 0.99),
        }
    }
}

fn seconds(latency: &Histogram, quantile: f64) -> Option<f64> {
    latency.quantile(quantile).map(Quantile::seconds)
}
