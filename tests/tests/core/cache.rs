//! The cache over a store that fails, hangs and changes at a chosen moment: a mock, since no real one does that
//! on demand.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kms_core::{
    CacheConfig, Cipher, EntryName, Error, ErrorKind, Fingerprint, Identity, KeyName, KeyRecord, KeyRing,
    KeyStore, Kms, ListQuery, MemoryStore, Page, Request, Result, SecretBytes, SecretKey, StoreCapabilities,
    StoreStatus,
};
use tokio::sync::Semaphore;

const SECOND: Duration = Duration::from_secs(1);
const LONG: CacheConfig = CacheConfig {
    any: Duration::from_secs(600),
    unused: Duration::from_secs(600),
    offline: Duration::ZERO,
    ping: Duration::from_millis(200),
};

#[tokio::test]
async fn many_misses_of_a_key_are_one_read() {
    let (store, kms) = ring(LONG).await;
    store.block();
    let requests: Vec<_> = (0..100).map(|n| tokio::spawn(generate(&kms, &format!("client {n}")))).collect();
    store.until_reads(1).await;
    store.release();
    for outcome in requests {
        outcome.await.unwrap().unwrap();
    }
    assert_eq!(store.reads(), 1);
    generate(&kms, "client").await.unwrap();
    assert_eq!(store.reads(), 1, "and a hit is none");
}

#[tokio::test]
async fn use_does_not_extend_the_life_of_a_key() {
    let config = CacheConfig { any: Duration::from_millis(400), ..LONG };
    let (store, kms) = ring(config).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        generate(&kms, "client").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.inner.delete(&EntryName::from(&name())).await.unwrap();
    let deleted = Instant::now();
    until(|| async { kind(generate(&kms, "client").await) == Some(ErrorKind::NotFound) }).await;
    assert!(deleted.elapsed() < SECOND, "a key deleted elsewhere ended after {:?}", deleted.elapsed());
}

#[tokio::test]
async fn a_key_in_use_is_renewed_in_the_background() {
    let config = CacheConfig { any: SECOND, ..LONG };
    let (store, kms) = ring(config).await;
    generate(&kms, "client").await.unwrap();
    store.block();
    // The renewal hangs in the store, and yet no request waits while the key lasts.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        let request = tokio::time::timeout(Duration::from_millis(50), generate(&kms, "client"));
        request.await.expect("a hit waited for the store").unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.reads(), 2, "one renewal began");
    store.release();
    until(|| async { kms.counters().reads >= 2 }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let request = tokio::time::timeout(Duration::from_millis(50), generate(&kms, "client"));
    request.await.expect("a renewed key is there after the first one's end").unwrap();
}

#[tokio::test]
async fn a_key_that_nobody_uses_goes() {
    let config = CacheConfig { unused: Duration::from_millis(200), ..LONG };
    let (store, kms) = ring(config).await;
    generate(&kms, "client").await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    generate(&kms, "client").await.unwrap();
    assert_eq!(store.reads(), 2);
}

#[tokio::test]
async fn that_a_key_is_absent_is_never_remembered() {
    let (store, kms) = ring(LONG).await;
    let absent = KeyName::new("absent").unwrap();
    assert_eq!(
        kms.generate(&request("client"), &absent, b"").await.err().map(|e| e.kind()),
        Some(ErrorKind::NotFound)
    );
    store.put(&absent).await;
    kms.generate(&request("client"), &absent, b"").await.expect("another server made the key meanwhile");
}

#[tokio::test]
async fn a_key_made_anew_elsewhere_is_found_by_what_does_not_open() {
    let (store, kms) = ring(LONG).await;
    generate(&kms, "client").await.unwrap();
    store.inner.delete(&EntryName::from(&name())).await.unwrap();
    let key = store.put(&name()).await;
    let sealed = kms_core::SealingKey::new(key, Cipher::Aes256).seal(b"text", b"").unwrap();
    let opened = kms.decrypt(&request("client"), &name(), &sealed, b"").await.expect("the new key opens it");
    assert!(opened.expose() == b"text");
}

