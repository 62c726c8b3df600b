//! What an archive says of itself: of each key, and in its manifest.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kms_core::transfer::{Probe, StoredKey};
use kms_core::{KeyName, MAX_VERSIONS};
use serde::{Deserialize, Serialize};

use super::time::Time;

/// The form of the archive.
pub const FORMAT: &str = "kms-backup/1";

/// The path of the manifest, the last file.
pub const MANIFEST: &str = "manifest.json";

/// The name of the file that describes a key, the key's last.
pub const KEY_FILE: &str = "key.json";

/// The directory of the keys.
pub const KEYS: &str = "keys/";

/// The most names of keys without a copy in the archive that the manifest lists.
const MOST_LEFT_OUT: usize = 1000;

/// The most bytes of a reason in the manifest, which has to fit into one file.
const MAX_WHY: usize = 300;

/// What an archive says of one of its keys, in `key.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFacts {
    pub name: String,
    /// By version: the first is that of version 1.
    pub fingerprints: Vec<String>,
    pub deleted: bool,
    pub disabled: Vec<u32>,
    pub files: Vec<FileFacts>,
    pub probes: Vec<ProbeFacts>,
}

/// A file that holds an entry of a key.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    /// The path below the directory of the key.
    pub path: String,
    pub sha256: String,
}

/// A probe of one version.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeFacts {
    pub version: u32,
    /// In base64.
    pub ciphertext: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hmac: Option<String>,
}

/// A key that was listed and has no copy in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// The name of the key.
    pub name: String,
    /// Why there is no copy.
    pub why: String,
}

/// What an archive says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The form of the archive, [`FORMAT`].
    pub format: String,
    /// The program that made it, with its version.
    pub program: String,
    /// The kind of the key store.
    pub store: String,
    /// When the first names were listed. Every key that was there by then is in the archive, or among those left out.
    pub began: Time,
    /// When the last key had been read.
    pub ended: Time,
    /// The number of keys.
    pub keys: u64,
    /// The number of versions of all keys.
    pub versions: u64,
    /// The number of keys that are deleted and can be restored.
    pub deleted: u64,
    /// The number of files that hold entries.
    pub files: u64,
    /// The number of keys that were listed and have no copy.
    pub left_out: u64,
    /// How many of these were deleted for ever while the archive was made.
    #[serde(default)]
    pub deleted_meanwhile: u64,
    /// How many of these were left out since they cannot be read.
    pub unreadable: u64,
    /// The first of those that were left out.
    pub left_out_names: Vec<LeftOut>,
    /// SHA-256 of all files `key.json`, one after the other.
    pub sha256: String,
}

impl Manifest {
    /// Creates the manifest of an archive without keys.
    pub fn new(program: String, store: &str, began: Time) -> Self {
        Self {
            format: FORMAT.to_owned(),
            program,
            store: store.to_owned(),
            began,
            ended: began,
            keys: 0,
            versions: 0,
            deleted: 0,
            files: 0,
            left_out: 0,
            deleted_meanwhile: 0,
            unreadable: 0,
            left_out_names: Vec::new(),
            sha256: String::new(),
        }
    }

    /// Counts a key.
    pub fn count(&mut self, key: &KeyFacts) {
        self.keys += 1;
        self.versions += key.fingerprints.len() as u64;
        self.deleted += u64::from(key.deleted);
        self.files += key.files.len() as u64;
    }

    /// Returns whether the list of keys without a copy is as long as their number says.
    pub fn names_what_it_left_out(&self) -> bool {
        self.left_out_names.len() as u64 == self.left_out.min(MOST_LEFT_OUT as u64)
    }

    /// Counts a key without a copy.
    pub fn count_left_out(&mut self, name: &KeyName, why: &str) {
        self.left_out += 1;
        if self.left_out_names.len() < MOST_LEFT_OUT {
            let mut short = String::new();
            for char in why.chars() {
                if short.len() + char.len_utf8() > MAX_WHY {
                    break;
                }
                // A control character takes six bytes in JSON.
                short.push(if char.is_control() { ' ' } else { char });
            }
            self.left_out_names.push(LeftOut { name: name.to_string(), why: short });
        }
    }

