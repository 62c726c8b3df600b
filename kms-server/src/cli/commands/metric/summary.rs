//! The summary that KES prints of a server's metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::cli::colour::Style;
use crate::cli::failure::Failure;
use crate::cli::format;
use crate::cli::output::Output;
use crate::cli::samples::sums;

/// The number of lines that [`Summary::print`] prints.
pub const LINES: usize = 8;

/// A summary of a server's metrics, with the names and the order of KES's line of JSON.
#[derive(Serialize, Default, Debug, PartialEq)]
pub struct Summary {
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
    /// The number of requests that took at most so many nanoseconds.
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

impl Summary {
    /// Computes the summary from Prometheus's text format.
    pub fn parse(text: &str) -> Self {
        let sums = sums(text);
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

    /// Returns the number of requests.
    pub fn requests(&self) -> u64 {
        self.success + self.error + self.failure
    }

    /// Prints [`LINES`] lines for people. `new` is the number of requests in the last `rate`.
    #[allow(clippy::cast_precision_loss, reason = "two decimals are shown")]
    pub fn print(&self, new: u64, rate: Duration, output: Output) -> Result<(), Failure> {
        let all = self.requests().max(1) as f64;
        let share = |count: u64| format!("{:.2}%", count as f64 / all * 100.0);
        let rate = format!("{:.2}", new as f64 / rate.as_secs_f64());
        let latency = format::duration(self.latency);
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
            format::duration(self.up_time),
            format::bytes(self.heap),
            format::bytes(self.stack),
            self.cpus_used,
            self.threads
        ))?;
        output.line("")
    }
}

/// Converts a sample to a whole number. A sample that is negative or not a number becomes 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of floats saturates")]
fn whole(sample: f64) -> u64 {
    sample.round() as u64
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
        let metrics = Summary::parse(text);
        assert_eq!(metrics.latency, 10_000_000);
        let json = serde_json::to_string(&metrics).unwrap();
        let expected = r#"{"kes_http_request_success":5,"kes_http_request_error":1,"kes_http_request_failure":0,"kes_http_request_active":0,"kes_log_audit_events":0,"kes_log_error_events":0,"kes_http_response_time":{"10000000":5,"1500000000":6},"kes_system_up_time":85000000000,"kes_system_num_cpu":0,"kes_system_num_cpu_used":0,"kes_system_num_threads":0,"kes_system_mem_heap_used":5613952,"kes_system_mem_heap_objects":0,"kes_system_mem_stack_used":0}"#;
        assert_eq!(json, expected);
    }
}