#[tokio::test]
async fn rereads_for_garbage_are_few_and_say_not_authentic_only_when_it_is_so() {
    let (store, kms) = ring(LONG).await;
    generate(&kms, "client").await.unwrap();
    let began = Instant::now();
    let garbage: Vec<_> = (0..200)
        .map(|_| {
            let kms = Arc::clone(&kms);
            tokio::spawn(async move {
                let request = Request::new(Identity::of_public_key(b"client"), Duration::from_secs(10));
                kms.decrypt(&request, &name(), &[0; 76], b"").await.err().map(|error| error.kind())
            })
        })
        .collect();
    for outcome in garbage {
        assert_eq!(outcome.await.unwrap(), Some(ErrorKind::NotAuthentic));
    }
    let allowed = 1 + 10 * (1 + began.elapsed().as_secs());
    assert!(store.reads() <= allowed, "{} reads, {allowed} allowed", store.reads());

    store.fail(ErrorKind::Unreachable);
    let refused = kms.decrypt(&request("client"), &name(), &[0; 76], b"").await;
    assert_eq!(
        refused.err().map(|e| e.kind()),
        Some(ErrorKind::Unreachable),
        "the key may have been made anew"
    );
}

#[tokio::test]
async fn a_key_made_anew_under_an_old_name_may_explain_what_is_not_authentic() {
    // Here, and behind the back of this server.
    for here in [true, false] {
        let (store, kms) = ring(LONG).await;
        let sealed = generate(&kms, "client").await.unwrap();
        let before = fingerprint(&kms).await;
        assert!(!why_not_authentic(&kms, &[0; 76]).await.contains("had this name"));
        if here {
            kms.delete(&request("client"), &name()).await.unwrap();
            kms.create(&request("client"), &name()).await.unwrap();
        } else {
            make_anew_elsewhere(&store).await;
            // The old one is in memory, until something asks for another.
            assert!(why_not_authentic(&kms, &[0; 76]).await.contains("had this name"));
        }
        let told = why_not_authentic(&kms, &sealed.ciphertext).await;
        assert_told(&told, fingerprint(&kms).await, &[before]);
    }
}

#[tokio::test]
async fn every_key_that_is_known_to_have_had_the_name_may_be_the_reason() {
    let (store, kms) = ring(LONG).await;
    let mut before = vec![fingerprint(&kms).await];
    let first = generate(&kms, "client").await.unwrap();
    for here in [true, false] {
        if here {
            kms.delete(&request("client"), &name()).await.unwrap();
            kms.create(&request("client"), &name()).await.unwrap();
        } else {
            make_anew_elsewhere(&store).await;
        }
        let told = why_not_authentic(&kms, &first.ciphertext).await;
        let now = fingerprint(&kms).await;
        assert_told(&told, now, &before);
        before.insert(0, now);
    }
}

#[tokio::test]
async fn a_key_that_left_memory_before_it_was_made_anew_is_told_too() {
    let config = CacheConfig { unused: Duration::from_millis(200), ..LONG };
    let (store, kms) = ring(config).await;
    let first = fingerprint(&kms).await;
    kms.delete(&request("client"), &name()).await.unwrap();
    kms.create(&request("client"), &name()).await.unwrap();
    let second = fingerprint(&kms).await;
    let sealed = generate(&kms, "client").await.unwrap();
    out_of_memory().await;
    make_anew_elsewhere(&store).await;
    let told = why_not_authentic(&kms, &sealed.ciphertext).await;
    assert_told(&told, fingerprint(&kms).await, &[second, first]);
}

