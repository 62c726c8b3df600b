//! `kms metric`: the metrics of a server, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;

use super::connection::Connection;
use super::{Failure, Output, block_on};
use crate::config::{Environment, parse_duration};

/// The arguments of `kms metric`.
#[derive(clap::Args)]
pub struct Args {
    /// Print them again after each such time.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    rate: Option<Duration>,
    /// Print them as one object of JSON: the sum of each family.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Shows the metrics once, or until it is stopped.
pub fn run(args: &Args, environment: &Environment) -> Result<(), Failure> {
    let client = args.connection.client(environment)?;
    let output = Output::new(args.json);
    loop {
        let answer = block_on(client.send(Method::GET, "/v1/metrics", None))?
            .map_err(|error| Failure::from(error).context("failed to read metrics"))?;
        let metrics = parse(&String::from_utf8_lossy(&answer));
        if output.is_json() {
            output.json(&metrics)?;
        } else {
            output.lines(metrics.iter().map(|(name, value)| format!("{name:<34} {value}")))?;
        }
        match args.rate {
            Some(rate) => std::thread::sleep(rate.max(Duration::from_millis(100))),
            None => return Ok(()),
        }
    }
}

/// Adds up the samples of each name in Prometheus's text format; the buckets of histograms are left out.
fn parse(text: &str) -> BTreeMap<String, f64> {
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
        let metrics = parse(text);
        let found: Vec<_> = metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(found, [("a", 5.0), ("b", 1.5), ("h_count", 7.0), ("h_sum", 0.5)]);
    }
}
