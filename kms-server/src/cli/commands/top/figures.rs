//! What two readings of a server tell.

use std::collections::BTreeMap;

use super::histogram::Histogram;
use super::reading::Reading;

/// The figures of a server, or of all servers together. Rates are by second, since the reading before.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// All requests but those for monitoring, also the refused ones.
    pub requests: Option<f64>,
    /// Answers that say that the client was wrong, also for its path, certificate or policy.
    pub errors: Option<f64>,
    /// Answers that say that the server failed.
    pub failures: Option<f64>,
    /// The requests that a key in memory served, of those for a key; also an offline copy is one.
    pub hits: Option<f64>,
    /// The requests that waited for the key store.
    pub misses: Option<f64>,
    /// The keys in memory.
    pub keys: Option<f64>,
    /// Reads of the key store.
    pub reads: Option<f64>,
    /// Reads of the key store that failed.
    pub failed_reads: Option<f64>,
    /// The seconds since the start of the server.
    pub up_time: Option<f64>,
    /// How long requests took.
    pub latency: Histogram,
    /// The requests of each policy.
    pub policies: BTreeMap<String, OfPolicy>,
}

/// The requests of a policy.
#[derive(Clone, Debug, Default)]
pub struct OfPolicy {
    /// Requests by second.
    pub requests: f64,
    /// How long they took.
    pub latency: Histogram,
}

impl Figures {
    /// Computes the figures of a server from its last reading and the one before.
    pub fn of(now: &Reading, before: Option<&Reading>) -> Self {
        let seconds = before.map(|before| now.at.saturating_duration_since(before.at).as_secs_f64());
        let seconds = seconds.filter(|seconds| *seconds > 0.0);
        let rate = |family: &str| Some(now.growth(before?, family)? / seconds?);
        let refused = rate("kms_requests_refused");
        let errors = sum([rate("kes_http_request_error"), refused]);
        let failures = rate("kes_http_request_failure");
        Self {
            requests: sum([rate("kes_http_request_success"), errors, failures]),
            errors,
            failures,
            hits: sum([rate("kms_cache_hits"), rate("kms_cache_offline_hits")]),
            misses: rate("kms_cache_misses"),
            keys: now.sum("kms_cache_keys"),
            reads: rate("kms_key_store_reads"),
            failed_reads: rate("kms_key_store_failed_reads"),
            up_time: now.sum("kes_system_up_time"),
            latency: before.map_or_else(Histogram::default, |before| latency(now).since(&latency(before))),
            policies: before
                .zip(seconds)
                .map(|(before, seconds)| policies(now, before, seconds))
                .unwrap_or_default(),
        }
    }

    /// Adds the figures of another server.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.requests, other.requests),
            (&mut self.errors, other.errors),
            (&mut self.failures, other.failures),
            (&mut self.hits, other.hits),
            (&mut self.misses, other.misses),
            (&mut self.keys, other.keys),
            (&mut self.reads, other.reads),
            (&mut self.failed_reads, other.failed_reads),
        ] {
            *mine = sum([*mine, theirs]);
        }
        self.latency.add(&other.latency);
        for (name, of_policy) in &other.policies {
            let mine = self.policies.entry(name.clone()).or_default();
            mine.requests += of_policy.requests;
            mine.latency.add(&of_policy.latency);
        }
    }

    /// Returns which part of the requests for keys was served by a key in memory.
    pub fn hit_ratio(&self) -> Option<f64> {
        let (hits, misses) = (self.hits?, self.misses?);
        (hits + misses > 0.0).then(|| hits / (hits + misses))
    }
}

/// Returns the sum of what is known.
fn sum<const N: usize>(parts: [Option<f64>; N]) -> Option<f64> {
    parts.into_iter().flatten().reduce(|sum, part| sum + part)
}

/// Returns how long requests took. KES counts from 10 ms on.
fn latency(reading: &Reading) -> Histogram {
    let ours = reading.histogram("kms_request_duration_seconds");
    if ours == Histogram::default() { reading.histogram("kes_http_response_time") } else { ours }
}

fn policies(now: &Reading, before: &Reading, seconds: f64) -> BTreeMap<String, OfPolicy> {
    const FAMILY: &str = "kms_policy_request_duration_seconds";
    let then = before.histograms(FAMILY, "policy");
    let since = |(name, now): (&str, Histogram)| {
        let latency = then.get(name).map_or_else(|| now.clone(), |then| now.since(then));
        (name.to_owned(), OfPolicy { requests: latency.count() / seconds, latency })
    };
    now.histograms(FAMILY, "policy").into_iter().map(since).collect()
}
