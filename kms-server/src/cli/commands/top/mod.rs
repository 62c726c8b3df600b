//! `kms top`: watches servers by their metrics.

mod figures;
mod histogram;
mod reading;
mod report;
mod screen;
mod server;
mod table;
mod view;
mod wrong;

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use self::report::Report;
use self::screen::{Screen, Update};
use self::server::{Line, Server};
use self::table::{Order, Table};
use self::view::{SLOWEST, State, View};
use crate::cli::colour::Style;
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;
use crate::config::parse_duration;

/// The least time between two readings of a server.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// How long the view may take to end and to restore the terminal after a hangup.
const GRACE: Duration = Duration::from_secs(1);

/// The arguments of `kms top`.
#[derive(clap::Args)]
pub struct Args {
    /// Watch these servers instead of all in --server or $KES_SERVER: HOST[:PORT] by the API, which needs a policy with
    /// /metrics and /v1/ready; http://HOST:PORT by the listener for probes, which needs none.
    #[arg(value_name = "ENDPOINT")]
    endpoints: Vec<String>,
    /// Read the metrics this often.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    interval: Duration,
    /// Print once what happens within one interval, as text, and end.
    #[arg(long)]
    once: bool,
    /// Print a JSON object after each interval, or with --once a single one.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Shows the servers until the user leaves, or prints the view.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let servers = Server::named(&args.endpoints, &args.connection, call)?;
    let mut state = State::new(servers.iter().map(|server| server.name.clone()));
    let interval = args.interval.max(LEAST_INTERVAL);
    let output = call.output(args.json);
    if args.once || args.json {
        if args.json {
            Output::write_at_once();
        }
        return block_on(print(&servers, &mut state, interval, args.once, output))?;
    }
    if !output.is_terminal() {
        return Err(Failure::new("the output is no terminal: add --once, or --json"));
    }
    let (updates, received) = channel();
    std::thread::Builder::new()
        .name("servers".to_owned())
        .spawn(move || {
            // Without a runtime nothing is sent, and the view ends.
            let _ = block_on(follow(&servers, interval, &updates));
        })
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    screen::run(Screen::new(interval, call.colour.are_wanted(true)), state, &received)
}

/// Asks all servers again and again, until nobody wants to know any more.
async fn follow(servers: &[Server], interval: Duration, updates: &Sender<Update>) {
    let all = servers.iter().enumerate().map(async |(number, server)| {
        let mut line = Line::default();
        let mut ticks = ticks(interval);
        loop {
            ticks.tick().await;
            let answer = server.read(&mut line).await;
            if updates.send(Update::Answer(number, answer)).is_err() {
                return;
            }
        }
    });
    tokio::select! {
        _ = join_all(all) => {}
        end = told_to_end() => {
            let _ = updates.send(Update::Stop);
            if end == End::Hangup {
                tokio::time::sleep(GRACE).await;
                leave();
            }
        }
    }
}

/// Why the process shall end.
#[derive(PartialEq, Eq)]
enum End {
    /// Somebody says so.
    Told,
    /// The terminal is gone, or somebody says that it is.
    Hangup,
}

/// Waits for a signal that ends the process. The terminal has to be as it was before, so it is not left to the system.
async fn told_to_end() -> End {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::hangup()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut quit), Ok(mut hangup)] = kinds.map(signal) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => End::Told,
        _ = interrupt.recv() => End::Told,
        _ = quit.recv() => End::Told,
        _ = hangup.recv() => End::Hangup,
    }
}

/// Ends the process, whose terminal is gone: with a terminal it would have ended meanwhile.
#[expect(
    clippy::disallowed_methods,
    reason = "a read of keys from a terminal that is gone never ends, and this command keeps no key"
)]
fn leave() -> ! {
    std::process::exit(0)
}

fn ticks(interval: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Prints the view after each interval, or once.
async fn print(
    servers: &[Server],
    state: &mut State,
    interval: Duration,
    once: bool,
    output: Output,
) -> Result<(), Failure> {
    let mut lines: Vec<_> = servers.iter().map(|_| Line::default()).collect();
    let mut ticks = ticks(interval);
    let mut is_first = true;
    loop {
        ticks.tick().await;
        let answers = join_all(servers.iter().zip(&mut lines).map(|(server, line)| server.read(line))).await;
        for (number, answer) in answers.into_iter().enumerate() {
            state.note(number, answer);
        }
        // Rates need two readings.
        if std::mem::take(&mut is_first) {
            continue;
        }
        let now = Timestamp::now();
        if output.is_json() {
            output.json(&Report::of(state, now))?;
        } else {
            text(&state.view(now), output)?;
        }
        if once {
            return if state.has_answer() { Ok(()) } else { Err(Failure::silent()) };
        }
    }
}

fn text(view: &View, output: Output) -> Result<(), Failure> {
    let slowest = Order { column: Some(SLOWEST), is_up: false, is_chosen: true };
    table(&view.servers, Order::default(), output)?;
    if !view.policies.rows.is_empty() {
        output.line("")?;
        table(&view.policies, slowest, output)?;
    }
    output.line("")?;
    output.row(&[(Style::Label, "WRONG NOW")])?;
    if view.wrong.is_empty() {
        output.row(&[(Style::Good, "nothing")])?;
    }
    for (server, wrong) in &view.wrong {
        let style = if wrong.is_bad { Style::Bad } else { Style::Doubtful };
        output.row(&[(Style::Name, server), (Style::Plain, "  "), (style, &wrong.what)])?;
    }
    Ok(())
}

fn table(table: &Table, order: Order, output: Output) -> Result<(), Failure> {
    for line in table.lines(order, usize::MAX) {
        let parts: Vec<_> = line.iter().map(|(style, text)| (*style, &**text)).collect();
        output.row(&parts)?;
    }
    Ok(())
}
