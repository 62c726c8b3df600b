//! Stores that are served before their database was compared with the journal: what is found later, and what clients see
//! meanwhile.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kms_core::ErrorKind;
use kms_core::store::KeyStore;
use kms_fs::{FsConfig, OpenMode, Opened, open};

use crate::store::{Sample, config, copy_tree, entry, is_deleted, names, record};

fn later(path: &Path) -> FsConfig {
    FsConfig { compare_later: 0, ..config(path) }
}

fn open_later(sample: &Sample, path: &Path) -> Opened {
    open(&later(path), &sample.root, OpenMode::Existing).unwrap()
}

fn live(sample: &Sample) -> impl Iterator<Item = u64> {
    (0..sample.keys).filter(|n| !is_deleted(*n))
}

fn kind<T>(outcome: kms_core::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

/// Checks that the next start compares first and has nothing to tell, and that all keys are there.
async fn assert_is_whole(sample: &Sample, path: &Path, further: &[u64]) {
    let opened = sample.open_at(path).unwrap();
    assert_eq!(opened.warnings, [""; 0]);
    for n in live(sample).chain(further.iter().copied()) {
        assert!(opened.store.get(&entry(n)).await.unwrap() == record(n), "key {n}");
    }
    assert_eq!(opened.keys, live(sample).count() + further.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_store_is_served_at_once_and_as_any_other() {
    let sample = Sample::make(1000).await;
    for first in 0..6 {
        let copy = sample.copy();
        let opened = open_later(&sample, copy.path());
        assert_eq!((opened.keys, opened.warnings.len()), (live(&sample).count(), 0));
        let store = Arc::new(opened.store);
        // Each kind of request is once the first one.
        for request in (0..6).cycle().skip(first).take(6) {
            match request {
                0 => assert!(store.get(&entry(1)).await.unwrap() == record(1)),
                1 => assert_eq!(kind(store.get(&entry(3)).await), Some(ErrorKind::NotFound)),
                2 => assert!(names(&*store).await.len() >= live(&sample).count() - 1),
                3 => store.create(&entry(5000), &record(5000)).await.unwrap(),
                4 => assert_eq!(
                    kind(store.create(&entry(1), &record(2)).await),
                    Some(ErrorKind::AlreadyExists)
                ),
                _ => assert_eq!(kind(store.delete(&entry(3)).await), Some(ErrorKind::NotFound)),
            }
        }
        drop(store);
        assert_is_whole(&sample, copy.path(), &[5000]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_ends_while_it_compares_is_whole() {
    let sample = Sample::make(1000).await;
    let copy = sample.copy();
    for _ in 0..3 {
        let opened = open_later(&sample, copy.path());
        // What a killed process leaves behind.
        let killed = tempfile::tempdir().unwrap();
        copy_tree(copy.path(), killed.path());
        drop(opened);
        assert_is_whole(&sample, killed.path(), &[]).await;
        assert_is_whole(&sample, copy.path(), &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_another_life_is_put_right_before_anything_is_absent() {
    let sample = Sample::make(300).await;
    // Both lives end with the same number.
    let lives = [(6000, 1), (7000, 2)].map(|(new, deleted)| (sample.copy(), new, deleted));
    for (copy, new, deleted) in &lives {
        let store = sample.open_at(copy.path()).unwrap().store;
        store.create(&entry(*new), &record(*new)).await.unwrap();
        store.delete(&entry(*deleted)).await.unwrap();
    }
    let (journal, database) = (lives[0].0.path(), lives[1].0.path());
    for asks_first in ["get", "list", "create", "delete"] {
        let mixed = tempfile::tempdir().unwrap();
        copy_tree(journal, mixed.path());
        fs::remove_dir_all(mixed.path().join("sled")).unwrap();
        copy_tree(&database.join("sled"), &mixed.path().join("sled"));
        let store = open_later(&sample, mixed.path()).store;
        // Whose key it is that only the database has, nobody knows. So it is kept.
        match asks_first {
            "get" => assert!(store.get(&entry(7000)).await.unwrap() == record(7000)),
            "list" => assert!(names(&store).await.contains(entry(7000).as_str())),
            "create" => {
                let outcome = store.create(&entry(7000), &record(1)).await;
                assert_eq!(kind(outcome), Some(ErrorKind::AlreadyExists));
            }
            _ => {
                store.delete(&entry(7000)).await.unwrap();
                store.create(&entry(7000), &record(7000)).await.unwrap();
            }
        }
        assert!(store.get(&entry(6000)).await.unwrap() == record(6000));
        assert!(store.get(&entry(2)).await.unwrap() == record(2), "the journal says that it is there");
        assert_eq!(kind(store.get(&entry(1)).await), Some(ErrorKind::NotFound), "the journal says so");
        drop(store);
        let opened = sample.open_at(mixed.path()).unwrap();
        assert_eq!(opened.warnings, [""; 0], "both were made to agree");
        assert_eq!(opened.keys, live(&sample).count() + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_is_found_later_is_repaired_as_at_a_start() {
    let sample = Sample::make(1000).await;
    // sled writes a snapshot when it is opened, and looks at what lies before only when that is read.
    for _ in 0..2 {
        drop(sample.open_at(&sample.path()).unwrap());
    }
    let log = "sled/db";
    let len = fs::metadata(sample.path().join(log)).unwrap().len();
    let (mut repaired, mut found_first) = (0, 0);
    for part in 0..60 {
        let at = usize::try_from(len * part / 60).unwrap() + 100;
        let harm = |path: &Path| {
            let mut bytes = fs::read(path.join(log)).unwrap();
            let to = (at + 64).min(bytes.len());
            bytes[at.min(to)..to].iter_mut().for_each(|byte| *byte ^= 0x5a);
            fs::write(path.join(log), bytes).unwrap();
        };
        let aside = |path: &Path| {
            let files = fs::read_dir(path).unwrap().flatten();
            files.filter(|file| file.file_name().to_string_lossy().starts_with("sled.damaged-")).count()
        };
        let (at_once, afterwards) = (sample.copy(), sample.copy());
        harm(at_once.path());
        harm(afterwards.path());
        let opened = sample.open_at(at_once.path()).unwrap();
        let tells = !opened.warnings.is_empty();
        drop(opened);
        let opened = open_later(&sample, afterwards.path());
        found_first += usize::from(!opened.warnings.is_empty());
        let store = opened.store;
        for n in live(&sample).step_by(7) {
            assert!(store.get(&entry(n)).await.unwrap() == record(n), "{at}: key {n}");
        }
        assert_eq!(names(&store).await.len(), live(&sample).count(), "{at}");
        assert_eq!(kind(store.get(&entry(3)).await), Some(ErrorKind::NotFound), "{at}");
        store.create(&entry(8000), &record(8000)).await.unwrap();
        drop(store);
        assert_eq!(aside(afterwards.path()), aside(at_once.path()), "{at}: what was repaired, if anything");
        assert!(tells || aside(at_once.path()) == 0, "{at}");
        repaired += aside(afterwards.path());
        assert_is_whole(&sample, afterwards.path(), &[8000]).await;
    }
    println!(
        "{repaired} of 60 databases were made anew, {found_first} were found to be damaged at the start"
    );
    assert!(repaired > found_first, "no damage was found later");
}