#[tokio::test]
async fn a_key_that_was_read_again_or_restored_is_not_one_before_itself() {
    let config = CacheConfig { unused: Duration::from_millis(200), ..LONG };
    let (store, kms) = ring(config).await;
    let first = fingerprint(&kms).await;
    out_of_memory().await;
    assert!(!why_not_authentic(&kms, &[0; 76]).await.contains("had this name"));
    let record = store.inner.get(&EntryName::from(&name())).await.unwrap();
    make_anew_elsewhere(&store).await;
    assert!(why_not_authentic(&kms, &[0; 76]).await.contains("had this name"));
    let sealed = generate(&kms, "client").await.unwrap();
    let second = fingerprint(&kms).await;
    store.inner.delete(&EntryName::from(&name())).await.unwrap();
    store.inner.create(&EntryName::from(&name()), &record).await.unwrap();
    // The second is in memory, until something asks for another.
    assert_told(&why_not_authentic(&kms, &[0; 76]).await, first, &[second]);
    assert_told(&why_not_authentic(&kms, &sealed.ciphertext).await, first, &[second]);
}

#[tokio::test]
async fn a_key_that_was_deleted_elsewhere_and_made_here_is_told_too() {
    let (store, kms) = ring(LONG).await;
    let sealed = generate(&kms, "client").await.unwrap();
    let first = fingerprint(&kms).await;
    store.inner.delete(&EntryName::from(&name())).await.unwrap();
    kms.create(&request("client"), &name()).await.unwrap();
    let second = fingerprint(&kms).await;
    assert_told(&why_not_authentic(&kms, &sealed.ciphertext).await, second, &[first]);
}

#[tokio::test]
async fn what_is_deleted_and_what_is_in_memory_may_be_two_keys_and_both_are_told() {
    let (store, kms) = ring(LONG).await;
    let sealed = generate(&kms, "client").await.unwrap();
    let first = fingerprint(&kms).await;
    make_anew_elsewhere(&store).await;
    kms.delete(&request("client"), &name()).await.unwrap();
    kms.create(&request("client"), &name()).await.unwrap();
    let told = why_not_authentic(&kms, &sealed.ciphertext).await;
    assert!(told.contains(&format!(", {first:?})")), "the deleted one, and {first:?} in {told}");
}

#[tokio::test]
async fn reads_are_bounded_in_all_and_for_each_client() {
    let (store, kms) = ring(LONG).await;
    store.block();
    let ask = |client: usize, keys: usize| {
        let kms = &kms;
        (0..keys).map(move |n| {
            let (kms, key) = (Arc::clone(kms), KeyName::new(format!("k-{client}-{n}")).unwrap());
            tokio::spawn(async move { kms.describe(&request(&format!("client {client}")), &key).await.err() })
        })
    };
    let mut requests: Vec<_> = ask(0, 100).collect();
    store.until_reads(16).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(store.reads(), 16, "one client has 16 reads in flight");
    requests.extend((1..10).flat_map(|client| ask(client, 100)));
    store.until_reads(64).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(store.reads(), 64, "all clients together have 64");
    store.release();
    for outcome in requests {
        assert_eq!(outcome.await.unwrap().map(|error| error.kind()), Some(ErrorKind::NotFound));
    }
    assert!(store.most_at_once.load(Ordering::Relaxed) <= 64);
}

#[tokio::test]
async fn a_slow_store_holds_up_no_cached_key() {
    let (store, kms) = ring(LONG).await;
    generate(&kms, "client").await.unwrap();
    store.block();
    let waiting: Vec<_> = (0..200)
        .map(|n| {
            let kms = Arc::clone(&kms);
            tokio::spawn(async move {
                kms.describe(&request("client"), &KeyName::new(format!("k{n}")).unwrap()).await
            })
        })
        .collect();
    store.until_reads(17).await;
    let request = tokio::time::timeout(Duration::from_millis(100), generate(&kms, "client"));
    request.await.expect("a cached key waited for the store").unwrap();
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    store.release();
}

#[tokio::test]
async fn a_request_ends_at_its_deadline() {
    let (store, kms) = ring(LONG).await;
    store.block();
    let request = Request::new(Identity::of_public_key(b"client"), Duration::from_millis(100));
    let began = Instant::now();
    let outcome = kms.generate(&request, &name(), b"").await;
    assert_eq!(outcome.err().map(|e| e.kind()), Some(ErrorKind::Timeout));
    assert!(began.elapsed() < SECOND);
    store.release();
}

