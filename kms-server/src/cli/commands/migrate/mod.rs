//! `kms migrate`: moves keys from one key store to another, and proves that they arrived.

mod moving;
mod progress;
mod report;
mod side;
mod static_key;

use std::path::PathBuf;

use kms_core::KeyName;
use kms_core::store::cut_off_replacements;

use self::moving::{Mode, Moved, Moving, Outcome};
use self::progress::Progress;
use self::report::Report;
use self::side::{CameMeanwhile, Opened, Source, Target};
use super::key::input::confirm;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::note;
use crate::cli::runtime::block_on;
use crate::cli::warnings;
use crate::store::plain::Purpose;

/// The arguments, with the meaning that KES gives them.
#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    /// The config file of the key store to read.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The config file of the key store to write.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Put keys in the place of other keys of the same names, which are kept as NAME-was-FINGERPRINT. No server may use the
    /// key store meanwhile.
    #[arg(short, long)]
    force: bool,
    /// Pass over keys whose names other keys have.
    #[arg(long)]
    merge: bool,
    /// Move MinIO's static key, which is in MINIO_KMS_SECRET_KEY or in the file that MINIO_KMS_SECRET_KEY_FILE names.
    #[arg(long, conflicts_with_all = ["from", "pattern"])]
    from_static: bool,
    /// Have the static key compute the HMACs that MinIO computed with it, so that root credentials and STS sessions stay.
    #[arg(long, requires = "from_static")]
    keep_hmac: bool,
    /// Take it that keys have one version, where the key store to read denies the paths of versions and marks.
    #[arg(long)]
    without_versions: bool,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask whether a server uses the key store to write.
    #[arg(long)]
    yes: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Print no progress.
    #[arg(short, long)]
    quiet: bool,
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
}

/// Moves keys, and fails unless each of them arrived.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    refuse_other_product(args)?;
    let mode = match (args.force, args.merge) {
        (true, true) => return Err(Failure::new("choose one of --force and --merge")),
        (true, false) => Mode::Force,
        (false, true) => Mode::Merge,
        (false, false) => Mode::Add,
    };
    let prefix = prefix(args.pattern.as_deref().unwrap_or_default())?;
    warnings::show();
    let source = match &args.from {
        _ if args.from_static => Source::of_static_key(call.environment, args.keep_hmac)?,
        Some(from) => Source::of_config(from, call.environment)?,
        None => {
            let what =
                "--from FILE names the config of the key store to read, --from-static is MinIO's static key";
            return Err(Failure::new(what));
        }
    };
    let Some(to) = &args.to else {
        return Err(Failure::new("--to FILE names the config of the key store to write"));
    };
    let target = Target::of_config(to, call.environment)?;
    source.refuse_same(&target)?;
    if mode == Mode::Force && !args.dry_run && !args.yes && !target.has_one_user() {
        confirm(
            "yes",
            &format!(
                "--force replaces keys in the key store of {target}: no server may use it until the end, since the name of a \
                 key is free for a moment, and a client could make a key anew."
            ),
        )?;
    }
    let report = block_on(moved(source, target, mode, &prefix, args, call))??;
    report.print(call.output(args.json))?;
    report.verdict()
}

/// Refuses the flags with which KES moves keys to a server of another product.
fn refuse_other_product(args: &Args) -> Result<(), Failure> {
    let flags = [
        ("--server", args.server.is_some()),
        ("--enclave", args.enclave.is_some()),
        ("--api-key", args.api_key.is_some()),
        ("--insecure", args.insecure),
    ];
    match flags.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(Failure::new(format!(
            "{flag}: keys are not moved to a server of another product; --to FILE names the config of a key store"
        ))),
        None => Ok(()),
    }
}

/// Reads the pattern: what names begin with. A `*` at its end is KES's way to write that.
fn prefix(pattern: &str) -> Result<String, Failure> {
    let prefix = pattern.strip_suffix('*').unwrap_or(pattern);
    if KeyName::is_valid_prefix(prefix) {
        return Ok(prefix.to_owned());
    }
    Err(Failure::new(format!(
        "pattern '{pattern}': expected what names of keys begin with, such as 'minio-'"
    )))
}

async fn moved(
    source: Source,
    target: Target,
    mode: Mode,
    prefix: &str,
    args: &Args,
    call: Call<'_>,
) -> Result<Report, Failure> {
    let progress = Progress::new(args.quiet || call.is_kes());
    let Opened { from, to, names } = source.open(&target, args.dry_run, prefix).await?;
    let moving = Moving {
        from: from.as_ref(),
        to: to.as_ref(),
        mode,
        is_dry: args.dry_run,
        without_versions: args.without_versions,
    };
    let mut moved = moving.all(&names, &progress).await;
    let cut_off = match cut_off_replacements(to.as_ref()).await {
        Ok(cut_off) => left_cut_off(cut_off, &moved, args.dry_run),
        Err(error) => {
            note(format_args!("Warning: whether replacements were cut off is not known: {}", error.chain()));
            Vec::new()
        }
    };
    drop((from, to));
    let mut came_meanwhile = CameMeanwhile::default();
    if !args.dry_run {
        // Anew, so that nothing in the memory of this process is part of the proof.
        match target.open(Purpose::Read).await {
            Ok(to) => moving::prove(to.as_ref(), &mut moved, &progress).await,
            Err(failure) => moving::without_proof(&mut moved, &failure.to_string()),
        }
        match source.came_meanwhile(&names, &moved, prefix).await {
            Ok(count) => came_meanwhile = count,
            Err(failure) => {
                note(format_args!(
                    "Warning: whether keys or versions came meanwhile is not known: {failure}"
                ));
            }
        }
    }
    progress.end();
    let (from, to) = (source.to_string(), target.to_string());
    Ok(Report { from, to, is_dry: args.dry_run, moved, cut_off, came_meanwhile, told: source.told() })
}

/// Returns the replacements that stay cut off: a run that only looked does not complete those that it would complete.
fn left_cut_off(cut_off: Vec<KeyName>, moved: &[Moved], is_dry: bool) -> Vec<KeyName> {
    let would_complete =
        |one: &Moved| is_dry && matches!(one.outcome, Outcome::Replaced { resumed: true, .. });
    let done: Vec<_> = moved.iter().filter(|one| would_complete(one)).map(|one| &one.name).collect();
    cut_off.into_iter().filter(|name| !done.contains(&name)).collect()
}
