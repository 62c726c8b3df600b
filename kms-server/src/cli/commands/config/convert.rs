//! `kms config convert`: writes a config of KES in our form.

use std::path::PathBuf;

use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::note;
use crate::config::{self, Converted};
use crate::host::files;

/// The mode of a config that holds secrets, and of any other.
const MODES: [u32; 2] = [0o600, 0o644];

/// The arguments of `kms config convert`.
#[derive(clap::Args)]
pub struct Args {
    /// The config: YAML of KES, or TOML of KES in 2020.
    file: PathBuf,
    /// Write to this file, which must not exist, instead of stdout.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The admin's identity, if the server gets one by its flag --root.
    #[arg(long, value_name = "IDENTITY")]
    root: Option<String>,
}

/// Converts a config.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let Converted { text, unset, has_secrets } =
        config::convert(&args.file, args.root.as_deref(), call.environment)?;
    if !unset.is_empty() {
        note(format_args!(
            "Warning: nobody has compared what the two files mean, as these variables are not set: {}",
            unset.join(", ")
        ));
    }
    if has_secrets {
        note("Warning: secrets stand in the clear in the file, and in what it is converted to");
    }
    let Some(file) = &args.output else {
        return call.output(false).text(text.trim_end());
    };
    let mode = if has_secrets { MODES[0] } else { MODES[1] };
    files::write_new(file, text.as_bytes(), mode).map_err(|error| Failure::new(files::failed(file, &error)))
}
