//! `kms metric`: the metrics of a server, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::status;
use crate::cli::client::Client;
use crate::cli::colour::Style;
use crate::cli::connection::Connection;
use crate::cli::name::Call;
use crate::cli::output::Output;
use crate::cli::{Failure, block_on, duration};
use crate::config::parse_duration;

/// How often KES looks unless told.
const RATE: Duration = Duration::from_secs(5);

/// The least time between two looks.
const LEAST_RATE: Duration = Duration::from_millis(100);

/// The arguments of `kms metric`.
#[derive(clap::Args)]
pub struct Args {
    /// Print them again after each such time; called as kes, every 5s unless told.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    rate: Option<Duration>,
    /// Print them as one object of JSON: the sum of each family.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Shows the metrics once, or until it is stopped.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    let output = call.output(args.json);
    output.live();
    if call.is_kes() {
        let rate = args.rate.unwrap_or(RATE);
        return block_on(async {
            // Ctrl-C is how one leaves, and no failure.
            tokio::select! {
                done = follow(&client, rate, output) => done,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })?;
    }
    loop {
        let metrics = parse(&block_on(read(&client))??);
        if output.is_json() {
            output.json(&metrics)?;
        } else {
            output.lines(metrics.iter().map(|(name, value)| format!("{name:<34} {value}")))?;
        }
        match args.rate {
            Some(rate) => std::thread::sleep(rate.max(LEAST_RATE)),
            None => return Ok(()),
        }
    }
}

async fn read(client: &Client) -> Result<String, Failure> {
    let answer = client.send(Method::GET, "/v1/metrics", None).await;
    let failed = |failure: Failure| failure.context("failed to fetch metrics");
    let answer = answer.map_err(|error| failed(error.into()))?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    if !parse(&text).keys().any(|family| family.starts_with("kes_")) {
        return Err(failed(Failure::new("there are none of a key server in the answer")));
    }
    Ok(text)
}

/// Shows them for ever as KES does: a line of JSON each time, and on a terminal a picture that changes.
async fn follow(client: &Client, rate: Duration, output: Output) -> Result<(), Failure> {
    let is_picture = output.is_terminal() && !output.is_json();
    let mut looks = tokio::time::interval(rate.max(LEAST_RATE));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<Metrics> = None;
    loop {
        looks.tick().await;
        let metrics = Metrics::parse(&read(client).await?);
        if !is_picture {
            output.json(&metrics)?;
            continue;
        }
        if before.is_some() {
            output.clear(PICTURE_LINES)?;
        }
        let since = before.map_or(metrics.requests(), |before| before.requests());
        metrics.draw(metrics.requests().saturating_sub(since), rate.max(LEAST_RATE), output)?;
        before = Some(metrics);
    }
}

/// The metrics of a server, by the names and in the order of KES's line of JSON.
#[derive(Serialize, Default, Debug, PartialEq)]
struct Metrics {
    #[serde(rename = "kes_http_request_success")]
    success: u64,
    #[serde(rename = "kes_http_request_error")]
    error: u64,
    #[serde(rename = "kes_http_request_failure")]
    failure: u64,
    #[serde(rename = "kes_http_request_active")]
    active: u64,
    #[serde(rename = "kes_log_audit_events")]
    audit_events: u64,
    #[serde(rename = "kes_log_error_events")]
    error_events: u64,
    /// How many requests took at most so many nanoseconds.
    #[serde(rename = "kes_http_response_time")]
    response_time: BTreeMap<String, u64>,
    /// In nanoseconds.
    #[serde(rename = "kes_system_up_time")]
    up_time: u64,
    #[serde(rename = "kes_system_num_cpu")]
    cpus: u64,
    #[serde(rename = "kes_system_num_cpu_used")]
    cpus_used: u64,
    #[serde(rename = "kes_system_num_threads")]
    threads: u64,
    #[serde(rename = "kes_system_mem_heap_used")]
    heap: u64,
    #[serde(rename = "kes_system_mem_heap_objects")]
    heap_objects: u64,
    #[serde(rename = "kes_system_mem_stack_used")]
    stack: u64,
    /// The mean time of a request, in nanoseconds.
    #[serde(skip)]
    latency: u64,
}

impl Metrics {
    fn parse(text: &str) -> Self {
        let sums = parse(text);
        let sum = |name: &str| sums.get(name).copied().unwrap_or_default();
        let count = |name: &str| whole(sum(name));
        let buckets = text.lines().filter_map(|line| {
            let (bound, value) =
                line.strip_prefix("kes_http_response_time_bucket{le=\"")?.split_once("\"} ")?;
            let bound = bound.parse::<f64>().ok().filter(|bound| bound.is_finite())?;
            Some((whole(bound * 1e9).to_string(), whole(value.trim().parse().ok()?)))
        });
        let requests = sum("kes_http_response_time_count").max(1.0);
        Self {
            success: count("kes_http_request_success"),
            error: count("kes_http_request_error"),
            failure: count("kes_http_request_failure"),
            active: count("kes_http_request_active"),
            audit_events: count("kes_log_audit_events"),
            error_events: count("kes_log_error_events"),
            response_time: buckets.collect(),
            up_time: whole(sum("kes_system_up_time").floor() * 1e9),
            cpus: count("kes_system_num_cpu"),
            cpus_used: count("kes_system_num_cpu_used"),
            threads: count("kes_system_num_threads"),
            heap: count("kes_system_mem_heap_used"),
            heap_objects: count("kes_system_mem_heap_objects"),
            stack: count("kes_system_mem_stack_used"),
            latency: whole(sum("kes_http_response_time_sum") / requests * 1e9),
        }
    }

