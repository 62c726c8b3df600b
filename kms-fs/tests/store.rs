//! The local store: the contract suite, and the promises of a store on a disk.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::primitives::{Cipher, SecretBytes, SecretKey};
use kms_core::store::{EntryName, KeyRecord, KeyStore, Notes};
use kms_core::{CacheConfig, ErrorKind, KeyName, KeyRing, ListQuery, contract};
use kms_fs::{
    FsConfig, FsStore, OpenError, OpenMode, RootKey, open, open_bare, rotate_root_key, rotate_root_key_file,
};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_contract_suite() {
    let (dir, root) = (dir(), RootKey::random().unwrap());
    let store = |name| open_at(&dir.path().join(name), &root);
    contract::key_store(&Arc::new(store("a"))).await;
    contract::kms(Arc::new(KeyRing::new(store("b"), CacheConfig::default()))).await;
    let uncached = CacheConfig::default().with_any(Duration::ZERO);
    let keeping = |name| Arc::new(KeyRing::keeping_deleted(store(name), uncached, Duration::from_secs(3600)));
    contract::kms(keeping("d")).await;
    let only = keeping("e");
    contract::deletions(Arc::clone(&only) as _, only).await;
    let bare = open_bare(&FsConfig::new(dir.path().join("c")), OpenMode::Create).unwrap();
    contract::key_store(&Arc::new(bare.store)).await;
}

