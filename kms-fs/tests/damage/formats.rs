//! Stores of the release before, which had no journal, and stores with parts from an older backup.

use std::fs;
use std::path::Path;

use kms_core::ErrorKind;
use kms_core::store::KeyStore;
use kms_fs::{OpenError, OpenMode, open};

use crate::store::{Outcome, Sample, config, content, copy_tree, entry, files, is_deleted, record};

/// Opens the database without the store.
///
/// While a store opens, its failpoint may stop every other database of the process that writes a snapshot.
fn database(path: &Path) -> sled::Db {
    loop {
        match sled::open(path.join("sled")) {
            Err(sled::Error::FailPoint) => std::thread::sleep(std::time::Duration::from_millis(5)),
            opened => return opened.unwrap(),
        }
    }
}

/// Removes what the release before did not have.
pub fn without_journal(path: &Path) {
    fs::remove_file(path.join("journal")).unwrap();
    let database = database(path);
    let meta = database.open_tree("meta").unwrap();
    let header = meta.get("header").unwrap().unwrap();
    meta.insert("header", [&[1], &header[1..]].concat()).unwrap();
    meta.remove("batch").unwrap();
    database.flush().unwrap();
}

fn format_in(path: &Path) -> u8 {
    let database = database(path);
    database.open_tree("meta").unwrap().get("header").unwrap().unwrap()[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_the_release_before_gets_a_journal() {
    let sample = Sample::make(300).await;
    let copy = sample.copy();
    without_journal(copy.path());
    assert_eq!(format_in(copy.path()), 1);
    let outcome = sample.judge(copy.path(), "a store of the release before").await;
    assert_eq!(outcome, Outcome::Opened { unreadable: 0, read_only: false });
    assert_eq!(format_in(copy.path()), 2, "the release before refuses it by name");
    // From now on either file is enough.
    fs::remove_dir_all(copy.path().join("sled")).unwrap();
    let outcome = sample.judge(copy.path(), "its journal alone").await;
    assert_eq!(outcome, Outcome::Opened { unreadable: 0, read_only: false });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_journal_damage_that_is_seen_makes_the_store_read_only() {
    let sample = Sample::make(300).await;
    let (mut served, mut refused, mut unseen) = (0, 0, 0);
    for part in 0..40 {
        let copy = sample.copy();
        without_journal(copy.path());
        let log = copy.path().join("sled/db");
        let mut bytes = fs::read(&log).unwrap();
        let at = bytes.len() / 40 * part + 17;
        let end = (at + 2000).min(bytes.len());
        bytes[at..end].fill(0xa5);
        fs::write(&log, &bytes).unwrap();
        let before = content(copy.path());
        let Ok(opened) = sample.open_at(copy.path()) else {
            refused += 1;
            assert!(content(copy.path()) == before, "damage at {at}: refused, but something was written");
            continue;
        };
        let degraded = opened.store.status().await.unwrap().degraded;
        // If sled does not report the damage, nobody can know it. That is what the journal is for.
        if !degraded.is_some_and(|why| why.contains("read-only")) {
            unseen += 1;
            continue;
        }
        served += 1;
        for n in 0..sample.keys {
            match opened.store.get(&entry(n)).await {
                Ok(found) => assert!(found == record(n), "damage at {at}: key {n} is another"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "damage at {at}: key {n}"),
            }
            let created = opened.store.create(&entry(n), &record(n)).await.err().unwrap();
            assert_eq!(created.kind(), ErrorKind::ReadOnly, "damage at {at}: key {n}");
        }
        drop(opened);
        assert!(content(copy.path()) == before, "damage at {at}: the evidence is as it was");
    }
    println!("{served} served read-only, {refused} refused, {unseen} not seen by sled, of 40");
    assert!(served > 0, "no damage was seen");
}

#[tokio::test]
async fn without_a_journal_a_snapshot_is_not_needed() {
    let sample = Sample::make(300).await;
    for how in ["empty", "torn", "removed"] {
        let copy = sample.copy();
        without_journal(copy.path());
        for snapshot in
            files(copy.path()).into_iter().filter(|file| file.display().to_string().contains("snap."))
        {
            match how {
                "empty" => fs::write(&snapshot, "").unwrap(),
                "torn" => fs::write(&snapshot, [0x5a; 100]).unwrap(),
                _ => fs::remove_file(&snapshot).unwrap(),
            }
        }
        let outcome = sample.judge(copy.path(), &format!("no journal, snapshot {how}")).await;
        println!("no journal, snapshot {how}: {outcome:?}");
        assert!(matches!(outcome, Outcome::Opened { unreadable: 0, .. }), "{how}: {outcome:?}");
    }
}

#[tokio::test]
async fn parts_of_an_older_backup_lose_nothing() {
    let sample = Sample::make(100).await;
    let (older, newer) = (sample.copy(), sample.copy());
    let store = sample.open_at(newer.path()).unwrap().store;
    for n in 500..520 {
        store.create(&entry(n), &record(n)).await.unwrap();
    }
    store.delete(&entry(1)).await.unwrap();
    drop(store);
    for part in ["sled", "journal"] {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(newer.path(), copy.path());
        let (from, to) = (older.path().join(part), copy.path().join(part));
        if part == "sled" {
            fs::remove_dir_all(&to).unwrap();
            copy_tree(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
        let store = sample.open_at(copy.path()).unwrap().store;
        for n in (0..100).filter(|n| !is_deleted(*n) && *n != 1).chain(500..520) {
            assert!(store.get(&entry(n)).await.unwrap() == record(n), "an older {part}: {n}");
        }
        let gone = store.get(&entry(1)).await.err().unwrap();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "an older {part}");
    }
}

#[tokio::test]
async fn what_a_whole_journal_knows_nothing_of_is_kept() {
    let sample = Sample::make(20).await;
    let (one, other) = (sample.copy(), sample.copy());
    // Two lives of one store, as after a restore: the journal comes from one, and the database from the other.
    let store = sample.open_at(one.path()).unwrap().store;
    for n in 500..510 {
        store.create(&entry(n), &record(n)).await.unwrap();
    }
    drop(store);
    let store = sample.open_at(other.path()).unwrap().store;
    store.create(&entry(600), &record(600)).await.unwrap();
    drop(store);
    fs::copy(one.path().join("journal"), other.path().join("journal")).unwrap();
    // No file says that the key of the other life was deleted.
    let opened = sample.open_at(other.path()).unwrap();
    let told = opened.warnings.join("\n");
    assert!(told.contains("that the journal says nothing of, and that are kept: 1"), "{told}");
    for n in [505, 600] {
        assert!(opened.store.get(&entry(n)).await.unwrap() == record(n), "{n}");
    }
    drop(opened);
    fs::remove_dir_all(other.path().join("sled")).unwrap();
    let opened = sample.open_at(other.path()).unwrap();
    assert!(opened.store.get(&entry(600)).await.unwrap() == record(600), "the journal has it now too");
    drop(opened);

    // Now the database is newer. A key that only the journal has may have been deleted, so the journal is set
    // aside.
    let (newer, older) = (sample.copy(), sample.copy());
    let store = sample.open_at(newer.path()).unwrap().store;
    for n in 500..510 {
        store.create(&entry(n), &record(n)).await.unwrap();
    }
    drop(store);
    let store = sample.open_at(older.path()).unwrap().store;
    store.create(&entry(600), &record(600)).await.unwrap();
    drop(store);
    fs::copy(older.path().join("journal"), newer.path().join("journal")).unwrap();
    let told = sample.open_at(newer.path()).unwrap().warnings.join("\n");
    assert!(told.contains("that the database, which is newer, does not have: 1"), "{told}");
    assert!(told.contains("journal.damaged-"), "{told}");
}

#[tokio::test]
async fn the_journal_of_another_store_is_refused() {
    let (sample, other) = (Sample::make(10).await, Sample::make(10).await);
    let copy = sample.copy();
    fs::copy(other.path().join("journal"), copy.path().join("journal")).unwrap();
    let before = fs::read(copy.path().join("journal")).unwrap();
    let refused = open(&config(copy.path()), &sample.root, OpenMode::Existing).err().unwrap();
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused}");
    assert!(refused.to_string().contains("another store"), "{refused}");
    assert_eq!(fs::read(copy.path().join("journal")).unwrap(), before);
}

#[tokio::test]
async fn a_changed_root_key_leaves_no_trace_of_the_old_one_in_the_journal() {
    let sample = Sample::make(10).await;
    let copy = sample.copy();
    let new = kms_fs::RootKey::random().unwrap();
    kms_fs::rotate_root_key(&config(copy.path()), &sample.root, &new).unwrap();
    fs::remove_dir_all(copy.path().join("sled")).unwrap();
    let refused = open(&config(copy.path()), &sample.root, OpenMode::Existing).err().unwrap();
    assert!(matches!(refused, OpenError::WrongRootKey { .. }), "{refused}");
    let opened = open(&config(copy.path()), &new, OpenMode::Existing).unwrap();
    assert!(opened.store.get(&entry(1)).await.unwrap() == record(1));
}
