//! Keys that exist and cannot be read. The store is a mock that fails for chosen names in a chosen way, since no real
//! store fails in all of these ways.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kms_core::contract::{Spoiler, Spoilt, unreadable};
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{
    CacheConfig, Error, ErrorKind, Identity, KeyName, KeyRing, Kms, ListQuery, Page, Request, Result,
    StoreStatus,
};

const LONG: CacheConfig = CacheConfig::new()
    .with_any(Duration::from_secs(600))
    .with_unused(Duration::from_secs(600))
    .with_offline(Duration::ZERO)
    .with_ping(Duration::from_secs(10));

/// The kind of a read's error, and the kind that a client of an existing key then receives.
const ANSWERS: [(ErrorKind, ErrorKind); 14] = [
    (ErrorKind::Corrupt, ErrorKind::Corrupt),
    (ErrorKind::Denied, ErrorKind::Denied),
    (ErrorKind::LoginRefused, ErrorKind::LoginRefused),
    (ErrorKind::Disabled, ErrorKind::Disabled),
    (ErrorKind::Unreachable, ErrorKind::Unreachable),
    (ErrorKind::Sealed, ErrorKind::Sealed),
    (ErrorKind::Throttled, ErrorKind::Throttled),
    (ErrorKind::Timeout, ErrorKind::Timeout),
    (ErrorKind::Internal, ErrorKind::Internal),
    // A client would take these for answers about its key or its ciphertext.
    (ErrorKind::AlreadyExists, ErrorKind::Internal),
    (ErrorKind::NotAuthentic, ErrorKind::Internal),
    (ErrorKind::NoHmacKey, ErrorKind::Internal),
    (ErrorKind::InvalidInput, ErrorKind::Internal),
    (ErrorKind::Unsupported, ErrorKind::Unsupported),
];

#[tokio::test]
async fn a_ring_keeps_the_contract_for_entries_that_cannot_be_used() {
    #[derive(Default)]
    struct Hand {
        store: Arc<Picky>,
        good: Mutex<Option<SecretBytes>>,
    }

    #[async_trait]
    impl Spoiler for Hand {
        async fn open(&self) -> Arc<dyn Kms> {
            Arc::new(KeyRing::new(Arc::clone(&self.store), LONG))
        }

        async fn spoil(&self, name: &KeyName, state: Spoilt) -> bool {
            let entry = EntryName::from(name);
            match state {
                Spoilt::Unreadable => self.store.fail(name, Some(ErrorKind::Corrupt)),
                Spoilt::Denied => self.store.fail(name, Some(ErrorKind::Denied)),
                Spoilt::Undecodable => *self.good.lock().unwrap() = self.store.inner.overwrite(&entry, b"{}"),
                Spoilt::Empty => *self.good.lock().unwrap() = self.store.inner.overwrite(&entry, b""),
                Spoilt::DeletedButRestorable => self.store.fail(name, Some(ErrorKind::Deleted)),
            }
            true
        }

        async fn mend(&self, name: &KeyName, _: Spoilt) {
            self.store.fail(name, None);
            if let Some(good) = self.good.lock().unwrap().take() {
                self.store.inner.overwrite(&EntryName::from(name), good.expose());
            }
        }

        async fn content(&self, name: &KeyName) -> Vec<u8> {
            self.store.inner.bytes(&EntryName::from(name)).unwrap().expose().to_vec()
        }
    }

    assert_eq!(unreadable(&Hand::default()).await, Spoilt::ALL);
}

