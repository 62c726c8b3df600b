//! `kms ls`: lists of keys, identities or policies.

use clap::ArgGroup;

use crate::cli::failure::Failure;
use crate::cli::listing::{self, Kind, ListArgs};
use crate::cli::name::Call;

/// The arguments of `kms ls`.
#[derive(clap::Args)]
#[command(group(ArgGroup::new("kind")))]
pub struct Args {
    /// List identities.
    #[arg(short, long, alias = "identity", group = "kind")]
    identities: bool,
    /// List policies.
    #[arg(short, long, alias = "policy", group = "kind")]
    policies: bool,
    #[command(flatten)]
    list: ListArgs,
}

/// Prints the list that the flags choose; without any this is the list of keys.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let kind = match (args.identities, args.policies) {
        (true, _) => Kind::Identities,
        (_, true) => Kind::Policies,
        _ => Kind::Keys,
    };
    listing::print(kind, &args.list, call)
}
