use std::io::{Read, Write as _};
use std::sync::Arc;
use std::time::Duration;

use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::transfer::StoredKey;
use kms_core::{CacheConfig, Identity, KeyName, KeyRing, Kms, ListQuery, Page, Request, StoreStatus};

use super::facts::{KEY_FILE, MANIFEST};
use super::*;

fn caller() -> Identity {
    Identity::of_program("a test")
}

fn request() -> Request {
    Request::new(caller(), Duration::from_secs(10))
}

fn name(text: &str) -> KeyName {
    KeyName::new(text).unwrap()
}

/// Makes a store with a key of three versions, of which one is disabled, a deleted key, and one whose name sorts between
/// those of files.
async fn ring() -> KeyRing<Arc<MemoryStore>> {
    let config = CacheConfig::new().with_any(Duration::from_millis(1)).with_unused(Duration::from_millis(1));
    let ring = KeyRing::keeping_deleted(Arc::new(MemoryStore::new()), config, Duration::from_secs(3600));
    let client = ring.client(caller());
    for key in ["a", "a-b", "gone"] {
        client.create(&name(key)).await.unwrap();
    }
    for _ in 0..2 {
        client.rotate(&name("a")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ring.retire(&request(), &name("a"), 2).await.unwrap();
    client.delete(&name("gone")).await.unwrap();
    ring
}

async fn tar_of(ring: &KeyRing<Arc<MemoryStore>>) -> Vec<u8> {
    tar_of_keys(Keys::begin(Arc::new(ring.clone()), &request(), Unreadable::LeaveOut).await.unwrap()).await
}

async fn tar_of_keys(mut keys: Keys) -> Vec<u8> {
    let mut archive = ArchiveWriter::new(Vec::new(), "memory", Time::now());
    while let Some(found) = keys.next().await.unwrap() {
        match found {
            Found::Key(key) => archive.key(&key).unwrap(),
            Found::DeletedMeanwhile(name) => archive.deleted_meanwhile(&name),
            Found::LeftOut(name, why) => archive.leave_out(&name, why),
            Found::Unreadable(name, why) => archive.unreadable(&name, &why),
        }
    }
    archive.finish().unwrap().0
}

fn read_all(tar: impl Read) -> Result<(Vec<Stored>, Manifest), String> {
    let (mut reader, mut read) = (ArchiveReader::new(tar), Vec::new());
    while let Some(stored) = reader.next()? {
        read.push(stored);
    }
    Ok((read, reader.into_manifest().expect("it came to its end")))
}

fn refusal(tar: &[u8]) -> String {
    read_all(tar).err().unwrap_or_else(|| panic!("a bad archive was taken"))
}

/// The files of a tar, which an ordinary reader of tar finds.
fn files_of(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        assert_eq!((entry.header().mode().unwrap(), entry.header().mtime().unwrap()), (0o600, 0));
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().display().to_string(), content)
    });
    entries.collect()
}

fn tar_with(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, content) in files {
        tar_file::write(&mut tar, path, content).unwrap();
    }
    tar_file::write_end(&mut tar).unwrap();
    tar
}

#[tokio::test]
async fn what_was_written_is_read_with_versions_and_markers() {
    let ring = ring().await;
    let tar = tar_of(&ring).await;
    let (read, manifest) = read_all(&*tar).unwrap();
    assert_eq!((manifest.keys, manifest.versions, manifest.deleted, manifest.files), (3, 5, 1, 7));
    assert_eq!((manifest.left_out, manifest.store.as_str()), (0, "memory"));
    for Stored { key, probes } in &read {
        let there = StoredKey::read(ring.store(), key.name()).await.unwrap();
        there.open_probes(probes).unwrap();
        assert!(there.entries() == key.entries(), "{}", key.name());
    }
    let names: Vec<_> = read.iter().map(|stored| stored.key.name().as_str()).collect();
    assert_eq!(names, ["a", "a-b", "gone"]);

    let paths: Vec<_> = files_of(&tar).into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        paths,
        [
            "keys/a/disabled/2",
            "keys/a/versions/2",
            "keys/a/versions/3",
            "keys/a/versions/1",
            "keys/a/key.json",
            "keys/a-b/versions/1",
            "keys/a-b/key.json",
            "keys/gone/deleted",
            "keys/gone/versions/1",
            "keys/gone/key.json",
            "manifest.json",
        ]
    );
}

#[tokio::test]
async fn a_key_that_was_deleted_since_it_was_listed_is_named_and_nothing_that_is_lacking() {
    let ring = ring().await;
    let keys = Keys::begin(Arc::new(ring.clone()), &request(), Unreadable::Fail).await.unwrap();
    ring.store().delete(&EntryName::from(&name("a-b"))).await.unwrap();
    let (read, manifest) = read_all(&*tar_of_keys(keys).await).unwrap();
    assert_eq!((read.len(), manifest.left_out, manifest.deleted_meanwhile, manifest.lacking()), (2, 1, 1, 0));
    assert_eq!(manifest.left_out_names[0].name, "a-b");
}

