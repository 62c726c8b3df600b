//! `kms status`.

use std::time::Instant;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connection::Access;
use super::{Failure, Output, block_on};
use crate::client::Client;
use crate::config::Environment;

/// The arguments of `kms status`. As with KES, `-s` is `--short` here.
#[derive(clap::Args)]
pub struct Args {
    /// Print one line a server.
    #[arg(short, long)]
    short: bool,
    /// Tell the routes of the server, too.
    #[arg(long)]
    api: bool,
    /// Print the server's answer as JSON.
    #[arg(long)]
    json: bool,
    /// Use this server instead of $KES_SERVER.
    #[arg(long, value_name = "HOST[:PORT]")]
    server: Option<String>,
    #[command(flatten)]
    access: Access,
}

/// The part of a server's answer that people read.
#[derive(Deserialize)]
#[serde(default)]
struct Status {
    version: String,
    os: String,
    arch: String,
    uptime: u64,
    num_cpu: u64,
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
            mem_heap_used: 0,
            mem_stack_used: 0,
            keystore_latency: 0,
            keystore_unreachable: false,
            keystore_unavailable: false,
        }
    }
}

/// Asks a server how it is.
pub fn run(args: &Args, environment: &Environment) -> Result<(), Failure> {
    let client = args.access.client(args.server.as_deref(), environment)?;
    let output = Output::new(args.json);
    let started = Instant::now();
    let answer = block_on(client.send(Method::GET, "/v1/status", None))??;
    let latency = started.elapsed();
    let routes: Vec<ApiRoute> =
        if args.api { block_on(client.json(Method::GET, "/v1/api", None))?? } else { Vec::new() };
    if output.is_json() && args.api {
        let mut status: Value = serde_json::from_slice(&answer).unwrap_or_default();
        status["api"] = json!(routes);
        return output.json(&status);
    }
    if output.is_json() {
        return output.received_json(&answer);
    }
    if args.short {
        return output.good(server_name(&client));
    }
    let status: Status = serde_json::from_slice(&answer)
        .map_err(|error| Failure::new(format!("the server's answer: {error}")))?;
    let key_store = match (status.keystore_unreachable, status.keystore_unavailable) {
        (true, _) => "not reachable".to_owned(),
        (false, true) => "unavailable".to_owned(),
        (false, false) => format!("{}ms", status.keystore_latency),
    };
    output.good(server_name(&client))?;
    output.lines([
        format_args!("  Version  {}", status.version),
        format_args!("  Uptime   {}", uptime(status.uptime)),
        format_args!("  Latency  {}ms", latency.as_millis()),
        format_args!("  Store    {key_store}"),
        format_args!("  OS       {}", status.os),
        format_args!("  CPUs     {} {}", status.num_cpu, status.arch),
        format_args!("  Memory"),
        format_args!("  · Heap   {}", bytes(status.mem_heap_used)),
        format_args!("  · Stack  {}", bytes(status.mem_stack_used)),
    ])?;
    if let Ok(Ok(metrics)) = block_on(client.send(Method::GET, "/metrics", None)) {
        output.line(format_args!("  · Keys   {}", protection(&String::from_utf8_lossy(&metrics))))?;
    }
    for ApiRoute { method, path, max_body, timeout } in routes {
        let timeout = if timeout == 0 { "none".to_owned() } else { format!("{timeout}s") };
        output.line(format_args!("  {method:<7} {path:<28} {:<8} {timeout}", bytes(max_body)))?;
    }
    Ok(())
}

/// A route as a server lists it.
#[derive(Deserialize, Serialize)]
struct ApiRoute {
    method: String,
    path: String,
    #[serde(default)]
    max_body: u64,
    /// In seconds; 0 for no end.
    #[serde(default)]
    timeout: u64,
}

/// Tells what keeps others from reading the server's memory, for whom may see all metrics.
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

fn server_name(client: &Client) -> String {
    client.servers().join(",")
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} seconds"),
        (0, 0, _) => format!("{minutes} minutes {} seconds", seconds % 60),
        (0, ..) => format!("{hours} hours {minutes} minutes"),
        _ => format!("{days} days {hours} hours"),
    }
}

fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // one decimal is shown
    let count_f = count as f64;
    match count {
        0..1_000 => format!("{count}B"),
        1_000..1_000_000 => format!("{:.1}KB", count_f / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}MB", count_f / 1e6),
        _ => format!("{:.1}GB", count_f / 1e9),
    }
}
