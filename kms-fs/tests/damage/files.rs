//! Damage to each file in turn: it is cut short, emptied, changed or removed.

use std::fs;
use std::path::Path;

use kms_core::ErrorKind;
use kms_core::store::KeyStore;
use kms_fs::{OpenMode, open};

use crate::store::{Outcome, Sample, config, content, entry, files, is_deleted, record};

const KEYS: u64 = 1000;

/// A way to damage a file.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Remove,
    Empty,
    /// Keeps this many thousandths.
    Cut(u64),
    /// Changes a bit at this many thousandths.
    Flip(u64),
    /// Writes zeros over 4 KiB at this many thousandths.
    Zero(u64),
}

impl Harm {
    fn all() -> Vec<Self> {
        let mut all = vec![Self::Remove, Self::Empty];
        for part in [0, 1, 7, 50, 211, 333, 500, 617, 800, 950, 990, 999, 1000] {
            all.extend([Self::Cut(part), Self::Flip(part), Self::Zero(part)]);
        }
        all
    }

    /// Damages the file. Returns false if that changes nothing.
    fn inflict(self, file: &Path) -> bool {
        let mut bytes = fs::read(file).unwrap();
        let before = bytes.clone();
        let at = |part: u64| usize::try_from(before.len() as u64 * part / 1000).unwrap();
        match self {
            Self::Remove => return fs::remove_file(file).is_ok(),
            Self::Empty => bytes.clear(),
            // Never the whole file, and never behind the last byte that matters.
            Self::Cut(part) => bytes.truncate(at(part).min(before.len().saturating_sub(1))),
            Self::Flip(part) if before.is_empty() => return part > 1000,
            Self::Flip(part) => bytes[at(part).min(before.len() - 1)] ^= 0x10,
            Self::Zero(part) => {
                let from = at(part).min(before.len());
                let to = (from + 4096).min(before.len());
                bytes[from..to].fill(0);
            }
        }
        fs::write(file, &bytes).unwrap();
        bytes != before
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_file_of_a_store_may_be_damaged() {
    let sample = Sample::make(KEYS).await;
    let names: Vec<_> = files(&sample.path())
        .into_iter()
        .map(|file| file.strip_prefix(sample.path()).unwrap().to_owned())
        .collect();
    let has = |part: &str| names.iter().any(|name| name.display().to_string().contains(part));
    assert!(has("sled/db") && has("sled/snap.") && has("sled/conf") && has("journal"), "{names:?}");
    let (mut tried, mut refused, mut unreadable) = (0, 0, 0);
    for name in &names {
        for harm in Harm::all() {
            let copy = sample.copy();
            if !harm.inflict(&copy.path().join(name)) {
                continue;
            }
            tried += 1;
            match sample.judge(copy.path(), &format!("{harm:?} of {}", name.display())).await {
                Outcome::Refused => refused += 1,
                Outcome::Opened { unreadable: some, .. } => unreadable += some,
            }
        }
    }
    println!("{tried} damages: {refused} refused, {unreadable} keys unreadable in all");
    assert!(tried > 150, "only {tried} damages were tried");
    assert_eq!((refused, unreadable), (0, 0), "one file alone costs nothing: the other has it all");
}

/// A journal that was written anew begins with everything that the store holds. This happens after an upgrade,
/// and when half of the journal is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_was_written_anew_may_be_damaged() {
    let sample = Sample::make(200).await;
    let upgraded = sample.copy();
    crate::formats::without_journal(upgraded.path());
    let repaired = sample.copy();
    fs::remove_file(repaired.path().join("journal")).unwrap();
    for (what, original) in [("upgraded", &upgraded), ("repaired", &repaired)] {
        // The journal is made here, and nothing is written after it.
        drop(sample.open_at(original.path()).unwrap());
        for harm in Harm::all() {
            let copy = tempfile::tempdir().unwrap();
            crate::store::copy_tree(original.path(), copy.path());
            if harm.inflict(&copy.path().join("journal")) {
                let outcome = sample.judge(copy.path(), &format!("{what}: {harm:?} of journal")).await;
                assert_eq!(outcome, Outcome::Opened { unreadable: 0, read_only: false }, "{what}: {harm:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_files_may_be_damaged_at_random() {
    let sample = Sample::make(300).await;
    let mut numbers = (1_u64..).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40);
    let (mut opened, mut lost) = (0, 0);
    for round in 0..60 {
        let copy = sample.copy();
        let mut what = format!("round {round}:");
        let snapshot =
            files(copy.path()).into_iter().find(|file| file.display().to_string().contains("snap."));
        let snapshot = snapshot.unwrap().strip_prefix(copy.path()).unwrap().display().to_string();
        for file in ["journal", "sled/db", &snapshot] {
            // One or a few bits of each file, but not in the part of the journal that tells its end.
            for _ in 0..=numbers.next().unwrap() % 3 {
                let harm = Harm::Flip(numbers.next().unwrap() % 1000);
                harm.inflict(&copy.path().join(file));
                what = format!("{what} {harm:?} of {file}");
            }
        }
        if let Outcome::Opened { unreadable, .. } = sample.judge(copy.path(), &what).await {
            opened += 1;
            lost += unreadable;
        }
    }
    println!("{opened} of 60 opened, {lost} keys unreadable in all");
    assert!(opened > 30, "only {opened} opened");
}

/// Both files are damaged, and the rest looks whole: the journal is cut at the end of a line, or the database
/// replayed up to the damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_files_have_lost_is_noticed_though_what_is_left_looks_whole() {
    let sample = Sample::make(300).await;
    let mut numbers = (1_u64..).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40);
    let (mut unreadable, mut refused) = (0, 0);
    for round in 0..90 {
        let copy = sample.copy();
        let journal = copy.path().join("journal");
        let text = fs::read(&journal).unwrap();
        let at = usize::try_from(numbers.next().unwrap()).unwrap() % text.len();
        let mut what = match round % 4 {
            0 => {
                fs::remove_file(&journal).unwrap();
                "no journal".to_owned()
            }
            1 => {
                fs::write(&journal, &text[..at]).unwrap();
                format!("journal of {at} bytes")
            }
            2 => {
                let end = at + text[at..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
                fs::write(&journal, &text[..end]).unwrap();
                format!("journal of whole lines, {end} bytes")
            }
            _ => {
                fs::write(&journal, "").unwrap();
                "an empty journal".to_owned()
            }
        };
        let log = copy.path().join("sled/db");
        let harm = match round % 3 {
            0 => Harm::Flip(numbers.next().unwrap() % 1000),
            1 => Harm::Cut(numbers.next().unwrap() % 1000),
            _ => Harm::Zero(numbers.next().unwrap() % 1000),
        };
        if !harm.inflict(&log) {
            continue;
        }
        what = format!("round {round}: {what}, {harm:?} of sled/db");
        match sample.judge(copy.path(), &what).await {
            Outcome::Refused => refused += 1,
            Outcome::Opened { unreadable: some, .. } => unreadable += some,
        }
    }
    println!("{refused} refused, {unreadable} keys unreadable in all");
    assert!(unreadable > 1000, "that little was lost");
}

#[tokio::test]
async fn a_database_alone_is_not_believed_to_be_whole() {
    let sample = Sample::make(50).await;
    let copy = sample.copy();
    for gone in ["journal", "last"] {
        fs::remove_file(copy.path().join(gone)).unwrap();
    }
    let outcome = sample.judge(copy.path(), "neither journal nor last").await;
    assert!(matches!(outcome, Outcome::Opened { read_only: true, .. }), "{outcome:?}");
    kms_fs::accept_losses(&config(copy.path()), Some(&sample.root)).unwrap();
    let outcome = sample.judge(copy.path(), "after somebody said that it is").await;
    assert_eq!(outcome, Outcome::Opened { unreadable: 0, read_only: false });
}

/// Anybody who opened one of these would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_or_a_directory_in_the_place_of_a_file_hangs_nobody() {
    let sample = Sample::make(50).await;
    for file in files(&sample.path()) {
        for kind in ["pipe", "directory", "dangling link"] {
            let copy = sample.copy();
            let path = copy.path().join(file.strip_prefix(sample.path()).unwrap());
            fs::remove_file(&path).unwrap();
            match kind {
                "pipe" => {
                    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
                }
                "directory" => fs::create_dir(&path).unwrap(),
                _ => std::os::unix::fs::symlink("/nonexistent/volume", &path).unwrap(),
            }
            let what = format!("a {kind} in the place of {}", path.display());
            let (root, place) = (&sample.root, copy.path());
            let (sender, opened) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                scope.spawn(move || sender.send(open(&config(place), root, OpenMode::Existing).map(drop)));
                let outcome = opened.recv_timeout(std::time::Duration::from_secs(20));
                match outcome.unwrap_or_else(|_| panic!("{what}: it hangs")) {
                    Ok(()) => {}
                    Err(refused) => {
                        let name = path.file_name().unwrap().to_string_lossy();
                        assert!(refused.to_string().contains(&*name), "{what}: {refused}");
                    }
                }
            });
        }
    }
}

