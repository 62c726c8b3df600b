//! The first start creates a root key and a store. It is killed at every step.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kms_fs::RootKey;

use crate::expectation::Expectation;
use crate::writer::Writer;

/// More steps than a first start has.
const MOST_STEPS: usize = 400;

#[test]
fn a_first_start_that_was_cut_off_anywhere_is_completed() {
    let mut left = BTreeSet::new();
    for steps in 1..MOST_STEPS {
        let dir = tempfile::tempdir().unwrap();
        // Store and root key are below one directory, whose operations are counted.
        let (below, log) = (dir.path().join("node"), dir.path().join("log"));
        fs::create_dir(&below).unwrap();
        let (store, root_key) = (below.join("data"), below.join("root.key"));
        let start = |kill_after: Option<usize>, rounds| {
            let writer = Writer {
                directory: &store,
                root_key: &root_key,
                prefix: "k".into(),
                tasks: 1,
                rounds,
                deleted: 1000,
            };
            let after = kill_after.map(|steps| ("POWERCUT_KILL_AFTER", steps.to_string()));
            let environment: Vec<_> = after.into_iter().collect();
            let mut running = writer.record_below(&below, &log, &environment);
            let mut lines = Vec::new();
            while let Some(line) = running.line() {
                lines.push(line);
            }
            running.wait();
            lines
        };
        let was_cut = start(Some(steps), 0).is_empty();
        left.insert(names_in(&below));
        // A root key under its first name may already belong to a store.
        let waiting = below.join("root.key.new");
        let waiting = waiting.exists().then(|| RootKey::from_file(&waiting).unwrap().key);
        let made = start(None, 3);
        assert_eq!(made.len(), 4, "after {steps} steps: {made:?}");
        let key = RootKey::from_file(&root_key).unwrap().key;
        assert!(
            waiting.is_none_or(|waiting| waiting == key),
            "after {steps} steps: another root key was made"
        );
        assert_eq!(names_in(&below), ["data", "root.key"], "after {steps} steps");
        let mut expected = Expectation::default();
        for line in &made {
            expected.hear(line);
        }
        expected.check(&store, &key).unwrap_or_else(|why| panic!("after {steps} steps: {why}"));
        if !was_cut {
            println!("a first start has {steps} steps, and left {} different things behind", left.len());
            assert!(steps > 20, "only {steps} steps were seen");
            let begun = ["data", "root.key.new"].map(str::to_owned).to_vec();
            assert!(left.contains(&begun), "it was never cut between the two: {left:?}");
            return;
        }
    }
    panic!("a first start never ends");
}

fn names_in(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    // Incomplete files of a root key have random names.
    names
        .iter_mut()
        .filter(|name| name.contains(".new."))
        .for_each(|name| "root.key.new.tmp".clone_into(name));
    names.sort();
    names
}
