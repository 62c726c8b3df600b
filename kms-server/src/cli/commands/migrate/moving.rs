//! The move itself: each key is read, written, and read again from the store that was opened anew.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use kms_core::primitives::Fingerprint;
use kms_core::store::{EntryName, KeyStore};
use kms_core::transfer::{Probe, Replaced, StoredKey, Written, former_name};
use kms_core::{Error, ErrorKind, KeyName};

use super::progress::Progress;

/// The number of keys that are under way at once. A key in Vault takes a dozen round trips.
const AT_ONCE: usize = 16;

/// The pauses before a key is tried again whose store is away.
const PAUSES: [u64; 4] = [200, 800, 2000, 5000];

/// What happens to a key whose name another key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is a conflict.
    Add,
    /// It is passed over.
    Merge,
    /// It takes the place of the other one.
    Force,
}

/// A move between two stores.
pub struct Moving<'a> {
    pub from: &'a dyn KeyStore,
    pub to: &'a dyn KeyStore,
    pub mode: Mode,
    pub is_dry: bool,
    /// Whether keys have one version where the source denies the paths of versions and marks.
    pub without_versions: bool,
}

/// A key, and what became of it.
pub struct Moved {
    pub name: KeyName,
    pub outcome: Outcome,
    /// What was sealed at the source, and has to open at the target.
    probes: Vec<Probe>,
    /// What the source had when it was read: the key's fingerprint, and the number of its versions.
    read: Option<(Fingerprint, u32)>,
    /// Whether it opened there.
    pub is_proven: bool,
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there, and is there now.
    Moved,
    /// It was there already.
    There {
        /// The number of versions that were added.
        added: u32,
        /// What is different there and was left as it is.
        differs: Option<String>,
    },
    /// It took the place of another key.
    Replaced {
        /// The name under which the other key is kept.
        former: KeyName,
        /// Whether an earlier run had begun that and was cut off.
        resumed: bool,
    },
    /// Another key has its name, and was left there.
    PassedOver(Fingerprint),
    /// The source has no such key any more.
    Gone,
    /// It did not arrive, for this reason.
    Conflict(String),
    /// It did not arrive, for this reason. The same command tries again.
    Failed(String),
}

impl Moving<'_> {
    /// Moves the keys of these names. An outage that lasts ends the move: the keys that are left fail.
    pub async fn all(&self, names: &[KeyName], progress: &Progress) -> Vec<Moved> {
        let ended = AtomicBool::new(false);
        let mut moved = Vec::with_capacity(names.len());
        let mut left = names.iter();
        let mut under_way: FuturesUnordered<_> =
            left.by_ref().take(AT_ONCE).map(|name| self.one(name, &ended)).collect();
        while let Some(one) = under_way.next().await {
            moved.push(one);
            progress.step("moved", moved.len(), names.len());
            under_way.extend(left.next().map(|name| self.one(name, &ended)));
        }
        moved.sort_by(|one, other| one.name.cmp(&other.name));
        moved
    }

    async fn one(&self, name: &KeyName, ended: &AtomicBool) -> Moved {
        let (mut probes, mut seen) = (Vec::new(), None);
        let mut pauses = PAUSES.iter();
        let outcome = loop {
            if ended.load(Ordering::Relaxed) {
                break Outcome::Failed("it was not tried, since a key store is away".to_owned());
            }
            match self.try_one(name, &mut probes, &mut seen).await {
                Ok(outcome) => break outcome,
                Err(error) if error.kind().is_outage() => {
                    let Some(pause) = pauses.next() else {
                        ended.store(true, Ordering::Relaxed);
                        break Outcome::Failed(error.chain().to_string());
                    };
                    tokio::time::sleep(Duration::from_millis(*pause)).await;
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    break Outcome::Conflict(error.chain().to_string());
                }
                Err(error) => break Outcome::Failed(error.chain().to_string()),
            }
        };
        Moved { name: name.clone(), outcome, probes, read: seen, is_proven: false }
    }

    async fn try_one(
        &self,
        name: &KeyName,
        probes: &mut Vec<Probe>,
        seen: &mut Option<(Fingerprint, u32)>,
    ) -> Result<Outcome, Error> {
        let read = if self.without_versions {
            StoredKey::read_without_hidden(self.from, name).await
        } else {
            StoredKey::read(self.from, name).await
        };
        let key = match read {
            Ok(key) => key,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Outcome::Gone),
            Err(error) if error.kind() == ErrorKind::Denied => {
                return Ok(Outcome::Failed(format!(
                    "{}; --without-versions moves the first version alone, if no key there was ever rotated, retired or deleted \
                     by a server that keeps what belongs to keys at such paths",
                    error.chain()
                )));
            }
            Err(error) => return Err(error),
        };
        *probes = key.seal_probes()?;
        *seen = Some((key.fingerprint(), key.versions()));
        let written = if self.mode == Mode::Force {
            let replaced =
                if self.is_dry { key.would_replace(self.to).await? } else { key.replace(self.to).await? };
            match replaced {
                Replaced { former: Some(former), resumed, .. } => {
                    return Ok(Outcome::Replaced { former, resumed });
                }
                Replaced { written, .. } => written,
            }
        } else if self.is_dry {
            key.would_write(self.to).await?
        } else {
            key.write(self.to).await?
        };
        Ok(match written {
            Written::Stored => Outcome::Moved,
            Written::There { added, differs } => Outcome::There { added, differs },
            Written::Other(other) => self.other(&key, &other)?,
            _ => return Err(Error::new(ErrorKind::Internal, format!("write key '{name}'"))),
        })
    }

    /// Decides about a key whose name another key has.
    fn other(&self, key: &StoredKey, other: &Fingerprint) -> Result<Outcome, Error> {
        let name = key.name();
        let former = former_name(name, other)?;
        Ok(match self.mode {
            Mode::Merge => Outcome::PassedOver(*other),
            Mode::Force => Outcome::Replaced { former, resumed: false },
            Mode::Add => Outcome::Conflict(format!(
                "another key has its name: there is the one with the fingerprint {}, and this is {}; --merge leaves the one \
                 that is there, --force keeps it as '{former}' and puts this one in its place",
                hex::encode(other.as_bytes()),
                hex::encode(key.fingerprint().as_bytes())
            )),
        })
    }
}

