//! Versions that are gone, replaced, hidden or planted: nothing is sealed that others cannot open, and no answer claims to
//! know what is not known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_core::primitives::{Cipher, Fingerprint, SecretBytes, SecretKey};
use kms_core::store::{EntryName, KeyStore};
use kms_core::{CacheConfig, ErrorKind, ImportedKey, KeyName, Kms};

use super::scripted::{LONG, kind, name, request, ring};
use super::versions::{AT_ONCE, Ring, another, assert_opens, first, open, rotate, seal, use_for, version_of};

const ANY: Duration = Duration::from_millis(250);

async fn import(ring: &Ring) {
    let key = ImportedKey::new(SecretKey::take(&mut [7; 32]), Cipher::Aes256);
    ring.import(&request("operator"), &name(), key).await.unwrap();
}

fn slot(first: &Fingerprint, version: u32) -> EntryName {
    EntryName::version(&name(), first, version)
}

#[tokio::test]
async fn a_version_that_was_made_anew_elsewhere_takes_the_place_of_the_one_in_memory() {
    let config = LONG.with_any(ANY);
    let (store, b) = ring(config).await;
    let a = another(&store, config);
    for _ in 0..2 {
        b.delete(&request("operator"), &name()).await.unwrap();
        store.created.lock().unwrap().clear();
        import(&b).await;
        rotate(&b).await;
        use_for(&a, ANY * 4).await;
    }
    let sealed = seal(&a).await;
    assert_eq!(version_of(&sealed), 2);
    let fresh = another(&store, config);
    assert_opens(&b, &sealed, "the server that made it").await;
    assert_opens(&fresh, &sealed, "a fresh server").await;
    fresh.rotate(&request("operator"), &name(), Some(2)).await.unwrap();
    tokio::time::sleep(ANY * 2).await;
    assert_opens(&a, &seal(&fresh).await, "what the others seal").await;
}

#[tokio::test]
async fn nothing_is_sealed_under_any_version_that_is_gone() {
    let config = LONG.with_any(ANY);
    let (store, ring) = ring(config).await;
    for _ in 0..2 {
        rotate(&ring).await;
        use_for(&ring, ANY * 2).await;
    }
    assert_eq!(version_of(&seal(&ring).await), 3);
    let first = first(&ring).await;
    for version in [2, 3] {
        store.inner.delete(&slot(&first, version)).await.unwrap();
    }
    use_for(&ring, ANY * 3).await;
    let sealed = seal(&ring).await;
    assert_eq!(version_of(&sealed), 1);
    assert_opens(&another(&store, config), &sealed, "a fresh server").await;
}

#[tokio::test]
async fn a_lost_version_hides_no_other_and_is_not_made_anew() {
    let (store, one) = ring(AT_ONCE).await;
    let mut sealed = vec![seal(&one).await];
    for _ in 0..3 {
        rotate(&one).await;
        sealed.push(seal(&one).await);
    }
    let first = first(&one).await;
    let record = store.get(&slot(&first, 2)).await.unwrap();
    store.inner.delete(&slot(&first, 2)).await.unwrap();
    let fresh = another(&store, AT_ONCE);
    for version in [1, 3, 4] {
        assert_opens(&fresh, &sealed[version - 1], "a version that is there").await;
    }
    assert_eq!(kind(open(&fresh, &sealed[1]).await), Some(ErrorKind::Corrupt), "version 2 is lost");
    let refused = fresh.rotate(&request("operator"), &name(), None).await;
    assert_eq!(kind(refused), Some(ErrorKind::Corrupt));
    assert_eq!(fresh.check_all().await.unwrap().unusable.len(), 1);
    store.inner.create(&slot(&first, 2), &record).await.unwrap();
    for ciphertext in &sealed {
        assert_opens(&another(&store, AT_ONCE), ciphertext, "it was restored").await;
    }
}

#[tokio::test]
async fn a_version_that_was_deleted_in_the_backend_is_named() {
    let (store, ring) = ring(AT_ONCE).await;
    let entry = slot(&first(&ring).await, 2);
    *store.soft_deleted.lock().unwrap() = Some(entry.clone());
    let refused = ring.rotate(&request("operator"), &name(), None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.chain().to_string().contains(entry.as_str()), "{}", refused.chain());
}

