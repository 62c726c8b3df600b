//! A local store whose store key several roots have.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kms_core::primitives::SecretBytes;
use kms_core::roots::{Making, Root, Roots};
use kms_core::store::{EntryName, KeyStore};
use kms_core::{KeyName, contract};
use kms_fs::{
    FsConfig, FsForm, InHeader, OpenError, OpenMode, RootKey, forget_local_root, open, open_bare,
    open_with_roots, rotate_root_key,
};
use tempfile::TempDir;

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn entry(name: &str) -> EntryName {
    EntryName::from(&KeyName::new(name).unwrap())
}

fn content() -> SecretBytes {
    SecretBytes::from(b"record".as_slice())
}

/// Opens a store with its own root key, if it is given, and another root.
fn with_roots(path: &Path, own: Option<&RootKey>, other: &RootKey) -> Roots {
    let opened = open_with_roots(&FsConfig::new(path), own, OpenMode::Existing).unwrap();
    let mut all: Vec<Root> = own.map(|own| own.to_root().unwrap()).into_iter().collect();
    let mut header = None;
    if let InHeader::Opened(key) = opened.header {
        all[0] = all[0].clone().holding(key.clone());
        header = Some(key);
    }
    all.push(other.to_root().unwrap());
    Roots::new(Arc::new(opened.store), all, Arc::new(FsForm { header })).unwrap()
}

/// Makes a store with a record, and has another root protect it, too.
async fn adopted(path: &Path, own: &RootKey, other: &RootKey) {
    let opened = open(&FsConfig::new(path), own, OpenMode::Create).unwrap();
    opened.store.create(&entry("my-key"), &content()).await.unwrap();
    drop(opened);
    let established = with_roots(path, Some(own), other).adopt().await.unwrap();
    assert_eq!((established.records.earlier, established.notes), (0, Vec::new()));
}

async fn opens(path: &Path, own: Option<&RootKey>, other: &RootKey) {
    let opened = with_roots(path, own, other).open(Making::OnEmpty).await.unwrap();
    assert!(opened.store.get(&entry("my-key")).await.unwrap() == content());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().flatten() {
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to.join(file.file_name()));
        } else {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

fn is_of_other_root(outcome: &Result<kms_fs::Opened, OpenError>) -> bool {
    matches!(outcome, Err(OpenError::OtherRoot { .. }))
}

#[tokio::test]
async fn an_adopted_store_opens_with_each_root_and_keeps_the_contract() {
    let (dir, own, other) = (dir(), RootKey::random().unwrap(), RootKey::random().unwrap());
    let path = dir.path();
    adopted(path, &own, &other).await;
    opens(path, Some(&own), &other).await;
    opens(path, None, &other).await;
    // To a release without roots the store is as it was.
    let before = open(&FsConfig::new(path), &own, OpenMode::Existing).unwrap();
    assert!(before.store.get(&entry("my-key")).await.unwrap() == content());
    before.store.create(&entry("of-before"), &content()).await.unwrap();
    drop(before);
    let opened = with_roots(path, None, &other).open(Making::OnEmpty).await.unwrap();
    assert!(opened.store.get(&entry("of-before")).await.unwrap() == content());
    for name in ["my-key", "of-before"] {
        opened.store.delete(&entry(name)).await.unwrap();
    }
    contract::key_store(&opened.store).await;
    drop(opened);
    // The root key of the header can be replaced as before.
    let next = RootKey::random().unwrap();
    rotate_root_key(&FsConfig::new(path), &own, &next).unwrap();
    let opened = with_roots(path, Some(&next), &other).open(Making::OnEmpty).await.unwrap();
    assert!(opened.warnings.is_empty(), "{:?}", opened.warnings);
}

#[tokio::test]
async fn a_header_without_a_store_key_is_refused_by_all_who_look_for_one_there() {
    let (dir, own, other) = (dir(), RootKey::random().unwrap(), RootKey::random().unwrap());
    let path = dir.path();
    adopted(path, &own, &other).await;
    let config = FsConfig::new(path);
    forget_local_root(&config).unwrap();
    forget_local_root(&config).unwrap();
    let refused = open(&config, &own, OpenMode::CreateOrOpen).err().unwrap().to_string();
    assert!(refused.contains("no local root key in its header any more"), "{refused}");
    assert!(is_of_other_root(&open(&config, &own, OpenMode::Salvage)));
    assert!(matches!(open_bare(&config, OpenMode::Existing), Err(OpenError::OtherRoot { .. })));
    assert!(rotate_root_key(&config, &own, &other).is_err());
    opens(path, None, &other).await;
    opens(path, Some(&own), &other).await;
    assert!(is_of_other_root(&open(&config, &own, OpenMode::Existing)));
}

#[tokio::test]
async fn a_removal_that_was_cut_off_between_the_two_headers_counts() {
    let (dir, own, other) = (dir(), RootKey::random().unwrap(), RootKey::random().unwrap());
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    adopted(&before, &own, &other).await;
    copy(&before, &after);
    forget_local_root(&FsConfig::new(&after)).unwrap();
    for (database, journal) in [(&after, &before), (&before, &after)] {
        let mixed = dir.path().join(if database == &after { "one" } else { "other" });
        copy(database, &mixed);
        fs::copy(journal.join("journal"), mixed.join("journal")).unwrap();
        assert!(is_of_other_root(&open(&FsConfig::new(&mixed), &own, OpenMode::Existing)));
        opens(&mixed, None, &other).await;
        assert!(is_of_other_root(&open(&FsConfig::new(&mixed), &own, OpenMode::Existing)));
    }
}

#[tokio::test]
async fn the_damaged_database_of_a_store_with_roots_is_repaired() {
    let (dir, own, other) = (dir(), RootKey::random().unwrap(), RootKey::random().unwrap());
    let path = dir.path().join("store");
    adopted(&path, &own, &other).await;
    forget_local_root(&FsConfig::new(&path)).unwrap();
    let log = path.join("sled").join("db");
    let len = fs::metadata(&log).unwrap().len();
    fs::File::options().write(true).open(&log).unwrap().set_len(len / 2).unwrap();
    opens(&path, None, &other).await;
    opens(&path, None, &other).await;
}
