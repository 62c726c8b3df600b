//! `kms log`: shows the errors or the requests of a server as they happen.

mod event;

use std::cell::Cell;

use self::event::{Event, message_of, print_titles};
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;

/// The arguments of `kms log`.
#[derive(clap::Args)]
pub struct Args {
    /// The word `trace`, as in 2020.
    #[arg(hide = true, value_parser = ["trace"])]
    former: Option<String>,
    /// The log to show, as in 2020.
    #[arg(long = "type", hide = true, requires = "former", value_parser = ["audit", "error"], conflicts_with_all = ["audit", "error"])]
    kind: Option<String>,
    /// Show requests [default when called as kes].
    #[arg(long, conflicts_with = "error")]
    audit: bool,
    /// Show errors [default when called as kms].
    #[arg(long)]
    error: bool,
    /// Print the events as the server sends them: one line of JSON each.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Prints events until the server or the reader goes away.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    let output = call.output(args.json);
    Output::write_at_once();
    let is_audit = match args.kind.as_deref() {
        Some(kind) => kind == "audit",
        None => args.audit || (call.is_kes() && !args.error),
    };
    let path = if is_audit { "/v1/log/audit" } else { "/v1/log/error" };
    // Into a pipe, `kes log trace` of 2020 printed JSON, as `kms log` does. `kes log` prints text.
    let is_text = call.is_kes() && args.former.is_none();
    let as_sent = output.is_json() || (!is_text && !output.is_terminal());
    let as_kes = call.is_kes() && is_audit && !as_sent;
    let is_open = Cell::new(false);
    let lines = async {
        let begin = || {
            is_open.set(true);
            if as_kes { print_titles(output) } else { Ok(()) }
        };
        let show = |line: &str| match Event::parse(line) {
            _ if as_sent => output.received_json(line.as_bytes()),
            _ if !is_audit => output.line(message_of(line).as_deref().unwrap_or(line)),
            Some(event) if as_kes => event.print_row(output),
            Some(event) => output.line(event),
            None => output.line(line),
        };
        client.lines(path, begin, show).await.map_err(|failure| {
            // KES calls both logs the error log here.
            let is_prefixed = call.is_kes() && !is_open.get();
            if is_prefixed { failure.context("failed to connect to error log") } else { failure }
        })
    };
    block_on(async {
        if !call.is_kes() {
            return lines.await;
        }
        // Users leave with Ctrl-C, so it is no failure.
        tokio::select! {
            done = lines => done,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })?
}