    /// Counts a key without a copy that was deleted for ever since it was listed.
    pub fn count_deleted_meanwhile(&mut self, name: &KeyName) {
        self.deleted_meanwhile += 1;
        self.count_left_out(name, "it was deleted meanwhile");
    }

    /// Returns the number of keys that the archive lacks: those that were there when it was ended, and have no copy.
    pub fn lacking(&self) -> u64 {
        self.left_out.saturating_sub(self.deleted_meanwhile)
    }

    /// Counts a key without a copy that cannot be read.
    pub fn count_unreadable(&mut self, name: &KeyName, why: &str) {
        self.unreadable += 1;
        self.count_left_out(name, &format!("it cannot be read: {why}"));
    }
}

impl KeyFacts {
    /// Describes a key with the probes that it sealed. The files are in the order of [`StoredKey::entries`].
    pub fn of(key: &StoredKey, probes: &[Probe]) -> Self {
        let hex_of = |fingerprint: &kms_core::primitives::Fingerprint| hex::encode(fingerprint.as_bytes());
        let files = key.entries().into_iter().map(|(entry, bytes)| FileFacts {
            path: file_of(key, entry.as_str()),
            sha256: sha256(bytes.expose()),
        });
        let probes = probes.iter().map(|probe| ProbeFacts {
            version: probe.version,
            ciphertext: BASE64_STANDARD.encode(&probe.ciphertext),
            hmac: probe.hmac.map(hex::encode),
        });
        Self {
            name: key.name().to_string(),
            fingerprints: key.fingerprints().values().map(hex_of).collect(),
            deleted: key.is_deleted(),
            disabled: key.disabled().collect(),
            files: files.collect(),
            probes: probes.collect(),
        }
    }

    /// Decodes the probes: one for each version.
    pub fn probes(&self) -> Result<Vec<Probe>, String> {
        let numbers = self.probes.iter().map(|probe| probe.version);
        if !numbers.eq(1..=u32::try_from(self.fingerprints.len()).unwrap_or(u32::MAX)) {
            return Err("it does not have one probe for each version".to_owned());
        }
        let decode = |probe: &ProbeFacts| {
            let ciphertext = BASE64_STANDARD.decode(&probe.ciphertext).ok()?;
            let hmac = match &probe.hmac {
                None => None,
                Some(text) => Some(<[u8; 32]>::try_from(hex::decode(text).ok()?).ok()?),
            };
            Some(Probe::new(probe.version, ciphertext, hmac))
        };
        let probes: Option<Vec<_>> = self.probes.iter().map(decode).collect();
        probes.ok_or_else(|| "a probe cannot be decoded".to_owned())
    }
}

/// Returns SHA-256 in hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

/// Returns the path of the file that holds an entry of `key`, below the directory of the key.
pub fn file_of(key: &StoredKey, entry: &str) -> String {
    let (name, first) = (key.name(), hex::encode(key.fingerprint().as_bytes()));
    for (directory, entries) in [("versions", ".v"), ("disabled", ".x")] {
        if let Some(number) = entry.strip_prefix(&format!("{entries}/{name}/{first}/")) {
            return format!("{directory}/{number}");
        }
    }
    // The entries of a key are these, its first version and the marker of its deletion.
    if entry == name.as_str() { "versions/1".to_owned() } else { "deleted".to_owned() }
}

/// Returns the entry that a file of the key `name` holds. `first` is the fingerprint of the key, in hexadecimal.
pub fn entry_of(name: &KeyName, first: &str, file: &str) -> Option<String> {
    let number = |text: &str| {
        let number: u32 = text.parse().ok()?;
        ((1..=MAX_VERSIONS).contains(&number) && number.to_string() == text).then_some(number)
    };
    match file.split_once('/') {
        None if file == "deleted" => Some(format!(".d/{name}/{first}")),
        Some(("versions", "1")) => Some(name.to_string()),
        Some(("versions", text)) => number(text).map(|number| format!(".v/{name}/{first}/{number}")),
        Some(("disabled", text)) => number(text).map(|number| format!(".x/{name}/{first}/{number}")),
        _ => None,
    }
}
