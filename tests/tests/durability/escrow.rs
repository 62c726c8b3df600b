//! Power cuts, kills and failing syncs under a store in escrow: no acknowledged key is missing in the escrow file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kms_fs::RootKey;
use kms_server::escrow::FlawKind;
use kms_tests::content;
use kms_tests::escrow::EscrowKey;

use crate::disk::Disk;
use crate::expectation::{Expectation, Found};
use crate::random::{self, Random};
use crate::recording::{self, Operation};
use crate::writer::{Running, Writer, root_key};

/// How many recordings there are. Each begins with what a power cut left of the one before.
const RECORDINGS: usize = 5;
const CUTS: usize = 40;
/// How many entries each task of a writer makes.
const ROUNDS: usize = 40;

/// What the tests share: the key of the store, and that of escrow.
struct Keys {
    escrow: EscrowKey,
    root_key_file: PathBuf,
    root_key: RootKey,
    /// One in this number of keys is deleted again.
    deleted: usize,
}

impl Keys {
    fn new(directory: &Path) -> Self {
        let (root_key_file, root_key) = root_key(directory);
        Self { escrow: EscrowKey::new(), root_key_file, root_key, deleted: 3 }
    }

    /// Starts a writer whose store and escrow file are below `root`, and records its file operations.
    fn record(
        &self,
        root: &Path,
        log: &Path,
        prefix: &str,
        rounds: usize,
        environment: &[(&str, String)],
    ) -> Running {
        let directory = root.join("store");
        let prefix = prefix.to_owned();
        let writer = Writer {
            directory: &directory,
            root_key: &self.root_key_file,
            prefix,
            tasks: 8,
            rounds,
            deleted: self.deleted,
        };
        let mut environment = environment.to_vec();
        environment.push(("STORE_WRITER_ESCROW", root.join("escrow").display().to_string()));
        environment.push(("STORE_WRITER_RECIPIENT", self.escrow.recipient().to_owned()));
        writer.record_below(root, log, &environment)
    }

    /// Checks store and escrow file below `root`.
    fn check(&self, root: &Path, expected: &Expectation) -> Result<Found, String> {
        let escrow = root.join("escrow");
        let mut damage = None;
        let names = if escrow.exists() {
            let found = self.escrow.read(&[escrow]);
            damage = found.flaws.into_iter().find(|flaw| flaw.kind == FlawKind::Damage);
            for (name, record) in &found.keys {
                if *record != *content::record(name).expose() {
                    return Err(format!("key '{name}' in escrow holds something else"));
                }
            }
            found.keys.into_keys().collect()
        } else {
            BTreeSet::new()
        };
        let missing: Vec<_> = expected.present().difference(&names).collect();
        if let Some(first) = missing.first() {
            return Err(format!(
                "{} acknowledged keys are missing in escrow, '{first}' is one",
                missing.len()
            ));
        }
        if let Some(name) = expected.absent().intersection(&names).next() {
            return Err(format!("key '{name}' was deleted, and a restore would bring it back"));
        }
        if let Some(flaw) = damage {
            return Err(format!("a power cut passes for damage: {flaw:?}"));
        }
        expected.check(&root.join("store"), &self.root_key)
    }

    fn escrow_names(&self, root: &Path) -> BTreeSet<String> {
        let escrow = root.join("escrow");
        if escrow.exists() { self.escrow.read(&[escrow]).keys.into_keys().collect() } else { BTreeSet::new() }
    }

    /// Cuts the power at these points, in order. Returns what the last one left.
    fn replay(
        &self,
        mut disk: Disk,
        operations: &[Operation],
        points: &[usize],
        mut expected: Expectation,
        scratch: &Path,
        random: &mut Random,
    ) -> Result<(PathBuf, Found), String> {
        let mut last = None;
        for at in 0..=operations.len() {
            for _ in points.iter().filter(|point| **point == at) {
                let target = tempfile::tempdir_in(scratch).unwrap().keep();
                disk.cut(&target, random);
                let found = self.check(&target, &expected);
                let found =
                    found.map_err(|why| format!("power cut after {at} of {}: {why}", operations.len()))?;
                if let Some((target, _)) = last.replace((target, found)) {
                    std::fs::remove_dir_all(target).unwrap();
                }
            }
            if let Some(operation) = operations.get(at) {
                disk.apply(operation, random);
                if let Operation::Mark(line) = operation {
                    expected.hear(line.trim_end());
                }
            }
        }
        Ok(last.expect("at least one cut"))
    }
}

