//! `kms status`: shows the status of a server.

use std::time::{Duration, Instant};

use http::Method;
use serde::{Deserialize, Serialize};

use crate::cli::client::{Client, parse};
use crate::cli::colour::Style;
use crate::cli::connection::AccessFlags;
use crate::cli::failure::Failure;
use crate::cli::format;
use crate::cli::name::Call;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;

/// The arguments of `kms status`. As with KES, `-s` is `--short` here.
#[derive(clap::Args)]
pub struct Args {
    /// Print only the line with the name of the server.
    #[arg(short, long)]
    short: bool,
    /// Print the routes of the server, too.
    #[arg(long)]
    api: bool,
    /// Print the server's answer as JSON.
    #[arg(long)]
    json: bool,
    /// Connect to this server instead of $KES_SERVER; of several, separated by commas, to the first that can be reached.
    #[arg(long, value_name = "HOST[:PORT]")]
    server: Option<String>,
    #[command(flatten)]
    access: AccessFlags,
}

/// The part of a server's answer that is printed for people.
#[derive(Deserialize)]
#[serde(default)]
struct Status {
    version: String,
    os: String,
    arch: String,
    uptime: u64,
    num_cpu: u64,
    num_cpu_used: u64,
    mem_heap_used: u64,
    mem_stack_used: u64,
    keystore_latency: u64,
    keystore_unreachable: bool,
    keystore_unavailable: bool,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            version: "unknown".to_owned(),
            os: "unknown".to_owned(),
            arch: String::new(),
            uptime: 0,
            num_cpu: 0,
            num_cpu_used: 0,
            mem_heap_used: 0,
            mem_stack_used: 0,
            keystore_latency: 0,
            keystore_unreachable: false,
            keystore_unavailable: false,
        }
    }
}

/// Requests the status of a server, and prints it.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let client = args.access.client(args.server.as_deref(), call)?;
    let output = call.output(args.json);
    let started = Instant::now();
    let answer = block_on(client.send(Method::GET, "/v1/status", None))??;
    let latency = started.elapsed();
    let routes: Vec<ApiRoute> =
        if args.api { block_on(client.json(Method::GET, "/v1/api", None))?? } else { Vec::new() };
    if output.is_json() && args.api {
        let json = serde_json::to_vec(&routes).map_err(|error| Failure::new(error.to_string()))?;
        return output.shown_json(&json);
    }
    if output.is_json() {
        return output.shown_json(&answer);
    }
    output.row(&[(Style::Good, "●"), (Style::Plain, " "), (Style::Name, &server_name(&client))])?;
    if !args.short {
        let status: Status = parse(&answer)?;
        print(&status, latency, output, call)?;
        let mut memory = memory(&status, call.is_kes());
        if !call.is_kes()
            && let Ok(Ok(metrics)) = block_on(client.send(Method::GET, "/metrics", None))
        {
            memory.push(("  · Keys  ", protection(&String::from_utf8_lossy(&metrics))));
        }
        if !memory.is_empty() {
            output.row(&[(Style::Label, "  Memory  ")])?;
        }
        print_lines(&memory, output)?;
    }
    if args.api {
        print_routes(&routes, output, call)?;
    }
    Ok(())
}

fn print(status: &Status, latency: Duration, output: Output, call: Call<'_>) -> Result<(), Failure> {
    let store = match (status.keystore_unreachable, status.keystore_unavailable) {
        (true, _) => "not reachable".to_owned(),
        (false, true) => "unavailable".to_owned(),
        // KES has no such line. So as `kes`, it is printed only if something is wrong.
        (false, false) if call.is_kes() => String::new(),
        (false, false) => format!("{}ms", status.keystore_latency),
    };
    let (cpus, up_time) = if call.is_kes() {
        (status.num_cpu_used, rounded_uptime(status.uptime))
    } else {
        (status.num_cpu, uptime(status.uptime))
    };
    let lines = [
        ("  Version ", status.version.clone()),
        ("  Uptime  ", up_time),
        ("  Latency ", format!("{}ms", latency.as_millis())),
        ("  Store   ", store),
        ("  OS      ", status.os.clone()),
        ("  CPUs    ", format!("{cpus} {}", status.arch)),
    ];
    print_lines(&lines, output)
}

