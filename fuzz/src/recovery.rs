//! What brings keys back or moves them: files of escrow, archives of backups, and the note of a key that is being replaced.

use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use aws_lc_rs::digest::{SHA256, digest};
use kms_core::KeyName;
use kms_core::primitives::{Cipher, Fingerprint, SecretBytes, SecretKey};
use kms_core::store::{EntryName, HmacKey, KeyRecord, KeyStore as _, MemoryStore};
use kms_core::transfer::{StoredKey, former_name};

use crate::server::backup::facts::MANIFEST;
use crate::server::backup::reader::ArchiveReader;
use crate::server::backup::tar_file;
use crate::server::backup::time::Time;
use crate::server::backup::writer::ArchiveWriter;
use crate::server::escrow::contents::Contents;
use crate::server::escrow::line::{Line, Says, Sealed};
use crate::server::escrow::lives::held;
use crate::split::split;

/// A file of escrow, once as it is and once with sums that are right: what is read of a line reads the same again, and each
/// byte is counted.
pub fn escrow_lines(input: &[u8]) {
    let mut summed = Vec::new();
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let end = text
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b' ')
            .nth(6)
            .map_or(text.len(), |(at, _)| at);
        let sum = hex::encode(digest(&SHA256, &text[..end]));
        summed.extend([&sum.as_bytes()[..16], b" ", text, b"\n"].concat());
    }
    for file in [input, &summed] {
        for line in file.split_inclusive(|byte| *byte == b'\n') {
            let Some(read) = Line::parse(line) else { continue };
            if matches!(read.says, Says::Entry { sealed: Sealed::Damaged, .. }) {
                continue;
            }
            let mut again = String::new();
            read.push_to(&mut again);
            assert_eq!(Line::parse(again.as_bytes()), Some(read));
        }
        let contents = Contents::read(file, true).expect("it is in memory");
        assert_eq!(contents.len, file.len() as u64);
        assert!(contents.flaws.iter().all(|flaw| flaw.offset <= contents.len && !flaw.what.contains('\n')));
        let entries = contents.facts.iter().filter(|fact| matches!(fact.says, Says::Entry { .. })).count();
        assert_eq!(held(vec![contents]).len(), entries);
    }
}

/// An archive, and changes of one that is whole: what is read was written so, and no change outside of the manifest's own text
/// goes unseen.
pub fn backup_archive(input: &[u8]) {
    let mut rest = input;
    while let Ok((path, content)) = tar_file::read(&mut rest) {
        let mut again = Vec::new();
        tar_file::write(&mut again, &path, &content).expect("it was read");
        let read = &input[..input.len() - rest.len()];
        assert!(read.ends_with(&again));
    }
    let _ = read_all(input);
    let whole = archive();
    assert_eq!(read_all(whole).expect("it is whole"), 2);
    let (place, change) = split(input);
    let place = place.iter().fold(0, |place, byte| place << 8 | usize::from(*byte)) % whole.len();
    let mut changed = whole.to_vec();
    for (byte, change) in changed.iter_mut().skip(place).zip(change) {
        *byte ^= change;
    }
    let mut cut = whole.to_vec();
    cut.truncate(place);
    assert!(read_all(&cut).is_err(), "an archive that was cut off is taken");
    let manifest = whole.windows(MANIFEST.len()).rposition(|window| window == MANIFEST.as_bytes());
    let manifest = manifest.expect("it has one");
    if changed[..manifest] != whole[..manifest] {
        assert!(read_all(&changed).is_err(), "a changed archive is taken");
    } else {
        let _ = read_all(&changed);
    }
}

/// Returns the number of keys, if the archive is whole.
fn read_all(archive: &[u8]) -> Result<u64, String> {
    let mut reader = ArchiveReader::new(archive);
    let (mut keys, mut last) = (0, None);
    while let Some(stored) = reader.next()? {
        let name = Some(stored.key.name().clone());
        assert!(last < name, "keys come in their order");
        (keys, last) = (keys + 1, name);
    }
    let manifest = reader.into_manifest().expect("it came to its end");
    assert_eq!(manifest.keys, keys);
    Ok(keys)
}

fn archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let mut archive = ArchiveWriter::new(Vec::new(), "memory", Time::now());
        for (name, byte) in [("a", 1), ("b", 2)] {
            archive.key(&key(name, byte)).expect("it is in memory");
        }
        archive.finish().expect("it is in memory").0
    })
}

fn key(name: &str, byte: u8) -> StoredKey {
    let record = KeyRecord {
        key: SecretKey::take(&mut [byte; 32]),
        cipher: Cipher::Aes256,
        hmac_key: Some(HmacKey(SecretKey::take(&mut [byte + 100; 32]))),
        created_at: None,
        created_by: "fuzz".to_owned(),
    };
    let entries = [(name.to_owned(), record.encode())];
    StoredKey::from_entries(&KeyName::new(name).expect("it is one"), entries).expect("it is whole")
}

/// The note of a key that is being replaced: whatever it says, the key that gives way can be read afterwards, and so can each
/// other one.
pub fn migrate_note(input: &[u8]) {
    let store = MemoryStore::new();
    let (old, new) = (key("k", 1), key("k", 2));
    let note = EntryName::replacing(old.name());
    at_once(store.create(&note, &SecretBytes::from(input))).expect("it is not there");
    at_once(old.write(&store)).expect("it is in memory");
    let outcome = at_once(new.replace(&store));
    let former = former_name(old.name(), &old.fingerprint()).expect("it is short");
    let there = |name: &KeyName| -> Option<Fingerprint> {
        at_once(StoredKey::read(&store, name)).ok().map(|key| key.fingerprint())
    };
    let kept = [there(old.name()), there(&former)];
    assert!(kept.contains(&Some(old.fingerprint())), "a key was lost: {kept:?}");
    if outcome.is_ok() {
        assert_eq!(kept, [Some(new.fingerprint()), Some(old.fingerprint())]);
    }
}

/// Returns what a future brings that waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a store in memory waits for something"),
    }
}
