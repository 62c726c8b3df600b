//! `kms policy explain`: which requests were denied, why, and what would allow them.

mod log;
mod told;
mod verdict;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;

use serde::Serialize;

use self::log::Log;
use self::verdict::{Judge, Judged};
use super::test::parse_identity;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::note;
use crate::host::files;

/// The arguments of `kms policy explain`.
#[derive(clap::Args)]
#[command(after_help = "From a running server:  kms log --audit | kms policy explain --config FILE -\n\
    It explains when the log ends, or at Ctrl-C.")]
pub struct Args {
    /// The audit log: a file of `log.audit`, or '-' for stdin.
    #[arg(value_name = "AUDITLOG", default_value = "-")]
    log: PathBuf,
    /// Explain the requests of this identity alone: 64 hex digits, an API key, or the file of a certificate.
    #[arg(long, value_name = "IDENTITY")]
    identity: Option<String>,
    /// The config of the server. Without it, nobody can tell a deny from a missing allow.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The admin's identity, if the server gets one by its flag --root.
    #[arg(long, value_name = "IDENTITY", requires = "config")]
    root: Option<String>,
    /// Print the explanation as JSON.
    #[arg(long)]
    json: bool,
}

/// Explains the denied requests of a log.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let judge = Judge::new(args.config.as_deref(), args.root.as_deref(), call.environment)?;
    let wanted = args.identity.as_deref().map(parse_identity).transpose()?;
    let mut log = Log::of(wanted.map(|identity| identity.to_string()));
    if args.log.as_os_str() == "-" {
        log.read_stdin()?;
    } else {
        let file = File::open(&args.log).map_err(|error| failed(args, &error))?;
        for line in BufReader::new(file).split(b'\n') {
            log.take(&line.map_err(|error| failed(args, &error))?);
        }
    }
    if log.unreadable != 0 {
        let lines = if log.unreadable == 1 { "line is" } else { "lines are" };
        note(format_args!("Warning: {} {lines} no event of an audit log and passed over", log.unreadable));
    }
    if log.events == 0 && log.unreadable != 0 {
        return Err(Failure::new(
            "the log has no events, expected lines of JSON as `log.audit` and `kms log --audit` write them",
        ));
    }
    let judged: Vec<Judged> =
        log.denied.iter().map(|(identity, denied)| judge.judge(identity, denied)).collect();
    let output = call.output(args.json);
    if output.is_json() {
        return output.json(&Explained {
            events: log.events,
            strangers_left_out: log.strangers,
            identities: &judged,
        });
    }
    told::print(&log, &judged, judge.config(), output)
}

fn failed(args: &Args, error: &std::io::Error) -> Failure {
    Failure::new(files::failed(&args.log, error))
}

/// The explanation as JSON.
#[derive(Serialize)]
struct Explained<'a> {
    /// The events in the log.
    events: u64,
    /// The requests of identities without a policy that have no line of their own.
    strangers_left_out: u64,
    identities: &'a [Judged],
}
