//! The error log: warnings and errors on stderr, and as a stream for `/v1/log/error`.

use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hyper::body::Bytes;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::stream::Hub;

static HUB: Hub = Hub::new();
static EVENTS: AtomicU64 = AtomicU64::new(0);
static IS_SILENT: AtomicBool = AtomicBool::new(false);

/// Lends the stream of the process's warnings and errors: a JSON object `{"message"}` a line.
pub fn hub() -> &'static Hub {
    &HUB
}

/// Returns how many warnings and errors there were.
pub fn events() -> u64 {
    EVENTS.load(Ordering::Relaxed)
}

/// Keeps the log off the process's own output, or on it.
pub fn set_silent(silent: bool) {
    IS_SILENT.store(silent, Ordering::Relaxed);
}

/// Opens the process's own output for a line of the log: stderr, or nothing.
pub fn output() -> Box<dyn io::Write> {
    if IS_SILENT.load(Ordering::Relaxed) { Box::new(io::sink()) } else { Box::new(io::stderr()) }
}

/// Sends warnings and errors to the readers of the stream.
pub struct StreamLayer;

impl<S: Subscriber> Layer<S> for StreamLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() > Level::WARN {
            return;
        }
        EVENTS.fetch_add(1, Ordering::Relaxed);
        if !HUB.has_readers() {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let message = format!("{}{}", text.message, text.fields);
        let line = serde_json::json!({ "message": message }).to_string() + "\n";
        HUB.send(&Bytes::from(line));
    }
}

/// An event as one line: its message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn warnings_and_errors_are_one_line_of_json_each() {
        let mut reader = HUB.subscribe(|| true).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(StreamLayer), || {
            tracing::info!("not this");
            tracing::warn!(path = "/a\"b", code = 7, "first {}", "line\nbreak");
            tracing::error!("second");
        });
        assert_eq!(
            reader.try_recv().unwrap(),
            "{\"message\":\"first line\\nbreak path=\\\"/a\\\\\\\"b\\\" code=7\"}\n"
        );
        assert_eq!(reader.try_recv().unwrap(), "{\"message\":\"second\"}\n");
        assert!(reader.try_recv().is_err());
        assert!(events() >= 2);
    }
}