#[tokio::test]
async fn planted_entries_cost_few_reads() {
    let (store, ring) = ring(LONG).await;
    let first = first(&ring).await;
    let planted = SecretBytes::from(b"planted".as_slice());
    for version in 2..=1000 {
        store.inner.create(&slot(&first, version), &planted).await.unwrap();
    }
    let before = store.hidden_reads();
    let fresh = another(&store, LONG);
    assert_eq!(version_of(&seal(&fresh).await), 1);
    assert!(store.hidden_reads() - before <= 12, "{} reads", store.hidden_reads() - before);
    let before = store.hidden_reads();
    let named = [b"kms\x01\x01".as_slice(), first.as_bytes(), &3_u32.to_be_bytes(), &[0; 60]].concat();
    for _ in 0..200 {
        assert_eq!(kind(open(&fresh, &named).await), Some(ErrorKind::Corrupt));
    }
    assert!(store.hidden_reads() - before <= 3, "{} reads", store.hidden_reads() - before);
}

#[tokio::test]
async fn a_rotated_key_outlasts_an_outage_as_quickly_as_any_other() {
    let (store, ring) = ring(LONG.with_any(ANY).with_offline(Duration::from_secs(600))).await;
    rotate(&ring).await;
    let mut sealed = vec![seal(&ring).await];
    use_for(&ring, ANY * 2).await;
    sealed.push(seal(&ring).await);
    for ciphertext in &sealed {
        assert_opens(&ring, ciphertext, "before the outage").await;
    }
    store.block();
    tokio::time::sleep(ANY * 2).await;
    assert_opens(&ring, &sealed[0], "the first request waits a second").await;
    let began = Instant::now();
    for _ in 0..50 {
        for ciphertext in &sealed {
            assert_opens(&ring, ciphertext, "in the outage").await;
        }
        seal(&ring).await;
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    store.release();
}

#[tokio::test]
async fn whose_versions_are_denied_is_known_of_each_key() {
    let (store, one) = ring(AT_ONCE).await;
    let other = KeyName::new("other").unwrap();
    one.create(&request("client"), &other).await.unwrap();
    rotate(&one).await;
    let sealed = seal(&one).await;
    *store.denies_name.lock().unwrap() = Some(".v/my-key/".into());
    let fresh = another(&store, AT_ONCE);
    for _ in 0..5 {
        fresh.encrypt(&request("client"), &other, b"text", b"").await.unwrap();
        assert_eq!(kind(open(&fresh, &sealed).await), Some(ErrorKind::Denied));
    }
}

#[tokio::test]
async fn a_rotated_key_does_not_fall_back_when_its_versions_are_denied() {
    let config = LONG.with_any(Duration::from_millis(100)).with_unused(Duration::from_millis(200));
    let (store, ring) = ring(config).await;
    rotate(&ring).await;
    use_for(&ring, Duration::from_millis(300)).await;
    assert_eq!(version_of(&seal(&ring).await), 2);
    // The key leaves memory.
    tokio::time::sleep(Duration::from_millis(800)).await;
    *store.denies_name.lock().unwrap() = Some(".v/".into());
    let refused = ring.encrypt(&request("client"), &name(), b"text", b"c").await;
    assert_eq!(kind(refused), Some(ErrorKind::Denied), "a later version seals elsewhere");
}

#[tokio::test]
async fn a_key_that_is_deleted_while_it_is_rotated_leaves_no_version() {
    let (store, one) = ring(AT_ONCE).await;
    let other = another(&store, AT_ONCE);
    let entry = slot(&first(&one).await, 2);
    *store.before_create.lock().unwrap() = Some(entry.clone());
    let rotating = {
        let one = Arc::clone(&one);
        tokio::spawn(async move { one.rotate(&request("operator"), &name(), None).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    other.delete(&request("operator"), &name()).await.unwrap();
    store.go.add_permits(1);
    assert_eq!(kind(rotating.await.unwrap()), Some(ErrorKind::NotFound));
    assert_eq!(kind(store.get(&entry).await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn what_was_not_counted_is_not_called_unused() {
    let config: CacheConfig = LONG.with_any(Duration::from_millis(100));
    let (store, one) = ring(config).await;
    let counting = another(&store, config);
    rotate(&one).await;
    *store.denies_name.lock().unwrap() = Some(".v/".into());
    let sealed = seal(&counting).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    open(&counting, &sealed).await.unwrap();
    let used = jiff::Timestamp::now();
    *store.denies_name.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let versions = counting.versions(&request("operator"), &name()).await.unwrap();
    assert!(versions[0].used.unwrap().since > used, "it was used and not counted");
}
