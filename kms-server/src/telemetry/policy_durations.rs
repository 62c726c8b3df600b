//! The time that the requests of each policy take.
//!
//! The label is a policy's name in the config. An identity never is one, so the number of series is known at the start.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

use super::buckets::BUCKETS;
use super::families::register;

/// The most policies with a histogram of their own: each has 17 series, and together they are 80 kB of text.
const MOST: usize = 64;

/// The label of all further policies together. To Prometheus it is the same as no label.
const FURTHER: &str = "";

/// The family.
pub struct PolicyDurations {
    family: HistogramVec,
    /// The policies that have a histogram.
    names: Mutex<BTreeSet<String>>,
}

impl PolicyDurations {
    /// Creates the family, without a series.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let help = "Time from the headers of a request that a policy allowed to its answer, in seconds; without monitoring and the admin.";
        let options =
            HistogramOpts::new("kms_policy_request_duration_seconds", help).buckets(BUCKETS.to_vec());
        let family = register(registry, HistogramVec::new(options, &["policy"])?)?;
        Ok(Self { family, names: Mutex::default() })
    }

    /// Returns the histograms of these policies, in their order. A policy that had one before keeps its counts.
    pub fn set<'a>(&self, names: impl Iterator<Item = &'a str>) -> OfPolicies {
        let mut names = names.peekable();
        let own: Vec<_> = names.by_ref().take(MOST).collect();
        let further = names.peek().map(|_| FURTHER);
        let now: BTreeSet<_> = own.iter().copied().chain(further).map(str::to_owned).collect();
        let mut before = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in before.difference(&now) {
            // It is there, since it was made here.
            let _ = self.family.remove_label_values(&[gone.as_str()]);
        }
        *before = now;
        let histogram = |name| self.family.with_label_values(&[name]);
        OfPolicies { own: own.into_iter().map(histogram).collect(), further: further.map(histogram) }
    }
}

/// The histograms of the policies in force. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub struct OfPolicies {
    own: Arc<[Histogram]>,
    further: Option<Histogram>,
}

impl OfPolicies {
    /// Returns the histogram of the policy with this rank.
    pub fn get(&self, rank: usize) -> Option<&Histogram> {
        self.own.get(rank).or(self.further.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder as _, TextEncoder};

    use super::*;

    fn series(registry: &Registry) -> Vec<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let counts =
            text.lines().filter_map(|line| line.strip_prefix("kms_policy_request_duration_seconds_count"));
        counts.map(str::to_owned).collect()
    }

    #[test]
    fn policies_that_stay_keep_their_counts_and_others_end() {
        let registry = Registry::new();
        let durations = PolicyDurations::new(&registry).unwrap();
        let first = durations.set(["a", "b"].into_iter());
        first.get(0).unwrap().observe(0.001);
        first.get(1).unwrap().observe(0.001);
        assert!(first.get(2).is_none());
        let second = durations.set(["b", "c"].into_iter());
        second.get(0).unwrap().observe(0.001);
        assert_eq!(series(&registry), [r#"{policy="b"} 2"#, r#"{policy="c"} 0"#]);
        // A request that began before the reload may end after it.
        first.get(0).unwrap().observe(0.001);
        assert_eq!(series(&registry).len(), 2);
    }

    #[test]
    fn there_are_not_more_series_than_stated() {
        let registry = Registry::new();
        let durations = PolicyDurations::new(&registry).unwrap();
        let names: Vec<_> = (0..1000).map(|number| format!("policy-{number:04}")).collect();
        let all = durations.set(names.iter().map(String::as_str));
        for rank in 0..names.len() {
            all.get(rank).unwrap().observe(0.001);
        }
        let shown = series(&registry);
        assert_eq!(shown.len(), MOST + 1);
        assert_eq!(shown[0], format!(r#"{{policy=""}} {}"#, 1000 - MOST));
    }
}
