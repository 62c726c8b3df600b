//! `kms metric`: shows the metrics of a server.

mod summary;

use std::time::Duration;

use http::Method;
use tokio::time::MissedTickBehavior;

use self::summary::{LINES, Summary};
use crate::cli::client::Client;
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;
use crate::cli::samples::sums;
use crate::config::parse_duration;

/// The default of KES for `--rate`.
const RATE: Duration = Duration::from_secs(5);

/// The least time between two requests.
const LEAST_RATE: Duration = Duration::from_millis(100);

/// The arguments of `kms metric`.
#[derive(clap::Args)]
pub struct Args {
    /// Print the metrics each time that this duration is over, instead of once [default when called as kes: 5s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    rate: Option<Duration>,
    /// Print the metrics as one JSON object, with the sum of each family.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Prints the metrics once, or again and again until the user stops it.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    let output = call.output(args.json);
    Output::write_at_once();
    if call.is_kes() {
        let rate = args.rate.unwrap_or(RATE);
        return block_on(async {
            // Users leave with Ctrl-C, so it is no failure.
            tokio::select! {
                done = follow(&client, rate, output) => done,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })?;
    }
    loop {
        let metrics = sums(&block_on(read(&client))??);
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

/// Reads the metrics of a server in Prometheus's text format.
async fn read(client: &Client) -> Result<String, Failure> {
    let answer = client.send(Method::GET, "/v1/metrics", None).await;
    let failed = |failure: Failure| failure.context("failed to fetch metrics");
    let answer = answer.map_err(|error| failed(error.into()))?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    if !sums(&text).keys().any(|family| family.starts_with("kes_")) {
        return Err(failed(Failure::new("there are none of a key server in the answer")));
    }
    Ok(text)
}

/// Prints the metrics for ever, as KES does: on a terminal a table that changes in place, and elsewhere lines of JSON.
async fn follow(client: &Client, rate: Duration, output: Output) -> Result<(), Failure> {
    let is_table = output.is_terminal() && !output.is_json();
    let mut interval = tokio::time::interval(rate.max(LEAST_RATE));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<Summary> = None;
    loop {
        interval.tick().await;
        let summary = Summary::parse(&read(client).await?);
        if !is_table {
            output.json(&summary)?;
            continue;
        }
        if before.is_some() {
            output.clear(LINES)?;
        }
        let since = before.map_or(summary.requests(), |before| before.requests());
        summary.print(summary.requests().saturating_sub(since), rate.max(LEAST_RATE), output)?;
        before = Some(summary);
    }
}
