//! Keys with several versions, on several servers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kms_core::primitives::{Cipher, Fingerprint, SecretBytes, SecretKey};
use kms_core::store::{EntryName, KeyStore};
use kms_core::{CacheConfig, ErrorKind, ImportedKey, KeyName, KeyRing, Kms};

use super::scripted::{LONG, Scripted, kind, name, request, ring};

pub type Ring = Arc<KeyRing<Arc<Scripted>>>;

/// A new version seals at once.
pub const AT_ONCE: CacheConfig = LONG.with_any(Duration::ZERO);

pub fn another(store: &Arc<Scripted>, config: CacheConfig) -> Ring {
    Arc::new(KeyRing::new(Arc::clone(store), config))
}

pub async fn seal(ring: &Ring) -> Vec<u8> {
    ring.encrypt(&request("client"), &name(), b"text", b"context").await.unwrap()
}

pub async fn open(ring: &Ring, ciphertext: &[u8]) -> kms_core::Result<SecretBytes> {
    ring.decrypt(&request("client"), &name(), ciphertext, b"context").await
}

pub async fn assert_opens(ring: &Ring, ciphertext: &[u8], what: &str) {
    assert_eq!(open(ring, ciphertext).await.expect(what).expose(), b"text", "{what}");
}

pub async fn rotate(ring: &Ring) -> u32 {
    ring.rotate(&request("operator"), &name(), None).await.unwrap().version.unwrap()
}

pub async fn first(ring: &Ring) -> Fingerprint {
    ring.describe(&request("client"), &name()).await.unwrap().fingerprint.unwrap()
}

