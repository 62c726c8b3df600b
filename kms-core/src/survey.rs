//! Reading every key there is, to find those that cannot be used before a client does.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    EntryName, Error, ErrorKind, Identity, KeyName, KeyRecord, KeyStore, Kms, ListQuery, Page, Request,
    Result,
};

/// Keys that are read at once.
const AT_ONCE: usize = 16;

/// What reading every key brought.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// How many keys were read and decoded.
    pub good: usize,
    /// The keys that cannot be used and why, in byte order of their names.
    ///
    /// The kind is `NotFound` for a name that is listed although its key was deleted, in a way that the backend can undo.
    pub unusable: Vec<(KeyName, Error)>,
}

/// Reads and decodes every key of `store`, 16 at once.
///
/// Fails only when the keys cannot be listed. A key that goes while the survey runs is not counted.
pub async fn survey(store: &dyn KeyStore) -> Result<Survey> {
    walk(&OfStore(store)).await
}

/// Describes every key of `kms` and makes a data key with it, 16 at once, each within `timeout`.
///
/// This is for a service without a store that could be read, as AWS KMS is; there it shows a key that is disabled, and one
/// that we may not use. Fails only when the keys cannot be listed.
pub async fn survey_kms(kms: &dyn Kms, timeout: Duration) -> Result<Survey> {
    walk(&OfKms { kms, timeout }).await
}

/// Reads the record of `name` and decodes it; the error names the key and the place.
pub(crate) async fn read_record(store: &(impl KeyStore + ?Sized), name: &KeyName) -> Result<KeyRecord> {
    let entry = EntryName::from(name);
    let record = store.get(&entry).await?;
    KeyRecord::decode_at(record.expose(), || store.place(&entry))
}

/// What can be gone through.
#[async_trait]
pub(crate) trait Surveyed: Sync {
    async fn list(&self, query: &ListQuery<'_>) -> Result<Page>;

    /// Finds out whether a key can be used.
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
    survey.unusable.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(survey)
}

async fn try_page(surveyed: &dyn Surveyed, names: &[KeyName], survey: &mut Survey) {
    let mut waiting = names.iter();
    let mut running = Vec::with_capacity(AT_ONCE);
    loop {
        running.extend(
            waiting.by_ref().take(AT_ONCE - running.len()).map(|name| (name, surveyed.try_key(name))),
        );
        if running.is_empty() {
            return;
        }
        let (name, outcome) = poll_fn(|context| {
            let ended = running.iter_mut().enumerate().find_map(|(index, (_, attempt))| {
                match attempt.as_mut().poll(context) {
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
        match outcome {
            Ok(()) => survey.good += 1,
            Err(error) => survey.unusable.push((name.clone(), error)),
        }
        // A store that answers from memory would not let go of the thread.
        tokio::task::coop::consume_budget().await;
    }
}

/// Drops the keys that were deleted between the listing and the read: those that are no longer listed.
async fn forget_what_went(surveyed: &dyn Surveyed, survey: &mut Survey) -> Result<()> {
    let mut listed = BTreeSet::new();
    let mut pages = Pages::default();
    while let Some(page) = pages.next(surveyed).await? {
        listed.extend(page.names);
    }
    survey.unusable.retain(|(name, error)| error.kind() != ErrorKind::NotFound || listed.contains(name));
    Ok(())
}

/// A walk through a listing, a page at a time.
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
        read_record(self.0, name).await.map(drop)
    }
}

struct OfKms<'a> {
    kms: &'a dyn Kms,
    timeout: Duration,
}

impl OfKms<'_> {
    fn request(&self) -> Request {
        Request::new(Identity::of_public_key(b"a survey of all keys"), self.timeout)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::name::MAX_PAGE_LEN;
    use crate::{
        CacheConfig, Cipher, KeyRing, MemoryStore, SecretBytes, SecretKey, StoreCapabilities, StoreStatus,
    };

    /// A store whose reads take a while, which counts them, and which lists a name that it does not have; a mock.
    #[derive(Default)]
    struct Slow {
        inner: MemoryStore,
        at_once: AtomicUsize,
        most_at_once: AtomicUsize,
        listings: AtomicUsize,
        /// Whether the first listing alone shows the name that is not there, as when its key goes meanwhile.
        goes: bool,
    }

    const GHOST: &str = "key-0-ghost";

    #[async_trait]
    impl KeyStore for Slow {
        fn capabilities(&self) -> StoreCapabilities {
            StoreCapabilities::shared("slow")
        }

        async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
            self.inner.create(name, record).await
        }

        async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
            let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.at_once.fetch_sub(1, Ordering::Relaxed);
            self.inner.get(name).await
        }

        async fn delete(&self, name: &EntryName) -> Result<()> {
            self.inner.delete(name).await
        }

        async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
            let mut page = self.inner.list(query).await?;
            if query.after.is_none() && (self.listings.fetch_add(1, Ordering::Relaxed) == 0 || !self.goes) {
                page.names.push(KeyName::new(GHOST).unwrap());
                page.names.sort_unstable();
            }
            Ok(page)
        }

        async fn status(&self) -> Result<StoreStatus> {
            self.inner.status().await
        }
    }

    async fn filled(goes: bool) -> Slow {
        let store = Slow { goes, ..Slow::default() };
        for n in 0..MAX_PAGE_LEN + 100 {
            let name = EntryName::from(&KeyName::new(format!("key-{n}")).unwrap());
            let record = match n {
                7 => SecretBytes::from(b"".as_slice()),
                1100 => SecretBytes::from(b"no record".as_slice()),
                _ => KeyRecord::new(SecretKey::random().unwrap(), Cipher::Aes256, "").unwrap().encode(),
            };
            store.create(&name, &record).await.unwrap();
        }
        store
    }

    fn names(survey: &Survey) -> Vec<(&str, ErrorKind)> {
        survey.unusable.iter().map(|(name, error)| (name.as_str(), error.kind())).collect()
    }

    #[tokio::test]
    async fn every_key_is_read_and_those_that_cannot_be_used_are_named() {
        let store = filled(false).await;
        let found = survey(&store).await.unwrap();
        assert_eq!(found.good, MAX_PAGE_LEN + 98);
        let bad =
            [(GHOST, ErrorKind::NotFound), ("key-1100", ErrorKind::Corrupt), ("key-7", ErrorKind::Corrupt)];
        assert_eq!(names(&found), bad);
        assert_eq!(store.most_at_once.load(Ordering::Relaxed), AT_ONCE);
        let why = found.unusable[2].1.chain().to_string();
        assert_eq!(why, "decode entry 'key-7' in slow: stored data is corrupt: it is empty");
    }

    #[tokio::test]
    async fn a_key_that_goes_meanwhile_is_none() {
        let store = filled(true).await;
        let found = survey(&store).await.unwrap();
        assert_eq!(names(&found), [("key-1100", ErrorKind::Corrupt), ("key-7", ErrorKind::Corrupt)]);
    }

    #[tokio::test]
    async fn a_service_is_asked_to_use_every_key() {
        let kms = KeyRing::new(filled(true).await, CacheConfig::default());
        let found = survey_kms(&kms, Duration::from_secs(10)).await.unwrap();
        assert_eq!(found.good, MAX_PAGE_LEN + 98);
        assert_eq!(names(&found), [("key-1100", ErrorKind::Corrupt), ("key-7", ErrorKind::Corrupt)]);
    }
}
