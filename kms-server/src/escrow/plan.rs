//! Which keys a restore would bring back, and which records it would leave.

use std::collections::{BTreeMap, BTreeSet};

use kms_core::KeyName;
use kms_core::primitives::SecretBytes;
use kms_core::transfer::StoredKey;

use super::lives::{Held, State};
use super::seal;
use crate::recipients::Identities;

/// What a restore from some files would do. Numbers are those of the records.
pub struct Plan {
    /// The keys, by name.
    pub choices: BTreeMap<KeyName, Choice>,
    /// The records that are left, with the reason.
    pub left: Vec<(usize, &'static str)>,
    /// The fingerprints that were asked for, and that no record has.
    pub unknown: Vec<String>,
}

/// The records of one key.
pub struct Choice {
    /// The record of its first version.
    pub key: usize,
    /// The records of its later versions, by number.
    pub versions: BTreeMap<u32, usize>,
}

impl Plan {
    /// Chooses the records that the store has, and those with a fingerprint in `wanted`.
    pub fn of(held: &[Held], wanted: &[String]) -> Self {
        let is_wanted = |one: &Held| wanted.iter().any(|wanted| **wanted == *one.subject.fingerprint);
        let mut choices: BTreeMap<KeyName, Choice> = BTreeMap::new();
        for (index, one) in held.iter().enumerate() {
            let Ok(name) = KeyName::new(&*one.subject.name) else { continue };
            if one.state != State::Stored && !is_wanted(one) {
                continue;
            }
            let choice = choices.entry(name).or_insert(Choice { key: index, versions: BTreeMap::new() });
            let before = &held[choice.key];
            let is_better = match (is_wanted(one), is_wanted(before)) {
                (true, false) => true,
                (false, true) => false,
                _ => is_better(one, before),
            };
            if is_better {
                choice.key = index;
            }
        }
        for (index, one) in held.iter().enumerate() {
            let Some((name, first, version)) = version_of(&one.subject.name) else { continue };
            let Some(choice) = choices.get_mut(name) else { continue };
            let key = &held[choice.key];
            if *first != *key.subject.fingerprint {
                continue;
            }
            // A key that is taken although it was removed comes with the versions that it had.
            let went_along = key.state != State::Stored && one.state == State::Gone;
            if one.state == State::Stored || went_along || is_wanted(one) {
                let before = *choice.versions.entry(version).or_insert(index);
                if is_better(one, &held[before]) {
                    choice.versions.insert(version, index);
                }
            }
        }
        let taken: BTreeSet<usize> = choices
            .values()
            .flat_map(|choice| choice.versions.values().copied().chain([choice.key]))
            .collect();
        let mut left = Vec::new();
        let subjects: BTreeSet<_> = taken.iter().map(|taken| &held[*taken].subject).collect();
        for (index, one) in held.iter().enumerate() {
            if !subjects.contains(&one.subject) {
                left.push((index, why_left(one)));
            }
        }
        let unknown =
            wanted.iter().filter(|wanted| held.iter().all(|one| *one.subject.fingerprint != ***wanted));
        let unknown = unknown.cloned().collect();
        Self { choices, left, unknown }
    }
}

impl Choice {
    /// Returns the numbers of all records.
    pub fn records(&self) -> impl Iterator<Item = usize> {
        [self.key].into_iter().chain(self.versions.values().copied())
    }

    /// Opens the records, and puts the key together.
    ///
    /// # Errors
    ///
    /// A text that says what is wrong, and with which entry.
    pub fn open(&self, name: &KeyName, held: &[Held], identities: &Identities) -> Result<StoredKey, String> {
        let records = self.versions.values().chain([&self.key]);
        let entries: Result<Vec<_>, String> = records.map(|index| open(&held[*index], identities)).collect();
        StoredKey::from_entries(name, entries?).map_err(|error| error.chain().to_string())
    }
}

/// Opens one record. Returns it with the name of its entry.
///
/// # Errors
///
/// A text that says what is wrong, and with which entry.
pub fn open(one: &Held, identities: &Identities) -> Result<(String, SecretBytes), String> {
    let name = &one.subject.name;
    let failed = |why: &str| format!("entry '{name}' ({}): {why}", one.subject.fingerprint);
    let sealed = one.sealed.as_deref().ok_or_else(|| failed("its record is damaged"))?;
    let record = seal::open(identities, &one.subject, sealed).map_err(|why| failed(&why))?;
    Ok((name.to_string(), record))
}

/// Returns whether a record is to be taken instead of an earlier one of the same name.
///
/// The later key counts. Of one key, a record that is whole counts.
fn is_better(one: &Held, before: &Held) -> bool {
    if one.subject == before.subject && one.is_damaged != before.is_damaged {
        return before.is_damaged;
    }
    if one.file == before.file { one.place > before.place } else { one.at > before.at }
}

/// Returns the key, its fingerprint and the number of a version, by the name of an entry.
pub fn version_of(entry: &str) -> Option<(&str, &str, u32)> {
    let mut parts = entry.strip_prefix(".v/")?.split('/');
    let (name, first, version) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some((name, first, version.parse().ok()?))
}

fn why_left(one: &Held) -> &'static str {
    match one.state {
        State::Stored if version_of(&one.subject.name).is_some() => "its key is not restored",
        State::Stored => "a later key has its name",
        State::Unmarked => "nothing says that the key store took it",
        State::Refused => "the key store did not take it",
        State::Deleted => "its key was deleted",
        State::Gone => "it was removed for ever",
    }
}