#[tokio::test]
async fn keys_outlive_the_process() {
    let (dir, root) = (dir(), RootKey::random().unwrap());
    let opened = open(&config(&dir), &root, OpenMode::CreateOrOpen).unwrap();
    assert!(opened.is_new && opened.keys == 0);
    for n in 0..300 {
        opened.store.create(&entry(&format!("key-{n}")), &record(n)).await.unwrap();
    }
    opened.store.delete(&entry("key-7")).await.unwrap();
    drop(opened);
    let opened = open(&config(&dir), &root, OpenMode::CreateOrOpen).unwrap();
    assert!(!opened.is_new);
    assert_eq!(opened.keys, 299);
    for n in (0..300).filter(|n| *n != 7) {
        assert!(opened.store.get(&entry(&format!("key-{n}"))).await.unwrap() == record(n), "{n}");
    }
    assert_eq!(opened.store.get(&entry("key-7")).await.err().unwrap().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_replaced_entry_outlives_the_process_and_the_loss_of_either_file() {
    for lost in [None, Some("sled"), Some("journal")] {
        let (dir, root) = (dir(), RootKey::random().unwrap());
        let store = open_at(dir.path(), &root);
        store.create(&entry("my-key"), &record(1)).await.unwrap();
        let notes = Notes { gone: &entry("gone"), record: &record(4), back: &entry("back") };
        store.replace(&entry("my-key"), &record(2), &notes).await.unwrap();
        store.create(&entry("other"), &record(3)).await.unwrap();
        drop(store);
        if let Some(lost) = lost {
            let path = dir.path().join(lost);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        let store = open_at(dir.path(), &root);
        assert!(store.get(&entry("my-key")).await.unwrap() == record(2), "{lost:?}");
        assert!(store.get(&entry("other")).await.unwrap() == record(3), "{lost:?}");
    }
}

#[tokio::test]
async fn the_wrong_root_key_is_refused_and_nothing_changes() {
    let (dir, root) = (dir(), RootKey::random().unwrap());
    open_at(dir.path(), &root).create(&entry("my-key"), &record(1)).await.unwrap();
    let refused = open(&config(&dir), &RootKey::random().unwrap(), OpenMode::CreateOrOpen).err().unwrap();
    assert!(matches!(refused, OpenError::WrongRootKey { .. }), "{refused}");
    assert!(refused.to_string().contains(&dir.path().display().to_string()), "{refused}");
    assert!(open_at(dir.path(), &root).get(&entry("my-key")).await.unwrap() == record(1));
}

#[test]
fn a_store_has_one_user_and_the_error_names_it() {
    let (dir, root) = (dir(), RootKey::random().unwrap());
    let first = open_at(dir.path(), &root);
    let refused = open(&config(&dir), &root, OpenMode::CreateOrOpen).err().unwrap().to_string();
    let expected = format!("store '{}' is in use by process {}", dir.path().display(), std::process::id());
    assert_eq!(refused, expected);
    drop(first);
    open_at(dir.path(), &root);
}

#[test]
fn a_store_is_made_only_where_it_may_be() {
    let (dir, root) = (dir(), RootKey::random().unwrap());
    let absent = FsConfig::new(dir.path().join("absent"));
    assert!(matches!(open(&absent, &root, OpenMode::Existing).err(), Some(OpenError::NoStore { .. })));
    assert!(!absent.path.exists(), "and no directory was left behind");

    let other = FsConfig::new(dir.path().join("other"));
    fs::create_dir(&other.path).unwrap();
    fs::write(other.path.join("letters.txt"), "mine").unwrap();
    let refused = open(&other, &root, OpenMode::CreateOrOpen).err().unwrap().to_string();
    assert!(refused.contains("letters.txt"), "{refused}");

    open(&absent, &root, OpenMode::Create).unwrap();
    assert!(matches!(open(&absent, &root, OpenMode::Create).err(), Some(OpenError::AlreadyExists { .. })));
    assert_eq!(fs::metadata(&absent.path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_record_opens_only_under_its_name_and_in_its_store() {
    let (dir, root) = (dir(), RootKey::random().unwrap());
    let (a, b) = (open_at(&dir.path().join("a"), &root), open_at(&dir.path().join("b"), &root));
    a.create(&entry("mine"), &record(1)).await.unwrap();
    // An attacker who can write the files, but has no root key, copies a record to another name.
    let stolen = a.store().get(&entry("mine")).await.unwrap();
    a.store().create(&entry("yours"), &stolen).await.unwrap();
    b.store().create(&entry("mine"), &stolen).await.unwrap();
    for (store, name) in [(&a, "yours"), (&b, "mine")] {
        let error = store.get(&entry(name)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.chain().to_string().contains(name), "{error:?}");
    }
    assert!(a.get(&entry("mine")).await.unwrap() == record(1));
}

#[tokio::test]
async fn no_secret_lies_on_the_disk() {
    let dir = dir();
    let root_file = dir.path().join("root.key");
    RootKey::random().unwrap().write_new(&root_file).unwrap();
    let root = RootKey::from_file(&root_file).unwrap().key;
    let store_dir = dir.path().join("store");
    let small = FsConfig { ballast: 64 << 10, ..FsConfig::new(&store_dir) };
    let store = open(&small, &root, OpenMode::Create).unwrap().store;
    let mut secrets: Vec<Vec<u8>> = Vec::new();
    for n in 0..50 {
        let record = record(n);
        let key = KeyRecord::decode(record.expose()).unwrap().key;
        secrets.extend([
            record.expose()[..40].to_vec(),
            key.expose().to_vec(),
            STANDARD.encode(key.expose()).into(),
        ]);
        store.create(&entry(&format!("key-{n}")), &record).await.unwrap();
    }
    drop(store);
    let text = fs::read_to_string(&root_file).unwrap();
    secrets.extend([text.trim().as_bytes().to_vec(), STANDARD.decode(text.trim()).unwrap()]);
    let mut bytes = 0;
    for file in files(&store_dir) {
        let content = fs::read(&file).unwrap();
        bytes += content.len();
        for secret in &secrets {
            assert!(!content.windows(secret.len()).any(|window| window == secret), "{}", file.display());
        }
    }
    assert!(bytes > 50 * 200, "only {bytes} bytes were looked through");
    let names: Vec<u8> = files(&store_dir).into_iter().flat_map(|file| fs::read(file).unwrap()).collect();
    assert!(names.windows(6).any(|window| window == b"key-49"), "the search would find what is there");
}

#[tokio::test]
async fn the_root_key_can_be_changed() {
    let dir = dir();
    let (store_config, file) = (FsConfig::new(dir.path().join("store")), dir.path().join("root.key"));
    RootKey::random().unwrap().write_new(&file).unwrap();
    let first = RootKey::from_file(&file).unwrap().key;
    let store = open_at(&store_config.path, &first);
    store.create(&entry("my-key"), &record(1)).await.unwrap();
    let refused = rotate_root_key_file(&store_config, &file).err().unwrap();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    drop(store);

    let kept = rotate_root_key_file(&store_config, &file).unwrap();
    assert!(RootKey::from_file(&kept).unwrap().key == first, "backups made before need the old key");
    assert!(matches!(
        open(&store_config, &first, OpenMode::Existing).err(),
        Some(OpenError::WrongRootKey { .. })
    ));
    let second = RootKey::from_file(&file).unwrap().key;
    assert!(open_at(&store_config.path, &second).get(&entry("my-key")).await.unwrap() == record(1));
    let again = rotate_root_key_file(&store_config, &file).err().unwrap().to_string();
    assert!(again.contains("root.key.old"), "an old key is never overwritten: {again}");
}

#[tokio::test]
async fn an_interrupted_change_of_the_root_key_is_completed() {
    for step in 0..3 {
        let dir = dir();
        let (store_config, file) = (FsConfig::new(dir.path().join("store")), dir.path().join("root.key"));
        let (new_file, old_file) = (dir.path().join("root.key.new"), dir.path().join("root.key.old"));
        RootKey::random().unwrap().write_new(&file).unwrap();
        let first = RootKey::from_file(&file).unwrap().key;
        open_at(&store_config.path, &first).create(&entry("my-key"), &record(1)).await.unwrap();
        // The files that an interrupted change leaves behind after its first, second and third step.
        let second = RootKey::random().unwrap();
        second.write_new(&new_file).unwrap();
        if step > 0 {
            rotate_root_key(&store_config, &first, &second).unwrap();
        }
        if step > 1 {
            fs::hard_link(&file, &old_file).unwrap();
        }
        rotate_root_key_file(&store_config, &file)
            .unwrap_or_else(|error| panic!("after step {step}: {error}"));
        assert!(RootKey::from_file(&file).unwrap().key == second, "after step {step}");
        assert!(RootKey::from_file(&old_file).unwrap().key == first, "after step {step}");
        assert!(open_at(&store_config.path, &second).get(&entry("my-key")).await.unwrap() == record(1));
    }
}

#[tokio::test]
async fn a_store_whose_root_key_was_being_changed_opens() {
    for store_has_changed in [false, true] {
        let dir = dir();
        let (store_config, file) = (FsConfig::new(dir.path().join("store")), dir.path().join("root.key"));
        let (new_file, old_file) = (dir.path().join("root.key.new"), dir.path().join("root.key.old"));
        RootKey::random().unwrap().write_new(&file).unwrap();
        let first = RootKey::from_file(&file).unwrap().key;
        open_at(&store_config.path, &first).create(&entry("my-key"), &record(1)).await.unwrap();
        let second = RootKey::random().unwrap();
        second.write_new(&new_file).unwrap();
        if store_has_changed {
            rotate_root_key(&store_config, &first, &second).unwrap();
        }
        // The server starts with the file that its configuration names.
        let opened = open(&store_config, &first, OpenMode::Existing).unwrap();
        assert!(opened.store.get(&entry("my-key")).await.unwrap() == record(1));
        let [warning] = opened.warnings.as_slice() else { panic!("{:?}", opened.warnings) };
        assert!(warning.contains("change of the root key"), "{warning}");
        let in_force = if store_has_changed { &second } else { &first };
        assert!(RootKey::from_file(&file).unwrap().key == *in_force, "the file has the key in force");
        assert_eq!(new_file.exists(), !store_has_changed);
        if store_has_changed {
            assert!(
                RootKey::from_file(&old_file).unwrap().key == first,
                "backups made before need the old key"
            );
        }
    }
}

#[test]
fn a_root_key_inside_the_store_is_worth_a_warning() {
    let dir = dir();
    let store_config = FsConfig::new(dir.path().join("store"));
    let (outside, inside) = (dir.path().join("root.key"), store_config.path.join("root.key"));
    RootKey::random().unwrap().write_new(&outside).unwrap();
    let opened = open(&store_config, &RootKey::from_file(&outside).unwrap().key, OpenMode::Create).unwrap();
    assert_eq!(opened.warnings, [""; 0]);
    drop(opened);
    fs::rename(&outside, &inside).unwrap();
    let opened = open(&store_config, &RootKey::from_file(&inside).unwrap().key, OpenMode::Existing).unwrap();
    assert!(opened.warnings[0].contains("lies inside the store"), "{:?}", opened.warnings);
}

#[test]
fn a_failed_change_of_the_root_key_leaves_nothing_behind() {
    let dir = dir();
    let (store_config, file) = (FsConfig::new(dir.path().join("store")), dir.path().join("root.key"));
    RootKey::random().unwrap().write_new(&file).unwrap();
    open_at(&store_config.path, &RootKey::random().unwrap());
    let refused = rotate_root_key_file(&store_config, &file).err().unwrap();
    assert!(matches!(refused, OpenError::WrongRootKey { .. }), "{refused}");
    let refused = rotate_root_key_file(&FsConfig::new(dir.path().join("none")), &file).err().unwrap();
    assert!(matches!(refused, OpenError::NoStore { .. }), "{refused}");
    assert!(!dir.path().join("root.key.new").exists());
}

/// A key gets its name before anything is made with it, so a key that never got it is of no use.
#[test]
fn what_a_change_of_the_root_key_that_was_killed_left_is_removed_at_the_next_start() {
    let dir = dir();
    let (store_config, file) = (FsConfig::new(dir.path().join("store")), dir.path().join("root.key"));
    let key = RootKey::random().unwrap();
    key.write_new(&file).unwrap();
    drop(open(&store_config, &key, OpenMode::Create).unwrap());
    let left = dir.path().join("root.key.new.0123456789abcdef.tmp");
    RootKey::random().unwrap().write_new(&left).unwrap();
    let of_the_store = dir.path().join("root.key.old.0123456789abcdef.tmp");
    key.write_new(&of_the_store).unwrap();
    for file in [&left, &of_the_store] {
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        fs::File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    }
    let loaded = RootKey::from_file(&file).unwrap().key;
    open(&store_config, &loaded, OpenMode::Existing).unwrap();
    assert!(!left.exists());
    assert!(of_the_store.exists(), "it opens the store");
    assert!(RootKey::from_file(&file).unwrap().key == key);
}

#[test]
fn a_root_key_inside_a_new_store_is_a_warning() {
    let dir = dir();
    let file = dir.path().join("root.key");
    RootKey::random().unwrap().write_new(&file).unwrap();
    for _ in ["made", "opened again"] {
        let root = RootKey::from_file(&file).unwrap().key;
        let opened = open(&config(&dir), &root, OpenMode::CreateOrOpen).unwrap();
        assert!(opened.warnings.iter().any(|warning| warning.contains("root.key")), "{:?}", opened.warnings);
    }
}

#[test]
fn a_root_key_file_has_to_be_private_and_whole() {
    let dir = dir();
    let file = dir.path().join("root.key");
    RootKey::random().unwrap().write_new(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(RootKey::random().unwrap().write_new(&file).is_err(), "a root key is never overwritten");
    let set_mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o440);
    assert_eq!(RootKey::from_file(&file).unwrap().warnings.len(), 1, "readable by the group: a warning");
    for mode in [0o644, 0o604, 0o660, 0o620] {
        set_mode(mode);
        let refused = RootKey::from_file(&file).err().unwrap().to_string();
        assert!(refused.contains(&format!("{mode:04o}")) && refused.contains("chmod 600"), "{refused}");
    }
    set_mode(0o600);
    let short = STANDARD.encode([7; 31]);
    for content in ["", "not base64!", short.as_str(), &"A".repeat(5000)] {
        fs::write(&file, content).unwrap();
        let refused = RootKey::from_file(&file).err().unwrap().to_string();
        assert!(refused.contains("root.key") && refused.contains("base64 of 32 bytes"), "{refused}");
        assert!(content.is_empty() || !refused.contains(content), "the error does not repeat the content");
    }
}

#[test]
fn stores_of_another_kind_or_a_newer_format_are_refused() {
    let (dir, root) = (dir(), RootKey::random().unwrap());
    let (local, bare) = (FsConfig::new(dir.path().join("local")), FsConfig::new(dir.path().join("bare")));
    open(&local, &root, OpenMode::Create).unwrap();
    open_bare(&bare, OpenMode::Create).unwrap();
    assert!(matches!(open_bare(&local, OpenMode::Existing).err(), Some(OpenError::OtherRoot { .. })));
    assert!(matches!(open(&bare, &root, OpenMode::Existing).err(), Some(OpenError::OtherRoot { .. })));

    let database = sled::open(local.path.join("sled")).unwrap();
    let meta = database.open_tree("meta").unwrap();
    let header = meta.get("header").unwrap().unwrap();
    meta.insert("header", [&[4], &header[1..]].concat()).unwrap();
    drop((meta, database));
    let refused = open(&local, &root, OpenMode::Existing).err().unwrap();
    assert!(matches!(refused, OpenError::NewerFormat { format: 4, .. }), "{refused}");
}

#[test]
fn damaged_files_are_an_error_and_no_panic() {
    let (dir, root) = (dir(), RootKey::random().unwrap());
    drop(open_at(dir.path(), &root));
    for file in files(dir.path()).into_iter().filter(|file| !file.ends_with("lock")) {
        let len = fs::read(&file).unwrap().len();
        fs::write(&file, vec![0xa5; len]).unwrap();
    }
    let refused = open(&config(&dir), &root, OpenMode::Existing).err().unwrap().to_string();
    assert!(refused.contains(&dir.path().display().to_string()), "{refused}");
}

#[test]
fn a_store_that_was_not_finished_is_made_anew_and_one_that_lost_its_files_is_not() {
    let (dir, root) = (dir(), RootKey::random().unwrap());
    // The files that killed processes leave behind, one while it made a store and one while it opened a store.
    fs::create_dir_all(dir.path().join("sled.new/blobs")).unwrap();
    fs::write(dir.path().join("sled.new/conf"), "half").unwrap();
    fs::write(dir.path().join("lock"), "12345").unwrap();
    drop(open_at(dir.path(), &root));
    fs::write(dir.path().join("sled/snap.00000000FFFFFFFF.generating"), "half").unwrap();
    drop(open_at(dir.path(), &root));

    fs::remove_file(dir.path().join("sled/db")).unwrap();
    fs::remove_file(dir.path().join("journal")).unwrap();
    let refused = open(&config(&dir), &root, OpenMode::CreateOrOpen).err().unwrap().to_string();
    assert!(refused.contains("legible header") && refused.contains("nothing was written"), "{refused}");
}

#[tokio::test]
async fn a_record_that_is_too_long_is_refused() {
    let (dir, root) = (dir(), RootKey::random().unwrap());
    let store = open_at(dir.path(), &root);
    let error = store.create(&entry("long"), &SecretBytes::new(vec![7; 7000])).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    let longest = SecretBytes::new(vec![7; 6000]);
    store.create(&entry("long"), &longest).await.unwrap();
    assert!(store.get(&entry("long")).await.unwrap() == longest);
}

#[tokio::test]
async fn one_batch_sees_its_own_changes() {
    let (dir, root) = (dir(), RootKey::random().unwrap());
    let store = Arc::new(open_at(dir.path(), &root));
    for round in 0..50 {
        let name = entry(&format!("key-{round}"));
        let creates: Vec<_> = (0..20)
            .map(|n| {
                let (store, name) = (Arc::clone(&store), name.clone());
                tokio::spawn(async move { store.create(&name, &record(n)).await.map(|()| n) })
            })
            .collect();
        let mut winner = None;
        for create in creates {
            match create.await.unwrap() {
                Ok(n) => assert!(winner.replace(n).is_none(), "two creates of one name succeeded"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
            }
        }
        assert!(store.get(&name).await.unwrap() == record(winner.unwrap()));
    }
    let page = store.list(&ListQuery::prefix("key-")).await.unwrap();
    assert_eq!(page.names.len(), 50);
}

fn open_at(path: &Path, root: &RootKey) -> FsStore {
    open(&FsConfig::new(path), root, OpenMode::CreateOrOpen).unwrap_or_else(|error| panic!("{error}")).store
}

fn record(n: u64) -> SecretBytes {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&n.to_le_bytes());
    key[8..].fill(0x6b);
    KeyRecord {
        key: SecretKey::take(&mut key),
        cipher: Cipher::Aes256,
        hmac_key: None,
        created_at: None,
        created_by: "a test".into(),
    }
    .encode()
}

fn entry(name: &str) -> EntryName {
    EntryName::from(&KeyName::new(name).unwrap())
}

fn config(dir: &TempDir) -> FsConfig {
    FsConfig::new(dir.path())
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
