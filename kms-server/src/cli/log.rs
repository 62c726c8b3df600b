//! `kms log`: errors or requests of a server, as they happen.

use serde::Deserialize;

use super::connection::Connection;
use super::{Failure, Output, block_on};
use crate::config::Environment;

/// The arguments of `kms log`.
#[derive(clap::Args)]
pub struct Args {
    /// `trace`, as releases before 0.14 called the error log.
    #[arg(hide = true, value_parser = ["trace"])]
    former: Option<String>,
    /// Show requests.
    #[arg(long, conflicts_with = "error")]
    audit: bool,
    /// Show errors; this is so unless told.
    #[arg(long)]
    error: bool,
    /// Print the events as the server sends them: one line of JSON each.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Shows events until the server or the reader ends.
pub fn run(args: &Args, environment: &Environment) -> Result<(), Failure> {
    let client = args.connection.client(environment)?;
    let output = Output::new(args.json);
    let path = if args.audit { "/v1/log/audit" } else { "/v1/log/error" };
    block_on(client.lines(path, |line| {
        if output.is_json() || !output.is_terminal() {
            return output.received_json(line.as_bytes());
        }
        let text = if args.audit { request(line) } else { error(line) };
        output.line(text.as_deref().unwrap_or(line))
    }))?
}

fn error(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        message: String,
    }
    Some(serde_json::from_str::<Event>(line).ok()?.message)
}

fn request(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        time: String,
        request: Request,
        response: Response,
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
    let Event { time, request, response } = serde_json::from_str(line).ok()?;
    let identity = request.identity.get(..12).unwrap_or("-");
    let micros = response.time / 1000;
    let sent = if response.sent { "" } else { "  (not sent)" };
    Some(format!(
        "{time}  {}  {identity:<12}  {:<15}  {micros:>8}µs  {}{sent}",
        response.code, request.ip, request.path
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line() {
        let line = r#"{"time":"2026-01-02T03:04:05Z","request":{"ip":"127.0.0.1","path":"/v1/status","identity":"0123456789abcdef"},"response":{"code":200,"time":1500000}}"#;
        let text = request(line).unwrap();
        for part in ["2026-01-02T03:04:05Z", "200", "0123456789ab ", "127.0.0.1", "1500µs", "/v1/status"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("not sent"), "{text}");
        let line = line.replace("1500000}", "1500000,\"sent\":false}");
        assert!(request(&line).unwrap().ends_with("/v1/status  (not sent)"));
        assert_eq!(request("{}"), None);
    }

    #[test]
    fn a_path_forges_no_line_and_clears_no_screen() {
        let line = "{\"time\":\"t\",\"request\":{\"path\":\"/a\\u001b[2J\\nforged\u{9b}2J\"},\"response\":{\"code\":404}}";
        let shown = crate::terminal::Escaped(request(line).unwrap()).to_string();
        assert!(shown.ends_with(r"/a\u{1b}[2J\nforged\u{9b}2J"), "{shown}");
    }
}
