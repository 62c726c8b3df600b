//! The power goes: all that a writer did is replayed to random points, and what was not synced is lost or torn.

use std::path::{Path, PathBuf};

use kms_fs::RootKey;

use crate::disk::Disk;
use crate::expectation::{Expectation, Found};
use crate::random::Random;
use crate::recording::{self, Operation};
use crate::writer::{Writer, root_key};

/// Each recording goes on from where a power cut left the one before.
const RECORDINGS: usize = 5;
const CUTS: usize = 40;

#[test]
fn nothing_acknowledged_is_lost_in_a_power_cut() {
    let mut random = Random::seeded("power cut");
    let dir = tempfile::tempdir().unwrap();
    let (root_key_file, root_key) = root_key(dir.path());
    let mut expected = Expectation::default();
    let mut begin = dir.path().join("begin");
    for n in 0..RECORDINGS {
        let recording = Recording::make(&begin, &root_key_file, n, &[], &mut random);
        let operations = recording.operations.len();
        let outcome = recording.replay(CUTS, expected, &root_key, dir.path(), &mut random);
        let (next, found) = outcome.unwrap_or_else(|why| panic!("recording {n}, {why}"));
        println!("recording {n}: {operations} operations, goes on with {} keys", found.names.len());
        expected = found.into_expectation();
        begin = dir.path().join(format!("begin-{n}"));
        std::fs::rename(next, &begin).unwrap();
    }
}

#[test]
fn without_the_sync_the_test_would_fail() {
    let mut random = Random::seeded("no sync");
    let dir = tempfile::tempdir().unwrap();
    let (root_key_file, root_key) = root_key(dir.path());
    let environment = [("POWERCUT_NO_SYNC", "1".to_owned())];
    let recording = Recording::make(&dir.path().join("begin"), &root_key_file, 0, &environment, &mut random);
    let outcome = recording.replay(CUTS, Expectation::default(), &root_key, dir.path(), &mut random);
    let why = outcome.err().expect("a store that never syncs survived every power cut");
    println!("{why}");
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
    };
    let before = Disk::load(&directory);
    let mut running = writer.record(&log, &environment);
    for _ in 0..3 {
        for _ in 0..random.below(20) {
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
    recording.replay(CUTS, Expectation::default(), &root_key, dir.path(), &mut random).unwrap();
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
        environment: &[(&str, String)],
        random: &mut Random,
    ) -> Self {
        let log = directory.with_extension("log");
        let before = Disk::load(directory);
        for run in 0..3 {
            let prefix = format!("recording-{n}-run-{run}");
            let writer = Writer { directory, root_key, prefix, tasks: 8, rounds: 60 };
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

    /// Cuts the power at random points and opens the store after each; returns the last one, as it was left.
    fn replay(
        mut self,
        cuts: usize,
        mut expected: Expectation,
        root_key: &RootKey,
        scratch: &Path,
        random: &mut Random,
    ) -> Result<(PathBuf, Found), String> {
        let len = self.operations.len();
        let mut points: Vec<usize> = (0..cuts).map(|_| self.point(random)).collect();
        points.sort_unstable();
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
    fn point(&self, random: &mut Random) -> usize {
        let starts: Vec<usize> = (0..self.operations.len())
            .filter(|at| matches!(self.operations[*at], Operation::Start))
            .collect();
        if random.percent(70) {
            return random.below(self.operations.len() + 1);
        }
        let start = starts[random.below(starts.len())];
        self.operations.len().min(start + random.below(60))
    }
}