/// Prints values behind their labels. A line without a value is left out.
fn print_lines(lines: &[(&str, String)], output: Output) -> Result<(), Failure> {
    for (label, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        output.row(&[(Style::Label, label), (Style::Plain, " "), (Style::Plain, value)])?;
    }
    Ok(())
}

/// Returns the figures of memory with their labels.
///
/// A server that does not know a figure sends 1, since KES's SDK takes 0 for an error. KES prints each.
fn memory(status: &Status, is_kes: bool) -> Vec<(&'static str, String)> {
    [("  · Heap  ", status.mem_heap_used), ("  · Stack ", status.mem_stack_used)]
        .into_iter()
        .filter(|(_, count)| is_kes || *count > 1)
        .map(|(label, count)| (label, format::bytes(count)))
        .collect()
}

/// Prints the routes in KES's table. As `kms`, it has the body limit, too.
fn print_routes(routes: &[ApiRoute], output: Output, call: Call<'_>) -> Result<(), Failure> {
    if call.is_kes() {
        output.line("")?;
        output.row(&[(Style::Label, &format!("  {:<7} {:<28} Timeout", "Method", "API"))])?;
    }
    for ApiRoute { method, path, max_body, timeout } in routes {
        if call.is_kes() {
            let timeout = if *timeout == 0 { "Inf".to_owned() } else { format!("{timeout}s") };
            output.line(format_args!("  {method:<7} {path:<28} {timeout}"))?;
        } else {
            let timeout = if *timeout == 0 { "none".to_owned() } else { format!("{timeout}s") };
            output
                .line(format_args!("  {method:<7} {path:<28} {:<8} {timeout}", format::bytes(*max_body)))?;
        }
    }
    Ok(())
}

/// A route in the answer of a server.
#[derive(Deserialize, Serialize)]
struct ApiRoute {
    method: String,
    path: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    max_body: u64,
    /// In seconds; 0 for no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    timeout: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Describes the protection of the server's memory by its metrics. Only clients that may read `/metrics` get these.
fn protection(metrics: &str) -> String {
    let holds = |family: &str| metrics.lines().any(|line| line == format!("{family} 1"));
    let locked = if holds("kms_memory_locked") || !holds("kms_master_keys_locked") {
        ("kms_memory_locked", "locked in memory")
    } else {
        ("kms_master_keys_locked", "locked in memory as far as they are master keys and the limit goes")
    };
    let parts = [
        locked,
        ("kms_core_dumps_off", "kept out of core dumps"),
        ("kms_memory_hidden", "hidden from other processes"),
    ];
    let told =
        parts.map(|(family, what)| if holds(family) { what.to_owned() } else { format!("NOT {what}") });
    told.join(", ")
}

/// Returns the name of the first server, as KES does. Scripts look for the name that they asked.
fn server_name(client: &Client) -> String {
    client.servers().into_iter().next().unwrap_or_default()
}

/// Formats an uptime as KES does: in one rounded unit, and from one day on in days and hours.
fn rounded_uptime(seconds: u64) -> String {
    match seconds {
        0..=60 => format!("{seconds} seconds"),
        61..=3_600 => format!("{} minutes", (seconds + 30) / 60),
        3_601..=86_400 => format!("{} hours", (seconds + 1_800) / 3_600),
        _ => format!("{} days {} hours", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Formats an uptime in two units.
fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} seconds"),
        (0, 0, _) => format!("{minutes} minutes {} seconds", seconds % 60),
        (0, ..) => format!("{hours} hours {minutes} minutes"),
        _ => format!("{days} days {hours} hours"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_the_server_does_not_know_is_not_told() {
        let status =
            |mem_heap_used, mem_stack_used| Status { mem_heap_used, mem_stack_used, ..Status::default() };
        let lines = |status: &Status, is_kes| {
            memory(status, is_kes).iter().map(|(label, bytes)| format!("{label}{bytes}")).collect::<Vec<_>>()
        };
        let known = status(2_500_000, 135_200);
        assert_eq!(lines(&known, false), ["  · Heap  2.5MB", "  · Stack 135.2KB"]);
        assert_eq!(lines(&known, true), lines(&known, false));
        assert!(lines(&status(1, 1), false).is_empty() && lines(&status(0, 0), false).is_empty());
        assert_eq!(lines(&status(1, 1), true), ["  · Heap  1.0B", "  · Stack 1.0B"]);
    }
}
