//! The server repairs a damaged store at its start. It is killed during the repair.

use std::fs;
use std::path::Path;

use crate::expectation::Expectation;
use crate::random::{self, Random};
use crate::writer::{Writer, root_key};

const ROUNDS: usize = 50;
/// How many starts are killed before one may end.
const MOST_KILLS: usize = 4;

/// A damage that can be repaired without a loss.
struct Damage {
    what: &'static str,
    inflict: fn(&Path),
}

const DAMAGES: [Damage; 6] = [
    Damage {
        what: "the snapshot is torn",
        inflict: |store| with_snapshots(store, |file| fs::write(file, "torn").unwrap()),
    },
    Damage { what: "the database is gone", inflict: |store| fs::remove_dir_all(store.join("sled")).unwrap() },
    Damage { what: "the log is overwritten", inflict: |store| overwrite(&store.join("sled/db")) },
    Damage { what: "the journal is gone", inflict: |store| fs::remove_file(store.join("journal")).unwrap() },
    Damage { what: "the journal is cut", inflict: |store| cut(&store.join("journal")) },
    Damage { what: "the journal is overwritten", inflict: |store| overwrite(&store.join("journal")) },
];

#[test]
fn a_kill_while_a_store_is_mended_makes_nothing_worse() {
    let mut random = Random::seeded("kill while mending");
    let dir = tempfile::tempdir().unwrap();
    let (root_key_file, root_key) = root_key(dir.path());
    let original = dir.path().join("original");
    let mut expected = Expectation::default();
    let log = dir.path().join("log");
    let maker = Writer {
        directory: &original,
        root_key: &root_key_file,
        prefix: "k".into(),
        tasks: 4,
        rounds: 25,
        deleted: 3,
    };
    let mut running = maker.record(&log, &[]);
    while let Some(line) = running.line() {
        expected.hear(&line);
    }
    running.wait();
    assert_eq!(expected.present().len(), 4 * 25 - 4 * 8);
    for Damage { what, inflict } in DAMAGES {
        let mut kills = 0;
        for round in 0..random::rounds(ROUNDS) {
            let store = dir.path().join(format!("round-{round}"));
            copy(&original, &store);
            inflict(&store);
            for _ in 0..=random.below(MOST_KILLS) {
                let writer = Writer {
                    directory: &store,
                    root_key: &root_key_file,
                    prefix: "never".into(),
                    tasks: 1,
                    rounds: 0,
                    deleted: 3,
                };
                let after = (1 + random.below(60)).to_string();
                let _ = fs::remove_file(&log);
                let mut running = writer.record(&log, &[("POWERCUT_KILL_AFTER", after)]);
                kills += usize::from(running.line().is_none());
                running.wait();
            }
            let found = expected.check(&store, &root_key);
            found.unwrap_or_else(|why| panic!("{what}, round {round}: {why}"));
            // The next start finds the repaired store in order.
            expected
                .check(&store, &root_key)
                .unwrap_or_else(|why| panic!("{what}, round {round}, again: {why}"));
            fs::remove_dir_all(&store).unwrap();
        }
        println!("{what}: {kills} starts were killed");
        assert!(kills > ROUNDS / 2, "{what}: only {kills} starts were killed");
    }
}

fn with_snapshots(store: &Path, harm: impl Fn(&Path)) {
    for entry in fs::read_dir(store.join("sled")).unwrap() {
        let file = entry.unwrap().path();
        if file.file_name().unwrap().to_string_lossy().starts_with("snap.") {
            harm(&file);
        }
    }
}

fn overwrite(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let (from, to) = (bytes.len() / 3, bytes.len() / 2);
    bytes[from..to].fill(0xa5);
    fs::write(file, bytes).unwrap();
}

fn cut(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() * 2 / 3]).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
