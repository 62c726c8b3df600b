//! `kms escrow restore`: brings the keys in escrow files back into a key store, and proves it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kms_core::KeyName;
use kms_core::store::KeyStore;
use kms_core::transfer::{StoredKey, Written};
use serde::Serialize;

use super::files::{self, FileReport, LeftRecord};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;
use crate::config::{self, Environment};
use crate::escrow::{self, Plan};
use crate::recipients::Identities;
use crate::store::plain::{self, Purpose};

#[derive(clap::Args)]
pub struct Args {
    /// The escrow files: those of all servers of one key store.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The secret key of a recipient, as age-keygen made it.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// The config of the key store that gets the keys. A local store's server must not run.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Also take a record that would be left, by its fingerprint as the files say it: 32 hex digits, and a dot and 16 more where
    /// several records have it.
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    fingerprint: Vec<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Serialize)]
struct Report {
    files: Vec<FileReport>,
    keys: Vec<Key>,
    left: Vec<LeftRecord>,
}

#[derive(Serialize)]
struct Key {
    name: String,
    fingerprint: String,
    versions: u32,
    /// Whether the key in the store opens what the key in escrow sealed.
    proven: bool,
    what: String,
}

/// A key as it was opened, or why it cannot be restored.
struct Opened {
    name: KeyName,
    fingerprint: String,
    key: Result<escrow::Opened, String>,
}

/// Writes each key, reads it back, and fails if one is not proven.
pub fn run(args: &Args, environment: &Environment) -> Result<(), Failure> {
    let identities = Identities::from_file(&args.identity).map_err(Failure::new)?;
    let (files, held) = files::read(&args.files, Some(&identities))?;
    let plan = Plan::of(&held, &args.fingerprint);
    if let Some(unknown) = plan.unknown.first() {
        return Err(Failure::new(format!("no record in these files has the fingerprint {unknown}")));
    }
    let left = plan.left.iter().map(|(index, why)| LeftRecord::new(&held[*index], why)).collect();
    // Everything is opened before anything is written.
    let opened: Vec<_> = plan
        .choices
        .iter()
        .map(|(name, choice)| Opened {
            name: name.clone(),
            fingerprint: held[choice.key].subject.fingerprint.to_string(),
            key: choice.open(name, &held, &identities),
        })
        .collect();
    let settings = config::load(&args.to, environment)?.settings;
    let keys = block_on(async {
        let store = plain::open(&settings.key_store, Purpose::Write).await?;
        let mut keys: Vec<Key> = plan.ambiguous.iter().map(ambiguous).collect();
        keys.extend(plan.in_doubt.iter().map(in_doubt));
        for opened in opened {
            keys.push(restore(&*store, opened).await);
        }
        Ok::<_, Failure>(keys)
    })??;
    let report = Report { files, keys, left };
    let output = Output::new(args.json);
    if output.is_json() {
        output.json(&report)?;
    } else {
        print(&report, output)?;
    }
    let failed = report.keys.iter().filter(|key| !key.proven).count();
    let damaged: usize = report.files.iter().map(|file| file.damage.len()).sum();
    match (failed, damaged) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::new(format!(
            "all {} keys that the files name were restored, and the files are damaged in {damaged} places: \
             'kms escrow verify' names them",
            report.keys.len()
        ))),
        _ => Err(Failure::new(format!("{failed} of {} keys were not restored", report.keys.len()))),
    }
}

/// Returns what is told of a name that several keys have.
fn ambiguous((name, fingerprints): (&KeyName, &BTreeSet<String>)) -> Key {
    let why = "several keys have this name: --fingerprint takes one of";
    not_restored(name, why, fingerprints)
}

/// Returns what is told of a key that may have been removed.
fn in_doubt((name, fingerprints): (&KeyName, &BTreeSet<String>)) -> Key {
    let why = "its removal began, and nothing says whether it ended: if it is to live, --fingerprint takes";
    not_restored(name, why, fingerprints)
}

fn not_restored(name: &KeyName, why: &str, fingerprints: &BTreeSet<String>) -> Key {
    let all: Vec<&str> = fingerprints.iter().map(String::as_str).collect();
    let what = format!("not restored, since {why} {}", all.join(", "));
    Key { name: name.to_string(), fingerprint: String::new(), versions: 0, proven: false, what }
}

/// Writes one key, and opens with what is in the store then what this key sealed.
async fn restore(store: &dyn KeyStore, Opened { name, fingerprint, key }: Opened) -> Key {
    let report = |versions, proven, what| Key {
        name: name.to_string(),
        fingerprint: fingerprint.clone(),
        versions,
        proven,
        what,
    };
    let (key, missing) = match key {
        Ok(escrow::Opened { key, missing }) => (key, missing),
        Err(why) => return report(0, false, why),
    };
    let what = match key.write(store).await {
        Ok(Written::Stored) => "restored".to_owned(),
        Ok(Written::There { added: 0, .. }) => "there already".to_owned(),
        Ok(Written::There { added: 1, .. }) => "there already, 1 version was added".to_owned(),
        Ok(Written::There { added, .. }) => format!("there already, {added} versions were added"),
        Ok(Written::Other(other)) => {
            let other = hex::encode(other.as_bytes());
            return report(
                key.versions(),
                false,
                format!("another key has this name in the key store: {other}"),
            );
        }
        Ok(_) => return report(key.versions(), false, "what came of it is not known".to_owned()),
        Err(error) => return report(key.versions(), false, error.chain().to_string()),
    };
    let proof = async {
        let probes = key.seal_probes()?;
        StoredKey::read(store, &name).await?.open_probes(&probes)
    };
    match proof.await {
        Ok(()) => match missing {
            None => report(key.versions(), true, what),
            Some(why) => {
                let what = format!("{what} in part, up to version {}: {why}", key.versions());
                report(key.versions(), false, what)
            }
        },
        Err(error) => report(key.versions(), false, format!("{what}, and not proven: {}", error.chain())),
    }
}

fn print(report: &Report, output: Output) -> Result<(), Failure> {
    for FileReport { file, damage, torn, .. } in &report.files {
        output.lines(
            torn.iter().map(|what| format!("{}: cut off while it was written: {what}", file.display())),
        )?;
        output.lines(damage.iter().map(|what| format!("{}: damaged: {what}", file.display())))?;
    }
    for Key { name, fingerprint, what, .. } in &report.keys {
        output.line(format_args!("Key: {name} ({fingerprint}): {what}"))?;
    }
    output.lines(report.left.iter().map(LeftRecord::line))?;
    let proven = report.keys.iter().filter(|key| key.proven).count();
    output.line(format_args!(
        "{proven} of {} keys open what was sealed with their copies in escrow, in each version",
        report.keys.len()
    ))?;
    if report.keys.iter().any(|key| key.versions > 1) {
        output.line("Which versions were disabled is not in escrow: 'kms key retire' disables them again")?;
    }
    Ok(())
}

fn fingerprint(text: &str) -> Result<String, String> {
    let is_hex = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_one = match text.split_once('.') {
        Some((fingerprint, record)) => is_hex(fingerprint, 32) && is_hex(record, 16),
        None => is_hex(text, 32),
    };
    if is_one {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected 32 hexadecimal digits, and perhaps a dot and 16 more".to_owned())
    }
}
