//! What a move did, in words or as JSON, and whether that is a success.

use kms_core::KeyName;
use serde::Serialize;
use serde_json::json;

use super::moving::{Moved, Outcome};
use super::side::CameMeanwhile;
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// The end of a move.
pub struct Report {
    pub from: String,
    pub to: String,
    pub is_dry: bool,
    pub moved: Vec<Moved>,
    /// The keys of the target whose replacement by another key was cut off, and stays so.
    pub cut_off: Vec<KeyName>,
    /// What came to the source while the others moved.
    pub came_meanwhile: CameMeanwhile,
    /// What the move means beside the keys.
    pub told: Option<&'static str>,
}

/// The numbers of keys by what became of them.
#[derive(Default, Serialize)]
struct Counts {
    keys: usize,
    moved: usize,
    completed: usize,
    present: usize,
    replaced: usize,
    passed_over: usize,
    gone: usize,
    conflicts: usize,
    failed: usize,
    proven: usize,
}

impl Report {
    fn counts(&self) -> Counts {
        let mut counts = Counts { keys: self.moved.len(), ..Counts::default() };
        for one in &self.moved {
            counts.proven += usize::from(one.is_proven);
            *match &one.outcome {
                Outcome::Moved => &mut counts.moved,
                Outcome::There { added: 0, .. } => &mut counts.present,
                Outcome::There { .. } => &mut counts.completed,
                Outcome::Replaced { .. } => &mut counts.replaced,
                Outcome::PassedOver(_) => &mut counts.passed_over,
                Outcome::Gone => &mut counts.gone,
                Outcome::Conflict(_) => &mut counts.conflicts,
                Outcome::Failed(_) => &mut counts.failed,
            } += 1;
        }
        counts
    }

    /// Prints the numbers, and each key of which there is more to say.
    pub fn print(&self, output: Output) -> Result<(), Failure> {
        let counts = self.counts();
        if output.is_json() {
            let remarks: Vec<_> = self
                .remarks()
                .map(|(name, what, text)| json!({ "name": name, "what": what, "text": text }))
                .collect();
            return output.json(&json!({
                "from": self.from,
                "to": self.to,
                "dry_run": self.is_dry,
                "counts": counts,
                "remarks": remarks,
                "cut_off": self.cut_off.iter().map(KeyName::as_str).collect::<Vec<_>>(),
                "came_meanwhile": self.came_meanwhile.keys,
                "versions_came_meanwhile": self.came_meanwhile.versions,
                "told": self.told,
            }));
        }
        output.lines(self.remarks().map(|(name, what, text)| format!("{what}: key '{name}': {text}")))?;
        let parts = [
            (counts.moved, if self.is_dry { "would be moved" } else { "moved" }),
            (counts.completed, if self.is_dry { "would get newer versions" } else { "got newer versions" }),
            (counts.present, "were there already"),
            (
                counts.replaced,
                if self.is_dry { "would take the place of others" } else { "took the place of others" },
            ),
            (counts.passed_over, "passed over"),
            (counts.gone, "deleted meanwhile"),
            (counts.conflicts, "in conflict"),
            (counts.failed, "failed"),
        ];
        let parts: Vec<_> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let what = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
        output.line(format_args!("{} in {}{what}", number(counts.keys), self.from))?;
        if !self.is_dry && counts.proven > 0 {
            output.line(format_args!(
                "Proof: {} read back from {}, and opened what was sealed in {}",
                number(counts.proven),
                self.to,
                self.from
            ))?;
        }
        let to = &self.to;
        output.lines(self.cut_off.iter().map(|name| {
            format!(
                "note: key '{name}': its replacement in {to} by another key was cut off; before a server starts, the same \
                 command completes it that began it, with --force"
            )
        }))?;
        if let Some(came) = self.came_meanwhile.told() {
            output.line(format_args!(
                "{came} came to {} meanwhile: run the same command again, which moves only what is missing",
                self.from
            ))?;
        }
        self.told.map_or(Ok(()), |told| output.line(told))
    }

    /// Returns the keys of which there is more to say: name, what became of it, and the words.
    fn remarks(&self) -> impl Iterator<Item = (&str, &'static str, String)> {
        self.moved.iter().filter_map(|one| {
            let (what, text) = match &one.outcome {
                Outcome::There { differs: Some(differs), .. } => {
                    ("note", format!("it is there, and {differs}; that was left as it is"))
                }
                Outcome::Replaced { former, resumed } => {
                    let kept = if self.is_dry { "would be kept" } else { "is kept" };
                    let completed = match (resumed, self.is_dry) {
                        (false, _) => "",
                        (true, true) => "; its replacement was cut off, and would be completed",
                        (true, false) => "; its replacement had been cut off, and is complete now",
                    };
                    ("note", format!("the other key of this name {kept} as '{former}'{completed}"))
                }
                Outcome::PassedOver(other) => {
                    let other = hex::encode(other.as_bytes());
                    (
                        "note",
                        format!("passed over, another key has its name there, with the fingerprint {other}"),
                    )
                }
                Outcome::Conflict(why) => ("conflict", why.clone()),
                Outcome::Failed(why) => ("failed", why.clone()),
                Outcome::Moved | Outcome::There { .. } | Outcome::Gone => return None,
            };
            Some((one.name.as_str(), what, text))
        })
    }

    /// Fails unless each key arrived, or was passed over as the user asked.
    pub fn verdict(&self) -> Result<(), Failure> {
        let Counts { conflicts, failed, .. } = self.counts();
        let both = |verb| {
            Err(Failure::new(format!(
                "{} {verb} to {}: {conflicts} in conflict, {failed} failed; what moved stays, and the same command goes on",
                number(conflicts + failed),
                self.to
            )))
        };
        match (conflicts + failed, self.is_dry) {
            (0, _) => Ok(()),
            (_, false) => both("did not get"),
            (_, true) => both("would not get"),
        }
    }
}

impl CameMeanwhile {
    /// Says what came; `None` if nothing did.
    fn told(&self) -> Option<String> {
        let versions = match self.versions {
            1 => "1 newer version".to_owned(),
            versions => format!("{versions} newer versions"),
        };
        match (self.keys, self.versions) {
            (0, 0) => None,
            (keys, 0) => Some(number(keys)),
            (0, _) => Some(versions),
            (keys, _) => Some(format!("{} and {versions}", number(keys))),
        }
    }
}

fn number(keys: usize) -> String {
    if keys == 1 { "1 key".to_owned() } else { format!("{keys} keys") }
}
