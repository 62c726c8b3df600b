//! The two forms of a line: text for people, and JSON for programs.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::ser::Formatter;
use tracing::Level;

use super::merge::Line;
use super::parts::Parts;
use crate::json::{self, Displayed};
use crate::settings::LogFormat;
use crate::text::terminal;

/// Returns a line in the wanted form, with its line end.
pub fn written(line: &Line, format: LogFormat, coloured: bool) -> String {
    let Line { level, text, parts, .. } = line;
    let now = Timestamp::now();
    if format == LogFormat::Json {
        let parts = parts.clone().unwrap_or_else(|| Parts::of_log(text));
        let mut out = Vec::with_capacity(256);
        json::push_with(&mut out, LogJson, &JsonLine { time: Displayed(now), level: name(*level), parts });
        out.push(b'\n');
        return String::from_utf8_lossy(&out).into_owned();
    }
    let colour = match *level {
        Level::ERROR => 31,
        Level::WARN => 33,
        _ => 32,
    };
    if coloured {
        format!("\x1b[2m{now:.6}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m {text}\n")
    } else {
        format!("{now:.6} {level:>5} {text}\n")
    }
}

#[derive(Serialize)]
struct JsonLine {
    time: Displayed<Timestamp>,
    level: &'static str,
    #[serde(flatten)]
    parts: Parts,
}

fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        _ => "trace",
    }
}

/// JSON that a terminal shows, as operators view it there, too.
struct LogJson;

impl Formatter for LogJson {
    fn write_string_fragment<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> std::io::Result<()> {
        json::write_escaped(writer, fragment, terminal::is_obeyed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_those_who_want_them() {
        let line = Line { level: Level::WARN, text: "x".to_owned(), parts: None, of_client: false };
        assert!(written(&line, LogFormat::Text, true).contains("\x1b[33m WARN\x1b[0m x\n"));
        assert!(written(&line, LogFormat::Text, false).ends_with("Z  WARN x\n"));
        assert!(!written(&line, LogFormat::Json, true).contains('\x1b'));
    }
}