#[tokio::test]
async fn a_key_that_is_there_is_never_absent_whatever_reading_it_brings() {
    for (kind, heard) in ANSWERS {
        let (store, kms) = ring(LONG);
        kms.create(&request(), &name("key")).await.unwrap();
        let sealed = kms.generate(&request(), &name("key"), b"").await.unwrap();
        let kms = KeyRing::new(Arc::clone(&store), LONG);
        store.fail(&name("key"), Some(kind));
        let outcomes = [
            kms.describe(&request(), &name("key")).await.map(drop),
            kms.generate(&request(), &name("key"), b"").await.map(drop),
            kms.encrypt(&request(), &name("key"), b"", b"").await.map(drop),
            kms.decrypt(&request(), &name("key"), &sealed.ciphertext, b"").await.map(drop),
            kms.hmac(&request(), &name("key"), b"").await.map(drop),
            kms.delete(&request(), &name("key")).await.map(drop),
        ];
        for outcome in outcomes {
            assert_eq!(outcome.unwrap_err().kind(), heard, "{kind:?}");
        }
        assert_eq!(
            store.deletes.load(Ordering::Relaxed),
            0,
            "{kind:?}: the store was not asked to remove it"
        );
        store.fail(&name("key"), None);
        assert!(kms.decrypt(&request(), &name("key"), &sealed.ciphertext, b"").await.is_ok(), "{kind:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_decoded_is_not_removed() {
    let (store, kms) = ring(LONG);
    for bytes in [b"".as_slice(), b" \n", b"{}", b"no record", b"AAAA"] {
        store.inner.overwrite(&entry("key"), bytes);
        let error = kms.delete(&request(), &name("key")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let text = error.chain().to_string();
        assert!(text.contains("'key'") && text.contains("picky"), "key and place are named: {text}");
        assert!(store.inner.bytes(&entry("key")).unwrap().expose() == bytes);
    }
}

/// All combinations of a write's answer and of the answer of the read that follows.
#[tokio::test]
async fn a_create_is_a_yes_only_for_what_it_wrote_and_never_says_that_there_is_no_key() {
    let writes = [
        None,
        Some(ErrorKind::Timeout),
        Some(ErrorKind::Unreachable),
        Some(ErrorKind::Internal),
        Some(ErrorKind::NotFound),
        Some(ErrorKind::NotAuthentic),
        Some(ErrorKind::Denied),
        Some(ErrorKind::AlreadyExists),
    ];
    let reads = [
        ReadBack::Same,
        ReadBack::Another,
        ReadBack::Fails(ErrorKind::NotFound),
        ReadBack::Fails(ErrorKind::Corrupt),
        ReadBack::Fails(ErrorKind::Denied),
        ReadBack::Fails(ErrorKind::Disabled),
        ReadBack::Fails(ErrorKind::Unreachable),
        ReadBack::Fails(ErrorKind::Timeout),
        ReadBack::Fails(ErrorKind::AlreadyExists),
        ReadBack::Fails(ErrorKind::NotAuthentic),
    ];
    for write in writes {
        for read in reads {
            let (store, kms) = ring(LONG);
            *store.creates.lock().unwrap() = Some((write, read));
            let outcome = kms.create(&request(), &name("key")).await;
            let why = format!("written: {write:?}, read back: {read:?}, heard: {outcome:?}");
            let unknown = matches!(
                write,
                None | Some(ErrorKind::Timeout | ErrorKind::Unreachable | ErrorKind::Internal)
            );
            match outcome {
                Ok(()) => assert!(unknown && read == ReadBack::Same, "{why}"),
                Err(error) => {
                    assert!(!(unknown && read == ReadBack::Same), "it is there: {why}");
                    let kind = error.kind();
                    assert!(
                        !matches!(kind, ErrorKind::NotFound | ErrorKind::NotAuthentic),
                        "no answer to a create: {why}"
                    );
                    if kind == ErrorKind::AlreadyExists {
                        let is_there =
                            matches!(read, ReadBack::Another | ReadBack::Fails(ErrorKind::Corrupt));
                        assert!(write == Some(ErrorKind::AlreadyExists) || is_there, "{why}");
                    }
                    if unknown && read == ReadBack::Another {
                        assert_eq!(kind, ErrorKind::AlreadyExists, "{why}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn the_status_names_what_cannot_be_read_until_it_can_be_or_is_gone() {
    let (store, kms) = ring(LONG);
    for key in ["a", "b", "c", "d", "e"] {
        kms.create(&request(), &name(key)).await.unwrap();
    }
    let kms = KeyRing::new(Arc::clone(&store), LONG);
    assert_eq!(degraded(&kms).await, None);
    for (key, kind) in [("b", ErrorKind::Corrupt), ("a", ErrorKind::Denied), ("c", ErrorKind::Disabled)] {
        store.fail(&name(key), Some(kind));
        kms.generate(&request(), &name(key), b"").await.map(drop).unwrap_err();
    }
    assert_eq!(degraded(&kms).await.as_deref(), Some("3 keys cannot be read: a, b, c"));
    kms.generate(&request(), &name("d"), b"").await.expect("the others are served");

    // An error of the backend as a whole says nothing about a key.
    for kind in [ErrorKind::LoginRefused, ErrorKind::Unreachable, ErrorKind::Timeout, ErrorKind::Throttled] {
        store.fail(&name("e"), Some(kind));
        kms.generate(&request(), &name("e"), b"").await.map(drop).unwrap_err();
        store.fail(&name("a"), Some(kind));
        kms.generate(&request(), &name("a"), b"").await.map(drop).unwrap_err();
    }
    assert_eq!(degraded(&kms).await.as_deref(), Some("3 keys cannot be read: a, b, c"));

    store.fail(&name("a"), None);
    kms.generate(&request(), &name("a"), b"").await.expect("it was mended");
    assert_eq!(degraded(&kms).await.as_deref(), Some("2 keys cannot be read: b, c"));
    store.fail(&name("b"), Some(ErrorKind::NotFound));
    kms.generate(&request(), &name("b"), b"").await.map(drop).unwrap_err();
    assert_eq!(degraded(&kms).await.as_deref(), Some("1 key cannot be read: c"));
    kms.delete(&request(), &name("c")).await.unwrap_err();
    assert_eq!(degraded(&kms).await.as_deref(), Some("1 key cannot be read: c"), "it was not removed");
    store.fail(&name("c"), None);
    kms.delete(&request(), &name("c")).await.unwrap();
    assert_eq!(degraded(&kms).await, None);
}

#[tokio::test]
async fn what_was_mended_is_found_although_nobody_asks_for_it() {
    let quick = Duration::from_millis(50);
    let (store, kms) = ring(LONG);
    kms.create(&request(), &name("key")).await.unwrap();
    let kms = KeyRing::new(Arc::clone(&store), LONG.with_ping(quick).with_unused(quick));
    store.fail(&name("key"), Some(ErrorKind::Corrupt));
    kms.describe(&request(), &name("key")).await.map(drop).unwrap_err();
    tokio::time::sleep(10 * quick).await;
    assert_eq!(degraded(&kms).await.as_deref(), Some("1 key cannot be read: key"));
    store.fail(&name("key"), None);
    let began = Instant::now();
    while degraded(&kms).await.is_some() {
        assert!(began.elapsed() < Duration::from_secs(10), "it is never tried again");
        tokio::time::sleep(quick).await;
    }
}

#[tokio::test]
async fn a_check_of_all_keys_is_told_by_the_status() {
    let (store, kms) = ring(LONG);
    for n in 0..20 {
        kms.create(&request(), &name(&format!("key-{n:02}"))).await.unwrap();
    }
    let kms = KeyRing::new(Arc::clone(&store), LONG);
    store.fail(&name("key-03"), Some(ErrorKind::Denied));
    store.inner.overwrite(&entry("key-17"), b"no record");
    let found = kms.check_all().await.unwrap();
    assert_eq!(found.good, 18);
    let bad: Vec<_> = found.unusable.iter().map(|(name, error)| (name.as_str(), error.kind())).collect();
    assert_eq!(bad, [("key-03", ErrorKind::Denied), ("key-17", ErrorKind::Corrupt)]);
    assert_eq!(degraded(&kms).await.as_deref(), Some("2 keys cannot be read: key-03, key-17"));
    store.fail(&name("key-03"), None);
    assert_eq!(kms.check_all().await.unwrap().good, 19);
    assert_eq!(degraded(&kms).await.as_deref(), Some("1 key cannot be read: key-17"));
}

/// The copy in memory may be the last good one.
#[tokio::test]
async fn a_key_in_memory_outlasts_damage_in_the_store_as_long_as_it_lasts_at_all() {
    let any = Duration::from_millis(600);
    let config = LONG.with_any(any).with_offline(Duration::from_secs(600)).with_ping(Duration::from_secs(1));
    for kind in [ErrorKind::Corrupt, ErrorKind::Internal, ErrorKind::Denied] {
        let (store, kms) = ring(config);
        kms.create(&request(), &name("key")).await.unwrap();
        let made = Instant::now();
        let sealed = kms.generate(&request(), &name("key"), b"").await.unwrap();
        store.fail(&name("key"), Some(kind));
        while made.elapsed() < any.saturating_sub(Duration::from_millis(50)) {
            let opened = kms.decrypt(&request(), &name("key"), &sealed.ciphertext, b"").await;
            assert!(opened.is_ok() || made.elapsed() >= any, "{kind:?} after {:?}", made.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(
            degraded(&kms).await.is_some_and(|why| why.contains("key")),
            "{kind:?}: the renewal has failed"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        let outcome = kms.decrypt(&request(), &name("key"), &sealed.ciphertext, b"").await;
        assert_eq!(outcome.err().map(|error| error.kind()), Some(kind), "then the store's answer counts");
        store.fail(&name("key"), None);
        kms.decrypt(&request(), &name("key"), &sealed.ciphertext, b"").await.expect("it was mended");
    }
}

/// A ciphertext that does not open makes the ring read the key again. An error of that read is no verdict on the
/// ciphertext.
#[tokio::test]
async fn a_ciphertext_is_not_called_inauthentic_when_the_key_cannot_be_read() {
    let (store, kms) = ring(LONG);
    kms.create(&request(), &name("key")).await.unwrap();
    for (kind, heard) in ANSWERS {
        store.fail(&name("key"), Some(kind));
        let outcome = kms.decrypt(&request(), &name("key"), &[0; 76], b"").await;
        assert_eq!(outcome.err().map(|error| error.kind()), Some(heard), "{kind:?}");
    }
}

/// A memory store whose entries fail one by one.
#[derive(Default)]
struct Picky {
    inner: MemoryStore,
    faults: Mutex<BTreeMap<EntryName, ErrorKind>>,
    creates: Mutex<Option<(Option<ErrorKind>, ReadBack)>>,
    deletes: AtomicUsize,
}

/// The answer of a read after a create.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ReadBack {
    Same,
    Another,
    Fails(ErrorKind),
}

impl Picky {
    fn fail(&self, name: &KeyName, kind: Option<ErrorKind>) {
        let mut faults = self.faults.lock().unwrap();
        match kind {
            Some(kind) => faults.insert(EntryName::from(name), kind),
            None => faults.remove(&EntryName::from(name)),
        };
    }

    fn outcome(&self, name: &EntryName) -> Result<()> {
        match self.faults.lock().unwrap().get(name) {
            Some(kind) => Err(Error::new(*kind, format!("touch '{name}'"))),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl KeyStore for Picky {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("picky")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        let script = *self.creates.lock().unwrap();
        if let Some((written, read)) = script {
            match read {
                ReadBack::Same => self.inner.create(name, record).await?,
                ReadBack::Another => {
                    self.inner.overwrite(name, b"another record");
                }
                ReadBack::Fails(kind) => {
                    self.faults.lock().unwrap().insert(name.clone(), kind);
                }
            }
            return written.map_or(Ok(()), |kind| Err(Error::new(kind, "write as told")));
        }
        match self.outcome(name) {
            // A caller that may not read the entry does not learn whether it exists.
            Err(error) if error.kind() == ErrorKind::Denied => Err(error),
            _ => self.inner.create(name, record).await,
        }
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.outcome(name)?;
        self.inner.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.deletes.fetch_add(1, Ordering::Relaxed);
        self.inner.delete(name).await
    }

    async fn restore(&self, name: &EntryName) -> Result<()> {
        match self.faults.lock().unwrap().remove(name) {
            Some(ErrorKind::Deleted) => Ok(()),
            _ => Err(Error::new(ErrorKind::NotFound, format!("restore '{name}'"))),
        }
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.inner.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.inner.status().await
    }
}

fn ring(config: CacheConfig) -> (Arc<Picky>, KeyRing<Arc<Picky>>) {
    let store = Arc::new(Picky::default());
    (Arc::clone(&store), KeyRing::new(store, config))
}

async fn degraded(kms: &KeyRing<Arc<Picky>>) -> Option<String> {
    let status = kms.status().await.unwrap();
    assert!(status.reachable);
    status.degraded
}

fn name(name: &str) -> KeyName {
    KeyName::new(name).unwrap()
}

fn entry(key: &str) -> EntryName {
    EntryName::from(&name(key))
}

fn request() -> Request {
    Request::new(Identity::of_public_key(b"client"), Duration::from_secs(5))
}
