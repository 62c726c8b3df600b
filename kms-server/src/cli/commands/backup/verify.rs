//! `kms backup verify`.

use serde_json::json;

use super::archive::{Archive, OpenFlags, counted};
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// The arguments of `kms backup verify`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    open: OpenFlags,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Checks a backup and prints what is in it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let archive = Archive::open(&args.open)?;
    let manifest = archive.verify()?;
    let output = Output::new(args.json);
    if output.is_json() {
        return output
            .json(&json!({ "file": args.open.file, "sha256": archive.sha256(), "manifest": manifest }));
    }
    output.line(format_args!(
        "{}: whole; {} with {} of the key store {}, as of {}; each key opens what it sealed",
        args.open.file.display(),
        counted(manifest.keys, "key"),
        counted(manifest.versions, "version"),
        manifest.store,
        manifest.began.0
    ))?;
    output.line(format_args!("SHA-256 {}", archive.sha256()))?;
    if manifest.deleted != 0 {
        output.line(format_args!("{}: deleted, restorable", counted(manifest.deleted, "key")))?;
    }
    output.lines(
        manifest.left_out_names.iter().map(|left| format!("not in it: key '{}': {}", left.name, left.why)),
    )?;
    let unnamed = manifest.left_out.saturating_sub(manifest.left_out_names.len() as u64);
    if unnamed == 0 {
        Ok(())
    } else {
        output.line(format_args!("not in it: {} more", counted(unnamed, "key")))
    }
}