/// A store that lists a key and does not have it.
struct Dangling(MemoryStore);

#[async_trait::async_trait]
impl KeyStore for Dangling {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("dangling")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> kms_core::Result<()> {
        self.0.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> kms_core::Result<SecretBytes> {
        self.0.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> kms_core::Result<()> {
        self.0.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> kms_core::Result<Page> {
        let mut page = self.0.list(query).await?;
        page.names.push(name("lost"));
        Ok(page)
    }

    async fn status(&self) -> kms_core::Result<StoreStatus> {
        self.0.status().await
    }
}

#[tokio::test]
async fn a_key_that_is_listed_still_and_not_there_is_lacking() {
    let ring = KeyRing::new(Arc::new(Dangling(MemoryStore::new())), CacheConfig::default());
    ring.client(caller()).create(&name("a")).await.unwrap();
    let keys = Keys::begin(Arc::new(ring), &request(), Unreadable::Fail).await.unwrap();
    let (read, manifest) = read_all(&*tar_of_keys(keys).await).unwrap();
    assert_eq!((read.len(), manifest.left_out, manifest.deleted_meanwhile, manifest.lacking()), (1, 1, 0, 1));
    assert!(manifest.left_out_names[0].why.contains("lists it"), "{:?}", manifest.left_out_names);
}

#[tokio::test]
async fn a_key_that_cannot_be_read_fails_the_backup_or_is_named_in_it() {
    let ring = ring().await;
    let entry = EntryName::from(&name("a-b"));
    ring.store().delete(&entry).await.unwrap();
    ring.store().create(&entry, &b"no record".as_slice().into()).await.unwrap();
    let mut keys = Keys::begin(Arc::new(ring.clone()), &request(), Unreadable::Fail).await.unwrap();
    assert!(matches!(keys.next().await, Ok(Some(Found::Key(_)))));
    assert_eq!(keys.next().await.err().unwrap().kind(), kms_core::ErrorKind::Corrupt);

    let (read, manifest) = read_all(&*tar_of(&ring).await).unwrap();
    assert_eq!(read.len(), 2);
    assert_eq!((manifest.keys, manifest.left_out, manifest.unreadable), (2, 1, 1));
    let left = &manifest.left_out_names[0];
    assert!(left.name == "a-b" && left.why.contains("cannot be read"), "{left:?}");
}

#[test]
fn a_manifest_of_a_thousand_long_reasons_fits_into_its_file() {
    let mut manifest = Manifest::new(String::new(), "", Time::now());
    for _ in 0..1001 {
        manifest.count_unreadable(&name(&"n".repeat(80)), &"\u{1}\"ä".repeat(1000));
    }
    assert_eq!((manifest.left_out, manifest.left_out_names.len()), (1001, 1000));
    assert!(serde_json::to_vec(&manifest).unwrap().len() <= tar_file::MAX_FILE);
}

#[tokio::test]
async fn a_store_without_keys_has_a_backup_too() {
    let ring = KeyRing::new(Arc::new(MemoryStore::new()), CacheConfig::default());
    let (read, manifest) = read_all(&*tar_of(&ring).await).unwrap();
    assert_eq!((read.len(), manifest.keys), (0, 0));
}

/// Below age, which finds every changed byte, the tar says everything once and proves it.
#[tokio::test]
async fn a_changed_byte_is_found_without_age_too() {
    let tar = tar_of(&ring().await).await;
    // These say when and by what the archive was made, and nothing can prove it.
    let manifest = String::from_utf8(files_of(&tar).pop().unwrap().1).unwrap();
    let at = |text: &str| tar.windows(text.len()).rposition(|window| window == text.as_bytes()).unwrap();
    let begins = at(&manifest);
    let free: Vec<_> = ["\"program\":", "\"began\":", "\"ended\":", "\"store\":"]
        .iter()
        .map(|member| {
            let start = begins + manifest.find(member).unwrap();
            start..start + manifest[start - begins..].find(",\"").unwrap()
        })
        .collect();
    for at in 0..tar.len() {
        let mut changed = tar.clone();
        changed[at] ^= 1;
        let is_free = free.iter().any(|range| range.contains(&at));
        assert!(read_all(&*changed).is_err() || is_free, "byte {at} of {}", tar.len());
    }
    for at in (0..tar.len()).step_by(97) {
        assert!(read_all(&tar[..at]).is_err(), "cut at {at}");
    }
    let longer = [&*tar, &[0]].concat();
    assert!(refusal(&longer).contains("follows its manifest"));
}

/// The whole file, as `kms backup verify` reads it.
#[tokio::test]
async fn every_changed_byte_of_a_sealed_archive_is_found() {
    let key = age::x25519::Identity::generate();
    let recipients = crate::recipients::Recipients::parse(&[key.to_public().to_string()]).unwrap();
    let mut sealed = recipients.seal(Vec::new()).unwrap();
    sealed.write_all(&tar_of(&ring().await).await).unwrap();
    let sealed = sealed.finish().unwrap();
    let read = |sealed: &[u8]| {
        let opened = age::Decryptor::new(sealed).map_err(|error| error.to_string())?;
        let opened = opened.decrypt(std::iter::once(&key as &dyn age::Identity));
        read_all(opened.map_err(|error| error.to_string())?).map(drop)
    };
    assert_eq!(read(&sealed), Ok(()));
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 0x20;
        assert!(read(&changed).is_err(), "byte {at} of {}", sealed.len());
    }
    for at in (0..sealed.len()).step_by(89).chain([sealed.len() - 1]) {
        assert!(read(&sealed[..at]).is_err(), "cut at {at}");
    }
    assert!(read(&[&*sealed, &[0]].concat()).is_err());
}

#[tokio::test]
async fn a_file_that_is_missing_surplus_or_elsewhere_is_found() {
    let files = files_of(&tar_of(&ring().await).await);
    for at in 0..files.len() {
        let mut fewer = files.clone();
        let (path, _) = fewer.remove(at);
        let why = refusal(&tar_with(&fewer));
        assert!(!why.is_empty(), "without {path}");
        let mut doubled = files.clone();
        doubled.insert(at, files[at].clone());
        refusal(&tar_with(&doubled));
        if at > 0 {
            let mut swapped = files.clone();
            swapped.swap(at - 1, at);
            let is_same_key = swapped[at].0.rsplit_once('/').map(|(directory, _)| directory.to_owned());
            // Only the last of a key's files has to be the last.
            let is_free = is_same_key.is_some()
                && !files[at].0.ends_with(KEY_FILE)
                && !files[at - 1].0.ends_with(KEY_FILE);
            assert!(
                read_all(&*tar_with(&swapped)).is_err() || is_free,
                "{} before {}",
                files[at].0,
                files[at - 1].0
            );
        }
    }
    // Whole keys that are left out, with all that belongs to them.
    for key in ["keys/a/", "keys/a-b/", "keys/gone/"] {
        let rest: Vec<_> = files.iter().filter(|(path, _)| !path.starts_with(key)).cloned().collect();
        assert!(refusal(&tar_with(&rest)).contains("its manifest tells of 3 keys"));
    }
}

#[tokio::test]
async fn a_hostile_tar_is_refused_by_its_headers() {
    let good = files_of(&tar_of(&ring().await).await);
    for path in [
        "../x",
        "keys/../x",
        "keys/a/../../x",
        "keys/a/versions/01",
        "keys/a/versions/1001",
        "keys/a/other",
        "x",
    ] {
        let mut files = good.clone();
        // A path with '..' is none that this program writes, so it is made by hand.
        files.insert(0, ("keys/a/placeholder".to_owned(), Vec::new()));
        let mut tar = tar_with(&files);
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes().copy_from_slice(&tar[..512]);
        header.as_mut_bytes()[..100].fill(0);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar[..512].copy_from_slice(header.as_bytes());
        refusal(&tar);
    }
    for change in [
        |header: &mut tar::Header| header.set_entry_type(tar::EntryType::Symlink),
        |header: &mut tar::Header| header.set_entry_type(tar::EntryType::GNULongName),
        |header: &mut tar::Header| header.set_entry_type(tar::EntryType::XGlobalHeader),
        |header: &mut tar::Header| header.set_mode(0o4755),
        |header: &mut tar::Header| header.set_uid(1),
        // More than any file has: nothing of that size is made room for.
        |header: &mut tar::Header| header.set_size(u64::MAX >> 1),
        |header: &mut tar::Header| header.set_size(tar_file::MAX_FILE as u64 + 1),
    ] {
        let mut tar = tar_with(&good);
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes().copy_from_slice(&tar[..512]);
        change(&mut header);
        header.set_cksum();
        tar[..512].copy_from_slice(header.as_bytes());
        assert!(refusal(&tar).contains("something else than the files of a backup"));
    }
    // One key of endless files ends at a bound.
    let mut endless = Vec::new();
    for _ in 0..10 {
        tar_file::write(&mut endless, "keys/a/versions/2", &vec![0; tar_file::MAX_FILE]).unwrap();
    }
    assert!(refusal(&endless).contains("larger than any key"));
    // Empty files have no size, and end at a bound, too.
    let mut endless = Vec::new();
    for _ in 0..2002 {
        tar_file::write(&mut endless, "keys/a/versions/2", &[]).unwrap();
    }
    assert!(refusal(&endless).contains("larger than any key"));
    assert!(refusal(&endless[..2001 * 512]).contains("cut off"), "so many are no reason yet");
}

#[tokio::test]
async fn another_format_is_refused_by_its_name() {
    let mut files = files_of(&tar_of(&ring().await).await);
    let (path, manifest) = files.last_mut().unwrap();
    assert_eq!(path, MANIFEST);
    *manifest =
        String::from_utf8(manifest.clone()).unwrap().replace("kms-backup/1", "kms-backup/2").into_bytes();
    assert!(refusal(&tar_with(&files)).contains("'kms-backup/2'"));
}
