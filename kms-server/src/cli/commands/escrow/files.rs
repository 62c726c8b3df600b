//! The escrow files that a command reads.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use kms_core::primitives::open_file;
use serde::Serialize;

use crate::cli::failure::Failure;
use crate::escrow::{Contents, FORMAT, FlawKind, Held, State, held, tell_apart};
use crate::host::files;
use crate::recipients::Identities;

/// What is told of one file.
#[derive(Serialize)]
pub struct FileReport {
    pub file: PathBuf,
    pub lines: u64,
    /// The last batch, and when it was written. What a later one said is not in the file any more if there was one.
    pub last_batch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_at: Option<String>,
    /// What may concern something that was acknowledged.
    pub damage: Vec<String>,
    /// What a write that was cut off left.
    pub torn: Vec<String>,
}

/// A record that is not restored.
#[derive(Serialize)]
pub struct LeftRecord {
    pub entry: String,
    pub fingerprint: String,
    /// What '--fingerprint' takes for this record and for no other one of its key.
    pub record: String,
    pub state: &'static str,
    pub why: &'static str,
    pub at: String,
}

impl LeftRecord {
    pub fn new(one: &Held, why: &'static str) -> Self {
        Self {
            entry: one.subject.name.to_string(),
            fingerprint: one.subject.fingerprint.to_string(),
            record: one.subject.what(),
            state: one.state.word(),
            why,
            at: one.at.to_string(),
        }
    }

    /// Returns whether somebody has to decide about the record.
    pub fn is_open(&self) -> bool {
        [State::Unmarked, State::Stored, State::Removing, State::Replaced]
            .iter()
            .any(|state| self.state == state.word())
    }

    /// Returns the record as a line for people.
    pub fn line(&self) -> String {
        let Self { entry, record, why, at, .. } = self;
        format!("Left: '{entry}' ({record}) of {at}: {why}")
    }
}

/// Reads all files. Records are kept if there is something that opens them.
pub fn read(
    paths: &[PathBuf],
    identities: Option<&Identities>,
) -> Result<(Vec<FileReport>, Vec<Held>), Failure> {
    let (mut reports, mut all) = (Vec::new(), Vec::new());
    for path in paths {
        let mut contents = read_one(path, identities.is_some())?;
        if let Some(identities) = identities {
            tell_apart(&mut contents, identities);
        }
        let of_kind = |is_damage: bool| {
            let flaws = contents.flaws.iter().filter(|flaw| (flaw.kind == FlawKind::Damage) == is_damage);
            flaws.map(|flaw| flaw.what.clone()).collect()
        };
        let (damage, torn) = (of_kind(true), of_kind(false));
        reports.push(FileReport {
            file: path.clone(),
            lines: contents.lines,
            last_batch: contents.batch,
            last_at: contents.at.map(|at| at.to_string()),
            damage,
            torn,
        });
        all.push(contents);
    }
    Ok((reports, held(all)))
}

fn read_one(path: &Path, keep_records: bool) -> Result<Contents, Failure> {
    let failed = |error: &std::io::Error| Failure::new(files::failed(path, error));
    let file = open_file(path).map_err(|error| failed(&error))?;
    let contents = Contents::read(BufReader::new(file), keep_records).map_err(|error| failed(&error))?;
    match contents.version.as_deref() {
        None if contents.batch == 0 => Err(Failure::new(format!(
            "{}: it is no escrow file, or none of its lines is legible",
            path.display()
        ))),
        Some(version) if version != FORMAT => Err(Failure::new(format!(
            "{}: it has version {version} of the format, and this program knows version {FORMAT}",
            path.display()
        ))),
        _ => Ok(contents),
    }
}
