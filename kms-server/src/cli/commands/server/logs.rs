//! The error log of a server process.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::host::process;
use crate::settings::LogFormat;
use crate::telemetry::error_log;

/// Sets the form of the log before there is a config.
const FORMAT_VARIABLE: &str = "KMS_LOG__FORMAT";

/// Starts the log on stderr, with the level of `KMS_LOG` or with `info`.
pub fn start(call: Call<'_>) -> Result<(), Failure> {
    let environment = call.environment;
    if environment.get(FORMAT_VARIABLE) == Some("json") {
        error_log::set_format(LogFormat::Json);
    }
    let wanted = environment.first_of(&["KMS_LOG", "RUST_LOG"]).unwrap_or("info");
    let filter = EnvFilter::try_new(wanted);
    let mut filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    // The messages of sled about damage are for its makers; kms-fs logs their meaning. The AWS SDK's
    // messages about regions and credentials show its internals, so kms-aws logs where it searched instead.
    // A filter that names `aws_config` gets its messages.
    let quiet = ["sled=off", "aws_config=off"];
    for quiet in &quiet[..if wanted.contains("aws_config") { 1 } else { 2 }] {
        filter = quiet.parse().map_or(filter.clone(), |directive| filter.clone().add_directive(directive));
    }
    let stderr = error_log::stderr_layer().with_filter(filter);
    // Each layer needs a filter. Without one, every event and span of every library would be created for it.
    let stream = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("sled", LevelFilter::OFF)
        .with_target("aws_config", LevelFilter::OFF);
    let stream = error_log::readers_layer().with_filter(stream);
    let _ = tracing_subscriber::registry().with(stderr).with(stream).try_init();
    std::panic::set_hook(Box::new(report_panic));
    let coloured = call.colour.are_wanted(io::stderr().is_terminal());
    error_log::start(coloured).map_err(|error| Failure::new(format!("cannot start: {error}")))
}

/// Logs the reason why the server does not go on, if the log is JSON. As text it is printed at the end.
pub fn tell_as_json(failure: &Failure) {
    if error_log::format() == LogFormat::Json && !failure.to_string().is_empty() {
        tracing::error!("{failure}");
    }
}

/// Logs the protection of the keys in memory.
pub fn report_protection() {
    let protection = process::protect_memory();
    tracing::info!("keys are {}", protection.held().join(", "));
    for missing in protection.missing() {
        tracing::warn!("keys are {missing}");
    }
}

/// Logs a panic, with a backtrace if RUST_BACKTRACE asks for one.
///
/// The log is the place for it, as writing to the log never blocks.
fn report_panic(panic: &PanicHookInfo<'_>) {
    tracing::error!("a defect: {panic}");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        backtrace.to_string().lines().for_each(|line| tracing::error!("{line}"));
    }
}
