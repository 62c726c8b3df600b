//! `kms backup drill`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_core::store::MemoryStore;
use kms_core::transfer::{Probe, StoredKey, Written};
use kms_core::{CacheConfig, Client, Identity, KeyRing};

use super::archive::{Archive, OpenFlags, counted};
use crate::backup::Stored;
use crate::backup::Time;
use crate::backup::evidence::{self, Evidence, FORMAT, last_good};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;
use crate::host::files;
use crate::host::platform::VERSION;

/// The arguments of `kms backup drill`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    open: OpenFlags,
    /// The file of evidence, which is replaced. A server whose setting backup.drill_evidence names it has a metric of it.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print the evidence as JSON.
    #[arg(long)]
    json: bool,
}

/// Makes a drill. It fails if the drill does, and writes the evidence in any case.
pub fn run(args: &Args) -> Result<(), Failure> {
    let path = args.open.file.display().to_string();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let archive = evidence::Archive { path, sha256: None, bytes: None, age_seconds: None, manifest: None };
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
        last_good: last_good(&args.output),
    };
    let done = Archive::open(&args.open).and_then(|archive| block_on(drill(&archive, &mut evidence))?);
    evidence.ended = Time::now();
    match &done {
        Ok(()) => {
            "good".clone_into(&mut evidence.verdict);
            evidence.last_good = Some(evidence.ended);
        }
        Err(failure) => evidence.why = Some(failure.to_string()),
    }
    write(&args.output, &evidence).map_err(|why| match &done {
        Ok(()) => why,
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

fn write(path: &Path, evidence: &Evidence) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(evidence).map_err(|error| Failure::new(error.to_string()))?;
    text.push(b'\n');
    files::replace(path, &text, files::PUBLIC).map_err(|error| Failure::new(files::failed(path, &error)))
}

async fn drill(archive: &Archive<'_>, evidence: &mut Evidence) -> Result<(), Failure> {
    let (sha256, bytes) = archive.sha256()?;
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
    evidence.archive.manifest = Some(manifest);
    Ok(())
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