impl Moved {
    /// Returns whether the key has to be in the target.
    pub fn has_arrived(&self) -> bool {
        matches!(self.outcome, Outcome::Moved | Outcome::There { .. } | Outcome::Replaced { .. })
    }
}

/// Reads each key that arrived from `to`, and has it open what was sealed at the source. A key that does not has failed.
pub async fn prove(to: &dyn KeyStore, moved: &mut [Moved], progress: &Progress) {
    let arrived: Vec<&mut Moved> = moved.iter_mut().filter(|one| one.has_arrived()).collect();
    let (mut done, all) = (0, arrived.len());
    let mut left = arrived.into_iter();
    let mut under_way: FuturesUnordered<_> =
        left.by_ref().take(AT_ONCE).map(|one| prove_one(to, one)).collect();
    while under_way.next().await.is_some() {
        done += 1;
        progress.step("proven", done, all);
        under_way.extend(left.next().map(|one| prove_one(to, one)));
    }
}

/// Counts the versions that came to `from` since its keys were read, one question a key.
pub async fn versions_since(from: &dyn KeyStore, moved: &[Moved]) -> Result<u32, Error> {
    let mut left = moved.iter().filter_map(|one| one.read.map(|(key, versions)| (&one.name, key, versions)));
    let ask = |(name, key, versions)| versions_behind(from, name, key, versions);
    let mut under_way: FuturesUnordered<_> = left.by_ref().take(AT_ONCE).map(ask).collect();
    let mut count = 0;
    while let Some(came) = under_way.next().await {
        count += came?;
        under_way.extend(left.next().map(ask));
    }
    Ok(count)
}

