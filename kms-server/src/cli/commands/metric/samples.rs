//! The samples in Prometheus's text format.

use std::collections::BTreeMap;

/// Returns the sum of the samples of each family. The buckets of histograms are left out.
pub fn sums(text: &str) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or_default();
        if let Ok(value) = value.parse::<f64>()
            && !name.ends_with("_bucket")
        {
            *metrics.entry(name.to_owned()).or_insert(0.0) += value;
        }
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_are_added_up() {
        let text = "# HELP a b\n# TYPE a counter\na{code=\"200\"} 2\na{code=\"201\"} 3\nb 1.5\n\
            h_bucket{le=\"1\"} 7\nh_sum 0.5\nh_count 7\n";
        let metrics = sums(text);
        let found: Vec<_> = metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(found, [("a", 5.0), ("b", 1.5), ("h_count", 7.0), ("h_sum", 0.5)]);
    }
}