/// Damages the line of `name` in the journal: changes a letter of its record.
fn damage_line(journal: &Path, name: &str) {
    let text = fs::read_to_string(journal).unwrap();
    let line = text.lines().find(|line| line.contains(&format!(" + {name} "))).unwrap();
    let mut damaged = line.to_owned();
    let last = damaged.pop().unwrap();
    damaged.push(if last == 'A' { 'B' } else { 'A' });
    fs::write(journal, text.replace(line, &damaged)).unwrap();
}

#[tokio::test]
async fn a_key_whose_line_and_entry_are_damaged_is_unreadable_until_it_is_discarded() {
    let sample = Sample::make(100).await;
    let copy = sample.copy();
    damage_line(&copy.path().join("journal"), entry(7).as_str());
    fs::remove_dir_all(copy.path().join("sled")).unwrap();
    let opened = sample.open_at(copy.path()).unwrap();
    assert_eq!(opened.illegible, [entry(7).as_str()]);
    assert!(opened.warnings.iter().any(|warning| warning.contains("key-0007")), "{:?}", opened.warnings);
    let store = opened.store;
    for n in (0..100).filter(|n| *n != 7 && !is_deleted(*n)) {
        assert!(store.get(&entry(n)).await.unwrap() == record(n), "{n}");
    }
    let kind = |error: kms_core::Error| error.kind();
    assert_eq!(store.get(&entry(7)).await.map_err(kind).err(), Some(ErrorKind::Corrupt));
    assert_eq!(store.create(&entry(7), &record(1)).await.map_err(kind), Err(ErrorKind::AlreadyExists));
    assert_eq!(store.delete(&entry(7)).await.map_err(kind), Err(ErrorKind::Corrupt));
    assert!(crate::store::names(&store).await.contains("key-0007"));
    assert!(store.status().await.unwrap().degraded.unwrap().contains("1 key"));
    // The next start knows the same, and other keys can be created.
    store.create(&entry(2000), &record(2000)).await.unwrap();
    drop(store);
    let opened = sample.open_at(copy.path()).unwrap();
    assert_eq!(opened.illegible, [entry(7).as_str()]);
    assert!(opened.store.get(&entry(2000)).await.unwrap() == record(2000));
    opened.store.store().discard(&entry(7)).await.unwrap();
    assert_eq!(opened.store.get(&entry(7)).await.map_err(kind).err(), Some(ErrorKind::NotFound));
    opened.store.create(&entry(7), &record(8)).await.unwrap();
    drop(opened);
    let opened = sample.open_at(copy.path()).unwrap();
    assert!(opened.illegible.is_empty() && opened.store.status().await.unwrap().degraded.is_none());
    assert!(opened.store.get(&entry(7)).await.unwrap() == record(8));
}

