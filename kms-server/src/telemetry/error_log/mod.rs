//! The error log: on stderr, and its warnings and errors for the readers of `/v1/log/error`.
//!
//! Whoever logs never waits for a reader (`sink.rs`, [`Hub`]). No line can control a terminal or be endless (`text.rs`).
//! Equal lines are merged into a number (`merge.rs`).

mod form;
mod merge;
mod parts;
mod sink;
mod text;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use kms_core::Identity;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use self::merge::{Line, Merge, Repeated};
use self::sink::Sink;
use self::text::Text;
use super::hub::Hub;
use crate::settings::{ErrorLevel, LogFormat};

/// The time between two looks for merged lines that are due.
const TICK: Duration = Duration::from_secs(1);

static HUB: Hub = Hub::new();
static STDERR: Sink = Sink::new();
static TO_STDERR: OnceLock<Lines> = OnceLock::new();
static TO_READERS: OnceLock<Lines> = OnceLock::new();
static EVENTS: AtomicU64 = AtomicU64::new(0);
/// The least level of events for stderr: none 0, errors 1, warnings 2, all 3.
static LEAST: AtomicU8 = AtomicU8::new(ALL);
const ALL: u8 = 3;
static IS_JSON: AtomicBool = AtomicBool::new(false);
static IS_COLOURED: AtomicBool = AtomicBool::new(false);

/// Returns the hub of the process's warnings and errors. Each line is a JSON object `{"message"}`.
pub fn hub() -> &'static Hub {
    &HUB
}

/// Returns the number of warnings and errors so far.
pub fn events() -> u64 {
    EVENTS.load(Ordering::Relaxed)
}

/// Keeps events below this level off the process's own output. `None` keeps all of them off.
pub fn set_least(least: Option<ErrorLevel>) {
    let least = match least {
        None => 0,
        Some(ErrorLevel::Error) => 1,
        Some(ErrorLevel::Warn) => 2,
        Some(ErrorLevel::All) => ALL,
    };
    LEAST.store(least, Ordering::Relaxed);
}

/// Sets the form of the lines on the process's own output. Readers of the log always get JSON.
pub fn set_format(format: LogFormat) {
    IS_JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

/// Returns the form of the lines on the process's own output.
pub fn format() -> LogFormat {
    if IS_JSON.load(Ordering::Relaxed) { LogFormat::Json } else { LogFormat::Text }
}

/// Returns whether events of this level go to the process's own output.
fn is_told(level: Level) -> bool {
    let least = match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        _ => ALL,
    };
    least <= LEAST.load(Ordering::Relaxed)
}

/// Starts the thread that writes to stderr, in colours if they are wanted.
pub fn start(coloured: bool) -> io::Result<()> {
    IS_COLOURED.store(coloured, Ordering::Relaxed);
    let run = || STDERR.run(io::stderr(), TICK, note, || tell_repeated(|merge| merge.due(Instant::now())));
    std::thread::Builder::new().name("log".to_owned()).spawn(run).map(drop)
}

/// Writes all waiting lines before the process ends, for at most `patience`. Returns false if stderr does not take them.
pub fn end(patience: Duration) -> bool {
    tell_repeated(|merge| merge.end(Instant::now()));
    STDERR.drain(patience)
}

fn tell_repeated(take: impl Fn(&mut Merge) -> Vec<Repeated>) {
    for lines in [&TO_STDERR, &TO_READERS].into_iter().filter_map(OnceLock::get) {
        let repeated = take(&mut lines.merge.lock().unwrap_or_else(PoisonError::into_inner));
        for Repeated { line: Line { level, text, parts, .. }, more, seconds } in repeated {
            let times = if more == 1 { "time" } else { "times" };
            let text = format!("{text} ({more} more {times} in {seconds} s)");
            let parts = parts.map(|parts| parts.repeated(more, seconds));
            (lines.out)(&Line { level, text, parts, of_client: true });
        }
    }
}

/// Returns the layer that sends events to stderr.
pub fn stderr_layer() -> &'static Lines {
    TO_STDERR.get_or_init(|| Lines { merge: Mutex::default(), counts: false, out: write_line })
}

/// Returns the layer that sends warnings and errors to the readers of the log, and counts them.
pub fn readers_layer() -> &'static Lines {
    TO_READERS.get_or_init(|| Lines { merge: Mutex::default(), counts: true, out: send_line })
}

