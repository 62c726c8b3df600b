//! The warnings of what a command opens, on stderr.

use std::error::Error;
use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::output::note;
use crate::text::chain::links;
use crate::text::mask::mask;

/// Prints warnings and errors of the parts that log from now on, a line each.
pub fn show() {
    // The messages of sled about damage are for its makers; kms-fs tells their meaning.
    let filter = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("sled", LevelFilter::OFF)
        .with_target("aws_config", LevelFilter::OFF);
    let _ = tracing_subscriber::registry().with(Notes.with_filter(filter)).try_init();
}

/// Turns events into lines.
struct Notes;

impl<S: Subscriber> Layer<S> for Notes {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let between = if text.message.is_empty() || text.cause.is_empty() { "" } else { ": " };
        note(mask(&format!("Warning: {}{between}{}{}", text.message, text.cause, text.fields)));
    }
}

#[derive(Default)]
struct Text {
    message: String,
    cause: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        let chain = links(error).join(": ");
        match field.name() {
            "cause" => self.cause = chain,
            name => drop(write!(self.fields, " {name}={chain}")),
        }
    }
}
