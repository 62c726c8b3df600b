//! The making of families of metrics.

use prometheus::core::{AtomicU64 as Integer, GenericCounter, GenericCounterVec};
use prometheus::{Histogram, HistogramOpts, IntGauge, Registry};

pub type Counter = GenericCounter<Integer>;
pub type CounterVec = GenericCounterVec<Integer>;

/// Creates and registers a counter.
pub fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<Counter> {
    register(registry, Counter::new(name, help)?)
}

/// Creates and registers a gauge.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    register(registry, IntGauge::new(name, help)?)
}

/// Creates and registers a histogram with these upper bounds.
pub fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> prometheus::Result<Histogram> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, Histogram::with_opts(options)?)
}

/// Registers a family.
pub fn register<C>(registry: &Registry, collector: C) -> prometheus::Result<C>
where
    C: prometheus::core::Collector + Clone + 'static,
{
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