#[tokio::test]
async fn where_names_are_lost_nothing_is_absent_until_the_loss_is_accepted() {
    let sample = Sample::make(100).await;
    let copy = sample.copy();
    let journal = copy.path().join("journal");
    let text = fs::read_to_string(&journal).unwrap();
    let line = text.lines().find(|line| line.contains(" + key-0007 ")).unwrap();
    fs::write(&journal, text.replace(line, "nothing to be read")).unwrap();
    fs::remove_dir_all(copy.path().join("sled")).unwrap();
    let before = content(copy.path());
    let opened = sample.open_at(copy.path()).unwrap();
    assert!(opened.warnings.iter().any(|warning| warning.contains("read-only")), "{:?}", opened.warnings);
    let kind = |error: kms_core::Error| error.kind();
    for name in [entry(7), entry(9999)] {
        assert_eq!(opened.store.get(&name).await.map_err(kind).err(), Some(ErrorKind::Corrupt));
        assert_eq!(opened.store.create(&name, &record(1)).await.map_err(kind), Err(ErrorKind::ReadOnly));
    }
    assert!(opened.store.get(&entry(8)).await.unwrap() == record(8));
    drop(opened);
    assert!(content(copy.path()).keys().all(|file| before.contains_key(file) || file.ends_with("ballast")));
    assert_eq!(fs::read(&journal).unwrap(), before[&journal], "the evidence is as it was");

    kms_fs::accept_losses(&config(copy.path()), Some(&sample.root)).unwrap();
    let opened = sample.open_at(copy.path()).unwrap();
    assert_eq!(opened.store.get(&entry(7)).await.map_err(kind).err(), Some(ErrorKind::NotFound));
    assert!(opened.store.get(&entry(8)).await.unwrap() == record(8));
    opened.store.create(&entry(7), &record(7)).await.unwrap();
    let kept =
        files(copy.path()).into_iter().any(|file| file.display().to_string().contains("journal.damaged-"));
    assert!(kept, "what was given up is kept");
}