#[tokio::test]
async fn offline_keys_outlast_an_idle_night_and_an_outage() {
    let short = Duration::from_millis(100);
    let config = CacheConfig { any: short, unused: short, offline: Duration::from_secs(600), ..LONG };
    let (store, kms) = ring(config).await;
    generate(&kms, "client").await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    for outage in [ErrorKind::Unreachable, ErrorKind::Sealed, ErrorKind::Throttled, ErrorKind::Timeout] {
        store.fail(outage);
        tokio::time::sleep(Duration::from_millis(150)).await;
        generate(&kms, "client").await.unwrap_or_else(|error| panic!("{outage:?}: {error:?}"));
        let status = kms.status().await.expect("the service goes on");
        assert!(!status.reachable && status.degraded.is_some(), "{status:?}");
        let uncached = kms.generate(&request("client"), &KeyName::new("uncached").unwrap(), b"").await;
        assert_eq!(uncached.err().map(|e| e.kind()), Some(outage), "a key that was never read is not there");
        store.heal();
        until(|| async { kms.status().await.is_ok_and(|status| status.reachable) }).await;
    }
}

#[tokio::test]
async fn in_an_outage_only_the_first_request_waits_and_not_for_long() {
    let short = Duration::from_millis(100);
    let config = CacheConfig { any: short, unused: short, offline: Duration::from_secs(600), ..LONG };
    let (store, kms) = ring(config).await;
    generate(&kms, "client").await.unwrap();
    tokio::time::sleep(short * 2).await;
    store.block();
    let began = Instant::now();
    generate(&kms, "client").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(1500), "the first waited {:?}", began.elapsed());
    let began = Instant::now();
    for _ in 0..10 {
        generate(&kms, "client").await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_millis(500), "ten more waited {:?}", began.elapsed());
    store.release();
}

#[tokio::test]
async fn an_answer_is_no_outage() {
    let short = Duration::from_millis(100);
    let config = CacheConfig { any: short, unused: short, offline: Duration::from_secs(600), ..LONG };
    for answer in [ErrorKind::NotFound, ErrorKind::Disabled, ErrorKind::Denied, ErrorKind::LoginRefused] {
        let (store, kms) = ring(config).await;
        generate(&kms, "client").await.unwrap();
        store.fail(answer);
        tokio::time::sleep(short * 2).await;
        assert_eq!(kind(generate(&kms, "client").await), Some(answer));
        store.fail(ErrorKind::Unreachable);
        let after = kind(generate(&kms, "client").await);
        assert_eq!(after, Some(ErrorKind::Unreachable), "after {answer:?} there is no offline copy");
    }
}

