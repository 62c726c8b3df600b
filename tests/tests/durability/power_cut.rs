//! The power goes: all that a writer did is replayed to random points, and what was not synced is lost or torn.

use std::path::{Path, PathBuf};

use kms_fs::RootKey;

use crate::disk::Disk;
use crate::expectation::{Expectation, Found};
use crate::random::{self, Random};
use crate::recording::{self, Operation};
use crate::writer::{Writer, root_key};

/// Each recording goes on from where a power cut left the one before.
const RECORDINGS: usize = 5;
const CUTS: usize = 40;
/// How often the power goes at each point while a store is opened.
const CUTS_WHILE_OPENING: usize = 3;

#[test]
fn nothing_acknowledged_is_lost_in_a_power_cut() {
    cut_power_in_recordings("power cut", 3, Recording::points_anywhere);
}

/// Where all is deleted again, nothing of sled's older segments is needed any more, and it erases them when it opens.
#[test]
fn nothing_acknowledged_is_lost_in_a_power_cut_while_a_store_opens() {
    cut_power_in_recordings("power cut while opening", 1, |recording, _| recording.points_while_opening());
}

#[test]
fn without_the_syncs_of_log_and_journal_keys_are_lost() {
    let mut random = Random::seeded("no sync");
    let dir = tempfile::tempdir().unwrap();
    let (root_key_file, root_key) = root_key(dir.path());
    // What is lost first may also be the store as a whole.
    let lost = (0..20).find_map(|n| {
        let begin = dir.path().join(format!("begin-{n}"));
        // The journal alone would bring back what the database lost.
        let unsynced = format!("{}:{}", begin.join("sled/db").display(), begin.join("journal").display());
        let environment = [("POWERCUT_NO_SYNC", unsynced)];
        let recording = Recording::make(&begin, &root_key_file, n, 3, &environment, &mut random);
        let points = recording.points_anywhere(&mut random);
        let outcome = recording.replay(points, Expectation::default(), &root_key, dir.path(), &mut random);
        let why = outcome.err().expect("a store that never syncs survived every power cut");
        println!("{why}");
        why.contains("acknowledged entries are lost").then_some(why)
    });
    assert!(lost.is_some(), "no power cut lost a key");
}

#[test]
fn a_sync_that_fails_acknowledges_nothing() {
    let mut random = Random::seeded("failed sync");
    let dir = tempfile::tempdir().unwrap();
    let (root_key_file, root_key) = root_key(dir.path());
    let (directory, log, fail) = (dir.path().join("store"), dir.path().join("log"), dir.path().join("fail"));
    let environment = [("POWERCUT_FAIL_SYNC", fail.display().to_string())];
    let writer = Writer {
        directory: &directory,
        root_key: &root_key_file,
        prefix: "failed".into(),
        tasks: 1,
        rounds: usize::MAX,
        deleted: 3,
    };
    let before = Disk::load(&directory);
    let mut running = writer.record(&log, &environment);
    for _ in 0..3 {
        // One at least: then the store is there, whose making may fail too.
        for _ in 0..=random.below(20) {
            running.lines_to("ok");
        }
        std::fs::write(&fail, "").unwrap();
        running.lines_to("err");
        // With one task the lines are in order: no create that began after the sync failed is acknowledged.
        for _ in 0..5 {
            let line = running.line().unwrap();
            assert!(line.starts_with("err") && line.ends_with("ReadOnly"), "while syncs fail: {line}");
        }
        std::fs::remove_file(&fail).unwrap();
        running.lines_to("ok");
    }
    running.lines_to("gone");
    running.kill();

    // And what was acknowledged before, meanwhile and after is on the disk.
    let operations = recording::read(&log);
    let failed =
        operations.iter().filter(|operation| matches!(operation, Operation::FailedSync { .. })).count();
    assert!(failed >= 3, "{failed} syncs failed");
    let recording = Recording { before, operations };
    let points = recording.points_anywhere(&mut random);
    recording.replay(points, Expectation::default(), &root_key, dir.path(), &mut random).unwrap();
}

