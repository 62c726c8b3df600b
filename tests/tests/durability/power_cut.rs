//! Power cuts. The operations of a writer are replayed up to random points, and data without a sync is lost
//! or torn.

use std::path::{Path, PathBuf};

use kms_fs::RootKey;

use crate::disk::Disk;
use crate::expectation::{Expectation, Found};
use crate::random::{self, Random};
use crate::recording::{self, Operation};
use crate::writer::{Writer, root_key};

/// How many recordings there are. Each begins with what a power cut left of the one before.
const RECORDINGS: usize = 5;
const CUTS: usize = 40;
/// How many power cuts there are after a start that followed a killed one.
const CUTS_AFTER_A_KILL: usize = 4;
/// How many power cuts there are at each point while a store opens.
const CUTS_WHILE_OPENING: usize = 3;

#[test]
fn nothing_acknowledged_is_lost_in_a_power_cut() {
    cut_power_in_recordings("power cut", 3, Recording::points_anywhere);
}

/// The writers delete every entry again. So sled does not need its older segments any more and erases them
/// when it opens.
#[test]
fn nothing_acknowledged_is_lost_in_a_power_cut_while_a_store_opens() {
    cut_power_in_recordings("power cut while opening", 1, |recording, _| recording.points_while_opening());
}

/// The process after one that was killed finds names in the page cache that no disk has.
#[test]
fn a_power_cut_after_a_first_start_that_was_killed_anywhere_takes_nothing() {
    let mut random = Random::seeded("power cut after a killed start");
    let dir = tempfile::tempdir().unwrap();
    let (root_key_file, root_key) = root_key(dir.path());
    for steps in 1.. {
        let below = dir.path().join(format!("disk-{steps}"));
        std::fs::create_dir(&below).unwrap();
        let (store, log) = (below.join("parent/store"), below.with_extension("log"));
        let before = Disk::load(&below);
        let start = |kill_after: usize, prefix: &str| {
            let environment = [("POWERCUT_KILL_AFTER", kill_after.to_string())];
            let prefix = prefix.to_owned();
            let writer = Writer {
                directory: &store,
                root_key: &root_key_file,
                prefix,
                tasks: 2,
                rounds: 2,
                deleted: 3,
            };
            let mut running = writer.record_below(&below, &log, &environment);
            let made = std::iter::from_fn(|| running.line()).count();
            running.wait();
            made
        };
        let has_ended = start(steps, "killed") > 0;
        start(usize::MAX, "after-it");
        let recording = Recording { before, operations: recording::read(&log) };
        let points = vec![recording.operations.len(); CUTS_AFTER_A_KILL];
        let outcome = recording.replay_below(
            points,
            Path::new("parent/store"),
            Expectation::default(),
            &root_key,
            dir.path(),
            &mut random,
        );
        outcome.unwrap_or_else(|why| panic!("killed after {steps} steps, {why}"));
        if has_ended {
            println!("a first start has {steps} steps");
            assert!(steps > 20, "only {steps} steps were seen");
            return;
        }
    }
}

#[test]
fn without_the_syncs_of_log_and_journal_keys_are_lost() {
    let mut random = Random::seeded("no sync");
    let dir = tempfile::tempdir().unwrap();
    let (root_key_file, root_key) = root_key(dir.path());
    // The first loss may also be the whole store.
    let lost = (0..20).find_map(|n| {
        let begin = dir.path().join(format!("begin-{n}"));
        // Without this, the journal would restore what the database lost.
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
        // After one entry the store exists. Its creation may fail as well.
        for _ in 0..=random.below(20) {
            running.lines_to("ok");
        }
        std::fs::write(&fail, "").unwrap();
        running.lines_to("err");
        // With one task the lines are in order. No create after the failed sync is acknowledged.
        for _ in 0..5 {
            let line = running.line().unwrap();
            assert!(line.starts_with("err") && line.ends_with("ReadOnly"), "while syncs fail: {line}");
        }
        std::fs::remove_file(&fail).unwrap();
        running.lines_to("ok");
    }
    running.lines_to("gone");
    running.kill();

    // Everything that was acknowledged before, during and after the failures is on the disk.
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

/// The operations of writers on a store.
struct Recording {
    before: Disk,
    operations: Vec<Operation>,
}

impl Recording {
    /// Records three writers in `directory`.
    ///
    /// The first two are killed, and the last one ends by itself. Each finds what the one before has left.
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
                // Half of the kills hit the opening of the store.
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

    /// Cuts the power at these points, in order, and checks the store after each. Returns the last store.
    fn replay(
        self,
        points: Vec<usize>,
        expected: Expectation,
        root_key: &RootKey,
        scratch: &Path,
        random: &mut Random,
    ) -> Result<(PathBuf, Found), String> {
        self.replay_below(points, Path::new(""), expected, root_key, scratch, random)
    }

    /// Like [`replay`](Self::replay), for a store that is `below` the recorded directory.
    fn replay_below(
        mut self,
        mut points: Vec<usize>,
        below: &Path,
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
                let found = expected.check(&target.join(below), root_key);
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

    /// Draws points of power cuts: anywhere, or while a process opens the store.
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

    /// Returns each point while a process opens the store, several times.
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
