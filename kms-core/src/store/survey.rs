//! Reads all keys, to find the unusable ones before a client does.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;

use super::belonging::{EntryMac, Marker};
use super::entry::{DIRECTORIES, EntryName, MAX_VERSIONS, REPLACING};
use super::key_store::KeyStore;
use super::record::KeyRecord;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::{Identity, Request};
use crate::kms::Kms;
use crate::listing::{ListQuery, Page};
use crate::name::KeyName;
use crate::primitives::{Fingerprint, SealingKey};

/// The number of keys that are read at once.
const AT_ONCE: usize = 16;

/// The result of reading all keys.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Survey {
    /// The number of keys that were read and decoded.
    pub good: usize,
    /// The keys that were deleted and can be restored, as far as they are listed, in byte order.
    pub deleted: Vec<KeyName>,
    /// What is left of keys that are gone: the name and the fingerprint of each, in byte order. A purge removes it.
    ///
    /// Only [`survey`] looks for it, and only in a store that can list it.
    pub remnants: Vec<(KeyName, Fingerprint)>,
    /// The keys whose replacement by another key was cut off, in byte order; see [`cut_off_replacements`].
    pub cut_off: Vec<KeyName>,
    /// The unusable keys with their errors, in byte order of the names.
    ///
    /// [`ErrorKind::NotFound`] means that the name is listed although the key was deleted for ever.
    pub unusable: Vec<(KeyName, Error)>,
}

/// Reads and decodes all keys of `store` with all of their versions, 16 at once.
///
/// A key that is deleted while the survey runs is not counted.
///
/// # Errors
///
/// The error of [`KeyStore::list`], if the keys cannot be listed. A key that cannot be read is no error: it is in
/// [`Survey::unusable`].
pub async fn survey(store: &dyn KeyStore) -> Result<Survey> {
    let mut survey = walk(&OfStore(store)).await?;
    survey.cut_off = cut_off_replacements(store).await?;
    survey.remnants = remnants(store).await?;
    // What belongs to either key of a replacement that was cut off, the same call completes or removes.
    let notes = notes(store, &survey.cut_off).await?;
    survey.remnants.retain(|(_, key)| !notes.contains(&hex::encode(key.as_bytes())));
    Ok(survey)
}

/// Reads what the notes of replacements say: the fingerprints of the keys, in hex.
async fn notes(store: &dyn KeyStore, cut_off: &[KeyName]) -> Result<String> {
    let mut notes = String::new();
    for name in cut_off {
        match store.get(&EntryName::replacing(name)).await {
            Ok(note) => notes.push_str(&String::from_utf8_lossy(note.expose())),
            Err(error) if error.kind().is_outage() => return Err(error),
            // It names no key that is known.
            Err(_) => {}
        }
    }
    Ok(notes)
}

/// Lists the keys whose replacement by another key ([`StoredKey::replace`](crate::transfer::StoredKey::replace)) was cut off or
/// is under way, in byte order.
///
/// A store that cannot list such notes, or denies it, has none that anybody could know of.
///
/// # Errors
///
/// Those of [`KeyStore::segments`].
pub async fn cut_off_replacements(store: &(impl KeyStore + ?Sized)) -> Result<Vec<KeyName>> {
    let names = match store.segments(REPLACING).await {
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Denied) => Vec::new(),
        names => names?,
    };
    let mut names: Vec<_> = names.into_iter().filter_map(|name| KeyName::new(name).ok()).collect();
    names.sort();
    Ok(names)
}