/// Uses a key for some time, so that it stays in memory.
pub async fn use_for(ring: &Ring, time: Duration) {
    let began = std::time::Instant::now();
    while began.elapsed() < time {
        seal(ring).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns the version that a ciphertext names, 1 for those without a header.
pub fn version_of(ciphertext: &[u8]) -> u32 {
    match ciphertext.strip_prefix(b"kms\x01\x01") {
        Some(rest) => u32::from_be_bytes(rest[16..20].try_into().unwrap()),
        None => 1,
    }
}

#[tokio::test]
async fn all_versions_open_and_the_newest_seals_once_every_server_has_it() {
    let config = LONG.with_any(Duration::from_millis(600));
    let (store, one) = ring(config).await;
    let other = another(&store, config);
    let old = seal(&one).await;
    assert_opens(&other, &old, "the other server reads the key").await;
    let rotation = one.rotate(&request("operator"), &name(), None).await.unwrap();
    assert_eq!((rotation.version, rotation.seals_after), (Some(2), config.any));
    for ring in [&one, &other] {
        assert_eq!(version_of(&seal(ring).await), 1, "the new version does not seal yet");
    }
    tokio::time::sleep(config.any + Duration::from_millis(50)).await;
    for ring in [&one, &other] {
        let new = seal(ring).await;
        assert_eq!(version_of(&new), 2);
        for opens in [&one, &other, &another(&store, config)] {
            assert_opens(opens, &new, "what is sealed now").await;
            assert_opens(opens, &old, "what was sealed before").await;
        }
    }
}

#[tokio::test]
async fn a_version_that_a_server_has_not_seen_opens_at_once() {
    let (store, one) = ring(AT_ONCE).await;
    let slow = another(&store, LONG);
    seal(&slow).await;
    for version in 2..=9 {
        assert_eq!(rotate(&one).await, version);
        if version % 3 == 0 {
            let sealed = seal(&one).await;
            assert_eq!(version_of(&sealed), version);
            assert_opens(&slow, &sealed, "a version made meanwhile").await;
        }
    }
    assert_eq!(version_of(&seal(&slow).await), 1, "its own time is not over");
}

#[tokio::test]
async fn many_versions_are_found_by_few_reads() {
    let (store, one) = ring(AT_ONCE).await;
    let mut sealed = vec![seal(&one).await];
    for _ in 2..=40 {
        rotate(&one).await;
        sealed.push(seal(&one).await);
    }
    let before = store.hidden_reads();
    let other =
        another(&store, AT_ONCE.with_any(Duration::from_secs(60)).with_unused(Duration::from_secs(60)));
    seal(&other).await;
    let reads = store.hidden_reads() - before;
    assert!((2..=40 + 14).contains(&reads), "{reads} reads");
    for (n, ciphertext) in sealed.iter().enumerate() {
        assert_eq!(usize::try_from(version_of(ciphertext)).unwrap(), n + 1);
        assert_opens(&other, ciphertext, "a version").await;
    }
    let versions = other.versions(&request("operator"), &name()).await.unwrap();
    assert_eq!(versions.iter().map(|info| info.version).collect::<Vec<_>>(), (1..=40).collect::<Vec<_>>());
    let fingerprints: BTreeSet<_> = versions.iter().map(|info| format!("{:?}", info.fingerprint)).collect();
    assert_eq!(fingerprints.len(), 40, "each is another key");
}

#[tokio::test]
async fn rotations_at_once_make_versions_without_a_gap() {
    let (store, one) = ring(AT_ONCE).await;
    let other = another(&store, AT_ONCE);
    let tasks: Vec<_> = (0..6)
        .map(|n| {
            let ring = Arc::clone(if n % 2 == 0 { &one } else { &other });
            tokio::spawn(async move { rotate(&ring).await })
        })
        .collect();
    let mut made = BTreeSet::new();
    for task in tasks {
        assert!(made.insert(task.await.unwrap()), "no version is told twice");
    }
    assert_eq!(made, (2..=7).collect());
    let tasks: Vec<_> = [&one, &other, &one, &other]
        .map(|ring| {
            let ring = Arc::clone(ring);
            tokio::spawn(async move { ring.rotate(&request("operator"), &name(), Some(7)).await })
        })
        .into();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(rotation) => made += rotation.version.unwrap(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
        }
    }
    assert_eq!(made, 8, "one of them made a version");
}

#[tokio::test]
async fn hmacs_stay_those_of_the_first_version() {
    let (store, ring) = ring(AT_ONCE).await;
    let before = ring.hmac(&request("client"), &name(), b"text").await.unwrap();
    rotate(&ring).await;
    assert_eq!(ring.hmac(&request("client"), &name(), b"text").await.unwrap(), before);
    assert_eq!(another(&store, LONG).hmac(&request("client"), &name(), b"text").await.unwrap(), before);
}

#[tokio::test]
async fn the_same_bytes_under_two_names_share_no_version() {
    let (store, ring) = ring(AT_ONCE).await;
    let names = ["one", "other"].map(|name| KeyName::new(name).unwrap());
    let mut sealed = Vec::new();
    for name in &names {
        let key = ImportedKey::new(SecretKey::take(&mut [7; 32]), Cipher::Aes256);
        ring.import(&request("operator"), name, key).await.unwrap();
        assert_eq!(ring.rotate(&request("operator"), name, None).await.unwrap().version, Some(2));
        sealed.push(ring.encrypt(&request("client"), name, b"text", b"").await.unwrap());
    }
    assert!(ring.decrypt(&request("client"), &names[1], &sealed[0], b"").await.is_err(), "another's version");
    ring.delete(&request("operator"), &names[0]).await.unwrap();
    let fingerprint = ring.describe(&request("client"), &names[1]).await.unwrap().fingerprint.unwrap();
    let slots = names.each_ref().map(|name| EntryName::version(name, &fingerprint, 2));
    assert_eq!(
        kind(store.get(&slots[0]).await),
        Some(ErrorKind::NotFound),
        "a deleted key leaves no version"
    );
    assert!(store.get(&slots[1]).await.is_ok());
    let opened = ring.decrypt(&request("client"), &names[1], &sealed[1], b"").await.unwrap();
    assert_eq!(opened.expose(), b"text");
}

#[tokio::test]
async fn a_version_that_somebody_planted_has_no_effect_and_is_told() {
    let (store, ring) = ring(AT_ONCE).await;
    let first = first(&ring).await;
    let slot = EntryName::version(&name(), &first, 2);
    // What an attacker has: a version of a key of his own.
    let foreign = KeyName::new("foreign").unwrap();
    ring.create(&request("attacker"), &foreign).await.unwrap();
    ring.rotate(&request("attacker"), &foreign, None).await.unwrap();
    let foreign_key = ring.describe(&request("attacker"), &foreign).await.unwrap().fingerprint.unwrap();
    let stolen = store.get(&EntryName::version(&foreign, &foreign_key, 2)).await.unwrap();
    for planted in [stolen, SecretBytes::from(b"anything".as_slice())] {
        store.inner.create(&slot, &planted).await.unwrap();
        assert_eq!(version_of(&seal(&ring).await), 1, "nothing is sealed under it");
        let named = [b"kms\x01\x01".as_slice(), first.as_bytes(), &2_u32.to_be_bytes(), &[0; 60]].concat();
        assert_eq!(kind(open(&ring, &named).await), Some(ErrorKind::Corrupt));
        let refused = ring.rotate(&request("operator"), &name(), None).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        assert!(
            refused.chain().to_string().contains(slot.as_str()),
            "it names the entry: {}",
            refused.chain()
        );
        store.inner.delete(&slot).await.unwrap();
    }
    assert_eq!(rotate(&ring).await, 2, "what was planted is gone");
    assert_eq!(version_of(&seal(&ring).await), 2);
}

#[tokio::test]
async fn a_version_that_is_damaged_or_gone_is_never_not_authentic() {
    let (store, one) = ring(AT_ONCE).await;
    let mut sealed = Vec::new();
    for _ in 0..3 {
        rotate(&one).await;
        sealed.push(seal(&one).await);
    }
    let slot = EntryName::version(&name(), &first(&one).await, 3);
    let record = store.get(&slot).await.unwrap();
    store.inner.delete(&slot).await.unwrap();
    let other = another(&store, LONG);
    assert_opens(&other, &sealed[0], "version 2").await;
    assert_eq!(kind(open(&other, &sealed[1]).await), Some(ErrorKind::Corrupt), "version 3 is missing");
    assert_opens(&other, &sealed[2], "version 4").await;
    store.inner.create(&slot, &record).await.unwrap();
    // That it could not be read is remembered for a moment.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_opens(&other, &sealed[1], "it was put back").await;

    let newest = EntryName::version(&name(), &first(&one).await, 4);
    let record = store.get(&newest).await.unwrap();
    store.inner.delete(&newest).await.unwrap();
    store.inner.create(&newest, &SecretBytes::from(b"damaged".as_slice())).await.unwrap();
    let third = another(&store, AT_ONCE);
    assert_eq!(version_of(&seal(&third).await), 3, "the newest that can be read");
    assert_eq!(kind(open(&third, &sealed[2]).await), Some(ErrorKind::Corrupt));
    store.inner.delete(&newest).await.unwrap();
    store.inner.create(&newest, &record).await.unwrap();
    assert_eq!(version_of(&seal(&third).await), 4, "it was mended");
}

#[tokio::test]
async fn a_store_that_denies_versions_keeps_the_first_and_hides_no_later_one() {
    let (store, ring) = ring(AT_ONCE).await;
    store.denies_hidden.store(true, Ordering::Relaxed);
    assert_eq!(version_of(&seal(&ring).await), 1);
    assert_eq!(kind(ring.rotate(&request("operator"), &name(), None).await), Some(ErrorKind::Unsupported));
    store.denies_hidden.store(false, Ordering::Relaxed);
    rotate(&ring).await;
    let sealed = seal(&ring).await;
    assert_eq!(version_of(&sealed), 2);
    store.denies_hidden.store(true, Ordering::Relaxed);
    let refused = ring.encrypt(&request("client"), &name(), b"text", b"context").await;
    assert_eq!(kind(refused), Some(ErrorKind::Denied), "a newer version may be there");
    assert_opens(&ring, &sealed, "what is in memory").await;
    let other = another(&store, AT_ONCE);
    assert_eq!(version_of(&seal(&other).await), 1, "this server has seen no other");
    assert_eq!(kind(open(&other, &sealed).await), Some(ErrorKind::Denied), "never not authentic");
    store.denies_hidden.store(false, Ordering::Relaxed);
    assert_eq!(version_of(&seal(&ring).await), 2);
    assert_opens(&other, &sealed, "the path is shown again").await;
}

#[tokio::test]
async fn nothing_is_sealed_under_a_version_that_is_gone_from_the_store() {
    let config = LONG.with_any(Duration::from_millis(200));
    let (store, ring) = ring(config).await;
    for _ in 0..2 {
        rotate(&ring).await;
        use_for(&ring, config.any * 2).await;
    }
    let sealed = seal(&ring).await;
    assert_eq!(version_of(&sealed), 3);
    let slot = EntryName::version(&name(), &first(&ring).await, 3);
    let record = store.get(&slot).await.unwrap();
    store.inner.delete(&slot).await.unwrap();
    use_for(&ring, config.any * 2).await;
    let after = seal(&ring).await;
    assert_eq!(version_of(&after), 2, "no other server could open more of it");
    assert_opens(&another(&store, config), &after, "another server").await;
    assert_opens(&ring, &sealed, "the copy in memory").await;
    let refused = ring.rotate(&request("operator"), &name(), None).await;
    assert_eq!(kind(refused), Some(ErrorKind::Corrupt), "version 3 is not made anew");
    use_for(&ring, config.any * 2).await;
    assert_opens(&ring, &sealed, "the copy in memory, later").await;
    store.inner.create(&slot, &record).await.unwrap();
    use_for(&ring, config.any * 2).await;
    assert_eq!(version_of(&seal(&ring).await), 3, "it was restored");
}

#[tokio::test]
async fn no_bit_of_a_later_version_s_ciphertext_can_be_changed() {
    let (_, ring) = ring(LONG.with_any(Duration::from_millis(1)).with_unused(Duration::from_secs(60))).await;
    for _ in 0..2 {
        rotate(&ring).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let sealed = seal(&ring).await;
    assert_eq!(version_of(&sealed), 3);
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1 << (at % 8);
        // Each failure reads the key anew, of which there are few a second.
        let request = kms_core::Request::new(request("client").identity, Duration::from_secs(60));
        let outcome = ring.decrypt(&request, &name(), &changed, b"context").await;
        assert_eq!(kind(outcome), Some(ErrorKind::NotAuthentic), "byte {at}");
    }
}

#[tokio::test]
async fn random_headers_cost_few_reads() {
    let (store, ring) = ring(LONG).await;
    rotate(&ring).await;
    let first = first(&ring).await;
    let (keys, versions) = (store.reads(), store.hidden_reads());
    let began = std::time::Instant::now();
    let tasks: Vec<_> = (0..100_000_u32)
        .map(|n| {
            let number = if n % 2 == 0 { n % 2000 } else { n.wrapping_mul(10_000_019) };
            let header =
                [b"kms\x01\x01".as_slice(), first.as_bytes(), &number.to_be_bytes(), &[0; 60]].concat();
            let ring = Arc::clone(&ring);
            // A hundred thousand at once take their time on a slow machine.
            let request = kms_core::Request::new(request("client").identity, Duration::from_secs(60));
            tokio::spawn(async move { kind(ring.decrypt(&request, &name(), &header, b"context").await) })
        })
        .collect();
    for task in tasks {
        let outcome = task.await.unwrap();
        assert!(matches!(outcome, Some(ErrorKind::NotAuthentic | ErrorKind::Throttled)), "{outcome:?}");
    }
    let most = 12 * (1 + began.elapsed().as_secs());
    assert!(store.reads() - keys <= most, "{} reads of the key", store.reads() - keys);
    // Each key read looks for the next version, and each lookup reads the version and the one behind it.
    assert!(
        store.hidden_reads() - versions <= most * 3,
        "{} reads of versions",
        store.hidden_reads() - versions
    );
}

#[tokio::test]
async fn a_rewrapped_ciphertext_is_of_the_version_that_seals() {
    let (_, ring) = ring(AT_ONCE).await;
    let old = seal(&ring).await;
    rotate(&ring).await;
    let new = ring.rewrap(&request("client"), &name(), &old, b"context").await.unwrap();
    assert_eq!(version_of(&new), 2);
    assert_opens(&ring, &new, "the rewrapped one").await;
    let other_context = ring.rewrap(&request("client"), &name(), &old, b"other").await;
    assert_eq!(kind(other_context), Some(ErrorKind::NotAuthentic));
}
