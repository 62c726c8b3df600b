//! The buckets of histograms.

/// The upper bounds of our buckets, in seconds. A request for a cached key takes a tenth of a millisecond.
pub const BUCKETS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0];
