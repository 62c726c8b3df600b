//! The samples in Prometheus's text format.

use std::collections::BTreeMap;

/// One sample: a series and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name of the family, or for a part of a histogram that and a suffix.
    pub name: String,
    /// The labels in their order.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// Returns the value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find_map(|(label, value)| (label == name).then_some(&**value))
    }
}

/// Reads the samples of a text. Lines that are none are left out.
pub fn samples(text: &str) -> impl Iterator<Item = Sample> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample)
}

/// Returns the sum of the samples of each family. The buckets of histograms are left out.
pub fn sums(text: &str) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    for Sample { name, value, .. } in samples(text).filter(|sample| !sample.name.ends_with("_bucket")) {
        *metrics.entry(name).or_insert(0.0) += value;
    }
    metrics
}

fn sample(line: &str) -> Option<Sample> {
    let (name, rest) = line.split_at(line.find(['{', ' ']).filter(|end| *end != 0)?);
    let mut labels = Vec::new();
    let mut rest = rest.trim_start();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            inner = inner.trim_start_matches([',', ' ']);
            if let Some(after) = inner.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, quoted) = inner.split_once("=\"")?;
            let (value, after) = unquoted(quoted)?;
            labels.push((label.to_owned(), value));
            inner = after;
        }
    }
    // A time may follow the value.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Returns the value of a label, whose opening quote is cut off already, and what follows its closing one.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => return Some((value, rest.as_str())),
            '\\' => value.push(match rest.next()? {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
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

    #[test]
    fn labels_may_hold_whatever_a_name_may() {
        let text = "a{policy=\"x} \\\"y\\\\\\n=\\\",\",le=\"+Inf\"} 1 1700000000\nb{} 2\nc{ d=\"e\", } 3\n";
        let read: Vec<_> = samples(text).collect();
        assert_eq!(read[0].label("policy"), Some("x} \"y\\\n=\","));
        assert_eq!((read[0].label("le"), read[0].value), (Some("+Inf"), 1.0));
        assert_eq!((read[1].name.as_str(), read[1].value), ("b", 2.0));
        assert_eq!((read[2].label("d"), read[2].value), (Some("e"), 3.0));
    }

    #[test]
    fn what_is_no_sample_is_left_out() {
        for line in
            ["", " ", "a", "a b", "a{", "a{b", "a{b=\"", "a{b=\"c\\", "a{b=\"c\"", "a{b=\"c\"}", "{", "é{"]
        {
            assert_eq!(samples(line).count(), 0, "{line}");
        }
    }
}
