//! Which keys a restore would bring back, and which records it would leave.

use std::collections::{BTreeMap, BTreeSet};

use kms_core::KeyName;
use kms_core::primitives::SecretBytes;
use kms_core::transfer::StoredKey;

use super::line::Subject;
use super::lives::{Held, State};
use super::seal;
use crate::recipients::Identities;

/// What a restore from some files would do. Numbers are those of the records.
pub struct Plan {
    /// The keys, by name.
    pub choices: BTreeMap<KeyName, Choice>,
    /// The records that are left, with the reason.
    pub left: Vec<(usize, &'static str)>,
    /// The names that several keys have, of which nothing says that one was removed before the other came. Two records of one key
    /// with different HMAC keys are two keys.
    pub ambiguous: BTreeMap<KeyName, BTreeSet<String>>,
    /// The keys that the store was asked to remove, of which nothing says whether it did.
    pub in_doubt: BTreeMap<KeyName, BTreeSet<String>>,
    /// The fingerprints that were asked for, and that no record has.
    pub unknown: Vec<String>,
}

/// A key that was opened.
pub struct Opened {
    /// The key, with the versions that could be opened.
    pub key: StoredKey,
    /// Why later versions are missing in it, if so.
    pub missing: Option<String>,
}

/// The records of one key.
pub struct Choice {
    /// The record of its first version.
    pub key: usize,
    /// The records of its later versions, by number.
    pub versions: BTreeMap<u32, usize>,
}

impl Plan {
    /// Chooses the records that the store has, and those with a fingerprint in `wanted`, where a dot and the mark of a record may
    /// follow it.
    pub fn of(held: &[Held], wanted: &[String]) -> Self {
        let is_wanted = |one: &Held| {
            let what = one.subject.what();
            wanted.iter().any(|wanted| **wanted == *one.subject.fingerprint || *wanted == what)
        };
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
        let ambiguous = ambiguous(held, is_wanted);
        choices.retain(|name, _| !ambiguous.contains_key(name));
        for (index, one) in held.iter().enumerate() {
            let Some((name, first, version)) = version_of(&one.subject.name) else { continue };
            let Some(choice) = choices.get_mut(name) else { continue };
            let key = &held[choice.key];
            if *first != *key.subject.fingerprint {
                continue;
            }
            // A key that is taken although it was removed comes with the versions that it had.
            let went_along = key.state != State::Stored && one.state == State::Gone;
            let is_there = matches!(one.state, State::Stored | State::Removing);
            if is_there || went_along || is_wanted(one) {
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
        let mut in_doubt: BTreeMap<KeyName, BTreeSet<String>> = BTreeMap::new();
        let subjects = Subjects::of(taken.iter().map(|taken| &held[*taken].subject));
        for (index, one) in held.iter().enumerate() {
            if !subjects.may_have(&one.subject) {
                if let Ok(name) = KeyName::new(&*one.subject.name)
                    && one.state == State::Removing
                    && !choices.contains_key(&name)
                    && !ambiguous.contains_key(&name)
                {
                    in_doubt.entry(name).or_default().insert(one.subject.what());
                }
                let is_ambiguous = one.state == State::Stored && ambiguous.contains_key(&*one.subject.name);
                left.push((index, if is_ambiguous { SEVERAL } else { why_left(one) }));
            }
        }
        let is_unknown = |wanted: &&String| {
            held.iter().all(|one| *one.subject.fingerprint != ***wanted && one.subject.what() != **wanted)
        };
        let unknown = wanted.iter().filter(is_unknown).cloned().collect();
        Self { choices, left, ambiguous, in_doubt, unknown }
    }
}

/// Records, to find out whether one of them may be another one.
#[derive(Default)]
pub struct Subjects<'a>(BTreeMap<(&'a str, &'a str), BTreeSet<Option<[u8; 8]>>>);

impl<'a> Subjects<'a> {
    /// Takes in records.
    pub fn of(subjects: impl Iterator<Item = &'a Subject>) -> Self {
        let mut all = Self::default();
        for Subject { name, fingerprint, record } in subjects {
            all.0.entry((name, fingerprint)).or_default().insert(*record);
        }
        all
    }

    /// Returns whether this very record is among them.
    pub fn has(&self, one: &Subject) -> bool {
        self.records(one).is_some_and(|records| records.contains(&one.record))
    }

    /// Returns whether this record may be among them: some lines do not tell which record of their key they mean.
    pub fn may_have(&self, one: &Subject) -> bool {
        let may_be = |records: &BTreeSet<_>| one.record.is_none() || records.contains(&None) || self.has(one);
        self.records(one).is_some_and(may_be)
    }

    /// Returns whether a record of the same key is among them.
    pub fn has_key_of(&self, one: &Subject) -> bool {
        self.records(one).is_some()
    }

    fn records<'b>(&'b self, one: &'b Subject) -> Option<&'b BTreeSet<Option<[u8; 8]>>> {
        self.0.get(&(&*one.name, &*one.fingerprint))
    }
}

impl Choice {
    /// Returns the numbers of all records.
    pub fn records(&self) -> impl Iterator<Item = usize> {
        [self.key].into_iter().chain(self.versions.values().copied())
    }

    /// Opens the records, and puts the key together. If a version cannot be opened, those before it make the key.
    ///
    /// # Errors
    ///
    /// A text that says what is wrong, and with which entry.
    pub fn open(&self, name: &KeyName, held: &[Held], identities: &Identities) -> Result<Opened, String> {
        let mut entries = vec![open(&held[self.key], identities)?];
        let mut missing = None;
        for (expected, (version, index)) in (2..).zip(&self.versions) {
            if *version != expected {
                missing = Some(format!("version {expected} is not in escrow"));
                break;
            }
            match open(&held[*index], identities) {
                Ok(entry) => entries.push(entry),
                Err(why) => {
                    missing = Some(why);
                    break;
                }
            }
        }
        loop {
            let copy = entries.iter().map(|(entry, record)| (entry.clone(), record.expose().into()));
            match StoredKey::from_entries(name, copy) {
                Ok(key) => return Ok(Opened { key, missing }),
                Err(error) if entries.len() == 1 => return Err(error.chain().to_string()),
                Err(error) => {
                    missing = Some(error.chain().to_string());
                    entries.pop();
                }
            }
        }
    }
}

/// Returns the names that several keys have if none of them is asked for, or that several records have of a key that is asked for.
fn ambiguous(held: &[Held], is_wanted: impl Fn(&Held) -> bool) -> BTreeMap<KeyName, BTreeSet<String>> {
    let mut names: BTreeMap<KeyName, BTreeSet<&Subject>> = BTreeMap::new();
    let mut decided: BTreeMap<KeyName, BTreeSet<&Subject>> = BTreeMap::new();
    for one in held {
        let Ok(name) = KeyName::new(&*one.subject.name) else { continue };
        if is_wanted(one) {
            decided.entry(name).or_default().insert(&one.subject);
        } else if one.state == State::Stored {
            names.entry(name).or_default().insert(&one.subject);
        }
    }
    names.retain(|name, _| !decided.contains_key(name));
    // Of several keys that are asked for, the later one counts.
    decided.retain(|_, subjects| {
        subjects.iter().any(|one| subjects.iter().any(|other| is_another_record(one, other)))
    });
    let several = names.into_iter().filter_map(|(name, subjects)| {
        let is_one = subjects.iter().all(|one| subjects.iter().all(|other| one.may_be(other)));
        (!is_one).then_some((name, subjects))
    });
    several.chain(decided).map(|(name, subjects)| (name, in_words(&subjects))).collect()
}

fn is_another_record(one: &Subject, other: &Subject) -> bool {
    one.fingerprint == other.fingerprint && !one.may_be(other)
}

/// Returns what tells these keys apart: their fingerprints, and the marks of their records where these are needed.
fn in_words(subjects: &BTreeSet<&Subject>) -> BTreeSet<String> {
    let word = |one: &&Subject| {
        let is_needed = subjects.iter().any(|other| is_another_record(one, other));
        if is_needed { one.what() } else { one.fingerprint.to_string() }
    };
    subjects.iter().map(word).collect()
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
    if one.subject.may_be(&before.subject) {
        if one.is_damaged != before.is_damaged {
            return before.is_damaged;
        }
        // A line that does not tell which record it means is that of an earlier release.
        if one.subject.record.is_some() != before.subject.record.is_some() {
            return one.subject.record.is_some();
        }
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

const SEVERAL: &str = "several keys have its name, and nothing says which one is current";

fn why_left(one: &Held) -> &'static str {
    match one.state {
        State::Stored if version_of(&one.subject.name).is_some() => "its key is not restored",
        State::Stored => "a later key has its name",
        State::Unmarked => "nothing says that the key store took it",
        State::Refused => "the key store did not take it",
        State::Deleted => "its key was deleted",
        State::Removing => "its removal began, and nothing says whether it ended",
        State::Replaced => "another key had its name in the key store afterwards",
        State::Gone => "it was removed for ever",
    }
}