#[tokio::test]
async fn a_store_is_salvaged_without_a_write() {
    let sample = Sample::make(100).await;
    let copy = sample.copy();
    damage_line(&copy.path().join("journal"), entry(7).as_str());
    fs::write(copy.path().join("sled/db"), vec![0x5a; 100_000]).unwrap();
    let before = content(copy.path());
    let opened = open(&config(copy.path()), &sample.root, OpenMode::Salvage).unwrap();
    assert_eq!(opened.illegible, [entry(7).as_str()]);
    assert!(opened.warnings.iter().any(|told| told.contains("89 of 90 entries")), "{:?}", opened.warnings);
    let kind = |error: kms_core::Error| error.kind();
    assert!(opened.store.get(&entry(8)).await.unwrap() == record(8));
    assert_eq!(opened.store.get(&entry(9999)).await.map_err(kind).err(), Some(ErrorKind::Corrupt));
    assert_eq!(opened.store.create(&entry(9999), &record(1)).await.map_err(kind), Err(ErrorKind::ReadOnly));
    drop(opened);
    assert!(content(copy.path()) == before);
}

#[tokio::test]
async fn a_directory_that_is_removed_or_replaced_takes_no_writes() {
    let sample = Sample::make(50).await;
    let place = tempfile::tempdir().unwrap();
    let (path, away) = (place.path().join("store"), place.path().join("away"));
    crate::store::copy_tree(&sample.path(), &path);
    let store = sample.open_at(&path).unwrap().store;
    store.create(&entry(2000), &record(2000)).await.unwrap();
    let kind = |error: kms_core::Error| error.kind();
    for how in ["moved", "replaced", "emptied"] {
        fs::rename(&path, &away).unwrap();
        match how {
            "replaced" => crate::store::copy_tree(&sample.path(), &path),
            "emptied" => fs::create_dir(&path).unwrap(),
            _ => {}
        }
        let created = store.create(&entry(3000), &record(3000)).await.map_err(kind);
        assert_eq!(created, Err(ErrorKind::ReadOnly), "{how}");
        let why = store.status().await.unwrap().degraded.unwrap();
        assert!(why.contains("removed or replaced"), "{how}: {why}");
        assert!(store.get(&entry(1)).await.unwrap() == record(1), "{how}: what is in memory is served");
        // The store takes writes again once the directory is back.
        let _ = fs::remove_dir_all(&path);
        fs::rename(&away, &path).unwrap();
        let began = std::time::Instant::now();
        while store.status().await.unwrap().degraded.is_some() {
            assert!(began.elapsed().as_secs() < 30, "{how}: it does not notice that it is back");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    store.create(&entry(3000), &record(3000)).await.unwrap();
    drop(store);
    let store = sample.open_at(&path).unwrap().store;
    for n in [1, 2000, 3000] {
        assert!(store.get(&entry(n)).await.unwrap() == record(n), "{n}");
    }
}

#[tokio::test]
async fn the_journal_does_not_grow_with_what_is_deleted() {
    let place = tempfile::tempdir().unwrap();
    let sample = Sample::make(10).await;
    let path = place.path().join("store");
    crate::store::copy_tree(&sample.path(), &path);
    let store = sample.open_at(&path).unwrap().store;
    let mut longest = 0;
    for round in 0..4000 {
        let n = 5000 + round % 20;
        store.create(&entry(n), &record(n)).await.unwrap();
        store.delete(&entry(n)).await.unwrap();
        longest = longest.max(fs::metadata(path.join("journal")).unwrap().len());
    }
    println!("the journal had {longest} bytes at most");
    assert!(longest < 600_000, "the journal grew to {longest} bytes");
    drop(store);
    assert!(matches!(
        sample.judge(&path, "after many deletes").await,
        Outcome::Opened { unreadable: 0, read_only: false }
    ));
}
