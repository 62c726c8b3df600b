//! Versions that are disabled, and brought back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore};
use kms_core::{CacheConfig, ErrorKind, KeyRing, Kms, Request};

use super::scripted::{LONG, Scripted, kind, name, request, ring};

type Ring = Arc<KeyRing<Arc<Scripted>>>;

const ANY: Duration = Duration::from_millis(150);
const SHORT: CacheConfig = LONG.with_any(ANY);

fn another(store: &Arc<Scripted>) -> Ring {
    Arc::new(KeyRing::new(Arc::clone(store), SHORT))
}

async fn seal(ring: &Ring) -> Vec<u8> {
    ring.encrypt(&request("client"), &name(), b"text", b"c").await.unwrap()
}

async fn open(ring: &Ring, ciphertext: &[u8]) -> kms_core::Result<SecretBytes> {
    ring.decrypt(&request("client"), &name(), ciphertext, b"c").await
}

async fn retire(ring: &Ring, version: u32) -> kms_core::Result<()> {
    ring.retire(&request("operator"), &name(), version).await
}

async fn marker(ring: &Ring, version: u32) -> EntryName {
    let first = ring.describe(&request("client"), &name()).await.unwrap().fingerprint.unwrap();
    EntryName::disabled(&name(), &first, version)
}

/// Makes versions up to `newest` that are old enough, and returns a ciphertext of each.
async fn rotated(newest: u32) -> (Arc<Scripted>, Ring, Vec<Vec<u8>>) {
    let (store, ring) = ring(SHORT).await;
    let mut sealed = vec![seal(&ring).await];
    for _ in 2..=newest {
        ring.rotate(&request("operator"), &name(), None).await.unwrap();
        tokio::time::sleep(ANY + Duration::from_millis(30)).await;
        sealed.push(seal(&ring).await);
    }
    tokio::time::sleep(ANY).await;
    (store, ring, sealed)
}

#[tokio::test]
async fn a_disabled_version_opens_nothing_on_any_server_until_it_is_enabled() {
    let (store, one, sealed) = rotated(3).await;
    let other = another(&store);
    for ciphertext in &sealed {
        assert_eq!(open(&other, ciphertext).await.unwrap().expose(), b"text");
    }
    for version in [1, 2] {
        let ciphertext = &sealed[version as usize - 1];
        retire(&one, version).await.unwrap();
        retire(&one, version).await.expect("it is so already");
        let refused = open(&one, ciphertext).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        let why = format!("'kms key enable my-key --version {version}' brings it back");
        assert!(refused.chain().to_string().contains(&why), "{}", refused.chain());
        tokio::time::sleep(ANY).await;
        for ring in [&one, &other, &another(&store)] {
            assert_eq!(kind(open(ring, ciphertext).await), Some(ErrorKind::Conflict), "{version}");
            assert_eq!(open(ring, &sealed[2]).await.unwrap().expose(), b"text", "the newest opens");
            let disabled: Vec<u32> = ring
                .versions(&request("operator"), &name())
                .await
                .unwrap()
                .iter()
                .filter(|info| info.is_disabled)
                .map(|info| info.version)
                .collect();
            assert_eq!(disabled, [version]);
        }
        one.enable(&request("operator"), &name(), version).await.unwrap();
        one.enable(&request("operator"), &name(), version).await.expect("it is so already");
        assert_eq!(open(&one, ciphertext).await.unwrap().expose(), b"text");
        tokio::time::sleep(ANY).await;
        assert_eq!(open(&other, ciphertext).await.unwrap().expose(), b"text");
    }
    let rewrapped = one.rewrap(&request("client"), &name(), &sealed[0], b"c").await.unwrap();
    assert_eq!(open(&one, &rewrapped).await.unwrap().expose(), b"text");
}

