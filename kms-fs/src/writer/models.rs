//! Model checks of the writer. shuttle runs each under thousands of schedules, over a disk that fails at
//! random.
//!
//! `KMS_MODEL_RUNS` sets the number of schedules of each model. Half of them are random, and half have few
//! switches.

use std::env;
use std::sync::Arc;

use kms_core::{Error, ErrorKind, Result};
use shuttle::future::block_on;
use shuttle::thread;
use tokio::sync::oneshot;

use super::index::{Absent, Index};
use super::sync::{Disk, Files};
use super::thread::{Job, Means, Writer};
use crate::config::FsConfig;
use crate::entries::Entries;
use crate::journal::Head;

/// The number of switches in a schedule with few of them.
const SWITCHES: [usize; 2] = [3, 6];

fn check(model: fn()) {
    let runs = env::var("KMS_MODEL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(10_000);
    for switches in SWITCHES {
        shuttle::check_pct(model, runs / 4, switches);
    }
    shuttle::check_random(model, runs / 2);
}

struct Store {
    index: Arc<Index>,
    writer: Writer,
    disk: Arc<Disk>,
}

fn store(disk: Disk) -> Arc<Store> {
    store_of(disk, Entries::new(), true)
}

fn store_of(disk: Disk, entries: Entries, is_compared: bool) -> Arc<Store> {
    let disk = disk.insert();
    let index = Arc::new(Index::new(entries, None, is_compared));
    let head = Head { store_id: [0; 16], header: Vec::new() };
    let writer = Writer::start(FsConfig::new("model"), head, Ok(Files::of_model()), &index).unwrap();
    Arc::new(Store { index, writer, disk })
}

impl Store {
    fn change(&self, name: &str, value: Option<&[u8]>) -> Result<()> {
        let (reply, outcome) = oneshot::channel();
        self.writer.submit(Job {
            name: name.to_owned(),
            value: value.map(Into::into),
            means: Means::Change,
            reply,
        })?;
        block_on(outcome).unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "nobody answered")))
    }

    fn replace(&self, name: &str, value: &[u8]) -> Result<()> {
        let (reply, outcome) = oneshot::channel();
        self.writer.submit(Job {
            name: name.to_owned(),
            value: Some(value.into()),
            means: Means::Replace,
            reply,
        })?;
        block_on(outcome).unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "nobody answered")))
    }

    fn is_seen(&self, name: &str) -> bool {
        self.index.entries().contains(name)
    }

    /// Checks that everything that readers see is on the disk.
    fn look(&self) {
        let seen: Vec<String> = self.index.entries().iter().map(|(name, _)| name.to_owned()).collect();
        let synced = self.disk.lock();
        for name in seen {
            assert!(synced.contains_key(&name), "'{name}' is seen and not on the disk");
        }
    }
}

fn kind(outcome: &Result<()>) -> Option<ErrorKind> {
    outcome.as_ref().err().map(Error::kind)
}

#[test]
fn what_is_acknowledged_is_seen_and_synced_and_what_is_refused_is_neither() {
    check(|| {
        let store = store(Disk { fails_one_of: 6, ..Disk::default() });
        let clients = ["a", "b", "c"].map(|name| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let outcome = store.change(name, Some(b"value"));
                if outcome.is_ok() {
                    assert!(store.is_seen(name), "acknowledged and not seen");
                    store.look();
                } else {
                    assert!(kind(&outcome).is_some_and(ErrorKind::is_of_writes));
                    assert!(!store.is_seen(name), "refused and seen");
                }
                (name, outcome.is_ok())
            })
        });
        store.look();
        let outcomes = clients.map(|client| client.join().unwrap());
        let (index, disk) = (Arc::clone(&store.index), Arc::clone(&store.disk));
        drop(store);
        for (name, is_done) in outcomes {
            assert_eq!(index.entries().contains(name), is_done);
            assert!(disk.lock().contains_key(name) || !is_done, "acknowledged and not on the disk");
        }
        if index.read_only().is_none() {
            assert!(*index.entries() == disk.entries(), "a refused change is on the disk");
        }
    });
}

#[test]
fn of_two_creates_of_one_name_one_succeeds() {
    check(|| {
        let store = store(Disk::default());
        let clients = [&b"one"[..], b"other"].map(|value| {
            let store = Arc::clone(&store);
            thread::spawn(move || store.change("a", Some(value)).is_ok().then_some(value))
        });
        let deleted = store.change("a", None).is_ok();
        let created = clients.map(|client| client.join().unwrap());
        let done = created.iter().flatten().count();
        assert!((1..=1 + usize::from(deleted)).contains(&done), "{done} creates, {deleted}");
        let entries = store.index.entries();
        assert_eq!(entries.contains("a"), done > usize::from(deleted));
        if let (Some(Some(there)), 1) = (entries.get("a"), done) {
            assert_eq!(Some(there), created.iter().flatten().next().copied());
        }
    });
}

