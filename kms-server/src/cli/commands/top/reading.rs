//! One reading of a server: its metrics, and what it says of itself.

use std::collections::BTreeMap;
use std::time::Instant;

use super::histogram::Histogram;
use crate::cli::samples::{Sample, samples};

/// A reading of a server.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When the answer came.
    pub at: Instant,
    /// What the server answered when it was asked whether it can serve requests.
    pub ready: Ready,
    families: BTreeMap<String, Vec<Sample>>,
}

/// Whether a server can serve requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Whoever asks may not know.
    Unknown,
    /// It can, and nothing is wrong.
    Yes,
    /// It can, and this is wrong all the same.
    Degraded(String),
    /// It cannot, and this is why.
    No(String),
}

impl Reading {
    /// Reads the metrics of a server in Prometheus's text format. Returns `None` if they are not those of a key server.
    pub fn parse(text: &str, ready: Ready, at: Instant) -> Option<Self> {
        let mut families: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for sample in samples(text) {
            families.entry(sample.name.clone()).or_default().push(sample);
        }
        families.keys().any(|name| name.starts_with("kes_")).then_some(Self { at, ready, families })
    }

    /// Returns the sum of the series of a family, if there are any. A counter may have its name with `_total` or without.
    pub fn sum(&self, family: &str) -> Option<f64> {
        let with_total = || self.families.get(&format!("{family}_total"));
        let series = self.families.get(family).or_else(with_total)?;
        Some(series.iter().map(|sample| sample.value).sum())
    }

    /// Returns the series of a family.
    pub fn series(&self, family: &str) -> impl Iterator<Item = &Sample> {
        self.families.get(family).into_iter().flatten()
    }

    /// Returns by how much a family grew since `before`. A server that was started anew counts from zero again.
    pub fn growth(&self, before: &Self, family: &str) -> Option<f64> {
        let (now, then) = (self.sum(family)?, before.sum(family)?);
        Some(if now >= then { now - then } else { now })
    }

    /// Returns a histogram without labels.
    pub fn histogram(&self, family: &str) -> Histogram {
        Histogram::new(self.series(&format!("{family}_bucket")).filter_map(bucket))
    }

    /// Returns the histograms of a family by the value of their label.
    pub fn histograms(&self, family: &str, label: &str) -> BTreeMap<&str, Histogram> {
        let mut buckets: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for sample in self.series(&format!("{family}_bucket")) {
            if let (Some(value), Some(bucket)) = (sample.label(label), bucket(sample)) {
                buckets.entry(value).or_default().push(bucket);
            }
        }
        buckets.into_iter().map(|(value, buckets)| (value, Histogram::new(buckets))).collect()
    }
}

fn bucket(sample: &Sample) -> Option<(f64, f64)> {
    // Rust reads `+Inf` as Prometheus writes it.
    Some((sample.label("le")?.parse().ok()?, sample.value))
}
