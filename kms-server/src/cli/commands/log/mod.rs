//! `kms log`: errors or requests of a server, as they happen.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize;

use crate::cli::colour::Style;
use crate::cli::connection::Connection;
use crate::cli::name::Call;
use crate::cli::output::Output;
use crate::cli::{Failure, block_on, duration};

/// The arguments of `kms log`.
#[derive(clap::Args)]
pub struct Args {
    /// `trace`, as in 2020.
    #[arg(hide = true, value_parser = ["trace"])]
    former: Option<String>,
    /// What to show, as it was told in 2020.
    #[arg(long = "type", hide = true, requires = "former", value_parser = ["audit", "error"], conflicts_with_all = ["audit", "error"])]
    kind: Option<String>,
    /// Show requests; called as kes, this is so unless told.
    #[arg(long, conflicts_with = "error")]
    audit: bool,
    /// Show errors; called as kms, this is so unless told.
    #[arg(long)]
    error: bool,
    /// Print the events as the server sends them: one line of JSON each.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Shows events until the server or the reader ends.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    let output = call.output(args.json);
    output.live();
    let is_audit = match args.kind.as_deref() {
        Some(kind) => kind == "audit",
        None => args.audit || (call.is_kes() && !args.error),
    };
    let path = if is_audit { "/v1/log/audit" } else { "/v1/log/error" };
    // `log trace` printed JSON into a pipe, as `kms` does.
    let is_text = call.is_kes() && args.former.is_none();
    let as_sent = output.is_json() || (!is_text && !output.is_terminal());
    let as_kes = call.is_kes() && is_audit && !as_sent;
    let is_open = Cell::new(false);
    let lines = async {
        let begin = || {
            is_open.set(true);
            if as_kes { print_titles(output) } else { Ok(()) }
        };
        let show = |line: &str| match event(line) {
            _ if as_sent => output.received_json(line.as_bytes()),
            _ if !is_audit => output.line(error(line).as_deref().unwrap_or(line)),
            Some(event) if as_kes => event.print_row(output),
            Some(event) => output.line(event),
            None => output.line(line),
        };
        client.lines(path, begin, show).await.map_err(|failure| {
            // KES calls either log so.
            let is_prefixed = call.is_kes() && !is_open.get();
            if is_prefixed { failure.context("failed to connect to error log") } else { failure }
        })
    };
    block_on(async {
        if !call.is_kes() {
            return lines.await;
        }
        // Ctrl-C is how one leaves, and no failure.
        tokio::select! {
            done = lines => done,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })?
}

fn error(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        message: String,
    }
    Some(serde_json::from_str::<Event>(line).ok()?.message)
}

fn event(line: &str) -> Option<Event> {
    serde_json::from_str(line).ok()
}

/// A request, or what the log says of requests that have no line.
#[derive(Deserialize)]
struct Event {
    time: String,
    request: Request,
    response: Response,
    left_out: Option<LeftOut>,
}

#[derive(Deserialize)]
struct LeftOut {
    strangers: u64,
    lost: u64,
    refused: u64,
}

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    ip: String,
    path: String,
    #[serde(default)]
    identity: String,
}

#[derive(Deserialize)]
struct Response {
    code: u16,
    #[serde(default)]
    time: u64,
    #[serde(default = "yes")]
    sent: bool,
}

fn yes() -> bool {
    true
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { strangers, lost, refused } = *self;
        let counts =
            [(strangers, "of identities without a policy"), (lost, "that are lost"), (refused, "refused")];
        let counts = counts.into_iter().filter(|(count, _)| *count != 0);
        let told: Vec<_> = counts.map(|(count, which)| format!("{count} {which}")).collect();
        write!(f, "without a line: requests {}", told.join(", "))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, request, response, left_out } = self;
        if let Some(left_out) = left_out {
            return write!(f, "{time}  {left_out}");
        }
        let identity = request.identity.get(..12).unwrap_or("-");
        let micros = response.time / 1000;
        let sent = if response.sent { "" } else { "  (not sent)" };
        write!(
            f,
            "{time}  {}  {identity:<12}  {:<15}  {micros:>8}µs  {}{sent}",
            response.code, request.ip, request.path
        )
    }
}

impl Event {
    /// Prints it as KES does, in columns of which the last is the time that the request took.
    fn print_row(&self, output: Output) -> Result<(), Failure> {
        let time = self.time.parse::<jiff::Timestamp>();
        let time = time.map_or_else(|_| self.time.clone(), |time| time.strftime("%H:%M:%S").to_string());
        let code = self.response.code.to_string();
        let status = if (200..300).contains(&self.response.code) { Style::Good } else { Style::Bad };
        let identity = &self.request.identity;
        let identity = identity.get(..20).unwrap_or(identity);
        let ip = if self.request.ip.is_empty() { "<unknown>" } else { &self.request.ip };
        let left_out = self.left_out.as_ref().map(ToString::to_string);
        let path = left_out.as_ref().unwrap_or(&self.request.path);
        output.row(&[
            (Style::Plain, &time),
            (Style::Plain, "    "),
            (status, &code),
            (Style::Plain, &" ".repeat(10_usize.saturating_sub(code.len()))),
            (Style::Plain, &format!("{identity:<20}    {ip:<15}    ")),
            (Style::Path, path),
            (Style::Plain, &" ".repeat(30_usize.saturating_sub(path.chars().count()) + 4)),
            (Style::Plain, &duration::short(self.response.time)),
        ])
    }
}

/// Prints what stands over the columns of [`Event::print_row`].
fn print_titles(output: Output) -> Result<(), Failure> {
    output.row(&[(
        Style::Header,
        &format!(
            "{:<8}    {:<6}    {:<20}    {:<15}    {:<30}    Latency",
            "Time", "Status", "Identity", "IP", "API"
        ),
    )])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line() {
        let line = r#"{"time":"2026-01-02T03:04:05Z","request":{"ip":"127.0.0.1","path":"/v1/status","identity":"0123456789abcdef"},"response":{"code":200,"time":1500000}}"#;
        let text = event(line).unwrap().to_string();
        for part in ["2026-01-02T03:04:05Z", "200", "0123456789ab ", "127.0.0.1", "1500µs", "/v1/status"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("not sent"), "{text}");
        let line = line.replace("1500000}", "1500000,\"sent\":false}");
        assert!(event(&line).unwrap().to_string().ends_with("/v1/status  (not sent)"));
        assert!(event("{}").is_none());
    }

    #[test]
    fn what_is_left_out_is_told_in_words() {
        let line = r#"{"time":"t","request":{"ip":"0.0.0.0","path":"","identity":""},"response":{"code":0,"time":0},"left_out":{"strangers":3,"lost":0,"refused":1}}"#;
        let text = event(line).unwrap().to_string();
        assert_eq!(text, "t  without a line: requests 3 of identities without a policy, 1 refused");
    }

    #[test]
    fn a_path_forges_no_line_and_clears_no_screen() {
        let line = "{\"time\":\"t\",\"request\":{\"path\":\"/a\\u001b[2J\\nforged\u{9b}2J\"},\"response\":{\"code\":404}}";
        let shown = crate::text::terminal::Escaped(event(line).unwrap()).to_string();
        assert!(shown.ends_with(r"/a\u{1b}[2J\nforged\u{9b}2J"), "{shown}");
    }
}