/// Returns the line about lines that are left out.
fn note(count: u64) -> String {
    let text = sink::left_out(count);
    form::written(&Line { level: Level::WARN, text, parts: None, of_client: false }, format(), false)
}

/// Turns events into lines.
pub struct Lines {
    merge: Mutex<Merge>,
    counts: bool,
    out: fn(&Line),
}

impl Lines {
    fn take(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        if self.counts {
            EVENTS.fetch_add(1, Ordering::Relaxed);
            if !HUB.has_readers() {
                return;
            }
        } else if !is_told(level) {
            return;
        }
        let text = Text::of(event);
        let key = text.key();
        let (whole, of_client) = (text.line(), text.is_of_client());
        let wants_parts = !self.counts && format() == LogFormat::Json;
        let parts = wants_parts.then(|| text.into_parts(event.metadata().target()));
        let line = Line { level, text: whole, parts, of_client };
        // A line without a client describes the current state of something, so its repetition is news.
        if level <= Level::WARN && line.of_client {
            let mut merge = self.merge.lock().unwrap_or_else(PoisonError::into_inner);
            if !merge.is_new(&key, || line.clone(), Instant::now()) {
                return;
            }
        }
        (self.out)(&line);
    }
}

impl<S: Subscriber> Layer<S> for &'static Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.take(event);
    }
}

fn write_line(line: &Line) {
    STDERR.push(&form::written(line, format(), IS_COLOURED.load(Ordering::Relaxed)), line.of_client);
}

fn send_line(Line { text, .. }: &Line) {
    let line = serde_json::json!({ "message": text }).to_string() + "\n";
    for identity in HUB.send(&Bytes::from(line)) {
        // This is not an event, because events end up here.
        let text = told_cut_off("error", identity);
        write_line(&Line { level: Level::WARN, text, parts: None, of_client: true });
    }
}

/// Returns the line about a reader that was too slow.
pub fn told_cut_off(log: &str, identity: Option<Identity>) -> String {
    let who = identity.map(|identity| format!(" identity={identity}")).unwrap_or_default();
    format!("a reader of the {log} log was too slow and is cut off{who}")
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[tokio::test]
    async fn warnings_and_errors_are_one_line_of_json_each() {
        let mut reader = HUB.subscribe(None, ()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(readers_layer()), || {
            tracing::warn!(path = "/a\"b", code = 7, "first {}", "line\nbreak");
            tracing::error!(remote = %"192.0.2.1:1", path = "/".repeat(1000), "second");
            for port in 2..10 {
                tracing::error!(remote = %format!("192.0.2.1:{port}"), path = "/".repeat(1000), "second");
            }
            tracing::warn!("the log can be written again");
            tracing::warn!("the log can be written again");
            tracing::error!(name = %"x\x1b[2J\u{202e}ü", "third");
            let key = "kes:v1:ADkAxgQNrJ2BzE6vmmXJGhJgVVR7Rl1IELiCxkDXBh8g";
            tracing::error!(path = format!("/v1/identity/describe/{key}"), "fourth");
        });
        let mut next = async || String::from_utf8(reader.recv().await.unwrap().to_vec()).unwrap();
        assert_eq!(next().await, "{\"message\":\"first line\\\\nbreak path=\\\"/a\\\\\\\"b\\\" code=7\"}\n");
        let second = next().await;
        assert!(second.contains("second remote=192.0.2.1:1 path=\\\"////"), "{second}");
        assert!(second.contains("/… (490 bytes more)") && second.len() < 700, "{second}");
        for _ in 0..2 {
            assert!(next().await.contains("the log can be written again"), "what is about no client is told");
        }
        assert_eq!(
            next().await,
            "{\"message\":\"third name=x\\\\u{1b}[2J\\\\u{202e}ü\"}\n",
            "equal lines of one client are told once"
        );
        let fourth = next().await;
        assert!(fourth.contains("/v1/identity/describe/") && !fourth.contains("ADkAxgQ"), "{fourth}");
        tell_repeated(|merge| merge.end(Instant::now()));
        assert!(next().await.contains("(8 more times in 0 s)"));
        assert!(events() >= 14);
    }
}