async fn versions_behind(
    from: &dyn KeyStore,
    name: &KeyName,
    key: Fingerprint,
    versions: u32,
) -> Result<u32, Error> {
    match from.get(&EntryName::version(name, &key, versions + 1)).await {
        Ok(_) => {}
        // Where versions are denied, they did not move either, as the user said.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => return Ok(0),
        Err(error) => return Err(error),
    }
    // Somebody who does not know the key can make entries at such paths, and only the key tells which count.
    match StoredKey::read(from, name).await {
        Ok(now) if now.fingerprint() == key => Ok(now.versions().saturating_sub(versions)),
        Ok(_) => Ok(0),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Notes that nothing was proven, since the target could not be opened again.
pub fn without_proof(moved: &mut [Moved], why: &str) {
    for one in moved.iter_mut().filter(|one| one.has_arrived()) {
        one.outcome = Outcome::Failed(format!("there is no proof, do not give up the source: {why}"));
    }
}

async fn prove_one(to: &dyn KeyStore, moved: &mut Moved) {
    let mut pauses = PAUSES.iter();
    loop {
        let read = StoredKey::read(to, &moved.name).await;
        match read.and_then(|key| key.open_probes(&moved.probes)) {
            Ok(()) if !moved.probes.is_empty() => {
                moved.is_proven = true;
                return;
            }
            Ok(()) => {
                moved.outcome = Outcome::Failed("there is no proof, since nothing was sealed".to_owned());
                return;
            }
            Err(error) if error.kind().is_outage() && pauses.len() > 0 => {
                let pause = pauses.next().copied().unwrap_or_default();
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            Err(error) => {
                let why = format!("the proof fails, do not give up the source: {}", error.chain());
                moved.outcome = Outcome::Failed(why);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kms_core::store::MemoryStore;
    use kms_core::{CacheConfig, Identity, KeyRing};

    use super::*;

    fn names(count: usize) -> Vec<KeyName> {
        (0..count).map(|n| KeyName::new(format!("key-{n:03}")).unwrap()).collect()
    }

    /// Makes keys with two versions each.
    async fn store_of(names: &[KeyName]) -> Arc<MemoryStore> {
        let store = Arc::new(MemoryStore::new());
        let client =
            KeyRing::new(Arc::clone(&store), CacheConfig::default()).client(Identity::of_program("a test"));
        for name in names {
            client.create(name).await.unwrap();
            client.rotate(name).await.unwrap();
        }
        store
    }

    async fn change(store: &MemoryStore, entry: &EntryName, record: &kms_core::primitives::SecretBytes) {
        store.delete(entry).await.unwrap();
        store.create(entry, record).await.unwrap();
    }

    #[tokio::test]
    async fn the_proof_fails_for_each_record_that_was_changed_behind_its_back() {
        let names = names(40);
        let (from, other) = (store_of(&names).await, store_of(&names).await);
        let to = MemoryStore::new();
        let moving =
            Moving { from: from.as_ref(), to: &to, mode: Mode::Add, is_dry: false, without_versions: false };
        let mut moved = moving.all(&names, &Progress::new(true)).await;
        assert!(moved.iter().all(|one| one.outcome == Outcome::Moved));

        let entry = |n: usize| EntryName::from(&names[n]);
        let slot = |n: usize, key: &StoredKey| EntryName::version(&names[n], &key.fingerprint(), 2);
        // Another key, the second version of another key, no second version, and no key at all.
        change(&to, &entry(3), &other.get(&entry(3)).await.unwrap()).await;
        let [key, foreign] =
            [StoredKey::read(&from, &names[5]).await, StoredKey::read(&other, &names[5]).await];
        let (key, foreign) = (key.unwrap(), foreign.unwrap());
        change(&to, &slot(5, &key), &other.get(&slot(5, &foreign)).await.unwrap()).await;
        to.delete(&slot(7, &StoredKey::read(&from, &names[7]).await.unwrap())).await.unwrap();
        to.delete(&entry(9)).await.unwrap();
        // The same key with another HMAC key.
        let decode = |bytes: &kms_core::primitives::SecretBytes| {
            kms_core::store::KeyRecord::decode(bytes.expose()).unwrap()
        };
        let mut record = decode(&from.get(&entry(11)).await.unwrap());
        record.hmac_key = decode(&other.get(&entry(11)).await.unwrap()).hmac_key;
        change(&to, &entry(11), &record.encode()).await;

        prove(&to, &mut moved, &Progress::new(true)).await;
        let failed: Vec<_> = (0..40).filter(|n| !moved[*n].is_proven).collect();
        assert_eq!(failed, [3, 5, 7, 9, 11]);
        for n in failed {
            assert!(
                matches!(&moved[n].outcome, Outcome::Failed(why) if why.contains("the proof fails")),
                "{n}"
            );
        }
    }

    #[tokio::test]
    async fn versions_that_came_since_keys_were_read_are_counted() {
        let names = names(20);
        let (from, to) = (store_of(&names).await, MemoryStore::new());
        let moving =
            Moving { from: from.as_ref(), to: &to, mode: Mode::Add, is_dry: false, without_versions: false };
        let moved = moving.all(&names, &Progress::new(true)).await;
        assert_eq!(versions_since(&from, &moved).await.unwrap(), 0);
        let client =
            KeyRing::new(Arc::clone(&from), CacheConfig::default()).client(Identity::of_program("a test"));
        for name in [&names[0], &names[19], &names[19]] {
            client.rotate(name).await.unwrap();
        }
        assert_eq!(versions_since(&from, &moved).await.unwrap(), 3);
        // What somebody puts there who does not know the key is no version, and a key that is gone has none.
        let key = StoredKey::read(&from, &names[5]).await.unwrap();
        let foreign = kms_core::primitives::SecretBytes::from(b"foreign".as_slice());
        from.create(&EntryName::version(&names[5], &key.fingerprint(), 3), &foreign).await.unwrap();
        from.delete(&EntryName::from(&names[19])).await.unwrap();
        assert_eq!(versions_since(&from, &moved).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_dry_move_says_the_same_and_changes_nothing() {
        let names = names(4);
        let (from, to) = (store_of(&names).await, store_of(&names[..2]).await);
        from.get(&EntryName::from(&names[0])).await.unwrap();
        for (mode, is_other) in [
            (Mode::Add, (|outcome| matches!(outcome, Outcome::Conflict(_))) as fn(&Outcome) -> bool),
            (Mode::Merge, |outcome| matches!(outcome, Outcome::PassedOver(_))),
            (Mode::Force, |outcome| matches!(outcome, Outcome::Replaced { resumed: false, .. })),
        ] {
            let moving =
                Moving { from: from.as_ref(), to: to.as_ref(), mode, is_dry: true, without_versions: false };
            let moved = moving.all(&names, &Progress::new(true)).await;
            assert!(is_other(&moved[0].outcome) && is_other(&moved[1].outcome), "{mode:?}");
            assert!(moved[2].outcome == Outcome::Moved && moved[3].outcome == Outcome::Moved, "{mode:?}");
            assert_eq!(kms_core::transfer::names(&to).await.unwrap(), names[..2], "{mode:?}");
        }
    }
}