    fn requests(&self) -> u64 {
        self.success + self.error + self.failure
    }

    /// Draws [`PICTURE_LINES`] lines for people; `new` requests came in the last `rate`.
    #[allow(clippy::cast_precision_loss, reason = "two decimals are shown")]
    fn draw(&self, new: u64, rate: Duration, output: Output) -> Result<(), Failure> {
        let all = self.requests().max(1) as f64;
        let share = |count: u64| format!("{:.2}%", count as f64 / all * 100.0);
        let rate = format!("{:.2}", new as f64 / rate.as_secs_f64());
        let latency = duration::short(self.latency);
        output.line("")?;
        output.row(&[(
            Style::Label,
            "Request    OK [2xx]       Err [4xx]       Err [5xx]      Req/s        Latency",
        )])?;
        output.row(&[
            (Style::Good, &format!("{:>19}", self.success)),
            (Style::Doubtful, &format!("{:>16}", self.error)),
            (Style::Bad, &format!("{:>16}", self.failure)),
            (Style::Plain, &format!("{rate:>11}{latency:>15}")),
        ])?;
        output.row(&[
            (Style::Good, &format!("{:>19}", share(self.success))),
            (Style::Doubtful, &format!("{:>16}", share(self.error))),
            (Style::Bad, &format!("{:>16}", share(self.failure))),
        ])?;
        output.line("")?;
        output.row(&[(
            Style::Label,
            "System       UpTime            Heap           Stack       CPUs        Threads",
        )])?;
        output.line(format_args!(
            "{:>19}{:>16}{:>16}{:>11}{:>15}",
            duration::short(self.up_time),
            status::bytes(self.heap),
            status::bytes(self.stack),
            self.cpus_used,
            self.threads
        ))?;
        output.line("")
    }
}

/// How many lines [`Metrics::draw`] draws.
const PICTURE_LINES: usize = 8;

/// Takes a sample that counts something; what is no such number is 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of floats saturates")]
fn whole(sample: f64) -> u64 {
    sample.round() as u64
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
    fn a_line_of_json_is_that_of_kes() {
        let text = "# HELP a b\nkes_http_request_success{code=\"200\"} 2\nkes_http_request_success{code=\"201\"} 3\n\
            kes_http_request_error{code=\"404\"} 1\nkes_http_response_time_bucket{le=\"0.01\"} 5\n\
            kes_http_response_time_bucket{le=\"1.5\"} 6\nkes_http_response_time_bucket{le=\"+Inf\"} 6\n\
            kes_http_response_time_sum 0.06\nkes_http_response_time_count 6\nkes_system_up_time 85.25\n\
            kes_system_mem_heap_used 5.613952e+06\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.latency, 10_000_000);
        let json = serde_json::to_string(&metrics).unwrap();
        let expected = r#"{"kes_http_request_success":5,"kes_http_request_error":1,"kes_http_request_failure":0,"kes_http_request_active":0,"kes_log_audit_events":0,"kes_log_error_events":0,"kes_http_response_time":{"10000000":5,"1500000000":6},"kes_system_up_time":85000000000,"kes_system_num_cpu":0,"kes_system_num_cpu_used":0,"kes_system_num_threads":0,"kes_system_mem_heap_used":5613952,"kes_system_mem_heap_objects":0,"kes_system_mem_stack_used":0}"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn samples_of_one_name_are_added_up() {
        let text = "# HELP a b\n# TYPE a counter\na{code=\"200\"} 2\na{code=\"201\"} 3\nb 1.5\n\
            h_bucket{le=\"1\"} 7\nh_sum 0.5\nh_count 7\n";
        let metrics = parse(text);
        let found: Vec<_> = metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(found, [("a", 5.0), ("b", 1.5), ("h_count", 7.0), ("h_sum", 0.5)]);
    }
}
