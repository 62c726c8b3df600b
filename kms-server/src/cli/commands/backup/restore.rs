//! `kms backup restore`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use kms_core::store::KeyStore;
use kms_core::transfer::{StoredKey, Written};
use kms_core::{Error, ErrorKind, KeyName, Result as CoreResult};
use serde::Serialize;

use super::archive::{Archive, OpenFlags, counted};
use crate::backup::Stored;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;
use crate::config::{self, Environment};
use crate::store::plain::{self, Purpose};

/// The pauses before a key is tried again whose store is away.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_millis(800), Duration::from_secs(2), Duration::from_secs(5)];

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
    /// Keys that are not restored, or not proven, since the store failed or what it has cannot be read.
    failed: Vec<Note>,
    /// Keys that are not to be proven: those of the two lists above.
    #[serde(skip)]
    absent: BTreeSet<KeyName>,
    /// Whether the store was away for longer than the pauses. Then nothing more is tried.
    #[serde(skip)]
    is_away: bool,
}

impl Restored {
    /// Returns whether the store now has every key of the backup as it is there.
    fn is_whole(&self) -> bool {
        self.differs.is_empty() && self.conflicts.is_empty() && self.failed.is_empty()
    }

    fn conflict(&mut self, stored: &Stored, why: impl Into<String>) {
        self.conflicts.push(Note::of(stored, why));
        self.absent.insert(stored.key.name().clone());
    }

    /// Notes a key that failed, and whether a key after it can do better.
    fn fail(&mut self, stored: &Stored, error: &Error, doing: &str) {
        self.is_away |= error.kind().is_outage();
        self.failed.push(Note::of(stored, format!("{doing}{}", error.chain())));
        self.absent.insert(stored.key.name().clone());
    }

    fn not_tried(&mut self, stored: &Stored, what: &str) {
        self.failed.push(Note::of(stored, format!("{what}, since the key store is away")));
        self.absent.insert(stored.key.name().clone());
    }
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

/// Restores a backup and prints what came of it. It fails unless the store has every key as the backup has it.
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
    if restored.is_whole() { Ok(()) } else { Err(Failure::silent()) }
}