#[tokio::test]
async fn a_deleted_key_does_not_come_back_from_a_read_under_way() {
    let config = CacheConfig { any: Duration::from_millis(200), ..LONG };
    let (store, kms) = ring(config).await;
    generate(&kms, "client").await.unwrap();
    tokio::time::sleep(Duration::from_millis(250)).await;
    store.block_after_reading();
    let reading = tokio::spawn(generate(&kms, "client"));
    store.until_reads(2).await;
    // The read of the delete passes the one that hangs.
    store.let_later_ones_pass();
    kms.delete(&request("client"), &name()).await.unwrap();
    store.release();
    assert_eq!(
        kind(reading.await.unwrap()),
        Some(ErrorKind::NotFound),
        "it was deleted before this was answered"
    );
    assert_eq!(kind(generate(&kms, "client").await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn a_create_that_a_delete_overtakes_does_not_bring_the_key_back() {
    let (store, kms) = ring(LONG).await;
    let fresh = KeyName::new("fresh").unwrap();
    store.block_after_reading();
    let creating = {
        let (kms, fresh) = (Arc::clone(&kms), fresh.clone());
        tokio::spawn(async move { kms.create(&request("client"), &fresh).await })
    };
    // It was written, and what was read back is on its way.
    store.until_reads(1).await;
    store.let_later_ones_pass();
    kms.delete(&request("client"), &fresh).await.unwrap();
    store.release();
    creating.await.unwrap().unwrap();
    let sealed = kms.generate(&request("client"), &fresh, b"").await;
    assert_eq!(kind(sealed.map(drop)), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn a_create_of_unknown_outcome_is_read_back_and_never_sent_again() {
    let (store, kms) = ring(LONG).await;
    let fresh = KeyName::new("fresh").unwrap();
    store.creates_that_write_and_fail.store(1, Ordering::Relaxed);
    kms.create(&request("client"), &fresh).await.expect("the record is there, whatever the store said");
    kms.generate(&request("client"), &fresh, b"").await.unwrap();

    let lost = KeyName::new("lost").unwrap();
    store.creates_that_fail.store(1, Ordering::Relaxed);
    let outcome = kms.create(&request("client"), &lost).await;
    assert_eq!(outcome.err().map(|e| e.kind()), Some(ErrorKind::Unreachable));
    assert_eq!(store.created.lock().unwrap().len(), 1, "nothing was sent twice");
}

#[tokio::test]
async fn a_record_that_differs_from_what_was_written_is_no_success() {
    let (store, kms) = ring(LONG).await;
    let stolen = KeyName::new("stolen").unwrap();
    *store.replaces.lock().unwrap() = Some(EntryName::from(&stolen));
    let outcome = kms.create(&request("client"), &stolen).await;
    assert_eq!(outcome.err().map(|e| e.kind()), Some(ErrorKind::AlreadyExists));
}

/// A memory store that does as it is told.
struct Scripted {
    inner: MemoryStore,
    failure: Mutex<Option<ErrorKind>>,
    gate: Semaphore,
    blocked: Mutex<Block>,
    reads: AtomicU64,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    created: Mutex<BTreeSet<EntryName>>,
    creates_that_fail: AtomicUsize,
    creates_that_write_and_fail: AtomicUsize,
    /// After a create of this entry another record stands there.
    replaces: Mutex<Option<EntryName>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Block {
    No,
    BeforeReading,
    AfterReading,
}

impl Scripted {
    fn fail(&self, kind: ErrorKind) {
        *self.failure.lock().unwrap() = Some(kind);
    }

    fn heal(&self) {
        *self.failure.lock().unwrap() = None;
    }

    fn block(&self) {
        *self.blocked.lock().unwrap() = Block::BeforeReading;
    }

    fn block_after_reading(&self) {
        *self.blocked.lock().unwrap() = Block::AfterReading;
    }

    /// Leaves what hangs where it is.
    fn let_later_ones_pass(&self) {
        *self.blocked.lock().unwrap() = Block::No;
    }

    fn release(&self) {
        *self.blocked.lock().unwrap() = Block::No;
        self.gate.add_permits(100_000);
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    async fn until_reads(&self, count: u64) {
        until(|| async { self.reads() >= count }).await;
    }

    async fn put(&self, name: &KeyName) -> SecretKey {
        let key = SecretKey::random().unwrap();
        let copy = SecretKey::from_slice(key.expose()).unwrap();
        let record = KeyRecord::new(key, Cipher::Aes256, "another server").unwrap();
        self.inner.create(&EntryName::from(name), &record.encode()).await.unwrap();
        copy
    }

    fn outcome(&self) -> Result<()> {
        match *self.failure.lock().unwrap() {
            Some(kind) => Err(Error::new(kind, "do as told")),
            None => Ok(()),
        }
    }

    async fn wait(&self, when: Block) {
        let blocked = *self.blocked.lock().unwrap();
        if blocked == when {
            self.gate.acquire().await.unwrap().forget();
        }
    }
}

#[async_trait]
impl KeyStore for Scripted {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("scripted")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        if take(&self.creates_that_fail) {
            return Err(Error::new(ErrorKind::Unreachable, "fail before writing"));
        }
        self.inner.create(name, record).await?;
        assert!(self.created.lock().unwrap().insert(name.clone()), "'{name}' was sent twice");
        let replaced = self.replaces.lock().unwrap().as_ref() == Some(name);
        if replaced {
            self.inner.delete(name).await?;
            self.inner.create(name, &SecretBytes::from(b"another record".as_slice())).await?;
        }
        if take(&self.creates_that_write_and_fail) {
            return Err(Error::new(ErrorKind::Timeout, "fail after writing"));
        }
        Ok(())
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        self.wait(Block::BeforeReading).await;
        let outcome = match self.outcome() {
            Ok(()) => self.inner.get(name).await,
            Err(error) => Err(error),
        };
        self.wait(Block::AfterReading).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        outcome
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.outcome()?;
        self.inner.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.outcome()?;
        self.inner.list(query).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.wait(Block::BeforeReading).await;
        self.outcome()?;
        self.inner.status().await
    }
}

fn take(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// Makes a ring over a scripted store that holds one key, which the ring has not read.
async fn ring(config: CacheConfig) -> (Arc<Scripted>, Arc<KeyRing<Arc<Scripted>>>) {
    let store = Arc::new(Scripted {
        inner: MemoryStore::new(),
        failure: Mutex::default(),
        gate: Semaphore::new(0),
        blocked: Mutex::new(Block::No),
        reads: AtomicU64::new(0),
        at_once: AtomicUsize::new(0),
        most_at_once: AtomicUsize::new(0),
        created: Mutex::default(),
        creates_that_fail: AtomicUsize::new(0),
        creates_that_write_and_fail: AtomicUsize::new(0),
        replaces: Mutex::default(),
    });
    store.put(&name()).await;
    (Arc::clone(&store), Arc::new(KeyRing::new(store, config)))
}

fn generate(
    kms: &Arc<KeyRing<Arc<Scripted>>>,
    client: &str,
) -> impl Future<Output = Result<kms_core::DataKey>> + Send + 'static {
    let (kms, request) = (Arc::clone(kms), request(client));
    async move { kms.generate(&request, &name(), b"").await }
}

async fn fingerprint(kms: &KeyRing<Arc<Scripted>>) -> Fingerprint {
    kms.describe(&request("client"), &name()).await.unwrap().fingerprint.unwrap()
}

async fn make_anew_elsewhere(store: &Scripted) {
    store.inner.delete(&EntryName::from(&name())).await.unwrap();
    store.put(&name()).await;
}

/// Lets a key go that is out of use after 200 ms.
async fn out_of_memory() {
    tokio::time::sleep(Duration::from_millis(600)).await;
}

/// Returns what the log tells of a ciphertext that is not authentic.
async fn why_not_authentic(kms: &KeyRing<Arc<Scripted>>, ciphertext: &[u8]) -> String {
    let error = kms.decrypt(&request("client"), &name(), ciphertext, b"").await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAuthentic, "{error:?}");
    error.chain().to_string()
}

/// Checks that the key of now is told, and all those before it, the latest first, as what may be.
fn assert_told(told: &str, now: Fingerprint, before: &[Fingerprint]) {
    for part in ["may have been sealed under a key that had this name before", &format!("now {now:?}")] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let before: Vec<_> = before.iter().map(|fingerprint| format!("{fingerprint:?}")).collect();
    assert!(told.contains(&before.join(", ")), "{before:?} in {told}");
    assert_eq!(told.matches(&format!("{now:?}")).count(), 1, "{told}");
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

async fn until<F: Future<Output = bool>>(mut reached: impl FnMut() -> F) {
    let began = Instant::now();
    while !reached().await {
        assert!(began.elapsed() < Duration::from_secs(10), "that did not happen within 10 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn name() -> KeyName {
    KeyName::new("my-key").unwrap()
}

fn request(client: &str) -> Request {
    Request::new(Identity::of_public_key(client.as_bytes()), Duration::from_secs(5))
}