fn points(operations: &[Operation], random: &mut Random) -> Vec<usize> {
    (0..CUTS).map(|_| random.below(operations.len() + 1)).collect()
}

/// Records three writers, of which the first two are killed.
fn recorded(
    keys: &Keys,
    root: &Path,
    n: usize,
    environment: &[(&str, String)],
    random: &mut Random,
) -> Vec<Operation> {
    let log = root.with_extension("log");
    for run in 0..3 {
        let mut environment = environment.to_vec();
        if run < 2 {
            // Half of the kills hit the opening.
            let most = if random.percent(50) { 80 } else { 1500 };
            environment.push(("POWERCUT_KILL_AFTER", (1 + random.below(most)).to_string()));
        }
        keys.record(root, &log, &format!("recording-{n}-run-{run}"), ROUNDS, &environment).wait();
    }
    recording::read(&log)
}

#[test]
fn no_acknowledged_key_is_missing_in_escrow_after_a_power_cut() {
    let mut random = Random::seeded("power cut with escrow");
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::new(dir.path());
    let mut expected = Expectation::default();
    let mut root = dir.path().join("begin");
    std::fs::create_dir(&root).unwrap();
    for n in 0..random::rounds(RECORDINGS) {
        let before = Disk::load(&root);
        let operations = recorded(&keys, &root, n, &[], &mut random);
        let points = points(&operations, &mut random);
        let outcome = keys.replay(before, &operations, &points, expected, dir.path(), &mut random);
        let (next, found) = outcome.unwrap_or_else(|why| panic!("recording {n}, {why}"));
        println!(
            "recording {n}: {} operations, {CUTS} cuts, goes on with {} keys",
            operations.len(),
            found.names.len()
        );
        // Of a key that was not acknowledged, the store may have the record and escrow no mark.
        let in_escrow = keys.escrow_names(&next);
        expected =
            Found { names: found.names.intersection(&in_escrow).cloned().collect() }.into_expectation();
        root = dir.path().join(format!("begin-{n}"));
        std::fs::rename(next, &root).unwrap();
    }
}

#[test]
fn without_the_syncs_of_the_escrow_file_keys_are_missing() {
    let mut random = Random::seeded("escrow without sync");
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::new(dir.path());
    let missing = (0..20).find_map(|n| {
        let root = dir.path().join(format!("begin-{n}"));
        std::fs::create_dir(&root).unwrap();
        let before = Disk::load(&root);
        let environment = [("POWERCUT_NO_SYNC", root.join("escrow").display().to_string())];
        let operations = recorded(&keys, &root, n, &environment, &mut random);
        let points = points(&operations, &mut random);
        let outcome =
            keys.replay(before, &operations, &points, Expectation::default(), dir.path(), &mut random);
        let why = outcome.err()?;
        println!("{why}");
        Some(why)
    });
    assert!(missing.is_some(), "an escrow file that is never synced survived every power cut");
}

#[test]
fn a_sync_of_the_escrow_file_that_fails_acknowledges_nothing() {
    let mut random = Random::seeded("escrow with failed syncs");
    let dir = tempfile::tempdir().unwrap();
    // The line of a deletion waits in memory while the file cannot be written, and a power cut takes it.
    let keys = Keys { deleted: usize::MAX, ..Keys::new(dir.path()) };
    let (root, log, fail) = (dir.path().join("root"), dir.path().join("log"), dir.path().join("fail"));
    std::fs::create_dir(&root).unwrap();
    let environment = [("POWERCUT_FAIL_SYNC", fail.display().to_string())];
    let before = Disk::load(&root);
    let mut running = keys.record(&root, &log, "failed", usize::MAX, &environment);
    for _ in 0..3 {
        for _ in 0..=random.below(10) {
            running.lines_to("ok");
        }
        std::fs::write(&fail, "").unwrap();
        running.lines_to("err");
        std::fs::remove_file(&fail).unwrap();
        running.lines_to("ok");
    }
    running.kill();
    let operations = recording::read(&log);
    let failed = operations.iter().filter(|operation| matches!(operation, Operation::FailedSync { .. }));
    assert!(failed.count() >= 3, "too few syncs failed");
    let points = points(&operations, &mut random);
    keys.replay(before, &operations, &points, Expectation::default(), dir.path(), &mut random).unwrap();
}
