//! `kms backup drill`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kms_core::store::MemoryStore;
use kms_core::transfer::{Probe, StoredKey, Written};
use kms_core::{CacheConfig, Client, Identity, KeyRing};

use super::archive::{Archive, OpenFlags, counted};
use crate::backup::evidence::{self, Evidence, FORMAT, LastGood, last_good};
use crate::backup::{CLOCKS, Manifest, Stored, Time};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;
use crate::config::parse_long_duration;
use crate::host::files;
use crate::host::platform::VERSION;

/// The arguments of `kms backup drill`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    open: OpenFlags,
    /// The file of evidence, which is replaced; any other file that is there is left alone. A server whose setting backup.drill_evidence names it has a metric of it.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The most time since the backup was made, such as 25h or 7d. Without it a backup of any age is good.
    #[arg(long, value_name = "TIME", value_parser = parse_long_duration)]
    max_age: Option<Duration>,
    /// Accept a backup without keys.
    #[arg(long)]
    allow_empty: bool,
    /// Accept a backup that left out keys that were not deleted while it was made, which 'kms backup verify' names.
    #[arg(long)]
    allow_left_out: bool,
    /// Print the evidence as JSON.
    #[arg(long)]
    json: bool,
}

/// Makes a drill. It fails if the drill does, and writes the evidence in any case.
pub fn run(args: &Args) -> Result<(), Failure> {
    evidence::refuse_other(&args.output).map_err(|error| not_written(&args.output, &error))?;
    let path = args.open.file.display().to_string();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let archive = evidence::Archive { path, sha256: None, bytes: None, age_seconds: None, manifest: None };
    let LastGood { ended, snapshot } = last_good(&args.output);
    let mut evidence = Evidence {
        format: FORMAT.to_owned(),
        program: format!("kms {VERSION}"),
        host,
        began: Time::now(),
        ended: Time::now(),
        archive,
        verdict: "bad".to_owned(),
        why: None,
        keys: 0,
        versions: 0,
        last_good: ended,
        last_good_snapshot: snapshot,
    };
    let done = Archive::open(&args.open)
        .and_then(|archive| block_on(drill(&archive, &mut evidence))?)
        .and_then(|manifest| args.judge(&manifest, evidence.began).map(|()| manifest.began));
    evidence.ended = Time::now();
    match &done {
        Ok(snapshot) => {
            "good".clone_into(&mut evidence.verdict);
            evidence.last_good = Some(evidence.ended);
            evidence.last_good_snapshot = Some(*snapshot);
        }
        Err(failure) => evidence.why = Some(failure.to_string()),
    }
    write(&args.output, &evidence).map_err(|why| match &done {
        Ok(_) => why,
        Err(failure) => Failure::new(format!("{failure}; and the evidence was not written: {why}")),
    })?;
    let output = Output::new(args.json);
    if output.is_json() {
        output.json(&evidence)?;
    }
    done?;
    if output.is_json() {
        return Ok(());
    }
    output.line(format_args!(
        "good: {} with {} restored into memory, each opened what it had sealed; evidence: {}",
        counted(evidence.keys, "key"),
        counted(evidence.versions, "version"),
        args.output.display()
    ))
}

impl Args {
    /// Refuses a backup that is whole and would still bring nobody the keys of today.
    fn judge(&self, manifest: &Manifest, now: Time) -> Result<(), Failure> {
        let fails = |why: String| Err(Failure::new(format!("{}: {why}", self.open.file.display())));
        let Manifest { began, keys, .. } = manifest;
        if *keys == 0 && !self.allow_empty {
            return fails("it has no keys; --allow-empty accepts that".to_owned());
        }
        // What was deleted while the backup was made, nobody misses.
        if manifest.lacking() != 0 && !self.allow_left_out {
            let what = counted(manifest.lacking(), "key");
            return fails(format!(
                "it left out {what}, which 'kms backup verify' names; --allow-left-out accepts that"
            ));
        }
        if now.age(*began) > CLOCKS {
            return fails(format!("it is as of {}, which is still to come: a clock is wrong", began.0));
        }
        let age = u64::try_from(began.age(now)).unwrap_or(u64::MAX);
        if self.max_age.is_some_and(|most| age > most.as_secs()) {
            return fails(format!("it is as of {}, which is longer ago than --max-age", began.0));
        }
        Ok(())
    }
}

fn write(path: &Path, evidence: &Evidence) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(evidence).map_err(|error| Failure::new(error.to_string()))?;
    text.push(b'\n');
    files::replace(path, &text, files::PUBLIC).map_err(|error| not_written(path, &error))
}

fn not_written(path: &Path, error: &io::Error) -> Failure {
    Failure::new(files::failed(path, error))
}

async fn drill(archive: &Archive<'_>, evidence: &mut Evidence) -> Result<Manifest, Failure> {
    let (sha256, bytes) = (archive.sha256().to_owned(), archive.len());
    (evidence.archive.sha256, evidence.archive.bytes) = (Some(sha256), Some(bytes));
    let store = Arc::new(MemoryStore::new());
    let ring = KeyRing::new(Arc::clone(&store), CacheConfig::default());
    let client = ring.client(Identity::of_program("kms backup drill"));
    let mut reader = archive.reader()?;
    while let Some(stored) = archive.next(&mut reader)? {
        let name = stored.key.name();
        prove(&store, &client, &stored).await.map_err(|why| why.context(&format!("key '{name}'")))?;
        evidence.keys += 1;
        evidence.versions += u64::from(stored.key.versions());
    }
    let manifest = archive.manifest(reader)?;
    evidence.archive.age_seconds = Some(manifest.began.age(evidence.began));
    evidence.archive.manifest = Some(manifest.clone());
    Ok(manifest)
}

/// Restores a key into memory and opens what it had sealed: as a server would, where a server would.
async fn prove(store: &Arc<MemoryStore>, client: &Client, stored: &Stored) -> Result<(), Failure> {
    let Stored { key, probes } = stored;
    let name = key.name();
    if key.write(store).await? != Written::Stored {
        return Err(Failure::new("it is there twice"));
    }
    StoredKey::read(store, name).await?.open_probes(probes)?;
    // A server opens nothing under a deleted key, or under a disabled version.
    if key.is_deleted() {
        return Ok(());
    }
    let context = name.as_str().as_bytes();
    for probe in probes.iter().filter(|probe| !key.disabled().any(|number| number == probe.version)) {
        let opened = client.decrypt(name, &probe.ciphertext, context).await?;
        if opened.expose() != Probe::text() {
            return Err(Failure::new(format!("version {} opened another text", probe.version)));
        }
        if let Some(hmac) = probe.hmac
            && client.hmac(name, Probe::text()).await? != hmac
        {
            return Err(Failure::new("its HMAC is another one"));
        }
    }
    Ok(())
}