async fn write_all(
    archive: &Archive<'_>,
    store: &dyn KeyStore,
    restored: &mut Restored,
) -> Result<(), Failure> {
    let mut reader = archive.reader()?;
    while let Some(stored) = archive.next(&mut reader)? {
        if restored.is_away {
            restored.not_tried(&stored, "it was not tried");
            continue;
        }
        match patiently(&PAUSES, async || stored.key.write(store).await).await {
            Ok(Written::Stored) => restored.stored += 1,
            Ok(Written::There { added, differs }) => {
                restored.there += 1;
                restored.added_versions += u64::from(added);
                restored.differs.extend(differs.map(|why| Note::of(&stored, why)));
            }
            Ok(Written::Other(fingerprint)) => {
                let other = hex::encode(fingerprint.as_bytes());
                let why = format!("another key has this name, with the fingerprint {other}");
                restored.conflict(&stored, why);
            }
            Ok(_) => restored.conflict(&stored, "what came of it is not known"),
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Deleted) => {
                restored.conflict(&stored, error.chain().to_string());
            }
            Err(error) => restored.fail(&stored, &error, ""),
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
    while let Some(stored) = archive.next(&mut reader)? {
        let (name, probes) = (stored.key.name(), &stored.probes);
        if restored.absent.contains(name) {
            continue;
        }
        if restored.is_away {
            restored.not_tried(&stored, "it was written and not proven");
            continue;
        }
        let proof = async || StoredKey::read(store, name).await?.open_probes(probes);
        match patiently(&PAUSES, proof).await {
            Ok(()) => restored.proven += 1,
            Err(error) => {
                let doing =
                    "the proof failed, and the key in the store is not known to be that of the backup: ";
                restored.fail(&stored, &error, doing);
            }
        }
    }
    archive.manifest(reader).map(drop)
}

/// Does something with a store, again after each pause while the store is away.
async fn patiently<T>(pauses: &[Duration], doing: impl AsyncFn() -> CoreResult<T>) -> CoreResult<T> {
    for pause in pauses {
        match doing().await {
            Err(error) if error.kind().is_outage() => tokio::time::sleep(*pause).await,
            done => return done,
        }
    }
    doing().await
}

fn print(args: &Args, restored: &Restored) -> Result<(), Failure> {
    let output = Output::new(args.json);
    if output.is_json() {
        return output.json(restored);
    }
    let Restored { stored, there, added_versions, proven, differs, conflicts, failed, .. } = restored;
    output.line(format_args!(
        "{} restored, {there} there already, with {} added; {proven} opened what they had sealed",
        counted(*stored, "key"),
        counted(*added_versions, "version")
    ))?;
    output.lines(differs.iter().map(|note| format!("left as it is: key '{}': {}", note.key, note.why)))?;
    output.lines(conflicts.iter().map(|note| format!("not restored: key '{}': {}", note.key, note.why)))?;
    output.lines(failed.iter().map(|note| format!("failed: key '{}': {}", note.key, note.why)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;

    use kms_core::primitives::SecretBytes;
    use kms_core::store::{EntryName, MemoryStore};
    use kms_core::{CacheConfig, Identity, KeyRing, Kms as _, Request};

    use super::*;
    use crate::backup::{ArchiveWriter, Time};
    use crate::cli::commands::backup::archive::Archive;
    use crate::recipients::{Identities, Recipients};

    /// Writes an archive of keys of these names, which a secret key in the file `identity` opens.
    async fn archive_of(directory: &std::path::Path, names: &[&str]) -> (PathBuf, Identities) {
        let key = age::x25519::Identity::generate();
        let identity = directory.join("identity");
        let secret = age::secrecy::ExposeSecret::expose_secret(&key.to_string()).to_owned();
        crate::host::files::write_new(&identity, secret.as_bytes(), crate::host::files::PRIVATE).unwrap();
        let store = Arc::new(MemoryStore::new());
        let client =
            KeyRing::new(Arc::clone(&store), CacheConfig::default()).client(Identity::of_program("a test"));
        let sealed = Recipients::parse(&[key.to_public().to_string()]).unwrap().seal(Vec::new()).unwrap();
        let mut archive = ArchiveWriter::new(sealed, "memory", Time::now());
        for name in names {
            let name = KeyName::new(*name).unwrap();
            client.create(&name).await.unwrap();
            archive.key(&StoredKey::read(&store, &name).await.unwrap()).unwrap();
        }
        let path = directory.join("keys.backup");
        let sealed = archive.finish().unwrap().0.finish().unwrap();
        std::fs::File::create_new(&path).unwrap().write_all(&sealed).unwrap();
        (path, Identities::from_file(&identity).unwrap())
    }

    #[tokio::test]
    async fn a_corrupt_entry_at_the_target_stops_no_other_key() {
        let directory = tempfile::tempdir().unwrap();
        let (path, identities) = archive_of(directory.path(), &["a", "b", "c"]).await;
        let archive = Archive::of(&path, identities).ok().unwrap();
        let store = MemoryStore::new();
        let entry = |name: &str| EntryName::from(&KeyName::new(name).unwrap());
        let junk = SecretBytes::from(b"no record".as_slice());
        store.create(&entry("b"), &junk).await.unwrap();
        let mut restored = Restored::default();
        write_all(&archive, &store, &mut restored).await.ok().unwrap();
        // A key that is damaged between the restore and the proof.
        store.delete(&entry("a")).await.unwrap();
        store.create(&entry("a"), &junk).await.unwrap();
        prove_all(&archive, &store, &mut restored).await.ok().unwrap();
        assert_eq!((restored.stored, restored.proven), (2, 1));
        let failed: Vec<_> = restored.failed.iter().map(|note| note.key.as_str()).collect();
        assert_eq!(failed, ["b", "a"]);
        assert!(restored.failed[1].why.contains("the proof failed"));
        assert!(!restored.is_whole());
    }

    #[tokio::test]
    async fn a_version_that_is_disabled_at_the_target_only_is_a_conflict() {
        let directory = tempfile::tempdir().unwrap();
        let (path, identities) = archive_of(directory.path(), &["a"]).await;
        let archive = Archive::of(&path, identities).ok().unwrap();
        let store = Arc::new(MemoryStore::new());
        write_all(&archive, &store, &mut Restored::default()).await.ok().unwrap();
        let soon = Duration::from_millis(1);
        let ring = KeyRing::new(Arc::clone(&store), CacheConfig::new().with_any(soon).with_unused(soon));
        let (name, caller) = (KeyName::new("a").unwrap(), Identity::of_program("a test"));
        ring.client(caller).rotate(&name).await.unwrap();
        tokio::time::sleep(5 * soon).await;
        ring.retire(&Request::new(caller, Duration::from_secs(10)), &name, 1).await.unwrap();

        let mut restored = Restored::default();
        write_all(&archive, &store, &mut restored).await.ok().unwrap();
        prove_all(&archive, &store, &mut restored).await.ok().unwrap();
        assert_eq!((restored.there, restored.proven), (0, 0));
        let why = &restored.conflicts[0].why;
        assert!(why.contains("'kms key enable a --version 1' enables it"), "{why}");
        assert!(!restored.is_whole());
    }

    #[tokio::test]
    async fn a_short_outage_is_waited_for_and_a_long_one_ends_the_rest() {
        let calls = std::cell::Cell::new(0);
        let outage = || Error::new(ErrorKind::Unreachable, "a test");
        let short = async || {
            calls.set(calls.get() + 1);
            if calls.get() < 4 { Err(outage()) } else { Ok(()) }
        };
        patiently(&[Duration::ZERO; 4], short).await.unwrap();
        assert_eq!(calls.get(), 4);
        calls.set(0);
        let long = async || {
            calls.set(calls.get() + 1);
            Err::<(), _>(outage())
        };
        assert!(patiently(&[Duration::ZERO; 4], long).await.is_err());
        assert_eq!(calls.get(), 5);
        let denied = async || Err::<(), _>(Error::new(ErrorKind::Denied, "a test"));
        assert!(patiently(&PAUSES, denied).await.is_err());

        let directory = tempfile::tempdir().unwrap();
        let (path, identities) = archive_of(directory.path(), &["a", "b"]).await;
        let archive = Archive::of(&path, identities).ok().unwrap();
        let mut restored = Restored { is_away: true, ..Restored::default() };
        write_all(&archive, &MemoryStore::new(), &mut restored).await.ok().unwrap();
        prove_all(&archive, &MemoryStore::new(), &mut restored).await.ok().unwrap();
        assert_eq!((restored.stored, restored.proven, restored.failed.len()), (0, 0, 2));
        assert!(restored.failed[0].why.contains("not tried"));
    }
}
