//! `kms completion`: prints the script by which a shell completes commands, flags and their values.
//!
//! It knows more than `kms --auto-completion`, which is KES's: files, words that a flag takes, and fish.

use clap::builder::Resettable;
use clap::{Command, Id};
use clap_complete::Shell;

use crate::cli::failure::Failure;
use crate::cli::name::Call;

/// The arguments of `kms completion`.
#[derive(clap::Args)]
#[command(after_help = "For this shell alone:   source <(kms completion bash)\n\
    For all users:          kms completion bash >/usr/share/bash-completion/completions/kms\n\
    zsh:                    kms completion zsh >/usr/share/zsh/vendor-completions/_kms\n\
    fish:                   kms completion fish >/usr/share/fish/vendor_completions.d/kms.fish")]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Wanted,
}

/// A shell that has a script.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Wanted {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script for the command line `definition`, under the name by which the program was called.
pub fn run(args: &Args, definition: &Command, call: Call<'_>) -> Result<(), Failure> {
    let shell = match args.shell {
        Wanted::Bash => Shell::Bash,
        Wanted::Zsh => Shell::Zsh,
        Wanted::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(definition), call.name.as_str(), &mut script);
    let script = String::from_utf8(script).map_err(|error| Failure::new(error.to_string()))?;
    call.output(false).script(script.trim_end())
}

/// No argument, which takes back what was said of others before.
const NONE: Resettable<Id> = Resettable::Reset;

/// Copies a definition without what its help hides, which clap's generator would propose.
fn visible(command: &Command) -> Command {
    let mut copy = Command::new(command.get_name().to_owned())
        .disable_help_subcommand(true)
        .disable_version_flag(command.is_disable_version_flag_set());
    if let Some(about) = command.get_about() {
        copy = copy.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        copy = copy.version(version.to_owned());
    }
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    // What arguments need of each other may name a hidden one, and no script knows of it.
    let free = shown.map(|argument| argument.clone().conflicts_with(NONE).requires(NONE).required(false));
    let below = command.get_subcommands().filter(|command| !command.is_hide_set()).map(visible);
    copy.args(free).subcommands(below)
}
