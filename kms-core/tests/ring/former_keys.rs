//! Former keys of a name, as an explanation of ciphertexts that are not authentic.

use std::sync::Arc;
use std::time::Duration;

use kms_core::primitives::Fingerprint;
use kms_core::store::{EntryName, KeyStore};
use kms_core::{ErrorKind, KeyRing, Kms};

use super::scripted::{LONG, Scripted, generate, name, request, ring};

#[tokio::test]
async fn a_key_made_anew_under_an_old_name_may_explain_what_is_not_authentic() {
    // Once by this server, and once by another.
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
            // The old key is in memory until a request needs the new one.
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
    let config = LONG.with_unused(Duration::from_millis(200));
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
    let config = LONG.with_unused(Duration::from_millis(200));
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
    // The second key is in memory until a request needs the first.
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

async fn fingerprint(kms: &KeyRing<Arc<Scripted>>) -> Fingerprint {
    kms.describe(&request("client"), &name()).await.unwrap().fingerprint.unwrap()
}

async fn make_anew_elsewhere(store: &Scripted) {
    store.inner.delete(&EntryName::from(&name())).await.unwrap();
    store.put(&name()).await;
}

/// Waits until a key has left memory that is unused for 200 ms.
async fn out_of_memory() {
    tokio::time::sleep(Duration::from_millis(600)).await;
}

/// Returns the text that the log has for a ciphertext that is not authentic.
async fn why_not_authentic(kms: &KeyRing<Arc<Scripted>>, ciphertext: &[u8]) -> String {
    let error = kms.decrypt(&request("client"), &name(), ciphertext, b"").await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAuthentic, "{error:?}");
    error.chain().to_string()
}

/// Asserts that the text names the current key once, and all former keys, the latest first.
fn assert_told(told: &str, now: Fingerprint, before: &[Fingerprint]) {
    for part in ["may have been sealed under a key that had this name before", &format!("now {now:?}")] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let before: Vec<_> = before.iter().map(|fingerprint| format!("{fingerprint:?}")).collect();
    assert!(told.contains(&before.join(", ")), "{before:?} in {told}");
    assert_eq!(told.matches(&format!("{now:?}")).count(), 1, "{told}");
}
