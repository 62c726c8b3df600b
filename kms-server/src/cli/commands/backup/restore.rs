//! `kms backup restore`.

use std::path::PathBuf;

use kms_core::ErrorKind;
use kms_core::store::KeyStore;
use kms_core::transfer::{StoredKey, Written};
use serde::Serialize;

use super::archive::{Archive, OpenFlags, counted};
use crate::backup::Stored;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;
use crate::config::{self, Environment};
use crate::store::plain::{self, Purpose};

/// The arguments of `kms backup restore`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    open: OpenFlags,
    /// The config of the server whose key store gets the keys.
    #[arg(long, value_name = "CONFIG")]
    to: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What came of the keys of a backup.
#[derive(Default, Serialize)]
struct Restored {
    /// Keys that were not there.
    stored: u64,
    /// Keys that were there.
    there: u64,
    /// Versions that were added to keys that were there.
    added_versions: u64,
    /// Keys that were read anew from the store, and opened what they had sealed before the backup.
    proven: u64,
    /// What is different in the store, and was left as it is.
    differs: Vec<Note>,
    /// Keys that are not restored, since the store has something else in their place.
    conflicts: Vec<Note>,
}

/// What is to be said of a key.
#[derive(Serialize)]
struct Note {
    key: String,
    why: String,
}

impl Note {
    fn of(stored: &Stored, why: impl Into<String>) -> Self {
        Self { key: stored.key.name().to_string(), why: why.into() }
    }
}

/// Restores a backup and prints what came of it.
pub fn run(args: &Args, environment: &Environment) -> Result<(), Failure> {
    let settings = config::load(&args.to, environment)?.settings;
    let archive = Archive::open(&args.open)?;
    // Nothing is written before the whole archive is known to be good.
    archive.verify()?;
    let restored = block_on(async {
        let store = plain::open(&settings.key_store, Purpose::Write).await?;
        let mut restored = Restored::default();
        write_all(&archive, &*store, &mut restored).await?;
        prove_all(&archive, &*store, &mut restored).await?;
        Ok::<_, Failure>(restored)
    })??;
    print(args, &restored)?;
    if restored.conflicts.is_empty() { Ok(()) } else { Err(Failure::silent()) }
}

async fn write_all(
    archive: &Archive<'_>,
    store: &dyn KeyStore,
    restored: &mut Restored,
) -> Result<(), Failure> {
    let mut reader = archive.reader()?;
    while let Some(stored) = archive.next(&mut reader)? {
        match stored.key.write(store).await {
            Ok(Written::Stored) => restored.stored += 1,
            Ok(Written::There { added, differs }) => {
                restored.there += 1;
                restored.added_versions += u64::from(added);
                restored.differs.extend(differs.map(|why| Note::of(&stored, why)));
            }
            Ok(Written::Other(fingerprint)) => {
                let other = hex::encode(fingerprint.as_bytes());
                let why = format!("another key has this name, with the fingerprint {other}");
                restored.conflicts.push(Note::of(&stored, why));
            }
            Ok(_) => restored.conflicts.push(Note::of(&stored, "what came of it is not known")),
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Deleted) => {
                restored.conflicts.push(Note::of(&stored, error.chain().to_string()));
            }
            Err(error) => return Err(Failure::from(error).context("the restore was broken off")),
        }
    }
    archive.manifest(reader).map(drop)
}

/// Reads each key anew, and opens what it had sealed before the backup.
async fn prove_all(
    archive: &Archive<'_>,
    store: &dyn KeyStore,
    restored: &mut Restored,
) -> Result<(), Failure> {
    let mut reader = archive.reader()?;
    while let Some(Stored { key, probes }) = archive.next(&mut reader)? {
        // Both lists have the order of the archive.
        if restored.conflicts.iter().any(|conflict| conflict.key == key.name().as_str()) {
            continue;
        }
        let proof = async { StoredKey::read(store, key.name()).await?.open_probes(&probes) };
        proof.await.map_err(|error| {
            let doing =
                format!("the proof failed: key '{}' in the store is not that of the backup", key.name());
            Failure::from(error).context(&doing)
        })?;
        restored.proven += 1;
    }
    archive.manifest(reader).map(drop)
}

fn print(args: &Args, restored: &Restored) -> Result<(), Failure> {
    let output = Output::new(args.json);
    if output.is_json() {
        return output.json(restored);
    }
    let Restored { stored, there, added_versions, proven, differs, conflicts } = restored;
    output.line(format_args!(
        "{} restored, {there} there already, with {} added; {proven} opened what they had sealed",
        counted(*stored, "key"),
        counted(*added_versions, "version")
    ))?;
    output.lines(differs.iter().map(|note| format!("left as it is: key '{}': {}", note.key, note.why)))?;
    output.lines(conflicts.iter().map(|note| format!("not restored: key '{}': {}", note.key, note.why)))
}