/// Finds what belongs to a key that is not there.
async fn remnants(store: &dyn KeyStore) -> Result<Vec<(KeyName, Fingerprint)>> {
    let mut fingerprints: BTreeMap<KeyName, BTreeSet<[u8; 16]>> = BTreeMap::new();
    for directory in DIRECTORIES {
        let names = match store.segments(directory).await {
            Ok(names) => names,
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Denied) => continue,
            Err(error) => return Err(error),
        };
        for name in names.into_iter().filter_map(|name| KeyName::new(name).ok()) {
            let segments = store.segments(&format!("{directory}{name}/")).await?;
            let found = segments.iter().filter_map(|text| fingerprint_of(text));
            fingerprints.entry(name).or_default().extend(found);
        }
    }
    let mut remnants = Vec::new();
    for (name, fingerprints) in fingerprints {
        let present = match read_record(store, &name).await {
            Ok(record) => Some(SealingKey::new(record.key, record.cipher).fingerprint()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            // They may belong to what cannot be read.
            Err(_) => continue,
        };
        let gone = fingerprints.into_iter().map(Fingerprint::from_bytes).filter(|one| Some(*one) != present);
        remnants.extend(gone.map(|fingerprint| (name.clone(), fingerprint)));
    }
    Ok(remnants)
}

/// Reads a fingerprint in the name of an entry.
pub(crate) fn fingerprint_of(segment: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(segment, &mut bytes).ok()?;
    Some(bytes)
}

/// Describes all keys of `kms` and makes a data key with each, 16 at once, each within `timeout`.
///
/// This is for a service without a readable store, such as AWS KMS. There it finds the keys that are disabled, and
/// those that this program may not use.
///
/// # Errors
///
/// The error of [`Kms::list`], if the keys cannot be listed. An unusable key is no error: it is in
/// [`Survey::unusable`].
pub async fn survey_kms(kms: &dyn Kms, timeout: Duration) -> Result<Survey> {
    walk(&OfKms { kms, timeout }).await
}

/// Reads and decodes the record of `name`; an error names the key and its place.
pub(crate) async fn read_record(store: &(impl KeyStore + ?Sized), name: &KeyName) -> Result<KeyRecord> {
    let entry = EntryName::from(name);
    let record = store.get(&entry).await?;
    KeyRecord::decode_at(record.expose(), || store.place(&entry))
}

/// Returns whether a key is deleted, whose first version is `first`.
async fn is_deleted(store: &dyn KeyStore, name: &KeyName, first: &SealingKey) -> Result<bool> {
    let marker = EntryName::deleted(name, &first.fingerprint());
    let read = store.get(&marker).await;
    Ok(matches!(Marker::of_read(&marker, read, first, || store.place(&marker))?, Marker::There(_)))
}

