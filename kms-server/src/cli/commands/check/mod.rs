//! `kms check`: finds mistakes in a configuration before production does.

mod certificate;
mod key_store;
mod local_store;
mod policy;
mod probe;
mod report;
mod roots;

use std::path::PathBuf;

use self::report::Report;
pub use self::roots::{earlier_records, lost_anchor};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;
use crate::config::Environment;

/// The arguments of `kms check`.
#[derive(clap::Args)]
pub struct Args {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Read and decode every key. With a local store this is always done; others take a call for each key.
    #[arg(long)]
    all: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the findings, and fails if one of them is an error.
pub fn run(args: &Args, environment: &Environment) -> Result<(), Failure> {
    let report = block_on(Report::of(&args.config, environment, args.all))?;
    let output = Output::new(args.json);
    if output.is_json() {
        output.json(&report)?;
    } else {
        output.text(&report)?;
    }
    match report.errors() {
        0 => Ok(()),
        1 => Err(Failure::new(format!("{}: 1 problem", args.config.display()))),
        count => Err(Failure::new(format!("{}: {count} problems", args.config.display()))),
    }
}