fn cut_power_in_recordings(
    test: &str,
    deleted: usize,
    points: impl Fn(&Recording, &mut Random) -> Vec<usize>,
) {
    let mut random = Random::seeded(test);
    let dir = tempfile::tempdir().unwrap();
    let (root_key_file, root_key) = root_key(dir.path());
    let mut expected = Expectation::default();
    let mut begin = dir.path().join("begin");
    for n in 0..random::rounds(RECORDINGS) {
        let recording = Recording::make(&begin, &root_key_file, n, deleted, &[], &mut random);
        let (operations, points) = (recording.operations.len(), points(&recording, &mut random));
        let cuts = points.len();
        let outcome = recording.replay(points, expected, &root_key, dir.path(), &mut random);
        let (next, found) = outcome.unwrap_or_else(|why| panic!("recording {n}, {why}"));
        println!(
            "recording {n}: {operations} operations, {cuts} cuts, goes on with {} keys",
            found.names.len()
        );
        expected = found.into_expectation();
        begin = dir.path().join(format!("begin-{n}"));
        std::fs::rename(next, &begin).unwrap();
    }
}

/// What writers did to a store.
struct Recording {
    before: Disk,
    operations: Vec<Operation>,
}

impl Recording {
    /// Lets writers work in `directory`: one that is killed, one that finds what the first has left and is killed too, and
    /// one that ends by itself.
    fn make(
        directory: &Path,
        root_key: &Path,
        n: usize,
        deleted: usize,
        environment: &[(&str, String)],
        random: &mut Random,
    ) -> Self {
        let log = directory.with_extension("log");
        let before = Disk::load(directory);
        for run in 0..3 {
            let prefix = format!("recording-{n}-run-{run}");
            let writer = Writer { directory, root_key, prefix, tasks: 8, rounds: 60, deleted };
            let mut environment = environment.to_vec();
            if run < 2 {
                // Half of them while they still open the store.
                let most = if random.percent(50) { 60 } else { 1500 };
                environment.push(("POWERCUT_KILL_AFTER", (1 + random.below(most)).to_string()));
            }
            writer.record(&log, &environment).wait();
        }
        let operations = recording::read(&log);
        let mut after = before.clone();
        for operation in &operations {
            after.apply(operation, random);
        }
        after.assert_complete();
        Self { before, operations }
    }

    /// Cuts the power at these points, in order, and opens the store after each; returns the last one, as it was left.
    fn replay(
        mut self,
        mut points: Vec<usize>,
        mut expected: Expectation,
        root_key: &RootKey,
        scratch: &Path,
        random: &mut Random,
    ) -> Result<(PathBuf, Found), String> {
        let len = self.operations.len();
        let mut last = None;
        for at in 0..=len {
            while points.first() == Some(&at) {
                points.remove(0);
                let target = tempfile::tempdir_in(scratch).unwrap().keep();
                self.before.cut(&target, random);
                let found = expected.check(&target, root_key);
                let found =
                    found.map_err(|why| format!("power cut after {at} of {len} operations: {why}"))?;
                if let Some((target, _)) = last.replace((target, found)) {
                    std::fs::remove_dir_all(target).unwrap();
                }
            }
            if let Some(operation) = self.operations.get(at) {
                self.before.apply(operation, random);
                if let Operation::Mark(line) = operation {
                    expected.hear(line.trim_end());
                }
            }
        }
        Ok(last.expect("at least one cut"))
    }

    /// Draws where the power goes: anywhere, or while a process opens the store.
    fn points_anywhere(&self, random: &mut Random) -> Vec<usize> {
        let opening = self.points_while_opening();
        let point = |random: &mut Random| {
            if random.percent(70) {
                random.below(self.operations.len() + 1)
            } else {
                opening[random.below(opening.len())]
            }
        };
        let mut points: Vec<usize> = (0..CUTS).map(|_| point(random)).collect();
        points.sort_unstable();
        points
    }

    /// Takes each point at which a process opens the store, several times over.
    fn points_while_opening(&self) -> Vec<usize> {
        let mut opening = false;
        let is_opening = |operation: &Operation| {
            opening = match operation {
                Operation::Start => true,
                Operation::Mark(_) => false,
                _ => opening,
            };
            opening
        };
        let during: Vec<bool> = self.operations.iter().map(is_opening).collect();
        let points = (0..during.len()).filter(|at| during[*at]).map(|at| at + 1);
        points.flat_map(|at| [at; CUTS_WHILE_OPENING]).collect()
    }
}
