//! The events of a server's logs.

use std::fmt;

use serde::Deserialize;

use crate::cli::colour::Style;
use crate::cli::failure::Failure;
use crate::cli::format;
use crate::cli::output::Output;

/// Returns the message of a line of the error log.
pub fn message_of(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        message: String,
    }
    Some(serde_json::from_str::<Event>(line).ok()?.message)
}

/// An event of the audit log: a request, or the number of requests that were left out.
#[derive(Deserialize)]
pub struct Event {
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
    /// Parses a line of the audit log.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }

    /// Prints the event in KES's columns. The last one is the time that the request took.
    pub fn print_row(&self, output: Output) -> Result<(), Failure> {
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
            (Style::Plain, &format::duration(self.response.time)),
        ])
    }
}

/// Prints the titles of the columns of [`Event::print_row`].
pub fn print_titles(output: Output) -> Result<(), Failure> {
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
        let text = Event::parse(line).unwrap().to_string();
        for part in ["2026-01-02T03:04:05Z", "200", "0123456789ab ", "127.0.0.1", "1500µs", "/v1/status"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("not sent"), "{text}");
        let line = line.replace("1500000}", "1500000,\"sent\":false}");
        assert!(Event::parse(&line).unwrap().to_string().ends_with("/v1/status  (not sent)"));
        assert!(Event::parse("{}").is_none());
    }

    #[test]
    fn what_is_left_out_is_told_in_words() {
        let line = r#"{"time":"t","request":{"ip":"0.0.0.0","path":"","identity":""},"response":{"code":0,"time":0},"left_out":{"strangers":3,"lost":0,"refused":1}}"#;
        let text = Event::parse(line).unwrap().to_string();
        assert_eq!(text, "t  without a line: requests 3 of identities without a policy, 1 refused");
    }

    #[test]
    fn a_path_forges_no_line_and_clears_no_screen() {
        let line = "{\"time\":\"t\",\"request\":{\"path\":\"/a\\u001b[2J\\nforged\u{9b}2J\"},\"response\":{\"code\":404}}";
        let shown = crate::text::terminal::Escaped(Event::parse(line).unwrap()).to_string();
        assert!(shown.ends_with(r"/a\u{1b}[2J\nforged\u{9b}2J"), "{shown}");
    }
}
