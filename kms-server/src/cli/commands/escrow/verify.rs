//! `kms escrow verify`: whether escrow files are whole, and what is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use kms_core::store::{EntryName, KeyStore};
use kms_core::transfer::{StoredKey, names};
use kms_core::{ErrorKind, KeyName};
use serde::Serialize;

use super::files::{self, FileReport, LeftRecord};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;
use crate::config::{self, Environment};
use crate::escrow::{Choice, Held, Plan, State, Subject, Subjects, open_record, subject};
use crate::recipients::Identities;
use crate::store::plain::{self, Purpose};

#[derive(clap::Args)]
pub struct Args {
    /// The escrow files: those of all servers of one key store.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The secret key of a recipient, as age-keygen made it: each record is opened and compared with its fingerprint.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The config of a server: each key of its key store has to be in the files.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Serialize)]
struct Report {
    files: Vec<FileReport>,
    keys: Vec<Key>,
    left: Vec<LeftRecord>,
    /// How many records were opened; absent without an identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    opened: Option<usize>,
    /// How many keys the key store has; absent without a config.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_store: Option<usize>,
    /// The keys that a restore would bring back and the key store does not have; absent without a config.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_in_store: Option<Vec<String>>,
    problems: Vec<String>,
}

/// A key that a restore would bring back.
#[derive(Serialize)]
struct Key {
    name: String,
    fingerprint: String,
    versions: usize,
    at: String,
}

/// Prints the findings, and fails if something is wrong.
pub fn run(args: &Args, environment: &Environment) -> Result<(), Failure> {
    let identities = args.identity.as_deref().map(Identities::from_file).transpose().map_err(Failure::new)?;
    let (files, held) = files::read(&args.files, identities.as_ref())?;
    let plan = Plan::of(&held, &[]);
    let left = plan.left.iter().map(|(index, why)| LeftRecord::new(&held[*index], why)).collect();
    let keys = plan.choices.iter().map(|(name, choice)| {
        let Held { subject, at, .. } = &held[choice.key];
        let (fingerprint, at) = (subject.fingerprint.to_string(), at.to_string());
        Key { name: name.to_string(), fingerprint, versions: 1 + choice.versions.len(), at }
    });
    let keys = keys.collect();
    let mut problems: Vec<String> = files
        .iter()
        .flat_map(|file| file.damage.iter().map(|what| format!("{}: {what}", file.file.display())))
        .collect();
    let opened = identities.map(|identities| open_all(&held, &plan, &identities, &mut problems));
    problems.extend(plan.ambiguous.iter().map(|(name, fingerprints)| {
        let all: Vec<&str> = fingerprints.iter().map(String::as_str).collect();
        format!(
            "several keys have the name '{name}', so a restore takes none without --fingerprint: {}",
            all.join(", ")
        )
    }));
    problems.extend(plan.in_doubt.iter().map(|(name, fingerprints)| {
        let all: Vec<&str> = fingerprints.iter().map(String::as_str).collect();
        format!(
            "the removal of key '{name}' began, and nothing says whether it ended, so a restore takes it only by --fingerprint \
             {}; the next start of the server finds out",
            all.join(", ")
        )
    }));
    let compared = match &args.config {
        None => None,
        Some(config) => {
            let settings = config::load(config, environment)?.settings;
            let compared = block_on(async {
                let store = plain::open(&settings.key_store, Purpose::Read).await?;
                compare(&*store, &held, &plan, &mut problems).await.map_err(Failure::from)
            })?;
            Some(compared?)
        }
    };
    let (in_store, not_in_store) = compared.unzip();
    let report = Report { files, keys, left, opened, in_store, not_in_store, problems };
    let output = Output::new(args.json);
    if output.is_json() {
        output.json(&report)?;
    } else {
        print(&report, output)?;
    }
    match report.problems.len() {
        0 => Ok(()),
        1 => Err(Failure::new("1 problem")),
        count => Err(Failure::new(format!("{count} problems"))),
    }
}

/// Opens each record. A record of which another copy opens is no problem.
fn open_all(held: &[Held], plan: &Plan, identities: &Identities, problems: &mut Vec<String>) -> usize {
    let (mut opened, mut failed) = (Vec::new(), Vec::new());
    let may_be_needed = [State::Stored, State::Deleted, State::Removing, State::Replaced];
    for one in held.iter().filter(|one| may_be_needed.contains(&one.state)) {
        match open_record(one, identities) {
            Ok(_) => opened.push(&one.subject),
            Err(why) => failed.push((&one.subject, why)),
        }
    }
    let count = opened.len();
    let opened = Subjects::of(opened.into_iter());
    problems.extend(failed.into_iter().filter(|(subject, _)| !opened.may_have(subject)).map(|(_, why)| why));
    for (name, choice) in &plan.choices {
        if choice.records().all(|index| opened.may_have(&held[index].subject)) {
            match choice.open(name, held, identities) {
                Ok(opened) => problems.extend(opened.missing),
                Err(why) => problems.push(why),
            }
        }
    }
    count
}

/// Looks for each key of the store among what a restore would bring back. Returns the number of keys of the store, and the keys
/// that a restore would bring back and the store does not have.
async fn compare(
    store: &dyn KeyStore,
    held: &[Held],
    plan: &Plan,
    problems: &mut Vec<String>,
) -> kms_core::Result<(usize, Vec<String>)> {
    let in_store = [State::Stored, State::Deleted, State::Removing];
    let there = held.iter().filter(|one| in_store.contains(&one.state) && !one.is_damaged);
    let in_escrow: BTreeSet<&str> = there.clone().map(|one| &*one.subject.name).collect();
    let there = Subjects::of(there.map(|one| &one.subject));
    let restored = plan.choices.values().flat_map(Choice::records).map(|index| &held[index].subject);
    let restored = Subjects::of(restored);
    let names = names(store).await?;
    // A store may keep deleted keys and not list them.
    let unlisted = plan.choices.keys().filter(|name| names.binary_search(name).is_err());
    let mut absent = Vec::new();
    for name in names.iter().chain(unlisted) {
        let is_restored = plan.choices.contains_key(name);
        let key = match StoredKey::read(store, name).await {
            Ok(key) => key,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                absent.extend(is_restored.then(|| name.to_string()));
                continue;
            }
            Err(error) if error.kind().is_outage() => return Err(error),
            // Which key it is cannot be read until it is restored there.
            Err(error) if error.kind() == ErrorKind::Deleted => {
                if is_restored {
                    problems.push(back(name));
                } else if !in_escrow.contains(name.as_str()) {
                    problems.push(format!(
                        "key '{name}' is deleted in the key store, and no key of its name is in escrow"
                    ));
                }
                continue;
            }
            Err(error) => {
                problems.push(format!("key '{name}' of the key store cannot be compared: {}", error.chain()));
                continue;
            }
        };
        if key.is_deleted() && versions(&key).iter().any(|(_, record)| restored.has(record)) {
            problems.push(back(name));
        }
        for (version, record) in versions(&key) {
            let what = if !there.has_key_of(&record) {
                "not in escrow"
            } else if !there.may_have(&record) {
                "in escrow only with another HMAC key or cipher"
            } else if !there.has(&record) {
                "the lines of it do not tell with which HMAC key: --identity does, and a start of its server adds it"
            } else if !key.is_deleted() && !restored.has(&record) {
                "a restore from escrow would not bring it back"
            } else {
                continue;
            };
            problems.push(format!(
                "version {version} of key '{name}' ({}) is in the key store, and {what}",
                record.fingerprint
            ));
        }
    }
    Ok((names.len(), absent))
}

