//! `kms backup create`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Method;
use kms_core::{CacheConfig, Identity, KeyRing, Kms, Request};
use serde_json::json;

use super::archive::counted;
use crate::backup::{ArchiveWriter, Found, Keys, Manifest, Summary, Time, Unreadable};
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::password;
use crate::cli::runtime::block_on;
use crate::config;
use crate::host::files;
use crate::host::partial::PartialFile;
use crate::recipients::Recipients;
use crate::settings::Settings;
use crate::store::inventory::START_TIMEOUT;
use crate::store::plain::{self, Purpose};

/// The route that makes a backup.
const PATH: &str = "/v1/backup/create";

/// The name of the trailer without which a backup is not whole.
const SUMMARY: &str = "kms-backup";

/// The arguments of `kms backup create`.
#[derive(clap::Args)]
pub struct Args {
    /// The file to write, which must not exist.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Read the stopped key store of this config instead of asking a server.
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    config: Option<PathBuf>,
    /// Seal to this recipient of age instead of those in the config; may be given several times.
    #[arg(long, value_name = "age1…", requires = "config", action = clap::ArgAction::Append)]
    recipient: Vec<String>,
    /// Ask for a passphrase that opens the backup, instead of sealing to recipients.
    #[arg(long, requires = "config", conflicts_with = "recipient")]
    passphrase: bool,
    /// Leave out keys that cannot be read instead of making no backup. The backup names them, and the exit code is 1.
    #[arg(long)]
    leave_out_unreadable: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Makes a backup. It fails if a key that cannot be read was left out.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let path = &*args.output;
    let (made, sha256) = match &args.config {
        Some(config) => of_store(args, config, call)?,
        None => of_server(args, call)?,
    };
    let output = call.output(args.json);
    let ended = || if made.unreadable == 0 { Ok(()) } else { Err(Failure::silent()) };
    if output.is_json() {
        output.json(&json!({ "file": path, "sha256": sha256, "summary": made }))?;
        return ended();
    }
    if made.unreadable != 0 {
        let what = counted(made.unreadable, "key");
        let _ = writeln!(
            io::stderr(),
            "Warning: {what} cannot be read and so not in the backup; 'kms backup verify' names them"
        );
    }
    let deleted = made.left_out.saturating_sub(made.unreadable);
    if deleted != 0 {
        let what = counted(deleted, "key");
        let _ = writeln!(
            io::stderr(),
            "Warning: {what} deleted in the key store or meanwhile: not in the backup; 'kms backup verify' names them"
        );
    }
    output.text(format_args!(
        "{} with {} are in {}, for {}.\nSHA-256 {sha256}",
        counted(made.keys, "key"),
        counted(made.versions, "version"),
        path.display(),
        counted(made.recipients as u64, "recipient")
    ))?;
    ended()
}

/// Asks a server. Returns SHA-256 of the file, too.
fn of_server(args: &Args, call: Call<'_>) -> Result<(Summary, String), Failure> {
    let client = args.connection.client(call)?;
    PartialFile::refuse_existing(&args.output).map_err(|error| not_begun(&args.output, &error))?;
    // A server that refuses leaves the disk as it is.
    let mut begun = None;
    let write = |bytes: &[u8]| {
        let file = match &mut begun {
            Some(file) => file,
            None => begun.insert(begin(&args.output)?),
        };
        file.write_all(bytes).map_err(|error| not_written(&args.output, &error))
    };
    let body = if args.leave_out_unreadable {
        json!({ "leave_out_unreadable": true }).to_string()
    } else {
        String::new()
    };
    let trailers = block_on(client.download(Method::PUT, PATH, body, write))??;
    let summary = trailers.as_ref().and_then(|trailers| trailers.get(SUMMARY));
    let summary = summary.and_then(|summary| serde_json::from_slice(summary.as_bytes()).ok());
    let (summary, file) = summary.zip(begun).ok_or_else(|| {
        Failure::new(
            "the server did not say that the backup is whole, so it was removed; a proxy in between has to pass trailers on",
        )
    })?;
    let sha256 = finish(file, &args.output)?;
    Ok((summary, sha256))
}

/// Reads a stopped store. Returns SHA-256 of the file, too.
fn of_store(args: &Args, config: &Path, call: Call<'_>) -> Result<(Summary, String), Failure> {
    let settings = config::load(config, call.environment)?.settings;
    let recipients = recipients(args, config, &settings)?;
    let (made, sha256) = block_on(async {
        let store = plain::open(&settings.key_store, Purpose::Read).await?;
        let kms: Arc<dyn Kms> = Arc::new(KeyRing::new(store, CacheConfig::default()));
        let mut file = begin(&args.output)?;
        let manifest = archive(&kms, &recipients, &mut file, args).await?;
        let sha256 = finish(file, &args.output)?;
        Ok::<_, Failure>((manifest, sha256))
    })??;
    Ok((Summary::of(&made, recipients.count()), sha256))
}

async fn archive(
    kms: &Arc<dyn Kms>,
    recipients: &Recipients,
    file: &mut PartialFile,
    args: &Args,
) -> Result<Manifest, Failure> {
    let failed = |error: io::Error| not_written(&args.output, &error);
    let unreadable = if args.leave_out_unreadable { Unreadable::LeaveOut } else { Unreadable::Fail };
    let request = Request::new(Identity::of_program("kms backup create"), START_TIMEOUT);
    let began = Time::now();
    let mut keys = Keys::begin(Arc::clone(kms), &request, unreadable).await?;
    let sealed = recipients.seal(file).map_err(failed)?;
    let mut archive = ArchiveWriter::new(sealed, kms.capabilities().backend, began);
    while let Some(found) = keys.next().await? {
        match found {
            Found::Key(key) => archive.key(&key).map_err(failed)?,
            Found::DeletedMeanwhile(name) => archive.deleted_meanwhile(&name),
            Found::LeftOut(name, why) => archive.leave_out(&name, why),
            Found::Unreadable(name, why) => archive.unreadable(&name, &why),
        }
    }
    let (sealed, manifest) = archive.finish().map_err(failed)?;
    sealed.finish().map_err(failed)?;
    Ok(manifest)
}

/// Returns those who can open the backup of a stopped store.
fn recipients(args: &Args, config: &Path, settings: &Settings) -> Result<Recipients, Failure> {
    if args.passphrase {
        return Ok(Recipients::of_passphrase(password::ask_for_new_passphrase(&args.output)?));
    }
    if !args.recipient.is_empty() {
        return Recipients::parse(&args.recipient).map_err(|(at, why)| {
            let at = at.map_or_else(String::new, |at| format!(" number {}", at + 1));
            Failure::new(format!("--recipient{at}: {why}"))
        });
    }
    Recipients::parse(&settings.backup.recipients).map_err(|_| {
        Failure::new(format!(
            "{}: backup.recipients is empty: set it, or say with --recipient or --passphrase who can open the backup",
            config.display()
        ))
    })
}

fn begin(path: &Path) -> Result<PartialFile, Failure> {
    PartialFile::create(path).map_err(|error| not_begun(path, &error))
}

fn not_begun(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(format!("{}: it is there already, and nothing is overwritten", path.display()))
        }
        _ => not_written(path, error),
    }
}

fn finish(file: PartialFile, path: &Path) -> Result<String, Failure> {
    file.finish().map_err(|error| not_written(path, &error))
}

fn not_written(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("no backup was made: {}", files::failed(path, error)))
}