/// Reads and decodes the later versions of a key, whose first version is `first`.
///
/// Versions are contiguous, so the walk ends at the first that is absent, unless the next one is there.
pub(crate) async fn read_versions(
    store: &(impl KeyStore + ?Sized),
    name: &KeyName,
    first: &SealingKey,
) -> Result<()> {
    let fingerprint = first.fingerprint();
    let mut missing = None;
    for number in 2..=MAX_VERSIONS {
        let entry = EntryName::version(name, &fingerprint, number);
        let place = || store.place(&entry);
        let corrupt =
            |place: String, why: &str| Error::with_source(ErrorKind::Corrupt, format!("read {place}"), why);
        match store.get(&entry).await {
            Ok(bytes) => {
                if let Some(missing) = missing {
                    return Err(corrupt(missing, "it is missing, and a newer version is there"));
                }
                let why = "it was made or changed by somebody who does not know the key";
                let mac = EntryMac::of(first);
                let record = mac.verify(&entry, bytes.expose()).ok_or_else(|| corrupt(place(), why))?;
                KeyRecord::decode_at(record, place)?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound && missing.is_none() => {
                missing = Some(place());
            }
            // Where the path is denied, keys have one version.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A source of keys for [`walk`].
#[async_trait]
pub(crate) trait Surveyed: Sync {
    async fn list(&self, query: &ListQuery<'_>) -> Result<Page>;

    /// Checks that a key can be used.
    async fn try_key(&self, name: &KeyName) -> Result<()>;
}

pub(crate) async fn walk(surveyed: &dyn Surveyed) -> Result<Survey> {
    let mut survey = Survey::default();
    let mut pages = Pages::default();
    while let Some(page) = pages.next(surveyed).await? {
        try_page(surveyed, &page.names, &mut survey).await;
    }
    if survey.unusable.iter().any(|(_, error)| error.kind() == ErrorKind::NotFound) {
        forget_what_went(surveyed, &mut survey).await?;
    }
    survey.deleted.sort_unstable();
    survey.unusable.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(survey)
}

async fn try_page(surveyed: &dyn Surveyed, names: &[KeyName], survey: &mut Survey) {
    at_once(names.iter().map(|name| (name, surveyed.try_key(name))), |name, outcome| match outcome {
        Ok(()) => survey.good += 1,
        Err(error) if error.kind() == ErrorKind::Deleted => survey.deleted.push(name.clone()),
        Err(error) => survey.unusable.push((name.clone(), error)),
    })
    .await;
}

/// Runs attempts for keys, 16 at once.
pub(crate) async fn at_once<'a, T, F: Future<Output = T> + Unpin>(
    attempts: impl Iterator<Item = (&'a KeyName, F)>,
    mut ended: impl FnMut(&KeyName, T),
) {
    let mut waiting = attempts;
    let mut running = Vec::with_capacity(AT_ONCE);
    loop {
        running.extend(waiting.by_ref().take(AT_ONCE - running.len()));
        if running.is_empty() {
            return;
        }
        let (name, outcome) = poll_fn(|context| {
            let ended = running.iter_mut().enumerate().find_map(|(index, (_, attempt))| {
                match Pin::new(attempt).poll(context) {
                    Poll::Ready(outcome) => Some((index, outcome)),
                    Poll::Pending => None,
                }
            });
            match ended {
                Some((index, outcome)) => Poll::Ready((running.swap_remove(index).0, outcome)),
                None => Poll::Pending,
            }
        })
        .await;
        ended(name, outcome);
        // A store that answers from memory never yields, so the loop would keep the thread.
        tokio::task::coop::consume_budget().await;
    }
}

/// Removes the keys that were deleted between the listing and the read: they are no longer listed.
async fn forget_what_went(surveyed: &dyn Surveyed, survey: &mut Survey) -> Result<()> {
    let mut listed = BTreeSet::new();
    let mut pages = Pages::default();
    while let Some(page) = pages.next(surveyed).await? {
        listed.extend(page.names);
    }
    survey.unusable.retain(|(name, error)| error.kind() != ErrorKind::NotFound || listed.contains(name));
    Ok(())
}

/// The pages of a listing, one after the other.
#[derive(Default)]
struct Pages {
    after: Option<KeyName>,
    ended: bool,
}

impl Pages {
    async fn next(&mut self, surveyed: &dyn Surveyed) -> Result<Option<Page>> {
        if self.ended {
            return Ok(None);
        }
        let query = ListQuery { after: self.after.as_ref().map(KeyName::as_str), ..ListQuery::prefix("") };
        let page = surveyed.list(&query).await?;
        self.after = page.names.last().cloned();
        self.ended = !page.more || self.after.is_none();
        Ok(Some(page))
    }
}

struct OfStore<'a>(&'a dyn KeyStore);

#[async_trait]
impl Surveyed for OfStore<'_> {
    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.0.list(query).await
    }

    async fn try_key(&self, name: &KeyName) -> Result<()> {
        let first = read_record(self.0, name).await?;
        let first = SealingKey::new(first.key, first.cipher);
        if is_deleted(self.0, name, &first).await? {
            return Err(Error::new(ErrorKind::Deleted, format!("read key '{name}'")));
        }
        read_versions(self.0, name, &first).await
    }
}

struct OfKms<'a> {
    kms: &'a dyn Kms,
    timeout: Duration,
}

impl OfKms<'_> {
    fn request(&self) -> Request {
        Request::new(Identity::of_program("a survey of all keys"), self.timeout)
    }
}

#[async_trait]
impl Surveyed for OfKms<'_> {
    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.kms.list(&self.request(), query).await
    }

    async fn try_key(&self, name: &KeyName) -> Result<()> {
        self.kms.describe(&self.request(), name).await?;
        self.kms.generate(&self.request(), name, b"").await.map(drop)
    }
}
