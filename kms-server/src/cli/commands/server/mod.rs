//! `kms server`: runs a server, from its start to its end.

mod args;
mod dev;
mod logs;
mod reload;
mod signals;
mod start;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

pub use self::args::Args;
use self::dev::Banner;
use self::signals::{Signals, Stop};
use self::start::{Prepared, Start};
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::Output;
use crate::config::Origins;
use crate::host::process;
use crate::server::{Listening, Server};
use crate::settings::{LogFormat, Settings};
use crate::store::inventory::count_keys;
use crate::telemetry::error_log;

/// How long a server that has stopped waits for stderr to take the rest of the log.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a server that has stopped waits for its last tasks.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a server until a signal stops it.
pub fn run(args: Args, call: Call<'_>) -> Result<(), Failure> {
    // This has to come before there are threads.
    process::return_large_blocks();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    // This comes next, as the first process of a container ignores every signal that it does not handle.
    let signals = {
        let _context = runtime.enter();
        Signals::hear()?
    };
    logs::start(call)?;
    process::protect_memory();
    process::raise_file_limit();
    args.former.warn();
    let start = Arc::new(Start { args, environment: call.environment.clone() });
    let outcome = runtime.block_on(start_and_serve(start, signals));
    // The timeouts are needed: a thread may hang in a write to a log that takes nothing, and nobody waits for the thread of a
    // start that was cut off.
    if let Err(failure) = &outcome {
        logs::tell_as_json(failure);
    }
    let was_cut_off = matches!(outcome, Ok(End::BeforeItWasUp));
    runtime.shutdown_timeout(if was_cut_off { Duration::ZERO } else { SHUTDOWN_TIMEOUT });
    let takes_lines = error_log::end(LOG_TIMEOUT);
    // If stderr takes no lines, printing the failure there would hang. As JSON it is there already.
    let is_printed = takes_lines && error_log::format() == LogFormat::Text;
    outcome.map(|_| ()).map_err(|failure| if is_printed { failure } else { Failure::silent() })
}

/// The point at which a signal stopped the server.
enum End {
    BeforeItWasUp,
    AfterServing,
}

/// Builds a server, listens, prints that it is up, and serves until a signal stops it.
async fn start_and_serve(start: Arc<Start>, mut signals: Signals) -> Result<End, Failure> {
    let prepare = {
        let start = Arc::clone(&start);
        move || start.prepare()
    };
    let Some(Prepared { settings, origins, banner }) = unless_stopped(&mut signals.stop, prepare).await?
    else {
        return Ok(End::BeforeItWasUp);
    };
    let least_level = settings.log.least();
    let built = unless_stopped(&mut signals.stop, move || build(settings, origins)).await;
    let Some(Built { server, origins }) = built.map_err(|failure| explain(failure, banner.as_ref()))? else {
        return Ok(End::BeforeItWasUp);
    };
    let listening = server.listen().await.map_err(|error| origins.place(error))?;
    logs::report_protection();
    let text = if let Some(banner) = &banner {
        let keys = count_keys(&**listening.kms()).await?;
        banner.text(listening.local_addr(), keys).to_string()
    } else {
        error_log::set_least(least_level);
        format!("=> Server is up and running on https://{}", listening.local_addr())
    };
    if !start.args.quiet {
        print_in_background(text);
    }
    serve(listening, start, signals).await;
    Ok(End::AfterServing)
}

/// Does a part of the start on a thread where it may block. Returns `None` if a signal stops the server before that is done.
async fn unless_stopped<T: Send + 'static>(
    stop: &mut Stop,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<Option<T>, Failure> {
    let work = tokio::task::spawn_blocking(work);
    tokio::select! {
        biased;
        () = stop.wait() => {
            tracing::info!("server stops before it is up");
            Ok(None)
        }
        done = work => match done {
            Ok(done) => done.map(Some),
            Err(error) => Err(Failure::new(format!("cannot start: {error}"))),
        },
    }
}

/// A server, and the places of its settings for errors that come later.
struct Built {
    server: Server,
    origins: Origins,
}

fn build(settings: Settings, origins: Origins) -> Result<Built, Failure> {
    let built = Handle::current().block_on(Server::build(settings));
    let server = built.map_err(|error| origins.place(error))?;
    Ok(Built { server, origins })
}

/// Adds the advice of a development server to a failure.
fn explain(failure: Failure, banner: Option<&Banner>) -> Failure {
    match banner {
        Some(banner) => banner.explain(failure),
        None => failure,
    }
}

/// Prints on another thread, as a reader of stdout that stops reading must not hold up the server.
fn print_in_background(text: String) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = Output::print(text) {
            tracing::warn!("stdout cannot be written, so what is told there at the start is lost: {error}");
        }
    });
}

/// Serves until a signal stops the server, and reloads beside that.
async fn serve(listening: Listening, start: Arc<Start>, signals: Signals) {
    let Signals { mut stop, hangup } = signals;
    let mut reloads = JoinSet::new();
    reloads.spawn(reload::reload_at(hangup, listening.reloader(), start));
    reloads.spawn(reload::look_at_certificates(listening.reloader()));
    listening
        .serve(async {
            stop.wait().await;
            reloads.abort_all();
        })
        .await;
}