/// Tells that a restore would bring a deleted key back.
fn back(name: &KeyName) -> String {
    format!("key '{name}' is deleted in the key store, and a restore from escrow would bring it back")
}

/// Returns the record of each version of a key, in their order.
fn versions(key: &StoredKey) -> Vec<(u32, Subject)> {
    let (name, first) = (key.name(), key.fingerprint());
    let numbers: BTreeMap<EntryName, u32> =
        (2..=key.versions()).map(|number| (EntryName::version(name, &first, number), number)).collect();
    let entries = key.entries().into_iter().filter_map(|(entry, content)| {
        let version = if entry.is_hidden() { *numbers.get(&entry)? } else { 1 };
        Some((version, subject(entry.as_str(), content)))
    });
    let mut versions: Vec<_> = entries.collect();
    versions.sort_unstable();
    versions
}

fn print(report: &Report, output: Output) -> Result<(), Failure> {
    for FileReport { file, lines, last_batch, last_at, damage, torn } in &report.files {
        let state = if damage.is_empty() { "whole" } else { "damaged" };
        let at = last_at.as_deref().unwrap_or("no time");
        output.line(format_args!(
            "{}: {lines} lines, {state}; it ends with batch {last_batch} of {at}",
            file.display()
        ))?;
        output.lines(torn.iter().map(|what| format!("  cut off while it was written: {what}")))?;
    }
    for Key { name, fingerprint, versions, at } in &report.keys {
        let versions = if *versions == 1 { "1 version".to_owned() } else { format!("{versions} versions") };
        output.line(format_args!("Key: {name} ({fingerprint}), {versions}, since {at}"))?;
    }
    output.lines(report.left.iter().filter(|left| left.is_open()).map(LeftRecord::line))?;
    output.lines(report.problems.iter().map(|what| format!("Problem: {what}")))?;
    let removed = report.left.iter().filter(|left| !left.is_open()).count();
    output.line(format_args!(
        "{} keys; {removed} records of keys that were removed or refused",
        report.keys.len()
    ))?;
    if let Some(opened) = report.opened {
        output.line(format_args!(
            "{opened} records were opened, and have the fingerprints that their lines say"
        ))?;
    }
    if let Some(in_store) = report.in_store {
        output.line(format_args!("{in_store} keys of the key store were looked for"))?;
    }
    for name in report.not_in_store.iter().flatten() {
        output.line(format_args!(
            "Not in the key store: {name}. A restore would bring it back, though it may have been removed"
        ))?;
    }
    Ok(())
}
