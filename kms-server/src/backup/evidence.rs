//! The evidence of a drill: a dated file that says of which archive every key opened, or why not.

use std::io::{self, ErrorKind};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::facts::Manifest;
use super::time::Time;

/// The most bytes of a file of evidence.
const MAX_EVIDENCE: u64 = 4 << 20;

/// The form of the file.
pub const FORMAT: &str = "kms-drill/1";

/// What a drill found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The form of the file, [`FORMAT`].
    pub format: String,
    /// The program that made the drill, with its version.
    pub program: String,
    /// The name of the machine.
    pub host: String,
    /// When the drill began.
    pub began: Time,
    /// When it ended.
    pub ended: Time,
    /// The archive.
    pub archive: Archive,
    /// `good` if the archive has keys and lacks none that was listed and not deleted meanwhile, it is as young as the drill demands, and every key of it
    /// opened what it had sealed; `bad` otherwise.
    pub verdict: String,
    /// Why the verdict is bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The number of keys that were restored.
    pub keys: u64,
    /// The number of versions whose probes opened.
    pub versions: u64,
    /// When the last good drill ended, this one or one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Time>,
    /// As of when the archive of the last good drill was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good_snapshot: Option<Time>,
}

/// The archive of a drill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// Its path, as it was given.
    pub path: String,
    /// SHA-256 of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How old the snapshot was when the drill began, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<i64>,
    /// What the archive says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
}

/// The last good drill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastGood {
    /// When it ended.
    pub ended: Option<Time>,
    /// As of when its archive was.
    pub snapshot: Option<Time>,
}

impl LastGood {
    /// Returns how many seconds ago it ended, and how many seconds old its archive is. What a wrong clock dated proves no age.
    pub fn ages(self) -> [Option<i64>; 2] {
        let now = Time::now();
        [self.ended, self.snapshot].map(|time| time.and_then(|time| time.age_if_past(now)))
    }
}

/// Returns the last good drill of the evidence in a file: without times if there was none, or the file cannot be read.
pub fn last_good(file: &Path) -> LastGood {
    read(file).map_or_else(LastGood::default, |evidence| LastGood {
        ended: evidence.last_good,
        snapshot: evidence.last_good_snapshot,
    })
}

/// Refuses a file that is there and is no evidence of a drill, of whichever form: a drill replaces its file.
///
/// An empty file is accepted.
pub fn refuse_other(file: &Path) -> io::Result<()> {
    /// What every form of evidence begins with.
    #[derive(Deserialize)]
    struct Form {
        format: String,
    }
    let found = match file.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let is_evidence = || {
        let form: Option<Form> = serde_json::from_slice(&std::fs::read(file)?).ok();
        Ok::<_, io::Error>(form.is_some_and(|form| form.format.starts_with("kms-drill/")))
    };
    let is_own = found.is_file() && found.len() <= MAX_EVIDENCE && (found.len() == 0 || is_evidence()?);
    if is_own {
        Ok(())
    } else {
        Err(io::Error::other("it is there and no evidence of a drill: it is not replaced"))
    }
}

fn read(file: &Path) -> Option<Evidence> {
    let found = file.metadata().ok()?;
    if !found.is_file() || found.len() > MAX_EVIDENCE {
        return None;
    }
    let evidence: Evidence = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    Some(evidence).filter(|evidence| evidence.format == FORMAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_evidence_and_empty_files_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        refuse_other(&path).unwrap();
        for text in ["", r#"{"format":"kms-drill/1"}"#, r#"{"format":"kms-drill/2","more":[]}"#] {
            std::fs::write(&path, text).unwrap();
            refuse_other(&path).unwrap();
        }
        for text in ["age-encryption.org/v1\n", "{}", r#"{"format":"kms-backup/1"}"#] {
            std::fs::write(&path, text).unwrap();
            assert!(refuse_other(&path).is_err(), "{text}");
        }
        assert!(refuse_other(Path::new("/dev/null")).is_err());
        assert!(refuse_other(directory.path()).is_err());
    }
}
