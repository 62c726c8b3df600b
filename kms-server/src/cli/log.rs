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
    let Event { time, request, response, left_out } = serde_json::from_str(line).ok()?;
    if let Some(LeftOut { strangers, lost, refused }) = left_out {
        let counts =
            [(strangers, "of identities without a policy"), (lost, "that are lost"), (refused, "refused")];
        let counts = counts.into_iter().filter(|(count, _)| *count != 0);
        let told: Vec<_> = counts.map(|(count, which)| format!("{count} {which}")).collect();
        return Some(format!("{time}  without a line: requests {}", told.join(", ")));
    }
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
    fn what_is_left_out_is_told_in_words() {
        let line = r#"{"time":"t","request":{"ip":"0.0.0.0","path":"","identity":""},"response":{"code":0,"time":0},"left_out":{"strangers":3,"lost":0,"refused":1}}"#;
        let text = request(line).unwrap();
        assert_eq!(text, "t  without a line: requests 3 of identities without a policy, 1 refused");
    }

    #[test]
    fn a_path_forges_no_line_and_clears_no_screen() {
        let line = "{\"time\":\"t\",\"request\":{\"path\":\"/a\\u001b[2J\\nforged\u{9b}2J\"},\"response\":{\"code\":404}}";
        let shown = crate::terminal::Escaped(request(line).unwrap()).to_string();
        assert!(shown.ends_with(r"/a\u{1b}[2J\nforged\u{9b}2J"), "{shown}");
    }
}
