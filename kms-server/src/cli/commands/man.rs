//! `kms man`: writes the man pages of all commands, for packages.

use std::fs;
use std::path::PathBuf;

use clap::Command;
use clap_mangen::Man;

use crate::cli::failure::Failure;
use crate::host::files;

/// The arguments of `kms man`.
#[derive(clap::Args)]
pub struct Args {
    /// The directory for the pages, which exists: kms.1, kms-server.1 and so on.
    directory: PathBuf,
}

/// Writes a page for each command of `definition` that its help shows.
pub fn run(args: &Args, definition: Command) -> Result<(), Failure> {
    let mut definition = definition.disable_help_subcommand(true);
    definition.build();
    write(&definition, args)
}

fn write(command: &Command, args: &Args) -> Result<(), Failure> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write(below, args)?;
    }
    let version = env!("CARGO_PKG_VERSION");
    let page = Man::new(command.clone()).source(format!("kms {version}")).manual("kms");
    let file = args.directory.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(&file, text).map_err(|error| Failure::new(files::failed(&file, &error)))
}