#[tokio::test]
async fn what_may_seal_is_not_disabled() {
    let (_, ring, _) = rotated(2).await;
    for (version, why) in
        [(0, "has no version 0"), (3, "has no version 3"), (2, "is the newest that can seal")]
    {
        let refused = retire(&ring, version).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert!(refused.chain().to_string().contains(why), "{}", refused.chain());
    }
    ring.rotate(&request("operator"), &name(), None).await.unwrap();
    let refused = retire(&ring, 2).await.unwrap_err();
    assert!(refused.chain().to_string().contains("may still seal"), "{}", refused.chain());
    retire(&ring, 1).await.expect("version 2 has sealed for long");
    tokio::time::sleep(ANY * 2 + Duration::from_millis(20)).await;
    retire(&ring, 2).await.expect("version 3 seals on every server");
    let absent = kms_core::KeyName::new("absent").unwrap();
    assert_eq!(kind(ring.retire(&request("operator"), &absent, 1).await), Some(ErrorKind::NotFound));
    assert_eq!(kind(ring.enable(&request("operator"), &absent, 1).await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn a_marker_that_somebody_planted_has_no_effect_and_makes_room() {
    let (store, ring, sealed) = rotated(2).await;
    let entry = marker(&ring, 1).await;
    store.inner.create(&entry, &SecretBytes::from(b"planted".as_slice())).await.unwrap();
    tokio::time::sleep(ANY).await;
    for ring in [&ring, &another(&store)] {
        assert_eq!(open(ring, &sealed[0]).await.unwrap().expose(), b"text");
    }
    retire(&ring, 1).await.unwrap();
    assert_eq!(kind(open(&another(&store), &sealed[0]).await), Some(ErrorKind::Conflict));
    ring.enable(&request("operator"), &name(), 1).await.unwrap();
    assert_eq!(kind(store.get(&entry).await), Some(ErrorKind::NotFound), "nothing is left");
}

#[tokio::test]
async fn without_an_answer_about_a_marker_what_was_read_last_counts() {
    let (store, one, sealed) = rotated(2).await;
    let (fresh, disabled) = (another(&store), another(&store));
    // The key and its versions are in memory; whether version 1 is disabled is not known to this server.
    seal(&fresh).await;
    assert_eq!(open(&one, &sealed[0]).await.unwrap().expose(), b"text");
    retire(&one, 1).await.unwrap();
    assert_eq!(kind(open(&disabled, &sealed[0]).await), Some(ErrorKind::Conflict));
    store.fail(ErrorKind::Unreachable);
    let quick = Request::new(request("client").identity, Duration::from_millis(80));
    let unknown = fresh.decrypt(&quick, &name(), &sealed[0], b"c").await;
    assert_eq!(kind(unknown), Some(ErrorKind::Unreachable), "it may be disabled");
    assert_eq!(kind(open(&disabled, &sealed[0]).await), Some(ErrorKind::Conflict));
    store.heal();
}

#[tokio::test]
async fn a_store_that_denies_markers_serves_all_versions() {
    let (store, one, sealed) = rotated(2).await;
    store.denies_markers.store(true, Ordering::Relaxed);
    let other = another(&store);
    for ciphertext in &sealed {
        assert_eq!(open(&other, ciphertext).await.unwrap().expose(), b"text");
    }
    assert_eq!(kind(retire(&one, 1).await), Some(ErrorKind::Unsupported));
    assert_eq!(kind(one.enable(&request("operator"), &name(), 1).await), Some(ErrorKind::Unsupported));
}

#[tokio::test]
async fn no_disabled_version_seals_when_a_newer_one_is_damaged() {
    let (store, one, _) = rotated(3).await;
    retire(&one, 2).await.unwrap();
    let first = one.describe(&request("client"), &name()).await.unwrap().fingerprint.unwrap();
    let newest = EntryName::version(&name(), &first, 3);
    store.inner.delete(&newest).await.unwrap();
    store.inner.create(&newest, &SecretBytes::from(b"damaged".as_slice())).await.unwrap();
    let sealed = seal(&another(&store)).await;
    assert!(!sealed.starts_with(b"kms\x01"), "version 1 seals");
    one.delete(&request("operator"), &name()).await.unwrap();
    assert_eq!(kind(store.get(&newest).await), Some(ErrorKind::NotFound), "a deleted key leaves no version");
    let marker = EntryName::disabled(&name(), &first, 2);
    assert_eq!(kind(store.get(&marker).await), Some(ErrorKind::NotFound), "and no marker");
}

#[tokio::test]
async fn the_use_of_each_version_is_counted() {
    let (store, one, sealed) = rotated(2).await;
    let before = one.versions(&request("operator"), &name()).await.unwrap();
    for (version, times) in [(0, 3), (1, 5)] {
        for _ in 0..times {
            open(&one, &sealed[version]).await.unwrap();
        }
    }
    seal(&one).await;
    let after = one.versions(&request("operator"), &name()).await.unwrap();
    let grown = |version: usize| {
        let (before, after) = (before[version].used.unwrap(), after[version].used.unwrap());
        assert!(after.last_opened.is_some() && after.since <= after.last_opened.unwrap());
        (after.opened - before.opened, after.sealed - before.sealed)
    };
    assert_eq!((grown(0), grown(1)), ((3, 0), (5, 1)));
    let all = one.version_uses();
    assert_eq!(all.iter().map(|(_, version, _)| *version).collect::<Vec<_>>(), [1, 2]);
    let others = another(&store).versions(&request("operator"), &name()).await.unwrap();
    assert_eq!(others[0].used.unwrap().opened, 0, "each server counts for itself");
    assert!(others[0].used.unwrap().last_opened.is_none());
}