#[test]
fn a_name_that_is_replaced_is_never_absent_and_has_one_of_both_values() {
    check(|| {
        let store = store(Disk { fails_one_of: 4, ..Disk::default() });
        if store.change("a", Some(b"old")).is_err() {
            return;
        }
        let replacer = {
            let store = Arc::clone(&store);
            thread::spawn(move || store.replace("a", b"new").is_ok())
        };
        let other = store.change("b", Some(b"value")).is_ok();
        assert!(store.is_seen("a"));
        let is_replaced = replacer.join().unwrap();
        assert!(store.replace("c", b"new").is_err(), "there is no such name");
        let expected: &[u8] = if is_replaced { b"new" } else { b"old" };
        assert_eq!(store.index.entries().get("a"), Some(Some(expected)), "{other}");
        let (index, disk) = (Arc::clone(&store.index), Arc::clone(&store.disk));
        drop(store);
        if index.read_only().is_none() {
            assert!(*index.entries() == disk.entries());
        }
    });
}

#[test]
fn it_is_known_to_be_read_only_before_a_caller_hears_of_it() {
    check(|| {
        let store = store(Disk { fails_one_of: 2, stays_bad: true, ..Disk::default() });
        let clients = ["a", "b"].map(|name| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let outcome = store.change(name, Some(b"value"));
                assert_eq!(store.is_seen(name), outcome.is_ok());
                if outcome.is_err() {
                    assert!(store.index.read_only().is_some(), "refused, and nobody knows why");
                }
            })
        });
        for client in clients {
            client.join().unwrap();
        }
    });
}

#[test]
fn a_writer_that_ends_answers_what_was_asked() {
    check(|| {
        let store = store(Disk::default());
        let mut outcomes = Vec::new();
        for name in ["a", "b"] {
            let (reply, outcome) = oneshot::channel();
            let job =
                Job { name: name.to_owned(), value: Some(b"value"[..].into()), means: Means::Change, reply };
            store.writer.submit(job).unwrap();
            outcomes.push(outcome);
        }
        let index = Arc::clone(&store.index);
        drop(store);
        for outcome in outcomes {
            block_on(outcome).expect("nobody answered").unwrap();
        }
        assert_eq!(index.entries().len(), 2);
    });
}

#[test]
fn what_only_the_database_has_is_never_absent_and_never_lost() {
    check(|| {
        let disk = Disk { fails_one_of: 4, ..Disk::default() };
        for name in ["a", "stray"] {
            disk.lock().insert(name.to_owned(), Some(b"value"[..].into()));
        }
        let of_journal = [("a", Some(b"value"))].into_iter().collect();
        let store = store_of(disk, of_journal, false);
        assert!(store.is_seen("a"));
        let reader = {
            let store = Arc::clone(&store);
            thread::spawn(move || match block_on(store.index.get("stray")) {
                Ok(value) => assert!(value.is_some(), "lost"),
                Err(Absent { doubt }) => assert!(doubt.is_some(), "absent"),
            })
        };
        let writer = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let outcome = store.change("stray", Some(b"other"));
                let refused = |kind: ErrorKind| kind == ErrorKind::AlreadyExists || kind.is_of_writes();
                assert!(kind(&outcome).is_some_and(refused));
                let outcome = store.change("b", Some(b"value"));
                assert!(kind(&outcome).is_none_or(ErrorKind::is_of_writes));
                (outcome.is_ok(), store.is_seen("b"))
            })
        };
        reader.join().unwrap();
        let (is_done, is_seen) = writer.join().unwrap();
        assert_eq!(is_done, is_seen);
        let disk = Arc::clone(&store.disk);
        drop(store);
        for name in ["a", "stray"] {
            assert_eq!(disk.lock().get(name).cloned().flatten().as_deref(), Some(&b"value"[..]), "{name}");
        }
        assert!(disk.lock().contains_key("b") || !is_done);
    });
}

#[test]
fn a_database_that_agrees_is_taken_as_it_is() {
    check(|| {
        let disk = Disk { fails_one_of: 3, ..Disk::default() };
        disk.lock().insert("a".to_owned(), Some(b"value"[..].into()));
        let store = store_of(disk, [("a", Some(b"value"))].into_iter().collect(), false);
        let client = {
            let store = Arc::clone(&store);
            thread::spawn(move || store.change("a", None).is_ok())
        };
        block_on(store.index.compared());
        assert_eq!(store.index.doubt(), None);
        let deleted = client.join().unwrap();
        assert_eq!(store.is_seen("a"), !deleted);
        let disk = Arc::clone(&store.disk);
        drop(store);
        assert!(!deleted || !disk.lock().contains_key("a"));
    });
}
