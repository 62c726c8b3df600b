//! `kms migrate`, which is not supported yet.

use std::path::PathBuf;

use crate::cli::failure::Failure;

/// The arguments of KES's command.
#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    /// The config file of the key store to read.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The config file of the key store to write.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Overwrite keys that exist.
    #[arg(short, long)]
    force: bool,
    /// Skip keys that exist.
    #[arg(long)]
    merge: bool,
    /// Move only the keys whose names begin with this.
    pattern: Option<String>,
    /// The server of another product, to which KES moves keys.
    #[arg(short, long, hide = true)]
    server: Option<String>,
    /// An enclave of that server.
    #[arg(short, long, hide = true)]
    enclave: Option<String>,
    /// An API key of that server.
    #[arg(short, long, hide = true)]
    api_key: Option<String>,
    /// Do not verify the certificate of that server.
    #[arg(short = 'k', long, hide = true)]
    insecure: bool,
    /// Print no progress.
    #[arg(short, long, hide = true)]
    quiet: bool,
}

/// Fails, and says how to move keys without this command.
pub fn run(_: &Args) -> Result<(), Failure> {
    Err(Failure::new(
        "migrate is not supported yet in this version; docs/from-kes.md says how to move keys without it",
    ))
}
